//! Any bytes as the form of an answer: a constraint or a refusal that says why, in a
//! bounded time; tokens can be chosen under what is accepted.
//!
//! The first byte says what the others are: 0 and 1 a schema, 2 to 5 that of a tool's
//! parameters, 6 a regular expression.
#![no_main]

use std::hint::black_box;
use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use v4_chat::intake::{Calls, Format, Wanted, WantedTool};
use v4_chat::{ModelVersion, Request};
use v4_server::Grammars;
use v4_tokenizer::Tokenizer;

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    let path = "../tests/data/tiny-v4/tokenizer.json";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let mut tokenizer = Tokenizer::from_json_file(&path).expect("the tokenizer");
    let mut special = tokenizer.special_ids();
    special.eos = tokenizer.mark("<｜end▁of▁sentence｜>");
    tokenizer.set_special_ids(special).expect("its own mark");
    tokenizer
});
static V4: LazyLock<Grammars> =
    LazyLock::new(|| Grammars::new(TOKENIZER.clone(), ModelVersion::V4));
static V41: LazyLock<Grammars> =
    LazyLock::new(|| Grammars::new(TOKENIZER.clone(), ModelVersion::V41));

/// Tokens chosen under a constraint.
const STEPS: usize = 6;

fuzz_target!(
    init: {
        // A panic ends the process, but for one inside the library that compiles grammars,
        // which is a refusal.
        let abort = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if std::thread::current().name() != Some("grammar") {
                abort(panic);
            }
        }));
    },
    |bytes: &[u8]| {
        let Some((kind, wanted)) = bytes.split_first().and_then(wanted) else {
            return;
        };
        let grammars = if kind & 1 == 0 { &V4 } else { &V41 };
        match grammars.of(&wanted) {
            Err(error) => assert!(!error.to_string().is_empty()),
            Ok(None) => {}
            Ok(Some(mut constraint)) => {
                let mut logits = vec![0.0; TOKENIZER.vocab_size()];
                for step in 0..STEPS {
                    logits.fill(0.0);
                    // Grammars that turn out too complex say so.
                    if constraint.mask(&mut logits).is_err() {
                        break;
                    }
                    let allowed: Vec<usize> =
                        (0..logits.len()).filter(|&id| logits[id] == 0.0).collect();
                    assert!(!allowed.is_empty(), "nothing may follow");
                    let chosen = allowed[(bytes.len() * 31 + step * 17) % allowed.len()];
                    let chosen = u32::try_from(chosen).expect("a token's id");
                    if constraint.accept(chosen).unwrap_or(true) {
                        break;
                    }
                }
                black_box(logits);
            }
        }
    }
);

fn wanted((&kind, text): (&u8, &[u8])) -> Option<(u8, Wanted)> {
    let kind = kind % 7;
    if kind == 6 {
        let regex = std::str::from_utf8(text).ok()?.to_owned();
        let format = Some(Format::Regex(regex));
        return Some((
            kind,
            Wanted {
                format,
                ..Wanted::default()
            },
        ));
    }
    let schema = Request::read(text).ok().filter(|s| s.is_object())?;
    let strict = kind & 2 == 0;
    let wanted = match kind {
        0 | 1 => Wanted {
            format: Some(Format::Schema {
                schema,
                strict: kind == 0,
            }),
            ..Wanted::default()
        },
        _ => Wanted {
            tools: vec![WantedTool {
                name: "f".to_owned(),
                parameters: schema,
                strict,
            }],
            calls: if kind < 4 { Calls::Must } else { Calls::May },
            parallel: kind == 5,
            ..Wanted::default()
        },
    };
    Some((kind, wanted))
}
