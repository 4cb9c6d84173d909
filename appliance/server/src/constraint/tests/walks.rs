//! A model that writes noise writes only what its schema allows.

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

/// How much what ends strings, lists and texts is preferred as a text gets longer.
static ENDS: LazyLock<Vec<f32>> = LazyLock::new(|| {
    let t = &*TOKENIZER;
    let all = 0..u32::try_from(t.vocab_size()).unwrap();
    let ends = all.map(|id| match t.token_bytes(id).unwrap_or_default() {
        _ if Some(id) == t.eos() => 2.0,
        b"}" | b"]" | b"}}" => 1.5,
        b"\"" | b"\"}" | b"null" | b"<" | b"</" => 1.7,
        b"," => 0.5,
        _ => 0.0,
    });
    ends.collect()
});

/// Writes noise until it ends.
pub(super) fn walk(mut constraint: Constraint, seed: u64) -> Option<String> {
    let t = &*TOKENIZER;
    let mut random = Random(seed);
    let mut ids = Vec::new();
    for step in 0..800 {
        let push = step as f32 / 30.0;
        let ends = ENDS.iter().map(|end| end * push + random.next());
        let mut logits: Vec<f32> = ends.collect();
        constraint.mask(&mut logits).unwrap();
        let order = |a: &usize, b: &usize| logits[*a].total_cmp(&logits[*b]);
        let best = (0..logits.len()).max_by(order).unwrap();
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
                let value: Value = match serde_json::from_str(&text) {
                    // A number with hundreds of digits is not a number to this reader.
                    Err(e) if e.to_string().contains("out of range") => continue,
                    value => value.unwrap_or_else(|e| panic!("{e}: {text}")),
                };
                let error = validator.iter_errors(&value).next();
                assert!(error.is_none(), "{}: {text}: {error:?}", case["name"]);
            }
        }
    }
    assert!(ended * 10 >= all * 9, "{ended} of {all} ended");
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
            let Some(value) = arguments(&text) else {
                continue;
            };
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
fn arguments(text: &str) -> Option<Value> {
    let mut all = serde_json::Map::new();
    for parameter in text.split("<｜DSML｜parameter name=\"").skip(1) {
        let (name, rest) = parameter.split_once("\" string=\"").unwrap();
        let (string, rest) = rest.split_once("\">").unwrap();
        let (value, _) = rest.split_once("</｜DSML｜parameter>\n").unwrap();
        let value = match string {
            "true" => Value::from(value),
            _ => match serde_json::from_str(value) {
                Err(e) if e.to_string().contains("out of range") => return None,
                value => value.unwrap_or_else(|e| panic!("{e}: {text}")),
            },
        };
        assert!(
            all.insert(name.to_owned(), value).is_none(),
            "{name} twice: {text}"
        );
    }
    Some(all.into())
}
