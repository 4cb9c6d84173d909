//! Output that must follow a grammar: JSON, a JSON schema, a regular expression.

use std::fmt;
use std::sync::OnceLock;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{JsonCompileOptions, Matcher, ParserFactory};
use serde_json::{Value, json};
use v4_chat::ModelVersion;
use v4_runtime::tokenizer::Tokenizer;

mod tools;
mod wanted;

pub use wanted::{Calls, ConstraintError, Format, Part, Refusal, Wanted, WantedTool};

/// In each tag of the tools' markup.
const TOOL_MARK: &str = "｜DSML｜";

/// Before a mark's name in the trie, so that its spelling is never taken for it.
const MARK: u8 = 0xff;

/// White space between the tokens of JSON: enough to indent, not enough to go on for
/// ever.
const WHITESPACE: &str = r"[\x20\x0A\x0D\x09]{1,24}";

/// Makes constraints for a tokenizer.
pub struct Grammars {
    tokenizer: Tokenizer,
    version: ModelVersion,
    factory: OnceLock<Result<ParserFactory, String>>,
}

impl fmt::Debug for Grammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammars").finish_non_exhaustive()
    }
}

/// A text that follows a grammar, so far.
pub struct Constraint {
    matcher: Matcher,
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constraint").finish_non_exhaustive()
    }
}

impl Grammars {
    /// For a tokenizer and a format. The tokenizer's trie is made when the first grammar
    /// is.
    #[must_use]
    pub fn new(tokenizer: Tokenizer, version: ModelVersion) -> Self {
        Self {
            tokenizer,
            version,
            factory: OnceLock::new(),
        }
    }

    fn factory(&self) -> Result<&ParserFactory, ConstraintError> {
        let made = self.factory.get_or_init(|| {
            let env = environment(&self.tokenizer)?;
            let mut factory = ParserFactory::new_simple(&env).map_err(|e| e.to_string())?;
            factory.quiet();
            factory.limits_mut().verbose_errors = false;
            Ok(factory)
        });
        made.as_ref()
            .map_err(|e| ConstraintError::Tokenizer(e.clone()))
    }

    /// The constraint that a request asks for; `None` where nothing is to be enforced.
    ///
    /// # Errors
    /// [`ConstraintError::Grammar`] names what cannot be held to.
    pub fn of(&self, wanted: &Wanted) -> Result<Option<Constraint>, ConstraintError> {
        if wanted.calls != Calls::Never && !wanted.tools.is_empty() {
            let strict = wanted.tools.iter().all(|tool| tool.strict);
            if wanted.calls == Calls::May && !strict {
                return Ok(None);
            }
            let mark = self
                .tokenizer
                .mark(TOOL_MARK)
                .ok_or_else(|| ConstraintError::Tokenizer(format!("there is no {TOOL_MARK}")))?;
            let inside = wanted.calls == Calls::Must;
            let grammar = tools::grammar(&wanted.tools, self.version, mark, inside)?;
            return self.make(TopLevelGrammar::from_lark(grammar)).map(Some);
        }
        match &wanted.format {
            None => Ok(None),
            Some(Format::JsonObject) => self.json_schema(json!({"type": "object"})).map(Some),
            Some(Format::Schema { schema, .. }) => self.json_schema(schema.clone()).map(Some),
            Some(Format::Regex(regex)) => self.make(TopLevelGrammar::from_regex(regex)).map(Some),
        }
    }

    /// JSON that a schema allows.
    ///
    /// # Errors
    /// A schema that cannot be followed.
    pub fn json_schema(&self, schema: Value) -> Result<Constraint, ConstraintError> {
        let schema = match schema {
            Value::Bool(true) => json!({}),
            Value::Object(_) => schema,
            _ => {
                return Err(refused("a schema is an object"));
            }
        };
        let schema = with_whitespace(schema);
        self.make(TopLevelGrammar::from_json_schema(schema))
    }

    fn make(&self, grammar: TopLevelGrammar) -> Result<Constraint, ConstraintError> {
        let parser = self
            .factory()?
            .create_parser(grammar)
            .map_err(|e| refused(format!("{e:#}")))?;
        let mut matcher = Matcher::new(Ok(parser));
        // Some grammars only turn out unusable when they are first asked.
        matcher
            .compute_mask_or_eos()
            .map_err(|e| refused(format!("{e:#}")))?;
        Ok(Constraint { matcher })
    }
}

impl Constraint {
    /// Forbids every token that the text cannot go on with.
    ///
    /// # Errors
    /// [`ConstraintError::Run`].
    pub fn mask(&mut self, logits: &mut [f32]) -> Result<(), ConstraintError> {
        let mask = self.matcher.compute_mask_or_eos().map_err(run)?;
        for (id, logit) in logits.iter_mut().enumerate() {
            if !(id < mask.len() && mask.get(id)) {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    /// Takes a token; true if the text can only end after it.
    ///
    /// # Errors
    /// [`ConstraintError::Run`].
    pub fn accept(&mut self, id: u32) -> Result<bool, ConstraintError> {
        self.matcher.consume_token(id).map_err(run)?;
        Ok(self.matcher.is_stopped())
    }
}

/// A schema, which is an object, with white space within bounds.
fn with_whitespace(mut schema: Value) -> Value {
    let options = JsonCompileOptions {
        whitespace_pattern: Some(WHITESPACE.to_owned()),
        ..JsonCompileOptions::default()
    };
    options.apply_to(&mut schema);
    schema
}

fn refused(why: impl Into<String>) -> ConstraintError {
    ConstraintError::Grammar(Box::new(Refusal {
        part: Part::Format,
        place: None,
        keyword: None,
        why: why.into(),
    }))
}

fn run(error: impl fmt::Display) -> ConstraintError {
    ConstraintError::Run(format!("{error:#}"))
}

fn environment(tokenizer: &Tokenizer) -> Result<TokEnv, String> {
    let eos = tokenizer
        .eos()
        .ok_or("the tokenizer has no token that ends a text")?;
    let size = u32::try_from(tokenizer.vocab_size()).map_err(|e| e.to_string())?;
    let words: Vec<Vec<u8>> = (0..size)
        .map(|id| {
            let bytes = tokenizer.token_bytes(id).unwrap_or_default();
            match tokenizer.is_mark(id) {
                true => [&[MARK], bytes].concat(),
                false => bytes.to_vec(),
            }
        })
        .collect();
    let trie = TokTrie::from(&TokRxInfo::new(size, eos), &words);
    Ok(std::sync::Arc::new(ApproximateTokEnv::new(trie)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use v4_chat::ToolDefinition;
    use v4_runtime::tokenizer::Marks;

    use super::*;

    fn tokenizer() -> Tokenizer {
        let tiny =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tiny-v4/tokenizer.json");
        let mut tokenizer = Tokenizer::from_json_file(&tiny).unwrap();
        let mut special = tokenizer.special_ids();
        special.eos = tokenizer.mark("<｜end▁of▁sentence｜>");
        tokenizer.set_special_ids(special).unwrap();
        tokenizer
    }

    /// Whether a text can be written, and whether it can end there.
    fn follows(constraint: &mut Constraint, text: &str) -> bool {
        let t = tokenizer();
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

    #[test]
    fn a_schema_allows_its_documents_alone() {
        let grammars = Grammars::new(tokenizer(), ModelVersion::V4);
        let schema = json!({
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "y"]}},
            "required": ["a", "b"],
            "additionalProperties": false,
        });
        let allows = |text| {
            let wanted = OutputConstraint::Json {
                schema: Some(schema.clone()),
            };
            follows(
                &mut grammars.of(&Wanted::from(&wanted)).unwrap().unwrap(),
                text,
            )
        };
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
        let grammars = Grammars::new(tokenizer(), ModelVersion::V4);
        let mut any = grammars
            .of(&Wanted::from(&OutputConstraint::Json { schema: None }))
            .unwrap()
            .unwrap();
        assert!(follows(&mut any, r#"{"k": [1, {"x": null}], "": "é"}"#));
        let mut any = grammars
            .of(&Wanted::from(&OutputConstraint::Json { schema: None }))
            .unwrap()
            .unwrap();
        assert!(!follows(&mut any, "[1]"));
        let regex = OutputConstraint::Regex("[ab]{2}c?".into());
        for (text, fits) in [("ab", true), ("bac", true), ("a", false), ("cc", false)] {
            let mut constraint = grammars.of(&Wanted::from(&regex)).unwrap().unwrap();
            assert_eq!(follows(&mut constraint, text), fits, "{text}");
        }
    }

    #[test]
    fn a_grammar_that_cannot_be_is_refused() {
        let grammars = Grammars::new(tokenizer(), ModelVersion::V4);
        for bad in [
            OutputConstraint::Regex("(".into()),
            OutputConstraint::Json {
                schema: Some(json!({"type": "nonsense"})),
            },
            OutputConstraint::Json {
                schema: Some(json!({"$ref": "#/nowhere"})),
            },
        ] {
            let error = grammars.of(&Wanted::from(&bad)).unwrap_err();
            assert!(matches!(error, ConstraintError::Grammar(_)), "{error}");
        }
    }

    #[test]
    fn calls_that_must_come_have_their_parameters_types() {
        let tool = |name: &str, parameters| ToolDefinition {
            name: name.to_owned(),
            description: None,
            parameters,
            strict: Some(true),
            defer_loading: false,
        };
        let tools = vec![
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
            ),
            tool("stop", json!({"type": "object", "properties": {}})),
        ];
        let wanted = |required| OutputConstraint::ToolCalls {
            tools: tools.clone(),
            required,
        };
        let grammars = Grammars::new(tokenizer(), ModelVersion::V4);
        let allows = |required, text: &str| {
            let mut constraint = grammars
                .of(&Wanted::from(&wanted(required)))
                .unwrap()
                .unwrap();
            follows(&mut constraint, text)
        };
        let city =
            "<｜DSML｜parameter name=\"city\" string=\"true\">a <b> </c</｜DSML｜parameter>\n";
        let days = "<｜DSML｜parameter name=\"days\" string=\"false\">3</｜DSML｜parameter>\n";
        let unit = "<｜DSML｜parameter name=\"unit\" string=\"true\">f</｜DSML｜parameter>\n";
        let call = |name: &str, all: &[&str]| {
            let all = all.concat();
            format!("<｜DSML｜invoke name=\"{name}\">\n{all}</｜DSML｜invoke>\n")
        };
        let end = "</｜DSML｜tool_calls>";
        let full = call("weather", &[city, days, unit]);
        assert!(allows(true, &format!("{full}{end}")));
        let two = format!(
            "{}{}{end}",
            call("stop", &[]),
            call("weather", &[city, unit])
        );
        assert!(allows(true, &two));
        for bad in [
            end.to_owned(),
            format!("text{full}{end}"),
            format!("{}{end}", call("weather", &[days])),
            format!("{}{end}", call("other", &[])),
            format!("{}{end}", call("weather", &[city, &days.replace('3', "x")])),
            format!(
                "{}{end}",
                call("weather", &[city, &unit.replace(">f<", ">k<")])
            ),
            full.clone(),
        ] {
            assert!(!allows(true, &bad), "{bad}");
        }
        assert!(allows(false, "Nothing to <call>."));
        let after = format!("I look.\n\n<｜DSML｜tool_calls>\n{full}{end}");
        assert!(allows(false, &after));
        assert!(!allows(false, &after.replace("weather", "whether")));
        // The other version's tags.
        let other = Grammars::new(tokenizer(), ModelVersion::V41);
        let mut constraint = other.of(&Wanted::from(&wanted(true))).unwrap().unwrap();
        let theirs = two.replace("｜DSML｜tool_calls", "｜DSML｜ calls");
        let theirs = theirs.replace("｜DSML｜invoke", "｜DSML｜ invoke");
        let theirs = theirs.replace("｜DSML｜parameter", "｜DSML｜ parameter");
        assert!(follows(&mut constraint, &theirs));
    }
}
