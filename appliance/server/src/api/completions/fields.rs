//! Reads the fields of a request for raw text.

use serde_json::{Map, Value};

use super::super::ignored::Ignored;
use super::tables::{
    HARMLESS, NOT_BY_INFILL, READ, READ_BY_INFILL, READ_BY_LLAMA, REFUSED, Refused,
};
use crate::http::{ApiError, Completing, Kind};

/// Names of the same thing, the first of which is read here.
const SAME: &[(&str, &[&str])] = &[
    ("max_tokens", &["max_completion_tokens", "n_predict"]),
    ("seed", &["random_seed"]),
    ("repetition_penalty", &["repeat_penalty"]),
];

/// Fields that are whole numbers: JSON has one kind of number, so 40.0 is 40.
const WHOLE: &[&str] = &[
    "max_tokens",
    "top_k",
    "seed",
    "logprobs",
    "n_probs",
    "n_indent",
    "repeat_last_n",
    "t_max_prompt_ms",
    "t_max_predict_ms",
];

/// Fields in which a negative number says that there is none.
const NONE_IF_NEGATIVE: &[&str] = &["seed", "t_max_prompt_ms", "t_max_predict_ms"];

/// Floats are whole numbers up to here.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// A request's fields.
#[derive(Debug)]
pub(super) struct Fields(Map<String, Value>);

/// The fields that are not known here.
pub(super) fn ignored(body: &Value) -> Ignored {
    Ignored::of(body, |name| {
        READ.contains(&name) || HARMLESS.contains(&name) || REFUSED.iter().any(|r| r.name == name)
    })
}

impl Fields {
    /// Of a request.
    pub fn new(body: Value, completing: &Completing) -> Result<Self, ApiError> {
        let Value::Object(mut fields) = body else {
            return Err(ApiError::new(
                Kind::Invalid,
                "The request is not a JSON object.",
            ));
        };
        fields.retain(|_, value| !value.is_null());
        for Refused {
            name,
            unless,
            instead,
        } in REFUSED
        {
            let read = match completing {
                Completing::Infill => READ_BY_LLAMA.contains(name) || READ_BY_INFILL.contains(name),
                Completing::Llama => READ_BY_LLAMA.contains(name),
                _ => false,
            };
            if !read && fields.get(*name).is_some_and(|value| !unless(value)) {
                return Err(ApiError::invalid(
                    name,
                    format!("{name} is not supported here; {instead}."),
                ));
            }
        }
        for (name, instead) in NOT_BY_INFILL {
            if *completing == Completing::Infill && fields.contains_key(*name) {
                return Err(ApiError::invalid(
                    name,
                    format!("{name} is not supported here; {instead}."),
                ));
            }
        }
        if fields.contains_key("prompt") && fields.contains_key("segments") {
            return Err(ApiError::invalid(
                "segments",
                "segments and prompt cannot be combined; send one of them.",
            ));
        }
        for (name, others) in SAME {
            for other in *others {
                if let Some(value) = fields.remove(*other) {
                    fields.entry(*name).or_insert(value);
                }
            }
        }
        for name in WHOLE {
            let float = fields.get(*name).and_then(Value::as_f64);
            if let Some(n) = float.filter(|n| n.fract() == 0.0 && n.abs() <= EXACT) {
                // Numbers that are whole already keep all their digits.
                if fields[*name].is_f64() {
                    fields.insert((*name).to_owned(), (n as i64).into());
                }
            }
        }
        let negative = |value: &Value| value.as_i64().is_some_and(|n| n < 0);
        for name in NONE_IF_NEGATIVE {
            if fields.get(*name).is_some_and(negative) {
                fields.remove(*name);
            }
        }
        if fields.get("top_k").is_some_and(negative) {
            // All of them.
            fields.insert("top_k".into(), 0.into());
        }
        if fields.get("logprobs") == Some(&Value::Bool(false)) {
            fields.remove("logprobs");
        }
        Ok(Self(fields))
    }

    pub fn map(&self) -> &Map<String, Value> {
        &self.0
    }

    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// Sets what the request leaves open.
    pub fn default(&mut self, name: &str, value: impl Into<Value>) {
        self.0.entry(name).or_insert_with(|| value.into());
    }

    /// Sets it whatever the request says.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(name.to_owned(), value.into());
    }

    pub fn text(&self, name: &'static str) -> Result<Option<&str>, ApiError> {
        let text = |value: &'_ Value| value.is_string();
        match self.get(name) {
            Some(value) if !text(value) => Err(wrong(name, "a string")),
            other => Ok(other.and_then(Value::as_str)),
        }
    }

    pub fn flag(&self, name: &'static str) -> Result<Option<bool>, ApiError> {
        self.read(name, "true or false", Value::as_bool)
    }

    pub fn whole(&self, name: &'static str) -> Result<Option<usize>, ApiError> {
        let most = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        self.read(name, "a whole number of at least 0", |value| {
            value.as_u64().map(most)
        })
    }

    /// A number of tokens, where -1 stands for as many as there is room for.
    pub fn limit(&self, name: &'static str) -> Result<Option<usize>, ApiError> {
        match self.get(name).and_then(Value::as_i64) {
            // llama-server has -2 for the same.
            Some(-2 | -1) => Ok(Some(usize::MAX)),
            _ => self
                .whole(name)
                .map_err(|_| wrong(name, "a whole number, or -1 for as many as fit")),
        }
    }

    pub fn number(
        &self,
        name: &'static str,
        least: f64,
        most: f64,
    ) -> Result<Option<f32>, ApiError> {
        let what = format!("a number from {least} to {most}");
        self.read(name, &what, |value| {
            let number = value.as_f64().filter(|n| (least..=most).contains(n));
            number.map(|n| n as f32)
        })
    }

    fn read<T>(
        &self,
        name: &'static str,
        what: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        let found = self
            .get(name)
            .map(|v| read(v).ok_or_else(|| wrong(name, what)));
        found.transpose()
    }
}

/// The refusal of a field with a wrong value.
pub(super) fn wrong(name: &'static str, what: &str) -> ApiError {
    ApiError::invalid(name, format!("Invalid {name}: it must be {what}."))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_would_change_the_answer_is_refused_by_name_and_what_asks_for_nothing_is_not() {
        for (name, value) in [
            ("guided_regex", json!("a+")),
            ("n", json!(2)),
            ("echo", json!(true)),
            ("min_tokens", json!(5)),
            ("messages", json!([])),
            ("input_prefix", json!("x")),
            ("mirostat", json!(2)),
            ("response_format", json!({"type": "json_object"})),
        ] {
            let error = Fields::new(json!({name: value}), &Completing::OpenAi).unwrap_err();
            assert_eq!(error.param, Some(name));
            assert!(error.message.contains(name), "{}", error.message);
        }
        for (name, value) in [
            ("guided_regex", json!(null)),
            ("n", json!(1.0)),
            ("best_of", json!(1)),
            ("echo", json!(false)),
            ("min_tokens", json!(0)),
            ("tools", json!([])),
            ("response_format", json!({"type": "text"})),
            ("user", json!("u")),
            ("of_tomorrow", json!(1)),
        ] {
            assert!(
                Fields::new(json!({name: value}), &Completing::OpenAi).is_ok(),
                "{name}"
            );
        }
        let prefix = json!({"input_prefix": "x"});
        assert!(Fields::new(prefix.clone(), &Completing::Infill).is_ok());
        assert!(Fields::new(prefix, &Completing::Llama).is_err());
        let suffix = json!({"suffix": "x"});
        assert!(Fields::new(suffix.clone(), &Completing::Llama).is_ok());
        assert!(Fields::new(suffix, &Completing::Infill).is_err());
        let both = json!({"prompt": "x", "segments": {"prefix": "x"}});
        assert!(Fields::new(both, &Completing::OpenAi).is_err());
        assert!(Fields::new(json!([]), &Completing::Llama).is_err());
    }

    #[test]
    fn what_is_not_known_is_told() {
        let body = json!({"prompt": "x", "user": "u", "of_tomorrow": 1, "n_probs": 0, "a\r\nb": 2});
        assert_eq!(ignored(&body).names(), ["of_tomorrow"]);
        let many: Map<String, Value> = (0..99).map(|i| (format!("f{i}"), i.into())).collect();
        assert_eq!(ignored(&many.into()).names().len(), 16);
        assert!(ignored(&json!([])).names().is_empty());
    }

    #[test]
    fn numbers_are_read_as_clients_write_them() {
        let fields = |body| Fields::new(body, &Completing::OpenAi).unwrap();
        assert_eq!(
            fields(json!({"top_k": 40.0})).whole("top_k").unwrap(),
            Some(40)
        );
        assert_eq!(fields(json!({"seed": -1})).whole("seed").unwrap(), None);
        assert_eq!(
            fields(json!({"random_seed": 7.0})).whole("seed").unwrap(),
            Some(7)
        );
        let most = json!({"seed": u64::MAX});
        assert_eq!(fields(most).get("seed").unwrap().as_u64(), Some(u64::MAX));
        for (body, limit) in [
            (json!({}), None),
            (json!({"max_tokens": null, "n_predict": 3}), Some(3)),
            (json!({"max_tokens": 5, "n_predict": 3}), Some(5)),
            (json!({"max_tokens": -1}), Some(usize::MAX)),
            (json!({"n_predict": -2}), Some(usize::MAX)),
            (json!({"max_tokens": 0.0}), Some(0)),
        ] {
            assert_eq!(
                fields(body.clone()).limit("max_tokens").unwrap(),
                limit,
                "{body}"
            );
        }
        for bad in [json!(-3), json!(0.5), json!("9"), json!([1]), json!(1e300)] {
            let error = fields(json!({"max_tokens": bad})).limit("max_tokens");
            assert_eq!(error.unwrap_err().param, Some("max_tokens"), "{bad}");
        }
        assert!(fields(json!({"stream": 1})).flag("stream").is_err());
        assert!(fields(json!({"suffix": 1})).text("suffix").is_err());
        assert!(
            fields(json!({"top_p": 1.5}))
                .number("top_p", 0.0, 1.0)
                .is_err()
        );
    }
}
