//! The seeded simulation: a real shard over a kernel, a network, pods and a pool that are made up, in virtual time.
//!
//! A seed decides everything: what pods there are, what their targets do and when, what goes wrong in between. While it
//! runs, [`checks`] holds the shard to its promises; the fake kernel holds it to the contract of `trait Kernel`. A run
//! has a storm and a calm: in the storm only what must never happen is looked for, in the calm everything has to come right.
//!
//! ```text
//! world (time, agenda, weather) -- kernel (trait Kernel) -- net (sockets, segments) -- target (behaviours, responses)
//!                               |- pods (commands, statuses, pool, updates)
//!                               \- passive (in two of five runs: counters, looks, voids)
//! ```
//!
//! Not held against the shard, because nobody could tell from where it stands: a target too slow whose last word came
//! within 60 ms of the end of a stall, or before the shard had seen the clock after it (the second look cannot tell softirqs
//! that were held up from a target that is late); softirqs held up although the shard looked in time, or twice in one
//! attempt; and a stall right between reading the clock and asking the kernel how old something is.
//!
//! That it bites: `tests/data/planted-shard-bugs` holds bugs that it must catch (`cargo xtask planted --shard`).

pub mod checks;
pub mod kernel;
pub mod net;
pub mod passive;
pub mod plan;
pub mod pods;
pub mod random;
pub mod target;
pub mod world;

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use probe_core::scheduler;
use probe_core::time::Instant;
use probe_engine::ebpf::Why;
use probe_engine::limits;
use probe_engine::results::UpdateQueue;
use probe_engine::shard::inbox::inbox;
use probe_engine::shard::kernel::{CloseMode, IoChoice, Waker};
use probe_engine::shard::{Shard, ShardConfig, Turn};
use tokio::sync::Notify;

use checks::Checks;
use kernel::FakeKernel;
use passive::Watch;
use plan::{Kind, Plan};
use pods::{Act, FakePool, Pods};
use random::Random;
use world::{Event, Transcript, World};

/// Virtual time begins here.
pub const START: Instant = Instant::from_secs(10_000);

/// What a run that kept every promise was like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Of all that happened.
    pub hash: u64,
    /// Turns of the shard.
    pub turns: u64,
    /// Tries on the ring.
    pub tries: u64,
    /// Answers from kernel state.
    pub passive: u64,
    /// Virtual time.
    pub took: Duration,
}

/// A promise that was broken.
#[derive(Debug)]
pub struct Broken {
    /// With it the same happens again.
    pub seed: u64,
    /// Which promise.
    pub message: String,
    /// What came before.
    pub lines: Vec<String>,
}

/// Runs one seed. Of one that breaks a promise the same is run again, to tell what happened before.
///
/// # Errors
/// The promise that was broken.
pub fn run(seed: u64) -> Result<Summary, Broken> {
    run_once(seed, Transcript::default()).or_else(|_| run_once(seed, Transcript::verbose()))
}

fn run_once(seed: u64, transcript: Transcript) -> Result<Summary, Broken> {
    let mut simulation = Simulation::new(seed, transcript);
    let world = Rc::clone(&simulation.world);
    let ran = panic::catch_unwind(AssertUnwindSafe(move || simulation.run()));
    ran.map_err(|panic| {
        let message = panic.downcast_ref::<String>().cloned();
        let message = message.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default();
        let lines = world.borrow().transcript.lines().map(str::to_owned).collect();
        Broken { seed, message, lines }
    })
}

/// One run.
struct Simulation {
    world: Rc<RefCell<World>>,
    shard: Shard<FakeKernel>,
    checks: Checks,
    plan: Plan,
    turns: u64,
}

impl Simulation {
    fn new(seed: u64, transcript: Transcript) -> Self {
        let mut random = Random::new(seed);
        let waker = Waker::new().expect("an eventfd");
        let (sender, inbox) = inbox(waker);
        let queue = Arc::new(UpdateQueue::new(Arc::new(Notify::new())));
        let is_young = random.below(2) == 0;
        let watch = (random.below(5) < 2).then(|| Watch::new(&mut random));
        let passive = watch.as_ref().map(|watch| watch.passive.clone()).ok_or(Why::Off);
        let mut world = World::new(START, random, Pods::new(sender, Arc::clone(&queue)), transcript);
        world.watch = watch;
        world.look();
        let world = Rc::new(RefCell::new(world));
        let plan = Plan::new(seed, &mut world.borrow_mut());
        let config = ShardConfig {
            index: 0,
            io: IoChoice::Auto,
            close: CloseMode::Fin,
            scheduler: scheduler::Config {
                seed,
                // A young one staggers its workers' first steps.
                manager_start: if is_young && plan.kind == Kind::Life { START } else { Instant::from_secs(1) },
                local_backoff_min: Duration::from_millis(100),
                local_backoff_max: Duration::from_secs(5),
                local_max: plan.local_max,
            },
            local_ports: 32_768..=60_999,
            passive,
            shards: 1,
            flights_max: limits::FLIGHTS_PER_SHARD_MAX,
        };
        let pool = FakePool(Rc::clone(&world));
        let kernel = FakeKernel(Rc::clone(&world));
        let shard = Shard::new(config, kernel, inbox, queue, Some(Box::new(pool)), START);
        Self { world, shard, checks: Checks::default(), plan, turns: 0 }
    }

    fn run(&mut self) -> Summary {
        let storm_end = START + self.plan.storm;
        while self.world.borrow().now < storm_end {
            assert_eq!(self.turn(), Turn::Again, "nobody asked for the end");
        }
        if !self.plan.ends_in_storm {
            self.plan.begin_calm(&mut self.world.borrow_mut());
            let latest = self.world.borrow().now + self.plan.calm_max(&self.world.borrow());
            while !self.checks.has_settled(&self.shard, &self.world.borrow(), &self.plan, latest) {
                assert_eq!(self.turn(), Turn::Again, "nobody asked for the end");
            }
        }
        self.end()
    }

    fn turn(&mut self) -> Turn {
        self.turns += 1;
        self.world.borrow_mut().reads = world::Reads::default();
        let world = Rc::clone(&self.world);
        let turn = self.shard.turn(&mut || world.borrow_mut().read_clock());
        let world = &mut *self.world.borrow_mut();
        world.read_updates();
        self.checks.after_turn(&self.shard, world, turn);
        turn
    }

    fn end(&mut self) -> Summary {
        let before = self.checks.ledger(&self.shard, &self.world.borrow(), &self.plan);
        self.world.borrow_mut().act(Act::Shutdown);
        let drain_at = self.world.borrow().now + Duration::from_secs(1);
        self.world.borrow_mut().schedule(drain_at, Event::Act(Act::Drain));
        while self.turn() == Turn::Again {}
        // Who reads the updates looks once more.
        let mut world = self.world.borrow_mut();
        world.pods.is_paused = false;
        world.read_updates();
        self.checks.after_end(&self.shard, &world, before);
        let (hash, tries, took) = (world.transcript.hash(), world.net.tries, world.now - START);
        Summary { hash, turns: self.turns, tries, passive: world.pods.totals.passive, took }
    }
}
