//! Files that draft modules are in: of earlier versions, of other models, of other kinds, and
//! damaged.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use v4_files::gguf::{Metadata, TensorInfo, Value, encode_header, parse_header};
use v4_runtime::{DraftModel, Engine, EngineOptions, KvPrecision, Precision, Session, Want};
use v4_tests::drafts::{converted, golden};
use v4_tests::program::{logits, run, scratch, tiny};

const EXACT: [&str; 4] = ["--precision", "exact", "--kv", "f32"];

fn exact() -> EngineOptions {
    EngineOptions {
        precision: Precision::Exact,
        kv: KvPrecision::F32,
        ..EngineOptions::default()
    }
}

fn engine(model: &Path, options: EngineOptions) -> Arc<Engine> {
    let options = EngineOptions {
        drafts: DraftModel::Own,
        ..options
    };
    Engine::open(model, options).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let model = tiny("tiny-v4", "lossless", &[]);
    let out = scratch().join("refused.safetensors");
    let ids = scratch().join("refused.ids");
    fs::write(&ids, "1 2 3 4").unwrap();
    let refused = |draft: &Path, parts: &[&str]| {
        let args = [
            "logits".as_ref(),
            model.as_os_str(),
            "--ids".as_ref(),
            ids.as_os_str(),
        ];
        let more = [
            "--out".as_ref(),
            out.as_os_str(),
            "--drafts".as_ref(),
            "-q".as_ref(),
        ];
        let draft = ["--model-draft".as_ref(), draft.as_os_str()];
        run("v4-run", args.into_iter().chain(more).chain(draft)).failed_with(parts);
    };
    let other = converted("tiny-v41-dspark", "refused", &["--drafts", "only"]);
    refused(
        &other,
        &[
            "tiny-v41-dspark.refused.gguf",
            "is for V4.1",
            "does not fit",
        ],
    );
    let other = converted("tiny-v41-dspark", "refused-own", &[]);
    refused(&other, &["is for deepseek41 models"]);
    refused(&model, &["blk.6.nextn.eh_proj.weight"]);
    let args = [
        "logits".as_ref(),
        model.as_os_str(),
        "--ids".as_ref(),
        ids.as_os_str(),
    ];
    let more = [
        "--out".as_ref(),
        out.as_os_str(),
        "--drafts".as_ref(),
        "-q".as_ref(),
    ];
    run("v4-run", args.into_iter().chain(more)).failed_with(&["has no draft module"]);
}

/// A file with another header, and bytes changed after it.
fn rewritten(
    path: &Path,
    as_what: &str,
    change: impl FnOnce(&mut Metadata, &mut Vec<TensorInfo>, &mut [u8]),
) -> PathBuf {
    let mut bytes = fs::read(path).unwrap();
    let header = parse_header(&bytes, bytes.len() as u64).unwrap();
    let data = usize::try_from(header.data_offset).unwrap();
    let (mut metadata, mut tensors) = (header.metadata.clone(), header.tensors.clone());
    change(&mut metadata, &mut tensors, &mut bytes[data..]);
    let alignment = header.alignment;
    let mut out = encode_header(&metadata, &tensors, alignment).unwrap();
    out.extend_from_slice(&bytes[data..]);
    let stem = path.file_stem().unwrap().to_str().unwrap();
    let path = scratch().join(format!("{stem}-{as_what}.gguf"));
    fs::write(&path, out).unwrap();
    path
}

fn rename(tensors: &mut [TensorInfo], from: &str, to: &str) {
    let tensor = tensors.iter_mut().find(|tensor| tensor.name == from);
    to.clone_into(&mut tensor.unwrap_or_else(|| panic!("no {from}")).name);
}

#[test]
fn files_of_earlier_versions_are_read() {
    for name in ["tiny-v4-dspark", "tiny-v41-dspark"] {
        let new = converted(name, "new", &[]);
        let old = rewritten(&new, "old", |metadata, tensors, _| {
            for (from, to) in [
                ("block_size", "block_size"),
                ("noise_token_id", "noise_token_id"),
                ("target_layer_ids", "target_layers"),
                ("markov_rank", "markov_rank"),
                ("stage_count", "block_count"),
                ("expert_count", "expert_count"),
                ("expert_used_count", "expert_used_count"),
            ] {
                if let Some(value) = metadata.remove(&format!("dspark.{from}")) {
                    metadata.insert(format!("v4.drafts.{to}"), value);
                }
            }
            metadata.remove("dspark.n_layers");
            metadata.insert("v4.drafts.kind", "dspark");
            for part in ["markov_w1", "markov_w2"] {
                let from = format!("mtp.2.markov_head.{part}.weight");
                rename(tensors, &from, &format!("mtp.2.{part}.weight"));
            }
            let from = "mtp.2.confidence_head.proj.weight";
            rename(tensors, from, "mtp.2.confidence_proj.weight");
        });
        let golden = golden(name);
        let ids = &golden.ints("short.ids")[..20];
        let options = [&EXACT[..], &["--drafts"]].concat();
        assert!(logits(&new, ids, &options) == logits(&old, ids, &options));
    }
}

#[test]
fn damaged_modules_are_refused_by_name() {
    let model = converted("tiny-v41-dspark", "sound", &[]);
    let refused = |path: &Path, parts: &[&str]| {
        let options = EngineOptions {
            drafts: DraftModel::Own,
            ..exact()
        };
        let error = Engine::open(path, options)
            .map(|_| ())
            .unwrap_err()
            .to_string();
        for part in parts {
            assert!(error.contains(part), "no {part:?} in: {error}");
        }
        // The model itself is as good as before.
        Engine::open(path, exact()).unwrap_or_else(|error| panic!("{error}"));
    };
    let layers = |ids: &[u32]| Value::from(ids.to_vec());
    for (key, value, parts) in [
        ("block_size", 0u32.into(), &["dspark.block_size"][..]),
        ("block_size", 65u32.into(), &["dspark.block_size", "65"]),
        ("block_size", "five".into(), &["dspark.block_size"]),
        (
            "noise_token_id",
            4096u32.into(),
            &["dspark.noise_token_id", "4096"],
        ),
        (
            "target_layer_ids",
            layers(&[]),
            &["dspark.target_layer_ids"],
        ),
        ("target_layer_ids", layers(&[5, 5, 7]), &["ascending"]),
        (
            "target_layer_ids",
            layers(&[5, 6, 8]),
            &["[5, 6, 8]", "0 to 7"],
        ),
        (
            "target_layer_ids",
            layers(&[6, 7]),
            &["mtp.0.main_proj.weight", "dimensions"],
        ),
        ("markov_rank", 0u32.into(), &["dspark.markov_rank"]),
        (
            "markov_rank",
            65u32.into(),
            &["markov_w1.weight", "dimensions"],
        ),
        ("stage_count", 2u32.into(), &["dspark.stage_count", "not 3"]),
        ("expert_count", 16u32.into(), &["mtp.0.ffn", "dimensions"]),
        ("expert_used_count", 9u32.into(), &["expert_used_count"]),
    ] {
        let path = rewritten(&model, "key", |metadata, _, _| {
            metadata.insert(format!("dspark.{key}"), value);
        });
        refused(&path, parts);
    }
    for key in ["noise_token_id", "target_layer_ids", "expert_used_count"] {
        let path = rewritten(&model, "no-key", |metadata, _, _| {
            metadata.remove(&format!("dspark.{key}"));
        });
        let key = match key {
            "target_layer_ids" => "target_layers",
            key => key,
        };
        refused(&path, &[key, "is missing"]);
    }
    for (from, to, parts) in [
        (
            "mtp.1.attn_norm.weight",
            "mtp.1.attn_norm2.weight",
            &["mtp.1.attn_norm.weight is missing"][..],
        ),
        (
            "mtp.0.exp_probs_b_vl.bias",
            "mtp.0.extra.weight",
            &["mtp.0.extra.weight", "another kind"],
        ),
        (
            "mtp.0.exp_probs_b_vl.bias",
            "mtp.7.extra.weight",
            &["not numbered"],
        ),
    ] {
        let path = rewritten(&model, "tensor", |_, tensors, _| rename(tensors, from, to));
        refused(&path, parts);
    }
    let spoil = |name: &str| {
        rewritten(&model, "spoilt", |_, tensors, data| {
            let tensor = tensors.iter().find(|tensor| tensor.name == name).unwrap();
            let [start, len] = [tensor.offset, tensor.bytes].map(|n| usize::try_from(n).unwrap());
            data[start..start + len].fill(0xff);
        })
    };
    refused(
        &spoil("mtp.2.norm.weight"),
        &["mtp.2.norm.weight", "not finite"],
    );
    // What no draft can be made with is found when it is made.
    for name in [
        "mtp.2.markov_head.markov_w1.weight",
        "mtp.0.main_proj.weight",
    ] {
        let engine = engine(&spoil(name), exact());
        let mut session = Session::new(&engine, 100, 64).unwrap();
        session.append(&[1, 2, 3], Want::None).unwrap();
        let error = session.draft(4).unwrap_err().to_string();
        assert!(
            error.contains("not finite") && error.contains("spoilt.gguf"),
            "{error}"
        );
        session.append(&[4], Want::Last).unwrap();
    }
}

#[test]
fn other_kinds_of_draft_files_are_refused_by_name() {
    let (name, model) = ("tiny-v4-dspark", tiny("tiny-v4", "lossless", &[]));
    let draft = converted(name, "kinds", &["--drafts", "only"]);
    let open = |path: PathBuf| {
        let options = EngineOptions {
            drafts: DraftModel::File { path, hashes: None },
            ..exact()
        };
        Engine::open(&model, options)
    };
    let refused = |path: PathBuf, parts: &[&str]| {
        let error = open(path).map(|_| ()).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "no {part:?} in: {error}");
        }
    };
    for (key, value, parts) in [
        (
            "dflash.sample_from_anchor",
            false.into(),
            &["sample_from_anchor is false"][..],
        ),
        (
            "dflash.attention.causal",
            true.into(),
            &["attention.causal is true"],
        ),
        (
            "dflash.embedding_length",
            512u32.into(),
            &["width of 512, not 256"],
        ),
        (
            "dflash.vocab_size",
            4000u32.into(),
            &["vocabulary of 4000, not 4096"],
        ),
        (
            "dflash.hyper_connection.count",
            2u32.into(),
            &["streams of 2, not 4"],
        ),
        (
            "dflash.hyper_connection.single_pass",
            true.into(),
            &["is for V4.1"],
        ),
        (
            "dflash.target_layers",
            Value::from(vec![3u32, 4, 7]),
            &["[3, 4, 7]", "1 to 6"],
        ),
        (
            "dflash.attention.compress_ratios",
            Value::from(vec![0u32, 4, 0]),
            &["not all 0"],
        ),
        (
            "tokenizer.ggml.mask_token_id",
            5000u32.into(),
            &["mask_token_id is 5000"],
        ),
        (
            "general.architecture",
            "llama".into(),
            &["\"llama\"", "no draft"],
        ),
    ] {
        let path = rewritten(&draft, "key", |metadata, _, _| {
            metadata.insert(key, value);
        });
        refused(path, parts);
    }
    for other in [
        "joint_proj.weight",
        "selector_hidden.weight",
        "d2t",
        "mask_embd.weight",
    ] {
        let path = rewritten(&draft, "tensor", |_, tensors, _| {
            rename(tensors, "conf_proj.weight", other);
        });
        refused(path, &[other, "another kind"]);
    }
    // Without a confidence head there are drafts all the same.
    let path = rewritten(&draft, "unsure", |metadata, _, _| {
        metadata.insert("dflash.has_confidence_head", false);
    });
    let engine = open(path).unwrap();
    let mut session = Session::new(&engine, 100, 64).unwrap();
    session.append(&[1, 2, 3], Want::None).unwrap();
    let drafts = session.draft(4).unwrap();
    assert_eq!(drafts.len(), 5);
    assert!(drafts.iter().all(|draft| draft.confidence.is_none()));
}
