//! `v4-run plan`: shows where memory goes and predicts speed.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Value, json};
use v4_convert::plan::{Drafts, Plan, PlanOptions, Vision};
use v4_convert::recipe::Recipe;
use v4_files::ByteSize;
use v4_files::gguf::GgufFile;
use v4_files::io::{DiskRate, ReadMode, disk_rate};
use v4_runtime::model::{DraftConfig, ModelConfig};
use v4_runtime::plan::{Forecast, MemoryPlan, Rates};
use v4_runtime::residency::experts::{Policy, simulate};
use v4_runtime::residency::{Limits, limits};
use v4_runtime::{EngineOptions, LeftOut, PlannedDraft, Roofline};

use super::print_json;
use crate::args::values::{MAX_CONTEXT, tokens_or_max};
use crate::args::{DraftArgs, EngineArgs, WeightsArg};
use crate::options;
use crate::output::Notes;

/// How long the disk is measured.
const DISK_TIME: Duration = Duration::from_millis(1500);

/// Arguments of `plan`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  v4-run plan model.gguf
  v4-run plan model.gguf --memory 64G --ctx 200000
  v4-run plan model.gguf --draft off
  v4-run plan DeepSeek-V4-Flash --recipe q2 --memory 96G
  v4-run plan model.gguf --memory 64G --routing trace.safetensors --json

Reads only the file's header. For a folder with a published checkpoint, it plans for
the file that v4-convert would make from it with --recipe. The model's draft module and the
room for reading ahead are counted, as commands that generate text need them, unless
--draft off is given.

Speed is predicted from the rates of memory and disk, which are measured in about four
seconds. Without --routing, all experts are assumed to be equally likely, which is the
worst case. With a trace from `v4-run logits --trace` on text like yours, the cache is
simulated.")]
pub struct PlanArgs {
    /// Model file (GGUF), or checkpoint folder
    pub model: PathBuf,
    /// Recipe for a checkpoint folder, as in v4-convert --recipe
    #[arg(long, value_name = "NAME", default_value = "native")]
    pub recipe: String,
    /// Context of a session in tokens, or max for the model's limit
    #[arg(long, value_name = "N", default_value = "32768", value_parser = tokens_or_max)]
    pub ctx: usize,
    /// Tokens in the context for which speed is predicted
    #[arg(long, value_name = "N", default_value = "0")]
    pub depth: usize,
    /// Routing trace written by `v4-run logits --trace`
    #[arg(long, value_name = "FILE.safetensors")]
    pub routing: Option<PathBuf>,
    /// Do not measure memory and disk, and do not predict speed
    #[arg(long)]
    pub no_probe: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Do not print progress to standard error
    #[arg(short, long)]
    pub quiet: bool,
    /// Drafts: what commands that generate text load for them is counted.
    #[command(flatten)]
    pub drafts: DraftArgs,
    /// Engine.
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// A header to plan for, and a file on disk to measure.
struct Planned {
    file: GgufFile,
    on_disk: PathBuf,
    /// Holds the header of a file that does not exist yet.
    _made: Option<tempfile::NamedTempFile>,
}

impl Planned {
    fn open(path: &Path, recipe: &str) -> anyhow::Result<Self> {
        if !path.is_dir() {
            crate::model::check_is_file(path)?;
            return Ok(Self {
                file: GgufFile::open(path)?,
                on_disk: path.to_owned(),
                _made: None,
            });
        }
        let options = PlanOptions {
            recipe: Recipe::load(recipe)?,
            drafts: Drafts::Keep,
            vision: Vision::Drop,
            name: None,
            split: None,
        };
        let plan = Plan::new(path, &options)?;
        // The header, and a hole in place of the weights: nothing reads them.
        let mut made = tempfile::NamedTempFile::new().context("cannot create a temporary file")?;
        made.write_all(&plan.files[0].header)?;
        made.as_file().set_len(plan.file_bytes)?;
        let largest = plan.inputs.iter().max_by_key(|input| {
            let facts = std::fs::metadata(input.path());
            facts.map_or(0, |facts| facts.len())
        });
        Ok(Self {
            file: GgufFile::open(made.path())?,
            on_disk: largest.map_or_else(|| path.to_owned(), |input| input.path().to_owned()),
            _made: Some(made),
        })
    }
}

/// What was measured here.
struct Measured {
    roofline: Roofline,
    disk: Option<DiskRate>,
}

/// Runs the command.
pub fn run(mut args: PlanArgs) -> anyhow::Result<ExitCode> {
    let notes = Notes::new(args.quiet);
    if args.engine.gpu.is_some() {
        bail!(
            "--gpu: plans are of the CPU and its memory; a model runs on a card if all of its file, \
             its caches and some buffers fit into the card's memory, which v4-run doctor shows"
        );
    }
    let planned = Planned::open(&args.model, &args.recipe)?;
    let cfg = ModelConfig::from_gguf(&planned.file)?;
    if args.ctx == MAX_CONTEXT {
        args.ctx = cfg.context_length;
    }
    if args.ctx > cfg.context_length {
        bail!(
            "a context of {} tokens exceeds the model's limit of {}; use --ctx {1} or less",
            args.ctx,
            cfg.context_length
        );
    }
    if args.depth > cfg.context_length {
        bail!(
            "a depth of {} tokens exceeds the model's limit of {}; use --depth {1} or less",
            args.depth,
            cfg.context_length
        );
    }
    let options = EngineOptions {
        drafts: options::draft_model(&args.drafts)?,
        ahead: options::ahead(&args.drafts),
        ..options::engine(&args.engine, args.ctx)
    };
    let threads = options
        .threads
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    let request = options.plan_request(threads, cfg.context_length);
    let PlannedDraft {
        plan,
        draft,
        left_out,
    } = options.drafts.plan(&planned.file, &cfg, &request)?;
    // One that is there and not counted.
    let unused = match (&draft, &left_out) {
        (Some(_), _) => None,
        (None, Some(left_out)) => Some(left_out.config.clone()),
        (None, None) => DraftConfig::of_model(&planned.file, &cfg).ok().flatten(),
    };
    let hits = match &args.routing {
        Some(path) => Some(hit_rates(path, &cfg, plan.experts.slots)?),
        None => None,
    };
    let spinner = notes.spinner("measuring memory and disk".to_owned());
    let measured = match args.no_probe {
        true => None,
        false => measure(&planned.on_disk, &plan, &options, threads)?,
    };
    spinner.finish_and_clear();
    let forecast = measured.as_ref().map(|m| {
        let rates = Rates {
            memory: m.roofline.read_bytes,
            // Where nothing is streamed the disk does not matter.
            disk: m.disk.map_or(f64::INFINITY, |d| d.bytes_per_second),
            int8: m.roofline.int8_operations,
        };
        Forecast::new(&plan, &cfg, rates, args.depth, plan.chunk, hits.as_deref())
    });
    let shown = Shown {
        args: &args,
        cfg: &cfg,
        file: &planned.file,
        plan: &plan,
        ahead: options.ahead,
        draft: draft.as_ref().map(|draft| &draft.config),
        unused: unused.as_ref(),
        left_out: left_out.as_ref(),
        limits: limits(),
        measured,
        forecast,
    };
    if args.json {
        print_json(&shown.json())?;
    } else {
        shown.print()?;
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(
    path: &Path,
    plan: &MemoryPlan,
    options: &EngineOptions,
    threads: usize,
) -> anyhow::Result<Option<Measured>> {
    let free = limits().free().unwrap_or(0);
    let Some(roofline) = Roofline::of_machine(Some(threads), free / 2)? else {
        return Ok(None);
    };
    let reads = &options.experts;
    let each = plan.experts.bytes / plan.experts.count.max(1) as u64 / 3;
    // In flight: the reads of one token in one layer.
    let in_flight = reads.in_flight.min(3 * plan.experts.used).max(1);
    let disk = match plan.experts.streamed {
        true => disk_rate(
            path,
            usize::try_from(each)?,
            in_flight,
            reads.reads,
            reads.direct,
            DISK_TIME,
        )
        .with_context(|| path.display().to_string())?,
        false => None,
    };
    Ok(Some(Measured { roofline, disk }))
}

/// The share of experts found in memory for each layer, over the second half of a
/// recorded routing.
fn hit_rates(path: &Path, cfg: &ModelConfig, slots: usize) -> anyhow::Result<Vec<f64>> {
    let name = || path.display().to_string();
    let file = File::open(path).with_context(name)?;
    let mut bytes = Vec::new();
    /// Longest trace read.
    const MOST: u64 = 4 << 30;
    io::Read::read_to_end(&mut io::Read::take(file, MOST), &mut bytes).with_context(name)?;
    let tensors = safetensors::SafeTensors::deserialize(&bytes)
        .with_context(|| format!("{}: not a safetensors file", path.display()))?;
    let mut layers = Vec::new();
    for l in 0..cfg.layers.len() {
        let tensor = tensors.tensor(&format!("{l}.experts")).with_context(|| {
            format!(
                "{}: no tensor {l}.experts; write the trace with v4-run logits --trace on this model",
                path.display()
            )
        })?;
        if tensor.dtype() != safetensors::Dtype::I32
            || tensor.shape().get(1) != Some(&cfg.experts_used)
        {
            bail!(
                "{}: {l}.experts is not an I32 matrix with {} columns: the trace is of another model",
                path.display(),
                cfg.experts_used
            );
        }
        let numbers = tensor.data().chunks_exact(4);
        let experts: Vec<u32> = numbers
            .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        if let Some(bad) = experts.iter().find(|&&e| e as usize >= cfg.experts) {
            bail!(
                "{}: {l}.experts contains expert {bad}, but the model has {}: the trace is of \
                 another model",
                path.display(),
                cfg.experts
            );
        }
        layers.push(experts);
    }
    let traces: Vec<&[u32]> = layers.iter().map(Vec::as_slice).collect();
    let tokens = layers
        .first()
        .map_or(0, |l| l.len() / cfg.experts_used.max(1));
    let counts = simulate(
        &traces,
        cfg.experts_used,
        slots,
        Policy::for_model(cfg.experts, cfg.experts_used),
        tokens / 2,
    );
    Ok(counts
        .iter()
        .map(v4_runtime::residency::experts::Simulated::rate)
        .collect())
}

/// Everything that is printed.
struct Shown<'a> {
    args: &'a PlanArgs,
    cfg: &'a ModelConfig,
    file: &'a GgufFile,
    plan: &'a MemoryPlan,
    /// Tokens that are read ahead at once.
    ahead: usize,
    draft: Option<&'a DraftConfig>,
    unused: Option<&'a DraftConfig>,
    left_out: Option<&'a LeftOut>,
    limits: Limits,
    measured: Option<Measured>,
    forecast: Option<Forecast>,
}

impl Shown<'_> {
    fn print(&self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        let (p, c) = (self.plan, self.cfg);
        writeln!(
            out,
            "{}: {}, {} layers of {} experts, {} used per token",
            self.args.model.display(),
            crate::output::visible(c.name.as_deref().unwrap_or(&c.arch)),
            c.layers.len(),
            c.experts,
            c.experts_used
        )?;
        let of = match (self.args.engine.memory, p.allowed) {
            (Some(_), Some(allowed)) => format!("of {} allowed by --memory", ByteSize(allowed)),
            (None, Some(allowed)) => format!("of {} that are safe here", ByteSize(allowed)),
            (_, None) => "without a limit".to_owned(),
        };
        writeln!(
            out,
            "\nmemory with a session of {} tokens: {} {of}",
            p.context,
            ByteSize(p.total())
        )?;
        let e = &p.experts;
        let experts = if e.streamed {
            format!(
                "{} of {} ({:.0}%), {} each; {} with an empty session",
                e.slots,
                e.count + p.draft.experts,
                100.0 * p.cached_share(),
                ByteSize(e.slot_bytes),
                e.slots_at_start
            )
        } else {
            format!("all {}, mapped", e.count + p.draft.experts)
        };
        let in_memory = match e.streamed {
            true => e.slots as u64 * e.slot_bytes,
            false => e.bytes + p.draft.expert_bytes,
        };
        let mut row = |name: &str, bytes: u64, text: &str| {
            writeln!(
                out,
                "  {name:<22} {:>10}  {text}",
                ByteSize(bytes).to_string()
            )
        };
        let placed = match self.args.engine.weights {
            WeightsArg::Mapped => "mapped",
            WeightsArg::Locked => "mapped and locked",
            WeightsArg::Copied => "copied into huge pages",
        };
        row("weights of every token", p.dense, placed)?;
        row("experts", in_memory, &experts)?;
        if let Some(draft) = self.draft {
            let bytes = p.draft.dense + p.draft.session;
            let with = match p.draft.experts {
                0 => "",
                _ => ", without their experts",
            };
            let text = format!("{}{with}", draft.summary());
            row("draft module", bytes, &text)?;
        }
        if p.engram_tables > 0 {
            row("Engram rows", p.engram_memory, "cached")?;
        }
        row("caches", p.kv, "of the session at full length")?;
        let rows = p.chunk.min(p.context);
        let text = format!("while a prompt is read, {rows} tokens at a time");
        row("buffers", p.scratch, &text)?;
        if p.ahead > 0 {
            let text = format!("up to {} tokens at once, for drafts", self.ahead);
            row("reading ahead", p.ahead, &text)?;
        }
        row("program", p.program, "with the tokenizer")?;
        if p.adapters > 0 {
            row("adapters", p.adapters, "from --lora")?;
        }
        writeln!(out, "on disk")?;
        let mut row = |name: &str, bytes: u64, text: &str| {
            writeln!(
                out,
                "  {name:<22} {:>10}  {text}",
                ByteSize(bytes).to_string()
            )
        };
        if e.streamed {
            let bytes = e.bytes + p.draft.expert_bytes;
            row("experts", bytes, "read when tokens need them")?;
        }
        if p.engram_tables > 0 {
            row(
                "Engram tables",
                p.engram_tables,
                "rows are read when tokens need them",
            )?;
        }
        row(
            "token embeddings",
            p.embedding,
            "mapped; one row is read per token",
        )?;
        if let Some(unused) = self.unused {
            let text = format!("{}; not counted", unused.summary());
            row("draft module", unused.bytes_in(self.file), &text)?;
        }
        if let Some(left_out) = self.left_out {
            writeln!(out, "{left_out}")?;
        }
        if let Some(group) = self.limits.group
            && p.allowed.is_some_and(|allowed| allowed > group)
        {
            writeln!(
                out,
                "warning: the control group allows only {}: the kernel would kill the process; use \
                 --memory {}",
                ByteSize(group),
                ByteSize(self.limits.safe().unwrap_or(group)).as_option()
            )?;
        }
        self.print_speed(&mut out)
    }

    fn print_speed(&self, out: &mut impl Write) -> io::Result<()> {
        let (Some(measured), Some(f)) = (&self.measured, &self.forecast) else {
            return Ok(());
        };
        write!(
            out,
            "\nmeasured: memory {:.1} GB/s, int8 {:.0} GOP/s",
            measured.roofline.read_bytes / 1e9,
            measured.roofline.int8_operations / 1e9
        )?;
        match &measured.disk {
            Some(disk) => writeln!(
                out,
                ", disk {:.2} GB/s ({}, {}, {} in flight of {})",
                disk.bytes_per_second / 1e9,
                disk.mode,
                if disk.direct {
                    "direct"
                } else {
                    "through the page cache"
                },
                disk.in_flight,
                ByteSize(disk.block as u64)
            )?,
            None => writeln!(out)?,
        }
        writeln!(
            out,
            "a token after {} others reads {:.2} GB from memory and {:.3} GB from disk",
            self.args.depth,
            (f.memory_bytes) / 1e9,
            f.disk_bytes / 1e9
        )?;
        let why = match (&self.args.routing, self.plan.experts.streamed) {
            (_, false) => String::new(),
            (Some(_), _) => format!(
                " ({:.0}% of experts in memory, according to the trace)",
                100.0 * f.hit_rate
            ),
            (None, _) => format!(
                " ({:.0}% of experts in memory, if all are equally likely)",
                100.0 * f.hit_rate
            ),
        };
        writeln!(
            out,
            "predicted: decode {:.2} tokens/s, prefill {:.1} tokens/s{why}",
            f.decode, f.prefill
        )
    }

    fn json(&self) -> Value {
        let (p, e) = (self.plan, &self.plan.experts);
        json!({
            "model": self.args.model.display().to_string(),
            "version": env!("CARGO_PKG_VERSION"),
            "allowed_bytes": p.allowed,
            "context": p.context,
            "chunk": p.chunk,
            "memory_bytes": {
                "total": p.total(),
                "dense": p.dense,
                "experts": match e.streamed {
                    true => e.slots as u64 * e.slot_bytes,
                    false => e.bytes + p.draft.expert_bytes,
                },
                "draft": p.draft.dense + p.draft.session,
                "engram": p.engram_memory,
                "kv": p.kv,
                "scratch": p.scratch,
                "ahead": p.ahead,
                "program": p.program,
                "adapters": p.adapters,
            },
            "disk_bytes": {
                "experts": match e.streamed {
                    true => e.bytes + p.draft.expert_bytes,
                    false => 0,
                },
                "engram": p.engram_tables,
                "embedding": p.embedding,
            },
            "experts": {
                "streamed": e.streamed,
                "count": e.count,
                "used_per_layer": e.used,
                "slots": e.slots,
                "slots_at_start": e.slots_at_start,
                "least_slots": e.least_slots,
                "slot_bytes": e.slot_bytes,
            },
            "draft": self.draft.or(self.unused).map(|draft| json!({
                "kind": draft.name(),
                "blocks": draft.blocks(),
                "tokens": draft.rows(),
                "loaded": self.draft.is_some(),
                "needed_bytes": self.left_out.map(|left_out| left_out.needed.0),
                "experts": draft.blocks() * draft.model.experts,
            })),
            "machine": {
                "memory_bytes": self.limits.total,
                "free_bytes": self.limits.free(),
                "group_limit_bytes": self.limits.group,
            },
            "measured": self.measured.as_ref().map(|m| json!({
                "memory_bytes_per_second": m.roofline.read_bytes,
                "int8_operations_per_second": m.roofline.int8_operations,
                "disk": m.disk.map(|d| json!({
                    "bytes_per_second": d.bytes_per_second,
                    "block_bytes": d.block,
                    "in_flight": d.in_flight,
                    "reads": mode_name(d.mode),
                    "direct": d.direct,
                })),
            })),
            "forecast": self.forecast.map(|f| json!({
                "hit_rate": f.hit_rate,
                "memory_bytes_per_token": f.memory_bytes,
                "disk_bytes_per_token": f.disk_bytes,
                "decode_tokens_per_second": f.decode,
                "prefill_tokens_per_second": f.prefill,
            })),
        })
    }
}

fn mode_name(mode: ReadMode) -> String {
    mode.to_string()
}
