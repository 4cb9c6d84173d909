//! A model computed token by token: section 6 of `docs/arithmetic.md`.

use v4_by_hand::angles::{Angles, Yarn};
use v4_by_hand::rows::{
    Choice, Mix, Routing, collapse, engram_gate, expand, head_weights, inverse_rms, mix, rms_norm,
    route, swiglu,
};
use v4_files::gguf::GgufFile;
use v4_runtime::model::{Family, ModelConfig};
use v4_runtime::{KvPrecision, Precision};

use super::attention::Shared;
use super::cache::{Cache, Formats};
use super::engram::Addresses;
use super::weights::Weights;
use super::{LayerResult, Position};

/// A model and a sequence of tokens.
pub struct ByHand {
    pub config: ModelConfig,
    pub weights: Weights,
    pub formats: Formats,
    pub caches: Vec<Cache>,
    addresses: Option<Addresses>,
    plain: Angles,
    compressed: Angles,
    tokens: Vec<u32>,
}

impl ByHand {
    pub fn new(file: &GgufFile, precision: Precision, kv: KvPrecision) -> Self {
        let config = ModelConfig::from_gguf(file).unwrap();
        let d = config.rope_dim;
        let yarn = config.yarn.map(|yarn| Yarn {
            factor: yarn.factor,
            original_context: yarn.original_context,
            beta_fast: yarn.beta_fast,
            beta_slow: yarn.beta_slow,
        });
        Self {
            weights: Weights::read(file, precision),
            formats: Formats::new(&config, kv),
            caches: config.layers.iter().map(|_| Cache::default()).collect(),
            addresses: (config.family == Family::V41).then(|| Addresses::read(file)),
            plain: Angles::new(config.rope_theta, d, None),
            compressed: Angles::new(config.compress_rope_theta, d, yarn),
            tokens: Vec::new(),
            config,
        }
    }

    /// The newest token's position.
    pub fn position(&self) -> usize {
        self.tokens.len() - 1
    }

    pub fn angles(&self, l: usize) -> &Angles {
        match self.config.layers[l].attention.ratio() {
            0 => &self.plain,
            _ => &self.compressed,
        }
    }

    pub fn product(&self, l: usize, name: &str, x: &[f32]) -> Vec<f32> {
        self.weights.product(&format!("blk.{l}.{name}.weight"), x)
    }

    pub fn vector(&self, l: usize, name: &str) -> Vec<f32> {
        self.weights.vector(&format!("blk.{l}.{name}.weight"))
    }

    pub fn norm(&self, l: usize, name: &str, x: &[f32]) -> Vec<f32> {
        rms_norm(x, &self.vector(l, name), self.config.rms_eps)
    }

    /// Appends a token, and computes its position.
    pub fn token(&mut self, id: u32) -> Position {
        self.tokens.push(id);
        let s = self.config.hc_streams;
        let embedding = self.weights.matrix("token_embd.weight").row(id as usize);
        let mut streams = vec![embedding; s];
        let mut pre = vec![0f32; s];
        pre[0] = 1.0;
        let mut shared = Shared::default();
        let mut layers = Vec::new();
        for l in 0..self.config.layers.len() {
            if let Some(table) = self.config.layers[l].engram {
                self.engram(l, table, &mut streams);
            }
            let (x, mix) = self.enter(l, "attn", &mut pre, &streams);
            let attended = self.attention(l, &x, &mut shared);
            streams = expand(&mix, &attended.y, &streams);
            let (x, mix) = self.enter(l, "ffn", &mut pre, &streams);
            let routing = self.route(l, &x);
            let y = self.experts(l, &routing, &x);
            streams = expand(&mix, &y, &streams);
            layers.push(LayerResult {
                experts: routing.experts.iter().map(|(e, _)| *e as u32).collect(),
                expert_margin: routing.margin,
                index_margin: attended.margin,
                streams: Some(streams.concat()),
            });
        }
        if self.config.family == Family::V4 {
            pre = self.head(&streams);
        }
        let gains = self.weights.vector("output_norm.weight");
        let x = rms_norm(&collapse(&pre, &streams), &gains, self.config.rms_eps);
        Position {
            logits: self.weights.product("output.weight", &x),
            layers,
        }
    }

    /// The normed input of a site and its mix. `pre` is what the last site left, and becomes
    /// what this one leaves.
    fn enter(
        &self,
        l: usize,
        site: &str,
        pre: &mut Vec<f32>,
        streams: &[Vec<f32>],
    ) -> (Vec<f32>, Mix) {
        let side_by_side = streams.concat();
        let products = self.product(l, &format!("hc_{site}_fn"), &side_by_side);
        let mix = mix(
            &products,
            inverse_rms(&side_by_side, self.config.rms_eps),
            &self.vector(l, &format!("hc_{site}_scale")),
            &self.vector(l, &format!("hc_{site}_base")),
            self.config.hc_eps,
            self.config.hc_iterations,
        );
        let collapsed = match self.config.family {
            Family::V4 => collapse(&mix.pre, streams),
            Family::V41 => collapse(pre, streams),
        };
        pre.clone_from(&mix.pre);
        (self.norm(l, &format!("{site}_norm"), &collapsed), mix)
    }

    /// V4's final weights.
    fn head(&self, streams: &[Vec<f32>]) -> Vec<f32> {
        let side_by_side = streams.concat();
        head_weights(
            &self.weights.product("output_hc_fn.weight", &side_by_side),
            inverse_rms(&side_by_side, self.config.rms_eps),
            self.weights.vector("output_hc_scale.weight")[0],
            &self.weights.vector("output_hc_base.weight"),
            self.config.hc_eps,
        )
    }

    fn engram(&self, l: usize, table: usize, streams: &mut [Vec<f32>]) {
        let addresses = self.addresses.as_ref().unwrap();
        let rows = self.weights.matrix("per_layer_token_embd.weight");
        let chosen = addresses.rows(table, &self.tokens).into_iter();
        let x: Vec<f32> = chosen.flat_map(|row| rows.row(row)).collect();
        let products = self.product(l, "engram_kv", &x);
        let (keys, value) = products.split_at(streams.len() * self.config.embedding);
        let keys = keys.chunks_exact(self.config.embedding);
        let gains = self.weights.matrix(&format!("blk.{l}.engram_gate.weight"));
        for (i, (h, key)) in streams.iter_mut().zip(keys).enumerate() {
            let gate = engram_gate(h, key, &gains.row(i), self.config.rms_eps);
            for (h, value) in h.iter_mut().zip(value) {
                *h = gate.mul_add(*value, *h);
            }
        }
    }

    fn route(&self, l: usize, x: &[f32]) -> Routing {
        let used = self.config.experts_used;
        let logits = self.product(l, "ffn_gate_inp", x);
        let bias;
        let choice = if self.config.layers[l].hash_routed {
            let table = format!("blk.{l}.ffn_gate_tid2eid.weight");
            let id = self.tokens[self.position()] as usize;
            Choice::Table(&self.weights.table(&table)[id * used..][..used])
        } else {
            bias = self.weights.vector(&format!("blk.{l}.exp_probs_b.bias"));
            Choice::Bias(&bias, used)
        };
        let scale = self.config.expert_weights_scale;
        route(&logits, choice, scale, self.config.expert_weights_norm)
    }

    fn experts(&self, l: usize, routing: &Routing, x: &[f32]) -> Vec<f32> {
        let layer = self.config.layers[l];
        let mut sum = vec![0f32; x.len()];
        let mut add = |y: Vec<f32>| {
            for (sum, y) in sum.iter_mut().zip(y) {
                *sum += y;
            }
        };
        for &(expert, weight) in &routing.experts {
            add(self.expert(l, "exps", expert, weight, layer.swiglu_limit, x));
        }
        add(self.expert(l, "shexp", 0, 1.0, layer.swiglu_limit_shared, x));
        sum
    }

    fn expert(
        &self,
        l: usize,
        kind: &str,
        expert: usize,
        weight: f32,
        limit: f32,
        x: &[f32],
    ) -> Vec<f32> {
        let experts = if kind == "exps" {
            self.config.experts
        } else {
            1
        };
        let product = |which: &str, x: &[f32]| {
            let name = format!("blk.{l}.ffn_{which}_{kind}.weight");
            self.weights.part(&name, expert, experts, x)
        };
        let (gate, up) = (product("gate", x), product("up", x));
        let inner = gate
            .iter()
            .zip(up)
            .map(|(g, u)| swiglu(*g, u, limit) * weight);
        product("down", &inner.collect::<Vec<f32>>())
    }
}
