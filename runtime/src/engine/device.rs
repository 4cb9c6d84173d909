//! What an engine runs on.

use super::{Engine, EngineOptions};
use crate::compute::backend::cpu::Cpu;
use crate::compute::backend::{Backend, Device};
#[cfg(feature = "cuda")]
use crate::compute::forward::formats;
use crate::compute::profile::Profile;
use crate::compute::roofline::Roofline;
use crate::error::EngineError;
use crate::model::ModelConfig;

/// The CPU, or the card that the options name, for models of these shapes.
#[cfg_attr(not(feature = "cuda"), allow(clippy::unnecessary_wraps))] // a card may fail
pub(super) fn of<'a>(
    options: &EngineOptions,
    models: impl IntoIterator<Item = &'a ModelConfig>,
) -> Result<Device, EngineError> {
    let cpu = Cpu::new(options.precision).profiled(options.profile);
    #[cfg(feature = "cuda")]
    let device = match &options.card {
        None => Device::Cpu(cpu),
        Some(_) if options.profile => return Err(crate::error::CardError::Profile.into()),
        Some(card) => Device::on_card(card, options.precision)?,
    };
    #[cfg(feature = "cuda")]
    for cfg in models {
        device.allow(cfg, formats(cfg, options.kv).index)?;
    }
    #[cfg(not(feature = "cuda"))]
    let (device, _) = (cpu, models);
    Ok(device)
}

impl Engine {
    /// Name of the instruction set that the CPU's kernels use. With a card these do little: they
    /// decode the rows of tables that tokens name.
    #[must_use]
    pub fn isa(&self) -> &'static str {
        self.forward.backend().kernels().isa().name()
    }

    /// The card that it runs on, if it runs on one.
    #[cfg(feature = "cuda")]
    #[must_use]
    pub fn card(&self) -> Option<&v4_cuda::driver::Card> {
        self.forward.backend().card()
    }

    /// Whether what it runs on still works; see [`Self::check`].
    ///
    /// # Errors
    /// What went wrong with the card first, if anything did.
    pub(crate) fn check_device(&self) -> Result<(), EngineError> {
        self.forward.backend().check()
    }

    /// Measures the machine's best rates with this engine's threads and instructions: those of
    /// the CPU and its memory, also with a card.
    /// Takes a second or two and up to `memory` bytes, which should be free. `None` if
    /// that is less than 512 MiB.
    #[must_use]
    pub fn roofline(&self, memory: u64) -> Option<Roofline> {
        let kernels = self.forward.backend().kernels();
        Roofline::measure(&self.shared.workers, kernels, memory)
    }

    /// The profile of all sessions since the last call; `None` unless
    /// [`EngineOptions::profile`] is set.
    #[must_use]
    pub fn take_profile(&self) -> Option<Profile> {
        self.forward.backend().take_profile()
    }
}
