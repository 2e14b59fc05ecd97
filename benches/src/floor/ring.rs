//! The bare loop over io_uring: socket, connect, whatever the protocol says, close.
//!
//! **Invariant:** a slot has one request in flight, or a send and the recv linked to it, which have one completion between
//! them. Nothing refers to its address and buffers from the push until that completion, and slots are leaked, so what
//! the kernel may touch is always there.
#![expect(unsafe_code, reason = "io_uring takes raw pointers")]

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, SubmissionQueue, opcode, squeue};
use nix::libc;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{Args, CLOSED_LOOP_LEN, Close, Floor, IN_FLIGHT_MAX, Reap, Tally};
use crate::usage::now;

/// In user_data: of a send. It completes only where it has failed, and then the recv linked to it does not
/// (`req_set_fail`, io_uring/io_uring.h).
const SEND: u64 = 1 << 32;
/// As the probes': an attempt that takes longer is ended.
const TIMEOUT: Duration = Duration::from_secs(1);
/// How often that is looked after.
const TIMEOUT_LOOK: Duration = Duration::from_millis(100);

/// What follows.
pub(super) enum Next {
    /// Send what was written into the buffer, then receive.
    Send,
    Receive,
    /// The attempt is over: did it succeed?
    End(bool),
}

/// What is said on a connection.
pub(super) trait Conversation: Default + 'static {
    type Target;
    /// Bytes that a recv may bring.
    const RECV_BYTES: usize;
    fn connected(&mut self, target: &Self::Target, send: &mut Vec<u8>) -> Next;
    /// Nothing in `bytes`: the peer has closed.
    fn received(&mut self, bytes: &[u8], send: &mut Vec<u8>) -> Next;
}

struct Slot<C> {
    socket: Option<Socket>,
    connected: bool,
    begun: Instant,
    target: usize,
    peer: SockAddr,
    conversation: C,
    send: Vec<u8>,
    recv: Box<[u8]>,
}

/// See the module.
pub(super) struct Connections<C: Conversation> {
    ring: IoUring,
    /// Completions that end a wait.
    want: usize,
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
        let want = if args.closed || args.reap == Reap::Ready { 1 } else { 2 * IN_FLIGHT_MAX };
        let (slots, free, tally) = (Vec::new(), Vec::new(), Tally::default());
        Ok(Self { ring, want, close: args.close, targets, slots, free, tally, looked: now() })
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
        let (fd, peer, begun) = (Fd(socket.as_raw_fd()), SockAddr::from(peer), now());
        let index = self.free.pop().unwrap_or(self.slots.len());
        if index == self.slots.len() {
            let (conversation, send, recv) = (C::default(), Vec::new(), vec![0; C::RECV_BYTES].into());
            let (socket, peer) = (None, peer.clone());
            let slot = Slot { socket, connected: false, begun, target, peer, conversation, send, recv };
            self.slots.push(Box::leak(Box::new(slot)));
        }
        let slot = &mut *self.slots[index];
        (slot.socket, slot.peer, slot.target) = (Some(socket), peer, target);
        (slot.connected, slot.begun) = (false, begun);
        let connect = opcode::Connect::new(fd, slot.peer.as_ptr().cast(), slot.peer.len()).build();
        push(&mut self.ring.submission(), &connect.user_data(index as u64));
        self.tally.in_flight += 1;
        Ok(())
    }

    fn wait(&mut self, until: Instant) -> io::Result<()> {
        let left = until.saturating_duration_since(now());
        let timespec = Timespec::new().sec(left.as_secs()).nsec(left.subsec_nanos());
        let entered = self.ring.submitter().submit_with_args(self.want, &SubmitArgs::new().timespec(&timespec));
        if let Err(error) = entered
            && !matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR))
        {
            return Err(error);
        }
        let (_, mut requests, completions) = self.ring.split();
        for completion in completions {
            let index = (completion.user_data() & !SEND) as usize;
            let slot = &mut *self.slots[index];
            let target = &self.targets[slot.target].1;
            let succeeded = match usize::try_from(completion.result()) {
                Ok(len) if completion.user_data() & SEND == 0 => slot.step(len, target, &mut requests, index as u64),
                _ => Some(false),
            };
            let Some(succeeded) = succeeded else { continue };
            self.tally.failed += u64::from(!succeeded);
            slot.socket = None;
            self.free.push(index);
            self.tally.in_flight -= 1;
            self.tally.ended += 1;
        }
        drop(requests);
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

impl<C: Conversation> Slot<C> {
    /// After a completion: the next request, or the end.
    fn step(&mut self, len: usize, target: &C::Target, ring: &mut SubmissionQueue<'_>, index: u64) -> Option<bool> {
        let Some(socket) = &self.socket else { return Some(false) };
        let fd = Fd(socket.as_raw_fd());
        self.send.clear();
        let next = match std::mem::replace(&mut self.connected, true) {
            false => self.conversation.connected(target, &mut self.send),
            true => self.conversation.received(&self.recv[..len], &mut self.send),
        };
        match next {
            Next::End(succeeded) => return Some(succeeded),
            Next::Send => {
                let flags = squeue::Flags::IO_LINK | squeue::Flags::SKIP_SUCCESS;
                let send = opcode::Send::new(fd, self.send.as_ptr(), self.send.len() as u32);
                let send = send.flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL).build().flags(flags);
                push(ring, &send.user_data(SEND | index));
            }
            Next::Receive => {}
        }
        let recv = opcode::Recv::new(fd, self.recv.as_mut_ptr(), self.recv.len() as u32).build();
        push(ring, &recv.user_data(index));
        None
    }
}

fn push(ring: &mut SubmissionQueue<'_>, entry: &squeue::Entry) {
    // SAFETY: every pointer in `entry` is into a leaked slot, which nothing refers to until the slot's request has
    // completed (the module's invariant).
    let pushed = unsafe { ring.push(entry) };
    pushed.expect("two places for each slot");
}
