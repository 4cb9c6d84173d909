//! The plan for a checkpoint in the published layout (spec/architecture.md
//! sections 2.2 and 2.3, spec/gguf.md sections 2 and 5).

mod drafts;
mod v41;
mod vision;

use std::collections::BTreeSet;

use v4_quant::GgmlType;

use super::{Draft, Drafts, Plan, PlanError, PlanOptions, Vision, metadata, shorten};
use crate::checkpoint::{Checkpoint, StoredTensor};
use crate::config::ModelConfig;
use crate::recipe::{Projection, Role};
use crate::safetensors::Dtype;
use crate::source::{Part, Source};

/// Plans the conversion of an opened checkpoint.
pub(super) fn plan(checkpoint: Checkpoint, options: &PlanOptions) -> Result<Plan, PlanError> {
    let mut list = Expected::new(&checkpoint);
    list.main_model();
    let draft_blocks = drafts::draft_blocks(&checkpoint);
    if options.drafts == Drafts::Keep {
        list.draft_blocks(draft_blocks);
    }
    let tower = checkpoint
        .config
        .v41
        .as_ref()
        .and_then(|v41| v41.vision.as_ref());
    if let (Vision::Keep, Some(tower)) = (options.vision, tower) {
        list.vision(tower);
    }
    let (drafts, warnings) = list.finish(options)?;
    let metadata = metadata::of_checkpoint(&checkpoint, &drafts, options, draft_blocks)?;

    let mut facts = blake3::Hasher::new();
    for hash in &checkpoint.header_hashes {
        facts.update(hash.as_bytes());
    }
    Plan::build(
        checkpoint.shards,
        facts.finalize(),
        drafts,
        metadata,
        &options.recipe,
        warnings,
    )
}

/// What tells one transformer block from another.
#[derive(Debug, Clone, Copy)]
struct Block {
    /// The layer; draft blocks are none.
    layer: Option<u32>,
    /// Tokens in a compressed entry, or 0.
    ratio: u32,
    /// Routed experts.
    experts: u32,
}

/// Collects the tensors that the configuration demands, and what is wrong with
/// those that the checkpoint has.
struct Expected<'a> {
    checkpoint: &'a Checkpoint,
    config: &'a ModelConfig,
    drafts: Vec<Draft>,
    used: BTreeSet<String>,
    problems: Vec<PlanError>,
}

impl<'a> Expected<'a> {
    fn new(checkpoint: &'a Checkpoint) -> Self {
        Self {
            checkpoint,
            config: &checkpoint.config,
            drafts: Vec::new(),
            used: BTreeSet::new(),
            problems: Vec::new(),
        }
    }

    /// Everything but the draft blocks.
    fn main_model(&mut self) {
        let c = self.config;
        let (d, vocab) = (u64::from(c.hidden_size), u64::from(c.vocab_size));
        self.plain("token_embd.weight", "embed.weight", &[vocab, d]);
        self.plain("output_norm.weight", "norm.weight", &[d]);
        self.plain("output.weight", "head.weight", &[vocab, d]);
        // V4.1 collapses the streams by the last mix of the layers.
        if c.v41.is_none() {
            self.head_mix("output_hc_", "hc_head_");
        }
        for (layer, &ratio) in (0..).zip(c.layer_ratios()) {
            self.block(
                &format!("blk.{layer}"),
                &format!("layers.{layer}"),
                Block {
                    layer: Some(layer),
                    ratio,
                    experts: c.n_routed_experts,
                },
            );
        }
    }

    /// Mixing weights of a final collapse of the residual streams.
    fn head_mix(&mut self, to: &str, from: &str) {
        let (hc, width) = (u64::from(self.config.hc_mult), self.config.stream_width());
        for (part, shape) in [("fn", &[hc, width][..]), ("base", &[hc]), ("scale", &[1])] {
            self.plain(
                &format!("{to}{part}.weight"),
                &format!("{from}{part}"),
                shape,
            );
        }
    }

    /// Mixing weights of one site of a block.
    fn site_mix(&mut self, to: &str, from: &str, site: &str) {
        let hc = u64::from(self.config.hc_mult);
        let (mix, width) = ((2 + hc) * hc, self.config.stream_width());
        for (part, shape) in [("fn", &[mix, width][..]), ("base", &[mix]), ("scale", &[3])] {
            self.plain(
                &format!("{to}.hc_{site}_{part}.weight"),
                &format!("{from}.hc_{site}_{part}"),
                shape,
            );
        }
    }

    /// One transformer block.
    fn block(&mut self, to: &str, from: &str, block: Block) {
        let d = u64::from(self.config.hidden_size);
        let Block {
            layer,
            ratio,
            experts,
        } = block;
        if let (Some(v41), Some(layer)) = (&self.config.v41, layer) {
            self.engram(to, &format!("{from}.engram"), layer, &v41.engram);
        }
        self.site_mix(to, from, "attn");
        self.plain(
            &format!("{to}.attn_norm.weight"),
            &format!("{from}.attn_norm.weight"),
            &[d],
        );
        self.attention(to, &format!("{from}.attn"));
        match (&self.config.v41, layer) {
            (None, _) => self.v4_sparse(to, &format!("{from}.attn"), ratio),
            (Some(v41), Some(layer)) => {
                self.v41_sparse(to, &format!("{from}.attn"), layer, ratio, v41);
            }
            (Some(_), None) => {}
        }
        self.site_mix(to, from, "ffn");
        self.plain(
            &format!("{to}.ffn_norm.weight"),
            &format!("{from}.ffn_norm.weight"),
            &[d],
        );
        let hashed = layer.is_some_and(|layer| layer < self.config.num_hash_layers);
        self.router(to, &format!("{from}.ffn.gate"), hashed, experts);
        self.experts(to, &format!("{from}.ffn"), experts);
    }

    /// What V4 needs to attend to compressed entries.
    fn v4_sparse(&mut self, to: &str, from: &str, ratio: u32) {
        if ratio > 0 {
            self.compressor(
                &format!("{to}.attn_compressor"),
                &format!("{from}.compressor"),
                self.config.head_dim,
                ratio,
            );
        }
        if ratio == 4 {
            self.indexer(to, &format!("{from}.indexer"), ratio);
        }
    }

    fn attention(&mut self, to: &str, from: &str) {
        let c = self.config;
        let [d, heads, width, rank, groups, group_rank] = [
            c.hidden_size,
            c.num_attention_heads,
            c.head_dim,
            c.q_lora_rank,
            c.o_groups,
            c.o_lora_rank,
        ]
        .map(u64::from);
        for (name, part, rows, columns) in [
            ("attn_q_a", "wq_a", rank, d),
            ("attn_q_b", "wq_b", heads * width, rank),
            ("attn_kv", "wkv", width, d),
            (
                "attn_output_a",
                "wo_a",
                groups * group_rank,
                heads * width / groups,
            ),
            ("attn_output_b", "wo_b", d, groups * group_rank),
        ] {
            self.fp8(
                &format!("{to}.{name}.weight"),
                &format!("{from}.{part}"),
                rows,
                columns,
            );
        }
        for (name, part, length) in [
            ("attn_q_a_norm", "q_norm.weight", rank),
            ("attn_kv_a_norm", "kv_norm.weight", width),
            ("attn_sinks", "attn_sink", heads),
        ] {
            self.plain(
                &format!("{to}.{name}.weight"),
                &format!("{from}.{part}"),
                &[length],
            );
        }
    }

    /// A compressor of entries of `width` channels from groups of `ratio` tokens;
    /// the overlapping one (ratio 4) projects to two entries at once.
    fn compressor(&mut self, to: &str, from: &str, width: u32, ratio: u32) {
        let d = u64::from(self.config.hidden_size);
        let width = u64::from(width);
        let projected = if ratio == 4 { 2 * width } else { width };
        for (name, part, shape) in [
            ("kv", "wkv.weight", &[projected, d][..]),
            ("gate", "wgate.weight", &[projected, d]),
            ("ape", "ape", &[u64::from(ratio), projected]),
            ("norm", "norm.weight", &[width]),
        ] {
            self.plain(
                &format!("{to}_{name}.weight"),
                &format!("{from}.{part}"),
                shape,
            );
        }
    }

    fn indexer(&mut self, to: &str, from: &str, ratio: u32) {
        self.index_queries(to, from);
        self.compressor(
            &format!("{to}.indexer_compressor"),
            &format!("{from}.compressor"),
            self.config.index_head_dim,
            ratio,
        );
    }

    fn index_queries(&mut self, to: &str, from: &str) {
        let c = self.config;
        let (heads, width) = (u64::from(c.index_n_heads), u64::from(c.index_head_dim));
        self.fp8(
            &format!("{to}.indexer.attn_q_b.weight"),
            &format!("{from}.wq_b"),
            heads * width,
            u64::from(c.q_lora_rank),
        );
        self.plain(
            &format!("{to}.indexer.proj.weight"),
            &format!("{from}.weights_proj.weight"),
            &[heads, u64::from(c.hidden_size)],
        );
    }

    fn router(&mut self, to: &str, from: &str, hashed: bool, experts: u32) {
        let (d, experts) = (u64::from(self.config.hidden_size), u64::from(experts));
        self.plain(
            &format!("{to}.ffn_gate_inp.weight"),
            &format!("{from}.weight"),
            &[experts, d],
        );
        if hashed {
            self.table(
                &format!("{to}.ffn_gate_tid2eid.weight"),
                &format!("{from}.tid2eid"),
            );
            return;
        }
        self.plain(
            &format!("{to}.exp_probs_b.bias"),
            &format!("{from}.bias"),
            &[experts],
        );
        // V4.1 and the vision variant of V4 route image positions by a bias of
        // their own.
        let vision = format!("{from}.bias_vl");
        if self.config.v41.is_some() || self.checkpoint.tensors.contains_key(&vision) {
            self.plain(&format!("{to}.exp_probs_b_vl.bias"), &vision, &[experts]);
        }
    }

    /// The shared expert, then the routed ones, which end the block.
    fn experts(&mut self, to: &str, from: &str, count: u32) {
        let c = self.config;
        let (d, inner) = (u64::from(c.hidden_size), u64::from(c.moe_intermediate_size));
        let parts = [
            (Projection::Gate, "gate", "w1", inner, d),
            (Projection::Down, "down", "w2", d, inner),
            (Projection::Up, "up", "w3", inner, d),
        ];
        for (_, name, part, rows, columns) in parts {
            self.fp8(
                &format!("{to}.ffn_{name}_shexp.weight"),
                &format!("{from}.shared_experts.{part}"),
                rows,
                columns,
            );
        }
        for (projection, name, part, rows, columns) in parts {
            let experts = (0..count)
                .map(|expert| self.fp4(&format!("{from}.experts.{expert}.{part}"), rows, columns))
                .collect::<Vec<_>>();
            let Some(experts) = experts.into_iter().collect::<Option<Vec<_>>>() else {
                continue; // Already among the problems.
            };
            self.drafts.push(Draft {
                name: format!("{to}.ffn_{name}_exps.weight"),
                dims: vec![columns, rows, u64::from(count)],
                role: Role::Experts(projection),
                stored: GgmlType::MXFP4,
                source: Source::Fp4 { experts, rows },
            });
        }
    }

    fn fp4(&mut self, from: &str, rows: u64, columns: u64) -> Option<[Part; 2]> {
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

    fn fp8(&mut self, to: &str, from: &str, rows: u64, columns: u64) {
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
            self.drafts.push(Draft {
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
    fn same_name(&mut self, name: &str, shape: &[u64]) {
        self.plain(name, name, shape);
    }

    /// A tensor of plain numbers; `shape` is outermost first.
    fn plain(&mut self, to: &str, from: &str, shape: &[u64]) {
        let Some((part, dtype)) = self.find(from, &[Dtype::BF16, Dtype::F32], shape) else {
            return;
        };
        let ty = match dtype {
            Dtype::BF16 => GgmlType::BF16,
            _ => GgmlType::F32,
        };
        self.drafts.push(Draft {
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
    fn table(&mut self, to: &str, from: &str) {
        let c = self.config;
        let (vocab, used) = (u64::from(c.vocab_size), u64::from(c.num_experts_per_tok));
        if let Some((part, _)) = self.find(from, &[Dtype::I64], &[vocab, used]) {
            self.drafts.push(Draft {
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
    fn find(&mut self, name: &str, dtypes: &[Dtype], shape: &[u64]) -> Option<(Part, Dtype)> {
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

    /// The list, or the first problem.
    fn finish(mut self, options: &PlanOptions) -> Result<(Vec<Draft>, Vec<String>), PlanError> {
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
        Ok((self.drafts, warnings))
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
