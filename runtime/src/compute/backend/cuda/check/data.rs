//! Numbers that checks compute with. The same for every run and every card.

use std::io::Write;
use std::sync::Arc;

use v4_files::gguf::{GgufFile, Metadata, encode_header, layout_offsets};
use v4_quant::GgmlType;

use crate::error::EngineError;
use crate::model::Tensor;

/// Where data begin in the files that tensors are made of.
const ALIGNMENT: u64 = 4096;
/// Blocks of weights that differ; rows repeat them in no order.
const BLOCKS: usize = 61;
/// Largest magnitude of [`Fill::Modest`] weights, and the least of a block's largest.
const MODEST: std::ops::RangeInclusive<f32> = 1e-3..=4.0;

/// What weights are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fill {
    /// Of modest size, so that results are numbers.
    Modest,
    /// Any bytes: infinite and subnormal scales, and NaNs.
    Any,
}

/// A sequence of numbers without a pattern that matters here.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u32) -> Self {
        Self(u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn word(&mut self) -> u32 {
        let x = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = x.wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    /// A number below `n`.
    pub(super) fn below(&mut self, n: usize) -> usize {
        ((u64::from(self.word()) * n as u64) >> 32) as usize
    }

    /// Between -1 and 1.
    pub(super) fn signed(&mut self) -> f32 {
        (self.word() >> 8) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// Values between -1 and 1.
pub(super) fn noise(n: usize, seed: u32) -> Vec<f32> {
    let mut random = Random::new(seed);
    (0..n).map(|_| random.signed()).collect()
}

/// Rows of activations: blocks of 32 of different magnitude, some of them zero or nearly.
pub(super) fn activations(n: usize, seed: u32) -> Vec<f32> {
    let mut random = Random::new(seed);
    let mut magnitude = 1.0;
    let mut value = |i: usize| {
        if i.is_multiple_of(32) {
            magnitude = match random.below(16) {
                // Rows of one block would be nothing.
                _ if i == 0 => 1.0,
                0 => 0.0,
                1 => 2f32.powi(-101),
                2 => 2f32.powi(-99),
                other => 2f32.powi(other as i32 - 10),
            };
        }
        magnitude * random.signed()
    };
    (0..n).map(&mut value).collect()
}

/// Bytes of values.
pub(super) fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// `blocks` blocks of a type, from a few that differ.
fn blocks(ty: GgmlType, fill: Fill, blocks: usize, random: &mut Random) -> Vec<u8> {
    let (size, values) = (ty.block_bytes(), ty.block_values());
    let mut some = Vec::with_capacity(BLOCKS * size);
    let mut decoded = vec![0.0; values];
    for _ in 0..BLOCKS {
        // By their values, whatever of their bytes are scales. A type of which none is found so
        // soon has zeros.
        let found = (0..10_000).find_map(|_| {
            let block: Vec<u8> = (0..size).map(|_| random.word() as u8).collect();
            let known = v4_quant::decode_row(ty, &block, &mut decoded).is_ok();
            let largest = decoded.iter().fold(0f32, |most, v| v.abs().max(most));
            let modest = decoded.iter().all(|v| v.is_finite()) && MODEST.contains(&largest);
            (known && (fill == Fill::Any || modest)).then_some(block)
        });
        some.extend(found.unwrap_or_else(|| vec![0; size]));
    }
    let mut all = Vec::with_capacity(blocks * size);
    for _ in 0..blocks {
        let one = size * random.below(BLOCKS);
        all.extend_from_slice(&some[one..one + size]);
    }
    all
}

/// The bytes of `values` weights of a type, whole blocks of it.
pub(super) fn weights(ty: GgmlType, fill: Fill, values: usize, seed: u32) -> Vec<u8> {
    let mut random = Random::new(seed);
    let floats = |random: &mut Random, convert: &dyn Fn(f32) -> Vec<u8>| {
        let one = |_| match (fill, random.below(64)) {
            (Fill::Any, 0) => convert(f32::from_bits(random.word())),
            _ => convert(random.signed()),
        };
        (0..values).flat_map(one).collect()
    };
    match ty {
        GgmlType::F32 => floats(&mut random, &|v| v.to_le_bytes().to_vec()),
        GgmlType::BF16 => floats(&mut random, &|v| v.to_le_bytes()[2..].to_vec()),
        GgmlType::F16 => floats(&mut random, &|v| {
            half::f16::from_f32(v).to_le_bytes().to_vec()
        }),
        _ => blocks(ty, fill, values / ty.block_values(), &mut random),
    }
}

/// A tensor `[matrices, rows, columns]` of such weights.
///
/// # Errors
/// If no file can be made for it, or the type has no such rows.
pub(super) fn tensor(
    ty: GgmlType,
    fill: Fill,
    [matrices, rows, columns]: [usize; 3],
    seed: u32,
) -> Result<Tensor, EngineError> {
    let data = weights(ty, fill, matrices * rows * columns, seed);
    let path = std::env::temp_dir();
    let failed = |what: String| EngineError::Model {
        path: path.clone(),
        what: format!("cannot make a file of weights to check with: {what}"),
    };
    let dims = vec![columns as u64, rows as u64, matrices as u64];
    let infos = layout_offsets([("w".to_owned(), ty, dims)], ALIGNMENT);
    let infos = infos.map_err(|error| failed(error.to_string()))?;
    let header = encode_header(&Metadata::new(), &infos, ALIGNMENT);
    let header = header.map_err(|error| failed(error.to_string()))?;
    let mut file = tempfile::NamedTempFile::new().map_err(|error| failed(error.to_string()))?;
    let mut write = |bytes: &[u8]| file.write_all(bytes);
    write(&header).map_err(|error| failed(error.to_string()))?;
    write(&data).map_err(|error| failed(error.to_string()))?;
    // The mapping stays when the file goes.
    let opened = GgufFile::open(file.path()).map_err(|error| failed(error.to_string()))?;
    Tensor::find(&Arc::new(opened), "w")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::backend::cuda::check::products::types;

    /// Zeros in place of weights would make checks that find nothing.
    #[test]
    fn every_type_has_modest_weights() {
        for ty in types() {
            let block = ty.block_values();
            let mut values = vec![0.0; 200 * block];
            let bytes = weights(ty, Fill::Modest, values.len(), 1);
            v4_quant::decode_row(ty, &bytes, &mut values).unwrap();
            assert!(values.iter().all(|v| v.is_finite()), "{ty}");
            let empty = |block: &[f32]| block.iter().all(|v| *v == 0.0);
            assert!(!values.chunks(block.max(32)).any(empty), "{ty}");
        }
    }
}
