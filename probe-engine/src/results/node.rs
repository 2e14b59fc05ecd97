//! What is known of the node: pods, containers, probes, and the shards' counts.

use std::collections::HashMap;
use std::sync::Arc;

use hdrhistogram::Histogram;
use jiff::Timestamp;
use probe_core::action::{Publish, Report};
use probe_core::id::{ContainerId, ContainerName, PodUid, ProbeKey, ProbeType};
use probe_core::outcome::{LocalCause, Outcome, Verdict};
use probe_core::pod::{Condition, ConditionStatus};
use probe_core::spec::Pod;
use probe_core::status::{ContainerStatus, PodPhase, PodStatus};
use probe_core::time::Instant;

use super::ProbeStats;
use crate::clock;
use crate::limits;
use crate::shard::inbox::ProbeSlot;
use crate::shard::metrics::{OutcomeKind, ShardMetrics};

/// All that is known of the node's pods. Owned by the results task.
#[derive(Debug, Default)]
pub struct Node {
    /// By UID.
    pub pods: HashMap<PodUid, PodRecord>,
    /// The shards' counts, by shard.
    pub shards: Vec<ShardTotals>,
    /// Sources that must have been read once before the daemon is ready.
    pub sources: Vec<&'static str>,
    /// Sources that have been.
    pub synced: Vec<&'static str>,
    /// Instances of containers that were started again since the daemon started.
    pub restarts: u64,
    /// Events for which the events stage had no place.
    pub events_dropped: u64,
    /// Counts up with every change that `get pods` would show.
    pub revision: u64,
}

impl Node {
    /// The pod of this name; a namespace holds at most one.
    #[must_use]
    pub fn pod_by_name(&self, namespace: &str, name: &str) -> Option<&PodRecord> {
        let named = |record: &&PodRecord| &*record.pod.namespace == namespace && &*record.pod.name == name;
        self.pods.values().find(named)
    }

    /// The probe of this key.
    #[must_use]
    pub fn probe(&self, key: &ProbeKey) -> Option<&ProbeRecord> {
        let pod = self.pods.get(&key.pod)?;
        pod.container(&key.container)?.probe(key.probe_type)
    }

    /// Sources that have not been read once yet.
    pub fn unsynced(&self) -> impl Iterator<Item = &'static str> {
        self.sources.iter().copied().filter(|source| !self.synced.contains(source))
    }

    /// Probes with nothing but local trouble for too long.
    pub fn stuck(&self) -> impl Iterator<Item = StuckProbe<'_>> {
        self.pods.values().flat_map(|record| {
            record.containers.iter().flat_map(move |container| {
                container.probes.iter().flatten().filter_map(move |probe| {
                    let trouble = probe.stuck()?;
                    Some(StuckProbe { pod: &record.pod, container: &container.name, probe, trouble })
                })
            })
        })
    }
}

/// A probe that [`Node::stuck`] found.
#[derive(Clone, Copy, Debug)]
pub struct StuckProbe<'a> {
    /// Its pod.
    pub pod: &'a Arc<Pod>,
    /// Its container.
    pub container: &'a ContainerName,
    /// The probe.
    pub probe: &'a ProbeRecord,
    /// What keeps it.
    pub trouble: LocalTrouble,
}

/// One pod.
#[derive(Clone, Debug)]
pub struct PodRecord {
    /// As parsed.
    pub pod: Arc<Pod>,
    /// Where its workers live: nobody else's word on it counts.
    pub shard: Option<usize>,
    /// When the daemon first saw it.
    pub added_at: Timestamp,
    /// The runtime's newest word, shared with the pod's shard; `None` before the first.
    pub status: Option<Arc<PodStatus>>,
    /// Its phase.
    pub phase: PodPhase,
    /// Its termination has begun.
    pub deleting: bool,
    /// Initialized, ContainersReady, Ready, gates; with the time of the last flip.
    pub conditions: Vec<(Condition, Timestamp)>,
    /// Conditions set from outside: those of readiness gates.
    pub gates: Vec<(Arc<str>, ConditionStatus)>,
    /// One per container, in the order of `Pod::all_containers`.
    pub containers: Vec<ContainerRecord>,
}

impl PodRecord {
    /// A pod of which nothing is known but what it asks for.
    #[must_use]
    pub fn new(pod: Arc<Pod>, slots: &[ProbeSlot], shard: Option<usize>, now: Timestamp) -> Self {
        let containers = pod.all_containers().map(|container| ContainerRecord::new(&container.name, slots)).collect();
        Self {
            shard,
            added_at: now,
            phase: PodPhase::Pending,
            deleting: false,
            status: None,
            conditions: Vec::new(),
            gates: Vec::new(),
            containers,
            pod,
        }
    }

    /// The container of this name.
    #[must_use]
    pub fn container(&self, name: &ContainerName) -> Option<&ContainerRecord> {
        self.containers.iter().find(|container| container.name == *name)
    }

    /// The runtime's newest word on a container of this pod; `None` where it has none.
    #[must_use]
    pub fn container_status(&self, container: &ContainerRecord) -> Option<&ContainerStatus> {
        self.status.as_ref()?.containers.get(usize::from(container.status_index?))
    }

    /// The same, to change it.
    pub(super) fn container_mut(&mut self, name: &ContainerName) -> Option<&mut ContainerRecord> {
        self.containers.iter_mut().find(|container| container.name == *name)
    }

    /// The condition of this type.
    #[must_use]
    pub fn condition(&self, condition_type: &str) -> Option<&Condition> {
        self.conditions.iter().map(|(condition, _)| condition).find(|c| &*c.condition_type == condition_type)
    }

    /// The condition Ready is True.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.condition("Ready").is_some_and(|condition| condition.status == ConditionStatus::True)
    }
}

/// One container of a pod.
#[derive(Clone, Debug)]
pub struct ContainerRecord {
    /// Which.
    pub name: ContainerName,
    /// Where in `PodRecord::status` its entry is; see [`PodRecord::container_status`].
    pub status_index: Option<u16>,
    /// Rule 5.1.
    pub started: bool,
    /// Rule 5.2.
    pub ready: bool,
    /// Its probes, one place per `ProbeType::ALL`.
    pub probes: [Option<ProbeRecord>; 3],
}

impl ContainerRecord {
    fn new(name: &ContainerName, slots: &[ProbeSlot]) -> Self {
        let probe = |probe_type: ProbeType| {
            let slot = slots.iter().find(|slot| slot.container == *name && slot.probe_type == probe_type)?;
            Some(ProbeRecord::new(probe_type, Arc::clone(&slot.stats)))
        };
        Self { name: name.clone(), status_index: None, started: false, ready: false, probes: ProbeType::ALL.map(probe) }
    }

    /// Its probe of this type.
    #[must_use]
    pub fn probe(&self, probe_type: ProbeType) -> Option<&ProbeRecord> {
        self.probes[probe_type.index()].as_ref()
    }

    /// The same, to change it.
    pub(super) fn probe_mut(&mut self, probe_type: ProbeType) -> Option<&mut ProbeRecord> {
        self.probes[probe_type.index()].as_mut()
    }
}

/// One probe of a container.
#[derive(Clone, Debug)]
pub struct ProbeRecord {
    /// Which.
    pub probe_type: ProbeType,
    /// Counts, written by the shard.
    pub stats: Arc<ProbeStats>,
    /// The stored verdict.
    pub verdict: Option<Verdict>,
    /// The instance that the verdict is about.
    pub container_id: Option<ContainerId>,
    /// When it was last set to another value.
    pub verdict_since: Option<Timestamp>,
    /// The newest report's outcome, text cut at [`limits::MESSAGE_BYTES_MAX`], and when.
    pub last: Option<LastReport>,
    /// The newest local trouble that lasted too long; see [`ProbeRecord::stuck`].
    pub local: Option<LocalTrouble>,
}

impl ProbeRecord {
    fn new(probe_type: ProbeType, stats: Arc<ProbeStats>) -> Self {
        Self { probe_type, stats, verdict: None, container_id: None, verdict_since: None, last: None, local: None }
    }

    /// The trouble that still keeps the probe: no attempt has counted since.
    #[must_use]
    pub fn stuck(&self) -> Option<LocalTrouble> {
        let counted_at = Instant::from_nanos(self.stats.last_at_ns());
        self.local.filter(|trouble| self.stats.is_live() && counted_at <= trouble.at)
    }

    /// Takes over a stored or removed verdict; `false` where nothing changed for anyone.
    pub(super) fn publish(&mut self, publish: &Publish) -> bool {
        let Some(verdict) = publish.verdict else {
            let is_ours = self.container_id.as_ref() == Some(&publish.container_id);
            let changed = is_ours && self.verdict.take().is_some();
            if changed {
                self.verdict_since = None;
                self.container_id = None;
            }
            return changed;
        };
        let is_same = self.verdict == Some(verdict) && self.container_id.as_ref() == Some(&publish.container_id);
        if is_same {
            return false;
        }
        if self.verdict != Some(verdict) {
            self.verdict_since = Some(clock::wall_of(publish.at));
        }
        self.verdict = Some(verdict);
        self.container_id = Some(publish.container_id.clone());
        true
    }

    pub(super) fn report(&mut self, report: &Report) {
        let kind = OutcomeKind::of(&report.outcome);
        if kind != OutcomeKind::Local {
            self.local = None;
        }
        self.last = Some(LastReport {
            kind,
            message: cut(text_of(&report.outcome), limits::MESSAGE_BYTES_MAX).into(),
            at: clock::wall_of(report.at),
            duration_ns: report.duration_ns,
        });
    }
}

/// Trouble of our own that has kept a probe from any real outcome for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalTrouble {
    /// The newest cause.
    pub cause: LocalCause,
    /// Since the last real outcome, in nanoseconds, when it was found.
    pub for_ns: u64,
    /// When it was found.
    pub at: Instant,
}

/// The newest report of a probe.
#[derive(Clone, Debug)]
pub struct LastReport {
    /// `success`, `warning`, `failure`, `error` or `local`.
    pub kind: OutcomeKind,
    /// Its text.
    pub message: Box<str>,
    /// When it ended.
    pub at: Timestamp,
    /// How long the call took, in nanoseconds.
    pub duration_ns: u64,
}

/// What one shard has counted since it started: the sum of its deltas, and its newest gauges.
#[derive(Clone, Debug, Default)]
pub struct ShardTotals {
    /// Sums and gauges; `None` before the first delta.
    pub counts: Option<Box<ShardMetrics>>,
}

impl ShardTotals {
    /// Adds a delta; gauges are replaced.
    pub fn add(&mut self, delta: Box<ShardMetrics>) {
        let Some(sum) = &mut self.counts else {
            self.counts = Some(delta);
            return;
        };
        for (sums, deltas) in sum.latency_us.iter_mut().zip(delta.latency_us) {
            for (sum, delta) in sums.iter_mut().zip(deltas) {
                merge_optional(sum, delta);
            }
        }
        merge(&mut sum.lateness_us, &delta.lateness_us);
        merge(&mut sum.turn_us, &delta.turn_us);
        for (sum, delta) in sum.local.iter_mut().zip(delta.local) {
            *sum += delta;
        }
        for (sum, delta) in sum.rescheduled.iter_mut().zip(delta.rescheduled) {
            *sum += delta;
        }
        sum.missed += delta.missed;
        sum.reports_dropped += delta.reports_dropped;
        sum.in_flight = delta.in_flight;
        sum.workers = delta.workers;
        sum.stuck_local = delta.stuck_local;
        sum.passive.add(&delta.passive);
    }
}

/// What an outcome says: its text, or the sentence of its cause.
pub(super) fn text_of(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Success(text) | Outcome::Warning(text) | Outcome::Failure(text) | Outcome::Error(text) => text,
        Outcome::Local(cause) => cause.sentence(),
    }
}

/// The longest start of `text` that has at most `bytes_max` bytes and ends between two characters.
pub(crate) fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

fn merge_optional(sum: &mut Option<Histogram<u64>>, delta: Option<Histogram<u64>>) {
    match (sum.as_mut(), delta) {
        (Some(sum), Some(delta)) => merge(sum, &delta),
        (None, Some(delta)) => *sum = Some(delta),
        (_, None) => {}
    }
}

/// Both are made with the same bounds, so this cannot fail; if it did, the delta would be left out.
fn merge(sum: &mut Histogram<u64>, delta: &Histogram<u64>) {
    if let Err(error) = sum.add(delta) {
        tracing::debug!(%error, "histograms of different bounds");
    }
}
