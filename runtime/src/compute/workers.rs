//! The engine's worker threads.

use crate::error::EngineError;

/// A pool whose workers park when there is nothing to do, all with the same
/// treatment of subnormal numbers.
#[derive(Debug)]
pub(crate) struct Workers {
    pool: rayon::ThreadPool,
}

/// More threads than any machine in mind has cores.
const MAX_THREADS: usize = 1024;

impl Workers {
    /// Starts `threads` workers, or one per core that this process may use; if `pin`,
    /// each is bound to one of these cores.
    ///
    /// # Errors
    /// If there are too many, fewer cores than workers to be bound, or the system
    /// refuses.
    pub fn start(threads: Option<usize>, pin: bool) -> Result<Self, EngineError> {
        let threads = threads
            .or_else(|| std::thread::available_parallelism().ok().map(usize::from))
            .unwrap_or(1);
        let failed = |reason: String| EngineError::Threads { threads, reason };
        if threads == 0 || threads > MAX_THREADS {
            return Err(failed(format!("it must be 1 to {MAX_THREADS}")));
        }
        let workers = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("v4-worker-{i}"))
            .start_handler(|_| flush_subnormals())
            .build()
            .map(|pool| Self { pool })
            .map_err(|e| failed(e.to_string()))?;
        if pin {
            let cores = cores().map_err(failed)?;
            if cores.len() < threads {
                return Err(failed(format!(
                    "this process may use {} cores, too few to pin each thread to its own",
                    cores.len()
                )));
            }
            let bound = workers.each(|i| bind(cores[i]));
            bound
                .into_iter()
                .collect::<Result<(), _>>()
                .map_err(failed)?;
        }
        Ok(workers)
    }

    /// Number of workers.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Runs `f` once on each worker, with its number.
    pub fn each<T: Send>(&self, f: impl Fn(usize) -> T + Sync) -> Vec<T> {
        self.pool.broadcast(|context| f(context.index()))
    }

    /// Runs `f` on the workers. All arithmetic of the engine happens in here.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        self.pool.install(f)
    }
}

/// The cores that this process may use.
#[cfg(target_os = "linux")]
fn cores() -> Result<Vec<usize>, String> {
    let set = rustix::thread::sched_getaffinity(None).map_err(|e| e.to_string())?;
    let all = 0..rustix::thread::CpuSet::MAX_CPU;
    Ok(all.filter(|&core| set.is_set(core)).collect())
}

/// Binds this thread to a core.
#[cfg(target_os = "linux")]
fn bind(core: usize) -> Result<(), String> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    rustix::thread::sched_setaffinity(None, &set)
        .map_err(|e| format!("cannot pin a thread to core {core}: {e}"))
}

#[cfg(not(target_os = "linux"))]
fn cores() -> Result<Vec<usize>, String> {
    Err("threads can be pinned to cores only on Linux".into())
}

#[cfg(not(target_os = "linux"))]
fn bind(_: usize) -> Result<(), String> {
    Ok(())
}

/// Makes this thread read and write subnormal numbers as zero: scales near
/// 2^-127 would otherwise halve the speed of everything they touch.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
fn flush_subnormals() {
    /// FTZ (bit 15) and DAZ (bit 6) of MXCSR.
    const FLUSH: u32 = 1 << 15 | 1 << 6;
    let mut csr: u32 = 0;
    // SAFETY: stores and loads this thread's MXCSR, a register that every
    // x86-64 CPU has; only the two defined bits change, exceptions stay masked.
    unsafe {
        std::arch::asm!("stmxcsr [{}]", in(reg) &raw mut csr, options(nostack, preserves_flags));
        csr |= FLUSH;
        std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const csr, options(nostack, preserves_flags));
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn flush_subnormals() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absurd_thread_counts_are_refused() {
        assert!(Workers::start(Some(0), false).is_err());
        assert!(Workers::start(Some(1 << 20), false).is_err());
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn workers_flush_subnormals() {
        let workers = Workers::start(Some(2), false).unwrap();
        let tiny = std::hint::black_box(f32::MIN_POSITIVE);
        let half = workers.run(|| tiny * std::hint::black_box(0.5));
        assert_eq!(half, 0.0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn bound_workers_have_a_core_each() {
        let cores = cores().unwrap();
        let workers = Workers::start(Some(cores.len()), true).unwrap();
        let bound = workers.each(|_| {
            let set = rustix::thread::sched_getaffinity(None).unwrap();
            let all = 0..rustix::thread::CpuSet::MAX_CPU;
            all.filter(|&core| set.is_set(core)).collect::<Vec<_>>()
        });
        assert_eq!(bound.concat(), cores);
        assert!(Workers::start(Some(cores.len() + 1), true).is_err());
    }
}
