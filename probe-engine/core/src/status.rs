//! What a runtime reports about containers: plain data, no rules.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::net::IpAddr;

use crate::backoff::Backoff;
use crate::id::{ContainerId, ContainerName};
use crate::time::Instant;

/// The newest state of a pod, whole: it replaces what was known before. All stages share one behind an `Arc`; who would
/// change it makes a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodStatus {
    /// Where the pod is in its life; from [`crate::pod::phase`] where the runtime has no word of its own.
    pub phase: PodPhase,
    /// A deletion timestamp is set.
    pub deleting: bool,
    /// The pod's address; `None` = not known yet.
    pub pod_ip: Option<IpAddr>,
    /// The pod's network namespace as a path that opens it (`/run/netns/..`, `/proc/PID/ns/net`); `None` = the host's,
    /// or not known.
    pub netns: Option<Arc<str>>,
    /// One entry per container that the runtime knows.
    pub containers: Box<[ContainerStatus]>,
}

impl PodStatus {
    /// The entry of this container.
    #[must_use]
    pub fn container(&self, name: &ContainerName) -> Option<&ContainerStatus> {
        self.containers.iter().find(|c| c.name == *name)
    }
}

/// `status.phase`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PodPhase {
    /// Not all containers have been started.
    #[default]
    Pending,
    /// At least one runs, or is about to be restarted.
    Running,
    /// All ended with exit code 0 and none will be restarted.
    Succeeded,
    /// All ended, at least one badly, and none will be restarted.
    Failed,
}

impl PodPhase {
    /// As in a pod's status.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            PodPhase::Pending => "Pending",
            PodPhase::Running => "Running",
            PodPhase::Succeeded => "Succeeded",
            PodPhase::Failed => "Failed",
        }
    }

    /// Succeeded or Failed: workers end.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, PodPhase::Succeeded | PodPhase::Failed)
    }
}

/// The newest state of one container. There is one for every container of the node, so it is kept at 64 bytes: what most
/// containers never have stands in boxes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerStatus {
    /// Which container.
    pub name: ContainerName,
    /// The newest instance; a waiting container still carries the ID of the one that died. `None` = never started.
    pub id: Option<ContainerId>,
    /// What it does now.
    pub state: ContainerState,
    /// How the instance before the newest ended.
    pub last_termination: Option<Box<Termination>>,
    /// How often it was started again.
    pub restart_count: u32,
}

impl ContainerStatus {
    /// Runs now, or ran before.
    #[must_use]
    pub fn has_run(&self) -> bool {
        !matches!(self.state, ContainerState::Waiting(_)) || self.last_termination.is_some()
    }

    /// Has ended with exit code 0: an ordinary init container has done its work.
    #[must_use]
    pub fn has_completed(&self) -> bool {
        matches!(&self.state, ContainerState::Terminated(end) if end.exit_code == 0)
    }
}

/// `status.containerStatuses[].state`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerState {
    /// Not started yet, or waiting for a restart.
    Waiting(Box<Waiting>),
    /// Its process runs.
    Running {
        /// When it was started.
        started_at: Instant,
    },
    /// Its process ended.
    Terminated(Box<Termination>),
}

impl ContainerState {
    /// Waiting, for this reason; `message` is for people.
    #[must_use]
    pub fn waiting(reason: impl Into<Box<str>>, message: impl Into<Box<str>>) -> Self {
        Self::Waiting(Box::new(Waiting { reason: reason.into(), message: message.into() }))
    }
}

/// `status.containerStatuses[].state.waiting`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// `ContainerCreating`, `CrashLoopBackOff`, `CreateContainerError` ...
    pub reason: Box<str>,
    /// For people.
    pub message: Box<str>,
}

/// `status.containerStatuses[].state.terminated`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Termination {
    /// The exit code; 128 + n after signal n.
    pub exit_code: i32,
    /// The signal that ended it, 0 = none.
    pub signal: i32,
    /// The container's back-off as it stands after this end: what a daemon that starts again goes on with.
    pub backoff: Backoff,
    /// `Completed`, `Error`, `OOMKilled`, `StartError` ...
    pub reason: Box<str>,
    /// For people.
    pub message: Box<str>,
    /// When it was started.
    pub started_at: Instant,
    /// When it ended.
    pub finished_at: Instant,
    /// Whether another instance will follow, where whoever runs the containers has said so; `None` = as the pod's and the
    /// container's policies have it.
    pub restart_allowed: Option<bool>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{container_status, pod_status, running, terminated, termination, waiting};

    #[test]
    fn the_phases_are_kubernetes_and_two_of_them_are_final() {
        let phases = [PodPhase::Pending, PodPhase::Running, PodPhase::Succeeded, PodPhase::Failed];
        assert_eq!(phases.map(PodPhase::as_str), ["Pending", "Running", "Succeeded", "Failed"]);
        assert_eq!(phases.map(PodPhase::is_terminal), [false, false, true, true]);
    }

    #[test]
    fn a_container_is_found_by_its_name() {
        let status = pod_status(["a", "b"].map(|name| container_status(name, "test://1", waiting())));
        let found = ["a", "b", "c"].map(|name| status.container(&name.into()).map(|found| found.name.as_str()));
        assert_eq!(found, [Some("a"), Some("b"), None]);
    }

    #[test]
    fn a_container_that_waits_has_run_only_if_an_instance_of_it_has_ended() {
        let of = |state| container_status("c", "test://1", state);
        let again =
            ContainerStatus { last_termination: Some(Box::new(termination(1, Instant::ZERO))), ..of(waiting()) };
        let all = [of(waiting()), again, of(running(Instant::ZERO)), of(terminated(0)), of(terminated(1))];
        assert_eq!(all.each_ref().map(ContainerStatus::has_run), [false, true, true, true, true]);
        assert_eq!(all.each_ref().map(ContainerStatus::has_completed), [false, false, false, true, false]);
    }

    #[test]
    fn a_container_status_stays_small() {
        assert!(size_of::<ContainerStatus>() <= 64, "{}", size_of::<ContainerStatus>());
    }
}
