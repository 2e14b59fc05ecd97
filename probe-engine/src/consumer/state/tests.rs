//! From a results stage into a file, and through a manager into the next one.

use std::sync::Mutex;

use probe_core::id::{PodUid, ProbeType};
use probe_core::outcome::Verdict;
use probe_core::pod::ConditionStatus;
use probe_core::spec::Pod;
use probe_core::status::PodPhase;
use probe_core::time::Instant;
use tokio::sync::mpsc;

use super::*;
use crate::manager::{self, CommandSink, RuntimeFacts};
use crate::results::fixture::{Bench, SOON, publish, running, simple_pod};
use crate::results::{Input, PodRecord, ProbeStats};
use crate::shard::inbox::Command;
use crate::source::api::{self, ApiUpdate};
use crate::source::{PodUpdate, manifest};
use crate::state::State;

/// A shard that takes all and does nothing.
#[derive(Debug, Default)]
struct Sink(Mutex<Vec<Command>>);

impl CommandSink for Sink {
    fn send(&self, command: Command) -> Result<(), Command> {
        self.0.lock().expect("no panic").push(command);
        Ok(())
    }

    fn is_closed(&self) -> bool {
        false
    }
}

async fn content(bench: &Bench) -> Vec<u8> {
    let keeper = Keeper {
        directory: PathBuf::new(),
        results: bench.results.clone(),
        stats: Arc::default(),
        written: None,
        is_told: false,
    };
    keeper.collect().await.expect("the stage runs").finish(&Whole::default()).to_bytes()
}

/// What a manager with this state and without a runtime tells results of such an update.
async fn told(state: State, update: PodUpdate) -> Vec<Input> {
    let runtime = RuntimeFacts { manages_containers: false, is_external: false, pod_ip: None };
    told_with(runtime, &[manifest::NAME], state, vec![update]).await.0
}

/// What such a manager tells results and its shard.
async fn told_with(
    runtime: RuntimeFacts,
    sources: &[&'static str],
    state: State,
    all: Vec<PodUpdate>,
) -> (Vec<Input>, Vec<Command>) {
    let sink = Arc::<Sink>::default();
    let (results, mut inputs) = mpsc::channel(16);
    let (updates, updates_in) = mpsc::channel(16);
    let config = manager::Config {
        shards: vec![Arc::clone(&sink) as Arc<dyn CommandSink>],
        results,
        lifecycle: None,
        runtime,
        state,
        sources: sources.to_vec(),
    };
    for update in all {
        updates.send(update).await.expect("room");
    }
    drop(updates);
    manager::run(config, updates_in, std::future::pending()).await;
    let commands = std::mem::take(&mut *sink.0.lock().expect("no panic"));
    (std::iter::from_fn(|| inputs.try_recv().ok()).collect(), commands)
}

/// The same of a pod that it hears of.
async fn added(state: State, pod: &Arc<Pod>) -> Input {
    told(state, PodUpdate::Add(Arc::clone(pod))).await.into_iter().next().expect("the pod is told")
}

async fn stats(bench: &Bench, probe_type: ProbeType) -> Arc<ProbeStats> {
    let record = record(bench).await;
    let probe = record.probes.iter().find(|probe| probe.probe_type == probe_type).expect("the probe");
    Arc::clone(&probe.stats)
}

async fn record(bench: &Bench) -> PodRecord {
    bench.results.read(|node| node.pods.get(&PodUid::from("uid-1")).cloned()).await.expect("it runs").expect("the pod")
}

#[tokio::test]
async fn a_daemon_that_starts_again_goes_on_with_verdicts_runs_and_conditions_and_nothing_flaps() {
    let mut pod = (*simple_pod("uid-1", &ProbeType::ALL)).clone();
    pod.readiness_gates = Box::new(["example.com/lb".into()]);
    let pod = Arc::new(pod);
    let bench = Bench::start(16, 16);
    bench.add(&pod, Some(running(&pod, "none://0"))).await;
    bench.input(Input::Gate("uid-1".into(), "example.com/lb".into(), Some(ConditionStatus::True))).await;
    for (probe_type, verdict) in [
        (ProbeType::Startup, Verdict::Success),
        (ProbeType::Readiness, Verdict::Success),
        (ProbeType::Liveness, Verdict::Failure),
    ] {
        bench.push(publish("uid-1", probe_type, "none://0", Some(verdict)));
    }
    stats(&bench, ProbeType::Readiness).await.record(false, 1, 1, 2);
    stats(&bench, ProbeType::Liveness).await.record(false, 1, 1, 3);
    let before = record(&bench).await;
    assert!(before.is_ready());

    let state = State::parse(content(&bench).await).expect("a state");
    let next = Bench::start(16, 16);
    let told = added(state, &pod).await;
    let Input::Added { status: Some(status), slots, .. } = &told else { panic!("{told:?}") };
    let memory = |probe_type| {
        let slot = slots.iter().find(|slot| slot.probe_type == probe_type).expect("a slot");
        slot.past.expect("its past").memory
    };
    assert_eq!(memory(ProbeType::Readiness).run(), (false, 2));
    assert_eq!(memory(ProbeType::Liveness).verdict(), Verdict::Failure);
    let started_at = match status.containers[0].state {
        probe_core::status::ContainerState::Running { started_at } => started_at,
        _ => Instant::ZERO,
    };
    assert!(clock::now() - started_at < Duration::from_secs(60) && started_at <= clock::now());
    next.input(told).await;
    let after = record(&next).await;
    assert!(after.is_ready(), "at once, before any attempt");
    assert_eq!((after.since, after.added_at), (before.since, before.added_at));
    let probes = |record: &PodRecord| -> Vec<_> {
        record.probes.iter().map(|probe| (probe.probe_type, probe.verdict_of_newest(), probe.verdict_since())).collect()
    };
    assert_eq!(probes(&after), probes(&before));
    assert_eq!(after.probes[1].stats.run(), 2);
    assert_eq!(content(&next).await, content(&bench).await, "and the file stays as it is");
}

#[tokio::test]
async fn of_a_container_with_another_definition_nothing_is_kept() {
    let pod = simple_pod("uid-1", &[ProbeType::Readiness]);
    let bench = Bench::start(16, 16);
    bench.add(&pod, Some(running(&pod, "none://0"))).await;
    bench.push(publish("uid-1", ProbeType::Readiness, "none://0", Some(Verdict::Success)));
    assert!(record(&bench).await.is_ready());
    let state = State::parse(content(&bench).await).expect("a state");
    let mut other = (*pod).clone();
    Arc::make_mut(&mut other.containers)[0].spec_hash = 1;
    let begun = clock::now();
    let told = added(state, &Arc::new(other)).await;
    let Input::Added { slots, status: Some(status), past, .. } = &told else { panic!("{told:?}") };
    assert_eq!((slots[0].past, past), (None, &None));
    let probe_core::status::ContainerState::Running { started_at } = status.containers[0].state else {
        panic!("it runs")
    };
    assert!(started_at >= begun, "another definition is another instance");
}

#[tokio::test]
async fn the_file_is_written_in_time_and_once_more_at_the_end() {
    let directory = tempfile::tempdir().expect("a directory");
    let pod = simple_pod("uid-1", &[ProbeType::Readiness]);
    let bench = Bench::start(16, 16);
    let (end, ending) = watch::channel(false);
    let stats: Arc<StateStats> = Arc::default();
    let config = Config { directory: directory.path().to_owned(), interval: Duration::from_millis(20) };
    let keeper = run(config, bench.results.clone(), Arc::clone(&stats), ending);
    let keeper = tokio::spawn(keeper);
    bench.add(&pod, Some(running(&pod, "none://0"))).await;
    bench.input(Input::Synced("manifests")).await;
    let begun = tokio::time::Instant::now();
    while State::read(directory.path()).is_empty() {
        assert!(begun.elapsed() < SOON);
        // tidy: a file gives no event here
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bench.push(publish("uid-1", ProbeType::Readiness, "none://0", Some(Verdict::Success)));
    assert!(record(&bench).await.is_ready());
    end.send_replace(true);
    keeper.await.expect("it ends");
    let kept = State::read(directory.path()).take(&"uid-1".into()).expect("the pod");
    assert_eq!(kept.conditions[2].status(), ConditionStatus::True);
    assert_eq!(stats.errors.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_directory_that_is_gone_is_counted_and_does_not_end_it() {
    let directory = tempfile::tempdir().expect("a directory").path().to_owned();
    let bench = Bench::start(16, 16);
    let mut keeper = Keeper {
        directory: directory.clone(),
        results: bench.results.clone(),
        stats: Arc::default(),
        written: None,
        is_told: false,
    };
    keeper.keep().await.expect("the stage runs");
    assert_eq!(keeper.stats.errors.load(Ordering::Relaxed), 0, "as long as not all pods are known nothing is written");
    bench.input(Input::Synced("manifests")).await;
    keeper.keep().await.expect("the stage runs");
    keeper.keep().await.expect("the stage runs");
    assert_eq!((keeper.stats.errors.load(Ordering::Relaxed), keeper.is_told), (2, true));
    std::fs::create_dir(&directory).expect("a directory");
    keeper.keep().await.expect("the stage runs");
    assert_eq!((keeper.stats.errors.load(Ordering::Relaxed), keeper.is_told), (2, false));
    std::fs::remove_dir_all(&directory).expect("it was there");
}

#[tokio::test]
async fn what_could_not_be_read_at_the_start_stays_in_the_file_and_what_is_not_wanted_goes() {
    let pod = simple_pod("uid-1", &[ProbeType::Readiness]);
    let bench = Bench::start(16, 16);
    bench.add(&pod, Some(running(&pod, "none://0"))).await;
    let before = content(&bench).await;
    for is_whole in [true, false] {
        let state = State::parse(before.clone()).expect("a state");
        let next = Bench::start(16, 16);
        for input in told(state, PodUpdate::Synced { source: "manifests", is_whole }).await {
            next.input(input).await;
        }
        let kept = State::parse(content(&next).await).expect("a state").take(&"uid-1".into());
        assert_eq!(kept.is_some(), !is_whole);
    }
}

const EXTERNAL: RuntimeFacts = RuntimeFacts { manages_containers: false, is_external: true, pod_ip: None };

const BOTH: [&str; 2] = [manifest::NAME, api::NAME];

fn api_add(pod: &Arc<Pod>) -> PodUpdate {
    PodUpdate::Api(ApiUpdate::Add(vec![Arc::clone(pod)], tokio::sync::oneshot::channel().0))
}

fn synced(source: &'static str) -> PodUpdate {
    PodUpdate::Synced { source, is_whole: true }
}

/// A stage that knows of a pod of an embedder: ready, its liveness one failure short of its threshold.
async fn embedded(pod: &Arc<Pod>) -> Bench {
    let bench = Bench::start_with(&BOTH);
    bench.add(pod, None).await;
    bench.input(Input::Status("uid-1".into(), Arc::new(running(pod, "cri://1")))).await;
    for probe_type in [ProbeType::Startup, ProbeType::Readiness, ProbeType::Liveness] {
        bench.push(publish("uid-1", probe_type, "cri://1", Some(Verdict::Success)));
    }
    stats(&bench, ProbeType::Liveness).await.record(false, 1, 1, 2);
    assert!(record(&bench).await.is_ready());
    bench
}

#[tokio::test]
async fn instances_that_outlived_the_daemon_go_on_with_the_first_status_that_names_them_and_nothing_flaps() {
    let pod = simple_pod("uid-1", &ProbeType::ALL);
    let bench = embedded(&pod).await;
    let before = record(&bench).await;
    let state = State::parse(content(&bench).await).expect("a state");

    let same = Arc::new(running(&pod, "cri://1"));
    // The manifests, of which there are none, have been read long before the first SyncPods.
    let updates = vec![
        synced(manifest::NAME),
        api_add(&pod),
        synced(api::NAME),
        PodUpdate::Status("uid-1".into(), Arc::clone(&same)),
        PodUpdate::Status("uid-1".into(), same),
    ];
    let (inputs, commands) = told_with(EXTERNAL, &BOTH, state, updates).await;
    let remembered: Vec<_> = commands
        .iter()
        .filter_map(|command| match command {
            Command::Status { remembered, .. } => Some(remembered.iter().map(|of| (of.probe_type, of.memory.run()))),
            _ => None,
        })
        .map(Iterator::collect::<Vec<_>>)
        .collect();
    assert_eq!(remembered[0][2], (ProbeType::Liveness, (false, 2)));
    assert_eq!((remembered[0].len(), remembered[1].len()), (3, 0), "once");

    let next = Bench::start_with(&BOTH);
    let shown = |record: &PodRecord| (record.is_ready(), record.phase, record.since, record.added_at);
    for input in inputs {
        let is_about_the_pod = matches!(input, Input::Added { .. } | Input::Status(..));
        next.input(input).await;
        if is_about_the_pod {
            assert_eq!(shown(&record(&next).await), shown(&before));
            assert_eq!(next.restarts().await, 0);
        }
    }
    let probes = |record: &PodRecord| -> Vec<_> {
        record.probes.iter().map(|probe| (probe.probe_type, probe.verdict_of_newest(), probe.verdict_since())).collect()
    };
    assert_eq!(probes(&record(&next).await), probes(&before));
}

#[tokio::test]
async fn a_kill_between_the_pods_and_their_states_loses_nothing() {
    let pod = simple_pod("uid-1", &ProbeType::ALL);
    let bench = embedded(&pod).await;
    let first = content(&bench).await;
    let state = State::parse(first.clone()).expect("a state");
    let (inputs, _) = told_with(EXTERNAL, &BOTH, state, vec![api_add(&pod)]).await;
    let next = Bench::start_with(&BOTH);
    for input in inputs {
        next.input(input).await;
    }
    assert_eq!(record(&next).await.phase, PodPhase::Running);
    assert_eq!(content(&next).await, first);
}

#[tokio::test]
async fn another_instance_begins_anew_whatever_was_known_of_the_one_before() {
    let pod = simple_pod("uid-1", &ProbeType::ALL);
    let state = State::parse(content(&embedded(&pod).await).await).expect("a state");
    // Started so long ago that the kubelet's rule 2.5 would let it inherit.
    let mut other = running(&pod, "cri://2");
    for container in &mut other.containers {
        container.state = probe_core::status::ContainerState::Running { started_at: Instant::ZERO };
    }
    let updates = vec![api_add(&pod), PodUpdate::Status("uid-1".into(), Arc::new(other))];
    let (inputs, commands) = told_with(EXTERNAL, &BOTH, state, updates).await;
    assert!(
        commands.iter().all(|command| !matches!(command, Command::Status { remembered, .. } if !remembered.is_empty()))
    );
    let next = Bench::start_with(&BOTH);
    for input in inputs {
        next.input(input).await;
    }
    let record = record(&next).await;
    assert!(!record.is_ready() && record.probes.iter().all(|probe| probe.verdict_of_newest().is_none()));
}

#[tokio::test]
async fn a_runtime_whose_instances_end_with_the_daemon_makes_nothing_of_those_that_outlived_it() {
    let pod = simple_pod("uid-1", &ProbeType::ALL);
    let state = State::parse(content(&embedded(&pod).await).await).expect("a state");
    let process = RuntimeFacts { manages_containers: true, ..EXTERNAL };
    let process = RuntimeFacts { is_external: false, ..process };
    let (inputs, _) = told_with(process, &[manifest::NAME], state, vec![PodUpdate::Add(Arc::clone(&pod))]).await;
    let next = Bench::start(16, 16);
    for input in inputs {
        next.input(input).await;
    }
    let record = record(&next).await;
    assert_eq!((record.is_ready(), record.phase), (false, PodPhase::Pending));
}

#[tokio::test]
async fn what_is_of_pods_that_come_with_a_later_source_is_kept_until_that_has_been_read() {
    let pod = simple_pod("uid-1", &ProbeType::ALL);
    let state = || async { State::parse(content(&embedded(&pod).await).await).expect("a state") };
    let other = simple_pod("uid-2", &[ProbeType::Readiness]);
    for (sources, is_kept) in [(vec![manifest::NAME], true), (BOTH.to_vec(), false)] {
        let mut updates: Vec<PodUpdate> = sources.into_iter().map(synced).collect();
        updates.extend([api_add(&other), api_add(&pod)]);
        let (inputs, _) = told_with(EXTERNAL, &BOTH, state().await, updates).await;
        let past = inputs.iter().find_map(|input| match input {
            Input::Added { pod, past, .. } if pod.uid.as_str() == "uid-1" => Some(past.is_some()),
            _ => None,
        });
        assert_eq!(past, Some(is_kept));
    }
}
