//! Weights that operations borrow together.

use super::{Backend, ExpertsView, HcView};
use crate::residency::experts::StreamedLayer;

/// Weights of one hyper-connection site; see [`HcView`].
#[derive(Debug)]
#[allow(missing_docs)] // named as there
pub struct HcWeights<B: Backend> {
    pub func: B::Weight,
    pub base: B::Vector,
    pub scale: B::Vector,
}

impl<B: Backend> HcWeights<B> {
    /// What operations take.
    pub fn view(&self) -> HcView<'_, B> {
        HcView {
            func: &self.func,
            base: &self.base,
            scale: &self.scale,
        }
    }
}

/// The three matrices of all routed experts of a layer, or of the shared one; see
/// [`ExpertsView`].
#[derive(Debug)]
#[allow(missing_docs)] // named as there
pub struct ExpertWeights<B: Backend> {
    pub gate: B::Weight,
    pub up: B::Weight,
    pub down: B::Weight,
    pub limit: f32,
    pub streamed: Option<StreamedLayer>,
}

impl<B: Backend> ExpertWeights<B> {
    /// What operations take.
    pub fn view(&self) -> ExpertsView<'_, B> {
        ExpertsView {
            gate: &self.gate,
            up: &self.up,
            down: &self.down,
            limit: self.limit,
            streamed: self.streamed.as_ref(),
        }
    }
}
