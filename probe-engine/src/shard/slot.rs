//! What a shard keeps of each of its workers beside what the scheduler does, and of the attempts being made.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use probe_core::action::{AttemptId, Passed, Report, Start, WorkerIndex};
use probe_core::outcome::Outcome;
use probe_core::spec::{Handler, ProbeSpec, Scheme};
use probe_core::time::Instant;
use slab::Slab;

use super::errand::{Errand, Kept};
use super::lease::{LeaseIndex, Ticket};
use super::metrics::{HandlerKind, Occupancy};
use super::waiting::Lane;
use crate::ebpf::Why;
use crate::prober::tcp;
use crate::results::ProbeStats;

/// No attempt, or no request.
const NONE: u32 = u32::MAX;

/// Of every worker, by its index, with the attempts that were asked for. Bound: one of each per worker.
#[derive(Default)]
pub(super) struct Slots {
    slots: Vec<Option<Slot>>,
    currents: Slab<Current>,
    kept: Slab<Kept>,
}

/// Of one worker. Small: a due time that is answered passively touches nothing else here.
pub(super) struct Slot {
    pub(super) stats: Arc<ProbeStats>,
    /// httpGet: place of the request of an earlier attempt.
    kept: u32,
    /// tcpSocket: what its newest attempt asked, or could have.
    pub(super) lease: Option<LeaseIndex>,
    /// Place of the attempt that was asked for last, until it ends.
    current: u32,
    pub(super) lane: Lane,
    /// Its lease is that of the instance and address as the pod's newest status has them.
    pub(super) is_lease_known: bool,
    /// It had nothing but local trouble for too long.
    pub(super) stuck: bool,
    /// The next attempt is not answered passively, whatever its lease says.
    pub(super) must_connect: bool,
}

const _: () = assert!(size_of::<Option<Slot>>() <= 24, "there is one for every probe");

/// An attempt from when it was asked for until it ends.
pub(super) struct Current {
    pub(super) start: Start,
    pub(super) began: Option<Instant>,
    /// Begun here, handed to the pool.
    pub(super) redirected: bool,
    /// tcpSocket: why it connects.
    pub(super) why: Option<Why>,
    /// Since its connect.
    pub(super) ticket: Option<Ticket>,
}

impl Current {
    /// Its start minus its due time; `None` of a further try of the same call, and before the start.
    pub(super) fn lateness(&self) -> Option<Duration> {
        (self.start.retry == 0).then_some(self.began? - self.start.due)
    }
}

impl Slots {
    /// A new worker in this place.
    pub(super) fn insert(&mut self, worker: WorkerIndex, slot: Slot) {
        let place = worker.0 as usize;
        if self.slots.len() <= place {
            self.slots.resize_with(place + 1, || None);
        }
        self.slots[place] = Some(slot);
    }

    /// The worker has ended, and its attempt with it.
    pub(super) fn remove(&mut self, worker: WorkerIndex) -> Option<Slot> {
        let slot = self.slots.get_mut(worker.0 as usize)?.take()?;
        self.currents.try_remove(slot.current as usize);
        self.kept.try_remove(slot.kept as usize);
        Some(slot)
    }

    pub(super) fn find(&self, worker: WorkerIndex) -> Option<&Slot> {
        self.slots.get(worker.0 as usize)?.as_ref()
    }

    pub(super) fn find_mut(&mut self, worker: WorkerIndex) -> Option<&mut Slot> {
        self.slots.get_mut(worker.0 as usize)?.as_mut()
    }

    /// The attempt that its worker asks for now, in place of any other.
    pub(super) fn begin(&mut self, start: Start, why: Option<Why>) {
        let Some(slot) = self.slots.get_mut(start.attempt.worker.0 as usize).and_then(Option::as_mut) else { return };
        let current = Current { start, began: None, redirected: false, why, ticket: None };
        match self.currents.get_mut(slot.current as usize) {
            Some(place) => *place = current,
            None => slot.current = self.currents.insert(current) as u32,
        }
    }

    /// `None` for one that is no longer its worker's, or has ended.
    pub(super) fn current(&mut self, attempt: AttemptId) -> Option<&mut Current> {
        let slot = self.find(attempt.worker)?;
        let current = self.currents.get_mut(slot.current as usize)?;
        (current.start.attempt == attempt).then_some(current)
    }

    /// Of the attempts that were asked for.
    pub(super) fn attempts(&self) -> Occupancy {
        Occupancy { used: self.currents.len() as u64, places: self.currents.capacity() as u64 }
    }

    /// It has ended. `None` as of [`Slots::current`].
    pub(super) fn end(&mut self, attempt: AttemptId) -> Option<Current> {
        self.current(attempt)?;
        let slot = self.find_mut(attempt.worker)?;
        let place = std::mem::replace(&mut slot.current, NONE);
        self.currents.try_remove(place as usize)
    }

    /// What an attempt does that is about to be made. `None` where its worker has ended.
    pub(super) fn errand(
        &mut self,
        worker: WorkerIndex,
        spec: &Arc<ProbeSpec>,
        pod_ip: Option<IpAddr>,
    ) -> Option<Result<Errand, Outcome>> {
        let slot = self.slots.get_mut(worker.0 as usize)?.as_mut()?;
        let place = std::mem::replace(&mut slot.kept, NONE);
        Some(Errand::with(spec, pod_ip, self.kept.try_remove(place as usize)))
    }

    /// The attempt is over: what the next one can use.
    pub(super) fn keep(&mut self, worker: WorkerIndex, errand: Option<Errand>) {
        let Some(slot) = self.slots.get_mut(worker.0 as usize).and_then(Option::as_mut) else { return };
        self.kept.try_remove(slot.kept as usize);
        slot.kept = errand.and_then(Errand::keep).map_or(NONE, |kept| self.kept.insert(kept) as u32);
    }
}

impl Slot {
    pub(super) fn new(stats: Arc<ProbeStats>, spec: &ProbeSpec) -> Self {
        let is_address = |host: &Option<Arc<str>>| tcp::ip_of(host.as_deref(), None).is_some();
        let lane = match &spec.handler {
            Handler::TcpSocket(tcp) if is_address(&tcp.host) => Lane::Ring,
            Handler::TcpSocket(_) => Lane::Pool(HandlerKind::Tcp),
            Handler::HttpGet(get) => match get.scheme {
                Scheme::Https => Lane::Pool(HandlerKind::Https),
                Scheme::Http if is_address(&get.host) => Lane::RingHttp,
                Scheme::Http => Lane::Pool(HandlerKind::Http),
            },
            Handler::Grpc(_) => Lane::Pool(HandlerKind::Grpc),
            Handler::Exec(_) => Lane::Pool(HandlerKind::Exec),
        };
        Self {
            stats,
            kept: NONE,
            lease: None,
            current: NONE,
            lane,
            is_lease_known: false,
            stuck: false,
            must_connect: false,
        }
    }

    /// Of its probe.
    pub(super) fn handler(&self) -> HandlerKind {
        self.lane.handler()
    }

    /// An attempt counted: whatever it was, local trouble alone does not keep the probe any more. 1 where it did.
    pub(super) fn unstick(&mut self) -> u64 {
        u64::from(std::mem::take(&mut self.stuck))
    }

    /// Counts a call of the prober that was not discarded.
    pub(super) fn record(&self, report: &Report) {
        let success = !matches!(report.outcome, Outcome::Failure(_));
        self.stats.record(success, report.duration_ns, report.at.as_nanos(), report.run);
    }

    /// The same of one that there is nothing more to tell of.
    pub(super) fn record_passed(&self, passed: &Passed) {
        self.stats.record(true, passed.duration_ns, passed.at.as_nanos(), passed.run);
    }
}
