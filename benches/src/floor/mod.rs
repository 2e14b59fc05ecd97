//! Floors: the least that attempts cost on this machine. One thread, one ring (`ring`), nothing of the engine around it:
//! no worker, no verdict, no metric. `exec` is a loop of posix_spawn(3) (`exec`).

mod exec;
mod grpc;
mod http;
mod https;
mod pace;
mod ring;
mod slot;
mod tcp;

use crate::aim::Aims;
use crate::handler::Handler;
use crate::kernel;
use pace::drive;

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
    /// At each tick: what is ready once its batch is submitted, what came since the last one. Nothing else wakes the loop, so
    /// an answer is seen up to a tick late.
    Tick,
    /// As soon as there is one: answers are seen when they come.
    Ready,
}

/// The command line.
#[derive(clap::Args)]
pub struct Args {
    /// Whose floor
    #[command(flatten)]
    aims: Aims,
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

/// Runs it and prints its line.
pub fn run(args: &Args) -> anyhow::Result<()> {
    kernel::raise_descriptor_limit()?;
    let aims = args.aims.read()?;
    match args.aims.handler {
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
