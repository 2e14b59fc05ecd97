//! The task that makes the overview.
//!
//! **Invariant:** it asks the results task for one look at a time, and never for one over all pods.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use probe_core::time::Instant;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::heatmap::{History, Sums};
use super::{HandlerOverview, Outputs, Overview, PoolOverview, Quantiles, problems};
use crate::api::admin::health::Health;
use crate::api::server;
use crate::consumer::metrics::{Facts, POOLED};
use crate::consumer::process;
use crate::results::latency::{Recorded, Series, Window};
use crate::results::{Node, ResultsHandle, SeriesLevels};
use crate::shard::metrics::{HandlerKind, OutcomeKind};
use crate::{clock, limits, shutdown};

/// Over so long rates are taken.
const RATE_OVER: Duration = Duration::from_secs(4);

/// Looks at which attempts must have waited for a place in the pool, one after the other, before that is a problem.
const SATURATED_LOOKS: u32 = 6;

/// What the task is made with.
pub struct Config {
    /// Pods and probes.
    pub results: ResultsHandle,
    /// What does not change.
    pub facts: Facts,
    /// What the engine says of itself.
    pub server: watch::Receiver<server::Facts>,
    /// Is a shard stuck?
    pub health: Health,
}

/// Runs until `shutdown` turns true (or its sender goes), or results has ended.
pub async fn run(config: Config, outputs: Outputs, mut shutdown: watch::Receiver<bool>) {
    let mut ticks = interval(limits::OVERVIEW_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut collector =
        Collector { config, outputs, history: History::default(), newest: None, looks: VecDeque::new() };
    loop {
        tokio::select! {
            () = shutdown::told(&mut shutdown) => return,
            _ = ticks.tick() => {}
        }
        if !collector.look().await {
            return;
        }
    }
}

struct Collector {
    config: Config,
    outputs: Outputs,
    history: History,
    /// What the heatmap has taken in.
    newest: Option<Sums>,
    /// Those of the last [`RATE_OVER`], the oldest first.
    looks: VecDeque<Moment>,
}

/// What rates are made of.
#[derive(Clone, Copy, Debug, Default)]
struct Moment {
    at: Instant,
    attempts: u64,
    passive: u64,
    failed: u64,
    cpu_ns: u64,
    /// By handler of the pool, in the order of [`POOLED`]: looks in a row at which attempts waited.
    waited: [u32; POOLED.len()],
}

/// What one look at the node copies out.
struct NodeLook {
    sums: Sums,
    overview: Overview,
    unsynced: Vec<&'static str>,
    held: u64,
    series: SeriesLevels,
}

impl Collector {
    /// `false`: results has ended.
    async fn look(&mut self) -> bool {
        let Ok(NodeLook { sums, mut overview, unsynced, held, series }) = self.config.results.read(look_at).await
        else {
            return false;
        };
        let wall = clock::wall();
        let newest = self.newest.replace(sums.clone()).unwrap_or_else(|| sums.clone());
        self.history.push(wall.as_second(), &sums, &newest);
        overview.at_ms = wall.as_millisecond();
        overview.cpu_ns = process::cpu_ns();
        overview.memory_bytes = process::memory_bytes();
        let facts = self.config.facts.clone();
        overview.version = facts.version;
        overview.runtime = facts.runtime;
        overview.in_flight_max = (facts.in_flight_max * facts.io.len()) as u64;
        overview.pool = facts.pool.iter().flat_map(|pool| POOLED.map(|handler| lane(handler, pool(handler)))).collect();
        let moment = self.rate(&mut overview);
        {
            let server = self.config.server.borrow();
            overview.node_name.clone_from(&server.node_name);
            overview.instance.clone_from(&server.instance);
            overview.uptime_ns = u64::try_from((moment.at - server.started).as_nanos()).unwrap_or(u64::MAX);
            let waited = POOLED.iter().zip(moment.waited).filter(|(_, looks)| *looks >= SATURATED_LOOKS);
            let saturated: Vec<_> = waited.map(|(handler, _)| handler.as_str()).collect();
            overview.problems = problems::of(&problems::Look {
                facts: &facts,
                server: &server,
                health: &self.config.health,
                unsynced: &unsynced,
                stuck: overview.probes_stuck,
                paused: overview.probes_paused,
                held,
                series: series.at_most(facts.series),
                saturated: &saturated,
            });
        }
        self.outputs.overviews.send_replace(Arc::new(overview));
        self.outputs.heatmaps.send_replace(self.history.columns());
        true
    }

    /// Rates over the last seconds, and this moment.
    fn rate(&mut self, overview: &mut Overview) -> Moment {
        let sum = |of: fn(&HandlerOverview) -> u64| overview.handlers.iter().map(of).sum::<u64>();
        let passive = sum(|handler| handler.passive);
        let failed = sum(|handler| handler.failed);
        let attempts = passive + failed + sum(|handler| handler.successful + handler.discarded);
        let before = self.looks.back().map_or([0; POOLED.len()], |moment| moment.waited);
        let mut waited = [0; POOLED.len()];
        for (index, lane) in overview.pool.iter().enumerate() {
            waited[index] = if lane.queued > 0 { before[index] + 1 } else { 0 };
        }
        let now = Moment { at: clock::now(), attempts, passive, failed, cpu_ns: overview.cpu_ns, waited };
        self.looks.push_back(now);
        while self.looks.len() > 2 && self.looks.front().is_some_and(|oldest| now.at - oldest.at > RATE_OVER) {
            self.looks.pop_front();
        }
        let then = self.looks.front().copied().unwrap_or(now);
        let seconds = (now.at - then.at).as_secs_f64();
        if seconds > 0.0 {
            let grown = |now: u64, then: u64| now.saturating_sub(then) as f64;
            let attempts = grown(now.attempts, then.attempts);
            overview.attempts_per_second = attempts / seconds;
            overview.failures_per_second = grown(now.failed, then.failed) / seconds;
            overview.passive_share = if attempts > 0.0 { grown(now.passive, then.passive) / attempts } else { 0.0 };
            overview.cpu_cores = grown(now.cpu_ns, then.cpu_ns) / 1e9 / seconds;
        }
        now
    }
}

fn lane(handler: HandlerKind, lane: crate::consumer::metrics::PoolLane) -> PoolOverview {
    PoolOverview {
        handler: handler.as_str(),
        queued: lane.queued as u64,
        in_flight: lane.in_flight as u64,
        in_flight_max: lane.in_flight_max as u64,
    }
}

/// Of several series together, of the last minute.
fn quantiles(node: &Node, now: Instant, series: &[Series]) -> Quantiles {
    let mut sum = Recorded::default();
    series.iter().for_each(|series| sum.add(&node.latency.of(*series, Window::Minute, now)));
    (&sum).into()
}

fn look_at(node: &Node) -> NodeLook {
    let now = clock::now();
    let counts = || node.shards.iter().filter_map(|shard| shard.counts.as_deref());
    let handlers = HandlerKind::ALL.into_iter().map(|handler| {
        let of = |outcome: OutcomeKind| {
            let histograms = counts().filter_map(|counts| counts.latency_us[handler.index()][outcome.index()].as_ref());
            histograms.map(Histogram::len).sum::<u64>()
        };
        let passive = if handler == HandlerKind::Tcp { counts().map(|counts| counts.passive.passive).sum() } else { 0 };
        HandlerOverview {
            handler: handler.as_str(),
            successful: of(OutcomeKind::Success) + of(OutcomeKind::Warning),
            failed: of(OutcomeKind::Failure),
            discarded: of(OutcomeKind::Error) + of(OutcomeKind::Local),
            passive,
            latency: quantiles(node, now, &OutcomeKind::ALL.map(|outcome| Series::Latency(handler, outcome))),
        }
    });
    let has_attempts = |of: &HandlerOverview| of.successful + of.failed + of.discarded + of.passive > 0;
    let overview = Overview {
        pods_by_phase: node.phases,
        pods_ready: node.pods_ready,
        probes: node.pods.probes_len() as u64,
        probes_failing: node.probes_failing,
        probes_paused: node.paused(clock::now()).count,
        probes_stuck: counts().map(|counts| counts.stuck_local).sum(),
        handlers: handlers.filter(has_attempts).collect(),
        missed: counts().map(|counts| counts.missed).sum(),
        local: counts().map(|counts| counts.local.iter().sum::<u64>()).sum(),
        restarts: node.restarts,
        in_flight: counts().map(|counts| counts.in_flight).sum(),
        lateness: quantiles(node, now, &HandlerKind::ALL.map(Series::Lateness)),
        ..Overview::default()
    };
    NodeLook {
        sums: Sums::of(node),
        overview,
        unsynced: node.unsynced().collect(),
        held: node.held().count,
        series: node.series,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use probe_core::id::ProbeType;
    use probe_core::outcome::{LocalCause, Outcome, Verdict};

    use super::*;
    use crate::api::server::{ShardFacts, SourceFacts};
    use crate::consumer::metrics::PoolLane;
    use crate::consumer::overview::{Overviews, channel};
    use crate::consumer::state::StateStats;
    use crate::results::fixture::{Bench, publish, running, simple_pod};
    use crate::results::{SeriesLevel, Update};
    use crate::shard::metrics::ShardMetrics;

    fn server_facts() -> server::Facts {
        server::Facts {
            started_at: clock::wall(),
            started: clock::now(),
            shards: vec![ShardFacts { io: "epoll", fallback_reason: Some("refused".to_owned()) }],
            sources: vec![SourceFacts {
                kind: "manifests",
                place: "/pods".to_owned(),
                synced: true,
                pods_count: 1,
                error: Some("web.yaml: spec is missing".to_owned()),
            }],
            ebpf: String::new(),
            passive: None,
            ebpf_stats: None,
            metrics_address: None,
            dashboard_address: None,
            api_address: None,
            node_name: "node-1".to_owned(),
            instance: "this-one".to_owned(),
        }
    }

    fn collector(bench: &Bench, queued: usize) -> (Collector, Overviews) {
        let (outputs, overviews, _) = channel();
        let facts = Facts {
            version: "1",
            started_at: clock::wall(),
            series: SeriesLevel::Probe,
            runtime: "none",
            runs_pods: false,
            io: vec!["epoll", "epoll"],
            heartbeats: Vec::new(),
            in_flight_max: 100,
            sources: Vec::new(),
            otlp: None,
            lifecycle: None,
            state: Arc::new(StateStats::default()),
            tcp: None,
            pool: Some(Arc::new(move |_| PoolLane { queued, in_flight: 2, in_flight_max: 2 })),
            ebpf: None,
        };
        let results = bench.results.clone();
        let health = Health::new(Vec::new(), results.clone());
        let config = Config { results, facts, server: watch::channel(server_facts()).1, health };
        let collector =
            Collector { config, outputs, history: History::default(), newest: None, looks: VecDeque::new() };
        (collector, overviews)
    }

    fn counts() -> ShardMetrics {
        let mut counts = ShardMetrics::new();
        let took = Duration::from_millis(2);
        counts.attempt(HandlerKind::Tcp, &Outcome::Success("".into()), took);
        counts.attempt(HandlerKind::Tcp, &Outcome::Failure("refused".into()), took);
        counts.attempt(HandlerKind::Http, &Outcome::Local(LocalCause::Ports), took);
        counts.passive.passive = 6;
        counts.in_flight = 3;
        counts
    }

    #[tokio::test]
    async fn a_look_adds_up_what_the_shards_say_and_rates_what_came_since_the_one_before() {
        let bench = Bench::start(16, 16);
        let pod = simple_pod("a", &[ProbeType::Liveness, ProbeType::Readiness]);
        bench.add(&pod, Some(running(&pod, "fake://1"))).await;
        bench.push(publish("a", ProbeType::Liveness, "fake://1", Some(Verdict::Failure)));
        let (mut collector, overviews) = collector(&bench, 0);
        assert!(collector.look().await);
        bench.push(Update::Metrics(Box::new(counts())));
        assert!(collector.look().await);
        let overview = overviews.borrow().clone();
        let [tcp, http] = &overview.handlers[..] else { panic!("{:?}", overview.handlers) };
        assert_eq!((tcp.successful, tcp.failed, tcp.passive, http.discarded), (1, 1, 6, 1));
        assert_eq!((tcp.latency.count, tcp.latency.p50_ns, tcp.latency.p99_ns), (2, 2_007_000, 0));
        assert_eq!((overview.local, overview.in_flight, overview.in_flight_max), (1, 3, 200));
        assert_eq!((overview.probes, overview.probes_failing, overview.node_name.as_str()), (2, 1, "node-1"));
        assert!(overview.attempts_per_second > 0.0 && (overview.passive_share - 6.0 / 9.0).abs() < 1e-9);
        let kinds: Vec<_> = overview.problems.iter().map(|problem| problem.kind).collect();
        assert_eq!(kinds, ["ConfigReloadFailed", "FallbackEpoll", "Held", "NotReady"]);
        drop(bench.inputs);
        bench.stage.abort();
        let _ = bench.stage.await;
        assert!(!collector.look().await, "results has ended");
    }

    #[tokio::test]
    async fn a_pool_is_saturated_when_attempts_waited_at_every_look_for_some_time() {
        let bench = Bench::start(16, 16);
        let (mut collector, overviews) = collector(&bench, 1);
        let is_saturated = || overviews.borrow().problems.iter().filter(|p| p.kind == "PoolSaturated").count();
        for looks in 1..=SATURATED_LOOKS {
            assert!(collector.look().await);
            assert_eq!(is_saturated(), if looks < SATURATED_LOOKS { 0 } else { POOLED.len() });
        }
    }

    #[tokio::test]
    async fn the_state_file_is_told_where_writing_fails_and_where_it_hangs() {
        let bench = Bench::start(16, 16);
        let (mut collector, overviews) = collector(&bench, 0);
        let state = Arc::clone(&collector.config.facts.state);
        let now_ms = u64::try_from(clock::wall().as_millisecond()).expect("it is after 1970");
        let hanging_s = limits::STATE_HANGING_MAX.as_secs() + 1;
        for (current_at_ms, errors, expected) in [
            (0, 0, false),
            (now_ms - 60_000, 0, false),
            (now_ms - 60_000, 1, true),
            (now_ms - hanging_s * 1_000, 0, true),
        ] {
            state.current_at_ms.store(current_at_ms, Ordering::Relaxed);
            state.errors.store(errors, Ordering::Relaxed);
            assert!(collector.look().await);
            let is_told = overviews.borrow().problems.iter().any(|problem| problem.kind == "StateUnwritable");
            assert_eq!(is_told, expected, "{current_at_ms}, {errors} errors");
        }
    }
}
