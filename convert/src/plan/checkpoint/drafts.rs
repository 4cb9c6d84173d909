//! Draft blocks: MTP and DSpark (spec/architecture.md sections 2.2 and 2.3).

use super::blocks::Block;
use super::expected::Expected;
use crate::checkpoint::Checkpoint;
use crate::plan::error::PlanError;

/// Draft blocks that a checkpoint may have.
const MAX_DRAFT_BLOCKS: u32 = 16;

/// The number of draft blocks, judged by the tensors that exist: the
/// configuration of DSpark checkpoints does not tell.
pub(super) fn draft_blocks(checkpoint: &Checkpoint) -> u32 {
    let numbers = checkpoint.tensors.keys().filter_map(|name| {
        let (number, _) = name.strip_prefix("mtp.")?.split_once('.')?;
        number.parse::<u32>().ok()
    });
    numbers.max().map_or(0, |last| last.saturating_add(1))
}

impl Expected<'_> {
    /// The draft blocks, under the names `mtp.N.…` of ds4.
    pub(super) fn draft_blocks(&mut self, blocks: u32) {
        let c = self.config;
        let d = u64::from(c.hidden_size);
        if blocks > MAX_DRAFT_BLOCKS {
            self.problems.push(PlanError::Stored {
                path: self.checkpoint.dir.clone(),
                tensor: format!("mtp.{}.*", blocks - 1),
                found: format!("{blocks} draft blocks"),
                expected: format!("at most {MAX_DRAFT_BLOCKS}"),
                others: 0,
            });
            return;
        }
        for block in 0..blocks {
            let name = format!("mtp.{block}");
            if let Some(dspark) = &c.dspark {
                if block == 0 {
                    let taps = dspark.target_layers.len() as u64;
                    self.fp8(
                        &format!("{name}.main_proj.weight"),
                        &format!("{name}.main_proj"),
                        d,
                        taps * d,
                    );
                    self.same_name(&format!("{name}.main_norm.weight"), &[d]);
                }
            } else {
                for projection in ["e_proj", "h_proj"] {
                    self.fp8(
                        &format!("{name}.{projection}.weight"),
                        &format!("{name}.{projection}"),
                        d,
                        d,
                    );
                }
                self.same_name(&format!("{name}.enorm.weight"), &[d]);
                self.same_name(&format!("{name}.hnorm.weight"), &[d]);
            }
            let experts = c
                .dspark
                .as_ref()
                .map_or(c.n_routed_experts, |d| d.n_routed_experts);
            self.block(
                &name,
                &name,
                Block {
                    layer: None,
                    ratio: 0,
                    experts,
                },
            );
            if c.dspark.is_none() || block + 1 == blocks {
                self.draft_head(&name);
            }
        }
    }

    fn draft_head(&mut self, name: &str) {
        let c = self.config;
        let (d, vocab) = (u64::from(c.hidden_size), u64::from(c.vocab_size));
        self.same_name(&format!("{name}.norm.weight"), &[d]);
        if c.v41.is_none() {
            self.head_mix(&format!("{name}.hc_head_"), &format!("{name}.hc_head_"));
        }
        if let Some(dspark) = &c.dspark {
            let rank = u64::from(dspark.markov_rank);
            // Each release has its own names for the two.
            let stored = match c.v41 {
                None => ["markov_w1", "markov_w2"],
                Some(_) => ["embed", "head"],
            };
            for (part, stored) in ["markov_w1", "markov_w2"].into_iter().zip(stored) {
                self.plain(
                    &format!("{name}.{part}.weight"),
                    &format!("{name}.markov_head.{stored}.weight"),
                    &[vocab, rank],
                );
            }
            self.plain(
                &format!("{name}.confidence_proj.weight"),
                &format!("{name}.confidence_head.proj.weight"),
                &[1, d + rank],
            );
        }
    }
}
