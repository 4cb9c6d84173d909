//! Opens a model, and makes sure that it fits.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, bail};
use v4_files::ByteSize;
use v4_files::gguf::GgufFile;
use v4_runtime::model::copied_bytes;
use v4_runtime::residency::limits;
use v4_runtime::{Adapter, DraftModel, Engine, EngineOptions, Session, WeightPlacement};
use v4_trust::{Policy, check_adapter};

use crate::args::values::MAX_CONTEXT;
use crate::args::{DraftArgs, EngineArgs, GenerationArgs, LoraArg};
use crate::output::Notes;
use crate::{cards, options, trust};

/// Context where the command line names none, in tokens.
pub const DEFAULT_CONTEXT: usize = 32_768;

/// Room for an answer of no given length after a prompt that fills the default
/// context, in tokens.
const DEFAULT_ANSWER: usize = 4_096;

/// Opens the model file to generate text with.
pub fn open_to_generate(
    path: &Path,
    args: &GenerationArgs,
    notes: Notes,
) -> anyhow::Result<Arc<Engine>> {
    let policy = trust::policy(&args.engine.trust)?;
    let drafts = draft_model(&args.drafts, &policy, notes)?;
    let ahead = options::ahead(&args.drafts);
    let (engine, context) = (&args.engine, args.length.ctx);
    open_drafting(path, engine, context, drafts, ahead, &policy, notes)
}

/// The draft module that is asked for, of which is asked what is of models.
pub fn draft_model(args: &DraftArgs, policy: &Policy, notes: Notes) -> anyhow::Result<DraftModel> {
    match options::draft_model(args)? {
        DraftModel::File { path, .. } => draft_file(&path, policy, notes),
        other => Ok(other),
    }
}

/// Opens the model file for sessions of up to `context` tokens, or of the default.
pub fn open(
    path: &Path,
    args: &EngineArgs,
    context: Option<usize>,
    notes: Notes,
) -> anyhow::Result<Arc<Engine>> {
    open_trusted(path, args, context, &trust::policy(&args.trust)?, notes)
}

/// The same with what is asked of the model decided.
pub fn open_trusted(
    path: &Path,
    args: &EngineArgs,
    context: Option<usize>,
    policy: &Policy,
    notes: Notes,
) -> anyhow::Result<Arc<Engine>> {
    open_drafting(path, args, context, DraftModel::None, 0, policy, notes)
}

/// A draft module in a file of its own, of which is asked what is of models.
pub fn draft_file(path: &Path, policy: &Policy, notes: Notes) -> anyhow::Result<DraftModel> {
    check_is_file(path)?;
    Ok(DraftModel::File {
        path: path.to_owned(),
        hashes: trust::check(path, policy, notes)?.hashes,
    })
}

/// [`open_trusted`] with a draft module, for sessions that read `ahead` tokens ahead at once.
pub fn open_drafting(
    path: &Path,
    args: &EngineArgs,
    context: Option<usize>,
    drafts: DraftModel,
    ahead: usize,
    policy: &Policy,
    notes: Notes,
) -> anyhow::Result<Arc<Engine>> {
    check_is_file(path)?;
    let context = context.unwrap_or(DEFAULT_CONTEXT);
    let mut options = options::engine(args, context);
    (options.drafts, options.ahead) = (drafts, ahead);
    cards::choose(args.gpu, &mut options)?;
    options.hashes = trust::check(path, policy, notes)?.hashes;
    let engine = open_with(path, options, notes)?;
    adapted(engine, args, policy)
}

/// The model with all adapters of the command line.
pub fn adapted(
    engine: Arc<Engine>,
    args: &EngineArgs,
    policy: &Policy,
) -> anyhow::Result<Arc<Engine>> {
    if args.lora.is_empty() {
        return Ok(engine);
    }
    Ok(engine.with_adapters(adapters(&engine, args, policy)?)?)
}

/// Loads the adapters of the command line; they must be signed if models must be.
pub fn adapters(
    engine: &Engine,
    args: &EngineArgs,
    policy: &Policy,
) -> anyhow::Result<Vec<Arc<Adapter>>> {
    let load = |lora: &LoraArg| {
        let adapter = engine.load_adapter(&lora.name, &lora.folder)?;
        check_adapter(&lora.folder, adapter.hashes(), policy)?;
        Ok(adapter)
    };
    let adapters: Vec<_> = args.lora.iter().map(load).collect::<anyhow::Result<_>>()?;
    let mut names: Vec<_> = adapters.iter().map(|a| a.name()).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        bail!(
            "--lora: two adapters are named {}; use --lora NAME=FOLDER to tell them apart",
            twice[0]
        );
    }
    Ok(adapters)
}

/// The same with options that are decided.
pub fn open_with(path: &Path, options: EngineOptions, notes: Notes) -> anyhow::Result<Arc<Engine>> {
    let engine = open_telling(path, options, notes, &|_| {})?;
    if let Some(left_out) = engine.draft_left_out() {
        notes.line(&format!("v4-run: {left_out}"));
    }
    Ok(engine)
}

/// The same; `tell` also hears how far it is.
pub fn open_telling(
    path: &Path,
    options: EngineOptions,
    notes: Notes,
    tell: &(dyn Fn(&str) + Sync),
) -> anyhow::Result<Arc<Engine>> {
    check_is_file(path)?;
    let options = check_room(path, options, notes)?;
    let spinner = notes.spinner(format!("opening {}", path.display()));
    let told = AtomicU64::new(0);
    let progress = |done: u64, total: u64| {
        let percent = done * 100 / total.max(1);
        if told.swap(percent, Ordering::Relaxed) != percent {
            let gb = total as f64 / 1e9;
            let line = format!("reading {gb:.1} GB of weights: {percent}%");
            tell(&line);
            spinner.set_message(line);
        }
        ControlFlow::Continue(())
    };
    let engine = Engine::open_with(path, options, &progress);
    spinner.finish_and_clear();
    Ok(engine?)
}

/// Weights that are copied must fit into what is free, whatever is said to be allowed:
/// the system would kill the process otherwise. Mapped ones are given up when memory
/// is short. Gives the options back, without a draft module that may be left out and does
/// not fit.
fn check_room(
    path: &Path,
    mut options: EngineOptions,
    notes: Notes,
) -> anyhow::Result<EngineOptions> {
    let (Some(allowed), Some(free)) = (options.memory, limits().free()) else {
        return Ok(options);
    };
    if allowed <= free || options.weights != WeightPlacement::Copied {
        return Ok(options);
    }
    let file = GgufFile::open(path)?;
    let fits = |drafts| copied_bytes(&file, false, drafts).min(allowed) <= free;
    if matches!(options.drafts, DraftModel::Fitting) && !fits(true) && fits(false) {
        options.drafts = DraftModel::None;
        notes.line(&format!(
            "v4-run: the model's draft module is left out: with it the weights exceed the free \
             memory of {}; close other programs, or use --draft off",
            ByteSize(free)
        ));
    }
    let drafts = match options.drafts {
        DraftModel::Own | DraftModel::Any | DraftModel::Fitting => true,
        DraftModel::None | DraftModel::File { .. } => false,
    };
    if !fits(drafts) {
        bail!(
            "{}: --memory {} exceeds the free memory of {}; close other programs, or use \
             --memory {}",
            path.display(),
            ByteSize(allowed),
            ByteSize(free),
            ByteSize(limits().safe().unwrap_or(free)).as_option()
        );
    }
    Ok(options)
}

/// A first look that can say more than the GGUF reader would.
pub fn check_is_file(path: &Path) -> anyhow::Result<()> {
    let facts = match std::fs::metadata(path) {
        Ok(facts) => facts,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => bail!(
            "{}: no such model file; v4-run --help lists the commands",
            path.display()
        ),
        Err(e) => return Err(e).with_context(|| path.display().to_string()),
    };
    if facts.is_dir() {
        bail!(
            "{}: is a folder; to convert a checkpoint, run v4-convert {0} model.gguf",
            path.display()
        );
    }
    Ok(())
}

/// The context to open a session with: what was asked for, or the default,
/// enlarged where prompt and answer need more, up to what the model allows.
pub fn context(
    asked: Option<usize>,
    prompt: usize,
    max_tokens: Option<usize>,
    model_max: usize,
) -> usize {
    // More than the model has is refused, except where all of it is asked for.
    let asked = asked.map(|n| if n == MAX_CONTEXT { model_max } else { n });
    asked.unwrap_or_else(|| {
        prompt
            .saturating_add(max_tokens.unwrap_or(DEFAULT_ANSWER))
            .max(DEFAULT_CONTEXT)
            .min(model_max)
    })
}

/// Opens a session, its prefill chunk no longer than its context.
pub fn session(engine: &Arc<Engine>, context: usize) -> anyhow::Result<Session> {
    let chunk = engine.plan().chunk.min(context);
    Ok(Session::new(engine, context, chunk)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_grows_with_the_prompt_and_stops_at_the_model() {
        assert_eq!(context(Some(100), 5000, None, 1 << 20), 100);
        assert_eq!(context(Some(MAX_CONTEXT), 5000, None, 1 << 20), 1 << 20);
        assert_eq!(context(None, 10, None, 1 << 20), DEFAULT_CONTEXT);
        assert_eq!(context(None, 40_000, None, 1 << 20), 44_096);
        assert_eq!(context(None, 40_000, Some(10), 1 << 20), 40_010);
        assert_eq!(context(None, 40_000, Some(usize::MAX), 50_000), 50_000);
    }
}
