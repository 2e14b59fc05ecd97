use std::net::SocketAddr;

use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsPartialSuccess, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Response, Status};

use super::*;
use crate::consumer::metrics::tests::small_node;
use crate::results::fixture::SOON;

/// Of a request: its header `authorization`, and what it carries.
type Got = (Option<String>, ExportMetricsServiceRequest);

/// Plays the collector: tells what it got, and refuses so many points.
struct FakeCollector {
    got: mpsc::Sender<Got>,
    refused: i64,
}

#[tonic::async_trait]
impl MetricsService for FakeCollector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let token = request.metadata().get("authorization").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let _ = self.got.send((token, request.into_inner())).await;
        let partial =
            ExportMetricsPartialSuccess { rejected_data_points: self.refused, error_message: "too\nmany".to_owned() };
        Ok(Response::new(ExportMetricsServiceResponse { partial_success: Some(partial) }))
    }
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("its address");
    (listener, address)
}

fn collect(listener: TcpListener, refused: i64) -> mpsc::Receiver<Got> {
    let (got, requests) = mpsc::channel(1);
    let service = MetricsServiceServer::new(FakeCollector { got, refused });
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)));
    requests
}

fn push(address: SocketAddr, headers: &str, metrics: Metrics) -> (Push, Arc<OtlpStats>) {
    let stats = Arc::new(OtlpStats::default());
    let collector = Collector::new(&format!("http://{address}"), Duration::from_millis(20), headers);
    let collector = collector.expect("it is right");
    (Push { collector, metrics, node_name: "node-1".to_owned(), stats: Arc::clone(&stats) }, stats)
}

/// Names and values.
fn texts(attributes: &[KeyValue]) -> Vec<(&str, &str)> {
    attributes.iter().filter_map(text_of).collect()
}

fn text_of(attribute: &KeyValue) -> Option<(&str, &str)> {
    match attribute.value.as_ref()?.value.as_ref()? {
        any_value::Value::StringValue(value) => Some((&attribute.key, value)),
        _ => None,
    }
}

async fn got(requests: &mut mpsc::Receiver<Got>) -> Got {
    tokio::time::timeout(SOON, requests.recv()).await.expect("in time").expect("the collector runs")
}

#[tokio::test]
async fn a_collector_gets_what_metrics_has_but_for_pods_and_probes() {
    let (listener, address) = listener().await;
    let mut requests = collect(listener, 0);
    let (_bench, metrics) = small_node().await;
    let (push, stats) = push(address, "Authorization=Bearer%20s3cret, x-tenant=a", metrics);
    let (stop, stopping) = watch::channel(false);
    let push = tokio::spawn(push.run(stopping));
    let (token, request) = got(&mut requests).await;
    assert_eq!(token.as_deref(), Some("Bearer s3cret"));
    let [ResourceMetrics { resource: Some(resource), scope_metrics, .. }] = &request.resource_metrics[..] else {
        panic!("{request:?}")
    };
    let resource = texts(&resource.attributes);
    assert!(resource.contains(&("service.name", "probe-engine")) && resource.contains(&("k8s.node.name", "node-1")));
    let metrics = &scope_metrics[0].metrics;
    let of = |name: &str| metrics.iter().find(|metric| metric.name == name).unwrap_or_else(|| panic!("{name}"));
    let Some(Data::Sum(passive)) = &of("probe_engine_passive_answers_total").data else { panic!("a counter") };
    assert!(passive.is_monotonic && passive.data_points[0].value == Some(Value::AsInt(40)), "{passive:?}");
    let Some(Data::Histogram(durations)) = &of("probe_engine_attempt_duration_seconds").data else { panic!() };
    let point = durations.data_points.iter().find(|point| texts(&point.attributes).contains(&("outcome", "failure")));
    let point = point.expect("one failed");
    assert_eq!((point.count, point.bucket_counts.len()), (1, point.explicit_bounds.len() + 1));
    assert_eq!(of("probe_engine_attempt_duration_seconds").unit, "s");
    for name in metrics.iter().map(|metric| &metric.name) {
        assert!(!name.starts_with("prober_") && !name.starts_with("kube_pod_"), "{name} is of pods");
    }
    got(&mut requests).await;
    assert!(stats.pushes.load(Ordering::Relaxed) >= 1 && stats.failures.load(Ordering::Relaxed) == 0);
    stop.send_replace(true);
    // Whoever is being told may be waiting for a place.
    drop(requests);
    tokio::time::timeout(SOON, push).await.expect("in time").expect("it ends well");
}

#[tokio::test]
async fn a_collector_that_comes_later_is_found_and_failures_are_counted() {
    let (listener, address) = listener().await;
    drop(listener);
    let (_bench, metrics) = small_node().await;
    let (push, stats) = push(address, "", metrics);
    let (_stop, stopping) = watch::channel(false);
    tokio::spawn(push.run(stopping));
    let failed = async {
        while stats.failures.load(Ordering::Relaxed) < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, failed).await.expect("nobody listens");
    let mut requests = collect(TcpListener::bind(address).await.expect("the address is free again"), 0);
    got(&mut requests).await;
}

#[tokio::test]
async fn points_that_are_refused_are_a_failure() {
    let (listener, address) = listener().await;
    let mut requests = collect(listener, 3);
    let (_bench, metrics) = small_node().await;
    let (mut push, stats) = push(address, "", metrics.clone());
    let failure = push.push(metrics.pushed().await.expect("the stage runs")).await;
    assert_eq!(failure.as_deref(), Some(r"3 points refused: too\nmany"));
    push.count(failure, &mut false);
    assert_eq!((stats.pushes.load(Ordering::Relaxed), stats.failures.load(Ordering::Relaxed)), (0, 1));
    got(&mut requests).await;
}

#[tokio::test]
async fn wrong_headers_are_told_without_their_values() {
    for (text, expected) in [
        ("a=1,secret", "header 2 has no `=`"),
        ("a b=secret", "header 1 has a name"),
        ("a=secret%2", "header 1 has a value that is not percent-encoded"),
        ("a=secret%0a", "header 1 has a value that no header"),
    ] {
        let error = parsed(text).expect_err("it is wrong").to_string();
        assert!(error.contains(expected) && !error.contains("secret"), "{text}: {error}");
    }
    let headers = parsed("a=1, B = x%3Dy ,").expect("they are right");
    assert_eq!((headers.get("b").and_then(|value| value.to_str().ok()), headers.len()), (Some("x=y"), 2));
    assert!(headers.get("b").is_some_and(MetadataValue::is_sensitive));
}
