//! `v4-run complete`: continues raw text, or fills the gap between two files.

use std::process::ExitCode;

use anyhow::Context;
use v4_tokenizer::{Marks, Tokenizer};

use super::answer::Request;
use super::{prompt_text, read_text};
use crate::cli::{self, CompleteArgs};
use crate::model;
use crate::output::Notes;
use crate::reply::Reply;
use crate::saved::Sessions;

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
                return cli::usage_error(
                    "give the text with -p \"…\", on standard input, or as --prefix and --suffix files",
                );
            }
        },
    };

    let engine = model::open(&args.model, &args.engine, args.length.ctx, notes)?;
    let tokenizer = engine.tokenizer();
    let ids = encode(tokenizer, &source).with_context(|| args.model.display().to_string())?;

    Request {
        length: &args.length,
        sampling: &args.sampling,
        sessions: &Sessions::new(&args.keep)?,
        session: args.keep.session.as_deref(),
        engine: &args.engine,
        json: args.json,
        raw: true,
        notes,
    }
    .run(&engine, &ids, Reply::raw(tokenizer, &args.length.stop))
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
