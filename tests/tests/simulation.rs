//! Thousands of seeds of the simulation: see `probe_tests::simulation`.
//!
//! `SIMULATION_SEED=n` runs that seed alone, `SIMULATION_SEEDS=n` another number of them.

use std::env;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use probe_tests::simulation::{self, Broken};

/// Takes less than 20 seconds in a debug build on two cores.
const SEEDS_LEN: u64 = 6_000;

#[test]
fn every_seed_keeps_every_promise() {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let (first, len) = match number("SIMULATION_SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("SIMULATION_SEEDS").unwrap_or(SEEDS_LEN)),
    };
    let next = AtomicU64::new(first);
    let passive = AtomicU64::new(0);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut broken = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + len || broken.len() >= 3 {
                return broken;
            }
            match simulation::run(seed) {
                Ok(summary) => _ = passive.fetch_add(summary.passive, Ordering::Relaxed),
                Err(promise) => broken.push(promise),
            }
        }
    };
    let mut broken: Vec<Broken> = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("it catches panics")).collect()
    });
    broken.sort_by_key(|broken| broken.seed);
    if let Some(Broken { seed, message, lines }) = broken.first() {
        let lines = lines.join("\n");
        let seeds: Vec<u64> = broken.iter().map(|broken| broken.seed).collect();
        panic!("{lines}\n\n{message}\n\nSIMULATION_SEED={seed} (of {seeds:?})");
    }
    let passive = passive.into_inner();
    assert!(len < 100 || passive > len, "{passive} passive answers in {len} runs");
}

#[test]
fn a_seed_does_the_same_twice() {
    for seed in 0..64 {
        let (once, twice) = (simulation::run(seed), simulation::run(seed));
        assert_eq!(once.expect("it keeps its promises"), twice.expect("it keeps its promises"), "seed {seed}");
    }
}
