//! Strings: their length, patterns and formats.

use llguidance::derivre::{RegexAst, RegexBuilder};
use serde_json::{Map, Value, json};

use super::formats::{self, Format};
use super::reader::{Keywords, Read, Reader, Rigor};

/// The grammar's form of a pattern that is looked for in a string.
fn ast(pattern: &str) -> RegexAst {
    RegexAst::SearchRegex(llguidance::regex_to_lark(pattern, "dw"))
}

/// Whether a pattern can be held, and why not.
pub(super) fn readable(pattern: &str) -> Result<(), String> {
    let made = RegexBuilder::new().mk(&ast(pattern));
    made.map(|_| ()).map_err(|e| {
        // The reason is in the last line, below the expression and its marks.
        let text = e.to_string();
        let last = text.lines().last().unwrap_or_default();
        last.trim_start_matches("error: ").to_owned()
    })
}

/// A pattern that is looked for in a text, as one that the whole text matches. `None` if
/// its anchors are in places where the grammar does not take them.
pub(in super::super) fn search(pattern: &str) -> Option<String> {
    // The branches at the top have anchors of their own.
    let branches = branches(pattern)?;
    let whole: Vec<String> = branches
        .iter()
        .map(|branch| {
            let (start, branch) = match branch.strip_prefix('^') {
                Some(rest) => ("", rest),
                None => ("(?s:.*)", *branch),
            };
            let escaped =
                |text: &str| text.bytes().rev().take_while(|b| *b == b'\\').count() % 2 == 1;
            let (branch, end) = match branch.strip_suffix('$') {
                Some(rest) if !escaped(rest) => (rest, ""),
                _ => (branch, "(?s:.*)"),
            };
            format!("{start}(?:{branch}){end}")
        })
        .collect();
    Some(whole.join("|"))
}

/// What stands between the bars that are in no group and no class.
fn branches(pattern: &str) -> Option<Vec<&str>> {
    let (mut groups, mut class, mut from) = (0_usize, 0_usize, 0);
    let mut all = Vec::new();
    let mut chars = pattern.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            '\\' => drop(chars.next()?),
            '[' => class += 1,
            ']' if class > 0 => class -= 1,
            _ if class > 0 => {}
            '(' => groups += 1,
            ')' => groups = groups.checked_sub(1)?,
            '|' if groups == 0 => {
                all.push(&pattern[from..i]);
                from = i + 1;
            }
            _ => {}
        }
    }
    all.push(&pattern[from..]);
    (groups == 0 && class == 0).then_some(all)
}

impl Reader<'_> {
    /// `minLength`, `maxLength`, `pattern` and `format`.
    pub(super) fn strings(
        &mut self,
        schema: &Keywords<'_>,
        place: &str,
        types: Option<&[String]>,
        out: &mut Map<String, Value>,
        also: &mut Vec<Value>,
    ) -> Read<()> {
        let least = self.count(schema, "minLength", place)?;
        let most = self.count(schema, "maxLength", place)?;
        if least.zip(most).is_some_and(|(least, most)| least > most) {
            self.let_go(place, "minLength", "it is larger than maxLength")?;
        } else {
            for (keyword, count) in [("minLength", least), ("maxLength", most)] {
                if let Some(count) = count {
                    out.insert(keyword.into(), count.into());
                }
            }
        }
        match schema.get("pattern") {
            None => {}
            Some(Value::String(pattern)) => match readable(pattern) {
                Ok(()) => drop(out.insert("pattern".into(), pattern.as_str().into())),
                Err(why) => {
                    let why = format!("the expression cannot be enforced: {why}");
                    self.let_go(place, "pattern", why)?;
                }
            },
            Some(_) => self.let_go(place, "pattern", "it must be a string")?,
        }
        let text = types.is_none_or(|types| types.iter().any(|t| t == "string"));
        match schema.get("format") {
            Some(Value::String(format)) if text => match formats::find(format) {
                Format::Pattern(pattern) => match out.contains_key("pattern") {
                    true => also.push(json!({"type": "string", "pattern": pattern})),
                    false => drop(out.insert("pattern".into(), pattern.into())),
                },
                Format::Known => drop(out.insert("format".into(), format.as_str().into())),
                Format::Hint => {}
                // If there is a pattern next to it, the pattern defines the meaning.
                Format::Unknown if self.rigor == Rigor::Strict && !has_pattern(schema) => {
                    let why = format!("the format {format:?} is unknown, which strict excludes");
                    return Err(self.refuse(place, "format", why));
                }
                Format::Unknown => {}
            },
            Some(Value::String(_)) | None => {}
            Some(_) => self.let_go(place, "format", "it must be a string")?,
        }
        Ok(())
    }
}

/// Whether a schema, or one that applies in addition to it, has a pattern.
fn has_pattern(schema: &Keywords<'_>) -> bool {
    let all = schema.get("allOf").and_then(Value::as_array);
    schema.contains_key("pattern")
        || all
            .into_iter()
            .flatten()
            .any(|one| one["pattern"].is_string())
}
