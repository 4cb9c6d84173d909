//! Copied weights and pinned threads: the same bits.

use v4_fixtures::fixture;
use v4_tests::numbers::Numbers;
use v4_tests::program::{data, logits, run, tiny};

#[test]
fn copied_weights_give_the_bits_of_mapped_ones() {
    let models = [
        ("tiny-v4", tiny("tiny-v4", "native", &[])),
        ("tiny-v41", tiny("tiny-v41", "native", &[])),
        // Its tensors begin anywhere: reads past the page cache must be of whole units.
        ("tiny-v4", fixture("tiny-v4.llamacpp.gguf")),
    ];
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

#[test]
fn locked_weights_give_the_same_text_or_say_what_forbids_it() {
    let model = tiny("tiny-v4", "native", &[]);
    let with = |more: &[&str]| {
        let model = model.to_str().unwrap();
        let prompt = [
            "complete",
            model,
            "-p",
            "fn main() {",
            "-n",
            "8",
            "--temp",
            "0",
        ];
        run("v4-run", prompt.iter().chain(more))
    };
    let locked = with(&["--weights", "locked", "--quiet"]);
    if locked.code == Some(1) {
        // Users who may lock little by default.
        locked.failed_with(&["cannot be locked in memory", "ulimit -l"]);
        return;
    }
    assert_eq!(locked.ok().stdout, with(&["--quiet"]).ok().stdout);
}
