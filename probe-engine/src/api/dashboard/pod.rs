//! One pod as the dashboard shows it: what `describe` tells, its events, and what became of its verdicts.
//!
//! Not in it: environment, command and arguments of containers, annotations, values of request headers. The command of an exec
//! probe is, as it is in the events.

use probe_core::action::PublishCause;
use probe_core::outcome::Verdict;
use serde_json::{Value, json};

use crate::api::{convert, v1};
use crate::clock;
use crate::consumer::board::row;
use crate::consumer::events::{Event, EventsHandle};
use crate::ebpf::PassiveSettings;
use crate::limits;
use crate::results::{Change, Changed, PodRecord, ResultsError, ResultsHandle, WallNs};

/// The pod of this name; `None` where there is none.
pub(super) async fn read(
    results: &ResultsHandle,
    events: &EventsHandle,
    passive: Option<&PassiveSettings>,
    namespace: &str,
    name: &str,
) -> Result<Option<Value>, ResultsError> {
    let (namespace, name) = (namespace.to_owned(), name.to_owned());
    let found = results.read(move |node| {
        let record = node.pod_by_name(&namespace, &name)?.clone();
        let (changes, complete_since) = node.timeline.newest_of(&record.pod.uid, limits::DASHBOARD_TIMELINE_LEN_MAX);
        Some((record, changes, complete_since))
    });
    let Some((record, changes, complete_since)) = found.await? else { return Ok(None) };
    // Without its stage the pod is shown all the same: the daemon is ending.
    let history = events.history().await.unwrap_or_default();
    let happened = history.iter().filter(|event| event.pod_uid == record.pod.uid).map(|event| json_of_event(event));
    let mut pod = json_of_pod(&record, passive);
    pod["events"] = happened.collect();
    pod["timeline"] = json!({
        "completeSinceMs": complete_since.map(ms),
        "changes": changes.iter().map(json_of_change).collect::<Vec<_>>(),
    });
    Ok(Some(pod))
}

fn json_of_pod(record: &PodRecord, passive: Option<&PassiveSettings>) -> Value {
    let wire = convert::pod(record, passive);
    let containers = record.containers().zip(&wire.containers).map(|((spec, view), wire)| {
        let probes = view.probes.iter().zip(&wire.probes).filter_map(|(probe, wire)| {
            let asked = spec.probes.by_type(probe.probe_type)?;
            Some(json_of_probe(
                wire,
                probe.verdict,
                probe.probe_type.as_str(),
                row::target(&asked.handler),
                row::handler_kind(&asked.handler).as_str(),
                row::near(asked, probe),
            ))
        });
        json!({
            "name": wire.name,
            "kind": kind(wire.kind()),
            "image": wire.image,
            "id": wire.id,
            "state": wire.state.as_ref().and_then(|state| state.state.as_ref()).map(json_of_state),
            "lastTermination": wire.last_termination.as_ref().map(json_of_termination),
            "restartCount": wire.restart_count,
            "started": wire.started,
            "ready": wire.ready,
            "probes": probes.collect::<Vec<_>>(),
        })
    });
    let conditions = wire.conditions.iter().map(|condition| {
        json!({
            "type": condition.r#type,
            "status": condition_status(condition.status()),
            "reason": condition.reason,
            "message": condition.message,
            "sinceMs": ms_of(condition.last_transition_at.as_ref()),
        })
    });
    json!({
        "nowMs": clock::wall().as_millisecond(),
        "uid": wire.uid,
        "namespace": wire.namespace,
        "name": wire.name,
        "labels": wire.labels,
        "createdAtMs": ms_of(wire.created_at.as_ref()),
        "phase": record.phase.as_str(),
        "deleting": wire.deleting,
        "podIP": wire.pod_ip,
        "hostNetwork": wire.host_network,
        "restartPolicy": restart_policy(wire.restart_policy()),
        "terminationGracePeriodS": wire.termination_grace_period_s,
        "readinessGates": wire.readiness_gates,
        "conditions": conditions.collect::<Vec<_>>(),
        "containers": containers.collect::<Vec<_>>(),
        "ignoredFields": wire.ignored_fields,
        "source": wire.source,
    })
}

fn json_of_probe(
    wire: &v1::Probe,
    verdict: Option<Verdict>,
    probe_type: &str,
    target: String,
    handler: &str,
    near: u8,
) -> Value {
    let spec = wire.spec.clone().unwrap_or_default();
    let last = wire.last().as_str_name().trim_start_matches("OUTCOME_KIND_").to_ascii_lowercase();
    let durations = wire.durations.as_ref().map(|of| {
        json!({ "count": of.count, "sumNs": of.sum_ns, "maxNs": of.max_ns, "p50Ns": of.p50_ns, "p99Ns": of.p99_ns })
    });
    json!({
        "type": probe_type,
        "handler": handler,
        "target": target,
        "initialDelayS": spec.initial_delay_s,
        "timeoutS": spec.timeout_s,
        "periodS": spec.period_s,
        "successThreshold": spec.success_threshold,
        "failureThreshold": spec.failure_threshold,
        "verdict": verdict.map_or("", Verdict::as_str),
        "verdictSinceMs": ms_of(wire.verdict_since.as_ref()),
        "run": wire.run,
        "threshold": wire.threshold,
        "last": if last == "unspecified" { "" } else { &last },
        "lastMessage": wire.last_message,
        "lastAtMs": ms_of(wire.last_at.as_ref()),
        "lastDurationNs": wire.last_duration_ns,
        "successful": wire.successful_count,
        "failed": wire.failed_count,
        "dueAtMs": ms_of(wire.due_at.as_ref()),
        "answer": wire.answer,
        "answerReal": wire.answer_real,
        "passive": wire.passive_count,
        "real": wire.real_count,
        "worstCaseDetectionS": wire.worst_case_detection_s,
        "pausedUntilMs": ms_of(wire.paused_until.as_ref()),
        "onHold": wire.on_hold,
        "near": near,
        "durations": durations,
    })
}

fn json_of_event(event: &Event) -> Value {
    json!({
        "sequence": event.sequence,
        "atMs": event.last_at.as_millisecond(),
        "firstAtMs": event.first_at.as_millisecond(),
        "count": event.count,
        "type": event.event_type.as_str(),
        "reason": event.reason,
        "message": &*event.message,
        "container": event.container.as_ref().map(|(name, _)| name.as_str()),
        "probeType": event.probe_type.map(|of| of.as_str()),
        "run": event.run,
        "threshold": event.threshold,
    })
}

fn json_of_change(change: &Change) -> Value {
    match &change.what {
        Changed::Ready(ready) => json!({ "atMs": ms(change.at), "ready": ready }),
        Changed::Verdict { container, probe_type, verdict, cause } => json!({
            "atMs": ms(change.at),
            "container": container.as_str(),
            "probeType": probe_type.as_str(),
            "verdict": verdict.map_or("", Verdict::as_str),
            "cause": match cause {
                PublishCause::Initial => "Initial",
                PublishCause::Threshold => "Threshold",
                PublishCause::NotRunning => "NotRunning",
                PublishCause::Deleting => "Deleting",
                PublishCause::Removed => "Removed",
            },
        }),
    }
}

fn json_of_state(state: &v1::container_state::State) -> Value {
    use v1::container_state::State;
    match state {
        State::Waiting(why) => json!({ "is": "Waiting", "reason": why.reason, "message": why.message }),
        State::Running(since) => json!({ "is": "Running", "startedAtMs": ms_of(since.started_at.as_ref()) }),
        State::Terminated(how) => {
            let mut state = json_of_termination(how);
            state["is"] = "Terminated".into();
            state
        }
    }
}

fn json_of_termination(how: &v1::Termination) -> Value {
    json!({
        "exitCode": how.exit_code,
        "signal": how.signal,
        "reason": how.reason,
        "message": how.message,
        "startedAtMs": ms_of(how.started_at.as_ref()),
        "finishedAtMs": ms_of(how.finished_at.as_ref()),
    })
}

const fn kind(of: v1::ContainerKind) -> &'static str {
    match of {
        v1::ContainerKind::Init => "init",
        v1::ContainerKind::Sidecar => "sidecar",
        v1::ContainerKind::Regular | v1::ContainerKind::Unspecified => "regular",
    }
}

const fn restart_policy(of: v1::RestartPolicy) -> &'static str {
    match of {
        v1::RestartPolicy::OnFailure => "OnFailure",
        v1::RestartPolicy::Never => "Never",
        v1::RestartPolicy::Always | v1::RestartPolicy::Unspecified => "Always",
    }
}

const fn condition_status(of: v1::ConditionStatus) -> &'static str {
    match of {
        v1::ConditionStatus::True => "True",
        v1::ConditionStatus::False => "False",
        v1::ConditionStatus::Unknown | v1::ConditionStatus::Unspecified => "Unknown",
    }
}

fn ms(at: WallNs) -> i64 {
    jiff::Timestamp::from(at).as_millisecond()
}

fn ms_of(at: Option<&prost_types::Timestamp>) -> Option<i64> {
    convert::timestamp_from(at).map(|at| at.as_millisecond())
}
