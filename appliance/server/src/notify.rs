//! Notifications to the service manager, and the service's log.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// Tells systemd how far the service is, where systemd listens; does nothing elsewhere.
#[derive(Debug)]
pub struct Notifier {
    began: Instant,
    /// When the thread that runs the model last showed life, in milliseconds.
    alive: AtomicU64,
    watchdog: Option<Duration>,
}

impl Default for Notifier {
    fn default() -> Self {
        Self::new()
    }
}

impl Notifier {
    /// Reads what systemd wants from the environment.
    #[must_use]
    pub fn new() -> Self {
        let mut microseconds = 0;
        let wanted = sd_notify::watchdog_enabled(false, &mut microseconds);
        Self {
            began: Instant::now(),
            alive: AtomicU64::new(0),
            watchdog: wanted.then(|| Duration::from_micros(microseconds)),
        }
    }

    /// A line for `systemctl status`.
    pub fn status(&self, line: &str) {
        self.tell(&[NotifyState::Status(line)]);
    }

    /// The service answers requests.
    pub fn ready(&self, line: &str) {
        self.tell(&[NotifyState::Ready, NotifyState::Status(line)]);
    }

    /// The service is on its way out.
    pub fn stopping(&self, line: &str) {
        self.tell(&[NotifyState::Stopping, NotifyState::Status(line)]);
    }

    /// Loading takes its time: it has not hung.
    pub fn loading(&self, line: &str) {
        let minute = 60_000_000;
        self.tell(&[
            NotifyState::Status(line),
            NotifyState::ExtendTimeoutUsec(minute),
            NotifyState::Watchdog,
        ]);
    }

    fn tell(&self, state: &[NotifyState<'_>]) {
        // A manager that does not listen is not a reason to stop serving.
        let _ = sd_notify::notify(false, state);
    }

    /// A line in the journal.
    pub fn log(&self, line: &str) {
        let line: String = line
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        // A closed standard error is not a reason to stop serving.
        let _ = writeln!(std::io::stderr(), "v4-run: {line}");
    }

    /// The thread that runs the model has done something, or has nothing to do.
    pub(crate) fn alive(&self) {
        self.alive.store(self.now(), Ordering::Release);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Pats the watchdog as long as the thread that runs the model lives. A thread that
    /// hangs is not covered up: then systemd starts the service anew.
    pub(crate) async fn pat_watchdog(&self) {
        let Some(within) = self.watchdog else {
            return std::future::pending().await;
        };
        let limit = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        loop {
            let silent = self
                .now()
                .saturating_sub(self.alive.load(Ordering::Acquire));
            if silent < limit {
                self.tell(&[NotifyState::Watchdog]);
            }
            tokio::time::sleep(within / 4).await;
        }
    }
}
