//! What is in memory and what is fetched: the budget that everything shares, routed
//! experts and Engram rows that are read from the disk as tokens need them (design
//! contracts 4 and 5).

mod budget;
pub mod engram;
pub mod experts;
mod limits;

pub use budget::Budget;
pub(crate) use budget::Share;
pub use limits::{Limits, limits};
