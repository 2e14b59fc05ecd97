//! docs/KUBELET.md against the code: every file and test that it names is there, and every row of the
//! specification's table is a test or stands there with the reason.

use std::collections::BTreeSet;
use std::fs;

use anyhow::Context;

use crate::shell;

const DOCUMENT: &str = "probe-engine/docs/KUBELET.md";

const LIMITS_DOCUMENT: &str = "probe-engine/docs/KERNEL.md";

/// The heading of the list of what passive answers can be wrong for.
const LIMITS_HEADING: &str = "### What passive answers can be wrong for";

/// The heading of the table of rows without a test.
const ROWS_HEADING: &str = "## Rows of section 8 that have no test of their own";

pub(super) fn in_docs(files: &[String]) -> anyhow::Result<Vec<String>> {
    let functions = functions(files)?;
    let text = fs::read_to_string(shell::root().join(DOCUMENT)).with_context(|| format!("cannot read {DOCUMENT}"))?;
    let (rules, rows) = text.split_once(ROWS_HEADING).with_context(|| format!("{DOCUMENT}: no `{ROWS_HEADING}`"))?;
    let mut findings = rules_are_true(rules, &functions);
    findings.extend(rows_are_tested(rows, &functions)?);
    findings.extend(limits_are_shown(&functions)?);
    Ok(findings)
}

/// KERNEL.md's list of what passive answers can be wrong for: every line names a test, and each of them is there.
fn limits_are_shown(functions: &BTreeSet<String>) -> anyhow::Result<Vec<String>> {
    let text = fs::read_to_string(shell::root().join(LIMITS_DOCUMENT))?;
    let (_, list) =
        text.split_once(LIMITS_HEADING).with_context(|| format!("{LIMITS_DOCUMENT}: no `{LIMITS_HEADING}`"))?;
    let list = list.split("\n#").next().unwrap_or_default();
    let mut findings = Vec::new();
    for line in list.lines().filter(|line| line.starts_with("| ")).skip(1) {
        let columns: Vec<&str> = line.split(" | ").collect();
        let tests: Vec<&str> =
            columns.get(2).map_or(Vec::new(), |column| column.split('`').skip(1).step_by(2).collect());
        if tests.is_empty() {
            findings.push(format!("{LIMITS_DOCUMENT}: no test in `{line}`"));
        }
        let absent = tests.into_iter().filter(|test| !functions.contains(*test));
        findings.extend(absent.map(|test| format!("{LIMITS_DOCUMENT}: no test `{test}`")));
    }
    Ok(findings)
}

/// Names of all functions; tests among them.
fn functions(files: &[String]) -> anyhow::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for file in files.iter().filter(|file| file.ends_with(".rs")) {
        let text = fs::read_to_string(shell::root().join(file))?;
        let after_fn = text.lines().filter_map(|line| line.trim_start().split("fn ").nth(1));
        names.extend(after_fn.filter_map(|rest| rest.split(['(', '<']).next()).map(String::from));
    }
    Ok(names)
}

/// In a table, what stands in backticks in the second column is a file (below `probe-engine/` or the root), and in the
/// third a test or a file.
fn rules_are_true(rules: &str, functions: &BTreeSet<String>) -> Vec<String> {
    let is_file = |name: &str| {
        let root = shell::root();
        root.join("probe-engine").join(name).exists() || root.join(name).exists()
    };
    let mut findings = Vec::new();
    for (index, line) in rules.lines().enumerate() {
        let columns: Vec<&str> = line.split(" | ").collect();
        let [_, places, tests] = columns[..] else { continue };
        for (what, column) in [("file", places), ("test", tests)] {
            for name in column.split('`').skip(1).step_by(2) {
                if !is_file(name) && (what == "file" || !functions.contains(name)) {
                    findings.push(format!("{DOCUMENT}:{}: no {what} `{name}`", index + 1));
                }
            }
        }
    }
    findings
}

fn rows_are_tested(excuses: &str, functions: &BTreeSet<String>) -> anyhow::Result<Vec<String>> {
    let rows = fs::read_to_string(shell::root().join("tests/data/rows.txt"))?;
    let mut findings = Vec::new();
    for row in rows.lines() {
        let prefix = format!("{}_", row.to_lowercase());
        let is_tested = functions.iter().any(|name| name.starts_with(&prefix));
        let is_excused = excuses.lines().any(|line| line.starts_with(&format!("| {row} | ")));
        match (is_tested, is_excused) {
            (false, false) => {
                findings
                    .push(format!("row {row}: no test's name starts with {prefix}, and {DOCUMENT} does not excuse it"));
            }
            (true, true) => findings.push(format!("row {row}: {DOCUMENT} excuses it, but it has a test")),
            _ => {}
        }
    }
    Ok(findings)
}
