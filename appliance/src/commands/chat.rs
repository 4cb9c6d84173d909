//! `v4-run chat`: a conversation.

mod args;
mod input;
mod lines;
mod slash;
mod talk;

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use anyhow::bail;

use crate::model;
use crate::output::{Notes, is_broken_pipe, print_error};
pub use args::ChatArgs;
use input::{Input, read};
use lines::{Lines, Piped, Typed};
use slash::Slash;
use talk::Talk;

/// Whether the conversation continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Go,
    Leave,
}

/// Runs the command. On a terminal, an error ends a turn and is shown; in a
/// script it ends the program, because nobody is there to react.
pub fn run(args: ChatArgs) -> anyhow::Result<ExitCode> {
    let notes = Notes::new(args.quiet);
    let engine = model::open_to_generate(&args.model, &args.generation, notes)?;
    let typed = io::stdin().is_terminal() && io::stdout().is_terminal();
    let mut talk = Talk::new(&engine, &args, notes)?;
    let mut lines: Box<dyn Lines> = if typed {
        notes.line(&talk.greeting());
        Box::new(Typed::open(!args.no_history, notes)?)
    } else {
        Box::new(Piped::new(io::stdin().lock()))
    };

    let mut interrupts = 0;
    loop {
        let input = read(lines.as_mut())?;
        interrupts = match input {
            Input::Interrupted => interrupts + 1,
            _ => 0,
        };
        let done = match input {
            Input::End => Ok(Next::Leave),
            Input::Interrupted if interrupts >= 2 => Ok(Next::Leave),
            Input::Interrupted => {
                notes.line("(Ctrl-C again or Ctrl-D leaves)");
                Ok(Next::Go)
            }
            Input::Nothing => Ok(Next::Go),
            Input::Message(text) => talk.answer(text).map(|()| Next::Go),
            Input::Command(text) => obey(&mut talk, &text),
        };
        match done {
            Ok(Next::Go) => {}
            Ok(Next::Leave) => return Ok(ExitCode::SUCCESS),
            Err(error) if typed && !is_broken_pipe(&error) => {
                print_error(&error);
            }
            Err(error) => return Err(error),
        }
    }
}

fn obey(talk: &mut Talk<'_>, text: &str) -> anyhow::Result<Next> {
    match slash::parse(text) {
        Ok(Slash::Quit) => return Ok(Next::Leave),
        Ok(command) => talk.obey(command)?,
        Err(what) => bail!("{what}"),
    }
    Ok(Next::Go)
}
