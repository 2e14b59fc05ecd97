//! A connected stream on either of the pool's runtimes, with owned buffers and deadlines.
//!
//! **Invariant:** an operation of tokio-uring is never given up while it is pending: at the deadline, and when an
//! attempt is dropped, the socket is shut down first, which ends the operation. A dropped operation alone would
//! keep its socket until the peer moves.

use std::cell::Cell;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::pin::pin;

use probe_core::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use crate::clock;

/// Which runtime drives the current thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// tokio-uring
    Uring,
    /// tokio alone
    Tokio,
}

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
    inner: Inner,
    local: SocketAddr,
    peer: SocketAddr,
}

#[derive(Debug)]
enum Inner {
    Uring(UringStream),
    Tokio(tokio::net::TcpStream),
}

impl Stream {
    /// Takes over a connected stream; for [`StreamKind::Uring`] on a thread whose runtime is tokio-uring's.
    ///
    /// # Errors
    /// Those of fcntl(2), getsockname(2) and getpeername(2): ENOTCONN where the peer has reset already.
    pub fn new(stream: tokio::net::TcpStream, kind: StreamKind) -> io::Result<Stream> {
        let (local, peer) = (stream.local_addr()?, stream.peer_addr()?);
        let inner = match kind {
            StreamKind::Tokio => Inner::Tokio(stream),
            StreamKind::Uring => {
                let stream = stream.into_std()?;
                // On a non-blocking socket io_uring answers EAGAIN instead of waiting.
                stream.set_nonblocking(false)?;
                Inner::Uring(UringStream {
                    stream: tokio_uring::net::TcpStream::from_std(stream),
                    busy: Cell::new(false),
                })
            }
        };
        Ok(Stream { inner, local, peer })
    }

    /// Reads into the capacity of `buffer`, whose old content is lost; 0 = the peer has closed.
    ///
    /// # Errors
    /// See [`StreamError`]. After a timeout the stream is good for nothing.
    pub async fn read(&mut self, mut buffer: Vec<u8>, deadline: Instant) -> (Result<usize, StreamError>, Vec<u8>) {
        buffer.clear();
        match &mut self.inner {
            Inner::Uring(uring) => {
                let ((result, buffer), in_time) = uring.bounded(uring.stream.read(buffer), deadline).await;
                let result = match result {
                    // What had arrived when the time was over still counts; the end that our shutdown made does not.
                    Ok(0) | Err(_) if !in_time => Err(StreamError::Timeout),
                    Ok(len) => Ok(len),
                    Err(error) => Err(StreamError::Io(error)),
                };
                (result, buffer)
            }
            Inner::Tokio(stream) => {
                let read = timeout(clock::until(deadline), stream.read_buf(&mut buffer)).await;
                (flatten(read), buffer)
            }
        }
    }

    /// Writes all of `buffer`.
    ///
    /// # Errors
    /// See [`StreamError`]. After one it is not known how much was written.
    pub async fn write_all(&mut self, buffer: Vec<u8>, deadline: Instant) -> (Result<(), StreamError>, Vec<u8>) {
        match &mut self.inner {
            Inner::Uring(uring) => {
                let ((result, buffer), in_time) = uring.bounded(uring.stream.write_all(buffer), deadline).await;
                let result = match result {
                    Err(_) if !in_time => Err(StreamError::Timeout),
                    result => result.map_err(StreamError::Io),
                };
                (result, buffer)
            }
            Inner::Tokio(stream) => {
                let written = timeout(clock::until(deadline), stream.write_all(&buffer)).await;
                (flatten(written), buffer)
            }
        }
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

struct UringStream {
    stream: tokio_uring::net::TcpStream,
    /// An operation is pending.
    busy: Cell<bool>,
}

impl UringStream {
    /// Runs `operation` to its end, which the deadline brings about by a shutdown; true = it ended by itself.
    async fn bounded<T>(&self, operation: impl Future<Output = T>, deadline: Instant) -> (T, bool) {
        let mut operation = pin!(operation);
        self.busy.set(true);
        let ended = tokio::select! {
            biased;
            result = &mut operation => (result, true),
            () = sleep(clock::until(deadline)) => {
                self.shutdown();
                (operation.await, false)
            }
        };
        self.busy.set(false);
        ended
    }

    fn shutdown(&self) {
        // ENOTCONN: the connection has ended already, and so has the operation.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl Drop for UringStream {
    fn drop(&mut self) {
        if self.busy.get() {
            self.shutdown();
        }
    }
}

impl std::fmt::Debug for UringStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UringStream").finish_non_exhaustive()
    }
}
