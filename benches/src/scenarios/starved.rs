//! `starved`: the daemon shares its cores with busy loops as important as it is, while the targets go before all of them: only
//! the prober starves. It may be late, but a live target never fails, and a dead one is noticed.

use std::process::{Child, Command, Stdio};

use anyhow::Context;
use serde_json::{Value, json};

use super::steady::{self, Conditions};
use crate::kernel::Cpu;
use crate::options::Options;
use crate::scenario::Scenario;
use crate::window::now;

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
    let loops = Loops::start()?;
    let conditions = Conditions { targets_nice: TARGETS_NICE, noticed_periods: NOTICED_PERIODS };
    let mut report = steady::run_under(&conditions, Scenario::Starved, options, short)?;
    let loops_cores = loops.cores()?;
    drop(loops);
    let counts = &report.window.counts;
    let attempts = counts.successful + counts.failed + counts.unknown;
    if counts.local >= LOCAL_MAX * attempts {
        report.complaints.push(format!("{} of {attempts} attempts spoiled by trouble of our own", counts.local));
    }
    let mut json = report.json();
    if report.complaints.is_empty() {
        // The loops' time is in it.
        json["machine_cpu_us_per_attempt"] = Value::Null;
        json["starved"] = json!({"busy_loops": LOOPS, "busy_loops_cores": loops_cores, "targets_nice": TARGETS_NICE});
    }
    Ok(json)
}

/// Processes that do nothing, all the time; ended on drop.
struct Loops {
    children: Vec<Child>,
    started: std::time::Instant,
}

impl Loops {
    fn start() -> anyhow::Result<Loops> {
        let mut loops = Loops { children: Vec::with_capacity(LOOPS), started: now() };
        for _ in 0..LOOPS {
            let mut command = Command::new("sh");
            command.args(["-c", "while :; do :; done"]).stdin(Stdio::null());
            loops.children.push(command.spawn().context("cannot start a busy loop")?);
        }
        Ok(loops)
    }

    /// Cores that they have taken, all together.
    fn cores(&self) -> anyhow::Result<f64> {
        let mut ns = 0;
        for child in &self.children {
            ns += Cpu::read(child.id())?.total_ns();
        }
        Ok(ns as f64 / 1e9 / self.started.elapsed().as_secs_f64())
    }
}

impl Drop for Loops {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
