//! Files exchanged with other programs: llama.cpp's files here, and ours in ggus.

use std::fs;
use std::path::Path;

use ggus::GGuf;
use v4_files::gguf::{GgufFile, Value};
use v4_fixtures::fixture;
use v4_quant::GgmlType;
use v4_tests::program::{run, scratch, tiny_v4};

/// Perplexity of the first `tokens` tokens of `text`.
fn perplexity(model: &Path, text: &Path, tokens: &str) -> f64 {
    let args = [
        "perplexity".as_ref(),
        model,
        text,
        "--tokens".as_ref(),
        tokens.as_ref(),
    ];
    let ended = run("v4-run", args.into_iter().chain([Path::new("--json")])).ok();
    let report: serde_json::Value = serde_json::from_str(ended.text()).unwrap();
    report["ppl"].as_f64().unwrap()
}

/// The figures for 20,000 tokens are in docs/; here fewer, for time.
#[test]
fn llama_cpp_files_read_like_our_own_conversions() {
    let files = [
        "tiny-v4.llamacpp.gguf",
        "tiny-v4.llamacpp-q4_k_m.gguf",
        "text/prose-and-code.txt",
    ];
    let [llama, llama_q4, text] = files.map(fixture);
    let ppl = |model: &Path| perplexity(model, &text, "4000");
    let lossless = ppl(&tiny_v4("lossless"));
    let native = ppl(&tiny_v4("native"));
    let theirs = ppl(&llama);
    let theirs_q4 = ppl(&llama_q4);
    let ours_q4 = ppl(&tiny_v4("q4"));
    println!(
        "perplexity: lossless {lossless:.3}, native {native:.3}, llama.cpp's {theirs:.3}, \
         q4 {ours_q4:.3}, llama.cpp's Q4_K_M {theirs_q4:.3}"
    );
    // The model was trained on such text: 4096 for knowing nothing.
    assert!((1.0..200.0).contains(&lossless), "{lossless}");
    // The same MXFP4 experts; FP8 to Q8_0 with their rounding and with ours.
    assert!(
        (native / lossless - 1.0).abs() < 0.01,
        "{native}, {lossless}"
    );
    assert!((theirs / native - 1.0).abs() < 0.005, "{theirs}, {native}");
    // Theirs quantises router and hyper-connections too; neither may be broken.
    assert!(
        (0.98..1.05).contains(&(theirs_q4 / native)),
        "{theirs_q4}, {native}"
    );
    assert!(
        (0.98..1.03).contains(&(ours_q4 / native)),
        "{ours_q4}, {native}"
    );
}

/// Bytes of a value as GGUF stores it.
fn stored(value: &Value) -> Vec<u8> {
    fn text(s: &str) -> Vec<u8> {
        [&(s.len() as u64).to_le_bytes()[..], s.as_bytes()].concat()
    }
    match value {
        Value::U32(v) => v.to_le_bytes().into(),
        Value::I32(v) => v.to_le_bytes().into(),
        Value::F32(v) => v.to_le_bytes().into(),
        Value::U64(v) => v.to_le_bytes().into(),
        Value::Bool(v) => vec![u8::from(*v)],
        Value::String(v) => text(v),
        Value::Array(array) => {
            let items: Vec<Value> = (0..array.len()).filter_map(|i| array.get(i)).collect();
            let count = (items.len() as u64).to_le_bytes();
            let items = items.iter().flat_map(stored);
            count.into_iter().chain(items).collect()
        }
        other => panic!("we write no {other:?}"),
    }
}

#[test]
fn ggus_sees_what_we_wrote() {
    // ggus knows no MXFP4; it needs whole K-quant rows, which 256 columns are.
    let recipe = scratch().join("no-mxfp4.toml");
    let rules = "base = \"q4\"\n\
        [[rule]]\ntensors = \"blk.*.ffn_down_exps.weight\"\ntype = \"q8_0\"\n\
        [[rule]]\ntensors = \"blk.0.ffn_{gate,up}_exps.weight\"\ntype = \"q2_k\"\n\
        [[rule]]\ntensors = \"token_embd.weight\"\ntype = \"f16\"\n";
    fs::write(&recipe, rules).unwrap();
    let path = scratch().join("no-mxfp4.gguf");
    let checkpoint = v4_tests::program::data("tiny-v4");
    let args = [&checkpoint, &path, Path::new("--recipe"), &recipe];
    let _ = run("v4-convert", args).ok();

    let ours = GgufFile::open(&path).unwrap();
    let types: Vec<GgmlType> = ours.tensors().iter().map(|t| t.ty).collect();
    for ty in [
        GgmlType::Q4_K,
        GgmlType::Q8_0,
        GgmlType::Q2_K,
        GgmlType::F16,
        GgmlType::I32,
    ] {
        assert!(types.contains(&ty), "no {ty}");
    }
    assert!(!types.contains(&GgmlType::MXFP4));

    let bytes = fs::read(&path).unwrap();
    let theirs = GGuf::new(&bytes).unwrap();
    assert_eq!(theirs.alignment, 4096);
    let ours_kv: Vec<_> = ours.metadata().iter().collect();
    assert_eq!(theirs.meta_kvs.len(), ours_kv.len());
    for (key, value) in ours_kv {
        let kv = theirs.meta_kvs.get(key).unwrap_or_else(|| panic!("{key}"));
        let bytes = kv.value_bytes();
        // Arrays start with their element type.
        let bytes = if matches!(value, Value::Array(_)) {
            &bytes[4..]
        } else {
            bytes
        };
        assert_eq!(bytes, stored(value), "{key}");
    }
    assert_eq!(theirs.tensors.len(), ours.tensors().len());
    for tensor in ours.tensors() {
        let info = theirs.tensors[tensor.name.as_str()].to_info();
        assert_eq!(info.ty() as u32, tensor.ty.id(), "{}", tensor.name);
        assert_eq!(info.shape(), tensor.dims, "{}", tensor.name);
        let data = &theirs.data[info.offset()..][..info.nbytes()];
        assert!(data == ours.data(tensor), "{}", tensor.name);
    }
}
