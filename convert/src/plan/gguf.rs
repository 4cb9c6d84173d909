//! The plan for requantising a GGUF file.

use std::path::Path;

use v4_files::gguf::{GgufFile, TensorInfo};
use v4_quant::GgmlType;

use super::build::Plan;
use super::engram;
use super::error::PlanError;
use super::options::{Drafts, PlanOptions};
use super::tensor::Untyped;
use crate::files::InputFile;
use crate::recipe::{ENGRAM_FP8, JOINT_ENGRAM, Projection, Role};
use crate::source::{Part, Source};

/// Weights of Engram gates, under llama.cpp's names, ours and ds4's.
const GATES: [&str; 5] = [
    "engram_gate.weight",
    "engram_q.weight",
    "engram_k.weight",
    "engram_q_norm.weight",
    "engram_k_norm.weight",
];

/// Plans writing a GGUF file anew: same metadata, tensors and order, with the
/// types that the recipe asks for. Tensors that keep their type are copied.
pub(super) fn plan(path: &Path, options: &PlanOptions) -> Result<Plan, PlanError> {
    let file = GgufFile::open(path)?;
    let architecture = file.metadata().get_str("general.architecture")?;
    if !["deepseek4", "deepseek41"].contains(&architecture) {
        return Err(PlanError::Architecture {
            path: path.to_owned(),
            found: architecture.chars().take(60).collect(),
        });
    }
    let constants = match architecture {
        "deepseek41" => engram::verify(&file)?,
        _ => None,
    };
    let parts = file.parts().iter();
    let inputs = parts
        .map(|part| InputFile::open(part.path()))
        .collect::<Result<_, _>>()?;
    if options.drafts == Drafts::Only {
        return Err(PlanError::DraftsOnly {
            path: path.to_owned(),
            reason: "drafts are taken out of checkpoints only; give the checkpoint's folder",
        });
    }
    let drop_drafts = options.drafts == Drafts::Drop;
    let tensors = file.tensors().iter();
    let tensors: Vec<Untyped> = tensors
        .filter(|info| !(drop_drafts && info.name.starts_with("mtp.")))
        .map(|info| untyped(&file, info))
        .collect::<Result<_, _>>()?;
    if tensors.is_empty() {
        return Err(PlanError::Empty {
            path: path.to_owned(),
        });
    }
    let mut metadata = file.metadata().clone();
    if let Some(name) = &options.name {
        metadata.insert("general.name", name.as_str());
    }
    if drop_drafts {
        let of_drafts = |key: &str| key.starts_with("dspark.") || key.starts_with("v4.drafts.");
        let keys = file.metadata().iter().map(|(key, _)| key);
        keys.filter(|key| of_drafts(key)).for_each(|key| {
            metadata.remove(key);
        });
    }
    let facts = blake3::hash(b"gguf");
    Plan::build(
        inputs,
        facts,
        tensors,
        metadata,
        constants,
        options,
        Vec::new(),
    )
}

/// A tensor of the file as one of the output.
fn untyped(file: &GgufFile, info: &TensorInfo) -> Result<Untyped, PlanError> {
    let role = role(&info.name, info.ty, info.dims.len());
    let own = file.part_of(info);
    let mut before = file.parts().iter();
    let part = Part {
        name: info.name.clone(),
        file: before
            .position(|part| part.start() == own.start())
            .unwrap_or(0) as u32,
        offset: file.position(info) - own.start(),
        bytes: info.bytes,
    };
    let mut dims = info.dims.clone();
    let source = if role == Role::Engram && info.ty == ENGRAM_FP8 {
        let width =
            engram::published_width(file.metadata(), info.row_bytes()).map_err(|reason| {
                PlanError::EngramRows {
                    path: file.path().to_owned(),
                    tensor: info.name.clone(),
                    reason,
                }
            })?;
        dims[0] = width;
        Source::PackedFp8Rows { part, width }
    } else {
        Source::Rows { ty: info.ty, part }
    };
    Ok(Untyped {
        name: info.name.clone(),
        dims,
        role,
        stored: info.ty,
        source,
    })
}

/// What a tensor is, by its name and shape.
fn role(name: &str, ty: GgmlType, dims: usize) -> Role {
    if ty == GgmlType::I32 {
        return Role::Table;
    }
    let part = name
        .strip_prefix("blk.")
        .and_then(|name| name.split_once('.'));
    let part = part.map_or(name, |(_, part)| part);
    // The gates' weights have two dimensions, but are F32 as norm weights are.
    if dims < 2 || GATES.contains(&part) {
        return Role::Vector;
    }
    if part == "engram_embd.weight" || name == JOINT_ENGRAM {
        return Role::Engram;
    }
    match name.rsplit_once(".ffn_") {
        Some((_, "gate_exps.weight")) => Role::Experts(Projection::Gate),
        Some((_, "up_exps.weight")) => Role::Experts(Projection::Up),
        Some((_, "down_exps.weight")) => Role::Experts(Projection::Down),
        _ => Role::Matrix,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_follow_names_and_shapes() {
        let f32 = GgmlType::F32;
        assert_eq!(
            role("blk.3.ffn_up_exps.weight", GgmlType::Q2_K, 3),
            Role::Experts(Projection::Up)
        );
        assert_eq!(role("blk.3.ffn_up_shexp.weight", f32, 2), Role::Matrix);
        assert_eq!(role("blk.3.attn_norm.weight", f32, 1), Role::Vector);
        assert_eq!(role("blk.1.engram_q.weight", f32, 2), Role::Vector);
        let i8 = GgmlType::I8;
        assert_eq!(role("blk.1.engram_embd.weight", i8, 2), Role::Engram);
        assert_eq!(role("mtp.1.engram_embd.weight", f32, 2), Role::Matrix);
        assert_eq!(
            role("blk.0.ffn_gate_tid2eid.weight", GgmlType::I32, 2),
            Role::Table
        );
    }
}
