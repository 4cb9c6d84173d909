//! Tensors that V4.1's layers have and V4's do not (spec/architecture.md section 2.3).

use super::expected::Expected;
use crate::config::{Engram, V41};
use crate::plan::tensor::Untyped;
use crate::recipe::{ENGRAM_FP8, Role};
use crate::safetensors::Dtype;
use crate::source::{ENGRAM_BLOCK, Source};

impl Expected<'_> {
    /// Compressor and index keys where a layer makes entries, index queries
    /// where it chooses among them.
    pub(super) fn v41_sparse(&mut self, to: &str, from: &str, layer: u32, ratio: u32, v41: &V41) {
        let c = self.config;
        let [d, width, index_width] = [c.hidden_size, c.head_dim, c.index_head_dim].map(u64::from);
        if v41.kv_source_layer_ids.contains(&layer) {
            for (name, part, shape) in [
                ("attn_compressor_kv", "compressor.wkv", &[width, d][..]),
                ("attn_compressor_gate", "compressor.wgate", &[width, d]),
                ("attn_compressor_norm", "compressor.norm", &[width]),
                ("indexer.attn_k", "indexer.wk", &[index_width, width]),
                ("indexer.k_norm", "indexer.k_norm", &[index_width]),
            ] {
                // An entry of one token has nothing to weigh it against.
                if ratio > 1 || name != "attn_compressor_gate" {
                    self.plain(
                        &format!("{to}.{name}.weight"),
                        &format!("{from}.{part}.weight"),
                        shape,
                    );
                }
            }
        }
        if v41.index_source_layer_ids.contains(&layer) {
            self.index_queries(to, &format!("{from}.indexer"));
        }
    }

    /// An Engram layer's projection, gate weights and table.
    pub(super) fn engram(&mut self, to: &str, from: &str, layer: u32, engram: &Engram) {
        let Some(number) = engram.layer_ids.iter().position(|&id| id == layer) else {
            return;
        };
        let [d, streams] = [self.config.hidden_size, self.config.hc_mult].map(u64::from);
        self.fp8(
            &format!("{to}.engram_wkv.weight"),
            &format!("{from}.wkv"),
            (streams + 1) * d,
            engram.row_values(),
        );
        for part in ["q", "k"] {
            self.gates(
                &format!("{to}.engram_{part}.weight"),
                &format!("{from}.{part}_weight"),
                [streams, d],
            );
        }
        let (rows, width) = (engram.num_embeddings[number], u64::from(engram.head_dim));
        let weight = self.find(
            &format!("{from}.embed.weight"),
            &[Dtype::F8_E4M3],
            &[rows, width],
        );
        let scale = self.find(
            &format!("{from}.embed.scale"),
            &[Dtype::F8_E8M0],
            &[rows, width / ENGRAM_BLOCK],
        );
        if let (Some((weight, _)), Some((scale, _))) = (weight, scale) {
            self.tensors.push(Untyped {
                name: format!("{to}.engram_embd.weight"),
                dims: vec![width, rows],
                role: Role::PublishedEngram,
                stored: ENGRAM_FP8,
                source: Source::Fp8Rows {
                    weight,
                    scale,
                    width,
                },
            });
        }
    }

    /// Weights of the Engram gates, a norm weight for each stream.
    fn gates(&mut self, to: &str, from: &str, shape: [u64; 2]) {
        let before = self.tensors.len();
        self.plain(to, from, &shape);
        for draft in &mut self.tensors[before..] {
            draft.role = Role::Vector;
        }
    }
}
