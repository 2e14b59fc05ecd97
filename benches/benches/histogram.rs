//! The histograms of a shard: one value at a time, and a batch of equal ones at once.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hdrhistogram::Histogram;
use probe_core::outcome::Outcome;
use probe_core::time::Instant;
use probe_engine::results::ProbeStats;
use probe_engine::results::latency::{Recorded, Windows};
use probe_engine::shard::metrics::{HandlerKind, PhasesUs, ShardMetrics};

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
    group.bench_function("metrics_of_the_phases_of_one_attempt", |b| {
        b.iter(|| metrics.phases(HandlerKind::Http, PhasesUs([next() as u32, 0, next() as u32, next() as u32])));
    });
    group.finish();
}

/// What latency data costs beside the shard's histograms: of each real success, of each attempt that is told closely, and of
/// each shard's delta, once a second.
fn latency_data(c: &mut Criterion) {
    let mut group = c.benchmark_group("latency_data");
    let mut value = 1_u64;
    let mut next = move || {
        value = (value * 48_271) % 2_147_483_647;
        400 + value % 2_800
    };
    group.throughput(Throughput::Elements(1));
    let stats = ProbeStats::default();
    group.bench_function("stats_of_one_success", |b| b.iter(|| stats.record(true, black_box(next()) * 1_000, 1, 1)));
    let mut windows = Windows::new(6);
    let mut now_ns = 0;
    group.bench_function("windows_of_one_attempt", |b| {
        b.iter(|| {
            now_ns += 1_000_000_000;
            windows.record(black_box(next()), Instant::from_nanos(now_ns));
        });
    });
    let mut delta = Recorded::default();
    (0..1_000).for_each(|_| delta.record(next(), 1));
    let mut histogram = Histogram::<u64>::new_with_bounds(1, LONGEST_US, 2).expect("valid bounds");
    (0..1_000).for_each(|_| histogram.saturating_record(next()));
    group.bench_function("recorded_of_one_delta", |b| {
        b.iter(|| {
            let mut recorded = Recorded::default();
            recorded.add_histogram(black_box(&histogram));
            recorded
        });
    });
    let mut windows = Windows::new(12);
    group.bench_function("windows_of_one_delta", |b| {
        b.iter(|| {
            now_ns += 1_000_000_000;
            windows.add(&delta, Instant::from_nanos(now_ns));
        });
    });
    group.finish();
}

criterion_group!(benches, record, latency_data);
criterion_main!(benches);
