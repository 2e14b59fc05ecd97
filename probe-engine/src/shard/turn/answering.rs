//! tcpSocket attempts: from kernel state where a lease stands, else by a connection that may earn one.

use std::net::SocketAddr;
use std::sync::Arc;

use probe_core::action::{AttemptId, Start, WorkerIndex};
use probe_core::outcome::Outcome;
use probe_core::time::Instant;

use super::super::kernel::Kernel;
use super::super::lease::{Decision, LeaseIndex};
use super::super::slot::Current;
use super::{HandlerKind, Shard};
use crate::ebpf::{Answer, Target, Why};
use crate::prober::tcp;

impl<K: Kernel> Shard<K> {
    /// Decides how an attempt is answered that has become its worker's current one. True: from kernel state, and it is over:
    /// no flight, no system call, no allocation, and no place on the ring to wait for.
    pub(super) fn answer_passively(&mut self, start: Start, now: Instant) -> bool {
        if !self.leases.is_on() {
            return false;
        }
        let Start { attempt, retry, urgent, .. } = start;
        let Some(target) = self.scheduler.target(attempt.worker) else { return false };
        let Some(slot) = self.slots.get_mut(attempt.worker.0 as usize).and_then(Option::as_mut) else { return false };
        // One that cannot even be described, or needs a name resolved, is found out about when it is launched.
        let Ok(errand) = slot.errand(&target) else { return false };
        let addr = errand.addr();
        slot.errand = Some(errand);
        let Some(addr) = addr else { return false };
        let lease = self.leases.hold(slot.lease, &target, addr);
        slot.lease = Some(lease);
        let triggered = std::mem::take(&mut slot.must_connect).then_some(Why::Triggered);
        // A further try, or one after nothing but local trouble: doubt enough.
        let must_connect = triggered.or((retry > 0 || urgent).then_some(Why::Failing));
        match self.leases.decide(lease, must_connect, now, &mut self.metrics.passive) {
            Decision::Real(why) => {
                slot.current.iter_mut().for_each(|current| current.why = Some(why));
                return false;
            }
            Decision::Passive => slot.note_answer(Answer::Passive),
        }
        self.started(attempt, now);
        self.end_current(attempt);
        self.scheduler.handle_outcome(attempt, tcp::success(), now);
        true
    }

    /// The attempt's connect to `peer` is about to be submitted. Returns whose listeners should take it, where that is of use.
    pub(super) fn take_off(&mut self, attempt: AttemptId, peer: SocketAddr) -> Option<Arc<Target>> {
        let slot = self.slots.get_mut(attempt.worker.0 as usize)?.as_mut()?;
        let (lease, current) = (slot.lease?, slot.current.as_mut()?);
        let target = self.leases.target(lease);
        // Not that of another address: the pod got one while the attempt waited for its place.
        let target = (target.addr() == peer).then(|| Arc::clone(target))?;
        let ticket = self.leases.ticket(lease, current.why?);
        current.ticket = Some(ticket);
        ticket.wants_witness().then_some(target)
    }

    /// An attempt ended that was not answered passively. `current` is no longer its worker's.
    pub(super) fn answered(
        &mut self,
        attempt: AttemptId,
        current: &Current,
        outcome: &Outcome,
        taken: Result<(), Why>,
        now: Instant,
    ) {
        let Some(slot) = self.slots.get(attempt.worker.0 as usize).and_then(Option::as_ref) else { return };
        if slot.handler != HandlerKind::Tcp {
            return;
        }
        let counts = &mut self.metrics.passive;
        let why = match (current.ticket, slot.lease) {
            (Some(ticket), Some(lease)) => self.leases.landed(lease, ticket, outcome, taken, now, counts),
            _ => current.why.unwrap_or_else(|| self.leases.why_none()),
        };
        if !matches!(outcome, Outcome::Error(_) | Outcome::Local(_)) {
            counts.real[why.index()] += 1;
            slot.note_answer(Answer::Real(why));
        }
    }

    /// Early detection: each probe of this target makes a real attempt at once, which counts like any other. A target that is
    /// not known has been let go of.
    pub(super) fn detect(&mut self, target: u64, now: Instant) {
        let Some((lease, target)) = self.leases.find(target) else { return };
        // Members of a SO_REUSEPORT group close one after the other: the first refusal has said it all.
        if self.leases.is_failing(lease) {
            return;
        }
        let target = Arc::clone(target);
        let Some(name) = target.container() else { return };
        let Some(pod) = self.scheduler.pod(&target.pod.uid) else { return };
        let of_container = pod.workers().filter(|(_, container, _)| *container == name);
        let workers: Vec<_> = of_container.map(|(worker, _, probe_type)| (worker, probe_type)).collect();
        for (worker, probe_type) in workers {
            if self.holds(worker, lease)
                && self.scheduler.trigger(&target.pod.uid, name, probe_type, now)
                && let Some(slot) = self.slot(worker)
            {
                slot.must_connect = true;
            }
        }
    }

    fn holds(&mut self, worker: WorkerIndex, lease: LeaseIndex) -> bool {
        self.slot(worker).is_some_and(|slot| slot.lease == Some(lease))
    }
}
