//! A loaded model.

mod device;
mod draft;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use v4_files::gguf::{FileHashes, GgufFile};
use v4_tokenizer::Tokenizer;

use crate::compute::adapters::Adapter;
use crate::compute::arithmetic::RopeAngles;
use crate::compute::backend::cpu::Precision;
use crate::compute::backend::{Backend, Device};
use crate::compute::forward::{Drafter, Forward, KvPrecision, TapSites};
use crate::compute::weights::{Sources, Weights, draft_expert_tensors, expert_tensors};
use crate::compute::workers::Workers;
use crate::error::{AdapterError, EngineError};
use crate::model::{
    Copier, DraftConfig, LoadProgress, ModelConfig, is_draft, is_engram_table, is_expert,
};
use crate::plan::{MemoryPlan, PlanRequest};
use crate::residency::Budget;
use crate::residency::engram::{EngramOptions, EngramStore};
use crate::residency::experts::{ExpertOptions, ExpertStore};
use crate::storage::Fingerprint;

pub use draft::{DraftModel, FoundDraft, LeftOut, PlannedDraft};

/// How to run a model.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Worker threads; by default, one per core available to this process.
    pub threads: Option<usize>,
    /// Whether each worker is pinned to its own core.
    pub pin: bool,
    /// How products are computed.
    pub precision: Precision,
    /// How caches are stored.
    pub kv: KvPrecision,
    /// How the angles of the rotary embedding are computed.
    pub rope: RopeAngles,
    /// Whether a prompt's tokens skip the layers in which nothing depends on them
    /// (V4.1's decoder replay, spec 3.5). The results are the same bits.
    pub replay: bool,
    /// How V4.1's Engram rows are read.
    pub engram: EngramOptions,
    /// Closes the Engram gates, so that the tables add nothing. This is a different
    /// model, for measuring what the tables contribute.
    pub engram_off: bool,
    /// Whether to profile every operation: [`Engine::take_profile`]. Not with a card.
    pub profile: bool,
    /// Where weights are.
    pub weights: WeightPlacement,
    /// Bytes that the engine and its sessions may use together. If that is not enough
    /// for all weights, routed experts are read from disk when tokens need them.
    pub memory: Option<u64>,
    /// Context in tokens to plan memory for, at most the model's limit; sessions may be
    /// longer if there is room.
    pub context: usize,
    /// Tokens of a prompt to run at once, for the memory plan; without it,
    /// [`MemoryPlan::chunk`] says how many are best.
    pub chunk: Option<usize>,
    /// How experts are read.
    pub experts: ExpertOptions,
    /// Hashes of the file's blocks. Everything that is read from the file is compared
    /// with them before use: weights that every token needs when the model is opened,
    /// experts and rows when a token first needs them, and experts that are read from
    /// disk each time. A mismatch stops the engine.
    pub hashes: Option<Arc<FileHashes>>,
    /// The draft module to load.
    pub drafts: DraftModel,
    /// Tokens that sessions will read ahead at once (`Session::verify`), for the memory
    /// plan.
    pub ahead: usize,
    /// Bytes to reserve for adapters that will be loaded ([`Engine::load_adapter`]): where
    /// memory is short, fewer experts are kept in it.
    pub adapters: u64,
    /// The card to run the model on; without one, the CPU does. The results are the same bits,
    /// and sessions that were saved on one go on on the other. All weights are copied to the card
    /// when the model is opened; [`Self::weights`] and [`Self::memory`] are about the host's
    /// memory all the same.
    #[cfg(feature = "cuda")]
    pub card: Option<v4_cuda::AnyDriver>,
}

/// Where weights are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WeightPlacement {
    /// In the mapped file: read when needed, kept by the page cache, and shared with
    /// other processes.
    #[default]
    Mapped,
    /// The same, read when the model is opened and locked in memory.
    Locked,
    /// In the process's own memory, in huge pages if the system has them, read when the
    /// model is opened: a little faster, and nothing can evict them.
    Copied,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            threads: None,
            pin: false,
            precision: Precision::default(),
            kv: KvPrecision::default(),
            rope: RopeAngles::default(),
            replay: true,
            engram: EngramOptions::default(),
            engram_off: false,
            profile: false,
            weights: WeightPlacement::default(),
            memory: None,
            context: EngineOptions::DEFAULT_CHUNK,
            chunk: None,
            experts: ExpertOptions::default(),
            hashes: None,
            drafts: DraftModel::None,
            ahead: 0,
            adapters: 0,
            #[cfg(feature = "cuda")]
            card: None,
        }
    }
}

impl EngineOptions {
    /// Tokens of a prompt run at once with small buffers.
    pub const DEFAULT_CHUNK: usize = 512;

    /// What memory is planned for.
    #[must_use]
    pub fn plan_request(&self, threads: usize, model_max: usize) -> PlanRequest {
        PlanRequest {
            memory: self.memory,
            context: self.context.min(model_max),
            chunk: self.chunk,
            kv: self.kv,
            threads,
            engram: (!self.engram_off).then_some(self.engram.placement),
            engram_cache: self.engram.cache_bytes as u64,
            most_slots: self.experts.most_slots,
            hashes: self.hashes.as_ref().map_or(0, |h| h.memory_bytes()),
            adapters: self.adapters,
            ahead: self.ahead,
            // No file system in mind reads in larger ones.
            unit: 4096,
        }
    }
}

/// A model that is ready to run, with adapters or without. Shared by all its sessions.
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
    /// With its adapters.
    forward: Forward<Device>,
}

/// What is the same whatever the adapters.
#[derive(Debug)]
struct Shared {
    file: Arc<GgufFile>,
    tokenizer: Tokenizer,
    engram: Option<Arc<EngramStore>>,
    replay: bool,
    rope: RopeAngles,
    plan: MemoryPlan,
    experts: Option<Arc<ExpertStore>>,
    budget: Arc<Budget>,
    /// Without adapters.
    fingerprint: OnceLock<Fingerprint>,
    workers: Workers,
    drafter: Option<Drafter<Device>>,
    /// The draft module's file, if it has its own.
    draft_file: Option<Arc<GgufFile>>,
    left_out: Option<LeftOut>,
}

/// Increased whenever results change in any bit: caches with another value are useless.
const NUMBERS: u32 = 2;

impl Engine {
    /// Opens a GGUF file.
    ///
    /// # Errors
    /// If the file is damaged, does not match [`EngineOptions::hashes`], has another
    /// architecture, lacks a tensor or has one of the wrong shape, or stores Engram
    /// constants that do not follow from its tokenizer; if threads cannot be started; if
    /// weights that should be copied cannot be read or do not fit; if what must be in
    /// memory exceeds [`EngineOptions::memory`]; or if the card fails, has no memory for the
    /// model, or cannot do what is asked for.
    pub fn open(path: &Path, options: EngineOptions) -> Result<Arc<Self>, EngineError> {
        Self::open_with(path, options, &|_, _| ControlFlow::Continue(()))
    }

    /// [`Self::open`], reporting the progress of copying weights.
    ///
    /// # Errors
    /// As there, and [`EngineError::Cancelled`].
    pub fn open_with(
        path: &Path,
        options: EngineOptions,
        progress: LoadProgress<'_>,
    ) -> Result<Arc<Self>, EngineError> {
        let file = Arc::new(match &options.hashes {
            Some(hashes) => GgufFile::open_checked(path, Arc::clone(hashes))?,
            None => GgufFile::open(path)?,
        });
        let cfg = ModelConfig::from_gguf(&file)?;
        let tokenizer =
            Tokenizer::from_gguf(file.metadata()).map_err(|source| EngineError::Tokenizer {
                path: path.to_path_buf(),
                source,
            })?;
        if tokenizer.vocab_size() > cfg.vocab {
            return Err(EngineError::Model {
                path: path.to_path_buf(),
                what: format!(
                    "the tokenizer has {} tokens, but the model only {}: the file mixes two \
                     models, convert the checkpoint again",
                    tokenizer.vocab_size(),
                    cfg.vocab
                ),
            });
        }
        if tokenizer.eos().is_none() {
            return Err(EngineError::Model {
                path: path.to_path_buf(),
                what: "metadata key tokenizer.ggml.eos_token_id is missing, without which no \
                       answer would end; convert the published checkpoint with v4-convert, or set \
                       the key with a GGUF metadata editor"
                    .to_owned(),
            });
        }
        let engram = match &cfg.engram {
            Some(model) if !options.engram_off => Some(EngramStore::of_model(
                &file,
                model,
                &tokenizer,
                &options.engram,
            )?),
            _ => None,
        };
        let workers = Workers::start(options.threads, options.pin)?;
        let request = options.plan_request(workers.threads(), cfg.context_length);
        let PlannedDraft {
            plan,
            draft,
            left_out,
        } = options.drafts.plan(&file, &cfg, &request)?;
        let own = draft.as_ref().filter(|draft| draft.file.is_none());
        let experts = if plan.experts.streamed {
            let mut tensors = expert_tensors(&file, &cfg)?;
            if let Some(draft) = own {
                tensors.extend(draft_expert_tensors(&file, &draft.config)?);
            }
            let slots = plan.experts.slots_at_start;
            Some(ExpertStore::open(
                &file,
                tensors,
                slots,
                cfg.experts_used,
                &options.experts,
            )?)
        } else {
            None
        };
        let drafted = draft.as_ref().map(|draft| &draft.config.model);
        let backend = device::of(&options, [&cfg].into_iter().chain(drafted))?;
        let copier = match options.weights {
            WeightPlacement::Mapped | WeightPlacement::Locked => None,
            WeightPlacement::Copied => {
                let streamed = experts.is_some();
                Some(Copier::new(&file, streamed, own.is_some(), progress)?)
            }
        };
        let sources = Sources {
            copier: copier.as_ref(),
            experts: experts.as_ref(),
            first_streamed: 0,
            lock: options.weights == WeightPlacement::Locked,
        };
        let load = || Weights::load(&backend, &file, &cfg, sources);
        let weights = workers.run(load)?;
        let drafts = draft.as_ref().map(|draft| {
            let copied = options.weights == WeightPlacement::Copied;
            let load = || draft.load(&backend, &file, &cfg, &weights, sources, copied, progress);
            workers.run(load)
        });
        let drafts = drafts.transpose()?;
        backend.check()?;
        let draft_file = draft.as_ref().and_then(|draft| draft.file.clone());
        for file in [Some(&file), draft_file.as_ref()].into_iter().flatten() {
            if file.lost() {
                return Err(EngineError::FileLost {
                    path: file.path().to_path_buf(),
                });
            }
        }
        let whole = if experts.is_some() {
            0
        } else {
            plan.experts.bytes + plan.draft.expert_bytes
        };
        let layers = cfg.layers.len();
        let mut forward = Forward::new(backend, cfg, weights, options.kv, options.rope);
        if let Some(draft) = &draft {
            forward = forward.tapped(TapSites::of(&draft.config, layers));
        }
        let drafter = draft.zip(drafts);
        let drafter = drafter.map(|(draft, w)| Drafter::new(&forward, draft.config, w));
        let shared = Shared {
            budget: Budget::new(
                options.memory,
                // Adapters take theirs when they are loaded.
                plan.fixed() - plan.adapters + whole,
                plan.experts.least_slots,
                experts.clone(),
            ),
            plan,
            experts,
            tokenizer,
            rope: options.rope,
            engram,
            replay: options.replay,
            fingerprint: OnceLock::new(),
            workers,
            file,
            drafter,
            draft_file,
            left_out,
        };
        Ok(Arc::new(Self {
            shared: Arc::new(shared),
            forward,
        }))
    }

    /// Loads an adapter for this model: a folder with `adapter_config.json` and
    /// `adapter_model.safetensors`, saved by the PEFT library. It uses memory that sessions
    /// share, and changes nothing until [`Self::with_adapters`].
    ///
    /// # Errors
    /// If a file is missing or damaged, does not fit this model, needs something that
    /// cannot be done at run time, or does not fit in memory.
    pub fn load_adapter(&self, name: &str, path: &Path) -> Result<Arc<Adapter>, EngineError> {
        let adapter = Adapter::load(name, path, self.forward.sites(), self.budget())?;
        Ok(Arc::new(adapter))
    }

    /// The same model with these adapters and no others, applied in this order. It shares
    /// all weights, memory and threads with this one, but not sessions: neither uses what
    /// the other computed.
    ///
    /// # Errors
    /// An adapter that was loaded for another model.
    pub fn with_adapters(&self, adapters: Vec<Arc<Adapter>>) -> Result<Arc<Self>, EngineError> {
        let sites = self.forward.sites();
        if let Some(other) = adapters.iter().find(|a| !a.is_for(sites)) {
            let name = other.name().to_owned();
            return Err(AdapterError::OtherEngine { name }.into());
        }
        Ok(Arc::new(Self {
            shared: Arc::clone(&self.shared),
            forward: self.forward.with_adapters(adapters),
        }))
    }

    /// Its adapters.
    #[must_use]
    pub fn adapters(&self) -> &[Arc<Adapter>] {
        self.forward.adapters()
    }

    /// Bytes of buffers that adapters take while `rows` tokens are run.
    pub(crate) fn adapter_work_bytes(&self, rows: usize) -> u64 {
        let each = self.adapters().iter().map(|a| a.work_bytes(rows) as u64);
        each.max().unwrap_or(0)
    }

    /// The model's dimensions and constants.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        self.forward.config()
    }

    /// The tokenizer in the file.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.shared.tokenizer
    }

    /// The draft module, if one is loaded.
    #[must_use]
    pub fn draft(&self) -> Option<&DraftConfig> {
        self.drafter().map(Drafter::config)
    }

    /// The model's own draft module, if it was left out for want of memory
    /// ([`DraftModel::Fitting`]).
    #[must_use]
    pub fn draft_left_out(&self) -> Option<&LeftOut> {
        self.shared.left_out.as_ref()
    }

    /// The open file.
    #[must_use]
    pub fn file(&self) -> &GgufFile {
        &self.shared.file
    }

    /// Path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.shared.file.path()
    }

    /// The Engram tables, if the model has them and they are in use.
    #[must_use]
    pub fn engram(&self) -> Option<&Arc<EngramStore>> {
        self.shared.engram.as_ref()
    }

    /// The memory plan made when the model was opened.
    #[must_use]
    pub fn plan(&self) -> &MemoryPlan {
        &self.shared.plan
    }

    /// The routed experts, if they are read when tokens need them.
    #[must_use]
    pub fn experts(&self) -> Option<&Arc<ExpertStore>> {
        self.shared.experts.as_ref()
    }

    /// The memory that sessions share.
    #[must_use]
    pub fn budget(&self) -> &Arc<Budget> {
        &self.shared.budget
    }

    /// Identifies session files of this model with its adapters. Computed once: the first
    /// call reads a little of every tensor.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let shared = &self.shared;
        let own = shared.fingerprint.get_or_init(|| {
            let forward = self.forward();
            let mode = format!(
                "numbers {NUMBERS}, {:?}, {:?}, {:?} angles, engram {}",
                forward.backend().precision(),
                forward.kv_precision(),
                shared.rope,
                shared.engram.is_some()
            );
            Fingerprint::new(&shared.file, &mode)
        });
        let hashes = self.adapters().iter().map(|adapter| adapter.hashes());
        own.with_adapters(hashes)
    }

    /// Whether sessions of the other one are sessions of this one: the same open model with
    /// the same adapters.
    #[must_use]
    pub fn is_same_as(&self, other: &Self) -> bool {
        let (own, others) = (self.adapters(), other.adapters());
        let mut both = own.iter().zip(others);
        Arc::ptr_eq(&self.shared, &other.shared)
            && own.len() == others.len()
            && both.all(|(a, b)| Arc::ptr_eq(a, b))
    }

    /// Worker threads.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.shared.workers.threads()
    }

    /// Bytes of weights that a token's computation reads: all of them except unused
    /// experts, and the embeddings and Engram rows of other tokens.
    #[must_use]
    pub fn weight_bytes_per_token(&self) -> u64 {
        let c = self.config();
        self.shared
            .file
            .tensors()
            .iter()
            .map(|t| {
                if is_draft(&t.name) {
                    0
                } else if is_expert(&t.name) {
                    t.bytes / c.experts as u64 * c.experts_used as u64
                } else if t.name == "token_embd.weight" || t.name.contains("_tid2eid") {
                    t.bytes / c.vocab as u64
                } else if is_engram_table(&t.name) {
                    let rows = t.dims.get(1).copied().unwrap_or(1).max(1);
                    // A table of all layers is read once for each.
                    let read = c.engram.as_ref().map_or(0, |e| match &e.first_rows {
                        Some(firsts) => e.config.columns() * firsts.len(),
                        None => e.config.columns(),
                    });
                    t.bytes / rows * read as u64
                } else {
                    t.bytes
                }
            })
            .sum()
    }

    pub(crate) fn forward(&self) -> &Forward<Device> {
        &self.forward
    }

    /// Says whether what was computed may be used; to be asked after every value was read and
    /// before it is used.
    ///
    /// # Errors
    /// [`EngineError::FileLost`] once weights could not be read, and an error that names
    /// the change once something was found altered or somebody has written to the file. What
    /// went wrong with the card first, if anything did: from then on nothing is computed.
    pub(crate) fn check(&self) -> Result<(), EngineError> {
        self.check_device()?;
        let shared = &self.shared;
        for file in [Some(&shared.file), shared.draft_file.as_ref()]
            .into_iter()
            .flatten()
        {
            file.check_unchanged()?;
            if file.lost() {
                return Err(EngineError::FileLost {
                    path: file.path().to_path_buf(),
                });
            }
        }
        Ok(())
    }

    /// The file that the draft module is in.
    pub(crate) fn draft_path(&self) -> &Path {
        let other = self.shared.draft_file.as_ref();
        other.map_or(self.path(), |file| file.path())
    }

    pub(crate) fn drafter(&self) -> Option<&Drafter<Device>> {
        self.shared.drafter.as_ref()
    }

    pub(crate) fn replay(&self) -> bool {
        self.shared.replay
    }

    pub(crate) fn workers(&self) -> &Workers {
        &self.shared.workers
    }
}
