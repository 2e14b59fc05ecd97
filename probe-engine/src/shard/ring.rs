//! [`Kernel`] over io_uring, and TCP_INFO: the shard's only door to unsafe code.
//!
//! The ring is made on the thread that uses it (SINGLE_ISSUER). Under DEFER_TASKRUN completions are made only in an
//! enter with GETEVENTS, about 20 an enter, so every [`Kernel::flush`] asks for them and the turn calls it
//! until nothing comes.
//!
//! **Invariant:** what the kernel may read or write (buffers, addresses, the waker's counter) is owned by an entry
//! of `ops` (or by `waker`) from before its submission until after its completion was reaped; `Drop` waits for
//! that, and leaks the memory rather than free it early. So a caller that closes too early, cancels what is not
//! there or uses a token twice gets wrong completions, never wrong memory.
#![expect(unsafe_code, reason = "io_uring takes raw pointers; TCP_INFO has no safe wrapper")]

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::time::Duration;

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, opcode, squeue};
use slab::Slab;
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, SockRef, Socket, Type};

use super::kernel::{CloseMode, Completion, ConnectInfo, Full, Kernel, Reserve, SocketId, Waker};
use super::token::Token;
use crate::limits;
use crate::prober::errno;

/// user_data of the waker's read. No operation has it: their upper halves count from 0, their lower ones are slab keys.
const WAKER: u64 = u64::MAX;

/// user_data of every cancel request; their own completions say nothing that the cancelled one's does not.
const CANCEL: u64 = u64::MAX - 1;

/// Operations of one socket at once: a send and a recv. More: the submission is refused as [`Full`].
const OPS_PER_SOCKET_MAX: usize = 2;

/// How long `Drop` waits for the last completions before it leaks what they may still touch.
const DROP_WAIT: Duration = Duration::from_secs(2);

/// Why there is no ring.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// io_uring_setup(2) failed.
    #[error("io_uring_setup: {source}; {}", setup_remedy(.source))]
    Setup {
        /// Its errno.
        source: io::Error,
    },
    /// The kernel's io_uring lacks what the shard is built on.
    #[error("io_uring here has no {0}; Linux 5.11 or later has it")]
    Feature(&'static str),
}

/// The setup flags that the kernel accepted, by name, best first.
pub type SetupFlags = &'static [&'static str];

/// See the module.
pub struct Ring {
    ring: IoUring,
    setup: SetupFlags,
    sockets: Slab<Endpoint>,
    ops: Slab<Operation>,
    generation: u32,
    /// Operations to cancel that the submission queue had no place for.
    cancels_waiting: Vec<u64>,
    addresses_spare: Vec<Held<SockAddrStorage>>,
    waker: Waker,
    waker_count: Held<u64>,
    waker_armed: bool,
    reserve: Reserve,
}

struct Endpoint {
    socket: Socket,
    /// user_data of the operations that were not reaped; 0 = none (generations count from 1).
    pending: [u64; OPS_PER_SOCKET_MAX],
    /// Closed by the caller while some were.
    closing: bool,
}

impl Endpoint {
    fn is_pending(&self) -> bool {
        self.pending.iter().any(|user_data| *user_data != 0)
    }

    fn replace(&mut self, from: u64, to: u64) -> bool {
        let place = self.pending.iter_mut().find(|user_data| **user_data == from);
        place.map(|place| *place = to).is_some()
    }
}

struct Operation {
    user_data: u64,
    token: Token,
    socket: SocketId,
    held: Memory,
}

/// What the kernel may touch on behalf of an operation.
enum Memory {
    /// The storage alone, which is laid out as C's: a `SockAddr` has its length beside it, in whatever order.
    Address(Held<SockAddrStorage>),
    Buffer(Held<[u8]>),
}

/// A box whose content the kernel may touch: nothing of Rust's refers to it until it is a box again.
struct Held<T: ?Sized>(NonNull<T>);

impl<T: ?Sized> Held<T> {
    fn new(boxed: Box<T>) -> Self {
        Self(NonNull::from(Box::leak(boxed)))
    }

    /// For a kernel that is done with it, or was never told of it.
    fn into_box(self) -> Box<T> {
        let pointer = self.0;
        mem::forget(self);
        // SAFETY: `pointer` came from `Box::leak` in `new`; `forget` above keeps `drop` from making a second box of it.
        unsafe { Box::from_raw(pointer.as_ptr()) }
    }
}

impl<T: ?Sized> Drop for Held<T> {
    fn drop(&mut self) {
        // SAFETY: `self.0` came from `Box::leak` in `new`, and `into_box` forgets `self`, so this runs once. That the
        // kernel is done with it is `Ring`'s invariant: entries are dropped when reaped, or by `Ring::drop` after the
        // last.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

impl Ring {
    /// A ring for the calling thread, with the best set of flags that the kernel takes.
    pub fn new(waker: &Waker) -> Result<Self, RingError> {
        let (ring, setup) = build()?;
        let params = ring.params();
        for (there, name) in [
            (params.is_feature_nodrop(), "FEAT_NODROP"),
            (params.is_feature_fast_poll(), "FEAT_FAST_POLL"),
            (params.is_feature_ext_arg(), "FEAT_EXT_ARG"),
        ] {
            if !there {
                return Err(RingError::Feature(name));
            }
        }
        Ok(Self {
            ring,
            setup,
            sockets: Slab::new(),
            ops: Slab::new(),
            generation: 0,
            cancels_waiting: Vec::new(),
            addresses_spare: Vec::new(),
            waker: waker.clone(),
            waker_count: Held::new(Box::new(0)),
            waker_armed: false,
            reserve: Reserve::new(),
        })
    }

    /// Which setup flags are in use.
    #[must_use]
    pub fn setup(&self) -> SetupFlags {
        self.setup
    }

    /// Puts an operation into the submission queue; gives its memory back where there is no place.
    fn submit(
        &mut self,
        token: Token,
        socket: SocketId,
        held: Memory,
        entry: impl FnOnce(Fd) -> squeue::Entry,
    ) -> Result<(), Memory> {
        let key = self.ops.vacant_key();
        let generation = self.generation.wrapping_add(1).max(1);
        let user_data = (u64::from(generation) << 32) | key as u64;
        let Some(endpoint) = self.sockets.get_mut(socket.0 as usize).filter(|endpoint| !endpoint.closing) else {
            return Err(held);
        };
        if !endpoint.replace(0, user_data) {
            return Err(held);
        }
        let entry = entry(Fd(endpoint.socket.as_raw_fd())).user_data(user_data);
        self.generation = generation;
        self.ops.insert(Operation { user_data, token, socket, held });
        if self.push(&entry) {
            return Ok(());
        }
        self.sockets[socket.0 as usize].replace(user_data, 0);
        Err(self.ops.remove(key).held)
    }

    /// Returns false when the submission queue stays full.
    fn push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: all pointers in `entry` are into memory held by `ops` or `waker_count`, until its completion is
        // reaped (the module's invariant); a cancel entry has none.
        if unsafe { self.ring.submission().push(entry) }.is_ok() {
            return true;
        }
        // Full: hand over what is there. An error shows as a queue that is still full.
        let _ = self.enter(None);
        // SAFETY: as above.
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }

    fn push_cancel(&mut self, user_data: u64) {
        let entry = opcode::AsyncCancel::new(user_data).build().user_data(CANCEL);
        if !self.push(&entry) {
            self.cancels_waiting.push(user_data);
        }
    }

    fn arm_waker(&mut self) {
        if self.waker_armed {
            return;
        }
        let fd = Fd(self.waker.fd().as_fd().as_raw_fd());
        let count = self.waker_count.0.as_ptr().cast::<u8>();
        let entry = opcode::Read::new(fd, count, size_of::<u64>() as u32).build().user_data(WAKER);
        self.waker_armed = self.push(&entry);
    }

    /// Submits, runs what the kernel deferred, and waits for one completion for at most `wait`.
    fn enter(&mut self, wait: Option<Duration>) -> io::Result<()> {
        let submit = self.ring.submission().len() as u32;
        let wait = wait.unwrap_or(Duration::ZERO);
        let timespec = Timespec::new().sec(wait.as_secs()).nsec(wait.subsec_nanos());
        let args = SubmitArgs::new().timespec(&timespec);
        let want = u32::from(!wait.is_zero());
        let flags = (EnterFlags::GETEVENTS | EnterFlags::EXT_ARG).bits();
        // SAFETY: `args` is the io_uring_getevents_arg that EXT_ARG promises, and `timespec`, which it points to,
        // outlives the call. The entries submitted are covered by `push`.
        let entered = unsafe { self.ring.submitter().enter(submit, want, flags, Some(&args)) };
        match entered.map_err(|error| (error.raw_os_error(), error)) {
            // Nothing came in time, a signal came, or completions have to be reaped first: all as good as done.
            Ok(_) | Err((Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN), _)) => Ok(()),
            Err((_, error)) => Err(error),
        }
    }

    fn reap(&mut self, completions: &mut Vec<Completion>) {
        loop {
            let Some(cqe) = self.ring.completion().next() else { return };
            match cqe.user_data() {
                CANCEL => {}
                WAKER => {
                    self.waker_armed = false;
                    self.waker.heard();
                }
                user_data => completions.extend(self.complete(user_data, cqe.result())),
            }
        }
    }

    fn complete(&mut self, user_data: u64, result: i32) -> Option<Completion> {
        let key = user_data as u32 as usize;
        self.ops.get(key).filter(|op| op.user_data == user_data)?;
        let op = self.ops.remove(key);
        if let Some(endpoint) = self.sockets.get_mut(op.socket.0 as usize) {
            endpoint.replace(user_data, 0);
            if endpoint.closing && !endpoint.is_pending() {
                self.sockets.remove(op.socket.0 as usize);
            }
        }
        let buffer = match op.held {
            Memory::Address(address) => {
                self.addresses_spare.push(address);
                None
            }
            Memory::Buffer(buffer) => Some(buffer.into_box()),
        };
        let result = usize::try_from(result).map_err(|_| -result);
        Some(Completion { token: op.token, result, buffer })
    }

    fn endpoint(&self, socket: SocketId) -> io::Result<&Endpoint> {
        self.sockets.get(socket.0 as usize).ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }
}

impl Kernel for Ring {
    fn name(&self) -> &'static str {
        "io_uring"
    }

    fn socket(&mut self, peer: &SocketAddr, close: CloseMode) -> io::Result<SocketId> {
        let socket = tcp_socket(peer, close)?;
        Ok(SocketId(self.sockets.insert(Endpoint { socket, pending: [0; OPS_PER_SOCKET_MAX], closing: false }) as u32))
    }

    fn connect(&mut self, token: Token, socket: SocketId, peer: SocketAddr) -> Result<(), Full> {
        let peer = SockAddr::from(peer);
        let len = peer.len();
        let address = match self.addresses_spare.pop() {
            Some(spare) => {
                let mut address = spare.into_box();
                *address = peer.as_storage();
                address
            }
            None => Box::new(peer.as_storage()),
        };
        let held = Held::new(address);
        let pointer = held.0.as_ptr().cast();
        let submitted =
            self.submit(token, socket, Memory::Address(held), |fd| opcode::Connect::new(fd, pointer, len).build());
        submitted.map_err(|_| Full)
    }

    fn send(
        &mut self,
        token: Token,
        socket: SocketId,
        buffer: Box<[u8]>,
        from: usize,
    ) -> Result<(), (Full, Box<[u8]>)> {
        let from = from.min(buffer.len());
        let len = u32::try_from(buffer.len() - from).unwrap_or(u32::MAX);
        let held = Held::new(buffer);
        let start = held.0.as_ptr().cast::<u8>().wrapping_add(from);
        // A peer that is gone is an errno of this attempt, not a signal to the daemon.
        let entry = |fd| opcode::Send::new(fd, start, len).flags(libc::MSG_NOSIGNAL).build();
        let submitted = self.submit(token, socket, Memory::Buffer(held), entry);
        submitted.map_err(full)
    }

    fn recv(&mut self, token: Token, socket: SocketId, buffer: Box<[u8]>) -> Result<(), (Full, Box<[u8]>)> {
        let len = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
        let held = Held::new(buffer);
        let start = held.0.as_ptr().cast::<u8>();
        let submitted =
            self.submit(token, socket, Memory::Buffer(held), |fd| opcode::Recv::new(fd, start, len).build());
        submitted.map_err(full)
    }

    fn cancel(&mut self, token: Token, socket: SocketId) {
        let Some(endpoint) = self.sockets.get(socket.0 as usize) else { return };
        for user_data in endpoint.pending.into_iter().filter(|user_data| *user_data != 0) {
            if self.ops.get(user_data as u32 as usize).is_some_and(|op| op.token == token) {
                self.push_cancel(user_data);
            }
        }
    }

    fn close(&mut self, socket: SocketId) {
        let Some(endpoint) = self.sockets.get_mut(socket.0 as usize) else { return };
        if !endpoint.is_pending() {
            self.sockets.remove(socket.0 as usize);
            return;
        }
        endpoint.closing = true;
        for user_data in endpoint.pending.into_iter().filter(|user_data| *user_data != 0) {
            self.push_cancel(user_data);
        }
    }

    fn flush(&mut self, wait: Option<Duration>, completions: &mut Vec<Completion>) -> io::Result<()> {
        self.arm_waker();
        for user_data in mem::take(&mut self.cancels_waiting) {
            self.push_cancel(user_data);
        }
        let ready = !self.ring.completion().is_empty();
        self.enter(wait.filter(|_| !ready))?;
        self.reap(completions);
        Ok(())
    }

    fn connect_info(&self, socket: SocketId) -> io::Result<ConnectInfo> {
        connect_info(&self.endpoint(socket)?.socket)
    }

    fn cookie(&self, socket: SocketId) -> io::Result<u64> {
        self.endpoint(socket)?.socket.cookie()
    }

    fn ports_used_up(&self, peer: &SocketAddr) -> bool {
        errno::ports_used_up(peer)
    }

    fn pending(&self) -> usize {
        self.ops.len()
    }

    fn release_reserve(&mut self) {
        self.reserve.release();
    }

    fn restore_reserve(&mut self) {
        self.reserve.restore();
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let pending: Vec<u64> =
            self.ops.iter().map(|(_, op)| op.user_data).chain(self.waker_armed.then_some(WAKER)).collect();
        pending.into_iter().for_each(|user_data| self.push_cancel(user_data));
        let deadline = crate::clock::now() + DROP_WAIT;
        let mut ended = Vec::new();
        while (!self.ops.is_empty() || self.waker_armed) && crate::clock::now() < deadline {
            for user_data in mem::take(&mut self.cancels_waiting) {
                self.push_cancel(user_data);
            }
            if self.enter(Some(Duration::from_millis(10))).is_err() {
                break;
            }
            self.reap(&mut ended);
        }
        if !self.ops.is_empty() || self.waker_armed {
            tracing::warn!(pending = self.ops.len(), "ring closed with operations in flight; their memory is leaked");
            mem::forget(mem::take(&mut self.ops));
            mem::forget(mem::replace(&mut self.waker_count, Held::new(Box::new(0))));
        }
    }
}

/// A TCP socket as the shards and the command line use it: non-blocking, close-on-exec, never with SO_LINGER above 0
/// (its close would block the thread until the peer acknowledges our FIN).
pub(super) fn tcp_socket(peer: &SocketAddr, close: CloseMode) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new_raw(Domain::for_address(*peer), kind, Some(Protocol::TCP))?;
    if close == CloseMode::Rst {
        socket.set_linger(Some(Duration::ZERO))?;
    }
    Ok(socket)
}

/// What the kernel knows of a connected socket. ENOTCONN where it is none.
pub(super) fn connect_info(socket: &Socket) -> io::Result<ConnectInfo> {
    let info = tcp_info(socket.as_fd())?;
    let address =
        |address: SockAddr| address.as_socket().ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT));
    let socket = SockRef::from(socket);
    Ok(ConnectInfo {
        rtt: Duration::from_micros(info.tcpi_rtt.into()),
        retransmits: info.tcpi_total_retrans,
        last_ack_age: Duration::from_millis(info.tcpi_last_ack_recv.into()),
        last_sent_age: Duration::from_millis(info.tcpi_last_data_sent.into()),
        last_data_age: Duration::from_millis(info.tcpi_last_data_recv.into()),
        local: socket.local_addr().and_then(address)?,
        peer: socket.peer_addr().and_then(address)?,
    })
}

fn tcp_info(fd: BorrowedFd<'_>) -> io::Result<libc::tcp_info> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: `info` has room for `len` bytes, both live through the call, and the kernel writes at most `len` of them.
    let result = unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &mut len)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all of it was zeroed, and any bits are a valid `tcp_info`: it consists of integers. An older kernel
    // writes fewer bytes; the fields that it does not know stay 0.
    Ok(unsafe { info.assume_init() })
}

/// Tries the flags best first; only EINVAL (a flag that the kernel does not know) leads to the next.
fn build() -> Result<(IoUring, SetupFlags), RingError> {
    const LADDER: [SetupFlags; 4] = [
        &["SINGLE_ISSUER", "COOP_TASKRUN", "DEFER_TASKRUN", "TASKRUN_FLAG"], // 6.1
        &["SINGLE_ISSUER", "COOP_TASKRUN", "TASKRUN_FLAG"],                  // 6.0
        &["COOP_TASKRUN", "TASKRUN_FLAG"],                                   // 5.19
        &[],
    ];
    let mut refused = io::Error::from_raw_os_error(libc::EINVAL);
    for flags in LADDER {
        let mut builder = IoUring::builder();
        builder.setup_clamp().setup_cqsize(limits::RING_COMPLETIONS).dontfork();
        for flag in flags {
            match *flag {
                "SINGLE_ISSUER" => builder.setup_single_issuer(),
                "COOP_TASKRUN" => builder.setup_coop_taskrun(),
                "DEFER_TASKRUN" => builder.setup_defer_taskrun(),
                _ => builder.setup_taskrun_flag(),
            };
        }
        match builder.build(limits::RING_ENTRIES) {
            Ok(ring) => return Ok((ring, flags)),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refused = error,
            Err(source) => return Err(RingError::Setup { source }),
        }
    }
    Err(RingError::Setup { source: refused })
}

fn full(held: Memory) -> (Full, Box<[u8]>) {
    match held {
        Memory::Buffer(buffer) => (Full, buffer.into_box()),
        Memory::Address(_) => (Full, Box::default()),
    }
}

fn setup_remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => "refused by kernel.io_uring_disabled, kernel.io_uring_group or a seccomp filter",
        Some(libc::EACCES) => "refused by a security module",
        Some(libc::ENOSYS) => {
            "this kernel has no io_uring (Linux 5.11 or later, CONFIG_IO_URING), or a seccomp filter hides it"
        }
        Some(libc::ENOMEM) => "the locked-memory limit is too low (LimitMEMLOCK, Linux before 5.12)",
        Some(libc::EMFILE | libc::ENFILE) => "no file descriptor is left",
        _ => "unexpected; --io epoll does without it",
    }
}
