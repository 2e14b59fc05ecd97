//! The daemon on a clock of the test: `stepped-daemon run ...`, with the arguments of `probe-engine run`.
//!
//! Each line `step SECONDS` on standard input moves the clock by so much, from one due time to the next, and each time only once nothing is under
//! way: no attempt in flight, no work between the stages, every thread and every container's process asleep. `stepped` on standard output says
//! that it is done; any other answer, why it is not.

use std::io::{self, BufRead, Write};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Parser;
use probe_engine::cli::{Cli, Command, guardian, run};
use probe_engine::clock::{self, Stepper};
use probe_engine::core::time::Instant;
use probe_engine::engine::stepping::Stepping;
use probe_engine::shard::pace::Pace;
use probe_tests::asleep::Look;
use probe_tests::daemon::{PATIENCE, STEPPED};

/// How soon it is looked again while something is under way.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|first| first == guardian::NAME) {
        return guardian::run();
    }
    let Command::Run(args) = Cli::parse().command else {
        eprintln!("error: only `run` is stepped");
        return ExitCode::from(2);
    };
    let stepper = Stepper::take().expect("the clock is taken once");
    let ended = run::run(&args, |engine| {
        let stepping = engine.stepping(stepper);
        // Ends with the process.
        thread::spawn(move || serve(&stepping));
    });
    match ended {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("error: {error}");
            error.exit().into()
        }
    }
}

fn serve(stepping: &Stepping) {
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        let answer = match answer(stepping, &line) {
            Ok(()) => STEPPED.to_owned(),
            Err(why) => why,
        };
        // Nobody listens any more: the daemon is about to be ended.
        let _ = writeln!(io::stdout(), "{answer}");
    }
}

fn answer(stepping: &Stepping, line: &str) -> Result<(), String> {
    let seconds: f64 = line.strip_prefix("step ").and_then(|s| s.parse().ok()).ok_or("not a step")?;
    let by = Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?;
    let end = clock::now() + by;
    loop {
        let due = wait_quiet(stepping)?;
        if clock::now() >= end {
            return Ok(());
        }
        stepping.hop_to(due.map_or(end, |due| due.min(end)));
    }
}

/// Waits until nothing is under way; gives when something will be due next.
fn wait_quiet(stepping: &Stepping) -> Result<Option<Instant>, String> {
    let mut waited = Duration::ZERO;
    loop {
        let busy = match look(stepping) {
            Ok(due) => return Ok(due),
            Err(busy) => busy,
        };
        if waited > PATIENCE {
            return Err(format!("the clock stands still: {busy}"));
        }
        thread::sleep(LOOK_AGAIN); // tidy: between two looks at threads, of which there is no event
        waited += LOOK_AGAIN;
    }
}

/// What the engine says between two looks that show that none of its threads ran meanwhile.
fn look(stepping: &Stepping) -> Result<Option<Instant>, String> {
    let before = Look::take()?;
    let pace = stepping.pace();
    if before != Look::take()? {
        return Err("some thread has run".to_owned());
    }
    match pace {
        Pace::UnderWay => Err("an attempt or a container's end is under way".to_owned()),
        Pace::Until(at) => Ok(Some(at)),
        Pace::Idle => Ok(None),
    }
}
