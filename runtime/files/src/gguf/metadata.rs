use super::error::GgufError;
use super::value::{Array, Strings, Value};

/// The metadata of a file: keys and values in the file's order.
///
/// The typed accessors take an integer of any width if its value fits, and for
/// a float the nearest of any number in its range: writers differ in the widths
/// they store. Everything else is an error that names the key.
/// `get_…(…).optional()` is for keys that may be absent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    /// Indices into `entries` in the order of their keys.
    sorted: Vec<u32>,
}

impl Metadata {
    /// No entries.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// # Errors
    /// [`GgufError::DuplicateKey`].
    pub(super) fn from_entries(entries: Vec<(String, Value)>) -> Result<Self, GgufError> {
        let sorted =
            super::sort_names(&entries, |e| &e.0).map_err(|key| GgufError::DuplicateKey {
                key: key.to_owned(),
            })?;
        Ok(Self { entries, sorted })
    }

    /// The number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Keys and values in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// Where the key is in `sorted`, or where it would go.
    fn find(&self, key: &str) -> Result<usize, usize> {
        self.sorted
            .binary_search_by(|&i| self.entries[i as usize].0.as_str().cmp(key))
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        let at = self.find(key).ok()?;
        Some(&self.entries[self.sorted[at] as usize].1)
    }

    /// Whether the key exists.
    #[must_use]
    pub fn contains(&self, key: &str) -> bool {
        self.find(key).is_ok()
    }

    /// Sets the value of a key: in place where the key exists, else at the end.
    /// Returns the value it had.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<Value>) -> Option<Value> {
        let (key, value) = (key.into(), value.into());
        match self.find(&key) {
            Ok(at) => {
                let entry = &mut self.entries[self.sorted[at] as usize];
                Some(std::mem::replace(&mut entry.1, value))
            }
            Err(at) => {
                let index = u32::try_from(self.entries.len()).expect("fewer than 2^32 keys");
                self.entries.push((key, value));
                self.sorted.insert(at, index);
                None
            }
        }
    }

    /// Removes a key and returns the value it had.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let at = self.find(key).ok()?;
        let index = self.sorted.remove(at);
        for i in &mut self.sorted {
            *i -= u32::from(*i > index);
        }
        Some(self.entries.remove(index as usize).1)
    }

    fn need(&self, key: &str) -> Result<&Value, GgufError> {
        self.get(key).ok_or_else(|| GgufError::Missing {
            key: key.to_owned(),
        })
    }

    fn need_array(&self, key: &str, expected: &'static str) -> Result<&Array, GgufError> {
        match self.need(key)? {
            Value::Array(array) => Ok(array),
            other => Err(wrong_type(key, other, expected)),
        }
    }

    /// # Errors
    /// The key is missing, is not an integer, or does not fit.
    pub fn get_u32(&self, key: &str) -> Result<u32, GgufError> {
        integer(key, self.need(key)?, "U32")
    }

    /// # Errors
    /// The key is missing, is not an integer, or does not fit.
    pub fn get_i32(&self, key: &str) -> Result<i32, GgufError> {
        integer(key, self.need(key)?, "I32")
    }

    /// # Errors
    /// The key is missing, is not an integer, or does not fit.
    pub fn get_u64(&self, key: &str) -> Result<u64, GgufError> {
        integer(key, self.need(key)?, "U64")
    }

    /// # Errors
    /// The key is missing, is not an integer, or does not fit this machine's `usize`.
    pub fn get_usize(&self, key: &str) -> Result<usize, GgufError> {
        integer(key, self.need(key)?, "U64")
    }

    /// # Errors
    /// The key is missing, is not a number, or is beyond an f32.
    pub fn get_f32(&self, key: &str) -> Result<f32, GgufError> {
        float(key, self.need(key)?)
    }

    /// # Errors
    /// The key is missing or not a boolean.
    pub fn get_bool(&self, key: &str) -> Result<bool, GgufError> {
        match self.need(key)? {
            Value::Bool(v) => Ok(*v),
            other => Err(wrong_type(key, other, "BOOL")),
        }
    }

    /// # Errors
    /// The key is missing or not a string.
    pub fn get_str(&self, key: &str) -> Result<&str, GgufError> {
        match self.need(key)? {
            Value::String(v) => Ok(v),
            other => Err(wrong_type(key, other, "STRING")),
        }
    }

    /// # Errors
    /// The key is missing or not an array of strings.
    pub fn get_strs(&self, key: &str) -> Result<&Strings, GgufError> {
        const EXPECTED: &str = "ARRAY of STRING";
        match self.need(key)? {
            Value::Array(Array::String(v)) => Ok(v),
            other => Err(wrong_type(key, other, EXPECTED)),
        }
    }

    /// # Errors
    /// The key is missing, is not an array of integers, or one does not fit.
    pub fn get_u32s(&self, key: &str) -> Result<Vec<u32>, GgufError> {
        let array = self.need_array(key, "ARRAY of U32")?;
        integers(key, array, "U32", "ARRAY of U32")
    }

    /// # Errors
    /// The key is missing, is not an array of integers, or one does not fit.
    pub fn get_i32s(&self, key: &str) -> Result<Vec<i32>, GgufError> {
        let array = self.need_array(key, "ARRAY of I32")?;
        integers(key, array, "I32", "ARRAY of I32")
    }

    /// # Errors
    /// The key is missing, is not an array of integers, or one does not fit.
    pub fn get_u64s(&self, key: &str) -> Result<Vec<u64>, GgufError> {
        let array = self.need_array(key, "ARRAY of U64")?;
        integers(key, array, "U64", "ARRAY of U64")
    }

    /// # Errors
    /// The key is missing, is not an array of numbers, or one is beyond an f32.
    pub fn get_f32s(&self, key: &str) -> Result<Vec<f32>, GgufError> {
        const EXPECTED: &str = "ARRAY of F32";
        match self.need_array(key, EXPECTED)? {
            Array::F32(v) => Ok(v.clone()),
            array @ (Array::String(_) | Array::Bool(_)) => {
                Err(wrong_array_type(key, array, EXPECTED))
            }
            array => array.iter().map(|v| float(key, &v)).collect(),
        }
    }
}

/// Turns "the key is missing" into `None`, and leaves other errors as they are.
pub trait Optional<T> {
    /// `None` for [`GgufError::Missing`].
    ///
    /// # Errors
    /// Any other error.
    fn optional(self) -> Result<Option<T>, GgufError>;
}

impl<T> Optional<T> for Result<T, GgufError> {
    fn optional(self) -> Result<Option<T>, GgufError> {
        match self {
            Ok(value) => Ok(Some(value)),
            Err(GgufError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn wrong_type(key: &str, found: &Value, expected: &'static str) -> GgufError {
    GgufError::WrongType {
        key: key.to_owned(),
        found: found.type_name(),
        expected,
    }
}

fn wrong_array_type(key: &str, found: &Array, expected: &'static str) -> GgufError {
    GgufError::WrongType {
        key: key.to_owned(),
        found: format!("ARRAY of {}", found.type_name()),
        expected,
    }
}

fn out_of_range(key: &str, value: &Value, expected: &'static str) -> GgufError {
    GgufError::OutOfRange {
        key: key.to_owned(),
        value: value.to_string(),
        expected,
    }
}

fn integer<T: TryFrom<i128>>(
    key: &str,
    value: &Value,
    expected: &'static str,
) -> Result<T, GgufError> {
    let wide = value
        .as_integer()
        .ok_or_else(|| wrong_type(key, value, expected))?;
    T::try_from(wide).map_err(|_| out_of_range(key, value, expected))
}

fn integers<T: TryFrom<i128>>(
    key: &str,
    array: &Array,
    element: &'static str,
    expected: &'static str,
) -> Result<Vec<T>, GgufError> {
    if let Array::String(_) | Array::Bool(_) | Array::F32(_) | Array::F64(_) = array {
        return Err(wrong_array_type(key, array, expected));
    }
    array.iter().map(|v| integer(key, &v, element)).collect()
}

/// The nearest f32 of the number: what a writer of F32 would have stored. A finite
/// number does not become infinite by it, nor one that is not 0 become 0.
#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
fn float(key: &str, value: &Value) -> Result<f32, GgufError> {
    match *value {
        Value::F32(v) => Ok(v),
        Value::F64(v) => {
            let narrow = v as f32;
            let kept = narrow.is_finite() == v.is_finite() && (narrow == 0.0) == (v == 0.0);
            kept.then_some(narrow)
                .ok_or_else(|| out_of_range(key, value, "F32"))
        }
        _ => value
            .as_integer()
            .map(|wide| wide as f32)
            .ok_or_else(|| wrong_type(key, value, "F32")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Metadata {
        let mut m = Metadata::new();
        m.insert("b", 7u32);
        m.insert("a", "text");
        m.insert("c", -1i32);
        m.insert("d", 1.5f64);
        m.insert("e", vec![1i32, 2]);
        m.insert("f", 1u64 << 40);
        m.insert("g", 0.1f64);
        m.insert("h", vec!["x".to_owned()]);
        m.insert("i", vec![1i32, -2]);
        m
    }

    #[test]
    fn order_is_kept_and_insert_replaces_in_place() {
        let mut m = sample();
        assert_eq!(m.insert("b", 8u8), Some(Value::U32(7)));
        let keys: Vec<_> = m.iter().map(|(k, _)| k).collect();
        assert_eq!(keys, ["b", "a", "c", "d", "e", "f", "g", "h", "i"]);
        assert_eq!(m.remove("a"), Some(Value::from("text")));
        assert_eq!(m.remove("a"), None);
        assert_eq!(m.get_u32("b").ok(), Some(8));
        assert_eq!(m.get_i32("c").ok(), Some(-1));
        assert_eq!(m.get_i32s("i").ok(), Some(vec![1, -2]));
        assert!(!m.contains("a"));
    }

    #[test]
    fn numbers_convert_where_they_are_in_range() {
        let mut m = sample();
        m.insert("j", 1e300f64);
        m.insert("k", 1e-300f64);
        m.insert("l", f64::INFINITY);
        assert_eq!(m.get_f32("g").unwrap(), 0.1);
        assert_eq!(m.get_f32("l").unwrap(), f32::INFINITY);
        assert_eq!(m.get_u64("b").unwrap(), 7);
        assert_eq!(m.get_f32("b").unwrap(), 7.0);
        assert_eq!(m.get_f32("d").unwrap(), 1.5);
        assert_eq!(m.get_u32s("e").unwrap(), [1, 2]);
        assert_eq!(m.get_f32s("e").unwrap(), [1.0, 2.0]);
        for error in [
            m.get_u32("c").unwrap_err(),
            m.get_u32("f").unwrap_err(),
            m.get_f32("j").unwrap_err(),
            m.get_f32("k").unwrap_err(),
            m.get_u32s("i").map(|_| ()).unwrap_err(),
        ] {
            assert!(matches!(error, GgufError::OutOfRange { .. }), "{error}");
        }
    }

    #[test]
    fn errors_name_the_key_and_both_types() {
        let m = sample();
        let text = m.get_u32("a").unwrap_err().to_string();
        assert!(text.starts_with("key \"a\" is STRING, not U32"), "{text}");
        let text = m.get_strs("e").unwrap_err().to_string();
        assert!(
            text.starts_with("key \"e\" is ARRAY of I32, not ARRAY of STRING"),
            "{text}"
        );
        let text = m.get_f32s("h").unwrap_err().to_string();
        assert!(
            text.contains("is ARRAY of STRING, not ARRAY of F32"),
            "{text}"
        );
        let text = m.get_bool("z").unwrap_err().to_string();
        assert!(text.starts_with("key \"z\" is missing"), "{text}");
        assert_eq!(m.get_bool("z").optional().unwrap(), None);
        assert!(m.get_bool("a").optional().is_err());
    }
}
