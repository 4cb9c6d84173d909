//! Measures the memory of a long fetch. It is alone in its program, because the kernel
//! keeps one peak per process.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use v4_files::gguf::{GgufFile, Metadata, PAGE_ALIGNMENT, encode_header, layout_offsets};
use v4_quant::GgmlType;
use v4_runtime::model::engram::{Addressing, EngramConfig, TokenClasses};
use v4_runtime::residency::engram::{EngramOptions, EngramStore};
use v4_tokenizer::Tokenizer;

#[path = "common/tables.rs"]
mod tables;
use tables::{FP8, VOCAB};

/// A line of `/proc/self/status`, in bytes.
fn status(name: &str) -> usize {
    let all = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = all.lines().find(|l| l.starts_with(name)).unwrap();
    let number = line.split_whitespace().nth(1).unwrap();
    number.parse::<usize>().unwrap() << 10
}

/// The published 24 columns of 264 bytes in two layers, with tables large enough
/// that hardly any row comes twice.
#[test]
fn a_fetch_of_4096_tokens_stays_below_its_bound() {
    let json = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/data/tiny-v41/tokenizer.json"
    );
    let tokenizer = Tokenizer::from_json_file(json.as_ref()).unwrap();
    let config = EngramConfig {
        layer_ids: vec![1, 14],
        max_ngram: 4,
        heads: 8,
        vocab_size: 300_000,
        pad_id: 2,
    };
    let classes = TokenClasses::derive(&tokenizer).unwrap();
    let addressing = Addressing::new(&config, classes).unwrap();
    let shape = |layer: &v4_runtime::model::engram::LayerAddressing| {
        let name = format!("blk.{}.engram_embd.weight", layer.layer());
        (name, GgmlType::I8, vec![264, layer.rows()])
    };
    let tensors = layout_offsets(addressing.layers().iter().map(shape), PAGE_ALIGNMENT).unwrap();
    let header = encode_header(&Metadata::new(), &tensors, PAGE_ALIGNMENT).unwrap();
    let last = tensors.last().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("holes.gguf");
    // Rows of zeros are rows; holes in the file take no disk.
    let mut file = File::create(&path).unwrap();
    file.write_all(&header).unwrap();
    file.set_len(header.len() as u64 + last.offset + last.bytes)
        .unwrap();

    let file = Arc::new(GgufFile::open(&path).unwrap());
    let options = EngramOptions {
        cache_bytes: 4 << 20,
        ..EngramOptions::default()
    };
    let store = EngramStore::open(&file, addressing, 256, Some(FP8), &options).unwrap();
    let ids: Vec<u32> = (0..4096u32)
        .map(|i| i.wrapping_mul(2_654_435_761) % VOCAB as u32)
        .collect();
    let mut out = vec![1.0f32; ids.len() * 24 * 256];

    // Sets the peak back to what is resident now.
    if std::fs::write("/proc/self/clear_refs", "5").is_err() {
        v4_fixtures::skip("peak memory");
        return;
    }
    let before = status("VmRSS:");
    let mut fetch = store.fetch(&[], &ids).unwrap();
    fetch.take(0, &mut out).unwrap();
    fetch.take(1, &mut out).unwrap();
    let took = status("VmHWM:") - before;
    assert!(out.iter().all(|&x| x == 0.0));
    let stats = store.stats();
    assert!(stats.distinct > 190_000, "{stats:?}");
    // What `Fetch` documents, the cache, the buffers in flight.
    assert!(took < (80 << 20) + (4 << 20) + (4 << 20), "{took}");
    eprintln!("{:.1} MB for {} rows", took as f64 / 1e6, stats.distinct);
}
