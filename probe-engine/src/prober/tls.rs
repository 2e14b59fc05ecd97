//! httpGet attempts on the pool: HTTPS, hosts that are names, and redirects that are followed, all with one
//! deadline (`pkg/probe/http/http.go`).
//!
//! Invariant: an attempt ends by itself at its deadline, with every socket it made.

use std::time::Duration;

use probe_core::outcome::Outcome;
use probe_core::spec::{Handler, HttpGet, Scheme};
use probe_core::time::Instant;

use crate::clock;

use super::http::{self, Judgement, Plan, Target};
use super::http1::{Progress, Response};
use super::stream::StreamKind;
use super::{Attempted, Phases, Request, dial};

mod wire;

use wire::{Broken, Wire};

/// Makes one httpGet attempt, from `started` on, which is where its timeout counts from. `resume` is the redirect
/// to follow after `requests_made` requests that a shard has made; without it the probe's own URL is asked.
pub async fn attempt(
    request: &Request,
    started: Instant,
    resume: Option<Target>,
    requests_made: u8,
    io: StreamKind,
) -> Attempted {
    let mut phases = Phases::default();
    let deadline = started + request.spec.timeout();
    let outcome = match &request.spec.handler {
        Handler::HttpGet(get) => match first_plan(request, get, resume, requests_made) {
            Ok(plan) => follow_all(plan, deadline, io, &mut phases).await,
            Err(outcome) => outcome,
        },
        other => Outcome::Error(format!("{} is no httpGet handler", other.as_str()).into()),
    };
    phases.total = clock::now() - started;
    Attempted { outcome, phases }
}

fn first_plan(request: &Request, get: &HttpGet, resume: Option<Target>, requests_made: u8) -> Result<Plan, Outcome> {
    let plan = Plan::new(get, request.pod_ip)?;
    match resume {
        Some(target) => plan.after(requests_made.saturating_sub(1)).follow(&target),
        None => Ok(plan),
    }
}

async fn follow_all(mut plan: Plan, deadline: Instant, io: StreamKind, phases: &mut Phases) -> Outcome {
    loop {
        let next = match ask(&plan, deadline, io, phases).await {
            Ok(Judgement::Final(outcome)) | Err(outcome) => return outcome,
            Ok(Judgement::Redirect(target)) => plan.follow(&target),
        };
        match next {
            Ok(next) => plan = next,
            Err(outcome) => return outcome,
        }
    }
}

/// One request and its response.
async fn ask(plan: &Plan, deadline: Instant, io: StreamKind, phases: &mut Phases) -> Result<Judgement, Outcome> {
    let dialed = dial::connect_host(&plan.host, plan.port, plan.addr, deadline).await.map_err(|error| {
        match error.local_cause() {
            Some(cause) => Outcome::Local(cause),
            None => http::transport_error(plan, error),
        }
    })?;
    if let Some(resolve) = dialed.resolve {
        add(&mut phases.resolve, resolve);
    }
    add(&mut phases.connect, dialed.connect);

    let in_head = |broken: Broken| transport_outcome(plan, &broken);
    let mut wire = Wire::new(dialed.stream, io).map_err(in_head)?;
    if plan.scheme == Scheme::Https {
        let begun = clock::now();
        let made = wire.start_tls(&plan.host, deadline).await;
        add(&mut phases.tls, clock::now() - begun);
        made.map_err(in_head)?;
    }

    let sent = clock::now();
    let unsent = match wire.send(&plan.request, deadline).await {
        Ok(()) => None,
        Err(Broken::Timeout) => return Err(in_head(Broken::Timeout)),
        // The answer may be here all the same: a server that refuses does not have to read.
        Err(broken) => Some(broken),
    };
    let mut receiving = Receiving { sent, first_byte: None, unsent };
    let result = receiving.receive(plan, &mut wire, deadline).await;
    if let Some(first) = receiving.first_byte {
        add(&mut phases.first_byte, first - sent);
        add(&mut phases.body, clock::now() - first);
    }
    wire.close(deadline).await;
    result
}

/// The second half of one exchange.
struct Receiving {
    sent: Instant,
    first_byte: Option<Instant>,
    /// Why the request could not be sent whole.
    unsent: Option<Broken>,
}

impl Receiving {
    async fn receive(&mut self, plan: &Plan, wire: &mut Wire, deadline: Instant) -> Result<Judgement, Outcome> {
        let mut response = Response::new();
        loop {
            let bytes = match wire.receive(deadline).await {
                Ok(bytes) => bytes,
                Err(broken) => return Err(self.broken(plan, &response, broken)),
            };
            let result = if bytes.is_empty() {
                if let Some(unsent) = self.unsent.take_if(|_| !response.started()) {
                    return Err(transport_outcome(plan, &unsent));
                }
                response.feed_eof().map(|()| Progress::Done)
            } else {
                self.first_byte.get_or_insert_with(|| clock::now().max(self.sent));
                response.feed(bytes)
            };
            match result {
                Ok(Progress::Done) => return Ok(http::judge(plan, &response)),
                Ok(Progress::NeedMore) => {}
                Err(error) if error.in_head() => return Err(http::transport_error(plan, error)),
                // A redirect's body is nobody's business.
                Err(error) => {
                    return match http::judge_head(plan, &response) {
                        Some(judgement) => Ok(judgement),
                        None => Err(http::body_error(plan, error)),
                    };
                }
            }
            if response.head_done()
                && let Some(judgement) = http::judge_head(plan, &response)
            {
                return Ok(judgement);
            }
        }
    }

    fn broken(&mut self, plan: &Plan, response: &Response, broken: Broken) -> Outcome {
        if !response.head_done() {
            let cause = self.unsent.take().filter(|_| !response.started());
            return transport_outcome(plan, &cause.unwrap_or(broken));
        }
        match (broken.local_cause(), broken) {
            (Some(cause), _) => Outcome::Local(cause),
            (None, Broken::Timeout) => http::body_error(plan, http::TIMEOUT_IN_BODY),
            (None, broken) => http::body_error(plan, broken),
        }
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
mod tests;
