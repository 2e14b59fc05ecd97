//! One health check over one HTTP/2 connection that the attempt drives itself: no task and no channel, and the request
//! goes out together with our preface (RFC 9113, 3.4 lets a client do so).
//!
//! What an answer means is as in tonic's client, whose status and messages these are.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use h2::client::{Connection, ResponseFuture};
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, StatusCode};
use hyper::body::Bytes;
use probe_core::time::Instant;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckResponse;

use crate::prober::errno;
use crate::{clock, limits};

/// Bytes of a message's head: compressed or not, and its length (gRPC over HTTP/2, `Length-Prefixed-Message`).
pub(super) const MESSAGE_HEAD_BYTES: usize = 5;
/// Bytes of an HTTP/2 frame header (RFC 9113, 4.1).
const FRAME_HEAD_BYTES: usize = 9;
/// Type of a SETTINGS frame (RFC 9113, 6.5).
const FRAME_SETTINGS: u8 = 4;

/// Why there was no answer.
#[derive(Debug)]
pub(super) enum Broken {
    /// The server did not show that it speaks HTTP/2.
    NotConnected,
    /// The connection or the stream broke under the call.
    Call(h2::Error),
    /// The server said so, or what it said is no answer.
    Status(Status),
}

impl Broken {
    /// The cause in grpc-go's words, where it has some.
    pub(super) fn words(error: &h2::Error) -> String {
        match error.get_io() {
            Some(io) => match io.raw_os_error() {
                Some(code) => errno::wording(code).into_owned(),
                None if io.kind() == io::ErrorKind::UnexpectedEof => "EOF".to_owned(),
                None => io.to_string(),
            },
            None => error.to_string(),
        }
    }
}

/// Sends `request` with `message` over a new connection and receives the answer; `seen` tells when the server's preface came.
pub(super) async fn call(
    stream: TcpStream,
    request: Request<()>,
    message: Bytes,
    seen: &Arc<Seen>,
) -> Result<HealthCheckResponse, Broken> {
    let line = Line::new(stream, Arc::clone(seen));
    let made = h2::client::Builder::new().enable_push(false).handshake(line).await;
    let (mut sender, mut connection) = made.map_err(|_broken| Broken::NotConnected)?;
    let (response, mut body) = sender.send_request(request, false).map_err(Broken::Call)?;
    body.send_data(message, true).map_err(Broken::Call)?;
    let answer = answer(response, &mut connection, seen).await;
    drop((sender, body));
    if !matches!(answer, Err(Broken::NotConnected)) {
        // The goodbye; whoever does not hear it misses nothing.
        seen.corked.store(false, Ordering::Relaxed);
        let _ = timeout(limits::GRPC_CLOSE_MAX, connection).await;
    }
    answer
}

/// Drives the connection until the answer is there.
async fn answer(
    response: ResponseFuture,
    connection: &mut Connection<Line, Bytes>,
    seen: &Seen,
) -> Result<HealthCheckResponse, Broken> {
    let mut receiving = pin!(receive(response));
    let mut is_sent = false;
    poll_fn(|cx| {
        // What is to be said to what has come (an ACK of settings) waits for the end of this look: with an answer there, it
        // goes out with the goodbye.
        for corked in [is_sent, false] {
            seen.corked.store(corked, Ordering::Relaxed);
            let ended = Pin::new(&mut *connection).poll(cx);
            if seen.is_other() || (ended.is_ready() && seen.preface_at().is_none()) {
                return Poll::Ready(Err(Broken::NotConnected));
            }
            if let Poll::Ready(answer) = receiving.as_mut().poll(cx) {
                return Poll::Ready(answer);
            }
            if let Poll::Ready(ended) = ended {
                return Poll::Ready(Err(ended.map_or_else(Broken::Call, |()| Broken::Call(Reason::NO_ERROR.into()))));
            }
            if !corked {
                break;
            }
        }
        is_sent = true;
        Poll::Pending
    })
    .await
}

async fn receive(response: ResponseFuture) -> Result<HealthCheckResponse, Broken> {
    let (head, body) = response.await.map_err(Broken::Call)?.into_parts();
    if let Some(encoding) = head.headers.get("grpc-encoding").filter(|encoding| *encoding != "identity") {
        let encoding = String::from_utf8_lossy(encoding.as_bytes());
        let text = format!("Content is compressed with `{encoding}` which isn't supported");
        return Err(Broken::Status(Status::unimplemented(text)));
    }
    let status = Status::from_header_map(&head.headers);
    let (message, trailers) = match status {
        Some(status) if status.code() != Code::Ok => return Err(Broken::Status(status)),
        _ => read(body).await?,
    };
    if status.is_none() {
        check_trailers(trailers.as_ref(), head.status).map_err(Broken::Status)?;
    }
    message.ok_or_else(|| Broken::Status(Status::internal("Missing response message.")))
}

/// The first message, and what ends the stream.
async fn read(mut body: RecvStream) -> Result<(Option<HealthCheckResponse>, Option<HeaderMap>), Broken> {
    let (mut bytes, mut message) = (Vec::new(), None);
    loop {
        match body.data().await {
            Some(Ok(chunk)) => {
                // Fails only for more than was received.
                let _ = body.flow_control().release_capacity(chunk.len());
                if message.is_none() {
                    bytes.extend_from_slice(&chunk);
                    message = decode(&bytes).map_err(Broken::Status)?;
                }
            }
            // An end without trailers.
            Some(Err(error)) if matches!(error.reason(), Some(Reason::NO_ERROR | Reason::CANCEL)) => {
                return Ok((message, None));
            }
            Some(Err(error)) => return Err(Broken::Call(error)),
            None => break,
        }
    }
    if message.is_none() && !bytes.is_empty() {
        return Err(Broken::Status(Status::internal("Unexpected EOF decoding stream.")));
    }
    let trailers = body.trailers().await.map_err(Broken::Call)?;
    Ok((message, trailers))
}

/// The message at the front of `bytes`; `None` = not whole yet.
fn decode(bytes: &[u8]) -> Result<Option<HealthCheckResponse>, Status> {
    let Some((head, rest)) = bytes.split_at_checked(MESSAGE_HEAD_BYTES) else { return Ok(None) };
    match head[0] {
        0 => {}
        1 => {
            return Err(Status::internal(
                "protocol error: received message with compressed-flag but no grpc-encoding was specified",
            ));
        }
        flag => {
            return Err(Status::internal(format!(
                "protocol error: received message with invalid compression flag: {flag} (valid flags are 0 and 1)"
            )));
        }
    }
    let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if len > limits::GRPC_MESSAGE_BYTES_MAX {
        let limit = limits::GRPC_MESSAGE_BYTES_MAX;
        return Err(Status::out_of_range(format!(
            "Error, decoded message length too large: found {len} bytes, the limit is: {limit} bytes"
        )));
    }
    let Some(message) = rest.get(..len) else { return Ok(None) };
    HealthCheckResponse::decode(message).map(Some).map_err(|error| Status::internal(error.to_string()))
}

/// The status that ends a call (`grpc/doc/http-grpc-status-mapping.md` where there is none).
fn check_trailers(trailers: Option<&HeaderMap>, status_code: StatusCode) -> Result<(), Status> {
    if let Some(status) = trailers.and_then(Status::from_header_map) {
        return if status.code() == Code::Ok { Ok(()) } else { Err(status) };
    }
    let code = match status_code {
        StatusCode::OK => {
            return Err(Status::unknown(
                "protocol error: missing grpc-status trailer, stream was terminated without a final status",
            ));
        }
        StatusCode::BAD_REQUEST => Code::Internal,
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::NOT_FOUND => Code::Unimplemented,
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Code::Unavailable,
        _ => Code::Unknown,
    };
    let text = format!("grpc-status header missing, mapped from HTTP status code {}", status_code.as_u16());
    Err(Status::new(code, text))
}

/// What an attempt and its connection, which h2 owns, tell each other.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// [`Self::NOTHING`], [`Self::PREFACE`] or [`Self::OTHER`].
    first: AtomicU8,
    /// When the preface came, in nanoseconds.
    at: AtomicU64,
    /// What is written is kept until this is false.
    corked: AtomicBool,
}

impl Seen {
    const NOTHING: u8 = 0;
    const PREFACE: u8 = 1;
    const OTHER: u8 = 2;

    /// When the server's preface came, which makes a connection one to grpc-go.
    pub(super) fn preface_at(&self) -> Option<Instant> {
        let is_preface = self.first.load(Ordering::Relaxed) == Self::PREFACE;
        is_preface.then(|| Instant::from_nanos(self.at.load(Ordering::Relaxed)))
    }

    /// What came first was something else.
    fn is_other(&self) -> bool {
        self.first.load(Ordering::Relaxed) == Self::OTHER
    }

    fn first(&self, is_preface: bool) {
        self.at.store(clock::now().as_nanos(), Ordering::Relaxed);
        self.first.store(if is_preface { Self::PREFACE } else { Self::OTHER }, Ordering::Relaxed);
    }

    /// For another connection.
    pub(super) fn forget(&self) {
        self.first.store(Self::NOTHING, Ordering::Relaxed);
    }
}

/// A stream that tells whether the first thing to arrive is a server's preface, a SETTINGS frame (RFC 9113, 3.4), which h2
/// does not say, and that writes what one look at the connection brought in one piece.
struct Line {
    stream: TcpStream,
    head: [u8; FRAME_HEAD_BYTES],
    head_len: usize,
    out: Vec<u8>,
    seen: Arc<Seen>,
}

impl Line {
    fn new(stream: TcpStream, seen: Arc<Seen>) -> Self {
        Self { stream, head: [0; FRAME_HEAD_BYTES], head_len: 0, out: Vec::with_capacity(512), seen }
    }

    fn look(&mut self, new: &[u8]) {
        if self.head_len == FRAME_HEAD_BYTES {
            return;
        }
        let take = new.len().min(FRAME_HEAD_BYTES - self.head_len);
        self.head[self.head_len..self.head_len + take].copy_from_slice(&new[..take]);
        self.head_len += take;
        if self.head_len == FRAME_HEAD_BYTES {
            self.seen.first(self.head[3] == FRAME_SETTINGS && self.head[5..] == [0; 4]);
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let len = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.out))?;
            if len == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.drain(..len);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Line {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.look(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // What waits is bounded: over this it has to be gone first.
        if self.out.len() + bytes.len() > limits::GRPC_WRITE_BYTES_MAX {
            ready!(self.poll_drain(cx))?;
        }
        let len = bytes.len().min(limits::GRPC_WRITE_BYTES_MAX);
        self.out.extend_from_slice(&bytes[..len]);
        Poll::Ready(Ok(len))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.seen.corked.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        self.poll_drain(cx)
    }

    /// The close that follows at once says the same as a shutdown would.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_drain(cx)
    }
}
