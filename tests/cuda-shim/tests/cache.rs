//! Kernels of `cache.cu`: bytes of rows as the host stores them, and what they decode to.

mod common;

use common::{assert_same, rng, values, wild};
use rand::Rng;
use v4_by_hand::{angles, encoders, functions, rows};
use v4_cuda::args::{Pages, PushRows, ReadRows, RoundIndex, RowFormat};
use v4_cuda_shim::{Bench, Region, Shape, flushed};
use v4_quant::rounding::CacheFormat;

/// A row format on both sides.
#[derive(Clone, Copy)]
struct Format {
    kind: u32,
    tail: usize,
    host: Option<CacheFormat>,
}

const FORMATS: [Format; 6] = [
    Format {
        kind: RowFormat::F32,
        tail: 0,
        host: None,
    },
    Format {
        kind: RowFormat::E4M3_64,
        tail: 64,
        host: Some(CacheFormat::V4Kv { tail: 64 }),
    },
    Format {
        kind: RowFormat::E4M3_64,
        tail: 192,
        host: Some(CacheFormat::V4Kv { tail: 192 }),
    },
    Format {
        kind: RowFormat::E4M3_32,
        tail: 0,
        host: Some(CacheFormat::V41Window),
    },
    Format {
        kind: RowFormat::E2M1_32,
        tail: 0,
        host: Some(CacheFormat::IndexKey),
    },
    Format {
        kind: RowFormat::E2M1_16,
        tail: 0,
        host: Some(CacheFormat::V41Main),
    },
];

impl Format {
    fn args(self, width: usize, stride: usize) -> RowFormat {
        RowFormat {
            kind: self.kind,
            width: width as u32,
            tail: self.tail as u32,
            stride: stride as u32,
        }
    }

    fn encode(self, row: &[f32]) -> Vec<u8> {
        let Some(host) = self.host else {
            return row.iter().flat_map(|x| x.to_le_bytes()).collect();
        };
        let mut bytes = vec![0; host.row_bytes(row.len()).unwrap()];
        flushed(|| host.encode(row, &mut bytes)).unwrap();
        bytes
    }

    fn decode(self, bytes: &[u8], width: usize) -> Vec<f32> {
        let mut row = vec![0.0; width];
        match self.host {
            Some(host) => flushed(|| host.decode(bytes, &mut row)).unwrap(),
            None => row.copy_from_slice(bytemuck::cast_slice(bytes)),
        }
        row
    }

    /// The values as the page of definitions has them.
    fn by_hand(self, row: &[f32]) -> Vec<f32> {
        let (rounded, tail) = row.split_at(row.len() - self.tail);
        let rounded = match self.kind {
            RowFormat::F32 => rounded.to_vec(),
            RowFormat::E4M3_64 => encoders::e4m3_blocks(rounded, 64),
            RowFormat::E4M3_32 => encoders::e4m3_blocks(rounded, 32),
            RowFormat::E2M1_16 => encoders::e2m1_blocks_with_e4m3(rounded),
            _ => index_values(rounded),
        };
        [rounded, encoders::bf16(tail)].concat()
    }
}

/// The values of index keys, as they are read back.
fn index_values(row: &[f32]) -> Vec<f32> {
    let blocks = encoders::e2m1_blocks(row);
    let values = blocks.iter().zip(row.chunks(32)).flat_map(|(block, x)| {
        // An integer has no negative zero.
        let value = |(doubled, x): (&i32, &f32)| (*doubled as f32 * 0.5).copysign(*x) * block.scale;
        block.doubled.iter().zip(x).map(value).collect::<Vec<f32>>()
    });
    values.collect()
}

/// Three pages of two rows, out of order, as a ring: row 5 on goes to the first page again.
struct Cache {
    pages: [Region<u8>; 3],
    table: Region<u64>,
    stride: usize,
}

impl Cache {
    fn new(bench: &mut Bench, stride: usize) -> Self {
        let pages = [(); 3].map(|()| bench.space(2 * stride));
        let table = bench.put(&[pages[2].address(), pages[0].address(), pages[1].address()]);
        Self {
            pages,
            table,
            stride,
        }
    }

    fn args(&self) -> Pages {
        Pages {
            table: self.table.address(),
            page_rows: 2,
            pages: 3,
        }
    }

    /// The first `bytes` bytes of a row.
    fn row(&self, bench: &Bench, n: usize, bytes: usize) -> Vec<u8> {
        let page = self.pages[[2, 0, 1][n / 2 % 3]];
        bench.get(page)[n % 2 * self.stride..][..bytes].to_vec()
    }
}

/// Rows of all kinds, five of them.
fn some_rows(width: usize) -> Vec<f32> {
    let mut rng = rng(width as u64);
    let mut ties: Vec<f32> = (0..width)
        .map(|i| ((i * 37) % 97) as f32 / 8.0 - 6.0)
        .collect();
    // Halfway between two bf16.
    for x in &mut ties[width / 2..] {
        *x = f32::from_bits(x.to_bits() & !0xffff | 0x8000);
    }
    // Below the least scale of every format, and blocks of zeros.
    let mut tiny = values(&mut rng, width, 1e-6);
    tiny[width / 3..].fill(-0.0);
    for x in &mut tiny[2 * width / 3..] {
        *x = rng.random_range(-6.9e-38..6.9e-38);
    }
    [
        values(&mut rng, width, 3.0),
        wild(&mut rng, width),
        ties,
        tiny,
        values(&mut rng, width, 1e30),
    ]
    .concat()
}

#[test]
fn rows_are_stored_as_on_the_host() {
    for format in FORMATS {
        for width in [192, 256, 512] {
            let x = some_rows(width);
            for mut bench in Bench::of_each_order() {
                let bytes = format.encode(&x[..width]).len();
                let stride = bytes.next_multiple_of(16);
                let cache = Cache::new(&mut bench, stride);
                let args = PushRows {
                    x: bench.put(&x).address(),
                    gain: 0,
                    normed: 0,
                    cosines: 0,
                    sines: 0,
                    to: cache.args(),
                    format: format.args(width, stride),
                    first: 3,
                    pairs: 0,
                    hadamard: 0,
                    eps: 0.0,
                };
                let shape = Shape::row(5, 256).with_shared(1024 + 4 * width as u32);
                bench.launch("push_rows", shape, &args).unwrap();
                for (i, row) in x.chunks(width).enumerate() {
                    let found = cache.row(&bench, 3 + i, bytes);
                    assert_eq!(found, format.encode(row), "row {i} of kind {}", format.kind);
                }
                // And back, in another order.
                let y = bench.space::<f32>(3 * width);
                let args = ReadRows {
                    y: y.address(),
                    which: bench.put(&[7u32, 3, 5]).address(),
                    from: cache.args(),
                    format: format.args(width, stride),
                    first: 0,
                    rows: 3,
                };
                let blocks = (3 * width).div_ceil(128) as u32;
                bench
                    .launch("read_rows", Shape::row(blocks, 128), &args)
                    .unwrap();
                let rows = [4, 0, 2].map(|i| &x[i * width..][..width]);
                let decoded = rows.map(|row| format.decode(&format.encode(row), width));
                assert_same(&bench.get(y), &decoded.concat(), "decoded");
                let by_hand = rows.map(|row| flushed(|| format.by_hand(row)));
                assert_same(&bench.get(y), &by_hand.concat(), "as defined");
                // Those that follow each other.
                let args = ReadRows {
                    which: 0,
                    first: 4,
                    ..args
                };
                bench
                    .launch("read_rows", Shape::row(blocks, 128), &args)
                    .unwrap();
                let rows = [1, 2, 3].map(|i| &x[i * width..][..width]);
                let decoded = rows.map(|row| format.decode(&format.encode(row), width));
                assert_same(&bench.get(y), &decoded.concat(), "decoded");
            }
        }
    }
}

#[test]
fn a_value_that_is_not_finite_makes_its_block_nan() {
    let width = 256;
    for format in FORMATS {
        // The payload of the last one is where bf16 has no bits.
        let quiet = [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
        for bad in quiet.into_iter().chain([f32::from_bits(0x7f80_0001)]) {
            let mut x = values(&mut rng(1), width, 3.0);
            x[100] = bad;
            x[width - 5] = bad;
            let mut bench = Bench::of_each_order().next().unwrap();
            let bytes = format.encode(&x).len();
            let stride = bytes.next_multiple_of(4);
            let cache = Cache::new(&mut bench, stride);
            let args = PushRows {
                x: bench.put(&x).address(),
                gain: 0,
                normed: 0,
                cosines: 0,
                sines: 0,
                to: cache.args(),
                format: format.args(width, stride),
                first: 0,
                pairs: 0,
                hadamard: 0,
                eps: 0.0,
            };
            let shape = Shape::row(1, 256).with_shared(1024 + 4 * width as u32);
            bench.launch("push_rows", shape, &args).unwrap();
            // The sign of a NaN isn't defined: what matters is what is read back.
            let found = format.decode(&cache.row(&bench, 0, bytes), width);
            let expected = format.decode(&format.encode(&x), width);
            assert_same(&found, &expected, &format!("{bad} in kind {}", format.kind));
            let y = bench.space::<f32>(width);
            let args = ReadRows {
                y: y.address(),
                which: 0,
                from: cache.args(),
                format: format.args(width, stride),
                first: 0,
                rows: 1,
            };
            bench
                .launch("read_rows", Shape::row(2, 128), &args)
                .unwrap();
            assert_same(&bench.get(y), &expected, "decoded");
        }
    }
}

#[test]
fn any_bytes_decode_as_on_the_host() {
    let width = 256;
    for format in FORMATS {
        let mut rng = rng(8);
        let bytes = format.encode(&vec![0.0; width]).len();
        let stride = bytes.next_multiple_of(4);
        let mut bench = Bench::of_each_order().next().unwrap();
        let rows: Vec<u8> = (0..20 * stride).map(|_| rng.random()).collect();
        let page = bench.put(&rows);
        let y = bench.space::<f32>(20 * width);
        let args = ReadRows {
            y: y.address(),
            which: 0,
            from: Pages {
                table: bench.put(&[page.address()]).address(),
                page_rows: 100,
                pages: 1,
            },
            format: format.args(width, stride),
            first: 0,
            rows: 20,
        };
        let blocks = (20 * width).div_ceil(256) as u32;
        bench
            .launch("read_rows", Shape::row(blocks, 256), &args)
            .unwrap();
        let decode = |row: &[u8]| format.decode(&row[..bytes], width);
        let expected: Vec<f32> = rows.chunks(stride).flat_map(decode).collect();
        assert_same(&bench.get(y), &expected, &format!("kind {}", format.kind));
    }
}

#[test]
fn rows_are_normalised_rotated_and_transformed_on_the_way() {
    let (width, rotated) = (128, 32);
    let angles = angles::Angles::new(10_000.0, rotated, None);
    let mut rng = rng(11);
    let x = values(&mut rng, 3 * width, 5.0);
    let gain = values(&mut rng, width, 2.0);
    let positions = [5usize, 6, 7];
    let phases = positions.iter().flat_map(|p| {
        let one = |f: &u64| functions::cosine_and_sine((*p as u64).wrapping_mul(*f));
        angles.frequencies().iter().map(one).collect::<Vec<_>>()
    });
    let (cosines, sines): (Vec<f32>, Vec<f32>) = phases.unzip();
    for hadamard in [false, true] {
        let normed: Vec<f32> = flushed(|| {
            x.chunks(width)
                .flat_map(|row| rows::rms_norm(row, &gain, 1e-6))
                .collect()
        });
        let mut expected = normed.clone();
        flushed(|| {
            for (row, position) in expected.chunks_mut(width).zip(positions) {
                angles.rotate(row, position);
                if hadamard {
                    encoders::hadamard(row);
                }
            }
        });
        let format = FORMATS[4];
        let bytes = format.encode(&expected[..width]).len();
        for mut bench in Bench::of_each_order() {
            let cache = Cache::new(&mut bench, bytes);
            let kept = bench.space::<f32>(3 * width);
            let args = PushRows {
                x: bench.put(&x).address(),
                gain: bench.put(&gain).address(),
                normed: kept.address(),
                cosines: bench.put(&cosines).address(),
                sines: bench.put(&sines).address(),
                to: cache.args(),
                format: format.args(width, bytes),
                first: 0,
                pairs: rotated as u32 / 2,
                hadamard: u32::from(hadamard),
                eps: 1e-6,
            };
            let shape = Shape::row(3, 256).with_shared(1024 + 4 * width as u32);
            bench.launch("push_rows", shape, &args).unwrap();
            assert_same(&bench.get(kept), &normed, "norm");
            for (i, row) in expected.chunks(width).enumerate() {
                assert_eq!(cache.row(&bench, i, bytes), format.encode(row), "row {i}");
            }
        }
    }
}

#[test]
fn queries_are_rounded_like_keys() {
    for width in [32, 64, 128, 256] {
        let x = some_rows(width);
        for hadamard in [false, true] {
            let mut before = x.clone();
            if hadamard {
                flushed(|| before.chunks_mut(width).for_each(encoders::hadamard));
            }
            let expected: Vec<f32> =
                flushed(|| before.chunks(width).flat_map(index_values).collect());
            let blocks = flushed(|| encoders::e2m1_blocks(&before));
            for mut bench in Bench::of_each_order() {
                let y = bench.put(&x);
                let doubled = bench.space::<i8>(x.len());
                let scales = bench.space::<f32>(x.len() / 32);
                let args = RoundIndex {
                    y: y.address(),
                    doubled: doubled.address(),
                    scales: scales.address(),
                    x: y.address(),
                    rows: 5,
                    width: width as u32,
                    hadamard: u32::from(hadamard),
                    unused: 0,
                };
                let shape = Shape::row(2, 128).with_shared(16 * width as u32);
                bench.launch("round_index", shape, &args).unwrap();
                assert_same(&bench.get(y), &expected, &format!("rows of {width}"));
                let found = bench.get(doubled).into_iter().map(i32::from);
                assert!(found.eq(blocks.iter().flat_map(|b| b.doubled.clone())));
                let expected: Vec<f32> = blocks.iter().map(|b| b.scale).collect();
                assert_same(&bench.get(scales), &expected, "scales");
            }
        }
    }
}
