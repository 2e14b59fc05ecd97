//! URLs as Go's `net/url` reads and writes them, which is what the kubelet shows and sends: nothing is normalised
//! that Go leaves alone (`http://localhost:93` stays without a slash), unlike with the WHATWG rules.
//!
//! User information is read over and dropped: a probe sends no credentials and shows none.

use std::fmt;

use super::quote::quoted;

/// A URL or a reference to one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Url {
    /// Lower-case; empty in a relative reference.
    pub(crate) scheme: String,
    /// What follows the scheme of a URL without slashes (`mailto:x`).
    opaque: String,
    /// Name or address, brackets and port included, not escaped.
    host: String,
    /// Had `//`, so a reference with it replaces the base's host.
    has_authority: bool,
    /// Escaped.
    path: String,
    /// Without `?`; as it was written.
    query: Option<String>,
    /// Without `#`; escaped.
    fragment: Option<String>,
}

/// Where in a URL a byte stands: decides what must be escaped (RFC 3986, with Go's choices).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Host,
    Path,
    Fragment,
}

impl Url {
    /// The URL of a probe: the path, read as a URL reference, put behind scheme, host and port; a path that is no
    /// reference is taken as it is (`pkg/probe/http/request.go`, `formatURL`, then `http.NewRequest`).
    ///
    /// # Errors
    /// Go's text, where the host cannot stand in a URL.
    pub(crate) fn for_probe(scheme: &str, host: &str, port: u16, path: &str) -> Result<Url, String> {
        let mut url =
            Url::parse(path).unwrap_or_else(|_| Url { path: escape(path.as_bytes(), Place::Path), ..Url::default() });
        url.scheme = scheme.to_owned();
        url.host = join_host_port(host, port);
        url.has_authority = true;
        Url::parse(&url.to_string())
    }

    /// Reads a URL or a relative reference.
    ///
    /// # Errors
    /// Go's text: `parse "<url>": <cause>`.
    pub(crate) fn parse(text: &str) -> Result<Url, String> {
        parse(text).map_err(|cause| format!("parse {}: {cause}", quoted(text.as_bytes())))
    }

    /// The URL that `reference` means, seen from this one (RFC 3986, 5.2; `URL.ResolveReference`).
    pub(crate) fn resolve(&self, reference: &Url) -> Url {
        let mut url = reference.clone();
        if reference.scheme.is_empty() {
            url.scheme.clone_from(&self.scheme);
        }
        if !reference.opaque.is_empty() {
            return url;
        }
        if !reference.scheme.is_empty() || reference.has_authority {
            url.path = resolve_path("", &reference.path);
            return url;
        }
        if reference.path.is_empty() && reference.query.is_none() {
            url.query.clone_from(&self.query);
            if reference.fragment.is_none() {
                url.fragment.clone_from(&self.fragment);
            }
        }
        url.host.clone_from(&self.host);
        url.has_authority = self.has_authority;
        url.path = resolve_path(&self.path, &reference.path);
        url
    }

    /// Whether it names a scheme.
    pub(crate) fn is_absolute(&self) -> bool {
        !self.scheme.is_empty()
    }

    /// Host and port as they stand in the URL, not escaped.
    pub(crate) fn host_port(&self) -> &str {
        &self.host
    }

    /// The host without port and brackets.
    pub(crate) fn hostname(&self) -> &str {
        let host = &self.host[..self.host.len() - port_part(&self.host).len()];
        host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host)
    }

    /// The digits of the port; empty where none is given.
    pub(crate) fn port(&self) -> &str {
        port_part(&self.host).trim_start_matches(':')
    }

    /// What a request line holds: path and query (`URL.RequestURI`).
    pub(crate) fn request_target(&self) -> String {
        let mut target = match (self.opaque.as_str(), self.path.as_str()) {
            ("", "") => "/".to_owned(),
            ("", path) => path.to_owned(),
            (opaque, _) => opaque.to_owned(),
        };
        if let Some(query) = &self.query {
            target.push('?');
            target.push_str(query);
        }
        target
    }

    /// Without the fragment, for a `Referer`.
    pub(crate) fn without_fragment(&self) -> Url {
        Url { fragment: None, ..self.clone() }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.scheme.is_empty() {
            write!(f, "{}:", self.scheme)?;
        }
        if self.opaque.is_empty() {
            if self.has_authority {
                write!(f, "//{}", escape_host(&self.host))?;
                if !self.path.is_empty() && !self.path.starts_with('/') && !self.host.is_empty() {
                    f.write_str("/")?;
                }
            }
            f.write_str(&self.path)?;
        } else {
            f.write_str(&self.opaque)?;
        }
        if let Some(query) = &self.query {
            write!(f, "?{query}")?;
        }
        if let Some(fragment) = &self.fragment {
            write!(f, "#{fragment}")?;
        }
        Ok(())
    }
}

/// `host:port`, with brackets around an IPv6 address (`net.JoinHostPort`).
pub(crate) fn join_host_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn parse(text: &str) -> Result<Url, String> {
    let (text, fragment) = match text.split_once('#') {
        Some((before, after)) => (before, Some(after)),
        None => (text, None),
    };
    if text.bytes().any(|b| b < 0x20 || b == 0x7f) {
        return Err("net/url: invalid control character in URL".to_owned());
    }
    let (scheme, rest) = split_scheme(text)?;
    let (rest, query) = match rest.split_once('?') {
        Some((before, after)) => (before, Some(after.to_owned())),
        None => (rest, None),
    };
    let mut url = Url { scheme: scheme.to_ascii_lowercase(), query, ..Url::default() };
    if let Some(fragment) = fragment.filter(|f| !f.is_empty()) {
        url.fragment = Some(escaped(fragment, Place::Fragment)?);
    }
    if !rest.starts_with('/') {
        if url.is_absolute() {
            rest.clone_into(&mut url.opaque);
            return Ok(url);
        }
        if rest.split('/').next().is_some_and(|segment| segment.contains(':')) {
            return Err("first path segment in URL cannot contain colon".to_owned());
        }
    }
    let mut path = rest;
    if (url.is_absolute() || !rest.starts_with("///"))
        && let Some(after) = rest.strip_prefix("//")
    {
        let (authority, after) = after.split_at(after.find('/').unwrap_or(after.len()));
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        url.host = parse_host(host)?;
        url.has_authority = true;
        path = after;
    }
    url.path = escaped(path, Place::Path)?;
    Ok(url)
}

/// Scheme and rest; no scheme where the text does not begin like one.
fn split_scheme(text: &str) -> Result<(&str, &str), String> {
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if at > 0 => {}
            b':' if at > 0 => return Ok((&text[..at], &text[at + 1..])),
            b':' => return Err("missing protocol scheme".to_owned()),
            _ => break,
        }
    }
    Ok(("", text))
}

/// The host and port of an authority, escapes removed.
fn parse_host(text: &str) -> Result<String, String> {
    if text.starts_with('[') {
        let Some(end) = text.rfind(']') else {
            return Err("missing ']' in host".to_owned());
        };
        check_port(&text[end + 1..])?;
        // A zone: `%25` stands for the percent sign (RFC 6874).
        if let Some(zone) = text[..end].find("%25") {
            let (address, rest) = text.split_at(zone);
            return Ok(format!("{}%{}", unescape_host(address)?, &rest[3..]));
        }
    } else if let Some(colon) = text.rfind(':') {
        check_port(&text[colon..])?;
    }
    unescape_host(text)
}

fn check_port(text: &str) -> Result<(), String> {
    if is_port_part(text) { Ok(()) } else { Err(format!("invalid port {} after host", quoted(text.as_bytes()))) }
}

fn is_port_part(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
}

/// `:` and the port at the end of `host`, or nothing.
fn port_part(host: &str) -> &str {
    match host.rfind(':') {
        Some(colon) if is_port_part(&host[colon..]) => &host[colon..],
        _ => "",
    }
}

/// In a host only bytes beyond ASCII may be escaped.
fn unescape_host(text: &str) -> Result<String, String> {
    let bytes = unescape(text)?;
    let bad_escape = text
        .match_indices('%')
        .map(|(at, _)| &text[at..at + 3])
        .find(|escape| matches!(escape.as_bytes()[1], b'0'..=b'7'));
    if let Some(escape) = bad_escape {
        return Err(format!("invalid URL escape {}", quoted(escape.as_bytes())));
    }
    if let Some(byte) = bytes.iter().find(|b| b.is_ascii() && must_escape(**b, Place::Host)) {
        return Err(format!("invalid character {} in host name", quoted(&[*byte])));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn escape_host(host: &str) -> String {
    escape(host.as_bytes(), Place::Host)
}

/// `text` as it is where it is well escaped, else escaped anew (`URL.EscapedPath`).
fn escaped(text: &str, place: Place) -> Result<String, String> {
    let plain = unescape(text)?;
    let is_well_escaped = text
        .bytes()
        .all(|b| matches!(b, b'%' | b'!' | b'\'' | b'(' | b')' | b'*' | b'[' | b']') || !must_escape(b, place));
    Ok(if is_well_escaped { text.to_owned() } else { escape(&plain, place) })
}

fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] != b'%' {
            plain.push(bytes[at]);
            at += 1;
            continue;
        }
        let digit = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
        let (Some(high), Some(low)) = (digit(at + 1), digit(at + 2)) else {
            let shown = &bytes[at..bytes.len().min(at + 3)];
            return Err(format!("invalid URL escape {}", quoted(shown)));
        };
        plain.push((high * 16 + low) as u8);
        at += 3;
    }
    Ok(plain)
}

fn escape(plain: &[u8], place: Place) -> String {
    use fmt::Write as _;
    let mut text = String::with_capacity(plain.len());
    for byte in plain {
        if must_escape(*byte, place) {
            let _ = write!(text, "%{byte:02X}");
        } else {
            text.push(char::from(*byte));
        }
    }
    text
}

fn must_escape(byte: u8, place: Place) -> bool {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => false,
        b'$' | b'&' | b'+' | b',' | b':' | b';' | b'=' => false,
        b'/' | b'@' => place == Place::Host,
        b'?' => place != Place::Fragment,
        b'!' | b'(' | b')' | b'*' => place == Place::Path,
        b'\'' | b'[' | b']' | b'<' | b'>' | b'"' => place != Place::Host,
        _ => true,
    }
}

/// The path of a reference, seen from a base path, without `.` and `..` (RFC 3986, 5.2.4).
fn resolve_path(base: &str, reference: &str) -> String {
    let full = if reference.is_empty() {
        base.to_owned()
    } else if reference.starts_with('/') {
        reference.to_owned()
    } else {
        let folder = base.rfind('/').map_or("", |slash| &base[..=slash]);
        format!("{folder}{reference}")
    };
    if full.is_empty() {
        return full;
    }
    let mut kept = Vec::new();
    let mut last = "";
    for segment in full.strip_prefix('/').unwrap_or(&full).split('/') {
        match segment {
            "." => {}
            ".." => {
                kept.pop();
            }
            _ => kept.push(segment),
        }
        last = segment;
    }
    if matches!(last, "." | "..") {
        kept.push("");
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probes_url_is_written_as_the_kubelet_writes_it() {
        for (host, path, url, target) in [
            ("localhost", "", "http://localhost:93", "/"),
            ("localhost", "/path", "http://localhost:93/path", "/path"),
            ("localhost", "bar", "http://localhost:93/bar", "/bar"),
            ("localhost", "?foo", "http://localhost:93?foo", "/?foo"),
            ("localhost", "/a?", "http://localhost:93/a?", "/a?"),
            ("localhost", "/a?b?c#frag ment", "http://localhost:93/a?b?c#frag%20ment", "/a?b?c"),
            ("localhost", "/a b%2Fc(d)[e]", "http://localhost:93/a%20b/c%28d%29%5Be%5D", "/a%20b/c%28d%29%5Be%5D"),
            ("localhost", "/b%2Fc(d)", "http://localhost:93/b%2Fc(d)", "/b%2Fc(d)"),
            ("localhost", "/%zz\r\nX: y", "http://localhost:93/%25zz%0D%0AX:%20y", "/%25zz%0D%0AX:%20y"),
            ("localhost", "http://other:1/x", "http://localhost:93/x", "/x"),
            ("localhost", "//user:secret@other/x", "http://localhost:93/x", "/x"),
            ("fd00::1", "/", "http://[fd00::1]:93/", "/"),
            ("fe80::1%eth0", "/", "http://[fe80::1%25eth0]:93/", "/"),
            ("", "/", "http://:93/", "/"),
        ] {
            let made = Url::for_probe("http", host, 93, path).expect(path);
            assert_eq!((made.to_string().as_str(), made.request_target().as_str()), (url, target));
            assert_eq!((made.hostname(), made.port()), (host, "93"));
        }
    }

    #[test]
    fn a_host_that_no_url_can_hold_is_an_error() {
        let error = |host| Url::for_probe("http", host, 80, "/").expect_err(host);
        assert_eq!(error("a b"), r#"parse "http://a%20b:80/": invalid URL escape "%20""#);
        assert!(error("a/b").contains("invalid"));
    }

    #[test]
    fn references_are_resolved_against_their_base() {
        let base = Url::parse("http://h:1/a/b/c?q#f").expect("valid");
        for (reference, want) in [
            ("", "http://h:1/a/b/c?q#f"),
            ("#g", "http://h:1/a/b/c?q#g"),
            ("?x", "http://h:1/a/b/c?x"),
            ("d", "http://h:1/a/b/d"),
            ("../d/", "http://h:1/a/d/"),
            ("../../../..", "http://h:1/"),
            ("./.", "http://h:1/a/b/"),
            ("/x/./y", "http://h:1/x/y"),
            ("//other/x", "http://other/x"),
            ("https://h/y", "https://h/y"),
            ("http://h", "http://h"),
        ] {
            let url = base.resolve(&Url::parse(reference).expect(reference));
            assert_eq!(url.to_string(), want, "{reference}");
        }
    }

    #[test]
    fn what_is_no_url_has_gos_words() {
        for (text, cause) in [
            ("/a\nb", "net/url: invalid control character in URL"),
            (":x", "missing protocol scheme"),
            ("1:x", "first path segment in URL cannot contain colon"),
            ("/%2", "invalid URL escape \"%2\""),
            ("http://h:8o/", "invalid port \":8o\" after host"),
            ("http://[::1/", "missing ']' in host"),
            ("http://a b/", "invalid character \" \" in host name"),
        ] {
            let error = Url::parse(text).expect_err(text);
            assert!(error.ends_with(cause), "{error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in ".*", host in ".*") {
            if let Ok(url) = Url::parse(&text) {
                let _ = (url.hostname(), url.port(), url.request_target(), url.resolve(&url));
            }
            let _ = Url::for_probe("http", &host, 1, &text);
        }
    }
}
