//! From a results stage into a file, and through a manager into the next one.

use probe_core::id::{PodUid, ProbeType};
use probe_core::outcome::Verdict;
use probe_core::pod::ConditionStatus;
use probe_core::spec::Pod;
use probe_core::time::Instant;
use tokio::sync::mpsc;

use super::*;
use crate::manager::{self, CommandSink, RuntimeFacts};
use crate::results::fixture::{Bench, SOON, publish, running, simple_pod};
use crate::results::{Input, PodRecord, ProbeStats};
use crate::shard::inbox::Command;
use crate::source::PodUpdate;
use crate::state::State;

/// A shard that takes all and does nothing.
#[derive(Debug, Default)]
struct Sink;

impl CommandSink for Sink {
    fn send(&self, _: Command) -> Result<(), Command> {
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
    let (results, mut inputs) = mpsc::channel(16);
    let (updates, updates_in) = mpsc::channel(16);
    let config = manager::Config {
        shards: vec![Arc::new(Sink)],
        results,
        lifecycle: None,
        runtime: RuntimeFacts { manages_containers: false, pod_ip: None },
        state,
    };
    updates.send(update).await.expect("room");
    drop(updates);
    manager::run(config, updates_in).await;
    std::iter::from_fn(|| inputs.try_recv().ok()).collect()
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
