//! `-o`: how answers are written.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;

use super::{CliError, escape};

/// How often it is looked whether anybody reads standard output.
const READER_LOOK_EVERY: Duration = Duration::from_millis(500);

/// `-o` of `get`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A table with more columns.
    Wide,
    /// Objects as JSON.
    Json,
    /// Objects as YAML.
    Yaml,
    /// `TYPE/NAME`, one a line.
    Name,
}

/// `-o` where there are only people and programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DataFormat {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// Prints text as it is.
pub fn print(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// Prints a value; control characters within it are escaped as the format has it.
pub fn print_data(value: &impl Serialize, format: DataFormat) -> Result<(), CliError> {
    let text = data(value, format)?;
    print(&text)
}

/// A value on one line, with its line end.
#[must_use]
pub fn json_line(value: &serde_json::Value) -> String {
    format!("{}\n", escape::json(&value.to_string()))
}

/// Returns once nobody can read standard output any more: a pipe (or terminal) whose other end is closed. What is written
/// rarely would not find out until then.
pub async fn reader_gone() {
    loop {
        tokio::time::sleep(READER_LOOK_EVERY).await;
        let stdout = io::stdout();
        let mut look = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
        let found = poll(&mut look, PollTimeout::ZERO).is_ok_and(|ready| ready > 0);
        let is_gone = PollFlags::POLLERR | PollFlags::POLLHUP;
        if found && look[0].revents().is_some_and(|seen| seen.intersects(is_gone)) {
            return;
        }
    }
}

/// A value as text.
pub fn data(value: &impl Serialize, format: DataFormat) -> Result<String, CliError> {
    let failed = |error: String| CliError::Failed(format!("cannot write the answer: {error}"));
    let json = || {
        let text = serde_json::to_string_pretty(value).map_err(|e| failed(e.to_string()))?;
        Ok(format!("{}\n", escape::json(&text)))
    };
    match format {
        DataFormat::Json => json(),
        DataFormat::Yaml => {
            let text = serde_saphyr::to_string(value).map_err(|e| failed(e.to_string()))?;
            // JSON is YAML, and its escapes hold in it: the way out for texts that YAML would show as they are.
            if escape::block(&text) == text { Ok(text) } else { json() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_format_lets_a_control_character_through() {
        let value = serde_json::json!({"message": "\u{1b}[2J \u{9b}2J"});
        for format in [DataFormat::Json, DataFormat::Yaml] {
            let text = data(&value, format).expect("text");
            assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{format:?}: {text:?}");
        }
        let plain = serde_json::json!({"a": [1, "x"]});
        assert_eq!(data(&plain, DataFormat::Yaml).expect("yaml"), "a:\n- 1\n- x\n");
    }
}
