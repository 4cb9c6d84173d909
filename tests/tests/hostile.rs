//! Damaged files through the programs: an error or an answer, never a crash.

use std::fs;
use std::path::{Path, PathBuf};

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use v4_files::gguf::GgufFile;
use v4_tests::program::{Ended, data, run, scratch, tiny, tiny_v4};

/// Exit code 0, or 1 with one line; a signal or 101 is a crash.
fn survived(ended: &Ended, mutation: &str) -> bool {
    match ended.code {
        Some(0) => true,
        Some(1) => {
            let lines = ended.stderr.trim_end().lines().count();
            assert_eq!(lines, 1, "{mutation}: {}\n{}", ended.command, ended.stderr);
            false
        }
        other => panic!(
            "{mutation}: {} ended with {other:?}\n{}",
            ended.command, ended.stderr
        ),
    }
}

/// Where a file's structure is: what precedes the data.
fn header_bytes(file: &[u8]) -> usize {
    match file.get(..4) {
        Some(b"GGUF") => file.len().min(200_000),
        // safetensors: the header's length, then the header.
        _ => u64::from_le_bytes(file[..8].try_into().unwrap()) as usize + 8,
    }
}

/// One random change, most of them in the header; says what it did.
fn mutate(file: &mut Vec<u8>, rng: &mut SmallRng) -> String {
    let header = header_bytes(file);
    let at = if rng.random_bool(0.9) {
        rng.random_range(0..header)
    } else {
        rng.random_range(0..file.len())
    };
    let width = *[1usize, 4, 8].choose(rng).unwrap();
    let end = (at + width).min(file.len());
    match rng.random_range(0..6) {
        0 => {
            let bit = rng.random_range(0..8);
            file[at] ^= 1 << bit;
            format!("bit {bit} of byte {at} flipped")
        }
        1 => {
            file[at..end].fill(0xFF);
            format!("{width} bytes at {at} set to 255")
        }
        2 => {
            file[at..end].fill(0);
            format!("{width} bytes at {at} set to 0")
        }
        3 => {
            rng.fill(&mut file[at..end]);
            format!("{width} bytes at {at} random")
        }
        4 => {
            file.truncate(at);
            format!("cut to {at} bytes")
        }
        _ => {
            let from = rng.random_range(0..header);
            let copied = file[from..(from + width).min(file.len())].to_vec();
            let end = (at + copied.len()).min(file.len());
            file.splice(at..end, copied);
            format!("{width} bytes copied from {from} to {at}")
        }
    }
}

fn path_args<'a>(args: &[&'a str], paths: &[&'a Path]) -> Vec<&'a Path> {
    let args = args.iter().map(|a| Path::new(*a));
    args.chain(paths.iter().copied()).collect()
}

#[test]
fn mutated_v4_files_are_refused_or_run() {
    mutated("tiny-v4", 8);
}

#[test]
fn mutated_v4_1_files_are_refused_or_run() {
    mutated("tiny-v41", 11);
}

fn mutated(model: &str, seed: u64) {
    const FILES: usize = 120;
    let original = fs::read(tiny(model, "native", &[])).unwrap();
    let path = scratch().join(format!("mutated-{model}.gguf"));
    let ids = scratch().join(format!("few-{model}.ids"));
    fs::write(&ids, "0 5 17 300").unwrap();
    let out = scratch().join(format!("mutated-{model}.safetensors"));
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut refused = 0;
    for _ in 0..FILES {
        let mut file = original.clone();
        let mutation = mutate(&mut file, &mut rng);
        fs::write(&path, &file).unwrap();
        let inspected = run("v4-convert", path_args(&["inspect"], &[&path]));
        survived(&inspected, &mutation);
        let logits = ["logits", "--quiet"];
        let files = [&*path, "--ids".as_ref(), &ids, "--out".as_ref(), &out];
        let ran = run("v4-run", path_args(&logits, &files));
        refused += usize::from(!survived(&ran, &mutation));
    }
    println!(
        "{FILES} mutated {model} files: {refused} refused, {} run",
        FILES - refused
    );
    assert!(
        (12..FILES).contains(&refused),
        "{refused} refused: mutations miss the structure"
    );
}

/// A copy of the tiny checkpoint, big files shared with the original.
fn checkpoint_copy(name: &str) -> PathBuf {
    let dir = scratch().join(name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    for entry in fs::read_dir(data("tiny-v4")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "golden.safetensors" {
            fs::copy(entry.path(), dir.join(entry.file_name())).unwrap();
        }
    }
    dir
}

#[test]
fn mutated_checkpoints_are_refused_or_converted() {
    let dir = checkpoint_copy("mutated");
    let out = scratch().join("from-mutated.gguf");
    let shard = dir.join("model-00002-of-00003.safetensors");
    let original = fs::read(&shard).unwrap();
    let mut rng = SmallRng::seed_from_u64(9);
    let mut refused = 0;
    for _ in 0..60 {
        let mut file = original.clone();
        let mutation = mutate(&mut file, &mut rng);
        fs::write(&shard, &file).unwrap();
        let args = path_args(&["--quiet", "--force"], &[&dir, &out]);
        let _ = fs::remove_file(&out);
        if !survived(&run("v4-convert", args), &mutation) {
            refused += 1;
            assert!(
                !out.exists(),
                "{mutation}: an output of a failed conversion"
            );
        }
    }
    println!("60 mutated shards: {refused} refused");
    assert!(
        (10..60).contains(&refused),
        "{refused} refused: mutations miss the structure"
    );
}

/// Replaces `from` by `to` in a text file; `from` must be there.
fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{}: no {from}", path.display());
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn broken_checkpoints_name_file_and_item() {
    let out = scratch().join("broken.gguf");
    let convert = |dir: &Path, parts: &[&str]| {
        let ended = run("v4-convert", [dir, &out]);
        ended.failed_with(parts);
        assert!(!out.exists(), "half-written output under the final name");
    };

    convert(&scratch().join("nowhere"), &["nowhere"]);

    let dir = checkpoint_copy("no-shard");
    fs::remove_file(dir.join("model-00002-of-00003.safetensors")).unwrap();
    convert(&dir, &["model-00002-of-00003.safetensors"]);

    let dir = checkpoint_copy("cut-shard");
    let shard = dir.join("model-00003-of-00003.safetensors");
    let bytes = fs::read(&shard).unwrap();
    fs::write(&shard, &bytes[..bytes.len() - 1]).unwrap();
    convert(&dir, &["model-00003-of-00003.safetensors"]);

    let dir = checkpoint_copy("no-config");
    fs::remove_file(dir.join("config.json")).unwrap();
    convert(&dir, &["config.json"]);

    let dir = checkpoint_copy("other-architecture");
    edit(&dir.join("config.json"), "\"deepseek_v4\"", "\"llama\"");
    convert(&dir, &["config.json", "llama"]);

    let dir = checkpoint_copy("wrong-dimension");
    edit(
        &dir.join("config.json"),
        "\"q_lora_rank\": 128",
        "\"q_lora_rank\": 256",
    );
    convert(&dir, &["wq_a"]);

    let dir = checkpoint_copy("missing-tensor");
    let index = dir.join("model.safetensors.index.json");
    edit(
        &index,
        "\"layers.3.attn.wkv.weight\"",
        "\"layers.3.attn.other.weight\"",
    );
    convert(&dir, &["layers.3.attn"]);

    let dir = checkpoint_copy("no-bpe");
    edit(
        &dir.join("tokenizer.json"),
        "\"type\": \"BPE\"",
        "\"type\": \"WordPiece\"",
    );
    convert(&dir, &["tokenizer.json"]);

    let dir = checkpoint_copy("no-json");
    fs::write(dir.join("config.json"), b"{\"a\": \xff").unwrap();
    convert(&dir, &["config.json"]);
}

#[test]
fn broken_models_name_file_and_remedy() {
    let not_gguf = scratch().join("not.gguf");
    fs::write(&not_gguf, "hello").unwrap();
    let missing = scratch().join("missing.gguf");
    for (path, name) in [(&not_gguf, "not.gguf"), (&missing, "missing.gguf")] {
        let ask = ["-p".as_ref(), "hi".as_ref()];
        run("v4-run", [path.as_os_str()].into_iter().chain(ask)).failed_with(&[name]);
        run("v4-convert", path_args(&["inspect"], &[path])).failed_with(&[name]);
    }
    let model = tiny_v4("native");
    let ids = scratch().join("bad.ids");
    let out = scratch().join("bad.safetensors");
    for (text, part) in [
        ("0 4096", "4096"),
        ("0 -1", "-1"),
        ("0 x", "x"),
        ("", "bad.ids"),
    ] {
        fs::write(&ids, text).unwrap();
        let files = [&*model, "--ids".as_ref(), &ids, "--out".as_ref(), &out];
        run("v4-run", path_args(&["logits"], &files)).failed_with(&["bad.ids", part]);
        assert!(!out.exists());
    }
}

/// Rows are checked when they are read: a table of garbage is an error that
/// names the tensor and a row, not an answer.
#[test]
fn a_damaged_engram_row_is_named() {
    for (engram, name, bytes) in [
        ("fp8", "blk.3.engram_embd.weight", 0xFF),
        ("q8_0", "per_layer_token_embd.weight", 0x7C),
    ] {
        let model = tiny("tiny-v41", "native", &["--engram", engram]);
        let file = GgufFile::open(&model).unwrap();
        let table = file.tensor(name).unwrap().clone();
        let mut damaged = fs::read(&model).unwrap();
        let start = damaged.len() - usize::try_from(table.bytes).unwrap();
        // The last table ends the file.
        damaged[start..].fill(bytes);
        let path = scratch().join(format!("damaged-{engram}.gguf"));
        fs::write(&path, damaged).unwrap();
        let ids = scratch().join("engram.ids");
        fs::write(&ids, "0 5 17 300").unwrap();
        let out = scratch().join("damaged.safetensors");
        let files = [&*path, "--ids".as_ref(), &ids, "--out".as_ref(), &out];
        run("v4-run", path_args(&["logits"], &files)).failed_with(&[
            &format!("damaged-{engram}.gguf"),
            name,
            "row ",
        ]);
        assert!(!out.exists());
    }
}

#[test]
fn a_full_disk_ends_a_conversion_with_one_line() {
    // A limit on file size fails writes as a full disk does, without a file system
    // of our own. Ignoring the limit's signal leaves the error to the converter.
    let out = scratch().join("too-big.gguf");
    let script = "trap '' XFSZ; ulimit -f 4096; exec \"$0\" \"$1\" \"$2\" --quiet";
    let ended = std::process::Command::new("bash")
        .args(["-c", script])
        .arg(v4_tests::program::bin("v4-convert"))
        .args([&data("tiny-v4"), &out])
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.trim_end().lines().count(), 1, "{stderr}");
    assert!(stderr.contains("too-big.gguf"), "{stderr}");
    assert!(!out.exists());
}
