//! NVIDIA's cards of this machine, as options name them.
//!
//! Everything that knows of CUDA is behind the feature `cuda`. Options are there in every build,
//! so that one without it can say what it lacks.

use std::str::FromStr;

#[cfg(not(feature = "cuda"))]
use v4_runtime::EngineOptions;

/// Why there are no cards in a build without the feature.
#[cfg(not(feature = "cuda"))]
pub const NO_CUDA: &str = "this v4-run was built without CUDA: build it without \
                           --no-default-features (no CUDA toolkit is needed), or do without a \
                           card";

/// Which cards an option means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cards {
    /// Every card.
    All,
    /// The card of this number, as nvidia-smi counts where `CUDA_DEVICE_ORDER=PCI_BUS_ID`.
    One(u32),
}

impl FromStr for Cards {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            _ => text
                .parse()
                .map(Self::One)
                .map_err(|_| "give the number of a card, from 0, or \"all\"".to_owned()),
        }
    }
}

#[cfg(feature = "cuda")]
pub use with_cuda::{choose, open};

/// Has the engine run on the card that `--gpu` names, if it names one.
///
/// # Errors
/// If it names one: there are none in this build.
#[cfg(not(feature = "cuda"))]
pub fn choose(gpu: Option<u32>, _: &mut EngineOptions) -> anyhow::Result<()> {
    match gpu {
        Some(_) => anyhow::bail!("--gpu: {NO_CUDA}"),
        None => Ok(()),
    }
}

#[cfg(feature = "cuda")]
mod with_cuda {
    use std::sync::Arc;

    use anyhow::{Context, bail};
    use v4_cuda::cuda::{Cuda, CudaDriver};
    use v4_cuda::{DriverError, Platform};
    use v4_runtime::EngineOptions;

    use super::Cards;

    /// The numbers of the cards that are meant.
    fn numbers(cuda: &Cuda, cards: Cards) -> anyhow::Result<Vec<u32>> {
        let count = cuda.count()?;
        if count == 0 {
            return Err(DriverError::NoCard.into());
        }
        match cards {
            Cards::All => Ok((0..count).collect()),
            Cards::One(number) if number < count => Ok(vec![number]),
            Cards::One(number) => match count {
                1 => bail!("there is no card {number}: this machine has one, number 0"),
                _ => bail!("there is no card {number}: this machine has {count}, from 0 on"),
            },
        }
    }

    /// The cards that are meant, each opened when it is asked for, so that one at a time is in
    /// use.
    ///
    /// # Errors
    /// If there is no driver, it does not start, or there is no such card.
    pub fn open(
        cards: Cards,
    ) -> anyhow::Result<impl Iterator<Item = anyhow::Result<Arc<CudaDriver>>>> {
        let cuda = Cuda::new()?;
        let numbers = numbers(&cuda, cards)?;
        let one = move |number| {
            let opened = cuda.open(number);
            opened
                .map(Arc::new)
                .with_context(|| format!("card {number}"))
        };
        Ok(numbers.into_iter().map(one))
    }

    /// Has the engine run on the card that `--gpu` names, if it names one.
    ///
    /// # Errors
    /// If it cannot be used: a model never runs elsewhere than it was asked to.
    pub fn choose(gpu: Option<u32>, options: &mut EngineOptions) -> anyhow::Result<()> {
        if let Some(number) = gpu {
            for driver in open(Cards::One(number))? {
                options.card = Some(driver?.into());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_named_by_number_or_all_at_once() {
        assert_eq!("all".parse(), Ok(Cards::All));
        assert_eq!("1".parse(), Ok(Cards::One(1)));
        for bad in ["", "-1", "0,1", "model.gguf"] {
            assert!(bad.parse::<Cards>().is_err(), "{bad}");
        }
    }
}
