//! A model that writes noise writes what its schema allows.

use super::*;

/// Numbers from 0 to 1, the same each time.
pub(super) struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> f32 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1_u64 << 24) as f32
    }
}

/// Writes noise until it ends; what ends strings and lists comes sooner the longer it is.
pub(super) fn walk(mut constraint: Constraint, seed: u64) -> Option<String> {
    let t = &*TOKENIZER;
    let mut random = Random(seed);
    let mut ids = Vec::new();
    for step in 0..1500 {
        let mut logits: Vec<f32> = (0..t.vocab_size()).map(|_| random.next()).collect();
        let push = step as f32 / 60.0;
        for (id, logit) in logits.iter_mut().enumerate() {
            let bytes = t
                .token_bytes(u32::try_from(id).unwrap())
                .unwrap_or_default();
            let ends = matches!(
                bytes,
                b"\"" | b"}" | b"]" | b"null" | b"\"}" | b"<" | b"</" | b"}}"
            );
            let over = Some(id) == t.eos().map(|eos| eos as usize);
            *logit += if ends || over { push } else { 0.0 };
            *logit += if matches!(bytes, b"}" | b"]") || over {
                push * 0.5
            } else {
                0.0
            };
        }
        constraint.mask(&mut logits).unwrap();
        let best = (0..logits.len())
            .max_by(|a, b| logits[*a].total_cmp(&logits[*b]))
            .unwrap();
        assert!(
            logits[best].is_finite(),
            "nothing may follow {:?}",
            t.decode_text(&ids)
        );
        let best = u32::try_from(best).unwrap();
        if Some(best) == t.eos() {
            return Some(t.decode_text(&ids).unwrap());
        }
        ids.push(best);
        if constraint.accept(best).unwrap() {
            return Some(t.decode_text(&ids).unwrap());
        }
    }
    None
}

/// Schemas as Pydantic, Zod and servers of tools write them.
fn schemas() -> Value {
    serde_json::from_str(include_str!("walks.json")).unwrap()
}

#[test]
fn noise_obeys() {
    let mut ended = 0;
    let mut all = 0;
    for case in schemas().as_array().unwrap() {
        let schema = &case["schema"];
        let validator = jsonschema::options()
            .should_validate_formats(true)
            .build(schema)
            .unwrap_or_else(|e| panic!("{e}: {schema}"));
        for strict in [true, false] {
            for seed in 0..20 {
                all += 1;
                let wanted = form(schema.clone(), strict);
                let Some(text) = walk(made(&wanted), seed) else {
                    continue;
                };
                ended += 1;
                let value: Value =
                    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
                let error = validator.iter_errors(&value).next();
                assert!(error.is_none(), "{}: {text}: {error:?}", case["name"]);
            }
        }
    }
    assert!(ended * 20 >= all * 19, "{ended} of {all} ended");
}

#[test]
fn noise_calls() {
    for case in schemas()
        .as_array()
        .unwrap()
        .iter()
        .filter(|case| case["tool"] != false)
    {
        let schema = &case["schema"];
        for (strict, seed) in (0..20).map(|i| (i % 2 == 0, i)) {
            let wanted = Wanted {
                tools: vec![tool("f", schema.clone(), strict)],
                calls: Calls::Must,
                opened: true,
                ..Wanted::default()
            };
            let Some(text) = walk(made(&wanted), seed) else {
                continue;
            };
            let value = arguments(&text);
            let validator = jsonschema::options()
                .should_validate_formats(true)
                .build(schema)
                .unwrap();
            let error = validator.iter_errors(&value).next();
            assert!(error.is_none(), "{}: {text}: {error:?}", case["name"]);
        }
    }
}

/// The arguments of the one call in a block.
fn arguments(text: &str) -> Value {
    let mut all = serde_json::Map::new();
    for parameter in text.split("<｜DSML｜parameter name=\"").skip(1) {
        let (name, rest) = parameter.split_once("\" string=\"").unwrap();
        let (string, rest) = rest.split_once("\">").unwrap();
        let (value, _) = rest.split_once("</｜DSML｜parameter>\n").unwrap();
        let value = match string {
            "true" => Value::from(value),
            _ => serde_json::from_str(value).unwrap_or_else(|e| panic!("{e}: {value}")),
        };
        assert!(
            all.insert(name.to_owned(), value).is_none(),
            "{name} twice: {text}"
        );
    }
    all.into()
}
