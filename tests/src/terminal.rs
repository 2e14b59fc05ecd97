//! A real terminal: a tmux server of the test's own, whose screen is read and whose keys are pressed; and captures of it, kept as
//! artefacts and compared with golden files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::daemon::PATIENCE;

/// Between two looks at the screen, which gives no event to wait for.
const LOOK: Duration = Duration::from_millis(50);

/// Days of a week and months.
const DATE: [&str; 19] = [
    "Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun", "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep",
    "Oct", "Nov", "Dec",
];

/// What a terminal shows when its program has ended, with the exit code.
const ENDED: &str = "[exit ";

/// A terminal of one program; gone on drop, with the program.
pub struct Terminal {
    socket: String,
}

impl Terminal {
    /// Whether there is a tmux.
    #[must_use]
    pub fn is_there() -> bool {
        let version = Command::new("tmux").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
        version.is_ok_and(|status| status.success())
    }

    /// Runs a line of the shell in a terminal of this size; `[exit N]` stands below what it has said when it has ended.
    ///
    /// # Panics
    /// Where tmux cannot do it.
    #[must_use]
    pub fn start(columns: u16, rows: u16, line: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let terminal = Self { socket: format!("probe-engine-test-{}-{count}", std::process::id()) };
        // The program ends and the terminal stays, until it is read.
        let script = format!("{line}; echo '{ENDED}'$?']'; read -r end");
        let (columns, rows) = (columns.to_string(), rows.to_string());
        terminal.tmux(&["new-session", "-d", "-x", &columns, "-y", &rows, &script]);
        terminal
    }

    /// Presses keys, as tmux names them.
    pub fn press(&self, keys: &[&str]) {
        let words: Vec<&str> = ["send-keys"].into_iter().chain(keys.iter().copied()).collect();
        self.tmux(&words);
    }

    /// Gives the terminal another size.
    pub fn resize(&self, columns: u16, rows: u16) {
        self.tmux(&["resize-window", "-x", &columns.to_string(), "-y", &rows.to_string()]);
    }

    /// What is on the screen, a line each, without blanks at their ends.
    #[must_use]
    pub fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// The same with its colours.
    #[must_use]
    pub fn coloured_screen(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-e"])
    }

    /// All that was ever on the screen; lines that are longer than it are one line again.
    #[must_use]
    pub fn everything(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-J", "-S", "-"])
            .lines()
            .map(|line| format!("{}\n", line.trim_end()))
            .collect()
    }

    /// The same with the lines that the terminal made of them.
    #[must_use]
    pub fn everything_as_shown(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-S", "-"])
    }

    /// A program has the whole screen.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        self.tmux(&["display-message", "-p", "#{alternate_on}"]).trim() == "1"
    }

    /// Waits for a screen, and gives it back.
    ///
    /// # Panics
    /// After [`PATIENCE`], with the screen.
    pub fn wait_for(&self, what: &str, is_it: impl Fn(&str) -> bool) -> String {
        #[expect(clippy::disallowed_methods, reason = "a bound of the test, not the engine's clock")]
        let start = Instant::now();
        loop {
            let screen = self.screen();
            if is_it(&screen) {
                return screen;
            }
            assert!(start.elapsed() < PATIENCE, "waited in vain for {what}:\n{screen}");
            std::thread::sleep(LOOK); // tidy: between two looks at a screen, which gives no event
        }
    }

    /// Waits for a screen that holds each of these.
    pub fn wait_text(&self, texts: &[&str]) -> String {
        self.wait_for(&format!("{texts:?}"), |screen| texts.iter().all(|text| screen.contains(text)))
    }

    /// Waits for the program's end, and gives its exit code back.
    pub fn wait_end(&self) -> i32 {
        let screen = self.wait_for("the program's end", |screen| code(screen).is_some());
        code(&screen).unwrap_or_default()
    }

    fn tmux(&self, words: &[&str]) -> String {
        let output = self.try_tmux(words).expect("tmux runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "tmux {words:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    fn try_tmux(&self, words: &[&str]) -> std::io::Result<Output> {
        let mut command = Command::new("tmux");
        // `-u`: UTF-8 whatever the locale of the test is.
        command.args(["-u", "-L", &self.socket, "-f", "/dev/null"]).args(words);
        command.env_remove("TMUX").env_remove("NO_COLOR").env("LC_ALL", "C.UTF-8").stdin(Stdio::null()).output()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.try_tmux(&["kill-server"]);
    }
}

fn code(screen: &str) -> Option<i32> {
    screen.lines().rev().find_map(|line| line.strip_prefix(ENDED)?.strip_suffix(']')?.parse().ok())
}

/// Compares a capture with its golden file, what differs from run to run masked; `BLESS=1` writes it anew. The capture
/// as it is goes to `target/captures`.
///
/// # Panics
/// Where they differ.
pub fn compare(name: &str, capture: &str) {
    keep(name, capture);
    let masked: String = capture.trim_end().lines().map(|line| format!("{}\n", mask(line))).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/terminal").join(format!("{name}.txt"));
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, &masked).expect("a golden file");
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(masked, expected, "{} (BLESS=1 writes it anew)\n{capture}", path.display());
}

/// Keeps a capture as it is.
pub fn keep(name: &str, capture: &str) {
    let test = std::env::current_exe().expect("this test's path");
    // target/debug/deps/this-test
    let folder: PathBuf = test.ancestors().nth(3).expect("the target folder").join("captures");
    fs::create_dir_all(&folder).expect("a folder for captures");
    fs::write(folder.join(format!("{name}.txt")), capture).expect("a capture");
}

/// A line with its words' distances and all that differs from run to run taken out: times (and the `-` of none), numbers, ports, IDs.
/// `1/2` and words with digits in them stay.
#[must_use]
pub fn mask(line: &str) -> String {
    if line.starts_with(ENDED) {
        return line.to_owned();
    }
    let indent = line.len() - line.trim_start().len();
    let words: Vec<String> = line.split_whitespace().map(masked_word).collect();
    // A run that is longer than its threshold.
    format!("{}{}", " ".repeat(indent), words.join(" ").replace(" of <n> (<n>)", " of <n>"))
}

fn masked_word(word: &str) -> String {
    let is_edge = |c: char| "(),;[]\"".contains(c);
    let core = word.trim_matches(is_edge);
    let core = core.strip_suffix(':').map_or(core, |core| core.trim_matches(is_edge));
    if core.is_empty() {
        return word.to_owned();
    }
    if let Some((before, port)) = core.rsplit_once(':')
        && before.contains("127.0.0.1")
    {
        let path = port.trim_start_matches(|c: char| c.is_ascii_digit());
        return word.replace(core, &format!("{before}:<port>{path}"));
    }
    let masked = if is_node(core) {
        "<node>"
    } else if is_bars(core) {
        "<bars>"
    } else if is_clock(core) {
        "<clock>"
    } else if is_id(core) {
        "<id>"
    } else if is_time(core) || core == "-" {
        "<time>"
    } else if DATE.contains(&core) {
        "<date>"
    } else if is_number(core) || core.strip_prefix('x').is_some_and(is_number) {
        "<n>"
    } else {
        return word.to_owned();
    };
    word.replacen(core, masked, 1)
}

/// This machine's name.
fn is_node(word: &str) -> bool {
    nix::unistd::gethostname().is_ok_and(|name| name == *word)
}

fn is_bars(word: &str) -> bool {
    word.chars().all(|c| ('▁'..='█').contains(&c))
}

/// `12:01:03`, `2026-11-28T02:13:01Z`
fn is_clock(word: &str) -> bool {
    let is_part = |c: char| c.is_ascii_digit() || "-:.TZ+".contains(c);
    word.len() >= 8 && word.chars().all(is_part) && word.matches(':').count() == 2
}

/// A UID, a hash, a container ID.
fn is_id(word: &str) -> bool {
    let id = word.rsplit_once("://").or_else(|| word.rsplit_once("sha256:")).map_or(word, |(_, id)| id);
    let is_hex = id.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    is_hex && id.len() >= 16 && id.contains(|c: char| c.is_ascii_digit())
}

/// `5s`, `2m30s`, `1.4ms`, `847us`
fn is_time(word: &str) -> bool {
    let word = word.trim_start_matches(['-', '<']);
    let unit = word.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    if unit.len() == word.len() {
        return false;
    }
    ["us", "ms", "s", "m", "h", "d"].iter().any(|of| match unit.strip_prefix(of) {
        Some("") => true,
        Some(rest) => is_time(rest),
        None => false,
    })
}

/// `12`, `0.3`, `45%`, `1.23M`, `366k`
fn is_number(word: &str) -> bool {
    let word = word.strip_suffix(['%', 'k', 'M', 'G']).unwrap_or(word);
    word.starts_with(|c: char| c.is_ascii_digit()) && word.chars().all(|c| c.is_ascii_digit() || c == '.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_from_run_to_run_is_masked_and_nothing_else() {
        for (line, masked) in [
            ("default   web-1   0/1     5m12s", "default web-1 0/1 <time>"),
            ("  last failure 4s ago, took 1.4ms: no", "  last failure <time> ago, took <time>: no"),
            ("Attempts/s 11  passive 88%  p50 847us", "Attempts/s <n> passive <n> p50 <time>"),
            ("dial tcp 127.0.0.1:43211: connect", "dial tcp 127.0.0.1:<port>: connect"),
            ("http://127.0.0.1:8080/healthz", "http://127.0.0.1:<port>/healthz"),
            ("UID: 1f0c2b7e-0000-4000-8000-0123456789ab", "UID: <id>"),
            ("Attempts/s ▁▂█ 1.23M", "Attempts/s <bars> <n>"),
            ("since 12:01:03 UTC (5s ago)", "since <clock> UTC (<time> ago)"),
            ("2026-11-28T02:13:01.5Z", "<clock>"),
            ("Start Time: Sat, 28 Nov 2026", "Start Time: <date>, <n> <date> <n>"),
            ("4s (x4 over 2m), 2 of 2 (34)", "<time> (<n> over <time>), <n> of <n>"),
            ("[exit 1]", "[exit 1]"),
        ] {
            assert_eq!(mask(line), masked);
        }
    }
}
