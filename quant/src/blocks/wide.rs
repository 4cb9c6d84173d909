//! The encoders once more, compiled for AVX2. The source is the same and Rust
//! neither reorders nor fuses float operations, so the bytes are too.

#![allow(unsafe_code)]

use super::encode::encode_any;
use crate::{GgmlType, QuantError};

/// Encodes with the widest instructions that this CPU has.
pub fn encode(
    ty: GgmlType,
    src: &[f32],
    importance: Option<&[f32]>,
    dst: &mut [u8],
) -> Result<(), QuantError> {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has AVX2.
        return unsafe { encode_avx2(ty, src, importance, dst) };
    }
    encode_any(ty, src, importance, dst)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn encode_avx2(
    ty: GgmlType,
    src: &[f32],
    importance: Option<&[f32]>,
    dst: &mut [u8],
) -> Result<(), QuantError> {
    encode_any(ty, src, importance, dst)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::can_encode;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn wide_encoders_write_the_same_bytes(
            x in prop::collection::vec(-1.0f32..1.0, 512),
            weights in prop::option::of(prop::collection::vec(0.0f32..1.0, 512)),
            exponent in -20..10i32,
        ) {
            let x: Vec<f32> = x.iter().map(|x| x * x * x * 2f32.powi(exponent)).collect();
            for &ty in GgmlType::ALL.iter().filter(|&&ty| can_encode(ty)) {
                let mut plain = vec![0; ty.row_bytes(x.len()).unwrap()];
                let mut wide = plain.clone();
                encode_any(ty, &x, weights.as_deref(), &mut plain).unwrap();
                encode(ty, &x, weights.as_deref(), &mut wide).unwrap();
                prop_assert!(plain == wide, "{} differs", ty);
            }
        }
    }
}
