//! The decoding of weights.

use std::sync::Arc;

use v4_cuda::Driver;
use v4_cuda::args::{Decode, MMV_DECODED_BYTES, MMV_THREADS};
use v4_quant::GgmlType;

use super::super::device::{Device, threads_for};
use super::super::space::Space;
use super::data::{Fill, weights};
use super::functions::read;
use super::products::{FLOATS, types};
use super::results::Results;
use super::{Bare, CheckScope, Items};
use crate::error::{CardError, EngineError};

pub(super) fn add<D: Driver>(items: &mut Items<D>, scope: CheckScope) {
    for ty in types().filter(|ty| !FLOATS.contains(ty)) {
        items.bare(format!("decoding of {ty}"), Decoding(ty, scope));
    }
}

/// Weights of a type, decoded.
struct Decoding(GgmlType, CheckScope);

impl Decoding {
    fn values(&self) -> usize {
        match self.1 {
            CheckScope::Small => 256 * 5,
            CheckScope::Full => 256 * 137,
        }
    }

    fn fills() -> [(Fill, &'static str); 2] {
        [(Fill::Modest, "modest weights"), (Fill::Any, "any bytes")]
    }
}

impl Bare for Decoding {
    fn on_cpu(&self, out: &mut Results<'_>) -> Result<(), EngineError> {
        for (fill, name) in Self::fills() {
            let mut y = vec![0.0; self.values()];
            // Types and lengths are those that can be decoded; otherwise zeros are wrong.
            let _ = v4_quant::decode_row(self.0, &weights(self.0, fill, y.len(), 60), &mut y);
            out.floats(format!("{} values of {name}", y.len()), &y);
        }
        Ok(())
    }

    fn on_card<D: Driver>(
        &self,
        device: &Arc<Device<D>>,
        out: &mut Results<'_>,
    ) -> Result<(), CardError> {
        for (fill, name) in Self::fills() {
            let values = self.values();
            let w = device.put(&weights(self.0, fill, values, 60))?;
            let y = Space::new(device, 4 * values)?;
            let args = Decode {
                y: y.start(),
                w: w.start().0,
                codebook: device.codebook(self.0)?,
                runs: values as u64 / 32,
                ty: self.0.id(),
                unused: 0,
            };
            let extent = threads_for(values / 32, MMV_THREADS).with_shared(MMV_DECODED_BYTES);
            device.launch(&device.kernels().decode.decode, extent, &args)?;
            out.floats(format!("{values} values of {name}"), &read(&y, values)?);
        }
        Ok(())
    }
}
