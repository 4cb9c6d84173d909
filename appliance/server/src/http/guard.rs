//! Who may ask.

use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, ORIGIN};

use super::error::{ApiError, Kind};
use crate::jobs::Client;
use crate::keys::Keys;

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// A process of a user of this machine, on a Unix socket.
    User(u32),
    /// Somebody on a TCP socket.
    Tcp,
}

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Finds out who asks by the key in `Authorization` or `x-api-key`.
pub(super) fn client(headers: &HeaderMap, peer: Peer, keys: &Keys) -> Result<Client, ApiError> {
    if !keys.wanted() {
        return Ok(match peer {
            Peer::User(user) => Client::User(user),
            Peer::Tcp => Client::Anyone,
        });
    }
    let bearer = headers.get(AUTHORIZATION).map(|value| value.as_bytes());
    let bearer = bearer.and_then(|value| {
        let (scheme, key) = value.split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(key)
    });
    let given = bearer.or_else(|| headers.get(API_KEY).map(|value| value.as_bytes()));
    let Some(given) = given else {
        return Err(ApiError::new(
            Kind::Unauthorized,
            "This service wants a key: send it as Authorization: Bearer KEY, or as x-api-key.",
        ));
    };
    keys.find(given.trim_ascii())
        .map(Client::Key)
        .ok_or_else(|| ApiError::new(Kind::Unauthorized, "This key is not known here."))
}

/// Refuses what a browser sends for some page: without keys, any page that a user of
/// this machine has open could reach a loopback port.
pub(super) fn not_from_a_page(
    headers: &HeaderMap,
    peer: Peer,
    keys: &Keys,
) -> Result<(), ApiError> {
    if peer != Peer::Tcp || keys.wanted() {
        return Ok(());
    }
    let local = |value: &hyper::header::HeaderValue| value.to_str().is_ok_and(is_local);
    if headers.get(HOST).is_some_and(|host| !local(host)) {
        return Err(ApiError::new(
            Kind::Forbidden,
            "Without keys this service answers to the name of this machine alone: use localhost \
             or 127.0.0.1.",
        ));
    }
    if headers.get(ORIGIN).is_some_and(|origin| !local(origin)) {
        return Err(ApiError::new(
            Kind::Forbidden,
            "Without keys this service answers no page of another origin.",
        ));
    }
    Ok(())
}

/// Whether a `Host` or an `Origin` is this machine.
fn is_local(text: &str) -> bool {
    let host = text.split_once("://").map_or(text, |(_, host)| host);
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let ip = name.parse::<std::net::IpAddr>();
    name.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn headers(all: &[(&'static str, &'static str)]) -> HeaderMap {
        all.iter()
            .map(|&(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    #[test]
    fn pages_of_other_origins_reach_no_port_without_keys() {
        let may = |all: &[(&'static str, &'static str)]| {
            not_from_a_page(&headers(all), Peer::Tcp, &Keys::default()).is_ok()
        };
        assert!(may(&[]));
        assert!(may(&[("host", "127.0.0.1:8080")]));
        assert!(may(&[
            ("host", "LOCALHOST:1"),
            ("origin", "http://localhost:3000")
        ]));
        assert!(may(&[("host", "[::1]:8080")]));
        assert!(!may(&[("host", "evil.example")]));
        assert!(!may(&[("host", "127.0.0.1.evil.example")]));
        assert!(!may(&[
            ("host", "localhost"),
            ("origin", "https://evil.example")
        ]));
        assert!(!may(&[("host", "localhost"), ("origin", "null")]));
        let all = headers(&[("host", "evil.example")]);
        assert!(not_from_a_page(&all, Peer::User(1), &Keys::default()).is_ok());
    }
}
