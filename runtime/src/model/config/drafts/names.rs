//! Where files have the tensors of a draft module.

use super::{DraftConfig, DraftKind};

/// Who named the tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Layout {
    /// We and ds4: `mtp.N.`.
    Mtp { blocks: usize },
    /// llama.cpp, DSpark: `blk.N.` in a file of its own.
    Dflash,
    /// llama.cpp, MTP: a layer after the model's, in a file of its own.
    Nextn { layer: usize },
}

/// What a draft module has besides its blocks' tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DraftPart {
    /// DSpark: from the states read to the blocks' context, `[d, targets * d]`.
    MainProj,
    /// DSpark: gain of the norm after it, `[d]`.
    MainNorm,
    /// MTP: `[d, d]`, of the embedding.
    EProj,
    /// MTP: `[d, d]`, of the state.
    HProj,
    /// MTP: both beside each other, `[d, 2 d]`, the embedding's first.
    EhProj,
    /// MTP: gain of the embedding's norm, `[d]`.
    ENorm,
    /// MTP: gain of the state's norm, `[d]`.
    HNorm,
    /// Gain of the norm before the head, `[d]`.
    Norm,
    /// DSpark: rows of the Markov head by the token before, `[vocab, rank]`.
    MarkovIn,
    /// DSpark: from such a row to what it adds to the logits, `[vocab, rank]`.
    MarkovOut,
    /// DSpark: `[1, d + rank]`.
    Confidence,
}

impl DraftConfig {
    /// What the names of a block's tensors begin with.
    #[must_use]
    pub fn block(&self, block: usize) -> String {
        match self.layout {
            Layout::Mtp { .. } => format!("mtp.{block}"),
            Layout::Dflash => format!("blk.{block}"),
            Layout::Nextn { layer } => format!("blk.{layer}"),
        }
    }

    /// What the names of the final collapse's tensors begin with (V4 only).
    #[must_use]
    pub fn head_mix(&self) -> String {
        match self.layout {
            Layout::Mtp { blocks } => format!("mtp.{}.hc_head", blocks - 1),
            Layout::Dflash | Layout::Nextn { .. } => "output_hc".to_owned(),
        }
    }

    /// The names that a tensor may have; none where the layout has no such tensor.
    #[must_use]
    pub fn part(&self, part: DraftPart) -> Vec<String> {
        let names: &[&str] = match &self.layout {
            Layout::Mtp { blocks } => {
                let (block, names): (usize, &[&str]) = match part {
                    DraftPart::MainProj => (0, &["main_proj"]),
                    DraftPart::MainNorm => (0, &["main_norm"]),
                    DraftPart::EProj => (0, &["e_proj"]),
                    DraftPart::HProj => (0, &["h_proj"]),
                    DraftPart::EhProj => (0, &[]),
                    DraftPart::ENorm => (0, &["enorm"]),
                    DraftPart::HNorm => (0, &["hnorm"]),
                    DraftPart::Norm => (blocks - 1, &["norm"]),
                    DraftPart::MarkovIn => (blocks - 1, &["markov_head.markov_w1", "markov_w1"]),
                    DraftPart::MarkovOut => (blocks - 1, &["markov_head.markov_w2", "markov_w2"]),
                    DraftPart::Confidence => {
                        (blocks - 1, &["confidence_head.proj", "confidence_proj"])
                    }
                };
                let names = names.iter().map(|n| format!("mtp.{block}.{n}.weight"));
                return names.collect();
            }
            Layout::Nextn { layer } => {
                let name = match part {
                    DraftPart::EhProj => "eh_proj",
                    DraftPart::ENorm => "enorm",
                    DraftPart::HNorm => "hnorm",
                    DraftPart::Norm => "shared_head_norm",
                    _ => return Vec::new(),
                };
                return vec![format!("blk.{layer}.nextn.{name}.weight")];
            }
            Layout::Dflash => match part {
                DraftPart::MainProj => &["fc.weight"],
                DraftPart::MainNorm => &["enc.output_norm.weight"],
                DraftPart::Norm => &["output_norm.weight"],
                DraftPart::MarkovIn => &["markov_w1.weight"],
                DraftPart::MarkovOut => &["markov_w2.weight"],
                DraftPart::Confidence => &["conf_proj.weight"],
                _ => &[],
            },
        };
        names.iter().map(|&name| name.to_owned()).collect()
    }

    /// Whether a tensor of the module's file is not the module's, or is one that drafts
    /// never use: copies of what they share with the target, and a bias for images.
    #[must_use]
    pub fn ignores(&self, name: &str) -> bool {
        let shared = |name: &str| {
            name.starts_with("emb") || name == "head.weight" || name == "exp_probs_b_vl.bias"
        };
        match &self.layout {
            // The rest of the file is the target, or says nothing of the module.
            Layout::Mtp { .. } => match name.strip_prefix("mtp.").and_then(|n| n.split_once('.')) {
                Some((_, part)) => shared(part),
                None => true,
            },
            Layout::Dflash => {
                let unsure = matches!(&self.kind, DraftKind::Dspark(d) if !d.confidence);
                ["token_embd.weight", "output.weight"].contains(&name)
                    || name.ends_with(".exp_probs_b_vl.bias")
                    || unsure && name == "conf_proj.weight"
            }
            Layout::Nextn { .. } => {
                ["token_embd.weight", "output.weight", "output_norm.weight"].contains(&name)
                    || name.ends_with(".nextn.embed_tokens.weight")
                    || name.ends_with(".nextn.shared_head_head.weight")
                    || name.ends_with(".exp_probs_b_vl.bias")
            }
        }
    }
}
