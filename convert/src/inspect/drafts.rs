//! What a file's draft module is.

use std::io::{self, Write};

use serde_json::{Value as Json, json};
use v4_files::gguf::GgufFile;
use v4_runtime::model::{DraftConfig, DraftKind, ModelConfig};

use crate::units::bytes;

/// The draft module of a model's file, if it has one that can be run.
pub struct Drafts {
    config: DraftConfig,
    bytes: u64,
}

impl Drafts {
    pub fn of(file: &GgufFile) -> Option<Self> {
        // What is wrong with a model is told by those who run it.
        let model = ModelConfig::from_gguf(file).ok()?;
        let config = DraftConfig::of_model(file, &model).ok()??;
        let bytes = config.bytes_in(file);
        Some(Self { config, bytes })
    }

    pub fn as_json(&self) -> Json {
        let config = &self.config;
        let mut report = json!({
            "kind": config.name(),
            "blocks": config.blocks(),
            "tokens": config.rows(),
            "bytes": self.bytes,
        });
        if let DraftKind::Dspark(dspark) = &config.kind {
            report["target_layers"] = json!(dspark.target_layers);
        }
        report
    }

    pub fn as_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let config = &self.config;
        let blocks = match config.blocks() {
            1 => "1 block".to_owned(),
            n => format!("{n} blocks"),
        };
        let tokens = match config.rows() {
            1 => "1 token".to_owned(),
            n => format!("{n} tokens"),
        };
        write!(
            out,
            "\ndraft module\n  {}: {blocks}, {}, drafts {tokens} at a time",
            config.name(),
            bytes(self.bytes)
        )?;
        if let DraftKind::Dspark(dspark) = &config.kind {
            let layers = dspark.target_layers.iter().map(usize::to_string);
            let layers: Vec<String> = layers.collect();
            write!(out, " from layers {}", layers.join(", "))?;
        }
        writeln!(out)
    }
}
