//! What is known while a schema is read, and how a keyword is refused or let go.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value};

use crate::constraint::wanted::{Part, Refusal};

/// The most schemas that a schema may contain.
pub(in crate::constraint) const MOST_NODES: usize = 10_000;
/// Schemas within schemas, references followed.
pub(super) const MOST_DEPTH: usize = 200;

/// What is done with a keyword that the grammar cannot hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::constraint) enum Rigor {
    /// It is refused, and properties that are not named are forbidden.
    Strict,
    /// It is refused.
    Plain,
    /// It is let go.
    Loose,
}

/// How a schema is read where it stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Way {
    /// Others say more of the same value: it is not closed here.
    pub open: bool,
    /// A property that must be there: its value says which of several schemas is meant.
    pub tag: Option<String>,
}

pub(super) fn refuse(
    part: &Part,
    place: &str,
    keyword: &str,
    why: impl Into<String>,
) -> Box<Refusal> {
    Box::new(Refusal {
        part: part.clone(),
        place: Some(place.to_owned()),
        keyword: Some(keyword.to_owned()),
        why: why.into(),
    })
}

/// One keyword deeper, in a JSON pointer.
pub(super) fn deeper(place: &str, name: &str) -> String {
    format!("{place}/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// The keywords of one schema, but for those that are null.
pub(super) struct Keywords<'v>(pub BTreeMap<&'v str, &'v Value>);

impl<'v> Keywords<'v> {
    pub fn of(schema: &'v Map<String, Value>) -> Self {
        let there = |(name, value): &(&String, &Value)| !value.is_null() || *name == "const";
        let all = schema.iter().filter(there);
        Self(all.map(|(name, value)| (name.as_str(), value)).collect())
    }

    pub fn get(&self, keyword: &str) -> Option<&'v Value> {
        self.0.get(keyword).copied()
    }

    pub fn contains_key(&self, keyword: &str) -> bool {
        self.0.contains_key(keyword)
    }
}

/// What is known while a schema is read.
pub(super) struct Reader<'a> {
    pub document: &'a Value,
    /// Where schemas with ids and anchors are.
    pub ids: HashMap<String, String>,
    pub rigor: Rigor,
    pub part: &'a Part,
    pub nodes: usize,
    /// Definitions by where they are and how they are read.
    pub known: HashMap<(String, Way), usize>,
    pub defs: Vec<Option<Value>>,
    /// What `oneOf` chooses from.
    pub unions: Vec<(String, Vec<Value>)>,
    pub mixed_names: bool,
}

pub(super) type Read<T> = Result<T, Box<Refusal>>;

/// Keywords that say something of a value where it stands, by way of other schemas.
pub(super) const IN_PLACE: [&str; 4] = ["$ref", "allOf", "anyOf", "oneOf"];

impl Reader<'_> {
    pub fn refuse(&self, place: &str, keyword: &str, why: impl Into<String>) -> Box<Refusal> {
        refuse(self.part, place, keyword, why)
    }

    /// A keyword that is not held: refused, or let go.
    pub fn let_go(&self, place: &str, keyword: &str, why: impl Into<String>) -> Read<()> {
        match self.rigor {
            Rigor::Loose => Ok(()),
            Rigor::Strict | Rigor::Plain => Err(self.refuse(place, keyword, why)),
        }
    }
}
