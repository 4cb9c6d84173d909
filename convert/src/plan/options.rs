use crate::recipe::Recipe;

/// What to do with the draft blocks of a checkpoint (MTP, DSpark).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Drafts {
    /// Leave them out.
    #[default]
    Drop,
    /// Write them as `mtp.N.…`; other programs may refuse such a file.
    Keep,
}

/// What to do with the vision tower of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Vision {
    /// Leave it out.
    #[default]
    Drop,
    /// Write it under llama.cpp's names, `v.…` and `mm.…`, in the same file;
    /// nothing runs it yet.
    Keep,
}

/// The user's choices.
#[derive(Debug, Clone)]
pub struct PlanOptions {
    /// Which tensor gets which type.
    pub recipe: Recipe,
    /// What to do with draft blocks.
    pub drafts: Drafts,
    /// What to do with the vision tower.
    pub vision: Vision,
    /// The model's name in the file (`general.name`).
    pub name: Option<String>,
}
