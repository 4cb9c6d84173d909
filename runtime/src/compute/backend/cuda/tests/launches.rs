//! What a forward pass asks of a card, call by call: kernels with their extents, and copies.
//!
//! The lists in `runtime/cuda/launches` are those of the tiny models. `predict.py` derives them
//! from shapes alone, as it does for models that no test can run; its own test compares.

use std::fmt::Write;
use std::sync::Arc;

use v4_cuda_shim::driver::Schedule;
use v4_cuda_shim::{Shim, ShimOptions};

use super::forward::{Model, Reader, no_fault, prompt};
use super::{tiny, workers};
use crate::compute::backend::cpu::Precision;
use crate::compute::backend::cuda::Cuda;
use crate::compute::forward::{Cone, KvPrecision};

/// Tokens before the first call, whose rows hold noise.
const DEPTH: usize = 380;
/// Tokens of each call. The fourth of the first ones ends a group of 128.
const CALLS: [usize; 6] = [1, 1, 1, 1, 4, 24];

fn check(checkpoint: &str) {
    let model = Model::open(&tiny(checkpoint, "native"));
    let options = ShimOptions {
        schedule: Schedule::Eager,
        ..ShimOptions::default()
    };
    let shim = Arc::new(Shim::new(options));
    let backend = Cuda::new(&shim, Precision::Fast).unwrap();
    let forward = model.on(backend, KvPrecision::Published);
    let mut reader = Reader::new(&model, &forward);
    reader.cache.fill(forward.backend(), &model.cfg, DEPTH, 1);
    let ids = prompt(CALLS.iter().sum(), model.cfg.vocab.min(4000));
    let (mut text, mut rest) = (String::new(), ids.as_slice());
    for count in CALLS {
        let (now, after) = rest.split_at(count);
        let end = reader.cache.len + count;
        let cone = Cone::new(&model.cfg, end - 1, end);
        shim.record();
        reader.read_within(now, &[count], &cone);
        let logits = workers().run(|| forward.logits(&mut reader.scratch, 1));
        assert_eq!(logits.len(), model.cfg.vocab);
        writeln!(text, "# {count} after {}", end - count).unwrap();
        for entry in shim.recorded() {
            writeln!(text, "{entry}").unwrap();
        }
        rest = after;
    }
    no_fault(&forward);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/cuda/launches");
    let path = std::path::Path::new(path).join(format!("{checkpoint}.txt"));
    if std::env::var_os("V4_WRITE_LAUNCHES").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    for (line, (found, expected)) in text.lines().zip(expected.lines()).enumerate() {
        assert_eq!(found, expected, "{}:{}", path.display(), line + 1);
    }
    assert_eq!(text.lines().count(), expected.lines().count());
}

#[test]
fn v4() {
    check("tiny-v4");
}

#[test]
fn v41() {
    check("tiny-v41");
}
