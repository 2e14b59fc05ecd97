//! One place of the workers' slab, and what lives in it.
//!
//! A place is one cache line: all that a due time touches of a worker that is well. What it needs only while something is
//! due, in flight or in trouble is in a [`Busy`], of which there are as many as workers that are at work.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use crate::action::WorkerIndex;
use crate::schedule::Schedule;
use crate::spec::ProbeSpec;
use crate::time::Instant;
use crate::worker::Worker;

/// No place in a slab.
const NIL: u32 = u32::MAX;

/// A place: outlives its occupants, so that their attempts can be told apart.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) occupant: Option<Occupant>,
    /// Goes up with every attempt and when an occupant ends; attempts and queue entries that carry another are stale.
    pub(super) generation: u32,
}

const _: () = assert!(size_of::<Place>() == 64, "one cache line");

/// A worker with its grid.
#[derive(Clone)]
pub(super) struct Occupant {
    pub(super) worker: Worker,
    pub(super) spec: Arc<ProbeSpec>,
    pub(super) schedule: Schedule,
    /// Place in the pods' slab.
    pub(super) pod: u32,
    /// Place in [`Busies`], or [`NIL`].
    busy: u32,
    /// `spec.period_seconds`, which nearly every due time needs, and nothing else of the spec.
    period_seconds: u32,
    /// Position in `Pod::all_containers`.
    pub(super) container: u16,
    flags: u8,
}

/// What an occupant is besides what its worker is. One bit each.
#[derive(Clone, Copy)]
pub(super) enum Flag {
    /// The first step is behind it; before that (stagger) a trigger waits.
    Begun = 1,
    /// It has an entry in the ready queue.
    Queued = 2,
    /// An attempt is in flight.
    InFlight = 4,
    /// It ends with the attempt in flight.
    Stopping = 8,
    /// Its newest step saw nothing that a next one could see otherwise until the pod's status changes, and led to an
    /// attempt: the next one does, too, without looking.
    Steady = 16,
    /// A trigger came before the first step, which answers it. At the daemon's start that is every readiness probe: no
    /// [`Busy`] for that.
    TriggeredEarly = 32,
    /// Its newest call was a success of which there was nothing to tell, and so will the next one be if it is a success.
    Quiet = 64,
    /// It makes no attempts for a while: it has an entry in [`super::pause::Pauses`].
    Paused = 128,
}

/// See the module.
#[derive(Clone, Copy, Default)]
pub(super) struct Busy {
    /// A due time that has passed and has no step yet: the one tick that a ticker holds.
    pub(super) tick: Option<Instant>,
    /// A manual trigger that has no step yet, and since when it could have had one.
    pub(super) trigger: Option<Instant>,
    /// Somebody asked for an attempt: the next report goes out, whatever it says.
    pub(super) asked: bool,
    /// The newest call of the prober.
    pub(super) call: Call,
    /// Nothing but local trouble since.
    pub(super) local: Option<Local>,
}

/// One call of the prober: up to three tries.
#[derive(Clone, Copy, Default)]
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

/// A slab of [`Busy`]. Bound: one per worker.
#[derive(Clone, Default)]
pub(super) struct Busies {
    all: Vec<Busy>,
    free: Vec<u32>,
}

impl Busies {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.all.len() - self.free.len()
    }

    /// Of this occupant, if it has one.
    pub(super) fn find(&self, occupant: &Occupant) -> Option<&Busy> {
        self.all.get(occupant.busy as usize)
    }

    /// The same, to change it.
    pub(super) fn find_mut(&mut self, occupant: &Occupant) -> Option<&mut Busy> {
        self.all.get_mut(occupant.busy as usize)
    }

    /// Of this occupant, which gets one if it has none.
    pub(super) fn of(&mut self, occupant: &mut Occupant) -> &mut Busy {
        if occupant.busy == NIL {
            occupant.busy = self.free.pop().unwrap_or_else(|| {
                self.all.push(Busy::default());
                self.all.len() as u32 - 1
            });
        }
        &mut self.all[occupant.busy as usize]
    }

    /// Takes it back where there is nothing in it that matters. The occupant has neither an attempt nor anything due.
    pub(super) fn tidy(&mut self, occupant: &mut Occupant) {
        let Some(busy) = self.find(occupant) else { return };
        debug_assert!(occupant.is_idle() && busy.tick.is_none() && busy.trigger.is_none(), "it is at work still");
        if !busy.asked && busy.local.is_none() {
            self.take_back(occupant);
        }
    }

    /// Takes it back, whatever is in it.
    pub(super) fn take_back(&mut self, occupant: &mut Occupant) {
        let index = core::mem::replace(&mut occupant.busy, NIL);
        if let Some(busy) = self.all.get_mut(index as usize) {
            *busy = Busy::default();
            self.free.push(index);
        }
    }
}

impl Occupant {
    pub(super) fn new(worker: Worker, spec: Arc<ProbeSpec>, schedule: Schedule, pod: u32, container: u16) -> Self {
        let period_seconds = spec.period_seconds;
        Self { worker, spec, schedule, pod, busy: NIL, period_seconds, container, flags: 0 }
    }

    /// The distance of two due times.
    pub(super) fn period(&self) -> Duration {
        Duration::from_secs(self.period_seconds.into())
    }

    pub(super) fn has(&self, flag: Flag) -> bool {
        self.flags & flag as u8 != 0
    }

    pub(super) fn set(&mut self, flag: Flag) {
        self.flags |= flag as u8;
    }

    /// Whether it was set.
    pub(super) fn clear(&mut self, flag: Flag) -> bool {
        let was = self.has(flag);
        self.flags &= !(flag as u8);
        was
    }

    /// Nothing has come up since its last step, which led to an attempt and would again, and of whose success there would be
    /// nothing to tell.
    pub(super) fn is_well(&self) -> bool {
        self.flags == Flag::Begun as u8 | Flag::Steady as u8 | Flag::Quiet as u8 && self.busy == NIL
    }

    /// It has no attempt and no place in the queue, and may be queued.
    pub(super) fn is_idle(&self) -> bool {
        self.flags & (Flag::Queued as u8 | Flag::InFlight as u8 | Flag::Stopping as u8) == 0
    }
}

impl Busy {
    pub(super) fn is_waiting_locally(&self) -> bool {
        self.local.is_some_and(|local| local.waiting)
    }
}
