//! Where a step's time goes: the time, bytes and operations of each kind of operation.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use v4_quant::GgmlType;

/// A kind of operation of the forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Reading embeddings.
    Embedding,
    /// Products with a matrix of that type that every token uses.
    Dense(GgmlType),
    /// Routed and shared experts.
    Experts,
    /// Choosing experts.
    Router,
    /// Attention over the window and compressed entries.
    Attention,
    /// Scoring and choosing compressed entries.
    Indexer,
    /// Pooling tokens to entries.
    Compressor,
    /// Rounding and storing cache rows and index queries.
    CacheRows,
    /// Mixing residual streams, with the small matrices of the mix.
    HyperConnections,
    /// RMS norms.
    Norm,
    /// Rotary embedding.
    Rope,
    /// Engram gates; the rows are read in the background.
    Engram,
}

impl Operation {
    /// A word for it.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Dense(ty) => return format!("dense {ty}"),
            Self::Embedding => "embedding",
            Self::Experts => "experts",
            Self::Router => "router",
            Self::Attention => "attention",
            Self::Indexer => "indexer",
            Self::Compressor => "compressor",
            Self::CacheRows => "cache rows",
            Self::HyperConnections => "hyper-connections",
            Self::Norm => "norms",
            Self::Rope => "rope",
            Self::Engram => "engram",
        }
        .to_owned()
    }
}

/// What some operations took.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Work {
    /// How many there were.
    pub calls: u64,
    /// How long they took.
    pub time: Duration,
    /// Bytes of weights that they read, each once per call.
    pub weight_bytes: u64,
    /// Bytes of cache rows that they read, each once per call.
    pub cache_bytes: u64,
    /// Multiplications and additions of products with weights and of attention
    /// and indexer; what else is computed is little and not counted.
    pub operations: u64,
}

impl Work {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            calls: self.calls + other.calls,
            time: self.time + other.time,
            weight_bytes: self.weight_bytes + other.weight_bytes,
            cache_bytes: self.cache_bytes + other.cache_bytes,
            operations: self.operations + other.operations,
        }
    }
}

/// Work by kind of operation, in the order in which the kinds first came.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Profile {
    kinds: Vec<(Operation, Work)>,
}

impl Profile {
    /// Kinds of operations and their work.
    pub fn iter(&self) -> impl Iterator<Item = (Operation, Work)> {
        self.kinds.iter().copied()
    }

    /// All work.
    #[must_use]
    pub fn total(&self) -> Work {
        self.iter().fold(Work::default(), |sum, (_, w)| sum.plus(w))
    }

    /// Adds another profile to this one.
    pub fn add(&mut self, other: &Self) {
        for (kind, work) in other.iter() {
            self.record(kind, work);
        }
    }

    fn record(&mut self, kind: Operation, work: Work) {
        match self.kinds.iter_mut().find(|(k, _)| *k == kind) {
            Some((_, sum)) => *sum = sum.plus(work),
            None => self.kinds.push((kind, work)),
        }
    }
}

/// Records operations, if it is on.
#[derive(Debug, Default)]
pub(crate) struct Profiler {
    profile: Option<Mutex<Profile>>,
}

impl Profiler {
    pub fn new(on: bool) -> Self {
        Self {
            profile: on.then(Mutex::default),
        }
    }

    /// Whether operations are recorded.
    pub fn is_on(&self) -> bool {
        self.profile.is_some()
    }

    /// Runs an operation. `work` tells what it reads and computes, and is asked
    /// only when the profiler is on, before the operation.
    pub fn time<T>(
        &self,
        kind: Operation,
        work: impl FnOnce() -> Work,
        run: impl FnOnce() -> T,
    ) -> T {
        let Some(profile) = &self.profile else {
            return run();
        };
        let work = work();
        let start = Instant::now();
        let result = run();
        let work = Work {
            calls: 1,
            time: start.elapsed(),
            ..work
        };
        let mut profile = profile.lock().unwrap_or_else(PoisonError::into_inner);
        profile.record(kind, work);
        result
    }

    /// What was recorded since the last call.
    pub fn take(&self) -> Option<Profile> {
        let profile = self.profile.as_ref()?;
        let mut profile = profile.lock().unwrap_or_else(PoisonError::into_inner);
        Some(std::mem::take(&mut *profile))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_of_one_kind_is_added_up() {
        let profiler = Profiler::new(true);
        let work = |bytes| Work {
            weight_bytes: bytes,
            ..Work::default()
        };
        let kind = Operation::Dense(GgmlType::Q8_0);
        assert_eq!(profiler.time(kind, || work(5), || 1), 1);
        profiler.time(Operation::Norm, || work(1), || ());
        profiler.time(kind, || work(2), || ());
        let mut profile = profiler.take().unwrap();
        assert_eq!(profiler.take(), Some(Profile::default()));
        profile.add(&profile.clone());
        let kinds: Vec<_> = profile.iter().collect();
        assert_eq!((kinds.len(), kinds[0].0, kinds[0].1.calls), (2, kind, 4));
        assert_eq!(profile.total().weight_bytes, 16);
    }

    #[test]
    fn work_is_not_asked_for_when_off() {
        let profiler = Profiler::new(false);
        profiler.time(Operation::Norm, || unreachable!(), || ());
        assert_eq!(profiler.take(), None);
    }
}
