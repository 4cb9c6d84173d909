//! A sequence's caches in a session file: rows that grow, and a state of constant size.
//!
//! ```text
//! rows    per layer that compresses: new entries, then new index keys
//! state   rows passed u64, behind u64;
//!         per layer: window's first row u64, bytes u64, rows;
//!           where it compresses: bytes u64, compressor; the same of the index keys;
//!         backlog: tokens u64; if any: first u64, ids u32 each, columns u64, streams
//!           f32, columns u64, mixes f32
//! ```

use super::Cache;
use super::backlog::Backlog;
use super::cone::Cone;
use crate::compute::backend::Backend;
use crate::model::{Attention, Family, ModelConfig};

/// Most tokens of a backlog; more is damage.
const MOST_BACKLOG: usize = 1 << 20;

/// Reads numbers and bytes of a state, as far as there are any.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(bytes)
    }

    fn number(&mut self) -> Option<usize> {
        let bytes = self.bytes(8)?.first_chunk::<8>()?;
        usize::try_from(u64::from_le_bytes(*bytes)).ok()
    }

    fn sized(&mut self) -> Option<&'a [u8]> {
        let n = self.number()?;
        self.bytes(n)
    }

    /// `rows` rows of as many floats as the number before them says.
    fn floats(&mut self, rows: usize) -> Option<(Vec<f32>, usize)> {
        let cols = self.number()?;
        let bytes = self.bytes(rows.checked_mul(cols)?.checked_mul(4)?)?;
        let values = bytes.as_chunks::<4>().0.iter();
        Some((values.map(|b| f32::from_le_bytes(*b)).collect(), cols))
    }
}

fn put(out: &mut Vec<u8>, number: usize) {
    out.extend((number as u64).to_le_bytes());
}

/// Appends what `write` appends, after its length.
fn put_sized(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    put(out, 0);
    write(out);
    let len = (out.len() - at - 8) as u64;
    out[at..at + 8].copy_from_slice(&len.to_le_bytes());
}

fn put_floats(out: &mut Vec<u8>, values: &[f32], rows: usize) {
    put(out, values.len() / rows.max(1));
    out.extend(values.iter().flat_map(|v| v.to_le_bytes()));
}

impl<B: Backend> Cache<B> {
    /// The rows that tokens `from..to` gave.
    pub fn saved_rows(&self, b: &B, c: &ModelConfig, from: usize, to: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for (layer, config) in self.layers.iter().zip(&c.layers) {
            let ratio = config.attention.ratio().max(1);
            for branch in [&layer.main, &layer.index].into_iter().flatten() {
                b.export_rows(&branch.entries, from / ratio..to / ratio, &mut out);
            }
        }
        out
    }

    /// The state after the first `len` tokens: all, unless rows may be taken back.
    pub fn saved_state(&self, b: &B, c: &ModelConfig, len: usize) -> Vec<u8> {
        if let Some(state) = self.state_before(len) {
            return state.to_vec();
        }
        let mut out = Vec::new();
        out.extend(self.layer_rows_at(c, len).to_le_bytes());
        put(&mut out, usize::from(self.behind));
        for layer in &self.layers {
            let len = b.rows_len(&layer.window).min(len);
            let first = len.saturating_sub(c.window).max(b.first_row(&layer.window));
            put(&mut out, first);
            put_sized(&mut out, |out| {
                b.export_rows(&layer.window, first..len, out)
            });
            for branch in [&layer.main, &layer.index].into_iter().flatten() {
                put_sized(&mut out, |out| b.export_pending(&branch.pending, len, out));
            }
        }
        match &self.backlog {
            None => put(&mut out, 0),
            Some(backlog) => backlog.save(b, &mut out),
        }
        out
    }

    /// Drops the rows of all but the first `len` tokens. The state must be restored
    /// after that.
    pub fn truncate_rows(&mut self, b: &B, c: &ModelConfig, len: usize) {
        for (layer, config) in self.layers.iter_mut().zip(&c.layers) {
            let ratio = config.attention.ratio().max(1);
            for branch in [&mut layer.main, &mut layer.index].into_iter().flatten() {
                b.truncate_rows(&mut branch.entries, len / ratio);
            }
            // Restored whole.
            b.restart_rows(&mut layer.window, 0);
        }
        self.backlog = None;
    }

    /// Takes over the rows of `from..to` tokens. `None` if they cannot be that; the
    /// cache is then of no use.
    pub fn restore_rows(
        &mut self,
        b: &B,
        c: &ModelConfig,
        from: usize,
        to: usize,
        rows: &[u8],
    ) -> Option<()> {
        let mut reader = Reader(rows);
        for (layer, config) in self.layers.iter_mut().zip(&c.layers) {
            let ratio = config.attention.ratio().max(1);
            let (first, end) = (from / ratio, to / ratio);
            for branch in [&mut layer.main, &mut layer.index].into_iter().flatten() {
                let bytes = reader.bytes((end - first) * b.row_bytes(&branch.entries))?;
                let there = b.rows_len(&branch.entries) == first;
                (there && b.import_rows(&mut branch.entries, first, bytes)).then_some(())?;
            }
        }
        reader.0.is_empty().then_some(())
    }

    /// Takes over the state after `len` tokens, whose rows are there. `None` if it
    /// cannot be that; the cache is then of no use.
    pub fn restore_state(
        &mut self,
        b: &B,
        c: &ModelConfig,
        len: usize,
        state: &[u8],
    ) -> Option<()> {
        let mut reader = Reader(state);
        self.layer_rows = reader.number()? as u64;
        self.behind = match reader.number()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        let decoder = Cone::full(c).decoder();
        for (l, (layer, config)) in self.layers.iter_mut().zip(&c.layers).enumerate() {
            let first = reader.number()?;
            let bytes = reader.sized()?;
            if first > len || !b.import_rows(&mut layer.window, first, bytes) {
                return None;
            }
            // What queries will look at must be there. Windows of a decoder that is
            // behind are filled anew before they are.
            let held = b.rows_len(&layer.window);
            let needed = len.saturating_sub(c.window - 1);
            let filled = held == len && (first <= needed || first == 0);
            let behind = self.behind && l >= decoder && held <= len;
            if !(filled || behind) {
                return None;
            }
            let ratio = config.attention.ratio();
            let compressed = !matches!(config.attention, Attention::Shared { .. });
            let branches = [(&mut layer.main, true), (&mut layer.index, compressed)];
            for (branch, pools) in branches {
                let Some(branch) = branch else { continue };
                let bytes = reader.sized()?;
                if !b.import_pending(&mut branch.pending, bytes) {
                    return None;
                }
                // Where an entry is one token, or made of another, nothing is pooled.
                let pools = pools && (ratio > 1 || c.family == Family::V4);
                let seen = if pools { len } else { 0 };
                if b.pending_seen(&branch.pending) != seen {
                    return None;
                }
            }
        }
        self.backlog = match reader.number()? {
            0 if self.behind => Some(Backlog::default()),
            0 => None,
            n if n > MOST_BACKLOG || !self.behind => return None,
            n => Some(Backlog::restore(b, c, n, len, &mut reader)?),
        };
        self.len = len;
        reader.0.is_empty().then_some(())
    }
}

impl<B: Backend> Backlog<B> {
    fn save(&self, b: &B, out: &mut Vec<u8>) {
        let rows = self.ids.len();
        put(out, rows);
        if rows == 0 {
            return;
        }
        put(out, self.first);
        out.extend(self.ids.iter().flat_map(|id| id.to_le_bytes()));
        let (h, lagged) = self.buffers();
        put_floats(out, &b.read(h), rows);
        put_floats(out, &b.read(lagged), rows);
    }

    fn restore(
        b: &B,
        c: &ModelConfig,
        rows: usize,
        len: usize,
        reader: &mut Reader<'_>,
    ) -> Option<Self> {
        let first = reader.number()?;
        let ids = reader.bytes(4 * rows)?.as_chunks::<4>().0.iter();
        let ids: Vec<u32> = ids.map(|b| u32::from_le_bytes(*b)).collect();
        let ends = first.checked_add(rows) == Some(len);
        let known = ids.iter().all(|&id| (id as usize) < c.vocab);
        let (h, h_cols) = reader.floats(rows)?;
        let (lagged, mix_cols) = reader.floats(rows)?;
        let shaped = h_cols == c.hc_streams * c.embedding
            && (mix_cols == 0 || mix_cols == c.hc_streams || mix_cols == c.hc_mix());
        if !(ends && known && shaped) {
            return None;
        }
        let mut backlog = Self::default();
        backlog.first = first;
        backlog.ids = ids;
        let (to_h, to_lagged) = backlog.buffers_mut();
        b.write(&h, h_cols, to_h);
        if mix_cols > 0 {
            b.write(&lagged, mix_cols, to_lagged);
        }
        Some(backlog)
    }
}
