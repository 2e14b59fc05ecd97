//! A pod as a row of the dashboard's table: an array, as there are thousands of them. [`POD_COLUMNS`] and
//! [`PROBE_COLUMNS`] name the places; a place is only ever added at the end.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use jiff::Timestamp;
use probe_core::outcome::Verdict;
use probe_core::pod::ConditionStatus;
use probe_core::spec::{Container, ContainerKind, Handler, HttpGet, Port, ProbeSpec, Scheme};
use probe_core::status::{ContainerState, ContainerStatus};
use probe_core::time::Instant;
use serde::Serialize;

use crate::clock;
use crate::ebpf::Answer;
use crate::limits;
use crate::results::{PodRecord, ProbeRecord, cut};
use crate::shard::metrics::{HandlerKind, OutcomeKind};

/// What stands where in a pod's row.
pub const POD_COLUMNS: [&str; 13] = [
    "uid",
    "namespace",
    "name",
    "phase",
    "ready",
    "deleting",
    "containersReady",
    "containers",
    "restarts",
    "addedAtMs",
    "reason",
    "podIP",
    "probes",
];

/// What stands where in a probe's row.
pub const PROBE_COLUMNS: [&str; 17] = [
    "container",
    "type",
    "handler",
    "target",
    "verdict",
    "run",
    "failureThreshold",
    "successThreshold",
    "last",
    "lastAtMs",
    "lastDurationUs",
    "timeoutS",
    "periodS",
    "near",
    "pausedUntilMs",
    "passive",
    "message",
];

/// In `near`: within [`limits::NEAR_RECENT`] an attempt succeeded that took at least [`limits::NEAR_TIMEOUT_PERCENT`] of its timeout.
const NEAR_TIMEOUT: u8 = 1;
/// In `near`: one failure more in a row makes the verdict.
const NEAR_THRESHOLD: u8 = 2;

/// A report and a count of the same call are stamped through two readings of the clock: closer than this, they are one.
const SAME_CALL_MS: i64 = 50;

/// In the order of [`POD_COLUMNS`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PodRow(
    String,
    String,
    String,
    &'static str,
    &'static str,
    bool,
    usize,
    usize,
    u32,
    i64,
    String,
    String,
    Vec<ProbeRow>,
);

/// In the order of [`PROBE_COLUMNS`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProbeRow(
    String,
    &'static str,
    &'static str,
    String,
    &'static str,
    u32,
    u32,
    u32,
    &'static str,
    i64,
    u64,
    u32,
    u32,
    u8,
    i64,
    bool,
    String,
);

/// The row of a pod.
#[must_use]
pub fn row(record: &PodRecord) -> PodRow {
    let pod = &record.pod;
    let counted = |spec: &Container| spec.kind != ContainerKind::Init;
    let (mut containers, mut ready, mut restarts) = (0, 0, 0_u32);
    let mut probes = Vec::with_capacity(record.probes.len());
    for (spec, container) in record.containers() {
        containers += usize::from(counted(spec));
        ready += usize::from(counted(spec) && container.ready);
        // What an embedder tells may be any number.
        restarts =
            restarts.saturating_add(record.container_status(&container).map_or(0, |status| status.restart_count));
        for probe in container.probes {
            probes.extend(spec.probes.by_type(probe.probe_type).map(|asked| probe_row(spec, asked, probe)));
        }
    }
    let added_at = Timestamp::from(record.added_at);
    let ip = pod_ip(record);
    PodRow(
        pod.uid.to_string(),
        pod.namespace.to_string(),
        pod.name.to_string(),
        record.phase.as_str(),
        ready_word(record.ready()),
        record.deleting,
        ready,
        containers,
        restarts,
        added_at.as_millisecond(),
        reason(record).unwrap_or_default().to_owned(),
        ip.map(|ip| ip.to_string()).unwrap_or_default(),
        probes,
    )
}

/// What of a pod is worth telling of at once: all of its row but what every steady success changes.
#[must_use]
pub fn digest(record: &PodRecord) -> u64 {
    let mut hasher = DefaultHasher::new();
    (record.phase as u8, record.deleting, ready_word(record.ready())).hash(&mut hasher);
    (reason(record), pod_ip(record)).hash(&mut hasher);
    for (spec, container) in record.containers() {
        let status = record.container_status(&container);
        (container.ready, status.map_or(0, |status| status.restart_count)).hash(&mut hasher);
        for probe in container.probes {
            probe.verdict.map(Verdict::as_str).hash(&mut hasher);
            probe.last().map(|last| last.at.as_nanosecond()).hash(&mut hasher);
            (probe.stats.has_failed(), paused_until_ms(probe)).hash(&mut hasher);
            if let Some(asked) = spec.probes.by_type(probe.probe_type) {
                near(asked, probe).hash(&mut hasher);
            }
        }
    }
    hasher.finish()
}

fn pod_ip(record: &PodRecord) -> Option<IpAddr> {
    record.status.as_ref().and_then(|status| status.pod_ip).or(record.pod.pod_ip.get())
}

const fn ready_word(of: ConditionStatus) -> &'static str {
    match of {
        ConditionStatus::True => "True",
        ConditionStatus::False => "False",
        ConditionStatus::Unknown => "Unknown",
    }
}

/// Why a container waits or has ended, as `kubectl get pods` tells it: that of the first that does.
fn reason(record: &PodRecord) -> Option<&str> {
    let of = |status: &ContainerStatus| matches!(status.state, ContainerState::Waiting(_));
    let statuses = &record.status.as_ref()?.containers;
    let waiting = statuses.iter().find(|status| of(status))?;
    match &waiting.state {
        ContainerState::Waiting(why) => Some(&why.reason),
        _ => None,
    }
}

fn probe_row(container: &Container, spec: &ProbeSpec, of: &ProbeRecord) -> ProbeRow {
    let stats = &of.stats;
    let last = last(of);
    ProbeRow(
        container.name.to_string(),
        of.probe_type.as_str(),
        handler_kind(&spec.handler).as_str(),
        cut(&target(&spec.handler), limits::DASHBOARD_TARGET_BYTES_MAX).to_owned(),
        of.verdict.map_or("", Verdict::as_str),
        stats.run(),
        spec.failure_threshold,
        spec.success_threshold,
        last.kind,
        last.at_ms,
        last.duration_ns / 1_000,
        spec.timeout_seconds,
        spec.period_seconds,
        near(spec, of),
        paused_until_ms(of),
        stats.answer() == Answer::Passive,
        cut(last.message, limits::DASHBOARD_MESSAGE_BYTES_MAX).to_owned(),
    )
}

/// 0 where it is not paused.
fn paused_until_ms(of: &ProbeRecord) -> i64 {
    of.paused(clock::now()).map_or(0, |paused| Timestamp::from(paused.until).as_millisecond())
}

/// What the newest attempt saw.
struct Last<'a> {
    kind: &'static str,
    at_ms: i64,
    duration_ns: u64,
    message: &'a str,
}

/// Steady successes are counted and not reported, and reports may be dropped: a count that is newer than the report tells more.
fn last(of: &ProbeRecord) -> Last<'_> {
    let counted_ms = match of.stats.last_at_ns() {
        0 => None,
        nanos => Some(clock::wall_of(Instant::from_nanos(nanos)).as_millisecond()),
    };
    let report = of.last();
    let is_newer = |at: &i64| report.is_none_or(|report| at - report.at.as_millisecond() > SAME_CALL_MS);
    match (counted_ms.filter(is_newer), report) {
        (Some(at_ms), _) => Last {
            kind: if of.stats.has_failed() { OutcomeKind::Failure } else { OutcomeKind::Success }.as_str(),
            at_ms,
            duration_ns: of.stats.last_duration_ns(),
            message: "",
        },
        (None, Some(report)) => Last {
            kind: report.kind.as_str(),
            at_ms: report.at.as_millisecond(),
            duration_ns: report.duration_ns,
            message: &report.message,
        },
        (None, None) => Last { kind: "", at_ms: 0, duration_ns: 0, message: "" },
    }
}

/// Near misses: [`NEAR_TIMEOUT`] and [`NEAR_THRESHOLD`], or 0.
pub(crate) fn near(spec: &ProbeSpec, of: &ProbeRecord) -> u8 {
    let stats = &of.stats;
    let is_recent = |at_ns| clock::now() - Instant::from_nanos(at_ns) <= limits::NEAR_RECENT;
    let in_time = Some(stats.near_at_ns()).filter(|at_ns| *at_ns > 0).is_some_and(is_recent);
    let is_last_warning =
        stats.has_failed() && stats.run() + 1 == spec.failure_threshold && of.verdict != Some(Verdict::Failure);
    u8::from(in_time) * NEAR_TIMEOUT + u8::from(is_last_warning) * NEAR_THRESHOLD
}

/// As the metrics call it.
pub(crate) fn handler_kind(of: &Handler) -> HandlerKind {
    match of {
        Handler::HttpGet(HttpGet { scheme: Scheme::Http, .. }) => HandlerKind::Http,
        Handler::HttpGet(HttpGet { scheme: Scheme::Https, .. }) => HandlerKind::Https,
        Handler::TcpSocket(_) => HandlerKind::Tcp,
        Handler::Grpc(_) => HandlerKind::Grpc,
        Handler::Exec(_) => HandlerKind::Exec,
    }
}

/// What it asks: `:8080/healthz`, `db.internal:5432`, `:9000 service`, `test -e up`. No header of a request is in it.
pub(crate) fn target(of: &Handler) -> String {
    match of {
        Handler::HttpGet(http) => {
            let slash = if http.path.starts_with('/') || http.path.is_empty() { "" } else { "/" };
            format!("{}:{}{slash}{}", http.host.as_deref().unwrap_or_default(), port(&http.port), http.path)
        }
        Handler::TcpSocket(tcp) => format!("{}:{}", tcp.host.as_deref().unwrap_or_default(), port(&tcp.port)),
        Handler::Grpc(grpc) => format!(":{} {}", grpc.port, grpc.service).trim_end().to_owned(),
        Handler::Exec(exec) => exec.command.join(" "),
    }
}

fn port(of: &Port) -> String {
    match of {
        Port::Number(number) => number.to_string(),
        Port::Unusable(_) => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use probe_core::id::ProbeType;

    use super::*;
    use crate::manager::slots_of;
    use crate::results::fixture::simple_pod;

    fn record() -> PodRecord {
        let pod = simple_pod("a", &[ProbeType::Readiness]);
        let slots = slots_of(&pod);
        PodRecord::new(Arc::clone(&pod), &slots, None, clock::wall())
    }

    fn probe(record: &PodRecord, column: &str) -> serde_json::Value {
        let json = serde_json::to_value(row(record)).expect("plain data");
        let place = PROBE_COLUMNS.iter().position(|name| *name == column).expect("a column");
        json[POD_COLUMNS.len() - 1][0][place].clone()
    }

    #[test]
    fn every_column_has_its_value() {
        let json = serde_json::to_value(row(&record())).expect("plain data");
        let values = json.as_array().expect("an array");
        assert_eq!(values.len(), POD_COLUMNS.len());
        assert_eq!(values[POD_COLUMNS.len() - 1][0].as_array().map(Vec::len), Some(PROBE_COLUMNS.len()));
        assert_eq!((&values[1], &values[2]), (&"default".into(), &"a".into()));
        assert_eq!(probe(&record(), "target"), ":80");
    }

    #[test]
    fn an_attempt_that_took_most_of_its_timeout_and_a_last_warning_are_near_misses() {
        let mut record = record();
        record.probes[0].verdict = Some(Verdict::Success);
        let stats = Arc::clone(&record.probes[0].stats);
        let seen = |success: bool, run: u32| {
            stats.record(success, 1_000_000, 1, run);
            probe(&record, "near")
        };
        assert_eq!(seen(true, 1), 0);
        assert_eq!(seen(false, 1), 0);
        assert_eq!(seen(false, 2), NEAR_THRESHOLD);
        assert_eq!(seen(false, 3), 0, "that one makes the verdict");
        assert_eq!(probe(&record, "last"), "failure", "counted, though not reported");
        let now = clock::now();
        stats.note_near(now.saturating_sub(limits::NEAR_RECENT + Duration::from_secs(1)).as_nanos());
        assert_eq!(seen(true, 1), 0, "too long ago");
        stats.note_near(now.as_nanos());
        assert_eq!(seen(true, 2), NEAR_TIMEOUT, "of an attempt before the newest");
        assert_eq!(seen(false, 2), NEAR_TIMEOUT + NEAR_THRESHOLD);
    }

    #[test]
    fn steady_successes_change_no_digest_and_what_they_end_does() {
        let record = record();
        let stats = &record.probes[0].stats;
        stats.record(true, 1_000_000, 1, 1);
        let before = digest(&record);
        stats.record(true, 2_000_000, 2, 2);
        assert_eq!(digest(&record), before);
        stats.record(false, 2_000_000, 3, 1);
        assert_ne!(digest(&record), before);
        stats.record(true, 2_000_000, 4, 1);
        assert_eq!(digest(&record), before);
    }
}
