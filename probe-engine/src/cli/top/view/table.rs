//! The pods, and a line that says which of them and in which order.

use jiff::Timestamp;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use super::grid::{self, Column, Side};
use super::{Look, flow, span};
use crate::api::v1::OutcomeKind;
use crate::cli::style::{self, Tone};
use crate::cli::top::row::{self, Row};
use crate::cli::top::state::State;
use crate::cli::{age, probes};

/// Terminals that are wider have room between the columns.
const AIRY: usize = 110;
/// Narrower ones have a narrow STATUS.
const NARROW: usize = 50;

/// How the pod is; the last columns go first where there is no room.
fn columns(width: usize, others: bool) -> Vec<Column> {
    let status = if width < NARROW { 10 } else { 16 };
    let state = [
        Column::new("NAMESPACE", 11, 3, Side::Middle),
        Column::new("NAME", 14, 0, Side::Flexible),
        Column::new("READY", 5, 0, Side::Left),
        Column::new("STATUS", status, 0, Side::Left),
        Column::new("RESTARTS", 8, 4, Side::Right),
        Column::new("FAILING", 7, 0, Side::Right),
        Column::new("LAST", 12, 6, Side::Left),
        Column::new("LATENCY", 7, 7, Side::Right),
        Column::new("AGE", 5, 5, Side::Left),
    ];
    let probes = [
        Column::new("NAMESPACE", 11, 3, Side::Middle),
        Column::new("NAME", 14, 0, Side::Flexible),
        Column::new("READY", 5, 5, Side::Left),
        Column::new("FAILING", 7, 1, Side::Right),
        Column::new("LAST", 12, 0, Side::Left),
        Column::new("LATENCY", 7, 0, Side::Right),
        Column::new("AGE", 5, 6, Side::Left),
    ];
    let gap = gap(width);
    let all = grid::fitting(&state, width, gap);
    if others && all.len() < state.len() { grid::fitting(&probes, width, gap) } else { all }
}

const fn gap(width: usize) -> usize {
    if width < AIRY { 1 } else { 2 }
}

/// So many lines: which pods, the columns' names, the pods.
pub(super) fn lines(state: &mut State, look: Look, width: usize, room: usize, now: Timestamp) -> Vec<Line<'static>> {
    state.settle(room.saturating_sub(2));
    let columns = columns(width, state.other_columns);
    let has_namespace = columns.iter().any(|column| column.name == "NAMESPACE");
    let mut lines = vec![which(state, look, width), header(state, &columns, look, width)];
    for (is_selected, row) in state.shown() {
        let mut line = Vec::new();
        for column in &columns {
            let (text, tone) = cell(row, column.name, has_namespace, now);
            if !line.is_empty() {
                line.push(Span::raw(" ".repeat(gap(width))));
            }
            line.push(Span::styled(column.cell(&text, look.charset), look.tone(tone)));
        }
        let line = Line::from(line);
        lines.push(if is_selected { line.style(Style::new().add_modifier(Modifier::REVERSED)) } else { line });
    }
    if lines.len() == 2 {
        lines.push(Line::from(nothing(state)));
    }
    lines
}

fn which(state: &State, look: Look, width: usize) -> Line<'static> {
    let all = state.pods_count();
    let matching = state.matching_count();
    let shown = state.shown().count();
    let first = if shown == 0 { 0 } else { state.offset() + 1 };
    let mut texts = vec![format!("{first}-{} of {matching}", state.offset() + shown)];
    if matching < all {
        texts[0].push_str(&format!(" ({all} in all)"));
    }
    let order = if state.is_reversed { ", reversed" } else { "" };
    texts.push(format!("by {}{order}", state.sort.as_str()));
    if state.failing_only {
        texts.push("failing only".to_owned());
    }
    if !state.search.is_empty() {
        texts.push(format!("search {:?}", state.search));
    }
    let line = flow(texts, width.saturating_sub(6));
    let rule = match look.charset {
        super::Charset::Utf8 => "─",
        super::Charset::Ascii => "-",
    };
    let rest = width.saturating_sub(super::fit::width(&line) + 6);
    Line::from(Span::styled(format!("{} {line} {}", rule.repeat(2), rule.repeat(rest + 2)), look.faint()))
}

fn header(state: &State, columns: &[Column], look: Look, width: usize) -> Line<'static> {
    let mut line = Vec::new();
    for column in columns {
        if !line.is_empty() {
            line.push(Span::raw(" ".repeat(gap(width))));
        }
        let is_sorted = column.name == state.sort.as_str();
        let style =
            if is_sorted { Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED) } else { look.faint() };
        line.push(Span::styled(column.cell(column.name, look.charset), style));
    }
    Line::from(line)
}

fn nothing(state: &State) -> &'static str {
    if state.pods_count() > 0 {
        if state.search.is_empty() { "no pod is failing (f: all)" } else { "no pod is found (Esc: all)" }
    } else if state.is_synced {
        "no pods"
    } else {
        "waiting for the pods"
    }
}

fn cell(row: &Row, column: &str, has_namespace: bool, now: Timestamp) -> (String, Tone) {
    let plain = |text: String| (text, Tone::Plain);
    match column {
        "NAMESPACE" => plain(row.namespace.clone()),
        "NAME" if has_namespace => plain(row.name.clone()),
        "NAME" => plain(format!("{}/{}", row.namespace, row.name)),
        "READY" => {
            let text = format!("{}/{}", row.ready_count, row.containers_count);
            let tone = style::cell("READY", &text);
            (text, tone)
        }
        "STATUS" => (row.status.clone(), style::status(&row.status)),
        "RESTARTS" => plain(row.restarts.to_string()),
        "FAILING" => {
            let text = format!("{}/{}", row.failing_count, row.probes_count);
            let tone = if row.failing_count > 0 { Tone::Bad } else { Tone::Plain };
            (text, tone)
        }
        "LAST" => last(row, now),
        "LATENCY" => plain(span(row.latency_ns)),
        _ => plain(age::since(row.created_at, now)),
    }
}

/// `failure 3s`: of the probe that is worst off.
fn last(row: &Row, now: Timestamp) -> (String, Tone) {
    if row.last == OutcomeKind::Unspecified {
        return ("-".to_owned(), Tone::Plain);
    }
    let tone = if row::is_unwell(row.last) { Tone::Doubtful } else { Tone::Plain };
    (format!("{} {}", probes::outcome(row.last), age::since(row.last_at, now)), tone)
}
