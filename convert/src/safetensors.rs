//! Reads headers of safetensors files from untrusted bytes.
//!
//! A file is `u64` header length, JSON header, data. Each entry gives dtype,
//! shape and a byte range in the data; ranges must not overlap, leave holes or
//! reach past the end.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::files::{InputFile, ReadError};
use crate::json::UniqueTensors;

/// The largest header accepted; the reference implementation has the same limit.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Dimensions that a tensor may have.
const MAX_DIMS: usize = 8;

/// What is wrong with a shard.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShardError {
    /// The file could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The header's length cannot be true.
    #[error("{}: header of {claimed} bytes in a file of {bytes}; it is truncated or not a \
             safetensors file, download it again", path.display())]
    HeaderLength {
        /// The shard.
        path: PathBuf,
        /// Length that the file claims.
        claimed: u64,
        /// The file's length.
        bytes: u64,
    },
    /// The header is not JSON of the expected form.
    #[error("{}: header: {reason}; the file is damaged or not a safetensors file, download it \
             again", path.display())]
    Header {
        /// The shard.
        path: PathBuf,
        /// What the parser said.
        reason: String,
    },
    /// An entry of the header contradicts itself, another one or the file's length.
    #[error("{}: tensor {tensor:?}: {problem}; the shard is damaged or truncated, download it \
             again", path.display())]
    Tensor {
        /// The shard.
        path: PathBuf,
        /// The entry.
        tensor: String,
        /// What is wrong with it.
        problem: String,
    },
}

macro_rules! dtypes {
    ($($variant:ident = $name:literal, $bytes:literal;)*) => {
        /// Element types of safetensors files.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(non_camel_case_types, missing_docs)]
        pub enum Dtype { $($variant,)* }

        impl Dtype {
            /// The type of this name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }

            /// The name in headers.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Bytes of one element.
            #[must_use]
            pub const fn bytes(self) -> u64 {
                match self { $(Self::$variant => $bytes,)* }
            }
        }
    };
}

dtypes! {
    Bool = "BOOL", 1;
    U8 = "U8", 1;
    I8 = "I8", 1;
    F8_E4M3 = "F8_E4M3", 1;
    F8_E5M2 = "F8_E5M2", 1;
    F8_E8M0 = "F8_E8M0", 1;
    I16 = "I16", 2;
    U16 = "U16", 2;
    F16 = "F16", 2;
    BF16 = "BF16", 2;
    I32 = "I32", 4;
    U32 = "U32", 4;
    F32 = "F32", 4;
    F64 = "F64", 8;
    I64 = "I64", 8;
    U64 = "U64", 8;
}

/// One tensor of a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, outermost first.
    pub shape: Vec<u64>,
    /// First byte, from the start of the file.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// A shard's header.
#[derive(Debug)]
pub struct Header {
    /// The tensors in the order of their data.
    pub tensors: Vec<Entry>,
    /// BLAKE3 of the header's bytes.
    pub hash: blake3::Hash,
}

#[derive(Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// Reads and checks the header of `file`.
///
/// # Errors
/// [`ShardError`] for anything that no writer following the format leaves behind.
pub fn read_header(file: &InputFile) -> Result<Header, ShardError> {
    let path = file.path();
    let lying = |claimed| ShardError::HeaderLength {
        path: path.to_owned(),
        claimed,
        bytes: file.len(),
    };
    let mut length = [0; 8];
    if file.len() < 8 {
        return Err(lying(0));
    }
    file.read_at(0, &mut length)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES || length > file.len() - 8 {
        return Err(lying(length));
    }
    let mut bytes = vec![0; length as usize];
    file.read_at(8, &mut bytes)?;
    parse_header(path, &bytes, file.len() - 8 - length)
}

/// Parses a header's JSON; `data_bytes` follow it in the file `path`.
///
/// # Errors
/// As [`read_header`].
pub fn parse_header(path: &Path, json: &[u8], data_bytes: u64) -> Result<Header, ShardError> {
    let raw: UniqueTensors<RawEntry> =
        serde_json::from_slice(json).map_err(|error| ShardError::Header {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
    let data_start = 8 + json.len() as u64;
    let mut tensors = Vec::with_capacity(raw.0.len());
    for (name, entry) in raw.0 {
        match check_entry(&entry, data_bytes) {
            Ok((dtype, bytes)) => tensors.push(Entry {
                name,
                dtype,
                shape: entry.shape,
                offset: data_start + entry.data_offsets[0],
                bytes,
            }),
            Err(problem) => {
                return Err(ShardError::Tensor {
                    path: path.to_owned(),
                    tensor: name,
                    problem,
                });
            }
        }
    }
    tensors.sort_by(|a, b| (a.offset, a.bytes, &a.name).cmp(&(b.offset, b.bytes, &b.name)));
    let mut end = data_start;
    for tensor in &tensors {
        if tensor.offset != end {
            let what = if tensor.offset < end {
                "overlaps"
            } else {
                "leaves a hole after"
            };
            return Err(ShardError::Tensor {
                path: path.to_owned(),
                tensor: tensor.name.clone(),
                problem: format!("its data {what} the data before it"),
            });
        }
        end += tensor.bytes;
    }
    if end != data_start + data_bytes {
        return Err(ShardError::Header {
            path: path.to_owned(),
            reason: format!(
                "{} bytes follow the last tensor",
                data_start + data_bytes - end
            ),
        });
    }
    Ok(Header {
        tensors,
        hash: blake3::hash(json),
    })
}

/// Dtype and size of an entry that is sound in itself.
fn check_entry(entry: &RawEntry, data_bytes: u64) -> Result<(Dtype, u64), String> {
    let dtype = Dtype::from_name(&entry.dtype).ok_or_else(|| {
        let shown: String = entry.dtype.chars().take(40).collect();
        format!("unknown dtype {shown:?}")
    })?;
    if entry.shape.len() > MAX_DIMS {
        return Err(format!(
            "{} dimensions, more than {MAX_DIMS}",
            entry.shape.len()
        ));
    }
    let bytes = entry
        .shape
        .iter()
        .try_fold(dtype.bytes(), |bytes, &dim| bytes.checked_mul(dim))
        .ok_or_else(|| format!("its shape {:?} overflows", entry.shape))?;
    let [begin, end] = entry.data_offsets;
    if begin > end || end > data_bytes {
        return Err(format!(
            "its data is at {begin}..{end}, but the file has only {data_bytes} bytes of data"
        ));
    }
    if end - begin != bytes {
        return Err(format!(
            "{} {:?} takes {bytes} bytes, but its data has {}",
            dtype.name(),
            entry.shape,
            end - begin
        ));
    }
    Ok((dtype, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str, data_bytes: u64) -> Result<Header, ShardError> {
        parse_header(Path::new("x.safetensors"), json.as_bytes(), data_bytes)
    }

    #[test]
    fn a_sound_header_gives_absolute_offsets() {
        let json = r#"{"__metadata__":{"format":"pt"},
            "b":{"dtype":"F8_E8M0","shape":[2,3],"data_offsets":[8,14]},
            "a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        let header = parse(json, 14).unwrap();
        let start = 8 + json.len() as u64;
        assert_eq!(header.tensors[0].name, "a");
        assert_eq!(header.tensors[1].offset, start + 8);
        assert_eq!(header.tensors[1].bytes, 6);
    }

    #[test]
    fn lies_are_found() {
        for (json, why) in [
            (
                r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#,
                "takes 8 bytes",
            ),
            (
                r#"{"a":{"dtype":"F32","shape":[8],"data_offsets":[0,32]}}"#,
                "bytes of data",
            ),
            (
                r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#,
                "bytes of data",
            ),
            (
                r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}"#,
                "overflows",
            ),
            (
                r#"{"a":{"dtype":"Q9","shape":[1],"data_offsets":[0,1]}}"#,
                "unknown dtype",
            ),
            (
                r#"{"a":{"dtype":"I8","shape":[8],"data_offsets":[0,8]},"b":{"dtype":"I8","shape":[8],"data_offsets":[4,12]}}"#,
                "overlaps",
            ),
            (
                r#"{"a":{"dtype":"I8","shape":[8],"data_offsets":[0,8]},"b":{"dtype":"I8","shape":[4],"data_offsets":[12,16]}}"#,
                "hole",
            ),
            (
                r#"{"a":{"dtype":"I8","shape":[8],"data_offsets":[0,8]},"a":{"dtype":"I8","shape":[8],"data_offsets":[8,16]}}"#,
                "twice",
            ),
            (
                r#"{"a":{"dtype":"I8","shape":[-1],"data_offsets":[0,8]}}"#,
                "header",
            ),
            (r#"{"a":{"dtype":"I8","shape":[1]}}"#, "data_offsets"),
            (
                r#"{"a":{"dtype":"I8","shape":[8],"data_offsets":[0,8]}}"#,
                "8 bytes follow",
            ),
            (r#"[]"#, "header"),
            (r#"{"a":"#, "header"),
        ] {
            let message = parse(json, 16).unwrap_err().to_string();
            assert!(message.contains(why), "{json}: {message}");
            assert!(message.starts_with("x.safetensors: "), "{message}");
        }
    }

    #[test]
    fn a_lying_header_length_allocates_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        for bytes in [
            &b""[..],
            &b"1234567"[..],
            &[0xff; 16][..],
            &[&99_000_000_u64.to_le_bytes()[..], b"{}"].concat(),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let file = InputFile::open(&path).unwrap();
            assert!(matches!(
                read_header(&file),
                Err(ShardError::HeaderLength { .. })
            ));
        }
    }

    /// A small xorshift generator: the same mutations on every machine.
    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 % limit as u64) as usize
        }
    }

    #[test]
    fn ten_thousand_mutations_are_read_or_refused() {
        const DATA: u64 = 80;
        let json = br#"{"__metadata__":{"format":"pt"},"a.weight":{"dtype":"I8","shape":[4,16],"data_offsets":[0,64]},"a.scale":{"dtype":"F8_E8M0","shape":[4,1],"data_offsets":[64,68]},"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[68,80]}}"#;
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let (mut sound, mut refused) = (0, 0);
        for _ in 0..10_000 {
            let mut bytes = json.to_vec();
            for _ in 0..=random.below(3) {
                let at = random.below(bytes.len());
                match random.below(5) {
                    0 => bytes[at] = random.below(256) as u8,
                    1 => bytes[at] ^= 1 << random.below(8),
                    2 => bytes[at] = b"0123456789[]{},:-\""[random.below(18)],
                    3 => bytes.truncate(at.max(1)),
                    _ => bytes.insert(at, b"09-,"[random.below(4)]),
                }
            }
            match parse_header(Path::new("m.safetensors"), &bytes, DATA) {
                // What is accepted is inside the file.
                Ok(header) => {
                    sound += 1;
                    let (start, mut sum) = (8 + bytes.len() as u64, 0);
                    for tensor in header.tensors {
                        assert!(tensor.offset >= start);
                        assert!(tensor.offset + tensor.bytes <= start + DATA);
                        sum += tensor.bytes;
                    }
                    assert_eq!(sum, DATA);
                }
                Err(error) => {
                    refused += 1;
                    assert!(!error.to_string().contains('\n'));
                }
            }
        }
        assert!(
            sound > 100 && refused > 5000,
            "{sound} read, {refused} refused"
        );
    }
}
