//! The role of a tensor, from its name in GGUF.

use v4_files::gguf::GgufFile;

/// Whether it holds routed experts.
pub(crate) fn is_expert(name: &str) -> bool {
    name.contains("_exps.")
}

/// Whether it is the draft module's, in a model's own file.
pub(crate) fn is_draft(name: &str) -> bool {
    name.starts_with("mtp.")
}

/// A tensor that scales another one as a whole or by expert, and that other one.
pub(crate) fn separate_scale(file: &GgufFile) -> Option<(&str, String)> {
    file.tensors().iter().find_map(|tensor| {
        let weight = format!("{}.weight", tensor.name.strip_suffix(".scale")?);
        file.tensor(&weight)?;
        Some((tensor.name.as_str(), weight))
    })
}

/// Whether it is an Engram table, of one layer or of all.
pub(crate) fn is_engram_table(name: &str) -> bool {
    name.ends_with(".engram_embd.weight") || name == "per_layer_token_embd.weight"
}
