//! HTTP: connections, routes, bodies, errors.

mod body;
mod connection;
mod error;
mod guard;
mod route;

pub(crate) use body::{Body, Sse, full, stream};
pub(crate) use connection::{Connections, accept};
pub(crate) use error::{ApiError, Kind, Style};
pub(crate) use route::{handle, json_response};
