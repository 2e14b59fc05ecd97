//! What both listeners serve, under the same limits: health as grpc.health.v1.Health, and server reflection.

use http::Response;
use tokio::sync::watch;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tower::util::MapResponseLayer;

use super::embedder::Embedder;
use super::{ControlServer, EmbedderServer, Service};
use crate::api::DESCRIPTORS;
use crate::api::admin::health::Health;
use crate::{limits, shutdown};

/// The runtime in which the service for embedders takes calls.
const EMBEDDERS_RUNTIME: &str = "external";

/// As [`Routes`] has it: of the daemon as a whole.
const WHOLE: &str = "";

/// A server with the limits of every listener.
pub(super) fn server() -> Server {
    Server::builder()
        // Until the answer begins; a stream has all the time it wants.
        .timeout(limits::API_DEADLINE)
        .concurrency_limit_per_connection(limits::API_REQUESTS_PER_CONNECTION_MAX)
        .max_concurrent_streams(limits::API_STREAMS_PER_CONNECTION_MAX)
        .http2_max_header_list_size(limits::API_HEADERS_BYTES_MAX)
}

/// The same for peers who may vanish without a word. On the unix socket the kernel tells, and a client that is stopped, or waits for
/// its pager, keeps its connection.
pub(super) fn remote_server() -> Server {
    server()
        .http2_keepalive_interval(Some(limits::API_PING_EVERY))
        .http2_keepalive_timeout(Some(limits::API_PING_ANSWER_MAX))
}

/// Errors as long as a trailer may be: they tell what was asked for, which may be as long as a request.
pub(super) fn short_errors() -> MapResponseLayer<fn(Response<Body>) -> Response<Body>> {
    MapResponseLayer::new(shortened)
}

fn shortened(answer: Response<Body>) -> Response<Body> {
    let Some(status) = tonic::Status::from_header_map(answer.headers()) else { return answer };
    let text = status.message();
    if encoded_len(text) <= limits::API_ERROR_BYTES_MAX {
        return answer;
    }
    // However it is encoded.
    let end = text.floor_char_boundary(limits::API_ERROR_BYTES_MAX / 3);
    tonic::Status::new(status.code(), format!("{}...", &text[..end])).into_http()
}

/// Bytes of a text in a trailer, where what is neither letter nor digit takes three for each of its own (percent-encoding).
pub(super) fn encoded_len(text: &str) -> usize {
    text.bytes().map(|byte| if byte.is_ascii_alphanumeric() { 1 } else { 3 }).sum()
}

/// The services beside the two of our own added.
pub(super) fn routes(
    control: ControlServer<Service>,
    embedder: EmbedderServer<Embedder>,
    reporter: &HealthReporter,
) -> Routes {
    let bytes_max = limits::API_REQUEST_BYTES_MAX;
    let health = HealthServer::new(HealthService::from_health_reporter(reporter.clone()));
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let compiled = "descriptors are whole: they were compiled";
    Routes::new(control)
        .add_service(embedder)
        .add_service(health.max_decoding_message_size(bytes_max))
        .add_service(reflection().build_v1().expect(compiled).max_decoding_message_size(bytes_max))
        .add_service(reflection().build_v1alpha().expect(compiled).max_decoding_message_size(bytes_max))
}

/// What the health service says, as told so far.
pub(super) struct Status {
    reporter: HealthReporter,
    told: [Option<bool>; 3],
}

impl Status {
    const NAMES: [&str; 3] =
        [WHOLE, <ControlServer<Service> as NamedService>::NAME, <EmbedderServer<Embedder> as NamedService>::NAME];

    /// Nothing is serving yet.
    pub(super) async fn new() -> Self {
        let mut status = Self { reporter: HealthReporter::new(), told: [None; 3] };
        status.tell([false; 3]).await;
        status
    }

    pub(super) fn reporter(&self) -> &HealthReporter {
        &self.reporter
    }

    /// Keeps it true until `ended`, then ends its watches: as a whole and for operators as /livez and /readyz say; for embedders as
    /// /livez alone, since the daemon is not ready before one of them has called.
    pub(super) async fn keep(mut self, health: Health, runtime: &str, mut ended: watch::Receiver<bool>) {
        loop {
            let is_live = health.is_live();
            let is_ready = is_live && health.ready().await.iter().all(|check| check.failure.is_none());
            self.tell([is_ready, is_ready, is_live && runtime == EMBEDDERS_RUNTIME]).await;
            tokio::select! {
                () = shutdown::told(&mut ended) => break,
                () = tokio::time::sleep(limits::API_HEALTH_LOOK_EVERY) => {}
            }
        }
        self.tell([false; 3]).await;
        for name in Self::NAMES {
            self.reporter.clear_service_status(name).await;
        }
    }

    /// Watchers hear of changes alone.
    async fn tell(&mut self, are_serving: [bool; 3]) {
        for ((name, told), is_serving) in Self::NAMES.iter().zip(&mut self.told).zip(are_serving) {
            if told.replace(is_serving) != Some(is_serving) {
                let status = if is_serving { ServingStatus::Serving } else { ServingStatus::NotServing };
                self.reporter.set_service_status(name, status).await;
            }
        }
    }
}
