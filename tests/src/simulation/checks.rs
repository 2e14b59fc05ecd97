//! What a shard promises, looked at from outside after every turn, in the calm, and at the end.

use std::time::Duration;

use probe_core::action::WorkerIndex;
use probe_core::id::ProbeType;
use probe_core::outcome::{Outcome, Verdict};
use probe_core::time::Instant;
use probe_engine::limits;
use probe_engine::shard::{Shard, Turn};

use super::START;
use super::kernel::FakeKernel;
use super::net::Ended;
use super::plan::{Kind, Plan};
use super::pods::{SimProbe, container_id};
use super::target::{Health, Target};
use super::world::World;

/// A target that became well so long ago is well: what it left unanswered before has been answered.
const WELL_FOR: Duration = Duration::from_secs(1);

/// The shard's second look comes so long after the first; softirqs that were held up with it are done by then.
const SECOND_LOOK: Duration = limits::LATE_LOOK;

/// How long everything must stay right.
const SETTLED_FOR: Duration = Duration::from_secs(2);

/// How long a moment without an attempt in flight may take to come.
const CALM_EXTRA: Duration = Duration::from_secs(100);

/// See the module.
#[derive(Default)]
pub struct Checks {
    /// By probe: the connection that its newest result came from.
    answered: Vec<u64>,
    /// By probe: its newest real result was a failure.
    failing: Vec<bool>,
    /// By probe: what it may have begun, and not more, as long as its pause lasts.
    allowed: Vec<u64>,
    window: Window,
    right_since: Option<Instant>,
    /// What each probe had counted when the drought began.
    drought: Option<Vec<(u64, u64)>>,
}

/// Turns within a second of virtual time, and what there was to do.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    until: Instant,
    turns: u64,
    work: u64,
    /// Cancels, or the end: it looks once a millisecond.
    looks_again: bool,
}

/// What the shard must have told of when it ends.
pub struct Ledger {
    due: u64,
    attempts: u64,
    is_whole: bool,
    is_quiet: bool,
}

impl Checks {
    /// After each turn.
    pub fn after_turn(&mut self, shard: &Shard<FakeKernel>, world: &mut World, turn: Turn) {
        if world.reads.len > 2 {
            world.net.turn_ended(world.reads.end);
        }
        assert_eq!(shard.flights_len(), world.net.open_len(), "every flight has a socket, and every socket a flight");
        assert!(shard.flights_len() <= limits::FLIGHTS_PER_SHARD_MAX, "{} in flight", shard.flights_len());
        if world.net.open_len() == 0 && world.net.files_max.is_none() && !world.pods.is_ending {
            assert!(world.net.has_reserve(), "nothing in flight, and no descriptor in reserve");
        }
        self.comes_to_rest(shard, world);
        self.pauses(shard, world);
        self.results(world);
        self.reports(world);
        self.drought(world);
        if turn == Turn::Ended {
            assert_eq!(world.net.open_len(), 0, "sockets are open at the end");
            assert_eq!(world.net.pending_len(), 0, "operations are pending at the end");
        }
    }

    fn comes_to_rest(&mut self, shard: &Shard<FakeKernel>, world: &World) {
        let work = world.net.completions + world.net.tries + world.pods.commands + 3 * world.pods.jobs_len;
        if world.now >= self.window.until {
            self.window = Window { until: world.now + Duration::from_secs(1), turns: 0, work, looks_again: false };
        }
        self.window.turns += 1;
        self.window.looks_again |= world.net.doomed_len() > 0 || world.pods.is_ending;
        let allowed = 400 + 40 * (work - self.window.work) + if self.window.looks_again { 1_500 } else { 0 };
        assert!(
            self.window.turns <= allowed,
            "{} turns in a second with little to do: {} in flight, {} waiting, next due {:?}",
            self.window.turns,
            shard.flights_len(),
            shard.waiting_len(),
            shard.scheduler().poll_timeout()
        );
    }

    /// Nothing begins before a pause is over, passive answers included; but what waited for its place when it began may.
    fn pauses(&mut self, shard: &Shard<FakeKernel>, world: &mut World) {
        self.allowed.resize(world.pods.probes.len(), 0);
        for (index, probe) in world.pods.probes.iter_mut().enumerate() {
            let begun = probe.begun + probe.answers().0;
            if std::mem::take(&mut probe.is_newly_paused) {
                self.allowed[index] = begun + u64::from(shard.waiting_len() > 0);
            } else if probe.paused_until > world.reads.end {
                let until = probe.paused_until;
                assert!(begun <= self.allowed[index], "probe {index}: an attempt, though it is paused until {until:?}");
            }
        }
    }

    /// Every result that was counted in this turn.
    fn results(&mut self, world: &mut World) {
        self.answered.resize(world.pods.probes.len(), 0);
        self.failing.resize(world.pods.probes.len(), false);
        for index in 0..world.pods.probes.len() {
            let probe = &mut world.pods.probes[index];
            let (counts, passive) = (probe.counts(), probe.answers().0);
            let seen = std::mem::replace(&mut probe.seen, counts);
            let passive = passive - std::mem::replace(&mut probe.seen_passive, passive);
            if counts == seen {
                assert_eq!(passive, 0, "probe {index}: a passive answer that is no result");
                continue;
            }
            let (passed, failed) = (counts.0 - seen.0, counts.1 - seen.1);
            assert!(
                passive <= 1 && passive <= passed,
                "probe {index}: {passive} passive answers of {passed} successes"
            );
            let passed = passed - passive;
            assert!(passed + failed <= 1, "probe {index}: more than one result in a turn");
            if passed + failed > 0 {
                self.real_result(world, index, failed > 0);
            }
            if passive > 0 {
                world.note(32, || format!("probe {index}: passive success"));
                assert!(!self.failing[index], "probe {index}: a passive success after a failure");
                let ended = world.net.ended[world.pods.probes[index].target].as_ref();
                world.passive_success_is_deserved(index, ended.map(|ended| ended.created));
            }
        }
    }

    /// A result that comes from an attempt on the ring, or on the pool.
    fn real_result(&mut self, world: &mut World, index: usize, failed: bool) {
        world.note(30 + u64::from(failed), || format!("probe {index}: {}", if failed { "failure" } else { "success" }));
        self.failing[index] = failed;
        let probe = &world.pods.probes[index];
        if probe.is_pooled {
            return;
        }
        let ended =
            world.net.ended[probe.target].as_ref().filter(|ended| ended.epoch == world.net.epochs[probe.target]);
        let Some(ended) = ended else { panic!("probe {index}: a result without an attempt") };
        assert!(ended.serial > self.answered[index], "probe {index}: two results of one attempt");
        self.answered[index] = ended.serial;
        if failed {
            failure_is_deserved(world, index, probe, ended);
        } else {
            success_is_deserved(world, index, probe, ended);
        }
    }

    /// Errors and trouble of our own come from somewhere too.
    fn reports(&mut self, world: &mut World) {
        for report in std::mem::take(&mut world.pods.reports) {
            let Some(index) = world.pods.probe_at(&report.pod, &report.container, report.probe_type) else { continue };
            let probe = &world.pods.probes[index];
            // Read long after it was written: what it rests on may be gone.
            if report.at < world.reads.now || probe.is_pooled {
                continue;
            }
            let target = &world.net.targets[probe.target];
            let ended = world.net.ended[probe.target].as_ref().filter(|ended| ended.serial >= self.answered[index]);
            if let (Outcome::Error(text), Some(ended)) = (&report.outcome, ended) {
                let was_well = target.health() == Health::Well && target.since + WELL_FOR <= ended.created;
                // Three tries are hardly ever held up one after the other. In a pause there is one.
                let is_last = probe.paused_until > report.at;
                let excused = ended.faulted || (is_last && (ended.asked_late || was_starved(world, target, ended)));
                assert!(!was_well || excused, "probe {index}: {text:?} of a target that is well: {ended:?}");
            }
        }
        let local = world.pods.totals.local;
        let faults = world.net.local_faults + world.net.redirects;
        assert!(local <= faults, "{local} local outcomes of {faults} local faults");
    }

    /// Without descriptors, each probe has its turn with the one in reserve.
    fn drought(&mut self, world: &World) {
        let is_dry = world.net.files_max == Some(1);
        if is_dry && self.drought.is_none() && !world.pods.probes.iter().any(|probe| probe.spec.failure_threshold < 100)
        {
            self.drought = Some(world.pods.probes.iter().map(SimProbe::counts).collect());
        }
        if !is_dry && let Some(before) = self.drought.take() {
            for (index, (probe, before)) in world.pods.probes.iter().zip(before).enumerate() {
                let (passed, failed) = probe.counts();
                assert!(probe.told_unknown > 0, "probe {index}: nobody was told that nothing is known");
                let results = passed + failed - before.0 - before.1;
                assert!(results >= 2, "probe {index}: {results} results with the descriptor in reserve");
            }
        }
    }

    /// In the calm: everything is right, and has been for a while. It may take until `latest`.
    pub fn has_settled(&mut self, shard: &Shard<FakeKernel>, world: &World, plan: &Plan, latest: Instant) -> bool {
        let wrong = self.wrong(shard, world);
        if !wrong.is_empty() {
            assert!(world.now < latest, "it is calm, and still: {wrong:#?}");
            self.right_since = None;
            return false;
        }
        let since = *self.right_since.get_or_insert(world.now);
        let is_quiet = shard.flights_len() == 0 && shard.waiting_len() == 0 && world.pods.jobs.is_empty();
        let has_settled = world.now - since >= SETTLED_FOR;
        assert!(!has_settled || world.now < latest + CALM_EXTRA, "it is calm, and never quiet");
        has_settled && (plan.kind == Kind::Life || (is_quiet && self.has_started_all(shard, world)))
    }

    /// No due time has passed that the shard has not seen (its wheel ticks in milliseconds).
    fn has_started_all(&self, shard: &Shard<FakeKernel>, world: &World) -> bool {
        let due = |index| shard.scheduler().worker(WorkerIndex(index)).and_then(|view| view.due);
        let workers_len = world.pods.probes.len() as u32 * 2;
        let all_later = (0..workers_len).filter_map(due).all(|due| due > world.reads.end);
        all_later && shard.scheduler().poll_timeout().is_none_or(|at| at > world.reads.end)
    }

    fn wrong(&self, shard: &Shard<FakeKernel>, world: &World) -> Vec<String> {
        let mut wrong = Vec::new();
        for (index, probe) in world.pods.probes.iter().enumerate() {
            let pod = &world.pods.pods[probe.pod];
            let container = &pod.containers[probe.container];
            let worker = shard.scheduler().worker_index(&pod.pod.uid, &container.name, probe.probe_type);
            let view = worker.and_then(|worker| shard.scheduler().worker(worker));
            let told = probe.latest.as_ref().and_then(|publish| publish.verdict);
            let stored = view.as_ref().and_then(|view| view.verdict);
            if told != stored {
                wrong.push(format!("probe {index}: told {told:?}, stored {stored:?}"));
            }
            if !pod.is_present {
                if view.is_some() {
                    wrong.push(format!("probe {index}: its pod is gone, its worker is not"));
                }
                continue;
            }
            let Some(view) = view else {
                wrong.push(format!("probe {index}: no worker"));
                continue;
            };
            if container.restarting || view.container_id != Some(container_id(container)) {
                wrong.push(format!("probe {index}: watches {:?}", view.container_id));
                continue;
            }
            let expected = expected(world, index);
            if !expected.contains(&stored) {
                let health = world.net.targets[probe.target].health();
                wrong.push(format!("probe {index}, {}, of a target that is {health:?}: {stored:?}", probe.probe_type));
            }
        }
        wrong
    }

    /// What there is to be accounted for, before the end is asked for.
    pub fn ledger(&self, shard: &Shard<FakeKernel>, world: &World, plan: &Plan) -> Ledger {
        let is_quiet = shard.flights_len() == 0 && shard.waiting_len() == 0 && !plan.ends_in_storm;
        let is_whole = plan.kind != Kind::Life;
        let now = world.reads.end;
        // At once, then on the grid of due times (multiples of 10 ms) from one period later on.
        let due = |probe: &SimProbe| match probe.made {
            Some(made) if is_whole => {
                let period = probe.spec.period();
                let second = (made + period).as_nanos().next_multiple_of(10_000_000);
                let later = (now + period).as_nanos().saturating_sub(second);
                u128::from(later) / period.as_nanos() + 1
            }
            _ => 0,
        };
        let due = world.pods.probes.iter().map(due).sum::<u128>() as u64;
        Ledger { due, attempts: world.net.tries + world.pods.jobs_len, is_whole, is_quiet }
    }

    /// After the last turn, when all updates have been read.
    pub fn after_end(&self, shard: &Shard<FakeKernel>, world: &World, ledger: Ledger) {
        assert_eq!(world.pods.ended, 1, "the shard says once that it ended");
        for (index, probe) in world.pods.probes.iter().enumerate() {
            let pod = &world.pods.pods[probe.pod];
            let name = &pod.containers[probe.container].name;
            let worker = shard.scheduler().worker_index(&pod.pod.uid, name, probe.probe_type);
            let stored = worker.and_then(|worker| shard.scheduler().worker(worker)).and_then(|view| view.verdict);
            let told = probe.latest.as_ref().and_then(|publish| publish.verdict);
            assert_eq!(told, stored, "probe {index}: the last verdict told is not the one stored");
        }
        let totals = world.pods.totals;
        let answers = world.pods.probes.iter().map(SimProbe::answers);
        let told = answers.fold((0, 0), |sum, answers| (sum.0 + answers.0, sum.1 + answers.1));
        assert_eq!((totals.passive, totals.real), told, "passive and real answers: counted by shard, and by probe");
        if ledger.is_whole {
            let Ledger { due, .. } = ledger;
            let accounted = totals.started + totals.missed;
            let most = due + totals.local;
            let span = world.now - START;
            assert!(
                (due..=most).contains(&accounted),
                "{due} due times in {span:?}, {} local outcomes, but {} attempts and {} missed",
                totals.local,
                totals.started,
                totals.missed
            );
        }
        if ledger.is_whole && ledger.is_quiet {
            // A redirect that the pool follows is one attempt and two tries.
            assert!(totals.outcomes <= ledger.attempts, "{} outcomes of {} tries", totals.outcomes, ledger.attempts);
        }
    }
}

/// What the stored verdict may be in the end.
fn expected(world: &World, index: usize) -> Vec<Option<Verdict>> {
    let probe = &world.pods.probes[index];
    let is_well = world.net.targets[probe.target].health() == Health::Well;
    let truth = if is_well { Verdict::Success } else { Verdict::Failure };
    let gate = world.pods.probes.iter().position(|other| {
        (other.pod, other.container, other.probe_type) == (probe.pod, probe.container, ProbeType::Startup)
    });
    let gate = gate.filter(|gate| *gate != index).map(|gate| &world.pods.probes[gate]);
    let is_gated = gate.is_some_and(|gate| gate.latest.as_ref().and_then(|p| p.verdict) != Some(Verdict::Success));
    match probe.probe_type {
        // Once it has succeeded, nobody asks again.
        ProbeType::Startup if !is_well => vec![Some(Verdict::Success), Some(Verdict::Failure)],
        ProbeType::Readiness if is_gated => vec![Some(Verdict::Failure)],
        ProbeType::Liveness if is_gated => vec![Some(Verdict::Success)],
        // A threshold that is never reached.
        ProbeType::Liveness if probe.spec.failure_threshold > 100 => vec![Some(Verdict::Success)],
        _ => vec![Some(truth)],
    }
}

fn success_is_deserved(world: &World, index: usize, probe: &SimProbe, ended: &Ended) {
    let target = &world.net.targets[probe.target];
    let health = target.health();
    if target.since > ended.created || !matches!(health, Health::Bad | Health::Mute) {
        return;
    }
    // Too slow, but the clock by which it was stood still together with us: the second look could not tell.
    let excused = target.is_slow() && ended.was_near_a_stall;
    assert!(excused, "probe {index}: a success of a target that is {health:?}: {target:?}, {ended:?}");
}

fn failure_is_deserved(world: &World, index: usize, probe: &SimProbe, ended: &Ended) {
    let target = &world.net.targets[probe.target];
    let health = target.health();
    let is_constant = match health {
        Health::Well => target.since + WELL_FOR <= ended.created,
        Health::Mute => target.since <= ended.created,
        Health::Bad | Health::Unclear => false,
    };
    // Held up right between the clock and its question, the shard takes ages for longer than they are.
    if !is_constant || ended.faulted || ended.asked_late {
        return;
    }
    let excused = was_starved(world, target, ended);
    assert!(excused, "probe {index}: a failure of a target that is {health:?}: {target:?}, {ended:?}");
}

/// Its softirqs were held up, but the look at its deadline was hardly late: then the deadline counts. Or the shard was held
/// up again, before the first look or between the two.
fn was_starved(world: &World, target: &Target, ended: &Ended) -> bool {
    ended.starved_until.is_some_and(|until| {
        let start = ended.turn_end.map_or(Duration::ZERO, |end| end - ended.turn_now);
        let deadline = ended.turn_now + target.timeout + start;
        until <= deadline + SECOND_LOOK || world.stall_end > until || ended.starved_len > 1
    })
}
