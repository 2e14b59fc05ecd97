//! Metrics of passive answers: what the shards count, and what the watch and the kernel program do.

use std::sync::atomic::{AtomicU64, Ordering};

use super::EbpfFacts;
use super::text::{Buckets, Kind, Labels, Text};
use crate::ebpf::Why;
use crate::ebpf::stats::EbpfStats;
use crate::shard::metrics::{AuditResult, PassiveCounts};

/// Upper bounds, in seconds, of what an event takes to reach the listener table.
const LAG_BUCKETS_S: [f64; 12] =
    [0.000_01, 0.000_025, 0.000_05, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.5];

/// One series without labels each, in the order of their names.
type Rows = [(&'static str, Kind, &'static str, fn(&EbpfStats) -> &AtomicU64)];

/// Counts and gauges of the watch and the sweep.
const ROWS: &Rows = &[
    (
        "probe_engine_accept_queues_full",
        Kind::Gauge,
        "Watched targets one of whose listeners has a full accept queue.",
        |stats| &stats.accept_queues_full,
    ),
    (
        "probe_engine_accept_queues_stalled",
        Kind::Gauge,
        "Watched targets one of whose listeners does not empty its accept queue.",
        |stats| &stats.accept_queues_stalled,
    ),
    (
        "probe_engine_ebpf_events_dropped_total",
        Kind::Counter,
        "Listener events for which the ring buffer had no room.",
        |stats| &stats.events_dropped,
    ),
    ("probe_engine_ebpf_events_total", Kind::Counter, "Listener events taken from the ring buffer.", |stats| {
        &stats.events
    }),
    (
        "probe_engine_ebpf_feed_healthy",
        Kind::Gauge,
        "1 where the program reported what the daemon itself did at the last self-test, else 0.",
        |stats| &stats.feed_healthy,
    ),
    ("probe_engine_ebpf_listeners", Kind::Gauge, "Listeners in the table.", |stats| &stats.listeners),
    (
        "probe_engine_ebpf_listeners_unannounced_total",
        Kind::Counter,
        "Listeners that a dump showed and no event had announced.",
        |stats| &stats.unannounced,
    ),
    (
        "probe_engine_ebpf_listeners_untold_total",
        Kind::Counter,
        "Listeners for which the table had no room.",
        |stats| &stats.table_full,
    ),
    (
        "probe_engine_ebpf_looks_spoiled_total",
        Kind::Counter,
        "Looks at listeners from which nothing could be concluded: the dump was cut short or took too long.",
        |stats| &stats.looks_spoiled,
    ),
    (
        "probe_engine_ebpf_looks_total",
        Kind::Counter,
        "Looks at the listeners of a namespace that were judged.",
        |stats| &stats.looks,
    ),
    ("probe_engine_ebpf_namespaces", Kind::Gauge, "Network namespaces held open for their targets.", |stats| {
        &stats.namespaces
    }),
    (
        "probe_engine_ebpf_notices_dropped_total",
        Kind::Counter,
        "Events and attempts of early detection for which there was no room.",
        |stats| &stats.notices_dropped,
    ),
    (
        "probe_engine_ebpf_program_misses_total",
        Kind::Counter,
        "Runs of the program that the kernel skipped because it interrupted itself.",
        |stats| &stats.program_misses,
    ),
    (
        "probe_engine_ebpf_program_runs_total",
        Kind::Counter,
        "Runs of the program; 0 where kernel.bpf_stats_enabled is off.",
        |stats| &stats.program_runs,
    ),
    (
        "probe_engine_ebpf_reconciles_total",
        Kind::Counter,
        "Times that the listener table was made true again by sock_diag after a loss.",
        |stats| &stats.reconciles,
    ),
    (
        "probe_engine_ebpf_self_tests_failed_total",
        Kind::Counter,
        "Self-tests after which the program had not reported what the daemon itself did.",
        |stats| &stats.self_tests_failed,
    ),
    (
        "probe_engine_ebpf_stray_drops_total",
        Kind::Counter,
        "Times that a listener had new drops, none of them of a connection request.",
        |stats| &stats.stray_drops,
    ),
    ("probe_engine_ebpf_sweeps_total", Kind::Counter, "Sweeps over the listeners that probes depend on.", |stats| {
        &stats.sweeps
    }),
    ("probe_engine_ebpf_targets", Kind::Gauge, "Targets of tcpSocket probes that are watched.", |stats| &stats.targets),
    (
        "probe_engine_passive_contradictions_total",
        Kind::Counter,
        "Audits that contradicted passive answers: a connect failed where nothing had changed.",
        |stats| &stats.contradictions,
    ),
    (
        "probe_engine_passive_voids_total",
        Kind::Counter,
        "Passive answers ended at once by the watch: self-test, contradiction, missed events.",
        |stats| &stats.voids,
    ),
    (
        "probe_engine_path_cuts_total",
        Kind::Counter,
        "Passive answers cut short by a change on the way that need not concern them.",
        |stats| &stats.path_cuts,
    ),
    (
        "probe_engine_path_events_total",
        Kind::Counter,
        "Changes of links, addresses, routes, rules and nftables in the namespaces of targets.",
        |stats| &stats.path_events,
    ),
    (
        "probe_engine_path_losses_total",
        Kind::Counter,
        "Losses on the sockets that announce such changes: each counts as a change of everything.",
        |stats| &stats.path_losses,
    ),
    (
        "probe_engine_path_voids_total",
        Kind::Counter,
        "Passive answers ended by a change that took away what leads to their target.",
        |stats| &stats.path_voids,
    ),
];

/// The same in seconds.
const ROWS_SECONDS: &Rows = &[
    (
        "probe_engine_ebpf_program_run_seconds_total",
        Kind::Counter,
        "Time spent in the program; 0 where kernel.bpf_stats_enabled is off.",
        |stats| &stats.program_run_ns,
    ),
    ("probe_engine_ebpf_sweep_duration_seconds", Kind::Gauge, "How long the last sweep took.", |stats| &stats.sweep_ns),
];

/// Everything of this file.
pub(super) fn write(text: &mut Text, shards: &PassiveCounts, ebpf: Option<&EbpfFacts>) {
    write_shards(text, shards);
    let Some(ebpf) = ebpf else { return };
    let info = Labels::of(&[("hook", ebpf.hook), ("sha256", &ebpf.sha256)]);
    text.family("probe_engine_ebpf_info", Kind::Gauge, "Always 1; the labels tell which program is attached to what.")
        .value(&info, 1);
    for (name, kind, help, place) in ROWS {
        text.family(name, *kind, help).value(&Labels::none(), place(&ebpf.stats).load(Ordering::Relaxed));
    }
    text.family(
        "probe_engine_ebpf_event_lag_seconds",
        Kind::Histogram,
        "From a listener's event to when it was in the listener table; passive answers do not wait for it.",
    )
    .histogram(&Labels::none(), &lag(&ebpf.stats));
    for (name, kind, help, place) in ROWS_SECONDS {
        text.family(name, *kind, help).seconds(&Labels::none(), place(&ebpf.stats).load(Ordering::Relaxed));
    }
}

fn lag(stats: &EbpfStats) -> Buckets {
    let mut buckets = Buckets::new(&LAG_BUCKETS_S);
    for (lag_ns, count) in stats.event_lag.snapshot().iter() {
        buckets.observe(lag_ns as f64 / 1e9, count);
    }
    buckets
}

/// Series by cause appear with their first count.
fn write_shards(text: &mut Text, shards: &PassiveCounts) {
    text.family(
        "probe_engine_passive_answers_total",
        Kind::Counter,
        "Attempts of tcpSocket probes that were answered from kernel state, without a connection.",
    )
    .value(&Labels::none(), shards.passive);
    let mut audits = text.family(
        "probe_engine_passive_audits_total",
        Kind::Counter,
        "Passive answers that were checked by a real connect, by what it said.",
    );
    for (result, count) in AuditResult::ALL.iter().zip(shards.audits) {
        audits.value(&Labels::of(&[("result", result.as_str())]), count);
    }
    text.family(
        "probe_engine_passive_cut_seconds_total",
        Kind::Counter,
        "Of probe_engine_passive_held_seconds_total, the time that a change on the way had shortened.",
    )
    .seconds(&Labels::none(), shards.cut_ns);
    let mut ended = text.family(
        "probe_engine_passive_ended_total",
        Kind::Counter,
        "Times that a target stopped being answered passively, by cause.",
    );
    by_cause(&shards.ended, |labels, count| ended.value(labels, count));
    text.family(
        "probe_engine_passive_granted_total",
        Kind::Counter,
        "Times that a connect let its target be answered passively from then on, renewals included.",
    )
    .value(&Labels::none(), shards.granted);
    text.family("probe_engine_passive_held", Kind::Gauge, "Targets that are answered passively now.")
        .value(&Labels::none(), shards.held);
    text.family(
        "probe_engine_passive_held_seconds_total",
        Kind::Counter,
        "Time that targets were answered passively, summed over them.",
    )
    .seconds(&Labels::none(), shards.held_ns);
    let mut real = text.family(
        "probe_engine_real_answers_total",
        Kind::Counter,
        "Attempts of tcpSocket probes that made a connection, by cause.",
    );
    by_cause(&shards.real, |labels, count| real.value(labels, count));
}

fn by_cause(counts: &[u64; Why::ALL.len()], mut write: impl FnMut(&Labels, u64)) {
    for (why, count) in Why::ALL.iter().zip(counts).filter(|(_, count)| **count > 0) {
        write(&Labels::of(&[("why", why.as_str())]), *count);
    }
}
