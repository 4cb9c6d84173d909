//! Compares Engram addresses with those computed by others for the published model, and
//! with our golden activations.

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde::Deserialize;
use serde_json::Value;
use v4_files::gguf::Metadata;
use v4_runtime::model::engram::{Addressing, EngramConfig, StoredConstants, TokenClasses};
use v4_tokenizer::Tokenizer;

use v4_fixtures::fixture;

fn tiny(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/data/tiny-v41")
        .join(name)
}

fn json<T: serde::de::DeserializeOwned>(path: &Path) -> T {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// `layout.json`, with what the published model has.
#[derive(Deserialize)]
struct Layout {
    layer_ids: Vec<u32>,
    max_ngram_size: usize,
    n_heads: usize,
    engram_vocab_size: u64,
    pad_id: u32,
    compressed_vocab_size: u64,
    num_embeddings: Vec<u64>,
    multipliers: Vec<Vec<u64>>,
    primes: Vec<Vec<Vec<u64>>>,
    offsets: Vec<Vec<u64>>,
}

#[derive(Deserialize)]
struct Sequence {
    id: String,
    ids: Vec<u32>,
    /// `[ids][layers][columns]`
    rows: Vec<Vec<Vec<u64>>>,
}

struct Published {
    tokenizer: Tokenizer,
    layout: Layout,
    addressing: Addressing,
}

fn published() -> Published {
    let layout: Layout = json(&fixture("engram/layout.json"));
    let tokenizer = Tokenizer::from_json_file(&fixture("tokenizer/deepseek-v4.1.json")).unwrap();
    let config = EngramConfig {
        layer_ids: layout.layer_ids.clone(),
        max_ngram: layout.max_ngram_size,
        heads: layout.n_heads,
        vocab_size: layout.engram_vocab_size,
        pad_id: layout.pad_id,
    };
    let classes = TokenClasses::derive(&tokenizer).unwrap();
    let addressing = Addressing::new(&config, classes).unwrap();
    Published {
        tokenizer,
        layout,
        addressing,
    }
}

/// The rows of a sequence given in pieces of up to `piece` tokens, of which each
/// sees only the look-back before it.
fn in_pieces(addressing: &Addressing, ids: &[u32], piece: usize) -> Vec<Vec<u64>> {
    let mut rows = vec![Vec::new(); addressing.layers().len()];
    for (i, chunk) in ids.chunks(piece).enumerate() {
        let start = i * piece;
        let before = &ids[start.saturating_sub(addressing.look_back())..start];
        for (all, new) in rows.iter_mut().zip(addressing.rows(before, chunk).unwrap()) {
            all.extend(new);
        }
    }
    rows
}

#[test]
fn published_token_map_primes_offsets_and_multipliers() {
    let p = published();
    let map: Vec<u64> = std::fs::read(fixture("engram/token_map_i32.bin"))
        .unwrap()
        .chunks_exact(4)
        .map(|b| u64::from(u32::from_le_bytes(b.try_into().unwrap())))
        .collect();
    assert_eq!(
        (map.len(), p.layout.compressed_vocab_size),
        (129_280, 99_092)
    );
    p.addressing
        .verify(&StoredConstants {
            class_count: Some(p.layout.compressed_vocab_size),
            token_map: Some(&map),
            primes: Some(&p.layout.primes.concat().concat()),
            offsets: Some(&p.layout.offsets.concat()),
            multipliers: Some(&p.layout.multipliers.concat()),
            rows: Some(&p.layout.num_embeddings),
        })
        .unwrap();
    let layers: Vec<u32> = p.addressing.layers().iter().map(|l| l.layer()).collect();
    assert_eq!(layers, p.layout.layer_ids);
}

#[test]
fn published_rows_of_real_sequences() {
    let p = published();
    let text = std::fs::read_to_string(fixture("engram/rows.jsonl")).unwrap();
    assert_eq!(text.lines().count(), 20);
    for line in text.lines() {
        let s: Sequence = serde_json::from_str(line).unwrap();
        assert_eq!(s.rows.len(), s.ids.len());
        let ours = p.addressing.rows(&[], &s.ids).unwrap();
        for (layer, ours) in ours.iter().enumerate() {
            let theirs: Vec<u64> = s.rows.iter().flat_map(|t| t[layer].clone()).collect();
            assert_eq!(*ours, theirs, "{}, layer {layer}", s.id);
        }
        for piece in [1, 2, 3, 4, 7, 47] {
            assert_eq!(in_pieces(&p.addressing, &s.ids, piece), ours, "{piece}");
        }
    }
}

#[test]
fn classes_survive_the_way_through_gguf() {
    let p = published();
    let mut metadata = Metadata::new();
    p.tokenizer.to_gguf_metadata(&mut metadata);
    let again = Tokenizer::from_gguf(&metadata).unwrap();
    let classes = TokenClasses::derive(&again).unwrap();
    assert_eq!(&classes, p.addressing.classes());
}

#[test]
fn golden_rows_of_the_tiny_model() {
    let config: Value = json(&tiny("config.json"));
    let number = |key: &str| config[key].as_u64().unwrap();
    let list = |key: &str| serde_json::from_value::<Vec<u64>>(config[key].clone()).unwrap();
    let layers = list("engram_layer_ids");
    let tokenizer = Tokenizer::from_json_file(&tiny("tokenizer.json")).unwrap();
    let classes = TokenClasses::derive(&tokenizer).unwrap();
    let engram = EngramConfig {
        layer_ids: layers.iter().map(|&id| id as u32).collect(),
        max_ngram: number("engram_max_ngram_size") as usize,
        heads: number("engram_n_heads") as usize,
        vocab_size: number("engram_vocab_size"),
        pad_id: number("engram_pad_token_id") as u32,
    };
    let addressing = Addressing::new(&engram, classes).unwrap();
    addressing
        .verify(&StoredConstants {
            class_count: Some(number("engram_compressed_vocab_size")),
            rows: Some(&list("engram_num_embeddings")),
            ..StoredConstants::default()
        })
        .unwrap();

    let bytes = std::fs::read(tiny("golden.safetensors")).unwrap();
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    let ints = |name: &str| -> Vec<u64> {
        let tensor = golden.tensor(name).unwrap();
        assert_eq!(tensor.dtype(), safetensors::Dtype::I32, "{name}");
        let values = tensor.data().chunks_exact(4);
        values
            .map(|b| u64::from(u32::from_le_bytes(b.try_into().unwrap())))
            .collect()
    };
    let mut compared = 0;
    for case in ["one", "short", "medium", "long"] {
        let ids: Vec<u32> = ints(&format!("{case}.ids"))
            .iter()
            .map(|&id| id as u32)
            .collect();
        let whole = addressing.rows(&[], &ids).unwrap();
        for (layer, rows) in layers.iter().zip(&whole) {
            for mode in ["exact", "published"] {
                let name = format!("{case}.{mode}.{layer}.engram_rows");
                assert_eq!(*rows, ints(&name), "{name}");
                compared += rows.len();
            }
        }
        for piece in [1, 2, 5, 64] {
            assert_eq!(
                in_pieces(&addressing, &ids, piece),
                whole,
                "{case}, {piece}"
            );
        }
    }
    assert_eq!(compared, (1 + 40 + 300 + 1500) * 12 * 2 * 2);
}
