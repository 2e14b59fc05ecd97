//! What becomes of a container: keep, kill, start, start later, or leave; and how long a kill may take.
//!
//! Source: `pkg/kubelet/kuberuntime/kuberuntime_manager.go` (`computePodActions`), `kuberuntime_container.go`
//! (`killContainer`, `setTerminationGracePeriod`), `pkg/kubelet/prober/worker.go` (may a container be restarted).

use alloc::boxed::Box;
use alloc::format;

use crate::backoff::{Backoff, Limits};
use crate::id::ProbeType;
use crate::outcome::Verdict;
use crate::spec::{Container, ContainerKind, Pod, RestartPolicy};
use crate::status::{ContainerState, ContainerStatus, Termination};
use crate::time::Instant;

/// Shortest grace period of a kill in seconds (`minimumGracePeriodInSeconds`).
pub const GRACE_SECONDS_MIN: u64 = 2;

/// What a decision is made from.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// One of its containers.
    pub container: &'a Container,
    /// The container's newest state; `None` = the runtime knows none.
    pub status: Option<&'a ContainerStatus>,
    /// The running instance was started from another definition than the pod's present one.
    pub definition_changed: bool,
    /// Stored verdict of the running instance.
    pub liveness: Option<Verdict>,
    /// Stored verdict of the running instance.
    pub startup: Option<Verdict>,
    /// The pod is being deleted: nothing is started any more, and its containers are killed by that.
    pub deleting: bool,
    /// The container's back-off.
    pub backoff: &'a Backoff,
    /// The back-off's numbers.
    pub limits: &'a Limits,
}

/// What becomes of a container now. Whether its turn has come (init containers first) is the caller's to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It runs, and may.
    Keep,
    /// Kill it.
    Kill {
        /// Of the event `Killing`.
        message: Box<str>,
        /// Chooses the grace period.
        reason: KillReason,
        /// Start it again in the same sync; see [`restart_after_kill`].
        restart: bool,
    },
    /// Start it now; advance the back-off with [`last_exit`].
    StartNow,
    /// `CrashLoopBackOff` until then.
    StartAt(Instant),
    /// It has ended, and stays so.
    Leave,
}

/// Why a container is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KillReason {
    /// Its startup probe failed.
    Startup,
    /// Its liveness probe failed.
    Liveness,
    /// Anything else.
    Other,
}

/// Decides about one container (rules 6.1, 6.4 and 6.5).
#[must_use]
pub fn decide(facts: &Facts<'_>, now: Instant) -> Decision {
    let running = facts.status.is_some_and(|status| matches!(status.state, ContainerState::Running { .. }));
    match (facts.deleting, running) {
        (true, true) => Decision::Keep,
        (true, false) => Decision::Leave,
        (false, true) => decide_running(facts),
        (false, false) => decide_stopped(facts, now),
    }
}

/// When a container that was killed and shall be restarted is started. The instance just killed is not in the
/// status that the sync began with: the exit before it counts, so `status` is the one that [`decide`] saw.
#[must_use]
pub fn restart_after_kill(facts: &Facts<'_>, now: Instant) -> Decision {
    start(facts, facts.status.and_then(previous_exit), now)
}

/// When the most recently ended instance that `status` knows of ended.
#[must_use]
pub fn last_exit(status: &ContainerStatus) -> Option<Instant> {
    match &status.state {
        ContainerState::Terminated(end) => Some(end.finished_at),
        ContainerState::Running { .. } | ContainerState::Waiting(_) => previous_exit(status),
    }
}

/// May a terminated container be started again, so that its workers go on (rule 2.6)? Sidecars always; others
/// by their own `restartPolicyRules` and `restartPolicy` and the exit code where they have some, else unless the pod's policy
/// is Never (with OnFailure even after exit code 0, until the pod's phase is Succeeded).
#[must_use]
pub fn may_restart(pod: &Pod, container: &Container, exit_code: i32) -> bool {
    if has_rule(container, exit_code) {
        return true;
    }
    match (container.kind, container.restart_policy) {
        (ContainerKind::Sidecar, _) | (_, Some(RestartPolicy::Always)) => true,
        (_, Some(RestartPolicy::OnFailure)) => exit_code != 0,
        (_, Some(RestartPolicy::Never)) => false,
        (_, None) => pod.restart_policy != RestartPolicy::Never,
    }
}

/// Will an ended container be started again (rules 2.6 and 6.4)? Ordinary init containers never after exit code 0.
#[must_use]
pub fn will_restart(pod: &Pod, container: &Container, exit_code: i32) -> bool {
    let has_completed = container.kind == ContainerKind::Init && exit_code == 0;
    if has_rule(container, exit_code) && !has_completed {
        return true;
    }
    let policy = container.restart_policy.unwrap_or(pod.restart_policy);
    match (container.kind, policy) {
        (ContainerKind::Sidecar, _) | (ContainerKind::Regular, RestartPolicy::Always) => true,
        (_, RestartPolicy::Never) => false,
        (ContainerKind::Init, RestartPolicy::Always) | (_, RestartPolicy::OnFailure) => exit_code != 0,
    }
}

/// [`may_restart`] after this end, unless it says itself what follows.
#[must_use]
pub fn may_restart_after(pod: &Pod, container: &Container, end: &Termination) -> bool {
    end.restart_allowed.unwrap_or_else(|| may_restart(pod, container, end.exit_code))
}

/// [`will_restart`] after this end, unless it says itself what follows.
#[must_use]
pub fn will_restart_after(pod: &Pod, container: &Container, end: &Termination) -> bool {
    end.restart_allowed.unwrap_or_else(|| will_restart(pod, container, end.exit_code))
}

fn has_rule(container: &Container, exit_code: i32) -> bool {
    container.restart_rules.iter().any(|rule| rule.matches(exit_code))
}

/// Seconds between the stop signal (or the preStop hook) and SIGKILL (rule 6.2, steps 1 and 3).
///
/// `deletion_grace_seconds`: of a pod that is being deleted; it goes before a probe's own.
/// `override_seconds`: replaces all (eviction).
#[must_use]
pub fn grace_seconds(
    pod: &Pod,
    container: &Container,
    reason: KillReason,
    deletion_grace_seconds: Option<u64>,
    override_seconds: Option<u64>,
) -> u64 {
    let probe_type = match reason {
        KillReason::Startup => Some(ProbeType::Startup),
        KillReason::Liveness => Some(ProbeType::Liveness),
        KillReason::Other => None,
    };
    let probe = probe_type.and_then(|probe_type| container.probes.by_type(probe_type));
    let of_probe = probe.and_then(|probe| probe.termination_grace_period_seconds);
    let calculated = deletion_grace_seconds.or(of_probe).unwrap_or(pod.termination_grace_period_seconds);
    override_seconds.unwrap_or(calculated)
}

/// What is left of the grace period once hooks and ordering have used some of it: at least
/// [`GRACE_SECONDS_MIN`], unless an override asked for 0 (rule 6.2, step 6).
#[must_use]
pub fn remaining_grace_seconds(grace_seconds: u64, used_seconds: u64, override_seconds: Option<u64>) -> u64 {
    match override_seconds {
        Some(0) => 0,
        _ => grace_seconds.saturating_sub(used_seconds).max(GRACE_SECONDS_MIN),
    }
}

/// The grace period of a pod's deletion: at least 1, and once set it can only become shorter (rule 6.3).
#[must_use]
pub fn deletion_grace_seconds(pod: &Pod, current: Option<u64>, requested: Option<u64>) -> u64 {
    let requested = requested.unwrap_or(pod.termination_grace_period_seconds);
    current.map_or(requested, |current| current.min(requested)).max(1)
}

fn decide_running(facts: &Facts<'_>) -> Decision {
    let failed = |verdict| verdict == Some(Verdict::Failure);
    let kill = |what: &str, reason| {
        let name = &facts.container.name;
        let (message, restart) = match facts.container.kind {
            ContainerKind::Init | ContainerKind::Sidecar => (format!("Init container {name} {what}"), true),
            ContainerKind::Regular => {
                let policy = facts.container.restart_policy.unwrap_or(facts.pod.restart_policy);
                let restart = reason == KillReason::Other || policy != RestartPolicy::Never;
                let suffix = if restart { ", will be restarted" } else { "" };
                (format!("Container {name} {what}{suffix}"), restart)
            }
        };
        Decision::Kill { message: message.into(), reason, restart }
    };
    let startup = || failed(facts.startup).then(|| kill("failed startup probe", KillReason::Startup));
    let liveness = || failed(facts.liveness).then(|| kill("failed liveness probe", KillReason::Liveness));
    let by_probe = match facts.container.kind {
        ContainerKind::Init => return Decision::Keep,
        _ if facts.definition_changed => return kill("definition changed", KillReason::Other),
        ContainerKind::Sidecar => startup().or_else(liveness),
        ContainerKind::Regular => liveness().or_else(startup),
    };
    by_probe.unwrap_or(Decision::Keep)
}

fn decide_stopped(facts: &Facts<'_>, now: Instant) -> Decision {
    let Some(status) = facts.status else { return Decision::StartNow };
    if let ContainerState::Terminated(end) = &status.state
        && !will_restart_after(facts.pod, facts.container, end)
    {
        return Decision::Leave;
    }
    start(facts, last_exit(status), now)
}

fn start(facts: &Facts<'_>, last_exit: Option<Instant>, now: Instant) -> Decision {
    facts.backoff.waits_until(last_exit, facts.limits, now).map_or(Decision::StartNow, Decision::StartAt)
}

fn previous_exit(status: &ContainerStatus) -> Option<Instant> {
    status.last_termination.as_ref().map(|end| end.finished_at)
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;
    use crate::fixture::{container, container_status, pod, running, spec, termination, waiting, with_probe};
    use crate::spec::{ProbeSpec, RestartRule};

    const NOW: Instant = Instant::from_secs(1000);

    /// A pod with one container of each kind, `r`, `s` and `i`.
    fn pod_with(policy: RestartPolicy) -> Pod {
        let kinds = [("r", ContainerKind::Regular), ("s", ContainerKind::Sidecar), ("i", ContainerKind::Init)];
        let mut pod = pod("p", kinds.map(|(name, kind)| container(name, kind)));
        pod.restart_policy = policy;
        pod
    }

    /// Decides about a running container with these verdicts.
    fn decide_probes(pod: &Pod, name: &str, liveness: Option<Verdict>, startup: Option<Verdict>) -> Decision {
        let status = container_status(name, "test://1", running(Instant::ZERO));
        let container = pod.container(name).expect("known");
        decide(&facts(pod, container, Some(&status), liveness, startup), NOW)
    }

    fn facts<'a>(
        pod: &'a Pod,
        container: &'a Container,
        status: Option<&'a ContainerStatus>,
        liveness: Option<Verdict>,
        startup: Option<Verdict>,
    ) -> Facts<'a> {
        const NONE: &Backoff = &Backoff::new();
        const LIMITS: &Limits = &Limits {
            initial: Duration::from_secs(10),
            max: Duration::from_secs(300),
            reset_after: Duration::from_secs(600),
        };
        Facts {
            pod,
            container,
            status,
            definition_changed: false,
            liveness,
            startup,
            deleting: false,
            backoff: NONE,
            limits: LIMITS,
        }
    }

    fn killed(message: &str, reason: KillReason, restart: bool) -> Decision {
        Decision::Kill { message: message.into(), reason, restart }
    }

    const FAILED: Option<Verdict> = Some(Verdict::Failure);

    #[test]
    fn a_failed_probe_kills_and_restarts() {
        let pod = pod_with(RestartPolicy::OnFailure);
        let by_liveness = killed("Container r failed liveness probe, will be restarted", KillReason::Liveness, true);
        assert_eq!(decide_probes(&pod, "r", FAILED, None), by_liveness);
        assert_eq!(decide_probes(&pod, "r", FAILED, FAILED), by_liveness, "liveness is looked at first");
        let by_startup = killed("Container r failed startup probe, will be restarted", KillReason::Startup, true);
        assert_eq!(decide_probes(&pod, "r", None, FAILED), by_startup);
    }

    #[test]
    fn under_never_it_only_kills() {
        let pod = pod_with(RestartPolicy::Never);
        let by_liveness = killed("Container r failed liveness probe", KillReason::Liveness, false);
        assert_eq!(decide_probes(&pod, "r", FAILED, None), by_liveness);
    }

    #[test]
    fn a_containers_own_policy_overrides_the_pods() {
        let mut pod = pod_with(RestartPolicy::Never);
        alloc::sync::Arc::make_mut(&mut pod.containers)[0].restart_policy = Some(RestartPolicy::Always);
        let by_startup = killed("Container r failed startup probe, will be restarted", KillReason::Startup, true);
        assert_eq!(decide_probes(&pod, "r", None, FAILED), by_startup);
    }

    #[test]
    fn a_sidecar_is_restarted_whatever_the_policy() {
        let pod = pod_with(RestartPolicy::Never);
        let by_startup = killed("Init container s failed startup probe", KillReason::Startup, true);
        assert_eq!(decide_probes(&pod, "s", FAILED, FAILED), by_startup, "startup is looked at first");
        let by_liveness = killed("Init container s failed liveness probe", KillReason::Liveness, true);
        assert_eq!(decide_probes(&pod, "s", FAILED, None), by_liveness);
    }

    #[test]
    fn a_changed_definition_restarts_even_under_never() {
        let pod = pod_with(RestartPolicy::Never);
        let status = container_status("r", "test://1", running(Instant::ZERO));
        let mut facts = facts(&pod, &pod.containers[0], Some(&status), FAILED, None);
        facts.definition_changed = true;
        assert_eq!(
            decide(&facts, NOW),
            killed("Container r definition changed, will be restarted", KillReason::Other, true)
        );
    }

    #[test]
    fn without_a_failure_it_is_kept() {
        let pod = pod_with(RestartPolicy::Always);
        for verdict in [None, Some(Verdict::Unknown), Some(Verdict::Success)] {
            assert_eq!(decide_probes(&pod, "r", verdict, verdict), Decision::Keep);
        }
    }

    #[test]
    fn a_deleted_pods_containers_are_neither_killed_by_probes_nor_started() {
        let pod = pod_with(RestartPolicy::Always);
        let runs = container_status("r", "test://1", running(Instant::ZERO));
        let waits = container_status("r", "test://1", waiting());
        let decide_about = |status| {
            decide(&Facts { deleting: true, ..facts(&pod, &pod.containers[0], Some(status), FAILED, None) }, NOW)
        };
        assert_eq!([decide_about(&runs), decide_about(&waits)], [Decision::Keep, Decision::Leave]);
    }

    #[test]
    fn an_ended_container_follows_policy_and_exit_code() {
        use RestartPolicy::{Always, Never, OnFailure};
        let starts = |policy, name: &str, exit_code| {
            let pod = pod_with(policy);
            let end = ContainerState::Terminated(Box::new(termination(exit_code, NOW)));
            let status = container_status(name, "test://1", end);
            decide(&facts(&pod, pod.container(name).expect("known"), Some(&status), None, None), NOW)
                == Decision::StartNow
        };
        let table = |name| [Always, OnFailure, Never].map(|policy| (starts(policy, name, 0), starts(policy, name, 1)));
        assert_eq!(table("r"), [(true, true), (false, true), (false, false)]);
        assert_eq!(table("s"), [(true, true); 3]);
        assert_eq!(table("i"), [(false, true), (false, true), (false, false)]);
    }

    #[test]
    fn a_restart_waits_for_the_back_off_after_the_last_end() {
        let pod = pod_with(RestartPolicy::Always);
        let mut backoff = Backoff::new();
        let ended = NOW.saturating_sub(Duration::from_secs(3));
        let status = container_status("r", "test://1", ContainerState::Terminated(Box::new(termination(1, ended))));
        let none = facts(&pod, &pod.containers[0], Some(&status), None, None);
        assert_eq!(decide(&none, NOW), Decision::StartNow);
        backoff.advance(Some(ended), none.limits, ended);
        let some = Facts { backoff: &backoff, ..none };
        assert_eq!(decide(&some, NOW), Decision::StartAt(NOW + Duration::from_secs(7)));
        assert_eq!(decide(&some, NOW + Duration::from_secs(7)), Decision::StartNow);
    }

    #[test]
    fn after_a_liveness_kill_the_end_before_it_counts() {
        let pod = pod_with(RestartPolicy::Always);
        let mut backoff = Backoff::new();
        let long_ago = NOW.saturating_sub(Duration::from_secs(30));
        let mut status = container_status("r", "test://2", running(long_ago));
        status.last_termination = Some(Box::new(termination(137, long_ago)));
        let none = facts(&pod, &pod.containers[0], Some(&status), FAILED, None);
        backoff.advance(Some(long_ago), none.limits, long_ago);
        let facts = Facts { backoff: &backoff, ..none };
        assert_eq!(restart_after_kill(&facts, NOW), Decision::StartNow, "it lived longer than the back-off");
        let soon = long_ago + Duration::from_secs(4);
        assert_eq!(restart_after_kill(&facts, soon), Decision::StartAt(long_ago + Duration::from_secs(10)));
    }

    #[test]
    fn may_restart_is_lenient_with_the_pods_policy_and_exact_with_the_containers() {
        let mut pod = pod_with(RestartPolicy::OnFailure);
        assert!(may_restart(&pod, &pod.containers[0], 0), "w12");
        alloc::sync::Arc::make_mut(&mut pod.containers)[0].restart_policy = Some(RestartPolicy::OnFailure);
        assert!(!may_restart(&pod, &pod.containers[0], 0));
        pod.restart_policy = RestartPolicy::Never;
        assert!(may_restart(&pod, &pod.init_containers[0], 0), "w14");
    }

    #[test]
    fn an_end_that_says_what_follows_is_believed() {
        for policy in [RestartPolicy::Always, RestartPolicy::Never] {
            let pod = pod_with(policy);
            let container = &pod.containers[0];
            let after = |restart_allowed| {
                let end = Termination { restart_allowed, ..termination(1, NOW) };
                [may_restart_after(&pod, container, &end), will_restart_after(&pod, container, &end)]
            };
            assert_eq!([Some(true), Some(false)].map(after), [[true; 2], [false; 2]]);
            assert_eq!(after(None), [policy == RestartPolicy::Always; 2]);
        }
    }

    #[test]
    fn an_exit_code_that_a_rule_names_restarts_whatever_the_policies_say() {
        let mut pod = pod_with(RestartPolicy::Never);
        let rules = |rules: &[RestartRule]| rules.into();
        let with = |pod: &mut Pod, rule: RestartRule| {
            for container in alloc::sync::Arc::make_mut(&mut pod.containers) {
                container.restart_rules = rules(core::slice::from_ref(&rule));
                container.restart_policy = Some(RestartPolicy::Never);
            }
        };
        let restarts = |pod: &Pod, exit_code| {
            let container = &pod.containers[0];
            let both = [may_restart(pod, container, exit_code), will_restart(pod, container, exit_code)];
            assert_eq!(both[0], both[1], "{exit_code}");
            both[0]
        };
        with(&mut pod, RestartRule::In([3, 42].into()));
        assert_eq!([0, 3, 41, 42].map(|code| restarts(&pod, code)), [false, true, false, true]);
        with(&mut pod, RestartRule::NotIn([0, 42].into()));
        assert_eq!([0, 3, 42].map(|code| restarts(&pod, code)), [false, true, false]);
        // A kill by a probe asks no rule.
        let status = container_status("r", "test://1", running(Instant::ZERO));
        let decision = decide(&facts(&pod, &pod.containers[0], Some(&status), FAILED, None), NOW);
        assert_eq!(decision, killed("Container r failed liveness probe", KillReason::Liveness, false));
        let mut init = container("i", ContainerKind::Init);
        init.restart_rules = rules(&[RestartRule::NotIn([1].into())]);
        assert!(!will_restart(&pod, &init, 0), "an init container that has completed has");
    }

    #[test]
    fn the_grace_period_is_the_deletions_then_the_probes_then_the_pods() {
        let probe = ProbeSpec { termination_grace_period_seconds: Some(5), ..spec() };
        let c = with_probe(container("r", ContainerKind::Regular), ProbeType::Liveness, probe);
        let pod = pod("p", [c]);
        let grace = |reason, deletion, forced| grace_seconds(&pod, &pod.containers[0], reason, deletion, forced);
        assert_eq!(grace(KillReason::Liveness, None, None), 5);
        assert_eq!(grace(KillReason::Startup, None, None), 30, "that probe has none of its own");
        assert_eq!(grace(KillReason::Other, None, None), 30);
        assert_eq!(grace(KillReason::Liveness, Some(60), None), 60);
        assert_eq!(grace(KillReason::Liveness, Some(60), Some(0)), 0);
    }

    #[test]
    fn what_is_left_of_the_grace_is_at_least_two_seconds() {
        assert_eq!(remaining_grace_seconds(30, 12, None), 18);
        assert_eq!(remaining_grace_seconds(30, 40, None), 2);
        assert_eq!(remaining_grace_seconds(1, 0, Some(1)), 2);
        assert_eq!(remaining_grace_seconds(0, 0, Some(0)), 0);
    }

    #[test]
    fn a_deletions_grace_only_becomes_shorter() {
        let pod = pod_with(RestartPolicy::Always);
        assert_eq!(deletion_grace_seconds(&pod, None, None), 30);
        assert_eq!(deletion_grace_seconds(&pod, Some(10), Some(20)), 10);
        assert_eq!(deletion_grace_seconds(&pod, Some(10), Some(0)), 1);
    }
}
