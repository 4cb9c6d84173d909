//! The CPU's and the card's side of what operations take.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use v4_cuda::AnyDriver;

use super::Device;
use crate::compute::arithmetic::Rope;
use crate::compute::backend::cpu::Cpu;
use crate::compute::backend::cuda::Cuda;
use crate::compute::backend::{
    Attend, CandidatePool, Choose, Entries, ExpertsView, HcParams, HcView, IndexSpec, LowRank,
    PoolSpec, RouteSpec,
};
use crate::compute::cache_rows::RowFormat;
use crate::model::Tensor;

type Card = Cuda<AnyDriver>;

/// What one of the backends made, for which only that one has a use.
#[derive(Debug, Clone)]
pub enum Either<C, G> {
    /// The CPU's.
    Cpu(C),
    /// The card's.
    Card(G),
}

/// What is there before anybody wrote it: each backend uses its own, and the other one's stays
/// empty.
#[derive(Debug, Clone, Default)]
pub struct Both<C, G> {
    cpu: C,
    card: G,
}

/// An argument of an operation, of which each backend takes its side.
pub(super) trait Sides {
    /// What the CPU takes.
    type Cpu;
    /// What a card takes.
    type Card;

    fn cpu(self) -> Self::Cpu;
    fn card(self) -> Self::Card;
}

/// Ends what a fault of this program began: models, their sessions and buffers are all of one
/// device, which never changes.
#[cold]
fn mixed(what: &impl Debug) -> ! {
    panic!("what is another device's: {what:?}")
}

impl<'a, C: Debug, G: Debug> Sides for &'a Either<C, G> {
    type Cpu = &'a C;
    type Card = &'a G;

    fn cpu(self) -> &'a C {
        match self {
            Either::Cpu(cpu) => cpu,
            Either::Card(card) => mixed(card),
        }
    }

    fn card(self) -> &'a G {
        match self {
            Either::Cpu(cpu) => mixed(cpu),
            Either::Card(card) => card,
        }
    }
}

impl<'a, C: Debug, G: Debug> Sides for &'a mut Either<C, G> {
    type Cpu = &'a mut C;
    type Card = &'a mut G;

    fn cpu(self) -> &'a mut C {
        match self {
            Either::Cpu(cpu) => cpu,
            Either::Card(card) => mixed(card),
        }
    }

    fn card(self) -> &'a mut G {
        match self {
            Either::Cpu(cpu) => mixed(cpu),
            Either::Card(card) => card,
        }
    }
}

impl<'a, C, G> Sides for &'a Both<C, G> {
    type Cpu = &'a C;
    type Card = &'a G;

    fn cpu(self) -> &'a C {
        &self.cpu
    }

    fn card(self) -> &'a G {
        &self.card
    }
}

impl<'a, C, G> Sides for &'a mut Both<C, G> {
    type Cpu = &'a mut C;
    type Card = &'a mut G;

    fn cpu(self) -> &'a mut C {
        &mut self.cpu
    }

    fn card(self) -> &'a mut G {
        &mut self.card
    }
}

impl<T: Sides> Sides for Option<T> {
    type Cpu = Option<T::Cpu>;
    type Card = Option<T::Card>;

    fn cpu(self) -> Self::Cpu {
        self.map(T::cpu)
    }

    fn card(self) -> Self::Card {
        self.map(T::card)
    }
}

/// What is the same for both.
macro_rules! plain {
    ($($ty:ty),+ $(,)?) => {$(
        impl Sides for $ty {
            type Cpu = Self;
            type Card = Self;

            fn cpu(self) -> Self {
                self
            }

            fn card(self) -> Self {
                self
            }
        }
    )+};
}

plain!(
    bool,
    f32,
    usize,
    Range<usize>,
    Vec<f32>,
    &[f32],
    &[u8],
    &[u32],
    &Arc<[u32]>,
    &mut Vec<u8>,
    &mut dyn FnMut() -> f32,
    &mut dyn Iterator<Item = u64>,
    &Rope,
    &Tensor,
    HcParams,
    IndexSpec,
    LowRank<'_>,
    PoolSpec,
    RouteSpec,
    RowFormat,
);

/// Structs and enums of arguments: each side has the same shape, of its own parts.
macro_rules! shaped {
    ($of:ident, $this:ident, $side:ident => $made:expr) => {
        impl<'a> Sides for $of<'a, Device> {
            type Cpu = $of<'a, Cpu>;
            type Card = $of<'a, Card>;

            fn cpu(self) -> Self::Cpu {
                fn $side<T: Sides>(part: T) -> T::Cpu {
                    part.cpu()
                }
                let $this = self;
                $made
            }

            fn card(self) -> Self::Card {
                fn $side<T: Sides>(part: T) -> T::Card {
                    part.card()
                }
                let $this = self;
                $made
            }
        }
    };
}

shaped!(HcView, this, side => HcView {
    func: side(this.func),
    base: side(this.base),
    scale: side(this.scale),
});

shaped!(ExpertsView, this, side => ExpertsView {
    gate: side(this.gate),
    up: side(this.up),
    down: side(this.down),
    limit: this.limit,
    streamed: this.streamed,
});

shaped!(Choose, this, side => match this {
    Choose::Hash(table, ids) => Choose::Hash(side(table), ids),
    Choose::Bias(bias) => Choose::Bias(side(bias)),
});

shaped!(CandidatePool, this, side => match this {
    CandidatePool::All => CandidatePool::All,
    CandidatePool::Keep { blocks, size, kept } => CandidatePool::Keep {
        blocks,
        size,
        kept: side(kept),
    },
    CandidatePool::Within { size, kept } => CandidatePool::Within {
        size,
        kept: side(kept),
    },
});

shaped!(Entries, this, side => match this {
    Entries::None => Entries::None,
    Entries::Visible(rows) => Entries::Visible(side(rows)),
    Entries::Selected(rows, selection) => Entries::Selected(side(rows), side(selection)),
});

shaped!(Attend, this, side => Attend {
    first: this.first,
    heads: this.heads,
    window: this.window,
    sight: this.sight,
    rows: side(this.rows),
    entries: side(this.entries),
    ratio: this.ratio,
    sinks: side(this.sinks),
    scale: this.scale,
});
