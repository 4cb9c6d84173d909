//! The role of a tensor, from its name in GGUF.

/// Whether it holds routed experts.
pub(crate) fn is_expert(name: &str) -> bool {
    name.contains("_exps.")
}

/// Whether it is an Engram table, of one layer or of all.
pub(crate) fn is_engram_table(name: &str) -> bool {
    name.ends_with(".engram_embd.weight") || name == "per_layer_token_embd.weight"
}
