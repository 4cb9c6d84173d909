//! Models: opening, facts, plans.

use std::ffi::{CString, c_char, c_void};
use std::ops::ControlFlow;
use std::path::Path;
use std::ptr::null;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use v4_files::gguf::GgufFile;
use v4_files::io::ReadMode;
use v4_runtime::generation::DraftOptions;
use v4_runtime::model::ModelConfig;
use v4_runtime::plan::MemoryPlan;
use v4_runtime::residency::engram::{EngramOptions, EngramPlacement};
use v4_runtime::residency::experts::ExpertOptions;
use v4_runtime::residency::limits;
use v4_runtime::{
    DraftModel, Engine, EngineError, EngineOptions, KvPrecision, LeftOut, Precision,
    WeightPlacement,
};
use v4_trust::{Policy, Trusted, Verify};

use crate::callback::{NO_TOKEN, v4_progress_fn};
use crate::drafts::{self, Drafts};
use crate::failure::{Failure, Outcome, with_fields};
use crate::guard::guard;
use crate::layout::{Filled, c_struct, read, size32};
use crate::log::{self, Level};
use crate::pointer::{self, User};
use crate::status::v4_status;

/// Context that memory is planned for where the caller names none, in tokens.
const DEFAULT_CONTEXT: u32 = 32_768;

c_struct! {
    /// How to run a model.
    v4_engine_options, first 56, {
        size: u32,
        threads: u32,
        precision: i32,
        kv: i32,
        weights: i32,
        pin: u32,
        memory: u64,
        context: u32,
        chunk: u32,
        progress: v4_progress_fn,
        user: *mut c_void,
        reads: i32,
        engram: i32,
        require_signed: u32,
        verify: i32,
        signers: *const *const c_char,
        signer_count: usize,
        draft: i32,
        reserved: u32,
        drafts: *const c_char,
    }
}

c_struct! {
    /// What a model is.
    v4_facts, first 96, {
        size: u32,
        bos: u32,
        eos: u32,
        pad: u32,
        vocab: u32,
        context: u32,
        layers: u32,
        embedding: u32,
        experts: u32,
        experts_used: u32,
        engram_layers: u32,
        threads: u32,
        file_bytes: u64,
        weight_bytes_per_token: u64,
        architecture: *const c_char,
        name: *const c_char,
        path: *const c_char,
        isa: *const c_char,
        signer: *const c_char,
        trust: *const c_char,
        draft: *const c_char,
        draft_blocks: u32,
        draft_tokens: u32,
    }
}

c_struct! {
    /// Where every group of bytes goes.
    v4_plan, first 112, {
        size: u32,
        context: u32,
        streamed: u32,
        experts: u32,
        expert_slots: u32,
        threads: u32,
        total: u64,
        allowed: u64,
        dense: u64,
        embedding: u64,
        expert_bytes: u64,
        expert_slot_bytes: u64,
        engram_tables: u64,
        engram_memory: u64,
        kv: u64,
        scratch: u64,
        program: u64,
        draft: u64,
        ahead: u64,
        draft_needed: u64,
    }
}

/// A model.
#[derive(Debug)]
pub struct v4_engine {
    pub(crate) engine: Arc<Engine>,
    /// Tokens of a session, and of a chunk, where the session does not say.
    pub(crate) context: usize,
    pub(crate) chunk: usize,
    /// What drafts the answers of its sessions.
    pub(crate) drafts: Drafts,
    architecture: CString,
    name: CString,
    path: CString,
    isa: CString,
    signer: Option<CString>,
    trust: CString,
    draft: Option<CString>,
    /// What was asked of the model, and is of adapters.
    policy: Policy,
}

/// Most signers that one may name.
const MOST_SIGNERS: usize = 64;

fn no_such(what: &str, number: i32) -> Failure {
    Failure::argument(format!("{number} is not a {what}"))
}

impl v4_engine_options {
    /// Of the engine, with a draft module of which nothing is known yet.
    ///
    /// # Safety
    /// `drafts` is as the header says.
    unsafe fn engine(&self) -> Outcome<EngineOptions> {
        let precision = match self.precision {
            0 => Precision::Fast,
            1 => Precision::Exact,
            n => return Err(no_such("precision", n)),
        };
        let kv = match (self.kv, precision) {
            (0, Precision::Fast) | (1, _) => KvPrecision::Published,
            (0, Precision::Exact) | (2, _) => KvPrecision::F32,
            (n, _) => return Err(no_such("kv", n)),
        };
        let weights = match self.weights {
            0 => WeightPlacement::Mapped,
            1 => WeightPlacement::Locked,
            2 => WeightPlacement::Copied,
            n => return Err(no_such("weights", n)),
        };
        let reads = match self.reads {
            0 => ReadMode::Auto,
            1 => ReadMode::Uring,
            2 => ReadMode::Threads,
            n => return Err(no_such("way to read", n)),
        };
        let placement = match self.engram {
            0 => EngramPlacement::Disk,
            1 => EngramPlacement::Memory,
            n => return Err(no_such("place for Engram tables", n)),
        };
        if self.reserved != 0 {
            let what = "v4_engine_options.reserved must be 0";
            return Err(Failure::argument(what));
        }
        let file = match self.drafts.is_null() {
            true => None,
            // SAFETY: the caller's.
            false => Some(unsafe { pointer::path(self.drafts, "drafts") }?),
        };
        let or = |n: u32, default: u32| (if n == 0 { default } else { n }) as usize;
        Ok(EngineOptions {
            threads: (self.threads != 0).then_some(self.threads as usize),
            pin: self.pin != 0,
            precision,
            kv,
            weights,
            memory: match self.memory {
                0 => limits().safe(),
                u64::MAX => None,
                bytes => Some(bytes),
            },
            context: or(self.context, DEFAULT_CONTEXT),
            chunk: (self.chunk != 0).then_some(self.chunk as usize),
            engram: EngramOptions {
                placement,
                reads,
                ..EngramOptions::default()
            },
            experts: ExpertOptions {
                reads,
                ..ExpertOptions::default()
            },
            drafts: drafts::module(self.draft, file)?,
            ahead: self.drafting()?.rows(),
            ..EngineOptions::default()
        })
    }

    /// How much is drafted where a call does not say.
    fn drafting(&self) -> Outcome<DraftOptions> {
        Ok(drafts::options(self.draft)?.unwrap_or_default())
    }

    /// What is asked of the file.
    ///
    /// # Safety
    /// `signers` is as the header says.
    unsafe fn policy(&self) -> Outcome<Policy> {
        let verify = match self.verify {
            0 => None,
            1 => Some(Verify::Off),
            2 => Some(Verify::BeforeUse),
            3 => Some(Verify::Whole),
            n => return Err(no_such("time to verify", n)),
        };
        let (most, longest) = (MOST_SIGNERS, pointer::MOST_PATH);
        // SAFETY: the caller's.
        let signers =
            unsafe { pointer::texts(self.signers, self.signer_count, most, longest, "signer") }?;
        Ok(Policy::asked(&signers, self.require_signed != 0, verify)?)
    }
}

/// Hands progress on: the engine's threads report all at once, the caller gets one call
/// at a time, and the numbers grow.
struct Told {
    callback: v4_progress_fn,
    user: User,
    /// What was told last; `None` once the caller has asked to stop.
    last: Mutex<Option<(u64, u64)>>,
}

impl Told {
    fn tell(&self, done: u64, total: u64) -> ControlFlow<()> {
        let Some(callback) = self.callback else {
            return ControlFlow::Continue(());
        };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        // Once it has asked to stop, it is not called any more.
        let Some((before, _)) = *last else {
            return ControlFlow::Break(());
        };
        if done <= before {
            return ControlFlow::Continue(());
        }
        *last = Some((done, total));
        // SAFETY: the header asks for a function that can be called on any thread until
        // the call ends.
        if unsafe { callback(self.user.0, done, total) } == 0 {
            return ControlFlow::Continue(());
        }
        *last = None;
        ControlFlow::Break(())
    }
}

impl Told {
    /// From 0 again, for what comes next.
    fn again(&self) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = last.map(|_| (0, 0));
    }

    /// The end, where little tensors that are not copied were left over.
    fn end(&self) {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, total)) = last {
            // The model is open: too late to stop.
            let _ = self.tell(total, total);
        }
    }
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_engine_open(
    path: *const c_char,
    options: *const v4_engine_options,
    engine: *mut *mut v4_engine,
) -> v4_status {
    guard(|| {
        // SAFETY: the header's rules for pointers.
        let path = unsafe { pointer::path(path, "path") }?;
        // SAFETY: as above.
        let options = unsafe { read(options) }?;
        // SAFETY: as above.
        let policy = unsafe { options.policy() }?;
        // SAFETY: as above.
        unsafe { pointer::open(engine, "engine", || open(path, &options, &policy)) }
    })
}

/// Whether the file is what `policy` asks for: on threads of its own that end with it,
/// as the process's shared ones would be left behind in a program that is not ours.
fn check(path: &Path, policy: &Policy, threads: usize, told: &Told) -> Outcome<Trusted> {
    if !policy.asks() {
        return Ok(Trusted::default());
    }
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|i| format!("v4-check-{i}"))
        .build();
    let pool = pool.map_err(|reason| EngineError::Threads {
        threads,
        reason: reason.to_string(),
    })?;
    let progress = |done, total| told.tell(done, total).is_continue();
    let trusted = pool.install(|| v4_trust::check(path, policy, &progress))?;
    told.again();
    Ok(trusted)
}

/// As many threads as the options say, or cores that the process may use.
fn threads_of(options: &EngineOptions) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    options.threads.unwrap_or_else(cores)
}

/// # Safety
/// `options` are as the header says.
unsafe fn open(path: &Path, options: &v4_engine_options, policy: &Policy) -> Outcome<v4_engine> {
    let started = Instant::now();
    let told = Told {
        callback: options.progress,
        user: User(options.user),
        last: Mutex::new(Some((0, 0))),
    };
    let drafts = Drafts::new(options.drafting()?);
    // SAFETY: the caller's.
    let mut options = unsafe { options.engine() }?;
    let context = options.context;
    let threads = threads_of(&options);
    let trusted = check(path, policy, threads, &told)?;
    options.hashes.clone_from(&trusted.hashes);
    if let DraftModel::File { path, hashes } = &mut options.drafts {
        *hashes = check(path, policy, threads, &told)?.hashes;
    }
    let engine = Engine::open_with(path, options, &|done, total| told.tell(done, total))?;
    told.end();
    log::write(Level::Info, || {
        format!(
            "{}: opened in {:.1} s, {} threads, {}{}; {trusted}",
            path.display(),
            started.elapsed().as_secs_f64(),
            engine.threads(),
            engine.isa(),
            if engine.plan().experts.streamed {
                ", experts streamed"
            } else {
                ""
            }
        )
    });
    if let Some(left_out) = engine.draft_left_out() {
        log::write(Level::Warn, || {
            format!("{}: {}", path.display(), with_fields(&left_out.to_string()))
        });
    }
    let config = engine.config();
    let string = |text: &str| CString::new(text.replace('\0', " ")).unwrap_or_default();
    Ok(v4_engine {
        context: context.min(config.context_length),
        chunk: engine.plan().chunk,
        drafts,
        architecture: string(&config.arch),
        name: string(config.name.as_deref().unwrap_or_default()),
        path: CString::new(path.as_os_str().as_encoded_bytes()).unwrap_or_default(),
        isa: string(engine.isa()),
        signer: trusted.signer.as_ref().map(|signer| string(&signer.key)),
        trust: string(&trusted.to_string()),
        draft: engine.draft().map(|draft| string(draft.name())),
        policy: policy.clone(),
        engine,
    })
}

/// Most adapters of one handle.
const MOST_ADAPTERS: usize = 64;

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_engine_with_adapters(
    engine: *const v4_engine,
    folders: *const *const c_char,
    count: usize,
    adapted: *mut *mut v4_engine,
) -> v4_status {
    guard(|| {
        // SAFETY: the header's rules for handles.
        let handle = unsafe { pointer::handle(engine, "engine") }?;
        let (most, longest) = (MOST_ADAPTERS, pointer::MOST_PATH);
        // SAFETY: the header's rules for pointers.
        let folders = unsafe { pointer::texts(folders, count, most, longest, "folder") }?;
        // SAFETY: as above.
        unsafe { pointer::open(adapted, "adapted", || handle.with_adapters(&folders)) }
    })
}

impl v4_engine {
    fn with_adapters(&self, folders: &[String]) -> Outcome<Self> {
        let load = |folder: &String| {
            let path = Path::new(folder);
            let adapter = self.engine.load_adapter(folder, path)?;
            v4_trust::check_adapter(path, adapter.hashes(), &self.policy)?;
            Ok(adapter)
        };
        let adapters: Vec<_> = folders.iter().map(load).collect::<Outcome<_>>()?;
        Ok(Self {
            engine: self.engine.with_adapters(adapters)?,
            context: self.context,
            chunk: self.chunk,
            drafts: self.drafts.clone(),
            architecture: self.architecture.clone(),
            name: self.name.clone(),
            path: self.path.clone(),
            isa: self.isa.clone(),
            signer: self.signer.clone(),
            trust: self.trust.clone(),
            draft: self.draft.clone(),
            policy: self.policy.clone(),
        })
    }
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_engine_close(engine: *mut v4_engine) -> v4_status {
    guard(|| {
        // SAFETY: the header's rules for handles.
        if let Some(engine) = unsafe { pointer::close(engine) } {
            log::write(Level::Info, || {
                format!("{}: closed", engine.path.to_string_lossy())
            });
        }
        Ok(())
    })
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_engine_facts(
    engine: *const v4_engine,
    facts: *mut v4_facts,
) -> v4_status {
    guard(|| {
        // SAFETY: the header's rules for handles.
        let handle = unsafe { pointer::handle(engine, "engine") }?;
        // SAFETY: the header's rules for structs.
        let out = unsafe { Filled::new(facts) }?;
        let engine = &handle.engine;
        let (config, tokenizer) = (engine.config(), engine.tokenizer());
        let engram = engine.engram().and(config.engram.as_ref());
        out.set(&v4_facts {
            size: size32::<v4_facts>(),
            bos: tokenizer.bos().unwrap_or(NO_TOKEN),
            eos: tokenizer.eos().unwrap_or(NO_TOKEN),
            pad: tokenizer.pad().unwrap_or(NO_TOKEN),
            vocab: small(config.vocab),
            context: small(config.context_length),
            layers: small(config.layers.len()),
            embedding: small(config.embedding),
            experts: small(config.experts),
            experts_used: small(config.experts_used),
            engram_layers: engram.map_or(0, |e| small(e.config.layer_ids.len())),
            threads: small(engine.threads()),
            file_bytes: engine.file().file_len(),
            weight_bytes_per_token: engine.weight_bytes_per_token(),
            architecture: handle.architecture.as_ptr(),
            name: handle.name.as_ptr(),
            path: handle.path.as_ptr(),
            isa: handle.isa.as_ptr(),
            signer: handle.signer.as_ref().map_or(null(), |s| s.as_ptr()),
            trust: handle.trust.as_ptr(),
            draft: handle.draft.as_ref().map_or(null(), |s| s.as_ptr()),
            draft_blocks: engine.draft().map_or(0, |draft| small(draft.blocks())),
            draft_tokens: engine.draft().map_or(0, |draft| small(draft.rows())),
        });
        Ok(())
    })
}

fn as_c(plan: &MemoryPlan, left_out: Option<&LeftOut>, threads: usize) -> v4_plan {
    v4_plan {
        size: size32::<v4_plan>(),
        context: small(plan.context),
        streamed: u32::from(plan.experts.streamed),
        experts: small(plan.experts.count),
        expert_slots: small(plan.experts.slots),
        threads: small(threads),
        total: plan.total(),
        allowed: plan.allowed.unwrap_or(u64::MAX),
        dense: plan.dense,
        embedding: plan.embedding,
        expert_bytes: plan.experts.bytes,
        expert_slot_bytes: plan.experts.slot_bytes,
        engram_tables: plan.engram_tables,
        engram_memory: plan.engram_memory,
        kv: plan.kv,
        scratch: plan.scratch,
        program: plan.program,
        draft: plan.draft.dense + plan.draft.session,
        ahead: plan.ahead,
        draft_needed: left_out.map_or(0, |left_out| left_out.needed.0),
    }
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_engine_plan(engine: *const v4_engine, plan: *mut v4_plan) -> v4_status {
    guard(|| {
        // SAFETY: the header's rules for handles.
        let engine = &unsafe { pointer::handle(engine, "engine") }?.engine;
        // SAFETY: the header's rules for structs.
        let out = unsafe { Filled::new(plan) }?;
        let left_out = engine.draft_left_out();
        out.set(&as_c(engine.plan(), left_out, engine.threads()));
        Ok(())
    })
}

/// See `v4.h`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v4_plan_file(
    path: *const c_char,
    options: *const v4_engine_options,
    plan: *mut v4_plan,
) -> v4_status {
    guard(|| {
        // SAFETY: the header's rules for pointers.
        let path = unsafe { pointer::path(path, "path") }?;
        // SAFETY: the header's rules for structs.
        let options = unsafe { read(options)?.engine() }?;
        // SAFETY: as above.
        let out = unsafe { Filled::new(plan) }?;
        let failed = v4_runtime::EngineError::from;
        let file = GgufFile::open(path).map_err(failed)?;
        let config = ModelConfig::from_gguf(&file)?;
        let threads = threads_of(&options);
        let request = options.plan_request(threads, config.context_length);
        let planned = options.drafts.plan(&file, &config, &request)?;
        let left_out = planned.left_out.as_ref();
        out.set(&as_c(&planned.plan, left_out, threads));
        Ok(())
    })
}
