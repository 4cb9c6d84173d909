//! A model's tensors, taken apart as section 4 of `docs/arithmetic.md` says.

use std::collections::BTreeMap;

use half::{bf16, f16};
use v4_by_hand::functions::power_of_two;
use v4_by_hand::products::{Matrix, Values};
use v4_files::gguf::{GgufFile, TensorInfo};
use v4_quant::GgmlType;
use v4_runtime::Precision;

/// All tensors of a file.
pub struct Weights {
    matrices: BTreeMap<String, Matrix>,
    tables: BTreeMap<String, Vec<i32>>,
}

impl Weights {
    pub fn read(file: &GgufFile, precision: Precision) -> Self {
        let mut matrices = BTreeMap::new();
        let mut tables = BTreeMap::new();
        for tensor in file.tensors() {
            let data = file.data(tensor);
            let name = tensor.name.clone();
            if tensor.ty == GgmlType::I32 {
                let words = data.as_chunks::<4>().0.iter();
                let _ = tables.insert(name, words.map(|w| i32::from_le_bytes(*w)).collect());
            } else {
                let _ = matrices.insert(name, matrix(tensor, data, precision));
            }
        }
        Self { matrices, tables }
    }

    pub fn matrix(&self, name: &str) -> &Matrix {
        let matrix = self.matrices.get(name);
        matrix.unwrap_or_else(|| panic!("no tensor {name}"))
    }

    /// A table of integers.
    pub fn table(&self, name: &str) -> &[i32] {
        &self.tables[name]
    }

    /// A tensor of one row.
    pub fn vector(&self, name: &str) -> Vec<f32> {
        let matrix = self.matrix(name);
        assert_eq!(matrix.rows(), 1, "{name}");
        matrix.row(0)
    }

    /// The products of all rows of a matrix with `x`.
    pub fn product(&self, name: &str, x: &[f32]) -> Vec<f32> {
        let matrix = self.matrix(name);
        matrix.product(0..matrix.rows(), x)
    }

    /// The products of the rows of part `part` of `parts` equal ones.
    pub fn part(&self, name: &str, part: usize, parts: usize, x: &[f32]) -> Vec<f32> {
        let matrix = self.matrix(name);
        let rows = matrix.rows() / parts;
        matrix.product(part * rows..(part + 1) * rows, x)
    }
}

fn matrix(tensor: &TensorInfo, data: &[u8], precision: Precision) -> Matrix {
    let values = match tensor.ty {
        GgmlType::F32 => {
            let words = data.as_chunks::<4>().0.iter();
            Values::Floats(words.map(|w| f32::from_le_bytes(*w)).collect())
        }
        GgmlType::BF16 => {
            let words = data.as_chunks::<2>().0.iter();
            Values::Floats(words.map(|w| bf16::from_le_bytes(*w).to_f32()).collect())
        }
        GgmlType::Q8_0 => q8_0(data),
        GgmlType::MXFP4 if precision == Precision::Exact => exact_mxfp4(data),
        GgmlType::MXFP4 => mxfp4(data),
        other => panic!("{} is {other:?}", tensor.name),
    };
    Matrix {
        columns: tensor.dims[0] as usize,
        values: match precision {
            Precision::Fast => values,
            Precision::Exact => values.decoded(),
        },
    }
}

fn q8_0(data: &[u8]) -> Values {
    let (mut integers, mut scales) = (Vec::new(), Vec::new());
    for block in data.chunks_exact(34) {
        scales.push(f16::from_le_bytes([block[0], block[1]]).to_f32());
        integers.extend(block[2..].iter().map(|b| *b as i8));
    }
    Values::Blocks { integers, scales }
}

fn mxfp4(data: &[u8]) -> Values {
    const DOUBLED: [i8; 8] = [0, 1, 2, 3, 4, 6, 8, 12];
    let integer = |code: u8| {
        let magnitude = DOUBLED[usize::from(code & 7)];
        if code & 8 == 0 { magnitude } else { -magnitude }
    };
    let (mut integers, mut scales) = (Vec::new(), Vec::new());
    for block in data.chunks_exact(17) {
        scales.push(power_of_two(i32::from(block[0]) - 128));
        integers.extend(block[1..].iter().map(|b| integer(b & 15)));
        integers.extend(block[1..].iter().map(|b| integer(b >> 4)));
    }
    Values::Blocks { integers, scales }
}

/// As floats, with a negative zero.
fn exact_mxfp4(data: &[u8]) -> Values {
    const MAGNITUDES: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let value = |code: u8| {
        let magnitude = MAGNITUDES[usize::from(code & 7)];
        if code & 8 == 0 { magnitude } else { -magnitude }
    };
    let mut values = Vec::new();
    for block in data.chunks_exact(17) {
        let scale = power_of_two(i32::from(block[0]) - 127);
        values.extend(block[1..].iter().map(|b| value(b & 15) * scale));
        values.extend(block[1..].iter().map(|b| value(b >> 4) * scale));
    }
    Values::Floats(values)
}
