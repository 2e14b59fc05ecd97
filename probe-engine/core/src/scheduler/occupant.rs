//! One place of the workers' slab, and what lives in it.

use alloc::sync::Arc;
use core::time::Duration;

use crate::action::WorkerIndex;
use crate::schedule::Schedule;
use crate::spec::ProbeSpec;
use crate::time::Instant;
use crate::worker::Worker;

/// A place: outlives its occupants, so that their attempts can be told apart.
pub(super) struct Place {
    /// Goes up with every attempt and when an occupant ends; attempts and queue entries that carry another are stale.
    pub(super) generation: u32,
    pub(super) occupant: Option<Occupant>,
}

/// A worker with its grid, its attempt and its local trouble.
pub(super) struct Occupant {
    pub(super) worker: Worker,
    pub(super) spec: Arc<ProbeSpec>,
    /// Place in the pods' slab.
    pub(super) pod: u32,
    /// Position in `Pod::all_containers`.
    pub(super) container: u16,
    /// The first step is behind it; before that (stagger) a trigger waits.
    pub(super) begun: bool,
    /// It has an entry in the ready queue.
    pub(super) queued: bool,
    pub(super) in_flight: bool,
    /// It ends with the attempt in flight.
    pub(super) stopping: bool,
    pub(super) schedule: Schedule,
    /// A due time that has passed and has no step yet: the one tick that a ticker holds.
    pub(super) tick: Option<Instant>,
    /// A manual trigger that has no step yet, and since when it could have had one.
    pub(super) trigger: Option<Instant>,
    /// The newest call of the prober.
    pub(super) call: Call,
    /// Nothing but local trouble since.
    pub(super) local: Option<Local>,
}

/// One call of the prober: up to three tries.
#[derive(Clone, Copy)]
pub(super) struct Call {
    pub(super) due: Instant,
    /// When the first try was started; until it is, when it was asked for.
    pub(super) started_at: Instant,
    pub(super) started: bool,
    pub(super) retry: u8,
}

/// A run of local outcomes.
#[derive(Clone, Copy)]
pub(super) struct Local {
    /// Start of the first attempt that was spoiled.
    pub(super) since: Instant,
    pub(super) backoff: Duration,
    /// No attempt before.
    pub(super) until: Instant,
    /// `until` has not come.
    pub(super) waiting: bool,
    /// A due time has passed in this wait; the attempt after the wait answers it, further ones are missed.
    pub(super) absorbed: bool,
    /// It went on for too long, and that was told.
    pub(super) told: bool,
}

/// An entry of the ready queue: earliest due time first, then the lower place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Due {
    pub(super) at: Instant,
    pub(super) worker: WorkerIndex,
    pub(super) generation: u32,
}

impl Occupant {
    /// When its timer has to fire next.
    pub(super) fn deadline(&self) -> Instant {
        let next = self.schedule.next();
        match &self.local {
            Some(local) if local.waiting => next.min(local.until),
            _ => next,
        }
    }

    /// It has no attempt and no place in the queue, and may be queued.
    pub(super) fn is_idle(&self) -> bool {
        !self.queued && !self.in_flight && !self.stopping
    }

    pub(super) fn is_waiting_locally(&self) -> bool {
        self.local.is_some_and(|local| local.waiting)
    }
}
