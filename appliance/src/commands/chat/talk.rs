//! The state of a conversation and what happens in a turn.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use serde_json::{Value, json};
use v4_chat::{Conversation, Turn, continuing};
use v4_runtime::generation::{
    DraftCounts, Drafting, Finish, ModelDrafting, Sampler, SamplerOptions, Speculation,
};
use v4_runtime::{Engine, Session};

use super::args::ChatArgs;
use super::slash::{HELP, Slash};
use crate::detokenizer::{self, Detokenizer};
use crate::generation::{Limits, Outcome, Sampled, statistics, warn_of_drafts};
use crate::interrupt::Busy;
use crate::options::Thinking;
use crate::output::{AnswerWriter, Notes};
use crate::session_files::{SessionFile, SessionFiles};
use crate::{conversation, model, options};

/// A conversation.
pub struct Talk<'a> {
    engine: &'a Arc<Engine>,
    session: Session,
    system: Option<String>,
    conversation: Conversation,
    thinking: Thinking,
    sampling: SamplerOptions,
    sampler: Sampler,
    drafting: Option<ModelDrafting>,
    limits: Limits,
    stops: Vec<String>,
    last: Option<Outcome>,
    /// What drafts did in the last turn.
    drafts: Option<DraftCounts>,
    file: Option<SessionFile>,
    notes: Notes,
}

impl<'a> Talk<'a> {
    /// Nothing said yet.
    pub fn new(engine: &'a Arc<Engine>, args: &ChatArgs, notes: Notes) -> anyhow::Result<Self> {
        let model_max = engine.config().context_length;
        let context = model::context(args.generation.length.ctx, 0, None, model_max);
        let thinking = options::thinking(&args.chat);
        let sampling = options::sampler(&args.generation.sampling);
        let file = match &args.generation.sessions.session {
            Some(name) => Some(SessionFiles::new(&args.generation.sessions)?.open(engine, name)?),
            None => None,
        };
        let session = match &file {
            Some(file) => file.whole(engine, context)?,
            None => model::session(engine, context)?,
        };
        let mut system = args.chat.system.clone();
        let mut conversation = conversation::new(engine, thinking)?;
        if let Some(said) = file
            .as_ref()
            .map(SessionFile::read_conversation)
            .transpose()?
            .flatten()
        {
            let mut turns = turns(&said)
                .context("the session's conversation is damaged; use another session")?;
            if let Some(Turn::System(text)) = turns.first() {
                let text = text.clone();
                turns.remove(0);
                system = system.or(Some(text));
            }
            conversation.turns = turns;
        }
        Ok(Talk {
            engine,
            session,
            system,
            conversation,
            file,
            thinking,
            sampler: Sampler::new(sampling.clone())?,
            sampling,
            drafting: options::drafting(&args.generation.drafts),
            limits: Limits {
                max_tokens: args.generation.length.max_tokens,
                eos: engine.tokenizer().eos(),
                model_max,
                stop_loops: args.generation.length.stop_loops,
            },
            stops: args.generation.length.stop.clone(),
            last: None,
            drafts: None,
            notes,
        })
    }

    /// The first line somebody sees.
    pub fn greeting(&self) -> String {
        let path = self.engine.path().display().to_string();
        let name = self.engine.config().name.clone().unwrap_or(path);
        let before = match self.conversation.turns.len() {
            0 => String::new(),
            n => format!(", {n} earlier messages"),
        };
        format!(
            "{name}, context {}{before}. /help lists commands, Ctrl-D leaves.",
            self.session.context()
        )
    }

    /// Says `text` to the model and streams its answer. A turn that fails or is
    /// stopped before the answer has begun leaves no trace in the conversation.
    pub fn answer(&mut self, text: String) -> anyhow::Result<()> {
        self.conversation.turns.push(Turn::User(text));
        let done = self.turn();
        let answered = matches!(&done, Ok((_, Some(_))));
        if !answered {
            self.conversation.turns.pop();
        }
        let (outcome, said) = done?;
        self.conversation.turns.extend(said);
        self.say_how_it_ended(&outcome, answered);
        self.last = Some(outcome);
        self.save_session()
    }

    /// Writes the session and what was said, if they are kept.
    fn save_session(&mut self) -> anyhow::Result<()> {
        let messages = self.messages();
        if let Some(file) = &mut self.file {
            self.session.save(&mut file.log)?;
            file.write_conversation(&messages)?;
            file.make_room(self.notes)?;
        }
        Ok(())
    }

    /// The conversation as the chat completions protocol writes it.
    fn messages(&self) -> Value {
        let messages: Vec<Value> = self.whole().turns.iter().map(as_json).collect();
        json!({"messages": messages})
    }

    /// Runs the model on the conversation; returns what it did, and its turn
    /// unless the answer had not begun.
    fn turn(&mut self) -> anyhow::Result<(Outcome, Option<Turn>)> {
        let tokenizer = self.engine.tokenizer();
        let rendered = self.whole().render(tokenizer)?;
        let ids = continuing(tokenizer, self.session.tokens(), rendered)?;
        self.limits
            .check_room(self.session.context(), ids.len())
            .map_err(|e| anyhow!("{e}; use /reset to start over"))?;
        let mut detokenizer =
            Detokenizer::chat(self.conversation.reply_parser(tokenizer), &self.stops);
        let mut answer = AnswerWriter::stdout();
        let drafting = self.drafting.as_ref();
        let mut drafts = drafting.map(|drafting| drafting.begin(self.engine));
        let mut model = Sampled {
            session: &mut self.session,
            sampler: &mut self.sampler,
            drafts: drafts.as_mut(),
            log: self.file.as_mut().map(|file| &mut file.log),
        };
        let busy = Busy::start()?;
        let outcome = detokenizer::stream(
            &mut model,
            &ids,
            self.limits,
            self.notes,
            &mut detokenizer,
            Some(&mut answer),
        );
        drop(busy);
        answer.end()?;
        self.drafts = drafts.as_ref().map(Speculation::counts);
        warn_of_drafts(drafts.as_ref(), self.notes);
        let outcome = outcome?;
        let said = (!detokenizer.content().is_empty()).then(|| Turn::Assistant {
            reasoning: (!detokenizer.reasoning().is_empty())
                .then(|| detokenizer.reasoning().to_owned()),
            answer: detokenizer.content().to_owned(),
        });
        Ok((outcome, said))
    }

    /// The conversation with the system message in front.
    fn whole(&self) -> Conversation {
        let mut whole = self.conversation.clone();
        let system = self.system.clone().map(Turn::System);
        whole.turns.splice(0..0, system);
        whole
    }

    fn say_how_it_ended(&self, outcome: &Outcome, answered: bool) {
        let context = self.session.context();
        match outcome.finish {
            Finish::Interrupted => self.notes.line("(stopped)"),
            Finish::Loop => self.notes.line("(stopped: the answer loops)"),
            Finish::ContextFull => self.notes.line(&format!(
                "(the context of {context} tokens is full: use /reset to start over, or a larger --ctx)"
            )),
            _ => {}
        }
        if !answered {
            self.notes.line("(no answer: your message was dropped)");
        }
    }

    /// Carries out a command that does not leave.
    pub fn obey(&mut self, command: Slash) -> anyhow::Result<()> {
        let said = match command {
            Slash::Help => HELP.to_owned(),
            Slash::Quit => return Ok(()),
            Slash::Reset => {
                self.conversation.turns.clear();
                self.session.reset();
                self.save_session()?;
                "(forgotten)".to_owned()
            }
            Slash::Think(given) => {
                if let Some(thinking) = given {
                    self.thinking = thinking;
                    self.conversation.thinking = thinking.on;
                    self.conversation.effort = conversation::effort(thinking);
                }
                self.describe_thinking()
            }
            Slash::System(given) => {
                if let Some(system) = given {
                    self.system = system;
                }
                match &self.system {
                    Some(text) => format!("(system: {text})"),
                    None => "(no system message)".to_owned(),
                }
            }
            Slash::Temp(given) => {
                if let Some(temperature) = given {
                    let sampling = SamplerOptions {
                        temperature,
                        ..self.sampling.clone()
                    };
                    self.change_sampler(sampling, self.sampler.draws())?;
                }
                format!("(temperature {})", self.sampling.temperature)
            }
            Slash::Seed(given) => {
                if let Some(seed) = given {
                    let sampling = SamplerOptions {
                        seed,
                        ..self.sampling.clone()
                    };
                    self.change_sampler(sampling, 0)?;
                }
                format!("(seed {})", self.sampling.seed)
            }
            Slash::Stats => self.describe_state(),
            Slash::Save(path) => {
                self.export(&path)?;
                format!("(saved to {})", path.display())
            }
        };
        self.notes.line(&said);
        Ok(())
    }

    /// Replaces the sampler, which continues after that many random numbers.
    fn change_sampler(&mut self, sampling: SamplerOptions, draws: u64) -> anyhow::Result<()> {
        self.sampler = Sampler::resume(sampling.clone(), draws)?;
        self.sampling = sampling;
        Ok(())
    }

    fn describe_thinking(&self) -> String {
        let effort = match self.thinking.effort {
            Some(effort) => format!(", effort {}", effort.name()),
            None => String::new(),
        };
        let state = if self.thinking.on { "on" } else { "off" };
        format!("(thinking {state}{effort})")
    }

    fn describe_state(&self) -> String {
        let mut text = format!(
            "(context {} of {} tokens, caches {:.1} MB, {} messages)",
            self.session.len(),
            self.session.context(),
            self.session.kv_bytes() as f64 / 1e6,
            self.conversation.turns.len()
        );
        if let Some(last) = &self.last {
            text.push('\n');
            text.push_str(&statistics(last, self.sampling.seed, self.drafts.as_ref()));
        }
        text
    }

    /// Writes the conversation to a file that must not exist: an answer is not
    /// worth more than what would be overwritten. Its owner alone can read it.
    fn export(&self, path: &Path) -> anyhow::Result<()> {
        let mut text = serde_json::to_vec_pretty(&self.messages())?;
        text.push(b'\n');
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .and_then(|mut file| file.write_all(&text))
            .with_context(|| path.display().to_string())
    }
}

/// A turn as the chat completions protocol writes it.
fn as_json(turn: &Turn) -> Value {
    match turn {
        Turn::System(text) => json!({"role": "system", "content": text}),
        Turn::User(text) => json!({"role": "user", "content": text}),
        Turn::Assistant {
            reasoning: None,
            answer,
        } => json!({"role": "assistant", "content": answer}),
        Turn::Assistant { reasoning, answer } => {
            json!({"role": "assistant", "reasoning_content": reasoning, "content": answer})
        }
    }
}

/// Turns that [`as_json`] wrote; `None` if there is anything else.
fn turns(said: &Value) -> Option<Vec<Turn>> {
    let turn = |message: &Value| {
        let text = |key: &str| message.get(key)?.as_str().map(str::to_owned);
        match message.get("role")?.as_str()? {
            "system" => Some(Turn::System(text("content")?)),
            "user" => Some(Turn::User(text("content")?)),
            "assistant" => Some(Turn::Assistant {
                reasoning: text("reasoning_content"),
                answer: text("content")?,
            }),
            _ => None,
        }
    };
    said.get("messages")?.as_array()?.iter().map(turn).collect()
}
