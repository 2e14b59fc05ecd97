//! TCP connections for the pool's threads: a host in, a connected stream out, as Go's `net.Dialer` does it.
//!
//! Sockets are tokio's, never a ring's: a connect that is given up ends with its socket at once.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use probe_core::outcome::LocalCause;
use probe_core::time::Instant;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

use crate::clock;

use super::errno;
use super::resolve::{self, ResolveError};
use super::url::join_host_port;

/// How long the first family of a name with both has the way to itself (RFC 6555; Go's `FallbackDelay`).
const FALLBACK_DELAY: Duration = Duration::from_millis(300);

/// The least that one of several addresses gets of the time (Go's `partialDeadline`).
const SHARE_MIN: Duration = Duration::from_secs(2);

/// Connects that reached themselves before that counts as refused (Go's `doDialTCP`).
const SELF_CONNECTS_MAX: usize = 3;

/// Why there is no connection. Texts as Go's `net.OpError`.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name has no address.
    #[error("dial tcp: {0}")]
    Resolve(#[from] ResolveError),
    /// A system call failed.
    #[error("dial tcp {authority}: {call}: {}", wording(source))]
    Call {
        /// Address and port.
        authority: String,
        /// The same, for asking the kernel about it.
        peer: SocketAddr,
        /// `socket`, `setsockopt` or `connect`.
        call: &'static str,
        /// From the call.
        source: io::Error,
    },
    /// The time was over.
    #[error("dial tcp {authority}: i/o timeout")]
    Timeout {
        /// Address and port.
        authority: String,
    },
}

impl DialError {
    /// The cause where this says nothing of the target.
    #[must_use]
    pub fn local_cause(&self) -> Option<LocalCause> {
        match self {
            DialError::Resolve(error) => error.local_cause(),
            DialError::Call { peer, source, .. } => {
                source.raw_os_error().and_then(|code| errno::local_cause(code, || errno::ports_used_up(peer)))
            }
            DialError::Timeout { .. } => None,
        }
    }
}

/// A connection, and how long its parts took.
#[derive(Debug)]
pub struct Dialed {
    /// Non-blocking, without delay of small segments.
    pub stream: TcpStream,
    /// Name resolution; `None` where there was nothing to resolve.
    pub resolve: Option<Duration>,
    /// From the first connect on.
    pub connect: Duration,
}

/// Connects to `addr`, or where that is `None` to what `host` resolves to.
///
/// # Errors
/// See [`DialError`].
pub async fn connect_host(
    host: &str,
    port: u16,
    addr: Option<SocketAddr>,
    deadline: Instant,
) -> Result<Dialed, DialError> {
    let begun = clock::now();
    let (addrs, resolve) = match addr {
        Some(addr) => (vec![addr], None),
        None => {
            let addrs = resolve::lookup(host, port, deadline).await?;
            (addrs, Some(clock::now() - begun))
        }
    };
    let connecting = clock::now();
    let stream = connect(&addrs, deadline).await.map_err(|mut error| {
        // Go shows no address where none was given.
        if host.is_empty() {
            match &mut error {
                DialError::Call { authority, .. } | DialError::Timeout { authority } => {
                    *authority = join_host_port("", port);
                }
                DialError::Resolve(_) => {}
            }
        }
        error
    })?;
    Ok(Dialed { stream, resolve, connect: clock::now() - connecting })
}

/// Connects to the first of `addrs` that answers. Those of the first one's family are tried in order; those of
/// the other family join in after 300 ms, or as soon as the first ones have all failed.
///
/// # Errors
/// The first address's error where all fail; a timeout where `addrs` is empty.
pub async fn connect(addrs: &[SocketAddr], deadline: Instant) -> Result<TcpStream, DialError> {
    let (primaries, fallbacks): (Vec<_>, Vec<_>) =
        addrs.iter().copied().partition(|a: &SocketAddr| a.is_ipv4() == addrs[0].is_ipv4());
    if fallbacks.is_empty() {
        return connect_in_order(&primaries, deadline).await;
    }
    let primary = connect_in_order(&primaries, deadline);
    let fallback = connect_in_order(&fallbacks, deadline);
    tokio::pin!(primary, fallback);
    let first_error = tokio::select! {
        biased;
        made = &mut primary => match made {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        },
        () = sleep(FALLBACK_DELAY) => tokio::select! {
            biased;
            made = &mut primary => match made {
                Ok(stream) => return Ok(stream),
                Err(error) => error,
            },
            made = &mut fallback => match made {
                Ok(stream) => return Ok(stream),
                Err(_) => return primary.await,
            },
        },
    };
    fallback.await.map_err(|_| first_error)
}

async fn connect_in_order(addrs: &[SocketAddr], deadline: Instant) -> Result<TcpStream, DialError> {
    let mut first_error = None;
    for (index, addr) in addrs.iter().enumerate() {
        let left = clock::until(deadline);
        let others = u32::try_from(addrs.len() - index).unwrap_or(u32::MAX);
        let share = (left / others).max(SHARE_MIN.min(left));
        let made = timeout(share, connect_one(*addr)).await;
        let error = match made {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => error,
            Err(_) => DialError::Timeout { authority: addr.to_string() },
        };
        first_error.get_or_insert(error);
        if clock::until(deadline).is_zero() {
            break;
        }
    }
    Err(first_error.unwrap_or(DialError::Timeout { authority: String::new() }))
}

async fn connect_one(peer: SocketAddr) -> Result<TcpStream, DialError> {
    let failed = |call, source| DialError::Call { authority: peer.to_string(), peer, call, source };
    for _ in 0..SELF_CONNECTS_MAX {
        let kind = Type::STREAM.nonblocking().cloexec();
        let socket = Socket::new(Domain::for_address(peer), kind, Some(Protocol::TCP))
            .map_err(|source| failed("socket", source))?;
        socket.set_tcp_nodelay(true).map_err(|source| failed("setsockopt", source))?;
        let stream = TcpSocket::from_std_stream(socket.into())
            .connect(peer)
            .await
            .map_err(|source| failed("connect", source))?;
        // Two ends with one address: the kernel chose the probed port as ours, and nobody listens there.
        match (stream.local_addr(), stream.peer_addr()) {
            (Ok(local), Ok(peer)) if local == peer => {}
            _ => return Ok(stream),
        }
    }
    let refused = io::Error::from_raw_os_error(libc::ECONNREFUSED);
    Err(failed("connect", refused))
}

fn wording(source: &io::Error) -> String {
    match source.raw_os_error() {
        Some(code) => errno::wording(code).into_owned(),
        None => source.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn soon() -> Instant {
        clock::now() + Duration::from_secs(10)
    }

    fn closed_port() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.local_addr().expect("bound")
    }

    #[tokio::test]
    async fn the_next_address_is_tried_when_one_refuses() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let open = listener.local_addr().expect("bound");
        let stream = connect(&[closed_port(), open], soon()).await.expect("the second answers");
        assert_eq!(stream.peer_addr().expect("connected"), open);
        assert!(stream.nodelay().expect("connected"));
        let other: SocketAddr = "[::1]:9".parse().expect("valid");
        let stream = connect(&[other, open], soon()).await.expect("the other family answers");
        assert_eq!(stream.peer_addr().expect("connected"), open);
    }

    #[tokio::test]
    async fn the_first_addresses_error_is_shown_in_gos_words() {
        let closed = closed_port();
        let error = connect(&[closed, closed_port()], soon()).await.expect_err("closed");
        let want = format!("dial tcp {closed}: connect: connection refused");
        assert_eq!((error.to_string(), error.local_cause()), (want, None));
        let dialed = connect_host("", closed.port(), Some(closed), soon()).await;
        let want = format!("dial tcp :{}: connect: connection refused", closed.port());
        assert_eq!(dialed.expect_err("closed").to_string(), want);
    }

    #[tokio::test]
    async fn a_listener_that_takes_nothing_times_out() {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let any: SocketAddr = "127.0.0.1:0".parse().expect("valid");
        listener.bind(&any.into()).expect("a free port");
        listener.listen(0).expect("bound");
        let addr = listener.local_addr().expect("bound").as_socket().expect("ipv4");
        // A backlog of 0 holds one connection; the next SYN is dropped.
        let _held = connect(&[addr], soon()).await.expect("the one place");
        let error = connect(&[addr], clock::now() + Duration::from_millis(150)).await;
        let want = format!("dial tcp {addr}: i/o timeout");
        assert_eq!(error.expect_err("dropped").to_string(), want);
    }

    #[tokio::test]
    async fn a_connect_that_reaches_itself_is_refused_or_retried() {
        // One socket bound to the port it connects to is what the kernel may do by chance.
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let any: SocketAddr = "127.0.0.1:0".parse().expect("valid");
        socket.bind(&any.into()).expect("a free port");
        let addr = socket.local_addr().expect("bound").as_socket().expect("ipv4");
        let error = connect(&[addr], soon()).await.expect_err("nobody listens");
        assert!(error.to_string().ends_with("connection refused"), "{error}");
    }
}
