//! Jobs that wait for their turn.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::{Job, Request, guarded};

/// The jobs of a reader, served in turn, one request each.
pub(super) struct Queue {
    jobs: Mutex<Jobs>,
    /// Wakes threads that wait in [`Queue::wait`].
    added: Condvar,
    /// Counts up for a thread that waits in the kernel.
    event: Option<OwnedFd>,
}

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Arc<dyn Job>>,
    closed: bool,
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

    /// Adds a job at the end, or stops it if the queue is closed.
    pub fn add(&self, job: Arc<dyn Job>) {
        if self.put_back(job) {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(event) = &self.event {
            // Fails only when the counter is full, and then the thread is awake.
            let _ = rustix::io::write(event, &1u64.to_ne_bytes());
        }
    }

    fn put_back(&self, job: Arc<dyn Job>) -> bool {
        let mut jobs = self.lock();
        if jobs.closed {
            drop(jobs);
            job.stopped();
            return false;
        }
        jobs.waiting.push_back(job);
        drop(jobs);
        self.added.notify_one();
        true
    }

    fn pop(&self) -> Option<Arc<dyn Job>> {
        self.lock().waiting.pop_front()
    }

    /// The next request of the job whose turn it is, if there is any.
    pub fn next(&self) -> Option<(Arc<dyn Job>, Request)> {
        loop {
            let job = self.pop()?;
            if let Some(request) = guarded(&job, || job.next()).flatten() {
                self.put_back(Arc::clone(&job));
                return Some((job, request));
            }
        }
    }

    /// Waits for a job whose turn it is; `None` once the queue is closed. The
    /// caller takes one request and gives the job to [`give_back`](Self::give_back).
    pub fn wait(&self) -> Option<Arc<dyn Job>> {
        let mut jobs = self.lock();
        loop {
            if jobs.closed {
                return None;
            }
            if let Some(job) = jobs.waiting.pop_front() {
                return Some(job);
            }
            jobs = self
                .added
                .wait(jobs)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Puts a job that has more requests at the end.
    pub fn give_back(&self, job: Arc<dyn Job>) {
        self.put_back(job);
    }

    /// Whether nothing more will come.
    pub fn closed(&self) -> bool {
        self.lock().closed
    }

    /// Stops all jobs, now and from now on.
    pub fn close(&self) {
        let mut jobs = self.lock();
        jobs.closed = true;
        let waiting = std::mem::take(&mut jobs.waiting);
        drop(jobs);
        self.added.notify_all();
        self.wake();
        for job in waiting {
            job.stopped();
        }
    }
}
