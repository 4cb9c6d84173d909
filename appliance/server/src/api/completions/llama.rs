//! Answers in llama-server's form, for editors.

use serde_json::{Map, Value, json};
use tokio::time::Instant;
use v4_chat::Logprob;
use v4_runtime::generation::SamplerOptions;

use super::fields::{Fields, wrong};
use super::logprobs::spelled;
use super::text::Cut;
use super::writing::{End, Step, Token, Writing};
use crate::api::respond::{Progress, Writer};
use crate::http::{ApiError, Sse, Style};
use crate::jobs::Output;

/// Fields of an answer that can be asked for.
const MOST_FIELDS: usize = 256;
/// What `infill` among the samplers keeps: tokens with at least so much of the best one's
/// probability. llama-server keeps those with a fifth of all.
const INFILL_LEAST: f32 = 0.2;

/// What the request says about the form.
#[derive(Debug, Default)]
pub(super) struct Form {
    /// Paths into the answer; all of it if there are none.
    fields: Vec<String>,
    tokens: bool,
    progress: bool,
    timings: bool,
    /// Whether probabilities were asked for.
    pub probabilities: Option<usize>,
}

impl Form {
    pub fn new(fields: &Fields) -> Result<Self, ApiError> {
        let all = match fields.get("response_fields") {
            None => Vec::new(),
            Some(value) => {
                let all = value.as_array().filter(|all| all.len() <= MOST_FIELDS);
                let all = all.map(|all| all.iter().map(|f| f.as_str().map(str::to_owned)));
                all.and_then(Iterator::collect::<Option<Vec<_>>>)
                    .ok_or_else(|| wrong("response_fields", "a list of strings"))?
            }
        };
        let flag = |name| fields.flag(name).map(|flag| flag == Some(true));
        Ok(Self {
            fields: all,
            tokens: flag("return_tokens")?,
            progress: flag("return_progress")?,
            timings: flag("timings_per_token")?,
            probabilities: fields.whole("n_probs")?.filter(|&n| n > 0),
        })
    }

    /// The parts of an answer that were asked for, each under the path that it was asked
    /// for by.
    fn select(&self, answer: Value) -> Value {
        if self.fields.is_empty() {
            return answer;
        }
        let find = |path: &String| {
            let found = path.split('/').try_fold(&answer, |at, name| at.get(name));
            found.map(|value| (path.clone(), value.clone()))
        };
        self.fields
            .iter()
            .filter_map(find)
            .collect::<Map<_, _>>()
            .into()
    }
}

/// The defaults of llama-server, without the samplers that the request leaves out.
pub(super) fn sampling(fields: &mut Fields) -> Result<(), ApiError> {
    for (name, value) in [
        ("temperature", json!(0.8)),
        ("top_k", json!(40)),
        ("top_p", json!(0.95)),
        ("min_p", json!(0.05)),
    ] {
        fields.default(name, value);
    }
    let Some(samplers) = fields.get("samplers").cloned() else {
        return Ok(());
    };
    let wrong = || {
        wrong(
            "samplers",
            "a list of names, as in [\"top_k\", \"temperature\"]",
        )
    };
    // An older form: a letter for each.
    let named: Vec<String> = match &samplers {
        Value::Array(all) => all
            .iter()
            .map(|name| name.as_str().map(str::to_owned))
            .collect::<Option<_>>()
            .ok_or_else(wrong)?,
        Value::String(letters) => letters.chars().map(String::from).collect(),
        _ => return Err(wrong()),
    };
    let has = |names: &[&str]| named.iter().any(|name| names.contains(&name.as_str()));
    for (names, field, none) in [
        (&["temperature", "temp", "t"][..], "temperature", json!(1.0)),
        (&["top_k", "k"], "top_k", json!(0)),
        (&["top_p", "p"], "top_p", json!(1.0)),
        (&["min_p", "m"], "min_p", json!(0.0)),
    ] {
        if !has(names) {
            fields.set(field, none);
        }
    }
    if !has(&["penalties", "e"]) {
        for (field, none) in [
            ("repetition_penalty", 1.0),
            ("frequency_penalty", 0.0),
            ("presence_penalty", 0.0),
        ] {
            fields.set(field, none);
        }
    }
    if has(&["infill", "i"]) {
        let least = fields.number("min_p", 0.0, 1.0)?.unwrap_or(0.0);
        fields.set("min_p", least.max(INFILL_LEAST));
    }
    Ok(())
}

pub(super) struct LlamaWriter {
    pub writing: Writing,
    pub form: Form,
    pub streams: bool,
    pub sampler: SamplerOptions,
    pub max_tokens: usize,
    pub stops: Vec<String>,
    pub whole: String,
    pub ids: Vec<u32>,
    pub probabilities: Vec<Value>,
    /// Of these, in events by now.
    pub told: usize,
}

impl LlamaWriter {
    fn timings(&self) -> Value {
        let Writing {
            times,
            cached,
            read,
            tokens,
            ..
        } = &self.writing;
        let millis = |from: Instant, to: Instant| 1e3 * (to - from).as_secs_f64();
        let end_of_prompt = times.read.unwrap_or(times.latest);
        let prompt = millis(times.started, end_of_prompt);
        let predicted = millis(end_of_prompt, times.latest.max(end_of_prompt));
        let count = read.saturating_sub(*cached);
        // The first token came with the prompt.
        let steps = tokens.saturating_sub(1);
        let rate = |n: usize, ms: f64| if ms > 0.0 { 1e3 * n as f64 / ms } else { 0.0 };
        let each = |n: usize, ms: f64| if n > 0 { ms / n as f64 } else { 0.0 };
        json!({
            "cache_n": cached,
            "prompt_n": count,
            "prompt_ms": prompt,
            "prompt_per_token_ms": each(count, prompt),
            "prompt_per_second": rate(count, prompt),
            "predicted_n": tokens,
            "predicted_ms": predicted,
            "predicted_per_token_ms": each(steps, predicted),
            "predicted_per_second": rate(steps, predicted),
        })
    }

    /// A part of the answer.
    fn part(&self, text: &str, ids: &[u32]) -> Value {
        let ids = if self.form.tokens || self.streams {
            ids
        } else {
            &[]
        };
        json!({
            "index": 0,
            "content": text,
            "tokens": ids,
            "stop": false,
            "id_slot": 0,
            "tokens_predicted": self.writing.tokens,
            "tokens_evaluated": self.writing.prompt,
        })
    }

    /// What the answer says at the end.
    fn last(&self, text: &str, ids: &[u32]) -> Value {
        let mut answer = self.part(text, ids);
        let Writing {
            end,
            prompt,
            read,
            tokens,
            model,
            ..
        } = &self.writing;
        let (kind, word) = match end {
            Some(End::Model) => ("eos", ""),
            Some(End::Cut(Cut::Stop(word))) => ("word", word.as_str()),
            Some(End::Limit | End::Cut(Cut::Indent)) => ("limit", ""),
            None => ("none", ""),
        };
        let sampler = &self.sampler;
        let more = json!({
            "stop": true,
            "model": model,
            "tokens_predicted": tokens,
            "tokens_evaluated": prompt,
            "tokens_cached": read + tokens,
            "has_new_line": self.whole.contains('\n'),
            "truncated": false,
            "stop_type": kind,
            "stopping_word": word,
            "generation_settings": {
                "n_predict": self.max_tokens,
                "seed": sampler.seed,
                "temperature": sampler.temperature,
                "top_k": sampler.top_k,
                "top_p": sampler.top_p,
                "min_p": sampler.min_p,
                "repeat_penalty": sampler.repetition_penalty,
                "repeat_last_n": sampler.repeat_last_n,
                "stop": self.stops,
            },
            "timings": self.timings(),
        });
        if let (Value::Object(answer), Value::Object(more)) = (&mut answer, more) {
            answer.extend(more);
        }
        answer
    }

    fn probability(&self, id: u32, logprob: &Logprob) -> Value {
        let tokenizer = &self.writing.tokenizer;
        let one = |id: u32, p: f32| {
            json!({
                "id": id,
                "token": spelled(tokenizer, id),
                "bytes": tokenizer.token_bytes(id).unwrap_or_default(),
                "logprob": p,
            })
        };
        let mut own = one(id, logprob.own);
        own["top_logprobs"] = logprob.top.iter().map(|&(id, p)| one(id, p)).collect();
        own
    }

    fn take_token(&mut self, token: Token) {
        if let Some(logprob) = &token.logprob {
            let probability = self.probability(token.id, logprob);
            self.probabilities.push(probability);
        }
        self.ids.push(token.id);
    }

    fn event(&mut self, text: &str) -> Sse {
        let ended = self.writing.end.is_some();
        if !self.streams || (text.is_empty() && !ended) {
            return Sse::default();
        }
        let new = self.ids[self.told.min(self.ids.len())..].to_vec();
        let mut event = match ended {
            true => self.last(text, &new),
            false => self.part(text, &new),
        };
        if self.form.probabilities.is_some() {
            let told = self.told.min(self.probabilities.len());
            event["completion_probabilities"] = self.probabilities[told..].to_vec().into();
        }
        if self.form.timings && !ended {
            event["timings"] = self.timings();
        }
        self.told = self.ids.len();
        let event = if ended {
            self.form.select(event)
        } else {
            event
        };
        Sse::default().event(None, &event)
    }
}

impl Writer for LlamaWriter {
    fn take(&mut self, output: Output) -> Result<Sse, ApiError> {
        match self.writing.take(output)? {
            Step::Nothing => Ok(Sse::default()),
            Step::Reading if self.form.progress && self.streams => {
                let mut event = self.part("", &[]);
                let Writing {
                    times,
                    cached,
                    read,
                    prompt,
                    ..
                } = &self.writing;
                event["prompt_progress"] = json!({
                    "total": prompt,
                    "cache": cached,
                    "processed": read,
                    "time_ms": (times.latest - times.started).as_millis() as u64,
                });
                Ok(Sse::default().event(None, &event))
            }
            Step::Reading => Ok(Sse::default()),
            Step::Text(text, token) => {
                if let Some(token) = token {
                    self.take_token(token);
                }
                self.whole.push_str(&text);
                Ok(self.event(&text))
            }
        }
    }

    fn alive(&mut self, progress: &Progress) -> Result<Sse, ApiError> {
        let mut event = self.part("", &[]);
        event["prompt_progress"] = progress.value();
        Ok(Sse::default().event(None, &event))
    }

    fn ended(&self) -> bool {
        self.writing.end.is_some()
    }

    fn done(&self) -> Option<String> {
        None
    }

    fn error(&self, error: &ApiError) -> Sse {
        Sse::default().event(None, &error.body(Style::OpenAi))
    }

    fn style(&self) -> Style {
        Style::OpenAi
    }

    fn whole(&self) -> Result<Value, ApiError> {
        let mut answer = self.last(&self.whole, &self.ids);
        if self.form.probabilities.is_some() {
            answer["completion_probabilities"] = self.probabilities.clone().into();
        }
        Ok(self.form.select(answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Completing;

    fn fields(body: Value) -> Fields {
        Fields::new(body, &Completing::Llama).unwrap()
    }

    #[test]
    fn fields_of_the_answer_are_found_by_their_paths() {
        let form = |list: Value| Form::new(&fields(json!({"response_fields": list}))).unwrap();
        let answer = json!({"content": "x", "timings": {"prompt_n": 3, "deep": {"er": 1}}});
        let select = |list| form(list).select(answer.clone());
        assert_eq!(select(json!([])), answer);
        assert_eq!(select(json!([""])), json!({}));
        assert_eq!(
            select(json!([
                "content",
                "timings/prompt_n",
                "timings/deep/er",
                "timings/none",
                "no"
            ])),
            json!({"content": "x", "timings/prompt_n": 3, "timings/deep/er": 1})
        );
        for bad in [json!("x"), json!([1]), json!({})] {
            assert!(Form::new(&fields(json!({"response_fields": bad}))).is_err());
        }
    }

    #[test]
    fn samplers_that_are_left_out_do_nothing() {
        let read = |body| {
            let mut fields = fields(body);
            sampling(&mut fields).unwrap();
            ["temperature", "top_k", "top_p", "min_p"]
                .map(|name| fields.get(name).unwrap().as_f64().unwrap())
        };
        assert_eq!(read(json!({})), [0.8, 40.0, 0.95, 0.05]);
        assert_eq!(
            read(json!({"temperature": 0.1, "top_k": 5})),
            [0.1, 5.0, 0.95, 0.05]
        );
        assert_eq!(read(json!({"samplers": []})), [1.0, 0.0, 1.0, 0.0]);
        assert_eq!(read(json!({"samplers": "kt"})), [0.8, 40.0, 1.0, 0.0]);
        let vim = json!({"samplers": ["top_k", "top_p", "infill"], "top_p": 0.99});
        let [temperature, top_k, top_p, min_p] = read(vim);
        assert_eq!([temperature, top_k, top_p], [1.0, 40.0, 0.99]);
        assert!((min_p - 0.2).abs() < 1e-6);
        let mut bad = fields(json!({"samplers": 3}));
        assert!(sampling(&mut bad).is_err());
    }
}
