use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use probe_core::id::{ContainerId, ContainerName};
use probe_core::spec::ContainerKind;
use probe_ebpf::{FAMILY_V4, FAMILY_V6, counter_slot};

use super::*;
use crate::ebpf::netns::NetnsRef;
use crate::ebpf::target::{ChildLookup, Found, Place};
use crate::results::fixture::{container, pod};

mod drops;
mod groups;
mod model;
mod properties;

use model::{Kernel, Socket};

const NETNS: u64 = 7;
const OTHER: u64 = 8;

#[derive(Debug)]
struct NoLookup;

impl ChildLookup for NoLookup {
    fn child(&self, _: SocketAddr, _: SocketAddr) -> Found {
        Found::Unknown
    }
}

/// A listener of the daemon's own that can be made to fail.
struct Own {
    counters: Arc<Counters>,
    works: bool,
}

impl SelfTest for Own {
    fn slot(&self) -> u32 {
        counter_slot(1, 1)
    }

    fn listen_and_stop(&mut self) -> io::Result<()> {
        for _ in 0..if self.works { 2 } else { 1 } {
            self.counters.bump(self.slot());
        }
        Ok(())
    }
}

/// A watch, a kernel that is a model, and the clock.
struct World {
    watch: Watch,
    kernel: Kernel,
    counters: Arc<Counters>,
    stats: Arc<EbpfStats>,
    now: Instant,
    next_id: u64,
    /// In which each target was granted its lease.
    granted: BTreeMap<u64, Arc<Group>>,
}

impl World {
    fn new() -> Self {
        Self::with(PassiveSettings::default())
    }

    /// Its self-test has passed.
    fn with(settings: PassiveSettings) -> Self {
        let (counters, stats) = (Arc::new(Counters::fake()), Arc::new(EbpfStats::default()));
        let now = Instant::from_secs(100);
        let watch = Watch::new(Arc::new(settings), Arc::clone(&counters), Arc::clone(&stats), true, now);
        let kernel = Kernel::new(Arc::clone(&counters));
        let granted = BTreeMap::new();
        let mut world = Self { watch, kernel, counters, stats, now, next_id: 1, granted };
        world.self_test(true);
        world
    }

    fn self_test(&mut self, works: bool) {
        let mut own = Own { counters: Arc::clone(&self.counters), works };
        self.watch.self_test(&mut own, self.now);
    }

    fn advance(&mut self, by: Duration) {
        self.now = self.now + by;
        self.kernel.now = self.now;
    }

    fn target(&mut self, netns_cookie: u64, addr: &str) -> Arc<Target> {
        let id = self.next_id;
        self.next_id += 1;
        let target = Arc::new(Target::new(
            id,
            0,
            pod("uid", "web", [container("c", ContainerKind::Regular, &[])]),
            &ContainerName::from("c"),
            ContainerId::from("c-1"),
            NetnsRef::at(netns_cookie.to_string()),
            addr.parse().expect("an address"),
        ));
        self.watch.register(Arc::clone(&target));
        target
    }

    /// Answers every question at once, as the sweep would.
    fn answer(&mut self) {
        while let Some(question) = self.watch.poll_question() {
            match question {
                Question::Place(target) => self.placed(&target),
                Question::Dump { netns_cookie, ports } => {
                    self.kernel.ask(netns_cookie, ports);
                    let listeners = self.kernel.dump(netns_cookie, |_| true);
                    self.watch.handle_told(Told::Part { netns_cookie, listeners }, self.now);
                    self.dumped(netns_cookie, true);
                }
            }
        }
    }

    fn placed(&mut self, target: &Arc<Target>) {
        let NetnsRef::Path(path) = &target.netns else { panic!("a path") };
        let netns_cookie = path.parse().expect("a number");
        let slot = counter_slot(netns_cookie, target.addr().port());
        let place = Ok(Place { netns_cookie, slot, lookup: Arc::new(NoLookup) });
        self.watch.handle_told(Told::Placed { target: Arc::clone(target), place }, self.now);
    }

    fn dumped(&mut self, netns_cookie: u64, complete: bool) {
        let (sk_lookup, listen_drops) = (self.kernel.has_sk_lookup, self.kernel.end_dump(netns_cookie));
        self.watch.handle_told(Told::Dumped { netns_cookie, complete, sk_lookup, listen_drops }, self.now);
    }

    fn finish(&mut self) {
        self.watch.finish_looks(&mut self.kernel, self.now);
    }

    /// A sweep, `SWEEP_PERIOD` after whatever was before.
    fn sweep(&mut self) {
        self.advance(limits::SWEEP_PERIOD);
        self.answer();
        self.watch.begin_sweep(self.now);
        self.answer();
        self.finish();
    }

    /// Looks that are wanted before the next sweep, up to `within` from now.
    fn looks(&mut self, within: Duration) {
        let end = self.now + within;
        loop {
            let at = self.watch.poll_timeout();
            if at > end {
                break;
            }
            self.now = self.now.max(at);
            self.kernel.now = self.now;
            self.watch.handle_timeout(self.now);
            self.answer();
            self.finish();
            self.advance(Duration::from_micros(10));
        }
        self.now = self.now.max(end);
        self.kernel.now = self.now;
    }

    /// The watch reads the count of lost events, and none of those in the ring buffer.
    fn hear_of_losses_alone(&mut self) {
        self.kernel.is_stuck = true;
        self.watch.begin_sweep(self.now);
        self.answer();
        self.finish();
        self.kernel.is_stuck = false;
    }

    fn pump(&mut self) {
        while let Some(event) = self.kernel.ring.pop_front() {
            self.watch.handle_event(&event, self.now);
        }
    }

    fn is_settled(&self, target: &Target) -> bool {
        target.before(&self.counters).is_some_and(|before| before.is_settled())
    }

    /// A connect that worked.
    fn lease(&mut self, target: &Target) -> Result<(), Why> {
        target.forget_end();
        let before = target.before(&self.counters);
        let before = before.ok_or_else(|| target.look_found().unwrap_or(Why::LookOld))?;
        let group = target.grant(&self.counters, before, self.now + Duration::from_secs(60), self.now)?;
        self.granted.insert(target.id, group);
        Ok(())
    }

    fn held(&self, target: &Target, value: u64) -> Result<(), Why> {
        target.held(&self.counters, &self.granted[&target.id], value, self.now)
    }

    fn value(&self, target: &Target) -> u64 {
        let group = target.group().expect("it is placed");
        self.counters.load(group.place().expect("its place is known").slot)
    }

    fn notices(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        while let Some(notice) = self.watch.poll_notice() {
            told.push(match notice {
                Notice::Contradicted { everywhere, .. } => format!("contradicted {everywhere}"),
                Notice::AcceptQueueFull(queued) => format!("full {} {}/{}", queued.listener, queued.len, queued.max),
                Notice::AcceptStalled(queued) => format!("stalled {} {}/{}", queued.listener, queued.len, queued.max),
                Notice::Touch(target) => format!("touch {}", target.addr()),
            });
        }
        told
    }

    /// A listener and a target of it that has a lease.
    fn leased(&mut self, netns_cookie: u64, addr: &str) -> (Socket, Arc<Target>) {
        let socket = self.kernel.open(netns_cookie, addr);
        let target = self.target(netns_cookie, addr);
        self.sweep();
        self.sweep();
        assert_eq!(self.lease(&target), Ok(()));
        (socket, target)
    }
}

#[test]
fn a_target_earns_its_lease_after_a_look_and_loses_it_when_looks_end() {
    let mut world = World::new();
    let (_, target) = world.leased(NETNS, "10.0.0.1:80");
    let value = world.value(&target);
    assert_eq!(world.held(&target, value), Ok(()));
    world.advance(limits::LOOK_AGE_MAX);
    assert_eq!(world.held(&target, value), Err(Why::LookOld));
    world.sweep();
    assert_eq!(world.held(&target, value), Ok(()));
}

#[test]
fn nothing_is_settled_until_a_listen_that_began_before_us_must_have_ended() {
    let mut world = World::new();
    world.kernel.open(NETNS, "10.0.0.1:80");
    let target = world.target(NETNS, "10.0.0.1:80");
    world.answer();
    world.looks(limits::TENTATIVE_MAX / 2);
    assert!(!world.is_settled(&target));
    world.looks(limits::TENTATIVE_MAX * 2);
    assert!(world.is_settled(&target));
}

#[test]
fn a_registration_is_looked_at_soon() {
    let mut world = World::new();
    world.sweep();
    world.kernel.open(NETNS, "10.0.0.1:80");
    world.sweep();
    let target = world.target(NETNS, "10.0.0.1:80");
    world.answer();
    world.looks(Duration::from_millis(5));
    assert_eq!(world.lease(&target), Ok(()));
}

#[test]
fn a_second_listener_is_confirmed_within_milliseconds() {
    let mut world = World::new();
    let (_, target) = world.leased(NETNS, "10.0.0.1:80");
    let value = world.value(&target);
    let second = world.kernel.listen(NETNS, "0.0.0.0:80");
    world.pump();
    assert_eq!(world.held(&target, value), Err(Why::Changed));
    world.looks(Duration::from_millis(3));
    assert!(!world.is_settled(&target));
    world.kernel.end_listen(second, true);
    world.looks(Duration::from_millis(8));
    assert_eq!(world.lease(&target), Ok(()));
}

/// The next question is a dump: of which ports.
fn asked(world: &mut World) -> Option<Vec<u16>> {
    world.watch.handle_timeout(world.now);
    let question = world.watch.poll_question();
    let Some(Question::Dump { netns_cookie, ports }) = question else { panic!("{question:?}") };
    world.kernel.ask(netns_cookie, ports.clone());
    let listeners = world.kernel.dump(netns_cookie, |_| true);
    world.watch.handle_told(Told::Part { netns_cookie, listeners }, world.now);
    world.dumped(netns_cookie, true);
    world.finish();
    ports.map(Vec::from)
}

#[test]
fn between_two_sweeps_it_is_looked_at_what_has_changed_and_nothing_else() {
    let mut world = World::new();
    let ports: Vec<u16> = (80..90).collect();
    let open = |port: &u16| world.leased(NETNS, &format!("10.0.0.1:{port}")).1;
    let targets: Vec<_> = ports.iter().map(open).collect();
    world.sweep();
    let value = world.value(&targets[1]);
    assert_eq!(world.held(&targets[1], value), Ok(()));
    world.kernel.open(NETNS, "10.0.0.1:80");
    world.pump();
    assert!(!world.is_settled(&targets[0]) && world.is_settled(&targets[1]));
    world.advance(limits::CONFIRM_WAIT_MIN);
    assert_eq!(asked(&mut world), Some(vec![80]));
    assert!(world.is_settled(&targets[0]), "the dump has shown both of its listeners");
    // What the other ports rest on is as old as it was: nobody has looked.
    world.advance(limits::LOOK_AGE_MAX - limits::CONFIRM_WAIT_MIN);
    assert_eq!(targets[0].group().expect("it is placed").look(world.now), Ok(()));
    assert_eq!(world.held(&targets[1], value), Err(Why::LookOld));
}

#[test]
fn where_many_ports_have_changed_it_is_looked_at_all() {
    for (changed, is_all) in [(limits::LOOK_PORTS_MAX, false), (limits::LOOK_PORTS_MAX + 1, true)] {
        let mut world = World::new();
        let _held: Vec<_> = (80..90).map(|port| world.leased(NETNS, &format!("10.0.0.1:{port}"))).collect();
        world.sweep();
        for port in 0..changed {
            world.kernel.open(NETNS, &format!("10.0.0.1:{}", 80 + port));
        }
        world.pump();
        world.advance(limits::CONFIRM_WAIT_MIN);
        assert_eq!(asked(&mut world).is_none(), is_all, "{changed} ports");
    }
}

#[test]
fn a_look_at_one_port_does_not_forget_what_holds_for_the_namespace() {
    let mut world = World::new();
    let (_, target) = world.leased(NETNS, "10.0.0.1:80");
    let elsewhere = world.kernel.open(NETNS, "10.0.0.1:99");
    world.kernel.make_transparent(elsewhere);
    world.sweep();
    assert_eq!(target.look_found(), Some(Why::Transparent));
    world.kernel.open(NETNS, "10.0.0.1:80");
    world.pump();
    world.advance(limits::CONFIRM_WAIT_MIN);
    assert_eq!(asked(&mut world), Some(vec![80]));
    assert_eq!(target.look_found(), Some(Why::Transparent));
}

#[test]
fn a_sweep_that_finds_a_look_at_some_ports_under_way_is_made_up_for_at_its_end() {
    let mut world = World::new();
    let _held = world.leased(NETNS, "10.0.0.1:80");
    world.sweep();
    world.kernel.open(NETNS, "10.0.0.1:80");
    world.pump();
    world.advance(limits::CONFIRM_WAIT_MIN);
    world.watch.handle_timeout(world.now);
    let question = world.watch.poll_question();
    assert!(matches!(question, Some(Question::Dump { ports: Some(_), .. })), "{question:?}");
    world.watch.begin_sweep(world.now);
    assert!(world.watch.poll_question().is_none(), "one dump of a namespace at a time");
    world.dumped(NETNS, true);
    world.finish();
    assert_eq!(asked(&mut world), None);
}

#[test]
fn a_listen_that_fails_settles_and_leaves_the_good_listener() {
    let mut world = World::new();
    let (_, target) = world.leased(NETNS, "10.0.0.1:80");
    let second = world.kernel.listen(NETNS, "10.0.0.1:80");
    world.kernel.end_listen(second, false);
    world.pump();
    world.looks(Duration::from_millis(3));
    assert_eq!(world.lease(&target), Ok(()));
    assert_eq!(world.watch.listeners().len(), 1);
}

#[test]
fn a_listener_that_is_never_shown_is_given_up_in_time() {
    let mut world = World::new();
    let (_, target) = world.leased(NETNS, "10.0.0.1:80");
    world.kernel.listen(NETNS, "10.0.0.1:80");
    world.pump();
    world.looks(limits::TENTATIVE_MAX - Duration::from_millis(100));
    assert!(!world.is_settled(&target));
    world.looks(Duration::from_secs(2));
    assert!(world.is_settled(&target));
}

#[test]
fn an_event_that_comes_while_a_dump_is_made_is_not_settled_by_it() {
    let mut world = World::new();
    let (_, target) = world.leased(NETNS, "10.0.0.1:80");
    world.advance(limits::SWEEP_PERIOD);
    world.kernel.listen(NETNS, "0.0.0.0:80");
    // In the ring buffer still when the sweep begins, and when its dump ends.
    world.advance(Duration::from_millis(1));
    world.watch.begin_sweep(world.now);
    world.answer();
    world.finish();
    assert!(!world.is_settled(&target));
    assert_eq!(target.look_found(), Some(Why::Tentative));
}

#[test]
fn nothing_follows_from_a_ring_buffer_that_could_not_be_emptied() {
    let mut world = World::new();
    let (_, target) = world.leased(NETNS, "10.0.0.1:80");
    let second = world.kernel.listen(NETNS, "0.0.0.0:80");
    world.kernel.end_listen(second, false);
    world.kernel.is_stuck = true;
    world.sweep();
    assert!(!world.is_settled(&target));
    world.kernel.is_stuck = false;
    world.sweep();
    assert!(world.is_settled(&target));
}

#[test]
fn a_listener_that_closed_while_it_was_listed_is_not_learned() {
    let mut world = World::new();
    let target = world.target(NETNS, "10.0.0.1:80");
    world.sweep();
    world.sweep();
    world.kernel.drop_events = true;
    let socket = world.kernel.open(NETNS, "10.0.0.1:80");
    world.kernel.drop_events = false;
    world.advance(limits::SWEEP_PERIOD);
    world.watch.begin_sweep(world.now);
    let Some(Question::Dump { netns_cookie, ports: None }) = world.watch.poll_question() else { panic!("a dump") };
    let listeners = world.kernel.dump(netns_cookie, |_| true);
    assert_eq!(listeners.len(), 1);
    world.kernel.close(socket);
    world.pump();
    world.watch.handle_told(Told::Part { netns_cookie, listeners }, world.now);
    world.dumped(netns_cookie, true);
    world.finish();
    assert!(world.watch.listeners().is_empty());
    assert_eq!(target.look_found(), Some(Why::NoListener));
}

#[test]
fn a_close_that_is_read_late_does_not_hide_the_next_listen_of_its_socket() {
    let mut world = World::new();
    let (socket, target) = world.leased(NETNS, "10.0.0.1:80");
    world.kernel.close(socket);
    world.kernel.drop_events = true;
    world.kernel.begin_listen(socket);
    world.kernel.end_listen(socket, true);
    world.kernel.drop_events = false;
    world.hear_of_losses_alone();
    // The dump lists the socket before the close is read.
    world.sweep();
    assert_eq!((world.watch.listeners().len(), target.look_found()), (1, None));
    assert!(world.is_settled(&target));
}

#[test]
fn a_listen_that_is_read_late_does_not_undo_what_the_dump_has_shown() {
    let mut world = World::new();
    let (socket, target) = world.leased(NETNS, "10.0.0.1:80");
    world.kernel.drop_events = true;
    world.kernel.close(socket);
    world.kernel.drop_events = false;
    world.kernel.begin_listen(socket);
    world.kernel.end_listen(socket, true);
    world.hear_of_losses_alone();
    // The dump lists the socket, of which the table has the generation before; and the new one is of an age at which
    // whatever no dump has shown is refuted.
    world.sweep();
    assert_eq!((world.watch.listeners().len(), target.look_found()), (1, None));
    assert!(world.is_settled(&target));
}

#[test]
fn lost_events_settle_nothing_until_a_dump_that_began_long_enough_after() {
    let mut world = World::new();
    let (_, target) = world.leased(NETNS, "10.0.0.1:80");
    world.kernel.drop_events = true;
    let second = world.kernel.listen(NETNS, "0.0.0.0:80");
    world.kernel.drop_events = false;
    world.advance(limits::SWEEP_PERIOD / 2);
    world.watch.begin_sweep(world.now);
    world.answer();
    world.finish();
    assert!(!world.is_settled(&target));
    world.kernel.end_listen(second, true);
    world.sweep();
    assert_eq!(world.lease(&target), Ok(()));
    assert_eq!((world.stats.reconciles.load(Relaxed), world.stats.events_dropped.load(Relaxed)), (1, 1));
    assert_eq!(world.watch.listeners().len(), 2);
}

#[test]
fn an_incomplete_dump_says_nothing() {
    let mut world = World::new();
    let (_, target) = world.leased(NETNS, "10.0.0.1:80");
    for _ in 0..3 {
        world.advance(limits::SWEEP_PERIOD);
        world.watch.begin_sweep(world.now);
        assert!(matches!(world.watch.poll_question(), Some(Question::Dump { .. })));
        world.dumped(NETNS, false);
        world.finish();
    }
    assert_eq!(world.watch.listeners().len(), 1);
    assert_eq!(target.look_found(), None);
    let value = world.value(&target);
    assert_eq!(world.held(&target, value), Err(Why::LookOld));
}

#[test]
fn a_listener_that_no_event_announced_ends_the_lease() {
    let mut world = World::new();
    let (_, target) = world.leased(NETNS, "10.0.0.1:80");
    let (_, aside) = world.leased(NETNS, "10.0.0.2:81");
    let value = world.value(&target);
    world.kernel.is_blind = true;
    world.kernel.open(NETNS, "0.0.0.0:80");
    world.sweep();
    assert_eq!(world.held(&target, value), Err(Why::Changed));
    assert_eq!(world.held(&aside, world.value(&aside)), Ok(()));
    assert_eq!((world.stats.unannounced.load(Relaxed), world.stats.voids.load(Relaxed)), (1, 1));
    assert_eq!(world.lease(&target), Ok(()));
}

#[test]
fn a_listener_that_ended_without_an_event_is_gone_after_two_sweeps() {
    let mut world = World::new();
    let (socket, target) = world.leased(NETNS, "10.0.0.1:80");
    world.kernel.is_blind = true;
    world.kernel.close(socket);
    world.sweep();
    // The look before it holds until it is too old.
    assert_eq!((target.look_found(), world.watch.listeners().len()), (None, 1));
    world.sweep();
    assert_eq!((target.look_found(), world.watch.listeners().len()), (Some(Why::NoListener), 0));
}

#[cfg(not(any(feature = "bite-queue", feature = "bite-candidates")))]
#[test]
fn one_full_member_of_many_ends_passive_answers_and_is_told_once() {
    let mut world = World::new();
    let (_, target) = world.leased(NETNS, "10.0.0.1:80");
    let member = world.kernel.open(NETNS, "10.0.0.1:80");
    world.sweep();
    assert_eq!(world.lease(&target), Ok(()));
    world.kernel.queue(member, 6);
    world.sweep();
    world.sweep();
    assert_eq!(world.held(&target, world.value(&target)), Err(Why::AcceptQueueFull));
    assert_eq!(world.notices(), ["full 10.0.0.1:80 6/5"]);
    assert_eq!(world.stats.accept_queues_full.load(Relaxed), 1);
    world.kernel.queue(member, 0);
    world.sweep();
    assert_eq!(world.held(&target, world.value(&target)), Ok(()));
    assert_eq!(world.stats.accept_queues_full.load(Relaxed), 0);
}

#[cfg(not(feature = "bite-queue"))]
#[test]
fn a_queue_that_is_not_emptied_is_told_at_the_second_sweep() {
    let mut world = World::new();
    let (socket, target) = world.leased(NETNS, "10.0.0.1:80");
    world.kernel.queue(socket, 1);
    world.sweep();
    assert!(world.notices().is_empty());
    world.sweep();
    assert_eq!(world.notices(), ["stalled 10.0.0.1:80 1/5"]);
    assert_eq!(target.look_found(), Some(Why::AcceptStalled));
    assert_eq!(world.stats.accept_queues_stalled.load(Relaxed), 1);
    // The target goes, and with it its part of the gauge.
    drop(target);
    world.sweep();
    world.sweep();
    assert_eq!((world.watch.targets_len(), world.stats.accept_queues_stalled.load(Relaxed)), (0, 0));
}

#[test]
fn without_a_listener_there_is_no_passive_answer() {
    let mut world = World::new();
    let target = world.target(NETNS, "10.0.0.1:80");
    world.sweep();
    world.sweep();
    assert_eq!(target.look_found(), Some(Why::NoListener));
    assert_eq!(world.lease(&target), Err(Why::NoListener));
}

#[test]
fn a_transparent_listener_or_an_sk_lookup_program_ends_those_of_its_namespace() {
    let mut world = World::new();
    let (_, target) = world.leased(NETNS, "10.0.0.1:80");
    let (_, other) = world.leased(OTHER, "10.0.0.1:80");
    let socket = world.kernel.open(NETNS, "10.0.0.9:15001");
    world.kernel.make_transparent(socket);
    world.sweep();
    assert_eq!((target.look_found(), other.look_found()), (Some(Why::Transparent), None));
    world.kernel.close(socket);
    world.sweep();
    assert_eq!(target.look_found(), None);
    world.kernel.has_sk_lookup = true;
    world.sweep();
    assert_eq!((target.look_found(), other.look_found()), (Some(Why::SkLookup), Some(Why::SkLookup)));
}

#[test]
fn a_failed_self_test_ends_all_leases_until_one_passes() {
    let mut world = World::new();
    let (_, target) = world.leased(NETNS, "10.0.0.1:80");
    let value = world.value(&target);
    world.self_test(false);
    assert_eq!(world.held(&target, value), Err(Why::SelfTest));
    assert_eq!(world.lease(&target), Err(Why::SelfTest));
    world.sweep();
    assert_eq!(world.lease(&target), Err(Why::SelfTest));
    assert_eq!(world.stats.feed_healthy.load(Relaxed), 0);
    world.self_test(true);
    world.sweep();
    assert_eq!(world.lease(&target), Ok(()));
    assert_eq!((world.stats.feed_healthy.load(Relaxed), world.stats.self_tests_failed.load(Relaxed)), (1, 1));
}

#[test]
fn before_the_first_self_test_nothing_is_settled() {
    let mut world = World::new();
    world.watch.feed = None;
    world.kernel.open(NETNS, "10.0.0.1:80");
    let target = world.target(NETNS, "10.0.0.1:80");
    world.sweep();
    world.sweep();
    assert_eq!(world.lease(&target), Err(Why::SelfTest));
    world.self_test(true);
    world.sweep();
    assert_eq!(world.lease(&target), Ok(()));
}

#[test]
fn missed_runs_end_all_leases_only_where_the_program_can_be_preempted() {
    let mut world = World::new();
    let (_, target) = world.leased(NETNS, "10.0.0.1:80");
    let value = world.value(&target);
    world.watch.is_preemptible = false;
    world.watch.handle_misses(3, world.now);
    assert_eq!(world.held(&target, value), Ok(()));
    world.watch.is_preemptible = true;
    world.watch.handle_misses(3, world.now);
    assert_eq!(world.held(&target, value), Ok(()));
    world.watch.handle_misses(4, world.now);
    assert_eq!(world.held(&target, value), Err(Why::Changed));
    assert_eq!(world.stats.program_misses.load(Relaxed), 4);
}

#[test]
fn a_failed_audit_that_nothing_explains_ends_the_leases_of_its_namespace() {
    let mut world = World::new();
    let (_, target) = world.leased(NETNS, "10.0.0.1:80");
    let (_, beside) = world.leased(NETNS, "10.0.0.1:81");
    let (_, other) = world.leased(OTHER, "10.0.0.1:80");
    assert_eq!(world.lease(&target), Ok(()));
    let value = world.value(&target);
    world.watch.handle_audit_failed(&target, value, target.epoch(), world.now);
    world.looks(Duration::from_millis(5));
    assert_eq!(world.held(&target, value), Err(Why::Contradicted));
    assert_eq!(world.held(&beside, world.value(&beside)), Err(Why::Contradicted));
    assert_eq!(world.held(&other, world.value(&other)), Ok(()));
    assert_eq!(world.notices(), ["contradicted false"]);
    // A second one in the same namespace stays there, one in another ends all.
    world.watch.handle_audit_failed(&beside, world.value(&beside), beside.epoch(), world.now);
    world.looks(Duration::from_millis(5));
    assert_eq!(world.notices(), ["contradicted false"]);
    assert_eq!(world.lease(&target), Ok(()));
    world.watch.handle_audit_failed(&other, world.value(&other), other.epoch(), world.now);
    world.looks(Duration::from_millis(5));
    assert_eq!(world.notices(), ["contradicted true"]);
    assert_eq!(world.held(&target, value), Err(Why::Contradicted));
    assert_eq!(world.stats.contradictions.load(Relaxed), 3);
}

#[test]
fn contradictions_far_apart_stay_in_their_namespaces() {
    let mut world = World::new();
    let (_, target) = world.leased(NETNS, "10.0.0.1:80");
    let (_, other) = world.leased(OTHER, "10.0.0.1:80");
    world.watch.handle_audit_failed(&target, world.value(&target), target.epoch(), world.now);
    world.looks(Duration::from_millis(5));
    for _ in 0..11 {
        world.sweep();
    }
    world.watch.handle_audit_failed(&other, world.value(&other), other.epoch(), world.now);
    world.looks(Duration::from_millis(5));
    assert_eq!(world.notices(), ["contradicted false", "contradicted false"]);
}

#[cfg(not(feature = "bite-queue"))]
#[test]
fn a_failed_audit_that_a_change_or_a_full_queue_explains_contradicts_nothing() {
    let mut world = World::new();
    let (socket, target) = world.leased(NETNS, "10.0.0.1:80");
    world.watch.handle_audit_failed(&target, world.value(&target), target.epoch(), world.now);
    world.kernel.queue(socket, 6);
    world.looks(Duration::from_millis(5));
    assert_eq!(world.notices(), ["full 10.0.0.1:80 6/5"]);
    world.kernel.queue(socket, 0);
    // A change on the way, which the sweep has heard of.
    let epoch = target.epoch();
    target.void(Why::PathChanged);
    world.watch.handle_audit_failed(&target, world.value(&target), epoch, world.now);
    world.looks(Duration::from_millis(5));
    assert_eq!(world.stats.contradictions.load(Relaxed), 0);
    world.watch.handle_audit_failed(&target, world.value(&target), target.epoch(), world.now);
    world.kernel.close(socket);
    world.looks(Duration::from_millis(5));
    assert!(world.notices().is_empty());
    assert_eq!(world.stats.contradictions.load(Relaxed), 0);
}

#[test]
fn early_detection_touches_the_targets_of_a_listener_that_closes() {
    for early_detection in [true, false] {
        let mut world = World::with(PassiveSettings { early_detection, ..PassiveSettings::default() });
        let (socket, _target) = world.leased(NETNS, "10.0.0.1:80");
        let _aside = world.target(NETNS, "10.0.0.2:80");
        // One that never was is none that closed.
        let failed = world.kernel.listen(NETNS, "10.0.0.1:80");
        world.kernel.end_listen(failed, false);
        world.kernel.close(socket);
        world.pump();
        let touched: &[&str] = if early_detection { &["touch 10.0.0.1:80"] } else { &[] };
        assert_eq!(world.notices(), touched);
    }
}

#[test]
fn a_target_whose_address_goes_away_has_no_lease_and_gets_one_when_it_is_back() {
    let mut world = World::new();
    let (_, target) = world.leased(NETNS, "10.0.0.1:80");
    let value = world.value(&target);
    world.watch.handle_told(Told::Placed { target: Arc::clone(&target), place: Err(Why::NotLocal) }, world.now);
    assert_eq!(world.held(&target, value), Err(Why::NotLocal));
    world.sweep();
    assert_eq!(world.lease(&target), Err(Why::NotLocal));
    world.placed(&target);
    world.sweep();
    assert_eq!(world.lease(&target), Ok(()));
}

#[test]
fn a_dump_of_a_namespace_that_was_left_is_not_taken_for_a_later_one() {
    let mut world = World::new();
    let (_, target) = world.leased(NETNS, "10.0.0.1:80");
    world.advance(limits::SWEEP_PERIOD);
    world.watch.begin_sweep(world.now);
    assert!(matches!(world.watch.poll_question(), Some(Question::Dump { .. })));
    drop(target);
    world.advance(limits::SWEEP_PERIOD);
    world.watch.begin_sweep(world.now);
    assert_eq!(world.watch.targets_len(), 0);
    let again = world.target(NETNS, "10.0.0.1:80");
    world.answer();
    // The look under way began before this target was there: it says nothing of it.
    world.dumped(NETNS, true);
    world.finish();
    assert_eq!(again.look_found(), Some(Why::LookOld));
    world.sweep();
    assert_eq!(world.lease(&again), Ok(()));
}

#[test]
fn a_target_is_let_go_when_its_shard_and_the_sweep_have() {
    let mut world = World::new();
    let (_, target) = world.leased(NETNS, "10.0.0.1:80");
    let sweeps = Arc::clone(&target);
    drop(target);
    world.sweep();
    assert_eq!(world.watch.targets_len(), 1);
    drop(sweeps);
    world.sweep();
    assert_eq!((world.watch.targets_len(), world.watch.namespaces.len()), (0, 0));
}

#[test]
fn a_sweep_over_many_listeners_and_targets_does_not_grow_with_their_product() {
    let mut world = World::new();
    let addr = |index: u32| format!("10.0.0.{}:{}", index % 4 + 1, 1_000 + index / 4);
    for index in 0..16_000 {
        world.kernel.open(NETNS, &addr(index));
    }
    let targets: Vec<_> = (0..10_000).map(|index| world.target(NETNS, &addr(index))).collect();
    world.sweep();
    world.sweep();
    let listeners = world.kernel.dump(NETNS, |_| true);
    let began = crate::clock::now();
    world.advance(limits::SWEEP_PERIOD);
    world.watch.begin_sweep(world.now);
    while world.watch.poll_question().is_some() {}
    world.watch.handle_told(Told::Part { netns_cookie: NETNS, listeners }, world.now);
    world.dumped(NETNS, true);
    world.finish();
    let took = crate::clock::now() - began;
    eprintln!("16,000 listeners, 10,000 targets: {took:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert!(targets.iter().all(|target| world.is_settled(target)));
}
