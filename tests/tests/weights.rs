//! Weights in memory of their own, and threads bound to cores: the same bits.

use v4_tests::numbers::Numbers;
use v4_tests::program::{data, logits, tiny};
use v4_tests::shared::shared;

#[test]
fn copied_weights_give_the_bits_of_mapped_ones() {
    let mut models = vec![
        ("tiny-v4", tiny("tiny-v4", "native", &[])),
        ("tiny-v41", tiny("tiny-v41", "native", &[])),
    ];
    // Its tensors begin anywhere: reads past the page cache must be of whole units.
    models.extend(shared("tiny-v4.llamacpp.gguf").map(|path| ("tiny-v4", path)));
    for (name, model) in models {
        let golden = Numbers::read(&data(name).join("golden.safetensors"));
        let ids = golden.ints("short.ids");
        let ids: Vec<u32> = ids.iter().map(|&id| id.try_into().unwrap()).collect();
        let with = |options: &[&str]| logits(&model, &ids, options);
        let mapped = with(&["--threads", "2", "--trace"]);
        for options in [
            &["--threads", "2", "--trace", "--weights", "copied"][..],
            &["--threads", "1", "--trace", "--weights", "copied", "--pin"],
        ] {
            assert!(with(options) == mapped, "{name}: {options:?}");
        }
    }
}
