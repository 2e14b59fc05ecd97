//! Colour, decided in one place: only on a terminal that has some, and not where NO_COLOR (no-color.org) is set.
//!
//! Restrained on purpose: what is well has no colour.

use std::env;
use std::ffi::OsStr;
use std::io::IsTerminal;

/// What a text means, where that has a colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Nothing that asks for attention.
    Plain,
    /// It is failing.
    Bad,
    /// It may become so, or is on its way.
    Doubtful,
}

/// Whether what goes to this stream is coloured.
#[must_use]
pub fn colours(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && is_wanted(env::var_os("NO_COLOR").as_deref(), env::var_os("TERM").as_deref())
}

/// The terminal cannot move its cursor, or is not known.
#[must_use]
pub fn is_dumb() -> bool {
    is_dumb_term(env::var_os("TERM").as_deref())
}

/// Whether the locale writes UTF-8: without it only ASCII is drawn.
#[must_use]
pub fn is_utf8() -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(env::var_os).find(|value| !value.is_empty());
    locale.is_some_and(|locale| {
        let locale = locale.to_string_lossy().to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    })
}

/// A text in the colour of its tone.
#[must_use]
pub fn paint(text: &str, tone: Tone) -> String {
    let code = match tone {
        Tone::Plain => return text.to_owned(),
        Tone::Bad => 31,
        Tone::Doubtful => 33,
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// What STATUS of a pod means.
#[must_use]
pub fn status(status: &str) -> Tone {
    match status {
        "Running" | "Succeeded" | "Completed" => Tone::Plain,
        "Pending" | "ContainerCreating" | "PodInitializing" | "Terminating" | "NotReady" => Tone::Doubtful,
        init if init.starts_with("Init:") && init.as_bytes().get(5).is_some_and(u8::is_ascii_digit) => Tone::Doubtful,
        _ => Tone::Bad,
    }
}

/// What a cell means, by the name of its column.
#[must_use]
pub fn cell(column: &str, text: &str) -> Tone {
    match (column, text) {
        ("STATUS", text) => status(text),
        ("VERDICT", "Failure") => Tone::Bad,
        ("LAST", "failure" | "error" | "local" | "warning") | ("TYPE", "Warning") => Tone::Doubtful,
        ("READY", text) => match text.split_once('/') {
            Some((ready, all)) if ready != all => Tone::Doubtful,
            _ => Tone::Plain,
        },
        _ => Tone::Plain,
    }
}

fn is_wanted(no_color: Option<&OsStr>, term: Option<&OsStr>) -> bool {
    no_color.is_none_or(OsStr::is_empty) && !is_dumb_term(term)
}

fn is_dumb_term(term: Option<&OsStr>) -> bool {
    term.is_none_or(|term| term.is_empty() || term == "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_is_for_terminals_that_have_some_and_people_who_want_it() {
        let wanted =
            |no_color: Option<&str>, term: Option<&str>| is_wanted(no_color.map(OsStr::new), term.map(OsStr::new));
        assert!(wanted(None, Some("xterm")));
        assert!(wanted(Some(""), Some("xterm")), "empty is not set, by no-color.org");
        assert!(!wanted(Some("1"), Some("xterm")));
        assert!(!wanted(None, Some("dumb")));
        assert!(!wanted(None, None));
    }

    #[test]
    fn what_is_well_has_no_colour() {
        for well in ["Running", "Completed", "Succeeded"] {
            assert_eq!(status(well), Tone::Plain, "{well}");
        }
        for coming in ["Pending", "ContainerCreating", "Init:0/1", "Terminating", "NotReady"] {
            assert_eq!(status(coming), Tone::Doubtful, "{coming}");
        }
        for bad in ["CrashLoopBackOff", "Error", "OOMKilled", "Init:Error", "Init:ExitCode:2", "Failed", "Unknown"] {
            assert_eq!(status(bad), Tone::Bad, "{bad}");
        }
        assert_eq!(cell("READY", "1/2"), Tone::Doubtful);
        assert_eq!(cell("READY", "2/2"), Tone::Plain);
        assert_eq!(cell("MESSAGE", "failure"), Tone::Plain);
        assert_eq!(paint("x", Tone::Plain), "x");
        assert_eq!(paint("x", Tone::Bad), "\x1b[31mx\x1b[0m");
    }
}
