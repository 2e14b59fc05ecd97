use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::Request;
use probe_core::id::ProbeType;
use probe_core::outcome::{Outcome, Verdict};
use probe_core::spec::{ContainerKind, Handler, HttpGet, HttpHeader, Port, Scheme};
use serde_json::Value;
use tokio_stream::StreamExt;
use tower::ServiceExt;

use super::*;
use crate::consumer::events::{self, EventSender};
use crate::consumer::overview::Overview;
use crate::results::fixture::{Bench, SOON, container, pod, publish, report, running, simple_pod};

/// The dashboard over a running results stage; overviews come when a test sends them.
struct Site {
    bench: Bench,
    events: EventSender,
    dashboard: Dashboard,
    overviews: watch::Sender<Arc<Overview>>,
    stop: watch::Sender<bool>,
}

impl Site {
    fn start() -> Self {
        let bench = Bench::start(16, 16);
        let (events_in, events, inbox) = events::channel();
        tokio::spawn(events::run(inbox));
        let (overviews, newest) = watch::channel(Arc::default());
        let board = Board::new(bench.results.clone(), newest, watch::channel(Arc::from([])).1);
        let (stop, stopping) = watch::channel(false);
        tokio::spawn(board.clone().run(stopping.clone()));
        let dashboard = Dashboard::new(board, bench.results.clone(), events, None, stopping);
        Self { bench, events: events_in, dashboard, overviews, stop }
    }

    async fn ask(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        let mut request = Request::builder().uri(path);
        for (name, value) in [("host", "127.0.0.1:9750")].iter().chain(headers) {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).expect("a request");
        let asked = self.dashboard.clone().routes_with(Router::new()).oneshot(request);
        timeout(SOON, asked).await.expect("in time").expect("infallible")
    }

    async fn text(&self, path: &str) -> (u16, String) {
        let response = self.ask(path, &[]).await;
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), usize::MAX).await.expect("a body");
        (status, String::from_utf8(body.into()).expect("text"))
    }

    async fn json(&self, path: &str) -> Value {
        let (status, text) = self.text(path).await;
        assert_eq!(status, 200, "{path}: {text}");
        serde_json::from_str(&text).expect("JSON")
    }
}

#[tokio::test]
async fn the_page_is_the_same_for_every_pod_and_every_answer_has_its_headers() {
    let site = Site::start();
    let page = site.text("/").await;
    assert!(page.0 == 200 && page.1.contains("<!doctype html>"), "{}", page.1);
    assert_eq!(site.text("/pods/default/nobody").await, page);
    for path in ["/", "/api/v1/overview", "/assets/nothing.js"] {
        let response = site.ask(path, &[]).await;
        let header =
            |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let policy = header("content-security-policy");
        assert!(policy.contains("default-src 'none'; script-src 'self'; style-src 'self'"), "{path}: {policy}");
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(header("cross-origin-resource-policy"), "same-origin", "{path}");
        assert_eq!(header("referrer-policy"), "no-referrer", "{path}");
    }
}

#[tokio::test]
async fn a_name_that_another_site_lets_point_here_is_refused() {
    let site = Site::start();
    for path in ["/", "/api/v1/pods", "/api/v1/events/stream"] {
        let mut request = Request::builder().uri(path).header("host", "rebind.example:9750");
        for refused in [true, false] {
            let asked = site
                .dashboard
                .clone()
                .routes_with(Router::new())
                .oneshot(request.body(Body::empty()).expect("a request"));
            let status = asked.await.expect("infallible").status();
            assert_eq!(status == StatusCode::FORBIDDEN, refused, "{path}");
            request = Request::builder().uri(path).header("host", "localhost");
        }
    }
    let beside = Router::new().route("/metrics", axum::routing::get(async || "names"));
    let request = Request::builder().uri("/metrics").header("host", "rebind.example:9750").body(Body::empty());
    let asked = site.dashboard.clone().routes_with(beside).oneshot(request.expect("a request")).await;
    assert_eq!(asked.expect("infallible").status(), StatusCode::FORBIDDEN, "nor what is served beside the page");
    let of_script = site.ask("/api/v1/pods", &[("sec-fetch-site", "cross-site")]).await;
    assert_eq!(of_script.status(), StatusCode::FORBIDDEN);
    assert_eq!(site.ask("/", &[("sec-fetch-site", "cross-site")]).await.status(), StatusCode::OK, "a link");
}

#[tokio::test]
async fn a_file_that_a_browser_has_is_not_sent_again() {
    let site = Site::start();
    let first = site.ask("/assets/app.js", &[]).await;
    let tag = first.headers()[header::ETAG].to_str().expect("text").to_owned();
    assert_eq!(first.headers()[header::CONTENT_TYPE], "text/javascript; charset=utf-8");
    let again = site.ask("/assets/app.js", &[("if-none-match", &tag)]).await;
    assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
    assert_eq!(site.ask("/assets/app.js", &[("if-none-match", "\"other\"")]).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn only_get_is_answered() {
    let site = Site::start();
    for path in ["/", "/api/v1/pods", "/api/v1/pods/default/web"] {
        let request = Request::post(path).header("host", "localhost").body(Body::empty()).expect("a request");
        let response = site.dashboard.clone().routes_with(Router::new()).oneshot(request).await.expect("infallible");
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
    }
}

#[tokio::test]
async fn the_table_and_the_rows_of_some_pods_are_given() {
    let site = Site::start();
    for name in ["a", "b"] {
        site.bench.add(&simple_pod(name, &[ProbeType::Readiness]), None).await;
    }
    let table = site.json("/api/v1/pods").await;
    assert_eq!((table["rows"].as_array().map(Vec::len), &table["podsCount"]), (Some(2), &2.into()));
    assert_eq!(table["columns"][2], "name");
    let rows = site.json("/api/v1/pods?uid=b&uid=nobody").await;
    assert_eq!((rows.as_array().map(Vec::len), &rows[0][2]), (Some(1), &"b".into()));
}

#[tokio::test]
async fn a_pod_is_told_with_its_events_and_its_timeline_and_without_secrets() {
    let mut site = Site::start();
    let mut of = container("web", ContainerKind::Regular, &[ProbeType::Readiness]);
    let spec = Arc::make_mut(of.probes.readiness.as_mut().expect("it has one"));
    spec.handler = Handler::HttpGet(HttpGet {
        host: None,
        port: Port::Number(80),
        path: "/healthz".into(),
        scheme: Scheme::Http,
        headers: [HttpHeader { name: "Authorization".into(), value: "Bearer hunter2".into() }].into(),
    });
    let of = pod("a", "web", [probe_core::spec::Container { name: "c".into(), ..of }]);
    site.bench.add(&of, Some(running(&of, "fake://1"))).await;
    site.bench.push(publish("a", ProbeType::Readiness, "fake://1", Some(Verdict::Success)));
    site.bench.push(report("a", ProbeType::Readiness, Outcome::Failure("<script>alert(1)</script>".into())));
    let told = site.bench.event().await;
    site.events.send(told).await.expect("the stage runs");
    let pod = site.json("/api/v1/pods/default/web").await;
    let probe = &pod["containers"][0]["probes"][0];
    assert_eq!((&probe["target"], &probe["handler"]), (&":80/healthz".into(), &"http".into()));
    assert_eq!(probe["lastMessage"], "<script>alert(1)</script>");
    assert_eq!(pod["events"][0]["message"], "Readiness probe failed: <script>alert(1)</script>");
    let changes = pod["timeline"]["changes"].as_array().expect("changes");
    assert!(changes.iter().any(|change| change["probeType"] == "Readiness" && change["verdict"] == "Success"), "{pod}");
    assert!(changes.iter().any(|change| change["ready"] == true), "{pod}");
    assert!(!pod.to_string().contains("hunter2") && !site.json("/api/v1/pods").await.to_string().contains("hunter2"));
    let (status, text) = site.text("/api/v1/pods/default/nobody").await;
    assert!(status == 404 && text.contains("there is no pod \"nobody\""), "{text}");
}

#[tokio::test]
async fn a_stream_brings_frames_and_ends_with_the_daemon() {
    let site = Site::start();
    let response = site.ask("/api/v1/events/stream", &[]).await;
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
    let mut parts = response.into_body().into_data_stream();
    let mut next = async || timeout(SOON, parts.next()).await.expect("in time");
    assert!(next().await.expect("more").expect("a part").starts_with(b"retry: "));
    let newest = Overview { at_ms: 7, ..Overview::default() };
    site.overviews.send_replace(Arc::new(newest));
    let frame = next().await.expect("more").expect("a part");
    let frame = std::str::from_utf8(&frame).expect("text");
    let data = frame.strip_prefix("event: frame\ndata: ").and_then(|data| data.strip_suffix("\n\n")).expect("a frame");
    let data: Value = serde_json::from_str(data).expect("JSON");
    assert_eq!((&data["overview"]["atMs"], &data["sequence"]), (&7.into(), &1.into()));
    site.stop.send_replace(true);
    assert!(next().await.is_none());
}

#[tokio::test]
async fn one_stream_too_many_is_refused_until_another_one_ends() {
    let site = Site::start();
    let mut streams = Vec::new();
    for _ in 0..limits::DASHBOARD_STREAMS_MAX {
        streams.push(site.ask("/api/v1/events/stream", &[]).await);
    }
    let (status, text) = site.text("/api/v1/events/stream").await;
    assert!(status == 503 && text.contains("16 browsers follow this dashboard"), "{text}");
    drop(streams.pop());
    while site.dashboard.streams.available_permits() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await; // tidy: a place that is free again gives no event
    }
    assert_eq!(site.ask("/api/v1/events/stream", &[]).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn frames_that_a_slow_browser_did_not_take_are_left_out() {
    let site = Site::start();
    let response = site.ask("/api/v1/events/stream", &[]).await;
    let mut parts = response.into_body().into_data_stream();
    let frames = site.dashboard.board.frames();
    for at_ms in 1..=20 {
        let mut frames = frames.clone();
        frames.mark_unchanged();
        site.overviews.send_replace(Arc::new(Overview { at_ms, ..Overview::default() }));
        timeout(SOON, frames.changed()).await.expect("in time").expect("the board runs");
    }
    let mut seen = Vec::new();
    while seen.last() != Some(&20) {
        let part = timeout(SOON, parts.next()).await.expect("in time").expect("more").expect("a part");
        let text = std::str::from_utf8(&part).expect("text");
        if let Some(data) = text.strip_prefix("event: frame\ndata: ") {
            let frame: Value = serde_json::from_str(data).expect("JSON");
            seen.push(frame["overview"]["atMs"].as_i64().expect("a number"));
        }
    }
    assert!(seen.len() < 20 && seen.is_sorted(), "{seen:?}");
}
