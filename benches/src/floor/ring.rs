//! The bare loop over io_uring: socket, connect, whatever the protocol says, close.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use io_uring::IoUring;
use io_uring::types::{SubmitArgs, Timespec};
use nix::libc;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::pace::{CLOSED_LOOP_LEN, Floor, IN_FLIGHT_MAX, Tally};
use super::slot::{Conversation, SEND, Slot};
use super::{Args, Close, Reap};
use crate::usage::now;

/// More completions than there can be: a wait for as many ends with its time.
const EVERYTHING: usize = 4 * IN_FLIGHT_MAX;
/// As the probes': an attempt that takes longer is ended.
const TIMEOUT: Duration = Duration::from_secs(1);
/// How often that is looked after.
const TIMEOUT_LOOK: Duration = Duration::from_millis(100);

/// See the module.
pub(super) struct Connections<C: Conversation> {
    ring: IoUring,
    reap: Reap,
    close: Close,
    targets: Vec<(SocketAddr, C::Target)>,
    slots: Vec<&'static mut Slot<C>>,
    free: Vec<usize>,
    tally: Tally,
    looked: Instant,
}

impl<C: Conversation> Connections<C> {
    pub(super) fn new(args: &Args, targets: Vec<(SocketAddr, C::Target)>) -> io::Result<Self> {
        let in_flight_max = if args.closed { CLOSED_LOOP_LEN } else { IN_FLIGHT_MAX };
        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_coop_taskrun().setup_defer_taskrun().setup_taskrun_flag();
        // A send and a recv each: the queues are never full.
        let ring = builder.build(2 * in_flight_max as u32)?;
        let reap = if args.closed { Reap::Ready } else { args.reap };
        let (slots, free, tally) = (Vec::new(), Vec::new(), Tally::default());
        Ok(Self { ring, reap, close: args.close, targets, slots, free, tally, looked: now() })
    }

    /// Submits, and waits for so many completions, but not longer than this.
    fn enter(&mut self, want: usize, wait: Duration) -> io::Result<()> {
        let timespec = Timespec::new().sec(wait.as_secs()).nsec(wait.subsec_nanos());
        match self.ring.submitter().submit_with_args(want, &SubmitArgs::new().timespec(&timespec)) {
            Err(error) if !matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR)) => Err(error),
            _ => Ok(()),
        }
    }

    fn take(&mut self) {
        let (_, mut requests, completions) = self.ring.split();
        for completion in completions {
            let index = (completion.user_data() & !SEND) as usize;
            let slot = &mut *self.slots[index];
            let target = &self.targets[slot.target].1;
            let succeeded = match usize::try_from(completion.result()) {
                Ok(len) if completion.user_data() & SEND == 0 => slot.step(len, target, &mut requests),
                _ => Some(false),
            };
            let Some(succeeded) = succeeded else { continue };
            self.tally.failed += u64::from(!succeeded);
            slot.socket = None;
            self.free.push(index);
            self.tally.in_flight -= 1;
            self.tally.ended += 1;
        }
    }

    /// Ends what takes too long: its request then completes with an error.
    fn end_late(&self, at: Instant) {
        for slot in self.slots.iter().filter(|slot| at - slot.begun > TIMEOUT) {
            // A socket that the peer has closed is as good as shut down.
            let _ = slot.socket.as_ref().map(|socket| socket.shutdown(Shutdown::Both));
        }
    }
}

impl<C: Conversation> Floor for Connections<C> {
    fn start(&mut self, target: usize) -> io::Result<()> {
        let peer = self.targets[target].0;
        let kind = Type::STREAM.nonblocking().cloexec();
        let socket = Socket::new_raw(Domain::for_address(peer), kind, Some(Protocol::TCP))?;
        if self.close == Close::Rst {
            socket.set_linger(Some(Duration::ZERO))?;
        }
        let (peer, begun) = (SockAddr::from(peer), now());
        let index = self.free.pop().unwrap_or(self.slots.len());
        if index == self.slots.len() {
            self.slots.push(Slot::leak(index, peer.clone(), begun));
        }
        let slot = &mut *self.slots[index];
        slot.target = target;
        slot.connect(socket, peer, begun, &mut self.ring.submission());
        self.tally.in_flight += 1;
        Ok(())
    }

    fn wait(&mut self, until: Instant) -> io::Result<()> {
        if self.reap == Reap::Tick && self.tally.in_flight > 0 {
            // On the loopback most connects are done when they are submitted.
            self.enter(1, Duration::ZERO)?;
            self.take();
            self.enter(EVERYTHING, until.saturating_duration_since(now()))?;
        } else {
            self.enter(1, until.saturating_duration_since(now()))?;
        }
        self.take();
        if until > self.looked + TIMEOUT_LOOK {
            self.looked = until;
            self.end_late(now());
        }
        Ok(())
    }

    fn tally(&self) -> Tally {
        self.tally
    }
}
