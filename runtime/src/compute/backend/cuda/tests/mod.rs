//! The backend on the shim against the CPU, bit for bit.

mod checks;
mod failures;
mod forward;
mod launches;
mod stores;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use v4_convert::plan::{Drafts, Plan, PlanOptions, Vision};
use v4_convert::recipe::Recipe;
use v4_convert::write::{Watch, WriteOptions, write};
use v4_cuda_shim::driver::Schedule;
use v4_cuda_shim::{Shim, ShimOptions};
use v4_files::gguf::{GgufFile, Metadata, encode_header, layout_offsets};
use v4_quant::GgmlType;

use super::Cuda;
use crate::compute::backend::Backend;
use crate::compute::backend::cpu::{Cpu, Precision};
use crate::compute::workers::Workers;
use crate::model::Tensor;

/// Workers, on which subnormal numbers are zero.
fn workers() -> &'static Workers {
    static WORKERS: OnceLock<Workers> = OnceLock::new();
    WORKERS.get_or_init(|| Workers::start(Some(2), false).unwrap())
}

/// The ways of doing work late or early that every operation is tried in.
fn cards() -> Vec<ShimOptions> {
    let eager = ShimOptions {
        schedule: Schedule::Eager,
        ..ShimOptions::default()
    };
    vec![eager, ShimOptions::random(1), ShimOptions::random(2)]
}

/// What is to be the same on all backends.
trait Case: Sync {
    fn run<B: Backend>(&self, b: &B) -> Found;
}

/// What came of it, by name.
type Found = Vec<(String, Vec<u8>)>;

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A buffer with these values.
fn put<B: Backend>(b: &B, values: &[f32], cols: usize) -> B::Buf {
    let mut x = B::Buf::default();
    b.write(values, cols, &mut x);
    x
}

/// What a buffer holds.
fn get<B: Backend>(b: &B, what: &str, x: &B::Buf) -> (String, Vec<u8>) {
    (what.to_owned(), bytes(&b.read(x)))
}

/// Runs a case on the CPU and on cards of all kinds.
#[track_caller]
fn check(precision: Precision, case: &impl Case) {
    let expected = workers().run(|| case.run(&Cpu::new(precision)));
    assert!(!expected.is_empty());
    for options in cards() {
        let shim = Arc::new(Shim::new(options.clone()));
        let cuda = Cuda::new(&shim, precision).unwrap();
        let found = workers().run(|| case.run(&cuda));
        if let Some(fault) = cuda.fault() {
            panic!("{options:?}: {fault}");
        }
        same(&found, &expected, &format!("{options:?}"));
    }
}

/// That both are the same, up to the bits of a NaN.
#[track_caller]
fn same(found: &Found, expected: &Found, of: &str) {
    assert_eq!(found.len(), expected.len(), "{of}");
    for ((name, found), (expected_name, expected)) in found.iter().zip(expected) {
        assert_eq!(name, expected_name);
        assert_eq!(found.len(), expected.len(), "{of}: {name}");
        let differs = found.iter().zip(expected).position(|(a, b)| a != b);
        if let Some(at) = differs {
            let at = at / 4 * 4;
            let end = (at + 4).min(found.len());
            let of_word = |bytes: &[u8]| bytes[at..end].to_vec();
            panic!(
                "{of}: {name} differs at word {} of {}: {:?}, not {:?}",
                at / 4,
                found.len() / 4,
                of_word(found),
                of_word(expected)
            );
        }
    }
}

/// Noise between -1 and 1.
fn noise(n: usize, seed: u32) -> Vec<f32> {
    let mut x = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// A tensor `[experts, n, k]` in a file of its own.
fn tensor(ty: GgmlType, [experts, n, k]: [usize; 3], seed: u32) -> Tensor {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.gguf");
    let dims = vec![k as u64, n as u64, experts as u64];
    let infos = layout_offsets([("w".to_owned(), ty, dims)], 4096).unwrap();
    let mut bytes = encode_header(&Metadata::new(), &infos, 4096).unwrap();
    let mut row = vec![0; ty.row_bytes(k).unwrap()];
    for values in noise(experts * n * k, seed).chunks_exact(k) {
        v4_quant::encode_row(ty, values, None, &mut row).unwrap();
        bytes.extend(&row);
    }
    std::fs::write(&path, bytes).unwrap();
    // The mapping stays when the file goes.
    Tensor::find(&Arc::new(GgufFile::open(&path).unwrap()), "w").unwrap()
}

/// A tiny checkpoint of `tests/data`, converted with a recipe once per run.
fn tiny(checkpoint: &str, recipe: &str) -> PathBuf {
    static MADE: Mutex<Vec<String>> = Mutex::new(Vec::new());
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| tempfile::tempdir().unwrap());
    let name = format!("{checkpoint}-{recipe}.gguf");
    let path = folder.path().join(&name);
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if !made.contains(&name) {
        convert(&v4_fixtures::data().join(checkpoint), recipe, &path);
        made.push(name);
    }
    path
}

fn convert(checkpoint: &Path, recipe: &str, out: &Path) {
    let options = PlanOptions {
        recipe: Recipe::load(recipe).unwrap(),
        drafts: Drafts::Drop,
        vision: Vision::Drop,
        name: None,
        split: None,
    };
    let plan = Plan::new(checkpoint, &options).unwrap();
    write(&plan, out, WriteOptions::default(), &Watch::default()).unwrap();
}

/// Says how long something took.
struct Timed(Instant, String);

impl Timed {
    fn new(what: &str) -> Self {
        Self(Instant::now(), what.to_owned())
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        println!("{}: {:.1} s", self.1, self.0.elapsed().as_secs_f64());
    }
}
