//! Several runs of a scenario as one report: the median of every figure.
//!
//! Figures of one run hold together, medians of several need not: a ratio is the median of the runs' ratios, not the ratio
//! of two medians.

use serde_json::{Map, Value, json};

use crate::quantile::median;

/// One report of reports of the same scenario, with how many they are in `runs`. One that failed or was skipped stands for
/// all, and what made a run invalid makes them all so.
#[must_use]
pub fn merge(reports: Vec<Value>) -> Value {
    let is_other = |report: &&Value| report.get("failed").is_some() || report.get("skipped").is_some();
    if let Some(other) = reports.iter().find(is_other) {
        return other.clone();
    }
    let runs = reports.len();
    let mut merged = of(&reports.iter().collect::<Vec<_>>());
    if runs > 1
        && let Some(report) = merged.as_object_mut()
    {
        report.insert("runs".to_owned(), json!(runs));
        if reports.iter().any(|report| report["valid"] == false) {
            report.insert("valid".to_owned(), json!(false));
        }
    }
    merged
}

/// Of numbers the median, of objects that of each key, of truths whether one is true, of lists what is in any. What is
/// neither is the first run's that has it.
fn of(values: &[&Value]) -> Value {
    let there: Vec<&Value> = values.iter().copied().filter(|value| !value.is_null()).collect();
    match there.first() {
        None => Value::Null,
        Some(Value::Object(_)) => {
            let keys = there.iter().filter_map(|value| value.as_object()).flat_map(Map::keys);
            let of_key = |key: &String| (key.clone(), of(&there.iter().map(|value| &value[key]).collect::<Vec<_>>()));
            Value::Object(keys.map(of_key).collect())
        }
        Some(Value::Bool(_)) => json!(there.iter().any(|value| **value == true)),
        Some(Value::Array(first)) if first.iter().all(Value::is_string) => {
            let mut all: Vec<&Value> = Vec::new();
            for item in there.iter().filter_map(|value| value.as_array()).flatten() {
                if !all.contains(&item) {
                    all.push(item);
                }
            }
            json!(all)
        }
        Some(first) => {
            let numbers: Option<Vec<f64>> = there.iter().map(|value| value.as_f64()).collect();
            let median = numbers.and_then(|numbers| median(&numbers));
            // As it was written: a count stays one.
            there
                .iter()
                .find(|value| median.is_some() && value.as_f64() == median)
                .map_or(*first, |value| *value)
                .clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_each_figure_is_kept_and_a_failure_is_not_hidden() {
        let run = |cpu: f64, missed: u64, ratio: f64| json!({"scenario": "http", "cpu": cpu, "missed": missed, "ratios": {"floor": ratio}, "peer": null});
        let merged = merge(vec![run(3.0, 0, 1.5), run(1.0, 2, 1.25), run(2.5, 1, 9.0)]);
        let expected = json!({
            "scenario": "http", "cpu": 2.5, "missed": 1, "ratios": {"floor": 1.5}, "peer": null, "runs": 3
        });
        assert_eq!(merged, expected);
        assert_eq!(merge(vec![run(3.0, 0, 1.5)]), run(3.0, 0, 1.5));
        let valid = |valid: bool, why: Value, missing: Value| json!({"valid": valid, "why": why, "missing": missing});
        let merged = merge(vec![
            valid(true, Value::Null, json!(["a"])),
            valid(false, json!("window"), json!(["a", "b"])),
            valid(true, Value::Null, json!([])),
        ]);
        assert_eq!(merged, json!({"valid": false, "why": "window", "missing": ["a", "b"], "runs": 3}));
        let failed = json!({"scenario": "http", "failed": ["why"]});
        assert_eq!(merge(vec![run(1.0, 0, 1.0), failed.clone(), run(1.0, 0, 1.0)]), failed);
    }
}
