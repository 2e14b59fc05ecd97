//! The daemon's histograms (`/api/v1/latency`): what a window added to them, and its quantiles.

use std::collections::BTreeMap;

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// Counts by the highest value of their bucket, in microseconds.
pub type Counts = BTreeMap<u64, u64>;

/// All histograms since the daemon's start, or of a window.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Histograms {
    /// Due time to start, by handler; missed attempts with the whole gap.
    #[serde(deserialize_with = "by_handler")]
    pub lateness: BTreeMap<String, Counts>,
    /// Of real attempts, by handler and outcome.
    #[serde(deserialize_with = "by_handler_and_outcome")]
    pub latency: BTreeMap<String, BTreeMap<String, Counts>>,
}

type Pairs = Vec<(u64, u64)>;

fn by_handler<'de, D: serde::Deserializer<'de>>(input: D) -> Result<BTreeMap<String, Counts>, D::Error> {
    let pairs = BTreeMap::<String, Pairs>::deserialize(input)?;
    Ok(pairs.into_iter().map(|(handler, pairs)| (handler, pairs.into_iter().collect())).collect())
}

fn by_handler_and_outcome<'de, D: serde::Deserializer<'de>>(
    input: D,
) -> Result<BTreeMap<String, BTreeMap<String, Counts>>, D::Error> {
    let pairs = BTreeMap::<String, BTreeMap<String, Pairs>>::deserialize(input)?;
    let counts = |outcomes: BTreeMap<String, Pairs>| {
        outcomes.into_iter().map(|(outcome, pairs)| (outcome, pairs.into_iter().collect())).collect()
    };
    Ok(pairs.into_iter().map(|(handler, outcomes)| (handler, counts(outcomes))).collect())
}

impl Histograms {
    /// From the body of `/api/v1/latency`.
    pub fn parse(body: &str) -> anyhow::Result<Histograms> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Page {
            since_start: Histograms,
        }
        Ok(serde_json::from_str::<Page>(body).context("/api/v1/latency")?.since_start)
    }

    /// What was added since an earlier reading.
    #[must_use]
    pub fn since(&self, before: &Histograms) -> Histograms {
        let mut added = self.clone();
        for (handler, counts) in &mut added.lateness {
            subtract(counts, before.lateness.get(handler));
        }
        for (handler, outcomes) in &mut added.latency {
            for (outcome, counts) in outcomes {
                subtract(counts, before.latency.get(handler).and_then(|outcomes| outcomes.get(outcome)));
            }
        }
        added
    }

    /// Lateness of all handlers.
    #[must_use]
    pub fn all_lateness(&self) -> Counts {
        sum(self.lateness.values())
    }

    /// Latency of all real attempts that succeeded.
    #[must_use]
    pub fn all_successes(&self) -> Counts {
        sum(self.latency.values().filter_map(|outcomes| outcomes.get("success")))
    }
}

fn subtract(counts: &mut Counts, before: Option<&Counts>) {
    for (value, earlier) in before.into_iter().flatten() {
        if let Some(count) = counts.get_mut(value) {
            *count = count.saturating_sub(*earlier);
        }
    }
    counts.retain(|_, count| *count > 0);
}

fn sum<'a>(all: impl Iterator<Item = &'a Counts>) -> Counts {
    let mut sum = Counts::new();
    for (value, count) in all.flatten() {
        *sum.entry(*value).or_default() += count;
    }
    sum
}

/// Of a histogram, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Quantiles {
    /// Half are at most this.
    pub p50: u64,
    /// 99 of 100 are.
    pub p99: u64,
    /// 999 of 1,000 are.
    pub p999: u64,
    /// All are.
    pub max: u64,
}

impl Quantiles {
    /// `None` of an empty histogram.
    #[must_use]
    pub fn of(counts: &Counts) -> Option<Quantiles> {
        let total: u64 = counts.values().sum();
        let at = |thousandths: u64| {
            let rank = (total * thousandths).div_ceil(1_000).max(1);
            let mut seen = 0;
            let found = counts.iter().find(|(_, count)| {
                seen += **count;
                seen >= rank
            });
            found.map(|(value, _)| *value)
        };
        Some(Quantiles { p50: at(500)?, p99: at(990)?, p999: at(999)?, max: at(1_000)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_a_window_leave_out_what_was_before_it() {
        let page = |slow: u64| {
            format!(
                r#"{{"unit":"us","sinceStart":{{"lateness":{{"tcp":[[10,5],[20,{slow}]]}},"latency":{{"tcp":{{"success":[[7,1]]}}}},"turn":[]}}}}"#
            )
        };
        let before = Histograms::parse(&page(3)).expect("as documented");
        let after = Histograms::parse(&page(1_003)).expect("as documented");
        let window = after.since(&before);
        let quantiles = Quantiles::of(&window.all_lateness()).expect("1,000 counts");
        assert_eq!(quantiles, Quantiles { p50: 20, p99: 20, p999: 20, max: 20 });
        assert_eq!(Quantiles::of(&window.all_successes()), None);
    }

    #[test]
    fn the_rank_of_a_quantile_is_rounded_up() {
        let counts = Counts::from([(1, 98), (2, 1), (3, 1)]);
        let quantiles = Quantiles::of(&counts).expect("100 counts");
        assert_eq!(quantiles, Quantiles { p50: 1, p99: 2, p999: 3, max: 3 });
    }
}
