//! Which rows of the Engram table a token selects, from the constants in the file.

use v4_files::gguf::{GgufFile, Value};

/// The hash's constants. `ple.*` of the file, for all layers with a table.
pub struct Addresses {
    token_map: Vec<u64>,
    pad: usize,
    ngram: usize,
    multipliers: Vec<u64>,
    primes: Vec<u64>,
    offsets: Vec<u64>,
    layers: usize,
}

impl Addresses {
    pub fn read(file: &GgufFile) -> Self {
        let key = |name: &str| file.metadata().get(&format!("deepseek41.{name}")).unwrap();
        let integer = |value: &Value| u64::try_from(value.as_integer().unwrap()).unwrap();
        let one = |name: &str| integer(key(name)) as usize;
        let all = |name: &str| match key(name) {
            Value::Array(values) => values.iter().map(|v| integer(&v)).collect::<Vec<u64>>(),
            other => panic!("{name} is {other:?}"),
        };
        Self {
            token_map: all("engram.token_map"),
            pad: one("engram.pad_token_id"),
            ngram: one("ple.ngram_size"),
            multipliers: all("ple.layer_multipliers"),
            primes: all("ple.head_vocab_sizes"),
            offsets: all("ple.head_offsets"),
            layers: all("ple.layers").len(),
        }
    }

    /// The rows of the last of `tokens`, for the table of this number.
    pub fn rows(&self, table: usize, tokens: &[u32]) -> Vec<usize> {
        let columns = self.primes.len() / self.layers;
        let heads = columns / (self.ngram - 1);
        let multipliers = &self.multipliers[table * self.ngram..][..self.ngram];
        let class = |back: usize| {
            let token = tokens.len().checked_sub(back + 1);
            self.token_map[token.map_or(self.pad, |at| tokens[at] as usize)]
        };
        let row = |column: usize| {
            let n = 2 + column / heads;
            let hash = (0..n).fold(0, |hash, back| hash ^ (class(back) * multipliers[back]));
            let column = table * columns + column;
            (hash % self.primes[column] + self.offsets[column]) as usize
        };
        (0..columns).map(row).collect()
    }
}
