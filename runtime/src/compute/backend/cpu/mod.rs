//! The forward pass's operations on the CPU.
//!
//! Every method must run inside the engine's thread pool: work is split with
//! rayon into pieces whose results do not depend on the split.

mod attention;
mod elementwise;
mod engram;
mod experts;
mod hyper;
mod index;
mod matmul;
mod pool;

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;
use v4_quant::dot::Kernels;

use super::{
    Attend, Backend, CandidatePool, Choose, ExpertsView, HcParams, HcView, IndexSpec, PoolSpec,
    RouteSpec, Routing,
};
use crate::compute::arithmetic::{Rope, RopeTable, RowKernels};
use crate::compute::backend::LowRank;
use crate::compute::cache_rows::{HostRows, RowFormat};
use crate::compute::profile::{Operation, Profile, Profiler, Work};
use crate::error::EngineError;
use crate::model::Tensor;

pub use index::Selection;
pub(crate) use index::bytes as index_bytes;
pub(crate) use matmul::LOW_RANK_ROWS;
pub use matmul::Precision;
pub use pool::Pending;

/// An f32 matrix in host memory.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Matrix {
    rows: usize,
    cols: usize,
    data: Vec<f32>,
}

impl Matrix {
    /// Gives the matrix a shape; its values are then unspecified.
    fn reshape(&mut self, rows: usize, cols: usize) {
        self.rows = rows;
        self.cols = cols;
        self.data.resize(rows * cols, 0.0);
    }

    fn row(&self, i: usize) -> &[f32] {
        &self.data[i * self.cols..(i + 1) * self.cols]
    }
}

/// The CPU backend.
#[derive(Debug)]
pub struct Cpu {
    kernels: &'static Kernels,
    rows: &'static RowKernels,
    precision: Precision,
    profiler: Profiler,
    spare: matmul::Spare,
}

impl Cpu {
    /// A backend with the fastest kernels that this machine can run.
    #[must_use]
    pub fn new(precision: Precision) -> Self {
        let kernels = Kernels::detect();
        Self {
            kernels,
            rows: RowKernels::of(kernels),
            precision,
            profiler: Profiler::default(),
            spare: matmul::Spare::default(),
        }
    }

    /// The same backend, keeping account of its operations or not.
    #[must_use]
    pub fn profiled(self, on: bool) -> Self {
        Self {
            profiler: Profiler::new(on),
            ..self
        }
    }

    /// The work since the last call, if the backend keeps account of it.
    #[must_use]
    pub fn take_profile(&self) -> Option<Profile> {
        self.profiler.take()
    }

    /// How products are computed.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The kernels in use.
    #[must_use]
    pub fn kernels(&self) -> &'static Kernels {
        self.kernels
    }
}

impl Backend for Cpu {
    type Buf = Matrix;
    type Weight = Tensor;
    type Vector = Vec<f32>;
    type Table = Arc<[u32]>;
    type Angles = RopeTable;
    type Routing = Routing;
    type Rows = HostRows;
    type Pending = Pending;
    type Selection = Selection;

    fn load(&self, tensor: &Tensor) -> Result<Tensor, EngineError> {
        if !v4_quant::can_decode(tensor.ty()) {
            return Err(tensor.error(format_args!(
                "has type {}, which cannot hold weights",
                tensor.ty()
            )));
        }
        Ok(tensor.clone())
    }

    fn vector(&self, values: Vec<f32>) -> Vec<f32> {
        values
    }

    fn table(&self, values: &Arc<[u32]>) -> Arc<[u32]> {
        Arc::clone(values)
    }

    fn angles(&self, rope: &Rope, positions: &mut dyn Iterator<Item = u64>) -> RopeTable {
        rope.table(positions)
    }

    fn drop_first_angles(&self, angles: &mut RopeTable, n: usize) {
        angles.drop_first(n);
    }

    fn rows(&self, format: RowFormat, width: usize) -> HostRows {
        HostRows::new(format, width)
    }

    fn rows_len(&self, rows: &HostRows) -> usize {
        rows.len()
    }

    fn row_bytes(&self, rows: &HostRows) -> usize {
        rows.row_bytes()
    }

    fn rows_bytes(&self, rows: &HostRows) -> usize {
        rows.bytes()
    }

    fn push_rows(&self, rows: &mut HostRows, x: &Matrix) {
        self.profiler.time(Operation::CacheRows, Work::default, || {
            for row in x.data.chunks_exact(x.cols.max(1)) {
                rows.push(row);
            }
        });
    }

    fn restart_rows(&self, rows: &mut HostRows, next: usize) {
        rows.restart(next);
    }

    fn keep_last_rows(&self, rows: &mut HostRows, keep: usize) {
        rows.keep_last(keep);
    }

    fn first_row(&self, rows: &HostRows) -> usize {
        rows.first_held()
    }

    fn export_rows(&self, rows: &HostRows, which: std::ops::Range<usize>, out: &mut Vec<u8>) {
        rows.export(which, out);
    }

    fn truncate_rows(&self, rows: &mut HostRows, len: usize) {
        rows.truncate(len);
    }

    fn import_rows(&self, rows: &mut HostRows, first: usize, bytes: &[u8]) -> bool {
        if rows.len() != first {
            rows.restart(first);
        }
        rows.import(bytes)
    }

    fn pending_seen(&self, pending: &Pending) -> usize {
        pending.seen()
    }

    fn export_pending(&self, pending: &Pending, len: usize, out: &mut Vec<u8>) {
        pending.export(len, out);
    }

    fn settle_pending(&self, pending: &mut Pending, len: usize) {
        pending.settle(len);
    }

    fn fill_pending(&self, pending: &mut Pending, seen: usize, noise: &mut dyn FnMut() -> f32) {
        pending.fill(seen, noise);
    }

    fn import_pending(&self, pending: &mut Pending, bytes: &[u8]) -> bool {
        pending.import(bytes)
    }

    fn pending(&self, spec: PoolSpec) -> Pending {
        Pending::new(spec)
    }

    fn pending_bytes(&self, pending: &Pending) -> usize {
        pending.bytes()
    }

    fn pool(
        &self,
        pending: &mut Pending,
        kv: &Matrix,
        gate: &Matrix,
        ape: Option<&Vec<f32>>,
        out: &mut Matrix,
    ) {
        self.profiler
            .time(Operation::Compressor, Work::default, || {
                pending.pool(self.rows, kv, gate, ape.map(Vec::as_slice), out);
            });
    }

    fn buf_rows(&self, x: &Matrix) -> usize {
        x.rows
    }

    fn read(&self, x: &Matrix) -> Vec<f32> {
        x.data.clone()
    }

    fn write(&self, values: &[f32], cols: usize, x: &mut Matrix) {
        x.reshape(values.len() / cols.max(1), cols);
        x.data.copy_from_slice(values);
    }

    fn take_rows(&self, x: &Matrix, rows: Range<usize>, out: &mut Matrix) {
        out.reshape(rows.len(), x.cols);
        out.data
            .copy_from_slice(&x.data[rows.start * x.cols..rows.end * x.cols]);
    }

    fn drop_first_rows(&self, x: &mut Matrix, n: usize) {
        x.data.drain(..n * x.cols);
        x.rows -= n;
    }

    fn append_rows(&self, x: &Matrix, out: &mut Matrix) {
        out.cols = x.cols;
        out.rows += x.rows;
        out.data.extend_from_slice(&x.data);
    }

    fn buf_bytes(&self, x: &Matrix) -> usize {
        4 * x.data.capacity()
    }

    fn embed(
        &self,
        table: &Tensor,
        ids: &[u32],
        streams: usize,
        h: &mut Matrix,
    ) -> Result<(), EngineError> {
        let d = table.cols();
        h.reshape(ids.len(), streams * d);
        let bytes = table.row_bytes();
        let work = || weights(ids.len() * bytes, 0);
        self.profiler.time(Operation::Embedding, work, || {
            h.data
                .par_chunks_mut(streams * d)
                .zip(ids)
                .try_for_each(|(row, &id)| {
                    let start = id as usize * bytes;
                    let src = &table.data()[start..][..bytes];
                    table.check_part(start, src)?;
                    let (first, rest) = row.split_at_mut(d);
                    matmul::decode(table.ty(), src, first);
                    for copy in rest.chunks_exact_mut(d) {
                        copy.copy_from_slice(first);
                    }
                    Ok(())
                })
        })
    }

    fn matmul(&self, w: &Tensor, x: &Matrix, y: &mut Matrix) {
        self.matmul_grouped(w, 1, x, y);
    }

    fn matmul_grouped(&self, w: &Tensor, groups: usize, x: &Matrix, y: &mut Matrix) {
        let work = || product_work(w, x.rows);
        let run = || self.product(w, groups, x, y);
        self.profiler.time(Operation::Dense(w.ty()), work, run);
    }

    fn add_low_rank(&self, w: LowRank<'_>, x: &Matrix, y: &mut Matrix) {
        let values = w.a.cols * w.a.count() + w.b.cols * w.b.count();
        let work = || weights(w.a.data.len() + w.b.data.len(), 2 * x.rows * values);
        let run = || self.add_low_rank(w, x, y);
        self.profiler.time(Operation::Dense(w.b.ty), work, run);
    }

    fn swiglu(&self, gate: &mut Matrix, up: &Matrix, limit: f32) {
        let cols = gate.cols.max(1);
        let rows = gate.data.par_chunks_mut(cols).zip(up.data.par_chunks(cols));
        let run = || rows.for_each(|(gate, up)| (self.rows.swiglu)(gate, up, limit));
        self.profiler.time(Operation::Experts, Work::default, run);
    }

    fn add(&self, x: &Matrix, y: &mut Matrix) {
        for (y, x) in y.data.iter_mut().zip(&x.data) {
            *y += x;
        }
    }

    fn rms_norm(&self, x: &mut Matrix, width: usize, gain: Option<&Vec<f32>>, eps: f32) {
        let gain = gain.map(Vec::as_slice);
        let run = || elementwise::rms_norm(self.rows, x, width, gain, eps);
        self.profiler.time(Operation::Norm, Work::default, run);
    }

    fn rope(&self, x: &mut Matrix, width: usize, table: &RopeTable, inverse: bool) {
        let run = || elementwise::rope(x, width, table, inverse);
        self.profiler.time(Operation::Rope, Work::default, run);
    }

    fn round_index(&self, x: &mut Matrix, width: usize, hadamard: bool) {
        let run = || elementwise::round_index(x, width, hadamard);
        self.profiler.time(Operation::CacheRows, Work::default, run);
    }

    fn hc_mix(&self, h: &Matrix, site: HcView<'_, Self>, p: HcParams, mix: &mut Matrix) {
        let work = || product_work(site.func, h.rows);
        self.profiler.time(Operation::HyperConnections, work, || {
            self.product(site.func, 1, h, mix);
            hyper::mix(self.rows, h, &site, p, mix);
        });
    }

    fn hc_first_stream(&self, rows: usize, streams: usize, mix: &mut Matrix) {
        mix.reshape(rows, streams);
        for row in mix.data.chunks_exact_mut(streams) {
            row.fill(0.0);
            row[0] = 1.0;
        }
    }

    fn hc_collapse(&self, h: &Matrix, mix: &Matrix, p: HcParams, x: &mut Matrix) {
        let run = || hyper::collapse(self.rows, h, mix, p.streams, x);
        let kind = Operation::HyperConnections;
        self.profiler.time(kind, Work::default, run);
    }

    fn hc_expand(&self, h: &mut Matrix, y: &Matrix, mix: &Matrix, p: HcParams) {
        let run = || hyper::expand(self.rows, h, y, mix, p.streams);
        let kind = Operation::HyperConnections;
        self.profiler.time(kind, Work::default, run);
    }

    fn hc_head(&self, h: &Matrix, head: HcView<'_, Self>, p: HcParams, x: &mut Matrix) {
        let work = || product_work(head.func, h.rows);
        self.profiler.time(Operation::HyperConnections, work, || {
            let mut pre = Matrix::default();
            self.product(head.func, 1, h, &mut pre);
            hyper::head(self.rows, h, &head, p, &mut pre);
            hyper::collapse(self.rows, h, &pre, p.streams, x);
        });
    }

    fn engram(&self, h: &mut Matrix, kv: &Matrix, gain: &Vec<f32>, p: HcParams) {
        let run = || engram::add(self.rows, h, kv, gain, p);
        self.profiler.time(Operation::Engram, Work::default, run);
    }

    fn index(
        &self,
        spec: IndexSpec,
        q: &Matrix,
        w: &Matrix,
        keys: &HostRows,
        pool: CandidatePool<'_, Self>,
        out: &mut Selection,
    ) {
        let work = || index::work(spec, q, keys, &pool);
        let work = self.profiler.is_on().then(work).unwrap_or_default();
        let run = || index::select(self.kernels, spec, q, w, keys, pool, out);
        self.profiler.time(Operation::Indexer, || work, run);
    }

    fn selection_margins(&self, selection: &Selection) -> Vec<f32> {
        selection.margins()
    }

    fn attend(&self, args: Attend<'_, Self>, q: &Matrix, out: &mut Matrix) {
        let work = || attention::work(&args, q);
        let run = || attention::attend(self, &args, q, out);
        self.profiler.time(Operation::Attention, work, run);
    }

    fn route(&self, logits: &Matrix, spec: RouteSpec, choose: Choose<'_, Self>) -> Routing {
        let run = || experts::route(self.rows, logits, spec, choose);
        self.profiler.time(Operation::Router, Work::default, run)
    }

    fn read_routing(&self, routing: &Routing) -> Routing {
        routing.clone()
    }

    fn experts(
        &self,
        routed: ExpertsView<'_, Self>,
        shared: Option<ExpertsView<'_, Self>>,
        routing: &Routing,
        x: &Matrix,
        y: &mut Matrix,
    ) -> Result<(), EngineError> {
        let work = || experts::work(routed, shared, routing, x.rows);
        let run = || self.run_experts(routed, shared, routing, x, y);
        self.profiler.time(Operation::Experts, work, run)
    }
}

/// Work of reading weights once for that many operations.
fn weights(bytes: usize, operations: usize) -> Work {
    Work {
        weight_bytes: bytes as u64,
        operations: operations as u64,
        ..Work::default()
    }
}

/// Work of a product with `rows` rows of activations.
fn product_work(w: &Tensor, rows: usize) -> Work {
    weights(w.rows() * w.row_bytes(), 2 * rows * w.rows() * w.cols())
}
