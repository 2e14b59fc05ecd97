//! Whatever the order of events, dumps and losses: no target is settled at its counter's value while a listener of its port
//! is in the middle of `listen()`, nor in a group that leaves out a listener which could answer it; no lease stands then; and
//! once things are at rest, every target is settled.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::ebpf::target::Before;

/// Sockets, and where they would listen: two ports of one namespace, one of another.
const ADDRS: [(u64, &str); 9] = [
    (NETNS, "10.0.0.1:80"),
    (NETNS, "0.0.0.0:80"),
    (NETNS, "10.0.0.1:80"),
    (NETNS, "10.0.0.1:81"),
    (NETNS, "10.0.0.2:80"),
    (NETNS, "10.0.0.2:80"),
    (OTHER, "10.0.0.1:80"),
    (OTHER, "0.0.0.0:80"),
    (NETNS, "[::]:80"),
];

const TARGETS: [(u64, &str); 6] = [
    (NETNS, "10.0.0.1:80"),
    (NETNS, "10.0.0.2:80"),
    (NETNS, "10.0.0.3:80"),
    (NETNS, "10.0.0.1:81"),
    (OTHER, "10.0.0.1:80"),
    (NETNS, "[fd00::1]:80"),
];

/// Longest `listen()` of the model.
const LISTEN_MAX: Duration = Duration::from_millis(900);

#[derive(Clone, Copy, Debug)]
enum Step {
    Listen(usize),
    EndListen(usize, bool),
    Close(usize),
    /// The watch reads so many events.
    Pump(u8),
    /// The ring buffer has no room from now on, or has some again.
    Room(bool),
    /// A record is in the making from now on, or is made.
    Stuck(bool),
    Advance(u16),
    /// The dump under way lists the sockets of this parity, and the watch hears of it later.
    Part(bool),
    Tell,
    EndDump(bool),
    Finish,
    Drops,
    /// Another probe of the same address, and the one before is gone.
    Replace(usize),
    /// A connect begins, or one that has begun works.
    Connect(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let socket = 0..ADDRS.len();
    prop_oneof![
        6 => socket.clone().prop_map(Step::Listen),
        5 => (socket.clone(), any::<bool>()).prop_map(|(socket, works)| Step::EndListen(socket, works)),
        3 => socket.prop_map(Step::Close),
        4 => (0u8..4).prop_map(Step::Pump),
        1 => prop::bool::weighted(0.7).prop_map(Step::Room),
        1 => prop::bool::weighted(0.3).prop_map(Step::Stuck),
        6 => prop_oneof![3 => 0u16..5, 1 => 0u16..400, 1 => 900u16..1_200].prop_map(Step::Advance),
        6 => any::<bool>().prop_map(Step::Part),
        5 => Just(Step::Tell),
        4 => prop::bool::weighted(0.9).prop_map(Step::EndDump),
        4 => Just(Step::Finish),
        1 => Just(Step::Drops),
        1 => (0..TARGETS.len()).prop_map(Step::Replace),
        4 => (0..TARGETS.len()).prop_map(Step::Connect),
    ]
}

struct Run {
    world: World,
    sockets: Vec<Socket>,
    targets: Vec<Arc<Target>>,
    /// By index of the target: what was read before.
    connects: BTreeMap<usize, Before>,
    /// The same: in which group it was granted, and at which value of the counter.
    leases: BTreeMap<usize, (Arc<Group>, u64)>,
    /// Dumps under way, in the order in which they were asked for.
    dumps: VecDeque<u64>,
    /// Of the oldest of them, on their way.
    parts: VecDeque<Told>,
}

impl Run {
    fn new(is_raw: bool) -> Self {
        let mut world = World::new();
        world.kernel.is_raw = is_raw;
        let targets = TARGETS.map(|(netns_cookie, addr)| world.target(netns_cookie, addr)).to_vec();
        let sockets = ADDRS.map(|(netns_cookie, addr)| world.kernel.socket(netns_cookie, addr)).to_vec();
        world.kernel.open(NETNS, "10.0.0.1:80");
        let (connects, leases) = (BTreeMap::new(), BTreeMap::new());
        Self { world, sockets, targets, connects, leases, dumps: VecDeque::new(), parts: VecDeque::new() }
    }

    fn take(&mut self, step: Step) {
        let world = &mut self.world;
        match step {
            Step::Listen(socket) => world.kernel.begin_listen(self.sockets[socket]),
            Step::EndListen(socket, works) => world.kernel.end_listen(self.sockets[socket], works),
            Step::Close(socket) => world.kernel.close(self.sockets[socket]),
            Step::Pump(events) => {
                for _ in 0..events {
                    let event = if world.kernel.is_stuck { None } else { world.kernel.ring.pop_front() };
                    let Some(event) = event else { break };
                    world.watch.handle_event(&event, world.now);
                }
            }
            Step::Room(has_room) => world.kernel.drop_events = !has_room,
            Step::Stuck(is_stuck) => world.kernel.is_stuck = is_stuck,
            Step::Advance(millis) => {
                world.advance(Duration::from_millis(millis.into()));
                world.kernel.end_old_listens(LISTEN_MAX);
                world.watch.handle_timeout(world.now);
            }
            Step::Part(parity) => {
                if let Some(&netns_cookie) = self.dumps.front() {
                    let listeners = world.kernel.dump(netns_cookie, |socket| socket.0.is_multiple_of(2) == parity);
                    self.parts.push_back(Told::Part { netns_cookie, listeners });
                }
            }
            Step::Tell => {
                if let Some(part) = self.parts.pop_front() {
                    world.watch.handle_told(part, world.now);
                }
            }
            // Not complete unless both halves were listed by it: that they were is as likely as not, so it ends whole here.
            Step::EndDump(complete) => {
                if let Some(netns_cookie) = self.dumps.pop_front() {
                    for part in self.parts.drain(..) {
                        world.watch.handle_told(part, world.now);
                    }
                    if complete {
                        let listeners = world.kernel.dump(netns_cookie, |_| true);
                        world.watch.handle_told(Told::Part { netns_cookie, listeners }, world.now);
                    }
                    world.dumped(netns_cookie, complete);
                }
            }
            Step::Finish => world.finish(),
            Step::Replace(target) => {
                self.connects.remove(&target);
                self.leases.remove(&target);
                let (netns_cookie, addr) = TARGETS[target];
                self.targets[target] = world.target(netns_cookie, addr);
            }
            Step::Connect(index) => {
                let target = &self.targets[index];
                match self.connects.remove(&index) {
                    None => {
                        target.forget_end();
                        self.connects.extend(target.before(&world.counters).map(|before| (index, before)));
                    }
                    Some(before) => {
                        let until = world.now + Duration::from_secs(60);
                        if let Ok(group) = target.grant(&world.counters, before, until, world.now) {
                            self.leases.insert(index, (group, before.value()));
                        }
                    }
                }
            }
            Step::Drops => {
                let drops = world.kernel.drops();
                world.watch.handle_drops(drops, world.now);
            }
        }
        // The model's clock moves by a nanosecond with each event.
        world.now = world.now.max(world.kernel.now);
        while let Some(question) = world.watch.poll_question() {
            match question {
                Question::Place(target) => world.placed(&target),
                Question::Dump { netns_cookie, ports } => {
                    world.kernel.ask(netns_cookie, ports);
                    self.dumps.push_back(netns_cookie);
                }
            }
        }
    }

    fn check(&self) {
        let Self { world, .. } = self;
        for (index, target) in self.targets.iter().enumerate() {
            let (netns_cookie, _) = TARGETS[index];
            let is_held = self
                .leases
                .get(&index)
                .is_some_and(|(group, value)| target.held(&world.counters, group, *value, world.now).is_ok());
            let state = match (is_held, world.is_settled(target)) {
                (false, false) => continue,
                (true, _) => "has a lease",
                (false, true) => "is settled",
            };
            let is_in_the_middle = world.kernel.is_in_the_middle(netns_cookie, target.addr().port());
            assert!(!is_in_the_middle, "{} {state} in the middle of a listen()", target.addr());
            let known = world.watch.candidates_of(target);
            for socket in world.kernel.could_answer(netns_cookie, target.addr()) {
                assert!(known.contains(&socket.0), "{} {state} without {socket:?}", target.addr());
            }
        }
    }

    fn come_to_rest(&mut self) {
        self.world.kernel.drop_events = false;
        self.world.kernel.is_stuck = false;
        for _ in 0..8 {
            self.take(Step::Advance(1_000));
            while !self.dumps.is_empty() {
                self.take(Step::EndDump(true));
                self.check();
            }
            self.take(Step::Finish);
            self.check();
        }
        for target in &self.targets {
            assert!(self.world.is_settled(target), "{} is not settled at rest", target.addr());
        }
    }
}

proptest! {
    // `PROPTEST_CASES=25000` makes 100,000 of them.
    #![proptest_config(ProptestConfig {
        cases: 4 * ProptestConfig::default().cases, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn no_target_is_settled_in_the_middle_of_a_listen(steps in vec(step(), 1..150), is_raw in prop::bool::weighted(0.2)) {
        let mut run = Run::new(is_raw);
        for step in steps {
            run.take(step);
            run.check();
        }
        run.come_to_rest();
    }
}
