//! Sans-I/O HTTP/1.1 response codec: bytes in, status and the first 10 KiB of the body out.
//!
//! It reads one response to one GET on one connection that is closed afterwards, with the verdicts of Go's
//! `net/http` (`response.go`, `transfer.go`, `internal/chunked.go`), which the kubelet probes with.
//!
//! Bounds: [`HTTP_HEAD_BYTES_MAX`], [`HTTP_HEADERS_MAX`], [`HTTP_INTERIM_MAX`], [`HTTP_BODY_BYTES_MAX`],
//! [`CHUNK_LINE_BYTES_MAX`] and [`CHUNK_EXCESS_BYTES_MAX`]. **Invariant:** the result depends on the bytes only, never on how they were split.

use crate::limits::{HTTP_BODY_BYTES_MAX, HTTP_HEAD_BYTES_MAX, HTTP_HEADERS_MAX, HTTP_INTERIM_MAX};

use super::quote::quoted;

/// Bytes of one chunk-size or trailer line (Go's `maxLineLength`). More: the attempt fails in its body.
pub const CHUNK_LINE_BYTES_MAX: usize = 4_096;

/// Bytes of chunk-size lines (their extensions, that is) beyond 16 a chunk and two for each byte of its data (Go's
/// `chunkedReader`). More: the attempt fails in its body; else 10 KiB of body could be 40 MiB to read.
pub const CHUNK_EXCESS_BYTES_MAX: u64 = 16 * 1024;

/// Whether a response is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More bytes, or the end of the connection, must come.
    NeedMore,
    /// All that is wanted is there; the rest, if any, need not be read.
    Done,
}

/// Why a response cannot be understood. The texts are Go's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Before the final head was complete: a transport failure (a Failure, `prober.go`).
    #[error(transparent)]
    Head(#[from] HeadFault),
    /// In the body: the attempt is discarded (rule 2.7).
    #[error(transparent)]
    Body(#[from] BodyFault),
}

impl Error {
    /// Whether it happened before the head was complete.
    #[must_use]
    pub const fn in_head(&self) -> bool {
        matches!(self, Error::Head(_))
    }
}

/// A head that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadFault {
    /// The peer closed without a byte.
    #[error("EOF")]
    Eof,
    /// The peer closed within a head.
    #[error("net/http: HTTP/1.x transport connection broken: unexpected EOF")]
    UnexpectedEof,
    /// The first line is no status line.
    #[error("net/http: HTTP/1.x transport connection broken: malformed HTTP response {}", quoted(.0))]
    StatusLine(Box<[u8]>),
    /// The first line has no known kind of version.
    #[error("net/http: HTTP/1.x transport connection broken: malformed HTTP version {}", quoted(.0))]
    Version(Box<[u8]>),
    /// The first line has no three-digit status code.
    #[error("net/http: HTTP/1.x transport connection broken: malformed HTTP status code {}", quoted(.0))]
    StatusCode(Box<[u8]>),
    /// A header line cannot be read.
    #[error("net/http: HTTP/1.x transport connection broken: malformed MIME header: {0}")]
    Header(httparse::Error),
    /// More than [`HTTP_HEADERS_MAX`] fields.
    #[error("net/http: server response headers exceeded {HTTP_HEADERS_MAX} fields; aborted")]
    TooManyHeaders,
    /// More than [`HTTP_HEAD_BYTES_MAX`] bytes.
    #[error("net/http: server response headers exceeded {HTTP_HEAD_BYTES_MAX} bytes; aborted")]
    TooLong,
    /// More than [`HTTP_INTERIM_MAX`] interim responses.
    #[error("net/http: too many 1xx informational responses")]
    TooManyInterim,
    /// `Content-Length` is no number (RFC 9112, 6.3).
    #[error("net/http: HTTP/1.x transport connection broken: bad Content-Length {}", quoted(.0))]
    ContentLength(Box<[u8]>),
    /// Several `Content-Length` that differ (RFC 9112, 6.3).
    #[error(
        "net/http: HTTP/1.x transport connection broken: http: message cannot contain multiple Content-Length headers"
    )]
    ContentLengthConflict,
    /// A transfer encoding that is not exactly `chunked`.
    #[error("net/http: HTTP/1.x transport connection broken: unsupported transfer encoding: {}", quoted(.0))]
    TransferEncoding(Box<[u8]>),
}

/// A body that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyFault {
    /// The peer closed before the announced end.
    #[error("unexpected EOF")]
    UnexpectedEof,
    /// A chunk size that is no hexadecimal number, or too large.
    #[error("invalid byte in chunk length")]
    ChunkSize,
    /// A chunk's data is not followed by a line end.
    #[error("malformed chunked encoding")]
    ChunkEnd,
    /// A chunk-size or trailer line above [`CHUNK_LINE_BYTES_MAX`].
    #[error("header line too long")]
    LineTooLong,
    /// Chunk extensions above [`CHUNK_EXCESS_BYTES_MAX`] in all.
    #[error("chunked encoding contains too much non-data")]
    ChunkExcess,
    /// Trailers above [`HTTP_HEAD_BYTES_MAX`] in all.
    #[error("http: suspiciously long trailer after chunked body")]
    TrailerTooLong,
}

/// One response, while and after it is read. [`Response::reset`] readies it for another one, its buffers kept.
#[derive(Debug)]
pub struct Response {
    state: State,
    /// The head being read, where it came in pieces.
    head: Vec<u8>,
    first_line_checked: bool,
    interim: usize,
    status: u16,
    location: Option<Box<str>>,
    body: Vec<u8>,
    /// The chunk-size or trailer line being read.
    line: Vec<u8>,
    /// See [`CHUNK_EXCESS_BYTES_MAX`].
    chunk_excess: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Head,
    Length(u64),
    UntilClose,
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    /// Bytes of trailers so far.
    Trailer(usize),
    Done,
    Failed(Error),
}

impl Default for Response {
    fn default() -> Self {
        Self::new()
    }
}

impl Response {
    /// Nothing read yet. Allocates nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            state: State::Head,
            head: Vec::new(),
            first_line_checked: false,
            interim: 0,
            status: 0,
            location: None,
            body: Vec::new(),
            line: Vec::new(),
            chunk_excess: 0,
        }
    }

    /// As [`Response::new`], with the buffers kept.
    pub fn reset(&mut self) {
        self.state = State::Head;
        self.head.clear();
        self.first_line_checked = false;
        self.interim = 0;
        self.status = 0;
        self.location = None;
        self.body.clear();
        self.line.clear();
        self.chunk_excess = 0;
    }

    /// Takes the next bytes. After `Done` further bytes are ignored; after an error the same error comes again.
    ///
    /// # Errors
    /// What the bytes break, see [`Error`].
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Progress, Error> {
        let mut rest = bytes;
        match self.advance(&mut rest) {
            Ok(progress) => Ok(progress),
            Err(error) => {
                self.state = State::Failed(error.clone());
                Err(error)
            }
        }
    }

    /// The peer has closed.
    ///
    /// # Errors
    /// Where the response is not complete without more bytes.
    pub fn feed_eof(&mut self) -> Result<(), Error> {
        let error = match &self.state {
            State::Done => return Ok(()),
            State::UntilClose => {
                self.state = State::Done;
                return Ok(());
            }
            State::Failed(error) => error.clone(),
            State::Head => Error::Head(self.eof_in_head()),
            State::Length(_) | State::ChunkSize | State::ChunkData(_) | State::ChunkEnd | State::Trailer(_) => {
                Error::Body(BodyFault::UnexpectedEof)
            }
        };
        self.state = State::Failed(error.clone());
        Err(error)
    }

    /// Status code of the final response; 0 until its head is complete.
    #[must_use]
    pub const fn status(&self) -> u16 {
        self.status
    }

    /// The first `Location` field of the final response, if there is one that is not empty.
    #[must_use]
    pub fn location(&self) -> Option<&str> {
        self.location.as_deref()
    }

    /// The body so far, at most [`HTTP_BODY_BYTES_MAX`] bytes.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Whether the final head is complete: status and location are known.
    #[must_use]
    pub const fn head_done(&self) -> bool {
        self.status != 0
    }

    /// Whether anything has been received at all.
    #[must_use]
    pub fn started(&self) -> bool {
        self.head_done() || self.interim > 0 || !self.head.is_empty()
    }

    fn advance(&mut self, rest: &mut &[u8]) -> Result<Progress, Error> {
        loop {
            match &self.state {
                State::Done => return Ok(Progress::Done),
                State::Failed(error) => return Err(error.clone()),
                _ if rest.is_empty() => return Ok(Progress::NeedMore),
                State::Head => self.take_head(rest)?,
                State::Length(left) => {
                    let left = self.take_data(rest, *left);
                    self.state = self.data_state(left == 0, State::Done, State::Length(left));
                }
                State::UntilClose => {
                    self.take_data(rest, u64::MAX);
                    self.state = self.data_state(false, State::Done, State::UntilClose);
                }
                State::ChunkData(left) => {
                    let left = self.take_data(rest, *left);
                    self.state = self.data_state(left == 0, State::ChunkEnd, State::ChunkData(left));
                }
                State::ChunkSize => {
                    if self.take_line(rest)? {
                        self.state = self.chunk_state()?;
                    }
                }
                State::ChunkEnd => {
                    if self.take_line(rest).map_err(|_| BodyFault::ChunkEnd)? {
                        if !trim_line_end(&self.line).is_empty() {
                            return Err(BodyFault::ChunkEnd.into());
                        }
                        self.state = State::ChunkSize;
                    } else if !matches!(self.line.as_slice(), [] | [b'\r']) {
                        return Err(BodyFault::ChunkEnd.into());
                    }
                }
                State::Trailer(bytes) => {
                    let bytes = *bytes;
                    if self.take_line(rest)? {
                        self.state = self.trailer_state(bytes)?;
                    }
                }
            }
        }
    }

    /// Reads towards the end of the head; when it is there, interprets it.
    fn take_head(&mut self, rest: &mut &[u8]) -> Result<(), Error> {
        let bytes = *rest;
        if self.head.is_empty() {
            // Almost always the whole head comes at once, and no copy is needed.
            self.check_first_line(bytes, 0)?;
            if let Some(len) = head_len(bytes, 0) {
                *rest = &bytes[len..];
                return self.finish_head(&bytes[..len]);
            }
        }
        let before = self.head.len();
        self.head.extend_from_slice(bytes);
        let mut head = std::mem::take(&mut self.head);
        *rest = &[];
        self.check_first_line(&head, before)?;
        let Some(len) = head_len(&head, before) else {
            if head.len() > HTTP_HEAD_BYTES_MAX {
                return Err(HeadFault::TooLong.into());
            }
            self.head = head;
            return Ok(());
        };
        *rest = &bytes[len - before..];
        self.finish_head(&head[..len])?;
        head.clear();
        self.head = head;
        Ok(())
    }

    /// A first line that is no status line is refused as soon as it is there: a server of another protocol may
    /// never send an empty line. The first `scanned` bytes are known to hold no line end.
    fn check_first_line(&mut self, head: &[u8], scanned: usize) -> Result<(), Error> {
        if !self.first_line_checked
            && let Some(at) = head[scanned..].iter().position(|b| *b == b'\n')
        {
            let end = scanned + at;
            if end >= HTTP_HEAD_BYTES_MAX {
                return Err(HeadFault::TooLong.into());
            }
            StatusLine::parse(trim_line_end(&head[..=end]))?;
            self.first_line_checked = true;
        }
        Ok(())
    }

    fn finish_head(&mut self, head: &[u8]) -> Result<(), Error> {
        if head.len() > HTTP_HEAD_BYTES_MAX {
            return Err(HeadFault::TooLong.into());
        }
        self.first_line_checked = false;
        let (first, fields) = split_first_line(head);
        let line = StatusLine::parse(first)?;
        if (100..200).contains(&line.code) && line.code != 101 {
            parse_fields(fields, |_, _| ())?;
            self.interim += 1;
            if self.interim > HTTP_INTERIM_MAX {
                return Err(HeadFault::TooManyInterim.into());
            }
            return Ok(());
        }
        let mut framing = Framing::default();
        let mut location = None;
        parse_fields(fields, |name, value| {
            framing.take(name, value);
            if location.is_none() && name.eq_ignore_ascii_case("location") {
                location = Some(String::from_utf8_lossy(value).into_owned());
            }
        })?;
        self.state = framing.state(&line)?;
        self.status = line.code;
        self.location = location.filter(|text| !text.is_empty()).map(String::into_boxed_str);
        Ok(())
    }

    /// Moves at most `left` bytes of data to the body, as far as the body has room; returns what is then left.
    fn take_data(&mut self, rest: &mut &[u8], left: u64) -> u64 {
        let room = HTTP_BODY_BYTES_MAX - self.body.len();
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(room);
        let (data, after) = rest.split_at(rest.len().min(wanted));
        self.body.extend_from_slice(data);
        *rest = after;
        left - data.len() as u64
    }

    /// The state after data: a full body ends the reading (`pkg/probe/http`, `ReadAtMost`).
    fn data_state(&self, over: bool, after: State, more: State) -> State {
        if self.body.len() == HTTP_BODY_BYTES_MAX {
            State::Done
        } else if over {
            after
        } else {
            more
        }
    }

    /// Reads up to and with the next LF into `line`; true when it is there.
    fn take_line(&mut self, rest: &mut &[u8]) -> Result<bool, BodyFault> {
        if self.line.last() == Some(&b'\n') {
            self.line.clear();
        }
        let end = rest.iter().position(|b| *b == b'\n').map(|at| at + 1);
        let (part, after) = rest.split_at(end.unwrap_or(rest.len()));
        *rest = after;
        if self.line.len() + part.len() > CHUNK_LINE_BYTES_MAX {
            return Err(BodyFault::LineTooLong);
        }
        self.line.extend_from_slice(part);
        Ok(end.is_some())
    }

    fn chunk_state(&mut self) -> Result<State, BodyFault> {
        // The line, and the line end behind the data.
        let overhead = self.line.len() as u64 + 2;
        let len = trim_line_end(&self.line).len();
        self.line.truncate(len);
        self.line.extend_from_slice(b"\r\n");
        match httparse::parse_chunk_size(&self.line) {
            Ok(httparse::Status::Complete((_, 0))) => Ok(State::Trailer(0)),
            Ok(httparse::Status::Complete((_, size))) => {
                let allowed = size.saturating_mul(2).saturating_add(16);
                self.chunk_excess = (self.chunk_excess + overhead).saturating_sub(allowed);
                if self.chunk_excess > CHUNK_EXCESS_BYTES_MAX {
                    return Err(BodyFault::ChunkExcess);
                }
                Ok(State::ChunkData(size))
            }
            Ok(httparse::Status::Partial) | Err(_) => Err(BodyFault::ChunkSize),
        }
    }

    fn trailer_state(&self, bytes: usize) -> Result<State, BodyFault> {
        if trim_line_end(&self.line).is_empty() {
            return Ok(State::Done);
        }
        let bytes = bytes + self.line.len();
        if bytes > HTTP_HEAD_BYTES_MAX {
            return Err(BodyFault::TrailerTooLong);
        }
        Ok(State::Trailer(bytes))
    }

    fn eof_in_head(&self) -> HeadFault {
        if !self.started() {
            return HeadFault::Eof;
        }
        // What came without a line end counts as a line: a TLS alert shows itself as what it is.
        if !self.head.is_empty()
            && !self.first_line_checked
            && let Err(fault) = StatusLine::parse(trim_line_end(&self.head))
        {
            return fault;
        }
        HeadFault::UnexpectedEof
    }
}

/// What of the status line matters.
struct StatusLine {
    code: u16,
    /// HTTP/1.1 or later: transfer encodings exist.
    has_encodings: bool,
}

impl StatusLine {
    /// `line` is without its end.
    fn parse(line: &[u8]) -> Result<StatusLine, HeadFault> {
        let Some(space) = line.iter().position(|b| *b == b' ') else {
            return Err(HeadFault::StatusLine(bounded(line)));
        };
        let (version, status) = line.split_at(space);
        let status = status.trim_ascii_start();
        let code = status.split(|b| *b == b' ').next().unwrap_or_default();
        let code = match code {
            [a, b, c] if code.iter().all(u8::is_ascii_digit) => {
                u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0')
            }
            _ => return Err(HeadFault::StatusCode(bounded(code))),
        };
        match version {
            // 0 is "no head yet" here, and nothing to any server.
            [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
                if major.is_ascii_digit() && minor.is_ascii_digit() && code > 0 =>
            {
                Ok(StatusLine { code, has_encodings: (*major, *minor) >= (b'1', b'1') })
            }
            _ if code == 0 => Err(HeadFault::StatusCode(bounded(b"000"))),
            _ => Err(HeadFault::Version(bounded(version))),
        }
    }
}

/// What says how long the body is (RFC 9112, 6.3).
#[derive(Default)]
struct Framing {
    length: Option<Box<[u8]>>,
    conflict: bool,
    encoding: Option<Box<[u8]>>,
}

impl Framing {
    fn take(&mut self, name: &str, value: &[u8]) {
        if name.eq_ignore_ascii_case("content-length") {
            let value = value.trim_ascii();
            match &self.length {
                Some(earlier) => self.conflict |= **earlier != *value,
                None => self.length = Some(value.into()),
            }
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            self.encoding = Some(match self.encoding.take() {
                Some(earlier) => [&earlier, &b", "[..], value].concat().into(),
                None => value.into(),
            });
        }
    }

    /// The state to read the body in. As in Go, `chunked` wins over a length.
    fn state(self, line: &StatusLine) -> Result<State, HeadFault> {
        let chunked = match self.encoding {
            Some(encoding) if line.has_encodings => {
                if !encoding.eq_ignore_ascii_case(b"chunked") {
                    return Err(HeadFault::TransferEncoding(bounded(&encoding)));
                }
                true
            }
            _ => false,
        };
        if self.conflict && !chunked {
            return Err(HeadFault::ContentLengthConflict);
        }
        if matches!(line.code, 101 | 204 | 304) {
            return Ok(State::Done);
        }
        if chunked {
            return Ok(State::ChunkSize);
        }
        match self.length {
            None => Ok(State::UntilClose),
            Some(text) => match parse_length(&text) {
                Some(0) => Ok(State::Done),
                Some(length) => Ok(State::Length(length)),
                None => Err(HeadFault::ContentLength(bounded(&text))),
            },
        }
    }
}

fn parse_length(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let length: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    u64::try_from(length).ok()
}

/// Header fields, up to and with the empty line.
fn parse_fields(fields: &[u8], mut each: impl FnMut(&str, &[u8])) -> Result<(), HeadFault> {
    let unfolded;
    let fields = match unfold(fields) {
        Some(copy) => {
            unfolded = copy;
            &unfolded[..]
        }
        None => fields,
    };
    let mut headers = [httparse::EMPTY_HEADER; HTTP_HEADERS_MAX];
    match httparse::parse_headers(fields, &mut headers) {
        Ok(httparse::Status::Complete((_, headers))) => {
            for header in headers {
                each(header.name, header.value);
            }
            Ok(())
        }
        // The end of the head was found before, so the fields cannot be incomplete.
        Ok(httparse::Status::Partial) => Err(HeadFault::Header(httparse::Error::NewLine)),
        Err(httparse::Error::TooManyHeaders) => Err(HeadFault::TooManyHeaders),
        Err(error) => Err(HeadFault::Header(error)),
    }
}

/// Joins folded lines (RFC 9112, 5.2: obsolete, but Go reads them); `None` where there are none.
fn unfold(fields: &[u8]) -> Option<Vec<u8>> {
    let folded = |at: usize| fields[at] == b'\n' && at > 1 && matches!(fields.get(at + 1), Some(b' ' | b'\t'));
    (0..fields.len()).find(|at| folded(*at))?;
    let mut copy = fields.to_vec();
    for at in 0..fields.len() {
        if folded(at) {
            copy[at] = b' ';
            if fields[at - 1] == b'\r' {
                copy[at - 1] = b' ';
            }
        }
    }
    Some(copy)
}

/// Length of the head with its empty line, if that is there. The first `scanned` bytes are known not to hold it.
fn head_len(bytes: &[u8], scanned: usize) -> Option<usize> {
    let from = scanned.saturating_sub(2);
    let end = |at: usize| match bytes[at..] {
        [b'\n', b'\n', ..] => Some(at + 2),
        [b'\n', b'\r', b'\n', ..] => Some(at + 3),
        _ => None,
    };
    (from..bytes.len()).filter(|at| bytes[*at] == b'\n').find_map(end)
}

fn split_first_line(head: &[u8]) -> (&[u8], &[u8]) {
    let end = head.iter().position(|b| *b == b'\n').map_or(head.len(), |at| at + 1);
    let (first, fields) = head.split_at(end);
    (trim_line_end(first), fields)
}

fn trim_line_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// As much of foreign text as an error needs to keep to be shown.
fn bounded(text: &[u8]) -> Box<[u8]> {
    text[..text.len().min(super::quote::QUOTED_BYTES_MAX + 1)].into()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// What a response came to: status, location, body, or the error.
    type Came = Result<(u16, Option<String>, Vec<u8>), Error>;

    fn read(parts: &[&[u8]]) -> Came {
        let mut response = Response::new();
        let mut done = false;
        for part in parts {
            done = response.feed(part)? == Progress::Done;
        }
        if !done {
            response.feed_eof()?;
        }
        let location = response.location().map(str::to_owned);
        Ok((response.status(), location, response.body().to_vec()))
    }

    fn body_of(text: &str) -> Vec<u8> {
        read(&[text.as_bytes()]).expect("a valid response").2
    }

    fn fault(text: &[u8]) -> String {
        read(&[text]).expect_err("a broken response").to_string()
    }

    #[test]
    fn a_body_is_as_long_as_its_length_says() {
        assert_eq!(body_of("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef"), b"abc");
        assert_eq!(body_of("HTTP/1.0 200\n\nuntil close"), b"until close");
        assert_eq!(body_of("HTTP/1.1 200 OK\r\nContent-Length: 1\r\ncontent-length: 1\r\n\r\na"), b"a");
    }

    #[test]
    fn chunks_extensions_and_trailers_are_read() {
        let text = "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nContent-Length: 1\r\n\r\n\
                    3;a=\"b\"\r\nabc\r\n0A\r\n0123456789\r\n0\r\nX: y\r\n\r\nrest";
        assert_eq!(body_of(text), b"abc0123456789");
    }

    #[test]
    fn some_statuses_have_no_body() {
        for code in [101, 204, 304] {
            let text = format!("HTTP/1.1 {code} x\r\nContent-Length: 5\r\n\r\n");
            assert_eq!(read(&[text.as_bytes()]), Ok((code, None, vec![])));
        }
    }

    #[test]
    fn interim_responses_are_skipped_up_to_their_bound() {
        let interim = "HTTP/1.1 100 Continue\r\nX: 1\r\n\r\n";
        let last = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        let text = interim.repeat(HTTP_INTERIM_MAX) + last;
        assert_eq!(read(&[text.as_bytes()]).map(|r| r.0), Ok(200));
        let text = interim.repeat(HTTP_INTERIM_MAX + 1) + last;
        assert_eq!(read(&[text.as_bytes()]), Err(HeadFault::TooManyInterim.into()));
    }

    #[test]
    fn ten_kibibytes_are_enough_however_the_rest_is_framed() {
        let long = "x".repeat(HTTP_BODY_BYTES_MAX + 5);
        for framing in [
            format!("Content-Length: 99999999\r\n\r\n{long}"),
            format!("Transfer-Encoding: chunked\r\n\r\nffffff\r\n{long}"),
            format!("\r\n{long}"),
        ] {
            let mut response = Response::new();
            let text = format!("HTTP/1.1 200 OK\r\n{framing}");
            assert_eq!(response.feed(text.as_bytes()), Ok(Progress::Done));
            assert_eq!(response.body().len(), HTTP_BODY_BYTES_MAX);
        }
    }

    #[test]
    fn location_is_the_first_one_that_is_sent() {
        let text = b"HTTP/1.1 302 x\r\nlocation: /a\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(read(&[text]), Ok((302, Some("/a".to_owned()), vec![])));
        let text = b"HTTP/1.1 302 x\r\nLocation:\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(read(&[text]), Ok((302, None, vec![])));
    }

    #[test]
    fn folded_header_lines_are_joined() {
        let text = b"HTTP/1.1 200 x\r\nX: a\r\n b\r\nContent-Length:\r\n\t2\r\n\r\nab";
        assert_eq!(read(&[text]), Ok((200, None, b"ab".to_vec())));
    }

    #[test]
    fn broken_heads_have_gos_words() {
        let broken = "net/http: HTTP/1.x transport connection broken: ";
        for (text, want) in [
            (&b""[..], "EOF".to_owned()),
            (b"HTTP/1.1 200 OK\r\n", format!("{broken}unexpected EOF")),
            (b"HTTP/1.1 100 x\r\n\r\n", format!("{broken}unexpected EOF")),
            (
                b"\x15\x03\x01\x00\x02\x02\x16",
                format!("{broken}malformed HTTP response {}", r#""\x15\x03\x01\x00\x02\x02\x16""#),
            ),
            (b"\r\n", format!("{broken}malformed HTTP response \"\"")),
            (b"SSH-2.0-x y\r\n", format!("{broken}malformed HTTP status code \"y\"")),
            (b"SSH-2.0 200\r\n", format!("{broken}malformed HTTP version \"SSH-2.0\"")),
            (b"HTTP/1.1 20 x\r\n", format!("{broken}malformed HTTP status code \"20\"")),
            (
                b"HTTP/1.1 200 x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
                format!("{broken}http: message cannot contain multiple Content-Length headers"),
            ),
            (b"HTTP/1.1 200 x\r\nContent-Length: -1\r\n\r\n", format!("{broken}bad Content-Length \"-1\"")),
            (
                b"HTTP/1.1 200 x\r\nContent-Length: 99999999999999999999\r\n\r\n",
                format!("{broken}bad Content-Length \"99999999999999999999\""),
            ),
            (
                b"HTTP/1.1 200 x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
                format!("{broken}unsupported transfer encoding: \"gzip, chunked\""),
            ),
            (b"HTTP/1.1 200 x\r\nX y: 1\r\n\r\n", format!("{broken}malformed MIME header: invalid header name")),
        ] {
            assert_eq!(fault(text), want);
            assert!(read(&[text]).expect_err("broken").in_head());
        }
    }

    #[test]
    fn heads_have_bounds() {
        let text = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(HTTP_HEADERS_MAX + 1));
        assert_eq!(read(&[text.as_bytes()]), Err(HeadFault::TooManyHeaders.into()));
        let endless = vec![b'x'; HTTP_HEAD_BYTES_MAX + 1];
        assert_eq!(read(&[&endless]), Err(HeadFault::TooLong.into()));
        let text = format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "x".repeat(HTTP_HEAD_BYTES_MAX));
        assert_eq!(read(&[text.as_bytes()]), Err(HeadFault::TooLong.into()));
    }

    #[test]
    fn broken_bodies_are_errors_of_the_body() {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let line = format!("{chunked}1;{}\r\n", "x".repeat(CHUNK_LINE_BYTES_MAX));
        let excess = format!("{chunked}{}", format!("1;{}\r\nx\r\n", "x".repeat(4_000)).repeat(5));
        let trailer = format!("{chunked}0\r\n{}", format!("a: {}\r\n", "x".repeat(1000)).repeat(66));
        for (text, want) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", BodyFault::UnexpectedEof),
            (&format!("{chunked}3\r\nab"), BodyFault::UnexpectedEof),
            (&format!("{chunked}0\r\n"), BodyFault::UnexpectedEof),
            (&format!("{chunked}zz\r\n"), BodyFault::ChunkSize),
            (&format!("{chunked}-1\r\n"), BodyFault::ChunkSize),
            (&format!("{chunked}11111111111111111\r\n"), BodyFault::ChunkSize),
            (&format!("{chunked}1\r\nabc\r\n"), BodyFault::ChunkEnd),
            (&line, BodyFault::LineTooLong),
            (&excess, BodyFault::ChunkExcess),
            (&trailer, BodyFault::TrailerTooLong),
        ] {
            assert_eq!(read(&[text.as_bytes()]), Err(want.into()), "{text:.80}");
        }
    }

    #[test]
    fn a_byte_per_chunk_is_no_excess() {
        let chunks = "1\r\nx\r\n".repeat(HTTP_BODY_BYTES_MAX - 1);
        let text = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n");
        assert_eq!(body_of(&text).len(), HTTP_BODY_BYTES_MAX - 1);
    }

    #[test]
    fn a_reset_response_reads_the_next_one() {
        let mut response = Response::new();
        assert!(response.feed(b"nonsense\n").is_err());
        assert!(response.feed(b"HTTP/1.1 200 OK\r\n").is_err(), "an error stays");
        response.reset();
        let progress = response.feed(b"HTTP/1.1 503 x\r\nContent-Length: 2\r\n\r\nno");
        assert_eq!((progress, response.status()), (Ok(Progress::Done), 503));
    }

    /// Pieces of responses, so that random sequences of them go deep.
    fn fragment() -> impl Strategy<Value = Vec<u8>> {
        let known: Vec<&'static [u8]> = vec![
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"HTTP/1.0 302 x\n",
            b"Content-Length: 5\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Location: /x\r\n",
            b"X: a\r\n b\r\n",
            b"\r\n",
            b"\n",
            b"\r",
            b"5\r\nabcde\r\n",
            b"3;x=y\r\nabc\r\n",
            b"0\r\n",
            b"fffff\r\n",
            b"hello",
        ];
        prop_oneof![
            6 => proptest::sample::select(known).prop_map(<[u8]>::to_vec),
            1 => vec(any::<u8>(), 0..20),
            1 => (0usize..11_000).prop_map(|len| vec![b'x'; len]),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn any_split_of_any_bytes_gives_the_same_result(
            fragments in vec(fragment(), 0..12),
            cuts in vec(any::<proptest::sample::Index>(), 0..12),
        ) {
            check_split(&fragments.concat(), &cuts)?;
        }

        #[test]
        fn any_split_of_a_valid_response_gives_the_same_result(
            fragments in vec(fragment(), 0..6),
            chunked in any::<bool>(),
            cuts in vec(any::<proptest::sample::Index>(), 0..12),
        ) {
            let (mut text, mut body) = (b"HTTP/1.1 200 OK\r\n".to_vec(), Vec::new());
            if chunked {
                text.extend(b"Transfer-Encoding: chunked\r\n\r\n");
                for part in fragments.iter().filter(|part| !part.is_empty()) {
                    text.extend(format!("{:x}\r\n", part.len()).into_bytes());
                    text.extend(part);
                    text.extend(b"\r\n");
                    body.extend(part);
                }
                text.extend(b"0\r\n\r\n");
            } else {
                body = fragments.concat();
                text.extend(format!("Content-Length: {}\r\n\r\n", body.len()).into_bytes());
                text.extend(&body);
            }
            body.truncate(HTTP_BODY_BYTES_MAX);
            prop_assert_eq!(read(&[&text]), Ok((200, None, body)));
            check_split(&text, &cuts)?;
        }
    }

    fn check_split(text: &[u8], cuts: &[proptest::sample::Index]) -> Result<(), TestCaseError> {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let parts: Vec<&[u8]> = cuts.windows(2).map(|w| &text[w[0]..w[1]]).collect();
        prop_assert_eq!(read(&parts), read(&[text]));
        if text.len() < 2_000 {
            let bytes: Vec<&[u8]> = text.chunks(1).collect();
            prop_assert_eq!(read(&bytes), read(&[text]));
        }
        Ok(())
    }
}
