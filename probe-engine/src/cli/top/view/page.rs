//! One pod: its containers, their probes, and what happened, the newest first. Lines are broken, not cut.

use std::fmt::Write;

use jiff::{SignedDuration, Timestamp};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use super::{Look, span};
use crate::api::convert::timestamp_from;
use crate::api::v1::{self, container_state};
use crate::cli::style::{self, Tone};
use crate::cli::top::fit;
use crate::cli::top::row;
use crate::cli::top::state::{Page, State};
use crate::cli::{age, escape, events, pod_list, pods, probes};

/// What is on the page.
struct Text {
    lines: Vec<Line<'static>>,
    look: Look,
    width: usize,
}

impl Text {
    /// A text from column `indent`, its other lines two further in.
    fn line(&mut self, indent: usize, text: &str, style: Style) {
        let safe = format!("{}{}", " ".repeat(indent), escape::line(text));
        for line in fit::wrapped(&safe, self.width, indent + 2) {
            self.lines.push(Line::from(Span::styled(line, style)));
        }
    }

    fn plain(&mut self, indent: usize, text: &str) {
        self.line(indent, text, Style::new());
    }

    fn toned(&mut self, indent: usize, text: &str, tone: Tone) {
        self.line(indent, text, self.look.tone(tone));
    }
}

/// `room` lines of the page, from where it is scrolled to.
pub(super) fn lines(state: &mut State, look: Look, width: usize, room: usize, now: Timestamp) -> Vec<Line<'static>> {
    let Some(page) = &mut state.page else { return Vec::new() };
    let mut all = text(page, look, width, now);
    page.scroll = page.scroll.min(all.len().saturating_sub(room));
    let rest = all.split_off(page.scroll);
    rest.into_iter().take(room).collect()
}

fn text(page: &Page, look: Look, width: usize, now: Timestamp) -> Vec<Line<'static>> {
    let mut text = Text { lines: Vec::new(), look, width };
    let name = format!("pod {}/{}", page.key.namespace, page.key.name);
    text.line(0, &name, Style::new().add_modifier(Modifier::BOLD));
    if page.is_gone {
        text.toned(0, "It is gone; what follows is the last that was heard of it.", Tone::Bad);
    }
    match &page.pod {
        Some(pod) => of_pod(&mut text, pod, now),
        None if page.is_gone => {}
        None => text.plain(0, "waiting for it"),
    }
    happened(&mut text, page, now);
    text.lines
}

fn of_pod(text: &mut Text, pod: &v1::Pod, now: Timestamp) {
    let summary = pods::summary(pod);
    let line = format!(
        "{}  ready {}/{}  restarts {}  age {}  IP {}",
        summary.status,
        summary.ready_count,
        summary.containers_count,
        pods::restarts(summary.restarts, summary.last_restart, now),
        age::since(timestamp_from(pod.created_at.as_ref()), now),
        pods::or_none(&pod.pod_ip),
    );
    text.toned(0, &line, style::status(&summary.status));
    for condition in pod.conditions.iter().filter(|c| c.status() != v1::ConditionStatus::True) {
        let since = age::since(timestamp_from(condition.last_transition_at.as_ref()), now);
        let mut line =
            format!("{} is {} since {since}", condition.r#type, pod_list::condition_status(condition.status()));
        for part in [&condition.reason, &condition.message] {
            if !part.is_empty() {
                let _ = write!(line, ": {part}");
            }
        }
        text.toned(0, &line, Tone::Doubtful);
    }
    for container in &pod.containers {
        of_container(text, container, now);
    }
}

fn of_container(text: &mut Text, container: &v1::Container, now: Timestamp) {
    let state = match container.state.as_ref().and_then(|state| state.state.as_ref()) {
        Some(container_state::State::Running(of)) => {
            format!("running for {}", age::since(timestamp_from(of.started_at.as_ref()), now))
        }
        Some(container_state::State::Waiting(why)) if why.reason.is_empty() => "waiting".to_owned(),
        Some(container_state::State::Waiting(why)) => format!("waiting: {}", why.reason),
        Some(container_state::State::Terminated(how)) => {
            let ended = age::since(timestamp_from(how.finished_at.as_ref()), now);
            format!("terminated {ended} ago: {} ({})", how.reason, how.exit_code)
        }
        None => "waiting".to_owned(),
    };
    let ready = if container.ready { "ready" } else { "not ready" };
    text.plain(0, "");
    let line = format!("container {}: {state}, {ready}", container.name);
    text.line(0, &line, Style::new().add_modifier(Modifier::BOLD));
    if container.probes.is_empty() {
        text.plain(2, "no probes");
    }
    for probe in &container.probes {
        of_probe(text, probe, now);
    }
}

fn of_probe(text: &mut Text, probe: &v1::Probe, now: Timestamp) {
    let spec = probe.spec.as_ref().map_or_else(|| "<none>".to_owned(), probes::describe);
    text.plain(2, &format!("{} {spec}", probes::probe_type(probe.r#type())));
    let since = timestamp_from(probe.verdict_since.as_ref());
    let mut verdict = probes::verdict(probe.verdict()).to_owned();
    if since.is_some() {
        let _ = write!(verdict, " since {}", age::since(since, now));
    }
    if probe.threshold > 0 {
        let _ = write!(verdict, ", run {}", probes::run(probe.run, probe.threshold));
    }
    if let Some(paused) = probes::paused(probe, now) {
        let _ = write!(verdict, ", {paused}");
    } else if probe.on_hold {
        verdict.push_str(", on hold until the container has a new instance");
    } else if let Some(due) = timestamp_from(probe.due_at.as_ref()) {
        // One that is due this moment is no invalid time.
        let _ = write!(verdict, ", due in {}", age::human(due.duration_since(now).max(SignedDuration::ZERO)));
    }
    let tone = if probe.verdict() == v1::Verdict::Failure { Tone::Bad } else { Tone::Plain };
    text.toned(4, &verdict, tone);
    let last_at = timestamp_from(probe.last_at.as_ref());
    let mut seen = probes::outcome(probe.last()).to_owned();
    if last_at.is_some() {
        let _ = write!(seen, " {} ago, took {}", age::since(last_at, now), span(probe.last_duration_ns));
    }
    if !probe.last_message.is_empty() {
        let _ = write!(seen, ": {}", probe.last_message);
    }
    let tone = if row::is_unwell(probe.last()) { Tone::Doubtful } else { Tone::Plain };
    text.toned(4, &format!("last {seen}"), tone);
    let mut counts = format!("{} succeeded, {} failed", probe.successful_count, probe.failed_count);
    if let Some(of) = probe.durations.as_ref().filter(|of| of.count > 0) {
        let _ = write!(counts, ", p50 {}, p99 {}, max {}", span(of.p50_ns), span(of.p99_ns), span(of.max_ns));
    }
    text.plain(4, &counts);
    if let Some(answered) = probes::answered(probe) {
        text.plain(4, &format!("answered {answered}"));
    }
}

fn happened(text: &mut Text, page: &Page, now: Timestamp) {
    text.plain(0, "");
    text.line(0, "events, the newest first", Style::new().add_modifier(Modifier::BOLD));
    if page.events.is_empty() {
        text.plain(2, "none");
    }
    for event in &page.events {
        let kind = events::event_type(event);
        let mut line = format!("{}  {kind} {}", events::last_seen(event, now), event.reason);
        if !event.container.is_empty() {
            let _ = write!(line, " {}", event.container);
        }
        if event.threshold > 0 {
            let _ = write!(line, ", {}", probes::run(event.run, event.threshold));
        }
        let _ = write!(line, ": {}", event.message);
        text.toned(2, &line, if kind == "Warning" { Tone::Doubtful } else { Tone::Plain });
    }
}
