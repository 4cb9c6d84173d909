//! Decides who may send requests.

use hyper::Version;
use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN};
use hyper::http::uri::Authority;

use super::cors::{self, Cors};
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

/// Headers in which clients send a key, besides `Authorization: Bearer`.
static KEY_FIELDS: [HeaderName; 2] = [
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
];

/// Finds out who asks by the keys in the request: one that is known lets it in, whatever
/// stands in another field. Clients send two where two programs set one each.
pub(crate) fn client(headers: &HeaderMap, peer: Peer, keys: &Keys) -> Result<Client, ApiError> {
    if !keys.wanted() {
        return Ok(match peer {
            Peer::User(user) => Client::User(user),
            Peer::Tcp => Client::Anyone,
        });
    }
    let bearer = headers.get_all(AUTHORIZATION).into_iter();
    let bearer = bearer.filter_map(|value| {
        let (scheme, key) = value.as_bytes().split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(key)
    });
    let fields = KEY_FIELDS.iter().flat_map(|name| headers.get_all(name));
    let given: Vec<&[u8]> = bearer.chain(fields.map(HeaderValue::as_bytes)).collect();
    if given.is_empty() {
        return Err(ApiError::new(
            Kind::Unauthorized,
            "This service requires an API key: send it as Authorization: Bearer KEY, or as \
             x-api-key.",
        ));
    }
    let known = given.iter().filter_map(|key| keys.find(key.trim_ascii()));
    known
        .map(Client::Key)
        .next()
        .ok_or_else(|| ApiError::new(Kind::Unauthorized, "This API key is not valid."))
}

/// The one host that a request of HTTP/1.1 must name (RFC 9112, 3.2): who passes requests
/// on may have taken another field of several for it.
pub(crate) fn one_host(version: Version, headers: &HeaderMap) -> Result<(), ApiError> {
    let wrong = |message: &str| Err(ApiError::new(Kind::Invalid, message));
    let mut hosts = headers.get_all(HOST).into_iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if version < Version::HTTP_11 => Ok(()),
        (None, _) => wrong("An HTTP/1.1 request must have a Host header."),
        (Some(_), Some(_)) => wrong("The request has more than one Host header."),
        (Some(host), None) if is_host(host.as_bytes()) => Ok(()),
        (Some(_), None) => wrong("The Host header is not a name or address with a port."),
    }
}

/// Whether a `Host` can be one; none is sent where an address has none.
fn is_host(host: &[u8]) -> bool {
    let parsed = Authority::try_from(host);
    host.is_empty() || parsed.is_ok_and(|authority| !authority.as_str().contains('@'))
}

/// Refuses what a browser sends for some page: without keys, any page that a user of
/// this machine has open could reach a loopback port. Pages of the origins in `cors` may.
pub(crate) fn not_from_a_page(
    headers: &HeaderMap,
    peer: Peer,
    keys: &Keys,
    cors: &[Cors],
) -> Result<(), ApiError> {
    if peer != Peer::Tcp || keys.wanted() {
        return Ok(());
    }
    let local = |value: &HeaderValue| value.to_str().is_ok_and(is_local);
    if headers.get(HOST).is_some_and(|host| !local(host)) {
        return Err(ApiError::new(
            Kind::Forbidden,
            "Without API keys, this service answers only to this machine's own name: use localhost \
             or 127.0.0.1.",
        ));
    }
    if headers.get(ORIGIN).is_some_and(|origin| !local(origin)) && !cors::allowed(cors, headers) {
        return Err(ApiError::new(
            Kind::Forbidden,
            "Without API keys, this service does not answer pages of other origins, unless it was \
             started with --cors ORIGIN.",
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
            not_from_a_page(&headers(all), Peer::Tcp, &Keys::default(), &[]).is_ok()
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
        assert!(not_from_a_page(&all, Peer::User(1), &Keys::default(), &[]).is_ok());
    }
    #[test]
    fn a_page_that_is_named_may_ask_and_its_host_is_still_looked_at() {
        let cors = ["https://chat.example".parse().unwrap()];
        let may = |all: &[(&'static str, &'static str)]| {
            not_from_a_page(&headers(all), Peer::Tcp, &Keys::default(), &cors).is_ok()
        };
        let origin = ("origin", "https://chat.example");
        assert!(may(&[("host", "localhost"), origin]));
        assert!(!may(&[("host", "evil.example"), origin]));
        assert!(!may(&[
            ("host", "localhost"),
            ("origin", "https://evil.example")
        ]));
    }

    #[test]
    fn a_request_names_one_host() {
        let check = |version, all: &[(&'static str, &'static str)]| {
            one_host(version, &headers(all)).is_ok()
        };
        for host in ["localhost", "127.0.0.1:80", "[::1]:8080", "a-b.example", ""] {
            assert!(check(Version::HTTP_11, &[("host", host)]), "{host}");
        }
        assert!(check(Version::HTTP_10, &[]) && !check(Version::HTTP_11, &[]));
        for host in ["a b", "a/b", "u@a", "a, b"] {
            assert!(!check(Version::HTTP_11, &[("host", host)]), "{host}");
        }
        for version in [Version::HTTP_10, Version::HTTP_11] {
            assert!(!check(version, &[("host", "a"), ("host", "a")]));
        }
    }
}
