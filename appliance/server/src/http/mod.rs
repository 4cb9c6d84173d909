//! HTTP: connections, routes, bodies, errors.

mod body;
mod connection;
mod cors;
mod encoding;
mod error;
mod guard;
mod path;
mod route;

pub(crate) use body::{Body, Sse, full, stream};
pub use connection::serve_stream;
pub(crate) use connection::{Connections, accept};
pub use cors::Cors;
pub(crate) use error::{ApiError, Kind, Style};
pub(crate) use path::Completing;
pub(crate) use route::{handle, json_body, json_response};
