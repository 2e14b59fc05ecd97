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
use crate::status::{ContainerState, ContainerStatus};
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
        ContainerState::Running { .. } | ContainerState::Waiting { .. } => previous_exit(status),
    }
}

/// May a terminated container be started again, so that its workers go on (rule 2.6)? Sidecars always; others
/// by their own `restartPolicy` and exit code where they have one, else unless the pod's is Never (with
/// OnFailure even after exit code 0, until the pod's phase is Succeeded).
#[must_use]
pub fn may_restart(pod: &Pod, container: &Container, exit_code: i32) -> bool {
    match (container.kind, container.restart_policy) {
        (ContainerKind::Sidecar, _) | (_, Some(RestartPolicy::Always)) => true,
        (_, Some(RestartPolicy::OnFailure)) => exit_code != 0,
        (_, Some(RestartPolicy::Never)) => false,
        (_, None) => pod.restart_policy != RestartPolicy::Never,
    }
}

/// Will an ended container be started again (rule 6.4)? Ordinary init containers never after exit code 0.
#[must_use]
pub fn will_restart(pod: &Pod, container: &Container, exit_code: i32) -> bool {
    let policy = container.restart_policy.unwrap_or(pod.restart_policy);
    match (container.kind, policy) {
        (ContainerKind::Sidecar, _) | (ContainerKind::Regular, RestartPolicy::Always) => true,
        (_, RestartPolicy::Never) => false,
        (ContainerKind::Init, RestartPolicy::Always) | (_, RestartPolicy::OnFailure) => exit_code != 0,
    }
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
        && !will_restart(facts.pod, facts.container, end.exit_code)
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
