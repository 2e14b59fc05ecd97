//! This run against an earlier one: the ratio of every figure, and which got worse by more than the noise.

use std::fs;
use std::path::Path;

use anyhow::Context;
use serde_json::Value;

/// Two runs of one state on one machine differ by less than this part, mostly.
const NOISE: f64 = 0.10;

/// Lateness and latency differ by more: a few busy milliseconds of a stranger move a p99.
const NOISE_OF_QUANTILES: f64 = 0.5;

/// Figures, each the lower the better: JSON pointer, and what is noise.
pub(crate) const FIGURES: [(&str, f64); 10] = [
    ("/cpu_us_per_attempt", NOISE),
    ("/machine_cpu_us_per_attempt", NOISE),
    ("/rss_bytes_per_probe", NOISE),
    ("/load_s", NOISE_OF_QUANTILES),
    ("/missed", NOISE),
    ("/lateness_us/p99", NOISE_OF_QUANTILES),
    ("/lateness_us/p999", NOISE_OF_QUANTILES),
    ("/latency_us/p99", NOISE_OF_QUANTILES),
    ("/ratios/floor_paced", NOISE),
    ("/ratios/task_per_probe", NOISE),
];

/// What a paced floor costs tells how fast the machine was: where it moved, so may everything else.
const MACHINE: &str = "/floor/paced_cpu_us_per_attempt";

/// A figure of both runs.
#[derive(Debug, PartialEq)]
struct Pair {
    figure: &'static str,
    old: f64,
    new: f64,
    is_worse: bool,
}

/// Reads what `--json` wrote.
pub fn read(path: &Path) -> anyhow::Result<Vec<Value>> {
    let text = fs::read_to_string(path).with_context(|| format!("--compare {}", path.display()))?;
    let value: Value = serde_json::from_str(&text).with_context(|| format!("--compare {}", path.display()))?;
    let scenarios = value["scenarios"].as_array().cloned();
    scenarios.with_context(|| format!("--compare {}: no `scenarios`: was it written by --json?", path.display()))
}

/// Prints the ratios.
pub fn print(old: &[Value], new: &[Value]) {
    for report in new {
        let name = &report["scenario"];
        let Some(earlier) = old.iter().find(|earlier| earlier["scenario"] == *name) else { continue };
        println!("\n{}, compared:", name.as_str().unwrap_or_default());
        for key in ["probes", "period_ms"] {
            if earlier[key] != report[key] {
                println!("    not alike: {key} was {}, is {}", earlier[key], report[key]);
            }
        }
        for Pair { figure, old, new, is_worse } in pairs(earlier, report) {
            let ratio = if old == 0.0 { String::new() } else { format!(" ({:.2}x)", new / old) };
            let warning = if is_worse { "  WORSE" } else { "" };
            println!("    {:<34} {old:.3} -> {new:.3}{ratio}{warning}", figure.trim_start_matches('/'));
        }
    }
}

fn pairs(old: &Value, new: &Value) -> Vec<Pair> {
    let both =
        |pointer: &str| old.pointer(pointer).and_then(Value::as_f64).zip(new.pointer(pointer).and_then(Value::as_f64));
    let drift = both(MACHINE).map_or(0.0, |(old, new)| (new / old - 1.0).abs());
    let pair = |(figure, noise): (&'static str, f64)| {
        let (old, new) = both(figure)?;
        Some(Pair { figure, old, new, is_worse: new > old * (1.0 + noise.max(drift)) })
    };
    FIGURES.into_iter().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn worse(old: &Value, new: &Value) -> Vec<&'static str> {
        pairs(old, new).into_iter().filter(|pair| pair.is_worse).map(|pair| pair.figure).collect()
    }

    #[test]
    fn what_got_worse_by_more_than_the_noise_is_told() {
        let old = json!({"cpu_us_per_attempt": 10.0, "missed": 0, "rss_bytes_per_probe": 600.0});
        let new = json!({"cpu_us_per_attempt": 11.5, "missed": 3, "rss_bytes_per_probe": 650.0});
        assert_eq!(worse(&old, &new), ["/cpu_us_per_attempt", "/missed"]);
    }

    #[test]
    fn a_slower_machine_is_no_worse_figure() {
        let old = json!({"cpu_us_per_attempt": 10.0, "floor": {"paced_cpu_us_per_attempt": 20.0}});
        let new = json!({"cpu_us_per_attempt": 12.0, "floor": {"paced_cpu_us_per_attempt": 25.0}});
        assert_eq!(worse(&old, &new), [""; 0]);
    }
}
