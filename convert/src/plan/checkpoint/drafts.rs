//! Draft blocks: MTP and DSpark (spec/speculation.md sections 1 and 7).

use super::blocks::Block;
use super::expected::Expected;
use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::plan::error::PlanError;
use crate::plan::options::{PlanOptions, Vision};
use crate::plan::tensor::Untyped;
use crate::source::Source;

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

/// Whether it is a copy of the embeddings or the head, which drafts share with the model.
pub(super) fn is_shared(name: &str) -> bool {
    let part = name.strip_prefix("mtp.").and_then(|n| n.split_once('.'));
    part.is_some_and(|(_, part)| part.starts_with("emb") || part == "head.weight")
}

/// Whether the checkpoint's drafts can be written without its model.
pub(super) fn check_alone(
    checkpoint: &Checkpoint,
    blocks: u32,
    options: &PlanOptions,
) -> Result<(), PlanError> {
    let refuse = |reason| {
        Err(PlanError::DraftsOnly {
            path: checkpoint.dir.clone(),
            reason,
        })
    };
    if blocks == 0 {
        return refuse("it has no draft blocks (mtp.*)");
    }
    if checkpoint.config.dspark.is_none() && blocks > 1 {
        return refuse("llama.cpp's layout has room for one MTP block, and it has several");
    }
    if options.vision == Vision::Keep {
        return refuse("drafts have no vision tower; leave out `--vision keep`");
    }
    Ok(())
}

/// Gives the tensors the names of llama.cpp's draft files, and leaves out what those have no
/// place for.
pub(super) fn in_a_file_of_their_own(
    tensors: &mut Vec<Untyped>,
    config: &ModelConfig,
    blocks: u32,
) {
    // A bias for pieces of images, by which no draft is routed.
    tensors.retain(|tensor| !tensor.name.ends_with(".exp_probs_b_vl.bias"));
    let last = blocks.saturating_sub(1).to_string();
    let layer = config.num_hidden_layers;
    if config.dspark.is_none() {
        put_beside(tensors, "mtp.0.e_proj.weight", "mtp.0.h_proj.weight");
    }
    for tensor in tensors {
        let Some((block, part)) = tensor
            .name
            .strip_prefix("mtp.")
            .and_then(|name| name.split_once('.'))
        else {
            continue;
        };
        tensor.name = match (&config.dspark, part) {
            (_, "hc_head_fn.weight") => "output_hc_fn.weight".to_owned(),
            (_, "hc_head_base.weight") => "output_hc_base.weight".to_owned(),
            (_, "hc_head_scale.weight") => "output_hc_scale.weight".to_owned(),
            (None, "e_proj.weight") => format!("blk.{layer}.nextn.eh_proj.weight"),
            (None, "norm.weight") => format!("blk.{layer}.nextn.shared_head_norm.weight"),
            (None, "enorm.weight" | "hnorm.weight") => format!("blk.{layer}.nextn.{part}"),
            (None, _) => format!("blk.{layer}.{part}"),
            (_, "main_proj.weight") => "fc.weight".to_owned(),
            (_, "main_norm.weight") => "enc.output_norm.weight".to_owned(),
            (_, "norm.weight") if block == last => "output_norm.weight".to_owned(),
            (_, "markov_head.markov_w1.weight") => "markov_w1.weight".to_owned(),
            (_, "markov_head.markov_w2.weight") => "markov_w2.weight".to_owned(),
            (_, "confidence_head.proj.weight") => "conf_proj.weight".to_owned(),
            _ => format!("blk.{block}.{part}"),
        };
    }
}

/// Puts the second matrix to the right of the first.
fn put_beside(tensors: &mut Vec<Untyped>, left: &str, right: &str) {
    let Some(at) = tensors.iter().position(|tensor| tensor.name == right) else {
        return;
    };
    let right = tensors.remove(at);
    if let Some(left) = tensors.iter_mut().find(|tensor| tensor.name == left) {
        left.dims[0] += right.dims[0];
        left.source = Source::Beside(Box::new([left.source.clone(), right.source]));
    }
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
                    &format!("{name}.markov_head.{part}.weight"),
                    &format!("{name}.markov_head.{stored}.weight"),
                    &[vocab, rank],
                );
            }
            self.plain(
                &format!("{name}.confidence_head.proj.weight"),
                &format!("{name}.confidence_head.proj.weight"),
                &[1, d + rank],
            );
        }
    }
}
