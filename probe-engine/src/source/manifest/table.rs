//! What every file gave when it was last read, and which pods are wanted because of it.
//!
//! Invariant: the pods that were told as added and not as removed are exactly those of `wanted`; each has a
//! namespace/name and a UID of its own.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use probe_core::spec::Pod;
use tracing::{info, warn};

use super::stamp::{LastStamp, Stamp};
use super::{ManifestConfig, SourceStatus, list, log, read_file};
use crate::source::parse::{self, Interner, Options, Parsed, Problem, Severity, UnsupportedKind};
use crate::{clock, limits};

/// What has to be told.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change {
    Remove(Arc<Pod>),
    Add(Arc<Pod>),
}

/// See the module. Of a pod it keeps two pointers to what the manager has too; of a file its path and a digest.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// In the order of the paths; those of a directory by name.
    files: Vec<File>,
    files_made: u32,
    wanted: Box<[Wanted]>,
    /// Paths that could not be read, which is no file's fault.
    paths: BTreeMap<PathBuf, Problem>,
    was_read: bool,
    interner: Interner,
}

/// `namespace`, `name`
type Name<'a> = (&'a str, &'a str);

#[derive(Clone, Debug)]
struct Wanted {
    pod: Arc<Pod>,
    /// [`File::id`]
    file: u32,
}

#[derive(Debug)]
struct File {
    path: Box<Path>,
    /// No other file of this table has or had it.
    id: u32,
    /// Of the content that was read last; `None` = it could not be read.
    digest: Option<u64>,
    /// Of the same.
    stamp: LastStamp,
    /// In the order of the documents.
    pods: Pods,
    /// Most files have none.
    trouble: Option<Box<Trouble>>,
}

/// The pods of a file. Where there are hundreds of thousands, each has a file of its own.
#[derive(Debug)]
enum Pods {
    One(Arc<Pod>),
    Many(Box<[Arc<Pod>]>),
}

impl From<Vec<Arc<Pod>>> for Pods {
    fn from(mut pods: Vec<Arc<Pod>>) -> Self {
        match (pods.pop(), pods.is_empty()) {
            (Some(pod), true) => Self::One(pod),
            (last, _) => Self::Many(pods.into_iter().chain(last).collect()),
        }
    }
}

impl Deref for Pods {
    type Target = [Arc<Pod>];

    fn deref(&self) -> &[Arc<Pod>] {
        match self {
            Self::One(pod) => std::slice::from_ref(pod),
            Self::Many(pods) => pods,
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Trouble {
    /// Of the file itself.
    problems: Vec<Problem>,
    /// Pods that another file has too.
    conflicts: Vec<Problem>,
}

/// What one look at a file gave.
enum Reading {
    /// What it gave before.
    Same,
    Unreadable(io::Error),
    Read {
        digest: u64,
        pods: Vec<Arc<Pod>>,
        problems: Vec<Problem>,
    },
}

impl Table {
    /// Reads everything again; returns what changed, removals first.
    pub(super) fn read(&mut self, config: &ManifestConfig) -> Vec<Change> {
        let order = self.files(&config.paths);
        let mut is_changed = self.arrange(order);
        let readings = self.readings(config);
        for (index, reading) in readings {
            is_changed |= self.files[index].apply(reading);
        }
        self.was_read = true;
        let changes = if is_changed { self.update() } else { Vec::new() };
        self.interner.sweep();
        changes
    }

    /// Keeps these files, in this order; true = one is no longer among them.
    fn arrange(&mut self, order: Vec<PathBuf>) -> bool {
        if self.files.iter().map(|file| &*file.path).eq(order.iter().map(PathBuf::as_path)) {
            return false;
        }
        let mut before: HashMap<Box<Path>, File> = HashMap::with_capacity(self.files.len());
        before.extend(self.files.drain(..).map(|file| (file.path.clone(), file)));
        self.files.reserve_exact(order.len());
        for path in order {
            let file = before.remove(&*path).unwrap_or_else(|| {
                self.files_made += 1;
                File::new(path.into(), self.files_made)
            });
            self.files.push(file);
        }
        !before.is_empty()
    }

    /// What the files give now, in their order, of those where it is not the same as before. Read by several threads
    /// where there are many; no more texts are held at once than there are threads.
    fn readings(&self, config: &ManifestConfig) -> Vec<(usize, Reading)> {
        /// Files that a thread takes at once: below that many, one thread is enough.
        const PART_LEN: usize = 32;
        let next = AtomicUsize::new(0);
        let read = || {
            let mut readings = Vec::new();
            loop {
                let begin = next.fetch_add(PART_LEN, Ordering::Relaxed);
                let end = (begin + PART_LEN).min(self.files.len());
                if begin >= end {
                    return readings;
                }
                for (index, file) in self.files[begin..end].iter().enumerate() {
                    match file.read(config, &self.interner) {
                        Reading::Same => {}
                        reading => readings.push((begin + index, reading)),
                    }
                }
            }
        };
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let readers = cores.min(limits::MANIFEST_READERS_MAX).min(self.files.len().div_ceil(PART_LEN));
        let mut readings = thread::scope(|scope| {
            // This thread is one of them; where no other can be made, it reads alone.
            let spawn = |_| thread::Builder::new().name("manifests".to_owned()).spawn_scoped(scope, read).ok();
            let others: Vec<_> = (1..readers).filter_map(spawn).collect();
            let mut readings = read();
            for other in others {
                match other.join() {
                    Ok(more) => readings.extend(more),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            readings
        });
        readings.sort_unstable_by_key(|(index, _)| *index);
        readings
    }

    pub(super) fn status(&self) -> SourceStatus {
        let mut errors: BTreeMap<PathBuf, Vec<Problem>> = BTreeMap::new();
        for file in &self.files {
            let Some(trouble) = &file.trouble else { continue };
            let problems = trouble.problems.iter().chain(&trouble.conflicts);
            let of_file = problems.filter(|p| p.severity == Severity::Error);
            let of_file: Vec<_> = of_file.take(limits::MANIFEST_PROBLEMS_LEN_MAX).cloned().collect();
            if !of_file.is_empty() {
                errors.insert(file.path.to_path_buf(), of_file);
            }
        }
        for (path, problem) in &self.paths {
            errors.entry(path.clone()).or_default().push(problem.clone());
        }
        SourceStatus { synced: self.was_read, pods_count: self.wanted.len(), errors, clean_at: None }
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
        if paths.len() > 1 {
            let mut seen = HashSet::new();
            files.retain(|file| seen.insert(file.clone()));
        }
        files
    }

    /// The files that a path gave before it became unreadable.
    fn known_below(&self, path: &Path) -> Vec<PathBuf> {
        let files = self.files.iter().map(|file| &*file.path);
        files.filter(|f| f.starts_with(path)).map(Path::to_path_buf).collect()
    }

    /// Who is wanted now, compared with before. A name stays with the file that has it, else goes to the first.
    fn update(&mut self) -> Vec<Change> {
        let before: HashMap<Name<'_>, &Wanted> = self.wanted.iter().map(|was| (name_of(&was.pod), was)).collect();
        let mut next = Next::new(&self.files);
        let mut conflicts: HashMap<u32, Vec<Problem>> = HashMap::new();
        for is_holder in [true, false] {
            for (index, file) in self.files.iter().enumerate() {
                let mut seen = HashSet::new();
                for pod in &*file.pods {
                    let name = name_of(pod);
                    // Of two pods of one name in one file, the first may be the holder.
                    let is_held = before.get(&name).is_some_and(|was| was.file == file.id);
                    let holds = is_held && seen.insert(name);
                    if holds == is_holder
                        && let Err(problem) = next.take(pod, index)
                    {
                        conflicts.entry(file.id).or_default().push(problem);
                    }
                }
            }
        }
        let Next { wanted, names, .. } = next;
        let now_at = |name: &Name<'_>| names.get(name).map(|(index, _)| &wanted[*index].pod);
        let gone = self.wanted.iter().map(|was| &was.pod);
        let mut gone: Vec<&Arc<Pod>> = gone.filter(|was| now_at(&name_of(was)) != Some(*was)).collect();
        gone.sort_by_key(|pod| name_of(pod));
        let mut changes: Vec<Change> = gone.into_iter().cloned().map(Change::Remove).collect();
        let is_new = |now: &&Wanted| before.get(&name_of(&now.pod)).is_none_or(|was| was.pod != now.pod);
        changes.extend(wanted.iter().filter(is_new).map(|now| Change::Add(Arc::clone(&now.pod))));
        self.wanted = wanted.into();
        for file in &mut self.files {
            file.set_conflicts(conflicts.remove(&file.id).unwrap_or_default());
        }
        changes
    }
}

/// The wanted pods while they are being collected.
struct Next<'a> {
    files: &'a [File],
    wanted: Vec<Wanted>,
    /// Places in `wanted` and in `files`.
    names: HashMap<Name<'a>, (usize, usize)>,
    /// Places in `wanted`.
    uids: HashMap<&'a str, usize>,
}

impl<'a> Next<'a> {
    fn new(files: &'a [File]) -> Self {
        let len = files.iter().map(|file| file.pods.len()).sum();
        Self {
            files,
            wanted: Vec::with_capacity(len),
            names: HashMap::with_capacity(len),
            uids: HashMap::with_capacity(len),
        }
    }

    /// A pod of the file at this place; `Err` = another pod has its name or UID.
    fn take(&mut self, pod: &'a Arc<Pod>, file_index: usize) -> Result<(), Problem> {
        let file = &self.files[file_index];
        let name = name_of(pod);
        let refuse = |what: String| Problem {
            severity: Severity::Error,
            path: String::new(),
            message: format!("pod {}/{} {what}", name.0, name.1),
            file: file.path.display().to_string().into(),
            line: 0,
        };
        if let Some((_, holder)) = self.names.get(&name) {
            let holder = self.files[*holder].path.display();
            return Err(refuse(format!("is already defined in {holder}; that one stays")));
        }
        if let Some(other) = self.uids.get(pod.uid.as_str()) {
            let other = name_of(&self.wanted[*other].pod);
            return Err(refuse(format!("has the UID of pod {}/{}: {}", other.0, other.1, pod.uid)));
        }
        let index = self.wanted.len();
        if index >= limits::PODS_MAX {
            return Err(refuse(format!("is one more than {} pods", limits::PODS_MAX)));
        }
        self.names.insert(name, (index, file_index));
        self.uids.insert(pod.uid.as_str(), index);
        self.wanted.push(Wanted { pod: Arc::clone(pod), file: file.id });
        Ok(())
    }
}

impl File {
    fn new(path: Box<Path>, id: u32) -> Self {
        Self { path, id, digest: None, stamp: LastStamp::default(), pods: Pods::Many(Box::default()), trouble: None }
    }

    /// Looks at the file again.
    fn read(&self, config: &ManifestConfig, interner: &Interner) -> Reading {
        let path = &*self.path;
        let metadata = path.metadata().ok();
        if self.digest.is_some() && metadata.as_ref().is_some_and(|metadata| !metadata.is_file()) {
            // A pipe (`--manifests /dev/stdin`) gives what it has once.
            return Reading::Same;
        }
        let stamp = metadata.and_then(|metadata| Stamp::of(&metadata, clock::real_wall().into()));
        if self.digest.is_some() && stamp.is_some() && stamp == self.stamp.get() {
            return Reading::Same;
        }
        self.stamp.set(stamp);
        let mut bytes = read_file(path);
        if !self.pods.is_empty() && bytes.as_ref().is_ok_and(Vec::is_empty) {
            // Between an editor's truncation and its write; an emptied file is still empty a moment later.
            thread::sleep(limits::MANIFEST_SETTLE);
            bytes = read_file(path);
        }
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(error) => return Reading::Unreadable(error),
        };
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let digest = hasher.finish();
        if self.digest == Some(digest) {
            return Reading::Same;
        }
        let (pods, problems) = parse_all(path, &bytes, config, interner);
        Reading::Read { digest, pods, problems }
    }

    /// Takes what a look gave; true = its pods may have changed.
    fn apply(&mut self, reading: Reading) -> bool {
        match reading {
            Reading::Same => false,
            Reading::Unreadable(error) => {
                let problem = unreadable(&self.path, &error);
                let had_none = self.trouble.as_ref().is_none_or(|trouble| trouble.problems.is_empty());
                if self.digest.take().is_some() || had_none {
                    log(&self.path, std::slice::from_ref(&problem));
                }
                self.set_problems(vec![problem]);
                false
            }
            Reading::Read { digest, mut pods, problems } => {
                self.digest = Some(digest);
                log(&self.path, &problems);
                if problems.iter().any(|p| p.severity == Severity::Error) {
                    // A document with errors may be one that gave a pod before: nothing is lost by a typing error.
                    let names: HashSet<Name<'_>> = pods.iter().map(|pod| name_of(pod)).collect();
                    let before = self.pods.iter().filter(|pod| !names.contains(&name_of(pod)));
                    let before: Vec<_> = before.cloned().collect();
                    pods.extend(before);
                }
                self.pods = pods.into();
                self.set_problems(problems);
                true
            }
        }
    }

    fn set_problems(&mut self, problems: Vec<Problem>) {
        if self.trouble.is_some() || !problems.is_empty() {
            self.trouble.get_or_insert_default().problems = problems;
        }
    }

    fn set_conflicts(&mut self, conflicts: Vec<Problem>) {
        if conflicts != *self.trouble.as_ref().map_or(&[][..], |trouble| &trouble.conflicts) {
            log(&self.path, &conflicts);
        }
        if self.trouble.is_some() || !conflicts.is_empty() {
            self.trouble.get_or_insert_default().conflicts = conflicts;
        }
        self.trouble.take_if(|trouble| trouble.problems.is_empty() && trouble.conflicts.is_empty());
    }
}

fn parse_all(path: &Path, bytes: &[u8], config: &ManifestConfig, interner: &Interner) -> (Vec<Arc<Pod>>, Vec<Problem>) {
    let options = Options { strictness: config.strictness, runtime: Some(config.runtime) };
    let origin: Arc<str> = path.display().to_string().into();
    let (mut pods, mut problems) = (Vec::new(), Vec::new());
    for parsed in parse::pods(&origin, bytes, &options, interner) {
        match parsed {
            Ok(parsed) => pods.extend(accept(parsed, &origin, config, &mut problems).map(Arc::new)),
            Err(found) => problems.extend(found),
        }
    }
    (pods, problems)
}

/// The pod, unless it asks for what the runtime cannot do and must not leave out.
pub(in crate::source) fn accept(
    parsed: Parsed,
    origin: &Arc<str>,
    config: &ManifestConfig,
    problems: &mut Vec<Problem>,
) -> Option<Pod> {
    let Parsed { mut pod, unsupported, warnings } = parsed;
    problems.extend(warnings);
    if unsupported.is_empty() {
        return Some(pod);
    }
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

fn name_of(pod: &Pod) -> Name<'_> {
    (&pod.namespace, &pod.name)
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
