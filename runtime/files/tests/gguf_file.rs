//! An open file: what it says of itself, and what is no file.

use std::sync::Arc;

use v4_files::gguf::{
    FileHashes, GgufError, GgufFile, Metadata, PartHashes, TensorHashes, encode_header, frame_hash,
    layout_offsets,
};
use v4_quant::GgmlType;

fn bytes() -> Vec<u8> {
    let mut metadata = Metadata::default();
    metadata.insert("general.name", "m");
    let tensors = [("a".to_owned(), GgmlType::F32, vec![64])];
    let tensors = layout_offsets(tensors, 32).unwrap();
    let mut bytes = encode_header(&metadata, &tensors, 32).unwrap();
    bytes.resize(bytes.len() + 256, 7);
    bytes
}

#[test]
fn what_is_no_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = |path| match GgufFile::open(path) {
        Err(GgufError::File { error, .. }) => *error,
        other => panic!("{other:?}"),
    };
    assert!(matches!(refusal(folder.path()), GgufError::NotAFile));
    let path = folder.path().join("m.gguf");
    assert!(matches!(refusal(&path), GgufError::Io { .. }));
    std::fs::write(&path, "").unwrap();
    assert!(matches!(refusal(&path), GgufError::NotGguf));
}

#[test]
fn a_file_knows_its_path_header_and_hashes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let bytes = bytes();
    std::fs::write(&path, &bytes).unwrap();
    let file = GgufFile::open(&path).unwrap();
    let header = bytes.len() - 256;
    assert_eq!(file.path(), path);
    assert_eq!(file.headers().collect::<Vec<_>>(), [&bytes[..header]]);
    assert_eq!(file.header_len(), header as u64);
    assert_eq!(file.header().data_offset, header as u64);
    assert_eq!(file.metadata().get_str("general.name").unwrap(), "m");
    assert!(!file.metadata().is_empty());
    let tensor = file.tensor("a").unwrap();
    file.advise_random(tensor);
    file.advise_huge_pages(tensor);
    file.lock_as_read(tensor);
    // All of it or nothing, as the system allows.
    assert!([0, 256].contains(&file.unlocked()));
    assert_eq!(file.data(tensor), [7; 256]);
    assert!(!file.is_checked() && file.hashes().is_none());

    let place = (header as u64, 256);
    let frame = frame_hash(&bytes, [place].into_iter());
    let tensors = vec![TensorHashes {
        name: "a".to_owned(),
        position: place.0,
        bytes: place.1,
        block_bytes: 100,
        blocks: bytes[header..]
            .chunks(100)
            .map(|block| *blake3::hash(block).as_bytes())
            .collect(),
    }];
    let whole = PartHashes {
        bytes: bytes.len() as u64,
        frame,
    };
    let hashes = FileHashes::new(vec![whole], tensors).unwrap();
    assert_eq!(hashes.parts(), [whole]);
    assert!(hashes.memory_bytes() >= 3 * 32);
    let file = GgufFile::open_checked(&path, Arc::new(hashes)).unwrap();
    assert!(file.is_checked() && file.hashes().is_some());
    let tensor = file.tensor("a").unwrap();
    file.check(tensor, 0..256).unwrap();
    assert!(file.altered().is_none());
}
