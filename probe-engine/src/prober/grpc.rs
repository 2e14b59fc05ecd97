//! `grpc`: one unary `grpc.health.v1.Health/Check` over plaintext HTTP/2 (`pkg/probe/grpc/grpc.go`).
//!
//! Everything that goes wrong is a failure, never an error. One deadline covers connecting and the call, and
//! connecting is tried again until then, as grpc-go's blocking dial does: so a closed port takes the whole
//! timeout and reports a timeout.
//!
//! Invariant: when an attempt's future ends or is dropped, its connection and the tasks that drive it end.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{HeaderValue, Request, Response, Uri, header};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use probe_core::outcome::{LocalCause, Outcome};
use probe_core::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::duration::GoDuration;
use super::{Attempted, Phases, errno};
use crate::{clock, limits};

/// Starts with the kubelet's (rule 3.4); the library's own token follows, as grpc-go's does there.
const USER_AGENT: HeaderValue =
    HeaderValue::from_static(concat!("kube-probe/1.34 probe-engine/", env!("CARGO_PKG_VERSION")));

/// grpc-go's `backoff.DefaultConfig`: first wait, factor, longest wait. Its jitter is left out: the probes'
/// due times are staggered already.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_FACTOR: f64 = 1.6;
const RETRY_MAX: Duration = Duration::from_secs(120);

/// A server that keeps the call's deadline itself may be this much earlier than we are.
const SERVER_DEADLINE_SLACK: Duration = Duration::from_millis(10);

/// Turns of the runtime that an answer gets at its deadline: one to look at the sockets, one for the tasks that read
/// them, one to spare.
const LAST_LOOKS: usize = 3;

/// One attempt. `started` is where the timeout counts from; `pod_ip` `None` dials the local host and prints
/// as `:port`. Local trouble is `Outcome::Local`; otherwise success or failure with the kubelet's texts.
pub async fn attempt(
    pod_ip: Option<IpAddr>,
    port: u16,
    service: &str,
    started: Instant,
    timeout_limit: Duration,
) -> Attempted {
    let target = Target::new(pod_ip, port);
    let mut phases = Phases::default();
    let outcome = check(&target, service, started, timeout_limit, &mut phases).await;
    phases.total = clock::now() - started;
    Attempted { outcome, phases }
}

/// Where to connect to, and how it is written.
struct Target {
    peer: SocketAddr,
    /// Go's `net.JoinHostPort`: `10.0.0.1:80`, `[::1]:80`, `:80`.
    shown: String,
    /// `:authority`; grpc-go puts `localhost` where the host is empty.
    authority: String,
}

impl Target {
    fn new(pod_ip: Option<IpAddr>, port: u16) -> Self {
        match pod_ip {
            Some(ip) => {
                let peer = SocketAddr::new(ip, port);
                Self { peer, shown: peer.to_string(), authority: peer.to_string() }
            }
            None => Self {
                peer: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port),
                shown: format!(":{port}"),
                authority: format!("localhost:{port}"),
            },
        }
    }
}

async fn check(
    target: &Target,
    service: &str,
    started: Instant,
    timeout_limit: Duration,
    phases: &mut Phases,
) -> Outcome {
    let deadline = started + timeout_limit;
    let within = GoDuration(timeout_limit);
    let connection = match timeout(clock::until(deadline), connect(target.peer)).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(cause)) => return Outcome::Local(cause),
        Err(_elapsed) => {
            return failure(format!(
                "timeout: failed to connect service \"{}\" within {within}: context deadline exceeded",
                target.shown
            ));
        }
    };
    let connected = clock::now();
    phases.connect = Some(connected - started);

    let origin = match Uri::builder().scheme("http").authority(target.authority.as_str()).path_and_query("/").build() {
        Ok(origin) => origin,
        Err(error) => {
            return failure(format!("error: failed to connect service at \"{}\": {error}", target.shown));
        }
    };
    let Connection { sender, tasks } = connection;
    let mut client = HealthClient::with_origin(Sender(sender), origin);
    let mut request = tonic::Request::new(HealthCheckRequest { service: service.to_owned() });
    request.set_timeout(clock::until(deadline));
    let answer = by(deadline, client.check(request)).await;
    let answered = clock::now();
    drop(client);
    tasks.close().await;

    match answer {
        Some(Ok(response)) => {
            phases.first_byte = Some(answered - connected);
            judge_response(*response.get_ref())
        }
        Some(Err(status)) if status.source_is_absent() => {
            phases.first_byte = Some(answered - connected);
            judge_status(&status, within, answered + SERVER_DEADLINE_SLACK >= deadline)
        }
        Some(Err(status)) => judge_status(&status, within, false),
        None => rpc_timeout(within),
    }
}

/// What `answer` is by `deadline`. A thread that was held up finds its timers and its sockets ready together, and the
/// tasks that drive the connection run after this one: they get to take in what is there before that is too late.
async fn by<T>(deadline: Instant, answer: impl Future<Output = T>) -> Option<T> {
    let mut answer = pin!(answer);
    if let Ok(answer) = timeout(clock::until(deadline), &mut answer).await {
        return Some(answer);
    }
    for _ in 0..LAST_LOOKS {
        tokio::task::yield_now().await;
        if let Poll::Ready(answer) = poll_fn(|cx| Poll::Ready(answer.as_mut().poll(cx))).await {
            return Some(answer);
        }
    }
    None
}

/// Whether a status came from the server (`false` = the connection broke under the call).
trait StatusOrigin {
    fn source_is_absent(&self) -> bool;
}

impl StatusOrigin for Status {
    fn source_is_absent(&self) -> bool {
        std::error::Error::source(self).is_none()
    }
}

fn judge_response(response: HealthCheckResponse) -> Outcome {
    match ServingStatus::try_from(response.status) {
        Ok(ServingStatus::Serving) => Outcome::Success("service healthy".into()),
        Ok(status) => failure(format!("service unhealthy (responded with \"{}\")", status.as_str_name())),
        // protobuf-go prints a number that the enum does not have as the number.
        Err(_unknown) => failure(format!("service unhealthy (responded with \"{}\")", response.status)),
    }
}

fn judge_status(status: &Status, within: GoDuration, at_deadline: bool) -> Outcome {
    match status.code() {
        Code::Unimplemented => failure(format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
            status.message()
        )),
        Code::DeadlineExceeded => rpc_timeout(within),
        // A server that keeps the deadline for us and says it in its own way.
        Code::Cancelled if at_deadline => rpc_timeout(within),
        code => {
            let (code, message) = match std::error::Error::source(status) {
                None => (code_name(code), status.message().to_owned()),
                Some(broken) => ("Unavailable", format!("error reading from server: {broken}")),
            };
            failure(format!("error: health rpc probe failed: rpc error: code = {code} desc = {message}"))
        }
    }
}

fn rpc_timeout(within: GoDuration) -> Outcome {
    failure(format!("timeout: health rpc did not complete within {within}"))
}

/// The text is partly the server's: bounded as every outcome's.
fn failure(text: String) -> Outcome {
    let mut text = text;
    text.truncate(text.floor_char_boundary(limits::HTTP_BODY_BYTES_MAX));
    Outcome::Failure(text.into())
}

/// As grpc-go's `codes.Code` prints.
const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

/// A connection whose server has sent its preface.
struct Connection {
    sender: http2::SendRequest<Body>,
    tasks: Tasks,
}

/// Why one connect came to nothing.
enum NotConnected {
    /// Try again.
    Target,
    /// Not the target's fault.
    Local(LocalCause),
}

/// Connects, however often it takes; the caller ends it at the deadline.
async fn connect(peer: SocketAddr) -> Result<Connection, LocalCause> {
    let mut wait = RETRY_FIRST;
    loop {
        match connect_once(peer).await {
            Ok(connection) => return Ok(connection),
            Err(NotConnected::Local(cause)) => return Err(cause),
            Err(NotConnected::Target) => {}
        }
        tokio::time::sleep(wait).await;
        wait = wait.mul_f64(RETRY_FACTOR).min(RETRY_MAX);
    }
}

async fn connect_once(peer: SocketAddr) -> Result<Connection, NotConnected> {
    let failed = |error: io::Error| not_connected(&error, &peer);
    let stream = TcpStream::connect(peer).await.map_err(failed)?;
    if stream.local_addr().map_err(failed)? == peer {
        // It has reached itself, not a listener (design: self-connect); Go's dialer tries again too.
        return Err(NotConnected::Target);
    }
    stream.set_nodelay(true).map_err(failed)?;

    let (preface, seen) = oneshot::channel();
    let tasks = Tasks::default();
    let (sender, driver) = http2::handshake(tasks.clone(), TokioIo::new(Preface::new(stream, preface)))
        .await
        .map_err(|_broken| NotConnected::Target)?;
    tasks.spawn(async move {
        // Its error reaches the call too.
        let _ = driver.await;
    });
    match seen.await {
        Ok(true) => Ok(Connection { sender, tasks }),
        Ok(false) | Err(_) => Err(NotConnected::Target),
    }
}

fn not_connected(error: &io::Error, peer: &SocketAddr) -> NotConnected {
    error
        .raw_os_error()
        .and_then(|errno| errno::local_cause(errno, || errno::ports_used_up(peer)))
        .map_or(NotConnected::Target, NotConnected::Local)
}

/// The tasks of one connection (hyper makes two). They hold clones of this, so dropping clones alone would
/// leave them running: the owner ends them.
#[derive(Default)]
struct Tasks {
    set: Arc<Mutex<JoinSet<()>>>,
    /// The clone that hyper keeps owns nothing.
    clone: bool,
}

impl Tasks {
    fn lock(&self) -> MutexGuard<'_, JoinSet<()>> {
        // A JoinSet is whole between two calls, whoever panicked.
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.lock().spawn(task);
    }

    /// Waits for the goodbye to be sent and the socket closed; the sender must have been dropped.
    async fn close(self) {
        let mut set = std::mem::take(&mut *self.lock());
        let all = async { while set.join_next().await.is_some() {} };
        if timeout(limits::GRPC_CLOSE_MAX, all).await.is_err() {
            set.shutdown().await;
        }
    }
}

impl Clone for Tasks {
    fn clone(&self) -> Self {
        Self { set: Arc::clone(&self.set), clone: true }
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        if !self.clone {
            self.lock().abort_all();
        }
    }
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        self.spawn(task);
    }
}

/// tonic's client over one HTTP/2 connection.
struct Sender(http2::SendRequest<Body>);

impl tower::Service<Request<Body>> for Sender {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = hyper::Result<Response<Incoming>>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        request.headers_mut().insert(header::USER_AGENT, USER_AGENT);
        Box::pin(self.0.send_request(request))
    }
}

/// Bytes of an HTTP/2 frame header (RFC 9113, 4.1).
const FRAME_HEAD_BYTES: usize = 9;
/// Type of a SETTINGS frame (RFC 9113, 6.5).
const FRAME_SETTINGS: u8 = 4;

/// A stream that tells whether the first thing to arrive is a server's preface, a SETTINGS frame (RFC 9113,
/// 3.4). Only then is a connection one to grpc-go; hyper does not say.
struct Preface {
    stream: TcpStream,
    head: [u8; FRAME_HEAD_BYTES],
    len: usize,
    seen: Option<oneshot::Sender<bool>>,
}

impl Preface {
    fn new(stream: TcpStream, seen: oneshot::Sender<bool>) -> Self {
        Self { stream, head: [0; FRAME_HEAD_BYTES], len: 0, seen: Some(seen) }
    }

    fn look(&mut self, new: &[u8]) {
        let take = new.len().min(FRAME_HEAD_BYTES - self.len);
        self.head[self.len..self.len + take].copy_from_slice(&new[..take]);
        self.len += take;
        if self.len == FRAME_HEAD_BYTES
            && let Some(seen) = self.seen.take()
        {
            let settings = self.head[3] == FRAME_SETTINGS && self.head[5..] == [0; 4];
            // Nobody waits any more: the attempt is over.
            let _ = seen.send(settings);
        }
    }
}

impl AsyncRead for Preface {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if self.seen.is_some() {
            self.look(&buf.filled()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Preface {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests;
