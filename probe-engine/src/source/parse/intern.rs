//! What repeats over pods is held once: the pods of a Deployment differ in name, UID and address only.
//!
//! Bound: `limits::INTERNED_LEN_MAX` values of each kind. A full table first lets go of what fewer than two others
//! hold, which is most of what is unique (a path, a label with the pod's name), then of everything: sharing begins
//! anew, nothing else changes. [`Interner::sweep`] does the first whenever the manifests have been read, so that
//! what went with its pods goes from here too.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use probe_core::spec::{Container, PodSpec, ProbeSpec, Process};

use super::Options;
use super::tree::{Node, Value};
use crate::limits;

/// See the module. One serves all pods of a source, on any number of threads: it is locked for the one or two
/// microseconds in which a parsed pod is put together.
#[derive(Debug, Default)]
pub struct Interner {
    tables: Mutex<Tables>,
    digests: (RandomState, RandomState),
}

/// The label or annotation list of a pod.
pub(super) type Pairs = [(Arc<str>, Arc<str>)];

/// The values, by kind.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) texts: Table<str>,
    pub(super) pairs: Table<Pairs>,
    pub(super) probes: Table<ProbeSpec>,
    pub(super) processes: Table<Process>,
    pub(super) containers: Table<[Container]>,
    specs: HashMap<SpecDigest, Arc<PodSpec>>,
}

/// Of a pod's `spec` as it is written, and of what it is read for. 128 bits under keys that nobody knows: no two
/// specs will ever have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct SpecDigest(u64, u64);

impl Interner {
    /// Lets go of what fewer than two others hold.
    pub fn sweep(&self) {
        let mut tables = self.lock();
        // Specs first: they hold lists, which hold probes, which hold texts.
        tables.sweep_specs();
        tables.containers.sweep();
        tables.processes.sweep();
        tables.probes.sweep();
        tables.pairs.sweep();
        tables.texts.sweep();
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Tables> {
        // What a panic left half done is a value more or less.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn digest(&self, spec: &Node<'_>, options: &Options) -> SpecDigest {
        let mut hasher = Twice(self.digests.0.build_hasher(), self.digests.1.build_hasher());
        options.hash(&mut hasher);
        hash_node(spec, &mut hasher);
        SpecDigest(hasher.0.finish(), hasher.1.finish())
    }
}

impl Tables {
    /// What a spec of this digest became when it was read without anything to say about it.
    pub(super) fn spec(&self, digest: SpecDigest) -> Option<Arc<PodSpec>> {
        self.specs.get(&digest).cloned()
    }

    pub(super) fn keep_spec(&mut self, digest: SpecDigest, spec: Arc<PodSpec>) {
        if self.specs.len() >= limits::INTERNED_LEN_MAX {
            self.sweep_specs();
            if self.specs.len() > limits::INTERNED_LEN_MAX / 2 {
                self.specs.clear();
            }
        }
        self.specs.insert(digest, spec);
    }

    fn sweep_specs(&mut self) {
        // This table and two pods.
        self.specs.retain(|_, spec| Arc::strong_count(spec) >= 3);
        self.specs.shrink_to(self.specs.len() * 2);
    }
}

/// Values of one kind.
#[derive(Debug)]
pub(super) struct Table<T: ?Sized>(HashSet<Arc<T>>);

impl<T: ?Sized> Default for Table<T> {
    fn default() -> Self {
        Self(HashSet::default())
    }
}

impl<T: ?Sized + Eq + Hash> Table<T> {
    /// The one that equals `value`; from now on `value` itself, if there is none.
    pub(super) fn share<V: Borrow<T> + Into<Arc<T>>>(&mut self, value: V) -> Arc<T> {
        if let Some(known) = self.0.get(value.borrow()) {
            return Arc::clone(known);
        }
        if self.0.len() >= limits::INTERNED_LEN_MAX {
            self.sweep();
            // A table that stays full would be swept at every value.
            if self.0.len() > limits::INTERNED_LEN_MAX / 2 {
                self.0.clear();
            }
        }
        let value = value.into();
        self.0.insert(Arc::clone(&value));
        value
    }

    fn sweep(&mut self) {
        self.0.retain(|value| Arc::strong_count(value) > 2);
        self.0.shrink_to(self.0.len() * 2);
    }
}

/// Two hashers with keys of their own, for twice the bits.
struct Twice(DefaultHasher, DefaultHasher);

impl Hasher for Twice {
    fn write(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
        self.1.write(bytes);
    }

    fn finish(&self) -> u64 {
        self.0.finish()
    }
}

/// Values and the order of fields, not the places where they stand.
fn hash_node(node: &Node<'_>, hasher: &mut Twice) {
    std::mem::discriminant(&node.value).hash(hasher);
    match &node.value {
        Value::Null => {}
        Value::Bool(value) => value.hash(hasher),
        Value::Int(value) => value.hash(hasher),
        Value::Float(value) => value.to_bits().hash(hasher),
        Value::String(value) => value.hash(hasher),
        Value::List(items) => {
            items.len().hash(hasher);
            items.iter().for_each(|item| hash_node(item, hasher));
        }
        Value::Map(entries) => {
            entries.len().hash(hasher);
            for entry in entries {
                entry.key.hash(hasher);
                hash_node(&entry.node, hasher);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(len: usize) -> (Tables, Vec<Arc<str>>) {
        let mut tables = Tables::default();
        let held = (0..len).map(|i| tables.texts.share(&*format!("value-{i}"))).collect();
        (tables, held)
    }

    #[test]
    fn equal_values_are_one() {
        let mut tables = Tables::default();
        assert!(Arc::ptr_eq(&tables.texts.share("a"), &tables.texts.share("a")));
        assert!(!Arc::ptr_eq(&tables.texts.share("a"), &tables.texts.share("b")));
    }

    #[test]
    fn a_full_table_keeps_what_is_shared_and_lets_go_of_the_rest() {
        let (mut tables, held) = filled(limits::INTERNED_LEN_MAX);
        let shared: Vec<_> = held.iter().take(10).map(Arc::clone).collect();
        let next = tables.texts.share("one more");
        assert_eq!(tables.texts.0.len(), 11);
        assert!(Arc::ptr_eq(&tables.texts.share(&*shared[0]), &held[0]));
        assert!(Arc::ptr_eq(&tables.texts.share("one more"), &next));
    }

    #[test]
    fn a_table_full_of_shared_values_begins_anew() {
        let (mut tables, held) = filled(limits::INTERNED_LEN_MAX);
        let again = held.clone();
        tables.texts.share("one more");
        assert_eq!(tables.texts.0.len(), 1);
        assert!(!Arc::ptr_eq(&tables.texts.share(&*again[0]), &held[0]));
    }

    #[test]
    fn values_go_with_the_last_who_held_them() {
        let interner = Interner::default();
        let held = interner.lock().texts.share("a");
        let weak = Arc::downgrade(&held);
        drop(held);
        interner.sweep();
        assert!(weak.upgrade().is_none());
        assert!(interner.lock().texts.0.is_empty());
    }
}
