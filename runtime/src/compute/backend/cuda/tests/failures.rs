//! A card that fails says so once, and nothing panics.

use std::sync::Arc;

use v4_cuda_shim::driver::Faults;
use v4_cuda_shim::{Shim, ShimOptions};
use v4_quant::GgmlType;

use super::{noise, put, tensor, workers};
use crate::compute::backend::cpu::Precision;
use crate::compute::backend::cuda::Cuda;
use crate::compute::backend::{
    Attend, Backend, CandidatePool, Entries, IndexSpec, PoolSpec, Sight,
};
use crate::compute::cache_rows::RowFormat;
use crate::error::{CardError, EngineError};

/// A card that fails in some way after it came up.
fn failing(faults: impl Fn(&Shim) -> Faults) -> (Arc<Shim>, Cuda<Shim>) {
    let options = ShimOptions {
        leaks_are_errors: false,
        ..ShimOptions::default()
    };
    let shim = Arc::new(Shim::new(options));
    let cuda = Cuda::new(&shim, Precision::Fast).unwrap();
    shim.set_faults(faults(&shim));
    (shim, cuda)
}

/// Some of everything; what comes of it is of no use, but has its shape.
fn use_it(b: &Cuda<Shim>) {
    let mut x = put(b, &noise(6 * 64, 1), 64);
    b.rms_norm(&mut x, 64, None, 1e-6);
    let mut rows = b.rows(RowFormat::Fp4, 64);
    b.push_rows(&mut rows, &x);
    assert_eq!((b.rows_len(&rows), b.rows_len(&rows.clone())), (6, 6));
    let mut out = Vec::new();
    b.export_rows(&rows, 0..6, &mut out);
    assert_eq!(out.len(), 6 * b.row_bytes(&rows));
    assert!(b.import_rows(&mut rows, 6, &out));
    let mut pending = b.pending(PoolSpec {
        ratio: 4,
        width: 64,
        overlap: false,
    });
    let mut pooled = Default::default();
    b.pool(&mut pending, &x, &x, None, &mut pooled);
    assert_eq!(b.buf_rows(&pooled), 1);
    b.settle_pending(&mut pending, 5);
    out.clear();
    b.export_pending(&pending, 5, &mut out);
    assert_eq!(out.len(), 24 + 2 * 4 * 64);
    b.append_rows(&x.clone(), &mut x);
    b.drop_first_rows(&mut x, 5);
    assert_eq!(b.read(&x).len(), 7 * 64);
}

#[test]
fn a_kernel_that_fails() {
    let (_shim, cuda) = failing(|shim| Faults {
        launch: Some(shim.counts().kernels + 2),
        ..Faults::default()
    });
    workers().run(|| use_it(&cuda));
    let fault = cuda.fault().expect("it failed").to_string();
    workers().run(|| use_it(&cuda));
    assert_eq!(cuda.fault().unwrap().to_string(), fault, "the first one");
}

#[test]
fn memory_that_is_short_from_some_moment_on() {
    for nth in 1..4 {
        let (_shim, cuda) = failing(|shim| Faults {
            allocation: Some(shim.counts().allocations + nth),
            ..Faults::default()
        });
        workers().run(|| use_it(&cuda));
        match cuda.fault() {
            Some(EngineError::Card(CardError::Memory { asked, free, .. })) => {
                assert!(asked.0 > 0 && free.0 > 0, "{asked}, {free}");
            }
            fault => panic!("allocation {nth}: {fault:?}"),
        }
    }
}

#[test]
fn a_card_that_is_lost() {
    let (_shim, cuda) = failing(|shim| Faults {
        lost: Some(shim.counts().calls + 1),
        ..Faults::default()
    });
    workers().run(|| use_it(&cuda));
    assert!(cuda.fault().is_some());
}

/// Heads, keys and queries that the kernels have no room for are refused, not computed wrongly.
#[test]
fn shapes_without_a_kernel_are_refused_by_name() {
    let index = |heads: usize, width: usize, top_k: usize| {
        let (_shim, b) = failing(|_| Faults::default());
        let mut keys = b.rows(RowFormat::Fp4, width);
        b.push_rows(&mut keys, &put(&b, &noise(4 * width, 1), width));
        let q = put(&b, &noise(heads * width, 2), heads * width);
        let w = put(&b, &noise(heads, 3), heads);
        let spec = IndexSpec {
            first: 7,
            top_k,
            ratio: 2,
            scale: 1.0,
        };
        let mut chosen = Default::default();
        b.index(spec, &q, &w, &keys, CandidatePool::All, &mut chosen);
        b.fault().map(|fault| fault.to_string())
    };
    assert_eq!(index(64, 128, 2), None);
    for (heads, width, top_k, named) in [
        (65, 128, 2, "65 heads"),
        (4, 160, 2, "160 channels"),
        (4, 128, 1 << 14, "a choice of 16384"),
    ] {
        let fault = index(heads, width, top_k).expect(named);
        assert!(fault.contains(named), "{fault}");
    }

    let (_shim, b) = failing(|_| Faults::default());
    let width = 544;
    let mut rows = b.rows(RowFormat::F32, width);
    b.push_rows(&mut rows, &put(&b, &noise(width, 1), width));
    let q = put(&b, &noise(width, 2), width);
    let sinks = b.vector(vec![0.0]);
    let args = Attend {
        first: 0,
        heads: 1,
        window: 4,
        sight: Sight::default(),
        rows: &rows,
        entries: Entries::None,
        ratio: 1,
        sinks: &sinks,
        scale: 1.0,
    };
    b.attend(args, &q, &mut Default::default());
    let fault = b.fault().unwrap().to_string();
    assert!(fault.contains("544 channels"), "{fault}");
}

#[test]
fn weights_that_cannot_be_multiplied_and_experts_that_are_streamed_are_refused_by_name() {
    let (_shim, cuda) = failing(|_| Faults::default());
    let tensor = tensor(GgmlType::Q8_0, [1, 4, 32], 1);
    let error = cuda.allow_streamed(&tensor).unwrap_err().to_string();
    assert!(error.contains("tensor w"), "{error}");
    // One of which rows are looked up has nothing to multiply with.
    let w = cuda.load_rows(&tensor).unwrap();
    let x = put(&cuda, &noise(32, 1), 32);
    let mut y = Default::default();
    cuda.matmul(&w, &x, &mut y);
    let fault = cuda.fault().unwrap().to_string();
    assert!(fault.contains("tensor w"), "{fault}");
}
