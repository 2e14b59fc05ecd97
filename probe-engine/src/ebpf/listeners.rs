//! The listener table: every listening TCP socket that an event or a dump told of, by socket cookie.
//!
//! A LISTEN event comes before the socket has its port (`inet_csk_listen_start`), and may be taken back: such a listener is
//! **tentative** until a dump that began after the event shows it, or its LISTEN -> CLOSE comes. Several listeners may
//! share a port, and one socket may listen, stop and listen again: each time is a generation.
//!
//! Bound: [`limits::LISTENERS_MAX`] listeners. Pure: time is a parameter, nothing is asked of the kernel.
//!
//! **Invariant:** a dump confirms a generation only if it began after that generation's LISTEN event, and the table has heard
//! of every event that came before the socket was listed. (At a LISTEN -> CLOSE event the socket is out of the kernel's hash
//! already, so such a dump cannot have seen an earlier one.)

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hashbrown::HashTable;
use probe_core::schedule::mix;
use probe_core::time::Instant;
use probe_ebpf::{FAMILY_V4, ListenerEvent};
use slab::Slab;

use super::answer::Why;
use super::listen_drops::ListenDrops;
use super::sock_diag::DiagListener;
use crate::limits;

mod queue;
#[cfg(test)]
mod tests;

use queue::Queue;

/// Complete dumps in a row that must not show a listener before it is taken out without an event.
const MISSED_MAX: u8 = 2;

/// One listening socket.
#[derive(Clone, Debug)]
pub struct Listener {
    /// `idiag_cookie`
    pub socket_cookie: u64,
    /// `SO_NETNS_COOKIE` of its namespace.
    pub netns_cookie: u64,
    /// Local address as the kernel holds it; a v4-mapped one is an [`IpAddr::V6`].
    pub addr: IpAddr,
    /// Local port; 0 = `listen()` without a bind, not told yet.
    pub port: u16,
    /// IPV6_V6ONLY
    pub ipv6_only: bool,
    /// Counts up with every LISTEN event of the socket; 0 = learned from a dump.
    pub generation: u32,
    /// A dump showed this generation.
    confirmed: bool,
    /// When its LISTEN event was; `None` = learned from a dump.
    opened: Option<Instant>,
    /// The dump that showed it last, by its id.
    shown: Option<u64>,
    /// Complete dumps since then that did not.
    missed: u8,
    queue: Queue,
}

/// A dump of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dump {
    /// Of this one alone.
    pub id: u64,
    /// It was asked for after this.
    pub began: Instant,
    /// What was known of lost connection requests around it. Its end tells; until then nothing.
    pub listen_drops: ListenDrops,
}

/// A listener that an event closed.
#[derive(Clone, Debug)]
pub struct Closed {
    /// As it was.
    pub listener: Listener,
    /// It had been seen open; otherwise its `listen()` failed, or was never looked at.
    pub confirmed: bool,
}

/// The table has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// What the table knows of a listener that a dump lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// All but its queue.
    Known,
    /// It had another address or port there (auto-bound: only now it has its port).
    Moved {
        /// The port that it had.
        from: u16,
    },
    /// Nothing: [`Listeners::learn`] puts it in.
    Unknown,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Listeners {
    listeners: Slab<Listener>,
    /// Indices of them, found by their cookie. The kernel counts cookies up: nobody chooses one, so a plain mix will do.
    by_cookie: HashTable<u32>,
    spaces: HashMap<u64, Space>,
    /// Ports in all [`Space::unclear`].
    unclear_len: usize,
    /// What the newest dump has shown. Nothing, once another listener has come or gone.
    sight: Sight,
    stray_drops: u64,
}

/// What a dump has shown of the listeners in the table.
#[derive(Clone, Copy, Debug, Default)]
struct Sight {
    dump_id: u64,
    listeners: usize,
    /// Of these, how many have [`Listener::trouble`].
    in_trouble: usize,
}

/// One network namespace.
#[derive(Debug, Default)]
pub(super) struct Space {
    ports: HashMap<u16, Port>,
    /// Listeners at all of them.
    len: usize,
    /// Ports at which something opened or closed that has no cookie (raw tracepoint), and when last.
    unclear: HashMap<u16, Instant>,
}

/// The listeners of a port: canonical address and index, in the order of both. So those of an address, and the
/// wildcards, are found without a look at the others.
type Port = Vec<(IpAddr, u32)>;

/// Which listeners of a port could answer: the same ones for all addresses of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Those of the wildcards, over IPv4: no listener has the address itself.
    V4,
    /// Those of the wildcard, over IPv6.
    V6,
    /// Those of this canonical address, and the wildcards; of an unspecified one, all.
    At(IpAddr),
}

/// The listeners of one network namespace, to be looked at.
#[derive(Clone, Copy, Debug)]
pub struct Inside<'a> {
    table: &'a Slab<Listener>,
    space: Option<&'a Space>,
}

impl<'a> Inside<'a> {
    /// Those of a port.
    #[must_use]
    pub fn at(self, port: u16) -> Listening<'a> {
        let port = self.space.and_then(|space| space.ports.get(&port));
        Listening { table: self.table, port: port.map_or(&[], Vec::as_slice) }
    }

    /// A LISTEN event of this port is neither confirmed nor refuted by what is known up to this dump.
    #[must_use]
    pub fn is_unsettled(self, port: u16, dump: Dump) -> bool {
        self.is_unclear(port, dump) || self.at(port).has_tentative()
    }

    /// One of a listener without a cookie is neither.
    #[must_use]
    pub fn is_unclear(self, port: u16, dump: Dump) -> bool {
        let unclear = self.space.filter(|space| !space.unclear.is_empty());
        let at = unclear.and_then(|space| space.unclear.get(&port));
        at.is_some_and(|at| dump.began < *at + limits::TENTATIVE_MAX)
    }
}

/// The listeners of one port, to be looked at.
#[derive(Clone, Copy, Debug)]
pub struct Listening<'a> {
    table: &'a Slab<Listener>,
    port: &'a [(IpAddr, u32)],
}

impl<'a> Listening<'a> {
    /// Every one.
    pub fn iter(self) -> impl Iterator<Item = &'a Listener> {
        self.port.iter().filter_map(move |(_, index)| self.table.get(*index as usize))
    }

    /// Every one that could answer a connection to an address of this class: those of the address itself, of the wildcard, of
    /// a dual-stack `::` for IPv4, each SO_REUSEPORT member. One bound to a device counts.
    pub fn candidates(self, class: Class) -> impl Iterator<Item = &'a Listener> {
        const V4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        const V6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let (own, v4, v6): (&[_], &[_], &[_]) = match class {
            // connect(2) takes it for loopback.
            Class::At(ip) if ip.is_unspecified() => (self.port, &[], &[]),
            Class::At(ip @ IpAddr::V4(_)) => (self.at(ip), self.at(V4), self.at(V6)),
            Class::At(ip) => (self.at(ip), &[], self.at(V6)),
            Class::V4 => (&[], self.at(V4), self.at(V6)),
            Class::V6 => (&[], &[], self.at(V6)),
        };
        let places = own.iter().chain(v4).chain(v6);
        places
            .filter_map(move |(_, index)| self.table.get(*index as usize))
            .filter(move |listener| listener.could_answer(class))
    }

    /// There is one of those.
    #[must_use]
    pub fn has_candidate(self, class: Class) -> bool {
        // Found without a look at the listener itself.
        matches!(class, Class::At(ip) if !self.at(ip).is_empty()) || self.candidates(class).next().is_some()
    }

    /// Which listeners could answer a connection to this address.
    #[must_use]
    pub fn class_of(self, ip: IpAddr) -> Class {
        match ip.to_canonical() {
            ip if ip.is_unspecified() || !self.at(ip).is_empty() => Class::At(ip),
            IpAddr::V4(_) => Class::V4,
            IpAddr::V6(_) => Class::V6,
        }
    }

    /// One is neither confirmed nor refuted.
    #[must_use]
    pub fn has_tentative(self) -> bool {
        self.iter().any(|listener| !listener.confirmed)
    }

    /// The addresses of all but the wildcards, canonical and in order; one may come several times in a row.
    pub fn own_addresses(self) -> impl Iterator<Item = IpAddr> {
        self.port.iter().map(|(ip, _)| *ip).filter(|ip| !ip.is_unspecified())
    }

    fn at(self, ip: IpAddr) -> &'a [(IpAddr, u32)] {
        let begin = self.port.partition_point(|(other, _)| *other < ip);
        let len = self.port[begin..].iter().take_while(|(other, _)| *other == ip).count();
        &self.port[begin..begin + len]
    }
}

impl Listeners {
    /// Listeners in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.listeners.len()
    }

    /// None.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.listeners.is_empty()
    }

    /// How often a listener had new drops, none of them of a connection request. Counts up.
    #[must_use]
    pub fn stray_drops(&self) -> u64 {
        self.stray_drops
    }

    /// CLOSE -> LISTEN: a new generation, tentative.
    ///
    /// # Errors
    /// No room: nothing is known of it.
    pub fn open(&mut self, event: &ListenerEvent) -> Result<(), Full> {
        let at = Instant::from_nanos(event.time_ns);
        if event.socket_cookie == 0 {
            return self.unclear(event.netns_cookie, event.port, at);
        }
        let before = self.take(event.socket_cookie);
        if self.is_full() {
            return Err(Full);
        }
        self.put(Listener {
            socket_cookie: event.socket_cookie,
            netns_cookie: event.netns_cookie,
            addr: address_of(event),
            port: event.port,
            ipv6_only: event.ipv6_only != 0,
            generation: before.map_or(1, |listener| listener.generation.saturating_add(1)),
            confirmed: false,
            opened: Some(at),
            shown: None,
            missed: 0,
            queue: Queue::default(),
        });
        Ok(())
    }

    /// LISTEN -> CLOSE. `None` = it was not in the table.
    ///
    /// # Errors
    /// It has no cookie, and there is no room to remember its port.
    pub fn close(&mut self, event: &ListenerEvent) -> Result<Option<Closed>, Full> {
        if event.socket_cookie == 0 {
            self.unclear(event.netns_cookie, event.port, Instant::from_nanos(event.time_ns))?;
            return Ok(None);
        }
        let listener = self.take(event.socket_cookie);
        Ok(listener.map(|listener| Closed { confirmed: listener.confirmed, listener }))
    }

    /// A socket with this cookie is in the table.
    #[must_use]
    pub fn is_known(&self, socket_cookie: u64) -> bool {
        self.index_of(socket_cookie).is_some()
    }

    /// A dump lists this one. To be told once every event was seen that came before it was listed.
    pub fn show(&mut self, netns_cookie: u64, diag: &DiagListener, dump: Dump) -> Shown {
        let index = self.index_of(diag.socket_cookie);
        let Some(listener) = index.and_then(|index| self.listeners.get_mut(index as usize)) else {
            return Shown::Unknown;
        };
        if listener.netns_cookie != netns_cookie {
            return Shown::Unknown;
        }
        if listener.opened.is_some_and(|opened| opened >= dump.began) {
            // The dump may have seen the generation before.
            return Shown::Known;
        }
        let is_again = listener.was_shown(dump);
        listener.confirmed = true;
        listener.shown = Some(dump.id);
        listener.missed = 0;
        self.stray_drops += u64::from(listener.queue.see(diag, dump));
        if self.sight.dump_id != dump.id {
            self.sight = Sight { dump_id: dump.id, ..Sight::default() };
        }
        self.sight.listeners += usize::from(!is_again);
        self.sight.in_trouble += usize::from(listener.trouble().is_some());
        if (listener.addr, listener.port, listener.ipv6_only) == (diag.addr, diag.port, diag.ipv6_only) {
            return Shown::Known;
        }
        let from = listener.port;
        if let Some(listener) = self.take(diag.socket_cookie) {
            self.put(Listener { addr: diag.addr, port: diag.port, ipv6_only: diag.ipv6_only, ..listener });
        }
        Shown::Moved { from }
    }

    /// A dump lists this one, and no event ever told of it.
    ///
    /// # Errors
    /// No room.
    pub fn learn(&mut self, netns_cookie: u64, diag: &DiagListener, dump: Dump) -> Result<(), Full> {
        self.take(diag.socket_cookie);
        if self.is_full() {
            return Err(Full);
        }
        let mut queue = Queue::default();
        queue.see(diag, dump);
        self.put(Listener {
            socket_cookie: diag.socket_cookie,
            netns_cookie,
            addr: diag.addr,
            port: diag.port,
            ipv6_only: diag.ipv6_only,
            generation: 0,
            confirmed: true,
            opened: None,
            shown: Some(dump.id),
            missed: 0,
            queue,
        });
        Ok(())
    }

    /// A complete dump was told whole: what it should have shown and did not is taken out (a tentative
    /// one after [`limits::TENTATIVE_MAX`], a confirmed one at the second such dump). The port of each that was. It was of
    /// these ports, or of all.
    pub fn end_dump(&mut self, netns_cookie: u64, ports: Option<&[u16]>, dump: Dump) -> Vec<u16> {
        let Some(space) = self.spaces.get_mut(&netns_cookie) else { return Vec::new() };
        self.unclear_len -= space.unclear.len();
        let is_of = |port: &u16| ports.is_none_or(|ports| ports.contains(port));
        space.unclear.retain(|port, at| !is_of(port) || *at + limits::TENTATIVE_MAX > dump.began);
        self.unclear_len += space.unclear.len();
        if self.sight.has_shown_all(space, dump) {
            // As a rule.
            return Vec::new();
        }
        let mut gone = Vec::new();
        let all = space.ports.values().filter(|_| ports.is_none());
        let these = ports.into_iter().flatten().filter_map(|port| space.ports.get(port));
        for (_, index) in all.chain(these).flatten() {
            let Some(listener) = self.listeners.get_mut(*index as usize) else { continue };
            if listener.was_shown(dump) || listener.opened.is_some_and(|opened| opened >= dump.began) {
                continue;
            }
            listener.missed = listener.missed.saturating_add(1);
            let opened = listener.opened.unwrap_or(Instant::ZERO);
            let is_gone = match listener.confirmed {
                true => listener.missed >= MISSED_MAX,
                false => dump.began >= opened + limits::TENTATIVE_MAX,
            };
            if is_gone {
                gone.push(listener.socket_cookie);
            }
        }
        gone.into_iter().filter_map(|cookie| self.take(cookie)).map(|listener| listener.port).collect()
    }

    /// This dump has shown every listener of the namespace, and found none in trouble: so all of them are confirmed, and
    /// nothing is unclear. That is the rule, after [`Listeners::end_dump`]; false may also mean that it is not known.
    #[must_use]
    pub fn are_well(&self, netns_cookie: u64, dump: Dump) -> bool {
        let is_well = |space: &Space| {
            space.unclear.is_empty() && self.sight.has_shown_all(space, dump) && self.sight.in_trouble == 0
        };
        self.spaces.get(&netns_cookie).is_some_and(is_well)
    }

    /// Those of a namespace.
    #[must_use]
    pub fn inside(&self, netns_cookie: u64) -> Inside<'_> {
        Inside { table: &self.listeners, space: self.spaces.get(&netns_cookie) }
    }

    /// Takes out what is known of ports that nobody depends on: an event was lost, so it may not be true any more, or there
    /// is no room for it.
    pub fn keep_only(&mut self, mut is_watched: impl FnMut(u64, u16) -> bool) {
        let (by_cookie, listeners) = (&mut self.by_cookie, &mut self.listeners);
        self.spaces.retain(|netns_cookie, space| {
            space.ports.retain(|port, places| {
                let keep = is_watched(*netns_cookie, *port);
                if !keep {
                    space.len -= places.len();
                    for (_, index) in places {
                        let listener = listeners.remove(*index as usize);
                        let found = by_cookie.find_entry(mix(listener.socket_cookie), |other| other == index);
                        if let Ok(entry) = found {
                            entry.remove();
                        }
                    }
                }
                keep
            });
            space.unclear.retain(|port, _| is_watched(*netns_cookie, *port));
            !space.ports.is_empty() || !space.unclear.is_empty()
        });
        self.unclear_len = self.spaces.values().map(|space| space.unclear.len()).sum();
    }

    fn index_of(&self, socket_cookie: u64) -> Option<u32> {
        let listeners = &self.listeners;
        let is_it = |index: &u32| listeners[*index as usize].socket_cookie == socket_cookie;
        self.by_cookie.find(mix(socket_cookie), is_it).copied()
    }

    fn unclear(&mut self, netns_cookie: u64, port: u16, at: Instant) -> Result<(), Full> {
        let known = self.spaces.get_mut(&netns_cookie).and_then(|space| space.unclear.get_mut(&port));
        if let Some(known) = known {
            *known = at;
            return Ok(());
        }
        if self.is_full() {
            return Err(Full);
        }
        self.spaces.entry(netns_cookie).or_default().unclear.insert(port, at);
        self.unclear_len += 1;
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.listeners.len() + self.unclear_len >= limits::LISTENERS_MAX
    }

    /// Its cookie is not in the table.
    fn put(&mut self, listener: Listener) {
        let space = self.spaces.entry(listener.netns_cookie).or_default();
        let (port, ip, cookie) = (listener.port, listener.addr.to_canonical(), listener.socket_cookie);
        self.sight = Sight::default();
        let index = self.listeners.insert(listener) as u32;
        space.len += 1;
        let places = space.ports.entry(port).or_default();
        places.insert(places.partition_point(|place| *place < (ip, index)), (ip, index));
        let listeners = &self.listeners;
        self.by_cookie.insert_unique(mix(cookie), index, |index| mix(listeners[*index as usize].socket_cookie));
    }

    fn take(&mut self, socket_cookie: u64) -> Option<Listener> {
        let listeners = &self.listeners;
        let is_it = |index: &u32| listeners[*index as usize].socket_cookie == socket_cookie;
        let (index, _) = self.by_cookie.find_entry(mix(socket_cookie), is_it).ok()?.remove();
        self.sight = Sight::default();
        let listener = self.listeners.remove(index as usize);
        let Some(space) = self.spaces.get_mut(&listener.netns_cookie) else { return Some(listener) };
        if let Some(places) = space.ports.get_mut(&listener.port) {
            if let Ok(place) = places.binary_search(&(listener.addr.to_canonical(), index)) {
                places.remove(place);
                space.len -= 1;
            }
            if places.is_empty() {
                space.ports.remove(&listener.port);
            }
        }
        if space.ports.is_empty() && space.unclear.is_empty() {
            self.spaces.remove(&listener.netns_cookie);
        }
        Some(listener)
    }
}

impl Sight {
    fn has_shown_all(self, space: &Space, dump: Dump) -> bool {
        (self.dump_id, self.listeners) == (dump.id, space.len)
    }
}

impl Listener {
    /// A dump showed it since its last LISTEN event.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        self.confirmed
    }

    /// This dump showed it.
    #[must_use]
    pub fn was_shown(&self, dump: Dump) -> bool {
        self.shown == Some(dump.id)
    }

    /// What the newest dump said against it: its accept queue is full (strictly more than the limit) or stuck (non-empty
    /// twice without shrinking), or it lost connection requests.
    #[must_use]
    pub fn trouble(&self) -> Option<Why> {
        if cfg!(feature = "bite-queue") {
            return None;
        }
        self.queue.trouble()
    }

    /// Connections waiting to be accepted, and the limit, at the newest dump.
    #[must_use]
    pub fn queue(&self) -> (u32, u32) {
        (self.queue.len, self.queue.max)
    }

    /// By its address alone (`inet_rcv_saddr_equal`, `compute_score`).
    #[must_use]
    pub fn could_answer(&self, class: Class) -> bool {
        let own = self.addr.to_canonical();
        let is_v4 = match class {
            Class::At(ip) if ip.is_unspecified() || ip == own => return true,
            Class::At(ip) => ip.is_ipv4(),
            Class::V4 => true,
            Class::V6 => false,
        };
        own.is_unspecified() && if own.is_ipv4() { is_v4 } else { !is_v4 || !self.ipv6_only }
    }
}

/// The local address of an event.
fn address_of(event: &ListenerEvent) -> IpAddr {
    if event.family == FAMILY_V4 {
        let [a, b, c, d, ..] = event.address;
        return IpAddr::V4(Ipv4Addr::new(a, b, c, d));
    }
    IpAddr::V6(Ipv6Addr::from(event.address))
}
