//! Reads an adapter's folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::{Dtype, SafeTensors};
use v4_quant::GgmlType;

use super::config::AdapterConfig;
use super::read::read;
use super::{Adapter, Pair, Part, Site, names};
use crate::error::{AdapterError, EngineError};
use crate::residency::{Budget, Share};

/// Larger files are not adapters.
const MAX_BYTES: u64 = 16 << 30;

/// What PEFT puts before the trained model's names.
const PREFIX: &str = "base_model.model.";

/// The two matrices of a module, as they are found.
#[derive(Default)]
struct Found {
    a: Option<Part>,
    b: Option<Part>,
}

/// Sorts a file's tensors.
pub(super) struct Loader<'a> {
    pub path: PathBuf,
    pub config: AdapterConfig,
    pub sites: &'a [Site],
}

impl Adapter {
    /// How many projections of a model with these sites an adapter of these bytes would
    /// change: what [`crate::Engine::load_adapter`] finds out, without an engine.
    ///
    /// # Errors
    /// As there.
    pub fn examine(config: &[u8], weights: &[u8], sites: &[Site]) -> Result<usize, AdapterError> {
        let [config_path, path] = Self::FILES.map(PathBuf::from);
        let config = AdapterConfig::parse(config).map_err(|what| AdapterError::Config {
            path: config_path,
            what,
        })?;
        let loader = Loader {
            path,
            config,
            sites,
        };
        Ok(loader.pairs(weights)?.into_iter().flatten().count())
    }

    /// Loads the folder `path`, for the model with these sites.
    pub(crate) fn load(
        name: &str,
        path: &Path,
        sites: &Arc<[Site]>,
        budget: &Arc<Budget>,
    ) -> Result<Self, EngineError> {
        let (config, text) = AdapterConfig::read(&path.join(Adapter::FILES[0]))?;
        let file = path.join(Adapter::FILES[1]);
        let expected = std::fs::metadata(&file).map_or(0, |m| m.len());
        let mut share = Share::new(budget);
        let mut take = |bytes| {
            let what = || {
                let what = format!("the model with adapter {name} and the open sessions");
                (what, ", or leave out the adapter".to_owned())
            };
            share.set(bytes, what)
        };
        // Room first, so that too large a file is never read.
        take(expected)?;
        let bytes = read(&file, MAX_BYTES)?;
        take(bytes.len() as u64)?;
        let hashes = [&text, &bytes].map(|bytes| *blake3::hash(bytes).as_bytes());
        let loader = Loader {
            path: file,
            config,
            sites,
        };
        let pairs = loader.pairs(&bytes)?;
        Ok(Self {
            name: name.to_owned(),
            bytes,
            pairs,
            sites: Arc::clone(sites),
            hashes,
            share,
        })
    }
}

impl Loader<'_> {
    fn error(&self, tensor: &str, what: impl Into<String>) -> AdapterError {
        AdapterError::Tensor {
            path: self.path.clone(),
            tensor: tensor.to_owned(),
            what: what.into(),
        }
    }

    /// Every tensor of the file has its place, or the file is refused.
    pub fn pairs(&self, bytes: &[u8]) -> Result<Vec<Option<Pair>>, AdapterError> {
        let tensors = SafeTensors::deserialize(bytes).map_err(|e| AdapterError::File {
            path: self.path.clone(),
            what: e.to_string(),
        })?;
        let mut modules: BTreeMap<String, Found> = BTreeMap::new();
        for (name, view) in tensors.iter() {
            let (module, is_a) = self.module(name)?;
            // A slice of `bytes`, so that the distance is its place.
            let start = view.data().as_ptr().addr() - bytes.as_ptr().addr();
            let part = self.part(name, view.dtype(), view.shape(), view.data(), start)?;
            let found = modules.entry(module.to_owned()).or_default();
            let half = if is_a { &mut found.a } else { &mut found.b };
            if half.replace(part).is_some() {
                return Err(self.error(name, "occurs twice"));
            }
        }
        if modules.is_empty() {
            return Err(AdapterError::File {
                path: self.path.clone(),
                what: "it contains no tensors".to_owned(),
            });
        }
        let mut pairs: Vec<Option<Pair>> = self.sites.iter().map(|_| None).collect();
        for (module, found) in modules {
            let (at, pair) = self.pair(&module, found)?;
            if pairs[at].replace(pair).is_some() {
                return Err(self.error(&module, "occurs under two names"));
            }
        }
        Ok(pairs)
    }

    /// The module that a tensor belongs to, and whether it is its A.
    fn module<'n>(&self, name: &'n str) -> Result<(&'n str, bool), AdapterError> {
        let rest = name.strip_prefix(PREFIX);
        // Some versions keep the adapter's name: lora_A.default.weight.
        let split = rest.and_then(|rest| rest.rsplit_once(".lora_"));
        let known = split.and_then(|(module, half)| {
            let (half, end) = half.split_once('.')?;
            let plain = end == "weight";
            let named = end
                .strip_suffix(".weight")
                .is_some_and(|n| !n.contains('.'));
            (plain || named).then_some((module, half))
        });
        match known {
            Some((module, "A")) => Ok((module, true)),
            Some((module, "B")) => Ok((module, false)),
            _ => Err(self.error(
                name,
                "is not half of a low-rank pair (base_model.model.MODULE.lora_A.weight, lora_B); \
                 this version supports nothing else, so the adapter would not work as trained",
            )),
        }
    }

    fn part(
        &self,
        name: &str,
        dtype: Dtype,
        shape: &[usize],
        data: &[u8],
        start: usize,
    ) -> Result<Part, AdapterError> {
        let ty = match dtype {
            Dtype::F32 => GgmlType::F32,
            Dtype::F16 => GgmlType::F16,
            Dtype::BF16 => GgmlType::BF16,
            other => {
                return Err(self.error(name, format!("is {other:?}; use F32, F16 or BF16")));
            }
        };
        let (rows, cols) = match *shape {
            [rows, cols] if rows > 0 && cols > 0 => (rows, cols),
            _ => {
                return Err(self.error(
                    name,
                    format!("has the shape {shape:?}; it must be a matrix"),
                ));
            }
        };
        let mut row = vec![0.0; cols];
        for bytes in data.chunks_exact(data.len() / rows) {
            let decoded = v4_quant::decode_row(ty, bytes, &mut row);
            decoded.map_err(|e| self.error(name, e.to_string()))?;
            if !row.iter().all(|v| v.is_finite()) {
                return Err(self.error(name, "contains values that are not finite"));
            }
        }
        Ok(Part {
            ty,
            cols,
            bytes: start..start + data.len(),
        })
    }

    fn pair(&self, module: &str, found: Found) -> Result<(usize, Pair), AdapterError> {
        let [a_name, b_name] =
            ["A", "B"].map(|half| format!("{PREFIX}{module}.lora_{half}.weight"));
        let (a, b) = match (found.a, found.b) {
            (Some(a), Some(b)) => (a, b),
            (None, _) => return Err(self.error(&b_name, "has no matching lora_A")),
            (_, None) => return Err(self.error(&a_name, "has no matching lora_B")),
        };
        let candidates = names::gguf_names(module);
        let at = self.sites.iter().position(|s| candidates.contains(&s.name));
        let Some(at) = at else {
            let why = match candidates.first() {
                Some(name) => format!("is for {name}, which this model does not have"),
                None => names::reason(module).to_owned(),
            };
            return Err(self.error(&format!("{PREFIX}{module}"), why));
        };
        let site = &self.sites[at];
        let rank = self.config.rank(module);
        let rows = |part: &Part| part.bytes.len() / (part.cols * part.ty.block_bytes());
        for (name, part, want) in [
            (&a_name, &a, [rank, site.inputs]),
            (&b_name, &b, [site.outputs, rank]),
        ] {
            let has = [rows(part), part.cols];
            if has != want {
                return Err(self.error(
                    name,
                    format!(
                        "has the shape {has:?}, but rank {rank} of {} requires {want:?}: the \
                         adapter belongs to another model, or its configuration to another adapter",
                        site.name
                    ),
                ));
            }
        }
        let pair = Pair {
            a,
            b,
            groups: site.groups,
            scale: self.config.scale(module),
        };
        Ok((at, pair))
    }
}
