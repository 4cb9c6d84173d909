//! Identifies the model and options that a session file belongs to.

use std::fmt;

use v4_files::gguf::GgufFile;

/// A hash of a model and of how its caches are computed: caches of one are useless to
/// another.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in &self.0[..8] {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// Bytes read of the start and of the end of each tensor.
const SAMPLE: usize = 4096;

impl Fingerprint {
    /// Of the header, which names every tensor and its place, and of the first and last
    /// bytes of each tensor: what tells models of the same shape apart without reading
    /// them whole. `mode` names what else decides on the caches' bits.
    #[must_use]
    pub fn new(file: &GgufFile, mode: &str) -> Self {
        let mut hash = blake3::Hasher::new();
        hash.update(b"v4 session 1\0");
        hash.update(&(mode.len() as u64).to_le_bytes());
        hash.update(mode.as_bytes());
        hash.update(&file.file_len().to_le_bytes());
        for header in file.headers() {
            hash.update(header);
        }
        for tensor in file.tensors() {
            let data = file.data(tensor);
            hash.update(&data[..data.len().min(SAMPLE)]);
            hash.update(&data[data.len().saturating_sub(SAMPLE)..]);
        }
        Self(*hash.finalize().as_bytes())
    }

    /// Of the same model with adapters, known by the hashes of their files, in the order in
    /// which they add; without any it is the model's own.
    #[must_use]
    pub fn with_adapters<'h>(self, adapters: impl Iterator<Item = &'h [[u8; 32]; 2]>) -> Self {
        adapters.fold(self, |model, adapter| {
            let mut hash = blake3::Hasher::new();
            hash.update(b"v4 adapter 1\0");
            hash.update(&model.0);
            hash.update(adapter.as_flattened());
            Self(*hash.finalize().as_bytes())
        })
    }
}
