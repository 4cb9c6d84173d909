//! What models run on, chosen when one is opened: the CPU or a card.
//!
//! [`Device`] is the one that engines and sessions are written with. It hands every operation to
//! the backend that it has, together with that backend's side of all arguments ([`sides`]).

mod sides;

use std::ops::Range;
use std::sync::Arc;

use v4_cuda::AnyDriver;
use v4_quant::dot::Kernels;

use super::cpu::{self, Cpu, Matrix, Precision};
use super::cuda::{self, Cuda};
use super::{
    Attend, Backend, CandidatePool, Choose, ExpertsView, HcParams, HcView, IndexSpec, LowRank,
    PoolSpec, RouteSpec,
};
use crate::compute::arithmetic::{Rope, RopeTable};
use crate::compute::cache_rows::{HostRows, RowFormat};
use crate::compute::profile::Profile;
use crate::error::EngineError;
use crate::model::{ModelConfig, Tensor};
use sides::{Both, Either, Sides};

/// The CPU or a card; see the module's text.
#[derive(Debug)]
pub enum Device {
    /// The CPU.
    Cpu(Cpu),
    /// A card.
    Card(Cuda<AnyDriver>),
}

impl Device {
    /// Whether it has operations for a model whose index keys are stored like this.
    ///
    /// # Errors
    /// As [`Cuda::allow`].
    pub fn allow(&self, cfg: &ModelConfig, keys: RowFormat) -> Result<(), EngineError> {
        match self {
            Self::Cpu(_) => Ok(()),
            Self::Card(card) => card.allow(cfg, keys),
        }
    }

    /// A card, with all kernels loaded.
    ///
    /// # Errors
    /// As [`Cuda::new`].
    pub fn on_card(card: &AnyDriver, precision: Precision) -> Result<Self, EngineError> {
        Cuda::new(&Arc::new(card.clone()), precision).map(Self::Card)
    }

    /// How products are computed.
    #[must_use]
    pub fn precision(&self) -> Precision {
        match self {
            Self::Cpu(cpu) => cpu.precision(),
            Self::Card(card) => card.precision(),
        }
    }

    /// The kernels of the CPU. Beside a card they are used for rows that the host looks up.
    #[must_use]
    pub fn kernels(&self) -> &'static Kernels {
        match self {
            Self::Cpu(cpu) => cpu.kernels(),
            Self::Card(_) => Kernels::detect(),
        }
    }

    /// The work since the last call; a card keeps no account of it.
    #[must_use]
    pub fn take_profile(&self) -> Option<Profile> {
        match self {
            Self::Cpu(cpu) => cpu.take_profile(),
            Self::Card(_) => None,
        }
    }

    /// The card, if it is one.
    #[must_use]
    pub fn card(&self) -> Option<&v4_cuda::driver::Card> {
        match self {
            Self::Cpu(_) => None,
            Self::Card(card) => Some(card.card()),
        }
    }
}

/// Hands operations on. Those after `make` return what is the backend's own, those after `load`
/// may fail to.
macro_rules! hand_on {
    (
        $(fn $name:ident(&self $(, $arg:ident: $ty:ty)* $(,)?) $(-> $returned:ty)?;)+
        make
        $(fn $make:ident(&self $(, $with:ident: $of:ty)* $(,)?) -> $made:ty;)+
        load
        $(fn $load:ident(&self $(, $from:ident: $kind:ty)* $(,)?) -> $loaded:ty;)+
    ) => {
        $(fn $name(&self $(, $arg: $ty)*) $(-> $returned)? {
            match self {
                Self::Cpu(b) => b.$name($(Sides::cpu($arg)),*),
                Self::Card(b) => b.$name($(Sides::card($arg)),*),
            }
        })+
        $(fn $make(&self $(, $with: $of)*) -> $made {
            match self {
                Self::Cpu(b) => Either::Cpu(b.$make($(Sides::cpu($with)),*)),
                Self::Card(b) => Either::Card(b.$make($(Sides::card($with)),*)),
            }
        })+
        $(fn $load(&self $(, $from: $kind)*) -> $loaded {
            match self {
                Self::Cpu(b) => Ok(Either::Cpu(b.$load($(Sides::cpu($from)),*)?)),
                Self::Card(b) => Ok(Either::Card(b.$load($(Sides::card($from)),*)?)),
            }
        })+
    };
}

impl Backend for Device {
    type Buf = Both<Matrix, cuda::Buf<AnyDriver>>;
    type Weight = Either<Tensor, cuda::Weight<AnyDriver>>;
    type Vector = Either<Vec<f32>, cuda::Vector<AnyDriver>>;
    type Table = Either<Arc<[u32]>, cuda::Vector<AnyDriver>>;
    type Angles = Either<RopeTable, cuda::Angles<AnyDriver>>;
    type Routing = Either<super::Routing, cuda::Routed<AnyDriver>>;
    type Rows = Either<HostRows, cuda::Rows<AnyDriver>>;
    type Pending = Either<cpu::Pending, cuda::Pending<AnyDriver>>;
    type Selection = Both<cpu::Selection, cuda::Selection<AnyDriver>>;

    hand_on! {
        fn check(&self) -> Result<(), EngineError>;
        fn allow_streamed(&self, tensor: &Tensor) -> Result<(), EngineError>;
        fn drop_first_angles(&self, angles: &mut Self::Angles, n: usize);

        fn rows_len(&self, rows: &Self::Rows) -> usize;
        fn row_bytes(&self, rows: &Self::Rows) -> usize;
        fn rows_bytes(&self, rows: &Self::Rows) -> usize;
        fn push_rows(&self, rows: &mut Self::Rows, x: &Self::Buf);
        fn restart_rows(&self, rows: &mut Self::Rows, next: usize);
        fn keep_last_rows(&self, rows: &mut Self::Rows, keep: usize);
        fn first_row(&self, rows: &Self::Rows) -> usize;
        fn export_rows(&self, rows: &Self::Rows, which: Range<usize>, out: &mut Vec<u8>);
        fn truncate_rows(&self, rows: &mut Self::Rows, len: usize);
        fn import_rows(&self, rows: &mut Self::Rows, first: usize, bytes: &[u8]) -> bool;

        fn pending_bytes(&self, pending: &Self::Pending) -> usize;
        fn pool(
            &self,
            pending: &mut Self::Pending,
            kv: &Self::Buf,
            gate: &Self::Buf,
            ape: Option<&Self::Vector>,
            out: &mut Self::Buf,
        );
        fn settle_pending(&self, pending: &mut Self::Pending, len: usize);
        fn pending_seen(&self, pending: &Self::Pending) -> usize;
        fn export_pending(&self, pending: &Self::Pending, len: usize, out: &mut Vec<u8>);
        fn fill_pending(
            &self,
            pending: &mut Self::Pending,
            seen: usize,
            noise: &mut dyn FnMut() -> f32,
        );
        fn import_pending(&self, pending: &mut Self::Pending, bytes: &[u8]) -> bool;

        fn buf_rows(&self, x: &Self::Buf) -> usize;
        fn read(&self, x: &Self::Buf) -> Vec<f32>;
        fn write(&self, values: &[f32], cols: usize, x: &mut Self::Buf);
        fn take_rows(&self, x: &Self::Buf, rows: Range<usize>, out: &mut Self::Buf);
        fn drop_first_rows(&self, x: &mut Self::Buf, n: usize);
        fn append_rows(&self, x: &Self::Buf, out: &mut Self::Buf);
        fn buf_bytes(&self, x: &Self::Buf) -> usize;
        fn embed(
            &self,
            table: &Self::Weight,
            ids: &[u32],
            streams: usize,
            h: &mut Self::Buf,
        ) -> Result<(), EngineError>;

        fn matmul(&self, w: &Self::Weight, x: &Self::Buf, y: &mut Self::Buf);
        fn matmul_grouped(
            &self,
            w: &Self::Weight,
            groups: usize,
            x: &Self::Buf,
            y: &mut Self::Buf,
        );
        fn add_low_rank(&self, w: LowRank<'_>, x: &Self::Buf, y: &mut Self::Buf);
        fn swiglu(&self, gate: &mut Self::Buf, up: &Self::Buf, limit: f32);
        fn add(&self, x: &Self::Buf, y: &mut Self::Buf);

        fn rms_norm(
            &self,
            x: &mut Self::Buf,
            width: usize,
            gain: Option<&Self::Vector>,
            eps: f32,
        );
        fn rope(&self, x: &mut Self::Buf, width: usize, angles: &Self::Angles, inverse: bool);
        fn round_index(&self, x: &mut Self::Buf, width: usize, hadamard: bool);

        fn hc_mix(&self, h: &Self::Buf, site: HcView<'_, Self>, p: HcParams, mix: &mut Self::Buf);
        fn hc_first_stream(&self, rows: usize, streams: usize, mix: &mut Self::Buf);
        fn hc_collapse(&self, h: &Self::Buf, mix: &Self::Buf, p: HcParams, x: &mut Self::Buf);
        fn hc_expand(&self, h: &mut Self::Buf, y: &Self::Buf, mix: &Self::Buf, p: HcParams);
        fn hc_head(&self, h: &Self::Buf, head: HcView<'_, Self>, p: HcParams, x: &mut Self::Buf);
        fn engram(&self, h: &mut Self::Buf, kv: &Self::Buf, gain: &Self::Vector, p: HcParams);

        fn index(
            &self,
            spec: IndexSpec,
            q: &Self::Buf,
            w: &Self::Buf,
            keys: &Self::Rows,
            pool: CandidatePool<'_, Self>,
            out: &mut Self::Selection,
        );
        fn selection_margins(&self, selection: &Self::Selection) -> Vec<f32>;
        fn attend(&self, args: Attend<'_, Self>, q: &Self::Buf, out: &mut Self::Buf);

        fn read_routing(&self, routing: &Self::Routing) -> super::Routing;
        fn experts(
            &self,
            routed: ExpertsView<'_, Self>,
            shared: Option<ExpertsView<'_, Self>>,
            routing: &Self::Routing,
            x: &Self::Buf,
            y: &mut Self::Buf,
        ) -> Result<(), EngineError>;

        make

        fn vector(&self, values: Vec<f32>) -> Self::Vector;
        fn table(&self, values: &Arc<[u32]>) -> Self::Table;
        fn angles(
            &self,
            rope: &Rope,
            positions: &mut dyn Iterator<Item = u64>,
        ) -> Self::Angles;
        fn rows(&self, format: RowFormat, width: usize) -> Self::Rows;
        fn pending(&self, spec: PoolSpec) -> Self::Pending;
        fn route(
            &self,
            logits: &Self::Buf,
            spec: RouteSpec,
            choose: Choose<'_, Self>,
        ) -> Self::Routing;

        load

        fn load(&self, tensor: &Tensor) -> Result<Self::Weight, EngineError>;
        fn load_rows(&self, tensor: &Tensor) -> Result<Self::Weight, EngineError>;
    }
}
