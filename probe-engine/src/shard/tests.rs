//! The shard against real sockets with both kernels ([`suite`]), against a scripted kernel with a clock of its own
//! ([`lateness`], [`turns`], [`passive`]), and as the thread that it is ([`threads`]).

mod fake;
mod lateness;
mod passive;
mod suite;
mod threads;
mod turns;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use probe_core::action::{AttemptId, WorkerIndex};
use probe_core::id::{ContainerName, ProbeType};
use probe_core::outcome::Outcome;
use probe_core::spec::{Container, ContainerKind, Handler, HttpGet, Pod, Port, ProbeSpec, Probes, Scheme, TcpSocket};
use probe_core::status::{ContainerState, ContainerStatus, PodPhase, PodStatus};
use probe_core::time::Instant;

use super::errand::Errand;
use super::flight::Launch;

pub(super) const CONTAINER: &str = "main";

pub(super) fn tcp_socket(port: u16) -> Handler {
    Handler::TcpSocket(TcpSocket { host: None, port: Port::Number(port) })
}

fn http_get(port: u16, path: &str) -> Handler {
    let port = Port::Number(port);
    Handler::HttpGet(HttpGet { host: None, port, path: path.into(), scheme: Scheme::Http, headers: Box::default() })
}

fn launch(handler: &Handler, pod_ip: IpAddr, timeout: Duration) -> Launch {
    let errand = Errand::new(&Arc::new(spec(handler.clone())), Some(pod_ip)).expect("an errand");
    let peer: SocketAddr = errand.addr().expect("an address");
    let attempt = AttemptId { worker: WorkerIndex(0), generation: 1 };
    Launch { attempt, errand, peer, timeout, witness: None }
}

pub(super) fn spec(handler: Handler) -> ProbeSpec {
    ProbeSpec {
        handler,
        initial_delay_seconds: 0,
        timeout_seconds: 1,
        period_seconds: 10,
        success_threshold: 1,
        failure_threshold: 3,
        termination_grace_period_seconds: None,
    }
}

/// A pod of one container with one readiness probe.
pub(super) fn pod(uid: &str, spec: ProbeSpec) -> Arc<Pod> {
    let container = Container {
        image: "image".into(),
        ..Container::new(
            ContainerName::from(CONTAINER),
            ContainerKind::Regular,
            Probes { readiness: Some(Arc::new(spec)), ..Probes::default() },
        )
    };
    Arc::new(Pod::new(uid.into(), "default", uid, [container]))
}

fn running(since: Instant) -> Arc<PodStatus> {
    let container = ContainerStatus {
        name: ContainerName::from(CONTAINER),
        id: Some("test://1".into()),
        state: ContainerState::Running { started_at: since },
        last_termination: None,
        restart_count: 0,
    };
    Arc::new(PodStatus {
        phase: PodPhase::Running,
        deleting: false,
        pod_ip: Some(IpAddr::from([127, 0, 0, 1])),
        netns: None,
        containers: Box::new([container]),
    })
}

const READINESS: ProbeType = ProbeType::Readiness;

fn failure_text(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Failure(text) => text,
        other => panic!("not a failure: {other:?}"),
    }
}
