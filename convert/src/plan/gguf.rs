//! The plan for requantising a GGUF file.

use std::path::Path;

use v4_quant::GgmlType;
use v4_runtime::gguf::GgufFile;

use super::{Draft, Plan, PlanError, PlanOptions};
use crate::files::InputFile;
use crate::recipe::{Projection, Role};
use crate::source::{Part, Source};

/// Plans writing a GGUF file anew: same metadata, tensors and order, with the
/// types that the recipe asks for. Tensors that keep their type are copied.
pub(super) fn plan(path: &Path, options: &PlanOptions) -> Result<Plan, PlanError> {
    let file = GgufFile::open(path)?;
    let architecture = file.metadata().get_str("general.architecture")?;
    if architecture != "deepseek4" {
        return Err(PlanError::Architecture {
            path: path.to_owned(),
            found: architecture.chars().take(60).collect(),
        });
    }
    let input = InputFile::open(path)?;
    let drafts: Vec<Draft> = file
        .tensors()
        .iter()
        .map(|info| Draft {
            name: info.name.clone(),
            dims: info.dims.clone(),
            role: role(&info.name, info.ty, info.dims.len()),
            stored: info.ty,
            source: Source::Rows {
                ty: info.ty,
                part: Part {
                    name: info.name.clone(),
                    file: 0,
                    offset: file.position(info),
                    bytes: info.bytes,
                },
            },
        })
        .collect();
    if drafts.is_empty() {
        return Err(PlanError::Empty {
            path: path.to_owned(),
        });
    }
    let mut metadata = file.metadata().clone();
    if let Some(name) = &options.name {
        metadata.insert("general.name", name.as_str());
    }
    let facts = blake3::hash(b"gguf");
    Plan::build(
        vec![input],
        facts,
        drafts,
        metadata,
        &options.recipe,
        Vec::new(),
    )
}

/// What a tensor is, by its name and shape.
fn role(name: &str, ty: GgmlType, dims: usize) -> Role {
    if ty == GgmlType::I32 {
        return Role::Table;
    }
    if dims < 2 {
        return Role::Vector;
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
        assert_eq!(
            role("blk.0.ffn_gate_tid2eid.weight", GgmlType::I32, 2),
            Role::Table
        );
    }
}
