//! Transformer blocks, and what stands before and after them.

use v4_quant::GgmlType;

use super::expected::Expected;
use crate::plan::tensor::Untyped;
use crate::recipe::{Projection, Role};
use crate::source::Source;

/// What tells one transformer block from another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    /// The layer; draft blocks are none.
    pub layer: Option<u32>,
    /// Tokens in a compressed entry, or 0.
    pub ratio: u32,
    /// Routed experts.
    pub experts: u32,
}

impl Expected<'_> {
    /// The embeddings, and what makes logits.
    pub(super) fn ends(&mut self) {
        let c = self.config;
        let (d, vocab) = (u64::from(c.hidden_size), u64::from(c.vocab_size));
        self.plain("token_embd.weight", "embed.weight", &[vocab, d]);
        self.plain("output_norm.weight", "norm.weight", &[d]);
        self.plain("output.weight", "head.weight", &[vocab, d]);
    }

    /// Everything but the draft blocks.
    pub(super) fn main_model(&mut self) {
        self.ends();
        let c = self.config;
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
    pub(super) fn head_mix(&mut self, to: &str, from: &str) {
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
    pub(super) fn site_mix(&mut self, to: &str, from: &str, site: &str) {
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
    pub(super) fn block(&mut self, to: &str, from: &str, block: Block) {
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

    pub(super) fn attention(&mut self, to: &str, from: &str) {
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
    pub(super) fn compressor(&mut self, to: &str, from: &str, width: u32, ratio: u32) {
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

    pub(super) fn indexer(&mut self, to: &str, from: &str, ratio: u32) {
        self.index_queries(to, from);
        self.compressor(
            &format!("{to}.indexer_compressor"),
            &format!("{from}.compressor"),
            self.config.index_head_dim,
            ratio,
        );
    }

    pub(super) fn index_queries(&mut self, to: &str, from: &str) {
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
                .map(|expert| {
                    self.expert(&format!("{from}.experts.{expert}.{part}"), rows, columns)
                })
                .collect::<Vec<_>>();
            let Some(experts) = experts.into_iter().collect::<Option<Vec<_>>>() else {
                continue; // Already among the problems.
            };
            let stored = experts
                .first()
                .map_or(GgmlType::MXFP4, |first| first.stored);
            let role = match stored {
                GgmlType::MXFP4 => Role::Experts(projection),
                _ => Role::OtherExperts(projection),
            };
            let sources = experts.into_iter().map(|expert| (rows, expert.source));
            self.tensors.push(Untyped {
                name: format!("{to}.ffn_{name}_exps.weight"),
                dims: vec![columns, rows, u64::from(count)],
                role,
                stored,
                source: Source::Joined(sources.collect()),
            });
        }
    }
}
