//! A container's log files as one stream of what it wrote: the CRI log format (`<time> stdout|stderr F|P <text>`)
//! taken off, oldest first, and on request followed over rotations and restarts.
//!
//! Reading blocks, so each stream has a thread of tokio's blocking pool; bound: [`limits::API_LOG_STREAMS_MAX`].

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::limits;

/// How often a followed log is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A line longer than this is passed on in pieces, as it is.
const LINE_BYTES_MAX: usize = 256 * 1024;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    /// Go on with what is written.
    pub(super) follow: bool,
    /// Only the last lines, this many.
    pub(super) tail_lines_count: Option<u64>,
}

/// Where a stream goes, and whether anyone still wants it.
pub(super) trait Sink {
    /// Hands on a part; `false` once nobody listens.
    fn send(&mut self, part: Vec<u8>) -> bool;

    /// Nobody listens any more, or the log's pod is gone.
    fn is_over(&mut self) -> bool;
}

/// Reads the files that `files` names (newest first; asked again and again while following) to `sink`. Blocks.
pub(super) fn stream(
    mut files: impl FnMut() -> io::Result<Vec<PathBuf>>,
    options: Options,
    sink: &mut impl Sink,
) -> io::Result<()> {
    let mut open = open_all(&files()?)?;
    let mut text = Text::default();
    if let Some(tail) = options.tail_lines_count {
        let mut lines_count = 0;
        for file in &mut open {
            lines_count += file.lines_count()?;
        }
        text.skip_lines = lines_count.saturating_sub(tail);
    }
    let mut newest = None;
    for file in open {
        newest = Some(file);
        if let Some(file) = &mut newest
            && !copy(file, &mut text, sink)?
        {
            return Ok(());
        }
    }
    while options.follow && !sink.is_over() {
        std::thread::sleep(LOOK_EVERY);
        // First look which files there are, then read on: what was written to the old file before it was
        // rotated is then read from it.
        let later = later_files(&files()?, newest.as_ref())?;
        if let Some(file) = &mut newest
            && !copy(file, &mut text, sink)?
        {
            return Ok(());
        }
        for file in later {
            newest = Some(file);
            if let Some(file) = &mut newest
                && !copy(file, &mut text, sink)?
            {
                return Ok(());
            }
        }
    }
    text.finish();
    if !text.out.is_empty() {
        sink.send(text.out);
    }
    Ok(())
}

/// An open log file, known by its place in the file system and not by its name, which changes.
struct LogFile {
    file: File,
    identity: (u64, u64),
}

impl LogFile {
    fn lines_count(&mut self) -> io::Result<u64> {
        let mut chunk = vec![0; limits::API_LOG_PART_BYTES];
        let mut counter = Text::default();
        loop {
            let read = self.file.read(&mut chunk)?;
            if read == 0 {
                break;
            }
            counter.push(&chunk[..read]);
            counter.out.clear();
        }
        counter.finish();
        self.file.seek(SeekFrom::Start(0))?;
        Ok(counter.lines_count)
    }
}

/// The files, oldest first; those that were rotated away meanwhile are left out.
fn open_all(newest_first: &[PathBuf]) -> io::Result<Vec<LogFile>> {
    let mut open = Vec::with_capacity(newest_first.len());
    for path in newest_first.iter().rev() {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        open.push(LogFile { file, identity: (metadata.dev(), metadata.ino()) });
    }
    Ok(open)
}

/// The files that are newer than the one being read, oldest first: all where that one is gone.
fn later_files(newest_first: &[PathBuf], reading: Option<&LogFile>) -> io::Result<Vec<LogFile>> {
    let mut open = open_all(newest_first)?;
    if let Some(reading) = reading
        && let Some(place) = open.iter().position(|f| f.identity == reading.identity)
    {
        open.drain(..=place);
    }
    Ok(open)
}

/// To the file's present end; `false` once nobody listens.
fn copy(file: &mut LogFile, text: &mut Text, sink: &mut impl Sink) -> io::Result<bool> {
    let mut chunk = vec![0; limits::API_LOG_PART_BYTES];
    loop {
        let read = file.file.read(&mut chunk)?;
        if read > 0 {
            text.push(&chunk[..read]);
        }
        if !text.out.is_empty() && !sink.send(std::mem::take(&mut text.out)) {
            return Ok(false);
        }
        if read == 0 {
            return Ok(true);
        }
    }
}

/// Takes the CRI format off.
#[derive(Default)]
struct Text {
    /// The beginning of a line of the file.
    begun: Vec<u8>,
    /// What the container wrote, ready to be sent.
    out: Vec<u8>,
    /// Whole lines of the container still to be left out.
    skip_lines: u64,
    /// Whole lines of the container seen.
    lines_count: u64,
}

impl Text {
    fn push(&mut self, mut chunk: &[u8]) {
        while let Some(end) = chunk.iter().position(|b| *b == b'\n') {
            let (line, rest) = (&chunk[..end], &chunk[end + 1..]);
            chunk = rest;
            if self.begun.is_empty() {
                self.line(line);
            } else {
                self.begun.extend_from_slice(line);
                let whole = std::mem::take(&mut self.begun);
                self.line(&whole);
            }
        }
        self.begun.extend_from_slice(chunk);
        if self.begun.len() > LINE_BYTES_MAX {
            let piece = std::mem::take(&mut self.begun);
            self.emit(&piece);
        }
    }

    /// A line without its end is passed on at the end of the stream.
    fn finish(&mut self) {
        if !self.begun.is_empty() {
            let line = std::mem::take(&mut self.begun);
            self.line(&line);
        }
    }

    fn line(&mut self, line: &[u8]) {
        let (text, is_whole) = match cri(line) {
            Some((text, is_whole)) => (text, is_whole),
            None => (line, true),
        };
        self.emit(text);
        if !is_whole {
            return;
        }
        self.emit(b"\n");
        self.lines_count += 1;
        self.skip_lines = self.skip_lines.saturating_sub(1);
    }

    fn emit(&mut self, text: &[u8]) {
        if self.skip_lines == 0 {
            self.out.extend_from_slice(text);
        }
    }
}

/// The text of a line in the CRI format, and whether the container ended the line there.
fn cri(line: &[u8]) -> Option<(&[u8], bool)> {
    let mut fields = line.splitn(4, |b| *b == b' ');
    let (time, stream, tag) = (fields.next()?, fields.next()?, fields.next()?);
    let is_cri = time.contains(&b'T') && matches!(stream, b"stdout" | b"stderr");
    let is_whole = match tag {
        b"F" => true,
        b"P" => false,
        _ => return None,
    };
    is_cri.then(|| (fields.next().unwrap_or_default(), is_whole))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::path::Path;

    const TIME: &str = "2025-01-02T03:04:05.000000006Z";

    fn write(path: &Path, lines: &[&str]) {
        let mut file = File::options().append(true).create(true).open(path).expect("open");
        for line in lines {
            writeln!(file, "{TIME} stdout F {line}").expect("write");
        }
    }

    /// Gathers, lets a step happen at each look, and ends after the last step.
    struct Script<'a> {
        got: Vec<u8>,
        steps: Vec<Box<dyn FnMut() + 'a>>,
        idle_looks: u32,
    }

    impl Sink for Script<'_> {
        fn send(&mut self, part: Vec<u8>) -> bool {
            self.got.extend(part);
            true
        }

        fn is_over(&mut self) -> bool {
            if self.steps.is_empty() {
                self.idle_looks += 1;
                return self.idle_looks > 1;
            }
            self.steps.remove(0)();
            false
        }
    }

    fn read(files: Vec<PathBuf>, tail: Option<u64>) -> String {
        let mut sink = Script { got: Vec::new(), steps: Vec::new(), idle_looks: 0 };
        let options = Options { follow: false, tail_lines_count: tail };
        stream(|| Ok(files.clone()), options, &mut sink).expect("stream");
        String::from_utf8(sink.got).expect("utf-8")
    }

    #[test]
    fn rotated_files_are_one_text_and_a_tail_counts_over_them() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (new, old) = (dir.path().join("0.log"), dir.path().join("0.log.1"));
        write(&old, &["one", "two"]);
        write(&new, &["three", "four"]);
        let files = vec![new, old];
        assert_eq!(read(files.clone(), None), "one\ntwo\nthree\nfour\n");
        assert_eq!(read(files.clone(), Some(3)), "two\nthree\nfour\n");
        assert_eq!(read(files.clone(), Some(0)), "");
        assert_eq!(read(files, Some(99)), "one\ntwo\nthree\nfour\n");
    }

    #[test]
    fn partial_lines_are_put_together_and_count_as_one() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("0.log");
        let text = format!("{TIME} stdout F a\n{TIME} stderr P long \n{TIME} stderr F line\nnot cri\n");
        std::fs::write(&path, text).expect("write");
        assert_eq!(read(vec![path.clone()], None), "a\nlong line\nnot cri\n");
        assert_eq!(read(vec![path], Some(2)), "long line\nnot cri\n");
    }

    #[test]
    fn a_followed_log_goes_on_over_a_rotation_and_a_restart() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = |name: &str| dir.path().join(name);
        write(&path("0.log"), &["a"]);
        let steps: Vec<Box<dyn FnMut()>> = vec![
            Box::new(|| write(&path("0.log"), &["b"])),
            Box::new(|| {
                write(&path("0.log"), &["c"]);
                std::fs::rename(path("0.log"), path("0.log.1")).expect("rename");
                write(&path("0.log"), &["d"]);
            }),
            Box::new(|| write(&path("1.log"), &["e"])),
        ];
        let files = || {
            if path("1.log").exists() {
                return Ok(vec![path("1.log")]);
            }
            let all = [path("0.log"), path("0.log.1")];
            Ok(all.into_iter().filter(|p| p.exists()).collect())
        };
        let mut sink = Script { got: Vec::new(), steps, idle_looks: 0 };
        let options = Options { follow: true, tail_lines_count: None };
        stream(files, options, &mut sink).expect("stream");
        assert_eq!(String::from_utf8(sink.got).expect("utf-8"), "a\nb\nc\nd\ne\n");
    }
}
