//! What the writer writes, this reader and an independent one can read.

use std::path::Path;

use ggus::{GGuf, GGufMetaDataValueType as Ty};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use v4_files::gguf::{
    Array, GgufError, GgufFile, Metadata, PAGE_ALIGNMENT, TensorInfo, Value, data_bytes,
    encode_header, layout_offsets, parse_header,
};
use v4_quant::GgmlType;

use v4_fixtures::fixture;

fn any_array() -> impl Strategy<Value = Array> {
    let float = prop::num::f32::NORMAL | prop::num::f32::ZERO | prop::num::f32::SUBNORMAL;
    let double = prop::num::f64::NORMAL | prop::num::f64::ZERO | prop::num::f64::SUBNORMAL;
    prop_oneof![
        vec(any::<u8>(), 0..20).prop_map(Array::U8),
        vec(any::<i8>(), 0..20).prop_map(Array::I8),
        vec(any::<u16>(), 0..20).prop_map(Array::U16),
        vec(any::<i16>(), 0..20).prop_map(Array::I16),
        vec(any::<u32>(), 0..20).prop_map(Array::U32),
        vec(any::<i32>(), 0..20).prop_map(Array::I32),
        vec(float, 0..20).prop_map(Array::F32),
        vec(any::<bool>(), 0..20).prop_map(Array::Bool),
        vec(any::<String>(), 0..20).prop_map(|v| Array::String(v.into())),
        vec(any::<u64>(), 0..20).prop_map(Array::U64),
        vec(any::<i64>(), 0..20).prop_map(Array::I64),
        vec(double, 0..20).prop_map(Array::F64),
    ]
}

/// Any value: an element of an array, or an array.
fn any_value() -> impl Strategy<Value = Value> {
    (any_array(), any::<bool>()).prop_map(|(array, whole)| match array.get(0) {
        Some(first) if !whole => first,
        _ => Value::Array(array),
    })
}

fn any_metadata() -> impl Strategy<Value = Metadata> {
    btree_map("[a-z.]{1,40}", any_value(), 0..20).prop_map(|entries| {
        let mut metadata = Metadata::new();
        // Not in the order of the keys, which the reader must keep.
        for (key, value) in entries.into_iter().rev() {
            metadata.insert(key, value);
        }
        metadata
    })
}

fn any_tensors() -> impl Strategy<Value = Vec<(String, GgmlType, Vec<u64>)>> {
    let shape = (prop::sample::select(GgmlType::ALL), vec(1u64..5, 1..=4));
    btree_map("[a-z0-9._]{1,63}", shape, 0..20).prop_map(|tensors| {
        tensors
            .into_iter()
            .rev()
            .map(|(name, (ty, mut dims))| {
                dims[0] *= ty.block_values() as u64;
                (name, ty, dims)
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn headers_round_trip(
        metadata in any_metadata(),
        tensors in any_tensors(),
        alignment in prop::sample::select(&[8u64, 32, 64, 4096][..]),
    ) {
        let tensors = layout_offsets(tensors, alignment).unwrap();
        let bytes = encode_header(&metadata, &tensors, alignment).unwrap();
        let file_len = bytes.len() as u64 + data_bytes(&tensors, alignment);
        let mut header = parse_header(&bytes, file_len).unwrap();
        prop_assert_eq!(header.version, 3);
        prop_assert_eq!(header.alignment, alignment);
        prop_assert_eq!(header.data_offset, bytes.len() as u64);
        prop_assert_eq!(&header.tensors, &tensors);
        let stored = header.metadata.remove("general.alignment");
        prop_assert_eq!(stored.is_some(), alignment != 32);
        prop_assert_eq!(header.metadata, metadata);
        // One byte less than the last tensor needs.
        if let Some(end) = tensors.iter().map(|t| t.offset + t.bytes).max() {
            let cut = bytes.len() as u64 + end - 1;
            prop_assert!(parse_header(&bytes, cut).is_err());
            prop_assert!(parse_header(&bytes, cut + 1).is_ok());
        }
    }
}

#[test]
fn nan_keeps_its_bits() {
    let odd = f32::from_bits(0x7fa0_1234);
    let mut metadata = Metadata::new();
    metadata.insert("x", odd);
    metadata.insert("y", vec![odd]);
    let bytes = encode_header(&metadata, &[], 32).unwrap();
    let read = parse_header(&bytes, bytes.len() as u64).unwrap().metadata;
    assert_eq!(read.get_f32("x").unwrap().to_bits(), odd.to_bits());
    assert_eq!(read.get_f32s("y").unwrap()[0].to_bits(), odd.to_bits());
}

#[test]
fn the_writer_refuses_what_readers_refuse() {
    let good = || layout_offsets([("a".to_owned(), GgmlType::F32, vec![4])], 32).unwrap();
    let encode = |tensors: &[TensorInfo]| encode_header(&Metadata::new(), tensors, 32).map(|_| ());
    encode(&good()).unwrap();

    let mut t = good();
    t[0].offset = 8;
    assert!(matches!(encode(&t), Err(GgufError::Misaligned { .. })));
    let mut t = good();
    t[0].bytes = 15;
    assert!(matches!(encode(&t), Err(GgufError::TensorBytes { .. })));
    let mut t = good();
    t.push(t[0].clone());
    assert!(matches!(encode(&t), Err(GgufError::DuplicateTensor { .. })));
    t[1].name = "b".into();
    assert!(matches!(encode(&t), Err(GgufError::Overlap { .. })));
    let mut t = good();
    t[0].name = "n".repeat(64);
    assert!(matches!(encode(&t), Err(GgufError::NameLength { .. })));

    for alignment in [0, 4, 48, 1 << 21] {
        let result = encode_header(&Metadata::new(), &[], alignment);
        assert!(matches!(result, Err(GgufError::Alignment { .. })));
        assert!(layout_offsets([], alignment).is_err());
    }
    let mut metadata = Metadata::new();
    metadata.insert("general.alignment", 64u32);
    let result = encode_header(&metadata, &[], 32);
    assert!(matches!(result, Err(GgufError::AlignmentMismatch { .. })));
    let mut metadata = Metadata::new();
    metadata.insert("", 1u32);
    let result = encode_header(&metadata, &[], 32);
    assert!(matches!(result, Err(GgufError::NameLength { .. })));
    let huge = [
        ("a".to_owned(), GgmlType::I8, vec![i64::MAX as u64]),
        ("b".to_owned(), GgmlType::I8, vec![i64::MAX as u64]),
        ("c".to_owned(), GgmlType::I8, vec![i64::MAX as u64]),
    ];
    assert!(matches!(
        layout_offsets(huge, 32),
        Err(GgufError::Shape { .. })
    ));
}

/// A whole file: header, data, padding.
fn write_file(path: &Path, metadata: &Metadata, tensors: &[TensorInfo], alignment: u64) {
    let mut bytes = encode_header(metadata, tensors, alignment).unwrap();
    let start = bytes.len();
    bytes.resize(start + data_bytes(tensors, alignment) as usize, 0);
    for (i, t) in tensors.iter().enumerate() {
        let at = start + t.offset as usize;
        bytes[at..at + t.bytes as usize].fill(i as u8 + 1);
    }
    std::fs::write(path, bytes).unwrap();
}

/// Our bytes of a value, for comparison with another reader's view of the file.
fn value_bytes(value: &Value) -> (Ty, Vec<u8>) {
    fn text(s: &str) -> Vec<u8> {
        [&(s.len() as u64).to_le_bytes()[..], s.as_bytes()].concat()
    }
    match value {
        Value::U8(v) => (Ty::U8, v.to_le_bytes().into()),
        Value::I8(v) => (Ty::I8, v.to_le_bytes().into()),
        Value::U16(v) => (Ty::U16, v.to_le_bytes().into()),
        Value::I16(v) => (Ty::I16, v.to_le_bytes().into()),
        Value::U32(v) => (Ty::U32, v.to_le_bytes().into()),
        Value::I32(v) => (Ty::I32, v.to_le_bytes().into()),
        Value::F32(v) => (Ty::F32, v.to_le_bytes().into()),
        Value::Bool(v) => (Ty::Bool, vec![u8::from(*v)]),
        Value::String(v) => (Ty::String, text(v)),
        Value::U64(v) => (Ty::U64, v.to_le_bytes().into()),
        Value::I64(v) => (Ty::I64, v.to_le_bytes().into()),
        Value::F64(v) => (Ty::F64, v.to_le_bytes().into()),
        Value::Array(array) => {
            let first = array.get(0).expect("the test has no empty arrays");
            let mut out = (value_bytes(&first).0 as u32).to_le_bytes().to_vec();
            out.extend((array.len() as u64).to_le_bytes());
            out.extend(array.iter().flat_map(|v| value_bytes(&v).1));
            (Ty::Array, out)
        }
    }
}

#[test]
fn ggus_sees_the_same_metadata_and_tensors() {
    use GgmlType::{IQ3_XXS, IQ4_NL, IQ4_XS, MXFP4, NVFP4};
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", "deepseek4");
    metadata.insert("deepseek4.block_count", 43u32);
    metadata.insert("deepseek4.rope.freq_base", 1e4f32);
    metadata.insert("deepseek4.expert_weights_norm", true);
    metadata.insert("deepseek4.attention.compress_ratios", vec![0i32, 0, 4, 128]);
    metadata.insert("deepseek4.swiglu_clamp_exp", vec![10f32; 4]);
    let tokens = ["<｜begin▁of▁sentence｜>", "", "Ġ", "é"].map(str::to_owned);
    metadata.insert("tokenizer.ggml.tokens", tokens.to_vec());
    metadata.insert("others.u8", 200u8);
    metadata.insert("others.i8", -100i8);
    metadata.insert("others.u16", 60_000u16);
    metadata.insert("others.i16", -30_000i16);
    metadata.insert("others.i32", i32::MIN);
    metadata.insert("others.u64", u64::MAX);
    metadata.insert("others.i64", i64::MIN);
    metadata.insert("others.f64", 0.1f64);
    metadata.insert("others.bools", vec![true, false]);
    metadata.insert("others.u64s", vec![1u64 << 60]);
    // ggus does not know MXFP4 and NVFP4, and counts IQ3_XXS, IQ4_NL and IQ4_XS
    // with 16-bit codes, twice their size.
    let types = GgmlType::ALL
        .iter()
        .filter(|ty| !matches!(ty, MXFP4 | NVFP4 | IQ3_XXS | IQ4_NL | IQ4_XS));
    let tensors = types.enumerate().map(|(i, &ty)| {
        let row = ty.block_values() as u64 * 2;
        let dims = [row, 3, 2, 2][..=i % 4].to_vec();
        (format!("blk.{i}.{ty}.weight"), ty, dims)
    });
    let tensors = layout_offsets(tensors, PAGE_ALIGNMENT).unwrap();

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ours.gguf");
    write_file(&path, &metadata, &tensors, PAGE_ALIGNMENT);
    let bytes = std::fs::read(&path).unwrap();
    let theirs = GGuf::new(&bytes).unwrap();
    assert_eq!(theirs.alignment as u64, PAGE_ALIGNMENT);
    metadata.insert("general.alignment", 4096u32);
    assert_eq!(theirs.meta_kvs.len(), metadata.len());
    for ((key, value), (their_key, kv)) in metadata.iter().zip(&theirs.meta_kvs) {
        assert_eq!(key, *their_key);
        let (ty, bytes) = value_bytes(value);
        assert_eq!((kv.ty(), kv.value_bytes()), (ty, &bytes[..]), "{key}");
    }
    assert_eq!(theirs.tensors.len(), tensors.len());
    let ours = GgufFile::open(&path).unwrap();
    for (t, (their_name, meta)) in tensors.iter().zip(&theirs.tensors) {
        let info = meta.to_info();
        assert_eq!(t.name, *their_name);
        assert_eq!(info.ty() as u32, t.ty.id());
        assert_eq!(info.shape(), t.dims);
        assert_eq!(info.offset() as u64, t.offset);
        assert_eq!(info.nbytes() as u64, t.bytes, "{}", t.name);
        let data = &theirs.data[info.offset()..][..info.nbytes()];
        assert_eq!(data, ours.data(ours.tensor(&t.name).unwrap()));
        assert!(data.iter().all(|&b| b == data[0] && b != 0));
    }
}

#[test]
fn llama_cpp_files_are_read() {
    use GgmlType::{BF16, F32, I32, MXFP4, Q4_K, Q5_0, Q6_K, Q8_0};
    let original = [
        ("blk.0.ffn_gate_tid2eid.weight", I32, &[2, 4096][..]),
        ("blk.5.ffn_down_exps.weight", MXFP4, &[256, 256, 16]),
        ("token_embd.weight", BF16, &[256, 4096]),
        ("output_hc_fn.weight", F32, &[1024, 4]),
        ("blk.0.attn_output_a.weight", Q8_0, &[512, 256]),
        ("blk.4.indexer.attn_q_b.weight", Q8_0, &[128, 512]),
        ("blk.3.attn_compressor_ape.weight", F32, &[128, 128]),
        ("output_norm.weight", F32, &[256]),
    ];
    let quantised = [
        ("blk.0.ffn_gate_tid2eid.weight", I32, &[2, 4096][..]),
        // Rows of 128 are not a multiple of 256, so llama-quantize left Q4_K.
        ("blk.0.attn_q_b.weight", Q5_0, &[128, 1024]),
        ("token_embd.weight", Q4_K, &[256, 4096]),
        ("blk.2.hc_attn_fn.weight", Q4_K, &[1024, 24]),
        ("blk.5.ffn_down_exps.weight", Q6_K, &[256, 256, 16]),
        ("output_norm.weight", F32, &[256]),
    ];
    // Counts per type and all tensors' bytes, as gguf-py lists them.
    let original_types = [(F32, 86), (Q8_0, 50), (BF16, 22), (MXFP4, 18), (I32, 2)];
    let quantised_types = [
        (Q4_K, 88),
        (F32, 67),
        (Q5_0, 10),
        (BF16, 6),
        (Q6_K, 5),
        (I32, 2),
    ];
    for (name, tensors, types, bytes) in [
        (
            "tiny-v4.llamacpp.gguf",
            &original[..],
            &original_types[..],
            20_917_988,
        ),
        (
            "tiny-v4.llamacpp-q4_k_m.gguf",
            &quantised[..],
            &quantised_types[..],
            15_522_148,
        ),
    ] {
        let path = fixture(name);
        let file = GgufFile::open(&path).unwrap();
        assert_eq!(file.header().version, 3);
        assert_eq!(file.header().alignment, 32);
        assert_eq!(file.tensors().len(), 178, "{name}");
        for &(ty, count) in types {
            let ours = file.tensors().iter().filter(|t| t.ty == ty).count();
            assert_eq!(ours, count, "{name} {ty}");
        }
        let ours: u64 = file.tensors().iter().map(|t| t.bytes).sum();
        assert_eq!(ours, bytes, "{name}");
        for &(tensor, ty, dims) in tensors {
            let t = file.tensor(tensor).unwrap();
            assert_eq!((t.ty, &t.dims[..]), (ty, dims), "{name} {tensor}");
            assert_eq!(file.data(t).len() as u64, t.bytes);
        }
        // The tensors fill the file to its end, so the data start where we say.
        let last = file.tensors().iter().map(|t| file.position(t) + t.bytes);
        assert_eq!(last.max().unwrap().next_multiple_of(32), file.file_len());

        let m = file.metadata();
        assert_eq!(m.get_str("general.architecture").unwrap(), "deepseek4");
        assert_eq!(m.get_u32("deepseek4.block_count").unwrap(), 6);
        let ratios = m.get_u32s("deepseek4.attention.compress_ratios").unwrap();
        assert_eq!(ratios, [0, 0, 4, 128, 4, 128]);
        let tokens = m.get_strs("tokenizer.ggml.tokens").unwrap();
        assert_eq!(tokens.len(), 4096);
        assert_eq!(tokens.get(0), Some("<｜begin▁of▁sentence｜>"));

        // Written again, it is the same header, byte for byte.
        let bytes = encode_header(m, file.tensors(), 32).unwrap();
        let theirs = std::fs::read(&path).unwrap();
        assert!(theirs.starts_with(&bytes), "{name}");
        assert_eq!(bytes.len() as u64, file.header().data_offset);
    }
}
