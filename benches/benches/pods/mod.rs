//! Pods of one container with one readiness probe, for benches that need many.

use std::net::IpAddr;
use std::sync::Arc;

use probe_core::id::{ContainerId, ContainerName, PodUid};
use probe_core::spec::{Container, ContainerKind, Handler, Pod, Port, ProbeSpec, Probes, TcpSocket};
use probe_core::status::{ContainerState, ContainerStatus, PodPhase, PodStatus};
use probe_core::time::Instant;

/// Of every probe, in seconds.
pub(crate) const PERIOD_S: u64 = 10;
const CONTAINER: &str = "main";

/// A tcpSocket probe.
pub(crate) fn spec(port: u16) -> ProbeSpec {
    ProbeSpec {
        handler: Handler::TcpSocket(TcpSocket { host: None, port: Port::Number(port) }),
        initial_delay_seconds: 0,
        timeout_seconds: 1,
        period_seconds: PERIOD_S as u32,
        success_threshold: 1,
        failure_threshold: 3,
        termination_grace_period_seconds: None,
    }
}

/// Names and UIDs are of real length, and no two alike.
pub(crate) fn uid(index: u32) -> PodUid {
    PodUid::from(format!("3b1f0a52-7c5d-4e0e-9f3a-{index:012x}").as_str())
}

/// See the module.
pub(crate) fn pod(index: u32, spec: ProbeSpec) -> Arc<Pod> {
    let container = Container {
        image: "registry.k8s.io/pause:3.10".into(),
        ..Container::new(
            ContainerName::from(CONTAINER),
            ContainerKind::Regular,
            Probes { readiness: Some(Arc::new(spec)), ..Probes::default() },
        )
    };
    Arc::new(Pod::new(uid(index), "default", &format!("web-7d4b9c6f5-{index:05x}"), [container]))
}

/// Its container runs.
pub(crate) fn running(since: Instant) -> Arc<PodStatus> {
    let container = ContainerStatus {
        name: ContainerName::from(CONTAINER),
        id: Some(ContainerId::from("containerd://0f1e2d3c4b5a69788796a5b4c3d2e1f0")),
        state: ContainerState::Running { started_at: since },
        last_termination: None,
        restart_count: 0,
    };
    Arc::new(PodStatus {
        phase: PodPhase::Running,
        deleting: false,
        pod_ip: IpAddr::from([127, 0, 0, 1]).into(),
        netns: None,
        containers: Box::new([container]),
    })
}
