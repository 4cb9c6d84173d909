//! Damaged files are refused, and nothing worse happens.

use proptest::prelude::*;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize};

use super::config::AdapterConfig;
use super::load::Loader;
use super::{Adapter, Pair, Site};

const CONFIG: &[u8] = br#"{"peft_type": "LORA", "r": 2, "lora_alpha": 4,
    "alpha_pattern": {"wkv": 8}, "target_modules": ["wkv", "wo_a"]}"#;

fn sites() -> Vec<Site> {
    let site = |name: &str, inputs, outputs, groups| Site {
        name: name.to_owned(),
        inputs,
        outputs,
        groups,
    };
    vec![
        site("blk.0.attn_kv.weight", 6, 4, 1),
        site("blk.0.attn_output_a.weight", 4, 6, 2),
        site("output.weight", 6, 8, 1),
    ]
}

fn file() -> Vec<u8> {
    let of = |n: usize| vec![0x3c; 2 * n];
    let tensors = [
        ("layers.0.attn.wkv.lora_A", [2, 6], of(12)),
        ("layers.0.attn.wkv.lora_B", [4, 2], of(8)),
        ("model.layers.0.self_attn.o_a_proj.lora_A", [2, 4], of(8)),
        ("model.layers.0.self_attn.o_a_proj.lora_B", [6, 2], of(12)),
    ];
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::BF16, shape.to_vec(), bytes).unwrap();
        (format!("base_model.model.{name}.weight"), view)
    });
    serialize(views, None).unwrap()
}

fn pairs(config: &[u8], bytes: &[u8]) -> Result<Vec<Option<Pair>>, String> {
    let sites = sites();
    let loader = Loader {
        path: "adapter".into(),
        config: AdapterConfig::parse(config)?,
        sites: &sites,
    };
    loader.pairs(bytes).map_err(|e| e.to_string())
}

#[test]
fn a_sound_one_is_taken() {
    let pairs = pairs(CONFIG, &file()).unwrap();
    let scales: Vec<_> = pairs.iter().map(|p| p.as_ref().map(|p| p.scale)).collect();
    assert_eq!(scales, [Some(4.0), Some(2.0), None]);
    assert_eq!(pairs[1].as_ref().unwrap().groups, 2);
    assert_eq!(Adapter::examine(CONFIG, &file(), &sites()).unwrap(), 2);
}

/// Whatever is accepted is within the file.
fn check(config: &[u8], bytes: &[u8]) {
    for pair in pairs(config, bytes).into_iter().flatten().flatten() {
        for part in [&pair.a, &pair.b] {
            assert!(part.bytes.end <= bytes.len() && !part.bytes.is_empty());
        }
        assert!(pair.scale.is_finite());
    }
}

proptest! {
    #[test]
    fn damaged_files_do_no_harm(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
        cuts in any::<bool>(),
    ) {
        let mut bytes = file();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if cuts {
            bytes.truncate(cut.index(bytes.len()));
        }
        check(CONFIG, &bytes);
    }

    #[test]
    fn damaged_configurations_do_no_harm(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut config = CONFIG.to_vec();
        for (at, byte) in changes {
            let at = at.index(config.len());
            config[at] = byte;
        }
        check(&config, &file());
    }

    #[test]
    fn configurations_of_any_bytes_do_no_harm(config in prop::collection::vec(any::<u8>(), 0..200)) {
        check(&config, &file());
    }
}
