//! Low-rank adapters.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use safetensors::tensor::{Dtype, TensorView, serialize};
use v4_cuda_shim::ShimOptions;
use v4_runtime::{Engine, Session, Want};

use crate::common::{FAST, Found, MODELS, compare, text};

/// Rank of all pairs: not a multiple of anything.
const RANK: usize = 5;

/// Writes an adapter of noise as PEFT does, for projections by the trained model's names: in the
/// latents, in grouped outputs, in a shared expert and in the head.
fn write(folder: &Path, v41: bool, seed: u64) {
    let mut x = seed | 1;
    let mut noise = move |n: usize| -> Vec<u8> {
        let mut next = || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            ((x >> 40) as f32 / (1 << 23) as f32 - 1.0) / 16.0
        };
        (0..n).flat_map(|_| next().to_le_bytes()).collect()
    };
    let mut modules = vec![
        ("layers.0.attn.wq_a", 256, 128),
        ("layers.0.attn.wq_b", 128, 1024),
        ("layers.1.attn.wkv", 256, 128),
        ("layers.2.attn.wo_a", 512, 256),
        ("layers.2.attn.wo_b", 256, 256),
        ("layers.2.attn.indexer.weights_proj", 256, 4),
        ("layers.3.ffn.shared_experts.w1", 256, 256),
        ("layers.3.ffn.shared_experts.w2", 256, 256),
        ("head", 256, 4096),
    ];
    if v41 {
        modules.push(("layers.2.attn.indexer.wk", 128, 128));
    }
    let mut tensors = Vec::new();
    for (module, inputs, outputs) in modules {
        let name = |half| format!("base_model.model.{module}.lora_{half}.weight");
        tensors.push((name("A"), vec![RANK, inputs], noise(RANK * inputs)));
        tensors.push((name("B"), vec![outputs, RANK], noise(outputs * RANK)));
    }
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap();
        (name.clone(), view)
    });
    fs::create_dir_all(folder).unwrap();
    let file = serialize(views, None).unwrap();
    fs::write(folder.join("adapter_model.safetensors"), file).unwrap();
    let config = format!(r#"{{"peft_type":"LORA","r":{RANK},"lora_alpha":7,"bias":"none"}}"#);
    fs::write(folder.join("adapter_config.json"), config).unwrap();
}

fn adapted(engine: &Arc<Engine>, folder: &Path, ids: &[u32], found: &mut Found) {
    let [a, b] = ["a", "b"].map(|name| engine.load_adapter(name, &folder.join(name)).unwrap());
    let mut last = Vec::new();
    for adapters in [vec![Arc::clone(&a)], vec![b, a], vec![]] {
        let engine = engine.with_adapters(adapters).unwrap();
        let mut session = Session::new(&engine, 512, 3).unwrap();
        let logits = session.append(&ids[..4], Want::Last).unwrap();
        assert!(!last.contains(&logits.data), "an adapter changed nothing");
        found.logits("adapted", &logits);
        found.logits("one more", &session.append(&ids[4..5], Want::Last).unwrap());
        found.session("file", &session);
        last.push(logits.data);
    }
}

#[test]
fn adapters_add_the_same() {
    let folder = tempfile::tempdir().unwrap();
    for (name, seed) in MODELS.into_iter().zip(41..) {
        let folder = folder.path().join(name);
        write(&folder.join("a"), name == "tiny-v41", 3);
        write(&folder.join("b"), name == "tiny-v41", 5);
        let ids = text(name);
        let shim = ShimOptions::random(seed);
        compare(name, FAST, shim, |engine, found| {
            adapted(engine, &folder, &ids, found);
        });
    }
}
