//! Reads logits files and goldens, and compares distributions.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};

use crate::program::data;

/// The token ids of a case of `tests/data/MODEL/golden.safetensors`.
///
/// # Panics
/// If there is no such case.
#[must_use]
pub fn golden_ids(model: &str, case: &str) -> Vec<u32> {
    let golden = Numbers::read(&data(model).join("golden.safetensors"));
    let ids = golden.ints(&format!("{case}.ids")).iter();
    ids.map(|&id| id.try_into().expect("an id")).collect()
}

/// A safetensors file of float32 and int32 tensors, read whole.
#[derive(Debug)]
pub struct Numbers {
    floats: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    ints: BTreeMap<String, (Vec<usize>, Vec<i32>)>,
}

impl Numbers {
    /// Reads `path`.
    ///
    /// # Panics
    /// If it is no such file.
    #[must_use]
    pub fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Self::parse(&bytes)
    }

    /// Reads a file's bytes.
    ///
    /// # Panics
    /// If they are no such file.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        let file = SafeTensors::deserialize(bytes).expect("a safetensors file");
        let mut out = Self {
            floats: BTreeMap::new(),
            ints: BTreeMap::new(),
        };
        for (name, view) in file.tensors() {
            let shape = view.shape().to_vec();
            let words = view.data().as_chunks::<4>().0.iter();
            match view.dtype() {
                Dtype::F32 => {
                    let values = words.map(|w| f32::from_le_bytes(*w)).collect();
                    out.floats.insert(name, (shape, values));
                }
                Dtype::I32 => {
                    let values = words.map(|w| i32::from_le_bytes(*w)).collect();
                    out.ints.insert(name, (shape, values));
                }
                other => panic!("{name} is {other:?}"),
            }
        }
        out
    }

    /// Whether there is a tensor of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.floats.contains_key(name) || self.ints.contains_key(name)
    }

    /// The rows of a float32 matrix.
    ///
    /// # Panics
    /// If there is none of this name.
    #[must_use]
    pub fn rows(&self, name: &str) -> Vec<&[f32]> {
        let (shape, values) = self.floats.get(name).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(shape.len(), 2, "{name}: {shape:?}");
        values.chunks_exact(shape[1].max(1)).collect()
    }

    /// A float32 tensor's values.
    ///
    /// # Panics
    /// If there is none of this name.
    #[must_use]
    pub fn floats(&self, name: &str) -> &[f32] {
        &self
            .floats
            .get(name)
            .unwrap_or_else(|| panic!("no {name}"))
            .1
    }

    /// An int32 tensor's values.
    ///
    /// # Panics
    /// If there is none of this name.
    #[must_use]
    pub fn ints(&self, name: &str) -> &[i32] {
        &self.ints.get(name).unwrap_or_else(|| panic!("no {name}")).1
    }

    /// The rows of an int32 matrix.
    ///
    /// # Panics
    /// If there is none of this name.
    #[must_use]
    pub fn int_rows(&self, name: &str) -> Vec<&[i32]> {
        let (shape, values) = self.ints.get(name).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(shape.len(), 2, "{name}: {shape:?}");
        values.chunks_exact(shape[1].max(1)).collect()
    }
}

/// Natural logarithms of the probabilities that `logits` stand for.
#[must_use]
pub fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    let max = f64::from(max);
    let sum: f64 = logits.iter().map(|&x| (f64::from(x) - max).exp()).sum();
    let log_sum = max + sum.ln();
    logits.iter().map(|&x| f64::from(x) - log_sum).collect()
}

/// Kullback-Leibler divergence in nats of `q` from the true `p`, as logits.
#[must_use]
pub fn kl(p: &[f32], q: &[f32]) -> f64 {
    assert_eq!(p.len(), q.len());
    let (p, q) = (log_softmax(p), log_softmax(q));
    p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum()
}

/// Index of the largest value, the lowest one of equals.
#[must_use]
pub fn argmax(values: &[f32]) -> usize {
    let mut best = 0;
    for (i, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = i;
        }
    }
    best
}

/// The largest absolute difference; NaN counts as infinite.
#[must_use]
pub fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let difference = |(a, b): (&f32, &f32)| {
        let d = (a - b).abs();
        if d.is_nan() { f32::INFINITY } else { d }
    };
    a.iter().zip(b).map(difference).fold(0.0, f32::max)
}

/// The mean of some numbers.
///
/// # Panics
/// If there are none.
#[must_use]
pub fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let (sum, count) = values
        .into_iter()
        .fold((0.0, 0u32), |(sum, count), x| (sum + x, count + 1));
    assert!(count > 0, "mean of nothing");
    sum / f64::from(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_is_zero_only_for_equal_distributions() {
        // Shifting all logits changes nothing.
        assert!(kl(&[0.0, 1.0, 2.0], &[5.0, 6.0, 7.0]).abs() < 1e-12);
        // p = (1/2, 1/2), q = (3/4, 1/4): ln 2 - (ln 3) / 2.
        let expected = 2f64.ln() - 3f64.ln() / 2.0;
        assert!((kl(&[0.0, 0.0], &[3f32.ln(), 0.0]) - expected).abs() < 1e-6);
    }

    #[test]
    fn nan_is_a_difference() {
        assert_eq!(
            largest_difference(&[1.0, f32::NAN], &[1.0, 1.0]),
            f32::INFINITY
        );
        assert_eq!(largest_difference(&[1.0, 2.0], &[1.5, 2.0]), 0.5);
    }

    #[test]
    fn argmax_takes_the_first_of_equals() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
    }
}
