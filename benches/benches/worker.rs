//! One worker's state machine, and the scheduler around 10,000 of them: what a due probe costs where nothing is asked.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use probe_core::action::Action;
use probe_core::id::{ContainerId, ProbeType};
use probe_core::outcome::Outcome;
use probe_core::scheduler::{Config, Scheduler};
use probe_core::status::PodPhase;
use probe_core::time::Instant;
use probe_core::worker::{Instance, InstanceState, View, Worker};

mod pods;

const WORKERS_LEN: u32 = 10_000;
const STARTS_MAX: usize = 256;

fn step(c: &mut Criterion) {
    let spec = pods::spec(80);
    let id = ContainerId::from("containerd://0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0");
    let state = InstanceState::Running { started_at: Instant::from_secs(1) };
    let instance = Instance { id: &id, state, started: Some(true), restartable: true, before_manager: false };
    let view = View { phase: PodPhase::Running, deleting: false, instance: Some(instance) };
    let mut worker = Worker::new(ProbeType::Readiness);
    let mut group = c.benchmark_group("worker");
    group.throughput(Throughput::Elements(1));
    group.bench_function("step_and_count_a_success", |b| {
        b.iter(|| {
            let step = worker.step(Some(black_box(view)), &spec, Instant::from_secs(2), |change| {
                black_box(change);
            });
            black_box((step, worker.count(true, &spec)));
        });
    });
    group.finish();
}

/// Every worker once: due, started, succeeded.
fn one_period(scheduler: &mut Scheduler, now: &mut Instant) -> u32 {
    let mut ended = 0;
    let end = *now + Duration::from_secs(pods::PERIOD_S);
    while *now < end {
        scheduler.handle_timeout(*now, STARTS_MAX);
        while let Some(action) = scheduler.poll_action() {
            if let Action::Start(start) = action {
                scheduler.handle_started(start.attempt, *now);
                scheduler.handle_outcome(start.attempt, Outcome::Success(Box::default()), *now);
                ended += 1;
            }
        }
        *now = *now + Duration::from_millis(1);
    }
    ended
}

fn scheduler(c: &mut Criterion) {
    let mut now = Instant::from_secs(1_000);
    let config = Config {
        seed: 1,
        manager_start: now,
        local_backoff_min: Duration::from_millis(100),
        local_backoff_max: Duration::from_secs(5),
        local_max: Duration::from_secs(30),
    };
    let mut scheduler = Scheduler::new(config, now);
    for index in 0..WORKERS_LEN {
        let pod = pods::pod(index, pods::spec(80));
        let status = pods::running(now);
        scheduler.add_pod(pod, Some(status), now, &mut |_, _, _| {});
    }
    one_period(&mut scheduler, &mut now);
    assert_eq!(one_period(&mut scheduler, &mut now), WORKERS_LEN);
    let mut group = c.benchmark_group("scheduler");
    group.sample_size(10).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    group.throughput(Throughput::Elements(u64::from(WORKERS_LEN)));
    group.bench_function("a_period_of_10k_workers", |b| b.iter(|| one_period(&mut scheduler, &mut now)));
    group.finish();
}

criterion_group!(benches, step, scheduler);
criterion_main!(benches);
