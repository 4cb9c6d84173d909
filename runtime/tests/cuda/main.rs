//! Engines and sessions on a card give the CPU's bits. The card is the shim, which runs the same
//! kernels on this machine, as late and in as unkind an order as a card may.

mod adapters;
mod batches;
mod common;
mod deep;
mod drafts;
mod failures;
mod orders;
mod refused;
mod sessions;
