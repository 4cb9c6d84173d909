//! Models in several parts: what they say together, and every lie that one part can tell.

use std::fs;
use std::path::{Path, PathBuf};

use v4_files::gguf::{
    Array, GgufError, GgufFile, MAX_PARTS, Metadata, PartName, TensorInfo, Value, encode_header,
    layout_offsets,
};
use v4_quant::GgmlType;

/// What a test lays down as one part.
struct Given {
    metadata: Metadata,
    /// Name and number of values.
    tensors: Vec<(&'static str, u64)>,
}

fn split(metadata: &mut Metadata, no: u16, count: u16, tensors: i32) {
    metadata.insert("split.no", Value::U16(no));
    metadata.insert("split.count", Value::U16(count));
    metadata.insert("split.tensors.count", Value::I32(tensors));
}

/// Three parts, of which the first has no tensor, as llama.cpp's splitter writes them.
fn given() -> [Given; 3] {
    let tensors: [&[(&str, u64)]; 3] = [&[], &[("a", 64), ("b", 32)], &[("c", 96)]];
    let mut no = 0;
    tensors.map(|tensors| {
        let mut metadata = Metadata::new();
        if no == 0 {
            metadata.insert("general.architecture", "test".to_owned());
            metadata.insert("test.numbers", Array::U32(vec![1, 2, 3]));
        }
        split(&mut metadata, no, 3, 3);
        no += 1;
        Given {
            metadata,
            tensors: tensors.to_vec(),
        }
    })
}

/// A part's bytes; the values of a tensor are its first letter.
fn bytes(part: &Given) -> Vec<u8> {
    let shapes = part.tensors.iter();
    let shapes = shapes.map(|(name, n)| ((*name).to_owned(), GgmlType::I8, vec![*n]));
    let infos: Vec<TensorInfo> = layout_offsets(shapes, 32).unwrap();
    let mut bytes = encode_header(&part.metadata, &infos, 32).unwrap();
    let data = bytes.len();
    for info in &infos {
        bytes.resize(data + info.offset as usize, 0);
        bytes.resize(bytes.len() + info.bytes as usize, info.name.as_bytes()[0]);
    }
    bytes
}

fn path(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("m-{number:05}-of-00003.gguf"))
}

fn lay(folder: &Path, parts: &[Given]) {
    for (i, part) in parts.iter().enumerate() {
        fs::write(path(folder, i + 1), bytes(part)).unwrap();
    }
}

fn refused(folder: &Path, first: usize, expected: &[&str]) {
    let error = GgufFile::open(&path(folder, first))
        .unwrap_err()
        .to_string();
    assert!(!error.contains('\n'), "{error}");
    for text in expected {
        assert!(error.contains(text), "{error}: lacks {text:?}");
    }
}

#[test]
fn three_parts_are_one_model() {
    let dir = tempfile::tempdir().unwrap();
    lay(dir.path(), &given());
    let file = GgufFile::open(&path(dir.path(), 1)).unwrap();
    assert_eq!(file.parts().len(), 3);
    let names: Vec<_> = file.tensors().iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    for (name, len, part) in [("a", 64, 2), ("b", 32, 2), ("c", 96, 3)] {
        let tensor = file.tensor(name).unwrap();
        assert_eq!(file.data(tensor), vec![name.as_bytes()[0]; len]);
        assert_eq!(file.part_of(tensor).path(), path(dir.path(), part));
    }
    assert!(file.metadata().contains("test.numbers"));
    assert!(
        file.metadata()
            .iter()
            .all(|(key, _)| !key.starts_with("split."))
    );
    let lengths = (1..=3).map(|n| fs::metadata(path(dir.path(), n)).unwrap().len());
    assert_eq!(file.file_len(), lengths.sum::<u64>());
    file.check_unchanged().unwrap();
    // What was read through positions is what is mapped.
    for direct in [false, true] {
        let reads = file.reopen(direct).unwrap();
        let (unit, tensor) = (reads.unit() as u64, file.tensor("c").unwrap());
        let (start, end) = (file.position(tensor), file.position(tensor) + tensor.bytes);
        let from = start / unit * unit;
        let len = (end - from).next_multiple_of(unit) as usize;
        let mut out = v4_files::io::AlignedBuffer::new(len, reads.memory_unit());
        v4_files::io::read_into(&reads, from, (end - from) as usize, &mut out).unwrap();
        assert_eq!(
            &out[(start - from) as usize..(end - from) as usize],
            file.data(tensor)
        );
    }
}

/// A hub's cache has names that are links to files with other names.
#[cfg(unix)]
#[test]
fn parts_may_be_links_but_not_to_one_another() {
    let (blobs, snapshot) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (i, part) in given().iter().enumerate() {
        let blob = blobs.path().join(format!("{i:064}"));
        fs::write(&blob, bytes(part)).unwrap();
        std::os::unix::fs::symlink(&blob, path(snapshot.path(), i + 1)).unwrap();
    }
    assert_eq!(
        GgufFile::open(&path(snapshot.path(), 1))
            .unwrap()
            .parts()
            .len(),
        3
    );
    // The first part by its own name: the others cannot be found.
    let error = GgufFile::open(&blobs.path().join(format!("{:064}", 0))).unwrap_err();
    assert!(
        error.to_string().contains("-00001-of-00003.gguf"),
        "{error}"
    );
    fs::remove_file(path(snapshot.path(), 3)).unwrap();
    std::os::unix::fs::symlink(path(snapshot.path(), 2), path(snapshot.path(), 3)).unwrap();
    refused(
        snapshot.path(),
        1,
        &["m-00003-of-00003.gguf", "part 2 of 3"],
    );
}

#[test]
fn another_part_than_the_first_says_which_to_give() {
    let dir = tempfile::tempdir().unwrap();
    lay(dir.path(), &given());
    refused(
        dir.path(),
        2,
        &[
            "part 2 of 3",
            "give the first part",
            "m-00001-of-00003.gguf",
        ],
    );
    fs::remove_file(path(dir.path(), 2)).unwrap();
    refused(
        dir.path(),
        1,
        &["m-00002-of-00003.gguf", "part 2 of 3", "missing"],
    );
}

#[test]
fn every_lie_of_the_second_part_is_found() {
    type Lie = fn(&mut [Given; 3]);
    let cases: &[(Lie, &[&str])] = &[
        (
            |p| split(&mut p[1].metadata, 2, 3, 3),
            &["00002-of", "part 3 of 3 by its metadata"],
        ),
        (
            |p| split(&mut p[1].metadata, 1, 4, 3),
            &["00002-of", "part 2 of 4 by its metadata"],
        ),
        (
            |p| split(&mut p[1].metadata, 1, 3, 4),
            &["00002-of", "4 tensors"],
        ),
        (
            |p| split(&mut p[1].metadata, 7, 3, 3),
            &["00002-of", "split.no"],
        ),
        (
            |p| drop(p[1].metadata.remove("split.no")),
            &["00002-of", "split.no"],
        ),
        (
            |p| drop(p[1].metadata.remove("split.count")),
            &["00002-of", "no part of a set"],
        ),
        (
            |p| p[1].tensors[0].0 = "c",
            &["00003-of", "tensor", "\"c\""],
        ),
        (|p| p[1].tensors.truncate(1), &["2 tensors", "3"]),
        (|p| p[1].tensors.push(("d", 1)), &["4 tensors", "3"]),
        (
            |p| {
                drop(
                    p[1].metadata
                        .insert("general.architecture", "other".to_owned()),
                )
            },
            &["00002-of", "general.architecture", "another model"],
        ),
        (
            |p| split(&mut p[0].metadata, 0, u16::MAX, 3),
            &["00001-of", "65535"],
        ),
        (
            |p| split(&mut p[0].metadata, 0, 2, 3),
            &["-00001-of-00002.gguf"],
        ),
        (
            |p| drop(p[0].metadata.insert("split.tensors.count", Value::I32(-1))),
            &["split.tensors.count", "-1"],
        ),
        (
            |p| drop(p[0].metadata.insert("split.count", "three".to_owned())),
            &["split.count"],
        ),
    ];
    for (i, (lie, expected)) in cases.iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let mut parts = given();
        lie(&mut parts);
        lay(dir.path(), &parts);
        let error = GgufFile::open(&path(dir.path(), 1));
        let error = error.expect_err(&format!("case {i}")).to_string();
        for text in *expected {
            assert!(error.contains(text), "case {i}: {error}: lacks {text:?}");
        }
    }
    // Swapped, and cut short.
    let dir = tempfile::tempdir().unwrap();
    lay(dir.path(), &given());
    let [second, third] = [2, 3].map(|n| fs::read(path(dir.path(), n)).unwrap());
    fs::write(path(dir.path(), 2), &third).unwrap();
    fs::write(path(dir.path(), 3), &second).unwrap();
    refused(dir.path(), 1, &["00002-of", "part 3 of 3"]);
    fs::write(path(dir.path(), 2), &second[..second.len() - 1]).unwrap();
    refused(dir.path(), 1, &["00002-of"]);
}

#[test]
fn any_integer_type_states_the_place_and_one_part_is_no_set() {
    let dir = tempfile::tempdir().unwrap();
    let mut parts = given();
    for (i, part) in parts.iter_mut().enumerate() {
        part.metadata.insert("split.no", Value::U64(i as u64));
        part.metadata.insert("split.count", Value::I32(3));
        part.metadata.insert("split.tensors.count", Value::U64(3));
    }
    lay(dir.path(), &parts);
    assert_eq!(
        GgufFile::open(&path(dir.path(), 1))
            .unwrap()
            .tensors()
            .len(),
        3
    );
    let alone = dir.path().join("alone.gguf");
    let mut one = given().into_iter().nth(1).unwrap();
    split(&mut one.metadata, 0, 1, 2);
    fs::write(&alone, bytes(&one)).unwrap();
    assert_eq!(GgufFile::open(&alone).unwrap().parts().len(), 1);
    const { assert!(MAX_PARTS < 65_535) };
    assert!(PartName::parse(&alone).is_none());
}

#[test]
fn a_part_that_is_written_to_or_cut_short_is_named() {
    for number in [1, 2, 3] {
        let dir = tempfile::tempdir().unwrap();
        lay(dir.path(), &given());
        let file = GgufFile::open(&path(dir.path(), 1)).unwrap();
        let target = path(dir.path(), number);
        let data = fs::read(&target).unwrap();
        // Another time, however coarse the clock is.
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::write(&target, &data[..data.len() / 2]).unwrap();
        let error = file.check_unchanged().unwrap_err();
        assert!(
            matches!(error, GgufError::File { ref path, .. } if *path == target),
            "{error}"
        );
        assert!(
            error.to_string().contains("modified or truncated"),
            "{error}"
        );
    }
}
