//! The project's own lints: what rustc and clippy cannot know.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};

use crate::{dashboards, shell};

mod kubelet;

/// Files that may hold unsafe code, each a named door of the design.
const UNSAFE_DOORS: [&str; 7] = [
    "probe-engine/src/shard/ring.rs",
    "probe-engine/src/runtime/process/",
    "probe-engine/src/ebpf/counters.rs",
    "probe-engine/src/ebpf/prog_query.rs",
    "probe-engine/src/malloc.rs",
    "probe-ebpf/src/program/",
    "benches/src/floor/slot.rs",
];

/// The one program that may move the engine's clock.
const CLOCK_STEPPER: &str = "tests/src/bin/stepped-daemon.rs";

/// Lines of a source file, its tests apart, at which reading it stops being a pleasure.
const LINES_MAX: usize = 800;

/// Files whose functions have the names of RPCs, which are the protocol's to choose.
const RPC_FILES: [&str; 1] = ["probe-engine/src/api/server.rs"];

/// Words that are no names for a module.
const MODULE_NAMES_REFUSED: [&str; 6] = ["util", "utils", "common", "helper", "helpers", "misc"];

/// Reports every finding, then fails if there was one.
pub(crate) fn run() -> anyhow::Result<()> {
    let mut findings = Vec::new();
    let files = shell::tracked_files("tidy")?;
    for file in &files {
        if !file.ends_with(".rs") {
            continue;
        }
        let text = fs::read_to_string(shell::root().join(file)).with_context(|| format!("cannot read {file}"))?;
        findings.extend(in_source(file, &text));
    }
    findings.extend(core_is_pure()?);
    findings.extend(kubelet::in_docs(&files)?);
    findings.extend(dashboards::differences()?);
    findings.extend(readme_starts_with_the_two_commands()?);
    for finding in &findings {
        eprintln!("{finding}");
    }
    if !findings.is_empty() {
        bail!("{} finding(s)", findings.len());
    }
    Ok(())
}

fn in_source(file: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let stem = Path::new(file).file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    if MODULE_NAMES_REFUSED.contains(&stem.as_str()) {
        findings.push(format!("{file}: `{stem}` says nothing; name the module after what it holds"));
    }
    let is_tidy = file == "xtask/src/tidy.rs";
    let is_test = file.starts_with("tests/") || file.contains("/tests/") || stem == "tests";
    let mut code_lines = 0;
    let mut in_tests = is_test;
    let mut before = "";
    for (index, line) in text.lines().enumerate() {
        let excused = line.contains("// tidy: ") || before.trim_start().starts_with("// tidy: ");
        before = line;
        let at = format!("{file}:{}", index + 1);
        if line.starts_with("#[cfg(test)]") {
            in_tests = true;
        }
        if !in_tests {
            code_lines += 1;
        }
        if is_tidy {
            continue;
        }
        let code = line.split("//").next().unwrap_or_default();
        if code.contains("#[allow(") || code.contains("#![allow(") {
            findings.push(format!("{at}: use #[expect(.., reason = \"..\")], not #[allow]"));
        }
        if code.contains("#[ignore") {
            findings.push(format!("{at}: a test that does not run is no test"));
        }
        if code.contains("todo!(") || code.contains("unimplemented!(") {
            findings.push(format!("{at}: unfinished"));
        }
        if code.contains("fn get_") && !RPC_FILES.contains(&file) {
            findings.push(format!("{at}: no get_ prefix"));
        }
        if in_tests && (code.contains("thread::sleep(") || code.contains("time::sleep(")) && !excused {
            findings
                .push(format!("{at}: wait for the event, not for time (or say why: `// tidy: ...`, here or above)"));
        }
        if code.contains("Stepper::take(") && file != CLOCK_STEPPER {
            findings.push(format!("{at}: the clock is taken in {CLOCK_STEPPER} alone"));
        }
        let door = UNSAFE_DOORS.iter().any(|door| file.starts_with(door));
        let opens = code.contains("unsafe {") || code.contains("unsafe fn") || code.contains("unsafe impl");
        if opens && !door && !in_tests {
            findings.push(format!("{at}: unsafe code outside the named doors ({})", UNSAFE_DOORS.join(", ")));
        }
    }
    if code_lines > LINES_MAX {
        findings.push(format!("{file}: {code_lines} lines without tests; split it by noun"));
    }
    findings
}

/// Rule 2 of the house: no_std, no unsafe, no dependencies.
fn core_is_pure() -> anyhow::Result<Vec<String>> {
    let mut findings = Vec::new();
    let lib = fs::read_to_string(shell::root().join("probe-engine/core/src/lib.rs"))?;
    for attribute in ["#![no_std]", "#![forbid(unsafe_code)]"] {
        if !lib.lines().any(|line| line == attribute) {
            findings.push(format!("probe-engine/core/src/lib.rs: {attribute} is missing"));
        }
    }
    // no_std by itself forbids `std::`; only this would let it in again.
    if !lib.contains("#[cfg(test)]\nextern crate std;") || lib.matches("extern crate std").count() != 1 {
        findings.push("probe-engine/core/src/lib.rs: std is for tests alone".to_owned());
    }
    let manifest = fs::read_to_string(shell::root().join("probe-engine/core/Cargo.toml"))?;
    let dependencies = section(&manifest, "[dependencies]");
    for line in dependencies.iter().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        findings.push(format!("probe-engine/core/Cargo.toml: the core has no dependencies, found `{line}`"));
    }
    Ok(findings)
}

fn section<'a>(manifest: &'a str, header: &str) -> Vec<&'a str> {
    manifest.lines().skip_while(|line| *line != header).skip(1).take_while(|line| !line.starts_with('[')).collect()
}

fn readme_starts_with_the_two_commands() -> anyhow::Result<Vec<String>> {
    let readme = fs::read_to_string(shell::root().join("README.md")).context("cannot read README.md")?;
    let commands: Vec<&str> =
        readme.lines().map(str::trim).filter(|line| line.starts_with("cargo xtask ")).take(2).collect();
    let expected = ["cargo xtask demo", "cargo xtask test"];
    let right = commands.len() == 2 && commands.iter().zip(expected).all(|(line, command)| line.starts_with(command));
    Ok(if right { Vec::new() } else { vec![format!("README.md: its first two commands are {expected:?}")] })
}
