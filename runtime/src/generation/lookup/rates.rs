//! How often what is looked up comes, by how much agrees with the place where it was found.

/// Numbers of tokens that agree, from which on drafts are told apart, and what is assumed of
/// drafts that were not seen to come or not: the first, and those after one that came. About
/// what code and prose showed. One token alone says where a gap ends.
const ASSUMED: [(usize, [f64; 2]); CLASSES] = [
    (1, [0.5, 0.8]),
    (2, [0.4, 0.6]),
    (3, [0.45, 0.6]),
    (4, [0.5, 0.65]),
    (5, [0.6, 0.7]),
    (7, [0.7, 0.8]),
    (10, [0.8, 0.85]),
    (16, [0.9, 0.95]),
    (32, [0.95, 0.97]),
];
pub(super) const CLASSES: usize = 9;
/// How many observations that counts for.
const WEIGHT: f64 = 2.0;
/// What older observations count after a new one.
const KEEP: f64 = 0.98;
/// What they count after drafts that were not worth reading, so that they are tried again.
const FADE: f64 = 0.99;

/// The class of drafts.
pub(super) fn class(agree: usize) -> usize {
    let upto = ASSUMED.iter().take_while(|(from, _)| agree >= *from);
    upto.count().saturating_sub(1)
}

/// Of the drafts of one class: the first, and those after one that came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate([Share; 2]);

#[derive(Debug, Clone, Copy)]
struct Share {
    assumed: f64,
    came: f64,
    all: f64,
}

impl Rate {
    /// Of all classes.
    pub fn assumed() -> [Self; CLASSES] {
        let share = |assumed| Share {
            assumed,
            came: 0.0,
            all: 0.0,
        };
        ASSUMED.map(|(_, chances)| Self(chances.map(share)))
    }

    /// The chance of a draft if those before it come.
    pub fn chance(&self, draft: usize) -> f32 {
        let Share { assumed, came, all } = self.0[draft.min(1)];
        ((came + assumed * WEIGHT) / (all + WEIGHT)) as f32
    }

    /// Of `read` drafts the first `came` came.
    pub fn verified(&mut self, read: usize, came: usize) {
        for draft in 0..read.min(came + 1) {
            let share = &mut self.0[draft.min(1)];
            let news = if draft < came { 1.0 } else { 0.0 };
            share.came = share.came * KEEP + news;
            share.all = share.all * KEEP + 1.0;
        }
    }

    /// Drafts were not read.
    pub fn passed_over(&mut self) {
        for share in &mut self.0 {
            share.came *= FADE;
            share.all *= FADE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_of_more_and_more_tokens() {
        let classes: Vec<usize> = (1..=40).map(class).collect();
        assert!(classes.is_sorted());
        assert_eq!(classes[..3], [0, 1, 2]);
        assert_eq!((classes[30], classes[31]), (CLASSES - 2, CLASSES - 1));
    }

    #[test]
    fn chances_are_those_that_were_seen() {
        let [_, mut rate, ..] = Rate::assumed();
        assert_eq!((rate.chance(0), rate.chance(5)), (0.4, 0.6));
        for i in 0..400 {
            // The first comes in one of four cases, what follows always.
            rate.verified(3, if i % 4 == 0 { 3 } else { 0 });
        }
        assert!((rate.chance(0) - 0.25).abs() < 0.03, "{}", rate.chance(0));
        assert!(rate.chance(1) > 0.95 && rate.chance(2) > 0.95);
        // Not worth reading: after a while it is tried again.
        let before = rate.chance(0);
        for _ in 0..100 {
            rate.passed_over();
        }
        assert!(rate.chance(0) > before);
    }
}
