//! The scenarios by name, and their numbers.

use serde::Serialize;

use crate::handler::Handler;
use crate::load::Mix;

/// A scenario of `cargo xtask bench`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// tcpSocket probes that are answered from kernel state
    TcpPassive,
    /// tcpSocket probes, each attempt a connection (eBPF off); one of ten closed targets drops SYNs instead of refusing
    TcpActive,
    /// httpGet over HTTP
    Http,
    /// httpGet over HTTPS
    Https,
    /// grpc
    Grpc,
    /// exec
    Exec,
    /// 70 % tcp (passive), 22 % http, 4 % https, 3 % grpc, 1 % exec
    Mixed,
    /// 1,000,000 tcpSocket probes
    Million,
    /// Bytes of resident memory per additional probe
    Memory,
    /// 1,000 pods a second come and as many go, beside others that stay
    Churn,
    /// 12,500 pods at once: until all are scheduled, how first attempts are spread, and how soon those of later pods come
    ColdStart,
    /// tcpSocket probes (passive) whose targets all die in the same instant, and all return
    Storm,
    /// The same twice, the second time beside clients that watch pods, results and events and stop reading before it begins
    StormWatched,
    /// tcpSocket probes (eBPF off) and httpGet, half each, beside 16 busy loops; the targets go before them
    Starved,
    /// Claims of passive answers: real connects, TIME_WAIT, the same verdicts as without eBPF
    Passive,
    /// What the kernel program costs per event of the node
    Ebpf,
}

impl Scenario {
    /// As `--scenario` takes it.
    #[must_use]
    pub fn name(self) -> String {
        clap::ValueEnum::to_possible_value(&self).map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Those of a run without `--scenario`.
    pub const ALL: [Scenario; 14] = [
        Scenario::TcpPassive,
        Scenario::TcpActive,
        Scenario::Http,
        Scenario::Https,
        Scenario::Grpc,
        Scenario::Exec,
        Scenario::Mixed,
        Scenario::Million,
        Scenario::Memory,
        Scenario::Churn,
        Scenario::ColdStart,
        Scenario::Storm,
        Scenario::StormWatched,
        Scenario::Starved,
    ];

    /// Whether passive answers are part of it.
    #[must_use]
    pub const fn is_passive(self) -> bool {
        matches!(
            self,
            Scenario::TcpPassive
                | Scenario::Mixed
                | Scenario::Million
                | Scenario::Churn
                | Scenario::Storm
                | Scenario::StormWatched
        )
    }

    /// Which probes.
    #[must_use]
    pub const fn mix(self) -> Mix {
        let percent: &[(Handler, u32)] = match self {
            Scenario::TcpPassive
            | Scenario::TcpActive
            | Scenario::Million
            | Scenario::Memory
            | Scenario::Churn
            | Scenario::ColdStart
            | Scenario::Storm
            | Scenario::StormWatched
            | Scenario::Passive
            | Scenario::Ebpf => &[(Handler::Tcp, 100)],
            Scenario::Starved => &[(Handler::Tcp, 50), (Handler::Http, 50)],
            Scenario::Http => &[(Handler::Http, 100)],
            Scenario::Https => &[(Handler::Https, 100)],
            Scenario::Grpc => &[(Handler::Grpc, 100)],
            Scenario::Exec => &[(Handler::Exec, 100)],
            Scenario::Mixed => {
                &[(Handler::Tcp, 70), (Handler::Http, 22), (Handler::Https, 4), (Handler::Grpc, 3), (Handler::Exec, 1)]
            }
        };
        let own_one_of = match self {
            Scenario::Million | Scenario::Memory => Some(100),
            _ => None,
        };
        Mix { percent, own_one_of }
    }

    /// Numbers of a run of this scenario alone.
    #[must_use]
    pub const fn full(self) -> Numbers {
        let (probes, period_s, duration_s) = match self {
            Scenario::TcpPassive => (50_000, 1, 150),
            Scenario::TcpActive => (50_000, 10, 60),
            Scenario::Http => (20_000, 5, 60),
            Scenario::Https => (2_500, 5, 60),
            Scenario::Grpc => (5_000, 5, 60),
            Scenario::Exec => (500, 5, 60),
            Scenario::Mixed => (50_000, 10, 150),
            Scenario::Million => (1_000_000, 10, 150),
            // Long, so that it is the loading that is measured, and short enough for a connect of each probe.
            Scenario::Memory => (1_000_000, 60, 60),
            // Beside those that come and go.
            Scenario::Churn => (25_000, 1, 60),
            // Nothing is measured for a time of its own.
            Scenario::ColdStart => (50_000, 10, 10),
            // The duration is how long the targets are dead.
            Scenario::Storm => (50_000, 10, 30),
            // And how long, and some seconds more, nobody reads.
            Scenario::StormWatched => (10_000, 10, 60),
            // 1,000 attempts a second take a twentieth of a core: two threads that get a ninth of one each can make them.
            // Its pages are made by threads that starve, so an edge of the window is known to 0.1 s, not better: one of 1,000
            // attempts must be more.
            Scenario::Starved => (5_000, 5, 180),
            Scenario::Passive | Scenario::Ebpf => (0, 0, 0),
        };
        let warmup_s = match self {
            Scenario::Churn => 2 * period_s,
            _ if self.is_passive() => 30,
            _ => 2 * period_s,
        };
        Numbers { probes, period_s, duration_s, warmup_s, compared_s: 10 }
    }

    /// Numbers of a run of all: they show that everything works, and roughly what it costs.
    #[must_use]
    pub const fn short(self) -> Numbers {
        let probes = match self {
            Scenario::TcpPassive | Scenario::TcpActive | Scenario::Mixed => 4_000,
            Scenario::Http => 2_000,
            Scenario::Https | Scenario::Grpc => 400,
            Scenario::Exec => 100,
            Scenario::Million => 20_000,
            Scenario::Memory => 10_000,
            Scenario::Churn | Scenario::ColdStart => 2_000,
            Scenario::Starved => {
                return Numbers { probes: 400, period_s: 1, duration_s: 7, warmup_s: 2, compared_s: 2 };
            }
            // A timeout, which is a second, is to be shorter than a period.
            Scenario::Storm | Scenario::StormWatched => {
                return Numbers { probes: 4_000, period_s: 2, duration_s: 4, warmup_s: 1, compared_s: 2 };
            }
            Scenario::Passive | Scenario::Ebpf => 0,
        };
        // Each attempt of `memory` is a connect.
        let period_s = if matches!(self, Scenario::Memory) { 3 } else { 1 };
        let (duration_s, warmup_s) = if matches!(self, Scenario::Churn) { (6, 1) } else { (8, 3) };
        Numbers { probes, period_s, duration_s, warmup_s, compared_s: 2 }
    }
}

/// How much, and how long.
#[derive(Clone, Copy, Debug)]
pub struct Numbers {
    /// Probes in all.
    pub probes: usize,
    /// `periodSeconds` of each.
    pub period_s: u64,
    /// Seconds of the steady window; rounded up to whole periods.
    pub duration_s: u64,
    /// Seconds before it.
    pub warmup_s: u64,
    /// Seconds that each floor, baseline and peer runs.
    pub compared_s: u64,
}
