//! Holds a document's tree against the known fields: unknown and misplaced ones, and values of the wrong type.
//! A value of the wrong type becomes `null`, so that the checks behind this one go on with the rest.

use std::fmt::Write;

use super::field::{Path, Quoted};
use super::quantity;
use super::schema::{self, Object, Shape};
use super::tree::{Entry, Node, Position, Value};
use crate::limits;

/// What was found, in the order of the document. Bound: `limits::DOCUMENT_PROBLEMS_LEN_MAX`.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) list: Vec<Finding>,
    /// Unknown fields that did not go in there.
    pub(super) more_unknown: usize,
    /// Values of the wrong type that did not.
    pub(super) more_mistyped: usize,
}

impl Findings {
    fn push(&mut self, path: &Path<'_>, at: Position, unknown: bool, message: impl FnOnce() -> String) {
        if self.list.len() < limits::DOCUMENT_PROBLEMS_LEN_MAX {
            self.list.push(Finding { path: path.to_string(), at, message: message(), unknown });
        } else if unknown {
            self.more_unknown += 1;
        } else {
            self.more_mistyped += 1;
        }
    }
}

/// One of them.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) path: String,
    pub(super) at: Position,
    pub(super) message: String,
    /// The field is not known here; otherwise its value has the wrong type.
    pub(super) unknown: bool,
}

/// The objects around a value, innermost first.
#[derive(Clone, Copy)]
struct Scope<'a> {
    object: &'static Object,
    path: &'a Path<'a>,
    around: Option<&'a Scope<'a>>,
}

/// Checks `node`, which is at `path` and began at `at`.
pub(super) fn check(node: &mut Node<'_>, shape: &Shape, path: &Path<'_>, findings: &mut Findings) {
    let at = node.at;
    value(node, shape, path, at, None, findings);
}

fn value(
    node: &mut Node<'_>,
    shape: &Shape,
    path: &Path<'_>,
    at: Position,
    scope: Option<&Scope<'_>>,
    findings: &mut Findings,
) {
    match (shape, &mut node.value) {
        (Shape::Any, _) | (_, Value::Null) => {}
        (Shape::Object(id), Value::Map(entries)) => {
            let object = schema::object(*id);
            let scope = Scope { object, path, around: scope };
            fields(entries, &scope, findings);
        }
        (Shape::Map(inner), Value::Map(entries)) => {
            for entry in entries {
                let path = path.key(&entry.key);
                value(&mut entry.node, inner, &path, entry.at, scope, findings);
            }
        }
        (Shape::List(inner), Value::List(items)) => {
            for (i, item) in items.iter_mut().enumerate() {
                let at = item.at;
                value(item, inner, &path.index(i), at, scope, findings);
            }
        }
        (shape, value) => {
            if let Err(expected) = plain(shape, value) {
                findings.push(path, at, false, || format!("Invalid value: {}: {expected}", Shown(value)));
                node.value = Value::Null;
            }
        }
    }
}

fn fields(entries: &mut [Entry<'_>], scope: &Scope<'_>, findings: &mut Findings) {
    for i in 0..entries.len() {
        let Some(shape) = scope.object.field(&entries[i].key) else {
            let entry = &entries[i];
            findings.push(&scope.path.child(&entry.key), entry.at, true, || unknown(entry, entries, scope));
            continue;
        };
        let Entry { key, at, node } = &mut entries[i];
        let path = scope.path.child(key);
        value(node, shape, &path, *at, Some(scope), findings);
    }
}

/// Whether a value that is neither null nor an object or list in its place has the right type; `Err` says what
/// it must be. Numbers are brought into the form that the types read.
fn plain(shape: &Shape, value: &mut Value<'_>) -> Result<(), String> {
    if let (Shape::Int32 | Shape::Int64 | Shape::IntOrString, Value::Float(number)) = (shape, &value)
        && number.fract() == 0.0
        && number.abs() < 2f64.powi(53)
    {
        *value = Value::Int(*number as i64);
    }
    let fits_32_bits = |n: i64| i32::try_from(n).is_ok();
    let expected = match (shape, &*value) {
        (Shape::String, Value::String(_))
        | (Shape::Bool, Value::Bool(_))
        | (Shape::Int64, Value::Int(_))
        | (Shape::Number, Value::Int(_) | Value::Float(_))
        | (Shape::IntOrString, Value::String(_)) => return Ok(()),
        (Shape::Int32 | Shape::IntOrString, Value::Int(n)) if fits_32_bits(*n) => return Ok(()),
        (Shape::Int32 | Shape::IntOrString, Value::Int(_)) => {
            return Err("must be a 32-bit number".to_owned());
        }
        (Shape::Int32 | Shape::Int64 | Shape::IntOrString, Value::Float(_)) => {
            return Err("must be a whole number".to_owned());
        }
        (Shape::Quantity, Value::Int(_)) => return Ok(()),
        (Shape::Quantity, Value::Float(n)) if n.is_finite() => return Ok(()),
        (Shape::Quantity, Value::String(text)) if quantity::whole(text).is_some() => return Ok(()),
        (Shape::Quantity, Value::String(_)) => {
            // `resource.ErrFormatWrong`
            return Err("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
                .to_owned());
        }
        (Shape::Timestamp, Value::String(text)) if text.parse::<jiff::Timestamp>().is_ok() => {
            return Ok(());
        }
        (Shape::Timestamp, _) => "an RFC 3339 time",
        (Shape::String, _) => "a string",
        (Shape::Bool, _) => "true or false",
        (Shape::Int32 | Shape::Int64 | Shape::Number, _) => "a number",
        (Shape::IntOrString, _) => "a number or a string",
        (Shape::Quantity, _) => "a quantity",
        (Shape::List(_), _) => "a list",
        (Shape::Map(_) | Shape::Object(_), _) => "an object",
        (Shape::Any, _) => return Ok(()),
    };
    Err(format!("must be {expected}, not {}{}", type_of(value), hint(shape, value)))
}

fn type_of(value: &Value<'_>) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Int(_) | Value::Float(_) => "a number",
        Value::String(_) => "a string",
        Value::List(_) => "a list",
        Value::Map(_) => "an object",
    }
}

fn hint(shape: &Shape, value: &Value<'_>) -> &'static str {
    match (shape, value) {
        (Shape::String, Value::Bool(_)) => "; write it in quotes (yes, no, on and off are booleans)",
        (Shape::String, Value::Int(_) | Value::Float(_)) => "; write it in quotes",
        (Shape::Int32 | Shape::Int64, Value::String(text)) if text.parse::<i64>().is_ok() => {
            "; write it without quotes"
        }
        (Shape::Bool, Value::String(text)) if matches!(&**text, "true" | "false") => "; write it without quotes",
        _ => "",
    }
}

/// The text for an unknown field: where it belongs, or the nearest known name, or neither.
fn unknown(entry: &Entry<'_>, siblings: &[Entry<'_>], scope: &Scope<'_>) -> String {
    let name = &*entry.key;
    let belongs =
        in_metadata(name, scope).or_else(|| around(entry, scope)).or_else(|| inside(entry, siblings, scope, 1));
    if let Some(place) = belongs {
        return format!("unknown field; it belongs at {place}");
    }
    if let Some(nearest) = nearest(name, scope.object) {
        return format!("unknown field; did you mean {nearest}?");
    }
    let inside_around = |depth| {
        let mut scopes = std::iter::successors(Some(scope), |s| s.around);
        scopes.find_map(|scope| inside(entry, siblings, scope, depth))
    };
    match inside_around(1).or_else(|| inside_around(2)) {
        Some(place) => format!("unknown field; it belongs at {place}"),
        None => "unknown field".to_owned(),
    }
}

/// `labels` and the like, of the nearest object around that has metadata.
fn in_metadata(name: &str, scope: &Scope<'_>) -> Option<String> {
    if !matches!(name, "name" | "namespace" | "labels" | "annotations") {
        return None;
    }
    let mut scopes = std::iter::successors(Some(scope), |s| s.around);
    let scope = scopes.find(|s| s.object.field("metadata").is_some())?;
    Some(scope.path.child("metadata").child(name).to_string())
}

/// The same name in an object around this one.
fn around(entry: &Entry<'_>, scope: &Scope<'_>) -> Option<String> {
    let mut scopes = std::iter::successors(scope.around, |s| s.around);
    let suits = |s: &&Scope<'_>| s.object.field(&entry.key).is_some_and(|f| may_be(f, entry));
    let found = scopes.find(suits)?;
    Some(found.path.child(&entry.key).to_string())
}

/// The same name in an object `depth` levels inside this one; of several, those that the document has.
fn inside(entry: &Entry<'_>, siblings: &[Entry<'_>], scope: &Scope<'_>, depth: usize) -> Option<String> {
    let mut places = Vec::new();
    descend(entry, scope.object, String::new(), depth, &mut places);
    let is_present = |place: &&String| {
        let first = place.split(['.', '[']).next();
        siblings.iter().any(|s| Some(&*s.key) == first)
    };
    let present = places.iter().find(is_present).cloned();
    let of_scope = |place: String| scope.path.child(&place).to_string();
    match (present, places.len()) {
        (Some(place), _) => Some(of_scope(place)),
        (None, 0) => None,
        (None, 1..=3) => {
            let places: Vec<String> = places.into_iter().map(of_scope).collect();
            Some(places.join(" or "))
        }
        (None, _) => Some(of_scope(places.swap_remove(0))),
    }
}

fn descend(entry: &Entry<'_>, object: &'static Object, prefix: String, depth: usize, places: &mut Vec<String>) {
    for (name, shape) in object.fields() {
        let (id, list) = match shape {
            Shape::Object(id) => (id, ""),
            Shape::List(inner) => match &**inner {
                Shape::Object(id) => (id, "[]"),
                _ => continue,
            },
            _ => continue,
        };
        let inner = schema::object(*id);
        let place = format!("{prefix}{name}{list}.");
        if depth > 1 {
            descend(entry, inner, place, depth - 1, places);
        } else if inner.field(&entry.key).is_some_and(|f| may_be(f, entry)) {
            places.push(format!("{place}{}", entry.key));
        }
    }
}

/// Whether the entry's value looks like one of this shape.
fn may_be(shape: &Shape, entry: &Entry<'_>) -> bool {
    match (&entry.node.value, shape) {
        (Value::Null, _) => true,
        (Value::Map(_), shape) => matches!(shape, Shape::Object(_) | Shape::Map(_)),
        (Value::List(_), shape) => matches!(shape, Shape::List(_)),
        (_, shape) => !matches!(shape, Shape::Object(_) | Shape::Map(_) | Shape::List(_)),
    }
}

fn nearest(name: &str, object: &'static Object) -> Option<&'static str> {
    let lower = name.to_ascii_lowercase();
    let distance_max = (name.chars().count() / 3).clamp(1, 4);
    object
        .fields()
        .map(|(field, _)| {
            let distance = strsim::osa_distance(&lower, &field.to_ascii_lowercase());
            (distance, field)
        })
        .filter(|(distance, _)| *distance <= distance_max)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, field)| field)
}

/// A value as errors show it: like JSON, cut when long.
struct Shown<'a>(&'a Value<'a>);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const LEN_MAX: usize = 80;
        let mut text = String::new();
        show(self.0, LEN_MAX, &mut text);
        f.write_str(&text)
    }
}

/// A value of the wrong type as errors show it.
pub(super) fn shown(value: &Value<'_>) -> String {
    Shown(value).to_string()
}

fn show(value: &Value<'_>, len_max: usize, text: &mut String) {
    if text.len() >= len_max {
        if !text.ends_with("...") {
            text.push_str("...");
        }
        return;
    }
    // Writing to a String cannot fail.
    let _ = match value {
        Value::Null => write!(text, "null"),
        Value::Bool(value) => write!(text, "{value}"),
        Value::Int(value) => write!(text, "{value}"),
        Value::Float(value) => write!(text, "{value}"),
        Value::String(value) if value.chars().count() > len_max => {
            let cut: String = value.chars().take(len_max).collect();
            write!(text, "{}", Quoted(&format!("{cut}...")))
        }
        Value::String(value) => write!(text, "{}", Quoted(value)),
        Value::List(items) => {
            text.push('[');
            for (i, item) in items.iter().take(len_max).enumerate() {
                text.push_str(if i > 0 { "," } else { "" });
                show(item_value(item), len_max, text);
            }
            write!(text, "]")
        }
        Value::Map(entries) => {
            text.push('{');
            for (i, entry) in entries.iter().take(len_max).enumerate() {
                let comma = if i > 0 { "," } else { "" };
                let _ = write!(text, "{comma}{}:", Quoted(&entry.key));
                show(&entry.node.value, len_max, text);
            }
            write!(text, "}}")
        }
    };
}

fn item_value<'a, 't>(node: &'a Node<'t>) -> &'a Value<'t> {
    &node.value
}
