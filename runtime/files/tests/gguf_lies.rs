//! One false value per test: a file that is valid except for one field is refused with one
//! line that names the item.

mod common;

use common::{RawGguf, RawTensor, array, text};
use v4_files::gguf::{GgufError, GgufFile, Value, parse_header};

fn parse(raw: &RawGguf) -> Result<v4_files::gguf::Header, GgufError> {
    let bytes = raw.build().bytes;
    parse_header(&bytes, bytes.len() as u64)
}

/// The message of a file made wrong by `lie`; `$want` is the variant expected.
macro_rules! refused {
    ($lie:expr, $want:pat, $($part:expr),+) => {{
        let mut raw = RawGguf::sample();
        let lie: fn(&mut RawGguf) = $lie;
        lie(&mut raw);
        let error = parse(&raw).expect_err("the lie must be found");
        assert!(matches!(error, $want), "{error:?}");
        let message = error.to_string();
        $(assert!(message.contains($part), "{:?} is not in {message:?}", $part);)+
        assert!(!message.chars().any(char::is_control), "{message:?}");
    }};
}

#[test]
fn the_sample_itself_is_accepted() {
    let header = parse(&RawGguf::sample()).unwrap();
    assert_eq!(header.tensors.len(), 5);
    assert_eq!(header.alignment, 64);
    assert_eq!(header.metadata.get("one.1"), Some(&Value::I8(1)));
    let strings = header.metadata.get_strs("many.8").unwrap();
    assert_eq!(
        strings.iter().collect::<Vec<_>>(),
        ["", "é", "<｜begin▁of▁sentence｜>", "Ġ Ġ"]
    );
    let mut second = RawGguf::sample();
    second.version = 2;
    assert_eq!(parse(&second).unwrap().metadata, header.metadata);
}

#[test]
fn wrong_magic() {
    refused!(|r| r.magic = *b"GGML", GgufError::NotGguf, "v4-convert");
    refused!(|r| r.magic = [0; 4], GgufError::NotGguf, "not a GGUF file");
}

#[test]
fn git_lfs_pointer() {
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
    let error = parse_header(pointer, pointer.len() as u64).unwrap_err();
    assert!(matches!(error, GgufError::LfsPointer));
}

#[test]
fn wrong_versions() {
    for version in [0, 1, 4, 0x0001_0003, u32::MAX] {
        let mut raw = RawGguf::sample();
        raw.version = version;
        let error = parse(&raw).unwrap_err();
        assert!(
            matches!(error, GgufError::Version(v) if v == version),
            "{error:?}"
        );
    }
}

#[test]
fn big_endian() {
    refused!(
        |r| r.version = 3u32.swap_bytes(),
        GgufError::BigEndian,
        "little-endian"
    );
}

#[test]
fn counts_beyond_the_file() {
    for count in [1 << 20, 1 << 32, 1 << 60, 1 << 63, u64::MAX] {
        let mut raw = RawGguf::sample();
        raw.entry_count = Some(count);
        let message = parse(&raw).unwrap_err().to_string();
        assert!(
            message.contains(&format!("{count} metadata entries")),
            "{message}"
        );
        let mut raw = RawGguf::sample();
        raw.tensor_count = Some(count);
        let message = parse(&raw).unwrap_err().to_string();
        assert!(message.contains(&format!("{count} tensors")), "{message}");
    }
}

#[test]
fn counts_off_by_one() {
    for delta in [-1, 1] {
        let mut raw = RawGguf::sample();
        raw.entry_count = raw
            .entries
            .len()
            .checked_add_signed(delta)
            .map(|n| n as u64);
        assert!(parse(&raw).is_err());
    }
    // One tensor less is a file with a hole, which is allowed; one more is not.
    refused!(
        |r| r.tensor_count = Some(6),
        GgufError::NameLength { .. } | GgufError::Truncated { .. },
        "tensor entry 5"
    );
}

#[test]
fn array_counts_beyond_the_file() {
    for ty in 0..=12u32 {
        for count in [1 << 20, 1 << 60, 1 << 61, 1 << 62, u64::MAX / 2, u64::MAX] {
            let mut raw = RawGguf::sample();
            raw.value("many.4").value = array(ty, count, &[1, 0, 0, 0]);
            let error = parse(&raw).unwrap_err();
            let nested = ty == 9 && matches!(error, GgufError::NestedArray { .. });
            assert!(
                nested || matches!(error, GgufError::Truncated { .. }),
                "{ty} {count} {error:?}"
            );
            assert!(error.to_string().contains("\"many.4\""), "{error}");
        }
    }
}

#[test]
fn string_lengths_beyond_the_file() {
    for len in [1 << 20, 1 << 60, u64::MAX - 7, u64::MAX] {
        let mut raw = RawGguf::sample();
        raw.value("general.architecture").value[..8].copy_from_slice(&len.to_le_bytes());
        let error = parse(&raw).unwrap_err();
        assert!(matches!(error, GgufError::Truncated { .. }), "{error:?}");
        assert!(
            error.to_string().contains("\"general.architecture\""),
            "{error}"
        );
    }
}

#[test]
fn text_that_is_not_utf8() {
    refused!(
        |r| r.value("one.4").key = b"a\xff".into(),
        GgufError::Utf8 { .. },
        "metadata entry"
    );
    refused!(
        |r| r.value("general.architecture").value = text(b"\xc3"),
        GgufError::Utf8 { .. },
        "\"general.architecture\""
    );
    refused!(
        |r| r.value("many.8").value = array(8, 1, &text(b"\xed\xa0\x80")),
        GgufError::Utf8 { .. },
        "\"many.8\""
    );
    // Valid together, but not one by one.
    refused!(
        |r| r.value("many.8").value = array(8, 2, &[text(b"\xc3"), text(b"\xa9")].concat()),
        GgufError::Utf8 { .. },
        "\"many.8\""
    );
    refused!(
        |r| r.tensors[1].name = b"\x80".into(),
        GgufError::Utf8 { .. },
        "tensor entry 1"
    );
}

#[test]
fn names_empty_or_too_long() {
    refused!(
        |r| r.value("one.4").key = vec![],
        GgufError::NameLength { .. },
        "metadata entry"
    );
    refused!(
        |r| r.value("one.4").key = vec![b'k'; 65_536],
        GgufError::NameLength { .. },
        "65536"
    );
    refused!(
        |r| r.tensors[2].name = vec![],
        GgufError::NameLength { .. },
        "tensor entry 2"
    );
    refused!(
        |r| r.tensors[2].name = vec![b't'; 65],
        GgufError::NameLength { .. },
        "65 bytes"
    );
}

#[test]
fn a_key_twice() {
    refused!(
        |r| r.value("one.4").key = b"one.5".into(),
        GgufError::DuplicateKey { .. },
        "\"one.5\" occurs twice"
    );
}

#[test]
fn a_tensor_twice() {
    refused!(
        |r| r.tensors[4].name = r.tensors[0].name.clone(),
        GgufError::DuplicateTensor { .. },
        "\"token_embd.weight\" occurs twice"
    );
}

#[test]
fn unknown_value_types() {
    for ty in [13, 255, u32::MAX] {
        let mut raw = RawGguf::sample();
        raw.value("one.4").ty = ty;
        let message = parse(&raw).unwrap_err().to_string();
        assert!(
            message.contains(&format!("\"one.4\": value type {ty}")),
            "{message}"
        );
        let mut raw = RawGguf::sample();
        raw.value("many.4").value = array(ty, 0, &[]);
        let message = parse(&raw).unwrap_err().to_string();
        assert!(
            message.contains(&format!("\"many.4\": value type {ty}")),
            "{message}"
        );
    }
}

#[test]
fn nested_arrays() {
    refused!(
        |r| r.value("many.4").value = array(9, 1, &array(4, 1, &[1, 0, 0, 0])),
        GgufError::NestedArray { .. },
        "\"many.4\""
    );
}

#[test]
fn truth_values_other_than_0_and_1() {
    refused!(
        |r| r.value("one.7").value = vec![2],
        GgufError::Bool { .. },
        "\"one.7\"",
        "2"
    );
    refused!(
        |r| r.value("many.7").value = array(7, 3, &[0, 1, 255]),
        GgufError::Bool { .. },
        "\"many.7\"",
        "255"
    );
}

#[test]
fn alignments_that_cannot_be() {
    for alignment in [0, 1, 4, 12, 48, 1 << 21, 1 << 31, u32::MAX] {
        let mut raw = RawGguf::sample();
        raw.value("general.alignment").value = alignment.to_le_bytes().into();
        let error = parse(&raw).unwrap_err();
        assert!(
            matches!(error, GgufError::Alignment { alignment: a } if a == u64::from(alignment)),
            "{error:?}"
        );
    }
    refused!(
        |r| {
            let entry = r.value("general.alignment");
            (entry.ty, entry.value) = (8, text(b"64"));
        },
        GgufError::WrongType { .. },
        "\"general.alignment\" is STRING, not U32"
    );
}

#[test]
fn tensor_types_that_cannot_be_read() {
    refused!(
        |r| r.tensors[0].ty = 4,
        GgufError::TensorType { id: 4, .. },
        "\"token_embd.weight\"",
        "removed"
    );
    refused!(
        |r| r.tensors[0].ty = 15,
        GgufError::TensorType { .. },
        "15 (Q8_K)",
        "requantise"
    );
    refused!(
        |r| r.tensors[0].ty = 99,
        GgufError::TensorType { .. },
        "99",
        "unknown"
    );
    for id in [133, 158, 202, u32::MAX] {
        let mut raw = RawGguf::sample();
        raw.tensors[0].ty = id;
        let message = parse(&raw).unwrap_err().to_string();
        assert!(
            message.contains(&format!("type {id}, which only ik_llama.cpp")),
            "{message}"
        );
        assert!(message.contains("requantise"), "{message}");
    }
}

#[test]
fn dimension_counts_that_cannot_be() {
    for count in [0, 5, 1 << 30, u32::MAX] {
        let mut raw = RawGguf::sample();
        raw.tensors[3].dim_count = Some(count);
        let error = parse(&raw).unwrap_err();
        assert!(
            matches!(error, GgufError::DimensionCount { .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains("tid2eid"), "{error}");
    }
}

#[test]
fn shapes_that_cannot_be() {
    for dims in [
        vec![0],
        vec![4, 0],
        vec![u64::MAX],
        vec![1 << 32, 1 << 32],
        vec![1 << 62, 1, 2],
        // 2^62 values can be counted, their 2^64 bytes cannot.
        vec![1 << 31, 1 << 31],
        vec![u64::MAX, u64::MAX, u64::MAX, u64::MAX],
    ] {
        let mut raw = RawGguf::sample();
        raw.tensors[1].dims = dims;
        let error = parse(&raw).unwrap_err();
        assert!(matches!(error, GgufError::Shape { .. }), "{error:?}");
        assert!(
            error.to_string().contains("\"output_norm.weight\""),
            "{error}"
        );
    }
}

#[test]
fn a_shape_larger_than_the_file() {
    refused!(
        |r| r.tensors[4].dims = vec![256, 2],
        GgufError::OutsideFile { .. },
        "\"blk.0.attn_q_a.weight\"",
        "truncated"
    );
    refused!(
        |r| r.tensors[4].dims = vec![256, 1 << 50],
        GgufError::OutsideFile { .. },
        "attn_q_a"
    );
}

#[test]
fn rows_of_broken_blocks() {
    refused!(
        |r| r.tensors[0].dims = vec![48, 3],
        GgufError::RowLength { .. },
        "\"token_embd.weight\"",
        "Q8_0 needs a multiple of 32"
    );
    refused!(
        |r| r.tensors[4].dims = vec![128, 2],
        GgufError::RowLength { .. },
        "multiple of 256"
    );
}

#[test]
fn offsets_that_are_not_aligned() {
    refused!(
        |r| r.tensors[4].offset += 32,
        GgufError::Misaligned { .. },
        "\"blk.0.attn_q_a.weight\"",
        "64"
    );
    refused!(
        |r| r.tensors[4].offset = u64::MAX,
        GgufError::Misaligned { .. },
        "attn_q_a"
    );
}

#[test]
fn offsets_outside_the_file() {
    for offset in [1 << 20, 1 << 40, 1 << 63, u64::MAX - 63] {
        let mut raw = RawGguf::sample();
        raw.tensors[4].offset = offset;
        let error = parse(&raw).unwrap_err();
        assert!(matches!(error, GgufError::OutsideFile { .. }), "{error:?}");
    }
}

#[test]
fn tensors_that_overlap() {
    refused!(
        |r| r.tensors[1].offset = 64,
        GgufError::Overlap { .. },
        "\"token_embd.weight\" and \"output_norm.weight\""
    );
    refused!(
        |r| r.tensors[1].offset = 0,
        GgufError::Overlap { .. },
        "overlap"
    );
}

#[test]
fn truncation_at_every_byte() {
    let built = RawGguf::sample().build();
    let len = built.bytes.len() as u64;
    for cut in 0..built.bytes.len() {
        let cut_file = &built.bytes[..cut];
        assert!(
            parse_header(cut_file, cut as u64).is_err(),
            "file cut at {cut}"
        );
        // The header alone is enough where the caller knows the file's length.
        assert_eq!(
            parse_header(cut_file, len).is_ok(),
            cut >= built.header_end,
            "first {cut} bytes"
        );
    }
}

#[test]
fn a_header_without_end() {
    // 300 MiB of one string: within the file, but no header is that long.
    let mut raw = RawGguf::sample();
    raw.tensors.clear();
    let len = 300u64 << 20;
    raw.entry("long", 8, &len.to_le_bytes());
    let mut bytes = raw.build().bytes;
    bytes.resize(bytes.len() + len as usize, b'x');
    let error = parse_header(&bytes, bytes.len() as u64).unwrap_err();
    assert!(
        matches!(error, GgufError::HeaderTooLong { .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("\"long\""), "{error}");
}

#[test]
fn a_file_without_tensors_needs_no_padding() {
    let mut raw = RawGguf::sample();
    raw.tensors.clear();
    let built = raw.build();
    let bytes = &built.bytes[..built.header_end];
    let header = parse_header(bytes, bytes.len() as u64).unwrap();
    assert!(header.tensors.is_empty());
}

#[test]
fn hostile_names_cannot_steer_the_terminal() {
    let mut raw = RawGguf::sample();
    raw.tensors[0].name = b"\x1b[2J\nerror: fine\xe2\x80\xae".into();
    raw.tensors[0].ty = 99;
    let message = parse(&raw).unwrap_err().to_string();
    assert!(
        !message.chars().any(|c| c.is_control() || c == '\u{202e}'),
        "{message:?}"
    );
    raw.entry(&"k\u{7f}".repeat(10_000), 99, &[]);
    assert!(parse(&raw).unwrap_err().to_string().len() < 1000);
}

#[test]
fn errors_of_a_file_name_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("broken.gguf");
    let open = || GgufFile::open(&path).unwrap_err().to_string();
    assert!(open().contains("broken.gguf: cannot open the file"));
    std::fs::write(&path, b"").unwrap();
    assert!(open().contains("broken.gguf: not a GGUF file"));
    std::fs::write(&path, &RawGguf::sample().build().bytes[..600]).unwrap();
    assert!(
        open().contains("broken.gguf: ends within key "),
        "{}",
        open()
    );
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(open().contains("broken.gguf: not a regular file"));
}

#[test]
fn a_file_gives_its_tensors_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sample.gguf");
    let built = RawGguf::sample().build();
    std::fs::write(&path, &built.bytes).unwrap();
    let file = GgufFile::open(&path).unwrap();
    for RawTensor { name, offset, .. } in RawGguf::sample().tensors {
        let tensor = file.tensor(std::str::from_utf8(&name).unwrap()).unwrap();
        let start = built.header_end.next_multiple_of(64) + offset as usize;
        assert_eq!(file.position(tensor), start as u64);
        assert_eq!(
            file.data(tensor),
            &built.bytes[start..start + tensor.bytes as usize]
        );
    }
    assert!(file.tensor("output.weight").is_none());
    assert_eq!(file.file_len(), built.bytes.len() as u64);
}
