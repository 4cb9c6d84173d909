//! Kernels of `embed.cu` and `engram.cu`: what enters the streams.

mod common;

use common::{assert_same, rng, values, wild};
use rand::Rng;
use v4_by_hand::rows;
use v4_cuda::args::{Embed, Engram};
use v4_cuda_shim::{Bench, Shape, flushed};
use v4_quant::{GgmlType, decode_row};

#[test]
fn embed() {
    let (rows, width) = (9, 320);
    let ids = [3u32, 0, 8, 3];
    let mut rng = rng(12);
    for ty in [
        GgmlType::F32,
        GgmlType::F16,
        GgmlType::BF16,
        GgmlType::Q8_0,
        GgmlType::MXFP4,
    ] {
        // Any bytes are some values, NaNs and subnormal scales among them.
        let bytes = ty.row_bytes(width).unwrap();
        let table: Vec<u8> = (0..rows * bytes).map(|_| rng.random()).collect();
        for streams in [1, 4] {
            let expected = ids.iter().flat_map(|id| {
                let mut row = vec![0.0; width];
                let source = &table[*id as usize * bytes..][..bytes];
                flushed(|| decode_row(ty, source, &mut row)).unwrap();
                row.repeat(streams)
            });
            let expected: Vec<f32> = expected.collect();
            for mut bench in Bench::of_each_order() {
                let h = bench.space::<f32>(ids.len() * streams * width);
                let args = Embed {
                    h: h.address(),
                    table: bench.put(&table).address(),
                    ids: bench.put(&ids).address(),
                    row_bytes: bytes as u64,
                    width: width as u32,
                    streams: streams as u32,
                    type_id: ty as u32,
                    unused: 0,
                };
                bench.launch("embed", Shape::row(4, 128), &args).unwrap();
                assert_same(&bench.get(h), &expected, ty.name());
            }
        }
    }
}

#[test]
fn engram() {
    let mut rng = rng(13);
    for (streams, width) in [(4, 300), (4, 512), (1, 32), (2, 17)] {
        let tokens = 4;
        let mut h = values(&mut rng, tokens * streams * width, 3.0);
        let mut kv = values(&mut rng, tokens * (streams + 1) * width, 3.0);
        let mut gain = values(&mut rng, streams * width, 2.0);
        // A stream of zeros, whose product with its key is 0; one of very different sizes; and
        // one with a NaN.
        h[..width].fill(0.0);
        let at = streams * width;
        h[at..at + width].copy_from_slice(&wild(&mut rng, width));
        kv[2 * (streams + 1) * width + 3] = f32::NAN;
        // And one whose product with its key is nearly 0, but below it.
        gain[..2].fill(1.0);
        let (at, key) = (3 * streams * width, 3 * (streams + 1) * width);
        h[at..at + width].fill(0.0);
        h[at..at + 2].fill(1.0);
        kv[key..key + 2].copy_from_slice(&[1.0, -1.0000002]);
        let expected: Vec<f32> = flushed(|| {
            let each = h
                .chunks(streams * width)
                .zip(kv.chunks((streams + 1) * width));
            let token = |(h, kv): (&[f32], &[f32])| {
                let (keys, value) = kv.split_at(streams * width);
                let parts = h
                    .chunks(width)
                    .zip(keys.chunks(width))
                    .zip(gain.chunks(width));
                let part = |((h, key), gain): ((&[f32], &[f32]), &[f32])| {
                    let gate = rows::engram_gate(h, key, gain, 1e-6);
                    let add = |(h, v): (&f32, &f32)| gate.mul_add(*v, *h);
                    h.iter().zip(value).map(add).collect::<Vec<f32>>()
                };
                parts.flat_map(part).collect::<Vec<f32>>()
            };
            each.flat_map(token).collect()
        });
        for mut bench in Bench::of_each_order() {
            let out = bench.put(&h);
            let args = Engram {
                h: out.address(),
                kv: bench.put(&kv).address(),
                gain: bench.put(&gain).address(),
                width: width as u32,
                streams: streams as u32,
                eps: 1e-6,
                unused: 0,
            };
            let shape = Shape::row((tokens * streams) as u32, 256).with_shared(3072);
            bench.launch("engram", shape, &args).unwrap();
            assert_same(&bench.get(out), &expected, &format!("{streams} of {width}"));
        }
    }
}
