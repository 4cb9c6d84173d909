use crate::recipe::Recipe;

/// What to do with the draft blocks of a checkpoint (MTP, DSpark).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Drafts {
    /// Write them as `mtp.N.…`, if there are any.
    #[default]
    Keep,
    /// Leave them out.
    Drop,
    /// Write nothing else, in llama.cpp's layout of draft files.
    Only,
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
    /// Writes a set of parts that are all shorter than so many bytes.
    pub split: Option<u64>,
}
