//! Routing, and the experts' feed-forward (spec 3.6).

use rayon::prelude::*;
use wide::f32x8;

use super::elementwise::load;
use super::index::best_first;
use super::matmul::{Activations, gather};
use super::{Cpu, Matrix};
use crate::backend::{Choose, ExpertWeights, RouteSpec, Routing};
use crate::math;
use crate::model::Tensor;
use crate::profile::Work;

/// See [`super::super::Backend::route`].
pub(super) fn route(logits: &Matrix, spec: RouteSpec, choose: Choose<'_>) -> Routing {
    let tokens = logits.rows;
    let mut routing = Routing {
        used: spec.used,
        experts: Vec::with_capacity(tokens * spec.used),
        weights: Vec::with_capacity(tokens * spec.used),
        margins: Vec::with_capacity(tokens),
    };
    let mut order: Vec<u32> = Vec::with_capacity(spec.experts);
    for t in 0..tokens {
        let scores: Vec<f32> = logits
            .row(t)
            .iter()
            .map(|&x| math::sqrt_softplus(x))
            .collect();
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
    routed: &ExpertWeights<Cpu>,
    shared: Option<&ExpertWeights<Cpu>>,
    routing: &Routing,
    tokens: usize,
) -> Work {
    let mut experts = routing.experts.clone();
    experts.sort_unstable();
    experts.dedup();
    let of = |weights: &ExpertWeights<Cpu>, matrices: usize, pairs: usize| {
        let each = [&weights.gate, &weights.up, &weights.down];
        let bytes: usize = each.iter().map(|w| w.rows() * w.row_bytes()).sum();
        let values: usize = each.iter().map(|w| w.rows() * w.cols()).sum();
        super::weights(matrices * bytes, 2 * pairs * values)
    };
    let shared = shared.map(|shared| of(shared, 1, tokens));
    of(routed, experts.len(), routing.experts.len()).plus(shared.unwrap_or_default())
}

/// The tokens that one expert works on.
struct Group<'a> {
    weights: &'a ExpertWeights<Cpu>,
    /// Index in the weights' tensors.
    expert: usize,
    /// Token, and the weight of this expert for it.
    tokens: Vec<(usize, f32)>,
}

/// A piece of one group's output rows: `out` is `[tokens, rows]`.
struct Task<'a, 'b> {
    group: &'b Group<'a>,
    index: usize,
    first: usize,
    out: &'b mut [f32],
}

impl Cpu {
    /// See [`super::super::Backend::experts`].
    pub(super) fn run_experts(
        &self,
        routed: &ExpertWeights<Cpu>,
        shared: Option<&ExpertWeights<Cpu>>,
        routing: &Routing,
        x: &Matrix,
        y: &mut Matrix,
    ) {
        let (tokens, d) = (x.rows, x.cols);
        let (groups, places) = group(routed, shared, routing, tokens);
        let hidden = self.hidden(&groups, x);

        let ff = routed.down.cols();
        let types: Vec<_> = groups.iter().map(|g| g.weights.down.ty()).collect();
        let acts = Activations::new(self, &hidden, ff, &types);
        let starts = starts(&groups);
        let pairs = starts[groups.len()];
        let inputs: Vec<_> = groups
            .iter()
            .zip(&starts)
            .map(|(g, &s)| acts.input(self, g.weights.down.ty(), s..s + g.tokens.len()))
            .collect();
        let mut out = vec![0.0; pairs * d];
        let tasks = tasks(&groups, &mut out, d, |g| &g.weights.down);
        tasks.into_par_iter().with_max_len(1).for_each(|task| {
            let m = task.group.tokens.len();
            let first = task.group.expert * d + task.first;
            let rows = first..first + task.out.len() / m;
            self.dot_rows(
                &task.group.weights.down,
                rows,
                &inputs[task.index],
                task.out,
            );
        });

        // Per token, in the order in which its experts were chosen; shared last.
        y.reshape(tokens, d);
        y.data.par_chunks_mut(d).zip(&places).for_each_init(
            || vec![0.0; d],
            |part, (y, places)| {
                y.fill(0.0);
                for &(g, i) in places {
                    let m = groups[g].tokens.len();
                    let pieces = &out[starts[g] * d..][..m * d];
                    let step = Self::task_rows(&groups[g].weights.down, d, m);
                    gather(pieces, step, m, i, part);
                    for (y, v) in y.iter_mut().zip(&*part) {
                        *y += v;
                    }
                }
            },
        );
    }

    /// `weight * silu(gate) * up` of every group's tokens: `[pairs, ff]`, in
    /// the order of the groups.
    fn hidden(&self, groups: &[Group<'_>], x: &Matrix) -> Vec<f32> {
        let types: Vec<_> = groups
            .iter()
            .flat_map(|g| [g.weights.gate.ty(), g.weights.up.ty()])
            .collect();
        let acts = Activations::new(self, &x.data, x.cols, &types);
        let Some(first) = groups.first() else {
            return Vec::new();
        };
        let inputs: Vec<_> = groups
            .iter()
            .map(|g| {
                [&g.weights.gate, &g.weights.up]
                    .map(|w| acts.input(self, w.ty(), g.tokens.iter().map(|&(t, _)| t)))
            })
            .collect();
        let ff = first.weights.gate.rows();
        let pairs: usize = groups.iter().map(|g| g.tokens.len()).sum();
        let mut out = vec![0.0; pairs * ff];
        let tasks = tasks(groups, &mut out, ff, |g| &g.weights.gate);
        tasks.into_par_iter().with_max_len(1).for_each(|task| {
            let Group {
                weights,
                expert,
                tokens,
            } = task.group;
            let m = tokens.len();
            let first = expert * ff + task.first;
            let rows = first..first + task.out.len() / m;
            let [gate_input, up_input] = &inputs[task.index];
            let mut up = vec![0.0; task.out.len()];
            self.dot_rows(&weights.gate, rows.clone(), gate_input, task.out);
            self.dot_rows(&weights.up, rows, up_input, &mut up);
            swiglu(task.out, &up, weights.limit);
            let n = task.out.len() / m;
            for (row, (_, w)) in task.out.chunks_exact_mut(n).zip(tokens) {
                row.iter_mut().for_each(|v| *v *= w);
            }
        });
        if pairs == groups.len() {
            // One token each: its pieces are its row.
            return out;
        }
        let mut hidden = vec![0.0; pairs * ff];
        let mut rest = hidden.as_mut_slice();
        let mut rows = Vec::with_capacity(pairs);
        for (group, start) in groups.iter().zip(starts(groups)) {
            let m = group.tokens.len();
            let pieces = &out[start * ff..(start + m) * ff];
            let step = Self::task_rows(&group.weights.gate, ff, m);
            let (part, after) = rest.split_at_mut(m * ff);
            rest = after;
            let part = part.chunks_exact_mut(ff).enumerate();
            rows.extend(part.map(|(t, row)| (pieces, step, m, t, row)));
        }
        rows.into_par_iter()
            .for_each(|(pieces, step, m, t, row)| gather(pieces, step, m, t, row));
        hidden
    }
}

/// Groups a chunk's tokens by expert, and says where each token's results
/// lie: group and index in it.
#[allow(clippy::type_complexity)]
fn group<'a>(
    routed: &'a ExpertWeights<Cpu>,
    shared: Option<&'a ExpertWeights<Cpu>>,
    routing: &Routing,
    tokens: usize,
) -> (Vec<Group<'a>>, Vec<Vec<(usize, usize)>>) {
    let used = routing.used;
    let mut by_expert: Vec<usize> = (0..tokens * used).collect();
    by_expert.sort_by_key(|&pair| routing.experts[pair]);
    let mut groups: Vec<Group<'a>> = Vec::new();
    let mut places = vec![vec![(0, 0); used]; tokens];
    for pair in by_expert {
        let expert = routing.experts[pair] as usize;
        if groups.last().is_none_or(|g| g.expert != expert) {
            groups.push(Group {
                weights: routed,
                expert,
                tokens: Vec::new(),
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
            expert: 0,
            tokens: (0..tokens).map(|t| (t, 1.0)).collect(),
        });
    }
    (groups, places)
}

/// Index of each group's first pair, and the number of pairs.
fn starts(groups: &[Group<'_>]) -> Vec<usize> {
    std::iter::once(0)
        .chain(groups.iter().scan(0, |sum, g| {
            *sum += g.tokens.len();
            Some(*sum)
        }))
        .collect()
}

/// Cuts `out` into pieces of a group's rows.
fn tasks<'a, 'b>(
    groups: &'b [Group<'a>],
    mut out: &'b mut [f32],
    rows: usize,
    weight: impl Fn(&'b Group<'a>) -> &'b Tensor,
) -> Vec<Task<'a, 'b>> {
    let mut tasks = Vec::new();
    for (index, group) in groups.iter().enumerate() {
        let m = group.tokens.len();
        let (part, rest) = out.split_at_mut(m * rows);
        out = rest;
        let step = Cpu::task_rows(weight(group), rows, m);
        for (c, out) in part.chunks_mut(step * m).enumerate() {
            tasks.push(Task {
                group,
                index,
                first: c * step,
                out,
            });
        }
    }
    tasks
}

/// `gate = silu(min(gate, limit)) * clamp(up, -limit, limit)`.
fn swiglu(gate: &mut [f32], up: &[f32], limit: f32) {
    let (max, min) = (f32x8::splat(limit), f32x8::splat(-limit));
    let one = f32x8::ONE;
    let mut gates = gate.chunks_exact_mut(8);
    let mut ups = up.chunks_exact(8);
    let run = |g: &mut [f32], u: &[f32]| {
        // The value second: then a NaN, from damaged weights, stays one.
        let v = max.fast_min(load(g));
        let u = min.fast_max(max.fast_min(load(u)));
        let y = v / (one + (-v).exp()) * u;
        g.copy_from_slice(&y.to_array());
    };
    for (g, u) in (&mut gates).zip(&mut ups) {
        run(g, u);
    }
    // The last few lanes go the same way, so that a value's bits do not
    // depend on its place.
    let (g, u) = (gates.into_remainder(), ups.remainder());
    if !g.is_empty() {
        let (mut gp, mut upad) = ([0.0; 8], [0.0; 8]);
        gp[..g.len()].copy_from_slice(g);
        upad[..u.len()].copy_from_slice(u);
        run(&mut gp, &upad);
        g.copy_from_slice(&gp[..g.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swiglu_clamps_the_gate_above_and_up_on_both_sides() {
        let mut g: Vec<f32> = vec![20.0, -20.0, 1.0];
        swiglu(&mut g, &[-50.0, 50.0, 0.5], 10.0);
        let silu = |x: f32| x * math::sigmoid(x);
        assert!((g[0] - silu(10.0) * -10.0).abs() < 1e-3);
        assert!((g[1] - silu(-20.0) * 10.0).abs() < 1e-6);
        assert!((g[2] - silu(1.0) * 0.5).abs() < 1e-6);
    }

    #[test]
    fn swiglu_keeps_nan() {
        for (g, u) in [(f32::NAN, 1.0), (1.0, f32::NAN)] {
            let mut x = [g];
            swiglu(&mut x, &[u], 10.0);
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
        let r = route(&logits, spec, Choose::Bias(&[0.0, 9.0, 9.0, 0.0]));
        assert_eq!(r.experts, [1, 2]);
        assert_eq!(r.margins.len(), 1);
        assert_eq!(r.weights, [0.75, 0.75]);
    }
}
