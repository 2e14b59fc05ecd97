//! `starved`: the daemon shares its cores with busy loops as important as it is, while the targets go before all of them: only
//! the prober starves. It may be late, but a live target never fails, and a dead one is noticed.

use serde_json::{Value, json};

use super::steady::{self, Conditions};
use crate::options::Options;
use crate::scenario::Scenario;

/// Busy loops, at the daemon's nice value.
const LOOPS: usize = 16;

/// Nice value of the targets, relative to the daemon's and the loops'.
const TARGETS_NICE: i32 = -15;

/// A dead target is noticed within so many periods, and the timeout.
const NOTICED_PERIODS: u32 = 2;

/// Trouble of the daemon's own may spoil less than this part of its attempts.
const LOCAL_MAX: f64 = 0.01;

/// Runs it; the process is in its network namespace already.
pub fn run(options: &Options, short: bool) -> anyhow::Result<Value> {
    let conditions = Conditions { targets_nice: TARGETS_NICE, noticed_periods: NOTICED_PERIODS, busy_loops: LOOPS };
    let mut report = steady::run_under(&conditions, Scenario::Starved, options, short)?;
    let counts = &report.window.counts;
    let attempts = counts.successful + counts.failed + counts.unknown;
    if counts.local >= LOCAL_MAX * attempts {
        report.complaints.push(format!("{} of {attempts} attempts spoiled by trouble of our own", counts.local));
    }
    let mut json = report.json();
    if report.complaints.is_empty() {
        json["targets_nice"] = json!(TARGETS_NICE);
    }
    Ok(json)
}
