//! Between the words of the core and those of the wire. Nothing else knows both.

pub mod embedded;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use probe_core::id::ProbeType;
use probe_core::outcome::{Outcome, Verdict};
use probe_core::pod::{Condition, ConditionStatus};
use probe_core::spec::{Container, ContainerKind, Handler, HttpGet, Pod, Port, ProbeSpec, RestartPolicy, Scheme};
use probe_core::status::{ContainerState, ContainerStatus, PodPhase, Termination};
use probe_core::time::Instant;

use super::v1;
use crate::clock;
use crate::consumer::events::{Event, EventType};
use crate::consumer::overview::{HandlerOverview, Overview, PoolOverview, Problem, Quantiles};
use crate::consumer::status::conditions;
use crate::ebpf::{Answer, PassiveSettings, Why};
use crate::results::{ContainerView, GonePod, PodRecord, ProbeRecord, Sketch};
use crate::shard::metrics::OutcomeKind;
use crate::source::control::Triggered;

/// A report and a count of the same call are stamped through two readings of the clock: closer than this,
/// they are one. Due times are a second or more apart.
const SAME_CALL: SignedDuration = SignedDuration::from_millis(50);

/// A due time that lies further back is an old one.
const DUE_PAST_MAX: Duration = Duration::from_secs(1);

/// A pod as it stands. `passive`: the operator's settings where the kernel program is there.
#[must_use]
pub fn pod(record: &PodRecord, passive: Option<&PassiveSettings>) -> v1::Pod {
    let max_age = max_age(&record.pod, passive);
    let pod = &record.pod;
    let ip = record.status.as_ref().and_then(|status| status.pod_ip).or(pod.pod_ip.get());
    v1::Pod {
        uid: pod.uid.to_string(),
        namespace: pod.namespace.to_string(),
        name: pod.name.to_string(),
        labels: pairs(&pod.labels),
        annotations: pairs(&pod.annotations),
        created_at: Some(timestamp(record.added_at.into())),
        phase: phase(record.phase).into(),
        deleting: record.deleting,
        pod_ip: ip.map(|ip| ip.to_string()).unwrap_or_default(),
        host_network: pod.host_network,
        restart_policy: restart_policy(pod.restart_policy).into(),
        termination_grace_period_s: pod.termination_grace_period_seconds,
        readiness_gates: pod.readiness_gates.iter().map(ToString::to_string).collect(),
        conditions: conditions(record).iter().map(|(condition_of, since)| condition(condition_of, *since)).collect(),
        containers: record
            .containers()
            .map(|(spec, c)| container(spec, c, record.container_status(&c), max_age))
            .collect(),
        ignored_fields: pod.ignored_fields.iter().map(ToString::to_string).collect(),
        source: record.source.as_str().to_owned(),
    }
}

/// The node at a glance.
#[must_use]
pub fn node(overview: &Overview) -> v1::WatchNodeResponse {
    let handler = |of: &HandlerOverview| v1::HandlerCounts {
        handler: of.handler.to_owned(),
        successful_count: of.successful,
        failed_count: of.failed,
        discarded_count: of.discarded,
        passive_count: of.passive,
        latency: Some(quantiles(&of.latency)),
    };
    let lane = |of: &PoolOverview| v1::PoolLane {
        handler: of.handler.to_owned(),
        queued_count: of.queued,
        in_flight_count: of.in_flight,
        in_flight_max: of.in_flight_max,
    };
    let problem = |of: &Problem| v1::Problem { kind: of.kind.to_owned(), text: of.text.clone(), severe: of.severe };
    v1::WatchNodeResponse {
        at: Timestamp::from_millisecond(overview.at_ms).ok().map(timestamp),
        node_name: overview.node_name.clone(),
        uptime_ns: overview.uptime_ns,
        pods_by_phase: overview.pods_by_phase.to_vec(),
        pods_ready_count: overview.pods_ready,
        probes_count: overview.probes,
        probes_failing_count: overview.probes_failing,
        probes_paused_count: overview.probes_paused,
        probes_stuck_count: overview.probes_stuck,
        handlers: overview.handlers.iter().map(handler).collect(),
        missed_count: overview.missed,
        local_count: overview.local,
        restarts_count: overview.restarts,
        in_flight_count: overview.in_flight,
        in_flight_max: overview.in_flight_max,
        pool: overview.pool.iter().map(lane).collect(),
        lateness: Some(quantiles(&overview.lateness)),
        cpu_ns: overview.cpu_ns,
        memory_bytes: overview.memory_bytes,
        problems: overview.problems.iter().map(problem).collect(),
        attempts_per_second: overview.attempts_per_second,
        cpu_cores: overview.cpu_cores,
    }
}

fn quantiles(of: &Quantiles) -> v1::Quantiles {
    let Quantiles { count, p50_ns, p90_ns, p99_ns, p999_ns, max_ns } = *of;
    v1::Quantiles { count, p50_ns, p90_ns, p99_ns, p999_ns, max_ns }
}

/// The probes of a pod, each with whose it is.
pub fn probe_rows(record: &PodRecord, passive: Option<&PassiveSettings>) -> impl Iterator<Item = v1::ProbeRow> {
    let pod = &record.pod;
    let max_age = max_age(pod, passive);
    record.containers().flat_map(move |(spec, of)| {
        probes(spec, of, record.container_status(&of), max_age).map(move |probe| v1::ProbeRow {
            namespace: pod.namespace.to_string(),
            pod: pod.name.to_string(),
            pod_uid: pod.uid.to_string(),
            container: spec.name.to_string(),
            probe: Some(probe),
        })
    })
}

/// The stored results of a pod, those without a verdict included, in the order of its probes.
pub fn probe_results(record: &PodRecord) -> impl Iterator<Item = v1::ProbeResult> {
    let pod = &record.pod;
    record.containers().flat_map(move |(spec, container)| {
        let newest = record.container_status(&container).and_then(|status| status.id.as_ref());
        container.probes.iter().map(move |of| v1::ProbeResult {
            probe: Some(v1::ProbeName {
                namespace: pod.namespace.to_string(),
                pod: pod.name.to_string(),
                pod_uid: pod.uid.to_string(),
                container: spec.name.to_string(),
                r#type: probe_type(of.probe_type).into(),
            }),
            container_id: of.container_id(newest).map(ToString::to_string).unwrap_or_default(),
            result: verdict(of.verdict).into(),
            run: of.stats.run(),
            reason: of.last().map(|last| last.message.to_string()).unwrap_or_default(),
        })
    })
}

/// Of a pod that is gone: it has no results any more.
#[must_use]
pub fn no_results(gone: &GonePod) -> v1::ProbeResult {
    let probe = v1::ProbeName {
        namespace: gone.namespace.to_string(),
        pod: gone.name.to_string(),
        pod_uid: gone.uid.to_string(),
        ..v1::ProbeName::default()
    };
    v1::ProbeResult { probe: Some(probe), ..v1::ProbeResult::default() }
}

/// A type of probe, on the wire.
#[must_use]
pub const fn probe_type(of: ProbeType) -> v1::ProbeType {
    match of {
        ProbeType::Startup => v1::ProbeType::Startup,
        ProbeType::Readiness => v1::ProbeType::Readiness,
        ProbeType::Liveness => v1::ProbeType::Liveness,
    }
}

/// A type of probe, from the wire; `None` where it was not said.
#[must_use]
pub const fn probe_type_from(of: v1::ProbeType) -> Option<ProbeType> {
    match of {
        v1::ProbeType::Unspecified => None,
        v1::ProbeType::Startup => Some(ProbeType::Startup),
        v1::ProbeType::Readiness => Some(ProbeType::Readiness),
        v1::ProbeType::Liveness => Some(ProbeType::Liveness),
    }
}

/// A condition's status, from the wire; `None` where it was not said.
///
/// # Errors
/// The number, where it is none of ours.
pub fn condition_status_from(of: i32) -> Result<Option<ConditionStatus>, i32> {
    match v1::ConditionStatus::try_from(of) {
        Ok(v1::ConditionStatus::Unspecified) => Ok(None),
        Ok(v1::ConditionStatus::True) => Ok(Some(ConditionStatus::True)),
        Ok(v1::ConditionStatus::False) => Ok(Some(ConditionStatus::False)),
        Ok(v1::ConditionStatus::Unknown) => Ok(Some(ConditionStatus::Unknown)),
        Err(_) => Err(of),
    }
}

/// A stored verdict, on the wire.
#[must_use]
pub const fn verdict(of: Option<Verdict>) -> v1::Verdict {
    match of {
        None => v1::Verdict::Unspecified,
        Some(Verdict::Unknown) => v1::Verdict::Unknown,
        Some(Verdict::Success) => v1::Verdict::Success,
        Some(Verdict::Failure) => v1::Verdict::Failure,
    }
}

/// The kind of an outcome, on the wire.
#[must_use]
pub const fn outcome_kind(of: OutcomeKind) -> v1::OutcomeKind {
    match of {
        OutcomeKind::Success => v1::OutcomeKind::Success,
        OutcomeKind::Warning => v1::OutcomeKind::Warning,
        OutcomeKind::Failure => v1::OutcomeKind::Failure,
        OutcomeKind::Error => v1::OutcomeKind::Error,
        OutcomeKind::Local => v1::OutcomeKind::Local,
    }
}

/// An outcome: its kind and its text.
#[must_use]
pub fn outcome(of: &Outcome) -> (v1::OutcomeKind, String) {
    match of {
        Outcome::Success(text) => (v1::OutcomeKind::Success, text.to_string()),
        Outcome::Warning(text) => (v1::OutcomeKind::Warning, text.to_string()),
        Outcome::Failure(text) => (v1::OutcomeKind::Failure, text.to_string()),
        Outcome::Error(text) => (v1::OutcomeKind::Error, text.to_string()),
        Outcome::Local(cause) => (v1::OutcomeKind::Local, cause.sentence().to_owned()),
    }
}

/// What a triggered attempt saw.
#[must_use]
pub fn triggered(of: &Triggered) -> v1::TriggerProbeResponse {
    let (kind, message) = outcome(&of.report.outcome);
    v1::TriggerProbeResponse {
        container: of.container.to_string(),
        verdict_before: verdict(of.before).into(),
        outcome: kind.into(),
        message,
        duration_ns: of.report.duration_ns,
        run: of.report.run,
        threshold: of.report.threshold,
        verdict: verdict(of.after).into(),
    }
}

/// An event.
#[must_use]
pub fn event(of: &Event) -> v1::Event {
    let (container, container_kind_of) = match &of.container {
        Some((name, kind)) => (name.to_string(), container_kind(*kind)),
        None => (String::new(), v1::ContainerKind::Unspecified),
    };
    v1::Event {
        sequence: of.sequence,
        at: Some(timestamp(of.last_at)),
        r#type: match of.event_type {
            EventType::Normal => v1::EventType::Normal,
            EventType::Warning => v1::EventType::Warning,
        }
        .into(),
        reason: of.reason.to_owned(),
        message: of.message.to_string(),
        namespace: of.namespace.to_string(),
        pod: of.pod.to_string(),
        pod_uid: of.pod_uid.to_string(),
        container,
        probe_type: of.probe_type.map_or(v1::ProbeType::Unspecified, probe_type).into(),
        run: of.run,
        threshold: of.threshold,
        cause: of.cause.as_deref().unwrap_or_default().to_owned(),
        container_kind: container_kind_of.into(),
        count: of.count,
        first_at: Some(timestamp(of.first_at)),
        name: of.name.to_string(),
    }
}

/// A point of wall-clock time, on the wire.
#[must_use]
pub fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    let (mut seconds, mut nanos) = (at.as_second(), at.subsec_nanosecond());
    // Before 1970 both parts are negative here; on the wire nanos count forward.
    if nanos < 0 {
        seconds -= 1;
        nanos += 1_000_000_000;
    }
    prost_types::Timestamp { seconds, nanos }
}

/// A point of wall-clock time, from the wire; `None` where it was not said or is out of range.
#[must_use]
pub fn timestamp_from(at: Option<&prost_types::Timestamp>) -> Option<Timestamp> {
    let at = at?;
    Timestamp::new(at.seconds, at.nanos).ok()
}

/// How old a passive answer of this pod's probes may be: nothing where they always connect.
fn max_age(pod: &Pod, passive: Option<&PassiveSettings>) -> Duration {
    passive.filter(|settings| settings.is_on_for(pod)).map_or(Duration::ZERO, |settings| settings.passive_max_age)
}

fn probes<'a>(
    container: &'a Container,
    record: ContainerView<'a>,
    status: Option<&'a ContainerStatus>,
    max_age: Duration,
) -> impl Iterator<Item = v1::Probe> + 'a {
    record.probes.iter().filter_map(move |of| {
        let spec = container.probes.by_type(of.probe_type)?;
        Some(v1::Probe { on_hold: of.is_on_hold(status), ..probe(of, spec, max_age) })
    })
}

fn container(
    of: &Container,
    record: ContainerView<'_>,
    status: Option<&ContainerStatus>,
    max_age: Duration,
) -> v1::Container {
    v1::Container {
        name: of.name.to_string(),
        kind: container_kind(of.kind).into(),
        image: of.image.to_string(),
        restart_policy: of.restart_policy.map_or(v1::RestartPolicy::Unspecified, restart_policy).into(),
        command: of.process.command.iter().map(ToString::to_string).collect(),
        args: of.process.args.iter().map(ToString::to_string).collect(),
        id: status.and_then(|s| s.id.as_ref()).map(ToString::to_string).unwrap_or_default(),
        state: status.map(|s| container_state(&s.state)),
        last_termination: status.and_then(|s| s.last_termination.as_deref()).map(termination),
        restart_count: status.map_or(0, |s| s.restart_count),
        started: record.started,
        ready: record.ready,
        probes: probes(of, record, status, max_age).collect(),
    }
}

fn probe(of: &ProbeRecord, spec: &ProbeSpec, max_age: Duration) -> v1::Probe {
    let stats = &of.stats;
    let newest_counted = match stats.last_at_ns() {
        0 => None,
        nanos => Some(clock::wall_of(Instant::from_nanos(nanos))),
    };
    // Steady successes are counted and not reported: a count that is newer than the report was one.
    let unreported = newest_counted
        .filter(|counted| of.last().is_none_or(|reported| counted.duration_since(reported.at) > SAME_CALL));
    let (last, last_message, last_at, last_duration_ns) = match (unreported, of.last()) {
        (Some(at), _) => (v1::OutcomeKind::Success, String::new(), Some(timestamp(at)), stats.last_duration_ns()),
        (None, Some(report)) => {
            (outcome_kind(report.kind), report.message.to_string(), Some(timestamp(report.at)), report.duration_ns)
        }
        (None, None) => (v1::OutcomeKind::Unspecified, String::new(), None, 0),
    };
    v1::Probe {
        r#type: probe_type(of.probe_type).into(),
        spec: Some(probe_spec(spec)),
        verdict: verdict(of.verdict).into(),
        verdict_since: of.verdict_since().map(timestamp),
        run: stats.run(),
        threshold: stats.threshold(spec),
        last: last.into(),
        last_message,
        last_at,
        last_duration_ns,
        successful_count: stats.successful(),
        failed_count: stats.failed(),
        answer: stats.answer().to_string(),
        answer_real: stats.answer_real().to_string(),
        passive_count: stats.passive(),
        real_count: stats.real(),
        worst_case_detection_s: worst_case_detection_s(spec, max_age, stats.answer()),
        due_at: due(stats.due_ns(), clock::now()).map(|at| timestamp(clock::wall_of(at))),
        paused_until: of.paused(clock::now()).map(|paused| timestamp(paused.until.into())),
        on_hold: false,
        durations: Some(durations(&stats.sketch())),
        near_miss_count: stats.near_misses(),
        near_miss_at: match stats.near_at_ns() {
            0 => None,
            nanos => Some(timestamp(clock::wall_of(Instant::from_nanos(nanos)))),
        },
    }
}

fn durations(sketch: &Sketch) -> v1::Durations {
    let quantile_ns = |quantile| sketch.quantile_ns(quantile).unwrap_or(0);
    v1::Durations {
        count: sketch.count,
        sum_ns: sketch.sum_ns,
        max_ns: sketch.max_ns,
        p50_ns: quantile_ns(0.5),
        p99_ns: quantile_ns(0.99),
    }
}

/// A target that goes right after a connect to it succeeded, in a way that the kernel does not announce, is connected to
/// again after `max_age` at the latest, and then fails once a period. One that is never answered passively as it stands is
/// connected to every period.
fn worst_case_detection_s(spec: &ProbeSpec, max_age: Duration, last: Answer) -> u32 {
    if !matches!(spec.handler, Handler::TcpSocket(_)) {
        return 0;
    }
    let max_age_s = if is_never_passive(last) { 0 } else { u32::try_from(max_age.as_secs()).unwrap_or(u32::MAX) };
    spec.failure_threshold.saturating_mul(spec.period_seconds).saturating_add(max_age_s)
}

/// As the probe stands: what keeps it from passive answers does not go away by itself.
const fn is_never_passive(last: Answer) -> bool {
    matches!(
        last,
        Answer::Real(
            Why::Off | Why::Unavailable | Why::NotLocal | Why::NetnsUnknown | Why::TableFull | Why::SkLookupUnknown
        )
    )
}

/// The next due time, as it was told with the newest report. Long past = no report since: the container does not
/// run, so nothing is due.
fn due(nanos: u64, now: Instant) -> Option<Instant> {
    let due = Instant::from_nanos(nanos);
    (nanos != 0 && now <= due + DUE_PAST_MAX).then_some(due)
}

fn probe_spec(spec: &ProbeSpec) -> v1::ProbeSpec {
    v1::ProbeSpec {
        handler: Some(handler(&spec.handler)),
        initial_delay_s: spec.initial_delay_seconds,
        timeout_s: spec.timeout_seconds,
        period_s: spec.period_seconds,
        success_threshold: spec.success_threshold,
        failure_threshold: spec.failure_threshold,
        termination_grace_period_s: spec.termination_grace_period_seconds,
    }
}

fn handler(of: &Handler) -> v1::probe_spec::Handler {
    use v1::probe_spec::Handler as Wire;
    match of {
        Handler::HttpGet(http) => Wire::HttpGet(http_get(http)),
        Handler::TcpSocket(tcp) => Wire::TcpSocket(v1::TcpSocket {
            host: tcp.host.as_deref().unwrap_or_default().to_owned(),
            port: Some(port(&tcp.port)),
        }),
        Handler::Grpc(grpc) => Wire::Grpc(v1::Grpc { port: grpc.port.into(), service: grpc.service.to_string() }),
        Handler::Exec(exec) => Wire::Exec(v1::Exec { command: exec.command.iter().map(ToString::to_string).collect() }),
    }
}

fn http_get(http: &HttpGet) -> v1::HttpGet {
    v1::HttpGet {
        host: http.host.as_deref().unwrap_or_default().to_owned(),
        port: Some(port(&http.port)),
        path: http.path.to_string(),
        scheme: match http.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
        .to_owned(),
        headers: http
            .headers
            .iter()
            .map(|h| v1::HttpHeader { name: h.name.to_string(), value: h.value.to_string() })
            .collect(),
    }
}

fn port(of: &Port) -> v1::Port {
    let port = match of {
        Port::Number(number) => v1::port::Port::Number((*number).into()),
        Port::Unusable(why) => v1::port::Port::Unusable(why.to_string()),
    };
    v1::Port { port: Some(port) }
}

fn container_state(of: &ContainerState) -> v1::ContainerState {
    use v1::container_state::State;
    let state = match of {
        ContainerState::Waiting(why) => {
            State::Waiting(v1::Waiting { reason: why.reason.to_string(), message: why.message.to_string() })
        }
        ContainerState::Running { started_at } => {
            State::Running(v1::Running { started_at: Some(timestamp(clock::wall_of(*started_at))) })
        }
        ContainerState::Terminated(how) => State::Terminated(termination(how)),
    };
    v1::ContainerState { state: Some(state) }
}

fn termination(of: &Termination) -> v1::Termination {
    v1::Termination {
        exit_code: of.exit_code,
        signal: of.signal,
        reason: of.reason.to_string(),
        message: of.message.to_string(),
        started_at: Some(timestamp(clock::wall_of(of.started_at))),
        finished_at: Some(timestamp(clock::wall_of(of.finished_at))),
    }
}

fn condition(of: &Condition, since: Timestamp) -> v1::Condition {
    v1::Condition {
        r#type: of.condition_type.to_string(),
        status: match of.status {
            ConditionStatus::True => v1::ConditionStatus::True,
            ConditionStatus::False => v1::ConditionStatus::False,
            ConditionStatus::Unknown => v1::ConditionStatus::Unknown,
        }
        .into(),
        reason: of.reason.to_owned(),
        message: of.message.to_string(),
        last_transition_at: Some(timestamp(since)),
    }
}

const fn phase(of: PodPhase) -> v1::PodPhase {
    match of {
        PodPhase::Pending => v1::PodPhase::Pending,
        PodPhase::Running => v1::PodPhase::Running,
        PodPhase::Succeeded => v1::PodPhase::Succeeded,
        PodPhase::Failed => v1::PodPhase::Failed,
    }
}

const fn restart_policy(of: RestartPolicy) -> v1::RestartPolicy {
    match of {
        RestartPolicy::Always => v1::RestartPolicy::Always,
        RestartPolicy::OnFailure => v1::RestartPolicy::OnFailure,
        RestartPolicy::Never => v1::RestartPolicy::Never,
    }
}

const fn container_kind(of: ContainerKind) -> v1::ContainerKind {
    match of {
        ContainerKind::Regular => v1::ContainerKind::Regular,
        ContainerKind::Sidecar => v1::ContainerKind::Sidecar,
        ContainerKind::Init => v1::ContainerKind::Init,
    }
}

fn pairs<K: ToString, V: ToString>(of: &[(K, V)]) -> std::collections::HashMap<String, String> {
    of.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use probe_core::spec::Exec;

    use super::*;
    use crate::manager::slots_of;
    use crate::results::fixture::{container, pod};

    #[test]
    fn a_due_time_that_is_long_past_is_none() {
        let at = |seconds: u64| Instant::from_nanos(seconds * 1_000_000_000);
        assert_eq!(due(at(5).as_nanos(), at(3)), Some(at(5)));
        assert_eq!(due(at(5).as_nanos(), at(6)), Some(at(5)), "a little late");
        assert_eq!(due(at(5).as_nanos(), at(7)), None);
        assert_eq!(due(0, at(0)), None);
    }

    #[test]
    fn worst_case_detection_adds_the_age_of_passive_answers_where_they_may_be_given() {
        let tcp = container("c", ContainerKind::Regular, &[ProbeType::Liveness]);
        let spec = tcp.probes.liveness.clone().expect("it has one");
        let pod = pod("u1", "web", [tcp]);
        let settings = PassiveSettings::default();
        assert_eq!(worst_case_detection_s(&spec, max_age(&pod, None), Answer::None), 30, "3 x 10 s: no kernel program");
        assert_eq!(worst_case_detection_s(&spec, max_age(&pod, Some(&settings)), Answer::None), 90);
        let mut exempt = (*pod).clone();
        exempt.annotations = Arc::new([("probe-engine.io/passive".into(), "off".into())]);
        assert_eq!(worst_case_detection_s(&spec, max_age(&exempt, Some(&settings)), Answer::None), 30);
        let worst = |last| worst_case_detection_s(&spec, max_age(&pod, Some(&settings)), last);
        for last in [Answer::Passive, Answer::Real(Why::Changed), Answer::Real(Why::TakenBy(15_006))] {
            assert_eq!(worst(last), 90, "it may be passive the next time: {last}");
        }
        for why in [Why::NotLocal, Why::NetnsUnknown, Why::Off, Why::Unavailable, Why::TableFull, Why::SkLookupUnknown]
        {
            assert_eq!(worst(Answer::Real(why)), 30, "never passive as it stands: {why}");
        }
        let off = PassiveSettings { passive: false, ..settings };
        assert_eq!(worst_case_detection_s(&spec, max_age(&pod, Some(&off)), Answer::None), 30);
        let mut exec = (*spec).clone();
        exec.handler = Handler::Exec(Exec { command: Box::default() });
        assert_eq!(worst_case_detection_s(&exec, Duration::ZERO, Answer::None), 0, "another handler");
    }

    #[test]
    fn a_probe_tells_how_it_was_answered() {
        let of = container("c", ContainerKind::Regular, &[ProbeType::Liveness]);
        let pod = pod("u1", "web", [of]);
        let record = PodRecord::new(Arc::clone(&pod), &slots_of(&pod), None, clock::wall());
        let stats = &record.probes[0].stats;
        (0..2).for_each(|_| stats.note_answer(Answer::Real(Why::TakenBy(15_006))));
        (0..3).for_each(|_| stats.note_answer(Answer::Passive));
        let row = probe_rows(&record, None).next().expect("one").probe.expect("said");
        assert_eq!((row.answer.as_str(), row.answer_real.as_str()), ("passive", "real: taken by :15006"));
        assert_eq!((row.passive_count, row.real_count, row.worst_case_detection_s), (3, 2, 30));
    }

    #[test]
    fn types_of_probes_survive_the_wire() {
        for of in ProbeType::ALL {
            let number = i32::from(probe_type(of));
            let read = v1::ProbeType::try_from(number).expect("known");
            assert_eq!(probe_type_from(read), Some(of));
        }
        assert_eq!(probe_type_from(v1::ProbeType::Unspecified), None);
    }

    #[test]
    fn times_survive_the_wire_before_and_after_1970() {
        for (seconds, nanos) in [(0, 0), (1_700_000_000, 123_456_789), (-1, -500_000_000), (-2_000_000_000, 0)] {
            let at = Timestamp::new(seconds, nanos).expect("in range");
            let wire = timestamp(at);
            assert!((0..1_000_000_000).contains(&wire.nanos), "{wire:?}");
            assert_eq!(timestamp_from(Some(&wire)), Some(at));
        }
        let beyond = prost_types::Timestamp { seconds: i64::MAX, nanos: 0 };
        assert_eq!(timestamp_from(Some(&beyond)), None);
        assert_eq!(timestamp_from(None), None);
    }

    #[test]
    fn every_outcome_has_its_kind_and_text() {
        let text = || Box::<str>::from("text");
        for (of, kind) in [
            (Outcome::Success(text()), v1::OutcomeKind::Success),
            (Outcome::Warning(text()), v1::OutcomeKind::Warning),
            (Outcome::Failure(text()), v1::OutcomeKind::Failure),
            (Outcome::Error(text()), v1::OutcomeKind::Error),
        ] {
            assert_eq!(outcome(&of), (kind, "text".to_owned()));
        }
        let (kind, text) = outcome(&Outcome::Local(probe_core::outcome::LocalCause::ProcessFiles));
        assert!(kind == v1::OutcomeKind::Local && text.contains("EMFILE"));
    }
}
