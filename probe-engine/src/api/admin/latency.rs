//! `/api/v1/latency` and `/api/v1/latency.hlog`: what is asked for in the query, and the answer.

use std::borrow::Cow;

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use url::form_urlencoded;

use super::{Admin, scrape};
use crate::consumer::metrics::PodLatencyError;
use crate::results::latency::Window;

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Query {
    window: Option<Window>,
    /// Namespace and name.
    pod: Option<(String, String)>,
}

/// A query that means nothing, as it is answered with 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum QueryError {
    #[error("window: {0:?} is none of 1m, 5m, 1h, 24h, start")]
    Window(String),
    #[error("pod: {0:?} is no NAMESPACE/NAME")]
    Pod(String),
    #[error("{0}: unknown; this page knows window and pod")]
    Unknown(String),
    #[error("pod: the log is of the node; /api/v1/latency?pod=NAMESPACE/NAME has those of a pod")]
    PodOfLog,
    #[error("pod: those of single pods are told on the dashboard's address (--dashboard-listen)")]
    PodElsewhere,
}

impl Query {
    fn read(query: &str) -> Result<Self, QueryError> {
        let mut read = Self::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "window" => {
                    let window = Window::parse(&value).ok_or_else(|| QueryError::Window(value.into_owned()))?;
                    read.window = Some(window);
                }
                "pod" => read.pod = Some(pod(value)?),
                _ => return Err(QueryError::Unknown(format!("{key:?}"))),
            }
        }
        Ok(read)
    }
}

fn pod(value: Cow<'_, str>) -> Result<(String, String), QueryError> {
    let parts = value
        .split_once('/')
        .filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty() && !name.contains('/'));
    match parts {
        Some((namespace, name)) => Ok((namespace.to_owned(), name.to_owned())),
        None => Err(QueryError::Pod(value.into_owned())),
    }
}

/// `/api/v1/latency`
pub(super) async fn page(State(admin): State<Admin>, uri: Uri) -> Response {
    match Query::read(uri.query().unwrap_or_default()) {
        Ok(query) => answer(&admin, query).await,
        Err(error) => refused(&error),
    }
}

/// The same where no pod can be looked at.
pub(super) async fn node_page(State(admin): State<Admin>, uri: Uri) -> Response {
    match Query::read(uri.query().unwrap_or_default()) {
        Ok(Query { pod: Some(_), .. }) => refused(&QueryError::PodElsewhere),
        Ok(query) => answer(&admin, query).await,
        Err(error) => refused(&error),
    }
}

async fn answer(admin: &Admin, query: Query) -> Response {
    let Query { window, pod } = query;
    let window_or_start = window.unwrap_or(Window::Start);
    let mut unknown = None;
    let json = async {
        if let Some((namespace, name)) = pod {
            return match admin.metrics.pod_latency(&namespace, &name, window_or_start).await {
                Ok(latency) => Ok(json_of(&latency)),
                Err(PodLatencyError::Results(error)) => Err(error),
                Err(error) => {
                    unknown = Some(error.to_string());
                    Ok(Vec::new())
                }
            };
        }
        match window {
            Some(window) => Ok(json_of(&admin.metrics.window_latency(window).await?)),
            None => Ok(json_of(&admin.metrics.latency().await?)),
        }
    };
    let answer = scrape(admin, "application/json", json).await;
    unknown.map_or(answer, |error| (StatusCode::NOT_FOUND, format!("{error}\n")).into_response())
}

/// `/api/v1/latency.hlog`
pub(super) async fn log(State(admin): State<Admin>, uri: Uri) -> Response {
    match Query::read(uri.query().unwrap_or_default()) {
        Ok(Query { pod: Some(_), .. }) => refused(&QueryError::PodOfLog),
        Ok(Query { window, .. }) => {
            let log = admin.metrics.latency_log(window.unwrap_or(Window::Start));
            scrape(&admin, "text/plain; charset=utf-8", log).await
        }
        Err(error) => refused(&error),
    }
}

fn json_of(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("numbers and texts under names are always JSON")
}

fn refused(error: &QueryError) -> Response {
    (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_or_refused_with_what_is_allowed() {
        assert_eq!(Query::read(""), Ok(Query::default()));
        let pod = Some(("ns".to_owned(), "web-1".to_owned()));
        assert_eq!(Query::read("window=5m&pod=ns%2Fweb-1"), Ok(Query { window: Some(Window::FiveMinutes), pod }));
        for (query, error) in [
            ("window=2m", "window: \"2m\" is none of 1m, 5m, 1h, 24h, start"),
            ("pod=web", "pod: \"web\" is no NAMESPACE/NAME"),
            ("pod=/web", "pod: \"/web\" is no NAMESPACE/NAME"),
            ("pod=a/b/c%0a", "pod: \"a/b/c\\n\" is no NAMESPACE/NAME"),
            ("windows=1m", "\"windows\": unknown; this page knows window and pod"),
        ] {
            assert_eq!(Query::read(query).map_err(|error| error.to_string()), Err(error.to_owned()));
        }
    }
}
