//! What an httpGet attempt sends and what its response means: pure, used by the shard's ring and by the pool.
//!
//! The rules are those of `pkg/probe/http/{request,http}.go` and of Go's `net/http` client below them
//! (specification, section 3.2). A [`Plan`] is one request; [`judge`] turns its response into an outcome or into
//! the next request of a redirect.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use probe_core::outcome::Outcome;
use probe_core::spec::{HttpGet, HttpHeader, Port, Scheme};

use crate::limits::{HTTP_BODY_BYTES_MAX, HTTP_REQUESTS_MAX, HTTP_URL_BYTES_MAX};

use super::http1::Response;
use super::quote::{quoted, quoted_up_to};
use super::url::{Url, join_host_port};

/// The default `User-Agent` of a probe.
pub const PROBE_USER_AGENT: &str = "kube-probe/1.34";

/// The default `User-Agent` of a lifecycle hook (`pkg/kubelet/lifecycle/handlers.go`).
pub const HOOK_USER_AGENT: &str = "kube-lifecycle/1.34";

/// The cause of a failure when the deadline passes before the response's head is complete.
pub const TIMEOUT_IN_HEAD: &str = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";

/// The cause of an error when the deadline passes while the body is read.
pub const TIMEOUT_IN_BODY: &str =
    "context deadline exceeded (Client.Timeout or context cancellation while reading body)";

/// Bytes of a URL that a message shows.
const URL_SHOWN_BYTES_MAX: usize = 2_048;

/// One request, ready to be sent.
///
/// Invariant: `request` is exactly one HTTP/1.1 message: no byte of a manifest or of a `Location` ends a line.
#[derive(Clone)]
pub struct Plan {
    /// Whether TLS comes first.
    pub scheme: Scheme,
    /// Where to connect to, without brackets; empty = the local host.
    pub host: String,
    /// Where to connect to.
    pub port: u16,
    /// Where to connect to if `host` needs no name resolution.
    pub addr: Option<SocketAddr>,
    /// The request as it is sent.
    pub request: Box<[u8]>,
    /// As messages show it: `Get "<url>": ...`. Without user information.
    pub url: String,
    /// A `Host` header of the user's, where this request carries one.
    host_header: Option<Box<str>>,
    /// The user set a `Referer`.
    has_referer: bool,
    /// Where in `request` the header lines begin that every request of the attempt carries.
    lines_at: usize,
    /// The host of the attempt's first URL: what a redirect is compared with.
    origin_host: Box<str>,
    /// Which request of the attempt this is, from 1.
    request_number: u8,
    /// Whom the answer is for.
    purpose: Purpose,
}

/// Whom a request is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A probe: the status decides.
    Probe,
    /// A lifecycle hook: any answer is a success.
    Hook,
}

impl fmt::Debug for Plan {
    /// Without the request: it may carry credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("url", &self.url)
            .field("addr", &self.addr)
            .field("request_number", &self.request_number)
            .finish_non_exhaustive()
    }
}

/// The next request of a redirect that is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    url: Url,
    host_header: Option<Box<str>>,
    referer: Option<String>,
}

impl Target {
    /// Where it leads, for messages.
    #[must_use]
    pub fn url(&self) -> String {
        self.url.to_string()
    }
}

/// What a response means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// The attempt is over.
    Final(Outcome),
    /// Another request must be made, within the same deadline.
    Redirect(Target),
}

impl Plan {
    /// The first request of an attempt.
    ///
    /// # Errors
    /// The attempt's outcome where no request can be made: [`Outcome::Error`] for a port or URL that cannot be
    /// used, [`Outcome::Failure`] for a header value that Go's transport refuses.
    pub fn new(get: &HttpGet, pod_ip: Option<IpAddr>) -> Result<Plan, Outcome> {
        Plan::for_purpose(get, pod_ip, Purpose::Probe)
    }

    /// The first request of a lifecycle hook: that of a probe, with another default `User-Agent`.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn for_hook(get: &HttpGet, pod_ip: Option<IpAddr>) -> Result<Plan, Outcome> {
        Plan::for_purpose(get, pod_ip, Purpose::Hook)
    }

    fn for_purpose(get: &HttpGet, pod_ip: Option<IpAddr>, purpose: Purpose) -> Result<Plan, Outcome> {
        let user_agent = match purpose {
            Purpose::Probe => PROBE_USER_AGENT,
            Purpose::Hook => HOOK_USER_AGENT,
        };
        let port = match &get.port {
            Port::Number(port) => *port,
            Port::Unusable(text) => return Err(Outcome::Error(text.clone())),
        };
        let host = match (&get.host, pod_ip) {
            (Some(host), _) if !host.is_empty() => host.to_string(),
            (_, Some(ip)) => ip.to_string(),
            (_, None) => String::new(),
        };
        let url =
            Url::for_probe(get.scheme.as_str(), &host, port, &get.path).map_err(|text| Outcome::Error(text.into()))?;
        let headers = Headers::new(&get.headers);
        let refused = |cause| failure(&url.to_string(), cause);
        headers.check().map_err(refused)?;
        let parts = Parts {
            host_header: headers.first("Host").filter(|v| !v.is_empty()).map(Into::into),
            referer: None,
            has_referer: headers.first("Referer").is_some_and(|v| !v.is_empty()),
            lines: headers.lines(user_agent).into_bytes(),
            origin_host: url.hostname().into(),
            request_number: 1,
            purpose,
        };
        Plan::assemble(&url, parts)
    }

    /// The request that follows a redirect: the same headers, except that `Host` is as the target says.
    ///
    /// # Errors
    /// [`Outcome::Failure`] where the target cannot be asked.
    pub fn follow(&self, target: &Target) -> Result<Plan, Outcome> {
        Plan::assemble(
            &target.url,
            Parts {
                host_header: target.host_header.clone(),
                referer: target.referer.as_deref(),
                has_referer: self.has_referer,
                lines: self.request[self.lines_at..].to_vec(),
                origin_host: self.origin_host.clone(),
                request_number: self.request_number.saturating_add(1),
                purpose: self.purpose,
            },
        )
    }

    /// As if this request came after `requests_made` others: for an attempt that another thread has begun.
    #[must_use]
    pub fn after(mut self, requests_made: u8) -> Plan {
        self.request_number = requests_made.saturating_add(1);
        self
    }

    /// Which request of the attempt this is, from 1.
    #[must_use]
    pub const fn request_number(&self) -> u8 {
        self.request_number
    }

    /// Whom the answer is for.
    #[must_use]
    pub const fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// As Go writes the dialed address in messages; a name is not resolved in it.
    #[must_use]
    pub fn dial_address(&self) -> String {
        join_host_port(&self.host, self.port)
    }

    fn assemble(url: &Url, parts: Parts<'_>) -> Result<Plan, Outcome> {
        let shown = url.to_string();
        let scheme = match url.scheme.as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            other => {
                let other = quoted(other.as_bytes());
                return Err(failure(&shown, format!("unsupported protocol scheme {other}")));
            }
        };
        if url.host_port().is_empty() {
            return Err(failure(&shown, "http: no Host in request URL"));
        }
        let port = match (url.port(), scheme) {
            ("", Scheme::Http) => 80,
            ("", Scheme::Https) => 443,
            (digits, _) => {
                digits.parse().map_err(|_| failure(&shown, format!("dial tcp: address {digits}: invalid port")))?
            }
        };
        let host = ascii_host(url.hostname());
        let addr = if host.is_empty() { Some(IpAddr::from(Ipv4Addr::LOCALHOST)) } else { host.parse().ok() };
        let header = host_header(parts.host_header.as_deref().unwrap_or(url.host_port()));
        let mut request = format!("GET {} HTTP/1.1\r\nHost: {header}\r\n", url.request_target());
        if let Some(referer) = parts.referer {
            request.push_str(&format!("Referer: {referer}\r\n"));
        }
        let lines_at = request.len();
        let mut request = request.into_bytes();
        request.extend_from_slice(&parts.lines);
        Ok(Plan {
            scheme,
            addr: addr.map(|ip| SocketAddr::new(ip, port)),
            host,
            port,
            request: request.into(),
            url: shown,
            host_header: parts.host_header,
            has_referer: parts.has_referer,
            lines_at,
            origin_host: parts.origin_host,
            request_number: parts.request_number,
            purpose: parts.purpose,
        })
    }
}

/// What a request is made of beside its URL.
struct Parts<'a> {
    host_header: Option<Box<str>>,
    referer: Option<&'a str>,
    has_referer: bool,
    lines: Vec<u8>,
    origin_host: Box<str>,
    request_number: u8,
    purpose: Purpose,
}

/// What a complete response means.
#[must_use]
pub fn judge(plan: &Plan, response: &Response) -> Judgement {
    judge_head(plan, response).unwrap_or_else(|| {
        Judgement::Final(match plan.purpose {
            Purpose::Probe => final_outcome(response),
            Purpose::Hook => answered(),
        })
    })
}

/// What any answer to a hook is, whatever its status and whatever becomes of its body.
fn answered() -> Outcome {
    Outcome::Success(Box::default())
}

/// By its status: one that Go's client may follow.
#[must_use]
pub fn is_redirect(response: &Response) -> bool {
    matches!(response.status(), 301 | 302 | 303 | 307 | 308)
}

/// What a response means whose head is complete, if its body does not matter: a redirect that is followed, or that
/// cannot be. `None` = read on, then ask [`judge`]. To be asked as soon as [`Response::head_done`]: nobody waits
/// for the body of a redirect, which may never end.
#[must_use]
pub fn judge_head(plan: &Plan, response: &Response) -> Option<Judgement> {
    if !is_redirect(response) {
        return None;
    }
    let location = response.location()?;
    let (base, reference) = match (Url::parse(&plan.url), Url::parse(location)) {
        (Ok(base), Ok(reference)) => (base, reference),
        (Err(cause), _) | (_, Err(cause)) => {
            let location = quoted(location.as_bytes());
            let cause = format!("failed to parse Location header {location}: {cause}");
            return Some(Judgement::Final(failure(&plan.url, cause)));
        }
    };
    let url = base.resolve(&reference);
    if url.hostname() != &*plan.origin_host {
        return None;
    }
    if usize::from(plan.request_number) >= HTTP_REQUESTS_MAX {
        let cause = format!("stopped after {HTTP_REQUESTS_MAX} redirects");
        return Some(Judgement::Final(failure(&reference.to_string(), cause)));
    }
    let len = url.to_string().len();
    if len > HTTP_URL_BYTES_MAX {
        let cause = format!("redirect to a URL of {len} bytes, more than {HTTP_URL_BYTES_MAX}");
        return Some(Judgement::Final(failure(&reference.to_string(), cause)));
    }
    let leaves_tls = base.scheme == "https" && url.scheme == "http";
    Some(Judgement::Redirect(Target {
        host_header: plan.host_header.clone().filter(|_| !reference.is_absolute()),
        referer: (!plan.has_referer && !leaves_tls).then(|| base.without_fragment().to_string()),
        url,
    }))
}

/// The outcome of an attempt whose response never came whole: a Failure `Get "<url>": <cause>`.
#[must_use]
pub fn transport_error(plan: &Plan, cause: impl fmt::Display) -> Outcome {
    failure(&plan.url, cause)
}

/// The outcome of an attempt whose body could not be read: of a probe it is discarded and tried again (rule 2.7), a hook does
/// not care.
#[must_use]
pub fn body_error(plan: &Plan, cause: impl fmt::Display) -> Outcome {
    match plan.purpose {
        Purpose::Probe => Outcome::Error(cause.to_string().into()),
        Purpose::Hook => answered(),
    }
}

fn failure(url: &str, cause: impl fmt::Display) -> Outcome {
    let url = quoted_up_to(url.as_bytes(), URL_SHOWN_BYTES_MAX);
    Outcome::Failure(format!("Get {url}: {cause}").into())
}

/// What a complete response means that is not followed.
#[must_use]
pub fn final_outcome(response: &Response) -> Outcome {
    match response.status() {
        200..=299 => Outcome::Success(text(response.body(), "")),
        300..=399 => Outcome::Warning(text(response.body(), "Probe terminated redirects, Response body: ")),
        status => Outcome::Failure(format!("HTTP probe failed with statuscode: {status}").into()),
    }
}

/// `prefix` and the body as text; bytes that are no UTF-8 are replaced. Bounded as the body is.
fn text(body: &[u8], prefix: &str) -> Box<str> {
    let mut text = String::from_utf8_lossy(body);
    if text.len() > HTTP_BODY_BYTES_MAX {
        let end = text.floor_char_boundary(HTTP_BODY_BYTES_MAX);
        text.to_mut().truncate(end);
    }
    format!("{prefix}{text}").into()
}

/// The user's headers under their canonical names, values in order (`http.Header`).
struct Headers<'a>(BTreeMap<String, Vec<&'a str>>);

impl<'a> Headers<'a> {
    fn new(headers: &'a [HttpHeader]) -> Self {
        let mut map: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for header in headers {
            let values = map.entry(canonical(&header.name)).or_default();
            values.push(&header.value);
        }
        Headers(map)
    }

    fn first(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).and_then(|values| values.first().copied())
    }

    /// What Go's transport refuses to send (`Transport.roundTrip`).
    fn check(&self) -> Result<(), String> {
        for (name, values) in &self.0 {
            let shown = quoted(name.as_bytes());
            if name.is_empty() || !name.bytes().all(is_token) {
                return Err(format!("net/http: invalid header field name {shown}"));
            }
            let is_bad = |b: u8| b != b'\t' && (b < 0x20 || b == 0x7f);
            if values.iter().any(|value| value.bytes().any(is_bad)) {
                return Err(format!("net/http: invalid header field value for {shown}"));
            }
        }
        Ok(())
    }

    /// All header lines but `Host`, with the empty line at their end.
    fn lines(&self, user_agent: &str) -> String {
        let mut lines = String::new();
        let mut push = |name: &str, value: &str| {
            lines.push_str(&format!("{name}: {}\r\n", value.trim_matches([' ', '\t'])));
        };
        match self.first("User-Agent") {
            None => push("User-Agent", user_agent),
            Some("") => {}
            Some(value) => push("User-Agent", value),
        }
        if !self.0.contains_key("Accept") {
            push("Accept", "*/*");
        }
        for (name, values) in &self.0 {
            let is_ours = match name.as_str() {
                "Host" | "User-Agent" => true,
                // Go's client writes these itself, from the body that a probe does not have.
                "Content-Length" | "Transfer-Encoding" | "Trailer" => true,
                "Accept" => values[0].is_empty(),
                _ => false,
            };
            if !is_ours {
                for value in values {
                    push(name, value);
                }
            }
        }
        let options = self.0.get("Connection").map_or(&[][..], |v| v.as_slice());
        let has = |option: &str| {
            let mut tokens = options.iter().flat_map(|value| value.split(','));
            tokens.any(|token| token.trim().eq_ignore_ascii_case(option))
        };
        if !has("close") && !has("upgrade") {
            push("Connection", "close");
        }
        lines.push_str("\r\n");
        lines
    }
}

/// `FOO-bAR` -> `Foo-Bar` (`textproto.CanonicalMIMEHeaderKey`); a name that is no token stays.
fn canonical(name: &str) -> String {
    if !name.bytes().all(is_token) {
        return name.to_owned();
    }
    let mut upper = true;
    name.chars()
        .map(|c| {
            let c = if upper { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() };
            upper = c == '-';
            c
        })
        .collect()
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A host name as the resolver and the wire want it: ASCII.
fn ascii_host(host: &str) -> String {
    if host.is_ascii() {
        return host.to_owned();
    }
    match ::url::Host::parse(host) {
        Ok(ascii) => ascii.to_string(),
        Err(_) => host.to_owned(),
    }
}

/// The value of the `Host` line. As Go does, a value that could not stand there is sent empty.
fn host_header(host: &str) -> String {
    let (name, port) = match host.rfind(':') {
        Some(colon) if !host.ends_with(']') => host.split_at(colon),
        _ => (host, ""),
    };
    let mut host = format!("{}{port}", ascii_host(name));
    if let (Some(zone), Some(end)) = (host.find('%'), host.rfind(']'))
        && host.starts_with('[')
        && zone < end
    {
        host.replace_range(zone..end, "");
    }
    let is_valid = |b: u8| b.is_ascii_alphanumeric() || b"!$%&'()*+,-.:;=[]_~".contains(&b);
    if host.bytes().all(is_valid) { host } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(host: &str, port: u16, path: &str, headers: &[(&str, &str)]) -> HttpGet {
        HttpGet {
            host: Some(host.into()),
            port: Port::Number(port),
            path: path.into(),
            scheme: Scheme::Http,
            headers: headers
                .iter()
                .map(|(name, value)| HttpHeader { name: (*name).into(), value: (*value).into() })
                .collect(),
        }
    }

    fn plan_of(get: &HttpGet) -> Plan {
        Plan::new(get, None).expect("a plan")
    }

    /// The request's lines for these headers, without the request line.
    fn lines(headers: &[(&str, &str)]) -> Vec<String> {
        let plan = plan_of(&get("10.0.0.1", 80, "/", headers));
        let text = std::str::from_utf8(&plan.request).expect("text").to_owned();
        let text = text.strip_suffix("\r\n\r\n").expect("one empty line");
        assert!(!text.contains("\r\n\r\n"));
        text.split("\r\n").skip(1).map(str::to_owned).collect()
    }

    fn response(text: &str) -> Response {
        let mut response = Response::new();
        response.feed(text.as_bytes()).expect("a valid response");
        response
    }

    fn redirect_to(location: &str) -> Response {
        response(&format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 2\r\n\r\n"))
    }

    fn followed(plan: &Plan, location: &str) -> Plan {
        match judge_head(plan, &redirect_to(location)) {
            Some(Judgement::Redirect(target)) => plan.follow(&target).expect("a plan"),
            other => panic!("{location}: {other:?}"),
        }
    }

    #[test]
    fn h02_default_request_has_exactly_these_lines() {
        let plan = plan_of(&get("10.0.0.1", 80, "/healthz", &[]));
        let want = "GET /healthz HTTP/1.1\r\nHost: 10.0.0.1:80\r\nUser-Agent: kube-probe/1.34\r\nAccept: */*\r\n\
                    Connection: close\r\n\r\n";
        assert_eq!(std::str::from_utf8(&plan.request), Ok(want));
        assert_eq!(plan.addr, Some("10.0.0.1:80".parse().expect("valid")));
    }

    #[test]
    fn h03_custom_headers_are_added_in_their_order() {
        let lines = lines(&[("X-B", "1"), ("x-a", "2"), ("x-b", " 3 ")]);
        assert_eq!(lines[3..6], ["X-A: 2", "X-B: 1", "X-B: 3"]);
        assert_eq!(lines.len(), 7);
    }

    #[test]
    fn h05_no_accept_encoding_unless_the_user_sets_it() {
        assert!(!lines(&[]).iter().any(|l| l.starts_with("Accept-Encoding")));
        assert!(lines(&[("accept-encoding", "br")]).contains(&"Accept-Encoding: br".to_owned()));
    }

    #[test]
    fn h08_user_agent_of_the_user_wins_and_an_empty_one_suppresses_it() {
        assert_eq!(lines(&[("user-AGENT", "foo/1.0")])[1], "User-Agent: foo/1.0");
        assert!(!lines(&[("User-Agent", "")]).iter().any(|l| l.starts_with("User-Agent")));
    }

    #[test]
    fn h11_accept_of_the_user_wins_and_an_empty_one_suppresses_it() {
        for value in ["text/html", "foo/*"] {
            let lines = lines(&[("Accept", value)]);
            let accepts: Vec<_> = lines.iter().filter(|l| l.starts_with("Accept")).collect();
            assert_eq!(accepts, [&format!("Accept: {value}")]);
        }
        assert!(!lines(&[("Accept", "")]).iter().any(|l| l.starts_with("Accept")));
    }

    #[test]
    fn h14_host_of_the_user_is_sent_once_and_dialed_never() {
        let headers = [("host", "muffins.cupcakes.org"), ("HOST", "second")];
        let plan = plan_of(&get("10.0.0.1", 80, "/", &headers));
        assert_eq!(plan.addr, Some("10.0.0.1:80".parse().expect("valid")));
        let lines = lines(&headers);
        let hosts: Vec<_> = lines.iter().filter(|l| l.to_lowercase().starts_with("host")).collect();
        assert_eq!(hosts, ["Host: muffins.cupcakes.org"]);
    }

    /// The URL, and the target of the request line.
    fn url_and_target(scheme: Scheme, path: &str) -> (String, String) {
        let plan = plan_of(&HttpGet { scheme, ..get("localhost", 93, path, &[]) });
        assert_eq!(plan.addr, None, "a name has to be resolved");
        let request = String::from_utf8_lossy(&plan.request).into_owned();
        (plan.url, request.split(' ').nth(1).expect("a target").to_owned())
    }

    #[test]
    fn u01_without_a_path_the_url_ends_with_the_port() {
        assert_eq!(url_and_target(Scheme::Http, ""), ("http://localhost:93".into(), "/".into()));
    }

    #[test]
    fn u02_scheme_host_port_and_path_make_the_url() {
        assert_eq!(url_and_target(Scheme::Https, "/path"), ("https://localhost:93/path".into(), "/path".into()));
    }

    #[test]
    fn u04_a_query_is_kept() {
        let made = url_and_target(Scheme::Https, "/path?bar");
        assert_eq!(made, ("https://localhost:93/path?bar".into(), "/path?bar".into()));
        assert_eq!(url_and_target(Scheme::Http, "?foo"), ("http://localhost:93?foo".into(), "/?foo".into()));
    }

    #[test]
    fn a_fragment_is_not_sent_and_a_path_gets_its_slash() {
        assert_eq!(url_and_target(Scheme::Http, "/a#f"), ("http://localhost:93/a#f".into(), "/a".into()));
        assert_eq!(url_and_target(Scheme::Http, "bar"), ("http://localhost:93/bar".into(), "/bar".into()));
    }

    #[test]
    fn u05_header_names_are_canonical() {
        assert_eq!(canonical("HOST"), "Host");
        assert_eq!(canonical("FOO-bAR"), "Foo-Bar");
        assert_eq!(canonical("a b"), "a b");
    }

    #[test]
    fn u07_number_port_is_taken_as_it_is() {
        assert_eq!(plan_of(&get("h", 443, "/", &[])).port, 443);
    }

    #[test]
    fn u08_unusable_port_is_an_error_with_its_text() {
        let port = Port::Unusable("invalid port number: 66666".into());
        let get = HttpGet { port, ..get("h", 1, "/", &[]) };
        let error = Outcome::Error("invalid port number: 66666".into());
        assert_eq!(Plan::new(&get, None).err(), Some(error));
    }

    #[test]
    fn without_a_host_the_pods_address_is_asked_or_the_local_host() {
        let get = HttpGet { host: None, ..get("", 8080, "/", &[]) };
        let plan = Plan::new(&get, Some("fd00::1".parse().expect("valid"))).expect("a plan");
        assert_eq!(plan.url, "http://[fd00::1]:8080/");
        assert_eq!(plan.addr, Some("[fd00::1]:8080".parse().expect("valid")));
        let plan = Plan::new(&get, None).expect("a plan");
        assert_eq!((plan.url.as_str(), plan.dial_address().as_str()), ("http://:8080/", ":8080"));
        assert_eq!(plan.addr, Some("127.0.0.1:8080".parse().expect("valid")));
    }

    #[test]
    fn a_header_cannot_split_the_request() {
        for value in ["a\r\nX: y", "a\nb", "\0", "\x7f"] {
            let made = Plan::new(&get("h", 80, "/", &[("x-foo", value)]), None);
            let text = r#"Get "http://h:80/": net/http: invalid header field value for "X-Foo""#;
            assert_eq!(made.err(), Some(Outcome::Failure(text.into())));
        }
        assert_eq!(lines(&[("Host", "a/b c")])[0], "Host: ");
        let bodied = [("Content-Length", "5"), ("transfer-encoding", "chunked"), ("Trailer", "x")];
        assert_eq!(lines(&bodied), lines(&[]));
    }

    #[test]
    fn credentials_in_a_path_are_neither_sent_nor_shown() {
        let plan = plan_of(&get("h", 80, "http://user:secret@other/x", &[("Authorization", "token")]));
        assert!(!plan.url.contains("secret") && !format!("{plan:?}").contains("token"));
        assert!(!String::from_utf8_lossy(&plan.request).contains("secret"));
    }

    #[test]
    fn statuses_have_the_kubelets_outcomes() {
        let plan = plan_of(&get("h", 80, "/", &[]));
        let judged =
            |status: u16| judge(&plan, &response(&format!("HTTP/1.1 {status} x\r\nContent-Length: 2\r\n\r\nhi")));
        for status in [200, 206, 299] {
            assert_eq!(judged(status), Judgement::Final(Outcome::Success("hi".into())));
        }
        for status in [300, 301, 305, 306, 308, 399] {
            let text = "Probe terminated redirects, Response body: hi";
            assert_eq!(judged(status), Judgement::Final(Outcome::Warning(text.into())));
        }
        for status in [101, 400, 404, 500, 503, 600, 999] {
            let text = format!("HTTP probe failed with statuscode: {status}");
            assert_eq!(judged(status), Judgement::Final(Outcome::Failure(text.into())));
        }
    }

    #[test]
    fn only_redirects_to_the_same_host_name_are_followed() {
        let plan = plan_of(&get("10.0.0.1", 80, "/a/b", &[("Host", "public.name")]));
        for (location, url) in [
            ("c", "http://10.0.0.1:80/a/c"),
            ("/x?y", "http://10.0.0.1:80/x?y"),
            ("https://10.0.0.1/x", "https://10.0.0.1/x"),
            ("http://10.0.0.1:81", "http://10.0.0.1:81"),
        ] {
            assert_eq!(followed(&plan, location).url, url);
        }
        for location in ["https://public.name/", "http://10.0.0.2:80/", "//other", "mailto:x"] {
            assert_eq!(judge_head(&plan, &redirect_to(location)), None, "{location}");
        }
    }

    #[test]
    fn a_redirect_keeps_headers_and_the_host_header_if_it_is_relative() {
        let plan = plan_of(&get("10.0.0.1", 80, "/a#f", &[("Host", "name"), ("X-A", "1")]));
        let request = |plan: &Plan| String::from_utf8_lossy(&plan.request).into_owned();
        let next = followed(&plan, "/b");
        assert_eq!(
            request(&next),
            "GET /b HTTP/1.1\r\nHost: name\r\nReferer: http://10.0.0.1:80/a\r\nUser-Agent: kube-probe/1.34\r\n\
             Accept: */*\r\nX-A: 1\r\nConnection: close\r\n\r\n"
        );
        let next = followed(&next, "https://10.0.0.1:444/c");
        assert!(
            request(&next)
                .starts_with("GET /c HTTP/1.1\r\nHost: 10.0.0.1:444\r\nReferer: http://10.0.0.1:80/b\r\nUser")
        );
        assert_eq!((next.scheme, next.port), (Scheme::Https, 444));
        let next = followed(&next, "http://10.0.0.1/d");
        assert!(request(&next).starts_with("GET /d HTTP/1.1\r\nHost: 10.0.0.1\r\nUser"), "no Referer out of TLS");
        assert_eq!((next.request_number(), next.port), (4, 80));
    }

    #[test]
    fn a_location_that_leads_nowhere_is_a_failure() {
        let plan = plan_of(&get("h", 80, "/", &[]));
        let failed = |location: &str| match judge_head(&plan, &redirect_to(location)) {
            Some(Judgement::Final(Outcome::Failure(text))) => text.to_string(),
            Some(Judgement::Redirect(target)) => match plan.follow(&target) {
                Err(Outcome::Failure(text)) => text.to_string(),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        };
        assert_eq!(
            failed("http://h:x/"),
            r#"Get "http://h:80/": failed to parse Location header "http://h:x/": parse "http://h:x/": invalid port ":x" after host"#
        );
        assert_eq!(failed("ftp://h/"), r#"Get "ftp://h/": unsupported protocol scheme "ftp""#);
        assert_eq!(failed("http://h:70000/"), r#"Get "http://h:70000/": dial tcp: address 70000: invalid port"#);
    }

    #[test]
    fn the_eleventh_request_is_not_made() {
        let mut plan = plan_of(&get("h", 80, "/", &[]));
        for _ in 1..HTTP_REQUESTS_MAX {
            plan = followed(&plan, "/loop");
        }
        let text = r#"Get "/loop": stopped after 10 redirects"#;
        let stopped = Judgement::Final(Outcome::Failure(text.into()));
        assert_eq!(judge_head(&plan, &redirect_to("/loop")), Some(stopped));
        assert_eq!(judge_head(&plan, &redirect_to("//elsewhere")), None, "locality comes first");
    }

    #[test]
    fn a_url_that_grows_with_each_redirect_has_a_bound() {
        let mut plan = plan_of(&get("h", 80, "/", &[]));
        let location = format!("{}/", "é".repeat(500));
        let failed = loop {
            match judge_head(&plan, &redirect_to(&location)) {
                Some(Judgement::Redirect(target)) => plan = plan.follow(&target).expect("a plan"),
                other => break other,
            }
        };
        assert_eq!(plan.request_number(), 6);
        assert!(plan.url.len() <= HTTP_URL_BYTES_MAX);
        let Some(Judgement::Final(Outcome::Failure(text))) = failed else { panic!("{failed:?}") };
        assert!(text.ends_with(": redirect to a URL of 18018 bytes, more than 16384"), "{text}");
    }

    proptest::proptest! {
        #[test]
        fn a_request_is_one_message_whatever_the_manifest_says(
            host in ".*", path in ".*", headers in proptest::collection::vec((".*", ".*"), 0..4),
        ) {
            let headers: Vec<_> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            if let Ok(plan) = Plan::new(&get(&host, 80, &path, &headers), None) {
                let text = String::from_utf8(plan.request.into_vec()).expect("text");
                let lines = text.matches('\n').count();
                proptest::prop_assert_eq!(lines, text.matches("\r\n").count());
                proptest::prop_assert_eq!(text.find("\r\n\r\n"), Some(text.len() - 4));
                proptest::prop_assert!(lines <= 6 + headers.len());
                proptest::prop_assert!(!text.contains('\0'));
            }
        }
    }
}
