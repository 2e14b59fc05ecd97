//! Containers' output: read from their pipes, written as the kubelet's CRI log format
//! (`<RFC 3339 time> stdout|stderr F|P <line>`), rotated by size.
//!
//! One thread of its own does this for all containers, so that neither a flooding container nor a slow disk
//! holds up the daemon: a full pipe stops only its writer. Bounds: `limits::LOG_*`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, PipeReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use probe_core::id::ContainerName;
use probe_core::spec::Pod;
use tokio::net::unix::pipe::Receiver;
use tokio::task::JoinHandle;

use crate::{clock, limits};

/// Bytes taken from a pipe at once (a pipe's default size).
const READ_BYTES: usize = 64 * 1024;

/// How large a log file may grow, and how many one instance has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rotation {
    pub(super) file_bytes_max: u64,
    pub(super) files_max: usize,
}

/// The thread that writes all logs.
#[derive(Debug)]
pub(super) struct LogThread {
    runtime: tokio::runtime::Handle,
    /// Dropped with the runtime that owns this: the thread ends.
    _stop: tokio::sync::oneshot::Sender<()>,
}

impl LogThread {
    pub(super) fn start() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        std::thread::Builder::new().name("logs".to_owned()).spawn(move || {
            let _ = runtime.block_on(stopped);
        })?;
        Ok(Self { runtime: handle, _stop: stop })
    }

    /// Copies both streams to `file` until nobody holds their writing ends.
    pub(super) fn copy(&self, file: LogFile, stdout: PipeReader, stderr: PipeReader) -> Copying {
        Copying(self.runtime.spawn(copy(file, stdout, stderr)))
    }
}

/// One instance's output being copied.
#[derive(Debug)]
pub(super) struct Copying(JoinHandle<()>);

impl Copying {
    /// Waits until all is written, but not for processes that keep the pipes open beyond `patience`.
    pub(super) async fn finish(mut self, patience: Duration) {
        if tokio::time::timeout(patience, &mut self.0).await.is_err() {
            self.0.abort();
        }
    }
}

async fn copy(mut file: LogFile, stdout: PipeReader, stderr: PipeReader) {
    let pipes = (receiver(stdout), receiver(stderr));
    let (Ok(stdout), Ok(stderr)) = pipes else {
        tracing::warn!(log = %file.path.display(), "cannot read a container's output");
        return;
    };
    let (mut out, mut err) = (Lines::new("stdout"), Lines::new("stderr"));
    let (mut out_open, mut err_open) = (true, true);
    while out_open || err_open {
        tokio::select! {
            ready = stdout.readable(), if out_open => {
                out_open = ready.is_ok() && take(&stdout, &mut out, &mut file);
            }
            ready = stderr.readable(), if err_open => {
                err_open = ready.is_ok() && take(&stderr, &mut err, &mut file);
            }
        }
        // A pipe that is never empty is always ready: without this a flooding container has the thread for itself.
        tokio::task::yield_now().await;
    }
}

/// One read; false once the pipe is at its end.
fn take(pipe: &Receiver, lines: &mut Lines, file: &mut LogFile) -> bool {
    thread_local! {
        static CHUNK: std::cell::RefCell<Vec<u8>> = std::cell::RefCell::new(vec![0; READ_BYTES]);
    }
    CHUNK.with_borrow_mut(|chunk| match pipe.try_read(chunk) {
        Ok(0) => {
            lines.finish(clock::wall(), file);
            false
        }
        Ok(n) => {
            lines.push(&chunk[..n], clock::wall(), file);
            true
        }
        Err(e) => matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
    })
}

fn receiver(pipe: PipeReader) -> io::Result<Receiver> {
    Receiver::from_owned_fd(OwnedFd::from(pipe))
}

/// Cuts one stream into lines.
#[derive(Debug)]
struct Lines {
    stream: &'static str,
    /// The beginning of a line whose end has not come yet; at most [`limits::LOG_LINE_BYTES_MAX`].
    begun: Vec<u8>,
}

impl Lines {
    fn new(stream: &'static str) -> Self {
        Self { stream, begun: Vec::new() }
    }

    fn push(&mut self, mut chunk: &[u8], at: Timestamp, file: &mut LogFile) {
        // Once for all lines of the chunk: formatting a time costs more than writing a short line.
        let head = self.head(at);
        while !chunk.is_empty() {
            let room = limits::LOG_LINE_BYTES_MAX - self.begun.len();
            let end = chunk.iter().take(room + 1).position(|b| *b == b'\n');
            let (piece, rest, tag) = match end {
                Some(end) => (&chunk[..end], &chunk[end + 1..], Some(Tag::Full)),
                None if chunk.len() > room => (&chunk[..room], &chunk[room..], Some(Tag::Partial)),
                None => (chunk, &[][..], None),
            };
            chunk = rest;
            match tag {
                Some(tag) => {
                    file.write_line(&head, tag, &[&self.begun, piece]);
                    self.begun.clear();
                }
                None => self.begun.extend_from_slice(piece),
            }
        }
        file.flush();
        if self.begun.is_empty() {
            // Most containers are silent most of the time: keep no buffer for them.
            self.begun = Vec::new();
        }
    }

    fn finish(&mut self, at: Timestamp, file: &mut LogFile) {
        if !self.begun.is_empty() {
            file.write_line(&self.head(at), Tag::Full, &[&self.begun]);
            self.begun = Vec::new();
        }
        file.flush();
    }

    fn head(&self, at: Timestamp) -> String {
        format!("{at:.9} {}", self.stream)
    }
}

/// Whether a log line ends where the container's line ends.
#[derive(Clone, Copy, Debug)]
enum Tag {
    Full,
    Partial,
}

impl Tag {
    const fn as_bytes(self) -> &'static [u8] {
        match self {
            Tag::Full => b" F ",
            Tag::Partial => b" P ",
        }
    }
}

/// One instance's log: the newest file, with older ones beside it as `<restart>.log.1`, `.2` ...
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    len: u64,
    rotation: Rotation,
    buffer: Vec<u8>,
    /// Bytes that could not be written; told once.
    lost: u64,
}

impl LogFile {
    /// Opens the log of instance `restart_count`, empty; logs of instances before the previous one go, and so do
    /// those of this number and of later ones, which an earlier daemon left.
    pub(super) fn open(directory: &Path, restart_count: u32, rotation: Rotation) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o750).create(directory)?;
        for (number, path) in
            instances(directory)?.into_iter().flat_map(|(n, files)| files.into_iter().map(move |f| (n, f)))
        {
            if number >= restart_count || number + 1 < restart_count {
                let _ = fs::remove_file(path);
            }
        }
        let path = directory.join(format!("{restart_count}.log"));
        let file = append(&path)?;
        let len = file.metadata()?.len();
        Ok(Self { path, file, len, rotation, buffer: Vec::new(), lost: 0 })
    }

    fn write_line(&mut self, head: &str, tag: Tag, pieces: &[&[u8]]) {
        let before = self.buffer.len();
        self.buffer.extend_from_slice(head.as_bytes());
        self.buffer.extend_from_slice(tag.as_bytes());
        for piece in pieces {
            self.buffer.extend_from_slice(piece);
        }
        self.buffer.push(b'\n');
        let full = self.len + self.buffer.len() as u64 > self.rotation.file_bytes_max;
        if full && self.len + before as u64 > 0 {
            let line = self.buffer.split_off(before);
            self.flush();
            self.rotate();
            self.buffer = line;
        }
    }

    fn flush(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        match self.file.write_all(&self.buffer) {
            Ok(()) => self.len += self.buffer.len() as u64,
            Err(e) => {
                if self.lost == 0 {
                    tracing::warn!(log = %self.path.display(), error = %e, "a container's output is being lost");
                }
                self.lost += self.buffer.len() as u64;
            }
        }
        self.buffer = Vec::new();
    }

    /// `n.log.3` becomes `n.log.4` ..., `n.log` becomes `n.log.1`; the oldest beyond the bound is overwritten.
    fn rotate(&mut self) {
        let name = |age: usize| match age {
            0 => self.path.clone(),
            age => {
                let mut name = self.path.clone().into_os_string();
                name.push(format!(".{age}"));
                name.into()
            }
        };
        for age in (0..self.rotation.files_max.saturating_sub(1)).rev() {
            let _ = fs::rename(name(age), name(age + 1));
        }
        if self.rotation.files_max <= 1 {
            let _ = fs::remove_file(&self.path);
        }
        match append(&self.path) {
            Ok(file) => (self.file, self.len) = (file, 0),
            Err(e) => tracing::warn!(log = %self.path.display(), error = %e, "cannot rotate a log"),
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

/// The log files of the newest instance, or of the one before it; newest file first.
pub(super) fn files_of(directory: &Path, previous: bool) -> io::Result<Vec<PathBuf>> {
    let mut instances = instances(directory)?;
    instances.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    Ok(instances.into_iter().nth(usize::from(previous)).map(|(_, files)| files).unwrap_or_default())
}

/// Log files by instance number, each instance's newest first.
fn instances(directory: &Path) -> io::Result<Vec<(u32, Vec<PathBuf>)>> {
    let mut found: Vec<(u32, usize, PathBuf)> = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if let Some((number, age)) = path.file_name().and_then(|n| n.to_str()).and_then(numbers) {
            found.push((number, age, path));
        }
    }
    found.sort();
    let mut instances: Vec<(u32, Vec<PathBuf>)> = Vec::new();
    for (number, _, path) in found {
        match instances.last_mut() {
            Some((last, files)) if *last == number => files.push(path),
            _ => instances.push((number, vec![path])),
        }
    }
    Ok(instances)
}

/// Instance and age of `<instance>.log` or `<instance>.log.<age>`.
fn numbers(name: &str) -> Option<(u32, usize)> {
    let (number, rest) = name.split_once(".log")?;
    let age = match rest.strip_prefix('.') {
        None if rest.is_empty() => 0,
        None => return None,
        Some(age) => age.parse().ok()?,
    };
    Some((number.parse().ok()?, age))
}

/// `<state dir>/logs/<namespace>_<pod>_<uid>/<container>`
pub(super) fn directory(logs: &Path, pod: &Pod, container: &ContainerName) -> PathBuf {
    pod_directory(logs, pod).join(component(container.as_str()))
}

/// `<state dir>/logs/<namespace>_<pod>_<uid>`
pub(super) fn pod_directory(logs: &Path, pod: &Pod) -> PathBuf {
    logs.join(pod_name(pod))
}

/// The pod's name among directories.
pub(super) fn pod_name(pod: &Pod) -> String {
    component(&format!("{}_{}_{}", pod.namespace, pod.name, pod.uid))
}

/// `text` as one path component: what could leave the directory or be too long is replaced, and a hash keeps
/// such names apart.
fn component(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.len() <= 240 && !text.is_empty() && !text.starts_with('.') && text.chars().all(is_plain) {
        return text.to_owned();
    }
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let kept: String = text.chars().filter(|c| is_plain(*c) && *c != '.').take(200).collect();
    format!("{kept}-{hash:016x}")
}

/// Removes the oldest of the pod directories that `is_live` does not know, down to
/// [`limits::LOG_DEAD_PODS_MAX`]. Blocks.
pub(super) fn prune(logs: &Path, is_live: &dyn Fn(&Path) -> bool) {
    let Ok(entries) = fs::read_dir(logs) else {
        return;
    };
    let mut dead: Vec<(std::time::SystemTime, PathBuf)> = entries
        .flatten()
        .map(|entry| (entry.metadata().and_then(|m| m.modified()).unwrap_or(std::time::UNIX_EPOCH), entry.path()))
        .filter(|(_, path)| !is_live(path))
        .collect();
    if dead.len() <= limits::LOG_DEAD_PODS_MAX {
        return;
    }
    dead.sort();
    let surplus = dead.len() - limits::LOG_DEAD_PODS_MAX;
    for (_, path) in dead.into_iter().take(surplus) {
        if let Err(e) = fs::remove_dir_all(&path) {
            tracing::warn!(path = %path.display(), error = %e, "cannot remove the logs of a pod that is gone");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Rotation = Rotation { file_bytes_max: 200, files_max: 3 };

    fn at() -> Timestamp {
        Timestamp::from_second(1_700_000_000).unwrap()
    }

    #[test]
    fn lines_are_written_in_the_cri_format_across_chunks() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = LogFile::open(dir.path(), 0, SMALL).unwrap();
        let mut lines = Lines::new("stdout");
        lines.push(b"one\ntw", at(), &mut file);
        lines.push(b"o\n", at(), &mut file);
        lines.push(b"no newline", at(), &mut file);
        lines.finish(at(), &mut file);
        let text = fs::read_to_string(dir.path().join("0.log")).unwrap();
        let time = "2023-11-14T22:13:20.000000000Z";
        assert_eq!(text, format!("{time} stdout F one\n{time} stdout F two\n{time} stdout F no newline\n"));
    }

    #[test]
    fn a_line_without_end_is_cut_into_partial_ones() {
        let dir = tempfile::tempdir().unwrap();
        let rotation = Rotation { file_bytes_max: 1 << 20, files_max: 2 };
        let mut file = LogFile::open(dir.path(), 0, rotation).unwrap();
        let mut lines = Lines::new("stderr");
        let mut input = vec![b'x'; limits::LOG_LINE_BYTES_MAX + 5];
        input.push(b'\n');
        lines.push(&input, at(), &mut file);
        let text = fs::read_to_string(dir.path().join("0.log")).unwrap();
        let tags: Vec<(&str, usize)> = text
            .lines()
            .map(|line| line.splitn(4, ' ').collect::<Vec<_>>())
            .map(|fields| (fields[2], fields[3].len()))
            .collect();
        assert_eq!(tags, [("P", limits::LOG_LINE_BYTES_MAX), ("F", 5)]);
    }

    #[test]
    fn a_line_of_exactly_the_bound_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let rotation = Rotation { file_bytes_max: 1 << 20, files_max: 2 };
        let mut file = LogFile::open(dir.path(), 0, rotation).unwrap();
        let mut lines = Lines::new("stdout");
        lines.push(&vec![b'x'; limits::LOG_LINE_BYTES_MAX], at(), &mut file);
        lines.push(b"\n", at(), &mut file);
        let text = fs::read_to_string(dir.path().join("0.log")).unwrap();
        assert_eq!(text.lines().count(), 1);
        assert!(text.contains(" F x"));
    }

    #[test]
    fn a_full_file_is_rotated_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = LogFile::open(dir.path(), 2, SMALL).unwrap();
        let mut lines = Lines::new("stdout");
        for n in 0..20 {
            lines.push(format!("line {n:02}\n").as_bytes(), at(), &mut file);
        }
        let files = files_of(dir.path(), false).unwrap();
        let names: Vec<_> = files.iter().map(|p| p.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["2.log", "2.log.1", "2.log.2"]);
        let all: String = files.iter().rev().map(|p| fs::read_to_string(p).unwrap()).collect();
        assert!(files.iter().all(|p| fs::metadata(p).unwrap().len() <= SMALL.file_bytes_max));
        assert!(all.ends_with("line 19\n") && !all.contains("line 00"));
        let numbers: Vec<&str> = all.lines().map(|l| l.rsplit(' ').next().unwrap()).collect();
        assert!(numbers.is_sorted(), "nothing is lost in between: {numbers:?}");
    }

    #[test]
    fn the_previous_instance_keeps_its_logs_and_the_one_before_it_does_not() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..3 {
            drop(LogFile::open(dir.path(), n, SMALL).unwrap());
        }
        assert_eq!(files_of(dir.path(), false).unwrap(), [dir.path().join("2.log")]);
        assert_eq!(files_of(dir.path(), true).unwrap(), [dir.path().join("1.log")]);
        assert!(!dir.path().join("0.log").exists());
        fs::write(dir.path().join("0.log.1"), "of an earlier daemon\n").unwrap();
        fs::write(dir.path().join("0.log"), "of an earlier daemon\n").unwrap();
        drop(LogFile::open(dir.path(), 0, SMALL).unwrap());
        assert!(files_of(dir.path(), true).unwrap().is_empty(), "an earlier daemon's instances are gone");
        let files = files_of(dir.path(), false).unwrap();
        assert_eq!(files, [dir.path().join("0.log")]);
        assert_eq!(fs::metadata(&files[0]).unwrap().len(), 0, "and its output with them");
    }

    #[test]
    fn a_name_cannot_leave_the_logs_directory() {
        assert_eq!(component("default_web_1-2"), "default_web_1-2");
        for name in ["", "..", ".", "a/b", "../../etc", &"x".repeat(300)] {
            let one = component(name);
            assert!(!one.contains('/') && !one.starts_with('.') && one.len() < 255, "{name} -> {one}");
        }
        assert_ne!(component("a/b"), component("ab/"));
    }
}
