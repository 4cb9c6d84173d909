//! Readers of both kinds, with well-behaved and misbehaving jobs.

use std::collections::HashMap;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use super::*;

const PIECE: usize = 4096;

/// A file of that many pieces, each filled with its number.
fn file(pieces: usize) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for piece in 0..pieces {
        file.write_all(&[piece as u8; PIECE]).unwrap();
    }
    file
}

/// Readers of all kinds that the kernel allows.
fn readers(
    file: &tempfile::NamedTempFile,
    in_flight: usize,
    hook: Option<Arc<dyn ReadHook>>,
) -> Vec<Reader> {
    let mut readers = Vec::new();
    for mode in [ReadMode::Uring, ReadMode::Threads] {
        for direct in [true, false] {
            let opened = ReadFile::reopen(file.as_file(), file.path(), direct).unwrap();
            match Reader::start(opened, mode, in_flight, hook.clone()) {
                Ok(reader) => {
                    assert_eq!(reader.mode(), mode);
                    readers.push(reader);
                }
                Err(error) => {
                    assert_eq!(mode, ReadMode::Uring, "{error}");
                    v4_fixtures::skip("io_uring");
                }
            }
        }
    }
    assert!(readers.len() >= 2);
    readers
}

/// Where a job misbehaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Panics {
    Never,
    InNext,
    InDone,
}

/// Reads all pieces of a file, backwards.
struct Pieces {
    memory_unit: usize,
    left: AtomicUsize,
    out: AtomicUsize,
    most_out: AtomicUsize,
    got: Mutex<HashMap<u64, Result<u8, ReadFailure>>>,
    changed: Condvar,
    stopped: AtomicBool,
    panics: Panics,
}

impl Pieces {
    fn new(reader: &Reader, pieces: usize, panics: Panics) -> Arc<Self> {
        Arc::new(Self {
            memory_unit: reader.file().memory_unit(),
            left: AtomicUsize::new(pieces),
            out: AtomicUsize::new(0),
            most_out: AtomicUsize::new(0),
            got: Mutex::default(),
            changed: Condvar::new(),
            stopped: AtomicBool::new(false),
            panics,
        })
    }

    /// Waits until `n` pieces are there or the job was stopped.
    fn wait(&self, n: usize) -> HashMap<u64, Result<u8, ReadFailure>> {
        let got = self.got.lock().unwrap();
        let going_on = |got: &mut HashMap<_, _>| got.len() < n && !self.stopped.load(SeqCst);
        let limit = Duration::from_secs(20);
        let (got, late) = self
            .changed
            .wait_timeout_while(got, limit, going_on)
            .unwrap();
        assert!(!late.timed_out(), "{} of {n}", got.len());
        got.clone()
    }
}

impl Job for Pieces {
    fn urgent(&self) -> bool {
        false
    }

    fn next(&self) -> Option<Request> {
        let left = self.left.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1));
        let piece = left.ok()? - 1;
        assert!(self.panics != Panics::InNext || piece % 8 != 3, "as told");
        let out = self.out.fetch_add(1, SeqCst) + 1;
        self.most_out.fetch_max(out, SeqCst);
        Some(Request {
            offset: (piece * PIECE) as u64,
            len: PIECE,
            need: PIECE,
            tag: piece as u64,
            buffer: AlignedBuffer::new(PIECE, self.memory_unit),
        })
    }

    fn done(&self, request: Request, result: Result<(), ReadFailure>) {
        self.out.fetch_sub(1, SeqCst);
        assert!(
            self.panics != Panics::InDone || request.tag % 8 != 3,
            "as told"
        );
        let value = result.map(|()| {
            let first = request.buffer[0];
            assert!(request.buffer.iter().all(|&b| b == first));
            first
        });
        let before = self.got.lock().unwrap().insert(request.tag, value);
        assert!(before.is_none(), "{} came twice", request.tag);
        self.changed.notify_all();
    }

    fn stopped(&self) {
        let _got = self
            .got
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        self.stopped.store(true, SeqCst);
        self.changed.notify_all();
    }
}

/// A disk that takes its time, or fails.
#[derive(Debug)]
struct Slow(Duration);

impl ReadHook for Slow {
    fn answer(&self, _: u64, _: usize, answer: std::io::Result<usize>) -> std::io::Result<usize> {
        std::thread::sleep(self.0);
        answer
    }
}

#[test]
fn every_reader_reads_each_piece_once() {
    let file = file(200);
    for in_flight in [1, 7, 128] {
        for reader in readers(&file, in_flight, None) {
            let jobs: Vec<_> = (0..3)
                .map(|_| {
                    let job = Pieces::new(&reader, 200, Panics::Never);
                    reader.submit(Arc::clone(&job) as _);
                    job
                })
                .collect();
            for job in jobs {
                let got = job.wait(200);
                assert!((0..200).all(|i| got[&i] == Ok(i as u8)));
                assert!(job.most_out.load(SeqCst) <= in_flight);
            }
            let counts = reader.counts();
            assert_eq!((counts.reads, counts.retries), (600, 0));
            assert_eq!(counts.bytes, 600 * PIECE as u64);
        }
    }
}

/// What becomes of the file where no ring is allowed.
#[test]
fn a_ring_that_is_refused_leaves_nothing_behind() {
    let file = file(1);
    let opened = ReadFile::reopen(file.as_file(), file.path(), false).unwrap();
    let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
    let shared = Arc::new(shared::Shared::new(opened, Some(event), None));
    // More than the kernel gives anyone.
    assert!(uring::start(&shared, 1 << 20).is_err());
    assert!(Arc::into_inner(shared).is_some());
}

#[test]
fn many_reads_are_in_flight_at_once() {
    let file = file(200);
    for reader in readers(&file, 64, Some(Arc::new(Slow(Duration::from_millis(2))))) {
        let job = Pieces::new(&reader, 200, Panics::Never);
        reader.submit(Arc::clone(&job) as _);
        job.wait(200);
        assert!(job.most_out.load(SeqCst) >= 32);
    }
}

#[test]
fn a_job_that_panics_is_stopped_and_no_other() {
    let file = file(64);
    for panics in [Panics::InNext, Panics::InDone] {
        for reader in readers(&file, 4, None) {
            let bad = Pieces::new(&reader, 64, panics);
            let good = Pieces::new(&reader, 64, Panics::Never);
            reader.submit(Arc::clone(&bad) as _);
            reader.submit(Arc::clone(&good) as _);
            bad.wait(65);
            assert!(bad.stopped.load(SeqCst));
            assert_eq!(good.wait(64).len(), 64);
            assert!(!good.stopped.load(SeqCst));
        }
    }
}

#[test]
fn a_hook_that_panics_leaves_nobody_waiting() {
    #[derive(Debug)]
    struct Bad;
    impl ReadHook for Bad {
        fn answer(
            &self,
            offset: u64,
            _: usize,
            answer: std::io::Result<usize>,
        ) -> std::io::Result<usize> {
            // The first piece is read when a ring is tried.
            assert!(offset == 0, "as told");
            answer
        }
    }
    let file = file(8);
    for reader in readers(&file, 2, Some(Arc::new(Bad))) {
        let job = Pieces::new(&reader, 8, Panics::Never);
        reader.submit(Arc::clone(&job) as _);
        job.wait(9);
        assert!(job.stopped.load(SeqCst));
    }
}

#[test]
fn a_reader_that_goes_stops_its_jobs() {
    let file = file(200);
    for reader in readers(&file, 4, Some(Arc::new(Slow(Duration::from_millis(1))))) {
        let jobs = [0, 1].map(|_| {
            let job = Pieces::new(&reader, 200, Panics::Never);
            reader.submit(Arc::clone(&job) as _);
            job
        });
        jobs[0].wait(3);
        drop(reader);
        for job in jobs {
            assert!(job.stopped.load(SeqCst) || job.got.lock().unwrap().len() == 200);
            // Whatever was in flight has come back.
            assert_eq!(job.out.load(SeqCst), 0);
        }
    }
}

#[test]
fn a_piece_beyond_the_end_fails_alone() {
    let file = file(10);
    for reader in readers(&file, 4, None) {
        let job = Pieces::new(&reader, 12, Panics::Never);
        reader.submit(Arc::clone(&job) as _);
        let got = job.wait(12);
        for i in 0..12 {
            assert_eq!(got[&i].is_ok(), i < 10, "{i}");
        }
        let message = got[&11].as_ref().unwrap_err().to_string();
        assert!(message.contains("the file ends at byte"), "{message}");
    }
}
