//! The tensors that a configuration requires: spec/architecture.md sections 2.2 and 2.3.

mod v41;

use anyhow::{Context, Result};

use super::config::{Config, Dims, Draft};
use super::family::Family;
use super::fill::Fill;

/// One tensor of the checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Its published name.
    pub name: String,
    /// Type name in safetensors.
    pub dtype: &'static str,
    /// Rows first.
    pub shape: Vec<u64>,
    /// Bytes.
    pub bytes: u64,
    /// What it holds.
    pub fill: Fill,
}

/// DSpark blocks of a release that has them.
const DRAFT_BLOCKS: u64 = 3;

/// All tensors, layer by layer.
///
/// Every matrix of K columns has the deviation 1/sqrt(K): it maps vectors of
/// mean square 1, which is what the norms before it give, to such vectors. So
/// each block adds about 1 to the mean square of a residual stream that starts
/// at 1, expert gates have logits of deviation 1, and attention scores too. The
/// output matrix is sqrt(ln V) times larger: normally distributed logits of that
/// variance have an entropy of about half of ln V, which is neither a certain
/// nor an arbitrary next token.
///
/// # Errors
/// Sizes that do not fit 64 bits.
pub fn tensors(config: &Config) -> Result<Vec<Tensor>> {
    let d = &config.dims;
    let mut out = List::default();
    out.bf16("embed.weight", &[d.vocab, d.hidden], 1.0)?;
    for (layer, &ratio) in (0..d.layers).zip(&d.ratios) {
        let kind = match config.family {
            Family::V4 => Kind::V4 {
                ratio,
                hash: layer < d.hash_layers,
            },
            Family::V41 => Kind::V41,
        };
        let prefix = format!("layers.{layer}");
        out.block(d, &prefix, kind, d.experts)?;
        if config.family == Family::V41 {
            out.sources(d, &format!("{prefix}.attn"), layer, ratio)?;
            let table = d.v41.engram.iter().find(|table| table.layer == layer);
            if let Some(&table) = table {
                out.engram(d, &format!("{prefix}.engram"), table)?;
            }
        }
    }
    out.norm("norm.weight", d.hidden)?;
    let head_std = (f64::from(d.vocab.ilog2()) * std::f64::consts::LN_2 / d.hidden as f64).sqrt();
    out.bf16("head.weight", &[d.vocab, d.hidden], head_std)?;
    let window = match config.family {
        Family::V4 => {
            out.hc("hc_head", d, 1)?;
            Kind::V4 {
                ratio: 0,
                hash: false,
            }
        }
        Family::V41 => Kind::V41,
    };
    match config.draft {
        Draft::None => {}
        Draft::Mtp => {
            out.block(d, "mtp.0", window, d.experts)?;
            out.fp8(d, "mtp.0.e_proj", d.hidden, d.hidden)?;
            out.fp8(d, "mtp.0.h_proj", d.hidden, d.hidden)?;
            for norm in ["enorm", "hnorm", "norm"] {
                out.norm(&format!("mtp.0.{norm}.weight"), d.hidden)?;
            }
            out.hc("mtp.0.hc_head", d, 1)?;
        }
        Draft::Dspark => {
            for stage in 0..DRAFT_BLOCKS {
                out.block(d, &format!("mtp.{stage}"), window, d.draft_experts)?;
            }
            out.dspark(d, config.family)?;
        }
    }
    if let Some(vision) = d.v41.vision {
        out.vision(d, vision)?;
    }
    Ok(out.tensors)
}

/// What a layer has in addition to the sublayers that all have.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// A layer of V4 with a compressor of this ratio if not 0, routed by `hash`
    /// or by scores.
    V4 { ratio: u64, hash: bool },
    /// A layer of V4.1; sources and Engram come on top.
    V41,
}

#[derive(Default)]
struct List {
    tensors: Vec<Tensor>,
}

impl List {
    fn push(&mut self, name: &str, dtype: &'static str, shape: &[u64], fill: Fill) -> Result<()> {
        let size = match dtype {
            "I64" => 8,
            "F32" => 4,
            "BF16" => 2,
            _ => 1,
        };
        let bytes = shape
            .iter()
            .try_fold(size, |n: u64, dim| n.checked_mul(*dim))
            .filter(|n| *n < 1 << 50)
            .with_context(|| format!("{name}: shape {shape:?} is too large"))?;
        self.tensors.push(Tensor {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
            bytes,
            fill,
        });
        Ok(())
    }

    fn f32(&mut self, name: &str, shape: &[u64], mean: f64, std: f64) -> Result<()> {
        self.push(name, "F32", shape, Fill::F32 { mean, std })
    }

    fn bf16(&mut self, name: &str, shape: &[u64], std: f64) -> Result<()> {
        self.push(name, "BF16", shape, Fill::Bf16 { mean: 0.0, std })
    }

    /// Not exactly 1, so that a forgotten norm weight changes the output.
    fn norm(&mut self, name: &str, width: u64) -> Result<()> {
        self.norms(name, &[width])
    }

    fn norms(&mut self, name: &str, shape: &[u64]) -> Result<()> {
        let fill = Fill::Bf16 {
            mean: 1.0,
            std: 0.05,
        };
        self.push(name, "BF16", shape, fill)
    }

    fn linear(&mut self, prefix: &str, rows: u64, cols: u64) -> Result<()> {
        self.bf16(&format!("{prefix}.weight"), &[rows, cols], fan_in(cols))
    }

    fn fp8(&mut self, d: &Dims, prefix: &str, rows: u64, cols: u64) -> Result<()> {
        let std = fan_in(cols);
        let tiles = [rows.div_ceil(d.block[0]), cols.div_ceil(d.block[1])];
        let weight = format!("{prefix}.weight");
        self.push(&weight, "F8_E4M3", &[rows, cols], Fill::Fp8 { std })?;
        self.push(
            &format!("{prefix}.scale"),
            "F8_E8M0",
            &tiles,
            Fill::Fp8Scale { std },
        )
    }

    fn fp4(&mut self, prefix: &str, rows: u64, cols: u64) -> Result<()> {
        let std = fan_in(cols);
        let weight = format!("{prefix}.weight");
        self.push(&weight, "I8", &[rows, cols / 2], Fill::Fp4 { std })?;
        let scale = format!("{prefix}.scale");
        self.push(
            &scale,
            "F8_E8M0",
            &[rows, cols / 32],
            Fill::Fp4Scale { std },
        )
    }

    /// Hyper-connection: `groups` is 3 at a site (pre, post, comb), 1 at the head.
    fn hc(&mut self, prefix: &str, d: &Dims, groups: u64) -> Result<()> {
        let rows = if groups == 3 { (2 + d.hc) * d.hc } else { d.hc };
        let width = d.hc * d.hidden;
        self.f32(&format!("{prefix}_fn"), &[rows, width], 0.0, fan_in(width))?;
        let base = Fill::HcBase { streams: d.hc };
        self.push(&format!("{prefix}_base"), "F32", &[rows], base)?;
        self.f32(&format!("{prefix}_scale"), &[groups], 0.4, 0.1)
    }

    fn compressor(&mut self, prefix: &str, d: &Dims, ratio: u64, width: u64) -> Result<()> {
        let both = if ratio == 4 { 2 * width } else { width };
        self.linear(&format!("{prefix}.wkv"), both, d.hidden)?;
        self.linear(&format!("{prefix}.wgate"), both, d.hidden)?;
        self.f32(&format!("{prefix}.ape"), &[ratio, both], 0.0, 0.3)?;
        self.norm(&format!("{prefix}.norm.weight"), width)
    }

    /// What the DSpark blocks have in addition to their layers.
    fn dspark(&mut self, d: &Dims, family: Family) -> Result<()> {
        self.fp8(d, "mtp.0.main_proj", d.hidden, DRAFT_BLOCKS * d.hidden)?;
        self.norm("mtp.0.main_norm.weight", d.hidden)?;
        self.norm("mtp.2.norm.weight", d.hidden)?;
        let names = match family {
            Family::V4 => {
                self.hc("mtp.2.hc_head", d, 1)?;
                ["markov_w1", "markov_w2"]
            }
            Family::V41 => ["embed", "head"],
        };
        let rank = d.markov_rank;
        for (name, std) in names.into_iter().zip([1.0, fan_in(rank)]) {
            let name = format!("mtp.2.markov_head.{name}.weight");
            self.bf16(&name, &[d.vocab, rank], std)?;
        }
        self.linear("mtp.2.confidence_head.proj", 1, d.hidden + rank)
    }

    /// What all layers of both families have.
    fn attention(&mut self, d: &Dims, prefix: &str) -> Result<()> {
        let heads = d.heads * d.head_dim;
        let low = d.o_groups * d.o_lora;
        self.fp8(d, &format!("{prefix}.wq_a"), d.q_lora, d.hidden)?;
        self.norm(&format!("{prefix}.q_norm.weight"), d.q_lora)?;
        self.fp8(d, &format!("{prefix}.wq_b"), heads, d.q_lora)?;
        self.fp8(d, &format!("{prefix}.wkv"), d.head_dim, d.hidden)?;
        self.norm(&format!("{prefix}.kv_norm.weight"), d.head_dim)?;
        self.fp8(d, &format!("{prefix}.wo_a"), low, heads / d.o_groups)?;
        self.fp8(d, &format!("{prefix}.wo_b"), d.hidden, low)?;
        self.f32(&format!("{prefix}.attn_sink"), &[d.heads], 0.5, 0.5)
    }

    /// Compressor and indexer of a V4 layer.
    fn compressed(&mut self, d: &Dims, prefix: &str, ratio: u64) -> Result<()> {
        if ratio > 0 {
            self.compressor(&format!("{prefix}.compressor"), d, ratio, d.head_dim)?;
        }
        if ratio == 4 {
            let indexer = format!("{prefix}.indexer");
            self.fp8(
                d,
                &format!("{indexer}.wq_b"),
                d.index_heads * d.index_dim,
                d.q_lora,
            )?;
            self.linear(&format!("{indexer}.weights_proj"), d.index_heads, d.hidden)?;
            self.compressor(&format!("{indexer}.compressor"), d, ratio, d.index_dim)?;
        }
        Ok(())
    }

    fn block(&mut self, d: &Dims, prefix: &str, kind: Kind, experts: u64) -> Result<()> {
        let attention = format!("{prefix}.attn");
        self.attention(d, &attention)?;
        if let Kind::V4 { ratio, .. } = kind {
            self.compressed(d, &attention, ratio)?;
        }
        self.norm(&format!("{prefix}.attn_norm.weight"), d.hidden)?;
        self.norm(&format!("{prefix}.ffn_norm.weight"), d.hidden)?;
        self.hc(&format!("{prefix}.hc_attn"), d, 3)?;
        self.hc(&format!("{prefix}.hc_ffn"), d, 3)?;
        let ffn = format!("{prefix}.ffn");
        self.linear(&format!("{ffn}.gate"), experts, d.hidden)?;
        let gate = format!("{ffn}.gate");
        match kind {
            Kind::V4 { hash: true, .. } => {
                let used = d.experts_used;
                let shape = [d.vocab, used];
                let fill = Fill::Tid2Eid { experts, used };
                self.push(&format!("{gate}.tid2eid"), "I64", &shape, fill)?;
            }
            Kind::V4 { hash: false, .. } => {
                self.f32(&format!("{gate}.bias"), &[experts], 0.2, 0.1)?;
            }
            Kind::V41 => {
                for bias in ["bias", "bias_vl"] {
                    self.f32(&format!("{gate}.{bias}"), &[experts], 0.2, 0.1)?;
                }
            }
        }
        for expert in 0..experts {
            let expert = format!("{ffn}.experts.{expert}");
            self.fp4(&format!("{expert}.w1"), d.expert_width, d.hidden)?;
            self.fp4(&format!("{expert}.w2"), d.hidden, d.expert_width)?;
            self.fp4(&format!("{expert}.w3"), d.expert_width, d.hidden)?;
        }
        let shared = format!("{ffn}.shared_experts");
        let width = d.shared_experts * d.expert_width;
        self.fp8(d, &format!("{shared}.w1"), width, d.hidden)?;
        self.fp8(d, &format!("{shared}.w2"), d.hidden, width)?;
        self.fp8(d, &format!("{shared}.w3"), width, d.hidden)
    }
}

fn fan_in(cols: u64) -> f64 {
    1.0 / (cols as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::config::{Extras, Overrides, Source};
    use super::*;

    fn published(source: &Source, draft: Draft) -> (usize, u64) {
        let extras = Extras {
            draft,
            vision: *source == Source::V41Flash,
            tokenizer: None,
        };
        let config = Config::new(source, &Overrides::default(), &extras).unwrap();
        let all = tensors(&config).unwrap();
        let names: BTreeSet<_> = all.iter().map(|t| &t.name).collect();
        assert_eq!(names.len(), all.len(), "a name twice");
        (all.len(), all.iter().map(|t| t.bytes).sum())
    }

    /// Counts and sizes of spec/architecture.md sections 0 and 2; that of the
    /// DSpark release is published to the byte.
    #[test]
    fn published_counts_and_sizes_come_out() {
        assert_eq!(
            published(&Source::Flash, Draft::Dspark),
            (72_317, 166_878_536_440)
        );
        let (count, bytes) = published(&Source::Flash, Draft::Mtp);
        assert_eq!((count, (bytes + 5_000_000) / 10_000_000), (69_187, 15_961));
        let (count, bytes) = published(&Source::Pro, Draft::Mtp);
        assert_eq!((count, bytes / 100_000_000), (145_116, 8_647));
        let (count, bytes) = published(&Source::V41Flash, Draft::Dspark);
        assert_eq!((count, (bytes + 5_000_000) / 10_000_000), (96_085, 51_029));
    }
}
