//! Reads request bodies as JSON without losing anything that other writers of JSON send.
//!
//! Two things that clients write are more than `serde_json` takes. Half of a surrogate
//! pair, as languages with UTF-16 strings write where they cut a text, becomes U+FFFD, as
//! their UTF-8 encoders have it. An integer beyond 64 bits would become a rounded
//! floating-point number: in the arguments of calls it is an id more often than a
//! quantity, so it is held as text until the prompt is written ([`Digits`]).

use std::borrow::Cow;
use std::ops::Range;

use serde_json::{Map, Value};

use crate::ProtocolError;

/// Stands before and after the digits of a held integer. Two characters of the private
/// use areas in a row, and digits between: nobody writes that by chance.
const MARK: &str = "\u{F8F1}\u{10F1F1}";

/// Longest integer that is held.
const MOST_DIGITS: usize = 4096;

/// Reads a body. Integers of more than 64 bits are held in the arguments of calls
/// (`input` of blocks in `messages`) and are numbers everywhere else.
pub(crate) fn read(body: &[u8]) -> Result<Value, ProtocolError> {
    let body = body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body);
    let text = mended(body);
    let read: Result<Value, _> = serde_json::from_slice(&text);
    let mut value = read.map_err(|e| ProtocolError::invalid_body(&e))?;
    if matches!(text, Cow::Owned(_)) {
        let inputs = take_inputs(&mut value);
        release(&mut value);
        put_inputs(&mut value, inputs);
    }
    Ok(value)
}

/// The arguments of a call, given as JSON in a string, with long integers held.
pub(crate) fn hold(arguments: &str) -> Cow<'_, str> {
    match mended(arguments.as_bytes()) {
        Cow::Borrowed(_) => Cow::Borrowed(arguments),
        // Only ASCII was put in, between characters that were whole.
        Cow::Owned(bytes) => String::from_utf8(bytes).map_or(Cow::Borrowed(arguments), Cow::Owned),
    }
}

/// The text with halves of surrogate pairs replaced and long integers held.
fn mended(body: &[u8]) -> Cow<'_, [u8]> {
    let mut out: Option<Vec<u8>> = None;
    let mut copied = 0;
    let mut replace = |at: Range<usize>, with: &[u8]| {
        let out = out.get_or_insert_with(Vec::new);
        out.extend_from_slice(&body[copied..at.start]);
        out.extend_from_slice(with);
        copied = at.end;
    };
    let (mut i, mut inside) = (0, false);
    while i < body.len() {
        match (inside, body[i]) {
            (true, b'\\') => {
                let (end, half) = escape(body, i);
                if half {
                    replace(i..end, b"\\ufffd");
                }
                i = end;
                continue;
            }
            (_, b'"') => inside = !inside,
            (false, b'-' | b'0'..=b'9') => {
                let end = number(body, i);
                if is_long(&body[i..end]) {
                    let digits = &body[i..end];
                    let held = [b"\"", MARK.as_bytes(), digits, MARK.as_bytes(), b"\""].concat();
                    replace(i..end, &held);
                }
                i = end;
                continue;
            }
            _ => {}
        }
        i += 1;
    }
    match out {
        None => Cow::Borrowed(body),
        Some(mut out) => {
            out.extend_from_slice(&body[copied..]);
            Cow::Owned(out)
        }
    }
}

/// Where an escape ends, and whether it is half of a surrogate pair.
fn escape(body: &[u8], at: usize) -> (usize, bool) {
    let unit = |at: usize| {
        let hex = body.get(at..at + 6)?.strip_prefix(b"\\u")?;
        let hex = std::str::from_utf8(hex).ok()?;
        u16::from_str_radix(hex, 16).ok()
    };
    match unit(at) {
        None => ((at + 2).min(body.len()), false),
        Some(0xD800..=0xDBFF) => match unit(at + 6) {
            Some(0xDC00..=0xDFFF) => (at + 12, false),
            _ => (at + 6, true),
        },
        Some(0xDC00..=0xDFFF) => (at + 6, true),
        Some(_) => (at + 6, false),
    }
}

/// Where a number ends.
fn number(body: &[u8], at: usize) -> usize {
    let part = |b: &u8| matches!(b, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
    let length = body[at..].iter().take_while(|b| part(b)).count();
    at + length
}

/// Whether it is an integer that JSON has and 64 bits have not.
fn is_long(number: &[u8]) -> bool {
    let digits = number.strip_prefix(b"-").unwrap_or(number);
    let whole = digits.len() >= 19
        && digits.len() <= MOST_DIGITS
        && digits[0] != b'0'
        && digits.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(number).unwrap_or_default();
    whole && text.parse::<i64>().is_err() && text.parse::<u64>().is_err()
}

/// The inputs of calls in `messages`, taken out so that they stay as they are.
fn take_inputs(body: &mut Value) -> Vec<Value> {
    blocks_with_input(body).map(Value::take).collect()
}

fn put_inputs(body: &mut Value, inputs: Vec<Value>) {
    for (place, input) in blocks_with_input(body).zip(inputs) {
        *place = input;
    }
}

fn blocks_with_input(body: &mut Value) -> impl Iterator<Item = &mut Value> {
    let messages = body.get_mut("messages").and_then(Value::as_array_mut);
    let contents = messages.into_iter().flatten().filter_map(|message| {
        let content = message.as_object_mut()?.get_mut("content")?;
        content.as_array_mut()
    });
    let blocks = contents.flatten();
    blocks.filter_map(|block| block.as_object_mut()?.get_mut("input"))
}

/// Makes numbers of held integers, as `serde_json` would have.
///
/// Recursion is bounded: `serde_json` reads 128 levels at most.
fn release(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Some(number) = held(text).and_then(|digits| digits.parse::<f64>().ok()) {
                *value = Value::from(number);
            }
        }
        Value::Array(all) => all.iter_mut().for_each(release),
        Value::Object(all) => all.values_mut().for_each(release),
        _ => {}
    }
}

fn held(text: &str) -> Option<&str> {
    text.strip_prefix(MARK)?.strip_suffix(MARK)
}

/// Writes held integers into a prompt as the digits that came.
#[derive(Debug)]
pub(crate) struct Digits;

impl Digits {
    /// The prompt without marks, and its special ranges moved to where they are then.
    /// A parameter that is nothing but an integer is not text: `string="true"` before it
    /// becomes `string="false"`.
    pub fn write(prompt: &str, ranges: &[Range<usize>]) -> Option<(String, Vec<Range<usize>>)> {
        if !prompt.contains(MARK) {
            return None;
        }
        let mut out = String::with_capacity(prompt.len());
        // Pairs of places: in the prompt, and in what is written.
        let mut moved = vec![(0, 0)];
        let mut at = 0;
        while let Some(found) = prompt[at..].find(MARK) {
            let open = at + found;
            let digits = open + MARK.len();
            let Some(length) = prompt[digits..].find(MARK) else {
                break;
            };
            let close = digits + length;
            let end = close + MARK.len();
            let before = &prompt[at..open];
            let quoted = before.ends_with('"') && prompt[end..].starts_with('"');
            const TEXT: &str = "string=\"true\">";
            if quoted {
                out.push_str(&before[..before.len() - 1]);
            } else if let Some(before) = before.strip_suffix(TEXT) {
                out.push_str(before);
                out.push_str("string=\"false\">");
            } else {
                out.push_str(before);
            }
            out.push_str(&prompt[digits..close]);
            at = end + usize::from(quoted);
            moved.push((at, out.len()));
        }
        out.push_str(&prompt[at..]);
        let place = |p: usize| {
            let i = moved.partition_point(|&(from, _)| from <= p);
            let (from, to) = moved[i - 1];
            to + (p - from)
        };
        let ranges = ranges.iter().map(|r| place(r.start)..place(r.end));
        let ranges = ranges.collect();
        Some((out, ranges))
    }
}

/// A whole number, also when it is written as `40.0`.
#[must_use]
pub fn whole(value: &Value) -> Option<i64> {
    if let Some(n) = value.as_i64() {
        return Some(n);
    }
    if let Some(n) = value.as_u64() {
        return Some(i64::try_from(n).unwrap_or(i64::MAX));
    }
    let n = value.as_f64().filter(|n| n.fract() == 0.0)?;
    // Saturates; no request needs that many of anything.
    Some(n as i64)
}

/// A field that is there and not null.
pub(crate) fn present<'a>(body: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    body.get(name).filter(|value| !value.is_null())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(body: &str) -> Value {
        read(body.as_bytes()).unwrap()
    }

    #[test]
    fn halves_of_pairs_are_replaced_and_pairs_are_not() {
        for (body, read) in [
            (r#""a \ud83d b""#, "a \u{fffd} b"),
            (r#""a \udc00""#, "a \u{fffd}"),
            (r#""\ud83d\ud83d\ude00""#, "\u{fffd}\u{1f600}"),
            (r#""\ud83d\ude00""#, "\u{1f600}"),
            (r#""\\ud83d""#, "\\ud83d"),
            (r#""\\\ud83d""#, "\\\u{fffd}"),
        ] {
            assert_eq!(text(body), read, "{body}");
        }
        assert!(read(br#""\ud83"#).is_err());
        assert_eq!(text("\u{feff}{\"a\":1}")["a"], 1);
    }

    #[test]
    fn long_integers_are_held_in_calls_alone() {
        let n = "12345678901234567890123";
        let body = text(&format!(
            r#"{{"max_tokens": {n}, "messages": [{{"content": [{{"input": {{"id": {n}}}}}]}}]}}"#
        ));
        assert_eq!(body["max_tokens"].as_f64(), Some(1.2345678901234568e22));
        let input = &body["messages"][0]["content"][0]["input"]["id"];
        assert_eq!(held(input.as_str().unwrap()), Some(n));
        for same in [
            "18446744073709551615",
            "-9223372036854775808",
            "1.5",
            "1e400000",
        ] {
            assert_eq!(hold(same), same);
        }
        assert_ne!(hold("18446744073709551616"), "18446744073709551616");
    }

    #[test]
    fn a_prompt_has_the_digits() {
        let n = "12345678901234567890123";
        let held = format!("{MARK}{n}{MARK}");
        let prompt = format!("<m name=\"id\" string=\"true\">{held}</m>[\"{held}\", 1]<m>");
        let last = prompt.len() - 3..prompt.len();
        let (out, ranges) = Digits::write(&prompt, &[0..2, last]).unwrap();
        assert_eq!(
            out,
            format!("<m name=\"id\" string=\"false\">{n}</m>[{n}, 1]<m>")
        );
        assert_eq!(&out[ranges[1].clone()], "<m>");
        assert_eq!(ranges[0], 0..2);
        assert!(Digits::write("plain", &[]).is_none());
        // Marks that a client wrote itself do no harm.
        assert!(Digits::write(MARK, &[]).is_some_and(|(out, _)| out == MARK));
    }

    #[test]
    fn whole_numbers_have_two_spellings() {
        for (value, n) in [
            ("40.0", Some(40)),
            ("-1", Some(-1)),
            ("1.5", None),
            ("\"1\"", None),
        ] {
            assert_eq!(whole(&text(value)), n);
        }
    }
}
