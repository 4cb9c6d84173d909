//! Section 4 of `docs/arithmetic.md`: attention over keys, and the scores of the indexer.

use crate::encoders::Fp4Block;
use crate::products::float32;
use crate::rows::softmax_with_sink;

/// The result of a head over keys, which are also the values: entries, then the window.
pub fn attend(query: &[f32], keys: &[&[f32]], sink: f32, scale: f32) -> Vec<f32> {
    let scores: Vec<f32> = keys.iter().map(|key| float32(query, key) * scale).collect();
    let mut out = vec![0f32; query.len()];
    for (key, w) in keys.iter().zip(softmax_with_sink(&scores, sink)) {
        for (sum, value) in out.iter_mut().zip(*key) {
            *sum = w.mul_add(*value, *sum);
        }
    }
    out
}

/// A key or a query of the indexer.
pub enum IndexRow {
    /// As computed.
    Floats(Vec<f32>),
    /// Rounded.
    Fp4(Vec<Fp4Block>),
}

/// The score of a key for the queries of all heads and their weights.
///
/// # Panics
/// If queries and key are not stored alike.
pub fn index_score(queries: &[IndexRow], weights: &[f32], key: &IndexRow) -> f32 {
    let mut score = 0f32;
    for (query, weight) in queries.iter().zip(weights) {
        match (query, key) {
            (IndexRow::Floats(query), IndexRow::Floats(key)) => {
                score += weight * float32(query, key).max(0.0);
            }
            (IndexRow::Fp4(query), IndexRow::Fp4(key)) => {
                score = weight.mul_add(fp4_dot(query, key).max(0.0), score);
            }
            _ => unreachable!("queries are stored as keys are"),
        }
    }
    score
}

fn fp4_dot(query: &[Fp4Block], key: &[Fp4Block]) -> f32 {
    let mut dot = 0f32;
    for (q, k) in query.iter().zip(key) {
        let products = q.doubled.iter().zip(&k.doubled).map(|(q, k)| q * k);
        let n: i32 = products.sum();
        dot = (n as f32 * (0.25 * q.scale)).mul_add(k.scale, dot);
    }
    dot
}
