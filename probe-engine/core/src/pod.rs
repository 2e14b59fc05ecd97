//! Phase and conditions of a pod.
//!
//! Source: `pkg/kubelet/kubelet_pods.go` (`getPhase`) and `pkg/kubelet/status/generate.go` (rules 5.3 to 5.6).

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::container::Flags;
use crate::id::ContainerName;
use crate::restart::will_restart;
use crate::spec::{Container, ContainerKind, Pod, RestartPolicy};
use crate::status::{ContainerState, ContainerStatus, PodPhase, PodStatus};

/// `status` of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConditionStatus {
    /// `True`
    True,
    /// `False`
    False,
    /// `Unknown`
    Unknown,
}

impl ConditionStatus {
    /// As in a pod's status.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            ConditionStatus::True => "True",
            ConditionStatus::False => "False",
            ConditionStatus::Unknown => "Unknown",
        }
    }
}

/// One of a pod's conditions, without times (the shell adds lastTransitionTime when the status flips).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// `Initialized`, `ContainersReady`, `Ready`, or a readiness gate's.
    pub condition_type: Arc<str>,
    /// Its status.
    pub status: ConditionStatus,
    /// `ContainersNotReady` ...; empty where it is True without a reason.
    pub reason: &'static str,
    /// For people.
    pub message: Box<str>,
}

/// Looks up `started` and `ready` of a container (see [`crate::container::flags`]).
pub type FlagsOf<'a> = &'a dyn Fn(&ContainerName) -> Flags;

/// Looks up the status of a condition that is not ours: a readiness gate's. `None` = there is none.
pub type GateOf<'a> = &'a dyn Fn(&str) -> Option<ConditionStatus>;

/// Where the pod is in its life. `terminal`: its termination has completed, nothing will be restarted.
#[must_use]
pub fn phase(pod: &Pod, containers: &[ContainerStatus], flags: FlagsOf<'_>, terminal: bool) -> PodPhase {
    let (init_failed, init_pending) = init_progress(pod, containers);
    if init_failed && pod.restart_policy == RestartPolicy::Never {
        return PodPhase::Failed;
    }
    let census = Census::of(pod, containers, flags);
    if init_pending || (census.sidecars_pending && !any_regular_started(pod, containers)) || census.waiting {
        return PodPhase::Pending;
    }
    if census.unknown || !(census.running || census.stopped) {
        return PodPhase::Pending;
    }
    match census {
        Census { running: true, .. } => PodPhase::Running,
        Census { restarting: true, .. } if !terminal => PodPhase::Running,
        Census { failed: true, .. } => PodPhase::Failed,
        _ => PodPhase::Succeeded,
    }
}

/// The conditions Initialized, ContainersReady and Ready, in this order. Without a status, or with one that
/// knows no container at all, the containers are unknown.
#[must_use]
pub fn conditions(pod: &Pod, status: Option<&PodStatus>, flags: FlagsOf<'_>, gates: GateOf<'_>) -> [Condition; 3] {
    let containers_ready = containers_ready(pod, status, flags);
    let ready = ready(pod, &containers_ready, gates);
    [initialized(pod, status, flags), containers_ready, ready]
}

/// The condition Initialized (rule 5.5).
#[must_use]
pub fn initialized(pod: &Pod, status: Option<&PodStatus>, flags: FlagsOf<'_>) -> Condition {
    const TYPE: &str = "Initialized";
    let containers = known_containers(status);
    if containers.is_empty() && !pod.init_containers.is_empty() {
        return is_false(TYPE, "UnknownContainerStatuses", String::new());
    }
    let done = |container: &Container| match container.kind {
        ContainerKind::Init => flags(&container.name).ready,
        ContainerKind::Sidecar | ContainerKind::Regular => flags(&container.name).started,
    };
    let open = Open::of(pod.init_containers.iter(), containers, done);
    let succeeded = status.is_some_and(|status| status.phase == PodPhase::Succeeded);
    if succeeded && open.unknown.is_empty() {
        return is_true(TYPE, "PodCompleted");
    }
    if any_regular_started(pod, containers) || open.is_empty() {
        return is_true(TYPE, "");
    }
    is_false(TYPE, "ContainersNotInitialized", open.message("incomplete"))
}

/// The condition ContainersReady (rule 5.3): regular containers and sidecars, sidecars named first.
#[must_use]
pub fn containers_ready(pod: &Pod, status: Option<&PodStatus>, flags: FlagsOf<'_>) -> Condition {
    const TYPE: &str = "ContainersReady";
    let containers = known_containers(status);
    let Some(status) = status.filter(|_| !containers.is_empty()) else {
        return is_false(TYPE, "UnknownContainerStatuses", String::new());
    };
    let counted = pod.all_containers().filter(|container| container.kind != ContainerKind::Init);
    let open = Open::of(counted, containers, |container| flags(&container.name).ready);
    match status.phase {
        PodPhase::Succeeded if open.unknown.is_empty() => is_false(TYPE, "PodCompleted", String::new()),
        PodPhase::Failed => is_false(TYPE, "PodFailed", String::new()),
        _ if open.is_empty() => is_true(TYPE, ""),
        _ => is_false(TYPE, "ContainersNotReady", open.message("unready")),
    }
}

/// The condition Ready (rule 5.4): ContainersReady, and then every readiness gate.
#[must_use]
pub fn ready(pod: &Pod, containers_ready: &Condition, gates: GateOf<'_>) -> Condition {
    const TYPE: &str = "Ready";
    if containers_ready.status != ConditionStatus::True {
        return Condition { condition_type: Arc::from(TYPE), ..containers_ready.clone() };
    }
    let closed: Vec<String> = pod.readiness_gates.iter().filter_map(|gate| closed_gate(gate, gates(gate))).collect();
    if closed.is_empty() {
        return is_true(TYPE, "");
    }
    is_false(TYPE, "ReadinessGatesNotReady", closed.join(", "))
}

fn closed_gate(gate: &str, status: Option<ConditionStatus>) -> Option<String> {
    match status {
        Some(ConditionStatus::True) => None,
        None => Some(format!("corresponding condition of pod readiness gate \"{gate}\" does not exist.")),
        Some(status) => Some(format!("the status of pod readiness gate \"{gate}\" is not \"True\", but {}", status.as_str())),
    }
}

/// Containers that keep a condition from being True.
#[derive(Default)]
struct Open<'a> {
    unknown: Vec<&'a str>,
    undone: Vec<&'a str>,
}

impl<'a> Open<'a> {
    fn of(specs: impl Iterator<Item = &'a Container>, statuses: &[ContainerStatus], done: impl Fn(&Container) -> bool) -> Self {
        let mut open = Self::default();
        for spec in specs {
            if status_of(statuses, spec).is_none() {
                open.unknown.push(spec.name.as_str());
            } else if !done(spec) {
                open.undone.push(spec.name.as_str());
            }
        }
        open
    }

    fn is_empty(&self) -> bool {
        self.unknown.is_empty() && self.undone.is_empty()
    }

    /// Names stand as Go prints a slice: `[a b]`.
    fn message(&self, undone: &str) -> String {
        let part = |what: &str, names: &[&str]| {
            (!names.is_empty()).then(|| format!("containers with {what} status: [{}]", names.join(" ")))
        };
        let parts = [part("unknown", &self.unknown), part(undone, &self.undone)];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// What there is among the sidecars and regular containers.
#[derive(Clone, Copy, Default)]
struct Census {
    running: bool,
    waiting: bool,
    unknown: bool,
    /// A regular container has ended.
    stopped: bool,
    /// One of those did not end well.
    failed: bool,
    /// One of those will be started again.
    restarting: bool,
    /// A sidecar has not been started yet.
    sidecars_pending: bool,
}

impl Census {
    fn of(pod: &Pod, statuses: &[ContainerStatus], flags: FlagsOf<'_>) -> Self {
        let mut census = Self::default();
        for spec in pod.all_containers() {
            match (spec.kind, status_of(statuses, spec)) {
                (ContainerKind::Init, _) => {}
                (_, None) => census.unknown = true,
                (ContainerKind::Sidecar, Some(status)) => census.add_sidecar(status, flags(&spec.name).started),
                (ContainerKind::Regular, Some(status)) => census.add_regular(pod, spec, status),
            }
        }
        census
    }

    /// An ended sidecar does not show in the phase.
    fn add_sidecar(&mut self, status: &ContainerStatus, started: bool) {
        match &status.state {
            ContainerState::Running { .. } => {
                self.running = true;
                self.sidecars_pending |= !started;
            }
            ContainerState::Waiting { .. } if status.last_termination.is_none() => {
                self.waiting = true;
                self.sidecars_pending = true;
            }
            ContainerState::Waiting { .. } | ContainerState::Terminated(_) => {}
        }
    }

    fn add_regular(&mut self, pod: &Pod, spec: &Container, status: &ContainerStatus) {
        match (&status.state, &status.last_termination) {
            (ContainerState::Running { .. }, _) => self.running = true,
            (ContainerState::Waiting { .. }, None) => self.waiting = true,
            (ContainerState::Waiting { .. }, Some(_)) => {
                // It waits for a restart, whatever its exit code was.
                self.stopped = true;
                self.failed = true;
                self.restarting |= spec.restart_policy.unwrap_or(pod.restart_policy) != RestartPolicy::Never;
            }
            (ContainerState::Terminated(end), _) => {
                self.stopped = true;
                self.failed |= end.exit_code != 0;
                self.restarting |= will_restart(pod, spec, end.exit_code);
            }
        }
    }
}

/// Whether an ordinary init container failed, and whether one has still to complete.
fn init_progress(pod: &Pod, statuses: &[ContainerStatus]) -> (bool, bool) {
    let (mut failed, mut pending) = (false, false);
    for spec in pod.init_containers.iter().filter(|container| container.kind == ContainerKind::Init) {
        let status = status_of(statuses, spec);
        let ended = status.and_then(|status| match &status.state {
            ContainerState::Running { .. } => None,
            ContainerState::Terminated(end) => Some(end),
            ContainerState::Waiting { .. } => status.last_termination.as_ref(),
        });
        match ended {
            None => pending = true,
            Some(end) => failed |= end.exit_code != 0,
        }
    }
    (failed, pending)
}

fn any_regular_started(pod: &Pod, statuses: &[ContainerStatus]) -> bool {
    pod.containers.iter().filter_map(|spec| status_of(statuses, spec)).any(|status| {
        !matches!(status.state, ContainerState::Waiting { .. }) || status.last_termination.is_some()
    })
}

fn known_containers(status: Option<&PodStatus>) -> &[ContainerStatus] {
    status.map_or(&[], |status| &status.containers)
}

fn status_of<'a>(statuses: &'a [ContainerStatus], spec: &Container) -> Option<&'a ContainerStatus> {
    statuses.iter().find(|status| status.name == spec.name)
}

fn is_true(condition_type: &str, reason: &'static str) -> Condition {
    Condition { condition_type: Arc::from(condition_type), status: ConditionStatus::True, reason, message: Box::from("") }
}

fn is_false(condition_type: &str, reason: &'static str, message: String) -> Condition {
    Condition { condition_type: Arc::from(condition_type), status: ConditionStatus::False, reason, message: message.into() }
}
