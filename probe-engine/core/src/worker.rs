//! One probe's state machine: what a step does, and what an attempt's result makes of the verdict.
//!
//! Source: `pkg/kubelet/prober/worker.go`, `doProbe`; the numbers in comments are the steps of rule 2.4.
//!
//! **Invariant:** `verdict` is what the results store holds for `container_id`; every difference went out as a [`Change`].

use crate::action::PublishCause;
use crate::id::{ContainerId, ProbeType};
use crate::outcome::Verdict;
use crate::spec::ProbeSpec;
use crate::status::PodPhase;
use crate::time::Instant;

/// Tries of one call of the prober, all in all (`prober.go`, `maxProbeRetries`).
pub const ATTEMPTS_MAX: u8 = 3;

/// What a worker remembers between steps (rule 2.2).
#[derive(Clone, Debug)]
pub struct Worker {
    probe_type: ProbeType,
    container_id: Option<ContainerId>,
    verdict: Option<Verdict>,
    last_passed: bool,
    run: u32,
    on_hold: bool,
}

/// The pod as the cached status shows it at a step.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// `status.phase`
    pub phase: PodPhase,
    /// A deletion timestamp is set.
    pub deleting: bool,
    /// The worker's container; `None` = no status of that name, or one without an ID.
    pub instance: Option<Instance<'a>>,
}

/// One container instance as the cached status shows it.
#[derive(Clone, Copy, Debug)]
pub struct Instance<'a> {
    /// Not empty.
    pub id: &'a ContainerId,
    /// What it does.
    pub state: InstanceState,
    /// `started` of the container status (rule 5.1); `None` = not generated yet.
    pub started: Option<bool>,
    /// Terminated, but it will be started again (rule 2.6).
    pub restartable: bool,
    /// It was started well before the manager, so its readiness is not ours to reset (rule 2.5).
    pub before_manager: bool,
}

/// See [`Instance::state`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstanceState {
    /// Not started, or waiting for a restart.
    Waiting,
    /// Running.
    Running {
        /// Since when.
        started_at: Instant,
    },
    /// Ended.
    Terminated,
}

/// What a step leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing to do until the next tick or trigger.
    Continue,
    /// The worker leaves.
    Exit,
    /// Make an attempt.
    Probe,
}

/// A change of the stored verdict of one container instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The instance.
    pub container_id: ContainerId,
    /// `None` = removed.
    pub verdict: Option<Verdict>,
    /// Why.
    pub cause: PublishCause,
}

/// What [`Worker::count`] made of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Results of this kind in a row, this one included.
    pub run: u32,
    /// How many make the verdict.
    pub threshold: u32,
    /// The stored verdict changed.
    pub change: Option<Change>,
}

impl Worker {
    /// A worker that has seen nothing; its last result counts as a success (Go's zero value).
    #[must_use]
    pub fn new(probe_type: ProbeType) -> Self {
        Self { probe_type, container_id: None, verdict: None, last_passed: true, run: 0, on_hold: false }
    }

    /// Which probe.
    #[must_use]
    pub fn probe_type(&self) -> ProbeType {
        self.probe_type
    }

    /// The instance that it watches.
    #[must_use]
    pub fn container_id(&self) -> Option<&ContainerId> {
        self.container_id.as_ref()
    }

    /// The stored verdict of that instance.
    #[must_use]
    pub fn verdict(&self) -> Option<Verdict> {
        self.verdict
    }

    /// Results of one kind in a row.
    #[must_use]
    pub fn run(&self) -> u32 {
        self.run
    }

    /// Nothing is done until a new instance is seen.
    #[must_use]
    pub fn is_on_hold(&self) -> bool {
        self.on_hold
    }

    /// The value that a new instance starts with: nothing is ready before it was seen so, nothing is dead before it failed.
    #[must_use]
    pub const fn initial_verdict(probe_type: ProbeType) -> Verdict {
        match probe_type {
            ProbeType::Startup => Verdict::Unknown,
            ProbeType::Readiness => Verdict::Failure,
            ProbeType::Liveness => Verdict::Success,
        }
    }

    /// One step up to the attempt itself. `view` is `None` while the pod has no status; `changed` hears of each
    /// change of the stored verdict, in order.
    pub fn step(&mut self, view: Option<View<'_>>, spec: &ProbeSpec, now: Instant, mut changed: impl FnMut(Change)) -> Step {
        let Some(view) = view else { return Step::Continue }; // 1
        if view.phase.is_terminal() {
            return Step::Exit; // 2
        }
        let Some(instance) = view.instance else { return Step::Continue }; // 3
        if self.container_id.as_ref() != Some(instance.id) {
            self.adopt(&instance, &mut changed); // 4
        }
        if self.on_hold {
            return Step::Continue; // 5
        }
        let started_at = match instance.state {
            InstanceState::Running { started_at } => started_at,
            InstanceState::Waiting | InstanceState::Terminated => {
                self.store(Verdict::Failure, PublishCause::NotRunning).into_iter().for_each(changed); // 6
                let ended = instance.state == InstanceState::Terminated && !instance.restartable;
                return if ended { Step::Exit } else { Step::Continue };
            }
        };
        if view.deleting && self.probe_type != ProbeType::Readiness {
            self.store(Verdict::Success, PublishCause::Deleting).into_iter().for_each(changed); // 7
            return Step::Exit;
        }
        let age_seconds = (now - started_at).as_secs();
        let delay_seconds = u64::try_from(spec.initial_delay_seconds).unwrap_or(0);
        if age_seconds < delay_seconds {
            return Step::Continue; // 8
        }
        let gated = match self.probe_type {
            ProbeType::Startup => instance.started == Some(true),
            ProbeType::Readiness | ProbeType::Liveness => instance.started != Some(true),
        };
        if gated { Step::Continue } else { Step::Probe } // 9
    }

    /// A result that counts (steps 12 to 15): warnings passed, errors and local trouble never get here.
    pub fn count(&mut self, passed: bool, spec: &ProbeSpec) -> Counted {
        if passed == self.last_passed {
            self.run = self.run.saturating_add(1);
        } else {
            self.last_passed = passed;
            self.run = 1;
        }
        let threshold = if passed { spec.success_threshold } else { spec.failure_threshold };
        let run = self.run;
        if run < threshold {
            return Counted { run, threshold, change: None };
        }
        let verdict = if passed { Verdict::Success } else { Verdict::Failure };
        let change = self.store(verdict, PublishCause::Threshold);
        let settled = match self.probe_type {
            ProbeType::Startup => true,
            ProbeType::Liveness => !passed,
            ProbeType::Readiness => false,
        };
        if settled {
            // One verdict is all this instance gets: the container is about to be killed, or has started.
            self.on_hold = true;
            self.run = 0;
        }
        Counted { run, threshold, change }
    }

    /// The worker leaves: the stored verdict goes with it.
    pub fn leave(&mut self) -> Option<Change> {
        self.verdict.take()?;
        let container_id = self.container_id.clone()?;
        Some(Change { container_id, verdict: None, cause: PublishCause::Removed })
    }

    fn adopt(&mut self, instance: &Instance<'_>, changed: &mut impl FnMut(Change)) {
        self.leave().into_iter().for_each(&mut *changed);
        self.container_id = Some(instance.id.clone());
        self.on_hold = false;
        let running = matches!(instance.state, InstanceState::Running { .. });
        if !(running && instance.before_manager) {
            let initial = Self::initial_verdict(self.probe_type);
            self.store(initial, PublishCause::Initial).into_iter().for_each(changed);
        }
    }

    fn store(&mut self, verdict: Verdict, cause: PublishCause) -> Option<Change> {
        if self.verdict == Some(verdict) {
            return None;
        }
        self.verdict = Some(verdict);
        let container_id = self.container_id.clone()?;
        Some(Change { container_id, verdict: Some(verdict), cause })
    }
}
