//! Low-rank adapters, compared with the same model after merging them into its weights.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use v4_files::gguf::{GgufFile, encode_header, layout_offsets};
use v4_quant::GgmlType;
use v4_runtime::storage::SessionLog;
use v4_runtime::{Adapter, Engine, EngineOptions, Precision, Session, Want};
use v4_tests::adapter::{Written, write_folder};
use v4_tests::numbers::golden_ids as ids;
use v4_tests::program::tiny;

/// Model, and per projection: published name, name in GGUF.
type Module = (String, String);

fn engine(path: &Path, precision: Precision) -> Arc<Engine> {
    let options = EngineOptions {
        threads: Some(2),
        precision,
        ..EngineOptions::default()
    };
    Engine::open(path, options).unwrap()
}

/// Every projection of a tiny model that an adapter can change.
fn modules(file: &GgufFile) -> Vec<Module> {
    let parts = [
        ("attn.wq_a", "attn_q_a"),
        ("attn.wq_b", "attn_q_b"),
        ("attn.wkv", "attn_kv"),
        ("attn.wo_a", "attn_output_a"),
        ("attn.wo_b", "attn_output_b"),
        ("attn.compressor.wkv", "attn_compressor_kv"),
        ("attn.compressor.wgate", "attn_compressor_gate"),
        ("attn.indexer.wq_b", "indexer.attn_q_b"),
        ("attn.indexer.weights_proj", "indexer.proj"),
        ("attn.indexer.wk", "indexer.attn_k"),
        ("attn.indexer.compressor.wkv", "indexer_compressor_kv"),
        ("attn.indexer.compressor.wgate", "indexer_compressor_gate"),
        ("engram.wkv", "engram_kv"),
        ("ffn.shared_experts.w1", "ffn_gate_shexp"),
        ("ffn.shared_experts.w2", "ffn_down_shexp"),
        ("ffn.shared_experts.w3", "ffn_up_shexp"),
    ];
    let mut all = vec![("head".to_owned(), "output.weight".to_owned())];
    for layer in 0..64 {
        for (published, gguf) in parts {
            let gguf = format!("blk.{layer}.{gguf}.weight");
            if file.tensor(&gguf).is_some() {
                all.push((format!("layers.{layer}.{published}"), gguf));
            }
        }
    }
    all
}

fn noise(file: &GgufFile, modules: &[Module], alpha: f64, seed: u64) -> Written {
    let sized = modules.iter().map(|(module, gguf)| {
        let dims = &file.tensor(gguf).unwrap().dims;
        (module.clone(), dims[0] as usize, dims[1] as usize)
    });
    Written::noise(4, alpha, &sized.collect::<Vec<_>>(), seed)
}

/// The model with what the adapters add to its weights, in f32 at those places.
fn merged(file: &GgufFile, adapters: &[&Written], to: &Path) {
    let names: BTreeMap<_, _> = modules(file).into_iter().map(|(m, g)| (g, m)).collect();
    let mut tensors = Vec::new();
    for info in file.tensors() {
        let bytes = file.data(info);
        let module = names.get(&info.name);
        let pairs = |w: &&Written| w.pairs.get(module?).map(|p| (p.clone(), w.alpha, w.rank));
        let pairs: Vec<_> = adapters.iter().copied().filter_map(|w| pairs(&w)).collect();
        if pairs.is_empty() {
            tensors.push((info.ty, bytes.to_vec()));
            continue;
        }
        let (cols, rows) = (info.dims[0] as usize, info.dims[1] as usize);
        let mut weights = vec![0.0f32; rows * cols];
        for (from, to) in bytes
            .chunks_exact(bytes.len() / rows)
            .zip(weights.chunks_exact_mut(cols))
        {
            v4_quant::decode_row(info.ty, from, to).unwrap();
        }
        for (i, weight) in weights.iter_mut().enumerate() {
            let (row, col) = (i / cols, i % cols);
            let mut sum = f64::from(*weight);
            for (pair, alpha, rank) in &pairs {
                let products = (0..*rank)
                    .map(|k| f64::from(pair.b[row * rank + k]) * f64::from(pair.a[k * cols + col]));
                sum += alpha / *rank as f64 * products.sum::<f64>();
            }
            *weight = sum as f32;
        }
        let bytes = weights.iter().flat_map(|v| v.to_le_bytes()).collect();
        tensors.push((GgmlType::F32, bytes));
    }
    let shapes = file.tensors().iter().zip(&tensors);
    let shapes = shapes.map(|(info, (ty, _))| (info.name.clone(), *ty, info.dims.to_vec()));
    let infos = layout_offsets(shapes, 4096).unwrap();
    let mut bytes = encode_header(file.metadata(), &infos, 4096).unwrap();
    let start = bytes.len();
    for (info, (_, data)) in infos.iter().zip(tensors) {
        bytes.resize(start + info.offset as usize, 0);
        bytes.extend(data);
    }
    std::fs::write(to, bytes).unwrap();
}

fn logits(engine: &Arc<Engine>, ids: &[u32]) -> Vec<f32> {
    let mut session = Session::new(engine, 4096, 64).unwrap();
    session.append(ids, Want::All).unwrap().data
}

fn load(engine: &Engine, name: &str, written: &Written) -> (tempfile::TempDir, Arc<Adapter>) {
    let dir = tempfile::tempdir().unwrap();
    written.write(dir.path());
    let adapter = engine.load_adapter(name, dir.path()).unwrap();
    (dir, adapter)
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    let both = a.iter().zip(b);
    both.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn base(model: &str) -> (PathBuf, GgufFile) {
    let path = tiny(model, "native", &[]);
    let file = GgufFile::open(&path).unwrap();
    (path, file)
}

#[test]
fn an_adapter_does_what_its_merged_weights_do() {
    for model in ["tiny-v4", "tiny-v41"] {
        let (path, file) = base(model);
        let modules = modules(&file);
        let ids = &ids(model, "long")[..300];
        // Enough to change every token. With about half of all seeds a choice of experts
        // turns on the last bits at one of the 300 positions; with these, none does.
        let [one, two] = [(0.02, 8), (0.05, 9)].map(|(a, seed)| noise(&file, &modules, a, seed));
        let base = engine(&path, Precision::Exact);
        let plain = logits(&base, ids);
        let (_d1, first) = load(&base, "one", &one);
        let (_d2, second) = load(&base, "two", &two);
        assert_eq!(first.adapted().count(), modules.len(), "{model}");
        for (adapters, written) in [
            (vec![Arc::clone(&first)], vec![&one]),
            (vec![first, second], vec![&one, &two]),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let merged_path = dir.path().join("merged.gguf");
            merged(&file, &written, &merged_path);
            let want = logits(&engine(&merged_path, Precision::Exact), ids);
            let got = logits(&base.with_adapters(adapters).unwrap(), ids);
            let error = largest_difference(&got, &want);
            let changed = largest_difference(&plain, &want);
            assert!(
                error < 2e-3,
                "{model}: {error}, and the adapter changes {changed}"
            );
            assert!(changed > 50.0 * error, "{model}: {error} of {changed}");
        }
    }
}

#[test]
fn each_projection_has_its_own_effect() {
    for model in ["tiny-v4", "tiny-v41"] {
        let (path, file) = base(model);
        let ids = &ids(model, "long")[..160];
        let base = engine(&path, Precision::Exact);
        let plain = logits(&base, ids);
        // The first layer of each kind.
        let mut kinds = BTreeMap::new();
        for (module, gguf) in modules(&file) {
            let kind = module.rsplit_once("layers.").map_or(&*module, |(_, m)| {
                m.split_once('.').map_or(m, |(_, part)| part)
            });
            kinds
                .entry(kind.to_owned())
                .or_insert((module.clone(), gguf));
        }
        for (kind, module) in kinds {
            let one = noise(&file, std::slice::from_ref(&module), 8.0, 3);
            let (_dir, adapter) = load(&base, "one", &one);
            let adapted = base.with_adapters(vec![adapter]).unwrap();
            let changed = largest_difference(&logits(&adapted, ids), &plain);
            assert!(changed > 1e-4, "{model}: {kind} changes {changed}");
        }
    }
}

#[test]
fn one_that_adds_nothing_changes_no_bit() {
    for model in ["tiny-v4", "tiny-v41"] {
        let (path, file) = base(model);
        let mut nothing = noise(&file, &modules(&file), 1.0, 5);
        for pair in nothing.pairs.values_mut() {
            pair.b.fill(0.0);
        }
        let ids = &ids(model, "long")[..200];
        for precision in [Precision::Exact, Precision::Fast] {
            let base = engine(&path, precision);
            let (_dir, adapter) = load(&base, "nothing", &nothing);
            let adapted = base.with_adapters(vec![adapter]).unwrap();
            // Equal numbers; a sum with zero may turn a negative zero.
            assert!(logits(&adapted, ids) == logits(&base, ids), "{model}");
        }
    }
}

#[test]
fn bits_do_not_depend_on_chunks_and_sessions_stay_apart() {
    for model in ["tiny-v4", "tiny-v41"] {
        let (path, file) = base(model);
        let one = noise(&file, &modules(&file), 0.1, 7);
        let ids = &ids(model, "long")[..150];
        let base = engine(&path, Precision::Fast);
        let (_dir, adapter) = load(&base, "one", &one);
        let adapted = base.with_adapters(vec![adapter]).unwrap();
        let whole = logits(&adapted, ids);
        let mut pieces = Session::new(&adapted, 4096, 37).unwrap();
        let mut plain = Session::new(&base, 4096, 37).unwrap();
        let (mut got, mut beside) = (Vec::new(), Vec::new());
        for piece in ids.chunks(11) {
            got.extend(pieces.append(piece, Want::All).unwrap().data);
            beside.extend(plain.append(piece, Want::All).unwrap().data);
        }
        assert!(got == whole, "{model}");
        assert!(beside == logits(&base, ids), "{model}");
        assert!(beside != got, "{model}");

        // What one has computed is no use to the other.
        let dir = tempfile::tempdir().unwrap();
        let session = dir.path().join("a.session");
        let mut log = SessionLog::open(&session, adapted.fingerprint(), None).unwrap();
        pieces.save(&mut log).unwrap();
        drop(log);
        assert!(SessionLog::open(&session, base.fingerprint(), None).is_err());
        assert!(SessionLog::open(&session, adapted.fingerprint(), None).is_ok());
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let (path, file) = base("tiny-v4");
    let engine = engine(&path, Precision::Fast);
    let all = modules(&file);
    let some = |n: usize| noise(&file, &all[..n], 1.0, 9);
    let refused = |config: &serde_json::Map<_, _>, tensors: &BTreeMap<_, _>| {
        let dir = tempfile::tempdir().unwrap();
        write_folder(dir.path(), config, tensors);
        engine
            .load_adapter("x", dir.path())
            .unwrap_err()
            .to_string()
    };
    let good = some(2);
    let with = |name: &str, shape: &[usize]| {
        let mut tensors = good.tensors();
        let bytes = vec![0; 4 * shape.iter().product::<usize>()];
        tensors.insert(format!("base_model.model.{name}"), (shape.to_vec(), bytes));
        refused(&good.config(), &tensors)
    };
    for (name, shape, why) in [
        ("layers.0.attn.wq_b.lora_A.weight", &[4, 8][..], "lora_B"),
        (
            "layers.0.attn.wkv.lora_magnitude_vector",
            &[8],
            "low-rank pair",
        ),
        ("lm_head.weight", &[8, 8], "low-rank pair"),
        ("embed.lora_embedding_A", &[4, 8], "low-rank pair"),
        ("layers.0.attn.wq_a.lora_A.other.weight", &[4, 8], "twice"),
        ("layers.0.attn.wq_a.lora_A.weight", &[4], "must be a matrix"),
        (
            "layers.0.attn.wq_a.lora_A.weight",
            &[0, 8],
            "must be a matrix",
        ),
        ("layers.0.attn.wq_a.lora_A.weight", &[4, 9], "another model"),
        ("layers.0.attn.wq_a.lora_A.weight", &[5, 8], "rank 4"),
    ] {
        let error = with(name, shape);
        assert!(error.contains(why), "{name}: {error}");
        assert!(error.contains("adapter_model.safetensors"), "{error}");
    }
    let module = |name: &str| {
        let written = Written::noise(4, 1.0, &[(name.to_owned(), 8, 8)], 1);
        refused(&written.config(), &written.tensors())
    };
    for (name, why) in [
        ("layers.0.ffn.experts.3.w1", "routed expert"),
        ("layers.0.ffn.gate", "router"),
        ("layers.77.attn.wkv", "does not have"),
        ("layers.0.attn.v_proj", "another model"),
    ] {
        let error = module(name);
        assert!(error.contains(why) && error.contains(name), "{error}");
    }
    let mut tensors = good.tensors();
    let first = tensors.values_mut().next().unwrap();
    first.1[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    assert!(refused(&good.config(), &tensors).contains("not finite"));
    assert!(refused(&good.config(), &BTreeMap::new()).contains("no tensors"));

    let dir = tempfile::tempdir().unwrap();
    let missing = engine
        .load_adapter("x", dir.path())
        .unwrap_err()
        .to_string();
    assert!(missing.contains("adapter_config.json"), "{missing}");
    good.write(dir.path());
    let file = dir.path().join("adapter_model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    for cut in [0, 7, 8, 20, bytes.len() - 1] {
        std::fs::write(&file, &bytes[..cut]).unwrap();
        assert!(
            engine.load_adapter("x", dir.path()).is_err(),
            "cut at {cut}"
        );
    }
    // For one engine is not for another.
    std::fs::write(&file, &bytes).unwrap();
    let adapter = engine.load_adapter("x", dir.path()).unwrap();
    let other = self::engine(&path, Precision::Fast);
    assert!(other.with_adapters(vec![adapter]).is_err());
}

/// Data may start anywhere in a file that others wrote.
#[test]
fn it_may_lie_anywhere_in_its_file() {
    let (path, file) = base("tiny-v4");
    let engine = engine(&path, Precision::Fast);
    let (dir, adapter) = load(&engine, "x", &noise(&file, &modules(&file), 0.1, 13));
    let ids = &ids("tiny-v4", "long")[..40];
    let aligned = logits(&engine.with_adapters(vec![adapter]).unwrap(), ids);
    let file = dir.path().join("adapter_model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    bytes.insert(8 + header as usize, b' ');
    bytes[..8].copy_from_slice(&(header + 1).to_le_bytes());
    std::fs::write(&file, bytes).unwrap();
    let adapter = engine.load_adapter("x", dir.path()).unwrap();
    assert!(logits(&engine.with_adapters(vec![adapter]).unwrap(), ids) == aligned);
}

#[test]
fn its_memory_counts() {
    let (path, file) = base("tiny-v4");
    let written = noise(&file, &modules(&file), 1.0, 11);
    let dir = tempfile::tempdir().unwrap();
    written.write(dir.path());
    let open = |memory| {
        let options = EngineOptions {
            threads: Some(2),
            memory: Some(memory),
            context: 64,
            chunk: Some(16),
            ..EngineOptions::default()
        };
        Engine::open(&path, options).unwrap()
    };
    let roomy = open(256 << 20);
    let before = roomy.budget().taken();
    let adapter = roomy.load_adapter("x", dir.path()).unwrap();
    assert_eq!(roomy.budget().taken() - before, adapter.bytes() as u64);
    drop(adapter);
    assert_eq!(roomy.budget().taken(), before);
}
