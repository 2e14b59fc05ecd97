use std::sync::Arc;
use std::time::Duration;

use probe_core::action::{LocalTooLong, PublishCause, WorkerIndex};
use probe_core::id::{ContainerName, PodUid, ProbeKey, ProbeType};
use probe_core::outcome::{LocalCause, Outcome, Verdict};
use probe_core::pod::ConditionStatus;
use probe_core::status::{PodPhase, PodStatus};

use super::fixture::{Bench, SOON, publish, publish_because, report, running, simple_pod};
use super::{Input, ResultsError, Update};
use crate::clock;
use crate::consumer::events::EventType;
use crate::consumer::lifecycle::LifecycleInput;
use crate::consumer::status;
use crate::limits;
use crate::manager::slots_of;
use crate::shard::metrics::{HandlerKind, OutcomeKind, ShardMetrics};
use crate::source::SourceKind;

const ID: &str = "fake://1";

async fn bench_of(probes: &[ProbeType]) -> Bench {
    let bench = Bench::start(16, 16);
    let pod = simple_pod("a", probes);
    bench.add(&pod, Some(running(&pod, ID))).await;
    bench
}

fn key(probe_type: ProbeType) -> ProbeKey {
    ProbeKey { pod: PodUid::from("a"), container: ContainerName::from("c"), probe_type }
}

#[tokio::test]
async fn r01_a_new_verdict_is_stored_and_told_once() {
    let bench = bench_of(&[ProbeType::Readiness]).await;
    let before = bench.revision().await;
    bench.push(publish("a", ProbeType::Readiness, ID, Some(Verdict::Success)));
    assert_eq!(bench.verdict("a", ProbeType::Readiness).await, Some(Verdict::Success));
    assert_ne!(bench.revision().await, before);
}

#[tokio::test]
async fn r02_the_same_verdict_again_changes_nothing() {
    let bench = bench_of(&[ProbeType::Readiness]).await;
    bench.push(publish("a", ProbeType::Readiness, ID, Some(Verdict::Success)));
    let before = bench.revision().await;
    bench.push(publish("a", ProbeType::Readiness, ID, Some(Verdict::Success)));
    assert_eq!(bench.revision().await, before);
}

#[tokio::test]
async fn r04_a_removed_verdict_is_absent_and_goes_to_nobody() {
    let mut bench = bench_of(&[ProbeType::Liveness]).await;
    bench.push(publish("a", ProbeType::Liveness, ID, Some(Verdict::Success)));
    bench.push(publish("a", ProbeType::Liveness, ID, None));
    assert_eq!(bench.verdict("a", ProbeType::Liveness).await, None);
    assert!(bench.lifecycle.try_recv().is_err());
}

#[tokio::test]
async fn r07_readiness_goes_from_the_initial_failure_to_success_and_the_pod_with_it() {
    let bench = bench_of(&[ProbeType::Readiness]).await;
    bench.push(publish_because("a", ProbeType::Readiness, ID, Some(Verdict::Failure), PublishCause::Initial));
    let ready = |bench: &Bench| {
        let results = bench.results.clone();
        async move { results.read(|node| node.pods[&PodUid::from("a")].is_ready()).await.expect("the stage runs") }
    };
    assert_eq!(bench.verdict("a", ProbeType::Readiness).await, Some(Verdict::Failure));
    assert!(!ready(&bench).await);
    bench.push(publish("a", ProbeType::Readiness, ID, Some(Verdict::Success)));
    assert_eq!(bench.verdict("a", ProbeType::Readiness).await, Some(Verdict::Success));
    assert!(ready(&bench).await);
}

#[tokio::test]
async fn a_shard_that_still_ends_an_earlier_pod_of_the_uid_is_not_heard() {
    let mut bench = Bench::start(16, 16);
    let pod = simple_pod("a", &[ProbeType::Liveness]);
    let (slots, status) = (slots_of(&pod), Some(Arc::new(running(&pod, ID))));
    bench.input(Input::Added { pod, slots, shard: Some(1), status, past: None, source: SourceKind::Manifests }).await;
    bench.push(publish("a", ProbeType::Liveness, ID, Some(Verdict::Failure)));
    assert_eq!(bench.verdict("a", ProbeType::Liveness).await, None);
    assert!(bench.lifecycle.try_recv().is_err());
}

#[tokio::test]
async fn a_late_removal_of_an_earlier_instance_leaves_the_newer_verdict() {
    let bench = bench_of(&[ProbeType::Liveness]).await;
    bench.push(publish("a", ProbeType::Liveness, "fake://2", Some(Verdict::Success)));
    bench.push(publish("a", ProbeType::Liveness, ID, None));
    assert_eq!(bench.verdict("a", ProbeType::Liveness).await, Some(Verdict::Success));
}

#[tokio::test]
async fn a_verdict_of_another_instance_makes_nothing_ready() {
    let bench = bench_of(&[ProbeType::Readiness]).await;
    bench.push(publish("a", ProbeType::Readiness, "fake://2", Some(Verdict::Success)));
    let read = |node: &super::Node| node.pods[&PodUid::from("a")].containers[0].ready;
    assert!(!bench.results.read(read).await.expect("the stage runs"));
}

#[tokio::test]
async fn the_transition_time_changes_only_when_the_status_flips() {
    let bench = bench_of(&[ProbeType::Readiness]).await;
    let ready = |node: &super::Node| {
        let conditions = status::conditions(&node.pods[&PodUid::from("a")]);
        let ready = conditions.iter().find(|(c, _)| &*c.condition_type == "Ready").expect("it is always there");
        (ready.0.status, ready.1)
    };
    let first = bench.results.read(ready).await.expect("the stage runs");
    bench.push(publish_because("a", ProbeType::Readiness, ID, Some(Verdict::Failure), PublishCause::Initial));
    assert_eq!(bench.results.read(ready).await, Ok(first));
    bench.push(publish("a", ProbeType::Readiness, ID, Some(Verdict::Success)));
    let flipped = bench.results.read(ready).await.expect("the stage runs");
    assert_eq!(flipped.0, ConditionStatus::True);
    assert!(flipped.1 > first.1);
}

#[tokio::test]
async fn a_readiness_gate_keeps_the_pod_unready_until_its_condition_is_true() {
    let bench = Bench::start(16, 16);
    let mut pod = Arc::unwrap_or_clone(simple_pod("a", &[]));
    pod.readiness_gates = [Arc::from("example.com/gate")].into();
    let pod = Arc::new(pod);
    bench.add(&pod, Some(running(&pod, ID))).await;
    let ready = |node: &super::Node| {
        let conditions = status::conditions(&node.pods[&PodUid::from("a")]);
        conditions.into_iter().map(|(condition, _)| condition).find(|c| c.condition_type == "Ready")
    };
    let closed = bench.results.read(ready).await.expect("the stage runs").expect("it is always there");
    assert_eq!(closed.reason, "ReadinessGatesNotReady");
    let gate = Input::Gate(pod.uid.clone(), Arc::from("example.com/gate"), Some(ConditionStatus::True));
    bench.input(gate).await;
    let open = bench.results.read(ready).await.expect("the stage runs").expect("it is always there");
    assert_eq!(open.status, ConditionStatus::True);
}

#[tokio::test]
async fn p03_a_failure_is_an_unhealthy_event_with_run_and_threshold() {
    let mut bench = bench_of(&[ProbeType::Readiness]).await;
    let text = "HTTP probe failed with statuscode: 500";
    bench.push(report("a", ProbeType::Readiness, Outcome::Failure(text.into())));
    let event = bench.event().await;
    assert_eq!(event.message, "Readiness probe failed: HTTP probe failed with statuscode: 500");
    assert_eq!((event.reason, event.event_type), ("Unhealthy", EventType::Warning));
    assert_eq!((event.run, event.threshold, event.cause.as_deref()), (2, 3, Some(text)));
}

#[tokio::test]
async fn p04_a_success_makes_no_event_and_takes_the_failure_away() {
    let mut bench = bench_of(&[ProbeType::Readiness]).await;
    bench.push(report("a", ProbeType::Readiness, Outcome::Failure("no".into())));
    assert_eq!(bench.event().await.reason, "Unhealthy");
    bench.push(report("a", ProbeType::Readiness, Outcome::Success("ok".into())));
    let last = |node: &super::Node| node.probe(&key(ProbeType::Readiness)).and_then(|p| p.last().cloned());
    assert!(bench.results.read(last).await.expect("the stage runs").is_none());
    assert!(bench.events.try_recv().is_err());
}

#[tokio::test]
async fn p05_a_warning_is_a_probe_warning_event() {
    let mut bench = bench_of(&[ProbeType::Liveness]).await;
    bench.push(report("a", ProbeType::Liveness, Outcome::Warning("Probe terminated redirects".into())));
    let event = bench.event().await;
    assert_eq!((event.reason, event.event_type), ("ProbeWarning", EventType::Warning));
    assert_eq!(event.message, "Liveness probe warning: Probe terminated redirects");
}

#[tokio::test]
async fn p07_an_error_is_an_unhealthy_event_that_names_the_unknown_state() {
    let mut bench = bench_of(&[ProbeType::Startup]).await;
    bench.push(report("a", ProbeType::Startup, Outcome::Error("couldn't find port".into())));
    let event = bench.event().await;
    assert_eq!(event.reason, "Unhealthy");
    assert_eq!(event.message, "Startup probe errored and resulted in unknown state: couldn't find port");
}

#[tokio::test]
async fn local_trouble_makes_an_event_only_when_it_lasts_and_is_over_with_the_next_count() {
    let mut bench = bench_of(&[ProbeType::Liveness]).await;
    bench.push(report("a", ProbeType::Liveness, Outcome::Local(LocalCause::Ports)));
    bench.push(Update::LocalTooLong(LocalTooLong {
        worker: WorkerIndex(0),
        pod: PodUid::from("a"),
        container: ContainerName::from("c"),
        probe_type: ProbeType::Liveness,
        cause: LocalCause::ProcessFiles,
        for_ns: 30_000_000_000,
        at: clock::now(),
    }));
    let event = bench.event().await;
    assert_eq!((event.reason, event.event_type), ("ProbeUnknown", EventType::Warning));
    assert_eq!(event.cause.as_deref(), Some("emfile"));
    let sentence = LocalCause::ProcessFiles.sentence();
    assert_eq!(event.message, format!("Liveness probe has had no outcome for 30 s: {sentence}"));
    let stuck = |node: &super::Node| node.stuck().count();
    assert_eq!(bench.results.read(stuck).await, Ok(1));
    let stats = |node: &super::Node| node.probe(&key(ProbeType::Liveness)).map(|p| Arc::clone(&p.stats));
    let stats = bench.results.read(stats).await.expect("the stage runs").expect("it has it");
    stats.record(true, 1, clock::now().as_nanos(), 1);
    assert_eq!(bench.results.read(stuck).await, Ok(0));
}

#[tokio::test]
async fn lifecycle_hears_of_liveness_failures_by_attempts_and_of_nothing_else() {
    let mut bench = bench_of(&ProbeType::ALL).await;
    bench.push(publish("a", ProbeType::Readiness, ID, Some(Verdict::Failure)));
    bench.push(publish_because("a", ProbeType::Startup, ID, Some(Verdict::Failure), PublishCause::NotRunning));
    bench.push(publish("a", ProbeType::Liveness, ID, Some(Verdict::Success)));
    bench.push(publish("a", ProbeType::Liveness, ID, Some(Verdict::Failure)));
    let heard = bench.failure().await;
    assert!(matches!(heard, LifecycleInput::Failed { probe_type: ProbeType::Liveness, .. }), "{heard:?}");
    assert!(bench.lifecycle.try_recv().is_err());
}

#[tokio::test]
async fn lifecycle_hears_when_a_startup_probe_has_succeeded() {
    let mut bench = bench_of(&ProbeType::ALL).await;
    bench.push(publish_because("a", ProbeType::Startup, ID, Some(Verdict::Unknown), PublishCause::Initial));
    bench.push(publish("a", ProbeType::Readiness, ID, Some(Verdict::Success)));
    bench.push(publish("a", ProbeType::Startup, ID, Some(Verdict::Success)));
    let heard = bench.failure().await;
    assert!(matches!(&heard, LifecycleInput::Started { container_id, .. } if container_id.as_str() == ID), "{heard:?}");
    assert!(bench.lifecycle.try_recv().is_err());
}

#[tokio::test]
async fn failures_wait_for_a_full_lifecycle_and_none_is_lost() {
    let mut bench = Bench::start(16, 1);
    let uids: Vec<String> = (0..20).map(|index| format!("pod-{index}")).collect();
    for uid in &uids {
        let pod = simple_pod(uid, &[ProbeType::Liveness]);
        bench.add(&pod, Some(running(&pod, ID))).await;
        bench.push(publish(uid, ProbeType::Liveness, ID, Some(Verdict::Failure)));
    }
    assert_eq!(bench.verdict("pod-19", ProbeType::Liveness).await, Some(Verdict::Failure));
    let mut heard = Vec::new();
    while heard.len() < uids.len() {
        if let LifecycleInput::Failed { pod, .. } = bench.failure().await {
            heard.push(pod.to_string());
        }
    }
    heard.sort_unstable();
    heard.dedup();
    assert_eq!(heard.len(), uids.len());
}

#[tokio::test]
async fn a_failure_that_was_overtaken_while_it_waited_is_not_told() {
    let mut bench = Bench::start(16, 1);
    for uid in ["a", "b"] {
        let pod = simple_pod(uid, &[ProbeType::Liveness]);
        bench.add(&pod, Some(running(&pod, ID))).await;
        bench.push(publish(uid, ProbeType::Liveness, ID, Some(Verdict::Failure)));
    }
    bench.push(publish("b", ProbeType::Liveness, ID, None));
    assert_eq!(bench.verdict("b", ProbeType::Liveness).await, None);
    assert!(matches!(bench.failure().await, LifecycleInput::Failed { pod, .. } if pod.as_str() == "a"));
    bench.revision().await;
    assert!(bench.lifecycle.try_recv().is_err());
}

#[tokio::test]
async fn a_full_events_stage_costs_events_and_is_counted() {
    let bench = Bench::start(1, 1);
    let pod = simple_pod("a", &[ProbeType::Readiness]);
    bench.add(&pod, Some(running(&pod, ID))).await;
    for _ in 0..3 {
        bench.push(report("a", ProbeType::Readiness, Outcome::Failure("no".into())));
    }
    assert_eq!(bench.results.read(|node| node.events_dropped).await, Ok(2));
}

#[tokio::test]
async fn a_waiter_gets_the_next_report_of_its_probe() {
    let bench = bench_of(&[ProbeType::Readiness, ProbeType::Liveness]).await;
    let pending = bench.results.expect_report(key(ProbeType::Liveness)).await.expect("the stage runs");
    bench.push(report("a", ProbeType::Readiness, Outcome::Success("other".into())));
    bench.push(report("a", ProbeType::Liveness, Outcome::Success("this".into())));
    let report = pending.wait(SOON).await.expect("it was sent");
    assert_eq!(report.outcome, Outcome::Success("this".into()));
}

#[tokio::test]
async fn a_waiter_is_told_when_the_pod_goes_or_nothing_comes() {
    let bench = bench_of(&[ProbeType::Liveness]).await;
    let short = Duration::from_millis(1);
    let none = bench.results.next_report(key(ProbeType::Liveness), short).await;
    assert_eq!(none, Err(ResultsError::NoReport(short)));
    let pending = bench.results.expect_report(key(ProbeType::Liveness)).await.expect("the stage runs");
    bench.input(Input::Removed(PodUid::from("a"))).await;
    assert_eq!(pending.wait(SOON).await, Err(ResultsError::Removed));
}

#[tokio::test]
async fn updates_of_an_unknown_pod_are_dropped() {
    let mut bench = bench_of(&[]).await;
    bench.push(publish("gone", ProbeType::Liveness, ID, Some(Verdict::Failure)));
    bench.push(report("gone", ProbeType::Liveness, Outcome::Failure("no".into())));
    bench.revision().await;
    assert!(bench.events.try_recv().is_err() && bench.lifecycle.try_recv().is_err());
}

#[tokio::test]
async fn a_long_output_is_cut_between_characters() {
    let bench = bench_of(&[ProbeType::Liveness]).await;
    let text = "ä".repeat(limits::MESSAGE_BYTES_MAX);
    bench.push(report("a", ProbeType::Liveness, Outcome::Failure(format!("x{text}").into())));
    let last = |node: &super::Node| node.probe(&key(ProbeType::Liveness)).and_then(|p| p.last().cloned());
    let last = bench.results.read(last).await.expect("the stage runs").expect("it was reported");
    assert_eq!(last.message.len(), limits::MESSAGE_BYTES_MAX - 1);
}

#[tokio::test]
async fn restarts_are_counted_and_a_new_instance_is_not_started_by_inheritance() {
    let bench = bench_of(&[ProbeType::Startup]).await;
    bench.push(publish("a", ProbeType::Startup, ID, Some(Verdict::Success)));
    let pod = simple_pod("a", &[]);
    let mut status = running(&pod, "fake://2");
    status.containers[0].restart_count = 2;
    bench.revision().await;
    bench.input(Input::Status(pod.uid.clone(), Arc::new(status))).await;
    let read = |node: &super::Node| (node.restarts, node.pods[&PodUid::from("a")].containers[0].started);
    assert_eq!(bench.results.read(read).await, Ok((2, false)));
}

#[tokio::test]
async fn a_shards_deltas_add_up_and_its_gauges_are_the_newest() {
    let bench = bench_of(&[]).await;
    for workers in [7, 5] {
        let mut delta = ShardMetrics::new();
        delta.attempt(HandlerKind::Tcp, &Outcome::Success("".into()), Duration::from_micros(50));
        delta.missed = 2;
        delta.workers = workers;
        bench.push(Update::Metrics(Box::new(delta)));
    }
    let read = |node: &super::Node| {
        let counts = node.shards[0].counts.as_ref().expect("two deltas");
        let latency = counts.latency_us[HandlerKind::Tcp.index()][OutcomeKind::Success.index()].as_ref();
        (counts.missed, counts.workers, latency.map(hdrhistogram::Histogram::len))
    };
    assert_eq!(bench.results.read(read).await, Ok((4, 5, Some(2))));
}

#[tokio::test]
async fn the_stage_ends_after_the_manager_and_every_shard() {
    let Bench { inputs, results, queue, stage, events: _events, lifecycle: _lifecycle } = bench_of(&[]).await;
    drop(inputs);
    assert!(results.read(|node| node.pods.len()).await.is_ok());
    assert!(queue.push(Update::ShardEnded { shard: 0 }).is_ok());
    tokio::time::timeout(SOON, stage).await.expect("in time").expect("no panic");
    assert_eq!(results.read(|_| ()).await, Err(ResultsError::Ended));
}

#[tokio::test]
async fn a_shard_that_went_without_a_word_does_not_hold_up_the_end() {
    let Bench { inputs, results: _results, queue, stage, events: _events, lifecycle: _lifecycle } = bench_of(&[]).await;
    drop((inputs, queue));
    tokio::time::timeout(SOON, stage).await.expect("in time").expect("no panic");
}

#[tokio::test]
async fn a_failure_of_a_removed_pod_is_not_told_and_the_next_ones_keep_their_order() {
    let mut bench = Bench::start(16, 1);
    for uid in ["a", "b", "c", "d"] {
        let pod = simple_pod(uid, &[ProbeType::Liveness]);
        bench.add(&pod, Some(running(&pod, ID))).await;
        bench.push(publish(uid, ProbeType::Liveness, ID, Some(Verdict::Failure)));
    }
    bench.revision().await;
    bench.input(Input::Removed(PodUid::from("b"))).await;
    bench.revision().await;
    let mut heard = Vec::new();
    for _ in 0..3 {
        if let LifecycleInput::Failed { pod, .. } = bench.failure().await {
            heard.push(pod.to_string());
        }
    }
    assert_eq!(heard, ["a", "c", "d"]);
}

#[tokio::test]
async fn the_sums_over_all_pods_follow_each_of_them() {
    let bench = bench_of(&[ProbeType::Readiness]).await;
    let sums = |bench: &Bench| {
        let results = bench.results.clone();
        async move { results.read(|node| (node.phases, node.pods_ready)).await.expect("the stage runs") }
    };
    assert_eq!(sums(&bench).await, ([0, 1, 0, 0], 0));
    bench.push(publish("a", ProbeType::Readiness, ID, Some(Verdict::Success)));
    assert_eq!(sums(&bench).await, ([0, 1, 0, 0], 1));
    let pod = simple_pod("a", &[ProbeType::Readiness]);
    let status = PodStatus { phase: PodPhase::Failed, ..running(&pod, ID) };
    bench.input(Input::Status(pod.uid.clone(), Arc::new(status))).await;
    assert_eq!(sums(&bench).await, ([0, 0, 0, 1], 0));
    bench.add(&pod, Some(running(&pod, ID))).await;
    assert_eq!(sums(&bench).await, ([0, 1, 0, 0], 0));
    bench.input(Input::Removed(pod.uid.clone())).await;
    assert_eq!(sums(&bench).await, ([0; 4], 0));
}

#[tokio::test]
async fn failing_probes_are_counted_as_their_verdicts_come_and_go() {
    let bench = bench_of(&[ProbeType::Readiness, ProbeType::Liveness]).await;
    let failing = |bench: &Bench| {
        let results = bench.results.clone();
        async move { results.read(|node| node.probes_failing).await.expect("the stage runs") }
    };
    for (probe_type, verdict, expected) in [
        (ProbeType::Readiness, Some(Verdict::Failure), 1),
        (ProbeType::Liveness, Some(Verdict::Failure), 2),
        (ProbeType::Liveness, Some(Verdict::Failure), 2),
        (ProbeType::Readiness, Some(Verdict::Success), 1),
        (ProbeType::Liveness, None, 0),
        (ProbeType::Readiness, Some(Verdict::Failure), 1),
    ] {
        bench.push(publish("a", probe_type, ID, verdict));
        assert_eq!(failing(&bench).await, expected, "{probe_type} {verdict:?}");
    }
    bench.input(Input::Removed(PodUid::from("a"))).await;
    assert_eq!(failing(&bench).await, 0);
}
