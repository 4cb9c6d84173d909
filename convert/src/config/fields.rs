//! Access to the fields of `config.json`.

use std::path::Path;

use serde_json::Value;

use super::error::ConfigError;

/// A JSON object's fields.
pub(super) type Object = serde_json::Map<String, Value>;

/// A value for messages.
pub(super) fn shorten(value: &Value) -> String {
    let text = value.to_string();
    let mut short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// Access to one level of the JSON, with errors that name file and field.
pub(super) struct Fields<'a> {
    pub path: &'a Path,
    prefix: String,
    values: Object,
    /// Name and fields of an object whose fields count as this level's.
    nested: Option<(&'static str, Object)>,
}

impl<'a> Fields<'a> {
    /// The file's outermost level.
    pub fn root(path: &'a Path, values: Object) -> Self {
        Self {
            path,
            prefix: String::new(),
            values,
            nested: None,
        }
    }

    /// Makes the fields of the object `field`, if there is one, fields of this
    /// level. A field of both must be the same in both.
    pub fn flatten(mut self, field: &'static str, own: &[&str]) -> Result<Self, ConfigError> {
        if self.find(field).is_none() {
            return Ok(self);
        }
        let inner = self.object(field)?;
        let (name, values) = (inner.prefix.clone(), inner.values.clone());
        for (key, value) in values.iter().filter(|(_, value)| !value.is_null()) {
            let outer = self.find(key).filter(|_| !own.contains(&key.as_str()));
            if let Some(outer) = outer.filter(|outer| *outer != value) {
                let expected = format!("{outer}, like `{key}` next to `{field}`");
                return Err(self.wrong(&format!("{name}{key}"), value, expected));
            }
        }
        self.nested = Some((field, values));
        Ok(self)
    }

    pub fn name(&self, field: &str) -> String {
        match &self.nested {
            // A field that is nowhere belongs among the nested ones.
            Some((name, values)) if values.contains_key(field) || !self.has(field) => {
                format!("{}{name}.{field}", self.prefix)
            }
            _ => format!("{}{field}", self.prefix),
        }
    }

    fn has(&self, field: &str) -> bool {
        // Entries of lists are named with their number.
        let whole = field.split(['[', '.']).next().unwrap_or(field);
        self.values.contains_key(whole)
    }

    pub fn wrong(&self, field: &str, found: &Value, expected: impl Into<String>) -> ConfigError {
        ConfigError::Field {
            path: self.path.to_owned(),
            field: self.name(field),
            found: shorten(found),
            expected: expected.into(),
        }
    }

    /// The field's value; null counts as absent, as in the published code.
    pub fn find(&self, field: &str) -> Option<&Value> {
        let nested = self
            .nested
            .as_ref()
            .and_then(|(_, values)| values.get(field));
        nested
            .or_else(|| self.values.get(field))
            .filter(|value| !value.is_null())
    }

    pub fn get(&self, field: &str) -> Result<&Value, ConfigError> {
        self.find(field).ok_or_else(|| ConfigError::Missing {
            path: self.path.to_owned(),
            field: self.name(field),
        })
    }

    pub fn whole(
        &self,
        field: &str,
        value: &Value,
        min: u32,
        max: u32,
    ) -> Result<u32, ConfigError> {
        value
            .as_u64()
            .and_then(|number| u32::try_from(number).ok())
            .filter(|number| (min..=max).contains(number))
            .ok_or_else(|| self.wrong(field, value, format!("a whole number from {min} to {max}")))
    }

    pub fn int(&self, field: &str, min: u32, max: u32) -> Result<u32, ConfigError> {
        self.whole(field, self.get(field)?, min, max)
    }

    pub fn ints(&self, field: &str, max_len: usize, max: u32) -> Result<Vec<u32>, ConfigError> {
        let value = self.get(field)?;
        let list = value
            .as_array()
            .filter(|list| list.len() <= max_len)
            .ok_or_else(|| {
                self.wrong(
                    field,
                    value,
                    format!("a list of at most {max_len} whole numbers"),
                )
            })?;
        list.iter()
            .enumerate()
            .map(|(i, item)| self.whole(&format!("{field}[{i}]"), item, 0, max))
            .collect()
    }

    pub fn positive(&self, field: &str) -> Result<f32, ConfigError> {
        let value = self.get(field)?;
        value
            .as_f64()
            .map(|number| number as f32)
            .filter(|number| *number > 0.0 && number.is_finite())
            .ok_or_else(|| self.wrong(field, value, "a positive number"))
    }

    pub fn exactly(&self, field: &str, expected: &Value) -> Result<(), ConfigError> {
        let value = self.get(field)?;
        if value == expected {
            return Ok(());
        }
        Err(self.wrong(field, value, expected.to_string()))
    }

    /// As `exactly`, for fields that not every published file carries.
    pub fn exactly_if_given(&self, field: &str, expected: &Value) -> Result<(), ConfigError> {
        match self.find(field) {
            Some(_) => self.exactly(field, expected),
            None => Ok(()),
        }
    }

    pub fn object(&self, field: &str) -> Result<Fields<'a>, ConfigError> {
        let value = self.get(field)?;
        let values = value
            .as_object()
            .ok_or_else(|| self.wrong(field, value, "an object"))?
            .clone();
        Ok(Fields {
            path: self.path,
            prefix: format!("{}.", self.name(field)),
            values,
            nested: None,
        })
    }
}
