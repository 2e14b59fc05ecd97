//! Pods as Kubernetes objects: `get pods -o json` is a v1.PodList that other programs can read.
//!
//! A pod's object holds what the daemon kept of its manifest, and its status as a kubelet would write it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::pods;
use crate::api::convert::timestamp_from;
use crate::api::v1::{self, container_state::State, probe_spec::Handler};

/// Several pods.
#[must_use]
pub fn list(pods: &[v1::Pod], node_name: &str) -> k8s_openapi::List<k8s::Pod> {
    k8s_openapi::List { items: pods.iter().map(|p| pod(p, node_name)).collect(), metadata: ListMeta::default() }
}

/// One pod.
#[must_use]
pub fn pod(of: &v1::Pod, node_name: &str) -> k8s::Pod {
    let is_init = |c: &&v1::Container| c.kind() != v1::ContainerKind::Regular;
    let (init, regular): (Vec<_>, Vec<_>) = of.containers.iter().partition(is_init);
    let gates = of.readiness_gates.iter().map(|gate| k8s::PodReadinessGate { condition_type: gate.clone() });
    k8s::Pod {
        metadata: ObjectMeta {
            name: Some(of.name.clone()),
            namespace: Some(of.namespace.clone()),
            uid: Some(of.uid.clone()),
            labels: map(&of.labels),
            annotations: map(&of.annotations),
            creation_timestamp: time(of.created_at.as_ref()),
            ..ObjectMeta::default()
        },
        spec: Some(k8s::PodSpec {
            containers: regular.iter().map(|c| container(c)).collect(),
            init_containers: some(init.iter().map(|c| container(c)).collect()),
            host_network: of.host_network.then_some(true),
            node_name: text(node_name),
            readiness_gates: some(gates.collect()),
            restart_policy: restart_policy(of.restart_policy()),
            termination_grace_period_seconds: i64::try_from(of.termination_grace_period_s).ok(),
            ..k8s::PodSpec::default()
        }),
        status: Some(status(of, &init, &regular)),
    }
}

fn status(of: &v1::Pod, init: &[&v1::Container], regular: &[&v1::Container]) -> k8s::PodStatus {
    let statuses =
        |containers: &[&v1::Container]| some(containers.iter().filter_map(|c| container_status(c)).collect());
    k8s::PodStatus {
        phase: Some(pods::phase(of.phase()).to_owned()),
        pod_ip: text(&of.pod_ip),
        pod_ips: text(&of.pod_ip).map(|ip| vec![k8s::PodIP { ip }]),
        start_time: time(of.created_at.as_ref()),
        conditions: some(of.conditions.iter().map(condition).collect()),
        init_container_statuses: statuses(init),
        container_statuses: statuses(regular),
        ..k8s::PodStatus::default()
    }
}

fn container(of: &v1::Container) -> k8s::Container {
    let probe_of = |probe_type: v1::ProbeType| {
        let found = of.probes.iter().find(|p| p.r#type() == probe_type)?;
        found.spec.as_ref().map(probe)
    };
    let restart_policy = match of.kind() {
        v1::ContainerKind::Sidecar => Some("Always".to_owned()),
        _ => restart_policy(of.restart_policy()),
    };
    k8s::Container {
        name: of.name.clone(),
        image: text(&of.image),
        command: some(of.command.clone()),
        args: some(of.args.clone()),
        restart_policy,
        startup_probe: probe_of(v1::ProbeType::Startup),
        readiness_probe: probe_of(v1::ProbeType::Readiness),
        liveness_probe: probe_of(v1::ProbeType::Liveness),
        ..k8s::Container::default()
    }
}

fn probe(spec: &v1::ProbeSpec) -> k8s::Probe {
    let mut probe = k8s::Probe {
        initial_delay_seconds: Some(spec.initial_delay_s).filter(|s| *s != 0),
        timeout_seconds: i32::try_from(spec.timeout_s).ok(),
        period_seconds: i32::try_from(spec.period_s).ok(),
        success_threshold: i32::try_from(spec.success_threshold).ok(),
        failure_threshold: i32::try_from(spec.failure_threshold).ok(),
        termination_grace_period_seconds: spec.termination_grace_period_s.and_then(|s| i64::try_from(s).ok()),
        ..k8s::Probe::default()
    };
    match &spec.handler {
        Some(Handler::HttpGet(http)) => probe.http_get = Some(http_get(http)),
        Some(Handler::TcpSocket(tcp)) => {
            probe.tcp_socket = Some(k8s::TCPSocketAction { host: text(&tcp.host), port: port(tcp.port.as_ref()) });
        }
        Some(Handler::Grpc(grpc)) => {
            probe.grpc = Some(k8s::GRPCAction {
                port: i32::try_from(grpc.port).unwrap_or_default(),
                service: Some(grpc.service.clone()),
            });
        }
        Some(Handler::Exec(exec)) => {
            probe.exec = Some(k8s::ExecAction { command: Some(exec.command.clone()) });
        }
        None => {}
    }
    probe
}

fn http_get(http: &v1::HttpGet) -> k8s::HTTPGetAction {
    let headers = http.headers.iter().map(|h| k8s::HTTPHeader { name: h.name.clone(), value: h.value.clone() });
    k8s::HTTPGetAction {
        host: text(&http.host),
        http_headers: some(headers.collect()),
        path: Some(http.path.clone()),
        port: port(http.port.as_ref()),
        scheme: Some(http.scheme.to_ascii_uppercase()),
    }
}

/// A port that names nothing has no number any more: 0, which Kubernetes allows nobody else.
fn port(of: Option<&v1::Port>) -> IntOrString {
    match of.and_then(|p| p.port.as_ref()) {
        Some(v1::port::Port::Number(number)) => IntOrString::Int(i32::try_from(*number).unwrap_or_default()),
        _ => IntOrString::Int(0),
    }
}

fn condition(of: &v1::Condition) -> k8s::PodCondition {
    k8s::PodCondition {
        type_: of.r#type.clone(),
        status: condition_status(of.status()).to_owned(),
        reason: text(&of.reason),
        message: text(&of.message),
        last_transition_time: time(of.last_transition_at.as_ref()),
        ..k8s::PodCondition::default()
    }
}

/// As in an object: `True`, `False`, `Unknown`.
#[must_use]
pub const fn condition_status(of: v1::ConditionStatus) -> &'static str {
    match of {
        v1::ConditionStatus::True => "True",
        v1::ConditionStatus::False => "False",
        v1::ConditionStatus::Unspecified | v1::ConditionStatus::Unknown => "Unknown",
    }
}

/// Nothing before the runtime's first word.
fn container_status(of: &v1::Container) -> Option<k8s::ContainerStatus> {
    let state = of.state.as_ref()?;
    Some(k8s::ContainerStatus {
        name: of.name.clone(),
        container_id: text(&of.id),
        image: of.image.clone(),
        ready: of.ready,
        started: Some(of.started),
        restart_count: i32::try_from(of.restart_count).unwrap_or(i32::MAX),
        state: Some(container_state(state.state.as_ref())),
        last_state: of
            .last_termination
            .as_ref()
            .map(|how| k8s::ContainerState { terminated: Some(terminated(how, "")), ..k8s::ContainerState::default() }),
        ..k8s::ContainerStatus::default()
    })
    .map(|mut status| {
        if let Some(ended) = status.state.as_mut().and_then(|s| s.terminated.as_mut()) {
            ended.container_id = status.container_id.clone();
        }
        status
    })
}

fn container_state(of: Option<&State>) -> k8s::ContainerState {
    let mut state = k8s::ContainerState::default();
    match of {
        Some(State::Waiting(why)) => {
            state.waiting = Some(k8s::ContainerStateWaiting { reason: text(&why.reason), message: text(&why.message) });
        }
        Some(State::Running(running)) => {
            state.running = Some(k8s::ContainerStateRunning { started_at: time(running.started_at.as_ref()) });
        }
        Some(State::Terminated(how)) => state.terminated = Some(terminated(how, "")),
        None => {}
    }
    state
}

fn terminated(how: &v1::Termination, id: &str) -> k8s::ContainerStateTerminated {
    k8s::ContainerStateTerminated {
        container_id: text(id),
        exit_code: how.exit_code,
        signal: Some(how.signal).filter(|signal| *signal != 0),
        reason: text(&how.reason),
        message: text(&how.message),
        started_at: time(how.started_at.as_ref()),
        finished_at: time(how.finished_at.as_ref()),
    }
}

fn restart_policy(of: v1::RestartPolicy) -> Option<String> {
    let text = match of {
        v1::RestartPolicy::Unspecified => return None,
        v1::RestartPolicy::Always => "Always",
        v1::RestartPolicy::OnFailure => "OnFailure",
        v1::RestartPolicy::Never => "Never",
    };
    Some(text.to_owned())
}

fn map(of: &std::collections::HashMap<String, String>) -> Option<BTreeMap<String, String>> {
    (!of.is_empty()).then(|| of.iter().map(|(k, v)| (k.clone(), v.clone())).collect())
}

fn some<T>(of: Vec<T>) -> Option<Vec<T>> {
    (!of.is_empty()).then_some(of)
}

fn text(of: &str) -> Option<String> {
    (!of.is_empty()).then(|| of.to_owned())
}

fn time(at: Option<&prost_types::Timestamp>) -> Option<Time> {
    timestamp_from(at).map(Time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::pods::tests::{at, pod as wire_pod, running, termination};

    #[test]
    fn a_list_of_pods_is_read_by_kubernetes_types() {
        let mut app = running("app", true);
        app.id = "process://1".to_owned();
        app.restart_count = 2;
        app.last_termination = Some(termination(137, 9, "Error", 30));
        app.probes = vec![v1::Probe {
            r#type: v1::ProbeType::Liveness.into(),
            spec: Some(v1::ProbeSpec {
                handler: Some(Handler::TcpSocket(v1::TcpSocket {
                    host: String::new(),
                    port: Some(v1::Port { port: Some(v1::port::Port::Number(8080)) }),
                })),
                timeout_s: 1,
                period_s: 10,
                success_threshold: 1,
                failure_threshold: 3,
                ..v1::ProbeSpec::default()
            }),
            ..v1::Probe::default()
        }];
        let mut wire = wire_pod(v1::PodPhase::Running, vec![app]);
        wire.labels.insert("app".to_owned(), "web".to_owned());
        wire.conditions = vec![v1::Condition {
            r#type: "Ready".to_owned(),
            status: v1::ConditionStatus::True.into(),
            last_transition_at: at(10),
            ..v1::Condition::default()
        }];
        let json = serde_json::to_value(list(&[wire], "node-1")).expect("json");
        assert_eq!(json["kind"], "PodList");
        assert_eq!(json["apiVersion"], "v1");
        let read: k8s_openapi::List<k8s::Pod> = serde_json::from_value(json.clone()).expect("a PodList");
        let pod = &read.items[0];
        let status = pod.status.as_ref().expect("status");
        assert_eq!(status.phase.as_deref(), Some("Running"));
        let container = &status.container_statuses.as_ref().expect("statuses")[0];
        assert_eq!((container.restart_count, container.ready), (2, true));
        let item = &json["items"][0];
        assert_eq!(item["spec"]["containers"][0]["livenessProbe"]["tcpSocket"]["port"], 8080);
        assert_eq!(item["spec"]["nodeName"], "node-1");
        assert_eq!(item["status"]["conditions"][0]["status"], "True");
        assert_eq!(item["metadata"]["labels"]["app"], "web");
        assert_eq!(item["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 137);
    }
}
