//! What a shard asks of the operating system, as a trait: io_uring ([`super::ring`]), epoll
//! ([`super::epoll`]), or a simulated one in the tests.
//!
//! Invariant: every operation submitted gives exactly one completion, cancelled or not; a socket is closed
//! only after its completions were reaped.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

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
    fn send(
        &mut self,
        token: Token,
        socket: SocketId,
        buffer: Box<[u8]>,
        from: usize,
    ) -> Result<(), (Full, Box<[u8]>)>;

    /// Submits recv(2) into `buffer`.
    fn recv(
        &mut self,
        token: Token,
        socket: SocketId,
        buffer: Box<[u8]>,
    ) -> Result<(), (Full, Box<[u8]>)>;

    /// Asks for the operation of this token to end early. Its completion still comes (ECANCELED, or its own
    /// result if that was first). Never fails: a kernel that cannot take it now remembers it.
    fn cancel(&mut self, token: Token, socket: SocketId);

    /// Closes a socket none of whose operations is pending.
    fn close(&mut self, socket: SocketId);

    /// Hands submissions to the kernel and appends all completions there are. Waits for at least one, for the
    /// waker, or for `wait` to pass (`None` = do not wait at all).
    fn flush(
        &mut self,
        wait: Option<Duration>,
        completions: &mut Vec<Completion>,
    ) -> io::Result<()>;

    /// What is known of a connected socket.
    fn connect_info(&self, socket: SocketId) -> io::Result<ConnectInfo>;

    /// Operations submitted and not reaped.
    fn pending(&self) -> usize;

    /// Gives up the spare descriptor, so that the next `socket` finds one (urgent attempts under EMFILE).
    fn release_reserve(&mut self);

    /// Takes a spare descriptor again if there is none.
    fn restore_reserve(&mut self);
}
