//! What scenarios have in common that start a daemon on manifests.

use std::time::{Duration, Instant};

use anyhow::bail;

use crate::daemon::Daemon;
use crate::handler::Handler;
use crate::options::Options;
use crate::scenario::Scenario;
use crate::truth::Log;
use crate::window::{Counts, now};

/// Longest time from a ready daemon until all of its probes are scheduled.
const SCHEDULED_MAX: Duration = Duration::from_secs(60);

/// What the window's last outcomes get to reach the log.
pub const SETTLE: Duration = Duration::from_millis(300);

/// Flags of the daemon in this scenario.
pub fn daemon_args(scenario: Scenario, options: &Options) -> Vec<String> {
    let mut args = options.daemon_args(scenario);
    if scenario.mix().percent.iter().any(|(handler, _)| *handler == Handler::Exec) {
        args.push("--host-exec".to_owned());
    }
    args
}

/// Until so many probes live on the shards.
pub fn wait_until_scheduled(daemon: &Daemon, probes: usize) -> anyhow::Result<()> {
    let latest = now() + SCHEDULED_MAX;
    loop {
        let workers = Counts::of(&daemon.page("/metrics")?).workers;
        if workers as usize == probes {
            return Ok(());
        }
        if now() > latest {
            let log = Log::read(daemon.log())?;
            bail!("{workers} of {probes} probes are scheduled after {SCHEDULED_MAX:?}; {:?}", log.warnings.first());
        }
        std::thread::sleep(Duration::from_millis(250));
    }
}

/// Sleeps until then, if that is to come.
pub fn sleep_until(at: Instant) {
    std::thread::sleep(at.saturating_duration_since(now()));
}

/// Tells who waits what is going on.
pub fn say(text: &str) {
    eprintln!("{text}");
}
