//! Answers in OpenAI's form, and as messages for Codestral's gaps.

use serde_json::{Value, json};

use super::logprobs::Logprobs;
use super::writing::{End, Step, Writing};
use crate::api::respond::{Progress, Writer};
use crate::http::{ApiError, Sse, Style};
use crate::jobs::Output;

/// Whether the answer is a text or a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Text,
    Message,
}

pub(super) struct OpenAiWriter {
    pub writing: Writing,
    pub shape: Shape,
    pub id: String,
    pub created: u64,
    pub streams: bool,
    /// Whether a stream ends with an event for the usage alone.
    pub usage_event: bool,
    pub logprobs: Option<Logprobs>,
    pub whole: String,
}

impl OpenAiWriter {
    fn object(&self, text: &str, logprobs: Value) -> Value {
        let finish = self.writing.end.as_ref().map(|end| match end {
            End::Limit => "length",
            End::Model | End::Cut(_) => "stop",
        });
        let (object, choice) = match (self.shape, self.streams) {
            (Shape::Text, _) => (
                "text_completion",
                json!({"index": 0, "text": text, "logprobs": logprobs, "finish_reason": finish}),
            ),
            (Shape::Message, false) => (
                "chat.completion",
                json!({
                    "index": 0,
                    "message": {"role": "assistant", "content": text, "tool_calls": null},
                    "finish_reason": finish,
                }),
            ),
            (Shape::Message, true) => (
                "chat.completion.chunk",
                json!({
                    "index": 0,
                    "delta": {"role": "assistant", "content": text},
                    "finish_reason": finish,
                }),
            ),
        };
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.writing.model,
            "choices": [choice],
        })
    }

    fn usage(&self) -> Value {
        let Writing {
            prompt,
            cached,
            tokens,
            ..
        } = self.writing;
        json!({
            "prompt_tokens": prompt,
            "completion_tokens": tokens,
            "total_tokens": prompt + tokens,
            "prompt_tokens_details": {"cached_tokens": cached},
            // DeepSeek's names for the same.
            "prompt_cache_hit_tokens": cached,
            "prompt_cache_miss_tokens": prompt - cached.min(prompt),
        })
    }

    /// An event for what is new, if the client streams.
    fn event(&mut self, text: &str) -> Sse {
        if !self.streams {
            self.whole.push_str(text);
            return Sse::default();
        }
        let ended = self.writing.end.is_some();
        if text.is_empty() && !ended {
            return Sse::default();
        }
        let shown = self.writing.text.shown();
        let logprobs = self.logprobs.as_mut();
        let logprobs = logprobs.map_or(Value::Null, |all| all.take(shown, ended));
        let sse = Sse::default().event(None, &self.object(text, logprobs));
        if !ended || !self.usage_event {
            return sse;
        }
        let mut usage = self.object("", Value::Null);
        usage["choices"] = json!([]);
        usage["usage"] = self.usage();
        sse.event(None, &usage)
    }
}

impl Writer for OpenAiWriter {
    fn take(&mut self, output: Output) -> Result<Sse, ApiError> {
        let Step::Text(text, token) = self.writing.take(output)? else {
            return Ok(Sse::default());
        };
        if let (Some(all), Some(token)) = (&mut self.logprobs, token)
            && let Some(logprob) = &token.logprob
        {
            all.push(&self.writing.tokenizer, token.id, logprob, token.chars);
        }
        Ok(self.event(&text))
    }

    fn alive(&mut self, progress: &Progress) -> Result<Sse, ApiError> {
        let mut event = self.object("", Value::Null);
        event["prompt_progress"] = progress.value();
        Ok(Sse::default().event(None, &event))
    }

    fn ended(&self) -> bool {
        self.writing.end.is_some()
    }

    fn done(&self) -> Option<String> {
        Some("[DONE]".to_owned())
    }

    fn error(&self, error: &ApiError) -> Sse {
        Sse::default().event(None, &error.body(Style::OpenAi))
    }

    fn style(&self) -> Style {
        Style::OpenAi
    }

    fn whole(&self) -> Result<Value, ApiError> {
        let shown = self.writing.text.shown();
        let logprobs = self.logprobs.as_ref();
        let logprobs = logprobs.map_or(Value::Null, |all| all.value(shown, true));
        let mut object = self.object(&self.whole, logprobs);
        object["usage"] = self.usage();
        Ok(object)
    }
}
