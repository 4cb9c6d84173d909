//! Weights and constants on a card.

use std::sync::Arc;

use rayon::prelude::*;
use v4_cuda::Driver;
use v4_cuda::owned::DeviceBuffer;
use v4_quant::GgmlType;

use super::device::Device;
use super::space::{Space, bits};
use crate::compute::arithmetic::RopeTable;
use crate::error::{CardError, EngineError};
use crate::model::Tensor;

/// A matrix of weights, byte for byte as in the file.
#[derive(Debug)]
pub struct Weight<D: Driver> {
    tensor: Tensor,
    /// On the card; none where only rows are looked up, which the host does.
    data: Option<Arc<DeviceBuffer<D>>>,
    /// Address of the type's codebook, or 0.
    codebook: u64,
}

// Derived, it would ask for drivers that can be cloned.
impl<D: Driver> Clone for Weight<D> {
    fn clone(&self) -> Self {
        Self {
            tensor: self.tensor.clone(),
            data: self.data.clone(),
            codebook: self.codebook,
        }
    }
}

impl<D: Driver> Weight<D> {
    /// Copies a tensor to the card.
    pub(super) fn load(device: &Device<D>, tensor: &Tensor) -> Result<Self, EngineError> {
        let ty = tensor.ty();
        let float = matches!(ty, GgmlType::F32 | GgmlType::F16 | GgmlType::BF16);
        if !float && device.kernels().few_int8(ty, 1).is_none() {
            return Err(tensor.error(format_args!(
                "has type {ty}, which a card cannot multiply: run the model without a card"
            )));
        }
        // Some are not read before; what is altered must not get onto the card unseen.
        tensor.check()?;
        Ok(Self {
            tensor: tensor.clone(),
            codebook: device.codebook(ty)?,
            data: Some(Arc::new(device.put(tensor.data())?)),
        })
    }

    /// Leaves a tensor where it is: rows of it are decoded by the host.
    pub(super) fn load_rows(tensor: &Tensor) -> Result<Self, EngineError> {
        if !v4_quant::can_decode(tensor.ty()) {
            return Err(tensor.error(format_args!(
                "has type {}, which cannot hold weights",
                tensor.ty()
            )));
        }
        Ok(Self {
            tensor: tensor.clone(),
            codebook: 0,
            data: None,
        })
    }

    pub(super) fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    pub(super) fn codebook(&self) -> u64 {
        self.codebook
    }

    /// Address of the first matrix.
    pub(super) fn start(&self) -> Result<u64, CardError> {
        match &self.data {
            Some(data) => Ok(data.start().0),
            None => Err(CardError::RowsOnly {
                tensor: self.tensor.name().to_owned(),
            }),
        }
    }

    /// Rows of the tensor, decoded.
    pub(super) fn look_up(&self, ids: &[u32]) -> Result<Vec<f32>, EngineError> {
        let (table, cols) = (&self.tensor, self.tensor.cols());
        let bytes = table.row_bytes();
        let mut values = vec![0.0; ids.len() * cols];
        let rows = values.par_chunks_exact_mut(cols).zip(ids);
        rows.try_for_each(|(row, &id)| {
            let start = id as usize * bytes;
            let source = &table.data()[start..][..bytes];
            table.check_part(start, source)?;
            v4_quant::decode_row(table.ty(), source, row).map_err(|error| table.error(error))
        })?;
        Ok(values)
    }
}

/// Constants in a card's memory. Copies have them in common.
#[derive(Debug)]
pub struct Vector<D: Driver>(Option<Arc<Space<D>>>);

impl<D: Driver> Clone for Vector<D> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<D: Driver> Vector<D> {
    pub(super) fn new(
        device: &Arc<Device<D>>,
        words: &mut dyn ExactSizeIterator<Item = u32>,
    ) -> Self {
        Self(device.get(None, || Ok(Some(Arc::new(Space::of(device, words)?)))))
    }

    /// Address of the first one.
    pub(super) fn start(&self) -> u64 {
        self.0.as_ref().map_or(0, |space| space.start())
    }
}

/// Cosines and sines of some positions in a card's memory.
#[derive(Debug)]
pub struct Angles<D: Driver> {
    space: Option<Space<D>>,
    rows: usize,
    pairs: usize,
    /// Positions that were dropped.
    first: usize,
}

impl<D: Driver> Angles<D> {
    pub(super) fn new(device: &Arc<Device<D>>, table: &RopeTable) -> Self {
        let (cosines, sines) = (table.cosines(), table.sines());
        let space = device.get(None, || {
            let space = Space::new(device, 8 * cosines.len())?;
            space.upload(0, &mut bits(cosines))?;
            space.upload(4 * cosines.len(), &mut bits(sines))?;
            Ok(Some(space))
        });
        Self {
            space,
            rows: cosines.len() / table.pairs().max(1),
            pairs: table.pairs(),
            first: 0,
        }
    }

    pub(super) fn drop_first(&mut self, n: usize) {
        self.first += n;
    }

    pub(super) fn pairs(&self) -> usize {
        self.pairs
    }

    /// Positions before the first one that is left.
    pub(super) fn first(&self) -> usize {
        self.first
    }

    /// Addresses of the cosines and sines of all positions.
    pub(super) fn starts(&self) -> [u64; 2] {
        let start = self.space.as_ref().map_or(0, Space::start);
        [start, start + 4 * (self.rows * self.pairs) as u64]
    }
}
