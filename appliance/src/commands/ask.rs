//! `v4-run MODEL -p PROMPT`: one prompt, one answer.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use v4_chat::Turn;

use super::one_shot::OneShot;
use super::prompt_text;
use crate::args::{GenerationArgs, Missing, PromptArgs};
use crate::detokenizer::Detokenizer;
use crate::output::Notes;
use crate::session_files::SessionFiles;
use crate::{conversation, model, options};

/// Arguments of the main form.
#[derive(Debug, Args)]
pub struct AskArgs {
    /// Model file (GGUF)
    pub model: Option<PathBuf>,
    /// Prompt [default: standard input, if it is not a terminal]
    #[arg(short, long, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// Print one JSON object at the end instead of streaming text
    #[arg(long)]
    pub json: bool,
    /// Do not print progress or statistics to standard error
    #[arg(short, long)]
    pub quiet: bool,
    /// The chat prompt around it.
    #[command(flatten)]
    pub chat: PromptArgs,
    /// How text is generated.
    #[command(flatten)]
    pub generation: GenerationArgs,
}

/// Runs the command.
pub fn run(args: AskArgs) -> anyhow::Result<ExitCode> {
    let Some(path) = &args.model else {
        bail!(Missing("name the model file: v4-run MODEL -p \"…\""));
    };
    let notes = Notes::new(args.quiet);
    model::check_is_file(path)?;
    let Some(text) = prompt_text(args.prompt)? else {
        bail!(Missing(
            "give the prompt with -p \"…\" or on standard input, or use v4-run chat MODEL"
        ));
    };

    // `echo …` and editors end a text with a newline that nobody means to say.
    let text = text.strip_suffix('\n').unwrap_or(&text).to_owned();
    if text.is_empty() {
        bail!("the prompt is empty");
    }

    let engine = model::open_to_generate(path, &args.generation, notes)?;
    let tokenizer = engine.tokenizer();
    let mut conversation = conversation::new(&engine, options::thinking(&args.chat))?;
    conversation
        .turns
        .extend(args.chat.system.map(Turn::System));
    conversation.turns.push(Turn::User(text));
    let ids = conversation.render(tokenizer)?.ids;
    let detokenizer = Detokenizer::chat(
        conversation.reply_parser(tokenizer),
        &args.generation.length.stop,
    );
    OneShot {
        args: &args.generation,
        sessions: &SessionFiles::new(&args.generation.sessions)?,
        session: args.generation.sessions.session.as_deref(),
        json: args.json,
        raw: false,
        notes,
    }
    .run(&engine, &ids, detokenizer)
}
