//! Every family of metrics: one table, from which `/metrics` is written and docs/METRICS.md is made.
//!
//! **Invariant:** a family that is not in the table cannot be written: only here a [`Spec`] can be made.

use std::fmt::Write;

use super::text::Kind;

/// What users may rely on; Kubernetes' words for it (`component-base/metrics`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stability {
    /// Name, labels and meaning stay.
    Stable,
    /// They stay for at least one more release after it was said that they go.
    Beta,
    /// May change or go with any release.
    Alpha,
}

impl Stability {
    const fn as_str(self) -> &'static str {
        match self {
            Stability::Stable => "stable",
            Stability::Beta => "beta",
            Stability::Alpha => "alpha",
        }
    }
}

/// One family.
#[derive(Debug)]
pub(super) struct Spec {
    name: &'static str,
    kind: Kind,
    /// Names that its series may have, sorted; `le` of histograms apart.
    labels: &'static [&'static str],
    help: &'static str,
    stability: Stability,
}

impl Spec {
    /// As it is exposed.
    pub(super) const fn name(&self) -> &'static str {
        self.name
    }

    /// Its `TYPE`.
    pub(super) const fn kind(&self) -> Kind {
        self.kind
    }

    /// One sentence.
    pub(super) const fn help(&self) -> &'static str {
        self.help
    }
}

/// Families that belong together.
struct Group {
    title: &'static str,
    /// What holds for all of them; may be empty.
    note: &'static str,
    families: &'static [&'static Spec],
}

/// `TITLE, NOTE => { CONSTANT: KIND, STABILITY, NAME, [LABELS], HELP; .. }`
macro_rules! families {
    ($($title:literal, $note:literal => {
        $($constant:ident: $kind:ident, $stability:ident, $name:literal, [$($label:literal),*], $help:literal;)*
    })*) => {
        $($(
            #[doc = concat!("`", $name, "`")]
            pub(super) const $constant: Spec = Spec {
                name: $name,
                kind: Kind::$kind,
                labels: &[$($label),*],
                help: $help,
                stability: Stability::$stability,
            };
        )*)*
        const GROUPS: &[Group] = &[$(Group { title: $title, note: $note, families: &[$(&$constant),*] }),*];
    };
}

families! {
    "Probes, under the kubelet's names", "A probe's series appear with its first count and end with its worker. Beyond a number of probes, or by `--metrics-series`, they are summed up per pod or per handler, with fewer labels: `probe_engine_metric_series_level` tells." => {
        PROBER_PROBE_DURATION_SECONDS: Histogram, Alpha, "prober_probe_duration_seconds", ["container", "handler", "namespace", "pod", "probe_type"],
            "[ALPHA] Duration in seconds for a probe response.";
        PROBER_PROBE_TOTAL: Counter, Beta, "prober_probe_total", ["container", "handler", "namespace", "pod", "pod_uid", "probe_type", "result"],
            "[BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.";
    }
    "Pods, under the names of kube-state-metrics and of the kubelet", "Only with `--runtime process`: pods that others run are left to others. Beyond a number of pods, or with `--metrics-series handler`, those of pods end." => {
        KUBE_POD_CONTAINER_STATUS_READY: Gauge, Stable, "kube_pod_container_status_ready", ["container", "namespace", "pod", "uid"],
            "Describes whether the containers readiness check succeeded.";
        KUBE_POD_CONTAINER_STATUS_RESTARTS_TOTAL: Counter, Stable, "kube_pod_container_status_restarts_total", ["container", "namespace", "pod", "uid"],
            "The number of container restarts per container.";
        KUBE_POD_STATUS_READY: Gauge, Stable, "kube_pod_status_ready", ["condition", "namespace", "pod", "uid"],
            "Describes whether the pod is ready to serve requests.";
        KUBELET_LIFECYCLE_HANDLER_HTTP_FALLBACKS_TOTAL: Counter, Alpha, "kubelet_lifecycle_handler_http_fallbacks_total", [],
            "HTTPS lifecycle hooks that a server answered over plain HTTP, and that succeeded with it.";
        KUBELET_SLEEP_ACTION_TERMINATED_EARLY_TOTAL: Counter, Alpha, "kubelet_sleep_action_terminated_early_total", [],
            "Lifecycle hooks of kind sleep that were cut off before their time was over.";
    }
    "Attempts", "By handler: `tcp`, `http`, `https`, `grpc`, `exec`." => {
        ATTEMPT_DURATION_SECONDS: Histogram, Stable, "probe_engine_attempt_duration_seconds", ["handler", "outcome"],
            "Duration of probe attempts by handler and outcome, failures and discarded ones included.";
        ATTEMPT_LATENESS_SECONDS: Histogram, Stable, "probe_engine_attempt_lateness_seconds", [],
            "Actual start of probe attempts minus their due time.";
        ATTEMPT_PHASE_SECONDS: Histogram, Alpha, "probe_engine_attempt_phase_seconds", ["handler", "phase"],
            "Duration of one phase of attempts that succeeded: connect, tls, first_byte, body. On the shards' rings as of their turns.";
        ATTEMPTS_DETAILED_DROPPED_TOTAL: Counter, Alpha, "probe_engine_attempts_detailed_dropped_total", [],
            "Attempts of watched or failing probes that are missing in those probes' own histograms, for want of a place in a queue.";
        ATTEMPTS_LOCAL_TOTAL: Counter, Stable, "probe_engine_attempts_local_total", ["cause"],
            "Attempts discarded because of trouble of the daemon's own, by cause.";
        ATTEMPTS_MISSED_TOTAL: Counter, Stable, "probe_engine_attempts_missed_total", [],
            "Due times that got no attempt.";
        ATTEMPTS_NEAR_TIMEOUT_TOTAL: Counter, Stable, "probe_engine_attempts_near_timeout_total", ["handler"],
            "Attempts that took 80 % of their timeout or more, and succeeded.";
        ATTEMPTS_RESCHEDULED_TOTAL: Counter, Stable, "probe_engine_attempts_rescheduled_total", ["handler"],
            "Attempts that had to wait for a place on the ring or in the pool, by handler.";
        DETAILED_PROBES: Gauge, Alpha, "probe_engine_detailed_probes", [],
            "Probes that have histograms of their own, because they are watched or failing.";
        DETAILED_PROBES_REFUSED_TOTAL: Counter, Alpha, "probe_engine_detailed_probes_refused_total", ["why"],
            "Times that there were no histograms left: for a watch (watched), or for a probe that failed (failing).";
        HANDSHAKE_SECONDS: Histogram, Alpha, "probe_engine_handshake_seconds", ["handler"],
            "TCP handshakes as the kernel measured them, of some attempts: a bounded number each second.";
    }
    "Passive answers", "What the shards count of tcpSocket probes. Series by cause (`why`) appear with their first count." => {
        PASSIVE_ANSWERS_TOTAL: Counter, Stable, "probe_engine_passive_answers_total", [],
            "Attempts of tcpSocket probes that were answered from kernel state, without a connection.";
        PASSIVE_AUDITS_TOTAL: Counter, Alpha, "probe_engine_passive_audits_total", ["result"],
            "Passive answers that were checked by a real connect, by what it said.";
        PASSIVE_CUT_SECONDS_TOTAL: Counter, Alpha, "probe_engine_passive_cut_seconds_total", [],
            "Of probe_engine_passive_held_seconds_total, the time that a change on the way had shortened.";
        PASSIVE_ENDED_TOTAL: Counter, Alpha, "probe_engine_passive_ended_total", ["why"],
            "Times that a target stopped being answered passively, by cause.";
        PASSIVE_GRANTED_TOTAL: Counter, Alpha, "probe_engine_passive_granted_total", [],
            "Times that a connect let its target be answered passively from then on, renewals included.";
        PASSIVE_HELD: Gauge, Stable, "probe_engine_passive_held", [],
            "Targets that are answered passively now.";
        PASSIVE_HELD_SECONDS_TOTAL: Counter, Alpha, "probe_engine_passive_held_seconds_total", [],
            "Time that targets were answered passively, summed over them.";
        REAL_ANSWERS_TOTAL: Counter, Stable, "probe_engine_real_answers_total", ["why"],
            "Attempts of tcpSocket probes that made a connection, by cause.";
    }
    "Kernel program", "Only where it is loaded." => {
        ACCEPT_QUEUES_FULL: Gauge, Alpha, "probe_engine_accept_queues_full", [],
            "Watched targets one of whose listeners has a full accept queue.";
        ACCEPT_QUEUES_STALLED: Gauge, Alpha, "probe_engine_accept_queues_stalled", [],
            "Watched targets one of whose listeners does not empty its accept queue.";
        EBPF_EVENTS_DROPPED_TOTAL: Counter, Alpha, "probe_engine_ebpf_events_dropped_total", [],
            "Listener events for which the ring buffer had no room.";
        EBPF_EVENTS_TOTAL: Counter, Alpha, "probe_engine_ebpf_events_total", [],
            "Listener events taken from the ring buffer.";
        EBPF_FEED_HEALTHY: Gauge, Stable, "probe_engine_ebpf_feed_healthy", [],
            "1 where the program reported what the daemon itself did at the last self-test, else 0.";
        EBPF_LISTENERS: Gauge, Alpha, "probe_engine_ebpf_listeners", [],
            "Listeners in the table.";
        EBPF_LISTENERS_UNANNOUNCED_TOTAL: Counter, Alpha, "probe_engine_ebpf_listeners_unannounced_total", [],
            "Listeners that a dump showed and no event had announced.";
        EBPF_LISTENERS_UNTOLD_TOTAL: Counter, Alpha, "probe_engine_ebpf_listeners_untold_total", [],
            "Listeners for which the table had no room.";
        EBPF_LOOKS_SPOILED_TOTAL: Counter, Alpha, "probe_engine_ebpf_looks_spoiled_total", [],
            "Looks at listeners from which nothing could be concluded: the dump was cut short or took too long.";
        EBPF_LOOKS_TOTAL: Counter, Alpha, "probe_engine_ebpf_looks_total", [],
            "Looks at the listeners of a namespace that were judged.";
        EBPF_NAMESPACES: Gauge, Alpha, "probe_engine_ebpf_namespaces", [],
            "Network namespaces held open for their targets.";
        EBPF_NOTICES_DROPPED_TOTAL: Counter, Alpha, "probe_engine_ebpf_notices_dropped_total", [],
            "Events and attempts of early detection for which there was no room.";
        EBPF_PROGRAM_MISSES_TOTAL: Counter, Alpha, "probe_engine_ebpf_program_misses_total", [],
            "Runs of the program that the kernel skipped because it interrupted itself.";
        EBPF_PROGRAM_RUNS_TOTAL: Counter, Alpha, "probe_engine_ebpf_program_runs_total", [],
            "Runs of the program; 0 where kernel.bpf_stats_enabled is off.";
        EBPF_RECONCILES_TOTAL: Counter, Alpha, "probe_engine_ebpf_reconciles_total", [],
            "Times that the listener table was made true again by sock_diag after a loss.";
        EBPF_SELF_TESTS_FAILED_TOTAL: Counter, Alpha, "probe_engine_ebpf_self_tests_failed_total", [],
            "Self-tests after which the program had not reported what the daemon itself did.";
        EBPF_STRAY_DROPS_TOTAL: Counter, Alpha, "probe_engine_ebpf_stray_drops_total", [],
            "Times that a listener had new drops, none of them of a connection request.";
        EBPF_SWEEPS_TOTAL: Counter, Alpha, "probe_engine_ebpf_sweeps_total", [],
            "Sweeps over the listeners that probes depend on.";
        EBPF_TARGETS: Gauge, Alpha, "probe_engine_ebpf_targets", [],
            "Targets of tcpSocket probes that are watched.";
        PASSIVE_CONTRADICTIONS_TOTAL: Counter, Stable, "probe_engine_passive_contradictions_total", [],
            "Audits that contradicted passive answers: a connect failed where nothing had changed.";
        PASSIVE_VOIDS_TOTAL: Counter, Alpha, "probe_engine_passive_voids_total", [],
            "Passive answers ended at once by the watch: self-test, contradiction, missed events.";
        PATH_CUTS_TOTAL: Counter, Alpha, "probe_engine_path_cuts_total", [],
            "Passive answers cut short by a change on the way that need not concern them.";
        PATH_EVENTS_TOTAL: Counter, Alpha, "probe_engine_path_events_total", [],
            "Changes of links, addresses, routes, rules and nftables in the namespaces of targets.";
        PATH_LOSSES_TOTAL: Counter, Alpha, "probe_engine_path_losses_total", [],
            "Losses on the sockets that announce such changes: each counts as a change of everything.";
        PATH_VOIDS_TOTAL: Counter, Alpha, "probe_engine_path_voids_total", [],
            "Passive answers ended by a change that took away what leads to their target.";
        EBPF_PROGRAM_RUN_SECONDS_TOTAL: Counter, Alpha, "probe_engine_ebpf_program_run_seconds_total", [],
            "Time spent in the program; 0 where kernel.bpf_stats_enabled is off.";
        EBPF_SWEEP_DURATION_SECONDS: Gauge, Alpha, "probe_engine_ebpf_sweep_duration_seconds", [],
            "How long the last sweep took.";
        EBPF_INFO: Gauge, Alpha, "probe_engine_ebpf_info", ["hook", "sha256"],
            "Always 1; the labels tell which program is attached to what.";
        EBPF_EVENT_LAG_SECONDS: Histogram, Alpha, "probe_engine_ebpf_event_lag_seconds", [],
            "From a listener's event to when it was in the listener table; passive answers do not wait for it.";
    }
    "Node and daemon", "" => {
        BUILD_INFO: Gauge, Stable, "probe_engine_build_info", ["runtime", "version"],
            "Always 1; the labels tell what runs.";
        CONTAINER_RESTARTS_TOTAL: Counter, Stable, "probe_engine_container_restarts_total", [],
            "Container instances started again since the daemon started.";
        EVENTS_DROPPED_TOTAL: Counter, Alpha, "probe_engine_events_dropped_total", [],
            "Events for which there was no place.";
        PODS: Gauge, Stable, "probe_engine_pods", ["phase"],
            "Pods by phase.";
        PODS_READY: Gauge, Stable, "probe_engine_pods_ready", [],
            "Pods whose condition Ready is True.";
        PROBES_HELD: Gauge, Stable, "probe_engine_probes_held", [],
            "Liveness and startup probes on hold with a Failure whose container runs on: nobody has restarted it yet.";
        PROBES_HELD_OLDEST_TIMESTAMP_SECONDS: Gauge, Stable, "probe_engine_probes_held_oldest_timestamp_seconds", [],
            "Since when the first of them is held, since 1970; 0 where none is.";
        PROBES_PAUSED: Gauge, Stable, "probe_engine_probes_paused", [],
            "Probes that make no attempts because somebody has paused them.";
        PROBES_PAUSED_OLDEST_TIMESTAMP_SECONDS: Gauge, Stable, "probe_engine_probes_paused_oldest_timestamp_seconds", [],
            "Since when the first of them is paused, since 1970; 0 where none is.";
        PROBES_STUCK: Gauge, Stable, "probe_engine_probes_stuck", [],
            "Probes with nothing but trouble of the daemon's own for too long.";
        PROBES_WITHOUT_SERIES: Gauge, Stable, "probe_engine_probes_without_series", [],
            "Probes whose prober_probe_* series are summed up with others'; see probe_engine_metric_series_level.";
        REPORTS_DROPPED_TOTAL: Counter, Alpha, "probe_engine_reports_dropped_total", [],
            "Reports of attempts for which there was no place.";
        RESTARTS_ASKED_TOTAL: Counter, Stable, "probe_engine_restarts_asked_total", ["probe_type"],
            "Failures of liveness and startup probes that ask for a restart of their container, whatever becomes of it.";
        METRIC_SERIES_LEVEL: Gauge, Stable, "probe_engine_metric_series_level", ["level", "series"],
            "1 for what has series of its own now: each probe, pod or handler, each pod or none.";
        METRIC_SERIES_CAPPED: Gauge, Stable, "probe_engine_metric_series_capped", [],
            "1 where the node has so many probes or pods that series are coarser than --metrics-series lets them be, else 0.";
    }
    "Shards", "By index of the shard." => {
        SHARD_IN_FLIGHT: Gauge, Stable, "probe_engine_shard_in_flight", ["shard"],
            "Attempts being made on the shard's ring.";
        SHARD_IN_FLIGHT_MAX: Gauge, Stable, "probe_engine_shard_in_flight_max", ["shard"],
            "Attempts on the shard's ring at most, by the daemon's RLIMIT_NOFILE; more wait in due order.";
        SHARD_INFO: Gauge, Stable, "probe_engine_shard_info", ["io", "shard"],
            "Always 1; the label tells the I/O in use.";
        SHARD_SLAB_PLACES: Gauge, Alpha, "probe_engine_shard_slab_places", ["shard", "slab"],
            "Places of a slab of the shard that there is memory for: as many as were ever used at once, or some more.";
        SHARD_SLAB_USED: Gauge, Alpha, "probe_engine_shard_slab_used", ["shard", "slab"],
            "Places of a slab of the shard in use.";
        SHARD_WORKERS: Gauge, Stable, "probe_engine_shard_workers", ["shard"],
            "Probe workers that live on the shard.";
        SHARD_TURN_AGE_SECONDS: Gauge, Stable, "probe_engine_shard_turn_age_seconds", ["shard"],
            "Since the shard last finished a turn; an idle shard makes one every second.";
        TURN_DURATION_SECONDS: Histogram, Alpha, "probe_engine_turn_duration_seconds", [],
            "Duration of the shards' turns, waiting apart.";
    }
    "Pool", "" => {
        POOL_IN_FLIGHT: Gauge, Stable, "probe_engine_pool_in_flight", ["handler"],
            "Attempts being made in the pool, by handler.";
        POOL_IN_FLIGHT_MAX: Gauge, Stable, "probe_engine_pool_in_flight_max", ["handler"],
            "Attempts in the pool at most, by handler; more wait in its queue.";
        POOL_QUEUED: Gauge, Stable, "probe_engine_pool_queued", ["handler"],
            "Attempts waiting in the pool's queues, by handler.";
    }
    "Scrapes", "Of this page itself." => {
        SCRAPE_BYTES: Gauge, Alpha, "probe_engine_scrape_bytes", [],
            "Size of the answer to /metrics before this one.";
        SCRAPE_SECONDS_TOTAL: Counter, Alpha, "probe_engine_scrape_seconds_total", [],
            "Time that answers to /metrics before this one took to make.";
        SCRAPES_TOTAL: Counter, Alpha, "probe_engine_scrapes_total", [],
            "Answers to /metrics before this one.";
    }
    "Push", "Only with `--otlp-endpoint`." => {
        OTLP_FAILURES_TOTAL: Counter, Stable, "probe_engine_otlp_failures_total", [],
            "Pushes of metrics that the collector did not take, or not in full.";
        OTLP_PUSHES_TOTAL: Counter, Alpha, "probe_engine_otlp_pushes_total", [],
            "Pushes of metrics that the collector took.";
    }
    "Sources", "By name of the source." => {
        SOURCE_LAST_SUCCESS_TIMESTAMP_SECONDS: Gauge, Stable, "probe_engine_source_last_success_timestamp_seconds", ["source"],
            "When the source was last read without an error, since 1970; it is read when something changed. 0 where it never was.";
        SOURCE_PODS: Gauge, Stable, "probe_engine_source_pods", ["source"],
            "Pods that the source wants now.";
        SOURCE_PROBLEMS: Gauge, Stable, "probe_engine_source_problems", ["source"],
            "Files and directories with errors when the source was last read; the pods that they gave before are kept.";
    }
    "State file", "" => {
        STATE_BYTES: Gauge, Alpha, "probe_engine_state_bytes", [],
            "Size of the state file.";
        STATE_CURRENT_TIMESTAMP_SECONDS: Gauge, Stable, "probe_engine_state_current_timestamp_seconds", [],
            "When the state file was last known to be up to date, since 1970; 0 where it never was.";
        STATE_PODS_LEFT_OUT: Gauge, Alpha, "probe_engine_state_pods_left_out", [],
            "Pods that had no place in the state file at the last look.";
        STATE_WRITE_ERRORS_TOTAL: Counter, Stable, "probe_engine_state_write_errors_total", [],
            "Times that the state file could not be written.";
    }
    "Control API over TCP", "Only with `--api-listen`." => {
        API_HANDSHAKES_TOTAL: Counter, Stable, "probe_engine_api_handshakes_total", ["result"],
            "TLS handshakes by how they ended: accepted, refused (no good certificate), timeout, displaced (by newer ones), full (a good certificate, but no place).";
        API_CERTIFICATE_EXPIRY_TIMESTAMP_SECONDS: Gauge, Stable, "probe_engine_api_certificate_expiry_timestamp_seconds", [],
            "When the daemon's own certificate ends, since 1970; 0 where that cannot be read.";
        API_CERTIFICATE_LOADS_TOTAL: Counter, Alpha, "probe_engine_api_certificate_loads_total", [],
            "Times that certificates were taken into use, the start included.";
        API_CERTIFICATE_LOAD_FAILED: Gauge, Stable, "probe_engine_api_certificate_load_failed", [],
            "1 while the certificates on disk cannot be used, and those before are.";
    }
    "Process", "Under the names of Prometheus' client libraries." => {
        PROCESS_CPU_SECONDS_TOTAL: Counter, Stable, "process_cpu_seconds_total", [],
            "Total user and system CPU time spent in seconds.";
        PROCESS_MAX_FDS: Gauge, Stable, "process_max_fds", [],
            "Maximum number of open file descriptors.";
        PROCESS_OPEN_FDS: Gauge, Stable, "process_open_fds", [],
            "Number of open file descriptors.";
        PROCESS_RESIDENT_MEMORY_BYTES: Gauge, Stable, "process_resident_memory_bytes", [],
            "Resident memory size in bytes.";
        PROCESS_START_TIME_SECONDS: Gauge, Stable, "process_start_time_seconds", [],
            "Start time of the process since unix epoch in seconds.";
        PROCESS_VIRTUAL_MEMORY_BYTES: Gauge, Stable, "process_virtual_memory_bytes", [],
            "Virtual memory size in bytes.";
    }
}

/// The text of docs/METRICS.md.
#[must_use]
pub fn reference() -> String {
    let mut page = String::from(HEAD);
    for group in GROUPS {
        write!(page, "\n## {}\n\n", group.title).expect(NEVER);
        if !group.note.is_empty() {
            write!(page, "{}\n\n", group.note).expect(NEVER);
        }
        page.push_str("| Name | Type | Labels | Stability | Meaning |\n|---|---|---|---|---|\n");
        for Spec { name, kind, labels, help, stability } in group.families {
            let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
            let (kind, labels, stability) = (kind.as_str(), labels.join(", "), stability.as_str());
            writeln!(page, "| `{name}` | {kind} | {labels} | {stability} | {help} |").expect(NEVER);
        }
    }
    page
}

const NEVER: &str = "writing to a String cannot fail";

/// What stands above the tables.
const HEAD: &str = "\
# Metrics

<!-- Made from probe-engine/src/consumer/metrics/families.rs; `UPDATE=1 cargo test -p probe-engine the_reference_page` makes it anew. -->

What `/metrics` may hold. Units are seconds and bytes; counters (`_total`) count since the daemon started. `stable`: name, labels and meaning stay; `beta`: they are
announced before they go; `alpha`: they may change with any release. `/metrics/probes` serves the kubelet's two alone, as a kubelet does.
[OPERATIONS.md](OPERATIONS.md) says which alerts use them, `deploy/prometheus/` holds the rules, `deploy/grafana/` the dashboards.
";

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use super::*;

    impl Spec {
        /// One that is in no table.
        pub(in super::super) const fn in_test(name: &'static str, kind: Kind, help: &'static str) -> Self {
            Self { name, kind, labels: &[], help, stability: Stability::Alpha }
        }
    }

    fn all() -> impl Iterator<Item = &'static Spec> {
        GROUPS.iter().flat_map(|group| group.families.iter().copied())
    }

    /// The family of a line of the text format, and whether it may have these labels.
    pub(in super::super) fn in_table(line: &str) -> Result<(), String> {
        let (series, _) = line.rsplit_once(' ').ok_or("no value")?;
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let is_of = |spec: &&Spec| {
            let suffix = name.strip_prefix(spec.name);
            suffix.is_some_and(|suffix| match spec.kind {
                Kind::Histogram => ["_bucket", "_sum", "_count"].contains(&suffix),
                Kind::Counter | Kind::Gauge => suffix.is_empty(),
            })
        };
        let spec = all().find(is_of).ok_or_else(|| format!("{name} is not in the table"))?;
        let labels = labels.trim_end_matches('}').split("\",").filter_map(|label| label.split_once("=\""));
        for (label, _) in labels {
            let is_bound = label == "le" && spec.kind == Kind::Histogram;
            if !is_bound && !spec.labels.contains(&label) {
                return Err(format!("{name}: label {label} is not in the table"));
            }
        }
        Ok(())
    }

    #[test]
    fn every_family_is_named_as_prometheus_wants_it() {
        let mut seen = std::collections::BTreeSet::new();
        for Spec { name, kind, labels, help, .. } in all() {
            assert!(seen.insert(name), "{name} is there twice");
            assert_eq!(*kind == Kind::Counter, name.ends_with("_total"), "{name}");
            let other = ["ns", "us", "ms", "milliseconds", "kilobytes", "megabytes"];
            assert_eq!(
                name.split('_').find(|word| other.contains(word)),
                None,
                "{name}: seconds and bytes are the units"
            );
            assert!(labels.is_sorted(), "{name}: {labels:?}");
            assert!(help.ends_with('.') && !help.contains('|'), "{name}: {help}");
        }
    }

    #[test]
    fn the_reference_page_is_what_the_table_says() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/METRICS.md");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, reference()).expect("the page is written");
        }
        let page = std::fs::read_to_string(&path).unwrap_or_default();
        let again = "UPDATE=1 cargo test -p probe-engine the_reference_page";
        assert!(page == reference(), "docs/METRICS.md differs from the table of families; to make it anew: {again}");
    }
}
