//! `probe-engine doctor`: what this kernel and these privileges allow, each missing thing with its reason and remedy.
//!
//! Looks only: nothing is changed (the kernel program is loaded for a moment), the daemon is not asked. Exit 0 unless something required is missing.

mod cgroup;
mod ebpf;
mod io_uring;
mod node;

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

use super::output::{self, DataFormat};
use super::{CliError, Exit, escape};

/// Arguments of `doctor`.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// How it is written
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<DataFormat>,
}

/// How something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// It is there, and enough.
    Ok,
    /// It works, but not as well as it could.
    Limited,
    /// It is not there.
    Missing,
    /// It could not be found out.
    Unknown,
}

/// One thing looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Check {
    area: &'static str,
    name: String,
    state: State,
    /// Without it the engine does not run.
    required: bool,
    /// What was found.
    found: String,
    /// What it costs to be without; empty where nothing is missing.
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    /// What to do; empty where nothing is missing.
    #[serde(skip_serializing_if = "String::is_empty")]
    remedy: String,
}

impl Check {
    fn ok(area: &'static str, name: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            area,
            name: name.into(),
            state: State::Ok,
            required: false,
            found: found.into(),
            reason: String::new(),
            remedy: String::new(),
        }
    }

    fn lacking(mut self, state: State, reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        self.state = state;
        self.reason = reason.into();
        self.remedy = remedy.into();
        self
    }

    fn required(mut self) -> Self {
        self.required = true;
        self
    }
}

/// Looks at everything.
pub fn run(args: &DoctorArgs) -> Result<Exit, CliError> {
    let mut checks = io_uring::checks();
    checks.extend(ebpf::checks());
    checks.extend(node::checks());
    checks.extend(cgroup::checks());
    match args.output {
        None => output::print(&text(&checks))?,
        Some(format) => output::print_data(&serde_json::json!({ "checks": checks }), format)?,
    }
    let is_fatal = |c: &Check| c.required && c.state == State::Missing;
    Ok(if checks.iter().any(is_fatal) { Exit::Failure } else { Exit::Success })
}

fn text(checks: &[Check]) -> String {
    let mut text = String::new();
    let mut area = "";
    let name_width = checks.iter().map(|c| c.name.chars().count()).max().unwrap_or(0);
    for check in checks {
        if check.area != area {
            area = check.area;
            let blank = if text.is_empty() { "" } else { "\n" };
            let _ = writeln!(text, "{blank}{area}");
        }
        let state = match check.state {
            State::Ok => "ok",
            State::Limited => "limited",
            State::Missing if check.required => "MISSING",
            State::Missing => "missing",
            State::Unknown => "unknown",
        };
        let _ = writeln!(text, "  {state:<8} {:<name_width$}  {}", check.name, escape::line(&check.found));
        for (label, what) in [("why", &check.reason), ("do", &check.remedy)] {
            if !what.is_empty() {
                let _ = writeln!(text, "           {label:<4} {}", escape::line(what));
            }
        }
    }
    text
}

/// The trimmed text of a small file of /proc or /sys; `None` where there is none or it cannot be read.
fn read(path: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_shown_with_reason_and_remedy() {
        let checks = [
            Check::ok("io_uring", "rings", "can be made"),
            Check::ok("eBPF", "BTF", "none").lacking(State::Missing, "no offsets", "CONFIG_DEBUG_INFO_BTF=y"),
            Check::ok("eBPF", "x", "y").lacking(State::Missing, "z", "").required(),
        ];
        assert_eq!(
            text(&checks),
            "io_uring\n  ok       rings  can be made\n\neBPF\n  missing  BTF    none\n           why  no offsets\n           do   CONFIG_DEBUG_INFO_BTF=y\n  MISSING  x      y\n           why  z\n"
        );
    }

    #[test]
    fn everything_can_be_looked_at_here_and_written_as_json() {
        let mut checks = io_uring::checks();
        checks.extend(ebpf::checks());
        checks.extend(node::checks());
        checks.extend(cgroup::checks());
        assert!(checks.iter().all(|c| (c.state == State::Ok) == c.reason.is_empty()), "{checks:#?}");
        assert!(!checks.iter().any(|c| c.required && c.state == State::Missing), "{checks:#?}");
        let json = serde_json::to_value(&checks).expect("json");
        assert!(json.as_array().is_some_and(|all| all.len() > 15));
    }
}
