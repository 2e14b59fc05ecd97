//! The kernel's side of listeners, as plainly as it can be told.

use super::*;
use crate::ebpf::listen_drops::{ListenDrops, Recounted};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Socket(pub(super) u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    /// Between its LISTEN event and the end of `listen()`, since then.
    Middle(Instant),
    Open,
}

#[derive(Debug)]
struct Slot {
    netns_cookie: u64,
    addr: SocketAddr,
    state: State,
    queue_len: u32,
    drops: u32,
    transparent: bool,
    /// Something asked for it.
    has_cookie: bool,
}

#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) now: Instant,
    pub(super) ring: VecDeque<ListenerEvent>,
    drops: u64,
    /// The ring buffer has no room.
    pub(super) drop_events: bool,
    /// The program does not run at all.
    pub(super) is_blind: bool,
    /// A record of the ring buffer is in the making: none after it can be read.
    pub(super) is_stuck: bool,
    /// The program is on the raw tracepoint.
    pub(super) is_raw: bool,
    pub(super) has_sk_lookup: bool,
    counters: Arc<Counters>,
    sockets: BTreeMap<Socket, Slot>,
    /// ListenDrops, by namespace.
    listen_drops: BTreeMap<u64, u64>,
    /// Lost requests of which only the drop has been counted, and since when.
    half_lost: Vec<(u64, Instant)>,
    /// The sweep's.
    recounted: BTreeMap<u64, Recounted>,
    /// The dumps under way that are of some ports alone.
    partial: BTreeMap<u64, Box<[u16]>>,
}

impl Kernel {
    pub(super) fn new(counters: Arc<Counters>) -> Self {
        Self {
            now: Instant::from_secs(100),
            ring: VecDeque::new(),
            drops: 0,
            drop_events: false,
            is_blind: false,
            is_stuck: false,
            is_raw: false,
            has_sk_lookup: false,
            counters,
            sockets: BTreeMap::new(),
            listen_drops: BTreeMap::new(),
            half_lost: Vec::new(),
            recounted: BTreeMap::new(),
            partial: BTreeMap::new(),
        }
    }

    pub(super) fn socket(&mut self, netns_cookie: u64, addr: &str) -> Socket {
        let socket = Socket(self.sockets.len() as u64 + 1);
        let addr = addr.parse().expect("an address");
        let state = State::Closed;
        let slot = Slot { netns_cookie, addr, state, queue_len: 0, drops: 0, transparent: false, has_cookie: false };
        self.sockets.insert(socket, slot);
        socket
    }

    /// A socket in the middle of `listen()`.
    pub(super) fn listen(&mut self, netns_cookie: u64, addr: &str) -> Socket {
        let socket = self.socket(netns_cookie, addr);
        self.begin_listen(socket);
        socket
    }

    pub(super) fn open(&mut self, netns_cookie: u64, addr: &str) -> Socket {
        let socket = self.listen(netns_cookie, addr);
        self.end_listen(socket, true);
        socket
    }

    pub(super) fn begin_listen(&mut self, socket: Socket) {
        if self.slot(socket).state == State::Closed {
            self.slot(socket).state = State::Middle(self.now);
            self.tell(socket, true);
        }
    }

    pub(super) fn end_listen(&mut self, socket: Socket, works: bool) {
        if !matches!(self.slot(socket).state, State::Middle(_)) {
            return;
        }
        if works {
            self.slot(socket).state = State::Open;
        } else {
            self.slot(socket).state = State::Closed;
            self.tell(socket, false);
        }
    }

    pub(super) fn close(&mut self, socket: Socket) {
        if self.slot(socket).state == State::Open {
            self.slot(socket).state = State::Closed;
            self.tell(socket, false);
        }
    }

    /// A `listen()` does not last for ever.
    pub(super) fn end_old_listens(&mut self, age_max: Duration) {
        let is_old = |slot: &Slot| matches!(slot.state, State::Middle(since) if since + age_max <= self.now);
        let old: Vec<Socket> = self.sockets.iter().filter(|(_, slot)| is_old(slot)).map(|(id, _)| *id).collect();
        for socket in old {
            self.end_listen(socket, socket.0.is_multiple_of(2));
        }
    }

    pub(super) fn is_in_the_middle(&self, netns_cookie: u64, port: u16) -> bool {
        self.sockets.values().any(|slot| {
            matches!(slot.state, State::Middle(_)) && (slot.netns_cookie, slot.addr.port()) == (netns_cookie, port)
        })
    }

    /// The listeners that could; each of `::` is a dual-stack one.
    pub(super) fn could_answer(&self, netns_cookie: u64, addr: SocketAddr) -> Vec<Socket> {
        let could_answer = |slot: &Slot| {
            let is_there = slot.state == State::Open && slot.netns_cookie == netns_cookie;
            let (own, port) = (slot.addr.ip(), slot.addr.port());
            let is_wildcard = own.is_unspecified() && (own.is_ipv6() || addr.is_ipv4());
            is_there && port == addr.port() && (own == addr.ip() || is_wildcard)
        };
        self.sockets.iter().filter(|(_, slot)| could_answer(slot)).map(|(socket, _)| *socket).collect()
    }

    pub(super) fn queue(&mut self, socket: Socket, len: u32) {
        self.slot(socket).queue_len = len;
    }

    /// A segment that is none of a connection's.
    pub(super) fn drop_stray(&mut self, socket: Socket) {
        self.slot(socket).drops += 1;
    }

    pub(super) fn lose_request(&mut self, socket: Socket) {
        self.half_lose_request(socket);
        self.end_half_lost(Duration::ZERO);
    }

    /// ListenDrops is counted later.
    pub(super) fn half_lose_request(&mut self, socket: Socket) {
        self.slot(socket).drops += 1;
        let netns_cookie = self.slot(socket).netns_cookie;
        self.half_lost.push((netns_cookie, self.now));
    }

    pub(super) fn end_half_lost(&mut self, age_min: Duration) {
        let old = self.half_lost.extract_if(.., |(_, since)| *since + age_min <= self.now);
        for (netns_cookie, _) in old {
            *self.listen_drops.entry(netns_cookie).or_default() += 1;
        }
    }

    pub(super) fn make_transparent(&mut self, socket: Socket) {
        self.slot(socket).transparent = true;
    }

    /// The next dump of this namespace is of these ports.
    pub(super) fn ask(&mut self, netns_cookie: u64, ports: Option<Box<[u16]>>) {
        match ports {
            Some(ports) => self.partial.insert(netns_cookie, ports),
            None => self.partial.remove(&netns_cookie),
        };
    }

    pub(super) fn dump(&mut self, netns_cookie: u64, which: impl Fn(Socket) -> bool) -> Vec<DiagListener> {
        let mut listed = Vec::new();
        let ports = self.partial.get(&netns_cookie);
        for (socket, slot) in &mut self.sockets {
            let is_of =
                slot.netns_cookie == netns_cookie && ports.is_none_or(|ports| ports.contains(&slot.addr.port()));
            if slot.state != State::Open || !is_of || !which(*socket) {
                continue;
            }
            slot.has_cookie = true;
            listed.push(DiagListener {
                socket_cookie: socket.0,
                addr: slot.addr.ip(),
                port: slot.addr.port(),
                ipv6_only: false,
                device: 0,
                transparent: slot.transparent,
                queue_len: slot.queue_len,
                queue_max: 5,
                drops: slot.drops,
            });
        }
        if ports.is_none() {
            self.recounted.entry(netns_cookie).or_default().list(&listed);
        }
        listed
    }

    pub(super) fn end_dump(&mut self, netns_cookie: u64) -> ListenDrops {
        let recounted = self.recounted.entry(netns_cookie).or_default();
        let read = || Some(self.listen_drops.get(&netns_cookie).copied().unwrap_or_default());
        match self.partial.remove(&netns_cookie) {
            Some(_) => recounted.end_partial_dump(read),
            None => recounted.end_dump(self.now, read),
        }
    }

    pub(super) fn drops(&self) -> u64 {
        self.drops
    }

    fn slot(&mut self, socket: Socket) -> &mut Slot {
        self.sockets.get_mut(&socket).expect("made before")
    }

    /// What the program does: first the event (or its loss), then the counter.
    fn tell(&mut self, socket: Socket, opened: bool) {
        if self.is_blind {
            return;
        }
        let slot = &self.sockets[&socket];
        let mut address = [0; 16];
        let family = match slot.addr.ip() {
            IpAddr::V4(ip) => {
                address[..4].copy_from_slice(&ip.octets());
                FAMILY_V4
            }
            IpAddr::V6(ip) => {
                address = ip.octets();
                FAMILY_V6
            }
        };
        let event = ListenerEvent {
            time_ns: self.now.as_nanos(),
            socket_cookie: if self.is_raw && !slot.has_cookie { 0 } else { socket.0 },
            netns_cookie: slot.netns_cookie,
            address,
            port: slot.addr.port(),
            family,
            opened: u8::from(opened),
            ..ListenerEvent::default()
        };
        if self.drop_events {
            self.drops += 1;
        } else {
            self.ring.push_back(event);
        }
        self.counters.bump(counter_slot(event.netns_cookie, event.port));
        // No two events at one time.
        self.now = self.now + Duration::from_nanos(1);
    }
}

impl Feed for Kernel {
    fn drain(&mut self, each: &mut dyn FnMut(&ListenerEvent)) -> Drained {
        while !self.is_stuck
            && let Some(event) = self.ring.pop_front()
        {
            each(&event);
        }
        Drained { is_empty: !self.is_stuck, drops: self.drops }
    }
}
