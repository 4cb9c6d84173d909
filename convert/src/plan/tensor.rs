//! Tensors of the output.

use v4_files::gguf::TensorInfo;
use v4_quant::GgmlType;

use crate::recipe::Role;
use crate::source::Source;

/// A tensor of the output before its type is chosen.
#[derive(Debug)]
pub(super) struct Untyped {
    pub name: String,
    /// ggml order: the row's length first.
    pub dims: Vec<u64>,
    pub role: Role,
    /// The type that keeps the stored values.
    pub stored: GgmlType,
    pub source: Source,
}

/// A tensor of the output.
#[derive(Debug)]
pub struct Output {
    /// Name, type, shape, offset and size.
    pub info: TensorInfo,
    /// The type that the recipe asked for, where its rows do not fit it.
    pub instead_of: Option<GgmlType>,
    /// Whether it is an Engram table.
    pub is_engram: bool,
    /// Where the values come from.
    pub source: Source,
}

/// The first few of a list of names.
pub(super) fn shorten<S: AsRef<str>>(names: &[S]) -> String {
    const SHOWN: usize = 3;
    let mut text = String::new();
    for name in names.iter().take(SHOWN) {
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.extend(name.as_ref().chars().flat_map(char::escape_debug).take(96));
    }
    if names.len() > SHOWN {
        text.push_str(", …");
    }
    text
}
