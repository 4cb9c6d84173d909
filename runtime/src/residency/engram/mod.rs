//! Engram rows in the file and in memory: which rows a token selects is said by
//! [`crate::model::engram`]; here they are read, from the disk or from memory, while the
//! layers before them are computed.

mod cache;
mod fetch;
mod plan;
mod stats;
mod store;
mod table;

pub use fetch::Fetch;
pub use stats::EngramStats;
pub use store::{EngramOptions, EngramPlacement, EngramStore};
