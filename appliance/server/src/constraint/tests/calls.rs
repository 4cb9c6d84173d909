//! Calls of tools, in the markup of both versions.

use super::*;

fn wanted(tools: Vec<WantedTool>, calls: Calls) -> Wanted {
    Wanted {
        tools,
        calls,
        parallel: true,
        opened: calls == Calls::Must,
        ..Wanted::default()
    }
}

fn parameter(name: &str, string: bool, value: &str) -> String {
    format!("<｜DSML｜parameter name=\"{name}\" string=\"{string}\">{value}</｜DSML｜parameter>\n")
}

fn call(name: &str, parameters: &[&str]) -> String {
    let parameters = parameters.concat();
    format!("<｜DSML｜invoke name=\"{name}\">\n{parameters}</｜DSML｜invoke>\n")
}

const OPEN: &str = "\n\n<｜DSML｜tool_calls>\n";
const END: &str = "</｜DSML｜tool_calls>";

fn weather() -> Vec<WantedTool> {
    vec![
        tool(
            "weather",
            json!({
                "type": "object",
                "properties": {
                    "city": {"type": "string"},
                    "days": {"$ref": "#/$defs/days"},
                    "unit": {"type": "string", "enum": ["c", "f"]},
                },
                "required": ["city"],
                "$defs": {"days": {"type": "integer"}},
            }),
            true,
        ),
        tool("stop", json!({"type": "object", "properties": {}}), true),
    ]
}

/// Values of one parameter, as they are written: text or not, and what.
fn values(schema: &Value, strict: bool, good: &[(bool, &str)], bad: &[(bool, &str)]) {
    let wanted = wanted(vec![tool("f", one(schema.clone()), strict)], Calls::Must);
    for (list, allowed) in [(good, true), (bad, false)] {
        for (string, value) in list {
            let text = call("f", &[&parameter("p", *string, value)]) + END;
            assert_eq!(
                follows(made(&wanted), &text),
                allowed,
                "{string} {value} under {schema}"
            );
        }
    }
}

#[test]
fn calls_that_must_come_have_their_parameters_types() {
    let allows = |calls, text: &str| follows(made(&wanted(weather(), calls)), text);
    let city = parameter("city", true, "a <b> </c");
    let days = parameter("days", false, "3");
    let unit = parameter("unit", true, "f");
    let full = call("weather", &[&city, &days, &unit]);
    assert!(allows(Calls::Must, &format!("{full}{END}")));
    let turned = call("weather", &[&unit, &city]);
    assert!(allows(Calls::Must, &format!("{turned}{END}")));
    let two = format!(
        "{}{}{END}",
        call("stop", &[]),
        call("weather", &[&city, &unit])
    );
    assert!(allows(Calls::Must, &two));
    for bad in [
        END.to_owned(),
        format!("text{full}{END}"),
        format!("{}{END}", call("weather", &[&days])),
        format!("{}{END}", call("weather", &[&city, &city])),
        format!("{}{END}", call("other", &[])),
        format!(
            "{}{END}",
            call("weather", &[&city, &days.replace('3', "x")])
        ),
        format!(
            "{}{END}",
            call("weather", &[&city, &unit.replace(">f<", ">k<")])
        ),
        format!(
            "{}{END}",
            call("weather", &[&city, &parameter("more", true, "x")])
        ),
        full.clone(),
    ] {
        assert!(!allows(Calls::Must, &bad), "{bad}");
    }
    assert!(allows(Calls::May, "Nothing to <call>."));
    let after = format!("I look.{OPEN}{full}{END}");
    assert!(allows(Calls::May, &after));
    assert!(!allows(Calls::May, &after.replace("weather", "whether")));
}

#[test]
fn the_other_version_has_its_own_tags() {
    let theirs = |text: &str| {
        let text = text.replace("｜DSML｜tool_calls", "｜DSML｜ calls");
        let text = text.replace("｜DSML｜invoke", "｜DSML｜ invoke");
        text.replace("｜DSML｜parameter", "｜DSML｜ parameter")
    };
    let two = format!(
        "{}{}{END}",
        call("stop", &[]),
        call("weather", &[&parameter("city", true, "x")])
    );
    let made = || V41.of(&wanted(weather(), Calls::Must)).unwrap().unwrap();
    assert!(follows(made(), &theirs(&two)));
    assert!(!follows(made(), &two));
    // It writes an empty line where there are no parameters.
    let empty = theirs(&format!(
        "<｜DSML｜invoke name=\"stop\">\n\n</｜DSML｜invoke>\n{END}"
    ));
    assert!(follows(made(), &empty));
    let none = theirs(&format!(
        "<｜DSML｜invoke name=\"weather\">\n\n</｜DSML｜invoke>\n{END}"
    ));
    assert!(!follows(made(), &none));
}

#[test]
fn a_block_that_the_prompt_has_not_opened_comes_first() {
    let mut all = wanted(weather(), Calls::Must);
    all.opened = false;
    let stop = call("stop", &[]);
    for (before, fits) in [
        (OPEN, true),
        ("<｜DSML｜tool_calls>\n", true),
        ("", false),
        ("I look.\n\n<｜DSML｜tool_calls>\n", false),
    ] {
        assert_eq!(
            follows(made(&all), &format!("{before}{stop}{END}")),
            fits,
            "{before}"
        );
    }
    assert!(!follows(made(&all), "No."));
    assert!(!follows(made(&all), ""));
}

#[test]
fn one_call_is_all_where_they_are_not_parallel() {
    let stop = call("stop", &[]);
    for (calls, before) in [(Calls::Must, ""), (Calls::May, OPEN)] {
        let mut all = wanted(weather(), calls);
        all.parallel = false;
        assert!(follows(made(&all), &format!("{before}{stop}{END}")));
        assert!(!follows(made(&all), &format!("{before}{stop}{stop}{END}")));
        // And of tools that are not held.
        all.tools = vec![tool("stop", json!({}), false)];
        let any = call(
            "stop",
            &[&parameter("x", true, "1"), &parameter("y", false, "[1]")],
        );
        assert!(follows(made(&all), &format!("{before}{any}{END}")));
        assert!(!follows(made(&all), &format!("{before}{any}{any}{END}")));
    }
    let mut free = wanted(vec![tool("stop", json!({}), false)], Calls::May);
    free.parallel = false;
    assert!(follows(made(&free), "Words < alone."));
    free.parallel = true;
    assert!(V4.of(&free).unwrap().is_none(), "nothing is to be enforced");
}

#[test]
fn strict_tools_are_held_beside_others() {
    let mut tools = weather();
    tools.push(tool(
        "free",
        json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}),
        false,
    ));
    let all = wanted(tools, Calls::May);
    let allows = |text: &str| follows(made(&all), &format!("{OPEN}{text}{END}"));
    assert!(allows(&call("free", &[&parameter("b", true, "x")])));
    assert!(allows(&call("weather", &[&parameter("city", true, "x")])));
    assert!(!allows(&call("weather", &[&parameter("b", true, "x")])));
    assert!(follows(made(&all), "Plain text."));
}

#[test]
fn an_answer_is_of_the_form_or_it_calls() {
    let format = Format::Schema {
        schema: one(json!({"type": "integer"})),
        strict: true,
    };
    for strict in [true, false] {
        let mut all = wanted(
            vec![tool("f", one(json!({"type": "string"})), strict)],
            Calls::May,
        );
        all.format = Some(format.clone());
        let allows = |text: &str| follows(made(&all), text);
        assert!(allows(r#"{"p": 3}"#));
        let calls = format!("{OPEN}{}{END}", call("f", &[&parameter("p", true, "x")]));
        assert!(allows(&calls));
        for bad in [
            "text",
            r#"{"p": "x"}"#,
            &format!("I look.{calls}"),
            &format!("{{\"p\": 3}}{calls}"),
        ] {
            assert!(!allows(bad), "{bad}");
        }
        let wrong = calls.replace("string=\"true\">x", "string=\"false\">1");
        assert_eq!(allows(&wrong), !strict);
        all.format = Some(Format::JsonObject);
        assert!(follows(made(&all), r#"{"any": []}"#) && follows(made(&all), &calls));
        assert!(!follows(made(&all), "[]"));
        all.format = Some(Format::Regex("(yes|no)".to_owned()));
        assert!(follows(made(&all), "yes") && follows(made(&all), &calls));
        assert!(!follows(made(&all), "maybe"));
        // Calls that must come leave no room for it.
        all.calls = Calls::Must;
        assert!(!follows(made(&all), "yes") && follows(made(&all), &calls));
    }
}

#[test]
fn text_is_held_as_json_is() {
    values(
        &json!({"type": "string"}),
        true,
        &[(true, "a \"b\"\n</x>"), (true, "")],
        &[(false, "\"a\""), (false, "1")],
    );
    values(
        &json!({"const": "a/b"}),
        true,
        &[(true, "a/b")],
        &[(true, "a"), (false, "\"a/b\"")],
    );
    values(
        &json!({"type": "string", "pattern": "^[a-z]+$"}),
        true,
        &[(true, "ab")],
        &[(true, "aB"), (true, "")],
    );
    values(
        &json!({"type": "string", "pattern": "b|^c"}),
        true,
        &[(true, "abd"), (true, "cx")],
        &[(true, "xc")],
    );
    values(
        &json!({"type": "string", "pattern": "a/\\d$"}),
        true,
        &[(true, "xa/1")],
        &[(true, "a/12")],
    );
    values(
        &json!({"type": "string", "minLength": 2, "maxLength": 3}),
        true,
        &[(true, "ab"), (true, "éßx")],
        &[(true, "a"), (true, "abcd")],
    );
    values(
        &json!({"type": "string", "pattern": "^a", "maxLength": 2}),
        true,
        &[(true, "ab")],
        &[(true, "abc"), (true, "b")],
    );
    values(
        &json!({"type": "string", "format": "date"}),
        true,
        &[(true, "2024-02-29")],
        &[(true, "2023-02-29")],
    );
    values(
        &json!({"type": "string", "format": "uuid"}),
        true,
        &[(true, "123e4567-e89b-12d3-a456-426614174000")],
        &[(true, "1")],
    );
    for (format, good, bad) in [
        ("ipv4", "10.0.0.255", "10.0.0.256"),
        ("ipv6", "fe80::1", "fe80"),
        ("hostname", "a.example", "a..b"),
        ("uri", "http://a.b/c?d#e", "a b"),
        ("email", "a@b.org", "a@"),
    ] {
        values(
            &json!({"type": "string", "format": format}),
            true,
            &[(true, good)],
            &[(true, bad)],
        );
    }
}

#[test]
fn unions_are_text_or_json() {
    values(
        &json!({"anyOf": [{"type": "string"}, {"type": "null"}]}),
        true,
        &[(true, "x"), (false, "null")],
        &[(false, "1"), (false, "\"x\"")],
    );
    values(
        &json!({"type": ["string", "integer"]}),
        true,
        &[(true, "x"), (false, "1")],
        &[(false, "null"), (false, "\"x\"")],
    );
    values(
        &json!({"type": "string", "nullable": true, "enum": ["a"]}),
        true,
        &[(true, "a"), (false, "null")],
        &[(true, "b")],
    );
    values(
        &json!({"enum": ["a", 1, null]}),
        true,
        &[(true, "a"), (false, "1"), (false, "null")],
        &[(true, "b"), (false, "2")],
    );
    values(
        &json!({}),
        true,
        &[(true, "a"), (false, "[\"a\"]")],
        &[(false, "\"a\"")],
    );
    values(
        &json!({"oneOf": [{"type": "string", "enum": ["all"]}, {"type": "string", "pattern": "^[1-9][0-9]*$"}]}),
        false,
        &[(true, "all"), (true, "17")],
        &[(true, "al"), (true, "017")],
    );
    values(
        &json!({"allOf": [{"type": "string"}, {"minLength": 2}]}),
        true,
        &[(true, "ab")],
        &[(true, "a"), (false, "1")],
    );
    values(
        &json!({"type": "array", "items": {"type": "string"}, "minItems": 1}),
        true,
        &[(false, "[\"a\"]")],
        &[(false, "[]"), (true, "a")],
    );
    values(
        &json!({"type": "boolean"}),
        true,
        &[(false, "true")],
        &[(true, "true"), (false, "1")],
    );
    values(
        &json!({"type": "integer", "minimum": 1, "maximum": 5}),
        true,
        &[(false, "5")],
        &[(false, "6")],
    );
}

#[test]
fn parameters_with_any_names() {
    let allows = |parameters: Value, strict, written: &[&str]| {
        let all = wanted(vec![tool("f", parameters, strict)], Calls::Must);
        follows(made(&all), &(call("f", written) + END))
    };
    let open = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "string"}});
    let (a, b) = (parameter("a", false, "1"), parameter("b", true, "x"));
    for strict in [true, false] {
        assert!(allows(open.clone(), strict, &[&b, &a]));
        assert!(allows(open.clone(), strict, &[&a, &b]));
        assert!(!allows(
            open.clone(),
            strict,
            &[&parameter("b", false, "1")]
        ));
        assert!(!allows(open.clone(), strict, &[&parameter("a", true, "x")]));
    }
    for free in [
        json!({}),
        json!(true),
        json!({"type": "object"}),
        json!({"type": null}),
        json!(null),
    ] {
        assert!(allows(free.clone(), false, &[&b, &a]), "{free}");
        assert!(allows(free, false, &[]));
    }
    let odd = json!({"type": "object", "properties": {"$a.b-c[]": {"type": "string"}, "größe": {"type": "integer"}}, "required": ["größe"]});
    assert!(allows(
        odd.clone(),
        true,
        &[
            &parameter("$a.b-c[]", true, "x"),
            &parameter("größe", false, "1")
        ]
    ));
    assert!(!allows(odd, true, &[&parameter("$a.b-c[]", true, "x")]));
    // More of them than are told apart by bits: in the schema's order.
    let many: serde_json::Map<String, Value> = (0..70)
        .map(|i| (format!("p{i}"), json!({"type": "integer"})))
        .collect();
    let many = json!({"type": "object", "properties": many, "required": ["p3"]});
    let (p3, p69) = (parameter("p3", false, "1"), parameter("p69", false, "1"));
    assert!(allows(many.clone(), true, &[&p3, &p69]));
    assert!(!allows(many, true, &[&p69]));
}

#[test]
fn a_tool_that_cannot_be_held_is_let_go() {
    let odd = tool(
        "odd",
        json!({"type": "object", "properties": {
        "x": {"type": "string", "pattern": "(?=a)b"}, "y": {"type": "array", "items": {"type": "integer"}, "uniqueItems": true},
        "z": {"$ref": "#/nowhere"}, "n": {"type": "integer"}}, "required": ["x", "n"]}),
        false,
    );
    let all = wanted(vec![odd], Calls::Must);
    let allows = |written: &[&str]| follows(made(&all), &(call("odd", written) + END));
    let (x, n) = (parameter("x", true, "q"), parameter("n", false, "1"));
    assert!(allows(&[
        &x,
        &n,
        &parameter("y", false, "[1, 1]"),
        &parameter("z", true, "w")
    ]));
    assert!(!allows(&[&x]));
    assert!(!allows(&[&x, &n, &parameter("y", false, "[\"a\"]")]));
}
