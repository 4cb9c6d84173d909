//! Any bytes as the parts of a split model: no panic; every tensor of what is accepted is
//! inside its part. The first four bytes are the lengths of the first two parts; the third
//! has the rest.
#![no_main]

use libfuzzer_sys::fuzz_target;
use v4_files::gguf::{GgufFile, PartName};

fuzz_target!(|bytes: &[u8]| {
    let Some((lengths, bytes)) = bytes.split_at_checked(4) else {
        return;
    };
    let length = |i: usize| usize::from(u16::from_le_bytes([lengths[i], lengths[i + 1]]));
    let (first, rest) = bytes.split_at(length(0).min(bytes.len()));
    let (second, third) = rest.split_at(length(2).min(rest.len()));
    let dir = tempfile::tempdir().expect("a folder");
    let name = PartName {
        stem: dir.path().join("m"),
        number: 1,
        count: 3,
    };
    for (number, part) in [(1, first), (2, second), (3, third)] {
        std::fs::write(name.path_of(number), part).expect("written");
    }
    let Ok(file) = GgufFile::open(&name.path_of(1)) else {
        return;
    };
    let mut all = 0;
    for tensor in file.tensors() {
        let data = file.data(tensor);
        assert_eq!(data.len() as u64, tensor.bytes);
        let part = file.part_of(tensor).bytes().as_ptr_range();
        let data = data.as_ptr_range();
        assert!(part.start <= data.start && data.end <= part.end);
        all += 1;
    }
    assert!(file.tensor("no such name").is_none() || all > 0);
    assert_eq!(file.headers().count(), file.parts().len());
    file.check_unchanged().expect("nobody wrote to it");
});
