//! Metrics of passive answers: what the shards count, and what the watch and the kernel program do.

use std::sync::atomic::{AtomicU64, Ordering};

use super::EbpfFacts;
use super::families::{self, Spec};
use super::text::{Buckets, Labels, Text};
use crate::ebpf::Why;
use crate::ebpf::stats::EbpfStats;
use crate::shard::metrics::{AuditResult, PassiveCounts};

/// Upper bounds, in seconds, of what an event takes to reach the listener table.
const LAG_BUCKETS_S: [f64; 12] =
    [0.000_01, 0.000_025, 0.000_05, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.5];

/// One series without labels each, in the order of their names.
type Rows = [(&'static Spec, fn(&EbpfStats) -> &AtomicU64)];

/// Counts and gauges of the watch and the sweep.
const ROWS: &Rows = &[
    (&families::ACCEPT_QUEUES_FULL, |stats| &stats.accept_queues_full),
    (&families::ACCEPT_QUEUES_STALLED, |stats| &stats.accept_queues_stalled),
    (&families::EBPF_EVENTS_DROPPED_TOTAL, |stats| &stats.events_dropped),
    (&families::EBPF_EVENTS_TOTAL, |stats| &stats.events),
    (&families::EBPF_FEED_HEALTHY, |stats| &stats.feed_healthy),
    (&families::EBPF_LISTENERS, |stats| &stats.listeners),
    (&families::EBPF_LISTENERS_UNANNOUNCED_TOTAL, |stats| &stats.unannounced),
    (&families::EBPF_LISTENERS_UNTOLD_TOTAL, |stats| &stats.table_full),
    (&families::EBPF_LOOKS_SPOILED_TOTAL, |stats| &stats.looks_spoiled),
    (&families::EBPF_LOOKS_TOTAL, |stats| &stats.looks),
    (&families::EBPF_NAMESPACES, |stats| &stats.namespaces),
    (&families::EBPF_NOTICES_DROPPED_TOTAL, |stats| &stats.notices_dropped),
    (&families::EBPF_PROGRAM_MISSES_TOTAL, |stats| &stats.program_misses),
    (&families::EBPF_PROGRAM_RUNS_TOTAL, |stats| &stats.program_runs),
    (&families::EBPF_RECONCILES_TOTAL, |stats| &stats.reconciles),
    (&families::EBPF_SELF_TESTS_FAILED_TOTAL, |stats| &stats.self_tests_failed),
    (&families::EBPF_STRAY_DROPS_TOTAL, |stats| &stats.stray_drops),
    (&families::EBPF_SWEEPS_TOTAL, |stats| &stats.sweeps),
    (&families::EBPF_TARGETS, |stats| &stats.targets),
    (&families::PASSIVE_CONTRADICTIONS_TOTAL, |stats| &stats.contradictions),
    (&families::PASSIVE_VOIDS_TOTAL, |stats| &stats.voids),
    (&families::PATH_CUTS_TOTAL, |stats| &stats.path_cuts),
    (&families::PATH_EVENTS_TOTAL, |stats| &stats.path_events),
    (&families::PATH_LOSSES_TOTAL, |stats| &stats.path_losses),
    (&families::PATH_VOIDS_TOTAL, |stats| &stats.path_voids),
];

/// The same in seconds.
const ROWS_SECONDS: &Rows = &[
    (&families::EBPF_PROGRAM_RUN_SECONDS_TOTAL, |stats| &stats.program_run_ns),
    (&families::EBPF_SWEEP_DURATION_SECONDS, |stats| &stats.sweep_ns),
];

/// Everything of this file.
pub(super) fn write(text: &mut Text, shards: &PassiveCounts, ebpf: Option<&EbpfFacts>) {
    write_shards(text, shards);
    let Some(ebpf) = ebpf else { return };
    let info = Labels::of(&[("hook", ebpf.hook), ("sha256", &ebpf.sha256)]);
    text.family(&families::EBPF_INFO).value(&info, 1);
    for (spec, place) in ROWS {
        text.family(spec).value(&Labels::none(), place(&ebpf.stats).load(Ordering::Relaxed));
    }
    text.family(&families::EBPF_EVENT_LAG_SECONDS).histogram(&Labels::none(), &lag(&ebpf.stats));
    for (spec, place) in ROWS_SECONDS {
        text.family(spec).seconds(&Labels::none(), place(&ebpf.stats).load(Ordering::Relaxed));
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
    text.family(&families::PASSIVE_ANSWERS_TOTAL).value(&Labels::none(), shards.passive);
    let mut audits = text.family(&families::PASSIVE_AUDITS_TOTAL);
    for (result, count) in AuditResult::ALL.iter().zip(shards.audits) {
        audits.value(&Labels::of(&[("result", result.as_str())]), count);
    }
    text.family(&families::PASSIVE_CUT_SECONDS_TOTAL).seconds(&Labels::none(), shards.cut_ns);
    let mut ended = text.family(&families::PASSIVE_ENDED_TOTAL);
    by_cause(&shards.ended, |labels, count| ended.value(labels, count));
    text.family(&families::PASSIVE_GRANTED_TOTAL).value(&Labels::none(), shards.granted);
    text.family(&families::PASSIVE_HELD).value(&Labels::none(), shards.held);
    text.family(&families::PASSIVE_HELD_SECONDS_TOTAL).seconds(&Labels::none(), shards.held_ns);
    let mut real = text.family(&families::REAL_ANSWERS_TOTAL);
    by_cause(&shards.real, |labels, count| real.value(labels, count));
}

fn by_cause(counts: &[u64; Why::ALL.len()], mut write: impl FnMut(&Labels, u64)) {
    for (why, count) in Why::ALL.iter().zip(counts).filter(|(_, count)| **count > 0) {
        write(&Labels::of(&[("why", why.as_str())]), *count);
    }
}
