//! Parts of messages: text under all its names, text documents, and parts that this model
//! cannot read.

use ct_codecs::{Base64NoPadding, Base64UrlSafeNoPadding, Decoder};
use serde_json::{Map, Value, json};

use super::refusal::Refusal;

/// An object and where it stands, as in `messages[3]`.
pub(super) type Placed = (String, Map<String, Value>);

/// The messages of a body, taken out of it: objects with their places. A text alone is the
/// user's, and nothing is not a message.
///
/// # Errors
/// What is not a list of objects.
pub(super) fn messages(body: &mut Map<String, Value>) -> Result<Vec<Placed>, Refusal> {
    const PARAM: &str = "messages";
    let list = match body.get_mut(PARAM) {
        Some(Value::Array(messages)) => std::mem::take(messages),
        Some(Value::String(text)) => vec![json!({"role": "user", "content": text})],
        _ => {
            return Err(Refusal::new(PARAM, "messages: must be a list of messages."));
        }
    };
    let mut all = Vec::with_capacity(list.len());
    for (i, message) in list.into_iter().enumerate() {
        let place = format!("messages[{i}]");
        match message {
            Value::Null => {}
            Value::Object(message) => all.push((place, message)),
            _ => {
                return Err(Refusal::new(
                    PARAM,
                    format!("{place}: a message must be an object."),
                ));
            }
        }
    }
    Ok(all)
}

/// The text of a content that is in form: a text, or a list of texts.
pub(super) fn joined(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts: Vec<_> = parts.iter().filter_map(|p| p["text"].as_str()).collect();
            texts.join("\n\n")
        }
        _ => String::new(),
    }
}

/// Base64 text is four thirds of its bytes; a body is bounded already.
const MOST_DOCUMENT: usize = 64 << 20;

/// What a part of a message is.
pub(super) enum Part {
    /// Text.
    Text(String),
    /// Something else; its type.
    Other(String, Map<String, Value>),
}

/// Names that text has in the protocols.
const TEXT: [&str; 7] = [
    "text",
    "input_text",
    "output_text",
    "summary_text",
    "reasoning_text",
    "plain_text",
    "refusal",
];

impl Part {
    /// The text that it has.
    ///
    /// # Errors
    /// As [`readable`].
    pub fn into_text(self, param: &'static str, place: &str) -> Result<String, Refusal> {
        match self {
            Self::Text(text) => Ok(text),
            Self::Other(kind, part) => readable(param, place, &kind, &part),
        }
    }
}

/// A message's content.
pub(super) enum Content {
    /// A text alone.
    Text(String),
    /// What may be read by [`parts`]; empty where there is nothing.
    Parts(Vec<Value>),
}

impl Content {
    /// Reads the content of the message at `place`, whose protocol calls its parts `parts`.
    pub fn of(
        param: &'static str,
        place: &str,
        content: Option<Value>,
        parts: &str,
    ) -> Result<Self, Refusal> {
        match content {
            None | Some(Value::Null) => Ok(Self::Parts(Vec::new())),
            Some(Value::String(text)) => Ok(Self::Text(text)),
            Some(Value::Array(parts)) => Ok(Self::Parts(parts)),
            Some(part @ Value::Object(_)) => Ok(Self::Parts(vec![part])),
            Some(_) => Err(Refusal::new(
                param,
                format!("{place}.content: must be a string or a list of {parts}."),
            )),
        }
    }
}

/// Reads the parts of the list at `place`, each with its own place; those that are nothing
/// are passed over.
pub(super) fn parts(
    param: &'static str,
    place: String,
    list: Vec<Value>,
) -> impl Iterator<Item = Result<(String, Part), Refusal>> {
    let parts = list.into_iter().enumerate().map(move |(i, value)| {
        let place = format!("{place}[{i}]");
        Ok(part(param, &place, value)?.map(|part| (place, part)))
    });
    parts.filter_map(Result::transpose)
}

/// Reads a part of a message; `None` for one that is nothing.
fn part(param: &'static str, place: &str, part: Value) -> Result<Option<Part>, Refusal> {
    let part = match part {
        Value::Null => return Ok(None),
        Value::String(text) => return Ok(Some(Part::Text(text))),
        Value::Object(part) => part,
        _ => {
            return Err(Refusal::new(
                param,
                format!("{place}: a part of a message must be an object with a type, or a string."),
            ));
        }
    };
    let kind = match part.get("type") {
        Some(Value::String(kind)) => kind.clone(),
        None | Some(Value::Null) if part.contains_key("text") => "text".to_owned(),
        _ => {
            return Err(Refusal::new(
                param,
                format!("{place}: this part has no type."),
            ));
        }
    };
    if TEXT.contains(&&*kind) {
        let text = part.get("text").or_else(|| part.get(&*kind));
        return match text {
            Some(Value::String(text)) => Ok(Some(Part::Text(text.clone()))),
            None | Some(Value::Null) => Ok(None),
            Some(_) => Err(Refusal::new(
                param,
                format!("{place}.text: must be a string."),
            )),
        };
    }
    Ok(Some(Part::Other(kind, part)))
}

/// The text of a part that is not plain text but has some: a document, a search result.
///
/// # Errors
/// A part that this model cannot read, by its place and type.
pub(super) fn readable(
    param: &'static str,
    place: &str,
    kind: &str,
    part: &Map<String, Value>,
) -> Result<String, Refusal> {
    match kind {
        "document" => document(param, place, part),
        "search_result" => Ok(search_result(part)),
        "input_file" | "file" => file(param, place, kind, part),
        "tool_reference" => Ok(text_of(part, "tool_name").to_owned()),
        "image" | "image_url" | "input_image" | "image_file" => Err(Refusal::new(
            param,
            format!("{place}: {kind}: this service accepts only text, no images."),
        )),
        _ => Err(Refusal::new(
            param,
            format!("{place}: parts of type {kind} are not supported; send text."),
        )),
    }
}

fn text_of<'a>(part: &'a Map<String, Value>, name: &str) -> &'a str {
    part.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// A text with its title before it, if it has one.
fn titled(title: &str, text: &str) -> String {
    match title.trim() {
        "" => text.to_owned(),
        title => format!("{title}\n\n{text}"),
    }
}

/// Messages' `document`.
fn document(
    param: &'static str,
    place: &str,
    part: &Map<String, Value>,
) -> Result<String, Refusal> {
    let none = Map::new();
    let source = part
        .get("source")
        .and_then(Value::as_object)
        .unwrap_or(&none);
    let media = text_of(source, "media_type");
    let text = match text_of(source, "type") {
        "text" => text_of(source, "data").to_owned(),
        "content" => match source.get("content") {
            Some(Value::Array(blocks)) => {
                let mut texts = Vec::new();
                for block in parts(param, format!("{place}.source.content"), blocks.clone()) {
                    let (place, block) = block?;
                    if matches!(&block, Part::Other(kind, _) if kind == "document") {
                        return Err(Refusal::new(
                            param,
                            format!("{place}: a document inside a document is not supported."),
                        ));
                    }
                    texts.push(block.into_text(param, &place)?);
                }
                texts.join("\n\n")
            }
            other => other.and_then(Value::as_str).unwrap_or_default().to_owned(),
        },
        "base64" => decoded(param, place, "document", media, text_of(source, "data"))?,
        kind => {
            return Err(Refusal::new(
                param,
                format!(
                    "{place}: document: a source of type {kind:?} cannot be fetched; send its text."
                ),
            ));
        }
    };
    let text = match text_of(part, "context").trim() {
        "" => text,
        context => format!("{context}\n\n{text}"),
    };
    Ok(titled(text_of(part, "title"), &text))
}

fn search_result(part: &Map<String, Value>) -> String {
    let texts: Vec<&str> = match part.get("content") {
        Some(Value::Array(all)) => all.iter().filter_map(|c| c["text"].as_str()).collect(),
        Some(Value::String(text)) => vec![text],
        _ => Vec::new(),
    };
    let title = [text_of(part, "title"), text_of(part, "source")];
    let title: Vec<&str> = title.into_iter().filter(|t| !t.is_empty()).collect();
    titled(&title.join("\n"), &texts.join("\n\n"))
}

/// Responses' `input_file` and Chat Completions' `file`.
fn file(
    param: &'static str,
    place: &str,
    kind: &str,
    part: &Map<String, Value>,
) -> Result<String, Refusal> {
    let part = part.get("file").and_then(Value::as_object).unwrap_or(part);
    let data = text_of(part, "file_data");
    if data.is_empty() {
        return Err(Refusal::new(
            param,
            format!(
                "{place}: {kind}: this service neither stores nor fetches files; send \
                     file_data."
            ),
        ));
    }
    let (media, data) = match data.strip_prefix("data:").and_then(|d| d.split_once(',')) {
        Some((media, data)) => (media.trim_end_matches(";base64"), data),
        None => ("", data),
    };
    if media.starts_with("image/") {
        return Err(Refusal::new(
            param,
            format!("{place}: {kind}: this service accepts only text, no images."),
        ));
    }
    let text = decoded(param, place, kind, media, data)?;
    Ok(titled(text_of(part, "filename"), &text))
}

/// A document in Base64 that is text in UTF-8.
fn decoded(
    param: &'static str,
    place: &str,
    kind: &str,
    media: &str,
    data: &str,
) -> Result<String, Refusal> {
    let refuse = |why: String| Refusal::new(param, format!("{place}: {kind}: {why}"));
    let data: String = data.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    if data.len() > MOST_DOCUMENT {
        return Err(refuse(format!("it exceeds {MOST_DOCUMENT} bytes.")));
    }
    let data = data.trim_end_matches('=');
    let bytes = Base64NoPadding::decode_to_vec(data, None)
        .or_else(|_| Base64UrlSafeNoPadding::decode_to_vec(data, None))
        .map_err(|_| refuse("its data is not Base64.".into()))?;
    let text = String::from_utf8(bytes).ok();
    // What has NULs is a program's file, whatever its bytes spell.
    let text = text.filter(|text| !text.starts_with("%PDF-") && !text.contains('\0'));
    text.ok_or_else(|| {
        let media = if media.is_empty() { "this kind" } else { media };
        refuse(format!(
            "{media} documents are not supported, only UTF-8 text; send its text."
        ))
    })
}

/// Whether a part has text that belongs to the conversation, in an answer of another
/// provider: what its tools brought, and what it thought where nobody can read it, does
/// not.
pub(super) fn is_foreign(kind: &str) -> bool {
    const KINDS: [&str; 9] = [
        "redacted_thinking",
        "thinking",
        "reasoning",
        "server_tool_use",
        "mcp_tool_use",
        "mcp_tool_result",
        "container_upload",
        "fallback",
        "compaction_delta",
    ];
    KINDS.contains(&kind) || kind.ends_with("_tool_result") || kind.ends_with("_tool_use")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Result<String, Refusal> {
        let list = vec![Value::Null, value];
        let mut text = String::new();
        for part in parts("messages", "messages[0].content".into(), list) {
            let (place, part) = part?;
            text += &part.into_text("messages", &place)?;
        }
        Ok(text)
    }

    #[test]
    fn text_has_many_names() {
        for value in [
            json!("T"),
            json!({"type": "text", "text": "T"}),
            json!({"type": "input_text", "text": "T"}),
            json!({"type": "output_text", "text": "T", "annotations": []}),
            json!({"type": "refusal", "refusal": "T"}),
            json!({"text": "T"}),
            json!({"type": "document", "source": {"type": "text", "data": "T"}}),
            json!({"type": "document", "source": {"type": "base64", "media_type": "text/plain", "data": "VA=="}}),
            json!({"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "T"}]}}),
            json!({"type": "input_file", "file_data": "data:text/plain;base64,VA=="}),
            json!({"type": "file", "file": {"file_data": "VA=="}}),
            json!({"type": "search_result", "content": [{"type": "text", "text": "T"}]}),
        ] {
            assert_eq!(read(value.clone()).unwrap(), "T", "{value}");
        }
    }

    #[test]
    fn what_is_no_text_is_refused_by_place_and_type() {
        for (value, word) in [
            (
                json!({"type": "image_url", "image_url": {"url": "x"}}),
                "image",
            ),
            (json!({"type": "image", "source": {}}), "image"),
            (json!({"type": "input_image", "image_url": "x"}), "image"),
            (
                json!({"type": "input_audio", "input_audio": {}}),
                "input_audio",
            ),
            (json!({"type": "video_url"}), "video_url"),
            (
                json!({"type": "document", "source": {"type": "url", "url": "x"}}),
                "document",
            ),
            (
                json!({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0x"}}),
                "pdf",
            ),
            (json!({"type": "input_file", "file_id": "f"}), "input_file"),
            (
                json!({"type": "file", "file_data": "data:image/png;base64,AA=="}),
                "image",
            ),
            (json!({"type": "file", "file_data": "%"}), "Base64"),
            (json!({"no": "type"}), "type"),
            (json!(7), "object"),
        ] {
            let message = read(value).unwrap_err().message;
            assert!(
                message.contains(word) && message.contains("messages[0].content[1]"),
                "{message}"
            );
        }
    }
}
