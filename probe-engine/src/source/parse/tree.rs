//! A document as a tree in which every key and value knows its line and column.
//!
//! Bounds: `limits::MANIFEST_DEPTH_MAX` levels, `limits::MANIFEST_ALIAS_NODES_MAX` nodes with
//! `limits::MANIFEST_ALIAS_BYTES_MAX` bytes of text copied by aliases and merge keys. Strings borrow from the text where they can.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use granit_parser::{Event, Marker, ScalarStyle, ScanError, Span, Tag};

use super::field::cut;
use super::scalar;
use crate::limits;

/// A place in a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
}

impl Position {
    pub(super) fn of(mark: Marker) -> Self {
        let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self { line: narrow(mark.line()), column: narrow(mark.col()).saturating_add(1) }
    }
}

/// A value and where it begins.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node<'t> {
    pub(super) at: Position,
    pub(super) value: Value<'t>,
}

/// What JSON knows, with whole numbers apart.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value<'t> {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    String(Cow<'t, str>),
    List(Vec<Node<'t>>),
    Map(Vec<Entry<'t>>),
}

/// One field of a map. Keys are unique within their map.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry<'t> {
    pub(super) key: Cow<'t, str>,
    pub(super) at: Position,
    pub(super) node: Node<'t>,
}

impl<'t> Node<'t> {
    /// The field of this name, if this is a map that has it.
    pub(super) fn field(&self, name: &str) -> Option<&Node<'t>> {
        let Value::Map(entries) = &self.value else {
            return None;
        };
        entries.iter().find(|e| e.key == name).map(|e| &e.node)
    }

    /// As [`Node::field`], through several levels.
    pub(super) fn descend(&self, names: &[&str]) -> Option<&Node<'t>> {
        names.iter().try_fold(self, |node, name| node.field(name))
    }

    /// As [`Node::field`], to be changed.
    pub(super) fn field_mut(&mut self, name: &str) -> Option<&mut Node<'t>> {
        let Value::Map(entries) = &mut self.value else {
            return None;
        };
        entries.iter_mut().find(|e| e.key == name).map(|e| &mut e.node)
    }

    /// The text, if this is a string.
    pub(super) fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// Where the deepest existing part of `path` stands: of a map's field its key.
    pub(super) fn locate(&self, path: &str) -> Position {
        let mut at = self.at;
        let mut node = self;
        for step in steps(path) {
            match &node.value {
                Value::Map(entries) => {
                    let Some(entry) = entries.iter().find(|e| e.key == step) else {
                        break;
                    };
                    (at, node) = (entry.at, &entry.node);
                }
                Value::List(items) => {
                    let Some(item) = step.parse().ok().and_then(|i: usize| items.get(i)) else {
                        break;
                    };
                    (at, node) = (item.at, item);
                }
                _ => break,
            }
        }
        at
    }

    /// How many values it is made of, and how many bytes of text they have.
    fn size(&self) -> (usize, usize) {
        let add = |(nodes, bytes): (usize, usize), (more, text): (usize, usize)| (nodes + more, bytes + text);
        match &self.value {
            Value::List(items) => items.iter().map(Node::size).fold((1, 0), add),
            Value::Map(entries) => {
                let sizes = entries.iter().map(|e| add((0, e.key.len()), e.node.size()));
                sizes.fold((1, 0), add)
            }
            Value::String(text) => (1, text.len()),
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) => (1, 0),
        }
    }
}

/// `a.b[0][x.y]` as `a`, `b`, `0`, `x.y`.
fn steps(path: &str) -> impl Iterator<Item = &str> {
    let mut rest = path;
    std::iter::from_fn(move || {
        rest = rest.strip_prefix('.').unwrap_or(rest);
        if rest.is_empty() {
            return None;
        }
        if let Some(inner) = rest.strip_prefix('[') {
            let (step, tail) = inner.split_once(']').unwrap_or((inner, ""));
            rest = tail;
            return Some(step);
        }
        let end = rest.find(['.', '[']).unwrap_or(rest.len());
        let (step, tail) = rest.split_at(end);
        rest = tail;
        Some(step)
    })
}

/// Something wrong with a document as text: where, in which field as far as known, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flaw {
    pub(super) at: Position,
    pub(super) path: String,
    pub(super) what: String,
}

impl Flaw {
    pub(super) fn of_scan(error: &ScanError) -> Self {
        Self {
            at: Position::of(*error.marker()),
            path: String::new(),
            what: format!("not valid YAML: {}", error.info()),
        }
    }
}

/// Pairs of places with the same key: the next earlier one, and the later one.
pub(super) fn duplicates(entries: &[Entry<'_>]) -> Vec<(usize, usize)> {
    // Most maps are short, and a scan beats hashing; a long one (a ConfigMap's data) is hashed.
    const SCAN_LEN_MAX: usize = 32;
    if entries.len() <= SCAN_LEN_MAX {
        let earlier = |(i, entry): (usize, &Entry<'_>)| {
            let found = entries[..i].iter().rposition(|e| e.key == entry.key);
            found.map(|earlier| (earlier, i))
        };
        return entries.iter().enumerate().filter_map(earlier).collect();
    }
    let mut seen: HashMap<&str, usize> = HashMap::with_capacity(entries.len());
    let mut found = Vec::new();
    for (i, entry) in entries.iter().enumerate() {
        if let Some(earlier) = seen.insert(&entry.key, i) {
            found.push((earlier, i));
        }
    }
    found
}

/// Builds one document's tree from the parser's events.
#[derive(Debug, Default)]
pub(super) struct Builder<'t> {
    open: Vec<Open<'t>>,
    root: Option<Node<'t>>,
    anchored: HashMap<usize, Node<'t>>,
    copied_nodes: usize,
    copied_bytes: usize,
    flaws: Vec<Flaw>,
    /// How many did not go in there.
    flaws_more: usize,
}

/// A list or map whose end has not come yet.
#[derive(Debug)]
struct Open<'t> {
    at: Position,
    anchor: usize,
    body: Body<'t>,
}

#[derive(Debug)]
enum Body<'t> {
    List(Vec<Node<'t>>),
    Map {
        entries: Vec<Entry<'t>>,
        /// A key that waits for its value.
        key: Option<(Cow<'t, str>, Position)>,
        /// Values of `<<` keys.
        merges: Vec<Node<'t>>,
        /// The waiting key is a `<<`.
        merging: bool,
    },
}

impl<'t> Builder<'t> {
    /// Takes the next event of the document. `Err` = the rest of the document cannot be read.
    pub(super) fn event(&mut self, event: Event<'t>, span: Span) -> Result<(), Flaw> {
        let at = Position::of(span.start);
        match event {
            Event::Scalar(text, style, anchor, tag) => self.scalar(text, style, anchor, tag, at),
            Event::SequenceStart(_, anchor, _) => self.open(at, anchor, Body::List(Vec::new())),
            Event::MappingStart(_, anchor, _) => {
                let body = Body::Map { entries: Vec::new(), key: None, merges: Vec::new(), merging: false };
                self.open(at, anchor, body)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(id) => {
                let node = self.copy(id, at)?;
                self.put(node, false)
            }
            _ => Ok(()),
        }
    }

    /// The finished tree, and what is wrong with it all the same: at most `limits::DOCUMENT_PROBLEMS_LEN_MAX`
    /// flaws, and how many more there are.
    pub(super) fn finish(mut self) -> (Option<Node<'t>>, Vec<Flaw>, usize) {
        self.flaws.sort_by_key(|flaw| (flaw.at.line, flaw.at.column));
        (self.root, self.flaws, self.flaws_more)
    }

    fn open(&mut self, at: Position, anchor: usize, body: Body<'t>) -> Result<(), Flaw> {
        if self.open.len() >= limits::MANIFEST_DEPTH_MAX {
            let what = format!("nested deeper than {} levels", limits::MANIFEST_DEPTH_MAX);
            return Err(self.flaw(at, what));
        }
        if self.wants_key() {
            return Err(self.flaw(at, "a list or a map cannot be a field name".to_owned()));
        }
        self.open.push(Open { at, anchor, body });
        Ok(())
    }

    fn close(&mut self) -> Result<(), Flaw> {
        let Some(open) = self.open.pop() else {
            return Ok(());
        };
        let value = match open.body {
            Body::List(items) => Value::List(items),
            Body::Map { mut entries, merges, .. } => {
                self.drop_duplicates(&mut entries);
                self.merge(&mut entries, merges)?;
                Value::Map(entries)
            }
        };
        let node = Node { at: open.at, value };
        if open.anchor != 0 {
            self.remember(open.anchor, &node)?;
        }
        self.put(node, false)
    }

    fn scalar(
        &mut self,
        text: Cow<'t, str>,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<Cow<'t, Tag>>,
        at: Position,
    ) -> Result<(), Flaw> {
        let plain = style == ScalarStyle::Plain;
        let merge_key = plain && tag.is_none() && text == "<<";
        let value = match tag {
            None if plain => scalar::resolve(text),
            None => Value::String(text),
            Some(tag) => match scalar::tagged(&tag, text) {
                Ok(value) => value,
                Err(what) => return Err(self.flaw(at, what)),
            },
        };
        let node = Node { at, value };
        if anchor != 0 {
            self.remember(anchor, &node)?;
        }
        self.put(node, merge_key)
    }

    /// Gives a finished node to what is open: as a key, a value, an element or the root.
    fn put(&mut self, node: Node<'t>, merge_key: bool) -> Result<(), Flaw> {
        let key = match self.open.last_mut().map(|open| &mut open.body) {
            None => {
                self.root = Some(node);
                return Ok(());
            }
            Some(Body::List(items)) => {
                items.push(node);
                return Ok(());
            }
            Some(Body::Map { entries, key, merges, merging }) => match key.take() {
                Some(_) if *merging => {
                    merges.push(node);
                    *merging = false;
                    return Ok(());
                }
                Some((key, at)) => {
                    entries.push(Entry { key, at, node });
                    None
                }
                None => {
                    *merging = merge_key;
                    Some(node)
                }
            },
        };
        match key {
            Some(node) => self.put_key(node),
            None => Ok(()),
        }
    }

    fn put_key(&mut self, node: Node<'t>) -> Result<(), Flaw> {
        let at = node.at;
        // Numbers and booleans become field names as in JSON made from YAML (sigs.k8s.io/yaml).
        let name = match node.value {
            Value::String(text) => text,
            Value::Int(n) => Cow::Owned(n.to_string()),
            Value::Float(n) => Cow::Owned(n.to_string()),
            Value::Bool(b) => Cow::Borrowed(if b { "true" } else { "false" }),
            _ => return Err(self.flaw(at, "a field name must be a string".to_owned())),
        };
        if let Some(Body::Map { key, .. }) = self.open.last_mut().map(|open| &mut open.body) {
            *key = Some((name, at));
        }
        Ok(())
    }

    /// A repeated field is an error that names both lines; the last one counts, as in the API server.
    fn drop_duplicates(&mut self, entries: &mut Vec<Entry<'t>>) {
        let duplicates = duplicates(entries);
        if duplicates.is_empty() {
            return;
        }
        let mut dead = vec![false; entries.len()];
        for (earlier, later) in duplicates {
            dead[earlier] = true;
            if self.flaws.len() >= limits::DOCUMENT_PROBLEMS_LEN_MAX {
                self.flaws_more += 1;
                continue;
            }
            let what = format!("duplicate field, already set at line {}", entries[earlier].at.line);
            let mut flaw = self.flaw(entries[later].at, what);
            if !flaw.path.is_empty() {
                flaw.path.push('.');
            }
            flaw.path.push_str(&cut(&entries[later].key, limits::PROBLEM_PATH_BYTES_MAX));
            self.flaws.push(flaw);
        }
        let mut dead = dead.into_iter();
        entries.retain(|_| !dead.next().unwrap_or(false));
    }

    fn wants_key(&self) -> bool {
        matches!(self.open.last().map(|open| &open.body), Some(Body::Map { key: None, .. }))
    }

    fn remember(&mut self, anchor: usize, node: &Node<'t>) -> Result<(), Flaw> {
        self.count_copied(node)?;
        self.anchored.insert(anchor, node.clone());
        Ok(())
    }

    fn copy(&mut self, anchor: usize, at: Position) -> Result<Node<'t>, Flaw> {
        // Lines of an error inside a copy are those of the anchor, where the text stands.
        let Some(node) = self.anchored.get(&anchor).cloned() else {
            return Err(self.flaw(at, "an anchor contains itself".to_owned()));
        };
        self.count_copied(&node)?;
        Ok(node)
    }

    fn count_copied(&mut self, node: &Node<'t>) -> Result<(), Flaw> {
        let (nodes, bytes) = node.size();
        self.copied_nodes += nodes;
        self.copied_bytes += bytes;
        let (max, what) = if self.copied_nodes > limits::MANIFEST_ALIAS_NODES_MAX {
            (limits::MANIFEST_ALIAS_NODES_MAX, "values")
        } else if self.copied_bytes > limits::MANIFEST_ALIAS_BYTES_MAX {
            (limits::MANIFEST_ALIAS_BYTES_MAX, "bytes of text")
        } else {
            return Ok(());
        };
        Err(self.flaw(node.at, format!("anchors and aliases stand for more than {max} {what}")))
    }

    /// `<<: *a` or `<<: [*a, *b]`: fields that are not there yet; earlier ones win (YAML 1.1 merge type).
    fn merge(&self, entries: &mut Vec<Entry<'t>>, merges: Vec<Node<'t>>) -> Result<(), Flaw> {
        if merges.is_empty() {
            return Ok(());
        }
        let mut present: HashSet<Cow<'t, str>> = entries.iter().map(|e| e.key.clone()).collect();
        let maps = merges.into_iter().flat_map(|merged| match merged.value {
            Value::List(items) => items,
            _ => vec![merged],
        });
        for map in maps {
            let Value::Map(fields) = map.value else {
                let what = "a merge key (<<) takes a map or a list of maps".to_owned();
                return Err(self.flaw(map.at, what));
            };
            for field in fields {
                if present.insert(field.key.clone()) {
                    entries.push(field);
                }
            }
        }
        Ok(())
    }

    fn flaw(&self, at: Position, what: String) -> Flaw {
        Flaw { at, path: self.path(), what }
    }

    /// The path of what is being read, as far as errors show it.
    fn path(&self) -> String {
        let mut path = String::new();
        for open in &self.open {
            if path.len() > limits::PROBLEM_PATH_BYTES_MAX {
                break;
            }
            match &open.body {
                Body::List(items) => path.push_str(&format!("[{}]", items.len())),
                Body::Map { key, .. } => {
                    if let Some((name, _)) = key {
                        if !path.is_empty() {
                            path.push('.');
                        }
                        path.push_str(&cut(name, limits::PROBLEM_PATH_BYTES_MAX));
                    }
                }
            }
        }
        path
    }
}
