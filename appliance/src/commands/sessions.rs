//! `v4-run sessions`: lists and deletes saved sessions.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde_json::json;
use v4_files::ByteSize;
use v4_runtime::storage::{Store, Stored};

use super::print_json;
use crate::args::SessionArgs;
use crate::output::{one_line, visible};
use crate::session_files::SessionFiles;

/// Arguments of `sessions`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  v4-run sessions
  v4-run sessions remove work
  v4-run sessions trim 8G
  v4-run sessions purge --yes

Sessions are stored in $XDG_STATE_HOME/v4-run/sessions, or ~/.local/state/v4-run/sessions.
Deleting a session deletes its prompts and answers. Deleted data is not overwritten on
the disk; sessions encrypted with --session-key are unreadable without the key.")]
pub struct SessionsArgs {
    /// What to do [default: list]
    #[command(subcommand)]
    pub action: Option<Action>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Sessions on the disk.
    #[command(flatten)]
    pub sessions: SessionArgs,
}

/// What to do with sessions.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// List all sessions.
    List,
    /// Delete the named sessions.
    Remove {
        /// Names of the sessions
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Delete the sessions unused longest, until the rest take no more than SIZE.
    Trim {
        /// Disk space to keep, such as 8G
        #[arg(value_parser = crate::args::values::size)]
        size: usize,
    },
    /// Delete all sessions, with their prompts and answers.
    Purge {
        /// Confirm that all sessions are deleted for good
        #[arg(long)]
        yes: bool,
    },
}

/// Runs the command.
pub fn run(args: SessionsArgs) -> anyhow::Result<ExitCode> {
    if args.sessions.session.is_some() {
        bail!("--session cannot be used here; give the name after remove");
    }
    let store = SessionFiles::new(&args.sessions)?.store()?;
    let deleted = match args.action {
        None | Some(Action::List) => {
            list(&store, args.json)?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(Action::Remove { names }) => {
            for name in &names {
                let there = store.remove(name)?;
                let said = delete_notes(&store, name)?;
                if !there && !said {
                    bail!(
                        "{}: no such session; v4-run sessions lists them",
                        visible(name)
                    );
                }
            }
            names
        }
        Some(Action::Trim { size }) => {
            let gone = store.evict(size as u64, None)?;
            let names = gone.iter().filter_map(|path| path.file_stem());
            names
                .map(|name| name.to_string_lossy().into_owned())
                .collect()
        }
        Some(Action::Purge { yes: false }) => {
            bail!(
                "this would delete {} sessions in {} for good; add --yes to confirm",
                store.list()?.len(),
                store.folder().display()
            );
        }
        Some(Action::Purge { yes: true }) => {
            let names: Vec<String> = store.list()?.into_iter().map(|s| s.name).collect();
            for name in &names {
                store.remove(name)?;
            }
            // Also of sessions that were trimmed.
            for entry in std::fs::read_dir(store.folder())? {
                let path = entry?.path();
                if path
                    .extension()
                    .is_some_and(|ending| ending == "json" || ending == "part")
                {
                    std::fs::remove_file(&path).with_context(|| path.display().to_string())?;
                }
            }
            names
        }
    };
    if args.json {
        print_json(&json!({ "deleted": deleted }))?;
    } else {
        let mut out = io::stdout().lock();
        for name in &deleted {
            writeln!(out, "deleted {}", visible(name))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Deletes what was said in a chat of that name; whether there was any.
fn delete_notes(store: &Store, name: &str) -> anyhow::Result<bool> {
    let path = store.path(name)?.with_extension("json");
    match std::fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e).with_context(|| path.display().to_string()),
    }
}

fn list(store: &Store, as_json: bool) -> anyhow::Result<()> {
    let all = store.list()?;
    let sum: u64 = all.iter().map(|s| s.bytes).sum();
    if as_json {
        let list: Vec<_> = all.iter().map(as_value).collect();
        return print_json(&json!({
            "folder": store.folder().display().to_string(),
            "bytes": sum,
            "sessions": list,
        }));
    }
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{:>10} {:>10} {:>14}  session",
        "tokens", "size", "unused for"
    )?;
    for session in &all {
        let (tokens, why) = match &session.tokens {
            Ok(tokens) => (tokens.to_string(), String::new()),
            Err(error) => (
                "?".to_owned(),
                format!("  ({})", one_line(&error.to_string())),
            ),
        };
        let size = ByteSize(session.bytes).to_string();
        writeln!(
            out,
            "{tokens:>10} {size:>10} {:>14}  {}{why}",
            ago(session.used),
            visible(&session.name)
        )?;
    }
    writeln!(
        out,
        "{} sessions, {} in {}",
        all.len(),
        ByteSize(sum),
        store.folder().display()
    )?;
    Ok(())
}

fn as_value(session: &Stored) -> serde_json::Value {
    let used = session.used.duration_since(UNIX_EPOCH).unwrap_or_default();
    json!({
        "name": session.name,
        "path": session.path.display().to_string(),
        "bytes": session.bytes,
        "tokens": session.tokens.as_ref().ok(),
        "error": session.tokens.as_ref().err().map(ToString::to_string),
        "used": used.as_secs(),
    })
}

/// How long ago that was.
fn ago(time: SystemTime) -> String {
    let seconds = SystemTime::now()
        .duration_since(time)
        .unwrap_or_default()
        .as_secs();
    let (n, unit) = match seconds {
        0..120 => (seconds, "seconds"),
        120..7200 => (seconds / 60, "minutes"),
        7200..172_800 => (seconds / 3600, "hours"),
        _ => (seconds / 86_400, "days"),
    };
    format!("{n} {unit}")
}
