//! Plans where memory goes, from a file's header alone.

use v4_files::ByteSize;
use v4_files::gguf::GgufFile;

use super::sizes::{SessionSize, ahead_bytes, draft_bytes, kv_bytes, session_bytes};
use crate::compute::forward::KvPrecision;
use crate::error::EngineError;
use crate::model::{DraftConfig, ModelConfig, is_draft, is_engram_table, is_expert};
use crate::residency::engram::EngramPlacement;
use crate::residency::experts::slot_bytes;

/// What the program takes besides weights, caches and buffers: its code, threads'
/// stacks, and what the allocator keeps.
const PROGRAM_BYTES: u64 = 160 << 20;
/// The tokenizer and the header take at most this many times the header's length.
const HEADER_FACTOR: u64 = 12;

/// What a plan is made for.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanRequest {
    /// Bytes that the engine may use; `None` for as many as it takes.
    pub memory: Option<u64>,
    /// Tokens of one session.
    pub context: usize,
    /// Tokens of a prompt run at once; `None` for as many as pay and memory has room for.
    pub chunk: Option<usize>,
    /// How caches are stored.
    pub kv: KvPrecision,
    /// Worker threads.
    pub threads: usize,
    /// Where Engram tables are; `None` if they are not used.
    pub engram: Option<EngramPlacement>,
    /// Memory for Engram rows that were read before.
    pub engram_cache: u64,
    /// Most experts in memory, however much there is.
    pub most_slots: Option<usize>,
    /// Bytes of whole reads.
    pub unit: usize,
    /// Memory for the hashes that the file is checked against.
    pub hashes: u64,
    /// Memory for adapters that are loaded later.
    pub adapters: u64,
    /// Tokens that a session reads ahead at once, if there is room for it; with a draft
    /// module, there must be.
    pub ahead: usize,
}

/// The routed experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertPlan {
    /// Experts of all layers together.
    pub count: usize,
    /// Layers with experts.
    pub layers: usize,
    /// Experts that a token uses in each.
    pub used: usize,
    /// Bytes of all experts in the file.
    pub bytes: u64,
    /// Bytes that one takes in memory.
    pub slot_bytes: u64,
    /// Whether they are read when tokens need them; all are mapped otherwise.
    pub streamed: bool,
    /// Experts in memory when a session is at its full context.
    pub slots: usize,
    /// Experts in memory with an empty session.
    pub slots_at_start: usize,
    /// Experts that must fit.
    pub least_slots: usize,
}

/// The draft module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DraftPlan {
    /// Bytes of weights that every draft reads, and of the routed experts too if the module
    /// has a file of its own: those are never read from disk one by one.
    pub dense: u64,
    /// Bytes of the routed experts that are read as the model's.
    pub expert_bytes: u64,
    /// Their number.
    pub experts: usize,
    /// What a session keeps for drafts, and buffers.
    pub session: u64,
}

/// Where memory goes. All numbers are bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryPlan {
    /// The limit; `None` without one.
    pub allowed: Option<u64>,
    /// Weights that every token reads.
    pub dense: u64,
    /// Token embeddings: mapped; one row is read per token, and the system decides how
    /// much of them to keep.
    pub embedding: u64,
    /// The routed experts.
    pub experts: ExpertPlan,
    /// The draft module, all zero without one.
    pub draft: DraftPlan,
    /// Engram tables in the file.
    pub engram_tables: u64,
    /// Engram tables or rows in memory.
    pub engram_memory: u64,
    /// Caches of one session at its full context.
    pub kv: u64,
    /// Buffers of a session while it reads a prompt.
    pub scratch: u64,
    /// What a session takes in addition to read ahead of its text; 0 if it does not, or
    /// there is no room for it.
    pub ahead: u64,
    /// The program itself, with the tokenizer and the hashes of the file.
    pub program: u64,
    /// Adapters.
    pub adapters: u64,
    /// Tokens of the session.
    pub context: usize,
    /// Tokens of a prompt run at once.
    pub chunk: usize,
}

/// Tokens of a prompt run at once, where memory is short.
const LEAST_CHUNK: usize = 512;
/// The most, and what is tried before the least. With 512, an expert of 256 has twelve rows,
/// and its weights take as long to read and to take apart as to multiply; from 2,048 on,
/// neither matters.
const CHUNKS: [usize; 2] = [2048, 1024];
/// The part of memory that buffers may take for it.
const BUFFERS: u64 = 16;

impl MemoryPlan {
    /// Makes the plan.
    ///
    /// # Errors
    /// [`EngineError::Memory`] if what must be in memory does not fit, with what
    /// would.
    pub fn new(
        file: &GgufFile,
        cfg: &ModelConfig,
        request: &PlanRequest,
    ) -> Result<Self, EngineError> {
        Self::with_draft(file, cfg, request, None)
    }

    /// The same with a draft module, which is in the model's file or in another.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_draft(
        file: &GgufFile,
        cfg: &ModelConfig,
        request: &PlanRequest,
        draft: Option<(&DraftConfig, Option<&GgufFile>)>,
    ) -> Result<Self, EngineError> {
        let with = |chunk| Self::with_chunk(file, cfg, request, chunk, draft);
        if let Some(chunk) = request.chunk {
            return with(chunk);
        }
        let least = with(LEAST_CHUNK)?;
        let Some(memory) = request.memory else {
            return Ok(least);
        };
        let more = CHUNKS.into_iter().filter_map(|chunk| with(chunk).ok());
        // Not at the price of reading experts from disk that would have been in memory.
        let fits = |plan: &Self| {
            plan.scratch <= memory / BUFFERS
                && plan.experts.streamed == least.experts.streamed
                && (plan.ahead > 0) == (least.ahead > 0)
        };
        Ok(more.into_iter().find(fits).unwrap_or(least))
    }

    fn with_chunk(
        file: &GgufFile,
        cfg: &ModelConfig,
        request: &PlanRequest,
        chunk: usize,
        draft: Option<(&DraftConfig, Option<&GgufFile>)>,
    ) -> Result<Self, EngineError> {
        let chunk = chunk.max(1);
        let sum_of = |file: &GgufFile, of: &dyn Fn(&str) -> bool| -> u64 {
            let tensors = file.tensors().iter().filter(|t| of(&t.name));
            tensors.map(|t| t.bytes).sum()
        };
        let sum = |of: &dyn Fn(&str) -> bool| sum_of(file, &|name| !is_draft(name) && of(name));
        let draft_plan = match draft {
            None => DraftPlan::default(),
            Some((draft, other)) => {
                let of_draft = |name: &str| match other {
                    Some(_) => !draft.ignores(name),
                    None => is_draft(name) && !draft.ignores(name),
                };
                let all = sum_of(other.unwrap_or(file), &of_draft);
                let experts = match other {
                    Some(_) => 0,
                    None => sum_of(file, &|name| of_draft(name) && is_expert(name)),
                };
                DraftPlan {
                    dense: all - experts,
                    expert_bytes: experts,
                    experts: match other {
                        Some(_) => 0,
                        None => draft.blocks() * draft.model.experts,
                    },
                    session: draft_bytes(draft, request.kv, request.threads, 0),
                }
            }
        };
        let embedding = sum(&|name| name == "token_embd.weight");
        let engram_tables = sum(&is_engram_table);
        let expert_bytes = sum(&is_expert);
        let all = sum(&|_| true);
        let engram_memory = match request.engram {
            None => 0,
            Some(_) if engram_tables == 0 => 0,
            Some(EngramPlacement::Memory) => engram_tables,
            Some(EngramPlacement::Disk) => request.engram_cache,
        };
        let rows = chunk.min(request.context).max(1);
        let kv = kv_bytes(cfg, request.kv, request.context);
        let size = SessionSize {
            tokens: request.context,
            context: request.context,
            rows,
            chunk: rows,
            logits: 1,
        };
        let plain = session_bytes(cfg, request.kv, request.threads, size);
        let ahead = match request.ahead {
            0 => 0,
            ahead => {
                let size = SessionSize {
                    rows: rows.max(ahead),
                    // Of the rows, and those of them that are kept.
                    logits: 2 * ahead,
                    ..size
                };
                let more = session_bytes(cfg, request.kv, request.threads, size);
                ahead_bytes(cfg, request.kv, ahead) + more.saturating_sub(plain)
            }
        };
        // A module is of no use without it.
        let (ahead, spare) = match draft {
            Some(_) => (ahead, 0),
            None => (0, ahead),
        };
        let mut plan = Self {
            allowed: request.memory,
            dense: all - embedding - engram_tables - expert_bytes,
            embedding,
            experts: Self::experts(file, cfg, request, expert_bytes, draft),
            draft: draft_plan,
            engram_tables,
            engram_memory,
            kv,
            scratch: plain - kv,
            ahead,
            program: PROGRAM_BYTES + HEADER_FACTOR * file.header_len() + request.hashes,
            adapters: request.adapters,
            context: request.context,
            chunk,
        };
        let allowed = plan.allowed.unwrap_or(u64::MAX);
        let sessions = plan.kv + plan.scratch + plan.draft.session + plan.ahead;
        let expert_bytes = expert_bytes + plan.draft.expert_bytes;
        let all = plan.fixed().saturating_add(expert_bytes + sessions);
        let spare_after = |taken: u64| match taken.saturating_add(spare) <= allowed {
            true => spare,
            false => 0,
        };
        if all <= allowed && request.most_slots.is_none() {
            plan.ahead += spare_after(all);
            return Ok(plan);
        }
        let experts = &mut plan.experts;
        experts.streamed = expert_bytes > 0;
        let held = experts.count + plan.draft.experts;
        let most = request.most_slots.unwrap_or(usize::MAX).min(held);
        experts.least_slots = experts.least_slots.min(most.max(1));
        let least = plan.fixed() + plan.experts.least_slots as u64 * plan.experts.slot_bytes;
        if least + sessions > allowed {
            let needed = ByteSize(least + sessions);
            return Err(EngineError::Memory {
                what: format!(
                    "the model with {}a context of {} tokens (weights of every token {}{}, at least \
                     {} for {} experts, caches {}, buffers {})",
                    draft.map_or("", |_| "its draft module and "),
                    plan.context,
                    ByteSize(plan.dense),
                    draft.map_or_else(String::new, |_| {
                        let drafting = plan.draft.dense + plan.draft.session + plan.ahead;
                        format!(", drafts {}", ByteSize(drafting))
                    }),
                    ByteSize(plan.experts.least_slots as u64 * plan.experts.slot_bytes),
                    plan.experts.least_slots,
                    ByteSize(plan.kv),
                    ByteSize(plan.scratch),
                ),
                needed,
                allowed: ByteSize(allowed),
                remedy: format!(
                    "use --memory {} or more, or a smaller --ctx or --chunk",
                    needed.as_option()
                ),
            });
        }
        let ahead = spare_after(least + sessions);
        plan.ahead += ahead;
        let slots = |taken: u64| {
            let left = allowed.saturating_sub(plan.fixed() + taken);
            let slots = left / plan.experts.slot_bytes.max(1);
            usize::try_from(slots).unwrap_or(usize::MAX).min(most)
        };
        let (full, start) = (slots(sessions + ahead), slots(0));
        plan.experts.slots = full;
        plan.experts.slots_at_start = start;
        Ok(plan)
    }

    fn experts(
        file: &GgufFile,
        cfg: &ModelConfig,
        request: &PlanRequest,
        bytes: u64,
        draft: Option<(&DraftConfig, Option<&GgufFile>)>,
    ) -> ExpertPlan {
        // Bytes of an expert's gate, up and down.
        let each = |prefix: String, experts: usize| -> Option<[u64; 3]> {
            let of = |part: &str| {
                let tensor = file.tensor(&format!("{prefix}.ffn_{part}_exps.weight"))?;
                Some(tensor.bytes / experts.max(1) as u64)
            };
            Some([of("gate")?, of("up")?, of("down")?])
        };
        let matrices: Vec<_> = (0..cfg.layers.len())
            .filter_map(|l| each(format!("blk.{l}"), cfg.experts))
            .collect();
        let layers = matrices.len();
        let own = draft.filter(|(_, other)| other.is_none());
        let of_draft = own.into_iter().flat_map(|(draft, _)| {
            (0..draft.blocks()).filter_map(|b| each(draft.block(b), draft.model.experts))
        });
        let slots = matrices.into_iter().chain(of_draft);
        let slot = slot_bytes(slots, request.unit).iter().sum::<usize>() as u64;
        let count = layers * cfg.experts;
        ExpertPlan {
            count,
            layers,
            used: cfg.experts_used,
            bytes,
            slot_bytes: slot,
            streamed: false,
            slots: count,
            slots_at_start: count,
            // Two tokens' worth: one is computed with while another is read.
            least_slots: (2 * cfg.experts_used).min(count),
        }
    }

    /// What stays in memory while the engine is open, without experts.
    #[must_use]
    pub fn fixed(&self) -> u64 {
        self.dense + self.draft.dense + self.engram_memory + self.program + self.adapters
    }

    /// Everything in memory with one session at its full context.
    #[must_use]
    pub fn total(&self) -> u64 {
        let experts = match self.experts.streamed {
            true => self.experts.slots as u64 * self.experts.slot_bytes,
            false => self.experts.bytes + self.draft.expert_bytes,
        };
        self.fixed() + experts + self.kv + self.scratch + self.draft.session + self.ahead
    }

    /// Bytes of routed experts that a token uses.
    #[must_use]
    pub fn expert_bytes_per_token(&self) -> u64 {
        let each = self.experts.bytes / self.experts.count.max(1) as u64;
        each * (self.experts.used * self.experts.layers) as u64
    }

    /// Share of the experts that are in memory at the full context.
    #[must_use]
    pub fn cached_share(&self) -> f64 {
        match self.experts.streamed {
            true => {
                let held = self.experts.count + self.draft.experts;
                self.experts.slots as f64 / held.max(1) as f64
            }
            false => 1.0,
        }
    }
}
