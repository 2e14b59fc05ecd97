use std::sync::Arc;
use std::time::Duration;

use probe_core::backoff::Backoff;
use probe_core::id::{ContainerName, PodUid, ProbeTypes};
use probe_core::outcome::Outcome;
use probe_core::spec::{ContainerKind, RestartPolicy};
use probe_core::status::{ContainerState, PodPhase, PodStatus, Termination};

use super::super::Input;
use super::super::fixture::{Bench, container, pause, pod, publish, report, running, simple_pod};
use super::*;
use crate::clock;
use crate::manager::slots_of;
use crate::source::SourceKind;
use ProbeType::{Liveness, Readiness, Startup};

const ID: &str = "fake://1";
const HOUR: Duration = Duration::from_secs(3_600);

async fn bench_of(probes: &[ProbeType]) -> (Bench, PodStatus) {
    let bench = Bench::start(16, 16);
    let pod = simple_pod("a", probes);
    let status = running(&pod, ID);
    bench.add(&pod, Some(status.clone())).await;
    (bench, status)
}

impl Bench {
    async fn pause(&self, pause: Pause) {
        self.input(Input::Pause(PodUid::from("a"), Arc::new(pause), None)).await;
    }

    /// Which of the pod's probes are paused so long from now, and how many the node says are.
    async fn paused_in(&self, length: Duration) -> (Vec<ProbeType>, u64) {
        let now = clock::now() + length;
        let look = move |node: &Node| {
            let probes = node.pods.get(&"a".into()).map_or(&[][..], |record| &record.probes);
            let paused = probes.iter().filter(|probe| probe.paused(now).is_some());
            (paused.map(|probe| probe.probe_type).collect(), node.paused(now).count)
        };
        self.results.read(look).await.expect("the stage runs")
    }

    async fn held(&self) -> Standing {
        self.results.read(Node::held).await.expect("the stage runs")
    }
}

#[tokio::test]
async fn probes_are_paused_until_the_time_has_come_or_somebody_ends_it() {
    let (bench, _) = bench_of(&ProbeType::ALL).await;
    let before = bench.revision().await;
    let only = |types: &[ProbeType], is_on| Pause { types: types.iter().copied().collect(), ..pause(is_on) };
    bench.pause(only(&[Readiness, Liveness], true)).await;
    assert_eq!(bench.paused_in(Duration::ZERO).await, (vec![Readiness, Liveness], 2));
    assert_eq!(bench.paused_in(HOUR).await, (vec![], 0));
    assert_ne!(bench.revision().await, before);
    bench.pause(only(&[Liveness, Startup], false)).await;
    assert_eq!(bench.paused_in(Duration::ZERO).await, (vec![Readiness], 1));
    let elsewhere = Pause { container: Some(ContainerName::from("d")), ..pause(true) };
    bench.pause(elsewhere).await;
    assert_eq!(bench.paused_in(Duration::ZERO).await.1, 1);
    bench.input(Input::Removed("a".into())).await;
    assert_eq!(bench.paused_in(Duration::ZERO).await, (vec![], 0));
}

#[tokio::test]
async fn a_pause_that_is_made_longer_began_when_it_began() {
    let (bench, _) = bench_of(&[Liveness]).await;
    let first = pause(true).paused.expect("a pause");
    let since = Timestamp::from(first.since).checked_sub(HOUR).expect("in range");
    bench.pause(Pause { paused: Some(Paused { since: since.into(), ..first }), ..pause(true) }).await;
    bench.pause(pause(true)).await;
    let standing = bench.results.read(|node| node.paused(clock::now())).await.expect("the stage runs");
    assert_eq!(standing, Standing { count: 1, oldest: Some(since) });
}

#[tokio::test]
async fn a_pause_makes_one_event_and_its_end_another_with_who_and_what() {
    let mut bench = Bench::start(16, 16);
    let containers = ["c", "d"].map(|name| container(name, ContainerKind::Regular, &[Readiness, Liveness]));
    let pod = pod("a", "a", containers);
    bench.add(&pod, Some(running(&pod, ID))).await;
    let paused = pause(true).paused.map(|paused| Paused { until: timestamp("2026-11-28T14:00:00Z"), ..paused });
    bench.pause(Pause { paused, ..pause(true) }).await;
    let one =
        Pause { container: Some(ContainerName::from("d")), types: ProbeTypes::from_iter([Liveness]), ..pause(false) };
    bench.pause(one).await;
    bench.pause(Pause { is_each_told: false, ..pause(false) }).await;
    bench.pause(pause(false)).await;
    bench.push(report("a", Liveness, Outcome::Failure("no".into())));
    let mut told = Vec::new();
    for _ in 0..3 {
        let event = bench.event().await;
        told.push((event.reason, event.container.map(|name| name.to_string()), event.message));
    }
    let all = "c Readiness, Liveness; d Readiness, Liveness";
    let expected = [
        ("ProbesPaused", None, format!("Paused until 2026-11-28T14:00:00Z by uid 7: {all}")),
        ("ProbesResumed", Some("d".to_owned()), "Resumed by uid 7: d Liveness".to_owned()),
        ("Unhealthy", Some("c".to_owned()), "Liveness probe failed: no".to_owned()),
    ];
    assert_eq!(told, expected, "of many pods only the log tells, and what was not paused is not resumed");
}

fn timestamp(text: &str) -> WallNs {
    text.parse::<Timestamp>().expect("a time").into()
}

#[tokio::test]
async fn a_pause_ends_with_the_attempts_that_there_will_never_be() {
    let (bench, status) = bench_of(&ProbeType::ALL).await;
    bench.pause(pause(true)).await;
    bench.input(Input::Deleting("a".into())).await;
    assert_eq!(bench.paused_in(Duration::ZERO).await, (vec![Readiness], 1), "a deleted pod's other probes end");
    bench.pause(pause(true)).await;
    assert_eq!(bench.paused_in(Duration::ZERO).await, (vec![Readiness], 1));
    let over = PodStatus { phase: PodPhase::Succeeded, ..status };
    bench.input(Input::Status("a".into(), Arc::new(over))).await;
    assert_eq!(bench.paused_in(Duration::ZERO).await, (vec![], 0));
}

#[tokio::test]
async fn a_new_pod_whose_probes_were_paused_is_counted() {
    let bench = Bench::start(16, 16);
    let pod = simple_pod("a", &ProbeType::ALL);
    let mut slots = slots_of(&pod);
    slots[2].paused = pause(true).paused;
    bench
        .input(Input::Added { pod, slots, shard: Some(0), status: None, past: None, source: SourceKind::Manifests })
        .await;
    assert_eq!(bench.paused_in(Duration::ZERO).await, (vec![Liveness], 1));
}

#[tokio::test]
async fn what_is_kept_of_a_pause_goes_with_the_first_report_after_it() {
    let (bench, _) = bench_of(&[Liveness]).await;
    let is_kept = |bench: &Bench| {
        let results = bench.results.clone();
        let kept = |node: &Node| node.pods[&"a".into()].probes[0].paused_ever().is_some();
        async move { results.read(kept).await.expect("the stage runs") }
    };
    bench.pause(pause(true)).await;
    bench.push(report("a", Liveness, Outcome::Success("".into())));
    assert!(is_kept(&bench).await, "an attempt that was in flight");
    let over = pause(true).paused.map(|paused| Paused { until_at: clock::now(), ..paused });
    bench.pause(Pause { paused: over, ..pause(true) }).await;
    assert!(is_kept(&bench).await);
    bench.push(report("a", Liveness, Outcome::Success("".into())));
    assert!(!is_kept(&bench).await);
}

#[tokio::test]
async fn a_failure_is_held_until_the_container_ends_or_is_another() {
    let (bench, status) = bench_of(&[Readiness, Liveness]).await;
    bench.push(publish("a", Readiness, ID, Some(Verdict::Failure)));
    assert_eq!(bench.held().await, Standing::default());
    bench.push(publish("a", Liveness, ID, Some(Verdict::Failure)));
    let held = bench.held().await;
    assert!(
        held.count == 1 && held.oldest.is_some_and(|since| since >= clock::wall().checked_sub(HOUR).expect("in range"))
    );
    let waits = |mut status: PodStatus| {
        status.containers[0].state = ContainerState::waiting("CrashLoopBackOff", "");
        Arc::new(status)
    };
    bench.input(Input::Status("a".into(), waits(status.clone()))).await;
    assert_eq!(bench.held().await.count, 0, "it does not run");
    bench.input(Input::Status("a".into(), Arc::new(status.clone()))).await;
    assert_eq!(bench.held().await.count, 1);
    let mut next = status;
    next.containers[0].id = Some("fake://2".into());
    bench.input(Input::Status("a".into(), Arc::new(next))).await;
    assert_eq!(bench.held().await.count, 0, "another instance");
    bench.push(publish("a", Liveness, ID, None));
    bench.push(publish("a", Liveness, "fake://2", Some(Verdict::Failure)));
    assert_eq!(bench.held().await.count, 1);
    bench.input(Input::Removed("a".into())).await;
    assert_eq!(bench.held().await, Standing::default());
}

#[tokio::test]
async fn on_hold_is_what_has_its_verdict_while_the_container_runs() {
    let (bench, _) = bench_of(&ProbeType::ALL).await;
    let on_hold = |bench: &Bench| {
        let results = bench.results.clone();
        let look = |node: &Node| {
            let record = &node.pods[&"a".into()];
            let container = record.container_at(0).expect("it has one");
            let status = record.container_status(&container);
            record
                .probes
                .iter()
                .filter(|probe| probe.is_on_hold(status))
                .map(|probe| probe.probe_type)
                .collect::<Vec<_>>()
        };
        async move { results.read(look).await.expect("the stage runs") }
    };
    for (probe_type, verdict, expected) in [
        (Startup, Verdict::Unknown, vec![]),
        (Startup, Verdict::Success, vec![Startup]),
        (Readiness, Verdict::Failure, vec![Startup]),
        (Liveness, Verdict::Success, vec![Startup]),
        (Liveness, Verdict::Failure, vec![Startup, Liveness]),
    ] {
        bench.push(publish("a", probe_type, ID, Some(verdict)));
        assert_eq!(on_hold(&bench).await, expected, "{probe_type} {verdict:?}");
    }
}

#[tokio::test]
async fn what_an_end_says_itself_decides_whether_a_pause_goes_on() {
    for (policy, allowed) in [(RestartPolicy::Never, true), (RestartPolicy::Always, false)] {
        let mut pod = simple_pod("a", &[Liveness]);
        Arc::make_mut(&mut pod).restart_policy = policy;
        let bench = Bench::start(16, 16);
        let mut status = running(&pod, ID);
        bench.add(&pod, Some(status.clone())).await;
        bench.pause(pause(true)).await;
        let end = Termination {
            exit_code: 1,
            signal: 0,
            backoff: Backoff::new(),
            restart_allowed: Some(allowed),
            reason: "Error".into(),
            message: "".into(),
            started_at: clock::now(),
            finished_at: clock::now(),
        };
        status.containers[0].state = ContainerState::Terminated(Box::new(end));
        bench.input(Input::Status("a".into(), Arc::new(status))).await;
        assert_eq!(bench.paused_in(Duration::ZERO).await.1, u64::from(allowed), "{policy:?}");
    }
}
