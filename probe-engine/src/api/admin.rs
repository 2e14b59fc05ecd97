//! The admin HTTP server: `/metrics`, `/metrics/probes`, `/api/v1/latency`, `/api/v1/latency.hlog`, `/livez`, `/readyz`,
//! `/healthz`. GET only; the one thing that a request changes is that a pod whose latency is looked at is watched. The
//! dashboard's paths come beside them where both are on one address ([`super::dashboard`]).
//!
//! Bounds: [`limits::ADMIN_CONNECTIONS_MAX`] connections, [`limits::ADMIN_REQUESTS_CONCURRENT_MAX`] pages being written or read
//! (`page`), [`limits::ADMIN_HEAD_BYTES_MAX`] of head, [`limits::ADMIN_READ_TIMEOUT`] to read it; bodies are not read. An answer that
//! nobody reads ends its connection after [`limits::ADMIN_UNREAD_MAX`].
//!
//! **Invariant:** `/livez` asks no stage, so it answers whatever is stuck.

pub mod health;
mod latency;
pub(in crate::api) mod page;
pub mod supervise;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tower::ServiceExt;
use tracing::{debug, info};

use self::health::{Check, Health};
use self::page::Sending;
use crate::consumer::metrics::{Format, Metrics};
use crate::results::ResultsError;
use crate::{limits, shutdown};

/// Why the admin server could not start.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address is another program's.
    #[error(
        "{flag} {address}: another program listens there (`ss -ltnp 'sport = :{}'` names it; is a second \
         probe-engine running?); choose another address, or `off`: {source}", .address.port()
    )]
    Taken {
        /// Whose address it is to be.
        flag: &'static str,
        /// As configured.
        address: SocketAddr,
        /// EADDRINUSE
        source: io::Error,
    },
    /// Anything else.
    #[error("{flag} {address}: cannot listen: {source}{}", remedy(.source))]
    Listen {
        /// Whose address it is to be.
        flag: &'static str,
        /// As configured.
        address: SocketAddr,
        /// Its errno.
        source: io::Error,
    },
}

/// What the paths answer from.
#[derive(Clone)]
pub struct Admin {
    metrics: Metrics,
    health: Health,
    scrapes: Arc<Semaphore>,
}

impl Admin {
    /// Answers from these two.
    #[must_use]
    pub fn new(metrics: Metrics, health: Health) -> Self {
        Self { metrics, health, scrapes: Arc::new(Semaphore::new(limits::ADMIN_REQUESTS_CONCURRENT_MAX)) }
    }

    /// Metrics and health, and what all other paths are answered with.
    pub fn routes(&self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .route("/metrics/probes", get(metrics_probes))
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .route("/healthz", get(healthz))
            .fallback(not_found)
            .with_state(self.clone())
    }

    /// Latency of the node and of single pods: with the dashboard. Who looks at a pod watches it.
    pub fn latency_routes(&self) -> Router {
        self.latency_with(get(latency::page))
    }

    /// Latency of the node alone: with metrics that are elsewhere than the dashboard.
    pub fn node_latency_routes(&self) -> Router {
        self.latency_with(get(latency::node_page))
    }

    fn latency_with(&self, page: MethodRouter<Admin>) -> Router {
        let latency = Router::new().route("/api/v1/latency", page);
        latency.route("/api/v1/latency.hlog", get(latency::log)).with_state(self.clone())
    }
}

/// Takes the address (port 0 = any free one) that `flag` names.
pub async fn bind(flag: &'static str, address: SocketAddr) -> Result<TcpListener, AdminError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => AdminError::Taken { flag, address, source },
        _ => AdminError::Listen { flag, address, source },
    })
}

/// Serves until `shutdown` turns true (or its sender goes), then lets requests end within
/// [`limits::ADMIN_DRAIN`].
pub async fn serve(listener: TcpListener, router: Router, mut shutdown: watch::Receiver<bool>) {
    if let Ok(address) = listener.local_addr() {
        info!(%address, "admin server listens");
    }
    let stopping = shutdown.clone();
    let places = Arc::new(Semaphore::new(limits::ADMIN_CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        tokio::select! {
            (place, accepted) = accepted => match accepted {
                Ok((stream, _)) => {
                    let connection = connection(stream, router.clone(), stopping.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    debug!(%error, "accept");
                    tokio::time::sleep(limits::LOCAL_BACKOFF_MIN).await;
                }
            },
            Some(_) = connections.join_next() => {}
            () = shutdown::told(&mut shutdown) => break,
        }
    }
    drop(listener);
    // Every connection has its own limit for the drain.
    while connections.join_next().await.is_some() {}
}

/// A client that has stopped reading would keep its place for ever: its kernel goes on answering, and hyper waits for room to write.
fn limit_unread(stream: &TcpStream) {
    if let Err(error) = SockRef::from(stream).set_tcp_user_timeout(Some(limits::ADMIN_UNREAD_MAX)) {
        debug!(%error, "admin connection: TCP_USER_TIMEOUT");
    }
}

async fn connection(stream: TcpStream, router: Router, mut shutdown: watch::Receiver<bool>) {
    limit_unread(&stream);
    let (sending, pages) = watch::channel(None);
    let service = service_fn(move |request: Request<Incoming>| {
        let (router, sending) = (router.clone(), sending.clone());
        async move {
            let mut response = router.oneshot(request.map(Body::new)).await.into_response();
            if let Some(page) = response.extensions_mut().remove::<Sending>() {
                sending.send_replace(Some(page));
            }
            Ok::<Response, Infallible>(response)
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::ADMIN_READ_TIMEOUT)
        .max_header_size(limits::ADMIN_HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = pin!(serving);
    tokio::select! {
        ended = serving.as_mut() => {
            ended.unwrap_or_else(|error| debug!(%error, "admin connection"));
            return;
        }
        () = page::unread(pages) => {
            debug!("admin connection closed: its client had not read a page in time");
            return;
        }
        () = shutdown::told(&mut shutdown) => {}
    }
    serving.as_mut().graceful_shutdown();
    if timeout(limits::ADMIN_DRAIN, serving).await.is_err() {
        debug!("admin connection closed before its request ended");
    }
}

async fn metrics(State(admin): State<Admin>, headers: HeaderMap) -> Response {
    let format = accepted(&headers);
    scrape(&admin, format.content_type(), admin.metrics.all_as(format)).await
}

async fn metrics_probes(State(admin): State<Admin>, headers: HeaderMap) -> Response {
    let format = accepted(&headers);
    scrape(&admin, format.content_type(), admin.metrics.probes_as(format)).await
}

fn accepted(headers: &HeaderMap) -> Format {
    Format::accepted(headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default())
}

async fn scrape(
    admin: &Admin,
    content_type: &'static str,
    text: impl Future<Output = Result<Vec<u8>, ResultsError>>,
) -> Response {
    let written = async {
        let place = Arc::clone(&admin.scrapes).acquire_owned().await.expect("it is never closed");
        text.await.map(|text| page::body(text, place))
    };
    match timeout(limits::ADMIN_ANSWER_TIMEOUT, written).await {
        Ok(Ok(page)) => ([(header::CONTENT_TYPE, content_type)], page).into_response(),
        Ok(Err(error)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, page::NOT_IN_TIME).into_response(),
    }
}

async fn livez(State(admin): State<Admin>) -> Response {
    answer("livez", &admin.health.live())
}

async fn readyz(State(admin): State<Admin>) -> Response {
    answer("readyz", &admin.health.ready().await)
}

async fn healthz(State(admin): State<Admin>) -> Response {
    let mut checks = admin.health.live();
    checks.extend(admin.health.ready().await);
    answer("healthz", &checks)
}

async fn not_found() -> Response {
    (
        StatusCode::NOT_FOUND,
        "paths: /metrics /metrics/probes /api/v1/latency /api/v1/latency.hlog /livez /readyz /healthz\n",
    )
        .into_response()
}

/// As the API server's `?verbose` answers: one line per check, then the sum; 500 where one failed.
fn answer(name: &str, checks: &[Check]) -> Response {
    let passed = checks.iter().all(|check| check.failure.is_none());
    let mut text: String = checks.iter().map(|check| format!("{check}\n")).collect();
    text.push_str(name);
    text.push_str(if passed { " check passed\n" } else { " check failed\n" });
    let status = if passed { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-store")];
    (status, headers, text).into_response()
}

fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrNotAvailable => " (no interface of this host has that address)",
        io::ErrorKind::PermissionDenied => " (ports below 1024 need CAP_NET_BIND_SERVICE)",
        _ => "",
    }
}

#[cfg(test)]
mod tests;
