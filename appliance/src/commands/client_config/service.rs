//! The service's values that appear in a configuration.

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context, anyhow, bail};

use super::args::ClientConfigArgs;
use crate::args::Where;

/// The key of a service that asks for none: clients want one all the same.
const NO_KEY: &str = "none";
/// Longest file that a key is read from.
const MOST_BYTES: u64 = 1 << 20;
/// Longest name, key or path.
const LONGEST: usize = 512;
/// An answer may take so much of the context, up to a bound.
const OUTPUT_SHARE: usize = 8;
const MOST_OUTPUT: usize = 32_768;

/// The service as its clients see it.
pub struct Service {
    /// Without a slash at the end.
    pub url: String,
    /// The same for readers, or the socket.
    pub address: String,
    /// The path of its Unix socket, if it is reached by that.
    pub socket: Option<String>,
    pub model: String,
    pub context: usize,
    pub key: String,
}

impl Service {
    /// What the arguments say.
    ///
    /// # Errors
    /// Values that cannot stand in every configuration as they are.
    pub fn new(args: &ClientConfigArgs) -> anyhow::Result<Self> {
        plain("--model", &args.model, "._:/@+-")?;
        let key = match (&args.key, &args.key_file) {
            (Some(key), _) => key.clone(),
            (None, Some(path)) => first_key(path)?,
            (None, None) => NO_KEY.to_owned(),
        };
        let place = if args.key_file.is_some() {
            "--key-file"
        } else {
            "--key"
        };
        plain(place, &key, "._~+/=:@%,-").map_err(|e| {
            // The key itself is not for logs.
            anyhow!("{e}; make another with: openssl rand -hex 32")
        })?;
        let (url, socket) = match &args.listen {
            None => (root(&args.url)?, None),
            Some(Where::Tcp(address)) => (reached_at(*address)?, None),
            Some(Where::Unix(path)) => {
                let path = path
                    .to_str()
                    .ok_or_else(|| anyhow!("--listen: the socket's path is not UTF-8"))?;
                plain("--listen", path, "._/@+-")?;
                // Clients want an address all the same; the service takes this `Host`.
                ("http://localhost".to_owned(), Some(path.to_owned()))
            }
        };
        Ok(Self {
            address: match &socket {
                Some(path) => format!("unix:{path}"),
                None => url.clone(),
            },
            url,
            socket,
            model: args.model.clone(),
            context: args.ctx,
            key,
        })
    }

    /// Tokens that a client should ask for at most.
    fn output(&self) -> usize {
        (self.context / OUTPUT_SHARE).clamp(1, MOST_OUTPUT)
    }

    /// A template with the service's values in place of `@NAME@`.
    pub fn fill(&self, template: &str) -> String {
        template
            .replace("@URL@", &self.url)
            .replace("@CTX@", &self.context.to_string())
            .replace("@OUTPUT@", &self.output().to_string())
            .replace("@MODEL@", &self.model)
            .replace("@KEY@", &self.key)
    }
}

/// Refuses what would need quoting somewhere: one value goes into JSON, TOML, YAML, Lua,
/// Vim script and shells.
fn plain(option: &str, text: &str, signs: &str) -> anyhow::Result<()> {
    if text.is_empty() || text.len() > LONGEST {
        bail!("{option}: must have 1 to {LONGEST} characters");
    }
    match text
        .chars()
        .find(|c| !c.is_ascii_alphanumeric() && !signs.contains(*c))
    {
        Some(c) => bail!(
            "{option}: {c:?} would need different quoting for each client; use only ASCII letters, \
             digits and {signs}"
        ),
        None => Ok(()),
    }
}

/// `http://HOST:PORT` without a path.
fn root(url: &str) -> anyhow::Result<String> {
    let rest = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"))
        .ok_or_else(|| anyhow!("--url: must start with http://, as in http://127.0.0.1:8080"))?;
    let host = rest.trim_end_matches('/');
    if host.contains('/') {
        bail!("--url: must end after the port: each client adds its own path");
    }
    plain("--url", host, ".:[]-")?;
    Ok(url.trim_end_matches('/').to_owned())
}

/// Where clients of this machine find what listens there.
fn reached_at(mut address: SocketAddr) -> anyhow::Result<String> {
    if address.port() == 0 {
        bail!("--listen: the service chooses the port; give the port that it prints with --url");
    }
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    Ok(format!("http://{address}"))
}

/// The first key in a file as the service reads it: a key on each line, `#` for remarks.
fn first_key(path: &Path) -> anyhow::Result<String> {
    let name = || format!("--key-file {}", path.display());
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MOST_BYTES).read_to_string(&mut text))
        .with_context(name)?;
    text.lines()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .ok_or_else(|| anyhow!("{}: contains no key; write one on a line", name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_roots() {
        assert_eq!(
            root("http://127.0.0.1:8080/").unwrap(),
            "http://127.0.0.1:8080"
        );
        assert_eq!(root("http://[::1]:80").unwrap(), "http://[::1]:80");
        for bad in [
            "127.0.0.1:8080",
            "http://",
            "http://a/v1",
            "http://a b",
            "http://a\"",
            "http://a$(x)",
        ] {
            assert!(root(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn where_it_listens_is_where_it_is_found() {
        let at = |text: &str| reached_at(text.parse().unwrap());
        assert_eq!(at("127.0.0.1:80").unwrap(), "http://127.0.0.1:80");
        assert_eq!(at("0.0.0.0:80").unwrap(), "http://127.0.0.1:80");
        assert_eq!(at("[::]:80").unwrap(), "http://[::1]:80");
        assert!(at("127.0.0.1:0").is_err());
    }

    #[test]
    fn what_needs_quoting_is_refused() {
        for bad in [
            "", "a b", "a\"b", "a'b", "a\nb", "a$b", "ä", "a`b", "a\\b", "a#b",
        ] {
            assert!(plain("--model", bad, "._-").is_err(), "{bad:?}");
        }
        assert!(plain("--model", &"x".repeat(LONGEST + 1), "").is_err());
    }

    #[test]
    fn the_first_key_of_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "# ours\n\n  0123456789abcdef \nsecond\n").unwrap();
        assert_eq!(first_key(file.path()).unwrap(), "0123456789abcdef");
        std::fs::write(file.path(), "# ours\n").unwrap();
        assert!(first_key(file.path()).is_err());
    }
}
