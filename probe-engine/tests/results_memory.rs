//! What the results stage keeps of a pod of two containers with two probes each, in bytes of malloc.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use probe_core::action::{Publish, PublishCause, WorkerIndex};
use probe_core::id::{ContainerId, ContainerName, PodUid, ProbeType};
use probe_core::outcome::Verdict;
use probe_core::spec::{Container, ContainerKind, Handler, Pod, Port, ProbeSpec, Probes, TcpSocket};
use probe_core::status::{ContainerState, ContainerStatus, PodPhase, PodStatus};
use probe_engine::clock;
use probe_engine::manager::slots_of;
use probe_engine::results::{self, Config, Input, Stage, Update, UpdateQueue};
use probe_engine::source::SourceKind;
use tokio::sync::{Notify, mpsc};

/// Pods of the measurement.
const PODS: usize = 25_000;
/// Probes of each.
const PROBES: usize = 4;

/// Counts what malloc hands out: each piece with its header, in steps of 16 bytes.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

fn chunk(bytes: usize) -> usize {
    (bytes + 8).next_multiple_of(16).max(32)
}

// SAFETY: every call goes to the system's allocator as it came; what is counted beside it changes nothing of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(chunk(layout.size()), Ordering::Relaxed);
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        HELD.fetch_sub(chunk(layout.size()), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn held() -> usize {
    HELD.load(Ordering::Relaxed)
}

fn container(name: &str, spec: &Arc<ProbeSpec>) -> Container {
    Container::new(
        ContainerName::from(name),
        ContainerKind::Regular,
        Probes { startup: None, readiness: Some(Arc::clone(spec)), liveness: Some(Arc::clone(spec)) },
    )
}

fn pod(index: usize, spec: &Arc<ProbeSpec>) -> Arc<Pod> {
    Arc::new(Pod::new(
        PodUid::from(format!("00000000-0000-4000-8000-{index:012}").as_str()),
        "default",
        &format!("web-7d4b9c6f5d-{index}"),
        [container("app", spec), container("sidecar", spec)],
    ))
}

fn running(pod: &Pod) -> Arc<PodStatus> {
    let containers = pod.containers.iter().map(|container| ContainerStatus {
        name: container.name.clone(),
        id: Some(ContainerId::from(format!("containerd://{}-{}", pod.uid, container.name).as_str())),
        state: ContainerState::Running { started_at: clock::now() },
        last_termination: None,
        restart_count: 0,
    });
    Arc::new(PodStatus {
        phase: PodPhase::Running,
        deleting: false,
        pod_ip: None,
        netns: None,
        containers: containers.collect(),
    })
}

fn publish(pod: &Pod, status: &PodStatus, position: usize, probe_type: ProbeType, verdict: Verdict) -> Update {
    Update::Publish(Publish {
        worker: WorkerIndex(0),
        pod: pod.uid.clone(),
        container: pod.containers[position].name.clone(),
        probe_type,
        container_id: status.containers[position].id.clone().expect("it runs"),
        verdict: Some(verdict),
        cause: PublishCause::Threshold,
        at: clock::now(),
    })
}

#[tokio::test]
async fn a_pod_of_four_probes_costs_600_bytes_of_records_and_96_of_counts_per_probe() {
    let spec = Arc::new(ProbeSpec {
        handler: Handler::TcpSocket(TcpSocket { host: None, port: Port::Number(80) }),
        initial_delay_seconds: 0,
        timeout_seconds: 1,
        period_seconds: 10,
        success_threshold: 1,
        failure_threshold: 3,
        termination_grace_period_seconds: None,
    });
    // Made before: they are other stages' too.
    let pods: Vec<_> = (0..PODS).map(|index| pod(index, &spec)).map(|pod| (running(&pod), pod)).collect();
    let (inputs, handle, inbox) = results::channel();
    let wake = Arc::new(Notify::new());
    let queue = Arc::new(UpdateQueue::new(Arc::clone(&wake)));
    let (events, _events) = mpsc::channel(1);
    let config = Config {
        manager_start: clock::now(),
        sources: Vec::new(),
        queues: vec![Arc::clone(&queue)],
        wake,
        events,
        lifecycle: None,
    };
    let stage = tokio::spawn(Stage::new(config, inbox).run());
    handle.read(|_| ()).await.expect("the stage runs");

    let before = held();
    let mut stats_bytes = 0;
    for (status, pod) in &pods {
        let slots_before = held();
        let slots = slots_of(pod);
        stats_bytes += held() - slots_before - chunk(size_of_val(&*slots));
        let added = Input::Added {
            pod: Arc::clone(pod),
            slots,
            shard: Some(0),
            status: Some(Arc::clone(status)),
            past: None,
            source: SourceKind::Manifests,
        };
        inputs.send(added).await.expect("the stage runs");
    }
    handle.read(|_| ()).await.expect("the stage runs");
    for verdict in [Verdict::Failure, Verdict::Success] {
        for (status, pod) in &pods {
            for (position, probe_type) in
                [0, 1].into_iter().flat_map(|at| [(at, ProbeType::Readiness), (at, ProbeType::Liveness)])
            {
                let mut update = publish(pod, status, position, probe_type, verdict);
                while let Err(back) = queue.push(update) {
                    update = back;
                    handle.read(|_| ()).await.expect("the stage runs");
                }
            }
        }
    }
    // A look takes in a bounded number of updates first.
    while handle.read(|node| node.pods_ready).await.expect("the stage runs") < PODS as u64 {}
    assert_eq!(handle.read(|node| node.pods.probes_len()).await, Ok(PODS * PROBES));
    let records = (held() - before).saturating_sub(stats_bytes) / PODS;
    let stats = stats_bytes / (PODS * PROBES);
    println!("per pod: {records} bytes of records; per probe: {stats} bytes of counts");
    assert!(records <= 600, "{records} bytes of records per pod");
    assert!(stats <= 96, "{stats} bytes of counts per probe");
    stage.abort();
}
