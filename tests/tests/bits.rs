//! The bits of every model's logits, as hashes in a table in the repository: they may change
//! on purpose only, together with docs/arithmetic.md and the session format's number.
//!
//! To write the table anew: `V4_WRITE_BITS=1 cargo test --release --workspace --test bits`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use v4_fixtures::fixture;
use v4_tests::numbers::golden_ids;
use v4_tests::program::{bin, scratch, tiny};

fn table() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("bits.txt")
}

/// The hash of all logits of a prompt, computed with the kernels of `isa`.
fn hash(model: &Path, ids: &[u32], [precision, kv]: [&str; 2], isa: &str) -> String {
    let dir = tempfile::tempdir_in(scratch()).unwrap();
    let list = ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
    let (from, to) = (dir.path().join("ids"), dir.path().join("logits"));
    fs::write(&from, list).unwrap();
    let done = std::process::Command::new(bin("v4-run"))
        .env("V4_ISA", isa)
        .arg("logits")
        .arg(model)
        .args(["--threads", "2", "--precision", precision, "--kv", kv, "-q"])
        .arg("--ids")
        .arg(&from)
        .arg("--out")
        .arg(&to)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    blake3::hash(&fs::read(to).unwrap()).to_hex()[..32].to_owned()
}

/// Kernels that this machine has; the program takes its best one for a name that it has not.
fn isas() -> Vec<&'static str> {
    v4_quant::dot::Kernels::all()
        .map(|kernels| kernels.isa().name())
        .collect()
}

#[test]
fn logits_have_the_bits_of_the_table() {
    let models = [
        ("tiny-v4", "native", tiny("tiny-v4", "native", &[])),
        ("tiny-v4", "q2", tiny("tiny-v4", "q2", &[])),
        ("tiny-v4", "lossless", tiny("tiny-v4", "lossless", &[])),
        ("tiny-v4", "q4_k_m", fixture("tiny-v4.llamacpp-q4_k_m.gguf")),
        ("tiny-v4", "iq4_xs", fixture("wild/tiny-v4.iq4_xs.gguf")),
        ("tiny-v4", "iq1_m", fixture("wild/tiny-v4.exps-iq1_m.gguf")),
        ("tiny-v41", "native", tiny("tiny-v41", "native", &[])),
        ("tiny-v41", "lossless", tiny("tiny-v41", "lossless", &[])),
    ];
    let mut found = String::new();
    for (name, file, model) in models {
        let ids = golden_ids(name, "medium");
        for mode in [["fast", "published"], ["exact", "f32"]] {
            // The portable kernels take long: the first tokens stand for all.
            for (ids, which) in [(&ids[..], &isas()[1..]), (&ids[..96], &isas()[..])] {
                let hashes: Vec<String> = which
                    .iter()
                    .map(|isa| hash(&model, ids, mode, isa))
                    .collect();
                assert!(
                    hashes.windows(2).all(|pair| pair[0] == pair[1]),
                    "{name}, {file}, {mode:?}, {} tokens: {which:?} differ: {hashes:?}",
                    ids.len()
                );
                let Some(hash) = hashes.first() else { continue };
                let [precision, kv] = mode;
                let tokens = ids.len();
                writeln!(found, "{name} {file} {precision} {kv} {tokens} {hash}").unwrap();
            }
        }
    }
    if std::env::var_os("V4_WRITE_BITS").is_some() {
        fs::write(table(), found).unwrap();
        return;
    }
    let expected = fs::read_to_string(table()).unwrap();
    for line in found.lines() {
        assert!(
            expected.lines().any(|known| known == line),
            "not in {}, so bits have changed: {line}",
            table().display()
        );
    }
}
