//! Reads a client's schema for the grammar. What the grammar can enforce is expressed in
//! its few keywords, what cannot change an answer is left out, and what it cannot enforce
//! is refused by keyword, or ignored if the client did not ask for strictness.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::wanted::{Part, Refusal};

mod arrays;
mod ends;
mod formats;
mod held;
mod numbers;
mod objects;
mod reader;
mod refs;
mod strings;
mod unions;
mod weight;

pub(super) use formats::pattern as format_pattern;
pub(super) use held::Held;
pub(super) use reader::{MOST_NODES, Rigor};
pub(super) use strings::search;
pub(super) use unions::kinds;

use reader::{IN_PLACE, Keywords, MOST_DEPTH, Read, Reader, Way, refuse};

/// Reads a schema of a part of a request.
pub(super) fn read(schema: &Value, rigor: Rigor, part: &Part) -> Result<Held, Box<Refusal>> {
    let mut reader = Reader {
        document: schema,
        ids: refs::ids(schema),
        rigor,
        part,
        nodes: 0,
        known: HashMap::new(),
        defs: Vec::new(),
        unions: Vec::new(),
        mixed_names: false,
    };
    let root = match reader.read(schema, "#", 0, &Way::default()) {
        Ok(root) => root,
        Err(_) if rigor == Rigor::Loose => {
            return Ok(Held::any());
        }
        Err(refusal) => return Err(refusal),
    };
    let mut places = vec![String::new(); reader.defs.len()];
    for ((place, _), i) in reader.known {
        places[i] = place;
    }
    let mut held = Held {
        root,
        places,
        defs: reader
            .defs
            .into_iter()
            .map(Option::unwrap_or_default)
            .collect(),
        mixed_names: reader.mixed_names,
        nodes: reader.nodes,
    };
    if rigor == Rigor::Strict {
        for (place, options) in &reader.unions {
            if !unions::all_apart(&held, options) {
                return Err(refuse(
                    part,
                    place,
                    "oneOf",
                    "a value could match more than one of these, which strict excludes; use anyOf, \
                     or give each a property with its own const",
                ));
            }
        }
    }
    if let Some(keyword) = weight::too_much(&held) {
        let why = "the expressions for one string are too large together; use a shorter one, or \
                   one at a time";
        return match rigor {
            Rigor::Loose => Ok(Held::any()),
            Rigor::Strict | Rigor::Plain => Err(refuse(part, "#", keyword, why)),
        };
    }
    if !ends::cut(&mut held) {
        if rigor == Rigor::Loose {
            return Ok(Held::any());
        } else {
            return Err(refuse(
                part,
                "#",
                "$ref",
                "the schema requires itself without end; make the property optional, or allow null",
            ));
        }
    }
    Ok(held)
}

/// Keywords that no grammar of ours holds, with what may be done instead.
const NOT_HELD: [(&str, &str); 14] = [
    ("if", "write the cases as anyOf"),
    ("dependentSchemas", "write the cases as anyOf"),
    ("dependentRequired", "write the cases as anyOf"),
    ("dependencies", "write the cases as anyOf"),
    ("contains", "give each item a schema with prefixItems"),
    ("minContains", "give each item a schema with prefixItems"),
    ("maxContains", "give each item a schema with prefixItems"),
    ("unevaluatedItems", "use items: false"),
    ("$dynamicRef", "use $ref"),
    ("$recursiveRef", "use $ref"),
    ("extends", "use allOf"),
    ("disallow", "name the allowed types"),
    ("divisibleBy", "use multipleOf"),
    ("uniqueItems", "leave it out and check the answer"),
];

impl Reader<'_> {
    fn read(&mut self, schema: &Value, place: &str, depth: usize, way: &Way) -> Read<Value> {
        self.nodes += 1;
        if self.nodes > MOST_NODES || depth > MOST_DEPTH {
            let why = format!(
                "the schema is too large: it may contain at most {MOST_NODES} schemas, nested at \
                 most {MOST_DEPTH} deep"
            );
            return Err(self.refuse(place, "$ref", why));
        }
        match schema {
            Value::Bool(_) => Ok(schema.clone()),
            Value::Object(all) => self.object(all, place, depth, way),
            Value::Null if self.rigor == Rigor::Loose => Ok(Value::Bool(true)),
            _ => {
                let (place, keyword) = place.rsplit_once('/').unwrap_or(("", place));
                let why = "a schema must be an object, true or false";
                self.let_go(place, keyword, why)?;
                Ok(Value::Bool(true))
            }
        }
    }

    fn object(
        &mut self,
        all: &Map<String, Value>,
        place: &str,
        depth: usize,
        way: &Way,
    ) -> Read<Value> {
        let schema = Keywords::of(all);
        for (keyword, instead) in NOT_HELD {
            if schema.get(keyword).is_some_and(says_something) {
                let why = format!("this cannot be enforced; {instead}");
                self.let_go(place, keyword, why)?;
            }
        }
        let mut out = Map::new();
        let types = self.types(&schema, place)?;
        let merges = self.merges(&schema);
        let inner = Way {
            open: way.open || merges,
            tag: None,
        };
        let mut also = Vec::new();
        self.literals(&schema, place, &mut out)?;
        self.numbers(&schema, place, types.as_deref(), &mut out)?;
        self.strings(&schema, place, types.as_deref(), &mut out, &mut also)?;
        self.arrays(&schema, place, depth, &mut out)?;
        self.properties(&schema, place, depth, way, merges, &mut out)?;
        if let Some(types) = types.or_else(|| meant(&schema, &out, way)) {
            let types: Vec<Value> = types.into_iter().map(Value::from).collect();
            let types = match <[Value; 1]>::try_from(types) {
                Ok([one]) => one,
                Err(many) => many.into(),
            };
            out.insert("type".into(), types);
        }
        self.in_place(&schema, place, depth, way, &inner, &mut out, &mut also)?;
        Ok(finish(out, also, schema.get("nullable")))
    }

    /// The types that are named.
    fn types(&mut self, schema: &Keywords<'_>, place: &str) -> Read<Option<Vec<String>>> {
        const TYPES: [&str; 7] = [
            "null", "boolean", "number", "integer", "string", "array", "object",
        ];
        let mut all: Option<Vec<String>> = match schema.get("type") {
            None => None,
            Some(Value::String(one)) => Some(vec![one.clone()]),
            Some(Value::Array(many)) if !many.is_empty() => {
                let many = many.iter().map(|t| t.as_str().unwrap_or_default());
                Some(many.map(str::to_owned).collect())
            }
            Some(_) => {
                self.let_go(
                    place,
                    "type",
                    "it must be the name of a type, or a list of names",
                )?;
                None
            }
        };
        let unknown = |t: &String| !TYPES.contains(&t.as_str());
        if let Some(t) = all.iter().flatten().find(|t| unknown(t)) {
            let why = format!("there is no type {t:?}; the types are {}", TYPES.join(", "));
            self.let_go(place, "type", why)?;
            all = None;
        }
        if let Some(all) = &mut all {
            let mut seen = Vec::new();
            all.retain(|t| {
                !seen.contains(t) && {
                    seen.push(t.clone());
                    true
                }
            });
        }
        let Some(not) = schema.get("not") else {
            return Ok(all);
        };
        let excluded = match not {
            Value::Bool(not) => return Ok(if *not { Some(Vec::new()) } else { all }),
            Value::Object(not) if not.is_empty() => return Ok(Some(Vec::new())),
            Value::Object(not) if not.keys().all(|k| k == "type") => &not["type"],
            _ => &Value::Null,
        };
        let excluded: Vec<&str> = match excluded {
            Value::String(one) => vec![one],
            Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        // A number that is not an integer is not a type of its own.
        if excluded.is_empty() || excluded.contains(&"integer") {
            let why = "this cannot be enforced; say what is allowed instead";
            self.let_go(place, "not", why)?;
            return Ok(all);
        }
        let every = TYPES.iter().filter(|t| **t != "integer");
        let mut all = all.unwrap_or_else(|| every.map(|t| (*t).to_owned()).collect());
        let number = excluded.contains(&"number");
        all.retain(|t| !excluded.contains(&t.as_str()) && (!number || t != "integer"));
        Ok(Some(all))
    }

    /// `const` and `enum`.
    fn literals(
        &mut self,
        schema: &Keywords<'_>,
        place: &str,
        out: &mut Map<String, Value>,
    ) -> Read<()> {
        let why = "it contains a number with more digits than can be enforced exactly";
        if let Some(value) = schema.get("const") {
            match numbers::exact(value) {
                true => drop(out.insert("const".into(), value.clone())),
                false => self.let_go(place, "const", why)?,
            }
        }
        match schema.get("enum") {
            None => {}
            Some(Value::Array(all)) if !all.is_empty() => {
                self.nodes += all.len();
                match all.iter().all(numbers::exact) {
                    true => drop(out.insert("enum".into(), all.clone().into())),
                    false => self.let_go(place, "enum", why)?,
                }
            }
            Some(_) => self.let_go(place, "enum", "it must be a list of at least one value")?,
        }
        Ok(())
    }

    /// Whether several schemas speak of the same object: then only their names together
    /// say which properties there are.
    fn merges(&self, schema: &Keywords<'_>) -> bool {
        let objects = ["properties", "required", "additionalProperties"];
        let own = objects.iter().any(|k| schema.contains_key(k));
        let of_all = schema.get("allOf").and_then(Value::as_array);
        let parts = IN_PLACE.iter().filter(|k| schema.contains_key(k)).count();
        parts > 1 || (parts == 1 && own) || of_all.is_some_and(|all| all.len() > 1)
    }

    /// What other schemas say of the same value.
    #[expect(
        clippy::too_many_arguments,
        reason = "all that is known where a schema stands"
    )]
    fn in_place(
        &mut self,
        schema: &Keywords<'_>,
        place: &str,
        depth: usize,
        way: &Way,
        inner: &Way,
        out: &mut Map<String, Value>,
        also: &mut Vec<Value>,
    ) -> Read<()> {
        let tagged = Way {
            tag: way.tag.clone(),
            ..inner.clone()
        };
        if let Some(to) = schema.get("$ref") {
            match to.as_str() {
                Some(to) => {
                    if let Some(reference) = self.reference(to, place, depth, &tagged)? {
                        out.insert("$ref".into(), reference);
                    }
                }
                None => self.let_go(place, "$ref", "it must be a string")?,
            }
        }
        if let Some(all) = self.list(schema, "allOf", place)? {
            for (i, one) in all.iter().enumerate() {
                let place = format!("{place}/allOf/{i}");
                also.push(self.read(one, &place, depth + 1, &tagged)?);
            }
        }
        for keyword in ["anyOf", "oneOf"] {
            let Some(all) = self.list(schema, keyword, place)? else {
                continue;
            };
            let tag = schema
                .get("discriminator")
                .and_then(|d| d["propertyName"].as_str());
            let branch = Way {
                tag: tag.map(str::to_owned).or_else(|| way.tag.clone()),
                ..inner.clone()
            };
            let mut options = Vec::new();
            for (i, one) in all.iter().enumerate() {
                let place = format!("{place}/{keyword}/{i}");
                match self.read(one, &place, depth + 1, &branch) {
                    Ok(read) => options.push(read),
                    Err(refusal) if as_number(&refusal, one, all) => {}
                    Err(refusal) => return Err(refusal),
                }
            }
            if keyword == "oneOf" && options.len() > 1 {
                self.unions.push((place.to_owned(), options.clone()));
            }
            match out.contains_key("anyOf") {
                true => also.push(json!({"anyOf": options})),
                false => drop(out.insert("anyOf".into(), options.into())),
            }
        }
        Ok(())
    }

    fn list<'v>(
        &self,
        schema: &Keywords<'v>,
        keyword: &str,
        place: &str,
    ) -> Read<Option<&'v [Value]>> {
        match schema.get(keyword) {
            None => Ok(None),
            Some(Value::Array(all)) if !all.is_empty() => Ok(Some(all)),
            Some(_) => {
                self.let_go(place, keyword, "it must be a list of at least one schema")?;
                Ok(None)
            }
        }
    }
}

/// Whether an option that cannot be held is a number's spelling as text, next to the number
/// itself, as Pydantic writes decimals: then there is nothing that cannot be said without.
fn as_number(refusal: &Refusal, option: &Value, all: &[Value]) -> bool {
    refusal.keyword.as_deref() == Some("pattern")
        && option["type"] == "string"
        && all.iter().any(|other| other["type"] == "number")
}

/// Whether a keyword that is not held excludes anything.
fn says_something(value: &Value) -> bool {
    match value {
        Value::Bool(on) => *on,
        Value::Object(all) => !all.is_empty(),
        Value::Array(all) => !all.is_empty(),
        _ => true,
    }
}

/// The types that are meant where none is named, by the keywords that are there.
fn meant(schema: &Keywords<'_>, out: &Map<String, Value>, way: &Way) -> Option<Vec<String>> {
    let has = |keywords: &[&str]| keywords.iter().any(|k| out.contains_key(*k));
    let elsewhere = IN_PLACE.iter().any(|k| schema.contains_key(k));
    if way.open || has(&["const", "enum"]) {
        return None;
    }
    let object = has(&[
        "properties",
        "required",
        "additionalProperties",
        "patternProperties",
    ]);
    if elsewhere {
        return object.then(|| vec!["object".to_owned()]);
    }
    let mut all = Vec::new();
    for (name, there) in [
        ("object", object || has(&["minProperties", "maxProperties"])),
        (
            "array",
            has(&["items", "prefixItems", "minItems", "maxItems"]),
        ),
        (
            "string",
            has(&["pattern", "format", "minLength", "maxLength"]),
        ),
        (
            "number",
            has(&[
                "minimum",
                "maximum",
                "exclusiveMinimum",
                "exclusiveMaximum",
                "multipleOf",
            ]),
        ),
    ] {
        if there {
            all.push(name.to_owned());
        }
    }
    (!all.is_empty()).then_some(all)
}

/// One schema of its keywords, of what else holds, and of null where it is allowed.
fn finish(mut out: Map<String, Value>, mut also: Vec<Value>, nullable: Option<&Value>) -> Value {
    // An empty list of types: nothing is of such a type.
    if out
        .get("type")
        .and_then(Value::as_array)
        .is_some_and(Vec::is_empty)
    {
        return Value::Bool(false);
    }
    also.retain(|one| *one != Value::Bool(true) && one.as_object().is_none_or(|o| !o.is_empty()));
    if also.contains(&Value::Bool(false)) {
        return Value::Bool(false);
    }
    let whole = match also.len() {
        0 => Value::Object(out),
        1 if out.is_empty() => also.remove(0),
        _ => {
            out.insert("allOf".into(), also.into());
            Value::Object(out)
        }
    };
    // One option is not a choice.
    let whole = match whole
        .get("anyOf")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
    {
        Some([one]) if whole.as_object().is_some_and(|w| w.len() == 1) => one.clone(),
        _ => whole,
    };
    match nullable {
        Some(Value::Bool(true)) => json!({"anyOf": [whole, {"type": "null"}]}),
        _ => whole,
    }
}
