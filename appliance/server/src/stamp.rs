//! Ids, times and seeds of responses.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}

/// A name that is not given twice.
pub(crate) fn new_id(prefix: &str) -> String {
    // Each is keyed anew from the system's random numbers.
    let half = || RandomState::new().hash_one(prefix);
    format!("{prefix}{:016x}{:016x}", half(), half())
}

/// A seed where the client gives none: short enough to type again, exact in any JSON.
pub(crate) fn new_seed() -> u64 {
    RandomState::new().hash_one("seed") & 0xffff_ffff
}
