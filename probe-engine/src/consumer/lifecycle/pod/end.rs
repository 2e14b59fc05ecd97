//! How containers are killed: for a probe, after a postStart hook that failed, or with their pod (rules 6.2 and 6.3).
//!
//! Event, preStop hook, turn, stop signal: all of it within one grace period, and what each step has used is taken off it.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use probe_core::id::{ContainerId, ProbeType};
use probe_core::order;
use probe_core::outcome::Verdict;
use probe_core::restart::{self, Decision, Facts, KillReason};
use probe_core::status::{ContainerState, ContainerStatus, Termination};

use super::slot::{Cause, Ending, SlotPhase, Step};
use super::{Called, PodWorker, RETRY, Stop};
use crate::consumer::events::EventType;
use crate::consumer::lifecycle::hook::When;
use crate::runtime::RuntimeError;

impl PodWorker {
    /// Rule 6.3: all containers in parallel, each with the pod's grace period, and sidecars after the others. A second call can
    /// only make the grace period shorter.
    pub(super) fn end(&mut self, grace_seconds: Option<u64>, now: bool) {
        self.end_now |= now;
        let before = self.deletion_grace_seconds;
        let grace_seconds = restart::deletion_grace_seconds(&self.pod, before, grace_seconds);
        self.deletion_grace_seconds = Some(grace_seconds);
        if before.is_none() {
            self.context.reports.stop_liveness_and_startup(&self.pod.uid);
            self.stop_all();
        }
        self.shorten(grace_seconds);
        if now {
            for index in 0..self.slots.len() {
                self.slots[index].abort_hook();
                self.slots[index].forget_stop();
                self.stop(index, Duration::ZERO);
            }
        }
    }

    pub(super) fn stop_all(&mut self) {
        // What has been asked to start is stopped once it has.
        self.start_queue.truncate(usize::from(self.starting));
        self.next_starts.clear();
        let asked = self.start_queue.front().copied();
        for index in 0..self.slots.len() {
            match self.slots[index].phase {
                // As it has been asked to, without a second event.
                SlotPhase::Ending(Ending { cause: Cause::Pod, .. }) => {}
                SlotPhase::PostStart => {
                    self.hook_cut_off(index);
                    self.start_is_over();
                    self.kill_with_pod(index);
                }
                _ if self.slots[index].is_running() => self.kill_with_pod(index),
                _ if asked == Some(index) => {}
                _ => self.slots[index].phase = SlotPhase::Idle,
            }
        }
        self.stop_next();
    }

    /// Of a running container.
    pub(super) fn kill_with_pod(&mut self, index: usize) {
        let container = self.container(index);
        let deletion = self.deletion_grace_seconds;
        let grace_seconds = restart::grace_seconds(&self.pod, container, KillReason::Other, deletion, None);
        let text = format!("Stopping container {}", self.slots[index].name);
        self.kill(index, Cause::Pod, grace_seconds, text, None);
    }

    /// After a postStart hook that failed.
    pub(super) fn kill_after_post_start(&mut self, index: usize, message: String) {
        let grace_seconds = restart::grace_seconds(&self.pod, self.container(index), KillReason::Other, None, None);
        self.kill(index, Cause::PostStart { message }, grace_seconds, "FailedPostStartHook".to_owned(), None);
        self.stop_next();
    }

    pub(super) fn probe_failed(&mut self, index: usize, id: &ContainerId, probe_type: ProbeType) {
        if self.is_in_post_start() {
            // A hook is a part of its pod's sync, and the next one, which would kill, comes after it.
            if self.failed.iter().all(|(known, ..)| *known != index) {
                self.failed.push((index, id.clone(), probe_type));
            }
            return;
        }
        let slot = &self.slots[index];
        // A verdict on an instance that has ended meanwhile, or is being killed already, is too late.
        let is_its_own = slot.status.id.as_ref() == Some(id) && matches!(slot.phase, SlotPhase::Idle);
        if self.is_closing() || !slot.is_running() || !is_its_own {
            return;
        }
        let failed = Some(Verdict::Failure);
        let facts = match probe_type {
            ProbeType::Liveness => Facts { liveness: failed, ..self.facts(index, &slot.status) },
            ProbeType::Startup => Facts { startup: failed, ..self.facts(index, &slot.status) },
            ProbeType::Readiness => return,
        };
        let Decision::Kill { message, reason, restart } = restart::decide(&facts, self.context.clock.now()) else {
            return;
        };
        let grace_seconds = restart::grace_seconds(&self.pod, self.container(index), reason, None, None);
        let before = self.slots[index].status.clone();
        self.kill(index, Cause::Probe { restart, before }, grace_seconds, message.into(), Some(probe_type));
        self.stop_next();
    }

    /// What probes have said while hooks ran.
    pub(super) fn judge_again(&mut self) {
        for (index, id, probe_type) in std::mem::take(&mut self.failed) {
            self.probe_failed(index, &id, probe_type);
        }
    }

    /// Begins a kill: the event, then the preStop hook, if there is one, and once per instance.
    fn kill(&mut self, index: usize, cause: Cause, grace_seconds: u64, message: String, probe_type: Option<ProbeType>) {
        self.event(index, EventType::Normal, "Killing", message, probe_type);
        let under_way = match &self.slots[index].phase {
            SlotPhase::Ending(Ending { step: Step::PreStop, .. }) => Some(Step::PreStop),
            SlotPhase::Ending(_) => Some(Step::Turn),
            _ => None,
        };
        let step = under_way.unwrap_or_else(|| {
            let has_hook = grace_seconds > 0 && !self.end_now && self.run_hook(index, When::PreStop);
            if has_hook { Step::PreStop } else { Step::Turn }
        });
        let since = self.context.clock.now();
        self.slots[index].phase = SlotPhase::Ending(Ending { cause, since, grace_seconds, step });
    }

    /// Stops those whose hook has been run and whose turn has come, or who have used up their grace period with that: what they
    /// have waited is taken off it (rule 6.2, steps 4 to 6).
    pub(super) fn stop_next(&mut self) {
        let now = self.context.clock.now();
        for index in 0..self.slots.len() {
            let SlotPhase::Ending(ending) = &self.slots[index].phase else {
                continue;
            };
            // What is being started is stopped once it has.
            let has_turn = || {
                !matches!(ending.cause, Cause::Pod)
                    || order::may_stop(&self.pod, index, |other| self.slots[other].is_there())
            };
            let is_due = match ending.step {
                Step::Stopped => continue,
                _ if self.end_now || now >= ending.limit() => true,
                Step::PreStop => false,
                Step::Turn => has_turn(),
            };
            if is_due {
                if ending.step == Step::PreStop && !self.end_now {
                    let (pod, container) = (&self.pod.name, &self.slots[index].name);
                    tracing::warn!(%pod, %container, "the preStop hook has used up the grace period and is not waited for");
                }
                let grace = self.remaining_grace(ending);
                self.set_step(index, Step::Stopped);
                self.stop(index, grace);
            }
        }
    }

    /// A preStop hook has ended.
    pub(super) fn pre_stop_done(&mut self, index: usize) {
        if let SlotPhase::Ending(Ending { step: Step::PreStop, .. }) = self.slots[index].phase {
            self.set_step(index, Step::Turn);
            self.stop_next();
        }
    }

    /// The pod's grace period has become shorter: what has its stop signal already is asked once more, with what is left.
    fn shorten(&mut self, grace_seconds: u64) {
        for index in 0..self.slots.len() {
            self.slots[index].forget_stop();
            let SlotPhase::Ending(ending) = &mut self.slots[index].phase else {
                continue;
            };
            if ending.grace_seconds <= grace_seconds {
                continue;
            }
            ending.grace_seconds = grace_seconds;
            if ending.step == Step::Stopped {
                ending.step = Step::Turn;
            }
        }
        self.stop_next();
    }

    fn remaining_grace(&self, ending: &Ending) -> Duration {
        let used_seconds = self.context.clock.now().saturating_since(ending.since).as_secs();
        let forced = self.end_now.then_some(0);
        Duration::from_secs(restart::remaining_grace_seconds(ending.grace_seconds, used_seconds, forced))
    }

    fn set_step(&mut self, index: usize, step: Step) {
        if let SlotPhase::Ending(ending) = &mut self.slots[index].phase {
            ending.step = step;
        }
    }

    pub(super) fn exited(&mut self, index: usize, id: ContainerId, termination: Termination) {
        let slot = &mut self.slots[index];
        if !slot.is_running() || slot.status.id.as_ref() != Some(&id) {
            if let SlotPhase::Starting { early_exit } = &mut slot.phase {
                *early_exit = Some((id, termination));
            }
            return;
        }
        tracing::info!(
            pod = %self.pod.name, container = %slot.name, exit_code = termination.exit_code,
            reason = %termination.reason, "container ended"
        );
        slot.status.state = ContainerState::Terminated(Box::new(termination));
        slot.forget_stop();
        let phase = std::mem::replace(&mut slot.phase, SlotPhase::Idle);
        self.hook_cut_off(index);
        let is_start =
            matches!(phase, SlotPhase::PostStart | SlotPhase::Ending(Ending { cause: Cause::PostStart { .. }, .. }));
        if is_start {
            self.start_is_over();
        }
        if self.is_closing() {
            self.stop_next();
            return;
        }
        match phase {
            SlotPhase::Ending(Ending { cause: Cause::Probe { restart: true, before }, .. }) => {
                self.restart_after_kill(index, &before);
            }
            SlotPhase::Ending(Ending { cause: Cause::PostStart { message }, .. }) => self.decide(index, Some(message)),
            _ => self.decide(index, None),
        }
        self.start_next();
    }

    /// The just-killed instance was not known when the kill was decided: the end before it sets the back-off. If
    /// that says wait, the next sync knows the new end and waits from there.
    fn restart_after_kill(&mut self, index: usize, before: &ContainerStatus) {
        let now = self.context.clock.now();
        match restart::restart_after_kill(&self.facts(index, before), now) {
            Decision::StartNow => {
                let limits = self.context.config.backoff;
                self.slots[index].backoff.advance(restart::last_exit(before), &limits, now);
                // Whatever its exit code is, it has not ended for good.
                self.slots[index].set_waiting("ContainerCreating", String::new());
                self.queue_start(index);
            }
            _ => self.decide(index, None),
        }
    }

    /// Asks for an end of the running instance; what comes of it is told by `Exited`.
    fn stop(&mut self, index: usize, grace: Duration) {
        let slot = &self.slots[index];
        let (true, Some(id)) = (slot.is_running(), slot.status.id.clone()) else {
            return;
        };
        self.call_stop(Stop { index, id, grace });
    }

    fn call_stop(&mut self, stop: Stop) {
        let runtime = Arc::clone(&self.context.runtime);
        self.calls.spawn(async move {
            let result = runtime.stop(&stop.id, stop.grace).await;
            Called::Stop(stop, result)
        });
    }

    pub(super) fn stop_again(&mut self, stop: Stop) {
        if self.is_instance(stop.index, &stop.id) {
            self.call_stop(stop);
        }
    }

    /// It runs, and has not been followed by another.
    fn is_instance(&self, index: usize, id: &ContainerId) -> bool {
        let slot = &self.slots[index];
        slot.is_running() && slot.status.id.as_ref() == Some(id)
    }

    /// A kill that failed is told and tried again until the instance has ended (rule 6.2, step 8).
    pub(super) fn stopped(&mut self, stop: Stop, result: Result<(), RuntimeError>) {
        let Err(error) = result else { return };
        if !self.is_instance(stop.index, &stop.id) {
            return;
        }
        let (pod, container) = (&self.pod.name, &self.slots[stop.index].name);
        tracing::warn!(%pod, %container, %error, "cannot kill a container; trying again");
        let is_late = matches!(&error, RuntimeError::Io { source, .. } if source.kind() == ErrorKind::TimedOut);
        let (reason, message) = match is_late {
            true => (
                "ExceededGracePeriod",
                "Container runtime did not kill the pod within specified grace period.".to_owned(),
            ),
            false => ("FailedKillPod", format!("error killing pod: {error}")),
        };
        self.event(stop.index, EventType::Warning, reason, message, None);
        let (clock, index) = (self.context.clock, stop.index);
        let waiting = self.calls.spawn(async move {
            clock.sleep_until(clock.now() + RETRY).await;
            Called::StopAgain(stop)
        });
        // Two may have been asked; the newer one goes on.
        self.slots[index].forget_stop();
        self.slots[index].stop_again = Some(waiting);
    }
}
