//! What is queued, captured and given out.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::ThreadId;
use std::time::Instant;

use v4_cuda::driver::{Extent, Signature};

use super::failure::Failure;
use super::journal::Entry;
use super::options::{Counts, Faults, Schedule};
use crate::run::Kernel;

/// Handles are numbers that no other shim of this process gives out.
pub fn handle() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A kernel of a loaded module.
#[derive(Debug, Clone, Copy)]
pub struct Function {
    pub module: u64,
    pub kernel: Kernel,
    pub signature: Signature,
}

/// What a stream can be asked to do. Addresses and arguments are those of the call.
#[derive(Debug, Clone)]
pub enum Work {
    Kernel {
        function: Function,
        extent: Extent,
        args: Vec<u8>,
    },
    ToDevice {
        to: usize,
        from: usize,
        bytes: usize,
    },
    ToHost {
        to: usize,
        from: usize,
        bytes: usize,
    },
    Within {
        to: usize,
        from: usize,
        bytes: usize,
    },
    Fill {
        to: usize,
        value: u8,
        bytes: usize,
    },
    /// Reaches a record.
    Reach(u64),
    /// Waits until a record is reached.
    Await(u64),
    /// Waits until the word at the address is the value or beyond it.
    AwaitValue {
        address: usize,
        value: u32,
    },
    /// A graph: which, its nodes, and those that are done.
    Graph {
        exec: u64,
        nodes: Arc<Vec<Node>>,
        done: Vec<bool>,
    },
}

/// Work of a graph, and the nodes that come before it.
#[derive(Debug, Clone)]
pub struct Node {
    pub work: Work,
    pub after: Vec<usize>,
}

/// A capture that has begun.
#[derive(Debug)]
pub struct Capture {
    pub origin: u64,
    pub thread: ThreadId,
    pub nodes: Vec<Node>,
    /// What spoilt it.
    pub spoilt: Option<String>,
}

/// The part that a stream has in a capture: which, and the nodes that its next one follows.
pub type Part = (u64, Vec<usize>);

#[derive(Debug, Default)]
pub struct Stream {
    pub queue: VecDeque<Work>,
    /// Work that was ever queued.
    pub queued: u64,
    /// Work that was ever finished.
    pub finished: u64,
    pub capture: Option<Part>,
    /// Given back; it goes when it is empty.
    pub given_back: bool,
}

/// The latest record of an event.
#[derive(Debug, Clone, Default)]
pub enum Record {
    #[default]
    None,
    Queued(u64),
    Captured(Part),
}

#[derive(Debug, Default)]
pub struct Event {
    pub record: Record,
    pub timing: bool,
}

/// Everything but memory.
#[derive(Debug)]
pub struct State {
    random: u64,
    pub faults: Faults,
    pub counts: Counts,
    /// What streams are asked to do, if that is noted.
    pub journal: Option<Vec<Entry>>,
    pub streams: BTreeMap<u64, Stream>,
    pub events: BTreeMap<u64, Event>,
    /// Records, and when they were reached.
    pub records: HashMap<u64, Option<Instant>>,
    pub modules: BTreeMap<u64, &'static str>,
    pub functions: BTreeMap<u64, Function>,
    pub captures: BTreeMap<u64, Capture>,
    pub graphs: BTreeMap<u64, Arc<Vec<Node>>>,
    pub execs: BTreeMap<u64, Arc<Vec<Node>>>,
    /// Why every call fails from now on.
    pub broken: Option<Failure>,
    /// Whether work is being done at this moment.
    pub busy: bool,
    /// Whether the thread that does work is to end.
    pub closing: bool,
    /// Since when nothing is queued, as seen by a host that polls, and what was finished then.
    pub idle_since: Option<(u64, Instant)>,
}

/// Work that can be done now: of which stream, and which node if it is a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    pub stream: u64,
    pub node: Option<usize>,
}

impl State {
    pub fn new(schedule: Schedule, faults: Faults) -> Self {
        Self {
            random: schedule.seed(),
            faults,
            counts: Counts::default(),
            journal: None,
            streams: BTreeMap::new(),
            events: BTreeMap::new(),
            records: HashMap::new(),
            modules: BTreeMap::new(),
            functions: BTreeMap::new(),
            captures: BTreeMap::new(),
            graphs: BTreeMap::new(),
            execs: BTreeMap::new(),
            broken: None,
            busy: false,
            closing: false,
            idle_since: None,
        }
    }

    /// A number below `n`, by the seed.
    pub fn below(&mut self, n: usize) -> usize {
        // SplitMix64.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.random;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % n as u64) as usize
    }

    /// Whether a record has been reached. One that is forgotten has been.
    pub fn is_reached(&self, record: u64) -> bool {
        !matches!(self.records.get(&record), Some(None))
    }

    /// The stream's next work, if it can be done now.
    fn ready(&self, id: u64, word: &dyn Fn(usize) -> u32) -> Vec<Candidate> {
        let Some(head) = self.streams[&id].queue.front() else {
            return Vec::new();
        };
        let stream = id;
        let one = Candidate { stream, node: None };
        match head {
            Work::Await(record) if !self.is_reached(*record) => Vec::new(),
            Work::AwaitValue { address, value } => {
                let beyond = word(*address).wrapping_sub(*value).cast_signed() >= 0;
                Vec::from_iter(beyond.then_some(one))
            }
            Work::Graph { exec, nodes, done } => {
                if self.runs_elsewhere(*exec, id, done) {
                    return Vec::new();
                }
                let free = |i: &usize| !done[*i] && nodes[*i].after.iter().all(|n| done[*n]);
                let nodes = (0..nodes.len()).filter(free);
                let ready: Vec<_> = nodes
                    .map(|n| Candidate {
                        stream,
                        node: Some(n),
                    })
                    .collect();
                // One without nodes is done as a whole.
                if ready.is_empty() { vec![one] } else { ready }
            }
            _ => vec![one],
        }
    }

    /// Whether a graph that has not begun here has begun in another stream.
    fn runs_elsewhere(&self, exec: u64, here: u64, done: &[bool]) -> bool {
        let begun = |done: &[bool]| done.iter().any(|done| *done);
        !begun(done)
            && self.streams.iter().any(|(id, stream)| {
                *id != here
                    && matches!(stream.queue.front(), Some(Work::Graph { exec: other, done, .. })
                        if *other == exec && begun(done))
            })
    }

    /// All work that can be done now.
    pub fn candidates(&self, word: &dyn Fn(usize) -> u32) -> Vec<Candidate> {
        let streams = self.streams.keys();
        streams.flat_map(|id| self.ready(*id, word)).collect()
    }

    /// Work that can be done now and without which the stream gets no further.
    pub fn towards(&self, stream: u64, word: &dyn Fn(usize) -> u32) -> Vec<Candidate> {
        let mut id = stream;
        // A chain of waits is no longer than there are streams, unless it is a circle, which
        // records make impossible.
        for _ in 0..=self.streams.len() {
            let ready = self.ready(id, word);
            if !ready.is_empty() {
                return ready;
            }
            let next = match self.streams[&id].queue.front() {
                Some(Work::Await(record)) => {
                    self.stream_with(|work| matches!(work, Work::Reach(other) if other == record))
                }
                Some(Work::Graph { exec, done, .. }) if self.runs_elsewhere(*exec, id, done) => {
                    self.streams.iter().find_map(|(other, stream)| {
                        let same = matches!(stream.queue.front(),
                            Some(Work::Graph { exec: running, done, .. })
                                if running == exec && done.contains(&true));
                        (same && *other != id).then_some(*other)
                    })
                }
                _ => None,
            };
            match next {
                Some(next) => id = next,
                None => return Vec::new(),
            }
        }
        Vec::new()
    }

    /// The stream in which work of this kind is queued.
    pub fn stream_with(&self, is: impl Fn(&Work) -> bool) -> Option<u64> {
        let mut streams = self.streams.iter();
        streams.find_map(|(id, stream)| stream.queue.iter().any(&is).then_some(*id))
    }

    /// The work of a candidate.
    pub fn work(&self, candidate: Candidate) -> Work {
        let head = self.streams[&candidate.stream].queue.front();
        match (head, candidate.node) {
            (Some(Work::Graph { nodes, .. }), Some(node)) => nodes[node].work.clone(),
            (Some(work), _) => work.clone(),
            (None, _) => unreachable!("candidates are queued"),
        }
    }

    /// Takes note that a candidate's work is done.
    pub fn finish(&mut self, candidate: Candidate) {
        let Some(stream) = self.streams.get_mut(&candidate.stream) else {
            return;
        };
        if let (Some(Work::Graph { done, .. }), Some(node)) =
            (stream.queue.front_mut(), candidate.node)
        {
            done[node] = true;
            if done.contains(&false) {
                return;
            }
        }
        if let Some(Work::Reach(record)) = stream.queue.pop_front() {
            self.records.insert(record, Some(Instant::now()));
        }
        stream.finished += 1;
        if stream.given_back && stream.queue.is_empty() {
            self.streams.remove(&candidate.stream);
        }
    }

    /// Forgets a record that no event has any more. What still waits for it takes it for
    /// reached, so it must be.
    pub fn forget(&mut self, record: &Record) {
        if let Record::Queued(id) = record
            && self.is_reached(*id)
        {
            self.records.remove(id);
        }
    }

    /// Notes work that a stream is asked to do, if that is wanted. What only fills or orders is
    /// none.
    pub fn note(&mut self, work: &Work) {
        let Some(journal) = &mut self.journal else {
            return;
        };
        journal.push(match work {
            Work::Kernel {
                function, extent, ..
            } => Entry::Kernel {
                name: function.kernel.name().to_owned(),
                extent: *extent,
            },
            Work::ToDevice { bytes, .. } => Entry::ToDevice(*bytes),
            Work::ToHost { bytes, .. } => Entry::ToHost(*bytes),
            Work::Within { bytes, .. } => Entry::Within(*bytes),
            _ => return,
        });
    }

    /// Whether nothing is queued.
    pub fn is_idle(&self) -> bool {
        self.streams.values().all(|stream| stream.queue.is_empty())
    }
}
