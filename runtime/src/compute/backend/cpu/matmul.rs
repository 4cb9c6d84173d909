//! Matrix products with weights in any ggml type.

use std::cell::RefCell;
use std::sync::Mutex;

use rayon::prelude::*;
use v4_quant::GgmlType;
use v4_quant::dot::{ActQ8, ActRows, Results, Scratch};

use super::{Cpu, Matrix};
use crate::compute::backend::{LowRank, WeightRows};
use crate::model::Tensor;

/// How products are computed (design contract 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// Decoded weights times f32 activations; nothing is rounded but f32 sums.
    Exact,
    /// Integer products with activations rounded to int8 per 32 values, where
    /// the weights' type has a kernel for it.
    #[default]
    Fast,
}

/// Bytes of weights that one task reads where there are few activation rows: enough
/// to hide a task's cost, small enough to balance.
const TASK_BYTES: usize = 128 << 10;

/// From this number of activation rows on, weights are taken apart once for all.
const MANY_INPUTS: usize = 5;

/// Values of weights in one task where there are many activation rows. Taken apart,
/// they stay in a core's second-level cache.
const TASK_VALUES: usize = 512 << 10;

/// Rows that kernels take at a time, with few activation rows and with many; tasks
/// are multiples of them.
const STREAMS: usize = 8;
const PANEL_ROWS: usize = 16;

/// Rows of activations that an adapter's product takes at a time: what it adds is held
/// in memory in addition to the result.
pub(crate) const LOW_RANK_ROWS: usize = 128;

/// What a worker's products reuse.
#[derive(Default)]
struct Buffers {
    scratch: Scratch,
    decoded: Vec<f32>,
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

/// Decodes one row. The type was checked when the tensor was loaded and row
/// lengths are whole blocks, so this cannot fail.
pub(super) fn decode(ty: GgmlType, row: &[u8], out: &mut [f32]) {
    if v4_quant::decode_row(ty, row, out).is_err() {
        debug_assert!(false, "{ty} was checked at load");
        out.fill(f32::NAN);
    }
}

/// Activation rows as the weights' type wants them.
pub(super) enum Input<'a> {
    /// Rounded to int8.
    Int8(ActRows<'a>),
    /// As they are.
    Float(Vec<&'a [f32]>),
}

/// Buffers of products that were used before: the system would have to clear new ones.
#[derive(Debug, Default)]
pub(super) struct Spare {
    rounded: Mutex<Vec<ActQ8>>,
    packed: Mutex<Vec<Vec<u32>>>,
    floats: Mutex<Vec<Vec<f32>>>,
}

/// Cuts a buffer into parts of those lengths.
pub(super) fn split_buffer(
    buffer: &mut [u32],
    lengths: impl Iterator<Item = usize>,
) -> impl Iterator<Item = &mut [u32]> {
    let mut rest = buffer;
    lengths.map(move |length| {
        let (part, after) = std::mem::take(&mut rest).split_at_mut(length);
        rest = after;
        part
    })
}

/// The last of what is spare, or a new one. A poisoned lock has nothing to give.
fn take<T: Default>(spare: &Mutex<Vec<T>>) -> T {
    let taken = spare.lock().ok().and_then(|mut spare| spare.pop());
    taken.unwrap_or_default()
}

/// Runs `f` with a buffer of `len` values, whatever these are.
fn with<V: Copy + Default, T>(
    spare: &Mutex<Vec<Vec<V>>>,
    len: usize,
    f: impl FnOnce(&mut [V]) -> T,
) -> T {
    let mut buffer = take(spare);
    if buffer.len() < len {
        buffer.resize(len, V::default());
    }
    let result = f(&mut buffer[..len]);
    give(spare, buffer);
    result
}

/// Keeps what others may use.
fn give<T>(spare: &Mutex<Vec<T>>, used: T) {
    if let Ok(mut spare) = spare.lock() {
        spare.push(used);
    }
}

/// A matrix of activations, rounded once if any product needs it.
pub(super) struct Activations<'a> {
    cpu: &'a Cpu,
    float: &'a [f32],
    cols: usize,
    int8: Option<ActQ8>,
}

impl Drop for Activations<'_> {
    fn drop(&mut self) {
        if let Some(int8) = self.int8.take() {
            give(&self.cpu.spare.rounded, int8);
        }
    }
}

impl<'a> Activations<'a> {
    /// Rows of `cols` values, for weights of the types `types`.
    pub fn new(cpu: &'a Cpu, float: &'a [f32], cols: usize, types: &[GgmlType]) -> Self {
        let int8 = if types.iter().any(|&ty| cpu.int8(ty)) {
            let mut act = take(&cpu.spare.rounded);
            act.quantize_into(cpu.kernels, float, float.len() / cols, cols)
                .ok()
                .map(|()| act)
        } else {
            None
        };
        Self {
            cpu,
            float,
            cols,
            int8,
        }
    }

    /// Words that [`Activations::input`] needs for so many rows.
    pub fn words(&self, rows: usize) -> usize {
        self.cpu.kernels.packed_words(rows, self.cols)
    }

    /// The rows `rows`, for weights of type `ty`, laid out in a buffer of
    /// [`Activations::words`].
    pub fn input<'b>(
        &'b self,
        ty: GgmlType,
        rows: impl Iterator<Item = usize>,
        buffer: &'b mut [u32],
    ) -> Input<'b> {
        let cpu = self.cpu;
        match &self.int8 {
            Some(act) if cpu.int8(ty) => {
                let rows = rows.map(|r| act.row(r)).collect();
                Input::Int8(ActRows::new_in(cpu.kernels, rows, buffer))
            }
            _ => Input::Float(
                rows.map(|r| &self.float[r * self.cols..(r + 1) * self.cols])
                    .collect(),
            ),
        }
    }
}

impl Cpu {
    /// Runs `f` with a buffer of so many words.
    pub(super) fn with_words<T>(&self, words: usize, f: impl FnOnce(&mut [u32]) -> T) -> T {
        with(&self.spare.packed, words, f)
    }

    /// Runs `f` with a buffer of so many floats.
    pub(super) fn with_floats<T>(&self, floats: usize, f: impl FnOnce(&mut [f32]) -> T) -> T {
        with(&self.spare.floats, floats, f)
    }

    /// Whether products with this type round activations to int8.
    pub(super) fn int8(&self, ty: GgmlType) -> bool {
        self.precision == Precision::Fast && self.kernels.matmul_i8(ty).is_some()
    }

    /// Rows of a weight that make up one task for `inputs` activation rows; `rows`
    /// is the number of rows that all tasks together have.
    pub(super) fn task_rows(w: WeightRows<'_>, rows: usize, inputs: usize) -> usize {
        let (step, whole) = if inputs < MANY_INPUTS {
            (TASK_BYTES / w.row_bytes().max(1), STREAMS)
        } else {
            (TASK_VALUES / w.cols.max(1), PANEL_ROWS)
        };
        // At least a few tasks per thread, so that no thread waits for long.
        let by_threads = rows.div_ceil(8 * rayon::current_num_threads());
        step.min(by_threads).max(1).next_multiple_of(whole)
    }

    /// `out.row(t)[r] = w[r] . input[t]`, on the calling thread, which is likely to meet the
    /// weights `next` after that.
    pub(super) fn dot_rows(
        &self,
        w: WeightRows<'_>,
        input: &Input<'_>,
        out: Results<'_>,
        next: &[u8],
    ) {
        let (bytes, n) = (w.row_bytes(), w.count());
        BUFFERS.with_borrow_mut(|buffers| match input {
            Input::Int8(acts) => {
                if let Some(matmul) = self.kernels.matmul_i8(w.ty) {
                    buffers.scratch.expect(next);
                    matmul(w.data, acts, out, &mut buffers.scratch);
                }
            }
            Input::Float(xs) => {
                if let Some(matmul) = self.kernels.matmul_f32(w.ty) {
                    return matmul(w.data, xs, out, &mut buffers.scratch);
                }
                let k = w.cols;
                let Buffers { scratch, decoded } = buffers;
                let firsts = (0..n).step_by(PANEL_ROWS);
                for (first, out) in firsts.zip(out.split(PANEL_ROWS)) {
                    let count = out.cols();
                    decoded.resize(count * k, 0.0);
                    let packed = w.data[first * bytes..].chunks_exact(bytes);
                    for (row, to) in packed.zip(decoded.chunks_exact_mut(k)) {
                        decode(w.ty, row, to);
                    }
                    self.kernels.matmul_decoded(decoded, xs, out, scratch);
                }
            }
        });
    }

    /// `y = x w^T`, or group by group: see [`super::Backend::matmul_grouped`].
    pub(super) fn product(&self, w: &Tensor, groups: usize, x: &Matrix, y: &mut Matrix) {
        debug_assert_eq!(x.cols, w.cols() * groups, "{}", w.name());
        y.reshape(x.rows, w.rows());
        let rows = WeightRows::of(w, w.matrix(0));
        self.product_into(rows, groups, &x.data, &mut y.data);
    }

    /// [`Self::product`] for weights from anywhere: `x` is `[m, groups * cols]`, `y`
    /// `[m, rows]`.
    fn product_into(&self, w: WeightRows<'_>, groups: usize, x: &[f32], y: &mut [f32]) {
        let (k, n) = (w.cols, w.count());
        let m = x.len() / (k * groups).max(1);
        if m == 0 || n == 0 {
            return;
        }
        let acts = Activations::new(self, x, k, &[w.ty]);
        let words = acts.words(m);
        self.with_words(groups * words, |buffer| {
            let inputs: Vec<Input<'_>> = split_buffer(buffer, std::iter::repeat_n(words, groups))
                .enumerate()
                .map(|(g, buffer)| acts.input(w.ty, (0..m).map(move |t| t * groups + g), buffer))
                .collect();
            self.products_of(w, &inputs, Results::new(y, m));
        });
    }

    /// The products of groups of weight rows, each with its input.
    fn products_of(&self, w: WeightRows<'_>, inputs: &[Input<'_>], mut rest: Results<'_>) {
        let (n, m) = (rest.cols(), rest.inputs());
        let per_group = n / inputs.len().max(1);
        let step = Self::task_rows(w, n, m);
        let mut tasks = Vec::new();
        for input in inputs {
            let (group, after) = rest.split_at(per_group);
            rest = after;
            tasks.extend(group.split(step).into_iter().map(|part| (input, part)));
        }
        let mut first = 0;
        let tasks: Vec<_> = tasks
            .into_iter()
            .map(|(input, part)| {
                let from = first;
                first += part.cols();
                (input, from, part)
            })
            .collect();
        tasks
            .into_par_iter()
            .with_max_len(1)
            .for_each(|(input, first, part)| {
                let end = first + part.cols();
                let next = w.part(end, step.min(n - end)).data;
                self.dot_rows(w.part(first, part.cols()), input, part, next);
            });
    }

    /// `y += scale * (x a^T) b^T`, group by group as in [`Self::product`].
    pub(super) fn add_low_rank(&self, w: LowRank<'_>, x: &Matrix, y: &mut Matrix) {
        let (rank, n) = (w.a.count(), y.cols);
        debug_assert_eq!((x.cols, w.b.count()), (w.a.cols * w.groups, n));
        let rows = LOW_RANK_ROWS.min(x.rows);
        let mut inner = vec![0.0; rows * w.groups * rank];
        let mut outer = vec![0.0; rows * n];
        let pieces = x.data.chunks(LOW_RANK_ROWS * x.cols.max(1));
        for (x, y) in pieces.zip(y.data.chunks_mut(LOW_RANK_ROWS * n.max(1))) {
            let inner = &mut inner[..x.len() / w.a.cols * rank];
            let outer = &mut outer[..y.len()];
            self.product_into(w.a, 1, x, inner);
            inner.iter_mut().for_each(|v| *v *= w.scale);
            self.product_into(w.b, w.groups, inner, outer);
            let rows = y.par_chunks_mut(n).zip(outer.par_chunks(n));
            rows.for_each(|(y, v)| y.iter_mut().zip(v).for_each(|(y, v)| *y += v));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use v4_files::gguf::{GgufFile, Metadata, encode_header, layout_offsets};

    /// A file with one tensor `w` of `[k, n]`, in the type `ty`.
    fn weight(ty: GgmlType, n: usize, k: usize, values: &[f32]) -> (tempfile::TempDir, Tensor) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.gguf");
        let infos = layout_offsets([("w".to_owned(), ty, vec![k as u64, n as u64])], 4096).unwrap();
        let mut bytes = encode_header(&Metadata::new(), &infos, 4096).unwrap();
        let mut row = vec![0; ty.row_bytes(k).unwrap()];
        for v in values.chunks_exact(k) {
            v4_quant::encode_row(ty, v, None, &mut row).unwrap();
            bytes.extend(&row);
        }
        std::fs::write(&path, bytes).unwrap();
        let tensor = Tensor::find(&Arc::new(GgufFile::open(&path).unwrap()), "w").unwrap();
        (dir, tensor)
    }

    fn noise(n: usize, seed: u32) -> Vec<f32> {
        let mut x = seed;
        let mut next = || {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (x >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..n).map(|_| next()).collect()
    }

    fn product(cpu: &Cpu, w: &Tensor, groups: usize, x: &Matrix) -> Vec<f32> {
        let mut y = Matrix::default();
        cpu.product(w, groups, x, &mut y);
        y.data
    }

    #[test]
    fn exact_products_agree_with_the_gemm_crate() {
        let (m, n, k) = (5, 37, 256);
        let (values, x) = (noise(n * k, 1), noise(m * k, 2));
        let (_dir, w) = weight(GgmlType::F32, n, k, &values);
        let cpu = Cpu::new(Precision::Exact);
        let input = Matrix {
            rows: m,
            cols: k,
            data: x.clone(),
        };
        let ours = product(&cpu, &w, 1, &input);
        let theirs = gemm_product(m, n, k, &x, &values);
        for (a, b) in ours.iter().zip(&theirs) {
            assert!((a - b).abs() < 1e-4, "{a} {b}");
        }
    }

    /// `x w^T` by an independent implementation.
    #[allow(unsafe_code)]
    fn gemm_product(m: usize, n: usize, k: usize, x: &[f32], w: &[f32]) -> Vec<f32> {
        let mut y = vec![0.0f32; m * n];
        let (cols, rows) = (n as isize, k as isize);
        // SAFETY: the strides describe y as [m, n], x as [m, k] and w's
        // transpose as [k, n], which are the lengths of the three slices.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                y.as_mut_ptr(),
                1,
                cols,
                false,
                x.as_ptr(),
                1,
                rows,
                w.as_ptr(),
                rows,
                1,
                0.0,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
        y
    }

    #[test]
    fn a_row_does_not_depend_on_the_rows_beside_it() {
        let (m, n, k) = (9, 70, 512);
        let x = noise(m * k, 3);
        for ty in [
            GgmlType::BF16,
            GgmlType::Q8_0,
            GgmlType::Q4_K,
            GgmlType::MXFP4,
        ] {
            let (_dir, w) = weight(ty, n, k, &noise(n * k, 4));
            for precision in [Precision::Exact, Precision::Fast] {
                let cpu = Cpu::new(precision);
                let all = Matrix {
                    rows: m,
                    cols: k,
                    data: x.clone(),
                };
                let together = product(&cpu, &w, 1, &all);
                for t in 0..m {
                    let one = Matrix {
                        rows: 1,
                        cols: k,
                        data: all.row(t).to_vec(),
                    };
                    assert_eq!(
                        product(&cpu, &w, 1, &one),
                        together[t * n..(t + 1) * n],
                        "{ty}"
                    );
                }
            }
        }
    }

    #[test]
    fn groups_meet_their_own_rows() {
        let (n, k) = (6, 64);
        let values = noise(n * k, 5);
        let (_dir, w) = weight(GgmlType::F32, n, k, &values);
        let cpu = Cpu::new(Precision::Exact);
        let x = Matrix {
            rows: 2,
            cols: 2 * k,
            data: noise(4 * k, 6),
        };
        let y = product(&cpu, &w, 2, &x);
        for t in 0..2 {
            for r in 0..n {
                let group = r / 3;
                let part = &x.row(t)[group * k..(group + 1) * k];
                let want: f32 = part.iter().zip(&values[r * k..]).map(|(a, b)| a * b).sum();
                assert!((y[t * n + r] - want).abs() < 1e-5);
            }
        }
    }
}
