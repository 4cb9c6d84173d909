//! Arguments that control how a model is opened and run.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};

use super::values::{positive, size};

/// How weights meet activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PrecisionArg {
    /// Dequantised weights times f32 activations, f32 sums.
    Exact,
    /// Integer dot products with activations quantised per 32 values.
    Fast,
}

/// How attention caches are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KvArg {
    /// 32-bit floats, no rounding.
    F32,
    /// The fp8 and fp4 roundings the model was trained with.
    Published,
}

/// How angles of the rotary embedding are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RopeArg {
    /// In 64 bits.
    Exact,
    /// In 32 bits, as in the published code.
    Published,
}

/// Arguments of every command that runs the model.
#[derive(Debug, Args)]
#[command(next_help_heading = "Engine")]
pub struct EngineArgs {
    /// Worker threads [default: one per core available to this process]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub threads: Option<usize>,
    /// Pin each worker thread to a core; slower if other programs keep a core busy
    #[arg(long)]
    pub pin: bool,
    /// Arithmetic: fast integer products, or exact f32
    #[arg(long, value_enum, default_value = "fast")]
    pub precision: PrecisionArg,
    /// Precision of the attention caches [default: published with fast, f32 with exact]
    #[arg(long, value_enum)]
    pub kv: Option<KvArg>,
    /// Position angles: exact, or rounded to f32 as in the published code; the difference shows
    /// beyond about 100,000 tokens
    #[arg(long, value_enum, value_name = "ANGLES", default_value = "exact")]
    pub rope: RopeArg,
    /// Tokens per prefill step; affects speed and memory, never the result [default: 2048, or
    /// fewer where memory is short, down to 512]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub chunk: Option<usize>,
    /// Run every layer for every token of a prompt, even where the result is not used; slower, with
    /// the same result
    #[arg(long)]
    pub no_replay: bool,
    /// Where weights are kept: mapped from the file and read when needed, mapped and locked in
    /// memory at startup, or copied at startup into memory with huge pages
    #[arg(long, value_enum, value_name = "PLACE", default_value = "mapped")]
    pub weights: WeightsArg,
    /// Run the model on this NVIDIA card, numbered from 0, into whose memory all of it has to fit;
    /// affects speed, never the result [default: no card]
    #[arg(long, value_name = "N")]
    pub gpu: Option<u32>,
    /// Memory limit for weights, experts, caches and buffers together; experts that do not fit are
    /// read from disk when needed [default: a safe amount for this machine, see v4-run plan]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub memory: Option<usize>,
    /// Low-rank adapter (LoRA): a folder saved by PEFT; may be repeated. Requests to the service
    /// select it by NAME [default: the folder's name]
    #[arg(long, value_name = "[NAME=]FOLDER")]
    pub lora: Vec<LoraArg>,
    #[command(flatten)]
    pub disk: DiskArgs,
    #[command(flatten)]
    pub trust: TrustArgs,
}

/// An adapter and its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoraArg {
    /// The name by which requests select it.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
}

impl LoraArg {
    /// Its size in bytes; 0 if it cannot be read, which loading it then reports.
    pub fn bytes(&self) -> u64 {
        let file = self.folder.join("adapter_model.safetensors");
        std::fs::metadata(file).map_or(0, |facts| facts.len())
    }
}

impl FromStr for LoraArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A folder may have the sign in its name, after a slash.
        let named = text.split_once('=').filter(|(name, _)| !name.contains('/'));
        let (name, folder) = match named {
            Some((name, folder)) => (name.to_owned(), PathBuf::from(folder)),
            None => {
                let folder = PathBuf::from(text);
                let name = folder.file_name().unwrap_or_default();
                (name.to_string_lossy().into_owned(), folder)
            }
        };
        let plain = |c: char| c.is_alphanumeric() || "-_.:".contains(c);
        if name.is_empty() || !name.chars().all(plain) {
            return Err(format!(
                "{name:?} is not a valid adapter name: use letters, digits, '-', '_', '.' and ':', \
                 as in NAME=FOLDER"
            ));
        }
        Ok(Self { name, folder })
    }
}

/// What a model file must satisfy before and while it is used.
#[derive(Debug, Args)]
#[command(next_help_heading = "Trust")]
pub struct TrustArgs {
    /// Public key that must have signed the model: a minisign key file, or the key itself; may be
    /// repeated
    #[arg(long, value_name = "KEY")]
    pub signer: Vec<String>,
    /// Refuse a model that none of the signers has signed; without --signer, use the keys in
    /// /etc/v4-run/keys
    #[arg(long)]
    pub require_signed: bool,
    /// Compare the model's bytes with its manifest: each block before it is used, the whole file
    /// before it is opened, or never [default: use, if a signer is named or required]
    #[arg(long, value_enum, value_name = "WHEN")]
    pub verify: Option<VerifyArg>,
}

/// When bytes are compared with the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum VerifyArg {
    /// Never.
    Off,
    /// Each block before it is used.
    Use,
    /// The whole file before it is opened, and each block again before it is used.
    Whole,
}

/// Where weights are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WeightsArg {
    /// In the mapped file; starts at once, and memory is shared with other processes.
    Mapped,
    /// In the mapped file, read at startup and locked in memory.
    Locked,
    /// In the process's own memory; a few percent faster once loaded.
    Copied,
}

/// How data that does not stay in memory is read.
#[derive(Debug, Args)]
#[command(next_help_heading = "Disk")]
pub struct DiskArgs {
    /// V4.1's Engram tables: read rows from disk when needed, read whole tables into memory at
    /// startup, or turn them off (changes the output; for measuring what the tables contribute)
    #[arg(long, value_enum, value_name = "PLACE", default_value = "disk")]
    pub engram_tables: EngramArg,
    /// Size of the cache for Engram rows
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "64M")]
    pub engram_cache: usize,
    /// How reads of experts and Engram rows are submitted
    #[arg(long, value_enum, value_name = "HOW", default_value = "auto")]
    pub reads: ReadsArg,
    /// Read through the operating system's page cache instead of directly
    #[arg(long)]
    pub no_direct: bool,
    /// Keep at most N experts in memory, even if more would fit; for measuring
    #[arg(long, value_name = "N", value_parser = positive)]
    pub most_experts: Option<usize>,
    /// Maximum number of disk reads in flight
    #[arg(long, value_name = "N", value_parser = positive, default_value = "128")]
    pub in_flight: usize,
}

/// Where the Engram tables are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngramArg {
    /// Rows are read from disk when tokens select them.
    Disk,
    /// Whole tables are read when the model is opened.
    Memory,
    /// The gates stay closed, as if there were no tables.
    Off,
}

/// How reads are submitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReadsArg {
    /// `io_uring` if the kernel allows it, threads otherwise.
    Auto,
    /// `io_uring`; an error if the kernel does not allow it.
    IoUring,
    /// A pool of threads.
    Threads,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapter_is_named_by_its_folder_unless_it_has_a_name() {
        let parse = |text: &str| text.parse::<LoraArg>().map(|a| (a.name, a.folder));
        let path = PathBuf::from;
        assert_eq!(parse("/a/sql"), Ok(("sql".into(), path("/a/sql"))));
        assert_eq!(
            parse("code=/a/b=c/d"),
            Ok(("code".into(), path("/a/b=c/d")))
        );
        assert_eq!(parse("./b=c"), Err("\"b=c\" is not a valid adapter name: use letters, digits, '-', '_', '.' and ':', as in NAME=FOLDER".into()));
        assert!(parse("a+b=/x").is_err() && parse("=/x").is_err() && parse("/").is_err());
    }
}
