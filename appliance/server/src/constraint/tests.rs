//! What constraints allow and forbid, with the vocabulary of a small model.

use std::path::Path;
use std::sync::LazyLock;

use serde_json::{Value, json};
use v4_chat::ModelVersion;
use v4_chat::intake::WantedTool;
use v4_tokenizer::{Marks, Tokenizer};

use super::*;

mod begun;
mod calls;
mod costs;
mod forms;
mod references;
mod refusals;
mod walks;

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    let tiny =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tiny-v4/tokenizer.json");
    let mut tokenizer = Tokenizer::from_json_file(&tiny).unwrap();
    let mut special = tokenizer.special_ids();
    special.eos = tokenizer.mark("<｜end▁of▁sentence｜>");
    tokenizer.set_special_ids(special).unwrap();
    tokenizer
});

static V4: LazyLock<Grammars> =
    LazyLock::new(|| Grammars::new(TOKENIZER.clone(), ModelVersion::V4));
static V41: LazyLock<Grammars> =
    LazyLock::new(|| Grammars::new(TOKENIZER.clone(), ModelVersion::V41));

/// Whether a text can be written, and can end there.
fn follows(mut constraint: Constraint, text: &str) -> bool {
    let t = &*TOKENIZER;
    for id in t.encode(text, Marks::Parse).unwrap() {
        let mut logits = vec![0.0; t.vocab_size()];
        constraint.mask(&mut logits).unwrap();
        if logits[id as usize] != 0.0 {
            return false;
        }
        constraint.accept(id).unwrap();
    }
    let mut logits = vec![0.0; t.vocab_size()];
    constraint.mask(&mut logits).unwrap();
    logits[t.eos().unwrap() as usize] == 0.0
}

fn form(schema: Value, strict: bool) -> Wanted {
    Wanted {
        format: Some(Format::Schema { schema, strict }),
        ..Wanted::default()
    }
}

fn made(wanted: &Wanted) -> Constraint {
    V4.of(wanted)
        .unwrap_or_else(|e| panic!("{e}: {wanted:?}"))
        .unwrap()
}

/// Why a request is refused.
fn refusal(wanted: &Wanted) -> Refusal {
    match V4.of(wanted) {
        Err(ConstraintError::Grammar(refusal)) => *refusal,
        other => panic!("{other:?} for {wanted:?}"),
    }
}

fn tool(name: &str, parameters: Value, strict: bool) -> WantedTool {
    WantedTool {
        name: name.to_owned(),
        parameters,
        strict,
    }
}

/// A schema of an object with one property, which is required.
fn one(p: Value) -> Value {
    json!({"type": "object", "properties": {"p": p}, "required": ["p"],
           "additionalProperties": false})
}
