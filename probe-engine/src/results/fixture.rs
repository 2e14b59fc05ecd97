//! Pods, updates and a running results stage for the tests of this package.

use std::sync::Arc;
use std::time::Duration;

use probe_core::action::{Publish, PublishCause, Report, WorkerIndex};
use probe_core::id::{ContainerId, ContainerName, PodUid, ProbeType, ProbeTypes};
use probe_core::outcome::{Outcome, Verdict};
use probe_core::spec::{Container, ContainerKind, Handler, Pod, Port, ProbeSpec, Probes, TcpSocket};
use probe_core::status::{ContainerState, ContainerStatus, PodPhase, PodStatus};
use tokio::sync::{Notify, mpsc};

use super::{Config, Input, Paused, ResultsHandle, ResultsSender, Stage, Update, UpdateQueue, channel};
use crate::clock;
use crate::consumer::events::NewEvent;
use crate::consumer::lifecycle::LifecycleInput;
use crate::manager::slots_of;
use crate::source::{Pause, SourceKind};

/// Nothing in a test takes longer.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// A container with these probes, all tcpSocket on port 80 with thresholds 1 and 3.
pub(crate) fn container(name: &str, kind: ContainerKind, probes: &[ProbeType]) -> Container {
    let spec = |probe_type: ProbeType| {
        let spec = ProbeSpec {
            handler: Handler::TcpSocket(TcpSocket { host: None, port: Port::Number(80) }),
            initial_delay_seconds: 0,
            timeout_seconds: 1,
            period_seconds: 10,
            success_threshold: 1,
            failure_threshold: 3,
            termination_grace_period_seconds: None,
        };
        probes.contains(&probe_type).then(|| Arc::new(spec))
    };
    Container::new(
        ContainerName::from(name),
        kind,
        Probes {
            startup: spec(ProbeType::Startup),
            readiness: spec(ProbeType::Readiness),
            liveness: spec(ProbeType::Liveness),
        },
    )
}

/// Pod `default/<name>`.
pub(crate) fn pod(uid: &str, name: &str, containers: impl IntoIterator<Item = Container>) -> Arc<Pod> {
    let (regular, init): (Vec<_>, Vec<_>) = containers.into_iter().partition(|c| c.kind == ContainerKind::Regular);
    let mut pod = Pod::new(PodUid::from(uid), "default", name, regular);
    pod.init_containers = init.into();
    Arc::new(pod)
}

/// A pod of one regular container `c` with these probes.
pub(crate) fn simple_pod(uid: &str, probes: &[ProbeType]) -> Arc<Pod> {
    pod(uid, uid, [container("c", ContainerKind::Regular, probes)])
}

/// All probes of a pod, for an hour from now, or from now on no more.
pub(crate) fn pause(is_on: bool) -> Pause {
    let now = clock::wall();
    let hour = Duration::from_secs(3_600);
    let paused = Paused {
        since: now.into(),
        until: now.checked_add(hour).expect("in range").into(),
        until_at: clock::now() + hour,
    };
    Pause {
        container: None,
        types: ProbeTypes::ALL,
        paused: is_on.then_some(paused),
        by: "uid 7".into(),
        is_each_told: true,
    }
}

/// Every container runs since now, under the instance `id`.
pub(crate) fn running(pod: &Pod, id: &str) -> PodStatus {
    let container = |c: &Container| ContainerStatus {
        name: c.name.clone(),
        id: Some(ContainerId::from(id)),
        state: ContainerState::Running { started_at: clock::now() },
        last_termination: None,
        restart_count: 0,
    };
    PodStatus {
        phase: PodPhase::Running,
        deleting: false,
        pod_ip: None,
        netns: None,
        containers: pod.all_containers().map(container).collect(),
    }
}

/// A verdict of container `c`.
pub(crate) fn publish(uid: &str, probe_type: ProbeType, id: &str, verdict: Option<Verdict>) -> Update {
    let cause = if verdict.is_some() { PublishCause::Threshold } else { PublishCause::Removed };
    publish_because(uid, probe_type, id, verdict, cause)
}

pub(crate) fn publish_because(
    uid: &str,
    probe_type: ProbeType,
    id: &str,
    verdict: Option<Verdict>,
    cause: PublishCause,
) -> Update {
    Update::Publish(Publish {
        worker: WorkerIndex(0),
        pod: PodUid::from(uid),
        container: ContainerName::from("c"),
        probe_type,
        container_id: ContainerId::from(id),
        verdict,
        cause,
        at: clock::now(),
    })
}

/// A report of container `c`, the second of three.
pub(crate) fn report(uid: &str, probe_type: ProbeType, outcome: Outcome) -> Update {
    Update::Report(Report {
        worker: WorkerIndex(0),
        pod: PodUid::from(uid),
        container: ContainerName::from("c"),
        probe_type,
        container_id: ContainerId::from("fake://1"),
        outcome,
        run: 2,
        threshold: 3,
        duration_ns: 5_000_000,
        at: clock::now(),
    })
}

/// A running results stage with one shard's queue and the consumers' ends of its channels.
pub(crate) struct Bench {
    pub(crate) inputs: ResultsSender,
    pub(crate) results: ResultsHandle,
    pub(crate) queue: Arc<UpdateQueue>,
    pub(crate) events: mpsc::Receiver<NewEvent>,
    pub(crate) lifecycle: mpsc::Receiver<LifecycleInput>,
    pub(crate) stage: tokio::task::JoinHandle<()>,
}

impl Bench {
    /// `events_len` and `lifecycle_len`: how much the consumers' channels hold.
    pub(crate) fn start(events_len: usize, lifecycle_len: usize) -> Self {
        Self::start_for(events_len, lifecycle_len, vec!["manifests"])
    }

    /// With these sources.
    pub(crate) fn start_with(sources: &[&'static str]) -> Self {
        Self::start_for(16, 16, sources.to_vec())
    }

    fn start_for(events_len: usize, lifecycle_len: usize, sources: Vec<&'static str>) -> Self {
        let (inputs, results, inbox) = channel();
        let wake = Arc::new(Notify::new());
        let queue = Arc::new(UpdateQueue::new(Arc::clone(&wake)));
        let (events_in, events) = mpsc::channel(events_len);
        let (lifecycle_in, lifecycle) = mpsc::channel(lifecycle_len);
        let config = Config {
            manager_start: clock::now(),
            sources,
            queues: vec![Arc::clone(&queue)],
            wake,
            events: events_in,
            lifecycle: Some(lifecycle_in),
        };
        let stage = tokio::spawn(Stage::new(config, inbox).run());
        Self { inputs, results, queue, events, lifecycle, stage }
    }

    pub(crate) async fn add(&self, pod: &Arc<Pod>, status: Option<PodStatus>) {
        self.input(Input::Added {
            pod: Arc::clone(pod),
            slots: slots_of(pod),
            shard: Some(0),
            status: status.map(Arc::new),
            past: None,
            source: SourceKind::Manifests,
        })
        .await;
    }

    pub(crate) async fn input(&self, input: Input) {
        self.inputs.send(input).await.expect("the stage runs");
    }

    pub(crate) fn push(&self, update: Update) {
        self.queue.push(update).expect("the queue has room");
    }

    pub(crate) async fn verdict(&self, uid: &str, probe_type: ProbeType) -> Option<Verdict> {
        let uid = PodUid::from(uid);
        let read = move |node: &super::Node| {
            let container = node.pods[&uid].container_at(0).expect("it has one");
            container.probe(probe_type).expect("it has it").verdict
        };
        self.results.read(read).await.expect("the stage runs")
    }

    pub(crate) async fn revision(&self) -> u64 {
        self.results.read(|node| node.revision).await.expect("the stage runs")
    }

    /// Restarts of containers that were told.
    pub(crate) async fn restarts(&self) -> u64 {
        self.results.read(|node| node.restarts).await.expect("the stage runs")
    }

    pub(crate) async fn event(&mut self) -> NewEvent {
        tokio::time::timeout(SOON, self.events.recv()).await.expect("in time").expect("the stage runs")
    }

    pub(crate) async fn failure(&mut self) -> LifecycleInput {
        tokio::time::timeout(SOON, self.lifecycle.recv()).await.expect("in time").expect("the stage runs")
    }
}
