//! What every file gave when it was last read, and which pods are wanted because of it.
//!
//! Invariant: the pods that were told as added and not as removed are exactly those of `wanted`; each has a
//! namespace/name and a UID of its own.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use probe_core::id::PodUid;
use probe_core::spec::Pod;
use tracing::{info, warn};

use super::{ManifestConfig, SourceStatus, list, log, read_file};
use crate::limits;
use crate::source::parse::{self, Options, Parsed, Problem, Severity, UnsupportedKind};

/// What has to be told.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change {
    Remove(Arc<Pod>),
    Add(Arc<Pod>),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Table {
    files: BTreeMap<PathBuf, File>,
    wanted: HashMap<Name, Wanted>,
    /// Paths that could not be read, which is no file's fault.
    paths: BTreeMap<PathBuf, Problem>,
    was_read: bool,
}

/// `namespace`, `name`
type Name = (Arc<str>, Arc<str>);

#[derive(Clone, Debug)]
struct Wanted {
    pod: Arc<Pod>,
    file: PathBuf,
}

#[derive(Debug, Default)]
struct File {
    /// Of the content that was read last; `None` = it could not be read.
    digest: Option<u64>,
    /// In the order of the documents.
    pods: Vec<Arc<Pod>>,
    /// Of the file itself.
    problems: Vec<Problem>,
    /// Pods that another file has too.
    conflicts: Vec<Problem>,
}

impl Table {
    /// Reads everything again; returns what changed, removals first.
    pub(super) fn read(&mut self, config: &ManifestConfig) -> Vec<Change> {
        let order = self.files(&config.paths);
        let present: HashSet<&PathBuf> = order.iter().collect();
        let files_count = self.files.len();
        self.files.retain(|file, _| present.contains(file));
        let mut is_changed = self.files.len() != files_count;
        for path in &order {
            let file = self.files.entry(path.clone()).or_default();
            is_changed |= file.read(path, config);
        }
        self.was_read = true;
        if is_changed { self.update(&order) } else { Vec::new() }
    }

    pub(super) fn status(&self) -> SourceStatus {
        let mut errors: BTreeMap<PathBuf, Vec<Problem>> = BTreeMap::new();
        for (path, file) in &self.files {
            let problems = file.problems.iter().chain(&file.conflicts);
            let of_file = problems.filter(|p| p.severity == Severity::Error);
            let of_file: Vec<_> = of_file.take(limits::MANIFEST_PROBLEMS_LEN_MAX).cloned().collect();
            if !of_file.is_empty() {
                errors.insert(path.clone(), of_file);
            }
        }
        for (path, problem) in &self.paths {
            errors.entry(path.clone()).or_default().push(problem.clone());
        }
        SourceStatus { synced: self.was_read, pods_count: self.wanted.len(), errors }
    }

    /// The files to read, in the order of the paths; each once.
    fn files(&mut self, paths: &[PathBuf]) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut problems = BTreeMap::new();
        for path in paths {
            let (found, error) = match path.metadata() {
                Ok(metadata) if metadata.is_dir() => match list(path) {
                    Ok(found) => (found, None),
                    Err(error) => (self.known_below(path), Some(error)),
                },
                Ok(_) => (vec![path.clone()], None),
                // As with the kubelet's static pods, what is not there wants no pods.
                Err(error) if error.kind() == io::ErrorKind::NotFound => (Vec::new(), Some(error)),
                Err(error) => (self.known_below(path), Some(error)),
            };
            if let Some(error) = error {
                problems.insert(path.clone(), unreadable(path, &error));
            }
            files.extend(found);
        }
        for (path, problem) in &problems {
            if !self.paths.contains_key(path) {
                log(path, std::slice::from_ref(problem));
            }
        }
        self.paths = problems;
        let mut seen = HashSet::new();
        files.retain(|file| seen.insert(file.clone()));
        files
    }

    /// The files that a path gave before it became unreadable.
    fn known_below(&self, path: &Path) -> Vec<PathBuf> {
        let files = self.files.keys();
        files.filter(|f| f.starts_with(path)).cloned().collect()
    }

    /// Who is wanted now, compared with before. A name stays with the file that has it, else goes to the first.
    fn update(&mut self, order: &[PathBuf]) -> Vec<Change> {
        let mut next = Next::after(&self.wanted);
        let mut conflicts: HashMap<PathBuf, Vec<Problem>> = HashMap::new();
        for is_holder in [true, false] {
            for path in order {
                let Some(file) = self.files.get(path) else {
                    continue;
                };
                let mut seen = HashSet::new();
                for pod in &file.pods {
                    let name = name_of(pod);
                    // Of two pods of one name in one file, the first may be the holder.
                    let holds = next.is_held_by(&name, path) && seen.insert(name);
                    if holds == is_holder
                        && let Err(problem) = next.take(pod, path)
                    {
                        conflicts.entry(path.clone()).or_default().push(problem);
                    }
                }
            }
        }
        let Next { wanted, order, .. } = next;
        let mut changes = Vec::new();
        let mut gone: Vec<&Arc<Pod>> = self
            .wanted
            .iter()
            .filter(|(name, was)| wanted.get(*name).is_none_or(|now| now.pod != was.pod))
            .map(|(_, was)| &was.pod)
            .collect();
        gone.sort_by_key(|pod| name_of(pod));
        changes.extend(gone.into_iter().cloned().map(Change::Remove));
        for name in order {
            let now = &wanted[&name].pod;
            if self.wanted.get(&name).is_none_or(|was| was.pod != *now) {
                changes.push(Change::Add(Arc::clone(now)));
            }
        }
        self.wanted = wanted;
        for (path, file) in &mut self.files {
            let conflicts = conflicts.remove(path).unwrap_or_default();
            if file.conflicts != conflicts {
                log(path, &conflicts);
            }
            file.conflicts = conflicts;
        }
        changes
    }
}

/// The wanted pods while they are being collected.
struct Next<'a> {
    before: &'a HashMap<Name, Wanted>,
    wanted: HashMap<Name, Wanted>,
    uids: HashMap<PodUid, Name>,
    order: Vec<Name>,
}

impl<'a> Next<'a> {
    fn after(before: &'a HashMap<Name, Wanted>) -> Self {
        Self {
            before,
            wanted: HashMap::with_capacity(before.len()),
            uids: HashMap::with_capacity(before.len()),
            order: Vec::with_capacity(before.len()),
        }
    }

    fn is_held_by(&self, name: &Name, path: &Path) -> bool {
        self.before.get(name).is_some_and(|was| was.file == path)
    }

    /// `Err` = another pod has its name or UID.
    fn take(&mut self, pod: &Arc<Pod>, path: &Path) -> Result<(), Problem> {
        let name = name_of(pod);
        let refuse = |what: String| Problem {
            severity: Severity::Error,
            path: String::new(),
            message: what,
            file: path.display().to_string().into(),
            line: 0,
        };
        let shown = format!("pod {}/{}", name.0, name.1);
        if let Some(other) = self.wanted.get(&name) {
            let other = other.file.display();
            return Err(refuse(format!("{shown} is already defined in {other}; that one stays")));
        }
        if let Some(other) = self.uids.get(&pod.uid) {
            let other = format!("{}/{}", other.0, other.1);
            return Err(refuse(format!("{shown} has the UID of pod {other}: {}", pod.uid)));
        }
        if self.wanted.len() >= limits::PODS_MAX {
            return Err(refuse(format!("{shown} is one more than {} pods", limits::PODS_MAX)));
        }
        self.uids.insert(pod.uid.clone(), name.clone());
        self.order.push(name.clone());
        let wanted = Wanted { pod: Arc::clone(pod), file: path.to_owned() };
        self.wanted.insert(name, wanted);
        Ok(())
    }
}

impl File {
    /// Reads the file again; true = its pods may have changed.
    fn read(&mut self, path: &Path, config: &ManifestConfig) -> bool {
        if self.digest.is_some() && path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
            // A pipe (`--manifests /dev/stdin`) gives what it has once.
            return false;
        }
        let mut bytes = read_file(path);
        if !self.pods.is_empty() && bytes.as_ref().is_ok_and(Vec::is_empty) {
            // Between an editor's truncation and its write; an emptied file is still empty a moment later.
            std::thread::sleep(limits::MANIFEST_SETTLE);
            bytes = read_file(path);
        }
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(error) => {
                let problem = unreadable(path, &error);
                if self.digest.take().is_some() || self.problems.is_empty() {
                    log(path, std::slice::from_ref(&problem));
                }
                self.problems = vec![problem];
                return false;
            }
        };
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let digest = Some(hasher.finish());
        if self.digest == digest {
            return false;
        }
        self.digest = digest;
        let (mut pods, problems) = parse_all(path, &bytes, config);
        log(path, &problems);
        if problems.iter().any(|p| p.severity == Severity::Error) {
            // A document with errors may be one that gave a pod before: nothing is lost by a typing error.
            let names: HashSet<Name> = pods.iter().map(|pod| name_of(pod)).collect();
            let before = std::mem::take(&mut self.pods).into_iter();
            pods.extend(before.filter(|pod| !names.contains(&name_of(pod))));
        }
        self.pods = pods;
        self.problems = problems;
        true
    }
}

fn parse_all(path: &Path, bytes: &[u8], config: &ManifestConfig) -> (Vec<Arc<Pod>>, Vec<Problem>) {
    let options = Options { strictness: config.strictness, runtime: Some(config.runtime) };
    let origin: Arc<str> = path.display().to_string().into();
    let (mut pods, mut problems) = (Vec::new(), Vec::new());
    for document in parse::documents(&origin, bytes) {
        match parse::pod(document, &options) {
            Ok(parsed) => match accept(parsed, &origin, config, &mut problems) {
                Some(pod) => pods.push(Arc::new(pod)),
                None => continue,
            },
            Err(found) => problems.extend(found),
        }
    }
    (pods, problems)
}

/// The pod, unless it asks for what the runtime cannot do and must not leave out.
fn accept(parsed: Parsed, origin: &Arc<str>, config: &ManifestConfig, problems: &mut Vec<Problem>) -> Option<Pod> {
    let Parsed { mut pod, unsupported, warnings } = parsed;
    problems.extend(warnings);
    let named = format!("{}/{}", pod.namespace, pod.name);
    let is_honoured = |kind| kind == UnsupportedKind::MemoryLimit && config.memory_limits;
    let (harmful, harmless): (Vec<_>, Vec<_>) =
        unsupported.into_iter().filter(|u| !is_honoured(u.kind)).partition(|u| u.unsafe_to_ignore);
    if !harmless.is_empty() {
        let fields: Vec<&str> = harmless.iter().map(|u| &*u.path).collect();
        info!(pod = named, "not honoured by this runtime: {}", fields.join(", "));
    }
    if harmful.is_empty() {
        return Some(pod);
    }
    if config.ignore_unsupported {
        for field in &harmful {
            warn!(pod = named, "runs without {field} (--ignore-unsupported)");
        }
        pod.ignored_fields = harmful.iter().map(|u| u.to_string().into()).collect();
        return Some(pod);
    }
    problems.extend(harmful.into_iter().map(|field| Problem {
        severity: Severity::Error,
        path: field.path,
        message: format!(
            "Forbidden: the process runtime does not do this: {} (--ignore-unsupported runs the pod without it)",
            field.what
        ),
        file: Arc::clone(origin),
        line: field.line,
    }));
    None
}

fn name_of(pod: &Pod) -> Name {
    (Arc::clone(&pod.namespace), Arc::clone(&pod.name))
}

fn unreadable(path: &Path, error: &io::Error) -> Problem {
    Problem {
        severity: Severity::Error,
        path: String::new(),
        message: format!("cannot be read: {error}"),
        file: path.display().to_string().into(),
        line: 0,
    }
}
