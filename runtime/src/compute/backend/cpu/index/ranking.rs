//! Finds the best of many scores in a small buffer.

use super::Chosen;

/// Keeps the best `k` of what is pushed, and the best of the rest. Ties go to the lowest
/// index; the order of pushing, and how scores are spread over rankings that are merged,
/// do not matter.
#[derive(Debug, Clone)]
pub(super) struct Ranking {
    k: usize,
    pushed: usize,
    kept: Vec<u64>,
    /// What is less is not among the best `k + 1`.
    floor: u64,
}

/// Larger for higher scores (as `f32::total_cmp` has them), then for lower indices.
fn rank(score: f32, index: u32) -> u64 {
    let bits = score.to_bits();
    let ordered = match bits >> 31 {
        0 => bits | 1 << 31,
        _ => !bits,
    };
    u64::from(ordered) << 32 | u64::from(!index)
}

fn index(rank: u64) -> u32 {
    !(rank as u32)
}

fn score(rank: u64) -> f32 {
    let ordered = (rank >> 32) as u32;
    f32::from_bits(match ordered >> 31 {
        0 => !ordered,
        _ => ordered ^ 1 << 31,
    })
}

impl Ranking {
    pub(super) fn new(k: usize) -> Self {
        Self {
            k,
            pushed: 0,
            kept: Vec::new(),
            floor: 0,
        }
    }

    /// Most ranks held for a choice of `k`.
    pub(super) const fn room(k: usize) -> usize {
        4 * (k + 1)
    }

    pub(super) fn push(&mut self, value: f32, index: u32) {
        self.pushed += 1;
        self.push_rank(rank(value, index));
    }

    #[inline]
    fn push_rank(&mut self, rank: u64) {
        if rank < self.floor {
            return;
        }
        if self.kept.len() == Self::room(self.k) {
            self.prune();
        }
        self.kept.push(rank);
    }

    /// Leaves the best `k + 1`.
    fn prune(&mut self) {
        if self.kept.len() > self.k + 1 {
            let by_rank = |a: &u64, b: &u64| b.cmp(a);
            let (_, last, _) = self.kept.select_nth_unstable_by(self.k, by_rank);
            self.floor = *last;
            self.kept.truncate(self.k + 1);
        }
    }

    /// Both together.
    pub(super) fn merge(mut self, other: Self) -> Self {
        self.pushed += other.pushed;
        for rank in other.kept {
            self.push_rank(rank);
        }
        self
    }

    /// In less room, once all was pushed.
    pub(super) fn settled(mut self) -> Self {
        self.prune();
        self.kept.shrink_to_fit();
        self
    }

    /// The choice.
    pub(super) fn chosen(mut self) -> Chosen {
        self.prune();
        let mut margin = f32::INFINITY;
        if self.pushed > self.k {
            let least = self.kept.iter().enumerate().min_by_key(|(_, rank)| **rank);
            if let Some((at, _)) = least {
                let next = score(self.kept.swap_remove(at));
                let worst = self.kept.iter().min().map_or(next, |rank| score(*rank));
                margin = worst - next;
            }
        }
        let mut entries: Vec<u32> = self.kept.iter().map(|rank| index(*rank)).collect();
        entries.sort_unstable();
        Chosen { entries, margin }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn top_k(scores: &[f32], k: usize) -> Chosen {
        let mut ranking = Ranking::new(k);
        for (i, &score) in scores.iter().enumerate() {
            ranking.push(score, i as u32);
        }
        ranking.chosen()
    }

    #[test]
    fn ties_go_to_the_lowest_index() {
        let chosen = top_k(&[1.0, 3.0, 2.0, 2.0, 2.0, 0.0], 3);
        assert_eq!(chosen.entries, [1, 2, 3]);
        assert_eq!(chosen.margin, 0.0);
        let chosen = top_k(&[0.0; 10], 4);
        assert_eq!(chosen.entries, [0, 1, 2, 3]);
    }

    #[test]
    fn what_fits_is_chosen_whole() {
        let chosen = top_k(&[1.0, -1.0], 2);
        assert_eq!(chosen.entries, [0, 1]);
        assert_eq!(chosen.margin, f32::INFINITY);
    }

    proptest! {
        /// As sorting would have it, however scores are spread over rankings.
        #[test]
        fn the_same_as_sorting(
            scores in proptest::collection::vec(
                prop_oneof![(-4i8..4).prop_map(f32::from), any::<f32>()], 1..400),
            k in 1usize..40,
            parts in 1usize..5,
        ) {
            let mut rankings = vec![Ranking::new(k); parts];
            for (i, &score) in scores.iter().enumerate().rev() {
                rankings[i * 7 % parts].push(score, i as u32);
            }
            let merged = rankings.into_iter().map(Ranking::settled).reduce(Ranking::merge);
            let chosen = merged.unwrap().chosen();
            let mut order: Vec<usize> = (0..scores.len()).collect();
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
            let mut best: Vec<u32> = order.iter().take(k).map(|&i| i as u32).collect();
            best.sort_unstable();
            prop_assert_eq!(&chosen.entries, &best);
            if scores.len() > k {
                let margin = scores[order[k - 1]] - scores[order[k]];
                prop_assert!(chosen.margin.to_bits() == margin.to_bits() || margin.is_nan());
            }
        }
    }
}
