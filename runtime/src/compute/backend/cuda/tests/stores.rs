//! Caches: rows and compressors, as they grow, forget and are taken back.

use super::{Case, Found, check, get, noise, put};
use crate::compute::backend::cpu::Precision;
use crate::compute::backend::{Backend, PoolSpec};
use crate::compute::cache_rows::RowFormat;

struct Stores(RowFormat);

impl Stores {
    /// All rows that are held, and their numbers.
    fn note<B: Backend>(b: &B, rows: &B::Rows, found: &mut Found) {
        let (first, len) = (b.first_row(rows), b.rows_len(rows));
        let mut out = Vec::new();
        b.export_rows(rows, first..len, &mut out);
        found.push((format!("rows {first}..{len}"), out));
    }
}

impl Case for Stores {
    fn run<B: Backend>(&self, b: &B) -> Found {
        let mut found = Vec::new();
        let width = 128;
        let push = |rows: &mut B::Rows, n: usize, seed: u32| {
            b.push_rows(rows, &put(b, &noise(n * width, seed), width));
        };
        let mut rows = b.rows(self.0, width);
        push(&mut rows, 3, 1);
        Self::note(b, &rows, &mut found);
        push(&mut rows, 300, 2);
        Self::note(b, &rows, &mut found);
        b.keep_last_rows(&mut rows, 100);
        Self::note(b, &rows, &mut found);
        let copy = rows.clone();
        b.truncate_rows(&mut rows, 260);
        push(&mut rows, 7, 3);
        Self::note(b, &rows, &mut found);
        Self::note(b, &copy, &mut found);
        let mut bytes = Vec::new();
        b.export_rows(&copy, 210..303, &mut bytes);
        // Not the next one, so others go; then the next ones.
        assert!(b.import_rows(&mut rows, 1000, &bytes));
        let three = &bytes[..3 * b.row_bytes(&copy)];
        assert!(b.import_rows(&mut rows, 1093, three));
        assert!(!b.import_rows(&mut rows, 1096, &bytes[1..]));
        push(&mut rows, 70, 4);
        // The first page begins before the first row.
        let mut out = Vec::new();
        b.export_rows(&rows, 1000..1166, &mut out);
        found.push(("after an import".to_owned(), out));
        b.restart_rows(&mut rows, 5);
        push(&mut rows, 1, 5);
        let mut out = Vec::new();
        b.export_rows(&rows, 5..6, &mut out);
        found.push((format!("of {}", b.rows_len(&rows)), out));
        found
    }
}

#[test]
fn rows() {
    for format in [
        RowFormat::F32,
        RowFormat::Fp8Tail { tail: 64 },
        RowFormat::Fp8,
        RowFormat::Fp4,
        RowFormat::Fp4E4m3,
    ] {
        check(Precision::Fast, &Stores(format));
    }
}

struct Compressors(PoolSpec);

impl Case for Compressors {
    fn run<B: Backend>(&self, b: &B) -> Found {
        let mut found = Vec::new();
        let PoolSpec { ratio, overlap, .. } = self.0;
        let channels = self.0.width * if overlap { 2 } else { 1 };
        let ape = b.vector(noise(ratio * channels, 9));
        let mut pending = b.pending(self.0);
        let mut out = B::Buf::default();
        let mut seed = 0;
        let mut pool = |pending: &mut B::Pending, n: usize, found: &mut Found| {
            seed += 2;
            let kv = put(b, &noise(n * channels, seed), channels);
            let gate = put(b, &noise(n * channels, seed + 1), channels);
            let ape = seed.is_multiple_of(4).then_some(&ape);
            b.pool(pending, &kv, &gate, ape, &mut out);
            found.push(get(b, "entries", &out));
        };
        let note = |pending: &B::Pending, len: usize, found: &mut Found| {
            let mut out = Vec::new();
            b.export_pending(pending, len, &mut out);
            found.push((format!("state after {}", b.pending_seen(pending)), out));
        };
        for n in [1, 2, 30, 5] {
            pool(&mut pending, n, &mut found);
            note(&pending, usize::MAX, &mut found);
            b.settle_pending(&mut pending, usize::MAX);
        }
        // Tokens that are taken back, some of them or all.
        for (n, kept) in [(6, 3), (9, 0), (1, 1)] {
            let len = b.pending_seen(&pending) + kept;
            let copy = pending.clone();
            pool(&mut pending, n, &mut found);
            pool(&mut pending, 4, &mut found);
            note(&pending, len, &mut found);
            b.settle_pending(&mut pending, len);
            note(&pending, usize::MAX, &mut found);
            note(&copy, usize::MAX, &mut found);
        }
        let mut state = Vec::new();
        b.export_pending(&pending, usize::MAX, &mut state);
        let mut other = b.pending(self.0);
        assert!(!b.import_pending(&mut other, &state[1..]));
        assert!(b.import_pending(&mut other, &state));
        pool(&mut other, 13, &mut found);
        let mut value = 0.0;
        b.fill_pending(&mut other, 27, &mut || {
            value += 0.25;
            value
        });
        pool(&mut other, 13, &mut found);
        note(&other, usize::MAX, &mut found);
        found
    }
}

#[test]
fn compressors() {
    for (ratio, overlap) in [(2, false), (4, true), (8, false)] {
        let width = 32;
        check(
            Precision::Fast,
            &Compressors(PoolSpec {
                ratio,
                width,
                overlap,
            }),
        );
    }
}
