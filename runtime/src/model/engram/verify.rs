//! Compares stored constants with derived ones.

use super::{Addressing, Constant, EngramError};

/// The constants that a file states, `None` where it does not. Arrays over all
/// layers are flat: layers, then orders, then heads.
#[derive(Debug, Clone, Copy, Default)]
pub struct StoredConstants<'a> {
    /// Number of token classes.
    pub class_count: Option<u64>,
    /// Class of each token id.
    pub token_map: Option<&'a [u64]>,
    /// Prime of each column.
    pub primes: Option<&'a [u64]>,
    /// First row of each column.
    pub offsets: Option<&'a [u64]>,
    /// Multipliers of each layer.
    pub multipliers: Option<&'a [u64]>,
    /// Rows of each layer's table.
    pub rows: Option<&'a [u64]>,
}

impl Addressing {
    /// Compares a file's constants with those derived.
    ///
    /// # Errors
    ///
    /// [`EngramError::Length`] or [`EngramError::Mismatch`] naming the first
    /// constant that differs.
    pub fn verify(&self, stored: &StoredConstants<'_>) -> Result<(), EngramError> {
        use Constant::{ClassCount, Multipliers, Offsets, Primes, Rows, TokenMap};
        let count = stored.class_count.as_ref().map(std::slice::from_ref);
        compare(ClassCount, count, &[self.classes().count().into()])?;
        let map = self.classes().as_slice().iter().map(|&c| c.into());
        compare(TokenMap, stored.token_map, &map.collect::<Vec<_>>())?;
        let flat = |of: fn(&super::LayerAddressing) -> &[u64]| {
            let all = self.layers().iter().flat_map(of);
            all.copied().collect::<Vec<_>>()
        };
        compare(Primes, stored.primes, &flat(|l| l.primes()))?;
        compare(Offsets, stored.offsets, &flat(|l| l.offsets()))?;
        compare(Multipliers, stored.multipliers, &flat(|l| l.multipliers()))?;
        let rows: Vec<u64> = self.layers().iter().map(|l| l.rows()).collect();
        compare(Rows, stored.rows, &rows)
    }
}

fn compare(constant: Constant, stored: Option<&[u64]>, derived: &[u64]) -> Result<(), EngramError> {
    let Some(stored) = stored else {
        return Ok(());
    };
    if stored.len() != derived.len() {
        return Err(EngramError::Length {
            constant,
            stored: stored.len(),
            derived: derived.len(),
        });
    }
    match stored.iter().zip(derived).position(|(s, d)| s != d) {
        Some(index) => Err(EngramError::Mismatch {
            constant,
            index,
            stored: stored[index],
            derived: derived[index],
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::engram::{EngramConfig, TokenClasses};

    fn addressing() -> Addressing {
        let config = EngramConfig {
            layer_ids: vec![1, 3],
            max_ngram: 3,
            heads: 2,
            vocab_size: 100,
            pad_id: 0,
        };
        Addressing::new(&config, TokenClasses::from_map(vec![0, 1, 0, 2])).unwrap()
    }

    /// Constants as a file would have them.
    struct Owned([Vec<u64>; 6]);

    const ORDER: [Constant; 6] = [
        Constant::ClassCount,
        Constant::TokenMap,
        Constant::Primes,
        Constant::Offsets,
        Constant::Multipliers,
        Constant::Rows,
    ];

    impl Owned {
        fn of(a: &Addressing) -> Self {
            let join = |of: fn(&super::super::LayerAddressing) -> &[u64]| {
                a.layers().iter().map(of).collect::<Vec<_>>().concat()
            };
            Self([
                vec![3],
                vec![0, 1, 0, 2],
                join(|l| l.primes()),
                join(|l| l.offsets()),
                join(|l| l.multipliers()),
                a.layers().iter().map(|l| l.rows()).collect(),
            ])
        }

        fn stored(&self) -> StoredConstants<'_> {
            let [count, map, primes, offsets, multipliers, rows] = &self.0;
            StoredConstants {
                class_count: Some(count[0]),
                token_map: Some(map),
                primes: Some(primes),
                offsets: Some(offsets),
                multipliers: Some(multipliers),
                rows: Some(rows),
            }
        }
    }

    #[test]
    fn equal_or_absent_constants_pass() {
        let a = addressing();
        a.verify(&Owned::of(&a).stored()).unwrap();
        a.verify(&StoredConstants::default()).unwrap();
    }

    #[test]
    fn any_entry_that_differs_is_named() {
        let a = addressing();
        for (which, constant) in ORDER.into_iter().enumerate() {
            for entry in 0..Owned::of(&a).0[which].len() {
                let mut owned = Owned::of(&a);
                owned.0[which][entry] ^= 1 << 40;
                let stored = owned.0[which][entry];
                let expected = EngramError::Mismatch {
                    constant,
                    index: entry,
                    stored,
                    derived: stored ^ 1 << 40,
                };
                assert_eq!(a.verify(&owned.stored()), Err(expected));
            }
        }
    }

    #[test]
    fn missing_and_surplus_entries_are_named() {
        let a = addressing();
        for (which, constant) in ORDER.into_iter().enumerate().skip(1) {
            let derived = Owned::of(&a).0[which].len();
            for stored in [derived - 1, derived + 1] {
                let mut owned = Owned::of(&a);
                owned.0[which].resize(stored, 0);
                let expected = EngramError::Length {
                    constant,
                    stored,
                    derived,
                };
                assert_eq!(a.verify(&owned.stored()), Err(expected));
            }
        }
    }

    #[test]
    fn messages_say_which_constant() {
        let a = addressing();
        let mut owned = Owned::of(&a);
        owned.0[2][5] = 8;
        let message = a.verify(&owned.stored()).unwrap_err().to_string();
        assert!(
            message.starts_with(
                "Engram primes: entry 5 is 8, but tokenizer and configuration yield 127"
            ),
            "{message}"
        );
    }
}
