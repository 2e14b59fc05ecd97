//! A daemon's life in a scenario: started with pods, scheduled, and at the end left without them.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::bail;

use crate::daemon::Daemon;
use crate::handler::Handler;
use crate::kernel::Tcp;
use crate::options::Options;
use crate::report::differs;
use crate::scenario::Scenario;
use crate::truth::Log;
use crate::window::{Counts, now};

/// Longest time from a ready daemon until all of its probes are scheduled.
const SCHEDULED_MAX: Duration = Duration::from_secs(60);

/// Time between two looks at how many are.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What a window's last outcomes get to reach the log.
pub const SETTLE: Duration = Duration::from_millis(300);

/// What shards have counted takes up to a second, and the reading of it, to be seen.
const TOLD_MAX: Duration = Duration::from_millis(1_500);

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
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Connections since the daemon's start, read after the last of its probes has ended, when nothing is being counted any more
/// (a shard tells its counts once a second).
pub struct WholeLife {
    /// That the targets' kernel took, ours apart.
    pub taken: f64,
    /// That were successful attempts, by the daemon's count.
    pub connected: f64,
}

impl WholeLife {
    /// `None` where the two are the same, as well as a window of so many seconds can tell.
    #[must_use]
    pub fn complaint(&self, seconds: f64) -> Option<String> {
        let what = "connections that targets took, of real attempts that succeeded,";
        differs(what, self.taken, self.connected, seconds)
    }

    /// Ends all pods. `taken_before` is the kernel's count before the daemon started, `dropping` the targets that made a
    /// connection of their own.
    pub fn of(daemon: &Daemon, manifests: &Path, taken_before: u64, dropping: usize) -> anyhow::Result<WholeLife> {
        for file in fs::read_dir(manifests)? {
            fs::remove_file(file?.path())?;
        }
        wait_until_scheduled(daemon, 0)?;
        std::thread::sleep(TOLD_MAX);
        let own = daemon.pages() as f64 + dropping as f64;
        let taken = (Tcp::read()?.passive_opens - taken_before) as f64 - own;
        Ok(WholeLife { taken, connected: Counts::of(&daemon.page("/metrics")?).connected })
    }
}

/// Nothing until then.
pub fn sleep_until(at: Instant) {
    std::thread::sleep(at.saturating_duration_since(now()));
}

/// What a scenario is at, for who watches it.
pub fn say(text: &str) {
    eprintln!("{text}");
}
