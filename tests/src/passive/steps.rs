//! The seeded steps of the equivalence test, and what must hold after each.
//!
//! A step is two seconds of the test's clock: every target gets one attempt of the shard and one connect of the oracle, then
//! the sweeps of these seconds, then some changes. When a change's system call has returned, the next thing that happens may
//! be the attempts: the engine is not told of it but by the kernel program.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use probe_core::time::Instant;
use probe_engine::ebpf::{Answer as Answered, PassiveSettings};
use probe_engine::limits;
use probe_engine::shard::kernel::Kernel;

use super::oracle::{Answer, Call};
use super::pod::Times;
use super::rig::Rig;
use super::world::{Act, Place, World};
use crate::simulation::random::Random;

/// Of every probe: room for an attempt, its deadline and the second look at it, and two sweeps.
pub const TIMES: Times = Times { period_seconds: 2, timeout_seconds: 1 };

const PERIOD: Duration = Duration::from_secs(TIMES.period_seconds as u64);

/// After it the attempt of a step has ended: its timeout, and the second look.
const ATTEMPT_MAX: Duration = Duration::from_millis(1_100);

/// Between the two looks at a deadline.
const SECOND_LOOK: Duration = Duration::from_millis(90);

/// Real time that the oracle waits for an answer: on these links there is one at once, or none.
const ORACLE_PATIENCE: Duration = Duration::from_millis(3);

/// The same before the engine is called wrong. Below the first retransmission of a SYN, which meets another world.
const ORACLE_PATIENCE_MAX: Duration = Duration::from_millis(800);

/// More targets than this share failing, and changes are those that make targets well again.
const FAILING_SHARE_MAX: f64 = 0.2;

/// What a run is made with.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Of every choice.
    pub seed: u64,
    /// How many.
    pub steps: u64,
}

/// What a run without a violation saw.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Steps made.
    pub steps: u64,
    /// Answers from kernel state.
    pub passive: u64,
    /// Answers by a connection.
    pub real: u64,
    /// Attempts that ended in a failure.
    pub failures: u64,
    /// Connects of the oracle that failed.
    pub oracle_failures: u64,
    /// Passive successes where the oracle failed, by the exception that allows it.
    pub excused: BTreeMap<&'static str, u64>,
    /// Real answers by cause.
    pub causes: BTreeMap<String, u64>,
    /// Changes made.
    pub changes: u64,
}

impl Summary {
    /// Of all answers, those from kernel state.
    #[must_use]
    pub fn passive_share(&self) -> f64 {
        self.passive as f64 / (self.passive + self.real).max(1) as f64
    }
}

/// The engine said something that is not so.
#[derive(Clone, Debug)]
pub struct Violation {
    /// At which step.
    pub step: u64,
    /// What, and the log that led to it.
    pub text: String,
}

/// See the module.
pub struct Steps<K> {
    plan: Plan,
    random: Random,
    rig: Rig<K>,
    world: World,
    settings: PassiveSettings,
    summary: Summary,
    failing: Vec<bool>,
}

impl<K: Kernel> Steps<K> {
    /// Probes of all targets of the world, known to the engine, none attempted yet.
    pub fn new(plan: Plan, mut rig: Rig<K>, world: World, settings: PassiveSettings) -> Self {
        for target in &world.targets {
            rig.add(target.addr, world.net.path(target.place));
        }
        let failing = vec![false; world.targets.len()];
        Self { plan, random: Random::new(plan.seed), rig, world, settings, summary: Summary::default(), failing }
    }

    /// All steps.
    ///
    /// # Errors
    /// The first violation.
    pub fn run(mut self) -> Result<Summary, Violation> {
        for step in 0..self.plan.steps {
            let due = self.rig.now();
            self.world.note(format!("step {step} at {due:?}"));
            self.step(due).map_err(|text| {
                let text = format!("seed {}, step {step}: {text}\n{}", self.plan.seed, self.world.log());
                Violation { step, text }
            })?;
            self.summary.steps = step + 1;
        }
        Ok(self.summary)
    }

    fn step(&mut self, due: Instant) -> Result<(), String> {
        let connects = self.rig.connects.borrow().clone();
        self.rig.attempt_due();
        self.world.accept();
        self.world.note_queues(due);
        self.consult(due)?;
        // The seconds that follow: a sweep, the deadlines of what is in flight, changes before or after a sweep.
        self.rig.advance_to(due + PERIOD / 4);
        self.tend(true);
        for after in [ATTEMPT_MAX - SECOND_LOOK, ATTEMPT_MAX] {
            self.rig.advance_to(due + after);
            if self.rig.flights_len() > 0 {
                self.rig.attempt();
            }
        }
        self.judge(&connects)?;
        let before_the_sweep = self.random.below(2) == 0;
        if before_the_sweep {
            self.change();
        }
        self.rig.advance_to(due + PERIOD * 3 / 4);
        self.tend(true);
        if !before_the_sweep {
            self.rig.advance_to(due + PERIOD * 4 / 5);
            self.change();
            if self.random.below(2) == 0 {
                // What the watch thread does within milliseconds of a change.
                for _ in 0..2 {
                    self.tend(false);
                    self.rig.advance(limits::CONFIRM_WAIT_MIN * 2);
                }
            }
        }
        self.rig.advance_to(due + PERIOD);
        Ok(())
    }

    /// The applications accept, and the engine's own threads do their work.
    fn tend(&mut self, sweeps: bool) {
        self.world.accept();
        self.world.note_queues(self.rig.now());
        self.rig.tend(sweeps);
    }

    /// One connect of the oracle per target: where it fails there is no passive success.
    fn consult(&mut self, now: Instant) -> Result<(), String> {
        let mut silent: Vec<(usize, Call)> = Vec::new();
        let mut wrong = Vec::new();
        for target in 0..self.world.targets.len() {
            let (call, answer) = self.world.oracle(target).map_err(|error| format!("the oracle's socket: {error}"))?;
            self.failing[target] = answer != Answer::Connected;
            match answer {
                Answer::Connected => {}
                Answer::Refused(_) => wrong.push((target, answer)),
                Answer::Silent => silent.push((target, call)),
            }
        }
        let mut patience = ORACLE_PATIENCE;
        for (target, mut call) in silent {
            let is_passive = self.rig.peek(target).passive > 0;
            let excuse = self.excuse(target, Answer::Silent, now);
            let wait = if is_passive && excuse.is_none() { ORACLE_PATIENCE_MAX } else { patience };
            patience = Duration::ZERO;
            let answer = call.wait(wait).map_err(|error| format!("the oracle's socket: {error}"))?;
            if answer == Answer::Connected {
                self.failing[target] = false;
            } else {
                wrong.push((target, answer));
            }
        }
        self.world.accept();
        self.summary.oracle_failures += wrong.len() as u64;
        for (target, answer) in wrong {
            if self.rig.peek(target).passive == 0 {
                continue;
            }
            match self.excuse(target, answer, now) {
                Some(excuse) => *self.summary.excused.entry(excuse).or_default() += 1,
                None => {
                    let target = self.world.targets[target];
                    return Err(format!("a passive success of {target:?}, where a connect is {answer:?}"));
                }
            }
        }
        Ok(())
    }

    /// Why a passive success may be wrong at this time, if it may.
    fn excuse(&self, target: usize, answer: Answer, now: Instant) -> Option<&'static str> {
        let target = &self.world.targets[target];
        if target.path_changed.is_some_and(|at| now <= at + self.settings.path_recheck_max) {
            return Some("path");
        }
        let slots = &self.world.sites[target.site].slots;
        let full_since = slots.iter().filter_map(|slot| slot.full_since).max();
        let filled = full_since.is_some_and(|at| now <= at + limits::LOOK_AGE_MAX);
        (answer == Answer::Silent && filled).then_some("queue")
    }

    /// What the attempts of the step came to.
    fn judge(&mut self, before: &BTreeMap<SocketAddr, u64>) -> Result<(), String> {
        let mut real: BTreeMap<SocketAddr, u64> = BTreeMap::new();
        let mut failures: BTreeMap<SocketAddr, u64> = BTreeMap::new();
        for target in 0..self.world.targets.len() {
            let counts = self.rig.take(target);
            let addr = self.world.targets[target].addr;
            *real.entry(addr).or_default() += counts.real;
            *failures.entry(addr).or_default() += counts.failures;
            self.summary.passive += counts.passive;
            self.summary.real += counts.real;
            self.summary.failures += counts.failures;
            if counts.passive + counts.real != 1 || counts.successes + counts.failures != 1 {
                return Err(format!("{addr}: not one attempt but {counts:?}"));
            }
            if counts.failures > 0 && counts.real == 0 {
                return Err(format!("{addr}: a failure without a connection"));
            }
            if let Answered::Real(why) = self.rig.answer(target) {
                *self.summary.causes.entry(why.as_str().to_owned()).or_default() += 1;
            }
        }
        // What it says it connected for is what it asked the kernel for.
        let after = self.rig.connects.borrow();
        for (addr, real) in real {
            let made = after.get(&addr).copied().unwrap_or_default() - before.get(&addr).copied().unwrap_or_default();
            if made < real || made < failures[&addr] {
                return Err(format!("{addr}: {real} real answers, but {made} connects"));
            }
        }
        Ok(())
    }

    /// None to two changes.
    fn change(&mut self) {
        for _ in 0..self.random.range(0, 2) {
            let now = self.rig.now();
            let failing: Vec<usize> = (0..self.failing.len()).filter(|target| self.failing[*target]).collect();
            let is_bad = failing.len() as f64 > self.failing.len() as f64 * FAILING_SHARE_MAX;
            self.summary.changes += 1;
            if self.random.below(40) == 0 {
                let target = self.random.below(self.world.targets.len() as u64) as usize;
                self.rig.restart(target);
                self.world.note(format!("{now:?} another instance of {:?}", self.world.targets[target]));
            } else if self.world.net.moved_to == Place::D && self.random.below(8) == 0 {
                self.world.act(Act::MoveLink, 0, 0, now);
            } else if is_bad && self.random.below(4) > 0 {
                let site = self.world.targets[self.random.pick(&failing)].site;
                self.heal(site, now);
            } else {
                self.harm(now);
            }
        }
    }

    /// Anything, anywhere.
    fn harm(&mut self, now: Instant) {
        let site = self.random.below(self.world.sites.len() as u64) as usize;
        let slot = self.random.below(self.world.sites[site].slots.len() as u64) as usize;
        let backlog = self.random.below(6) as u32;
        let acts = [
            (8, Act::Open),
            (2, Act::OpenBesideAFailingOne),
            (4, Act::Close),
            (4, Act::Reopen),
            (3, Act::ShutDown),
            (4, Act::ListenAgain),
            (3, Act::ShutDownAndListen),
            (1, Act::HandOver),
            (2, Act::StopAccepting),
            (6, Act::Resume),
            (3, Act::Fill(backlog)),
            (1, Act::Backlog(backlog + 30)),
        ];
        let rare = self.random.below(300);
        let act = match rare {
            0 => Act::MoveLink,
            1 | 2 => Act::MoveAddress,
            _ => {
                let mut place = self.random.below(acts.iter().map(|(weight, _)| weight).sum());
                let found = acts.iter().find(|(weight, _)| {
                    let here = place < *weight;
                    place = place.saturating_sub(*weight);
                    here
                });
                found.map_or(Act::Open, |(_, act)| *act)
            }
        };
        self.world.act(act, site, slot, now);
    }

    /// What makes some target of the site well again.
    fn heal(&mut self, site: usize, now: Instant) {
        let slot = self.random.below(self.world.sites[site].slots.len() as u64) as usize;
        for act in [Act::Open, Act::ListenAgain, Act::Resume] {
            self.world.act(act, site, slot, now);
        }
    }
}
