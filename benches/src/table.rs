//! Reports as people read them.

use serde_json::Value;

use crate::scenarios::{churn, cold_start, memory};

/// One scenario, in some lines.
pub fn print(report: &Value) {
    let name = report["scenario"].as_str().unwrap_or_default();
    if let Some(why) = report["skipped"].as_str() {
        println!("{name}: SKIPPED: {why}");
        return;
    }
    if let Some(failed) = report["failed"].as_array() {
        println!("{name}: FAILED, so no figures");
        for why in failed {
            println!("    {}", why.as_str().unwrap_or_default());
        }
        if let Some(warning) = report["first_warning"].as_str() {
            println!("    the daemon warned {} time(s), first: {warning}", report["warnings"]);
        }
        return;
    }
    if let Some(runs) = report["runs"].as_u64() {
        println!("{name}: the median of {runs} runs of each figure");
    }
    match name {
        "memory" => return memory::print(report),
        "churn" => return churn::print(report),
        "cold-start" => return cold_start::print(report),
        _ => {}
    }
    if let Some(forms) = report["forms"].as_object() {
        storm(report, forms);
        return beside(report);
    }
    let invalid = report["invalid_because"].as_str().map_or_else(String::new, |why| format!(", valid: false ({why})"));
    println!(
        "{name}: {} probes, {} listeners, period {} s, {} s{invalid}",
        report["probes"],
        report["listeners"],
        number(&report["period_ms"]) / 1e3,
        number(&report["duration_s"]).round()
    );
    println!(
        "    attempts {:.0} (expected {:.0}), {:.0} passive, {:.0} failures, missed {:.0}, local {:.0}, rescheduled {:.0}; \
         connections {:.0}",
        number(&report["attempts"]),
        number(&report["attempts_expected"]),
        number(&report["passive"]),
        number(&report["failures"]),
        number(&report["missed"]),
        number(&report["local"]),
        number(&report["rescheduled"]),
        number(&report["connections_opened"]),
    );
    println!(
        "    CPU {} us per attempt ({} of a core), with the machine's {} us, children {} us",
        figure(&report["cpu_us_per_attempt"]),
        figure(&report["daemon_cores"]),
        figure(&report["machine_cpu_us_per_attempt"]),
        figure(&report["children_cpu_us_per_attempt"]),
    );
    if report["busy_loops"].is_object() {
        let loops = &report["busy_loops"];
        println!("    beside {} busy loops, which took {} cores", loops["count"], figure(&loops["cores"]));
    }
    if let Some(split) = report.get("split") {
        println!(
            "    of that: {} us for {} renewals/s, {} us sweep and watch, {} us the rest",
            figure(&split["renewals_us"]),
            figure(&split["renewals_per_s"]),
            figure(&split["sweep_and_watch_us"]),
            figure(&split["rest_us"]),
        );
    }
    println!(
        "    memory {:.1} MB, {:.0} bytes per probe; loaded in {:.1} s",
        number(&report["rss_bytes"]) / 1e6,
        number(&report["rss_bytes_per_probe"]),
        number(&report["load_s"])
    );
    println!("    lateness {}; latency {}", quantiles(&report["lateness_us"]), quantiles(&report["latency_us"]));
    if let Some(handlers) = report["lateness_us_by_handler"].as_object().filter(|handlers| handlers.len() > 1) {
        for (handler, lateness) in handlers {
            println!("        {handler}: {}", quantiles(lateness));
        }
    }
    println!(
        "    TIME_WAIT {:+}, overflow {}; SYN_SENT at most {}; descriptors at most {}",
        number(&report["time_wait_delta"]),
        report["time_wait_overflow"],
        report["syn_sent_max"],
        report["fds_max"]
    );
    let truth = &report["truth"];
    println!(
        "    {} targets closed and opened, {} noticed (p50 {} ms, p99 {} ms), {} wrong verdicts",
        truth["flips_made"],
        truth["flips_noticed"],
        figure(&truth["noticed_ms"]["p50"]),
        figure(&truth["noticed_ms"]["p99"]),
        truth["wrong_verdicts"]
    );
    if report["targets"]["are_the_bottleneck"] == true {
        println!(
            "    the TARGETS are the bottleneck: busiest process {} of a core, {} accept queue overflows",
            figure(&report["targets"]["busiest_process_cores"]),
            report["targets"]["listen_overflows"]
        );
    }
    beside(report);
}

/// Targets that all die and all return, in each form of it.
fn storm(report: &Value, forms: &serde_json::Map<String, Value>) {
    println!(
        "{}: {} probes, {} listeners, period {} s",
        report["scenario"].as_str().unwrap_or_default(),
        report["probes"],
        report["listeners"],
        number(&report["period_ms"]) / 1e3
    );
    for (name, form) in forms {
        let seconds = |key: &str, quantile: &str| figure(&Value::from(number(&form[key][quantile]) / 1e3));
        println!("  {name}: {} targets died within {} ms", form["targets"], figure(&form["died_within_ms"]));
        println!(
            "    attempts {} (expected {}), {} passive, {} failures, missed {}, local {}, rescheduled {}; connections {}",
            form["attempts"],
            form["attempts_expected"],
            form["passive"],
            form["failures"],
            form["missed"],
            form["local"],
            form["rescheduled"],
            form["connections_opened"],
        );
        println!(
            "    first failing attempt of each target: p50 {} s, p99 {} s, last {} s; of each probe: p50 {} s, p99 {} s, last {} s",
            seconds("target_noticed_ms", "p50"),
            seconds("target_noticed_ms", "p99"),
            seconds("target_noticed_ms", "max"),
            seconds("noticed_ms", "p50"),
            seconds("noticed_ms", "p99"),
            seconds("noticed_ms", "max"),
        );
        println!(
            "    by its limits at most {} s: {} attempts in flight, of {} descriptors; seen: {} descriptors, {} in SYN_SENT",
            number(&form["detection_ms"]) / 1e3,
            form["in_flight_max"],
            form["descriptors_max"],
            form["fds_max"],
            form["syn_sent_max"],
        );
        println!(
            "    {} restarts asked for; ready again: p50 {} s, last {} s; {} wrong verdicts",
            form["restarts_asked"],
            seconds("recovered_ms", "p50"),
            seconds("recovered_ms", "max"),
            form["wrong_verdicts"],
        );
        for (when, key) in [
            ("before", "lateness_before_us"),
            ("in the period after the death", "lateness_storm_us"),
            ("in the next", "lateness_us"),
            ("in all", "lateness_all_us"),
        ] {
            println!("    lateness {when}: {}", quantiles(&form[key]));
        }
        println!(
            "    CPU {} us per attempt, {} of a core in the period after the death; memory {:.1} MB; TIME_WAIT {:+}",
            figure(&form["cpu_us_per_attempt"]),
            figure(&form["daemon_cores_storm"]),
            number(&form["rss_bytes"]) / 1e6,
            number(&form["time_wait_delta"]),
        );
        if form["watchers"].is_object() {
            let watchers = &form["watchers"];
            println!(
                "    watchers that read nothing for {:.0} s, then {} messages of pods and {} of results: as a fresh one; \
                 {} events, {} missed and told so",
                number(&watchers["stalled_s"]),
                watchers["pods_messages"],
                watchers["results_messages"],
                watchers["events"],
                watchers["events_missed"],
            );
        }
    }
}

/// What the figures are compared with.
fn beside(report: &Value) {
    let (floor, tasks) = (&report["floor"], &report["task_per_probe"]);
    if !floor.is_null() {
        println!(
            "    floor {} us paced at {}/s, {} us closed loop",
            figure(&floor["paced_cpu_us_per_attempt"]),
            figure(&floor["paced_per_s"]),
            figure(&floor["closed_loop_cpu_us_per_attempt"])
        );
    }
    if !tasks.is_null() {
        println!(
            "    task per probe {} us, {:.0} bytes per probe",
            figure(&tasks["cpu_us_per_attempt"]),
            number(&tasks["rss_bytes_per_probe"])
        );
    }
    for (name, peer) in report["peer"].as_object().into_iter().flatten() {
        println!("    {name} {} us", figure(&peer["cpu_us_per_attempt"]));
    }
    for (name, ratio) in report["ratios"].as_object().into_iter().flatten() {
        println!("    {} x {name}", figure(ratio));
    }
    for why in report["missing"].as_array().into_iter().flatten() {
        println!("    {}", why.as_str().unwrap_or_default());
    }
}

/// All scenarios, a line each.
pub fn print_all(reports: &[Value]) {
    println!(
        "\n{:<12} {:>8} {:>9} {:>9} {:>8} {:>9} {:>9} {:>8} {:>8} {:>7} {:>7}",
        "scenario",
        "probes",
        "us/att.",
        "machine",
        "B/probe",
        "late p99",
        "lat. p99",
        "missed",
        "flips",
        "floor",
        "tasks"
    );
    for report in reports {
        let name = report["scenario"].as_str().unwrap_or_default();
        if report.get("failed").is_some() || report.get("skipped").is_some() {
            println!("{name:<12} {}", if report.get("failed").is_some() { "FAILED" } else { "SKIPPED" });
            continue;
        }
        if report.get("cpu_us_per_attempt").is_none() {
            continue;
        }
        let ratio = |key: &str| report["ratios"].get(key).map_or_else(|| "-".to_owned(), |value| figure(value) + "x");
        println!(
            "{name:<12} {:>8} {:>9} {:>9} {:>8} {:>9} {:>9} {:>8} {:>8} {:>7} {:>7}{}",
            report["probes"].to_string(),
            figure(&report["cpu_us_per_attempt"]),
            figure(&report["machine_cpu_us_per_attempt"]),
            report["rss_bytes_per_probe"].as_f64().map_or_else(|| "-".to_owned(), |bytes| format!("{bytes:.0}")),
            micros(&report["lateness_us"]["p99"]),
            micros(&report["latency_us"]["p99"]),
            format!("{:.0}", number(&report["missed"])),
            format!("{}/{}", report["truth"]["flips_noticed"], report["truth"]["flips_made"]),
            ratio("floor_paced"),
            ratio("task_per_probe"),
            report["invalid_because"].as_str().map_or_else(String::new, |why| format!(" valid: false ({why})")),
        );
    }
}

pub(crate) fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

/// Three digits that count.
pub(crate) fn figure(value: &Value) -> String {
    match value.as_f64() {
        None => "-".to_owned(),
        Some(value) if value.abs() >= 100.0 => format!("{value:.0}"),
        Some(value) if value.abs() >= 10.0 => format!("{value:.1}"),
        Some(value) if value.abs() >= 1.0 => format!("{value:.2}"),
        Some(value) => format!("{value:.3}"),
    }
}

pub(crate) fn quantiles(value: &Value) -> String {
    if value.is_null() {
        return "-".to_owned();
    }
    let of = |key: &str| micros(&value[key]);
    format!("p50 {}, p99 {}, p99.9 {}, max {}", of("p50"), of("p99"), of("p999"), of("max"))
}

fn micros(value: &Value) -> String {
    match value.as_f64() {
        None => "-".to_owned(),
        Some(micros) if micros >= 1e6 => format!("{:.2} s", micros / 1e6),
        Some(micros) if micros >= 1e3 => format!("{:.1} ms", micros / 1e3),
        Some(micros) => format!("{micros:.0} us"),
    }
}
