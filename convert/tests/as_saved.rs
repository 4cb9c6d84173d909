//! Checkpoints as other programs save or store them: accepted if they have the same meaning
//! as the published ones, refused with a remedy if not.

mod common;

use std::fs;

use common::{Copy, plan, refused, text, tiny, tiny41};
use serde_json::{Value, json};
use v4_convert::plan::Plan;

const INDEX: &str = "model.safetensors.index.json";
const SHARD: &str = "model-00002-of-00003.safetensors";
const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:\
     abababababababababababababababababababababababababababababababab\nsize 5623796\n";

/// Sees that a copy's plan is that of the published checkpoint, but for the text of
/// config.json that it keeps.
#[track_caller]
fn same_as_published(copy: &Copy) {
    let facts = |mut plan: Plan| {
        plan.metadata.remove("v4.source.config").unwrap();
        plan.metadata
    };
    assert_eq!(
        facts(plan(copy.path(), "native")),
        facts(plan(&tiny(), "native"))
    );
}

fn config(edit: impl FnOnce(&mut Value)) -> Copy {
    let copy = Copy::new();
    copy.edit_json("config.json", edit);
    copy
}

/// Moves what config.json says of rotary embeddings to where newer versions of
/// `transformers` keep it.
fn rope_parameters(config: &mut Value) {
    let fields = config.as_object_mut().unwrap();
    let mut compress = fields.remove("rope_scaling").unwrap();
    if let Some(kind) = compress.as_object_mut().unwrap().remove("type") {
        compress["rope_type"] = kind;
    }
    compress["rope_theta"] = fields.remove("compress_rope_theta").unwrap();
    let theta = fields.remove("rope_theta").unwrap();
    let main = json!({"rope_type": "default", "rope_theta": theta});
    config["rope_parameters"] = json!({"main": main, "compress": compress});
}

#[test]
fn a_mark_may_stand_in_a_list() {
    for field in ["eos_token_id", "bos_token_id"] {
        same_as_published(&config(|c| c[field] = json!([c[field].clone()])));
        same_as_published(&config(|c| {
            c[field] = json!([c[field].clone(), c[field].clone()]);
        }));
        for bad in [
            json!([]),
            json!([1, 2]),
            json!([[1]]),
            json!([4096]),
            json!(["1"]),
        ] {
            let copy = config(|c| c[field] = bad.clone());
            refused(copy.path(), &["config.json", field, "must be"]);
        }
    }
}

#[test]
fn rotary_embeddings_may_be_under_their_newer_name() {
    same_as_published(&config(rope_parameters));
    // Old and new names side by side, as some save them for older readers.
    same_as_published(&config(|c| {
        let old = c.clone();
        rope_parameters(c);
        for field in ["rope_scaling", "rope_theta", "compress_rope_theta"] {
            c[field] = old[field].clone();
        }
    }));
    // All in one level.
    same_as_published(&config(|c| {
        let fields = c.as_object_mut().unwrap();
        let mut all = fields.remove("rope_scaling").unwrap();
        all["rope_theta"] = fields.remove("rope_theta").unwrap();
        c["rope_parameters"] = all;
    }));
    type Edit = fn(&mut Value);
    let bad: [(Edit, &str); 6] = [
        (
            |c| c["rope_theta"] = json!(5),
            "`rope_parameters.main.rope_theta`",
        ),
        (
            |c| c["compress_rope_theta"] = json!(5),
            "`rope_parameters.compress.rope_theta`",
        ),
        (
            |c| c["rope_scaling"] = json!({"type": "yarn", "factor": 4, "beta_fast": 32, "beta_slow": 1, "original_max_position_embeddings": 1024}),
            "`rope_scaling`",
        ),
        (
            |c| c["rope_parameters"]["main"]["rope_type"] = json!("linear"),
            "`rope_parameters.main.rope_type`",
        ),
        (
            |c| c["rope_parameters"]["compress"]["attention_factor"] = json!(1.2),
            "`rope_parameters.compress.attention_factor`",
        ),
        (
            |c| c["rope_parameters"]["compress"] = Value::Null,
            "`rope_parameters.compress` is missing",
        ),
    ];
    for (edit, field) in bad {
        let copy = config(|c| {
            rope_parameters(c);
            edit(c);
        });
        refused(copy.path(), &["config.json", field]);
    }
}

#[test]
fn json_may_have_what_python_and_editors_put_there() {
    let copy = Copy::new();
    let with = |change: &dyn Fn(&str) -> String| {
        let text = fs::read_to_string(tiny().join("config.json")).unwrap();
        fs::write(copy.file("config.json"), change(&text)).unwrap();
    };
    with(&|text| format!("\u{feff}{text}"));
    same_as_published(&copy);
    for number in ["NaN", "Infinity", "-Infinity"] {
        with(&|text| text.replacen('{', &format!("{{\"initializer_range\": {number},"), 1));
        same_as_published(&copy);
    }
    with(&|text| text.replacen('{', "{\"x\": \"NaN\", \"y\": [-Infinity],", 1));
    same_as_published(&copy);
    // One that is needed is still a number.
    let text = fs::read_to_string(tiny().join("config.json")).unwrap();
    let mut fields: Value = serde_json::from_str(&text).unwrap();
    fields["rms_norm_eps"] = json!("@");
    let text = fields.to_string().replace("\"@\"", "NaN");
    fs::write(copy.file("config.json"), text).unwrap();
    refused(
        copy.path(),
        &["`rms_norm_eps` is \"NaN\"", "positive number"],
    );

    let copy = Copy::new();
    for name in ["tokenizer.json", "tokenizer_config.json", INDEX] {
        let text = fs::read_to_string(copy.file(name)).unwrap();
        fs::write(copy.file(name), format!("\u{feff}{text}")).unwrap();
    }
    same_as_published(&copy);
    fs::write(
        copy.file("tokenizer_config.json"),
        "{\"model_max_length\": Infinity}",
    )
    .unwrap();
    plan(copy.path(), "native");
}

#[test]
fn experts_in_another_form_are_named() {
    let fp8 = ["fp8", "expert", "FP4"];
    refused(config(|c| c["expert_dtype"] = json!("fp8")).path(), &fp8);
    let copy = config(|c| {
        c.as_object_mut().unwrap().remove("expert_dtype");
        c["quantization_config"]["expert_dtype"] = json!("fp8");
    });
    refused(copy.path(), &fp8);
    let copy = config(|c| {
        c["quantization_config"] = json!({"quant_method": "compressed-tensors", "format": "x4"});
    });
    refused(copy.path(), &["x4", "compressed-tensors", "expert"]);
    // Tensors tell their forms themselves.
    same_as_published(&config(|c| {
        c.as_object_mut().unwrap().remove("quantization_config");
    }));
    for (dtype, word) in [("F8_E4M3", "requires F8_E4M3"), ("U8", "NVFP4")] {
        let copy = Copy::new();
        let tensor = "layers.0.ffn.experts.0.w1.weight";
        copy.edit_header(tensor, |header| header[tensor]["dtype"] = json!(dtype));
        refused(copy.path(), &[tensor, word]);
    }
}

#[test]
fn tensors_under_other_names_lead_to_the_published_checkpoint() {
    for (from, to) in [("", "model."), ("", "language_model.")] {
        let copy = Copy::new();
        let renamed = |name: &str| format!("{to}{}", name.trim_start_matches(from));
        for shard in fs::read_dir(copy.path()).unwrap() {
            let path = shard.unwrap().path();
            if !text(&path).ends_with(".safetensors") {
                continue;
            }
            let (header, data) = common::split_shard(&fs::read(&path).unwrap());
            let header = header.as_object().unwrap().iter();
            let header: serde_json::Map<_, _> = header
                .map(|(name, entry)| match name.as_str() {
                    "__metadata__" => (name.clone(), entry.clone()),
                    name => (renamed(name), entry.clone()),
                })
                .collect();
            let json = serde_json::to_vec(&header).unwrap();
            common::write_shard(&path, &json, &data);
        }
        copy.edit_json(INDEX, |index| {
            let map = index["weight_map"].as_object().unwrap().iter();
            let map: serde_json::Map<_, _> = map
                .map(|(name, shard)| (renamed(name), shard.clone()))
                .collect();
            index["weight_map"] = map.into();
        });
        refused(
            copy.path(),
            &["transformers", to, "convert the published checkpoint"],
        );
    }
}

#[test]
fn a_pointer_of_git_lfs_is_named_whatever_it_stands_for() {
    for name in [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        INDEX,
        SHARD,
    ] {
        let copy = Copy::new();
        fs::write(copy.file(name), POINTER).unwrap();
        refused(copy.path(), &[name, "Git LFS pointer", "git lfs pull"]);
    }
    let copy = Copy::new();
    fs::remove_file(copy.file(INDEX)).unwrap();
    fs::write(copy.file("model.safetensors"), POINTER).unwrap();
    refused(copy.path(), &["model.safetensors", "git lfs pull"]);
    let file = copy.file("m.gguf");
    fs::write(&file, POINTER).unwrap();
    refused(&file, &["m.gguf", "git lfs pull"]);
}

#[test]
fn v41_is_read_as_leniently() {
    let copy = Copy::of(&tiny41());
    let text = fs::read_to_string(copy.file("config.json")).unwrap();
    let mut fields: Value = serde_json::from_str(&text).unwrap();
    let level = match fields.get("text_config") {
        Some(_) => &mut fields["text_config"],
        None => &mut fields,
    };
    level["eos_token_id"] = json!([level["eos_token_id"].clone()]);
    level["initializer_range"] = json!("@");
    rope_parameters(level);
    let text = fields.to_string().replace("\"@\"", "NaN");
    fs::write(copy.file("config.json"), format!("\u{feff}{text}")).unwrap();
    let facts = |mut plan: Plan| {
        plan.metadata.remove("v4.source.config").unwrap();
        plan.metadata
    };
    assert_eq!(
        facts(plan(copy.path(), "native")),
        facts(plan(&tiny41(), "native"))
    );
}
