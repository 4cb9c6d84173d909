//! Routing, and the experts' feed-forward (spec 3.6).

use rayon::prelude::*;
use v4_quant::dot::Results;

use super::index::best_first;
use super::matmul::{Activations, split_buffer};
use super::{Cpu, Matrix};
use crate::compute::arithmetic::RowKernels;
use crate::compute::backend::{Choose, ExpertsView, RouteSpec, Routing, WeightRows};
use crate::compute::profile::Work;
use crate::error::EngineError;
use crate::model::Tensor;

/// See [`super::super::Backend::route`].
pub(super) fn route(
    rows: &RowKernels,
    logits: &Matrix,
    spec: RouteSpec,
    choose: Choose<'_, Cpu>,
) -> Routing {
    let tokens = logits.rows;
    let mut routing = Routing {
        used: spec.used,
        experts: Vec::with_capacity(tokens * spec.used),
        weights: Vec::with_capacity(tokens * spec.used),
        margins: Vec::with_capacity(tokens),
    };
    let mut order: Vec<u32> = Vec::with_capacity(spec.experts);
    for t in 0..tokens {
        let mut scores = logits.row(t).to_vec();
        (rows.router_scores)(&mut scores);
        order.clear();
        match choose {
            Choose::Hash(table, ids) => {
                let at = ids[t] as usize * spec.used;
                order.extend(&table[at..at + spec.used]);
                routing.margins.push(f32::INFINITY);
            }
            Choose::Bias(bias) => {
                let biased: Vec<f32> = scores.iter().zip(bias).map(|(s, b)| s + b).collect();
                order.extend(0..spec.experts as u32);
                order.sort_unstable_by(|&a, &b| best_first(&biased, a, b));
                let margin = order.get(spec.used).map_or(f32::INFINITY, |&next| {
                    biased[order[spec.used - 1] as usize] - biased[next as usize]
                });
                routing.margins.push(margin);
                order.truncate(spec.used);
            }
        }
        let sum: f32 = order.iter().map(|&e| scores[e as usize]).sum();
        let factor = if spec.normalise {
            spec.scale / (sum + 1e-20)
        } else {
            spec.scale
        };
        routing
            .weights
            .extend(order.iter().map(|&e| scores[e as usize] * factor));
        routing.experts.extend(&order);
    }
    routing
}

/// What [`Cpu::run_experts`] reads and computes.
pub(super) fn work(
    routed: ExpertsView<'_, Cpu>,
    shared: Option<ExpertsView<'_, Cpu>>,
    routing: &Routing,
    tokens: usize,
) -> Work {
    let mut experts = routing.experts.clone();
    experts.sort_unstable();
    experts.dedup();
    let of = |weights: ExpertsView<'_, Cpu>, matrices: usize, pairs: usize| {
        let each = [weights.gate, weights.up, weights.down];
        let bytes: usize = each.iter().map(|w| w.rows() * w.row_bytes()).sum();
        let values: usize = each.iter().map(|w| w.rows() * w.cols()).sum();
        super::weights(matrices * bytes, 2 * pairs * values)
    };
    let shared = shared.map(|shared| of(shared, 1, tokens));
    of(routed, experts.len(), routing.experts.len()).plus(shared.unwrap_or_default())
}

/// The tokens that one expert works on.
struct Group<'a> {
    weights: ExpertsView<'a, Cpu>,
    /// Its number; `None` for the shared one.
    expert: Option<u32>,
    /// Token, and the weight of this expert for it.
    tokens: Vec<(usize, f32)>,
    /// Pairs of token and expert in the groups before.
    start: usize,
}

/// A group whose expert is in memory: bytes of its gate, up and down matrices, and
/// where its tokens' outputs go, `[tokens, d]`.
struct Ready<'a, 'b> {
    group: &'b Group<'a>,
    matrices: [&'b [u8]; 3],
    out: &'b mut [f32],
}

/// Some columns of one group's outputs: `out` is `[tokens, rows]`.
struct Task<'a, 'b> {
    group: &'b Group<'a>,
    matrices: [&'b [u8]; 3],
    index: usize,
    first: usize,
    out: Results<'b>,
}

impl Cpu {
    /// See [`super::super::Backend::experts`].
    pub(super) fn run_experts(
        &self,
        routed: ExpertsView<'_, Cpu>,
        shared: Option<ExpertsView<'_, Cpu>>,
        routing: &Routing,
        x: &Matrix,
        y: &mut Matrix,
    ) -> Result<(), EngineError> {
        let (tokens, d) = (x.rows, x.cols);
        let (groups, places) = group(routed, shared, routing, tokens);
        let pairs = groups.last().map_or(0, |g| g.start + g.tokens.len());
        self.with_floats(pairs * d, |out| {
            self.outputs(routed, &groups, x, out)?;
            // Per token, in the order in which its experts were chosen; shared last.
            y.reshape(tokens, d);
            let rows = y.data.par_chunks_mut(d).zip(&places);
            rows.for_each(|(y, places)| {
                y.fill(0.0);
                for &(g, i) in places {
                    let part = &out[(groups[g].start + i) * d..][..d];
                    for (y, v) in y.iter_mut().zip(part) {
                        *y += v;
                    }
                }
            });
            Ok(())
        })
    }

    /// The outputs of each group for its tokens, `[pairs, d]`.
    fn outputs(
        &self,
        routed: ExpertsView<'_, Cpu>,
        groups: &[Group<'_>],
        x: &Matrix,
        out: &mut [f32],
    ) -> Result<(), EngineError> {
        let d = x.cols;
        match routed.streamed {
            None => {
                groups.par_iter().try_for_each(Group::check)?;
                let parts = split(groups, out, d);
                let ready = groups.iter().zip(parts).map(|(group, out)| Ready {
                    group,
                    matrices: group.resident(),
                    out,
                });
                self.run_groups(ready.collect(), x);
            }
            Some(layer) => {
                // By number of expert, the shared one last.
                let experts: Vec<u32> = groups.iter().filter_map(|g| g.expert).collect();
                let mut parts: Vec<_> = split(groups, out, d).into_iter().map(Some).collect();
                let mut shared_part = parts.drain(experts.len()..).next().flatten();
                let first = || {
                    if let (Some(group), Some(out)) =
                        (groups.get(experts.len()), shared_part.take())
                    {
                        let ready = Ready {
                            group,
                            matrices: group.resident(),
                            out,
                        };
                        self.run_groups(vec![ready], x);
                    }
                };
                layer.each(&experts, first, |residents| {
                    let ready = residents.iter().filter_map(|resident| {
                        let at = experts.binary_search(&resident.expert()).ok()?;
                        Some(Ready {
                            group: &groups[at],
                            matrices: resident.matrices(),
                            out: parts[at].take()?,
                        })
                    });
                    self.run_groups(ready.collect(), x);
                })?;
            }
        }
        Ok(())
    }

    /// The outputs of some groups.
    fn run_groups(&self, mut ready: Vec<Ready<'_, '_>>, x: &Matrix) {
        let Some(first) = ready.first() else {
            return;
        };
        let ff = first.group.weights.down.cols();
        let pairs: usize = ready.iter().map(|r| r.group.tokens.len()).sum();
        self.with_floats(pairs * ff, |hidden| {
            self.hidden(&ready, x, hidden);
            self.down(&mut ready, x.cols, hidden);
        });
    }

    /// The products with the last matrices of some groups.
    fn down(&self, ready: &mut [Ready<'_, '_>], d: usize, hidden: &[f32]) {
        let Some(first) = ready.first() else {
            return;
        };
        let ff = first.group.weights.down.cols();
        let types: Vec<_> = ready.iter().map(|r| r.group.weights.down.ty()).collect();
        let acts = Activations::new(self, hidden, ff, &types);
        let words: Vec<_> = ready
            .iter()
            .map(|r| acts.words(r.group.tokens.len()))
            .collect();
        self.with_words(words.iter().sum(), |buffer| {
            let mut start = 0;
            let parts: Vec<_> = ready
                .iter()
                .zip(split_buffer(buffer, words.into_iter()))
                .map(|(r, buffer)| {
                    let rows = start..start + r.group.tokens.len();
                    start = rows.end;
                    (r.group.weights.down.ty(), rows, buffer)
                })
                .collect();
            let inputs: Vec<_> = parts
                .into_par_iter()
                .map(|(ty, rows, buffer)| acts.input(ty, rows, buffer))
                .collect();
            let parts = ready.iter_mut().map(|r| (r.group, r.matrices, &mut *r.out));
            let tasks = tasks(parts, d, |g| g.weights.down);
            let next = following(&tasks, Site::Down);
            let tasks = tasks.into_par_iter().zip(next).with_max_len(1);
            tasks.for_each(|(task, next)| {
                let rows = task.rows(Site::Down);
                self.dot_rows(rows, &inputs[task.index], task.out, next);
            });
        });
    }

    /// `weight * silu(gate) * up` of every group's tokens: `[pairs, ff]`, in
    /// the order of the groups.
    fn hidden(&self, ready: &[Ready<'_, '_>], x: &Matrix, out: &mut [f32]) {
        let types: Vec<_> = ready
            .iter()
            .flat_map(|r| [r.group.weights.gate.ty(), r.group.weights.up.ty()])
            .collect();
        let acts = Activations::new(self, &x.data, x.cols, &types);
        let Some(first) = ready.first() else {
            return;
        };
        let ff = first.group.weights.gate.rows();
        let words = ready.iter().map(|r| acts.words(r.group.tokens.len()));
        self.with_words(words.clone().sum(), |buffer| {
            let parts: Vec<_> = ready.iter().zip(split_buffer(buffer, words)).collect();
            // One input serves both matrices, unless one of them alone is of floats.
            let inputs: Vec<_> = parts
                .into_par_iter()
                .map(|(r, buffer)| {
                    let types = [r.group.weights.gate, r.group.weights.up].map(|w| w.ty());
                    let tokens = || r.group.tokens.iter().map(|&(t, _)| t);
                    let of = |int8: bool| types.into_iter().find(|&ty| self.int8(ty) == int8);
                    let float = of(false).map(|ty| acts.input(ty, tokens(), &mut []));
                    let int8 = of(true).map(|ty| acts.input(ty, tokens(), buffer));
                    [float, int8]
                })
                .collect();
            let mut rest = out;
            let parts = ready.iter().map(|r| {
                let pairs = r.group.tokens.len();
                let (part, after) = std::mem::take(&mut rest).split_at_mut(pairs * ff);
                rest = after;
                (r.group, r.matrices, part)
            });
            let tasks = tasks(parts, ff, |g| g.weights.gate);
            let next = following(&tasks, Site::Up);
            let tasks = tasks.into_par_iter().zip(next).with_max_len(1);
            tasks.for_each(|(mut task, next)| {
                let (m, n) = (task.group.tokens.len(), task.out.cols());
                let weights = task.group.weights;
                let [gate, up] = [Site::Gate, Site::Up].map(|site| task.rows(site));
                let product = |w: WeightRows<'_>, out: Results<'_>, next: &[u8]| {
                    if let Some(input) = &inputs[task.index][usize::from(self.int8(w.ty))] {
                        self.dot_rows(w, input, out, next);
                    }
                };
                self.with_floats(m * n, |ups| {
                    product(up, Results::new(ups, m), gate.data);
                    product(gate, task.out.reborrow(), next);
                    for (t, (_, w)) in task.group.tokens.iter().enumerate() {
                        let row = task.out.row(t);
                        (self.rows.swiglu)(row, &ups[t * n..(t + 1) * n], weights.limit);
                        row.iter_mut().for_each(|v| *v *= w);
                    }
                });
            });
        });
    }
}

impl Group<'_> {
    /// Sees that matrices in memory are what the file's hashes say; the shared expert's
    /// were checked when they were loaded.
    fn check(&self) -> Result<(), EngineError> {
        let Some(expert) = self.expert else {
            return Ok(());
        };
        [self.weights.gate, self.weights.up, self.weights.down]
            .into_iter()
            .try_for_each(|w| w.check_matrix(expert as usize))
    }

    /// The matrices where the model has them in memory.
    fn resident(&self) -> [&[u8]; 3] {
        let expert = self.expert.unwrap_or(0) as usize;
        [self.weights.gate, self.weights.up, self.weights.down].map(|w| w.matrix(expert))
    }
}

/// One of an expert's matrices.
#[derive(Clone, Copy)]
enum Site {
    Gate,
    Up,
    Down,
}

impl<'b> Task<'_, 'b> {
    /// The rows of a matrix that this task takes.
    fn rows(&self, site: Site) -> WeightRows<'b> {
        let weights = self.group.weights;
        let w = match site {
            Site::Gate => weights.gate,
            Site::Up => weights.up,
            Site::Down => weights.down,
        };
        WeightRows::of(w, self.matrices[site as usize]).part(self.first, self.out.cols())
    }
}

/// The weights with which the task after each begins, nothing after the last. A thread mostly
/// goes on with the task that follows.
fn following<'b>(tasks: &[Task<'_, 'b>], site: Site) -> Vec<&'b [u8]> {
    let next = tasks.iter().skip(1).map(|task| task.rows(site).data);
    next.chain([&[][..]]).collect()
}

/// All rows of a weight.
fn whole(w: &Tensor) -> WeightRows<'_> {
    WeightRows::of(w, w.data())
}

/// Cuts the outputs of all groups, `[pairs, d]`, into those of each.
fn split<'b>(groups: &[Group<'_>], mut out: &'b mut [f32], d: usize) -> Vec<&'b mut [f32]> {
    let mut parts = Vec::with_capacity(groups.len());
    for group in groups {
        let (part, rest) = std::mem::take(&mut out).split_at_mut(group.tokens.len() * d);
        out = rest;
        parts.push(part);
    }
    parts
}

/// Groups a chunk's tokens by expert, and says where each token's results
/// lie: group and index in it.
#[allow(clippy::type_complexity)]
fn group<'a>(
    routed: ExpertsView<'a, Cpu>,
    shared: Option<ExpertsView<'a, Cpu>>,
    routing: &Routing,
    tokens: usize,
) -> (Vec<Group<'a>>, Vec<Vec<(usize, usize)>>) {
    let used = routing.used;
    let mut by_expert: Vec<usize> = (0..tokens * used).collect();
    by_expert.sort_by_key(|&pair| routing.experts[pair]);
    let mut groups: Vec<Group<'a>> = Vec::new();
    let mut places = vec![vec![(0, 0); used]; tokens];
    for pair in by_expert {
        let expert = Some(routing.experts[pair]);
        if groups.last().is_none_or(|g| g.expert != expert) {
            groups.push(Group {
                weights: routed,
                expert,
                tokens: Vec::new(),
                start: groups.last().map_or(0, |g| g.start + g.tokens.len()),
            });
        }
        let last = groups.len() - 1;
        let (token, slot) = (pair / used, pair % used);
        places[token][slot] = (last, groups[last].tokens.len());
        groups[last].tokens.push((token, routing.weights[pair]));
    }
    if let Some(weights) = shared {
        for (t, places) in places.iter_mut().enumerate() {
            places.push((groups.len(), t));
        }
        groups.push(Group {
            weights,
            expert: None,
            tokens: (0..tokens).map(|t| (t, 1.0)).collect(),
            start: tokens * used,
        });
    }
    (groups, places)
}

/// Cuts the outputs of groups by their columns.
fn tasks<'a: 'b, 'b>(
    parts: impl Iterator<Item = (&'b Group<'a>, [&'b [u8]; 3], &'b mut [f32])>,
    rows: usize,
    weight: impl Fn(&'b Group<'a>) -> &'b Tensor,
) -> Vec<Task<'a, 'b>> {
    let mut tasks = Vec::new();
    for (index, (group, matrices, part)) in parts.enumerate() {
        let m = group.tokens.len();
        let step = Cpu::task_rows(whole(weight(group)), rows, m);
        for (c, out) in Results::new(part, m).split(step).into_iter().enumerate() {
            tasks.push(Task {
                group,
                matrices,
                index,
                first: c * step,
                out,
            });
        }
    }
    tasks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::arithmetic;
    use v4_quant::dot::Kernels;

    fn rows() -> &'static RowKernels {
        RowKernels::of(Kernels::detect())
    }

    #[test]
    fn swiglu_clamps_the_gate_above_and_up_on_both_sides() {
        let mut g: Vec<f32> = vec![20.0, -20.0, 1.0];
        (rows().swiglu)(&mut g, &[-50.0, 50.0, 0.5], 10.0);
        let silu = |x: f32| x * arithmetic::sigmoid(x);
        assert!((g[0] - silu(10.0) * -10.0).abs() < 1e-3);
        assert!((g[1] - silu(-20.0) * 10.0).abs() < 1e-6);
        assert!((g[2] - silu(1.0) * 0.5).abs() < 1e-6);
    }

    #[test]
    fn swiglu_keeps_nan() {
        for (g, u) in [(f32::NAN, 1.0), (1.0, f32::NAN)] {
            let mut x = [g];
            (rows().swiglu)(&mut x, &[u], 10.0);
            assert!(x[0].is_nan());
        }
    }

    #[test]
    fn routing_breaks_ties_by_index_and_weighs_without_bias() {
        let logits = Matrix {
            rows: 1,
            cols: 4,
            data: vec![1.0, 1.0, 1.0, 5.0],
        };
        let spec = RouteSpec {
            experts: 4,
            used: 2,
            normalise: true,
            scale: 1.5,
        };
        let r = route(
            rows(),
            &logits,
            spec,
            Choose::Bias(&vec![0.0, 9.0, 9.0, 0.0]),
        );
        assert_eq!(r.experts, [1, 2]);
        assert_eq!(r.margins.len(), 1);
        assert_eq!(r.weights, [0.75, 0.75]);
    }
}
