//! Small GGUF files with Engram tables of random rows.
#![allow(dead_code)] // Each test program uses a part of it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rand::{Rng, RngCore, SeedableRng, rngs::SmallRng};
use v4_files::gguf::{GgufFile, Metadata, PAGE_ALIGNMENT, encode_header, layout_offsets};
use v4_quant::{GgmlType, encode_row, fp8};
use v4_runtime::EngineError;
use v4_runtime::model::engram::{Addressing, EngramConfig, TokenClasses};
use v4_runtime::residency::engram::EngramStore;
use v4_tokenizer::Tokenizer;

/// Channels per row: the published number.
pub const WIDTH: usize = 256;
/// Token ids of the tiny model.
pub const VOCAB: usize = 4096;
/// What the metadata say of FP8 rows.
pub const FP8: &str = "e4m3_e8m0_32_row264";

/// A file with the tables of the layers 1 and 4, and all their rows.
pub struct Tables {
    pub folder: tempfile::TempDir,
    pub path: PathBuf,
    pub ty: GgmlType,
    pub addressing: Addressing,
    /// For each table, its tensor's start in the file.
    pub positions: Vec<u64>,
    /// For each table, its rows one after the other, as stored.
    pub bytes: Vec<Vec<u8>>,
}

/// The classes of the tiny model's tokenizer.
fn classes() -> TokenClasses {
    static CLASSES: OnceLock<TokenClasses> = OnceLock::new();
    let derive = || {
        let path = "../tests/data/tiny-v41/tokenizer.json";
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        TokenClasses::derive(&Tokenizer::from_json_file(&path).unwrap()).unwrap()
    };
    CLASSES.get_or_init(derive).clone()
}

/// Two tables of 3 x 2 columns with about `column_rows` rows each.
pub fn addressing(column_rows: u64) -> Addressing {
    let config = EngramConfig {
        layer_ids: vec![1, 4],
        max_ngram: 4,
        heads: 2,
        vocab_size: column_rows,
        pad_id: 2,
    };
    Addressing::new(&config, classes()).unwrap()
}

/// Items of a row in the file's dimensions, and bytes.
pub fn row_layout(ty: GgmlType) -> (usize, usize) {
    match ty {
        GgmlType::I8 => (WIDTH + WIDTH / 32, WIDTH + WIDTH / 32),
        ty => (WIDTH, ty.row_bytes(WIDTH).unwrap()),
    }
}

/// A row of numbers in the type; `I8` stands for FP8 rows.
fn random_row(ty: GgmlType, rng: &mut SmallRng, out: &mut [u8]) {
    if ty == GgmlType::I8 {
        rng.fill_bytes(out);
        let (codes, scales) = out.split_at_mut(WIDTH);
        for code in codes.iter_mut().filter(|code| **code & 0x7f == 0x7f) {
            *code ^= 1;
        }
        scales.iter_mut().for_each(|s| *s = 100 + *s % 60);
        return;
    }
    let row: Vec<f32> = (0..WIDTH).map(|_| rng.random_range(-2.0..2.0)).collect();
    encode_row(ty, &row, None, out).unwrap();
}

impl Tables {
    pub fn new(ty: GgmlType, column_rows: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(7);
        let addressing = addressing(column_rows);
        let (items, row_bytes) = row_layout(ty);
        let bytes: Vec<Vec<u8>> = addressing
            .layers()
            .iter()
            .map(|layer| {
                let mut bytes = vec![0; layer.rows() as usize * row_bytes];
                for row in bytes.chunks_exact_mut(row_bytes) {
                    random_row(ty, &mut rng, row);
                }
                bytes
            })
            .collect();
        let shapes: Vec<_> = addressing
            .layers()
            .iter()
            .map(|layer| {
                let name = format!("blk.{}.engram_embd.weight", layer.layer());
                (name, ty, vec![items as u64, layer.rows()])
            })
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tables.gguf");
        let positions = write(&path, shapes, &bytes);
        Self {
            folder,
            path,
            ty,
            addressing,
            positions,
            bytes,
        }
    }

    pub fn open(&self) -> Arc<GgufFile> {
        Arc::new(GgufFile::open(&self.path).unwrap())
    }

    pub fn encoding(&self) -> Option<&'static str> {
        (self.ty == GgmlType::I8).then_some(FP8)
    }

    pub fn row(&self, table: usize, row: u64) -> &[u8] {
        let (_, row_bytes) = row_layout(self.ty);
        &self.bytes[table][row as usize * row_bytes..][..row_bytes]
    }

    /// The values of rows, from the bytes that were written.
    pub fn expected(&self, table: usize, rows: &[u64]) -> Vec<f32> {
        let mut out = vec![0.0; rows.len() * WIDTH];
        for (&row, out) in rows.iter().zip(out.chunks_exact_mut(WIDTH)) {
            let row = self.row(table, row);
            if self.ty == GgmlType::I8 {
                fp8::decode_row(&row[..WIDTH], &row[WIDTH..], 32, out).unwrap();
            } else {
                v4_quant::decode_row(self.ty, row, out).unwrap();
            }
        }
        out
    }

    /// The values of all tables for `ids` after `before`.
    pub fn expected_values(&self, before: &[u32], ids: &[u32]) -> Vec<f32> {
        let rows = self.addressing.rows(before, ids).unwrap();
        let tables = rows.iter().enumerate();
        tables
            .flat_map(|(i, rows)| self.expected(i, rows))
            .collect()
    }

    /// Overwrites a byte of a row in the file.
    pub fn damage(&self, table: usize, row: u64, at: usize, byte: u8) {
        use std::os::unix::fs::FileExt;
        let file = std::fs::File::options()
            .write(true)
            .open(&self.path)
            .unwrap();
        let (_, row_bytes) = row_layout(self.ty);
        let position = self.positions[table] + row * row_bytes as u64 + at as u64;
        file.write_all_at(&[byte], position).unwrap();
    }
}

/// Writes tensors of these bytes; returns where each starts.
pub fn write(
    path: &Path,
    shapes: Vec<(String, GgmlType, Vec<u64>)>,
    bytes: &[Vec<u8>],
) -> Vec<u64> {
    let tensors = layout_offsets(shapes, PAGE_ALIGNMENT).unwrap();
    let mut file = encode_header(&Metadata::new(), &tensors, PAGE_ALIGNMENT).unwrap();
    let data = file.len();
    let mut positions = Vec::new();
    for (tensor, bytes) in tensors.iter().zip(bytes) {
        file.resize(data + tensor.offset as usize, 0);
        positions.push(file.len() as u64);
        file.extend(bytes);
    }
    std::fs::write(path, &file).unwrap();
    positions
}

/// The same, from a store of two tables.
pub fn values(
    store: &Arc<EngramStore>,
    before: &[u32],
    ids: &[u32],
) -> Result<Vec<f32>, EngineError> {
    let mut fetch = store.fetch(before, ids)?;
    let each = ids.len() * store.addressing().columns() * WIDTH;
    let mut out = vec![0.0; 2 * each];
    let (first, second) = out.split_at_mut(each);
    fetch.take(0, first)?;
    fetch.take(1, second)?;
    Ok(out)
}

/// Token ids, some of them often, as in text.
pub fn text(n: usize, seed: u64) -> Vec<u32> {
    let mut rng = SmallRng::seed_from_u64(seed);
    (0..n)
        .map(|_| {
            let most = if rng.random_bool(0.7) {
                20
            } else {
                VOCAB as u32
            };
            rng.random_range(0..most)
        })
        .collect()
}
