//! What is in memory and what is read when needed: the shared memory budget, routed
//! experts, and Engram rows (design contracts 4 and 5).

mod budget;
pub mod engram;
pub mod experts;
mod limits;

pub use budget::Budget;
pub(crate) use budget::Share;
pub use limits::{Limits, limits};
