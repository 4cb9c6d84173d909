//! The loop shared by all generating commands: prompt in, tokens out, until a stop
//! condition holds.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::bail;
use v4_runtime::generation::{
    self, DraftCounts, Finish, Sampler, Speculation, StepError, Steps, Until,
};
use v4_runtime::storage::SessionLog;
use v4_runtime::{EngineError, Hooks, Session, Want};

use crate::interrupt;
use crate::output::Notes;

/// Prompts from this length on show a progress bar, in new tokens.
const LONG_PROMPT: usize = 512;

/// A saved prompt can also be continued from this many tokens before its end: the
/// last ones may be others when the text continues.
const TAIL: usize = 16;

/// What a generation did.
#[derive(Debug)]
pub struct Outcome {
    /// Why it ended.
    pub finish: Finish,
    /// The tokens generated, without the end-of-sentence token.
    pub ids: Vec<u32>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the prompt that the session held already.
    pub reused_tokens: usize,
    /// Time to read the rest of the prompt.
    pub prefill: Duration,
    /// Tokens fed back one at a time.
    pub decoded: usize,
    /// Time for those.
    pub decode: Duration,
}

/// Something that continues a prompt token by token.
pub trait Continuation: Steps {
    /// Tokens that it can hold.
    fn context(&self) -> usize;
    /// How many tokens at the start of `prompt` need not be read again.
    fn reusable(&self, prompt: &[u32]) -> usize;
    /// Reads `prompt` in place of what it holds and picks the next token.
    /// `progress` gets the tokens done of those to read, and may break.
    fn start(
        &mut self,
        prompt: &[u32],
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<u32, StepError>;
}

/// A session whose tokens are picked by a sampler.
pub struct Sampled<'a> {
    /// The timeline.
    pub session: &'a mut Session,
    /// The dice.
    pub sampler: &'a mut Sampler,
    /// Reads ahead; without it one token after the other is read.
    pub drafts: Option<&'a mut Speculation>,
    /// Where the session is kept.
    pub log: Option<&'a mut SessionLog>,
}

impl Sampled<'_> {
    /// Writes what the session holds, if it is kept.
    pub fn save(&mut self) -> Result<(), EngineError> {
        match &mut self.log {
            Some(log) => self.session.save(log),
            None => Ok(()),
        }
    }
}

impl Steps for Sampled<'_> {
    fn has_room(&self) -> bool {
        self.session.len() < self.session.context()
    }

    fn next(&mut self, id: u32) -> Result<u32, StepError> {
        if let Some(drafts) = &mut self.drafts {
            let logits = drafts.read(self.session, id)?;
            return Ok(self.sampler.sample(logits, self.session.tokens())?);
        }
        let logits = self.session.append(&[id], Want::Last)?;
        Ok(self.sampler.sample(logits.row(0), self.session.tokens())?)
    }
}

impl Continuation for Sampled<'_> {
    fn context(&self) -> usize {
        self.session.context()
    }

    fn reusable(&self, prompt: &[u32]) -> usize {
        self.session.reusable(prompt)
    }

    fn start(
        &mut self,
        prompt: &[u32],
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<u32, StepError> {
        let read = self.session.reusable(prompt);
        let new = prompt.len() - read;
        if self.log.is_some() && new > 2 * TAIL {
            let mut all = |done: usize, _: usize| progress(done, new);
            let mut hooks = Hooks {
                progress: Some(&mut all),
                between: Some(&interrupt::between),
                ..Hooks::default()
            };
            let most = &prompt[..prompt.len() - TAIL];
            self.session.sync(most, Want::None, &mut hooks)?;
            self.save()?;
        }
        let mut hooks = Hooks {
            progress: Some(progress),
            between: Some(&interrupt::between),
            ..Hooks::default()
        };
        let logits = self.session.sync(prompt, Want::Last, &mut hooks)?;
        // A long prompt is worth keeping whatever becomes of the answer.
        self.save()?;
        Ok(self.sampler.sample(logits.row(0), self.session.tokens())?)
    }
}

/// Says why drafts ended, if their source failed.
pub fn warn_of_drafts(drafts: Option<&Speculation>, notes: Notes) {
    if let Some(fault) = drafts.and_then(Speculation::fault) {
        notes.line(&format!("v4-run: went on without drafts: {fault}"));
    }
}

/// What drafts did: of the first, the second and so on of each pass, how many were read and
/// how many were accepted.
pub fn drafts_json(counts: &DraftCounts) -> serde_json::Value {
    let used = counts.drafts.iter().take_while(|&&n| n > 0).count();
    serde_json::json!({
        "passes": counts.passes,
        "passes_with_drafts": counts.batches,
        "drafts_read": counts.drafts[..used],
        "drafts_accepted": counts.came[..used],
    })
}

/// When to stop, apart from what the text says.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Tokens at most.
    pub max_tokens: Option<usize>,
    /// The token that ends a text.
    pub eos: Option<u32>,
    /// The longest context the model allows, for advice.
    pub model_max: usize,
    /// Whether an answer that repeats itself ends.
    pub stop_loops: bool,
}

impl Limits {
    /// Refuses a prompt of `prompt` tokens that leaves no room for an answer in
    /// `context`, and says how much room would do.
    pub fn check_room(&self, context: usize, prompt: usize) -> anyhow::Result<()> {
        let model_max = self.model_max;
        let needed = prompt.saturating_add(1);
        if prompt == 0 {
            bail!("the prompt is empty");
        }
        if needed > model_max {
            bail!(
                "the prompt has {prompt} tokens, but the model takes at most {model_max} including the answer; shorten it"
            );
        }
        if needed > context {
            bail!(
                "the prompt has {prompt} tokens, which leaves no room for an answer in a context of {context}; use --ctx {needed} or more"
            );
        }
        Ok(())
    }
}

/// Continues `prompt` and hands each token to `take`, which breaks when it has
/// met a stop string. Ctrl-C is looked for after every token, and between layers while
/// the prompt is read; the caller holds an [`interrupt::Busy`].
///
/// Fails before any work when the prompt leaves no room for an answer.
pub fn generate(
    model: &mut dyn Continuation,
    prompt: &[u32],
    limits: Limits,
    notes: Notes,
    take: &mut dyn FnMut(u32) -> anyhow::Result<ControlFlow<()>>,
) -> anyhow::Result<Outcome> {
    limits.check_room(model.context(), prompt.len())?;
    let mut outcome = Outcome {
        finish: Finish::Interrupted,
        ids: Vec::new(),
        prompt_tokens: prompt.len(),
        reused_tokens: model.reusable(prompt),
        prefill: Duration::ZERO,
        decoded: 0,
        decode: Duration::ZERO,
    };

    let started = Instant::now();
    let first = prefill(model, prompt, notes);
    outcome.prefill = started.elapsed();
    let first = match first {
        Err(StepError::Engine(EngineError::Cancelled)) => return Ok(outcome),
        other => other?,
    };

    let until = Until {
        max_tokens: limits.max_tokens,
        eos: limits.eos,
        stop_loops: limits.stop_loops,
    };
    let started = Instant::now();
    let generated = generation::generate(model, first, until, &interrupt::requested, take)?;
    if generated.read > 0 {
        outcome.decode = started.elapsed();
    }
    outcome.finish = generated.finish;
    outcome.ids = generated.ids;
    outcome.decoded = generated.read;
    Ok(outcome)
}

fn prefill(model: &mut dyn Continuation, prompt: &[u32], notes: Notes) -> Result<u32, StepError> {
    let new = prompt.len() - model.reusable(prompt);
    let bar = (new >= LONG_PROMPT).then(|| notes.bar("reading", new));
    let picked = model.start(prompt, &mut |done, _| {
        if let Some(bar) = &bar {
            bar.set_position(done as u64);
        }
        if interrupt::requested() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    picked
}

/// The line of statistics after an answer.
pub fn statistics(outcome: &Outcome, seed: u64, drafts: Option<&DraftCounts>) -> String {
    let read = outcome.prompt_tokens - outcome.reused_tokens;
    let reused = match outcome.reused_tokens {
        0 => String::new(),
        n => format!(" ({n} more reused)"),
    };
    let drafts = match drafts.map(DraftCounts::totals) {
        Some([read, came]) if read > 0 => format!(", {came} of {read} drafts accepted"),
        _ => String::new(),
    };
    format!(
        "[prompt {read} tokens{reused}, {} t/s; answer {} tokens, {} t/s{drafts}; seed {seed}; {}]",
        rate(read, outcome.prefill),
        outcome.ids.len(),
        rate(outcome.decoded, outcome.decode),
        outcome.finish.name(),
    )
}

/// The same figures for JSON.
pub fn timings(outcome: &Outcome) -> serde_json::Value {
    let read = outcome.prompt_tokens - outcome.reused_tokens;
    let per_second = |n: usize, t: Duration| match t.as_secs_f64() {
        s if s > 0.0 => serde_json::json!(n as f64 / s),
        _ => serde_json::Value::Null,
    };
    serde_json::json!({
        "prefill_tokens": read,
        "prefill_seconds": outcome.prefill.as_secs_f64(),
        "prefill_tokens_per_second": per_second(read, outcome.prefill),
        "decode_tokens": outcome.decoded,
        "decode_seconds": outcome.decode.as_secs_f64(),
        "decode_tokens_per_second": per_second(outcome.decoded, outcome.decode),
    })
}

fn rate(tokens: usize, time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if tokens == 0 || seconds <= 0.0 {
        return "-".into();
    }
    format!("{:.1}", tokens as f64 / seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_without_room_is_refused_with_the_number_that_would_do() {
        let check = |context, prompt, model_max| {
            let limits = Limits {
                max_tokens: None,
                eos: None,
                model_max,
                stop_loops: false,
            };
            limits.check_room(context, prompt)
        };
        let say = |context, prompt, max| check(context, prompt, max).unwrap_err().to_string();
        assert!(say(4, 4, 100).contains("--ctx 5 "));
        assert!(say(100, 100, 100).contains("at most 100"));
        assert!(say(9, 0, 100).contains("empty"));
        assert!(check(5, 4, 100).is_ok());
    }
}
