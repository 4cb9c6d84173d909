//! What memory there is.

use sysinfo::{MemoryRefreshKind, RefreshKind, System};

/// Bytes that this process may still take: what is free, or would be if caches were
/// given up, and no more than its control group allows. `None` where the system does
/// not tell.
pub fn available() -> Option<u64> {
    let wanted = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(wanted).ok()?;
    let free = system.available_memory();
    Some(match system.cgroup_limits() {
        Some(limits) => free.min(limits.free_memory),
        None => free,
    })
}
