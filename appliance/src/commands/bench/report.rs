//! What `bench` prints.

use std::io::{self, Write};

use serde_json::{Value, json};
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};
use v4_runtime::{Engine, Roofline};

use super::args::BenchArgs;
use super::timing::{Kind, PerToken, Timing};
use crate::options;

/// All that was measured.
pub struct Report<'a> {
    pub args: &'a BenchArgs,
    pub engine: &'a Engine,
    /// Bytes of the caches at the greatest depth.
    pub kv_bytes: usize,
    pub roofline: Option<Roofline>,
    pub timings: &'a [Timing],
}

/// `part` of `whole` in percent, or a dash.
fn percent(part: f64, whole: Option<f64>) -> String {
    whole.map_or("-".into(), |whole| format!("{:.0}%", 100.0 * part / whole))
}

impl Report<'_> {
    pub fn print_text(&self) -> io::Result<()> {
        let options = options::engine(&self.args.engine, 1);
        let mut out = io::stdout().lock();
        writeln!(
            out,
            "{}: {} threads, {}, {}, caches {}, chunk {}",
            self.args.model.display(),
            self.engine.threads(),
            self.engine.isa(),
            options::precision_name(options.precision),
            options::kv_name(options.kv),
            self.engine.plan().chunk
        )?;
        let machine = Machine::this();
        writeln!(
            out,
            "{}, {} CPUs, {:.1} GB of memory",
            machine.cpu,
            machine.cores,
            machine.memory as f64 / 1e9
        )?;
        if let Some(c) = &self.roofline {
            writeln!(
                out,
                "best measured: {:.1} GB/s read, {:.0} GOP/s int8, {:.0} GFLOP/s f32",
                c.read_bytes / 1e9,
                c.int8_operations / 1e9,
                c.f32_operations / 1e9
            )?;
        }
        writeln!(
            out,
            "\n{:<10} {:>7} {:>7} {:>10} {:>9} {:>9} {:>8} {:>8} {:>8} {:>6} {:>8} {:>6}",
            "test",
            "tokens",
            "depth",
            "median t/s",
            "min",
            "max",
            "weights",
            "KV",
            "GB/s",
            "share",
            "GOP/s",
            "share"
        )?;
        for timing in self.timings {
            let per_token = timing.per_token();
            let bytes = per_token.bytes() * timing.median();
            let operations = per_token.operations * timing.median();
            writeln!(
                out,
                "{:<10} {:>7} {:>7} {:>10.2} {:>9.2} {:>9.2} {:>8} {:>8} {:>8.2} {:>6} {:>8.1} {:>6}",
                timing.kind.label(),
                timing.kind.tokens(),
                timing.depth,
                timing.median(),
                timing.min(),
                timing.max(),
                short(per_token.weights),
                short(per_token.cache),
                bytes / 1e9,
                percent(bytes, self.roofline.map(|c| c.read_bytes)),
                operations / 1e9,
                percent(operations, self.roofline.map(|c| c.int8_operations)),
            )?;
            if let Some(usage) = &timing.engram {
                writeln!(out, "{}", usage.line())?;
            }
            if let Some(usage) = &timing.experts {
                writeln!(out, "  {}", usage.line())?;
            }
            if let Some(line) = timing.drafts_line() {
                writeln!(out, "{line}")?;
            }
        }
        writeln!(
            out,
            "\nweights, KV: bytes read per token; the tokens of a prompt share the weights of a chunk"
        )?;
        if self.args.profile {
            for timing in self.timings {
                self.print_profile(&mut out, timing)?;
            }
        }
        out.flush()
    }

    fn print_profile(&self, out: &mut impl Write, timing: &Timing) -> io::Result<()> {
        let total = 1.0 / timing.median();
        writeln!(
            out,
            "\n{} of {} tokens at depth {}: {:.3} ms per token\n",
            timing.kind.label(),
            timing.kind.tokens(),
            timing.depth,
            1e3 * total
        )?;
        writeln!(
            out,
            "{:<18} {:>8} {:>10} {:>7} {:>9} {:>9} {:>8} {:>8}",
            "operation", "calls", "ms", "share", "weights", "KV", "GB/s", "GOP/s"
        )?;
        let mut rest = total;
        for (operation, work) in timing.profile.iter() {
            let per_token = PerToken::new(work, timing.tokens());
            rest -= per_token.seconds;
            let rate = |n: f64| n / per_token.seconds.max(1e-9) / 1e9;
            writeln!(
                out,
                "{:<18} {:>8.2} {:>10.4} {:>6.1}% {:>9} {:>9} {:>8.2} {:>8.1}",
                operation.name(),
                work.calls as f64 / timing.tokens(),
                1e3 * per_token.seconds,
                100.0 * per_token.seconds / total,
                short(per_token.weights),
                short(per_token.cache),
                rate(per_token.bytes()),
                rate(per_token.operations),
            )?;
        }
        writeln!(
            out,
            "{:<18} {:>8} {:>10.4} {:>6.1}%",
            "between them",
            "",
            1e3 * rest,
            100.0 * rest / total
        )
    }

    /// One line per test, numbers in full.
    pub fn print_csv(&self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        writeln!(
            out,
            "test,tokens,depth,threads,median_tokens_per_second,min_tokens_per_second,\
             max_tokens_per_second,weight_bytes_per_token,kv_bytes_per_token,\
             operations_per_token,bytes_per_second,operations_per_second,\
             machine_bytes_per_second,machine_int8_operations_per_second,\
             machine_f32_operations_per_second,clients"
        )?;
        for timing in self.timings {
            let per_token = timing.per_token();
            let ceiling = |of: fn(&Roofline) -> f64| {
                self.roofline
                    .as_ref()
                    .map_or(String::new(), |c| of(c).to_string())
            };
            writeln!(
                out,
                "{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{}",
                timing.kind.name(),
                timing.kind.tokens(),
                timing.depth,
                self.engine.threads(),
                timing.median(),
                timing.min(),
                timing.max(),
                per_token.weights,
                per_token.cache,
                per_token.operations,
                per_token.bytes() * timing.median(),
                per_token.operations * timing.median(),
                ceiling(|c| c.read_bytes),
                ceiling(|c| c.int8_operations),
                ceiling(|c| c.f32_operations),
                timing.kind.clients(),
            )?;
        }
        out.flush()
    }

    pub fn json(&self) -> Value {
        let options = options::engine(&self.args.engine, 1);
        let mut report = json!({
            "machine": Machine::this().json(),
            "model": self.args.model.display().to_string(),
            "version": env!("CARGO_PKG_VERSION"),
            "threads": self.engine.threads(),
            "isa": self.engine.isa(),
            "precision": options::precision_name(options.precision),
            "kv": options::kv_name(options.kv),
            "chunk": self.engine.plan().chunk,
            "weight_bytes_per_token": self.engine.weight_bytes_per_token(),
            "kv_bytes_at_end": self.kv_bytes,
            "tests": self.timings.iter().map(|t| self.test(t)).collect::<Vec<_>>(),
        });
        if let Some(c) = &self.roofline {
            report["ceilings"] = json!({
                "bytes_per_second": c.read_bytes,
                "int8_operations_per_second": c.int8_operations,
                "f32_operations_per_second": c.f32_operations,
            });
        }
        report
    }

    fn test(&self, timing: &Timing) -> Value {
        let mut test = timing.json();
        let per_token = timing.per_token();
        if let Some(c) = &self.roofline {
            // What bounds the one and the other.
            test["share_of_ceiling"] = match timing.kind {
                Kind::Decode(_) | Kind::Drafted(_) | Kind::Together { .. } => {
                    per_token.bytes() * timing.median() / c.read_bytes
                }
                Kind::Prefill(_) => per_token.operations * timing.median() / c.int8_operations,
            }
            .into();
        }
        if self.args.profile {
            let operation = |(operation, work): (v4_runtime::profile::Operation, _)| {
                let per_token = PerToken::new(work, timing.tokens());
                json!({
                    "operation": operation.name(),
                    "calls": work.calls as f64 / timing.tokens(),
                    "seconds": per_token.seconds,
                    "weight_bytes": per_token.weights,
                    "kv_bytes": per_token.cache,
                    "operations": per_token.operations,
                })
            };
            test["profile"] = timing.profile.iter().map(operation).collect();
        }
        test
    }
}

/// Bytes with three digits and a unit.
fn short(bytes: f64) -> String {
    let (value, unit) = match bytes {
        b if b >= 1e9 => (b / 1e9, "GB"),
        b if b >= 1e6 => (b / 1e6, "MB"),
        b if b >= 1e3 => (b / 1e3, "kB"),
        b => (b, "B"),
    };
    if value == 0.0 {
        "-".into()
    } else if value >= 99.95 {
        format!("{value:.0} {unit}")
    } else {
        format!("{value:.2} {unit}")
    }
}

/// What a speed was measured on.
pub struct Machine {
    cpu: String,
    cores: usize,
    memory: u64,
}

impl Machine {
    pub fn this() -> Self {
        let wanted = RefreshKind::nothing()
            .with_cpu(CpuRefreshKind::nothing())
            .with_memory(MemoryRefreshKind::nothing().with_ram());
        let system = System::new_with_specifics(wanted).ok();
        let cpus = system.as_ref().map_or(&[][..], System::cpus);
        let brand = cpus.first().map(|cpu| cpu.brand().trim());
        Self {
            cpu: brand.unwrap_or("unknown CPU").to_owned(),
            cores: cpus.len(),
            memory: system.as_ref().map_or(0, System::total_memory),
        }
    }

    pub fn json(&self) -> Value {
        json!({
            "cpu": self.cpu, "processors": self.cores, "memory_bytes": self.memory,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_short() {
        assert_eq!(short(0.0), "-");
        assert_eq!(short(583.0), "583 B");
        assert_eq!(short(1234.0), "1.23 kB");
        assert_eq!(short(1_776_000_000.0), "1.78 GB");
    }
}
