//! Bytes on disk: [`gguf`] reads, maps and writes model files, and [`io`] reads many places
//! of a file at once. Nothing here knows about models.

pub mod gguf;
pub mod io;
mod size;

pub use size::ByteSize;
