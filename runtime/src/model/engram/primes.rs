//! Primes, one for each column of the tables.

/// The first `count` primes that are at least `from`, ascending; fewer only if
/// they pass 2^64.
pub(super) fn primes_from(from: u64, count: usize) -> Vec<u64> {
    (from..=u64::MAX)
        .filter(|&n| is_prime(n))
        .take(count)
        .collect()
}

/// The test of Miller and Rabin. The first twelve primes as bases leave no
/// pseudoprime below 2^64 (Sorenson and Webster, Math. Comp. 86, 2017).
fn is_prime(n: u64) -> bool {
    const BASES: [u64; 12] = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37];
    for p in BASES {
        if n.is_multiple_of(p) {
            return n == p;
        }
    }
    if n < 2 {
        return false;
    }
    let twos = (n - 1).trailing_zeros();
    let odd = (n - 1) >> twos;
    BASES.iter().all(|&base| {
        let mut x = pow_mod(base, odd, n);
        if x == 1 {
            return true;
        }
        for _ in 1..twos {
            if x == n - 1 {
                return true;
            }
            x = mul_mod(x, x, n);
        }
        x == n - 1
    })
}

fn mul_mod(a: u64, b: u64, n: u64) -> u64 {
    (u128::from(a) * u128::from(b) % u128::from(n)) as u64
}

fn pow_mod(mut base: u64, mut exponent: u64, n: u64) -> u64 {
    let mut result = 1;
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = mul_mod(result, base, n);
        }
        base = mul_mod(base, base, n);
        exponent >>= 1;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_a_sieve() {
        const N: usize = 100_000;
        let mut composite = vec![false; N];
        for i in 2..N {
            for j in (2 * i..N).step_by(i) {
                composite[j] = true;
            }
        }
        for (n, &composite) in composite.iter().enumerate() {
            assert_eq!(is_prime(n as u64), n >= 2 && !composite, "{n}");
        }
    }

    #[test]
    fn strong_pseudoprimes_are_found_out() {
        // Each passes for the first primes as bases (OEIS A014233).
        for n in [
            2_047,
            1_373_653,
            25_326_001,
            3_215_031_751,
            2_152_302_898_747,
            3_474_749_660_383,
            341_550_071_728_321,
            3_825_123_056_546_413_051,
        ] {
            assert!(!is_prime(n), "{n}");
        }
    }

    #[test]
    fn large_numbers_do_not_overflow() {
        assert!(is_prime(18_446_744_073_709_551_557));
        assert_eq!(
            primes_from(18_446_744_073_709_551_557, 2),
            [18_446_744_073_709_551_557]
        );
        assert!(!is_prime(4_294_967_291 * 4_294_967_279));
    }

    #[test]
    fn starts_at_the_number_itself() {
        assert_eq!(primes_from(0, 4), [2, 3, 5, 7]);
        assert_eq!(primes_from(11, 3), [11, 13, 17]);
        assert_eq!(primes_from(16_000_000, 2), [16_000_057, 16_000_079]);
        assert!(primes_from(2, 0).is_empty());
    }
}
