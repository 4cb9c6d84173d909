//! Schemas that refer to others, and to themselves.

use super::*;

#[test]
fn discriminated() {
    let of = |k: &str, x: &str| {
        json!({"type": "object", "title": k,
        "properties": {"k": {"const": k, "default": k, "type": "string"}, "x": {"type": x}}, "required": ["x"]})
    };
    let schema = json!({
        "$defs": {"A": of("a", "integer"), "B": of("b", "string")},
        "type": "object", "required": ["p"],
        "properties": {"p": {
            "discriminator": {"propertyName": "k", "mapping": {"a": "#/$defs/A", "b": "#/$defs/B"}},
            "oneOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}]}},
    });
    for strict in [true, false] {
        let allows = |text| follows(made(&form(schema.clone(), strict)), text);
        assert!(allows(r#"{"p": {"k": "a", "x": 1}}"#));
        assert!(allows(r#"{"p": {"k": "b", "x": "1"}}"#));
        // Whose object it is can be told by the property alone.
        for bad in [
            r#"{"p": {"k": "b", "x": 1}}"#,
            r#"{"p": {"x": 1}}"#,
            r#"{"p": {"k": "c"}}"#,
        ] {
            assert!(!allows(bad), "{bad}");
        }
    }
}

#[test]
fn references() {
    let tree = json!({
        "$ref": "#/$defs/Node",
        "$defs": {"Node": {"type": "object", "properties": {
            "name": {"type": "string"},
            "next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}], "description": "x"},
            "all": {"type": "array", "items": {"$ref": "#/$defs/Node", "title": "Child"}},
        }, "required": ["name", "next", "all"]}},
    });
    let good = r#"{"name": "a", "next": {"name": "b", "next": null, "all": []}, "all": []}"#;
    assert!(follows(made(&form(tree.clone(), true)), good));
    assert!(!follows(
        made(&form(tree, true)),
        &good.replace("\"b\"", "1")
    ));
    let root =
        json!({"type": "object", "properties": {"c": {"$ref": "#"}, "n": {"type": "integer"}}});
    assert!(follows(
        made(&form(root.clone(), true)),
        r#"{"c": {"c": {"n": 1}}}"#
    ));
    assert!(!follows(
        made(&form(root, true)),
        r#"{"c": {"c": {"n": "1"}}}"#
    ));
    for to in [
        "#/definitions/a~1b%20c",
        "#here",
        "urn:x",
        "urn:root#/definitions/a~1b%20c",
    ] {
        let schema = json!({"$id": "urn:root", "type": "object", "properties": {"p": {"$ref": to}},
            "definitions": {"a/b c": {"$anchor": "here", "$id": "urn:x", "type": "integer"}}});
        assert!(
            follows(made(&form(schema.clone(), true)), r#"{"p": 1}"#),
            "{to}"
        );
        assert!(!follows(made(&form(schema, true)), r#"{"p": "1"}"#), "{to}");
    }
}

#[test]
fn what_cannot_end_is_not_begun() {
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}, "a": {"$ref": "#/$defs/A"}},
        "$defs": {"A": {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}, "required": ["a"]}}});
    let allows = |text| follows(made(&form(schema.clone(), false)), text);
    assert!(allows(r#"{"n": 1}"#));
    assert!(!allows(r#"{"a": {"a": {}}}"#));
    let begins = |text: &str| {
        let mut wanted = form(schema.clone(), false);
        wanted.begun = text.to_owned();
        V4.of(&wanted).is_ok()
    };
    assert!(begins("{\"n\""));
    assert!(!begins("{\"a\": {"));
}
