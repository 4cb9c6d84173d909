//! The parts of the configuration that differ from layer to layer.

use v4_files::gguf::Value;

use super::keys::Keys;
use super::{Attention, Candidates, Family, IndexRole, LayerConfig};
use crate::error::EngineError;

/// Reads the layers of a model with `layers` of them.
pub(super) fn layers(
    k: &Keys<'_>,
    family: Family,
    layers: usize,
    engram: &[u32],
) -> Result<Vec<LayerConfig>, EngineError> {
    let key = "attention.compress_ratios";
    let ratios = k.numbers(key)?;
    if ratios.len() < layers {
        return Err(k.bad(
            key,
            format_args!("has {} values for {layers} layers", ratios.len()),
        ));
    }
    let attention = match family {
        Family::V4 => v4(k, key, &ratios[..layers])?,
        Family::V41 => v41(k, key, &ratios[..layers])?,
    };
    let hash = match family {
        Family::V4 => k.number("hash_layer_count")?,
        // V4.1 routes no layer by token; its files need not say so.
        Family::V41 if !k.has("hash_layer_count") => 0,
        Family::V41 => match k.number("hash_layer_count")? {
            0 => 0,
            n => {
                return Err(k.bad(
                    "hash_layer_count",
                    format_args!(
                        "is {n}, but V4.1 has no hash \
                                                                    layers"
                    ),
                ));
            }
        },
    };
    let limit = k.per_layer("swiglu_clamp_exp", layers)?;
    // All writers and readers take the one bound of the published config for both
    // where the second is not given.
    let shared = if k.has("swiglu_clamp_shexp") {
        k.per_layer("swiglu_clamp_shexp", layers)?
    } else {
        limit.clone()
    };
    (0..layers)
        .map(|l| {
            if !(limit[l] > 0.0 && shared[l] > 0.0) {
                return Err(k.bad(
                    "swiglu_clamp_exp",
                    format_args!("is not positive for layer {l}"),
                ));
            }
            Ok(LayerConfig {
                attention: attention[l],
                engram: engram.iter().position(|&id| id as usize == l),
                hash_routed: (l as u64) < hash,
                swiglu_limit: limit[l],
                swiglu_limit_shared: shared[l],
            })
        })
        .collect()
}

/// V4: a layer's ratio says it all (spec 3.3).
fn v4(k: &Keys<'_>, key: &str, ratios: &[u64]) -> Result<Vec<Attention>, EngineError> {
    (0..)
        .zip(ratios)
        .map(|(l, &ratio)| match ratio {
            0 => Ok(Attention::Window),
            // Ratio 4 overlaps and has an indexer.
            4 => Ok(Attention::Indexed { ratio: 4 }),
            r @ 1..=65536 => Ok(Attention::All { ratio: r as usize }),
            r => Err(k.bad(key, format_args!("has ratio {r} for layer {l}"))),
        })
        .collect::<Result<_, _>>()
}

/// V4.1: layers share the entries of the latest source and the choice of the
/// latest index source (spec 3.5).
fn v41(k: &Keys<'_>, key: &str, ratios: &[u64]) -> Result<Vec<Attention>, EngineError> {
    let layers = ratios.len();
    let kv_key = "attention.kv_source_layers";
    let index_key = "attention.indexer.source_layers";
    if ratios.iter().all(|&ratio| ratio == 0) {
        return Ok(vec![Attention::Window; layers]);
    }
    let kv_sources = sources(k, kv_key, layers)?;
    let index_sources = sources(k, index_key, layers)?;
    if let Some(l) = kv_sources.iter().find(|l| !index_sources.contains(l)) {
        return Err(k.bad(
            index_key,
            format_args!(
                "lacks layer {l}, a KV source: its entries would be selected with the \
                          keys of other layers"
            ),
        ));
    }
    let candidates = candidates(k, &index_sources, layers)?;
    let mut attention = Vec::with_capacity(layers);
    // The latest sources, and the latest source of candidates.
    let (mut kv, mut index, mut pool) = (None, None, None);
    for (l, &ratio) in ratios.iter().enumerate() {
        let own = kv_sources.contains(&l);
        if own {
            kv = Some((l, ratio));
            // Blocks of another cache's entries say nothing of these.
            pool = None;
        }
        if ratio == 0 {
            if index_sources.contains(&l) {
                return Err(k.bad(
                    index_key,
                    format_args!("names layer {l}, whose compress_ratio is 0"),
                ));
            }
            attention.push(Attention::Window);
            continue;
        }
        if !(1..=2).contains(&ratio) {
            return Err(k.bad(
                key,
                format_args!("has ratio {ratio} for layer {l}; V4.1 has only 0, 1 and 2"),
            ));
        }
        let Some((source, source_ratio)) = kv else {
            return Err(k.bad(kv_key, format_args!("has no source for layer {l}")));
        };
        if source_ratio != ratio {
            return Err(k.bad(
                key,
                format_args!(
                    "has ratio {ratio} for layer {l}, but its KV source, layer {source}, has \
                     {source_ratio}"
                ),
            ));
        }
        let role = if index_sources.contains(&l) {
            index = Some(l);
            let candidates = match candidates {
                Some((from, blocks, size)) if from == l => {
                    pool = Some(size);
                    Candidates::Keep { blocks, size }
                }
                _ => pool.map_or(Candidates::All, |size| Candidates::Within { size }),
            };
            IndexRole::Source(candidates)
        } else {
            IndexRole::Reuse
        };
        debug_assert!(index.is_some(), "a KV source is an index source");
        attention.push(Attention::Shared {
            ratio: ratio as usize,
            source,
            index: role,
        });
    }
    Ok(attention)
}

/// Layer ids, ascending and inside the model.
fn sources(k: &Keys<'_>, key: &str, layers: usize) -> Result<Vec<usize>, EngineError> {
    let ids = k.numbers(key)?;
    let ascending = ids.windows(2).all(|w| w[0] < w[1]);
    if !ascending || ids.last().is_some_and(|&last| last >= layers as u64) {
        return Err(k.bad(
            key,
            format_args!("must be ascending ids of the {layers} layers, not {ids:?}"),
        ));
    }
    Ok(ids.into_iter().map(|id| id as usize).collect())
}

/// Source, blocks and block size of the candidates, if there are any.
fn candidates(
    k: &Keys<'_>,
    index_sources: &[usize],
    layers: usize,
) -> Result<Option<(usize, usize, usize)>, EngineError> {
    let key = "attention.indexer.candidate_source_layer";
    let none = k.value(key).and_then(Value::as_integer) == Some(-1);
    // A single index source has nobody to leave candidates to.
    if none || (index_sources.len() < 2 && !k.has(key)) {
        return Ok(None);
    }
    let source = k.number(key)?;
    let Some(&source) = index_sources.iter().find(|&&l| l as u64 == source) else {
        return Err(k.bad(
            key,
            format_args!("is {source}, which is not an index source of the {layers} layers"),
        ));
    };
    let blocks = k.size("attention.indexer.candidate_top_k_blocks", 1 << 24)?;
    let size = k.size("attention.indexer.candidate_block_size", 1 << 16)?;
    Ok(Some((source, blocks, size)))
}
