//! Hostile and large requests: excessive ones are refused, and nothing takes long.

use std::time::{Duration, Instant};

use super::*;

/// A machine that runs tests is busy: far above what is measured.
const LONG: Duration = Duration::from_secs(20);

/// Makes a constraint, if there is one, and writes some tokens under it.
fn try_out(wanted: &Wanted, name: &str) {
    let begun = Instant::now();
    let made = V4.of(wanted);
    let outcome = match &made {
        Ok(_) => "made".to_owned(),
        Err(e) => e.to_string().chars().take(160).collect(),
    };
    if let Ok(Some(mut constraint)) = made {
        let mut random = super::walks::Random(7);
        for _ in 0..40 {
            let mut logits: Vec<f32> = (0..TOKENIZER.vocab_size()).map(|_| random.next()).collect();
            // Grammars that turn out too complex say so.
            if constraint.mask(&mut logits).is_err() {
                break;
            }
            let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
            let best = u32::try_from(best.unwrap()).unwrap();
            if Some(best) == TOKENIZER.eos() || constraint.accept(best).unwrap_or(true) {
                break;
            }
        }
    }
    let took = begun.elapsed();
    println!("{name}: {outcome}: {took:?}");
    assert!(took < LONG, "{name} took {took:?}");
}

#[test]
fn hostile_schemas_end_soon() {
    let mut deep = json!({"type": "null"});
    for _ in 0..60 {
        deep = json!({"anyOf": [deep, {"type": "integer"}]});
    }
    let chain: serde_json::Map<String, Value> = (0..5000)
        .map(|i| {
            (
                format!("d{i}"),
                json!({"$ref": format!("#/$defs/d{}", i + 1)}),
            )
        })
        .collect();
    let wide: Vec<Value> = (0..60)
        .map(|i| json!({"type": "object", "properties": {format!("p{i}"): {"type": "string"}}}))
        .collect();
    let powers: Vec<Value> = (0..12).map(|_| json!({"anyOf": wide})).collect();
    let words: Vec<String> = (0..9000).map(|i| format!("word {i} of many")).collect();
    let refs: Vec<Value> = (0..2000)
        .map(|i| json!({"$ref": "#/$defs/big", "required": [format!("p{i}")]}))
        .collect();
    let big: serde_json::Map<String, Value> = (0..3000)
        .map(|i| (format!("p{i}"), json!({"type": "integer"})))
        .collect();
    let optional: serde_json::Map<String, Value> = (0..2000)
        .map(|i| (format!("q{i}"), json!({"type": "string", "maxLength": i})))
        .collect();
    let patterns: Vec<Value> = (0..30)
        .map(|i| json!({"pattern": format!("a{{{i}}}.*b{{{i}}}.*c")}))
        .collect();
    for (name, schema) in [
        ("deep", deep),
        (
            "two patterns",
            json!({"type": "string", "allOf": [{"pattern": "(a|b|ab)*c(a|b|ab){90}d"}, {"pattern": "(a|ba|ab)*c(b|ab){90}"}]}),
        ),
        (
            "names",
            json!({"type": "object", "patternProperties": {"^(a|b|ab)*c(a|b|ab){90}d": {}, "(a|ba|ab)*x(b|ab){90}$": {}}}),
        ),
        ("chain", json!({"$ref": "#/$defs/d0", "$defs": chain})),
        ("powers", json!({"allOf": powers})),
        ("words", json!({"enum": words})),
        (
            "big references",
            json!({"anyOf": refs, "$defs": {"big": {"type": "object", "properties": big}}}),
        ),
        (
            "optional",
            json!({"type": "object", "properties": optional}),
        ),
        ("patterns", json!({"type": "string", "allOf": patterns})),
        (
            "long",
            json!({"type": "string", "minLength": 1_000_000_000, "maxLength": 2_000_000_000}),
        ),
        ("longer", json!({"type": "string", "maxLength": 1e18})),
        (
            "many items",
            json!({"type": "array", "items": {"type": "string", "maxLength": 5000}, "minItems": 1_000_000_000}),
        ),
        (
            "repeats",
            json!({"type": "string", "pattern": "^(((((a{1,100}){1,100}){1,100}){1,100}){1,100})$"}),
        ),
        (
            "overlap",
            json!({"type": "string", "pattern": "^(a|b|ab)*c(a|b|ab){500}d(.*x){20}$"}),
        ),
        (
            "exponent",
            json!({"type": "string", "pattern": "^.*a.{2000}$"}),
        ),
        (
            "unicode",
            json!({"type": "string", "pattern": "^[\\p{L}\\p{N}]{1,1000}(\\p{L}|\\p{N}\\p{L}){50,100}$"}),
        ),
        (
            "nested",
            json!({"type": "string", "pattern": "(".repeat(5000) + &")".repeat(5000)}),
        ),
        (
            "multiple",
            json!({"type": "number", "multipleOf": 0.00000007}),
        ),
        (
            "multiples",
            json!({"type": "integer", "multipleOf": 999_999_937}),
        ),
        (
            "number",
            json!({"type": "number", "minimum": 1e-300, "maximum": 1e300}),
        ),
    ] {
        try_out(&form(schema.clone(), false), name);
        let tools = vec![tool(
            "f",
            json!({"type": "object", "properties": {"p": schema}, "required": ["p"]}),
            false,
        )];
        let wanted = Wanted {
            tools,
            calls: Calls::Must,
            opened: true,
            ..Wanted::default()
        };
        try_out(&wanted, &format!("{name} of a tool"));
    }
}

#[test]
fn hostile_expressions_end_soon() {
    for regex in [
        "(a|b|ab)*c(a|b|ab){500}d(.*x){20}",
        ".*a.{2000}",
        "((((a{1,100}){1,100}){1,100}){1,100}){1,100}",
        "(.*.*.*.*.*.*.*)*x",
        "(\\p{L}{1,200} ){1,200}",
        "(?i)(kelvin|straße|ſ){900}",
        "[^a]{1,100000}",
        "",
    ] {
        let wanted = Wanted {
            format: Some(Format::Regex(regex.to_owned())),
            ..Wanted::default()
        };
        try_out(&wanted, regex);
    }
}

#[test]
fn many_tools_are_made_once() {
    let properties: serde_json::Map<String, Value> = (0..12)
        .map(|i| {
            let property = match i % 6 {
                0 => json!({"type": "string", "description": "x".repeat(200)}),
                1 => json!({"type": "integer", "minimum": 0}),
                2 => json!({"type": "array", "items": {"type": "object", "properties": {"path": {"type": "string"}, "mode": {"enum": ["r", "w"]}}, "required": ["path"]}}),
                3 => json!({"anyOf": [{"type": "string"}, {"type": "null"}]}),
                4 => json!({"type": "object", "additionalProperties": {"type": "string"}}),
                _ => json!({"type": "string", "enum": ["a", "b", "c"]}),
            };
            (format!("p{i}"), property)
        })
        .collect();
    let tools = (0..50).map(|i| {
        tool(
            &format!("tool_{i}"),
            json!({"type": "object", "properties": properties, "required": ["p0"]}),
            i % 2 == 0,
        )
    });
    let wanted = Wanted {
        tools: tools.collect(),
        calls: Calls::Must,
        opened: true,
        parallel: true,
        ..Wanted::default()
    };
    try_out(&wanted, "fifty tools");
    let again = (0..5).map(|_| {
        let begun = Instant::now();
        made(&wanted);
        begun.elapsed()
    });
    println!("again: {:?}", again.min());
}

/// Any JSON as a schema, biased towards the keywords.
fn any(random: &mut super::walks::Random, depth: usize) -> Value {
    const WORDS: [&str; 40] = [
        "type",
        "properties",
        "items",
        "anyOf",
        "oneOf",
        "allOf",
        "$ref",
        "$defs",
        "enum",
        "const",
        "required",
        "additionalProperties",
        "patternProperties",
        "propertyNames",
        "prefixItems",
        "minItems",
        "maxItems",
        "minLength",
        "maxLength",
        "pattern",
        "format",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
        "minProperties",
        "maxProperties",
        "not",
        "if",
        "nullable",
        "discriminator",
        "unevaluatedProperties",
        "definitions",
        "$anchor",
        "$id",
        "additionalItems",
        "uniqueItems",
        "a",
        "b",
    ];
    const TEXTS: [&str; 16] = [
        "object",
        "array",
        "string",
        "integer",
        "number",
        "null",
        "boolean",
        "#",
        "#/$defs/a",
        "#/properties/a",
        "date",
        "^a+$",
        "(",
        "a",
        "b",
        "any",
    ];
    let mut pick = |n: usize| (random.next() * n as f32) as usize;
    match pick(if depth == 0 { 5 } else { 12 }) {
        0 => Value::Bool(pick(2) == 0),
        1 => json!(pick(7) as i64 - 3),
        2 | 3 => json!(TEXTS[pick(TEXTS.len())]),
        4 => [json!(null), json!(1.5), json!(1e300), json!(u64::MAX)][pick(4)].clone(),
        5 | 6 => (0..pick(4)).map(|_| any(random, depth - 1)).collect(),
        _ => {
            let n = pick(5);
            let mut all = serde_json::Map::new();
            for _ in 0..n {
                let word = WORDS[(random.next() * WORDS.len() as f32) as usize];
                all.insert(word.to_owned(), any(random, depth - 1));
            }
            Value::Object(all)
        }
    }
}

#[test]
fn any_json_as_a_schema_is_taken_or_refused() {
    let mut random = super::walks::Random(11);
    let (mut made, mut refused) = (0, 0);
    for i in 0..1500 {
        let schema = any(&mut random, 5);
        let strict = i % 3 == 0;
        let begun = Instant::now();
        match V4.of(&form(schema.clone(), strict)) {
            Ok(_) => made += 1,
            Err(ConstraintError::Grammar(_)) => refused += 1,
            Err(other) => panic!("{other} for {schema}"),
        }
        let wanted = Wanted {
            tools: vec![tool("f", schema.clone(), strict)],
            calls: Calls::Must,
            ..Wanted::default()
        };
        match V4.of(&wanted) {
            Ok(_) => {}
            Err(ConstraintError::Grammar(_)) if strict => {}
            Err(other) => panic!("{other} for a tool with {schema}"),
        }
        assert!(begun.elapsed() < LONG, "{schema}");
    }
    assert!(
        made > 100 && refused > 100,
        "{made} made, {refused} refused"
    );
}
