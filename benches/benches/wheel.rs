//! The timing wheel at a million timers, beside tokio-util's `DelayQueue`: what one insert, one cancel and one fired timer
//! cost. The queue is on tokio's paused clock, which moves it as the wheel is moved.

use std::future::poll_fn;
use std::hint::black_box;
use std::task::Poll;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use probe_core::time::Instant;
use probe_core::wheel::Wheel;
use tokio::runtime::{Builder, Runtime};
use tokio_util::time::DelayQueue;
use tokio_util::time::delay_queue::Key;

const TIMERS_LEN: u32 = 1_000_000;
const PERIOD_MS: u64 = 10_000;

/// A deadline within one period, scattered by a fixed multiplier so that runs compare.
fn offset_ms(index: u32) -> u64 {
    1 + u64::from(index.wrapping_mul(2_654_435_761)) % PERIOD_MS
}

fn deadline(index: u32, now_ms: u64) -> Instant {
    Instant::from_millis(now_ms + offset_ms(index))
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

fn paused() -> Runtime {
    Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime")
}

/// Within `runtime`, by whose clock it goes.
fn full_queue(runtime: &Runtime) -> (DelayQueue<u32>, Vec<Key>) {
    let _entered = runtime.enter();
    let mut queue = DelayQueue::with_capacity(TIMERS_LEN as usize);
    let insert = |index| queue.insert(index, Duration::from_millis(offset_ms(index)));
    let keys = (0..TIMERS_LEN).map(insert).collect();
    (queue, keys)
}

/// Takes what has expired.
async fn drain(queue: &mut DelayQueue<u32>) -> u32 {
    let mut fired = 0;
    poll_fn(|cx| {
        while let Poll::Ready(Some(expired)) = queue.poll_expired(cx) {
            black_box(expired.into_inner());
            fired += 1;
        }
        Poll::Ready(fired)
    })
    .await
}

fn delay_queue(c: &mut Criterion) {
    let mut group = c.benchmark_group("delay_queue_1m");
    group.sample_size(10).measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_millis(500));

    group.throughput(Throughput::Elements(1));
    let runtime = paused();
    let (mut standing, mut keys) = full_queue(&runtime);
    let mut index = 0;
    group.bench_function("reinsert", |b| {
        let _entered = runtime.enter();
        b.iter(|| {
            index = (index + 7919) % TIMERS_LEN;
            standing.reset(&keys[black_box(index) as usize], Duration::from_millis(5 + offset_ms(index)));
        });
    });
    group.bench_function("cancel_and_insert", |b| {
        let _entered = runtime.enter();
        b.iter(|| {
            index = (index + 7919) % TIMERS_LEN;
            black_box(standing.remove(&keys[index as usize]));
            keys[index as usize] = standing.insert(index, Duration::from_millis(5 + offset_ms(index)));
        });
    });
    drop(standing);

    group.throughput(Throughput::Elements(u64::from(TIMERS_LEN)));
    group.bench_function("one_period_of_1ms_turns", |b| {
        let setup = || {
            let runtime = paused();
            let (queue, _) = full_queue(&runtime);
            (runtime, queue)
        };
        let turns = |(runtime, mut queue): (Runtime, DelayQueue<u32>)| {
            let fired = runtime.block_on(async {
                let mut fired = 0;
                // tokio rounds a deadline up to its next millisecond.
                for _ in 0..=PERIOD_MS + 1 {
                    tokio::time::advance(Duration::from_millis(1)).await;
                    fired += drain(&mut queue).await;
                }
                fired
            });
            assert_eq!(fired, TIMERS_LEN);
            (runtime, queue)
        };
        b.iter_batched(setup, turns, BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group!(benches, wheel, delay_queue);
criterion_main!(benches);
