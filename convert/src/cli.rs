//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use v4_convert::recipe::engram_type;
use v4_quant::GgmlType;

const EXAMPLES: &str = "\
Examples:
  v4-convert DeepSeek-V4-Flash v4-flash.gguf
      experts as published (MXFP4), the rest Q8_0, BF16 and F32
  v4-convert DeepSeek-V4-Flash v4-flash-q2.gguf --recipe q2
      the smallest built-in recipe
  v4-convert DeepSeek-V4.1-Flash v4.1-flash.gguf --engram mxfp4
      Engram tables at half their size; by default they stay as published
  v4-convert DeepSeek-V4-Flash --dry-run
      what would be written, without reading any weight
  v4-convert v4-flash.gguf v4-flash-q4.gguf --recipe q4
      another recipe for a file that is converted already
  v4-convert inspect v4-flash.gguf
      what a file holds
  v4-convert sign v4-flash.gguf --key release.key
      vouch for a file; v4-run --signer release.pub then takes no other

An interrupted conversion continues when the same command is run again.";

/// How to write a recipe file.
pub const RECIPE_FILES: &str = "
A recipe file names a built-in recipe as its base and changes it by rules. The
first rule that matches a tensor decides; vectors and token tables stay as they are.

  base = \"q2\"

  [[rule]]
  tensors = \"blk.*.ffn_{gate,up,down}_exps.weight\"
  layers = \"37-42\"
  type = \"q4_k\"

  [[rule]]
  tensors = [\"output.weight\", \"token_embd.weight\"]
  type = \"q8_0\"

Engram tables (blk.*.engram_embd.weight) stay as published, fp8, in every built-in
recipe: they are read from disk row by row, so that a smaller type saves room on
disk, but neither memory nor time. A rule or --engram gives them another type.

A row that is no whole number of a type's blocks is written as MXFP4 (experts)
or Q8_0 (other matrices) instead, which is told.
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
    /// Fill in the golden values by which `v4-run selftest` checks a machine
    Golden(GoldenArgs),
    /// Write a model's manifest and sign it
    Sign(SignArgs),
    /// Check a model against its manifest, and the manifest's signature
    Verify(VerifyArgs),
    /// Make a pair of keys to sign with
    Keygen(KeygenArgs),
    /// Print what a shell needs to complete commands and options
    Completion {
        /// The shell
        shell: Shell,
    },
    /// Write the manual's pages into a folder; for packages
    #[command(hide = true)]
    Man {
        /// The folder
        folder: PathBuf,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  v4-convert golden v4-flash.gguf

Runs 24 tokens through the model, once with each arithmetic, with the portable kernels on
one thread, and writes hashes of the logits into room that the conversion left in the
file's header. A large model takes minutes. Do it before the file is signed.")]
pub struct GoldenArgs {
    /// The model (GGUF), as v4-convert wrote it
    pub file: PathBuf,
    /// No notes
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

Reads the whole model once and writes three files beside it:
  v4-flash.gguf.manifest           BLAKE3 of the file and of each tensor (JSON)
  v4-flash.gguf.hashes             BLAKE3 of each block, to check blocks before their use
  v4-flash.gguf.manifest.minisig   the signature, in minisign's format
They belong to the model: copy them with it. In the folder of a low-rank adapter it writes
adapter.manifest and adapter.manifest.minisig.")]
pub struct SignArgs {
    /// The model (GGUF), or an adapter's folder
    pub file: PathBuf,
    /// Secret key in minisign's format; its password is asked for if it has one
    #[arg(short, long, value_name = "FILE", required_unless_present = "unsigned")]
    pub key: Option<PathBuf>,
    /// What is signed with the manifest, and shown when it is checked [default: time and file]
    #[arg(short, long, value_name = "TEXT", requires = "key")]
    pub comment: Option<String>,
    /// Write the manifest alone: it finds damage, but says nothing about who made the model
    #[arg(long, conflicts_with = "key")]
    pub unsigned: bool,
    /// No progress bar, no notes
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  v4-convert verify v4-flash.gguf --signer release.pub
  v4-convert verify v4-flash.gguf --signer RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3
  v4-convert verify v4-flash.gguf

Reads the whole model. Without a key the manifest is taken as it is: damage is found, but
not a manifest that somebody else wrote.")]
pub struct VerifyArgs {
    /// The model (GGUF), or an adapter's folder
    pub file: PathBuf,
    /// Public key of who may have signed it: a file as minisign writes it, or the key itself;
    /// may be repeated
    #[arg(short, long, value_name = "KEY")]
    pub signer: Vec<String>,
    /// No progress bar
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  v4-convert keygen release
  v4-convert keygen ci --no-password

Writes NAME.key, which stays secret, and NAME.pub, which goes to those who run your models.
Both are as minisign's, which makes and takes them as well.")]
pub struct KeygenArgs {
    /// Name of the files, without their endings
    pub name: PathBuf,
    /// Do not encrypt the secret key; whoever reads the file can sign
    #[arg(long)]
    pub no_password: bool,
}

#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// Folder of the checkpoint (config.json, tokenizer.json, shards), or a GGUF file
    #[arg(value_name = "CHECKPOINT", required = true)]
    pub input: Option<PathBuf>,
    /// The file to write
    #[arg(value_name = "OUT.gguf", required_unless_present = "dry_run")]
    pub output: Option<PathBuf>,
    /// A built-in recipe (see `v4-convert recipes`) or a TOML file
    #[arg(short, long, value_name = "NAME|FILE", default_value = "native")]
    pub recipe: String,
    /// What to do with the draft blocks of MTP and DSpark checkpoints; a file with
    /// drafts is for this project alone, other programs may refuse it
    #[arg(long, value_name = "drop|keep", default_value = "drop")]
    pub drafts: KeepArg,
    /// What to do with the vision tower of a V4.1 checkpoint; it is written as
    /// v.* and mm.*, and not run yet
    #[arg(long, value_name = "drop|keep", default_value = "drop")]
    pub vision: KeepArg,
    /// The type of Engram tables, whatever the recipe says: fp8 keeps the rows as
    /// published [default: fp8, or the type that a GGUF file has]
    #[arg(long, value_name = "q8_0|mxfp4|q4_k|fp8", value_parser = engram_type)]
    pub engram: Option<GgmlType>,
    /// The model's name in the file
    #[arg(long, value_name = "TEXT")]
    pub name: Option<String>,
    /// Threads [default: one per core]; the output does not depend on it
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Print what would be written, without reading any weight
    #[arg(long)]
    pub dry_run: bool,
    /// Print the plan as JSON
    #[arg(long, requires = "dry_run")]
    pub json: bool,
    /// Replace OUT.gguf if it exists, once the new file is whole
    #[arg(long)]
    pub force: bool,
    /// Start anew instead of continuing an interrupted conversion
    #[arg(long)]
    pub restart: bool,
    /// When continuing, read what is there and check it first
    #[arg(long)]
    pub verify: bool,
    /// No progress bar, no notes
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum KeepArg {
    /// Leave them out
    Drop,
    /// Write them
    Keep,
}

#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The GGUF file
    pub file: PathBuf,
    /// One JSON object instead of text
    #[arg(long)]
    pub json: bool,
    /// Tensors only
    #[arg(long)]
    pub tensors: bool,
    /// Metadata only
    #[arg(long)]
    pub metadata: bool,
    /// With --json: all entries of arrays longer than 1024
    #[arg(long, requires = "json")]
    pub full: bool,
}
