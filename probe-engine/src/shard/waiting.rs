//! Attempts that are due and have no place yet.
//!
//! First in, first out within each lane, which is due order, since the scheduler asks for the earliest first. Bound: a
//! worker has one attempt at most, so there are never more entries than workers.

use std::collections::VecDeque;

use probe_core::action::Start;

use super::metrics::HandlerKind;
use crate::prober::pool::Job;

/// Which bound an attempt waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Attempts in flight on the ring.
    Ring,
    /// The same, and httpGet among them.
    RingHttp,
    /// The pool's lane of this handler.
    Pool(HandlerKind),
}

impl Lane {
    /// Whose attempts it is for.
    #[must_use]
    pub fn handler(self) -> HandlerKind {
        match self {
            Lane::Ring => HandlerKind::Tcp,
            Lane::RingHttp => HandlerKind::Http,
            Lane::Pool(handler) => handler,
        }
    }
}

/// See the module.
#[derive(Default)]
pub struct Waiting {
    ring: VecDeque<Start>,
    ring_http: VecDeque<Start>,
    /// One per handler, so that a full lane of the pool holds up no other.
    pool: [VecDeque<Job>; HandlerKind::ALL.len()],
    urgent: VecDeque<Start>,
}

impl Waiting {
    /// None waits in this lane.
    #[must_use]
    pub fn is_lane_empty(&self, lane: Lane) -> bool {
        match lane {
            Lane::Ring => self.ring.is_empty(),
            Lane::RingHttp => self.ring_http.is_empty(),
            Lane::Pool(handler) => self.pool[handler.index()].is_empty(),
        }
    }

    /// None waits for the pool.
    #[must_use]
    pub fn is_pool_empty(&self) -> bool {
        self.pool.iter().all(VecDeque::is_empty)
    }

    /// [`Waiting::pop_ring`] would give one.
    #[must_use]
    pub fn has_ring(&self, http_allowed: bool) -> bool {
        !self.ring.is_empty() || (http_allowed && !self.ring_http.is_empty())
    }

    /// An urgent one waits.
    #[must_use]
    pub fn has_urgent(&self) -> bool {
        !self.urgent.is_empty()
    }

    /// Attempts waiting, all in all.
    #[must_use]
    pub fn attempts_len(&self) -> usize {
        let pool: usize = self.pool.iter().map(VecDeque::len).sum();
        self.ring.len() + self.ring_http.len() + self.urgent.len() + pool
    }

    /// Waits for the ring.
    pub fn push_ring(&mut self, start: Start, is_http: bool) {
        if is_http { self.ring_http.push_back(start) } else { self.ring.push_back(start) }
    }

    /// Waits to be made alone.
    pub fn push_urgent(&mut self, start: Start) {
        self.urgent.push_back(start);
    }

    /// Waits for the pool.
    pub fn push_pool(&mut self, job: Job) {
        self.pool[job.handler.index()].push_back(job);
    }

    /// Did not get its place: the first of its lane again.
    pub fn unpop_pool(&mut self, job: Job) {
        self.pool[job.handler.index()].push_front(job);
    }

    /// The next of a lane of the pool.
    pub fn pop_pool(&mut self, handler: HandlerKind) -> Option<Job> {
        self.pool[handler.index()].pop_front()
    }

    /// The next urgent one.
    pub fn pop_urgent(&mut self) -> Option<Start> {
        self.urgent.pop_front()
    }

    /// The earliest due one for the ring; httpGet only where it is allowed.
    pub fn pop_ring(&mut self, http_allowed: bool) -> Option<Start> {
        let http_due = self.ring_http.front().filter(|_| http_allowed).map(|start| start.due);
        match (self.ring.front().map(|start| start.due), http_due) {
            (Some(due), Some(http_due)) if http_due < due => self.ring_http.pop_front(),
            (Some(_), _) => self.ring.pop_front(),
            (None, Some(_)) => self.ring_http.pop_front(),
            (None, None) => None,
        }
    }

    /// Forgets all of them: the shard ends.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}
