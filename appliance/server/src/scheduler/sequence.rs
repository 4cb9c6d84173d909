//! A running request.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc::UnboundedSender;
use v4_runtime::generation::{SamplerError, Speculation};
use v4_runtime::storage::Landmark;
use v4_runtime::{Between, Engine, EngineError, Hooks, Logits, Session, Want};

use super::idle::Named;
use super::places::{self, APART};
use crate::jobs::{Client, Failure, Finish, Job, Limits, Output};
use crate::metrics::Metrics;
use crate::picker::{Pick, Picker};

/// A session is saved after this many new tokens at the latest, while a prompt is read and
/// while it is answered.
const SAVED_EVERY: (usize, usize) = (4096, 256);

/// How a sequence leaves the running ones.
#[derive(Debug)]
pub(super) enum End {
    /// With its text complete.
    Finished(Finish),
    /// With an error.
    Failed(Failure),
    /// Nobody listens any more.
    Cancelled,
    /// For a while: its memory serves others.
    Parked,
}

/// Tokens to run next.
struct Piece {
    /// Where they end.
    to: usize,
    /// Whether there are no more.
    all: bool,
}

/// A request and its session.
#[derive(Debug)]
pub(super) struct Sequence {
    /// In the order of arrival.
    pub number: u64,
    pub client: Client,
    /// The model, with the adapters that were asked for.
    pub engine: Arc<Engine>,
    /// None while it is parked.
    pub session: Option<Session>,
    /// Where it is kept on disk.
    pub name: Option<String>,
    pub outputs: UnboundedSender<Output>,
    pub arrived: Instant,
    pub end: Option<End>,
    /// Runs only while nothing else does.
    pub background: bool,
    /// Of the session: see [`Named`].
    pub turns: u64,
    pub from: Option<u64>,
    pub stays: bool,
    /// The prompt and what was generated; the session holds a beginning of it.
    tokens: Vec<u32>,
    prompt: usize,
    cached: usize,
    /// Tokens when the session was last saved.
    on_disk: usize,
    max_tokens: usize,
    limits: Limits,
    replaces: Option<String>,
    started: Instant,
    first_token: Option<Instant>,
    /// Places in the prompt to mark.
    places: Vec<(usize, Landmark)>,
    picker: Picker,
    /// Reads ahead of the answer, if drafts are on.
    pub drafts: Option<Speculation>,
    last_token: Option<Instant>,
}

impl Sequence {
    /// Of a job and a session that holds none or a beginning of its prompt.
    pub fn new(
        job: Job,
        named: Named,
        number: u64,
        eos: Option<u32>,
        arrived: Instant,
    ) -> Result<Self, SamplerError> {
        let Named { session, name, .. } = named;
        let cached = session.len();
        let places = places::of_prompt(&job);
        let picker = Picker::new(job.picking, eos)?;
        // Who has gone is noticed at the first step.
        let _ = job.outputs.send(Output::Started { cached });
        Ok(Self {
            number,
            client: job.client,
            engine: Arc::clone(session.engine()),
            session: Some(session),
            name,
            on_disk: cached,
            outputs: job.outputs,
            arrived,
            end: None,
            prompt: job.ids.len(),
            cached,
            max_tokens: job.max_tokens,
            limits: job.limits,
            replaces: job.replaces,
            started: Instant::now(),
            first_token: None,
            places,
            background: job.background,
            turns: named.turns,
            from: named.from,
            stays: named.stays,
            tokens: job.ids,
            picker,
            drafts: None,
            last_token: None,
        })
    }

    /// Whether a job takes this one's place.
    pub fn replaced_by(&self, newer: &Job) -> bool {
        let same = self.replaces.is_some() && self.replaces == newer.replaces;
        same && self.client == newer.client
    }

    /// Tokens of the prompt.
    pub fn prompt(&self) -> usize {
        self.prompt
    }

    /// The prompt and what was generated.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Tokens of the prompt that were known from before.
    pub fn cached(&self) -> usize {
        self.cached
    }

    /// Tokens that the session does not hold yet; there is always one.
    pub fn pending(&self) -> usize {
        self.tokens.len() - self.held()
    }

    /// Tokens that the session holds.
    pub fn held(&self) -> usize {
        self.session.as_ref().map_or(0, Session::len)
    }

    /// Whether the session has grown enough to be saved, or has come to a place that
    /// later prompts continue from.
    pub fn wants_saving(&self, at_place: bool) -> bool {
        let new = self.held().saturating_sub(self.on_disk);
        let (reading, answering) = SAVED_EVERY;
        let most = match self.held() < self.prompt {
            true => reading,
            false => answering,
        };
        new >= most || (at_place && new > 0)
    }

    /// The session was saved.
    pub fn mark_saved(&mut self) {
        self.on_disk = self.held();
    }

    /// Runs up to `rows` tokens, and chooses the next one when all are run. Returns what
    /// stands where the session has come to, if that is a place to mark. `between` may have
    /// a piece of a prompt stopped and taken back ([`EngineError::Cancelled`]).
    pub fn advance(
        &mut self,
        rows: usize,
        between: Between<'_>,
        metrics: &Metrics,
    ) -> Result<Option<Landmark>, EngineError> {
        let Some(Piece { to, all }) = self.piece(rows) else {
            return Ok(None);
        };
        let Some(session) = &mut self.session else {
            return Ok(None);
        };
        let ids = &self.tokens[session.len()..to];
        if let (&[id], true) = (ids, all)
            && let Some(mut drafts) = self.drafts.take()
        {
            let place = drafts
                .read(session, id)
                .map(|logits| self.advanced(to, Some(logits), metrics));
            self.drafts = Some(drafts);
            return place;
        }
        let want = if all { Want::Last } else { Want::None };
        let mut hooks = Hooks {
            between: Some(between),
            ..Hooks::default()
        };
        let logits = session.append_with(ids, want, &mut hooks)?;
        let logits = (logits.rows() > 0).then(|| logits.row(0));
        Ok(self.advanced(to, logits, metrics))
    }

    /// The session and the only token that it does not hold yet, for a step together with
    /// others.
    pub fn step(&mut self) -> Option<(&mut Session, u32)> {
        let id = self.due()?;
        Some((self.session.as_mut()?, id))
    }

    /// After the session has taken that token: as [`Self::advance`].
    pub fn stepped(&mut self, logits: &[f32], metrics: &Metrics) -> Option<Landmark> {
        if let Some(drafts) = &mut self.drafts {
            drafts.passed();
        }
        self.advanced(self.tokens.len(), Some(logits), metrics)
    }

    /// As [`Self::step`] with `others` more sequences, with what is drafted after the token.
    pub fn step_ahead(&mut self, others: usize) -> Option<(&mut Session, &[u32])> {
        let id = self.due()?;
        let session = self.session.as_mut()?;
        let ids = self.drafts.as_mut()?.expect(session, id, others);
        Some((session, ids))
    }

    /// After that was verified: as [`Self::advance`].
    pub fn verified(&mut self, logits: Logits, metrics: &Metrics) -> Option<Landmark> {
        let (session, mut drafts) = (self.session.as_mut()?, self.drafts.take()?);
        let logits = drafts.verified(session, logits);
        let place = self.advanced(self.tokens.len(), Some(logits), metrics);
        self.drafts = Some(drafts);
        place
    }

    /// What was drafted could not be read.
    pub fn refused(&mut self) {
        if let Some(drafts) = &mut self.drafts {
            drafts.refused();
        }
    }

    /// If the token that is due was foreseen: as [`Self::advance`], at no cost.
    pub fn foreseen(&mut self, metrics: &Metrics) -> Option<Option<Landmark>> {
        let ahead = |session: &Session| !session.ahead().is_empty();
        if self.end.is_some() || !self.session.as_ref().is_some_and(ahead) {
            return None;
        }
        let id = self.due()?;
        let (session, mut drafts) = (self.session.as_mut()?, self.drafts.take()?);
        let logits = drafts.foreseen(session, id);
        let place = logits.map(|logits| self.advanced(self.tokens.len(), Some(logits), metrics));
        self.drafts = Some(drafts);
        place
    }

    /// The only token that the session does not hold yet, if it may be read now.
    fn due(&mut self) -> Option<u32> {
        let Piece { to, all: true } = self.piece(1)? else {
            return None;
        };
        Some(self.tokens[to - 1])
    }

    /// When its time to read the prompt ends, if it has not been read and there is a limit.
    pub fn reads_until(&self) -> Option<Instant> {
        let limit = self.limits.reading.filter(|_| self.first_token.is_none())?;
        self.started.checked_add(limit)
    }

    fn out_of_time(&self) -> bool {
        let until = match self.first_token {
            Some(first) => self
                .limits
                .answering
                .and_then(|limit| first.checked_add(limit)),
            None => self.reads_until(),
        };
        until.is_some_and(|until| Instant::now() > until)
    }

    /// Whether nothing more is to be computed for it.
    pub fn is_over(&self) -> bool {
        self.end.is_some() || self.outputs.is_closed() || self.out_of_time()
    }

    /// The next tokens to run, up to `rows`, but not beyond the next place. None if
    /// nobody listens any more, or its time is over.
    fn piece(&mut self, rows: usize) -> Option<Piece> {
        if self.outputs.is_closed() {
            self.end = Some(End::Cancelled);
            return None;
        }
        if self.out_of_time() {
            self.end = Some(End::Finished(Finish::Length));
            return None;
        }
        let from = self.session.as_ref()?.len();
        let mut to = self.tokens.len().min(from + rows.max(1));
        let passed = self.places.partition_point(|place| place.0 <= from);
        if let Some(&(next, _)) = self.places.get(passed) {
            to = to.min(next);
        }
        Some(Piece {
            to,
            all: to == self.tokens.len(),
        })
    }

    fn advanced(
        &mut self,
        to: usize,
        logits: Option<&[f32]>,
        metrics: &Metrics,
    ) -> Option<Landmark> {
        match logits {
            Some(logits) => self.choose(logits, metrics),
            None => {
                let done = to.min(self.prompt);
                let _ = self.outputs.send(Output::Reading { done });
            }
        }
        match self.places.binary_search_by_key(&to, |place| place.0) {
            Ok(i) => Some(self.places[i].1),
            // Also in an answer.
            Err(_) => (to > self.prompt && to.is_multiple_of(APART)).then_some(Landmark::Way),
        }
    }

    fn choose(&mut self, logits: &[f32], metrics: &Metrics) {
        if self.max_tokens == 0 {
            let _ = self.outputs.send(Output::Reading { done: self.prompt });
            self.end = Some(End::Finished(Finish::Length));
            return;
        }
        match self.picker.pick(logits, &self.tokens) {
            Ok(Pick::End) => self.end = Some(End::Finished(Finish::Stop)),
            Ok(Pick::Token {
                id,
                logprob,
                last,
                looped,
            }) => {
                self.tokens.push(id);
                self.clock(metrics);
                let _ = self.outputs.send(Output::Token { id, logprob });
                if last {
                    self.end = Some(End::Finished(Finish::Stop));
                } else if looped {
                    self.end = Some(End::Finished(Finish::Loop));
                } else if self.tokens.len() - self.prompt >= self.max_tokens {
                    self.end = Some(End::Finished(Finish::Length));
                }
            }
            Err(error) => self.end = Some(End::Failed(Failure::Engine(error.to_string()))),
        }
    }

    fn clock(&mut self, metrics: &Metrics) {
        let now = Instant::now();
        match self.last_token {
            Some(before) => metrics.token(now - before),
            None => {
                metrics.first_token(now - self.arrived);
                self.first_token = Some(now);
            }
        }
        self.last_token = Some(now);
    }
}
