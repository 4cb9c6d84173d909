//! HTTP without what is answered: paths, bodies, errors, who may ask.

pub(crate) mod cors;
mod encoding;
mod error;
pub(crate) mod guard;
mod path;
mod request;
mod response;

pub use cors::Cors;
pub(crate) use error::{ApiError, Kind, Style};
pub(crate) use guard::Peer;
pub(crate) use path::{Completing, Path, Route};
pub(crate) use request::read_body;
pub(crate) use response::{Body, Sse, full, json_body, json_response, stream};
