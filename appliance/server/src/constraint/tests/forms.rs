//! Schemas, and the answers that they allow.

use super::*;

/// Values of a property that a schema allows, and that it does not.
fn values(schema: &Value, strict: bool, good: &[&str], bad: &[&str]) {
    let wanted = form(one(schema.clone()), strict);
    for (list, allowed) in [(good, true), (bad, false)] {
        for value in list {
            let text = format!("{{\"p\": {value}}}");
            assert_eq!(
                follows(made(&wanted), &text),
                allowed,
                "{value} under {schema}"
            );
        }
    }
}

#[test]
fn a_schema_allows_its_documents_alone() {
    let schema = json!({
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "y"]}},
        "required": ["a", "b"],
        "additionalProperties": false,
    });
    let allows = |text| follows(made(&form(schema.clone(), false)), text);
    assert!(allows(r#"{"a": 12, "b": "x"}"#));
    assert!(allows("{\n  \"a\": -3,\n  \"b\": \"y\"\n}"));
    for bad in [
        r#"{"a": 1.5, "b": "x"}"#,
        r#"{"a": 1, "b": "z"}"#,
        r#"{"a": 1"#,
        "plain",
        "<think>",
    ] {
        assert!(!allows(bad), "{bad}");
    }
}

#[test]
fn any_json_is_an_object_and_a_regex_a_text() {
    let any = Wanted {
        format: Some(Format::JsonObject),
        ..Wanted::default()
    };
    assert!(follows(made(&any), r#"{"k": [1, {"x": null}], "": "é"}"#));
    assert!(!follows(made(&any), "[1]"));
    for (regex, text, fits) in [
        ("[ab]{2}c?", "ab", true),
        ("[ab]{2}c?", "bac", true),
        ("[ab]{2}c?", "a", false),
        ("[ab]{2}c?", "cc", false),
        ("a/b", "a/b", true),
        ("a|bc", "bc", true),
        ("a|bc", "ac", false),
        (r"\d+\.\d", "12.5", true),
        ("^x$", "x", true),
    ] {
        let wanted = Wanted {
            format: Some(Format::Regex(regex.to_owned())),
            ..Wanted::default()
        };
        assert_eq!(follows(made(&wanted), text), fits, "{text} under {regex}");
    }
}

#[test]
fn nothing_wanted_is_no_constraint() {
    assert!(V4.of(&Wanted::default()).unwrap().is_none());
}

#[test]
fn literals() {
    values(&json!({"const": "x"}), true, &[r#""x""#], &[r#""y""#, "1"]);
    values(
        &json!({"const": true, "type": "boolean"}),
        true,
        &["true"],
        &["false"],
    );
    values(&json!({"const": null}), true, &["null"], &["0", "\"\""]);
    values(&json!({"const": 3}), true, &["3"], &["4", "30", "3.5"]);
    values(
        &json!({"const": {"a": [1, "b"]}}),
        true,
        &[r#"{"a":[1,"b"]}"#],
        &["{}", r#"{"a":[1]}"#],
    );
    values(
        &json!({"enum": ["a", 1, null, false, 2.5]}),
        true,
        &[r#""a""#, "1", "null", "false", "2.5"],
        &["true", "2", r#""b""#],
    );
    values(
        &json!({"type": "number", "enum": [1.5]}),
        true,
        &["1.5"],
        &["1", "15"],
    );
    values(
        &json!({"type": "integer", "enum": [1, 20]}),
        true,
        &["1", "20"],
        &["2", "120"],
    );
    values(
        &json!({"type": ["string", "null"], "enum": ["a", null]}),
        true,
        &[r#""a""#, "null"],
        &[r#""null""#],
    );
}

#[test]
fn numbers() {
    let safe = 9_007_199_254_740_991_i64;
    let zod = json!({"type": "integer", "minimum": -safe, "maximum": safe});
    values(
        &zod,
        true,
        &["0", "9007199254740991", "-9007199254740991"],
        &["9007199254740992", "1.5", "99999999999999999999"],
    );
    let big = json!({"type": "integer", "minimum": i64::MIN, "maximum": u64::MAX});
    values(&big, true, &["0", "-7", "123456789012"], &["1.5", "\"1\""]);
    values(
        &json!({"type": "integer", "minimum": 1, "maximum": 10}),
        true,
        &["1", "10"],
        &["0", "11", "-1"],
    );
    values(
        &json!({"type": "integer", "minimum": 1, "exclusiveMinimum": true}),
        true,
        &["2"],
        &["1"],
    );
    values(
        &json!({"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 3}),
        true,
        &["2"],
        &["1", "3"],
    );
    values(
        &json!({"type": "number", "minimum": 0, "maximum": 1}),
        true,
        &["0", "0.25", "1"],
        &["-0.1", "1.1", "2"],
    );
    values(
        &json!({"type": "number", "exclusiveMinimum": 0}),
        true,
        &["0.5", "7"],
        &["0", "-1"],
    );
    values(
        &json!({"type": "integer", "multipleOf": 5}),
        true,
        &["10", "0"],
        &["7"],
    );
    values(
        &json!({"type": "number", "multipleOf": 0.01}),
        true,
        &["1.25"],
        &["1.255"],
    );
    values(
        &json!({"type": "integer", "format": "uint8", "minimum": 0}),
        true,
        &["0", "255"],
        &["256", "-1"],
    );
}

#[test]
fn strings() {
    values(
        &json!({"type": "string", "minLength": 2, "maxLength": 3}),
        true,
        &[r#""ab""#, r#""éßx""#],
        &[r#""a""#, r#""abcd""#],
    );
    values(
        &json!({"type": "string", "pattern": "^[a-z]+$"}),
        true,
        &[r#""ab""#],
        &[r#""aB""#, r#""""#],
    );
    values(
        &json!({"type": "string", "pattern": "b"}),
        true,
        &[r#""abc""#],
        &[r#""ac""#],
    );
    values(
        &json!({"type": "string", "pattern": "^a", "maxLength": 2}),
        true,
        &[r#""ab""#],
        &[r#""abc""#, r#""b""#],
    );
    values(
        &json!({"type": "string", "format": "date"}),
        true,
        &[r#""2024-02-29""#, r#""1999-12-31""#],
        &[
            r#""2023-02-29""#,
            r#""2024-13-01""#,
            r#""0000-01-01""#,
            r#""1900-02-29""#,
        ],
    );
    values(
        &json!({"type": "string", "format": "date-time"}),
        true,
        &[
            r#""2024-02-29T12:00:59Z""#,
            r#""2024-05-01T12:00:00.25+02:00""#,
        ],
        &[
            r#""2024-05-01""#,
            r#""2024-05-01T25:00:00Z""#,
            r#""2024-05-01T12:00:60Z""#,
        ],
    );
    values(
        &json!({"type": "string", "format": "time"}),
        true,
        &[r#""12:00:00Z""#],
        &[r#""12:61:00Z""#],
    );
    values(
        &json!({"type": "string", "format": "duration"}),
        true,
        &[r#""P1DT2H""#, r#""P3W""#],
        &[r#""P""#, r#""1D""#],
    );
    values(
        &json!({"type": "string", "format": "uuid"}),
        true,
        &[r#""123e4567-e89b-12d3-a456-426614174000""#],
        &[r#""123e4567""#],
    );
    values(
        &json!({"type": "string", "format": "uuid4"}),
        true,
        &[r#""123e4567-e89b-42d3-a456-426614174000""#],
        &[r#""123e4567-e89b-12d3-a456-426614174000""#],
    );
    values(
        &json!({"type": "string", "format": "email"}),
        true,
        &[r#""a.b@c.org""#],
        &[r#""a""#, r#""a@b""#],
    );
    values(
        &json!({"type": "string", "format": "ipv4"}),
        true,
        &[r#""127.0.0.1""#],
        &[r#""300.0.0.1""#],
    );
    values(
        &json!({"type": "string", "format": "uri"}),
        true,
        &[r#""http://a.b/c?d#e""#],
        &[r#""a b""#],
    );
    // Names that nobody knows say nothing, but for strict.
    values(
        &json!({"type": "string", "format": "color"}),
        false,
        &[r#""red""#],
        &["1"],
    );
    values(
        &json!({"type": "string", "format": "password"}),
        true,
        &[r#""x""#],
        &["1"],
    );
}

#[test]
fn arrays() {
    values(
        &json!({"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2}),
        true,
        &["[1]", "[1, 2]"],
        &["[]", "[1,2,3]", "[\"a\"]"],
    );
    let pair = json!([{"type": "integer"}, {"type": "string"}]);
    let fixed = json!({"type": "array", "prefixItems": pair, "minItems": 2, "maxItems": 2});
    values(
        &fixed,
        true,
        &["[1, \"a\"]"],
        &["[1]", "[\"a\", 1]", "[1, \"a\", 2]"],
    );
    values(
        &json!({"type": "array", "items": pair}),
        true,
        &["[1, \"a\"]"],
        &["[1]", "[1, \"a\", 2]"],
    );
    values(
        &json!({"type": "array", "items": pair}),
        false,
        &["[1, \"a\"]", "[1]", "[1, \"a\", 2]"],
        &["[\"a\"]"],
    );
    values(
        &json!({"type": "array", "items": pair, "additionalItems": {"type": "null"}}),
        true,
        &["[1, \"a\"]", "[1, \"a\", null]"],
        &["[1, \"a\", 2]"],
    );
    values(
        &json!({"type": "array"}),
        true,
        &["[]", "[1, [\"a\"]]"],
        &["{}"],
    );
    values(
        &json!({"type": "array", "uniqueItems": false}),
        true,
        &["[1, 1]"],
        &["{}"],
    );
}

#[test]
fn objects() {
    let open = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
    values(
        &open,
        false,
        &[r#"{"a": 1}"#, r#"{"b": "x"}"#, "{}"],
        &[r#"{"a": "x"}"#],
    );
    values(&open, true, &[r#"{"a": 1}"#, "{}"], &[r#"{"b": "x"}"#]);
    values(
        &json!({"type": "object", "properties": {}, "additionalProperties": false}),
        true,
        &["{}", "{ }"],
        &[r#"{"a": 1}"#],
    );
    values(
        &json!({"type": "object", "properties": {}}),
        true,
        &["{}"],
        &[r#"{"a": 1}"#],
    );
    let dict = json!({"type": "object", "additionalProperties": {"type": "integer"}});
    values(
        &dict,
        true,
        &["{}", r#"{"x": 1, "y": 2}"#],
        &[r#"{"x": "1"}"#],
    );
    // The name in another spelling is not another name.
    let mixed = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": true});
    values(
        &mixed,
        true,
        &[r#"{"a": 1, "b": "x"}"#],
        &[r#"{"\u0061": "x"}"#],
    );
    values(
        &json!({"type": ["object", "null"], "properties": {"x": {"type": "integer"}}, "required": ["x"]}),
        true,
        &["null", r#"{"x": 1}"#],
        &["{}", r#"{"x": 1, "y": 1}"#],
    );
    values(
        &json!({"properties": {"x": {"type": "integer"}}, "required": ["x"]}),
        true,
        &[r#"{"x": 1}"#],
        &["1", "{}"],
    );
    values(
        &json!({"type": "object", "properties": {"x": {"type": "integer", "required": true}}, "required": null}),
        true,
        &["{}", r#"{"x": 1}"#],
        &[r#"{"x": "a"}"#],
    );
    values(
        &json!({"type": "object", "properties": null}),
        false,
        &["{}", r#"{"x": 1}"#],
        &["1"],
    );
    values(
        &json!({"type": "object", "patternProperties": {"^a": {"type": "integer"}}, "additionalProperties": false}),
        true,
        &[r#"{"ab": 1}"#, "{}"],
        &[r#"{"b": 1}"#, r#"{"ab": "1"}"#],
    );
    values(
        &json!({"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {"type": "null"}}),
        true,
        &[r#"{"ab": null}"#],
        &[r#"{"b": 1}"#],
    );
    values(
        &json!({"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"type": "integer"}}),
        true,
        &[r#"{"a": 1}"#, "{}"],
        &[r#"{"c": 1}"#, r#"{"a": null}"#],
    );
    values(
        &json!({"type": "object", "propertyNames": {"pattern": "^x"}, "additionalProperties": {"type": "integer"}}),
        true,
        &[r#"{"xa": 1}"#],
        &[r#"{"c": 1}"#],
    );
    values(
        &json!({"type": "object", "propertyNames": {"maxLength": 2}}),
        true,
        &[r#"{"xa": 1}"#],
        &[r#"{"xyz": 1}"#],
    );
    values(
        &json!({"type": "object", "minProperties": 1, "additionalProperties": {"type": "integer"}}),
        true,
        &[r#"{"xa": 1}"#],
        &["{}"],
    );
    // Names that match no pattern are not meant.
    let keys = json!({"type": "object", "patternProperties": {"^k_": {"type": "integer"}}});
    for strict in [true, false] {
        values(&keys, strict, &[r#"{"k_a": 1}"#, "{}"], &[r#"{"b": 1}"#]);
    }
    let some = json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
                      "anyOf": [{"required": ["a"]}, {"required": ["b"]}]});
    values(
        &some,
        true,
        &[r#"{"a": 1}"#, r#"{"b": 1}"#, r#"{"a": 1, "b": 2}"#],
        &["{}", r#"{"c": 1}"#],
    );
    values(
        &json!({"type": "object", "properties": {"a": {"not": {}}}}),
        true,
        &["{}"],
        &[r#"{"a": 1}"#],
    );
    values(
        &json!({"type": "object", "properties": {"a": false, "b": true}}),
        true,
        &["{}", r#"{"b": [1]}"#],
        &[r#"{"a": 1}"#],
    );
}

#[test]
fn choices() {
    values(
        &json!({"anyOf": [{"type": "integer"}, {"type": "null"}], "default": null, "title": "P"}),
        true,
        &["1", "null"],
        &["\"a\""],
    );
    values(
        &json!({"type": "integer", "nullable": true}),
        true,
        &["1", "null"],
        &["\"a\""],
    );
    values(
        &json!({"type": ["integer", "string"]}),
        true,
        &["1", "\"a\""],
        &["null"],
    );
    values(
        &json!({"not": {"type": "null"}}),
        true,
        &["1", "\"a\"", "{}"],
        &["null"],
    );
    values(
        &json!({"oneOf": [{"type": "string", "enum": ["all"]}, {"type": "string", "pattern": "^[1-9][0-9]*$"}]}),
        false,
        &["\"all\"", "\"12\""],
        &["\"al\"", "\"012\""],
    );
    values(
        &json!({"allOf": [{"type": "integer"}, {"minimum": 3}]}),
        true,
        &["3"],
        &["2", "\"a\""],
    );
    values(
        &json!({"allOf": [{"type": "string"}]}),
        true,
        &["\"a\""],
        &["2"],
    );
    let merged = json!({"allOf": [
        {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
        {"type": "object", "properties": {"b": {"type": "string"}}, "required": ["b"]}]});
    values(
        &merged,
        true,
        &[r#"{"a": 1, "b": "x"}"#],
        &[r#"{"a": 1}"#, r#"{"a": 1, "b": "x", "c": 1}"#],
    );
    values(&json!({}), true, &["1", "[{}]"], &["x"]);
    values(&json!(true), true, &["1", "[{}]"], &["x"]);
}

#[test]
fn what_says_nothing_is_passed_over() {
    let schema = json!({"$schema": "http://json-schema.org/draft-07/schema#", "$id": "urn:x", "$comment": "c",
        "title": "T", "description": "d", "deprecated": true, "readOnly": false, "writeOnly": true,
        "examples": [1], "example": 1, "default": {}, "x-order": 3, "markdownDescription": "m",
        "x-guidance": {"lenient": true}, "type": "object", "externalDocs": {"url": "u"},
        "properties": {"a": {"type": "string", "contentMediaType": "text/plain", "contentEncoding": "base64", "title": "A"}},
        "required": ["a"], "$vocabulary": {}, "else": {}, "dependentRequired": {}, "enumNames": ["a"]});
    assert!(follows(made(&form(schema.clone(), true)), r#"{"a": "x"}"#));
    assert!(!follows(made(&form(schema, true)), r#"{"a": 1}"#));
}
