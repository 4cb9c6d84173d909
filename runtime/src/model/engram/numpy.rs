//! The numbers that NumPy's `default_rng(seed).integers(0, bound)` draws.
//!
//! `default_rng` is the generator PCG64 (O'Neill 2014, variant XSL-RR 128/64),
//! seeded through `SeedSequence`; both are covered by NumPy's promise that a bit
//! generator's stream stays as it is. How `integers` uses the stream is not: this
//! is the way of NumPy 2.4.6, which the published multipliers agree with.

/// NumPy's default generator.
#[derive(Debug, Clone)]
pub(super) struct Generator {
    state: u128,
    increment: u128,
    /// High half of the last 64 bits, if only the low half was asked for.
    half: Option<u32>,
}

impl Generator {
    const MULTIPLIER: u128 = 0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645;

    /// `default_rng(seed)`.
    pub fn new(seed: u64) -> Self {
        let [a, b, c, d] = seed_words(seed);
        let wide = |high, low| u128::from(high) << 64 | u128::from(low);
        let mut generator = Self {
            state: 0,
            increment: wide(c, d) << 1 | 1,
            half: None,
        };
        generator.step();
        generator.state = generator.state.wrapping_add(wide(a, b));
        generator.step();
        generator
    }

    /// `integers(0, bound)` for one value of 64 bits, by Lemire's method: the high
    /// half of a product with the bound, unless its low half is among those few
    /// that would favour some values. `bound` is 1 to 2^63.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound <= 1 {
            return 0;
        }
        if bound <= 1 << 32 {
            return self.below_32(bound);
        }
        let mut product = u128::from(self.next_64()) * u128::from(bound);
        if (product as u64) < bound {
            let threshold = bound.wrapping_neg() % bound;
            while (product as u64) < threshold {
                product = u128::from(self.next_64()) * u128::from(bound);
            }
        }
        (product >> 64) as u64
    }

    /// `below` with half the bits; `bound` is 2 to 2^32.
    fn below_32(&mut self, bound: u64) -> u64 {
        let threshold = (1_u64 << 32) % bound;
        loop {
            let product = u64::from(self.next_32()) * bound;
            if (product & 0xffff_ffff) >= threshold {
                return product >> 32;
            }
        }
    }

    fn step(&mut self) {
        self.state = self
            .state
            .wrapping_mul(Self::MULTIPLIER)
            .wrapping_add(self.increment);
    }

    fn next_64(&mut self) -> u64 {
        self.step();
        let folded = (self.state >> 64) as u64 ^ self.state as u64;
        folded.rotate_right((self.state >> 122) as u32)
    }

    fn next_32(&mut self) -> u32 {
        if let Some(half) = self.half.take() {
            return half;
        }
        let both = self.next_64();
        self.half = Some((both >> 32) as u32);
        both as u32
    }
}

/// `SeedSequence(seed).generate_state(4, uint64)`.
fn seed_words(seed: u64) -> [u64; 4] {
    // Absent words of the seed count as zeros, so it may always have four.
    let mut pool = [seed as u32, (seed >> 32) as u32, 0, 0];
    let mut hash = Hash {
        constant: 0x43b0_d7e5,
        multiplier: 0x931e_8875,
    };
    for word in &mut pool {
        *word = hash.mix(*word);
    }
    for from in 0..4 {
        for to in 0..4 {
            if from != to {
                let x = pool[to].wrapping_mul(0xca01_f9dd);
                let y = hash.mix(pool[from]).wrapping_mul(0x4973_f715);
                pool[to] = fold(x.wrapping_sub(y));
            }
        }
    }
    let mut hash = Hash {
        constant: 0x8b51_f9dd,
        multiplier: 0x58f3_8ded,
    };
    std::array::from_fn(|i| {
        let low = hash.mix(pool[2 * i % 4]);
        let high = hash.mix(pool[(2 * i + 1) % 4]);
        u64::from(high) << 32 | u64::from(low)
    })
}

/// A multiplicative hash whose constant changes with each word.
struct Hash {
    constant: u32,
    multiplier: u32,
}

impl Hash {
    fn mix(&mut self, word: u32) -> u32 {
        let word = word ^ self.constant;
        self.constant = self.constant.wrapping_mul(self.multiplier);
        fold(word.wrapping_mul(self.constant))
    }
}

fn fold(word: u32) -> u32 {
    word ^ word >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with NumPy 2.4.6: `SeedSequence(seed).generate_state(4, "uint64")`.
    #[test]
    fn seeds_are_spread_as_by_numpy() {
        let cases: [(u64, [u64; 4]); 5] = [
            (
                0,
                [
                    15793235383387715774,
                    12390638538380655177,
                    2361836109651742017,
                    3188717715514472916,
                ],
            ),
            (
                1,
                [
                    7434755675892716031,
                    10007452063617845036,
                    5266248848659119178,
                    15045448681910192573,
                ],
            ),
            (
                10007,
                [
                    8634291315755388167,
                    11042498673593962405,
                    15418481100450270793,
                    9041516862649747678,
                ],
            ),
            (
                4294967296,
                [
                    5836529245451711556,
                    8811601478698894690,
                    4323349454413245209,
                    13668837544996263139,
                ],
            ),
            (
                18446744073709551615,
                [
                    12591116029944179981,
                    1268942265879420026,
                    1998214320288580263,
                    12063755697402456310,
                ],
            ),
        ];
        for (seed, expected) in cases {
            assert_eq!(seed_words(seed), expected, "{seed}");
        }
    }

    /// Made with NumPy 2.4.6: `default_rng(seed).integers(0, bound, n)`. The bounds
    /// are around 2^32, where 32 bits begin to suffice, and some turn a quarter of
    /// the draws down (3 * 2^30, 3 * 2^61).
    #[test]
    fn bounded_integers_are_those_of_numpy() {
        let cases: [(u64, u64, &[u64]); 12] = [
            (0, 10, &[8, 6, 5, 2, 3, 0, 0, 0]),
            (7, 2, &[1, 1, 1, 1, 1]),
            (
                10007,
                46539438283891,
                &[
                    38316048023122,
                    2419938046656,
                    17979836159674,
                    36993668729195,
                ],
            ),
            (
                140098,
                46539438283891,
                &[
                    33858405369630,
                    25755403400457,
                    15460673601360,
                    41309613242795,
                ],
            ),
            (
                1,
                4294967296,
                &[2032329983, 2198257139, 3243419750, 4082210491],
            ),
            (
                1,
                4294967295,
                &[2032329982, 2198257138, 3243419749, 4082210490],
            ),
            (
                1,
                4294967297,
                &[2198257139, 4082210492, 619160822, 4074418351],
            ),
            (
                12345678901234567890,
                4611686018427387905,
                &[
                    3008405693015582887,
                    2803354013900328387,
                    4539305799131138921,
                    2577182942897686599,
                    46674946891287533,
                    2933064040797347275,
                ],
            ),
            (
                7,
                9223372036854775807,
                &[
                    5765488047046174020,
                    8275336682942969161,
                    7154437704795913392,
                    2077169698657866656,
                    2768545318656780450,
                    8057108420966028185,
                ],
            ),
            (
                4294967296,
                3221225472,
                &[
                    1681985691, 2866049257, 975859534, 736670500, 2871013501, 188812646, 204100381,
                    761499941,
                ],
            ),
            (4294967295, 1, &[0, 0, 0]),
            (
                99,
                6917529027641081856,
                &[
                    3500481880065316089,
                    3909037766146263662,
                    3541193510882511171,
                    6725127449529328718,
                    3931117592615139549,
                    3835849074008683142,
                    3234107559103465097,
                    6436362986249961071,
                ],
            ),
        ];
        for (seed, bound, expected) in cases {
            let mut generator = Generator::new(seed);
            let drawn: Vec<u64> = expected.iter().map(|_| generator.below(bound)).collect();
            assert_eq!(drawn, expected, "default_rng({seed}), {bound}");
        }
    }
}
