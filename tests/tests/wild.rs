//! Files as other programs write them: low-bit experts, llama.cpp's layout of V4.1, and
//! sets of several parts. Their logits are those of an independent decoder and a float64
//! reference.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use v4_files::gguf::{GgufFile, PAGE_ALIGNMENT, PartName, encode_header, layout_offsets};
use v4_fixtures::fixture;
use v4_runtime::residency::engram::{EngramOptions, EngramPlacement};
use v4_runtime::residency::experts::ExpertOptions;
use v4_runtime::{Engine, EngineOptions, KvPrecision, Precision, Session, Want, WeightPlacement};
use v4_tests::numbers::Numbers;
use v4_tests::program::{run, scratch};

/// The set's first part; the others lie beside it.
fn set() -> PathBuf {
    let parts = (1..=5).map(|n| {
        let name = format!("wild/split/tiny-v41.d-q2-{n:05}-of-00005.gguf");
        fixture(&name)
    });
    let parts: Vec<PathBuf> = parts.collect();
    assert!(parts.iter().all(|p| p.parent() == parts[0].parent()));
    parts[0].clone()
}

fn golden() -> Numbers {
    Numbers::read(&fixture("wild/golden.safetensors"))
}

fn ids() -> Vec<u32> {
    let golden = golden();
    let ids = golden.ints("ids").iter();
    ids.map(|&id| u32::try_from(id).unwrap()).collect()
}

fn logits(model: &Path, options: EngineOptions) -> Vec<f32> {
    let engine = Engine::open(model, options).unwrap();
    let mut session = Session::new(&engine, ids().len(), 64).unwrap();
    session.append(&ids(), Want::All).unwrap().data
}

fn exact() -> EngineOptions {
    EngineOptions {
        threads: Some(2),
        precision: Precision::Exact,
        kv: KvPrecision::F32,
        ..EngineOptions::default()
    }
}

fn fast() -> EngineOptions {
    EngineOptions {
        threads: Some(2),
        ..EngineOptions::default()
    }
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn logits_are_the_golden_ones() {
    let golden = golden();
    let models = [
        ("tiny-v41.llamacpp", fixture("wild/tiny-v41.llamacpp.gguf")),
        (
            "tiny-v4.exps-iq1_m",
            fixture("wild/tiny-v4.exps-iq1_m.gguf"),
        ),
        ("tiny-v4.iq4_xs", fixture("wild/tiny-v4.iq4_xs.gguf")),
        ("tiny-v41.d-q2", set()),
    ];
    for (name, model) in models {
        let found = logits(&model, exact());
        let vocab = found.len() / ids().len();
        let best = |row: &[f32]| {
            let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
            best.unwrap().0 as i32
        };
        let rows: Vec<&[f32]> = found.chunks_exact(vocab).collect();
        let argmax: Vec<i32> = rows.iter().map(|row| best(row)).collect();
        assert_eq!(argmax, golden.ints(&format!("{name}.argmax")), "{name}");
        let positions = golden.ints(&format!("{name}.positions"));
        let expected = golden.rows(&format!("{name}.logits"));
        let mut worst = 0f32;
        for (&position, expected) in positions.iter().zip(expected) {
            let row = rows[position as usize];
            let off = row.iter().zip(expected).map(|(a, b)| (a - b).abs());
            worst = off.fold(worst, f32::max);
        }
        println!("{name}: off by {worst:e} at most");
        assert!(worst < 2e-3, "{name}: {worst}");
    }
}

/// The parts of a set as one file.
fn merged(first: &Path, to: &Path) {
    let file = GgufFile::open(first).unwrap();
    let shapes = file.tensors().iter();
    let shapes = shapes.map(|t| (t.name.clone(), t.ty, t.dims.clone()));
    let infos = layout_offsets(shapes, PAGE_ALIGNMENT).unwrap();
    let mut metadata = file.metadata().clone();
    metadata.insert("general.alignment", PAGE_ALIGNMENT as u32);
    let mut bytes = encode_header(&metadata, &infos, PAGE_ALIGNMENT).unwrap();
    let data = bytes.len();
    for (info, tensor) in infos.iter().zip(file.tensors()) {
        bytes.resize(data + info.offset as usize, 0);
        bytes.extend_from_slice(file.data(tensor));
    }
    fs::write(to, bytes).unwrap();
}

#[test]
fn a_set_gives_the_bits_of_one_file_wherever_its_weights_are() {
    let dir = tempfile::tempdir_in(scratch()).unwrap();
    let one = dir.path().join("one.gguf");
    merged(&set(), &one);
    let expected = bits(&logits(&one, fast()));
    let experts = |most| ExpertOptions {
        most_slots: Some(most),
        ..ExpertOptions::default()
    };
    let in_memory = EngramOptions {
        placement: EngramPlacement::Memory,
        ..EngramOptions::default()
    };
    let ways = [
        ("mapped", fast()),
        (
            "streamed",
            EngineOptions {
                experts: experts(3),
                ..fast()
            },
        ),
        (
            "copied",
            EngineOptions {
                weights: WeightPlacement::Copied,
                ..fast()
            },
        ),
        (
            "tables in memory",
            EngineOptions {
                engram: in_memory,
                ..fast()
            },
        ),
    ];
    for (way, options) in ways {
        assert!(bits(&logits(&set(), options)) == expected, "{way}");
    }
    // Where there are no direct reads.
    if let Ok(shm) = tempfile::tempdir_in("/dev/shm") {
        let name = PartName::parse(&set()).unwrap();
        for number in 1..=name.count {
            let part = name.path_of(number);
            fs::copy(&part, shm.path().join(part.file_name().unwrap())).unwrap();
        }
        let copy = shm.path().join(set().file_name().unwrap());
        let options = EngineOptions {
            experts: experts(3),
            ..fast()
        };
        assert!(bits(&logits(&copy, options)) == expected, "in memory");
    }
}

/// A copy of the set in a folder of its own.
fn copy() -> (tempfile::TempDir, PartName) {
    let dir = tempfile::tempdir_in(scratch()).unwrap();
    let name = PartName::parse(&set()).unwrap();
    for number in 1..=name.count {
        let part = name.path_of(number);
        fs::copy(&part, dir.path().join(part.file_name().unwrap())).unwrap();
    }
    let name = PartName::parse(&dir.path().join(set().file_name().unwrap())).unwrap();
    (dir, name)
}

#[test]
fn commands_take_the_first_part_and_name_the_part_at_fault() {
    let (_dir, name) = copy();
    let first = name.path_of(1);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let inspected = run("v4-convert", ["inspect", &text(&first), "--json"]).ok();
    assert!(inspected.text().contains("-00005-of-00005.gguf"));
    let _ = run("v4-run", ["plan", &text(&first)]).ok();
    let said = run(
        "v4-run",
        [
            "complete",
            &text(&first),
            "-p",
            "fn",
            "-n",
            "4",
            "--temp",
            "0",
        ],
    )
    .ok();
    assert!(!said.text().is_empty());
    let other = run("v4-run", ["complete", &text(&name.path_of(3)), "-p", "fn"]);
    other.failed_with(&["part 3 of 5", "00001-of-00005"]);
    fs::remove_file(name.path_of(4)).unwrap();
    let gone = run("v4-run", ["complete", &text(&first), "-p", "fn"]);
    gone.failed_with(&["00004-of-00005", "missing"]);
}

#[test]
fn one_signature_vouches_for_all_parts() {
    use v4_trust::{Keys, Policy, Verify, check, new_key_pair, replace};
    let (dir, name) = copy();
    let first = name.path_of(1);
    let (public_text, secret_text) = new_key_pair(None).unwrap();
    let (public, secret) = (dir.path().join("k.pub"), dir.path().join("k.key"));
    fs::write(&public, public_text).unwrap();
    replace(&secret, secret_text.as_bytes(), true).unwrap();
    let key = secret.to_str().unwrap();
    let _ = run(
        "v4-convert",
        ["sign", first.to_str().unwrap(), "--key", key],
    )
    .ok();
    let mut keys = Keys::default();
    keys.add(public.to_str().unwrap()).unwrap();
    let policy = Policy {
        keys,
        require_signed: true,
        verify: Verify::Whole,
    };
    let whole = check(&first, &policy, &|_, _| true).unwrap();
    let manifest = whole.manifest.clone().unwrap();
    assert_eq!(manifest.parts.len(), 5);
    let expected = bits(&logits(&set(), fast()));
    let checked = |most| EngineOptions {
        hashes: whole.hashes.clone(),
        experts: ExpertOptions {
            most_slots: most,
            ..ExpertOptions::default()
        },
        ..fast()
    };
    for most in [None, Some(3)] {
        assert!(bits(&logits(&first, checked(most))) == expected, "{most:?}");
    }
    // One bit of any part, in its header or its data: named, and never a token.
    for number in 1..=name.count {
        let path = name.path_of(number);
        let good = fs::read(&path).unwrap();
        for at in [40, good.len() / 2, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            let error = check(&first, &policy, &|_, _| true)
                .unwrap_err()
                .to_string();
            assert!(
                error.contains(path.file_name().unwrap().to_str().unwrap()),
                "{error}"
            );
            for most in [None, Some(3)] {
                let ran = Engine::open(&first, checked(most)).and_then(|engine| {
                    let mut session = Session::new(&engine, ids().len(), 64)?;
                    session.append(&ids(), Want::All)
                });
                match ran {
                    Err(error) => assert!(error.is_altered(), "{error}"),
                    // A row of a table or of the embeddings that no token here selects.
                    Ok(logits) => assert!(bits(&logits.data) == expected, "part {number}, {at}"),
                }
            }
        }
        fs::write(&path, &good).unwrap();
    }
    // Parts in each other's places.
    let [second, third] = [2, 3].map(|n| fs::read(name.path_of(n)).unwrap());
    fs::write(name.path_of(2), &third).unwrap();
    let error = check(&first, &policy, &|_, _| true)
        .unwrap_err()
        .to_string();
    assert!(error.contains("00002-of-00005"), "{error}");
    fs::write(name.path_of(2), &second).unwrap();
    assert!(check(&first, &policy, &|_, _| true).unwrap().whole);
}

#[test]
fn a_part_replaced_while_the_engine_runs_ends_it() {
    let (_dir, name) = copy();
    let engine = Engine::open(&name.path_of(1), fast()).unwrap();
    let mut session = Session::new(&engine, 64, 16).unwrap();
    session.append(&ids()[..16], Want::Last).unwrap();
    let path = name.path_of(3);
    let data = fs::read(&path).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    fs::write(&path, &data).unwrap();
    let error = session
        .append(&ids()[16..32], Want::Last)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("00003-of-00005") && error.contains("modified"),
        "{error}"
    );
    drop(Arc::clone(&engine));
}
