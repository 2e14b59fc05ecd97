//! One container: its up to three workers, and whether it is started and ready.
//!
//! Source: `pkg/kubelet/prober/prober_manager.go`, `UpdatePodStatus` and `isContainerStarted`.

use alloc::boxed::Box;
use core::ops::{Deref, DerefMut};
use core::time::Duration;

use crate::action::WorkerIndex;
use crate::id::ProbeType;
use crate::outcome::Verdict;
use crate::spec::ContainerKind;
use crate::status::{ContainerState, ContainerStatus};
use crate::time::Instant;

/// Containers started more than this before the manager keep their readiness (rules 2.5 and 5.2).
pub const MANAGER_START_SLACK: Duration = Duration::from_secs(10);

/// `started` and `ready` of a container status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// Running, and its startup probe (if any) has succeeded.
    pub started: bool,
    /// May be sent traffic; for an ordinary init container: it has completed.
    pub ready: bool,
}

/// A probe of the container, as far as its worker and the results store know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probed {
    /// There is no worker.
    No,
    /// There is a worker; with the verdict stored for the instance in question.
    Yes(Option<Verdict>),
}

/// What [`flags`] looks at besides the status.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Where the container stands.
    pub kind: ContainerKind,
    /// Its startup probe.
    pub startup: Probed,
    /// Its readiness probe.
    pub readiness: Probed,
    /// The previous status said `started` of the same instance.
    pub was_started: bool,
    /// When the manager started.
    pub manager_start: Instant,
    /// The pod's last known condition Ready is True.
    pub pod_was_ready: bool,
}

/// `started` and `ready` at a status generation (rules 5.1 and 5.2).
#[must_use]
pub fn flags(status: &ContainerStatus, facts: &Facts) -> Flags {
    let started = started(status, facts);
    let ready = match facts.kind {
        ContainerKind::Init => status.has_completed(),
        ContainerKind::Regular | ContainerKind::Sidecar => started && ready(status, facts),
    };
    Flags { started, ready }
}

/// The running instance was started so long before the manager that its readiness is inherited, not reset.
#[must_use]
pub fn is_before_manager(status: &ContainerStatus, manager_start: Instant) -> bool {
    match status.state {
        ContainerState::Running { started_at } => started_at < manager_start.saturating_sub(MANAGER_START_SLACK),
        ContainerState::Waiting(_) | ContainerState::Terminated(_) => false,
    }
}

fn started(status: &ContainerStatus, facts: &Facts) -> bool {
    if !matches!(status.state, ContainerState::Running { .. }) {
        return false;
    }
    match facts.startup {
        Probed::Yes(Some(verdict)) => verdict == Verdict::Success,
        Probed::Yes(None) => facts.was_started,
        Probed::No => true,
    }
}

fn ready(status: &ContainerStatus, facts: &Facts) -> bool {
    match facts.readiness {
        Probed::No => true,
        Probed::Yes(Some(verdict)) => verdict == Verdict::Success,
        Probed::Yes(None) => is_before_manager(status, facts.manager_start) && facts.pod_was_ready,
    }
}

/// The places of a container's workers and what the cached status says of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Container {
    /// [`NO_WORKER`] where it has no such probe.
    workers: [u32; 3],
    /// Where in `PodStatus::containers` this container's entry is, or [`NO_STATUS`].
    status_index: u16,
    /// `started` of the cached status; `None` before it was generated for this instance.
    pub(crate) started: Option<bool>,
}

/// Those of a pod. Nearly every pod has one or two, which take no allocation of their own.
#[derive(Clone, Debug)]
pub(crate) enum Containers {
    Few(u8, [Container; 2]),
    Many(Box<[Container]>),
}

impl Containers {
    /// So many of which nothing is known.
    pub(crate) fn new(len: usize) -> Self {
        match len {
            0..=2 => Self::Few(len as u8, [Container::default(); 2]),
            _ => Self::Many(alloc::vec![Container::default(); len].into_boxed_slice()),
        }
    }
}

impl Deref for Containers {
    type Target = [Container];

    fn deref(&self) -> &[Container] {
        match self {
            Self::Few(len, all) => &all[..usize::from(*len)],
            Self::Many(all) => all,
        }
    }
}

impl DerefMut for Containers {
    fn deref_mut(&mut self) -> &mut [Container] {
        match self {
            Self::Few(len, all) => &mut all[..usize::from(*len)],
            Self::Many(all) => all,
        }
    }
}

const NO_WORKER: u32 = u32::MAX;
const NO_STATUS: u16 = u16::MAX;

impl Default for Container {
    fn default() -> Self {
        Self { workers: [NO_WORKER; 3], status_index: NO_STATUS, started: None }
    }
}

impl Container {
    pub(crate) fn worker(&self, probe_type: ProbeType) -> Option<WorkerIndex> {
        Some(WorkerIndex(self.workers[probe_type.index()])).filter(|worker| worker.0 != NO_WORKER)
    }

    pub(crate) fn set_worker(&mut self, probe_type: ProbeType, worker: Option<WorkerIndex>) {
        self.workers[probe_type.index()] = worker.map_or(NO_WORKER, |worker| worker.0);
    }

    pub(crate) fn workers(&self) -> impl Iterator<Item = WorkerIndex> + use<> {
        self.workers.into_iter().filter(|worker| *worker != NO_WORKER).map(WorkerIndex)
    }

    pub(crate) fn status_index(&self) -> Option<usize> {
        (self.status_index != NO_STATUS).then_some(usize::from(self.status_index))
    }

    /// An entry that is further back than any can be counts as none.
    pub(crate) fn set_status_index(&mut self, index: Option<usize>) {
        self.status_index = index.and_then(|index| u16::try_from(index).ok()).unwrap_or(NO_STATUS);
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::fixture::{container_status, running, terminated};

    const MANAGER_START: Instant = Instant::from_secs(1000);

    fn facts() -> Facts {
        Facts {
            kind: ContainerKind::Regular,
            startup: Probed::No,
            readiness: Probed::No,
            was_started: false,
            manager_start: MANAGER_START,
            pod_was_ready: false,
        }
    }

    fn running_since(seconds: u64) -> ContainerStatus {
        container_status("c", "test://1", running(Instant::from_secs(seconds)))
    }

    #[test]
    fn a_pod_has_a_place_for_each_of_its_containers() {
        for len in 0..5 {
            let mut containers = Containers::new(len);
            assert_eq!(containers.len(), len);
            for (at, container) in containers.iter_mut().enumerate() {
                container.set_worker(ProbeType::Liveness, Some(WorkerIndex(at as u32)));
            }
            let workers: Vec<_> = containers.iter().flat_map(Container::workers).collect();
            assert_eq!(workers, (0..len as u32).map(WorkerIndex).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_container_stays_small() {
        assert!(size_of::<Container>() <= 16, "{}", size_of::<Container>());
    }

    #[test]
    fn m32_a_container_that_was_started_stays_so_while_its_startup_worker_has_no_result() {
        let probed = Facts { startup: Probed::Yes(None), ..facts() };
        assert!(!flags(&running_since(10), &probed).started);
        assert!(flags(&running_since(10), &Facts { was_started: true, ..probed }).started);
        let ended = container_status("c", "test://1", terminated(0));
        assert!(!flags(&ended, &Facts { was_started: true, ..probed }).started);
    }

    #[test]
    fn a_stored_startup_verdict_goes_before_what_was() {
        let probed = |verdict| Facts { startup: Probed::Yes(Some(verdict)), was_started: true, ..facts() };
        assert!(flags(&running_since(10), &probed(Verdict::Success)).started);
        assert!(!flags(&running_since(10), &probed(Verdict::Unknown)).started);
        assert!(!flags(&running_since(10), &probed(Verdict::Failure)).started);
    }

    #[test]
    fn m29_only_a_container_older_than_the_manager_inherits_ready() {
        let probed = Facts { readiness: Probed::Yes(None), pod_was_ready: true, ..facts() };
        assert!(flags(&running_since(989), &probed).ready);
        assert!(!flags(&running_since(990), &probed).ready);
        assert!(!flags(&running_since(989), &Facts { pod_was_ready: false, ..probed }).ready);
        let failed = Facts { readiness: Probed::Yes(Some(Verdict::Failure)), ..probed };
        assert!(!flags(&running_since(989), &failed).ready);
    }

    #[test]
    fn a_container_that_is_not_started_is_not_ready() {
        let gated = Facts { startup: Probed::Yes(None), readiness: Probed::Yes(Some(Verdict::Success)), ..facts() };
        assert_eq!(flags(&running_since(10), &gated), Flags::default());
    }
}
