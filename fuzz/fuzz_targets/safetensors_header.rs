//! Any bytes as a shard's header: no panic; accepted tensors are inside the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use v4_convert::safetensors::parse_header;

fuzz_target!(|bytes: &[u8]| {
    let data_bytes = 1 << 20;
    let Ok(header) = parse_header("fuzz.safetensors".as_ref(), bytes, data_bytes) else {
        return;
    };
    let end = 8 + bytes.len() as u64 + data_bytes;
    for tensor in &header.tensors {
        assert!(tensor.offset + tensor.bytes <= end);
    }
});
