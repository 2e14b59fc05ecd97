//! How it looks: a pure function of the state, the time and the terminal's size.
//!
//! From top to bottom: what is wrong, the node, its handlers, the pods, the keys. What does not fit is left out whole, the least
//! important first; a text that is cut ends in an ellipsis.

mod grid;
mod node;
mod page;
mod table;

use jiff::Timestamp;
use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use super::fit::{self, Charset};
use super::keys;
use super::state::{Link, State};
use crate::cli::style::Tone;
use crate::cli::{age, escape};

/// The smallest terminal that is drawn on.
pub(super) const COLUMNS_MIN: u16 = 40;
/// The smallest terminal that is drawn on.
pub(super) const ROWS_MIN: u16 = 10;

/// Rows that the table of pods has at least before anything optional is shown above it: header and status line included.
const TABLE_ROWS_MIN: usize = 9;

/// What the terminal can show.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// It has colours, and they are wanted.
    pub(super) colour: bool,
    pub(super) charset: Charset,
}

impl Look {
    pub(super) fn tone(self, tone: Tone) -> Style {
        match (tone, self.colour) {
            (Tone::Plain, _) => Style::new(),
            (Tone::Bad, true) => Style::new().fg(Color::Red),
            (Tone::Doubtful, true) => Style::new().fg(Color::Yellow),
            // Without colours what is failing stands out all the same.
            (Tone::Bad, false) => Style::new().add_modifier(Modifier::BOLD),
            (Tone::Doubtful, false) => Style::new(),
        }
    }

    fn faint(self) -> Style {
        if self.colour { Style::new().fg(Color::DarkGray) } else { Style::new() }
    }

    fn alarm(self, severe: bool) -> Style {
        let style = Style::new().add_modifier(Modifier::REVERSED);
        match (self.colour, severe) {
            (true, true) => style.fg(Color::Red),
            (true, false) => style.fg(Color::Yellow),
            (false, _) => style,
        }
    }
}

/// Draws everything. The state is told how many rows there are, so that the selected one is among them.
pub(super) fn draw(frame: &mut Frame<'_>, state: &mut State, look: Look, now: Timestamp) {
    let area = frame.area();
    paint(frame.buffer_mut(), area, state, look, now);
}

/// The same onto a buffer.
pub(super) fn paint(buffer: &mut Buffer, area: Rect, state: &mut State, look: Look, now: Timestamp) {
    if area.width < COLUMNS_MIN || area.height < ROWS_MIN {
        return too_small(buffer, area, look);
    }
    let (width, height) = (usize::from(area.width), usize::from(area.height));
    let mut lines = banner(state, look, width, height, now);
    if state.is_help {
        lines.extend(help(width));
    } else if state.page.is_some() {
        let room = height - lines.len() - 1;
        lines.extend(page::lines(state, look, width, room, now));
    } else {
        lines.extend(node::lines(state, look, width, (height - lines.len()).saturating_sub(TABLE_ROWS_MIN)));
        let room = height - lines.len() - 1;
        lines.extend(table::lines(state, look, width, room, now));
    }
    lines.truncate(height - 1);
    lines.resize(height - 1, Line::default());
    lines.push(footer(state, look, width));
    for (y, line) in (area.y..).zip(&lines) {
        buffer.set_line(area.x, y, line, area.width);
    }
}

/// The connection, and what is wrong with the engine itself; at most a third of the rows.
fn banner(state: &State, look: Look, width: usize, height: usize, now: Timestamp) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    let alarm = |text: &str, severe: bool| {
        let text = escape::line(text).into_owned();
        let wrapped = fit::wrapped(&text, width, 2);
        let style = look.alarm(severe);
        wrapped.into_iter().map(move |line| Line::from(Span::styled(fit::padded(&line, width), style)))
    };
    let clock = |at: Timestamp| format!("{} UTC ({} ago)", at.strftime("%H:%M:%S"), age::since(Some(at), now));
    if let Link::Lost { since, why } = &state.link {
        lines.extend(alarm(&format!("disconnected since {}, trying again: {why}", clock(*since)), true));
    } else if let Some(since) = state.silent_since(now) {
        lines.extend(alarm(
            &format!("no word from the daemon since {}: it is stopped, stuck or starved", clock(since)),
            true,
        ));
    }
    for problem in state.node.iter().flat_map(|node| &node.problems) {
        lines.extend(alarm(&format!("{}: {}", problem.kind, problem.text), problem.severe));
    }
    let room = (height / 3).max(1);
    if lines.len() > room {
        lines.truncate(room);
        // What is left out is said.
        let more = format!("more is wrong: make the terminal taller, or see `probe-engine {}`", "top -o json");
        lines[room - 1] =
            Line::from(Span::styled(fit::padded(&fit::end(&more, width, look.charset), width), look.alarm(true)));
    }
    lines
}

fn footer(state: &State, look: Look, width: usize) -> Line<'static> {
    if state.is_printed {
        return Line::default();
    }
    if state.is_searching {
        // Its end is what is being typed.
        return Line::from(format!("/{}_", fit::middle(&escape::line(&state.search), width - 2, look.charset)));
    }
    let keys: &[&str] = if state.is_help {
        &["Esc back", "q quit"]
    } else if state.page.is_some() {
        &["Esc back", "q quit", "? help", "up/down scroll"]
    } else {
        &["q quit", "? help", "Enter pod", "/ search", "f failing", "s sort", "r reverse", "Tab columns"]
    };
    Line::from(Span::styled(flow(keys.iter().map(ToString::to_string), width), look.faint()))
}

fn help(width: usize) -> Vec<Line<'static>> {
    let mut lines = vec![Line::from(Span::styled("Keys", Style::new().add_modifier(Modifier::BOLD)))];
    for (keys, text) in keys::HELP {
        lines.extend(fit::wrapped(&format!("  {keys:<16}  {text}"), width, 20).into_iter().map(Line::from));
    }
    lines
}

fn too_small(buffer: &mut Buffer, area: Rect, look: Look) {
    let text = format!("terminal too small: {}x{}, needs {COLUMNS_MIN}x{ROWS_MIN}", area.width, area.height);
    let lines = fit::wrapped(&text, usize::from(area.width), 0);
    for (y, line) in (area.y..area.bottom()).zip(lines) {
        buffer.set_line(area.x, y, &Line::from(fit::end(&line, usize::from(area.width), look.charset)), area.width);
    }
}

/// Texts beside each other as long as whole ones fit.
fn flow(texts: impl IntoIterator<Item = String>, width: usize) -> String {
    let mut line = String::new();
    for text in texts {
        let gap = if line.is_empty() { "" } else { "  " };
        if fit::width(&line) + gap.len() + fit::width(&text) > width {
            break;
        }
        line.push_str(gap);
        line.push_str(&text);
    }
    line
}

/// A count in at most six characters: `99999`, `1.23M`, `45.6G`.
fn count(of: u64) -> String {
    const UNITS: [(u64, char); 4] = [(1_000_000_000_000, 'T'), (1_000_000_000, 'G'), (1_000_000, 'M'), (1_000, 'k')];
    if of < 100_000 {
        return of.to_string();
    }
    let (unit, sign) = UNITS.into_iter().find(|(unit, _)| of >= *unit).unwrap_or((1, ' '));
    let value = of as f64 / unit as f64;
    let digits = if value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else {
        2
    };
    format!("{value:.digits$}{sign}")
}

/// A span in at most six characters, `-` for none: `847us`, `1.6ms`, `12ms`, `1.20s`.
fn span(nanos: u64) -> String {
    match nanos {
        0 => "-".to_owned(),
        1..1_000 => "<1us".to_owned(),
        1_000..1_000_000 => format!("{}us", nanos / 1_000),
        1_000_000..99_950_000 => format!("{:.1}ms", nanos as f64 / 1e6),
        99_950_000..1_000_000_000 => format!("{}ms", nanos / 1_000_000),
        _ => format!("{:.2}s", nanos as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_keep_three_digits() {
        for (of, expected) in [
            (0, "0"),
            (99_999, "99999"),
            (100_000, "100k"),
            (1_234_567, "1.23M"),
            (45_600_000_000, "45.6G"),
            (999_960_000, "1000M"),
            (u64::MAX, "18446744T"),
        ] {
            assert_eq!(count(of), expected);
        }
        for (nanos, expected) in [
            (0, "-"),
            (1, "<1us"),
            (847_000, "847us"),
            (1_640_000, "1.6ms"),
            (123_400_000, "123ms"),
            (1_203_000_000, "1.20s"),
        ] {
            assert_eq!(span(nanos), expected);
        }
    }

    #[test]
    fn only_whole_texts_flow() {
        let texts = ["one", "two", "three"].map(str::to_owned);
        assert_eq!(flow(texts.clone(), 8), "one  two");
        assert_eq!(flow(texts, 80), "one  two  three");
    }
}
