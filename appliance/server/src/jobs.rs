//! Messages between connections and the thread that runs the model.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use tokio::sync::mpsc as outputs;
use v4_chat::Logprob;
use v4_runtime::Adapter;

use crate::picker::Picking;

/// The client of a request, for fair scheduling.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Client {
    /// The holder of a key, by its place in the file.
    Key(usize),
    /// A user of this machine, by its number.
    User(u32),
    /// Anybody on a TCP socket without keys.
    Anyone,
}

/// How long a job may take once its turn has come; over, it ends with
/// [`Finish::Length`], and what was read and written is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Time for reading the prompt.
    pub reading: Option<Duration>,
    /// Time for the answer, from its first token on.
    pub answering: Option<Duration>,
}

/// A prompt to continue. Start with [`Job::new`], which requests nothing special.
#[derive(Debug)]
pub struct Job {
    /// The prompt.
    pub ids: Vec<u32>,
    /// Places in the prompt that later prompts are likely to share, where turns begin:
    /// there the session is kept, and every 2,048 tokens.
    pub checkpoints: Vec<usize>,
    /// The end of what other conversations begin with as well, such as the system prompt
    /// and tools: there it is kept as long as the session is.
    pub root: Option<usize>,
    /// Maximum number of tokens. With 0 the prompt is read and kept, and the job ends with
    /// [`Finish::Length`].
    pub max_tokens: usize,
    /// How long it may take.
    pub limits: Limits,
    /// A place that one job of a client can have: a waiting or running job of the same
    /// client with the same name ends with [`Failure::Replaced`] when this one comes.
    pub replaces: Option<String>,
    /// Run only while the service is idle, and not counted among waiting jobs.
    pub background: bool,
    /// The session is kept under this name on disk, given up after all others, and
    /// others continue from a copy of it.
    pub keep_as: Option<String>,
    /// How to choose them.
    pub picking: Picking,
    /// What the model uses in addition.
    pub adapters: Vec<Arc<Adapter>>,
    /// Who asks.
    pub client: Client,
    /// Where tokens go. When its other end is dropped, the job is cancelled.
    pub outputs: outputs::UnboundedSender<Output>,
}

impl Job {
    /// A job that reads a prompt and writes nothing, with default
    /// settings; set the fields that differ.
    #[must_use]
    pub fn new(ids: Vec<u32>, client: Client, outputs: outputs::UnboundedSender<Output>) -> Self {
        Self {
            ids,
            checkpoints: Vec::new(),
            root: None,
            max_tokens: 0,
            limits: Limits::default(),
            replaces: None,
            background: false,
            keep_as: None,
            picking: Picking::default(),
            adapters: Vec::new(),
            client,
            outputs,
        }
    }

    /// Whether `newer` takes this job's place.
    #[must_use]
    pub fn replaced_by(&self, newer: &Self) -> bool {
        self.replaces.is_some() && self.replaces == newer.replaces && self.client == newer.client
    }
}

/// The events of a job, in this order: `Started`, some `Reading`, some `Token`, and
/// `Done` or `Failed`.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Its turn has come.
    Started {
        /// Tokens of the prompt that are known from before.
        cached: usize,
    },
    /// A part of the prompt is read.
    Reading {
        /// Tokens of the prompt that have been read or were known.
        done: usize,
    },
    /// A token; the one that ends the text is not among them.
    Token {
        /// Its id.
        id: u32,
        /// Its probability, if that was asked for.
        logprob: Option<Logprob>,
    },
    /// The end.
    Done(Finish),
    /// A premature end.
    Failed(Failure),
}

/// Why a text has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The model ended it, or its grammar allows no more.
    Stop,
    /// As many tokens as allowed, or as long as allowed.
    Length,
    /// The text repeated itself: it is cut off.
    Loop,
}

impl Finish {
    /// Its name in metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Loop => "loop",
        }
    }
}

/// Why a job failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// It does not fit into memory, even alone.
    Memory(String),
    /// A newer job of the same client took its place.
    Replaced,
    /// The service is stopping.
    Stopping,
    /// The engine failed; the service's log says how.
    Engine(String),
}

/// Why a job is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The queue is full.
    Full,
    /// The service is stopping.
    Stopping,
}

/// State that connections and the scheduler share.
#[derive(Debug, Default)]
struct Shared {
    /// Jobs submitted and not started.
    waiting: AtomicUsize,
    /// Jobs submitted and not ended.
    open: AtomicUsize,
    /// No more jobs are taken.
    draining: AtomicBool,
    /// Gives up all jobs.
    stop: AtomicBool,
}

/// The connections' end.
#[derive(Debug, Clone)]
pub struct Jobs {
    sender: mpsc::Sender<Job>,
    shared: Arc<Shared>,
    limit: usize,
}

/// The scheduler's end.
#[derive(Debug)]
pub struct Inbox {
    receiver: mpsc::Receiver<Job>,
    shared: Arc<Shared>,
}

/// What the scheduler may know of its inbox while it is busy, on any thread.
#[derive(Debug, Clone)]
pub struct Watch {
    shared: Arc<Shared>,
    seen: usize,
}

impl Watch {
    /// Whether a job has come that is not in the background.
    #[must_use]
    pub fn has_come(&self) -> bool {
        self.shared.waiting.load(Ordering::Acquire) > self.seen
    }

    /// Whether to give up jobs.
    #[must_use]
    pub fn stopping(&self) -> bool {
        self.shared.stop.load(Ordering::Acquire)
    }
}

/// A channel in which `limit` jobs may wait.
#[must_use]
pub fn channel(limit: usize) -> (Jobs, Inbox) {
    let (sender, receiver) = mpsc::channel();
    let shared = Arc::new(Shared::default());
    let jobs = Jobs {
        sender,
        shared: Arc::clone(&shared),
        limit,
    };
    (jobs, Inbox { receiver, shared })
}

impl Jobs {
    /// Hands a job over.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn submit(&self, job: Job) -> Result<(), Refused> {
        let shared = &self.shared;
        if job.background {
            return match self.draining() {
                true => Err(Refused::Stopping),
                false => self.sender.send(job).map_err(|_| Refused::Stopping),
            };
        }
        if shared.draining.load(Ordering::Acquire) {
            return Err(Refused::Stopping);
        }
        if shared.waiting.fetch_add(1, Ordering::AcqRel) >= self.limit {
            shared.waiting.fetch_sub(1, Ordering::AcqRel);
            return Err(Refused::Full);
        }
        shared.open.fetch_add(1, Ordering::AcqRel);
        self.sender.send(job).map_err(|_| {
            shared.waiting.fetch_sub(1, Ordering::AcqRel);
            shared.open.fetch_sub(1, Ordering::AcqRel);
            Refused::Stopping
        })
    }

    /// Jobs that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.waiting.load(Ordering::Acquire)
    }

    /// Jobs that wait or run.
    #[must_use]
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::Acquire)
    }

    /// Takes no more jobs.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::Release);
    }

    /// Whether no more jobs are taken.
    #[must_use]
    pub fn draining(&self) -> bool {
        self.shared.draining.load(Ordering::Acquire)
    }

    /// Cancels all running and waiting jobs; the scheduler ends.
    pub fn stop(&self) {
        self.drain();
        self.shared.stop.store(true, Ordering::Release);
    }
}

impl Inbox {
    /// The next job that has come, without waiting.
    #[must_use]
    pub fn next(&self) -> Option<Job> {
        self.receiver.try_recv().ok()
    }

    /// Waits for a job, `None` if none comes in time.
    #[must_use]
    pub fn wait(&self, time: std::time::Duration) -> Option<Job> {
        match self.receiver.recv_timeout(time) {
            Ok(job) => Some(job),
            Err(mpsc::RecvTimeoutError::Timeout) => None,
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                self.shared.stop.store(true, Ordering::Release);
                None
            }
        }
    }

    /// To see from now on whether a job comes.
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch {
            shared: Arc::clone(&self.shared),
            seen: self.shared.waiting.load(Ordering::Acquire),
        }
    }

    /// Whether to give up jobs: because it was requested, or because nobody can send one.
    #[must_use]
    pub fn stopping(&self) -> bool {
        self.shared.stop.load(Ordering::Acquire)
    }

    /// No more jobs are taken.
    pub fn refuse(&self) {
        self.shared.draining.store(true, Ordering::Release);
    }

    /// A job's turn has come: it waits no more.
    pub fn started(&self) {
        self.shared.waiting.fetch_sub(1, Ordering::AcqRel);
    }

    /// A job that was started has ended.
    pub fn ended(&self) {
        self.shared.open.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.refuse();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> (Job, outputs::UnboundedReceiver<Output>) {
        let (outputs, receiver) = outputs::unbounded_channel();
        (Job::new(vec![0], Client::Anyone, outputs), receiver)
    }

    #[test]
    fn as_many_wait_as_may_and_a_started_one_makes_room() {
        let (jobs, inbox) = channel(2);
        jobs.submit(job().0).unwrap();
        jobs.submit(job().0).unwrap();
        assert_eq!(jobs.submit(job().0), Err(Refused::Full));
        assert!(inbox.next().is_some());
        inbox.started();
        jobs.submit(job().0).unwrap();
        assert_eq!((jobs.waiting(), jobs.open()), (2, 3));
    }

    #[test]
    fn a_draining_channel_and_one_without_a_scheduler_take_nothing() {
        let (jobs, inbox) = channel(2);
        jobs.drain();
        assert_eq!(jobs.submit(job().0), Err(Refused::Stopping));
        assert!(!inbox.stopping());
        let (jobs, inbox) = channel(2);
        drop(inbox);
        assert_eq!(jobs.submit(job().0), Err(Refused::Stopping));
        assert_eq!(jobs.open(), 0);
    }
}
