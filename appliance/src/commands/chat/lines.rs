//! The source of input lines: a user at a terminal, or a script.

use std::fs::OpenOptions;
use std::io::{self, BufRead, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rustyline::config::Config;
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{Cmd, Editor, KeyCode, KeyEvent, Modifiers};
use v4_runtime::error_text;

use crate::folders::{private_folder, state_folder};
use crate::output::Notes;

/// Longest input line in bytes.
const MAX_LINE: u64 = 16 << 20;

/// Lines kept in the history file.
const MAX_HISTORY: usize = 2000;

/// A line, or why there is none.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// Without its newline.
    Text(String),
    /// Ctrl-C.
    Interrupted,
    /// No more lines.
    End,
}

/// A source of lines.
pub trait Lines {
    /// The next line; `first` if it begins a message.
    fn line(&mut self, first: bool) -> anyhow::Result<Line>;
    /// Remembers a whole message or command for the arrow keys.
    fn remember(&mut self, _entry: &str) {}
}

/// Lines of a file or pipe.
pub struct Piped<R> {
    from: R,
    number: usize,
}

impl<R: BufRead> Piped<R> {
    /// Reads from there.
    pub fn new(from: R) -> Self {
        Piped { from, number: 0 }
    }
}

impl<R: BufRead> Lines for Piped<R> {
    fn line(&mut self, _: bool) -> anyhow::Result<Line> {
        let mut bytes = Vec::new();
        self.number += 1;
        let read = (&mut self.from)
            .take(MAX_LINE + 1)
            .read_until(b'\n', &mut bytes)
            .context("standard input")?;
        if read == 0 {
            return Ok(Line::End);
        }
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        } else if bytes.len() as u64 > MAX_LINE {
            bail!(
                "standard input: line {} exceeds {MAX_LINE} bytes; split it",
                self.number
            );
        }
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Line::Text(text)),
            Err(_) => bail!("standard input: line {} is not UTF-8", self.number),
        }
    }
}

/// Lines typed at a terminal, with editing and a history.
pub struct Typed {
    editor: Editor<(), DefaultHistory>,
    history: Option<PathBuf>,
    notes: Notes,
}

impl Typed {
    /// Opens the terminal, and the history of earlier sessions if wanted.
    pub fn open(with_history: bool, notes: Notes) -> anyhow::Result<Self> {
        let config = Config::builder()
            .max_history_size(MAX_HISTORY)?
            .auto_add_history(false)
            .build();
        let mut editor = Editor::with_config(config).context("cannot use the terminal")?;
        editor.bind_sequence(KeyEvent(KeyCode::Enter, Modifiers::ALT), Cmd::Newline);
        let mut this = Typed {
            editor,
            history: None,
            notes,
        };
        if with_history {
            this.open_history();
        }
        Ok(this)
    }

    /// A history that cannot be had costs convenience, not the conversation.
    fn open_history(&mut self) {
        let opened = history_path()
            .context("neither XDG_STATE_HOME nor HOME is set")
            .and_then(|path| {
                create_private(&path).with_context(|| path.display().to_string())?;
                self.editor.load_history(&path)?;
                Ok(path)
            });
        match opened {
            Ok(path) => self.history = Some(path),
            Err(e) => {
                let why = error_text(e.as_ref());
                self.notes.line(&format!("v4-run: no input history: {why}"));
            }
        }
    }
}

impl Lines for Typed {
    fn line(&mut self, first: bool) -> anyhow::Result<Line> {
        match self.editor.readline(if first { "> " } else { "… " }) {
            Ok(text) => Ok(Line::Text(text)),
            Err(ReadlineError::Interrupted) => Ok(Line::Interrupted),
            Err(ReadlineError::Eof) => Ok(Line::End),
            Err(ReadlineError::Io(e)) => Err(e).context("terminal"),
            Err(e) => Err(e).context("terminal"),
        }
    }

    fn remember(&mut self, entry: &str) {
        let added = self.editor.add_history_entry(entry);
        let saved = match (&self.history, added) {
            (Some(path), Ok(true)) => self.editor.append_history(path),
            (_, added) => added.map(|_| ()),
        };
        if let Err(e) = saved {
            self.notes
                .line(&format!("v4-run: input history not saved: {e}"));
            self.history = None;
        }
    }
}

/// `$XDG_STATE_HOME/v4-run/history`, by default under `~/.local/state`.
fn history_path() -> Option<PathBuf> {
    Some(state_folder()?.join("history"))
}

/// Prompts are private: the folder is its owner's alone, and so is the file
/// before anything is in it.
fn create_private(path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        private_folder(folder)?;
    }
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn lines_lose_either_kind_of_ending() {
        let mut lines = Piped::new(&b"a\r\nb\n\nc"[..]);
        let mut next = || lines.line(true).unwrap();
        for expected in ["a", "b", "", "c"] {
            assert_eq!(next(), Line::Text(expected.into()));
        }
        assert_eq!(next(), Line::End);
    }

    #[test]
    fn a_line_that_is_not_utf8_is_named() {
        let mut lines = Piped::new(&b"a\n\xff\n"[..]);
        lines.line(true).unwrap();
        let error = lines.line(true).unwrap_err().to_string();
        assert!(error.contains("line 2 is not UTF-8"), "{error}");
    }

    #[test]
    fn the_history_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v4-run/history");
        create_private(&path).unwrap();
        let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        create_private(&path).unwrap();
    }
}
