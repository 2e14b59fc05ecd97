//! What a run of scenarios is told.

use std::path::PathBuf;

use anyhow::bail;

use crate::scenario::{Numbers, Scenario};

/// Options of all scenarios; where they say nothing, the scenario's own numbers hold.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Probes in all (rounded up to pods of four)
    #[arg(long)]
    pub probes: Option<usize>,
    /// Period of every probe, in milliseconds: whole seconds, as `periodSeconds` is
    #[arg(long, value_name = "MS")]
    pub period: Option<u64>,
    /// Seconds that are measured (rounded up to whole periods)
    #[arg(long, value_name = "S")]
    pub duration: Option<u64>,
    /// Seconds before that
    #[arg(long, value_name = "S")]
    pub warmup: Option<u64>,
    /// The daemon's shard threads
    #[arg(long)]
    pub shards: Option<u16>,
    /// How its shards do their I/O
    #[arg(long, value_enum)]
    pub io: Option<Io>,
    /// off: no passive answers, in no scenario
    #[arg(long, value_enum, default_value = "auto")]
    pub ebpf: Ebpf,
    /// How it, and what it is compared with, closes connections
    #[arg(long, value_enum, default_value = "fin")]
    pub close: Close,
    /// Its `--passive-max-age-seconds`
    #[arg(long, value_name = "S", default_value_t = 60)]
    pub passive_max_age: u64,
    /// Measure this program too, on the same targets and period
    #[arg(long, value_enum)]
    pub peer: Option<Peer>,
    /// Small numbers, no floors and baselines: does everything work, is everything true?
    #[arg(long)]
    pub smoke: bool,
    /// No floors, baselines and peers
    #[arg(long)]
    pub alone: bool,
    /// Busy loops beside the daemon and its targets while it runs, as important as they are (in scenarios at a steady rate)
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub busy_loops: usize,
    /// Seed of what is closed when
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// More flags of `probe-engine run`
    #[arg(long = "daemon-flag", value_name = "FLAG", allow_hyphen_values = true)]
    pub daemon_flags: Vec<String>,
    /// The daemon's binary
    #[arg(long, value_name = "PATH")]
    pub daemon: PathBuf,
}

/// `--io`
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Io {
    /// io_uring
    Uring,
    /// epoll
    Epoll,
}

/// `--ebpf`
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Ebpf {
    /// As the scenario says
    Auto,
    /// Never
    Off,
}

/// `--close`
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Close {
    /// close(2)
    Fin,
    /// SO_LINGER 0
    Rst,
}

/// `--peer`
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Peer {
    /// HAProxy's health checks
    Haproxy,
}

/// A value as its option takes it.
#[must_use]
pub fn value_name(value: impl clap::ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

impl Options {
    /// As arguments of another process of this program.
    #[must_use]
    pub fn to_args(&self) -> Vec<String> {
        let mut args = Vec::new();
        let mut option =
            |name: &str, value: Option<String>| args.extend(value.map(|value| format!("--{name}={value}")));
        option("probes", self.probes.map(|value| value.to_string()));
        option("period", self.period.map(|value| value.to_string()));
        option("duration", self.duration.map(|value| value.to_string()));
        option("warmup", self.warmup.map(|value| value.to_string()));
        option("shards", self.shards.map(|value| value.to_string()));
        option("io", self.io.map(value_name));
        option("ebpf", Some(value_name(self.ebpf)));
        option("close", Some(value_name(self.close)));
        option("passive-max-age", Some(self.passive_max_age.to_string()));
        option("peer", self.peer.map(value_name));
        option("busy-loops", Some(self.busy_loops.to_string()));
        option("seed", Some(self.seed.to_string()));
        option("daemon", Some(self.daemon.display().to_string()));
        for flag in &self.daemon_flags {
            option("daemon-flag", Some(flag.clone()));
        }
        args.extend(self.smoke.then(|| "--smoke".to_owned()));
        args.extend(self.alone.then(|| "--alone".to_owned()));
        args
    }

    /// The scenario's numbers, with what these options say instead.
    pub fn numbers(&self, scenario: Scenario, short: bool) -> anyhow::Result<Numbers> {
        let mut numbers = if short || self.smoke { scenario.short() } else { scenario.full() };
        if let Some(period) = self.period {
            if period == 0 || !period.is_multiple_of(1_000) {
                bail!("--period {period}: must be whole seconds in milliseconds (1000, 2000 ...), as periodSeconds is");
            }
            numbers.period_s = period / 1_000;
        }
        numbers.probes = self.probes.unwrap_or(numbers.probes);
        numbers.duration_s = self.duration.unwrap_or(numbers.duration_s).next_multiple_of(numbers.period_s);
        numbers.warmup_s = self.warmup.unwrap_or(numbers.warmup_s);
        if numbers.probes == 0 || numbers.duration_s == 0 {
            bail!("--probes {} --duration {}: must be at least 1", numbers.probes, numbers.duration_s);
        }
        Ok(numbers)
    }

    /// Whether tcpSocket probes of the scenario are answered from kernel state.
    #[must_use]
    pub fn is_passive(&self, scenario: Scenario) -> bool {
        scenario.is_passive() && self.ebpf == Ebpf::Auto
    }

    /// Flags of the daemon that every scenario gives it.
    #[must_use]
    pub fn daemon_args(&self, scenario: Scenario) -> Vec<String> {
        // No daemon measures what it was not asked to: a missing privilege is an error, not other figures.
        let ebpf = if self.is_passive(scenario) { "require" } else { "off" };
        let mut args = vec![
            format!("--ebpf={ebpf}"),
            format!("--passive-max-age-seconds={}", self.passive_max_age),
            format!("--close={}", value_name(self.close)),
            "--log-format=json".to_owned(),
            "--log-level=warn,probe_engine::results=info".to_owned(),
        ];
        args.extend(self.shards.map(|shards| format!("--shards={shards}")));
        args.extend(self.io.map(|io| format!("--io={}", value_name(io))));
        args.extend(self.daemon_flags.iter().cloned());
        args
    }
}
