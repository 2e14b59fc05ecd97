//! Equivalence under change, on the real kernel: whatever listeners do, no passive success where a connect fails.
//!
//! `PROBE_ENGINE_TEST_SEED` repeats a run. Built with one of the features `bite-*`, each of which takes one of the conditions of
//! a passive answer away, the same run must notice (`cargo xtask ci`).
#![cfg(feature = "engine")]

use std::sync::Arc;

use probe_engine::clock;
use probe_engine::ebpf::PassiveSettings;
use probe_engine::shard::epoll::Epoll;
use probe_engine::shard::kernel::{Kernel, Waker};
use probe_engine::shard::ring::Ring;
use probe_tests::passive::feed;
use probe_tests::passive::rig::Rig;
use probe_tests::passive::steps::{Plan, Steps, Summary, TIMES, Violation};
use probe_tests::passive::world::{Net, Place, World};

/// A false success that the engine has been made to give is found within this.
const STEPS: u64 = 5_000;

/// One of the conditions is missing from this build.
const BITES: Option<&str> = if cfg!(feature = "bite-counter") {
    Some("the change counter")
} else if cfg!(feature = "bite-candidates") {
    Some("the other candidates")
} else if cfg!(feature = "bite-queue") {
    Some("the accept queue")
} else {
    None
};

fn seed(default: u64) -> u64 {
    let given = std::env::var("PROBE_ENGINE_TEST_SEED").ok();
    given.map_or(default, |seed| seed.parse().expect("PROBE_ENGINE_TEST_SEED is a number"))
}

/// `None` = it cannot be made here, which was said.
fn run<K: Kernel>(test: &str, plan: Plan, kernel: fn(&Waker) -> K) -> Option<Result<Summary, Violation>> {
    if !feed::usable(test, &[]) {
        return None;
    }
    let start = clock::now();
    let world = World::new(Net::new());
    let host = Arc::clone(world.net.at(Place::Host));
    // All of the engine lives on the thread that drives it, in the namespace that plays the host.
    let result = host.run(move || {
        // Audits are contradictions waiting to be found: they must not help the engine here.
        let settings = PassiveSettings { passive_audit_per_second: 0, ..PassiveSettings::default() };
        let rig = Rig::new(settings.clone(), TIMES, plan.seed, kernel).expect("the kernel program loads");
        Steps::new(plan, rig, world, settings).run()
    });
    println!("{test}: {:.1} s", (clock::now() - start).as_secs_f64());
    Some(result)
}

fn check(test: &str, result: Result<Summary, Violation>) {
    match (BITES, result) {
        (None, Ok(summary)) => {
            println!("{test}: {:.1} % passive, {summary:#?}", summary.passive_share() * 100.0);
            assert!(summary.passive_share() >= 0.5, "only {:.1} % passive", summary.passive_share() * 100.0);
        }
        (None, Err(violation)) => panic!("{}", violation.text),
        (Some(missing), Err(violation)) => {
            println!("{test}: without {missing} a violation at step {}:\n{}", violation.step, violation.text);
        }
        (Some(missing), Ok(summary)) => panic!("without {missing} nothing was noticed: {summary:#?}"),
    }
}

#[test]
fn whatever_listeners_do_no_passive_success_where_a_connect_fails() {
    let test = "whatever_listeners_do_no_passive_success_where_a_connect_fails";
    let plan = Plan { seed: seed(1), steps: STEPS };
    if let Some(result) = run(test, plan, |waker| Ring::new(waker).expect("io_uring")) {
        check(test, result);
    }
}

#[test]
#[cfg(not(any(feature = "bite-counter", feature = "bite-candidates", feature = "bite-queue")))]
fn the_same_on_epoll() {
    let test = "the_same_on_epoll";
    let plan = Plan { seed: seed(2), steps: STEPS / 5 };
    if let Some(result) = run(test, plan, |waker| Epoll::new(waker).expect("epoll")) {
        check(test, result);
    }
}
