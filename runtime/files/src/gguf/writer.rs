use v4_quant::GgmlType;

use super::error::GgufError;
use super::metadata::Metadata;
use super::tensor::{TensorInfo, check_table};
use super::value::{Array, Value};
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, MAX_KEY_BYTES, MAX_WRITTEN_NAME_BYTES};

/// The version that is written.
const VERSION: u32 = 3;

/// The alignment of the files we write: a page, so that tensors can be read
/// with direct I/O.
pub const PAGE_ALIGNMENT: u64 = 4096;

/// Lays tensors out one after the other, each at the next multiple of `alignment`.
///
/// # Errors
/// A bad alignment, a shape that [`TensorInfo::new`] refuses, or more data than
/// can be counted.
pub fn layout_offsets(
    tensors: impl IntoIterator<Item = (String, GgmlType, Vec<u64>)>,
    alignment: u64,
) -> Result<Vec<TensorInfo>, GgufError> {
    super::check_alignment(alignment)?;
    let mut next = 0u64;
    tensors
        .into_iter()
        .map(|(name, ty, dims)| {
            let mut info = TensorInfo::new(name, ty, dims)?;
            info.offset = next;
            next = next
                .checked_add(info.bytes)
                .and_then(|end| end.checked_next_multiple_of(alignment))
                .ok_or_else(|| GgufError::Shape {
                    tensor: info.name.clone(),
                    dims: info.dims.clone(),
                })?;
            Ok(info)
        })
        .collect()
}

/// Length of the data section: up to the end of the last tensor, padded to the
/// alignment as other readers expect it.
#[must_use]
pub fn data_bytes(tensors: &[TensorInfo], alignment: u64) -> u64 {
    tensors
        .iter()
        .map(|t| t.offset.saturating_add(t.bytes))
        .max()
        .map_or(0, |end| {
            end.checked_next_multiple_of(alignment).unwrap_or(u64::MAX)
        })
}

/// The bytes of a GGUF v3 file up to the start of its tensors' data, padding
/// included.
///
/// The key `general.alignment` is added at the end unless it is there or the
/// alignment is GGUF's default of 32. What is encoded, [`parse_header`](super::parse_header)
/// accepts and gives back.
///
/// # Errors
/// Whatever would make the file one that is refused when read: names, shapes,
/// offsets, alignment; also a name that llama.cpp finds too long.
pub fn encode_header(
    metadata: &Metadata,
    tensors: &[TensorInfo],
    alignment: u64,
) -> Result<Vec<u8>, GgufError> {
    use super::metadata::Optional as _;
    super::check_alignment(alignment)?;
    let stored = metadata.get_u32(ALIGNMENT_KEY).optional()?.map(u64::from);
    let add_alignment = stored.is_none() && alignment != DEFAULT_ALIGNMENT;
    if stored.is_some_and(|stored| stored != alignment) {
        return Err(GgufError::AlignmentMismatch {
            stored: stored.unwrap_or_default(),
            asked: alignment,
        });
    }
    check_table(tensors, alignment)?;

    let mut out = Vec::new();
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    put_u64(&mut out, tensors.len() as u64);
    put_u64(&mut out, metadata.len() as u64 + u64::from(add_alignment));
    for (key, value) in metadata.iter() {
        super::check_name(key, MAX_KEY_BYTES, || format!("key {}", super::Shown(key)))?;
        put_entry(&mut out, key, value);
    }
    if add_alignment {
        // `check_alignment` has bounded it.
        let value = Value::U32(u32::try_from(alignment).expect("a small power of two"));
        put_entry(&mut out, ALIGNMENT_KEY, &value);
    }
    for t in tensors {
        super::check_name(&t.name, MAX_WRITTEN_NAME_BYTES, || {
            format!("tensor {}", super::Shown(&t.name))
        })?;
        put_text(&mut out, &t.name);
        out.extend_from_slice(&(t.dims.len() as u32).to_le_bytes());
        for &dim in &t.dims {
            put_u64(&mut out, dim);
        }
        out.extend_from_slice(&t.ty.id().to_le_bytes());
        put_u64(&mut out, t.offset);
    }
    let len = (out.len() as u64).next_multiple_of(alignment);
    out.resize(usize::try_from(len).expect("a header fits in memory"), 0);
    Ok(out)
}

fn put_u64(out: &mut Vec<u8>, v: u64) {
    out.extend_from_slice(&v.to_le_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_u64(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn put_entry(out: &mut Vec<u8>, key: &str, value: &Value) {
    put_text(out, key);
    out.extend_from_slice(&value.type_id().to_le_bytes());
    match value {
        Value::U8(v) => out.push(*v),
        Value::I8(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U16(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I16(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::F32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::String(v) => put_text(out, v),
        Value::Array(v) => put_array(out, v),
        Value::U64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::F64(v) => out.extend_from_slice(&v.to_le_bytes()),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    out.extend_from_slice(&array.type_id().to_le_bytes());
    put_u64(out, array.len() as u64);
    macro_rules! numbers {
        ($v:expr) => {
            $v.iter()
                .for_each(|v| out.extend_from_slice(&v.to_le_bytes()))
        };
    }
    match array {
        Array::U8(v) => out.extend_from_slice(v),
        Array::I8(v) => numbers!(v),
        Array::U16(v) => numbers!(v),
        Array::I16(v) => numbers!(v),
        Array::U32(v) => numbers!(v),
        Array::I32(v) => numbers!(v),
        Array::F32(v) => numbers!(v),
        Array::Bool(v) => out.extend(v.iter().map(|&b| u8::from(b))),
        Array::String(v) => v.iter().for_each(|s| put_text(out, s)),
        Array::U64(v) => numbers!(v),
        Array::I64(v) => numbers!(v),
        Array::F64(v) => numbers!(v),
    }
}
