//! How far long work is: one line on standard error, rewritten in place, where that is a terminal and the work takes long
//! enough to be wondered about. Anywhere else nothing.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use probe_core::time::Instant;

use super::style;
use crate::clock;

/// Work that is done sooner shows nothing.
const QUIET: Duration = Duration::from_millis(500);
/// Between two drawings.
const EVERY: Duration = Duration::from_millis(100);
/// Characters of the bar.
const BAR: usize = 24;

/// A bar; taken away when it is dropped, so that what is said next has a clean line.
#[derive(Debug)]
pub struct Progress {
    label: &'static str,
    total: usize,
    done: usize,
    shown: bool,
    next: Option<Instant>,
}

impl Progress {
    /// Of so many pieces of work; 0 = not known.
    #[must_use]
    pub fn new(label: &'static str, total: usize) -> Self {
        let is_shown = io::stderr().is_terminal() && !style::is_dumb();
        Self { label, total, done: 0, shown: false, next: is_shown.then(|| clock::now() + QUIET) }
    }

    /// One more is done.
    pub fn step(&mut self) {
        self.done += 1;
        let Some(next) = self.next else { return };
        let now = clock::now();
        if now < next {
            return;
        }
        self.next = Some(now + EVERY);
        self.shown = true;
        // A terminal that takes nothing is no reason to end the work.
        let _ = write!(io::stderr(), "\r\x1b[K{}", line(self.label, self.done, self.total));
        let _ = io::stderr().flush();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

/// `checking [########----------------] 3,334 of 10,000`; never wider than 80 columns.
fn line(label: &str, done: usize, total: usize) -> String {
    let mut text = label.to_owned();
    if total == 0 {
        let _ = write!(text, " {done}");
        return text;
    }
    let filled = (done.min(total) * BAR) / total;
    let _ = write!(text, " [{}{}] {done} of {total}", "#".repeat(filled), "-".repeat(BAR - filled));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_fills_and_fits() {
        assert_eq!(line("checking", 0, 4), "checking [------------------------] 0 of 4");
        assert_eq!(line("checking", 1, 4), "checking [######------------------] 1 of 4");
        assert_eq!(line("checking", 4, 4), "checking [########################] 4 of 4");
        assert_eq!(line("checking", 7, 0), "checking 7");
        assert!(line("checking", 10_000_000, 10_000_000).len() < 80);
    }
}
