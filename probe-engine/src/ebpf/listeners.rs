//! The listener table: every listening TCP socket that an event or a dump told of, by socket cookie.
//!
//! A LISTEN event comes before the socket has its port (`inet_csk_listen_start`), and may be taken back: such a listener is
//! **tentative** until a dump that began after the event shows it, or its LISTEN -> CLOSE comes. Several listeners may
//! share a port, and one socket may listen, stop and listen again: each time is a generation.
//!
//! Bound: [`limits::LISTENERS_MAX`] listeners. Pure: time is a parameter, nothing is asked of the kernel.
//!
//! **Invariant:** a dump confirms a generation only if it began after that generation's LISTEN event. (At a LISTEN -> CLOSE
//! event the socket is out of the kernel's hash already, so such a dump cannot have seen an earlier one.)

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use probe_core::time::Instant;
use probe_ebpf::{FAMILY_V4, ListenerEvent};

use super::answer::Why;
use super::sock_diag::DiagListener;
use crate::limits;

#[cfg(test)]
mod tests;

/// Two samples of an accept queue are compared when they are at least this far apart, so that looks in between (at a
/// registration, at a change) do not call a busy queue stuck.
const SAMPLE_AGE_MIN: Duration = Duration::from_nanos(limits::SWEEP_PERIOD.as_nanos() as u64 / 2);

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

/// What the dumps said of an accept queue.
#[derive(Clone, Copy, Debug, Default)]
struct Queue {
    /// At the newest dump.
    len: u32,
    max: u32,
    drops: u32,
    /// At a dump at least [`SAMPLE_AGE_MIN`] before the judgement: when, length, drops.
    sample: Option<(Instant, u32, u32)>,
    stuck: bool,
    dropping: bool,
}

/// A dump of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dump {
    /// Of this one alone.
    pub id: u64,
    /// It was asked for after this.
    pub began: Instant,
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

/// See the module.
#[derive(Debug, Default)]
pub struct Listeners {
    by_cookie: HashMap<u64, Listener>,
    spaces: HashMap<u64, Space>,
    /// Ports in all [`Space::unclear`].
    unclear_len: usize,
}

/// One network namespace.
#[derive(Debug, Default)]
struct Space {
    /// Socket cookies by local port.
    ports: HashMap<u16, Vec<u64>>,
    /// Ports at which something opened or closed that has no cookie (raw tracepoint), and when last.
    unclear: HashMap<u16, Instant>,
}

impl Listeners {
    /// Listeners in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_cookie.len()
    }

    /// None.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_cookie.is_empty()
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

    /// A dump lists this one. False = it is not in the table ([`Listeners::learn`] puts it in).
    pub fn show(&mut self, netns_cookie: u64, diag: &DiagListener, dump: Dump) -> bool {
        let Some(listener) = self.by_cookie.get_mut(&diag.socket_cookie) else { return false };
        if listener.netns_cookie != netns_cookie {
            return false;
        }
        if listener.opened.is_some_and(|opened| opened >= dump.began) {
            // The dump may have seen the generation before.
            return true;
        }
        listener.confirmed = true;
        listener.shown = Some(dump.id);
        listener.missed = 0;
        listener.queue.see(diag, dump.began);
        if (listener.addr, listener.port, listener.ipv6_only) != (diag.addr, diag.port, diag.ipv6_only) {
            // Auto-bound: only now it has its port.
            let listener = self.take(diag.socket_cookie);
            if let Some(listener) = listener {
                self.put(Listener { addr: diag.addr, port: diag.port, ipv6_only: diag.ipv6_only, ..listener });
            }
        }
        true
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
        queue.see(diag, dump.began);
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
    /// one after [`limits::TENTATIVE_MAX`], a confirmed one at the second such dump). How many were.
    pub fn end_dump(&mut self, netns_cookie: u64, dump: Dump) -> usize {
        let Some(space) = self.spaces.get_mut(&netns_cookie) else { return 0 };
        self.unclear_len -= space.unclear.len();
        space.unclear.retain(|_, at| *at + limits::TENTATIVE_MAX > dump.began);
        self.unclear_len += space.unclear.len();
        let mut gone = Vec::new();
        for cookie in space.ports.values().flatten() {
            let Some(listener) = self.by_cookie.get_mut(cookie) else { continue };
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
                gone.push(*cookie);
            }
        }
        for cookie in &gone {
            self.take(*cookie);
        }
        gone.len()
    }

    /// Every listener that could answer a connection to this address in this namespace: those of the address itself, of
    /// the wildcard, of a dual-stack `::` for IPv4, each SO_REUSEPORT member. One bound to a device counts.
    pub fn candidates(&self, netns_cookie: u64, addr: std::net::SocketAddr) -> impl Iterator<Item = &Listener> {
        self.on_port(netns_cookie, addr.port()).filter(move |listener| listener.could_answer(addr.ip()))
    }

    /// A LISTEN event of this port is neither confirmed nor refuted by what is known up to this dump.
    #[must_use]
    pub fn is_unsettled(&self, netns_cookie: u64, port: u16, dump: Dump) -> bool {
        let unclear = self.spaces.get(&netns_cookie).and_then(|space| space.unclear.get(&port));
        unclear.is_some_and(|at| dump.began < *at + limits::TENTATIVE_MAX)
            || self.on_port(netns_cookie, port).any(|listener| !listener.confirmed)
    }

    /// Takes out what is known of ports that nobody depends on: an event was lost, so it may not be true any more, or there
    /// is no room for it.
    pub fn keep_only(&mut self, mut is_watched: impl FnMut(u64, u16) -> bool) {
        let by_cookie = &mut self.by_cookie;
        self.spaces.retain(|netns_cookie, space| {
            space.ports.retain(|port, cookies| {
                let keep = is_watched(*netns_cookie, *port);
                if !keep {
                    for cookie in cookies {
                        by_cookie.remove(cookie);
                    }
                }
                keep
            });
            space.unclear.retain(|port, _| is_watched(*netns_cookie, *port));
            !space.ports.is_empty() || !space.unclear.is_empty()
        });
        self.unclear_len = self.spaces.values().map(|space| space.unclear.len()).sum();
    }

    fn on_port(&self, netns_cookie: u64, port: u16) -> impl Iterator<Item = &Listener> {
        let cookies = self.spaces.get(&netns_cookie).and_then(|space| space.ports.get(&port));
        cookies.into_iter().flatten().filter_map(|cookie| self.by_cookie.get(cookie))
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
        self.by_cookie.len() + self.unclear_len >= limits::LISTENERS_MAX
    }

    fn put(&mut self, listener: Listener) {
        let space = self.spaces.entry(listener.netns_cookie).or_default();
        space.ports.entry(listener.port).or_default().push(listener.socket_cookie);
        self.by_cookie.insert(listener.socket_cookie, listener);
    }

    fn take(&mut self, socket_cookie: u64) -> Option<Listener> {
        let listener = self.by_cookie.remove(&socket_cookie)?;
        let Some(space) = self.spaces.get_mut(&listener.netns_cookie) else { return Some(listener) };
        if let Some(cookies) = space.ports.get_mut(&listener.port) {
            cookies.retain(|cookie| *cookie != socket_cookie);
            if cookies.is_empty() {
                space.ports.remove(&listener.port);
            }
        }
        if space.ports.is_empty() && space.unclear.is_empty() {
            self.spaces.remove(&listener.netns_cookie);
        }
        Some(listener)
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
        match self.queue {
            Queue { len, max, .. } if len > max => Some(Why::AcceptQueueFull),
            Queue { stuck: true, .. } => Some(Why::AcceptStalled),
            Queue { dropping: true, .. } => Some(Why::ListenerDrops),
            _ => None,
        }
    }

    /// Connections waiting to be accepted, and the limit, at the newest dump.
    #[must_use]
    pub fn queue(&self) -> (u32, u32) {
        (self.queue.len, self.queue.max)
    }

    /// By its address alone (`inet_rcv_saddr_equal`, `compute_score`).
    #[must_use]
    pub fn could_answer(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        if ip.is_unspecified() {
            // connect(2) takes it for loopback.
            return true;
        }
        match (self.addr, ip) {
            (IpAddr::V6(own), _) if own.is_unspecified() => ip.is_ipv6() || !self.ipv6_only,
            (own, _) => {
                let own = own.to_canonical();
                own == ip || (own.is_unspecified() && ip.is_ipv4())
            }
        }
    }
}

impl Queue {
    fn see(&mut self, diag: &DiagListener, at: Instant) {
        (self.len, self.max, self.drops) = (diag.queue_len, diag.queue_max, diag.drops);
        let Some((sampled, len, drops)) = self.sample else {
            self.sample = Some((at, diag.queue_len, diag.drops));
            return;
        };
        let (is_stuck, is_dropping) = (diag.queue_len > 0 && len > 0 && diag.queue_len >= len, diag.drops != drops);
        // Between two samples trouble can come to an end only by its cause: an emptier queue. New drops show at once.
        self.stuck &= is_stuck;
        self.dropping |= is_dropping;
        if at >= sampled + SAMPLE_AGE_MIN {
            (self.stuck, self.dropping) = (is_stuck, is_dropping);
            self.sample = Some((at, diag.queue_len, diag.drops));
        }
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
