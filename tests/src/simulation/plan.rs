//! What one seed leads to: which pods there are, and all that happens to them during the storm.

use std::time::Duration;

use probe_core::id::ProbeType;
use probe_core::spec::ProbeSpec;
use probe_core::time::Instant;

use super::START;
use super::pods::{Act, random_probe};
use super::random::Random;
use super::target::Behaviour;
use super::world::{Event, Weather, World};

/// How many failures in a row never come together: a liveness probe with this threshold is never on hold.
const NEVER: u32 = 1_000_000;

/// What a run is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Pods come, go and restart.
    Life,
    /// Nothing disturbs the grids: every due time must be accounted for.
    Ledger,
    /// There are no descriptors for half a minute.
    Drought,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which.
    pub kind: Kind,
    /// How long it storms.
    pub storm: Duration,
    /// The shard is shut down in the middle of it.
    pub ends_in_storm: bool,
    /// The scheduler's.
    pub local_max: Duration,
}

impl Plan {
    /// Makes the pods and fills the agenda.
    pub fn new(seed: u64, world: &mut World) -> Self {
        let kind = match seed % 16 {
            5 => Kind::Drought,
            1 | 4 | 7 | 10 | 13 => Kind::Ledger,
            _ => Kind::Life,
        };
        let mut weather = Weather::stormy(&mut world.random);
        let ends_in_storm = kind == Kind::Life && world.random.below(5) == 0;
        if ends_in_storm {
            // The shard gives itself five seconds to end.
            weather.stall_max = weather.stall_max.min(Duration::from_millis(400));
        }
        let storm = match kind {
            Kind::Drought => Duration::from_secs(42),
            Kind::Life | Kind::Ledger => world.random.millis(8_000, 25_000),
        };
        let local_max = if kind == Kind::Drought { Duration::from_secs(2) } else { Duration::from_secs(30) };
        let plan = Self { kind, storm, ends_in_storm, local_max };
        if let Some(watch) = world.watch.as_mut().filter(|_| kind != Kind::Life) {
            watch.detects = false;
        }
        match kind {
            Kind::Life => plan.life(world),
            Kind::Ledger => {
                if world.random.below(2) == 0 {
                    weather = weather.without_local_trouble();
                }
                plan.ledger(world);
            }
            Kind::Drought => {
                weather =
                    Weather { batch_max: weather.batch_max, late_cancels: weather.late_cancels, ..Weather::default() };
                plan.drought(world);
            }
        }
        world.weather = weather;
        plan
    }

    /// Nothing goes wrong any more, and targets take on a behaviour that they keep.
    pub fn begin_calm(&self, world: &mut World) {
        world.weather = Weather::default();
        world.suspend = None;
        world.act(Act::Drain);
        world.act(Act::Files(None));
        world.read_updates();
        for target in 0..world.net.targets.len() {
            let (is_http, timeout) = (world.net.targets[target].is_http, world.net.targets[target].timeout);
            let behaviour = if self.kind != Kind::Life {
                // A moment without an attempt in flight must come, to balance the books.
                let quick = Duration::from_micros(300);
                Behaviour { latency: quick, answer_latency: quick, ..Behaviour::well(&mut world.random, timeout) }
            } else if world.random.below(5) < 3 {
                Behaviour::well(&mut world.random, timeout)
            } else {
                Behaviour::bad(&mut world.random, is_http, timeout)
            };
            world.act(Act::Change(target, behaviour));
        }
        world.pods.is_calm = true;
        for pod in 0..world.pods.pods.len() {
            let waits = |world: &World, container: usize| {
                let container = &world.pods.pods[pod].containers[container];
                container.started_at.is_none() && !container.restarting
            };
            world.act(Act::Pause(pod, None, Duration::ZERO));
            for container in 0..world.pods.pods[pod].containers.len() {
                if waits(world, container) {
                    world.act(Act::Start(pod, container));
                }
            }
            world.act(Act::Resync(pod));
        }
    }

    /// How long it may take until everything is right.
    pub fn calm_max(&self, world: &World) -> Duration {
        let one = |spec: &ProbeSpec| {
            let calls = spec.failure_threshold.min(4).max(spec.success_threshold) + 3;
            // An error may take three tries.
            let call = spec.period().max(spec.timeout() * 3) + spec.timeout();
            call * calls + Duration::from_secs(u64::try_from(spec.initial_delay_seconds).unwrap_or(0))
        };
        let longest = world.pods.probes.iter().map(|probe| one(&probe.spec)).max().unwrap_or_default();
        let passive = world.watch.as_ref().map_or(Duration::ZERO, |watch| watch.passive.settings.passive_max_age);
        longest * 2 + passive + Duration::from_secs(15)
    }

    fn life(&self, world: &mut World) {
        for _ in 0..world.random.range(1, 4) {
            let containers_len = if world.random.below(4) == 0 { 2 } else { 1 };
            let containers = (0..containers_len).map(|_| probes(&mut world.random)).collect();
            let pod = world.make_pod(containers);
            self.live(world, pod, containers_len);
        }
        for target in 0..world.net.targets.len() {
            self.changes(world, target);
        }
        self.queue_and_files(world);
        if !self.ends_in_storm && world.random.below(10) == 0 {
            let length = world.random.pick(&[5, 60, 3_600].map(Duration::from_secs));
            let at = self.some_time(world);
            world.schedule(at, Event::Act(Act::Suspend(length)));
        }
    }

    /// A pod's life.
    fn live(&self, world: &mut World, pod: usize, containers_len: usize) {
        let plan = |world: &mut World, at: Instant, act: Act| world.schedule(at, Event::Act(act));
        let added = START + world.random.millis(0, 3_000);
        for container in 0..containers_len {
            let at = START + world.random.millis(0, 4_000);
            plan(world, at, Act::Start(pod, container));
        }
        let with_status = world.random.below(2) == 0;
        plan(world, added, Act::Add(pod, with_status));
        let resync = added + world.random.millis(0, 1_000);
        plan(world, resync, Act::Resync(pod));
        if world.random.below(3) == 0 {
            let at = self.some_time(world);
            plan(world, at, Act::Remove(pod));
            let again = at + world.random.pick(&[0, 0, 1, 300, 3_000].map(Duration::from_millis));
            if world.random.below(3) > 0 {
                plan(world, again, Act::Add(pod, true));
            }
        }
        if world.random.below(8) == 0 {
            let at = self.some_time(world);
            plan(world, at, Act::Stop(pod));
            let end = at + world.random.millis(0, 2_000);
            plan(world, end.min(START + self.storm), Act::Remove(pod));
        }
        if world.random.below(3) == 0 {
            let (at, container) = (self.some_time(world), world.random.below(containers_len as u64) as usize);
            plan(world, at, Act::Wait(pod, container));
            let again = at + world.random.millis(0, 2_000);
            plan(world, again, Act::Start(pod, container));
        }
        let first = world.pods.probes.iter().position(|probe| probe.pod == pod).unwrap_or(0);
        let probes_len = (world.pods.probes.len() - first) as u64;
        for _ in 0..world.random.below(4) {
            let at = self.some_time(world);
            let probe_type =
                world.random.pick(&[None, None, None, Some(ProbeType::Readiness), Some(ProbeType::Liveness)]);
            let length = world.random.pick(&[0, 700, 2_000, 7_000, 60_000].map(Duration::from_millis));
            plan(world, at, Act::Pause(pod, probe_type, length));
        }
        for _ in 0..world.random.below(5) {
            let (at, probe) = (self.some_time(world), first + world.random.below(probes_len) as usize);
            plan(world, at, Act::Trigger(probe));
        }
    }

    fn ledger(&self, world: &mut World) {
        for _ in 0..world.random.range(1, 4) {
            let spec = random_probe(&mut world.random, ProbeType::Liveness);
            let spec = ProbeSpec { failure_threshold: NEVER, initial_delay_seconds: 0, ..spec };
            self.steady(world, spec);
        }
        for target in 0..world.net.targets.len() {
            self.changes(world, target);
        }
        self.queue_and_files(world);
        if world.random.below(10) == 0 {
            let length = world.random.pick(&[5, 60, 3_600].map(Duration::from_secs));
            let at = self.some_time(world);
            world.schedule(at, Event::Act(Act::Suspend(length)));
        }
    }

    fn drought(&self, world: &mut World) {
        for _ in 0..world.random.range(2, 5) {
            let mut spec = random_probe(&mut world.random, ProbeType::Liveness);
            while !matches!(&spec.handler, probe_core::spec::Handler::TcpSocket(tcp) if tcp.host.is_none()) {
                spec = random_probe(&mut world.random, ProbeType::Liveness);
            }
            let spec = ProbeSpec {
                failure_threshold: NEVER,
                initial_delay_seconds: 0,
                period_seconds: 1,
                timeout_seconds: 1,
                ..spec
            };
            self.steady(world, spec);
        }
        let from = START + Duration::from_secs(5);
        world.schedule(from, Event::Act(Act::Files(Some(1))));
        world.schedule(from + Duration::from_secs(35), Event::Act(Act::Files(None)));
    }

    /// A pod with one probe that nothing disturbs.
    fn steady(&self, world: &mut World, spec: ProbeSpec) {
        let behaviour = Behaviour::well(&mut world.random, spec.timeout());
        let pod = world.make_pod(vec![vec![(ProbeType::Liveness, spec, behaviour)]]);
        world.act(Act::Start(pod, 0));
        let at = START + world.random.millis(0, 2_000);
        world.schedule(at, Event::Act(Act::Add(pod, true)));
    }

    fn changes(&self, world: &mut World, target: usize) {
        let (is_http, timeout) = (world.net.targets[target].is_http, world.net.targets[target].timeout);
        for _ in 0..world.random.below(6) {
            let at = self.some_time(world);
            let behaviour = Behaviour::any(&mut world.random, is_http, timeout);
            world.schedule(at, Event::Act(Act::Change(target, behaviour)));
        }
    }

    fn queue_and_files(&self, world: &mut World) {
        if world.random.below(16) == 0 {
            let at = self.some_time(world);
            world.schedule(at, Event::Act(Act::Fill));
            let until = at + world.random.millis(200, 6_000);
            world.schedule(until, Event::Act(Act::Drain));
        }
        if self.kind == Kind::Life && world.random.below(6) == 0 {
            let (at, files) = (self.some_time(world), world.random.below(4) as usize);
            world.schedule(at, Event::Act(Act::Files(Some(files))));
            let until = at + world.random.millis(500, 4_000);
            world.schedule(until, Event::Act(Act::Files(None)));
        }
    }

    fn some_time(&self, world: &mut World) -> Instant {
        START + world.random.duration(Duration::from_secs(1), self.storm)
    }
}

/// One to three probes of a container.
fn probes(random: &mut Random) -> Vec<(ProbeType, ProbeSpec, Behaviour)> {
    let which = random.range(1, 7);
    let wanted = ProbeType::ALL.into_iter().filter(|probe_type| which & (1 << probe_type.index()) != 0);
    let make = |probe_type| {
        let spec = random_probe(random, probe_type);
        let is_http = matches!(spec.handler, probe_core::spec::Handler::HttpGet(_));
        let behaviour = Behaviour::any(random, is_http, spec.timeout());
        (probe_type, spec, behaviour)
    };
    wanted.map(make).collect()
}
