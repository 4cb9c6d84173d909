//! Tensors that the configuration demands, looked up in the checkpoint.

use std::collections::BTreeSet;

use v4_quant::GgmlType;

use crate::checkpoint::{Checkpoint, StoredTensor};
use crate::config::ModelConfig;
use crate::plan::error::PlanError;
use crate::plan::tensor::Untyped;
use crate::recipe::Role;
use crate::safetensors::Dtype;
use crate::source::{Part, Source};

/// Collects the tensors that the configuration demands, and what is wrong with
/// those that the checkpoint has.
pub(super) struct Expected<'a> {
    pub checkpoint: &'a Checkpoint,
    pub config: &'a ModelConfig,
    pub tensors: Vec<Untyped>,
    pub used: BTreeSet<String>,
    pub problems: Vec<PlanError>,
}

impl<'a> Expected<'a> {
    pub(super) fn new(checkpoint: &'a Checkpoint) -> Self {
        Self {
            checkpoint,
            config: &checkpoint.config,
            tensors: Vec::new(),
            used: BTreeSet::new(),
            problems: Vec::new(),
        }
    }

    pub(super) fn fp4(&mut self, from: &str, rows: u64, columns: u64) -> Option<[Part; 2]> {
        if let Some(other) = self.other_experts(&format!("{from}.weight")) {
            self.problems.push(other);
            return None;
        }
        let codes = self.find(
            &format!("{from}.weight"),
            &[Dtype::I8],
            &[rows, columns / 2],
        );
        let scales = self.find(
            &format!("{from}.scale"),
            &[Dtype::F8_E8M0],
            &[rows, columns / 32],
        );
        Some([codes?.0, scales?.0])
    }

    pub(super) fn fp8(&mut self, to: &str, from: &str, rows: u64, columns: u64) {
        let block = self.config.weight_block_size;
        let [block_rows, block_columns] = block.map(u64::from);
        let weight = self.find(
            &format!("{from}.weight"),
            &[Dtype::F8_E4M3],
            &[rows, columns],
        );
        let scale = self.find(
            &format!("{from}.scale"),
            &[Dtype::F8_E8M0],
            &[rows.div_ceil(block_rows), columns.div_ceil(block_columns)],
        );
        if let (Some((weight, _)), Some((scale, _))) = (weight, scale) {
            self.tensors.push(Untyped {
                name: to.to_owned(),
                dims: vec![columns, rows],
                role: Role::Dense,
                stored: GgmlType::BF16,
                source: Source::Fp8 {
                    weight,
                    scale,
                    block,
                },
            });
        }
    }

    /// As `plain`, for draft tensors that keep their name.
    pub(super) fn same_name(&mut self, name: &str, shape: &[u64]) {
        self.plain(name, name, shape);
    }

    /// A tensor of plain numbers; `shape` is outermost first.
    pub(super) fn plain(&mut self, to: &str, from: &str, shape: &[u64]) {
        let Some((part, dtype)) = self.find(from, &[Dtype::BF16, Dtype::F32], shape) else {
            return;
        };
        let ty = match dtype {
            Dtype::BF16 => GgmlType::BF16,
            _ => GgmlType::F32,
        };
        self.tensors.push(Untyped {
            name: to.to_owned(),
            dims: shape.iter().rev().copied().collect(),
            role: if shape.len() > 1 {
                Role::Matrix
            } else {
                Role::Vector
            },
            stored: ty,
            source: Source::Rows { ty, part },
        });
    }

    /// The experts of each token in a hash-routed layer.
    pub(super) fn table(&mut self, to: &str, from: &str) {
        let c = self.config;
        let (vocab, used) = (u64::from(c.vocab_size), u64::from(c.num_experts_per_tok));
        if let Some((part, _)) = self.find(from, &[Dtype::I64], &[vocab, used]) {
            self.tensors.push(Untyped {
                name: to.to_owned(),
                dims: vec![used, vocab],
                role: Role::Table,
                stored: GgmlType::I32,
                source: Source::Ids {
                    part,
                    limit: c.n_routed_experts,
                },
            });
        }
    }

    /// A stored tensor, if it is there and stored as it must be.
    pub(super) fn find(
        &mut self,
        name: &str,
        dtypes: &[Dtype],
        shape: &[u64],
    ) -> Option<(Part, Dtype)> {
        self.used.insert(name.to_owned());
        let Some(stored) = self.checkpoint.tensors.get(name) else {
            self.problems.push(PlanError::Missing {
                path: self.checkpoint.dir.clone(),
                tensor: name.to_owned(),
                others: 0,
            });
            return None;
        };
        if !dtypes.contains(&stored.dtype) || stored.shape != shape {
            let names: Vec<&str> = dtypes.iter().map(|dtype| dtype.name()).collect();
            self.problems.push(PlanError::Stored {
                path: self.checkpoint.shards[stored.shard as usize]
                    .path()
                    .to_owned(),
                tensor: name.to_owned(),
                found: format!("{} {:?}", stored.dtype.name(), stored.shape),
                expected: format!("{} {shape:?}", names.join(" or ")),
                others: 0,
            });
            return None;
        }
        Some((part_of(name, stored), stored.dtype))
    }

    /// Whether an expert's weights are in one of the other forms in circulation.
    fn other_experts(&self, name: &str) -> Option<PlanError> {
        let stored = self.checkpoint.tensors.get(name)?;
        let form = match stored.dtype {
            Dtype::F8_E4M3 | Dtype::F8_E5M2 => "FP8",
            Dtype::U8 => "packed bytes, as in NVFP4",
            Dtype::BF16 | Dtype::F16 | Dtype::F32 => "not quantised",
            _ => return None,
        };
        Some(PlanError::Experts {
            path: self.checkpoint.shards[stored.shard as usize]
                .path()
                .to_owned(),
            tensor: name.to_owned(),
            found: stored.dtype.name(),
            form,
        })
    }
}

fn part_of(name: &str, stored: &StoredTensor) -> Part {
    Part {
        name: name.to_owned(),
        file: stored.shard,
        offset: stored.offset,
        bytes: stored.bytes,
    }
}
