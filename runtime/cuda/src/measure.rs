//! What a card and its way to the host can do, measured on the spot.
//!
//! Each measurement takes a fraction of a second and some hundred megabytes, which are given back
//! at once. Rates are in bytes a second.

#![allow(unsafe_code)] // Launches of `add` on memory of our own.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::args::Add;
use crate::driver::{Driver, DriverError, EventUse, Extent};
use crate::kernels::Kernels;
use crate::owned::{DeviceBuffer, Event, PinnedBuffer, Stream};

/// Bytes of one allocation while the limit of pinned memory is looked for.
const PINNED_STEP: usize = 64 << 20;
/// Bytes of copies between host and card, and within the card: more than its cache.
const ACROSS: usize = 64 << 20;
const WITHIN: usize = 256 << 20;
/// The least that is still worth measuring with.
const LEAST: usize = 1 << 20;
/// Copies are repeated for so long, and at most so often.
const COPYING: Duration = Duration::from_millis(30);
const MOST_COPIES: u32 = 256;
/// Launches of each measurement of latency.
const LAUNCHES: u32 = 500;
/// A card that takes longer to write a word is waited for as for any work.
const MOST_WAIT: Duration = Duration::from_secs(2);

/// How much memory of the host can be pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pinned {
    /// So many bytes were.
    pub bytes: u64,
    /// Whether more were refused; otherwise no more were asked for.
    pub refused: bool,
}

/// Tries how much memory can be pinned, up to `most` bytes, which are written.
///
/// # Errors
/// If the card fails; that memory is refused is a result.
pub fn pinned<D: Driver>(driver: &Arc<D>, most: u64) -> Result<Pinned, DriverError> {
    let mut held = Vec::new();
    let mut bytes = 0;
    let mut step = PINNED_STEP;
    while bytes + step as u64 <= most {
        match PinnedBuffer::new(driver, step) {
            Ok(buffer) => held.push(buffer),
            Err(error) if error.is_fatal() => return Err(error),
            Err(_) => {
                driver.clear_error()?;
                // Smaller pieces until nothing goes any more.
                if step <= LEAST {
                    return Ok(Pinned {
                        bytes,
                        refused: true,
                    });
                }
                step /= 4;
                continue;
            }
        }
        bytes += step as u64;
    }
    Ok(Pinned {
        bytes,
        refused: step < PINNED_STEP,
    })
}

/// How fast bytes are copied, in bytes a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// From pinned memory to the card.
    pub to_card: f64,
    /// From the card to pinned memory.
    pub from_card: f64,
    /// Within the card's memory: bytes read and bytes written.
    pub within: f64,
}

/// Measures copies.
///
/// # Errors
/// If there is not even memory to copy a megabyte, or the card fails.
pub fn rates<D: Driver>(driver: &Arc<D>) -> Result<Rates, DriverError> {
    let stream = Stream::new(driver)?;
    let host = halved(driver, ACROSS, |bytes| PinnedBuffer::new(driver, bytes))?;
    let pair = |bytes| {
        Ok((
            DeviceBuffer::new(driver, bytes)?,
            DeviceBuffer::new(driver, bytes)?,
        ))
    };
    let (one, other) = halved(driver, WITHIN, pair)?;
    let all = 0..host.len().min(one.len());
    let across = all.len();
    let to_card = rate(&stream, across, &mut || {
        one.write_from(&stream, 0, &host, all.clone())
    })?;
    let from_card = rate(&stream, across, &mut || {
        one.read_into(&stream, 0, &host, all.clone())
    })?;
    let bytes = one.len();
    let within = rate(&stream, 2 * bytes, &mut || {
        other.copy_from(&stream, 0, &one, 0..bytes)
    })?;
    Ok(Rates {
        to_card,
        from_card,
        within,
    })
}

/// What `make` makes with `most`, or half as much, and so on.
fn halved<D: Driver, T>(
    driver: &Arc<D>,
    most: usize,
    make: impl Fn(usize) -> Result<T, DriverError>,
) -> Result<T, DriverError> {
    let mut bytes = most;
    loop {
        match make(bytes) {
            Err(error) if error.is_out_of_memory() && bytes > LEAST => {
                driver.clear_error()?;
                bytes /= 2;
            }
            made => return made,
        }
    }
}

/// Bytes a second of what `queue` queues, each time `bytes` of them.
///
/// # Errors
/// If the card fails.
pub fn rate<D: Driver>(
    stream: &Stream<D>,
    bytes: usize,
    queue: &mut dyn FnMut() -> Result<(), DriverError>,
) -> Result<f64, DriverError> {
    let once = time(stream, COPYING, MOST_COPIES, queue)?;
    Ok(bytes as f64 / once.as_secs_f64())
}

/// How long the card takes for what `queue` queues. It is done once to warm up, and then in
/// growing numbers until that takes as long as `least`, or is done `most` times.
///
/// # Errors
/// If the card fails.
pub fn time<D: Driver>(
    stream: &Stream<D>,
    least: Duration,
    most: u32,
    queue: &mut dyn FnMut() -> Result<(), DriverError>,
) -> Result<Duration, DriverError> {
    let usage = EventUse {
        timing: true,
        sleeps: false,
    };
    let driver = stream.driver();
    let (start, end) = (Event::new(driver, usage)?, Event::new(driver, usage)?);
    queue()?;
    stream.synchronize()?;
    let mut count = 1;
    loop {
        start.record(stream)?;
        for _ in 0..count {
            queue()?;
        }
        end.record(stream)?;
        end.synchronize()?;
        // Events count in steps of half a microsecond.
        let took = f64::from(end.since(&start)?.max(0.0005)) / 1e3;
        if took >= least.as_secs_f64() || count >= most {
            return Ok(Duration::from_secs_f64(took / f64::from(count)));
        }
        count = (2 * count).min(most);
    }
}

/// How long the least work takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latencies {
    /// From launch to launch, of many that are queued one after the other.
    pub launch: Duration,
    /// A launch and a wait for its end, by an event.
    pub wait: Duration,
    /// A launch, until the host sees what it wrote into pinned memory.
    pub flag: Duration,
    /// The launch of a graph of ten kernels, by kernel.
    pub graph: Duration,
}

/// Measures latencies: the middle of many, for waits and flags.
///
/// # Errors
/// If the card fails.
pub fn latencies<D: Driver>(kernels: &Kernels<D>) -> Result<Latencies, DriverError> {
    let driver = kernels.driver();
    let stream = Stream::new(driver)?;
    let (one, two) = (DeviceBuffer::new(driver, 4)?, DeviceBuffer::new(driver, 4)?);
    one.write(&stream, 0, &1f32.to_le_bytes())?;
    two.write(&stream, 0, &1f32.to_le_bytes())?;
    let mapped = PinnedBuffer::new(driver, 4)?;
    let add = |y: u64| {
        let args = Add {
            y,
            x: one.start().0,
            count: 1,
        };
        // SAFETY: `y` is the word of `two` or of the flag, and all are there until the stream
        // has been waited for.
        unsafe { kernels.rows.add.launch(&stream, Extent::row(1, 32), &args) }
    };
    add(two.start().0)?;
    stream.synchronize()?;

    let started = Instant::now();
    for _ in 0..LAUNCHES {
        add(two.start().0)?;
    }
    stream.synchronize()?;
    let launch = started.elapsed() / LAUNCHES;

    let usage = EventUse {
        timing: false,
        sleeps: false,
    };
    let event = Event::new(driver, usage)?;
    let wait = middle(|| {
        add(two.start().0)?;
        event.record(&stream)?;
        event.synchronize()
    })?;

    let word = &mapped.words()[0];
    let flag = middle(|| {
        let before = word.load(Ordering::Acquire);
        add(mapped.device().0)?;
        let queued = Instant::now();
        while word.load(Ordering::Acquire) == before {
            driver.pause()?;
            if queued.elapsed() > MOST_WAIT {
                // What the card says of it, if it says something.
                return stream.synchronize();
            }
        }
        Ok(())
    })?;
    stream.synchronize()?;

    let graph = stream.capture(|| (0..10).try_for_each(|_| add(two.start().0)))?;
    let started = Instant::now();
    for _ in 0..LAUNCHES / 10 {
        // SAFETY: `one` and `two` are there until the stream has been waited for.
        unsafe { graph.launch(&stream)? };
    }
    stream.synchronize()?;
    let graph = started.elapsed() / (LAUNCHES / 10 * 10);
    Ok(Latencies {
        launch,
        wait,
        flag,
        graph,
    })
}

/// The middle of how long many take.
fn middle(mut one: impl FnMut() -> Result<(), DriverError>) -> Result<Duration, DriverError> {
    let mut all = Vec::new();
    for _ in 0..LAUNCHES {
        let started = Instant::now();
        one()?;
        all.push(started.elapsed());
    }
    all.sort_unstable();
    Ok(all[all.len() / 2])
}
