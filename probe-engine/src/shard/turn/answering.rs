//! tcpSocket attempts: from kernel state where a lease stands, else by a connection that may earn one.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;

use probe_core::action::{AttemptId, Passed, Start, WorkerIndex};
use probe_core::outcome::Outcome;
use probe_core::spec::Handler;
use probe_core::time::Instant;

use super::super::errand::address_of;
use super::super::kernel::Kernel;
use super::super::lease::{Decision, LeaseIndex, Part};
use super::super::slot::Current;
use super::{HandlerKind, Shard};
use crate::ebpf::{Answer, Target, Why};

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
        match self.reached_passively.last_mut().filter(|(last, _)| *last == due) {
            Some((_, count)) => *count += 1,
            None => self.reached_passively.push((due, 1)),
        }
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

    /// Reads of all attempts that are about to be asked for what a passive answer of each will: so the processor fetches the
    /// like of many from memory at a time, where the answers, one after the other, would wait for each.
    pub(super) fn read_ahead(&self) {
        if !self.leases.is_on() {
            return;
        }
        let slots = || self.scheduler.starting().filter_map(|worker| self.slots.find(worker));
        let leases = || slots().filter_map(|slot| slot.lease);
        slots().for_each(|slot| _ = black_box(slot.lease));
        slots().for_each(|slot| _ = black_box(slot.stats.run()));
        leases().for_each(|lease| self.leases.read_ahead(lease, Part::Lease));
        leases().for_each(|lease| self.leases.read_ahead(lease, Part::Target));
        leases().for_each(|lease| self.leases.read_ahead(lease, Part::Counter));
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
