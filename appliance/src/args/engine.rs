//! Arguments that say how a model is opened and run.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use v4_runtime::Session;

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
    /// Worker threads [default: one per core that this process may use]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub threads: Option<usize>,
    /// Bind each worker thread to a core; not beside programs that keep a core busy
    #[arg(long)]
    pub pin: bool,
    /// Arithmetic: fast integer products, or exact f32
    #[arg(long, value_enum, default_value = "fast")]
    pub precision: PrecisionArg,
    /// Attention caches [default: published with fast, f32 with exact]
    #[arg(long, value_enum)]
    pub kv: Option<KvArg>,
    /// Angles of positions: exact, or rounded to f32 as in the published code, which tells beyond
    /// some 100,000 tokens
    #[arg(long, value_enum, value_name = "ANGLES", default_value = "exact")]
    pub rope: RopeArg,
    /// Tokens read at once during prefill; changes speed and memory, never the result
    #[arg(long, value_name = "N", value_parser = positive, default_value_t = Session::DEFAULT_CHUNK)]
    pub chunk: usize,
    /// Run every layer for every token of a prompt, also where nothing hangs on it; slower, the
    /// same result
    #[arg(long)]
    pub no_replay: bool,
    /// Where weights are: mapped from the file and read as they are needed, the same read at the
    /// start and locked in memory, or copied into memory at the start, in huge pages
    #[arg(long, value_enum, value_name = "PLACE", default_value = "mapped")]
    pub weights: WeightsArg,
    /// Memory for weights, experts, caches and buffers together; experts that do not fit are read
    /// from the disk as tokens need them [default: what is safe here, see v4-run plan]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub memory: Option<usize>,
    /// Low-rank adapter (LoRA): a folder as PEFT saves it; may be repeated. NAME is what requests
    /// to the service ask for it by [default: the folder's name]
    #[arg(long, value_name = "[NAME=]FOLDER")]
    pub lora: Vec<LoraArg>,
    #[command(flatten)]
    pub disk: DiskArgs,
    #[command(flatten)]
    pub trust: TrustArgs,
}

/// An adapter and what it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoraArg {
    /// What requests ask for it by.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
}

impl LoraArg {
    /// Bytes that it takes; what cannot be looked at says so when it is loaded.
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
                "{name:?} is no name for an adapter: use letters, digits, '-', '_', '.' and ':', \
                 as in NAME=FOLDER"
            ));
        }
        Ok(Self { name, folder })
    }
}

/// What is asked of a model file before and while it is used.
#[derive(Debug, Args)]
#[command(next_help_heading = "Trust")]
pub struct TrustArgs {
    /// Public key of who must have signed the model: a file as minisign writes it, or the key
    /// itself; may be repeated
    #[arg(long, value_name = "KEY")]
    pub signer: Vec<String>,
    /// Refuse a model that none of the signers has signed; without --signer, the keys in
    /// /etc/v4-run/keys count
    #[arg(long)]
    pub require_signed: bool,
    /// Compare the model's bytes with its manifest: each block before it is used, all before the
    /// model is opened, or never [default: use, if a signer is named or required]
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
    /// All before the model is opened, and each block again before it is used.
    Whole,
}

/// Where weights are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WeightsArg {
    /// In the mapped file; starts at once and shares memory with other processes.
    Mapped,
    /// In the mapped file, read at the start and locked in memory.
    Locked,
    /// In memory of the process; a few percent faster once it is read.
    Copied,
}

/// How what does not stay in memory is read.
#[derive(Debug, Args)]
#[command(next_help_heading = "Disk")]
pub struct DiskArgs {
    /// V4.1's Engram tables: rows read from disk as they are needed, tables read into memory at the
    /// start, or off (another model: gates shut, to measure what the tables are worth)
    #[arg(long, value_enum, value_name = "PLACE", default_value = "disk")]
    pub engram_tables: EngramArg,
    /// Memory for Engram rows that were read before
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "64M")]
    pub engram_cache: usize,
    /// How reads of experts and Engram rows are submitted
    #[arg(long, value_enum, value_name = "HOW", default_value = "auto")]
    pub reads: ReadsArg,
    /// Read through the operating system's page cache
    #[arg(long)]
    pub no_direct: bool,
    /// Experts kept in memory at most, however much there is; for measuring
    #[arg(long, value_name = "N", value_parser = positive)]
    pub most_experts: Option<usize>,
    /// Most reads that the disk is given at once
    #[arg(long, value_name = "N", value_parser = positive, default_value = "128")]
    pub in_flight: usize,
}

/// Where the Engram tables are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngramArg {
    /// Rows are read as tokens select them.
    Disk,
    /// Tables are read whole when the model is opened.
    Memory,
    /// Gates shut.
    Off,
}

/// How reads are submitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReadsArg {
    /// `io_uring` where the kernel allows it.
    Auto,
    /// `io_uring` or an error.
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
        assert_eq!(parse("./b=c"), Err("\"b=c\" is no name for an adapter: use letters, digits, '-', '_', '.' and ':', as in NAME=FOLDER".into()));
        assert!(parse("a+b=/x").is_err() && parse("=/x").is_err() && parse("/").is_err());
    }
}
