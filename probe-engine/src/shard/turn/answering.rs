//! tcpSocket attempts: from kernel state where a lease stands, else by a connection that may earn one.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;

use probe_core::action::{AttemptId, Passed, Start, WorkerIndex};
use probe_core::outcome::Outcome;
use probe_core::scheduler::{AnswerAtOnce, Quick};
use probe_core::spec::Handler;
use probe_core::time::Instant;

use super::super::errand::address_of;
use super::super::kernel::Kernel;
use super::super::lease::{Decision, LeaseIndex, Leases, Part};
use super::super::metrics::PassiveCounts;
use super::super::slot::{Current, Slots};
use super::{HandlerKind, Shard};
use crate::ebpf::{Answer, Target, Why};

/// Answers due times from kernel state where nothing else is to be thought of.
pub(super) struct AtOnce<'a> {
    pub(super) slots: &'a mut Slots,
    pub(super) leases: &'a mut Leases,
    pub(super) counts: &'a mut PassiveCounts,
    pub(super) reached: &'a mut Vec<(Instant, u64)>,
    pub(super) stuck_local: &'a mut u64,
    /// How many more this turn.
    pub(super) left: &'a mut usize,
    pub(super) now: Instant,
}

impl AnswerAtOnce for AtOnce<'_> {
    /// Reads of all what an answer of each will: so the processor fetches the like of many from memory at a time, where the
    /// answers, one after the other, would wait for each.
    fn ahead(&mut self, fired: &[WorkerIndex]) {
        if !self.leases.is_on() {
            return;
        }
        // What is beyond is not answered here: after a standstill that may be all that there are.
        let fired = &fired[..fired.len().min(*self.left)];
        let slots = || fired.iter().filter_map(|worker| self.slots.find(*worker));
        let leases = || slots().filter_map(|slot| slot.lease);
        slots().for_each(|slot| _ = black_box(slot.lease));
        slots().for_each(|slot| _ = black_box(slot.stats.run()));
        leases().for_each(|lease| self.leases.read_ahead(lease, Part::Lease));
        leases().for_each(|lease| self.leases.read_ahead(lease, Part::Target));
        leases().for_each(|lease| self.leases.read_ahead(lease, Part::Counter));
    }

    fn answer(&mut self, quick: &Quick) -> bool {
        let Some(slot) = self.slots.find_mut(quick.worker) else { return false };
        let Some(lease) = slot.lease.filter(|_| slot.is_lease_known && !slot.must_connect) else { return false };
        if *self.left == 0 || !self.leases.answer(lease, self.now, self.counts) {
            return false;
        }
        *self.left -= 1;
        note_reached(self.reached, quick.due);
        slot.stats.record_passive(self.now.as_nanos(), quick.run, quick.next.as_nanos());
        *self.stuck_local -= slot.unstick();
        true
    }
}

/// A passive answer to this due time: late by the end of the turn.
fn note_reached(reached: &mut Vec<(Instant, u64)>, due: Instant) {
    match reached.last_mut().filter(|(last, _)| *last == due) {
        Some((_, count)) => *count += 1,
        None => reached.push((due, 1)),
    }
}

impl<K: Kernel> Shard<K> {
    /// Decides how an attempt is answered that its worker asks for. `Ok`: from kernel state, and it is over: no flight, no system
    /// call, no allocation, and no place on the ring to wait for. `Err`: by a connection, and why.
    pub(super) fn answer_passively(&mut self, start: Start, now: Instant) -> Result<(), Option<Why>> {
        if !self.leases.is_on() {
            return Err(None);
        }
        let Start { attempt, retry, urgent, due } = start;
        let lease = self.lease_of(attempt.worker).ok_or(None)?;
        let slot = self.slots.find_mut(attempt.worker).ok_or(None)?;
        let triggered = std::mem::take(&mut slot.must_connect).then_some(Why::Triggered);
        // A further try, or one after nothing but local trouble: doubt enough.
        let must_connect = triggered.or((retry > 0 || urgent).then_some(Why::Failing));
        if let Decision::Real(why) = self.leases.decide(lease, must_connect, now, &mut self.metrics.passive) {
            return Err(Some(why));
        }
        note_reached(&mut self.reached_passively, due);
        match self.scheduler.handle_passed(attempt, now) {
            Some(Passed { run, at, .. }) => {
                let next = self.scheduler.next_due(attempt.worker).map_or(0, Instant::as_nanos);
                slot.stats.record_passive(at.as_nanos(), run, next);
                self.stuck_local -= slot.unstick();
            }
            // Its report tells the rest.
            None => slot.stats.note_answer(Answer::Passive),
        }
        Ok(())
    }

    /// The lease that this worker's attempts ask: what it holds, while its pod's status is the one that it was found for.
    /// `None` where the attempt cannot even be described, or needs a name resolved: that is found out when it is launched.
    fn lease_of(&mut self, worker: WorkerIndex) -> Option<LeaseIndex> {
        let slot = self.slots.find(worker)?;
        if slot.is_lease_known && !cfg!(debug_assertions) {
            return slot.lease;
        }
        let target = self.scheduler.target(worker)?;
        let Handler::TcpSocket(tcp) = &target.spec.handler else { return None };
        let addr = address_of(tcp, target.pod_ip)?;
        let lease = self.leases.hold(slot.lease, &target, addr);
        debug_assert!(!slot.is_lease_known || slot.lease == Some(lease), "the status changed, and nobody said so");
        let slot = self.slots.find_mut(worker)?;
        slot.lease = Some(lease);
        slot.is_lease_known = true;
        Some(lease)
    }

    /// The attempt's connect to `peer` is about to be submitted. Returns whose listeners should take it, where that is of use.
    pub(super) fn take_off(&mut self, attempt: AttemptId, peer: SocketAddr) -> Option<Arc<Target>> {
        let lease = self.slots.find(attempt.worker)?.lease?;
        let current = self.slots.current(attempt)?;
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
        let Some(slot) = self.slots.find(attempt.worker) else { return };
        if slot.handler() != HandlerKind::Tcp {
            return;
        }
        let counts = &mut self.metrics.passive;
        let why = match (current.ticket, slot.lease) {
            (Some(ticket), Some(lease)) => self.leases.landed(lease, ticket, outcome, taken, now, counts),
            _ => current.why.unwrap_or_else(|| self.leases.why_none()),
        };
        if !matches!(outcome, Outcome::Error(_) | Outcome::Local(_)) {
            counts.real[why.index()] += 1;
            slot.stats.note_answer(Answer::Real(why));
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
                && let Some(slot) = self.slots.find_mut(worker)
            {
                slot.must_connect = true;
            }
        }
    }

    fn holds(&self, worker: WorkerIndex, lease: LeaseIndex) -> bool {
        self.slots.find(worker).is_some_and(|slot| slot.lease == Some(lease))
    }
}
