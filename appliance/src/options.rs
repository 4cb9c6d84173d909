//! High-level options: the meaning of the arguments, decided once.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use anyhow::bail;
use v4_files::io::ReadMode;
use v4_runtime::generation::{DraftOptions, ModelDrafting, SamplerOptions};
use v4_runtime::residency::engram::{EngramOptions, EngramPlacement};
use v4_runtime::residency::experts::ExpertOptions;
use v4_runtime::residency::limits;
use v4_runtime::{DraftModel, EngineOptions, KvPrecision, Precision, RopeAngles, WeightPlacement};

use crate::args::{
    DiskArgs, DraftArg, DraftArgs, EffortArg, EngineArgs, EngramArg, KvArg, LoraArg, PrecisionArg,
    PromptArgs, ReadsArg, RopeArg, SamplingArgs, WeightsArg,
};

/// The engine's options, for sessions of up to `context` tokens. Caches default to what the precision stands for: the
/// trained roundings with `fast`, none with `exact`.
pub fn engine(args: &EngineArgs, context: usize) -> EngineOptions {
    let precision = match args.precision {
        PrecisionArg::Exact => Precision::Exact,
        PrecisionArg::Fast => Precision::Fast,
    };
    let kv = match (args.kv, args.precision) {
        (Some(KvArg::F32), _) | (None, PrecisionArg::Exact) => KvPrecision::F32,
        (Some(KvArg::Published), _) | (None, PrecisionArg::Fast) => KvPrecision::Published,
    };
    EngineOptions {
        threads: args.threads,
        pin: args.pin,
        precision,
        kv,
        rope: match args.rope {
            RopeArg::Exact => RopeAngles::Exact,
            RopeArg::Published => RopeAngles::Published,
        },
        replay: !args.no_replay,
        engram: engram(&args.disk),
        engram_off: args.disk.engram_tables == EngramArg::Off,
        weights: match args.weights {
            WeightsArg::Mapped => WeightPlacement::Mapped,
            WeightsArg::Locked => WeightPlacement::Locked,
            WeightsArg::Copied => WeightPlacement::Copied,
        },
        memory: args.memory.map(|bytes| bytes as u64).or(limits().safe()),
        context,
        chunk: args.chunk,
        experts: ExpertOptions {
            reads: reads(&args.disk),
            direct: !args.disk.no_direct,
            in_flight: args.disk.in_flight,
            most_slots: args.disk.most_experts,
            ..ExpertOptions::default()
        },
        adapters: args.lora.iter().map(LoraArg::bytes).sum(),
        ..EngineOptions::default()
    }
}

fn reads(args: &DiskArgs) -> ReadMode {
    match args.reads {
        ReadsArg::Auto => ReadMode::Auto,
        ReadsArg::IoUring => ReadMode::Uring,
        ReadsArg::Threads => ReadMode::Threads,
    }
}

/// How Engram rows are read.
pub fn engram(args: &DiskArgs) -> EngramOptions {
    EngramOptions {
        placement: match args.engram_tables {
            EngramArg::Disk | EngramArg::Off => EngramPlacement::Disk,
            EngramArg::Memory => EngramPlacement::Memory,
        },
        cache_bytes: args.engram_cache,
        reads: reads(args),
        direct: !args.no_direct,
        in_flight: args.in_flight,
        ..EngramOptions::default()
    }
}

/// Its name on the command line.
pub fn precision_name(precision: Precision) -> &'static str {
    match precision {
        Precision::Exact => "exact",
        Precision::Fast => "fast",
    }
}

/// Its name on the command line.
pub fn kv_name(kv: KvPrecision) -> &'static str {
    match kv {
        KvPrecision::F32 => "f32",
        KvPrecision::Published => "published",
    }
}

/// The sampler's options, with a random seed where none was given.
pub fn sampler(args: &SamplingArgs) -> SamplerOptions {
    SamplerOptions {
        temperature: args.temp,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        repetition_penalty: args.repeat_penalty,
        repeat_last_n: args.repeat_last_n,
        seed: args.seed.unwrap_or_else(random_seed),
    }
}

/// A seed of 32 bits, short enough to type again and exact in any JSON reader.
pub fn random_seed() -> u64 {
    RandomState::new().hash_one("seed") & 0xffff_ffff
}

/// What drafts, if anything does.
pub fn drafting(args: &DraftArgs) -> Option<ModelDrafting> {
    drafts(args).map(ModelDrafting::new)
}

/// How much is drafted, if anything is.
fn drafts(args: &DraftArgs) -> Option<DraftOptions> {
    match args.draft {
        DraftArg::Off => None,
        DraftArg::Auto => Some(DraftOptions::default()),
        DraftArg::Most(most) => Some(DraftOptions { most, paced: false }),
    }
}

/// Tokens that are read ahead at once.
pub fn ahead(args: &DraftArgs) -> usize {
    drafts(args).map_or(0, |options| options.rows())
}

/// The draft module that is asked for, of which nothing is known yet.
pub fn draft_model(args: &DraftArgs) -> anyhow::Result<DraftModel> {
    match (args.draft, &args.drafts) {
        (DraftArg::Off, Some(_)) => {
            bail!("--drafts names a draft module that --draft off would not use; leave one out")
        }
        (DraftArg::Off, None) => Ok(DraftModel::None),
        (_, Some(path)) => Ok(DraftModel::File {
            path: path.clone(),
            hashes: None,
        }),
        (DraftArg::Auto, None) => Ok(DraftModel::Fitting),
        (DraftArg::Most(_), None) => Ok(DraftModel::Any),
    }
}

/// Whether the model reasons first, and how deeply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thinking {
    /// Reason before the answer.
    pub on: bool,
    /// How deeply; `None` leaves it to the model.
    pub effort: Option<EffortArg>,
}

/// Thinking is off unless asked for: an answer at once is what somebody at a
/// prompt expects of a machine that reads a few tokens a second.
pub fn thinking(args: &PromptArgs) -> Thinking {
    Thinking {
        on: (args.think || args.effort.is_some()) && !args.no_think,
        effort: args.effort,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Parsed {
        #[command(flatten)]
        chat: PromptArgs,
        #[command(flatten)]
        sampling: SamplingArgs,
        #[command(flatten)]
        engine: EngineArgs,
    }

    fn parsed(more: &[&str]) -> Parsed {
        Parsed::try_parse_from(["v4-run"].iter().chain(more)).unwrap()
    }

    #[test]
    fn caches_follow_the_precision_unless_named() {
        let kv = |more: &[&str]| engine(&parsed(more).engine, 1).kv;
        assert!(matches!(kv(&[]), KvPrecision::Published));
        assert!(matches!(kv(&["--precision=exact"]), KvPrecision::F32));
        assert!(matches!(
            kv(&["--precision=exact", "--kv=published"]),
            KvPrecision::Published
        ));
        assert!(matches!(kv(&["--kv=f32"]), KvPrecision::F32));
    }

    #[test]
    fn effort_implies_thinking() {
        assert!(!thinking(&parsed(&[]).chat).on);
        assert!(thinking(&parsed(&["--effort=max"]).chat).on);
        assert!(thinking(&parsed(&["--think"]).chat).on);
    }

    #[test]
    fn a_module_is_left_out_only_where_nobody_asked_for_it() {
        #[derive(Parser)]
        struct Drafts {
            #[command(flatten)]
            args: DraftArgs,
        }
        let of = |more: &[&str]| {
            let args = Drafts::parse_from(["v4-run"].iter().chain(more)).args;
            (draft_model(&args), ahead(&args))
        };
        assert!(matches!(of(&[]), (Ok(DraftModel::Fitting), 9)));
        assert!(matches!(
            of(&["--draft=auto"]),
            (Ok(DraftModel::Fitting), 9)
        ));
        assert!(matches!(of(&["--draft=15"]), (Ok(DraftModel::Any), 16)));
        assert!(matches!(of(&["--draft=off"]), (Ok(DraftModel::None), 0)));
        let file = of(&["--drafts=a.gguf"]);
        assert!(matches!(file, (Ok(DraftModel::File { .. }), 9)));
        assert!(of(&["--draft=off", "--drafts=a.gguf"]).0.is_err());
    }

    #[test]
    fn a_seed_given_is_kept() {
        assert_eq!(sampler(&parsed(&["--seed=7"]).sampling).seed, 7);
    }
}
