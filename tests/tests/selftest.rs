//! Golden values: stored in a file where it is made, and checked where it is run.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use serde_json::Value;
use v4_files::gguf::GgufFile;
use v4_runtime::golden::{Golden, row_hash};
use v4_tests::numbers::Numbers;
use v4_tests::program::{logits, run, scratch, tiny};

#[test]
fn a_machine_gives_the_bits_of_where_the_model_was_made() {
    for name in ["tiny-v4", "tiny-v41"] {
        let dir = tempfile::tempdir_in(scratch()).unwrap();
        let path = dir.path().join("model.gguf");
        fs::copy(tiny(name, "native", &[]), &path).unwrap();
        let model = path.to_str().unwrap();
        let before = fs::read(&path).unwrap();

        // Without golden values, runs are compared with each other.
        let ended = run("v4-run", ["selftest", model, "--quick"]).ok();
        assert!(
            ended.stderr.contains("no golden values"),
            "{}",
            ended.stderr
        );

        let _ = run("v4-convert", ["golden", model]).ok();
        let after = fs::read(&path).unwrap();
        assert_eq!(before.len(), after.len());
        let data = GgufFile::open(&path).unwrap().header().data_offset as usize;
        assert!(before[data..] == after[data..], "tensors are as they were");
        let golden = Golden::read(&GgufFile::open(&path).unwrap())
            .unwrap()
            .unwrap();
        // Again: the same.
        let _ = run("v4-convert", ["golden", model, "--quiet"]).ok();
        assert!(fs::read(&path).unwrap() == after);

        // They are what `logits` writes.
        let written = Numbers::parse(&logits(&path, &golden.ids, &["--precision", "exact"]));
        let rows: Vec<String> = written
            .floats("logits")
            .chunks_exact(written.floats("logits").len() / golden.ids.len())
            .map(row_hash)
            .collect();
        assert_eq!(rows, golden.exact);

        let ended = run("v4-run", ["selftest", model, "--json", "--quiet"]).ok();
        let report: Value = serde_json::from_slice(&ended.stdout).unwrap();
        assert_eq!(report["golden"], true);
        assert_eq!(report["failed"], 0);
        let ways = report["ways"].as_array().unwrap();
        assert!(ways.len() >= 14, "{} ways", ways.len());
        let scalar = ways.iter().filter(|way| way["kernels"] == "scalar");
        assert!(scalar.count() >= 2, "the portable kernels are among them");

        // A model that computes something else, in one bit of one weight.
        let output = {
            let file = GgufFile::open(&path).unwrap();
            file.position(file.tensor("output_norm.weight").unwrap())
        };
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, output + 2).unwrap();
        file.write_all_at(&[byte[0] ^ 1], output + 2).unwrap();
        let ended = run("v4-run", ["selftest", model, "--quick"]);
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        assert!(ended.stderr.contains("WRONG"), "{}", ended.stderr);
        assert!(
            ended.stderr.contains("the logits of token 0 differ"),
            "{}",
            ended.stderr
        );
    }
}

#[test]
fn another_recipe_has_golden_values_of_its_own() {
    let dir = tempfile::tempdir_in(scratch()).unwrap();
    let (from, to) = (dir.path().join("a.gguf"), dir.path().join("b.gguf"));
    fs::copy(tiny("tiny-v4", "native", &[]), &from).unwrap();
    let _ = run("v4-convert", ["golden", from.to_str().unwrap()]).ok();
    let (from, to) = (from.to_str().unwrap(), to.to_str().unwrap());
    let _ = run("v4-convert", [from, to, "--recipe", "q4", "--quiet"]).ok();
    let file = GgufFile::open(to.as_ref()).unwrap();
    assert!(Golden::has_room(&file));
    assert_eq!(Golden::read(&file).unwrap(), None);
}
