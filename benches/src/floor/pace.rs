//! When attempts are begun, and what they have cost.

use std::io;
use std::time::{Duration, Instant};

use serde_json::json;

use super::Args;
use crate::kernel;
use crate::usage::{self, Cpu, now};

/// In flight in the closed loop.
pub(super) const CLOSED_LOOP_LEN: usize = 40;
/// In flight at most when paced: what is due beyond waits. Not reached while the targets answer.
pub(super) const IN_FLIGHT_MAX: usize = 1_024;
/// What is not measured at first: the ring, the caches, the connections that are due at once.
const WARM_UP: Duration = Duration::from_millis(500);

/// Attempts so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) in_flight: usize,
    pub(super) ended: u64,
    pub(super) failed: u64,
}

/// A loop without a clock: told when to start, and until when it may wait.
pub(super) trait Floor {
    /// Begins an attempt at the target of this index.
    fn start(&mut self, target: usize) -> io::Result<()>;
    /// Hands over what was begun, and takes what has ended by `until`; earlier where something has.
    fn wait(&mut self, until: Instant) -> io::Result<()>;
    fn tally(&self) -> Tally;
}

/// Starts what is due at each tick (or fills the closed loop), for the warm-up and then for the seconds that count.
pub(super) fn drive(args: &Args, targets_len: usize, mut floor: impl Floor) -> anyhow::Result<()> {
    let tick = Duration::from_micros(args.tick_us.max(1));
    let begun = now();
    let mut next_tick = begun;
    let mut started = 0_u64;
    let mut warm: Option<(Instant, Cpu, Tally)> = None;
    let (since, cpu, before) = loop {
        let at = now();
        match warm {
            None if at >= begun + WARM_UP => warm = Some((at, Cpu::read()?, floor.tally())),
            Some(warm) if at >= warm.0 + Duration::from_secs(args.seconds) => break warm,
            _ => {}
        }
        let in_flight = floor.tally().in_flight;
        let due = match args.rate {
            None => CLOSED_LOOP_LEN - in_flight,
            Some(_) if at < next_tick => 0,
            Some(rate) => {
                next_tick = (next_tick + tick).max(at);
                let due = (at - begun).as_secs_f64() * f64::from(rate);
                (due as u64).saturating_sub(started).min((IN_FLIGHT_MAX - in_flight) as u64) as usize
            }
        };
        for _ in 0..due {
            floor.start((started % targets_len as u64) as usize)?;
            started += 1;
        }
        floor.wait(if args.closed { at + tick } else { next_tick })?;
    };
    let (cpu_after, after, seconds) = (Cpu::read()?, floor.tally(), since.elapsed().as_secs_f64());
    let attempts = after.ended - before.ended;
    let line = json!({
        "handler": args.aims.handler.as_str(),
        "mode": if args.closed { "closed" } else { "paced" },
        "attempts": attempts,
        "failures": after.failed - before.failed,
        "seconds": seconds,
        "cpu_us_per_attempt": usage::per_attempt_us(cpu_after.own - cpu.own, attempts),
        "children_cpu_us_per_attempt": usage::per_attempt_us(cpu_after.children - cpu.children, attempts),
        "rss_bytes": kernel::rss_bytes("self")?,
    });
    println!("{line}");
    Ok(())
}
