//! Engram rows from a file: equal to the bytes written, or an error that names the row.

use std::sync::Arc;

use v4_files::gguf::GgufFile;
use v4_quant::GgmlType;
use v4_runtime::EngineError;
use v4_runtime::residency::engram::{EngramOptions, EngramStore};

#[path = "common/tables.rs"]
mod tables;
use tables::{FP8, Tables, VOCAB, WIDTH, text, values};

fn open(t: &Tables, options: &EngramOptions) -> Arc<EngramStore> {
    EngramStore::open(
        &t.open(),
        t.addressing.clone(),
        WIDTH,
        t.encoding(),
        options,
    )
    .unwrap()
}

#[test]
fn rows_are_those_written_in_every_type() {
    for ty in [
        GgmlType::I8,
        GgmlType::Q8_0,
        GgmlType::MXFP4,
        GgmlType::Q4_K,
        GgmlType::F32,
        GgmlType::BF16,
    ] {
        let t = Tables::new(ty, 200);
        let store = open(&t, &EngramOptions::default());
        let ids = text(40, 1);
        assert_eq!(
            values(&store, &[], &ids).unwrap(),
            t.expected_values(&[], &ids)
        );
        let (before, ids) = ids.split_at(11);
        assert_eq!(
            values(&store, before, ids).unwrap(),
            t.expected_values(before, ids),
            "{ty}"
        );
    }
}

#[test]
fn a_row_that_is_no_row_of_numbers_is_named() {
    let t = Tables::new(GgmlType::I8, 100);
    let ids = text(5, 2);
    let rows = t.addressing.rows(&[], &ids).unwrap();
    t.damage(1, rows[1][13], 260, 255);
    let message = values(&open(&t, &EngramOptions::default()), &[], &ids)
        .unwrap_err()
        .to_string();
    let expected = format!(
        "tensor blk.4.engram_embd.weight, row {}: scale 4 is 255",
        rows[1][13]
    );
    assert!(message.contains(&expected), "{message}");
}

#[test]
fn ids_beyond_the_vocabulary_are_named() {
    let t = Tables::new(GgmlType::I8, 100);
    let store = open(&t, &EngramOptions::default());
    let beyond = VOCAB as u32;
    for (before, ids) in [(&[][..], &[0, beyond][..]), (&[0, beyond][..], &[1][..])] {
        assert!(matches!(
            store.fetch(before, ids),
            Err(EngineError::TokenId { index: 1, .. })
        ));
    }
}

/// What [`EngramStore::open`] says of a file whose tables have
/// this type and shape.
fn refusal(
    ty: GgmlType,
    dims: [Vec<u64>; 2],
    more: Option<&str>,
    encoding: Option<&str>,
) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    let [one, four] = dims;
    let mut shapes = vec![
        ("blk.1.engram_embd.weight".to_owned(), ty, one),
        ("blk.4.engram_embd.weight".to_owned(), ty, four),
    ];
    shapes.extend(more.map(|name| (name.to_owned(), GgmlType::I8, vec![8, 1])));
    let bytes: Vec<Vec<u8>> = shapes
        .iter()
        .map(|(_, ty, dims)| vec![0; ty.row_bytes(dims[0] as usize).unwrap() * dims[1] as usize])
        .collect();
    tables::write(&path, shapes, &bytes);
    let file = Arc::new(GgufFile::open(&path).unwrap());
    let options = EngramOptions::default();
    EngramStore::open(&file, tables::addressing(100), WIDTH, encoding, &options)
        .unwrap_err()
        .to_string()
}

#[test]
fn tables_that_do_not_fit_are_refused_by_name() {
    let a = tables::addressing(100);
    let rows = [a.layers()[0].rows(), a.layers()[1].rows()];
    let dims = |items: u64| [vec![items, rows[0]], vec![items, rows[1]]];
    let i8 = GgmlType::I8;
    let scale = "blk.1.engram_embd_scale.weight";
    for (message, parts) in [
        (refusal(i8, dims(264), None, None), vec!["engram.encoding"]),
        (
            refusal(i8, dims(264), None, Some("lloyd4_e5m3_32_r136")),
            vec!["\"lloyd4_e5m3_32_r136\"", FP8],
        ),
        (
            refusal(i8, dims(256), Some(scale), None),
            vec!["scales in a separate tensor", scale, "v4-convert"],
        ),
        (refusal(i8, dims(256), None, Some(FP8)), vec!["256", "264"]),
        (
            refusal(GgmlType::Q8_0, dims(128), None, None),
            vec!["128", "256"],
        ),
        (
            refusal(GgmlType::I16, dims(256), None, None),
            vec!["I16", "cannot be decoded"],
        ),
        (
            refusal(
                i8,
                [vec![264, rows[0]], vec![264, rows[1] - 1]],
                None,
                Some(FP8),
            ),
            vec!["blk.4.engram_embd.weight is too short", "primes"],
        ),
        (
            refusal(
                i8,
                [vec![264, rows[0] + 3], vec![264, rows[1]]],
                None,
                Some(FP8),
            ),
            vec!["blk.1.engram_embd.weight is too long"],
        ),
    ] {
        for part in parts {
            assert!(message.contains(part), "{part:?} is not in: {message}");
        }
    }
}
