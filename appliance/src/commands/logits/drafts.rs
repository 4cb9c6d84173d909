//! Drafts of the positions that logits are written of.

use std::ops::Range;

use anyhow::Context;
use v4_runtime::model::{DraftConfig, DraftKind};
use v4_runtime::{Drafted, Engine, Session};

use super::tensors::{Element, Tensor, TensorFile};

/// Drafts after each of some positions, of ids that the session holds.
pub struct DraftPlan<'a> {
    config: &'a DraftConfig,
    vocab: usize,
    /// The last position read before each draft.
    positions: Range<usize>,
}

impl<'a> DraftPlan<'a> {
    /// Of the last `rows` positions that are followed by one of `ids` ids.
    pub fn new(engine: &'a Engine, ids: usize, rows: usize) -> anyhow::Result<Self> {
        let end = ids.saturating_sub(1);
        let config = engine.draft().context("no draft module is loaded")?;
        Ok(Self {
            config,
            vocab: engine.config().vocab,
            positions: end - rows.min(end)..end,
        })
    }

    /// Positions before the last one that states are needed of.
    pub fn back(&self) -> usize {
        self.positions.len()
    }

    /// Whether the module tells how sure it is.
    fn is_sure(&self) -> bool {
        matches!(&self.config.kind, DraftKind::Dspark(dspark) if dspark.confidence)
    }

    fn has_context(&self) -> bool {
        matches!(self.config.kind, DraftKind::Dspark(_))
    }

    pub fn tensors(&self) -> Vec<Tensor> {
        let (n, rows) = (self.positions.len(), self.config.rows());
        let mut tensors = vec![
            Tensor::new("drafts.positions", Element::I32, &[n]),
            Tensor::new("drafts.0.logits", Element::F32, &[n, rows, self.vocab]),
            Tensor::new("drafts.tokens", Element::I32, &[n, rows]),
        ];
        if self.is_sure() {
            tensors.push(Tensor::new("drafts.confidence", Element::F32, &[n, rows]));
        }
        if self.has_context() {
            let width = self.config.model.embedding;
            tensors.push(Tensor::new("drafts.main_x", Element::F32, &[n, width]));
        }
        tensors
    }

    /// Drafts after each position, as if the session had just read it.
    pub fn run(
        &self,
        session: &mut Session,
        ids: &[u32],
        file: &mut TensorFile,
    ) -> anyhow::Result<()> {
        for position in self.positions.clone() {
            let drafted = session.draft_after(position + 1, ids[position + 1])?;
            let Drafted {
                drafts,
                logits,
                context,
            } = drafted;
            file.push_i32("drafts.positions", &[i32::try_from(position)?])?;
            file.push_f32("drafts.0.logits", &logits)?;
            let tokens = drafts.iter().map(|draft| i32::try_from(draft.token));
            file.push_i32("drafts.tokens", &tokens.collect::<Result<Vec<_>, _>>()?)?;
            if self.is_sure() {
                let sure: Vec<f32> = drafts.iter().filter_map(|d| d.confidence).collect();
                file.push_f32("drafts.confidence", &sure)?;
            }
            if self.has_context() {
                file.push_f32("drafts.main_x", &context)?;
            }
        }
        Ok(())
    }
}
