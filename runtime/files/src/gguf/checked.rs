//! Compares an open file's bytes with known hashes before they are used. A mismatch is an
//! error, and the file is not used any more.

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rayon::prelude::*;

use super::TensorInfo;
use super::checks::{Altered, Checks, blocks_of};
use super::error::GgufError;
use super::file::GgufFile;
use super::hashes::{FileHashes, TensorHashes};
use super::part::Part;

/// Runs `check` on all, by all workers when called on one.
fn each<T: Send>(
    items: Vec<T>,
    check: impl Fn(T) -> Result<(), GgufError> + Sync + Send,
) -> Result<(), GgufError> {
    // Elsewhere than in a pool, rayon would start one of its own.
    if items.len() > 1 && rayon::current_thread_index().is_some() {
        return items.into_par_iter().with_max_len(1).try_for_each(check);
    }
    items.into_iter().try_for_each(check)
}

impl GgufFile {
    /// Whether its bytes are checked before they are used.
    #[must_use]
    pub fn is_checked(&self) -> bool {
        self.checks().is_some()
    }

    /// The hashes that its bytes are checked against.
    #[must_use]
    pub fn hashes(&self) -> Option<&Arc<FileHashes>> {
        self.checks().map(|checks| &checks.hashes)
    }

    /// The first alteration found since the file was opened.
    #[must_use]
    pub fn altered(&self) -> Option<GgufError> {
        let altered = self.checks()?.altered()?;
        Some(self.error(altered))
    }

    /// Checks these bytes of a tensor, as mapped, against the hashes. Blocks
    /// that were checked before are not checked again. Returns at once for a file
    /// without hashes.
    ///
    /// # Errors
    /// [`GgufError::Altered`], wrapped to name the file.
    pub fn check(&self, tensor: &TensorInfo, bytes: Range<u64>) -> Result<(), GgufError> {
        let Some((checks, index, known)) = self.known(tensor)? else {
            return Ok(());
        };
        let mut blocks = blocks_of(known, bytes);
        blocks.retain(|&(block, _)| !checks.is_done(index, block));
        let data = self.data(tensor);
        each(blocks, |(block, range)| {
            let bytes = &data[range.start as usize..range.end as usize];
            checks.block(index, block, bytes)?;
            checks.set_done(index, block);
            Ok(())
        })
        .map_err(|error| self.error(error))
    }

    /// Sees that what was checked of a part's mapping still is what it should be.
    pub(super) fn check_again(&self, index: usize, part: &Part) -> Result<(), GgufError> {
        let again = |checks: &Checks| checks.again(index, part);
        self.checks()
            .map_or(Ok(()), again)
            .map_err(|error| self.error(error))
    }

    /// The same for bytes of which few are used here and there. `seen` are the bytes that
    /// will be used. Their blocks are read, in one piece each, and compared with them each
    /// time: pages that few need do not stay in memory.
    ///
    /// # Errors
    /// As [`Self::check`], and if the file cannot be read.
    pub fn check_part(
        &self,
        tensor: &TensorInfo,
        start: u64,
        seen: &[u8],
    ) -> Result<(), GgufError> {
        let Some((checks, index, known)) = self.known(tensor)? else {
            return Ok(());
        };
        let end = start + seen.len() as u64;
        for (block, range) in blocks_of(known, start..end) {
            let mut bytes = vec![0; (range.end - range.start) as usize];
            let part = self.part_of(tensor);
            part.file()
                .read_exact_at(&mut bytes, known.position + range.start - part.start())
                .map_err(|error| {
                    let action = "read the file to check it";
                    self.error(GgufError::Io { action, error })
                })?;
            checks
                .block(index, block, &bytes)
                .map_err(|error| self.error(error))?;
            let (from, to) = (start.max(range.start), end.min(range.end));
            let read = &bytes[(from - range.start) as usize..(to - range.start) as usize];
            if read != &seen[(from - start) as usize..(to - start) as usize] {
                let altered = Altered::Block {
                    tensor: tensor.name.clone(),
                    bytes: known.position + from..known.position + to,
                };
                return Err(self.error(checks.found(altered)));
            }
        }
        Ok(())
    }

    /// Checks that `bytes`, read from the file before, are those of the tensor from
    /// `start` on. They must be whole blocks, and are checked each time.
    ///
    /// # Errors
    /// As [`Self::check`], or [`GgufError::BlockSize`].
    pub fn check_read(
        &self,
        tensor: &TensorInfo,
        start: u64,
        bytes: &[u8],
    ) -> Result<(), GgufError> {
        let Some((checks, index, known)) = self.known(tensor)? else {
            return Ok(());
        };
        let end = start + bytes.len() as u64;
        let whole = |at: u64| at.is_multiple_of(known.block_bytes) || at == known.bytes;
        if !whole(start) || !whole(end) {
            return Err(self.error(GgufError::BlockSize {
                tensor: tensor.name.clone(),
            }));
        }
        each(blocks_of(known, start..end), |(block, range)| {
            let bytes = &bytes[(range.start - start) as usize..(range.end - start) as usize];
            checks.block(index, block, bytes)
        })
        .map_err(|error| self.error(error))
    }

    /// The checks of a tensor; `None` for a file without hashes.
    #[allow(clippy::type_complexity)]
    fn known(
        &self,
        tensor: &TensorInfo,
    ) -> Result<Option<(&Checks, usize, &TensorHashes)>, GgufError> {
        let Some(checks) = self.checks() else {
            return Ok(None);
        };
        // All of this file's own tensors were found when it was opened.
        let (index, known) = checks.find(&tensor.name).ok_or_else(|| {
            self.error(GgufError::NotInHashes {
                tensor: tensor.name.clone(),
            })
        })?;
        Ok(Some((checks, index, known)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::hashes::{Hash, HashesError, PartHashes, frame_hash};
    use super::*;
    use crate::gguf::{Metadata, encode_header, layout_offsets};
    use v4_quant::GgmlType;

    const BLOCK: usize = 1024;

    /// A file with two tensors, of four blocks and of two and a half.
    fn bytes() -> (Vec<u8>, Vec<TensorInfo>) {
        let infos =
            [("a", 4096), ("b", 2560)].map(|(name, n)| (name.to_owned(), GgmlType::I8, vec![n]));
        let infos = layout_offsets(infos, 4096).unwrap();
        let mut bytes = encode_header(&Metadata::new(), &infos, 4096).unwrap();
        let start = bytes.len();
        for t in &infos {
            bytes.resize(start + t.offset as usize, 0);
            bytes.extend((0..t.bytes).map(|i| (i * 7 + i / 256) as u8));
        }
        (bytes, infos)
    }

    fn hashes(bytes: &[u8], infos: &[TensorInfo]) -> Arc<FileHashes> {
        let start = bytes.len() - (infos[1].offset + infos[1].bytes) as usize;
        let tensors: Vec<_> = infos
            .iter()
            .map(|t| {
                let position = start + t.offset as usize;
                let data = &bytes[position..][..t.bytes as usize];
                TensorHashes {
                    name: t.name.clone(),
                    position: position as u64,
                    bytes: t.bytes,
                    block_bytes: BLOCK as u64,
                    blocks: data
                        .chunks(BLOCK)
                        .map(|b| *blake3::hash(b).as_bytes())
                        .collect(),
                }
            })
            .collect();
        let frame = frame_hash(bytes, tensors.iter().map(|t| (t.position, t.bytes)));
        Arc::new(FileHashes::new(one(bytes, frame), tensors).unwrap())
    }

    fn one(bytes: &[u8], frame: Hash) -> Vec<PartHashes> {
        let bytes = bytes.len() as u64;
        vec![PartHashes { bytes, frame }]
    }

    fn open(bytes: &[u8], hashes: &Arc<FileHashes>) -> Result<GgufFile, GgufError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        // Mapped, it lives on without its name.
        GgufFile::open_checked(file.path(), Arc::clone(hashes))
    }

    #[test]
    fn every_bit_of_a_file_is_covered() {
        let (good, infos) = bytes();
        let hashes = hashes(&good, &infos);
        let file = open(&good, &hashes).unwrap();
        for t in file.tensors() {
            file.check(t, 0..t.bytes).unwrap();
        }
        assert!(file.altered().is_none());
        let data = file.position(&file.tensors()[0]) as usize;
        for at in (0..good.len())
            .step_by(61)
            .chain([0, data - 1, data, good.len() - 1])
        {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            let Ok(file) = open(&bad, &hashes) else {
                continue;
            };
            assert!(at >= data, "byte {at} of the header");
            let found = file
                .tensors()
                .iter()
                .find_map(|t| file.check(t, 0..t.bytes).err());
            let message = found.unwrap_or_else(|| panic!("byte {at}")).to_string();
            assert!(message.contains("does not match"), "{message}");
            assert!(file.altered().is_some());
        }
    }

    #[test]
    fn only_the_blocks_asked_for_are_checked() {
        let (mut bytes, infos) = bytes();
        let hashes = hashes(&bytes, &infos);
        let data = bytes.len() - (infos[1].offset + infos[1].bytes) as usize;
        bytes[data + 2 * BLOCK + 5] ^= 1;
        let file = open(&bytes, &hashes).unwrap();
        let a = &file.tensors()[0].clone();
        let seen = |range: Range<usize>| bytes[data + range.start..data + range.end].to_vec();
        file.check(a, 0..2 * BLOCK as u64).unwrap();
        file.check_part(a, 3 * BLOCK as u64 + 7, &seen(3 * BLOCK + 7..3 * BLOCK + 9))
            .unwrap();
        assert!(file.altered().is_none());
        file.check_part(
            a,
            2 * BLOCK as u64 + 100,
            &seen(2 * BLOCK + 100..2 * BLOCK + 101),
        )
        .unwrap_err();
        let read = seen(2 * BLOCK..4 * BLOCK);
        file.check_read(a, 2 * BLOCK as u64, &read).unwrap_err();
        file.check_read(a, 3 * BLOCK as u64, &read[BLOCK..])
            .unwrap();
        let half = file
            .check_read(a, 3 * BLOCK as u64, &read[BLOCK..BLOCK + 9])
            .unwrap_err();
        assert!(half.to_string().contains("sign the model again"), "{half}");
        // What was seen must be what was checked.
        let b = &file.tensors()[1].clone();
        file.check_part(b, 3, &[1, 2, 3]).unwrap_err();
    }

    #[test]
    fn hashes_of_another_file_are_refused() {
        let (good, infos) = bytes();
        let known = hashes(&good, &infos);
        let mut longer = good.clone();
        longer.push(0);
        assert!(
            open(&longer, &known)
                .unwrap_err()
                .to_string()
                .contains("bytes")
        );
        let mut tensors = known.tensors().to_vec();
        tensors[1].position = tensors[0].position;
        let place = FileHashes::new(one(&good, known.parts()[0].frame), tensors.clone());
        assert!(matches!(place, Err(HashesError::Place { .. })));
        tensors.remove(1);
        tensors[0].blocks.pop();
        let blocks = FileHashes::new(one(&good, known.parts()[0].frame), tensors.clone());
        assert!(matches!(blocks, Err(HashesError::Blocks { .. })));
        tensors.clear();
        let frame = frame_hash(&good, std::iter::empty());
        let none = Arc::new(FileHashes::new(one(&good, frame), tensors).unwrap());
        assert!(
            open(&good, &none)
                .unwrap_err()
                .to_string()
                .contains("no hashes")
        );
    }
}
