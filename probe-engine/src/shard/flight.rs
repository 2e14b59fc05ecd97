//! Attempts in flight: tcpSocket, and httpGet over plain HTTP, as state machines over a [`Kernel`].
//!
//! A flight is Connecting, Sending or Receiving (one operation in the kernel), or Cancelling: its outcome is known
//! and its last operation is about to come back. The two rules of own lateness live here:
//!
//! * a connect whose completion we see after the deadline succeeded iff the *kernel's* time of it is within; one that has
//!   not completed by its deadline failed, at a second look 50 ms later if the first came more than 50 ms late;
//! * where a step waited for our thread (send the request, read the answer), that wait is added to the deadline.
//!
//! **Invariant:** a socket is closed only after its last completion was reaped. Bounds: the caller starts at most
//! [`limits::FLIGHTS_PER_SHARD_MAX`]; spare buffers are at most [`limits::RECV_BUFFERS_SPARE_MAX`].

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use probe_core::action::AttemptId;
use probe_core::outcome::{LocalCause, Outcome};
use probe_core::time::Instant;
use probe_ebpf::Connect;
use slab::Slab;

use super::errand::Errand;
use super::kernel::{CloseMode, Completion, ConnectInfo, Kernel, SocketId};
use super::token::{Op, Token};
use super::witness::{self, Handshake};
use crate::ebpf::counters::Connects;
use crate::ebpf::{Target, Why};
use crate::limits;
use crate::prober::http1::{Progress, Response};
use crate::prober::{Phases, errno, http, tcp};

/// An attempt to start.
#[derive(Debug)]
pub struct Launch {
    /// Names it.
    pub attempt: AttemptId,
    /// What to do.
    pub errand: Errand,
    /// Where to connect to.
    pub peer: SocketAddr,
    /// Its deadline is so long after its start.
    pub timeout: Duration,
    /// tcpSocket: find out whether it is this target that takes the connect.
    pub witness: Option<Arc<Target>>,
}

/// An attempt that ended.
#[derive(Debug)]
pub struct Landed {
    /// Which.
    pub attempt: AttemptId,
    /// The errand, for the next attempt; `None` where the kernel still holds part of it.
    pub errand: Option<Errand>,
    /// When it began; later by the time that it waited for our thread.
    pub started: Instant,
    /// How long its parts took.
    pub phases: Phases,
    /// How it ended.
    pub end: End,
    /// Of a connect that succeeded: whether the target of [`Launch::witness`] took it, and who else. Without one, or where it
    /// did not come to that, [`Why::NotShown`].
    pub taken: Result<(), Why>,
}

/// See [`Landed::end`].
#[derive(Debug)]
pub enum End {
    /// With an outcome.
    Outcome(Outcome),
    /// With a redirect that somebody else follows, within the same deadline.
    Redirect(http::Target),
}

/// One look at the completion queue.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// For a completion: the clock after it was taken from the queue. For a judgement: the clock before the queue was found
    /// empty, so everything that had completed by then has been taken on.
    pub now: Instant,
    /// When the queue was found empty before: what has become ready since may have waited that long at most.
    pub before: Instant,
}

/// How flights are made.
#[derive(Clone, Debug)]
pub struct Rules {
    /// How connections are ended.
    pub close: CloseMode,
    /// `net.ipv4.ip_local_port_range`: only a connect to such a port can reach itself.
    pub local_ports: RangeInclusive<u16>,
    /// What the kernel program notes of our connects, where there is one: its clock, and who took them.
    pub connects: Option<Arc<Connects>>,
}

/// See the module.
pub struct Flights {
    rules: Rules,
    flights: Slab<Flight>,
    generation: u32,
    /// When to look at which flight: its deadline, or the second look.
    looks: BTreeSet<(Instant, u32)>,
    /// Places of those that may have been submitted later than they think.
    launched: Vec<(u32, u32)>,
    http_len: usize,
    cancelling: usize,
    /// Handshakes that may still be asked about only to measure them.
    samples_left: u32,
    buffers_spare: Vec<Box<[u8]>>,
    responses_spare: Vec<Response>,
    landed: VecDeque<Landed>,
}

struct Flight {
    attempt: AttemptId,
    generation: u32,
    socket: SocketId,
    step: Step,
    errand: Option<Errand>,
    is_http: bool,
    response: Option<Response>,
    started: Instant,
    submitted: Instant,
    timeout: Duration,
    deadline: Instant,
    /// Its entry in `looks`.
    look_at: Instant,
    /// The look at its deadline came late: there is a second one.
    late_look: Option<LateLook>,
    /// When its present operation was submitted.
    touched: Instant,
    connected: Option<Instant>,
    sent: Option<Instant>,
    first_byte: Option<Instant>,
    witness: Option<Arc<Target>>,
    /// Known from before the connect where there is a witness.
    cookie: Option<u64>,
    /// By the kernel program's clock.
    handshake: Option<Handshake>,
    /// How long the handshake took, by whichever of the kernel's measures there was.
    measured: Option<Duration>,
    taken: Result<(), Why>,
}

/// A look more than [`limits::LATE_LOOK`] after a deadline. What held us up may have held up the kernel's softirqs too, and
/// they catch up about now.
#[derive(Clone, Copy)]
struct LateLook {
    at: Instant,
    /// For so long, at most, the flight had nobody.
    held_up: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Connecting,
    /// With so many bytes of the request sent.
    Sending(usize),
    Receiving,
    Cancelling,
}

impl Flights {
    /// None in flight.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            flights: Slab::new(),
            generation: 0,
            looks: BTreeSet::new(),
            launched: Vec::new(),
            http_len: 0,
            cancelling: 0,
            samples_left: 0,
            buffers_spare: Vec::new(),
            responses_spare: Vec::new(),
            landed: VecDeque::new(),
        }
    }

    /// Attempts in flight, cancelled ones included until their completions were reaped.
    #[must_use]
    pub fn len(&self) -> usize {
        self.flights.len()
    }

    /// Nothing in flight.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }

    /// Of these, httpGet.
    #[must_use]
    pub fn http_len(&self) -> usize {
        self.http_len
    }

    /// Of these, those whose last completion is awaited only to close the socket.
    #[must_use]
    pub fn cancelling(&self) -> usize {
        self.cancelling
    }

    /// From now on so many handshakes more may be asked about only to measure them.
    pub fn sample_handshakes(&mut self, count: u32) {
        self.samples_left = count;
    }

    /// When [`Flights::judge`] wants to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.looks.first().map(|(at, _)| *at)
    }

    /// The next attempt that ended.
    pub fn poll_landed(&mut self) -> Option<Landed> {
        self.landed.pop_front()
    }

    /// Starts an attempt at `now`. One that cannot even begin has landed when this returns.
    pub fn start<K: Kernel>(&mut self, kernel: &mut K, launch: Launch, now: Instant) {
        let Launch { attempt, errand, peer, timeout, witness } = launch;
        let socket = match kernel.socket(&peer, self.rules.close) {
            Ok(socket) => socket,
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                let outcome = errand.dial_outcome("socket", errno, || kernel.ports_used_up(&peer));
                return self.land_unstarted(attempt, errand, now, outcome);
            }
        };
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let index = self.flights.vacant_key() as u32;
        let token = Token::new(index, generation, Op::Connect);
        // Before the connect: a program without a helper for it knows a socket only by a cookie that it has by then.
        let cookie = witness.as_ref().and_then(|_| kernel.cookie(socket).ok());
        if index >= Token::INDEX_END || kernel.connect(token, socket, peer).is_err() {
            kernel.close(socket);
            return self.land_unstarted(attempt, errand, now, Outcome::Local(LocalCause::RingFull));
        }
        let deadline = now + timeout;
        let is_http = errand.is_http();
        self.http_len += usize::from(is_http);
        self.flights.insert(Flight {
            attempt,
            generation,
            socket,
            step: Step::Connecting,
            errand: Some(errand),
            is_http,
            response: None,
            started: now,
            submitted: now,
            timeout,
            deadline,
            look_at: deadline,
            late_look: None,
            touched: now,
            connected: None,
            sent: None,
            first_byte: None,
            witness,
            cookie,
            handshake: None,
            measured: None,
            taken: Err(Why::NotShown),
        });
        self.looks.insert((deadline, index));
        self.launched.push((index, generation));
    }

    /// Something was started since the last call of [`Flights::submitted`].
    #[must_use]
    pub fn has_launched(&self) -> bool {
        !self.launched.is_empty()
    }

    /// What was started since the last call has now been handed to the kernel: where that took us noticeably long, the
    /// attempts do not pay for it.
    pub fn submitted(&mut self, delay: Duration) {
        let launched = std::mem::take(&mut self.launched);
        if delay >= limits::GIVE_BACK_MIN {
            for (index, generation) in &launched {
                if let Some(flight) = self.flights.get_mut(*index as usize)
                    && flight.generation == *generation
                    && flight.step == Step::Connecting
                {
                    flight.submitted = flight.submitted + delay;
                    flight.touched = flight.submitted;
                    flight.deadline = flight.deadline + delay;
                    let at = flight.deadline;
                    self.look_at(*index, at);
                }
            }
        }
        self.launched = launched;
        self.launched.clear();
    }

    /// Takes a completion on: the flight goes to its next step, or lands.
    pub fn complete<K: Kernel>(&mut self, kernel: &mut K, completion: Completion, look: Look) {
        let Completion { token, result, buffer } = completion;
        let index = token.index();
        let Some(flight) = self.flights.get(index as usize).filter(|flight| flight.generation == token.generation())
        else {
            tracing::trace!(?token, "completion of no flight");
            return self.recycle(buffer);
        };
        match flight.step {
            Step::Cancelling => {
                self.recycle(buffer);
                self.cancelling -= 1;
                self.remove(kernel, index);
            }
            Step::Connecting => self.connected(kernel, index, result, look),
            Step::Sending(before) => self.sent(kernel, index, before, result, buffer, look),
            Step::Receiving => self.received(kernel, index, result, buffer, look),
        }
    }

    /// Gives up what is past its deadline. To be called when every completion there was at `look.now` has been taken on.
    pub fn judge<K: Kernel>(&mut self, kernel: &mut K, look: Look) {
        let now = look.now;
        while let Some(&(at, index)) = self.looks.first()
            && at <= now
        {
            let flight = &mut self.flights[index as usize];
            if now - at > limits::LATE_LOOK && flight.late_look.is_none() {
                flight.note_look(look);
                self.look_at(index, now + limits::LATE_LOOK);
                continue;
            }
            let outcome = flight.timed_out();
            self.give_up(kernel, index, Some((outcome, now)));
        }
    }

    /// Gives up everything, without outcomes: the shard ends.
    pub fn cancel_all<K: Kernel>(&mut self, kernel: &mut K) {
        let indices: Vec<u32> = self.flights.iter().map(|(index, _)| index as u32).collect();
        for index in indices {
            if self.flights[index as usize].step != Step::Cancelling {
                self.give_up(kernel, index, None);
            }
        }
    }

    fn connected<K: Kernel>(&mut self, kernel: &mut K, index: u32, result: Result<usize, i32>, look: Look) {
        let flight = &mut self.flights[index as usize];
        let peer_port = flight.errand.as_ref().map_or(0, Errand::port);
        if let Err(errno) = result {
            let used_up = || flight.peer().is_some_and(|peer| kernel.ports_used_up(&peer));
            let outcome = flight.dial_outcome("connect", errno, used_up);
            return self.land(kernel, index, End::Outcome(outcome), look.now);
        }
        // Without what was given back: the kernel knows better how long the handshake took.
        let late = look.now > flight.started + flight.timeout;
        flight.note_look(look);
        let may_be_itself = self.rules.local_ports.contains(&peer_port);
        let may_have_waited = flight.is_http && look.now - look.before >= limits::GIVE_BACK_MIN;
        let witness = flight.witness.take();
        let asks = late || may_have_waited || witness.is_some();
        let seen = self.rules.connects.as_deref().filter(|_| asks).and_then(|connects| flight.seen(kernel, connects));
        flight.handshake = seen.as_ref().and_then(Handshake::of);
        let info = (asks || may_be_itself).then(|| kernel.connect_info(flight.socket));
        let info = info.and_then(Result::ok);
        if info.is_some_and(|info| info.local == info.peer) {
            let outcome = flight.dial_outcome("connect", libc::ECONNREFUSED, || false);
            return self.land(kernel, index, End::Outcome(outcome), look.now);
        }
        let sampled = self.samples_left > 0 && info.is_none() && flight.handshake.is_none();
        self.samples_left -= u32::from(sampled);
        // Only to be told: nothing is decided by it, so that it does not matter which were asked about.
        let measure = info.or_else(|| sampled.then(|| kernel.connect_info(flight.socket)).and_then(Result::ok));
        let rtt = measure.filter(|info| info.retransmits == 0).map(|info| info.rtt);
        flight.measured = flight.handshake.as_ref().map(|by_kernel| by_kernel.took).or(rtt);
        let connected = info.map_or(look.now, |info| established_at(&info, flight.submitted, look.now));
        let connected = flight.handshake.map_or(connected, |handshake| handshake.established.min(look.now));
        if !flight.is_in_time(info.as_ref(), connected) {
            let outcome = flight.timed_out();
            return self.land(kernel, index, End::Outcome(outcome), look.now);
        }
        flight.connected = Some(connected);
        if !flight.is_http {
            if let (Some(target), Some(info)) = (witness, info) {
                flight.taken = witness::taken(&target, seen.as_ref(), info.local, info.peer);
            }
            return self.land(kernel, index, End::Outcome(tcp::success()), look.now);
        }
        self.give_back(index, connected, look.now, look);
        let flight = &mut self.flights[index as usize];
        flight.sent = Some(look.now);
        let request = flight.errand.as_mut().map(Errand::take_request).unwrap_or_default();
        self.send(kernel, index, request, 0, look);
    }

    fn send<K: Kernel>(&mut self, kernel: &mut K, index: u32, request: Box<[u8]>, from: usize, look: Look) {
        let flight = &mut self.flights[index as usize];
        flight.step = Step::Sending(from);
        let token = Token::new(index, flight.generation, Op::Send);
        if let Err((_full, request)) = kernel.send(token, flight.socket, request, from) {
            flight.put_request(request);
            self.land(kernel, index, End::Outcome(Outcome::Local(LocalCause::RingFull)), look.now);
        }
    }

    fn sent<K: Kernel>(
        &mut self,
        kernel: &mut K,
        index: u32,
        before: usize,
        result: Result<usize, i32>,
        request: Option<Box<[u8]>>,
        look: Look,
    ) {
        let request = request.unwrap_or_default();
        if result.is_ok() {
            self.request_taken(kernel, index, look);
        }
        let sent = match result {
            Ok(0) => Err(libc::EPIPE),
            Ok(bytes) => Ok(before.saturating_add(bytes)),
            Err(errno) => Err(errno),
        };
        match sent {
            Ok(sent) if sent < request.len() => self.send(kernel, index, request, sent, look),
            Ok(_) => {
                self.flights[index as usize].put_request(request);
                self.recv(kernel, index, None, look);
            }
            Err(errno) => {
                self.flights[index as usize].put_request(request);
                self.land_broken(kernel, index, "write", errno, look);
            }
        }
    }

    fn recv<K: Kernel>(&mut self, kernel: &mut K, index: u32, buffer: Option<Box<[u8]>>, look: Look) {
        let buffer = buffer
            .or_else(|| self.buffers_spare.pop())
            .unwrap_or_else(|| vec![0; limits::RECV_BUFFER_BYTES].into_boxed_slice());
        let flight = &mut self.flights[index as usize];
        if flight.response.is_none() {
            flight.response = Some(self.responses_spare.pop().unwrap_or_default());
        }
        flight.step = Step::Receiving;
        let token = Token::new(index, flight.generation, Op::Recv);
        if let Err((_full, buffer)) = kernel.recv(token, flight.socket, buffer) {
            self.recycle(Some(buffer));
            self.land(kernel, index, End::Outcome(Outcome::Local(LocalCause::RingFull)), look.now);
        }
    }

    fn received<K: Kernel>(
        &mut self,
        kernel: &mut K,
        index: u32,
        result: Result<usize, i32>,
        buffer: Option<Box<[u8]>>,
        look: Look,
    ) {
        let bytes = match result {
            Ok(bytes) => bytes,
            Err(errno) => {
                self.recycle(buffer);
                return self.land_broken(kernel, index, "read", errno, look);
            }
        };
        let limit = self.flights[index as usize].limit();
        self.flights[index as usize].note_look(look);
        let may_have_waited = look.now - look.before >= limits::GIVE_BACK_MIN;
        let info = may_have_waited.then(|| kernel.connect_info(self.flights[index as usize].socket));
        let age = info.and_then(Result::ok).map_or(Duration::ZERO, |info| {
            // An end of the connection carries no data, but it does carry an acknowledgement.
            if bytes > 0 { info.last_data_age } else { info.last_ack_age }
        });
        self.give_back(index, look.now.saturating_sub(age), look.now, look);
        let flight = &mut self.flights[index as usize];
        let end = if look.now > limit.max(flight.deadline) {
            // It came too late: the attempt saw what came before.
            Some(End::Outcome(flight.timed_out()))
        } else {
            flight.first_byte.get_or_insert(look.now);
            flight.feed(buffer.as_deref().and_then(|buffer| buffer.get(..bytes)).unwrap_or_default())
        };
        match end {
            Some(end) => {
                self.recycle(buffer);
                self.land(kernel, index, end, look.now);
            }
            None => self.recv(kernel, index, buffer, look),
        }
    }

    /// The kernel takes a request when it gets it, which may be later than we meant: then the request waited for us.
    fn request_taken<K: Kernel>(&mut self, kernel: &mut K, index: u32, look: Look) {
        let flight = &self.flights[index as usize];
        let (asked, socket) = (flight.touched, flight.socket);
        let may_have_waited = look.now - asked >= limits::GIVE_BACK_MIN;
        let info = may_have_waited.then(|| kernel.connect_info(socket)).and_then(Result::ok);
        let taken = info.map_or(look.now, |info| look.now.saturating_sub(info.last_sent_age));
        self.give_back(index, asked, taken.max(asked), look);
    }

    /// A step was ready at `ready` and waited for our thread until `taken`, not from before the last look: the attempt
    /// gets that time back. If it became ready only as a late look came, it gets back what made the look late. With it
    /// the flight is in a new step, whose deadline has not been looked at.
    fn give_back(&mut self, index: u32, ready: Instant, taken: Instant, look: Look) {
        let flight = &mut self.flights[index as usize];
        let waited = taken - ready.max(look.before).max(flight.touched);
        flight.touched = taken;
        if waited >= limits::GIVE_BACK_MIN {
            flight.deadline = flight.deadline + waited;
        }
        if let Some(late) = flight.late_look.take().filter(|late| late.covers(ready)) {
            flight.deadline = flight.deadline + late.held_up;
        }
        if flight.look_at != flight.deadline {
            let at = flight.deadline;
            self.look_at(index, at);
        }
    }

    fn look_at(&mut self, index: u32, at: Instant) {
        let flight = &mut self.flights[index as usize];
        self.looks.remove(&(flight.look_at, index));
        flight.look_at = at;
        self.looks.insert((at, index));
    }

    /// Cancels the flight's operation; the outcome, if it has one, does not wait for that.
    fn give_up<K: Kernel>(&mut self, kernel: &mut K, index: u32, outcome: Option<(Outcome, Instant)>) {
        let flight = &mut self.flights[index as usize];
        let op = match flight.step {
            Step::Connecting => Op::Connect,
            Step::Sending(_) => Op::Send,
            Step::Receiving | Step::Cancelling => Op::Recv,
        };
        // Without its request, an errand is no good to the next attempt.
        let errand = if op == Op::Send { None } else { flight.errand.take() };
        flight.step = Step::Cancelling;
        self.cancelling += 1;
        self.looks.remove(&(flight.look_at, index));
        kernel.cancel(Token::new(index, flight.generation, op), flight.socket);
        if let Some((outcome, now)) = outcome {
            let landed = flight.landed(errand, End::Outcome(outcome), now);
            self.landed.push_back(landed);
        }
    }

    /// The connection broke while the request was sent or the response read.
    fn land_broken<K: Kernel>(&mut self, kernel: &mut K, index: u32, call: &str, errno: i32, look: Look) {
        let flight = &self.flights[index as usize];
        let outcome = match errno::local_cause(errno, || false) {
            Some(cause) => Outcome::Local(cause),
            None => {
                let info = kernel.connect_info(flight.socket).ok();
                let ends = info.map(|info| format!("{}->{}", info.local, info.peer));
                let ends = ends.or_else(|| flight.peer().map(|peer| peer.to_string())).unwrap_or_default();
                flight.broken(format_args!("{call} tcp {ends}: {call}: {}", errno::wording(errno)))
            }
        };
        self.land(kernel, index, End::Outcome(outcome), look.now);
    }

    /// Ends a flight none of whose operations is pending.
    fn land<K: Kernel>(&mut self, kernel: &mut K, index: u32, end: End, now: Instant) {
        let flight = &mut self.flights[index as usize];
        let errand = flight.errand.take();
        let landed = flight.landed(errand, end, now);
        self.landed.push_back(landed);
        self.remove(kernel, index);
    }

    fn land_unstarted(&mut self, attempt: AttemptId, errand: Errand, now: Instant, outcome: Outcome) {
        let (errand, phases, taken) = (Some(errand), Phases::default(), Err(Why::NotShown));
        self.landed.push_back(Landed { attempt, errand, started: now, phases, end: End::Outcome(outcome), taken });
    }

    fn remove<K: Kernel>(&mut self, kernel: &mut K, index: u32) {
        let flight = self.flights.remove(index as usize);
        self.looks.remove(&(flight.look_at, index));
        self.http_len -= usize::from(flight.is_http);
        kernel.close(flight.socket);
        if let Some(mut response) = flight.response
            && self.responses_spare.len() < limits::RECV_BUFFERS_SPARE_MAX
        {
            response.reset();
            self.responses_spare.push(response);
        }
    }

    fn recycle(&mut self, buffer: Option<Box<[u8]>>) {
        // A request that comes back from a cancelled send is of another size.
        if let Some(buffer) = buffer.filter(|buffer| buffer.len() == limits::RECV_BUFFER_BYTES)
            && self.buffers_spare.len() < limits::RECV_BUFFERS_SPARE_MAX
        {
            self.buffers_spare.push(buffer);
        }
    }
}

impl Flight {
    /// The response's next bytes, none at its end. `None` = more must come.
    fn feed(&mut self, bytes: &[u8]) -> Option<End> {
        let (Some(errand), Some(response)) = (&self.errand, &mut self.response) else { return None };
        let had_head = response.head_done();
        let progress =
            if bytes.is_empty() { response.feed_eof().map(|()| Progress::Done) } else { response.feed(bytes) };
        // What is no redirect means the same whatever was asked for.
        match progress {
            Ok(Progress::NeedMore) if !response.head_done() || !http::is_redirect(response) => return None,
            // A redirect that is not followed, as its head has said: not to be asked again with each byte of the body.
            Ok(Progress::NeedMore) if had_head => return None,
            Ok(Progress::Done) if !http::is_redirect(response) => {
                return Some(End::Outcome(http::final_outcome(response)));
            }
            Ok(_) | Err(_) => {}
        }
        let plan = match errand.http_plan() {
            Ok(plan) => plan,
            Err(outcome) => return Some(End::Outcome(outcome)),
        };
        let judgement = match progress {
            Err(error) if error.in_head() => http::Judgement::Final(http::transport_error(&plan, error)),
            // A redirect's body is nobody's business.
            Err(error) => http::judge_head(&plan, response)
                .unwrap_or_else(|| http::Judgement::Final(http::body_error(&plan, error))),
            Ok(Progress::Done) => http::judge(&plan, response),
            // Nobody waits for the body of a redirect.
            Ok(Progress::NeedMore) => http::judge_head(&plan, response)?,
        };
        Some(match judgement {
            http::Judgement::Final(outcome) => End::Outcome(outcome),
            http::Judgement::Redirect(target) => End::Redirect(target),
        })
    }

    /// The first late look at it is remembered.
    fn note_look(&mut self, look: Look) {
        if look.now - self.deadline > limits::LATE_LOOK && self.late_look.is_none() {
            let held_up = (look.now - look.before).min(look.now - self.touched);
            self.late_look = Some(LateLook { at: look.now, held_up });
        }
    }

    /// Until when a step counts. Between a late look and the second one the kernel's clock of it is no evidence: what
    /// held us up may have held up its softirqs, which read that clock.
    fn limit(&self) -> Instant {
        self.late_look.map_or(self.deadline, |late| self.deadline.max(late.at + limits::LATE_LOOK))
    }

    /// What the kernel program noted of its connect.
    fn seen<K: Kernel>(&self, kernel: &K, connects: &Connects) -> Option<Connect> {
        connects.read(self.cookie.or_else(|| kernel.cookie(self.socket).ok())?)
    }

    /// A handshake was over at `connected`. Where the kernel measured it, neither when we submitted it nor when we look
    /// matters; the program's measure comes before TCP_INFO's, which is blind where a SYN was sent again.
    fn is_in_time(&self, info: Option<&ConnectInfo>, connected: Instant) -> bool {
        let in_time = match (self.handshake, info) {
            (Some(handshake), _) => handshake.took <= self.timeout,
            (None, Some(info)) if info.retransmits == 0 => info.rtt <= self.timeout,
            (None, _) => connected <= self.deadline,
        };
        in_time || self.late_look.is_some_and(|late| late.covers(connected))
    }

    /// What the attempt saw when its deadline passed.
    fn timed_out(&self) -> Outcome {
        match &self.errand {
            Some(errand) => errand.timed_out(self.connected.is_some(), self.head_done()),
            None => Outcome::Local(LocalCause::RingFull),
        }
    }

    fn dial_outcome(&self, call: &str, errno: i32, used_up: impl FnOnce() -> bool) -> Outcome {
        match &self.errand {
            Some(errand) => errand.dial_outcome(call, errno, used_up),
            None => Outcome::Local(LocalCause::RingFull),
        }
    }

    fn broken(&self, cause: fmt::Arguments<'_>) -> Outcome {
        match &self.errand {
            Some(errand) => errand.broken(self.head_done(), cause),
            None => Outcome::Local(LocalCause::RingFull),
        }
    }

    fn put_request(&mut self, request: Box<[u8]>) {
        if let Some(errand) = &mut self.errand {
            errand.put_request(request);
        }
    }

    fn head_done(&self) -> bool {
        self.response.as_ref().is_some_and(Response::head_done)
    }

    fn peer(&self) -> Option<SocketAddr> {
        self.errand.as_ref().and_then(Errand::addr)
    }

    fn landed(&self, errand: Option<Errand>, end: End, now: Instant) -> Landed {
        let between = |from: Option<Instant>, to: Option<Instant>| from.zip(to).map(|(from, to)| to - from);
        let phases = Phases {
            connect: self.handshake.map(|by_kernel| by_kernel.took).or(self.connected.map(|at| at - self.started)),
            handshake: self.measured,
            first_byte: between(self.sent, self.first_byte),
            body: self.first_byte.map(|at| now - at),
            total: now - self.started,
            ..Phases::default()
        };
        let (started, taken) = (self.deadline.saturating_sub(self.timeout), self.taken);
        Landed { attempt: self.attempt, errand, started, phases, end, taken }
    }
}

impl LateLook {
    /// What became ready at this time may have been held up together with us.
    fn covers(&self, at: Instant) -> bool {
        (self.at.saturating_sub(limits::LATE_LOOK)..=self.at + limits::LATE_LOOK).contains(&at)
    }
}

/// The kernel's time of a handshake, at most `now`: not after the newest acknowledgement, and where nothing was
/// retransmitted not after our latest time of the SYN and what its answer took.
fn established_at(info: &ConnectInfo, submitted: Instant, now: Instant) -> Instant {
    let acknowledged = now.saturating_sub(info.last_ack_age);
    if info.retransmits == 0 { acknowledged.min(submitted + info.rtt) } else { acknowledged }
}
