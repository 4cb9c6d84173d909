//! Decides what to do after each result of the system, in the same way for every read
//! method.

use std::io;
use std::ops::Range;

use super::{ReadFailure, ReadFile, Request};

/// How often a read that fails, or gives nothing, is repeated.
const MOST_RETRIES: u32 = 3;
/// How often a read that was interrupted is repeated.
const MOST_INTERRUPTIONS: u32 = 1000;

/// How far a request has come.
#[derive(Debug)]
pub(super) struct Progress {
    offset: u64,
    len: usize,
    need: usize,
    unit: usize,
    /// Where the file begins that it reads: errors count from there.
    start: u64,
    got: usize,
    retries: u32,
    interruptions: u32,
}

/// What follows from an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// All that is needed is there.
    Done,
    /// Read [`Progress::rest`].
    Again,
    /// No use in trying again.
    Failed(ReadFailure),
}

impl Progress {
    /// Nothing read yet.
    pub fn new(request: &Request, file: &ReadFile) -> Self {
        Self::of(request.offset, request.len, request.need, file.unit())
            .from(file.at(request.offset).1)
    }

    /// The same of a file that begins at this position.
    pub fn from(self, start: u64) -> Self {
        Self { start, ..self }
    }

    /// The same of a read of `len` bytes at `offset`, of which `need` are needed.
    pub fn of(offset: u64, len: usize, need: usize, unit: usize) -> Self {
        Self {
            offset,
            len,
            need,
            unit,
            start: 0,
            got: 0,
            retries: 0,
            interruptions: 0,
        }
    }

    /// Where to read next, and to which part of the buffer.
    pub fn rest(&self) -> (u64, Range<usize>) {
        (self.offset + self.got as u64, self.got..self.len)
    }

    /// Takes the answer to a read of [`rest`](Self::rest).
    pub fn answer(&mut self, answer: io::Result<usize>) -> Step {
        match answer {
            Ok(n) => self.received(n),
            Err(error) => self.refused(&error),
        }
    }

    fn received(&mut self, n: usize) -> Step {
        let before = self.got;
        let end = (before + n).min(self.len);
        if end >= self.need {
            return Step::Done;
        }
        // A direct read continues at a whole unit, so part of it comes again.
        self.got = end / self.unit * self.unit;
        if self.got > before {
            self.retries = 0;
            return Step::Again;
        }
        self.retries += 1;
        if self.retries <= MOST_RETRIES {
            return Step::Again;
        }
        Step::Failed(ReadFailure::EndOfFile {
            offset: self.offset - self.start,
            len: self.need,
            end: self.offset - self.start + end as u64,
        })
    }

    fn refused(&mut self, error: &io::Error) -> Step {
        use io::ErrorKind::{Interrupted, WouldBlock};
        if matches!(error.kind(), Interrupted | WouldBlock) {
            self.interruptions += 1;
            if self.interruptions <= MOST_INTERRUPTIONS {
                return Step::Again;
            }
        } else {
            self.retries += 1;
            if self.retries <= MOST_RETRIES {
                return Step::Again;
            }
        }
        Step::Failed(ReadFailure::System {
            offset: self.offset - self.start,
            len: self.need,
            reason: error.to_string(),
            tries: (self.retries + self.interruptions).max(1),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::AlignedBuffer;
    use super::*;

    fn progress(len: usize, need: usize, unit: usize) -> Progress {
        let request = Request {
            offset: 8192,
            len,
            need,
            tag: 0,
            buffer: AlignedBuffer::new(0, 1),
        };
        Progress::of(request.offset, request.len, request.need, unit)
    }

    fn error(code: i32) -> io::Result<usize> {
        Err(io::Error::from_raw_os_error(code))
    }

    const EIO: i32 = 5;
    const EINTR: i32 = 4;
    const EAGAIN: i32 = 11;

    #[test]
    fn what_is_needed_is_enough() {
        let mut p = progress(4096, 100, 512);
        assert_eq!(p.answer(Ok(100)), Step::Done);
    }

    #[test]
    fn a_short_read_goes_on_at_a_whole_unit() {
        let mut p = progress(4096, 4000, 512);
        assert_eq!(p.answer(Ok(1500)), Step::Again);
        assert_eq!(p.rest(), (8192 + 1024, 1024..4096));
        assert_eq!(p.answer(Ok(3072)), Step::Done);
        let mut p = progress(4000, 4000, 1);
        for got in 1..4000 {
            assert_eq!(p.answer(Ok(1)), Step::Again);
            assert_eq!(p.rest(), (8192 + got as u64, got..4000));
        }
        assert_eq!(p.answer(Ok(1)), Step::Done);
    }

    #[test]
    fn the_end_of_the_file_is_found_and_named() {
        let mut p = progress(4096, 4000, 512);
        for _ in 0..3 {
            assert_eq!(p.answer(Ok(300)), Step::Again);
        }
        let Step::Failed(failure) = p.answer(Ok(300)) else {
            panic!("the file has no more");
        };
        assert!(failure.to_string().contains("ends at byte 8492"));
    }

    #[test]
    fn errors_are_retried_a_few_times() {
        let mut p = progress(4096, 4000, 512);
        for _ in 0..3 {
            assert_eq!(p.answer(error(EIO)), Step::Again);
        }
        let Step::Failed(failure) = p.answer(error(EIO)) else {
            panic!("the disk is broken");
        };
        let message = failure.to_string();
        assert!(message.contains("4000 bytes at offset 8192"), "{message}");
        assert!(message.contains("os error 5"), "{message}");
        let mut p = progress(4096, 4000, 512);
        assert_eq!(p.answer(error(EIO)), Step::Again);
        assert_eq!(p.answer(Ok(4096)), Step::Done);
    }

    #[test]
    fn interruptions_are_no_errors_but_have_an_end() {
        let mut p = progress(4096, 4000, 512);
        for i in 0..1000 {
            let code = if i % 2 == 0 { EINTR } else { EAGAIN };
            assert_eq!(p.answer(error(code)), Step::Again);
        }
        assert!(matches!(p.answer(error(EINTR)), Step::Failed(_)));
    }
}
