//! `top -o json`: one message of WatchNode. Names are those of `/api/v1/overview`; docs/CLI.md lists them.

use serde_json::{Value, json};

use crate::api::convert::timestamp_from;
use crate::api::v1;

/// The node as data.
pub(super) fn value(info: &v1::GetInfoResponse, node: &v1::WatchNodeResponse) -> Value {
    let handlers = node.handlers.iter().map(|of| {
        json!({
            "handler": of.handler,
            "successful": of.successful_count,
            "failed": of.failed_count,
            "discarded": of.discarded_count,
            "passive": of.passive_count,
            "latency": quantiles(of.latency.as_ref()),
        })
    });
    let pool = node.pool.iter().map(|lane| {
        json!({
            "handler": lane.handler,
            "queued": lane.queued_count,
            "inFlight": lane.in_flight_count,
            "inFlightMax": lane.in_flight_max,
        })
    });
    let problems = node.problems.iter().map(|of| json!({ "kind": of.kind, "text": of.text, "severe": of.severe }));
    json!({
        "kind": "Node",
        "atMs": timestamp_from(node.at.as_ref()).map(|at| at.as_millisecond()),
        "nodeName": node.node_name,
        "version": info.version,
        "runtime": info.runtime,
        "instance": info.instance,
        "uptimeNs": node.uptime_ns,
        "podsByPhase": node.pods_by_phase,
        "podsReady": node.pods_ready_count,
        "probes": node.probes_count,
        "probesFailing": node.probes_failing_count,
        "probesPaused": node.probes_paused_count,
        "probesStuck": node.probes_stuck_count,
        "handlers": handlers.collect::<Vec<_>>(),
        "missed": node.missed_count,
        "local": node.local_count,
        "restarts": node.restarts_count,
        "inFlight": node.in_flight_count,
        "inFlightMax": node.in_flight_max,
        "pool": pool.collect::<Vec<_>>(),
        "lateness": quantiles(node.lateness.as_ref()),
        "cpuNs": node.cpu_ns,
        "cpuCores": node.cpu_cores,
        "memoryBytes": node.memory_bytes,
        "attemptsPerSecond": node.attempts_per_second,
        "problems": problems.collect::<Vec<_>>(),
    })
}

fn quantiles(of: Option<&v1::Quantiles>) -> Value {
    let of = of.copied().unwrap_or_default();
    json!({
        "count": of.count,
        "p50Ns": of.p50_ns,
        "p90Ns": of.p90_ns,
        "p99Ns": of.p99_ns,
        "p999Ns": of.p999_ns,
        "maxNs": of.max_ns,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::consumer::overview::{HandlerOverview, Overview, PoolOverview, Problem};

    #[test]
    fn names_are_those_of_the_overview() {
        let overview = Overview {
            handlers: vec![HandlerOverview::default()],
            pool: vec![PoolOverview::default()],
            problems: vec![Problem { kind: "X", text: String::new(), severe: false }],
            ..Overview::default()
        };
        let theirs = serde_json::to_value(&overview).expect("json");
        let node = v1::WatchNodeResponse {
            handlers: vec![v1::HandlerCounts::default()],
            pool: vec![v1::PoolLane::default()],
            problems: vec![v1::Problem::default()],
            ..v1::WatchNodeResponse::default()
        };
        let ours = value(&v1::GetInfoResponse::default(), &node);
        let names = |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<BTreeSet<_>>();
        let unknown: Vec<String> = names(&ours).difference(&names(&theirs)).cloned().collect();
        assert_eq!(unknown, ["kind"]);
        for of in ["handlers", "pool", "problems"] {
            assert_eq!(names(&ours[of][0]), names(&theirs[of][0]), "{of}");
        }
        assert_eq!(names(&ours["lateness"]), names(&theirs["lateness"]));
    }
}
