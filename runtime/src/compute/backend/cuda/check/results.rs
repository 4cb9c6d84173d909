//! What came of a check, and how that of a card differs from that of the CPU.

use std::collections::BTreeSet;
use std::fmt;

use super::watched::Log;
use crate::compute::backend::Backend;

/// What came of one check, in the order in which it was computed.
#[derive(Debug, Default)]
pub(super) struct Results<'a> {
    all: Vec<Computed>,
    /// Of a card: which kernels ran.
    log: Option<&'a Log>,
}

#[derive(Debug)]
struct Computed {
    name: String,
    /// The kernels that ran since the result before.
    kernels: Vec<&'static str>,
    words: Vec<u32>,
    /// Whether words are f32, of which all NaNs are one.
    floats: bool,
}

impl<'a> Results<'a> {
    /// Of a card.
    pub(super) fn with(log: &'a Log) -> Self {
        Self {
            all: Vec::new(),
            log: Some(log),
        }
    }

    fn push(&mut self, name: String, words: Vec<u32>, floats: bool) {
        let kernels = self.log.map(Log::take).unwrap_or_default();
        self.all.push(Computed {
            name,
            kernels,
            words,
            floats,
        });
    }

    /// Adds values.
    pub(super) fn floats(&mut self, name: impl Into<String>, values: &[f32]) {
        let words = values.iter().map(|v| v.to_bits()).collect();
        self.push(name.into(), words, true);
    }

    /// Adds words, of which every bit counts.
    pub(super) fn words(&mut self, name: impl Into<String>, words: Vec<u32>) {
        self.push(name.into(), words, false);
    }

    /// Adds bytes.
    pub(super) fn bytes(&mut self, name: impl Into<String>, bytes: &[u8]) {
        let word = |part: &[u8]| {
            let mut word = [0; 4];
            word[..part.len()].copy_from_slice(part);
            u32::from_le_bytes(word)
        };
        self.words(name, bytes.chunks(4).map(word).collect());
    }

    /// Adds what a matrix holds.
    pub(super) fn buf<B: Backend>(&mut self, b: &B, name: impl Into<String>, x: &B::Buf) {
        let values = b.read(x);
        self.floats(name, &values);
    }

    /// How many there are, and how many values.
    pub(super) fn count(&self) -> (usize, u64) {
        let values = self.all.iter().map(|result| result.words.len() as u64);
        (self.all.len(), values.sum())
    }

    /// Every kernel that ran for any of them.
    pub(super) fn kernels(&self) -> impl Iterator<Item = &'static str> {
        self.all
            .iter()
            .flat_map(|result| result.kernels.iter().copied())
    }

    /// The first of these results, of a card, that is not that of the CPU. Kernels of results
    /// before it are added to those that are `right`.
    pub(super) fn against(
        &self,
        expected: &Self,
        right: &mut BTreeSet<&'static str>,
    ) -> Option<Difference> {
        for (found, expected) in self.all.iter().zip(&expected.all) {
            if let Some(difference) = found.against(expected, right) {
                return Some(difference);
            }
            right.extend(&found.kernels);
        }
        // Cases give as many results everywhere.
        let counts = (self.all.len(), expected.all.len());
        (counts.0 != counts.1).then(|| Difference {
            kernels: Vec::new(),
            result: format!("{} results", counts.1),
            at: counts.0.min(counts.1),
            of: counts.1,
            found: None,
            expected: None,
            count: counts.0.abs_diff(counts.1),
            floats: false,
        })
    }
}

impl Computed {
    fn against(&self, expected: &Self, right: &BTreeSet<&'static str>) -> Option<Difference> {
        let same = |a: u32, b: u32| {
            let both_nan = || f32::from_bits(a).is_nan() && f32::from_bits(b).is_nan();
            a == b || (self.floats && both_nan())
        };
        let (found, wanted) = (&self.words, &expected.words);
        let (short, long) = (found.len().min(wanted.len()), found.len().max(wanted.len()));
        let differs = |i: &usize| !same(found[*i], wanted[*i]);
        let first = (0..short).find(differs);
        if first.is_none() && short == long {
            return None;
        }
        // Those that were right elsewhere are hardly to blame, unless all were.
        let of = self.kernels.iter().copied();
        let new: Vec<_> = of.filter(|kernel| !right.contains(kernel)).collect();
        let at = first.unwrap_or(short);
        Some(Difference {
            kernels: if new.is_empty() {
                self.kernels.clone()
            } else {
                new
            },
            result: expected.name.clone(),
            at,
            of: wanted.len(),
            found: found.get(at).copied(),
            expected: wanted.get(at).copied(),
            count: (0..short).filter(differs).count() + long - short,
            floats: self.floats,
        })
    }
}

/// The first value of a result that a card computed otherwise than the CPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The kernels that it can be a fault of: of those that ran for it, those that gave no right
    /// result before, or if there is none, all.
    pub kernels: Vec<&'static str>,
    /// Which result: the operation's shape.
    pub result: String,
    /// Number of the first value that differs.
    pub at: usize,
    /// Values of the result.
    pub of: usize,
    /// The card's bits; none where it has fewer values.
    pub found: Option<u32>,
    /// The CPU's bits.
    pub expected: Option<u32>,
    /// How many values differ.
    pub count: usize,
    /// Whether the bits are those of an f32.
    pub floats: bool,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |word: Option<u32>| match word {
            None => "missing".to_owned(),
            Some(word) if self.floats => format!("{word:#010x} ({:e})", f32::from_bits(word)),
            Some(word) => format!("{word:#010x}"),
        };
        let Self {
            result,
            at,
            of,
            count,
            ..
        } = self;
        let kernels = self.kernels.join(" or ");
        write!(
            f,
            "{kernels}: {result}: value {at} of {of} is {} on the card, {} on the CPU; {count} \
             differ",
            shown(self.found),
            shown(self.expected)
        )
    }
}
