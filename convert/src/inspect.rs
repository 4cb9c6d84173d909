//! Shows what a GGUF file contains: metadata, tensors and totals, for people and scripts.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use serde_json::{Value as Json, json};
use v4_files::gguf::{GgufError, GgufFile, Part, TensorInfo};
use v4_quant::GgmlType;

mod drafts;
mod engram;

use crate::units::bytes;
use drafts::Drafts;
use engram::Engram;

/// Array entries that the JSON form shows, unless all are asked for.
const SHORT_ARRAY: usize = 1024;

/// What to show.
#[derive(Debug, Clone, Copy, Default)]
pub struct InspectOptions {
    /// One JSON object instead of text.
    pub json: bool,
    /// Leave the metadata out.
    pub no_metadata: bool,
    /// Leave the tensors out.
    pub no_tensors: bool,
    /// All entries of long arrays (JSON only).
    pub full: bool,
}

/// Why a file could not be shown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError {
    /// The file cannot be read.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The report cannot be written.
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
}

/// Writes a report about the file to `out`.
///
/// # Errors
/// [`InspectError`] if the file is not a valid GGUF file or `out` fails.
pub fn inspect(
    path: &Path,
    options: InspectOptions,
    out: &mut dyn Write,
) -> Result<(), InspectError> {
    let file = GgufFile::open(path)?;
    if options.json {
        serde_json::to_writer_pretty(&mut *out, &as_json(&file, options))
            .map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        as_text(&file, options, out)?;
    }
    Ok(())
}

/// Tensors and bytes per type.
fn totals(tensors: &[TensorInfo]) -> BTreeMap<GgmlType, (u64, u64)> {
    let mut totals = BTreeMap::new();
    for tensor in tensors {
        let (count, sum): &mut (u64, u64) = totals.entry(tensor.ty).or_default();
        *count += 1;
        *sum += tensor.bytes;
    }
    totals
}

fn as_json(file: &GgufFile, options: InspectOptions) -> Json {
    let header = file.header();
    let mut report = json!({
        "file": file.path().to_string_lossy(),
        "file_bytes": file.file_len(),
        "version": header.version,
        "alignment": header.alignment,
        "data_offset": header.data_offset,
        "tensor_count": header.tensors.len(),
    });
    if file.parts().len() > 1 {
        report["parts"] = file
            .parts()
            .iter()
            .map(|part| {
                json!({
                    "file": part.path().to_string_lossy(),
                    "file_bytes": part.file_len(),
                    "tensor_count": own(file, part).count(),
                })
            })
            .collect();
    }
    report["totals"] = totals(file.tensors())
        .into_iter()
        .map(|(ty, (count, bytes))| {
            let total = json!({"tensors": count, "bytes": bytes});
            (ty.name().to_owned(), total)
        })
        .collect::<serde_json::Map<_, _>>()
        .into();
    if let Some(engram) = Engram::of(file) {
        report["engram"] = engram.as_json();
    }
    if let Some(drafts) = Drafts::of(file) {
        report["drafts"] = drafts.as_json();
    }
    if !options.no_metadata {
        let longest = (!options.full).then_some(SHORT_ARRAY);
        report["metadata"] = file
            .metadata()
            .iter()
            .map(|(key, value)| {
                let entry = json!({"type": value.type_name(), "value": value.to_json(longest)});
                (key.to_owned(), entry)
            })
            .collect::<serde_json::Map<_, _>>()
            .into();
    }
    if !options.no_tensors {
        report["tensors"] = file
            .tensors()
            .iter()
            .map(|tensor| {
                let part = file.part_of(tensor);
                let mut entry = json!({
                    "name": tensor.name,
                    "type": tensor.ty.name(),
                    "dims": tensor.dims,
                    "bytes": tensor.bytes,
                    "offset": file.position(tensor) - part.start(),
                });
                if file.parts().len() > 1 {
                    entry["file"] = part.path().to_string_lossy().into();
                }
                entry
            })
            .collect();
    }
    report
}

/// The tensors whose data are in a part.
fn own<'f>(file: &'f GgufFile, part: &'f Part) -> impl Iterator<Item = &'f TensorInfo> {
    let tensors = file.tensors().iter();
    tensors.filter(|tensor| file.part_of(tensor).start() == part.start())
}

fn as_text(file: &GgufFile, options: InspectOptions, out: &mut dyn Write) -> io::Result<()> {
    let header = file.header();
    writeln!(
        out,
        "{}: GGUF v{}, {}, {} tensors, alignment {}",
        file.path().display(),
        header.version,
        bytes(file.file_len()),
        header.tensors.len(),
        header.alignment
    )?;
    if file.parts().len() > 1 {
        writeln!(out, "\nparts")?;
        for part in file.parts() {
            let name = part.path().file_name().unwrap_or_default();
            let name = name.to_string_lossy().escape_debug().to_string();
            let (len, tensors) = (bytes(part.file_len()), own(file, part).count());
            writeln!(out, "  {name}  {len:>10} {tensors:>6} tensors")?;
        }
    }
    if !options.no_metadata {
        let width = file.metadata().iter().map(|(key, _)| key.len()).max();
        let width = width.unwrap_or(0).min(60);
        writeln!(out, "\nmetadata")?;
        for (key, value) in file.metadata().iter() {
            // Keys come from the file and may hold anything.
            let key = key.escape_debug().to_string();
            writeln!(out, "  {key:width$}  {:12} {value}", value.type_name())?;
        }
    }
    if !options.no_tensors {
        writeln!(out, "\ntensors")?;
        for tensor in file.tensors() {
            write_tensor(tensor, out)?;
        }
    }
    if let Some(engram) = Engram::of(file) {
        engram.as_text(out)?;
    }
    if let Some(drafts) = Drafts::of(file) {
        drafts.as_text(out)?;
    }
    writeln!(out, "\ntotals")?;
    write_totals(totals(file.tensors()), out)
}

/// One line about a tensor.
///
/// # Errors
/// Those of `out`.
pub fn write_tensor(tensor: &TensorInfo, out: &mut dyn Write) -> io::Result<()> {
    let name = tensor.name.escape_debug().to_string();
    let dims: Vec<String> = tensor.dims.iter().map(u64::to_string).collect();
    writeln!(
        out,
        "  {name:40} {:8} {:>20} {:>10}",
        tensor.ty.name(),
        dims.join(" x "),
        bytes(tensor.bytes)
    )
}

/// One line per type.
///
/// # Errors
/// Those of `out`.
pub fn write_totals(
    totals: impl IntoIterator<Item = (GgmlType, (u64, u64))>,
    out: &mut dyn Write,
) -> io::Result<()> {
    for (ty, (count, sum)) in totals {
        writeln!(
            out,
            "  {:8} {count:>6} tensors {:>10}",
            ty.name(),
            bytes(sum)
        )?;
    }
    Ok(())
}
