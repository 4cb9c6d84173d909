//! Mutated files: whatever the bytes, the reader neither panics nor allocates more than the
//! size of the file, and what it accepts is safe to use.
#![allow(unsafe_code)] // The allocator below.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::{Built, RawGguf, array, text};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng, SeedableRng};
use v4_files::gguf::{GgufError, GgufFile, Header, encode_header, parse_header};

/// The system's allocator, counting what this thread asks of it.
struct Counting;

thread_local! {
    /// Bytes allocated and not yet freed, their highest sum, the largest request.
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

fn count(freed: usize, asked: usize) {
    // Sizes are below isize::MAX by Layout's own rule.
    LIVE.set(LIVE.get() + asked as isize - freed as isize);
    PEAK.set(PEAK.get().max(LIVE.get()));
    LARGEST.set(LARGEST.get().max(asked));
}

// SAFETY: every call goes to the system's allocator unchanged; counting uses
// thread-locals without destructors, so it does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(0, layout.size());
        // SAFETY: as the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(0, layout.size());
        // SAFETY: as the caller's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count(layout.size(), 0);
        // SAFETY: as the caller's.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(layout.size(), new_size);
        // SAFETY: as the caller's.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What a short file may take all the same.
const FREE: usize = 64 << 10;

/// Parses, and checks what the parser allocated meanwhile.
fn parse(bytes: &[u8]) -> Result<Header, GgufError> {
    let before = LIVE.get();
    PEAK.set(before);
    LARGEST.set(0);
    let result = parse_header(bytes, bytes.len() as u64);
    let peak = (PEAK.get() - before) as usize;
    let largest = LARGEST.get();
    assert!(
        largest <= bytes.len().max(FREE),
        "one allocation of {largest} for a file of {}",
        bytes.len()
    );
    assert!(
        peak <= 3 * bytes.len() + FREE,
        "{peak} bytes for a file of {}",
        bytes.len()
    );
    result
}

/// What a caller does with a parsed header: reads all of it.
fn use_header(bytes: &[u8], header: &Header) {
    let mut spans = Vec::new();
    for t in &header.tensors {
        let start = header.data_offset + t.offset;
        assert!(start.is_multiple_of(header.alignment));
        let data = &bytes[start as usize..][..t.bytes as usize];
        assert_eq!(data.len() as u64, t.rows() * t.row_bytes());
        assert_eq!(
            t.bytes,
            t.values() / t.ty.block_values() as u64 * t.ty.block_bytes() as u64
        );
        spans.push((start, start + t.bytes));
    }
    spans.sort_unstable();
    assert!(spans.windows(2).all(|s| s[0].1 <= s[1].0));
    for (key, value) in header.metadata.iter() {
        assert!(!value.to_string().contains('\n'));
        let json = value.to_json(None).to_string();
        assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok());
        let m = &header.metadata;
        let _ = (
            m.get_u32(key),
            m.get_i32s(key),
            m.get_f32(key),
            m.get_f32s(key),
        );
        let _ = (
            m.get_str(key),
            m.get_strs(key),
            m.get_bool(key),
            m.get_u64s(key),
        );
    }
    // What was read can be written and reads the same, but for a tensor's name
    // of 64 bytes, which GGUF allows and llama.cpp does not.
    match encode_header(&header.metadata, &header.tensors, header.alignment) {
        Ok(again) => {
            let parsed = parse_header(&again, bytes.len().max(again.len()) as u64 * 2).unwrap();
            assert_eq!(parsed.tensors, header.tensors);
            // By text, as NaN is not equal to itself.
            assert_eq!(
                format!("{:?}", parsed.metadata),
                format!("{:?}", header.metadata)
            );
        }
        Err(GgufError::NameLength { len: 64, .. }) => {}
        Err(error) => panic!("{error}"),
    }
}

const EXTREMES: [u64; 16] = [
    0,
    1,
    2,
    7,
    31,
    255,
    1 << 16,
    1 << 31,
    u32::MAX as u64,
    1 << 32,
    1 << 60,
    1 << 61,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 7,
    u64::MAX,
];

fn put(bytes: &mut [u8], at: usize, new: &[u8]) {
    let end = bytes.len().min(at + new.len());
    if at < end {
        bytes[at..end].copy_from_slice(&new[..end - at]);
    }
}

fn mutate(rng: &mut SmallRng, built: &Built) -> Vec<u8> {
    let mut bytes = built.bytes.clone();
    for _ in 0..rng.random_range(1..=3) {
        // Mostly in the header: the data are not looked at.
        let reach = built.header_end.min(bytes.len()).max(1);
        let at = rng.random_range(0..reach);
        match rng.random_range(0..9) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => {
                for _ in 0..rng.random_range(1..16) {
                    let at = rng.random_range(0..reach);
                    put(&mut bytes, at, &[rng.random()]);
                }
            }
            2 => bytes.truncate(rng.random_range(0..=bytes.len())),
            3 => {
                // One part of the file over another.
                let len = rng
                    .random_range(1..64)
                    .min(bytes.len() - at.min(bytes.len()));
                let from = rng.random_range(0..=bytes.len() - len);
                let part = bytes[from..from + len].to_vec();
                put(&mut bytes, at, &part);
            }
            4 => {
                // One part of the file put in a second time, or taken out.
                let len = rng.random_range(1..64);
                let end = (at + len).min(bytes.len());
                let part = bytes[at.min(end)..end].to_vec();
                let to = rng.random_range(0..=reach.min(bytes.len()));
                if rng.random() {
                    bytes.splice(to..to, part);
                } else {
                    bytes.drain(at.min(end)..end);
                }
            }
            5 | 6 => {
                // A count, length, dimension or offset.
                let at = *built.u64_fields.choose(rng).unwrap();
                let old = built.bytes[at..at + 8].try_into().unwrap();
                let old = u64::from_le_bytes(old);
                let new = match rng.random_range(0..4) {
                    0 => old.wrapping_add(rng.random_range(0..64)),
                    1 => old.wrapping_sub(rng.random_range(0..64)),
                    2 => old ^ (1 << rng.random_range(0..64)),
                    _ => *EXTREMES.choose(rng).unwrap(),
                };
                put(&mut bytes, at, &new.to_le_bytes());
            }
            7 => {
                // A type or a number of dimensions.
                let at = *built.u32_fields.choose(rng).unwrap();
                let new: u32 = match rng.random_range(0..3) {
                    0 => rng.random(),
                    _ => rng.random_range(0..48),
                };
                put(&mut bytes, at, &new.to_le_bytes());
            }
            _ => put(&mut bytes, at, &EXTREMES.choose(rng).unwrap().to_le_bytes()),
        }
    }
    bytes
}

#[test]
fn ten_thousand_mutations() {
    let built = RawGguf::sample().build();
    use_header(&built.bytes, &parse(&built.bytes).unwrap());
    let mut rng = SmallRng::seed_from_u64(0x6667_7567);
    let (mut accepted, mut kinds) = (0, std::collections::BTreeMap::new());
    for _ in 0..10_000 {
        let bytes = mutate(&mut rng, &built);
        match parse(&bytes) {
            Ok(header) => {
                accepted += 1;
                use_header(&bytes, &header);
            }
            Err(error) => {
                let message = error.to_string();
                assert!(message.len() < 1500, "{message}");
                assert!(!message.chars().any(char::is_control), "{message:?}");
                let kind = format!("{error:?}");
                let kind = kind.split([' ', '(']).next().unwrap_or_default().to_owned();
                *kinds.entry(kind).or_insert(0) += 1;
            }
        }
    }
    println!("{accepted} accepted, refused as {kinds:?}");
    // The mutations are worth their name: they reach every check, and some pass.
    assert!((100..9_000).contains(&accepted), "{accepted}");
    assert!(kinds.len() >= 15, "{kinds:?}");
}

#[test]
fn mutated_files_on_disk() {
    let built = RawGguf::sample().build();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mutated.gguf");
    let mut rng = SmallRng::seed_from_u64(1);
    for _ in 0..500 {
        let bytes = mutate(&mut rng, &built);
        std::fs::write(&path, &bytes).unwrap();
        match GgufFile::open(&path) {
            Ok(file) => {
                for t in file.tensors() {
                    assert_eq!(file.tensor(&t.name), Some(t));
                    let at = file.position(t) as usize;
                    assert_eq!(file.data(t), &bytes[at..at + t.bytes as usize]);
                }
            }
            Err(error) => {
                let message = error.to_string();
                assert!(message.contains("mutated.gguf: "), "{message}");
            }
        }
    }
}

#[test]
fn random_bytes_after_a_good_start() {
    let mut rng = SmallRng::seed_from_u64(2);
    for _ in 0..2_000 {
        let mut bytes = vec![0; rng.random_range(24..4096)];
        rng.fill(&mut bytes[..]);
        put(&mut bytes, 0, b"GGUF\x03\0\0\0");
        put(&mut bytes, 8, &rng.random_range(0..100u64).to_le_bytes());
        put(&mut bytes, 16, &rng.random_range(0..100u64).to_le_bytes());
        let _ = parse(&bytes);
    }
}

/// A file of about 4 MiB that is all one array of `value`, followed by nothing.
fn filled(ty: u32, item: &[u8]) -> Vec<u8> {
    let count = (4usize << 20) / item.len();
    let mut raw = RawGguf::sample();
    raw.tensors.clear();
    raw.data_len = 0;
    raw.entries.clear();
    raw.entry("filled", 9, &array(ty, count as u64, &item.repeat(count)));
    raw.build().bytes
}

#[test]
fn a_large_file_of_the_smallest_items_takes_no_more_memory_than_it_is_long() {
    for (ty, item) in [
        (0, vec![1]),
        (7, vec![1]),
        (4, vec![1; 4]),
        (12, vec![1; 8]),
        // Empty strings and strings of one character: the worst for a list of
        // separate strings.
        (8, text(b"")),
        (8, text(b"a")),
    ] {
        let bytes = filled(ty, &item);
        let header = parse(&bytes).unwrap();
        assert_eq!(header.metadata.len(), 1);
    }
}

#[test]
fn large_tables_of_the_smallest_entries_take_no_more_memory_than_the_file_is_long() {
    let n = 100_000u64;
    let mut raw = RawGguf::sample();
    raw.tensors.clear();
    raw.data_len = 0;
    raw.entries.clear();
    for i in 0..n {
        raw.entry(&format!("{i:x}"), 0, &[0]);
    }
    // Refused: no model has that many keys of so few bytes.
    assert!(matches!(
        parse(&raw.build().bytes),
        Err(GgufError::Count { .. })
    ));

    raw.entries.clear();
    raw.padding = 32;
    for i in 0..n {
        raw.tensors.push(common::RawTensor {
            name: format!("{i:05}.weight").into(),
            dim_count: None,
            dims: vec![1],
            ty: 24,
            offset: i * 32,
        });
    }
    raw.data_len = n as usize * 32;
    let header = parse(&raw.build().bytes).unwrap();
    assert_eq!(header.tensors.len() as u64, n);
    // Without the data that the tensors claim, the table would be the larger.
    let header_only = &raw.build().bytes[..raw.build().header_end];
    assert!(matches!(parse(header_only), Err(GgufError::Count { .. })));
}
