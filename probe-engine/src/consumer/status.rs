//! A pod's status as the kubelet would generate it: started, ready, conditions.
//!
//! Source: `pkg/kubelet/status/generate.go`, `prober_manager.go` (`UpdatePodStatus`); the rules themselves are in
//! `probe_core::{container, pod}`. What is added here: the time of the last flip.
//!
//! **Invariant:** a verdict counts only for the container instance that it is about.

use std::borrow::Cow;
use std::sync::Arc;

use jiff::Timestamp;
use probe_core::container::{self, Facts, Flags, Probed};
use probe_core::id::{ContainerName, ProbeType};
use probe_core::pod::{self, Condition, ConditionStatus};
use probe_core::spec::ContainerKind;
use probe_core::status::{ContainerStatus, PodStatus};
use probe_core::time::Instant;

use crate::results::{CONDITIONS_LEN, ContainerView, Gate, PodRecord};
use crate::shard::inbox::ProbeSlot;
use crate::state::PodState;

/// Takes over the runtime's newest word. Returns how many restarts it tells of that were not known before.
pub fn accept(record: &mut PodRecord, status: Arc<PodStatus>) -> u64 {
    accept_remembering(record, status, None)
}

/// The same, with what the daemon before this one knew: what was stored of an instance that is told for the first time, and is
/// the one that was known, is stored again.
pub fn accept_remembering(record: &mut PodRecord, status: Arc<PodStatus>, past: Option<&PodState>) -> u64 {
    let mut restarts = 0;
    let mut is_another = false;
    for (container, spec) in record.containers.iter_mut().zip(record.pod.all_containers()) {
        let index = status.containers.iter().position(|c| c.name == spec.name);
        let newest = index.map(|index| &status.containers[index]);
        let known = container.status_of(record.status.as_deref());
        if known.and_then(|k| k.id.as_ref()) != newest.and_then(|n| n.id.as_ref()) {
            container.started = false;
            let (before, newest) = (known.and_then(|k| k.id.as_ref()), newest.and_then(|n| n.id.as_ref()));
            record.probes[container.probes()].iter_mut().for_each(|probe| probe.replace_newest(before, newest));
            if before.is_none()
                && let Some((past, id)) = past.filter(|past| past.awaits_instances()).zip(newest)
            {
                let known = past.instance(&record.pod, spec.name.as_str(), id);
                is_another |= known.is_none();
                for probe in &mut record.probes[container.probes()] {
                    let known = known.and_then(|known| known.probe(probe.probe_type));
                    if let Some((memory, since)) = known.and_then(|k| k.memory(probe.probe_type).zip(Some(k.since()))) {
                        probe.remember(memory.verdict(), since);
                    }
                }
            }
        }
        if let (Some(known), Some(newest)) = (known, newest) {
            restarts += u64::from(newest.restart_count.saturating_sub(known.restart_count));
        }
        container.status_index = index.and_then(|index| u16::try_from(index).ok());
    }
    record.phase = status.phase;
    record.deleting |= status.deleting;
    record.status = Some(status);
    if is_another {
        // Nothing that was said of the instance before is said of this one (kubernetes/kubernetes #141473).
        record.conditions = [ConditionStatus::Unknown; CONDITIONS_LEN];
    }
    restarts
}

/// Of a pod whose instances may have outlived the daemon before this one: until they are told it stands as that one knew it.
pub fn await_instances(record: &mut PodRecord, past: &PodState) {
    remember(record, &[], Some(past));
    record.phase = past.phase().unwrap_or(record.phase);
}

/// Of a pod whose state is known from the start: what the daemon before this one knew of its probes and conditions. Nothing of
/// that is a change.
pub fn remember(record: &mut PodRecord, slots: &[ProbeSlot], past: Option<&PodState>) {
    for (container, spec) in record.containers.iter().zip(record.pod.all_containers()) {
        for probe in &mut record.probes[container.probes()] {
            let is_its_own = |slot: &&ProbeSlot| slot.container == spec.name && slot.probe_type == probe.probe_type;
            if let Some(past) = slots.iter().find(is_its_own).and_then(|slot| slot.past) {
                probe.remember(past.memory.verdict(), past.since);
            }
        }
    }
    let conditions = past.into_iter().flat_map(|past| &past.conditions);
    for ((known, status), since) in conditions.zip(&mut record.conditions).zip(&mut record.since) {
        (*status, *since) = (known.status(), known.since().into());
    }
}

/// Computes started and ready of every container, and the conditions, again. `now` becomes the transition time
/// of what flips. Returns whether anything changed but the conditions' texts, which follow from the rest.
pub fn refresh(record: &mut PodRecord, manager_start: Instant, now: Timestamp) -> bool {
    let pod = Arc::clone(&record.pod);
    let was_ready = record.is_ready();
    let mut changed = false;
    for (container, spec) in record.containers.iter_mut().zip(pod.all_containers()) {
        let status = container.status_of(record.status.as_deref());
        let flags = status.map(|status| {
            flags(ContainerView::new(container, &record.probes), status, spec.kind, manager_start, was_ready)
        });
        let flags = flags.unwrap_or_default();
        changed |= flags != Flags { started: container.started, ready: container.ready };
        (container.started, container.ready) = (flags.started, flags.ready);
    }
    let statuses = computed(record).map(|condition| condition.status);
    for ((newest, known), since) in statuses.iter().zip(&mut record.conditions).zip(&mut record.since) {
        if newest != known {
            (*known, *since) = (*newest, now.into());
            changed = true;
        }
    }
    changed
}

/// Initialized, ContainersReady, Ready and those set from outside, each with the time of its last flip. Reasons and texts are
/// made here, for whoever asks; the record keeps none.
#[must_use]
pub fn conditions(record: &PodRecord) -> Vec<(Condition, Timestamp)> {
    let ours = computed(record).into_iter().zip(record.conditions).zip(record.since);
    let ours = ours.map(|((condition, status), since)| (as_kept(condition, status), since.into()));
    let theirs = record.gates.iter().map(|gate| (gate_condition(gate), gate.since.into()));
    ours.chain(theirs).collect()
}

/// A condition that is kept from before its containers are known has no reason of today's.
fn as_kept(computed: Condition, status: ConditionStatus) -> Condition {
    if computed.status == status {
        return computed;
    }
    Condition { status, reason: "", message: "".into(), ..computed }
}

fn computed(record: &PodRecord) -> [Condition; CONDITIONS_LEN] {
    let flags_of = |name: &ContainerName| {
        let flags = |c: ContainerView<'_>| Flags { started: c.started, ready: c.ready };
        record.container(name).map(flags).unwrap_or_default()
    };
    let gate_of = |wanted: &str| {
        let gate = record.gates.iter().find(|gate| &*gate.condition_type == wanted);
        gate.map(|gate| gate.status)
    };
    pod::conditions(&record.pod, record.status.as_deref(), &flags_of, &gate_of)
}

/// Sets a condition from outside, or takes it away. Returns whether that changed anything.
pub fn set_gate(record: &mut PodRecord, wanted: &Arc<str>, status: Option<ConditionStatus>, now: Timestamp) -> bool {
    let known = record.gates.iter().find(|gate| gate.condition_type == *wanted).map(|gate| gate.status);
    if known == status {
        return false;
    }
    let set = status.map(|status| Gate { condition_type: Arc::clone(wanted), status, since: now.into() });
    let others = record.gates.iter().filter(|gate| gate.condition_type != *wanted).cloned();
    record.gates = others.chain(set).collect();
    true
}

fn flags(
    container: ContainerView<'_>,
    status: &ContainerStatus,
    kind: ContainerKind,
    manager_start: Instant,
    pod_was_ready: bool,
) -> Flags {
    let probed = |probe_type: ProbeType| match container.probe(probe_type) {
        Some(probe) if probe.stats.is_live() => Probed::Yes(probe.verdict_of_newest()),
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

fn gate_condition(gate: &Gate) -> Condition {
    let condition_type = Cow::Owned(gate.condition_type.to_string());
    Condition { condition_type, status: gate.status, reason: "", message: "".into() }
}
