//! One storm: a daemon whose targets all die and all return, and what was seen of it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::watchers::{CaughtUp, Watchers};
use crate::daemon::{self, Daemon};
use crate::flips::Flip;
use crate::kernel::{self, Tcp};
use crate::load::{Load, TIMEOUT};
use crate::options::Options;
use crate::scenario::{Numbers, Scenario};
use crate::scenarios::life::{SETTLE, WholeLife, say, sleep_until, wait_until_scheduled};
use crate::targets::{Order, Targets};
use crate::truth::Log;
use crate::window::{Edge, Rates, Spent, now};

/// Time between two looks at the daemon's descriptors.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Sockets in SYN_SENT are counted at one of so many looks: ss(8) takes a while when there are thousands.
const SYN_SENT_ONE_OF: usize = 2;

/// How the targets of one storm die.
pub(super) struct Form {
    /// In the report.
    pub name: &'static str,
    /// Each target gets one of these, in turn.
    pub orders: &'static [Order],
    /// Beside clients that stop reading before it begins.
    pub is_watched: bool,
}

/// What a storm showed.
pub(super) struct Seen {
    /// All targets, each with when it died and returned.
    pub flips: Vec<Flip>,
    /// What the daemon said.
    pub log: Log,
    /// At the window's start, one period before the targets die.
    pub start: Edge,
    /// When they died, and one, two .. periods after that, while they are dead.
    pub dead: Vec<Edge>,
    /// At its end.
    pub end: Edge,
    /// Cost from the death on, for one period.
    pub storm: Rates,
    /// Cost of the whole window.
    pub window: Rates,
    /// Connections of the daemon's whole life.
    pub whole_life: WholeLife,
    /// From the daemon's start until all probes were scheduled.
    pub load_s: f64,
    /// The daemon's `RLIMIT_NOFILE`.
    pub descriptors_max: u64,
    /// SYNs sent again from the return on: a connection that one of these makes may be later than its attempt's deadline.
    pub late_syns: u64,
    /// Attempts that its shards have in flight at most.
    pub in_flight_max: usize,
    /// Most descriptors at a look.
    pub fds_max: usize,
    /// Most sockets in SYN_SENT at a look.
    pub syn_sent_max: usize,
    /// Of the daemon, at the end.
    pub rss_bytes: u64,
    /// What those who had stopped reading knew once they had read on; `None` = there were none.
    pub watched: Option<CaughtUp>,
}

impl Form {
    /// Lets it happen; `folder` is this storm's own.
    pub(super) fn run(
        &self,
        load: &Load,
        targets: &mut Targets,
        numbers: Numbers,
        options: &Options,
        folder: &Path,
    ) -> anyhow::Result<Seen> {
        let period = Duration::from_secs(numbers.period_s);
        let dead = Duration::from_secs(numbers.duration_s);
        let manifests = folder.join("manifests");
        fs::create_dir(&manifests)?;
        load.write(&manifests, "pods", 0..load.pods.len())?;
        let taken_before = Tcp::read()?.passive_opens;
        let started = now();
        let args = options.daemon_args(Scenario::Storm);
        let daemon = Daemon::start(&options.daemon, folder, &manifests, &args)?;
        wait_until_scheduled(&daemon, load.probes())?;
        let load_s = started.elapsed().as_secs_f64();
        say(&format!("storm, {}: {} probes loaded in {load_s:.1} s", self.name, load.probes()));
        sleep_until(now() + Duration::from_secs(numbers.warmup_s));

        let mut watch = Watch { daemon: &daemon, looks: 0, fds_max: 0, syn_sent_max: 0 };
        let socket = folder.join("api.sock");
        let watchers = self.is_watched.then(|| Watchers::start(&socket)).transpose()?;
        let start = Edge::read(&daemon)?;
        let spent_before = Spent::read(daemon.pid(), targets)?;
        watch.until(now() + period)?;
        let mut edges = vec![Edge::read(&daemon)?];
        let spent_at_death = Spent::read(daemon.pid(), targets)?;
        let died = now();
        let mut flips = self.kill(targets, load)?;
        let mut spent_after_period = None;
        for periods in 1.. {
            let at = died + period * periods;
            if at > died + dead {
                break;
            }
            watch.until(at)?;
            edges.push(Edge::read(&daemon)?);
            if spent_after_period.is_none() {
                spent_after_period = Some(Spent::read(daemon.pid(), targets)?);
            }
        }
        watch.until(died + dead)?;
        let pods: Vec<usize> = (0..load.pods.len()).collect();
        let syn_retrans = Tcp::read()?.syn_retrans;
        let opened = targets.order_all(Order::Open, &pods)?;
        flips.iter_mut().zip(opened).for_each(|(flip, opened)| flip.opened = Some(opened));
        // All have been asked by then, and one second is for what the end of a timeout and the log may take.
        watch.until(now() + period + TIMEOUT + Duration::from_secs(1))?;
        let end = Edge::read(&daemon)?;
        let spent_at_end = Spent::read(daemon.pid(), targets)?;
        let rss_bytes = kernel::process(daemon.pid())?.rss_bytes;
        let Watch { fds_max, syn_sent_max, .. } = watch;
        std::thread::sleep(SETTLE);
        let log = Log::read(daemon.log())?;
        let watched = watchers.map(|watchers| watchers.catch_up(&socket)).transpose()?;
        let page = daemon.page("/metrics")?;
        let in_flight_max = daemon::sum(&daemon::samples(&page), "probe_engine_shard_in_flight_max", &[]);
        let descriptors_max = kernel::descriptors_max(daemon.pid())?;
        let dropping = flips.iter().filter(|flip| flip.manner == Order::Drop).count();
        let whole_life = WholeLife::of(&daemon, &manifests, taken_before, dropping)?;
        let window = Rates::between(&spent_before, &spent_at_end);
        let storm = Rates::between(&spent_at_death, spent_after_period.as_ref().unwrap_or(&spent_at_end));
        Ok(Seen {
            flips,
            log,
            start,
            dead: edges,
            storm,
            window,
            whole_life,
            load_s,
            descriptors_max,
            late_syns: end.tcp.syn_retrans - syn_retrans,
            in_flight_max: in_flight_max as usize,
            fds_max,
            syn_sent_max,
            rss_bytes,
            end,
            watched,
        })
    }

    /// All at once: each process of the targets has its orders before the first has carried out any.
    fn kill(&self, targets: &mut Targets, load: &Load) -> anyhow::Result<Vec<Flip>> {
        let mut flips = Vec::with_capacity(load.pods.len());
        for (turn, order) in self.orders.iter().copied().enumerate() {
            let pods: Vec<usize> = (turn..load.pods.len()).step_by(self.orders.len()).collect();
            let closed = targets.order_all(order, &pods)?;
            flips.extend(pods.into_iter().zip(closed).map(|(pod, closed)| Flip {
                pod,
                manner: order,
                fails_late: order == Order::Drop,
                closed: Some(closed),
                opened: None,
            }));
        }
        // In the order in which they are opened.
        flips.sort_by_key(|flip| flip.pod);
        Ok(flips)
    }
}

/// Looks at the daemon now and then.
struct Watch<'a> {
    daemon: &'a Daemon,
    looks: usize,
    fds_max: usize,
    syn_sent_max: usize,
}

impl Watch<'_> {
    fn until(&mut self, end: Instant) -> anyhow::Result<()> {
        while now() + LOOK_EVERY < end {
            std::thread::sleep(LOOK_EVERY);
            self.fds_max = self.fds_max.max(kernel::process(self.daemon.pid())?.fds);
            if self.looks.is_multiple_of(SYN_SENT_ONE_OF) {
                self.syn_sent_max = self.syn_sent_max.max(kernel::syn_sent()?);
            }
            self.looks += 1;
        }
        sleep_until(end);
        Ok(())
    }
}
