//! Earlier turns as the model wrote them.
//!
//! A client sends a turn back as text and calls of tools, which the format writes in its
//! own way: other white space in arguments, other tokens for the same text. The model
//! would then see another turn than the one that it wrote, and what was computed for its
//! own would be of no use. So turns are remembered by all that comes before them, and put
//! in place of those that say the same.
//!
//! Reasoning that a client does not send back is put back with its turn where the format
//! has a place for it: there the model would else see that it thought nothing. Where the
//! format leaves earlier reasoning out, as it does without tools, the turn stays as it is:
//! what was computed for it holds other tokens before it.

use deepseek_recipe::stream::ParsingOptions;
use serde_json::Value;
use v4_tokenizer::Tokenizer;

use crate::encoder::Rendered;
use crate::output::Finish;
use crate::parts::{Part, Parts};

const ASSISTANT: &str = "<｜Assistant｜>";
const THINK: &str = "<think>";
const THINK_END: &str = "</think>";
/// Marks that may stand in a turn: those of calls, and those that the format takes for
/// marks in what a client sends back.
const IN_TURNS: [&str; 9] = [
    "｜DSML｜",
    "<｜ref｜>",
    "<｜/ref｜>",
    "<｜box｜>",
    "<｜/box｜>",
    "<｜point｜>",
    "<｜/point｜>",
    "<｜polygon｜>",
    "<｜/polygon｜>",
];

/// Where a turn of the model stands: a hash of all ids before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(pub [u8; 16]);

/// Hashes ids as they come.
#[derive(Default)]
struct Places(blake3::Hasher);

impl Places {
    fn add(&mut self, ids: &[u32]) {
        let mut bytes = [0; 1024];
        for ids in ids.chunks(bytes.len() / 4) {
            for (to, id) in bytes.chunks_exact_mut(4).zip(ids) {
                to.copy_from_slice(&id.to_le_bytes());
            }
            self.0.update(&bytes[..4 * ids.len()]);
        }
    }

    fn here(&self) -> Place {
        let mut place = Place([0; 16]);
        self.0.finalize_xof().fill(&mut place.0);
        place
    }
}

/// A turn to write: its place, and the part of it that the prompt already has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    place: Place,
    begun: Vec<u32>,
}

impl Opening {
    /// The turn that is open at the end of a prompt; `None` if none is.
    #[must_use]
    pub fn of(tokenizer: &Tokenizer, prompt: &[u32]) -> Option<Self> {
        let assistant = tokenizer.mark(ASSISTANT)?;
        let at = prompt.iter().rposition(|&id| id == assistant)? + 1;
        let mut places = Places::default();
        places.add(&prompt[..at]);
        Some(Self {
            place: places.here(),
            begun: prompt[at..].to_vec(),
        })
    }

    /// The turn with all that was written of it. `None` for what the format would not
    /// write so: other marks than those of calls, reasoning that was given up for a stop.
    #[must_use]
    pub fn written(&self, tokenizer: &Tokenizer, ids: &[u32], finish: Finish) -> Option<Written> {
        let all = [&self.begun, ids].concat();
        let turn = Turn::of(tokenizer, &all);
        let (reasoning, rest) = match (turn, finish) {
            (Some(turn), _) => (turn.reasoning, turn.rest),
            // Cut while it thought: what comes back is a turn that says nothing.
            (None, Finish::Length) if all.first() == tokenizer.mark(THINK).as_ref() => {
                (Some(&all[1..]), &[][..])
            }
            (None, _) => return None,
        };
        let written = Written {
            place: self.place,
            reasoning: reasoning.map(<[u32]>::to_vec),
            rest: rest.to_vec(),
        };
        written.is_sound(tokenizer).then_some(written)
    }
}

/// A turn as the model wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Where it stands.
    pub place: Place,
    /// Its reasoning, if there was any, without its marks.
    pub reasoning: Option<Vec<u32>>,
    /// All that comes after the reasoning, to the end of the turn.
    pub rest: Vec<u32>,
}

impl Written {
    /// How many ids it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rest.len() + self.reasoning.as_ref().map_or(0, Vec::len)
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether its ids are tokens, and none is a mark that does not belong into a turn:
    /// what was read from a file may be anything.
    #[must_use]
    pub fn is_sound(&self, tokenizer: &Tokenizer) -> bool {
        let marks = IN_TURNS.map(|mark| tokenizer.mark(mark));
        let sound = |&id: &u32| {
            let token = tokenizer.token_bytes(id).is_some();
            token && (!tokenizer.is_mark(id) || marks.contains(&Some(id)))
        };
        self.reasoning.iter().flatten().chain(&self.rest).all(sound)
    }
}

/// The parts of a turn.
struct Turn<'a> {
    reasoning: Option<&'a [u32]>,
    rest: &'a [u32],
}

impl<'a> Turn<'a> {
    /// `None` if it is not whole.
    fn of(tokenizer: &Tokenizer, ids: &'a [u32]) -> Option<Self> {
        let (begin, end) = (tokenizer.mark(THINK)?, tokenizer.mark(THINK_END)?);
        let (&first, after) = ids.split_first()?;
        if first == end {
            return Some(Self {
                reasoning: None,
                rest: after,
            });
        }
        let at = after.iter().position(|&id| id == end)?;
        (first == begin).then(|| Self {
            reasoning: Some(&after[..at]),
            rest: &after[at + 1..],
        })
    }

    /// The turn as it was written, where it says the same.
    fn as_written(&self, tokenizer: &Tokenizer, written: &Written) -> Option<Vec<u32>> {
        let text = |ids: &[u32]| tokenizer.decode(ids).ok();
        let reasoning = match (self.reasoning, &written.reasoning) {
            (None, None) => None,
            (Some([]), Some(written)) => Some(written),
            (Some(ids), Some(written))
                if text(ids)?.trim_ascii() == text(written)?.trim_ascii() =>
            {
                Some(written)
            }
            _ => return None,
        };
        let rest = &written.rest;
        if self.rest != rest && said(tokenizer, self.rest)? != said(tokenizer, rest)? {
            return None;
        }
        let (begin, end) = (tokenizer.mark(THINK)?, tokenizer.mark(THINK_END)?);
        Some(match reasoning {
            None => [&[end], &rest[..]].concat(),
            Some(reasoning) => [&[begin], &reasoning[..], &[end], rest].concat(),
        })
    }
}

/// What a turn says, apart from how it is written.
#[derive(Debug, PartialEq)]
struct Said {
    content: String,
    calls: Vec<Call>,
}

#[derive(Debug, PartialEq)]
struct Call {
    name: String,
    arguments: Value,
    /// Its numbers, digit by digit: values hold them rounded.
    numbers: Vec<String>,
}

fn said(tokenizer: &Tokenizer, ids: &[u32]) -> Option<Said> {
    let mut parts = Parts::new(tokenizer, ParsingOptions::default());
    let mut all = parts.push(ids).ok()?;
    all.extend(parts.finish(Finish::Stop).ok()?);
    let (mut content, mut calls) = (String::new(), Vec::<(String, String)>::new());
    for part in all {
        match part {
            Part::Content(text) => content.push_str(&text),
            Part::ToolCall(name) => calls.push((name, String::new())),
            Part::Arguments(text) => calls.last_mut()?.1.push_str(&text),
            Part::Reasoning(_) => return None,
            Part::End(_) => {}
        }
    }
    let calls = calls.into_iter().map(|(name, arguments)| {
        Some(Call {
            name,
            numbers: numbers(&arguments),
            arguments: serde_json::from_str(&arguments).ok()?,
        })
    });
    Some(Said {
        content: content.replace("\r\n", "\n").trim().to_owned(),
        calls: calls.collect::<Option<_>>()?,
    })
}

/// The numbers of a JSON text, in order.
fn numbers(json: &str) -> Vec<String> {
    let (mut all, mut number) = (Vec::new(), String::new());
    let (mut in_text, mut escaped) = (false, false);
    for c in json.chars().chain([' ']) {
        if !in_text && (c.is_ascii_digit() || (!number.is_empty() && "+-.eE".contains(c))) {
            number.push(c);
            continue;
        }
        if !number.is_empty() {
            all.push(std::mem::take(&mut number));
        }
        (in_text, escaped) = match (in_text, escaped, c) {
            (true, false, '\\') => (true, true),
            (true, false, '"') => (false, false),
            (false, _, '"') => (true, false),
            (in_text, _, _) => (in_text, false),
        };
    }
    all
}

impl Rendered {
    /// The prompt with turns that are `known`, by their place, as the model wrote them. A
    /// turn that says anything else than what was written stays as it is.
    #[must_use]
    pub fn replay<T: AsRef<Written>>(
        self,
        tokenizer: &Tokenizer,
        known: impl FnMut(Place) -> Vec<T>,
    ) -> Self {
        match replayed(tokenizer, &self.ids, known) {
            Some(ids) if ids != self.ids => self.with_ids(tokenizer, ids),
            _ => self,
        }
    }
}

/// `None` without the format's marks.
fn replayed<T: AsRef<Written>>(
    tokenizer: &Tokenizer,
    ids: &[u32],
    mut known: impl FnMut(Place) -> Vec<T>,
) -> Option<Vec<u32>> {
    let (assistant, eos) = (tokenizer.mark(ASSISTANT)?, tokenizer.eos()?);
    let mut out = Vec::with_capacity(ids.len());
    let mut places = Places::default();
    let mut rest = ids;
    while let Some(at) = rest.iter().position(|&id| id == assistant) {
        let (before, turn) = rest.split_at(at + 1);
        out.extend_from_slice(before);
        places.add(before);
        let ends = turn.iter().position(|&id| id == eos || id == assistant);
        let Some(end) = ends.filter(|&end| turn[end] == eos) else {
            rest = turn;
            continue;
        };
        let (turn, after) = turn.split_at(end);
        let written = known(places.here());
        let parts = Turn::of(tokenizer, turn);
        let new = parts.and_then(|parts| {
            let mut all = written.iter().rev();
            all.find_map(|written| parts.as_written(tokenizer, written.as_ref()))
        });
        let new = new.as_deref().unwrap_or(turn);
        out.extend_from_slice(new);
        places.add(new);
        rest = after;
    }
    out.extend_from_slice(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use serde_json::json;
    use v4_tokenizer::Marks;

    use super::*;
    use crate::{ModelVersion, Protocol, Request};

    fn tokenizer() -> Tokenizer {
        let tiny =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tiny-v4/tokenizer.json");
        let mut tokenizer = Tokenizer::from_json_file(&tiny).unwrap();
        let mut special = tokenizer.special_ids();
        special.eos = tokenizer.mark("<｜end▁of▁sentence｜>");
        tokenizer.set_special_ids(special).unwrap();
        tokenizer
    }

    /// A request that sends a call back.
    fn body(arguments: &str, content: &str) -> Value {
        json!({
            "model": "m",
            "tools": [{"type": "function", "function": {"name": "f"}}],
            "messages": [
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": content, "reasoning_content": "hm",
                    "tool_calls": [{"id": "c1", "type": "function",
                        "function": {"name": "f", "arguments": arguments}}]},
                {"role": "tool", "tool_call_id": "c1", "content": "r"},
            ],
        })
    }

    fn of(body: Value) -> Request {
        Request::from_value(Protocol::Chat, ModelVersion::V4, body).unwrap()
    }

    fn request(arguments: &str, content: &str) -> Request {
        of(body(arguments, content))
    }

    /// As a model may write it: compact JSON, one newline, a token for each byte.
    const TEXT: &str = "hm</think>I look.\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n\
        <｜DSML｜parameter name=\"a\" string=\"false\">{\"x\":[1,2]}</｜DSML｜parameter>\n\
        </｜DSML｜invoke>\n</｜DSML｜tool_calls>";

    /// What the model wrote for the first question.
    fn turn(t: &Tokenizer, plain: &Rendered, text: &str) -> Written {
        let assistant = t.mark(ASSISTANT).unwrap();
        let at = plain.ids.iter().position(|&id| id == assistant).unwrap();
        let think = t.mark(THINK).unwrap();
        let opening = Opening::of(t, &[&plain.ids[..=at], &[think]].concat()).unwrap();
        let written = t.encode(text, Marks::Parse).unwrap();
        opening.written(t, &written, Finish::Stop).unwrap()
    }

    fn replay(t: &Tokenizer, plain: &Rendered, turn: &Written) -> Rendered {
        let known = |place| match place == turn.place {
            true => vec![Arc::new(turn.clone())],
            false => Vec::new(),
        };
        plain.clone().replay(t, known)
    }

    fn replayed(request: &Request) -> (Tokenizer, Vec<u32>, Rendered, Rendered) {
        let t = tokenizer();
        let plain = request.render(&t).unwrap();
        let replayed = replay(&t, &plain, &turn(&t, &plain, TEXT));
        let written = t.encode(TEXT, Marks::Parse).unwrap();
        (t, written, plain, replayed)
    }

    #[test]
    fn a_turn_comes_back_as_it_was_written() {
        let request = request(r#"{"a": {"x": [1, 2]}}"#, "I look.");
        let (t, written, plain, replayed) = replayed(&request);
        assert!(!plain.prompt.contains(TEXT));
        assert!(replayed.prompt.contains(TEXT), "{}", replayed.prompt);
        assert!(replayed.ids.windows(written.len()).any(|w| w == written));
        assert_eq!(t.decode(&replayed.ids).unwrap(), replayed.prompt.as_bytes());
        // The rest is as it was, and marks are where they are said to be.
        let (before, _) = plain.prompt.split_once("hm</think>").unwrap();
        assert!(replayed.prompt.starts_with(before));
        assert!(replayed.prompt.ends_with("<｜Assistant｜><think>"));
        let marks = replayed.special_ranges.iter();
        let again = t.encode_ranges(&replayed.prompt, &marks.cloned().collect::<Vec<_>>());
        assert_eq!(again.unwrap(), replayed.ids);
    }

    #[test]
    fn a_turn_that_was_changed_stays_changed() {
        for (arguments, content) in [
            (r#"{"a": {"x": [1, 3]}}"#, "I look."),
            (r#"{"a": {"x": [1, 2]}, "b": 1}"#, "I look."),
            (r#"{"a": {"x": [1, 2]}}"#, "I do not look."),
        ] {
            let (_, _, plain, replayed) = replayed(&request(arguments, content));
            assert_eq!(plain, replayed, "{arguments} {content}");
        }
    }

    #[test]
    fn reasoning_that_was_not_sent_back_comes_with_its_turn() {
        let t = tokenizer();
        let mut body = body(r#"{"a": {"x": [1, 2]}}"#, " I look.\r\n");
        body["messages"][1]
            .as_object_mut()
            .unwrap()
            .remove("reasoning_content");
        let plain = of(body.clone()).render(&t).unwrap();
        let replayed = replay(&t, &plain, &turn(&t, &plain, TEXT));
        assert!(plain.prompt.contains("<think></think>"));
        assert!(replayed.prompt.contains(&format!("<think>{TEXT}")));
        // Another reasoning stays what it is.
        body["messages"][1]["reasoning_content"] = "hmm".into();
        let plain = of(body.clone()).render(&t).unwrap();
        assert_eq!(replay(&t, &plain, &turn(&t, &plain, TEXT)), plain);
        // Without tools the format leaves reasoning out, and the turn is the format's.
        let body = json!({"model": "m", "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "I look.", "reasoning_content": "hm"},
            {"role": "user", "content": "r"},
        ]});
        let plain = of(body).render(&t).unwrap();
        let same = replay(&t, &plain, &turn(&t, &plain, "hm</think>I look.\n"));
        assert_eq!(plain, same);
    }

    #[test]
    fn a_plain_answer_comes_back_with_its_tokens() {
        let t = tokenizer();
        let body = json!({"model": "m", "thinking": {"type": "disabled"}, "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "A word."},
            {"role": "user", "content": "r"},
        ]});
        let plain = of(body).render(&t).unwrap();
        // A token for each byte.
        let letters = "A word.\n".bytes().map(|b| {
            let letter = [b];
            t.encode(std::str::from_utf8(&letter).unwrap(), Marks::Plain)
                .unwrap()
        });
        let written: Vec<u32> = letters.flatten().collect();
        let at = plain
            .ids
            .iter()
            .position(|&id| Some(id) == t.mark(ASSISTANT));
        let opening = Opening::of(&t, &plain.ids[..at.unwrap() + 2]).unwrap();
        let turn = opening.written(&t, &written, Finish::Length).unwrap();
        let replayed = replay(&t, &plain, &turn);
        assert!(replayed.ids.windows(written.len()).any(|w| w == written));
        assert_ne!(plain, replayed);
        // What comes after another beginning is another turn.
        let elsewhere = Written {
            place: Place([0; 16]),
            ..turn
        };
        assert_eq!(replay(&t, &plain, &elsewhere), plain);
    }

    #[test]
    fn what_the_format_would_not_write_is_not_remembered() {
        let t = tokenizer();
        let encode = |text: &str| t.encode(text, Marks::Parse).unwrap();
        let opening = Opening::of(&t, &encode("q<｜Assistant｜><think>")).unwrap();
        let written = |text: &str, finish| opening.written(&t, &encode(text), finish);
        assert_eq!(written("hm", Finish::Stop), None);
        assert_eq!(written("hm</think>a<｜User｜>b", Finish::Stop), None);
        let cut = written("hm", Finish::Length).unwrap();
        assert_eq!(cut.reasoning, Some(encode("hm")));
        assert!(cut.rest.is_empty());
        assert_eq!(Opening::of(&t, &encode("q")), None);
        let unknown = Written {
            rest: vec![u32::MAX],
            ..cut
        };
        assert!(!unknown.is_sound(&t));
    }

    #[test]
    fn numbers_are_compared_digit_by_digit() {
        let json = r#"{"a": [1, -2.50e+3], "b1": "7 \"8", "c": 12345678901234567890123}"#;
        assert_eq!(numbers(json), ["1", "2.50e+3", "12345678901234567890123"]);
    }
}
