//! Objects: their properties, and the names of others.

use serde_json::{Map, Value};

use super::reader::{IN_PLACE, Keywords, MOST_DEPTH, Read, Reader, Rigor, Way, deeper};
use super::strings::readable;

/// Keywords that say nothing of which names there may be.
const SILENT: [&str; 6] = [
    "title",
    "description",
    "type",
    "$comment",
    "default",
    "examples",
];

/// An object's properties as they are read.
#[derive(Default)]
struct Properties {
    named: Map<String, Value>,
    patterns: Map<String, Value>,
    /// All others; `None` are any.
    others: Option<Value>,
    required: Vec<String>,
}

impl Reader<'_> {
    /// Everything that is said of an object.
    pub(super) fn properties(
        &mut self,
        schema: &Keywords<'_>,
        place: &str,
        depth: usize,
        way: &Way,
        merges: bool,
        out: &mut Map<String, Value>,
    ) -> Read<()> {
        let mut all = Properties {
            named: self.members(schema, "properties", place, depth)?,
            patterns: self.members(schema, "patternProperties", place, depth)?,
            ..Properties::default()
        };
        for pattern in all.patterns.keys().cloned().collect::<Vec<_>>() {
            if let Err(why) = readable(&pattern) {
                let why = format!("the expression {pattern:?} cannot be enforced: {why}");
                self.let_go(place, "patternProperties", why)?;
                // Names that it matches would be forbidden if others are.
                all.patterns.remove(&pattern);
                all.others = Some(Value::Bool(true));
            }
        }
        if let Some(others) = schema.get("additionalProperties") {
            let place = deeper(place, "additionalProperties");
            let read = self.read(others, &place, depth + 1, &Way::default())?;
            all.others.get_or_insert(read);
        }
        self.required(schema, place, way, &mut all)?;
        self.names(schema, place, &mut all)?;
        self.close(schema, place, way, merges, &mut all)?;
        self.counts(schema, place, &all, out)?;
        let closed = all.others == Some(Value::Bool(false));
        if !closed && (!all.named.is_empty() || !all.patterns.is_empty()) {
            self.mixed_names = true;
        }
        if schema.contains_key("properties") || !all.named.is_empty() {
            out.insert("properties".into(), all.named.into());
        }
        if !all.patterns.is_empty() {
            out.insert("patternProperties".into(), all.patterns.into());
        }
        if let Some(others) = all.others {
            out.insert("additionalProperties".into(), others);
        }
        if !all.required.is_empty() {
            out.insert("required".into(), all.required.into());
        }
        Ok(())
    }

    /// Schemas by name.
    fn members(
        &mut self,
        schema: &Keywords<'_>,
        keyword: &str,
        place: &str,
        depth: usize,
    ) -> Read<Map<String, Value>> {
        let mut all = Map::new();
        match schema.get(keyword) {
            None => {}
            Some(Value::Object(members)) => {
                let place = deeper(place, keyword);
                for (name, member) in members {
                    let place = deeper(&place, name);
                    let read = self.read(member, &place, depth + 1, &Way::default())?;
                    all.insert(name.clone(), read);
                }
            }
            Some(_) => self.let_go(place, keyword, "it must be an object of schemas")?,
        }
        Ok(all)
    }

    fn required(
        &mut self,
        schema: &Keywords<'_>,
        place: &str,
        way: &Way,
        all: &mut Properties,
    ) -> Read<()> {
        match schema.get("required") {
            // Draft 3 said so in the property itself: no reader of today looks at it.
            None | Some(Value::Bool(_)) => {}
            Some(Value::Array(names)) => {
                for name in names {
                    match name.as_str() {
                        Some(name) if !all.required.iter().any(|r| r == name) => {
                            all.required.push(name.to_owned());
                        }
                        Some(_) => {}
                        None => self.let_go(place, "required", "it must be a list of names")?,
                    }
                }
            }
            Some(_) => self.let_go(place, "required", "it must be a list of names")?,
        }
        if let Some(tag) = &way.tag
            && all.named.contains_key(tag)
            && !all.required.contains(tag)
        {
            all.required.push(tag.clone());
        }
        Ok(())
    }

    /// `propertyNames`, by way of properties and patterns.
    fn names(&mut self, schema: &Keywords<'_>, place: &str, all: &mut Properties) -> Read<()> {
        let Some(mut names) = schema.get("propertyNames") else {
            return Ok(());
        };
        for _ in 0..MOST_DEPTH {
            match names
                .get("$ref")
                .and_then(Value::as_str)
                .and_then(|to| self.named(to))
            {
                Some(next) => names = next,
                None => break,
            }
        }
        let none = Map::new();
        let names = match names {
            Value::Bool(true) => return Ok(()),
            Value::Object(names) => Keywords::of(names),
            _ => Keywords::of(&none),
        };
        let text = names.get("type").is_none_or(|t| t == "string");
        let says = names
            .0
            .keys()
            .copied()
            .filter(|name| !SILENT.contains(name));
        let says: Vec<&str> = says.collect();
        let value = all.others.clone().unwrap_or(Value::Bool(true));
        let alone = all.named.is_empty() && all.patterns.is_empty();
        match says.as_slice() {
            [] if text => return Ok(()),
            ["enum" | "const"] if text && all.patterns.is_empty() => {
                let list = match (names.get("enum"), names.get("const")) {
                    (Some(Value::Array(list)), _) => list.clone(),
                    (_, Some(one)) => vec![one.clone()],
                    _ => Vec::new(),
                };
                let list: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
                self.nodes += list.len();
                for (name, value) in &mut all.named {
                    if !list.contains(&name.as_str()) {
                        *value = Value::Bool(false);
                    }
                }
                for name in list {
                    all.named.entry(name).or_insert_with(|| value.clone());
                }
                all.others = Some(Value::Bool(false));
                return Ok(());
            }
            ["pattern"] if text && alone => {
                if let Some(pattern) = names.get("pattern").and_then(Value::as_str)
                    && readable(pattern).is_ok()
                {
                    all.patterns.insert(pattern.to_owned(), value);
                    all.others = Some(Value::Bool(false));
                    return Ok(());
                }
            }
            lengths if text && alone && lengths.iter().all(|l| l.ends_with("Length")) => {
                let place = deeper(place, "propertyNames");
                let least = self.count(&names, "minLength", &place)?.unwrap_or(0);
                let most = self.count(&names, "maxLength", &place)?;
                let most = most.map_or(String::new(), |most| most.to_string());
                let pattern = format!("^(?s:.{{{least},{most}}})$");
                if readable(&pattern).is_ok() {
                    all.patterns.insert(pattern, value);
                    all.others = Some(Value::Bool(false));
                    return Ok(());
                }
            }
            _ => {}
        }
        let why = "names can be restricted by one enum, one pattern, or lengths, if there are no \
                   other restrictions";
        self.let_go(place, "propertyNames", why)
    }

    /// Forbids names that are not there, where that is asked for.
    fn close(
        &mut self,
        schema: &Keywords<'_>,
        place: &str,
        way: &Way,
        merges: bool,
        all: &mut Properties,
    ) -> Read<()> {
        let by_word = match schema.get("unevaluatedProperties") {
            None | Some(Value::Bool(true)) => false,
            Some(Value::Bool(false)) => true,
            Some(Value::Object(any)) if any.is_empty() => false,
            Some(_) => {
                let why = "this cannot be enforced; use additionalProperties";
                self.let_go(place, "unevaluatedProperties", why)?;
                false
            }
        };
        let strict = self.rigor == Rigor::Strict && !way.open;
        if all.others.is_some() {
            return Ok(());
        }
        // Whoever writes patterns alone means that all names match one.
        let patterns = !all.patterns.is_empty();
        if patterns && !way.open && !merges && (strict || all.named.is_empty()) {
            all.others = Some(Value::Bool(false));
        }
        if !(strict || by_word) || patterns {
            return Ok(());
        }
        if !merges {
            if by_word || schema.contains_key("properties") {
                all.others = Some(Value::Bool(false));
            }
            return Ok(());
        }
        let mut names = Map::new();
        let mut visited = Vec::new();
        let known = self.names_of(schema, &mut visited, &mut names, 0);
        if known && (by_word || !names.is_empty()) {
            self.nodes += names.len();
            for name in names.keys() {
                all.named.entry(name.as_str()).or_insert(Value::Bool(true));
            }
            all.others = Some(Value::Bool(false));
        } else if by_word {
            let why = "the evaluated names cannot be determined; use additionalProperties";
            self.let_go(place, "unevaluatedProperties", why)?;
        }
        Ok(())
    }

    /// The names of all properties that a schema and those in its place speak of; false if
    /// there are others.
    fn names_of(
        &self,
        schema: &Keywords<'_>,
        visited: &mut Vec<String>,
        names: &mut Map<String, Value>,
        depth: usize,
    ) -> bool {
        let open = |value: &Value| !matches!(value, Value::Bool(false) | Value::Null);
        if depth > MOST_DEPTH
            || schema.contains_key("patternProperties")
            || schema.get("additionalProperties").is_some_and(open)
        {
            return false;
        }
        if let Some(own) = schema.get("properties").and_then(Value::as_object) {
            names.extend(own.iter().map(|(name, _)| (name.clone(), Value::Null)));
        }
        for keyword in IN_PLACE {
            let parts = match schema.get(keyword) {
                Some(Value::String(to)) if !visited.contains(to) => {
                    visited.push(to.clone());
                    self.named(to).into_iter().collect()
                }
                Some(Value::Array(parts)) => parts.iter().collect(),
                _ => Vec::new(),
            };
            for part in parts.into_iter().filter_map(Value::as_object) {
                if !self.names_of(&Keywords::of(part), visited, names, depth + 1) {
                    return false;
                }
            }
        }
        true
    }

    /// `minProperties` and `maxProperties`.
    fn counts(
        &mut self,
        schema: &Keywords<'_>,
        place: &str,
        all: &Properties,
        out: &mut Map<String, Value>,
    ) -> Read<()> {
        let least = self.count(schema, "minProperties", place)?;
        let most = self.count(schema, "maxProperties", place)?;
        let required = all.required.len() as u64;
        let optional = all
            .named
            .keys()
            .filter(|n| !all.required.contains(n))
            .count() as u64;
        let closed = all.others == Some(Value::Bool(false)) && all.patterns.is_empty();
        let least = least.filter(|least| *least > required);
        let most = most.filter(|most| !closed || *most < required + optional);
        if least.is_none() && most.is_none() {
            return Ok(());
        }
        if least.zip(most).is_some_and(|(least, most)| least > most) {
            return self.let_go(place, "minProperties", "it is larger than maxProperties");
        }
        let one = required + 1;
        let choice = closed && least.is_none_or(|l| l == one) && most.is_none_or(|m| m == one);
        // Nothing keeps a model from writing the same name twice.
        let counted = optional == 0 && least.is_none_or(|l| l == one);
        if !choice && !counted {
            let keyword = if least.is_some() {
                "minProperties"
            } else {
                "maxProperties"
            };
            let why = "properties can be counted only if all of them are required, or one of \
                       several; make them required, or leave out the count";
            return self.let_go(place, keyword, why);
        }
        for (keyword, count) in [("minProperties", least), ("maxProperties", most)] {
            if let Some(count) = count {
                out.insert(keyword.into(), count.into());
            }
        }
        Ok(())
    }
}
