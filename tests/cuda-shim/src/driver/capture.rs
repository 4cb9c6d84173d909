//! Captures: work that is kept instead of done.

use std::sync::Arc;
use std::thread;

use v4_cuda::driver::code;

use super::failure::Failure;
use super::state::{Capture, Node, Part, Record, State, Work, handle};

impl State {
    /// Begins a capture in a stream.
    pub fn begin_capture(&mut self, id: u64) -> Result<(), Failure> {
        let stream = self.streams.get_mut(&id).ok_or_else(no_stream)?;
        if stream.capture.is_some() {
            return Err(Failure::new(
                code::STREAM_CAPTURE_UNSUPPORTED,
                "the stream is being captured already",
            ));
        }
        let capture = handle();
        stream.capture = Some((capture, Vec::new()));
        self.captures.insert(
            capture,
            Capture {
                origin: id,
                thread: thread::current().id(),
                nodes: Vec::new(),
                spoilt: None,
            },
        );
        Ok(())
    }

    /// Ends it, and returns the graph's handle.
    pub fn end_capture(&mut self, id: u64) -> Result<u64, Failure> {
        let stream = self.streams.get(&id).ok_or_else(no_stream)?;
        let Some((capture, last)) = stream.capture.clone() else {
            return Err(Failure::new(
                code::ILLEGAL_STATE,
                "the stream is not being captured",
            ));
        };
        if self.captures[&capture].origin != id {
            return Err(Failure::new(
                code::STREAM_CAPTURE_UNMATCHED,
                "the capture began in another stream",
            ));
        }
        if self.captures[&capture].thread != thread::current().id() {
            return Err(Failure::new(
                code::STREAM_CAPTURE_WRONG_THREAD,
                "the capture began on another thread",
            ));
        }
        let mut others = Vec::new();
        for stream in self.streams.values_mut() {
            if let Some((_, last)) = stream.capture.take_if(|(other, _)| *other == capture) {
                others.extend(last);
            }
        }
        let capture = self.captures.remove(&capture).expect("it has begun");
        if let Some(why) = capture.spoilt {
            return Err(Failure::new(code::STREAM_CAPTURE_INVALIDATED, why));
        }
        // Everything must come before the end of the stream where it began.
        let mut before = vec![false; capture.nodes.len()];
        let mut open = last;
        while let Some(node) = open.pop() {
            if !std::mem::replace(&mut before[node], true) {
                open.extend(&capture.nodes[node].after);
            }
        }
        if others.iter().any(|node| !before[*node]) {
            return Err(Failure::new(
                code::STREAM_CAPTURE_UNJOINED,
                "work of another stream was captured, for which the first does not wait",
            ));
        }
        let graph = handle();
        self.graphs.insert(graph, Arc::new(capture.nodes));
        Ok(graph)
    }

    /// Keeps work of a stream that is being captured.
    pub fn keep(&mut self, id: u64, work: Work) -> Result<(), Failure> {
        let Some((capture, after)) = self.streams[&id].capture.clone() else {
            unreachable!("the caller has looked")
        };
        let nodes = self.open_capture(capture)?;
        nodes.push(Node { work, after });
        let last = nodes.len() - 1;
        let stream = self.streams.get_mut(&id).expect("the caller has looked");
        stream.capture = Some((capture, vec![last]));
        Ok(())
    }

    /// Lets a stream wait for a record that was captured, which makes it part of the capture.
    pub fn join(&mut self, id: u64, part: Part) -> Result<(), Failure> {
        let (capture, nodes) = part;
        if !self.captures.contains_key(&capture) {
            return Err(Failure::invalid(
                "the event was recorded in a capture that has ended",
            ));
        }
        self.open_capture(capture)?;
        let stream = self.streams.get_mut(&id).ok_or_else(no_stream)?;
        match &mut stream.capture {
            Some((other, _)) if *other != capture => {
                let why = "a wait of one capture for another";
                self.spoil(capture, why);
                Err(Failure::new(code::STREAM_CAPTURE_ISOLATION, why))
            }
            Some((_, last)) => {
                last.extend(nodes);
                last.sort_unstable();
                last.dedup();
                Ok(())
            }
            None => {
                stream.capture = Some((capture, nodes));
                Ok(())
            }
        }
    }

    /// What a stream records into an event now.
    pub fn record_of(&self, id: u64) -> Option<Record> {
        self.streams[&id].capture.clone().map(Record::Captured)
    }

    fn open_capture(&mut self, capture: u64) -> Result<&mut Vec<Node>, Failure> {
        let capture = self.captures.get_mut(&capture).expect("it has not ended");
        match &capture.spoilt {
            Some(why) => Err(Failure::new(code::STREAM_CAPTURE_INVALIDATED, why.clone())),
            None => Ok(&mut capture.nodes),
        }
    }

    /// Spoils a capture. The first reason is kept.
    pub fn spoil(&mut self, capture: u64, why: &str) {
        if let Some(capture) = self.captures.get_mut(&capture) {
            capture.spoilt.get_or_insert_with(|| why.to_owned());
        }
    }

    /// Refuses a call that a stream's capture does not allow, and spoils the capture.
    pub fn outside_of_captures(&mut self, id: u64, what: &str) -> Result<(), Failure> {
        let Some(stream) = self.streams.get(&id) else {
            return Err(no_stream());
        };
        match stream.capture.clone() {
            Some((capture, _)) => Err(self.unsupported(capture, what)),
            None => Ok(()),
        }
    }

    /// The same for a call that concerns no stream: not while this thread captures any.
    pub fn outside_of_all_captures(&mut self, what: &str) -> Result<(), Failure> {
        let here = thread::current().id();
        let mut captures = self.captures.iter();
        let own = captures.find_map(|(id, capture)| (capture.thread == here).then_some(*id));
        match own {
            Some(capture) => Err(self.unsupported(capture, what)),
            None => Ok(()),
        }
    }

    pub fn unsupported(&mut self, capture: u64, what: &str) -> Failure {
        let why = format!("{what} while a stream is captured");
        self.spoil(capture, &why);
        Failure::new(code::STREAM_CAPTURE_UNSUPPORTED, why)
    }
}

/// A handle that is none.
pub fn no_stream() -> Failure {
    no("stream")
}

/// A handle that is none, of something.
pub fn no(what: &str) -> Failure {
    Failure::new(
        code::INVALID_HANDLE,
        format!("the {what} is not one of this card, or was given back"),
    )
}
