//! Pods, statuses and probes for the tests of this package.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::id::{ContainerId, ContainerName, PodUid, ProbeType};
use crate::spec::{Container, ContainerKind, Handler, Pod, Port, ProbeSpec, Probes, TcpSocket};
use crate::status::{ContainerState, ContainerStatus, PodPhase, PodStatus, Termination};
use crate::time::Instant;

/// Period 10 s, timeout 1 s, both thresholds 1.
pub(crate) fn spec() -> ProbeSpec {
    ProbeSpec {
        handler: Handler::TcpSocket(TcpSocket { host: None, port: Port::Number(80) }),
        initial_delay_seconds: 0,
        timeout_seconds: 1,
        period_seconds: 10,
        success_threshold: 1,
        failure_threshold: 1,
        termination_grace_period_seconds: None,
    }
}

pub(crate) fn thresholds(success: u32, failure: u32) -> ProbeSpec {
    ProbeSpec { success_threshold: success, failure_threshold: failure, ..spec() }
}

/// A container without probes.
pub(crate) fn container(name: &str, kind: ContainerKind) -> Container {
    Container::new(ContainerName::from(name), kind, Probes::default())
}

pub(crate) fn with_probe(mut container: Container, probe_type: ProbeType, spec: ProbeSpec) -> Container {
    let spec = Some(Arc::new(spec));
    match probe_type {
        ProbeType::Startup => container.probes.startup = spec,
        ProbeType::Readiness => container.probes.readiness = spec,
        ProbeType::Liveness => container.probes.liveness = spec,
    }
    container
}

pub(crate) fn with_all_probes(container: Container) -> Container {
    ProbeType::ALL.into_iter().fold(container, |container, probe_type| with_probe(container, probe_type, spec()))
}

/// A pod of these containers, restart policy Always, grace 30 s.
pub(crate) fn pod(uid: &str, containers: impl IntoIterator<Item = Container>) -> Pod {
    let (regular, init): (Vec<_>, Vec<_>) = containers.into_iter().partition(|c| c.kind == ContainerKind::Regular);
    let mut pod = Pod::new(PodUid::from(uid), "default", uid, regular);
    pod.init_containers = init.into();
    pod
}

pub(crate) fn waiting() -> ContainerState {
    ContainerState::waiting("CrashLoopBackOff", "")
}

pub(crate) fn running(started_at: Instant) -> ContainerState {
    ContainerState::Running { started_at }
}

pub(crate) fn terminated(exit_code: i32) -> ContainerState {
    ContainerState::Terminated(Box::new(termination(exit_code, Instant::ZERO)))
}

pub(crate) fn termination(exit_code: i32, finished_at: Instant) -> Termination {
    let reason = if exit_code == 0 { "Completed" } else { "Error" };
    Termination {
        exit_code,
        signal: 0,
        backoff: crate::backoff::Backoff::new(),
        reason: reason.into(),
        message: "".into(),
        started_at: Instant::ZERO,
        finished_at,
        restart_allowed: None,
    }
}

pub(crate) fn container_status(name: &str, id: &str, state: ContainerState) -> ContainerStatus {
    ContainerStatus {
        name: ContainerName::from(name),
        id: Some(ContainerId::from(id)),
        state,
        last_termination: None,
        restart_count: 0,
    }
}

/// A running pod with these containers.
pub(crate) fn pod_status(containers: impl IntoIterator<Item = ContainerStatus>) -> PodStatus {
    PodStatus {
        phase: PodPhase::Running,
        deleting: false,
        pod_ip: None,
        netns: None,
        containers: containers.into_iter().collect(),
    }
}
