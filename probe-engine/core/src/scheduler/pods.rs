//! The pods' slab: what a step looks at, and the generation of container statuses.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{Place, Scheduler};
use crate::action::WorkerIndex;
use crate::container::{Container, Containers, Facts, Flags, Probed, flags, is_before_manager};
use crate::id::{ContainerId, ContainerName, PodUid, ProbeType};
use crate::outcome::Verdict;
use crate::restart;
use crate::spec::{self, ContainerKind, Pod};
use crate::status::{ContainerState, ContainerStatus, PodStatus};
use crate::time::Instant;
use crate::worker::{Instance, InstanceState, Memory, View, Worker};

/// A pod with its newest state.
#[derive(Clone)]
pub(super) struct PodEntry {
    pub(super) pod: Arc<Pod>,
    pub(super) status: Option<Arc<PodStatus>>,
    /// In the order of `Pod::all_containers`.
    pub(super) containers: Containers,
    /// Gone once its last worker has ended.
    pub(super) removed: bool,
}

const _: () = assert!(size_of::<Option<PodEntry>>() <= 64, "one cache line");

/// Positions in `Pod::all_containers` of the containers that may have probes, in the order in which the
/// kubelet makes their workers.
pub(super) fn creation_order(pod: &Pod) -> impl Iterator<Item = u16> + use<> {
    let init_len = pod.init_containers.len();
    let sidecars: Vec<usize> =
        (0..init_len).filter(|i| pod.init_containers[*i].kind == ContainerKind::Sidecar).collect();
    let regular = init_len..init_len + pod.containers.len();
    regular.chain(sidecars).filter_map(|position| u16::try_from(position).ok())
}

/// The container at this position in `Pod::all_containers`.
pub(super) fn container_at(pod: &Pod, position: u16) -> &spec::Container {
    let position = usize::from(position);
    match position.checked_sub(pod.init_containers.len()) {
        None => &pod.init_containers[position],
        Some(regular) => &pod.containers[regular],
    }
}

impl PodEntry {
    /// Takes over `status`; what was generated for another instance of a container is forgotten.
    pub(super) fn set_status(&mut self, status: Arc<PodStatus>) {
        for (spec, container) in self.pod.all_containers().zip(self.containers.iter_mut()) {
            let found = status.containers.iter().position(|c| c.name == spec.name);
            let id = found.and_then(|i| id_of(&status.containers[i]));
            let old = self.status.as_ref().zip(container.status_index());
            let old_id = old.and_then(|(old, i)| id_of(&old.containers[i]));
            if id != old_id {
                container.started = None;
            }
            container.set_status_index(found);
        }
        self.status = Some(status);
    }

    /// What a step of a worker of this container sees.
    pub(super) fn view(&self, position: u16, manager_start: Instant) -> Option<View<'_>> {
        let status = self.status.as_ref()?;
        let instance = self.container_status(usize::from(position)).and_then(|container| {
            let id = id_of(container)?;
            let (state, restartable) = match &container.state {
                ContainerState::Waiting(_) => (InstanceState::Waiting, true),
                ContainerState::Running { started_at } => (InstanceState::Running { started_at: *started_at }, true),
                ContainerState::Terminated(end) => {
                    let spec = container_at(&self.pod, position);
                    (InstanceState::Terminated, restart::may_restart_after(&self.pod, spec, end))
                }
            };
            let started = self.containers[usize::from(position)].started;
            let before_manager = is_before_manager(container, manager_start);
            Some(Instance { id, state, started, restartable, before_manager })
        });
        Some(View { phase: status.phase, deleting: status.deleting, instance })
    }

    /// `started` and `ready` of the container at this position; `None` without a status.
    pub(super) fn flags(
        &self,
        position: usize,
        places: &[Place],
        manager_start: Instant,
        pod_was_ready: bool,
    ) -> Option<Flags> {
        let status = self.container_status(position)?;
        let container = &self.containers[position];
        let probed = |probe_type| match container.worker(probe_type) {
            None => Probed::No,
            Some(worker) => Probed::Yes(stored(places, worker, status)),
        };
        let facts = Facts {
            kind: container_at(&self.pod, u16::try_from(position).ok()?).kind,
            startup: probed(ProbeType::Startup),
            readiness: probed(ProbeType::Readiness),
            was_started: container.started == Some(true),
            manager_start,
            pod_was_ready,
        };
        Some(flags(status, &facts))
    }

    fn container_status(&self, position: usize) -> Option<&ContainerStatus> {
        let index = self.containers[position].status_index()?;
        self.status.as_ref()?.containers.get(index)
    }
}

impl Scheduler {
    pub(super) fn insert_pod(&mut self, pod: Arc<Pod>) -> u32 {
        let containers = Containers::new(pod.all_containers().count());
        let entry = PodEntry { pod, status: None, containers, removed: false };
        let index = match self.pods_free.pop() {
            Some(free) => {
                self.pods[free as usize] = Some(entry);
                free
            }
            None => {
                self.pods.push(Some(entry));
                self.pods.len() as u32 - 1
            }
        };
        self.pods_by_uid.insert(&self.pods, index);
        index
    }

    /// Takes over a pod's newest state; `None` where it is not known, or about to go.
    pub(super) fn set_status(&mut self, uid: &PodUid, status: Arc<PodStatus>) -> Option<u32> {
        let pod_index = self.pods_by_uid.find(&self.pods, uid)?;
        self.pods[pod_index as usize].as_mut().filter(|entry| !entry.removed)?.set_status(status);
        self.unsteady(pod_index, None);
        Some(pod_index)
    }

    /// The worker goes on with the instance that its container's status names; without one it begins as any other. One that has
    /// seen an instance already knows better.
    pub(super) fn remember(&mut self, worker: WorkerIndex, memory: Memory) {
        let Some(occupant) = &mut self.places[worker.0 as usize].occupant else { return };
        if occupant.worker.container_id().is_some() {
            return;
        }
        let entry = self.pods[occupant.pod as usize].as_ref();
        let status = entry.and_then(|entry| entry.container_status(usize::from(occupant.container)));
        if let Some(id) = status.and_then(id_of) {
            occupant.worker = Worker::remembering(occupant.worker.probe_type(), id.clone(), memory);
        }
    }

    /// The container and the type of a worker's probe.
    pub(super) fn key_of(&self, worker: WorkerIndex) -> Option<(&ContainerName, ProbeType)> {
        let occupant = self.places[worker.0 as usize].occupant.as_ref()?;
        let entry = self.pods[occupant.pod as usize].as_ref()?;
        Some((&container_at(&entry.pod, occupant.container).name, occupant.worker.probe_type()))
    }

    pub(super) fn pod_workers(&self, pod_index: u32) -> Vec<WorkerIndex> {
        let entry = self.pods[pod_index as usize].as_ref();
        entry.into_iter().flat_map(|entry| entry.containers.iter()).flat_map(Container::workers).collect()
    }

    pub(super) fn forget_pod_without_workers(&mut self, pod_index: u32) {
        let done = |entry: &&PodEntry| entry.removed && entry.containers.iter().all(|c| c.workers().next().is_none());
        let uid = self.pods[pod_index as usize].as_ref().filter(done).map(|entry| entry.pod.uid.clone());
        if let Some(uid) = uid {
            self.pods_by_uid.remove(&self.pods, &uid);
            self.pods[pod_index as usize] = None;
            self.pods_free.push(pod_index);
        }
    }

    /// Generates the pod's container statuses: `started` is computed anew, and readiness workers of started
    /// containers that are not ready are triggered (rule 2.8), but not `except`.
    pub(super) fn generate_status(&mut self, pod_index: u32, except: Option<WorkerIndex>, now: Instant) {
        let manager_start = self.config.manager_start;
        let containers_len = self.pods[pod_index as usize].as_ref().map_or(0, |entry| entry.containers.len());
        for position in 0..containers_len {
            let Some(entry) = &mut self.pods[pod_index as usize] else { return };
            let Some(Flags { started, .. }) = entry.flags(position, &self.places, manager_start, false) else {
                continue;
            };
            let has_changed = entry.containers[position].started.replace(started) != Some(started);
            let readiness = entry.containers[position].worker(ProbeType::Readiness);
            if has_changed {
                self.unsteady(pod_index, Some(position));
            }
            let Some(entry) = &self.pods[pod_index as usize] else { return };
            if let Some(worker) = readiness.filter(|worker| started && Some(*worker) != except)
                && let Some(status) = entry.container_status(position)
                && stored(&self.places, worker, status) != Some(Verdict::Success)
            {
                self.trigger_worker(worker, false, now);
            }
        }
    }
}

/// What the results store holds for the instance that `status` is about.
fn stored(places: &[Place], worker: WorkerIndex, status: &ContainerStatus) -> Option<Verdict> {
    let worker = &places[worker.0 as usize].occupant.as_ref()?.worker;
    worker.verdict().filter(|_| worker.container_id() == status.id.as_ref())
}

/// The instance's ID; an empty one is none.
fn id_of(status: &ContainerStatus) -> Option<&ContainerId> {
    status.id.as_ref().filter(|id| !id.as_str().is_empty())
}
