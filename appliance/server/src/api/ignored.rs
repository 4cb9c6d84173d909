//! Reports ignored fields of a request to the client.

use hyper::Response;
use hyper::header::{HeaderName, HeaderValue};
use serde_json::{Map, Value};

use crate::http::Body;

/// Names the fields of a request that did nothing because they are not known.
const HEADER: HeaderName = HeaderName::from_static("x-ignored-fields");
/// Names that are told at most, and their longest.
const MOST: (usize, usize) = (16, 64);

/// The fields of a body that are not `known`.
#[derive(Debug, Default)]
pub(super) struct Ignored(Vec<String>);

impl Ignored {
    pub fn of(body: &Value, known: impl Fn(&str) -> bool) -> Self {
        let (most, longest) = MOST;
        let plain = |name: &str| {
            name.len() <= longest && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        let names = body.as_object().into_iter().flat_map(Map::keys);
        let names = names.filter(|name| !known(name) && plain(name));
        Self(names.take(most).cloned().collect())
    }

    /// The response with their names.
    pub fn tell(&self, mut response: Response<Body>) -> Response<Body> {
        if !self.0.is_empty()
            && let Ok(names) = HeaderValue::from_str(&self.0.join(", "))
        {
            response.headers_mut().insert(HEADER, names);
        }
        response
    }

    #[cfg(test)]
    pub fn names(&self) -> &[String] {
        &self.0
    }
}
