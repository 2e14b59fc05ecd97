//! The state machine over a runtime that starts nothing, in virtual time.

mod hooks;
mod order;
mod past;

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use probe_core::backoff::Backoff;
use probe_core::spec::{Container, ContainerKind, ProbeSpec, Probes, RestartPolicy};
use probe_core::spec::{Exec, Handler};
use probe_core::status::{ContainerState, PodPhase, PodStatus, Termination};

use super::*;
use crate::consumer::events::EventType;
use crate::prober::exec::Execution;
use crate::runtime::{BoxFuture, RuntimeError, Started};
use crate::source::PodUpdate;

/// Of virtual time: longer than any back-off.
const LIMIT: Duration = Duration::from_secs(3600);

/// Does what a test tells it to, and remembers what it was asked.
#[derive(Default)]
pub(super) struct Fake {
    clock: OnceLock<TimerClock>,
    exits: OnceLock<mpsc::Sender<RuntimeEvent>>,
    events: Mutex<Option<mpsc::Receiver<RuntimeEvent>>>,
    asked: Mutex<Vec<String>>,
    /// Containers whose program cannot be run.
    broken: Mutex<HashSet<&'static str>>,
    /// Containers that cannot even be made.
    refused: Mutex<HashSet<&'static str>>,
    /// Containers that end as soon as they are started, before the start is known.
    hasty: Mutex<HashSet<&'static str>>,
    /// Containers that end well when they are stopped.
    polite: Mutex<HashSet<&'static str>>,
    /// Containers of which the first try to stop them fails, with this error.
    clinging: Mutex<HashMap<&'static str, std::io::ErrorKind>>,
    /// Containers that ignore the stop signal.
    stubborn: Mutex<HashSet<&'static str>>,
}

impl Fake {
    fn note(&self, what: String) {
        self.asked.lock().unwrap().push(what);
    }

    async fn exit(&self, pod: &PodUid, id: &ContainerId, exit_code: i32) {
        let now = self.clock.get().unwrap().now();
        let container = id.as_str().split(['/', '.']).nth(2).unwrap().into();
        let exited = RuntimeEvent::Exited {
            pod: pod.clone(),
            container,
            id: id.clone(),
            termination: Termination {
                exit_code,
                signal: 0,
                backoff: Backoff::new(),
                reason: if exit_code == 0 { "Completed" } else { "Error" }.into(),
                message: "".into(),
                started_at: now,
                finished_at: now,
                restart_allowed: None,
            },
        };
        self.exits.get().unwrap().send(exited).await.unwrap();
    }
}

impl ContainerRuntime for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn manages_containers(&self) -> bool {
        true
    }

    fn pod_ip(&self, _: &Pod) -> Option<IpAddr> {
        None
    }

    fn start<'a>(
        &'a self,
        pod: &'a Arc<Pod>,
        container: &'a ContainerName,
        restart_count: u32,
    ) -> BoxFuture<'a, Result<Started, RuntimeError>> {
        Box::pin(async move {
            self.note(format!("start {container} {restart_count}"));
            // A start takes a while: whatever was started beside it would show in the order.
            tokio::task::yield_now().await;
            let is = |set: &Mutex<HashSet<&'static str>>| set.lock().unwrap().contains(container.as_str());
            let source = std::io::ErrorKind::NotFound.into();
            if is(&self.broken) {
                let (pod, container, what) = (pod.name.to_string(), container.to_string(), "exec".to_owned());
                return Err(RuntimeError::Start { pod, container, what, source });
            }
            if is(&self.refused) {
                return Err(RuntimeError::Io { what: "mkdir".to_owned(), source });
            }
            let id = ContainerId::new(format!("fake://{container}.{restart_count}"));
            if is(&self.hasty) {
                self.exit(&pod.uid, &id, 1).await;
                // tidy: paused time, in which all that is ready runs first: the end is heard before the start
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Ok(Started { id, started_at: self.clock.get().unwrap().now(), pid: None })
        })
    }

    fn stop<'a>(&'a self, id: &'a ContainerId, grace: Duration) -> BoxFuture<'a, Result<(), RuntimeError>> {
        Box::pin(async move {
            self.note(format!("stop {id} {grace:?}"));
            let container = id.as_str().split(['/', '.']).nth(2).unwrap();
            let clings = self.clinging.lock().unwrap().remove(container);
            if let Some(kind) = clings {
                return Err(RuntimeError::Io { what: "kill".to_owned(), source: kind.into() });
            }
            let stubborn = self.stubborn.lock().unwrap().contains(container);
            let takes = if stubborn { grace } else { Duration::from_millis(1).min(grace) };
            // tidy: what the container takes to end, in paused time
            tokio::time::sleep(takes).await;
            let polite = self.polite.lock().unwrap().contains(container);
            let exit_code = match (stubborn, polite) {
                (true, _) => 137,
                (false, true) => 0,
                (false, false) => 143,
            };
            self.exit(&"uid-1".into(), id, exit_code).await;
            Ok(())
        })
    }

    /// `["fail"]` ends with exit code 3, `["hang"]` not before it is dropped, anything else well after 100 ms.
    fn exec<'a>(
        &'a self,
        id: &'a ContainerId,
        command: &'a [Box<str>],
        limit: Option<Duration>,
    ) -> BoxFuture<'a, Execution> {
        Box::pin(async move {
            assert_eq!(limit, None, "hooks have no time limit of their own");
            self.note(format!("exec {id} {}", command.join(" ")));
            if &*command[0] == "hang" {
                std::future::pending::<()>().await;
            }
            // tidy: what the command takes, in paused time
            tokio::time::sleep(Duration::from_millis(100)).await;
            let exit_code = if &*command[0] == "fail" { 3 } else { 0 };
            Execution::Exited { exit_code, stdout: b"said".to_vec(), stderr: b"cried".to_vec() }
        })
    }

    fn remove_pod<'a>(&'a self, uid: &'a PodUid) -> BoxFuture<'a, Result<(), RuntimeError>> {
        self.note(format!("remove {uid}"));
        Box::pin(async { Ok(()) })
    }

    fn log_files(&self, _: &Pod, _: &ContainerName, _: bool) -> Result<Vec<PathBuf>, RuntimeError> {
        Ok(Vec::new())
    }

    fn take_events(&self) -> Option<mpsc::Receiver<RuntimeEvent>> {
        self.events.lock().unwrap().take()
    }

    fn shutdown<'a>(&'a self) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }
}

struct World {
    runtime: Arc<Fake>,
    input: mpsc::Sender<LifecycleInput>,
    updates: mpsc::Receiver<PodUpdate>,
    events: mpsc::Receiver<NewEvent>,
    clock: TimerClock,
    stats: Arc<LifecycleStats>,
    task: tokio::task::JoinHandle<()>,
}

impl World {
    fn new() -> Self {
        let (exits, exited) = mpsc::channel(64);
        let runtime = Arc::new(Fake::default());
        *runtime.events.lock().unwrap() = Some(exited);
        runtime.exits.set(exits).unwrap();
        let (input, inputs) = mpsc::channel(16);
        let (updates, updated) = mpsc::channel(1024);
        let (events, happened) = mpsc::channel(1024);
        let stats = Arc::default();
        let lifecycle = Lifecycle::new(
            Arc::clone(&runtime) as Arc<dyn ContainerRuntime>,
            updates,
            events,
            LifecycleConfig::default(),
            Arc::clone(&stats),
        );
        let clock = lifecycle.context.clock;
        runtime.clock.set(clock).ok().unwrap();
        let task = tokio::spawn(lifecycle.run(inputs));
        Self { runtime, input, updates: updated, events: happened, clock, stats, task }
    }

    async fn send(&self, input: LifecycleInput) {
        self.input.send(input).await.unwrap();
    }

    async fn add(&self, pod: &Arc<Pod>) {
        self.send(LifecycleInput::Add(Arc::clone(pod), None)).await;
    }

    async fn fail(&self, container: &str, id: &str, probe_type: ProbeType) {
        let failed = LifecycleInput::Failed {
            pod: "uid-1".into(),
            container: container.into(),
            container_id: id.into(),
            probe_type,
        };
        self.send(failed).await;
    }

    async fn exit(&self, id: &str, exit_code: i32) {
        self.runtime.exit(&"uid-1".into(), &id.into(), exit_code).await;
    }

    /// The next event, as `Reason: text`.
    async fn event(&mut self) -> String {
        let event = tokio::time::timeout(LIMIT, self.events.recv()).await.expect("an event in time").unwrap();
        format!("{}: {}", event.reason, event.message)
    }

    async fn events<const N: usize>(&mut self) -> [String; N] {
        let mut events = [const { String::new() }; N];
        for event in &mut events {
            *event = self.event().await;
        }
        events
    }

    /// The next update that is accepted; others are passed over.
    async fn update(&mut self, is_it: impl Fn(&PodUpdate) -> bool) -> PodUpdate {
        loop {
            let update = tokio::time::timeout(LIMIT, self.updates.recv()).await;
            let update = update.expect("an update in time").expect("an update");
            if is_it(&update) {
                return update;
            }
        }
    }

    async fn status(&mut self, is_it: impl Fn(&PodStatus) -> bool) -> Arc<PodStatus> {
        match self.update(|update| matches!(update, PodUpdate::Status(_, status) if is_it(status))).await {
            PodUpdate::Status(_, status) => status,
            _ => unreachable!("only a status is accepted"),
        }
    }

    /// Until the first container's state is accepted.
    async fn state(&mut self, is_it: impl Fn(&ContainerState) -> bool) -> Arc<PodStatus> {
        self.status(|status| is_it(&status.containers[0].state)).await
    }

    /// Until the first container's instance of this number runs.
    async fn instance(&mut self, restart_count: u32) -> Arc<PodStatus> {
        self.status(|s| running(&s.containers[0].state) && s.containers[0].restart_count == restart_count).await
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.runtime.asked.lock().unwrap())
    }
}

fn container(name: &str) -> Container {
    Container::new(name.into(), ContainerKind::Regular, Probes::default())
}

fn exec_probe(termination_grace_period_seconds: Option<u64>) -> Option<Arc<ProbeSpec>> {
    Some(Arc::new(ProbeSpec {
        handler: Handler::Exec(Exec { command: Box::default() }),
        initial_delay_seconds: 0,
        timeout_seconds: 1,
        period_seconds: 1,
        success_threshold: 1,
        failure_threshold: 1,
        termination_grace_period_seconds,
    }))
}

fn pod_of(containers: impl IntoIterator<Item = Container>) -> Pod {
    Pod::new("uid-1".into(), "shop", "web", containers.into_iter().collect::<Vec<_>>())
}

fn pod(names: &[&str], restart_policy: RestartPolicy) -> Arc<Pod> {
    let mut pod = pod_of(names.iter().map(|name| container(name)));
    pod.restart_policy = restart_policy;
    Arc::new(pod)
}

fn running(state: &ContainerState) -> bool {
    matches!(state, ContainerState::Running { .. })
}

fn waiting(state: &ContainerState) -> bool {
    matches!(state, ContainerState::Waiting(why) if !matches!(&*why.reason, "ContainerCreating" | "PodInitializing"))
}

fn ended(state: &ContainerState) -> bool {
    matches!(state, ContainerState::Terminated(_))
}

const BACK_OFF: &str = "BackOff: Back-off restarting failed container a in pod web_shop(uid-1)";

#[tokio::test(start_paused = true)]
async fn a_kill_that_fails_is_told_and_tried_again_until_the_container_has_ended() {
    use std::io::ErrorKind;
    let late = "ExceededGracePeriod: Container runtime did not kill the pod within specified grace period.";
    let refused = "FailedKillPod: error killing pod: kill: permission denied";
    for (kind, told) in [(ErrorKind::TimedOut, late), (ErrorKind::PermissionDenied, refused)] {
        let mut world = World::new();
        world.runtime.clinging.lock().unwrap().insert("a", kind);
        world.add(&pod(&["a"], RestartPolicy::Always)).await;
        world.instance(0).await;
        world.send(LifecycleInput::Remove("uid-1".into(), None)).await;
        let begun = world.clock.now();
        let [_, _, killing, failed] = world.events().await;
        assert_eq!([killing.as_str(), &failed], ["Killing: Stopping container a", told]);
        world.update(|update| matches!(update, PodUpdate::Terminated(_))).await;
        assert_eq!((world.clock.now() - begun).as_secs(), 10);
        assert_eq!(world.asked(), ["start a 0", "stop fake://a.0 30s", "stop fake://a.0 30s", "remove uid-1"]);
    }
}

#[tokio::test(start_paused = true)]
async fn containers_are_started_one_after_the_other_in_the_manifests_order() {
    let mut world = World::new();
    world.add(&pod(&["b", "a"], RestartPolicy::Always)).await;
    let events = world.events().await;
    assert_eq!(
        events,
        [
            "Created: Created container: b",
            "Started: Started container b",
            "Created: Created container: a",
            "Started: Started container a",
        ]
    );
    assert_eq!(world.asked(), ["start b 0", "start a 0"]);
    let status = world.status(|s| s.containers.iter().all(|c| running(&c.state))).await;
    assert_eq!(status.phase, PodPhase::Running);
    assert_eq!(status.containers[0].id, Some("fake://b.0".into()));
    assert_eq!(status.containers[0].restart_count, 0);
}

#[tokio::test(start_paused = true)]
async fn a_crash_loop_waits_longer_and_longer_after_each_end() {
    let mut world = World::new();
    world.add(&pod(&["a"], RestartPolicy::Always)).await;
    let mut waits = Vec::new();
    for n in 0..8 {
        let [created, started] = world.events().await;
        assert_eq!([created, started], ["Created: Created container: a", "Started: Started container a"]);
        let ended_at = world.clock.now();
        world.exit(&format!("fake://a.{n}"), 1).await;
        let status = world.state(|s| ended(s) || waiting(s)).await;
        assert_eq!((status.phase, status.containers[0].restart_count), (PodPhase::Running, n));
        if n > 0 {
            assert_eq!(world.event().await, BACK_OFF);
        }
        let next = world.state(running).await;
        assert_eq!(next.containers[0].restart_count, n + 1);
        assert_eq!(next.containers[0].last_termination.as_ref().unwrap().exit_code, 1);
        waits.push((world.clock.now() - ended_at).as_secs());
    }
    assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
}

#[tokio::test(start_paused = true)]
async fn while_it_waits_the_status_says_so_and_keeps_the_dead_instance() {
    let mut world = World::new();
    world.add(&pod(&["a"], RestartPolicy::Always)).await;
    for id in ["fake://a.0", "fake://a.1"] {
        world.state(running).await;
        world.exit(id, 3).await;
    }
    let status = world.state(waiting).await;
    let container = &status.containers[0];
    let ContainerState::Waiting(why) = &container.state else { unreachable!("it waits") };
    assert_eq!(&*why.reason, "CrashLoopBackOff");
    assert_eq!(&*why.message, "back-off 10s restarting failed container=a pod=web_shop(uid-1)");
    assert_eq!(container.id, Some("fake://a.1".into()));
    assert_eq!(container.last_termination.as_ref().unwrap().exit_code, 3);
    assert_eq!((container.restart_count, status.phase), (1, PodPhase::Running));
}

#[tokio::test(start_paused = true)]
async fn the_restart_policy_decides_what_an_end_means() {
    use RestartPolicy::{Always, Never, OnFailure};
    for (policy, exit_code, phase) in [
        (Always, 0, PodPhase::Running),
        (OnFailure, 0, PodPhase::Succeeded),
        (OnFailure, 1, PodPhase::Running),
        (Never, 0, PodPhase::Succeeded),
        (Never, 1, PodPhase::Failed),
    ] {
        let mut world = World::new();
        world.add(&pod(&["a"], policy)).await;
        world.state(running).await;
        world.exit("fake://a.0", exit_code).await;
        if phase == PodPhase::Running {
            let status = world.state(running).await;
            assert_eq!(status.containers[0].restart_count, 1, "{policy:?} {exit_code}");
        } else {
            let status = world.state(ended).await;
            assert_eq!(status.phase, phase, "{policy:?} {exit_code}");
            assert_eq!(world.asked(), ["start a 0"]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_liveness_failure_kills_and_restarts_without_wait() {
    let mut world = World::new();
    world.add(&pod(&["a"], RestartPolicy::Always)).await;
    world.state(running).await;
    world.fail("a", "fake://a.0", ProbeType::Liveness).await;
    let events: [String; 5] = world.events().await;
    assert_eq!(
        events,
        [
            "Created: Created container: a",
            "Started: Started container a",
            "Killing: Container a failed liveness probe, will be restarted",
            "Created: Created container: a",
            "Started: Started container a",
        ]
    );
    assert_eq!(world.asked(), ["start a 0", "stop fake://a.0 30s", "start a 1"]);
    let status = world.status(|s| running(&s.containers[0].state) && s.containers[0].restart_count == 1).await;
    assert_eq!(status.containers[0].last_termination.as_ref().unwrap().exit_code, 143);
}

#[tokio::test(start_paused = true)]
async fn after_a_kill_the_end_before_it_sets_the_back_off() {
    let mut world = World::new();
    world.add(&pod(&["a"], RestartPolicy::Always)).await;
    world.instance(0).await;
    // Seconds that each instance lives, and that pass from its kill to the next start.
    for (n, (lives, waits)) in (0..).zip([(1, 0), (1, 0), (3, 10), (60, 0)]) {
        // tidy: how long the instance lives, in paused time
        tokio::time::sleep(Duration::from_secs(lives)).await;
        let killed_at = world.clock.now();
        world.fail("a", &format!("fake://a.{n}"), ProbeType::Liveness).await;
        world.instance(n + 1).await;
        assert_eq!((world.clock.now() - killed_at).as_secs(), waits, "kill {n}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_startup_failure_kills_with_the_probes_own_grace() {
    let mut slow = container("a");
    slow.probes.startup = exec_probe(Some(5));
    let mut world = World::new();
    world.add(&Arc::new(pod_of([slow]))).await;
    world.instance(0).await;
    world.fail("a", "fake://a.0", ProbeType::Startup).await;
    world.instance(1).await;
    let [_, _, killing] = world.events().await;
    assert_eq!(killing, "Killing: Container a failed startup probe, will be restarted");
    assert_eq!(world.asked(), ["start a 0", "stop fake://a.0 5s", "start a 1"]);
}

#[tokio::test(start_paused = true)]
async fn under_never_a_liveness_failure_only_kills() {
    let mut world = World::new();
    world.add(&pod(&["a"], RestartPolicy::Never)).await;
    world.instance(0).await;
    world.fail("a", "fake://a.0", ProbeType::Liveness).await;
    let status = world.state(ended).await;
    assert_eq!(status.phase, PodPhase::Failed);
    let [_, _, killing] = world.events().await;
    assert_eq!(killing, "Killing: Container a failed liveness probe");
    assert_eq!(world.asked(), ["start a 0", "stop fake://a.0 30s"]);
}

#[tokio::test(start_paused = true)]
async fn verdicts_that_are_late_or_of_no_concern_kill_nobody() {
    let mut world = World::new();
    world.add(&pod(&["a"], RestartPolicy::Always)).await;
    world.instance(0).await;
    world.fail("a", "fake://a.7", ProbeType::Liveness).await;
    world.fail("a", "fake://a.0", ProbeType::Readiness).await;
    world.fail("nobody", "fake://a.0", ProbeType::Liveness).await;
    world.exit("fake://a.0", 0).await;
    world.instance(1).await;
    world.fail("a", "fake://a.0", ProbeType::Liveness).await;
    world.fail("a", "fake://a.1", ProbeType::Liveness).await;
    // The second verdict on one instance comes while it is being killed.
    world.fail("a", "fake://a.1", ProbeType::Startup).await;
    world.instance(2).await;
    assert_eq!(world.asked(), ["start a 0", "start a 1", "stop fake://a.1 30s", "start a 2"]);
}

#[tokio::test(start_paused = true)]
async fn a_program_that_cannot_be_run_waits_with_the_reason() {
    let mut world = World::new();
    world.runtime.broken.lock().unwrap().insert("a");
    world.add(&pod(&["a", "b"], RestartPolicy::Always)).await;
    let status = world.state(waiting).await;
    let error = "cannot start container a of pod web: exec: entity not found";
    let ContainerState::Waiting(why) = &status.containers[0].state else { unreachable!("it waits") };
    assert_eq!(&*why.reason, "RunContainerError");
    assert_eq!(&*why.message, format!("{error}; back-off 10s restarting failed container=a pod=web_shop(uid-1)"));
    let end = status.containers[0].last_termination.as_ref().unwrap();
    assert_eq!((end.exit_code, &*end.reason), (128, "StartError"));
    assert!(running(&status.containers[1].state), "the others are started all the same");
    let failed = format!("Failed: Error: {error}");
    let created = "Created: Created container: a";
    let events: [String; 7] = world.events().await;
    assert_eq!(events[0..2], [created, &failed]);
    assert_eq!(events[4..7], [created, &failed, BACK_OFF]);
    world.runtime.broken.lock().unwrap().clear();
    world.state(running).await;
    assert_eq!(world.asked(), ["start a 0", "start b 0", "start a 1", "start a 2"]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_made_is_tried_again_and_counts_as_no_instance() {
    let mut world = World::new();
    world.runtime.refused.lock().unwrap().insert("a");
    world.add(&pod(&["a"], RestartPolicy::Never)).await;
    let status = world.state(waiting).await;
    let ContainerState::Waiting(why) = &status.containers[0].state else { unreachable!("it waits") };
    assert_eq!((&*why.reason, &*why.message), ("CreateContainerError", "mkdir: entity not found"));
    assert_eq!(status.phase, PodPhase::Pending);
    assert_eq!(world.event().await, "Failed: Error: mkdir: entity not found");
    world.runtime.refused.lock().unwrap().clear();
    world.instance(0).await;
    assert_eq!(world.asked(), ["start a 0", "start a 0"]);
}

#[tokio::test(start_paused = true)]
async fn a_container_may_end_before_its_start_is_known() {
    let mut world = World::new();
    world.runtime.hasty.lock().unwrap().insert("a");
    world.add(&pod(&["a"], RestartPolicy::Never)).await;
    let status = world.state(ended).await;
    assert_eq!(status.phase, PodPhase::Failed);
    assert_eq!(status.containers[0].id, Some("fake://a.0".into()));
    let [created, started] = world.events().await;
    assert_eq!([created, started], ["Created: Created container: a", "Started: Started container a"]);
}

#[tokio::test(start_paused = true)]
async fn a_removed_pod_ends_whole_within_its_grace_and_tells_every_step() {
    let mut world = World::new();
    world.runtime.stubborn.lock().unwrap().insert("b");
    world.add(&pod(&["a", "b"], RestartPolicy::Always)).await;
    world.status(|s| s.containers.iter().all(|c| running(&c.state))).await;
    let asked_at = world.clock.now();
    world.send(LifecycleInput::Remove("uid-1".into(), None)).await;
    let first = world.updates.recv().await.unwrap();
    assert!(matches!(first, PodUpdate::StopLivenessAndStartup(_)), "before anything is killed: {first:?}");
    let status = world.status(|s| ended(&s.containers[0].state)).await;
    assert!(status.deleting && running(&status.containers[1].state), "in parallel");
    world.fail("b", "fake://b.0", ProbeType::Liveness).await;
    let last = world.status(|s| ended(&s.containers[1].state)).await;
    assert_eq!(last.phase, PodPhase::Failed);
    world.update(|update| matches!(update, PodUpdate::Terminated(_))).await;
    assert_eq!((world.clock.now() - asked_at).as_secs(), 30);
    let [.., first, second]: [String; 6] = world.events().await;
    assert_eq!([first, second], ["Killing: Stopping container a", "Killing: Stopping container b"]);
    assert_eq!(world.asked(), ["start a 0", "start b 0", "stop fake://a.0 30s", "stop fake://b.0 30s", "remove uid-1"]);
}

#[tokio::test(start_paused = true)]
async fn the_last_state_of_an_ended_pod_is_terminal() {
    let mut world = World::new();
    world.add(&pod(&["a"], RestartPolicy::Always)).await;
    world.instance(0).await;
    world.send(LifecycleInput::Remove("uid-1".into(), None)).await;
    let mut last = None;
    loop {
        match world.updates.recv().await.unwrap() {
            PodUpdate::Status(_, status) => last = Some(status.phase),
            PodUpdate::Terminated(_) => break,
            _ => {}
        }
    }
    assert_eq!(last, Some(PodPhase::Failed), "nothing is restarted any more");
}

#[tokio::test(start_paused = true)]
async fn a_pod_removed_while_it_is_started_ends_what_it_started_and_starts_no_more() {
    let mut world = World::new();
    world.add(&pod(&["a", "b"], RestartPolicy::Always)).await;
    world.send(LifecycleInput::Remove("uid-1".into(), None)).await;
    world.update(|update| matches!(update, PodUpdate::Terminated(_))).await;
    let asked = world.asked();
    assert_eq!(asked.first().unwrap(), "start a 0");
    assert!(asked.contains(&"stop fake://a.0 30s".to_owned()) && !asked.contains(&"start b 0".to_owned()), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_pod_in_back_off_ends_at_once() {
    let mut world = World::new();
    world.add(&pod(&["a"], RestartPolicy::Always)).await;
    world.instance(0).await;
    world.exit("fake://a.0", 1).await;
    world.instance(1).await;
    world.exit("fake://a.1", 1).await;
    world.state(waiting).await;
    let asked_at = world.clock.now();
    world.send(LifecycleInput::Remove("uid-1".into(), None)).await;
    world.update(|update| matches!(update, PodUpdate::Terminated(_))).await;
    assert_eq!(world.clock.now(), asked_at);
    assert_eq!(world.asked(), ["start a 0", "start a 1", "remove uid-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_added_again_while_it_ends_waits_for_the_end() {
    let mut world = World::new();
    let pod = pod(&["a"], RestartPolicy::Always);
    world.add(&pod).await;
    world.instance(0).await;
    world.send(LifecycleInput::Remove("uid-1".into(), None)).await;
    world.add(&pod).await;
    world.update(|update| matches!(update, PodUpdate::Terminated(_))).await;
    world.instance(0).await;
    assert_eq!(world.asked(), ["start a 0", "stop fake://a.0 30s", "remove uid-1", "start a 0"]);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_all_pods_and_then_the_stage() {
    let mut world = World::new();
    world.add(&pod(&["a", "b"], RestartPolicy::Always)).await;
    world.status(|s| s.containers.iter().all(|c| running(&c.state))).await;
    world.send(LifecycleInput::Shutdown { now: false }).await;
    world.update(|update| matches!(update, PodUpdate::Terminated(_))).await;
    world.task.await.unwrap();
    assert_eq!(world.updates.recv().await.map(|_| ()), None, "nothing is told after the end");
}

#[tokio::test(start_paused = true)]
async fn a_second_shutdown_kills_without_grace() {
    let mut world = World::new();
    world.runtime.stubborn.lock().unwrap().insert("a");
    world.add(&pod(&["a"], RestartPolicy::Always)).await;
    world.instance(0).await;
    let asked_at = world.clock.now();
    world.send(LifecycleInput::Shutdown { now: false }).await;
    world.send(LifecycleInput::Shutdown { now: true }).await;
    world.state(ended).await;
    assert_eq!(world.clock.now(), asked_at);
    assert_eq!(world.asked(), ["start a 0", "stop fake://a.0 30s", "stop fake://a.0 0ns"]);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_input_is_a_shutdown() {
    let world = World::new();
    world.add(&pod(&["a"], RestartPolicy::Always)).await;
    drop(world.input);
    world.task.await.unwrap();
    assert!(world.runtime.asked.lock().unwrap().contains(&"stop fake://a.0 30s".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn events_have_their_type_and_the_probe_that_caused_them() {
    let mut world = World::new();
    world.add(&pod(&["a"], RestartPolicy::Always)).await;
    world.instance(0).await;
    world.fail("a", "fake://a.0", ProbeType::Liveness).await;
    world.instance(1).await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let event = world.events.recv().await.unwrap();
        seen.push((event.event_type, event.reason, event.probe_type));
    }
    let liveness = Some(ProbeType::Liveness);
    assert_eq!(
        seen,
        [
            (EventType::Normal, "Created", None),
            (EventType::Normal, "Started", None),
            (EventType::Normal, "Killing", liveness),
        ]
    );
}
