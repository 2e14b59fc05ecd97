//! A kernel that does what a test says, in virtual time.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use probe_core::time::Instant;

use crate::shard::kernel::{CloseMode, Completion, ConnectInfo, Full, Kernel, SocketId};
use crate::shard::token::Token;

/// What one target does.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// The handshake takes so long; `None` = SYNs are dropped.
    pub(super) connect: Option<Duration>,
    /// Or ends with this errno.
    pub(super) errno: Option<i32>,
    /// `tcpi_total_retrans`
    pub(super) retransmits: u32,
    /// Its own address is what connects to it.
    pub(super) is_itself: bool,
    /// It answers so long after the request, in these pieces (each so long after the one before).
    pub(super) pieces: Vec<(Duration, Vec<u8>)>,
}

impl Default for Target {
    fn default() -> Self {
        Self { connect: Some(ms(1)), errno: None, retransmits: 0, is_itself: false, pieces: Vec::new() }
    }
}

/// The world behind the kernel: shared with the test.
#[derive(Default)]
pub(super) struct World {
    now_ns: Cell<u64>,
    /// No wait goes beyond.
    pub(super) end: Cell<Option<Instant>>,
    /// The next waits take so much longer than asked.
    pub(super) oversleeps: RefCell<Vec<Duration>>,
    pub(super) targets: RefCell<BTreeMap<SocketAddr, Target>>,
    pub(super) socket_errno: Cell<Option<i32>>,
    pub(super) reserve_given: Cell<bool>,
    /// Sockets open now, and ever.
    pub(super) open: Cell<usize>,
    pub(super) opened: Cell<usize>,
    pub(super) ports_used_up: Cell<bool>,
}

impl World {
    pub(super) fn new() -> Rc<Self> {
        let world = Self::default();
        world.now_ns.set(Instant::from_secs(1_000).as_nanos());
        Rc::new(world)
    }

    pub(super) fn now(&self) -> Instant {
        Instant::from_nanos(self.now_ns.get())
    }

    pub(super) fn pass(&self, duration: Duration) {
        self.now_ns.set((self.now() + duration).as_nanos());
    }

    pub(super) fn target(&self, port: u16, target: Target) {
        self.targets.borrow_mut().insert(SocketAddr::from(([127, 0, 0, 1], port)), target);
    }
}

pub(super) struct Fake {
    world: Rc<World>,
    sockets: HashMap<u32, Socket>,
    next: u32,
    operations: Vec<Operation>,
}

struct Socket {
    peer: SocketAddr,
    target: Target,
    connected_at: Option<Instant>,
    submitted: Instant,
    /// When which piece arrives.
    arrivals: Vec<(Instant, Vec<u8>)>,
    sent: Instant,
    last_data: Instant,
}

struct Operation {
    token: Token,
    socket: SocketId,
    /// `None` = never by itself.
    at: Option<Instant>,
    kind: Kind,
}

enum Kind {
    Connect,
    Send(Box<[u8]>, usize),
    Recv(Box<[u8]>),
    Cancelled(Option<Box<[u8]>>),
}

impl Fake {
    pub(super) fn new(world: &Rc<World>) -> Self {
        Self { world: Rc::clone(world), sockets: HashMap::new(), next: 0, operations: Vec::new() }
    }

    fn reap(&mut self, completions: &mut Vec<Completion>) {
        let now = self.world.now();
        let (ready, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.operations).into_iter().partition(|op| op.at.is_some_and(|at| at <= now));
        self.operations = waiting;
        for op in ready {
            let socket = self.sockets.get_mut(&op.socket.0).expect("closed with an operation pending");
            let (result, buffer) = match op.kind {
                Kind::Connect => {
                    socket.connected_at = op.at;
                    (socket.target.errno.map_or(Ok(0), Err), None)
                }
                Kind::Send(buffer, from) => (Ok(buffer.len() - from), Some(buffer)),
                Kind::Recv(mut buffer) => {
                    let (at, piece) = socket.arrivals.remove(0);
                    socket.last_data = at;
                    buffer[..piece.len()].copy_from_slice(&piece);
                    (Ok(piece.len()), Some(buffer))
                }
                Kind::Cancelled(buffer) => (Err(libc::ECANCELED), buffer),
            };
            completions.push(Completion { token: op.token, result, buffer });
        }
    }
}

impl Kernel for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn socket(&mut self, peer: &SocketAddr, _: CloseMode) -> io::Result<SocketId> {
        if let Some(errno) = self.world.socket_errno.get()
            && !self.world.reserve_given.get()
        {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let target = self.world.targets.borrow().get(peer).cloned().unwrap_or_default();
        self.next += 1;
        let now = self.world.now();
        let (arrivals, connected_at) = (Vec::new(), None);
        let socket = Socket { peer: *peer, target, connected_at, submitted: now, arrivals, sent: now, last_data: now };
        self.sockets.insert(self.next, socket);
        self.world.open.set(self.world.open.get() + 1);
        self.world.opened.set(self.world.opened.get() + 1);
        Ok(SocketId(self.next))
    }

    fn connect(&mut self, token: Token, socket: SocketId, _: SocketAddr) -> Result<(), Full> {
        let target = &self.sockets[&socket.0].target;
        let at = target.connect.map(|after| self.world.now() + after);
        self.operations.push(Operation { token, socket, at, kind: Kind::Connect });
        Ok(())
    }

    fn send(
        &mut self,
        token: Token,
        socket: SocketId,
        buffer: Box<[u8]>,
        from: usize,
    ) -> Result<(), (Full, Box<[u8]>)> {
        let now = self.world.now();
        let state = self.sockets.get_mut(&socket.0).expect("an open socket");
        let mut at = now;
        for (after, piece) in std::mem::take(&mut state.target.pieces) {
            at = at + after;
            state.arrivals.push((at, piece));
        }
        state.sent = now;
        self.operations.push(Operation { token, socket, at: Some(now), kind: Kind::Send(buffer, from) });
        Ok(())
    }

    fn recv(&mut self, token: Token, socket: SocketId, buffer: Box<[u8]>) -> Result<(), (Full, Box<[u8]>)> {
        let at = self.sockets[&socket.0].arrivals.first().map(|(at, _)| *at);
        self.operations.push(Operation { token, socket, at, kind: Kind::Recv(buffer) });
        Ok(())
    }

    fn cancel(&mut self, token: Token, socket: SocketId) {
        let now = self.world.now();
        for op in self.operations.iter_mut().filter(|op| op.token == token && op.socket == socket) {
            op.at = Some(now);
            let kind = std::mem::replace(&mut op.kind, Kind::Connect);
            op.kind = Kind::Cancelled(match kind {
                Kind::Connect => None,
                Kind::Send(buffer, _) | Kind::Recv(buffer) => Some(buffer),
                Kind::Cancelled(buffer) => buffer,
            });
        }
    }

    fn close(&mut self, socket: SocketId) {
        assert!(self.operations.iter().all(|op| op.socket != socket), "closed with an operation pending");
        assert!(self.sockets.remove(&socket.0).is_some(), "closed twice");
        self.world.open.set(self.world.open.get() - 1);
    }

    fn flush(&mut self, wait: Option<Duration>, completions: &mut Vec<Completion>) -> io::Result<()> {
        if let Some(wait) = wait {
            let next = self.operations.iter().filter_map(|op| op.at).min();
            let until = next.unwrap_or(Instant::from_nanos(u64::MAX)).min(self.world.now() + wait);
            self.world.pass(self.world.end.get().map_or(until, |end| until.min(end)) - self.world.now());
            let oversleep = self.world.oversleeps.borrow_mut().pop();
            self.world.pass(oversleep.unwrap_or_default());
        }
        self.reap(completions);
        Ok(())
    }

    fn connect_info(&self, socket: SocketId) -> io::Result<ConnectInfo> {
        let now = self.world.now();
        let state = &self.sockets[&socket.0];
        let connected_at = state.connected_at.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOTCONN))?;
        let local = if state.target.is_itself { state.peer } else { SocketAddr::from(([127, 0, 0, 1], 40_000)) };
        Ok(ConnectInfo {
            // What a retransmitted SYN's round trip measures is not the time since the first one.
            rtt: if state.target.retransmits == 0 { connected_at - state.submitted } else { ms(1) },
            retransmits: state.target.retransmits,
            last_ack_age: now - connected_at.max(state.last_data),
            last_sent_age: now - state.sent,
            last_data_age: now - state.last_data,
            local,
            peer: state.peer,
        })
    }

    fn cookie(&self, socket: SocketId) -> io::Result<u64> {
        Ok(socket.0.into())
    }

    fn ports_used_up(&self, _: &SocketAddr) -> bool {
        self.world.ports_used_up.get()
    }

    fn pending(&self) -> usize {
        self.operations.len()
    }

    fn release_reserve(&mut self) {
        self.world.reserve_given.set(true);
    }

    fn restore_reserve(&mut self) {
        self.world.reserve_given.set(false);
    }
}

pub(super) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
