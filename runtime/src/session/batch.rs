//! Steps that read one token, or a few, for each of several sessions.

use std::sync::Arc;

use super::{Logits, Session};
use crate::compute::backend::Device;
use crate::compute::forward::{Cache, Chunk, Cone, Scratch};
use crate::engine::Engine;
use crate::error::EngineError;
use crate::plan::scratch_bytes;
use crate::residency::Share;
use crate::residency::engram::Fetch;

/// Steps several sessions together: weights are read once for all of them, which is most
/// of what a token costs. Every session gets the bits that it would get alone.
#[derive(Debug, Default)]
pub struct Batch {
    scratch: Scratch<Device>,
    share: Option<Share>,
    /// What the largest step took: buffers do not shrink.
    bytes: u64,
}

/// What a session brings to a step.
struct Member<'a> {
    cache: &'a mut Cache<Device>,
    ids: &'a [u32],
    rows: Vec<Fetch>,
}

impl Batch {
    /// Buffers for steps, empty at first.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Releases the memory of its buffers.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Appends one token to each session and returns the logits after it, in their order.
    /// An error of one session is that of [`Session::append`], and leaves the others
    /// alone.
    ///
    /// # Errors
    /// [`EngineError::Memory`] without room for the step's buffers: then nothing was
    /// done. Experts or Engram rows that cannot be read, an altered file, a card that fails:
    /// then all sessions are reset.
    ///
    /// # Panics
    /// If the sessions are of different engines, or of engines with other adapters.
    pub fn step(
        &mut self,
        sessions: &mut [(&mut Session, u32)],
    ) -> Result<Vec<Result<Logits, EngineError>>, EngineError> {
        let one = |(session, id)| (session, std::slice::from_ref(id));
        let sessions = sessions
            .iter_mut()
            .map(|(session, id)| (&mut **session, &*id));
        self.read(&mut sessions.map(one).collect::<Vec<_>>(), false)
    }

    /// [`Session::verify`] for several sessions at once, each with tokens of its own.
    ///
    /// # Errors
    /// [`EngineError::Memory`] without room for the step's buffers. Experts or Engram rows
    /// that cannot be read, an altered file, a card that fails. All sessions are as they were
    /// then.
    ///
    /// # Panics
    /// If the sessions are of different engines, or of engines with other adapters, or one
    /// has no tokens or more than [`Session::MOST_AHEAD`].
    pub fn verify(
        &mut self,
        sessions: &mut [(&mut Session, &[u32])],
    ) -> Result<Vec<Result<Logits, EngineError>>, EngineError> {
        self.read(sessions, true)
    }

    /// Reads tokens: `ahead`, or to append them.
    fn read(
        &mut self,
        sessions: &mut [(&mut Session, &[u32])],
        ahead: bool,
    ) -> Result<Vec<Result<Logits, EngineError>>, EngineError> {
        let Some((first, _)) = sessions.first() else {
            return Ok(Vec::new());
        };
        let engine = Arc::clone(&first.engine);
        for (session, _) in &*sessions {
            assert!(
                session.engine.is_same_as(&engine),
                "the sessions belong to two models"
            );
        }
        let context = sessions.iter().map(|(s, _)| s.context).max().unwrap_or(0);
        let rows = sessions.iter().map(|(_, ids)| ids.len()).sum();
        self.reserve(first, sessions.len(), rows, context)?;
        // Those that cannot take a token are left out.
        let prepare = |session: &mut Session, ids: &[u32]| {
            if ahead {
                session.prepare_ahead(ids, 0)?;
            } else {
                session.discard();
                session.check(ids)?;
                session.reserve(session.tokens.len() + ids.len(), 1, 1)?;
            }
            let fetched = session.fetch(ids);
            if fetched.is_err() {
                session.discard();
            }
            fetched
        };
        let mut failed = Vec::new();
        let mut members = Vec::new();
        for (session, ids) in &mut *sessions {
            match prepare(session, ids) {
                Ok(rows) => {
                    failed.push(None);
                    members.push(Member {
                        cache: &mut session.cache,
                        ids,
                        rows,
                    });
                }
                Err(error) => failed.push(Some(error)),
            }
        }
        let ran = match members.is_empty() {
            true => Ok(Vec::new()),
            false => Self::run(&mut self.scratch, &engine, members),
        };
        // See `Session::append_with`.
        let logits = match ran.and_then(|logits| engine.check().map(|()| logits)) {
            Ok(logits) => logits,
            Err(error) => {
                for (session, _) in sessions {
                    match ahead {
                        true => session.discard(),
                        false => session.reset(),
                    }
                }
                return Err(error);
            }
        };
        let vocab = engine.config().vocab;
        let mut rest = logits.as_slice();
        let results = sessions
            .iter_mut()
            .zip(failed)
            .map(|((session, ids), failed)| {
                if let Some(error) = failed {
                    return Err(error);
                }
                let (data, others) = rest.split_at(ids.len() * vocab);
                rest = others;
                if ahead {
                    return session.read_ahead(ids, data.to_vec());
                }
                let first = session.tokens.len();
                if !data.iter().all(|v| v.is_finite()) {
                    session.reset();
                    return Err(EngineError::NotFinite { position: first });
                }
                session.tokens.extend_from_slice(ids);
                let data = data.to_vec();
                Ok(Logits { first, vocab, data })
            });
        Ok(results.collect())
    }

    fn run(
        scratch: &mut Scratch<Device>,
        engine: &Engine,
        members: Vec<Member<'_>>,
    ) -> Result<Vec<f32>, EngineError> {
        let forward = engine.forward();
        let cone = Cone::full(engine.config());
        let mut ids = Vec::new();
        let (mut caches, mut rows, mut fetched) = (Vec::new(), Vec::new(), Vec::new());
        for member in members {
            caches.push(member.cache);
            ids.extend_from_slice(member.ids);
            rows.push(member.ids.len());
            fetched.extend(member.rows);
        }
        let chunk = Chunk {
            ids: &ids,
            rows: &rows,
            cone: &cone,
            engram: &mut fetched,
            trace: None,
            between: None,
        };
        engine.workers().run(|| {
            forward.chunk(&mut caches, chunk, scratch)?;
            Ok(forward.logits(scratch, ids.len()))
        })
    }

    /// Reserves memory for `rows` tokens of `sessions` sessions of at most `context` tokens.
    fn reserve(
        &mut self,
        one: &Session,
        sessions: usize,
        rows: usize,
        context: usize,
    ) -> Result<(), EngineError> {
        let engine = &one.engine;
        let bytes = scratch_bytes(engine.config(), rows, context, engine.threads(), rows)
            + engine.adapter_work_bytes(rows);
        let bytes = bytes.next_multiple_of(1 << 20).max(self.bytes);
        let share = self
            .share
            .get_or_insert_with(|| Share::new(engine.budget()));
        share.set(bytes, || {
            let what =
                format!("the model with a step of {sessions} sessions and the open sessions");
            (what, ", or fewer sessions at once".to_owned())
        })?;
        self.bytes = bytes;
        Ok(())
    }
}
