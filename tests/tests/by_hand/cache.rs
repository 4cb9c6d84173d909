//! What a layer keeps of earlier tokens: section 5 of `docs/arithmetic.md`, and the
//! compressors of section 6.

use v4_by_hand::attention::IndexRow;
use v4_by_hand::encoders::{bf16, e2m1_blocks, e2m1_blocks_with_e4m3, e4m3_blocks, hadamard};
use v4_by_hand::rows::pool;
use v4_runtime::KvPrecision;
use v4_runtime::model::{Family, ModelConfig};

/// The caches of one layer. Nothing is dropped.
#[derive(Default)]
pub struct Cache {
    /// One row per token.
    pub window: Vec<Vec<f32>>,
    pub compressor: Compressor,
    pub entries: Vec<Vec<f32>>,
    pub index_compressor: Compressor,
    /// One for each entry.
    pub keys: Vec<IndexRow>,
}

/// The products of all tokens that a compressor pools.
#[derive(Default)]
pub struct Compressor {
    /// Values and logits.
    rows: Vec<(Vec<f32>, Vec<f32>)>,
}

impl Compressor {
    /// Takes a token's products. Pools the group that ends with it, if one does, to an entry
    /// of `width` channels.
    pub fn push(
        &mut self,
        values: Vec<f32>,
        logits: Vec<f32>,
        ratio: usize,
        width: usize,
    ) -> Option<Vec<f32>> {
        self.rows.push((values, logits));
        let end = self.rows.len();
        if !end.is_multiple_of(ratio) {
            return None;
        }
        let start = end - ratio;
        let overlaps = self.rows[0].0.len() == 2 * width;
        let mut pooled: Vec<(&[f32], &[f32])> = Vec::new();
        if overlaps && start > 0 {
            let before = &self.rows[start - ratio..start];
            pooled.extend(before.iter().map(|(v, l)| (&v[..width], &l[..width])));
        }
        let own = if overlaps { width } else { 0 };
        let group = &self.rows[start..end];
        pooled.extend(group.iter().map(|(v, l)| (&v[own..], &l[own..])));
        Some(pool(&pooled))
    }
}

/// How rows are stored.
pub struct Formats {
    family: Family,
    kv: KvPrecision,
    rotated: usize,
}

impl Formats {
    pub fn new(config: &ModelConfig, kv: KvPrecision) -> Self {
        Self {
            family: config.family,
            kv,
            rotated: config.rope_dim,
        }
    }

    /// A row of the window as it is read back.
    pub fn window(&self, row: Vec<f32>) -> Vec<f32> {
        match (self.kv, self.family) {
            (KvPrecision::F32, _) => row,
            (KvPrecision::Published, Family::V4) => self.v4(&row),
            (KvPrecision::Published, Family::V41) => e4m3_blocks(&row, 32),
        }
    }

    /// An entry as it is read back.
    pub fn entry(&self, row: Vec<f32>) -> Vec<f32> {
        match (self.kv, self.family) {
            (KvPrecision::F32, _) => row,
            (KvPrecision::Published, Family::V4) => self.v4(&row),
            (KvPrecision::Published, Family::V41) => e2m1_blocks_with_e4m3(&row),
        }
    }

    fn v4(&self, row: &[f32]) -> Vec<f32> {
        let (plain, rotated) = row.split_at(row.len() - self.rotated);
        [e4m3_blocks(plain, 64), bf16(rotated)].concat()
    }

    /// A key or a query of the indexer.
    pub fn index(&self, mut row: Vec<f32>) -> IndexRow {
        if self.kv == KvPrecision::F32 {
            return IndexRow::Floats(row);
        }
        if self.family == Family::V4 {
            hadamard(&mut row);
        }
        IndexRow::Fp4(e2m1_blocks(&row))
    }
}
