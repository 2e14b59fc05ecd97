//! Pods with one tcpSocket probe each.

use std::net::SocketAddr;
use std::sync::Arc;

use probe_core::id::{ContainerId, ContainerName};
use probe_core::spec::{Container, ContainerKind, Handler, Pod, Port, ProbeSpec, Probes, TcpSocket};
use probe_core::status::{ContainerState, ContainerStatus, PodPhase, PodStatus};
use probe_core::time::Instant;

/// Its only container.
pub const CONTAINER: &str = "main";

/// Seconds of its readiness probe.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// periodSeconds
    pub period_seconds: u32,
    /// timeoutSeconds
    pub timeout_seconds: u32,
}

/// A pod whose readiness probe connects to this address.
#[must_use]
pub fn pod(name: &str, addr: SocketAddr, times: Times) -> Arc<Pod> {
    let spec = ProbeSpec {
        handler: Handler::TcpSocket(TcpSocket { host: None, port: Port::Number(addr.port()) }),
        initial_delay_seconds: 0,
        timeout_seconds: times.timeout_seconds,
        period_seconds: times.period_seconds,
        success_threshold: 1,
        // Never reached: a verdict that changes triggers an attempt, which moves the grid of due times.
        failure_threshold: u32::MAX,
        termination_grace_period_seconds: None,
    };
    let container = Container {
        image: "none".into(),
        ..Container::new(
            ContainerName::from(CONTAINER),
            ContainerKind::Regular,
            Probes { readiness: Some(Arc::new(spec)), ..Probes::default() },
        )
    };
    Arc::new(Pod::new(name.into(), "default", name, [container]))
}

/// It runs, as this instance of its container, in this network namespace (`None` = the daemon's own).
#[must_use]
pub fn running(addr: SocketAddr, netns: Option<Arc<str>>, instance: u32, started_at: Instant) -> Arc<PodStatus> {
    Arc::new(PodStatus {
        phase: PodPhase::Running,
        deleting: false,
        pod_ip: addr.ip().into(),
        netns,
        containers: Box::new([ContainerStatus {
            name: ContainerName::from(CONTAINER),
            id: Some(ContainerId::from(format!("test://{instance}").as_str())),
            state: ContainerState::Running { started_at },
            last_termination: None,
            restart_count: instance,
        }]),
    })
}
