//! An overview of a V4.1 file's Engram tables.

use std::io::{self, Write};

use serde_json::{Value as Json, json};
use v4_files::gguf::{GgufFile, TensorInfo};

use crate::plan::engram::published_width;
use crate::recipe::{ENGRAM_FP8, JOINT_ENGRAM, type_name};
use crate::units::bytes;

/// One table.
struct Table<'a> {
    info: &'a TensorInfo,
    position: u64,
    /// Values per row, or why the rows cannot be read.
    width: Result<u64, String>,
}

impl Table<'_> {
    fn type_name(&self) -> &'static str {
        match self.width {
            Ok(_) => type_name(self.info.ty),
            Err(_) => self.info.ty.name(),
        }
    }
}

/// All tables of a file.
pub(super) struct Engram<'a> {
    tables: Vec<Table<'a>>,
}

impl<'a> Engram<'a> {
    /// The tables, if there are any.
    pub fn of(file: &'a GgufFile) -> Option<Self> {
        let tables = file.tensors().iter().filter(|info| {
            let layer = info.name.strip_prefix("blk.");
            layer.is_some_and(|name| name.ends_with(".engram_embd.weight"))
                || info.name == JOINT_ENGRAM
        });
        let tables: Vec<Table<'_>> = tables
            .map(|info| Table {
                info,
                position: file.position(info) - file.part_of(info).start(),
                width: match info.ty {
                    ENGRAM_FP8 => published_width(file.metadata(), info.row_bytes()),
                    _ => Ok(info.dims.first().copied().unwrap_or(0)),
                },
            })
            .collect();
        (!tables.is_empty()).then_some(Self { tables })
    }

    /// Whether all layers share one table, as llama.cpp expects it.
    fn is_joint(&self) -> bool {
        self.tables.iter().all(|t| t.info.name == JOINT_ENGRAM)
    }

    fn bytes(&self) -> u64 {
        // A file holds them all, so that they can be counted.
        self.tables.iter().map(|table| table.info.bytes).sum()
    }

    pub fn as_json(&self) -> Json {
        let tables: Vec<Json> = self
            .tables
            .iter()
            .map(|table| {
                json!({
                    "name": table.info.name,
                    "type": table.type_name(),
                    "rows": table.info.rows(),
                    "row_values": table.width.as_ref().ok(),
                    "row_bytes": table.info.row_bytes(),
                    "bytes": table.info.bytes,
                    "offset": table.position,
                    "problem": table.width.as_ref().err(),
                })
            })
            .collect();
        let llama_cpp = self.is_joint();
        json!({"bytes": self.bytes(), "llama_cpp_layout": llama_cpp, "tables": tables})
    }

    pub fn as_text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "\nengram tables, {}, read from disk by row{}",
            bytes(self.bytes()),
            match self.is_joint() {
                true => "",
                false => "; one for each layer, a layout that llama.cpp does not read",
            }
        )?;
        for table in &self.tables {
            let name = table.info.name.escape_debug().to_string();
            let (ty, rows) = (table.type_name(), table.info.rows());
            match &table.width {
                Ok(width) => writeln!(
                    out,
                    "  {name:40} {ty:8} {rows} rows of {width} values in {} bytes, from byte {}",
                    table.info.row_bytes(),
                    table.position
                )?,
                Err(problem) => writeln!(out, "  {name:40} {problem}")?,
            }
        }
        Ok(())
    }
}
