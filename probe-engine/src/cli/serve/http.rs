//! `serve http` and `serve https`, and the control path of all servers.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, LOCATION};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::door::Door;
use super::health::{Health, State};
use super::{HttpArgs, ServeError};

/// How long /slow takes if it is not asked for another time.
const SLOW: Duration = Duration::from_secs(10);

/// How long a visitor may take for a TLS handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// What all connections of a server share.
struct Site {
    args: HttpArgs,
    health: Health,
}

pub(super) async fn serve(
    args: &HttpArgs,
    door: Door,
    health: Health,
    tls: Option<TlsAcceptor>,
) -> Result<(), ServeError> {
    let site = Arc::new(Site { args: args.clone(), health: health.clone() });
    door.attend(&health, args.common.listens(), |guest| {
        let (site, tls) = (Arc::clone(&site), tls.clone());
        tokio::spawn(async move {
            match tls {
                None => converse(guest, &site).await,
                Some(tls) => {
                    if let Ok(Ok(guest)) = timeout(HANDSHAKE_MAX, tls.accept(guest)).await {
                        converse(guest, &site).await;
                    }
                }
            }
        });
    })
    .await
}

/// The control path alone, for servers that do not speak HTTP. Listens from the start.
pub(super) async fn control(door: Door, health: Health) -> Result<(), ServeError> {
    door.attend(
        &health,
        |_| true,
        |guest| {
            let health = health.clone();
            tokio::spawn(async move {
                let service = service_fn(|request: Request<Incoming>| {
                    let answer = match request.uri().path() {
                        "/control" => steer(&request, &health),
                        _ => plain(StatusCode::NOT_FOUND, "only /control is here\n"),
                    };
                    async { Ok::<_, Infallible>(answer) }
                });
                let _ = connection().serve_connection(TokioIo::new(guest), service).await;
            });
        },
    )
    .await
}

/// A TLS acceptor with a new self-signed certificate for the local host.
pub(super) fn acceptor() -> Result<TlsAcceptor, ServeError> {
    let failed = |error: &dyn std::fmt::Display| ServeError::Certificate(error.to_string());
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let made = rcgen::generate_simple_self_signed(names).map_err(|error| failed(&error))?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key))
        .map_err(|error| failed(&error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn connection() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new());
    builder
}

async fn converse(guest: impl AsyncRead + AsyncWrite + Unpin, site: &Site) {
    let service = service_fn(|request| async move { Ok::<_, Infallible>(site.answer(&request).await) });
    // A visitor that leaves early is no news.
    let _ = connection().serve_connection(TokioIo::new(guest), service).await;
}

impl Site {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        let path = request.uri().path();
        if path == "/control" {
            return steer(request, &self.health);
        }
        if !self.args.delay.is_zero() {
            // Even a sleep of nothing lasts until the timer's next millisecond.
            sleep(self.args.delay).await;
        }
        let state = self.health.state();
        if !state.started {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "starting\n");
        }
        if let Some(url) = &self.args.redirect {
            return redirect(url);
        }
        match path {
            "/healthz" if !state.healthy => plain(StatusCode::SERVICE_UNAVAILABLE, "not healthy\n"),
            "/readyz" if !state.is_ready() => plain(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
            "/redirect" => redirect(&parameter(request, "to").unwrap_or_else(|| "/".to_owned())),
            "/slow" => {
                let time = parameter(request, "for").map_or(Ok(SLOW), |text| super::duration(&text));
                match time {
                    Ok(time) => {
                        sleep(time).await;
                        self.good()
                    }
                    Err(error) => plain(StatusCode::BAD_REQUEST, format!("for: {error}\n")),
                }
            }
            _ => self.good(),
        }
    }

    fn good(&self) -> Response<Body> {
        let status = StatusCode::from_u16(self.args.status).unwrap_or(StatusCode::OK);
        plain(status, self.args.body.clone())
    }
}

/// `POST /control?healthy=false` changes, `GET /control` shows.
fn steer(request: &Request<Incoming>, health: &Health) -> Response<Body> {
    let result = match *request.method() {
        Method::GET => Ok(health.state()),
        Method::POST => health.control(request.uri().query().unwrap_or_default()),
        _ => {
            let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "GET or POST\n");
            answer.headers_mut().insert(ALLOW, "GET, POST".parse().expect("a valid header value"));
            return answer;
        }
    };
    match result {
        Ok(State { started, healthy, ready, .. }) => {
            plain(StatusCode::OK, format!("started={started} healthy={healthy} ready={ready}\n"))
        }
        Err(error) => plain(StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}

fn parameter(request: &Request<Incoming>, name: &str) -> Option<String> {
    let query = request.uri().query()?;
    let mut pairs = url::form_urlencoded::parse(query.as_bytes());
    pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

fn redirect(url: &str) -> Response<Body> {
    match url.parse() {
        Ok(location) => {
            let mut answer = plain(StatusCode::FOUND, "elsewhere\n");
            answer.headers_mut().insert(LOCATION, location);
            answer
        }
        Err(_) => plain(StatusCode::BAD_REQUEST, "to: not a header value\n"),
    }
}

fn plain(status: StatusCode, body: impl Into<Body>) -> Response<Body> {
    let mut answer = Response::new(body.into());
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, "text/plain; charset=utf-8".parse().expect("a valid header value"));
    answer
}
