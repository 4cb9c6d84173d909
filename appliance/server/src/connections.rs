//! Accepts connections within a limit, applies time limits, and ends them cleanly.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_io_timeout::TimeoutStream;

use crate::error::ServeError;
use crate::http::Peer;
use crate::listen::{Listener, Peers};
use crate::router::handle;
use crate::service::Service;

/// Longest head of a request.
const MOST_HEAD: usize = 64 << 10;
/// Header fields of a request.
const MOST_FIELDS: usize = 100;
/// A client that takes nothing for so long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(120);

/// Connections beyond those that are allowed, on which only whether the service lives is
/// answered: who watches it must not take it for dead when it is busy.
const SPARE: usize = 16;
/// Time for a request's head on one of these.
const SPARE_TIMEOUT: Duration = Duration::from_secs(5);

/// What connections have in common.
#[derive(Debug, Clone)]
pub(crate) struct Connections {
    service: Arc<Service>,
    room: Arc<Semaphore>,
    spare: Arc<Semaphore>,
    closing: watch::Receiver<bool>,
    /// Held by each connection: when all are dropped, all have ended.
    #[allow(dead_code, reason = "what counts is that it is held")]
    open: mpsc::Sender<Infallible>,
}

impl Connections {
    pub fn new(
        service: Arc<Service>,
        most: usize,
        closing: watch::Receiver<bool>,
        #[allow(dead_code, reason = "what counts is that it is held")] open: mpsc::Sender<
            Infallible,
        >,
    ) -> Self {
        Self {
            service,
            room: Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))),
            spare: Arc::new(Semaphore::new(SPARE)),
            closing,
            open,
        }
    }
}

/// A place for a connection.
struct Place {
    /// Beyond those that are allowed.
    spare: bool,
    _permit: OwnedSemaphorePermit,
}

impl Connections {
    /// A place; a spare one where there is no other, and where there is none either, the
    /// next that becomes free.
    async fn place(&self) -> io::Result<Place> {
        let place = |spare, permit| Place {
            spare,
            _permit: permit,
        };
        let found = tokio::select! {
            biased;
            permit = Arc::clone(&self.room).acquire_owned() => permit.map(|p| place(false, p)),
            permit = Arc::clone(&self.spare).acquire_owned() => permit.map(|p| place(true, p)),
        };
        // Never closed.
        found.map_err(io::Error::other)
    }
}

/// A listener on the runtime.
enum Socket {
    Unix(UnixListener, Peers),
    Tcp(TcpListener),
}

/// A connection.
enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Socket {
    fn new(listener: &Listener) -> io::Result<Self> {
        Ok(match listener {
            Listener::Unix { socket, peers, .. } => {
                let socket = socket.try_clone()?;
                socket.set_nonblocking(true)?;
                Self::Unix(UnixListener::from_std(socket)?, peers.clone())
            }
            Listener::Tcp { socket, .. } => {
                let socket = socket.try_clone()?;
                socket.set_nonblocking(true)?;
                Self::Tcp(TcpListener::from_std(socket)?)
            }
        })
    }

    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Unix(socket, _) => Ok(Stream::Unix(socket.accept().await?.0)),
            Self::Tcp(socket) => {
                let (stream, _) = socket.accept().await?;
                // Tokens go out one by one; waiting for more to send helps nobody.
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
        }
    }
}

/// Accepts connections until it is told to close.
pub(crate) async fn accept(listener: Listener, connections: Connections) -> Result<(), ServeError> {
    let socket = Socket::new(&listener).map_err(|source| ServeError::Listen {
        what: listener.name(),
        source,
    })?;
    let own = rustix::process::geteuid().as_raw();
    while let Some((stream, place)) = next(&connections, &socket).await {
        match (stream, &socket) {
            (Stream::Unix(stream), Socket::Unix(_, peers)) => match user(&stream, peers, own) {
                Some(user) => spawn(stream, place, Peer::User(user), &connections),
                None => connections.service.refused_peer(),
            },
            (Stream::Tcp(stream), _) => spawn(stream, place, Peer::Tcp, &connections),
            (Stream::Unix(_), Socket::Tcp(_)) => {}
        }
    }
    Ok(())
}

/// The next connection; `None` when no more are wanted.
async fn next(connections: &Connections, socket: &Socket) -> Option<(Stream, Place)> {
    let mut closing = connections.closing.clone();
    loop {
        let accepted = tokio::select! {
            _ = closing.wait_for(|closing| *closing) => return None,
            accepted = async {
                let stream = socket.accept().await?;
                Ok::<_, io::Error>((stream, connections.place().await?))
            } => accepted,
        };
        match accepted {
            Ok(accepted) => return Some(accepted),
            // Out of descriptors, or a client that left at once: not for long.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// The user at the other end, if it is let in.
fn user(stream: &UnixStream, peers: &Peers, own: u32) -> Option<u32> {
    let peer = stream.peer_cred().ok()?;
    peers
        .allow(peer.uid(), peer.gid(), own)
        .then_some(peer.uid())
}

fn spawn<S>(stream: S, place: Place, peer: Peer, connections: &Connections)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let connections = connections.clone();
    tokio::spawn(async move {
        converse(stream, peer, place.spare, &connections).await;
        drop(place);
        drop(connections);
    });
}

/// Answers the requests on a stream that is open already, such as one end of a pair in
/// memory, until the stream ends. Whoever is at its other end is trusted no more than a
/// client on a TCP socket.
pub async fn serve_stream<S>(service: Arc<Service>, stream: S)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (_close, closing) = watch::channel(false);
    let (open, _all_ended) = mpsc::channel(1);
    let connections = Connections::new(service, 1, closing, open);
    converse(stream, Peer::Tcp, false, &connections).await;
}

async fn converse<S>(stream: S, peer: Peer, spare: bool, connections: &Connections)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let service = Arc::clone(&connections.service);
    let mut closing = connections.closing.clone();
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    let answer = service_fn(move |request| {
        let service = Arc::clone(&service);
        async move { Ok::<_, Infallible>(handle(service, peer, spare, request).await) }
    });
    let read_timeout = connections.service.config().read_timeout;
    let conversation = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(match spare {
            true => read_timeout.min(SPARE_TIMEOUT),
            false => read_timeout,
        })
        // A spare place is given back after each answer.
        .keep_alive(!spare)
        .max_buf_size(MOST_HEAD)
        .max_headers(MOST_FIELDS)
        .serve_connection(TokioIo::new(Box::pin(stream)), answer);
    let mut conversation = std::pin::pin!(conversation);
    tokio::select! {
        // A client that breaks off or sends nonsense is not an error of ours.
        _ = conversation.as_mut() => return,
        () = async { drop(closing.wait_for(|closing| *closing).await) } => {}
    }
    conversation.as_mut().graceful_shutdown();
    let _ = conversation.await;
}
