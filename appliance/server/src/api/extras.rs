//! Sampling parameters that every path accepts.

use serde_json::{Map, Value};
use v4_chat::intake::whole;
use v4_runtime::generation::SamplerOptions;

use crate::http::ApiError;
use crate::picker::Picking;

/// Tokens that may have a bias.
const MOST_BIASES: usize = 1024;

/// Penalties and the like.
#[derive(Debug, Default)]
pub(super) struct Extras {
    frequency_penalty: f32,
    presence_penalty: f32,
    repetition_penalty: Option<f32>,
    top_k: Option<usize>,
    min_p: Option<f32>,
    bias: Vec<(u32, f32)>,
    seed: Option<u64>,
    stop_loops: Option<bool>,
}

impl Extras {
    /// From a request's body, for a vocabulary of that many tokens.
    pub fn of(body: &Map<String, Value>, vocabulary: usize) -> Result<Self, ApiError> {
        let whole = |name: &'static str| match present(body, name) {
            None => Ok(None),
            Some(value) => whole(value)
                .map(Some)
                .ok_or_else(|| wrong(name, "a whole number")),
        };
        let number = |name: &'static str, least: f64, most: f64| match present(body, name) {
            None => Ok(None),
            Some(value) => value
                .as_f64()
                .filter(|n| (least..=most).contains(n))
                .map(|n| Some(n as f32))
                .ok_or_else(|| wrong(name, &format!("a number from {least} to {most}"))),
        };
        let repetition = match number("repetition_penalty", 0.01, 100.0)? {
            None => number("repeat_penalty", 0.01, 100.0)?,
            some => some,
        };
        Ok(Self {
            frequency_penalty: number("frequency_penalty", -2.0, 2.0)?.unwrap_or(0.0),
            presence_penalty: number("presence_penalty", -2.0, 2.0)?.unwrap_or(0.0),
            repetition_penalty: repetition,
            top_k: match whole("top_k")? {
                // The usual word for "all".
                Some(-1) => Some(0),
                Some(k) => Some(usize::try_from(k).map_err(|_| wrong("top_k", "at least 0"))?),
                None => None,
            },
            min_p: number("min_p", 0.0, 1.0)?,
            bias: bias(body, vocabulary)?,
            // A negative one is the usual word for "any".
            stop_loops: match present(body, "stop_loops") {
                None => None,
                Some(Value::Bool(stop)) => Some(*stop),
                Some(_) => return Err(wrong("stop_loops", "true or false")),
            },
            seed: whole("seed")?.and_then(|seed| u64::try_from(seed).ok()),
        })
    }

    /// How to pick tokens with these. `stop_loops` holds where the request does not say.
    pub fn picking(self, sampler: SamplerOptions, stop_loops: bool) -> Picking {
        let defaults = SamplerOptions::default();
        Picking {
            sampler: SamplerOptions {
                top_k: self.top_k.unwrap_or(defaults.top_k),
                min_p: self.min_p.unwrap_or(defaults.min_p),
                repetition_penalty: self
                    .repetition_penalty
                    .unwrap_or(defaults.repetition_penalty),
                seed: self.seed.unwrap_or_else(crate::stamp::new_seed),
                ..sampler
            },
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            bias: self.bias,
            stop_loops: self.stop_loops.unwrap_or(stop_loops),
            ..Picking::default()
        }
    }
}

/// A field that is there and not null.
pub(super) fn present<'a>(body: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    body.get(name).filter(|value| !value.is_null())
}

fn wrong(name: &'static str, what: &str) -> ApiError {
    ApiError::invalid(name, format!("Invalid {name}: it must be {what}."))
}

fn bias(body: &Map<String, Value>, vocabulary: usize) -> Result<Vec<(u32, f32)>, ApiError> {
    const NAME: &str = "logit_bias";
    let Some(value) = present(body, NAME) else {
        return Ok(Vec::new());
    };
    let wrong = || wrong(NAME, "an object of token ids and numbers from -100 to 100");
    let biases = value.as_object().ok_or_else(wrong)?;
    if biases.len() > MOST_BIASES {
        return Err(ApiError::invalid(
            NAME,
            format!("Invalid {NAME}: it has more than {MOST_BIASES} tokens."),
        ));
    }
    let mut all = Vec::with_capacity(biases.len());
    for (id, bias) in biases {
        let bias = bias.as_f64().filter(|b| (-100.0..=100.0).contains(b));
        let (id, bias): (u32, f64) = id.parse().ok().zip(bias).ok_or_else(wrong)?;
        if id as usize >= vocabulary {
            return Err(ApiError::invalid(
                NAME,
                format!("Invalid {NAME}: there is no token {id}; the vocabulary has {vocabulary}."),
            ));
        }
        all.push((id, bias as f32));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(body: Value) -> Result<Extras, ApiError> {
        Extras::of(body.as_object().unwrap(), 100)
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        for body in [
            json!({"logit_bias": {"x": 1}}),
            json!({"logit_bias": {"1": 101}}),
            json!({"logit_bias": {"100": 1}}),
            json!({"frequency_penalty": 2.5}),
            json!({"top_k": -2}),
            json!({"top_k": "all"}),
            json!({"top_k": 1.5}),
            json!({"repeat_penalty": 0}),
            json!({"seed": "x"}),
        ] {
            let name = body.as_object().unwrap().keys().next().unwrap().clone();
            let error = of(body).unwrap_err();
            assert!(error.param.is_some());
            assert!(error.message.contains(&name) || name == "repeat_penalty");
        }
    }

    #[test]
    fn numbers_have_several_spellings() {
        assert_eq!(of(json!({"top_k": 40.0})).unwrap().top_k, Some(40));
        assert_eq!(of(json!({"top_k": -1})).unwrap().top_k, Some(0));
        assert_eq!(of(json!({"seed": -1})).unwrap().seed, None);
        assert_eq!(of(json!({"seed": 7.0})).unwrap().seed, Some(7));
        let extras = of(json!({"repeat_penalty": 1.1})).unwrap();
        assert_eq!(extras.repetition_penalty, Some(1.1));
    }

    #[test]
    fn penalties_reach_the_sampler() {
        let body = json!({
            "frequency_penalty": 0.5, "presence_penalty": -1, "top_k": 40, "min_p": 0.1,
            "repetition_penalty": 1.1, "seed": 9, "logit_bias": {"17": -100},
        });
        let picking = of(body).unwrap().picking(
            SamplerOptions {
                temperature: 0.5,
                ..SamplerOptions::default()
            },
            true,
        );
        assert!(picking.stop_loops);
        assert_eq!(picking.sampler.top_k, 40);
        assert_eq!(picking.sampler.temperature, 0.5);
        assert_eq!(picking.sampler.seed, 9);
        assert_eq!(picking.bias, [(17, -100.0)]);
        assert_eq!(picking.presence_penalty, -1.0);
    }
}
