//! Where a test server's connections come in: opens and closes with its health, and misbehaves if told so.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;

use super::health::{Health, State};
use super::{Notice, ServeError, Tell};
use crate::limits::SERVE_CONNECTIONS_MAX;

/// Connections that the kernel makes before anyone accepts.
const BACKLOG: i32 = 128;

/// How long a server that could not accept waits (it is out of descriptors).
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What becomes of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// They are served.
    Serve,
    /// They are accepted, read from, and never answered.
    Stall,
    /// They are accepted and reset.
    Reset,
    /// They are not accepted.
    Hang,
}

/// An address that is taken, and listened on at times.
///
/// Invariant: the address stays ours while the door is closed: a socket is bound to it.
pub(super) struct Door {
    addr: SocketAddr,
    bound: Option<Socket>,
    manner: Manner,
    places: Arc<Semaphore>,
    tell: Tell,
}

impl Door {
    /// Takes `addr` without listening on it yet: connects are refused.
    pub(super) fn bind(addr: SocketAddr, manner: Manner, tell: Tell) -> Result<Door, ServeError> {
        let failed = |source| ServeError::Listen { addr, source };
        let socket = bound(addr).map_err(failed)?;
        let actual = socket.local_addr().map_err(failed)?;
        Ok(Door {
            addr: actual.as_socket().unwrap_or(addr),
            bound: Some(socket),
            manner,
            places: Arc::new(Semaphore::new(SERVE_CONNECTIONS_MAX)),
            tell,
        })
    }

    /// Listens whenever `is_open` says so, and hands each connection to `serve`.
    pub(super) async fn attend(
        mut self,
        health: &Health,
        is_open: impl Fn(&State) -> bool,
        mut serve: impl FnMut(Guest),
    ) -> Result<(), ServeError> {
        let mut states = health.watch();
        loop {
            // The sender lives in `health`, so there is no end to wait for.
            let _ = states.wait_for(&is_open).await;
            let listener = self.open()?;
            (self.tell)(Notice::Listening(self.addr));
            tokio::select! {
                _ = states.wait_for(|state| !is_open(state)) => {}
                () = self.accept_all(&listener, &mut serve) => {}
            }
            drop(listener);
            (self.tell)(Notice::Closed(self.addr));
        }
    }

    fn open(&mut self) -> Result<TcpListener, ServeError> {
        let backlog = if self.manner == Manner::Hang { 0 } else { BACKLOG };
        let mut open = || {
            let socket = match self.bound.take() {
                Some(socket) => socket,
                None => bound(self.addr)?,
            };
            socket.listen(backlog)?;
            TcpListener::from_std(socket.into())
        };
        let addr = self.addr;
        open().map_err(|source| ServeError::Listen { addr, source })
    }

    async fn accept_all(&self, listener: &TcpListener, serve: &mut impl FnMut(Guest)) {
        loop {
            if self.manner == Manner::Hang {
                return std::future::pending().await;
            }
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else {
                return;
            };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::debug!(%error, "cannot accept");
                    sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            // As servers of HTTP/2 do: without it an answer in two writes waits 40 ms for the client's delayed ACK.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "TCP_NODELAY");
            }
            let guest = Guest { stream, _place: place };
            match self.manner {
                Manner::Serve => serve(guest),
                Manner::Stall => {
                    tokio::spawn(guest.swallow());
                }
                Manner::Reset => {
                    // Closing with a linger time of nothing sends RST.
                    let _ = SockRef::from(&guest.stream).set_linger(Some(Duration::ZERO));
                }
                Manner::Hang => {}
            }
        }
    }
}

fn bound(addr: SocketAddr) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(addr), kind, Some(Protocol::TCP))?;
    // A restarted server finds its address free in spite of TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

/// One accepted connection, with its place among [`SERVE_CONNECTIONS_MAX`].
pub(super) struct Guest {
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
}

impl Guest {
    /// Reads until the other end has closed.
    pub(super) async fn swallow(mut self) {
        let mut buffer = [0; 1_024];
        while matches!(self.stream.read(&mut buffer).await, Ok(len) if len > 0) {}
    }
}

impl AsyncRead for Guest {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Guest {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl tonic::transport::server::Connected for Guest {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}
