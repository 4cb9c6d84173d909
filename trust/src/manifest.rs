//! The manifest, which describes a model's bytes.

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use v4_files::gguf::{FileHashes, Hash, HashesError, PartHashes, TensorHashes, part_starts};

use crate::error::TrustError;
use crate::files::{Beside, is_missing, read};
use crate::hash::HexHash;

/// The name and version of the format of a model in one file.
pub const MANIFEST_FORMAT: &str = "v4-manifest-1";
/// The same of a model in several parts.
pub const SET_MANIFEST_FORMAT: &str = "v4-manifest-2";

/// The longest manifest read; one of a thousand tensors has 300 KB.
const MOST_MANIFEST_BYTES: u64 = 64 << 20;
/// The longest list of hashes read. V4.1-Flash with its tables takes 100 MB.
const MOST_HASHES_BYTES: u64 = 4 << 30;

/// A description of a model's bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`MANIFEST_FORMAT`], or [`SET_MANIFEST_FORMAT`] where there are parts.
    pub format: String,
    /// The program that made it, with its version.
    pub made_by: String,
    /// The model's architecture, as its file has it.
    pub architecture: String,
    /// The model's name, as its file has it.
    pub model: String,
    /// The recipe it was converted with, if its file names one.
    pub recipe: Option<String>,
    /// The whole file; of a model in parts the name of the first, the length of all
    /// together, and BLAKE3 of their hashes one after the other.
    pub file: FileFacts,
    /// BLAKE3 of all bytes that are no tensor's, one after the other: the header, what
    /// lies between tensors, and what follows them. Of a model in parts, BLAKE3 of the parts' own, one after the other.
    pub frame: HexHash,
    /// The parts of a model that is split, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<PartFacts>,
    /// The list of block hashes.
    pub blocks: BlockFacts,
    /// The tensors, in the order of their places.
    pub tensors: Vec<TensorFacts>,
}

/// A description of the whole file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileFacts {
    /// Its name when the manifest was made; it may have another one now.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// BLAKE3 of its bytes, as `b3sum` prints it.
    pub blake3: HexHash,
}

/// What is known of one part of a split model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartFacts {
    /// Its name when the manifest was made.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// BLAKE3 of its bytes, as `b3sum` prints it.
    pub blake3: HexHash,
    /// BLAKE3 of its bytes that are no tensor's.
    pub frame: HexHash,
}

/// What is known of the list of block hashes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockFacts {
    /// Blocks of all tensors together.
    pub count: u64,
    /// BLAKE3 of the list.
    pub blake3: HexHash,
}

/// A description of a tensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorFacts {
    /// Its name.
    pub name: String,
    /// The type of its values.
    #[serde(rename = "type")]
    pub ty: String,
    /// Its dimensions, innermost first.
    pub dims: Vec<u64>,
    /// The part that has it, from 0; absent in a model of one file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<usize>,
    /// Where its data start, in bytes from the start of the file that has it.
    pub offset: u64,
    /// Length of its data.
    pub bytes: u64,
    /// BLAKE3 of its data.
    pub blake3: HexHash,
    /// Length of the blocks that have hashes of their own; the last may be shorter.
    pub block_bytes: u64,
}

impl Manifest {
    /// The manifest's text.
    ///
    /// # Errors
    /// None in practice: all of it can be written as JSON.
    pub fn to_text(&self) -> Result<Vec<u8>, TrustError> {
        let mut text = serde_json::to_vec_pretty(self).map_err(|e| TrustError::Sign {
            reason: e.to_string(),
        })?;
        text.push(b'\n');
        Ok(text)
    }

    /// Reads a manifest's bytes, which may be anything.
    ///
    /// # Errors
    /// If there is none, or the file cannot be read.
    pub(crate) fn read_text(model: &Path, beside: &Beside) -> Result<Vec<u8>, TrustError> {
        let path = &beside.manifest;
        if is_missing(path) && !is_missing(model) {
            return Err(TrustError::NoManifest {
                model: model.to_owned(),
                path: path.clone(),
            });
        }
        read(path, MOST_MANIFEST_BYTES)
    }

    /// Parses a manifest's bytes.
    ///
    /// # Errors
    /// [`TrustError::Manifest`] with what is wrong.
    pub(crate) fn parse(path: &Path, text: &[u8]) -> Result<Self, TrustError> {
        let wrong = |reason: String| TrustError::Manifest {
            path: path.to_owned(),
            reason,
        };
        let manifest: Self = serde_json::from_slice(text).map_err(|e| wrong(e.to_string()))?;
        let expected = match manifest.parts.is_empty() {
            true => MANIFEST_FORMAT,
            false => SET_MANIFEST_FORMAT,
        };
        if manifest.format != expected {
            let found: String = manifest.format.chars().take(40).collect();
            return Err(wrong(format!(
                "its format is {found:?}, but this program reads {expected:?} here"
            )));
        }
        Ok(manifest)
    }

    /// The list of block hashes that is next to the model, checked.
    ///
    /// # Errors
    /// If it is missing or is not the manifest's.
    pub(crate) fn hashes(&self, beside: &Beside) -> Result<Arc<FileHashes>, TrustError> {
        let path = &beside.hashes;
        if is_missing(path) {
            return Err(TrustError::NoHashes { path: path.clone() });
        }
        let list = read(path, MOST_HASHES_BYTES)?;
        let expected = self.blocks.count.checked_mul(size_of::<Hash>() as u64);
        let same = HexHash::from(blake3::Hasher::new().update_rayon(&list).finalize());
        if expected != Some(list.len() as u64) || same != self.blocks.blake3 {
            return Err(TrustError::Hashes { path: path.clone() });
        }
        let (mut hashes, _) = list.as_chunks::<32>();
        let layout = |error| TrustError::Layout {
            path: beside.manifest.clone(),
            error,
        };
        let parts = self.part_hashes();
        let starts = part_starts(parts.iter().map(|part| part.bytes));
        let mut tensors = Vec::with_capacity(self.tensors.len());
        for t in &self.tensors {
            let start = starts.get(t.part.unwrap_or(0)).copied();
            let position = start.and_then(|start| start.checked_add(t.offset));
            let position = position.ok_or_else(|| {
                layout(HashesError::Place {
                    name: t.name.clone(),
                })
            })?;
            let count = t.bytes.div_ceil(t.block_bytes.max(1));
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            let (blocks, rest) = hashes.split_at(count.min(hashes.len()));
            hashes = rest;
            tensors.push(TensorHashes {
                name: t.name.clone(),
                position,
                bytes: t.bytes,
                block_bytes: t.block_bytes,
                blocks: blocks.to_vec(),
            });
        }
        if !hashes.is_empty() {
            return Err(TrustError::Hashes { path: path.clone() });
        }
        FileHashes::new(parts, tensors)
            .map(Arc::new)
            .map_err(layout)
    }

    /// Length and frame of each file.
    fn part_hashes(&self) -> Vec<PartHashes> {
        let hashes = |bytes, frame: HexHash| PartHashes {
            bytes,
            frame: frame.0,
        };
        if self.parts.is_empty() {
            return vec![hashes(self.file.bytes, self.frame)];
        }
        let parts = self.parts.iter();
        parts.map(|part| hashes(part.bytes, part.frame)).collect()
    }
}
