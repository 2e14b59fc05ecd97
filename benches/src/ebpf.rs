//! The scenario `ebpf`: what the kernel program costs per event, by the kernel's own statistics.
//!
//! Two kinds of traffic by another process: connections, whose events the program ignores, and listeners that open and
//! close, whose events it reports. The machine may do something else meanwhile: the two means are those that explain
//! the times of both phases, given how many events of each phase reached the ring buffer.

use std::fs;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use probe_ebpf::WAKE_PAUSE_NS;
use probe_engine::ebpf::events::EventRing;
use probe_engine::ebpf::load::{LoadOptions, Loaded, ProgramCounts, load_with};
use serde_json::json;

use crate::strangers::Traffic;

/// Mean of an event that the program ignores, at most (ns).
const IGNORED_NS_MAX: f64 = 150.0;
/// Mean of an event that it reports, at most (ns).
const REPORTED_NS_MAX: f64 = 1_000.0;
/// Share of one core at [`CONNECTIONS_PER_SECOND`], at most.
const SHARE_MAX: f64 = 0.02;
const CONNECTIONS_PER_SECOND: f64 = 10_000.0;

/// Records taken from the ring buffer at once.
const DRAIN_MAX: usize = 1_024;

/// What to run.
#[derive(clap::Args, Clone, Debug)]
pub struct Scenario {
    /// Connections of other people's
    #[arg(long, default_value_t = 50_000)]
    pub connections: usize,
    /// Listeners that open and close
    #[arg(long, default_value_t = 25_000)]
    pub listeners: usize,
    /// Of either, per second
    #[arg(long, default_value_t = 5_000)]
    pub per_second: usize,
    /// Attach to the raw tracepoint, as where BTF attach is refused
    #[arg(long)]
    pub raw: bool,
}

/// Runs the scenario; fails when a claim does not hold.
pub fn run(scenario: &Scenario, json_path: Option<&Path>) -> anyhow::Result<()> {
    let options = LoadOptions { stats: true, force_raw: scenario.raw, ..LoadOptions::default() };
    let Loaded { mut events, program, hook, sha256, drops, attached, .. } =
        load_with(options).context("the kernel program cannot be measured here")?;
    let (reported, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let counted = || -> anyhow::Result<Counted> {
        Ok(Counted { counts: program.read()?, reported: reported.load(Ordering::Acquire) })
    };
    let per_second = scenario.per_second;
    let (connecting, listening) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| read(&mut events, &reported, &stop));
        let phases = || -> anyhow::Result<(Phase, Phase)> {
            let before = counted()?;
            Traffic { connections: scenario.connections, listeners: 0, per_second }.in_child()?;
            let between = counted()?;
            Traffic { connections: 0, listeners: scenario.listeners, per_second }.in_child()?;
            Ok((Phase::new(&before, &between), Phase::new(&between, &counted()?)))
        };
        let phases = phases();
        stop.store(true, Ordering::Release);
        reader.join().expect("the reader does not panic")?;
        phases
    })?;
    let recursion_misses = program.read()?.recursion_misses;
    drop(attached);
    ensure!(connecting.runs() > 0.0, "the kernel counted no run: are bpf statistics allowed here?");
    let figures = Figures::new(scenario, &connecting, &listening)?;
    println!("{} ({}), object {}", hook.as_str(), kernel_release(), &sha256[..12]);
    println!("     recursion misses {recursion_misses}, events without room {}", drops.load());
    if let Some(path) = json_path {
        let more = json!({
            "hook": hook.as_str(), "kernel": kernel_release(), "object_sha256": sha256,
            "recursion_misses": recursion_misses, "drops": drops.load(),
        });
        fs::write(path, format!("{:#}\n", figures.json(scenario, more)))?;
    }
    figures.judge()
}

/// Empties the ring buffer as the daemon does, asleep in between.
fn read(events: &mut EventRing, reported: &AtomicU64, stop: &AtomicBool) -> anyhow::Result<()> {
    while !stop.load(Ordering::Acquire) {
        let taken = events.drain(DRAIN_MAX, |_| ());
        reported.fetch_add(taken as u64, Ordering::Release);
        if taken > 0 {
            // A burst wakes once; what comes with it has to be looked for.
            std::thread::sleep(Duration::from_nanos(WAKE_PAUSE_NS));
        } else {
            wait(events.fd())?;
        }
    }
    Ok(())
}

fn wait(fd: BorrowedFd<'_>) -> anyhow::Result<()> {
    match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::from(50_u8)) {
        Ok(_) | Err(nix::Error::EINTR) => Ok(()),
        Err(error) => bail!("poll of the ring buffer: {error}"),
    }
}

/// One reading.
struct Counted {
    counts: ProgramCounts,
    reported: u64,
}

/// What happened between two readings.
struct Phase {
    ignored: f64,
    reported: f64,
    time_ns: f64,
}

impl Phase {
    fn new(before: &Counted, after: &Counted) -> Self {
        let reported = (after.reported - before.reported) as f64;
        Self {
            ignored: (after.counts.run_cnt - before.counts.run_cnt) as f64 - reported,
            reported,
            time_ns: (after.counts.run_time_ns - before.counts.run_time_ns) as f64,
        }
    }

    fn runs(&self) -> f64 {
        self.ignored + self.reported
    }
}

/// What came out.
struct Figures {
    ignored_ns: f64,
    reported_ns: f64,
    events_per_connection: f64,
    /// Of one core, at [`CONNECTIONS_PER_SECOND`].
    share: f64,
}

impl Figures {
    fn new(scenario: &Scenario, connecting: &Phase, listening: &Phase) -> anyhow::Result<Self> {
        // ignored x a + reported x b = time, for both phases.
        let determinant = connecting.ignored * listening.reported - listening.ignored * connecting.reported;
        ensure!(determinant.abs() > 1.0, "the phases do not tell the two kinds of events apart");
        let ignored_ns =
            (connecting.time_ns * listening.reported - listening.time_ns * connecting.reported) / determinant;
        let reported_ns =
            (connecting.ignored * listening.time_ns - listening.ignored * connecting.time_ns) / determinant;
        let events_per_connection = connecting.ignored / scenario.connections as f64;
        let share = events_per_connection * ignored_ns * CONNECTIONS_PER_SECOND / 1e9;
        Ok(Self { ignored_ns, reported_ns, events_per_connection, share })
    }

    /// Prints each claim with whether it holds; fails when one does not.
    fn judge(&self) -> anyhow::Result<()> {
        let mut wrong = 0;
        for (holds, text) in self.claims() {
            println!("{} {text}", if holds { "ok  " } else { "FAIL" });
            wrong += usize::from(!holds);
        }
        if wrong > 0 {
            bail!("{wrong} claim(s) do not hold");
        }
        Ok(())
    }

    fn claims(&self) -> [(bool, String); 3] {
        let Self { ignored_ns, reported_ns, events_per_connection, share } = self;
        [
            (*ignored_ns <= IGNORED_NS_MAX, format!("an ignored event: {ignored_ns:.0} ns, at most {IGNORED_NS_MAX}")),
            (
                *reported_ns <= REPORTED_NS_MAX,
                format!("a reported event: {reported_ns:.0} ns, at most {REPORTED_NS_MAX}"),
            ),
            (
                *share <= SHARE_MAX,
                format!(
                    "{CONNECTIONS_PER_SECOND} connections/s of others ({events_per_connection:.1} events each): {:.2} % \
                     of one core, at most {} %",
                    share * 100.0,
                    SHARE_MAX * 100.0
                ),
            ),
        ]
    }

    fn json(&self, scenario: &Scenario, more: serde_json::Value) -> serde_json::Value {
        let mut value = json!({
            "scenario": "ebpf",
            "valid": self.claims().iter().all(|(holds, _)| *holds),
            "connections": scenario.connections,
            "listeners": scenario.listeners,
            "ignored_ns_mean": self.ignored_ns,
            "reported_ns_mean": self.reported_ns,
            "events_per_connection": self.events_per_connection,
            "core_share_at_10000_connections_per_s": self.share,
        });
        if let (Some(value), serde_json::Value::Object(more)) = (value.as_object_mut(), more) {
            value.extend(more);
        }
        value
    }
}

fn kernel_release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_means_are_found_however_the_kinds_are_mixed() {
        let phase =
            |ignored: f64, reported: f64| Phase { ignored, reported, time_ns: ignored * 90.0 + reported * 700.0 };
        let scenario = Scenario { connections: 100, listeners: 50, per_second: 1, raw: false };
        let figures = Figures::new(&scenario, &phase(1_100.0, 20.0), &phase(300.0, 120.0)).expect("figures");
        assert!((figures.ignored_ns - 90.0).abs() < 1e-6, "{}", figures.ignored_ns);
        assert!((figures.reported_ns - 700.0).abs() < 1e-6, "{}", figures.reported_ns);
        assert!((figures.share - 11.0 * 90.0 * 10_000.0 / 1e9).abs() < 1e-9, "{}", figures.share);
    }
}
