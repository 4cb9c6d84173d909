//! `v4-run verify`: checks a model against its manifest and the manifest's signature.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use v4_trust::{KEYS_FOLDER, Keys, Policy, Verify};

use super::print_json;
use crate::model::check_is_file;
use crate::output::{Notes, visible};
use crate::trust;

/// Arguments of `verify`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  v4-run verify v4-flash.gguf
  v4-run verify v4-flash.gguf --signer release.pub
  v4-run verify v4-flash.gguf --unsigned

Reads the whole model and compares it with v4-flash.gguf.manifest, which must be signed by
one of the signers or, without --signer, by one of the keys in /etc/v4-run/keys. With
--unsigned, damage is detected, but not a manifest that somebody else wrote. Exits with
code 1 if anything differs.")]
pub struct VerifyModelArgs {
    /// Model file (GGUF)
    pub model: PathBuf,
    /// Public key that may have signed the model: a minisign key file, or the key itself; may be
    /// repeated
    #[arg(long, value_name = "KEY", conflicts_with = "unsigned")]
    pub signer: Vec<String>,
    /// Do not check the signature
    #[arg(long)]
    pub unsigned: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Do not print progress to standard error
    #[arg(short, long)]
    pub quiet: bool,
}

/// Runs the command.
pub fn run(args: VerifyModelArgs) -> anyhow::Result<ExitCode> {
    check_is_file(&args.model)?;
    let mut keys = Keys::default();
    args.signer.iter().try_for_each(|key| keys.add(key))?;
    if keys.is_empty() && !args.unsigned {
        keys.add_folder(Path::new(KEYS_FOLDER))?;
    }
    let policy = Policy {
        keys,
        require_signed: !args.unsigned,
        verify: Verify::Whole,
    };
    let trusted = trust::check(&args.model, &policy, Notes::new(args.quiet))?;
    if args.json {
        let signer = trusted.signer.as_ref();
        print_json(&json!({
            "model": args.model.display().to_string(),
            "bytes": trusted.manifest.as_ref().map(|m| m.file.bytes),
            "blake3": trusted.file_hash().map(|hash| hash.to_string()),
            "signer": signer.map(|s| json!({ "key": s.key, "comment": s.comment })),
            "whole": trusted.whole,
        }))?;
    } else {
        let line = format!("{}: {trusted}", args.model.display());
        writeln!(io::stdout(), "{}", visible(&line))?;
    }
    Ok(ExitCode::SUCCESS)
}
