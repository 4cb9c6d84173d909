//! Sessions on disk (design contract 6): an append-only log of steps.
//!
//! A file holds one session. Each step is what was added since the step before: the
//! tokens, the compressed entries and index keys that they gave, and the state at its
//! end, which is constant in size: the windows and the groups that have not ended. To
//! extend a long session by a few tokens writes these and no more.

mod error;
mod fingerprint;
mod landmark;
mod layout;
mod log;
mod seal;
mod steps;
mod store;
#[cfg(test)]
mod tests;

pub use error::SessionError;
pub use fingerprint::Fingerprint;
pub(crate) use landmark::surplus;
pub use landmark::{Landmark, MOST_PLACES};
pub use layout::StepInfo;
pub use log::SessionLog;
pub use seal::SessionKey;
pub use store::{Found, Store, Stored};
