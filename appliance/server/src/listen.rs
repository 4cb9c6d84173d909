//! Sockets: a Unix socket, loopback TCP, or what systemd hands over.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcp};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener as StdUnix;
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use rustix::fs::{Mode, OFlags};

use crate::error::ServeError;

mod peers;

pub use peers::{Peers, Who};

/// Bytes of a Unix socket's path, without the NUL at its end (unix(7)).
const MOST_PATH: usize = 107;

/// A socket that clients come to.
#[derive(Debug)]
pub enum Listener {
    /// A Unix socket.
    Unix {
        /// The socket.
        socket: StdUnix,
        /// Who may connect.
        peers: Peers,
        /// The file to remove at the end, if it is ours.
        file: Option<PathBuf>,
    },
    /// A TCP socket.
    Tcp {
        /// The socket.
        socket: StdTcp,
        /// Its address.
        address: SocketAddr,
    },
}

impl Listener {
    /// Makes a Unix socket at `path` with these permissions. A socket that is there
    /// and that nobody listens on is replaced.
    ///
    /// # Errors
    /// A path in use, or where no socket can be made.
    pub fn unix(path: &Path, mode: u32, peers: Peers) -> Result<Self, ServeError> {
        let failed = |source| ServeError::Listen {
            what: path.display().to_string(),
            source,
        };
        remove_stale(path).map_err(failed)?;
        let socket = bind(path, mode).map_err(failed)?;
        Ok(Self::Unix {
            socket,
            peers,
            file: Some(path.to_owned()),
        })
    }

    /// Listens on a TCP address. One that others can reach needs both `remote`, as a
    /// sign that it is meant, and keys.
    ///
    /// # Errors
    /// An address that cannot be had or would expose the service.
    pub fn tcp(address: SocketAddr, remote: bool, keys: bool) -> Result<Self, ServeError> {
        check_exposure(address, remote, keys)?;
        let failed = |source| ServeError::Listen {
            what: address.to_string(),
            source,
        };
        let socket = StdTcp::bind(address).map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        Ok(Self::Tcp { socket, address })
    }

    /// The sockets that systemd hands over, if there are any.
    ///
    /// # Errors
    /// A socket of another kind, or one that would expose the service.
    pub fn activated(peers: &Peers, remote: bool, keys: bool) -> Result<Vec<Self>, ServeError> {
        let failed = |source| ServeError::Listen {
            what: "a socket from the service manager".into(),
            source,
        };
        let mut fds = ListenFd::from_env();
        let mut all = Vec::new();
        for i in 0..fds.len() {
            if let Ok(Some(socket)) = fds.take_unix_listener(i) {
                all.push(Self::Unix {
                    socket,
                    peers: peers.clone(),
                    file: None,
                });
                continue;
            }
            let Some(socket) = fds.take_tcp_listener(i).map_err(failed)? else {
                continue;
            };
            let address = socket.local_addr().map_err(failed)?;
            check_exposure(address, remote, keys)?;
            all.push(Self::Tcp { socket, address });
        }
        Ok(all)
    }

    /// How clients name it.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Unix {
                file: Some(path), ..
            } => format!("unix:{}", path.display()),
            Self::Unix { socket, .. } => {
                let address = socket.local_addr().ok();
                let path = address.as_ref().and_then(|a| a.as_pathname());
                path.map_or("a Unix socket".into(), |p| format!("unix:{}", p.display()))
            }
            Self::Tcp { address, .. } => format!("http://{address}"),
        }
    }
}

fn check_exposure(address: SocketAddr, remote: bool, keys: bool) -> Result<(), ServeError> {
    if address.ip().is_loopback() {
        return Ok(());
    }
    if !remote {
        return Err(ServeError::Config(format!(
            "{address} can be reached from other machines; add --allow-remote if you want that, or \
             use 127.0.0.1"
        )));
    }
    if !keys {
        return Err(ServeError::Config(format!(
            "{address} can be reached from other machines, so clients need API keys; add \
             --api-keys FILE"
        )));
    }
    Ok(())
}

/// Makes a socket under a name that nobody knows and gives it its permissions, then its
/// name: at no moment can others connect.
fn bind(path: &Path, mode: u32) -> io::Result<StdUnix> {
    // Longer than clients can name it in an address.
    if path.as_os_str().len() > MOST_PATH {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "has {} bytes, but a socket path may have at most {MOST_PATH}; use a shorter one",
                path.as_os_str().len()
            ),
        ));
    }
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let folder = rustix::fs::open(
        parent.unwrap_or_else(|| Path::new(".")),
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    // The name that nobody knows is longer than the socket's own may be; through the
    // folder's descriptor it is short wherever the folder is.
    let name = format!("v4-run.{}.part", std::process::id());
    let made = format!("/proc/self/fd/{}/{name}", folder.as_raw_fd());
    let _ = fs::remove_file(&made);
    let socket = StdUnix::bind(&made)?;
    let named = fs::set_permissions(&made, fs::Permissions::from_mode(mode))
        .and_then(|()| fs::rename(&made, path));
    if let Err(error) = named {
        let _ = fs::remove_file(&made);
        return Err(error);
    }
    Ok(socket)
}

/// Removes a socket that a process left behind.
fn remove_stale(path: &Path) -> io::Result<()> {
    let facts = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    if !facts.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "is a file, not a socket; remove it, or use another path",
        ));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another process is listening there",
        )),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(e) => Err(e),
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix {
            file: Some(path), ..
        } = self
        {
            // Gone already, or not to be removed: the next start sees to it.
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_left_socket_is_replaced_and_one_in_use_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let first = Listener::unix(&path, 0o600, Peers::default()).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let error = Listener::unix(&path, 0o600, Peers::default()).unwrap_err();
        assert!(error.to_string().contains("another process"), "{error}");
        drop(first);
        assert!(!path.exists());
        // As a killed process leaves it.
        drop(StdUnix::bind(&path).unwrap());
        drop(Listener::unix(&path, 0o600, Peers::default()).unwrap());
        fs::write(&path, "precious").unwrap();
        let error = Listener::unix(&path, 0o600, Peers::default()).unwrap_err();
        assert!(error.to_string().contains("not a socket"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_path_may_be_as_long_as_the_system_allows() {
        let dir = tempfile::tempdir().unwrap();
        let longest = MOST_PATH - dir.path().as_os_str().len() - 1;
        for (length, fits) in [(1, true), (longest, true), (longest + 1, false)] {
            let path = dir.path().join("s".repeat(length));
            let made = Listener::unix(&path, 0o600, Peers::default());
            assert_eq!(made.is_ok(), fits, "{length}");
            let Ok(listener) = made else { continue };
            std::os::unix::net::UnixStream::connect(&path).unwrap();
            let Listener::Unix { socket, .. } = &listener else {
                panic!("another socket");
            };
            socket.accept().unwrap();
        }
        // Nothing is left of the making.
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn other_addresses_need_to_be_meant_and_a_key() {
        let any: SocketAddr = "0.0.0.0:0".parse().unwrap();
        for (remote, keys, says) in [
            (false, false, "--allow-remote"),
            (false, true, "--allow-remote"),
            (true, false, "--api-keys"),
        ] {
            let error = Listener::tcp(any, remote, keys).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        assert!(Listener::tcp(any, true, true).is_ok());
        assert!(Listener::tcp("127.0.0.1:0".parse().unwrap(), false, false).is_ok());
    }
}
