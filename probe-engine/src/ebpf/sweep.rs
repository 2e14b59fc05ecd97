//! The netlink calls that take their time, on a thread of their own: namespaces are opened here, listeners dumped, routes
//! looked up, and path changes heard of.
//!
//! [`Sweep`] is all of it without a thread; [`spawn`] runs one.
//!
//! **Invariant:** a namespace is listened to before a path in it is looked up, so a change is either in the path or heard
//! of. **Invariant:** voids and cuts of a round come before its lookups.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit};
use probe_core::time::Instant;

use super::answer::Why;
use super::listen_drops::ListenDrops;
use super::netns::{self, Namespace, NetnsError, NetnsRef};
use super::path::{Change, Effect, Path, Side, query};
use super::settings::PassiveSettings;
use super::sock_diag::DiagListener;
use super::stats::EbpfStats;
use super::target::{ChildLookup, Place, Target};
use crate::limits;

mod ending;
mod notices;
mod table;
mod thread;

use ending::Ending;
use notices::Notices;
use table::{AddressKey, Table};
pub use thread::{SweepHandle, spawn};

/// From the watch.
#[derive(Clone, Debug)]
pub enum Question {
    /// Find out where the target is, and follow what leads to it while others hold it (the sweep itself does not).
    Place(Arc<Target>),
    /// List the listeners of a namespace, of both families.
    Dump {
        /// Which.
        netns_cookie: u64,
        /// Those at these ports alone; `None` = all.
        ports: Option<Box<[u16]>>,
    },
}

/// To the watch. A question gives its answer, in order; a dump gives parts and then its end.
#[derive(Clone, Debug)]
pub enum Told {
    /// The answer to [`Question::Place`], and again whenever it becomes another (its address came, or went away).
    Placed {
        /// Which.
        target: Arc<Target>,
        /// Where it is, or why it cannot be answered passively: `NotLocal`, `NetnsUnknown`, `TableFull`,
        /// `SkLookupUnknown`.
        place: Result<Place, Why>,
    },
    /// At most [`crate::limits::DUMP_PART_LEN`] listeners of a dump.
    Part {
        /// Of which namespace.
        netns_cookie: u64,
        /// In no order.
        listeners: Vec<DiagListener>,
    },
    /// The end of a dump.
    Dumped {
        /// Of which namespace.
        netns_cookie: u64,
        /// All of it was told. Otherwise (the netlink socket failed) nothing follows from a listener not being in it.
        complete: bool,
        /// The namespace has an sk_lookup program (BPF_PROG_QUERY), or it could not be asked for one.
        sk_lookup: bool,
        /// Which drops of its listeners may be lost connection requests.
        listen_drops: ListenDrops,
    },
}

/// The sweep could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// The daemon's own namespace.
    #[error(transparent)]
    Own(#[from] NetnsError),
    /// epoll, eventfd or the thread.
    #[error("{call}: {source}; is the daemon out of descriptors or threads?")]
    Start {
        /// Which call.
        call: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// See the module. Bounds: [`limits::NAMESPACES_MAX`], [`limits::TARGETS_MAX`].
#[derive(Debug)]
pub struct Sweep {
    ending: Ending,
    stats: Arc<EbpfStats>,
    /// Cookie of the daemon's namespace.
    own: u64,
    epoll: Epoll,
    namespaces: HashMap<u64, Namespace>,
    /// The cookie of each, by device and inode.
    by_identity: HashMap<(u64, u64), u64>,
    table: Table,
    /// Those whose namespace cannot be opened now, by id: tried again at every [`Sweep::prune`].
    unplaced: HashMap<u64, Weak<Target>>,
    buffer: Box<[u8]>,
    changes: Vec<Change>,
    /// [`Namespace::has_sk_lookup`]; a test's own answer.
    ask_sk_lookup: fn(&Namespace) -> nix::Result<bool>,
    /// Namespaces that could be asked for such programs since the last [`Sweep::prune`]: that is not asked for each of
    /// thousands of new targets. (Whether there is one, each dump asks.)
    asked_sk_lookup: HashSet<u64>,
    notices: Notices,
    /// Whose paths could not be looked up: tried again at every [`Sweep::prune`].
    stale: Vec<AddressKey>,
    /// [`limits::NAMESPACES_MAX`], or fewer where that many would take the descriptors of attempts.
    namespaces_max: usize,
}

/// Descriptors of a [`Namespace`].
const NAMESPACE_FDS: u64 = 8;

/// Readable namespaces told by one epoll_wait(2).
const READY_LEN: usize = 64;
/// Rounds of one [`Sweep::handle_readable`]: under a flood of changes, questions get their turn.
const ROUNDS_MAX: usize = 64;

impl Sweep {
    /// The daemon's namespace is the calling thread's. `seed` spreads the ends of cut leases.
    ///
    /// # Errors
    /// See [`SweepError`].
    pub fn new(settings: &PassiveSettings, seed: u64, stats: Arc<EbpfStats>) -> Result<Self, SweepError> {
        let own = Namespace::open(&NetnsRef::Own)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .map_err(|errno| SweepError::Start { call: "epoll_create1", source: errno.into() })?;
        let mut sweep = Self {
            ending: Ending::new(settings.path_recheck_max, seed, Arc::clone(&stats)),
            stats,
            own: own.cookie,
            epoll,
            namespaces: HashMap::new(),
            by_identity: HashMap::new(),
            table: Table::default(),
            unplaced: HashMap::new(),
            buffer: vec![0; limits::NETLINK_MESSAGE_BYTES_MAX].into(),
            changes: Vec::new(),
            ask_sk_lookup: Namespace::has_sk_lookup,
            asked_sk_lookup: HashSet::new(),
            notices: Notices::default(),
            stale: Vec::new(),
            namespaces_max: namespaces_max(),
        };
        let identity = own.identity().map_err(|source| SweepError::Start { call: "fstat", source })?;
        sweep.keep(identity, own).map_err(|source| SweepError::Start { call: "epoll_ctl", source })?;
        Ok(sweep)
    }

    /// Cookie of the daemon's namespace.
    #[must_use]
    pub fn own_cookie(&self) -> u64 {
        self.own
    }

    /// Answers a question that was asked before `now`.
    pub fn ask(&mut self, question: Question, now: Instant, told: &mut impl FnMut(Told)) {
        match question {
            Question::Place(target) => {
                let place = self.place(&target);
                told(Told::Placed { target, place });
            }
            Question::Dump { netns_cookie, ports } => self.dump(netns_cookie, ports.as_deref(), now, told),
        }
        self.stats.namespaces.store(self.namespaces.len() as u64, Relaxed);
    }

    /// Reads what was announced, and ends the leases it concerns. Never waits for announcements; [`AsFd`] is readable
    /// when there are some.
    pub fn handle_readable(&mut self, now: Instant, told: &mut impl FnMut(Told)) {
        for _ in 0..ROUNDS_MAX {
            let mut ready = [EpollEvent::empty(); READY_LEN];
            let len = self.epoll.wait(&mut ready, EpollTimeout::ZERO).unwrap_or_default();
            if len == 0 {
                return;
            }
            for event in &ready[..len] {
                let netns_cookie = event.data();
                let mut changes = std::mem::take(&mut self.changes);
                if let Some(namespace) = self.namespaces.get(&netns_cookie) {
                    namespace.monitor.read(&mut self.buffer, &mut changes);
                }
                self.changed(netns_cookie, &changes, now, told);
                changes.clear();
                self.changes = changes;
            }
        }
    }

    /// Forgets targets that nobody holds any more, closes namespaces without targets, and tries again to place the rest.
    pub fn prune(&mut self, now: Instant, told: &mut impl FnMut(Told)) {
        for key in std::mem::take(&mut self.stale) {
            self.look_again(key, Effect::Void, now, told);
        }
        self.asked_sk_lookup.clear();
        self.table.prune();
        self.unplaced.retain(|_, target| target.strong_count() > 0);
        let (own, table) = (self.own, &self.table);
        self.namespaces.retain(|cookie, _| *cookie == own || table.has_namespace(*cookie));
        let namespaces = &self.namespaces;
        self.by_identity.retain(|_, cookie| namespaces.contains_key(cookie));
        // Once per path: whoever shares it waits for the next time where it fails.
        let mut failed: Vec<NetnsRef> = Vec::new();
        for target in self.unplaced.values().filter_map(Weak::upgrade).collect::<Vec<_>>() {
            if failed.contains(&target.netns) {
                continue;
            }
            match self.locate(&target) {
                Ok(key) => {
                    self.unplaced.remove(&target.id);
                    self.table.add(key, &target);
                    let place = self.place_first(key, &target);
                    told(Told::Placed { target, place });
                }
                Err(_) => failed.push(target.netns.clone()),
            }
        }
        let waiting: Vec<_> = self.unplaced.values().filter_map(Weak::upgrade).collect();
        self.notices.retain(waiting.iter().map(|target| &target.netns));
        self.stats.namespaces.store(self.namespaces.len() as u64, Relaxed);
    }

    // Places.

    fn place(&mut self, target: &Arc<Target>) -> Result<Place, Why> {
        if let Some(key) = self.table.of_target(target) {
            return self.place_at(key, target);
        }
        let known = self.unplaced.contains_key(&target.id);
        if !known && self.table.targets_len() + self.unplaced.len() >= limits::TARGETS_MAX {
            return Err(Why::TableFull);
        }
        match self.locate(target) {
            Ok(key) => {
                self.unplaced.remove(&target.id);
                self.table.add(key, target);
                self.place_first(key, target)
            }
            Err(why) => {
                self.unplaced.insert(target.id, Arc::downgrade(target));
                Err(why)
            }
        }
    }

    /// The place of a target that is new in the table.
    fn place_first(&mut self, key: AddressKey, target: &Target) -> Result<Place, Why> {
        let netns_cookie = self.table.address(key).map(|address| address.netns_cookie);
        if netns_cookie.is_some_and(|cookie| self.asked_sk_lookup.contains(&cookie)) {
            return self.place_in(key, target);
        }
        let place = self.place_at(key, target)?;
        self.asked_sk_lookup.insert(place.netns_cookie);
        Ok(place)
    }

    fn place_at(&mut self, key: AddressKey, target: &Target) -> Result<Place, Why> {
        let place = self.place_in(key, target)?;
        let namespace = self.namespaces.get(&place.netns_cookie).ok_or(Why::NetnsUnknown)?;
        (self.ask_sk_lookup)(namespace).map_err(|errno| {
            self.notices.sk_lookup_refused(errno);
            Why::SkLookupUnknown
        })?;
        Ok(place)
    }

    fn place_in(&self, key: AddressKey, target: &Target) -> Result<Place, Why> {
        let address = self.table.address(key).ok_or(Why::NetnsUnknown)?;
        if address.path().is_none() {
            return Err(Why::NotLocal);
        }
        let namespace = self.namespaces.get(&address.netns_cookie).ok_or(Why::NetnsUnknown)?;
        let slot = probe_ebpf::counter_slot(namespace.cookie, target.addr().port());
        let lookup: Arc<dyn ChildLookup> = namespace.lookups.clone();
        Ok(Place { netns_cookie: namespace.cookie, slot, lookup })
    }

    /// The target's address in its namespace, whose path is looked up where nobody needed it before.
    fn locate(&mut self, target: &Target) -> Result<AddressKey, Why> {
        let netns_cookie = self.namespace_of(&target.netns)?;
        let address = target.addr().ip().to_canonical();
        if let Some(key) = self.table.of_address(netns_cookie, address) {
            return Ok(key);
        }
        let path = self.look_up(netns_cookie, address).map_err(|errno| {
            tracing::info!(%errno, %address, "rtnetlink gave no answer: tried again");
            Why::NetnsUnknown
        })?;
        Ok(self.table.insert(netns_cookie, address, path))
    }

    /// The namespace, opened where it is not held yet.
    fn namespace_of(&mut self, netns: &NetnsRef) -> Result<u64, Why> {
        if *netns == NetnsRef::Own {
            return Ok(self.own);
        }
        let opened = netns.file().and_then(|file| {
            let identity = netns::identity(&file).map_err(|source| NetnsError::Open { path: netns.path(), source })?;
            Ok((identity, file))
        });
        let held = opened.map(|(identity, file)| match self.by_identity.get(&identity) {
            Some(cookie) => Ok(*cookie),
            None => Err((identity, file)),
        });
        let result = match held {
            Ok(Ok(cookie)) => Ok(cookie),
            Ok(Err(_)) if self.namespaces.len() >= self.namespaces_max => return Err(Why::TableFull),
            Ok(Err((identity, file))) => self.hold(netns, identity, file),
            Err(error) => Err(error),
        };
        match result {
            Ok(cookie) => {
                self.notices.opened(netns);
                Ok(cookie)
            }
            Err(error) => {
                self.notices.not_opened(netns, &error);
                Err(Why::NetnsUnknown)
            }
        }
    }

    fn hold(&mut self, netns: &NetnsRef, identity: (u64, u64), file: File) -> Result<u64, NetnsError> {
        let namespace = Namespace::hold(netns, file)?;
        let cookie = namespace.cookie;
        self.keep(identity, namespace).map_err(|source| NetnsError::Open { path: netns.path(), source })?;
        Ok(cookie)
    }

    fn keep(&mut self, identity: (u64, u64), namespace: Namespace) -> io::Result<()> {
        for fd in namespace.monitor.fds() {
            self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, namespace.cookie))?;
        }
        if let Some(errno) = namespace.monitor.nftables_refused() {
            self.notices.nftables_refused(errno);
        }
        tracing::debug!(inode = namespace.inode, cookie = namespace.cookie, "network namespace held");
        self.by_identity.insert(identity, namespace.cookie);
        match self.namespaces.entry(namespace.cookie) {
            // Through another mount of nsfs. The sockets of the first one go on.
            Entry::Occupied(_) => {}
            Entry::Vacant(place) => {
                place.insert(namespace);
            }
        }
        Ok(())
    }

    fn look_up(&mut self, netns_cookie: u64, address: IpAddr) -> nix::Result<Option<Path>> {
        let gone = nix::errno::Errno::ENOENT;
        if netns_cookie == self.own {
            let own = self.namespaces.get_mut(&self.own).ok_or(gone)?;
            return query::path(&mut own.routes, None, address, &mut self.buffer);
        }
        let [Some(own), Some(there)] = self.namespaces.get_disjoint_mut([&self.own, &netns_cookie]) else {
            return Err(gone);
        };
        query::path(&mut own.routes, Some(&mut there.routes), address, &mut self.buffer)
    }

    // Path changes.

    fn changed(&mut self, netns_cookie: u64, changes: &[Change], now: Instant, told: &mut impl FnMut(Told)) {
        let losses = changes.iter().filter(|change| **change == Change::Loss).count();
        self.stats.path_events.fetch_add((changes.len() - losses) as u64, Relaxed);
        self.stats.path_losses.fetch_add(losses as u64, Relaxed);
        let here = netns_cookie == self.own;
        let side = if here { Side::Here } else { Side::There };
        let mut again = Vec::new();
        for (key, address) in self.table.iter() {
            let at_address = address.netns_cookie == netns_cookie;
            if !here && !at_address {
                continue;
            }
            let effect = address.concerned(side, at_address, changes);
            match effect {
                Effect::None => continue,
                Effect::Cut => self.ending.cut(self.table.targets_at(key), now),
                Effect::Lookup => again.push((key, effect)),
                Effect::Void => {
                    self.ending.void(self.table.targets_at(key));
                    again.push((key, effect));
                }
            }
        }
        for (key, effect) in again {
            self.look_again(key, effect, now, told);
        }
    }

    fn look_again(&mut self, key: AddressKey, effect: Effect, now: Instant, told: &mut impl FnMut(Told)) {
        let Some(address) = self.table.address(key) else {
            return;
        };
        let found = self.look_up(address.netns_cookie, address.address);
        let Some(address) = self.table.address(key) else {
            return;
        };
        match found {
            Err(errno) => {
                tracing::info!(%errno, address = %address.address, "rtnetlink gave no answer: leases end");
                self.ending.void(self.table.targets_at(key));
                self.stale.push(key);
            }
            Ok(path) if path.as_ref() == address.path() => {
                if effect == Effect::Lookup && path.is_some() {
                    self.ending.cut(self.table.targets_at(key), now);
                }
            }
            Ok(path) => {
                let moved = path.is_some() != address.path().is_some();
                self.table.lead(key, path);
                self.ending.void(self.table.targets_at(key));
                if moved {
                    for target in self.table.targets_at(key).collect::<Vec<_>>() {
                        let place = self.place_at(key, &target);
                        told(Told::Placed { target, place });
                    }
                }
            }
        }
    }

    // Dumps.

    fn dump(&mut self, netns_cookie: u64, ports: Option<&[u16]>, now: Instant, told: &mut impl FnMut(Told)) {
        let Some(namespace) = self.namespaces.get_mut(&netns_cookie) else {
            let listen_drops = ListenDrops::default();
            told(Told::Dumped { netns_cookie, complete: false, sk_lookup: false, listen_drops });
            return;
        };
        let Namespace { diag, netstat, listen_drops: recounted, .. } = namespace;
        let mut part = |listeners: Vec<DiagListener>| {
            if ports.is_none() {
                recounted.list(&listeners);
            }
            told(Told::Part { netns_cookie, listeners });
        };
        let complete = match ports {
            None => diag.dump(None, &mut self.buffer, &mut part),
            Some(ports) => {
                // Each of them, whatever became of the one before.
                let mut complete = true;
                for port in ports {
                    complete &= diag.dump(Some(*port), &mut self.buffer, &mut part);
                }
                complete
            }
        };
        let read = || {
            let read = netstat.as_ref()?.listen_drops(&mut self.buffer);
            read.inspect_err(|error| tracing::debug!(%error, "every drop of a listener counts as a lost request")).ok()
        };
        // Not before the dump has ended.
        let listen_drops =
            if ports.is_none() { recounted.end_dump(now, read) } else { recounted.end_partial_dump(read) };
        // Not to know is as bad as that there is one.
        let sk_lookup = (self.ask_sk_lookup)(namespace).unwrap_or_else(|errno| {
            self.notices.sk_lookup_refused(errno);
            true
        });
        told(Told::Dumped { netns_cookie, complete, sk_lookup, listen_drops });
    }
}

/// A quarter of the descriptors that this process may have is left to namespaces: the rest is for attempts.
fn namespaces_max() -> usize {
    let nofile = getrlimit(Resource::RLIMIT_NOFILE).map_or(1_024, |(soft, _)| soft);
    usize::try_from(nofile / 4 / NAMESPACE_FDS).unwrap_or(usize::MAX).clamp(1, limits::NAMESPACES_MAX)
}

/// Readable when there are announcements.
impl AsFd for Sweep {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;
    use crate::results::fixture::pod;

    fn target_at(addr: &str) -> Arc<Target> {
        let addr = addr.parse().expect("an address");
        Arc::new(Target::new(1, 0, pod("u", "web", []), &"app".into(), "id".into(), NetnsRef::Own, addr))
    }

    fn told(sweep: &mut Sweep, question: Question) -> Vec<Told> {
        let mut all = Vec::new();
        sweep.ask(question, crate::clock::now(), &mut |told| all.push(told));
        all
    }

    #[test]
    fn where_sk_lookup_programs_may_not_be_asked_for_nothing_is_answered_passively() {
        let mut sweep =
            Sweep::new(&PassiveSettings::default(), 1, Arc::new(EbpfStats::default())).expect("our own namespace");
        let (netns_cookie, target) = (sweep.own_cookie(), target_at("127.0.0.1:80"));
        for (answer, expected) in [
            ((|_| Ok(false)) as fn(&Namespace) -> nix::Result<bool>, (None, false)),
            (|_| Err(Errno::EPERM), (Some(Why::SkLookupUnknown), true)),
        ] {
            sweep.ask_sk_lookup = answer;
            let placed = told(&mut sweep, Question::Place(Arc::clone(&target)));
            let [Told::Placed { place, .. }] = &placed[..] else { panic!("{placed:?}") };
            let dumped = told(&mut sweep, Question::Dump { netns_cookie, ports: None });
            let Some(Told::Dumped { sk_lookup, .. }) = dumped.last() else { panic!("{dumped:?}") };
            assert_eq!((place.as_ref().err().copied(), *sk_lookup), expected);
        }
        assert!(!sweep.notices.sk_lookup_refused(Errno::EPERM), "it was told");
    }
}
