//! Bytes on a disk: [`gguf`] reads, maps and writes model files, [`io`] reads many
//! places of a file at once. Nothing here knows a model.

pub mod gguf;
pub mod io;
mod size;

pub use size::ByteSize;
