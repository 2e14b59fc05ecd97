//! One connection of the bare loop: its memory, and what is said on it.
//!
//! **Invariant:** a slot has one request in flight, or a send and the recv linked to it, which have one completion between
//! them. From the push until that completion nobody writes its address or touches its buffers, and slots are leaked, so
//! what the kernel may touch is always there.
#![expect(unsafe_code, reason = "io_uring takes raw pointers")]

use std::os::fd::AsRawFd;
use std::time::Instant;

use io_uring::types::Fd;
use io_uring::{SubmissionQueue, opcode, squeue};
use nix::libc;
use socket2::{SockAddr, Socket};

/// In user_data: of a send. It completes only where it has failed, and then the recv linked to it does not
/// (`req_set_fail`, io_uring/io_uring.h).
pub(super) const SEND: u64 = 1 << 32;

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

/// See the module. Index: its place in the loop's table, and the user_data of its requests.
pub(super) struct Slot<C> {
    index: u64,
    pub(super) socket: Option<Socket>,
    connected: bool,
    pub(super) begun: Instant,
    pub(super) target: usize,
    peer: SockAddr,
    conversation: C,
    send: Vec<u8>,
    recv: Box<[u8]>,
}

impl<C: Conversation> Slot<C> {
    /// Leaked, once for each attempt that is in flight at a time.
    pub(super) fn leak(index: usize, peer: SockAddr, begun: Instant) -> &'static mut Self {
        let (conversation, send, recv) = (C::default(), Vec::new(), vec![0; C::RECV_BYTES].into());
        let (index, socket, connected, target) = (index as u64, None, false, 0);
        Box::leak(Box::new(Self { index, socket, connected, begun, target, peer, conversation, send, recv }))
    }

    /// Begins an attempt.
    pub(super) fn connect(&mut self, socket: Socket, peer: SockAddr, begun: Instant, ring: &mut SubmissionQueue<'_>) {
        (self.connected, self.begun, self.peer) = (false, begun, peer);
        let connect = opcode::Connect::new(Fd(socket.as_raw_fd()), self.peer.as_ptr().cast(), self.peer.len());
        self.socket = Some(socket);
        push(ring, &connect.build().user_data(self.index));
    }

    /// After a completion: the next request, or the end.
    pub(super) fn step(&mut self, len: usize, target: &C::Target, ring: &mut SubmissionQueue<'_>) -> Option<bool> {
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
                push(ring, &send.user_data(SEND | self.index));
            }
            Next::Receive => {}
        }
        let recv = opcode::Recv::new(fd, self.recv.as_mut_ptr(), self.recv.len() as u32).build();
        push(ring, &recv.user_data(self.index));
        None
    }
}

fn push(ring: &mut SubmissionQueue<'_>, entry: &squeue::Entry) {
    // SAFETY: every pointer in `entry` is into a leaked slot, whose address nobody writes and whose buffers nobody touches
    // until the slot's request has completed (the module's invariant).
    let pushed = unsafe { ring.push(entry) };
    pushed.expect("two places for each slot");
}
