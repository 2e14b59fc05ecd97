//! JSON that is in order, read by `serde_json` at a tenth of what the YAML parser takes. A tree made here knows no
//! places: where there is anything to say about a document, it is read again as YAML, which JSON is part of.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::tree::{Entry, Node, Position, Value};
use crate::limits;

/// The tree of a text that is one JSON object. `None` = it is not, or it holds what has to be looked at closely: a
/// repeated field, a number that is not whole, more levels than are allowed.
pub(super) fn tree(text: &str) -> Option<Node<'_>> {
    if !text.trim_ascii_start().starts_with('{') {
        return None;
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let node = Level { left: limits::MANIFEST_DEPTH_MAX }.deserialize(&mut deserializer).ok()?;
    deserializer.end().ok()?;
    Some(node)
}

/// Reads one value; lists and maps may go so many levels deeper.
#[derive(Clone, Copy)]
struct Level {
    left: usize,
}

impl Level {
    fn deeper<E: Error>(self) -> Result<Level, E> {
        let left = self.left.checked_sub(1).ok_or_else(|| E::custom("too deep"))?;
        Ok(Level { left })
    }
}

fn node(value: Value<'_>) -> Node<'_> {
    Node { at: Position::default(), value }
}

impl<'de> DeserializeSeed<'de> for Level {
    type Value = Node<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level {
    type Value = Node<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Node<'de>, E> {
        Ok(node(Value::Null))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Node<'de>, E> {
        Ok(node(Value::Bool(value)))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Node<'de>, E> {
        Ok(node(Value::Int(value)))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Node<'de>, E> {
        let value = i64::try_from(value).map_err(|_| E::custom("too large"))?;
        Ok(node(Value::Int(value)))
    }

    fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<Node<'de>, E> {
        Ok(node(Value::String(Cow::Borrowed(value))))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Node<'de>, E> {
        Ok(node(Value::String(Cow::Owned(value.to_owned()))))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node<'de>, A::Error> {
        let level = self.deeper()?;
        let mut items = Vec::new();
        while let Some(item) = list.next_element_seed(level)? {
            items.push(item);
        }
        Ok(node(Value::List(items)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node<'de>, A::Error> {
        let level = self.deeper()?;
        let mut entries = Vec::with_capacity(ENTRIES_LEN_USUAL);
        while let Some(key) = map.next_key_seed(Key)? {
            let node = map.next_value_seed(level)?;
            entries.push(Entry { key, at: Position::default(), node });
        }
        if !super::tree::duplicates(&entries).is_empty() {
            return Err(A::Error::custom("a field twice"));
        }
        Ok(node(Value::Map(entries)))
    }
}

/// Most objects of a manifest have no more fields.
const ENTRIES_LEN_USUAL: usize = 4;

struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Cow<'de, str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(value.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_to_be_looked_at_closely_is_left_to_the_yaml_parser() {
        assert!(tree(r#"{"a": [1, null, true, "x\n"], "b": {}}"#).is_some());
        for text in
            ["a: 1", "[1]", r#"{"a": 1, "a": 2}"#, r#"{"a": 1.5}"#, r#"{"a": 9223372036854775808}"#, "{} {}", "{"]
        {
            assert!(tree(text).is_none(), "{text}");
        }
        let nested = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels - 1), "]".repeat(levels - 1));
        assert!(tree(&nested(limits::MANIFEST_DEPTH_MAX)).is_some());
        assert!(tree(&nested(limits::MANIFEST_DEPTH_MAX + 1)).is_none());
    }
}
