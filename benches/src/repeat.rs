//! Several runs of a scenario as one report: the median of every figure.
//!
//! Figures of one run hold together, medians of several need not: a ratio is the median of the runs' ratios, not the ratio
//! of two medians.

use serde_json::{Map, Value, json};

use crate::quantile::median;

/// One report of reports of the same scenario, with how many they are in `runs`. One that failed or was skipped stands for
/// all.
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
    }
    merged
}

/// Of numbers the median, of objects that of each key which all have; what is neither is the first run's.
fn of(values: &[&Value]) -> Value {
    let Some(first) = values.first() else { return Value::Null };
    if let Value::Object(object) = first {
        let of_key = |key: &String| {
            let all: Option<Vec<&Value>> = values.iter().map(|value| value.get(key)).collect();
            all.map(|all| (key.clone(), of(&all)))
        };
        return Value::Object(object.keys().filter_map(of_key).collect::<Map<_, _>>());
    }
    let numbers: Option<Vec<f64>> = values.iter().map(|value| value.as_f64()).collect();
    let Some(median) = numbers.and_then(|numbers| median(&numbers)) else { return (*first).clone() };
    // As it was written: a count stays one.
    let is_it = |value: &&&Value| value.as_f64() == Some(median);
    values.iter().find(is_it).map_or_else(|| json!(median), |value| (**value).clone())
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
        let failed = json!({"scenario": "http", "failed": ["why"]});
        assert_eq!(merge(vec![run(1.0, 0, 1.0), failed.clone(), run(1.0, 0, 1.0)]), failed);
    }
}
