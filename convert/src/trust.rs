//! `v4-convert sign`, `verify` and `keygen`.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use v4_convert::units::bytes;
use v4_convert::write::Watch;
use v4_trust::{
    AdapterFiles, Beside, Keys, Policy, SecretKey, TrustError, Verify, adapter_manifest, check,
    check_adapter, measure, measure_adapter, new_key_pair, replace, sign as sign_bytes,
};

use crate::cli::{KeygenArgs, SignArgs, VerifyArgs};
use crate::{progress_bar, stop_on_signals};

/// Whether the user ended it.
pub fn is_interrupted(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(TrustError::Interrupted { .. }))
}

/// Writes manifest, hashes and signature.
pub fn sign(args: &SignArgs) -> anyhow::Result<()> {
    // First of all: a password that is mistyped after an hour of reading is a bad joke.
    let key = args.key.as_deref().map(|path| SecretKey::read(path, None));
    let key = key.transpose()?;
    if args.file.is_dir() {
        return sign_adapter(args, key.as_ref());
    }
    let made_by = concat!("v4-convert ", env!("CARGO_PKG_VERSION"));
    let measured = with_progress(args.quiet, |progress| {
        measure(&args.file, made_by, progress)
    })?;
    let beside = Beside::of(&args.file);
    let text = measured.manifest.to_text()?;
    let signature = match &key {
        Some(key) => Some(sign_bytes(&text, key, &comment(args))?),
        None => None,
    };
    remove_old(&beside.signature)?;
    replace(&beside.hashes, &measured.hashes, false)?;
    replace(&beside.manifest, &text, false)?;
    if let Some(signature) = &signature {
        replace(&beside.signature, signature.as_bytes(), false)?;
    }
    if !args.quiet {
        let facts = &measured.manifest;
        writeln!(
            io::stderr(),
            "{}: {} tensors, {}, {} blocks; BLAKE3 {}{}",
            beside.manifest.display(),
            facts.tensors.len(),
            bytes(facts.file.bytes),
            facts.blocks.count,
            facts.file.blake3,
            if signature.is_some() {
                "; signed"
            } else {
                "; not signed"
            },
        )?;
    }
    Ok(())
}

/// The same for an adapter's folder.
fn sign_adapter(args: &SignArgs, key: Option<&SecretKey>) -> anyhow::Result<()> {
    let files = AdapterFiles::of(&args.file);
    let text = adapter_manifest(&measure_adapter(&args.file)?);
    let comment = comment(args);
    let signature = key.map(|key| sign_bytes(text.as_bytes(), key, &comment));
    let signature = signature.transpose()?;
    remove_old(&files.signature)?;
    replace(&files.manifest, text.as_bytes(), false)?;
    if let Some(signature) = &signature {
        replace(&files.signature, signature.as_bytes(), false)?;
    }
    if !args.quiet {
        let signed = if signature.is_some() {
            "signed"
        } else {
            "not signed"
        };
        writeln!(io::stderr(), "{}: {signed}", files.manifest.display())?;
    }
    Ok(())
}

/// An old signature is not of the new manifest.
fn remove_old(signature: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(signature) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(e).context(signature.display().to_string())
        }
        _ => Ok(()),
    }
}

/// As minisign's own: when, and of which file.
fn comment(args: &SignArgs) -> String {
    if let Some(comment) = &args.comment {
        return comment.clone();
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = since.map_or(0, |d| d.as_secs());
    let name = args.file.file_name().unwrap_or(args.file.as_os_str());
    let name: String = name
        .to_string_lossy()
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect();
    format!("timestamp:{seconds}\tfile:{name}.manifest\thashed")
}

/// Checks signature and content.
pub fn verify(args: &VerifyArgs) -> anyhow::Result<()> {
    let mut keys = Keys::default();
    args.signer.iter().try_for_each(|key| keys.add(key))?;
    let policy = Policy {
        require_signed: !keys.is_empty(),
        keys,
        verify: Verify::Whole,
    };
    if args.file.is_dir() {
        let signer = check_adapter(&args.file, &measure_adapter(&args.file)?, &policy)?;
        let Some(signer) = signer else {
            bail!(
                "{}: use --signer to name the key that must have signed the adapter",
                args.file.display()
            );
        };
        let (name, key) = (args.file.display(), signer.key);
        writeln!(
            io::stdout(),
            "{name}: signed with key {key} ({})",
            signer.comment
        )?;
        return Ok(());
    }
    let trusted = with_progress(args.quiet, |progress| check(&args.file, &policy, progress))?;
    writeln!(io::stdout(), "{}: {trusted}", args.file.display())?;
    Ok(())
}

/// Runs `work` with a bar, until Ctrl-C.
fn with_progress<T>(
    quiet: bool,
    work: impl FnOnce(v4_trust::Progress<'_>) -> Result<T, TrustError>,
) -> anyhow::Result<T> {
    let watch = Arc::new(Watch::default());
    stop_on_signals(&watch)?;
    let bar = progress_bar(0, quiet);
    let result = work(&|done, total| {
        bar.set_length(total);
        bar.set_position(done);
        !watch.cancel.load(Ordering::Relaxed)
    });
    bar.finish_and_clear();
    Ok(result?)
}

/// Makes a pair of keys.
pub fn keygen(args: &KeygenArgs) -> anyhow::Result<()> {
    let with = |ending: &str| {
        let mut name = args.name.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    let (secret, public) = (with(".key"), with(".pub"));
    for path in [&secret, &public] {
        if path.exists() {
            bail!("{}: already exists; choose another name", path.display());
        }
    }
    let password = if args.no_password {
        None
    } else {
        Some(ask_password()?)
    };
    let (public_text, secret_text) = new_key_pair(password)?;
    write_new(&secret, &secret_text, 0o600)?;
    write_new(&public, &public_text, 0o644)?;
    let key = public_text.lines().nth(1).unwrap_or_default();
    let mut out = io::stdout().lock();
    writeln!(out, "{}: keep it secret", secret.display())?;
    writeln!(out, "{}: {key}", public.display())?;
    Ok(())
}

fn write_new(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let open = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path);
    open.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    })
    .with_context(|| format!("{}: cannot write", path.display()))
}

/// Asks twice at the terminal.
fn ask_password() -> anyhow::Result<String> {
    if !io::stdin().is_terminal() {
        bail!("no terminal to ask for a password; use --no-password and protect the file");
    }
    let ask = |prompt: &str| rpassword::prompt_password(prompt).context("cannot read a password");
    let first = ask("Password for the secret key: ")?;
    if first != ask("Repeat it: ")? {
        bail!("the two passwords differ; run the command again");
    }
    Ok(first)
}
