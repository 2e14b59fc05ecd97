//! Floors: the least that attempts cost on this machine. One thread, one ring ([`ring`]), nothing of the engine around it:
//! no worker, no verdict, no metric. `exec` is a loop of posix_spawn(3) ([`exec`]).

mod exec;
mod grpc;
mod http;
mod https;
mod ring;
mod tcp;

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::aim::{self, Handler};
use crate::usage::{self, Cpu, now};

/// In flight in the closed loop.
const CLOSED_LOOP_LEN: usize = 40;
/// In flight at most when paced: what is due beyond waits. Not reached while the targets answer.
const IN_FLIGHT_MAX: usize = 1_024;
/// What is not measured at first: the ring, the caches, the connections that are due at once.
const WARM_UP: Duration = Duration::from_millis(500);

/// How a connection is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Close {
    /// close(2)
    Fin,
    /// SO_LINGER 0
    Rst,
}

/// When completions are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Reap {
    /// At each tick, with the one enter that it makes: the least CPU; each step of an exchange waits for a tick.
    Tick,
    /// As soon as there is one: answers are seen when they come.
    Ready,
}

/// The command line.
#[derive(clap::Args)]
pub struct Args {
    /// Whose floor
    #[arg(long)]
    handler: Handler,
    /// One target a line
    #[arg(long)]
    targets: PathBuf,
    /// Measured so long, after a warm-up of half a second
    #[arg(long)]
    seconds: u64,
    /// Paced: starts per second
    #[arg(long, required_unless_present = "closed")]
    rate: Option<u32>,
    /// Paced: starts are made so often
    #[arg(long, default_value_t = 1_000)]
    tick_us: u64,
    /// Closed loop: always 40 in flight
    #[arg(long, conflicts_with = "rate")]
    closed: bool,
    /// How connections end
    #[arg(long, default_value = "fin")]
    close: Close,
    /// Paced: when completions are looked at
    #[arg(long, default_value = "tick")]
    reap: Reap,
    /// https: resume sessions
    #[arg(long)]
    resume: bool,
}

/// Attempts so far.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    in_flight: usize,
    ended: u64,
    failed: u64,
}

/// A loop without a clock: told when to start, and until when it may wait.
trait Floor {
    /// Begins an attempt at the target of this index.
    fn start(&mut self, target: usize) -> io::Result<()>;
    /// Hands over what was begun, and takes what has ended by `until`; earlier where something has.
    fn wait(&mut self, until: Instant) -> io::Result<()>;
    fn tally(&self) -> Tally;
}

/// Runs it and prints its line.
pub fn run(args: &Args) -> anyhow::Result<()> {
    usage::raise_descriptors()?;
    let aims = aim::read(&args.targets, args.handler)?;
    match args.handler {
        Handler::Exec => drive(args, aims.len(), exec::Children::new(&aims, args.closed)?),
        Handler::Tcp => drive(args, aims.len(), ring::Connections::<tcp::Connect>::new(args, tcp::targets(&aims)?)?),
        Handler::Http => drive(args, aims.len(), ring::Connections::<http::Get>::new(args, http::targets(&aims)?)?),
        Handler::Https => {
            let targets = https::targets(&aims, args.resume)?;
            drive(args, aims.len(), ring::Connections::<https::Get>::new(args, targets)?)
        }
        Handler::Grpc => drive(args, aims.len(), ring::Connections::<grpc::Check>::new(args, grpc::targets(&aims)?)?),
    }
}

/// Starts what is due at each tick (or fills the closed loop), for the warm-up and then for the seconds that count.
fn drive(args: &Args, targets_len: usize, mut floor: impl Floor) -> anyhow::Result<()> {
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
        "handler": args.handler.as_str(),
        "mode": if args.closed { "closed" } else { "paced" },
        "attempts": attempts,
        "failures": after.failed - before.failed,
        "seconds": seconds,
        "cpu_us_per_attempt": usage::per_attempt_us(cpu_after.own - cpu.own, attempts),
        "children_cpu_us_per_attempt": usage::per_attempt_us(cpu_after.children - cpu.children, attempts),
        "rss_bytes": usage::rss_bytes("self")?,
    });
    println!("{line}");
    Ok(())
}
