//! The ggml block formats: rows of bytes to float32 and back.
//!
//! Layouts are those of `spec/gguf.md` section 7; golden vectors in
//! `tests/data` hold the decoders to them bit by bit.

mod affine;
mod encode;
mod iq2_xxs;
mod iq_decode;
mod legacy;
mod mxfp4;
mod plain;
mod q2_k;
mod q3_k;
mod q45_k;
mod q6_k;
mod q8_0;
mod scale;
mod search;
mod symmetric;
mod wide;

use self::encode::encode_any;
use crate::{GgmlType, QuantError};

/// Whether [`decode_row`] knows the type.
#[must_use]
pub fn can_decode(ty: GgmlType) -> bool {
    decode_any(ty, &[], &mut []).is_ok()
}

/// Whether [`encode_row`] knows the type.
#[must_use]
pub fn can_encode(ty: GgmlType) -> bool {
    encode_any(ty, &[], None, &mut []).is_ok()
}

/// Decodes one row of `dst.len()` values.
///
/// The result is the same on every machine. Any bytes decode to something:
/// NaN and infinite scales give values that are not finite.
///
/// # Errors
/// [`QuantError::CannotDecode`] for types of integers, [`QuantError::RowLength`]
/// and [`QuantError::BufferSize`] if the lengths do not fit.
pub fn decode_row(ty: GgmlType, src: &[u8], dst: &mut [f32]) -> Result<(), QuantError> {
    check_sizes(ty, dst.len(), src.len())?;
    decode_any(ty, src, dst)
}

/// Encodes one row of values, each block by itself: a row's bytes depend on
/// the row alone and are the same on every machine.
///
/// `importance` weighs the squared error of each value (all alike if absent,
/// or if all weights of a block are zero); the encoders minimise that sum.
///
/// # Errors
/// [`QuantError::CannotEncode`] for types that are only read;
/// [`QuantError::RowLength`], [`QuantError::BufferSize`] and
/// [`QuantError::ImportanceLength`] if lengths do not fit;
/// [`QuantError::NotFinite`], [`QuantError::OutOfRange`] and
/// [`QuantError::BadImportance`] for values that cannot be encoded.
pub fn encode_row(
    ty: GgmlType,
    src: &[f32],
    importance: Option<&[f32]>,
    dst: &mut [u8],
) -> Result<(), QuantError> {
    check_sizes(ty, src.len(), dst.len())?;
    QuantError::check_finite(src)?;
    if let Some(importance) = importance {
        if importance.len() != src.len() {
            return Err(QuantError::ImportanceLength {
                expected: src.len(),
                actual: importance.len(),
            });
        }
        let good = |&w: &f32| w >= 0.0 && w.is_finite();
        if let Some(index) = importance.iter().position(|w| !good(w)) {
            return Err(QuantError::BadImportance { index });
        }
    }
    wide::encode(ty, src, importance, dst)
}

fn check_sizes(ty: GgmlType, values: usize, actual: usize) -> Result<(), QuantError> {
    let expected = ty.row_bytes(values)?;
    if actual == expected {
        return Ok(());
    }
    Err(QuantError::BufferSize {
        ty,
        values,
        expected,
        actual,
    })
}

/// Lengths are checked before.
fn decode_any(ty: GgmlType, src: &[u8], dst: &mut [f32]) -> Result<(), QuantError> {
    match ty {
        GgmlType::F32 => plain::decode_f32(src, dst),
        GgmlType::F16 => plain::decode_f16(src, dst),
        GgmlType::BF16 => plain::decode_bf16(src, dst),
        GgmlType::Q4_0 => decode_blocks(src, dst, legacy::q4_0),
        GgmlType::Q4_1 => decode_blocks(src, dst, legacy::q4_1),
        GgmlType::Q5_0 => decode_blocks(src, dst, legacy::q5_0),
        GgmlType::Q5_1 => decode_blocks(src, dst, legacy::q5_1),
        GgmlType::Q8_0 => decode_blocks(src, dst, q8_0::decode),
        GgmlType::Q2_K => decode_blocks(src, dst, q2_k::decode),
        GgmlType::Q3_K => decode_blocks(src, dst, q3_k::decode),
        GgmlType::Q4_K => decode_blocks(src, dst, q45_k::decode_q4),
        GgmlType::Q5_K => decode_blocks(src, dst, q45_k::decode_q5),
        GgmlType::Q6_K => decode_blocks(src, dst, q6_k::decode),
        GgmlType::IQ2_XXS => decode_blocks(src, dst, iq2_xxs::decode),
        GgmlType::MXFP4 => decode_blocks(src, dst, mxfp4::decode),
        GgmlType::IQ2_XS => decode_blocks(src, dst, iq_decode::iq2_xs),
        GgmlType::IQ2_S => decode_blocks(src, dst, iq_decode::iq2_s),
        GgmlType::IQ3_XXS => decode_blocks(src, dst, iq_decode::iq3_xxs),
        GgmlType::IQ3_S => decode_blocks(src, dst, iq_decode::iq3_s),
        GgmlType::IQ4_NL => decode_blocks(src, dst, iq_decode::iq4_nl),
        GgmlType::IQ4_XS => decode_blocks(src, dst, iq_decode::iq4_xs),
        GgmlType::IQ1_S => decode_blocks(src, dst, iq_decode::iq1_s),
        GgmlType::IQ1_M => decode_blocks(src, dst, iq_decode::iq1_m),
        GgmlType::NVFP4 => decode_blocks(src, dst, iq_decode::nvfp4),
        _ => return Err(QuantError::CannotDecode(ty)),
    }
    Ok(())
}

#[inline(always)]
fn decode_blocks<const BYTES: usize, const VALUES: usize>(
    src: &[u8],
    dst: &mut [f32],
    decode: impl Fn(&[u8; BYTES], &mut [f32; VALUES]),
) {
    let (src, dst) = (src.as_chunks().0, dst.as_chunks_mut().0);
    for (block, values) in src.iter().zip(dst) {
        decode(block, values);
    }
}
