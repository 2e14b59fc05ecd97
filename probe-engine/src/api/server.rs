//! The control API's server: reads from the results and events stages, writes through `source::control`.
//!
//! Bounds: `limits::API_*`. Invariant: nothing here holds a stage up for longer than one part of an answer takes.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use probe_core::id::{PodUid, ProbeKey, ProbeType};
use probe_core::outcome::{Outcome, Verdict};
use probe_core::worker::ATTEMPTS_MAX;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

pub use self::facts::{BUILD, Facts, ShardFacts, SourceFacts, instance};
pub use self::tcp::{Tcp, TcpError};

use self::facts::info_of;
use self::filter::Filter;

use super::admin::health::Health;
use super::socket::Socket;
use super::v1::control_server::{Control as ControlApi, ControlServer};
use super::v1::embedder_server::EmbedderServer;
use super::{convert, v1};
use crate::consumer::events::EventsHandle;
use crate::consumer::overview::Overviews;
use crate::ebpf::PassiveSettings;
use crate::results::{Node, PodRecord, ResultsError, ResultsHandle};
use crate::runtime::ContainerRuntime;
use crate::runtime::external::broker::Broker;
use crate::source::SourceKind;
use crate::source::api::{self, ApiError, ApiSource, Refused};
use crate::source::control::{Control, ControlError, Triggered};
use crate::{clock, limits, shutdown};

mod connection;
mod embedder;
mod exec_calls;
mod facts;
mod filter;
mod latency;
mod pause;
mod pods;
mod serving;
mod stream_logs;
mod sync_pods;
mod tcp;
mod watch_events;
mod watch_node;
mod watch_pods;
mod watch_results;
mod watching;

/// The namespace where none is said.
const DEFAULT_NAMESPACE: &str = "default";

/// How long a verdict may come after the report that made it.
const VERDICT_WAIT: Duration = Duration::from_secs(1);
const VERDICT_LOOK_EVERY: Duration = Duration::from_millis(10);

/// How long a pod may take to show a readiness gate that was set: the manager and results have it to take in.
const GATE_WAIT: Duration = Duration::from_secs(10);

/// The stages that the API reads from and writes to; cheap to clone.
#[derive(Clone)]
pub struct Backend {
    /// Pods and probes.
    pub results: ResultsHandle,
    /// What happens.
    pub events: EventsHandle,
    /// Writes.
    pub control: Control,
    /// Pods that come through the API.
    pub pods: ApiSource,
    /// Where an embedder runs commands; `None` where none runs the containers.
    pub broker: Option<Arc<Broker>>,
    /// Logs.
    pub runtime: Arc<dyn ContainerRuntime>,
    /// What only the engine knows.
    pub facts: watch::Receiver<Facts>,
    /// The node at a glance.
    pub overviews: Overviews,
}

/// Why the API is not served any more.
#[derive(Debug, thiserror::Error)]
#[error("the control API on {place}: {source}")]
pub struct ServeError {
    place: String,
    source: tonic::transport::Error,
}

/// Serves on the socket, and over TCP where that is wanted, until `shutdown`; then ends the streams, lets the requests in hand end
/// (at most [`limits::API_DRAIN`]) and removes the socket.
pub async fn serve(
    mut socket: Socket,
    tcp: Option<Tcp>,
    backend: Backend,
    health: Health,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let Some(listener) = socket.take_listener() else { return Ok(()) };
    let (ending, ended) = watch::channel(false);
    let (embedder_backend, runtime) = (backend.clone(), backend.runtime.name());
    let service = ControlServer::new(Service {
        backend,
        ended: ended.clone(),
        log_streams: Arc::new(Semaphore::new(limits::API_LOG_STREAMS_MAX)),
        pod_watchers: Arc::new(Semaphore::new(limits::API_POD_WATCHERS_MAX)),
        latency_watchers: Arc::new(Semaphore::new(limits::API_LATENCY_WATCHERS_MAX)),
        event_watchers: Arc::new(Semaphore::new(limits::API_EVENT_WATCHERS_MAX)),
        node_watchers: Arc::new(Semaphore::new(limits::API_EVENT_WATCHERS_MAX)),
    })
    .max_decoding_message_size(limits::API_REQUEST_BYTES_MAX)
    .max_encoding_message_size(limits::API_RESPONSE_BYTES_MAX);
    let result_watchers = Arc::new(Semaphore::new(limits::API_RESULT_WATCHERS_MAX));
    let embedder = embedder::Embedder { backend: embedder_backend, ended: ended.clone(), result_watchers };
    let embedder = EmbedderServer::new(embedder)
        .max_decoding_message_size(limits::API_REQUEST_BYTES_MAX)
        .max_encoding_message_size(limits::API_RESPONSE_BYTES_MAX);
    let tcp_address = tcp.as_ref().map(Tcp::address);
    let tcp_text = tcp_address.map(|address| address.to_string());
    tracing::info!(socket = %socket.path().display(), tcp = tcp_text, "control API serving");
    let told = async move {
        shutdown.await;
        // Streams that follow would never end by themselves.
        let _ = ending.send(true);
        Ok(())
    };
    let status = serving::Status::new().await;
    let routes = serving::routes(service, embedder, status.reporter());
    let on_socket = serving::server()
        .layer(serving::short_errors())
        .add_routes(routes.clone())
        .serve_with_incoming_shutdown(connection::incoming(listener), shutdown::heard(ended.clone()));
    let over_tcp = async {
        let Some(tcp) = tcp else { return Ok(()) };
        let mut server = serving::remote_server().layer(serving::short_errors());
        server.add_routes(routes).serve_with_incoming_shutdown(tcp.incoming(), shutdown::heard(ended.clone())).await
    };
    let place = |place: String| move |source| ServeError { place, source };
    let serving = async {
        let on_socket = async { on_socket.await.map_err(place(socket.path().display().to_string())) };
        let over_tcp = async { over_tcp.await.map_err(place(tcp_text.unwrap_or_default())) };
        let health = async {
            status.keep(health, runtime, ended.clone()).await;
            Ok(())
        };
        tokio::try_join!(told, on_socket, over_tcp, health).map(drop)
    };
    tokio::select! {
        served = serving => served,
        // A client that reads nothing is not waited for.
        () = drained(ended.clone()) => Ok(()),
    }
}

async fn drained(ended: watch::Receiver<bool>) {
    shutdown::heard(ended).await;
    tokio::time::sleep(limits::API_DRAIN).await;
}

struct Service {
    backend: Backend,
    /// True once the server is to end.
    ended: watch::Receiver<bool>,
    log_streams: Arc<Semaphore>,
    pod_watchers: Arc<Semaphore>,
    latency_watchers: Arc<Semaphore>,
    event_watchers: Arc<Semaphore>,
    node_watchers: Arc<Semaphore>,
}

type Parts<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl ControlApi for Service {
    async fn get_info(&self, _: Request<v1::GetInfoRequest>) -> Result<Response<v1::GetInfoResponse>, Status> {
        let mut facts = self.backend.facts.borrow().clone();
        let count = |node: &Node| {
            let shards = node.shards.iter().filter_map(|shard| shard.counts.as_ref());
            let sums = shards.fold([0; 3], |[held, held_ns, cut_ns], counts| {
                let passive = &counts.passive;
                [held + passive.held, held_ns + passive.held_ns, cut_ns + passive.cut_ns]
            });
            let of_api = (node.pods_by_source[SourceKind::Api as usize], node.unsynced().all(|name| name != api::NAME));
            (node.pods.len(), node.pods.probes_len(), node.stuck().count(), sums, of_api)
        };
        let (pods, probes, stuck, [held, held_ns, cut_ns], (pods_of_api, synced)) =
            self.backend.results.read(count).await.map_err(unavailable)?;
        for source in facts.sources.iter_mut().filter(|source| source.kind == api::NAME) {
            (source.pods_count, source.synced) = (usize::try_from(pods_of_api).unwrap_or(usize::MAX), synced);
        }
        Ok(Response::new(v1::GetInfoResponse {
            pods_count: pods as u64,
            probes_count: probes as u64,
            stuck_probes_count: stuck as u64,
            passive_held_count: held,
            passive_held_ns: held_ns,
            passive_cut_ns: cut_ns,
            runtime: self.backend.runtime.name().to_owned(),
            ..info_of(facts)
        }))
    }

    type ListPodsStream = Parts<v1::ListPodsResponse>;

    async fn list_pods(&self, request: Request<v1::ListPodsRequest>) -> Result<Response<Self::ListPodsStream>, Status> {
        let filter = Filter::read(request.into_inner().filter)?;
        let passive = self.passive();
        let part = move |records: &[PodRecord]| {
            let pods = records.iter().map(|record| convert::pod(record, passive.as_deref()));
            v1::ListPodsResponse { pods: pods.collect() }
        };
        Ok(Response::new(self.parts(filter, part).await?))
    }

    async fn get_pod(&self, request: Request<v1::GetPodRequest>) -> Result<Response<v1::GetPodResponse>, Status> {
        let request = request.into_inner();
        let record = self.pod(&request.namespace, &request.name).await?;
        Ok(Response::new(v1::GetPodResponse { pod: Some(convert::pod(&record, self.passive().as_deref())) }))
    }

    type ListProbesStream = Parts<v1::ListProbesResponse>;

    async fn list_probes(
        &self,
        request: Request<v1::ListProbesRequest>,
    ) -> Result<Response<Self::ListProbesStream>, Status> {
        let request = request.into_inner();
        let filter = Filter::read(request.filter)?;
        let passive = self.passive();
        let part = move |records: &[PodRecord]| {
            let rows = records.iter().flat_map(|record| convert::probe_rows(record, passive.as_deref()));
            let failing = rows.filter(|row| !request.failing || is_failing(row));
            v1::ListProbesResponse { probes: failing.filter(|row| !request.near_miss || has_near_miss(row)).collect() }
        };
        Ok(Response::new(self.parts(filter, part).await?))
    }

    async fn trigger_probe(
        &self,
        request: Request<v1::TriggerProbeRequest>,
    ) -> Result<Response<v1::TriggerProbeResponse>, Status> {
        let request = request.into_inner();
        let probe_type = convert::probe_type_from(request.r#type())
            .ok_or_else(|| Status::invalid_argument("type is missing: startup, readiness or liveness"))?;
        let namespace = namespace_or_default(request.namespace);
        let longest = self.longest_timeout(&namespace, &request.pod).await?;
        let (control, pod, container) = (&self.backend.control, &request.pod, &request.container);
        let wait = longest * u32::from(ATTEMPTS_MAX) + limits::TRIGGER_WAIT;
        let mut triggered = control
            .trigger(&namespace, pod, container, probe_type, wait)
            .await
            .map_err(|error| control_error(&error))?;
        triggered.after = self.verdict_after(&triggered).await?;
        Ok(Response::new(convert::triggered(&triggered)))
    }

    async fn set_readiness_gate(
        &self,
        request: Request<v1::SetReadinessGateRequest>,
    ) -> Result<Response<v1::SetReadinessGateResponse>, Status> {
        let request = request.into_inner();
        let status = convert::condition_status_from(request.status)
            .map_err(|value| Status::invalid_argument(format!("status: unknown value {value}")))?;
        let namespace = namespace_or_default(request.namespace);
        let (control, pod, gate) = (&self.backend.control, &request.pod, &request.condition_type);
        let set = control.set_gate(&namespace, pod, gate, status, GATE_WAIT).await;
        let record = set.map_err(|error| control_error(&error))?;
        let pod = convert::pod(&record, self.passive().as_deref());
        Ok(Response::new(v1::SetReadinessGateResponse { pod: Some(pod) }))
    }

    async fn add_pod(&self, request: Request<v1::AddPodRequest>) -> Result<Response<v1::AddPodResponse>, Status> {
        pods::add(self, request.into_inner()).await.map(Response::new)
    }

    async fn remove_pod(
        &self,
        request: Request<v1::RemovePodRequest>,
    ) -> Result<Response<v1::RemovePodResponse>, Status> {
        pods::remove(self, request.into_inner()).await.map(Response::new)
    }

    async fn pause_probes(
        &self,
        request: Request<v1::PauseProbesRequest>,
    ) -> Result<Response<v1::PauseProbesResponse>, Status> {
        pause::pause(self, request).await.map(Response::new)
    }

    type WatchPodsStream = Parts<v1::WatchPodsResponse>;

    async fn watch_pods(
        &self,
        request: Request<v1::WatchPodsRequest>,
    ) -> Result<Response<Self::WatchPodsStream>, Status> {
        watch_pods::watch(self, request.into_inner()).await.map(Response::new)
    }

    type WatchNodeStream = Parts<v1::WatchNodeResponse>;

    async fn watch_node(&self, _: Request<v1::WatchNodeRequest>) -> Result<Response<Self::WatchNodeStream>, Status> {
        watch_node::watch(self).map(Response::new)
    }

    type WatchLatencyStream = Parts<v1::WatchLatencyResponse>;

    async fn watch_latency(
        &self,
        request: Request<v1::WatchLatencyRequest>,
    ) -> Result<Response<Self::WatchLatencyStream>, Status> {
        latency::watch(self, request.into_inner()).await.map(Response::new)
    }

    type WatchEventsStream = Parts<v1::WatchEventsResponse>;

    async fn watch_events(
        &self,
        request: Request<v1::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        watch_events::watch(self, request.into_inner()).await.map(Response::new)
    }

    type StreamLogsStream = Parts<v1::StreamLogsResponse>;

    async fn stream_logs(
        &self,
        request: Request<v1::StreamLogsRequest>,
    ) -> Result<Response<Self::StreamLogsStream>, Status> {
        stream_logs::stream(self, request.into_inner()).await.map(Response::new)
    }
}

impl Service {
    fn passive(&self) -> Option<Arc<PassiveSettings>> {
        self.backend.facts.borrow().passive.clone()
    }

    async fn pod(&self, namespace: &str, name: &str) -> Result<PodRecord, Status> {
        let (namespace, name) = (namespace_or_default(namespace.to_owned()), name.to_owned());
        let missing = Status::not_found(format!("pods {name:?} not found in namespace {namespace:?}"));
        let found = self.backend.results.read(move |node| node.pod_by_name(&namespace, &name).cloned());
        found.await.map_err(unavailable)?.ok_or(missing)
    }

    /// The longest timeout of the pod's probes; nothing where there is no such pod.
    async fn longest_timeout(&self, namespace: &str, name: &str) -> Result<Duration, Status> {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        let longest = move |node: &Node| {
            let pod = &node.pod_by_name(&namespace, &name)?.pod;
            let probes = pod.probed_containers().flat_map(|c| ProbeType::ALL.map(|t| c.probes.by_type(t)));
            probes.flatten().map(|spec| spec.timeout()).max()
        };
        Ok(self.backend.results.read(longest).await.map_err(unavailable)?.unwrap_or_default())
    }

    /// The verdict that a report led to: stored just after it where it reached its threshold.
    async fn verdict_after(&self, triggered: &Triggered) -> Result<Option<Verdict>, Status> {
        let report = &triggered.report;
        let reached = report.threshold > 0 && report.run >= report.threshold;
        let expected = match report.outcome {
            Outcome::Success(_) | Outcome::Warning(_) if reached => Some(Verdict::Success),
            Outcome::Failure(_) if reached => Some(Verdict::Failure),
            _ => return Ok(triggered.after),
        };
        let key =
            ProbeKey { pod: report.pod.clone(), container: report.container.clone(), probe_type: report.probe_type };
        let deadline = clock::now() + VERDICT_WAIT;
        loop {
            let asked = key.clone();
            let look = self.backend.results.read(move |node| node.probe(&asked).and_then(|p| p.verdict));
            let verdict = look.await.map_err(unavailable)?;
            // A container that is restarted at once takes its verdict with it: then the expected one never shows.
            if verdict == expected || clock::now() >= deadline {
                return Ok(verdict);
            }
            tokio::time::sleep(VERDICT_LOOK_EVERY).await;
        }
    }

    /// An answer in parts: which pods is asked once, then their records part by part.
    async fn parts<T: Send + 'static>(
        &self,
        filter: Filter,
        part_of: impl Fn(&[PodRecord]) -> T + Send + Sync + 'static,
    ) -> Result<Parts<T>, Status> {
        let results = self.backend.results.clone();
        let filter = Arc::new(filter);
        let mut pods = Vec::new();
        for first in (0..).step_by(limits::RESULTS_PODS_PER_PART) {
            let filter = Arc::clone(&filter);
            let select = move |node: &Node| {
                let part = node.pods.part(first..first + limits::RESULTS_PODS_PER_PART)?;
                let selected = part.filter(|record| filter.selects(&record.pod));
                Some(selected.map(|record| Arc::clone(&record.pod)).collect::<Vec<_>>())
            };
            match results.read(select).await.map_err(unavailable)? {
                Some(part) => pods.extend(part),
                None => break,
            }
        }
        let (to, from) = mpsc::channel(limits::API_PARTS_AHEAD_MAX);
        tokio::spawn(async move {
            pods.sort_unstable_by(|a, b| (&a.namespace, &a.name, &a.uid).cmp(&(&b.namespace, &b.name, &b.uid)));
            for part in pods.chunks(limits::API_PODS_PER_PART) {
                let uids: Vec<PodUid> = part.iter().map(|pod| pod.uid.clone()).collect();
                let look =
                    move |node: &Node| uids.iter().filter_map(|uid| node.pods.get(uid).cloned()).collect::<Vec<_>>();
                let answer = results.read(look).await.map(|records| part_of(&records)).map_err(unavailable);
                let is_last = answer.is_err();
                if to.send(answer).await.is_err() || is_last {
                    return;
                }
            }
        });
        Ok(ReceiverStream::new(from))
    }
}

/// Its verdict is Failure, or its last attempt did not end well.
pub(crate) fn is_failing(row: &v1::ProbeRow) -> bool {
    row.probe.as_ref().is_some_and(|probe| {
        probe.verdict() == v1::Verdict::Failure
            || matches!(probe.last(), v1::OutcomeKind::Failure | v1::OutcomeKind::Error | v1::OutcomeKind::Local)
    })
}

fn has_near_miss(row: &v1::ProbeRow) -> bool {
    row.probe.as_ref().is_some_and(|probe| probe.near_miss_count > 0)
}

fn namespace_or_default(namespace: String) -> String {
    if namespace.is_empty() { DEFAULT_NAMESPACE.to_owned() } else { namespace }
}

fn control_error(error: &ControlError) -> Status {
    let text = error.to_string();
    match error {
        ControlError::UnknownPod { .. }
        | ControlError::UnknownContainer { .. }
        | ControlError::UnknownProbe { .. }
        | ControlError::NoneHas { .. }
        | ControlError::UnknownGate { .. } => Status::not_found(text),
        ControlError::Wanted { .. } | ControlError::Paused { .. } => Status::failed_precondition(text),
        ControlError::NotShown { .. } | ControlError::PauseNotShown => Status::deadline_exceeded(text),
        ControlError::AmbiguousContainer { .. } => Status::invalid_argument(text),
        ControlError::Results(ResultsError::NoReport(_)) => Status::deadline_exceeded(text),
        ControlError::Results(ResultsError::Removed) => Status::not_found(text),
        ControlError::Results(ResultsError::TooManyWaiters) => Status::resource_exhausted(text),
        ControlError::Results(ResultsError::Ended) | ControlError::Ended => Status::unavailable(text),
    }
}

fn api_error(error: &ApiError) -> Status {
    let text = error.to_string();
    match error {
        ApiError::Refused(Refused::NameTaken { .. } | Refused::UidTaken { .. } | Refused::Ending { .. }) => {
            Status::already_exists(text)
        }
        ApiError::Refused(Refused::TooMany) => Status::resource_exhausted(text),
        ApiError::Results(ResultsError::Removed) => Status::not_found(text),
        ApiError::Results(_) | ApiError::Ended => Status::unavailable(text),
    }
}

fn unavailable(error: ResultsError) -> Status {
    Status::unavailable(error.to_string())
}

#[cfg(test)]
mod tests;
