//! httpGet attempts on the pool: HTTPS, hosts that are names, and redirects that are followed, all with one
//! deadline (`pkg/probe/http/http.go`).
//!
//! Invariant: an attempt ends by itself at its deadline, with every socket it made.

use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use probe_core::outcome::Outcome;
use probe_core::spec::{Handler, HttpGet, Scheme};
use probe_core::time::Instant;

use crate::{clock, limits};

use super::http::{self, Judgement, Plan, Purpose, Target};
use super::http1::{Progress, Response};
use super::{Attempted, Phases, Request, dial};

mod session;
mod wire;

use session::{Gained, Peer, Session, Sessions, Store};
use wire::{Broken, Wire};

static SESSIONS: LazyLock<Sessions> = LazyLock::new(Sessions::default);

/// Makes one httpGet attempt, from `started` on, which is where its timeout counts from. `resume` is the redirect
/// to follow after `requests_made` requests that a shard has made; without it the probe's own URL is asked.
pub async fn attempt(request: &Request, started: Instant, resume: Option<Target>, requests_made: u8) -> Attempted {
    let mut phases = Phases::default();
    let deadline = started + request.spec.timeout();
    let outcome = match &request.spec.handler {
        Handler::HttpGet(get) => match first_plan(request, get, resume, requests_made) {
            Ok(plan) => follow_all(plan, deadline, &mut phases).await,
            Err(outcome) => outcome,
        },
        other => Outcome::Error(format!("{} is no httpGet handler", other.as_str()).into()),
    };
    phases.total = clock::now() - started;
    Attempted { outcome, phases }
}

/// Makes the requests of a lifecycle hook, for which nothing sets a time limit but its caller, who may drop this, and
/// [`limits::HOOK_REQUEST_MAX`].
pub async fn hook(plan: Plan) -> Outcome {
    follow_all(plan, clock::now() + limits::HOOK_REQUEST_MAX, &mut Phases::default()).await
}

fn first_plan(request: &Request, get: &HttpGet, resume: Option<Target>, requests_made: u8) -> Result<Plan, Outcome> {
    let plan = Plan::new(get, request.pod_ip)?;
    match resume {
        Some(target) => plan.after(requests_made.saturating_sub(1)).follow(&target),
        None => Ok(plan),
    }
}

async fn follow_all(mut plan: Plan, deadline: Instant, phases: &mut Phases) -> Outcome {
    loop {
        let next = match ask(&plan, deadline, phases).await {
            Ok(Judgement::Final(outcome)) | Err(outcome) => return outcome,
            Ok(Judgement::Redirect(target)) => plan.follow(&target),
        };
        match next {
            Ok(next) => plan = next,
            Err(outcome) => return outcome,
        }
    }
}

/// One request and its response. Where a TLS session was offered and the connection broke without an answer, it is made
/// once more with a full handshake: resuming is our idea, and must not cost the target a failure.
async fn ask(plan: &Plan, deadline: Instant, phases: &mut Phases) -> Result<Judgement, Outcome> {
    let session = peer(plan).and_then(|peer| SESSIONS.take(&peer, clock::now()));
    let Some(session) = session else {
        return exchange(plan, open(plan, None, deadline).await, deadline, phases)
            .await
            .map_err(|broken| broken.outcome);
    };
    let opened = open_resuming(plan, session, deadline).await;
    match exchange(plan, opened, deadline, phases).await {
        Err(NoAnswer { may_be_the_session: true, .. }) => {
            if let Some(peer) = peer(plan) {
                SESSIONS.refuse(peer, clock::now());
            }
            let opened = open(plan, None, deadline).await;
            exchange(plan, opened, deadline, phases).await.map_err(|broken| broken.outcome)
        }
        answer => answer.map_err(|broken| broken.outcome),
    }
}

/// Whose sessions this request may resume; `None` = there is no TLS, or the host is a name, whose server may be another
/// each time.
fn peer(plan: &Plan) -> Option<Peer> {
    // A hook is run once, and by whoever is there: nothing is to be gained.
    let is_probe = plan.purpose() == Purpose::Probe;
    let addr = plan.addr.filter(|_| plan.scheme == Scheme::Https && is_probe)?;
    Some(Peer { addr, host: plan.host.as_str().into() })
}

/// An exchange without an answer.
struct NoAnswer {
    /// What it means.
    outcome: Outcome,
    /// A session had been offered, and nothing that came shows that it was not the cause.
    may_be_the_session: bool,
    /// How long the parts of opening the connection took, where that is what failed.
    opening: Phases,
}

/// A connection, ready for the request.
struct Opened {
    wire: Wire,
    /// How long its parts took.
    phases: Phases,
    /// The full handshake that was made or continued; what is gained from the connection is worth keeping from then.
    proven_at: Instant,
    gained: Arc<Gained>,
    /// A session was offered, taken or not.
    offered: bool,
}

/// Opens with a session. A server that has not finished the handshake in half of the time gets a second connection with a
/// full one beside it: it may be the session that it cannot swallow (a longer ClientHello, say).
async fn open_resuming(plan: &Plan, session: Session, deadline: Instant) -> Result<Opened, NoAnswer> {
    let patience = clock::until(deadline) / 2;
    let mut resuming = pin!(open(plan, Some(session), deadline));
    if let Ok(opened) = tokio::time::timeout(patience, &mut resuming).await {
        return opened;
    }
    let mut full = pin!(open(plan, None, deadline));
    tokio::select! {
        biased;
        opened = &mut resuming => if opened.is_ok() { opened } else { full.await },
        opened = &mut full => if opened.is_ok() { opened } else { resuming.await },
    }
}

async fn open(plan: &Plan, session: Option<Session>, deadline: Instant) -> Result<Opened, NoAnswer> {
    let sure = |outcome, opening| NoAnswer { outcome, may_be_the_session: false, opening };
    let dialed = dial::connect_host(&plan.host, plan.port, plan.addr, deadline).await.map_err(|error| {
        let outcome = match error.local_cause() {
            Some(cause) => Outcome::Local(cause),
            None => http::transport_error(plan, error),
        };
        sure(outcome, Phases::default())
    })?;
    let mut phases = Phases { resolve: dialed.resolve, connect: Some(dialed.connect), ..Phases::default() };
    let mut wire = Wire::new(dialed.stream).map_err(|broken| sure(transport_outcome(plan, &broken), phases))?;
    let gained = Arc::new(Gained::default());
    let (offered, earlier) = (session.is_some(), session.as_ref().map(Session::proven_at));
    let mut proven_at = clock::now();
    if plan.scheme == Scheme::Https {
        let begun = proven_at;
        let store = Store::new(session, Arc::clone(&gained));
        let made = wire.start_tls(&plan.host, store, deadline).await;
        proven_at = clock::now();
        phases.tls = Some(proven_at - begun);
        made.map_err(|broken| NoAnswer { opening: phases, ..no_answer(plan, &broken, offered) })?;
        proven_at = earlier.filter(|_| wire.is_resumed()).unwrap_or(proven_at);
    }
    Ok(Opened { wire, phases, proven_at, gained, offered })
}

/// Sends the request and receives its response.
async fn exchange(
    plan: &Plan,
    opened: Result<Opened, NoAnswer>,
    deadline: Instant,
    phases: &mut Phases,
) -> Result<Judgement, NoAnswer> {
    let opening = opened.as_ref().map_or_else(|broken| broken.opening, |opened| opened.phases);
    for (sum, part) in
        [(&mut phases.resolve, opening.resolve), (&mut phases.connect, opening.connect), (&mut phases.tls, opening.tls)]
    {
        if let Some(part) = part {
            add(sum, part);
        }
    }
    let Opened { mut wire, proven_at, gained, offered, .. } = opened?;
    let sent = clock::now();
    let unsent = match wire.send(&plan.request, deadline).await {
        Ok(()) => None,
        Err(Broken::Timeout) => return Err(no_answer(plan, &Broken::Timeout, offered)),
        // The answer may be here all the same: a server that refuses does not have to read.
        Err(broken) => Some(broken),
    };
    let mut receiving = Receiving { sent, first_byte: None, unsent, offered };
    let result = receiving.receive(plan, &mut wire, deadline).await;
    if let Some(first) = receiving.first_byte {
        add(&mut phases.first_byte, first - sent);
        add(&mut phases.body, clock::now() - first);
    }
    if result.is_ok()
        && let Some(peer) = peer(plan)
    {
        SESSIONS.keep(peer, &gained, proven_at, clock::now());
    }
    wire.close();
    result
}

/// A connection that broke before the response's head was there, after a session was offered or not. What timed out, and
/// trouble of our own, would be no better without one.
fn no_answer(plan: &Plan, broken: &Broken, offered: bool) -> NoAnswer {
    let is_timeout = matches!(broken, Broken::Timeout | Broken::HandshakeTimeout);
    let may_be_the_session = offered && !is_timeout && broken.local_cause().is_none();
    NoAnswer { outcome: transport_outcome(plan, broken), may_be_the_session, opening: Phases::default() }
}

/// The second half of one exchange.
struct Receiving {
    sent: Instant,
    first_byte: Option<Instant>,
    /// Why the request could not be sent whole.
    unsent: Option<Broken>,
    /// A TLS session was offered.
    offered: bool,
}

impl Receiving {
    async fn receive(&mut self, plan: &Plan, wire: &mut Wire, deadline: Instant) -> Result<Judgement, NoAnswer> {
        let mut response = Response::new();
        loop {
            let bytes = match wire.receive(deadline).await {
                Ok(bytes) => bytes,
                Err(broken) => return Err(self.broken(plan, &response, broken)),
            };
            let had_head = response.head_done();
            let result = if bytes.is_empty() {
                if let Some(unsent) = self.unsent.take_if(|_| !response.started()) {
                    return Err(no_answer(plan, &unsent, self.offered));
                }
                response.feed_eof().map(|()| Progress::Done)
            } else {
                self.first_byte.get_or_insert_with(|| clock::now().max(self.sent));
                response.feed(bytes)
            };
            match result {
                Ok(Progress::Done) => return Ok(http::judge(plan, &response)),
                Ok(Progress::NeedMore) => {}
                Err(error) if error.in_head() => return Err(self.sure(http::transport_error(plan, error), &response)),
                // A redirect's body is nobody's business.
                Err(error) => {
                    return match http::judge_head(plan, &response) {
                        Some(judgement) => Ok(judgement),
                        None => Err(self.sure(http::body_error(plan, error), &response)),
                    };
                }
            }
            // Once: a redirect that is not followed then never is.
            if !had_head
                && response.head_done()
                && let Some(judgement) = http::judge_head(plan, &response)
            {
                return Ok(judgement);
            }
        }
    }

    /// An answer of the server's that is none of HTTP; an end before its first byte may be the session's.
    fn sure(&self, outcome: Outcome, response: &Response) -> NoAnswer {
        NoAnswer { outcome, may_be_the_session: self.offered && !response.started(), opening: Phases::default() }
    }

    fn broken(&mut self, plan: &Plan, response: &Response, broken: Broken) -> NoAnswer {
        if !response.head_done() {
            let cause = self.unsent.take().filter(|_| !response.started());
            return no_answer(plan, &cause.unwrap_or(broken), self.offered && !response.started());
        }
        let outcome = match (broken.local_cause(), broken) {
            (Some(cause), _) => Outcome::Local(cause),
            (None, Broken::Timeout) => http::body_error(plan, http::TIMEOUT_IN_BODY),
            (None, broken) => http::body_error(plan, broken),
        };
        NoAnswer { outcome, may_be_the_session: false, opening: Phases::default() }
    }
}

/// What a connection that broke before the response's head was there means.
fn transport_outcome(plan: &Plan, broken: &Broken) -> Outcome {
    match broken.local_cause() {
        Some(cause) => Outcome::Local(cause),
        None => http::transport_error(plan, broken),
    }
}

/// Parts of several requests add up.
fn add(phase: &mut Option<Duration>, more: Duration) {
    *phase = Some(phase.unwrap_or_default() + more);
}

#[cfg(test)]
pub(crate) mod tests;
