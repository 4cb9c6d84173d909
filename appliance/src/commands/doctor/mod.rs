//! `v4-run doctor`: what this machine offers the engine, and what slows it down.

#[cfg(feature = "cuda")]
mod gpu;

use std::borrow::Cow;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};
use sysinfo::{CpuRefreshKind, Disks, RefreshKind, System};
use v4_files::ByteSize;
use v4_files::io::ReadSupport;
use v4_runtime::residency::limits;

use super::print_json;
use crate::interrupt::{self, Busy, EXIT_INTERRUPTED};

/// Arguments of `doctor`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  v4-run doctor
  v4-run doctor /models/v4-flash.gguf
  v4-run doctor /models --json
  v4-run doctor --kernels

Lines that start with ! name something that slows the engine down or could kill it, and
how to fix it. Nothing is changed; if PATH is a folder, a file of 64 KiB is written
there and removed. NVIDIA cards are measured, with up to 2 GiB of pinned memory for each.")]
pub struct DoctorArgs {
    /// Model file, or the folder that will hold it
    #[arg(default_value = ".")]
    pub path: PathBuf,
    /// Measure each kernel on NVIDIA cards as well, at full shapes, which takes longer
    #[arg(long)]
    pub kernels: bool,
    /// With --kernels, use small shapes, which shows only that it works
    #[arg(long, requires = "kernels")]
    pub quick: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// One thing that was checked.
struct Finding {
    name: Cow<'static, str>,
    value: String,
    /// What is wrong with it, and what to do about it.
    remedy: Option<String>,
}

impl Finding {
    fn new(
        name: impl Into<Cow<'static, str>>,
        value: impl Into<String>,
        remedy: Option<&str>,
    ) -> Self {
        Self {
            name: name.into(),
            value: value.into(),
            remedy: remedy.map(str::to_owned),
        }
    }
}

/// What is known of cards, to show and as JSON.
#[cfg(not(feature = "cuda"))]
fn cards(_: &DoctorArgs) -> (Vec<Finding>, Value) {
    let value = format!("none: {}", crate::cards::NO_CUDA);
    let found = json!({ "error": crate::cards::NO_CUDA, "cards": [] });
    (vec![Finding::new("gpu", value, None)], found)
}

#[cfg(feature = "cuda")]
use gpu::look as cards;

/// Runs the command. Findings are not errors: the exit code is 0.
pub fn run(args: DoctorArgs) -> anyhow::Result<ExitCode> {
    let mut findings = processor();
    findings.extend(memory());
    findings.extend(disk(&args.path)?);
    // Kernels take long enough to be stopped.
    let busy = args.kernels.then(Busy::start).transpose()?;
    let (of_cards, gpu) = cards(&args);
    drop(busy);
    if interrupt::requested() {
        return Ok(ExitCode::from(EXIT_INTERRUPTED));
    }
    findings.extend(of_cards);
    if args.json {
        let all: Vec<Value> = findings
            .iter()
            .map(|f| json!({ "name": f.name, "value": f.value, "remedy": f.remedy }))
            .collect();
        print_json(&json!({
            "version": env!("CARGO_PKG_VERSION"),
            "path": args.path.display().to_string(),
            "findings": all,
            "gpu": gpu,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut out = io::stdout().lock();
    for Finding {
        name,
        value,
        remedy,
    } in &findings
    {
        let mark = if remedy.is_some() { '!' } else { ' ' };
        writeln!(out, "{mark} {name:<16} {value}")?;
        if let Some(remedy) = remedy {
            writeln!(out, "  {:<16} {remedy}", "")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn processor() -> Vec<Finding> {
    let wanted = RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing());
    let system = System::new_with_specifics(wanted);
    let cpus = system.as_ref().map_or(&[][..], |s| s.cpus());
    let brand = cpus.first().map_or("unknown", |cpu| cpu.brand().trim());
    let usable = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let cores = match cpus.len() {
        all if all > usable => format!("{usable} of the machine's {all}"),
        _ => usable.to_string(),
    };
    let isa = v4_runtime::isa();
    let slow = (isa == "scalar")
        .then_some("no AVX2: the portable kernels are ten times slower; use another machine");
    vec![
        Finding::new("processor", brand, None),
        Finding::new("cores", cores, None),
        Finding::new("instructions", isa, slow),
    ]
}

fn memory() -> Vec<Finding> {
    let limits = limits();
    let shown =
        |bytes: Option<u64>| bytes.map_or("unknown".to_owned(), |b| ByteSize(b).to_string());
    let mut findings = vec![
        Finding::new("memory", shown(limits.total), None),
        Finding::new("memory free", shown(limits.free()), None),
        Finding::new(
            "control group",
            limits
                .group
                .map_or("no limit".into(), |b| ByteSize(b).to_string()),
            None,
        ),
        Finding::new(
            "--memory",
            format!("{} by default", shown(limits.safe())),
            None,
        ),
    ];
    let swap = fs::read_to_string("/proc/meminfo").ok().and_then(|info| {
        let line = info.lines().find_map(|l| l.strip_prefix("SwapTotal:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    if let Some(kib) = swap.filter(|&kib| kib > 0) {
        findings.push(Finding::new(
            "swap",
            ByteSize(kib * 1024).to_string(),
            Some(
                "experts and caches may be swapped out, which is slower than reading them again; \
                 use swapoff -a, or a control group with memory.swap.max=0",
            ),
        ));
    } else {
        findings.push(Finding::new("swap", "none", None));
    }
    // As in "Max locked memory  8388608  8388608  bytes".
    let locked = fs::read_to_string("/proc/self/limits")
        .ok()
        .and_then(|text| {
            let line = text
                .lines()
                .find_map(|l| l.strip_prefix("Max locked memory"))?;
            line.split_whitespace().next().map(str::to_owned)
        });
    let locked = locked.map_or("unknown".to_owned(), |word| match word.parse() {
        Ok(bytes) => ByteSize(bytes).to_string(),
        Err(_) => word,
    });
    findings.push(Finding::new("lockable memory", locked, None));
    let huge = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").ok();
    let chosen = huge.as_deref().and_then(|text| {
        let (_, rest) = text.split_once('[')?;
        rest.split_once(']').map(|(word, _)| word.to_owned())
    });
    findings.push(match chosen.as_deref() {
        None => Finding::new(
            "huge pages",
            "none",
            Some("not supported by this kernel: matrix products are a few percent slower"),
        ),
        Some("never") => Finding::new(
            "huge pages",
            "never",
            Some(
                "matrix products are a few percent slower; use \
                 echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
            ),
        ),
        Some(word) => Finding::new("huge pages", word, None),
    });
    findings
}

fn disk(path: &Path) -> anyhow::Result<Vec<Finding>> {
    let name = || path.display().to_string();
    let full = path.canonicalize().with_context(name)?;
    let mut findings = Vec::new();
    let disks = Disks::new_with_refreshed_list();
    let under = disks
        .iter()
        .flat_map(|disks| disks.iter())
        .filter(|disk| full.starts_with(disk.mount_point()))
        .max_by_key(|disk| disk.mount_point().as_os_str().len());
    if let Some(disk) = under {
        let kind = disk.file_system().to_string_lossy().into_owned();
        let remote = ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs"];
        let memory = ["tmpfs", "ramfs"];
        let remedy = if remote.contains(&kind.as_str()) {
            Some(
                "network file system: experts are read over the network; copy the model to a local \
                 NVMe drive",
            )
        } else if memory.contains(&kind.as_str()) {
            Some("files here are kept in memory and count against every limit; use a disk")
        } else {
            None
        };
        findings.push(Finding::new(
            "file system",
            format!("{kind} at {}", disk.mount_point().display()),
            remedy,
        ));
        findings.push(Finding::new(
            "space free",
            ByteSize(disk.available_space()).to_string(),
            None,
        ));
    }
    let made = match full.is_dir() {
        true => match tempfile::NamedTempFile::new_in(&full) {
            Ok(mut file) => {
                file.write_all(&[1; 64 << 10])?;
                Some(file)
            }
            Err(error) => {
                findings.push(Finding::new(
                    "reads",
                    format!("not tried: cannot create a file here ({error})"),
                    Some("give the path of a model file"),
                ));
                return Ok(findings);
            }
        },
        false => None,
    };
    let file = made.as_ref().map_or(full.as_path(), |made| made.path());
    let support = ReadSupport::of(file).with_context(name)?;
    findings.push(match support.direct {
        Some((unit, memory)) => Finding::new(
            "direct reads",
            format!("in units of {unit} bytes, memory at multiples of {memory}"),
            None,
        ),
        None => Finding::new(
            "direct reads",
            "no",
            Some(
                "experts are read through the page cache, which evicts other weights; ext4 and XFS \
                 on a local disk support direct reads",
            ),
        ),
    });
    findings.push(match support.io_uring {
        Ok(()) => Finding::new("io_uring", "yes", None),
        Err(reason) => Finding {
            name: "io_uring".into(),
            value: format!("no: {reason}"),
            remedy: Some(
                "threads read instead, at the cost of some CPU time; see kernel.io_uring_disabled, \
                 and the seccomp filter of the container or service"
                    .into(),
            ),
        },
    });
    Ok(findings)
}
