//! Whose turn it is in a pod: init containers one after the other and then the regular ones; at the end the regular ones first,
//! and then the sidecars from the last to the first.
//!
//! Source: `pkg/kubelet/kuberuntime/kuberuntime_container.go` (`computeInitContainerActions`), `kuberuntime_manager.go`
//! (`computePodActions`), `kuberuntime_termination_order.go` (rules 6.1 and 6.2).
//!
//! Containers are counted in the order of [`PodSpec::all_containers`](crate::spec::PodSpec::all_containers).

use crate::pod::{FlagsOf, any_regular_started, status_of};
use crate::restart::will_restart_after;
use crate::spec::{Container, ContainerKind, Pod};
use crate::status::{ContainerState, ContainerStatus};

/// So many containers, from the first on, have had their turn to be started, or have it now: whether one of them is started
/// (again) depends on itself alone. The others wait for the last of these.
///
/// The newest init container that has been started says how far the pod is: an ordinary one must complete, a sidecar must be
/// started (`flags`), its startup probe included. What an earlier sidecar does meanwhile holds nobody back, and once a regular
/// container has run no init container does.
#[must_use]
pub fn turns_len(pod: &Pod, statuses: &[ContainerStatus], flags: FlagsOf<'_>) -> usize {
    let init = &pod.init_containers;
    let all = init.len() + pod.containers.len();
    if init.is_empty() || any_regular_started(pod, statuses) {
        return all;
    }
    let has_begun = |spec: &Container| status_of(statuses, spec).is_some_and(ContainerStatus::has_run);
    let Some(newest) = init.iter().rposition(has_begun) else { return 1 };
    let is_done = match init[newest].kind {
        ContainerKind::Init => status_of(statuses, &init[newest]).is_some_and(ContainerStatus::has_completed),
        ContainerKind::Sidecar | ContainerKind::Regular => flags(&init[newest].name).started,
    };
    let turns = newest + 1 + usize::from(is_done);
    if turns > init.len() { all } else { turns }
}

/// Nothing remains to be kept or started, so whatever still runs (sidecars) is killed: all regular containers have ended for
/// good, or an init container has failed for good.
#[must_use]
pub fn is_over(pod: &Pod, statuses: &[ContainerStatus]) -> bool {
    let exit_code = |spec: &Container| match &status_of(statuses, spec)?.state {
        ContainerState::Terminated(end) if !will_restart_after(pod, spec, end) => Some(end.exit_code),
        _ => None,
    };
    let has_failed =
        |spec: &Container| spec.kind == ContainerKind::Init && exit_code(spec).is_some_and(|code| code != 0);
    pod.init_containers.iter().any(has_failed) || pod.containers.iter().all(|spec| exit_code(spec).is_some())
}

/// Whether a container of a pod that is being killed may get its stop signal: a sidecar waits for the regular containers and for
/// the sidecars after it, everything else for nobody. `is_there`: has not ended yet.
#[must_use]
pub fn may_stop(pod: &Pod, index: usize, is_there: impl Fn(usize) -> bool) -> bool {
    if pod.all_containers().nth(index).is_none_or(|container| container.kind != ContainerKind::Sidecar) {
        return true;
    }
    let mut before = pod.all_containers().enumerate().filter(|(other, container)| match container.kind {
        ContainerKind::Regular => true,
        ContainerKind::Sidecar => *other > index,
        ContainerKind::Init => false,
    });
    !before.any(|(other, _)| is_there(other))
}

#[cfg(test)]
mod tests {
    use alloc::boxed::Box;
    use alloc::vec::Vec;

    use super::*;
    use crate::container::Flags;
    use crate::fixture::{container, container_status, pod, running, terminated, termination, waiting};
    use crate::id::ContainerName;
    use crate::spec::RestartPolicy;
    use crate::time::Instant;

    /// Init container `i`, sidecar `s`, init container `j`, sidecar `t`, regular `a` and `b`.
    fn full(policy: RestartPolicy) -> Pod {
        let kinds = [
            ("i", ContainerKind::Init),
            ("s", ContainerKind::Sidecar),
            ("j", ContainerKind::Init),
            ("t", ContainerKind::Sidecar),
            ("a", ContainerKind::Regular),
            ("b", ContainerKind::Regular),
        ];
        let mut pod = pod("p", kinds.map(|(name, kind)| container(name, kind)));
        pod.restart_policy = policy;
        pod
    }

    /// One letter each: `.` not started yet, `r` running, `w` waiting to be started again, a digit = ended with that exit code.
    fn statuses(states: &str) -> Vec<ContainerStatus> {
        let one = |(name, state): (&str, char)| match state {
            '.' => container_status(name, "", waiting()),
            'r' => container_status(name, "test://1", running(Instant::ZERO)),
            'w' => {
                let last_termination = Some(Box::new(termination(1, Instant::ZERO)));
                ContainerStatus { last_termination, ..container_status(name, "test://1", waiting()) }
            }
            digit => container_status(name, "test://1", terminated(digit.to_digit(10).map_or(1, |code| code as i32))),
        };
        ["i", "s", "j", "t", "a", "b"].into_iter().zip(states.chars()).map(one).collect()
    }

    /// `started` of whatever runs.
    fn turns(states: &str, started: bool) -> usize {
        let flags = |_: &ContainerName| Flags { started, ready: false };
        turns_len(&full(RestartPolicy::Always), &statuses(states), &flags)
    }

    #[test]
    fn each_init_container_waits_for_the_one_before_it() {
        for (states, len) in [
            ("......", 1),
            ("r.....", 1),
            ("1.....", 1),
            ("w.....", 1),
            ("0.....", 2),
            ("0r....", 3),
            ("0rr...", 3),
            ("0r0...", 4),
            ("0r0r..", 6),
        ] {
            assert_eq!(turns(states, true), len, "{states}");
        }
    }

    #[test]
    fn a_sidecar_lets_the_next_one_come_when_it_is_started() {
        assert_eq!(turns("0r....", false), 2);
        assert_eq!(turns("0r0r..", false), 4);
        // `started` is told of the newest one only here: whatever else runs is as it may be.
        let pod = full(RestartPolicy::Always);
        let only_t = |name: &ContainerName| Flags { started: name.as_str() == "t", ready: false };
        assert_eq!(turns_len(&pod, &statuses("0r0r.."), &only_t), 6);
        assert_eq!(turns_len(&pod, &statuses("0w0r.."), &only_t), 6, "an earlier sidecar holds nobody back");
    }

    #[test]
    fn after_a_regular_container_has_run_every_container_has_its_turn() {
        for states in ["0r0rr.", "0r0r1.", "0r0rw.", "010wr."] {
            assert_eq!(turns(states, false), 6, "{states}");
        }
    }

    #[test]
    fn without_init_containers_all_begin_at_once() {
        let pod = pod("p", ["a", "b"].map(|name| container(name, ContainerKind::Regular)));
        assert_eq!(turns_len(&pod, &[], &|_| Flags::default()), 2);
    }

    #[test]
    fn a_pod_is_over_when_no_regular_container_will_run_again() {
        use RestartPolicy::{Always, Never, OnFailure};
        for (policy, states, over) in [
            (Never, "0r0r00", true),
            (Never, "0r0r01", true),
            (Never, "0r0r0r", false),
            (OnFailure, "0r0r00", true),
            (OnFailure, "0r0r01", false),
            (OnFailure, "0r0r0w", false),
            (Always, "0r0r00", false),
            (Never, "......", false),
        ] {
            assert_eq!(is_over(&full(policy), &statuses(states)), over, "{policy:?} {states}");
        }
    }

    #[test]
    fn an_init_container_that_failed_for_good_is_the_pods_end() {
        use RestartPolicy::{Always, Never, OnFailure};
        for (policy, over) in [(Never, true), (OnFailure, false), (Always, false)] {
            assert_eq!(is_over(&full(policy), &statuses("1.....")), over, "{policy:?}");
        }
        assert!(!is_over(&full(Never), &statuses("0.....")));
    }

    #[test]
    fn sidecars_are_stopped_last_and_the_last_of_them_first() {
        let pod = full(RestartPolicy::Always);
        let may_stop = |there: &[usize]| -> Vec<usize> {
            (0..6).filter(|index| super::may_stop(&pod, *index, |other| there.contains(&other))).collect()
        };
        assert_eq!(may_stop(&[0, 1, 2, 3, 4, 5]), [0, 2, 4, 5]);
        assert_eq!(may_stop(&[1, 3, 5]), [0, 2, 4, 5]);
        assert_eq!(may_stop(&[0, 1, 2, 3]), [0, 2, 3, 4, 5], "nobody waits for an ordinary init container");
        assert_eq!(may_stop(&[1]), [0, 1, 2, 3, 4, 5]);
    }
}
