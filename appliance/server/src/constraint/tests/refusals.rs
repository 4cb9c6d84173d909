//! What is refused, and with which message.

use super::*;

#[test]
fn a_keyword_that_is_not_held_is_named_with_its_place() {
    let all = [
        (json!({"type": "array", "uniqueItems": true}), "uniqueItems"),
        (json!({"not": {"const": 1}}), "not"),
        (json!({"if": {"const": 1}, "then": {"type": "null"}}), "if"),
        (
            json!({"type": "object", "dependentSchemas": {"a": {}}}),
            "dependentSchemas",
        ),
        (
            json!({"type": "object", "dependentRequired": {"a": ["b"]}}),
            "dependentRequired",
        ),
        (
            json!({"type": "array", "contains": {"type": "null"}}),
            "contains",
        ),
        (json!({"type": "string", "pattern": "(?=a)b"}), "pattern"),
        (json!({"type": "string", "pattern": "("}), "pattern"),
        (json!({"type": "string", "pattern": r"a\b"}), "pattern"),
        (json!({"type": "string", "pattern": 1}), "pattern"),
        (
            json!({"type": "object", "propertyNames": {"format": "uri"}}),
            "propertyNames",
        ),
        (
            json!({"type": "object", "patternProperties": {"(": {}}}),
            "patternProperties",
        ),
        (
            json!({"type": "object", "patternProperties": {"a": {}, "b": {}}}),
            "patternProperties",
        ),
        (json!({"type": "nonsense"}), "type"),
        (json!({"type": 3}), "type"),
        (json!({"$ref": "#/nowhere"}), "$ref"),
        (json!({"$ref": "https://example.org/schema"}), "$ref"),
        (json!({"$dynamicRef": "#x"}), "$dynamicRef"),
        (json!({"const": 123_456_789_012_345_678_u64}), "const"),
        (json!({"enum": [1, 1e300]}), "enum"),
        (json!({"enum": []}), "enum"),
        (json!({"anyOf": []}), "anyOf"),
        (
            json!({"type": "integer", "minimum": 3, "maximum": 2}),
            "minimum",
        ),
        (json!({"type": "integer", "minimum": "3"}), "minimum"),
        (
            json!({"type": "integer", "minimum": 123_456_789_012_345_678_u64}),
            "minimum",
        ),
        (json!({"type": "number", "multipleOf": 0}), "multipleOf"),
        (json!({"type": "string", "minLength": -1}), "minLength"),
        (
            json!({"type": "string", "minLength": 3, "maxLength": 2}),
            "minLength",
        ),
        (
            json!({"type": "array", "minItems": 3, "maxItems": 2}),
            "minItems",
        ),
        (
            json!({"type": "object", "minProperties": 2}),
            "minProperties",
        ),
        (json!({"type": "object", "required": [1]}), "required"),
        (json!({"type": "object", "properties": [1]}), "properties"),
    ];
    for (schema, keyword) in all {
        let refusal = refusal(&form(one(schema.clone()), false));
        assert_eq!(refusal.part, Part::Format, "{schema}");
        assert_eq!(
            refusal.keyword.as_deref(),
            Some(keyword),
            "{schema}: {refusal}"
        );
        assert_eq!(
            refusal.place.as_deref(),
            Some("#/properties/p"),
            "{schema}: {refusal}"
        );
        assert!(refusal.to_string().contains(keyword), "{refusal}");
    }
}

#[test]
fn strict_is_refused_more() {
    let unclear = json!({"oneOf": [{"type": "integer"}, {"type": "number"}]});
    for (schema, keyword) in [
        (json!({"type": "string", "format": "color"}), "format"),
        (unclear, "oneOf"),
    ] {
        assert!(V4.of(&form(one(schema.clone()), false)).is_ok());
        let refusal = refusal(&form(one(schema), true));
        assert_eq!(refusal.keyword.as_deref(), Some(keyword));
    }
}

#[test]
fn a_schema_that_is_none_is_refused() {
    for schema in [json!(3), json!("x"), json!([]), json!(null)] {
        refusal(&form(schema, false));
    }
    refusal(&form(json!(false), false));
    let endless = json!({"type": "object", "properties": {"c": {"$ref": "#"}}, "required": ["c"]});
    assert_eq!(
        refusal(&form(endless, false)).keyword.as_deref(),
        Some("$ref")
    );
    let circle = json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}});
    assert_eq!(
        refusal(&form(circle, false)).keyword.as_deref(),
        Some("$ref")
    );
    let missing = json!({"type": "object", "properties": {}, "required": ["a"], "additionalProperties": false});
    assert_eq!(
        refusal(&form(missing, false)).keyword.as_deref(),
        Some("required")
    );
}

#[test]
fn an_expression_that_is_none_is_refused() {
    for regex in ["(", "a)(b", "[", r"a\b", "(?=x)y", "x{99999999999}"] {
        let wanted = Wanted {
            format: Some(Format::Regex(regex.to_owned())),
            ..Wanted::default()
        };
        assert_eq!(refusal(&wanted).part, Part::Format, "{regex}");
    }
}

#[test]
fn a_tool_is_named() {
    let wanted = |tool: WantedTool| Wanted {
        tools: vec![tool],
        calls: Calls::Must,
        opened: true,
        ..Wanted::default()
    };
    for (p, keyword) in [
        (json!({"type": "array", "uniqueItems": true}), "uniqueItems"),
        (json!({"not": {"const": 1}}), "not"),
        (json!({"type": "string", "pattern": "(?=a)"}), "pattern"),
    ] {
        let strict = wanted(tool("f", one(p.clone()), true));
        let refusal = refusal(&strict);
        assert_eq!(refusal.part, Part::Tool("f".to_owned()));
        assert_eq!(refusal.keyword.as_deref(), Some(keyword));
        assert_eq!(refusal.place.as_deref(), Some("#/properties/p"));
        // One tool of fifty is not a reason to refuse them all.
        assert!(V4.of(&wanted(tool("f", one(p), false))).unwrap().is_some());
    }
    for odd in ["a b", "a\"b", "a\\b", ""] {
        let parameters = json!({"type": "object", "properties": {odd: {"type": "string"}}});
        let strict = refusal(&wanted(tool("f", parameters.clone(), true)));
        assert_eq!(strict.keyword.as_deref(), Some("properties"));
        assert!(V4.of(&wanted(tool("f", parameters, false))).is_ok());
    }
    let none = Wanted {
        calls: Calls::Must,
        ..Wanted::default()
    };
    assert_eq!(refusal(&none).part, Part::Calls);
}
