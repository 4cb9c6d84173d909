//! Requests of three chat protocols to prompts, and the model's output back to
//! their events.
//!
//! The rules are those of `deepseek-recipe`, by the model's authors: this crate
//! gives it our tokenizer, and a synchronous interface in place of its streams.
//! There is no network in it and no executor: the command line, a server and a C
//! interface can use it alike.
//!
//! - [`Request`]: a request in JSON -> prompt and ids, and its [`Responder`]:
//!   ids -> events and the whole response, or [`Parts`]: ids -> reasoning, answer and
//!   tool calls as they come.
//! - [`intake`]: what clients send -> a request that its protocol accepts.
//! - [`Conversation`]: turns of a conversation -> prompt and ids, without any
//!   protocol, and [`ReplyParser`]: ids -> reasoning and answer as they come.
//! - [`continuing`]: the ids of a prompt that a session continues with.

mod continuing;
mod conversation;
mod encoder;
mod error;
pub mod intake;
mod json;
mod output;
mod parts;
mod pump;
mod repair;
mod replay;
mod reply_parser;
mod request;
mod responder;

pub use continuing::continuing;
pub use conversation::{Conversation, Effort, Turn};
pub use encoder::{ModelVersion, Rendered};
pub use error::{ChatError, ProtocolError};
pub use output::{Event, Finish, Logprob};
pub use parts::{Part, Parts};
pub use replay::{Opening, Place, Written};
pub use reply_parser::{Piece, ReplyParser};
pub use request::{Protocol, Request};
pub use responder::Responder;

pub use deepseek_recipe::request::{InferenceOptions, OutputConstraint};
pub use deepseek_recipe_core::tools::ToolDefinition;
