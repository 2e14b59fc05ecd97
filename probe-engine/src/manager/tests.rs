use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use probe_core::spec::Container;
use tokio::sync::oneshot;

use super::*;
use crate::results::fixture::{SOON, container, pod, running, simple_pod};
use crate::source::api::{Added, Refused};

/// A shard that takes only so many commands.
struct FakeShard {
    room: AtomicUsize,
    taken: Mutex<Vec<Command>>,
}

impl FakeShard {
    fn with_room(room: usize) -> Arc<Self> {
        Arc::new(Self { room: AtomicUsize::new(room), taken: Mutex::default() })
    }

    /// What it was sent since the last call, as words.
    fn take(&self) -> Vec<String> {
        self.taken.lock().expect("no panic").drain(..).map(|command| word(&command)).collect()
    }
}

impl CommandSink for FakeShard {
    fn send(&self, command: Command) -> Result<(), Command> {
        let less = |room: usize| room.checked_sub(1);
        if self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_err() {
            return Err(command);
        }
        self.taken.lock().expect("no panic").push(command);
        Ok(())
    }
}

fn word(command: &Command) -> String {
    match command {
        Command::AddPod { pod, slots, .. } => format!("add {} {}", pod.uid, slots.len()),
        Command::RemovePod { uid } => format!("remove {uid}"),
        Command::Status { uid, .. } => format!("status {uid}"),
        Command::StopLivenessAndStartup { uid } => format!("stop {uid}"),
        Command::Trigger { uid, container, probe_type } => format!("trigger {uid} {container} {probe_type}"),
        Command::Pause { uid, .. } => format!("pause {uid}"),
        Command::Detect { target } => format!("detect {target}"),
        Command::Shutdown => "shutdown".to_owned(),
    }
}

fn input_word(input: &Input) -> String {
    match input {
        Input::Added { pod, .. } => format!("added {}", pod.uid),
        Input::Status(uid, _) => format!("status {uid}"),
        Input::Deleting(uid) => format!("deleting {uid}"),
        Input::Removed(uid) => format!("removed {uid}"),
        Input::Untaken(left) => format!("untaken {}", left.len()),
        Input::Synced(source) => format!("synced {source}"),
        Input::Pause(uid, ..) => format!("pause {uid}"),
        Input::Gate(uid, gate, _) => format!("gate {uid} {gate}"),
    }
}

fn lifecycle_word(input: &LifecycleInput) -> String {
    match input {
        LifecycleInput::Add(pod, _) => format!("add {}", pod.uid),
        LifecycleInput::Shorten(uid, seconds) => format!("shorten {uid} {seconds}"),
        LifecycleInput::Remove(uid, None) => format!("remove {uid}"),
        LifecycleInput::Remove(uid, Some(seconds)) => format!("remove {uid} within {seconds}"),
        other => format!("{other:?}"),
    }
}

struct Bench {
    manager: Manager,
    shards: Vec<Arc<FakeShard>>,
    results: mpsc::Receiver<Input>,
    lifecycle: mpsc::Receiver<LifecycleInput>,
}

impl Bench {
    fn new(shards_len: usize, manages_containers: bool) -> Self {
        let shards: Vec<Arc<FakeShard>> = (0..shards_len).map(|_| FakeShard::with_room(1_000)).collect();
        let (results_in, results) = mpsc::channel(1_000);
        let (lifecycle_in, lifecycle) = mpsc::channel(1_000);
        let config = Config {
            shards: shards.iter().map(|shard| Arc::clone(shard) as Arc<dyn CommandSink>).collect(),
            results: results_in,
            lifecycle: Some(lifecycle_in),
            runtime: RuntimeFacts { manages_containers, is_external: false, pod_ip: None },
            state: State::default(),
            sources: Vec::new(),
        };
        Self { manager: Manager::new(config), shards, results, lifecycle }
    }

    async fn send(&mut self, update: PodUpdate) {
        assert!(self.manager.handle(update).await.is_ok(), "results listens");
        self.manager.flush();
    }

    async fn add(&mut self, pod: &Arc<Pod>) {
        self.send(PodUpdate::Add(Arc::clone(pod))).await;
    }

    async fn add_for_api(&mut self, pods: &[Arc<Pod>]) -> Vec<Result<Added, Refused>> {
        let (answer, answered) = oneshot::channel();
        self.send(PodUpdate::Api(ApiUpdate::Add(pods.to_vec(), answer))).await;
        answered.await.expect("the manager answers")
    }

    async fn end_for_api(&mut self, uid: &str, grace_seconds: Option<u64>) {
        let (answer, answered) = oneshot::channel();
        self.send(PodUpdate::Api(ApiUpdate::End(uid.into(), grace_seconds, answer))).await;
        answered.await.expect("the manager answers");
    }

    async fn desired(&mut self, uids: &[&str]) -> usize {
        let (answer, answered) = oneshot::channel();
        let uids = uids.iter().map(|uid| PodUid::from(*uid)).collect();
        self.send(PodUpdate::Api(ApiUpdate::Desired(uids, answer))).await;
        answered.await.expect("the manager answers")
    }

    fn taken(&self) -> Vec<String> {
        self.shards[0].take()
    }

    fn told_results(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.results.try_recv().ok()).map(|input| input_word(&input)).collect()
    }

    fn told_lifecycle(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.lifecycle.try_recv().ok()).map(|input| lifecycle_word(&input)).collect()
    }
}

fn three(uid: &str) -> Arc<Pod> {
    simple_pod(uid, &ProbeType::ALL)
}

fn pod_of(container: Container) -> Arc<Pod> {
    let main = crate::results::fixture::container("main", ContainerKind::Regular, &[]);
    pod("a", "a", [main, container])
}

#[tokio::test]
async fn m01_a_pod_without_probes_is_known_but_goes_to_no_shard() {
    let mut bench = Bench::new(1, false);
    bench.add(&simple_pod("a", &[])).await;
    assert_eq!(bench.told_results(), ["added a"]);
    assert!(bench.taken().is_empty());
}

#[tokio::test]
async fn without_a_runtime_an_annotation_names_the_network_namespace() {
    for (manages_containers, expected) in [(false, Some("/run/netns/a")), (true, None)] {
        let mut bench = Bench::new(1, manages_containers);
        let mut pod = (*three("a")).clone();
        pod.annotations = Arc::new([("probe-engine.io/netns".into(), "/run/netns/a".into())]);
        bench.add(&Arc::new(pod)).await;
        let Ok(Input::Added { status, .. }) = bench.results.try_recv() else { panic!("results hears of it first") };
        assert_eq!(status.and_then(|status| status.netns.clone()).as_deref(), expected);
    }
}

#[tokio::test]
async fn m02_three_probes_are_three_slots_startup_first() {
    let slots = slots_of(&three("a"));
    let types: Vec<ProbeType> = slots.iter().map(|slot| slot.probe_type).collect();
    assert_eq!(types, [ProbeType::Startup, ProbeType::Readiness, ProbeType::Liveness]);
    let mut bench = Bench::new(1, false);
    bench.add(&three("a")).await;
    assert_eq!(bench.taken(), ["add a 3"]);
}

#[tokio::test]
async fn m03_the_same_pod_again_changes_nothing() {
    let mut bench = Bench::new(1, false);
    bench.add(&three("a")).await;
    bench.add(&three("a")).await;
    assert_eq!(bench.taken(), ["add a 3"]);
    assert_eq!(bench.manager.shards[0].workers_len, 3);
}

#[tokio::test]
async fn m04_an_ordinary_init_container_has_no_slots() {
    let init = container("init", ContainerKind::Init, &ProbeType::ALL);
    assert!(slots_of(&pod_of(init)).is_empty());
}

#[tokio::test]
async fn m05_a_sidecar_has_three_slots() {
    let sidecar = container("sidecar", ContainerKind::Sidecar, &ProbeType::ALL);
    let slots = slots_of(&pod_of(sidecar));
    assert!(slots.len() == 3 && slots.iter().all(|slot| slot.container.as_str() == "sidecar"));
}

#[tokio::test]
async fn m06_removing_an_unknown_pod_or_one_without_probes_reaches_no_shard() {
    let mut bench = Bench::new(1, false);
    bench.add(&simple_pod("a", &[])).await;
    bench.send(PodUpdate::Remove(PodUid::from("b"), None)).await;
    bench.send(PodUpdate::Remove(PodUid::from("a"), None)).await;
    assert_eq!(bench.told_results(), ["added a", "removed a"]);
    assert!(bench.taken().is_empty());
}

#[tokio::test]
async fn m07_removing_a_pod_ends_its_workers_and_no_others() {
    let mut bench = Bench::new(1, false);
    bench.add(&three("a")).await;
    bench.add(&three("b")).await;
    bench.send(PodUpdate::Remove(PodUid::from("a"), None)).await;
    assert_eq!(bench.taken(), ["add a 3", "add b 3", "remove a"]);
    assert_eq!(bench.manager.shards[0].workers_len, 3);
}

#[tokio::test]
async fn m08_cleanup_ends_the_pods_that_are_not_desired() {
    let mut bench = Bench::new(1, false);
    bench.add(&three("of-manifest")).await;
    bench.add_for_api(&[three("a"), three("b")]).await;
    assert_eq!(bench.desired(&["a"]).await, 1, "those of the manifests are not concerned");
    assert_eq!(bench.taken(), ["add of-manifest 3", "add a 3", "add b 3", "remove b"]);
    assert_eq!(bench.desired(&["a", "of-manifest", "x"]).await, 0);
}

#[tokio::test]
async fn m11_stop_liveness_and_startup_goes_to_the_pods_shard() {
    let mut bench = Bench::new(1, true);
    bench.add(&three("a")).await;
    bench.send(PodUpdate::StopLivenessAndStartup(PodUid::from("a"))).await;
    assert_eq!(bench.taken(), ["add a 3", "stop a"]);
}

#[tokio::test]
async fn a_managed_pod_is_ended_by_lifecycle_and_forgotten_when_it_has_terminated() {
    let mut bench = Bench::new(1, true);
    bench.add(&three("a")).await;
    bench.send(PodUpdate::Remove(PodUid::from("a"), None)).await;
    bench.send(PodUpdate::Remove(PodUid::from("a"), None)).await;
    assert_eq!(bench.taken(), ["add a 3"], "readiness goes on");
    assert_eq!(bench.told_lifecycle(), ["add a", "remove a"]);
    bench.send(PodUpdate::Terminated(PodUid::from("a"))).await;
    assert_eq!(bench.taken(), ["remove a"]);
    assert_eq!(bench.told_results(), ["added a", "deleting a", "removed a"]);
}

#[tokio::test]
async fn without_a_runtime_containers_run_since_the_pod_was_added_and_init_containers_are_done() {
    let mut bench = Bench::new(1, false);
    let init = container("init", ContainerKind::Init, &[]);
    let status_pod = pod_of(init);
    bench.add(&status_pod).await;
    let Ok(Input::Added { status: Some(status), .. }) = bench.results.try_recv() else {
        panic!("results hears of the pod with a status");
    };
    let of = |name: &str| status.container(&ContainerName::from(name)).expect("it is there").clone();
    assert!(matches!(of("main").state, ContainerState::Running { .. }));
    assert!(matches!(of("init").state, ContainerState::Terminated(end) if end.exit_code == 0));
    let id = of("main").id.expect("an instance");
    assert!(id.as_str().starts_with("none://"));
    assert_eq!(status.phase, PodPhase::Running);
    assert!(bench.told_lifecycle().is_empty());
    // Those of a pod that comes back are other instances.
    bench.send(PodUpdate::Remove(status_pod.uid.clone(), None)).await;
    bench.add(&status_pod).await;
    let ids = std::iter::from_fn(|| bench.results.try_recv().ok()).find_map(|input| match input {
        Input::Added { status, .. } => status?.container(&"main".into())?.id.clone(),
        _ => None,
    });
    assert!(ids.is_some_and(|other| other != id));
}

#[tokio::test]
async fn another_pod_of_the_same_name_is_refused() {
    let mut bench = Bench::new(1, true);
    let of = |uid| pod(uid, "web", [container("c", ContainerKind::Regular, &ProbeType::ALL)]);
    bench.add(&of("old")).await;
    bench.add(&of("new")).await;
    assert_eq!(bench.told_results(), ["added old"]);
    bench.send(PodUpdate::Terminated(PodUid::from("old"))).await;
    assert_eq!(bench.told_results(), ["removed old"]);
}

#[tokio::test]
async fn a_pod_of_the_same_name_waits_while_the_old_one_terminates() {
    let mut bench = Bench::new(1, true);
    let of = |uid| pod(uid, "web", [container("c", ContainerKind::Regular, &ProbeType::ALL)]);
    bench.add(&of("old")).await;
    bench.send(PodUpdate::Remove(PodUid::from("old"), None)).await;
    bench.add(&of("new")).await;
    assert_eq!(bench.told_results(), ["added old", "deleting old"]);
    bench.send(PodUpdate::Terminated(PodUid::from("old"))).await;
    assert_eq!(bench.told_results(), ["removed old", "added new"]);
    assert_eq!(bench.told_lifecycle(), ["add old", "remove old", "add new"]);
}

#[tokio::test]
async fn a_pod_that_comes_back_under_its_uid_while_it_terminates_starts_again_afterwards() {
    let mut bench = Bench::new(1, true);
    bench.add(&three("a")).await;
    bench.send(PodUpdate::Remove(PodUid::from("a"), None)).await;
    bench.add(&three("a")).await;
    bench.send(PodUpdate::Terminated(PodUid::from("a"))).await;
    assert_eq!(bench.told_results(), ["added a", "deleting a", "removed a", "added a"]);
}

#[tokio::test]
async fn one_pod_may_wait_for_the_name_and_another_for_the_uid_of_the_same() {
    let mut bench = Bench::new(1, true);
    let of = |uid, name| pod(uid, name, [container("c", ContainerKind::Regular, &ProbeType::ALL)]);
    bench.add(&of("1", "a")).await;
    bench.send(PodUpdate::Remove(PodUid::from("1"), None)).await;
    bench.add(&of("2", "a")).await;
    bench.add(&of("1", "b")).await;
    bench.send(PodUpdate::Terminated(PodUid::from("1"))).await;
    assert_eq!(bench.told_results(), ["added 1", "deleting 1", "removed 1", "added 2", "added 1"]);
}

#[tokio::test]
async fn two_pods_that_swap_their_uids_both_come_back() {
    let mut bench = Bench::new(1, true);
    let of = |uid, name| pod(uid, name, [container("c", ContainerKind::Regular, &ProbeType::ALL)]);
    bench.add(&of("1", "a")).await;
    bench.add(&of("2", "b")).await;
    bench.send(PodUpdate::Remove(PodUid::from("1"), None)).await;
    bench.send(PodUpdate::Remove(PodUid::from("2"), None)).await;
    bench.add(&of("2", "a")).await;
    bench.add(&of("1", "b")).await;
    bench.send(PodUpdate::Terminated(PodUid::from("1"))).await;
    bench.send(PodUpdate::Terminated(PodUid::from("2"))).await;
    let told = bench.told_results();
    assert_eq!(told[told.len() - 2..], ["added 1", "added 2"], "{told:?}");
}

#[tokio::test]
async fn a_waiting_pod_that_is_removed_never_comes() {
    let mut bench = Bench::new(1, true);
    bench.add(&three("a")).await;
    bench.send(PodUpdate::Remove(PodUid::from("a"), None)).await;
    bench.add(&three("a")).await;
    bench.send(PodUpdate::Remove(PodUid::from("a"), None)).await;
    bench.send(PodUpdate::Terminated(PodUid::from("a"))).await;
    assert_eq!(bench.told_results(), ["added a", "deleting a", "removed a"]);
}

#[tokio::test]
async fn pods_go_to_the_shard_with_the_fewest_workers() {
    let mut bench = Bench::new(2, false);
    bench.add(&three("a")).await;
    bench.add(&simple_pod("b", &[ProbeType::Liveness])).await;
    bench.add(&simple_pod("c", &[ProbeType::Liveness])).await;
    bench.send(PodUpdate::Remove(PodUid::from("a"), None)).await;
    bench.add(&simple_pod("d", &[ProbeType::Liveness])).await;
    assert_eq!(bench.shards[0].take(), ["add a 3", "remove a", "add d 1"]);
    assert_eq!(bench.shards[1].take(), ["add b 1", "add c 1"]);
}

#[tokio::test]
async fn a_status_and_a_trigger_reach_results_and_the_shard_in_order() {
    let mut bench = Bench::new(1, true);
    let pod = three("a");
    bench.add(&pod).await;
    bench.send(PodUpdate::Status(pod.uid.clone(), Arc::new(running(&pod, "fake://1")))).await;
    bench.send(PodUpdate::Status(PodUid::from("gone"), Arc::new(running(&pod, "fake://1")))).await;
    bench.send(PodUpdate::Trigger(pod.uid.clone(), ContainerName::from("c"), ProbeType::Liveness)).await;
    bench.send(PodUpdate::Synced { source: "manifests", is_whole: true }).await;
    assert_eq!(bench.taken(), ["add a 3", "status a", "trigger a c Liveness"]);
    assert_eq!(bench.told_results(), ["added a", "status a", "synced manifests"]);
}

#[tokio::test]
async fn a_full_shard_keeps_its_order_and_does_not_hold_up_the_other() {
    let mut bench = Bench::new(2, false);
    bench.shards[0].room.store(0, Ordering::Relaxed);
    for uid in ["a", "b", "c", "d"] {
        bench.add(&three(uid)).await;
    }
    assert_eq!(bench.shards[1].take(), ["add b 3", "add d 3"]);
    bench.send(PodUpdate::Trigger(PodUid::from("a"), ContainerName::from("c"), ProbeType::Liveness)).await;
    assert!(bench.shards[0].take().is_empty() && bench.manager.has_backlog());
    bench.shards[0].room.store(10, Ordering::Relaxed);
    bench.manager.flush();
    assert_eq!(bench.shards[0].take(), ["add a 3", "add c 3", "trigger a c Liveness"]);
}

#[tokio::test]
async fn a_full_backlog_holds_the_sources_until_the_shard_takes_again() {
    let Bench { manager, shards, results: _results, lifecycle: _lifecycle } = Bench::new(1, false);
    shards[0].room.store(1, Ordering::Relaxed);
    let (updates_in, updates) = mpsc::channel(1);
    let running = tokio::spawn(manager.run(updates, std::future::pending()));
    updates_in.send(PodUpdate::Add(three("a"))).await.expect("it runs");
    let trigger = || PodUpdate::Trigger(PodUid::from("a"), ContainerName::from("c"), ProbeType::Liveness);
    for _ in 0..=limits::MANAGER_BACKLOG_LEN_MAX {
        updates_in.send(trigger()).await.expect("it runs");
    }
    // The backlog and the channel are full now, and stay so while the shard takes nothing.
    assert!(updates_in.try_send(trigger()).is_err());
    shards[0].room.store(usize::MAX, Ordering::Relaxed);
    tokio::time::timeout(SOON, updates_in.send(trigger())).await.expect("in time").expect("it runs");
    drop(updates_in);
    tokio::time::timeout(SOON, running).await.expect("in time").expect("no panic");
    assert_eq!(shards[0].take().len(), limits::MANAGER_BACKLOG_LEN_MAX + 3);
}

#[tokio::test]
async fn a_lifecycle_that_takes_nothing_does_not_stop_the_manager() {
    let mut bench = Bench::new(1, true);
    let (full_in, mut full) = mpsc::channel(1);
    bench.manager.lifecycle = Some(full_in);
    for uid in ["a", "b", "c"] {
        bench.add(&three(uid)).await;
    }
    assert_eq!(bench.told_results(), ["added a", "added b", "added c"]);
    let mut heard = Vec::new();
    for _ in 0..3 {
        heard.push(lifecycle_word(&full.recv().await.expect("it is kept")));
        bench.manager.flush();
    }
    assert_eq!(heard, ["add a", "add b", "add c"]);
}

#[tokio::test]
async fn a_shard_that_has_ended_is_let_go() {
    struct Ended;
    impl CommandSink for Ended {
        fn send(&self, command: Command) -> Result<(), Command> {
            Err(command)
        }
        fn is_closed(&self) -> bool {
            true
        }
    }
    let mut bench = Bench::new(1, false);
    bench.manager.shards[0].sink = Arc::new(Ended);
    bench.add(&three("a")).await;
    assert!(!bench.manager.has_backlog());
}

#[tokio::test]
async fn a_batch_is_told_in_its_order_and_what_results_has_no_room_for_waits() {
    let mut bench = Bench::new(1, false);
    // More than the channel to results holds.
    let len = 2_500;
    let mut batch: Vec<PodUpdate> = (0..len).map(|i| PodUpdate::Add(three(&format!("p{i}")))).collect();
    batch.push(PodUpdate::Remove("p7".into(), None));
    let mut results = std::mem::replace(&mut bench.results, mpsc::channel(1).1);
    let told = tokio::spawn(async move {
        let mut told = Vec::new();
        while told.len() <= len {
            told.push(input_word(&results.recv().await.expect("the manager tells")));
        }
        told
    });
    bench.shards[0].room.store(5_000, Ordering::Relaxed);
    assert!(bench.manager.handle_batch(&mut batch).await.is_ok() && batch.is_empty());
    let told = told.await.expect("no panic");
    assert!(told.iter().take(len).enumerate().all(|(i, word)| *word == format!("added p{i}")));
    assert_eq!(told[len], "removed p7");
    let taken = bench.taken();
    assert!(taken.iter().take(len).enumerate().all(|(i, word)| *word == format!("add p{i} 3")));
    assert_eq!(taken[len..], ["remove p7"]);
    assert_eq!((bench.manager.pods.len(), bench.manager.pods.names_len()), (len - 1, len - 1));
    assert_eq!(bench.manager.shards[0].workers_len, (len - 1) * 3);
}

#[tokio::test]
async fn a_shorter_grace_is_told_once_and_leaves_who_waits_alone() {
    let mut bench = Bench::new(1, true);
    bench.add(&three("a")).await;
    bench.send(PodUpdate::Shorten(PodUid::from("a"), 5)).await;
    assert_eq!(bench.told_lifecycle(), ["add a"], "it is to run");
    bench.send(PodUpdate::Remove(PodUid::from("a"), None)).await;
    bench.add(&three("a")).await;
    for seconds in [20, 30, 0] {
        bench.send(PodUpdate::Shorten(PodUid::from("a"), seconds)).await;
    }
    bench.send(PodUpdate::Remove(PodUid::from("b"), Some(1))).await;
    assert_eq!(bench.told_lifecycle(), ["remove a", "shorten a 20", "shorten a 0"]);
    bench.send(PodUpdate::Terminated(PodUid::from("a"))).await;
    assert_eq!(bench.told_lifecycle(), ["add a"], "the one that waited");
}

#[tokio::test]
async fn a_source_ends_its_own_pods_only() {
    let mut bench = Bench::new(1, true);
    bench.add(&three("a")).await;
    assert_eq!(bench.add_for_api(&[three("b")]).await, [Ok(Added::New)]);
    bench.told_lifecycle();
    bench.end_for_api("a", None).await;
    bench.send(PodUpdate::Remove(PodUid::from("b"), None)).await;
    assert!(bench.told_lifecycle().is_empty());
    bench.end_for_api("b", Some(5)).await;
    bench.end_for_api("b", Some(2)).await;
    bench.end_for_api("b", Some(9)).await;
    bench.send(PodUpdate::Remove(PodUid::from("a"), None)).await;
    assert_eq!(bench.told_lifecycle(), ["remove b within 5", "shorten b 2", "remove a"]);
}

#[tokio::test]
async fn a_pod_of_the_api_whose_place_is_taken_is_refused_and_waits_for_nobody() {
    let mut bench = Bench::new(1, true);
    let of = |uid, name| pod(uid, name, [container("c", ContainerKind::Regular, &[])]);
    bench.add(&of("1", "a")).await;
    let answers =
        bench.add_for_api(&[of("2", "b"), of("2", "b"), of("2", "c"), of("3", "b"), of("1", "a"), of("4", "a")]).await;
    let named = |uid: &str, pod: &str, from| Refused::NameTaken { pod: pod.to_owned(), uid: uid.to_owned(), from };
    assert_eq!(
        answers,
        [
            Ok(Added::New),
            Ok(Added::Known),
            Err(Refused::UidTaken { holder: "default/b".to_owned(), uid: "2".to_owned() }),
            Err(named("2", "default/b", "api")),
            Err(named("1", "default/a", "manifests")),
            Err(named("1", "default/a", "manifests")),
        ]
    );
    bench.end_for_api("2", None).await;
    let ending = Refused::Ending { pod: "default/b".to_owned(), uid: "2".to_owned() };
    let again = bench.add_for_api(&[of("2", "b"), of("3", "b")]).await;
    assert_eq!(again, [Err(ending.clone()), Err(ending)]);
    bench.send(PodUpdate::Terminated(PodUid::from("2"))).await;
    assert_eq!(bench.told_results(), ["added 1", "added 2", "deleting 2", "removed 2"]);
    assert_eq!(bench.desired(&[]).await, 0, "one that is being ended is not ended again");
}

#[tokio::test]
async fn a_pod_of_a_manifest_waits_for_the_place_that_one_of_the_api_has() {
    let mut bench = Bench::new(1, false);
    let of = |uid| pod(uid, "web", [container("c", ContainerKind::Regular, &[])]);
    bench.add_for_api(&[of("api")]).await;
    bench.add(&of("manifest")).await;
    bench.add(&of("api")).await;
    assert_eq!(bench.told_results(), ["added api"]);
    // The one of its own UID is not what its manifest's end takes away.
    bench.send(PodUpdate::Remove(PodUid::from("api"), None)).await;
    assert!(bench.told_results().is_empty());
    bench.end_for_api("api", None).await;
    assert_eq!(bench.told_results(), ["removed api", "added manifest"]);
}

#[tokio::test]
async fn with_somebody_else_as_the_runtime_nothing_is_known_of_a_pod_before_it_is_told_and_it_goes_at_once() {
    let mut bench = Bench::new(1, false);
    bench.manager.runtime.is_external = true;
    let pod = three("a");
    bench.add_for_api(&[Arc::clone(&pod)]).await;
    let Ok(Input::Added { status: None, source: SourceKind::Api, .. }) = bench.results.try_recv() else {
        panic!("results hears of the pod without a status");
    };
    let (answer, answered) = oneshot::channel();
    let status = Arc::new(running(&pod, "cri://1"));
    bench.send(PodUpdate::Api(ApiUpdate::Status(pod.uid.clone(), status, answer))).await;
    answered.await.expect("the manager answers");
    bench.end_for_api("a", Some(30)).await;
    assert_eq!(bench.taken(), ["add a 3", "status a", "remove a"]);
    assert_eq!(bench.told_results(), ["status a", "removed a"]);
}

#[tokio::test]
async fn what_a_daemon_before_knew_is_forgotten_only_when_every_source_has_been_read() {
    let mut bench = Bench::new(1, false);
    bench.manager.unsynced = vec!["manifests", "api"];
    for (source, is_whole) in [("manifests", false), ("api", true)] {
        bench.send(PodUpdate::Synced { source, is_whole }).await;
    }
    assert_eq!(bench.told_results(), ["synced manifests", "untaken 0", "synced api"]);
}

#[tokio::test]
async fn a_pause_is_told_to_results_and_then_to_the_pods_shard() {
    let mut bench = Bench::new(1, false);
    bench.add(&three("a")).await;
    bench.told_results();
    bench.taken();
    let pause = Arc::new(crate::results::fixture::pause(true));
    bench.send(PodUpdate::Pause("a".into(), Arc::clone(&pause), None)).await;
    assert_eq!((bench.told_results(), bench.taken()), (vec!["pause a".to_owned()], vec!["pause a".to_owned()]));
    bench.send(PodUpdate::Pause("b".into(), pause, None)).await;
    assert!(bench.taken().is_empty(), "of a pod that is gone no shard hears");
}

#[tokio::test]
async fn a_pause_goes_on_over_a_restart_of_the_daemon_whoever_runs_the_pods() {
    let until = clock::wall().checked_add(jiff::SignedDuration::from_secs(3_600)).expect("in range");
    let paused = crate::state::PauseState {
        container: "c".to_owned(),
        probe_type: 2,
        since_ns: 0,
        until_ns: i64::try_from(until.as_nanosecond()).expect("this century"),
    };
    let past = PodState { uid: "a".to_owned(), pauses: vec![paused], ..PodState::default() };
    for manages_containers in [true, false] {
        let mut bench = Bench::new(1, manages_containers);
        let mut writer = crate::state::Writer::default();
        writer.push(&past);
        let content = writer.finish(&crate::state::Whole::default()).to_bytes();
        bench.manager.state = State::parse(content).expect("a state");
        bench.add(&three("a")).await;
        let Ok(Input::Added { slots, .. }) = bench.results.try_recv() else { panic!("results hears of it first") };
        let until = slots.iter().map(|slot| slot.paused.map(|paused| paused.until)).collect::<Vec<_>>();
        assert_eq!(until, [None, None, Some(until_ns(&past))], "its containers have another definition, and still");
    }
    fn until_ns(past: &PodState) -> crate::results::WallNs {
        let at = jiff::Timestamp::from_nanosecond(past.pauses[0].until_ns.into()).expect("in range");
        at.into()
    }
}

#[tokio::test]
async fn it_ends_when_it_is_told_to_whoever_holds_a_sender_and_takes_what_was_sent_before() {
    let Bench { manager, shards, results: _results, lifecycle: _lifecycle } = Bench::new(1, false);
    let (updates_in, updates) = mpsc::channel(4);
    updates_in.send(PodUpdate::Add(three("a"))).await.expect("room");
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(manager.run(updates, async {
        let _ = ended.await;
    }));
    end.send(()).expect("it runs");
    tokio::time::timeout(SOON, running).await.expect("in time").expect("no panic");
    assert_eq!(shards[0].take(), ["add a 3"]);
    assert!(updates_in.is_closed());
}
