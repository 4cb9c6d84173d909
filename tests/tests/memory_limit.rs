//! In a memory control group as large as `--memory` allows, the process is not killed and
//! gives the same bits, even if another program uses memory of the same group.
//!
//! Needs to make control groups, as root can; elsewhere the tests are skipped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use v4_tests::program::{bin, run, scratch};

/// A control group with a limit; removed at the end.
struct Group {
    folder: PathBuf,
    peak: &'static str,
}

impl Group {
    /// `None` where this process may not make one.
    fn new(name: &str, limit: u64) -> Option<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        for line in own.lines() {
            let mut parts = line.splitn(3, ':');
            let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            let (root, file, peak) = if controllers.is_empty() {
                ("/sys/fs/cgroup", "memory.max", "memory.peak")
            } else if controllers.split(',').any(|c| c == "memory") {
                let names = ["memory.limit_in_bytes", "memory.max_usage_in_bytes"];
                ("/sys/fs/cgroup/memory", names[0], names[1])
            } else {
                continue;
            };
            let name = format!("v4-{name}-{}", std::process::id());
            let folder = Path::new(root)
                .join(path.trim_start_matches('/'))
                .join(name);
            if fs::create_dir(&folder).is_err() {
                continue;
            }
            let group = Self { folder, peak };
            if fs::write(group.folder.join(file), limit.to_string()).is_ok() {
                return Some(group);
            }
        }
        v4_fixtures::skip("memory control group");
        None
    }

    /// A command whose process is in the group from its start.
    fn command(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""])
            .arg(&self.folder)
            .arg(program)
            .args(args);
        command
    }

    fn peak(&self) -> u64 {
        let peak = fs::read_to_string(self.folder.join(self.peak)).unwrap_or_default();
        peak.trim().parse().unwrap_or(0)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its last process may still be on its way out.
        for _ in 0..100 {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// A program that holds that many MiB until it is killed.
fn balloon(group: &Group, mib: usize) -> Child {
    let hold = format!("(head -c {mib}M /dev/zero; sleep 600) | tail > /dev/null");
    let mut command = group.command(Path::new("sh"), &["-c", &hold]);
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.stdin(Stdio::null()).spawn().unwrap()
}

/// A file of 900 MB, half of it experts.
fn model() -> PathBuf {
    let file = scratch().join("wide.gguf");
    if !file.exists() {
        let folder = scratch().join("wide");
        let [folder, out] = [&folder, &file].map(|p| p.to_str().unwrap());
        let dims = ["--hidden", "1024", "--layers", "4", "--experts", "128"];
        let more = ["--vocab", "32768", "--set", "moe_intermediate_size=512"];
        let made = ["v4-synth", folder, "--model", "flash"];
        let _ = run(made[0], made[1..].iter().chain(&dims).chain(&more)).ok();
        let _ = run("v4-convert", ["-q", folder, out]).ok();
        fs::remove_dir_all(folder).unwrap();
    }
    file
}

#[test]
fn in_a_group_of_the_size_that_is_allowed_nothing_is_killed_and_the_text_is_the_same() {
    const MEMORY: u64 = 700 << 20;
    let model = model();
    let prompt = "fn main() { let x = 1; } ".repeat(12);
    let mut args = vec!["complete", model.to_str().unwrap(), "-p", &prompt];
    args.extend([
        "-n", "24", "--seed", "1", "--quiet", "--ctx", "1024", "--chunk", "64",
    ]);
    let resident = run("v4-run", &args).ok();
    args.extend(["--memory", "700M"]);
    // Reclaim is not instant: a little more than what is allowed.
    let limit = MEMORY + (24 << 20);
    for pressure in [None, Some(60)] {
        let Some(group) = Group::new("limit", limit + pressure.map_or(0, |_| 50 << 20)) else {
            return;
        };
        let mut other = pressure.map(|mib| balloon(&group, mib));
        let out = group.command(&bin("v4-run"), &args).output().unwrap();
        if let Some(other) = &mut other {
            let pid = format!("-{}", other.id());
            let _ = Command::new("kill").args(["-9", "--", &pid]).status();
            let _ = other.wait();
        }
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{:?}: {stderr}", out.status);
        assert!(out.stdout == resident.stdout, "with {pressure:?} taken");
        if pressure.is_none() {
            let peak = group.peak();
            assert!(peak > 0 && peak < limit, "{peak} of {limit}");
        }
    }
}
