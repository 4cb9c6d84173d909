//! Tensors that the configuration demands, looked up in the checkpoint.

use std::collections::BTreeSet;

use v4_quant::GgmlType;

use crate::checkpoint::{Checkpoint, StoredTensor};
use crate::config::ModelConfig;
use crate::plan::error::PlanError;
use crate::plan::tensor::Untyped;
use crate::recipe::Role;
use crate::safetensors::Dtype;
use crate::source::{NVFP4_BLOCK, Part, Source};

/// Collects the tensors that the configuration demands, and what is wrong with
/// those that the checkpoint has.
pub(super) struct Expected<'a> {
    pub checkpoint: &'a Checkpoint,
    pub config: &'a ModelConfig,
    pub tensors: Vec<Untyped>,
    pub used: BTreeSet<String>,
    pub problems: Vec<PlanError>,
    /// The form of the first expert's first matrix.
    experts: Option<&'static str>,
}

/// How a matrix is stored.
#[derive(Debug, Clone, Copy)]
enum Form {
    Fp4,
    Fp8,
    Nvfp4,
    Plain,
}

/// Tensors beside a matrix that its values depend on, in all forms in circulation.
const SCALES: [&str; 7] = [
    "scale",
    "weight_scale",
    "weight_scale_2",
    "weight_scale_inv",
    "weight_global_scale",
    "weight_zero_point",
    "pre_quant_scale",
];

/// A stored matrix and the type that keeps its values.
pub(super) struct Matrix {
    pub source: Source,
    pub stored: GgmlType,
}

impl<'a> Expected<'a> {
    pub(super) fn new(checkpoint: &'a Checkpoint) -> Self {
        Self {
            checkpoint,
            config: &checkpoint.config,
            tensors: Vec::new(),
            used: BTreeSet::new(),
            problems: Vec::new(),
            experts: None,
        }
    }

    /// A matrix that is published in FP8.
    pub(super) fn fp8(&mut self, to: &str, from: &str, rows: u64, columns: u64) {
        if let Some(Matrix { source, stored }) = self.matrix(from, rows, columns, Form::Fp8) {
            self.tensors.push(Untyped {
                name: to.to_owned(),
                dims: vec![columns, rows],
                role: Role::Dense,
                stored,
                source,
            });
        }
    }

    /// A matrix of an expert, published in FP4; all must be of one form.
    pub(super) fn expert(&mut self, from: &str, rows: u64, columns: u64) -> Option<Matrix> {
        let matrix = self.matrix(from, rows, columns, Form::Fp4)?;
        let found = matrix.source.form();
        let stated = self.config.expert_dtype.as_deref();
        let agrees = match stated {
            Some("fp4") => matches!(found, "FP4" | "NVFP4"),
            Some(stated) => found.eq_ignore_ascii_case(stated),
            None => true,
        };
        if agrees && *self.experts.get_or_insert(found) == found {
            return Some(matrix);
        }
        let expected = match stated {
            Some(stated) if !agrees => {
                format!("{stated} as `expert_dtype` of config.json says of the routed experts")
            }
            _ => format!(
                "{} as the first routed expert is",
                self.experts.unwrap_or(found)
            ),
        };
        let tensor = format!("{from}.weight");
        let shard = self.checkpoint.tensors.get(&tensor).map_or(0, |t| t.shard);
        self.problems.push(PlanError::Experts {
            path: self.checkpoint.shards[shard as usize].path().to_owned(),
            tensor,
            found: format!("{found}, not {expected}"),
            remedy: "checkpoint and config.json do not belong together, download both again",
        });
        None
    }

    /// A matrix in one of the forms in circulation, which its dtype tells; `published` is
    /// that of the published checkpoints.
    fn matrix(&mut self, from: &str, rows: u64, columns: u64, published: Form) -> Option<Matrix> {
        let name = format!("{from}.weight");
        let stored = self.checkpoint.tensors.get(&name);
        let has = |part: &str| {
            let name = format!("{from}.{part}");
            self.checkpoint.tensors.contains_key(&name)
        };
        let form = match stored.map(|stored| stored.dtype) {
            Some(Dtype::F8_E4M3) => Form::Fp8,
            Some(Dtype::U8) if has("weight_scale_2") => Form::Nvfp4,
            Some(Dtype::BF16 | Dtype::F32) => Form::Plain,
            Some(dtype @ (Dtype::U8 | Dtype::F8_E5M2 | Dtype::F16))
                if matches!(published, Form::Fp4) =>
            {
                let shard = stored.map_or(0, |stored| stored.shard);
                self.problems.push(PlanError::Experts {
                    path: self.checkpoint.shards[shard as usize].path().to_owned(),
                    tensor: name,
                    found: format!("{}, a form that is not supported", dtype.name()),
                    remedy: "convert a checkpoint whose experts are FP4, FP8, BF16 or NVFP4 as \
                             ModelOpt stores it (weight, weight_scale, weight_scale_2)",
                });
                return None;
            }
            _ => published,
        };
        let own: &[&str] = match form {
            Form::Fp4 | Form::Fp8 => &["scale"],
            Form::Nvfp4 => &["weight_scale", "weight_scale_2"],
            Form::Plain => &[],
        };
        let other = SCALES.into_iter().find(|&s| has(s) && !own.contains(&s));
        if let (Some(other), Some(stored)) = (other, stored) {
            self.problems.push(PlanError::Experts {
                path: self.checkpoint.shards[stored.shard as usize]
                    .path()
                    .to_owned(),
                tensor: name,
                found: format!(
                    "{}, but is scaled by {from}.{other} as well, a form that is not supported",
                    stored.dtype.name()
                ),
                remedy: "convert the published checkpoint",
            });
            return None;
        }
        match form {
            Form::Fp4 => {
                let codes = self.find(&name, &[Dtype::I8], &[rows, columns / 2]);
                let scale = format!("{from}.scale");
                let scales = self.find(&scale, &[Dtype::F8_E8M0], &[rows, columns / 32]);
                Some(Matrix {
                    stored: GgmlType::MXFP4,
                    source: Source::Fp4 {
                        codes: codes?.0,
                        scales: scales?.0,
                    },
                })
            }
            Form::Fp8 => {
                let block = self.config.weight_block_size;
                let [block_rows, block_columns] = block.map(u64::from);
                let weight = self.find(&name, &[Dtype::F8_E4M3], &[rows, columns]);
                let scale = self.find(
                    &format!("{from}.scale"),
                    &[Dtype::F8_E8M0],
                    &[rows.div_ceil(block_rows), columns.div_ceil(block_columns)],
                );
                Some(Matrix {
                    stored: GgmlType::BF16,
                    source: Source::Fp8 {
                        weight: weight?.0,
                        scale: scale?.0,
                        block,
                    },
                })
            }
            Form::Nvfp4 => {
                let [block_scale, scale, input] = ["weight_scale", "weight_scale_2", "input_scale"]
                    .map(|p| format!("{from}.{p}"));
                let codes = self.find(&name, &[Dtype::U8], &[rows, columns / 2]);
                let shape = [rows, columns / NVFP4_BLOCK];
                let scales = self.find(&block_scale, &[Dtype::F8_E4M3], &shape);
                // Some writers give a scalar one dimension.
                let one = self.checkpoint.tensors.get(&scale);
                let one = one.map_or(&[][..], |scale| if scale.shape == [1] { &[1] } else { &[] });
                let scale = self.find(&scale, &[Dtype::F32], one);
                // Of activations, which are not rounded to FP4 here.
                self.used.insert(input);
                Some(Matrix {
                    stored: GgmlType::F32,
                    source: Source::Nvfp4 {
                        codes: codes?.0,
                        scales: scales?.0,
                        scale: scale?.0,
                    },
                })
            }
            Form::Plain => {
                let (part, dtype) =
                    self.find(&name, &[Dtype::BF16, Dtype::F32], &[rows, columns])?;
                let ty = plain_type(dtype);
                Some(Matrix {
                    stored: ty,
                    source: Source::Rows { ty, part },
                })
            }
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
        let ty = plain_type(dtype);
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
}

/// A dtype of plain numbers as a type of the output.
fn plain_type(dtype: Dtype) -> GgmlType {
    match dtype {
        Dtype::BF16 => GgmlType::BF16,
        _ => GgmlType::F32,
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
