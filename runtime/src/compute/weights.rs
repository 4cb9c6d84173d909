//! The tensors of a file, checked against its metadata (spec/gguf.md sections
//! 2 and 5).

mod drafts;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use v4_files::gguf::GgufFile;

use crate::compute::adapters::Site;
use crate::compute::backend::{Backend, ExpertWeights, HcWeights};
use crate::error::EngineError;
use crate::model::{Attention, Copier, Family, IndexRole, LayerConfig, ModelConfig, Tensor};
use crate::residency::experts::{ExpertStore, StreamedLayer};

pub use drafts::{
    DraftInput, DraftWeights, DsparkWeights, MtpProjections, MtpWeights, draft_expert_tensors,
};

/// A projection that adapters can change.
#[derive(Debug)]
pub struct Linear<B: Backend> {
    /// The model's own weights.
    pub weight: B::Weight,
    /// Its place among [`Weights::sites`].
    pub site: usize,
}

/// A compressor's weights (spec 3.3 and 3.5).
#[derive(Debug)]
pub struct Compressor<B: Backend> {
    /// Values, `[c * width, d]`.
    pub kv: Linear<B>,
    /// Pooling logits, `[c * width, d]`; none where an entry is one token.
    pub gate: Option<Linear<B>>,
    /// Added to the logits, `[ratio, c * width]`; V4 only.
    pub ape: Option<B::Vector>,
    /// Gain of the norm after pooling, `[width]`.
    pub norm: B::Vector,
}

/// Where index keys come from.
#[derive(Debug)]
pub enum IndexKeys<B: Backend> {
    /// V4: a compressor of their own (spec 3.4).
    Compressed(Compressor<B>),
    /// V4.1: a projection of the entries before their rotation (spec 3.5).
    Projected {
        /// `[index width, width]`.
        proj: Linear<B>,
        /// Gain of the norm after it, `[index width]`.
        norm: B::Vector,
    },
}

/// The indexer's query side (spec 3.4).
#[derive(Debug)]
pub struct Indexer<B: Backend> {
    /// Queries, `[heads * width, q_lora]`.
    pub q_b: Linear<B>,
    /// Head weights, `[heads, d]`.
    pub proj: Linear<B>,
}

/// Engram weights other than the table (spec 3.7).
#[derive(Debug)]
pub struct EngramWeights<B: Backend> {
    /// Rows to one key per stream, then the value: `[(streams + 1) * d, channels]`.
    pub wkv: Linear<B>,
    /// Gain on the streams times gain on the keys, `[streams, d]`.
    pub gain: B::Vector,
}

/// Attention weights of one layer (spec 3.2).
#[derive(Debug)]
#[allow(missing_docs)] // named as in spec section 2.2
pub struct AttentionWeights<B: Backend> {
    pub q_a: Linear<B>,
    pub q_a_norm: B::Vector,
    pub q_b: Linear<B>,
    pub kv: Linear<B>,
    pub kv_norm: B::Vector,
    pub sinks: B::Vector,
    pub out_a: Linear<B>,
    pub out_b: Linear<B>,
    pub compressor: Option<Compressor<B>>,
    pub index_keys: Option<IndexKeys<B>>,
    pub indexer: Option<Indexer<B>>,
}

/// What experts are chosen by.
#[derive(Debug)]
pub enum Choice<B: Backend> {
    /// Scores with this bias.
    Bias(B::Vector),
    /// Token ids: the first layers.
    ByToken(TokenTable<B>),
}

/// The experts of every token id, `[vocab, used]`.
#[derive(Debug)]
pub struct TokenTable<B: Backend> {
    /// Where the host finds them.
    pub host: Arc<[u32]>,
    /// Where the backend does.
    pub device: B::Table,
}

/// Router and experts of one layer (spec 3.6).
#[derive(Debug)]
pub struct FeedForward<B: Backend> {
    /// Router, `[experts, d]`.
    pub router: B::Weight,
    /// What experts are chosen by.
    pub choice: Choice<B>,
    /// Routed experts.
    pub routed: ExpertWeights<B>,
    /// Shared expert.
    pub shared: Option<ExpertWeights<B>>,
    /// Places of its gate, up and down among [`Weights::sites`].
    pub shared_sites: [usize; 3],
}

/// One layer.
#[derive(Debug)]
#[allow(missing_docs)] // named as in spec section 2.2
pub struct LayerWeights<B: Backend> {
    pub engram: Option<EngramWeights<B>>,
    pub hc_attn: HcWeights<B>,
    pub attn_norm: B::Vector,
    pub attn: AttentionWeights<B>,
    pub hc_ffn: HcWeights<B>,
    pub ffn_norm: B::Vector,
    pub ffn: FeedForward<B>,
}

/// The whole model.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Weights<B: Backend> {
    pub embedding: B::Weight,
    pub layers: Vec<LayerWeights<B>>,
    /// V4 only; V4.1 ends with the last site's mix.
    pub hc_head: Option<HcWeights<B>>,
    pub norm: B::Vector,
    pub head: Linear<B>,
    /// Every projection that adapters can change.
    pub sites: Arc<[Site]>,
}

/// Where weights are put.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sources<'a> {
    /// Copies those that are not to be where they are mapped.
    pub copier: Option<&'a Copier<'a>>,
    /// Reads the routed experts, if they are not to be in memory.
    pub experts: Option<&'a Arc<ExpertStore>>,
    /// The number that the first layer has in the store.
    pub first_streamed: usize,
    /// Whether those that stay mapped are locked in memory.
    pub lock: bool,
}

/// Loads tensors by name with their expected dimensions.
struct Loader<'a, B: Backend> {
    backend: &'a B,
    file: &'a Arc<GgufFile>,
    cfg: &'a ModelConfig,
    sources: Sources<'a>,
    sites: RefCell<Vec<Site>>,
    /// Names of the tensors found.
    found: RefCell<BTreeSet<String>>,
}

/// Gate, up and down of the routed experts of every layer.
///
/// # Errors
/// A tensor that is missing or has other dimensions than the metadata asks for.
pub fn expert_tensors(
    file: &Arc<GgufFile>,
    cfg: &ModelConfig,
) -> Result<Vec<[Tensor; 3]>, EngineError> {
    experts_of(file, cfg, &|l| format!("blk.{l}"))
}

/// The same of layers whose tensors' names begin otherwise.
fn experts_of(
    file: &Arc<GgufFile>,
    cfg: &ModelConfig,
    prefix: &dyn Fn(usize) -> String,
) -> Result<Vec<[Tensor; 3]>, EngineError> {
    let (d, ff, e) = (cfg.embedding, cfg.expert_ff, cfg.experts);
    let find = |l: usize, part: &str, dims: &[usize]| {
        let name = format!("{}.ffn_{part}_exps.weight", prefix(l));
        Tensor::find(file, &name)?.expect_dims(dims)
    };
    (0..cfg.layers.len())
        .map(|l| {
            Ok([
                find(l, "gate", &[d, ff, e])?,
                find(l, "up", &[d, ff, e])?,
                find(l, "down", &[ff, d, e])?,
            ])
        })
        .collect()
}

impl<B: Backend> Weights<B> {
    /// Takes all tensors of the file into use: where they are mapped, unless `sources`
    /// puts them elsewhere. To be called in the engine's pool.
    ///
    /// # Errors
    /// A tensor that is missing, has other dimensions than the metadata asks
    /// for, or a type without a kernel; one that cannot be copied.
    pub fn load(
        backend: &B,
        file: &Arc<GgufFile>,
        cfg: &ModelConfig,
        sources: Sources<'_>,
    ) -> Result<Self, EngineError> {
        let l = Loader {
            backend,
            file,
            cfg,
            sources,
            sites: RefCell::default(),
            found: RefCell::default(),
        };
        let d = cfg.embedding;
        let weights = Self {
            embedding: l.rows("token_embd.weight", &[d, cfg.vocab])?,
            layers: cfg
                .layers
                .iter()
                .enumerate()
                .map(|(i, layer)| l.layer(&format!("blk.{i}"), i, layer))
                .collect::<Result<_, _>>()?,
            hc_head: match cfg.family {
                Family::V4 => Some(l.hc("output_hc", cfg.hc_streams, 1)?),
                Family::V41 => None,
            },
            norm: l.vector("output_norm.weight", &[d])?,
            head: l.linear("output.weight", &[d, cfg.vocab])?,
            sites: Arc::default(),
        };
        Ok(Self {
            sites: l.sites.into_inner().into(),
            ..weights
        })
    }
}

impl<B: Backend> Loader<'_, B> {
    fn find(&self, name: &str, dims: &[usize]) -> Result<Tensor, EngineError> {
        let tensor = Tensor::find(self.file, name)?.expect_dims(dims)?;
        self.found.borrow_mut().insert(name.to_owned());
        Ok(tensor)
    }

    /// A tensor that is read from end to end.
    fn tensor(&self, name: &str, dims: &[usize]) -> Result<Tensor, EngineError> {
        let tensor = self.find(name, dims)?;
        tensor.advise_huge_pages();
        Ok(tensor)
    }

    fn matrix(&self, name: &str, dims: &[usize]) -> Result<B::Weight, EngineError> {
        let tensor = self.tensor(name, dims)?;
        match self.sources.copier {
            Some(copier) => self.backend.load(&copier.copy(&tensor)?),
            None => {
                if self.sources.lock {
                    tensor.lock()?;
                } else {
                    tensor.keep_checked();
                }
                tensor.check()?;
                self.backend.load(&tensor)
            }
        }
    }

    /// Makes a projection one that adapters can change.
    fn site(&self, name: &str, dims: &[usize], groups: usize) -> usize {
        let mut sites = self.sites.borrow_mut();
        sites.push(Site {
            name: name.to_owned(),
            inputs: dims[0],
            outputs: dims[1],
            groups,
        });
        sites.len() - 1
    }

    fn linear(&self, name: &str, dims: &[usize]) -> Result<Linear<B>, EngineError> {
        self.grouped(name, dims, 1)
    }

    fn grouped(&self, name: &str, dims: &[usize], groups: usize) -> Result<Linear<B>, EngineError> {
        Ok(Linear {
            weight: self.matrix(name, dims)?,
            site: self.site(name, dims, groups),
        })
    }

    /// Matrices of which tokens use a few: those are checked when they are used, unless
    /// all are read now anyway.
    fn matrices(&self, name: &str, dims: &[usize]) -> Result<B::Weight, EngineError> {
        if self.sources.copier.is_some() || self.sources.lock {
            return self.matrix(name, dims);
        }
        let tensor = self.tensor(name, dims)?;
        tensor.keep_checked();
        self.backend.load(&tensor)
    }

    /// A matrix of which rows are read here and there: huge pages would read more.
    fn rows(&self, name: &str, dims: &[usize]) -> Result<B::Weight, EngineError> {
        let tensor = self.find(name, dims)?;
        tensor.advise_random();
        self.backend.load_rows(&tensor)
    }

    /// The first of `names` that the file has; writers disagree on some.
    fn any_name<'n, N: AsRef<str>>(&self, names: &'n [N]) -> &'n str {
        let known = names.iter().map(AsRef::as_ref);
        let known = known
            .clone()
            .find(|name| self.file.tensor(name).is_some())
            .or(known.clone().next());
        known.unwrap_or_default()
    }

    fn vector(&self, name: &str, dims: &[usize]) -> Result<B::Vector, EngineError> {
        Ok(self.backend.vector(self.values(name, dims)?))
    }

    fn values(&self, name: &str, dims: &[usize]) -> Result<Vec<f32>, EngineError> {
        let tensor = self.tensor(name, dims)?;
        tensor.check()?;
        let values = tensor.to_f32()?;
        if values.iter().all(|v| v.is_finite()) {
            Ok(values)
        } else {
            Err(tensor.error(
                "contains values that are not finite: the file is damaged, copy or \
                              convert it again",
            ))
        }
    }

    fn hc(&self, prefix: &str, rows: usize, scales: usize) -> Result<HcWeights<B>, EngineError> {
        let flat = self.cfg.hc_streams * self.cfg.embedding;
        Ok(HcWeights {
            func: self.matrix(&format!("{prefix}_fn.weight"), &[flat, rows])?,
            base: self.vector(&format!("{prefix}_base.weight"), &[rows])?,
            scale: self.vector(&format!("{prefix}_scale.weight"), &[scales])?,
        })
    }

    fn layer(
        &self,
        p: &str,
        i: usize,
        layer: &LayerConfig,
    ) -> Result<LayerWeights<B>, EngineError> {
        let d = self.cfg.embedding;
        let mix = self.cfg.hc_mix();
        Ok(LayerWeights {
            engram: layer.engram.map(|_| self.engram(p)).transpose()?,
            hc_attn: self.hc(&format!("{p}.hc_attn"), mix, 3)?,
            attn_norm: self.vector(&format!("{p}.attn_norm.weight"), &[d])?,
            attn: self.attention(p, i, layer)?,
            hc_ffn: self.hc(&format!("{p}.hc_ffn"), mix, 3)?,
            ffn_norm: self.vector(&format!("{p}.ffn_norm.weight"), &[d])?,
            ffn: self.feed_forward(p, i, layer)?,
        })
    }

    fn attention(
        &self,
        p: &str,
        i: usize,
        layer: &LayerConfig,
    ) -> Result<AttentionWeights<B>, EngineError> {
        let c = self.cfg;
        let (d, hd, ql) = (c.embedding, c.head_dim, c.q_lora_rank);
        let (groups, rank) = (c.output_groups, c.output_lora_rank);
        let compressor = if layer.attention.compresses(i) {
            Some(self.compressor(&format!("{p}.attn_compressor"), hd, layer.attention)?)
        } else {
            None
        };
        let index_keys = match layer.attention {
            Attention::Indexed { .. } => {
                let prefix = format!("{p}.indexer_compressor");
                let keys = self.compressor(&prefix, c.index_dim, layer.attention)?;
                Some(IndexKeys::Compressed(keys))
            }
            Attention::Shared { source, .. } if source == i => Some(IndexKeys::Projected {
                proj: self.linear(&format!("{p}.indexer.attn_k.weight"), &[hd, c.index_dim])?,
                norm: self.vector(&format!("{p}.indexer.k_norm.weight"), &[c.index_dim])?,
            }),
            _ => None,
        };
        let indexer = match layer.attention {
            Attention::Indexed { .. }
            | Attention::Shared {
                index: IndexRole::Source(_),
                ..
            } => Some(Indexer {
                q_b: self.linear(
                    &format!("{p}.indexer.attn_q_b.weight"),
                    &[ql, c.index_heads * c.index_dim],
                )?,
                proj: self.linear(&format!("{p}.indexer.proj.weight"), &[d, c.index_heads])?,
            }),
            _ => None,
        };
        Ok(AttentionWeights {
            q_a: self.linear(&format!("{p}.attn_q_a.weight"), &[d, ql])?,
            q_a_norm: self.vector(&format!("{p}.attn_q_a_norm.weight"), &[ql])?,
            q_b: self.linear(&format!("{p}.attn_q_b.weight"), &[ql, c.q_dim()])?,
            kv: self.linear(&format!("{p}.attn_kv.weight"), &[d, hd])?,
            kv_norm: self.vector(&format!("{p}.attn_kv_a_norm.weight"), &[hd])?,
            sinks: self.vector(&format!("{p}.attn_sinks.weight"), &[c.heads])?,
            out_a: self.grouped(
                &format!("{p}.attn_output_a.weight"),
                &[c.q_dim() / groups, groups * rank],
                groups,
            )?,
            out_b: self.linear(&format!("{p}.attn_output_b.weight"), &[groups * rank, d])?,
            compressor,
            index_keys,
            indexer,
        })
    }

    fn compressor(
        &self,
        prefix: &str,
        width: usize,
        attention: Attention,
    ) -> Result<Compressor<B>, EngineError> {
        let d = self.cfg.embedding;
        // Overlapping entries pool two halves.
        let channels = match attention {
            Attention::Indexed { .. } => 2 * width,
            _ => width,
        };
        let ratio = attention.ratio();
        let v4 = self.cfg.family == Family::V4;
        let gate = || self.linear(&format!("{prefix}_gate.weight"), &[d, channels]);
        let ape = || self.vector(&format!("{prefix}_ape.weight"), &[channels, ratio]);
        Ok(Compressor {
            kv: self.linear(&format!("{prefix}_kv.weight"), &[d, channels])?,
            gate: (v4 || ratio > 1).then(gate).transpose()?,
            ape: v4.then(ape).transpose()?,
            norm: self.vector(&format!("{prefix}_norm.weight"), &[width])?,
        })
    }

    fn engram(&self, p: &str) -> Result<EngramWeights<B>, EngineError> {
        let c = self.cfg;
        let (d, streams) = (c.embedding, c.hc_streams);
        let channels = c
            .engram
            .as_ref()
            .map_or(0, crate::model::EngramModel::channels);
        let [wkv, kv] = ["engram_wkv", "engram_kv"].map(|n| format!("{p}.{n}.weight"));
        let [q, q_norm] = ["engram_q", "engram_q_norm"].map(|n| format!("{p}.{n}.weight"));
        let [k, k_norm] = ["engram_k", "engram_k_norm"].map(|n| format!("{p}.{n}.weight"));
        // llama.cpp's layout has the product of both gains, which is all that counts.
        let product = format!("{p}.engram_gate.weight");
        let gain = if self.file.tensor(&product).is_some() {
            let factors = [&q, &q_norm, &k, &k_norm];
            if let Some(factor) = factors.iter().find(|f| self.file.tensor(f).is_some()) {
                let tensor = Tensor::find(self.file, factor)?;
                return Err(tensor.error(format!(
                    "is there beside {product}, which takes its place: the file mixes two \
                     layouts, convert the checkpoint again"
                )));
            }
            self.vector(&product, &[d, streams])?
        } else {
            let q = self.values(self.any_name(&[q, q_norm]), &[d, streams])?;
            let k = self.values(self.any_name(&[k, k_norm]), &[d, streams])?;
            let product = q.iter().zip(&k).map(|(q, k)| q * k);
            self.backend.vector(product.collect())
        };
        Ok(EngramWeights {
            wkv: self.linear(self.any_name(&[kv, wkv]), &[channels, (streams + 1) * d])?,
            gain,
        })
    }

    /// Routed experts, in memory or in the store.
    fn routed(
        &self,
        p: &str,
        i: usize,
        layer: &LayerConfig,
    ) -> Result<ExpertWeights<B>, EngineError> {
        let c = self.cfg;
        let (d, ff, e) = (c.embedding, c.expert_ff, c.experts);
        let matrix = |part: &str, dims: &[usize]| {
            let name = format!("{p}.ffn_{part}_exps.weight");
            match self.sources.experts {
                // Of the mapped bytes none is ever read.
                Some(_) => self.rows(&name, dims),
                None => self.matrices(&name, dims),
            }
        };
        if self.sources.experts.is_some() {
            let first = self.find(&format!("{p}.ffn_gate_exps.weight"), &[d, ff, e])?;
            self.backend.allow_streamed(&first)?;
        }
        Ok(ExpertWeights {
            gate: matrix("gate", &[d, ff, e])?,
            up: matrix("up", &[d, ff, e])?,
            down: matrix("down", &[ff, d, e])?,
            limit: layer.swiglu_limit,
            streamed: self.sources.experts.map(|store| StreamedLayer {
                store: Arc::clone(store),
                layer: (self.sources.first_streamed + i) as u32,
            }),
        })
    }

    fn feed_forward(
        &self,
        p: &str,
        i: usize,
        layer: &LayerConfig,
    ) -> Result<FeedForward<B>, EngineError> {
        let c = self.cfg;
        let (d, ff, e) = (c.embedding, c.expert_ff, c.experts);
        let mut shared_sites = [0; 3];
        let shared = if c.experts_shared == 0 {
            None
        } else {
            let parts = [("gate", [d, ff]), ("up", [d, ff]), ("down", [ff, d])];
            let linear = |(part, dims): (&str, [usize; 2])| {
                self.linear(&format!("{p}.ffn_{part}_shexp.weight"), &dims)
            };
            let [gate, up, down] = parts.map(linear);
            let (gate, up, down) = (gate?, up?, down?);
            shared_sites = [gate.site, up.site, down.site];
            Some(ExpertWeights {
                gate: gate.weight,
                up: up.weight,
                down: down.weight,
                limit: layer.swiglu_limit_shared,
                streamed: None,
            })
        };
        Ok(FeedForward {
            router: self.matrix(&format!("{p}.ffn_gate_inp.weight"), &[d, e])?,
            choice: if layer.hash_routed {
                Choice::ByToken(self.token_table(&format!("{p}.ffn_gate_tid2eid.weight"))?)
            } else {
                Choice::Bias(self.vector(&format!("{p}.exp_probs_b.bias"), &[e])?)
            },
            routed: self.routed(p, i, layer)?,
            shared,
            shared_sites,
        })
    }

    /// The experts of every token id, checked.
    fn token_table(&self, name: &str) -> Result<TokenTable<B>, EngineError> {
        let c = self.cfg;
        let tensor = self.tensor(name, &[c.experts_used, c.vocab])?;
        tensor.check()?;
        if tensor.ty() != v4_quant::GgmlType::I32 {
            return Err(tensor.error(format_args!("is {}, not I32", tensor.ty())));
        }
        let experts = tensor.data().chunks_exact(4).enumerate().map(|(i, b)| {
            let e = i32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            u32::try_from(e)
                .ok()
                .filter(|&e| (e as usize) < c.experts)
                .ok_or_else(|| {
                    tensor.error(format_args!(
                        "sends token {} to expert {e}, but there are only {}",
                        i / c.experts_used,
                        c.experts
                    ))
                })
        });
        let host: Arc<[u32]> = experts.collect::<Result<_, _>>()?;
        Ok(TokenTable {
            device: self.backend.table(&host),
            host,
        })
    }
}
