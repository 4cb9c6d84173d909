//! Converts a run of rows: reads, decodes and encodes.

mod pairs;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use v4_quant::{GgmlType, QuantError, fp4, fp8};

use crate::files::{InputFile, ReadError};
use crate::plan::Output;
use crate::recipe::ENGRAM_FP8;
use crate::source::{ENGRAM_BLOCK, NVFP4_BLOCK, Part, Source, fp8_row_bytes, ty_bytes};

/// Scales above this can make an e2m1 value infinite.
const LAST_SAFE_SCALE: u8 = 252;
/// Scales above this can make an e4m3 value infinite: 448 * 2^119 < 2^128.
const LAST_SAFE_E4M3_SCALE: u8 = 246;

/// Rows could not be converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RowError {
    /// The input could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A stored number is NaN or infinite.
    #[error("{}: tensor {tensor:?}, row {row}: {what}; the file is damaged, download it again", path.display())]
    NotFinite {
        /// The input file.
        path: PathBuf,
        /// The tensor in that file.
        tensor: String,
        /// The row in that tensor.
        row: u64,
        /// What was found.
        what: String,
    },
    /// A token table names an expert that does not exist.
    #[error("{}: tensor {tensor:?}, row {row}: expert {expert} of {limit}; the file is damaged, \
             download it again", path.display())]
    Expert {
        /// The input file.
        path: PathBuf,
        /// The tensor in that file.
        tensor: String,
        /// The row in that tensor.
        row: u64,
        /// The number found.
        expert: i64,
        /// The number of experts.
        limit: u32,
    },
    /// A published value has no exact BF16 form.
    #[error(
        "{tensor}, row {row}: BF16 cannot represent {value:e} exactly; give the tensor type f32 in \
         a recipe file"
    )]
    Inexact {
        /// The tensor of the output.
        tensor: String,
        /// The row.
        row: u64,
        /// The value.
        value: f32,
    },
    /// An encoder refused a row.
    #[error("{tensor}, row {row}: {source}; choose another type in the recipe")]
    Encode {
        /// The tensor of the output.
        tensor: String,
        /// The row.
        row: u64,
        /// Why.
        source: QuantError,
    },
    /// Stopped on request.
    #[error("interrupted")]
    Cancelled,
}

/// Buffers of one worker; they grow to the size of a unit of work and stay.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    input: Vec<u8>,
    scales: Vec<u8>,
    values: Vec<f32>,
    out: Vec<u8>,
}

/// One tensor being converted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Converter<'a> {
    pub inputs: &'a [InputFile],
    pub output: &'a Output,
    pub cancel: &'a AtomicBool,
}

impl Converter<'_> {
    /// The output's bytes of `rows`, which are in one run of the source.
    pub fn convert<'b>(
        &self,
        rows: Range<u64>,
        buffers: &'b mut Buffers,
    ) -> Result<&'b [u8], RowError> {
        let info = &self.output.info;
        let (row_bytes, count) = (info.row_bytes(), rows.end - rows.start);
        buffers.out.resize((row_bytes * count) as usize, 0);
        let values = self.output.source.values(info.dims[0]);
        buffers.values.resize(values as usize, 0.0);
        self.fill(&self.output.source, rows, buffers)?;
        Ok(&buffers.out)
    }

    /// Fills `buffers.out` with `rows` of a source.
    fn fill(
        &self,
        source: &Source,
        rows: Range<u64>,
        buffers: &mut Buffers,
    ) -> Result<(), RowError> {
        match source {
            Source::Rows { ty, part } => self.rows(*ty, part, rows, buffers)?,
            Source::Joined(tables) => {
                let mut first = 0;
                for (length, table) in tables {
                    if rows.start < first + length {
                        return self.fill(table, rows.start - first..rows.end - first, buffers);
                    }
                    first += length;
                }
                unreachable!("units are cut at the ends of tables");
            }
            Source::Product(factors) => self.product(factors, rows, buffers)?,
            Source::Beside(sides) => self.beside(sides, &rows, buffers)?,
            Source::Fp8 {
                weight,
                scale,
                block,
            } => self.fp8([weight, scale], *block, rows, buffers)?,
            Source::Fp4 { codes, scales } => self.fp4([codes, scales], rows, buffers)?,
            Source::Nvfp4 {
                codes,
                scales,
                scale,
            } => self.nvfp4([codes, scales, scale], rows, buffers)?,
            Source::Fp8Rows {
                weight,
                scale,
                width,
            } => {
                let blocks = width / ENGRAM_BLOCK;
                self.read(weight, scaled(&rows, *width), &mut buffers.input)?;
                self.read(scale, scaled(&rows, blocks), &mut buffers.scales)?;
                let input = std::mem::take(&mut buffers.input);
                let scales = std::mem::take(&mut buffers.scales);
                let pairs = input
                    .chunks_exact(*width as usize)
                    .zip(scales.chunks_exact(blocks as usize));
                self.fp8_rows([weight, scale], rows, pairs, buffers)?;
                (buffers.input, buffers.scales) = (input, scales);
            }
            Source::PackedFp8Rows { part, width } => {
                let row_bytes = fp8_row_bytes(*width);
                self.read(part, scaled(&rows, row_bytes), &mut buffers.input)?;
                let input = std::mem::take(&mut buffers.input);
                let pairs = input
                    .chunks_exact(row_bytes as usize)
                    .map(|row| row.split_at(*width as usize));
                self.fp8_rows([part, part], rows, pairs, buffers)?;
                buffers.input = input;
            }
            Source::Ids { part, limit } => self.ids(part, *limit, rows, buffers)?,
        }
        Ok(())
    }

    /// Reads bytes `range` of a part into `buffer`.
    fn read(&self, part: &Part, range: Range<u64>, buffer: &mut Vec<u8>) -> Result<(), RowError> {
        buffer.resize((range.end - range.start) as usize, 0);
        self.inputs[part.file as usize].read_at(part.offset + range.start, buffer)?;
        Ok(())
    }

    fn not_finite(&self, part: &Part, row: u64, what: impl Into<String>) -> RowError {
        RowError::NotFinite {
            path: self.inputs[part.file as usize].path().to_owned(),
            tensor: part.name.clone(),
            row,
            what: what.into(),
        }
    }

    fn encode(&self, row: u64, values: &[f32], out: &mut [u8]) -> Result<(), RowError> {
        // Some encoders take long for a row; nobody should wait for a whole unit.
        if self.cancel.load(Ordering::Relaxed) {
            return Err(RowError::Cancelled);
        }
        let info = &self.output.info;
        v4_quant::encode_row(info.ty, values, None, out).map_err(|source| RowError::Encode {
            tensor: info.name.clone(),
            row,
            source,
        })
    }

    fn rows(
        &self,
        ty: GgmlType,
        part: &Part,
        rows: Range<u64>,
        buffers: &mut Buffers,
    ) -> Result<(), RowError> {
        let info = &self.output.info;
        let row_bytes = ty_bytes(ty, info.dims[0]);
        let range = scaled(&rows, row_bytes);
        if ty == info.ty {
            self.read(part, range, &mut buffers.out)?;
            return match first_not_finite(ty, &buffers.out) {
                Some(value) => {
                    let row = rows.start + value / info.dims[0];
                    Err(self.not_finite(part, row, "a value is NaN or infinite"))
                }
                None => Ok(()),
            };
        }
        self.read(part, range, &mut buffers.input)?;
        let inputs = buffers.input.chunks_exact(row_bytes as usize);
        let outputs = buffers.out.chunks_exact_mut(info.row_bytes() as usize);
        for ((row, input), out) in rows.zip(inputs).zip(outputs) {
            let values = &mut buffers.values;
            v4_quant::decode_row(ty, input, values)
                .map_err(|error| self.not_finite(part, row, error.to_string()))?;
            if !all_finite(values) {
                return Err(self.not_finite(part, row, "a value is NaN or infinite"));
            }
            self.encode(row, values, out)?;
        }
        Ok(())
    }

    fn fp8(
        &self,
        [weight, scale]: [&Part; 2],
        [block_rows, block_columns]: [u32; 2],
        rows: Range<u64>,
        buffers: &mut Buffers,
    ) -> Result<(), RowError> {
        let info = &self.output.info;
        let columns = info.dims[0];
        let block_rows = u64::from(block_rows);
        let scale_columns = columns.div_ceil(u64::from(block_columns));
        let first_band = rows.start / block_rows;
        let bands = first_band..rows.end.div_ceil(block_rows);
        self.read(
            weight,
            rows.start * columns..rows.end * columns,
            &mut buffers.input,
        )?;
        self.read(
            scale,
            bands.start * scale_columns..bands.end * scale_columns,
            &mut buffers.scales,
        )?;
        if let Some(at) = buffers.scales.iter().position(|&scale| scale == 255) {
            let band = first_band + at as u64 / scale_columns;
            return Err(self.not_finite(scale, band, "a scale is NaN (255)"));
        }
        let inputs = buffers.input.chunks_exact(columns as usize);
        let outputs = buffers.out.chunks_exact_mut(info.row_bytes() as usize);
        for ((row, codes), out) in rows.zip(inputs).zip(outputs) {
            let band = (row / block_rows - first_band) as usize * scale_columns as usize;
            let scales = &buffers.scales[band..band + scale_columns as usize];
            let values = &mut buffers.values;
            fp8::decode_row(codes, scales, block_columns as usize, values)
                .map_err(|error| self.not_finite(weight, row, error.to_string()))?;
            if !all_finite(values) {
                return Err(self.not_finite(weight, row, "a value is NaN or infinite"));
            }
            self.check_exact(row, values)?;
            self.encode(row, values, out)?;
        }
        Ok(())
    }

    fn fp4(
        &self,
        [codes, scales]: [&Part; 2],
        rows: Range<u64>,
        buffers: &mut Buffers,
    ) -> Result<(), RowError> {
        let info = &self.output.info;
        let (code_bytes, scale_bytes) = (info.dims[0] / 2, info.dims[0] / 32);
        self.read(
            codes,
            rows.start * code_bytes..rows.end * code_bytes,
            &mut buffers.input,
        )?;
        self.read(
            scales,
            rows.start * scale_bytes..rows.end * scale_bytes,
            &mut buffers.scales,
        )?;
        let row_codes = buffers.input.chunks_exact(code_bytes as usize);
        let row_scales = buffers.scales.chunks_exact(scale_bytes as usize);
        let outputs = buffers.out.chunks_exact_mut(info.row_bytes() as usize);
        for (((row, code), scale), out) in rows.zip(row_codes).zip(row_scales).zip(outputs) {
            let highest = scale.iter().copied().max().unwrap_or(0);
            if highest == 255 {
                return Err(self.not_finite(scales, row, "a scale is NaN (255)"));
            }
            let values = &mut buffers.values;
            let keeps_codes = info.ty == GgmlType::MXFP4;
            if !keeps_codes || highest > LAST_SAFE_SCALE {
                fp4::decode_row(code, scale, values)
                    .map_err(|error| self.not_finite(codes, row, error.to_string()))?;
                if !all_finite(values) {
                    return Err(self.not_finite(codes, row, "a value is infinite"));
                }
            }
            if keeps_codes {
                fp4::row_to_mxfp4(code, scale, out)
                    .map_err(|error| self.not_finite(codes, row, error.to_string()))?;
            } else {
                self.encode(row, values, out)?;
            }
        }
        Ok(())
    }

    fn nvfp4(
        &self,
        [codes, scales, scale]: [&Part; 3],
        rows: Range<u64>,
        buffers: &mut Buffers,
    ) -> Result<(), RowError> {
        let info = &self.output.info;
        let (code_bytes, scale_bytes) = (info.dims[0] / 2, info.dims[0] / NVFP4_BLOCK);
        self.read(scale, 0..4, &mut buffers.scales)?;
        let whole = buffers.scales.first_chunk::<4>().copied();
        let whole = f32::from_le_bytes(whole.unwrap_or_default());
        if !whole.is_finite() {
            return Err(self.not_finite(scale, 0, "the scale is NaN or infinite"));
        }
        self.read(codes, scaled(&rows, code_bytes), &mut buffers.input)?;
        self.read(scales, scaled(&rows, scale_bytes), &mut buffers.scales)?;
        let row_codes = buffers.input.chunks_exact(code_bytes as usize);
        let row_scales = buffers.scales.chunks_exact(scale_bytes as usize);
        let outputs = buffers.out.chunks_exact_mut(info.row_bytes() as usize);
        for (((row, code), block_scales), out) in rows.zip(row_codes).zip(row_scales).zip(outputs) {
            if has_nan_code(block_scales) {
                return Err(self.not_finite(scales, row, "a scale is NaN"));
            }
            let values = &mut buffers.values;
            let blocks = values.chunks_exact_mut(NVFP4_BLOCK as usize);
            let block_codes = code.chunks_exact(NVFP4_BLOCK as usize / 2);
            for ((values, codes), &block_scale) in blocks.zip(block_codes).zip(block_scales) {
                let scale = fp8::e4m3_to_f32(block_scale) * whole;
                for (pair, &codes) in values.chunks_exact_mut(2).zip(codes) {
                    pair[0] = fp4::e2m1_to_f32(codes) * scale;
                    pair[1] = fp4::e2m1_to_f32(codes >> 4) * scale;
                }
            }
            if !all_finite(values) {
                return Err(self.not_finite(codes, row, "a value is infinite"));
            }
            self.encode(row, values, out)?;
        }
        Ok(())
    }

    /// Engram rows, given as pairs of codes and scales: laid side by side where
    /// the bytes are kept, encoded anew elsewhere.
    fn fp8_rows<'a>(
        &self,
        [weight, scale]: [&Part; 2],
        rows: Range<u64>,
        pairs: impl Iterator<Item = (&'a [u8], &'a [u8])>,
        buffers: &mut Buffers,
    ) -> Result<(), RowError> {
        let info = &self.output.info;
        let keeps_bytes = info.ty == ENGRAM_FP8;
        let outputs = buffers.out.chunks_exact_mut(info.row_bytes() as usize);
        for ((row, (codes, scales)), out) in rows.zip(pairs).zip(outputs) {
            let highest = scales.iter().copied().max().unwrap_or(0);
            if highest == 255 {
                return Err(self.not_finite(scale, row, "a scale is NaN (255)"));
            }
            if has_nan_code(codes) {
                return Err(self.not_finite(weight, row, "a code is NaN"));
            }
            let values = &mut buffers.values;
            if !keeps_bytes || highest > LAST_SAFE_E4M3_SCALE {
                fp8::decode_row(codes, scales, ENGRAM_BLOCK as usize, values)
                    .map_err(|error| self.not_finite(weight, row, error.to_string()))?;
                if !all_finite(values) {
                    return Err(self.not_finite(weight, row, "a value is infinite"));
                }
            }
            if keeps_bytes {
                let (out_codes, out_scales) = out.split_at_mut(codes.len());
                out_codes.copy_from_slice(codes);
                out_scales.copy_from_slice(scales);
            } else {
                self.encode(row, values, out)?;
            }
        }
        Ok(())
    }

    fn ids(
        &self,
        part: &Part,
        limit: u32,
        rows: Range<u64>,
        buffers: &mut Buffers,
    ) -> Result<(), RowError> {
        let columns = self.output.info.dims[0];
        self.read(
            part,
            rows.start * columns * 8..rows.end * columns * 8,
            &mut buffers.input,
        )?;
        let (inputs, _) = buffers.input.as_chunks::<8>();
        let (outputs, _) = buffers.out.as_chunks_mut::<4>();
        for (at, (input, out)) in inputs.iter().zip(outputs).enumerate() {
            let expert = i64::from_le_bytes(*input);
            if !(0..i64::from(limit)).contains(&expert) {
                return Err(RowError::Expert {
                    path: self.inputs[part.file as usize].path().to_owned(),
                    tensor: part.name.clone(),
                    row: rows.start + at as u64 / columns,
                    expert,
                    limit,
                });
            }
            // Below `limit`, a u32 that the configuration bounds.
            *out = (expert as i32).to_le_bytes();
        }
        Ok(())
    }
}

/// The bytes of `rows` in a part whose rows have `row_bytes` bytes.
fn scaled(rows: &Range<u64>, row_bytes: u64) -> Range<u64> {
    rows.start * row_bytes..rows.end * row_bytes
}

fn has_nan_code(codes: &[u8]) -> bool {
    // Without an early exit, so that it runs as vector code.
    codes
        .iter()
        .fold(false, |bad, &code| bad | (code & 0x7f == 0x7f))
}

fn all_finite(values: &[f32]) -> bool {
    // Without an early exit, so that it runs as vector code.
    !values.iter().fold(false, |bad, x| bad | !x.is_finite())
}

/// Index of the first value that is NaN or infinite, for the plain float types.
fn first_not_finite(ty: GgmlType, bytes: &[u8]) -> Option<u64> {
    let position = match ty {
        GgmlType::F32 => bytes
            .as_chunks::<4>()
            .0
            .iter()
            .position(|b| !f32::from_le_bytes(*b).is_finite()),
        GgmlType::BF16 => bytes
            .as_chunks::<2>()
            .0
            .iter()
            .position(|b| u16::from_le_bytes(*b) & 0x7f80 == 0x7f80),
        GgmlType::F16 => bytes
            .as_chunks::<2>()
            .0
            .iter()
            .position(|b| u16::from_le_bytes(*b) & 0x7c00 == 0x7c00),
        _ => None,
    };
    position.map(|at| at as u64)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use v4_files::gguf::TensorInfo;

    use super::*;

    /// 40 x 72 codes in blocks of 32 x 32: the last blocks are narrower and lower.
    #[test]
    fn blocks_at_the_edges_have_scales_of_their_own() {
        const ROWS: u64 = 40;
        const COLUMNS: u64 = 72;
        let codes: Vec<u8> = (0..ROWS * COLUMNS).map(|i| (i * 7 % 127) as u8).collect();
        let scales = [120u8, 121, 122, 130, 131, 132];
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&codes).unwrap();
        file.write_all(&scales).unwrap();
        let part = |offset, bytes| Part {
            name: "m".to_owned(),
            file: 0,
            offset,
            bytes,
        };
        let inputs = [InputFile::open(file.path()).unwrap()];
        let dims = vec![COLUMNS, ROWS];
        let output = Output {
            info: TensorInfo::new("m".to_owned(), GgmlType::BF16, dims).unwrap(),
            instead_of: None,
            is_engram: false,
            source: Source::Fp8 {
                weight: part(0, ROWS * COLUMNS),
                scale: part(ROWS * COLUMNS, 6),
                block: [32, 32],
            },
        };
        let converter = Converter {
            inputs: &inputs,
            output: &output,
            cancel: &AtomicBool::new(false),
        };
        let mut buffers = Buffers::default();
        // The second run begins within the first band of blocks.
        for rows in [0..ROWS, 30..35] {
            let bytes = converter.convert(rows.clone(), &mut buffers).unwrap();
            let cells = rows.flat_map(|row| (0..COLUMNS).map(move |column| (row, column)));
            let (found, rest) = bytes.as_chunks::<2>();
            assert!(rest.is_empty());
            for (found, (row, column)) in found.iter().zip(cells) {
                let scale = scales[(row / 32 * 3 + column / 32) as usize];
                let code = codes[(row * COLUMNS + column) as usize];
                let expected = fp8::e4m3_to_f32(code) * fp8::e8m0_to_f32(scale);
                let found = f32::from_bits(u32::from(u16::from_le_bytes(*found)) << 16);
                assert_eq!(found.to_bits(), expected.to_bits(), "{row}, {column}");
            }
        }
    }
}
