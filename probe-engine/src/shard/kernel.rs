//! What a shard asks of the operating system, as a trait: io_uring ([`super::ring`]), epoll
//! ([`super::epoll`]), or a simulated one in the tests.
//!
//! Invariant: every operation submitted gives exactly one completion, cancelled or not; a socket is closed
//! only after its completions were reaped.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::epoll::Epoll;
use super::ring::Ring;
use super::token::Token;

/// A socket of a kernel: an index that only that kernel understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketId(pub u32);

/// How a connection is ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CloseMode {
    /// close(2): FIN, and TIME_WAIT on this side.
    #[default]
    Fin,
    /// SO_LINGER 0: RST, no TIME_WAIT; the target sees ECONNRESET.
    Rst,
}

/// One finished operation.
#[derive(Debug)]
pub struct Completion {
    /// The token it was submitted with.
    pub token: Token,
    /// Bytes moved (0 for connect), or the errno; ECANCELED where a cancel came first.
    pub result: Result<usize, i32>,
    /// The buffer of a send or recv, given back. For recv, its first `result` bytes are new.
    pub buffer: Option<Box<[u8]>>,
}

/// What the kernel knows of an established connection (TCP_INFO, getsockname, getpeername).
#[derive(Clone, Copy, Debug)]
pub struct ConnectInfo {
    /// `tcpi_rtt`: of the handshake, for a fresh connection.
    pub rtt: Duration,
    /// `tcpi_total_retrans`
    pub retransmits: u32,
    /// `tcpi_last_ack_recv`: how long ago the peer's newest ACK came; an upper bound of the age of ESTABLISHED.
    pub last_ack_age: Duration,
    /// `tcpi_last_data_sent`: how long ago our newest data left; meaningless before any did.
    pub last_sent_age: Duration,
    /// `tcpi_last_data_recv`: how long ago the peer's newest data came; meaningless before any came.
    pub last_data_age: Duration,
    /// Our end.
    pub local: SocketAddr,
    /// The other end.
    pub peer: SocketAddr,
}

/// The submission side took nothing: flush and try again, or call it local trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// See the module. Not `Send`: a kernel is made and used on its shard's thread.
pub trait Kernel {
    /// `io_uring`, `epoll` ...: for logs and doctor.
    fn name(&self) -> &'static str;

    /// A new TCP socket for this peer: non-blocking, close-on-exec. Errors are those of socket(2) and setsockopt(2).
    fn socket(&mut self, peer: &SocketAddr, close: CloseMode) -> io::Result<SocketId>;

    /// Submits connect(2).
    fn connect(&mut self, token: Token, socket: SocketId, peer: SocketAddr) -> Result<(), Full>;

    /// Submits send(2) of `buffer[from..]`.
    fn send(&mut self, token: Token, socket: SocketId, buffer: Box<[u8]>, from: usize)
    -> Result<(), (Full, Box<[u8]>)>;

    /// Submits recv(2) into `buffer`.
    fn recv(&mut self, token: Token, socket: SocketId, buffer: Box<[u8]>) -> Result<(), (Full, Box<[u8]>)>;

    /// Asks for the operation of this token to end early. Its completion still comes (ECANCELED, or its own
    /// result if that was first). Never fails: a kernel that cannot take it now remembers it.
    fn cancel(&mut self, token: Token, socket: SocketId);

    /// Closes a socket none of whose operations is pending.
    fn close(&mut self, socket: SocketId);

    /// Hands submissions to the kernel and appends all completions there are. Waits for at least one, for the
    /// waker, or for `wait` to pass (`None` = do not wait at all).
    fn flush(&mut self, wait: Option<Duration>, completions: &mut Vec<Completion>) -> io::Result<()>;

    /// What is known of a connected socket.
    fn connect_info(&self, socket: SocketId) -> io::Result<ConnectInfo>;

    /// SO_COOKIE of a socket: what the kernel program knows it by. Asking gives it one if it has none yet.
    fn cookie(&self, socket: SocketId) -> io::Result<u64>;

    /// After a connect to `peer` gave EADDRNOTAVAIL: are the ephemeral ports towards it used up? (Else there is no
    /// source address for it, which is a failure.)
    fn ports_used_up(&self, peer: &SocketAddr) -> bool;

    /// Operations submitted and not reaped.
    fn pending(&self) -> usize;

    /// Gives up the spare descriptor, so that the next `socket` finds one (urgent attempts under EMFILE).
    fn release_reserve(&mut self);

    /// Takes a spare descriptor again if there is none.
    fn restore_reserve(&mut self);
}

/// Which kernel a shard uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IoChoice {
    /// io_uring, else epoll.
    #[default]
    Auto,
    /// io_uring or nothing.
    Uring,
    /// epoll.
    Epoll,
}

impl IoChoice {
    /// As on the command line: `auto`, `uring`, `epoll`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            IoChoice::Auto => "auto",
            IoChoice::Uring => "uring",
            IoChoice::Epoll => "epoll",
        }
    }
}

/// A kernel could not be made.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// io_uring was asked for by name, and is refused or too old.
    #[error("{0} (asked for with --io uring; --io auto takes epoll instead)")]
    Ring(#[source] super::ring::RingError),
    /// Not even epoll.
    #[error("epoll_create1 or eventfd: {0}; is the daemon out of descriptors?")]
    Epoll(#[source] io::Error),
}

/// What [`open`] chose. Each shard is compiled for its kernel, so nothing is looked up per operation.
pub enum Opened {
    /// io_uring.
    Ring(Ring),
    /// epoll, and why not io_uring where that was wanted.
    Epoll(Epoll, Option<String>),
}

/// Makes a kernel on the calling thread, which must be the one that uses it.
pub fn open(choice: IoChoice, waker: &Waker) -> Result<Opened, OpenError> {
    let refused = match choice {
        IoChoice::Epoll => None,
        IoChoice::Auto | IoChoice::Uring => match Ring::new(waker) {
            Ok(ring) => return Ok(Opened::Ring(ring)),
            Err(error) if choice == IoChoice::Uring => return Err(OpenError::Ring(error)),
            Err(error) => Some(error.to_string()),
        },
    };
    let epoll = Epoll::new(waker).map_err(OpenError::Epoll)?;
    Ok(Opened::Epoll(epoll, refused))
}

/// Ends a kernel's wait from another thread. Cheap when it was rung already and not yet heard.
#[derive(Clone, Debug)]
pub struct Waker {
    fd: Arc<EventFd>,
    rung: Arc<AtomicBool>,
}

impl Waker {
    /// An eventfd.
    pub fn new() -> io::Result<Self> {
        // Blocking, on purpose: io_uring would answer a read of a non-blocking one with EAGAIN instead of waiting.
        let fd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?;
        Ok(Self { fd: Arc::new(fd), rung: Arc::new(AtomicBool::new(false)) })
    }

    /// What was pushed before this call is seen by the turn that the wake-up leads to.
    pub fn wake(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            // It fails only if the counter is full, which is as good as rung.
            let _ = self.fd.write(1);
        }
    }

    /// The kernel read the eventfd: the next `wake` must write again. Before the queues are looked at, not after.
    pub(crate) fn heard(&self) {
        self.rung.swap(false, Ordering::AcqRel);
    }

    pub(crate) fn fd(&self) -> &EventFd {
        &self.fd
    }
}

/// A spare descriptor: given up so that one socket can be made when all others are in use.
#[derive(Debug, Default)]
pub(super) struct Reserve(Option<File>);

impl Reserve {
    pub(super) fn new() -> Self {
        let mut reserve = Self(None);
        reserve.restore();
        reserve
    }

    pub(super) fn release(&mut self) {
        self.0 = None;
    }

    /// Stays empty while there is no descriptor to be had; tried again after each urgent attempt.
    pub(super) fn restore(&mut self) {
        if self.0.is_none() {
            self.0 = File::open("/dev/null").ok();
        }
    }
}
