use std::fmt;

use super::MAX_HEADER_BYTES;
use super::error::{GgufError, Shown};

/// The part of a header that is being read, for messages.
#[derive(Clone, Copy)]
pub(super) enum Item<'a> {
    /// Magic, version and counts.
    Start,
    /// A metadata entry whose key is not yet known, by index.
    KeyOf(u64),
    /// The value of a key.
    Key(&'a str),
    /// A tensor whose name is not yet known, by index.
    NameOf(u64),
    /// The entry of a tensor.
    Tensor(&'a str),
}

impl fmt::Display for Item<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start => f.write_str("the first 24 bytes"),
            Self::KeyOf(i) => write!(f, "metadata entry {i}"),
            Self::Key(key) => write!(f, "key {}", Shown(key)),
            Self::NameOf(i) => write!(f, "tensor entry {i}"),
            Self::Tensor(name) => write!(f, "tensor {}", Shown(name)),
        }
    }
}

/// Reads forward through a header and never past its end.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The header was longer than [`MAX_HEADER_BYTES`], `bytes` was cut.
    cut: bool,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        let end = usize::try_from(MAX_HEADER_BYTES).map_or(bytes.len(), |m| m.min(bytes.len()));
        Self {
            bytes: &bytes[..end],
            at: 0,
            cut: end < bytes.len(),
        }
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> u64 {
        self.at as u64
    }

    /// Bytes left.
    pub(super) fn left(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    pub(super) fn take(&mut self, len: u64, item: Item<'_>) -> Result<&'a [u8], GgufError> {
        let taken = usize::try_from(len)
            .ok()
            .and_then(|len| self.bytes[self.at..].get(..len));
        let Some(taken) = taken else {
            return Err(self.short(len, item));
        };
        self.at += taken.len();
        Ok(taken)
    }

    /// The error for an item that claims `need` bytes and has fewer.
    fn short(&self, need: u64, item: Item<'_>) -> GgufError {
        if self.cut {
            return GgufError::HeaderTooLong {
                item: item.to_string(),
                limit: MAX_HEADER_BYTES,
            };
        }
        GgufError::Truncated {
            item: item.to_string(),
            need,
            left: self.left(),
        }
    }

    /// Fails unless `count` things of at least `size` bytes each can follow.
    pub(super) fn expect(&self, count: u64, size: u64, item: Item<'_>) -> Result<(), GgufError> {
        match count.checked_mul(size) {
            Some(need) if need <= self.left() => Ok(()),
            need => Err(self.short(need.unwrap_or(u64::MAX), item)),
        }
    }

    pub(super) fn array<const N: usize>(&mut self, item: Item<'_>) -> Result<[u8; N], GgufError> {
        let taken = self.take(N as u64, item)?;
        Ok(taken.try_into().expect("take gives the length asked for"))
    }

    pub(super) fn u32(&mut self, item: Item<'_>) -> Result<u32, GgufError> {
        self.array(item).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, item: Item<'_>) -> Result<u64, GgufError> {
        self.array(item).map(u64::from_le_bytes)
    }

    /// A length and as many bytes of UTF-8.
    pub(super) fn text(&mut self, item: Item<'_>) -> Result<&'a str, GgufError> {
        let len = self.u64(item)?;
        let bytes = self.take(len, item)?;
        std::str::from_utf8(bytes).map_err(|_| GgufError::Utf8 {
            item: item.to_string(),
        })
    }

    /// A text of 1 to `most` bytes.
    pub(super) fn name(&mut self, most: u64, item: Item<'_>) -> Result<&'a str, GgufError> {
        let text = self.text(item)?;
        super::check_name(text, most, || item.to_string())?;
        Ok(text)
    }
}
