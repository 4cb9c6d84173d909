//! Routing, and the experts' feed-forward.

use std::sync::Arc;

use v4_cuda::Driver;
use v4_cuda::args::{Combine, GroupPairs, Int8Rows, ROW_THREADS, Route, Swiglu};
use v4_cuda::driver::Extent;
use v4_quant::GgmlType;

use super::Cuda;
use super::buf::Buf;
use super::device::{Device, threads_for};
use super::products::{Activations, Layout, Lists, activations, int8_room, multiply};
use super::space::Space;
use crate::compute::backend::cpu::Precision;
use crate::compute::backend::{Choose, ExpertsView, RouteSpec, Routing};
use crate::error::CardError;

/// Threads of a block that looks for an expert's pairs.
const GROUP_THREADS: u32 = 256;

/// Experts chosen for a chunk, in a card's memory.
#[derive(Debug)]
pub struct Routed<D: Driver> {
    /// `[tokens, used]` experts, as many weights, `[tokens]` margins; none if the card has failed.
    space: Option<Space<D>>,
    tokens: usize,
    used: usize,
}

impl<D: Driver> Routed<D> {
    fn pairs(&self) -> usize {
        self.tokens * self.used
    }

    /// Addresses of experts, weights and margins.
    fn starts(&self) -> [u64; 3] {
        let start = self.space.as_ref().map_or(0, Space::start);
        let pairs = 4 * self.pairs() as u64;
        [start, start + pairs, start + 2 * pairs]
    }

    /// Copies it to the host, after all work; empty if the card has failed.
    pub(super) fn read(&self) -> Result<Routing, CardError> {
        let Some(space) = &self.space else {
            return Ok(Routing::default());
        };
        let pairs = self.pairs();
        let words = space.words(0, 2 * pairs + self.tokens)?;
        let floats = |part: &[u32]| part.iter().map(|&word| f32::from_bits(word)).collect();
        Ok(Routing {
            used: self.used,
            experts: words[..pairs].to_vec(),
            weights: floats(&words[pairs..2 * pairs]),
            margins: floats(&words[2 * pairs..]),
        })
    }
}

/// See `Backend::route`.
pub(super) fn route<D: Driver>(
    device: &Arc<Device<D>>,
    logits: &Buf<D>,
    spec: RouteSpec,
    choose: Choose<'_, Cuda<D>>,
) -> Routed<D> {
    let mut routed = Routed {
        space: None,
        tokens: logits.rows(),
        used: spec.used,
    };
    device.run(|| {
        let words = 2 * routed.pairs() + routed.tokens;
        routed.space = Some(Space::new(device, 4 * words)?);
        let [experts, weights, margins] = routed.starts();
        let (bias, table, ids) = match choose {
            Choose::Bias(bias) => (bias.start(), 0, None),
            Choose::Hash(table, ids) => {
                let ids = Space::of(device, &mut ids.iter().copied())?;
                (0, table.start(), Some(ids))
            }
        };
        let args = Route {
            experts,
            weights,
            margins,
            logits: logits.start(),
            bias,
            table,
            ids: ids.as_ref().map_or(0, Space::start),
            count: spec.experts as u32,
            used: spec.used as u32,
            normalise: u32::from(spec.normalise),
            scale: spec.scale,
        };
        let extent = Extent::row(routed.tokens as u32, 256).with_shared(args.shared_bytes());
        device.launch(&device.kernels().experts.route, extent, &args)
    });
    routed
}

/// What one call of experts has in common.
struct Call<'a, D: Driver> {
    device: &'a Arc<Device<D>>,
    precision: Precision,
    /// The tokens' activations, in float32 and rounded.
    x: Activations<D>,
    tokens: usize,
    width: usize,
}

/// Which rows of activations meet which expert.
#[derive(Clone, Copy)]
struct Work {
    /// Parts of products: experts, or places of pairs.
    parts: usize,
    /// Rows of results: pairs, or tokens.
    rows: usize,
    /// Rows that an expert has at most.
    inputs: usize,
    /// Pairs by expert; none of the shared one.
    lists: Option<Lists>,
    /// Address of the pairs' weights, or 0.
    weights: u64,
}

impl Work {
    /// Of the experts' matrix of that number: gate, up, down.
    fn of(self, number: usize) -> Self {
        let lists = self.lists.map(|lists| Lists {
            matrices: match lists.matrices {
                0 => 0,
                start => start + (8 * number * self.parts) as u64,
            },
            ..lists
        });
        Self { lists, ..self }
    }
}

/// See `Backend::experts`; `y` has its shape, and no experts are streamed.
pub(super) fn experts<D: Driver>(
    device: &Arc<Device<D>>,
    precision: Precision,
    routed: ExpertsView<'_, Cuda<D>>,
    shared: Option<ExpertsView<'_, Cuda<D>>>,
    routing: &Routed<D>,
    x: &Buf<D>,
    y: &mut Buf<D>,
) -> Result<(), CardError> {
    let of = |weights: ExpertsView<'_, Cuda<D>>| [types(weights)[0], types(weights)[1]];
    let mut used: Vec<GgmlType> = of(routed).to_vec();
    used.extend(shared.map(of).into_iter().flatten());
    let call = Call {
        device,
        precision,
        x: activations(device, precision, x, x.cols(), &used)?,
        tokens: x.rows(),
        width: x.cols(),
    };
    let groups = call.groups(routed, routing)?;
    let outputs = call.outputs(routed, &groups.work(routing))?;
    let shared = shared.map(|shared| call.outputs(shared, &call.all()));
    let shared = shared.transpose()?;
    let args = Combine {
        y: y.reserve(device)?,
        outputs: outputs.start(),
        elsewhere: 0,
        last: shared.as_ref().map_or(0, Space::start),
        places: 0,
        tokens: call.tokens as u32,
        width: call.width as u32,
        used: routing.used as u32,
        unused: 0,
    };
    let extent = threads_for(y.len(), ROW_THREADS);
    device.launch(&device.kernels().experts.combine, extent, &args)
}

fn types<D: Driver>(weights: ExpertsView<'_, Cuda<D>>) -> [GgmlType; 3] {
    [weights.gate, weights.up, weights.down].map(|w| w.tensor().ty())
}

/// Pairs of token and expert, by expert.
struct Groups<D: Driver> {
    space: Space<D>,
    /// Parts of products. With fewer pairs than experts, most experts would be parts without
    /// pairs, whose blocks a card would have to start all the same: then there is a part for each
    /// place of a pair.
    parts: usize,
    /// Addresses of parts' matrices, gate, up and down, if parts are places.
    addresses: Option<Space<D>>,
    pairs: usize,
    tokens: usize,
}

impl<D: Driver> Groups<D> {
    /// Address of the lists.
    fn lists(&self) -> u64 {
        self.space.start() + 4 * (self.parts as u64 + 1)
    }

    fn work(&self, routing: &Routed<D>) -> Work {
        Work {
            parts: self.parts,
            rows: self.pairs,
            inputs: self.tokens,
            lists: Some(Lists {
                starts: self.space.start(),
                pairs: self.lists(),
                inputs_of_x: routing.used,
                matrices: self.addresses.as_ref().map_or(0, Space::start),
            }),
            weights: routing.starts()[1],
        }
    }
}

impl<D: Driver> Call<'_, D> {
    /// The shared expert's work: all tokens.
    fn all(&self) -> Work {
        Work {
            parts: 1,
            rows: self.tokens,
            inputs: self.tokens,
            lists: None,
            weights: 0,
        }
    }

    fn groups(
        &self,
        routed: ExpertsView<'_, Cuda<D>>,
        routing: &Routed<D>,
    ) -> Result<Groups<D>, CardError> {
        let (experts, pairs) = (routed.gate.tensor().matrices(), routing.pairs());
        let (parts, addresses) = if pairs < experts {
            (pairs, Some(Space::new(self.device, 3 * 8 * pairs)?))
        } else {
            (experts, None)
        };
        // Starts, then pairs, tokens, places and weights, of which products need the first two.
        let groups = Groups {
            space: Space::new(self.device, 4 * (parts + 1 + 4 * pairs))?,
            parts,
            addresses,
            pairs,
            tokens: self.tokens,
        };
        let matrices = [&routed.gate, &routed.up, &routed.down];
        let mut starts = [0; 3];
        for (start, w) in starts.iter_mut().zip(matrices) {
            *start = w.start()?;
        }
        let [chosen, weights, _] = routing.starts();
        let list = |number: usize| groups.lists() + 4 * (number * pairs) as u64;
        let args = GroupPairs {
            starts: groups.space.start(),
            pairs: list(0),
            tokens: list(1),
            places: list(2),
            sorted_weights: list(3),
            experts: chosen,
            weights,
            addresses: groups.addresses.as_ref().map_or(0, Space::start),
            matrices: starts,
            matrix_bytes: matrices.map(|w| (w.tensor().rows() * w.tensor().row_bytes()) as u64),
            count: pairs as u32,
            used: routing.used as u32,
        };
        let extent =
            Extent::row(experts as u32, GROUP_THREADS).with_shared(GroupPairs::SHARED_BYTES);
        let kernel = &self.device.kernels().experts.group_pairs;
        self.device.launch(kernel, extent, &args)?;
        Ok(groups)
    }

    /// Outputs of experts, a row for each row of work.
    fn outputs(
        &self,
        experts: ExpertsView<'_, Cuda<D>>,
        work: &Work,
    ) -> Result<Space<D>, CardError> {
        let (ff, d) = (experts.gate.tensor().rows(), self.width);
        let device = self.device;
        let [gate, up] = [(); 2].map(|()| Space::new(device, 4 * work.rows * ff));
        let (gate, up) = (gate?, up?);
        for (number, (w, y)) in [(experts.gate, &gate), (experts.up, &up)]
            .into_iter()
            .enumerate()
        {
            let layout = layout(&work.of(number), y.start(), ff, d);
            multiply(device, self.precision, w, &self.x, &layout)?;
        }
        let int8 = device.is_int8(types(experts)[2], self.precision);
        let room = if int8 {
            Some(int8_room(device, work.rows * ff)?)
        } else {
            None
        };
        let args = Swiglu {
            y: if int8 { 0 } else { gate.start() },
            gate: gate.start(),
            up: up.start(),
            weights: work.weights,
            to: room.as_ref().map_or(Int8Rows::default(), |(_, rows)| *rows),
            count: (work.rows * ff) as u64,
            width: ff as u32,
            limit: experts.limit,
        };
        let extent = threads_for(work.rows * ff, ROW_THREADS);
        device.launch(&device.kernels().rows.swiglu, extent, &args)?;
        let hidden = match room {
            Some(room) => Activations::rounded(room, work.rows * ff, ff),
            None => Activations::floats(gate.start(), work.rows * ff, ff),
        };
        let outputs = Space::new(device, 4 * work.rows * d)?;
        // Every pair has a row of its own by now.
        let work = work.of(2);
        let lists = work.lists.map(|lists| Lists {
            inputs_of_x: 1,
            ..lists
        });
        let layout = layout(&Work { lists, ..work }, outputs.start(), d, ff);
        multiply(device, self.precision, experts.down, &hidden, &layout)?;
        Ok(outputs)
    }
}

/// Of products of experts' matrices, `[rows, cols]`, with what they have to do.
fn layout(work: &Work, y: u64, rows: usize, cols: usize) -> Layout {
    Layout {
        y,
        y_part: 0,
        y_stride: rows,
        x_part: 0,
        x_stride: cols,
        parts: work.parts,
        rows,
        inputs: work.inputs,
        usual: work.rows.div_ceil(work.parts.max(1)),
        lists: work.lists,
    }
}
