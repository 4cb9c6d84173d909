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

#[cfg(test)]
mod tests {
    use v4_files::gguf::{Metadata, encode_header, layout_offsets};
    use v4_quant::GgmlType;

    use super::*;

    /// Of a file with a tensor of three samples and one of less than one.
    fn of(name: &str, mode: &str, change: impl FnOnce(&mut [u8])) -> Fingerprint {
        let mut metadata = Metadata::default();
        metadata.insert("general.name", name);
        let tensor = |name: &str, values| (name.to_owned(), GgmlType::F32, vec![values]);
        let tensors = [tensor("a", 3 * SAMPLE as u64 / 4), tensor("b", 8)];
        let tensors = layout_offsets(tensors, 32).unwrap();
        let mut bytes = encode_header(&metadata, &tensors, 32).unwrap();
        let mut data = vec![1; 3 * SAMPLE + 32];
        change(&mut data);
        bytes.extend(data);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        Fingerprint::new(&GgufFile::open(file.path()).unwrap(), mode)
    }

    #[test]
    fn header_mode_and_both_ends_of_each_tensor_count() {
        let one = of("m", "fast", |_| {});
        assert_eq!(one, of("m", "fast", |_| {}));
        assert_ne!(one, of("n", "fast", |_| {}));
        assert_ne!(one, of("m", "exact", |_| {}));
        for at in [
            0,
            SAMPLE - 1,
            2 * SAMPLE,
            3 * SAMPLE - 1,
            3 * SAMPLE,
            3 * SAMPLE + 31,
        ] {
            assert_ne!(one, of("m", "fast", |data| data[at] = 2), "{at}");
        }
        // Nobody reads a model whole for this.
        for at in [SAMPLE, 2 * SAMPLE - 1] {
            assert_eq!(one, of("m", "fast", |data| data[at] = 2), "{at}");
        }
        let hex: String = one.0[..8].iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(format!("{one:?}"), hex);
    }

    #[test]
    fn adapters_and_their_order_count() {
        let model = Fingerprint([1; 32]);
        let (a, b) = ([[2; 32], [3; 32]], [[2; 32], [4; 32]]);
        let with = |all: &[[[u8; 32]; 2]]| model.with_adapters(all.iter());
        assert_eq!(with(&[]), model);
        let all = [model, with(&[a]), with(&[b]), with(&[a, b]), with(&[b, a])];
        for (i, one) in all.iter().enumerate() {
            assert!(!all[i + 1..].contains(one), "{i}");
        }
    }
}
