//! What probes are made against, and whether that counts as well.

use std::time::Duration;

use probe_core::time::Instant;

use super::random::Random;

/// A response is longer than what is read of it from here on.
const BODY_READ_MAX: u64 = 10 * 1024;

/// What happens to a SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// SYN-ACK.
    Open,
    /// RST.
    Refuse,
    /// Nothing.
    Drop,
    /// Nobody listens, and the connection reaches its own end.
    Itself,
}

/// What an HTTP request leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A whole response.
    Status(u16),
    /// Longer than what is read of it.
    Long,
    /// To another host: not followed.
    RedirectAway,
    /// To the same host: followed by the pool.
    RedirectHome,
    /// Its window stays closed: not even the request is taken.
    Deaf,
    /// FIN without a byte.
    Nothing,
    /// Something that is not HTTP.
    Garbage,
    /// RST, or no more bytes, before the head is complete.
    BrokenHead {
        /// RST.
        reset: bool,
    },
    /// RST, FIN or no more bytes within a body that has not reached its announced length.
    BrokenBody(Break),
}

/// See [`Answer::BrokenBody`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// RST.
    Reset,
    /// FIN.
    Fin,
    /// Silence.
    Stall,
}

/// How a target behaves for the time being.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behaviour {
    /// To a SYN.
    pub door: Door,
    /// From a SYN to its answer.
    pub latency: Duration,
    /// To a request.
    pub answer: Answer,
    /// From the request's last byte to the response's last one.
    pub answer_latency: Duration,
}

/// What an attempt must find that sees nothing else from its start to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// No failure.
    Well,
    /// No success.
    Bad,
    /// An error, which counts as neither.
    Mute,
    /// Anything.
    Unclear,
}

/// A behaviour, and since when.
#[derive(Clone, Debug)]
pub struct Target {
    /// Now.
    pub behaviour: Behaviour,
    /// When it became so.
    pub since: Instant,
    /// It is asked with httpGet.
    pub is_http: bool,
    /// The deadline of attempts at it.
    pub timeout: Duration,
}

impl Target {
    /// All that is wrong with it is that its answers come too late.
    #[must_use]
    pub fn is_slow(&self) -> bool {
        let quick = Behaviour { latency: Duration::ZERO, answer_latency: Duration::ZERO, ..self.behaviour };
        self.health() == Health::Bad && Target { behaviour: quick, ..self.clone() }.health() == Health::Well
    }

    /// What its behaviour means for an attempt.
    #[must_use]
    pub fn health(&self) -> Health {
        let Behaviour { door, latency, answer, answer_latency } = self.behaviour;
        if door != Door::Open {
            return Health::Bad;
        }
        let total = if self.is_http { latency + answer_latency } else { latency };
        // Of these, the end is not waited for.
        let may_end_early = matches!(answer, Answer::Long | Answer::RedirectAway | Answer::RedirectHome);
        if total >= self.timeout * 3 / 2 && !(self.is_http && may_end_early) {
            return Health::Bad;
        }
        if total > self.timeout / 2 {
            return Health::Unclear;
        }
        if !self.is_http {
            return Health::Well;
        }
        match answer {
            Answer::Status(200..=299) | Answer::Long | Answer::RedirectAway => Health::Well,
            Answer::RedirectHome => Health::Unclear,
            Answer::BrokenBody(_) => Health::Mute,
            Answer::Status(_) | Answer::Deaf | Answer::Nothing | Answer::Garbage | Answer::BrokenHead { .. } => {
                Health::Bad
            }
        }
    }
}

impl Behaviour {
    /// One that is well.
    pub fn well(random: &mut Random, timeout: Duration) -> Self {
        let share = timeout / 4;
        let latency = |random: &mut Random| match random.below(3) {
            0 => random.duration(Duration::from_micros(20), Duration::from_micros(900)),
            1 => random.millis(1, 20),
            _ => random.duration(Duration::ZERO, share),
        };
        let answer = match random.below(8) {
            0 => Answer::RedirectAway,
            1 => Answer::Long,
            2 => Answer::Status(204),
            _ => Answer::Status(200),
        };
        Self { door: Door::Open, latency: latency(random), answer, answer_latency: latency(random) }
    }

    /// One that is bad in any way there is.
    pub fn bad(random: &mut Random, is_http: bool, timeout: Duration) -> Self {
        let mut behaviour = Self::well(random, timeout);
        let kinds = if is_http { 11 } else { 6 };
        match random.below(kinds) {
            0 | 1 => behaviour.door = Door::Refuse,
            2 => behaviour.door = Door::Drop,
            3 => behaviour.door = Door::Itself,
            4 | 5 => {
                let late = random.duration(timeout * 3 / 2, timeout * 4);
                let is_answer = is_http && random.below(2) == 0;
                *(if is_answer { &mut behaviour.answer_latency } else { &mut behaviour.latency }) = late;
                behaviour.answer = Answer::Status(200);
            }
            6 => behaviour.answer = random.pick(&[Answer::Nothing, Answer::Deaf]),
            7 => behaviour.answer = Answer::Garbage,
            8 => behaviour.answer = Answer::BrokenHead { reset: random.below(2) == 0 },
            _ => behaviour.answer = Answer::Status(random.pick(&[404, 500, 503])),
        }
        behaviour
    }

    /// Any.
    pub fn any(random: &mut Random, is_http: bool, timeout: Duration) -> Self {
        match random.below(10) {
            0..=4 => Self::well(random, timeout),
            5..=7 => Self::bad(random, is_http, timeout),
            8 if is_http => {
                let answer = match random.below(4) {
                    0 => Answer::RedirectHome,
                    1 => Answer::BrokenBody(Break::Reset),
                    2 => Answer::BrokenBody(Break::Fin),
                    _ => Answer::BrokenBody(Break::Stall),
                };
                Self { answer, ..Self::well(random, timeout) }
            }
            _ => {
                let latency = random.duration(timeout / 2, timeout * 3 / 2);
                Self { latency, ..Self::well(random, timeout) }
            }
        }
    }
}

/// What comes out of a server's end of a connection, so long after the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Bytes.
    Bytes(Vec<u8>),
    /// FIN.
    Fin,
    /// RST.
    Reset,
}

/// The response to one request: what is sent when, in order. A stall just ends.
pub fn response(random: &mut Random, behaviour: &Behaviour) -> Vec<(Duration, Sent)> {
    let (bytes, end) = whole(random, behaviour.answer);
    let pieces_len = random.range(1, 4).min(bytes.len() as u64).max(1);
    let mut cuts: Vec<usize> = (1..pieces_len).map(|_| random.below(bytes.len() as u64) as usize).collect();
    cuts.push(bytes.len());
    cuts.sort_unstable();
    let last = behaviour.answer_latency;
    let mut times: Vec<Duration> = cuts.iter().map(|_| random.duration(last / 2, last)).collect();
    times.sort_unstable();
    times.pop();
    times.push(last);
    let mut from = 0;
    let mut sent = Vec::with_capacity(cuts.len() + 1);
    for (cut, at) in cuts.into_iter().zip(times) {
        if cut > from {
            sent.push((at, Sent::Bytes(bytes[from..cut].to_vec())));
            from = cut;
        }
    }
    sent.extend(end.map(|end| (last, end)));
    sent
}

fn whole(random: &mut Random, answer: Answer) -> (Vec<u8>, Option<Sent>) {
    let interim: &[u8] = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n";
    let mut bytes = if random.below(4) == 0 { interim.to_vec() } else { Vec::new() };
    match answer {
        Answer::Status(status) => body(random, &mut bytes, status, "", random_len(status)),
        Answer::Long => {
            let len = random.range(BODY_READ_MAX + 1, 2 * BODY_READ_MAX);
            body(random, &mut bytes, 200, "", len);
        }
        Answer::RedirectAway => body(random, &mut bytes, 302, "Location: http://192.0.2.1/\r\n", 5),
        Answer::RedirectHome => body(random, &mut bytes, 302, "Location: /elsewhere\r\n", 5),
        Answer::Nothing | Answer::Deaf => bytes.clear(),
        Answer::Garbage => bytes = b"SSH-2.0-OpenSSH_9.2\r\n\r\n\r\n".to_vec(),
        Answer::BrokenHead { reset } => {
            bytes.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Len");
            return (bytes, reset.then_some(Sent::Reset));
        }
        Answer::BrokenBody(how) => {
            bytes.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this");
            let end = match how {
                Break::Reset => Some(Sent::Reset),
                Break::Fin => Some(Sent::Fin),
                Break::Stall => None,
            };
            return (bytes, end);
        }
    }
    (bytes, Some(Sent::Fin))
}

fn random_len(status: u16) -> u64 {
    if status == 204 { 0 } else { 40 }
}

/// A response in one of the three framings.
fn body(random: &mut Random, bytes: &mut Vec<u8>, status: u16, fields: &str, len: u64) {
    let body = vec![b'x'; len as usize];
    let head = format!("HTTP/1.1 {status} Whatever\r\n{fields}");
    bytes.extend_from_slice(head.as_bytes());
    match random.below(3) {
        0 if status != 204 => {
            bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
            for chunk in body.chunks(random.range(64, 4_000) as usize) {
                bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\n\r\n");
        }
        1 if status != 204 => {
            bytes.extend_from_slice(b"Connection: close\r\n\r\n");
            bytes.extend_from_slice(&body);
        }
        _ => {
            bytes.extend_from_slice(format!("Content-Length: {len}\r\n\r\n").as_bytes());
            bytes.extend_from_slice(&body);
        }
    }
}
