//! Collects what is wrong with a document and puts file and line to it.

use std::fmt;
use std::sync::Arc;

use serde::Deserialize;

use super::field::{Errors, FieldError, Kind as ErrorKind, Path, Quoted, cut};
use super::fields::{self, Findings};
use super::schema::{KINDS, Kind, Shape};
use super::tree::{Node, Position, Value};
use super::{Document, Strictness};
use crate::limits;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing is wrong: something was left alone.
    Note,
    /// The pod runs all the same.
    Warning,
    /// The pod cannot be taken.
    Error,
}

/// Something to tell the author of a manifest. Displays as `file:line: path: message`, with `warning: ` or
/// `note: ` before the path where it is no error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// `spec.containers[0].livenessProbe.httpGet.port`; empty = the document as a whole.
    pub path: String,
    /// All behind the path: `Invalid value: 0: must be between 1 and 65535, inclusive`.
    pub message: String,
    /// As it was named to the reader.
    pub file: Arc<str>,
    /// Of the field, or of the nearest one around it that is there; from 1, 0 = unknown.
    pub line: u32,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file)?;
        if self.line > 0 {
            write!(f, "{}:", self.line)?;
        }
        f.write_str(match self.severity {
            Severity::Error => " ",
            Severity::Warning => " warning: ",
            Severity::Note => " note: ",
        })?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// See the module. Bound: `limits::DOCUMENT_PROBLEMS_LEN_MAX` errors and as many warnings and notes.
pub(super) struct Report {
    file: Arc<str>,
    strictness: Strictness,
    problems: Vec<Problem>,
    /// Problems that did not go in there: errors, and others.
    more: (usize, usize),
    /// Where the document begins.
    at: Position,
    /// Paths whose value was of the wrong type and is gone: what follows from that is not reported again.
    mistyped: Vec<String>,
    /// So many of `problems` are errors.
    errors_listed: usize,
}

impl Report {
    /// A report on `document`, with what is wrong with its text.
    pub(super) fn new(document: &Document<'_>, strictness: Strictness) -> Self {
        let mut report = Self {
            file: Arc::clone(&document.file),
            strictness,
            problems: Vec::new(),
            more: (0, 0),
            at: document.position(),
            mistyped: Vec::new(),
            errors_listed: 0,
        };
        for flaw in &document.flaws {
            report.add(Severity::Error, flaw.path.clone(), flaw.what.clone(), flaw.at);
        }
        report.leave_out(Severity::Error, document.flaws_more);
        report
    }

    pub(super) fn has_errors(&self) -> bool {
        self.error_count() > 0
    }

    pub(super) fn error_count(&self) -> usize {
        self.errors_listed + self.more.0
    }

    pub(super) fn into_problems(mut self) -> Vec<Problem> {
        let (errors, others) = self.more;
        for (severity, count, what) in [(Severity::Error, errors, "errors"), (Severity::Warning, others, "warnings")] {
            if count > 0 {
                let message = format!("more {what} than are listed: {count}");
                self.problems.push(self.problem(severity, "", &message, self.at));
            }
        }
        self.problems
    }

    /// The known kind of an object. `None` without an error = a kind that has no pod template.
    pub(super) fn kind(&mut self, root: &Node<'_>, path: &Path<'_>) -> Option<&'static Kind> {
        if !matches!(root.value, Value::Map(_)) {
            let shown = fields::shown(&root.value);
            let message = format!("Invalid value: {shown}: must be a Kubernetes object");
            self.add(Severity::Error, path.to_string(), message, root.at);
            return None;
        }
        let mut errors = Errors::default();
        let api_version = self.header(root, "apiVersion", path, &mut errors);
        let kind = self.header(root, "kind", path, &mut errors);
        let known = KINDS.iter().find(|known| Some(known.kind) == kind);
        match (known, kind, api_version) {
            (Some(known), _, Some(version)) if known.api_version != version => {
                errors.not_supported(&path.child("apiVersion"), version, &[known.api_version]);
            }
            (None, Some(kind), _) => {
                let is_list_read = self.strictness == Strictness::Validate;
                let is_help = |known: &&str| *known != kind && (is_list_read || *known != "List");
                if let Some(known) = misspelt(kind).filter(is_help) {
                    errors.not_supported(&path.child("kind"), kind, &[known]);
                }
            }
            _ => {}
        }
        let is_valid = errors.is_empty();
        self.field_errors(root, path, errors);
        known.filter(|_| is_valid)
    }

    fn header<'a>(
        &mut self,
        root: &'a Node<'_>,
        field: &'static str,
        path: &Path<'_>,
        errors: &mut Errors,
    ) -> Option<&'a str> {
        let node = root.field(field);
        match node.map(|node| &node.value) {
            Some(Value::String(text)) if !text.is_empty() => return Some(text),
            None | Some(Value::Null | Value::String(_)) => {
                errors.required(&path.child(field), "");
            }
            Some(other) => {
                let message = format!("Invalid value: {}: must be a string", fields::shown(other));
                let path = path.child(field).to_string();
                self.add(Severity::Error, path, message, root.locate(field));
            }
        }
        None
    }

    /// `run` takes Pods only.
    pub(super) fn not_a_pod(&mut self, root: &Node<'_>, kind: &str) {
        let message = format!(
            "Unsupported value: {}: supported values: \"Pod\" (run takes Pods only, a document each; validate also reads lists and the pod templates of other kinds)",
            Quoted(kind)
        );
        self.add(Severity::Error, "kind".to_owned(), message, root.locate("kind"));
    }

    /// A kind that `validate` has nothing to say about.
    pub(super) fn skipped(&mut self, root: &Node<'_>, path: &Path<'_>) {
        let kind = root.field("kind").and_then(Node::as_str).unwrap_or_default();
        let message = format!("{kind} has no pod template; skipped");
        self.add(Severity::Note, path.to_string(), message, root.at);
    }

    /// A fragment that stands at `place` of a Pod.
    pub(super) fn looks_like(&mut self, root: &Node<'_>, place: &str) {
        let message = format!("not an object of its own: this belongs into {place} of a Pod");
        self.add(Severity::Note, String::new(), message, root.at);
    }

    /// Unknown fields and wrong types; values of the wrong type are gone from the tree afterwards.
    pub(super) fn fields(&mut self, root: &mut Node<'_>, shape: &Shape, path: &Path<'_>) {
        let mut findings = Findings::default();
        fields::check(root, shape, path, &mut findings);
        self.leave_out(Severity::Error, findings.more_mistyped);
        let of_unknown = match self.strictness {
            Strictness::Run => Severity::Warning,
            Strictness::Validate => Severity::Error,
        };
        self.leave_out(of_unknown, findings.more_unknown);
        for finding in findings.list {
            let severity = if finding.unknown { of_unknown } else { Severity::Error };
            if !finding.unknown {
                self.mistyped.push(finding.path.clone());
            }
            self.add(severity, finding.path, finding.message, finding.at);
        }
    }

    /// Reads a Kubernetes type at `names` below `root`. `None` = it could not be read, which is reported.
    pub(super) fn read<'de, T: Deserialize<'de>>(
        &mut self,
        root: &'de Node<'_>,
        names: &[&str],
        path: &Path<'_>,
    ) -> Option<T> {
        static ABSENT: Node<'static> = Node { at: Position { line: 0, column: 0 }, value: Value::Null };
        match super::read_type(root.descend(names), &ABSENT) {
            Ok(value) => Some(value),
            Err(error) => {
                let below = names.join(".");
                let at = root.locate(&below);
                let path = path.child(&below).to_string();
                self.add(Severity::Error, path, format!("Invalid value: {error}"), at);
                None
            }
        }
    }

    /// Errors of validation, located in `root`, which is at `path`.
    pub(super) fn field_errors(&mut self, root: &Node<'_>, path: &Path<'_>, errors: Errors) {
        let prefix = path.to_string();
        let (errors, more) = errors.into_list();
        self.leave_out(Severity::Error, more);
        for error in errors {
            if self.follows_from_type(&error) {
                continue;
            }
            let below = error.path.strip_prefix(&prefix).unwrap_or(&error.path);
            let at = root.locate(below);
            self.add(Severity::Error, error.path, error.message, at);
        }
    }

    /// Whether an error only says that a value is missing which was there with the wrong type.
    fn follows_from_type(&self, error: &FieldError) -> bool {
        self.mistyped.iter().any(|mistyped| {
            is_within(&error.path, mistyped) || error.kind == ErrorKind::Required && is_within(mistyped, &error.path)
        })
    }

    fn add(&mut self, severity: Severity, path: String, message: String, at: Position) {
        let others = self.problems.len() - self.errors_listed;
        let of_its_kind = if severity == Severity::Error { self.errors_listed } else { others };
        if of_its_kind >= limits::DOCUMENT_PROBLEMS_LEN_MAX {
            return self.leave_out(severity, 1);
        }
        self.errors_listed += usize::from(severity == Severity::Error);
        self.problems.push(self.problem(severity, &path, &message, at));
    }

    fn leave_out(&mut self, severity: Severity, count: usize) {
        if severity == Severity::Error {
            self.more.0 += count;
        } else {
            self.more.1 += count;
        }
    }

    fn problem(&self, severity: Severity, path: &str, message: &str, at: Position) -> Problem {
        Problem {
            severity,
            path: cut(path, limits::PROBLEM_PATH_BYTES_MAX).into_owned(),
            message: cut(message, limits::PROBLEM_MESSAGE_BYTES_MAX).into_owned(),
            file: Arc::clone(&self.file),
            line: at.line,
        }
    }
}

/// Whether `path` is `outer` or a place inside it.
fn is_within(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// The known kind that this one was probably meant to be.
fn misspelt(kind: &str) -> Option<&'static str> {
    let lower = kind.to_ascii_lowercase();
    let known = KINDS.iter().map(|known| known.kind).chain(["List"]);
    known
        .map(|known| {
            let distance = strsim::osa_distance(&lower, &known.to_ascii_lowercase());
            (distance, known)
        })
        .filter(|(distance, known)| *distance <= known.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}
