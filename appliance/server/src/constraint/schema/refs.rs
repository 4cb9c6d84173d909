//! References within a schema.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::reader::{Read, Reader, Way, deeper};

/// Deeper, ids are not looked for: JSON from a request is no deeper than this.
const MOST_DEPTH: usize = 128;

/// Where schemas with an `$id` or `$anchor` are, by what references call them.
pub(super) fn ids(document: &Value) -> HashMap<String, String> {
    let mut all = HashMap::new();
    find(document, "#", 0, &mut all);
    all
}

fn find(value: &Value, place: &str, depth: usize, all: &mut HashMap<String, String>) {
    if depth > MOST_DEPTH {
        return;
    }
    match value {
        Value::Object(map) => {
            for name in ["$id", "id", "$anchor", "$dynamicAnchor"] {
                if let Some(id) = map.get(name).and_then(Value::as_str) {
                    let id = match name {
                        "$id" | "id" => id.trim_end_matches('#').to_owned(),
                        _ => format!("#{id}"),
                    };
                    all.entry(id).or_insert_with(|| place.to_owned());
                }
            }
            for (name, value) in map {
                // A default's or an example's contents are not schemas.
                if !matches!(
                    name.as_str(),
                    "default" | "example" | "examples" | "const" | "enum"
                ) {
                    find(value, &deeper(place, name), depth + 1, all);
                }
            }
        }
        Value::Array(list) => {
            for (i, value) in list.iter().enumerate() {
                find(value, &format!("{place}/{i}"), depth + 1, all);
            }
        }
        _ => {}
    }
}

/// A pointer with its percent signs decoded; `None` if they make no text.
fn decoded(pointer: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(pointer.len());
    let mut rest = pointer.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |b: Option<u8>| char::from(b?).to_digit(16);
        let (high, low) = (digit(rest.next())?, digit(rest.next())?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

impl<'a> Reader<'a> {
    /// Where a reference leads.
    fn resolve(&self, to: &str) -> Option<(String, &'a Value)> {
        let (base, fragment) = to.split_once('#').unwrap_or((to, ""));
        let start = match base {
            "" => "#".to_owned(),
            _ => self.ids.get(base)?.clone(),
        };
        let place = match fragment {
            "" => start,
            _ if fragment.starts_with('/') => format!("{start}{}", decoded(fragment)?),
            _ => self.ids.get(&format!("#{fragment}"))?.clone(),
        };
        // "#/" is read as the root: some write it so.
        let pointer = match place.as_str() {
            "#/" => "",
            place => place.strip_prefix('#')?,
        };
        Some((format!("#{pointer}"), self.document.pointer(pointer)?))
    }

    /// The schema that a reference names, without a copy.
    pub(super) fn named(&self, to: &str) -> Option<&'a Value> {
        Some(self.resolve(to)?.1)
    }

    /// A reference to a definition, which is read when it is first named. `None`: it is
    /// let go.
    pub(super) fn reference(
        &mut self,
        to: &str,
        place: &str,
        depth: usize,
        way: &Way,
    ) -> Read<Option<Value>> {
        let Some((target, schema)) = self.resolve(to) else {
            let why = format!("the schema does not contain {to:?}; references must stay within it");
            self.let_go(place, "$ref", why)?;
            return Ok(None);
        };
        let key = (target, way.clone());
        let index = match self.known.get(&key) {
            Some(index) => *index,
            None => {
                let index = self.defs.len();
                self.defs.push(None);
                self.known.insert(key.clone(), index);
                let read = self.read(schema, &key.0, depth + 1, way)?;
                self.defs[index] = Some(read);
                index
            }
        };
        Ok(Some(json!(format!("#/$defs/{index}"))))
    }
}
