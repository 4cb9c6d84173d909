use v4_quant::GgmlType;

use super::cursor::{Cursor, Item};
use super::error::GgufError;
use super::metadata::Metadata;
use super::tensor::{TensorInfo, check_table};
use super::value::{Array, Strings, Value, id};
use super::{DEFAULT_ALIGNMENT, MAGIC, MAX_DIMS, MAX_KEY_BYTES, MAX_NAME_BYTES};

/// Everything in a GGUF file except the tensors' data.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// Tensors start at multiples of this, in bytes.
    pub alignment: u64,
    /// Keys and values in the file's order.
    pub metadata: Metadata,
    /// The tensors in the file's order.
    pub tensors: Vec<TensorInfo>,
    /// Where the tensors' data starts, in bytes from the start of the file.
    pub data_offset: u64,
}

/// A metadata entry takes at least this many bytes: the key's length and one
/// character, the type, one byte of value.
const LEAST_ENTRY: u64 = 8 + 1 + 4 + 1;
/// As a tensor entry: the name's length and one character, the number of
/// dimensions, one dimension, type and offset.
const LEAST_TENSOR: u64 = 8 + 1 + 4 + 8 + 4 + 8;
/// A table of entries may take this much memory however short the file is.
const FREE_TABLE_BYTES: u64 = 64 << 10;

/// Reads the header of a file of `file_len` bytes, of which `bytes` are the
/// first (all of them, or at least the whole header).
///
/// The bytes are not trusted: no single allocation is larger than the file (or
/// 64 KiB), and every tensor of the result is inside the file, aligned, apart
/// from the others, in whole blocks of a known type.
///
/// # Errors
/// Whatever is wrong with the header, see [`GgufError`].
pub fn parse_header(bytes: &[u8], file_len: u64) -> Result<Header, GgufError> {
    let mut cursor = Cursor::new(bytes);
    let version = read_version(bytes, &mut cursor)?;
    let tensor_count = cursor.u64(Item::Start)?;
    let entry_count = cursor.u64(Item::Start)?;

    let capacity = table_capacity::<(String, Value)>(
        "metadata entries",
        entry_count,
        cursor.left() / LEAST_ENTRY,
        file_len,
    )?;
    let mut entries = Vec::with_capacity(capacity);
    for i in 0..entry_count {
        let key = cursor.name(MAX_KEY_BYTES, Item::KeyOf(i))?;
        let value = read_value(&mut cursor, key)?;
        entries.push((key.to_owned(), value));
    }
    let metadata = Metadata::from_entries(entries)?;
    let alignment = read_alignment(&metadata)?;

    let capacity = table_capacity::<TensorInfo>(
        "tensors",
        tensor_count,
        cursor.left() / LEAST_TENSOR,
        file_len,
    )?;
    let mut tensors = Vec::with_capacity(capacity);
    for i in 0..tensor_count {
        tensors.push(read_tensor(&mut cursor, i)?);
    }
    // At most MAX_HEADER_BYTES + MAX_ALIGNMENT.
    let data_offset = cursor.position().next_multiple_of(alignment);
    check_table(&tensors, alignment)?;
    for t in &tensors {
        let end = u128::from(data_offset) + u128::from(t.offset) + u128::from(t.bytes);
        if end > u128::from(file_len) {
            return Err(GgufError::OutsideFile {
                tensor: t.name.clone(),
                end,
                file_len,
            });
        }
    }
    Ok(Header {
        version,
        alignment,
        metadata,
        tensors,
        data_offset,
    })
}

fn read_version(bytes: &[u8], cursor: &mut Cursor<'_>) -> Result<u32, GgufError> {
    if super::is_lfs_pointer(bytes) {
        return Err(GgufError::LfsPointer);
    }
    if !bytes.starts_with(MAGIC) {
        return Err(GgufError::NotGguf);
    }
    cursor.take(MAGIC.len() as u64, Item::Start)?;
    let version = cursor.u32(Item::Start)?;
    match version {
        2 | 3 => Ok(version),
        v if matches!(v.swap_bytes(), 1..=3) => Err(GgufError::BigEndian),
        v => Err(GgufError::Version(v)),
    }
}

/// How many entries of type `T` to make room for, once the count is known to be
/// possible: that many fit in the bytes left, and the table in memory is not
/// larger than the file.
fn table_capacity<T>(
    what: &'static str,
    count: u64,
    fit: u64,
    file_len: u64,
) -> Result<usize, GgufError> {
    let size = size_of::<T>() as u64;
    let most = fit.min(file_len.max(FREE_TABLE_BYTES) / size);
    if count > most {
        return Err(GgufError::Count { what, count, most });
    }
    // `fit` comes from a slice's length.
    Ok(usize::try_from(count).expect("fits in memory"))
}

fn read_value(cursor: &mut Cursor<'_>, key: &str) -> Result<Value, GgufError> {
    let item = Item::Key(key);
    let type_id = cursor.u32(item)?;
    Ok(match type_id {
        id::U8 => Value::U8(u8::from_le_bytes(cursor.array(item)?)),
        id::I8 => Value::I8(i8::from_le_bytes(cursor.array(item)?)),
        id::U16 => Value::U16(u16::from_le_bytes(cursor.array(item)?)),
        id::I16 => Value::I16(i16::from_le_bytes(cursor.array(item)?)),
        id::U32 => Value::U32(u32::from_le_bytes(cursor.array(item)?)),
        id::I32 => Value::I32(i32::from_le_bytes(cursor.array(item)?)),
        id::F32 => Value::F32(f32::from_le_bytes(cursor.array(item)?)),
        id::BOOL => Value::Bool(read_bool(cursor.array::<1>(item)?[0], item)?),
        id::STRING => Value::String(cursor.text(item)?.to_owned()),
        id::ARRAY => Value::Array(read_array(cursor, key)?),
        id::U64 => Value::U64(u64::from_le_bytes(cursor.array(item)?)),
        id::I64 => Value::I64(i64::from_le_bytes(cursor.array(item)?)),
        id::F64 => Value::F64(f64::from_le_bytes(cursor.array(item)?)),
        other => return Err(unknown_value_type(item, other)),
    })
}

fn read_array(cursor: &mut Cursor<'_>, key: &str) -> Result<Array, GgufError> {
    let item = Item::Key(key);
    let element = cursor.u32(item)?;
    let count = cursor.u64(item)?;
    macro_rules! numbers {
        ($ty:ty) => {{
            const SIZE: usize = size_of::<$ty>();
            cursor.expect(count, SIZE as u64, item)?;
            let bytes = cursor.take(count * SIZE as u64, item)?;
            let (chunks, _) = bytes.as_chunks::<SIZE>();
            chunks.iter().map(|c| <$ty>::from_le_bytes(*c)).collect()
        }};
    }
    Ok(match element {
        id::U8 => Array::U8(numbers!(u8)),
        id::I8 => Array::I8(numbers!(i8)),
        id::U16 => Array::U16(numbers!(u16)),
        id::I16 => Array::I16(numbers!(i16)),
        id::U32 => Array::U32(numbers!(u32)),
        id::I32 => Array::I32(numbers!(i32)),
        id::F32 => Array::F32(numbers!(f32)),
        id::BOOL => {
            let bytes = cursor.take(count, item)?;
            if let Some(&bad) = bytes.iter().find(|&&b| b > 1) {
                read_bool(bad, item)?;
            }
            Array::Bool(bytes.iter().map(|&b| b == 1).collect())
        }
        id::STRING => Array::String(read_strings(cursor, count, item)?),
        id::ARRAY => {
            return Err(GgufError::NestedArray {
                key: key.to_owned(),
            });
        }
        id::U64 => Array::U64(numbers!(u64)),
        id::I64 => Array::I64(numbers!(i64)),
        id::F64 => Array::F64(numbers!(f64)),
        other => return Err(unknown_value_type(item, other)),
    })
}

/// Reads `count` strings in two passes, so that both buffers have their final
/// size from the start and are no larger than in the file.
fn read_strings(cursor: &mut Cursor<'_>, count: u64, item: Item<'_>) -> Result<Strings, GgufError> {
    // Each has at least its length, so a count that passes fits in memory.
    cursor.expect(count, size_of::<u64>() as u64, item)?;
    let mut ahead = cursor.clone();
    let mut total = 0;
    for _ in 0..count {
        total += ahead.text(item)?.len();
    }
    let mut text = String::with_capacity(total);
    let mut ends = Vec::with_capacity(usize::try_from(count).expect("fits in memory"));
    for _ in 0..count {
        text.push_str(cursor.text(item)?);
        ends.push(text.len());
    }
    Ok(Strings::from_parts(text, ends))
}

fn read_bool(byte: u8, item: Item<'_>) -> Result<bool, GgufError> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        byte => Err(GgufError::Bool {
            item: item.to_string(),
            byte,
        }),
    }
}

fn unknown_value_type(item: Item<'_>, id: u32) -> GgufError {
    GgufError::ValueType {
        item: item.to_string(),
        id,
    }
}

fn read_tensor(cursor: &mut Cursor<'_>, index: u64) -> Result<TensorInfo, GgufError> {
    let name = cursor.name(MAX_NAME_BYTES, Item::NameOf(index))?;
    let item = Item::Tensor(name);
    let dim_count = cursor.u32(item)?;
    if dim_count == 0 || dim_count as usize > MAX_DIMS {
        return Err(GgufError::DimensionCount {
            tensor: name.to_owned(),
            count: dim_count.into(),
        });
    }
    let mut dims = Vec::with_capacity(dim_count as usize);
    for _ in 0..dim_count {
        dims.push(cursor.u64(item)?);
    }
    let type_id = cursor.u32(item)?;
    let offset = cursor.u64(item)?;
    let ty = GgmlType::from_id(type_id).ok_or_else(|| GgufError::TensorType {
        tensor: name.to_owned(),
        id: type_id,
    })?;
    let mut info = TensorInfo::new(name.to_owned(), ty, dims)?;
    info.offset = offset;
    Ok(info)
}

fn read_alignment(metadata: &Metadata) -> Result<u64, GgufError> {
    use super::metadata::Optional as _;
    let alignment = match metadata.get_u32(super::ALIGNMENT_KEY).optional()? {
        Some(alignment) => alignment.into(),
        None => DEFAULT_ALIGNMENT,
    };
    super::check_alignment(alignment)?;
    Ok(alignment)
}
