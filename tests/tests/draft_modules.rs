//! Drafts of the tiny checkpoints against their goldens, in every file that a draft module
//! can be in.
//!
//! The goldens were computed in float64 by a plain reference, without activation roundings.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use v4_files::gguf::{Metadata, TensorInfo, Value, encode_header, parse_header};
use v4_fixtures::data;
use v4_runtime::{
    DraftModel, Drafted, Engine, EngineOptions, Hooks, KvPrecision, Precision, Session, Want,
};
use v4_tests::numbers::{Numbers, largest_difference};
use v4_tests::program::{logits, run, scratch, tiny};

/// Float32 against float64 through all layers and blocks.
const BOUND: f32 = 2e-3;
/// Golden logits closer than this may swap places.
const TIE: f32 = 2e-3;
const CASES: [&str; 3] = ["short", "medium", "long"];
const EXACT: [&str; 4] = ["--precision", "exact", "--kv", "f32"];

/// A whole checkpoint with drafts, as `tests/data/assemble` puts it together.
fn assembled(name: &str) -> PathBuf {
    let out = scratch().join(format!("{name}.checkpoint"));
    let (target, _) = name.rsplit_once('-').expect("a name with a kind");
    if fs::create_dir(&out).is_ok() {
        for entry in data().join(name).read_dir().unwrap() {
            let entry = entry.unwrap();
            symlink(entry.path(), out.join(entry.file_name())).unwrap();
        }
        for shard in 1..=3 {
            let from = format!("{target}/model-0000{shard}-of-00003.safetensors");
            let to = format!("model-0000{shard}-of-00004.safetensors");
            symlink(data().join(from), out.join(to)).unwrap();
        }
    }
    out
}

/// The checkpoint converted with these options. Each test converts under a name of its own.
fn converted(name: &str, as_what: &str, options: &[&str]) -> PathBuf {
    let out = scratch().join(format!("{name}.{as_what}.gguf"));
    let checkpoint = assembled(name);
    let args = [checkpoint.as_os_str(), out.as_os_str()];
    let more = ["--quiet", "--recipe", "lossless"];
    let more = more.iter().chain(options).map(OsStr::new);
    let _ = run("v4-convert", args.into_iter().chain(more)).ok();
    out
}

fn golden(name: &str) -> Numbers {
    Numbers::read(&data().join(name).join("drafts.golden.safetensors"))
}

/// Compares with the goldens what the program writes for each case.
fn compare(name: &str, model: &Path, cases: &[&str], options: &[&str]) {
    let golden = golden(name);
    let dspark = name.ends_with("dspark");
    for case in cases {
        let ids = golden.ints(&format!("{case}.ids"));
        let positions = golden.ints(&format!("{case}.positions"));
        let first = usize::try_from(positions[0]).unwrap();
        // So many that the first golden position is among them.
        let last = (ids.len() - 1 - first).to_string();
        let options = [&EXACT[..], &["--drafts", "--last", &last], options].concat();
        let ours = Numbers::parse(&logits(model, ids, &options));
        let own = ours.ints("drafts.positions");
        assert_eq!(own.first(), positions.first());
        let vocab = ours.rows("logits")[0].len();
        let rows = ours.floats("drafts.0.logits").len() / own.len() / vocab;
        assert_eq!(rows, if dspark { 5 } else { 1 });

        let golden_logits = golden.floats(&format!("{case}.logits"));
        let golden_tokens = golden.ints(&format!("{case}.tokens"));
        let margins = golden.floats(&format!("{case}.margins"));
        let (mut error, mut near_ties) = (0f32, 0);
        for (i, position) in positions.iter().enumerate() {
            let at = own.iter().position(|p| p == position).expect("a position");
            // Of row `i` of so many values for each position.
            let of = |values: &[f32], row: usize, each: usize| {
                values[row * each..(row + 1) * each].to_vec()
            };
            let ours_here = of(ours.floats("drafts.0.logits"), at, rows * vocab);
            let golden_here = of(golden_logits, i, rows * vocab);
            error = error.max(largest_difference(&ours_here, &golden_here));
            let tokens = &ours.ints("drafts.tokens")[at * rows..(at + 1) * rows];
            let expected = &golden_tokens[i * rows..(i + 1) * rows];
            // After a token that differs the chain is another one.
            let differs = tokens.iter().zip(expected).position(|(a, b)| a != b);
            if let Some(row) = differs {
                near_ties += 1;
                let margin = margins[i * rows + row];
                assert!(
                    margin < TIE,
                    "{case}: after {position}, draft {row} is {} and not {}, which is better by \
                     {margin}",
                    tokens[row],
                    expected[row]
                );
            }
            if dspark {
                let same = differs.unwrap_or(rows);
                let confidence = of(ours.floats("drafts.confidence"), at, rows);
                let expected = of(golden.floats(&format!("{case}.confidence")), i, rows);
                let off = largest_difference(&confidence[..same], &expected[..same]);
                assert!(
                    off <= BOUND,
                    "{case}: after {position}: confidences off by {off}"
                );
                let width = ours.floats("drafts.main_x").len() / own.len();
                let main_x = of(ours.floats("drafts.main_x"), at, width);
                let expected = of(golden.floats(&format!("{case}.main_x")), i, width);
                let off = largest_difference(&main_x, &expected);
                assert!(
                    off <= BOUND,
                    "{case}: after {position}: main_x off by {off}"
                );
            }
        }
        assert!(error <= BOUND, "{case}: logits off by {error}");
        assert!(near_ties <= 1, "{case}: {near_ties} near ties");
    }
}

#[test]
fn v4_mtp_drafts_are_the_goldens() {
    let name = "tiny-v4-mtp";
    compare(name, &converted(name, "own", &[]), &CASES, &[]);
}

#[test]
fn v4_dspark_drafts_are_the_goldens() {
    let name = "tiny-v4-dspark";
    compare(name, &converted(name, "own", &[]), &CASES, &[]);
}

#[test]
fn v4_1_dspark_drafts_are_the_goldens() {
    let name = "tiny-v41-dspark";
    compare(name, &converted(name, "own", &[]), &CASES, &[]);
}

#[test]
fn drafts_in_a_file_of_their_own_are_the_same() {
    for (name, target) in [
        ("tiny-v4-mtp", "tiny-v4"),
        ("tiny-v4-dspark", "tiny-v4"),
        ("tiny-v41-dspark", "tiny-v41"),
    ] {
        let model = tiny(target, "lossless", &[]);
        let draft = converted(name, "only", &["--drafts", "only"]);
        let draft = draft.to_str().unwrap();
        compare(name, &model, &CASES[..2], &["--model-draft", draft]);
        // The file of the model with its drafts serves as well.
        let both = converted(name, "both", &[]);
        let both = both.to_str().unwrap();
        let ids = &golden(name).ints("short.ids")[..30];
        let with = |draft: &str| {
            let options = [&EXACT[..], &["--drafts", "--model-draft", draft]].concat();
            logits(&model, ids, &options)
        };
        // MTP's projections are one product there: the same but for rounding.
        assert!(name == "tiny-v4-mtp" || with(draft) == with(both), "{name}");
    }
}

fn engine(model: &Path, options: EngineOptions) -> Arc<Engine> {
    let options = EngineOptions {
        drafts: DraftModel::Own,
        ..options
    };
    Engine::open(model, options).unwrap_or_else(|error| panic!("{error}"))
}

fn exact() -> EngineOptions {
    EngineOptions {
        precision: Precision::Exact,
        kv: KvPrecision::F32,
        ..EngineOptions::default()
    }
}

fn ids(numbers: &[i32]) -> Vec<u32> {
    numbers
        .iter()
        .map(|&id| u32::try_from(id).unwrap())
        .collect()
}

/// Drafts after each of the last `n` ids but one, reading them one by one or in chunks.
fn drafts(engine: &Arc<Engine>, ids: &[u32], n: usize, chunk: usize, step: usize) -> Vec<Drafted> {
    let mut session = Session::new(engine, ids.len(), chunk).unwrap();
    let (before, after) = ids.split_at(ids.len() - n);
    session.append(before, Want::None).unwrap();
    let mut all = Vec::new();
    for (i, &next) in after.iter().enumerate() {
        if i % step == 0 {
            all.push(session.draft_after(session.len(), next).unwrap());
        }
        session.append(&[next], Want::None).unwrap();
    }
    all
}

#[test]
fn drafts_are_the_same_bits_however_the_tokens_came() {
    for name in ["tiny-v4-mtp", "tiny-v4-dspark", "tiny-v41-dspark"] {
        let model = converted(name, "bits", &[]);
        let ids = ids(&golden(name).ints("medium.ids")[..200]);
        for options in [exact(), EngineOptions::default()] {
            let with_threads = |n| EngineOptions {
                threads: Some(n),
                ..options.clone()
            };
            let one = drafts(&engine(&model, with_threads(1)), &ids, 24, 512, 1);
            assert_eq!(one.len(), 24);
            assert!(one.iter().all(|drafted| !drafted.drafts.is_empty()));
            let other = engine(&model, with_threads(3));
            assert!(drafts(&other, &ids, 24, 7, 1) == one, "{name}: chunks");
            // Not drafting in between changes nothing.
            let few = drafts(&other, &ids, 24, 64, 5);
            assert!(few.iter().eq(one.iter().step_by(5)), "{name}: steps");
            // Nor does reading all at once.
            let mut session = Session::new(&other, ids.len(), 512).unwrap();
            session.draft_back(24).unwrap();
            session.append(&ids, Want::None).unwrap();
            for (i, drafted) in one.iter().enumerate() {
                let len = ids.len() - 24 + i;
                assert!(
                    session.draft_after(len, ids[len]).unwrap() == *drafted,
                    "{name}: {i}"
                );
            }
        }
    }
}

#[test]
fn drafts_follow_a_session_that_goes_back() {
    for name in ["tiny-v4-mtp", "tiny-v4-dspark", "tiny-v41-dspark"] {
        let model = converted(name, "back", &[]);
        let engine = engine(&model, exact());
        let all = ids(&golden(name).ints("medium.ids")[..180]);
        let (first, second) = (&all[..100], &all[100..]);
        let mut session = Session::new(&engine, 200, 64).unwrap();
        // Where the session can go back to.
        session.append(&first[..70], Want::None).unwrap();
        session.append(&first[70..], Want::None).unwrap();
        session.append(&second[40..], Want::None).unwrap();
        assert!(!session.draft(5).unwrap().is_empty());
        session.rewind(90, &mut Hooks::default()).unwrap();
        session.append(&second[..60], Want::None).unwrap();
        let ours = session.draft_after(150, 7).unwrap();

        let mut fresh = Session::new(&engine, 200, 64).unwrap();
        fresh
            .append(&[&first[..90], &second[..60]].concat(), Want::None)
            .unwrap();
        assert!(fresh.draft_after(150, 7).unwrap() == ours, "{name}");
        // A copy drafts by itself.
        let mut copy = fresh.fork().unwrap();
        fresh.append(&[9, 10], Want::None).unwrap();
        assert!(copy.draft_after(150, 7).unwrap() == ours, "{name}");
        // Nothing is there to draft from.
        fresh.reset();
        assert!(fresh.draft(1).unwrap().is_empty());
        assert!(fresh.draft(1 << 20).is_err());
    }
}

#[test]
fn a_loaded_draft_module_changes_no_logits() {
    let model = converted("tiny-v41-dspark", "target", &[]);
    let ids = ids(golden("tiny-v41-dspark").ints("medium.ids"));
    let run = |drafts: DraftModel| {
        let options = EngineOptions { drafts, ..exact() };
        let engine = Engine::open(&model, options).unwrap();
        let mut session = Session::new(&engine, ids.len(), 32).unwrap();
        session.append(&ids, Want::LastN(3)).unwrap()
    };
    assert!(run(DraftModel::None) == run(DraftModel::Own));
}

#[test]
fn draft_experts_are_streamed_with_the_models() {
    for name in ["tiny-v4-mtp", "tiny-v41-dspark"] {
        let model = converted(name, "streamed", &[]);
        let ids = ids(&golden(name).ints("medium.ids")[..120]);
        let resident = engine(&model, exact());
        let mut options = exact();
        options.experts.most_slots = Some(6);
        let streamed = engine(&model, options);
        let store = streamed.experts().expect("experts are streamed");
        let plan = streamed.plan();
        assert_eq!(store.experts(), plan.experts.count + plan.draft.experts);
        assert!(plan.draft.experts > 0);
        let expected = drafts(&resident, &ids, 6, 64, 1);
        assert!(drafts(&streamed, &ids, 6, 64, 1) == expected, "{name}");
    }
}

#[test]
fn plans_count_a_draft_module_that_is_loaded() {
    let model = converted("tiny-v4-dspark", "plan", &[]);
    let bare = converted("tiny-v4-dspark", "bare", &["--drafts", "drop"]);
    let none = |path: &Path| Engine::open(path, exact()).unwrap();
    let (with, without, loaded) = (none(&model), none(&bare), engine(&model, exact()));
    assert_eq!(with.plan().dense, without.plan().dense);
    assert_eq!(with.plan().experts, without.plan().experts);
    assert_eq!(
        with.weight_bytes_per_token(),
        without.weight_bytes_per_token()
    );
    let draft = loaded.plan().draft;
    let bytes = |path: &Path| fs::metadata(path).unwrap().len();
    let difference = bytes(&model) - bytes(&bare);
    let weights = draft.dense + draft.expert_bytes;
    // But for names and padding.
    assert!(weights <= difference && difference < weights + weights / 4);
    assert_eq!(draft.experts, 3 * 16);
    assert!(loaded.plan().total() >= with.plan().total() + weights);
    assert_eq!(loaded.draft().unwrap().name(), "DSpark");
    assert!(with.draft().is_none());
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
        let ids = &golden(name).ints("short.ids")[..20];
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
    for (i, (key, value, parts)) in [
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
    ]
    .into_iter()
    .enumerate()
    {
        let path = rewritten(&model, &format!("key{i}"), |metadata, _, _| {
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
    for (i, (key, value, parts)) in [
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
    ]
    .into_iter()
    .enumerate()
    {
        let path = rewritten(&draft, &format!("key{i}"), |metadata, _, _| {
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
