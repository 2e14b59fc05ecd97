//! How containers are started: one after the other, again after they have ended, and with what back-off (rules 6.4 and 6.5).

use std::sync::Arc;

use probe_core::backoff::{self, Backoff};
use probe_core::restart::{self, Decision};
use probe_core::status::{ContainerState, Termination};
use probe_core::time::Instant;

use super::slot::{Before, SlotPhase};
use super::{Called, PodWorker, RETRY};
use crate::consumer::events::EventType;
use crate::consumer::lifecycle::hook::When;
use crate::runtime::{RuntimeError, Started};

/// Exit code of a container whose program could not be started (containerd's).
const START_ERROR_EXIT_CODE: i32 = 128;

impl PodWorker {
    /// What becomes of a container that does not run; `hook_error`: that of its postStart hook, if it ended for that.
    pub(super) fn decide(&mut self, index: usize, hook_error: Option<String>) {
        let now = self.context.clock.now();
        let slot = &self.slots[index];
        match restart::decide(&self.facts(index, &slot.status), now) {
            Decision::StartNow => {
                let last_exit = restart::last_exit(&slot.status);
                let limits = self.context.config.backoff;
                self.slots[index].backoff.advance(last_exit, &limits, now);
                if let Some(error) = hook_error {
                    self.slots[index].set_waiting("PostStartHookError", error);
                }
                self.queue_start(index);
            }
            Decision::StartAt(until) => self.wait(index, until),
            Decision::Leave | Decision::Keep | Decision::Kill { .. } => {}
        }
    }

    /// CrashLoopBackOff; what could not even be started says why instead.
    fn wait(&mut self, index: usize, until: Instant) {
        let slot = &mut self.slots[index];
        let (name, pod) = (slot.name.as_str(), &self.pod);
        let wait = slot.backoff.current();
        let waiting = backoff::waiting_message(wait, name, &pod.name, &pod.namespace, pod.uid.as_str());
        let text = backoff::event_message(name, &pod.name, &pod.namespace, pod.uid.as_str());
        let (reason, message) = match &slot.status.state {
            ContainerState::Terminated(end) if &*end.reason == "StartError" => {
                ("RunContainerError", format!("{}; {waiting}", end.message))
            }
            _ => ("CrashLoopBackOff", waiting),
        };
        slot.set_waiting(reason, message);
        slot.phase = SlotPhase::WaitingUntil(until);
        self.event(index, EventType::Warning, "BackOff", text, None);
    }

    pub(super) fn handle_due(&mut self) {
        self.stop_next();
        let now = self.context.clock.now();
        for index in 0..self.slots.len() {
            if matches!(self.slots[index].phase, SlotPhase::WaitingUntil(until) if until <= now) {
                self.slots[index].phase = SlotPhase::Idle;
                // One that has never run waits for its turn again: the sidecar before it may have ended meanwhile.
                if !self.slots[index].is_new() {
                    self.decide(index, None);
                }
            }
        }
    }

    /// Its turn has come for the first time. What the daemon before this one knew of it counts as the end before: what had ended
    /// for good stays so, and what waited goes on waiting.
    pub(super) fn begin(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        match slot.before.take() {
            None => self.queue_in_this_sync(index),
            Some(Before::Ended(end)) => {
                slot.status.state = ContainerState::Terminated(Box::new(end));
                self.decide(index, None);
            }
            Some(Before::WillStart(end)) => {
                slot.status.last_termination = Some(Box::new(end));
                let now = self.context.clock.now();
                let status = &self.slots[index].status;
                match restart::restart_after_kill(&self.facts(index, status), now) {
                    Decision::StartAt(until) => self.wait(index, until),
                    _ => {
                        let (last_exit, limits) = (restart::last_exit(status), self.context.config.backoff);
                        self.slots[index].backoff.advance(last_exit, &limits, now);
                        self.queue_in_this_sync(index);
                    }
                }
            }
        }
    }

    fn queue_in_this_sync(&mut self, index: usize) {
        self.slots[index].phase = SlotPhase::Starting { early_exit: None };
        self.next_starts.push_back(index);
    }

    /// What becomes due while others are being started waits until all of those have been: it is a matter of the next sync.
    pub(super) fn queue_start(&mut self, index: usize) {
        self.slots[index].phase = SlotPhase::Starting { early_exit: None };
        self.next_starts.push_back(index);
        self.start_next();
    }

    pub(super) fn start_next(&mut self) {
        if self.start_queue.is_empty() {
            self.judge_again();
        }
        if self.start_queue.is_empty() && !self.next_starts.is_empty() {
            // There may be no other status until all of these have been started.
            self.report(false);
            self.start_queue = std::mem::take(&mut self.next_starts);
        }
        let Some(index) = self.start_queue.front().copied().filter(|_| !self.starting) else {
            return;
        };
        self.starting = true;
        let (pod, runtime) = (Arc::clone(&self.pod), Arc::clone(&self.context.runtime));
        let (name, number) = (self.slots[index].name.clone(), self.slots[index].instances);
        self.calls.spawn(async move { Called::Start(index, runtime.start(&pod, &name, number).await) });
    }

    pub(super) fn started(&mut self, index: usize, started: Result<Started, RuntimeError>) {
        match started {
            Ok(started) => self.runs(index, started),
            Err(error) => {
                self.start_is_over();
                self.not_started(index, &error);
            }
        }
        self.start_next();
    }

    /// The next in the queue may come.
    pub(super) fn start_is_over(&mut self) {
        self.starting = false;
        self.start_queue.pop_front();
    }

    /// The start is over once its postStart hook is.
    fn runs(&mut self, index: usize, started: Started) {
        let container = self.container(index);
        let (is_started, has_hook) = (container.probes.startup.is_none(), container.post_start().is_some());
        let slot = &mut self.slots[index];
        let phase = std::mem::replace(&mut slot.phase, SlotPhase::Idle);
        let name = slot.name.clone();
        slot.new_instance();
        slot.is_started = is_started && !has_hook;
        slot.status.id = Some(started.id.clone());
        slot.status.state = ContainerState::Running { started_at: started.started_at };
        tracing::info!(pod = %self.pod.name, container = %name, id = %started.id, pid = started.pid, "container started");
        self.event(index, EventType::Normal, "Created", format!("Created container: {name}"), None);
        self.event(index, EventType::Normal, "Started", format!("Started container {name}"), None);
        if !self.is_closing() && self.run_hook(index, When::PostStart) {
            self.slots[index].phase = SlotPhase::PostStart;
        } else {
            self.start_is_over();
        }
        if let SlotPhase::Starting { early_exit: Some((id, termination)) } = phase
            && id == started.id
        {
            self.report(false);
            self.exited(index, id, termination);
        } else if self.is_closing() {
            self.kill_with_pod(index);
            self.stop_next();
        }
    }

    /// A program that cannot be run counts as an instance that ended; trouble before that is tried again.
    fn not_started(&mut self, index: usize, error: &RuntimeError) {
        let (now, is_closing) = (self.context.clock.now(), self.is_closing());
        let slot = &mut self.slots[index];
        let name = slot.name.clone();
        slot.phase = SlotPhase::Idle;
        tracing::warn!(pod = %self.pod.name, container = %name, error = %error, "container not started");
        let is_program = matches!(error, RuntimeError::Start { .. });
        if is_program {
            slot.new_instance();
            slot.status.state = ContainerState::Terminated(Box::new(Termination {
                exit_code: START_ERROR_EXIT_CODE,
                signal: 0,
                backoff: Backoff::new(),
                reason: "StartError".into(),
                message: error.to_string().into(),
                started_at: now,
                finished_at: now,
                restart_allowed: None,
            }));
            self.event(index, EventType::Normal, "Created", format!("Created container: {name}"), None);
        } else if !is_closing {
            slot.set_waiting("CreateContainerError", error.to_string());
            slot.phase = SlotPhase::WaitingUntil(now + RETRY);
        }
        self.event(index, EventType::Warning, "Failed", format!("Error: {error}"), None);
        if is_closing {
            self.stop_next();
        } else if is_program {
            self.decide(index, None);
        }
    }
}
