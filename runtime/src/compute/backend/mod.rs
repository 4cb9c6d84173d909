//! The operations of the forward pass, on buffers that only a backend can access.
//!
//! The forward pass (`crate::compute::forward`) is written against [`Backend`] alone.
//! `cpu` is one implementation, with the feature `cuda` cards are another; engines and sessions
//! use a [`Device`], which is either. All matrices are row-major f32 `[rows, cols]`
//! with one row per token unless said otherwise; an operation gives every
//! output buffer its shape.
//!
//! **Determinism.** A row of a result depends on its own inputs only, never on
//! the other rows, the number of threads or how rows were grouped into calls;
//! every sum has an order that depends on shapes alone (design contract 3).

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(feature = "cuda")]
mod device;
mod owned;
mod views;

use std::sync::Arc;

use crate::error::EngineError;
use crate::residency::experts::StreamedLayer;

use crate::compute::arithmetic::Rope;
use crate::compute::cache_rows::RowFormat;
use crate::model::Tensor;
#[cfg(feature = "cuda")]
pub use device::Device;
pub use owned::{ExpertWeights, HcWeights};
pub use views::{LowRank, WeightRows};

/// What models run on: the CPU, the only one that this build knows.
#[cfg(not(feature = "cuda"))]
pub type Device = cpu::Cpu;

/// Weights of one hyper-connection site (spec 3.1).
#[derive(Debug)]
pub struct HcView<'a, B: Backend> {
    /// `[mix, hc * d]`: 24 rows for four streams, `hc` rows for the head.
    pub func: &'a B::Weight,
    /// One value per row of `func`.
    pub base: &'a B::Vector,
    /// One value per group of rows: pre, post, comb; only pre for the head.
    pub scale: &'a B::Vector,
}

/// Constants of the hyper-connections.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HcParams {
    /// Residual streams.
    pub streams: usize,
    /// Sinkhorn iterations, the first included.
    pub iterations: usize,
    /// Added wherever the published code adds `hc_eps`.
    pub eps: f32,
    /// Epsilon of the norm over all streams.
    pub norm_eps: f32,
}

/// How a compressor pools tokens to entries (spec 3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolSpec {
    /// Tokens per entry.
    pub ratio: usize,
    /// Channels of an entry.
    pub width: usize,
    /// Whether an entry also pools the group before it, through the first half
    /// of twice as many channels.
    pub overlap: bool,
}

/// Which compressed entries a chunk's queries attend to.
#[derive(Debug, Clone, Copy)]
pub enum Entries<'a, B: Backend> {
    /// None: a layer with a window only.
    None,
    /// All whose group has ended (HCA).
    Visible(&'a B::Rows),
    /// Those that the indexer chose (CSA).
    Selected(&'a B::Rows, &'a B::Selection),
}

/// What the queries of a chunk see of their window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// Each the rows up to its own, from row `oldest` on: there are none before it.
    Causal {
        /// The first row that is there.
        oldest: usize,
    },
    /// All the same: the window of the row before the chunk, from row `oldest` on, and
    /// the whole chunk.
    Block {
        /// The first row that is there.
        oldest: usize,
    },
}

impl Default for Sight {
    fn default() -> Self {
        Self::Causal { oldest: 0 }
    }
}

/// One chunk's attention (spec 3.2, items 4–6).
#[derive(Debug)]
pub struct Attend<'a, B: Backend> {
    /// Position of the chunk's first query.
    pub first: usize,
    /// Query heads per token.
    pub heads: usize,
    /// Keys seen, the query's own included.
    pub window: usize,
    /// What queries see of the window.
    pub sight: Sight,
    /// Rows of the window; the last one belongs to the chunk's last query.
    pub rows: &'a B::Rows,
    /// Compressed entries.
    pub entries: Entries<'a, B>,
    /// Tokens per compressed entry; unused with [`Entries::None`].
    pub ratio: usize,
    /// One extra logit per head, with value zero.
    pub sinks: &'a B::Vector,
    /// Factor on scores.
    pub scale: f32,
}

/// Blocks of entries that later index sources choose within (spec 3.5). A block
/// scores as its best entry; the newest visible block is always kept.
#[derive(Debug)]
pub enum CandidatePool<'a, B: Backend> {
    /// Every visible entry may be chosen.
    All,
    /// The same, and each query's best blocks are kept.
    Keep {
        /// Blocks kept.
        blocks: usize,
        /// Entries per block.
        size: usize,
        /// Receives them.
        kept: &'a mut B::Selection,
    },
    /// Only entries in the blocks kept for the query.
    Within {
        /// Entries per block.
        size: usize,
        /// The blocks, for all queries of the chunk at least.
        kept: &'a B::Selection,
    },
}

/// One chunk's choice of compressed entries (spec 3.4).
#[derive(Debug, Clone, Copy)]
pub struct IndexSpec {
    /// Position of the chunk's first query.
    pub first: usize,
    /// Entries to choose.
    pub top_k: usize,
    /// Tokens per entry.
    pub ratio: usize,
    /// Factor on the head weights.
    pub scale: f32,
}

/// How a layer chooses experts (spec 3.6).
#[derive(Debug, Clone, Copy)]
pub enum Choose<'a, B: Backend> {
    /// By token id: `[vocab, used]`, and the chunk's ids.
    Hash(&'a B::Table, &'a [u32]),
    /// The highest scores after adding this bias.
    Bias(&'a B::Vector),
}

/// A router's constants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RouteSpec {
    /// Experts of the layer.
    pub experts: usize,
    /// Experts per token.
    pub used: usize,
    /// Whether weights are divided by their sum.
    pub normalise: bool,
    /// Factor on the weights.
    pub scale: f32,
}

/// Experts chosen for a chunk, in the host's memory.
#[derive(Debug, Clone, Default)]
pub struct Routing {
    /// Experts per token.
    pub used: usize,
    /// `[tokens, used]`, best first.
    pub experts: Vec<u32>,
    /// `[tokens, used]`.
    pub weights: Vec<f32>,
    /// Per token: by how much the last chosen beat the first not chosen;
    /// infinite where the choice is not by score.
    pub margins: Vec<f32>,
}

/// The three matrices of all routed experts of a layer, or of the shared one.
#[derive(Debug)]
pub struct ExpertsView<'a, B: Backend> {
    /// `[experts, ff, d]`.
    pub gate: &'a B::Weight,
    /// `[experts, ff, d]`.
    pub up: &'a B::Weight,
    /// `[experts, d, ff]`.
    pub down: &'a B::Weight,
    /// Bound of the clamped SwiGLU.
    pub limit: f32,
    /// Where the experts come from if not all of them are in memory.
    pub streamed: Option<&'a StreamedLayer>,
}

// Derived, it would ask for backends that can be copied.
impl<B: Backend> Clone for ExpertsView<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for ExpertsView<'_, B> {}

/// A narrow set of operations; see the module's text for shapes and rules.
pub trait Backend: Send + Sync + Sized + std::fmt::Debug + 'static {
    /// An f32 matrix in the device's memory.
    type Buf: Clone + Send + std::fmt::Debug + Default;
    /// A matrix of weights in any ggml type, possibly with a leading dimension
    /// of experts. Copies have the data in common.
    type Weight: Clone + Send + Sync + std::fmt::Debug;
    /// A vector of constants, such as gains and biases.
    type Vector: Clone + Send + Sync + std::fmt::Debug;
    /// Experts by token id.
    type Table: Clone + Send + Sync + std::fmt::Debug;
    /// Cosines and sines of some positions, a row for each.
    type Angles: Send + Sync + std::fmt::Debug;
    /// Experts chosen for a chunk.
    type Routing: Send + std::fmt::Debug;
    /// Cache rows, appended as the context grows.
    type Rows: Clone + Send + Sync + std::fmt::Debug;
    /// Rows of the groups that have not ended yet, of one compressor.
    type Pending: Clone + Send + std::fmt::Debug;
    /// The entries chosen by an indexer for a chunk.
    type Selection: Send + std::fmt::Debug + Default;

    /// Says whether all that was computed so far is of use. Most operations have no result that
    /// could say that the device failed: values read since the last call may be used only after
    /// this was asked.
    ///
    /// # Errors
    /// What went wrong first, from then on.
    fn check(&self) -> Result<(), EngineError> {
        Ok(())
    }

    /// Takes a tensor of the file into use.
    ///
    /// # Errors
    /// If the tensor's type has no kernel here.
    fn load(&self, tensor: &Tensor) -> Result<Self::Weight, EngineError>;
    /// The same for a tensor of which only rows are looked up, by [`Self::embed`].
    ///
    /// # Errors
    /// As [`Self::load`].
    fn load_rows(&self, tensor: &Tensor) -> Result<Self::Weight, EngineError> {
        self.load(tensor)
    }
    /// Says whether experts of which this is the first tensor may be read from disk while the
    /// model runs.
    ///
    /// # Errors
    /// If they may not.
    fn allow_streamed(&self, _tensor: &Tensor) -> Result<(), EngineError> {
        Ok(())
    }
    /// Takes constants into use.
    fn vector(&self, values: Vec<f32>) -> Self::Vector;
    /// Takes a table of experts into use: `[vocab, used]`.
    fn table(&self, values: &Arc<[u32]>) -> Self::Table;
    /// The angles of these positions.
    fn angles(&self, rope: &Rope, positions: &mut dyn Iterator<Item = u64>) -> Self::Angles;
    /// Drops the angles of the first `n` positions.
    fn drop_first_angles(&self, angles: &mut Self::Angles, n: usize);

    /// An empty store of cache rows of `width` channels.
    fn rows(&self, format: RowFormat, width: usize) -> Self::Rows;
    /// Number of rows in a store, dropped ones included.
    fn rows_len(&self, rows: &Self::Rows) -> usize;
    /// Bytes of one row.
    fn row_bytes(&self, rows: &Self::Rows) -> usize;
    /// Bytes that a store takes.
    fn rows_bytes(&self, rows: &Self::Rows) -> usize;
    /// Appends all rows of `x`, rounded as the store's format says.
    fn push_rows(&self, rows: &mut Self::Rows, x: &Self::Buf);
    /// Drops all rows; the next one pushed has the number `next`.
    fn restart_rows(&self, rows: &mut Self::Rows, next: usize);
    /// Drops all but the last `keep` rows; they keep their numbers.
    fn keep_last_rows(&self, rows: &mut Self::Rows, keep: usize);

    /// Number of the first row that is still held.
    fn first_row(&self, rows: &Self::Rows) -> usize;
    /// Appends rows `which`, as they are stored, to `out`.
    fn export_rows(&self, rows: &Self::Rows, which: std::ops::Range<usize>, out: &mut Vec<u8>);
    /// Drops all but the first `len` rows.
    fn truncate_rows(&self, rows: &mut Self::Rows, len: usize);
    /// Appends rows that [`Self::export_rows`] gave, the first of which has the number
    /// `first`: where that is not the next one, all others are dropped. Whether they
    /// were whole rows.
    fn import_rows(&self, rows: &mut Self::Rows, first: usize, bytes: &[u8]) -> bool;

    /// An empty compressor state.
    fn pending(&self, spec: PoolSpec) -> Self::Pending;
    /// Bytes that a compressor state takes.
    fn pending_bytes(&self, pending: &Self::Pending) -> usize;
    /// Adds the chunk's projections (`kv` and `gate`, `[tokens, c * width]`),
    /// with `ape` `[ratio, c * width]`, if any, added to the gate, and pools every group
    /// that has ended: `out` is `[groups, width]`, before norm and rotation. The tokens
    /// stay until [`Self::settle_pending`].
    fn pool(
        &self,
        pending: &mut Self::Pending,
        kv: &Self::Buf,
        gate: &Self::Buf,
        ape: Option<&Self::Vector>,
        out: &mut Self::Buf,
    );

    /// Makes a compressor's state that after its first `len` tokens, or after all if it
    /// has seen no more: forgets those after them, and of those before them what later
    /// groups do not need. None that the shorter state needs may have been forgotten.
    fn settle_pending(&self, pending: &mut Self::Pending, len: usize);
    /// Tokens that a compressor has seen.
    fn pending_seen(&self, pending: &Self::Pending) -> usize;
    /// Appends the compressor state that [`Self::settle_pending`] would leave.
    fn export_pending(&self, pending: &Self::Pending, len: usize, out: &mut Vec<u8>);
    /// Makes a compressor's state one that has seen that many tokens, whose projections
    /// are noise.
    fn fill_pending(
        &self,
        pending: &mut Self::Pending,
        seen: usize,
        noise: &mut dyn FnMut() -> f32,
    );
    /// Takes over a state that [`Self::export_pending`] gave of a compressor of the same
    /// shape. Whether it can be one.
    fn import_pending(&self, pending: &mut Self::Pending, bytes: &[u8]) -> bool;

    /// Rows of a matrix.
    fn buf_rows(&self, x: &Self::Buf) -> usize;
    /// Copies a matrix to the host.
    fn read(&self, x: &Self::Buf) -> Vec<f32>;
    /// Makes `x` the matrix of these values from the host, with `cols` columns.
    fn write(&self, values: &[f32], cols: usize, x: &mut Self::Buf);
    /// Keeps the rows `rows` of `x`.
    fn take_rows(&self, x: &Self::Buf, rows: std::ops::Range<usize>, out: &mut Self::Buf);
    /// Drops the first `n` rows of `x`.
    fn drop_first_rows(&self, x: &mut Self::Buf, n: usize);
    /// Appends all rows of `x` to `out`.
    fn append_rows(&self, x: &Self::Buf, out: &mut Self::Buf);
    /// Bytes of a matrix.
    fn buf_bytes(&self, x: &Self::Buf) -> usize;
    /// `h[t]` = the embedding of `ids[t]`, copied to all streams. Ids were
    /// checked against the vocabulary.
    ///
    /// # Errors
    /// A row that was altered (see [`Tensor::check`]).
    fn embed(
        &self,
        table: &Self::Weight,
        ids: &[u32],
        streams: usize,
        h: &mut Self::Buf,
    ) -> Result<(), EngineError>;

    /// `y = x W^T` for `W` `[n, k]`.
    fn matmul(&self, w: &Self::Weight, x: &Self::Buf, y: &mut Self::Buf);
    /// Rows of `x` cut in `groups` equal parts; part `g` meets the `g`-th of
    /// `groups` equal parts of `w`'s rows (spec 3.2, item 7).
    fn matmul_grouped(&self, w: &Self::Weight, groups: usize, x: &Self::Buf, y: &mut Self::Buf);

    /// Adds what an adapter changes at this product: `y += scale (x A^T) B^T`, group by
    /// group as in [`Self::matmul_grouped`].
    fn add_low_rank(&self, w: LowRank<'_>, x: &Self::Buf, y: &mut Self::Buf);
    /// `gate = silu(min(gate, limit)) * clamp(up, -limit, limit)`.
    fn swiglu(&self, gate: &mut Self::Buf, up: &Self::Buf, limit: f32);
    /// `y += x`.
    fn add(&self, x: &Self::Buf, y: &mut Self::Buf);

    /// RMS norm in place of every `width` channels, times `gain` if there is one.
    fn rms_norm(&self, x: &mut Self::Buf, width: usize, gain: Option<&Self::Vector>, eps: f32);
    /// Rotates the tail of every `width` channels; row `r` uses row `r` of the angles.
    fn rope(&self, x: &mut Self::Buf, width: usize, angles: &Self::Angles, inverse: bool);
    /// Normalised Walsh–Hadamard transform of every `width` channels (a power
    /// of two) if asked, then the fp4 rounding of index keys.
    fn round_index(&self, x: &mut Self::Buf, width: usize, hadamard: bool);

    /// Mixing weights of a site: `mix` `[tokens, 2 s + s^2]` = pre, post, comb
    /// with comb's first index the source.
    fn hc_mix(&self, h: &Self::Buf, site: HcView<'_, Self>, p: HcParams, mix: &mut Self::Buf);
    /// A mix of `rows` rows that collapses to the first stream: what stands
    /// before V4.1's first site.
    fn hc_first_stream(&self, rows: usize, streams: usize, mix: &mut Self::Buf);
    /// `x = sum_i pre_i h_i`.
    fn hc_collapse(&self, h: &Self::Buf, mix: &Self::Buf, p: HcParams, x: &mut Self::Buf);
    /// `h_k = post_k y + sum_j comb[j][k] h_j`.
    fn hc_expand(&self, h: &mut Self::Buf, y: &Self::Buf, mix: &Self::Buf, p: HcParams);
    /// The final collapse with its own weights.
    fn hc_head(&self, h: &Self::Buf, head: HcView<'_, Self>, p: HcParams, x: &mut Self::Buf);

    /// `h_i += gate_i value` for every stream `i`, where `kv` is one key per
    /// stream and then the value, `[tokens, (streams + 1) * d]`, `gain` is
    /// `[streams, d]` and (spec 3.7)
    /// `dot_i = sum(h_i gain_i key_i) / (rms(h_i) rms(key_i) sqrt(d))`,
    /// `gate_i = sigmoid(sign(dot_i) sqrt(max(|dot_i|, 1e-6)))`.
    fn engram(&self, h: &mut Self::Buf, kv: &Self::Buf, gain: &Self::Vector, p: HcParams);

    /// Scores every visible entry and chooses the best. `q` is
    /// `[tokens, heads * width]`, `w` `[tokens, heads]`.
    fn index(
        &self,
        spec: IndexSpec,
        q: &Self::Buf,
        w: &Self::Buf,
        keys: &Self::Rows,
        pool: CandidatePool<'_, Self>,
        out: &mut Self::Selection,
    );
    /// Per token: by how much the last chosen entry beat the best one left.
    fn selection_margins(&self, selection: &Self::Selection) -> Vec<f32>;
    /// Attention; `q` and `out` are `[tokens, heads * width]`.
    fn attend(&self, args: Attend<'_, Self>, q: &Self::Buf, out: &mut Self::Buf);

    /// Chooses experts from router logits `[tokens, experts]`.
    fn route(&self, logits: &Self::Buf, spec: RouteSpec, choose: Choose<'_, Self>)
    -> Self::Routing;
    /// Copies a choice of experts to the host.
    fn read_routing(&self, routing: &Self::Routing) -> Routing;
    /// `y[t] = sum_j w2_e(weight_j * silu(g) * u)` over the token's experts in
    /// the order of `routing`, plus the shared expert.
    ///
    /// # Errors
    /// An expert that cannot be read or was altered; `y` is then of no use.
    fn experts(
        &self,
        routed: ExpertsView<'_, Self>,
        shared: Option<ExpertsView<'_, Self>>,
        routing: &Self::Routing,
        x: &Self::Buf,
        y: &mut Self::Buf,
    ) -> Result<(), EngineError>;
}
