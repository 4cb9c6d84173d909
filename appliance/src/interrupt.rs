//! Ctrl-C: a flag that running work checks, and a fallback that ends the process if it does
//! not. SIGTERM and SIGHUP are handled the same way.

use std::ops::ControlFlow;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Exit code of an interrupted run, as shells have it: 128 + SIGINT.
pub const EXIT_INTERRUPTED: u8 = 130;

static REQUESTED: AtomicBool = AtomicBool::new(false);
static BUSY: AtomicBool = AtomicBool::new(false);

/// While it lives, the first Ctrl-C only raises the flag of [`requested`], so
/// that work can stop after its token or prefill chunk with what it has. A
/// second Ctrl-C, or one while nothing is under way, ends the process.
pub struct Busy(());

impl Busy {
    /// Starts work that looks at [`requested`]; forgets earlier interrupts.
    pub fn start() -> anyhow::Result<Busy> {
        static INSTALLED: OnceLock<Result<(), String>> = OnceLock::new();
        INSTALLED
            .get_or_init(|| ctrlc::set_handler(on_signal).map_err(|e| e.to_string()))
            .clone()
            .map_err(|e| anyhow::anyhow!("cannot catch Ctrl-C: {e}"))?;
        REQUESTED.store(false, Ordering::SeqCst);
        BUSY.store(true, Ordering::SeqCst);
        Ok(Busy(()))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        BUSY.store(false, Ordering::SeqCst);
    }
}

fn on_signal() {
    if !BUSY.load(Ordering::SeqCst) || REQUESTED.swap(true, Ordering::SeqCst) {
        std::process::exit(i32::from(EXIT_INTERRUPTED));
    }
}

/// A chunk of a prompt that is expected to be read within this time is not stopped.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether to go on with a chunk of a prompt, of which nothing is kept if it stops, when the
/// rest of it is expected to take as long as `left`.
pub fn between(left: Duration) -> ControlFlow<()> {
    match requested() && left > PATIENCE {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    }
}

/// True once Ctrl-C came since the work began.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::SeqCst)
}
