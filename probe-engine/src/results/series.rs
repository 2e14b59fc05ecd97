//! How fine the metric series are: a node of a million probes would drown its scraper.
//!
//! Up to [`limits::METRIC_PROBES_MAX`] probes each has its series; beyond, each pod; beyond [`limits::METRIC_PODS_MAX`] pods
//! each handler. The series of pods (kube-state-metrics' names) end at the same number of pods. A limit that was passed
//! counts again once a tenth of it is free, so that a node at its limit does not change its series with every pod. The operator may
//! want coarser ones (`--metrics-series`), never finer ones.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::limits;

/// What has series of its own; finest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SeriesLevel {
    /// Each probe
    #[default]
    Probe,
    /// Each pod: the sums over its probes
    Pod,
    /// Each handler: the sums over the node's probes; none of pods
    #[value(alias = "node")]
    Handler,
}

impl SeriesLevel {
    /// Every level.
    pub const ALL: [SeriesLevel; 3] = [SeriesLevel::Probe, SeriesLevel::Pod, SeriesLevel::Handler];

    /// As a label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            SeriesLevel::Probe => "probe",
            SeriesLevel::Pod => "pod",
            SeriesLevel::Handler => "handler",
        }
    }
}

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeriesLevels {
    many_probes: bool,
    many_pods: bool,
    /// What the operator allows.
    finest: SeriesLevel,
}

impl SeriesLevels {
    /// Of the probes' series.
    #[must_use]
    pub fn probes(self) -> SeriesLevel {
        self.by_number().max(self.finest)
    }

    /// As fine as the numbers of probes and pods allow.
    fn by_number(self) -> SeriesLevel {
        match (self.many_probes, self.many_pods) {
            (false, _) => SeriesLevel::Probe,
            (true, false) => SeriesLevel::Pod,
            (true, true) => SeriesLevel::Handler,
        }
    }

    /// Each pod has its series under kube-state-metrics' names.
    #[must_use]
    pub fn has_pods(self) -> bool {
        !self.many_pods && self.finest < SeriesLevel::Handler
    }

    /// The node has so many probes or pods that series are coarser than they may be. `runs_pods`: it has series of pods at all.
    #[must_use]
    pub fn is_capped(self, runs_pods: bool) -> bool {
        self.caps_probes() || runs_pods && self.many_pods && self.finest < SeriesLevel::Handler
    }

    /// The same of the probes' series alone.
    #[must_use]
    pub fn caps_probes(self) -> bool {
        self.by_number() > self.finest
    }

    /// The same where nothing finer than this is wanted.
    #[must_use]
    pub fn at_most(self, finest: SeriesLevel) -> Self {
        Self { finest, ..self }
    }

    /// Looks at the numbers again, and says so where the level of a kind of series is another now.
    pub(super) fn look(&mut self, probes_len: usize, pods_len: usize) {
        let before = *self;
        self.many_probes = is_over(self.many_probes, probes_len, limits::METRIC_PROBES_MAX);
        self.many_pods = is_over(self.many_pods, pods_len, limits::METRIC_PODS_MAX);
        if before.probes() != self.probes() {
            let level = self.probes().as_str();
            warn!(level, probes = probes_len, pods = pods_len, "metric series of probes are kept at another level");
        }
        if before.has_pods() != self.has_pods() {
            warn!(kept = self.has_pods(), pods = pods_len, "metric series of pods begin or end with their number");
        }
    }
}

fn is_over(was_over: bool, len: usize, max: usize) -> bool {
    len > if was_over { max - max / 10 } else { max }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_was_passed_counts_again_once_a_tenth_is_free() {
        let mut levels = SeriesLevels::default();
        let mut at = |probes, pods| {
            levels.look(probes, pods);
            (levels.probes(), levels.has_pods())
        };
        let (probes, pods) = (limits::METRIC_PROBES_MAX, limits::METRIC_PODS_MAX);
        assert_eq!(at(probes, pods), (SeriesLevel::Probe, true));
        assert_eq!(at(probes + 1, 1), (SeriesLevel::Pod, true));
        assert_eq!(at(probes - 1, pods + 1), (SeriesLevel::Handler, false));
        assert_eq!(at(probes * 9 / 10 + 1, pods * 9 / 10 + 1), (SeriesLevel::Handler, false));
        assert_eq!(at(probes * 9 / 10, pods * 9 / 10 + 1), (SeriesLevel::Probe, false));
        assert_eq!(at(0, pods * 9 / 10), (SeriesLevel::Probe, true));
    }

    #[test]
    fn what_the_operator_wants_coarser_is_not_capped() {
        let mut levels = SeriesLevels::default();
        let told = |levels: SeriesLevels, finest| {
            let levels = levels.at_most(finest);
            (levels.probes(), levels.has_pods(), levels.is_capped(true))
        };
        let (probe, pod, handler) = (SeriesLevel::Probe, SeriesLevel::Pod, SeriesLevel::Handler);
        for (finest, expected) in
            [(probe, (probe, true, false)), (pod, (pod, true, false)), (handler, (handler, false, false))]
        {
            assert_eq!(told(levels, finest), expected);
        }
        levels.look(limits::METRIC_PROBES_MAX + 1, 1);
        for (finest, expected) in
            [(probe, (pod, true, true)), (pod, (pod, true, false)), (handler, (handler, false, false))]
        {
            assert_eq!(told(levels, finest), expected);
        }
        levels.look(limits::METRIC_PROBES_MAX + 1, limits::METRIC_PODS_MAX + 1);
        for (finest, expected) in
            [(probe, (handler, false, true)), (pod, (handler, false, true)), (handler, (handler, false, false))]
        {
            assert_eq!(told(levels, finest), expected);
        }
    }

    #[test]
    fn many_pods_with_few_probes_cap_only_the_series_of_pods() {
        let mut levels = SeriesLevels::default();
        levels.look(1, limits::METRIC_PODS_MAX + 1);
        assert_eq!((levels.probes(), levels.caps_probes()), (SeriesLevel::Probe, false));
        assert_eq!([true, false].map(|runs_pods| levels.is_capped(runs_pods)), [true, false]);
    }
}
