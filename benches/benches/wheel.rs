//! The timing wheel at a million timers: what one insert, one cancel and one fired timer cost.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use probe_core::time::Instant;
use probe_core::wheel::Wheel;

const TIMERS_LEN: u32 = 1_000_000;
const PERIOD_MS: u64 = 10_000;

/// A deadline within one period, scattered by a fixed multiplier so that runs compare.
fn deadline(index: u32, now_ms: u64) -> Instant {
    Instant::from_millis(now_ms + 1 + u64::from(index.wrapping_mul(2_654_435_761)) % PERIOD_MS)
}

fn full_wheel() -> Wheel {
    let mut wheel = Wheel::new(Instant::ZERO);
    wheel.reserve(TIMERS_LEN as usize);
    (0..TIMERS_LEN).for_each(|index| wheel.insert(index, deadline(index, 0)));
    wheel
}

fn wheel(c: &mut Criterion) {
    let mut group = c.benchmark_group("wheel_1m");
    group.sample_size(10).measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_millis(500));

    group.throughput(Throughput::Elements(1));
    let mut standing = full_wheel();
    let mut index = 0;
    group.bench_function("reinsert", |b| {
        b.iter(|| {
            index = (index + 7919) % TIMERS_LEN;
            standing.insert(black_box(index), deadline(index, 5));
        });
    });
    group.bench_function("cancel_and_insert", |b| {
        b.iter(|| {
            index = (index + 7919) % TIMERS_LEN;
            black_box(standing.cancel(index));
            standing.insert(index, deadline(index, 5));
        });
    });
    drop(standing);

    group.throughput(Throughput::Elements(u64::from(TIMERS_LEN)));
    group.bench_function("one_period_of_1ms_turns", |b| {
        let turns = |mut wheel: Wheel| {
            let mut fired = 0_u32;
            (1..=PERIOD_MS).for_each(|ms| wheel.advance(Instant::from_millis(ms), |_| fired += 1));
            assert_eq!(fired, TIMERS_LEN);
            wheel
        };
        b.iter_batched(full_wheel, turns, BatchSize::PerIteration);
    });
    group.bench_function("a_jump_of_hours", |b| {
        let jump = |mut wheel: Wheel| {
            wheel.advance(Instant::from_secs(10 * 3600), |index| {
                black_box(index);
            });
            wheel
        };
        b.iter_batched(full_wheel, jump, BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group!(benches, wheel);
criterion_main!(benches);
