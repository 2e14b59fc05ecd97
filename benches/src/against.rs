//! Two daemons in turn on the same scenario: the ratio of each figure, pair by pair.
//!
//! Two runs of one binary differ by tens of percent on a machine that others use; the two of a pair ran one after the other, and
//! the median of the pairs' ratios is what is left when that is taken out.

use serde_json::{Value, json};

use crate::compare::FIGURES;
use crate::quantile::median;
use crate::scenario::Scenario;

/// One figure of all pairs, each "ours divided by the other's".
#[derive(Clone, Debug, PartialEq)]
pub struct Ratio {
    /// JSON pointer into the reports.
    pub figure: &'static str,
    /// Of the other daemon: the median.
    pub other: f64,
    /// Of ours: the median.
    pub ours: f64,
    /// By pair, in their order.
    pub ratios: Vec<f64>,
}

impl Ratio {
    /// The middle one, the smallest and the largest.
    #[must_use]
    pub fn spread(&self) -> (f64, f64, f64) {
        let fold = |of: fn(f64, f64) -> f64, start| self.ratios.iter().copied().fold(start, of);
        (median(&self.ratios).unwrap_or(f64::NAN), fold(f64::min, f64::INFINITY), fold(f64::max, f64::NEG_INFINITY))
    }
}

/// `pairs`: the other's report and ours. A figure that one of a pair has not, or that is 0, is left out of that pair.
#[must_use]
pub fn ratios(pairs: &[(Value, Value)]) -> Vec<Ratio> {
    let of = |(figure, _): (&'static str, f64)| {
        let number = |report: &Value| report.pointer(figure).and_then(Value::as_f64).filter(|value| *value > 0.0);
        let both: Vec<(f64, f64)> = pairs.iter().filter_map(|(other, ours)| number(other).zip(number(ours))).collect();
        let (others, ours): (Vec<f64>, Vec<f64>) = both.iter().copied().unzip();
        let ratios = both.iter().map(|(other, ours)| ours / other).collect();
        Some(Ratio { figure, other: median(&others)?, ours: median(&ours)?, ratios })
    };
    FIGURES.into_iter().filter_map(of).collect()
}

/// A line each.
pub fn print(scenario: Scenario, ratios: &[Ratio], pairs_len: usize) {
    println!(
        "\n{}, {pairs_len} pairs, ours / the other (medians; the smallest and the largest ratio):",
        scenario.name()
    );
    for ratio in ratios {
        let (middle, least, most) = ratio.spread();
        let Ratio { figure, other, ours, ratios } = ratio;
        let figure = figure.trim_start_matches('/');
        println!(
            "    {figure:<34} {middle:.3} ({least:.3} to {most:.3}, {} pairs)  {other:.3} -> {ours:.3}",
            ratios.len()
        );
    }
}

/// The same for a file.
#[must_use]
pub fn to_json(ratios: &[Ratio]) -> Value {
    let of = |ratio: &Ratio| {
        let (median, min, max) = ratio.spread();
        json!({
            "figure": ratio.figure, "other": ratio.other, "ours": ratio.ours, "ratio": median, "min": min, "max": max,
            "ratios": ratio.ratios,
        })
    };
    ratios.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_of_a_figure_is_the_median_of_the_pairs_that_have_it() {
        let run = |cpu: f64, missed: u64| json!({"cpu_us_per_attempt": cpu, "missed": missed});
        let failed = json!({"failed": ["why"]});
        let pairs = [
            (run(10.0, 0), run(11.0, 0)),
            (run(20.0, 2), run(20.0, 1)),
            (run(40.0, 0), run(48.0, 0)),
            (failed.clone(), run(1.0, 0)),
        ];
        let ratios = ratios(&pairs);
        let figures: Vec<_> = ratios.iter().map(|ratio| ratio.figure).collect();
        assert_eq!(figures, ["/cpu_us_per_attempt", "/missed"]);
        assert_eq!(ratios[0].ratios, [1.1, 1.0, 1.2]);
        assert_eq!(ratios[0].spread(), (1.1, 1.0, 1.2));
        assert_eq!((ratios[0].other, ratios[0].ours), (20.0, 20.0));
        assert_eq!(ratios[1].spread(), (0.5, 0.5, 0.5), "0 is no base of a ratio");
    }
}
