//! How fast kernels are at the shapes of the models.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use v4_cuda::Driver;
use v4_cuda::measure;
use v4_quant::GgmlType;

use super::super::Cuda;
use super::super::device::Device;
use super::super::products::{Layout, Rows, activations, multiply_rows};
use super::super::space::Space;
use super::activations::put;
use super::data::{Fill, noise, tensor, weights};
use super::products::{FLOATS, types};
use super::watched::Watched;
use super::{Backend, CheckScope, Precision};
use crate::compute::arithmetic::Rope;
use crate::compute::backend::{
    Attend, CandidatePool, Choose, Entries, HcParams, HcWeights, IndexSpec, RouteSpec, Sight,
};
use crate::compute::cache_rows::RowFormat;
use crate::error::{CardError, EngineError};

/// How long something took on a card, and what it had to do.
#[derive(Debug, Clone, PartialEq)]
pub struct Timing {
    /// What was measured, with its shape.
    pub what: String,
    /// The kernels that ran.
    pub kernels: Vec<&'static str>,
    /// Once, from start to end on the card.
    pub took: Duration,
    /// Bytes that had to be read and written in the card's memory at least.
    pub bytes: u64,
    /// Multiplications and additions in int8.
    pub int8_ops: u64,
    /// The same in float32.
    pub float_ops: u64,
}

/// Each is repeated for so long, and at most so often.
const LEAST: Duration = Duration::from_millis(15);
const MOST: u32 = 200;
/// Bytes of a matrix with few rows of activations: more than a card's cache.
const STREAMED: usize = 192 << 20;

/// Measures kernels one after the other; [`CheckScope::Small`] only shows that it can be done.
/// `seen` is told of every one, and can end it.
///
/// # Errors
/// If the card has no memory for it, or fails.
pub fn time_card<D: Driver>(
    driver: &Arc<D>,
    scope: CheckScope,
    seen: &mut dyn FnMut(&Timing) -> ControlFlow<()>,
) -> Result<(), EngineError> {
    let watched = Arc::new(Watched::new(driver));
    let card = Cuda::new(&watched, Precision::Fast)?;
    let timer = Timer {
        card: &card,
        watched: &watched,
        scope,
    };
    let mut see = |timing: Result<Timing, EngineError>| timing.map(|timing| seen(&timing));
    for ty in types() {
        for inputs in [1, 8] {
            if see(timer.few(ty, inputs))?.is_break() {
                return Ok(());
            }
        }
        if see(timer.many(ty))?.is_break() {
            return Ok(());
        }
        card.device.trim();
    }
    timer.operations(&mut see)
}

struct Timer<'a, D: Driver> {
    card: &'a Cuda<Watched<D>>,
    watched: &'a Watched<D>,
    scope: CheckScope,
}

/// What something has to do.
#[derive(Debug, Clone, Copy, Default)]
struct Task {
    bytes: u64,
    int8_ops: u64,
    float_ops: u64,
}

/// Times an operation of so many tokens.
type Run<'a> =
    dyn FnMut(&str, usize, Task, &mut dyn FnMut()) -> Result<ControlFlow<()>, EngineError> + 'a;

impl<D: Driver> Timer<'_, D> {
    fn device(&self) -> &Arc<Device<Watched<D>>> {
        &self.card.device
    }

    /// Either of two sizes.
    fn size<T>(&self, small: T, full: T) -> T {
        match self.scope {
            CheckScope::Small => small,
            CheckScope::Full => full,
        }
    }

    fn time(
        &self,
        what: String,
        task: Task,
        once: &mut dyn FnMut() -> Result<(), CardError>,
    ) -> Result<Timing, EngineError> {
        self.watched.log().take();
        let mut fault = None;
        let most = self.size(1, MOST);
        let took = measure::time(self.device().stream(), LEAST, most, &mut || {
            if let Err(error) = once() {
                fault.get_or_insert(error);
            }
            Ok(())
        });
        if let Some(fault) = fault.or_else(|| self.device().fault()) {
            return Err(fault.into());
        }
        Ok(Timing {
            what,
            kernels: self.watched.log().take(),
            took: took.map_err(CardError::from)?,
            bytes: task.bytes,
            int8_ops: task.int8_ops,
            float_ops: task.float_ops,
        })
    }

    /// A matrix of so many bytes at most, without its values on the host. Its rows.
    fn matrix(
        &self,
        ty: GgmlType,
        columns: usize,
        bytes: usize,
    ) -> Result<(Space<Watched<D>>, usize), CardError> {
        let row_bytes = columns / ty.block_values() * ty.block_bytes();
        let rows = (bytes / row_bytes).max(16);
        let space = Space::new(self.device(), rows * row_bytes)?;
        let some = weights(ty, Fill::Modest, columns * 16.min(rows), 150);
        for at in (0..rows * row_bytes).step_by(some.len()) {
            let end = some.len().min(rows * row_bytes - at);
            space.write(at, &some[..end])?;
        }
        Ok((space, rows))
    }

    /// A product with a few rows of activations, which has to read the matrix.
    fn few(&self, ty: GgmlType, inputs: usize) -> Result<Timing, EngineError> {
        let columns = self.size(256, 4096);
        self.product(ty, columns, self.size(1 << 14, STREAMED), inputs, 0)
    }

    /// A product with many rows of activations, which has to multiply.
    fn many(&self, ty: GgmlType) -> Result<Timing, EngineError> {
        let (columns, inputs) = self.size((256, 40), (4096, 2048));
        let rows = self.size(64, 4096);
        let bytes = rows * columns / ty.block_values() * ty.block_bytes();
        self.product(ty, columns, bytes, inputs, 4 * inputs * (rows + columns))
    }

    /// A matrix of so many bytes with rows of activations that are there as its product takes them.
    fn product(
        &self,
        ty: GgmlType,
        columns: usize,
        bytes: usize,
        inputs: usize,
        more_bytes: usize,
    ) -> Result<Timing, EngineError> {
        let (device, precision) = (self.device(), Precision::Fast);
        let (w, rows) = self.matrix(ty, columns, bytes)?;
        let row_bytes = columns / ty.block_values() * ty.block_bytes();
        let weights = Rows {
            ty,
            start: w.start(),
            cols: columns,
            row_bytes,
            codebook: device.codebook(ty)?,
        };
        let y = Space::new(device, 4 * rows * inputs)?;
        let x = put(self.card, &noise(inputs * columns, 151), columns);
        let x = activations(device, precision, &x, columns, &[ty])?;
        let layout = Layout {
            y: y.start(),
            y_part: 0,
            y_stride: rows,
            x_part: 0,
            x_stride: columns,
            parts: 1,
            rows,
            inputs,
            usual: inputs,
            lists: None,
        };
        let mut once = || multiply_rows(device, precision, weights, &x, &layout);
        // Where there are many, this puts them into the order of the product.
        once()?;
        let ops = 2 * (rows * columns * inputs) as u64;
        let floats = FLOATS.contains(&ty);
        let task = Task {
            bytes: (rows * row_bytes + more_bytes) as u64,
            int8_ops: if floats { 0 } else { ops },
            float_ops: if floats { ops } else { 0 },
        };
        let what = format!("{rows} rows of {columns} {ty}, {inputs} tokens");
        self.time(what, task, &mut once)
    }

    /// Operations of the backend, with the widths of V4-Flash.
    fn operations(
        &self,
        see: &mut dyn FnMut(Result<Timing, EngineError>) -> Result<ControlFlow<()>, EngineError>,
    ) -> Result<(), EngineError> {
        let b = self.card;
        let (d, s, heads, width) = self.size((256, 4, 4, 128), (4096, 4, 64, 512));
        let mut run = |what: &str, tokens: usize, task: Task, once: &mut dyn FnMut()| {
            let what = format!("{what}, {tokens} tokens");
            see(self.time(what, task, &mut || {
                once();
                Ok(())
            }))
        };
        let bytes = |values: usize| Task {
            bytes: 4 * values as u64,
            ..Task::default()
        };
        let params = HcParams {
            streams: s,
            iterations: 20,
            eps: 1e-6,
            norm_eps: 1e-6,
        };
        let func = tensor(GgmlType::F32, Fill::Modest, [1, (2 + s) * s, s * d], 153)?;
        let site = HcWeights {
            func: b.load(&func)?,
            base: b.vector(noise((2 + s) * s, 154)),
            scale: b.vector(noise(3, 155)),
        };
        let gain = b.vector(noise(d, 156));
        for tokens in [1, self.size(2, 512)] {
            let mut h = put(b, &noise(tokens * s * d, 157), s * d);
            let (mut mix, mut x) = Default::default();
            let mixed = bytes(s * d * (tokens + (2 + s) * s));
            let done = [
                run("mix of streams", tokens, mixed, &mut || {
                    b.hc_mix(&h, site.view(), params, &mut mix)
                })?,
                run("collapse", tokens, bytes(tokens * (s + 1) * d), &mut || {
                    b.hc_collapse(&h, &mix, params, &mut x);
                })?,
                run("norm", tokens, bytes(2 * tokens * d), &mut || {
                    b.rms_norm(&mut x, d, Some(&gain), 1e-6);
                })?,
                run(
                    "expansion",
                    tokens,
                    bytes(tokens * (2 * s + 1) * d),
                    &mut || {
                        b.hc_expand(&mut h, &x, &mix, params);
                    },
                )?,
            ];
            if done.iter().any(ControlFlow::is_break) {
                return Ok(());
            }
            let mut q = put(b, &noise(tokens * heads * width, 158), heads * width);
            let rope = Rope::new(64, 10_000.0, None);
            let angles = b.angles(&rope, &mut (0..tokens as u64));
            let logits = put(b, &noise(tokens * 256, 159), 256);
            let bias = b.vector(noise(256, 160));
            let spec = RouteSpec {
                experts: 256,
                used: 6,
                normalise: true,
                scale: 1.5,
            };
            let done = [
                run(
                    "rotation",
                    tokens,
                    bytes(2 * tokens * heads * 64),
                    &mut || {
                        b.rope(&mut q, width, &angles, false);
                    },
                )?,
                run("routing", tokens, bytes(tokens * 256), &mut || {
                    let _ = b.route(&logits, spec, Choose::Bias(&bias));
                })?,
                self.attention(tokens, [heads, width], &q, &mut run)?,
            ];
            if done.iter().any(ControlFlow::is_break) {
                return Ok(());
            }
            self.device().trim();
        }
        Ok(())
    }

    /// The indexer's choice, and attention to it.
    fn attention(
        &self,
        tokens: usize,
        [heads, width]: [usize; 2],
        q: &<Cuda<Watched<D>> as Backend>::Buf,
        run: &mut Run<'_>,
    ) -> Result<ControlFlow<()>, EngineError> {
        const KEY: usize = 128;
        let b = self.card;
        let (entries, top_k, window) = self.size((300, 20, 32), (65_536, 512, 128));
        let (ratio, index_heads) = (4, 64);
        let store = |format, n: usize, width: usize, seed| {
            let mut rows = b.rows(format, width);
            // In pieces, so that the host needs little memory.
            for start in (0..n).step_by(4096) {
                let count = 4096.min(n - start);
                b.push_rows(&mut rows, &put(b, &noise(count * width, seed), width));
            }
            rows
        };
        let v4 = RowFormat::Fp8Tail { tail: 64 };
        let keys = store(RowFormat::Fp4, entries, KEY, 161);
        let compressed = store(v4, entries, width, 162);
        let first = entries * ratio;
        let mut rows = b.rows(v4, width);
        b.restart_rows(&mut rows, first + 1 - window);
        b.push_rows(
            &mut rows,
            &put(b, &noise((window + tokens - 1) * width, 163), width),
        );
        let mut of_index = put(
            b,
            &noise(tokens * index_heads * KEY, 164),
            index_heads * KEY,
        );
        b.round_index(&mut of_index, KEY, true);
        let w = put(b, &noise(tokens * index_heads, 165), index_heads);
        let spec = IndexSpec {
            first,
            top_k,
            ratio,
            scale: 0.1,
        };
        let mut chosen = Default::default();
        let task = Task {
            bytes: (tokens * entries * b.row_bytes(&keys)) as u64,
            int8_ops: 2 * (tokens * entries * index_heads * KEY) as u64,
            float_ops: 0,
        };
        let what = format!("choice of {top_k} of {entries} entries");
        let done = run(&what, tokens, task, &mut || {
            b.index(spec, &of_index, &w, &keys, CandidatePool::All, &mut chosen);
        })?;
        if done.is_break() {
            return Ok(done);
        }
        let sinks = b.vector(noise(heads, 166));
        let mut out = Default::default();
        let seen = top_k + window;
        let task = Task {
            bytes: (tokens * seen * b.row_bytes(&compressed)) as u64,
            int8_ops: 0,
            float_ops: 4 * (tokens * seen * heads * width) as u64,
        };
        let what = format!("attention of {heads} x {width} to {seen} rows");
        run(&what, tokens, task, &mut || {
            let args = Attend {
                first,
                heads,
                window,
                sight: Sight::Causal { oldest: 0 },
                rows: &rows,
                entries: Entries::Selected(&compressed, &chosen),
                ratio,
                sinks: &sinks,
                scale: 0.05,
            };
            b.attend(args, q, &mut out);
        })
    }
}
