//! Starts a request with the session that shares the most with its prompt.

use std::sync::Arc;
use std::time::Instant;

use v4_runtime::{Engine, EngineError, Hooks, Session};

use super::idle::{Named, usable, worth_copying};
use super::sequence::{End, Sequence};
use super::{Scheduler, Settings};
use crate::jobs::{Failure, Job, Output};

impl Scheduler {
    pub(super) fn start(&mut self, job: Job, arrived: Instant) {
        let background = job.background;
        if job.outputs.is_closed() {
            if !background {
                self.metrics.ended("cancelled");
                self.inbox.ended();
            }
            return;
        }
        self.numbers += 1;
        let outputs = job.outputs.clone();
        match self.begun(job, arrived) {
            Ok(sequence) => {
                if !background {
                    self.metrics.waited(arrived.elapsed());
                    let (prompt, cached) = (sequence.prompt(), sequence.cached());
                    self.metrics.prompt(prompt, cached);
                }
                self.running.push(sequence);
            }
            Err(message) => {
                self.notifier.log(&format!("a request failed: {message}"));
                let _ = outputs.send(Output::Failed(Failure::Engine(message)));
                if !background {
                    self.metrics.ended("failed");
                    self.inbox.ended();
                }
            }
        }
    }

    fn begun(&mut self, job: Job, arrived: Instant) -> Result<Sequence, String> {
        let eos = self.engine.tokenizer().eos();
        let engine = self.engine.with_adapters(job.adapters.clone());
        let engine = engine.map_err(|e| e.to_string())?;
        let begun = self.beginning_of(&engine, &job.ids);
        let mut named = begun.map_err(|e| e.to_string())?;
        if let Some(name) = &job.keep_as {
            (named.name, named.from, named.stays) = (Some(name.clone()), None, true);
        }
        if let Some(disk) = &mut self.disk {
            named.name = match &job.keep_as {
                Some(name) => disk.claim_as(name),
                None => Some(disk.claim(named.name)),
            };
        }
        let sequence = Sequence::new(job, named, self.numbers, eos, arrived);
        let mut sequence = sequence.map_err(|e| e.to_string())?;
        let drafts = self.settings.drafts.as_ref();
        sequence.drafts = drafts.map(|drafts| drafts.begin(&sequence.engine));
        Ok(sequence)
    }

    /// A parked request continues, with a session that holds what is still known of it.
    pub(super) fn resume(&mut self, mut sequence: Sequence) {
        let engine = Arc::clone(&sequence.engine);
        match self.beginning_of(&engine, sequence.tokens()) {
            Ok(named) => {
                sequence.session = Some(named.session);
                self.running.push(sequence);
            }
            Err(error) => {
                let failure = Failure::Memory(error.to_string());
                self.finish(sequence, Some(End::Failed(failure)));
            }
        }
    }

    /// A session that holds as much of the beginning of a prompt as any in memory or on
    /// the disk, or an empty one.
    fn beginning_of(&mut self, engine: &Arc<Engine>, ids: &[u32]) -> Result<Named, EngineError> {
        let mut named = self.longest(engine, ids)?;
        // Places are marked as they are come to.
        named.session.mark_prompts(false);
        Ok(named)
    }

    fn longest(&mut self, engine: &Arc<Engine>, ids: &[u32]) -> Result<Named, EngineError> {
        let Settings { context, chunk, .. } = self.settings;
        let idle = self.idle.best(engine, ids);
        let known = idle.map_or(0, |best| best.tokens);
        let running = self.longest_running(engine, ids, known);
        let known = running.as_ref().map_or(known, Session::len);
        if let Some(disk) = &self.disk {
            // A file that cannot be used costs time, and nothing else.
            match disk.find(engine, ids, known, context, chunk) {
                Ok(Some(named)) => return Ok(named),
                Ok(None) => {}
                Err(error) => self
                    .notifier
                    .log(&format!("a saved session cannot be used: {error}")),
            }
        }
        match (running, idle) {
            (Some(session), _) => Ok(Named::new(session)),
            (None, Some(best)) => self.idle.take(best),
            (None, None) => Ok(Named::new(Session::new(engine, context, chunk)?)),
        }
    }

    /// A copy of what a request that is being run has in common with a prompt, if that is
    /// more than `known`: agents begin several requests at once that share their
    /// beginning.
    fn longest_running(&self, engine: &Engine, ids: &[u32], known: usize) -> Option<Session> {
        let sessions = self.running.iter().filter_map(|s| s.session.as_ref());
        let (tokens, session) = sessions
            .map(|session| (usable(session, engine, ids), session))
            .max_by_key(|(tokens, _)| *tokens)
            .filter(|(tokens, session)| *tokens > known && worth_copying(*tokens, session))?;
        let mut copy = session.fork().ok()?;
        copy.rewind(tokens, &mut Hooks::default()).ok()?;
        Some(copy)
    }
}
