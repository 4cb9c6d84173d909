//! The fields of a request that a Responses response repeats, as the client sent them.

use deepseek_recipe::openai::responses::request::{
    ResponsesTextConfig, ResponsesTool, ResponsesToolChoice,
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::Request;

/// Fields that the reader gets in another form than the client gave them.
#[derive(Debug)]
pub(super) struct Echo {
    tools: Vec<ResponsesTool>,
    tool_choice: ResponsesToolChoice,
    text: ResponsesTextConfig,
}

impl Echo {
    /// Of a request before its tools, choice and format are taken out.
    pub fn of(body: &Map<String, Value>) -> Self {
        fn read<T: DeserializeOwned + Default>(value: Option<&Value>) -> T {
            let value = value.filter(|value| !value.is_null()).cloned();
            let read = value.and_then(|value| serde_json::from_value(value).ok());
            read.unwrap_or_default()
        }
        let tools = body.get("tools").and_then(Value::as_array);
        let tools = tools.into_iter().flatten().filter_map(|tool| {
            let tool: ResponsesTool = serde_json::from_value(tool.clone()).ok()?;
            (!matches!(tool, ResponsesTool::Unsupported)).then_some(tool)
        });
        Self {
            tools: tools.collect(),
            tool_choice: read(body.get("tool_choice")),
            text: read(body.get("text")),
        }
    }
}

impl Request {
    pub(super) fn echo(&mut self, echo: Echo, parallel: bool) {
        self.parallel_calls = parallel;
        if let Some(own) = &mut self.inner.response_options.responses_echo {
            own.tools = echo.tools;
            own.tool_choice = echo.tool_choice;
            own.text = echo.text;
        }
    }
}
