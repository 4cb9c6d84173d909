//! Decides which expert to evict.

/// What an expert is worth: uses count, and count less the longer they are ago
/// (LRFU, Lee et al., IEEE Transactions on Computers 50(12), 2001).
///
/// Every use adds 1, and what was added is worth half after [`Policy::half_life`]
/// tokens. With a half-life of zero only the last use counts, which is LRU; with an
/// endless one uses are counted, which is LFU. Measured on routing traces by
/// `v4-expert-cache`, see `docs/streaming.md`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// Tokens (or chunks of a prompt) after which a use counts half.
    pub half_life: f64,
}

impl Policy {
    /// Only the last use counts.
    pub const LRU: Self = Self { half_life: 0.0 };
}

impl Policy {
    /// For a model that uses `used` of `experts` experts per layer: the time in which an
    /// expert is used once on average. On recorded routings that was best, or within a
    /// percent of it (`docs/streaming.md`).
    #[must_use]
    pub fn for_model(experts: usize, used: usize) -> Self {
        Self {
            half_life: experts as f64 / used.max(1) as f64,
        }
    }
}

/// The worth of one expert, in a form that time leaves as it is: the binary logarithm
/// of what all uses would be worth at time zero.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Worth(f64);

impl Worth {
    /// Never used.
    pub const NONE: Self = Self(f64::NEG_INFINITY);

    /// After another use at `time`, in tokens since the beginning; times never go
    /// back.
    #[must_use]
    pub fn used(self, policy: Policy, time: f64) -> Self {
        if policy.half_life <= 0.0 {
            return Self(time);
        }
        let new = time / policy.half_life;
        let (high, low) = if self.0 > new {
            (self.0, new)
        } else {
            (new, self.0)
        };
        Self(high + (low - high).exp2().ln_1p() / std::f64::consts::LN_2)
    }

    /// Order of worth: the least goes first.
    #[must_use]
    pub fn order(self, other: Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// What a cache of experts would have found of a routing trace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Simulated {
    /// Experts asked for.
    pub asked: u64,
    /// Of these, experts that were there.
    pub hits: u64,
}

impl Simulated {
    /// Share that was there.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.hits as f64 / self.asked.max(1) as f64
    }
}

/// Runs a routing trace through a cache of `slots` experts of all layers together.
///
/// `layers` has for each layer the chosen experts, `[tokens, used]`. Tokens before
/// `from` fill the cache and are not counted. An expert is never pushed out by one of
/// the same token and layer.
#[must_use]
pub fn simulate(
    layers: &[&[u32]],
    used: usize,
    slots: usize,
    policy: Policy,
    from: usize,
) -> Vec<Simulated> {
    let mut counts = vec![Simulated::default(); layers.len()];
    let mut held: Vec<(usize, u32, Worth)> = Vec::with_capacity(slots);
    let tokens = layers.iter().map(|l| l.len() / used.max(1)).min();
    for token in 0..tokens.unwrap_or(0) {
        let time = token as f64;
        for (l, experts) in layers.iter().enumerate() {
            let wanted = &experts[token * used..][..used];
            let mut missing = Vec::new();
            for &expert in wanted {
                let found = held.iter_mut().find(|h| (h.0, h.1) == (l, expert));
                let hit = found.is_some();
                match found {
                    Some(held) => held.2 = held.2.used(policy, time),
                    None => missing.push(expert),
                }
                if token >= from {
                    counts[l].asked += 1;
                    counts[l].hits += u64::from(hit);
                }
            }
            for expert in missing {
                if held.len() >= slots {
                    let others = held.iter().enumerate();
                    let others = others.filter(|(_, h)| h.0 != l || !wanted.contains(&h.1));
                    let least = others.min_by(|(_, a), (_, b)| a.2.order(b.2));
                    let Some((at, _)) = least else { continue };
                    held.swap_remove(at);
                }
                held.push((l, expert, Worth::NONE.used(policy, time)));
            }
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worth_is_the_sum_of_decayed_uses() {
        let policy = Policy { half_life: 10.0 };
        let mut worth = Worth::NONE;
        for time in [0.0, 5.0, 20.0] {
            worth = worth.used(policy, time);
        }
        let at = |time: f64| (time / 10.0f64).exp2();
        let expected = (at(0.0) + at(5.0) + at(20.0)).log2();
        assert!((worth.0 - expected).abs() < 1e-12);
    }

    #[test]
    fn times_of_a_year_do_not_overflow() {
        let mut worth = Worth::NONE;
        for time in 0..1000 {
            worth = worth.used(Policy { half_life: 1.0 }, 1e9 + f64::from(time));
        }
        assert!(worth.0.is_finite());
    }

    #[test]
    fn without_half_life_the_last_use_counts() {
        let often = [1.0, 2.0, 3.0].iter();
        let often = often.fold(Worth::NONE, |w, &t| w.used(Policy::LRU, t));
        let late = Worth::NONE.used(Policy::LRU, 4.0);
        assert!(late.order(often).is_gt());
        let policy = Policy { half_life: 100.0 };
        let often = [1.0, 2.0, 3.0].iter();
        let often = often.fold(Worth::NONE, |w, &t| w.used(policy, t));
        assert!(Worth::NONE.used(policy, 4.0).order(often).is_lt());
    }

    #[test]
    fn a_cycle_that_is_too_long_defeats_lru() {
        // Three experts in turn, room for two.
        let trace: Vec<u32> = (0..300).map(|t| t % 3).collect();
        let rate = |slots, policy| simulate(&[&trace], 1, slots, policy, 0)[0].hits;
        assert_eq!(rate(2, Policy::LRU), 0);
        assert_eq!(rate(3, Policy::LRU), 297);
    }

    #[test]
    fn experts_of_different_layers_are_different() {
        let trace = [7, 7, 7, 7];
        let counts = simulate(&[&trace, &trace], 1, 2, Policy { half_life: 8.0 }, 1);
        assert!(counts.iter().all(|c| (c.asked, c.hits) == (3, 3)));
    }
}
