//! Writes a checkpoint folder: shards, index, config and tokenizer.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use indicatif::ProgressBar;
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::config::Config;
use super::fill::{Tables, tensor_seed};
use super::inventory::{Tensor, tensors};

/// How to write a checkpoint.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder; it is created.
    pub out: PathBuf,
    /// Everything random follows from it.
    pub seed: u64,
    /// Bytes after which a shard is closed; a tensor is never cut.
    pub shard_bytes: u64,
    /// Threads; all cores if `None`.
    pub threads: Option<usize>,
    /// Whether to replace an existing checkpoint.
    pub force: bool,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Tensors in all shards.
    pub tensors: usize,
    /// Bytes of all tensors.
    pub bytes: u64,
    /// Number of shards.
    pub shards: usize,
}

/// Room for headers, index, config and tokenizer.
const SPARE_BYTES: u64 = 256 << 20;
const INDEX: &str = "model.safetensors.index.json";

/// Writes the checkpoint that `config` describes.
///
/// Memory is a piece of about 1 MiB per thread, besides the list of tensors. The
/// index comes last: a folder without it is not complete.
///
/// # Errors
/// A folder with other contents, too little room, and whatever the file system
/// reports.
pub fn write(config: &Config, options: &Options, progress: &ProgressBar) -> Result<Summary> {
    let all = tensors(config)?;
    let bytes: u64 = all.iter().map(|t| t.bytes).sum();
    prepare(options, bytes)?;
    let tables = Tables::new(all.iter().map(|t| t.fill));
    let shards = shards(all, options.shard_bytes);
    progress.set_length(bytes);

    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(options.threads.unwrap_or(0))
        .build()?;
    let mut weight_map = BTreeMap::new();
    let mut count = 0;
    for (i, shard) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", i + 1, shards.len());
        let path = options.out.join(&name);
        pool.install(|| write_shard(&path, shard, options.seed, &tables, progress))?;
        count += shard.len();
        for tensor in shard {
            weight_map.insert(tensor.name.clone(), name.clone());
        }
    }
    let put = |name: &str, bytes: &[u8]| {
        let path = options.out.join(name);
        fs::write(&path, bytes).with_context(|| format!("{}: cannot write", path.display()))
    };
    put(
        "config.json",
        pretty(&Value::Object(config.json.clone()))?.as_bytes(),
    )?;
    put("tokenizer.json", &config.tokenizer.json)?;
    put("tokenizer_config.json", &config.tokenizer.config)?;
    let index = json!({"metadata": {"total_size": bytes}, "weight_map": weight_map});
    put(INDEX, pretty(&index)?.as_bytes())?;
    Ok(Summary {
        tensors: count,
        bytes,
        shards: shards.len(),
    })
}

fn pretty(value: &Value) -> Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

/// Makes the folder, refuses or removes what is there, checks the free space.
fn prepare(options: &Options, bytes: u64) -> Result<()> {
    let out = &options.out;
    let name = out.display();
    fs::create_dir_all(out).with_context(|| format!("{name}: cannot create the folder"))?;
    let present = fs::read_dir(out)
        .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
        .with_context(|| format!("{name}: cannot list the folder"))?;
    if !present.is_empty() && !options.force {
        bail!("{name}: the folder is not empty; choose another one, or pass --force to replace");
    }
    for entry in present {
        let file = entry.file_name();
        let file = file.to_string_lossy();
        let shard = file.starts_with("model-")
            && (file.ends_with(".safetensors") || file.ends_with(".partial"));
        if shard
            || [
                "config.json",
                "tokenizer.json",
                "tokenizer_config.json",
                INDEX,
            ]
            .contains(&&*file)
        {
            fs::remove_file(entry.path())
                .with_context(|| format!("{name}/{file}: cannot remove"))?;
        }
    }
    let stat = rustix::fs::statvfs(out).with_context(|| {
        format!(
            "{name}: cannot determine the free \
                                                                 space"
        )
    })?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let needed = bytes.saturating_add(SPARE_BYTES);
    ensure!(
        free >= needed,
        "{name}: {} GB free, {} GB needed; use fewer --layers or --experts",
        free / 1_000_000_000,
        needed.div_ceil(1_000_000_000)
    );
    Ok(())
}

/// Consecutive tensors up to `limit` bytes each; within a shard, wider types
/// come first, so that every tensor is aligned to its type.
fn shards(all: Vec<Tensor>, limit: u64) -> Vec<Vec<Tensor>> {
    let mut shards: Vec<Vec<Tensor>> = Vec::new();
    let mut room = 0;
    for tensor in all {
        if tensor.bytes > room || shards.is_empty() {
            shards.push(Vec::new());
            room = limit;
        }
        room = room.saturating_sub(tensor.bytes);
        if let Some(shard) = shards.last_mut() {
            shard.push(tensor);
        }
    }
    for shard in &mut shards {
        shard.sort_by_key(|tensor| {
            let width = match tensor.dtype {
                "I64" => 0,
                "F32" => 1,
                "BF16" => 2,
                _ => 3,
            };
            (width, tensor.name.clone())
        });
    }
    shards
}

/// The header with its length in front, and where each tensor starts in the file.
fn header(shard: &[Tensor]) -> Result<(Vec<u8>, Vec<u64>)> {
    let mut fields = Map::new();
    fields.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut starts = Vec::with_capacity(shard.len());
    let mut end = 0;
    for tensor in shard {
        let start = end;
        end += tensor.bytes;
        starts.push(start);
        fields.insert(
            tensor.name.clone(),
            json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, end]}),
        );
    }
    let mut text = serde_json::to_vec(&fields)?;
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut text);
    for start in &mut starts {
        *start += bytes.len() as u64;
    }
    Ok((bytes, starts))
}

fn write_shard(
    path: &Path,
    shard: &[Tensor],
    seed: u64,
    tables: &Tables,
    progress: &ProgressBar,
) -> Result<()> {
    let partial = path.with_extension("safetensors.partial");
    let written = fill_shard(&partial, shard, seed, tables, progress)
        .and_then(|()| Ok(fs::rename(&partial, path)?))
        .with_context(|| format!("{}: cannot write", path.display()));
    if written.is_err() {
        // The first error is the one to tell; without the file nothing is left.
        let _ = fs::remove_file(&partial);
    }
    written
}

fn fill_shard(
    path: &Path,
    shard: &[Tensor],
    seed: u64,
    tables: &Tables,
    progress: &ProgressBar,
) -> Result<()> {
    let (header, starts) = header(shard)?;
    let file = File::create(path)?;
    file.write_all_at(&header, 0)?;
    let mut pieces = Vec::new();
    for (tensor, start) in shard.iter().zip(starts) {
        let size = tensor.fill.piece_bytes();
        let seed = tensor_seed(seed, &tensor.name);
        for piece in 0..tensor.bytes.div_ceil(size) {
            let offset = piece * size;
            let len = size.min(tensor.bytes - offset);
            pieces.push((tensor.fill, seed, piece, start + offset, len));
        }
    }
    pieces.into_par_iter().try_for_each_init(
        Vec::new,
        |buffer, (fill, seed, piece, offset, len)| {
            buffer.resize(usize::try_from(len)?, 0);
            tables.fill(fill, seed, piece, buffer);
            file.write_all_at(buffer, offset)?;
            progress.inc(len);
            anyhow::Ok(())
        },
    )
}
