//! What the manager asks of a shard, a bounded number of commands a turn.

use std::sync::Arc;

use probe_core::id::{ContainerName, PodUid, ProbeTypes};
use probe_core::spec::Pod;
use probe_core::status::PodStatus;
use probe_core::time::Instant;

use super::super::inbox::{Command, ProbeSlot, Remembered};
use super::super::kernel::Kernel;
use super::super::slot::Slot;
use super::Shard;
use crate::limits;

impl<K: Kernel> Shard<K> {
    pub(super) fn take_commands(&mut self, now: Instant) {
        for _ in 0..limits::SHARD_COMMANDS_PER_TURN_MAX {
            let Some(command) = self.inbox.pop_command() else { return };
            match command {
                Command::AddPod { pod, slots, status } => self.add_pod(pod, &slots, status, now),
                Command::RemovePod { uid } => self.scheduler.remove_pod(&uid, now),
                Command::Status { uid, status, remembered } => self.take_status(&uid, status, &remembered, now),
                Command::StopLivenessAndStartup { uid } => self.scheduler.stop_liveness_and_startup(&uid, now),
                Command::Trigger { uid, container, probe_type } => {
                    let is_known = self.scheduler.trigger(&uid, &container, probe_type, now);
                    let worker = self.scheduler.worker_index(&uid, &container, probe_type).filter(|_| is_known);
                    if let Some(slot) = worker.and_then(|worker| self.slots.find_mut(worker)) {
                        slot.must_connect = true;
                    }
                }
                Command::Pause { uid, pause } => {
                    let until = pause.paused.map(|paused| paused.until_at);
                    self.pause(&uid, pause.container.as_ref(), pause.types, until, now);
                }
                Command::Detect { target } => self.detect(target, now),
                Command::Shutdown => self.begin_end(now),
            }
        }
    }

    fn add_pod(&mut self, pod: Arc<Pod>, given: &[ProbeSlot], status: Option<Arc<PodStatus>>, now: Instant) {
        let slots = &mut self.slots;
        let past = |container: &ContainerName, probe_type| {
            let slot = given.iter().find(|slot| slot.container == *container && slot.probe_type == probe_type)?;
            Some(slot.past?.memory)
        };
        self.scheduler.add_pod_remembering(
            Arc::clone(&pod),
            status,
            &past,
            now,
            &mut |worker, container, probe_type| {
                let spec = pod.container(container.as_str()).and_then(|container| container.probes.by_type(probe_type));
                let Some(spec) = spec else { return };
                let stats = given.iter().find(|slot| slot.container == *container && slot.probe_type == probe_type);
                let stats = stats.map(|slot| Arc::clone(&slot.stats)).unwrap_or_default();
                slots.insert(worker, Slot::new(stats, spec));
            },
        );
        self.forget_leases(&pod.uid);
        for slot in given {
            if let Some(paused) = slot.paused {
                let types = ProbeTypes::from_iter([slot.probe_type]);
                self.pause(&pod.uid, Some(&slot.container), types, Some(paused.until_at), now);
            }
        }
    }

    fn pause(
        &mut self,
        uid: &PodUid,
        container: Option<&ContainerName>,
        types: ProbeTypes,
        until: Option<Instant>,
        now: Instant,
    ) {
        let mut concerned = Vec::new();
        self.scheduler.pause(uid, container, types, until, now, &mut |worker| concerned.push(worker));
        concerned.into_iter().for_each(|worker| self.note_due(worker));
    }

    fn take_status(&mut self, uid: &PodUid, status: Arc<PodStatus>, remembered: &[Remembered], now: Instant) {
        for Remembered { container, probe_type, memory } in remembered {
            let worker = self.scheduler.worker_index(uid, container, *probe_type);
            if let Some(slot) = worker.and_then(|worker| self.slots.find_mut(worker)) {
                let (passed, run) = memory.run();
                slot.stats.remember(passed, run);
            }
        }
        let memory = |container: &ContainerName, probe_type| {
            let is_it = |known: &&Remembered| known.container == *container && known.probe_type == probe_type;
            remembered.iter().find(is_it).map(|known| known.memory)
        };
        match remembered {
            [] => self.scheduler.handle_status(uid, status, now),
            _ => self.scheduler.handle_status_remembering(uid, status, &memory, now),
        }
        self.forget_leases(uid);
    }

    /// The pod's status is another: what its leases are for is found out anew at its next attempts.
    fn forget_leases(&mut self, uid: &PodUid) {
        let Some(pod) = self.scheduler.pod(uid) else { return };
        for (worker, ..) in pod.workers() {
            if let Some(slot) = self.slots.find_mut(worker) {
                slot.is_lease_known = false;
            }
        }
    }
}
