//! Compares our logits with those that `llama-perplexity --kl-divergence-base`
//! wrote for the same GGUF file.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use v4_tests::numbers::{Numbers, argmax, log_softmax, mean};

/// Measures the mean KL divergence between llama.cpp's logits of a model and ours.
///
/// BASE is the file written by `llama-perplexity -m MODEL -f TEXT
/// --kl-divergence-base BASE`: the second half of each window. Uses the v4-run next to
/// this program.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Model file (GGUF)
    model: PathBuf,
    /// llama.cpp's log-probabilities for it
    base: PathBuf,
    /// Options of `v4-run logits`, such as --precision exact --kv f32
    #[arg(last = true)]
    options: Vec<String>,
    /// Fail if the mean divergence is not below NATS
    #[arg(long, value_name = "NATS", default_value_t = 0.01)]
    below: f64,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!(
                "v4-compare-logits: {}",
                v4_runtime::error_text(error.as_ref())
            );
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let name = args.base.display().to_string();
    let file = File::open(&args.base).with_context(|| name.clone())?;
    let mut base = Base::open(BufReader::new(file)).with_context(|| name.clone())?;
    let scratch = tempfile::tempdir()?;
    let mut divergences = Vec::new();
    let mut same_best = 0;
    for window in 0..base.windows {
        let tokens = &base.tokens[window * base.length..][..base.length];
        let ours = logits(&args.model, tokens, &args.options, scratch.path())?;
        let rows = ours.rows("logits");
        for row in &rows[base.length / 2..base.length - 1] {
            let theirs = base.next_row().with_context(|| name.clone())?;
            let ours = log_softmax(row);
            ensure!(
                theirs.len() == ours.len(),
                "{name}: its vocabulary is not the model's"
            );
            let kl = theirs.iter().zip(&ours).map(|(p, q)| p.exp() * (p - q));
            divergences.push(kl.sum::<f64>());
            let best = theirs.iter().map(|p| *p as f32).collect::<Vec<_>>();
            same_best += usize::from(argmax(&best) == argmax(row));
        }
    }
    let mean = mean(divergences.iter().copied());
    divergences.sort_by(f64::total_cmp);
    let count = divergences.len();
    println!(
        "{count} positions: mean KL {mean:.3e}, median {:.3e}, 99% {:.3e}, largest {:.3e}; \
         same best token {:.2}%",
        divergences[count / 2],
        divergences[count * 99 / 100],
        divergences[count - 1],
        100.0 * same_best as f64 / count as f64,
    );
    ensure!(
        mean < args.below,
        "mean KL {mean} is not below {}",
        args.below
    );
    Ok(())
}

/// llama.cpp's file: a head, all token ids, then a row per scored position.
struct Base<R> {
    input: R,
    /// Tokens in a window.
    length: usize,
    windows: usize,
    vocab: usize,
    tokens: Vec<u32>,
}

impl<R: Read> Base<R> {
    fn open(mut input: R) -> Result<Self> {
        let mut magic = [0; 8];
        input.read_exact(&mut magic)?;
        ensure!(&magic == b"_logits_", "not written by --kl-divergence-base");
        let length = number(&mut input)?;
        let vocab = number(&mut input)?;
        let windows = number(&mut input)?;
        ensure!(
            (4..1 << 20).contains(&length) && vocab < 1 << 20 && windows < 1 << 16,
            "{windows} windows of {length} tokens of {vocab}: impossible"
        );
        ensure!(
            windows > 0,
            "no window: the text is shorter than two windows"
        );
        let mut bytes = vec![0; 4 * length * windows];
        input.read_exact(&mut bytes)?;
        let words = bytes.as_chunks::<4>().0.iter();
        Ok(Self {
            input,
            length,
            windows,
            vocab,
            tokens: words.map(|w| u32::from_le_bytes(*w)).collect(),
        })
    }

    /// Log-probabilities: 16-bit codes times a scale, from a smallest value.
    fn next_row(&mut self) -> Result<Vec<f64>> {
        let codes = self.vocab.next_multiple_of(2);
        let mut bytes = vec![0; 8 + 2 * codes];
        self.input.read_exact(&mut bytes)?;
        let scale = f64::from(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
        let least = f64::from(f32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]));
        let codes = bytes[8..].as_chunks::<2>().0.iter().take(self.vocab);
        Ok(codes
            .map(|c| least + scale * f64::from(u16::from_le_bytes(*c)))
            .collect())
    }
}

fn number(input: &mut impl Read) -> Result<usize> {
    let mut bytes = [0; 4];
    input.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes) as usize)
}

fn logits(model: &Path, tokens: &[u32], options: &[String], scratch: &Path) -> Result<Numbers> {
    let (ids, out) = (scratch.join("ids"), scratch.join("logits.safetensors"));
    let words: Vec<String> = tokens.iter().map(u32::to_string).collect();
    std::fs::write(&ids, words.join(" "))?;
    let program = std::env::current_exe()?.with_file_name("v4-run");
    let status = Command::new(&program)
        .args(["logits".as_ref(), model.as_os_str(), "--quiet".as_ref()])
        .args([
            OsStr::new("--ids"),
            ids.as_os_str(),
            "--out".as_ref(),
            out.as_os_str(),
        ])
        .args(options)
        .status()
        .with_context(|| format!("{}: cannot start; build the workspace", program.display()))?;
    ensure!(status.success(), "v4-run ended with {status}");
    Ok(Numbers::read(&out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_file_reads_back() {
        let mut bytes = b"_logits_".to_vec();
        for n in [4u32, 3, 1, 7, 8, 9, 10] {
            bytes.extend(n.to_le_bytes());
        }
        bytes.extend(0.5f32.to_le_bytes());
        bytes.extend((-3f32).to_le_bytes());
        for code in [0u16, 2, 6, 0] {
            bytes.extend(code.to_le_bytes());
        }
        let mut base = Base::open(&bytes[..]).unwrap();
        assert_eq!((base.length, base.windows), (4, 1));
        assert_eq!(base.tokens, [7, 8, 9, 10]);
        assert_eq!(base.next_row().unwrap(), [-3.0, -2.0, 0.0]);
        assert!(base.next_row().is_err());
        assert!(Base::open(&b"something else"[..]).is_err());
    }
}
