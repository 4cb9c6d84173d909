//! `v4-run perplexity`: measures how well the model predicts a text.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;
use v4_runtime::{EngineError, Session, Want};
use v4_tokenizer::Marks;

use super::{print_json, read_text};
use crate::args::EngineArgs;
use crate::args::values::positive;
use crate::interrupt::{self, Busy, EXIT_INTERRUPTED};
use crate::model;
use crate::output::Notes;

/// Arguments of `perplexity`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  v4-run perplexity model.gguf book.txt
  v4-run perplexity model.gguf book.txt --tokens 20000 --window 4096 --json

Method: the text is tokenized once, with marks as plain text, and split into pieces
of WINDOW-1 tokens. Each piece is read by itself after a begin-of-sentence token, and
the negative log-likelihood (natural logarithm) of each of its tokens is added up,
except for the first SKIP. nll is the mean, ppl is exp(nll), and the figure after ±
is one standard error of the mean, carried over to ppl. With --skip WINDOW/2, which
skips the first half of each window, results come close to llama-perplexity's.")]
pub struct PerplexityArgs {
    /// Model file (GGUF)
    pub model: PathBuf,
    /// Text file (UTF-8)
    pub file: PathBuf,
    /// Read only the first N tokens of the text
    #[arg(long, value_name = "N", value_parser = positive)]
    pub tokens: Option<usize>,
    /// Tokens per window, including the begin-of-sentence token
    #[arg(long, visible_alias = "ctx", value_name = "N", default_value = "2048", value_parser = at_least_two)]
    pub window: usize,
    /// Do not score the first N text tokens of each window
    #[arg(long, value_name = "N", default_value = "0")]
    pub skip: usize,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Do not print progress to standard error
    #[arg(short, long)]
    pub quiet: bool,
    /// Engine.
    #[command(flatten)]
    pub engine: EngineArgs,
}

fn at_least_two(text: &str) -> Result<usize, String> {
    match positive(text)? {
        1 => Err("must be at least 2".into()),
        n => Ok(n),
    }
}

/// Runs the command.
pub fn run(args: PerplexityArgs) -> anyhow::Result<ExitCode> {
    let notes = Notes::new(args.quiet);
    model::check_is_file(&args.model)?;
    let text = read_text(&args.file)?;
    let engine = model::open(&args.model, &args.engine, Some(args.window), notes)?;
    let tokenizer = engine.tokenizer();
    let bos = tokenizer.bos().with_context(|| {
        format!(
            "{}: the tokenizer has no begin-of-sentence token",
            args.model.display()
        )
    })?;
    let mut ids = tokenizer.encode(&text, Marks::Plain)?;
    if let Some(tokens) = args.tokens {
        ids.truncate(tokens);
    }
    // No window needs to be longer than the text and its first token.
    let window = args.window.min(ids.len() + 1);
    if args.skip >= window - 1 {
        bail!(
            "{}: {} tokens in windows of {} leave none to score with --skip {}; use a smaller --skip",
            args.file.display(),
            ids.len(),
            args.window,
            args.skip
        );
    }

    let mut session = model::session(&engine, window)?;
    let chunk = engine.plan().chunk.min(window).min(Session::DEFAULT_CHUNK);
    let bar = notes.bar("scoring", ids.len());
    let busy = Busy::start()?;
    let started = Instant::now();
    let mut score = Score::default();
    for piece in ids.chunks(window - 1) {
        session.reset();
        let done = &mut |tokens| bar.inc(tokens);
        match score_window(&mut session, bos, piece, chunk, args.skip, &mut score, done) {
            Err(EngineError::Cancelled) => break,
            other => other?,
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let cut = interrupt::requested();
    drop(busy);
    bar.finish_and_clear();

    if score.count == 0 {
        bail!("interrupted before any token was scored");
    }
    report(&args, &score, window, seconds, cut)?;
    Ok(if cut {
        ExitCode::from(EXIT_INTERRUPTED)
    } else {
        ExitCode::SUCCESS
    })
}

fn report(
    args: &PerplexityArgs,
    score: &Score,
    window: usize,
    seconds: f64,
    cut: bool,
) -> anyhow::Result<()> {
    let (nll, ppl) = (score.mean(), score.mean().exp());
    let (nll_error, ppl_error) = (score.error(), score.error() * ppl);
    if args.json {
        return print_json(&json!({
            "nll": nll,
            "nll_stderr": nll_error,
            "ppl": ppl,
            "ppl_stderr": ppl_error,
            "tokens": score.count,
            "window": window,
            "skip": args.skip,
            "seconds": seconds,
            "complete": !cut,
        }));
    }
    let mut out = io::stdout().lock();
    writeln!(out, "nll    {nll:.5} ± {nll_error:.5}")?;
    writeln!(out, "ppl    {ppl:.4} ± {ppl_error:.4}")?;
    let part = if cut { " (interrupted)" } else { "" };
    writeln!(out, "tokens {} in windows of {window}{part}", score.count)?;
    writeln!(
        out,
        "time   {seconds:.1} s, {:.1} tokens/s",
        score.read as f64 / seconds.max(1e-9)
    )?;
    out.flush()?;
    Ok(())
}

/// Reads one window and adds the log-likelihoods of its tokens after `skip`.
fn score_window(
    session: &mut Session,
    bos: u32,
    piece: &[u32],
    chunk: usize,
    skip: usize,
    score: &mut Score,
    done: &mut dyn FnMut(u64),
) -> Result<(), EngineError> {
    // Position i predicts piece[i]: the last token itself is never read.
    let inputs: Vec<u32> = std::iter::once(bos)
        .chain(piece.iter().copied().take(piece.len() - 1))
        .collect();
    for (n, (inputs, targets)) in inputs.chunks(chunk).zip(piece.chunks(chunk)).enumerate() {
        if interrupt::requested() {
            return Err(EngineError::Cancelled);
        }
        let logits = session.append(inputs, Want::All)?;
        for (i, &target) in targets.iter().enumerate() {
            if n * chunk + i >= skip {
                score.add(negative_log_likelihood(logits.row(i), target));
            }
        }
        score.read += inputs.len();
        done(inputs.len() as u64);
    }
    Ok(())
}

/// -ln softmax(logits)[target], in f64.
fn negative_log_likelihood(logits: &[f32], target: u32) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from(x - max).exp()).sum();
    // A tokenizer may be larger than the model's vocabulary; such a token has
    // no probability. The engine refuses it as input before it gets here twice.
    let target = logits
        .get(target as usize)
        .copied()
        .unwrap_or(f32::NEG_INFINITY);
    sum.ln() - f64::from(target - max)
}

/// Running mean and variance (Welford).
#[derive(Debug, Default)]
struct Score {
    count: u64,
    mean: f64,
    squares: f64,
    read: usize,
}

impl Score {
    fn add(&mut self, value: f64) {
        self.count += 1;
        let from_old = value - self.mean;
        self.mean += from_old / self.count as f64;
        self.squares += from_old * (value - self.mean);
    }

    fn mean(&self) -> f64 {
        self.mean
    }

    /// Standard error of the mean; 0 for a single token.
    fn error(&self) -> f64 {
        if self.count < 2 {
            return 0.0;
        }
        let n = self.count as f64;
        (self.squares / (n - 1.0) / n).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likelihood_of_even_logits_is_one_in_n() {
        let nll = negative_log_likelihood(&[3.0; 8], 5);
        assert!((nll - 8f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn likelihood_survives_huge_logits() {
        let nll = negative_log_likelihood(&[1e30, -1e30], 0);
        assert_eq!(nll, 0.0);
    }

    #[test]
    fn a_token_beyond_the_vocabulary_is_impossible() {
        assert_eq!(negative_log_likelihood(&[0.0; 4], 4), f64::INFINITY);
    }

    #[test]
    fn error_is_that_of_the_mean() {
        let mut score = Score::default();
        for x in [1.0, 2.0, 3.0, 4.0] {
            score.add(x);
        }
        assert_eq!(score.mean(), 2.5);
        let expected = (5.0f64 / 3.0 / 4.0).sqrt();
        assert!((score.error() - expected).abs() < 1e-12);
    }
}
