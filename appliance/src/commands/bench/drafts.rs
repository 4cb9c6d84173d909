//! Decoding with drafts: the tokens are known, and what is drafted counts as far as it agrees
//! with them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use v4_runtime::generation::{
    Draft, DraftOptions, DraftSource, Drafting, ModelDrafting, PassTimes, Speculation,
};
use v4_runtime::{Engine, EngineError, Session};

use super::args::BenchArgs;
use crate::args::DraftArg;
use crate::options;

/// What drafts.
#[derive(Debug)]
pub enum Drafts {
    /// What drafts texts that are generated.
    Model(ModelDrafting),
    /// What is right with given probabilities.
    MadeUp(MadeUp),
}

impl Drafts {
    /// What is asked for; none if nothing would be drafted.
    pub fn new(args: &BenchArgs, engine: &Engine) -> anyhow::Result<Option<Self>> {
        let options = match args.drafts.draft {
            DraftArg::Off if args.made_up_drafts.is_empty() => return Ok(None),
            DraftArg::Off => {
                bail!("--made-up-drafts and --draft off exclude each other; leave one out")
            }
            DraftArg::Auto => DraftOptions::default(),
            DraftArg::Most(most) => DraftOptions { most, paced: false },
        };
        if !args.made_up_drafts.is_empty() {
            return Ok(Some(Self::MadeUp(MadeUp {
                options,
                chances: conditional(&args.made_up_drafts)?,
                share: args.made_up_time,
                times: PassTimes::default(),
            })));
        }
        // Random tokens are never foreseen.
        let drafting = options::drafting(&args.drafts).filter(|_| {
            engine.draft().is_some() || args.text.is_some() || args.drafts.draft != DraftArg::Auto
        });
        Ok(drafting.map(Self::Model))
    }

    /// Begins to draft for a session that goes on with `ids`.
    pub fn begin(&self, engine: &Arc<Engine>, session: &Session, ids: &[u32]) -> Speculation {
        match self {
            Self::Model(drafting) => drafting.begin(engine),
            Self::MadeUp(made_up) => {
                let source = Oracle {
                    from: session.len(),
                    ids: ids.to_vec(),
                    chances: made_up.chances.clone(),
                    share: made_up.share,
                    times: made_up.times.clone(),
                    random: 1,
                };
                let sources: Vec<Box<dyn DraftSource>> = vec![Box::new(source)];
                Speculation::new(sources, made_up.options, made_up.times.clone())
            }
        }
    }
}

/// The chance of each draft if those before it came, from the shares of passes in which the
/// first comes, the first two, and so on.
fn conditional(shares: &[f64]) -> anyhow::Result<Vec<f64>> {
    if shares.len() > DraftOptions::MOST {
        bail!("--made-up-drafts: at most {} shares", DraftOptions::MOST);
    }
    let mut before = 1.0;
    let chance = |share: &f64| {
        let chance = share / f64::max(before, f64::MIN_POSITIVE);
        if !(0.0..=1.0).contains(share) || *share > before {
            bail!(
                "--made-up-drafts: {share}: shares are from 1 down to 0, the first draft's first, \
                 and none is above the one before it"
            );
        }
        before = *share;
        Ok(chance)
    };
    shares.iter().map(chance).collect()
}

/// Drafts that come with given probabilities.
#[derive(Debug)]
pub struct MadeUp {
    options: DraftOptions,
    chances: Vec<f64>,
    share: f64,
    times: PassTimes,
}

/// Knows the tokens to come, and says them with the probabilities it was given.
#[derive(Debug)]
struct Oracle {
    /// Where `ids` begin.
    from: usize,
    ids: Vec<u32>,
    chances: Vec<f64>,
    share: f64,
    times: PassTimes,
    random: u64,
}

impl Oracle {
    fn chance(&mut self) -> f64 {
        let x = self.random;
        self.random = x
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 40) as f64 / (1_u64 << 24) as f64
    }
}

impl DraftSource for Oracle {
    fn draft(
        &mut self,
        session: &mut Session,
        _: u32,
        most: usize,
        drafts: &mut Vec<Draft>,
    ) -> Result<(), EngineError> {
        let began = Instant::now();
        let due = session.len() - self.from;
        for i in 0..most.min(self.chances.len()) {
            let Some(&right) = self.ids.get(due + 1 + i) else {
                break;
            };
            let token = match self.chance() < self.chances[i] {
                true => right,
                // One of the text's, that does not come next.
                false => *self.ids.iter().find(|&&id| id != right).unwrap_or(&right),
            };
            let confidence = None;
            drafts.push(Draft { token, confidence });
        }
        // A module would have computed as long, with all threads.
        let pass = self.times.of(1).unwrap_or(0.0);
        let time = Duration::from_secs_f64(pass * self.share);
        while began.elapsed() < time {
            std::hint::spin_loop();
        }
        Ok(())
    }

    fn is_free(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_chances() {
        let chances = conditional(&[0.5, 0.25, 0.25, 0.0, 0.0]).unwrap();
        assert_eq!(chances, [0.5, 0.5, 1.0, 0.0, 0.0]);
        assert!(conditional(&[0.5, 0.6]).is_err());
        assert!(conditional(&[1.1]).is_err() && conditional(&[f64::NAN]).is_err());
        assert!(conditional(&[1.0; 99]).is_err());
    }
}
