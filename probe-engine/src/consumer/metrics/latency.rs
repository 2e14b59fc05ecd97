//! The shards' histograms as they are, for who wants quantiles of a window: two looks, and the difference of the counts.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::Metrics;
use crate::results::{Node, ResultsError};
use crate::shard::metrics::{HandlerKind, OutcomeKind};

/// Pairs of a value and how often it was recorded, by rising value. A value stands for all that the histogram cannot tell
/// from it (2 digits), the largest of them.
pub type Counts = Vec<(u64, u64)>;

/// `GET /api/v1/latency`. What was never recorded is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Latency {
    /// Of all values: `us`.
    pub unit: &'static str,
    /// Sums over the shards since they started, as of their newest word, which comes once a second.
    pub since_start: SinceStart,
}

/// See [`Latency`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SinceStart {
    /// Actual start of attempts minus their due time, by handler. Passive answers are in it.
    pub lateness: BTreeMap<&'static str, Counts>,
    /// Duration of real attempts, by handler and outcome.
    pub latency: BTreeMap<&'static str, BTreeMap<&'static str, Counts>>,
    /// Duration of the shards' turns, waiting apart.
    pub turn: Counts,
}

impl Metrics {
    /// `/api/v1/latency`
    pub async fn latency(&self) -> Result<Latency, ResultsError> {
        let since_start = self.results.read(look).await?;
        Ok(Latency { unit: "us", since_start })
    }
}

fn look(node: &Node) -> SinceStart {
    let shards = || node.shards.iter().filter_map(|shard| shard.counts.as_deref());
    let mut all = SinceStart { turn: sum(shards().map(|counts| &counts.turn_us)), ..SinceStart::default() };
    for handler in HandlerKind::ALL {
        let lateness = sum(shards().filter_map(|counts| counts.lateness_us[handler.index()].as_ref()));
        if !lateness.is_empty() {
            all.lateness.insert(handler.as_str(), lateness);
        }
        for outcome in OutcomeKind::ALL {
            let of = shards().filter_map(|counts| counts.latency_us[handler.index()][outcome.index()].as_ref());
            let latency = sum(of);
            if !latency.is_empty() {
                all.latency.entry(handler.as_str()).or_default().insert(outcome.as_str(), latency);
            }
        }
    }
    all
}

/// All are made with the same bounds, so equal values mean the same in each.
fn sum<'a>(histograms: impl Iterator<Item = &'a Histogram<u64>>) -> Counts {
    let mut counts = BTreeMap::new();
    for histogram in histograms {
        for recorded in histogram.iter_recorded() {
            let value = histogram.highest_equivalent(recorded.value_iterated_to());
            *counts.entry(value).or_default() += recorded.count_at_value();
        }
    }
    counts.into_iter().collect()
}
