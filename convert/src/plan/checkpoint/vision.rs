//! The vision tower and its projection into the model (spec/architecture.md section 2.3),
//! under the names of llama.cpp's `deepseek4v` projector files.

use v4_quant::GgmlType;

use super::expected::Expected;
use crate::config::Vision;
use crate::plan::tensor::Untyped;
use crate::recipe::Role;
use crate::safetensors::Dtype;
use crate::source::{Part, Source};

/// Colours of a pixel.
const COLOURS: u64 = 3;

/// Whether a tensor of the checkpoint belongs to the vision tower.
pub(super) fn is_vision(name: &str) -> bool {
    ["vision.", "aligner.", "image_"]
        .iter()
        .any(|start| name.starts_with(start))
}

impl Expected<'_> {
    /// All tensors that image inputs need.
    pub(super) fn vision(&mut self, vision: &Vision) {
        let d = u64::from(self.config.hidden_size);
        let [width, inner, patch, merged] = [
            vision.hidden_size,
            vision.intermediate_size,
            vision.patch_size,
            vision.downsample_ratio,
        ]
        .map(u64::from);
        self.patch_embedding(width, patch);
        self.plain(
            "v.patch_embd.bias",
            "vision.patch_embed.proj.bias",
            &[width],
        );
        for layer in 0..vision.num_hidden_layers {
            let (to, from) = (format!("v.blk.{layer}"), format!("vision.blocks.{layer}"));
            for (name, part, shape) in [
                ("ln1.weight", "norm1.weight", &[width][..]),
                ("attn_qkv.weight", "attn.wqkv.weight", &[3 * width, width]),
                ("attn_qkv.bias", "attn.wqkv.bias", &[3 * width]),
                ("attn_out.weight", "attn.wo.weight", &[width, width]),
                ("attn_out.bias", "attn.wo.bias", &[width]),
                ("ln2.weight", "norm2.weight", &[width]),
            ] {
                self.plain(&format!("{to}.{name}"), &format!("{from}.{part}"), shape);
            }
            self.gate_and_up(&to, &format!("{from}.mlp.w1.weight"), inner, width);
            self.plain(
                &format!("{to}.ffn_down.weight"),
                &format!("{from}.mlp.w2.weight"),
                &[width, inner],
            );
        }
        for (to, from, shape) in [
            ("v.post_ln.weight", "vision.norm.weight", &[width][..]),
            (
                "mm.1.weight",
                "aligner.w1.weight",
                &[d, width * merged * merged],
            ),
            ("mm.1.bias", "aligner.w1.bias", &[d]),
            ("mm.2.weight", "aligner.w2.weight", &[d, d]),
            ("mm.2.bias", "aligner.w2.bias", &[d]),
            ("v.token_embd.img_start", "image_start", &[d]),
            ("v.token_embd.img_end", "image_end", &[d]),
            ("v.image_newline", "image_newline", &[d]),
        ] {
            self.plain(to, from, shape);
        }
    }

    /// The patches' projection; readers take it as a convolution's kernel.
    fn patch_embedding(&mut self, width: u64, patch: u64) {
        let shape = [width, COLOURS * patch * patch];
        let before = self.tensors.len();
        self.plain(
            "v.patch_embd.weight",
            "vision.patch_embed.proj.weight",
            &shape,
        );
        for draft in &mut self.tensors[before..] {
            draft.dims = vec![patch, patch, COLOURS, width];
        }
    }

    /// Two projections that are stored one below the other.
    fn gate_and_up(&mut self, to: &str, from: &str, inner: u64, width: u64) {
        let shape = [2 * inner, width];
        let Some((part, dtype)) = self.find(from, &[Dtype::BF16, Dtype::F32], &shape) else {
            return;
        };
        let ty = match dtype {
            Dtype::BF16 => GgmlType::BF16,
            _ => GgmlType::F32,
        };
        let half = part.bytes / 2;
        for (name, start) in [("ffn_gate", 0), ("ffn_up", half)] {
            self.tensors.push(Untyped {
                name: format!("{to}.{name}.weight"),
                dims: vec![width, inner],
                role: Role::Matrix,
                stored: ty,
                source: Source::Rows {
                    ty,
                    part: Part {
                        offset: part.offset + start,
                        bytes: half,
                        ..part.clone()
                    },
                },
            });
        }
    }
}
