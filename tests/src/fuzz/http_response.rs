//! Responses to httpGet probes: any bytes, in any pieces, under several requests.
//!
//! An input is what a server sends until it closes, with one escape, so that bounds are reached by small inputs: `FF n`
//! stands for the line before it (or what there is of it) `n` times more, and `FF 00` for the byte `FF`. Inputs that begin
//! with `FF` may become large enough for every bound, others for the body's only: large ones are slow.

use std::net::IpAddr;
use std::sync::OnceLock;

use probe_core::outcome::Outcome;
use probe_core::spec::{HttpGet, HttpHeader, Port, Scheme};
use probe_engine::limits::{HTTP_BODY_BYTES_MAX, HTTP_HEAD_BYTES_MAX, HTTP_REQUESTS_MAX};
use probe_engine::prober::http::{self, Judgement, Plan};
use probe_engine::prober::http1::{Error, Progress, Response};

use super::memory::Bound;

/// Two responses are held at once, each with head, body and line, and the URLs of a redirect, in which a byte becomes three.
pub const MEMORY: Bound = Bound { base: 24 * HTTP_HEAD_BYTES_MAX, per_byte: 16 };

/// Bytes of an input after its escapes. More: cut.
const LARGE_BYTES_MAX: usize = HTTP_HEAD_BYTES_MAX + 8 * 1024;

/// The same where the input does not begin with `FF`.
const SMALL_BYTES_MAX: usize = HTTP_BODY_BYTES_MAX + 512;

/// Bytes of what is said about a response: a URL of 2 KiB and a quotation, every byte escaped, or the body.
const TEXT_BYTES_MAX: usize = 16 * 1024;

/// See the module.
///
/// # Panics
/// Where a response means something else in pieces than whole, where a bound is broken, or a redirect would send
/// anything but one request.
pub fn check(input: &[u8]) {
    let bytes = unpack(input);
    check_hook(&bytes);
    let (mut whole, mut pieces) = (Response::new(), Response::new());
    for (i, plan) in plans().iter().enumerate() {
        // As the shard does with the buffers of an attempt that is over.
        whole.reset();
        pieces.reset();
        let judgement = read(plan, &mut whole, &bytes, &mut std::iter::repeat(usize::MAX));
        if i > 0 && !http::is_redirect(&whole) {
            // What is no redirect means the same whatever was asked for.
            return;
        }
        let mut lens = piece_lens(input);
        let in_pieces = read(plan, &mut pieces, &bytes, &mut lens);
        assert_eq!(in_pieces, judgement, "in pieces");
        // Where the reading stops early, how much of the body is there is nobody's business.
        assert_eq!((pieces.status(), pieces.location()), (whole.status(), whole.location()), "in pieces");
        is_bounded(&judgement);
        follow(plan, &whole, judgement);
    }
}

/// The requests that a response is judged by: plain and by name, and with everything that a redirect looks at.
fn plans() -> &'static [Plan; 3] {
    static PLANS: OnceLock<[Plan; 3]> = OnceLock::new();
    PLANS.get_or_init(make_plans)
}

fn get(host: &str, path: &str, headers: Box<[HttpHeader]>) -> HttpGet {
    HttpGet { host: Some(host.into()), port: Port::Number(8080), path: path.into(), scheme: Scheme::Http, headers }
}

fn make_plans() -> [Plan; 3] {
    let header = |name: &str, value: &str| HttpHeader { name: name.into(), value: value.into() };
    let plain = get("h", "/a/b?q", Box::default());
    let headers = [header("Host", "name"), header("X-A", "1"), header("Accept", "")].into();
    let full = HttpGet { scheme: Scheme::Https, ..get("fe80::1%eth0", "/a/../b#f", headers) };
    let headers =
        [("Referer", "r"), ("User-Agent", "u"), ("Content-Length", "5"), ("Connection", "close"), ("X-A", "1")];
    let headers = headers.map(|(name, value)| header(name, value)).into();
    let of_pod = HttpGet { host: None, ..get("", "?a b", headers) };
    let pod_ip = Some(IpAddr::from([10, 0, 0, 1]));
    [plain, full, of_pod].map(|get| Plan::new(&get, pod_ip).expect("a plan"))
}

/// Any answer to a lifecycle hook is a success; no answer, or a redirect that leads nowhere, is a failure.
fn check_hook(bytes: &[u8]) {
    static HOOK: OnceLock<Plan> = OnceLock::new();
    let plan = HOOK.get_or_init(|| Plan::for_hook(&get("h", "/", Box::default()), None).expect("a plan"));
    let mut response = Response::new();
    match read(plan, &mut response, bytes, &mut std::iter::repeat(usize::MAX)) {
        Judgement::Final(Outcome::Success(text)) => assert!(text.is_empty() && response.head_done()),
        Judgement::Final(Outcome::Failure(_)) => assert!(!response.head_done() || http::is_redirect(&response)),
        Judgement::Final(outcome) => panic!("neither: {outcome:?}"),
        Judgement::Redirect(target) => assert!(!target.url().is_empty()),
    }
}

/// What a response means that comes in pieces of these lengths: as the shard and the pool read it.
fn read(plan: &Plan, response: &mut Response, bytes: &[u8], lens: &mut dyn Iterator<Item = usize>) -> Judgement {
    let mut rest = bytes;
    loop {
        let len = lens.next().unwrap_or(usize::MAX).min(rest.len());
        let (piece, after) = rest.split_at(len);
        rest = after;
        let had_head = response.head_done();
        let progress = match piece {
            [] => response.feed_eof().map(|()| Progress::Done),
            piece => response.feed(piece),
        };
        assert!(response.body().len() <= HTTP_BODY_BYTES_MAX, "the body's bound");
        match progress {
            Ok(Progress::Done) => return http::judge(plan, response),
            Ok(Progress::NeedMore) => {
                if !had_head
                    && response.head_done()
                    && let Some(judgement) = http::judge_head(plan, response)
                {
                    return judgement;
                }
                assert!(!piece.is_empty(), "nothing comes after the end");
            }
            Err(error) => {
                assert_eq!(response.feed(b"x"), Err(error.clone()), "an error stays");
                return judge_error(plan, response, error);
            }
        }
    }
}

fn judge_error(plan: &Plan, response: &Response, error: Error) -> Judgement {
    if error.in_head() {
        assert!(!response.head_done());
        return Judgement::Final(http::transport_error(plan, error));
    }
    assert!(response.head_done());
    http::judge_head(plan, response).unwrap_or_else(|| Judgement::Final(http::body_error(plan, error)))
}

fn is_bounded(judgement: &Judgement) {
    if let Judgement::Final(outcome) = judgement {
        let text = text_of(outcome);
        assert!(text.len() <= TEXT_BYTES_MAX, "{} bytes of text", text.len());
    }
}

fn text_of(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Success(text) | Outcome::Warning(text) | Outcome::Failure(text) | Outcome::Error(text) => text,
        Outcome::Local(cause) => panic!("a response is never trouble of our own: {cause:?}"),
    }
}

/// A server that gives the same answer to every request: the attempt ends, and sends whole requests only.
fn follow(plan: &Plan, response: &Response, judgement: Judgement) {
    let mut plan = plan.clone();
    let mut judgement = judgement;
    for _ in 0..HTTP_REQUESTS_MAX {
        let Judgement::Redirect(target) = judgement else {
            return is_bounded(&judgement);
        };
        assert!(!target.url().is_empty());
        plan = match plan.follow(&target) {
            Ok(plan) => plan,
            Err(outcome) => return is_bounded(&Judgement::Final(outcome)),
        };
        is_one_request(&plan);
        assert!(plan.request_number() > 1 && plan.dial_address().ends_with(&format!(":{}", plan.port)));
        judgement = http::judge(&plan, response);
    }
    panic!("more than {HTTP_REQUESTS_MAX} requests");
}

/// No byte of a manifest or of a `Location` ends a line.
///
/// # Panics
/// Where one does.
pub fn is_one_request(plan: &Plan) {
    let request = &plan.request;
    let ends = request.windows(2).filter(|two| two == b"\r\n").count();
    let breaks = request.iter().filter(|byte| matches!(byte, b'\r' | b'\n')).count();
    assert_eq!(breaks, 2 * ends, "a broken line in {plan:?}");
    let end = request.windows(4).position(|four| four == b"\r\n\r\n");
    assert_eq!(end, Some(request.len() - 4), "more than one message in {plan:?}");
    assert!(request.starts_with(b"GET ") && !request.contains(&0), "no request: {plan:?}");
}

/// The input with its escapes resolved.
fn unpack(input: &[u8]) -> Vec<u8> {
    let (bytes_max, input) = match input.strip_prefix(b"\xff") {
        Some(input) => (LARGE_BYTES_MAX, input),
        None => (SMALL_BYTES_MAX, input),
    };
    let mut bytes = Vec::with_capacity(input.len());
    let mut rest = input;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match (byte, after.split_first()) {
            (0xff, Some((times, after))) => {
                rest = after;
                repeat_line(&mut bytes, usize::from(*times), bytes_max);
            }
            _ => bytes.push(*byte),
        }
    }
    bytes.truncate(bytes_max);
    bytes
}

fn repeat_line(bytes: &mut Vec<u8>, times: usize, bytes_max: usize) {
    if times == 0 {
        bytes.push(0xff);
        return;
    }
    let before = bytes.len().saturating_sub(1);
    let start = bytes[..before].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let end = bytes.len();
    for _ in 0..times {
        if bytes.len() >= bytes_max {
            return;
        }
        bytes.extend_from_within(start..end);
    }
}

/// Lengths of pieces, the same for the same input: mostly single bytes and a few, sometimes many.
fn piece_lens(input: &[u8]) -> impl Iterator<Item = usize> {
    let mut state = input
        .iter()
        .fold(0x9e37_79b9_7f4a_7c15_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        match state % 8 {
            0..=3 => 1,
            4..=5 => 2 + (state >> 8) as usize % 14,
            6 => 16 + (state >> 8) as usize % 240,
            _ => 256 + (state >> 8) as usize % 4096,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_repeat_the_line_before_them() {
        assert_eq!(unpack(b"a\nbc\n\xff\x02d\xff\x03\xff\x00"), b"a\nbc\nbc\nbc\ndddd\xff");
        assert_eq!(unpack(b"\xff\xff\x02x\xff"), b"x\xff");
        let many = [b"0123456789abcdef\n".as_slice(), &b"\xff\xff".repeat(100)].concat();
        assert_eq!(unpack(&many).len(), SMALL_BYTES_MAX);
        assert_eq!(unpack(&[b"\xff", &*many].concat()).len(), LARGE_BYTES_MAX);
    }
}
