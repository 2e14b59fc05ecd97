//! Pods whose instances may have outlived the daemon before this one: what that one knew of an instance goes to its workers with
//! the first status that names it.
//!
//! Bound: one entry per pod, until its containers are told or it goes.

use std::sync::Arc;

use probe_core::id::{ContainerId, PodUid, ProbeType};
use probe_core::spec::Pod;
use probe_core::status::PodStatus;

use super::Manager;
use crate::shard::inbox::Remembered;
use crate::state::{ContainerState, PodState};

/// See the module.
pub(super) struct Awaited {
    past: Arc<PodState>,
    /// Places in `past.containers` of those of which no instance was told yet.
    open: Vec<usize>,
}

impl Awaited {
    pub(super) fn new(past: Arc<PodState>) -> Self {
        Self { open: (0..past.containers.len()).collect(), past }
    }

    /// What was known of the instances that `status` is the first to tell.
    fn take(&mut self, pod: &Pod, status: &PodStatus) -> Vec<Remembered> {
        let mut remembered = Vec::new();
        let Self { past, open } = self;
        open.retain(|place| {
            let known = &past.containers[*place];
            let told = status.containers.iter().find(|container| container.name.as_str() == known.name);
            let Some(id) = told.and_then(|container| container.id.as_ref()) else { return true };
            remembered.extend(memories(past, pod, known, id));
            false
        });
        remembered
    }
}

fn memories<'a>(
    past: &'a PodState,
    pod: &'a Pod,
    known: &'a ContainerState,
    id: &ContainerId,
) -> impl Iterator<Item = Remembered> + use<'a> {
    let instance = past.instance(pod, &known.name, id).zip(pod.container(&known.name));
    instance.into_iter().flat_map(|(known, container)| {
        ProbeType::ALL.into_iter().filter_map(|probe_type| {
            let memory = known.probe(probe_type)?.memory(probe_type)?;
            Some(Remembered { container: container.name.clone(), probe_type, memory })
        })
    })
}

impl Manager {
    /// What the pod's workers go on with that `status` is the first to tell of.
    pub(super) fn remembered(&mut self, uid: &PodUid, status: &PodStatus) -> Box<[Remembered]> {
        let Some((awaited, managed)) = self.awaited.get_mut(uid).zip(self.pods.find(uid)) else {
            return Box::default();
        };
        let remembered = awaited.take(&managed.pod, status);
        if awaited.open.is_empty() {
            self.awaited.remove(uid);
        }
        remembered.into()
    }
}
