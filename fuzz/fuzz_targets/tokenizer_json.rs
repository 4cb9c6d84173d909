//! Any bytes as a tokenizer.json: no panic; an accepted one survives being
//! written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use v4_tokenizer::Tokenizer;

fuzz_target!(|bytes: &[u8]| {
    let Ok(tokenizer) = Tokenizer::from_json_bytes(bytes) else {
        return;
    };
    let again = Tokenizer::from_json_bytes(tokenizer.to_json().as_bytes()).expect("our own file");
    assert!(again.vocab_size() <= tokenizer.vocab_size());
});
