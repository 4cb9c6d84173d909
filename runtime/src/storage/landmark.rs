//! Places that a session can go back to, and which of them are kept.
//!
//! A state is large (16 to 20 MB at V4-Flash's widths), so of a long session there cannot
//! be one everywhere. What is given up is chosen in the same way in memory and in a file.

/// The kind of a place, which decides how long its state is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Landmark {
    /// Nothing special.
    #[default]
    Way,
    /// A turn begins.
    Turn,
    /// The end of what many prompts share: system prompt and tools. It is kept as long
    /// as the session.
    Root,
}

impl Landmark {
    /// As in a step's header.
    pub(super) fn number(self) -> u32 {
        match self {
            Self::Way => 0,
            Self::Turn => 1,
            Self::Root => 2,
        }
    }

    /// Unknown numbers mean nothing special.
    pub(super) fn of_number(number: u32) -> Self {
        match number {
            1 => Self::Turn,
            2 => Self::Root,
            _ => Self::Way,
        }
    }

    /// How much further apart others may be than these.
    fn weight(self) -> u128 {
        match self {
            Self::Way => 1,
            Self::Turn | Self::Root => 4,
        }
    }
}

/// Most places of a session whose states are kept: 16 states, less than 320 MB at
/// V4-Flash's widths.
pub const MOST_PLACES: usize = 16;
/// Turns at the end that stay.
const LAST_TURNS: usize = 4;

/// Of places in order, each with the tokens before it, those to give up so that no more
/// than [`MOST_PLACES`] are left. The roots, the last turns and the last place stay; of the
/// others those go that leave the shortest way, as seen from the end: the further back,
/// the wider apart they get.
pub(crate) fn surplus(places: &[(u64, Landmark)]) -> Vec<usize> {
    let mut left: Vec<usize> = (0..places.len()).collect();
    let mut gone = Vec::new();
    while left.len() > MOST_PLACES {
        let Some(i) = least(places, &left) else {
            break;
        };
        gone.push(left.remove(i));
    }
    gone.sort_unstable();
    gone
}

/// The one of `left` that is missed least.
fn least(places: &[(u64, Landmark)], left: &[usize]) -> Option<usize> {
    let end = places.last()?.0;
    let turns = left
        .iter()
        .rev()
        .filter(|&&i| places[i].1 == Landmark::Turn);
    let last_turns = turns.take(LAST_TURNS).last().copied();
    let stays = |at: usize| {
        let (i, landmark) = (left[at], places[left[at]].1);
        let last_turn = landmark == Landmark::Turn && last_turns.is_some_and(|first| i >= first);
        at + 1 == left.len() || landmark == Landmark::Root || last_turn
    };
    // What has to be read again without it, for each token between it and the end.
    let missed = |at: usize| {
        let (tokens, landmark) = places[left[at]];
        let before = at.checked_sub(1).map_or(0, |at| places[left[at]].0);
        let gap = u128::from(places[left[at + 1]].0.saturating_sub(before));
        (gap << 64) * landmark.weight() / u128::from(end.saturating_sub(tokens) + 256)
    };
    let all = (0..left.len()).filter(|&at| !stays(at));
    all.min_by_key(|&at| missed(at))
        // Nothing but roots and last turns: the oldest goes.
        .or_else(|| (left.len() > 1).then_some(0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is left after the places have come one by one.
    fn grown(all: &[(u64, Landmark)]) -> Vec<(u64, Landmark)> {
        let mut left = Vec::new();
        for &place in all {
            left.push(place);
            for i in surplus(&left).into_iter().rev() {
                left.remove(i);
            }
        }
        left
    }

    #[test]
    fn what_is_left_is_the_closer_the_nearer_to_the_end() {
        let all: Vec<_> = (1..=400).map(|i| (i * 256, Landmark::Way)).collect();
        let left = grown(&all);
        assert_eq!(left.len(), MOST_PLACES);
        let end = 400 * 256;
        for at in (1..end).step_by(64) {
            let before = left.iter().rfind(|p| p.0 <= at).map_or(0, |p| p.0);
            assert!(
                (at - before) <= 512.max((end - at) * 3 / 2),
                "{at}: {left:?}"
            );
        }
    }

    #[test]
    fn the_root_and_the_last_turns_stay() {
        let mut all = vec![(2048, Landmark::Way), (12_000, Landmark::Root)];
        for turn in 0..200 {
            let at = 12_000 + turn * 700;
            all.push((at + 300, Landmark::Turn));
            all.push((at + 600, Landmark::Way));
        }
        let left = grown(&all);
        assert_eq!(left.len(), MOST_PLACES);
        assert!(left.contains(&(12_000, Landmark::Root)));
        let turns = all.iter().rev().filter(|p| p.1 == Landmark::Turn);
        for turn in turns.take(LAST_TURNS) {
            assert!(left.contains(turn), "{turn:?}");
        }
        // As many as there may be, whatever they are.
        let roots: Vec<_> = (1..100).map(|i| (i, Landmark::Root)).collect();
        assert_eq!(grown(&roots).len(), MOST_PLACES);
    }

    #[test]
    fn numbers_come_back_and_others_mean_nothing() {
        for (number, landmark) in [Landmark::Way, Landmark::Turn, Landmark::Root]
            .into_iter()
            .enumerate()
        {
            assert_eq!(landmark.number() as usize, number);
            assert_eq!(Landmark::of_number(landmark.number()), landmark);
        }
        assert_eq!(Landmark::of_number(3), Landmark::Way);
    }

    #[test]
    fn of_those_missed_least_the_first_goes_and_a_turn_stays_longer() {
        let way = |n: u64| {
            (1..=n)
                .map(|i| (i * 256, Landmark::Way))
                .collect::<Vec<_>>()
        };
        assert!(surplus(&way(16)).is_empty());
        assert_eq!(surplus(&way(17)), [0]);
        // An old turn is worth four others, the last four are not given up at all.
        let mut places = way(17);
        for i in [0, 5, 6, 7, 8] {
            places[i].1 = Landmark::Turn;
        }
        assert_eq!(surplus(&places), [1]);
        let mut places = way(17);
        for i in [0, 1, 2, 3] {
            places[i].1 = Landmark::Turn;
        }
        assert_eq!(surplus(&places), [4]);
        // What lies close to the one before it is missed less than an older one.
        let mut places = way(17);
        places[9].0 = places[8].0 + 1;
        assert_eq!(surplus(&places), [8]);
    }

    proptest! {
        #[test]
        fn no_more_are_left_than_may_be(steps in proptest::collection::vec((0_u64..5000, 0_u32..4), 0..80)) {
            let mut at = 0;
            let all: Vec<_> = steps
                .into_iter()
                .map(|(step, kind)| {
                    at += step;
                    (at, Landmark::of_number(kind))
                })
                .collect();
            let left = grown(&all);
            prop_assert!(left.len() == all.len().min(MOST_PLACES));
            prop_assert_eq!(left.last(), all.last());
        }
    }
}
