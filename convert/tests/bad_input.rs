//! Damaged, invalid and foreign input: one line that names the file, the item and the
//! remedy, exit code 1, and no file under the final name.

mod common;

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::Ordering;

use common::{Copy, plan, program, refused, scratch, split_shard, text, tiny, write_shard};
use serde_json::{Value, json};
use v4_convert::write::{Watch, WriteError, WriteOptions, write};

const INDEX: &str = "model.safetensors.index.json";
const SHARD: &str = "model-00002-of-00003.safetensors";

#[test]
fn a_shard_is_missing() {
    let copy = Copy::new();
    fs::remove_file(copy.file(SHARD)).unwrap();
    refused(copy.path(), &[SHARD, "the shard is missing", "download it"]);
}

#[test]
fn a_shard_is_cut_short() {
    let copy = Copy::new();
    for length in [0, 7, 8, 1000, 30_000, 5_000_000] {
        let file = File::options().write(true).open(copy.file(SHARD)).unwrap();
        file.set_len(length).unwrap();
        refused(copy.path(), &[SHARD, "download it again"]);
        fs::copy(tiny().join(SHARD), copy.file(SHARD)).unwrap();
    }
}

#[test]
fn a_header_lies() {
    type Edit = Box<dyn Fn(&mut Value)>;
    let tensor = "layers.3.attn.wkv.weight";
    let set = |field: &'static str, value: Value| -> Edit {
        Box::new(move |header: &mut Value| header[tensor][field] = value.clone())
    };
    for (edit, why) in [
        (set("dtype", json!("F8_E5M3")), "unknown dtype"),
        (set("dtype", json!("F32")), "its data has"),
        (set("shape", json!([128, 257])), "its data has"),
        (set("shape", json!([u64::MAX, u64::MAX])), "overflows"),
        (
            set("shape", json!([1, 1, 1, 1, 1, 1, 1, 1, 1])),
            "dimensions",
        ),
        (set("shape", json!(-1)), "header"),
        (
            set("data_offsets", json!([0, 1_000_000_000_000_u64])),
            "bytes of data",
        ),
        (set("data_offsets", json!([32768, 0])), "bytes of data"),
        (set("data_offsets", json!([0, 32768])), "overlaps"),
    ] {
        let copy = Copy::new();
        copy.edit_header(tensor, edit);
        refused(copy.path(), &["model-0000", why, "download it again"]);
    }
    let copy = Copy::new();
    let bytes = fs::read(copy.file(SHARD)).unwrap();
    for claimed in [0, 5, bytes.len() as u64, u64::MAX] {
        let mut bytes = bytes.clone();
        bytes[..8].copy_from_slice(&claimed.to_le_bytes());
        fs::write(copy.file(SHARD), bytes).unwrap();
        refused(copy.path(), &[SHARD, "header"]);
    }
}

#[test]
fn a_name_is_there_twice() {
    let copy = Copy::new();
    let bytes = fs::read(copy.file(SHARD)).unwrap();
    let (header, data) = split_shard(&bytes);
    let json = serde_json::to_string(&header).unwrap();
    let twice = json.replacen(
        "\"layers.3.attn.wkv.weight\"",
        "\"layers.3.attn.wq_a.weight\"",
        1,
    );
    assert_ne!(json, twice);
    write_shard(&copy.file(SHARD), twice.as_bytes(), &data);
    refused(copy.path(), &[SHARD, "layers.3.attn.wq_a.weight", "twice"]);

    let copy = Copy::new();
    let index = fs::read_to_string(copy.file(INDEX)).unwrap();
    let twice = index.replacen("\"hc_head_fn\"", "\"hc_head_base\"", 1);
    fs::write(copy.file(INDEX), twice).unwrap();
    refused(copy.path(), &[INDEX, "hc_head_base", "twice"]);

    let copy = Copy::new();
    let config = fs::read_to_string(copy.file("config.json")).unwrap();
    let twice = config.replacen('{', "{\"hidden_size\": 512,", 1);
    fs::write(copy.file("config.json"), twice).unwrap();
    refused(copy.path(), &["config.json", "hidden_size", "twice"]);
}

#[test]
fn text_is_not_utf_8() {
    for name in [
        "config.json",
        INDEX,
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        let copy = Copy::new();
        let mut bytes = fs::read(copy.file(name)).unwrap();
        let at = bytes.iter().position(|&b| b == b'"').unwrap() + 1;
        bytes[at] = 0xff;
        fs::write(copy.file(name), bytes).unwrap();
        refused(copy.path(), &[name]);
    }
    let copy = Copy::new();
    let mut bytes = fs::read(copy.file(SHARD)).unwrap();
    bytes[10] = 0xff;
    fs::write(copy.file(SHARD), bytes).unwrap();
    refused(copy.path(), &[SHARD, "header"]);
}

#[test]
fn a_tensor_is_missing() {
    let copy = Copy::new();
    copy.edit_json(INDEX, |index| {
        let map = index["weight_map"].as_object_mut().unwrap();
        map.remove("layers.4.ffn.experts.9.w2.scale").unwrap();
    });
    let name = "layers.4.ffn.experts.9.w2.scale";
    refused(
        copy.path(),
        &[name, "is missing", "download the whole checkpoint"],
    );

    let copy = Copy::new();
    copy.edit_json(INDEX, |index| {
        index["weight_map"]["norm.weight"] = json!("model-00001-of-00003.safetensors");
    });
    refused(copy.path(), &["norm.weight", "is not in the shard"]);
}

#[test]
fn the_index_leads_out_of_the_folder() {
    for shard in [
        "../model-00001-of-00003.safetensors",
        "/etc/passwd",
        "..",
        "",
    ] {
        let copy = Copy::new();
        copy.edit_json(INDEX, |index| {
            index["weight_map"]["norm.weight"] = json!(shard)
        });
        refused(
            copy.path(),
            &[INDEX, "norm.weight", "not a plain file name"],
        );
    }
}

#[test]
fn a_tensor_is_stored_otherwise_than_config_json_says() {
    for (field, value) in [
        ("hidden_size", 512),
        ("vocab_size", 4097),
        ("moe_intermediate_size", 512),
        ("num_attention_heads", 16),
        ("head_dim", 256),
        ("q_lora_rank", 256),
        ("o_lora_rank", 256),
        ("index_n_heads", 8),
        ("n_routed_experts", 15),
        ("n_routed_experts", 17),
        ("num_experts_per_tok", 3),
        ("hc_mult", 2),
        ("num_hash_layers", 3),
        ("num_hidden_layers", 5),
    ] {
        let copy = Copy::new();
        copy.edit_json("config.json", |config| {
            config[field] = json!(value);
            if field == "num_hidden_layers" {
                config["compress_ratios"] = json!([0, 4, 0, 128, 4]);
            }
        });
        refused(copy.path(), &["tensor"]);
    }
    let copy = Copy::new();
    copy.edit_json("config.json", |config| {
        config["quantization_config"]["weight_block_size"] = json!([32, 32]);
    });
    refused(
        copy.path(),
        &["attn.wq_a.scale", "config.json requires F8_E8M0 [4, 8]"],
    );

    let copy = Copy::new();
    copy.edit_header("layers.3.attn.wkv.weight", |header| {
        header["layers.3.attn.wkv.weight"]["dtype"] = json!("U8");
    });
    refused(
        copy.path(),
        &["layers.3.attn.wkv.weight", "U8 [128, 256]", "F8_E4M3"],
    );
}

#[test]
fn a_weight_is_nan() {
    for (tensor, at, bytes) in [
        ("layers.1.attn.wo_b.scale", 1, &[255][..]),
        ("layers.1.attn.wo_b.weight", 70_000 % 65_536, &[0x7f]),
        ("layers.1.ffn.experts.3.w2.scale", 2000, &[255]),
        ("layers.1.ffn_norm.weight", 10, &[0xc0, 0x7f]),
        ("layers.1.hc_ffn_fn", 400, &f32::NAN.to_le_bytes()),
        ("embed.weight", 1_000_000, &[0x80, 0xff]),
    ] {
        let copy = Copy::new();
        copy.poke(tensor, at, bytes);
        refused(
            copy.path(),
            &["model-00001", tensor, "row", "download it again"],
        );
    }
    // The highest scales make large codes infinite, small ones not.
    let copy = Copy::new();
    copy.poke("layers.1.ffn.experts.3.w2.scale", 0, &[254]);
    copy.poke("layers.1.ffn.experts.3.w2.weight", 0, &[0x77]);
    refused(
        copy.path(),
        &["layers.1.ffn.experts.3.w2.weight", "infinite"],
    );
}

#[test]
fn a_token_table_names_no_expert() {
    for expert in [16_i64, -1, i64::MAX] {
        let copy = Copy::new();
        copy.poke(
            "layers.1.ffn.gate.tid2eid",
            8 * 2 * 77,
            &expert.to_le_bytes(),
        );
        refused(
            copy.path(),
            &[
                "layers.1.ffn.gate.tid2eid",
                "row 77",
                &format!("expert {expert} of 16"),
            ],
        );
    }
}

#[test]
fn the_architecture_is_another_one() {
    for (model, why) in [
        ("llama", "converts deepseek_v4 and deepseek_v41"),
        ("deepseek_v3", "converts deepseek_v4 and deepseek_v41"),
        ("deepseek_v41_text", "converts deepseek_v4 and deepseek_v41"),
    ] {
        let copy = Copy::new();
        copy.edit_json("config.json", |config| config["model_type"] = json!(model));
        refused(copy.path(), &["config.json", model, why]);
    }
}

#[test]
fn the_tokenizer_is_no_bpe() {
    let copy = Copy::new();
    copy.edit_json("tokenizer.json", |json| {
        json["model"]["type"] = json!("Unigram")
    });
    refused(copy.path(), &["tokenizer.json"]);
    fs::write(copy.file("tokenizer.json"), "{").unwrap();
    refused(copy.path(), &["tokenizer.json"]);
    fs::remove_file(copy.file("tokenizer.json")).unwrap();
    refused(copy.path(), &["tokenizer.json", "no such file"]);
    // More tokens than the model has rows.
    let copy = Copy::new();
    copy.edit_json("tokenizer.json", |json| {
        json["added_tokens"].as_array_mut().unwrap().push(json!({
            "id": 4096, "content": "<extra>", "special": false, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false,
        }));
    });
    refused(copy.path(), &["tokenizer.json"]);
}

#[test]
fn the_input_is_no_model() {
    let dir = scratch();
    let file = dir.path().join("some.gguf");
    refused(&file, &["some.gguf", "no such file"]);
    fs::write(&file, b"GGUF").unwrap();
    refused(&file, &["some.gguf"]);
    fs::write(&file, b"hello, world").unwrap();
    refused(&file, &["some.gguf", "not a GGUF file"]);
    refused(dir.path(), &["config.json", "no such file"]);
    let copy = Copy::new();
    fs::remove_file(copy.file(INDEX)).unwrap();
    refused(copy.path(), &["contains neither"]);
}

#[test]
fn a_recipe_is_wrong() {
    let dir = scratch();
    let out = dir.path().join("out.gguf");
    let recipe = dir.path().join("r.toml");
    fs::write(
        &recipe,
        "base = 'native'\n[[rule]]\ntensors = '*'\ntype = 'q9_k'\n",
    )
    .unwrap();
    for (name, why) in [
        (text(&recipe), "rule 1: type \"q9_k\""),
        ("q5", "no recipe \"q5\""),
    ] {
        let run = program(&[text(&tiny()), text(&out), "--recipe", name]);
        let message = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(run.status.code(), Some(1));
        assert!(message.contains(why), "{message}");
        assert_eq!(message.trim_end().lines().count(), 1, "{message}");
    }
}

#[test]
fn unknown_tensors_are_told() {
    let copy = Copy::new();
    copy.edit_json(INDEX, |index| {
        let map = index["weight_map"].as_object_mut().unwrap();
        map.remove("layers.0.attn.wkv.weight");
    });
    copy.edit_json("config.json", |config| {
        config["num_hidden_layers"] = json!(6)
    });
    refused(copy.path(), &["layers.0.attn.wkv.weight"]);

    let copy = Copy::new();
    copy.edit_json("config.json", |config| {
        config["num_hidden_layers"] = json!(5);
        config["compress_ratios"] = json!([0, 0, 4, 128, 4]);
    });
    let plan = plan(copy.path(), "native");
    let told = plan
        .warnings
        .iter()
        .find(|w| w.contains("are unknown and left out"));
    assert!(told.unwrap().contains("layers.5."), "{:?}", plan.warnings);
}

/// A file system of a few megabytes, if this user may mount one.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(megabytes: u32) -> Option<Self> {
        let dir = scratch();
        let size = format!("size={megabytes}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(dir.path())
            .output();
        if mounted.is_ok_and(|run| run.status.success()) {
            return Some(Self(dir));
        }
        v4_fixtures::skip("mount");
        None
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).output();
    }
}

#[test]
fn a_disk_that_is_too_small_is_noticed_before_the_work() {
    let Some(disk) = SmallDisk::mount(8) else {
        return;
    };
    let out = disk.file("out.gguf");
    let run = program(&[text(&tiny()), text(&out)]);
    let message = String::from_utf8_lossy(&run.stderr).into_owned();
    assert_eq!(run.status.code(), Some(1), "{message}");
    assert!(
        message.contains("the disk is full (21.3 MB more needed"),
        "{message}"
    );
    assert_eq!(message.trim_end().lines().count(), 1, "{message}");
    assert_eq!(
        fs::read_dir(disk.0.path()).unwrap().count(),
        0,
        "nothing is left"
    );
}

#[test]
fn a_disk_that_fills_up_meanwhile_loses_no_work() {
    let Some(disk) = SmallDisk::mount(32) else {
        return;
    };
    let (out, filler) = (disk.file("out.gguf"), disk.file("filler"));
    let plan = plan(&tiny(), "native");
    let options = WriteOptions {
        threads: Some(1),
        ..WriteOptions::default()
    };
    let watch = Watch::default();
    let error = std::thread::scope(|scope| {
        scope.spawn(|| {
            while watch.done.load(Ordering::Relaxed) == 0 {
                std::hint::spin_loop();
            }
            let file = File::create(&filler).unwrap();
            // Takes what is left, in pieces that get smaller.
            let (mut at, mut piece) = (0, 16 << 20);
            while piece >= 4096 {
                let flags = rustix::fs::FallocateFlags::empty();
                match rustix::fs::fallocate(&file, flags, at, piece) {
                    Ok(()) => at += piece,
                    Err(_) => piece /= 2,
                }
            }
        });
        write(&plan, &out, options, &watch)
    });
    let error = error.expect_err("the disk is full");
    assert!(matches!(error, WriteError::NoSpace { .. }), "{error}");
    assert!(error.to_string().contains("free some space"), "{error}");
    assert!(!out.exists());
    // Made empty first: a program that another test is starting may hold it open
    // for a moment, so that removing it alone would not make room yet.
    fs::write(&filler, b"").unwrap();
    fs::remove_file(filler).unwrap();
    let summary = write(&plan, &out, options, &Watch::default()).unwrap();
    assert!(fs::read(&out).unwrap() == common::convert(&tiny(), "native"));
    println!("{} bytes were kept", summary.resumed);
}

#[test]
fn absurd_numbers_and_full_disks_are_no_panic() {
    let dir = scratch();
    let out = dir.path().join("out.gguf");
    for number in ["0", "-1", "18446744073709551615", "65536", "1e30", "nan"] {
        let threads = format!("--threads={number}");
        let run = program(&[text(&tiny()), text(&out), "-q", &threads]);
        assert_eq!(run.status.code(), Some(2), "{number}");
    }
    let model = tiny();
    for args in [
        &["--help"][..],
        &["recipes"],
        &["completion", "bash"],
        &["completion", "zsh"],
        &["completion", "fish"],
        &[text(&model), "--dry-run"],
        &[text(&model), "--dry-run", "--json"],
    ] {
        let full = || File::options().write(true).open("/dev/full").unwrap();
        let program = || {
            let mut program = Command::new(env!("CARGO_BIN_EXE_v4-convert"));
            program.args(args);
            program
        };
        let run = program().stdout(full()).output().unwrap();
        let message = String::from_utf8(run.stderr).unwrap();
        assert!(!message.contains("panicked"), "{args:?}: {message}");
        if args != ["--help"] {
            assert_eq!(run.status.code(), Some(1), "{args:?}: {message}");
            // The cause is said once.
            assert_eq!(message.matches("No space left").count(), 1, "{message}");
        }
        let run = program().stdout(full()).stderr(full()).output().unwrap();
        assert!(matches!(run.status.code(), Some(0 | 1)), "{args:?}");
        let run = program()
            .stdout(std::io::pipe().unwrap().1)
            .output()
            .unwrap();
        assert_eq!(run.status.code(), Some(0), "{args:?}");
    }
}
