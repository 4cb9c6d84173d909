//! Measures the disk under a file with the same reads that the engine makes.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{AlignedBuffer, Job, ReadFailure, ReadFile, ReadMode, Reader, Request};

/// How reads of a file can be made here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadSupport {
    /// Why there is no `io_uring`, if there is none.
    pub io_uring: Result<(), String>,
    /// Unit of offsets and lengths, and of memory, of reads past the page cache; `None`
    /// where the file system has none.
    pub direct: Option<(usize, usize)>,
}

impl ReadSupport {
    /// Tries both on a file that is not empty.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn of(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let read = ReadFile::reopen(&file, path, true)?;
        let direct = read.direct().then(|| (read.unit(), read.memory_unit()));
        let ring = Reader::start(read, ReadMode::Uring, 4, None);
        Ok(Self {
            io_uring: ring.map(drop).map_err(|e| e.to_string()),
            direct,
        })
    }
}

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DiskRate {
    /// Bytes per second.
    pub bytes_per_second: f64,
    /// Bytes of one read.
    pub block: usize,
    /// Reads in flight at most.
    pub in_flight: usize,
    /// How reads were submitted; never [`ReadMode::Auto`].
    pub mode: ReadMode,
    /// Whether they went past the page cache.
    pub direct: bool,
}

/// Reads blocks from all over a file for about `time`, and measures their rate.
/// `None` if the file does not contain a whole block.
///
/// # Errors
/// If the file cannot be opened or read, or the system refuses the mode.
pub fn disk_rate(
    path: &Path,
    block: usize,
    in_flight: usize,
    mode: ReadMode,
    direct: bool,
    time: Duration,
) -> io::Result<Option<DiskRate>> {
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    let read = ReadFile::reopen(&file, path, direct)?;
    let unit = read.unit().max(4096);
    let block = block.max(1).next_multiple_of(unit);
    let blocks = len / block as u64;
    if blocks == 0 {
        return Ok(None);
    }
    let in_flight = in_flight.clamp(1, 64);
    let probe = Arc::new(Probe {
        block,
        blocks,
        memory_unit: read.memory_unit().max(4096),
        until: Instant::now() + time,
        state: Mutex::new(State::default()),
        ended: Condvar::new(),
    });
    let reader = Reader::start(read, mode, in_flight, None)?;
    let started = Instant::now();
    reader.submit(Arc::clone(&probe) as _);
    let mut state = probe.lock();
    while !state.ended() {
        let woken = probe.ended.wait(state);
        state = woken.unwrap_or_else(PoisonError::into_inner);
    }
    let seconds = started.elapsed().as_secs_f64();
    if let Some(failure) = state.failure.take() {
        return Err(io::Error::other(failure));
    }
    Ok(Some(DiskRate {
        bytes_per_second: state.done as f64 * block as f64 / seconds.max(1e-9),
        block,
        in_flight,
        mode: reader.mode(),
        direct: reader.file().direct(),
    }))
}

struct Probe {
    block: usize,
    blocks: u64,
    memory_unit: usize,
    until: Instant,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    started: u64,
    done: u64,
    in_flight: u64,
    no_more: bool,
    failure: Option<String>,
    buffers: Vec<AlignedBuffer>,
}

impl State {
    fn ended(&self) -> bool {
        self.no_more && self.in_flight == 0
    }
}

impl Probe {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Block number `i` of an order that touches all of the file once before it
    /// touches any of it twice, and no neighbours one after the other.
    fn place(&self, i: u64) -> u64 {
        // Steps of the golden section; made coprime to the number of blocks.
        let mut step = (self.blocks as f64 * 0.618) as u64 | 1;
        while gcd(step, self.blocks) != 1 {
            step += 2;
        }
        (u128::from(i) * u128::from(step) % u128::from(self.blocks)) as u64
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Job for Probe {
    fn urgent(&self) -> bool {
        true
    }

    fn next(&self) -> Option<Request> {
        let mut state = self.lock();
        if Instant::now() >= self.until || state.failure.is_some() {
            state.no_more = true;
            self.ended.notify_all();
            return None;
        }
        let place = self.place(state.started);
        state.started += 1;
        state.in_flight += 1;
        let buffer = state.buffers.pop();
        Some(Request {
            offset: place * self.block as u64,
            len: self.block,
            need: self.block,
            tag: 0,
            buffer: buffer.unwrap_or_else(|| AlignedBuffer::new(self.block, self.memory_unit)),
        })
    }

    fn done(&self, request: Request, result: Result<(), ReadFailure>) {
        let mut state = self.lock();
        state.in_flight -= 1;
        match result {
            Ok(()) => state.done += 1,
            Err(failure) => state.failure = Some(failure.to_string()),
        }
        state.buffers.push(request.buffer);
        self.ended.notify_all();
    }

    fn stopped(&self) {
        let mut state = self.lock();
        state.no_more = true;
        state.in_flight = 0;
        state
            .failure
            .get_or_insert_with(|| "reading has stopped".to_owned());
        self.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_all_over() {
        let probe = |blocks| Probe {
            block: 4096,
            blocks,
            memory_unit: 4096,
            until: Instant::now(),
            state: Mutex::default(),
            ended: Condvar::new(),
        };
        for blocks in [1, 2, 3, 10, 64, 1001] {
            let probe = probe(blocks);
            let mut places: Vec<u64> = (0..blocks).map(|i| probe.place(i)).collect();
            places.sort_unstable();
            assert!(places.into_iter().eq(0..blocks));
        }
    }

    #[test]
    fn a_rate_is_measured() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![1; 1 << 20]).unwrap();
        let time = Duration::from_millis(30);
        for mode in [ReadMode::Auto, ReadMode::Threads] {
            for direct in [false, true] {
                let rate = disk_rate(file.path(), 65536, 8, mode, direct, time);
                let rate = rate.unwrap().unwrap();
                assert!(rate.bytes_per_second > 1e5, "{rate:?}");
                assert_ne!(rate.mode, ReadMode::Auto);
            }
        }
        let none = disk_rate(file.path(), 2 << 20, 8, ReadMode::Auto, true, time);
        assert_eq!(none.unwrap(), None);
        assert!(ReadSupport::of(file.path()).is_ok());
        assert!(ReadSupport::of(Path::new("/nowhere")).is_err());
    }
}
