//! Engram rows with every read method, from failing disks, and for many callers at once.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use v4_files::io::{ReadHook, ReadMode};
use v4_quant::GgmlType;
use v4_runtime::EngineError;
use v4_runtime::residency::engram::{EngramOptions, EngramPlacement, EngramStore};

#[path = "common/tables.rs"]
mod tables;
use tables::{Tables, WIDTH, text, values};

/// Whether the kernel lets this process have a ring.
fn ring_allowed(t: &Tables) -> bool {
    let options = EngramOptions {
        reads: ReadMode::Uring,
        ..EngramOptions::default()
    };
    let allowed = try_open(t, &options).is_ok();
    if !allowed {
        v4_fixtures::skip("io_uring");
    }
    allowed
}

fn try_open(t: &Tables, options: &EngramOptions) -> Result<Arc<EngramStore>, EngineError> {
    EngramStore::open(
        &t.open(),
        t.addressing.clone(),
        WIDTH,
        t.encoding(),
        options,
    )
}

fn open(t: &Tables, options: &EngramOptions) -> Arc<EngramStore> {
    try_open(t, options).unwrap()
}

/// Every way to read that there is here.
fn every_way(t: &Tables) -> Vec<EngramOptions> {
    let mut all = Vec::new();
    for reads in [ReadMode::Uring, ReadMode::Threads] {
        if reads == ReadMode::Uring && !ring_allowed(t) {
            continue;
        }
        for direct in [true, false] {
            for (cache_bytes, in_flight) in [(0, 1), (0, 128), (100_000, 16)] {
                all.push(EngramOptions {
                    reads,
                    direct,
                    cache_bytes,
                    in_flight,
                    ..EngramOptions::default()
                });
            }
        }
    }
    all
}

#[test]
fn every_way_to_read_gives_the_same_bits() {
    let t = Tables::new(GgmlType::I8, 3_000);
    let ids = text(700, 3);
    let whole = t.expected_values(&[], &ids);
    let memory = EngramOptions {
        placement: EngramPlacement::Memory,
        ..EngramOptions::default()
    };
    let ways = every_way(&t);
    assert!(ways.len() >= 6);
    for options in ways.iter().chain([&memory]) {
        let store = open(&t, options);
        assert!(values(&store, &[], &ids).unwrap() == whole, "{options:?}");
        // Warm, a token at a time.
        for at in 650..660 {
            let got = values(&store, &ids[..at], &ids[at..=at]).unwrap();
            assert!(
                got == t.expected_values(&ids[..at], &ids[at..=at]),
                "{options:?}"
            );
        }
        let stats = store.stats();
        assert_eq!((stats.tokens, stats.retries), (710, 0));
        assert_eq!(stats.rows, 710 * 12);
        match store.reads() {
            None => assert_eq!((stats.reads, stats.bytes_read), (0, 0)),
            Some((mode, _)) => {
                assert_eq!(mode, options.reads);
                assert!(stats.distinct < stats.rows && stats.reads < stats.distinct);
                assert!(stats.mean_in_flight() <= options.in_flight as f64);
                assert_eq!(stats.hits > 0, options.cache_bytes > 0);
            }
        }
    }
}

#[test]
fn decoding_in_parallel_changes_nothing() {
    let t = Tables::new(GgmlType::Q8_0, 2_000);
    let ids = text(500, 4);
    let store = open(&t, &EngramOptions::default());
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(2)
        .build()
        .unwrap();
    let got = pool.install(|| values(&store, &[], &ids)).unwrap();
    assert!(got == t.expected_values(&[], &ids));
    // The first bad row is named, whichever thread meets it.
    let rows = t.addressing.rows(&[], &ids).unwrap();
    for at in [rows[0][700], rows[0][2500]] {
        t.damage(0, at, 35, 0xff);
        t.damage(0, at, 34, 0xff);
    }
    let store = open(&t, &EngramOptions::default());
    let first = rows[0]
        .iter()
        .find(|&&row| row == rows[0][700] || row == rows[0][2500])
        .unwrap();
    for _ in 0..5 {
        let error = pool.install(|| values(&store, &[], &ids)).unwrap_err();
        assert!(matches!(error, EngineError::EngramRow { row, .. } if row == *first));
    }
}

/// What becomes of an answer to a read at an offset, of some length.
type Change = dyn Fn(u64, usize, io::Result<usize>) -> io::Result<usize> + Send + Sync;

/// A disk with faults.
struct Faults(Box<Change>);

impl std::fmt::Debug for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Faults")
    }
}

impl ReadHook for Faults {
    fn answer(&self, offset: u64, len: usize, answer: io::Result<usize>) -> io::Result<usize> {
        (self.0)(offset, len, answer)
    }
}

fn faulty(
    options: &EngramOptions,
    change: impl Fn(u64, usize, io::Result<usize>) -> io::Result<usize> + Send + Sync + 'static,
) -> EngramOptions {
    EngramOptions {
        hook: Some(Arc::new(Faults(Box::new(change)))),
        ..options.clone()
    }
}

fn eio() -> io::Result<usize> {
    Err(io::Error::from_raw_os_error(5))
}

#[test]
fn short_interrupted_and_passing_errors_are_made_good() {
    let t = Tables::new(GgmlType::I8, 1_000);
    let ids = text(300, 5);
    let whole = t.expected_values(&[], &ids);
    for options in every_way(&t) {
        // By offset, so that no read meets more than it may be retried for.
        let tries = Mutex::new(HashMap::new());
        let options = faulty(&options, move |offset, _, answer| {
            let mut tries = tries.lock().unwrap();
            let tried = tries.entry(offset).or_insert(0);
            *tried += 1;
            match (offset / 8 + *tried) % 6 {
                1 => answer.map(|n| n / 2),
                2 => answer.map(|n| n.min(1)),
                3 => Ok(0),
                4 => eio(),
                5 => Err(io::Error::from_raw_os_error(4)),
                _ => answer,
            }
        });
        let store = open(&t, &options);
        assert!(values(&store, &[], &ids).unwrap() == whole, "{options:?}");
        assert!(store.stats().retries > 0);
    }
}

#[test]
fn a_bad_sector_is_named_by_the_row_it_holds() {
    let t = Tables::new(GgmlType::I8, 1_000);
    let ids = text(300, 6);
    let rows = t.addressing.rows(&[], &ids).unwrap();
    let bad = rows[1][1234];
    let start = t.positions[1] + bad * 264;
    for options in every_way(&t) {
        // The sector in the middle of the row.
        let sector = (start + 132) / 512 * 512;
        let options = faulty(&options, move |offset, len, answer| {
            let hit = offset < sector + 512 && sector < offset + len as u64;
            if hit { eio() } else { answer }
        });
        let error = values(&open(&t, &options), &[], &ids).unwrap_err();
        let EngineError::EngramRow {
            tensor,
            row,
            reason,
            ..
        } = &error
        else {
            panic!("{error}");
        };
        assert_eq!(tensor, "blk.4.engram_embd.weight");
        // The row itself, or the first that shares its sector and is asked for.
        let named = t.positions[1] + row * 264;
        assert!(rows[1].contains(row));
        let unit = if options.direct {
            4096 + 264
        } else {
            512 + 264
        };
        assert!(named.abs_diff(start) < unit, "row {row} for {bad}");
        assert!(reason.contains("os error 5"), "{reason}");
        assert!(!error.to_string().contains('\n'));
        // The other table is not touched by it.
        let store = open(&t, &options);
        let mut fetch = store.fetch(&[], &ids).unwrap();
        let mut out = vec![0.0; rows[0].len() * WIDTH];
        fetch.take(0, &mut out).unwrap();
        assert!(out == t.expected(0, &rows[0]));
    }
}

#[test]
fn a_disk_that_fails_altogether_ends_soon() {
    let t = Tables::new(GgmlType::I8, 3_000);
    let ids = text(2_000, 7);
    for options in every_way(&t) {
        let failed = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&failed);
        let options = faulty(&options, move |_, _, _| {
            count.fetch_add(1, Ordering::Relaxed);
            eio()
        });
        let error = values(&open(&t, &options), &[], &ids).unwrap_err();
        assert!(matches!(error, EngineError::EngramRow { .. }));
        // A few reads of each table, those in flight, and the row by itself.
        let most = 4 * (2 * (4 + options.in_flight as u64) + 1);
        assert!(failed.load(Ordering::Relaxed) <= most, "{options:?}");
    }
}

/// An error is not a verdict for ever: a fetch may be taken again.
#[test]
fn a_disk_that_comes_back_is_read_again() {
    let t = Tables::new(GgmlType::I8, 500);
    let ids = text(100, 8);
    for options in every_way(&t) {
        let broken = Arc::new(Mutex::new(true));
        let state = Arc::clone(&broken);
        let options = faulty(&options, move |_, _, answer| {
            if *state.lock().unwrap() {
                eio()
            } else {
                answer
            }
        });
        let store = open(&t, &options);
        let mut fetch = store.fetch(&[], &ids).unwrap();
        let mut out = vec![0.0; ids.len() * 6 * WIDTH];
        assert!(fetch.take(0, &mut out).is_err());
        *broken.lock().unwrap() = false;
        fetch.take(0, &mut out).unwrap();
        assert!(out == t.expected(0, fetch.rows(0)));
        fetch.take(0, &mut out).unwrap();
        assert!(out == t.expected(0, fetch.rows(0)));
    }
}

#[test]
fn a_file_cut_short_after_opening_is_an_error_not_zeros() {
    for options in every_way(&Tables::new(GgmlType::I8, 100)) {
        let t = Tables::new(GgmlType::I8, 1_000);
        let store = open(&t, &options);
        let ids = text(50, 9);
        let rows = t.addressing.rows(&[], &ids).unwrap();
        let middle = t.positions[1] + t.addressing.layers()[1].rows() / 2 * 264;
        let file = std::fs::File::options().write(true).open(&t.path).unwrap();
        file.set_len(middle + 100).unwrap();
        let error = values(&store, &[], &ids).unwrap_err();
        let EngineError::EngramRow { row, reason, .. } = &error else {
            panic!("{error}");
        };
        assert!(rows[1].contains(row) && t.positions[1] + (row + 1) * 264 > middle + 100);
        assert!(reason.contains("ends at byte"), "{reason}");
    }
}

#[test]
fn tables_read_into_memory_fail_by_row_too() {
    let t = Tables::new(GgmlType::I8, 1_000);
    let bad = t.positions[1] + 77 * 264;
    let memory = EngramOptions {
        placement: EngramPlacement::Memory,
        ..EngramOptions::default()
    };
    let options = faulty(&memory, move |offset, len, answer| {
        let hit = offset < bad + 264 && bad < offset + len as u64;
        if hit { eio() } else { answer }
    });
    let error = try_open(&t, &options).unwrap_err();
    let EngineError::EngramRow { tensor, row, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(tensor, "blk.4.engram_embd.weight");
    assert!((77u64.abs_diff(row)) <= 16, "{row}");
}

#[test]
fn many_sessions_at_once_get_their_own_rows() {
    let t = Tables::new(GgmlType::I8, 3_000);
    for options in every_way(&t) {
        let store = open(&t, &options);
        std::thread::scope(|scope| {
            for session in 0..6 {
                let (store, t) = (&store, &t);
                scope.spawn(move || {
                    let ids = text(400, 20 + session);
                    for (i, chunk) in ids.chunks(97).enumerate() {
                        let before = &ids[..i * 97];
                        let got = values(store, before, chunk).unwrap();
                        assert!(got == t.expected_values(before, chunk));
                    }
                });
            }
        });
    }
}

#[test]
fn fetches_dropped_early_keep_nobody_waiting() {
    let t = Tables::new(GgmlType::I8, 3_000);
    for options in every_way(&t) {
        let options = faulty(&options, |_, _, answer| {
            std::thread::sleep(Duration::from_micros(200));
            answer
        });
        let store = open(&t, &options);
        for seed in 0..20 {
            drop(store.fetch(&[], &text(3_000, seed)).unwrap());
        }
        let started = Instant::now();
        let ids = text(3, 99);
        assert!(values(&store, &[], &ids).unwrap() == t.expected_values(&[], &ids));
        assert!(started.elapsed() < Duration::from_secs(2), "{options:?}");
        // With reads still in flight.
        let fetch = store.fetch(&[], &text(3_000, 98)).unwrap();
        drop(store);
        drop(fetch);
    }
}

/// A short fetch does not wait until a long one before it has ended.
#[test]
fn a_short_fetch_overtakes_a_long_one() {
    let t = Tables::new(GgmlType::I8, 20_000);
    let options = EngramOptions {
        cache_bytes: 0,
        in_flight: 4,
        ..EngramOptions::default()
    };
    let options = faulty(&options, |_, _, answer| {
        std::thread::sleep(Duration::from_micros(100));
        answer
    });
    let store = open(&t, &options);
    let long = store.fetch(&[], &text(4_000, 1)).unwrap();
    let ids = text(1, 2);
    assert!(values(&store, &[], &ids).unwrap() == t.expected_values(&[], &ids));
    let reads_then = store.stats().reads;
    drop(long);
    assert!(
        reads_then < 200,
        "{reads_then} reads before a short fetch was done"
    );
}

#[test]
fn a_small_cache_is_used_and_hides_no_other_row() {
    let t = Tables::new(GgmlType::MXFP4, 2_000);
    let ids = text(1_500, 11);
    for cache_bytes in [0, 1_000, 20_000, 1 << 20] {
        let options = EngramOptions {
            cache_bytes,
            ..EngramOptions::default()
        };
        let store = open(&t, &options);
        assert!(store.cache_rows() * 136 <= cache_bytes);
        for (i, id) in ids.iter().enumerate() {
            let before = &ids[i.saturating_sub(3)..i];
            let got = values(&store, before, &[*id]).unwrap();
            assert!(
                got == t.expected_values(before, &[*id]),
                "{cache_bytes}, token {i}"
            );
        }
        let stats = store.stats();
        assert_eq!(stats.hits > 0, store.cache_rows() > 0);
        if cache_bytes == 1 << 20 {
            assert!(stats.hits * 5 > stats.distinct, "{stats:?}");
        }
    }
}

#[test]
fn statistics_between_two_moments() {
    let t = Tables::new(GgmlType::I8, 1_000);
    let store = open(&t, &EngramOptions::default());
    values(&store, &[], &text(10, 1)).unwrap();
    let then = store.stats();
    values(&store, &[], &text(7, 2)).unwrap();
    let since = store.stats().since(&then);
    assert_eq!((since.fetches, since.tokens, since.rows), (1, 7, 7 * 12));
    assert!(since.reads > 0 && since.pages >= since.reads);
    assert_eq!(store.stats().since(&store.stats()), Default::default());
}
