//! One layer's table in a GGUF file: the position and encoding of its rows.

use std::path::Path;
use std::sync::Arc;

use v4_files::gguf::{GgufFile, TensorInfo};
use v4_quant::{GgmlType, fp8};

use crate::error::EngineError;
use crate::model::Tensor;
use crate::model::engram::LayerAddressing;

/// Columns that share a scale in an FP8 row (spec 2.3).
const FP8_BLOCK: usize = 32;
/// Most channels per row accepted; V4.1-Flash has 256. Bounds a row's bytes.
const MAX_WIDTH: usize = 1 << 16;

/// How a row's bytes become numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RowFormat {
    /// `width` e4m3 codes, then one e8m0 scale per 32 of them, as published.
    Fp8,
    /// A row of one of ggml's types.
    Ggml(GgmlType),
}

/// A table: one tensor, never read as a whole.
#[derive(Debug, Clone)]
pub(super) struct Table {
    tensor: String,
    /// The tensor itself; there is none in tests of reads alone.
    source: Option<Tensor>,
    /// Where its first row starts.
    position: u64,
    /// Rows of the tensor before its first.
    first_row: u64,
    row_bytes: usize,
    rows: u64,
    width: usize,
    format: RowFormat,
}

/// One table for all layers, in llama.cpp's layout.
const JOINT: &str = "per_layer_token_embd.weight";

impl Table {
    /// Finds and checks the tables of all layers, each a tensor of its own.
    pub fn find_all(
        file: &Arc<GgufFile>,
        layers: &[LayerAddressing],
        width: usize,
        encoding: Option<&str>,
    ) -> Result<Vec<Self>, EngineError> {
        let layers = layers.iter();
        layers
            .map(|layer| Self::find(file, layer, width, encoding))
            .collect()
    }

    /// The same where all layers' rows are in one tensor, those of each layer from one of
    /// `firsts` on.
    pub fn find_joint(
        file: &Arc<GgufFile>,
        layers: &[LayerAddressing],
        width: usize,
        firsts: &[u64],
    ) -> Result<Vec<Self>, EngineError> {
        let tensor = Tensor::find(file, JOINT)?;
        check_width(&tensor, width)?;
        let format = ggml_format(&tensor)?;
        let row_bytes = tensor.ty().row_bytes(width).map_err(|e| tensor.error(e))?;
        let info = file.tensor(JOINT).expect("found above");
        check_columns(&tensor, info, width)?;
        let mut free = 0;
        let mut tables = Vec::with_capacity(layers.len());
        for (layer, &first_row) in layers.iter().zip(firsts) {
            let end = first_row.checked_add(layer.rows());
            let end = end.filter(|&end| first_row >= free && end <= info.rows());
            free = end.ok_or_else(|| {
                tensor.error(format!(
                    "has {} rows, but those of layer {}, {} from row {first_row} on, are not inside \
                     it or overlap those of another layer; the file is damaged or mixes two models, \
                     convert the checkpoint again",
                    info.rows(),
                    layer.layer(),
                    layer.rows()
                ))
            })?;
            tables.push(Self {
                position: file.position(info) + first_row * row_bytes as u64,
                first_row,
                tensor: JOINT.to_owned(),
                source: Some(tensor.clone()),
                row_bytes,
                rows: layer.rows(),
                width,
                format,
            });
        }
        Ok(tables)
    }

    /// Finds and checks the table of a layer.
    fn find(
        file: &Arc<GgufFile>,
        layer: &LayerAddressing,
        width: usize,
        encoding: Option<&str>,
    ) -> Result<Self, EngineError> {
        let name = format!("blk.{}.engram_embd.weight", layer.layer());
        let tensor = Tensor::find(file, &name)?;
        check_width(&tensor, width)?;
        let apart = format!("blk.{}.engram_embd_scale", layer.layer());
        for name in [format!("{apart}.weight"), apart] {
            if file.tensor(&name).is_some() {
                return Err(tensor.error(format!(
                    "has its scales in a separate tensor, {name}, which is not supported; convert \
                     the checkpoint with v4-convert"
                )));
            }
        }
        let format = match tensor.ty() {
            GgmlType::I8 => fp8_format(&tensor, width, encoding)?,
            _ => ggml_format(&tensor)?,
        };
        let row_bytes = match format {
            RowFormat::Fp8 => width + width / FP8_BLOCK,
            RowFormat::Ggml(ty) => ty.row_bytes(width).map_err(|e| tensor.error(e))?,
        };
        let columns = match format {
            RowFormat::Fp8 => row_bytes,
            RowFormat::Ggml(_) => width,
        };
        let info = file.tensor(&name).expect("found above");
        check_dims(&tensor, info, columns, layer)?;
        Ok(Self {
            position: file.position(info),
            first_row: 0,
            tensor: name,
            source: Some(tensor),
            row_bytes,
            rows: layer.rows(),
            width,
            format,
        })
    }

    /// A table of rows of that many bytes, without a file.
    #[cfg(test)]
    pub fn of_bytes(position: u64, row_bytes: usize, rows: u64) -> Self {
        Self {
            tensor: "test".to_owned(),
            source: None,
            position,
            first_row: 0,
            row_bytes,
            rows,
            width: row_bytes,
            format: RowFormat::Fp8,
        }
    }

    /// The file that it is in.
    pub fn path(&self) -> Option<&Path> {
        self.source.as_ref().map(Tensor::path)
    }

    /// The tensor's name.
    pub fn tensor(&self) -> &str {
        &self.tensor
    }

    /// Bytes of one row.
    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// Channels of one row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of rows.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Where a row starts in the file.
    pub fn row_position(&self, row: u64) -> u64 {
        debug_assert!(row < self.rows);
        self.position + row * self.row_bytes as u64
    }

    /// Sees that a row that was read is what the file's hashes say, if it has any.
    ///
    /// # Errors
    /// If it is not, or what surrounds it cannot be read.
    pub fn check_row(&self, row: u64, bytes: &[u8]) -> Result<(), EngineError> {
        match &self.source {
            Some(tensor) if tensor.is_checked() => {
                tensor.check_part((self.first_row + row) as usize * self.row_bytes, bytes)
            }
            _ => Ok(()),
        }
    }

    /// The same for the whole table.
    ///
    /// # Errors
    /// As [`Self::check_row`].
    pub fn check_all(&self, bytes: &[u8]) -> Result<(), EngineError> {
        match &self.source {
            Some(tensor) if self.first_row == 0 && bytes.len() == tensor.data().len() => {
                tensor.check_read(0, bytes)
            }
            // Rows between other rows: their blocks are read once more.
            Some(tensor) if tensor.is_checked() => {
                tensor.check_part(self.first_row as usize * self.row_bytes, bytes)
            }
            _ => Ok(()),
        }
    }

    /// Decodes a row.
    ///
    /// # Errors
    /// What is wrong with the row, if one of its values is not a number.
    pub fn decode(&self, bytes: &[u8], out: &mut [f32]) -> Result<(), String> {
        match self.format {
            RowFormat::Fp8 => decode_fp8(bytes, self.width, out),
            RowFormat::Ggml(ty) => decode_ggml(ty, bytes, out),
        }
    }
}

fn check_width(tensor: &Tensor, width: usize) -> Result<(), EngineError> {
    if (1..=MAX_WIDTH).contains(&width) {
        return Ok(());
    }
    Err(tensor.error(format!(
        "has rows of {width} channels according to the metadata, not 1 to {MAX_WIDTH}: the file is \
         damaged, convert it again"
    )))
}

fn ggml_format(tensor: &Tensor) -> Result<RowFormat, EngineError> {
    let ty = tensor.ty();
    if v4_quant::can_decode(ty) {
        return Ok(RowFormat::Ggml(ty));
    }
    Err(tensor.error(format!(
        "has rows of type {ty}, which cannot be decoded; convert the checkpoint with v4-convert"
    )))
}

fn fp8_format(
    tensor: &Tensor,
    width: usize,
    encoding: Option<&str>,
) -> Result<RowFormat, EngineError> {
    const REMEDY: &str = "convert the checkpoint with v4-convert";
    let Some(encoding) = encoding else {
        return Err(tensor.error(format!(
            "has type I8, but the file does not define its encoding (engram.encoding); {REMEDY}"
        )));
    };
    let known = format!("e4m3_e8m0_32_row{}", width + width / FP8_BLOCK);
    if encoding != known || !width.is_multiple_of(FP8_BLOCK) {
        return Err(tensor.error(format!(
            "has rows of {width} channels encoded as {encoding:?}, but only {known} is supported; \
             {REMEDY}"
        )));
    }
    Ok(RowFormat::Fp8)
}

fn check_columns(tensor: &Tensor, info: &TensorInfo, columns: usize) -> Result<(), EngineError> {
    if info.dims[0] == columns as u64 {
        return Ok(());
    }
    Err(tensor.error(format!(
        "has rows of {} items, but the metadata requires {columns}: the file is damaged or mixes two \
         models, convert the checkpoint again",
        info.dims[0]
    )))
}

fn check_dims(
    tensor: &Tensor,
    info: &TensorInfo,
    columns: usize,
    layer: &LayerAddressing,
) -> Result<(), EngineError> {
    let rows = layer.rows();
    check_columns(tensor, info, columns)?;
    let found = info.rows();
    if found == rows {
        return Ok(());
    }
    let how = if found < rows { "short" } else { "long" };
    Err(tensor.error(format!(
        "is too {how}: it has {found} rows, but the primes of layer {} add up to {rows}; the file \
         is damaged or mixes two models, convert the checkpoint again",
        layer.layer()
    )))
}

fn decode_fp8(bytes: &[u8], width: usize, out: &mut [f32]) -> Result<(), String> {
    let (codes, scales) = bytes.split_at_checked(width).unwrap_or((bytes, &[]));
    if let Some(i) = scales.iter().position(|&scale| scale == u8::MAX) {
        return Err(format!("scale {i} is 255, which is not a number"));
    }
    // Branch-free, so that the usual case takes vector speed.
    let nan = |code: u8| code & 0x7f == 0x7f;
    if codes.iter().fold(false, |any, &code| any | nan(code)) {
        let i = codes.iter().position(|&code| nan(code)).unwrap_or(0);
        return Err(format!(
            "code {i} is {:#04x}, which is not a number",
            codes[i]
        ));
    }
    fp8::decode_row(codes, scales, FP8_BLOCK, out).map_err(|e| e.to_string())?;
    check_finite(out)
}

fn decode_ggml(ty: GgmlType, bytes: &[u8], out: &mut [f32]) -> Result<(), String> {
    v4_quant::decode_row(ty, bytes, out).map_err(|e| e.to_string())?;
    check_finite(out)
}

/// Scales that are too large, or not finite, give such values.
fn check_finite(out: &[f32]) -> Result<(), String> {
    if out.iter().fold(true, |all, x| all & x.is_finite()) {
        return Ok(());
    }
    let i = out.iter().position(|x| !x.is_finite()).unwrap_or(0);
    Err(format!(
        "value {i} is {}, which is not a finite number",
        out[i]
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fp8_row() -> Vec<u8> {
        let mut row: Vec<u8> = (0..64).map(|i| i * 3 % 0x7f).collect();
        row.extend([127, 120]);
        row
    }

    #[test]
    fn a_row_has_the_published_values() {
        let row = fp8_row();
        let mut out = vec![0.0; 64];
        decode_fp8(&row, 64, &mut out).unwrap();
        for (i, &x) in out.iter().enumerate() {
            let scale = fp8::e8m0_to_f32(row[64 + i / 32]);
            assert_eq!(x, fp8::e4m3_to_f32(row[i]) * scale, "{i}");
        }
    }

    #[test]
    fn codes_and_scales_that_are_no_numbers_are_named() {
        let mut out = vec![0.0; 64];
        for (at, byte, expected) in [
            (65, 255, "scale 1 is 255"),
            (5, 0x7f, "code 5 is 0x7f"),
            (63, 0xff, "code 63 is 0xff"),
        ] {
            let mut row = fp8_row();
            row[at] = byte;
            let message = decode_fp8(&row, 64, &mut out).unwrap_err();
            assert!(message.starts_with(expected), "{message}");
        }
        assert!(decode_fp8(&fp8_row()[..65], 64, &mut out).is_err());
        assert!(decode_fp8(&[], 64, &mut out).is_err());
    }

    #[test]
    fn scales_that_are_not_finite_are_named() {
        let mut out = vec![0.0; 64];
        let mut row = vec![1; 68];
        row[..2].copy_from_slice(&half::f16::ONE.to_le_bytes());
        row[34..36].copy_from_slice(&half::f16::NAN.to_le_bytes());
        let message = decode_ggml(GgmlType::Q8_0, &row, &mut out).unwrap_err();
        assert!(message.starts_with("value 32 is NaN"), "{message}");
    }

    proptest! {
        /// Whatever bytes a row has: its values as `v4_quant` gives them, or an
        /// error; never a value that is not a number.
        #[test]
        fn any_bytes_are_numbers_or_an_error(
            ty in prop::sample::select(GgmlType::ALL),
            mut bytes in prop::collection::vec(any::<u8>(), 1024),
            zeros in 0..1024usize,
        ) {
            bytes[..zeros].fill(0);
            let mut out = vec![f32::NAN; 256];
            let mut expected = vec![0.0; 256];
            let result = if ty == GgmlType::I8 {
                let (codes, scales) = bytes[..264].split_at(256);
                fp8::decode_row(codes, scales, FP8_BLOCK, &mut expected).unwrap();
                decode_fp8(&bytes[..264], 256, &mut out)
            } else if v4_quant::can_decode(ty) {
                let row = &bytes[..ty.row_bytes(256).unwrap()];
                v4_quant::decode_row(ty, row, &mut expected).unwrap();
                decode_ggml(ty, row, &mut out)
            } else {
                return Ok(());
            };
            prop_assert_eq!(result.is_ok(), expected.iter().all(|x| x.is_finite()));
            if result.is_ok() {
                prop_assert_eq!(out, expected);
            }
        }
    }
}
