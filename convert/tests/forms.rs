//! Checkpoints whose experts are not FP4: FP8 as the base model's, NVFP4 as ModelOpt writes
//! it, BF16, or fewer of them. Each is made of the tiny checkpoint, with the same values.

mod common;

use std::collections::BTreeMap;
use std::fs;

use common::{
    Copy, Shard, Stored, convert, data, decoded, header, plan, refused, same_bits, stored, tiny,
};
use serde_json::{Value, json};
use v4_quant::{GgmlType, fp4, fp8};

type Tensors = BTreeMap<String, Stored>;

/// A checkpoint in one file without an index, its configuration edited.
fn checkpoint(tensors: Tensors, edit: impl FnOnce(&mut Value)) -> Copy {
    let copy = Copy::new();
    for entry in fs::read_dir(copy.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            fs::remove_file(path).unwrap();
        }
    }
    let mut shard = Shard::default();
    for (name, (dtype, shape, bytes)) in tensors {
        shard.add(&name, &dtype, &shape, &bytes);
    }
    shard.write(&copy, "model.safetensors");
    fs::remove_file(copy.file("model.safetensors.index.json")).unwrap();
    copy.edit_json("config.json", edit);
    copy
}

/// Replaces every routed expert's matrix by what `with` makes of its name, shape and values.
fn experts(with: impl Fn(&str, [usize; 2], &[f32]) -> Vec<(String, Stored)>) -> Tensors {
    let mut tensors = stored();
    let names: Vec<String> = tensors
        .keys()
        .filter(|name| name.contains(".ffn.experts.") && name.ends_with(".weight"))
        .map(|name| name.strip_suffix(".weight").unwrap().to_owned())
        .collect();
    assert!(names.len() > 200);
    for name in names {
        let (_, shape, codes) = tensors.remove(&format!("{name}.weight")).unwrap();
        let (_, _, scales) = tensors.remove(&format!("{name}.scale")).unwrap();
        let (rows, columns) = (shape[0], shape[1] * 2);
        let mut values = vec![0.0; rows * columns];
        let sources = codes.chunks(columns / 2).zip(scales.chunks(columns / 32));
        for (row, (codes, scales)) in values.chunks_mut(columns).zip(sources) {
            fp4::decode_row(codes, scales, row).unwrap();
        }
        tensors.extend(with(&name, [rows, columns], &values));
    }
    tensors
}

/// The exponent of the power of two by which the largest of some values is at most `most`.
fn exponent(values: impl Iterator<Item = f32>, most: f32) -> i32 {
    let largest = values.fold(0.0f32, |largest, value| largest.max(value.abs()));
    (largest / most).max(1e-30).log2().ceil() as i32
}

fn as_fp8(name: &str, [rows, columns]: [usize; 2], values: &[f32]) -> Vec<(String, Stored)> {
    let block_columns = columns.div_ceil(128);
    let mut codes = vec![0; rows * columns];
    let mut scales = Vec::new();
    for (i, j) in (0..rows.div_ceil(128)).flat_map(|i| (0..block_columns).map(move |j| (i, j))) {
        let cells = (i * 128..rows.min(i * 128 + 128))
            .flat_map(|r| (j * 128..columns.min(j * 128 + 128)).map(move |c| r * columns + c));
        let scale = exponent(cells.clone().map(|at| values[at]), 448.0);
        for at in cells {
            let scaled = values[at] * 2f32.powi(-scale);
            codes[at] = (0..=255)
                .find(|&code| fp8::e4m3_to_f32(code).to_bits() == scaled.to_bits())
                .expect("the tiny model's values fit e4m3");
        }
        scales.push((scale + 127) as u8);
    }
    let scale_shape = vec![rows.div_ceil(128), block_columns];
    vec![
        (
            format!("{name}.weight"),
            ("F8_E4M3".to_owned(), vec![rows, columns], codes),
        ),
        (
            format!("{name}.scale"),
            ("F8_E8M0".to_owned(), scale_shape, scales),
        ),
    ]
}

fn as_nvfp4(name: &str, [rows, columns]: [usize; 2], values: &[f32]) -> Vec<(String, Stored)> {
    // So that block scales, powers of two here, are within e4m3's range.
    let whole = 2f32.powi(exponent(values.iter().copied(), 6.0 * 256.0));
    let (mut codes, mut scales) = (Vec::new(), Vec::new());
    for block in values.chunks(16) {
        let scale = 2f32
            .powi(exponent(block.iter().copied(), 6.0))
            .max(whole / 64.0);
        let code = (0..127).find(|&code| fp8::e4m3_to_f32(code) == scale / whole);
        scales.push(code.expect("a power of two within e4m3's range"));
        codes.extend(block.chunks(2).map(|pair| {
            let [low, high] = [pair[0], pair[1]].map(|value| fp4::f32_to_e2m1(value / scale));
            low | high << 4
        }));
    }
    let tensor = |part: &str, dtype: &str, shape: Vec<usize>, bytes: Vec<u8>| {
        (format!("{name}.{part}"), (dtype.to_owned(), shape, bytes))
    };
    vec![
        tensor("weight", "U8", vec![rows, columns / 2], codes),
        tensor("weight_scale", "F8_E4M3", vec![rows, columns / 16], scales),
        tensor(
            "weight_scale_2",
            "F32",
            vec![],
            whole.to_le_bytes().to_vec(),
        ),
        tensor("input_scale", "F32", vec![], 0.01f32.to_le_bytes().to_vec()),
    ]
}

fn as_bf16(name: &str, [rows, columns]: [usize; 2], values: &[f32]) -> Vec<(String, Stored)> {
    let bytes = values
        .iter()
        .flat_map(|v| (v.to_bits() >> 16).to_le_bytes()[..2].to_vec());
    vec![(
        format!("{name}.weight"),
        ("BF16".to_owned(), vec![rows, columns], bytes.collect()),
    )]
}

/// Sees that all experts' tensors of a conversion have the values of the FP4 checkpoint's, up
/// to `most` of their root mean square, and the type expected.
#[track_caller]
fn same_experts(found: &[u8], ty: GgmlType, most: f64) {
    let exact = convert(&tiny(), "native");
    let (exact_header, found_header) = (header(&exact), header(found));
    let mut seen = 0;
    for info in &exact_header.tensors {
        let name = &info.name;
        let own = found_header
            .tensors
            .iter()
            .find(|t| t.name == *name)
            .unwrap();
        if !name.contains("_exps.") {
            assert!(
                own.ty != info.ty
                    || data(found, &found_header, own) == data(&exact, &exact_header, info),
                "{name}"
            );
            continue;
        }
        let (own, values) = decoded(found, &found_header, name);
        seen += 1;
        assert_eq!(own, ty, "{name}");
        let (_, expected) = decoded(&exact, &exact_header, name);
        if most == 0.0 {
            assert!(same_bits(&values, &expected), "{name}");
        }
        let sum = |numbers: &mut dyn Iterator<Item = f32>| -> f64 {
            numbers.map(|x| f64::from(x).powi(2)).sum()
        };
        let error = sum(&mut values.iter().zip(&expected).map(|(a, b)| a - b));
        let norm = sum(&mut expected.iter().copied());
        assert!(
            (error / norm).sqrt() <= most,
            "{name}: {}",
            (error / norm).sqrt()
        );
    }
    assert_eq!(seen, 18);
}

#[test]
fn experts_in_fp8_are_converted() {
    for stated in [json!("fp8"), Value::Null] {
        let copy = checkpoint(experts(as_fp8), |c| match &stated {
            Value::Null => drop(c.as_object_mut().unwrap().remove("expert_dtype")),
            stated => c["expert_dtype"] = stated.clone(),
        });
        assert!(plan(copy.path(), "native").warnings.is_empty());
        same_experts(&convert(copy.path(), "native"), GgmlType::Q8_0, 0.01);
        same_experts(&convert(copy.path(), "lossless"), GgmlType::BF16, 0.0);
        let header = header(&convert(copy.path(), "q2"));
        let ty = |name: &str| header.tensors.iter().find(|t| t.name == name).unwrap().ty;
        assert_eq!(ty("blk.3.ffn_up_exps.weight"), GgmlType::IQ2_XXS);
        assert_eq!(ty("blk.3.ffn_down_exps.weight"), GgmlType::Q2_K);
    }
}

#[test]
fn experts_in_nvfp4_are_converted() {
    let quantised = json!({
        "quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["head"],
        "config_groups": {"group_0": {"weights": {"group_size": 16, "num_bits": 4}}},
    });
    let edits: [fn(&mut Value, &Value); 3] = [
        |c, quantised| c["quantization_config"] = quantised.clone(),
        |c, quantised| {
            c["quantization_config"] = quantised.clone();
            c.as_object_mut().unwrap().remove("expert_dtype");
        },
        // It is in hf_quant_config.json then.
        |c, _| drop(c.as_object_mut().unwrap().remove("quantization_config")),
    ];
    for edit in edits {
        let copy = checkpoint(experts(as_nvfp4), |c| edit(c, &quantised));
        assert!(plan(copy.path(), "native").warnings.is_empty());
        same_experts(&convert(copy.path(), "native"), GgmlType::Q8_0, 0.01);
        same_experts(&convert(copy.path(), "lossless"), GgmlType::F32, 0.0);
    }
    let copy = checkpoint(experts(as_nvfp4), |c| {
        c["quantization_config"] = json!({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"});
    });
    refused(
        copy.path(),
        &["quant_method", "W4A8_AWQ", "published checkpoint"],
    );
}

#[test]
fn experts_in_bf16_are_converted() {
    let copy = checkpoint(experts(as_bf16), |c| c["expert_dtype"] = json!("bfloat16"));
    same_experts(&convert(copy.path(), "native"), GgmlType::Q8_0, 0.01);
    same_experts(&convert(copy.path(), "lossless"), GgmlType::BF16, 0.0);
}

#[test]
fn a_form_that_is_not_the_stated_one_is_refused() {
    let first = "layers.0.ffn.experts.0.w1.weight";
    let copy = checkpoint(experts(as_fp8), |_| ());
    refused(copy.path(), &[first, "FP8", "fp4", "expert_dtype"]);
    let copy = checkpoint(experts(as_nvfp4), |c| c["expert_dtype"] = json!("fp8"));
    refused(copy.path(), &[first, "NVFP4", "fp8"]);
    // One expert unlike the others.
    let mut tensors = experts(as_fp8);
    let odd = "layers.2.ffn.experts.5.w2";
    for (name, tensor) in stored() {
        if name.starts_with(odd) {
            tensors.insert(name, tensor);
        }
    }
    let copy = checkpoint(tensors, |c| {
        c.as_object_mut().unwrap().remove("expert_dtype");
    });
    refused(copy.path(), &[odd, "FP4", "FP8"]);
}

/// A scale that the form does not have would be left out, and another model converted.
#[test]
fn scales_of_another_form_are_refused() {
    let first = "layers.0.ffn.experts.0.w1";
    let dense = "layers.3.attn.wkv";
    let cases: [(Tensors, &str, &str); 5] = [
        (experts(as_nvfp4), first, "pre_quant_scale"),
        (experts(as_nvfp4), dense, "weight_scale_inv"),
        (experts(as_bf16), first, "scale"),
        (experts(as_bf16), first, "weight_scale"),
        (stored(), first, "weight_scale_2"),
    ];
    for (mut tensors, matrix, part) in cases {
        let scale = ("F32".to_owned(), vec![], 2f32.to_le_bytes().to_vec());
        tensors.insert(format!("{matrix}.{part}"), scale);
        let copy = checkpoint(tensors, |c| {
            c.as_object_mut().unwrap().remove("expert_dtype");
        });
        let (weight, scale) = (format!("{matrix}.weight"), format!("{matrix}.{part}"));
        refused(copy.path(), &[&weight, &scale, "not supported"]);
    }
}

#[test]
fn damaged_scales_are_named() {
    let first = "layers.0.ffn.experts.0.w1";
    for (part, bytes, what) in [
        ("weight_scale", vec![0x7f], "a scale is NaN"),
        (
            "weight_scale_2",
            f32::NAN.to_le_bytes().to_vec(),
            "NaN or infinite",
        ),
    ] {
        let mut tensors = experts(as_nvfp4);
        let (_, _, data) = tensors.get_mut(&format!("{first}.{part}")).unwrap();
        data[..bytes.len()].copy_from_slice(&bytes);
        let copy = checkpoint(tensors, |_| ());
        let out = copy.file("out.gguf");
        let run = common::program(&[common::text(copy.path()), common::text(&out), "-q"]);
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(run.status.code(), Some(1), "{said}");
        for word in [first, part, what] {
            assert!(said.contains(word), "{word}: {said}");
        }
        assert!(!out.exists());
    }
}

/// Experts cut from every layer, as pruned models have them.
#[test]
fn counts_of_experts_come_from_the_file() {
    let mut tensors = stored();
    let kept = 5;
    tensors.retain(|name, _| {
        let expert = name.split_once(".ffn.experts.");
        let number = expert.and_then(|(_, rest)| rest.split('.').next());
        number.is_none_or(|number| number.parse::<usize>().unwrap() < kept)
    });
    for (name, (_, shape, bytes)) in &mut tensors {
        if name.ends_with(".ffn.gate.weight") || name.ends_with(".ffn.gate.bias") {
            bytes.truncate(bytes.len() / shape[0] * kept);
            shape[0] = kept;
        }
        if name.ends_with(".tid2eid") {
            // Three of five for each token.
            let tokens = shape[0];
            shape[1] = 3;
            let ids = (0..tokens).flat_map(|t| [t % 5, (t + 1) % 5, (t + 3) % 5]);
            *bytes = ids.flat_map(|id| (id as i64).to_le_bytes()).collect();
        }
    }
    let copy = checkpoint(tensors, |c| {
        c["n_routed_experts"] = json!(kept);
        c["num_experts_per_tok"] = json!(3);
    });
    let bytes = convert(copy.path(), "native");
    let header = header(&bytes);
    assert_eq!(
        header.metadata.get_u32("deepseek4.expert_count").unwrap(),
        5
    );
    assert_eq!(
        header
            .metadata
            .get_u32("deepseek4.expert_used_count")
            .unwrap(),
        3
    );
    let path = copy.file("pruned.gguf");
    fs::write(&path, bytes).unwrap();
    let options = v4_runtime::EngineOptions::default();
    let engine = v4_runtime::Engine::open(&path, options).unwrap();
    let mut session = v4_runtime::Session::new(&engine, 64, 16).unwrap();
    let logits = session
        .append(&[0, 5, 17, 300], v4_runtime::Want::Last)
        .unwrap();
    assert!(logits.data.iter().all(|x| x.is_finite()));
}
