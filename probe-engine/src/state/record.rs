//! What the state file holds of a pod.
//!
//! The numbers of fields are never used for something else; a field that goes leaves its number unused. Points in time are those
//! of the clock on which the daemon has them: the wall's, or for ends of instances the boot's, which [`Whole`] names.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use probe_core::backoff::Backoff;
use probe_core::id::{ContainerId, ProbeType};
use probe_core::outcome::Verdict;
use probe_core::pod::ConditionStatus;
use probe_core::spec::{Container, Pod};
use probe_core::status::{ContainerState as StateNow, ContainerStatus, PodPhase, Termination};
use probe_core::time::Instant;
use probe_core::worker::Memory;

use crate::clock;
use crate::limits;
use crate::results::{ContainerView, Gate, Paused, PodRecord, ProbeRecord, WallNs, cut};

/// What is said once.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Whole {
    /// `/proc/sys/kernel/random/boot_id`: points of the monotonic clock are of this boot.
    #[prost(string, tag = "1")]
    pub boot_id: String,
    /// When this was written, in nanoseconds since 1970.
    #[prost(sfixed64, tag = "2")]
    pub wall_ns: i64,
    /// The same moment on the monotonic clock.
    #[prost(fixed64, tag = "3")]
    pub monotonic_ns: u64,
}

impl Whole {
    /// As of now. Blocks shortly.
    #[must_use]
    pub fn now() -> Whole {
        Whole { boot_id: boot_id(), wall_ns: nanos(clock::wall()), monotonic_ns: clock::now().as_nanos() }
    }

    /// Blocks shortly.
    pub(super) fn is_of_this_boot(&self) -> bool {
        !self.boot_id.is_empty() && self.boot_id == boot_id()
    }
}

/// Empty where the kernel does not say.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// One pod.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PodState {
    /// `metadata.uid`
    #[prost(string, tag = "1")]
    pub uid: String,
    /// When the daemon first saw it, in nanoseconds since 1970.
    #[prost(sfixed64, tag = "2")]
    pub added_at_ns: i64,
    /// Initialized, ContainersReady and Ready, with the times of their last flips.
    #[prost(message, repeated, tag = "3")]
    pub conditions: Vec<ConditionState>,
    /// All of the pod's.
    #[prost(message, repeated, tag = "4")]
    pub containers: Vec<ContainerState>,
    /// Nothing of it runs, or will run, again.
    #[prost(bool, tag = "5")]
    pub is_over: bool,
    /// Conditions that were set from outside. Since version 2.
    #[prost(message, repeated, tag = "6")]
    pub gates: Vec<GateState>,
    /// Those of its probes that are paused. No version of its own: a daemon that does not know the field leaves it out.
    #[prost(message, repeated, tag = "7")]
    pub pauses: Vec<PauseState>,
    /// Its phase: 1 Pending, 2 Running, 3 Succeeded, 4 Failed; 0 = not known. Only where instances outlive the daemon.
    #[prost(uint32, tag = "8")]
    pub phase: u32,
    /// Found out when it is read, and kept until its state is told.
    #[prost(bool, tag = "15")]
    pub is_of_earlier_boot: bool,
}

/// A condition of a readiness gate.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GateState {
    /// Its type.
    #[prost(string, tag = "1")]
    pub condition_type: String,
    /// Its status and last flip.
    #[prost(message, optional, tag = "2")]
    pub condition: Option<ConditionState>,
}

/// A probe that is paused.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PauseState {
    /// Of which container.
    #[prost(string, tag = "1")]
    pub container: String,
    /// [`ProbeType::index`]
    #[prost(uint32, tag = "2")]
    pub probe_type: u32,
    /// Since when, in nanoseconds since 1970.
    #[prost(sfixed64, tag = "3")]
    pub since_ns: i64,
    /// Until when, in nanoseconds since 1970.
    #[prost(sfixed64, tag = "4")]
    pub until_ns: i64,
}

/// A condition's status and the time of its last flip.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ConditionState {
    /// 0 unknown, 1 false, 2 true.
    #[prost(uint32, tag = "1")]
    pub status: u32,
    /// In nanoseconds since 1970.
    #[prost(sfixed64, tag = "2")]
    pub since_ns: i64,
}

/// One container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerState {
    /// Which.
    #[prost(string, tag = "1")]
    pub name: String,
    /// [`Container::spec_hash`]: of another definition nothing is kept.
    #[prost(fixed64, tag = "2")]
    pub spec_hash: u64,
    /// How often it was started again.
    #[prost(uint32, tag = "3")]
    pub restart_count: u32,
    /// How its newest instance that has ended ended.
    #[prost(message, optional, tag = "4")]
    pub termination: Option<TerminationState>,
    /// That instance was its newest.
    #[prost(bool, tag = "5")]
    pub has_ended: bool,
    /// Its next start waited for the end of a back-off.
    #[prost(bool, tag = "6")]
    pub is_waiting: bool,
    /// Its probes.
    #[prost(message, repeated, tag = "7")]
    pub probes: Vec<ProbeState>,
    /// The instance that this is about; empty = not known. Only where instances outlive the daemon.
    #[prost(string, tag = "8")]
    pub id: String,
}

/// How an instance ended, and the back-off that is in force after it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TerminationState {
    /// See [`Termination`].
    #[prost(sint32, tag = "1")]
    pub exit_code: i32,
    /// See [`Termination`].
    #[prost(sint32, tag = "2")]
    pub signal: i32,
    /// See [`Termination`].
    #[prost(string, tag = "3")]
    pub reason: String,
    /// See [`Termination`].
    #[prost(string, tag = "4")]
    pub message: String,
    /// In nanoseconds since 1970. Version 1 only.
    #[prost(sfixed64, tag = "5")]
    pub started_at_ns: i64,
    /// In nanoseconds since 1970. Version 1 only.
    #[prost(sfixed64, tag = "6")]
    pub finished_at_ns: i64,
    /// The wait in force; 0 = none.
    #[prost(uint64, tag = "7")]
    pub backoff_ms: u64,
    /// When it was last made longer, in nanoseconds since 1970. Version 1 only.
    #[prost(sfixed64, tag = "8")]
    pub backoff_at_ns: i64,
    /// See [`Termination`]; on the monotonic clock, which gives the same number at each look. Since version 2, as the next two.
    #[prost(fixed64, tag = "9")]
    pub started_ns: u64,
    /// See [`Termination`].
    #[prost(fixed64, tag = "10")]
    pub finished_ns: u64,
    /// When the wait was last made longer.
    #[prost(fixed64, tag = "11")]
    pub backoff_ns: u64,
}

/// One probe of a container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ProbeState {
    /// [`ProbeType::index`]
    #[prost(uint32, tag = "1")]
    pub probe_type: u32,
    /// The stored verdict: 0 unknown, 1 success, 2 failure.
    #[prost(uint32, tag = "2")]
    pub verdict: u32,
    /// When it was last set to another value, in nanoseconds since 1970.
    #[prost(sfixed64, tag = "3")]
    pub since_ns: i64,
    /// The newest results were failures.
    #[prost(bool, tag = "4")]
    pub has_failed: bool,
    /// So many of one kind in a row; at most what makes the verdict, so that a probe that is well stays as it is here.
    #[prost(uint32, tag = "5")]
    pub run: u32,
}

const VERDICTS: [Verdict; 3] = [Verdict::Unknown, Verdict::Success, Verdict::Failure];

fn index_of<T: PartialEq>(list: &[T], wanted: &T) -> u32 {
    let index = list.iter().position(|known| known == wanted);
    index.and_then(|index| u32::try_from(index).ok()).unwrap_or_default()
}

fn at<T: Copy>(list: &[T], index: u32) -> Option<T> {
    list.get(usize::try_from(index).ok()?).copied()
}

fn nanos(at: Timestamp) -> i64 {
    i64::try_from(at.as_nanosecond()).unwrap_or_default()
}

/// A point of the wall clock on the engine's; what lies ahead counts as now, what lies before the node's start as that.
fn instant(at_ns: i64) -> Instant {
    let ago = nanos(clock::wall()).saturating_sub(at_ns);
    clock::now().saturating_sub(Duration::from_nanos(u64::try_from(ago).unwrap_or_default()))
}

/// A point of the monotonic clock that was; what lies ahead counts as now.
fn past(at_ns: u64) -> Instant {
    Instant::from_nanos(at_ns).min(clock::now())
}

pub(super) fn timestamp(at_ns: i64) -> Timestamp {
    Timestamp::from_nanosecond(at_ns.into()).unwrap_or_default()
}

impl PodState {
    /// What is kept of a pod. `past`: what was known before, for what this daemon has not begun with yet. `outlives`: instances
    /// go on without the daemon, so that the next one may find those of this one.
    #[must_use]
    pub fn of(record: &PodRecord, past: Option<&PodState>, outlives: bool) -> PodState {
        if let Some(past) = past.filter(|_| record.status.is_none()) {
            let gates = record.gates.iter().map(gate_state).collect();
            let pauses = PauseState::of(record).collect();
            // Also that it is of an earlier boot: no later daemon of this one finds its instances.
            return PodState { gates, pauses, ..past.clone() };
        }
        let container = |(spec, view): (&Container, ContainerView<'_>)| {
            let before = past.filter(|_| record.container_status(&view).is_none_or(|status| !has_begun(status)));
            let before = before.and_then(|past| past.container(&record.pod, spec.name.as_str()));
            before.cloned().unwrap_or_else(|| ContainerState::of(record, spec, view, outlives))
        };
        let conditions = record.conditions.iter().zip(record.since);
        PodState {
            uid: record.pod.uid.as_str().to_owned(),
            added_at_ns: nanos(record.added_at.into()),
            conditions: conditions.map(condition_state).collect(),
            containers: record.containers().map(container).collect(),
            is_over: record.phase.is_terminal(),
            gates: record.gates.iter().map(gate_state).collect(),
            phase: if outlives { 1 + index_of(&PHASES, &record.phase) } else { 0 },
            pauses: PauseState::of(record).collect(),
            is_of_earlier_boot: false,
        }
    }

    /// From another boot, or from version 1: puts its points in time on the monotonic clock of now. Of another boot no instance is left: what was known of it is
    /// forgotten, and a wait that is over by the wall clock is none.
    pub(super) fn arrive(&mut self, whole: &Whole) {
        let is_of_version_1 = *whole == Whole::default();
        self.is_of_earlier_boot = !is_of_version_1;
        for container in &mut self.containers {
            if let Some(end) = &mut container.termination {
                let is_over = end.arrive(whole, is_of_version_1);
                container.is_waiting &= !is_over;
            }
        }
    }

    /// With a runtime that starts nothing: what it was known of goes on, as nothing was restarted meanwhile that we know of. Not so
    /// after a reboot, and not where a container has another definition.
    #[must_use]
    pub fn is_of_same_instances(&self, pod: &Pod) -> bool {
        let is_known = |container: &Container| self.container(pod, container.name.as_str()).is_some();
        !self.is_of_earlier_boot
            && pod.all_containers().all(is_known)
            && pod.all_containers().count() == self.containers.len()
    }

    /// What is known of instances that outlived the daemon is not for a runtime whose instances never do.
    pub fn forget_instances(&mut self) {
        self.phase = 0;
        self.containers.iter_mut().for_each(|container| container.id = String::new());
    }

    /// Its instances may have outlived the daemon: what was known of it holds until they are told. Not so after a reboot.
    #[must_use]
    pub fn awaits_instances(&self) -> bool {
        !self.is_of_earlier_boot && self.phase != 0
    }

    /// What is kept of this instance of a container, unless the container has another definition now.
    #[must_use]
    pub fn instance(&self, pod: &Pod, name: &str, id: &ContainerId) -> Option<&ContainerState> {
        let known = self.container(pod, name).filter(|_| self.awaits_instances());
        known.filter(|known| !known.id.is_empty() && *known.id == *id.as_str())
    }

    /// The phase that it was in.
    #[must_use]
    pub fn phase(&self) -> Option<PodPhase> {
        at(&PHASES, self.phase.checked_sub(1)?)
    }

    /// When the daemon first saw it.
    #[must_use]
    pub fn added_at(&self) -> Timestamp {
        timestamp(self.added_at_ns)
    }

    /// The same on the engine's clock.
    #[must_use]
    pub fn added_at_instant(&self) -> Instant {
        instant(self.added_at_ns)
    }

    /// The conditions of those readiness gates that the pod still has.
    pub fn gates<'a>(&'a self, pod: &'a Pod) -> impl Iterator<Item = Gate> + 'a {
        pod.readiness_gates.iter().filter_map(|wanted| {
            let known = self.gates.iter().find(|known| known.condition_type == **wanted)?.condition.as_ref()?;
            Some(Gate { condition_type: Arc::clone(wanted), status: known.status(), since: known.since().into() })
        })
    }

    /// The pause of a probe, unless it is over. None is taken over that ends later than a new one could.
    #[must_use]
    pub fn paused(&self, container: &str, probe_type: ProbeType) -> Option<Paused> {
        let is_its_own = |known: &&PauseState| {
            known.container == container && usize::try_from(known.probe_type) == Ok(probe_type.index())
        };
        let known = self.pauses.iter().find(is_its_own)?;
        let now = clock::wall();
        let until = timestamp(known.until_ns).min(now.saturating_add(limits::PAUSE_MAX).ok()?);
        let left = Duration::try_from(until.duration_since(now)).ok().filter(|left| !left.is_zero())?;
        let since = timestamp(known.since_ns).min(now).into();
        Some(Paused { since, until: until.into(), until_at: clock::now() + left })
    }

    /// What is kept of a container, unless it has another definition now.
    #[must_use]
    pub fn container(&self, pod: &Pod, name: &str) -> Option<&ContainerState> {
        let spec = pod.container(name)?;
        self.containers.iter().find(|known| known.name == name && known.spec_hash == spec.spec_hash)
    }
}

impl PauseState {
    fn of(record: &PodRecord) -> impl Iterator<Item = PauseState> {
        let now = clock::now();
        record.containers().flat_map(move |(spec, container)| {
            container.probes.iter().filter_map(move |probe| {
                let paused = probe.paused(now)?;
                Some(PauseState {
                    container: spec.name.as_str().to_owned(),
                    probe_type: u32::try_from(probe.probe_type.index()).unwrap_or_default(),
                    since_ns: nanos(paused.since.into()),
                    until_ns: nanos(paused.until.into()),
                })
            })
        })
    }
}

const PHASES: [PodPhase; 4] = [PodPhase::Pending, PodPhase::Running, PodPhase::Succeeded, PodPhase::Failed];

const CONDITIONS: [ConditionStatus; 3] = [ConditionStatus::Unknown, ConditionStatus::False, ConditionStatus::True];

impl ConditionState {
    /// Its status.
    #[must_use]
    pub fn status(&self) -> ConditionStatus {
        at(&CONDITIONS, self.status).unwrap_or(ConditionStatus::Unknown)
    }

    /// Its last flip.
    #[must_use]
    pub fn since(&self) -> Timestamp {
        timestamp(self.since_ns)
    }
}

impl ContainerState {
    fn of(record: &PodRecord, spec: &Container, view: ContainerView<'_>, outlives: bool) -> ContainerState {
        let status = record.container_status(&view);
        let ended = status.and_then(|status| match &status.state {
            StateNow::Terminated(end) => Some(&**end),
            StateNow::Running { .. } | StateNow::Waiting(_) => status.last_termination.as_deref(),
        });
        ContainerState {
            name: spec.name.as_str().to_owned(),
            spec_hash: spec.spec_hash,
            restart_count: status.map_or(0, |status| status.restart_count),
            termination: ended.map(TerminationState::of),
            has_ended: status.is_some_and(|status| matches!(status.state, StateNow::Terminated(_))),
            is_waiting: status.is_some_and(is_in_back_off),
            probes: view.probes.iter().filter_map(|probe| ProbeState::of(spec, probe)).collect(),
            id: status
                .filter(|_| outlives)
                .and_then(|status| status.id.as_ref())
                .map(ToString::to_string)
                .unwrap_or_default(),
        }
    }

    /// The probe of this type.
    #[must_use]
    pub fn probe(&self, probe_type: ProbeType) -> Option<&ProbeState> {
        self.probes.iter().find(|probe| usize::try_from(probe.probe_type) == Ok(probe_type.index()))
    }
}

fn condition_state((status, since): (&ConditionStatus, WallNs)) -> ConditionState {
    ConditionState { status: index_of(&CONDITIONS, status), since_ns: nanos(Timestamp::from(since)) }
}

fn gate_state(gate: &Gate) -> GateState {
    let condition = condition_state((&gate.status, gate.since));
    GateState { condition_type: gate.condition_type.to_string(), condition: Some(condition) }
}

/// Its turn has come under this daemon.
pub(crate) fn has_begun(status: &ContainerStatus) -> bool {
    status.id.is_some() || status.has_run()
}

/// Its next start is a matter of time.
fn is_in_back_off(status: &ContainerStatus) -> bool {
    matches!(status.state, StateNow::Waiting(_)) && status.last_termination.is_some()
}

impl TerminationState {
    fn of(end: &Termination) -> TerminationState {
        let (backoff, backoff_at) = end.backoff.parts().unwrap_or_default();
        TerminationState {
            exit_code: end.exit_code,
            signal: end.signal,
            reason: cut(&end.reason, limits::MESSAGE_BYTES_MAX).to_owned(),
            message: cut(&end.message, limits::MESSAGE_BYTES_MAX).to_owned(),
            backoff_ms: u64::try_from(backoff.as_millis()).unwrap_or(u64::MAX),
            started_ns: end.started_at.as_nanos(),
            finished_ns: end.finished_at.as_nanos(),
            backoff_ns: backoff_at.as_nanos(),
            ..TerminationState::default()
        }
    }

    /// From another boot, or from version 1, to the monotonic clock of now; whether a wait after it is over by the wall clock.
    fn arrive(&mut self, whole: &Whole, is_of_version_1: bool) -> bool {
        let wall = |at_ns: u64| {
            let ago = i64::try_from(whole.monotonic_ns.saturating_sub(at_ns)).unwrap_or(i64::MAX);
            whole.wall_ns.saturating_sub(ago)
        };
        let (started_at, finished_at, backoff_at) = match is_of_version_1 {
            true => (self.started_at_ns, self.finished_at_ns, self.backoff_at_ns),
            false => (wall(self.started_ns), wall(self.finished_ns), wall(self.backoff_ns)),
        };
        [self.started_ns, self.finished_ns, self.backoff_ns] =
            [started_at, finished_at, backoff_at].map(|at| instant(at).as_nanos());
        let ago_ns = nanos(clock::wall()).saturating_sub(finished_at);
        u64::try_from(ago_ns / 1_000_000).is_ok_and(|ago_ms| ago_ms >= self.backoff_ms)
    }

    /// As the runtime told it.
    #[must_use]
    pub fn termination(&self) -> Termination {
        Termination {
            exit_code: self.exit_code,
            signal: self.signal,
            reason: cut(&self.reason, limits::MESSAGE_BYTES_MAX).into(),
            message: cut(&self.message, limits::MESSAGE_BYTES_MAX).into(),
            started_at: past(self.started_ns),
            finished_at: past(self.finished_ns),
            restart_allowed: None,
            backoff: self.backoff(),
        }
    }

    /// The back-off in force; what no back-off can be is cut to what it can.
    #[must_use]
    pub fn backoff(&self) -> Backoff {
        let wait = Duration::from_millis(self.backoff_ms).min(limits::STATE_BACKOFF_MAX);
        if wait.is_zero() { Backoff::new() } else { Backoff::of(wait, past(self.backoff_ns)) }
    }
}

impl ProbeState {
    /// None before there is a verdict on the newest instance.
    fn of(spec: &Container, probe: &ProbeRecord) -> Option<ProbeState> {
        let (verdict, since) = probe.verdict_of_newest().zip(probe.verdict_since())?;
        let spec = spec.probes.by_type(probe.probe_type)?;
        let run = probe.stats.run().min(probe.stats.threshold(spec));
        let (passed, run) = Memory::new(probe.probe_type, verdict, !probe.stats.has_failed(), run).run();
        Some(ProbeState {
            probe_type: u32::try_from(probe.probe_type.index()).unwrap_or_default(),
            verdict: index_of(&VERDICTS, &verdict),
            since_ns: nanos(since),
            has_failed: !passed,
            run,
        })
    }

    /// What its worker goes on with.
    #[must_use]
    pub fn memory(&self, probe_type: ProbeType) -> Option<Memory> {
        Some(Memory::new(probe_type, at(&VERDICTS, self.verdict)?, !self.has_failed, self.run))
    }

    /// When the verdict was last set to another value.
    #[must_use]
    pub fn since(&self) -> Timestamp {
        timestamp(self.since_ns)
    }
}
