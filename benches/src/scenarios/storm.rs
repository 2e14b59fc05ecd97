//! `storm`: every target dies in the same instant, and all return together. Once their ports are closed (connects are
//! refused), once they drop SYNs (attempts end at their deadline), each with a daemon of its own; a short run has one storm,
//! in which half of the targets do the one and half the other.
//!
//! `storm-watched`: the short run's storm twice, the second time beside clients of the control API that have stopped reading.
//! Attempts must not be later for that, and what the clients know once they read on must be what a fresh one is told.

mod form;
mod judge;
mod watchers;

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
const REFUSED: Form = Form { name: "refused", orders: &[Order::Close], is_watched: false };
/// See [`REFUSED`].
const DROPPED: Form = Form { name: "dropped", orders: &[Order::Drop], is_watched: false };
/// See [`REFUSED`].
const HALVES: Form = Form { name: "refused and dropped", orders: &[Order::Close, Order::Drop], is_watched: false };
/// See [`HALVES`].
const UNWATCHED: Form = Form { name: "unwatched", ..HALVES };
/// See [`HALVES`].
const WATCHED: Form = Form { name: "watched", is_watched: true, ..HALVES };

/// Attempts beside watchers that read nothing may be later by this factor, and this much, than without them (p99 of the whole
/// window): two runs of one kind differ by as much on a machine that others use.
const LATER_TIMES_MAX: f64 = 2.0;
/// See [`LATER_TIMES_MAX`].
const LATER_US_MAX: f64 = 1_000.0;

/// Runs it; the process is in its network namespace already.
pub fn run(scenario: Scenario, options: &Options, short: bool) -> anyhow::Result<Value> {
    let is_short = short || options.smoke;
    let numbers = options.numbers(scenario, short)?;
    if numbers.duration_s < 2 * numbers.period_s {
        let (found, least) = (numbers.duration_s, 2 * numbers.period_s);
        bail!("--duration {found}: targets are dead for so long, at least two periods ({least})");
    }
    let folder = tempfile::tempdir()?;
    let load = Load::plan(scenario.mix(), numbers.probes, numbers.period_s, folder.path());
    let mut targets = Targets::start(&load, folder.path(), 0)?;
    let forms: &[Form] = match scenario {
        Scenario::StormWatched => &[UNWATCHED, WATCHED],
        _ if is_short => &[HALVES],
        _ => &[REFUSED, DROPPED],
    };
    let mut judged = Vec::new();
    for form in forms {
        let folder = folder.path().join(form.name.replace(' ', "-"));
        std::fs::create_dir(&folder)?;
        let seen = form.run(&load, &mut targets, numbers, options, &folder).context(form.name)?;
        judged.push((form, Judged::of(seen, &load, numbers, !is_short)));
    }
    if scenario == Scenario::StormWatched && !is_short {
        later(&mut judged);
    }
    let beside = if options.smoke || options.alone || scenario == Scenario::StormWatched {
        Beside::default()
    } else {
        let rate = load.probes() as f64 / numbers.period_s as f64;
        let rates = beside::Rates::from([(Handler::Tcp, rate)]);
        beside::Bench { load: &load, numbers, options, folder: folder.path() }.run(&rates)
    };
    Ok(report(scenario, options, &load, numbers.period_s, targets.listeners, &judged, &beside))
}

/// Complains where attempts of the second storm were later than those of the first.
fn later(judged: &mut [(&Form, Judged)]) {
    let [(_, alone), (_, watched)] = judged else { return };
    let p99_us = |judged: &Judged| judged.figures.pointer("/lateness_all_us/p99").and_then(Value::as_f64);
    let (Some(before), Some(beside)) = (p99_us(alone), p99_us(watched)) else {
        return watched.complaints.push("no lateness to compare".to_owned());
    };
    if beside > before * LATER_TIMES_MAX + LATER_US_MAX {
        watched
            .complaints
            .push(format!("lateness p99 {beside} us beside watchers that read nothing, {before} us without"));
    }
}

/// Of all forms; the figures beside `forms` are of the worst of them.
fn report(
    scenario: Scenario,
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
    let name = scenario.name();
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
        "passive_max_age_s": options.is_passive(scenario).then_some(options.passive_max_age),
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
