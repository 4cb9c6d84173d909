//! Maps token ids to rows.

use super::multipliers::multipliers;
use super::primes::primes_from;
use super::{EngramConfig, EngramError, TokenClasses};

/// Where the rows of one layer's table are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerAddressing {
    layer: u32,
    multipliers: Vec<u64>,
    primes: Vec<u64>,
    offsets: Vec<u64>,
    rows: u64,
}

impl LayerAddressing {
    fn new(layer: u32, multipliers: Vec<u64>, primes: Vec<u64>) -> Self {
        let mut rows = 0;
        let offsets = primes
            .iter()
            .map(|prime| {
                let offset = rows;
                rows += prime;
                offset
            })
            .collect();
        Self {
            layer,
            multipliers,
            primes,
            offsets,
            rows,
        }
    }

    /// The layer's id.
    #[must_use]
    pub fn layer(&self) -> u32 {
        self.layer
    }

    /// The hash's multipliers; the newest token has the first.
    #[must_use]
    pub fn multipliers(&self) -> &[u64] {
        &self.multipliers
    }

    /// Number of rows of each column: heads of the order 2, of 3 and so on.
    #[must_use]
    pub fn primes(&self) -> &[u64] {
        &self.primes
    }

    /// First row of each column.
    #[must_use]
    pub fn offsets(&self) -> &[u64] {
        &self.offsets
    }

    /// Rows of the table, which is what all primes add up to.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Appends the rows of the last of `classes`, of which there are as many as
    /// multipliers.
    fn push_rows(&self, classes: &[u32], rows: &mut Vec<u64>) {
        let heads = self.primes.len() / (self.multipliers.len() - 1);
        let mut hash = 0;
        let newest_first = classes.iter().rev().zip(&self.multipliers);
        for (back, (&class, multiplier)) in newest_first.enumerate() {
            hash ^= u64::from(class).wrapping_mul(*multiplier);
            // One token alone is not an n-gram.
            let Some(order) = back.checked_sub(1) else {
                continue;
            };
            let columns = order * heads..(order + 1) * heads;
            let primes = self.primes[columns.clone()].iter();
            let offsets = &self.offsets[columns];
            rows.extend(
                primes
                    .zip(offsets)
                    .map(|(prime, offset)| hash % prime + offset),
            );
        }
    }
}

/// Where the rows of all Engram tables of a model are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addressing {
    classes: TokenClasses,
    pad_class: u32,
    look_back: usize,
    layers: Vec<LayerAddressing>,
}

impl Addressing {
    /// Derives all constants.
    ///
    /// # Errors
    ///
    /// [`EngramError::Config`] for sizes that no model has;
    /// [`EngramError::UnknownId`] if the padding token is beyond the vocabulary.
    pub fn new(config: &EngramConfig, classes: TokenClasses) -> Result<Self, EngramError> {
        config.check()?;
        let pad_class = classes.class(config.pad_id)?;
        let columns = config.columns();
        // Primes are never used twice, in no other layer either.
        let primes = primes_from(config.vocab_size, columns * config.layer_ids.len());
        let layers = config
            .layer_ids
            .iter()
            .zip(primes.chunks_exact(columns))
            .map(|(&layer, primes)| {
                let multipliers = multipliers(layer, classes.count(), config.max_ngram);
                LayerAddressing::new(layer, multipliers, primes.to_vec())
            })
            .collect();
        Ok(Self {
            classes,
            pad_class,
            look_back: config.max_ngram - 1,
            layers,
        })
    }

    /// The token classes.
    #[must_use]
    pub fn classes(&self) -> &TokenClasses {
        &self.classes
    }

    /// The class that stands before the start of a sequence.
    #[must_use]
    pub fn pad_class(&self) -> u32 {
        self.pad_class
    }

    /// The tables, by ascending layer.
    #[must_use]
    pub fn layers(&self) -> &[LayerAddressing] {
        &self.layers
    }

    /// Rows per token and layer.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.layers[0].primes.len()
    }

    /// Tokens before a token that its rows depend on.
    #[must_use]
    pub fn look_back(&self) -> usize {
        self.look_back
    }

    /// The rows of `ids`, for each layer `[ids.len()][columns]`.
    ///
    /// `previous` is what precedes `ids` in the sequence, of which only the last
    /// [`look_back`](Self::look_back) tokens matter. Fewer than these mean that
    /// the sequence starts there. So a sequence may be hashed in any pieces, with
    /// the same rows.
    ///
    /// # Errors
    ///
    /// [`EngramError::UnknownId`] for an id beyond the vocabulary.
    pub fn rows(&self, previous: &[u32], ids: &[u32]) -> Result<Vec<Vec<u64>>, EngramError> {
        let known = &previous[previous.len().saturating_sub(self.look_back)..];
        let mut classes = vec![self.pad_class; self.look_back - known.len()];
        classes.reserve(known.len() + ids.len());
        for &id in known.iter().chain(ids) {
            classes.push(self.classes.class(id)?);
        }
        let rows_of = |layer: &LayerAddressing| {
            let mut rows = Vec::with_capacity(ids.len() * layer.primes.len());
            for ngram in classes.windows(self.look_back + 1) {
                layer.push_rows(ngram, &mut rows);
            }
            rows
        };
        Ok(self.layers.iter().map(rows_of).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Addressing {
        let config = EngramConfig {
            layer_ids: vec![0, 5, 6],
            max_ngram: 3,
            heads: 2,
            vocab_size: 10,
            pad_id: 1,
        };
        let classes = TokenClasses::from_map(vec![0, 1, 2, 0, 3]);
        Addressing::new(&config, classes).unwrap()
    }

    #[test]
    fn primes_are_never_reused_and_add_up() {
        let a = small();
        let layers = a.layers();
        assert_eq!(layers[0].primes(), [11, 13, 17, 19]);
        assert_eq!(layers[1].primes(), [23, 29, 31, 37]);
        assert_eq!(layers[2].primes(), [41, 43, 47, 53]);
        assert_eq!(layers[1].offsets(), [0, 23, 52, 83]);
        assert_eq!(layers[1].rows(), 120);
        assert_eq!((a.columns(), a.look_back(), a.pad_class()), (4, 2, 1));
    }

    /// The chain written out for one token.
    #[test]
    fn a_row_is_the_hash_of_its_ngram() {
        let a = small();
        let rows = a.rows(&[4, 2], &[3]).unwrap();
        for (layer, rows) in a.layers().iter().zip(rows) {
            let m = layer.multipliers();
            let two = 2 * m[1]; // class 0 of the token 3 adds nothing
            let three = two ^ (3 * m[2]);
            let p = layer.primes();
            let expected = [two % p[0], two % p[1], three % p[2], three % p[3]];
            let expected: Vec<u64> = expected
                .iter()
                .zip(layer.offsets())
                .map(|(row, offset)| row + offset)
                .collect();
            assert_eq!(rows, expected);
        }
    }

    #[test]
    fn the_pad_class_stands_before_the_start() {
        let a = small();
        assert_eq!(a.rows(&[], &[4]).unwrap(), a.rows(&[1, 1], &[4]).unwrap());
        assert_eq!(a.rows(&[2], &[4]).unwrap(), a.rows(&[1, 2], &[4]).unwrap());
        assert_ne!(a.rows(&[], &[4]).unwrap(), a.rows(&[2, 1], &[4]).unwrap());
        assert_ne!(a.rows(&[], &[4]).unwrap(), a.rows(&[1, 2], &[4]).unwrap());
        assert!(a.rows(&[4], &[]).unwrap().iter().all(Vec::is_empty));
    }

    #[test]
    fn ids_beyond_the_vocabulary_are_named() {
        let a = small();
        let unknown = Err(EngramError::UnknownId {
            id: 5,
            vocab_size: 5,
        });
        assert_eq!(a.rows(&[], &[0, 5]), unknown);
        assert_eq!(a.rows(&[5, 0], &[0]), unknown);
    }

    #[test]
    fn a_pad_token_without_a_class_is_refused() {
        let config = EngramConfig {
            layer_ids: vec![1],
            max_ngram: 2,
            heads: 1,
            vocab_size: 10,
            pad_id: 7,
        };
        let classes = TokenClasses::from_map(vec![0; 7]);
        assert!(matches!(
            Addressing::new(&config, classes),
            Err(EngramError::UnknownId { id: 7, .. })
        ));
    }
}
