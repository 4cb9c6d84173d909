//! Operations on rows of activations.

use std::sync::Arc;

use v4_cuda::Driver;
use v4_cuda::args::{
    Add, Embed, Engram, Int8Rows, ROW_THREADS, RmsNorm, Rope, RoundIndex, SUM_BYTES, Swiglu,
};
use v4_cuda::driver::Extent;
use v4_quant::GgmlType;

use super::buf::Buf;
use super::device::{Device, threads_for};
use super::space::{Space, bits};
use super::weights::{Angles, Vector};
use crate::compute::backend::HcParams;
use crate::error::CardError;

/// Shared memory of a block of [`round_index`] at most, with which it has whole blocks of warps.
const ROUND_BYTES: usize = 32 << 10;

/// Makes `h` the rows of `values`, each `streams` times side by side; it has its shape.
pub(super) fn spread<D: Driver>(
    device: &Arc<Device<D>>,
    values: &[f32],
    streams: usize,
    h: &mut Buf<D>,
) -> Result<(), CardError> {
    let rows = h.rows();
    let width = h.cols() / streams.max(1);
    let table = Space::of(device, &mut bits(values))?;
    let ids = Space::of(device, &mut (0..rows).map(|row| row as u32))?;
    let args = Embed {
        h: h.reserve(device)?,
        table: table.start(),
        ids: ids.start(),
        row_bytes: 4 * width as u64,
        width: width as u32,
        streams: streams as u32,
        type_id: GgmlType::F32.id(),
        unused: 0,
    };
    let extent = Extent::row(rows as u32, 256);
    device.launch(&device.kernels().embed.embed, extent, &args)
}

/// See `Backend::swiglu`.
pub(super) fn swiglu<D: Driver>(
    device: &Device<D>,
    gate: &Buf<D>,
    up: &Buf<D>,
    limit: f32,
) -> Result<(), CardError> {
    let args = Swiglu {
        y: gate.start(),
        gate: gate.start(),
        up: up.start(),
        weights: 0,
        to: Int8Rows::default(),
        count: gate.len() as u64,
        width: gate.cols() as u32,
        limit,
    };
    let extent = threads_for(gate.len(), ROW_THREADS);
    device.launch(&device.kernels().rows.swiglu, extent, &args)
}

/// See `Backend::add`.
pub(super) fn add<D: Driver>(device: &Device<D>, x: &Buf<D>, y: &Buf<D>) -> Result<(), CardError> {
    let count = x.len().min(y.len());
    let args = Add {
        y: y.start(),
        x: x.start(),
        count: count as u64,
    };
    let extent = threads_for(count, ROW_THREADS);
    device.launch(&device.kernels().rows.add, extent, &args)
}

/// See `Backend::rms_norm`.
pub(super) fn rms_norm<D: Driver>(
    device: &Device<D>,
    x: &Buf<D>,
    width: usize,
    gain: Option<&Vector<D>>,
    eps: f32,
) -> Result<(), CardError> {
    let args = RmsNorm {
        y: x.start(),
        x: x.start(),
        gain: gain.map_or(0, Vector::start),
        to: Int8Rows::default(),
        width: width as u32,
        eps,
    };
    let rows = x.len() / width.max(1);
    let extent = Extent::row(rows as u32, ROW_THREADS).with_shared(SUM_BYTES);
    device.launch(&device.kernels().rows.rms_norm, extent, &args)
}

/// See `Backend::rope`.
pub(super) fn rope<D: Driver>(
    device: &Device<D>,
    x: &Buf<D>,
    width: usize,
    angles: &Angles<D>,
    inverse: bool,
) -> Result<(), CardError> {
    let [cosines, sines] = angles.starts();
    let parts = x.cols() / width.max(1);
    let args = Rope {
        x: x.start(),
        cosines,
        sines,
        rows: x.rows() as u32,
        parts: parts as u32,
        width: width as u32,
        pairs: angles.pairs() as u32,
        first: angles.first() as u32,
        inverse: u32::from(inverse),
    };
    let extent = threads_for(x.rows() * parts * angles.pairs(), ROW_THREADS);
    device.launch(&device.kernels().rows.rope, extent, &args)
}

/// Where index queries go that are rounded.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rounded {
    /// Address of f32, or 0.
    pub floats: u64,
    /// Address of twice the integers, or 0.
    pub doubled: u64,
    /// Address of their scales.
    pub scales: u64,
}

/// Rounds every `width` channels as index keys are, after the transform if asked.
pub(super) fn round_index<D: Driver>(
    device: &Device<D>,
    x: &Buf<D>,
    width: usize,
    hadamard: bool,
    to: Rounded,
) -> Result<(), CardError> {
    let rows = x.len() / width.max(1);
    let args = RoundIndex {
        y: to.floats,
        doubled: to.doubled,
        scales: to.scales,
        x: x.start(),
        rows: rows as u32,
        width: width as u32,
        hadamard: u32::from(hadamard),
        unused: 0,
    };
    let warps = (ROUND_BYTES / (4 * width.max(1))).clamp(1, 8);
    let extent = Extent::row(rows.div_ceil(warps) as u32, 32 * warps as u32)
        .with_shared((4 * warps * width) as u32);
    device.launch(&device.kernels().cache.round_index, extent, &args)
}

/// See `Backend::engram`.
pub(super) fn engram<D: Driver>(
    device: &Device<D>,
    h: &Buf<D>,
    kv: &Buf<D>,
    gain: &Vector<D>,
    p: HcParams,
) -> Result<(), CardError> {
    let args = Engram {
        h: h.start(),
        kv: kv.start(),
        gain: gain.start(),
        width: (h.cols() / p.streams.max(1)) as u32,
        streams: p.streams as u32,
        eps: p.norm_eps,
        unused: 0,
    };
    let blocks = (h.rows() * p.streams) as u32;
    let extent = Extent::row(blocks, ROW_THREADS).with_shared(3 * SUM_BYTES);
    device.launch(&device.kernels().engram.engram, extent, &args)
}
