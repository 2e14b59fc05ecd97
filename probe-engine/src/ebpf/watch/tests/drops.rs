//! Drops of listeners: stray segments trouble nobody, and every lost connection request is told, in whatever order its two
//! counts, dumps and looks come.
#![cfg(not(feature = "bite-queue"))]

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const LOST: Option<Why> = Some(Why::ListenerDrops);

/// Longest time between the two counts of a lost request.
const HALF_LOST_MAX: Duration = Duration::from_millis(400);

#[test]
fn stray_drops_leave_the_lease() {
    let mut world = World::new();
    let (socket, target) = world.leased(NETNS, "10.0.0.1:80");
    let value = world.value(&target);
    for _ in 0..3 {
        world.kernel.drop_stray(socket);
        world.sweep();
        assert_eq!((target.look_found(), world.held(&target, value)), (None, Ok(())));
    }
    assert_eq!(world.stats.stray_drops.load(Relaxed), 3);
}

#[test]
fn a_lost_request_among_stray_drops_is_told_to_those_whose_listener_dropped() {
    let mut world = World::new();
    let (socket, target) = world.leased(NETNS, "10.0.0.1:80");
    let (_, beside) = world.leased(NETNS, "10.0.0.1:81");
    let (other_socket, other) = world.leased(OTHER, "10.0.0.1:80");
    world.kernel.drop_stray(socket);
    world.kernel.drop_stray(other_socket);
    world.kernel.lose_request(socket);
    world.sweep();
    assert_eq!([&target, &beside, &other].map(|target| target.look_found()), [LOST, None, None]);
    world.sweep();
    assert_eq!([&target, &beside, &other].map(|target| target.look_found()), [None; 3]);
}

#[test]
fn a_lost_request_is_told_by_the_look_after_one_from_which_nothing_followed() {
    for spoil in [
        |world: &mut World| world.dumped(NETNS, false),
        |world: &mut World| {
            let listeners = world.kernel.dump(NETNS, |_| true);
            world.watch.handle_told(Told::Part { netns_cookie: NETNS, listeners }, world.now);
            world.dumped(NETNS, true);
            world.kernel.is_stuck = true;
        },
    ] {
        let mut world = World::new();
        let (socket, target) = world.leased(NETNS, "10.0.0.1:80");
        world.kernel.lose_request(socket);
        world.advance(limits::SWEEP_PERIOD);
        world.watch.begin_sweep(world.now);
        assert!(matches!(world.watch.poll_question(), Some(Question::Dump { .. })));
        spoil(&mut world);
        world.finish();
        world.kernel.is_stuck = false;
        assert_eq!(target.look_found(), None);
        world.sweep();
        assert_eq!(target.look_found(), LOST);
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Stray(usize),
    Lose(usize),
    /// One of its two counts.
    HalfLose(usize),
    /// The other of all of them.
    EndHalfLost,
    Advance(u16),
    /// Events tell that something opened and closed: a look is wanted.
    Disturb,
    Part,
    EndDump(bool),
    Stuck(bool),
    Finish,
}

/// Sockets, and what there is a target for: two in one namespace, one in another.
const ADDRS: [(u64, &str); 3] = [(NETNS, "10.0.0.1:80"), (NETNS, "10.0.0.1:81"), (OTHER, "10.0.0.1:80")];

fn step() -> impl Strategy<Value = Step> {
    let socket = 0..ADDRS.len();
    prop_oneof![
        4 => socket.clone().prop_map(Step::Stray),
        1 => socket.clone().prop_map(Step::Lose),
        2 => socket.prop_map(Step::HalfLose),
        1 => Just(Step::EndHalfLost),
        6 => prop_oneof![3 => 0u16..5, 2 => 0u16..600, 1 => 900u16..1_200].prop_map(Step::Advance),
        1 => Just(Step::Disturb),
        3 => Just(Step::Part),
        6 => prop::bool::weighted(0.9).prop_map(Step::EndDump),
        1 => prop::bool::weighted(0.2).prop_map(Step::Stuck),
        5 => Just(Step::Finish),
    ]
}

/// A lost request.
struct Loss {
    socket: usize,
    /// A dump listed it.
    is_listed: bool,
}

struct Run {
    world: World,
    sockets: Vec<Socket>,
    targets: Vec<Arc<Target>>,
    dumps: VecDeque<u64>,
    /// Not told yet.
    losses: Vec<Loss>,
    /// Namespaces in which a request was lost.
    lossy: HashSet<u64>,
}

impl Run {
    fn new() -> Self {
        let mut world = World::new();
        let (sockets, targets) = ADDRS.map(|(netns_cookie, addr)| world.leased(netns_cookie, addr)).into_iter().unzip();
        Self { world, sockets, targets, dumps: VecDeque::new(), losses: Vec::new(), lossy: HashSet::new() }
    }

    fn take(&mut self, step: Step) {
        let world = &mut self.world;
        match step {
            Step::Stray(socket) => world.kernel.drop_stray(self.sockets[socket]),
            Step::Lose(socket) | Step::HalfLose(socket) => {
                world.kernel.half_lose_request(self.sockets[socket]);
                self.losses.push(Loss { socket, is_listed: false });
                self.lossy.insert(ADDRS[socket].0);
                if matches!(step, Step::Lose(_)) {
                    world.kernel.end_half_lost(Duration::ZERO);
                }
            }
            Step::EndHalfLost => world.kernel.end_half_lost(Duration::ZERO),
            Step::Advance(millis) => {
                world.advance(Duration::from_millis(millis.into()));
                world.kernel.end_half_lost(HALF_LOST_MAX);
                world.watch.handle_timeout(world.now);
            }
            Step::Disturb => {
                let failed = world.kernel.listen(NETNS, "10.0.0.9:80");
                world.kernel.end_listen(failed, false);
                world.pump();
            }
            Step::Part => self.part(),
            Step::EndDump(complete) => {
                if complete {
                    self.part();
                }
                if let Some(netns_cookie) = self.dumps.pop_front() {
                    self.world.dumped(netns_cookie, complete);
                }
            }
            Step::Stuck(is_stuck) => world.kernel.is_stuck = is_stuck,
            Step::Finish => {
                world.finish();
                let found = |loss: &Loss| self.targets[loss.socket].look_found() == LOST;
                self.losses.retain(|loss| !(loss.is_listed && found(loss)));
            }
        }
        let world = &mut self.world;
        world.now = world.now.max(world.kernel.now);
        while let Some(question) = world.watch.poll_question() {
            let Question::Dump { netns_cookie, ports } = question else { panic!("{question:?}") };
            world.kernel.ask(netns_cookie, ports);
            self.dumps.push_back(netns_cookie);
        }
        for (target, (netns_cookie, addr)) in self.targets.iter().zip(ADDRS) {
            let is_told = target.look_found() == LOST;
            assert!(!is_told || self.lossy.contains(&netns_cookie), "{addr}: stray drops are told as lost requests");
        }
    }

    /// The oldest dump under way lists all that is there.
    fn part(&mut self) {
        let Some(&netns_cookie) = self.dumps.front() else { return };
        let listeners = self.world.kernel.dump(netns_cookie, |_| true);
        for loss in self.losses.iter_mut() {
            let is_listed = |diag: &DiagListener| diag.socket_cookie == self.sockets[loss.socket].0;
            loss.is_listed |= listeners.iter().any(is_listed);
        }
        self.world.watch.handle_told(Told::Part { netns_cookie, listeners }, self.world.now);
    }

    /// A sweep and a half, none of it spoiled.
    fn look(&mut self) {
        self.world.kernel.is_stuck = false;
        for _ in 0..2 {
            self.take(Step::Advance(1_000));
            while !self.dumps.is_empty() {
                self.take(Step::EndDump(true));
            }
            self.take(Step::Finish);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4 * ProptestConfig::default().cases, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn every_lost_request_is_told_and_stray_drops_alone_never_are(steps in vec(step(), 1..120)) {
        let mut run = Run::new();
        for step in steps {
            run.take(step);
        }
        run.look();
        let untold: Vec<_> = run.losses.iter().map(|loss| (ADDRS[loss.socket].1, loss.is_listed)).collect();
        assert!(untold.is_empty(), "lost requests that were never told (at, listed): {untold:?}");
        run.look();
        for target in &run.targets {
            assert_eq!(target.look_found(), None, "{} at rest", target.addr());
        }
    }
}
