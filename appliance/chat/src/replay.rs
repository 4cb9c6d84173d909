//! Earlier turns as the model wrote them.
//!
//! A client sends a turn back as text and calls of tools, which the format writes in its
//! own way: other white space in arguments, other tokens for the same text. The model
//! would then see another turn than the one that it wrote, and what was computed for its
//! own would be of no use. So turns with calls are remembered by their calls' ids, and
//! put in place of those that say the same.

use deepseek_recipe::stream::ParsingOptions;
use deepseek_recipe_core::messages::InputMessage;
use serde_json::Value;
use v4_runtime::tokenizer::Tokenizer;

use crate::encoder::Rendered;
use crate::parts::{Part, Parts};
use crate::{Finish, Request};

const ASSISTANT: &str = "<｜Assistant｜>";
const THINK: &str = "<think>";
const THINK_END: &str = "</think>";

/// A turn as the model wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Its reasoning, if there was any, without its marks.
    reasoning: Option<Vec<u32>>,
    /// All that comes after the reasoning, to the end of the turn.
    rest: Vec<u32>,
}

impl Written {
    /// Of a prompt that a turn was written for, and the ids that were written; `None`
    /// if the reasoning has not ended or the format's marks are not there.
    #[must_use]
    pub fn new(tokenizer: &Tokenizer, prompt: &[u32], written: &[u32]) -> Option<Self> {
        let (begin, end) = (tokenizer.mark(THINK)?, tokenizer.mark(THINK_END)?);
        let opened = prompt.iter().rposition(|&id| id == begin || id == end)?;
        // What the prompt has of the turn already, such as the beginning of a call.
        let all = [&prompt[opened + 1..], written].concat();
        if prompt[opened] == end {
            return Some(Self {
                reasoning: None,
                rest: all,
            });
        }
        let at = all.iter().position(|&id| id == end)?;
        Some(Self {
            reasoning: Some(all[..at].to_vec()),
            rest: all[at + 1..].to_vec(),
        })
    }

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
}

/// What a turn says, apart from how it is written.
#[derive(Debug, PartialEq)]
struct Said {
    content: String,
    calls: Vec<(String, Value)>,
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
    let calls = calls
        .into_iter()
        .map(|(name, arguments)| Some((name, serde_json::from_str(&arguments).ok()?)));
    Some(Said {
        content: content.trim().to_owned(),
        calls: calls.collect::<Option<_>>()?,
    })
}

impl Request {
    /// A prompt of this request in which turns that are `known`, by the id of a call in
    /// them, are as the model wrote them. A turn that says anything else than what was
    /// written stays as it is.
    #[must_use]
    pub fn replay<T: AsRef<Written>>(
        &self,
        tokenizer: &Tokenizer,
        rendered: Rendered,
        mut known: impl FnMut(&str) -> Option<T>,
    ) -> Rendered {
        let turns: Vec<Option<T>> = self
            .messages()
            .iter()
            .filter_map(|message| match message {
                InputMessage::Assistant { tool_calls, .. } => Some(tool_calls),
                _ => None,
            })
            .map(|calls| known(&calls.as_ref()?.first()?.id))
            .collect();
        if turns.iter().all(Option::is_none) {
            return rendered;
        }
        match replace(tokenizer, &rendered.ids, &turns) {
            Some(ids) if ids != rendered.ids => rendered.with_ids(tokenizer, ids),
            _ => rendered,
        }
    }
}

/// `None` where the prompt's turns are not those of the request, one for one.
fn replace<T: AsRef<Written>>(
    tokenizer: &Tokenizer,
    ids: &[u32],
    turns: &[Option<T>],
) -> Option<Vec<u32>> {
    let assistant = tokenizer.mark(ASSISTANT)?;
    let all = ids.iter().enumerate();
    let begins: Vec<usize> = all
        .filter(|(_, id)| **id == assistant)
        .map(|x| x.0)
        .collect();
    // The last one begins the turn that is to be written.
    if begins.len() != turns.len() + 1 {
        return None;
    }
    let mut out = Vec::with_capacity(ids.len());
    let mut copied = 0;
    for (turn, begin) in turns.iter().zip(begins.windows(2)) {
        let Some(turn) = turn else {
            continue;
        };
        if let Some((end, new)) = rewrite(tokenizer, &ids[..begin[1]], begin[0], turn.as_ref()) {
            out.extend_from_slice(&ids[copied..=begin[0]]);
            out.extend(new);
            copied = end;
        }
    }
    out.extend_from_slice(&ids[copied..]);
    Some(out)
}

/// The turn that begins after `at`, as it was written, and where it ends in `ids`.
fn rewrite(
    tokenizer: &Tokenizer,
    ids: &[u32],
    at: usize,
    turn: &Written,
) -> Option<(usize, Vec<u32>)> {
    let (begin, end) = (tokenizer.mark(THINK)?, tokenizer.mark(THINK_END)?);
    let find = |mark, from: usize| {
        let found = ids[from..].iter().position(|&id| id == mark);
        found.map(|i| from + i)
    };
    let stop = find(tokenizer.eos()?, at)?;
    let thought = find(end, at).filter(|&i| i < stop)?;
    let rest = &ids[thought + 1..stop];
    if rest != turn.rest && said(tokenizer, rest)? != said(tokenizer, &turn.rest)? {
        return None;
    }
    let mut new = ids[at + 1..=thought].to_vec();
    if let (Some(reasoning), Some(&first)) = (&turn.reasoning, new.first())
        && first == begin
        && tokenizer.decode(&new[1..new.len() - 1]).ok()? == tokenizer.decode(reasoning).ok()?
    {
        new = [&[begin], &reasoning[..], &[end]].concat();
    }
    new.extend_from_slice(&turn.rest);
    Some((stop, new))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;
    use v4_runtime::tokenizer::Marks;

    use super::*;
    use crate::{ModelVersion, Protocol};

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
    fn request(arguments: &str, content: &str) -> Request {
        let body = json!({
            "model": "m",
            "tools": [{"type": "function", "function": {"name": "f"}}],
            "messages": [
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": content, "reasoning_content": "hm",
                    "tool_calls": [{"id": "c1", "type": "function",
                        "function": {"name": "f", "arguments": arguments}}]},
                {"role": "tool", "tool_call_id": "c1", "content": "r"},
            ],
        });
        Request::from_value(Protocol::Chat, ModelVersion::V4, body).unwrap()
    }

    /// As a model may write it: compact JSON, one newline, a token for each byte.
    const TEXT: &str = "hm</think>I look.\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n\
        <｜DSML｜parameter name=\"a\" string=\"false\">{\"x\":[1,2]}</｜DSML｜parameter>\n\
        </｜DSML｜invoke>\n</｜DSML｜tool_calls>";

    fn replayed(request: &Request) -> (Tokenizer, Vec<u32>, Rendered, Rendered) {
        let t = tokenizer();
        let written = t.encode(TEXT, Marks::Parse).unwrap();
        let prompt = t.encode("<｜Assistant｜><think>", Marks::Parse).unwrap();
        let turn = Box::new(Written::new(&t, &prompt, &written).unwrap());
        let plain = request.render(&t).unwrap();
        let replayed = request.replay(&t, plain.clone(), |id| (id == "c1").then(|| turn.clone()));
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
    fn what_is_not_known_or_not_whole_changes_nothing() {
        let t = tokenizer();
        let request = request(r#"{"a": {"x": [1, 2]}}"#, "I look.");
        let plain = request.render(&t).unwrap();
        let same = request.replay(&t, plain.clone(), |_| None::<Box<Written>>);
        assert_eq!(plain, same);
        let prompt = t.encode("<｜Assistant｜><think>", Marks::Parse).unwrap();
        let cut = t.encode("hm", Marks::Parse).unwrap();
        assert_eq!(Written::new(&t, &prompt, &cut), None);
    }
}
