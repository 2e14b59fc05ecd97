//! The node at a glance: counts, curves, and a line per handler.

use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use super::grid::{self, Column, Side};
use super::{Look, count, flow, span};
use crate::api::v1;
use crate::cli::style::Tone;
use crate::cli::top::fit;
use crate::cli::top::state::State;
use crate::cli::{age, escape};

/// Columns of a curve's label.
const LABEL: usize = 13;
/// Columns of its newest value, and the blank before it.
const VALUE: usize = 8;

const HANDLERS: [Column; 10] = [
    Column::new("HANDLER", 7, 0, Side::Left),
    Column::new("OK", 7, 3, Side::Right),
    Column::new("FAILED", 7, 0, Side::Right),
    Column::new("DISCARDED", 9, 5, Side::Right),
    Column::new("PASSIVE", 7, 2, Side::Right),
    Column::new("P50", 7, 0, Side::Right),
    Column::new("P90", 7, 4, Side::Right),
    Column::new("P99", 7, 0, Side::Right),
    Column::new("P99.9", 7, 4, Side::Right),
    Column::new("MAX", 7, 1, Side::Right),
];

/// At most so many lines; what matters most first.
pub(super) fn lines(state: &State, look: Look, width: usize, room: usize) -> Vec<Line<'static>> {
    let mut lines = vec![title(state, look, width)];
    let Some(node) = &state.node else {
        lines.push(Line::from("waiting for the node's first word"));
        return lines;
    };
    lines.push(pods(node, look, width));
    lines.push(rates(state, node, look, width));
    lines.push(own(node, width));
    if lines.len() >= room {
        // The node's own state is shown whatever the height is.
        return lines;
    }
    let handlers = handlers(node, look, width);
    let pool = pool(node, look, width);
    let curves = curves(state, node, look, width);
    for block in [handlers, curves, pool] {
        if !block.is_empty() && lines.len() + block.len() <= room {
            lines.extend(block);
        }
    }
    lines
}

fn title(state: &State, look: Look, width: usize) -> Line<'static> {
    let name = &state.info.node_name;
    let mut texts = vec!["probe-engine".to_owned(), fit::middle(&escape::line(name), 24, look.charset)];
    if let Some(node) = &state.node {
        let up = jiff::SignedDuration::from_secs(i64::try_from(node.uptime_ns / 1_000_000_000).unwrap_or(i64::MAX));
        texts.push(format!("up {}", age::human(up)));
        texts.push(format!("CPU {:.2}", node.cpu_cores));
        texts.push(format!("memory {}", bytes(node.memory_bytes)));
    }
    texts.push(format!("runtime {}", escape::line(&state.info.runtime)));
    texts.push(format!("version {}", escape::line(&state.info.version)));
    Line::from(Span::styled(flow(texts, width), Style::new().add_modifier(Modifier::BOLD)))
}

/// Texts beside each other as long as whole ones fit, each in its tone.
fn spans(texts: Vec<(String, Tone)>, look: Look, width: usize) -> Line<'static> {
    let mut line = Vec::new();
    let mut used = 0;
    for (text, tone) in texts {
        let gap = if used == 0 { 0 } else { 2 };
        if used + gap + fit::width(&text) > width {
            break;
        }
        used += gap + fit::width(&text);
        line.push(Span::raw(" ".repeat(gap)));
        line.push(Span::styled(text, look.tone(tone)));
    }
    Line::from(line)
}

fn pods(node: &v1::WatchNodeResponse, look: Look, width: usize) -> Line<'static> {
    let all: u64 = node.pods_by_phase.iter().sum();
    let phase = |at: usize| node.pods_by_phase.get(at).copied().unwrap_or(0);
    let mut texts =
        vec![(format!("Pods {all}"), Tone::Plain), (format!("ready {}", node.pods_ready_count), Tone::Plain)];
    for (name, at, tone) in [("pending", 0, Tone::Doubtful), ("succeeded", 2, Tone::Plain), ("failed", 3, Tone::Bad)] {
        if phase(at) > 0 {
            texts.push((format!("{name} {}", phase(at)), tone));
        }
    }
    texts.push((format!("Probes {}", node.probes_count), Tone::Plain));
    let tone = if node.probes_failing_count > 0 { Tone::Bad } else { Tone::Plain };
    texts.push((format!("failing {}", node.probes_failing_count), tone));
    for (name, of) in [("paused", node.probes_paused_count), ("stuck", node.probes_stuck_count)] {
        if of > 0 {
            texts.push((format!("{name} {of}"), Tone::Doubtful));
        }
    }
    spans(texts, look, width)
}

fn rates(state: &State, node: &v1::WatchNodeResponse, look: Look, width: usize) -> Line<'static> {
    let rates = state.rates();
    let some =
        |name: &str, of: u64| (format!("{name} {}", count(of)), if of > 0 { Tone::Doubtful } else { Tone::Plain });
    let failures = if rates.failures_per_second > 0.0 { Tone::Doubtful } else { Tone::Plain };
    let texts = vec![
        (format!("Attempts/s {}", rate(node.attempts_per_second)), Tone::Plain),
        (format!("passive {:.0}%", rates.passive_share * 100.0), Tone::Plain),
        (format!("failed/s {}", rate(rates.failures_per_second)), failures),
        some("missed", node.missed_count),
        some("local", node.local_count),
        (format!("restarts {}", count(node.restarts_count)), Tone::Plain),
    ];
    spans(texts, look, width)
}

/// How late the engine is, and how much it has on its hands.
fn own(node: &v1::WatchNodeResponse, width: usize) -> Line<'static> {
    let lateness = node.lateness.unwrap_or_default();
    let late = [("p50", lateness.p50_ns), ("p99", lateness.p99_ns), ("max", lateness.max_ns)];
    let late: Vec<String> = late.iter().map(|(name, nanos)| format!("{name} {}", span(*nanos))).collect();
    let texts = [
        format!("Lateness {}", late.join(" ")),
        format!("in flight {} of {}", node.in_flight_count, node.in_flight_max),
    ];
    Line::from(flow(texts, width))
}

/// Lanes of the pool that are in use.
fn pool(node: &v1::WatchNodeResponse, look: Look, width: usize) -> Vec<Line<'static>> {
    let lanes = node.pool.iter().map(|lane| {
        let mut text = format!("{} {} of {}", escape::line(&lane.handler), lane.in_flight_count, lane.in_flight_max);
        if lane.queued_count > 0 {
            text.push_str(&format!(", {} waiting", lane.queued_count));
        }
        (text, if lane.queued_count > 0 { Tone::Doubtful } else { Tone::Plain })
    });
    let texts: Vec<_> = std::iter::once(("Pool".to_owned(), Tone::Plain)).chain(lanes).collect();
    if texts.len() == 1 { Vec::new() } else { vec![spans(texts, look, width)] }
}

/// Attempts a second and lateness over the last minutes, a bar for five seconds.
fn curves(state: &State, node: &v1::WatchNodeResponse, look: Look, width: usize) -> Vec<Line<'static>> {
    let bars = width.saturating_sub(LABEL + VALUE);
    let p99 = node.lateness.unwrap_or_default().p99_ns;
    let rates = fit::sparkline(state.rate_history(), bars, look.charset);
    let lateness = fit::sparkline(state.lateness_history(), bars, look.charset);
    let line = |label: &str, bars: String, value: String| Line::from(format!("{label:<LABEL$}{bars} {value}"));
    vec![line("Attempts/s", rates, rate(node.attempts_per_second)), line("Lateness p99", lateness, span(p99))]
}

fn handlers(node: &v1::WatchNodeResponse, look: Look, width: usize) -> Vec<Line<'static>> {
    if node.handlers.is_empty() {
        return Vec::new();
    }
    let columns = grid::fitting(&HANDLERS, width, 1);
    let header: Vec<String> = columns.iter().map(|column| column.cell(column.name, look.charset)).collect();
    let mut lines = vec![Line::from(Span::styled(header.join(" "), look.faint()))];
    for of in &node.handlers {
        let latency = of.latency.unwrap_or_default();
        let mut line = Vec::new();
        for column in &columns {
            let (text, tone) = match column.name {
                "HANDLER" => (escape::line(&of.handler).into_owned(), Tone::Plain),
                "OK" => (count(of.successful_count), Tone::Plain),
                "FAILED" => (count(of.failed_count), Tone::Plain),
                "DISCARDED" => (count(of.discarded_count), Tone::Plain),
                "PASSIVE" => (count(of.passive_count), Tone::Plain),
                "P50" => (span(latency.p50_ns), Tone::Plain),
                "P90" => (span(latency.p90_ns), Tone::Plain),
                "P99" => (span(latency.p99_ns), Tone::Plain),
                "P99.9" => (span(latency.p999_ns), Tone::Plain),
                _ => (span(latency.max_ns), Tone::Plain),
            };
            if !line.is_empty() {
                line.push(Span::raw(" "));
            }
            line.push(Span::styled(column.cell(&text, look.charset), look.tone(tone)));
        }
        lines.push(Line::from(line));
    }
    lines
}

/// `0.3`, `12`, `12345`, `1.23M`
fn rate(per_second: f64) -> String {
    match per_second {
        r if r <= 0.0 || r.is_nan() => "0".to_owned(),
        r if r < 9.95 => format!("{r:.1}"),
        r => count(r.round() as u64),
    }
}

/// `50.7 MB`, in powers of ten as everywhere here.
fn bytes(of: u64) -> String {
    match of {
        0..1_000_000 => format!("{} kB", of / 1_000),
        1_000_000..1_000_000_000 => format!("{:.1} MB", of as f64 / 1e6),
        _ => format!("{:.2} GB", of as f64 / 1e9),
    }
}
