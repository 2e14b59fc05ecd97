//! A client of the control API that plays the kubelet: the pods, states and exec answers that an embedder supplies.

use std::path::Path;
use std::time::Duration;

use probe_engine::api::convert::timestamp;
use probe_engine::api::v1::container_state::State;
use probe_engine::api::v1::control_client::ControlClient;
use probe_engine::api::v1::embedder_client::EmbedderClient;
use probe_engine::api::v1::exec_result::End;
use probe_engine::api::v1::serve_exec_response::Item;
use probe_engine::api::v1::watch_results_response::Item as ResultItem;
use probe_engine::api::v1::{self, ProbeType, Verdict};
use probe_engine::clock;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

/// Nothing that is waited for takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes of the manifests that are sent in one message.
const PART_BYTES: usize = 1 << 20;

/// See the module.
pub struct Kubelet {
    runtime: Runtime,
    /// The service for embedders.
    pub embedder: EmbedderClient<Channel>,
    /// The one for everybody.
    pub control: ControlClient<Channel>,
}

/// A ServeExec stream.
pub struct ExecStream {
    answers: mpsc::Sender<v1::ServeExecRequest>,
    calls: Streaming<v1::ServeExecResponse>,
}

/// A WatchResults stream.
pub struct Results(Streaming<v1::WatchResultsResponse>);

impl Kubelet {
    /// Connects to the daemon whose directory this is.
    ///
    /// # Panics
    /// Where nobody answers.
    #[must_use]
    pub fn connect(folder: &Path) -> Kubelet {
        // A thread of its own: what is sent goes out while the test does something else.
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().expect("a runtime");
        let socket = format!("unix://{}", folder.join("api.sock").display());
        let endpoint = Endpoint::from_shared(socket).expect("a socket's address");
        let channel = runtime.block_on(endpoint.connect()).expect("the daemon answers");
        Kubelet { runtime, embedder: EmbedderClient::new(channel.clone()), control: ControlClient::new(channel) }
    }

    /// Waits for an answer.
    ///
    /// # Panics
    /// After `PATIENCE`.
    pub fn wait<T>(&self, what: &str, future: impl Future<Output = T>) -> T {
        let in_time = async { tokio::time::timeout(PATIENCE, future).await };
        self.runtime.block_on(in_time).unwrap_or_else(|_| panic!("waited in vain for: {what}"))
    }

    /// These pods are wanted and no others.
    ///
    /// # Errors
    /// The daemon's.
    pub fn sync(&self, manifests: impl IntoIterator<Item = String>) -> Result<v1::SyncPodsResponse, Status> {
        let mut parts: Vec<v1::SyncPodsRequest> = vec![v1::SyncPodsRequest::default()];
        let mut bytes = 0;
        for manifest in manifests {
            bytes += manifest.len();
            if bytes > PART_BYTES {
                parts.push(v1::SyncPodsRequest::default());
                bytes = manifest.len();
            }
            parts.last_mut().expect("one at least").pods.push(v1::DesiredPod { manifest });
        }
        let mut embedder = self.embedder.clone();
        let answer = self.wait("SyncPods", embedder.sync_pods(tokio_stream::iter(parts)));
        answer.map(tonic::Response::into_inner)
    }

    /// The state of a pod at 127.0.0.1.
    ///
    /// # Errors
    /// The daemon's.
    pub fn status(&self, uid: &str, containers: Vec<v1::EmbeddedContainer>) -> Result<(), Status> {
        let request = v1::UpdatePodStatusRequest {
            pod_uid: uid.to_owned(),
            pod_ip: "127.0.0.1".to_owned(),
            containers,
            ..v1::UpdatePodStatusRequest::default()
        };
        let mut embedder = self.embedder.clone();
        self.wait("UpdatePodStatus", embedder.update_pod_status(request)).map(|_| ())
    }

    /// The pod of this name in the default namespace.
    ///
    /// # Errors
    /// The daemon's.
    pub fn pod(&self, name: &str) -> Result<v1::Pod, Status> {
        let request = v1::GetPodRequest { namespace: String::new(), name: name.to_owned() };
        let mut control = self.control.clone();
        let answer = self.wait("GetPod", control.get_pod(request))?;
        Ok(answer.into_inner().pod.expect("a pod"))
    }

    /// Begins to watch results.
    ///
    /// # Panics
    /// Where the daemon refuses.
    pub fn results(&self) -> Results {
        let mut embedder = self.embedder.clone();
        let request = v1::WatchResultsRequest { since: None };
        Results(self.wait("WatchResults", embedder.watch_results(request)).expect("it is served").into_inner())
    }

    /// The next result that is as wanted; those before it are given to `seen`.
    ///
    /// # Panics
    /// Where none comes in time.
    pub fn next_result(
        &self,
        results: &mut Results,
        what: &str,
        is_it: impl Fn(&v1::ProbeResult) -> bool,
    ) -> (v1::ProbeResult, Vec<v1::ProbeResult>) {
        let mut before = Vec::new();
        self.wait(what, async {
            loop {
                let message = results.0.message().await.expect("it goes on").expect("it does not end");
                match message.item {
                    Some(ResultItem::Result(result)) if is_it(&result) => return (result, before),
                    Some(ResultItem::Result(result)) => before.push(result),
                    _ => {}
                }
            }
        })
    }

    /// Begins to run the commands of exec probes.
    ///
    /// # Panics
    /// Where the daemon refuses.
    pub fn serve_exec(&self) -> ExecStream {
        let (answers, from) = mpsc::channel(16);
        let mut embedder = self.embedder.clone();
        let calls = self.wait("ServeExec", embedder.serve_exec(ReceiverStream::new(from)));
        ExecStream { answers, calls: calls.expect("it is served").into_inner() }
    }

    /// What the daemon asks next.
    ///
    /// # Errors
    /// The end of the stream.
    pub fn next_exec(&self, stream: &mut ExecStream) -> Result<Item, Status> {
        let message = self.wait("a message of ServeExec", stream.calls.message())?;
        message.and_then(|message| message.item).ok_or_else(|| Status::unavailable("it ended"))
    }

    /// The next call; calls that are over are passed over.
    ///
    /// # Panics
    /// Where the stream ends.
    pub fn next_call(&self, stream: &mut ExecStream) -> v1::ExecCall {
        loop {
            match self.next_exec(stream).expect("it goes on") {
                Item::Call(call) => return call,
                Item::Cancel(_) => {}
            }
        }
    }

    /// How a call ended. A stream that is over takes nothing.
    pub fn answer(&self, stream: &ExecStream, id: u64, end: End, output: &str) {
        let result = v1::ExecResult { id, end: Some(end), output: output.as_bytes().into() };
        let sent = stream.answers.send(v1::ServeExecRequest { result: Some(result) });
        // Over: see above.
        let _ = self.wait("room for an answer", sent);
    }
}

/// A container that has been running for so long.
#[must_use]
pub fn running(name: &str, id: &str, seconds: i64) -> v1::EmbeddedContainer {
    let at = clock::wall().checked_sub(jiff::SignedDuration::from_secs(seconds)).expect("a time");
    container(name, id, State::Running(v1::Running { started_at: Some(timestamp(at)) }))
}

/// A container in this state.
#[must_use]
pub fn container(name: &str, id: &str, state: State) -> v1::EmbeddedContainer {
    v1::EmbeddedContainer {
        name: name.to_owned(),
        id: id.to_owned(),
        state: Some(v1::ContainerState { state: Some(state) }),
        ..v1::EmbeddedContainer::default()
    }
}

/// A result says this of that instance.
#[must_use]
pub fn says(result: &v1::ProbeResult, probe_type: ProbeType, id: &str, verdict: Verdict) -> bool {
    let of = result.probe.as_ref().is_some_and(|probe| probe.r#type() == probe_type);
    of && result.container_id == id && result.result() == verdict
}
