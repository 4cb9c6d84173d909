//! Models, engines on CPU and card, and what comes of them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use safetensors::SafeTensors;
use v4_convert::plan::{Drafts, Plan, PlanOptions, Vision};
use v4_convert::recipe::Recipe;
use v4_convert::write::{Watch, WriteOptions, write};
use v4_cuda_shim::{Shim, ShimOptions};
use v4_runtime::storage::SessionLog;
use v4_runtime::{DraftModel, Engine, EngineError, EngineOptions, KvPrecision, Logits, Precision};
use v4_runtime::{Session, Trace};

/// Both families.
pub const MODELS: [&str; 2] = ["tiny-v4", "tiny-v41"];

/// How models are mostly run.
pub const FAST: (Precision, KvPrecision) = (Precision::Fast, KvPrecision::Published);

/// Without any rounding that is not needed.
pub const EXACT: (Precision, KvPrecision) = (Precision::Exact, KvPrecision::F32);

/// A tiny checkpoint of `tests/data`, with its drafts if it has any, converted once per run.
pub fn model(name: &str) -> PathBuf {
    static MADE: Mutex<Vec<String>> = Mutex::new(Vec::new());
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| tempfile::tempdir().unwrap()).path();
    let path = folder.join(format!("{name}.gguf"));
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if !made.iter().any(|made| made == name) {
        let options = PlanOptions {
            recipe: Recipe::load("native").unwrap(),
            drafts: Drafts::Keep,
            vision: Vision::Drop,
            name: None,
            split: None,
        };
        let plan = Plan::new(&checkpoint(name, folder), &options).unwrap();
        write(&plan, &path, WriteOptions::default(), &Watch::default()).unwrap();
        made.push(name.to_owned());
    }
    path
}

/// A checkpoint: one with drafts shares its target's shards, as `tests/data/assemble` says.
fn checkpoint(name: &str, folder: &Path) -> PathBuf {
    let data = v4_fixtures::data();
    if target(name) == name {
        return data.join(name);
    }
    let out = folder.join(format!("{name}.checkpoint"));
    fs::create_dir(&out).unwrap();
    for entry in data.join(name).read_dir().unwrap() {
        let entry = entry.unwrap();
        symlink(entry.path(), out.join(entry.file_name())).unwrap();
    }
    for shard in 1..=3 {
        let from = format!("model-0000{shard}-of-00003.safetensors");
        let to = format!("model-0000{shard}-of-00004.safetensors");
        symlink(data.join(target(name)).join(from), out.join(to)).unwrap();
    }
    out
}

/// The model that a draft module belongs to.
fn target(name: &str) -> &str {
    let kind = name
        .strip_suffix("-mtp")
        .or_else(|| name.strip_suffix("-dspark"));
    kind.unwrap_or(name)
}

/// Text in a model's tokens.
pub fn text(name: &str) -> Vec<u32> {
    let path = v4_fixtures::data()
        .join(target(name))
        .join("golden.safetensors");
    let bytes = fs::read(path).unwrap();
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    let ids = golden.tensor("long.ids").unwrap();
    let ids = ids.data().as_chunks::<4>().0.iter();
    ids.map(|id| u32::from_le_bytes(*id)).collect()
}

pub fn options((precision, kv): (Precision, KvPrecision)) -> EngineOptions {
    EngineOptions {
        threads: Some(2),
        precision,
        kv,
        drafts: DraftModel::Any,
        ..EngineOptions::default()
    }
}

/// An engine on the CPU.
pub fn on_cpu(name: &str, kind: (Precision, KvPrecision)) -> Arc<Engine> {
    Engine::open(&model(name), options(kind)).unwrap()
}

/// An engine on a card.
pub struct Card {
    pub engine: Arc<Engine>,
    pub shim: Arc<Shim>,
}

impl Card {
    pub fn open(
        name: &str,
        kind: (Precision, KvPrecision),
        shim: ShimOptions,
    ) -> Result<Self, EngineError> {
        let shim = Arc::new(Shim::new(shim));
        let options = EngineOptions {
            card: Some(Arc::clone(&shim).into()),
            ..options(kind)
        };
        let engine = Engine::open(&model(name), options)?;
        Ok(Self { engine, shim })
    }
}

/// Does the same with both, and compares what comes of it.
#[track_caller]
pub fn compare(
    name: &str,
    kind: (Precision, KvPrecision),
    shim: ShimOptions,
    run: impl Fn(&Arc<Engine>, &mut Found),
) {
    let what = format!("{name}, {kind:?}, {:?}, {:?}", shim.schedule, shim.order);
    let began = Instant::now();
    let (mut expected, mut found) = (Found::default(), Found::default());
    run(&on_cpu(name, kind), &mut expected);
    let card = Card::open(name, kind, shim).unwrap();
    assert!(card.engine.card().is_some());
    run(&card.engine, &mut found);
    assert!(card.shim.counts().kernels > 100);
    found.same(&expected, &what);
    println!("{what}: {:.1} s", began.elapsed().as_secs_f64());
}

/// What came of something, by name.
#[derive(Debug, Default)]
pub struct Found(Vec<(String, Vec<u8>)>);

impl Found {
    pub fn bytes(&mut self, what: &str, bytes: impl Into<Vec<u8>>) {
        self.0.push((what.to_owned(), bytes.into()));
    }

    pub fn floats(&mut self, what: &str, values: &[f32]) {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes());
        self.bytes(what, bytes.collect::<Vec<u8>>());
    }

    /// The text of it, where that says all.
    pub fn text(&mut self, what: &str, of: impl std::fmt::Debug) {
        self.bytes(what, format!("{of:?}"));
    }

    pub fn logits(&mut self, what: &str, logits: &Logits) {
        let what = format!("{what}, {} rows from {} on", logits.rows(), logits.first);
        self.floats(&what, &logits.data);
    }

    pub fn trace(&mut self, trace: &Trace) {
        for (l, layer) in &trace.layers {
            self.text(&format!("experts of layer {l}"), &layer.experts);
            self.text(&format!("Engram rows of layer {l}"), &layer.engram_rows);
            self.floats(&format!("margins of layer {l}"), &layer.expert_margins);
            self.floats(&format!("index of layer {l}"), &layer.index_margins);
            self.floats(&format!("streams of layer {l}"), &layer.streams);
        }
    }

    /// All of a session that its file has.
    pub fn session(&mut self, what: &str, session: &Session) {
        self.bytes(what, saved(session));
        self.text("rows", session.layer_rows());
    }

    #[track_caller]
    pub fn same(&self, expected: &Self, of: &str) {
        assert!(!expected.0.is_empty());
        assert_eq!(self.0.len(), expected.0.len(), "{of}");
        self.is_beginning_of(expected, of);
    }

    /// That all that is there is the same; something may be missing at the end.
    #[track_caller]
    pub fn is_beginning_of(&self, expected: &Self, of: &str) {
        assert!(self.0.len() <= expected.0.len(), "{of}");
        for (i, (found, expected)) in self.0.iter().zip(&expected.0).enumerate() {
            let what = &expected.0;
            assert_eq!(&found.0, what, "{of}, number {i}");
            let both = found.1.iter().zip(&expected.1);
            let differs = both.take_while(|(a, b)| a == b).count();
            assert!(
                found.1 == expected.1,
                "{of}: {what} (number {i}) differs at byte {differs} of {}",
                expected.1.len()
            );
        }
    }
}

/// A session's file.
pub fn saved(session: &Session) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.session");
    let engine = session.engine();
    let mut log = SessionLog::open(&path, engine.fingerprint(), None).unwrap();
    session.save(&mut log).unwrap();
    drop(log);
    fs::read(path).unwrap()
}

/// A session that goes on from a file.
pub fn restored(engine: &Arc<Engine>, file: &[u8]) -> Session {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.session");
    fs::write(&path, file).unwrap();
    let log = SessionLog::open(&path, engine.fingerprint(), None).unwrap();
    Session::restore(engine, 512, 40, &log, usize::MAX).unwrap()
}

/// The likeliest token; of equal ones the first.
pub fn best(logits: &[f32]) -> u32 {
    let better = |best: usize, i: usize| if logits[i] > logits[best] { i } else { best };
    (0..logits.len()).fold(0, better) as u32
}
