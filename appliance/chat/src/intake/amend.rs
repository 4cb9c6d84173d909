//! Adds to a parsed request what the authors' reader does not accept.

use std::collections::HashMap;

use deepseek_recipe::stream::ThinkingInitialStage;
use deepseek_recipe_core::conversation::ResponseFormat;
use deepseek_recipe_core::messages::InputMessage;
use deepseek_recipe_core::tools::{ToolChoice, ToolDefinition};

use super::refusal::Refusal;
use super::tools::{Choice, Tool, Tools, unknown_tool};
use super::wanted::{Calls, Format, Wanted, WantedTool};
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
    ) -> Result<bool, Refusal> {
        let inner = &mut self.inner;
        let mut renamed = HashMap::new();
        let definitions = inner.conversation.tools.iter_mut();
        let own: Vec<Option<&Tool>> = definitions
            .map(|definition| restore(tools, definition, &mut renamed))
            .collect();
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
        let all = || conversation.tools.iter().zip(&own);
        // A tool in a namespace has two names.
        let is = |name: &str, (definition, own): (&ToolDefinition, &Option<&Tool>)| {
            definition.name == name || own.is_some_and(|own| own.name == name)
        };
        for name in choice.only.iter().flatten() {
            if !all().any(|tool| is(name, tool)) {
                let names: Vec<_> = all().map(|(tool, _)| tool.name.as_str()).collect();
                return Err(unknown_tool(name, &names));
            }
        }
        let callable = |tool: &(&ToolDefinition, &Option<&Tool>)| {
            let only = choice.only.as_ref();
            only.is_none_or(|only| only.iter().any(|name| is(name, *tool)))
        };
        wanted.tools = all()
            .filter(callable)
            .map(|(definition, own)| WantedTool {
                name: definition.name.clone(),
                parameters: own
                    .map_or(&definition.parameters, |own| &own.parameters)
                    .clone(),
                strict: definition.strict == Some(true),
            })
            .collect();
        wanted.calls = match wanted.tools.is_empty() {
            true => Calls::Never,
            false => choice.calls,
        };
        // A conversation that continues keeps the tools that its prompt began with: all of
        // it would be read again otherwise. The first request has the published form.
        let goes_on = conversation
            .messages
            .iter()
            .any(|message| matches!(message, InputMessage::Assistant { .. }));
        match wanted.calls {
            Calls::Never if !conversation.tools.is_empty() => {
                if goes_on {
                    return Ok(true);
                }
                conversation.tools.clear();
                let options = &mut inner.inference_options;
                let version = inner.model_version;
                // It depends on whether there are tools.
                let top_p = version.resolve_top_p(options.top_p, conversation.thinking_mode, false);
                options.top_p = Some(top_p);
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
        Ok(false)
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

    /// Lets the answer continue from the last message, which is an assistant's; returns its
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

/// Gives a tool the name and the schema of the client's own, which is returned. `renamed` gets the names
/// that are others than the reader's.
fn restore<'t>(
    tools: &'t Tools,
    definition: &mut ToolDefinition,
    renamed: &mut HashMap<String, (String, String)>,
) -> Option<&'t Tool> {
    let (stand_in, tool) = tools.of(&definition.parameters)?;
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
    Some(tool)
}
