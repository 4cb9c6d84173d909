//! A checkpoint folder: configuration, index and shards.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use crate::config::{ConfigError, ModelConfig};
use crate::files::{InputFile, ReadError, read_small};
use crate::json::Unique;
use crate::safetensors::{self, Dtype, ShardError};

/// The largest index accepted; V4-Pro's has about 15 MB.
const MAX_INDEX_BYTES: u64 = 256 << 20;

/// Shards that a checkpoint may have.
const MAX_SHARDS: usize = 10_000;

const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";

/// What is wrong with a checkpoint folder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// `config.json` is missing or wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A shard is missing or wrong.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// A file could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The path is not a folder.
    #[error("{}: neither a checkpoint folder nor a GGUF file; give the folder that contains \
             config.json", path.display())]
    NotACheckpoint {
        /// The path.
        path: PathBuf,
    },
    /// The folder has no weights.
    #[error("{}: contains neither {INDEX} nor {SINGLE}; download the whole checkpoint", path.display())]
    NoWeights {
        /// The folder.
        path: PathBuf,
    },
    /// The index is not JSON of the expected form.
    #[error("{}: {reason}; the index is damaged, download it again", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The index names a shard by more than a file name.
    #[error("{}: shard {shard:?} of tensor {tensor:?} is not a plain file name; do not trust this \
             index", path.display())]
    ShardName {
        /// The index.
        path: PathBuf,
        /// The name.
        shard: String,
        /// The tensor said to be there.
        tensor: String,
    },
    /// The index names a shard that is not there.
    #[error("{}: the shard is missing ({needs} tensors are in it); download it and start again", path.display())]
    ShardMissing {
        /// The shard.
        path: PathBuf,
        /// Tensors that the index places there.
        needs: usize,
    },
    /// A tensor is not in the shard that the index names.
    #[error("{}: tensor {tensor:?} is not in the shard, although the index says so; index and \
             shards are from different versions, download them again", path.display())]
    NotInShard {
        /// The shard.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
}

/// Where a tensor is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTensor {
    /// Number of the shard in [`Checkpoint::shards`].
    pub shard: u32,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, outermost first.
    pub shape: Vec<u64>,
    /// First byte in the shard.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// An opened checkpoint: every header read and checked, no weight read.
#[derive(Debug)]
pub struct Checkpoint {
    /// The folder.
    pub dir: PathBuf,
    /// The model's dimensions and constants.
    pub config: ModelConfig,
    /// The text of `config.json`.
    pub config_text: String,
    /// The shards, by name.
    pub shards: Vec<InputFile>,
    /// BLAKE3 of each shard's header.
    pub header_hashes: Vec<blake3::Hash>,
    /// All tensors, by name.
    pub tensors: BTreeMap<String, StoredTensor>,
    /// Tensors in shards that the index does not list; they are not used.
    pub unlisted: usize,
}

impl Checkpoint {
    /// Opens a folder with `config.json`, an index or one `model.safetensors`,
    /// and the shards.
    ///
    /// # Errors
    /// [`CheckpointError`] naming the file, the item and a remedy.
    pub fn open(dir: &Path) -> Result<Self, CheckpointError> {
        if !dir.is_dir() {
            return Err(CheckpointError::NotACheckpoint {
                path: dir.to_owned(),
            });
        }
        let (config, config_text) = ModelConfig::read(&dir.join("config.json"))?;
        let mut checkpoint = Self {
            dir: dir.to_owned(),
            config,
            config_text,
            shards: Vec::new(),
            header_hashes: Vec::new(),
            tensors: BTreeMap::new(),
            unlisted: 0,
        };
        let index = dir.join(INDEX);
        if index.exists() {
            for (shard, names) in read_index(&index)? {
                checkpoint.add_shard(&shard, Some(&names))?;
            }
        } else if dir.join(SINGLE).exists() {
            checkpoint.add_shard(SINGLE, None)?;
        } else {
            return Err(CheckpointError::NoWeights {
                path: dir.to_owned(),
            });
        }
        Ok(checkpoint)
    }

    /// Opens a shard and takes up its tensors: those of `listed`, or all.
    fn add_shard(&mut self, name: &str, listed: Option<&[String]>) -> Result<(), CheckpointError> {
        let path = self.dir.join(name);
        let file = match InputFile::open(&path) {
            Err(ReadError::NotFound { path }) => {
                return Err(CheckpointError::ShardMissing {
                    path,
                    needs: listed.map_or(0, <[String]>::len),
                });
            }
            other => other?,
        };
        let header = safetensors::read_header(&file)?;
        let shard = self.shards.len() as u32;
        let total = header.tensors.len();
        let mut found = 0;
        for entry in header.tensors {
            // `listed` is sorted: it comes out of a sorted map.
            if listed.is_some_and(|names| names.binary_search(&entry.name).is_err()) {
                continue;
            }
            found += 1;
            self.tensors.insert(
                entry.name,
                StoredTensor {
                    shard,
                    dtype: entry.dtype,
                    shape: entry.shape,
                    offset: entry.offset,
                    bytes: entry.bytes,
                },
            );
        }
        let listed = listed.unwrap_or_default();
        if let Some(missing) = listed
            .iter()
            .find(|name| self.tensors.get(*name).is_none_or(|t| t.shard != shard))
        {
            return Err(CheckpointError::NotInShard {
                path,
                tensor: missing.clone(),
            });
        }
        self.unlisted += total - found;
        self.shards.push(file);
        self.header_hashes.push(header.hash);
        Ok(())
    }
}

/// The tensors that an index places in each shard; both sorted by name.
fn read_index(path: &Path) -> Result<BTreeMap<String, Vec<String>>, CheckpointError> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: Unique<String>,
    }
    let bytes = read_small(path, MAX_INDEX_BYTES)?;
    let index: Index = serde_json::from_slice(&bytes).map_err(|error| CheckpointError::Index {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    drop(bytes);
    let mut shards: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (tensor, shard) in index.weight_map.0 {
        if !is_plain_name(&shard) {
            return Err(CheckpointError::ShardName {
                path: path.to_owned(),
                shard,
                tensor,
            });
        }
        shards.entry(shard).or_default().push(tensor);
    }
    if shards.is_empty() || shards.len() > MAX_SHARDS {
        return Err(CheckpointError::Index {
            path: path.to_owned(),
            reason: format!("names {} shards", shards.len()),
        });
    }
    Ok(shards)
}

/// Whether a name from outside stays inside the folder that it is joined to.
fn is_plain_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!(
        (parts.next(), parts.next()),
        (Some(Component::Normal(part)), None) if part.to_str() == Some(name)
    ) && !name.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_stay_in_the_folder() {
        assert!(is_plain_name("model-00001-of-00003.safetensors"));
        for name in ["", ".", "..", "../x", "/x", "a/b", "a/", "./a", "a\0b"] {
            assert!(!is_plain_name(name), "{name:?}");
        }
    }

    #[test]
    fn an_index_lists_shards_and_tensors_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(INDEX);
        std::fs::write(&path, r#"{"weight_map":{"c":"1","a":"2","b":"1"}}"#).unwrap();
        let shards = read_index(&path).unwrap();
        assert_eq!(shards["1"], ["b", "c"]);
        assert_eq!(shards["2"], ["a"]);
        for bad in ["{}", r#"{"weight_map":{}}"#, r#"{"weight_map":{"a":1}}"#] {
            std::fs::write(&path, bad).unwrap();
            assert!(matches!(
                read_index(&path),
                Err(CheckpointError::Index { .. })
            ));
        }
        std::fs::write(&path, r#"{"weight_map":{"a":"../../etc/passwd"}}"#).unwrap();
        assert!(matches!(
            read_index(&path),
            Err(CheckpointError::ShardName { .. })
        ));
    }
}
