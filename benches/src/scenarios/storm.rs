//! `storm`: every target dies in the same instant, and all return together. Once their ports are closed (connects are
//! refused), once they drop SYNs (attempts end at their deadline), each with a daemon of its own; a short run has one storm,
//! in which half of the targets do the one and half the other.

mod form;
mod judge;

use anyhow::{Context, bail};
use serde_json::{Map, Value, json};

use self::form::Form;
use self::judge::Judged;
use crate::beside::{self, Beside};
use crate::handler::Handler;
use crate::load::Load;
use crate::options::Options;
use crate::report;
use crate::scenario::Scenario;
use crate::targets::{Order, Targets};

/// What becomes of the targets.
const REFUSED: Form = Form { name: "refused", orders: &[Order::Close] };
/// See [`REFUSED`].
const DROPPED: Form = Form { name: "dropped", orders: &[Order::Drop] };
/// See [`REFUSED`].
const HALVES: Form = Form { name: "refused and dropped", orders: &[Order::Close, Order::Drop] };

/// Runs it; the process is in its network namespace already.
pub fn run(options: &Options, short: bool) -> anyhow::Result<Value> {
    let is_short = short || options.smoke;
    let numbers = options.numbers(Scenario::Storm, short)?;
    if numbers.duration_s < 2 * numbers.period_s {
        let (found, least) = (numbers.duration_s, 2 * numbers.period_s);
        bail!("--duration {found}: targets are dead for so long, at least two periods ({least})");
    }
    let folder = tempfile::tempdir()?;
    let load = Load::plan(Scenario::Storm.mix(), numbers.probes, numbers.period_s, folder.path());
    let mut targets = Targets::start(&load, folder.path(), 0)?;
    let forms: &[Form] = if is_short { &[HALVES] } else { &[REFUSED, DROPPED] };
    let mut judged = Vec::new();
    for form in forms {
        let folder = folder.path().join(form.name.replace(' ', "-"));
        std::fs::create_dir(&folder)?;
        let seen = form.run(&load, &mut targets, numbers, options, &folder).context(form.name)?;
        judged.push((form, Judged::of(seen, &load, numbers, !is_short)));
    }
    let beside = if options.smoke || options.alone {
        Beside::default()
    } else {
        let rate = load.probes() as f64 / numbers.period_s as f64;
        let rates = beside::Rates::from([(Handler::Tcp, rate)]);
        beside::Bench { load: &load, numbers, options, folder: folder.path() }.run(&rates)
    };
    Ok(report(options, &load, numbers.period_s, targets.listeners, &judged, &beside))
}

/// Of all forms; the figures beside `forms` are of the worst of them.
fn report(
    options: &Options,
    load: &Load,
    period_s: u64,
    listeners: usize,
    judged: &[(&Form, Judged)],
    beside: &Beside,
) -> Value {
    let failed: Vec<String> = judged
        .iter()
        .flat_map(|(form, judged)| judged.complaints.iter().map(|complaint| format!("{}: {complaint}", form.name)))
        .collect();
    let warnings: Vec<String> = judged.iter().flat_map(|(_, judged)| judged.warnings.clone()).collect();
    let name = Scenario::Storm.name();
    if !failed.is_empty() {
        return report::failed(&name, &failed, load.probes(), &warnings);
    }
    let most = |key: &str| {
        let figures = judged.iter().filter_map(|(_, judged)| judged.figures.pointer(key)).filter_map(Value::as_f64);
        figures.fold(0.0, f64::max)
    };
    let sum = |key: &str| judged.iter().filter_map(|(_, judged)| judged.figures[key].as_u64()).sum::<u64>();
    let cpu_us = most("/cpu_us_per_attempt");
    let ratio = |value: &Option<Value>, key: &str| value.as_ref().and_then(|value| value[key].as_f64());
    let mut ratios = Map::new();
    ratios.extend(
        ratio(&beside.floor, "paced_cpu_us_per_attempt").map(|us| ("floor_paced".to_owned(), json!(cpu_us / us))),
    );
    ratios.extend(
        ratio(&beside.task_per_probe, "cpu_us_per_attempt").map(|us| ("task_per_probe".to_owned(), json!(cpu_us / us))),
    );
    let forms: Map<String, Value> =
        judged.iter().map(|(form, judged)| (form.name.to_owned(), judged.figures.clone())).collect();
    json!({
        "scenario": name,
        "valid": true,
        "probes": load.probes(),
        "listeners": listeners,
        "period_ms": period_s * 1_000,
        "passive_max_age_s": options.is_passive(Scenario::Storm).then_some(options.passive_max_age),
        "shards": options.shards,
        "attempts_expected": sum("attempts_expected"),
        "attempts": sum("attempts"),
        "missed": sum("missed"),
        "local": sum("local"),
        "rescheduled": sum("rescheduled"),
        "cpu_us_per_attempt": cpu_us,
        "rss_bytes": most("/rss_bytes"),
        "fds_max": most("/fds_max"),
        "syn_sent_max": most("/syn_sent_max"),
        "lateness_us": {
            "p50": most("/lateness_us/p50"), "p99": most("/lateness_us/p99"),
            "p999": most("/lateness_us/p999"), "max": most("/lateness_us/max"),
        },
        "truth": {
            "flips_made": sum("targets"), "flips_noticed": sum("targets_noticed"), "wrong_verdicts": sum("wrong_verdicts"),
        },
        "warnings": warnings.len(),
        "forms": forms,
        "floor": beside.floor,
        "task_per_probe": beside.task_per_probe,
        "missing": beside.missing,
        "ratios": ratios,
    })
}
