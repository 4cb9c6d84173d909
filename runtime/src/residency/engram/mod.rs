//! Engram rows in the file and in memory. [`crate::model::engram`] determines which rows a
//! token selects; here they are read, from disk or memory, while the layers before them are
//! computed.

mod cache;
mod fetch;
mod plan;
mod stats;
mod store;
mod table;

pub use fetch::Fetch;
pub use stats::EngramStats;
pub use store::{EngramOptions, EngramPlacement, EngramStore};
