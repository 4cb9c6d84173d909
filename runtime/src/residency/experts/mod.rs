//! Routed experts that are read from disk when tokens need them (design contract 5).
//!
//! A layer hands the experts that its tokens chose to [`StreamedLayer::each`], which
//! gives them back as they come into memory: those that are there at once, the others
//! as their reads end. Each expert is in one slot; slots that nobody computes with or
//! reads into may become another expert's, the one whose expert is worth least first
//! ([`Policy`]). Who asks first gets the next slot, and nobody waits while holding
//! what could be computed with: so any number of sessions get on with few slots.
//!
//! What is read has no influence on results: a layer adds up its experts' outputs in
//! the order of the routing, whichever came first.

mod load;
mod policy;
mod shared;
mod slots;
mod stats;
mod store;
#[cfg(test)]
mod tests;

pub use policy::{Policy, Simulated, Worth, simulate};
pub use stats::ExpertStats;
pub(crate) use store::slot_bytes;
pub use store::{ExpertOptions, ExpertStore, Resident, StreamedLayer};
