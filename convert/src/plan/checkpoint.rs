//! The plan for a checkpoint in the published layout (spec/architecture.md
//! sections 2.2 and 2.3, spec/gguf.md sections 2 and 5).

mod blocks;
mod drafts;
mod expected;
mod v41;
mod vision;

use expected::Expected;

use super::build::Plan;
use super::error::PlanError;
use super::metadata;
use super::options::{Drafts, PlanOptions, Vision};
use super::tensor::{Untyped, shorten};
use crate::checkpoint::Checkpoint;

/// Plans the conversion of an opened checkpoint.
pub(super) fn plan(checkpoint: Checkpoint, options: &PlanOptions) -> Result<Plan, PlanError> {
    let mut list = Expected::new(&checkpoint);
    let draft_blocks = drafts::draft_blocks(&checkpoint);
    match options.drafts {
        Drafts::Keep => {
            list.main_model();
            list.draft_blocks(draft_blocks);
        }
        Drafts::Drop => list.main_model(),
        Drafts::Only => {
            drafts::check_alone(&checkpoint, draft_blocks, options)?;
            // llama.cpp's MTP files have copies of these.
            if checkpoint.config.dspark.is_none() {
                list.ends();
            }
            list.draft_blocks(draft_blocks);
        }
    }
    let tower = checkpoint
        .config
        .v41
        .as_ref()
        .and_then(|v41| v41.vision.as_ref());
    if let (Vision::Keep, Some(tower)) = (options.vision, tower) {
        list.vision(tower);
    }
    let (mut tensors, warnings) = list.finish(options)?;
    let (metadata, constants) =
        metadata::of_checkpoint(&checkpoint, &tensors, options, draft_blocks)?;
    if options.drafts == Drafts::Only {
        drafts::in_a_file_of_their_own(&mut tensors, &checkpoint.config, draft_blocks);
    }

    let mut facts = blake3::Hasher::new();
    for hash in &checkpoint.header_hashes {
        facts.update(hash.as_bytes());
    }
    Plan::build(
        checkpoint.shards,
        facts.finalize(),
        tensors,
        metadata,
        constants,
        options,
        warnings,
    )
}

impl Expected<'_> {
    /// Whether the tensors are there under the names of `transformers`' modules.
    fn renamed(&self) -> Option<PlanError> {
        let PlanError::Missing { tensor, .. } = self.problems.first()? else {
            return None;
        };
        let theirs = ["model.", "language_model.", "lm_head."];
        let found = self
            .checkpoint
            .tensors
            .keys()
            .find(|name| theirs.iter().any(|start| name.starts_with(start)))?;
        Some(PlanError::Renamed {
            path: self.checkpoint.dir.clone(),
            found: shorten(&[found]),
            expected: tensor.clone(),
        })
    }

    /// The list, or the first problem.
    fn finish(mut self, options: &PlanOptions) -> Result<(Vec<Untyped>, Vec<String>), PlanError> {
        if !self.problems.is_empty() {
            if let Some(renamed) = self.renamed() {
                return Err(renamed);
            }
            let further = self.problems.len() - 1;
            let mut first = self.problems.swap_remove(0);
            if let PlanError::Missing { others, .. } | PlanError::Stored { others, .. } = &mut first
            {
                *others = further;
            }
            return Err(first);
        }
        let mut warnings = Vec::new();
        let rest = self.checkpoint.tensors.keys().map(String::as_str);
        let rest = rest.filter(|name| !self.used.contains(*name));
        // Of a draft's file nobody expects the model.
        let rest = rest.filter(|name| options.drafts != Drafts::Only || name.starts_with("mtp."));
        // Copies of the model's own matrices, which drafts share.
        let rest = rest.filter(|name| !drafts::is_shared(name));
        let (drafts, rest): (Vec<&str>, Vec<&str>) =
            rest.partition(|name| options.drafts == Drafts::Drop && name.starts_with("mtp."));
        let has_tower = self
            .config
            .v41
            .as_ref()
            .is_some_and(|v41| v41.vision.is_some());
        let (vision, unknown): (Vec<&str>, Vec<&str>) = rest.into_iter().partition(|name| {
            options.vision == Vision::Drop && has_tower && vision::is_vision(name)
        });
        for (dropped, what, option) in [
            (drafts, "draft blocks", "drafts"),
            (vision, "the vision tower", "vision"),
        ] {
            if !dropped.is_empty() {
                warnings.push(format!(
                    "{} tensors of {what} are left out (`--{option} keep` keeps them)",
                    dropped.len()
                ));
            }
        }
        if options.drafts == Drafts::Keep
            && self.config.dspark.is_some()
            && !self
                .tensors
                .iter()
                .any(|tensor| tensor.name.starts_with("mtp."))
        {
            warnings.push(
                "config.json describes draft blocks, but the checkpoint has none (mtp.*): the \
                 model is written without"
                    .to_owned(),
            );
        }
        if options.vision == Vision::Keep && !has_tower {
            warnings
                .push("`--vision keep` has no effect: config.json has no vision_config".to_owned());
        }
        if !unknown.is_empty() {
            warnings.push(format!(
                "{} tensors of the checkpoint are unknown and left out: {}",
                unknown.len(),
                shorten(&unknown)
            ));
        }
        if self.checkpoint.unlisted > 0 {
            warnings.push(format!(
                "{} tensors in the shards are not in the index and left out",
                self.checkpoint.unlisted
            ));
        }
        Ok((self.tensors, warnings))
    }
}
