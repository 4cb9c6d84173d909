//! A sequence of tokens and the model's caches for it.

mod ahead;
mod batch;
mod drafts;
mod persist;
mod prefetch;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::compute::backend::Device;
use crate::compute::forward::{Cache, Chunk, Cone, Scratch};
use crate::compute::trace::Trace;
use crate::engine::{Engine, EngineOptions};
use crate::error::EngineError;
use crate::plan::{FEW_ROWS, SessionSize, ahead_bytes, session_bytes};
use crate::residency::Share;
use crate::residency::engram::{EngramStore, Fetch};

pub use self::batch::Batch;
use self::drafts::Drafting;
use self::persist::Mark;
use self::prefetch::Prefetched;

/// The positions whose logits a call returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// None.
    None,
    /// The last position.
    Last,
    /// The last N positions.
    LastN(usize),
    /// All positions.
    All,
}

impl Want {
    /// Of `n` positions, the first whose logits are wanted.
    fn from(self, n: usize) -> usize {
        match self {
            Self::None => n,
            Self::Last => n.saturating_sub(1),
            Self::LastN(k) => n.saturating_sub(k),
            Self::All => 0,
        }
    }
}

/// Logits of some positions.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Logits {
    /// Position of the first row.
    pub first: usize,
    /// Columns.
    pub vocab: usize,
    /// `[rows, vocab]`.
    pub data: Vec<f32>,
}

impl Logits {
    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.data.len().checked_div(self.vocab).unwrap_or(0)
    }

    /// One row.
    ///
    /// # Panics
    /// If there are not that many.
    #[must_use]
    pub fn row(&self, i: usize) -> &[f32] {
        &self.data[i * self.vocab..(i + 1) * self.vocab]
    }
}

/// Asks to stop by breaking; called with tokens done and in all.
pub type Progress<'a> = &'a mut dyn FnMut(usize, usize) -> ControlFlow<()>;
/// Asks to stop by breaking; called with the time that the rest of a chunk is expected to
/// take.
pub type Between<'a> = &'a (dyn Fn(Duration) -> ControlFlow<()> + Sync);
/// Receives the wanted logits of one chunk.
pub type OnLogits<'a> = &'a mut dyn FnMut(Logits);

/// Callbacks during a call.
#[derive(Default)]
pub struct Hooks<'a> {
    /// Collects experts, margins and streams.
    pub trace: Option<&'a mut Trace>,
    /// Called after each chunk but the last; breaking ends the call with
    /// [`EngineError::Cancelled`] and keeps the chunks done.
    pub progress: Option<Progress<'a>>,
    /// Called on a worker between layers of a chunk of more than a few tokens, while it can
    /// still be stopped; breaking ends the call as above, and of this chunk nothing is kept.
    pub between: Option<Between<'a>>,
    /// Takes wanted logits chunk by chunk, so that those of a long text need
    /// not be held together; the call then returns none.
    pub logits: Option<OnLogits<'a>>,
}

impl std::fmt::Debug for Hooks<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hooks").finish_non_exhaustive()
    }
}

/// A sequence: its tokens and caches.
///
/// Results do not depend on how tokens were grouped into calls or chunks.
#[derive(Debug)]
pub struct Session {
    engine: Arc<Engine>,
    tokens: Vec<u32>,
    /// Tokens after these that the cache has seen and that may be taken back.
    ahead: Vec<u32>,
    /// Most tokens that were read ahead at once, and of these in its own buffers: their
    /// memory is kept.
    ahead_rows: [usize; 2],
    cache: Cache<Device>,
    drafting: Option<Drafting>,
    prefetched: Prefetched,
    scratch: Scratch<Device>,
    context: usize,
    chunk: usize,
    share: Share,
    /// In order.
    marks: Vec<Mark>,
    /// Whether it sets marks by itself.
    marks_prompts: bool,
}

/// Buffers of this many rows are kept from call to call; those of a prompt's chunks are
/// given back, so that experts can have their room.
const KEPT_ROWS: usize = FEW_ROWS;

impl Session {
    /// A number of tokens per chunk with small buffers. With more memory, prompts are read
    /// faster by [`MemoryPlan::chunk`](crate::plan::MemoryPlan::chunk) tokens at a time.
    pub const DEFAULT_CHUNK: usize = EngineOptions::DEFAULT_CHUNK;

    /// An empty session for at most `context` tokens, run in chunks of `chunk`.
    ///
    /// # Errors
    /// If the model's context is smaller, or that many tokens do not fit into the memory
    /// that the engine may use.
    pub fn new(engine: &Arc<Engine>, context: usize, chunk: usize) -> Result<Self, EngineError> {
        let model_max = engine.config().context_length;
        if context > model_max {
            return Err(EngineError::ContextTooLarge {
                asked: context,
                model_max,
            });
        }
        let chunk = chunk.max(1);
        let mut session = Self {
            cache: engine.forward().cache(),
            drafting: Drafting::of(engine),
            prefetched: Prefetched::default(),
            scratch: Scratch::default(),
            engine: Arc::clone(engine),
            tokens: Vec::new(),
            ahead: Vec::new(),
            ahead_rows: [0; 2],
            context,
            chunk,
            share: Share::new(engine.budget()),
            marks: Vec::new(),
            marks_prompts: true,
        };
        let rows = chunk.min(context);
        let most = session.bytes(context, rows, 1);
        engine.budget().check(most, || session.described(context))?;
        session.reserve(0, 1, 1)?;
        Ok(session)
    }

    /// Bytes that the session takes with `tokens` tokens while it runs `rows` of them
    /// at once and holds `logits` rows of logits.
    fn bytes(&self, tokens: usize, rows: usize, logits: usize) -> u64 {
        let (config, kv) = (self.engine.config(), self.engine.forward().kv_precision());
        let [ahead, own] = self.ahead_rows;
        let (rows, logits) = (rows.max(own), logits.max(ahead + own));
        let size = SessionSize {
            tokens,
            context: self.context,
            rows,
            chunk: self.chunk,
            logits,
        };
        session_bytes(config, kv, self.engine.threads(), size)
            + ahead_bytes(config, kv, ahead)
            + self.engine.adapter_work_bytes(rows)
            + self.marks_bytes() as u64
            + self.drafting_bytes()
    }

    /// What does not fit, and what would take less.
    fn described(&self, tokens: usize) -> (String, String) {
        (
            format!("the model with a session of {tokens} tokens and the other open sessions"),
            ", or a smaller --ctx or --chunk".to_owned(),
        )
    }

    /// Reserves memory for `tokens` tokens.
    fn reserve(&mut self, tokens: usize, rows: usize, logits: usize) -> Result<(), EngineError> {
        let bytes = self.bytes(tokens, rows, logits);
        let described = self.described(tokens);
        let fits = self.share.set(bytes, || described);
        // Drafts and marks are a convenience.
        if fits.is_err() && (self.release_ahead() || self.drop_marks()) {
            return self.reserve(tokens, rows, logits);
        }
        fits
    }

    /// Returns the memory of a chunk.
    fn settle(&mut self, rows: usize) {
        if rows > KEPT_ROWS {
            self.scratch = Scratch::default();
        }
        // Less than before: cannot fail.
        let _ = self.reserve(self.tokens.len(), rows.min(KEPT_ROWS), 1);
    }

    /// The engine it runs on.
    #[must_use]
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Tokens so far.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Number of tokens so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is no token yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The number of tokens it can hold.
    #[must_use]
    pub fn context(&self) -> usize {
        self.context
    }

    /// Bytes of cache held now.
    #[must_use]
    pub fn kv_bytes(&self) -> usize {
        let b = self.engine.forward().backend();
        let drafts = self.drafting.as_ref();
        self.cache.bytes(b) + drafts.map_or(0, |drafting| drafting.bytes(b))
    }

    /// Rows that passed through a layer's experts, summed over layers: without
    /// rows left out, layers times tokens.
    #[must_use]
    pub fn layer_rows(&self) -> u64 {
        let config = self.engine.config();
        self.cache.layer_rows_at(config, self.tokens.len())
    }

    /// A copy of the session. The two are independent.
    ///
    /// # Errors
    /// If its caches do not fit into the memory that the engine may use, or the card fails.
    pub fn fork(&self) -> Result<Self, EngineError> {
        let mut share = Share::new(self.engine.budget());
        let bytes = self.bytes(self.tokens.len(), 1, 1);
        share.set(bytes, || self.described(self.tokens.len()))?;
        let fork = Self {
            engine: Arc::clone(&self.engine),
            tokens: self.tokens.clone(),
            ahead: self.ahead.clone(),
            ahead_rows: self.ahead_rows,
            cache: self.cache.clone(),
            drafting: self.drafting.clone(),
            prefetched: Prefetched::default(),
            scratch: Scratch::default(),
            context: self.context,
            chunk: self.chunk,
            share,
            marks: self.marks.clone(),
            marks_prompts: self.marks_prompts,
        };
        self.engine.check_device()?;
        Ok(fork)
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.tokens.clear();
        self.ahead.clear();
        self.ahead_rows = [0; 2];
        self.marks.clear();
        self.cache = self.engine.forward().cache();
        self.prefetched = Prefetched::default();
        self.reset_drafting();
        self.settle(1);
    }

    /// Appends tokens.
    ///
    /// # Errors
    /// A token outside the vocabulary, more tokens than fit into the context or into
    /// memory: nothing is appended then. Logits that are not finite, experts or Engram
    /// rows that cannot be read, a card that fails: the session is reset. After a card has
    /// failed, nothing can be done with its engine any more; one that is opened anew goes on
    /// from the sessions' files.
    pub fn append(&mut self, ids: &[u32], want: Want) -> Result<Logits, EngineError> {
        self.append_with(ids, want, &mut Hooks::default())
    }

    /// [`Self::append`] with hooks.
    ///
    /// # Errors
    /// As there, and [`EngineError::Cancelled`].
    pub fn append_with(
        &mut self,
        ids: &[u32],
        want: Want,
        hooks: &mut Hooks<'_>,
    ) -> Result<Logits, EngineError> {
        self.discard();
        self.check(ids)?;
        let wanted = ids.len() - want.from(ids.len());
        let rows = self.chunk_for(wanted).min(ids.len());
        // Those of a chunk, and those kept for the caller.
        let logits = wanted.min(rows) + if hooks.logits.is_some() { 0 } else { wanted };
        self.reserve(self.tokens.len() + ids.len(), rows, logits)?;
        let result = self.append_reserved(ids, want, hooks);
        self.settle(rows);
        if result.is_ok() && self.marks_prompts && ids.len() > KEPT_ROWS {
            self.set_mark(None);
        }
        result
    }

    /// Tokens of a chunk. Logits of a large one would take more than all its other buffers.
    fn chunk_for(&self, wanted: usize) -> usize {
        match wanted > Self::DEFAULT_CHUNK {
            true => self.chunk.min(Self::DEFAULT_CHUNK),
            false => self.chunk,
        }
    }

    fn append_reserved(
        &mut self,
        ids: &[u32],
        want: Want,
        hooks: &mut Hooks<'_>,
    ) -> Result<Logits, EngineError> {
        let engine = Arc::clone(&self.engine);
        let config = engine.config();
        let vocab = config.vocab;
        let from = want.from(ids.len());
        let mut all = Logits {
            first: self.tokens.len() + from,
            vocab,
            data: Vec::new(),
        };
        let start = self.tokens.len();
        let cone = if hooks.trace.is_some() || !self.engine.replay() {
            Cone::full(config)
        } else {
            let end = start + ids.len();
            engine.forward().cone(start + from, end, &self.cache)
        };
        let mut done = 0;
        let size = self.chunk_for(ids.len() - from);
        let mut ahead = self.fetch(&ids[..size.min(ids.len())])?;
        for chunk in ids.chunks(size) {
            let rows = std::mem::take(&mut ahead);
            let next = ids.len().min(done + chunk.len())..ids.len().min(done + 2 * size);
            let before = hooks.between.filter(|_| chunk.len() > KEPT_ROWS);
            let before = before.map(|_| self.cache.before());
            let ran = self.fetch_after(chunk, &ids[next]).and_then(|next| {
                ahead.extend(next);
                self.run_chunk(chunk, &cone, from.saturating_sub(done), rows, hooks)
            });
            if let (Err(EngineError::Cancelled), Some(before)) = (&ran, before) {
                self.cache.undo(engine.forward().backend(), config, before);
                self.cache.stopped();
                return Err(EngineError::Cancelled);
            }
            // Weights that could not be read were taken for zeros, and a card that has failed
            // computes nothing.
            let ran = ran.and_then(|logits| engine.check().map(|()| logits));
            let logits = match ran {
                Ok(logits) => logits,
                Err(error) => {
                    self.reset();
                    return Err(error);
                }
            };
            if let Some(bad) = logits.iter().position(|v| !v.is_finite()) {
                let position = self.tokens.len() + from.saturating_sub(done) + bad / vocab;
                self.reset();
                return Err(EngineError::NotFinite { position });
            }
            let first = self.tokens.len() + from.saturating_sub(done).min(chunk.len());
            self.tokens.extend_from_slice(chunk);
            done += chunk.len();
            match &mut hooks.logits {
                Some(take) if !logits.is_empty() => take(Logits {
                    first,
                    vocab,
                    data: logits,
                }),
                Some(_) => {}
                None => all.data.extend(logits),
            }
            if done < ids.len()
                && let Some(progress) = &mut hooks.progress
                && progress(done, ids.len()).is_break()
            {
                self.cache.stopped();
                return Err(EngineError::Cancelled);
            }
        }
        Ok(all)
    }

    /// The number of `ids` that [`Self::sync`] would not run again: everything that the
    /// session holds, if `ids` continues from there, or none.
    #[must_use]
    pub fn reusable(&self, ids: &[u32]) -> usize {
        let held = self.tokens.len();
        if ids.len() > held && ids.starts_with(&self.tokens) {
            held
        } else {
            0
        }
    }

    /// Makes the session hold exactly `ids`: keeps what it has if `ids` begins with
    /// it, otherwise starts over, and appends the rest. At least the last token is run,
    /// so that its logits are available.
    ///
    /// # Errors
    /// As [`Self::append_with`].
    pub fn sync(
        &mut self,
        ids: &[u32],
        want: Want,
        hooks: &mut Hooks<'_>,
    ) -> Result<Logits, EngineError> {
        let kept = self.reusable(ids);
        if kept < self.tokens.len() {
            self.reset();
        }
        self.append_with(&ids[kept..], want, hooks)
    }

    fn check(&self, ids: &[u32]) -> Result<(), EngineError> {
        let config = self.engine.config();
        // Ids that only pad the model's matrices have no Engram class.
        let classes = |store: &Arc<EngramStore>| store.addressing().classes().as_slice().len();
        let vocab = self.engine.engram().map_or(config.vocab, classes);
        let vocab = vocab.min(config.vocab);
        if let Some(index) = ids.iter().position(|&id| id as usize >= vocab) {
            return Err(EngineError::TokenId {
                id: ids[index],
                index,
                vocab,
            });
        }
        if let Some(index) = ids.iter().position(|&id| Some(id) == config.image_token) {
            return Err(EngineError::ImageToken {
                id: ids[index],
                index,
            });
        }
        let needed = self.tokens.len() + ids.len();
        if needed > self.context {
            return Err(EngineError::ContextFull {
                needed,
                context: self.context,
                model_max: config.context_length,
            });
        }
        Ok(())
    }

    /// Runs one chunk; returns the logits of its rows from `from` on.
    fn run_chunk(
        &mut self,
        ids: &[u32],
        cone: &Cone,
        from: usize,
        mut rows: Vec<Fetch>,
        hooks: &mut Hooks<'_>,
    ) -> Result<Vec<f32>, EngineError> {
        let forward = self.engine.forward();
        let (cache, scratch) = (&mut self.cache, &mut self.scratch);
        let (hook, began) = (hooks.between, Instant::now());
        let between = |done: usize, layers: usize| {
            let each = began.elapsed() / done.max(1) as u32;
            let left = each * (layers - done) as u32;
            hook.map_or(ControlFlow::Continue(()), |hook| hook(left))
        };
        let stoppable = hook.is_some() && ids.len() > KEPT_ROWS;
        let chunk = Chunk {
            ids,
            rows: &[ids.len()],
            cone,
            engram: &mut rows,
            trace: hooks.trace.as_deref_mut(),
            between: stoppable.then_some(&between),
        };
        self.engine.workers().run(|| {
            forward.chunk(&mut [cache], chunk, scratch)?;
            if from < ids.len() {
                Ok(forward.logits(scratch, ids.len() - from))
            } else {
                Ok(Vec::new())
            }
        })
    }
}
