//! Any bytes as a GGUF file: no panic; what is accepted is inside the file and
//! can be written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use v4_files::gguf::{GgufError, encode_header, parse_header};

fuzz_target!(|bytes: &[u8]| {
    let Ok(header) = parse_header(bytes, bytes.len() as u64) else {
        return;
    };
    for t in &header.tensors {
        let start = (header.data_offset + t.offset) as usize;
        assert_eq!(bytes[start..][..t.bytes as usize].len() as u64, t.bytes);
    }
    for (_, value) in header.metadata.iter() {
        assert!(!value.to_string().contains('\n'));
        let _ = value.to_json(Some(16));
    }
    match encode_header(&header.metadata, &header.tensors, header.alignment) {
        Ok(again) => {
            let len = again.len() as u64 + bytes.len() as u64;
            let parsed = parse_header(&again, len).expect("our own header");
            assert_eq!(parsed.tensors, header.tensors);
        }
        // GGUF allows 64 bytes, llama.cpp 63.
        Err(GgufError::NameLength { len: 64, .. }) => {}
        Err(error) => panic!("{error}"),
    }
});
