//! The results stage with 10,000 pods: what it costs until a batch of updates shows, and the counts of one probe.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use probe_core::action::{Publish, PublishCause, Report, WorkerIndex};
use probe_core::id::{ContainerId, ContainerName, ProbeType};
use probe_core::outcome::{Outcome, Verdict};
use probe_core::time::Instant;
use probe_engine::manager::slots_of;
use probe_engine::results::{Config, Input, ProbeStats, ResultsHandle, Stage, Update, UpdateQueue, channel};
use probe_engine::source::SourceKind;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, mpsc};

mod pods;

const PODS_LEN: u32 = 10_000;
/// The stage takes so many before it answers a question.
const BATCH_LEN: u32 = 1_000;
const STRIDE: u32 = 7_919;

struct World {
    runtime: Runtime,
    results: ResultsHandle,
    queue: Arc<UpdateQueue>,
    index: u32,
    at: Instant,
}

impl World {
    fn new() -> World {
        let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
        let at = Instant::from_secs(1_000);
        let (inputs, results, inbox) = channel();
        let wake = Arc::new(Notify::new());
        let queue = Arc::new(UpdateQueue::new(Arc::clone(&wake)));
        let (events, mut told) = mpsc::channel(4_096);
        let queues = vec![Arc::clone(&queue)];
        let config = Config { manager_start: at, sources: vec!["bench"], queues, wake, events, lifecycle: None };
        runtime.spawn(Stage::new(config, inbox).run());
        runtime.spawn(async move { while told.recv().await.is_some() {} });
        runtime.block_on(async {
            for index in 0..PODS_LEN {
                let pod = pods::pod(index, pods::spec(80));
                let slots = slots_of(&pod);
                let status = Some(pods::running(at));
                inputs
                    .send(Input::Added {
                        pod,
                        slots,
                        shard: Some(0),
                        status,
                        past: None,
                        source: SourceKind::Manifests,
                    })
                    .await
                    .expect("the stage runs");
            }
        });
        // The stage ends with its inputs.
        std::mem::forget(inputs);
        World { runtime, results, queue, index: 0, at }
    }

    /// Hands over a batch, and waits until it shows.
    fn batch(&mut self, update: impl Fn(&Named) -> Update) {
        for _ in 0..BATCH_LEN {
            self.index = (self.index + STRIDE) % PODS_LEN;
            let named = Named { index: self.index, at: self.at };
            self.queue.push(update(&named)).expect("room");
        }
        self.at = self.at + Duration::from_millis(1);
        black_box(self.runtime.block_on(self.results.read(|node| node.revision)).expect("the stage runs"));
    }
}

/// Whose update it is.
struct Named {
    index: u32,
    at: Instant,
}

impl Named {
    fn publish(&self, verdict: Verdict) -> Update {
        Update::Publish(Publish {
            worker: WorkerIndex(self.index),
            pod: pods::uid(self.index),
            container: ContainerName::from("main"),
            probe_type: ProbeType::Readiness,
            container_id: ContainerId::from("containerd://0f1e2d3c4b5a69788796a5b4c3d2e1f0"),
            verdict: Some(verdict),
            cause: PublishCause::Threshold,
            at: self.at,
        })
    }

    fn report(&self) -> Update {
        Update::Report(Report {
            worker: WorkerIndex(self.index),
            pod: pods::uid(self.index),
            container: ContainerName::from("main"),
            probe_type: ProbeType::Readiness,
            container_id: ContainerId::from("containerd://0f1e2d3c4b5a69788796a5b4c3d2e1f0"),
            outcome: Outcome::Failure("dial tcp 127.0.0.1:80: connect: connection refused".into()),
            run: 2,
            threshold: 3,
            duration_ns: 100_000,
            at: self.at,
        })
    }
}

fn updates(c: &mut Criterion) {
    let mut world = World::new();
    let mut group = c.benchmark_group("results_10k");
    group.sample_size(20).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    group.throughput(Throughput::Elements(u64::from(BATCH_LEN)));
    group.bench_function("verdicts_that_change", |b| {
        let mut verdict = Verdict::Success;
        b.iter(|| {
            world.batch(|named| named.publish(verdict));
            // A batch is a tenth of the pods, so every verdict is another than the one before.
            if world.index == 0 {
                verdict = if verdict == Verdict::Success { Verdict::Failure } else { Verdict::Success };
            }
        });
    });
    group.bench_function("reports_of_failures", |b| b.iter(|| world.batch(Named::report)));
    group.throughput(Throughput::Elements(1));
    let stats = ProbeStats::default();
    group.bench_function("counts_of_a_success", |b| b.iter(|| stats.record(true, black_box(150_000), 1, 2)));
    group.finish();
}

criterion_group!(benches, updates);
criterion_main!(benches);
