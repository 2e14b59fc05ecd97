//! Accepted connections, each with its place among them; on the unix socket no more than [`limits::API_CONNECTIONS_MAX`] at once.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use crate::api::certificates::Trust;
use crate::limits;

/// Wait after accept(2) failed, which is a lack of descriptors and passes.
pub(super) const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A connection, and its place among them.
pub(super) struct Connection<S> {
    stream: S,
    /// Of a client that has shown a certificate.
    trust: Option<Trust>,
    _place: OwnedSemaphorePermit,
}

impl Connection<TlsStream<TcpStream>> {
    /// After the handshake; ends by itself once `trust` is over, at the next byte or ping.
    pub(super) fn verified(stream: TlsStream<TcpStream>, trust: Trust, place: OwnedSemaphorePermit) -> Self {
        Self { stream, trust: Some(trust), _place: place }
    }

    /// SHA-256 of the client's certificate, as `openssl x509 -fingerprint -sha256` has it, without colons.
    pub(super) fn certificate(&self) -> String {
        let (_, session) = self.stream.get_ref();
        let leaf = session.peer_certificates().and_then(<[_]>::first);
        leaf.map_or_else(String::new, |leaf| format!("{:X}", Sha256::digest(leaf)))
    }
}

impl<S> Connection<S> {
    fn still_trusted(&self) -> io::Result<()> {
        match &self.trust {
            Some(trust) if trust.is_over() => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "CAs or revocation lists have changed: the client is to show its certificate again",
            )),
            _ => Ok(()),
        }
    }
}

/// Accepts for as long as the stream is held.
pub(super) fn incoming(listener: UnixListener) -> ReceiverStream<io::Result<Connection<UnixStream>>> {
    let places = Arc::new(Semaphore::new(limits::API_CONNECTIONS_MAX));
    let (to, from) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            // Never closed: the error cannot come.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = to.closed() => return,
            };
            match accepted {
                Ok((stream, _)) => {
                    if to.send(Ok(Connection { stream, trust: None, _place: place })).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept on the control socket (out of descriptors?)");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    });
    ReceiverStream::new(from)
}

impl<S: Connected> Connected for Connection<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> S::ConnectInfo {
        self.stream.connect_info()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.still_trusted()?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.still_trusted()?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
