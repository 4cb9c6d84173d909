//! Prompts of raw text, and of gaps to fill.

use std::ops::Range;

use serde_json::Value;
use v4_tokenizer::{GAP_MARKS, Marks, Tokenizer};

use super::fields::{Fields, wrong};
use crate::http::{ApiError, Completing, Kind};

/// The last tokens of a text may be others when it continues. Where a gap is filled, what is
/// typed next is this many tokens before the hole.
const TAILS: [usize; 2] = [64, 16];
/// Texts in addition to the one with the gap.
const MOST_EXTRA: usize = 1024;

/// Which marks in a text are marks; the others are letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// None: where they stand in a file they are part of it.
    Plain,
    /// Those of gaps: who writes a prompt for a gap by hand means them.
    Gaps,
    /// All (`parse_special`).
    All,
}

/// The ids of a text.
pub(crate) fn encode(
    tokenizer: &Tokenizer,
    text: &str,
    reading: Reading,
) -> Result<Vec<u32>, ApiError> {
    let ids = match reading {
        Reading::Plain => tokenizer.encode(text, Marks::Plain),
        Reading::All => tokenizer.encode(text, Marks::Parse),
        Reading::Gaps => tokenizer.encode_ranges(text, &gaps(tokenizer, text)),
    };
    ids.map_err(|e| ApiError::new(Kind::Invalid, e.to_string()))
}

/// Where the marks of a gap stand.
fn gaps(tokenizer: &Tokenizer, text: &str) -> Vec<Range<usize>> {
    let known = GAP_MARKS
        .iter()
        .filter(|mark| tokenizer.mark(mark).is_some());
    let mut all: Vec<_> = known
        .flat_map(|mark| {
            text.match_indices(mark)
                .map(|(at, mark)| at..at + mark.len())
        })
        .collect();
    all.sort_unstable_by_key(|range| range.start);
    all
}

/// A text in addition to the one with the gap.
#[derive(Debug, PartialEq, Eq)]
struct Extra {
    name: Option<String>,
    text: String,
}

/// The text to continue.
#[derive(Debug)]
enum Wanted {
    /// A text, or ids, or both.
    Raw(Vec<Piece>),
    /// A gap between two texts.
    Gap {
        extra: Vec<Extra>,
        before: Vec<Piece>,
        after: String,
    },
}

#[derive(Debug)]
enum Piece {
    Text(String),
    Id(u32),
}

/// The ids of a request's prompt, and where later ones may continue from.
pub(super) fn read(
    tokenizer: &Tokenizer,
    fields: &Fields,
    completing: &Completing,
) -> Result<(Vec<u32>, Vec<usize>), ApiError> {
    let wanted = wanted(tokenizer, fields, completing)?;
    let all = fields.flag("parse_special")? == Some(true);
    let begins = fields.flag("add_special_tokens")? != Some(false);
    let ids = match wanted {
        Wanted::Raw(pieces) => {
            let reading = if all { Reading::All } else { Reading::Gaps };
            let ids = encode_pieces(tokenizer, &pieces, reading)?;
            begun(tokenizer, ids, begins)?
        }
        Wanted::Gap {
            extra,
            before,
            after,
        } => {
            let reading = if all { Reading::All } else { Reading::Plain };
            let text = |text: &str| encode(tokenizer, text, reading);
            let mut ids = match begins {
                true => begun(tokenizer, Vec::new(), true)?,
                false => Vec::new(),
            };
            for extra in &extra {
                // As the model family's repositories were written down for training.
                let name = extra.name.as_deref().unwrap_or("snippet");
                ids.extend(text(&format!(
                    "#{name}\n{}\n",
                    extra.text.trim_end_matches('\n')
                ))?);
            }
            let [begin, hole, end] = GAP_MARKS;
            ids.push(mark(tokenizer, begin)?);
            ids.extend(encode_pieces(tokenizer, &before, reading)?);
            ids.push(mark(tokenizer, hole)?);
            ids.extend(text(&after)?);
            ids.push(mark(tokenizer, end)?);
            ids
        }
    };
    let checkpoints = checkpoints(tokenizer, &ids);
    Ok((ids, checkpoints))
}

fn wanted(
    tokenizer: &Tokenizer,
    fields: &Fields,
    completing: &Completing,
) -> Result<Wanted, ApiError> {
    if *completing == Completing::Infill {
        let before = [fields.text("input_prefix")?, fields.text("prompt")?];
        let before: String = before.into_iter().flatten().collect();
        return Ok(Wanted::Gap {
            extra: extra(fields)?,
            before: vec![Piece::Text(before)],
            after: fields.text("input_suffix")?.unwrap_or_default().to_owned(),
        });
    }
    let prompt = fields.get("prompt");
    if let (None, Some(segments)) = (prompt, fields.get("segments")) {
        return tabby(segments);
    }
    let Some(prompt) = prompt else {
        return Err(ApiError::invalid("prompt", "The request has no prompt."));
    };
    let pieces = pieces(tokenizer, prompt)?;
    match (fields.text("suffix")?, completing) {
        (Some(after), _) => Ok(Wanted::Gap {
            extra: Vec::new(),
            before: pieces,
            after: after.to_owned(),
        }),
        // There a prompt without anything after it is a gap at a file's end.
        (None, Completing::Fim) => Ok(Wanted::Gap {
            extra: Vec::new(),
            before: pieces,
            after: String::new(),
        }),
        (None, _) => Ok(Wanted::Raw(pieces)),
    }
}

/// Tabby's way to describe a gap.
fn tabby(segments: &Value) -> Result<Wanted, ApiError> {
    let wrong = || {
        wrong(
            "segments",
            "an object with the strings prefix and suffix; or send a prompt",
        )
    };
    let text = |name: &str| match &segments[name] {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        _ => Err(wrong()),
    };
    let before = text("prefix")?.ok_or_else(wrong)?;
    let lists = [
        "declarations",
        "relevant_snippets_from_changed_files",
        "relevant_snippets_from_recently_opened_files",
    ];
    let mut extra = Vec::new();
    for snippet in lists
        .iter()
        .filter_map(|name| segments[*name].as_array())
        .flatten()
    {
        extra.push(Extra {
            name: snippet["filepath"].as_str().map(str::to_owned),
            text: snippet["body"].as_str().ok_or_else(wrong)?.to_owned(),
        });
    }
    if extra.len() > MOST_EXTRA {
        return Err(wrong());
    }
    Ok(Wanted::Gap {
        extra,
        before: vec![Piece::Text(before)],
        after: text("suffix")?.unwrap_or_default(),
    })
}

/// Other files, in the order in which they are given: who sends them puts those that
/// change least first.
fn extra(fields: &Fields) -> Result<Vec<Extra>, ApiError> {
    let wrong = || {
        wrong(
            "input_extra",
            "a list of objects with the strings text and filename",
        )
    };
    let all = match fields.get("input_extra") {
        None => return Ok(Vec::new()),
        Some(value) => value.as_array().ok_or_else(wrong)?,
    };
    if all.len() > MOST_EXTRA {
        return Err(wrong());
    }
    let one = |value: &Value| {
        let name = match &value["filename"] {
            Value::Null => None,
            Value::String(name) => Some(name.clone()),
            _ => return Err(wrong()),
        };
        let text = value["text"].as_str().ok_or_else(wrong)?.to_owned();
        Ok(Extra { name, text })
    };
    all.iter().map(one).collect()
}

/// A prompt as it is given: a text, ids, both mixed, or a list with one of these.
fn pieces(tokenizer: &Tokenizer, prompt: &Value) -> Result<Vec<Piece>, ApiError> {
    let wrong = || {
        ApiError::invalid(
            "prompt",
            "Invalid prompt: it must be one string or one list of token ids.",
        )
    };
    let id = |value: &Value| {
        let id = value
            .as_u64()
            .filter(|&id| id < tokenizer.vocab_size() as u64)?;
        u32::try_from(id).ok()
    };
    match prompt {
        Value::String(text) => Ok(vec![Piece::Text(text.clone())]),
        // A list of one prompt is one prompt.
        Value::Array(all) if all.len() == 1 && !all[0].is_number() => match &all[0] {
            Value::Array(inner) if inner.iter().any(Value::is_array) => Err(wrong()),
            one => pieces(tokenizer, one),
        },
        Value::Array(all) if all.is_empty() => Ok(Vec::new()),
        // Several texts are several prompts, unless ids stand between them.
        Value::Array(all) if all.iter().any(Value::is_number) => all
            .iter()
            .map(|value| match value {
                Value::String(text) => Ok(Piece::Text(text.clone())),
                other => id(other).map(Piece::Id).ok_or_else(wrong),
            })
            .collect(),
        _ => Err(wrong()),
    }
}

fn encode_pieces(
    tokenizer: &Tokenizer,
    pieces: &[Piece],
    reading: Reading,
) -> Result<Vec<u32>, ApiError> {
    let mut ids = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => ids.extend(encode(tokenizer, text, reading)?),
            Piece::Id(id) => ids.push(*id),
        }
    }
    Ok(ids)
}

/// With what begins every text, unless ids begin with it themselves.
fn begun(tokenizer: &Tokenizer, ids: Vec<u32>, begins: bool) -> Result<Vec<u32>, ApiError> {
    let bos = tokenizer.bos().ok_or_else(|| {
        ApiError::new(
            Kind::Internal,
            "The tokenizer has no begin-of-sentence \
                                                      token.",
        )
    })?;
    Ok(match ids.first() {
        Some(&first) if first == bos => ids,
        _ if begins => [vec![bos], ids].concat(),
        None => {
            return Err(ApiError::invalid(
                "prompt",
                "The prompt is empty, and add_special_tokens turns off the begin-of-sentence \
                 token.",
            ));
        }
        Some(_) => ids,
    })
}

fn mark(tokenizer: &Tokenizer, mark: &'static str) -> Result<u32, ApiError> {
    tokenizer.mark(mark).ok_or_else(|| {
        ApiError::invalid(
            "suffix",
            format!("This model cannot fill in the middle: its tokenizer has no {mark}."),
        )
    })
}

/// Places that later prompts are likely to share: where the gap's text begins, and a little
/// before what is typed next.
fn checkpoints(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<usize> {
    let last = |mark: &str| {
        let mark = tokenizer.mark(mark)?;
        ids.iter().rposition(|&id| id == mark)
    };
    let [begin, hole, _] = GAP_MARKS;
    let typed = last(hole).unwrap_or(ids.len());
    let mut all: Vec<usize> = TAILS
        .iter()
        .filter_map(|tail| typed.checked_sub(*tail))
        .chain(last(begin))
        .filter(|&at| at > 1)
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    fn tiny() -> Tokenizer {
        let tiny = "../../tests/data/tiny-v4/tokenizer.json";
        Tokenizer::from_json_file(&Path::new(env!("CARGO_MANIFEST_DIR")).join(tiny)).unwrap()
    }

    #[track_caller]
    fn ids(completing: &Completing, body: Value) -> Result<Vec<u32>, ApiError> {
        let fields = Fields::new(body, completing)?;
        read(&tiny(), &fields, completing).map(|(ids, _)| ids)
    }

    #[test]
    fn a_gap_is_the_same_however_it_is_asked_for() {
        let [begin, hole, end] = GAP_MARKS;
        let openai = |body| ids(&Completing::OpenAi, body).unwrap();
        let asked = openai(json!({"prompt": "fn f(", "suffix": ") {}"}));
        let by_hand = openai(json!({"prompt": format!("{begin}fn f({hole}) {{}}{end}")}));
        assert_eq!(asked, by_hand);
        let tabby = json!({"segments": {"prefix": "fn f(", "suffix": ") {}", "filepath": "x"}});
        assert_eq!(openai(tabby), asked);
        let infill = json!({"input_prefix": "fn f", "prompt": "(", "input_suffix": ") {}"});
        assert_eq!(ids(&Completing::Infill, infill).unwrap(), asked);
        let fim = ids(
            &Completing::Fim,
            json!({"prompt": "fn f(", "suffix": ") {}"}),
        );
        assert_eq!(fim.unwrap(), asked);
    }

    #[test]
    fn marks_in_a_gaps_texts_are_letters_unless_it_is_said() {
        let [_, hole, _] = GAP_MARKS;
        let mark = tiny().mark(hole).unwrap();
        let count = |body| {
            let ids = ids(&Completing::OpenAi, body).unwrap();
            ids.iter().filter(|&&id| id == mark).count()
        };
        let text = format!("const HOLE: &str = \"{hole}\";");
        assert_eq!(count(json!({"prompt": text, "suffix": text})), 1);
        let all = json!({"prompt": text, "suffix": text, "parse_special": true});
        assert_eq!(count(all), 3);
        assert_eq!(count(json!({"prompt": text})), 1);
        let user = "<｜User｜>";
        let plain = ids(&Completing::OpenAi, json!({"prompt": user})).unwrap();
        let parsed = json!({"prompt": user, "parse_special": true});
        let parsed = ids(&Completing::OpenAi, parsed).unwrap();
        assert!(plain.len() > 2 && parsed.len() == 2);
    }

    #[test]
    fn other_files_stand_before_the_gap() {
        let tokenizer = tiny();
        let body = json!({"input_prefix": "a", "input_suffix": "b", "input_extra":
            [{"filename": "x.rs", "text": "fn x() {}\n"}, {"text": "more"}]});
        let all = ids(&Completing::Infill, body.clone()).unwrap();
        let begin = tokenizer.mark(GAP_MARKS[0]).unwrap();
        let at = all.iter().position(|&id| id == begin).unwrap();
        let extra = tokenizer.decode_text(&all[1..at]).unwrap();
        assert_eq!(extra, "#x.rs\nfn x() {}\n#snippet\nmore\n");
        let fields = Fields::new(body, &Completing::Infill).unwrap();
        let (_, checkpoints) = read(&tokenizer, &fields, &Completing::Infill).unwrap();
        assert!(checkpoints.contains(&at));
    }

    #[test]
    fn prompts_have_many_forms_and_none_is_guessed() {
        let openai = |body| ids(&Completing::OpenAi, body);
        let text = openai(json!({"prompt": "fn main"})).unwrap();
        assert_eq!(openai(json!({"prompt": ["fn main"]})).unwrap(), text);
        assert_eq!(openai(json!({"prompt": text})).unwrap(), text);
        assert_eq!(openai(json!({"prompt": [text]})).unwrap(), text);
        assert_eq!(openai(json!({"prompt": text[1..]})).unwrap(), text);
        assert_eq!(
            openai(json!({"prompt": [text[0], "fn main"]})).unwrap(),
            text
        );
        let bare = json!({"prompt": "fn main", "add_special_tokens": false});
        assert_eq!(openai(bare).unwrap(), text[1..]);
        for (body, name) in [
            (json!({}), "prompt"),
            (json!({"prompt": null}), "prompt"),
            (json!({"prompt": ["a", "b"]}), "prompt"),
            (json!({"prompt": [[1], [2]]}), "prompt"),
            (json!({"prompt": [[[1]]]}), "prompt"),
            (json!({"prompt": [999_999]}), "prompt"),
            (json!({"prompt": [1.5]}), "prompt"),
            (json!({"prompt": {}}), "prompt"),
            (json!({"prompt": "", "add_special_tokens": false}), "prompt"),
            (json!({"prompt": "x", "suffix": 1}), "suffix"),
            (json!({"segments": {"suffix": "x"}}), "segments"),
            (json!({"segments": "x"}), "segments"),
        ] {
            let error = openai(body.clone()).unwrap_err();
            assert_eq!(error.param, Some(name), "{body}");
        }
        let extra = json!({"input_extra": [{"filename": "x"}]});
        assert!(ids(&Completing::Infill, extra).is_err());
    }
}
