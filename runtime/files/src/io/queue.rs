//! Jobs that wait for their turn.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::{Job, Request, guarded};

/// The jobs of a reader: the urgent ones first, each to its end in the order in
/// which they came.
///
/// Not in turn: jobs that come first are needed first, and two that share the
/// disk would both end as late as the later one.
pub(super) struct Queue {
    jobs: Mutex<Jobs>,
    /// Wakes threads that wait in [`Queue::wait`].
    added: Condvar,
    /// Counts up for a thread that waits in the kernel.
    event: Option<OwnedFd>,
}

#[derive(Default)]
struct Jobs {
    urgent: VecDeque<Arc<dyn Job>>,
    others: VecDeque<Arc<dyn Job>>,
    closed: bool,
}

impl Jobs {
    fn first(&self) -> Option<&Arc<dyn Job>> {
        self.urgent.front().or(self.others.front())
    }

    fn remove(&mut self, job: &Arc<dyn Job>) {
        for jobs in [&mut self.urgent, &mut self.others] {
            jobs.retain(|other| !Arc::ptr_eq(other, job));
        }
    }
}

impl Queue {
    /// An empty queue. With `event`, an eventfd is written whenever something
    /// changes.
    pub fn new(event: Option<OwnedFd>) -> Self {
        Self {
            jobs: Mutex::default(),
            added: Condvar::new(),
            event,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Jobs> {
        // Nothing can panic while it is held.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The eventfd.
    pub fn event(&self) -> Option<&OwnedFd> {
        self.event.as_ref()
    }

    /// Adds a job, or stops it if the queue is closed.
    pub fn add(&self, job: Arc<dyn Job>) {
        let urgent = job.urgent();
        let mut jobs = self.lock();
        if jobs.closed {
            drop(jobs);
            job.stopped();
            return;
        }
        if urgent {
            jobs.urgent.push_back(job);
        } else {
            jobs.others.push_back(job);
        }
        drop(jobs);
        self.added.notify_one();
        self.wake();
    }

    fn wake(&self) {
        if let Some(event) = &self.event {
            // Fails only when the counter is full, and then the thread is awake.
            let _ = rustix::io::write(event, &1u64.to_ne_bytes());
        }
    }

    /// The next request, if there is any.
    pub fn next(&self) -> Option<(Arc<dyn Job>, Request)> {
        loop {
            let job = Arc::clone(self.lock().first()?);
            // Out of the lock: a job may take its time to plan.
            if let Some(request) = guarded(&job, || job.next()).flatten() {
                return Some((job, request));
            }
            self.lock().remove(&job);
        }
    }

    /// Waits for the next request; `None` once the queue is closed.
    pub fn wait(&self) -> Option<(Arc<dyn Job>, Request)> {
        loop {
            let mut jobs = self.lock();
            while jobs.first().is_none() {
                if jobs.closed {
                    return None;
                }
                let woken = self.added.wait(jobs);
                jobs = woken.unwrap_or_else(PoisonError::into_inner);
            }
            drop(jobs);
            if let Some(next) = self.next() {
                // Where one request was there may be another.
                self.added.notify_one();
                return Some(next);
            }
        }
    }

    /// Whether nothing more will come.
    pub fn closed(&self) -> bool {
        self.lock().closed
    }

    /// Stops all jobs, now and from now on.
    pub fn close(&self) {
        let mut jobs = self.lock();
        jobs.closed = true;
        let waiting = std::mem::take(&mut jobs.urgent).into_iter();
        let waiting: Vec<_> = waiting.chain(std::mem::take(&mut jobs.others)).collect();
        drop(jobs);
        self.added.notify_all();
        self.wake();
        for job in waiting {
            job.stopped();
        }
    }
}
