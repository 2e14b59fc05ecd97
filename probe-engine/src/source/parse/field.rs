//! Field paths and field errors with the API server's words (`apimachinery/pkg/util/validation/field`).

use std::borrow::Cow;
use std::fmt;

use crate::limits;

/// A place in an object: `spec.containers[0].livenessProbe`. A list of borrowed steps on the caller's
/// stack, so that checking a valid object allocates nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Root,
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    /// The object itself.
    pub(super) const ROOT: Path<'static> = Path { parent: None, step: Step::Root };

    /// A named field of what is here.
    pub(super) fn child<'b>(&'b self, name: &'b str) -> Path<'b> {
        self.step(Step::Field(name))
    }

    /// An element of the list that is here.
    pub(super) fn index(&self, index: usize) -> Path<'_> {
        self.step(Step::Index(index))
    }

    /// An entry of the map that is here.
    pub(super) fn key<'b>(&'b self, key: &'b str) -> Path<'b> {
        self.step(Step::Key(key))
    }

    fn step<'b>(&'b self, step: Step<'b>) -> Path<'b> {
        Path { parent: Some(self), step }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(parent) = self.parent else {
            return Ok(());
        };
        parent.fmt(f)?;
        match self.step {
            Step::Root => Ok(()),
            Step::Field(name) if parent.parent.is_none() => f.write_str(name),
            Step::Field(name) => write!(f, ".{name}"),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) => write!(f, "[{key}]"),
        }
    }
}

/// What kind of field error it is; decides the first words of its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Required,
    Invalid,
    NotSupported,
    Forbidden,
    Duplicate,
    TooLong,
    TooMany,
}

/// One field error: where, and the text behind the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FieldError {
    pub(super) path: String,
    pub(super) kind: Kind,
    pub(super) message: String,
}

/// All field errors of an object, in the order of the checks. A text that is already there is not repeated
/// (`ErrorList.ToAggregate`). Bound: `limits::DOCUMENT_PROBLEMS_LEN_MAX`.
#[derive(Debug, Default)]
pub(super) struct Errors {
    list: Vec<FieldError>,
    /// How many did not go in there.
    more: usize,
}

impl Errors {
    /// `Required value`, and `detail` if there is any.
    pub(super) fn required(&mut self, path: &Path<'_>, detail: &str) {
        self.push(path, Kind::Required, with_detail("Required value", detail));
    }

    /// `Forbidden: <detail>`
    pub(super) fn forbidden(&mut self, path: &Path<'_>, detail: &str) {
        self.push(path, Kind::Forbidden, with_detail("Forbidden", detail));
    }

    /// `Invalid value: "<value>": <detail>`
    pub(super) fn invalid(&mut self, path: &Path<'_>, value: &str, detail: &str) {
        let text = format!("Invalid value: {}: {detail}", Quoted(&shown(value)));
        self.push(path, Kind::Invalid, text);
    }

    /// `Invalid value: <value>: <detail>`
    pub(super) fn invalid_number(&mut self, path: &Path<'_>, value: i64, detail: &str) {
        let text = format!("Invalid value: {value}: {detail}");
        self.push(path, Kind::Invalid, text);
    }

    /// `Unsupported value: "<value>": supported values: "A", "B"`
    pub(super) fn not_supported(&mut self, path: &Path<'_>, value: &str, supported: &[&str]) {
        let mut text = format!("Unsupported value: {}: supported values: ", Quoted(&shown(value)));
        for (i, value) in supported.iter().enumerate() {
            if i > 0 {
                text.push_str(", ");
            }
            text.push_str(&Quoted(value).to_string());
        }
        self.push(path, Kind::NotSupported, text);
    }

    /// `Duplicate value: "<value>"`
    pub(super) fn duplicate(&mut self, path: &Path<'_>, value: &str) {
        let text = format!("Duplicate value: {}", Quoted(&shown(value)));
        self.push(path, Kind::Duplicate, text);
    }

    /// `Too long: may not be more than <n> bytes`
    pub(super) fn too_long(&mut self, path: &Path<'_>, bytes_max: usize) {
        let text = format!("Too long: may not be more than {bytes_max} bytes");
        self.push(path, Kind::TooLong, text);
    }

    /// `Too many: <n>: must have at most <m> items`
    pub(super) fn too_many(&mut self, path: &Path<'_>, len: usize, len_max: usize) {
        let text = format!("Too many: {len}: must have at most {len_max} items");
        self.push(path, Kind::TooMany, text);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The errors in order, and how many more there are.
    pub(super) fn into_list(self) -> (Vec<FieldError>, usize) {
        (self.list, self.more)
    }

    #[cfg(test)]
    pub(super) fn texts(&self) -> Vec<String> {
        let text = |e: &FieldError| format!("{}: {}", e.path, e.message);
        self.list.iter().map(text).collect()
    }

    fn push(&mut self, path: &Path<'_>, kind: Kind, message: String) {
        if self.list.len() >= limits::DOCUMENT_PROBLEMS_LEN_MAX {
            self.more += 1;
            return;
        }
        let error = FieldError { path: path.to_string(), kind, message };
        if !self.list.contains(&error) {
            self.list.push(error);
        }
    }
}

/// As much of a value as errors show.
fn shown(value: &str) -> Cow<'_, str> {
    cut(value, limits::PROBLEM_VALUE_BYTES_MAX)
}

/// A text that takes at most so many bytes, the last three of them dots where it is cut.
pub(super) fn cut(text: &str, bytes_max: usize) -> Cow<'_, str> {
    if text.len() <= bytes_max {
        return Cow::Borrowed(text);
    }
    let end = text.floor_char_boundary(bytes_max.saturating_sub(3));
    Cow::Owned(format!("{}...", &text[..end]))
}

fn with_detail(text: &str, detail: &str) -> String {
    if detail.is_empty() { text.to_owned() } else { format!("{text}: {detail}") }
}

/// A string as Go's `%q` prints it.
pub(super) struct Quoted<'a>(pub(super) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                '\u{7}' => f.write_str("\\a")?,
                '\u{8}' => f.write_str("\\b")?,
                '\u{b}' => f.write_str("\\v")?,
                '\u{c}' => f.write_str("\\f")?,
                c if (c as u32) < 0x80 && c.is_control() => write!(f, "\\x{:02x}", c as u32)?,
                c if c.is_control() || (c.is_whitespace() && c != ' ') => {
                    write!(f, "\\u{:04x}", c as u32)?;
                }
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_as_the_api_server_writes_them() {
        let spec = Path::ROOT.child("spec");
        let containers = spec.child("containers");
        let first = containers.index(0);
        assert_eq!(first.child("livenessProbe").to_string(), "spec.containers[0].livenessProbe");
        let labels = Path::ROOT.child("metadata").to_string();
        assert_eq!(labels, "metadata");
    }

    #[test]
    fn texts_have_the_api_servers_shape() {
        let mut errors = Errors::default();
        let root = Path::ROOT;
        errors.required(&root.child("a"), "");
        errors.required(&root.child("a"), "why");
        errors.invalid(&root.child("b"), "x\ty", "no");
        errors.invalid_number(&root.child("c"), -1, "no");
        errors.not_supported(&root.child("d"), "z", &["HTTP", "HTTPS"]);
        errors.forbidden(&root.child("e"), "no");
        errors.duplicate(&root.child("f"), "n");
        errors.duplicate(&root.child("f"), "n");
        assert_eq!(
            errors.texts(),
            [
                "a: Required value",
                "a: Required value: why",
                "b: Invalid value: \"x\\ty\": no",
                "c: Invalid value: -1: no",
                "d: Unsupported value: \"z\": supported values: \"HTTP\", \"HTTPS\"",
                "e: Forbidden: no",
                "f: Duplicate value: \"n\"",
            ]
        );
    }
}
