//! The tensors that only V4.1 has: spec/architecture.md section 2.3.

use anyhow::Result;

use super::super::config::{Dims, Engram, Vision};
use super::super::fill::Fill;
use super::List;

impl List {
    /// Cache and index of layer `layer`, if it is a source of them.
    pub(super) fn sources(&mut self, d: &Dims, prefix: &str, layer: u64, ratio: u64) -> Result<()> {
        let indexer = format!("{prefix}.indexer");
        if d.v41.kv_sources.contains(&layer) {
            let compressor = format!("{prefix}.compressor");
            self.linear(&format!("{compressor}.wkv"), d.head_dim, d.hidden)?;
            if ratio > 1 {
                self.linear(&format!("{compressor}.wgate"), d.head_dim, d.hidden)?;
            }
            self.norm(&format!("{compressor}.norm.weight"), d.head_dim)?;
            self.linear(&format!("{indexer}.wk"), d.index_dim, d.head_dim)?;
            self.norm(&format!("{indexer}.k_norm.weight"), d.index_dim)?;
        }
        if d.v41.index_sources.contains(&layer) {
            let rows = d.index_heads * d.index_dim;
            self.fp8(d, &format!("{indexer}.wq_b"), rows, d.q_lora)?;
            self.linear(&format!("{indexer}.weights_proj"), d.index_heads, d.hidden)?;
        }
        Ok(())
    }

    /// Table and projections of an Engram layer.
    ///
    /// Rows have the deviation of token embeddings, so keys and values have it too.
    /// Stream and key are normalised before their product: with weights around 1
    /// the gate sees deviations of 1, most gates are between 0.2 and 0.8, and a
    /// value adds about a quarter to the mean square of a stream.
    pub(super) fn engram(&mut self, d: &Dims, prefix: &str, table: Engram) -> Result<()> {
        let std = 1.0;
        let width = table.width;
        let embed = format!("{prefix}.embed");
        self.push(
            &format!("{embed}.weight"),
            "F8_E4M3",
            &[table.rows, width],
            Fill::Fp8 { std },
        )?;
        self.push(
            &format!("{embed}.scale"),
            "F8_E8M0",
            &[table.rows, width / 32],
            Fill::Fp8Scale { std },
        )?;
        let wkv = format!("{prefix}.wkv");
        self.fp8(d, &wkv, (d.hc + 1) * d.hidden, table.columns * width)?;
        for weight in ["q_weight", "k_weight"] {
            self.norms(&format!("{prefix}.{weight}"), &[d.hc, d.hidden])?;
        }
        Ok(())
    }

    /// The vision tower and the projection of its output.
    pub(super) fn vision(&mut self, d: &Dims, v: Vision) -> Result<()> {
        let w = v.hidden;
        self.biased("vision.patch_embed.proj", w, 3 * v.patch * v.patch)?;
        for block in 0..v.layers {
            let block = format!("vision.blocks.{block}");
            self.norm(&format!("{block}.norm1.weight"), w)?;
            self.norm(&format!("{block}.norm2.weight"), w)?;
            self.biased(&format!("{block}.attn.wqkv"), 3 * w, w)?;
            self.biased(&format!("{block}.attn.wo"), w, w)?;
            self.linear(&format!("{block}.mlp.w1"), 2 * v.intermediate, w)?;
            self.linear(&format!("{block}.mlp.w2"), w, v.intermediate)?;
        }
        self.norm("vision.norm.weight", w)?;
        let unfolded = v.downsample * v.downsample * w;
        self.biased("aligner.w1", d.hidden, unfolded)?;
        self.biased("aligner.w2", d.hidden, d.hidden)?;
        for name in ["image_start", "image_end", "image_newline"] {
            self.bf16(name, &[d.hidden], 1.0)?;
        }
        Ok(())
    }

    fn biased(&mut self, prefix: &str, rows: u64, cols: u64) -> Result<()> {
        self.linear(prefix, rows, cols)?;
        self.bf16(&format!("{prefix}.bias"), &[rows], 0.1)
    }
}
