use std::collections::BTreeMap;
use std::net::IpAddr;

use crossbeam::queue::ArrayQueue;
use probe_core::id::{ContainerName, ProbeType};
use probe_core::outcome::LocalCause;
use probe_core::spec::{Pod, ProbeSpec};

use super::*;
use crate::ebpf::counters::{Connects, Counters};
use crate::ebpf::passive::WatchSender;
use crate::ebpf::settings::ANNOTATION_PASSIVE;
use crate::ebpf::target::{ChildLookup, Found, Group, Place};
use crate::ebpf::{Answer, PassiveSettings};
use crate::shard::kernel::Waker;
use crate::shard::tests::{pod, spec, tcp_socket};

const START: Instant = Instant::from_secs(1_000);
const SLOT: u32 = 80;
const SECOND: Duration = Duration::from_secs(1);

/// A target that nobody watches.
pub(in crate::shard) fn target_at(addr: SocketAddr) -> Target {
    let pod = pod("pod", spec(tcp_socket(addr.port())));
    Target::new(1, 0, pod, &"main".into(), "test://1".into(), NetnsRef::Own, addr)
}

/// Every connection is the target's.
#[derive(Debug)]
pub(in crate::shard) struct Everybody;

impl ChildLookup for Everybody {
    fn child(&self, _: SocketAddr, _: SocketAddr) -> Found {
        Found::Child
    }
}

/// What a shard would be given, and the other end of its way to the watch.
pub(in crate::shard) fn passive(settings: PassiveSettings) -> (Passive, Arc<ArrayQueue<ToWatch>>) {
    let (sender, queue) = WatchSender::new(Waker::new().expect("an eventfd"));
    let (counters, connects) = (Arc::new(Counters::fake()), Arc::new(Connects::fake()));
    (Passive::new(settings, counters, connects, sender), queue)
}

/// One probe of one container, its lease, and a watch that does what a test says.
struct Node {
    passive: Passive,
    queue: Arc<ArrayQueue<ToWatch>>,
    leases: Leases,
    counts: PassiveCounts,
    pod: Arc<Pod>,
    spec: Arc<ProbeSpec>,
    container: ContainerName,
    container_id: ContainerId,
    netns: Option<Arc<str>>,
    lease: Option<LeaseIndex>,
    now: Instant,
}

impl Node {
    fn new(settings: PassiveSettings) -> Self {
        let (passive, queue) = passive(settings);
        let probe = spec(tcp_socket(80));
        Self {
            leases: Leases::new(Ok(passive.clone()), 0, 1, 7, START),
            passive,
            queue,
            counts: PassiveCounts::default(),
            pod: pod("pod", probe.clone()),
            spec: Arc::new(probe),
            container: "main".into(),
            container_id: "test://1".into(),
            netns: None,
            lease: None,
            now: START,
        }
    }

    fn without_audits() -> Self {
        Self::new(PassiveSettings { passive_audit_per_second: 0, ..PassiveSettings::default() })
    }

    /// With a lease that has just been granted.
    fn leased() -> Self {
        let mut node = Self::without_audits();
        assert_eq!(node.attempt(), Answer::Real(Why::First));
        node.watch();
        // The watch did not know the target yet.
        assert_eq!(node.attempt(), Answer::Real(Why::LookOld));
        assert_eq!(node.attempt(), Answer::Passive);
        // A fresh one may be short.
        let ticket = node.ticket(Why::Renewed);
        assert_eq!(node.land(ticket, &success(), Ok(())), Why::Renewed);
        node
    }

    fn addr() -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], 80))
    }

    fn hold(&mut self, held: Option<LeaseIndex>) -> LeaseIndex {
        let target = scheduler::Target {
            pod: &self.pod,
            container: &self.container,
            probe_type: ProbeType::Readiness,
            spec: &self.spec,
            container_id: &self.container_id,
            pod_ip: Some(IpAddr::from([10, 0, 0, 1])),
            netns: self.netns.as_ref(),
        };
        self.leases.hold(held, &target, Self::addr())
    }

    fn target(&mut self) -> Arc<Target> {
        let lease = self.hold(self.lease);
        self.lease = Some(lease);
        Arc::clone(self.leases.target(lease))
    }

    fn group(&mut self) -> Arc<Group> {
        self.target().group().expect("it is placed")
    }

    fn decide(&mut self, must_connect: Option<Why>) -> Decision {
        let lease = self.hold(self.lease);
        self.lease = Some(lease);
        self.leases.decide(lease, must_connect, self.now, &mut self.counts)
    }

    fn ticket(&mut self, why: Why) -> Ticket {
        self.leases.ticket(self.lease.expect("decided"), why)
    }

    fn land(&mut self, ticket: Ticket, outcome: &Outcome, taken: Result<(), Why>) -> Why {
        let lease = self.lease.expect("decided");
        self.leases.landed(lease, ticket, outcome, taken, self.now, &mut self.counts)
    }

    fn attempt_that(&mut self, outcome: &Outcome, taken: Result<(), Why>) -> Answer {
        match self.decide(None) {
            Decision::Passive => Answer::Passive,
            Decision::Real(why) => {
                let ticket = self.ticket(why);
                Answer::Real(self.land(ticket, outcome, taken))
            }
        }
    }

    /// One that succeeds, by the target's listener.
    fn attempt(&mut self) -> Answer {
        self.attempt_that(&success(), Ok(()))
    }

    fn bump(&self) {
        self.passive.counters.bump(SLOT);
    }

    /// A sweep that finds everything well.
    fn watch(&mut self) {
        while let Some(message) = self.queue.pop() {
            let ToWatch::Register(target) = message else { continue };
            let place = Place { netns_cookie: 1, slot: SLOT, lookup: Arc::new(Everybody) };
            target.join(&Arc::new(Group::new(place)), Why::Changed);
        }
        let group = self.group();
        group.settle(self.passive.counters.load(SLOT));
        group.look_healthy(self.now + limits::LOOK_AGE_MAX);
    }

    fn pass(&mut self, duration: Duration) {
        self.now = self.now + duration;
    }
}

fn success() -> Outcome {
    Outcome::Success(Box::default())
}

fn failure() -> Outcome {
    Outcome::Failure("refused".into())
}

#[test]
fn what_ends_a_lease_is_why_the_next_attempt_connects() {
    let look = |why| move |node: &mut Node| node.group().look_troubled(why);
    let void = |why| move |node: &mut Node| assert!(node.target().void(why));
    type Ends = Box<dyn Fn(&mut Node)>;
    let table: Vec<(Why, Ends)> = vec![
        (Why::Changed, Box::new(|node| node.bump())),
        (Why::AcceptQueueFull, Box::new(look(Why::AcceptQueueFull))),
        (Why::AcceptStalled, Box::new(look(Why::AcceptStalled))),
        (Why::ListenerDrops, Box::new(look(Why::ListenerDrops))),
        (Why::NoListener, Box::new(look(Why::NoListener))),
        (Why::Transparent, Box::new(look(Why::Transparent))),
        (Why::SkLookup, Box::new(look(Why::SkLookup))),
        (Why::PathChanged, Box::new(void(Why::PathChanged))),
        (Why::Contradicted, Box::new(void(Why::Contradicted))),
        (Why::SelfTest, Box::new(void(Why::SelfTest))),
        (
            Why::PathRechecked,
            Box::new(|node| {
                let until = node.now + Duration::from_millis(1);
                assert!(node.target().cut(Why::PathRechecked, until));
                node.pass(Duration::from_millis(1));
            }),
        ),
        (
            Why::Renewed,
            Box::new(|node| {
                node.pass(Duration::from_secs(60));
                node.watch();
            }),
        ),
    ];
    for (why, ends) in table {
        let mut node = Node::leased();
        ends(&mut node);
        assert_eq!(node.decide(None), Decision::Real(why));
        assert_eq!(node.counts.ended[why.index()], 1, "{why}");
        // Asked again before that attempt lands (another probe of the target): the same, and it ended once.
        assert_eq!(node.decide(None), Decision::Real(why));
        assert_eq!(node.counts.ended.iter().sum::<u64>(), 1, "{why}");
        // A real success renews it, once the watch says that all is well.
        node.watch();
        assert_eq!(node.attempt(), Answer::Real(why));
        assert_eq!(node.attempt(), Answer::Passive, "{why}");
    }
}

#[test]
fn while_looks_are_late_a_lease_gives_no_answers_and_goes_on_after() {
    let mut node = Node::leased();
    node.pass(limits::LOOK_AGE_MAX);
    for _ in 0..2 {
        assert_eq!(node.attempt(), Answer::Real(Why::LookOld));
    }
    node.watch();
    assert_eq!(node.attempt(), Answer::Passive);
    assert_eq!(node.counts.ended.iter().sum::<u64>(), 0);
    // What happens meanwhile ends it all the same.
    node.pass(limits::LOOK_AGE_MAX);
    node.bump();
    node.watch();
    assert_eq!(node.decide(None), Decision::Real(Why::Changed));
}

#[test]
fn what_stands_in_the_way_of_a_lease_is_why_the_next_attempt_connects() {
    // The watch cannot place the target.
    for why in [Why::NotLocal, Why::NetnsUnknown, Why::TableFull] {
        let mut node = Node::without_audits();
        assert_eq!(node.attempt(), Answer::Real(Why::First));
        node.target().join(&Arc::new(Group::refused(why)), why);
        assert_eq!(node.attempt(), Answer::Real(why));
        assert_eq!(node.attempt(), Answer::Real(why));
    }
    // The kernel shows somebody else.
    for why in [Why::TakenBy(15_006), Why::TakenElsewhere, Why::NotShown] {
        let mut node = Node::leased();
        node.bump();
        node.watch();
        assert_eq!(node.attempt_that(&success(), Err(why)), Answer::Real(why));
        assert_eq!(node.attempt_that(&success(), Err(why)), Answer::Real(why));
        // No more.
        assert_eq!(node.attempt(), Answer::Real(why));
        assert_eq!(node.attempt(), Answer::Passive);
    }
    // An event is still to be confirmed.
    let mut node = Node::leased();
    node.bump();
    assert_eq!(node.attempt(), Answer::Real(Why::Tentative));
    assert_eq!(node.attempt(), Answer::Real(Why::Tentative));
    node.watch();
    assert_eq!(node.attempt(), Answer::Real(Why::Tentative));
    assert_eq!(node.attempt(), Answer::Passive);
}

#[test]
fn off_and_unavailable_say_so_and_are_never_passive() {
    let mut node = Node::new(PassiveSettings { passive: false, ..PassiveSettings::default() });
    for _ in 0..3 {
        assert_eq!(node.attempt(), Answer::Real(Why::Off));
    }
    assert!(node.queue.pop().is_none(), "nobody watches it");
    let mut pod = Pod::clone(&node.pod);
    pod.uid = "another".into();
    pod.annotations = Arc::new([(ANNOTATION_PASSIVE.into(), "on".into())]);
    node.pod = Arc::new(pod);
    node.lease = None;
    assert_eq!(node.attempt(), Answer::Real(Why::First));
    let leases = Leases::new(Err(Why::Unavailable), 0, 1, 7, START);
    assert!(!leases.is_on());
    assert_eq!(leases.why_none(), Why::Unavailable);
}

#[test]
fn after_a_failure_only_a_success_that_began_later_leads_back() {
    let mut node = Node::leased();
    node.bump();
    node.watch();
    let Decision::Real(why) = node.decide(None) else { panic!("passive") };
    let (early, late) = (node.ticket(why), node.ticket(why));
    assert_eq!(node.land(late, &failure(), Err(Why::NotShown)), Why::Changed);
    assert_eq!(node.land(early, &success(), Ok(())), Why::Changed);
    assert_eq!(node.attempt_that(&failure(), Err(Why::NotShown)), Answer::Real(Why::Failing));
    assert_eq!(node.attempt(), Answer::Real(Why::Failing));
    assert_eq!(node.attempt(), Answer::Passive);
}

#[test]
fn trouble_of_our_own_says_nothing_of_the_target() {
    let mut node = Node::leased();
    node.bump();
    node.watch();
    let local = Outcome::Local(LocalCause::ProcessFiles);
    assert_eq!(node.attempt_that(&local, Err(Why::NotShown)), Answer::Real(Why::Changed));
    assert_eq!(node.attempt(), Answer::Real(Why::Changed));
    assert_eq!(node.attempt(), Answer::Passive);
}

#[test]
fn what_happens_between_a_connect_and_its_grant_is_not_lost() {
    type Happens = fn(&mut Node);
    let happens: [(Why, Happens); 4] = [
        (Why::Changed, |node| node.bump()),
        (Why::PathChanged, |node| assert!(!node.target().void(Why::PathChanged))),
        (Why::PathRechecked, |node| {
            let until = node.now + SECOND;
            node.target().cut(Why::PathRechecked, until);
        }),
        (Why::AcceptStalled, |node| node.group().look_troubled(Why::AcceptStalled)),
    ];
    for (why, happens) in happens {
        let mut node = Node::leased();
        node.bump();
        node.watch();
        let Decision::Real(changed) = node.decide(None) else { panic!("passive") };
        let ticket = node.ticket(changed);
        happens(&mut node);
        assert_eq!(node.land(ticket, &success(), Ok(())), why);
        assert_eq!(node.decide(None), Decision::Real(why));
        assert_eq!(node.target().lease_until(), None);
    }
}

#[test]
fn a_trigger_connects_although_the_lease_stands_and_leaves_it_standing() {
    let mut node = Node::leased();
    assert_eq!(node.decide(Some(Why::Triggered)), Decision::Real(Why::Triggered));
    let ticket = node.ticket(Why::Triggered);
    assert_eq!(node.land(ticket, &success(), Ok(())), Why::Triggered);
    assert_eq!(node.attempt(), Answer::Passive);
    // But not one that somebody else took.
    assert_eq!(node.decide(Some(Why::Triggered)), Decision::Real(Why::Triggered));
    let ticket = node.ticket(Why::Triggered);
    assert_eq!(node.land(ticket, &success(), Err(Why::TakenBy(15_006))), Why::Triggered);
    assert_eq!(node.decide(None), Decision::Real(Why::TakenBy(15_006)));
    assert_eq!(node.counts.ended[Why::TakenBy(0).index()], 1);
}

#[test]
fn probes_of_an_instance_share_a_lease_until_the_last_lets_go() {
    let mut node = Node::leased();
    let first = node.lease.expect("leased");
    let second = node.hold(None);
    assert_eq!(first, second);
    assert_eq!(node.leases.decide(second, None, node.now, &mut node.counts), Decision::Passive);
    let target = node.target();
    assert!(node.leases.find(target.id).is_some());
    node.leases.let_go(first);
    assert_eq!(node.leases.decide(second, None, node.now, &mut node.counts), Decision::Passive);
    node.leases.let_go(second);
    assert!(node.leases.find(target.id).is_none());
    assert_eq!(target.lease_until(), None);
    assert_eq!((node.leases.by_instance.len(), node.leases.leases.len()), (0, 0));
    assert!(matches!(node.queue.pop(), Some(ToWatch::LetGo(gone)) if gone.id == target.id), "the watch is told");
    assert_eq!(Arc::strong_count(&target), 1, "nobody but this test holds it");
}

#[test]
fn a_new_instance_and_another_namespace_begin_with_a_real_attempt() {
    let mut node = Node::leased();
    let old = node.target();
    node.container_id = "test://2".into();
    assert_eq!(node.attempt(), Answer::Real(Why::First));
    assert_ne!(node.target().id, old.id);
    while node.queue.pop().is_some() {}
    assert_eq!(Arc::strong_count(&old), 1, "the old one is let go of");
    node.netns = Some("/run/netns/pod".into());
    assert_eq!(node.attempt(), Answer::Real(Why::First));
    assert_eq!(node.target().netns, NetnsRef::at("/run/netns/pod"));
}

#[test]
fn a_registration_that_finds_no_room_is_tried_again() {
    let mut node = Node::without_audits();
    let filler = Arc::new(target_at(Node::addr()));
    while node.queue.push(ToWatch::Register(Arc::clone(&filler))).is_ok() {}
    assert_eq!(node.attempt(), Answer::Real(Why::First));
    while node.queue.pop().is_some() {}
    assert_eq!(node.attempt(), Answer::Real(Why::LookOld));
    assert_eq!(node.queue.len(), 1);
    node.attempt();
    assert_eq!(node.queue.len(), 1, "once is enough");
}

#[test]
fn audits_come_at_the_shards_share_of_their_rate() {
    let mut node = Node::new(PassiveSettings { passive_audit_per_second: 30, ..PassiveSettings::default() });
    node.leases = Leases::new(Ok(node.passive.clone()), 0, 3, 7, START);
    node.attempt();
    for _ in 0..200_000 {
        node.pass(Duration::from_millis(1));
        if node.now.as_nanos().is_multiple_of(1_000_000_000) || !node.queue.is_empty() {
            node.watch();
        }
        node.attempt();
    }
    let [agreed, contradicted, local] = node.counts.audits;
    assert!((1_800..2_200).contains(&agreed), "{agreed} in 200 s, at 10 a second");
    assert_eq!((contradicted, local), (0, 0));
    let audited: u64 = node.counts.passive + agreed;
    assert!(audited > 199_000, "{:?}", node.counts);
}

#[test]
fn a_failed_audit_goes_to_the_watch_with_the_counter_from_before_it() {
    let mut node = Node::leased();
    node.bump();
    node.watch();
    node.attempt();
    let id = node.target().id;
    let ticket = node.ticket(Why::Audited);
    node.bump();
    node.land(ticket, &failure(), Err(Why::NotShown));
    let told = node.queue.pop();
    assert!(matches!(&told, Some(ToWatch::AuditFailed { target, value: 1, .. }) if target.id == id), "{told:?}");
    assert_eq!(node.counts.audits, [0, 1, 0]);
    let ticket = node.ticket(Why::Audited);
    node.land(ticket, &Outcome::Local(LocalCause::Ports), Err(Why::NotShown));
    assert_eq!(node.counts.audits, [0, 1, 1]);
    assert_eq!(node.decide(None), Decision::Real(Why::Failing));
}

#[test]
fn leases_are_counted_by_the_time_that_they_stand_and_are_cut() {
    let mut node = Node::leased();
    node.pass(SECOND);
    node.leases.count(node.now, &mut node.counts);
    let second_ns = 1_000_000_000;
    assert_eq!((node.counts.held, node.counts.held_ns, node.counts.cut_ns), (1, second_ns, 0));
    let until = node.now + 2 * SECOND;
    node.target().cut(Why::PathRechecked, until);
    node.pass(SECOND);
    node.leases.count(node.now, &mut node.counts);
    assert_eq!((node.counts.held, node.counts.held_ns, node.counts.cut_ns), (1, 2 * second_ns, second_ns));
    node.pass(SECOND);
    node.watch();
    node.leases.count(node.now, &mut node.counts);
    assert_eq!((node.counts.held, node.counts.held_ns, node.counts.cut_ns), (0, 2 * second_ns, second_ns));
}

#[test]
fn a_lease_never_outlasts_what_the_operator_allows() {
    let mut draw = Draw::new(1);
    for max_s in [1, 2, 5, 60, 3_600] {
        let max = Duration::from_secs(max_s);
        let age = max - limits::LOOK_AGE_MAX.min(max / 2);
        for _ in 0..1_000 {
            let renewed = length(max, Why::Renewed, &mut draw);
            assert!(renewed <= age && renewed >= age.mul_f64(0.79), "{renewed:?} of {max:?}");
            assert!(length(max, Why::First, &mut draw) <= age);
        }
    }
}

/// Real connects per second of 10,000 targets probed every second, in a simulation of the leases' lengths alone: after a
/// start at once, and after everything was voided at once.
#[test]
fn renewals_are_spread_from_the_beginning() {
    const TARGETS: usize = 10_000;
    const SECONDS: u64 = 600;
    const VOID_AT: u64 = 300;
    for max_age_s in [30, 60, 120] {
        let max_age = Duration::from_secs(max_age_s);
        let mut draw = Draw::new(max_age_s);
        let mut until: Vec<Instant> = vec![START; TARGETS];
        let mut per_second: BTreeMap<u64, usize> = BTreeMap::new();
        for second in 0..SECONDS {
            for (target, until) in until.iter_mut().enumerate() {
                // Each at its own place within the second.
                let now = START + Duration::from_secs(second) + SECOND.mul_f64(target as f64 / TARGETS as f64);
                let why = match second {
                    0 => Why::First,
                    VOID_AT => Why::SelfTest,
                    _ => Why::Renewed,
                };
                if why != Why::Renewed || now >= *until {
                    *per_second.entry(second).or_default() += 1;
                    *until = now + length(max_age, why, &mut draw);
                }
            }
        }
        let is_steady = |second: u64| second >= 60 && second != VOID_AT;
        let steady: Vec<usize> = per_second.range(60..).filter(|(s, _)| is_steady(**s)).map(|(_, n)| *n).collect();
        let total: usize = steady.iter().sum();
        let mean = total as f64 / (SECONDS - 61) as f64;
        let most = steady.iter().max().copied().unwrap_or_default();
        assert!((most as f64) < 3.0 * mean, "{most} in a second, {mean} on average, at {max_age:?}");
        let after_void = per_second.range(VOID_AT + 1..VOID_AT + max_age_s).map(|(_, n)| *n).max();
        assert!(after_void.is_some_and(|most| (most as f64) < 3.0 * mean), "{after_void:?}, {mean} at {max_age:?}");
    }
}
