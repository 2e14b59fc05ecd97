//! The core against the reference model: random lives of a pod, and every short sequence of answers.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use probe_core::action::{Action, AttemptId, WorkerIndex};
use probe_core::id::{ContainerId, ContainerName, PodUid, ProbeType, ProbeTypes};
use probe_core::outcome::Outcome;
use probe_core::scheduler::{Config, Scheduler};
use probe_core::spec::{Container, ContainerKind, Handler, Pod, Port, ProbeSpec, Probes, RestartPolicy, TcpSocket};
use probe_core::status::{ContainerState, ContainerStatus, PodPhase, PodStatus, Termination};
use probe_core::time::Instant;
use probe_tests::model::{Answer, Key, Model, Note};
use proptest::prelude::*;

/// The test's time starts here: longer after the manager's start than any period, so nothing is staggered.
const START: Instant = Instant::from_secs(1_000);

/// What an attempt saw.
#[derive(Clone, Copy, Debug)]
enum Seen {
    Success,
    Warning,
    Failure,
    Error,
}

/// One thing that happens to the pod.
#[derive(Clone, Debug)]
enum Event {
    /// Time passes, milliseconds.
    Pass(u64),
    /// The n-th attempt in flight ends.
    Answer(usize, Seen),
    /// A container gets a new instance.
    Start(usize),
    /// A container waits, with the ID that it had.
    Wait(usize),
    /// A container's process ends.
    Exit(usize, i32),
    /// A container's status disappears.
    Vanish(usize),
    /// The runtime reports the same again.
    Resync,
    /// The pod gets a deletion timestamp.
    Delete,
    /// The pod's phase becomes final.
    Finish(PodPhase),
    /// Somebody asks for a probe.
    Trigger(usize, ProbeType),
    /// Somebody pauses a container's probe of this type, or all of the pod, for so many milliseconds; 0 ends it.
    Pause(usize, Option<ProbeType>, u64),
    /// Termination begins.
    StopLivenessAndStartup,
    /// The pod is synced again: ended workers are made anew.
    AddAgain,
    /// The pod goes.
    Remove,
}

/// The core and the model in the same world. A clone is a second world, in which something else may happen next.
#[derive(Clone)]
struct Pair {
    pod: Arc<Pod>,
    scheduler: Scheduler,
    model: Model,
    now: Instant,
    /// What the runtime says.
    containers: Vec<Option<ContainerStatus>>,
    phase: PodPhase,
    deleting: bool,
    instances: u32,
    keys: BTreeMap<WorkerIndex, Key>,
    flights: BTreeMap<Key, AttemptId>,
    /// What the core did since both were last compared, as the model tells it.
    notes: BTreeMap<Key, Vec<Note>>,
    missed: BTreeMap<Key, u64>,
    removed: bool,
}

impl Pair {
    fn new(pod: Pod) -> Self {
        let config = Config {
            seed: 7,
            manager_start: Instant::ZERO,
            local_backoff_min: Duration::from_millis(100),
            local_backoff_max: Duration::from_secs(5),
            local_max: Duration::from_secs(30),
        };
        let containers = pod.probed_containers().map(|_| None).collect();
        let mut pair = Pair {
            model: Model::new(pod.clone()),
            pod: Arc::new(pod),
            scheduler: Scheduler::new(config, START),
            now: START,
            containers,
            phase: PodPhase::Running,
            deleting: false,
            instances: 0,
            keys: BTreeMap::new(),
            flights: BTreeMap::new(),
            notes: BTreeMap::new(),
            missed: BTreeMap::new(),
            removed: false,
        };
        pair.add();
        pair.settle();
        pair
    }

    fn add(&mut self) {
        let mut made = Vec::new();
        self.scheduler.add_pod(Arc::clone(&self.pod), None, self.now, &mut |worker, name, probe_type| {
            made.push((worker, name.clone(), probe_type));
        });
        for (worker, name, probe_type) in made {
            let index = self.pod.probed_containers().position(|c| c.name == name).expect("its container");
            self.keys.insert(worker, (index, probe_type));
            self.model.made((index, probe_type), worker.0, self.now);
        }
    }

    fn apply(&mut self, event: &Event) {
        let len = self.containers.len();
        match event {
            Event::Pass(millis) => self.now = self.now + Duration::from_millis(*millis),
            Event::Answer(which, seen) => self.answer(*which, *seen),
            Event::Start(at) => {
                self.instances += 1;
                let id = ContainerId::from(format!("test://{}", self.instances).as_str());
                self.set(at % len, Some((id, ContainerState::Running { started_at: self.now })));
            }
            Event::Wait(at) => {
                let waiting = ContainerState::waiting("CrashLoopBackOff", "");
                self.change(at % len, waiting);
            }
            Event::Exit(at, exit_code) => {
                let ended = Termination {
                    exit_code: *exit_code,
                    signal: 0,
                    backoff: probe_core::backoff::Backoff::new(),
                    reason: "Error".into(),
                    message: "".into(),
                    started_at: self.now,
                    finished_at: self.now,
                    restart_allowed: None,
                };
                self.change(at % len, ContainerState::Terminated(Box::new(ended)));
            }
            Event::Vanish(at) => self.set(at % len, None),
            Event::Resync => self.report(),
            Event::Delete => {
                self.deleting = true;
                self.report();
            }
            Event::Finish(phase) => {
                self.phase = *phase;
                self.report();
            }
            Event::Trigger(at, probe_type) => {
                let name = self.pod.probed_containers().nth(at % len).expect("a container").name.clone();
                self.scheduler.trigger(&self.pod.uid, &name, *probe_type, self.now);
                self.model.trigger((at % len, *probe_type), self.now);
            }
            Event::Pause(at, probe_type, millis) => self.pause(at % len, *probe_type, *millis),
            Event::StopLivenessAndStartup => {
                self.scheduler.stop_liveness_and_startup(&self.pod.uid, self.now);
                self.model.stop(|probe_type| probe_type != ProbeType::Readiness);
            }
            Event::AddAgain if !self.removed => self.add(),
            Event::AddAgain => {}
            Event::Remove => {
                self.removed = true;
                self.scheduler.remove_pod(&self.pod.uid, self.now);
                self.model.stop(|_| true);
            }
        }
        self.settle();
    }

    fn pause(&mut self, at: usize, probe_type: Option<ProbeType>, millis: u64) {
        let name = self.pod.probed_containers().nth(at).expect("a container").name.clone();
        let until = self.now + Duration::from_millis(millis);
        let uid = &self.pod.uid;
        match probe_type {
            Some(probe_type) => {
                let types = ProbeTypes::from_iter([probe_type]);
                self.scheduler.pause(uid, Some(&name), types, Some(until), self.now, &mut |_| ());
                self.model.pause(|key| key == (at, probe_type), until, self.now);
            }
            None => {
                self.scheduler.pause(uid, None, ProbeTypes::ALL, Some(until), self.now, &mut |_| ());
                self.model.pause(|_| true, until, self.now);
            }
        }
    }

    fn answer(&mut self, which: usize, seen: Seen) {
        let in_flight: Vec<Key> = self.flights.keys().copied().collect();
        if in_flight.is_empty() {
            return;
        }
        let key = in_flight[which % in_flight.len()];
        let attempt = self.flights.remove(&key).expect("in flight");
        let (outcome, answer) = match seen {
            Seen::Success => (Outcome::Success("".into()), Answer::Pass),
            Seen::Warning => (Outcome::Warning("redirect".into()), Answer::Pass),
            Seen::Failure => (Outcome::Failure("refused".into()), Answer::Fail),
            Seen::Error => (Outcome::Error("no such port".into()), Answer::Error),
        };
        assert!(self.scheduler.handle_outcome(attempt, outcome.clone(), self.now));
        assert!(
            !self.scheduler.handle_outcome(
                AttemptId { generation: attempt.generation.wrapping_sub(1), ..attempt },
                outcome,
                self.now
            ),
            "an answer to an earlier attempt was taken"
        );
        self.model.answer(key, answer, self.now);
    }

    fn set(&mut self, at: usize, instance: Option<(ContainerId, ContainerState)>) {
        let name = self.pod.probed_containers().nth(at).expect("a container").name.clone();
        self.containers[at] = instance.map(|(id, state)| ContainerStatus {
            name,
            id: Some(id),
            state,
            last_termination: None,
            restart_count: 0,
        });
        self.report();
    }

    fn change(&mut self, at: usize, state: ContainerState) {
        let Some(id) = self.containers[at].as_ref().and_then(|status| status.id.clone()) else { return };
        self.set(at, Some((id, state)));
    }

    fn report(&mut self) {
        if self.removed {
            return;
        }
        let status = PodStatus {
            phase: self.phase,
            deleting: self.deleting,
            pod_ip: None,
            netns: None,
            containers: self.containers.iter().flatten().cloned().collect(),
        };
        self.scheduler.handle_status(&self.pod.uid, Arc::new(status.clone()), self.now);
        self.model.status(status, self.now);
    }

    /// Both do all that is due, and must have done the same.
    fn settle(&mut self) {
        self.scheduler.handle_timeout(self.now, usize::MAX);
        while let Some(action) = self.scheduler.poll_action() {
            self.note(action);
        }
        self.model.run(self.now);
        assert_eq!(self.notes, self.model.notes, "at {:?}", self.now);
        assert_eq!(self.missed, self.model.missed, "due times missed at {:?}", self.now);
        self.notes.clear();
        self.model.notes.clear();
        self.missed.clear();
        self.model.missed.clear();
        let core: Vec<Key> = self.flights.keys().copied().collect();
        let mut model = self.model.attempting();
        model.sort_unstable();
        assert_eq!(core, model, "in flight at {:?}", self.now);
        if let Some(next) = self.scheduler.poll_timeout() {
            assert!(next > self.now, "something is due and was not done");
        }
    }

    fn note(&mut self, action: Action) {
        let key_of = |worker: WorkerIndex| self.keys[&worker];
        let (key, note) = match action {
            Action::Start(start) => {
                let key = key_of(start.attempt.worker);
                assert!(self.flights.insert(key, start.attempt).is_none(), "two attempts of one worker");
                self.scheduler.handle_started(start.attempt, self.now);
                (key, Note::Attempt(start.retry))
            }
            Action::Publish(publish) => (key_of(publish.worker), Note::Stored(publish.container_id, publish.verdict)),
            Action::Report(report) => {
                let counted = (report.threshold > 0).then_some((report.run, report.threshold));
                (key_of(report.worker), Note::Called(counted))
            }
            Action::Passed(passed) => (key_of(passed.worker), Note::Called(Some((passed.run, passed.threshold)))),
            Action::WorkerEnded { worker } => {
                let key = key_of(worker);
                self.flights.remove(&key);
                (key, Note::Left)
            }
            Action::Missed { worker, count, .. } => {
                *self.missed.entry(key_of(worker)).or_default() += u64::from(count);
                return;
            }
            Action::LocalTooLong(_) => panic!("no local trouble in this test"),
        };
        self.notes.entry(key).or_default().push(note);
    }
}

fn probe(delay: i32, period: u32, success: u32, failure: u32) -> Arc<ProbeSpec> {
    Arc::new(ProbeSpec {
        handler: Handler::TcpSocket(TcpSocket { host: None, port: Port::Number(80) }),
        initial_delay_seconds: delay,
        timeout_seconds: 1,
        period_seconds: period,
        success_threshold: success,
        failure_threshold: failure,
        termination_grace_period_seconds: None,
    })
}

fn container(name: &str, kind: ContainerKind, probes: Probes) -> Container {
    Container { image: "image".into(), restart_policy: None, ..Container::new(ContainerName::from(name), kind, probes) }
}

fn pod(restart_policy: RestartPolicy, containers: Vec<Container>, sidecars: Vec<Container>) -> Pod {
    let mut pod = Pod::new(PodUid::from("uid"), "default", "pod", containers);
    pod.restart_policy = restart_policy;
    pod.init_containers = sidecars.into();
    pod
}

fn any_probe(startup_or_liveness: bool) -> impl Strategy<Value = Option<Arc<ProbeSpec>>> {
    let success = if startup_or_liveness { 1..2_u32 } else { 1..4 };
    prop::option::weighted(0.8, (0..4_i32, 1..5_u32, success, 1..4_u32).prop_map(|(d, p, s, f)| probe(d, p, s, f)))
}

fn any_probes() -> impl Strategy<Value = Probes> {
    (any_probe(true), any_probe(false), any_probe(true)).prop_map(|(startup, readiness, liveness)| Probes {
        startup,
        readiness,
        liveness,
    })
}

fn any_pod() -> impl Strategy<Value = Pod> {
    let policy = prop_oneof![Just(RestartPolicy::Always), Just(RestartPolicy::OnFailure), Just(RestartPolicy::Never)];
    (policy, any_probes(), prop::option::of(any_probes()), prop::option::of(any_probes())).prop_map(
        |(policy, first, second, sidecar)| {
            let mut containers = vec![container("a", ContainerKind::Regular, first)];
            containers.extend(second.map(|probes| container("b", ContainerKind::Regular, probes)));
            let sidecars = sidecar.map(|probes| container("s", ContainerKind::Sidecar, probes));
            pod(policy, containers, sidecars.into_iter().collect())
        },
    )
}

fn any_event() -> impl Strategy<Value = Event> {
    let seen = prop_oneof![3 => Just(Seen::Success), 1 => Just(Seen::Warning), 4 => Just(Seen::Failure), 1 => Just(Seen::Error)];
    let probe_type = prop::sample::select(ProbeType::ALL.to_vec());
    let probe_type_again = probe_type.clone();
    prop_oneof![
        8 => (1..2_500_u64).prop_map(Event::Pass),
        1 => (5_000..60_000_u64).prop_map(Event::Pass),
        24 => (0..9_usize, seen).prop_map(|(which, seen)| Event::Answer(which, seen)),
        3 => (0..3_usize).prop_map(Event::Start),
        1 => (0..3_usize).prop_map(Event::Wait),
        2 => (0..3_usize, 0..2_i32).prop_map(|(at, code)| Event::Exit(at, code)),
        1 => (0..3_usize).prop_map(Event::Vanish),
        1 => Just(Event::Resync),
        2 => (0..3_usize, probe_type).prop_map(|(at, probe_type)| Event::Trigger(at, probe_type)),
        2 => (0..3_usize, prop::option::weighted(0.7, probe_type_again), 0..8_000_u64)
            .prop_map(|(at, probe_type, millis)| Event::Pause(at, probe_type, millis)),
        1 => Just(Event::AddAgain),
    ]
}

/// What ends a life; at most one of them, late.
fn any_end() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Delete),
        Just(Event::Finish(PodPhase::Failed)),
        Just(Event::Finish(PodPhase::Succeeded)),
        Just(Event::StopLivenessAndStartup),
        Just(Event::Remove),
        Just(Event::Resync),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_life_of_a_pod_is_as_the_model_says(
        pod in any_pod(),
        life in prop::collection::vec(any_event(), 1..80),
        end in any_end(),
        after in prop::collection::vec(any_event(), 0..20),
    ) {
        let mut pair = Pair::new(pod);
        pair.apply(&Event::Start(0));
        for event in life.iter().chain([&end]).chain(&after) {
            pair.apply(event);
        }
    }
}

/// A sequence that is being played; says so if that fails.
struct Trail<T: Debug>(Vec<T>);

impl<T: Debug> Drop for Trail<T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("after {:?}", self.0);
        }
    }
}

/// Plays every sequence of `len` letters, and with them every shorter one, each letter once for all the sequences that begin
/// alike: depth first, in a clone of the world. `play` hears how many letters came before. Returns how many sequences of that
/// length there were.
fn every_sequence<T: Copy + Debug>(
    world: Pair,
    letters: &[T],
    len: usize,
    play: &impl Fn(&mut Pair, usize, T),
    trail: &mut Trail<T>,
) -> usize {
    if len == 0 {
        return 1;
    }
    let mut played = 0;
    for letter in letters {
        let mut branch = world.clone();
        let before = trail.0.len();
        trail.0.push(*letter);
        play(&mut branch, before, *letter);
        played += every_sequence(branch, letters, len - 1, play, trail);
        trail.0.pop();
    }
    played
}

/// Every sequence of 1 to 8 outcomes, for every pair of thresholds from 1 to 3 that the probe's type may have (`successThreshold`
/// is 1 but for readiness): 15 probes, 4^8 sequences of full length each.
///
/// An outcome is what one attempt saw: Success, Warning (as good as a success), Failure, or Error, after which the same call
/// is tried again at once: the sequence's next outcome is that try's, and the third error in a row discards the call. (The fifth
/// outcome, Local, is the shard's own trouble: the kubelet and so the model know no such thing.) A period passes before each
/// outcome, whatever is in flight: so a call that is tried again is overtaken by its next due time, too.
///
/// Where a verdict puts the worker on hold, nothing would be asked any more: the container is restarted then, as the kubelet would
/// after a liveness failure, and the sequence goes on with the new instance, so that what leaks over a restart is seen.
#[test]
fn every_sequence_of_up_to_eight_outcomes_is_as_the_model_says() {
    let outcomes = [Seen::Success, Seen::Warning, Seen::Failure, Seen::Error];
    for probe_type in ProbeType::ALL {
        let success_max = if probe_type == ProbeType::Readiness { 3 } else { 1 };
        for (success, failure) in (1..=success_max).flat_map(|success| (1..=3).map(move |failure| (success, failure))) {
            let spec = Some(probe(0, 1, success, failure));
            let mut probes = Probes::default();
            match probe_type {
                ProbeType::Startup => probes.startup = spec,
                ProbeType::Readiness => probes.readiness = spec,
                ProbeType::Liveness => probes.liveness = spec,
            }
            let containers = vec![container("a", ContainerKind::Regular, probes)];
            let mut world = Pair::new(pod(RestartPolicy::Always, containers, Vec::new()));
            world.apply(&Event::Start(0));
            let play = |world: &mut Pair, _, seen| {
                world.apply(&Event::Pass(1_000));
                if world.flights.is_empty() {
                    world.apply(&Event::Start(0));
                    world.apply(&Event::Pass(1_000));
                }
                assert_eq!(world.flights.len(), 1, "an outcome without an attempt");
                world.apply(&Event::Answer(0, seen));
            };
            assert_eq!(every_sequence(world, &outcomes, 8, &play, &mut Trail(Vec::new())), 65_536);
        }
    }
}

/// Every sequence of 1 to 6 of seven things that happen to a probe of each type, which is asked once a second: an attempt ends
/// (Success, Failure, or Error, if one is in flight), it is paused for one and a half seconds or for two (so that it ends
/// on a due time), the pause is ended, somebody asks for an attempt. After each three quarters of a second pass.
#[test]
fn every_sequence_of_up_to_six_with_pauses_is_as_the_model_says() {
    for probe_type in ProbeType::ALL {
        let mut probes = Probes::default();
        let spec = Some(probe(0, 1, 1, 2));
        match probe_type {
            ProbeType::Startup => probes.startup = spec,
            ProbeType::Readiness => probes.readiness = spec,
            ProbeType::Liveness => probes.liveness = spec,
        }
        let mut world =
            Pair::new(pod(RestartPolicy::Always, vec![container("a", ContainerKind::Regular, probes)], Vec::new()));
        world.apply(&Event::Start(0));
        let answers = [Seen::Success, Seen::Failure, Seen::Error].map(|seen| Event::Answer(0, seen));
        let pauses = [1_500, 2_000, 0].map(|millis| Event::Pause(0, None, millis));
        let events: Vec<Event> = answers.into_iter().chain(pauses).chain([Event::Trigger(0, probe_type)]).collect();
        let letters: Vec<&Event> = events.iter().collect();
        let play = |world: &mut Pair, _, event: &Event| {
            world.apply(event);
            world.apply(&Event::Pass(750));
        };
        assert_eq!(every_sequence(world, &letters, 6, &play, &mut Trail(Vec::new())), 117_649);
    }
}

/// Every sequence of 1 to 6 changes of a container with all three probes: of a regular one under each restart policy, and of a
/// sidecar under Never.
///
/// A change is one of six: a new instance runs, it waits (with the ID that it had), it has ended with exit code 1 or 0, its
/// status is gone, or nothing (the runtime says the same again). After each a period passes, and one attempt ends, if there is any:
/// another one of those in flight after each change. What attempts see is not varied as freely: it alternates between Success and
/// Failure, beginning with either.
#[test]
fn every_sequence_of_up_to_six_container_states_is_as_the_model_says() {
    let states =
        [Event::Start(0), Event::Wait(0), Event::Exit(0, 1), Event::Exit(0, 0), Event::Vanish(0), Event::Resync];
    let subjects = [
        (ContainerKind::Regular, RestartPolicy::Always),
        (ContainerKind::Regular, RestartPolicy::OnFailure),
        (ContainerKind::Regular, RestartPolicy::Never),
        (ContainerKind::Sidecar, RestartPolicy::Never),
    ];
    for (kind, policy) in subjects {
        let one = || Some(probe(0, 1, 1, 1));
        let subject = container("a", kind, Probes { startup: one(), readiness: one(), liveness: one() });
        let (sidecars, regular) = [subject].into_iter().partition(|c| c.kind == ContainerKind::Sidecar);
        let world = Pair::new(pod(policy, regular, sidecars));
        for alternating in [[Seen::Success, Seen::Failure], [Seen::Failure, Seen::Success]] {
            let play = |world: &mut Pair, before: usize, state: &Event| {
                world.apply(state);
                world.apply(&Event::Pass(1_000));
                world.apply(&Event::Answer(before, alternating[before % 2]));
            };
            let letters = states.each_ref();
            assert_eq!(every_sequence(world.clone(), &letters, 6, &play, &mut Trail(Vec::new())), 46_656);
        }
    }
}
