//! The histograms of a shard: one value at a time, and a batch of equal ones at once.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hdrhistogram::Histogram;
use probe_core::outcome::Outcome;
use probe_engine::shard::metrics::{HandlerKind, ShardMetrics};

/// As `ShardMetrics` has them: microseconds up to an hour, 2 digits.
const LONGEST_US: u64 = 3_600_000_000;
const BATCH_LEN: u64 = 256;

fn record(c: &mut Criterion) {
    let mut group = c.benchmark_group("histogram");
    let mut histogram = Histogram::<u64>::new_with_bounds(1, LONGEST_US, 2).expect("valid bounds");
    let mut value = 1;
    let mut next = move || {
        value = (value * 48_271) % 2_147_483_647;
        1 + value % 5_000
    };
    group.throughput(Throughput::Elements(1));
    group.bench_function("record", |b| b.iter(|| histogram.saturating_record(black_box(next()))));
    group.throughput(Throughput::Elements(BATCH_LEN));
    group.bench_function("record_n_of_256", |b| {
        b.iter(|| histogram.record_n(black_box(next()), BATCH_LEN).expect("within bounds"));
    });
    group.throughput(Throughput::Elements(1));
    let mut metrics = ShardMetrics::new();
    group.bench_function("metrics_of_one_attempt", |b| {
        let outcome = Outcome::Success(Box::default());
        b.iter(|| {
            metrics.started(HandlerKind::Tcp, Duration::from_micros(black_box(next())));
            metrics.attempt(HandlerKind::Tcp, &outcome, Duration::from_micros(next()));
        });
    });
    group.finish();
}

criterion_group!(benches, record);
criterion_main!(benches);
