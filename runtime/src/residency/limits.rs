//! The resources that the system lets this process use.

use std::fs;
use std::path::{Path, PathBuf};

/// Memory of the machine and of the control groups that this process is in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the machine.
    pub total: Option<u64>,
    /// Bytes that are free, or would be if caches were given up.
    pub available: Option<u64>,
    /// The smallest limit of the control groups, if any has one.
    pub group: Option<u64>,
    /// The least that a control group with a limit has left, clean file pages
    /// counted as free.
    pub group_available: Option<u64>,
}

impl Limits {
    /// Bytes that this process may still allocate; `None` if unknown.
    #[must_use]
    pub fn free(&self) -> Option<u64> {
        match (self.available, self.group_available) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Bytes that an engine can safely use: what is free, minus a tenth and at
    /// least 512 MiB for everything else, but no less than half.
    #[must_use]
    pub fn safe(&self) -> Option<u64> {
        let free = self.free()?;
        Some((free - (free / 10).max(512 << 20).min(free)).max(free / 2))
    }
}

/// Asks the system. Unknown fields are empty.
#[must_use]
pub fn limits() -> Limits {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let (group, group_available) = groups(&own, Path::new("/sys/fs/cgroup"));
    Limits {
        total: field(&info, "MemTotal:"),
        available: field(&info, "MemAvailable:"),
        group,
        group_available,
    }
}

/// A line of `/proc/meminfo`, in bytes.
fn field(info: &str, name: &str) -> Option<u64> {
    let line = info.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The least limit, and the least that is left, of the groups named in
/// `/proc/self/cgroup` and those above them.
fn groups(own: &str, root: &Path) -> (Option<u64>, Option<u64>) {
    let least = |a: Option<u64>, b: Option<u64>| match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    let (mut limit, mut left) = (None, None);
    for line in own.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let (root, names) = if controllers.is_empty() {
            (root.to_path_buf(), &V2)
        } else if controllers.split(',').any(|c| c == "memory") {
            (root.join("memory"), &V1)
        } else {
            continue;
        };
        let mut at: Option<PathBuf> = Some(root.join(path.trim_start_matches('/')));
        while let Some(folder) = at.filter(|folder| folder.starts_with(&root)) {
            let (its, free) = group(&folder, names);
            limit = least(limit, its);
            left = least(left, free);
            at = folder.parent().map(Path::to_path_buf);
        }
    }
    (limit, left)
}

/// Files of a control group: its limits, its use, and the lines of `memory.stat` that
/// count clean file pages.
struct Names {
    limits: &'static [&'static str],
    current: &'static str,
    file: [&'static str; 2],
}

const V2: Names = Names {
    limits: &["memory.max", "memory.high"],
    current: "memory.current",
    file: ["inactive_file", "active_file"],
};

const V1: Names = Names {
    limits: &["memory.limit_in_bytes"],
    current: "memory.usage_in_bytes",
    file: ["total_inactive_file", "total_active_file"],
};

/// Version 1 has a huge number where there is no limit.
const NO_LIMIT: u64 = 1 << 60;

fn group(folder: &Path, names: &Names) -> (Option<u64>, Option<u64>) {
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
    let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
    let limits = names.limits.iter().filter_map(|name| number(name));
    let Some(limit) = limits.filter(|&n| n < NO_LIMIT).min() else {
        return (None, None);
    };
    let stat = read("memory.stat").unwrap_or_default();
    let pages = |name: &str| -> u64 {
        let line = stat
            .lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|n| n.parse().ok()).unwrap_or(0)
    };
    let cached: u64 = names.file.iter().map(|name| pages(name)).sum();
    let used = number(names.current).map(|used| used.saturating_sub(cached));
    (Some(limit), used.map(|used| limit.saturating_sub(used)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_memory() {
        let limits = limits();
        assert!(limits.total.is_some_and(|n| n > 1 << 28));
        assert!(limits.safe().is_some_and(|n| n > 0));
    }

    #[test]
    fn the_tightest_group_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("a/memory.max", "1000\n");
        write("a/memory.current", "900\n");
        write(
            "a/memory.stat",
            "anon 100\ninactive_file 300\nactive_file 400\n",
        );
        write("a/b/memory.max", "max\n");
        write("a/b/c/memory.max", "5000\n");
        write("a/b/c/memory.high", "800\n");
        write("a/b/c/memory.current", "10\n");
        assert_eq!(groups("0::/a/b/c\n", root.path()), (Some(800), Some(790)));
        assert_eq!(groups("0::/a\n", root.path()), (Some(1000), Some(800)));
        assert_eq!(groups("0::/\n", root.path()), (None, None));
        write("memory/x/memory.limit_in_bytes", "600\n");
        write("memory/x/memory.usage_in_bytes", "100\n");
        assert_eq!(
            groups("5:cpu,memory:/x\n3:cpuset:/a\n", root.path()),
            (Some(600), Some(500))
        );
    }

    #[test]
    fn some_is_always_left_for_others() {
        let safe = |free: u64| {
            Limits {
                available: Some(free),
                ..Limits::default()
            }
            .safe()
        };
        assert_eq!(safe(100 << 30), Some(90 << 30));
        assert_eq!(safe(2 << 30), Some(3 << 29));
        assert_eq!(safe(600 << 20), Some(300 << 20));
    }
}
