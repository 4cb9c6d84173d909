//! One prompt, one answer: what `v4-run MODEL -p`, `complete` and `repo` share.

use std::process::ExitCode;
use std::sync::Arc;

use serde_json::json;
use v4_runtime::Engine;
use v4_runtime::generation::{Drafting, Finish, Sampler, Speculation};

use super::print_json;
use crate::args::GenerationArgs;
use crate::detokenizer::{self, Detokenizer};
use crate::expert_usage::{self, ExpertUsage};
use crate::generation::{
    Limits, Outcome, Sampled, drafts_json, statistics, timings, warn_of_drafts,
};
use crate::interrupt::{Busy, EXIT_INTERRUPTED};
use crate::output::{AnswerWriter, Notes};
use crate::session_files::SessionFiles;
use crate::{model, options};

/// How to answer.
pub struct OneShot<'a> {
    /// Bounds, sampler, engine.
    pub args: &'a GenerationArgs,
    /// Where sessions are.
    pub sessions: &'a SessionFiles,
    /// The session that is gone on with and written.
    pub session: Option<&'a str>,
    /// One JSON object instead of a stream of text.
    pub json: bool,
    /// Text for a program: no newline is added at its end.
    pub raw: bool,
    /// Standard error.
    pub notes: Notes,
}

impl OneShot<'_> {
    /// Continues `ids` and prints the answer.
    pub fn run(
        &self,
        engine: &Arc<Engine>,
        ids: &[u32],
        mut detokenizer: Detokenizer,
    ) -> anyhow::Result<ExitCode> {
        let model_max = engine.config().context_length;
        let length = &self.args.length;
        let max_tokens = length.max_tokens;
        let context = model::context(length.ctx, ids.len(), max_tokens, model_max);
        let limits = Limits {
            max_tokens,
            eos: engine.tokenizer().eos(),
            model_max,
            stop_loops: length.stop_loops,
        };
        limits.check_room(context, ids.len())?;
        let mut file = match self.session {
            Some(name) => Some(self.sessions.open(engine, name)?),
            None => None,
        };
        let mut session = self
            .sessions
            .beginning_of(engine, file.as_mut(), ids, context)?;
        let sampling = options::sampler(&self.args.sampling);
        let seed = sampling.seed;
        let mut sampler = Sampler::new(sampling)?;
        let drafting = options::drafting(&self.args.drafts);
        let mut drafts = drafting.map(|drafting| drafting.begin(engine));
        let mut model = Sampled {
            session: &mut session,
            sampler: &mut sampler,
            drafts: drafts.as_mut(),
            log: file.as_mut().map(|file| &mut file.log),
        };

        let mut answer = (!self.json).then(AnswerWriter::stdout);
        let before = expert_usage::stats(engine);
        let busy = Busy::start()?;
        let outcome = detokenizer::stream(
            &mut model,
            ids,
            limits,
            self.notes,
            &mut detokenizer,
            answer.as_mut(),
        )?;
        model.save()?;
        if let Some(file) = &file {
            file.make_room(self.notes)?;
        }
        drop(busy);

        let tokens = outcome.prompt_tokens - outcome.reused_tokens + outcome.decoded;
        let seconds = (outcome.prefill + outcome.decode).as_secs_f64();
        let experts = ExpertUsage::since(engine, before, tokens, seconds);
        match &mut answer {
            Some(answer) if self.raw => answer.end_raw()?,
            Some(answer) => answer.end()?,
            None => {
                let mut json = as_json(&detokenizer, &outcome, seed, experts.as_ref());
                json["drafts"] = drafts
                    .as_ref()
                    .map(|drafts| drafts_json(&drafts.counts()))
                    .into();
                print_json(&json)?;
            }
        }
        if outcome.finish == Finish::ContextFull {
            self.notes.line(&format!(
                "v4-run: the context of {context} tokens is full; use a larger --ctx"
            ));
        }
        if outcome.finish == Finish::Loop {
            self.notes
                .line("v4-run: stopped: the answer loops (--stop-loops)");
        }
        let counts = drafts.as_ref().map(Speculation::counts);
        self.notes
            .line(&statistics(&outcome, seed, counts.as_ref()));
        warn_of_drafts(drafts.as_ref(), self.notes);
        if let Some(experts) = &experts {
            self.notes.line(&format!("[{}]", experts.line()));
        }
        Ok(match outcome.finish {
            Finish::Interrupted => ExitCode::from(EXIT_INTERRUPTED),
            _ => ExitCode::SUCCESS,
        })
    }
}

fn as_json(
    detokenizer: &Detokenizer,
    outcome: &Outcome,
    seed: u64,
    experts: Option<&ExpertUsage>,
) -> serde_json::Value {
    json!({
        "text": detokenizer.content(),
        "reasoning": (!detokenizer.reasoning().is_empty()).then_some(detokenizer.reasoning()),
        "ids": outcome.ids,
        "finish_reason": outcome.finish.name(),
        "prompt_tokens": outcome.prompt_tokens,
        "completion_tokens": outcome.ids.len(),
        "seed": seed,
        "timings": timings(outcome),
        "experts": experts.map(ExpertUsage::json),
    })
}
