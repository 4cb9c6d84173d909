//! Hyper-connections.

use std::sync::Arc;

use v4_cuda::Driver;
use v4_cuda::args::{
    HcCollapse, HcExpand, HcFirstStream, HcHead, HcMix, Int8Rows, ROW_THREADS, SUM_BYTES, Site,
};
use v4_cuda::driver::Extent;

use super::Cuda;
use super::buf::Buf;
use super::device::{Device, threads_for};
use super::products::{activations, grouped};
use super::space::Space;
use crate::compute::backend::cpu::Precision;
use crate::compute::backend::{HcParams, HcView};
use crate::error::CardError;

fn site<D: Driver>(of: &HcView<'_, Cuda<D>>, p: HcParams, products: u64) -> Site {
    Site {
        products,
        base: of.base.start(),
        scale: of.scale.start(),
        streams: p.streams as u32,
        iterations: p.iterations as u32,
        eps: p.eps,
        norm_eps: p.norm_eps,
    }
}

/// The products of all streams of a token with a site's matrix, to address `y`.
fn products<D: Driver>(
    device: &Arc<Device<D>>,
    precision: Precision,
    h: &Buf<D>,
    of: &HcView<'_, Cuda<D>>,
    y: u64,
) -> Result<(), CardError> {
    let x = activations(device, precision, h, h.cols(), &[of.func.tensor().ty()])?;
    grouped(device, precision, of.func, 1, &x, (y, h.rows()))
}

/// See `Backend::hc_mix`; `mix` has its shape.
pub(super) fn mix<D: Driver>(
    device: &Arc<Device<D>>,
    precision: Precision,
    h: &Buf<D>,
    of: &HcView<'_, Cuda<D>>,
    p: HcParams,
    mix: &mut Buf<D>,
) -> Result<(), CardError> {
    let y = mix.reserve(device)?;
    products(device, precision, h, of, y)?;
    let args = HcMix {
        mix: y,
        h: h.start(),
        site: site(of, p, y),
        width: h.cols() as u64,
    };
    let extent = Extent::row(h.rows() as u32, ROW_THREADS).with_shared(SUM_BYTES);
    device.launch(&device.kernels().hyper.hc_mix, extent, &args)
}

/// See `Backend::hc_first_stream`; `mix` has its shape.
pub(super) fn first_stream<D: Driver>(
    device: &Arc<Device<D>>,
    mix: &mut Buf<D>,
) -> Result<(), CardError> {
    let args = HcFirstStream {
        mix: mix.reserve(device)?,
        rows: mix.rows() as u32,
        streams: mix.cols() as u32,
    };
    let extent = threads_for(mix.len(), ROW_THREADS);
    device.launch(&device.kernels().hyper.hc_first_stream, extent, &args)
}

/// See `Backend::hc_collapse`; `x` has its shape.
pub(super) fn collapse<D: Driver>(
    device: &Arc<Device<D>>,
    h: &Buf<D>,
    mix: &Buf<D>,
    p: HcParams,
    x: &mut Buf<D>,
) -> Result<(), CardError> {
    let args = HcCollapse {
        x: x.reserve(device)?,
        h: h.start(),
        mix: mix.start(),
        gain: 0,
        to: Int8Rows::default(),
        width: x.cols() as u32,
        streams: p.streams as u32,
        mix_stride: mix.cols() as u32,
        eps: 0.0,
    };
    let extent = Extent::row(h.rows() as u32, ROW_THREADS).with_shared(SUM_BYTES);
    device.launch(&device.kernels().hyper.hc_collapse, extent, &args)
}

/// See `Backend::hc_expand`.
pub(super) fn expand<D: Driver>(
    device: &Device<D>,
    h: &Buf<D>,
    y: &Buf<D>,
    mix: &Buf<D>,
    p: HcParams,
) -> Result<(), CardError> {
    let args = HcExpand {
        h: h.start(),
        y: y.start(),
        mix: mix.start(),
        rows: y.rows() as u32,
        width: y.cols() as u32,
        streams: p.streams as u32,
        unused: 0,
    };
    let extent = threads_for(y.len(), ROW_THREADS);
    device.launch(&device.kernels().hyper.hc_expand, extent, &args)
}

/// See `Backend::hc_head`; `x` has its shape.
pub(super) fn head<D: Driver>(
    device: &Arc<Device<D>>,
    precision: Precision,
    h: &Buf<D>,
    of: &HcView<'_, Cuda<D>>,
    p: HcParams,
    x: &mut Buf<D>,
) -> Result<(), CardError> {
    let raw = Space::new(device, 4 * h.rows() * p.streams)?;
    products(device, precision, h, of, raw.start())?;
    let args = HcHead {
        x: x.reserve(device)?,
        h: h.start(),
        site: site(of, p, raw.start()),
        width: x.cols() as u64,
    };
    let extent = Extent::row(h.rows() as u32, ROW_THREADS).with_shared(2 * SUM_BYTES);
    device.launch(&device.kernels().hyper.hc_head, extent, &args)
}
