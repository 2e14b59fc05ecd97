//! Pauses: workers that make no attempts until a given time.
//!
//! A pause takes away attempts and nothing else: due times pass on their grid, and each leads to a step that sees what
//! the runtime says of the container, as within the initial delay. Such due times are not missed, triggers do not
//! come through, and a call is not tried again. What decides is when a step was due, not when it is made: the first attempt is
//! that of the first due time at or after the end, whatever the moment in which the pause began or was found to be over.
//!
//! **Invariant:** a worker has [`Flag::Paused`] iff it has an entry here. Bound: one entry per paused worker.

use alloc::collections::BTreeMap;

use super::occupant::{Busies, Flag, Occupant};
use super::{Scheduler, pods};
use crate::action::WorkerIndex;
use crate::id::{ContainerName, PodUid, ProbeTypes};
use crate::schedule::Taken;
use crate::time::Instant;

/// The ends of the pauses, by worker.
#[derive(Clone, Debug, Default)]
pub(super) struct Pauses {
    untils: BTreeMap<WorkerIndex, Instant>,
}

impl Pauses {
    /// When it ends; `None` for a worker that is not paused. It may have come already.
    pub(super) fn until(&self, worker: WorkerIndex, occupant: &Occupant) -> Option<Instant> {
        if occupant.has(Flag::Paused) { self.untils.get(&worker).copied() } else { None }
    }

    /// Due times that have passed, without those that lie within a pause. `None`: all do.
    pub(super) fn pass(
        &mut self,
        worker: WorkerIndex,
        occupant: &mut Occupant,
        busies: &mut Busies,
        taken: Taken,
    ) -> Option<Taken> {
        let Some(until) = self.until(worker, occupant) else { return Some(taken) };
        let after = taken.not_before(occupant.period(), until)?;
        self.end(worker, occupant, busies);
        Some(after)
    }

    /// An attempt may be made by what was due at `due`. Ends a pause that was over then.
    pub(super) fn allow(
        &mut self,
        worker: WorkerIndex,
        occupant: &mut Occupant,
        busies: &mut Busies,
        due: Instant,
    ) -> bool {
        match self.until(worker, occupant) {
            Some(until) if due < until => false,
            Some(_) => {
                self.end(worker, occupant, busies);
                true
            }
            None => true,
        }
    }

    /// Goes on: a due time that passed within the pause is forgotten, and the next call is reported, whatever it says.
    fn end(&mut self, worker: WorkerIndex, occupant: &mut Occupant, busies: &mut Busies) {
        let Some(until) = self.forget(worker, occupant) else { return };
        let busy = busies.of(occupant);
        busy.tick = busy.tick.filter(|tick| *tick >= until);
        busy.asked = true;
    }

    /// The worker ends, or goes on.
    pub(super) fn forget(&mut self, worker: WorkerIndex, occupant: &mut Occupant) -> Option<Instant> {
        if occupant.clear(Flag::Paused) { self.untils.remove(&worker) } else { None }
    }
}

impl Scheduler {
    /// These probes of the pod make no attempts until `until`; `None`, or a time that has passed: they do again. The newest
    /// word holds. Verdicts and runs stay; an attempt that was asked for already is made and counts. A pause is the
    /// probe's: it goes on over a new instance of the container, and ends with the worker.
    ///
    /// `container` is `None` for all; `concerned` hears of each worker. Unknown pods and containers are ignored.
    pub fn pause(
        &mut self,
        uid: &PodUid,
        container: Option<&ContainerName>,
        types: ProbeTypes,
        until: Option<Instant>,
        now: Instant,
        concerned: &mut dyn FnMut(WorkerIndex),
    ) {
        let Some(pod_index) = self.pods_by_uid.find(&self.pods, uid) else { return };
        let until = until.filter(|until| *until > now);
        for worker in self.pod_workers(pod_index) {
            let Self { places, busies, pods, pauses, .. } = self;
            let Some(occupant) = &mut places[worker.0 as usize].occupant else { continue };
            let Some(entry) = &pods[pod_index as usize] else { continue };
            let name = &pods::container_at(&entry.pod, occupant.container).name;
            let is_chosen = types.contains(occupant.worker.probe_type()) && container.is_none_or(|only| only == name);
            if !is_chosen || occupant.has(Flag::Stopping) {
                continue;
            }
            match until {
                Some(until) => {
                    occupant.set(Flag::Paused);
                    pauses.untils.insert(worker, until);
                    occupant.clear(Flag::TriggeredEarly);
                    busies.find_mut(occupant).into_iter().for_each(|busy| busy.trigger = None);
                }
                None if occupant.has(Flag::Paused) => {
                    pauses.forget(worker, occupant);
                    busies.of(occupant).asked = true;
                }
                None => {}
            }
            concerned(worker);
        }
    }

    /// Workers that are paused, or were and have had no due time since.
    #[must_use]
    pub fn paused_len(&self) -> usize {
        self.pauses.untils.len()
    }
}
