//! What one scrape needs of the node, copied out in one go on the results task.
//!
//! Histograms become buckets there (a few thousand steps each), everything of a pod is behind an `Arc` already;
//! the text is written afterwards, when the task is at work again.

use std::sync::Arc;

use hdrhistogram::Histogram;
use probe_core::id::{ContainerName, ProbeType};
use probe_core::outcome::LocalCause;
use probe_core::pod::ConditionStatus;
use probe_core::spec::{ContainerKind, Pod};
use probe_core::status::PodPhase;

use super::text::Buckets;
use crate::results::{DURATION_BUCKETS_S, Node, PodRecord, ProbeStats};
use crate::shard::metrics::PassiveCounts;

/// Upper bounds, in seconds, of attempts' durations and lateness: from a local connect to a long timeout.
pub(super) const ATTEMPT_BUCKETS_S: [f64; 18] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Upper bounds, in seconds, of a turn's duration.
pub(super) const TURN_BUCKETS_S: [f64; 12] =
    [0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.25, 1.0];

/// One pod.
pub(super) struct PodSnapshot {
    pub(super) pod: Arc<Pod>,
    pub(super) ready: ConditionStatus,
    /// Regular containers: name, ready, restarts; empty where they are not asked for.
    pub(super) containers: Vec<(ContainerName, bool, u32)>,
    /// Live probes.
    pub(super) probes: Vec<(ContainerName, ProbeType, Arc<ProbeStats>)>,
}

/// Sums over the shards, and gauges by shard.
pub(super) struct EngineSnapshot {
    pub(super) latency: [[Buckets; 5]; 5],
    pub(super) lateness: Buckets,
    pub(super) turn: Buckets,
    pub(super) local: [u64; LocalCause::ALL.len()],
    pub(super) rescheduled: [u64; 5],
    pub(super) missed: u64,
    pub(super) reports_dropped: u64,
    pub(super) passive: PassiveCounts,
    /// By shard: workers, attempts in flight.
    pub(super) shards: Vec<(u64, u64)>,
    pub(super) events_dropped: u64,
    pub(super) restarts: u64,
    pub(super) stuck: u64,
    /// In the order of [`PHASES`].
    pub(super) pods: [u64; 4],
}

/// The phases as label values come.
pub(super) const PHASES: [PodPhase; 4] = [PodPhase::Pending, PodPhase::Running, PodPhase::Succeeded, PodPhase::Failed];

/// All pods, by namespace and name, as client_golang would sort them.
pub(super) fn pods(node: &Node, with_containers: bool) -> Vec<PodSnapshot> {
    let mut pods: Vec<PodSnapshot> = node.pods.values().map(|record| pod(record, with_containers)).collect();
    pods.sort_unstable_by(|a, b| (&a.pod.namespace, &a.pod.name).cmp(&(&b.pod.namespace, &b.pod.name)));
    pods
}

fn pod(record: &PodRecord, with_containers: bool) -> PodSnapshot {
    let probes = record.containers.iter().flat_map(|container| {
        let live = container.probes.iter().flatten().filter(|probe| probe.stats.is_live());
        live.map(|probe| (container.name.clone(), probe.probe_type, Arc::clone(&probe.stats)))
    });
    let containers = record.containers.iter().zip(record.pod.all_containers()).filter(|_| with_containers);
    let regular = containers.filter(|(_, spec)| spec.kind == ContainerKind::Regular).map(|(container, _)| {
        let restarts = record.container_status(container).map_or(0, |status| status.restart_count);
        (container.name.clone(), container.ready, restarts)
    });
    PodSnapshot {
        pod: Arc::clone(&record.pod),
        ready: record.condition("Ready").map_or(ConditionStatus::Unknown, |condition| condition.status),
        containers: regular.collect(),
        probes: probes.collect(),
    }
}

/// The engine's own counts.
pub(super) fn engine(node: &Node) -> EngineSnapshot {
    let mut snapshot = EngineSnapshot {
        latency: std::array::from_fn(|_| std::array::from_fn(|_| Buckets::new(&ATTEMPT_BUCKETS_S))),
        lateness: Buckets::new(&ATTEMPT_BUCKETS_S),
        turn: Buckets::new(&TURN_BUCKETS_S),
        local: [0; LocalCause::ALL.len()],
        rescheduled: [0; 5],
        missed: 0,
        reports_dropped: 0,
        passive: PassiveCounts::default(),
        shards: Vec::with_capacity(node.shards.len()),
        events_dropped: node.events_dropped,
        restarts: node.restarts,
        stuck: 0,
        pods: PHASES.map(|phase| node.pods.values().filter(|record| record.phase == phase).count() as u64),
    };
    for shard in &node.shards {
        let Some(counts) = &shard.counts else {
            snapshot.shards.push((0, 0));
            continue;
        };
        for (buckets, histograms) in snapshot.latency.iter_mut().zip(&counts.latency_us) {
            for (buckets, histogram) in buckets.iter_mut().zip(histograms) {
                histogram.iter().for_each(|histogram| add_us(buckets, histogram));
            }
        }
        add_us(&mut snapshot.lateness, &counts.lateness_us);
        add_us(&mut snapshot.turn, &counts.turn_us);
        snapshot.local.iter_mut().zip(counts.local).for_each(|(sum, count)| *sum += count);
        snapshot.rescheduled.iter_mut().zip(counts.rescheduled).for_each(|(sum, count)| *sum += count);
        snapshot.missed += counts.missed;
        snapshot.reports_dropped += counts.reports_dropped;
        snapshot.stuck += counts.stuck_local;
        let held = snapshot.passive.held + counts.passive.held;
        snapshot.passive.add(&counts.passive);
        snapshot.passive.held = held;
        snapshot.shards.push((counts.workers, counts.in_flight));
    }
    snapshot
}

/// The kubelet's histogram of one probe.
pub(super) fn durations(stats: &ProbeStats) -> Buckets {
    let durations = stats.durations();
    Buckets { bounds: &DURATION_BUCKETS_S, counts: durations.counts.to_vec(), sum: durations.sum_ns as f64 / 1e9 }
}

/// Adds a histogram of microseconds. A value counts as the lowest that the histogram cannot tell it from (1 % at
/// most), so that one on a bucket's bound stays in it.
fn add_us(buckets: &mut Buckets, histogram: &Histogram<u64>) {
    for recorded in histogram.iter_recorded() {
        let value_us = histogram.lowest_equivalent(recorded.value_iterated_to());
        buckets.observe(value_us as f64 / 1e6, recorded.count_since_last_iteration());
    }
}
