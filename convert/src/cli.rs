//! The command line of `v4-convert`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use v4_convert::recipe::engram_type;
use v4_quant::GgmlType;

const EXAMPLES: &str = "\
Examples:
  v4-convert DeepSeek-V4-Flash v4-flash.gguf
      experts as published (MXFP4), everything else as Q8_0, BF16 or F32
  v4-convert DeepSeek-V4-Flash v4-flash-q2.gguf --recipe q2
      the smallest built-in recipe
  v4-convert DeepSeek-V4.1-Flash v4.1-flash.gguf --engram mxfp4
      Engram tables at half their size; by default they are Q8_0
  v4-convert DeepSeek-V4-Flash --dry-run
      show what would be written, without reading any weights
  v4-convert v4-flash.gguf v4-flash-q4.gguf --recipe q4
      apply another recipe to a converted file
  v4-convert v4-flash.gguf /media/stick/v4-flash.gguf --split 4G
      cut a file into parts for a stick whose files must be shorter than 4 GiB
  v4-convert v4-flash-00001-of-00040.gguf v4-flash.gguf
      merge a set of parts, which must be in one folder, into one file
  v4-convert DeepSeek-V4-Flash-DSpark v4-flash-dspark.gguf --drafts only
      the draft blocks in a file of their own, for llama.cpp
  v4-convert inspect v4-flash.gguf
      show what a file contains
  v4-convert sign v4-flash.gguf --key release.key
      sign a file; v4-run --signer release.pub then accepts no other

To continue an interrupted conversion, run the same command again.";

/// How to write a recipe file.
pub const RECIPE_FILES: &str = "
A recipe file names a built-in recipe as its base and changes it with rules. The
first rule that matches a tensor applies. Vectors and token tables stay as they are.

  base = \"q2\"

  [[rule]]
  tensors = \"blk.*.ffn_{gate,up,down}_exps.weight\"
  layers = \"37-42\"
  type = \"q4_k\"

  [[rule]]
  tensors = [\"output.weight\", \"token_embd.weight\"]
  type = \"q8_0\"

Engram tables (per_layer_token_embd.weight) are Q8_0, or as published (fp8) in the
lossless recipe. They are read from disk row by row, so a smaller type saves disk
space but neither memory nor time. A rule or --engram gives them another type. A rule
for one layer's table names blk.N.engram_embd.weight; tables of several types, and fp8
rows, are written as a tensor per layer, which llama.cpp does not read.

If a row is not a whole number of a type's blocks, the tensor is written as MXFP4
(experts) or Q8_0 (other matrices) instead, and v4-convert says so.
";

/// Converts a published DeepSeek-V4 or V4.1 checkpoint to one GGUF file.
#[derive(Debug, Parser)]
#[command(
    name = "v4-convert",
    version,
    arg_required_else_help = true,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = EXAMPLES
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub convert: ConvertArgs,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the metadata and tensors of a GGUF file
    Inspect(InspectArgs),
    /// List the built-in recipes
    Recipes,
    /// Store golden values in a model for `v4-run selftest`
    Golden(GoldenArgs),
    /// Write a model's manifest and sign it
    Sign(SignArgs),
    /// Check a model against its signed manifest
    Verify(VerifyArgs),
    /// Generate a key pair for signing
    Keygen(KeygenArgs),
    /// Print a shell completion script
    Completion {
        /// Shell to complete for
        shell: Shell,
    },
    /// Write the manual pages into a folder; for packagers
    #[command(hide = true)]
    Man {
        /// Folder to write to
        folder: PathBuf,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  v4-convert golden v4-flash.gguf

Runs 24 tokens through the model, once with each precision, using the portable kernels on
one thread, and writes hashes of the logits into space that the conversion reserved in the
file's header. A large model takes minutes. Run this before signing the file.")]
pub struct GoldenArgs {
    /// Model file (GGUF) written by v4-convert
    pub file: PathBuf,
    /// Do not print notes
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  v4-convert keygen release
  v4-convert sign v4-flash.gguf --key release.key
  v4-convert sign v4-flash.gguf --key ~/.minisign/minisign.key --comment \"V4-Flash, q2\"
  minisign -Vm v4-flash.gguf.manifest -p release.pub

Reads the whole model once and writes three files next to it:
  v4-flash.gguf.manifest           BLAKE3 of the file and of each tensor (JSON)
  v4-flash.gguf.hashes             BLAKE3 of each block, to check blocks before use
  v4-flash.gguf.manifest.minisig   the signature, in minisign's format
They belong to the model: copy them with it. For the folder of a low-rank adapter, it
writes adapter.manifest and adapter.manifest.minisig.")]
pub struct SignArgs {
    /// Model file (GGUF), or folder of an adapter
    pub file: PathBuf,
    /// Secret key in minisign's format; you are asked for its password if it has one
    #[arg(short, long, value_name = "FILE", required_unless_present = "unsigned")]
    pub key: Option<PathBuf>,
    /// Comment that is signed with the manifest and shown on verification [default: time and file]
    #[arg(short, long, value_name = "TEXT", requires = "key")]
    pub comment: Option<String>,
    /// Write only the manifest: it detects damage, but does not prove who made the model
    #[arg(long, conflicts_with = "key")]
    pub unsigned: bool,
    /// Do not print progress or notes
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  v4-convert verify v4-flash.gguf --signer release.pub
  v4-convert verify v4-flash.gguf --signer RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3
  v4-convert verify v4-flash.gguf

Reads the whole model. Without a key, the manifest is trusted as it is: damage is detected,
but not a manifest that somebody else wrote.")]
pub struct VerifyArgs {
    /// Model file (GGUF), or folder of an adapter
    pub file: PathBuf,
    /// Public key that may have signed it: a minisign key file, or the key itself;
    /// may be repeated
    #[arg(short, long, value_name = "KEY")]
    pub signer: Vec<String>,
    /// Do not print progress
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  v4-convert keygen release
  v4-convert keygen ci --no-password

Writes NAME.key, which you keep secret, and NAME.pub, which you give to people who run your
models. Both are in minisign's format, so minisign can create and use them too.")]
pub struct KeygenArgs {
    /// Name of the key files, without extension
    pub name: PathBuf,
    /// Do not encrypt the secret key; anyone who can read the file can sign
    #[arg(long)]
    pub no_password: bool,
}

#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// Checkpoint folder (config.json, tokenizer.json, shards), GGUF file, or first part of a
    /// set of them
    #[arg(value_name = "CHECKPOINT", required = true)]
    pub input: Option<PathBuf>,
    /// File to write
    #[arg(value_name = "OUT.gguf", required_unless_present = "dry_run")]
    pub output: Option<PathBuf>,
    /// Built-in recipe (see `v4-convert recipes`) or TOML file
    #[arg(short, long, value_name = "NAME|FILE", default_value = "native")]
    pub recipe: String,
    /// What to do with the draft blocks of MTP and DSpark checkpoints. Other programs
    /// may refuse a model file with drafts; `only` writes them in a file of their own, as
    /// llama.cpp reads them
    #[arg(long, value_name = "keep|drop|only", default_value = "keep")]
    pub drafts: DraftsArg,
    /// What to do with the vision tower of a V4.1 checkpoint; it is written as v.*
    /// and mm.*, but not run yet
    #[arg(long, value_name = "drop|keep", default_value = "drop")]
    pub vision: KeepArg,
    /// Type of the Engram tables, overriding the recipe; fp8 keeps the rows as
    /// published [default: the recipe's, or their type in a GGUF input]
    #[arg(long, value_name = "q8_0|mxfp4|q4_k|fp8", value_parser = engram_type)]
    pub engram: Option<GgmlType>,
    /// Model name to write into the file
    #[arg(long, value_name = "TEXT")]
    pub name: Option<String>,
    /// Write parts that are all shorter than this, named OUT-00001-of-0000N.gguf, for example
    /// for a file system whose files are below 4G
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub split: Option<u64>,
    /// Threads; does not affect the output [default: one per core]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Print what would be written, without reading any weights
    #[arg(long)]
    pub dry_run: bool,
    /// Print the plan as JSON
    #[arg(long, requires = "dry_run")]
    pub json: bool,
    /// Replace OUT.gguf if it exists, once the new file is complete
    #[arg(long)]
    pub force: bool,
    /// Start over instead of continuing an interrupted conversion
    #[arg(long)]
    pub restart: bool,
    /// When continuing, first read and check what is already written
    #[arg(long)]
    pub verify: bool,
    /// Do not print progress or notes
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum DraftsArg {
    /// Write, if there are any
    Keep,
    /// Leave out
    Drop,
    /// Write nothing else
    Only,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum KeepArg {
    /// Leave out
    Drop,
    /// Write
    Keep,
}

#[derive(Debug, Args)]
pub struct InspectArgs {
    /// GGUF file
    pub file: PathBuf,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
    /// Show only tensors
    #[arg(long)]
    pub tensors: bool,
    /// Show only metadata
    #[arg(long)]
    pub metadata: bool,
    /// With --json, print all entries of arrays longer than 1024
    #[arg(long, requires = "json")]
    pub full: bool,
}

/// A number of bytes such as 4G, in units of 1024.
fn size(text: &str) -> Result<u64, String> {
    let parsed = parse_size::Config::new().with_binary().parse_size(text);
    parsed.map_err(|e| format!("{e}; give a number with K, M, G or T"))
}
