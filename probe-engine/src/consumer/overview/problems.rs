//! What is wrong with the engine itself, as sentences: the dashboard's banner and the head of `top`.
//!
//! Names are those of the alerts (`deploy/prometheus`), where there is one.

use std::sync::atomic::Ordering;

use super::Problem;
use crate::api::admin::health::Health;
use crate::api::server;
use crate::clock;
use crate::consumer::metrics::Facts;
use crate::limits;
use crate::results::SeriesLevels;

/// What the collector saw at one look.
pub(super) struct Look<'a> {
    pub(super) facts: &'a Facts,
    pub(super) server: &'a server::Facts,
    pub(super) health: &'a Health,
    /// Sources that have not been read once.
    pub(super) unsynced: &'a [&'static str],
    pub(super) stuck: u64,
    pub(super) paused: u64,
    /// Probes that are not made any more because of a Failure on which nobody acts.
    pub(super) held: u64,
    pub(super) series: SeriesLevels,
    /// Handlers whose attempts waited for a place at every look of the last seconds.
    pub(super) saturated: &'a [&'static str],
}

/// Severe ones first.
pub(super) fn of(look: &Look<'_>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut tell = |kind, severe, text: String| problems.push(Problem { kind, text, severe });
    for check in look.health.live() {
        if let Some(why) = check.failure {
            tell("ShardStalled", true, format!("{}: {why}", check.name));
        }
    }
    if look.stuck > 0 {
        let text =
            "probes have no outcome, for reasons of the daemon's own; `probe-engine doctor` and /readyz name them";
        tell("LocalHigh", true, format!("{} {text}", look.stuck));
    }
    for source in &look.server.sources {
        if let Some(error) = &source.error {
            tell("ConfigReloadFailed", true, format!("{}: {error}", source.kind));
        }
    }
    if let Some(tcp) = &look.facts.tcp
        && tcp.certificate_load_failed.load(Ordering::Relaxed) == 1
    {
        let text = "the control API's certificates on disk cannot be used (the log says why); those before stay in use";
        tell("ConfigReloadFailed", true, text.to_owned());
    }
    if let Some(since) = unwritten_for(look.facts) {
        let text = "the state file could not be written, so that a restart would forget verdicts and counts";
        tell("StateUnwritable", true, format!("for {since} s {text}"));
    }
    if let Some(ebpf) = &look.facts.ebpf
        && ebpf.stats.feed_healthy.load(Ordering::Relaxed) == 0
    {
        tell(
            "PassiveFeedLost",
            true,
            "the kernel program's self-test does not pass: every tcpSocket attempt connects".to_owned(),
        );
    }
    for handler in look.saturated {
        tell(
            "PoolSaturated",
            true,
            format!("{handler} attempts wait for a place in the pool; see --{handler}-concurrent-max"),
        );
    }
    for (index, shard) in look.server.shards.iter().enumerate() {
        if let Some(why) = &shard.fallback_reason {
            tell("FallbackEpoll", false, format!("shard {index} works without io_uring: {why}"));
        }
    }
    if look.paused > 0 {
        tell("Paused", false, format!("probes that are paused: {}", look.paused));
    }
    if look.held > 0 {
        let text = "probes that wait for a restart of their container, which nobody makes";
        tell("Held", false, format!("{text}: {}", look.held));
    }
    if look.series.caps_probes() {
        let level = look.series.probes().as_str();
        tell("SeriesCapped", false, format!("metric series are kept per {level}: there are too many for finer ones"));
    } else if look.series.is_capped(look.facts.runs_pods) {
        tell("SeriesCapped", false, "there are no kube_pod metric series: the node has too many pods".to_owned());
    }
    if !look.unsynced.is_empty() {
        tell("NotReady", false, format!("not read once yet: {}", look.unsynced.join(", ")));
    }
    problems.sort_by_key(|problem| !problem.severe);
    problems
}

/// Seconds since the state file was current, where that is too long ago: a writing failed, or one hangs.
fn unwritten_for(facts: &Facts) -> Option<u64> {
    let current_at_ms = facts.state.current_at_ms.load(Ordering::Relaxed);
    let has_failed = facts.state.errors.load(Ordering::Relaxed) > 0;
    let now_ms = u64::try_from(clock::wall().as_millisecond()).unwrap_or_default();
    let age_s = now_ms.saturating_sub(current_at_ms) / 1_000;
    let is_failing = has_failed && age_s > limits::STATE_UNWRITTEN_MAX.as_secs();
    // Before the first writing there is nothing that could be old: sources may not have been read yet.
    let is_hanging = current_at_ms > 0 && age_s > limits::STATE_HANGING_MAX.as_secs();
    (is_failing || is_hanging).then_some(age_s)
}
