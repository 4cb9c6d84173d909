//! Errors of Engram addressing.

use std::fmt;

/// A stored constant that can be derived again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Constant {
    /// Number of token classes.
    ClassCount,
    /// Class of each token id.
    TokenMap,
    /// Primes of all layers' columns.
    Primes,
    /// First rows of all layers' columns.
    Offsets,
    /// Hash multipliers of all layers.
    Multipliers,
    /// Rows of the layers' tables.
    Rows,
}

impl fmt::Display for Constant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClassCount => "class count",
            Self::TokenMap => "token classes",
            Self::Primes => "primes",
            Self::Offsets => "offsets",
            Self::Multipliers => "multipliers",
            Self::Rows => "row counts",
        })
    }
}

/// Why Engram rows cannot be addressed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EngramError {
    /// A number of the configuration is outside what any model has.
    #[error("the Engram {what} is {value}; it must be from {min} to {max}")]
    Config {
        /// The number's name.
        what: &'static str,
        /// What it is.
        value: u64,
        /// Least value accepted.
        min: u64,
        /// Largest value accepted.
        max: u64,
    },
    /// An id beyond the tokenizer's vocabulary.
    #[error("token id {id} has no Engram class; the tokenizer has {vocab_size} ids")]
    UnknownId {
        /// The id.
        id: u32,
        /// Number of ids with a class.
        vocab_size: usize,
    },
    /// A stored constant has another number of entries than the derived one.
    #[error(
        "Engram {constant}: {stored} entries, but tokenizer and configuration yield {derived}; the \
         file is damaged or mixes two models, convert the checkpoint again"
    )]
    Length {
        /// Which constant.
        constant: Constant,
        /// Entries stored.
        stored: usize,
        /// Entries derived.
        derived: usize,
    },
    /// A stored constant has another value than the derived one.
    #[error(
        "Engram {constant}: entry {index} is {stored}, but tokenizer and configuration yield \
         {derived}; the file is damaged or mixes two models, convert the checkpoint again"
    )]
    Mismatch {
        /// Which constant.
        constant: Constant,
        /// First entry that differs; layers, then orders, then heads.
        index: usize,
        /// Value stored.
        stored: u64,
        /// Value derived.
        derived: u64,
    },
    /// The library that normalises text failed.
    #[error("Engram token classes: {0}")]
    Library(String),
}
