//! Code shared by the encoders' scale searches.
//!
//! Sums run in eight lanes that are added as a tree, an order that vector
//! instructions of any width reproduce, so that every machine chooses the same
//! codes.

/// Below half the smallest f16 no scale can reach a value: it becomes zero.
pub const SMALLEST: f32 = 1.0 / (1u32 << 25) as f32;

/// Sums terms in a fixed order; `N` is a multiple of 8.
#[inline(always)]
pub fn sum<const N: usize>(terms: [f32; N]) -> f32 {
    let mut lanes = [0.0f32; 8];
    for terms in terms.as_chunks::<8>().0 {
        for (lane, term) in lanes.iter_mut().zip(terms) {
            *lane += term;
        }
    }
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// The nearest integer in `low..=high`, ties to even; `x` is not NaN and the
/// bounds are below 2^22 in magnitude.
#[inline(always)]
pub fn nearest(x: f32, low: f32, high: f32) -> f32 {
    // Adding 1.5 * 2^23 leaves no bits after the point. `f32::round` would be
    // a library call on CPUs without SSE 4.1.
    const SHIFT: f32 = 12_582_912.0;
    let x = if x < low { low } else { x };
    let x = if x > high { high } else { x };
    (x + SHIFT) - SHIFT
}

/// 1 / x, or 0 for 0.
#[inline(always)]
pub fn inverse(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

/// The array of `f(0)`, `f(1)`, ... (`std::array::from_fn` is not always inlined).
#[inline(always)]
pub fn each<const N: usize>(f: impl Fn(usize) -> f32) -> [f32; N] {
    let mut out = [0.0; N];
    for (i, x) in out.iter_mut().enumerate() {
        *x = f(i);
    }
    out
}
