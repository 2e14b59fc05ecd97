//! One container of a pod, as its lifecycle knows it.

use std::time::Duration;

use probe_core::backoff::Backoff;
use probe_core::id::{ContainerId, ContainerName};
use probe_core::spec::ContainerKind;
use probe_core::status::{ContainerState as StateNow, ContainerStatus, Termination};
use probe_core::time::Instant;
use tokio::task::AbortHandle;

use crate::consumer::lifecycle::hook::When;
use crate::state::{ContainerState, TerminationState};

/// See the module.
pub(super) struct Slot {
    pub(super) name: ContainerName,
    pub(super) status: ContainerStatus,
    pub(super) backoff: Backoff,
    /// Instances that were started, or tried to: the number of the next one.
    pub(super) instances: u32,
    /// The newest instance has no startup probe, or that has succeeded; and its postStart hook is done.
    pub(super) is_started: bool,
    pub(super) phase: SlotPhase,
    /// What the daemon before this one knew of its newest instance, until its turn comes; see [`Slot::remember`].
    pub(super) before: Option<Before>,
    /// The end before that, where its newest instance ran.
    pub(super) earlier: Option<Box<Termination>>,
    /// Of the newest instance, where one runs; it goes with the instance.
    pub(super) hook: Option<RunningHook>,
    /// Waits to have it stopped once more.
    pub(super) stop_again: Option<AbortHandle>,
}

/// How an instance ended under the daemon before this one.
pub(super) enum Before {
    /// What becomes of it was not known.
    Ended(Termination),
    /// The next one was a matter of time.
    WillStart(Termination),
}

/// A hook under way.
pub(super) struct RunningHook {
    pub(super) when: When,
    pub(super) task: AbortHandle,
}

/// What is under way with a container, beside what its status says.
pub(super) enum SlotPhase {
    /// Nothing.
    Idle,
    /// In the start queue; its instance may already have ended before its start is known.
    Starting { early_exit: Option<(ContainerId, Termination)> },
    /// It runs, and so does its postStart hook.
    PostStart,
    /// Its next start is due then.
    WaitingUntil(Instant),
    /// It is being killed.
    Ending(Ending),
}

/// A kill, from its event to the end of the instance.
pub(super) struct Ending {
    pub(super) cause: Cause,
    pub(super) since: Instant,
    pub(super) grace_seconds: u64,
    pub(super) step: Step,
}

/// What a container is killed for.
pub(super) enum Cause {
    /// A probe; `before` is the status that this was decided from.
    Probe { restart: bool, before: ContainerStatus },
    /// Its postStart hook failed, with this text.
    PostStart { message: String },
    /// The end of its pod.
    Pod,
}

/// How far a kill is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The preStop hook runs.
    PreStop,
    /// Nothing but its turn is waited for.
    Turn,
    /// The runtime has been asked to stop it.
    Stopped,
}

impl Slot {
    pub(super) fn new(name: ContainerName, reason: &str) -> Self {
        let state = StateNow::waiting(reason, "");
        let status = ContainerStatus { name: name.clone(), id: None, state, last_termination: None, restart_count: 0 };
        Self {
            name,
            status,
            backoff: Backoff::new(),
            instances: 0,
            is_started: false,
            phase: SlotPhase::Idle,
            before: None,
            earlier: None,
            hook: None,
            stop_again: None,
        }
    }

    /// Takes over what the daemon before this one knew. Instances that ran have ended with it, and what comes now is in their place:
    /// it counts as no restart. So are ordinary init containers, which are run again, as after the loss of a pod's sandbox.
    /// `is_over`: the pod's end was known. `wait_max`: of the back-off, as it is set now.
    pub(super) fn remember(&mut self, past: &ContainerState, kind: ContainerKind, is_over: bool, wait_max: Duration) {
        self.status.restart_count = past.restart_count;
        self.instances = past.restart_count;
        let Some(termination) = past.termination.as_ref().map(TerminationState::termination) else {
            return;
        };
        if let Some((wait, since)) = termination.backoff.parts() {
            self.backoff = Backoff::of(wait.min(wait_max), since);
        }
        if is_over && past.has_ended {
            self.status.state = StateNow::Terminated(Box::new(termination));
            return;
        }
        let before = match (past.has_ended && kind != ContainerKind::Init, past.is_waiting) {
            (true, _) => Before::Ended(termination),
            (false, true) => Before::WillStart(termination),
            (false, false) => {
                // It ran: what is shown of the end before is no reason to wait.
                self.earlier = Some(Box::new(termination));
                return;
            }
        };
        // The next instance is one more.
        self.instances = past.restart_count.saturating_add(1);
        self.before = Some(before);
    }

    /// It has never run, and nothing is under way with it.
    pub(super) fn is_new(&self) -> bool {
        !self.status.has_run() && matches!(self.phase, SlotPhase::Idle)
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.status.state, StateNow::Running { .. })
    }

    /// It runs, or will have been started soon.
    pub(super) fn is_there(&self) -> bool {
        self.is_running() || matches!(self.phase, SlotPhase::Starting { .. })
    }

    /// Counts one more instance; the end of the one before it is its `last_termination` from now on.
    pub(super) fn new_instance(&mut self) {
        self.status.restart_count = self.instances;
        self.instances = self.instances.saturating_add(1);
        if let Some(earlier) = self.earlier.take() {
            self.status.last_termination = Some(earlier);
        }
        self.keep_termination();
        if let Some(last) = &mut self.status.last_termination {
            last.backoff = self.backoff;
        }
    }

    pub(super) fn set_waiting(&mut self, reason: &str, message: String) {
        self.keep_termination();
        self.status.state = StateNow::waiting(reason, message);
    }

    /// Cuts off the hook that runs, if one does; which it was.
    pub(super) fn abort_hook(&mut self) -> Option<When> {
        let hook = self.hook.take()?;
        hook.task.abort();
        Some(hook.when)
    }

    /// It has ended, or is stopped in another way: nothing is tried again.
    pub(super) fn forget_stop(&mut self) {
        if let Some(waiting) = self.stop_again.take() {
            waiting.abort();
        }
    }

    /// When something is to be done about it.
    pub(super) fn due(&self) -> Option<Instant> {
        match &self.phase {
            SlotPhase::WaitingUntil(until) => Some(*until),
            SlotPhase::Ending(ending) if ending.step != Step::Stopped => Some(ending.limit()),
            _ => None,
        }
    }

    fn keep_termination(&mut self) {
        if let StateNow::Terminated(end) = &self.status.state {
            self.status.last_termination = Some(Box::new(Termination { backoff: self.backoff, ..(**end).clone() }));
        }
    }
}

impl Ending {
    /// When its grace period is used up: neither hook nor turn is waited for any longer.
    pub(super) fn limit(&self) -> Instant {
        self.since + Duration::from_secs(self.grace_seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_restarts_ends_at_its_maximum_whatever_a_state_file_says() {
        let mut slot = Slot::new("app".into(), "ContainerCreating");
        let past = ContainerState { restart_count: u32::MAX, ..ContainerState::default() };
        slot.remember(&past, ContainerKind::Regular, false, Duration::from_secs(300));
        slot.new_instance();
        slot.new_instance();
        assert_eq!((slot.status.restart_count, slot.instances), (u32::MAX, u32::MAX));
    }
}
