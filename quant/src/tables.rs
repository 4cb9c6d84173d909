//! Constant tables of the ggml formats, expanded at compile time.

use crate::{GgmlType, grids};

/// Twice the values of the e2m1 codes: the integers that MXFP4 and NVFP4
/// multiply with half their scale.
pub const E2M1_DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// The 16 levels of IQ4_NL and IQ4_XS.
pub const IQ4_LEVELS: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

/// Levels of the IQ2 codebooks.
const IQ2_LEVELS: [u8; 3] = [8, 25, 43];

/// Codebook of IQ2_XXS: magnitudes of 8 values.
pub static IQ2_XXS_GRID: [[u8; 8]; 256] = expand(&grids::IQ2_XXS, IQ2_LEVELS);
/// Codebook of IQ2_XS.
pub static IQ2_XS_GRID: [[u8; 8]; 512] = expand(&grids::IQ2_XS, IQ2_LEVELS);
/// Codebook of IQ2_S.
pub static IQ2_S_GRID: [[u8; 8]; 1024] = expand(&grids::IQ2_S, IQ2_LEVELS);
/// Codebook of IQ3_XXS: magnitudes of 4 values.
pub static IQ3_XXS_GRID: [[u8; 4]; 256] = expand(&grids::IQ3_XXS, [4, 12, 20, 28, 36, 44, 52, 62]);
/// Codebook of IQ3_S.
pub static IQ3_S_GRID: [[u8; 4]; 512] = expand(&grids::IQ3_S, [1, 3, 5, 7, 9, 11, 13, 15]);
/// Codebook of IQ1_S and IQ1_M: 8 values, each plus one (0, 1, 2).
pub static IQ1_GRID: [[u8; 8]; 2048] = expand(&grids::IQ1, [0, 1, 2]);

/// The codebook of a type as bytes: entries of eight magnitudes, or of four with IQ3 types; for
/// IQ1 types values plus one. Empty if the type has none. For code that multiplies elsewhere than
/// on this machine's CPU.
#[must_use]
pub fn codebook(ty: GgmlType) -> &'static [u8] {
    match ty {
        GgmlType::IQ1_S | GgmlType::IQ1_M => IQ1_GRID.as_flattened(),
        GgmlType::IQ2_XXS => IQ2_XXS_GRID.as_flattened(),
        GgmlType::IQ2_XS => IQ2_XS_GRID.as_flattened(),
        GgmlType::IQ2_S => IQ2_S_GRID.as_flattened(),
        GgmlType::IQ3_XXS => IQ3_XXS_GRID.as_flattened(),
        GgmlType::IQ3_S => IQ3_S_GRID.as_flattened(),
        _ => &[],
    }
}

const fn expand<const LEVELS: usize, const DIGITS: usize, const ENTRIES: usize>(
    packed: &[u16; ENTRIES],
    levels: [u8; LEVELS],
) -> [[u8; DIGITS]; ENTRIES] {
    let mut grid = [[0; DIGITS]; ENTRIES];
    let mut entry = 0;
    while entry < ENTRIES {
        let mut rest = packed[entry] as usize;
        let mut digit = 0;
        while digit < DIGITS {
            grid[entry][digit] = levels[rest % LEVELS];
            rest /= LEVELS;
            digit += 1;
        }
        entry += 1;
    }
    grid
}

/// The signs of 8 values (bit set: negative) for a 7-bit sign index: the
/// eighth sign makes the number of negative values even.
#[inline(always)]
pub const fn even_signs(index: u32) -> u8 {
    let seven = index as u8 & 127;
    seven | ((seven.count_ones() as u8 & 1) << 7)
}
