//! A connected stream with owned buffers and deadlines.
//!
//! **Invariant:** what is given up is closed at once: sockets are tokio's, and none is left to the kernel with an
//! operation under way.

use std::io;
use std::mem::MaybeUninit;
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

    /// Sends the last bytes, as far as there is room for them now, and closes. As a rule they go out in one segment with the
    /// FIN: `tcp_send_fin` puts it on what MSG_MORE has kept back. Where something has come that nobody reads, closing is a
    /// reset (`__tcp_close`), and what was kept back would be lost: then they go first.
    pub fn end_with(self, last: &[u8]) {
        let socket = SockRef::from(&self.stream);
        let mut byte = [MaybeUninit::uninit()];
        // Nothing (it would block), or the peer's FIN.
        let is_all_read = !socket.recv_with_flags(&mut byte, libc::MSG_PEEK).is_ok_and(|len| len > 0);
        let more = if is_all_read { libc::MSG_MORE } else { 0 };
        let _ = socket.send_with_flags(last, more | libc::MSG_NOSIGNAL);
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

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use super::*;

    /// What the other end reads of a connection that ends with `bye`, after it has sent `sent`, and how that ends.
    async fn read_of_the_end(sent: &[u8]) -> (Vec<u8>, io::Result<usize>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let stream = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("it listens");
        let (mut other, _) = listener.accept().expect("it is connected");
        io::Write::write_all(&mut other, sent).expect("there is room");
        while !sent.is_empty() && stream.peek(&mut [0]).await.expect("it is connected") == 0 {}
        Stream::new(stream).expect("it is connected").end_with(b"bye");
        let mut read = vec![0; 8];
        let len = other.read(&mut read).expect("it was sent before the end");
        read.truncate(len);
        (read, other.read(&mut [0]))
    }

    #[tokio::test]
    async fn the_last_bytes_arrive_before_the_end_whether_all_was_read_or_not() {
        let (read, end) = read_of_the_end(b"").await;
        assert_eq!((&read[..], end.ok()), (&b"bye"[..], Some(0)));
        // A reset throws away what was kept back for the FIN.
        let (read, end) = read_of_the_end(b"unread").await;
        assert_eq!((&read[..], end.map_err(|error| error.kind())), (&b"bye"[..], Err(io::ErrorKind::ConnectionReset)));
    }
}
