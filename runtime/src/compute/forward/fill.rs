//! Fills caches without running a sequence, to measure the cost of long contexts.

use super::Cache;
use crate::compute::backend::Backend;
use crate::model::{Attention, Family, ModelConfig};

/// Rows made at once.
const ROWS: usize = 1024;

impl<B: Backend> Cache<B> {
    /// Makes an empty cache that of `len` tokens: of the sizes it would have, with rows of
    /// noise. Norms leave rows whose values have a mean square of one, and so has this
    /// noise.
    pub fn fill(&mut self, b: &B, c: &ModelConfig, len: usize, seed: u64) {
        let mut x = seed | 1;
        let mut noise = move || {
            // xorshift64; evenly spread over -sqrt(3)..sqrt(3).
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            ((x >> 40) as f32 / (1 << 23) as f32 - 1.0) * 3.0f32.sqrt()
        };
        let mut buf = B::Buf::default();
        let mut push =
            |rows: &mut B::Rows, n: usize, width: usize, noise: &mut dyn FnMut() -> f32| {
                let mut left = n;
                while left > 0 {
                    let n = left.min(ROWS);
                    let values: Vec<f32> = (0..n * width).map(|_| noise()).collect();
                    b.write(&values, width, &mut buf);
                    b.push_rows(rows, &buf);
                    left -= n;
                }
            };
        let window = len.min(c.window);
        for (layer, config) in self.layers.iter_mut().zip(&c.layers) {
            b.restart_rows(&mut layer.window, len - window);
            push(&mut layer.window, window, c.head_dim, &mut noise);
            let ratio = config.attention.ratio();
            let compressed = !matches!(config.attention, Attention::Shared { .. });
            let branches = [
                (&mut layer.main, true, c.head_dim),
                (&mut layer.index, compressed, c.index_dim),
            ];
            for (branch, pools, width) in branches {
                let Some(branch) = branch else { continue };
                push(&mut branch.entries, len / ratio.max(1), width, &mut noise);
                if pools && (ratio > 1 || c.family == Family::V4) {
                    b.fill_pending(&mut branch.pending, len, &mut noise);
                }
            }
        }
        self.len = len;
        self.layer_rows = (len * c.layers.len()) as u64;
    }
}
