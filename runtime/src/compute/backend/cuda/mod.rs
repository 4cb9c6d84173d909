//! The forward pass's operations on a card of NVIDIA's, by kernels that give the CPU's bits
//! (docs/arithmetic.md).
//!
//! All work is in one stream, in the order of the calls. The host waits for it where it asks for
//! values: [`Backend::read`], exports, [`Backend::read_routing`].
//!
//! # Failure
//!
//! Most operations have no result that could say that they failed. What goes wrong first is kept
//! ([`Cuda::fault`]), and from then on nothing is done: shapes and numbers of rows go on as if
//! all were well, and values are of no use. Whoever runs a chunk asks for the fault after it.
//!
//! # Memory
//!
//! Activations, caches and what lies between kernels use memory that was used before, since giving
//! it back to the driver would wait for all work. Weights keep theirs for good.

mod attention;
mod buf;
pub mod check;
mod device;
mod elementwise;
mod experts;
mod hyper;
mod index;
mod limits;
mod pending;
mod products;
mod rows;
mod space;
mod spare;
mod staging;
#[cfg(test)]
mod tests;
mod weights;

use std::ops::Range;
use std::sync::Arc;

use v4_cuda::Driver;
use v4_cuda::driver::Card;

use super::{
    Attend, Backend, CandidatePool, Choose, ExpertsView, HcParams, HcView, IndexSpec, LowRank,
    PoolSpec, RouteSpec, Routing,
};
use crate::compute::arithmetic::Rope;
use crate::compute::backend::cpu::Precision;
use crate::compute::cache_rows::RowFormat;
use crate::error::{CardError, EngineError};
use crate::model::{ModelConfig, Tensor};

pub use buf::Buf;
use device::Device;
use elementwise::Rounded;
pub use experts::Routed;
pub use index::Selection;
pub use pending::Pending;
pub use rows::Rows;
pub use weights::{Angles, Vector, Weight};

/// The backend of one card.
#[derive(Debug)]
pub struct Cuda<D: Driver> {
    device: Arc<Device<D>>,
    precision: Precision,
}

impl<D: Driver> Cuda<D> {
    /// Takes a card into use, with all kernels.
    ///
    /// # Errors
    /// If it has no memory for them, or there are none for it.
    pub fn new(driver: &Arc<D>, precision: Precision) -> Result<Self, EngineError> {
        Ok(Self {
            device: Arc::new(Device::new(driver)?),
            precision,
        })
    }

    /// Whether kernels have room for a model whose index keys are stored like this.
    ///
    /// # Errors
    /// What they have none for.
    pub fn allow(&self, cfg: &ModelConfig, keys: RowFormat) -> Result<(), EngineError> {
        Ok(limits::model(cfg, keys)?)
    }

    /// What went wrong first, if anything did; see the module's text.
    #[must_use]
    pub fn fault(&self) -> Option<EngineError> {
        self.device.fault().map(EngineError::Card)
    }

    /// What is known of the card.
    #[must_use]
    pub fn card(&self) -> &Card {
        self.device.driver().card()
    }

    /// How products are computed.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.precision
    }
}

impl<D: Driver> Backend for Cuda<D> {
    type Buf = Buf<D>;
    type Weight = Weight<D>;
    type Vector = Vector<D>;
    type Table = Vector<D>;
    type Angles = Angles<D>;
    type Routing = Routed<D>;
    type Rows = Rows<D>;
    type Pending = Pending<D>;
    type Selection = Selection<D>;

    fn check(&self) -> Result<(), EngineError> {
        self.fault().map_or(Ok(()), Err)
    }

    fn load(&self, tensor: &Tensor) -> Result<Weight<D>, EngineError> {
        Weight::load(&self.device, tensor)
    }

    fn load_rows(&self, tensor: &Tensor) -> Result<Weight<D>, EngineError> {
        Weight::load_rows(tensor)
    }

    fn allow_streamed(&self, tensor: &Tensor) -> Result<(), EngineError> {
        let tensor = tensor.name().to_owned();
        Err(CardError::Streamed { tensor }.into())
    }

    fn vector(&self, values: Vec<f32>) -> Vector<D> {
        Vector::new(&self.device, &mut space::bits(&values))
    }

    fn table(&self, values: &Arc<[u32]>) -> Vector<D> {
        Vector::new(&self.device, &mut values.iter().copied())
    }

    fn angles(&self, rope: &Rope, positions: &mut dyn Iterator<Item = u64>) -> Angles<D> {
        Angles::new(&self.device, &rope.table(positions))
    }

    fn drop_first_angles(&self, angles: &mut Angles<D>, n: usize) {
        angles.drop_first(n);
    }

    fn rows(&self, format: RowFormat, width: usize) -> Rows<D> {
        Rows::new(&self.device, format, width)
    }

    fn rows_len(&self, rows: &Rows<D>) -> usize {
        rows.len()
    }

    fn row_bytes(&self, rows: &Rows<D>) -> usize {
        rows.row_bytes()
    }

    fn rows_bytes(&self, rows: &Rows<D>) -> usize {
        rows.bytes()
    }

    fn push_rows(&self, rows: &mut Rows<D>, x: &Buf<D>) {
        rows.push(x);
    }

    fn restart_rows(&self, rows: &mut Rows<D>, next: usize) {
        rows.restart(next);
    }

    fn keep_last_rows(&self, rows: &mut Rows<D>, keep: usize) {
        rows.keep_last(keep);
    }

    fn first_row(&self, rows: &Rows<D>) -> usize {
        rows.first_held()
    }

    fn export_rows(&self, rows: &Rows<D>, which: Range<usize>, out: &mut Vec<u8>) {
        rows.export(which, out);
    }

    fn truncate_rows(&self, rows: &mut Rows<D>, len: usize) {
        rows.truncate(len);
    }

    fn import_rows(&self, rows: &mut Rows<D>, first: usize, bytes: &[u8]) -> bool {
        rows.import(first, bytes)
    }

    fn pending(&self, spec: PoolSpec) -> Pending<D> {
        Pending::new(&self.device, spec)
    }

    fn pending_bytes(&self, pending: &Pending<D>) -> usize {
        pending.bytes()
    }

    fn pool(
        &self,
        pending: &mut Pending<D>,
        kv: &Buf<D>,
        gate: &Buf<D>,
        ape: Option<&Vector<D>>,
        out: &mut Buf<D>,
    ) {
        pending.pool(kv, gate, ape, out);
    }

    fn settle_pending(&self, pending: &mut Pending<D>, len: usize) {
        pending.settle(len);
    }

    fn pending_seen(&self, pending: &Pending<D>) -> usize {
        pending.seen()
    }

    fn export_pending(&self, pending: &Pending<D>, len: usize, out: &mut Vec<u8>) {
        pending.export(len, out);
    }

    fn fill_pending(&self, pending: &mut Pending<D>, seen: usize, noise: &mut dyn FnMut() -> f32) {
        pending.fill(seen, noise);
    }

    fn import_pending(&self, pending: &mut Pending<D>, bytes: &[u8]) -> bool {
        pending.import(bytes)
    }

    fn buf_rows(&self, x: &Buf<D>) -> usize {
        x.rows()
    }

    fn read(&self, x: &Buf<D>) -> Vec<f32> {
        let values = self.device.get(Vec::new(), || x.read());
        // Of a card that has failed there are none.
        if values.len() == x.len() {
            values
        } else {
            vec![f32::NAN; x.len()]
        }
    }

    fn write(&self, values: &[f32], cols: usize, x: &mut Buf<D>) {
        x.reshape(values.len() / cols.max(1), cols);
        self.device.run(|| x.write(&self.device, values));
    }

    fn take_rows(&self, x: &Buf<D>, rows: Range<usize>, out: &mut Buf<D>) {
        out.reshape(rows.len(), x.cols());
        self.device.run(|| out.take(&self.device, x, rows.start));
    }

    fn drop_first_rows(&self, x: &mut Buf<D>, n: usize) {
        x.drop_first(n);
    }

    fn append_rows(&self, x: &Buf<D>, out: &mut Buf<D>) {
        let before = out.grow(x);
        self.device.run(|| out.append(&self.device, before, x));
    }

    fn buf_bytes(&self, x: &Buf<D>) -> usize {
        x.bytes()
    }

    fn embed(
        &self,
        table: &Weight<D>,
        ids: &[u32],
        streams: usize,
        h: &mut Buf<D>,
    ) -> Result<(), EngineError> {
        let values = table.look_up(ids)?;
        h.reshape(ids.len(), streams * table.tensor().cols());
        let device = &self.device;
        device.run(|| elementwise::spread(device, &values, streams, h));
        Ok(())
    }

    fn matmul(&self, w: &Weight<D>, x: &Buf<D>, y: &mut Buf<D>) {
        self.matmul_grouped(w, 1, x, y);
    }

    fn matmul_grouped(&self, w: &Weight<D>, groups: usize, x: &Buf<D>, y: &mut Buf<D>) {
        y.reshape(x.rows(), w.tensor().rows());
        let (device, precision) = (&self.device, self.precision);
        device.run(|| {
            let to = (y.reserve(device)?, y.rows());
            let (columns, ty) = (w.tensor().cols(), w.tensor().ty());
            let acts = products::activations(device, precision, x, columns, &[ty])?;
            products::grouped(device, precision, w, groups, &acts, to)
        });
    }

    fn add_low_rank(&self, w: LowRank<'_>, x: &Buf<D>, y: &mut Buf<D>) {
        let device = &self.device;
        device.run(|| products::add_low_rank(device, w, x, y));
    }

    fn swiglu(&self, gate: &mut Buf<D>, up: &Buf<D>, limit: f32) {
        let device = &self.device;
        device.run(|| elementwise::swiglu(device, gate, up, limit));
    }

    fn add(&self, x: &Buf<D>, y: &mut Buf<D>) {
        let device = &self.device;
        device.run(|| elementwise::add(device, x, y));
    }

    fn rms_norm(&self, x: &mut Buf<D>, width: usize, gain: Option<&Vector<D>>, eps: f32) {
        let device = &self.device;
        device.run(|| elementwise::rms_norm(device, x, width, gain, eps));
    }

    fn rope(&self, x: &mut Buf<D>, width: usize, angles: &Angles<D>, inverse: bool) {
        let device = &self.device;
        device.run(|| elementwise::rope(device, x, width, angles, inverse));
    }

    fn round_index(&self, x: &mut Buf<D>, width: usize, hadamard: bool) {
        let device = &self.device;
        let to = Rounded {
            floats: x.start(),
            ..Rounded::default()
        };
        device.run(|| elementwise::round_index(device, x, width, hadamard, to));
    }

    fn hc_mix(&self, h: &Buf<D>, site: HcView<'_, Self>, p: HcParams, mix: &mut Buf<D>) {
        mix.reshape(h.rows(), site.func.tensor().rows());
        let (device, precision) = (&self.device, self.precision);
        device.run(|| hyper::mix(device, precision, h, &site, p, mix));
    }

    fn hc_first_stream(&self, rows: usize, streams: usize, mix: &mut Buf<D>) {
        mix.reshape(rows, streams);
        let device = &self.device;
        device.run(|| hyper::first_stream(device, mix));
    }

    fn hc_collapse(&self, h: &Buf<D>, mix: &Buf<D>, p: HcParams, x: &mut Buf<D>) {
        x.reshape(h.rows(), h.cols() / p.streams.max(1));
        let device = &self.device;
        device.run(|| hyper::collapse(device, h, mix, p, x));
    }

    fn hc_expand(&self, h: &mut Buf<D>, y: &Buf<D>, mix: &Buf<D>, p: HcParams) {
        let device = &self.device;
        device.run(|| hyper::expand(device, h, y, mix, p));
    }

    fn hc_head(&self, h: &Buf<D>, head: HcView<'_, Self>, p: HcParams, x: &mut Buf<D>) {
        x.reshape(h.rows(), h.cols() / p.streams.max(1));
        let (device, precision) = (&self.device, self.precision);
        device.run(|| hyper::head(device, precision, h, &head, p, x));
    }

    fn engram(&self, h: &mut Buf<D>, kv: &Buf<D>, gain: &Vector<D>, p: HcParams) {
        let device = &self.device;
        device.run(|| elementwise::engram(device, h, kv, gain, p));
    }

    fn index(
        &self,
        spec: IndexSpec,
        q: &Buf<D>,
        w: &Buf<D>,
        keys: &Rows<D>,
        pool: CandidatePool<'_, Self>,
        out: &mut Selection<D>,
    ) {
        let device = &self.device;
        device.run(|| index::index(device, spec, q, w, keys, pool, out));
    }

    fn selection_margins(&self, selection: &Selection<D>) -> Vec<f32> {
        self.device.get(Vec::new(), || selection.read_margins())
    }

    fn attend(&self, args: Attend<'_, Self>, q: &Buf<D>, out: &mut Buf<D>) {
        out.reshape(q.rows(), q.cols());
        let device = &self.device;
        device.run(|| attention::attend(device, &args, q, out));
    }

    fn route(&self, logits: &Buf<D>, spec: RouteSpec, choose: Choose<'_, Self>) -> Routed<D> {
        experts::route(&self.device, logits, spec, choose)
    }

    fn read_routing(&self, routing: &Routed<D>) -> Routing {
        self.device.get(Routing::default(), || routing.read())
    }

    fn experts(
        &self,
        routed: ExpertsView<'_, Self>,
        shared: Option<ExpertsView<'_, Self>>,
        routing: &Routed<D>,
        x: &Buf<D>,
        y: &mut Buf<D>,
    ) -> Result<(), EngineError> {
        if routed.streamed.is_some() {
            return self.allow_streamed(routed.gate.tensor());
        }
        y.reshape(x.rows(), x.cols());
        let (device, precision) = (&self.device, self.precision);
        device.run(|| experts::experts(device, precision, routed, shared, routing, x, y));
        Ok(())
    }
}
