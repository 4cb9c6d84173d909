//! One module per command, and code shared by several of them.

pub mod ask;
pub mod bench;
pub mod chat;
pub mod client_config;
pub mod complete;
pub mod doctor;
pub mod logits;
pub mod perplexity;
pub mod plan;
pub mod render;
pub mod repo;
pub mod selftest;
pub mod serve;
pub mod sessions;
pub mod tokenize;
pub mod verify;

mod one_shot;
mod vocabulary;

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;

use anyhow::{Context, anyhow, bail};

/// Longest text read from a file or standard input, in bytes.
const MAX_TEXT: u64 = 1 << 30;

/// Reads a text file.
fn read_text(path: &Path) -> anyhow::Result<String> {
    let name = path.display().to_string();
    let file = File::open(path).with_context(|| name.clone())?;
    read_utf8(file, &name)
}

/// The `--prompt`, or standard input. `None` when there is neither: nobody
/// means to type a prompt into a terminal that does not ask for one.
fn prompt_text(given: Option<String>) -> anyhow::Result<Option<String>> {
    if given.is_some() {
        return Ok(given);
    }
    if io::stdin().is_terminal() {
        return Ok(None);
    }
    read_utf8(io::stdin().lock(), "standard input").map(Some)
}

fn read_utf8(from: impl Read, name: &str) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    from.take(MAX_TEXT + 1)
        .read_to_end(&mut bytes)
        .with_context(|| name.to_owned())?;
    if bytes.len() as u64 > MAX_TEXT {
        bail!("{name}: larger than {MAX_TEXT} bytes; give a shorter text");
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        anyhow!("{name}: byte {at} is not UTF-8; convert the text to UTF-8 first")
    })
}

/// Prints a JSON value on a line of its own.
fn print_json(value: &serde_json::Value) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, value).map_err(io::Error::from)?;
    out.write_all(b"\n")?;
    out.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_is_not_utf8_is_refused_by_name_and_place() {
        let error = read_utf8(&b"ab\xff"[..], "x.txt").unwrap_err().to_string();
        assert!(error.starts_with("x.txt: byte 2 "), "{error}");
    }
}
