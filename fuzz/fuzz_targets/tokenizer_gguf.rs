//! Any metadata as a tokenizer: no panic; an accepted one encodes without loss.
#![no_main]

use libfuzzer_sys::fuzz_target;
use v4_files::gguf::parse_header;
use v4_tokenizer::{Marks, Tokenizer};

fuzz_target!(|bytes: &[u8]| {
    let Ok(header) = parse_header(bytes, bytes.len() as u64) else {
        return;
    };
    let Ok(tokenizer) = Tokenizer::from_gguf(&header.metadata) else {
        return;
    };
    let text = "fn main() {\n    println!(\"é 12345\");\n}";
    let ids = tokenizer.encode(text, Marks::Plain).expect("a short text");
    assert_eq!(
        tokenizer.decode(&ids).expect("our own ids"),
        text.as_bytes()
    );
});
