//! Rows that are made of two tensors.

use std::ops::Range;

use v4_files::gguf::TensorInfo;
use v4_quant::GgmlType;

use super::{Buffers, Converter, RowError, all_finite, scaled};
use crate::plan::Output;
use crate::source::{Part, Source, ty_bytes};

impl Converter<'_> {
    /// The products of two tensors of the output's shape.
    pub(super) fn product(
        &self,
        factors: &[(GgmlType, Part); 2],
        rows: Range<u64>,
        buffers: &mut Buffers,
    ) -> Result<(), RowError> {
        let info = &self.output.info;
        let columns = info.dims[0] as usize;
        let mut decoded = [vec![0.0; columns], vec![0.0; columns]];
        for (at, row) in rows.enumerate() {
            for ((ty, part), values) in factors.iter().zip(&mut decoded) {
                let bytes = ty_bytes(*ty, info.dims[0]);
                self.read(part, scaled(&(row..row + 1), bytes), &mut buffers.input)?;
                v4_quant::decode_row(*ty, &buffers.input, values)
                    .map_err(|error| self.not_finite(part, row, error.to_string()))?;
            }
            let [a, b] = &decoded;
            let values = &mut buffers.values;
            for (product, (a, b)) in values.iter_mut().zip(a.iter().zip(b)) {
                *product = a * b;
            }
            if !all_finite(values) {
                let part = &factors[0].1;
                return Err(self.not_finite(part, row, "a value is NaN or infinite"));
            }
            let row_bytes = info.row_bytes() as usize;
            let out = &mut buffers.out[at * row_bytes..][..row_bytes];
            self.encode(row, values, out)?;
        }
        Ok(())
    }

    /// Rows of two matrices beside each other, by their values.
    pub(super) fn beside(
        &self,
        sides: &[Source; 2],
        rows: &Range<u64>,
        buffers: &mut Buffers,
    ) -> Result<(), RowError> {
        let info = &self.output.info;
        let width = info.dims[0] / 2;
        let mut decoded = [Buffers::default(), Buffers::default()];
        for (source, own) in sides.iter().zip(&mut decoded) {
            let dims = vec![width, info.dims[1]];
            let output = Output {
                info: TensorInfo {
                    ty: GgmlType::F32,
                    bytes: 4 * width * info.dims[1],
                    dims,
                    ..info.clone()
                },
                instead_of: None,
                is_engram: false,
                source: source.clone(),
            };
            let side = Converter {
                inputs: self.inputs,
                output: &output,
                cancel: self.cancel,
            };
            side.convert(rows.clone(), own)?;
        }
        let [left, right] = decoded.each_ref().map(|own| own.out.as_chunks::<4>().0);
        let width = width as usize;
        let pairs = left.chunks_exact(width).zip(right.chunks_exact(width));
        let outputs = buffers.out.chunks_exact_mut(info.row_bytes() as usize);
        for ((row, (left, right)), out) in rows.clone().zip(pairs).zip(outputs) {
            let values = &mut buffers.values;
            let both = left.iter().chain(right).map(|b| f32::from_le_bytes(*b));
            values
                .iter_mut()
                .zip(both)
                .for_each(|(to, value)| *to = value);
            self.check_exact(row, values)?;
            self.encode(row, values, out)?;
        }
        Ok(())
    }

    /// Whether the output's type holds published values as they are, if it is BF16.
    pub(super) fn check_exact(&self, row: u64, values: &[f32]) -> Result<(), RowError> {
        let info = &self.output.info;
        let inexact = values.iter().find(|x| x.to_bits() & 0xffff != 0);
        match inexact.filter(|_| info.ty == GgmlType::BF16) {
            None => Ok(()),
            Some(&value) => Err(RowError::Inexact {
                tensor: info.name.clone(),
                row,
                value,
            }),
        }
    }
}
