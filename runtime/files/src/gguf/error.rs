use std::path::PathBuf;
use std::{fmt, io};

use v4_quant::GgmlType;

/// What can be wrong with a GGUF file, or with what one asks of it.
///
/// Every message is one line that names the item and the remedy; names that
/// come from the file are escaped and cut to a printable length. Errors of
/// [`GgufFile`](super::GgufFile) are wrapped in [`GgufError::File`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// Any of the others, with the file it was found in.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: Box<GgufError>,
    },
    /// The operating system refused to open or map the file.
    #[error("cannot {action}: {error}")]
    Io {
        /// What was tried, such as `open the file`.
        action: &'static str,
        /// The system's answer.
        error: io::Error,
    },
    /// The path leads to a folder, a pipe or a device.
    #[error("not a regular file; give the path of a .gguf file")]
    NotAFile,
    /// The first four bytes are not `GGUF`.
    #[error("not a GGUF file; give a .gguf file, or make one from a checkpoint with v4-convert")]
    NotGguf,
    /// A Git LFS pointer stands where the model should.
    #[error(
        "a Git LFS pointer, not the model itself; fetch the model with `git lfs pull`, or download \
         it"
    )]
    LfsPointer,
    /// The file was written for a big-endian machine.
    #[error("a big-endian GGUF file; convert it to little-endian first")]
    BigEndian,
    /// A version other than 2 and 3.
    #[error(
        "GGUF version {0} is not supported, only versions 2 and 3; convert the model again with a \
         current converter"
    )]
    Version(u32),
    /// The file ends before the header does.
    #[error(
        "ends within {item}: {need} bytes needed, {left} left; the file is truncated or damaged, \
         download or convert it again"
    )]
    Truncated {
        /// The part of the header that was being read.
        item: String,
        /// Bytes that the item claims to have.
        need: u64,
        /// Bytes left.
        left: u64,
    },
    /// Metadata and tensor table are longer than [`MAX_HEADER_BYTES`](super::MAX_HEADER_BYTES).
    #[error(
        "{item} exceeds the limit of {limit} bytes for a header; the file is damaged, download or \
         convert it again"
    )]
    HeaderTooLong {
        /// The part of the header that was being read.
        item: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// More metadata entries or tensors than a file of this length can hold.
    #[error(
        "claims {count} {what}, but a file of this size can have at most {most}; it is truncated \
         or damaged, download or convert it again"
    )]
    Count {
        /// `metadata entries` or `tensors`.
        what: &'static str,
        /// The number claimed.
        count: u64,
        /// The highest number possible.
        most: u64,
    },
    /// A key or tensor name is empty or longer than the format allows.
    #[error(
        "{item}: the name has {len} bytes, but only 1 to {most} are allowed; the file is damaged, \
         download or convert it again"
    )]
    NameLength {
        /// The entry.
        item: String,
        /// Length in bytes.
        len: u64,
        /// The longest allowed.
        most: u64,
    },
    /// A string is not UTF-8.
    #[error("{item}: the text is not UTF-8; the file is damaged, download or convert it again")]
    Utf8 {
        /// The entry.
        item: String,
    },
    /// Two metadata entries have one key.
    #[error("key {} occurs twice; convert the model again", Shown(key))]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// Two tensors have one name.
    #[error("tensor {} occurs twice; convert the model again", Shown(tensor))]
    DuplicateTensor {
        /// The tensor.
        tensor: String,
    },
    /// A metadata value of a type that GGUF does not have.
    #[error(
        "{item}: value type {id} does not exist in GGUF; the file is damaged, download or convert \
         it again"
    )]
    ValueType {
        /// The entry.
        item: String,
        /// The type's number.
        id: u32,
    },
    /// An array of arrays.
    #[error(
        "key {} is an array of arrays, which is not supported; remove the key",
        Shown(key)
    )]
    NestedArray {
        /// The key.
        key: String,
    },
    /// A truth value other than 0 and 1.
    #[error(
        "{item}: a boolean is {byte}, not 0 or 1; the file is damaged, download or convert it again"
    )]
    Bool {
        /// The entry.
        item: String,
        /// The byte found.
        byte: u8,
    },
    /// An alignment that is not a power of two, or out of range.
    #[error(
        "alignment {alignment} is not a power of two from {} to {}; convert the model again",
        super::MIN_ALIGNMENT,
        super::MAX_ALIGNMENT
    )]
    Alignment {
        /// The alignment found.
        alignment: u64,
    },
    /// The metadata names another alignment than the one asked for.
    #[error(
        "key \"general.alignment\" is {stored}, but the file is laid out for {asked}; remove the \
         key"
    )]
    AlignmentMismatch {
        /// As the metadata says.
        stored: u64,
        /// As the caller says.
        asked: u64,
    },
    /// A tensor of a type that cannot be read here.
    #[error("tensor {} has type {}", Shown(tensor), TypeRemedy(*id))]
    TensorType {
        /// The tensor.
        tensor: String,
        /// The type's number.
        id: u32,
    },
    /// A tensor with no dimensions or more than four.
    #[error(
        "tensor {} has {count} dimensions, but only 1 to 4 are allowed; the file is damaged, \
         download or convert it again",
        Shown(tensor)
    )]
    DimensionCount {
        /// The tensor.
        tensor: String,
        /// The number of dimensions.
        count: u64,
    },
    /// A tensor with a dimension of 0, or with more values than can be counted.
    #[error(
        "tensor {} has the impossible shape {dims:?}; the file is damaged, download or convert it \
         again",
        Shown(tensor)
    )]
    Shape {
        /// The tensor.
        tensor: String,
        /// The dimensions, innermost first.
        dims: Vec<u64>,
    },
    /// A row that is not a whole number of blocks.
    #[error(
        "tensor {} has rows of {values} values, but {ty} needs a multiple of {}; choose another \
         type for it",
        Shown(tensor),
        ty.block_values()
    )]
    RowLength {
        /// The tensor.
        tensor: String,
        /// Its type.
        ty: GgmlType,
        /// Values per row.
        values: u64,
    },
    /// A tensor's byte count is not what its type and shape need.
    #[error(
        "tensor {} has {given} bytes, but its type and shape take {expected}",
        Shown(tensor)
    )]
    TensorBytes {
        /// The tensor.
        tensor: String,
        /// The count given.
        given: u64,
        /// The count that type and shape make.
        expected: u64,
    },
    /// A tensor does not start at a multiple of the alignment.
    #[error(
        "tensor {} starts at {offset}, which is not a multiple of the alignment {alignment}; \
         convert the model again",
        Shown(tensor)
    )]
    Misaligned {
        /// The tensor.
        tensor: String,
        /// Its offset from the start of the data.
        offset: u64,
        /// The file's alignment.
        alignment: u64,
    },
    /// A tensor's data is past the end of the file.
    #[error(
        "tensor {} ends at byte {end}, but the file has only {file_len}; it is truncated or \
         damaged, download or convert it again",
        Shown(tensor)
    )]
    OutsideFile {
        /// The tensor.
        tensor: String,
        /// Where its data would end, from the start of the file.
        end: u128,
        /// The file's length.
        file_len: u64,
    },
    /// Two tensors share bytes.
    #[error(
        "tensors {} and {} overlap; the file is damaged, download or convert it again",
        Shown(first),
        Shown(second)
    )]
    Overlap {
        /// The tensor that starts first.
        first: String,
        /// The tensor that starts inside it.
        second: String,
    },
    /// A part of a split model that is not its first.
    #[error("part {number} of {count} of a split model; give the first part, {}", first.display())]
    NotFirstPart {
        /// Which part it is, from 1.
        number: u64,
        /// The number of parts.
        count: u64,
        /// Where the first part should be.
        first: PathBuf,
    },
    /// A part of a split model that is not there.
    #[error(
        "part {number} of {count} of the model is missing; copy it to this folder, beside the other \
         parts"
    )]
    MissingPart {
        /// Which part it is, from 1.
        number: u64,
        /// The number of parts.
        count: u64,
    },
    /// A part whose name does not say which it is, so that the others cannot be found.
    #[error(
        "part {number} of {count} of a split model, but its name does not end in \
         -{number:05}-of-{count:05}.gguf, by which the other parts are found; give it its name back"
    )]
    PartName {
        /// Which part it is, from 1.
        number: u64,
        /// The number of parts.
        count: u64,
    },
    /// A file in the place of a part that is not that part.
    #[error("{what}; copy the model's parts again")]
    ForeignPart {
        /// What is wrong with it.
        what: String,
    },
    /// The parts of a set do not have the tensors that they should have together.
    #[error(
        "the parts of the model have {found} tensors, but {expected} according to the first part: a \
         part belongs to another model; copy them again"
    )]
    SetTensors {
        /// The number that the first part states.
        expected: u64,
        /// The number found.
        found: u64,
    },
    /// Bytes of a tensor are not what the file's hashes say.
    #[error(
        "tensor {} does not match the manifest: bytes {from} to {to} of the file were altered, or \
         its disk is damaged; copy the model again",
        Shown(tensor)
    )]
    Altered {
        /// The tensor.
        tensor: String,
        /// First byte of the block, from the start of the file.
        from: u64,
        /// End of the block.
        to: u64,
    },
    /// The header, or the data between tensors, does not match the file's hashes.
    #[error(
        "its header, or data between its tensors, does not match the manifest: the file was \
         altered, or its disk is damaged; copy the model again"
    )]
    AlteredFrame,
    /// The file is shorter or longer than its hashes say.
    #[error(
        "has {found} bytes, but {expected} according to the manifest: it is truncated, or belongs \
         to another model; copy it again"
    )]
    AlteredLength {
        /// Its length.
        found: u64,
        /// What it should be.
        expected: u64,
    },
    /// Somebody has written to the file since it was opened.
    #[error(
        "was modified or truncated while in use, so results may be wrong; check that the model is \
         complete and start again, and never overwrite a model in use"
    )]
    Written,
    /// A tensor that the hashes lack, or have elsewhere.
    #[error(
        "the manifest has no hashes of tensor {}; sign the model again with v4-convert",
        Shown(tensor)
    )]
    NotInHashes {
        /// The tensor.
        tensor: String,
    },
    /// Hashes of blocks that are not those that the engine reads.
    #[error(
        "the manifest's blocks of tensor {} are not whole experts; sign the model again with v4-convert",
        Shown(tensor)
    )]
    BlockSize {
        /// The tensor.
        tensor: String,
    },
    /// A key that is needed is not there.
    #[error(
        "key {} is missing; convert the model again with v4-convert",
        Shown(key)
    )]
    Missing {
        /// The key.
        key: String,
    },
    /// A key has a value of another type.
    #[error(
        "key {} is {found}, not {expected}; convert the model again with v4-convert",
        Shown(key)
    )]
    WrongType {
        /// The key.
        key: String,
        /// The type in the file.
        found: String,
        /// The type asked for.
        expected: &'static str,
    },
    /// A number does not fit the type asked for.
    #[error(
        "key {}: {value} does not fit {expected}; convert the model again with v4-convert",
        Shown(key)
    )]
    OutOfRange {
        /// The key.
        key: String,
        /// The number in the file.
        value: String,
        /// The type asked for.
        expected: &'static str,
    },
}

impl GgufError {
    /// Whether it says that the file is not what its hashes say, or not what it was when
    /// it was opened.
    #[must_use]
    pub fn is_altered(&self) -> bool {
        match self {
            Self::File { error, .. } => error.is_altered(),
            Self::Altered { .. }
            | Self::AlteredFrame
            | Self::AlteredLength { .. }
            | Self::Written => true,
            _ => false,
        }
    }
}

/// A name from a file, quoted and escaped, at most 96 characters of it.
pub struct Shown<T>(pub T);

impl<T: AsRef<str>> fmt::Display for Shown<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 96;
        let text = self.0.as_ref();
        match text.char_indices().nth(MOST) {
            None => write!(f, "{text:?}"),
            Some((end, _)) => write!(f, "{:?}…", &text[..end]),
        }
    }
}

/// Says for a type number that is unknown to [`GgmlType`] what it is and what to do.
struct TypeRemedy(u32);

impl fmt::Display for TypeRemedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.0;
        let name = match id {
            9 => "Q8_1",
            15 => "Q8_K",
            34 => "TQ1_0",
            35 => "TQ2_0",
            41 => "Q1_0",
            42 => "Q2_0",
            4 | 5 | 31..=33 | 36..=38 => {
                return write!(
                    f,
                    "{id}, which ggml has removed; convert the model again with v4-convert"
                );
            }
            133.. => {
                return write!(
                    f,
                    "{id}, which only ik_llama.cpp has; requantise the model to a llama.cpp type, \
                     such as Q4_K"
                );
            }
            _ => {
                return write!(
                    f,
                    "{id}, which is unknown; the file is damaged, or newer than this program"
                );
            }
        };
        write!(
            f,
            "{id} ({name}), which is not supported; requantise the model to another type, such as Q4_K or Q8_0"
        )
    }
}
