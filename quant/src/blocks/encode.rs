//! The encoder of each type, block by block.

use super::{iq2_xxs, mxfp4, plain, q2_k, q3_k, q6_k, q8_0, q45_k};
use crate::{GgmlType, QuantError};

/// The largest magnitude that types with f16 scales take. Their blocks could
/// hold somewhat more, depending on the type; no weights come near.
const F16_SCALE_LIMIT: f32 = 65504.0;

/// Encodes block by block. A macro, since a function given another function
/// would not have it inlined, and so not compiled for the instruction set.
macro_rules! encode_blocks {
    ($src:ident, $importance:ident, $dst:ident, $encode:path) => {{
        let blocks = $dst.as_chunks_mut().0;
        for (i, (x, block)) in $src.as_chunks().0.iter().zip(blocks).enumerate() {
            let weights = $importance.map(|weights| &weights.as_chunks().0[i]);
            $encode(x, &block_weights(weights), block);
        }
    }};
}

/// Lengths, values and importance are checked before. Inlined, like all that
/// it calls, into one function per instruction set (see [`super::wide`]).
#[inline(always)]
pub(super) fn encode_any(
    ty: GgmlType,
    src: &[f32],
    importance: Option<&[f32]>,
    dst: &mut [u8],
) -> Result<(), QuantError> {
    let out_of_range = |index| QuantError::OutOfRange { ty, index };
    let has_f16_scale = !matches!(
        ty,
        GgmlType::F32 | GgmlType::F16 | GgmlType::BF16 | GgmlType::MXFP4
    );
    if has_f16_scale && let Some(index) = src.iter().position(|x| x.abs() > F16_SCALE_LIMIT) {
        return Err(out_of_range(index));
    }
    match ty {
        GgmlType::F32 => plain::encode_f32(src, dst),
        GgmlType::F16 => plain::encode_f16(src, dst).map_err(out_of_range)?,
        GgmlType::BF16 => plain::encode_bf16(src, dst).map_err(out_of_range)?,
        GgmlType::Q8_0 => encode_blocks!(src, importance, dst, q8_0::encode),
        GgmlType::Q2_K => encode_blocks!(src, importance, dst, q2_k::encode),
        GgmlType::Q3_K => encode_blocks!(src, importance, dst, q3_k::encode),
        GgmlType::Q4_K => encode_blocks!(src, importance, dst, q45_k::encode_q4),
        GgmlType::Q5_K => encode_blocks!(src, importance, dst, q45_k::encode_q5),
        GgmlType::Q6_K => encode_blocks!(src, importance, dst, q6_k::encode),
        GgmlType::IQ2_XXS => encode_blocks!(src, importance, dst, iq2_xxs::encode),
        GgmlType::MXFP4 => encode_blocks!(src, importance, dst, mxfp4::encode),
        _ => return Err(QuantError::CannotEncode(ty)),
    }
    Ok(())
}

/// The weights of one block, scaled so that the largest is 1 and no sum of
/// weighted squares can overflow or vanish.
#[inline(always)]
fn block_weights<const VALUES: usize>(importance: Option<&[f32; VALUES]>) -> [f32; VALUES] {
    let Some(importance) = importance else {
        return [1.0; VALUES];
    };
    let largest = importance.iter().copied().fold(0.0f32, f32::max);
    if largest == 0.0 {
        return [1.0; VALUES];
    }
    // The floor keeps values near where they were even if they count for nothing.
    importance.map(|w| (w / largest).max(1e-6))
}
