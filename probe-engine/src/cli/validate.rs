//! `probe-engine validate FILE..|-`: every error of manifests, in the API server's words, without running anything.
//! Works without a cluster and without the daemon.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::progress::Progress;
use crate::limits;
use crate::source::manifest;
use crate::source::parse::{self, Problem, Severity};

/// Checks manifests: pods, and the pod templates of other kinds.
#[derive(Clone, Debug, clap::Args)]
pub struct ValidateArgs {
    /// Files, directories (their *.yaml, *.yml and *.json files), or - for standard input
    #[arg(required = true, value_name = "FILE|-")]
    pub files: Vec<PathBuf>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// How problems are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// file:line: path: message, one per line
    #[default]
    Text,
    /// One JSON array of objects
    Json,
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    files: usize,
    documents: usize,
    errors: usize,
    notes: usize,
}

/// Runs the command; problems go to `out`, the summary to `err`. Returns the exit code: 0 = no errors, 1 = errors.
///
/// # Errors
/// Only what writing to `out` or `err` gives.
pub fn run(args: &ValidateArgs, out: &mut impl Write, err: &mut impl Write) -> io::Result<u8> {
    let mut totals = Totals::default();
    let mut problems = Vec::new();
    let all: Vec<PathBuf> = args.files.iter().flat_map(|path| files(path, &mut problems)).collect();
    let mut progress = Progress::new("checking", all.len());
    for file in all {
        totals.files += 1;
        match read(&file) {
            Ok(bytes) => {
                let origin = origin(&file);
                for document in parse::documents(&origin, &bytes) {
                    totals.documents += 1;
                    problems.extend(parse::check(document));
                }
            }
            Err(error) => problems.push(unreadable(&file, &error)),
        }
        progress.step();
    }
    drop(progress);
    let count = |severity| problems.iter().filter(|p| p.severity == severity).count();
    totals.errors = count(Severity::Error);
    totals.notes = count(Severity::Note);
    print(&problems, args.output, out)?;
    writeln!(err, "{totals}")?;
    Ok(u8::from(totals.errors > 0))
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let plural = |n: usize, one: &str| format!("{n} {one}{}", if n == 1 { "" } else { "s" });
        write!(
            f,
            "{} in {}: {}",
            plural(self.documents, "document"),
            plural(self.files, "file"),
            plural(self.errors, "error")
        )?;
        if self.notes > 0 {
            write!(f, ", {}", plural(self.notes, "note"))?;
        }
        Ok(())
    }
}

fn print(problems: &[Problem], output: Output, out: &mut impl Write) -> io::Result<()> {
    match output {
        Output::Text => {
            for problem in problems {
                writeln!(out, "{problem}")?;
            }
            Ok(())
        }
        Output::Json => {
            let rows: Vec<Row<'_>> = problems.iter().map(Row::of).collect();
            serde_json::to_writer_pretty(&mut *out, &rows)?;
            writeln!(out)
        }
    }
}

/// A problem as JSON.
#[derive(Serialize)]
struct Row<'a> {
    file: &'a str,
    line: u32,
    severity: &'static str,
    path: &'a str,
    message: &'a str,
}

impl<'a> Row<'a> {
    fn of(problem: &'a Problem) -> Self {
        Self {
            file: &problem.file,
            line: problem.line,
            severity: match problem.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
                Severity::Note => "note",
            },
            path: &problem.path,
            message: &problem.message,
        }
    }
}

/// What an argument stands for.
pub(super) fn files(path: &Path, problems: &mut Vec<Problem>) -> Vec<PathBuf> {
    if !path.is_dir() {
        return vec![path.to_owned()];
    }
    match manifest::list(path) {
        Ok(files) => files,
        Err(error) => {
            problems.push(unreadable(path, &error));
            Vec::new()
        }
    }
}

pub(super) fn read(file: &Path) -> io::Result<Vec<u8>> {
    if file != Path::new("-") {
        return manifest::read_file(file);
    }
    let mut bytes = Vec::new();
    // One byte more than allowed is enough to be refused.
    io::stdin().lock().take(limits::MANIFEST_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

pub(super) fn origin(file: &Path) -> String {
    if file == Path::new("-") { "<stdin>".to_owned() } else { file.display().to_string() }
}

fn unreadable(file: &Path, error: &io::Error) -> Problem {
    Problem {
        severity: Severity::Error,
        path: String::new(),
        message: format!("cannot be read: {error}"),
        file: origin(file).into(),
        line: 0,
    }
}
