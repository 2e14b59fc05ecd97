//! What is known of the node: pods, containers, probes, and the shards' counts.
//!
//! There are up to a million [`ProbeRecord`]s, so they hold only what most probes have; the rest stands in a box.

use std::collections::{HashMap, HashSet};
use std::ops::{Deref, Range};
use std::sync::Arc;

use jiff::Timestamp;
use probe_core::action::{Publish, Report};
use probe_core::id::{ContainerId, ContainerName, PodUid, ProbeKey, ProbeType};
use probe_core::outcome::{LocalCause, Outcome, Verdict};
use probe_core::pod::ConditionStatus;
use probe_core::spec::{Container, Pod};
use probe_core::status::{ContainerState, ContainerStatus, PodPhase, PodStatus};
use probe_core::time::Instant;
use probe_core::worker::Memory;

use super::latency::{Latencies, TooMany};
use super::pauses::{Held, Paused, Pauses};
use super::series::SeriesLevels;
use super::{Pods, ProbeStats, ShardTotals, Timeline};
use crate::clock;
use crate::limits;
use crate::shard::inbox::ProbeSlot;
use crate::shard::metrics::OutcomeKind;
use crate::source::SourceKind;
use crate::state::PodState;

/// All that is known of the node's pods. Owned by the results task.
#[derive(Debug, Default)]
pub struct Node {
    /// By UID.
    pub pods: Pods,
    /// The shards' counts, by shard.
    pub shards: Vec<ShardTotals>,
    /// What they recorded, of the node and of single probes.
    pub latency: Latencies,
    /// Sources that must have been read once before the daemon is ready.
    pub sources: Vec<&'static str>,
    /// Sources that have been.
    pub synced: Vec<&'static str>,
    /// Instances of containers that were started again since the daemon started.
    pub restarts: u64,
    /// Verdicts that ask for a restart of their container, by `ProbeType::index`, whatever becomes of it.
    pub restarts_asked: [u64; 3],
    /// Events for which the events stage had no place.
    pub events_dropped: u64,
    /// Counts up with every change that `get pods` or `get probes` would show, counts and times apart.
    pub revision: u64,
    /// Pods by phase, in the order of [`PodPhase`].
    pub phases: [u64; 4],
    /// Pods whose condition Ready is True.
    pub pods_ready: u64,
    /// Pods by source, in the order of [`SourceKind`].
    pub pods_by_source: [u64; 2],
    /// Probes whose verdict is Failure.
    pub probes_failing: u64,
    /// How fine the metric series are.
    pub series: SeriesLevels,
    /// What an earlier daemon knew of pods, until each of their containers has had its turn; and of pods that may come yet.
    pub pasts: HashMap<PodUid, Arc<PodState>>,
    /// The newest changes of verdicts and of readiness.
    pub timeline: Timeline,
    /// Probes that have told of local trouble for too long; most of them may be over it.
    pub(super) troubled: HashSet<ProbeKey>,
    pub(super) pauses: Pauses,
    pub(super) held: Held,
}

impl Node {
    /// The pod of this name; a namespace holds at most one.
    #[must_use]
    pub fn pod_by_name(&self, namespace: &str, name: &str) -> Option<&PodRecord> {
        self.pods.by_name(namespace, name)
    }

    /// The probe of this key.
    #[must_use]
    pub fn probe(&self, key: &ProbeKey) -> Option<&ProbeRecord> {
        self.pods.get(&key.pod)?.container(&key.container)?.probe(key.probe_type)
    }

    /// Sources that have not been read once yet.
    pub fn unsynced(&self) -> impl Iterator<Item = &'static str> {
        self.sources.iter().copied().filter(|source| !self.synced.contains(source))
    }

    /// A client of the API runs the containers: it is a source that must be heard, and they go on without the daemon.
    #[must_use]
    pub fn has_external_containers(&self) -> bool {
        self.sources.contains(&SourceKind::Api.as_str())
    }

    /// Probes with nothing but local trouble for too long.
    pub fn stuck(&self) -> impl Iterator<Item = StuckProbe<'_>> {
        self.troubled.iter().filter_map(|key| {
            let pod = &self.pods.get(&key.pod)?.pod;
            let probe = self.probe(key)?;
            let trouble = probe.stuck()?;
            Some(StuckProbe { pod, container: &key.container, probe, trouble })
        })
    }

    /// See [`super::ResultsHandle::watch_latency`].
    pub(super) fn watch_latency(&mut self, pods: &[PodUid], until: Instant, now: Instant) -> Result<(), TooMany> {
        let records = pods.iter().filter_map(|uid| self.pods.get(uid));
        let probes =
            records.flat_map(|record| record.keys().zip(record.probes.iter().map(|probe| Arc::clone(&probe.stats))));
        self.latency.details.watch(probes.collect(), until, now)
    }

    /// Takes in a pod; its probes count from here on.
    pub(super) fn insert(&mut self, record: PodRecord) {
        let uid = record.pod.uid.clone();
        self.remove(&uid);
        self.count_in(&record, clock::now());
        self.revision += 1;
        self.pods.insert(record, self.revision);
        self.recount(None, &uid);
        self.series.look(self.pods.probes_len(), self.pods.len());
    }

    /// Forgets a pod.
    pub(super) fn remove(&mut self, uid: &PodUid) -> Option<PodRecord> {
        let record = self.pods.remove(uid, self.revision + 1)?;
        self.revision += 1;
        self.pasts.remove(uid);
        self.count_out(PodCount::of(&record));
        self.count_out_probes(&record);
        if !self.troubled.is_empty() {
            for key in record.keys() {
                self.troubled.remove(&key);
            }
        }
        self.latency.details.forget(record.keys());
        self.series.look(self.pods.probes_len(), self.pods.len());
        Some(record)
    }

    /// The pod has changed: watchers are told of it as it is when they ask.
    pub(super) fn touch(&mut self, uid: &PodUid) -> Option<&mut PodRecord> {
        self.revision += 1;
        self.pods.change(uid, self.revision)
    }

    /// Keeps the sums over all pods right after a change of this one. `before`: as it counted before the change.
    pub(super) fn recount(&mut self, before: Option<PodCount>, uid: &PodUid) {
        let after = self.pods.get(uid).map(PodCount::of);
        if before == after {
            return;
        }
        before.into_iter().for_each(|before| self.count_out(before));
        if let Some(after) = after {
            self.phases[after.phase as usize] += 1;
            self.pods_by_source[after.source as usize] += 1;
            self.pods_ready += u64::from(after.ready);
            self.probes_failing += u64::from(after.failing);
        }
    }

    fn count_out(&mut self, pod: PodCount) {
        self.phases[pod.phase as usize] -= 1;
        self.pods_by_source[pod.source as usize] -= 1;
        self.pods_ready -= u64::from(pod.ready);
        self.probes_failing -= u64::from(pod.failing);
    }
}

/// What a pod adds to the sums over all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PodCount {
    phase: PodPhase,
    ready: bool,
    source: SourceKind,
    /// Probes whose verdict is Failure.
    failing: u32,
}

impl PodCount {
    pub(super) fn of(record: &PodRecord) -> Self {
        let failing = record.probes.iter().map(|probe| u32::from(probe.verdict == Some(Verdict::Failure))).sum();
        Self { phase: record.phase, ready: record.is_ready(), failing, source: record.source }
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

/// A point of the wall clock in nanoseconds since 1970: half of what a `Timestamp` takes. Years 1678 to 2262; what lies
/// beyond counts as the end of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct WallNs(i64);

impl From<Timestamp> for WallNs {
    fn from(at: Timestamp) -> Self {
        let nanos = at.as_nanosecond().clamp(i128::from(i64::MIN), i128::from(i64::MAX));
        Self(i64::try_from(nanos).unwrap_or(i64::MAX))
    }
}

impl From<WallNs> for Timestamp {
    fn from(at: WallNs) -> Self {
        Timestamp::from_nanosecond(at.0.into()).unwrap_or_default()
    }
}

/// The same in hundredths of a second: five bytes, so that a probe's record is three words. The next one, so that a change is
/// never told to be older than what it came of. Years 1970 to 2318; what lies beyond counts as the end of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct WallCentis([u8; 5]);

impl From<Timestamp> for WallCentis {
    fn from(at: Timestamp) -> Self {
        let nanos = u128::try_from(at.as_nanosecond()).unwrap_or_default();
        let centis = u64::try_from(nanos.div_ceil(10_000_000)).unwrap_or(u64::MAX).min((1 << 40) - 1);
        let [a, b, c, d, e, ..] = centis.to_le_bytes();
        Self([a, b, c, d, e])
    }
}

impl From<WallCentis> for Timestamp {
    fn from(WallCentis([a, b, c, d, e]): WallCentis) -> Self {
        let centis = u64::from_le_bytes([a, b, c, d, e, 0, 0, 0]);
        i64::try_from(centis * 10).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or_default()
    }
}

/// The conditions that every pod has, in the order in which `probe_core::pod::conditions` gives them.
pub const CONDITIONS_LEN: usize = 3;

/// Where Ready stands among them.
const READY: usize = 2;

/// A condition set from outside: a readiness gate's.
#[derive(Clone, Debug)]
pub struct Gate {
    /// Its type.
    pub condition_type: Arc<str>,
    /// Its status.
    pub status: ConditionStatus,
    /// Its last flip.
    pub since: WallNs,
}

/// One pod.
#[derive(Clone, Debug)]
pub struct PodRecord {
    /// As parsed.
    pub pod: Arc<Pod>,
    /// The runtime's newest word, shared with the pod's shard; `None` before the first.
    pub status: Option<Arc<PodStatus>>,
    /// When the daemon first saw it.
    pub added_at: WallNs,
    /// Last flips of Initialized, ContainersReady and Ready; see [`crate::consumer::status::conditions`].
    pub since: [WallNs; CONDITIONS_LEN],
    /// One per container, in the order of `Pod::all_containers`.
    pub(crate) containers: Box<[ContainerRecord]>,
    /// Those of the first container, in the order of `ProbeType::ALL`, then of the next: one list takes less than many.
    pub(crate) probes: Box<[ProbeRecord]>,
    /// Conditions set from outside.
    pub gates: Box<[Gate]>,
    /// Where its workers live: nobody else's word on it counts.
    pub shard: Option<u16>,
    /// Their statuses; `Unknown` before they were first computed.
    pub conditions: [ConditionStatus; CONDITIONS_LEN],
    /// Its phase.
    pub phase: PodPhase,
    /// Its termination has begun.
    pub deleting: bool,
    /// Where it came from.
    pub source: SourceKind,
}

impl PodRecord {
    /// A pod of which nothing is known but what it asks for.
    #[must_use]
    pub fn new(pod: Arc<Pod>, slots: &[ProbeSlot], shard: Option<usize>, now: Timestamp) -> Self {
        let mut probes = Vec::with_capacity(slots.len());
        let containers =
            pod.all_containers().map(|container| ContainerRecord::new(&container.name, slots, &mut probes));
        let containers = containers.collect();
        Self {
            probes: probes.into(),
            status: None,
            added_at: now.into(),
            since: [now.into(); CONDITIONS_LEN],
            containers,
            gates: Box::default(),
            shard: shard.and_then(|shard| u16::try_from(shard).ok()),
            conditions: [ConditionStatus::Unknown; CONDITIONS_LEN],
            phase: PodPhase::Pending,
            deleting: false,
            source: SourceKind::Manifests,
            pod,
        }
    }

    /// The container of this name.
    #[must_use]
    pub fn container(&self, name: &ContainerName) -> Option<ContainerView<'_>> {
        self.container_at(self.position(name)?)
    }

    /// The container in this place of `Pod::all_containers`.
    #[must_use]
    pub fn container_at(&self, position: usize) -> Option<ContainerView<'_>> {
        let record = self.containers.get(position)?;
        Some(ContainerView::new(record, &self.probes))
    }

    /// The containers with what they were asked to be.
    pub fn containers(&self) -> impl Iterator<Item = (&Container, ContainerView<'_>)> {
        let views = self.containers.iter().map(|record| ContainerView::new(record, &self.probes));
        self.pod.all_containers().zip(views)
    }

    /// The runtime's newest word on a container of this pod; `None` where it has none.
    #[must_use]
    pub fn container_status(&self, container: &ContainerRecord) -> Option<&ContainerStatus> {
        container.status_of(self.status.as_deref())
    }

    /// The probe of this container and type, to change it, with the container's newest instance.
    pub(super) fn probe_mut(
        &mut self,
        container: &ContainerName,
        probe_type: ProbeType,
    ) -> Option<(&mut ProbeRecord, Option<&ContainerId>)> {
        let position = self.position(container)?;
        let container = self.containers.get(position)?;
        let newest = container.status_of(self.status.as_deref()).and_then(|status| status.id.as_ref());
        let mut probes = self.probes[container.probes()].iter_mut();
        let probe = probes.find(|probe| probe.probe_type == probe_type)?;
        Some((probe, newest))
    }

    /// What its probes are known by.
    pub(super) fn keys(&self) -> impl Iterator<Item = ProbeKey> {
        self.containers().flat_map(|(spec, container)| {
            let key = |probe: &ProbeRecord| ProbeKey {
                pod: self.pod.uid.clone(),
                container: spec.name.clone(),
                probe_type: probe.probe_type,
            };
            container.probes.iter().map(key)
        })
    }

    /// The status of its condition Ready; `Unknown` before it was first computed.
    #[must_use]
    pub fn ready(&self) -> ConditionStatus {
        self.conditions[READY]
    }

    /// The condition Ready is True.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready() == ConditionStatus::True
    }

    pub(super) fn probes_len(&self) -> usize {
        self.probes.len()
    }

    fn position(&self, name: &ContainerName) -> Option<usize> {
        self.pod.all_containers().position(|container| container.name == *name)
    }
}

/// One container of a pod.
#[derive(Clone, Debug)]
pub struct ContainerRecord {
    /// Place of its first probe in `PodRecord::probes`.
    first_probe: u16,
    probes_len: u8,
    /// Where in `PodRecord::status` its entry is; see [`PodRecord::container_status`].
    pub status_index: Option<u16>,
    /// Rule 5.1.
    pub started: bool,
    /// Rule 5.2.
    pub ready: bool,
}

impl ContainerRecord {
    /// `probes`: the pod's so far, behind which its own are put. A container beyond the 65,535th probe of its pod counts as one
    /// without (a manifest file's size allows no such pod).
    fn new(name: &ContainerName, slots: &[ProbeSlot], probes: &mut Vec<ProbeRecord>) -> Self {
        let mut container = Self { first_probe: 0, probes_len: 0, status_index: None, started: false, ready: false };
        let Ok(first_probe) = u16::try_from(probes.len()) else { return container };
        container.first_probe = first_probe;
        for probe_type in ProbeType::ALL {
            if let Some(slot) = slots.iter().find(|slot| slot.container == *name && slot.probe_type == probe_type) {
                let mut probe = ProbeRecord::new(probe_type, Arc::clone(&slot.stats));
                probe.set_paused(slot.paused);
                probes.push(probe);
                container.probes_len += 1;
            }
        }
        container
    }

    /// Where its probes are in `PodRecord::probes`.
    pub(crate) fn probes(&self) -> Range<usize> {
        let first = usize::from(self.first_probe);
        first..first + usize::from(self.probes_len)
    }

    /// Its entry in the pod's status.
    #[must_use]
    pub fn status_of<'a>(&self, status: Option<&'a PodStatus>) -> Option<&'a ContainerStatus> {
        status?.containers.get(usize::from(self.status_index?))
    }
}

/// One container of a pod, with its probes.
#[derive(Clone, Copy, Debug)]
pub struct ContainerView<'a> {
    record: &'a ContainerRecord,
    /// In the order of `ProbeType::ALL`; only those that it has.
    pub probes: &'a [ProbeRecord],
}

impl<'a> ContainerView<'a> {
    /// `all`: the probes of its pod.
    pub(crate) fn new(record: &'a ContainerRecord, all: &'a [ProbeRecord]) -> Self {
        Self { record, probes: &all[record.probes()] }
    }

    /// Its probe of this type.
    #[must_use]
    pub fn probe(&self, probe_type: ProbeType) -> Option<&'a ProbeRecord> {
        self.probes.iter().find(|probe| probe.probe_type == probe_type)
    }
}

impl Deref for ContainerView<'_> {
    type Target = ContainerRecord;

    fn deref(&self) -> &ContainerRecord {
        self.record
    }
}

/// Which instance of a container a verdict is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum About {
    /// There is no verdict.
    #[default]
    Nothing,
    /// The newest that the pod's status knows.
    Newest,
    /// Another: `Rare::other_id`.
    Other,
}

/// One probe of a container.
#[derive(Clone, Debug)]
pub struct ProbeRecord {
    /// Counts, written by the shard.
    pub stats: Arc<ProbeStats>,
    since: WallCentis,
    rare: Option<Box<Rare>>,
    /// Which.
    pub probe_type: ProbeType,
    /// The stored verdict.
    pub verdict: Option<Verdict>,
    about: About,
}

/// What few probes have at a time.
#[derive(Clone, Debug, Default)]
struct Rare {
    last: Option<LastReport>,
    local: Option<LocalTrouble>,
    other_id: Option<ContainerId>,
    paused: Option<Paused>,
}

impl Rare {
    fn is_empty(&self) -> bool {
        self.last.is_none() && self.local.is_none() && self.other_id.is_none() && self.paused.is_none()
    }
}

impl ProbeRecord {
    fn new(probe_type: ProbeType, stats: Arc<ProbeStats>) -> Self {
        Self { stats, since: WallCentis::default(), rare: None, probe_type, verdict: None, about: About::Nothing }
    }

    /// When the verdict was last set to another value; `None` without one.
    #[must_use]
    pub fn verdict_since(&self) -> Option<Timestamp> {
        self.verdict.map(|_| self.since.into())
    }

    /// The newest report's outcome, text cut at [`limits::MESSAGE_BYTES_MAX`], and when. A success is not kept: it shows in
    /// the probe's counts.
    #[must_use]
    pub fn last(&self) -> Option<&LastReport> {
        self.rare.as_ref()?.last.as_ref()
    }

    /// The stored verdict, where it is about the newest instance that the pod's status knows.
    #[must_use]
    pub fn verdict_of_newest(&self) -> Option<Verdict> {
        self.verdict.filter(|_| self.about == About::Newest)
    }

    /// It makes no attempts, and until when; `None` where it is not paused, or not any more at `now`.
    #[must_use]
    pub fn paused(&self, now: Instant) -> Option<Paused> {
        self.paused_ever().filter(|paused| paused.until_at > now)
    }

    /// The same of a pause that may be over.
    pub(super) fn paused_ever(&self) -> Option<Paused> {
        self.rare.as_ref()?.paused
    }

    /// Gives back the pause before.
    pub(super) fn set_paused(&mut self, paused: Option<Paused>) -> Option<Paused> {
        let before = self.paused_ever();
        if before != paused {
            self.with_rare(|rare| rare.paused = paused);
        }
        before
    }

    /// Nothing is done until the container, whose state is `status`, has a new instance: a startup probe that has its verdict, a
    /// liveness probe that has failed. While the container does not run nothing is done either, and it is not called that.
    #[must_use]
    pub fn is_on_hold(&self, status: Option<&ContainerStatus>) -> bool {
        let is_running = status.is_some_and(|status| matches!(status.state, ContainerState::Running { .. }));
        let memory = self.verdict_of_newest().map(|verdict| Memory::new(self.probe_type, verdict, true, 0));
        self.stats.is_live() && is_running && memory.is_some_and(|memory| memory.is_on_hold())
    }

    /// The trouble that still keeps the probe: no attempt has counted since.
    #[must_use]
    pub fn stuck(&self) -> Option<LocalTrouble> {
        let trouble = self.rare.as_ref()?.local?;
        let counted_at = Instant::from_nanos(self.stats.last_at_ns());
        (self.stats.is_live() && counted_at <= trouble.at).then_some(trouble)
    }

    /// The instance that the verdict is about. `newest`: as the pod's status knows it.
    #[must_use]
    pub fn container_id<'a>(&'a self, newest: Option<&'a ContainerId>) -> Option<&'a ContainerId> {
        match self.about {
            About::Nothing => None,
            About::Newest => newest,
            About::Other => self.rare.as_ref()?.other_id.as_ref(),
        }
    }

    fn set_container_id(&mut self, id: Option<&ContainerId>, newest: Option<&ContainerId>) {
        self.about = match id {
            None => About::Nothing,
            Some(_) if id == newest => About::Newest,
            Some(_) => About::Other,
        };
        let other = id.filter(|_| self.about == About::Other).cloned();
        if other.is_some() || self.rare.is_some() {
            self.with_rare(|rare| rare.other_id = other);
        }
    }

    /// The pod's status knows of another instance from now on: what the verdict is about stays.
    pub(crate) fn replace_newest(&mut self, before: Option<&ContainerId>, newest: Option<&ContainerId>) {
        let about = self.container_id(before).cloned();
        self.set_container_id(about.as_ref(), newest);
    }

    /// Takes over what was stored of the newest instance before.
    pub(crate) fn remember(&mut self, verdict: Verdict, since: Timestamp) {
        self.verdict = Some(verdict);
        self.since = since.into();
        self.about = About::Newest;
    }

    /// Takes over a stored or removed verdict; `false` where nothing changed for anyone. `newest`: the instance that the
    /// pod's status knows.
    pub(super) fn publish(&mut self, publish: &Publish, newest: Option<&ContainerId>) -> bool {
        let is_ours = self.container_id(newest) == Some(&publish.container_id);
        let Some(verdict) = publish.verdict else {
            let changed = is_ours && self.verdict.take().is_some();
            if changed {
                self.set_container_id(None, newest);
            }
            return changed;
        };
        if is_ours && self.verdict == Some(verdict) {
            return false;
        }
        if self.verdict != Some(verdict) {
            self.since = clock::wall_of(publish.at).into();
        }
        self.verdict = Some(verdict);
        self.set_container_id(Some(&publish.container_id), newest);
        true
    }

    /// Takes over what a call of the prober came to; `false` where nothing changed but counts and times.
    pub(super) fn report(&mut self, report: &Report) -> bool {
        let kind = OutcomeKind::of(&report.outcome);
        let text = cut(text_of(&report.outcome), limits::MESSAGE_BYTES_MAX);
        // A run that has reached its threshold goes on by itself, and what is discarded leaves it as it is.
        let counts = matches!(kind, OutcomeKind::Success | OutcomeKind::Warning | OutcomeKind::Failure);
        let is_other = match self.last() {
            Some(last) => last.kind != kind || *last.message != *text,
            None => kind != OutcomeKind::Success,
        };
        let paused_before = self.paused_ever();
        let last = (kind != OutcomeKind::Success).then(|| LastReport {
            kind,
            message: text.into(),
            at: clock::wall_of(report.at),
            duration_ns: report.duration_ns,
        });
        if last.is_some() || self.rare.is_some() {
            self.with_rare(|rare| {
                rare.last = last;
                rare.local = rare.local.filter(|_| kind == OutcomeKind::Local);
                // The first attempt after a pause is told in any case.
                rare.paused = rare.paused.filter(|paused| paused.until_at > report.at);
            });
        }
        is_other || (counts && report.run <= report.threshold) || paused_before != self.paused_ever()
    }

    pub(super) fn trouble(&mut self, trouble: LocalTrouble) {
        self.with_rare(|rare| rare.local = Some(trouble));
    }

    fn with_rare(&mut self, change: impl FnOnce(&mut Rare)) {
        let rare = self.rare.get_or_insert_default();
        change(rare);
        if rare.is_empty() {
            self.rare = None;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_records_of_a_node_stay_small() {
        assert!(size_of::<PodRecord>() <= 112, "{}", size_of::<PodRecord>());
        assert!(size_of::<ContainerRecord>() <= 12, "{}", size_of::<ContainerRecord>());
        assert!(size_of::<ProbeRecord>() <= 24, "{}", size_of::<ProbeRecord>());
    }

    #[test]
    fn a_time_in_hundredths_is_never_before_the_one_that_went_in_and_never_wraps() {
        let centis = |at: Timestamp| Timestamp::from(WallCentis::from(at)).as_millisecond();
        let at = |ms| Timestamp::from_millisecond(ms).expect("in range");
        assert_eq!([1_795_791_599_981, 1_795_791_599_990].map(|ms| centis(at(ms))), [1_795_791_599_990; 2]);
        assert_eq!([centis(at(0)), centis(at(-5_000))], [0, 0]);
        assert_eq!(centis(Timestamp::MAX), ((1 << 40) - 1) * 10);
    }
}
