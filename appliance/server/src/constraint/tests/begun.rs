//! Answers that begin in the prompt.

use super::*;

fn begun(format: Format, begun: &str) -> Wanted {
    Wanted {
        format: Some(format),
        begun: begun.to_owned(),
        ..Wanted::default()
    }
}

#[test]
fn the_form_holds_for_both_together() {
    let schema = one(json!({"type": "integer"}));
    let format = Format::Schema {
        schema,
        strict: false,
    };
    let whole = r#"{"p": 17}"#;
    for at in 0..=whole.len() {
        let (before, after) = whole.split_at(at);
        assert!(
            follows(made(&begun(format.clone(), before)), after),
            "{before}"
        );
        assert!(
            !follows(made(&begun(format.clone(), before)), whole) || at == 0,
            "{before}"
        );
    }
    for bad in ["{\"q\"", "x", "{\"p\": \"", "{\"p\": 1}}"] {
        let refusal = refusal(&begun(format.clone(), bad));
        assert_eq!(refusal.part, Part::Begun, "{bad}");
    }
    let regex = Format::Regex("[ab]{4}é?".to_owned());
    assert!(follows(made(&begun(regex.clone(), "ab")), "baé"));
    assert!(follows(made(&begun(regex.clone(), "abba")), ""));
    assert!(!follows(made(&begun(regex.clone(), "ab")), "b"));
    refusal(&begun(regex, "abc"));
}

#[test]
fn a_beginning_is_no_call() {
    let mut wanted = begun(Format::JsonObject, "{\"a\":");
    wanted.calls = Calls::May;
    wanted.tools = vec![tool("f", json!({}), false)];
    assert!(follows(made(&wanted), " 1}"));
    assert!(!follows(made(&wanted), "\n\n<｜DSML｜tool_calls>\n"));
    // Calls that must come leave the text before them alone.
    wanted.calls = Calls::Must;
    wanted.begun = "I look.".to_owned();
    let call = "\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>";
    assert!(follows(made(&wanted), call));
}
