//! Adapters: configuration and weights, split where the first two bytes say.
#![no_main]

use libfuzzer_sys::fuzz_target;
use v4_runtime::{Adapter, Site};

fuzz_target!(|data: &[u8]| {
    let Some((length, rest)) = data.split_first_chunk::<2>() else {
        return;
    };
    let at = usize::from(u16::from_le_bytes(*length)).min(rest.len());
    let site = |name: &str, inputs, outputs, groups| Site {
        name: name.to_owned(),
        inputs,
        outputs,
        groups,
    };
    let sites = [
        site("blk.0.attn_kv.weight", 6, 4, 1),
        site("blk.0.attn_output_a.weight", 4, 6, 2),
        site("output.weight", 6, 8, 1),
    ];
    let _ = Adapter::examine(&rest[..at], &rest[at..], &sites);
});
