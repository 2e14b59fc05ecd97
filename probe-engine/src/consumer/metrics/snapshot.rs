//! What one scrape needs of the node, copied out on the results task: the pods in parts, so that the task never stands still
//! for long, and only as many as have series of their own ([`crate::results::SeriesLevels`]).
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
use crate::results::latency::DetailCounts;
use crate::results::{
    DURATION_BUCKETS_S, Durations, Node, PodRecord, ProbeStats, ResultsError, ResultsHandle, SeriesLevel, SeriesLevels,
    Standing,
};
use crate::shard::metrics::{HandlerKind, Occupancy, OutcomeKind, PassiveCounts, Phase};
use crate::{clock, limits};

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
    pub(super) probes: ProbesSnapshot,
}

/// The probes of one pod, as fine as their series are.
pub(super) enum ProbesSnapshot {
    /// Live probes.
    Each(Vec<(ContainerName, ProbeType, Arc<ProbeStats>)>),
    /// The sums over all probes since the pod was added; of ended ones too, so that they only grow.
    Sums(Box<Sums>),
    /// They have no series here.
    None,
}

/// What the kubelet's two metrics show of several probes.
#[derive(Clone, Debug, Default)]
pub(super) struct Sums {
    pub(super) successful: u64,
    pub(super) failed: u64,
    pub(super) durations: Durations,
}

/// The same of all attempts of one handler. Counted by attempt and not by probe: what is gone stays counted.
pub(super) struct HandlerSums {
    pub(super) handler: HandlerKind,
    pub(super) failed: u64,
    pub(super) durations: Buckets,
}

/// Sums over the shards, and gauges by shard.
pub(super) struct EngineSnapshot {
    pub(super) latency: [[Buckets; 5]; 5],
    pub(super) lateness: Buckets,
    pub(super) turn: Buckets,
    /// By handler and phase.
    pub(super) phases: [[Buckets; Phase::ALL.len()]; 5],
    pub(super) handshakes: [Buckets; 5],
    pub(super) near: [u64; 5],
    pub(super) details: DetailCounts,
    pub(super) details_dropped: u64,
    pub(super) local: [u64; LocalCause::ALL.len()],
    pub(super) rescheduled: [u64; 5],
    pub(super) missed: u64,
    pub(super) reports_dropped: u64,
    pub(super) passive: PassiveCounts,
    /// By shard: workers, attempts in flight.
    pub(super) shards: Vec<(u64, u64)>,
    /// Of each shard, in the order of [`Occupancy::SLABS`].
    pub(super) slabs: Vec<[Occupancy; Occupancy::SLABS.len()]>,
    pub(super) events_dropped: u64,
    pub(super) restarts: u64,
    pub(super) stuck: u64,
    pub(super) paused: Standing,
    pub(super) held: Standing,
    /// In the order of [`PHASES`].
    pub(super) pods: [u64; 4],
    pub(super) pods_ready: u64,
    /// In the order of `ProbeType::ALL`.
    pub(super) restarts_asked: [u64; 3],
    pub(super) probes_len: u64,
}

/// The phases as label values come.
pub(super) const PHASES: [PodPhase; 4] = [PodPhase::Pending, PodPhase::Running, PodPhase::Succeeded, PodPhase::Failed];

/// The pods that have series of their own, by namespace and name, as client_golang would sort them. `with_containers`: those
/// of kube-state-metrics are wanted too.
pub(super) async fn pods(
    results: &ResultsHandle,
    levels: SeriesLevels,
    with_containers: bool,
) -> Result<Vec<PodSnapshot>, ResultsError> {
    let with_containers = with_containers && levels.has_pods();
    let level = levels.probes();
    let mut pods = Vec::new();
    if level == SeriesLevel::Handler && !with_containers {
        return Ok(pods);
    }
    for first in (0..).step_by(limits::RESULTS_PODS_PER_PART) {
        let look = move |node: &Node| {
            let part = node.pods.part(first..first + limits::RESULTS_PODS_PER_PART)?;
            let of = part.map(|record| pod(record, level, with_containers));
            Some(of.filter(|pod| with_containers || pod.has_probes()).collect::<Vec<_>>())
        };
        match results.read(look).await? {
            Some(part) => pods.extend(part),
            None => break,
        }
    }
    Ok(pods)
}

/// By namespace and name.
pub(super) fn sort(pods: &mut [PodSnapshot]) {
    pods.sort_unstable_by(|a, b| (&a.pod.namespace, &a.pod.name).cmp(&(&b.pod.namespace, &b.pod.name)));
}

impl PodSnapshot {
    fn has_probes(&self) -> bool {
        match &self.probes {
            ProbesSnapshot::Each(probes) => !probes.is_empty(),
            ProbesSnapshot::Sums(sums) => sums.successful + sums.failed > 0,
            ProbesSnapshot::None => false,
        }
    }
}

fn pod(record: &PodRecord, level: SeriesLevel, with_containers: bool) -> PodSnapshot {
    let probes = match level {
        SeriesLevel::Probe => ProbesSnapshot::Each(each(record)),
        SeriesLevel::Pod => ProbesSnapshot::Sums(Box::new(sums(record))),
        SeriesLevel::Handler => ProbesSnapshot::None,
    };
    let containers = record.containers().filter(|(spec, _)| with_containers && spec.kind == ContainerKind::Regular);
    let regular = containers.map(|(spec, container)| {
        let restarts = record.container_status(&container).map_or(0, |status| status.restart_count);
        (spec.name.clone(), container.ready, restarts)
    });
    PodSnapshot { pod: Arc::clone(&record.pod), ready: record.ready(), containers: regular.collect(), probes }
}

fn each(record: &PodRecord) -> Vec<(ContainerName, ProbeType, Arc<ProbeStats>)> {
    let of = record.containers().flat_map(|(spec, container)| {
        let live = container.probes.iter().filter(|probe| probe.stats.is_live());
        live.map(|probe| (spec.name.clone(), probe.probe_type, Arc::clone(&probe.stats)))
    });
    of.collect()
}

fn sums(record: &PodRecord) -> Sums {
    let mut sums = Sums::default();
    for probe in &record.probes {
        sums.successful += probe.stats.successful();
        sums.failed += probe.stats.failed();
        sums.durations.add(&probe.stats.durations());
    }
    sums
}

/// By handler, from what the shards count; passive successes took next to no time.
pub(super) fn handlers(node: &Node) -> Vec<HandlerSums> {
    let of = HandlerKind::ALL.into_iter().map(|handler| {
        let mut sums = HandlerSums { handler, failed: 0, durations: Buckets::new(&DURATION_BUCKETS_S) };
        for counts in node.shards.iter().filter_map(|shard| shard.counts.as_ref()) {
            let by_outcome = &counts.latency_us[handler.index()];
            for success in [OutcomeKind::Success, OutcomeKind::Warning] {
                by_outcome[success.index()].iter().for_each(|histogram| add_us(&mut sums.durations, histogram));
            }
            sums.failed += by_outcome[OutcomeKind::Failure.index()].as_ref().map_or(0, Histogram::len);
            if handler == HandlerKind::Tcp {
                sums.durations.observe(0.0, counts.passive.passive);
            }
        }
        sums
    });
    of.collect()
}

/// The engine's own counts.
pub(super) fn engine(node: &Node) -> EngineSnapshot {
    let mut snapshot = EngineSnapshot {
        latency: std::array::from_fn(|_| std::array::from_fn(|_| Buckets::fine(&ATTEMPT_BUCKETS_S))),
        lateness: Buckets::fine(&ATTEMPT_BUCKETS_S),
        turn: Buckets::fine(&TURN_BUCKETS_S),
        phases: std::array::from_fn(|_| std::array::from_fn(|_| Buckets::fine(&ATTEMPT_BUCKETS_S))),
        handshakes: std::array::from_fn(|_| Buckets::fine(&ATTEMPT_BUCKETS_S)),
        near: [0; 5],
        details: node.latency.details.counts(),
        details_dropped: 0,
        local: [0; LocalCause::ALL.len()],
        rescheduled: [0; 5],
        missed: 0,
        reports_dropped: 0,
        passive: PassiveCounts::default(),
        shards: Vec::with_capacity(node.shards.len()),
        slabs: Vec::with_capacity(node.shards.len()),
        events_dropped: node.events_dropped,
        restarts: node.restarts,
        stuck: 0,
        paused: node.paused(clock::now()),
        held: node.held(),
        pods: node.phases,
        pods_ready: node.pods_ready,
        restarts_asked: node.restarts_asked,
        probes_len: node.pods.probes_len() as u64,
    };
    for shard in &node.shards {
        let Some(counts) = &shard.counts else {
            snapshot.shards.push((0, 0));
            snapshot.slabs.push(Default::default());
            continue;
        };
        for (buckets, histograms) in snapshot.latency.iter_mut().zip(&counts.latency_us) {
            for (buckets, histogram) in buckets.iter_mut().zip(histograms) {
                histogram.iter().for_each(|histogram| add_us(buckets, histogram));
            }
        }
        counts.lateness().for_each(|histogram| add_us(&mut snapshot.lateness, histogram));
        add_us(&mut snapshot.turn, &counts.turn_us);
        let phases = snapshot.phases.iter_mut().flatten().zip(counts.phase_us.iter().flatten());
        let handshakes = snapshot.handshakes.iter_mut().zip(&counts.handshake_us);
        for (buckets, histogram) in phases.chain(handshakes) {
            histogram.iter().for_each(|histogram| add_us(buckets, histogram));
        }
        snapshot.near.iter_mut().zip(counts.near).for_each(|(sum, count)| *sum += count);
        snapshot.details_dropped += counts.details_dropped;
        snapshot.local.iter_mut().zip(counts.local).for_each(|(sum, count)| *sum += count);
        snapshot.rescheduled.iter_mut().zip(counts.rescheduled).for_each(|(sum, count)| *sum += count);
        snapshot.missed += counts.missed;
        snapshot.reports_dropped += counts.reports_dropped;
        snapshot.stuck += counts.stuck_local;
        let held = snapshot.passive.held + counts.passive.held;
        snapshot.passive.add(&counts.passive);
        snapshot.passive.held = held;
        snapshot.shards.push((counts.workers, counts.in_flight));
        snapshot.slabs.push(counts.slabs);
    }
    snapshot
}

/// The kubelet's histogram of one probe, or of several.
pub(super) fn buckets(durations: &Durations) -> Buckets {
    let sum = durations.sum_ns as f64 / 1e9;
    Buckets { bounds: &DURATION_BUCKETS_S, counts: durations.counts.to_vec(), sum, fine: None }
}

/// Adds a histogram of microseconds. A value counts as the lowest that the histogram cannot tell it from (1 % at
/// most), so that one on a bucket's bound stays in it.
fn add_us(buckets: &mut Buckets, histogram: &Histogram<u64>) {
    for recorded in histogram.iter_recorded() {
        let value_us = histogram.lowest_equivalent(recorded.value_iterated_to());
        buckets.observe(value_us as f64 / 1e6, recorded.count_since_last_iteration());
    }
}
