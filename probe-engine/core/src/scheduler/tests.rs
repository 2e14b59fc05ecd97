//! Rows of the manager, results and worker tables at the level of one scheduler, and what is the scheduler's own:
//! grid, triggers, retries, local trouble, ends.

use alloc::collections::BTreeMap;
use alloc::vec;

use super::*;
use crate::action::PublishCause;
use crate::fixture::{
    container, container_status, pod, pod_status, running, spec, terminated, termination, thresholds, waiting,
    with_all_probes, with_probe,
};
use crate::id::ProbeTypes;
use crate::outcome::LocalCause;
use crate::spec::{Container, ContainerKind, Grpc, Handler, HttpGet, Port, RestartPolicy, Scheme, TcpSocket};
use crate::status::{ContainerState, PodPhase, Termination};
use ProbeType::{Liveness, Readiness, Startup};
use Verdict::{Failure, Success, Unknown};

const START: Instant = Instant::from_secs(1000);
const STARTS_MAX: usize = 1000;

/// A scheduler whose manager is old enough for no stagger, and what it did.
struct World {
    scheduler: Scheduler,
    now: Instant,
    starts: VecDeque<Start>,
    publishes: Vec<Publish>,
    reports: Vec<Report>,
    passed: Vec<Passed>,
    told: Vec<LocalTooLong>,
    missed: u32,
    ended: Vec<WorkerIndex>,
    made: Vec<(WorkerIndex, ProbeType)>,
    turns: u32,
}

fn config(manager_start: Instant) -> Config {
    Config {
        seed: 1,
        manager_start,
        local_backoff_min: Duration::from_millis(100),
        local_backoff_max: Duration::from_secs(2),
        local_max: Duration::from_secs(30),
    }
}

fn failure() -> Outcome {
    Outcome::Failure("no".into())
}

fn success() -> Outcome {
    Outcome::Success("".into())
}

fn local() -> Outcome {
    Outcome::Local(LocalCause::ProcessFiles)
}

fn error() -> Outcome {
    Outcome::Error("bad port".into())
}

/// A regular container `c` with one probe.
fn one(probe_type: ProbeType, spec: ProbeSpec) -> Container {
    with_probe(container("c", ContainerKind::Regular), probe_type, spec)
}

impl World {
    fn new() -> Self {
        Self::with(config(Instant::ZERO))
    }

    fn with(config: Config) -> Self {
        Self {
            scheduler: Scheduler::new(config, START),
            now: START,
            starts: VecDeque::new(),
            publishes: Vec::new(),
            reports: Vec::new(),
            passed: Vec::new(),
            told: Vec::new(),
            missed: 0,
            ended: Vec::new(),
            made: Vec::new(),
            turns: 0,
        }
    }

    /// A pod `p` of this container, running as `test://1`; everything due has been started.
    fn running(container: Container) -> Self {
        let mut world = Self::new();
        let name = container.name.clone();
        world.add(pod("p", [container]));
        world.state(name.as_str(), "test://1", running(START));
        world
    }

    fn add(&mut self, pod: Pod) {
        let made = &mut self.made;
        self.scheduler
            .add_pod(Arc::new(pod), None, self.now, &mut |worker, _, probe_type| made.push((worker, probe_type)));
        self.settle();
    }

    fn status(&mut self, status: PodStatus) {
        self.scheduler.handle_status(&PodUid::from("p"), Arc::new(status), self.now);
        self.settle();
    }

    fn state(&mut self, name: &str, id: &str, state: ContainerState) {
        self.status(pod_status([container_status(name, id, state)]));
    }

    /// Somebody asks for this probe of `c`.
    fn trigger(&mut self, probe_type: ProbeType) -> bool {
        self.scheduler.trigger(&PodUid::from("p"), &ContainerName::from("c"), probe_type, self.now)
    }

    /// One turn of the loop around a scheduler, of which no test here needs many.
    fn turn(&mut self) {
        self.tire();
        self.scheduler.handle_timeout(self.now, STARTS_MAX);
    }

    fn tire(&mut self) {
        self.turns += 1;
        assert!(self.turns < 20_000, "it never rests");
    }

    /// Starts what is due, marks it started, and sorts the actions.
    fn settle(&mut self) {
        loop {
            if self.scheduler.poll_timeout().is_some_and(|at| at <= self.now) {
                self.turn();
            }
            let Some(action) = self.scheduler.poll_action() else { break };
            match action {
                Action::Start(start) => {
                    self.scheduler.handle_started(start.attempt, self.now);
                    self.starts.push_back(start);
                }
                Action::Publish(publish) => self.publishes.push(publish),
                Action::Report(report) => self.reports.push(report),
                Action::Passed(passed) => self.passed.push(passed),
                Action::LocalTooLong(told) => self.told.push(told),
                Action::Missed { count, .. } => self.missed += count,
                Action::WorkerEnded { worker } => self.ended.push(worker),
            }
        }
    }

    /// Lets time pass, stopping wherever the scheduler wants.
    fn pass(&mut self, millis: u64) {
        self.tire();
        let until = self.now + Duration::from_millis(millis);
        while let Some(at) = self.scheduler.poll_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.turn();
            self.settle();
        }
        self.now = until;
    }

    /// Answers the oldest attempt.
    fn answer(&mut self, outcome: Outcome) -> Start {
        let start = self.starts.pop_front().expect("an attempt is in flight");
        assert!(self.scheduler.handle_outcome(start.attempt, outcome, self.now));
        self.settle();
        start
    }

    /// Lets time pass, answering every attempt at once; returns when they were due, in ms after the start.
    fn pass_answering(&mut self, millis: u64, outcome: &Outcome) -> Vec<u64> {
        let until = self.now + Duration::from_millis(millis);
        let mut due = Vec::new();
        loop {
            while !self.starts.is_empty() {
                let start = self.answer(outcome.clone());
                due.push((start.due - START).as_millis() as u64);
            }
            let Some(at) = self.scheduler.poll_timeout().filter(|at| *at <= until) else { break };
            self.now = self.now.max(at);
            self.turn();
            self.settle();
        }
        self.now = until;
        due
    }

    fn verdict(&self, container: &str, probe_type: ProbeType) -> Option<Verdict> {
        let index = self.scheduler.worker_index(&PodUid::from("p"), &ContainerName::from(container), probe_type)?;
        self.scheduler.worker(index)?.verdict
    }

    fn flags(&self, container: &str) -> (bool, bool) {
        let flags =
            self.scheduler.pod(&PodUid::from("p")).expect("known").flags(&ContainerName::from(container), false);
        (flags.started, flags.ready)
    }

    fn verdicts_published(&self) -> Vec<Option<Verdict>> {
        self.publishes.iter().map(|publish| publish.verdict).collect()
    }

    /// Due times of the attempts in flight, in ms after the start.
    fn starts_due(&self) -> Vec<u64> {
        self.starts.iter().map(|start| (start.due - START).as_millis() as u64).collect()
    }
}

// Rows of section 8.1 that need a pod around the worker.

#[test]
fn w08_a_container_without_an_id_stores_nothing() {
    let mut world = World::new();
    world.add(pod("p", [with_all_probes(container("c", ContainerKind::Regular))]));
    world.state("c", "", running(START));
    world.pass(30_000);
    assert!(world.publishes.is_empty() && world.starts.is_empty());
    assert_eq!(world.scheduler.workers_len(), 3);
}

/// Steps all three workers over a container that ended with this code; returns how many are left.
fn workers_left_after(kind: ContainerKind, policy: RestartPolicy, exit_code: i32) -> usize {
    let mut world = World::new();
    let mut p = pod("p", [with_all_probes(container("c", kind)), container("other", ContainerKind::Regular)]);
    p.restart_policy = policy;
    world.add(p);
    world.state("c", "test://1", terminated(exit_code));
    world.pass(10_000);
    let failures = world.publishes.iter().filter(|publish| publish.verdict == Some(Failure)).count();
    assert_eq!(failures, 3);
    world.scheduler.workers_len()
}

#[test]
fn w10_never_restarted_means_the_workers_end() {
    assert_eq!(workers_left_after(ContainerKind::Regular, RestartPolicy::Never, 0), 0);
}

#[test]
fn w11_always_restarted_means_the_workers_go_on() {
    assert_eq!(workers_left_after(ContainerKind::Regular, RestartPolicy::Always, 1), 3);
}

#[test]
fn w12_on_failure_the_workers_go_on_even_after_exit_code_0() {
    assert_eq!(workers_left_after(ContainerKind::Regular, RestartPolicy::OnFailure, 0), 3);
}

#[test]
fn w14_a_sidecars_workers_go_on_under_restart_policy_never() {
    assert_eq!(workers_left_after(ContainerKind::Sidecar, RestartPolicy::Never, 1), 3);
}

#[test]
fn what_an_end_says_of_its_restart_goes_before_every_policy() {
    for (policy, restart_allowed, left) in
        [(RestartPolicy::Always, false, 0), (RestartPolicy::Never, true, 3), (RestartPolicy::OnFailure, false, 0)]
    {
        let mut world = World::new();
        let all = with_all_probes(container("c", ContainerKind::Regular));
        let mut p = pod("p", [all, container("other", ContainerKind::Regular)]);
        p.restart_policy = policy;
        world.add(p);
        let end = Termination { restart_allowed: Some(restart_allowed), ..termination(1, START) };
        world.state("c", "test://1", ContainerState::Terminated(Box::new(end)));
        world.pass(10_000);
        assert_eq!(world.scheduler.workers_len(), left, "{policy:?}");
    }
}

#[test]
fn w26_errors_change_nothing_and_do_not_break_the_run() {
    let mut world = World::running(one(Liveness, thresholds(1, 2)));
    world.pass(10_000);
    world.answer(failure());
    world.pass(10_000);
    (0..3).for_each(|retry| assert_eq!(world.answer(error()).retry, retry));
    assert!(world.starts.is_empty(), "three tries in all");
    assert_eq!(world.verdict("c", Liveness), Some(Success));
    let last = world.reports.last().expect("errors are reported, once per call");
    assert_eq!((world.reports.len(), &last.outcome, last.run, last.threshold), (2, &error(), 0, 0));
    world.pass(10_000);
    world.answer(failure());
    assert_eq!(world.verdict("c", Liveness), Some(Failure));
}

#[test]
fn p12_a_failure_is_not_tried_again() {
    let mut world = World::running(one(Liveness, thresholds(1, 3)));
    world.pass(10_000);
    assert_eq!(world.answer(failure()).retry, 0);
    assert!(world.starts.is_empty(), "one try");
    assert_eq!(world.reports.len(), 1);
}

#[test]
fn p14_an_outcome_means_the_same_whatever_the_handler() {
    let http =
        HttpGet { host: None, port: Port::Number(80), path: "/".into(), scheme: Scheme::Http, headers: [].into() };
    let handlers = [
        Handler::HttpGet(http),
        Handler::TcpSocket(TcpSocket { host: None, port: Port::Number(80) }),
        Handler::Grpc(Grpc { port: 80, service: "".into() }),
    ];
    let warning = Outcome::Warning("redirected".into());
    let table = [(success(), 1, Success), (warning, 1, Success), (failure(), 1, Failure), (error(), 3, Unknown)];
    for handler in handlers {
        for (outcome, tries, verdict) in &table {
            let spec = ProbeSpec { handler: handler.clone(), ..thresholds(1, 1) };
            let mut world = World::running(one(Startup, spec));
            world.pass(10_000);
            (0..*tries).for_each(|_| _ = world.answer(outcome.clone()));
            assert!(world.starts.is_empty());
            assert_eq!(world.verdict("c", Startup), Some(*verdict), "{handler:?} {outcome:?}");
            assert_eq!(world.reports.len(), 1);
        }
    }
}

#[test]
fn w45_a_failed_liveness_probe_is_not_asked_again() {
    let mut world = World::running(one(Liveness, spec()));
    assert_eq!(world.pass_answering(60_000, &failure()), [10_000]);
}

#[test]
fn w46_after_a_restart_liveness_probes_again_on_its_grid() {
    let mut world = World::running(one(Liveness, spec()));
    world.pass_answering(34_000, &failure());
    world.state("c", "test://2", running(world.now));
    assert_eq!(world.pass_answering(10_000, &success()), [40_000]);
    assert_eq!(world.verdict("c", Liveness), Some(Success));
}

#[test]
fn w52_stopping_ten_times_ends_the_worker_once_and_removes_its_result() {
    let mut world = World::running(one(Readiness, spec()));
    world.answer(success());
    world.publishes.clear();
    (0..10).for_each(|_| world.scheduler.remove_pod(&PodUid::from("p"), START));
    world.settle();
    assert_eq!((world.ended.len(), world.scheduler.workers_len()), (1, 0));
    assert_eq!(world.verdicts_published(), [None]);
    assert!(world.scheduler.pod(&PodUid::from("p")).is_none());
}

#[test]
fn w54_after_a_manager_restart_a_running_container_keeps_its_readiness() {
    let mut world = World::with(config(START));
    let probe = ProbeSpec { initial_delay_seconds: 7200, ..spec() };
    world.add(pod("p", [one(Readiness, probe)]));
    world.state("c", "test://1", running(START.saturating_sub(Duration::from_secs(11))));
    world.pass(30_000);
    assert!(world.publishes.is_empty());
    world.state("c", "test://2", running(START));
    assert_eq!(world.verdicts_published(), [Some(Failure)]);
}

// Section 8.3, manager.

#[test]
fn m01_a_pod_without_probes_has_no_workers() {
    let mut world = World::new();
    world.add(pod("p", [container("c", ContainerKind::Regular)]));
    assert_eq!((world.scheduler.workers_len(), world.made.len()), (0, 0));
}

#[test]
fn m02_three_probes_are_three_workers_startup_first() {
    let mut world = World::new();
    world.add(pod("p", [with_all_probes(container("c", ContainerKind::Regular))]));
    assert_eq!(world.scheduler.workers_len(), 3);
    assert_eq!(world.made.iter().map(|m| m.1).collect::<Vec<_>>(), [Startup, Readiness, Liveness]);
}

#[test]
fn m03_adding_a_pod_again_makes_nothing() {
    let mut world = World::new();
    (0..2).for_each(|_| world.add(pod("p", [with_all_probes(container("c", ContainerKind::Regular))])));
    assert_eq!((world.scheduler.workers_len(), world.made.len()), (3, 3));
}

#[test]
fn m04_an_ordinary_init_container_has_no_workers() {
    let mut world = World::new();
    world.add(pod("p", [with_all_probes(container("i", ContainerKind::Init)), container("c", ContainerKind::Regular)]));
    assert_eq!(world.scheduler.workers_len(), 0);
}

#[test]
fn m05_a_sidecar_has_its_workers_after_those_of_regular_containers() {
    let mut world = World::new();
    world.add(pod("p", [with_all_probes(container("s", ContainerKind::Sidecar)), one(Liveness, spec())]));
    assert_eq!(world.made.iter().map(|m| m.1).collect::<Vec<_>>(), [Liveness, Startup, Readiness, Liveness]);
}

#[test]
fn m06_removing_a_pod_that_is_unknown_or_has_no_probes_does_nothing_else() {
    let mut world = World::new();
    world.add(pod("p", [container("c", ContainerKind::Regular)]));
    world.add(pod("q", [one(Liveness, spec())]));
    world.scheduler.remove_pod(&PodUid::from("p"), START);
    world.scheduler.remove_pod(&PodUid::from("nobody"), START);
    world.settle();
    assert_eq!((world.scheduler.workers_len(), world.ended.len()), (1, 0));
}

#[test]
fn m07_removing_a_pod_ends_its_workers_and_no_others() {
    let mut world = World::new();
    world.add(pod("p", [with_all_probes(container("c", ContainerKind::Regular))]));
    world.add(pod("q", [one(Liveness, spec())]));
    world.scheduler.remove_pod(&PodUid::from("p"), START);
    world.settle();
    assert_eq!((world.scheduler.workers_len(), world.ended.len()), (1, 3));
}

#[test]
fn m08_cleanup_ends_the_workers_of_undesired_pods() {
    let mut world = World::new();
    world.add(pod("p", [one(Liveness, spec())]));
    world.add(pod("q", [one(Liveness, spec())]));
    world.scheduler.cleanup_pods(&|uid| uid.as_str() == "p", START);
    world.settle();
    assert!(world.scheduler.pod(&PodUid::from("q")).is_none());
    assert_eq!(world.scheduler.workers_len(), 1);
    world.pass(10_000);
    assert_eq!(world.ended, [WorkerIndex(1)]);
}

#[test]
fn m11_stop_liveness_and_startup_leaves_readiness() {
    let mut world = World::new();
    let sidecar = with_all_probes(container("s", ContainerKind::Sidecar));
    world.add(pod("p", [with_all_probes(container("c", ContainerKind::Regular)), sidecar]));
    world.scheduler.stop_liveness_and_startup(&PodUid::from("p"), START);
    world.settle();
    let view = world.scheduler.pod(&PodUid::from("p")).expect("known");
    assert!(view.workers().all(|(_, _, probe_type)| probe_type == Readiness));
    assert_eq!(world.scheduler.workers_len(), 2);
}

#[test]
fn m12_running_without_probes_is_started_and_ready() {
    assert_eq!(World::running(container("c", ContainerKind::Regular)).flags("c"), (true, true));
}

#[test]
fn m13_a_stored_readiness_success_is_ready() {
    let mut world = World::running(one(Readiness, spec()));
    world.answer(success());
    assert_eq!(world.flags("c"), (true, true));
}

#[test]
fn m15_a_stored_readiness_failure_is_not_ready() {
    let mut world = World::running(one(Readiness, spec()));
    world.answer(failure());
    assert_eq!(world.flags("c"), (true, false));
}

#[test]
fn m16_a_startup_worker_without_a_result_is_not_started() {
    assert_eq!(World::running(one(Startup, spec())).flags("c"), (false, false));
}

#[test]
fn m17_a_stored_startup_success_is_started_and_ready_without_a_readiness_probe() {
    let mut world = World::running(one(Startup, spec()));
    world.pass_answering(10_000, &success());
    assert_eq!(world.flags("c"), (true, true));
}

#[test]
fn m21_a_terminated_container_is_neither() {
    let mut world = World::running(one(Readiness, spec()));
    world.answer(success());
    world.state("c", "test://1", terminated(0));
    assert_eq!(world.flags("c"), (false, false));
}

/// `started` and `ready` of a container `c` of this kind without probes, in this state.
fn flags_of(kind: ContainerKind, state: ContainerState) -> (bool, bool) {
    let mut world = World::new();
    world.add(pod("p", [container("c", kind), container("other", ContainerKind::Regular)]));
    world.state("c", "test://1", state);
    world.flags("c")
}

#[test]
fn m22_an_init_container_that_waits_is_neither() {
    assert_eq!(flags_of(ContainerKind::Init, waiting()), (false, false));
}

#[test]
fn m23_an_init_container_that_runs_is_started() {
    assert_eq!(flags_of(ContainerKind::Init, running(START)), (true, false));
}

#[test]
fn m24_an_init_container_that_ended_well_is_ready() {
    assert_eq!(flags_of(ContainerKind::Init, terminated(0)), (false, true));
    assert_eq!(flags_of(ContainerKind::Init, terminated(1)), (false, false));
}

#[test]
fn m26_a_sidecar_that_runs_without_probes_is_started_and_ready() {
    assert_eq!(flags_of(ContainerKind::Sidecar, running(START)), (true, true));
}

#[test]
fn m27_a_sidecar_that_waits_is_neither() {
    assert_eq!(flags_of(ContainerKind::Sidecar, waiting()), (false, false));
}

#[test]
fn m29_a_pod_that_was_ready_stays_so_over_a_manager_restart() {
    let mut world = World::with(config(START));
    world.add(pod("p", [one(Readiness, spec())]));
    world.state("c", "test://1", running(START.saturating_sub(Duration::from_secs(600))));
    let view = world.scheduler.pod(&PodUid::from("p")).expect("known");
    assert_eq!(view.flags(&ContainerName::from("c"), true), Flags { started: true, ready: true });
    assert_eq!(view.flags(&ContainerName::from("c"), false), Flags { started: true, ready: false });
}

// Section 8.4, results, as the stream of Publish.

#[test]
fn r01_a_new_verdict_is_published_once_with_its_names() {
    let mut world = World::running(one(Readiness, spec()));
    world.publishes.clear();
    world.answer(success());
    let [publish] = &world.publishes[..] else { panic!("{:?}", world.publishes) };
    assert_eq!((publish.pod.as_str(), publish.container_id.as_str()), ("p", "test://1"));
    assert_eq!((publish.verdict, publish.cause), (Some(Success), PublishCause::Threshold));
    assert_eq!(world.verdict("c", Readiness), Some(Success));
}

#[test]
fn r02_the_same_verdict_again_is_not_published() {
    let mut world = World::running(one(Readiness, spec()));
    world.answer(success());
    world.publishes.clear();
    assert_eq!(world.pass_answering(50_000, &success()).len(), 5);
    assert!(world.publishes.is_empty());
}

#[test]
fn r04_a_removal_is_no_verdict_and_leads_to_no_sync() {
    let mut world = World::new();
    world.add(pod("p", [one(Startup, spec()), with_probe(container("d", ContainerKind::Regular), Readiness, spec())]));
    world.status(pod_status([
        container_status("c", "test://c", running(START)),
        container_status("d", "test://d", running(START)),
    ]));
    world.answer(failure());
    world.pass(10_000);
    while !world.starts.is_empty() {
        world.answer(failure());
    }
    world.publishes.clear();
    world.scheduler.stop_liveness_and_startup(&PodUid::from("p"), world.now);
    world.settle();
    assert_eq!(world.verdicts_published(), [None]);
    assert!(world.starts.is_empty(), "no status was generated, so nothing was triggered");
}

#[test]
fn r07_a_worker_from_start_to_success_publishes_failure_then_success() {
    let mut world = World::running(one(Readiness, spec()));
    world.answer(success());
    assert_eq!(world.verdicts_published(), [Some(Failure), Some(Success)]);
}

// The grid.

#[test]
fn readiness_is_asked_as_soon_as_the_container_is_seen_and_then_each_period() {
    let mut world = World::new();
    world.add(pod("p", [one(Readiness, spec())]));
    world.pass(3_300);
    world.state("c", "test://1", running(world.now));
    assert_eq!(world.pass_answering(30_000, &success()), [3_300, 13_300, 23_300, 33_300]);
}

#[test]
fn liveness_waits_for_the_grid_that_began_with_the_pod() {
    let mut world = World::new();
    world.add(pod("p", [one(Liveness, spec())]));
    world.pass(3_300);
    world.state("c", "test://1", running(world.now));
    assert_eq!(world.pass_answering(30_000, &success()), [10_000, 20_000, 30_000]);
}

#[test]
fn an_attempt_longer_than_the_period_is_followed_at_once_by_one_more() {
    let mut world = World::running(one(Liveness, spec()));
    world.pass(10_000);
    world.pass(25_000);
    world.answer(success());
    assert_eq!((world.starts_due(), world.missed), (vec![20_000], 1));
    world.answer(success());
    world.pass(5_000);
    assert_eq!((world.starts_due(), world.missed), (vec![40_000], 1));
}

#[test]
fn due_times_that_pass_while_the_attempt_is_queued_are_missed() {
    let mut world = World::running(one(Liveness, spec()));
    world.now = START + Duration::from_secs(10);
    world.scheduler.handle_timeout(world.now, STARTS_MAX);
    let actions: Vec<_> = core::iter::from_fn(|| world.scheduler.poll_action()).collect();
    let Some(Action::Start(start)) = actions.last() else { panic!("an attempt is due: {actions:?}") };
    world.pass(25_000);
    assert_eq!(world.missed, 2);
    world.now = world.now + Duration::from_secs(5);
    world.scheduler.handle_started(start.attempt, world.now);
    world.settle();
    assert_eq!(world.missed, 3, "the due time of this very moment passed, too");
    assert!(world.scheduler.handle_outcome(start.attempt, success(), world.now));
    world.settle();
    assert!(world.starts.is_empty());
    assert_eq!(world.pass_answering(10_000, &success()), [50_000]);
    assert_eq!(world.reports[0].duration_ns, 0, "a call lasts from when it was started");
}

#[test]
fn what_no_start_was_left_for_goes_first_next_time() {
    let mut world = World::new();
    for i in 0..5_u64 {
        world.now = START + Duration::from_millis(10 * i);
        world.add(pod(&std::format!("p{i}"), [one(Liveness, spec())]));
        let status = Arc::new(pod_status([container_status("c", "test://1", running(START))]));
        world.scheduler.handle_status(&PodUid::new(std::format!("p{i}")), status, world.now);
    }
    world.now = START + Duration::from_millis(10_050);
    let mut due = Vec::new();
    for _ in 0..3 {
        assert!(world.scheduler.poll_timeout().is_some_and(|at| at <= world.now));
        world.scheduler.handle_timeout(world.now, 2);
        while let Some(action) = world.scheduler.poll_action() {
            if let Action::Start(start) = action {
                due.push((start.due - START).as_millis());
            }
        }
        due.push(0);
    }
    assert_eq!(due, [10_000, 10_010, 0, 10_020, 10_030, 0, 10_040, 0]);
    assert!(world.scheduler.poll_timeout().is_some_and(|at| at > world.now));
}

#[test]
fn after_the_managers_start_the_first_step_is_staggered() {
    let mut world = World::with(config(START));
    world.add(pod("p", [one(Liveness, spec())]));
    world.state("c", "test://1", running(START));
    assert!(world.starts.is_empty());
    let due = world.pass_answering(30_000, &success());
    assert!(due.len() == 3 && due[0] < 10_000, "{due:?}");
    assert_eq!([due[1] - due[0], due[2] - due[1]], [10_000, 10_000]);
}

#[test]
fn a_trigger_within_the_stagger_is_answered_by_the_first_step() {
    let mut world = World::with(config(START));
    world.add(pod("p", [one(Readiness, spec())]));
    world.state("c", "test://1", running(START));
    assert!(world.starts.is_empty());
    assert_eq!(world.pass_answering(10_000, &success()).len(), 1);
}

// Triggers.

#[test]
fn a_trigger_sets_the_grid_anew() {
    let mut world = World::running(one(Liveness, spec()));
    world.pass(4_000);
    assert!(world.scheduler.trigger(&PodUid::from("p"), &ContainerName::from("c"), Liveness, world.now));
    assert!(!world.scheduler.trigger(&PodUid::from("p"), &ContainerName::from("c"), Readiness, world.now));
    assert_eq!(world.pass_answering(20_000, &success()), [4_000, 14_000, 24_000]);
}

#[test]
fn a_trigger_from_outside_waits_for_the_end_of_the_stagger_too() {
    let mut world = World::with(config(START));
    world.add(pod("p", [one(Liveness, spec())]));
    world.state("c", "test://1", running(START));
    let first = world.scheduler.next_due(world.made[0].0).expect("it is about to begin");
    assert!(first > START && world.trigger(Liveness));
    world.settle();
    assert!(world.starts.is_empty());
    let first = (first - START).as_millis() as u64;
    assert_eq!(world.pass_answering(10_000 + first, &success()), [first, first + 10_000], "its grid has not moved");
}

#[test]
fn at_the_managers_start_triggers_take_no_memory() {
    let mut world = World::with(config(START));
    for i in 0..100 {
        let uid = std::format!("p{i}");
        world.add(pod(&uid, [one(Readiness, spec())]));
        let status = Arc::new(pod_status([container_status("c", "test://1", running(START))]));
        world.scheduler.handle_status(&PodUid::from(uid.as_str()), status, START);
    }
    assert!(world.scheduler.busies.len() < 5, "{}: of those whose stagger is 0", world.scheduler.busies.len());
}

#[test]
fn after_a_trigger_the_next_call_is_reported_whatever_it_says() {
    let mut world = World::running(one(Liveness, spec()));
    world.pass_answering(30_000, &success());
    assert_eq!((world.reports.len(), world.passed.len()), (1, 2), "only the first success is worth a report");
    assert!(world.trigger(Liveness));
    world.settle();
    world.answer(success());
    assert_eq!((world.reports.len(), world.passed.len()), (2, 2));
    world.pass_answering(10_000, &success());
    assert_eq!((world.reports.len(), world.passed.len()), (2, 3), "only the next one");
}

#[test]
fn a_trigger_that_finds_no_container_is_reported_when_there_is_one() {
    let mut world = World::running(one(Liveness, spec()));
    world.pass_answering(30_000, &success());
    world.status(pod_status([]));
    assert!(world.trigger(Liveness));
    world.settle();
    world.pass(5_000);
    assert!(world.starts.is_empty());
    world.state("c", "test://1", running(START));
    world.pass_answering(10_000, &success());
    assert_eq!((world.reports.len(), world.passed.len()), (2, 2));
    assert!(world.publishes.len() == 1, "its verdict is the same: nothing else would have been told");
}

#[test]
fn a_trigger_that_waits_for_its_turn_sets_the_grid_from_when_it_came() {
    let mut world = World::running(one(Liveness, ProbeSpec { period_seconds: 1, ..spec() }));
    world.pass(400);
    assert!(world.trigger(Liveness));
    world.now = START + Duration::from_millis(1_300);
    world.scheduler.handle_timeout(world.now, 0);
    assert!(world.scheduler.poll_timeout().is_some_and(|at| at <= world.now), "it waits for a start");
    world.settle();
    assert_eq!(world.answer(success()).due, START + Duration::from_millis(400));
    assert_eq!(world.scheduler.poll_timeout(), Some(START + Duration::from_millis(1_400)));
}

#[test]
fn triggers_during_an_attempt_lead_to_one_more_step_after_it() {
    let mut world = World::running(one(Readiness, spec()));
    world.pass(500);
    (0..3).for_each(|_| world.state("c", "test://1", running(START)));
    assert_eq!(world.starts.len(), 1);
    world.pass(200);
    world.answer(success());
    assert_eq!(world.starts_due(), [700], "although it is ready now");
    assert_eq!(world.pass_answering(15_000, &success()), [700, 10_700]);
}

#[test]
fn a_ready_container_is_not_triggered_by_a_status() {
    let mut world = World::running(one(Readiness, spec()));
    world.answer(success());
    world.state("c", "test://1", running(START));
    assert!(world.starts.is_empty());
}

#[test]
fn becoming_not_ready_asks_once_more_at_once() {
    let mut world = World::running(one(Readiness, spec()));
    world.answer(success());
    assert_eq!(world.pass_answering(10_000, &failure()), [10_000, 10_000]);
    assert_eq!(world.pass_answering(10_000, &failure()), [20_000], "no change, no sync, no trigger");
}

#[test]
fn startup_gates_the_others_and_its_success_asks_readiness_at_once() {
    let mut world = World::new();
    let mut c = with_all_probes(container("c", ContainerKind::Regular));
    c = with_probe(c, Startup, ProbeSpec { period_seconds: 1, ..thresholds(1, 30) });
    world.add(pod("p", [c]));
    world.state("c", "test://1", running(START));
    let types = |world: &World| -> Vec<ProbeType> { world.reports.iter().map(|report| report.probe_type).collect() };
    world.pass_answering(15_500, &failure());
    assert!(types(&world).iter().all(|t| *t == Startup) && world.reports.len() == 15);
    world.reports.clear();
    world.pass_answering(1_000, &success());
    assert_eq!(types(&world), [Startup, Readiness]);
    assert_eq!(world.flags("c"), (true, true));
    world.pass_answering(4_000, &success());
    assert_eq!(types(&world), [Startup, Readiness, Liveness], "liveness keeps its grid");
    world.state("c", "test://2", running(world.now));
    assert_eq!(world.flags("c"), (false, false), "a new instance is gated again");
}

#[test]
fn a_liveness_failure_triggers_the_readiness_of_containers_that_are_not_ready() {
    let mut world = World::new();
    let d = with_probe(container("d", ContainerKind::Regular), Readiness, spec());
    world.add(pod("p", [one(Liveness, ProbeSpec { period_seconds: 3, ..spec() }), d]));
    world.status(pod_status([
        container_status("c", "test://c", running(START)),
        container_status("d", "test://d", running(START)),
    ]));
    world.answer(failure());
    world.pass(3_000);
    world.answer(failure());
    assert_eq!((world.starts.len(), world.starts_due()), (1, vec![3_000]));
    assert_eq!(world.scheduler.target(world.starts[0].attempt.worker).map(|t| t.probe_type), Some(Readiness));
}

/// Who is asked when a probe of `c` has its first step, beside a container `d` that is not ready and is not due.
fn asked_at_the_first_step_of(probe_type: ProbeType) -> Vec<ProbeType> {
    let mut world = World::new();
    let d = with_probe(container("d", ContainerKind::Regular), Readiness, spec());
    world.add(pod("p", [one(probe_type, ProbeSpec { period_seconds: 3, ..spec() }), d]));
    world.status(pod_status([
        container_status("c", "test://c", running(START)),
        container_status("d", "test://d", running(START)),
    ]));
    world.answer(failure());
    assert!(world.starts.is_empty());
    world.pass(3_000);
    let asked = world.starts.iter().filter_map(|start| world.scheduler.target(start.attempt.worker));
    asked.map(|target| target.probe_type).collect()
}

#[test]
fn a_first_value_of_startup_asks_for_readiness_elsewhere_and_one_of_liveness_does_not() {
    assert_eq!(asked_at_the_first_step_of(Startup), [Startup, Readiness]);
    assert_eq!(asked_at_the_first_step_of(Liveness), [Liveness]);
}

#[test]
fn a_worker_that_ended_is_made_again_and_steps_at_once() {
    let mut world = World::running(one(Liveness, spec()));
    world.scheduler.stop_liveness_and_startup(&PodUid::from("p"), world.now);
    world.pass(3_000);
    world.add(pod("p", [one(Liveness, spec())]));
    assert_eq!(world.made.len(), 2);
    assert_eq!(world.pass_answering(15_000, &success()), [3_000, 13_000]);
}

// Attempts.

#[test]
fn errors_are_retried_at_once_with_the_same_due_time() {
    let mut world = World::running(one(Liveness, spec()));
    world.pass(10_000);
    let first = world.answer(error());
    world.pass(300);
    let second = world.answer(success());
    assert_eq!((first.due, second.retry), (second.due, 1));
    assert_ne!(first.attempt, second.attempt);
    assert_eq!(world.reports.len(), 1);
    assert_eq!(world.reports[0].duration_ns, 300_000_000);
}

#[test]
fn stale_attempts_are_ignored() {
    let mut world = World::running(one(Liveness, spec()));
    world.pass(10_000);
    let start = world.answer(success());
    assert!(!world.scheduler.handle_outcome(start.attempt, failure(), world.now));
    let nobody = AttemptId { worker: WorkerIndex(77), generation: 1 };
    assert!(!world.scheduler.handle_outcome(nobody, failure(), world.now));
    world.scheduler.handle_started(nobody, world.now);
    assert_eq!(world.verdict("c", Liveness), Some(Success));
}

#[test]
fn an_attempt_that_was_followed_by_another_try_is_stale() {
    let mut world = World::running(one(Liveness, spec()));
    world.pass(10_000);
    let first = world.answer(error());
    assert_eq!(world.starts.len(), 1, "the second try is in flight");
    assert!(!world.scheduler.handle_outcome(first.attempt, failure(), world.now));
    assert_eq!(world.scheduler.handle_passed(first.attempt, world.now), None);
    world.settle();
    assert_eq!((world.starts.len(), world.reports.len(), world.verdict("c", Liveness)), (1, 0, Some(Success)));
}

#[test]
fn an_attempt_that_ended_in_local_trouble_has_ended() {
    let mut world = World::running(one(Liveness, spec()));
    world.pass(10_000);
    let ended = world.answer(local());
    assert!(!world.scheduler.handle_outcome(ended.attempt, failure(), world.now));
    world.settle();
    assert_eq!((world.reports.len(), world.verdict("c", Liveness)), (1, Some(Success)));
}

#[test]
fn a_report_tells_the_run_that_reached_the_threshold() {
    let mut world = World::running(one(Liveness, thresholds(1, 3)));
    world.pass_answering(40_000, &failure());
    let runs: Vec<_> = world.reports.iter().map(|report| (report.run, report.threshold)).collect();
    assert_eq!(runs, [(1, 3), (2, 3), (3, 3)]);
}

// Local trouble.

#[test]
fn local_outcomes_are_retried_with_a_doubling_wait_and_never_count() {
    let mut world = World::running(one(Liveness, spec()));
    world.pass(10_000);
    let mut started = Vec::new();
    for _ in 0..7 {
        world.answer(local());
        world.pass((world.scheduler.poll_timeout().expect("armed") - world.now).as_millis() as u64);
        while world.starts.is_empty() {
            world.pass((world.scheduler.poll_timeout().expect("armed") - world.now).as_millis().max(1) as u64);
        }
        started.push((world.now - START).as_millis());
    }
    assert_eq!(started, [10_100, 10_300, 10_700, 11_500, 13_100, 15_100, 17_100]);
    assert!(world.reports.iter().all(|report| (report.run, report.threshold) == (0, 0)));
    world.answer(success());
    assert_eq!(world.pass_answering(20_000, &success()), [20_000, 30_000], "the grid has not moved");
    assert_eq!((world.verdicts_published(), world.missed), (vec![Some(Success)], 0));
}

#[test]
fn a_due_time_within_the_wait_adds_no_attempt() {
    let mut world = World::running(one(Liveness, ProbeSpec { period_seconds: 1, ..spec() }));
    world.pass(1_000);
    let mut attempts = 0;
    while world.now < START + Duration::from_secs(30) {
        while !world.starts.is_empty() {
            world.answer(local());
            attempts += 1;
        }
        world.pass(100);
    }
    assert!((14..=20).contains(&attempts), "one every two seconds once the wait has grown: {attempts}");
    assert!(world.missed > 5, "{}", world.missed);
    assert_eq!(world.scheduler.worker(WorkerIndex(0)).and_then(|w| w.verdict), Some(Success));
}

#[test]
fn too_long_local_is_told_once_and_makes_the_next_attempt_urgent() {
    let mut world = World::running(one(Liveness, thresholds(1, 1)));
    world.pass_answering(10_000 + 49_000, &local());
    assert!(world.told.is_empty(), "five periods are longer than local_max");
    world.pass_answering(30_000, &local());
    assert_eq!(world.told.len(), 1);
    assert!(world.told[0].for_ns >= 50_000_000_000 && world.told[0].for_ns < 53_000_000_000);
    world.pass(3_000);
    assert!(world.answer(failure()).urgent);
    assert_eq!(world.verdict("c", Liveness), Some(Failure), "its outcome counts like any");
}

#[test]
fn local_trouble_does_not_delay_what_needs_no_attempt() {
    let mut world = World::running(one(Readiness, ProbeSpec { period_seconds: 1, ..spec() }));
    world.pass_answering(20_000, &local());
    world.publishes.clear();
    let now = world.now;
    world.state("c", "test://2", running(now));
    assert_eq!(world.verdicts_published(), [None, Some(Failure)]);
}

#[test]
fn a_wait_that_has_lost_its_reason_wakes_nobody() {
    let mut world = World::running(one(Liveness, ProbeSpec { period_seconds: 1, ..spec() }));
    (0..5).for_each(|_| _ = world.pass_answering(1_000, &local()));
    // The wait has grown to 2 s: the next due time falls into it.
    while !world.starts.is_empty() {
        world.answer(local());
    }
    world.status(pod_status([]));
    world.pass(1_000);
    let next = world.scheduler.next_due(world.made[0].0);
    assert_eq!((world.scheduler.poll_timeout(), world.starts.len()), (next, 0));
}

#[test]
fn a_container_known_to_run_is_probed_at_once_whatever_the_type() {
    for probe_type in ProbeType::ALL {
        let mut world = World::new();
        let status = Arc::new(pod_status([container_status("c", "test://1", running(START))]));
        let made = &mut world.made;
        world.scheduler.add_pod(
            Arc::new(pod("p", [one(probe_type, spec())])),
            Some(status),
            START,
            &mut |worker, _, t| {
                made.push((worker, t));
            },
        );
        world.settle();
        assert_eq!(world.starts.len(), 1, "{probe_type}");
        world.answer(success());
        assert_eq!(world.verdict("c", probe_type), Some(Success), "{probe_type}");
    }
}

#[test]
fn a_worker_goes_on_with_what_another_daemon_knew_of_its_instance() {
    let mut world = World::new();
    let status = Arc::new(pod_status([container_status("c", "test://1", running(START))]));
    let memory = Memory::new(Liveness, Success, false, 2);
    world.scheduler.add_pod_remembering(
        Arc::new(pod("p", [one(Liveness, thresholds(1, 3))])),
        Some(Arc::clone(&status)),
        &|_, _| Some(memory),
        START,
        &mut |_, _, _| {},
    );
    world.settle();
    world.answer(failure());
    assert_eq!(world.verdicts_published(), [Some(Failure)], "the third in a row, and no initial value");
    // Without an instance there is nothing to go on with.
    let mut world = World::new();
    world.scheduler.add_pod_remembering(
        Arc::new(pod("p", [one(Liveness, thresholds(1, 3))])),
        None,
        &|_, _| Some(memory),
        START,
        &mut |_, _, _| {},
    );
    assert_eq!(world.verdict("c", Liveness), None);
}

#[test]
fn what_another_daemon_knew_may_come_with_a_later_status_and_is_heard_once() {
    let two = ["c", "d"].map(|name| with_probe(container(name, ContainerKind::Regular), Liveness, thresholds(1, 3)));
    let mut world = World::new();
    world.add(pod("p", two));
    let tell = |world: &mut World, status: PodStatus, known: &str, memory: Memory| {
        let memory = |container: &ContainerName, _| (container.as_str() == known).then_some(memory);
        world.scheduler.handle_status_remembering(&PodUid::from("p"), Arc::new(status), &memory, world.now);
        world.pass(10_000);
    };
    let first = pod_status([container_status("c", "test://1", running(START))]);
    tell(&mut world, first.clone(), "c", Memory::new(Liveness, Success, false, 2));
    assert!(world.publishes.is_empty(), "no initial value");
    world.answer(failure());
    assert_eq!(world.verdict("c", Liveness), Some(Failure), "the third in a row");
    // It has seen its instance: what else is said of that is old.
    tell(&mut world, first.clone(), "c", Memory::new(Liveness, Success, true, 9));
    assert_eq!(world.verdict("c", Liveness), Some(Failure));
    assert_eq!(world.verdict("d", Liveness), None, "not said yet");
    let both = pod_status(["c", "d"].map(|name| container_status(name, "test://1", running(START))));
    tell(&mut world, both, "d", Memory::new(Liveness, Success, true, 9));
    assert_eq!(world.verdict("d", Liveness), Some(Success));
    assert_eq!(world.publishes.len(), 1, "the failure, and no initial value of d");
    // Of a pod that is not there nothing is heard.
    world.scheduler.handle_status_remembering(&PodUid::from("q"), Arc::new(first), &|_, _| None, world.now);
}

// Ends.

#[test]
fn an_attempt_in_flight_is_recorded_before_its_worker_ends() {
    let mut world = World::running(one(Readiness, spec()));
    world.publishes.clear();
    world.scheduler.remove_pod(&PodUid::from("p"), world.now);
    world.settle();
    assert_eq!((world.ended.len(), world.scheduler.workers_len()), (0, 1));
    assert!(world.scheduler.target(world.starts[0].attempt.worker).is_some());
    world.pass(30_000);
    assert_eq!(world.missed, 0);
    world.answer(success());
    assert_eq!(world.verdicts_published(), [Some(Success), None]);
    assert_eq!((world.ended.len(), world.scheduler.workers_len()), (1, 0));
    assert!(world.scheduler.pod(&PodUid::from("p")).is_none() && world.starts.is_empty());
    assert_eq!(world.scheduler.poll_timeout(), None);
}

#[test]
fn a_place_is_given_away_only_after_its_end_was_drained() {
    let mut world = World::new();
    world.add(pod("p", [one(Liveness, spec())]));
    world.scheduler.remove_pod(&PodUid::from("p"), START);
    let made = &mut Vec::new();
    let add = |scheduler: &mut Scheduler, made: &mut Vec<u32>, uid: &str| {
        scheduler
            .add_pod(Arc::new(pod(uid, [one(Liveness, spec())])), None, START, &mut |worker, _, _| made.push(worker.0));
    };
    add(&mut world.scheduler, made, "q");
    world.settle();
    add(&mut world.scheduler, made, "r");
    assert_eq!(made[..], [1, 0]);
}

#[test]
fn a_pod_added_while_it_is_ending_starts_anew() {
    let mut world = World::running(one(Readiness, spec()));
    let old = world.starts[0].attempt;
    world.scheduler.remove_pod(&PodUid::from("p"), world.now);
    world.add(pod("p", [one(Readiness, spec())]));
    assert_eq!((world.ended.len(), world.scheduler.workers_len(), world.made.len()), (1, 1, 2));
    assert!(!world.scheduler.handle_outcome(old, success(), world.now));
    assert_eq!(world.verdicts_published(), [Some(Failure), None]);
}

#[test]
fn a_deleted_pods_liveness_is_quiet_and_its_readiness_goes_on() {
    let mut world = World::running(with_all_probes(container("c", ContainerKind::Regular)));
    world.pass_answering(20_000, &success());
    let mut status = pod_status([container_status("c", "test://1", running(START))]);
    status.deleting = true;
    world.status(status);
    world.reports.clear();
    world.pass_answering(20_000, &failure());
    assert!(world.reports.iter().all(|report| report.probe_type == Readiness) && world.reports.len() >= 2);
    assert_eq!(
        (world.verdict("c", Readiness), world.scheduler.workers_len()),
        (Some(Failure), 2),
        "startup is on hold"
    );
}

#[test]
fn a_terminal_phase_ends_all_workers() {
    let mut world = World::running(with_all_probes(container("c", ContainerKind::Regular)));
    let mut status = pod_status([container_status("c", "test://1", terminated(0))]);
    status.phase = PodPhase::Succeeded;
    world.status(status);
    world.pass_answering(10_000, &success());
    assert_eq!((world.ended.len(), world.scheduler.workers_len()), (3, 0));
}

#[test]
fn a_pod_whose_workers_have_all_ended_is_known_until_it_is_removed() {
    let mut world = World::running(one(Liveness, spec()));
    world.scheduler.stop_liveness_and_startup(&PodUid::from("p"), world.now);
    world.settle();
    assert_eq!(world.scheduler.workers_len(), 0);
    assert!(world.scheduler.pod(&PodUid::from("p")).is_some());
    world.scheduler.remove_pod(&PodUid::from("p"), world.now);
    assert!(world.scheduler.pod(&PodUid::from("p")).is_none());
}

#[test]
fn a_startup_probe_that_never_succeeds_gates_for_ever_and_fails_once() {
    let mut world = World::running(with_probe(one(Startup, thresholds(1, 3)), Liveness, spec()));
    world.pass_answering(200_000, &failure());
    assert_eq!(world.reports.len(), 3);
    assert_eq!(world.verdict("c", Startup), Some(Failure));
    assert_eq!(
        world.publishes.iter().filter(|p| p.probe_type == Startup).map(|p| p.verdict).collect::<Vec<_>>(),
        [Some(Unknown), Some(Failure)]
    );
}

#[test]
fn a_worker_is_small() {
    assert!(size_of::<Place>() <= 192, "{} bytes", size_of::<Place>());
}

// Pauses.

impl World {
    /// Pauses these probes of `c` for so many milliseconds from now; 0 = ends their pauses. How many were concerned.
    fn pause(&mut self, types: &[ProbeType], millis: u64) -> usize {
        let until = self.now + Duration::from_millis(millis);
        let types = types.iter().copied().collect();
        let mut concerned = 0;
        let container = ContainerName::from("c");
        let uid = PodUid::from("p");
        self.scheduler.pause(&uid, Some(&container), types, Some(until), self.now, &mut |_| concerned += 1);
        self.settle();
        concerned
    }
}

#[test]
fn a_pause_makes_no_attempts_keeps_verdict_and_run_and_ends_on_the_old_grid() {
    let mut world = World::running(one(Liveness, thresholds(1, 3)));
    let worker = world.made[0].0;
    world.pass(10_000);
    world.answer(failure());
    world.pass(2_000);
    assert_eq!(world.pause(&[Liveness], 30_500), 1);
    assert_eq!(world.pass_answering(30_499, &success()), []);
    let view = world.scheduler.worker(worker).expect("live");
    assert_eq!((view.verdict, view.run, view.due), (Some(Success), 1, Some(START + Duration::from_secs(50))));
    assert_eq!(view.paused_until, Some(START + Duration::from_millis(42_500)));
    assert_eq!(world.pass_answering(20_000, &failure()), [50_000, 60_000], "not at its end, but when the grid says so");
    assert_eq!(world.verdict("c", Liveness), Some(Failure), "the second and third failure in a row");
    assert_eq!(
        (world.missed, world.scheduler.paused_len(), world.scheduler.worker(worker).unwrap().paused_until),
        (0, 0, None)
    );
}

#[test]
fn a_due_time_at_the_very_end_of_a_pause_gets_its_attempt() {
    let mut world = World::running(one(Liveness, spec()));
    world.pause(&[Liveness], 20_000);
    assert_eq!(world.pass_answering(25_000, &success()), [20_000]);
}

#[test]
fn a_pause_that_is_found_to_be_over_late_has_missed_what_was_due_since_alone() {
    let mut world = World::running(one(Liveness, spec()));
    world.pause(&[Liveness], 25_000);
    world.now = START + Duration::from_secs(57);
    world.turn();
    world.settle();
    assert_eq!((world.starts_due(), world.missed), (vec![30_000], 2), "due at 30, 40 and 50 s");
    let mut world = World::running(one(Liveness, spec()));
    world.pause(&[Liveness], 25_000);
    world.now = START + Duration::from_secs(27);
    world.turn();
    world.settle();
    assert_eq!((world.starts_due(), world.missed), (vec![], 0));
}

#[test]
fn the_end_of_a_pause_can_be_moved_both_ways_and_come_at_once() {
    let mut world = World::running(one(Liveness, spec()));
    world.pause(&[Liveness], 100_000);
    world.pause(&[Liveness], 15_000);
    assert_eq!(world.pass_answering(20_000, &success()), [20_000]);
    world.pause(&[Liveness], 15_000);
    world.pause(&[Liveness], 25_000);
    assert_eq!(world.pass_answering(30_000, &success()), [50_000]);
    world.pause(&[Liveness], 600_000);
    assert_eq!(world.pass_answering(20_000, &success()), []);
    assert_eq!(world.pause(&[Liveness], 0), 1, "a time that has come ends it");
    assert_eq!(world.pass_answering(10_000, &success()), [80_000]);
}

#[test]
fn only_the_probes_chosen_are_paused() {
    let mut world = World::running(with_all_probes(container("c", ContainerKind::Regular)));
    let types = [Startup, Readiness, Liveness];
    let paused = |world: &World| {
        let until = |(worker, _): &(WorkerIndex, ProbeType)| world.scheduler.worker(*worker).unwrap().paused_until;
        world.made.iter().map(|made| until(made).is_some()).collect::<Vec<_>>()
    };
    assert_eq!((world.pause(&[Readiness], 5_000), paused(&world)), (1, vec![false, true, false]));
    assert_eq!((world.pause(&types, 5_000), paused(&world)), (3, vec![true; 3]));
    assert_eq!((world.pause(&[Startup, Liveness], 0), paused(&world)), (2, vec![false, true, false]));
    let (uid, until) = (PodUid::from("p"), Some(world.now + Duration::from_secs(9)));
    let mut heard = 0;
    let other = ContainerName::from("d");
    world.scheduler.pause(&uid, Some(&other), ProbeTypes::ALL, until, world.now, &mut |_| heard += 1);
    world.scheduler.pause(&PodUid::from("q"), None, ProbeTypes::ALL, until, world.now, &mut |_| heard += 1);
    assert_eq!((heard, paused(&world)), (0, vec![false, true, false]));
    world.scheduler.pause(&uid, None, ProbeTypes::ALL, until, world.now, &mut |_| heard += 1);
    assert_eq!((heard, paused(&world)), (3, vec![true; 3]));
}

#[test]
fn a_pause_goes_on_over_a_new_instance_which_gets_its_first_value() {
    let mut world = World::running(one(Liveness, spec()));
    world.pass(10_000);
    world.answer(failure());
    assert_eq!(world.verdict("c", Liveness), Some(Failure));
    world.pause(&[Liveness], 60_000);
    world.state("c", "test://2", running(world.now));
    assert_eq!(world.pass_answering(59_000, &failure()), []);
    assert_eq!(world.verdict("c", Liveness), Some(Success));
    assert_eq!(world.pass_answering(2_000, &failure()), [70_000]);
}

#[test]
fn what_the_runtime_says_counts_during_a_pause() {
    let mut world = World::running(one(Readiness, spec()));
    world.answer(success());
    world.pause(&[Readiness], 60_000);
    world.state("c", "test://1", waiting());
    world.pass(10_000);
    assert_eq!((world.verdict("c", Readiness), world.starts.len()), (Some(Failure), 0));
}

#[test]
fn an_attempt_in_flight_when_a_pause_begins_counts_and_is_not_tried_again() {
    let mut world = World::running(one(Readiness, spec()));
    assert_eq!(world.starts.len(), 1);
    world.pause(&[Readiness], 60_000);
    world.answer(success());
    assert_eq!(world.verdict("c", Readiness), Some(Success));
    let mut world = World::running(one(Readiness, spec()));
    world.pause(&[Readiness], 60_000);
    world.answer(error());
    assert_eq!((world.starts.len(), world.reports.len()), (0, 1), "discarded at once");
    assert_eq!(world.pass_answering(61_000, &success()), [60_000]);
}

#[test]
fn no_trigger_comes_through_a_pause_or_moves_its_grid() {
    let mut world = World::running(one(Readiness, spec()));
    world.answer(failure());
    world.pause(&[Readiness], 60_000);
    world.pass(3_000);
    assert!(!world.trigger(Readiness), "refused");
    // A container that is not ready is asked at every status, else.
    world.state("c", "test://1", running(START));
    world.pass(3_000);
    assert!(world.starts.is_empty());
    assert_eq!(world.pass_answering(60_000, &success()), [60_000]);
    assert!(world.trigger(Readiness));
    // One that waits for the end of an attempt.
    let mut world = World::running(one(Readiness, spec()));
    assert!(world.trigger(Readiness));
    world.pause(&[Readiness], 60_000);
    world.answer(failure());
    assert_eq!(world.pass_answering(61_000, &success()), [60_000]);
}

#[test]
fn a_trigger_right_after_the_end_of_a_pause_comes_through() {
    let mut world = World::running(one(Readiness, spec()));
    world.pass(5_000);
    world.pause(&[Readiness], 7_000);
    // Due at 10 s, within the pause, while the attempt of before is in flight still.
    world.pass(8_000);
    assert!(world.trigger(Readiness));
    world.answer(success());
    assert_eq!(world.starts_due(), [13_000]);
}

#[test]
fn a_due_time_that_a_long_attempt_outlasted_into_a_pause_gets_none() {
    let mut world = World::running(one(Liveness, spec()));
    world.pass(10_000);
    world.pause(&[Liveness], 15_000);
    world.pass(16_000);
    world.answer(success());
    assert!(world.starts.is_empty(), "due at 20 s, within the pause");
    assert_eq!((world.pass_answering(4_000, &success()), world.missed), (vec![30_000], 0));
}

#[test]
fn due_times_that_pass_in_a_pause_while_the_attempt_is_queued_are_not_missed() {
    let mut world = World::running(one(Liveness, spec()));
    world.now = START + Duration::from_secs(10);
    world.turn();
    let mut actions = core::iter::from_fn(|| world.scheduler.poll_action());
    let start = actions.find_map(|action| if let Action::Start(start) = action { Some(start) } else { None });
    let start = start.expect("an attempt is asked for");
    world.pause(&[Liveness], 25_000);
    for (now, missed) in [(22, 0), (29, 0), (45, 1)] {
        world.now = START + Duration::from_secs(now);
        world.turn();
        world.settle();
        assert_eq!(world.missed, missed, "at {now} s");
    }
    world.now = START + Duration::from_secs(65);
    world.scheduler.handle_started(start.attempt, world.now);
    world.settle();
    assert_eq!(world.missed, 3, "due at 40, 50 and 60 s");
}

#[test]
fn local_trouble_before_a_pause_is_not_longer_by_it() {
    let mut world = World::running(one(Liveness, spec()));
    world.pass(10_000);
    world.answer(local());
    world.pause(&[Liveness], 100_000);
    assert_eq!(world.pass_answering(99_000, &success()), []);
    assert!(world.pass_answering(2_000, &local()).contains(&110_000));
    assert!(world.told.is_empty(), "it has begun just now");
}

#[test]
fn the_first_call_after_a_pause_is_reported_whatever_it_says() {
    let mut world = World::running(one(Liveness, thresholds(1, 1)));
    let all = |world: &mut World, millis| {
        world.reports.clear();
        world.passed.clear();
        world.pass_answering(millis, &success());
        (world.reports.len(), world.passed.len())
    };
    assert_eq!(all(&mut world, 40_000), (1, 3));
    world.pause(&[Liveness], 15_000);
    assert_eq!(all(&mut world, 40_000), (1, 2));
    world.pause(&[Liveness], 15_000);
    world.pause(&[Liveness], 0);
    assert_eq!(all(&mut world, 20_000), (1, 1));
    world.pause(&[Liveness], 0);
    assert_eq!(all(&mut world, 20_000), (0, 2), "there was none to end");
}

#[test]
fn a_pause_ends_with_its_worker() {
    let mut world = World::running(one(Liveness, spec()));
    world.pause(&[Liveness], 60_000);
    world.scheduler.remove_pod(&PodUid::from("p"), world.now);
    world.settle();
    assert_eq!(world.scheduler.paused_len(), 0);
    world.add(pod("p", [one(Liveness, spec())]));
    world.state("c", "test://1", running(world.now));
    assert_eq!(world.pass_answering(10_000, &success()), [10_000]);
    world.pass(10_000);
    world.scheduler.remove_pod(&PodUid::from("p"), world.now);
    assert_eq!(world.pause(&[Liveness], 60_000), 0, "it ends with its attempt");
}

#[test]
fn probes_that_are_not_paused_cost_nothing_more() {
    assert!(size_of::<Place>() == 64 && size_of::<Flag>() == 1);
    let mut world = World::running(one(Liveness, spec()));
    world.pause(&[Liveness], 15_000);
    world.pass_answering(50_000, &success());
    assert_eq!((world.scheduler.paused_len(), world.scheduler.busies.len()), (0, 0));
}

// What is known of pods and workers.

#[test]
fn a_turn_says_how_many_attempts_it_has_started() {
    let mut world = World::new();
    for uid in ["p", "q", "r"] {
        world.add(pod(uid, [one(Liveness, spec())]));
        let status = Arc::new(pod_status([container_status("c", "test://1", running(START))]));
        world.scheduler.handle_status(&PodUid::from(uid), status, START);
    }
    let now = START + Duration::from_secs(10);
    let started = [0, 2, 2, 2].map(|starts_max| world.scheduler.handle_timeout(now, starts_max));
    assert_eq!(started, [0, 2, 1, 0]);
}

#[test]
fn the_view_of_a_worker_is_what_it_watches_and_how_it_stands() {
    let mut world = World::running(one(Liveness, thresholds(1, 2)));
    let worker = world.made[0].0;
    world.pass(10_000);
    world.answer(failure());
    let seen = WorkerView {
        container_id: Some(ContainerId::from("test://1")),
        verdict: Some(Success),
        run: 1,
        on_hold: false,
        due: Some(START + Duration::from_secs(20)),
        paused_until: None,
    };
    assert_eq!(world.scheduler.worker(worker), Some(seen.clone()));
    world.pass(10_000);
    world.answer(failure());
    let held = WorkerView {
        verdict: Some(Failure),
        run: 0,
        on_hold: true,
        due: Some(START + Duration::from_secs(30)),
        ..seen
    };
    assert_eq!(world.scheduler.worker(worker), Some(held));
    assert_eq!(world.scheduler.worker(WorkerIndex(7)), None);
}

#[test]
fn a_worker_that_is_on_hold_or_about_to_end_has_no_next_due_time() {
    let mut world = World::running(one(Liveness, spec()));
    let worker = world.made[0].0;
    assert_eq!(world.scheduler.next_due(worker), Some(START + Duration::from_secs(10)));
    world.pass(10_000);
    world.answer(failure());
    assert_eq!(world.scheduler.next_due(worker), None, "on hold");
    world.state("c", "test://2", running(world.now));
    world.pass(10_000);
    assert_eq!(world.scheduler.next_due(worker), Some(START + Duration::from_secs(30)));
    world.scheduler.remove_pod(&PodUid::from("p"), world.now);
    assert_eq!(world.scheduler.next_due(worker), None, "it ends with its attempt");
    assert_eq!(world.scheduler.worker(worker).and_then(|view| view.due), None);
    world.answer(success());
    assert_eq!((world.scheduler.next_due(worker), world.scheduler.worker(worker)), (None, None));
}

#[test]
fn a_pods_view_names_its_workers_and_its_newest_status() {
    let mut world = World::new();
    let sidecar = with_probe(container("s", ContainerKind::Sidecar), Readiness, spec());
    world.add(pod("p", [with_all_probes(container("c", ContainerKind::Regular)), sidecar]));
    let uid = PodUid::from("p");
    let view = world.scheduler.pod(&uid).expect("known");
    assert_eq!((view.pod().uid.as_str(), view.status()), ("p", None));
    let workers: Vec<_> = view.workers().map(|(worker, name, t)| (worker.0, name.as_str(), t)).collect();
    assert_eq!(workers, [(3, "s", Readiness), (0, "c", Startup), (1, "c", Readiness), (2, "c", Liveness)]);
    let found = |name: &str, t| world.scheduler.worker_index(&uid, &ContainerName::from(name), t).map(|w| w.0);
    assert_eq!([found("s", Readiness), found("c", Liveness)], [Some(3), Some(2)]);
    assert_eq!([found("s", Liveness), found("nobody", Liveness)], [None, None]);
    let status = pod_status([container_status("c", "test://1", waiting())]);
    world.status(status.clone());
    assert_eq!(world.scheduler.pod(&uid).and_then(|view| view.status()), Some(&status));
}

#[test]
fn places_of_workers_that_ended_are_used_again() {
    let mut world = World::new();
    for round in 0..5 {
        world.add(pod("p", [with_all_probes(container("c", ContainerKind::Regular))]));
        assert_eq!((world.scheduler.workers_len(), world.scheduler.places_len()), (3, 3), "{round}");
        world.scheduler.remove_pod(&PodUid::from("p"), world.now);
        world.settle();
    }
    assert_eq!((world.scheduler.workers_len(), world.scheduler.places_len()), (0, 3));
}

#[test]
fn an_attempt_is_made_against_the_newest_address_and_network_namespace() {
    let ip = |text: &str| Some(text.parse().expect("an address"));
    let mut world = World::new();
    let mut subject = pod("p", [one(Readiness, spec())]);
    subject.pod_ip = ip("10.0.0.1").into();
    world.add(subject);
    let worker = world.made[0].0;
    assert!(world.scheduler.target(worker).is_none(), "no instance has been seen");
    world.state("c", "test://1", running(START));
    let target = |world: &World| {
        let target = world.scheduler.target(worker).expect("it has seen an instance");
        assert_eq!((target.container.as_str(), target.probe_type), ("c", Readiness));
        (target.container_id.clone(), target.pod_ip, target.netns.cloned())
    };
    assert_eq!(target(&world), ("test://1".into(), ip("10.0.0.1"), None));
    let mut status = pod_status([container_status("c", "test://1", running(START))]);
    (status.pod_ip, status.netns) = (ip("10.0.0.2"), Some("/run/netns/p".into()));
    world.status(status);
    assert_eq!(target(&world), ("test://1".into(), ip("10.0.0.2"), Some("/run/netns/p".into())));
}

// Any sequence of calls.

mod any_sequence {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Op {
        Add,
        Remove,
        StopLivenessAndStartup,
        State {
            instance: u8,
            what: u8,
        },
        Deleting,
        Trigger(usize),
        /// Which types, as bits, and for how many milliseconds; 0 ends their pauses.
        Pause(u8, u64),
        /// Milliseconds, and how many starts the turn after them may make.
        Pass(u64, usize),
        Started(usize),
        Answer(usize, u8),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            2 => Just(Op::Add),
            1 => Just(Op::Remove),
            1 => Just(Op::StopLivenessAndStartup),
            6 => (0_u8..3, 0_u8..6).prop_map(|(instance, what)| Op::State { instance, what }),
            1 => Just(Op::Deleting),
            2 => (0_usize..3).prop_map(Op::Trigger),
            2 => (1_u8..8, 1_u64..6_000).prop_map(|(types, millis)| Op::Pause(types, millis)),
            1 => (1_u8..8).prop_map(|types| Op::Pause(types, 0)),
            12 => (0_u64..4_000, 0_usize..4).prop_map(|(millis, starts)| Op::Pass(millis, starts)),
            6 => (0_usize..4).prop_map(Op::Started),
            12 => (0_usize..4, 0_u8..8).prop_map(|(which, what)| Op::Answer(which, what)),
        ]
    }

    /// What a shell would know of the scheduler, from its actions alone.
    #[derive(Default)]
    struct Shell {
        live: BTreeSet<WorkerIndex>,
        in_flight: Vec<Start>,
        stored: BTreeMap<WorkerIndex, Verdict>,
        paused: BTreeMap<WorkerIndex, Instant>,
        log: Vec<Action>,
    }

    impl Shell {
        fn drain(&mut self, scheduler: &mut Scheduler, now: Instant) {
            while let Some(action) = scheduler.poll_action() {
                self.log.push(action.clone());
                match action {
                    Action::Start(start) => {
                        assert!(self.live.contains(&start.attempt.worker) && start.due <= now);
                        let overlap = self.in_flight.iter().any(|other| other.attempt.worker == start.attempt.worker);
                        assert!(!overlap, "two attempts of one worker");
                        assert!(start.retry < ATTEMPTS_MAX);
                        let until = self.paused.get(&start.attempt.worker).copied().unwrap_or(START);
                        assert!(if start.retry == 0 { start.due >= until } else { now >= until }, "it is paused");
                        self.in_flight.push(start);
                    }
                    Action::Publish(publish) => {
                        assert!(self.live.contains(&publish.worker));
                        let before = match publish.verdict {
                            Some(verdict) => self.stored.insert(publish.worker, verdict),
                            None => Some(self.stored.remove(&publish.worker).expect("only what is stored is removed")),
                        };
                        assert!(publish.verdict.is_none() || before != publish.verdict, "no change, no update");
                    }
                    Action::Report(report) => assert!(self.live.contains(&report.worker)),
                    Action::Passed(passed) => assert!(self.live.contains(&passed.worker)),
                    Action::LocalTooLong(told) => assert!(self.live.contains(&told.worker)),
                    Action::Missed { worker, count, .. } => assert!(self.live.contains(&worker) && count > 0),
                    Action::WorkerEnded { worker } => {
                        assert!(self.live.remove(&worker) && !self.stored.contains_key(&worker));
                        self.paused.remove(&worker);
                        self.in_flight.retain(|start| start.attempt.worker != worker);
                    }
                }
            }
            assert_eq!(self.live.len(), scheduler.workers_len());
            for worker in &self.live {
                let view = scheduler.worker(*worker).expect("live");
                assert_eq!(view.verdict, self.stored.get(worker).copied());
            }
        }
    }

    fn pause(scheduler: &mut Scheduler, types: u8, millis: u64, now: Instant) -> Vec<WorkerIndex> {
        let types = ProbeType::ALL.into_iter().filter(|probe_type| types & 1 << probe_type.index() != 0).collect();
        let mut concerned = Vec::new();
        let until = Some(now + Duration::from_millis(millis));
        scheduler.pause(&PodUid::from("p"), None, types, until, now, &mut |worker| concerned.push(worker));
        concerned
    }

    fn state(what: u8, now: Instant) -> ContainerState {
        match what {
            0 => waiting(),
            1 => terminated(0),
            2 => terminated(1),
            _ => running(now),
        }
    }

    fn outcome(what: u8) -> Outcome {
        match what {
            0..3 => failure(),
            3 => error(),
            4 => local(),
            5 => Outcome::Warning("".into()),
            _ => success(),
        }
    }

    /// The pod: every probe, short periods, and a sidecar.
    fn subject() -> Arc<Pod> {
        let short = |failures| ProbeSpec { period_seconds: 1, ..thresholds(1, failures) };
        let c = with_probe(one(Startup, short(2)), Readiness, ProbeSpec { initial_delay_seconds: 2, ..short(2) });
        let c = with_probe(c, Liveness, ProbeSpec { period_seconds: 2, ..short(3) });
        let s = with_probe(container("s", ContainerKind::Sidecar), Readiness, thresholds(2, 1));
        Arc::new(pod("p", [c, s]))
    }

    fn play(ops: &[Op], manager_start: Instant) -> Vec<Action> {
        let mut scheduler = Scheduler::new(config(manager_start), START);
        let mut shell = Shell::default();
        let (mut now, uid, subject) = (START, PodUid::from("p"), subject());
        let mut status = pod_status([]);
        for op in ops {
            match *op {
                Op::Add => {
                    let mut made = Vec::new();
                    scheduler.add_pod(Arc::clone(&subject), None, now, &mut |worker, _, _| made.push(worker));
                    assert!(made.into_iter().all(|worker| shell.live.insert(worker)), "a place is given away once");
                    status.deleting = false;
                }
                Op::Remove => scheduler.remove_pod(&uid, now),
                Op::StopLivenessAndStartup => scheduler.stop_liveness_and_startup(&uid, now),
                Op::State { instance, what } => {
                    let ids = ["test://1", "test://2", "test://3"];
                    let of = |name, id| container_status(name, id, state(what, now));
                    status.containers = [of("c", ids[usize::from(instance)]), of("s", ids[0])].into();
                    scheduler.handle_status(&uid, Arc::new(status.clone()), now);
                }
                Op::Deleting => {
                    status.deleting = true;
                    scheduler.handle_status(&uid, Arc::new(status.clone()), now);
                }
                Op::Trigger(which) => {
                    scheduler.trigger(&uid, &ContainerName::from("c"), ProbeType::ALL[which], now);
                }
                Op::Pause(types, millis) => {
                    for worker in pause(&mut scheduler, types, millis, now) {
                        let until = if millis > 0 { now + Duration::from_millis(millis) } else { START };
                        shell.paused.insert(worker, until);
                    }
                }
                Op::Pass(millis, starts_max) => {
                    now = now + Duration::from_millis(millis);
                    scheduler.handle_timeout(now, starts_max);
                    let started = scheduler.actions.iter().filter(|action| matches!(action, Action::Start(_))).count();
                    assert!(started <= starts_max);
                }
                Op::Started(which) => {
                    if let Some(start) = shell.in_flight.get(which) {
                        scheduler.handle_started(start.attempt, now);
                    }
                }
                Op::Answer(which, what) => {
                    if which < shell.in_flight.len() {
                        let start = shell.in_flight.remove(which);
                        assert!(scheduler.handle_outcome(start.attempt, outcome(what), now));
                    }
                }
            }
            shell.drain(&mut scheduler, now);
        }
        scheduler.remove_pod(&uid, now);
        shell.drain(&mut scheduler, now);
        while let Some(start) = shell.in_flight.pop() {
            assert!(scheduler.handle_outcome(start.attempt, success(), now));
            shell.drain(&mut scheduler, now);
        }
        assert_eq!((scheduler.workers_len(), scheduler.pod(&uid).is_none()), (0, true));
        assert!(scheduler.wheel.is_empty() && shell.stored.is_empty() && scheduler.paused_len() == 0);
        shell.log
    }

    /// One of two schedulers to which the same happens.
    struct Twin {
        scheduler: Scheduler,
        in_flight: Vec<Start>,
        /// All but starts, which differ in their attempts' generations.
        told: Vec<Action>,
    }

    impl Twin {
        fn new(manager_start: Instant) -> Self {
            Self { scheduler: Scheduler::new(config(manager_start), START), in_flight: Vec::new(), told: Vec::new() }
        }

        /// Attempts of these workers succeed at once. What there is to know of that.
        fn drain(&mut self, quick: &[Quick], now: Instant) -> Vec<Quick> {
            let mut answered = Vec::new();
            while let Some(action) = self.scheduler.poll_action() {
                match action {
                    Action::Start(start) if quick.iter().any(|quick| quick.worker == start.attempt.worker) => {
                        let worker = start.attempt.worker;
                        let passed = self.scheduler.handle_passed(start.attempt, now).expect("nothing else to tell");
                        let next = self.scheduler.next_due(worker).expect("it goes on");
                        answered.push(Quick { worker, due: start.due, run: passed.run, next });
                    }
                    Action::Start(start) => {
                        self.in_flight.retain(|other| other.attempt.worker != start.attempt.worker);
                        self.in_flight.push(start);
                    }
                    Action::WorkerEnded { worker } => {
                        self.in_flight.retain(|start| start.attempt.worker != worker);
                        self.told.push(action);
                    }
                    action => self.told.push(action),
                }
            }
            answered
        }
    }

    /// Answers everything at once.
    #[derive(Default)]
    struct Always(Vec<Quick>);

    impl AnswerAtOnce for Always {
        fn answer(&mut self, quick: &Quick) -> bool {
            self.0.push(*quick);
            true
        }
    }

    /// The same with and without answers at once; returns how many there were.
    fn play_twins(ops: &[Op], manager_start: Instant) -> usize {
        let (mut quick, mut plain) = (Twin::new(manager_start), Twin::new(manager_start));
        let (mut now, uid, subject) = (START, PodUid::from("p"), subject());
        let mut status = pod_status([]);
        let mut answered_len = 0;
        for op in ops {
            let mut always = Always::default();
            match *op {
                Op::Pass(millis, _) => {
                    now = now + Duration::from_millis(millis);
                    quick.scheduler.handle_timeout_with(now, STARTS_MAX, &mut always);
                    plain.scheduler.handle_timeout(now, STARTS_MAX);
                }
                Op::State { instance, what } => {
                    let ids = ["test://1", "test://2", "test://3"];
                    let of = |name, id| container_status(name, id, state(what, now));
                    status.containers = [of("c", ids[usize::from(instance)]), of("s", ids[0])].into();
                }
                Op::Deleting => status.deleting = true,
                Op::Add => status.deleting = false,
                _ => {}
            }
            for twin in [&mut quick, &mut plain] {
                let Twin { scheduler, in_flight, .. } = twin;
                match *op {
                    Op::Add => scheduler.add_pod(Arc::clone(&subject), None, now, &mut |_, _, _| ()),
                    Op::Remove => scheduler.remove_pod(&uid, now),
                    Op::StopLivenessAndStartup => scheduler.stop_liveness_and_startup(&uid, now),
                    Op::State { .. } | Op::Deleting => scheduler.handle_status(&uid, Arc::new(status.clone()), now),
                    Op::Trigger(which) => {
                        scheduler.trigger(&uid, &ContainerName::from("c"), ProbeType::ALL[which], now);
                    }
                    Op::Pause(types, millis) => drop(pause(scheduler, types, millis, now)),
                    Op::Pass(..) => {}
                    Op::Started(which) => {
                        in_flight
                            .get(which)
                            .map(|start| scheduler.handle_started(start.attempt, now))
                            .unwrap_or_default();
                    }
                    Op::Answer(which, what) if which < in_flight.len() => {
                        scheduler.handle_outcome(in_flight.remove(which).attempt, outcome(what), now);
                    }
                    Op::Answer(..) => {}
                }
            }
            assert_eq!(quick.drain(&[], now), []);
            let mut answered = plain.drain(&always.0, now);
            answered.sort_by_key(|quick| quick.worker);
            assert_eq!(answered, always.0);
            answered_len += answered.len();
            let due =
                |twin: &Twin| twin.in_flight.iter().map(|start| (start.attempt.worker, start.due)).collect::<Vec<_>>();
            assert_eq!(due(&quick), due(&plain));
            assert_eq!(quick.told, plain.told);
            assert_eq!(quick.scheduler.poll_timeout(), plain.scheduler.poll_timeout());
        }
        answered_len
    }

    #[test]
    fn what_is_well_is_answered_at_once() {
        let ops = [Op::Add, Op::State { instance: 0, what: 3 }, Op::Pass(1_000, 9), Op::Answer(0, 9), Op::Answer(0, 9)];
        let rounds = [Op::Pass(1_000, 9), Op::Answer(0, 9), Op::Answer(0, 9), Op::Answer(0, 9)];
        let ops: Vec<Op> = ops.into_iter().chain(rounds.into_iter().cycle().take(80)).collect();
        assert!(play_twins(&ops, Instant::ZERO) > 20);
    }

    proptest! {
        #[test]
        fn an_answer_at_once_is_an_attempt_that_has_passed_at_once(
            ops in prop::collection::vec(op(), 1..160), young in any::<bool>(),
        ) {
            play_twins(&ops, if young { START } else { Instant::ZERO });
        }

        #[test]
        fn keeps_the_promises_of_the_interface(ops in prop::collection::vec(op(), 1..120), young in any::<bool>()) {
            let manager_start = if young { START } else { Instant::ZERO };
            let log = play(&ops, manager_start);
            prop_assert_eq!(log, play(&ops, manager_start), "a run is a function of its inputs");
        }
    }
}
