//! Texts in a given number of terminal columns: what is cut says so, and a name is cut in its middle, as names differ at
//! their ends.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// How a terminal is drawn on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Charset {
    /// Everything.
    Utf8,
    /// ASCII alone: the locale has no more.
    Ascii,
}

impl Charset {
    const fn ellipsis(self) -> &'static str {
        match self {
            Charset::Utf8 => "…",
            Charset::Ascii => "~",
        }
    }

    /// From nothing to full.
    const fn levels(self) -> [char; 8] {
        match self {
            Charset::Utf8 => ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'],
            Charset::Ascii => ['_', '.', ':', '-', '=', '+', '*', '#'],
        }
    }
}

/// Columns that a text takes.
pub(super) fn width(text: &str) -> usize {
    UnicodeWidthStr::width(text)
}

/// At most so many columns, cut at the end.
pub(super) fn end(text: &str, columns: usize, charset: Charset) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    if columns == 0 {
        return String::new();
    }
    format!("{}{}", head(text, columns - 1), charset.ellipsis())
}

/// At most so many columns, cut in the middle.
pub(super) fn middle(text: &str, columns: usize, charset: Charset) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    if columns < 3 {
        return end(text, columns, charset);
    }
    let before = (columns - 1) / 2;
    let after = columns - 1 - before;
    format!("{}{}{}", head(text, before), charset.ellipsis(), tail(text, after))
}

/// Filled up with blanks to so many columns.
pub(super) fn padded(text: &str, columns: usize) -> String {
    format!("{text}{}", " ".repeat(columns.saturating_sub(width(text))))
}

/// The same, at the right.
pub(super) fn padded_left(text: &str, columns: usize) -> String {
    format!("{}{text}", " ".repeat(columns.saturating_sub(width(text))))
}

/// Lines of at most so many columns, broken at blanks where there are some; all but the first begin with `indent` blanks.
pub(super) fn wrapped(text: &str, columns: usize, indent: usize) -> Vec<String> {
    let columns = columns.max(8);
    let indent = if indent + 8 > columns { 0 } else { indent };
    let mut lines = Vec::new();
    let mut rest = text;
    let mut lead = String::new();
    loop {
        let room = columns - lead.len();
        if width(rest) <= room {
            lines.push(format!("{lead}{rest}"));
            return lines;
        }
        let fitting = head(rest, room);
        // A break in the blanks that the line begins with would be none.
        let begins = rest.len() - rest.trim_start().len();
        let at = if rest[fitting.len()..].starts_with(' ') {
            fitting.len()
        } else {
            fitting.rfind(' ').filter(|at| *at > begins).unwrap_or(fitting.len())
        };
        // A character wider than the line: it goes alone.
        let at = if at == 0 { rest.chars().next().map_or(rest.len(), char::len_utf8) } else { at };
        lines.push(format!("{lead}{}", rest[..at].trim_end()));
        rest = rest[at..].trim_start();
        if rest.is_empty() {
            return lines;
        }
        lead = " ".repeat(indent);
    }
}

/// The newest values as a line of bars, the newest at the right; the highest of all is full.
pub(super) fn sparkline(
    values: impl DoubleEndedIterator<Item = f64> + Clone,
    columns: usize,
    charset: Charset,
) -> String {
    let shown = values.rev().take(columns);
    let max = shown.clone().fold(0.0, f64::max);
    let levels = charset.levels();
    let bar = |value: f64| {
        let part = if max > 0.0 { (value / max).clamp(0.0, 1.0) } else { 0.0 };
        levels[((part * 7.0).round() as usize).min(7)]
    };
    let mut bars: Vec<char> = shown.map(bar).collect();
    bars.reverse();
    bars.into_iter().collect()
}

/// What fits into so many columns, from the beginning.
fn head(text: &str, columns: usize) -> &str {
    let mut used = 0;
    for (at, c) in text.char_indices() {
        used += c.width().unwrap_or(0);
        if used > columns {
            return &text[..at];
        }
    }
    text
}

/// What fits into so many columns, up to the end.
fn tail(text: &str, columns: usize) -> &str {
    let mut used = 0;
    for (at, c) in text.char_indices().rev() {
        used += c.width().unwrap_or(0);
        if used > columns {
            return &text[at + c.len_utf8()..];
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_says_so() {
        assert_eq!(end("CrashLoopBackOff", 16, Charset::Utf8), "CrashLoopBackOff");
        assert_eq!(end("CrashLoopBackOff", 8, Charset::Utf8), "CrashLo…");
        assert_eq!(end("CrashLoopBackOff", 8, Charset::Ascii), "CrashLo~");
        assert_eq!(end("x", 0, Charset::Utf8), "");
        assert_eq!(middle("web-5d9f8c7b6d-x7k2p", 11, Charset::Utf8), "web-5…x7k2p");
        assert_eq!(middle("web", 3, Charset::Utf8), "web");
    }

    #[test]
    fn wide_characters_take_two_columns_and_are_never_halved() {
        assert_eq!(width("日本"), 4);
        for columns in 0..12 {
            for text in ["日本日本日本", "a日b本c日d本", "日本a"] {
                assert!(width(&end(text, columns, Charset::Utf8)) <= columns, "{text} in {columns}");
                assert!(width(&middle(text, columns, Charset::Utf8)) <= columns, "{text} in {columns}");
            }
        }
        assert_eq!(padded("日", 4), "日  ");
        assert_eq!(padded_left("日", 4), "  日");
    }

    #[test]
    fn lines_break_at_blanks_and_lose_nothing() {
        assert_eq!(wrapped("Liveness probe failed: refused", 16, 2), ["Liveness probe", "  failed:", "  refused"]);
        assert_eq!(wrapped("short", 16, 2), ["short"]);
        let long = "x".repeat(40);
        assert_eq!(wrapped(&long, 16, 0).concat(), long);
        for columns in 0..40 {
            let text = "日本 a-very-long-word-without-blanks 日本日本日本日本 and more";
            let lines = wrapped(text, columns, 4);
            assert!(lines.iter().all(|line| width(line) <= columns.max(8)), "{columns}: {lines:?}");
            let kept: String = lines.concat().chars().filter(|c| *c != ' ').collect();
            assert_eq!(kept, text.replace(' ', ""), "{columns}");
        }
    }

    #[test]
    fn a_sparkline_shows_the_newest_values_against_their_highest() {
        let values = [100.0, 0.0, 7.0, 3.5];
        assert_eq!(sparkline(values.iter().copied(), 3, Charset::Utf8), "▁█▅");
        assert_eq!(sparkline(values.iter().copied(), 9, Charset::Ascii), "#___");
        assert_eq!(sparkline([0.0].iter().copied(), 3, Charset::Utf8), "▁");
    }
}
