//! Plans memory and predicts speed before a model is loaded, from a file's header and the
//! machine's rates alone.

mod forecast;
mod memory;
mod sizes;

pub use forecast::{Forecast, Rates};
pub use memory::{DraftPlan, ExpertPlan, MemoryPlan, PlanRequest};
pub(crate) use sizes::{FEW_ROWS, SessionSize, ahead_bytes, draft_bytes, session_bytes};
pub use sizes::{kv_bytes, scratch_bytes};
