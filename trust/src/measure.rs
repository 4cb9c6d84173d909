//! Hashes whole models.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;
use v4_files::gguf::{FileHashes, GgufFile, Optional, Part, TensorInfo, frame_hash};

use crate::error::TrustError;
use crate::hash::HexHash;
use crate::manifest::{
    BlockFacts, FileFacts, MANIFEST_FORMAT, Manifest, PartFacts, SET_MANIFEST_FORMAT, TensorFacts,
};

/// Called with bytes done and total bytes; work stops when it returns `false`.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) -> bool + Sync);

/// A block of weights that are read completely.
const BLOCK: u64 = 1 << 20;
/// A block of a table of which tokens read single rows: the first use of a row reads the
/// whole block.
const ROW_BLOCK: u64 = 64 << 10;
/// Bytes hashed between two looks at the progress; the file's pages are still in memory
/// when they are hashed the second and third time.
const PIECE: usize = 64 << 20;

/// A manifest, and the list of block hashes that goes with it.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// The manifest.
    pub manifest: Manifest,
    /// The list.
    pub hashes: Vec<u8>,
}

/// Length of a tensor's blocks: an expert's matrix where there are several, as the
/// engine reads them one by one.
fn block_bytes(tensor: &TensorInfo) -> u64 {
    let matrices = tensor.dims.get(2).copied().unwrap_or(1).max(1);
    if matrices > 1 {
        tensor.bytes / matrices
    } else if by_rows(&tensor.name) {
        ROW_BLOCK
    } else {
        BLOCK
    }
}

/// Whether tokens read single rows of a tensor: embeddings and Engram tables.
fn by_rows(name: &str) -> bool {
    matches!(name, "token_embd.weight" | "per_layer_token_embd.weight")
        || name.ends_with(".engram_embd.weight")
}

/// Hashes a model: each file once as a whole, once tensor by tensor, once block by block.
///
/// # Errors
/// If it is not a GGUF file, cannot be read, or `progress` asks to stop.
pub fn measure(
    model: &Path,
    made_by: &str,
    progress: Progress<'_>,
) -> Result<Measured, TrustError> {
    let file = GgufFile::open(model)?;
    let mut work = Work {
        file: &file,
        progress,
        done: 0,
        tensors: Vec::with_capacity(file.tensors().len()),
        list: Vec::new(),
    };
    let several = file.parts().len() > 1;
    let parts = file.parts().iter().enumerate();
    let parts: Vec<PartFacts> = parts
        .map(|(index, part)| work.part(several.then_some(index), part))
        .collect::<Result<_, _>>()?;
    if file.lost() {
        return Err(TrustError::Io {
            path: model.to_owned(),
            action: "read it to its end",
            error: std::io::ErrorKind::UnexpectedEof.into(),
        });
    }
    let text = |key: &str| Ok(file.metadata().get_str(key).optional()?.map(str::to_owned));
    let text = |key: &str| text(key).map_err(|e| file.error(e));
    let joined = |of: fn(&PartFacts) -> HexHash| match &parts[..] {
        [one] => of(one),
        _ => {
            let mut hash = blake3::Hasher::new();
            parts.iter().for_each(|part| {
                hash.update(&of(part).0);
            });
            hash.finalize().into()
        }
    };
    let Work { tensors, list, .. } = work;
    Ok(Measured {
        manifest: Manifest {
            format: match several {
                true => SET_MANIFEST_FORMAT,
                false => MANIFEST_FORMAT,
            }
            .to_owned(),
            made_by: made_by.to_owned(),
            architecture: text("general.architecture")?.unwrap_or_default(),
            model: text("general.name")?.unwrap_or_default(),
            recipe: text("v4.recipe")?,
            file: FileFacts {
                name: parts[0].name.clone(),
                bytes: file.file_len(),
                blake3: joined(|part| part.blake3),
            },
            frame: joined(|part| part.frame),
            parts: if several { parts } else { Vec::new() },
            blocks: BlockFacts {
                count: list.len() as u64 / 32,
                blake3: blake3::hash(&list).into(),
            },
            tensors,
        },
        hashes: list,
    })
}

/// A model that is being hashed.
struct Work<'a> {
    file: &'a GgufFile,
    progress: Progress<'a>,
    /// Bytes of the parts before.
    done: u64,
    tensors: Vec<TensorFacts>,
    list: Vec<u8>,
}

impl Work<'_> {
    fn part(&mut self, index: Option<usize>, part: &Part) -> Result<PartFacts, TrustError> {
        let (file, bytes) = (self.file, part.bytes());
        let own = part.start()..part.start() + part.file_len();
        let tensors = file.tensors().iter();
        let mut order: Vec<&TensorInfo> = tensors
            .filter(|t| own.contains(&file.position(t)))
            .collect();
        order.sort_by_key(|t| t.offset);
        let mut whole = blake3::Hasher::new();
        let (first, mut at) = (self.tensors.len(), 0);
        for info in order {
            let start = file.position(info) - part.start();
            whole.update_rayon(&bytes[at..start as usize]);
            let block_bytes = block_bytes(info);
            let mut hash = blake3::Hasher::new();
            // Whole blocks, about as many as make up a piece.
            let piece = (PIECE as u64 / block_bytes).max(1) * block_bytes;
            for data in file.data(info).chunks(piece as usize) {
                whole.update_rayon(data);
                hash.update_rayon(data);
                let blocks: Vec<_> = data
                    .par_chunks(block_bytes as usize)
                    .map(|block| *blake3::hash(block).as_bytes())
                    .collect();
                self.list.extend(blocks.as_flattened());
                at = data.as_ptr() as usize - bytes.as_ptr() as usize + data.len();
                if !(self.progress)(self.done + at as u64, file.file_len()) {
                    return Err(TrustError::Interrupted {
                        path: part.path().to_owned(),
                    });
                }
            }
            self.tensors.push(TensorFacts {
                name: info.name.clone(),
                ty: info.ty.name().to_owned(),
                dims: info.dims.clone(),
                part: index,
                offset: start,
                bytes: info.bytes,
                blake3: hash.finalize().into(),
                block_bytes,
            });
        }
        whole.update_rayon(&bytes[at..]);
        self.done += part.file_len();
        let extents = self.tensors[first..].iter().map(|t| (t.offset, t.bytes));
        let path = part.path();
        let name = path.file_name().unwrap_or(path.as_os_str());
        Ok(PartFacts {
            name: name.to_string_lossy().into_owned(),
            bytes: part.file_len(),
            blake3: whole.finalize().into(),
            frame: HexHash(frame_hash(bytes, extents)),
        })
    }
}

/// Checks all blocks of a model opened with hashes: with its frame, which was checked
/// when it was opened, all its bytes.
///
/// # Errors
/// The first block found altered, or if `progress` asks to stop.
pub fn verify_blocks(
    file: &GgufFile,
    hashes: &FileHashes,
    progress: Progress<'_>,
) -> Result<(), TrustError> {
    let total: u64 = hashes.tensors().iter().map(|t| t.bytes).sum();
    let done = AtomicU64::new(0);
    for known in hashes.tensors() {
        let Some(info) = file.tensor(&known.name) else {
            continue;
        };
        // Whole blocks again.
        let piece = (BLOCK / known.block_bytes).max(1) * known.block_bytes;
        (0..known.bytes.div_ceil(piece))
            .into_par_iter()
            .try_for_each(|i| {
                let range = i * piece..((i + 1) * piece).min(known.bytes);
                let bytes = range.end - range.start;
                file.check(info, range)?;
                let done = done.fetch_add(bytes, Ordering::Relaxed) + bytes;
                if progress(done, total) {
                    return Ok(());
                }
                Err(TrustError::Interrupted {
                    path: file.path().to_owned(),
                })
            })?;
    }
    Ok(())
}
