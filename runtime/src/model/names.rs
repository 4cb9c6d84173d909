//! The role of a tensor, from its name in GGUF.

/// Whether it holds routed experts.
pub(crate) fn is_expert(name: &str) -> bool {
    name.contains("_exps.")
}

/// Whether it is an Engram table.
pub(crate) fn is_engram_table(name: &str) -> bool {
    name.ends_with(".engram_embd.weight")
}
