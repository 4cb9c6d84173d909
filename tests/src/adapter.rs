//! Writes low-rank adapters as PEFT saves them.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize};

/// One pair of matrices, in f32.
#[derive(Debug, Clone)]
pub struct Pair {
    /// `[rank, inputs]`.
    pub a: Vec<f32>,
    /// `[outputs, rank]`.
    pub b: Vec<f32>,
}

/// An adapter of one rank: pairs by the trained model's module names.
#[derive(Debug, Clone)]
pub struct Written {
    /// Rank of all pairs.
    pub rank: usize,
    /// `lora_alpha`.
    pub alpha: f64,
    /// The pairs.
    pub pairs: BTreeMap<String, Pair>,
}

impl Written {
    /// Pairs of noise for `modules`, which are named with their inputs and outputs.
    #[must_use]
    pub fn noise(rank: usize, alpha: f64, modules: &[(String, usize, usize)], seed: u64) -> Self {
        let mut x = seed | 1;
        let mut next = move || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        let mut values = |n: usize, by: usize| -> Vec<f32> {
            (0..n).map(|_| next() / (by as f32).sqrt()).collect()
        };
        let pairs = modules.iter().map(|(name, inputs, outputs)| {
            let pair = Pair {
                a: values(rank * inputs, *inputs),
                b: values(outputs * rank, rank),
            };
            (name.clone(), pair)
        });
        Self {
            rank,
            alpha,
            pairs: pairs.collect(),
        }
    }

    /// The configuration's fields.
    #[must_use]
    pub fn config(&self) -> serde_json::Map<String, serde_json::Value> {
        let mut fields = serde_json::Map::new();
        fields.insert("peft_type".to_owned(), "LORA".into());
        fields.insert("r".to_owned(), self.rank.into());
        fields.insert("lora_alpha".to_owned(), self.alpha.into());
        fields.insert("bias".to_owned(), "none".into());
        fields
    }

    /// The tensors' bytes by their names in the file, with their shapes.
    #[must_use]
    pub fn tensors(&self) -> BTreeMap<String, (Vec<usize>, Vec<u8>)> {
        let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let mut tensors = BTreeMap::new();
        for (module, Pair { a, b }) in &self.pairs {
            let name = |half: &str| format!("base_model.model.{module}.lora_{half}.weight");
            let shapes = [
                vec![self.rank, a.len() / self.rank],
                vec![b.len() / self.rank, self.rank],
            ];
            let [of_a, of_b] = shapes;
            tensors.insert(name("A"), (of_a, bytes(a)));
            tensors.insert(name("B"), (of_b, bytes(b)));
        }
        tensors
    }

    /// Writes the folder.
    ///
    /// # Panics
    /// If it cannot.
    pub fn write(&self, folder: &Path) {
        write_folder(folder, &self.config(), &self.tensors());
    }
}

/// Writes an adapter of any content: f32 tensors with shapes and bytes.
///
/// # Panics
/// If it cannot, or shapes and bytes do not go together.
pub fn write_folder(
    folder: &Path,
    config: &serde_json::Map<String, serde_json::Value>,
    tensors: &BTreeMap<String, (Vec<usize>, Vec<u8>)>,
) {
    std::fs::create_dir_all(folder).expect("a folder");
    let text = serde_json::to_string(config).expect("a configuration");
    std::fs::write(folder.join("adapter_config.json"), text).expect("a configuration");
    let views = tensors.iter().map(|(name, (shape, bytes))| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes).expect("a tensor");
        (name.clone(), view)
    });
    let file = serialize(views, None).expect("a file");
    std::fs::write(folder.join("adapter_model.safetensors"), file).expect("a file");
}
