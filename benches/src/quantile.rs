//! Quantiles of values that are all there; those of histograms are in [`crate::latency`].

use serde_json::{Value, json};

/// Of values in any order; `None` of none.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

/// Of ascending values; `None` of none.
#[must_use]
pub fn quantile(ascending: &[f64], quantile: f64) -> Option<f64> {
    let last = ascending.len().checked_sub(1)?;
    ascending.get((last as f64 * quantile).ceil() as usize).copied()
}

/// Of ascending milliseconds, as the reports have them.
#[must_use]
pub fn json(ascending_ms: &[f64]) -> Value {
    let at = |part| quantile(ascending_ms, part);
    json!({"p50": at(0.5), "p99": at(0.99), "max": at(1.0)})
}
