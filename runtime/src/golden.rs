//! Golden values in a model file: hashes of the logits of a few fixed tokens. They let
//! users check that their kernels, threads and storage give the same bits as on the machine
//! where the file was made.
//!
//! They are computed with the portable kernels, on one thread. That these are right is
//! not for them to prove: the engine's tests compare them with a float64 reference.
//!
//! The converter leaves room for them in the metadata, filled with zeros; they are filled
//! in when the file is whole. Keys: `v4.golden.ids` (u32), `v4.golden.exact` and
//! `v4.golden.fast` (strings), each with [`TOKENS`] entries.

use v4_files::gguf::{Array, GgufError, GgufFile, Metadata, Optional, Strings};
use v4_tokenizer::{Marks, Tokenizer, TokenizerError};

/// Tokens of the golden values: few enough for the portable kernels and a large model.
pub const TOKENS: usize = 24;

/// What the tokens are of, after the begin-of-sentence token: code, prose and numbers.
const TEXT: &str = "fn gcd(mut a: u64, mut b: u64) -> u64 { while b != 0 { (a, b) = (b, a % b); } \
    a }\nThe quick brown fox jumps over 13 lazy dogs. Größe, 北京, 3.14159";

const IDS: &str = "v4.golden.ids";
const EXACT: &str = "v4.golden.exact";
const FAST: &str = "v4.golden.fast";

/// The first 16 bytes of BLAKE3 of one position's logits, in hexadecimal digits.
pub type RowHash = String;

/// Golden values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Golden {
    /// The tokens.
    pub ids: Vec<u32>,
    /// For each position what its logits are with `Precision::Exact` and caches in f32.
    pub exact: Vec<RowHash>,
    /// The same with `Precision::Fast` and caches as published.
    pub fast: Vec<RowHash>,
}

impl Golden {
    /// Room for golden values that are not known yet.
    #[must_use]
    pub fn blank() -> Self {
        let zeros = vec!["0".repeat(32); TOKENS];
        Self {
            ids: vec![0; TOKENS],
            exact: zeros.clone(),
            fast: zeros,
        }
    }

    /// Writes them into a file's metadata, where they always take the same room.
    pub fn store(&self, metadata: &mut Metadata) {
        let strings = |hashes: &[RowHash]| Array::String(hashes.iter().collect::<Strings>());
        metadata.insert(IDS, self.ids.clone());
        metadata.insert(EXACT, strings(&self.exact));
        metadata.insert(FAST, strings(&self.fast));
    }

    /// Whether a file has room for golden values.
    #[must_use]
    pub fn has_room(file: &GgufFile) -> bool {
        file.metadata().get(FAST).is_some()
    }

    /// The golden values of a file, if they were filled in.
    ///
    /// # Errors
    /// Values of other types or lengths.
    pub fn read(file: &GgufFile) -> Result<Option<Self>, GgufError> {
        let metadata = file.metadata();
        let Some(ids) = metadata.get_u32s(IDS).optional()? else {
            return Ok(None);
        };
        let strings = |key: &str| -> Result<Vec<String>, GgufError> {
            Ok(metadata.get_strs(key)?.iter().map(str::to_owned).collect())
        };
        let golden = Self {
            ids,
            exact: strings(EXACT)?,
            fast: strings(FAST)?,
        };
        let lengths = [golden.ids.len(), golden.exact.len(), golden.fast.len()];
        if lengths != [TOKENS; 3] {
            return Err(file.error(GgufError::OutOfRange {
                key: IDS.to_owned(),
                value: format!("{} entries", lengths[0]),
                expected: "24 entries",
            }));
        }
        Ok((golden != Self::blank()).then_some(golden))
    }
}

/// The tokens that golden values are of, for files with or without them.
///
/// # Errors
/// A tokenizer that cannot encode the text.
pub fn tokens(tokenizer: &Tokenizer) -> Result<Vec<u32>, TokenizerError> {
    let mut ids: Vec<u32> = tokenizer.bos().into_iter().collect();
    ids.extend(tokenizer.encode(TEXT, Marks::Plain)?);
    ids.truncate(TOKENS);
    // A vocabulary of long words alone.
    while ids.len() < TOKENS {
        ids.push(ids.last().copied().unwrap_or(0));
    }
    Ok(ids)
}

/// The hash of one position's logits.
#[must_use]
pub fn row_hash(logits: &[f32]) -> RowHash {
    let mut hash = blake3::Hasher::new();
    for value in logits {
        hash.update(&value.to_le_bytes());
    }
    hash.finalize().to_hex()[..32].to_owned()
}
