//! Pages of other origins that may send requests (`--cors`).

use std::str::FromStr;

use hyper::Response;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderName, HeaderValue, ORIGIN, VARY,
};

use super::response::Body;

const PRIVATE_NETWORK: HeaderName =
    HeaderName::from_static("access-control-request-private-network");
const ALLOW_PRIVATE_NETWORK: HeaderName =
    HeaderName::from_static("access-control-allow-private-network");

/// Whose pages may ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cors {
    /// Everybody's.
    Any,
    /// Those of one origin, as browsers write it.
    Origin(String),
}

impl FromStr for Cors {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let parts = text.split_once("://");
        let written = parts.filter(|(scheme, host)| {
            let plain = |c: char| c.is_ascii_graphic() && !"/\\?#@,*\"'<>".contains(c);
            let scheme_is_one = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
            !scheme.is_empty()
                && !host.is_empty()
                && scheme.chars().all(scheme_is_one)
                && host.chars().all(plain)
        });
        match written {
            Some(_) => Ok(Self::Origin(text.to_ascii_lowercase())),
            None => Err(
                "not an origin: write scheme, host and port as a browser does, without a path, as \
                 in https://chat.example or http://localhost:3000; or * for all pages, which \
                 requires --api-keys"
                    .into(),
            ),
        }
    }
}

impl Cors {
    fn allows(&self, origin: &HeaderValue) -> bool {
        match self {
            Self::Any => true,
            Self::Origin(own) => own.as_bytes().eq_ignore_ascii_case(origin.as_bytes()),
        }
    }
}

/// Whether a request comes from a page that may ask.
pub(crate) fn allowed(cors: &[Cors], headers: &HeaderMap) -> bool {
    let origin = headers.get(ORIGIN);
    origin.is_some_and(|origin| cors.iter().any(|own| own.allows(origin)))
}

/// Whether it asks what it may ask.
pub(crate) fn is_preflight(headers: &HeaderMap) -> bool {
    headers.contains_key(ORIGIN) && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// What a page may ask of a path with these methods.
pub(crate) fn preflight(headers: &HeaderMap, methods: &'static str, response: &mut Response<Body>) {
    let answer = response.headers_mut();
    answer.insert(
        ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static(methods),
    );
    // Whatever it wants to send: fields that are not known are not looked at.
    if let Some(wanted) = headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
    }
    if headers.contains_key(PRIVATE_NETWORK) {
        answer.insert(ALLOW_PRIVATE_NETWORK, HeaderValue::from_static("true"));
    }
    answer.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
}

/// Lets the page read the response, an error as well.
pub(crate) fn show(origin: Option<HeaderValue>, response: &mut Response<Body>) {
    let answer = response.headers_mut();
    answer.append(VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = origin {
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        let fields =
            HeaderValue::from_static("request-id, x-request-id, retry-after, x-ignored-fields");
        answer.insert(ACCESS_CONTROL_EXPOSE_HEADERS, fields);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_written_as_browsers_write_them() {
        let parse = |text: &str| text.parse::<Cors>();
        assert_eq!(parse("*"), Ok(Cors::Any));
        let origin = |text: &str| Ok(Cors::Origin(text.into()));
        assert_eq!(parse("https://A.example"), origin("https://a.example"));
        assert_eq!(parse("http://[::1]:3000"), origin("http://[::1]:3000"));
        assert_eq!(parse("vscode-webview://x"), origin("vscode-webview://x"));
        for bad in [
            "",
            "null",
            "a.example",
            "https://",
            "https://a/",
            "https://a/b",
            "https://*.a",
            "https://u@a",
            "https://a, https://b",
            "://a",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_origin_is_allowed_as_a_whole() {
        let cors = ["https://a.example:8443".parse().unwrap()];
        let from = |origin: &'static str| {
            let headers = [(ORIGIN, HeaderValue::from_static(origin))];
            allowed(&cors, &headers.into_iter().collect())
        };
        assert!(from("https://a.example:8443"));
        for other in [
            "https://a.example",
            "http://a.example:8443",
            "null",
            "https://a.example:8443.evil.example",
        ] {
            assert!(!from(other), "{other}");
        }
        assert!(!allowed(&[Cors::Any], &HeaderMap::new()), "no page");
    }
}
