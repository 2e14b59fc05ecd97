//! What the two dashboards show: one table, in which each panel has its queries over the engine's metrics and, beside them, those
//! over a kubelet's, or the reason why a kubelet cannot show it.
//!
//! `{@` stands for the job and the instances that are chosen above the panels. Expressions hold for every level of
//! `probe_engine_metric_series_level`.

/// Panels under one heading.
pub(super) struct Row {
    pub(super) title: &'static str,
    pub(super) panels: &'static [Panel],
}

/// One panel; 24 columns are a line.
pub(super) struct Panel {
    pub(super) title: &'static str,
    /// For the (i) of the panel.
    pub(super) description: &'static str,
    pub(super) kind: Kind,
    /// Grafana's name of it: `s`, `bytes`, `percentunit`, `ops`, `short`.
    pub(super) unit: &'static str,
    pub(super) width: u64,
    pub(super) engine: &'static [Query],
    pub(super) kubelet: Kubelet,
}

/// How a panel looks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One number each.
    Stat,
    /// Lines over time.
    Lines,
    /// Areas that add up.
    Stacked,
    /// Buckets over time.
    Heatmap,
}

/// One query of a panel.
pub(super) struct Query {
    pub(super) expr: &'static str,
    pub(super) legend: &'static str,
}

/// The same panel over a kubelet's metrics.
pub(super) enum Kubelet {
    /// It has them.
    Shows(&'static [Query]),
    /// It has none; a sentence says why.
    Cannot(&'static str),
}

use Kind::{Heatmap, Lines, Stacked, Stat};
use Kubelet::{Cannot, Shows};

const fn q(legend: &'static str, expr: &'static str) -> Query {
    Query { expr, legend }
}

const NO_LATENESS: &str = "A kubelet does not measure when an attempt starts against when it was due: a node that is short of CPU probes late, and nothing says so.";

const NO_PASSIVE: &str = "A kubelet makes a connection for every attempt.";

const NO_BOUND: &str = "A kubelet has a goroutine for each probe and no bound.";

/// All of them, from what is asked first to what is asked last.
pub(super) const ROWS: &[Row] = &[
    Row { title: "Overview", panels: OVERVIEW },
    Row { title: "Latency", panels: LATENCY },
    Row { title: "Lateness", panels: LATENESS },
    Row { title: "Passive answers", panels: PASSIVE },
    Row { title: "Failures and restarts", panels: FAILURES },
    Row { title: "Attempts in flight", panels: IN_FLIGHT },
    Row { title: "The process itself", panels: PROCESS },
];

const OVERVIEW: &[Panel] = &[
    Panel {
        title: "Nodes",
        description: "Nodes that are scraped.",
        kind: Stat,
        unit: "short",
        width: 3,
        engine: &[q("nodes", "count(probe_engine_build_info{@})")],
        kubelet: Shows(&[q("nodes", "count(group by (instance) (prober_probe_total{@}))")]),
    },
    Panel {
        title: "Probes",
        description: "Probes that have a worker now.",
        kind: Stat,
        unit: "short",
        width: 3,
        engine: &[q("probes", "sum(probe_engine_shard_workers{@})")],
        kubelet: Shows(&[q(
            "probes",
            "count(group by (instance, namespace, pod, container, probe_type) (prober_probe_total{@}))",
        )]),
    },
    Panel {
        title: "Pods",
        description: "Pods whose condition Ready is True, and all pods.",
        kind: Stat,
        unit: "short",
        width: 3,
        engine: &[q("ready", "sum(probe_engine_pods_ready{@})"), q("pods", "sum(probe_engine_pods{@})")],
        kubelet: Shows(&[q("running", "sum(kubelet_running_pods{@})")]),
    },
    Panel {
        title: "Attempts per second",
        description: "Real attempts and those answered from kernel state.",
        kind: Stat,
        unit: "ops",
        width: 3,
        engine: &[q(
            "attempts",
            "(sum(rate(probe_engine_attempt_duration_seconds_count{@}[$__rate_interval])) or vector(0)) \
             + sum(rate(probe_engine_passive_answers_total{@}[$__rate_interval]))",
        )],
        kubelet: Shows(&[q("attempts", "sum(rate(prober_probe_total{@}[$__rate_interval]))")]),
    },
    Panel {
        title: "Answered passively",
        description: "Part of all attempts that needed no connection: kernel state shows that nothing changed since one that succeeded.",
        kind: Stat,
        unit: "percentunit",
        width: 3,
        engine: &[q(
            "passive",
            "sum(rate(probe_engine_passive_answers_total{@}[$__rate_interval])) \
             / ((sum(rate(probe_engine_attempt_duration_seconds_count{@}[$__rate_interval])) or vector(0)) \
             + sum(rate(probe_engine_passive_answers_total{@}[$__rate_interval])))",
        )],
        kubelet: Cannot(NO_PASSIVE),
    },
    Panel {
        title: "Failures per second",
        description: "Attempts that ended badly, whether or not a threshold was reached.",
        kind: Stat,
        unit: "ops",
        width: 3,
        engine: &[q(
            "failures",
            "sum(rate(probe_engine_attempt_duration_seconds_count{@, outcome=\"failure\"}[$__rate_interval])) or vector(0)",
        )],
        kubelet: Shows(&[q(
            "failures",
            "sum(rate(prober_probe_total{@, result!=\"successful\"}[$__rate_interval])) or vector(0)",
        )]),
    },
    Panel {
        title: "Lateness p99",
        description: "One of 100 attempts starts so long after its due time.",
        kind: Stat,
        unit: "s",
        width: 3,
        engine: &[q(
            "p99",
            "histogram_quantile(0.99, sum by (le) (rate(probe_engine_attempt_lateness_seconds_bucket{@}[$__rate_interval])))",
        )],
        kubelet: Cannot(NO_LATENESS),
    },
    Panel {
        title: "CPU",
        description: "Cores that the daemon uses (a kubelet's include all else that it does).",
        kind: Stat,
        unit: "short",
        width: 3,
        engine: &[q("cores", "sum(rate(process_cpu_seconds_total{@}[$__rate_interval]))")],
        kubelet: Shows(&[q("cores", "sum(rate(process_cpu_seconds_total{@}[$__rate_interval]))")]),
    },
];

const LATENCY: &[Panel] = &[
    Panel {
        title: "Latency over time",
        description: "Duration of real attempts, failures and discarded ones included. A kubelet's holds successes alone.",
        kind: Heatmap,
        unit: "s",
        width: 12,
        engine: &[q(
            "{{le}}",
            "sum by (le) (increase(probe_engine_attempt_duration_seconds_bucket{@, handler=~\"$handler\"}[$__rate_interval]))",
        )],
        kubelet: Shows(&[q(
            "{{le}}",
            "sum by (le) (increase(prober_probe_duration_seconds_bucket{@, namespace=~\"$namespace\"}[$__rate_interval]))",
        )]),
    },
    Panel {
        title: "Latency quantiles",
        description: "Estimated from buckets.",
        kind: Lines,
        unit: "s",
        width: 12,
        engine: &[
            q(
                "p50",
                "histogram_quantile(0.5, sum by (le) (rate(probe_engine_attempt_duration_seconds_bucket{@, handler=~\"$handler\"}[$__rate_interval])))",
            ),
            q(
                "p90",
                "histogram_quantile(0.9, sum by (le) (rate(probe_engine_attempt_duration_seconds_bucket{@, handler=~\"$handler\"}[$__rate_interval])))",
            ),
            q(
                "p99",
                "histogram_quantile(0.99, sum by (le) (rate(probe_engine_attempt_duration_seconds_bucket{@, handler=~\"$handler\"}[$__rate_interval])))",
            ),
        ],
        kubelet: Shows(&[
            q(
                "p50",
                "histogram_quantile(0.5, sum by (le) (rate(prober_probe_duration_seconds_bucket{@, namespace=~\"$namespace\"}[$__rate_interval])))",
            ),
            q(
                "p90",
                "histogram_quantile(0.9, sum by (le) (rate(prober_probe_duration_seconds_bucket{@, namespace=~\"$namespace\"}[$__rate_interval])))",
            ),
            q(
                "p99",
                "histogram_quantile(0.99, sum by (le) (rate(prober_probe_duration_seconds_bucket{@, namespace=~\"$namespace\"}[$__rate_interval])))",
            ),
        ]),
    },
    Panel {
        title: "Latency p99 by kind",
        description: "By handler; of a kubelet, which does not tell handlers, by type of probe.",
        kind: Lines,
        unit: "s",
        width: 8,
        engine: &[q(
            "{{handler}}",
            "histogram_quantile(0.99, sum by (le, handler) (rate(probe_engine_attempt_duration_seconds_bucket{@, handler=~\"$handler\"}[$__rate_interval])))",
        )],
        kubelet: Shows(&[q(
            "{{probe_type}}",
            "histogram_quantile(0.99, sum by (le, probe_type) (rate(prober_probe_duration_seconds_bucket{@, namespace=~\"$namespace\"}[$__rate_interval])))",
        )]),
    },
    Panel {
        title: "Attempts by outcome",
        description: "Real attempts. A discarded one (local) is trouble of the daemon's own and counts as nothing.",
        kind: Stacked,
        unit: "ops",
        width: 8,
        engine: &[q(
            "{{outcome}}",
            "sum by (outcome) (rate(probe_engine_attempt_duration_seconds_count{@, handler=~\"$handler\"}[$__rate_interval]))",
        )],
        kubelet: Shows(&[q(
            "{{result}}",
            "sum by (result) (rate(prober_probe_total{@, namespace=~\"$namespace\"}[$__rate_interval]))",
        )]),
    },
    Panel {
        title: "Only just in time",
        description: "Attempts that succeeded and took 80 % of their timeout or more.",
        kind: Lines,
        unit: "ops",
        width: 8,
        engine: &[q(
            "{{handler}}",
            "sum by (handler) (rate(probe_engine_attempts_near_timeout_total{@, handler=~\"$handler\"}[$__rate_interval]))",
        )],
        kubelet: Cannot("A kubelet does not tell a success that was nearly a timeout from any other."),
    },
];

const LATENESS: &[Panel] = &[
    Panel {
        title: "Lateness over time",
        description: "Actual start of attempts minus their due time.",
        kind: Heatmap,
        unit: "s",
        width: 8,
        engine: &[q(
            "{{le}}",
            "sum by (le) (increase(probe_engine_attempt_lateness_seconds_bucket{@}[$__rate_interval]))",
        )],
        kubelet: Cannot(NO_LATENESS),
    },
    Panel {
        title: "Lateness quantiles",
        description: "Estimated from buckets.",
        kind: Lines,
        unit: "s",
        width: 8,
        engine: &[
            q(
                "p50",
                "histogram_quantile(0.5, sum by (le) (rate(probe_engine_attempt_lateness_seconds_bucket{@}[$__rate_interval])))",
            ),
            q(
                "p99",
                "histogram_quantile(0.99, sum by (le) (rate(probe_engine_attempt_lateness_seconds_bucket{@}[$__rate_interval])))",
            ),
            q(
                "p99.9",
                "histogram_quantile(0.999, sum by (le) (rate(probe_engine_attempt_lateness_seconds_bucket{@}[$__rate_interval])))",
            ),
        ],
        kubelet: Cannot(NO_LATENESS),
    },
    Panel {
        title: "Missed and waiting",
        description: "Due times that got no attempt, and attempts that had to wait for a place, by handler.",
        kind: Lines,
        unit: "ops",
        width: 8,
        engine: &[
            q("missed", "sum(rate(probe_engine_attempts_missed_total{@}[$__rate_interval]))"),
            q(
                "{{handler}} waited",
                "sum by (handler) (rate(probe_engine_attempts_rescheduled_total{@}[$__rate_interval]))",
            ),
        ],
        kubelet: Cannot("A kubelet's ticker drops what it cannot keep up with, uncounted."),
    },
];

const PASSIVE: &[Panel] = &[
    Panel {
        title: "Answers to tcpSocket probes",
        description: "Passive ones, and real ones by why they were made.",
        kind: Stacked,
        unit: "ops",
        width: 8,
        engine: &[
            q("passive", "sum(rate(probe_engine_passive_answers_total{@}[$__rate_interval]))"),
            q("{{why}}", "sum by (why) (rate(probe_engine_real_answers_total{@}[$__rate_interval]))"),
        ],
        kubelet: Cannot(NO_PASSIVE),
    },
    Panel {
        title: "Targets answered passively",
        description: "Of those that are watched.",
        kind: Lines,
        unit: "short",
        width: 8,
        engine: &[q("passive", "sum(probe_engine_passive_held{@})"), q("watched", "sum(probe_engine_ebpf_targets{@})")],
        kubelet: Cannot(NO_PASSIVE),
    },
    Panel {
        title: "Why passive answers ended",
        description: "By cause; `renewed` is their age, which is as it should be.",
        kind: Lines,
        unit: "ops",
        width: 8,
        engine: &[q("{{why}}", "sum by (why) (rate(probe_engine_passive_ended_total{@}[$__rate_interval]))")],
        kubelet: Cannot(NO_PASSIVE),
    },
    Panel {
        title: "Audits",
        description: "Passive answers that were checked by a connect, by what it said.",
        kind: Lines,
        unit: "ops",
        width: 8,
        engine: &[q("{{result}}", "sum by (result) (rate(probe_engine_passive_audits_total{@}[$__rate_interval]))")],
        kubelet: Cannot(NO_PASSIVE),
    },
    Panel {
        title: "Accept queues",
        description: "Watched targets one of whose listeners has a full accept queue, or does not empty it.",
        kind: Lines,
        unit: "short",
        width: 8,
        engine: &[
            q("full", "sum(probe_engine_accept_queues_full{@})"),
            q("stalled", "sum(probe_engine_accept_queues_stalled{@})"),
        ],
        kubelet: Cannot("A kubelet's tcpSocket probe succeeds although nobody accepts."),
    },
    Panel {
        title: "Kernel feed",
        description: "1 where the last self-test of the kernel program passed, on all nodes.",
        kind: Lines,
        unit: "short",
        width: 8,
        engine: &[q("healthy", "min(probe_engine_ebpf_feed_healthy{@})")],
        kubelet: Cannot(NO_PASSIVE),
    },
];

const FAILURES: &[Panel] = &[
    Panel {
        title: "Failing most",
        description: "The ten probes (or pods, or handlers, where series are coarser) with the most failures per second.",
        kind: Lines,
        unit: "ops",
        width: 12,
        engine: &[q(
            "{{namespace}}/{{pod}} {{container}} {{probe_type}}{{handler}}",
            "topk(10, sum by (namespace, pod, container, probe_type, handler) (rate(prober_probe_total{@, namespace=~\"$namespace\", result=\"failed\"}[$__rate_interval])))",
        )],
        kubelet: Shows(&[q(
            "{{namespace}}/{{pod}} {{container}} {{probe_type}}",
            "topk(10, sum by (namespace, pod, container, probe_type) (rate(prober_probe_total{@, namespace=~\"$namespace\", result!=\"successful\"}[$__rate_interval])))",
        )]),
    },
    Panel {
        title: "Restarts",
        description: "Failures of liveness and startup probes that ask for a restart, and containers started again for whatever reason. Of a kubelet: containers started, the first time included.",
        kind: Lines,
        unit: "short",
        width: 12,
        engine: &[
            q(
                "asked by {{probe_type}}",
                "sum by (probe_type) (increase(probe_engine_restarts_asked_total{@}[$__rate_interval]))",
            ),
            q("restarted", "sum(increase(probe_engine_container_restarts_total{@}[$__rate_interval]))"),
        ],
        kubelet: Shows(&[q(
            "started",
            "sum(increase(kubelet_started_containers_total{@, container_type=\"container\"}[$__rate_interval]))",
        )]),
    },
    Panel {
        title: "Pods that are not ready",
        description: "Pending and running ones.",
        kind: Lines,
        unit: "short",
        width: 12,
        engine: &[q(
            "not ready",
            "sum(probe_engine_pods{@, phase=~\"Pending|Running\"}) - sum(probe_engine_pods_ready{@})",
        )],
        kubelet: Cannot("No metric of a kubelet tells; `kube_pod_status_ready` of kube-state-metrics does."),
    },
    Panel {
        title: "Probes that watch nothing",
        description: "Paused by somebody; on hold with a Failure that nobody acts on; stuck on trouble of the daemon's own.",
        kind: Lines,
        unit: "short",
        width: 12,
        engine: &[
            q("paused", "sum(probe_engine_probes_paused{@})"),
            q("held", "sum(probe_engine_probes_held{@})"),
            q("stuck", "sum(probe_engine_probes_stuck{@})"),
        ],
        kubelet: Cannot("A kubelet's probes cannot be paused; those on hold it does not count."),
    },
];

const IN_FLIGHT: &[Panel] = &[
    Panel {
        title: "On the rings",
        description: "Attempts being made by shards, and how many there may be.",
        kind: Lines,
        unit: "short",
        width: 8,
        engine: &[
            q("in flight", "sum(probe_engine_shard_in_flight{@})"),
            q("at most", "sum(probe_engine_shard_in_flight_max{@})"),
        ],
        kubelet: Cannot(NO_BOUND),
    },
    Panel {
        title: "In the pool",
        description: "HTTPS, gRPC and exec attempts being made, and how many there may be.",
        kind: Lines,
        unit: "short",
        width: 8,
        engine: &[
            q("{{handler}}", "sum by (handler) (probe_engine_pool_in_flight{@})"),
            q("{{handler}} at most", "sum by (handler) (probe_engine_pool_in_flight_max{@})"),
        ],
        kubelet: Cannot(NO_BOUND),
    },
    Panel {
        title: "Waiting for the pool",
        description: "Attempts in the pool's queues, by handler.",
        kind: Lines,
        unit: "short",
        width: 8,
        engine: &[q("{{handler}}", "sum by (handler) (probe_engine_pool_queued{@})")],
        kubelet: Cannot(NO_BOUND),
    },
];

const PROCESS: &[Panel] = &[
    Panel {
        title: "CPU by node",
        description: "In cores.",
        kind: Lines,
        unit: "short",
        width: 8,
        engine: &[q("{{instance}}", "sum by (instance) (rate(process_cpu_seconds_total{@}[$__rate_interval]))")],
        kubelet: Shows(&[q(
            "{{instance}}",
            "sum by (instance) (rate(process_cpu_seconds_total{@}[$__rate_interval]))",
        )]),
    },
    Panel {
        title: "Resident memory by node",
        description: "",
        kind: Lines,
        unit: "bytes",
        width: 8,
        engine: &[q("{{instance}}", "sum by (instance) (process_resident_memory_bytes{@})")],
        kubelet: Shows(&[q("{{instance}}", "sum by (instance) (process_resident_memory_bytes{@})")]),
    },
    Panel {
        title: "Open files by node",
        description: "Part of RLIMIT_NOFILE.",
        kind: Lines,
        unit: "percentunit",
        width: 8,
        engine: &[q(
            "{{instance}}",
            "max by (instance) (process_open_fds{@}) / max by (instance) (process_max_fds{@})",
        )],
        kubelet: Shows(&[q(
            "{{instance}}",
            "max by (instance) (process_open_fds{@}) / max by (instance) (process_max_fds{@})",
        )]),
    },
    Panel {
        title: "Trouble of the daemon's own",
        description: "Attempts that were discarded because of it, by cause.",
        kind: Lines,
        unit: "ops",
        width: 8,
        engine: &[q("{{cause}}", "sum by (cause) (rate(probe_engine_attempts_local_total{@}[$__rate_interval]))")],
        kubelet: Cannot("A kubelet counts its own trouble as a failure of the container."),
    },
    Panel {
        title: "Shards",
        description: "The oldest last turn of a shard (10 s are a stall), and how long turns take.",
        kind: Lines,
        unit: "s",
        width: 8,
        engine: &[
            q("age of a turn", "max(probe_engine_shard_turn_age_seconds{@})"),
            q(
                "turn p99",
                "histogram_quantile(0.99, sum by (le) (rate(probe_engine_turn_duration_seconds_bucket{@}[$__rate_interval])))",
            ),
        ],
        kubelet: Cannot("A kubelet has none."),
    },
    Panel {
        title: "State file",
        description: "For how long it has not been known to be up to date.",
        kind: Lines,
        unit: "s",
        width: 8,
        engine: &[q(
            "{{instance}}",
            "time() - (max by (instance) (probe_engine_state_current_timestamp_seconds{@}) > 0)",
        )],
        kubelet: Cannot("A kubelet keeps no verdicts; it begins anew."),
    },
    Panel {
        title: "Sources with errors",
        description: "Manifest files and directories that could not be read; what they gave before is kept.",
        kind: Lines,
        unit: "short",
        width: 8,
        engine: &[q("{{instance}} {{source}}", "sum by (instance, source) (probe_engine_source_problems{@})")],
        kubelet: Cannot("Static pods apart, a kubelet's pods come from the API server."),
    },
    Panel {
        title: "Scrapes",
        description: "Size of an answer to /metrics.",
        kind: Lines,
        unit: "bytes",
        width: 8,
        engine: &[q("{{instance}}", "sum by (instance) (probe_engine_scrape_bytes{@})")],
        kubelet: Cannot("`scrape_samples_scraped` of Prometheus tells."),
    },
    Panel {
        title: "Lost for want of room",
        description: "Events and reports; verdicts are never lost.",
        kind: Lines,
        unit: "ops",
        width: 8,
        engine: &[
            q("events", "sum(rate(probe_engine_events_dropped_total{@}[$__rate_interval]))"),
            q("reports", "sum(rate(probe_engine_reports_dropped_total{@}[$__rate_interval]))"),
        ],
        kubelet: Cannot("A kubelet drops events uncounted."),
    },
];
