//! What the histories of all protocols have in common: calls and their results.

use std::collections::{HashMap, VecDeque};

use serde_json::Value;

use crate::json::hold;

/// The result of a call that has none.
pub(super) const INTERRUPTED: &str =
    "[No result: the call was interrupted before the tool answered.]";

/// Arguments as text. An empty value means no arguments; what is not JSON stays as it is.
pub(super) fn arguments(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "{}".to_owned(),
        Some(Value::String(text)) if text.trim().is_empty() => "{}".to_owned(),
        Some(Value::String(text)) => hold(text).into_owned(),
        Some(other) => other.to_string(),
    }
}

/// The id of a call, made one where it has none or one that came before. The format
/// writes calls in the order of their ids.
pub(super) fn call_id(id: &str, seen: &mut HashMap<String, usize>) -> String {
    let id = if id.is_empty() { "call" } else { id };
    let times = seen.entry(id.to_owned()).or_insert(0);
    *times += 1;
    match *times {
        1 if id != "call" => id.to_owned(),
        n => {
            let new = format!("{id}~{n:06}");
            seen.insert(new.clone(), 1);
            new
        }
    }
}

/// A history from which results are taken by the ids of their calls; what is not taken
/// comes in its order.
pub(super) struct Answered<T> {
    items: VecDeque<Option<T>>,
    /// Places of results by the id of the call that they answer.
    results: HashMap<String, VecDeque<usize>>,
    at: usize,
}

impl<T> Answered<T> {
    /// `answers` tells the id of the call that an item answers, if it does.
    pub fn new(items: Vec<T>, answers: impl Fn(&T) -> Option<&str>) -> Self {
        let mut results: HashMap<String, VecDeque<usize>> = HashMap::new();
        for (i, item) in items.iter().enumerate() {
            if let Some(id) = answers(item) {
                results.entry(id.to_owned()).or_default().push_back(i);
            }
        }
        Self {
            items: items.into_iter().map(Some).collect(),
            results,
            at: 0,
        }
    }

    /// The next item and its place.
    pub fn next(&mut self) -> Option<(usize, T)> {
        while self.at < self.items.len() {
            let i = self.at;
            self.at += 1;
            if let Some(item) = self.items[i].take() {
                return Some((i, item));
            }
        }
        None
    }

    /// The item that comes next.
    pub fn peek(&self) -> Option<&T> {
        self.items.iter().skip(self.at).find_map(Option::as_ref)
    }

    /// The first result of a call that comes after the place `after`, and its own place;
    /// where there is none of this id, the first that has no id.
    pub fn take(&mut self, id: &str, after: usize) -> Option<(usize, T)> {
        for id in [id, ""] {
            let Some(places) = self.results.get_mut(id) else {
                continue;
            };
            if let Some(i) = places.iter().position(|&place| place > after)
                && let Some(place) = places.remove(i)
                && let Some(item) = self.items[place].take()
            {
                return Some((place, item));
            }
        }
        None
    }
}
