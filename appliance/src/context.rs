//! Chooses the context that the service gives each request.

use std::num::NonZero;
use std::path::Path;

use anyhow::{Context as _, bail};
use v4_files::ByteSize;
use v4_files::gguf::GgufFile;
use v4_runtime::model::ModelConfig;
use v4_runtime::plan::{MemoryPlan, kv_bytes};
use v4_runtime::{DraftModel, EngineError, EngineOptions, FoundDraft};

use crate::args::values::MAX_CONTEXT;
use crate::model::DEFAULT_CONTEXT;

/// By default, the caches of all parallel requests together may take this fraction of the
/// memory.
const SHARE: u64 = 8;
/// A default context is a multiple of this.
const STEP: usize = 1024;

/// A context, and how it was chosen.
#[derive(Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Tokens.
    pub tokens: usize,
    /// For the log.
    pub line: String,
}

/// Chooses the context for `parallel` requests at once: what was asked for, the model's
/// maximum, or as much as memory allows.
pub fn choose(
    model: &Path,
    options: &EngineOptions,
    asked: Option<usize>,
    parallel: usize,
) -> anyhow::Result<Chosen> {
    let file = GgufFile::open(model)?;
    let cfg = ModelConfig::from_gguf(&file).with_context(|| model.display().to_string())?;
    let cores = || std::thread::available_parallelism().map_or(1, NonZero::get);
    let threads = options.threads.unwrap_or_else(cores);
    let most = cfg.context_length;
    let usual = DEFAULT_CONTEXT.min(most);
    let plan = |draft: Option<&FoundDraft>, tokens| {
        let options = EngineOptions {
            context: tokens,
            ..options.clone()
        };
        let request = options.plan_request(threads, cfg.context_length);
        MemoryPlan::with_draft(&file, &cfg, &request, draft.map(FoundDraft::parts))
    };
    let mut draft = options.drafts.find(&file, &cfg)?;
    if matches!(options.drafts, DraftModel::Fitting) {
        let tokens = asked.map_or(usual, |tokens| tokens.min(most));
        // Opening the model will leave it out.
        draft = draft.filter(|draft| plan(Some(draft), tokens).is_ok());
    }
    let plan = |tokens| plan(draft.as_ref(), tokens);
    let sessions = |tokens: usize| {
        let each = kv_bytes(&cfg, options.kv, tokens);
        each.saturating_mul(parallel as u64)
    };
    let tokens = match asked {
        Some(MAX_CONTEXT) => match plan(most) {
            Ok(_) => most,
            Err(error) => {
                let fits = largest(0, most, |tokens| plan(tokens).is_ok());
                return Err(no_room_for_all(error, most, fits));
            }
        },
        Some(tokens) if tokens > most => bail!(
            "a context of {tokens} tokens exceeds the model's limit of {most}; use --ctx {most} or less"
        ),
        // Opening the model refuses what does not fit, and says what would.
        Some(tokens) => tokens,
        None => {
            let bound = options.memory.map(|bytes| bytes / SHARE);
            let fits = |tokens| {
                plan(tokens).is_ok() && bound.is_none_or(|bound| sessions(tokens) <= bound)
            };
            match plan(usual) {
                Ok(_) => largest(usual, most, fits),
                // Less than usual, if anything fits at all.
                Err(_) => match largest(0, usual, |tokens| plan(tokens).is_ok()) {
                    0 => usual,
                    tokens => tokens,
                },
            }
        }
    };
    let of_model = match tokens == most {
        true => "the model's limit".to_owned(),
        false => format!("of the model's {most}"),
    };
    let line = format!(
        "a context of {tokens} tokens for each request, {of_model}; caches take {} if all {} \
         parallel requests are full",
        ByteSize(sessions(tokens)),
        parallel
    );
    Ok(Chosen { tokens, line })
}

fn no_room_for_all(error: EngineError, most: usize, fits: usize) -> anyhow::Error {
    let instead = match fits {
        0 => "use more --memory".to_owned(),
        fits => format!("use --ctx {fits}, or more --memory"),
    };
    anyhow::Error::new(error).context(format!(
        "--ctx max: the model's limit of {most} tokens does not fit; {instead}"
    ))
}

/// The largest context from `least` to `most` that fits, where those below fit as well;
/// `least` if none does.
fn largest(least: usize, most: usize, fits: impl Fn(usize) -> bool) -> usize {
    if most > least && fits(most) {
        return most;
    }
    let (mut low, mut high) = (least / STEP, most.div_ceil(STEP));
    while low + 1 < high {
        let middle = low + (high - low) / 2;
        match fits(middle * STEP) {
            true => low = middle,
            false => high = middle,
        }
    }
    least.max(low * STEP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_that_fits_is_found() {
        for limit in [0, 1000, 1024, 40_000, 131_072, 999_999, 1 << 20, 1 << 21] {
            let found = largest(0, 1 << 20, |tokens| tokens <= limit);
            let expected = match limit {
                0..1024 => 0,
                _ if limit >= 1 << 20 => 1 << 20,
                _ => limit / STEP * STEP,
            };
            assert_eq!(found, expected, "{limit}");
        }
        assert_eq!(largest(32_768, 1 << 20, |_| false), 32_768);
        assert_eq!(largest(4096, 4096, |_| false), 4096);
        assert_eq!(largest(500, 500, |_| true), 500);
    }
}
