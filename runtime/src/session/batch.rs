//! Steps that compute one token for each of several sessions.

use std::sync::Arc;

use super::{Logits, Session};
use crate::compute::backend::cpu::Cpu;
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
    scratch: Scratch<Cpu>,
    share: Option<Share>,
    /// What the largest step took: buffers do not shrink.
    bytes: u64,
}

/// What a session brings to a step.
struct Member<'a> {
    cache: &'a mut Cache<Cpu>,
    id: u32,
    rows: Option<Fetch>,
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
    /// done. Experts or Engram rows that cannot be read, an altered file: then all
    /// sessions are reset.
    ///
    /// # Panics
    /// If the sessions are of different engines, or of engines with other adapters.
    pub fn step(
        &mut self,
        sessions: &mut [(&mut Session, u32)],
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
        self.reserve(first, sessions.len(), context)?;
        // Those that cannot take a token are left out.
        let prepare = |session: &mut Session, id: u32| {
            session.check(&[id])?;
            session.reserve(session.tokens.len() + 1, 1, 1)?;
            session.fetch(&[id])
        };
        let mut failed = Vec::new();
        let mut members = Vec::new();
        for (session, id) in &mut *sessions {
            match prepare(session, *id) {
                Ok(rows) => {
                    failed.push(None);
                    members.push(Member {
                        cache: &mut session.cache,
                        id: *id,
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
        // Weights that could not be read were taken for zeros.
        let logits = match ran.and_then(|logits| engine.check_file().map(|()| logits)) {
            Ok(logits) => logits,
            Err(error) => {
                sessions.iter_mut().for_each(|(session, _)| session.reset());
                return Err(error);
            }
        };
        let vocab = engine.config().vocab;
        let mut rows = logits.chunks_exact(vocab);
        let results = sessions
            .iter_mut()
            .zip(failed)
            .map(|((session, id), failed)| {
                if let Some(error) = failed {
                    return Err(error);
                }
                let data = rows.next().unwrap_or_default().to_vec();
                let position = session.tokens.len();
                if !data.iter().all(|v| v.is_finite()) {
                    session.reset();
                    return Err(EngineError::NotFinite { position });
                }
                session.tokens.push(*id);
                Ok(Logits {
                    first: position,
                    vocab,
                    data,
                })
            });
        Ok(results.collect())
    }

    fn run(
        scratch: &mut Scratch<Cpu>,
        engine: &Engine,
        members: Vec<Member<'_>>,
    ) -> Result<Vec<f32>, EngineError> {
        let forward = engine.forward();
        let cone = Cone::full(engine.config());
        let ids: Vec<u32> = members.iter().map(|member| member.id).collect();
        let (mut caches, mut rows) = (Vec::new(), Vec::new());
        for member in members {
            caches.push(member.cache);
            rows.extend(member.rows);
        }
        let chunk = Chunk {
            ids: &ids,
            cone: &cone,
            engram: &mut rows,
            trace: None,
        };
        engine.workers().run(|| {
            forward.chunk(&mut caches, chunk, scratch)?;
            Ok(forward.logits(scratch, ids.len()))
        })
    }

    /// Reserves memory for `rows` sessions of at most `context` tokens.
    fn reserve(&mut self, one: &Session, rows: usize, context: usize) -> Result<(), EngineError> {
        let engine = &one.engine;
        let bytes = scratch_bytes(engine.config(), rows, context, engine.threads(), rows)
            + engine.adapter_work_bytes(rows);
        let bytes = bytes.next_multiple_of(1 << 20).max(self.bytes);
        let share = self
            .share
            .get_or_insert_with(|| Share::new(engine.budget()));
        share.set(bytes, || {
            let what = format!("the model with a step of {rows} sessions and the open sessions");
            (what, ", or fewer sessions at once".to_owned())
        })?;
        self.bytes = bytes;
        Ok(())
    }
}
