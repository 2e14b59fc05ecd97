//! `grpc`: one unary `grpc.health.v1.Health/Check` over plaintext HTTP/2 (`pkg/probe/grpc/grpc.go`).
//!
//! Everything that goes wrong is a failure, never an error. One deadline covers connecting and the call, and
//! connecting is tried again until then, as grpc-go's blocking dial does: so a closed port takes the whole
//! timeout and reports a timeout.
//!
//! Invariant: when an attempt's future ends or is dropped, its connection ends; no task is left to drive one.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::{HeaderValue, Request, Uri, header};
use hyper::body::Bytes;
use probe_core::outcome::{LocalCause, Outcome};
use probe_core::time::Instant;
use prost::Message;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::duration::GoDuration;
use super::{Attempted, Phases, errno};
use crate::{clock, limits};

mod call;

use call::{Broken, Seen};

/// What is called.
const CHECK_PATH: &str = "/grpc.health.v1.Health/Check";

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

/// Turns of the runtime that an answer gets at its deadline: one to look at the sockets, one to spare.
const LAST_LOOKS: usize = 2;

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
    let seen = Arc::new(Seen::default());
    let answer = by(deadline, ask(target, service, deadline, &seen)).await;
    let answered = clock::now();
    let connected = seen.preface_at();
    phases.connect = connected.map(|connected| connected - started);
    let first_byte = connected.map(|connected| answered - connected);

    match answer {
        Some(Ok(response)) => {
            phases.first_byte = first_byte;
            judge_response(response)
        }
        Some(Err(Unanswered::Local(cause))) => Outcome::Local(cause),
        Some(Err(Unanswered::Authority(error))) => {
            failure(format!("error: failed to connect service at \"{}\": {error}", target.shown))
        }
        Some(Err(Unanswered::Status(status))) => {
            phases.first_byte = first_byte;
            judge_status(&status, within, answered + SERVER_DEADLINE_SLACK >= deadline)
        }
        Some(Err(Unanswered::Broken(error))) => {
            let words = Broken::words(&error);
            rpc_failed("Unavailable", &format!("error reading from server: {words}"))
        }
        None if connected.is_some() => rpc_timeout(within),
        None => failure(format!(
            "timeout: failed to connect service \"{}\" within {within}: context deadline exceeded",
            target.shown
        )),
    }
}

/// What `answer` is by `deadline`. A thread that was held up finds its timers and its sockets ready together: what is
/// there gets to be taken in before that is too late.
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
        code => rpc_failed(code_name(code), status.message()),
    }
}

fn rpc_failed(code: &str, message: &str) -> Outcome {
    failure(format!("error: health rpc probe failed: rpc error: code = {code} desc = {message}"))
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

/// Why there was no answer before the deadline.
enum Unanswered {
    /// Not the target's fault.
    Local(LocalCause),
    /// The address cannot be named in a request.
    Authority(http::Error),
    /// The server said so.
    Status(Status),
    /// The connection broke under the call.
    Broken(h2::Error),
}

/// Connects, however often it takes, and makes the call; the caller ends it at the deadline.
async fn ask(
    target: &Target,
    service: &str,
    deadline: Instant,
    seen: &Arc<Seen>,
) -> Result<HealthCheckResponse, Unanswered> {
    let mut wait = RETRY_FIRST;
    loop {
        match connect_once(target.peer).await {
            Ok(stream) => {
                seen.forget();
                let request = request(&target.authority, deadline).map_err(Unanswered::Authority)?;
                match call::call(stream, request, message(service), seen).await {
                    Ok(response) => return Ok(response),
                    Err(Broken::Status(status)) => return Err(Unanswered::Status(status)),
                    Err(Broken::Call(error)) => return Err(Unanswered::Broken(error)),
                    Err(Broken::NotConnected) => seen.forget(),
                }
            }
            Err(NotConnected::Local(cause)) => return Err(Unanswered::Local(cause)),
            Err(NotConnected::Target) => {}
        }
        tokio::time::sleep(wait).await;
        wait = wait.mul_f64(RETRY_FACTOR).min(RETRY_MAX);
    }
}

/// Why one connect came to nothing.
enum NotConnected {
    /// Try again.
    Target,
    /// Not the target's fault.
    Local(LocalCause),
}

async fn connect_once(peer: SocketAddr) -> Result<TcpStream, NotConnected> {
    let failed = |error: io::Error| not_connected(&error, &peer);
    let stream = TcpStream::connect(peer).await.map_err(failed)?;
    if stream.local_addr().map_err(failed)? == peer {
        // It has reached itself, not a listener (design: self-connect); Go's dialer tries again too.
        return Err(NotConnected::Target);
    }
    stream.set_nodelay(true).map_err(failed)?;
    Ok(stream)
}

fn not_connected(error: &io::Error, peer: &SocketAddr) -> NotConnected {
    error
        .raw_os_error()
        .and_then(|errno| errno::local_cause(errno, || errno::ports_used_up(peer)))
        .map_or(NotConnected::Target, NotConnected::Local)
}

/// The head of the request (gRPC over HTTP/2, `Request-Headers`).
fn request(authority: &str, deadline: Instant) -> Result<Request<()>, http::Error> {
    let uri = Uri::builder().scheme("http").authority(authority).path_and_query(CHECK_PATH).build()?;
    Request::post(uri)
        .version(http::Version::HTTP_2)
        .header(header::TE, "trailers")
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::USER_AGENT, USER_AGENT)
        .header("grpc-timeout", grpc_timeout(clock::until(deadline)))
        .body(())
}

/// `grpc-timeout`: at most eight digits and a unit.
fn grpc_timeout(left: Duration) -> String {
    let micros = left.as_micros();
    if micros < 100_000_000 { format!("{micros}u") } else { format!("{}m", left.as_millis()) }
}

/// The health request for `service`, with its length before it.
fn message(service: &str) -> Bytes {
    let request = HealthCheckRequest { service: service.to_owned() };
    let len = request.encoded_len();
    let mut bytes = Vec::with_capacity(call::MESSAGE_HEAD_BYTES + len);
    // Not compressed.
    bytes.push(0);
    // A service's name is a part of a manifest, which is far smaller than 4 GiB.
    bytes.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(&request.encode_to_vec());
    bytes.into()
}

#[cfg(test)]
mod tests;
