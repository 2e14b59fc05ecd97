//! The kernel's sockets, and the network behind them.
//!
//! A SYN is tried again after 1, 3 and 7 seconds; a segment arrives in the kernel whether our thread is scheduled or not.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use nix::libc;
use probe_core::time::Instant;
use probe_engine::limits;
use probe_engine::shard::kernel::{Completion, ConnectInfo, SocketId};
use probe_engine::shard::token::{Op, Token};

use super::target::{Answer, Door, Sent, Target, response};
use super::world::{Event, World};

/// What happens so soon before or after the end of a stall may have been held up together with the shard.
const NEAR: Duration = Duration::from_millis(60);

/// What trouble of our own looks like.
const LOCAL_ERRNOS: [i32; 4] = [libc::ENOBUFS, libc::ENOMEM, libc::EMFILE, libc::ENFILE];

/// A socket that is told from an earlier one of the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketKey {
    /// Its place.
    pub index: u32,
    /// Counts up with every socket.
    pub serial: u64,
}

/// What the network does to a socket.
#[derive(Clone, Debug)]
pub enum NetEvent {
    /// Its n-th SYN leaves.
    Syn(u32),
    /// SYN-ACK.
    Established,
    /// RST to the SYN.
    Refused(i32),
    /// Something of the response.
    Arrived(Sent),
}

/// What is left of a connection when the shard is done with it.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Of which worker of its key.
    pub epoch: u32,
    /// When its socket was made.
    pub created: Instant,
    /// When the turn that made it decided so.
    pub turn_now: Instant,
    /// When that turn ended; `None` while it lasts.
    pub turn_end: Option<Instant>,
    /// A fault was made up for it: of the network, or of our own.
    pub faulted: bool,
    /// The kernel's work for it was held up together with us, until then.
    pub starved_until: Option<Instant>,
    /// How often.
    pub starved_len: u32,
    /// The shard was held up between reading the clock and asking how old things are.
    pub asked_late: bool,
    /// When the newest thing happened to it in the network.
    pub newest: Option<Instant>,
    /// One of these came within `NEAR` of a stall's end, or before the shard had seen the clock after it.
    pub was_near_a_stall: bool,
    /// Its socket's.
    pub serial: u64,
}

impl Ended {
    fn happened(&mut self, now: Instant, is_near: bool) {
        self.newest = Some(now);
        self.was_near_a_stall |= is_near;
    }
}

#[derive(Debug)]
struct Socket {
    serial: u64,
    peer: SocketAddr,
    target: Option<usize>,
    submitted: Instant,
    retransmits: u32,
    rtt: Duration,
    last_ack: Instant,
    last_sent: Instant,
    last_data: Instant,
    itself: bool,
    /// Since the handshake, or what became of it.
    connected: Option<Result<(), i32>>,
    request: Vec<u8>,
    asked: bool,
    arrived: VecDeque<Sent>,
    reset: bool,
    /// A connect or a send; a recv.
    ops: [Option<Pending>; 2],
    cancelled: bool,
    ended: Ended,
}

#[derive(Debug)]
struct Pending {
    token: Token,
    work: Work,
    submitted: bool,
    cancelled: bool,
    is_ready: bool,
    result: Option<Result<usize, i32>>,
}

/// What an operation does.
#[derive(Debug)]
pub enum Work {
    /// connect(2)
    Connect,
    /// send(2) of what follows `from`.
    Send {
        /// The request.
        buffer: Box<[u8]>,
        /// Where to begin.
        from: usize,
    },
    /// recv(2)
    Recv(Box<[u8]>),
}

/// The kernel's side of things.
#[derive(Debug)]
pub struct Net {
    /// All there are, by index.
    pub targets: Vec<Target>,
    addrs: BTreeMap<SocketAddr, usize>,
    /// By target: which worker of its key is the newest that the shard knows of.
    pub epochs: Vec<u32>,
    /// By target: the connection in use, and whose.
    active: Vec<Option<(u64, u32)>>,
    /// By target: the newest connection that the shard is done with.
    pub ended: Vec<Option<Ended>>,
    sockets: Vec<Option<Socket>>,
    free: Vec<u32>,
    submissions: VecDeque<(u32, usize)>,
    ready: VecDeque<(SocketKey, usize)>,
    /// Cancelled operations, and the flush with which each completes.
    doomed: Vec<(u64, SocketKey, usize)>,
    tokens: BTreeSet<u64>,
    /// Descriptors that the shard may have, its reserve included.
    pub files_max: Option<usize>,
    reserve: bool,
    open: usize,
    flushes: u64,
    serial: u64,
    /// Since the turn began.
    pub created_this_turn: Vec<usize>,
    /// Calls of socket(2).
    pub tries: u64,
    /// Troubles of our own that were made up.
    pub local_faults: u64,
    /// Redirects that lead to the pool: held up until their deadline has passed, they are trouble of our own.
    pub redirects: u64,
    /// Completions given out.
    pub completions: u64,
}

impl Default for Net {
    fn default() -> Self {
        Self {
            targets: Vec::new(),
            addrs: BTreeMap::new(),
            epochs: Vec::new(),
            active: Vec::new(),
            ended: Vec::new(),
            sockets: Vec::new(),
            free: Vec::new(),
            submissions: VecDeque::new(),
            ready: VecDeque::new(),
            doomed: Vec::new(),
            tokens: BTreeSet::new(),
            files_max: None,
            reserve: true,
            open: 0,
            flushes: 0,
            serial: 0,
            created_this_turn: Vec::new(),
            tries: 0,
            local_faults: 0,
            redirects: 0,
            completions: 0,
        }
    }
}

impl Net {
    /// A new target; `addr` must be new too.
    pub fn add_target(&mut self, addr: SocketAddr, target: Target) -> usize {
        let index = self.targets.len();
        assert!(self.addrs.insert(addr, index).is_none(), "{addr} is taken");
        self.targets.push(target);
        self.epochs.push(0);
        self.active.push(None);
        self.ended.push(None);
        index
    }

    /// The target of this address.
    pub fn target_at(&self, addr: SocketAddr) -> Option<usize> {
        self.addrs.get(&addr).copied()
    }

    /// Sockets that are open.
    pub fn open_len(&self) -> usize {
        self.open
    }

    /// Operations submitted and not reaped.
    pub fn pending_len(&self) -> usize {
        self.tokens.len()
    }

    /// Of these, cancelled ones.
    pub fn doomed_len(&self) -> usize {
        self.doomed.len()
    }

    /// The spare descriptor is there.
    pub fn has_reserve(&self) -> bool {
        self.reserve
    }

    /// Gives it up.
    pub fn release_reserve(&mut self) {
        self.reserve = false;
    }

    /// Takes it again where there is one to be had.
    pub fn restore_reserve(&mut self) {
        if !self.reserve {
            self.reserve = self.files_max.is_none_or(|max| self.open < max);
        }
    }

    /// The softirqs of this socket were held up until then.
    pub fn starved(&mut self, key: SocketKey, until: Instant) {
        if let Some(socket) = self.find(key) {
            socket.ended.starved_until = Some(until);
            socket.ended.starved_len += 1;
        }
    }

    /// A stall has ended.
    pub fn stalled(&mut self, until: Instant) {
        for socket in self.sockets.iter_mut().flatten() {
            socket.ended.was_near_a_stall |= socket.ended.newest.is_some_and(|at| until - at <= NEAR);
        }
    }

    /// The turn that made these sockets has ended.
    pub fn turn_ended(&mut self, end: Instant) {
        for target in std::mem::take(&mut self.created_this_turn) {
            for socket in self.sockets.iter_mut().flatten().filter(|socket| socket.target == Some(target)) {
                socket.ended.turn_end.get_or_insert(end);
            }
            if let Some(ended) = &mut self.ended[target] {
                ended.turn_end.get_or_insert(end);
            }
        }
    }

    /// What is known of a connected socket at `now`, by somebody who thinks that it is `read`.
    pub fn connect_info(&mut self, socket: SocketId, now: Instant, read: Instant) -> Option<ConnectInfo> {
        let socket = self.sockets.get_mut(socket.0 as usize)?.as_mut()?;
        socket.connected?.ok()?;
        socket.ended.asked_late |= now - read >= limits::GIVE_BACK_MIN;
        let own = SocketAddr::from((Ipv4Addr::new(10, 255, 0, 1), 40_000));
        Some(ConnectInfo {
            rtt: socket.rtt,
            retransmits: socket.retransmits,
            last_ack_age: in_ticks(now - socket.last_ack),
            last_sent_age: in_ticks(now - socket.last_sent),
            last_data_age: in_ticks(now - socket.last_data),
            local: if socket.itself { socket.peer } else { own },
            peer: socket.peer,
        })
    }

    /// SO_COOKIE; 0 for no socket.
    pub fn cookie(&self, socket: SocketId) -> u64 {
        self.sockets.get(socket.0 as usize).and_then(Option::as_ref).map_or(0, |socket| socket.serial)
    }

    fn find(&mut self, key: SocketKey) -> Option<&mut Socket> {
        self.sockets.get_mut(key.index as usize)?.as_mut().filter(|socket| socket.serial == key.serial)
    }

    fn live(&mut self, socket: SocketId) -> &mut Socket {
        let socket = self.sockets.get_mut(socket.0 as usize).and_then(Option::as_mut);
        socket.expect("the shard uses a socket that is closed")
    }

    /// The operation has its result now, if somebody waits for it.
    fn wake(&mut self, key: SocketKey, slot: usize) {
        if let Some(socket) = self.find(key)
            && let Some(op) = &mut socket.ops[slot]
            && op.submitted
            && !op.is_ready
            && !op.cancelled
        {
            op.is_ready = true;
            self.ready.push_back((key, slot));
        }
    }

    /// The shard is done with this connection, though its last operation may be pending.
    fn note_end(&mut self, index: u32) {
        let Some(socket) = self.sockets[index as usize].as_mut() else { return };
        let Some(target) = socket.target else { return };
        if std::mem::replace(&mut socket.cancelled, true) {
            return;
        }
        if self.active[target].is_some_and(|(serial, _)| serial == socket.serial) {
            self.active[target] = None;
        }
        // Not even submitted: trouble of our own, and nobody's result.
        if socket.ended.turn_end.is_none() && socket.connected.is_none() {
            return;
        }
        let ended = socket.ended.clone();
        if self.ended[target].as_ref().is_none_or(|newest| newest.epoch <= ended.epoch) {
            self.ended[target] = Some(ended);
        }
    }
}

impl World {
    /// socket(2)
    pub fn socket(&mut self, peer: SocketAddr) -> Result<SocketId, i32> {
        self.may_stall();
        self.net.tries += 1;
        let target = self.net.target_at(peer);
        if let Some(probe) = self.pods.probes.iter_mut().find(|probe| Some(probe.target) == target) {
            probe.begun += 1;
        }
        if self.random.chance(self.weather.socket_errors) {
            self.net.local_faults += 1;
            let errno = self.random.pick(&LOCAL_ERRNOS);
            self.note(2, || format!("socket for {peer}: errno {errno}"));
            return Err(errno);
        }
        let used = self.net.open + usize::from(self.net.reserve);
        if self.net.files_max.is_some_and(|max| used >= max) {
            self.net.local_faults += 1;
            self.note(3, || format!("socket for {peer}: out of descriptors"));
            return Err(libc::EMFILE);
        }
        let net = &mut self.net;
        let index = net.free.pop().unwrap_or(net.sockets.len() as u32);
        if index as usize == net.sockets.len() {
            net.sockets.push(None);
        }
        net.serial += 1;
        net.open += 1;
        let target = net.addrs.get(&peer).copied();
        let now = self.now;
        let ended = Ended {
            epoch: target.map_or(0, |target| net.epochs[target]),
            created: now,
            turn_now: self.reads.now,
            turn_end: None,
            faulted: false,
            starved_until: None,
            starved_len: 0,
            asked_late: false,
            newest: None,
            was_near_a_stall: false,
            serial: net.serial,
        };
        net.sockets[index as usize] = Some(Socket {
            serial: net.serial,
            peer,
            target,
            submitted: now,
            retransmits: 0,
            rtt: Duration::ZERO,
            last_ack: now,
            last_sent: now,
            last_data: now,
            itself: false,
            connected: None,
            request: Vec::new(),
            asked: false,
            arrived: VecDeque::new(),
            reset: false,
            ops: [None, None],
            cancelled: false,
            ended,
        });
        net.created_this_turn.extend(target);
        self.note(4, || format!("socket {index} for {peer}"));
        Ok(SocketId(index))
    }

    /// Takes an operation, or gives it back.
    pub fn submit(&mut self, token: Token, socket: SocketId, work: Work) -> Result<(), Work> {
        let slot = usize::from(matches!(work, Work::Recv(_)));
        let op = match &work {
            Work::Connect => Op::Connect,
            Work::Send { buffer, from } => {
                assert!(*from < buffer.len(), "a send of nothing: {from} of {}", buffer.len());
                Op::Send
            }
            Work::Recv(buffer) => {
                assert!(!buffer.is_empty(), "a recv into nothing");
                Op::Recv
            }
        };
        assert_eq!(token.op(), Some(op), "the token says another operation: {token:?}");
        let full = self.random.chance(self.weather.full);
        let entry = self.net.live(socket);
        assert!(entry.ops[slot].is_none(), "a second {op:?} on socket {}", socket.0);
        assert!(!entry.cancelled, "{op:?} on socket {} after its end", socket.0);
        assert_eq!(op == Op::Connect, entry.connected.is_none(), "{op:?} on socket {} out of order", socket.0);
        if full {
            entry.ended.faulted = true;
            self.net.local_faults += 1;
            self.note(5, || format!("{op:?} on socket {}: not taken", socket.0));
            return Err(work);
        }
        let (serial, epoch, target) = (entry.serial, entry.ended.epoch, entry.target);
        let pending = Pending { token, work, submitted: false, cancelled: false, is_ready: false, result: None };
        entry.ops[slot] = Some(pending);
        assert!(self.net.tokens.insert(token.0), "two operations with one token: {token:?}");
        if let Some(target) = target.filter(|_| op == Op::Connect) {
            let before = self.net.active[target].replace((serial, epoch));
            let twice = before.is_some_and(|(_, before)| before == epoch);
            assert!(!twice, "a second attempt at target {target} while one is in flight");
        }
        self.net.submissions.push_back((socket.0, slot));
        Ok(())
    }

    /// Asks for an operation to end early.
    pub fn cancel(&mut self, token: Token, socket: SocketId) {
        let is_late = self.random.chance(self.weather.late_cancels);
        // Beyond what a turn waits for; but not where each of so many flushes takes long.
        let latest = if self.weather.stalls > 0 { 40 } else { 1_500 };
        let late = if is_late { self.random.pick(&[1, 2, 7, 20, latest]) } else { 0 };
        let due = self.net.flushes + 1 + late;
        let entry = self.net.live(socket);
        let key = SocketKey { index: socket.0, serial: entry.serial };
        let Some(slot) = entry.ops.iter().position(Option::is_some) else {
            // Its completion is in the shard's hands already.
            return self.net.note_end(socket.0);
        };
        let Some(op) = &mut entry.ops[slot] else { return };
        assert_eq!(op.token, token, "a cancel of an operation that is not pending");
        assert!(!op.cancelled, "a second cancel of {token:?}");
        op.cancelled = true;
        if !op.is_ready {
            op.is_ready = true;
            self.net.doomed.push((due, key, slot));
        }
        self.net.note_end(socket.0);
        self.note(6, || format!("cancel of {token:?} on socket {}", socket.0));
    }

    /// close(2)
    pub fn close(&mut self, socket: SocketId) {
        let entry = self.net.live(socket);
        assert!(entry.ops.iter().all(Option::is_none), "close of socket {} with an operation pending", socket.0);
        self.net.note_end(socket.0);
        self.net.sockets[socket.0 as usize] = None;
        self.net.free.push(socket.0);
        self.net.open -= 1;
        self.note(7, || format!("close of socket {}", socket.0));
    }

    /// Enters the kernel: submits, waits for something to happen for so long, and takes what has completed.
    pub fn flush(&mut self, wait: Option<Duration>, completions: &mut Vec<Completion>) {
        self.net.flushes += 1;
        self.may_stall();
        while let Some((index, slot)) = self.net.submissions.pop_front() {
            self.begin(index, slot);
        }
        if let Some(wait) = wait {
            self.wait(self.now + wait);
        }
        let flushes = self.net.flushes;
        let mut doomed = std::mem::take(&mut self.net.doomed);
        doomed.retain(|(due, key, slot)| {
            let over = *due <= flushes;
            if over {
                self.net.ready.push_back((*key, *slot));
            }
            !over
        });
        self.net.doomed = doomed;
        let most = if self.weather.batch_max == 0 { u64::MAX } else { self.random.range(1, self.weather.batch_max) };
        for _ in 0..most {
            let Some((key, slot)) = self.net.ready.pop_front() else { break };
            completions.extend(self.complete(key, slot));
        }
        self.may_stall();
    }

    fn wait(&mut self, until: Instant) {
        let until = if self.random.chance(self.weather.spurious) {
            self.now + self.random.duration(Duration::ZERO, until - self.now)
        } else {
            until
        };
        loop {
            let doomed = self.net.doomed.iter().any(|(due, ..)| *due <= self.net.flushes);
            if doomed || !self.net.ready.is_empty() || std::mem::take(&mut self.rung) {
                break;
            }
            match self.next_event().filter(|at| *at < until) {
                Some(at) => self.advance(at),
                None => {
                    // Timers are not exact.
                    let late = self.random.duration(Duration::from_micros(5), Duration::from_micros(60));
                    self.advance(until + late);
                    break;
                }
            }
        }
    }

    /// The kernel starts on an operation.
    fn begin(&mut self, index: u32, slot: usize) {
        let (now, is_short) = (self.now, self.random.chance(self.weather.short));
        let local = self.random.chance(self.weather.local_errors);
        let reset = self.random.chance(self.weather.resets);
        if self.random.chance(self.weather.stalls) {
            // While something is in flight, it hurts most.
            self.suspend = Some(self.random.duration(Duration::from_millis(1), self.weather.stall_max));
        }
        let Some(socket) = self.net.sockets[index as usize].as_mut() else { return };
        let key = SocketKey { index, serial: socket.serial };
        let Some(op) = socket.ops[slot].as_mut().filter(|op| !op.cancelled) else { return };
        op.submitted = true;
        if local || reset {
            let errno = match (local, &op.work) {
                (false, _) => libc::ECONNRESET,
                (true, Work::Connect) if self.random.below(4) == 0 => libc::EADDRNOTAVAIL,
                (true, _) => self.random.pick(&LOCAL_ERRNOS),
            };
            op.result = Some(Err(errno));
            socket.ended.faulted = true;
            self.net.local_faults += u64::from(local);
            self.net.wake(key, slot);
            return self.note(8, || format!("socket {index}: errno {errno}, made up"));
        }
        match &op.work {
            Work::Connect => {
                socket.submitted = now;
                self.net_event(key, NetEvent::Syn(0));
            }
            Work::Send { .. }
                if socket.target.is_some_and(|target| self.net.targets[target].behaviour.answer == Answer::Deaf) => {}
            Work::Send { buffer, from } => {
                let rest = &buffer[*from..];
                let len = if is_short { self.random.range(1, rest.len() as u64) as usize } else { rest.len() };
                op.result = Some(if socket.reset { Err(libc::EPIPE) } else { Ok(len) });
                socket.request.extend_from_slice(&rest[..len]);
                socket.last_sent = now;
                let asks = !socket.asked && socket.request.ends_with(b"\r\n\r\n");
                socket.asked |= asks;
                let target = socket.target.filter(|_| asks);
                self.net.wake(key, slot);
                if let Some(target) = target.map(|target| &self.net.targets[target]).filter(|target| target.is_http) {
                    let answers = response(&mut self.random, &target.behaviour);
                    self.net.redirects += u64::from(target.behaviour.answer == Answer::RedirectHome);
                    for (after, sent) in answers {
                        self.schedule(now + after, Event::Net(key, NetEvent::Arrived(sent)));
                    }
                }
            }
            Work::Recv(_) => {
                if !socket.arrived.is_empty() {
                    self.net.wake(key, slot);
                }
            }
        }
    }

    /// Something happens to a socket in the network. Never our own thread's doing.
    pub fn net_event(&mut self, key: SocketKey, event: NetEvent) {
        let (now, is_near) = (self.now, self.is_unaware || self.now - self.stall_end <= NEAR);
        let Some(socket) = self.net.find(key) else { return };
        match event {
            NetEvent::Syn(n) => {
                socket.retransmits = n;
                let behaviour = socket.target.map(|target| self.net.targets[target].behaviour);
                let (door, latency) = behaviour.map_or((Door::Refuse, Duration::ZERO), |b| (b.door, b.latency));
                let (after, next) = match door {
                    Door::Open | Door::Itself => (latency, NetEvent::Established),
                    Door::Refuse => (latency, NetEvent::Refused(libc::ECONNREFUSED)),
                    Door::Drop => (Duration::from_secs(1 << n.min(6)), NetEvent::Syn(n + 1)),
                };
                if let Some(socket) = self.net.find(key) {
                    socket.itself = door == Door::Itself;
                }
                self.schedule(now + after, Event::Net(key, next));
            }
            NetEvent::Established => {
                socket.rtt = now - socket.submitted;
                socket.last_ack = now;
                socket.connected = Some(Ok(()));
                socket.ended.happened(now, is_near);
                if let Some(op) = &mut socket.ops[0] {
                    op.result.get_or_insert(Ok(0));
                }
                self.net.wake(key, 0);
                self.note(9, || format!("socket {}: established", key.index));
            }
            NetEvent::Refused(errno) => {
                socket.connected = Some(Err(errno));
                if let Some(op) = &mut socket.ops[0] {
                    op.result.get_or_insert(Err(errno));
                }
                self.net.wake(key, 0);
                self.note(10, || format!("socket {}: refused", key.index));
            }
            NetEvent::Arrived(sent) => {
                socket.last_ack = now;
                match &sent {
                    Sent::Bytes(_) => socket.last_data = now,
                    Sent::Reset => socket.reset = true,
                    Sent::Fin => {}
                }
                socket.ended.happened(now, is_near);
                socket.arrived.push_back(sent);
                self.net.wake(key, 1);
                self.note(11, || format!("socket {}: something arrived", key.index));
            }
        }
    }

    /// Makes the completion of an operation that has its result, or was cancelled.
    fn complete(&mut self, key: SocketKey, slot: usize) -> Option<Completion> {
        let is_short = self.random.chance(self.weather.short);
        let wins = self.random.below(2) == 0;
        let socket = self.net.find(key)?;
        let Pending { token, work, cancelled, submitted, result, .. } = socket.ops[slot].take()?;
        // A cancelled operation may have had its own result first.
        let cancelled =
            cancelled && !(submitted && wins && (result.is_some() || (slot == 1 && !socket.arrived.is_empty())));
        let result = if cancelled { Some(Err(libc::ECANCELED)) } else { result };
        let (result, buffer) = match work {
            Work::Connect => (result.unwrap_or(Err(libc::ECANCELED)), None),
            Work::Send { buffer, .. } => (result.unwrap_or(Err(libc::ECANCELED)), Some(buffer)),
            Work::Recv(mut buffer) => {
                let short = if is_short { 1 + self.random.below(buffer.len() as u64) as usize } else { buffer.len() };
                let socket = self.net.find(key)?;
                (result.unwrap_or_else(|| read(&mut socket.arrived, &mut buffer[..short])), Some(buffer))
            }
        };
        let socket = self.net.find(key)?;
        if slot == 0 && socket.connected.is_none() {
            socket.connected = Some(Err(libc::ECANCELED));
        }
        self.net.tokens.remove(&token.0);
        self.net.completions += 1;
        let code = result.map_or_else(|errno| errno as u64, |bytes| (bytes as u64) << 8);
        self.note(12 + code, || format!("{token:?} on socket {} completes: {result:?}", key.index));
        Some(Completion { token, result, buffer })
    }
}

/// The kernel counts ages in ticks of its own, 4 ms at 250 Hz.
fn in_ticks(age: Duration) -> Duration {
    Duration::from_millis(age.as_millis() as u64 / 4 * 4)
}

fn read(arrived: &mut VecDeque<Sent>, buffer: &mut [u8]) -> Result<usize, i32> {
    match arrived.front_mut() {
        None => Err(libc::EAGAIN),
        Some(Sent::Fin) => Ok(0),
        Some(Sent::Reset) => Err(libc::ECONNRESET),
        Some(Sent::Bytes(bytes)) => {
            let len = bytes.len().min(buffer.len());
            buffer[..len].copy_from_slice(&bytes[..len]);
            bytes.drain(..len);
            if bytes.is_empty() {
                arrived.pop_front();
            }
            Ok(len)
        }
    }
}
