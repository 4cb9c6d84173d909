//! What a conversion will write: every tensor with its type, shape, position and source,
//! and the complete header, before any weight is read.

mod build;
mod checkpoint;
pub(crate) mod engram;
mod error;
mod gguf;
mod metadata;
mod options;
mod tensor;

use std::path::Path;

pub use build::Plan;
pub use error::PlanError;
pub use options::{Drafts, PlanOptions, Vision};
pub use tensor::Output;

use crate::checkpoint::Checkpoint;
use crate::files::ReadError;

impl Plan {
    /// Plans the conversion of a checkpoint folder or a GGUF file.
    ///
    /// # Errors
    /// [`PlanError`] naming the file, the item and a remedy.
    pub fn new(input: &Path, options: &PlanOptions) -> Result<Self, PlanError> {
        if input.is_dir() {
            return checkpoint::plan(Checkpoint::open(input)?, options);
        }
        if !input.exists() {
            return Err(ReadError::NotFound {
                path: input.to_owned(),
            }
            .into());
        }
        gguf::plan(input, options)
    }
}
