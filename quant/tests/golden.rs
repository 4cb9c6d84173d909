//! Compares decoders with vectors made by an independent implementation.
//!
//! `data/golden.bin` was made with the numpy decoders of llama.cpp's gguf
//! package: for each type random blocks (seeded; f16 scales kept finite) and
//! the values they decode to. A record is three little-endian u32 (type number,
//! bytes of blocks, values), the blocks, and the values as f32.

use std::collections::BTreeSet;

use v4_quant::{GgmlType, can_decode, decode_row};

struct Record<'a> {
    ty: GgmlType,
    blocks: &'a [u8],
    values: Vec<f32>,
}

fn records() -> Vec<Record<'static>> {
    let mut rest: &[u8] = include_bytes!("data/golden.bin");
    let mut records = Vec::new();
    while !rest.is_empty() {
        let (head, tail) = rest.split_at(12);
        let word = |i: usize| u32::from_le_bytes(head[4 * i..4 * i + 4].try_into().unwrap());
        let (blocks, tail) = tail.split_at(word(1) as usize);
        let (values, tail) = tail.split_at(4 * word(2) as usize);
        records.push(Record {
            ty: GgmlType::from_id(word(0)).expect("known type"),
            blocks,
            values: values
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                .collect(),
        });
        rest = tail;
    }
    records
}

#[test]
fn every_decoder_has_golden_blocks() {
    let golden: BTreeSet<GgmlType> = records().iter().map(|r| r.ty).collect();
    let decodable = GgmlType::ALL.iter().copied().filter(|&ty| can_decode(ty));
    assert_eq!(golden, decodable.collect());
}

#[test]
fn decoders_give_the_golden_bits() {
    for record in records() {
        let mut values = vec![0.0; record.values.len()];
        decode_row(record.ty, record.blocks, &mut values).unwrap();
        for (i, (ours, golden)) in values.iter().zip(&record.values).enumerate() {
            // llama.cpp multiplies whole numbers, which have no -0; e2m1 has one.
            assert!(
                ours.to_bits() == golden.to_bits() || (*ours == 0.0 && *golden == 0.0),
                "{} value {i}: {ours} instead of {golden}",
                record.ty
            );
        }
    }
}
