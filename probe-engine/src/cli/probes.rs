//! How probes look: in a table, and in one line as kubectl describes them (`DescribeProbe`).

use std::fmt::Write;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::table::Table;
use super::{age, pause, pods};
use crate::api::convert::timestamp_from;
use crate::api::v1::{self, probe_spec::Handler};

/// An empty table.
#[must_use]
pub fn table(wide: bool) -> Table {
    let mut header =
        vec!["NAMESPACE", "POD", "CONTAINER", "TYPE", "HANDLER", "VERDICT", "RUN", "LAST", "AGE", "PERIOD"];
    if wide {
        header.extend([
            "TOOK",
            "P50",
            "P99",
            "MAX",
            "NEAR",
            "SUCCEEDED",
            "FAILED",
            "DUE",
            "ANSWERED",
            "PASSIVE",
            "REAL",
        ]);
    }
    header.push("MESSAGE");
    Table::new(header)
}

/// The row of a probe. AGE is that of the newest attempt.
#[must_use]
pub fn row(of: &v1::ProbeRow, wide: bool, now: Timestamp) -> Vec<String> {
    let unsaid = v1::Probe::default();
    let probe = of.probe.as_ref().unwrap_or(&unsaid);
    let spec = probe.spec.as_ref();
    let last_at = timestamp_from(probe.last_at.as_ref());
    let mut cells = vec![
        of.namespace.clone(),
        of.pod.clone(),
        of.container.clone(),
        probe_type(probe.r#type()).to_owned(),
        spec.map_or("<none>", handler).to_owned(),
        verdict(probe.verdict()).to_owned(),
        run(probe.run, probe.threshold),
        outcome(probe.last()).to_owned(),
        last_at.map_or_else(|| "<none>".to_owned(), |_| age::since(last_at, now)),
        spec.map_or_else(String::new, |s| format!("{}s", s.period_s)),
    ];
    if wide {
        let due = timestamp_from(probe.due_at.as_ref());
        cells.extend([
            if last_at.is_some() { age::short(probe.last_duration_ns) } else { "<none>".to_owned() },
            duration(probe.durations.map(|of| of.p50_ns)),
            duration(probe.durations.map(|of| of.p99_ns)),
            duration(probe.durations.map(|of| of.max_ns)),
            probe.near_miss_count.to_string(),
            probe.successful_count.to_string(),
            probe.failed_count.to_string(),
            due.map_or_else(|| "<none>".to_owned(), |due| age::human(due.duration_since(now))),
            pods::or_none(&probe.answer),
            probe.passive_count.to_string(),
            probe.real_count.to_string(),
        ]);
    }
    let stands = paused(probe, now).or_else(|| held(probe).map(str::to_owned));
    cells.push(match stands {
        Some(stands) if probe.last_message.is_empty() => stands,
        Some(stands) => format!("{stands}; {}", probe.last_message),
        None => probe.last_message.clone(),
    });
    cells
}

/// `<none>` for 0: too few were counted.
fn duration(nanos: Option<u64>) -> String {
    nanos.filter(|nanos| *nanos > 0).map_or_else(|| "<none>".to_owned(), age::short)
}

/// `at most 128us (half), 2ms (99 of 100), 5ms (all 1234)`: real successes alone; `None` before the first.
#[must_use]
pub fn durations(probe: &v1::Probe) -> Option<String> {
    let of = probe.durations.filter(|of| of.count > 0)?;
    let mut text = format!("at most {} (half), ", age::short(of.p50_ns));
    if of.p99_ns > 0 {
        let _ = write!(text, "{} (99 of 100), ", age::short(of.p99_ns));
    }
    let _ = write!(text, "{} (all {})", age::short(of.max_ns), of.count);
    Some(text)
}

/// The rows of a pod's probes.
pub fn rows_of(pod: v1::Pod) -> impl Iterator<Item = v1::ProbeRow> {
    let v1::Pod { uid, namespace, name, containers, .. } = pod;
    containers.into_iter().flat_map(move |container| {
        let row = v1::ProbeRow {
            namespace: namespace.clone(),
            pod: name.clone(),
            pod_uid: uid.clone(),
            container: container.name,
            probe: None,
        };
        container.probes.into_iter().map(move |probe| v1::ProbeRow { probe: Some(probe), ..row.clone() })
    })
}

/// `on hold`: it failed and makes no attempt before its container is another. A startup probe that succeeded does nothing more
/// either, and is not called that.
fn held(probe: &v1::Probe) -> Option<&'static str> {
    (probe.on_hold && probe.verdict() == v1::Verdict::Failure).then_some("on hold")
}

/// `paused until 2026-11-28T14:00:00Z (3m)`; `None` where it is not, or the time has come.
#[must_use]
pub fn paused(probe: &v1::Probe, now: Timestamp) -> Option<String> {
    paused_until(probe, now).map(|until| format!("paused until {}", pause::moment(until, now)))
}

/// `None` where it is not paused, or the time has come.
#[must_use]
pub fn paused_until(probe: &v1::Probe, now: Timestamp) -> Option<Timestamp> {
    timestamp_from(probe.paused_until.as_ref()).filter(|until| *until > now)
}

/// What of a row tells that the probe changed.
#[must_use]
pub fn change_key(of: &v1::ProbeRow) -> (i32, i32, String, String, [bool; 2]) {
    let Some(probe) = &of.probe else { return (0, 0, String::new(), String::new(), [false; 2]) };
    // A run that has reached its threshold goes on by itself: that is no change.
    let run = run(probe.run.min(probe.threshold), probe.threshold);
    let stands = [probe.paused_until.is_some(), held(probe).is_some()];
    (probe.verdict, probe.last, run, probe.last_message.clone(), stands)
}

/// `2 of 3`; `<none>` before the first attempt; `3 of 3 (7)` where the run is longer than its threshold.
#[must_use]
pub fn run(run: u32, threshold: u32) -> String {
    if threshold == 0 {
        return "<none>".to_owned();
    }
    match run {
        run if run > threshold => format!("{threshold} of {threshold} ({run})"),
        run => format!("{run} of {threshold}"),
    }
}

/// `Startup`, `Readiness`, `Liveness`
#[must_use]
pub const fn probe_type(of: v1::ProbeType) -> &'static str {
    match of {
        v1::ProbeType::Unspecified => "",
        v1::ProbeType::Startup => "Startup",
        v1::ProbeType::Readiness => "Readiness",
        v1::ProbeType::Liveness => "Liveness",
    }
}

/// The stored verdict.
#[must_use]
pub const fn verdict(of: v1::Verdict) -> &'static str {
    match of {
        v1::Verdict::Unspecified => "<none>",
        v1::Verdict::Unknown => "Unknown",
        v1::Verdict::Success => "Success",
        v1::Verdict::Failure => "Failure",
    }
}

/// What an attempt saw.
#[must_use]
pub const fn outcome(of: v1::OutcomeKind) -> &'static str {
    match of {
        v1::OutcomeKind::Unspecified => "<none>",
        v1::OutcomeKind::Success => "success",
        v1::OutcomeKind::Warning => "warning",
        v1::OutcomeKind::Failure => "failure",
        v1::OutcomeKind::Error => "error",
        v1::OutcomeKind::Local => "local",
    }
}

/// The field name of a probe's handler.
#[must_use]
pub const fn handler(spec: &v1::ProbeSpec) -> &'static str {
    match spec.handler {
        Some(Handler::HttpGet(_)) => "httpGet",
        Some(Handler::TcpSocket(_)) => "tcpSocket",
        Some(Handler::Grpc(_)) => "grpc",
        Some(Handler::Exec(_)) => "exec",
        None => "<none>",
    }
}

/// kubectl's line: `http-get http://:8080/healthz delay=0s timeout=1s period=10s #success=1 #failure=3`.
#[must_use]
pub fn describe(spec: &v1::ProbeSpec) -> String {
    let mut line = match &spec.handler {
        Some(Handler::HttpGet(http)) => {
            let slash = if http.path.starts_with('/') || http.path.is_empty() { "" } else { "/" };
            let host = host_in_url(&http.host);
            format!("http-get {}://{host}:{}{slash}{}", http.scheme, port(http.port.as_ref()), http.path)
        }
        Some(Handler::TcpSocket(tcp)) => format!("tcp-socket {}:{}", tcp.host, port(tcp.port.as_ref())),
        Some(Handler::Grpc(grpc)) => format!("grpc <pod>:{} {}", grpc.port, grpc.service),
        Some(Handler::Exec(exec)) => format!("exec [{}]", exec.command.join(" ")),
        None => "unknown".to_owned(),
    };
    let _ = write!(
        line,
        " delay={}s timeout={}s period={}s #success={} #failure={}",
        spec.initial_delay_s, spec.timeout_s, spec.period_s, spec.success_threshold, spec.failure_threshold
    );
    line
}

/// `passive (1234 passive, 21 real; last real: renewed)`; `None` before the first attempt of a tcpSocket probe, and of
/// other handlers.
#[must_use]
pub fn answered(probe: &v1::Probe) -> Option<String> {
    if probe.answer.is_empty() {
        return None;
    }
    let mut text = format!("{} ({} passive, {} real", probe.answer, probe.passive_count, probe.real_count);
    if !probe.answer_real.is_empty() && probe.answer_real != probe.answer {
        let _ = write!(text, "; last {}", probe.answer_real);
    }
    text.push(')');
    Some(text)
}

/// `90s at worst (passiveMaxAge 60s + 3 x 10s)`: when a target that is gone is a Failure, whatever made it go.
#[must_use]
pub fn detection(probe: &v1::Probe) -> String {
    let worst = probe.worst_case_detection_s;
    let (threshold, period) = probe.spec.as_ref().map_or((0, 0), |spec| (spec.failure_threshold, spec.period_s));
    match worst.saturating_sub(threshold.saturating_mul(period)) {
        0 => format!("{worst}s at worst ({threshold} x {period}s)"),
        max_age => format!("{worst}s at worst (passiveMaxAge {max_age}s + {threshold} x {period}s)"),
    }
}

/// Of the time that targets were answered passively on the node, how much was cut short by changes on the way: `2.5%`.
#[must_use]
pub fn cut_percent(info: &v1::GetInfoResponse) -> String {
    let share = info.passive_cut_ns as f64 / (info.passive_held_ns as f64).max(1.0);
    format!("{:.1}%", share * 100.0)
}

/// A probe as data, for `-o json`.
#[must_use]
pub fn value(of: &v1::ProbeRow) -> Value {
    let unsaid = v1::Probe::default();
    let probe = of.probe.as_ref().unwrap_or(&unsaid);
    let time = |at: Option<&prost_types::Timestamp>| timestamp_from(at).map(|at| at.to_string());
    json!({
        "namespace": of.namespace,
        "pod": of.pod,
        "podUID": of.pod_uid,
        "container": of.container,
        "type": probe_type(probe.r#type()),
        "handler": probe.spec.as_ref().map(handler),
        "spec": probe.spec.as_ref().map(describe),
        "periodSeconds": probe.spec.as_ref().map(|s| s.period_s),
        "verdict": (probe.verdict() != v1::Verdict::Unspecified).then(|| verdict(probe.verdict())),
        "verdictSince": time(probe.verdict_since.as_ref()),
        "run": probe.run,
        "threshold": probe.threshold,
        "last": (probe.last() != v1::OutcomeKind::Unspecified).then(|| outcome(probe.last())),
        "lastMessage": probe.last_message,
        "lastAt": time(probe.last_at.as_ref()),
        "lastDurationNs": probe.last_duration_ns,
        "successfulCount": probe.successful_count,
        "failedCount": probe.failed_count,
        "dueAt": time(probe.due_at.as_ref()),
        "answer": (!probe.answer.is_empty()).then_some(&probe.answer),
        "answerReal": (!probe.answer_real.is_empty()).then_some(&probe.answer_real),
        "passiveCount": probe.passive_count,
        "realCount": probe.real_count,
        "durations": probe.durations.map(|of| json!({
            "count": of.count,
            "sumNs": of.sum_ns,
            "maxNs": of.max_ns,
            "p50Ns": (of.p50_ns > 0).then_some(of.p50_ns),
            "p99Ns": (of.p99_ns > 0).then_some(of.p99_ns),
        })),
        "nearMissCount": probe.near_miss_count,
        "nearMissAt": time(probe.near_miss_at.as_ref()),
        "pausedUntil": time(probe.paused_until.as_ref()),
        "onHold": probe.on_hold,
        "worstCaseDetectionSeconds": (probe.worst_case_detection_s > 0).then_some(probe.worst_case_detection_s),
    })
}

/// `probe/POD/CONTAINER/TYPE`
#[must_use]
pub fn name(of: &v1::ProbeRow) -> String {
    let probe_type = of.probe.as_ref().map_or("", |p| probe_type(p.r#type()));
    format!("probe/{}/{}/{}", of.pod, of.container, probe_type.to_ascii_lowercase())
}

fn port(of: Option<&v1::Port>) -> String {
    match of.and_then(|p| p.port.as_ref()) {
        Some(v1::port::Port::Number(number)) => number.to_string(),
        Some(v1::port::Port::Unusable(why)) => format!("<{why}>"),
        None => pods::or_none(""),
    }
}

fn host_in_url(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::pods::tests::{NOW, at};

    fn number(port: u32) -> Option<v1::Port> {
        Some(v1::Port { port: Some(v1::port::Port::Number(port)) })
    }

    fn spec(handler: Handler) -> v1::ProbeSpec {
        v1::ProbeSpec {
            handler: Some(handler),
            timeout_s: 1,
            period_s: 10,
            success_threshold: 1,
            failure_threshold: 3,
            ..v1::ProbeSpec::default()
        }
    }

    fn http(host: &str, path: &str) -> Handler {
        Handler::HttpGet(v1::HttpGet {
            host: host.to_owned(),
            port: number(8080),
            path: path.to_owned(),
            scheme: "http".to_owned(),
            headers: Vec::new(),
        })
    }

    #[test]
    fn probes_are_described_in_kubectls_line() {
        let rest = "delay=0s timeout=1s period=10s #success=1 #failure=3";
        let grpc = Handler::Grpc(v1::Grpc { port: 9000, service: "ready".to_owned() });
        let exec = Handler::Exec(v1::Exec { command: vec!["cat".to_owned(), "/tmp/x".to_owned()] });
        let tcp = Handler::TcpSocket(v1::TcpSocket { host: String::new(), port: number(80) });
        for (handler, expected) in [
            (http("", "/healthz"), "http-get http://:8080/healthz"),
            (http("::1", "x"), "http-get http://[::1]:8080/x"),
            (tcp, "tcp-socket :80"),
            (grpc, "grpc <pod>:9000 ready"),
            (exec, "exec [cat /tmp/x]"),
        ] {
            assert_eq!(describe(&spec(handler)), format!("{expected} {rest}"));
        }
    }

    #[test]
    fn a_row_shows_verdict_run_and_the_last_attempt() {
        let row_of = v1::ProbeRow {
            namespace: "default".to_owned(),
            pod: "web".to_owned(),
            container: "app".to_owned(),
            probe: Some(v1::Probe {
                r#type: v1::ProbeType::Liveness.into(),
                spec: Some(spec(http("", "/"))),
                verdict: v1::Verdict::Success.into(),
                run: 2,
                threshold: 3,
                last: v1::OutcomeKind::Failure.into(),
                last_message: "bad\x1b[2J".to_owned(),
                last_at: at(4),
                last_duration_ns: 1_500_000,
                ..v1::Probe::default()
            }),
            ..v1::ProbeRow::default()
        };
        let now = Timestamp::from_second(NOW).expect("in range");
        let mut table = table(false);
        table.push(row(&row_of, false, now));
        let text = table.text();
        assert!(text.contains("httpGet   Success   2 of 3   failure   4s    10s      bad\\x1b[2J"), "{text}");
        let paused = v1::Probe { paused_until: at(-180), ..row_of.probe.clone().expect("it has one") };
        let paused = v1::ProbeRow { probe: Some(paused), ..row_of.clone() };
        let shown = row(&paused, false, now).pop();
        assert_eq!(shown.as_deref(), Some("paused until 2023-11-14T22:16:20Z (3m); bad\x1b[2J"));
        assert_ne!(change_key(&paused), change_key(&row_of));
        assert_eq!(
            (&value(&paused)["pausedUntil"], &value(&paused)["onHold"]),
            (&json!("2023-11-14T22:16:20Z"), &json!(false))
        );
        assert_eq!(name(&row_of), "probe/web/app/liveness");
        assert_eq!(value(&row_of)["run"], 2);
        let held =
            v1::Probe { on_hold: true, last_message: "bad".to_owned(), ..row_of.probe.clone().unwrap_or_default() };
        let with = |verdict: v1::Verdict| {
            let probe = Some(v1::Probe { verdict: verdict.into(), ..held.clone() });
            row(&v1::ProbeRow { probe, ..row_of.clone() }, false, now).pop()
        };
        assert_eq!(with(v1::Verdict::Failure).as_deref(), Some("on hold; bad"));
        assert_eq!(with(v1::Verdict::Success).as_deref(), Some("bad"));
    }

    #[test]
    fn a_run_beyond_its_threshold_is_told_beside_it_and_is_no_change() {
        assert_eq!([run(2, 3), run(7, 3), run(0, 0)], ["2 of 3", "3 of 3 (7)", "<none>"]);
        let with_run = |run| v1::ProbeRow {
            probe: Some(v1::Probe { run, threshold: 3, ..v1::Probe::default() }),
            ..v1::ProbeRow::default()
        };
        assert_eq!(change_key(&with_run(3)), change_key(&with_run(40)));
        assert_ne!(change_key(&with_run(2)), change_key(&with_run(3)));
    }
}
