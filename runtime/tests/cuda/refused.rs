//! What a card cannot do is refused by name, with a remedy.

use std::fs;
use std::sync::Arc;

use v4_cuda_shim::{Shim, ShimOptions};
use v4_files::gguf::{GgufFile, encode_header, layout_offsets};
use v4_runtime::{Engine, EngineError, EngineOptions};

use crate::common::{FAST, model, options};

fn refused(shim: ShimOptions, change: impl Fn(&mut EngineOptions)) -> String {
    let mut options = EngineOptions {
        card: Some(Arc::new(Shim::new(shim)).into()),
        ..options(FAST)
    };
    change(&mut options);
    match Engine::open(&model("tiny-v4"), options) {
        Err(error @ EngineError::Card(_)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_a_card_cannot_do() {
    let error = refused(ShimOptions::default(), |options| options.profile = true);
    assert!(
        error.contains("--profile") && error.contains("without a card"),
        "{error}"
    );

    // Less than all experts take.
    let error = refused(ShimOptions::default(), |options| {
        options.memory = Some(200 << 20);
    });
    assert!(
        error.contains("blk.0.ffn_gate_exps") && error.contains("memory"),
        "{error}"
    );
}

/// Before anything is loaded.
#[test]
fn shapes_that_kernels_have_no_room_for() {
    let file = GgufFile::open(&model("tiny-v41")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gguf");
    for (key, value, named) in [
        ("attention.indexer.head_count", 65u32, "65 heads"),
        ("attention.indexer.top_k", 1 << 14, "a choice of 16384"),
    ] {
        let mut metadata = file.metadata().clone();
        let key = format!("deepseek41.{key}");
        assert!(metadata.insert(key, value).is_some());
        let tensors = file.tensors().iter();
        let tensors = tensors.map(|info| (info.name.clone(), info.ty, info.dims.to_vec()));
        let infos = layout_offsets(tensors, 4096).unwrap();
        let mut bytes = encode_header(&metadata, &infos, 4096).unwrap();
        let start = bytes.len();
        for (info, old) in infos.iter().zip(file.tensors()) {
            bytes.resize(start + info.offset as usize, 0);
            bytes.extend(file.data(old));
        }
        fs::write(&path, bytes).unwrap();
        let shim = Arc::new(Shim::new(ShimOptions::default()));
        let options = EngineOptions {
            card: Some(Arc::clone(&shim).into()),
            ..options(FAST)
        };
        let error = Engine::open(&path, options).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
        assert!(error.contains("without a card"), "{error}");
        assert_eq!(shim.counts().launches, 0);
    }
}

#[test]
fn a_card_that_is_too_small_says_how_much_is_missing() {
    let small = ShimOptions {
        memory: 3 << 20,
        ..ShimOptions::default()
    };
    let error = refused(small, |_| {});
    assert!(
        error.contains("(this machine's CPU) has no memory for"),
        "{error}"
    );
    assert!(error.contains("of its 3.0 MiB are free"), "{error}");
    assert!(error.contains("--ctx"), "{error}");
}
