use std::fmt;

use serde_json::Value as Json;

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// A metadata array. GGUF allows arrays of arrays; they are refused, as no
/// known model has them.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    String(Strings),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

/// An immutable list of strings in one piece of memory.
///
/// A vocabulary has more than a hundred thousand short strings. Kept like this
/// they never take more memory than in the file (a `Vec<String>` would take up
/// to three times as much, which a hostile file could use).
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Strings {
    text: Box<str>,
    /// Where each string ends in `text`.
    ends: Box<[usize]>,
}

impl Strings {
    /// Joins parts that the reader has checked: each end is a character
    /// boundary of `text`, none is lower than the one before.
    pub(super) fn from_parts(text: String, ends: Vec<usize>) -> Self {
        Self {
            text: text.into_boxed_str(),
            ends: ends.into_boxed_slice(),
        }
    }

    /// The number of strings.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The string at `index`.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)?;
        let start = match index {
            0 => 0,
            _ => self.ends[index - 1],
        };
        Some(&self.text[start..end])
    }

    /// The strings in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> + DoubleEndedIterator + Clone {
        (0..self.len()).map(|i| &self[i])
    }
}

impl std::ops::Index<usize> for Strings {
    type Output = str;

    fn index(&self, index: usize) -> &str {
        self.get(index).expect("index below len()")
    }
}

impl<S: AsRef<str>> FromIterator<S> for Strings {
    fn from_iter<I: IntoIterator<Item = S>>(strings: I) -> Self {
        let mut text = String::new();
        let mut ends = Vec::new();
        for s in strings {
            text.push_str(s.as_ref());
            ends.push(text.len());
        }
        Self::from_parts(text, ends)
    }
}

impl<S: AsRef<str>> From<Vec<S>> for Strings {
    fn from(strings: Vec<S>) -> Self {
        strings.into_iter().collect()
    }
}

impl fmt::Debug for Strings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// The type numbers of GGUF metadata.
pub(super) mod id {
    pub const U8: u32 = 0;
    pub const I8: u32 = 1;
    pub const U16: u32 = 2;
    pub const I16: u32 = 3;
    pub const U32: u32 = 4;
    pub const I32: u32 = 5;
    pub const F32: u32 = 6;
    pub const BOOL: u32 = 7;
    pub const STRING: u32 = 8;
    pub const ARRAY: u32 = 9;
    pub const U64: u32 = 10;
    pub const I64: u32 = 11;
    pub const F64: u32 = 12;
}

impl Value {
    /// The type's name: `U32`, `STRING`, `ARRAY of F32`.
    #[must_use]
    pub fn type_name(&self) -> String {
        match self {
            Self::U8(_) => "U8",
            Self::I8(_) => "I8",
            Self::U16(_) => "U16",
            Self::I16(_) => "I16",
            Self::U32(_) => "U32",
            Self::I32(_) => "I32",
            Self::F32(_) => "F32",
            Self::Bool(_) => "BOOL",
            Self::String(_) => "STRING",
            Self::Array(array) => return format!("ARRAY of {}", array.type_name()),
            Self::U64(_) => "U64",
            Self::I64(_) => "I64",
            Self::F64(_) => "F64",
        }
        .to_owned()
    }

    /// The type's number in a file.
    pub(super) fn type_id(&self) -> u32 {
        match self {
            Self::U8(_) => id::U8,
            Self::I8(_) => id::I8,
            Self::U16(_) => id::U16,
            Self::I16(_) => id::I16,
            Self::U32(_) => id::U32,
            Self::I32(_) => id::I32,
            Self::F32(_) => id::F32,
            Self::Bool(_) => id::BOOL,
            Self::String(_) => id::STRING,
            Self::Array(_) => id::ARRAY,
            Self::U64(_) => id::U64,
            Self::I64(_) => id::I64,
            Self::F64(_) => id::F64,
        }
    }

    /// The value if it is an integer of any width.
    #[must_use]
    pub fn as_integer(&self) -> Option<i128> {
        Some(match *self {
            Self::U8(v) => v.into(),
            Self::I8(v) => v.into(),
            Self::U16(v) => v.into(),
            Self::I16(v) => v.into(),
            Self::U32(v) => v.into(),
            Self::I32(v) => v.into(),
            Self::U64(v) => v.into(),
            Self::I64(v) => v.into(),
            _ => return None,
        })
    }

    /// The value as JSON.
    ///
    /// An array longer than `longest` becomes
    /// `{"type": …, "length": …, "first": [`its first `longest` values`]}`.
    /// Numbers that JSON lacks become the strings `NaN`, `inf` and `-inf`.
    #[must_use]
    pub fn to_json(&self, longest: Option<usize>) -> Json {
        match self {
            Self::F32(v) => json_f32(*v),
            Self::F64(v) => json_f64(*v),
            Self::Bool(v) => Json::Bool(*v),
            Self::String(v) => Json::String(v.clone()),
            Self::U64(v) => Json::from(*v),
            Self::Array(array) => array.to_json(longest),
            Self::U8(_)
            | Self::I8(_)
            | Self::U16(_)
            | Self::I16(_)
            | Self::U32(_)
            | Self::I32(_)
            | Self::I64(_) => {
                let wide = self.as_integer().expect("an integer");
                Json::from(i64::try_from(wide).expect("all but U64 fit"))
            }
        }
    }
}

/// Runs one expression for any element type of an array.
macro_rules! for_array {
    ($array:expr, $v:ident => $do:expr) => {
        match $array {
            Array::U8($v) => $do,
            Array::I8($v) => $do,
            Array::U16($v) => $do,
            Array::I16($v) => $do,
            Array::U32($v) => $do,
            Array::I32($v) => $do,
            Array::F32($v) => $do,
            Array::Bool($v) => $do,
            Array::String($v) => $do,
            Array::U64($v) => $do,
            Array::I64($v) => $do,
            Array::F64($v) => $do,
        }
    };
}

impl Array {
    /// The number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        for_array!(self, v => v.len())
    }

    /// Whether there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements' type: `U32`, `STRING`.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::U8(_) => "U8",
            Self::I8(_) => "I8",
            Self::U16(_) => "U16",
            Self::I16(_) => "I16",
            Self::U32(_) => "U32",
            Self::I32(_) => "I32",
            Self::F32(_) => "F32",
            Self::Bool(_) => "BOOL",
            Self::String(_) => "STRING",
            Self::U64(_) => "U64",
            Self::I64(_) => "I64",
            Self::F64(_) => "F64",
        }
    }

    /// The elements' type number in a file.
    pub(super) fn type_id(&self) -> u32 {
        match self {
            Self::U8(_) => id::U8,
            Self::I8(_) => id::I8,
            Self::U16(_) => id::U16,
            Self::I16(_) => id::I16,
            Self::U32(_) => id::U32,
            Self::I32(_) => id::I32,
            Self::F32(_) => id::F32,
            Self::Bool(_) => id::BOOL,
            Self::String(_) => id::STRING,
            Self::U64(_) => id::U64,
            Self::I64(_) => id::I64,
            Self::F64(_) => id::F64,
        }
    }

    /// Element `index` as a value of its own.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<Value> {
        Some(match self {
            Self::U8(v) => Value::U8(*v.get(index)?),
            Self::I8(v) => Value::I8(*v.get(index)?),
            Self::U16(v) => Value::U16(*v.get(index)?),
            Self::I16(v) => Value::I16(*v.get(index)?),
            Self::U32(v) => Value::U32(*v.get(index)?),
            Self::I32(v) => Value::I32(*v.get(index)?),
            Self::F32(v) => Value::F32(*v.get(index)?),
            Self::Bool(v) => Value::Bool(*v.get(index)?),
            Self::String(v) => Value::String(v.get(index)?.to_owned()),
            Self::U64(v) => Value::U64(*v.get(index)?),
            Self::I64(v) => Value::I64(*v.get(index)?),
            Self::F64(v) => Value::F64(*v.get(index)?),
        })
    }

    /// The elements in order, each as a value of its own.
    pub fn iter(&self) -> impl Iterator<Item = Value> + '_ {
        (0..self.len()).map_while(|i| self.get(i))
    }

    /// See [`Value::to_json`].
    fn to_json(&self, longest: Option<usize>) -> Json {
        let shown = longest.unwrap_or(usize::MAX);
        let items: Vec<Json> = self.iter().take(shown).map(|v| v.to_json(None)).collect();
        if items.len() == self.len() {
            return Json::Array(items);
        }
        serde_json::json!({ "type": self.type_name(), "length": self.len(), "first": items })
    }
}

/// An f32 with the digits that it needs and no more.
fn json_f32(v: f32) -> Json {
    // Through the shortest decimal: 1e-6, not 9.999999974752427e-7.
    let shortest = v.to_string().parse().unwrap_or(f64::from(v));
    json_f64(shortest)
}

fn json_f64(v: f64) -> Json {
    serde_json::Number::from_f64(v).map_or_else(|| Json::String(v.to_string()), Json::Number)
}

/// On one line: strings quoted and cut to 120 characters, the first 8 elements
/// of an array.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const CHARS: usize = 120;
        match self {
            Self::U8(v) => write!(f, "{v}"),
            Self::I8(v) => write!(f, "{v}"),
            Self::U16(v) => write!(f, "{v}"),
            Self::I16(v) => write!(f, "{v}"),
            Self::U32(v) => write!(f, "{v}"),
            Self::I32(v) => write!(f, "{v}"),
            Self::U64(v) => write!(f, "{v}"),
            Self::I64(v) => write!(f, "{v}"),
            Self::F32(v) => write!(f, "{v:?}"),
            Self::F64(v) => write!(f, "{v:?}"),
            Self::Bool(v) => write!(f, "{v}"),
            Self::Array(v) => write!(f, "{v}"),
            Self::String(v) => match v.char_indices().nth(CHARS) {
                None => write!(f, "{v:?}"),
                Some((end, _)) => write!(f, "{:?}… ({} bytes)", &v[..end], v.len()),
            },
        }
    }
}

impl fmt::Display for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const ITEMS: usize = 8;
        f.write_str("[")?;
        for (i, value) in self.iter().take(ITEMS).enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{value}")?;
        }
        if self.len() > ITEMS {
            write!(f, ", … {} in all", self.len())?;
        }
        f.write_str("]")
    }
}

macro_rules! value_from {
    ($($variant:ident $ty:ty),*) => { $(
        impl From<$ty> for Value {
            fn from(v: $ty) -> Self { Self::$variant(v) }
        }
        impl From<Vec<$ty>> for Value {
            fn from(v: Vec<$ty>) -> Self { Self::Array(Array::$variant(v.into())) }
        }
    )* };
}

value_from!(
    U8 u8, I8 i8, U16 u16, I16 i16, U32 u32, I32 i32, F32 f32, Bool bool, String String, U64 u64,
    I64 i64, F64 f64
);

impl From<&str> for Value {
    fn from(v: &str) -> Self {
        Self::String(v.to_owned())
    }
}

impl From<Array> for Value {
    fn from(v: Array) -> Self {
        Self::Array(v)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_keep_empty_and_wide_ones() {
        let strings: Strings = ["", "é", "", "ab"].into_iter().collect();
        assert_eq!(strings.len(), 4);
        assert_eq!(strings.iter().collect::<Vec<_>>(), ["", "é", "", "ab"]);
        assert_eq!(strings.get(4), None);
        assert!(Strings::default().is_empty());
    }

    #[test]
    fn long_arrays_are_cut_in_json_and_text() {
        let value = Value::from((0..100u32).collect::<Vec<_>>());
        assert_eq!(
            value.to_json(Some(2)),
            serde_json::json!({"type": "U32", "length": 100, "first": [0, 1]})
        );
        assert_eq!(value.to_json(None).as_array().map(Vec::len), Some(100));
        assert_eq!(value.to_string(), "[0, 1, 2, 3, 4, 5, 6, 7, … 100 in all]");
    }

    #[test]
    fn floats_are_shown_with_their_own_digits() {
        assert_eq!(Value::F32(1e-6).to_json(None).to_string(), "1e-6");
        assert_eq!(Value::F32(f32::NAN).to_json(None), "NaN");
        assert_eq!(Value::F64(f64::NEG_INFINITY).to_json(None), "-inf");
        assert_eq!(
            Value::U64(u64::MAX).to_json(None).to_string(),
            u64::MAX.to_string()
        );
        assert_eq!(
            Value::I64(i64::MIN).to_json(None).to_string(),
            i64::MIN.to_string()
        );
    }

    #[test]
    fn text_is_one_line() {
        let text = Value::from("a\nb\u{1b}[2J").to_string();
        assert_eq!(text, r#""a\nb\u{1b}[2J""#);
        let long = Value::from("x".repeat(1000)).to_string();
        assert!(long.chars().count() < 150 && long.ends_with("(1000 bytes)"));
    }
}
