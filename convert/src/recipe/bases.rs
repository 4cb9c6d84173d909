//! The built-in recipes.

use v4_quant::GgmlType;

use super::ENGRAM_FP8;

/// Types of a built-in recipe.
#[derive(Debug, Clone, Copy)]
pub(super) struct Base {
    pub name: &'static str,
    about: &'static str,
    /// Gate and up of the experts; they are computed together and share a type.
    pub gate_up: GgmlType,
    pub down: GgmlType,
    /// Matrices published in FP8.
    pub dense: GgmlType,
    /// Engram tables published in FP8.
    pub engram: GgmlType,
    /// Whether experts that are quantised already are encoded anew.
    pub requantises: bool,
}

pub(super) const BASES: &[Base] = &[
    Base {
        name: "native",
        about: "experts MXFP4 (bit for bit as published), what is FP8 as Q8_0, the rest BF16 and F32",
        gate_up: GgmlType::MXFP4,
        down: GgmlType::MXFP4,
        dense: GgmlType::Q8_0,
        engram: GgmlType::Q8_0,
        requantises: false,
    },
    Base {
        name: "lossless",
        about: "as native, but FP8 matrices BF16 and Engram rows as published: every value is kept exactly",
        gate_up: GgmlType::MXFP4,
        down: GgmlType::MXFP4,
        dense: GgmlType::BF16,
        engram: ENGRAM_FP8,
        requantises: false,
    },
    Base {
        name: "q4",
        about: "experts Q4_K, the rest as native",
        gate_up: GgmlType::Q4_K,
        down: GgmlType::Q4_K,
        dense: GgmlType::Q8_0,
        engram: GgmlType::Q8_0,
        requantises: true,
    },
    Base {
        name: "q3",
        about: "experts Q3_K, the rest as native",
        gate_up: GgmlType::Q3_K,
        down: GgmlType::Q3_K,
        dense: GgmlType::Q8_0,
        engram: GgmlType::Q8_0,
        requantises: true,
    },
    Base {
        name: "q2",
        about: "experts IQ2_XXS (gate, up) and Q2_K (down), the rest as native",
        gate_up: GgmlType::IQ2_XXS,
        down: GgmlType::Q2_K,
        dense: GgmlType::Q8_0,
        engram: GgmlType::Q8_0,
        requantises: true,
    },
];

/// Names of the built-in recipes, as a list for messages.
#[must_use]
pub fn built_in_names() -> String {
    let names: Vec<&str> = BASES.iter().map(|base| base.name).collect();
    names.join(", ")
}

/// Names of the built-in recipes and what they do.
pub fn built_in() -> impl Iterator<Item = (&'static str, &'static str)> {
    BASES.iter().map(|base| (base.name, base.about))
}
