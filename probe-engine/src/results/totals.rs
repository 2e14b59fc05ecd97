//! What the shards have counted since they started: the sums of their deltas.

use hdrhistogram::Histogram;

use crate::shard::metrics::ShardMetrics;

/// Of one shard: the sum of its deltas, and its newest gauges.
#[derive(Clone, Debug, Default)]
pub struct ShardTotals {
    /// Sums and gauges; `None` before the first delta.
    pub counts: Option<Box<ShardMetrics>>,
}

impl ShardTotals {
    /// Adds a delta; gauges are replaced. Where the delta itself is not kept, it is given back, to be used again.
    pub fn add(&mut self, delta: Box<ShardMetrics>) -> Option<Box<ShardMetrics>> {
        let Some(sum) = &mut self.counts else {
            self.counts = Some(delta);
            return None;
        };
        for (sums, deltas) in sum.latency_us.iter_mut().zip(&delta.latency_us) {
            sums.iter_mut().zip(deltas).for_each(|(sum, delta)| merge_optional(sum, delta.as_ref()));
        }
        let lateness = sum.lateness_us.iter_mut().zip(&delta.lateness_us);
        lateness.for_each(|(sum, delta)| merge_optional(sum, delta.as_ref()));
        let handshakes = sum.handshake_us.iter_mut().zip(&delta.handshake_us);
        handshakes.for_each(|(sum, delta)| merge_optional(sum, delta.as_ref()));
        for (sums, deltas) in sum.phase_us.iter_mut().zip(&delta.phase_us) {
            sums.iter_mut().zip(deltas).for_each(|(sum, delta)| merge_optional(sum, delta.as_ref()));
        }
        sum.near.iter_mut().zip(delta.near).for_each(|(sum, delta)| *sum += delta);
        sum.details_dropped += delta.details_dropped;
        merge(&mut sum.turn_us, &delta.turn_us);
        for (sum, delta) in sum.local.iter_mut().zip(delta.local) {
            *sum += delta;
        }
        for (sum, delta) in sum.rescheduled.iter_mut().zip(delta.rescheduled) {
            *sum += delta;
        }
        sum.missed += delta.missed;
        sum.reports_dropped += delta.reports_dropped;
        sum.in_flight = delta.in_flight;
        sum.workers = delta.workers;
        sum.slabs = delta.slabs;
        sum.stuck_local = delta.stuck_local;
        sum.passive.add(&delta.passive);
        Some(delta)
    }
}

/// A delta that counted nothing costs nothing.
fn merge_optional(sum: &mut Option<Histogram<u64>>, delta: Option<&Histogram<u64>>) {
    let Some(delta) = delta.filter(|delta| !delta.is_empty()) else { return };
    match sum {
        Some(sum) => merge(sum, delta),
        None => *sum = Some(delta.clone()),
    }
}

/// Both are made with the same bounds, so this cannot fail; if it did, the delta would be left out.
fn merge(sum: &mut Histogram<u64>, delta: &Histogram<u64>) {
    if let Err(error) = sum.add(delta) {
        tracing::debug!(%error, "histograms of different bounds");
    }
}
