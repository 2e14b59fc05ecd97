//! A connected stream with owned buffers and deadlines.
//!
//! **Invariant:** what is given up is closed at once: sockets are tokio's, and none is left to the kernel with an
//! operation under way.

use std::io;
use std::net::SocketAddr;

use probe_core::time::Instant;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::clock;

/// Why an operation did not end well.
#[derive(Debug)]
pub enum StreamError {
    /// The deadline passed.
    Timeout,
    /// The kernel's answer.
    Io(io::Error),
}

/// A connected stream.
#[derive(Debug)]
pub struct Stream {
    stream: TcpStream,
    local: SocketAddr,
    peer: SocketAddr,
}

impl Stream {
    /// Takes over a connected stream.
    ///
    /// # Errors
    /// Those of getsockname(2) and getpeername(2): ENOTCONN where the peer has reset already.
    pub fn new(stream: TcpStream) -> io::Result<Stream> {
        let (local, peer) = (stream.local_addr()?, stream.peer_addr()?);
        Ok(Stream { stream, local, peer })
    }

    /// Reads into the capacity of `buffer`, whose old content is lost; 0 = the peer has closed.
    ///
    /// # Errors
    /// See [`StreamError`].
    pub async fn read(&mut self, buffer: &mut Vec<u8>, deadline: Instant) -> Result<usize, StreamError> {
        buffer.clear();
        flatten(timeout(clock::until(deadline), self.stream.read_buf(buffer)).await)
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// See [`StreamError`]. After one it is not known how much was written.
    pub async fn write_all(&mut self, bytes: &[u8], deadline: Instant) -> Result<(), StreamError> {
        flatten(timeout(clock::until(deadline), self.stream.write_all(bytes)).await)
    }

    /// Sends the last bytes, as far as there is room for them now, and closes: they go out in one segment with the FIN
    /// (`tcp_send_fin` puts it on what MSG_MORE has kept back).
    pub fn end_with(self, last: &[u8]) {
        let _ = SockRef::from(&self.stream).send_with_flags(last, libc::MSG_MORE | libc::MSG_NOSIGNAL);
    }

    /// `127.0.0.1:1->127.0.0.1:2`: how Go shows a connection in its errors.
    #[must_use]
    pub fn route(&self) -> String {
        format!("{}->{}", self.local, self.peer)
    }
}

fn flatten<T, E>(result: Result<io::Result<T>, E>) -> Result<T, StreamError> {
    match result {
        Ok(result) => result.map_err(StreamError::Io),
        Err(_) => Err(StreamError::Timeout),
    }
}
