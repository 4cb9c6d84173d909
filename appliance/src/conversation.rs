//! Conversations in a model's prompt format.

use v4_chat::{Conversation, Effort, ModelVersion};
use v4_runtime::Engine;

use crate::args::EffortArg;
use crate::options::Thinking;

/// A conversation in the format of the engine's model.
pub fn new(engine: &Engine, thinking: Thinking) -> anyhow::Result<Conversation> {
    let version = ModelVersion::from_architecture(&engine.config().arch)?;
    let mut conversation = Conversation::new(version, thinking.on);
    conversation.effort = effort(thinking);
    Ok(conversation)
}

/// The effort that goes with a choice of thinking; `high` is the format's own
/// default.
pub fn effort(thinking: Thinking) -> Effort {
    match thinking.effort {
        Some(EffortArg::Low) => Effort::Low,
        Some(EffortArg::High) | None => Effort::High,
        Some(EffortArg::Max) => Effort::Max,
    }
}
