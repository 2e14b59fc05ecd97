//! The ring buffer of listener events: what changed, for the watch. Leases rest on the counters, never on this.
//!
//! Bound: [`crate::limits::EVENT_RING_BYTES`]; full, the program counts the loss ([`super::counters::Drops`]).

use std::os::fd::{AsFd, BorrowedFd};

use aya::maps::{MapData, RingBuf};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use probe_ebpf::ListenerEvent;

/// See the module. One reader: the watch.
pub struct EventRing {
    ring: RingBuf<MapData>,
    strange: u64,
}

impl std::fmt::Debug for EventRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventRing").field("strange", &self.strange).finish_non_exhaustive()
    }
}

impl EventRing {
    pub(super) const fn new(ring: RingBuf<MapData>) -> Self {
        Self { ring, strange: 0 }
    }

    /// Readable while there are records, for poll(2) and epoll(7).
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }

    /// Hands over the records that are there, oldest first, at most `max`; how many it took. Fewer than `max`: none was
    /// left, or the next is still being written on another CPU, and hides those behind it: [`EventRing::is_empty`] tells.
    ///
    /// A burst makes [`EventRing::fd`] wake a sleeper once: whoever took any looks again [`WAKE_PAUSE_NS`] later, and
    /// sleeps on the descriptor alone only after a look that found none.
    ///
    /// [`WAKE_PAUSE_NS`]: probe_ebpf::WAKE_PAUSE_NS
    pub fn drain(&mut self, max: usize, mut each: impl FnMut(ListenerEvent)) -> usize {
        let mut taken = 0;
        while taken < max {
            let Some(record) = self.ring.next() else { break };
            taken += 1;
            match ListenerEvent::from_bytes(&record) {
                Some(event) => each(event),
                None => self.strange += 1,
            }
        }
        taken
    }

    /// No record is there or being written: every event whose counter was read before this call has been handed over. One
    /// system call.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        // The kernel answers by the positions (`ringbuf_avail_data_sz`), which a reservation moves before its record can be
        // read. Anything else than "nothing there" is no proof.
        let mut ready = [PollFd::new(self.fd(), PollFlags::POLLIN)];
        matches!(poll(&mut ready, PollTimeout::ZERO), Ok(0))
    }

    /// Records of another size than ours, skipped: the object and the daemon would not belong together.
    #[must_use]
    pub const fn strange(&self) -> u64 {
        self.strange
    }
}
