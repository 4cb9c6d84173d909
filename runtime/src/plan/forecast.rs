//! Predicts the speed of a plan from the rates of memory and disk.

use super::memory::MemoryPlan;
use crate::model::ModelConfig;

/// What this machine gives, measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Bytes per second read from memory by all threads.
    pub memory: f64,
    /// Bytes per second read from disk in whole experts.
    pub disk: f64,
    /// int8 operations per second.
    pub int8: f64,
}

/// Seconds and bytes that a plan predicts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Forecast {
    /// Share of a token's experts that are in memory.
    pub hit_rate: f64,
    /// Bytes that a decoded token reads from memory.
    pub memory_bytes: f64,
    /// Bytes that it reads from disk.
    pub disk_bytes: f64,
    /// Tokens decoded per second.
    pub decode: f64,
    /// Tokens of a prompt read per second.
    pub prefill: f64,
}

/// Part of what memory gives at best that decoding reaches, all operations together;
/// measured, see `docs/speed.md`.
const MEMORY_SHARE: f64 = 0.90;
/// The same for the int8 operations of a prompt.
const INT8_SHARE: f64 = 0.21;

impl Forecast {
    /// For one token at a time after `depth` tokens, and prompts in chunks of `chunk`.
    ///
    /// `hits` is the share of experts in memory, layer by layer; without it every
    /// expert is taken to be as likely as any other, which is the worst case.
    #[must_use]
    pub fn new(
        plan: &MemoryPlan,
        cfg: &ModelConfig,
        rates: Rates,
        depth: usize,
        chunk: usize,
        hits: Option<&[f64]>,
    ) -> Self {
        let layers = cfg.layers.len().max(1);
        let share = plan.cached_share();
        let hit = |l: usize| match hits {
            Some(hits) if plan.experts.streamed => hits.get(l).copied().unwrap_or(share),
            _ => share,
        };
        let each = plan.experts.bytes as f64 / plan.experts.count.max(1) as f64;
        let used = plan.experts.used as f64;
        let memory = rates.memory * MEMORY_SHARE;
        // Attention reads the window and what is chosen, the indexer all its keys.
        let kv = super::sizes::kv_read_bytes(cfg, depth) as f64;
        let dense = plan.dense as f64 + kv;
        let per_layer = dense / layers as f64;

        // Two clocks: one of what is computed, one of the disk. Experts that the
        // token alone names are read from its beginning on.
        let (mut time, mut disk) = (0.0f64, 0.0f64);
        let mut missed = 0.0;
        let ahead: Vec<Option<f64>> = (0..layers)
            .map(|l| {
                cfg.layers.get(l).is_some_and(|l| l.hash_routed).then(|| {
                    let bytes = (1.0 - hit(l)) * used * each;
                    missed += bytes;
                    disk += bytes / rates.disk;
                    disk
                })
            })
            .collect();
        for (l, ahead) in ahead.iter().enumerate() {
            time += per_layer / memory;
            let miss = (1.0 - hit(l)) * used * each;
            let there = match ahead {
                Some(there) => *there,
                None => {
                    missed += miss;
                    disk = disk.max(time) + miss / rates.disk;
                    disk
                }
            };
            // What is there is computed meanwhile; of what comes, the last expert's
            // time is left when it is there.
            let hits = (used * each - miss) / memory;
            let last = if miss > 0.0 {
                miss.min(each) / memory
            } else {
                0.0
            };
            let all = used * each / memory;
            time = (time + all).max((time + hits).max(there) + last);
        }
        let decode = 1.0 / time;

        // A chunk reads nearly every expert once, and computes meanwhile.
        let rows = chunk.max(1) as f64;
        let distinct = 1.0
            - (1.0 - used / (plan.experts.count.max(1) as f64 / plan.experts.layers.max(1) as f64))
                .powf(rows);
        let values = (plan.dense as f64 + used * layers as f64 * each).max(1.0);
        // Two operations for each value; formats have from half to one byte for one.
        let operations = 2.0 * Self::values_per_token(cfg);
        let compute = rows * operations / (rates.int8 * INT8_SHARE);
        // In the last layer for the last token alone. What is in memory at a layer's
        // turn is little where the layers take turns.
        let per_layer = plan.experts.count as f64 / layers as f64;
        let missing = if plan.experts.streamed {
            distinct * per_layer * layers.saturating_sub(1).max(1) as f64 * (1.0 - share)
        } else {
            0.0
        };
        let read = missing * each / rates.disk;
        // Reading stops while a layer attends and slots are full: between the sum of
        // both and the greater.
        let both = f64::midpoint(compute + read, compute.max(read));
        let prefill = rows / both.max(values / memory);
        Self {
            hit_rate: (0..layers).map(hit).sum::<f64>() / layers as f64,
            memory_bytes: dense + used * each * layers as f64,
            disk_bytes: missed,
            decode,
            prefill,
        }
    }

    /// Values of the weights that a token of a prompt meets.
    fn values_per_token(cfg: &ModelConfig) -> f64 {
        let (d, ff, q) = (cfg.embedding, cfg.expert_ff, cfg.q_dim());
        let low_rank = cfg.output_groups * cfg.output_lora_rank;
        let attention = cfg.q_lora_rank * (d + q)
            + d * cfg.head_dim
            + q * cfg.output_lora_rank
            + low_rank * d
            + d * 4 * cfg.head_dim
            + cfg.index_heads * cfg.index_dim * cfg.q_lora_rank;
        let experts = 3 * d * ff * (cfg.experts_used + cfg.experts_shared) + d * cfg.experts;
        // Of the last layer's rows only those wanted are computed.
        let layers = cfg.layers.len().saturating_sub(1).max(1);
        layers as f64 * (attention + experts) as f64
    }
}
