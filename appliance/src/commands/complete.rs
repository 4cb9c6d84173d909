//! `v4-run complete`: continues raw text, or fills the gap between two files.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use v4_tokenizer::{Marks, Tokenizer};

use super::one_shot::OneShot;
use super::{prompt_text, read_text};
use crate::args::{GenerationArgs, Missing};
use crate::detokenizer::Detokenizer;
use crate::model;
use crate::output::Notes;
use crate::session_files::SessionFiles;

/// Arguments of `complete`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  v4-run complete model.gguf -p \"Once upon a time\" -n 100
  v4-run complete model.gguf < story.txt
  v4-run complete model.gguf --prefix before.rs --suffix after.rs --temp 0

The model gets the text as is, after the begin-of-sentence token. Marks such as
<think> in it are plain text unless --marks is given.")]
pub struct CompleteArgs {
    /// Model file (GGUF)
    pub model: PathBuf,
    /// Text to continue [default: standard input]
    #[arg(short, long, value_name = "TEXT", conflicts_with_all = ["prefix", "suffix"])]
    pub prompt: Option<String>,
    /// Fill in the middle: file with the text before the gap
    #[arg(long, value_name = "FILE", requires = "suffix")]
    pub prefix: Option<PathBuf>,
    /// Fill in the middle: file with the text after the gap
    #[arg(long, value_name = "FILE", requires = "prefix")]
    pub suffix: Option<PathBuf>,
    /// Read the tokenizer's marks, such as <think>, as the tokens they name
    #[arg(long, conflicts_with_all = ["prefix", "suffix"])]
    pub marks: bool,
    /// Print one JSON object at the end instead of streaming text
    #[arg(long)]
    pub json: bool,
    /// Do not print progress or statistics to standard error
    #[arg(short, long)]
    pub quiet: bool,
    /// How text is generated.
    #[command(flatten)]
    pub generation: GenerationArgs,
}

/// The marks of fill-in-the-middle prompts (architecture.md, section 5): begin,
/// text before, hole, text after, end.
const FIM_BEGIN: &str = "<｜fim▁begin｜>";
const FIM_HOLE: &str = "<｜fim▁hole｜>";
const FIM_END: &str = "<｜fim▁end｜>";

/// What to continue from.
enum Source {
    Text { text: String, marks: Marks },
    Gap { before: String, after: String },
}

/// Runs the command.
pub fn run(args: CompleteArgs) -> anyhow::Result<ExitCode> {
    let notes = Notes::new(args.quiet);
    model::check_is_file(&args.model)?;
    let source = match (&args.prefix, &args.suffix) {
        (Some(before), Some(after)) => Source::Gap {
            before: read_text(before)?,
            after: read_text(after)?,
        },
        _ => match prompt_text(args.prompt)? {
            Some(text) => Source::Text {
                text,
                marks: if args.marks {
                    Marks::Parse
                } else {
                    Marks::Plain
                },
            },
            None => {
                bail!(Missing(
                    "give the text with -p \"…\", on standard input, or as --prefix and --suffix files"
                ));
            }
        },
    };

    let engine = model::open_to_generate(&args.model, &args.generation, notes)?;
    let tokenizer = engine.tokenizer();
    let ids = encode(tokenizer, &source).with_context(|| args.model.display().to_string())?;

    OneShot {
        args: &args.generation,
        sessions: &SessionFiles::new(&args.generation.sessions)?,
        session: args.generation.sessions.session.as_deref(),
        json: args.json,
        raw: true,
        notes,
    }
    .run(
        &engine,
        &ids,
        Detokenizer::raw(tokenizer, &args.generation.length.stop),
    )
}

fn encode(tokenizer: &Tokenizer, source: &Source) -> anyhow::Result<Vec<u32>> {
    let bos = tokenizer.bos().context(
        "the tokenizer has no begin-of-sentence token, so the model cannot continue text",
    )?;
    let mut ids = vec![bos];
    match source {
        Source::Text { text, marks } => ids.extend(tokenizer.encode(text, *marks)?),
        Source::Gap { before, after } => {
            ids.push(fim_mark(tokenizer, FIM_BEGIN)?);
            ids.extend(tokenizer.encode(before, Marks::Plain)?);
            ids.push(fim_mark(tokenizer, FIM_HOLE)?);
            ids.extend(tokenizer.encode(after, Marks::Plain)?);
            ids.push(fim_mark(tokenizer, FIM_END)?);
        }
    }
    Ok(ids)
}

fn fim_mark(tokenizer: &Tokenizer, mark: &str) -> anyhow::Result<u32> {
    tokenizer.mark(mark).with_context(|| {
        format!("the tokenizer has no {mark}, so the model cannot fill in the middle")
    })
}
