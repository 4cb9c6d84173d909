//! Attention: steps 4 to 8 of section 6 of `docs/arithmetic.md`.

use v4_by_hand::attention::{self, index_score};
use v4_by_hand::rows::{best, rms_norm_plain};
use v4_runtime::model::{Attention, Candidates, Family, IndexRole};

use super::model::ByHand;

/// What layers of V4.1 leave to later layers.
#[derive(Default)]
pub struct Shared {
    /// The latest choice of entries, ascending.
    chosen: Vec<usize>,
    /// The blocks of the candidate source.
    blocks: Vec<usize>,
}

/// What attention gives.
pub struct Attended {
    pub y: Vec<f32>,
    /// By how much the last chosen entry is above the best one left out, where the layer
    /// chooses.
    pub margin: Option<f32>,
}

impl ByHand {
    /// The result of layer `l`'s attention for the newest token.
    pub fn attention(&mut self, l: usize, x: &[f32], shared: &mut Shared) -> Attended {
        let position = self.position();
        let attention = self.config.layers[l].attention;
        let kv = self.product(l, "attn_kv", x);
        let mut kv = self.norm(l, "attn_kv_a_norm", &kv);
        self.angles(l).rotate(&mut kv, position);
        let kv = self.formats.window(kv);
        self.caches[l].window.push(kv);
        if attention.compresses(l) {
            self.compress(l, x);
        }

        let low = self.product(l, "attn_q_a", x);
        let low = self.norm(l, "attn_q_a_norm", &low);
        let queries = self.queries(l, &low);
        let mut margin = None;
        let (source, chosen) = match attention {
            Attention::Window => (l, Vec::new()),
            Attention::All { .. } => (l, (0..self.visible(l)).collect()),
            Attention::Indexed { .. } => {
                let scores = self.index_scores(l, l, &low, x);
                let best = best(&scores, self.config.index_top_k);
                margin = Some(best.margin);
                (l, ascending(best.indices))
            }
            Attention::Shared { source, index, .. } => {
                if let IndexRole::Source(candidates) = index {
                    let scores = self.index_scores(l, source, &low, x);
                    margin = Some(shared.choose(&scores, candidates, self.config.index_top_k));
                }
                (source, shared.chosen.clone())
            }
        };
        let attended = self.attend(l, &queries, source, &chosen);
        let y = self.output(l, attended);
        Attended { y, margin }
    }

    /// Entries that the newest token may see.
    fn visible(&self, l: usize) -> usize {
        (self.position() + 1) / self.config.layers[l].attention.ratio()
    }

    fn queries(&self, l: usize, low: &[f32]) -> Vec<Vec<f32>> {
        let q = self.product(l, "attn_q_b", low);
        let head = |q: &[f32]| {
            let mut q = match self.config.family {
                Family::V4 => rms_norm_plain(q, self.config.rms_eps),
                Family::V41 => q.to_vec(),
            };
            self.angles(l).rotate(&mut q, self.position());
            q
        };
        q.chunks_exact(self.config.head_dim).map(head).collect()
    }

    /// Takes the newest token into the compressors of layer `l`, and stores the entry and the
    /// index key of the group that it ends.
    fn compress(&mut self, l: usize, x: &[f32]) {
        let entry = self.pool(l, "attn_compressor", self.config.head_dim, x);
        let key = match self.config.layers[l].attention {
            Attention::Indexed { .. } => {
                self.pool(l, "indexer_compressor", self.config.index_dim, x)
            }
            _ => None,
        };
        if let Some(entry) = entry {
            let normed = self.norm(l, "attn_compressor_norm", &entry);
            if self.config.family == Family::V41 {
                let key = self.product(l, "indexer.attn_k", &normed);
                let key = self.norm(l, "indexer.k_norm", &key);
                self.store_key(l, key);
            }
            let entry = self.formats.entry(self.rotated_as_group(l, normed));
            self.caches[l].entries.push(entry);
        }
        if let Some(key) = key {
            let key = self.norm(l, "indexer_compressor_norm", &key);
            self.store_key(l, key);
        }
    }

    /// The group that the newest token ends, pooled, if it ends one.
    fn pool(&mut self, l: usize, name: &str, width: usize, x: &[f32]) -> Option<Vec<f32>> {
        let ratio = self.config.layers[l].attention.ratio();
        let values = self.product(l, &format!("{name}_kv"), x);
        if ratio == 1 {
            return Some(values);
        }
        let mut logits = self.product(l, &format!("{name}_gate"), x);
        if self.config.family == Family::V4 {
            let place = self.position() % ratio;
            let embedding = self.weights.matrix(&format!("blk.{l}.{name}_ape.weight"));
            for (logit, e) in logits.iter_mut().zip(embedding.row(place)) {
                *logit += e;
            }
        }
        let cache = &mut self.caches[l];
        let compressor = match name {
            "attn_compressor" => &mut cache.compressor,
            _ => &mut cache.index_compressor,
        };
        compressor.push(values, logits, ratio, width)
    }

    /// `row` rotated by the angles of the first token of the group that the newest one ends.
    fn rotated_as_group(&self, l: usize, mut row: Vec<f32>) -> Vec<f32> {
        let first = self.position() + 1 - self.config.layers[l].attention.ratio();
        self.angles(l).rotate(&mut row, first);
        row
    }

    fn store_key(&mut self, l: usize, key: Vec<f32>) {
        let key = self.formats.index(self.rotated_as_group(l, key));
        self.caches[l].keys.push(key);
    }

    /// The scores of all visible entries of layer `source`.
    fn index_scores(&self, l: usize, source: usize, low: &[f32], x: &[f32]) -> Vec<f32> {
        let (width, heads) = (self.config.index_dim, self.config.index_heads);
        let q = self.product(l, "indexer.attn_q_b", low);
        let query = |q: &[f32]| {
            let mut q = q.to_vec();
            self.angles(l).rotate(&mut q, self.position());
            self.formats.index(q)
        };
        let queries: Vec<_> = q.chunks_exact(width).map(query).collect();
        let scale = 1.0 / ((width * heads) as f32).sqrt();
        let weights = self.product(l, "indexer.proj", x);
        let weights: Vec<f32> = weights.iter().map(|w| w * scale).collect();
        let keys = self.caches[source].keys[..self.visible(l)].iter();
        keys.map(|key| index_score(&queries, &weights, key))
            .collect()
    }

    /// The attended rows of all heads side by side, rotated back.
    fn attend(&self, l: usize, queries: &[Vec<f32>], source: usize, chosen: &[usize]) -> Vec<f32> {
        let width = self.config.head_dim;
        let window = &self.caches[l].window;
        let recent = window.len().saturating_sub(self.config.window);
        let entries = &self.caches[source].entries;
        let keys = chosen.iter().map(|&e| &entries[e]);
        let keys: Vec<&[f32]> = keys.chain(&window[recent..]).map(Vec::as_slice).collect();
        let scale = 1.0 / (width as f32).sqrt();
        let sinks = self.vector(l, "attn_sinks");
        let head = |(q, sink): (&Vec<f32>, &f32)| {
            let mut row = attention::attend(q, &keys, *sink, scale);
            self.angles(l).rotate_back(&mut row, self.position());
            row
        };
        queries.iter().zip(&sinks).flat_map(head).collect()
    }

    fn output(&self, l: usize, attended: Vec<f32>) -> Vec<f32> {
        let groups = self.config.output_groups;
        let group = |(g, row): (usize, &[f32])| {
            let name = format!("blk.{l}.attn_output_a.weight");
            self.weights.part(&name, g, groups, row)
        };
        let rows = attended.chunks_exact(attended.len() / groups);
        let low: Vec<f32> = rows.enumerate().flat_map(group).collect();
        self.product(l, "attn_output_b", &low)
    }
}

impl Shared {
    /// Chooses entries by their scores, and keeps blocks of candidates or stays within them.
    fn choose(&mut self, scores: &[f32], candidates: Candidates, top_k: usize) -> f32 {
        let mut pool: Vec<usize> = (0..scores.len()).collect();
        match candidates {
            Candidates::All => {}
            Candidates::Keep { blocks, size } => {
                let block = |block: &[f32]| block.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let mut scores: Vec<f32> = scores.chunks(size).map(block).collect();
                if let Some(newest) = scores.last_mut() {
                    *newest = f32::INFINITY;
                }
                self.blocks = best(&scores, blocks).indices;
            }
            Candidates::Within { size } => {
                pool.retain(|entry| self.blocks.contains(&(entry / size)));
            }
        }
        let scores: Vec<f32> = pool.iter().map(|&e| scores[e]).collect();
        let best = best(&scores, top_k);
        let chosen = best.indices.into_iter().map(|i| pool[i]);
        self.chosen = ascending(chosen.collect());
        best.margin
    }
}

fn ascending(mut indices: Vec<usize>) -> Vec<usize> {
    indices.sort_unstable();
    indices
}
