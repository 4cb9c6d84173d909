//! `v4-run tokenize`: the token ids of a text. Its interface is stable, for people who
//! verify this program.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use v4_tokenizer::Marks;

use super::vocabulary;

/// Arguments of `v4-run tokenize`.
#[derive(Debug, Args)]
pub struct TokenizeArgs {
    /// GGUF file or tokenizer.json
    #[arg(value_name = "MODEL|tokenizer.json")]
    pub model: PathBuf,
    /// Treat marks in the text, such as <think>, as plain text
    #[arg(long)]
    pub plain: bool,
    /// Print a JSON array
    #[arg(long)]
    pub json: bool,
}

/// Reads text on standard input and prints its ids.
pub fn run(args: TokenizeArgs) -> anyhow::Result<ExitCode> {
    tokenize(&args, io::stdin().lock(), io::stdout().lock())
}

fn tokenize(
    args: &TokenizeArgs,
    input: impl Read,
    mut output: impl Write,
) -> anyhow::Result<ExitCode> {
    // The model first: a missing file should be reported before anybody types a text.
    let tokenizer = vocabulary::load(&args.model)?.tokenizer;
    let text = super::read_utf8(input, "standard input")?;
    let marks = if args.plain {
        Marks::Plain
    } else {
        Marks::Parse
    };
    let ids = tokenizer.encode(&text, marks).context("standard input")?;
    if args.json {
        serde_json::to_writer(&mut output, &ids).map_err(io::Error::from)?;
    } else {
        for (i, id) in ids.iter().enumerate() {
            let space = if i == 0 { "" } else { " " };
            write!(output, "{space}{id}")?;
        }
    }
    output.write_all(b"\n")?;
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(plain: bool, json: bool, text: &[u8]) -> anyhow::Result<String> {
        let args = TokenizeArgs {
            model: vocabulary::tests::tiny(),
            plain,
            json,
        };
        let mut out = Vec::new();
        tokenize(&args, text, &mut out)?;
        Ok(String::from_utf8(out)?)
    }

    #[test]
    fn ids_are_on_one_line_or_a_json_array() {
        let line = ids(false, false, "hi\n<think>".as_bytes()).unwrap();
        let numbers: Vec<u32> = line
            .trim_end()
            .split(' ')
            .map(|n| n.parse().unwrap())
            .collect();
        assert_eq!(numbers.last(), Some(&4072));
        let json = ids(false, true, "hi\n<think>".as_bytes()).unwrap();
        assert_eq!(serde_json::from_str::<Vec<u32>>(&json).unwrap(), numbers);
        let plain = ids(true, true, "hi\n<think>".as_bytes()).unwrap();
        assert!(!plain.contains("4072"));
        assert_eq!(ids(false, false, b"").unwrap(), "\n");
        assert_eq!(ids(false, true, b"").unwrap(), "[]\n");
    }

    #[test]
    fn text_that_is_not_utf8_is_refused() {
        assert!(ids(false, false, b"\xff").is_err());
    }

    #[test]
    fn a_missing_model_is_named_in_one_line() {
        let args = TokenizeArgs {
            model: "/no/such/model.gguf".into(),
            plain: false,
            json: false,
        };
        let error = tokenize(&args, io::empty(), io::sink()).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.starts_with("/no/such/model.gguf: "), "{text}");
        assert!(!text.contains('\n'));
    }
}
