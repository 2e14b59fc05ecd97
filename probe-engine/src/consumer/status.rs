//! A pod's status as the kubelet would generate it: started, ready, conditions.
//!
//! Source: `pkg/kubelet/status/generate.go`, `prober_manager.go` (`UpdatePodStatus`); the rules themselves are in
//! `probe_core::{container, pod}`. What is added here: the time of the last flip.
//!
//! **Invariant:** a verdict counts only for the container instance that it is about.

use std::sync::Arc;

use jiff::Timestamp;
use probe_core::container::{self, Facts, Flags, Probed};
use probe_core::id::{ContainerName, ProbeType};
use probe_core::pod::{Condition, ConditionStatus, conditions};
use probe_core::spec::ContainerKind;
use probe_core::status::{ContainerStatus, PodStatus};
use probe_core::time::Instant;

use crate::results::{ContainerRecord, PodRecord};

/// Takes over the runtime's newest word. Returns how many restarts it tells of that were not known before.
pub fn accept(record: &mut PodRecord, status: Arc<PodStatus>) -> u64 {
    let mut restarts = 0;
    for container in &mut record.containers {
        let index = status.containers.iter().position(|c| c.name == container.name);
        let newest = index.map(|index| &status.containers[index]);
        let known = record.status.as_ref().zip(container.status_index);
        let known = known.and_then(|(known, index)| known.containers.get(usize::from(index)));
        if known.and_then(|k| k.id.as_ref()) != newest.and_then(|n| n.id.as_ref()) {
            container.started = false;
        }
        if let (Some(known), Some(newest)) = (known, newest) {
            restarts += u64::from(newest.restart_count.saturating_sub(known.restart_count));
        }
        container.status_index = index.and_then(|index| u16::try_from(index).ok());
    }
    record.phase = status.phase;
    record.deleting |= status.deleting;
    record.status = Some(status);
    restarts
}

/// Computes started and ready of every container, and the conditions, again. `now` becomes the transition time
/// of what flips. Returns whether anything that `get pods` shows changed.
pub fn refresh(record: &mut PodRecord, manager_start: Instant, now: Timestamp) -> bool {
    let pod = Arc::clone(&record.pod);
    let was_ready = record.is_ready();
    let mut changed = false;
    for (container, spec) in record.containers.iter_mut().zip(pod.all_containers()) {
        let status = record.status.as_ref().zip(container.status_index);
        let status = status.and_then(|(status, index)| status.containers.get(usize::from(index)));
        let flags =
            status.map(|status| flags(container, status, spec.kind, manager_start, was_ready)).unwrap_or_default();
        changed |= flags != Flags { started: container.started, ready: container.ready };
        (container.started, container.ready) = (flags.started, flags.ready);
    }
    let flags_of = |name: &ContainerName| {
        let flags = |c: &ContainerRecord| Flags { started: c.started, ready: c.ready };
        record.container(name).map(flags).unwrap_or_default()
    };
    let gate_of = |wanted: &str| record.gates.iter().find(|(gate, _)| &**gate == wanted).map(|(_, status)| *status);
    let ours = conditions(&pod, record.status.as_deref(), &flags_of, &gate_of);
    let theirs = record.gates.iter().map(|(gate, status)| gate_condition(gate, *status));
    let newest: Vec<Condition> = ours.into_iter().chain(theirs).collect();
    changed |= newest.iter().ne(record.conditions.iter().map(|(condition, _)| condition));
    record.conditions = with_transitions(newest, &record.conditions, now);
    changed
}

fn flags(
    container: &ContainerRecord,
    status: &ContainerStatus,
    kind: ContainerKind,
    manager_start: Instant,
    pod_was_ready: bool,
) -> Flags {
    let probed = |probe_type: ProbeType| match container.probe(probe_type) {
        Some(probe) if probe.stats.is_live() => {
            Probed::Yes(probe.verdict.filter(|_| probe.container_id.is_some() && probe.container_id == status.id))
        }
        _ => Probed::No,
    };
    let facts = Facts {
        kind,
        startup: probed(ProbeType::Startup),
        readiness: probed(ProbeType::Readiness),
        was_started: container.started,
        manager_start,
        pod_was_ready,
    };
    container::flags(status, &facts)
}

fn gate_condition(gate: &Arc<str>, status: ConditionStatus) -> Condition {
    Condition { condition_type: Arc::clone(gate), status, reason: "", message: "".into() }
}

fn with_transitions(
    newest: Vec<Condition>,
    known: &[(Condition, Timestamp)],
    now: Timestamp,
) -> Vec<(Condition, Timestamp)> {
    let since = |condition: &Condition| {
        let same = |(k, _): &&(Condition, Timestamp)| {
            k.condition_type == condition.condition_type && k.status == condition.status
        };
        known.iter().find(same).map_or(now, |(_, since)| *since)
    };
    newest.into_iter().map(|condition| (since(&condition), condition)).map(|(since, c)| (c, since)).collect()
}
