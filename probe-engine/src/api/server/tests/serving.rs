//! What every listener serves beside the API itself, and the limits of a connection.

use tokio::time::timeout;
use tokio_stream::StreamExt;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};
use tonic_reflection::pb::v1alpha::server_reflection_client::ServerReflectionClient as AlphaClient;

use super::*;
use crate::results::Input;

const CONTROL: &str = "probeengine.v1.Control";
const EMBEDDER: &str = "probeengine.v1.Embedder";

async fn channel(daemon: &Daemon) -> Channel {
    let path = daemon.path.clone();
    let connector = tower::service_fn(move |_: tonic::transport::Uri| {
        let path = path.clone();
        async move { tokio::net::UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
    });
    Endpoint::from_static("http://probe-engine").connect_with_connector(connector).await.expect("connect")
}

fn of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

#[tokio::test]
async fn health_says_what_readyz_says_and_its_watches_end_with_the_daemon() {
    let daemon = Daemon::start(none()).await;
    let mut client = HealthClient::new(channel(&daemon).await);
    let mut whole = client.watch(of("")).await.expect("known").into_inner();
    let mut next = async || {
        let message = timeout(SOON, whole.message()).await.expect("in time").expect("no error");
        message.map(|message| message.status())
    };
    assert_eq!(next().await, Some(ServingStatus::NotServing), "no source was read yet");
    daemon.bench.input(Input::Synced("manifests")).await;
    assert_eq!(next().await, Some(ServingStatus::Serving));
    let mut status = async |service: &str| client.check(of(service)).await.map(|answer| answer.into_inner().status());
    assert_eq!(status(CONTROL).await.ok(), Some(ServingStatus::Serving));
    assert_eq!(status(EMBEDDER).await.ok(), Some(ServingStatus::NotServing), "with this runtime it takes no calls");
    assert_eq!(status("other").await.map_err(|status| status.code()), Err(Code::NotFound));
    daemon.end.send(()).expect("it listens");
    assert_eq!(next().await, Some(ServingStatus::NotServing));
    assert_eq!(next().await, None);
    timeout(SOON, daemon.server).await.expect("in time").expect("no panic").expect("no error");
}

fn ask(what: MessageRequest) -> ServerReflectionRequest {
    ServerReflectionRequest { host: String::new(), message_request: Some(what) }
}

fn answer(response: ServerReflectionResponse) -> MessageResponse {
    response.message_response.expect("an answer")
}

#[tokio::test]
async fn reflection_lists_every_service_and_describes_what_it_lists() {
    let daemon = Daemon::start(none()).await;
    let mut client = ServerReflectionClient::new(channel(&daemon).await);
    let symbol = MessageRequest::FileContainingSymbol(format!("{CONTROL}.AddPod"));
    let requests = tokio_stream::iter([ask(MessageRequest::ListServices(String::new())), ask(symbol)]);
    let mut answers = client.server_reflection_info(requests).await.expect("served").into_inner();
    let mut next = async || answer(answers.next().await.expect("an answer").expect("no error"));
    let MessageResponse::ListServicesResponse(listed) = next().await else { panic!("a list") };
    let mut names: Vec<String> = listed.service.into_iter().map(|service| service.name).collect();
    names.sort_unstable();
    assert_eq!(names, ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", CONTROL, EMBEDDER]);
    let MessageResponse::FileDescriptorResponse(files) = next().await else { panic!("a file") };
    let file: prost_types::FileDescriptorProto =
        prost::Message::decode(&files.file_descriptor_proto[0][..]).expect("a descriptor");
    assert_eq!(file.package(), "probeengine.v1");
    assert!(file.source_code_info.is_some(), "with its comments");

    let list = tonic_reflection::pb::v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(tonic_reflection::pb::v1alpha::server_reflection_request::MessageRequest::ListServices(
            String::new(),
        )),
    };
    let mut client = AlphaClient::new(channel(&daemon).await);
    let mut answers = client.server_reflection_info(tokio_stream::iter([list])).await.expect("served").into_inner();
    assert!(answers.next().await.expect("an answer").is_ok());
}

#[tokio::test]
async fn an_error_about_a_name_as_long_as_a_request_still_reaches_the_client() {
    let mut daemon = Daemon::start(none()).await;
    for name in ["x".repeat(1_000_000), "\u{fc}".repeat(500_000)] {
        let request = v1::GetPodRequest { namespace: String::new(), name };
        let status = daemon.client.get_pod(request).await.expect_err("there is none");
        assert_eq!(status.code(), Code::NotFound, "{status}");
        let text = status.message();
        assert!(text.starts_with("pods \"") && text.ends_with("...") && text.len() > 2_000, "{text}");
    }
}

fn follow() -> v1::WatchEventsRequest {
    v1::WatchEventsRequest { follow: true, ..Default::default() }
}

#[tokio::test]
async fn streams_that_are_open_take_no_place_from_requests() {
    let mut daemon = Daemon::start(none()).await;
    let mut streams = Vec::new();
    for _ in 0..2 * limits::API_REQUESTS_PER_CONNECTION_MAX {
        streams.push(daemon.client.watch_events(follow()).await.expect("a stream").into_inner());
    }
    let info = timeout(SOON, daemon.client.get_info(v1::GetInfoRequest {})).await.expect("in time");
    assert_eq!(info.expect("served").into_inner().node_name, "node-1");
}

#[tokio::test]
async fn a_stream_beyond_the_bound_waits_until_another_ends() {
    let daemon = Daemon::start(none()).await;
    let mut client = daemon.client.clone();
    let mut streams = Vec::new();
    for _ in 0..limits::API_STREAMS_PER_CONNECTION_MAX {
        streams.push(client.watch_events(follow()).await.expect("a stream").into_inner());
    }
    let mut waiting = tokio::spawn(async move { client.watch_events(follow()).await.map(drop) });
    let early = timeout(Duration::from_millis(100), &mut waiting).await;
    assert!(early.is_err(), "it was served");
    drop(streams.pop());
    timeout(SOON, waiting).await.expect("in time").expect("no panic").expect("a stream");
}

#[tokio::test]
async fn a_stream_outlives_the_deadline_of_requests() {
    let mut daemon = Daemon::start(none()).await;
    let mut events = daemon.client.watch_events(follow()).await.expect("a stream").into_inner();
    events.message().await.expect("no error").expect("caught up");
    tokio::time::pause();
    tokio::time::advance(limits::API_DEADLINE * 2).await;
    tokio::time::resume();
    daemon.tell("Unhealthy", "still there").await;
    let message = timeout(SOON, events.message()).await.expect("in time").expect("no error").expect("an event");
    assert!(matches!(message.item, Some(Item::Event(event)) if event.message == "still there"));
}
