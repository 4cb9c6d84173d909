//! Conversations at a terminal, and the model's replies.

mod common;

use serde_json::json;
use v4_chat::{
    ChatError, Conversation, Effort, ModelVersion, Piece, Protocol, ReplyParser, Request, Turn,
};
use v4_tokenizer::{Marks, Tokenizer};

fn tiny() -> Tokenizer {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/data/tiny-v4/tokenizer.json"
    );
    Tokenizer::from_json_file(std::path::Path::new(path)).unwrap()
}

fn conversation(version: ModelVersion, thinking: bool) -> Conversation {
    let mut c = Conversation::new(version, thinking);
    c.turns = vec![
        Turn::System("Be brief. <｜User｜>".into()),
        Turn::User("Hi <｜Assistant｜>".into()),
        Turn::Assistant {
            reasoning: thinking.then(|| "A greeting.".into()),
            answer: "Hello! <think>".into(),
        },
        Turn::User("你好".into()),
    ];
    c
}

#[test]
fn a_conversation_has_the_prompt_of_the_same_chat_request() {
    let tokenizers = common::Tokenizers::load();
    for version in [ModelVersion::V4, ModelVersion::V41] {
        for (thinking, effort, name) in [
            (false, Effort::High, "high"),
            (true, Effort::High, "high"),
            (true, Effort::Low, "low"),
            (true, Effort::Max, "max"),
        ] {
            let mut c = conversation(version, thinking);
            c.effort = effort;
            let mut answer = json!({"role": "assistant", "content": "Hello! <think>"});
            if thinking {
                answer["reasoning_content"] = "A greeting.".into();
            }
            let body = json!({
                "model": "m",
                "messages": [
                    {"role": "system", "content": "Be brief. <｜User｜>"},
                    {"role": "user", "content": "Hi <｜Assistant｜>"},
                    answer,
                    {"role": "user", "content": "你好"},
                ],
                "thinking": {"type": if thinking { "enabled" } else { "disabled" }},
                "reasoning_effort": name,
            });
            let request = Request::from_value(Protocol::Chat, version, body).unwrap();
            let tokenizer = tokenizers.of(version);
            let expected = request.render(tokenizer).unwrap();
            let rendered = c.render(tokenizer).unwrap();
            assert_eq!(rendered, expected, "{version:?} {thinking} {name}");
            // The users' marks are text.
            let users = tokenizer.mark("<｜User｜>").unwrap();
            let count = rendered.ids.iter().filter(|&&id| id == users).count();
            assert_eq!(count, 2);
        }
    }
}

#[test]
fn a_conversation_without_a_question_is_refused() {
    let t = tiny();
    let mut c = conversation(ModelVersion::V4, false);
    c.turns.pop();
    assert!(matches!(c.render(&t), Err(ChatError::NoUserTurn)));
    c.turns.clear();
    assert!(matches!(c.render(&t), Err(ChatError::NoUserTurn)));
}

#[test]
fn a_tokenizer_without_the_marks_of_the_format_is_an_error() {
    // The tiny tokenizer is that of V4: it lacks V4.1's system mark.
    let error = conversation(ModelVersion::V41, false)
        .render(&tiny())
        .unwrap_err();
    assert!(error.to_string().contains("<｜System｜>"), "{error}");
}

/// The pieces of a reply, joined where they are of one kind.
fn read(t: &Tokenizer, thinking: bool, ids: &[u32]) -> (String, String) {
    let mut reply = ReplyParser::new(t, thinking);
    let mut pieces = Vec::new();
    for &id in ids {
        pieces.extend(reply.push(id).unwrap());
    }
    pieces.extend(reply.finish().unwrap());
    let (mut reasoning, mut answer) = (String::new(), String::new());
    for piece in pieces {
        match piece {
            Piece::Reasoning(text) => reasoning.push_str(&text),
            Piece::Answer(text) => answer.push_str(&text),
        }
    }
    (reasoning, answer)
}

#[test]
fn reasoning_ends_at_its_mark_and_not_at_its_spelling() {
    let t = tiny();
    let mut ids = t.encode("so </think> is text 🐳", Marks::Plain).unwrap();
    ids.push(t.mark("</think>").unwrap());
    ids.extend(t.encode("42, 你好 🐳", Marks::Plain).unwrap());
    let (reasoning, answer) = read(&t, true, &ids);
    assert_eq!(reasoning, "so </think> is text 🐳");
    assert_eq!(answer, "42, 你好 🐳");
    let (reasoning, answer) = read(&t, true, &ids[..3]);
    assert!(!reasoning.is_empty() && answer.is_empty());
    let plain = t.encode("no reasoning", Marks::Plain).unwrap();
    assert_eq!(
        read(&t, false, &plain),
        (String::new(), "no reasoning".into())
    );
}

#[test]
fn a_reply_comes_out_as_it_comes_in() {
    let t = tiny();
    let mut reply = ReplyParser::new(&t, false);
    let text = "one two three four";
    let mut seen = String::new();
    for id in t.encode(text, Marks::Plain).unwrap() {
        let pieces = reply.push(id).unwrap();
        assert_eq!(pieces.len(), 1, "an answer is not held back");
        for piece in pieces {
            let Piece::Answer(text) = piece else {
                panic!("{piece:?}");
            };
            seen.push_str(&text);
        }
    }
    assert_eq!(seen, text);
}

#[test]
fn an_unknown_architecture_is_named() {
    let error = ModelVersion::from_architecture("llama").unwrap_err();
    assert!(error.to_string().contains("\"llama\""));
    for (name, version) in [
        ("deepseek4", ModelVersion::V4),
        ("deepseek41", ModelVersion::V41),
    ] {
        assert_eq!(ModelVersion::from_architecture(name).unwrap(), version);
    }
}
