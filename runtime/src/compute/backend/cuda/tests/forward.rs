//! The whole forward pass; more of it is compared by engines, in `runtime/tests/cuda`.

use std::sync::Arc;

use v4_cuda::Driver;
use v4_cuda_shim::{Shim, ShimOptions};
use v4_files::gguf::GgufFile;
use v4_tokenizer::Tokenizer;

use super::{Found, Timed, bytes, same, tiny, workers};
use crate::compute::arithmetic::RopeAngles;
use crate::compute::backend::Backend;
use crate::compute::backend::cpu::{Cpu, Precision};
use crate::compute::backend::cuda::Cuda;
use crate::compute::forward::{Cache, Chunk, Cone, Forward, KvPrecision, Scratch};
use crate::compute::weights::{Sources, Weights};
use crate::model::ModelConfig;
use crate::residency::engram::{EngramOptions, EngramStore};

/// A model's file, and what is the same on all backends.
pub(super) struct Model {
    file: Arc<GgufFile>,
    pub(super) cfg: ModelConfig,
    engram: Option<Arc<EngramStore>>,
}

impl Model {
    pub(super) fn open(path: &std::path::Path) -> Self {
        let file = Arc::new(GgufFile::open(path).unwrap());
        let cfg = ModelConfig::from_gguf(&file).unwrap();
        let tokenizer = Tokenizer::from_gguf(file.metadata()).unwrap();
        let options = EngramOptions::default();
        let engram = cfg.engram.as_ref();
        let engram = engram.map(|m| EngramStore::of_model(&file, m, &tokenizer, &options).unwrap());
        Self { file, cfg, engram }
    }

    pub(super) fn on<B: Backend>(&self, backend: B, kv: KvPrecision) -> Forward<B> {
        let sources = Sources::default();
        let load = || Weights::load(&backend, &self.file, &self.cfg, sources).unwrap();
        let weights = workers().run(load);
        Forward::new(backend, self.cfg.clone(), weights, kv, RopeAngles::Exact)
    }
}

/// A sequence in the course of being read.
pub(super) struct Reader<'a, B: Backend> {
    model: &'a Model,
    forward: &'a Forward<B>,
    pub(super) cache: Cache<B>,
    pub(super) scratch: Scratch<B>,
    seen: Vec<u32>,
    found: Found,
}

impl<'a, B: Backend> Reader<'a, B> {
    pub(super) fn new(model: &'a Model, forward: &'a Forward<B>) -> Self {
        Self {
            model,
            forward,
            cache: forward.cache(),
            scratch: Scratch::default(),
            seen: Vec::new(),
            found: Vec::new(),
        }
    }

    /// Reads tokens as one call, in chunks of these lengths, and notes the logits of the last.
    fn read(&mut self, ids: &[u32], chunks: &[usize]) {
        let end = self.seen.len() + ids.len();
        let cone = Cone::new(&self.model.cfg, end - 1, end);
        self.read_within(ids, chunks, &cone);
        let logits = workers().run(|| self.forward.logits(&mut self.scratch, 1));
        let name = format!("logits after {end} tokens");
        self.found.push((name, bytes(&logits)));
    }

    pub(super) fn read_within(&mut self, mut ids: &[u32], chunks: &[usize], cone: &Cone) {
        for &n in chunks {
            let (now, rest) = ids.split_at(n);
            let before = &self.seen[self.seen.len().saturating_sub(8)..];
            let engram = self.model.engram.as_ref();
            let fetched = engram.map(|store| store.fetch(before, now).unwrap());
            let mut fetched: Vec<_> = fetched.into_iter().collect();
            let chunk = Chunk {
                ids: now,
                rows: &[n],
                cone,
                engram: &mut fetched,
                trace: None,
                between: None,
            };
            let (forward, cache, scratch) = (self.forward, &mut self.cache, &mut self.scratch);
            workers()
                .run(|| forward.chunk(&mut [cache], chunk, scratch))
                .unwrap();
            self.seen.extend(now);
            ids = rest;
        }
        assert!(ids.is_empty());
    }

    /// Notes all that a session file would have.
    fn save(&mut self) -> (Vec<u8>, Vec<u8>) {
        let (b, c, len) = (self.forward.backend(), &self.model.cfg, self.seen.len());
        let rows = self.cache.saved_rows(b, c, 0, len);
        let state = self.cache.saved_state(b, c, len);
        self.found
            .push((format!("rows of {len} tokens"), rows.clone()));
        self.found
            .push((format!("state of {len} tokens"), state.clone()));
        (rows, state)
    }

    /// A reader that goes on from what was saved.
    fn restore(&self, seen: &[u32], (rows, state): &(Vec<u8>, Vec<u8>)) -> Self {
        let mut reader = Self::new(self.model, self.forward);
        let (b, c) = (self.forward.backend(), &self.model.cfg);
        let cache = &mut reader.cache;
        cache.restore_rows(b, c, 0, seen.len(), rows).unwrap();
        cache.restore_state(b, c, seen.len(), state).unwrap();
        reader.seen = seen.to_vec();
        reader
    }
}

pub(super) fn prompt(n: usize, vocab: usize) -> Vec<u32> {
    let mut x = 12_345u32;
    let mut next = || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 8) % vocab as u32
    };
    (0..n).map(|_| next()).collect()
}

#[track_caller]
pub(super) fn no_fault<D: Driver>(forward: &Forward<Cuda<D>>) {
    if let Some(fault) = forward.backend().fault() {
        panic!("{fault}");
    }
}

/// A prompt in chunks, then tokens one by one; what was saved on either backend goes on on the
/// other.
fn whole(checkpoint: &str, precision: Precision, kv: KvPrecision, options: ShimOptions) {
    let what = format!("{checkpoint}, {precision:?}, {kv:?}");
    let _timed = Timed::new(&what);
    let model = Model::open(&tiny(checkpoint, "native"));
    let ids = prompt(46, model.cfg.vocab.min(4000));
    let cpu = model.on(Cpu::new(precision), kv);
    let shim = Arc::new(Shim::new(options));
    let cuda = model.on(Cuda::new(&shim, precision).unwrap(), kv);

    let mut expected = Reader::new(&model, &cpu);
    let mut found = Reader::new(&model, &cuda);
    let saved = [read_all(&mut expected, &ids), read_all(&mut found, &ids)];
    no_fault(&cuda);
    assert!(shim.counts().kernels > 0);
    same(&found.found, &expected.found, &what);

    let more = &ids[..3];
    let mut on_cpu = expected.restore(&ids, &saved[1]);
    let mut on_card = found.restore(&ids, &saved[0]);
    on_cpu.read(more, &[1, 2]);
    on_cpu.save();
    on_card.read(more, &[1, 2]);
    on_card.save();
    no_fault(&cuda);
    same(&on_card.found, &on_cpu.found, &format!("{what}, restored"));
}

fn read_all<B: Backend>(reader: &mut Reader<'_, B>, ids: &[u32]) -> (Vec<u8>, Vec<u8>) {
    reader.read(&ids[..41], &[24, 13, 4]);
    reader.save();
    for at in 41..ids.len() {
        reader.read(&ids[at..=at], &[1]);
    }
    reader.save()
}

#[test]
fn v4() {
    let options = ShimOptions::random(3);
    whole("tiny-v4", Precision::Fast, KvPrecision::Published, options);
}

#[test]
fn v41() {
    let options = ShimOptions::random(4);
    whole("tiny-v41", Precision::Fast, KvPrecision::Published, options);
}
