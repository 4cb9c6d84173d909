//! What the authors' reader would not take, put into the request that it has read.

use std::collections::HashMap;

use deepseek_recipe::stream::ThinkingInitialStage;
use deepseek_recipe_core::conversation::ResponseFormat;
use deepseek_recipe_core::messages::InputMessage;
use deepseek_recipe_core::tools::{ToolChoice, ToolDefinition};

use super::tools::{Choice, Tools};
use super::wanted::{Calls, Format, Wanted};
use crate::Request;

impl Request {
    /// Gives tools their names and schemas back, and follows the choice among them. True
    /// if calls are forbidden though the prompt shows tools.
    ///
    /// `any`: the published prompt of this choice leaves it to the model; `begun`: the
    /// answer has begun, so no block of calls can be opened before it.
    pub(super) fn put_tools(
        &mut self,
        tools: &Tools,
        choice: &Choice,
        any: bool,
        begun: bool,
        wanted: &mut Wanted,
    ) -> bool {
        let inner = &mut self.inner;
        let mut renamed = HashMap::new();
        for definition in inner.conversation.tools.iter_mut() {
            restore(tools, definition, &mut renamed);
        }
        for message in &mut inner.conversation.messages {
            if let InputMessage::System {
                tools: Some(declared),
                ..
            } = message
            {
                for definition in declared {
                    restore(tools, definition, &mut renamed);
                }
            }
        }
        if let Some(map) = &mut inner.response_options.namespace_tool_map {
            *map = std::mem::take(map)
                .into_iter()
                .map(|(name, (space, local))| match renamed.get(&name) {
                    Some((new, tool)) => (new.clone(), (space, tool.clone())),
                    None => (name, (space, local)),
                })
                .collect();
        }
        let custom = tools.custom.iter().cloned();
        inner.response_options.custom_tool_names.extend(custom);
        let conversation = &mut inner.conversation;
        let callable = |definition: &&ToolDefinition| {
            let only = choice.only.as_ref();
            only.is_none_or(|only| only.contains(&definition.name))
        };
        wanted.tools = conversation
            .tools
            .iter()
            .filter(callable)
            .map(|definition| tools.wanted(definition))
            .collect();
        wanted.calls = match wanted.tools.is_empty() {
            true => Calls::Never,
            false => choice.calls,
        };
        // A conversation that goes on keeps the tools that its prompt began with: all of
        // it would be read again otherwise. The first request has the published form.
        let goes_on = conversation
            .messages
            .iter()
            .any(|message| matches!(message, InputMessage::Assistant { .. }));
        match wanted.calls {
            Calls::Never if !conversation.tools.is_empty() => {
                if goes_on {
                    return true;
                }
                conversation.tools.clear();
                conversation.tool_choice = ToolChoice::None;
                inner.parsing_options.parse_tool_calls = false;
            }
            Calls::Must => {
                if choice.named && !goes_on {
                    let names: Vec<_> = wanted.tools.iter().map(|t| t.name.clone()).collect();
                    conversation.tools.retain(|tool| names.contains(&tool.name));
                }
                wanted.opened = !conversation.thinking_mode && !any && !begun;
                if wanted.opened {
                    conversation.tool_choice = ToolChoice::Required;
                    inner.parsing_options.starts_in_tool_calls = true;
                }
            }
            Calls::Never | Calls::May => {}
        }
        false
    }

    /// Shows the form of the answer in the prompt.
    pub(super) fn show_format(&mut self, format: Format) {
        let inner = &mut self.inner;
        inner.parsing_options.parse_json_output = matches!(format, Format::JsonObject);
        inner.conversation.response_format = match format {
            Format::JsonObject => ResponseFormat::JsonObject,
            Format::Schema { schema, .. } => ResponseFormat::JsonSchema(schema),
            Format::Regex(regex) => ResponseFormat::Regex(regex),
        };
    }

    /// Lets the answer go on from the last message, which is an assistant's; returns its
    /// text.
    pub(super) fn go_on(&mut self) -> String {
        let inner = &mut self.inner;
        let Some(InputMessage::Assistant {
            content,
            reasoning_content,
            prefix,
            ..
        }) = inner.conversation.messages.last_mut()
        else {
            return String::new();
        };
        *prefix = true;
        let thought = reasoning_content.as_deref().unwrap_or_default();
        let stage = match (content.is_empty(), thought.is_empty()) {
            (false, _) => ThinkingInitialStage::ContentContinuation,
            (true, false) => ThinkingInitialStage::ReasoningContinuation,
            (true, true) => ThinkingInitialStage::ReasoningStart,
        };
        inner.parsing_options.thinking_initial_stage =
            inner.conversation.thinking_mode.then_some(stage);
        if !content.is_empty() {
            // It looks for where the document begins.
            inner.parsing_options.parse_json_output = false;
        }
        content.clone()
    }

    /// The tools that its prompt shows.
    pub(super) fn tools(&self) -> &[ToolDefinition] {
        &self.inner.conversation.tools
    }
}

/// A tool with the name and the schema that the client gave it. `renamed` gets the names
/// that are others than the reader's.
fn restore(
    tools: &Tools,
    definition: &mut ToolDefinition,
    renamed: &mut HashMap<String, (String, String)>,
) {
    let Some((stand_in, tool)) = tools.of(&definition.parameters) else {
        return;
    };
    definition.parameters = tool.shown.clone();
    if tool.strict {
        definition.strict = Some(true);
    }
    if stand_in != tool.name {
        // A namespace may stand before it.
        let name = definition.name.replacen(&stand_in, &tool.name, 1);
        let old = std::mem::replace(&mut definition.name, name.clone());
        renamed.insert(old, (name, tool.name.clone()));
    }
}
