//! What is looked at once a second: does it grow?

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};

use super::pace::Pace;
use crate::daemon::{Daemon, samples, sum};
use crate::flips::Flips;
use crate::kernel::{self, Sockets};
use crate::quantile::median;
use crate::scenarios::life::sleep_until;
use crate::targets::Targets;
use crate::window::{Rates, Spent, now};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A TIME_WAIT lasts 60 s and up to 4.1 s more (`kernel/time/timer.c`, `LVL_GRAN`); and the second that a look takes.
const TIME_WAIT_MAX: Duration = Duration::from_secs(66);

/// What the daemon holds, by name: sums over shards.
pub(super) fn gauges(samples: &BTreeMap<&str, f64>) -> BTreeMap<String, f64> {
    let mut gauges = BTreeMap::new();
    for slab in ["attempts", "leases", "workers"] {
        let label = format!("slab=\"{slab}\"");
        for (what, name) in [("used", "probe_engine_shard_slab_used"), ("places", "probe_engine_shard_slab_places")] {
            gauges.insert(format!("slab_{what}_{slab}"), sum(samples, name, &[&label]));
        }
    }
    for (name, metric) in [
        ("pods", "probe_engine_pods"),
        ("ebpf_targets", "probe_engine_ebpf_targets"),
        ("ebpf_listeners", "probe_engine_ebpf_listeners"),
        ("passive_held", "probe_engine_passive_held"),
    ] {
        gauges.insert(name.to_owned(), sum(samples, metric, &[]));
    }
    gauges
}

/// What was seen in the window.
pub(super) struct Looks {
    /// By name, one value per look, all pods that come and go being there.
    pub(super) series: BTreeMap<String, Vec<f64>>,
    /// The most sockets in TIME_WAIT beyond the connections of the time that they last; 0 or less = none too many.
    time_wait_excess: f64,
    pub(super) rates: Rates,
    pub(super) syn_sent_max: usize,
}

/// Looks once a second, and flips targets, until the window ends.
pub(super) fn watch(
    daemon: &Daemon,
    targets: &mut Targets,
    flips: &mut Flips,
    pace: Pace,
    duration: Duration,
) -> anyhow::Result<Looks> {
    let mut opens: Vec<(Instant, f64)> = vec![(now(), 0.0)];
    sleep_until(now() + pace.life);
    let start = now();
    let end = start + duration;
    let spent = Spent::read(daemon.pid(), targets)?;
    let mut looks =
        Looks { series: BTreeMap::new(), time_wait_excess: f64::MIN, rates: Rates::default(), syn_sent_max: 0 };
    let mut look_at = start;
    loop {
        let flip_at = flips.next_at().map_or(end, |at| start + at);
        let next = flip_at.min(look_at).min(end);
        sleep_until(next);
        if next == end {
            break;
        }
        if next == flip_at {
            flips.step(targets)?;
            continue;
        }
        looks.look(daemon, &mut opens)?;
        look_at += LOOK_EVERY;
    }
    looks.rates = Rates::between(&spent, &Spent::read(daemon.pid(), targets)?);
    Ok(looks)
}

impl Looks {
    fn look(&mut self, daemon: &Daemon, opens: &mut Vec<(Instant, f64)>) -> anyhow::Result<()> {
        let process = kernel::process(daemon.pid()).context("the daemon has ended")?;
        let sockets = Sockets::read()?;
        let syn_sent = kernel::syn_sent()?;
        let opened = kernel::active_opens()? as f64;
        let at = now();
        let old = opens.iter().rev().find(|(then, _)| at.saturating_duration_since(*then) >= TIME_WAIT_MAX);
        let lasting = opened - old.map_or(0.0, |(_, opened)| *opened);
        self.time_wait_excess = self.time_wait_excess.max(sockets.time_wait as f64 - lasting);
        opens.push((at, opened));
        self.syn_sent_max = self.syn_sent_max.max(syn_sent);
        let page = daemon.page("/metrics")?;
        let mut values = gauges(&samples(&page));
        for (name, value) in [
            ("rss_bytes", process.rss_bytes as f64),
            ("fds", process.fds as f64),
            ("sockets_in_use", sockets.in_use as f64),
            ("sockets_orphan", sockets.orphan as f64),
            ("sockets_allocated", sockets.allocated as f64),
            ("sockets_time_wait", sockets.time_wait as f64),
            ("sockets_syn_sent", syn_sent as f64),
        ] {
            values.insert(name.to_owned(), value);
        }
        for (name, value) in values {
            self.series.entry(name).or_default().push(value);
        }
        Ok(())
    }

    /// Medians of the window's second third and of its last.
    pub(super) fn thirds(&self, name: &str) -> Option<(f64, f64)> {
        let values = self.series.get(name)?;
        let third = values.len() / 3;
        Some((median(&values[third..2 * third])?, median(&values[2 * third..])?))
    }

    /// By how much a value may differ.
    fn margin(name: &str, middle: f64) -> f64 {
        let least = match name {
            "rss_bytes" => 4e6,
            // What is being made at the moment.
            "slab_used_attempts" | "slab_places_attempts" => 1_024.0,
            "fds" | "sockets_in_use" | "sockets_orphan" | "sockets_allocated" | "sockets_syn_sent" => 256.0,
            _ => 128.0,
        };
        (middle * 0.03).max(least)
    }

    fn is_flat(&self, name: &str) -> bool {
        self.thirds(name).is_none_or(|(middle, last)| last - middle <= Self::margin(name, middle))
    }

    /// What is not flat. TIME_WAIT has a rule of its own.
    pub(super) fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        for name in self.series.keys().filter(|name| *name != "sockets_time_wait") {
            if let Some((middle, last)) = self.thirds(name).filter(|_| !self.is_flat(name)) {
                complaints.push(format!("{name} grows: {middle:.0} in the second third, {last:.0} in the last"));
            }
        }
        if self.time_wait_excess > 0.0 {
            let excess = self.time_wait_excess;
            complaints.push(format!("{excess:.0} sockets in TIME_WAIT more than connections in {TIME_WAIT_MAX:?}"));
        }
        complaints
    }

    pub(super) fn json(&self) -> Value {
        let thirds = |name: &String| {
            let (middle, last) = self.thirds(name)?;
            Some((name.clone(), json!({"second_third": middle, "last_third": last})))
        };
        self.series.keys().filter_map(thirds).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(name: &str, values: impl Iterator<Item = f64>) -> Looks {
        let series = BTreeMap::from([(name.to_owned(), values.collect())]);
        Looks { series, time_wait_excess: 0.0, rates: Rates::default(), syn_sent_max: 0 }
    }

    #[test]
    fn memory_that_grows_with_every_pod_is_told_and_a_plateau_is_not() {
        let plateau = (0..60).map(|second| 160e6 + f64::from(second.min(20)) * 1e6 + f64::from(second % 3) * 1e6);
        assert_eq!(looks("rss_bytes", plateau).complaints(), [""; 0]);
        // 300 bytes for each of 1,000 pods a second.
        let leak = (0..60).map(|second| 100e6 + f64::from(second) * 300e3);
        assert_eq!(looks("rss_bytes", leak).complaints().len(), 1);
    }

    #[test]
    fn one_descriptor_a_file_is_told() {
        let leak = (0..60).map(|second| 53.0 + f64::from(second) * 100.0);
        assert_eq!(looks("fds", leak).complaints().len(), 1);
    }
}
