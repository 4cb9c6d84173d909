//! Where the service listens.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Where {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP address.
    Tcp(SocketAddr),
}

impl FromStr for Where {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err("give the socket's path after unix:".into()),
                path => Ok(Self::Unix(path.into())),
            };
        }
        text.parse().map(Self::Tcp).map_err(|_| {
            "must be unix:PATH or ADDRESS:PORT, as in 127.0.0.1:8080 or [::1]:8080".into()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_paths_or_addresses() {
        let parse = |text: &str| text.parse::<Where>();
        assert_eq!(parse("unix:/x/y"), Ok(Where::Unix("/x/y".into())));
        assert_eq!(
            parse("[::1]:80"),
            Ok(Where::Tcp("[::1]:80".parse().unwrap()))
        );
        for bad in ["unix:", "8080", "localhost:80", "/x/y", ""] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
