//! Phase and conditions of a pod.
//!
//! Source: `pkg/kubelet/kubelet_pods.go` (`getPhase`) and `pkg/kubelet/status/generate.go` (rules 5.3 to 5.6).

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::container::Flags;
use crate::id::ContainerName;
use crate::restart::will_restart_after;
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
    pub condition_type: Cow<'static, str>,
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
    if init_failed {
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
        return Condition { condition_type: Cow::Borrowed(TYPE), ..containers_ready.clone() };
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
        Some(status) => {
            Some(format!("the status of pod readiness gate \"{gate}\" is not \"True\", but {}", status.as_str()))
        }
    }
}

/// Containers that keep a condition from being True.
#[derive(Default)]
struct Open<'a> {
    unknown: Vec<&'a str>,
    undone: Vec<&'a str>,
}

impl<'a> Open<'a> {
    fn of(
        specs: impl Iterator<Item = &'a Container>,
        statuses: &[ContainerStatus],
        done: impl Fn(&Container) -> bool,
    ) -> Self {
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
            ContainerState::Waiting(_) if status.last_termination.is_none() => {
                self.waiting = true;
                self.sidecars_pending = true;
            }
            ContainerState::Waiting(_) | ContainerState::Terminated(_) => {}
        }
    }

    fn add_regular(&mut self, pod: &Pod, spec: &Container, status: &ContainerStatus) {
        match (&status.state, &status.last_termination) {
            (ContainerState::Running { .. }, _) => self.running = true,
            (ContainerState::Waiting(_), None) => self.waiting = true,
            (ContainerState::Waiting(_), Some(end)) => {
                // It waits for a restart, whatever its exit code was.
                self.stopped = true;
                self.failed = true;
                let policy = spec.restart_policy.unwrap_or(pod.restart_policy);
                self.restarting |= policy != RestartPolicy::Never || will_restart_after(pod, spec, end);
            }
            (ContainerState::Terminated(end), _) => {
                self.stopped = true;
                self.failed |= end.exit_code != 0;
                self.restarting |= will_restart_after(pod, spec, end);
            }
        }
    }
}

/// Whether an ordinary init container failed for good, and whether one has still to complete.
fn init_progress(pod: &Pod, statuses: &[ContainerStatus]) -> (bool, bool) {
    let (mut failed, mut pending) = (false, false);
    for spec in pod.init_containers.iter().filter(|container| container.kind == ContainerKind::Init) {
        let status = status_of(statuses, spec);
        let ended = status.and_then(|status| match &status.state {
            ContainerState::Running { .. } => None,
            ContainerState::Terminated(end) => Some(end),
            ContainerState::Waiting(_) => status.last_termination.as_ref(),
        });
        match ended {
            None => pending = true,
            Some(end) if end.exit_code == 0 => {}
            Some(end) if will_restart_after(pod, spec, end) => pending = true,
            Some(_) => failed = true,
        }
    }
    (failed, pending)
}

pub(crate) fn any_regular_started(pod: &Pod, statuses: &[ContainerStatus]) -> bool {
    pod.containers.iter().filter_map(|spec| status_of(statuses, spec)).any(ContainerStatus::has_run)
}

fn known_containers(status: Option<&PodStatus>) -> &[ContainerStatus] {
    status.map_or(&[], |status| &status.containers)
}

pub(crate) fn status_of<'a>(statuses: &'a [ContainerStatus], spec: &Container) -> Option<&'a ContainerStatus> {
    statuses.iter().find(|status| status.name == spec.name)
}

fn is_true(condition_type: &'static str, reason: &'static str) -> Condition {
    Condition {
        condition_type: Cow::Borrowed(condition_type),
        status: ConditionStatus::True,
        reason,
        message: Box::from(""),
    }
}

fn is_false(condition_type: &'static str, reason: &'static str, message: String) -> Condition {
    Condition {
        condition_type: Cow::Borrowed(condition_type),
        status: ConditionStatus::False,
        reason,
        message: message.into(),
    }
}

#[cfg(test)]
mod tests {
    use alloc::sync::Arc;

    use super::*;
    use crate::fixture::{container, container_status, pod, pod_status, running, terminated, termination, waiting};
    use crate::spec::RestartRule;
    use crate::time::Instant;

    const ON: Flags = Flags { started: true, ready: true };

    fn run(name: &str) -> ContainerStatus {
        container_status(name, "test://1", running(Instant::ZERO))
    }

    fn end(name: &str, exit_code: i32) -> ContainerStatus {
        container_status(name, "test://1", terminated(exit_code))
    }

    fn wait(name: &str, after: Option<i32>) -> ContainerStatus {
        let last_termination = after.map(|exit_code| Box::new(termination(exit_code, Instant::ZERO)));
        ContainerStatus { last_termination, ..container_status(name, "test://1", waiting()) }
    }

    /// An ordinary init container `i`, a sidecar `s`, regular containers `a` and `b`.
    fn full(policy: RestartPolicy) -> Pod {
        let kinds = [
            ("i", ContainerKind::Init),
            ("s", ContainerKind::Sidecar),
            ("a", ContainerKind::Regular),
            ("b", ContainerKind::Regular),
        ];
        let mut pod = pod("p", kinds.map(|(name, kind)| container(name, kind)));
        pod.restart_policy = policy;
        pod
    }

    fn phase_of(policy: RestartPolicy, containers: &[ContainerStatus]) -> PodPhase {
        phase(&full(policy), containers, &|_| ON, false)
    }

    fn shown(condition: &Condition) -> (&str, ConditionStatus, &str, &str) {
        (&condition.condition_type, condition.status, condition.reason, &condition.message)
    }

    #[test]
    fn the_phase_is_pending_until_all_have_been_started() {
        use PodPhase::{Pending, Running};
        let always = |containers: &[ContainerStatus]| phase_of(RestartPolicy::Always, containers);
        assert_eq!(always(&[]), Pending);
        assert_eq!(always(&[run("i"), wait("s", None), wait("a", None), wait("b", None)]), Pending);
        assert_eq!(always(&[end("i", 0), run("s"), run("a"), wait("b", None)]), Pending);
        assert_eq!(always(&[end("i", 0), run("s"), run("a")]), Pending, "b is unknown");
        assert_eq!(always(&[end("i", 0), run("s"), run("a"), run("b")]), Running);
        assert_eq!(always(&[end("i", 0), run("s"), run("a"), wait("b", Some(1))]), Running);
    }

    #[test]
    fn a_sidecar_that_is_not_started_keeps_pending_only_before_the_regular_ones_ran() {
        let off = |_: &ContainerName| Flags::default();
        let all = |a, b| [end("i", 0), run("s"), a, b];
        let pod = full(RestartPolicy::Always);
        assert_eq!(phase(&pod, &all(wait("a", None), wait("b", None)), &off, false), PodPhase::Pending);
        assert_eq!(phase(&pod, &all(run("a"), run("b")), &off, false), PodPhase::Running);
    }

    #[test]
    fn an_init_container_that_has_to_run_again_keeps_pending_whatever_else_runs() {
        let containers = [run("i"), run("s"), run("a"), run("b")];
        assert_eq!(phase_of(RestartPolicy::Always, &containers), PodPhase::Pending);
    }

    #[test]
    fn a_sidecar_counts_while_it_runs_and_while_it_waits_for_its_first_start() {
        use PodPhase::{Pending, Running, Succeeded};
        for (sidecar, regular_run, regular_ended) in [
            (run("s"), Running, Running),
            (wait("s", None), Pending, Pending),
            (wait("s", Some(1)), Running, Succeeded),
            (end("s", 1), Running, Succeeded),
        ] {
            let with = |a, b| phase_of(RestartPolicy::Never, &[end("i", 0), sidecar.clone(), a, b]);
            assert_eq!(with(run("a"), run("b")), regular_run, "{sidecar:?}");
            assert_eq!(with(end("a", 0), end("b", 0)), regular_ended, "{sidecar:?}");
        }
    }

    #[test]
    fn a_container_that_waits_to_be_started_again_keeps_running_where_the_policy_or_a_rule_restarts_it() {
        use PodPhase::{Failed, Running};
        use RestartPolicy::{Always, Never, OnFailure};
        let waits = |pod: &Pod, exit_code| {
            let containers = [end("i", 0), end("s", 0), end("a", 0), wait("b", Some(exit_code))];
            phase(pod, &containers, &|_| ON, false)
        };
        let plain = |policy| [0, 1].map(|exit_code| waits(&full(policy), exit_code));
        assert_eq!([Always, OnFailure, Never].map(plain), [[Running; 2], [Running; 2], [Failed; 2]]);
        let mut ruled = full(Never);
        Arc::make_mut(&mut ruled.containers)[1].restart_rules = [RestartRule::In([42].into())].into();
        assert_eq!([waits(&ruled, 42), waits(&ruled, 1)], [Running, Failed]);
    }

    #[test]
    fn containers_whose_ends_say_that_nothing_follows_have_ended_for_good() {
        let last = |name: &str, exit_code| {
            let mut status = end(name, exit_code);
            if let ContainerState::Terminated(end) = &mut status.state {
                end.restart_allowed = Some(false);
            }
            status
        };
        let ended = |b| phase_of(RestartPolicy::Always, &[end("i", 0), end("s", 0), last("a", 0), b]);
        assert_eq!([ended(last("b", 0)), ended(last("b", 1))], [PodPhase::Succeeded, PodPhase::Failed]);
        assert_eq!(ended(end("b", 0)), PodPhase::Running);
        assert_eq!(phase_of(RestartPolicy::Always, &[last("i", 1)]), PodPhase::Failed);
    }

    #[test]
    fn the_phase_of_ended_containers_depends_on_policy_and_exit_codes() {
        use PodPhase::{Failed, Running, Succeeded};
        use RestartPolicy::{Always, Never, OnFailure};
        let ended = |a, b| [end("i", 0), end("s", 0), end("a", a), end("b", b)];
        assert_eq!(
            [Always, OnFailure, Never].map(|policy| phase_of(policy, &ended(0, 0))),
            [Running, Succeeded, Succeeded]
        );
        assert_eq!([Always, OnFailure, Never].map(|policy| phase_of(policy, &ended(0, 1))), [Running, Running, Failed]);
        let terminal = |a| phase(&full(Always), &ended(0, a), &|_| ON, true);
        assert_eq!([terminal(0), terminal(1)], [Succeeded, Failed]);
    }

    #[test]
    fn a_failed_init_container_fails_the_pod_only_under_never() {
        let containers = [end("i", 1), wait("s", None), wait("a", None), wait("b", None)];
        assert_eq!(phase_of(RestartPolicy::Never, &containers), PodPhase::Failed);
        assert_eq!(phase_of(RestartPolicy::OnFailure, &containers), PodPhase::Pending);
    }

    #[test]
    fn an_init_containers_own_policy_and_rules_say_whether_it_failed_for_good() {
        let with = |policy, own, rules: &[RestartRule]| {
            let mut pod = full(policy);
            let init = &mut Arc::make_mut(&mut pod.init_containers)[0];
            (init.restart_policy, init.restart_rules) = (own, rules.into());
            move |containers: &[ContainerStatus]| phase(&pod, containers, &|_| ON, false)
        };
        let rest = [wait("s", None), wait("a", None), wait("b", None)];
        let after = |i: ContainerStatus| [&[i][..], &rest].concat();
        let never = with(RestartPolicy::Always, Some(RestartPolicy::Never), &[]);
        assert_eq!(never(&after(end("i", 1))), PodPhase::Failed);
        let rules = [RestartRule::In([42].into())];
        let ruled = with(RestartPolicy::Never, Some(RestartPolicy::Never), &rules);
        assert_eq!(ruled(&after(end("i", 42))), PodPhase::Pending);
        assert_eq!(ruled(&after(end("i", 1))), PodPhase::Failed);
        let on_failure = with(RestartPolicy::Never, Some(RestartPolicy::OnFailure), &[]);
        assert_eq!(on_failure(&after(wait("i", Some(1)))), PodPhase::Pending);
    }

    #[test]
    fn a_pod_without_statuses_is_unknown() {
        let no_gate = |_: &str| None;
        let of = |status| conditions(&full(RestartPolicy::Always), status, &|_| ON, &no_gate);
        for conditions in [of(None), of(Some(&pod_status([])))] {
            let types = ["Initialized", "ContainersReady", "Ready"];
            for (condition, condition_type) in conditions.iter().zip(types) {
                assert_eq!(shown(condition), (condition_type, ConditionStatus::False, "UnknownContainerStatuses", ""));
            }
        }
    }

    #[test]
    fn containers_that_are_not_ready_are_named_sidecars_first() {
        let pod = full(RestartPolicy::Always);
        let status = pod_status([end("i", 0), run("b"), run("a")]);
        let not_ready =
            containers_ready(&pod, Some(&status), &|name| if name.as_str() == "b" { Flags::default() } else { ON });
        let message = "containers with unknown status: [s], containers with unready status: [b]";
        assert_eq!(shown(&not_ready), ("ContainersReady", ConditionStatus::False, "ContainersNotReady", message));
        let status = pod_status([run("a"), run("b"), run("s")]);
        let none_ready = containers_ready(&pod, Some(&status), &|_| Flags::default());
        assert_eq!(&*none_ready.message, "containers with unready status: [s a b]");
        assert_eq!(
            shown(&containers_ready(&pod, Some(&status), &|_| ON)),
            ("ContainersReady", ConditionStatus::True, "", "")
        );
    }

    #[test]
    fn a_completed_or_failed_pod_is_not_ready_with_its_own_reason() {
        let pod = full(RestartPolicy::Never);
        let mut status = pod_status([end("i", 0), end("s", 0), end("a", 0), end("b", 0)]);
        for (phase, reason) in [(PodPhase::Succeeded, "PodCompleted"), (PodPhase::Failed, "PodFailed")] {
            status.phase = phase;
            let condition = containers_ready(&pod, Some(&status), &|_| Flags::default());
            assert_eq!((condition.status, condition.reason, &*condition.message), (ConditionStatus::False, reason, ""));
        }
    }

    #[test]
    fn a_completed_pod_of_which_a_container_is_unknown_is_not_said_to_be_completed() {
        let pod = full(RestartPolicy::Never);
        let mut status = pod_status([end("i", 0), end("a", 0), end("b", 0)]);
        status.phase = PodPhase::Succeeded;
        let message = "containers with unknown status: [s], containers with unready status: [a b]";
        assert_eq!(
            shown(&containers_ready(&pod, Some(&status), &|_| Flags::default())),
            ("ContainersReady", ConditionStatus::False, "ContainersNotReady", message)
        );
        assert_eq!(shown(&initialized(&pod, Some(&status), &|_| ON)), ("Initialized", ConditionStatus::True, "", ""));
    }

    #[test]
    fn ready_looks_at_the_gates_only_when_the_containers_are_ready() {
        let mut pod = full(RestartPolicy::Always);
        pod.readiness_gates = ["example.com/a", "example.com/b", "example.com/c"].map(Arc::from).into();
        let gates = |gate: &str| match gate {
            "example.com/a" => None,
            "example.com/b" => Some(ConditionStatus::Unknown),
            _ => Some(ConditionStatus::True),
        };
        let yes = is_true("ContainersReady", "");
        let message = "corresponding condition of pod readiness gate \"example.com/a\" does not exist., \
                       the status of pod readiness gate \"example.com/b\" is not \"True\", but Unknown";
        assert_eq!(
            shown(&ready(&pod, &yes, &gates)),
            ("Ready", ConditionStatus::False, "ReadinessGatesNotReady", message)
        );
        let no = is_false("ContainersReady", "ContainersNotReady", String::from("why"));
        assert_eq!(shown(&ready(&pod, &no, &gates)), ("Ready", ConditionStatus::False, "ContainersNotReady", "why"));
        let all = |_: &str| Some(ConditionStatus::True);
        assert_eq!(shown(&ready(&pod, &yes, &all)), ("Ready", ConditionStatus::True, "", ""));
    }

    #[test]
    fn initialized_waits_for_init_containers_and_started_sidecars() {
        let pod = full(RestartPolicy::Always);
        let off = |_: &ContainerName| Flags::default();
        let incomplete = initialized(&pod, Some(&pod_status([run("i"), wait("a", None), wait("b", None)])), &off);
        let message = "containers with unknown status: [s], containers with incomplete status: [i]";
        assert_eq!(shown(&incomplete), ("Initialized", ConditionStatus::False, "ContainersNotInitialized", message));
        let known = pod_status([run("i"), run("s"), wait("a", None), wait("b", None)]);
        let message = "containers with incomplete status: [i s]";
        assert_eq!(
            shown(&initialized(&pod, Some(&known), &off)),
            ("Initialized", ConditionStatus::False, "ContainersNotInitialized", message)
        );
        let began = pod_status([run("i"), run("s"), run("a"), wait("b", None)]);
        assert_eq!(initialized(&pod, Some(&began), &off).status, ConditionStatus::True, "a regular container ran");
        let mut completed = pod_status([end("i", 0), end("s", 0), end("a", 0), end("b", 0)]);
        completed.phase = PodPhase::Succeeded;
        assert_eq!(
            shown(&initialized(&pod, Some(&completed), &off)),
            ("Initialized", ConditionStatus::True, "PodCompleted", "")
        );
    }

    #[test]
    fn a_pod_without_init_containers_is_initialized() {
        let pod = pod("p", [container("a", ContainerKind::Regular)]);
        assert_eq!(initialized(&pod, None, &|_| Flags::default()).status, ConditionStatus::True);
    }
}
