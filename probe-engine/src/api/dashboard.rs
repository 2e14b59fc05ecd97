//! The dashboard: one page, its files, and what it is filled from. GET only, no state of anybody who looks.
//!
//! | Path | Is |
//! |---|---|
//! | `/`, `/pods/NAMESPACE/NAME` | the page |
//! | `/assets/..` | its files |
//! | `/api/v1/overview` | the node at a glance |
//! | `/api/v1/heatmap` | latency over the last minutes |
//! | `/api/v1/events/stream` | server-sent events: two frames a second |
//! | `/api/v1/pods`, `/api/v1/pods?uid=..` | the rows of the table, of all pods or of these |
//! | `/api/v1/pods/NAMESPACE/NAME` | one pod, like `describe`, with its timeline |
//!
//! It asks nobody who they are, so it is served on loopback only, and `guard` keeps other sites' pages from reaching it
//! through a browser. Not told: environment, arguments, annotations, values of request headers.
//!
//! Bounds: those of the admin server, and `limits::DASHBOARD_*`.

mod assets;
mod guard;
mod listen;
mod pod;
mod stream;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use probe_core::id::PodUid;
use serde::Serialize;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

pub use self::listen::Listeners;
use super::admin::page;
use crate::consumer::board::Board;
use crate::consumer::events::EventsHandle;
use crate::ebpf::PassiveSettings;
use crate::limits;
use crate::results::ResultsHandle;

/// What the paths answer from.
#[derive(Clone)]
pub struct Dashboard {
    board: Board,
    results: ResultsHandle,
    events: EventsHandle,
    passive: Option<Arc<PassiveSettings>>,
    streams: Arc<Semaphore>,
    tables: Arc<Semaphore>,
    shutdown: watch::Receiver<bool>,
}

impl Dashboard {
    /// `passive`: the operator's settings where the kernel program is there. Streams end when `shutdown` turns true.
    #[must_use]
    pub fn new(
        board: Board,
        results: ResultsHandle,
        events: EventsHandle,
        passive: Option<Arc<PassiveSettings>>,
        shutdown: watch::Receiver<bool>,
    ) -> Self {
        Self {
            board,
            results,
            events,
            passive,
            streams: Arc::new(Semaphore::new(limits::DASHBOARD_STREAMS_MAX)),
            tables: Arc::new(Semaphore::new(limits::DASHBOARD_TABLES_CONCURRENT_MAX)),
            shutdown,
        }
    }

    /// Its paths and `others`, guarded: what is served beside the page is as open to other sites as it is.
    pub fn routes_with(self, others: Router) -> Router {
        self.routes().merge(others).layer(from_fn(guard::guard))
    }

    fn routes(self) -> Router {
        Router::new()
            .route("/", get(assets::page))
            .route("/pods/{namespace}/{name}", get(assets::page))
            .route("/assets/{file}", get(assets::file))
            .route("/api/v1/overview", get(overview))
            .route("/api/v1/heatmap", get(heatmap))
            .route("/api/v1/events/stream", get(stream::stream))
            .route("/api/v1/pods", get(pods))
            .route("/api/v1/pods/{namespace}/{name}", get(one_pod))
            .with_state(self)
    }
}

async fn overview(State(dashboard): State<Dashboard>) -> Response {
    json(&*dashboard.board.overview())
}

async fn heatmap(State(dashboard): State<Dashboard>) -> Response {
    json(&dashboard.board.heatmap())
}

/// All rows, or with `?uid=A&uid=B` those of these pods.
async fn pods(State(dashboard): State<Dashboard>, RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    let mut uids: Vec<PodUid> = Vec::new();
    for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
        if key != "uid" {
            return (StatusCode::BAD_REQUEST, format!("{key:?}: unknown; this page knows uid\n")).into_response();
        }
        uids.push(PodUid::from(&*value));
    }
    let (len, max) = (uids.len(), limits::DASHBOARD_ROWS_ASKED_MAX);
    if len > max {
        return (StatusCode::BAD_REQUEST, format!("uid: {len} of them; at most {max} at once\n")).into_response();
    }
    let answer = async {
        if !uids.is_empty() {
            return dashboard.board.rows(uids).await.map(|rows| json(&rows));
        }
        let place = Arc::clone(&dashboard.tables).acquire_owned().await.expect("it is never closed");
        dashboard.board.table().await.map(|table| json_of(page::body(text_of(&table), place)))
    };
    in_time(answer).await
}

async fn one_pod(State(dashboard): State<Dashboard>, Path((namespace, name)): Path<(String, String)>) -> Response {
    let answer = async {
        let found = pod::read(&dashboard.results, &dashboard.events, dashboard.passive.as_deref(), &namespace, &name);
        let missing = || {
            let text = format!("there is no pod {name:?} in namespace {namespace:?}\n");
            (StatusCode::NOT_FOUND, text).into_response()
        };
        found.await.map(|pod| pod.map_or_else(missing, |pod| json(&pod)))
    };
    in_time(answer).await
}

async fn in_time(answer: impl Future<Output = Result<Response, impl std::fmt::Display>>) -> Response {
    match timeout(limits::ADMIN_ANSWER_TIMEOUT, answer).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, page::NOT_IN_TIME).into_response(),
    }
}

fn json(value: &impl Serialize) -> Response {
    json_of(text_of(value))
}

fn json_of(body: impl IntoResponse) -> Response {
    ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], body).into_response()
}

fn text_of(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("numbers and texts under names are always JSON")
}

#[cfg(test)]
mod tests;
