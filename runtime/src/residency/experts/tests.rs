//! Experts of a small file: the right bytes, whatever the order, the number of slots and
//! sessions, and the state of the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use v4_files::gguf::{GgufFile, Metadata, encode_header, layout_offsets};
use v4_files::io::{ReadHook, ReadMode};
use v4_quant::GgmlType;

use super::*;
use crate::error::EngineError;
use crate::model::Tensor;

const LAYERS: usize = 3;
const EXPERTS: usize = 8;
/// Rows and columns of gate and up; down is the other way round.
const SHAPE: [usize; 2] = [12, 40];

/// A file whose every value tells where it is.
fn file(alignment: u64) -> (tempfile::TempDir, Arc<GgufFile>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("experts.gguf");
    let mut tensors = Vec::new();
    for l in 0..LAYERS {
        for part in ["gate", "up", "down"] {
            let [rows, cols] = SHAPE.map(|n| n as u64);
            let dims = match part {
                "down" => vec![rows, cols, EXPERTS as u64],
                _ => vec![cols, rows, EXPERTS as u64],
            };
            tensors.push((
                format!("blk.{l}.ffn_{part}_exps.weight"),
                GgmlType::F32,
                dims,
            ));
        }
    }
    let infos = layout_offsets(tensors, alignment).unwrap();
    let mut bytes = encode_header(&Metadata::new(), &infos, alignment).unwrap();
    let start = bytes.len();
    for (t, info) in infos.iter().enumerate() {
        bytes.resize(start + info.offset as usize, 0);
        for i in 0..info.bytes / 4 {
            bytes.extend(((t * 1_000_000) as f32 + i as f32).to_le_bytes());
        }
    }
    std::fs::write(&path, bytes).unwrap();
    (dir, Arc::new(GgufFile::open(&path).unwrap()))
}

fn store(file: &Arc<GgufFile>, slots: usize, options: &ExpertOptions) -> Vec<StreamedLayer> {
    let tensors = (0..LAYERS).map(|l| {
        ["gate", "up", "down"]
            .map(|part| Tensor::find(file, &format!("blk.{l}.ffn_{part}_exps.weight")).unwrap())
    });
    let store = ExpertStore::open(file, tensors.collect(), slots, 2, options).unwrap();
    (0..LAYERS as u32)
        .map(|layer| StreamedLayer {
            store: Arc::clone(&store),
            layer,
        })
        .collect()
}

/// Checks that a layer gives each of `experts` once, with its own bytes.
fn run(layer: &StreamedLayer, experts: &[u32]) -> Result<(), EngineError> {
    let mut seen = BTreeSet::new();
    layer.each(
        experts,
        || {},
        |residents| {
            for resident in residents {
                assert!(seen.insert(resident.expert()), "each comes once");
                for (m, bytes) in resident.matrices().into_iter().enumerate() {
                    let values = SHAPE[0] * SHAPE[1];
                    assert_eq!(bytes.len(), 4 * values);
                    let at = resident.expert() as usize * values;
                    let first = ((layer.layer as usize * 3 + m) * 1_000_000) as f32 + at as f32;
                    let read = bytes.chunks_exact(4);
                    let read = read.map(|b| f32::from_le_bytes(b.try_into().unwrap()));
                    assert!(read.eq((0..values).map(|i| first + i as f32)));
                }
            }
        },
    )?;
    assert_eq!(seen, experts.iter().copied().collect());
    Ok(())
}

/// Answers of a disk that has been told how to fail.
#[derive(Debug, Default)]
struct Disk {
    /// Offsets from which reads fail with EIO, as long as it is not `u64::MAX`.
    broken_from: AtomicU64,
    /// No answer has more bytes.
    short: Option<usize>,
    slow: Option<Duration>,
}

impl ReadHook for Disk {
    fn answer(&self, offset: u64, _: usize, answer: io::Result<usize>) -> io::Result<usize> {
        if let Some(time) = self.slow {
            std::thread::sleep(time);
        }
        if offset >= self.broken_from.load(Relaxed) {
            return Err(io::Error::from_raw_os_error(5));
        }
        answer.map(|n| self.short.map_or(n, |most| n.min(most)))
    }
}

fn options(disk: Disk) -> (Arc<Disk>, ExpertOptions) {
    let disk = Arc::new(disk);
    let options = ExpertOptions {
        hook: Some(Arc::clone(&disk) as _),
        ..ExpertOptions::default()
    };
    (disk, options)
}

fn healthy() -> Disk {
    Disk {
        broken_from: AtomicU64::new(u64::MAX),
        ..Disk::default()
    }
}

const ALL: [u32; EXPERTS] = [0, 1, 2, 3, 4, 5, 6, 7];

#[test]
fn every_expert_has_its_bytes_however_it_is_read() {
    for alignment in [32, 4096] {
        let (_dir, file) = file(alignment);
        for reads in [ReadMode::Auto, ReadMode::Threads] {
            for direct in [false, true] {
                for slots in [1, 3, 100] {
                    let options = ExpertOptions {
                        reads,
                        direct,
                        ..ExpertOptions::default()
                    };
                    let layers = store(&file, slots, &options);
                    for _ in 0..2 {
                        for layer in &layers {
                            run(layer, &ALL).unwrap();
                            run(layer, &[6, 2]).unwrap();
                        }
                    }
                    let store = &layers[0].store;
                    assert!(store.held() <= slots);
                    let stats = store.stats();
                    assert_eq!(stats.asked, 60);
                    assert_eq!(stats.errors, 0);
                    assert_eq!(stats.hits + stats.loads, stats.asked);
                    if slots == 100 {
                        assert_eq!(stats.loads, 24, "read once, kept since");
                    }
                }
            }
        }
    }
}

#[test]
fn each_expert_is_read_at_most_once_per_layer_and_chunk() {
    let (_dir, file) = file(4096);
    let layers = store(&file, 4, &ExpertOptions::default());
    for (i, layer) in layers.iter().enumerate() {
        run(layer, &ALL).unwrap();
        assert_eq!(layer.store.stats().loads, 8 * (i as u64 + 1));
    }
}

#[test]
fn many_sessions_get_on_with_one_slot() {
    let (_dir, file) = file(4096);
    for slots in [1, 2, 5] {
        let layers = store(&file, slots, &ExpertOptions::default());
        std::thread::scope(|scope| {
            for session in 0..6u32 {
                let layers = &layers;
                scope.spawn(move || {
                    for round in 0..40 {
                        for layer in layers {
                            let some = ALL.iter().copied();
                            let some = some.filter(|e| (e * 7 + session + round) % 3 != 0);
                            layer.expect(&[round % 8]);
                            run(layer, &some.collect::<Vec<_>>()).unwrap();
                        }
                    }
                });
            }
        });
        assert!(layers[0].store.held() <= slots);
    }
}

#[test]
fn what_is_expected_is_there_before_its_turn() {
    let (_dir, file) = file(4096);
    let layers = store(&file, 12, &ExpertOptions::default());
    layers[1].expect(&[1, 4]);
    layers[1].expect(&[4, 5]);
    let store = &layers[0].store;
    while store.stats().loads < 3 {
        std::thread::sleep(Duration::from_millis(1));
    }
    run(&layers[0], &[0, 1, 2]).unwrap();
    run(&layers[1], &[1, 4, 5, 6]).unwrap();
    let stats = store.stats();
    assert_eq!((stats.ahead, stats.hits, stats.loads), (3, 3, 7));
}

#[test]
fn hints_beyond_the_room_do_no_harm() {
    let (_dir, file) = file(4096);
    for slots in [1, 2, 3, 7] {
        let layers = store(&file, slots, &ExpertOptions::default());
        for _ in 0..20 {
            for layer in &layers {
                layer.expect(&ALL);
            }
            for layer in &layers {
                run(layer, &ALL).unwrap();
            }
        }
    }
}

#[test]
fn room_can_be_taken_and_given() {
    let (_dir, file) = file(4096);
    let layers = store(&file, 20, &ExpertOptions::default());
    let store = &layers[0].store;
    for layer in &layers {
        run(layer, &ALL).unwrap();
    }
    assert_eq!(store.held(), 20);
    store.set_slots(3);
    assert_eq!((store.held(), store.slots()), (3, 3));
    std::thread::scope(|scope| {
        let changing = scope.spawn(|| {
            for i in 0..300 {
                store.set_slots(1 + i * 7 % 24);
                std::thread::yield_now();
            }
        });
        while !changing.is_finished() {
            for layer in &layers {
                run(layer, &ALL).unwrap();
            }
        }
    });
    store.set_slots(2);
    assert_eq!(store.held(), 2);
    store.set_slots(usize::MAX);
    for layer in &layers {
        run(layer, &ALL).unwrap();
    }
    assert_eq!(store.held(), 24, "no more than there are");
}

#[test]
fn a_broken_disk_is_an_error_that_names_the_expert_and_a_mended_one_goes_on() {
    let (_dir, file) = file(4096);
    for reads in [ReadMode::Auto, ReadMode::Threads] {
        let (disk, options) = options(healthy());
        let options = ExpertOptions { reads, ..options };
        let layers = store(&file, 5, &options);
        run(&layers[0], &[0, 1]).unwrap();
        // From layer 1 on, and for good.
        let from = file.position(file.tensor("blk.1.ffn_gate_exps.weight").unwrap());
        disk.broken_from.store(from, Relaxed);
        let error = run(&layers[1], &[3]).unwrap_err().to_string();
        for part in ["blk.1.ffn_{gate,up,down}_exps", "expert 3", "os error 5"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        // Others continue, and so does this layer once the disk recovers.
        run(&layers[0], &ALL).unwrap();
        assert!(run(&layers[2], &ALL).is_err());
        disk.broken_from.store(u64::MAX, Relaxed);
        for layer in &layers {
            run(layer, &ALL).unwrap();
        }
        let stats = layers[0].store.stats();
        assert!(stats.errors >= 2 && stats.retries >= 3, "{stats:?}");
        assert!(layers[0].store.held() <= 5);
    }
}

#[test]
fn two_errors_in_a_row_are_repeated_and_nobody_notices() {
    /// Fails the first two answers at each place.
    #[derive(Debug, Default)]
    struct Flaky(Mutex<BTreeMap<u64, u32>>);
    impl ReadHook for Flaky {
        fn answer(&self, offset: u64, _: usize, answer: io::Result<usize>) -> io::Result<usize> {
            let mut seen = self.0.lock().unwrap();
            let times = seen.entry(offset).or_default();
            *times += 1;
            if *times <= 2 {
                return Err(io::Error::from_raw_os_error(5));
            }
            answer
        }
    }
    let (_dir, file) = file(4096);
    let options = ExpertOptions {
        hook: Some(Arc::new(Flaky::default())),
        ..ExpertOptions::default()
    };
    let layers = store(&file, 5, &options);
    for layer in &layers {
        run(layer, &ALL).unwrap();
    }
    let stats = layers[0].store.stats();
    assert!(stats.retries > 10 && stats.errors == 0, "{stats:?}");
}

#[test]
fn short_answers_are_read_on() {
    let (_dir, file) = file(32);
    for reads in [ReadMode::Auto, ReadMode::Threads] {
        for direct in [false, true] {
            let (_, options) = options(Disk {
                short: Some(700),
                ..healthy()
            });
            let options = ExpertOptions {
                reads,
                direct,
                ..options
            };
            let layers = store(&file, 5, &options);
            for layer in &layers {
                run(layer, &ALL).unwrap();
            }
            assert!(layers[0].store.stats().retries > 0);
        }
    }
}

#[test]
fn a_slow_disk_is_waited_for_and_told() {
    let (_dir, file) = file(4096);
    let (_, options) = options(Disk {
        slow: Some(Duration::from_millis(5)),
        ..healthy()
    });
    let layers = store(&file, 5, &options);
    run(&layers[0], &ALL).unwrap();
    let stats = layers[0].store.stats();
    assert!(stats.waited >= Duration::from_millis(10), "{stats:?}");
    assert!(stats.reading >= stats.waited / 2, "{stats:?}");
}

#[test]
fn a_file_cut_short_is_an_error() {
    let (dir, file) = file(4096);
    let layers = store(&file, 5, &ExpertOptions::default());
    run(&layers[0], &ALL).unwrap();
    let position = file.position(file.tensor("blk.2.ffn_up_exps.weight").unwrap());
    let path = dir.path().join("experts.gguf");
    let on_disk = std::fs::File::options().write(true).open(path).unwrap();
    on_disk.set_len(position).unwrap();
    let error = run(&layers[2], &ALL).unwrap_err().to_string();
    assert!(error.contains("truncated"), "{error}");
    run(&layers[0], &ALL).unwrap();
}

#[test]
fn a_store_that_ends_lets_nobody_wait() {
    let (_dir, file) = file(4096);
    let (_, options) = options(Disk {
        slow: Some(Duration::from_millis(2)),
        ..healthy()
    });
    let layers = store(&file, 24, &options);
    layers[2].expect(&ALL);
    // Reads are under way.
    drop(layers);
}

#[test]
fn reads_that_an_error_left_behind_keep_no_slot_from_others() {
    /// One expert is read at once, and its first matrix fails; all others take their time.
    #[derive(Debug)]
    struct OneBad([u64; 3]);
    impl ReadHook for OneBad {
        fn answer(&self, offset: u64, _: usize, answer: io::Result<usize>) -> io::Result<usize> {
            if offset == self.0[0] {
                return Err(io::Error::from_raw_os_error(5));
            }
            if !self.0.contains(&offset) {
                std::thread::sleep(Duration::from_millis(100));
            }
            answer
        }
    }
    let (_dir, file) = file(4096);
    let bad = ["gate", "up", "down"].map(|part| {
        let name = format!("blk.0.ffn_{part}_exps.weight");
        file.position(file.tensor(&name).unwrap())
    });
    let options = ExpertOptions {
        reads: ReadMode::Threads,
        hook: Some(Arc::new(OneBad(bad))),
        ..ExpertOptions::default()
    };
    let layers = store(&file, 4, &options);
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let failed = run(&layers[0], &ALL).is_err();
        // The slot of the expert that failed is free: take it away, and all that are left
        // are still being read into.
        layers[0].store.set_slots(3);
        run(&layers[1], &ALL).unwrap();
        tell.send(failed).unwrap();
    });
    let failed = told.recv_timeout(Duration::from_secs(20));
    assert!(failed.expect("nobody waits for ever"));
}

/// Whoever announces a use twice does not make the expert worth more than others, and what
/// was announced in vain does not keep its slot for ever.
#[test]
fn uses_announced_twice_count_once_and_in_vain_not_for_long() {
    let (_dir, file) = file(32);
    let layers = store(&file, 4, &ExpertOptions::default());
    let settle = |asked: u64| {
        while layers[0].store.stats().loads < asked {
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    run(&layers[0], &[1, 2]).unwrap();
    run(&layers[0], &[2]).unwrap();
    for _ in 0..50 {
        layers[0].expect(&[1]);
    }
    run(&layers[0], &[1]).unwrap();
    run(&layers[0], &[2]).unwrap();
    for _ in 0..3 {
        run(&layers[0], &[3, 4]).unwrap();
    }
    // Used less often, and longer ago: 1 goes, and not 2.
    run(&layers[0], &[5]).unwrap();
    let hits = || layers[0].store.stats().hits;
    let before = hits();
    run(&layers[0], &[2]).unwrap();
    assert_eq!(hits(), before + 1, "2 is there");

    // Read ahead, and never asked for.
    let loads = layers[0].store.stats().loads;
    layers[1].expect(&[6, 7]);
    settle(loads + 2);
    for i in 0..100 {
        run(&layers[2], &[i % 4]).unwrap();
    }
    let before = hits();
    run(&layers[2], &ALL[..4]).unwrap();
    assert_eq!(hits(), before + 4, "all slots serve what is used");
}
