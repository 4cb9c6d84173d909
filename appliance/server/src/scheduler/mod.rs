//! The thread that runs the model and takes turns between requests.
//!
//! In each round every request that is being answered gets one token, all of them in one
//! step where they can, and one of those whose prompts are being read gets a piece of it
//! read. A piece takes about as long as the round's tokens did, so a long prompt costs the
//! others half of their speed and never more; with nobody to wait, pieces are as long as
//! chunks, and one that is under way is stopped when a request comes in.
//!
//! What is computed when changes no result: a request's tokens are those that it would
//! have had alone.

mod ahead;
mod begin;
mod disk;
mod idle;
mod pace;
mod places;
mod queue;
mod sequence;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use v4_runtime::generation::Drafting;
use v4_runtime::storage::Landmark;
use v4_runtime::{Batch, Engine, EngineError, Session};

use crate::config::SessionFolder;
use crate::error::ServeError;
use crate::jobs::{Failure, Inbox, Job, Output};
use crate::metrics::Metrics;
use crate::notify::Notifier;
use disk::DiskSessions;
use idle::{Idle, Named};
use pace::Pace;
use queue::Queue;
use sequence::{End, Sequence};

/// How long the thread sleeps without work before it reports that it is alive.
const NAP: Duration = Duration::from_millis(200);

/// Requests that get a token in one step at most.
const MOST_TOGETHER: usize = 16;

/// How requests are run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Tokens of context.
    pub context: usize,
    /// Tokens read at once.
    pub chunk: usize,
    /// Requests run at once.
    pub parallel: usize,
    /// Memory for idle sessions, in bytes.
    pub idle_bytes: u64,
    /// What drafts answers, if anything does: it decides how fast they come, and nothing of
    /// what they are.
    pub drafts: Option<Arc<dyn Drafting>>,
}

/// How far a sequence got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Advanced {
    /// By so many tokens.
    Rows(usize),
    /// Nowhere: it was stopped for a new request, or because it is over.
    Stopped,
}

/// Owns all sessions.
#[derive(Debug)]
pub struct Scheduler {
    engine: Arc<Engine>,
    settings: Settings,
    inbox: Inbox,
    queue: Queue,
    running: Vec<Sequence>,
    /// Gave their memory to others; they continue when one of those has ended.
    parked: VecDeque<Sequence>,
    idle: Idle,
    disk: Option<DiskSessions>,
    pace: Pace,
    batch: Batch,
    /// Whose prompt was read last.
    turn: u64,
    numbers: u64,
    metrics: Arc<Metrics>,
    notifier: Arc<Notifier>,
}

impl Scheduler {
    /// For an engine; fails at once if no session of this size fits, or sessions
    /// cannot be stored in their folder.
    ///
    /// # Errors
    /// Those of [`Session::new`], or about the folder.
    pub fn new(
        engine: &Arc<Engine>,
        settings: Settings,
        sessions: Option<&SessionFolder>,
        inbox: Inbox,
        metrics: Arc<Metrics>,
        notifier: Arc<Notifier>,
    ) -> Result<Self, EngineError> {
        let chunk = settings.chunk.min(settings.context);
        let settings = Settings { chunk, ..settings };
        Session::new(engine, settings.context, chunk)?;
        if sessions.is_some() {
            // It reads a little of every tensor: now, and not while a client waits.
            let _ = engine.fingerprint();
        }
        let disk = sessions.map(DiskSessions::open);
        Ok(Self {
            engine: Arc::clone(engine),
            inbox,
            queue: Queue::default(),
            running: Vec::new(),
            parked: VecDeque::new(),
            idle: Idle::new(settings.idle_bytes, 2 * settings.parallel + 8),
            settings,
            disk: disk.transpose()?,
            pace: Pace::new(chunk),
            batch: Batch::new(),
            turn: 0,
            numbers: 0,
            metrics,
            notifier,
        })
    }

    /// Runs until it is told to stop.
    ///
    /// # Errors
    /// When the engine cannot continue: the model file was lost or altered. No more requests
    /// are taken from then on, and those that wait or run are told why.
    pub fn run(mut self) -> Result<(), ServeError> {
        let result = self.rounds();
        self.inbox.refuse();
        self.give_up(&match &result {
            Ok(()) => Failure::Stopping,
            Err(error) => Failure::Engine(error.to_string()),
        });
        result
    }

    fn rounds(&mut self) -> Result<(), ServeError> {
        while !self.inbox.stopping() {
            while let Some(job) = self.inbox.next() {
                self.arrive(job);
            }
            self.admit();
            self.notifier.alive();
            if self.running.is_empty() {
                self.batch.clear();
                if let Some(job) = self.inbox.wait(NAP) {
                    self.arrive(job);
                }
                continue;
            }
            self.round()?;
        }
        Ok(())
    }

    /// A job has arrived. It replaces older ones if it says so.
    fn arrive(&mut self, job: Job) {
        for old in self.queue.replaced(&job) {
            self.metrics.ended("replaced");
            let _ = old.outputs.send(Output::Failed(Failure::Replaced));
            self.dequeued(&old);
        }
        for old in self.running.iter_mut().chain(&mut self.parked) {
            if old.replaced_by(&job) && old.end.is_none() {
                old.end = Some(End::Failed(Failure::Replaced));
            }
        }
        self.sweep();
        let parked = std::mem::take(&mut self.parked);
        let (over, parked): (Vec<_>, _) = parked.into_iter().partition(|s| s.end.is_some());
        self.parked = VecDeque::from(parked);
        for mut sequence in over {
            let end = sequence.end.take();
            self.finish(sequence, end);
        }
        self.queue.push(job);
    }

    /// Starts waiting requests while there is room.
    fn admit(&mut self) {
        // What runs in the background takes nobody's turn.
        let foreground = |s: &&Sequence| !s.background;
        while self.running.iter().filter(foreground).count() < self.settings.parallel {
            if !self.running.iter().any(|s| !s.background)
                && let Some(sequence) = self.parked.pop_front()
            {
                self.resume(sequence);
                continue;
            }
            if !self.parked.is_empty() {
                break;
            }
            let clients: Vec<_> = self.running.iter().map(|s| s.client.clone()).collect();
            let background = !self.running.iter().any(|s| s.background);
            let Some((job, arrived)) = self.queue.next(&clients, background) else {
                break;
            };
            if !job.background {
                self.inbox.started();
            }
            self.start(job, arrived);
        }
        let running = self.running.iter().filter(foreground).count();
        self.metrics.running(running + self.parked.len());
        self.metrics.waiting(self.queue.len());
    }

    /// A job that waited ends without having been started.
    fn dequeued(&self, job: &Job) {
        if !job.background {
            self.inbox.started();
            self.inbox.ended();
        }
    }

    /// Writes what a session has that the disk has not.
    fn save(disk: Option<&DiskSessions>, notifier: &Notifier, sequence: &Sequence) {
        let (Some(disk), Some(name), Some(session)) = (disk, &sequence.name, &sequence.session)
        else {
            return;
        };
        if let Err(error) = disk.save(session, name) {
            notifier.log(&format!("a session was not saved: {error}"));
        }
    }

    /// Computes one token for each request that has read its prompt, and one piece for one
    /// that has not.
    fn round(&mut self) -> Result<(), ServeError> {
        let began = Instant::now();
        let mut ready: Vec<usize> = (0..self.running.len())
            .filter(|&i| self.running[i].pending() == 1)
            .collect();
        let decoded = ready.len();
        while let Some(&first) = ready.first() {
            // Those that run the same model.
            let engine = Arc::clone(&self.running[first].engine);
            let same = |&i: &usize| self.running[i].engine.is_same_as(&engine);
            let (mut group, others): (Vec<_>, Vec<_>) = ready.into_iter().partition(same);
            let more = group.split_off(group.len().min(MOST_TOGETHER));
            ready = [more, others].concat();
            self.step(&group)?;
            for i in group {
                self.foreseen(i);
            }
        }
        let decoding = began.elapsed();
        self.sweep();
        if let Some(i) = self.next_to_read() {
            self.turn = self.running[i].number;
            let began = Instant::now();
            let rows = match decoded {
                0 => self.pace.alone(),
                _ => self.pace.beside(decoding),
            };
            match self.advance(i, rows)? {
                Advanced::Rows(rows) => self.pace.measured(rows, began.elapsed()),
                // One that is over says nothing about those that come.
                Advanced::Stopped if self.running[i].is_over() => {}
                Advanced::Stopped => self.pace.stopped(),
            }
            self.sweep();
        }
        Ok(())
    }

    /// Whose prompt comes next: in the order of their arrival, round and round; in the
    /// background only while nothing else runs.
    fn next_to_read(&self) -> Option<usize> {
        let busy = self.running.iter().any(|s| !s.background);
        let reading = || {
            let all = self.running.iter().enumerate();
            all.filter(|(_, s)| s.pending() > 1 && !(busy && s.background))
        };
        reading()
            .filter(|(_, s)| s.number > self.turn)
            .min_by_key(|(_, s)| s.number)
            .or_else(|| reading().min_by_key(|(_, s)| s.number))
            .map(|(i, _)| i)
    }

    /// One token for each of some sequences that run the same model.
    fn step(&mut self, group: &[usize]) -> Result<(), ServeError> {
        if let [only] = group {
            return self.advance(*only, 1).map(|_| ());
        }
        if self.settings.drafts.is_some() && self.step_ahead(group)? {
            return Ok(());
        }
        let (mut stepping, mut members) = (Vec::new(), Vec::new());
        for (i, sequence) in self.running.iter_mut().enumerate() {
            if group.contains(&i)
                && let Some(member) = sequence.step()
            {
                stepping.push(i);
                members.push(member);
            }
        }
        let began = Instant::now();
        let stepped = self.batch.step(&mut members);
        self.measured(stepping.len(), began);
        match stepped {
            Ok(results) => {
                for (i, result) in stepping.into_iter().zip(results) {
                    match result {
                        Ok(logits) => {
                            let place = self.running[i].stepped(logits.row(0), &self.metrics);
                            self.mark_and_save(i, place);
                        }
                        // It has to find room first.
                        Err(EngineError::Memory { .. }) => drop(self.advance(i, 1)?),
                        Err(error) => self.fail(i, error)?,
                    }
                }
                Ok(())
            }
            Err(EngineError::Memory { .. }) => {
                for i in stepping {
                    self.advance(i, 1)?;
                }
                Ok(())
            }
            Err(error) => {
                let failure = Failure::Engine(error.to_string());
                for &i in &stepping {
                    self.running[i].end = Some(End::Failed(failure.clone()));
                }
                match error.is_final() {
                    true => Err(error.into()),
                    false => {
                        self.notifier.log(&format!("requests failed: {error}"));
                        Ok(())
                    }
                }
            }
        }
    }

    /// Runs up to `rows` tokens of a sequence.
    fn advance(&mut self, i: usize, rows: usize) -> Result<Advanced, ServeError> {
        let (watch, notifier) = (self.inbox.watch(), Arc::clone(&self.notifier));
        // Otherwise nobody could be started.
        let room = self.running.iter().filter(|s| !s.background).count() < self.settings.parallel;
        let sequence = &self.running[i];
        let patience = match sequence.background {
            true => Duration::ZERO,
            false => self.pace.patience(),
        };
        let (outputs, until) = (sequence.outputs.clone(), sequence.reads_until());
        let between = move |left| {
            notifier.alive();
            let late = until.is_some_and(|until| Instant::now() > until);
            let stop = watch.stopping() || outputs.is_closed() || room && watch.has_come();
            match late || stop && left > patience {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        loop {
            let sequence = &mut self.running[i];
            let before = sequence.held();
            match sequence.advance(rows, &between, &self.metrics) {
                Ok(place) => {
                    let ran = sequence.held() - before;
                    self.mark_and_save(i, place);
                    return Ok(Advanced::Rows(ran));
                }
                Err(EngineError::Cancelled) => return Ok(Advanced::Stopped),
                Err(error @ EngineError::Memory { .. }) => {
                    if self.running[i].background {
                        // It is worth less than anything that it could push out.
                        let failure = Failure::Memory(error.to_string());
                        self.running[i].end = Some(End::Failed(failure));
                        return Ok(Advanced::Rows(0));
                    }
                    if self.idle.evict() || self.spare_marks() {
                        continue;
                    }
                    self.make_room(i, &error);
                    return Ok(Advanced::Rows(0));
                }
                Err(error) => return self.fail(i, error).map(|()| Advanced::Rows(0)),
            }
        }
    }

    /// Marks and saves what a sequence's next requests continue from.
    fn mark_and_save(&mut self, i: usize, place: Option<Landmark>) {
        let sequence = &mut self.running[i];
        if let (Some(landmark), Some(session)) = (place, &mut sequence.session) {
            session.mark(landmark);
        }
        if sequence.wants_saving(place.is_some()) {
            Self::save(self.disk.as_ref(), &self.notifier, sequence);
            sequence.mark_saved();
        }
    }

    /// Drops marks of a running request; false if there are none.
    fn spare_marks(&mut self) -> bool {
        let mut sessions = self.running.iter_mut().filter_map(|s| s.session.as_mut());
        sessions.any(Session::spare_marks)
    }

    /// Ends a sequence that cannot continue.
    fn fail(&mut self, i: usize, error: EngineError) -> Result<(), ServeError> {
        self.running[i].end = Some(End::Failed(Failure::Engine(error.to_string())));
        if error.is_final() {
            return Err(error.into());
        }
        self.notifier.log(&format!("a request failed: {error}"));
        Ok(())
    }

    /// Memory is short for the next step of a sequence: the most recent one gives
    /// its memory to the others, and reads everything again later.
    fn make_room(&mut self, wanting: usize, error: &EngineError) {
        let background = self
            .running
            .iter_mut()
            .find(|s| s.background && s.end.is_none());
        if let Some(sequence) = background {
            sequence.end = Some(End::Failed(Failure::Memory(error.to_string())));
            Self::save(self.disk.as_ref(), &self.notifier, sequence);
            sequence.session = None;
            return;
        }
        let runs = self.running.iter().filter(|s| s.end.is_none()).count();
        if runs <= 1 {
            self.running[wanting].end = Some(End::Failed(Failure::Memory(error.to_string())));
            return;
        }
        let youngest = (0..self.running.len())
            .filter(|&i| self.running[i].end.is_none())
            .max_by_key(|&i| self.running[i].number)
            .unwrap_or(wanting);
        self.running[youngest].session = None;
        self.running[youngest].end = Some(End::Parked);
    }

    /// Removes finished sequences.
    fn sweep(&mut self) {
        let mut i = 0;
        while i < self.running.len() {
            if self.running[i].end.is_none() {
                i += 1;
                continue;
            }
            let mut sequence = self.running.remove(i);
            match sequence.end.take() {
                Some(End::Parked) => {
                    self.metrics.parked();
                    self.parked.push_back(sequence);
                }
                end => self.finish(sequence, end),
            }
        }
    }

    fn finish(&mut self, sequence: Sequence, end: Option<End>) {
        let (output, word) = match end {
            Some(End::Finished(finish)) => (Some(Output::Done(finish)), finish.word()),
            Some(End::Failed(failure)) => {
                let word = match failure {
                    Failure::Replaced => "replaced",
                    _ => "failed",
                };
                (Some(Output::Failed(failure)), word)
            }
            Some(End::Cancelled | End::Parked) | None => (None, "cancelled"),
        };
        if !sequence.background {
            self.metrics.ended(word);
            self.metrics.took(sequence.arrived.elapsed());
        }
        if let Some(drafts) = &sequence.drafts {
            self.metrics.drafted(&drafts.counts());
            if let Some(fault) = drafts.fault() {
                self.notifier
                    .log(&format!("went on without drafts: {fault}"));
            }
        }
        // On the disk before the client knows that it is done.
        Self::save(self.disk.as_ref(), &self.notifier, &sequence);
        if let Some(output) = output {
            // Who has gone needs no answer.
            let _ = sequence.outputs.send(output);
        }
        let Sequence {
            mut session, name, ..
        } = sequence;
        if let Some(session) = &mut session {
            session.release_ahead();
        }
        if let (Some(disk), Some(name)) = (&mut self.disk, &name) {
            disk.release(name);
        }
        if let Some(session) = session {
            self.idle.add(Named {
                name,
                turns: sequence.turns,
                from: sequence.from,
                stays: sequence.stays,
                ..Named::new(session)
            });
        }
        if !sequence.background {
            self.inbox.ended();
        }
    }

    /// Ends everything and says why; what was read and said stays on disk.
    fn give_up(&mut self, why: &Failure) {
        for sequence in self.running.drain(..).chain(self.parked.drain(..)) {
            let _ = sequence.outputs.send(Output::Failed(why.clone()));
            Self::save(self.disk.as_ref(), &self.notifier, &sequence);
            if !sequence.background {
                self.inbox.ended();
            }
        }
        while let Some(job) = self.inbox.next() {
            self.queue.push(job);
        }
        while let Some((job, _)) = self.queue.next(&[], true) {
            let _ = job.outputs.send(Output::Failed(why.clone()));
            self.dequeued(&job);
        }
    }
}
