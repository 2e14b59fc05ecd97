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

/// What a worker goes on with that is made for an instance which another daemon has probed before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    verdict: Verdict,
    passed: bool,
    run: u32,
    on_hold: bool,
}

impl Memory {
    /// The stored verdict; and the newest results, `run` in a row that passed or did not. Whether it is on hold follows from the
    /// verdict of an instance that runs (step 15), and with it that the run begins anew.
    #[must_use]
    pub fn new(probe_type: ProbeType, verdict: Verdict, passed: bool, run: u32) -> Self {
        let on_hold = match probe_type {
            ProbeType::Startup => verdict != Verdict::Unknown,
            ProbeType::Liveness => verdict == Verdict::Failure,
            ProbeType::Readiness => false,
        };
        Self { verdict, passed, run: if on_hold { 0 } else { run }, on_hold }
    }

    /// The stored verdict.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Nothing is done until a new instance is seen.
    #[must_use]
    pub fn is_on_hold(&self) -> bool {
        self.on_hold
    }

    /// The newest results passed, or not, so many in a row.
    #[must_use]
    pub fn run(&self) -> (bool, u32) {
        (self.passed, self.run)
    }
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

    /// A worker that goes on with this instance. Whoever keeps the results knows the verdict already: no [`Change`] tells it.
    #[must_use]
    pub fn remembering(probe_type: ProbeType, container_id: ContainerId, memory: Memory) -> Self {
        let Memory { verdict, passed, run, on_hold } = memory;
        let container_id = Some(container_id);
        Self { probe_type, container_id, verdict: Some(verdict), last_passed: passed, run, on_hold }
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
    pub fn step(
        &mut self,
        view: Option<View<'_>>,
        spec: &ProbeSpec,
        now: Instant,
        mut changed: impl FnMut(Change),
    ) -> Step {
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

    /// Another success after one that was above the threshold and changed nothing: one more in a row. Does not look at the spec.
    pub fn count_quietly(&mut self, spec: &ProbeSpec) {
        debug_assert!(self.clone().count(true, spec).change.is_none() && self.run >= spec.success_threshold);
        self.run = self.run.saturating_add(1);
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

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::fixture::{spec, thresholds};
    use ProbeType::{Liveness, Readiness, Startup};
    use Verdict::{Failure, Success, Unknown};

    const NOW: Instant = Instant::from_secs(1000);

    #[test]
    fn a_worker_that_remembers_goes_on_where_another_was() {
        let id = ContainerId::from("test://1");
        let remembering = |probe_type, verdict, passed, run| Bench {
            worker: Worker::remembering(probe_type, id.clone(), Memory::new(probe_type, verdict, passed, run)),
            ..Bench::new(probe_type, thresholds(1, 3))
        };
        let mut unwell = remembering(Liveness, Success, false, 2);
        unwell.probe_all(&[false]);
        assert_eq!((unwell.worker.verdict(), unwell.worker.is_on_hold()), (Some(Failure), true), "the third in a row");
        assert_eq!(unwell.changes.len(), 1, "neither an initial value nor the known one is a change");
        for (probe_type, verdict, passed, on_hold) in [
            (Liveness, Failure, false, true),
            (Liveness, Success, true, false),
            (Startup, Success, true, true),
            (Startup, Failure, false, true),
            (Startup, Unknown, false, false),
            (Readiness, Failure, false, false),
            (Readiness, Success, true, false),
        ] {
            let mut bench = remembering(probe_type, verdict, passed, 2);
            assert_eq!(bench.worker.is_on_hold(), on_hold, "{probe_type} {verdict:?}");
            assert_eq!(bench.worker.run(), if on_hold { 0 } else { 2 });
            assert_eq!(bench.step() == Step::Probe, !on_hold);
            assert_eq!((bench.worker.verdict(), bench.changes.len()), (Some(verdict), 0));
        }
        let told = |passed, run| Memory::new(Readiness, Success, passed, run).run();
        assert_eq!([told(true, 5), told(false, 2)], [(true, 5), (false, 2)]);
        assert_eq!(Memory::new(Liveness, Failure, false, 3).run(), (false, 0), "on hold the run begins anew");
        let mut held = remembering(Liveness, Failure, false, 0);
        held.id = ContainerId::from("test://2");
        assert!(held.probe(true), "a new instance ends the hold");
        assert_eq!(held.worker.verdict(), Some(Success));
    }

    /// A worker with the world that it sees.
    struct Bench {
        worker: Worker,
        spec: ProbeSpec,
        phase: PodPhase,
        deleting: bool,
        id: ContainerId,
        state: InstanceState,
        started: Option<bool>,
        restartable: bool,
        before_manager: bool,
        changes: Vec<Change>,
    }

    impl Bench {
        /// A running container, started a second ago, `started` as the type of probe needs it.
        fn new(probe_type: ProbeType, spec: ProbeSpec) -> Self {
            Self {
                worker: Worker::new(probe_type),
                spec,
                phase: PodPhase::Running,
                deleting: false,
                id: ContainerId::from("test://1"),
                state: InstanceState::Running { started_at: Instant::from_secs(999) },
                started: Some(probe_type != Startup),
                restartable: true,
                before_manager: false,
                changes: Vec::new(),
            }
        }

        fn step_seeing(&mut self, seen: bool, instance: bool) -> Step {
            let found = Instance {
                id: &self.id,
                state: self.state,
                started: self.started,
                restartable: self.restartable,
                before_manager: self.before_manager,
            };
            let instance = instance.then_some(found);
            let view = View { phase: self.phase, deleting: self.deleting, instance };
            let changes = &mut self.changes;
            self.worker.step(seen.then_some(view), &self.spec, NOW, |change| changes.push(change))
        }

        fn step(&mut self) -> Step {
            self.step_seeing(true, true)
        }

        /// One step, and a result where it asks for an attempt. Returns whether it did.
        fn probe(&mut self, passed: bool) -> bool {
            let asked = self.step() == Step::Probe;
            if asked {
                self.count(passed);
            }
            asked
        }

        fn probe_all(&mut self, results: &[bool]) {
            results.iter().for_each(|passed| assert!(self.probe(*passed)));
        }

        fn count(&mut self, passed: bool) -> Counted {
            let counted = self.worker.count(passed, &self.spec);
            self.changes.extend(counted.change.clone());
            counted
        }

        fn verdict(&self) -> Option<Verdict> {
            self.worker.verdict()
        }
    }

    fn each_type(check: impl Fn(Bench)) {
        for probe_type in ProbeType::ALL {
            check(Bench::new(probe_type, spec()));
        }
    }

    #[test]
    fn w01_without_a_pod_status_nothing_is_stored() {
        each_type(|mut bench| {
            assert_eq!(bench.step_seeing(false, false), Step::Continue);
            assert_eq!(bench.verdict(), None);
        });
    }

    #[test]
    fn w02_a_failed_pod_ends_the_worker() {
        each_type(|mut bench| {
            bench.phase = PodPhase::Failed;
            assert_eq!((bench.step(), bench.verdict()), (Step::Exit, None));
        });
    }

    #[test]
    fn w03_a_succeeded_pod_ends_the_worker() {
        each_type(|mut bench| {
            bench.phase = PodPhase::Succeeded;
            assert_eq!((bench.step(), bench.verdict()), (Step::Exit, None));
        });
    }

    #[test]
    fn w04_liveness_of_a_deleted_pod_stores_success_and_ends() {
        let mut bench = Bench::new(Liveness, spec());
        bench.deleting = true;
        assert_eq!((bench.step(), bench.verdict()), (Step::Exit, Some(Success)));
    }

    #[test]
    fn w05_startup_of_a_deleted_pod_stores_success_and_ends() {
        let mut bench = Bench::new(Startup, spec());
        bench.deleting = true;
        assert_eq!((bench.step(), bench.verdict()), (Step::Exit, Some(Success)));
        assert_eq!(bench.changes.last().map(|c| c.cause), Some(PublishCause::Deleting));
    }

    #[test]
    fn w06_readiness_of_a_deleted_pod_goes_on() {
        let mut bench = Bench::new(Readiness, spec());
        bench.deleting = true;
        assert!(bench.probe(true));
        assert_eq!(bench.verdict(), Some(Success));
    }

    #[test]
    fn w07_a_status_without_the_container_stores_nothing() {
        each_type(|mut bench| {
            assert_eq!((bench.step_seeing(true, false), bench.verdict()), (Step::Continue, None));
        });
    }

    #[test]
    fn w09_a_waiting_container_is_a_failure() {
        each_type(|mut bench| {
            bench.state = InstanceState::Waiting;
            assert_eq!((bench.step(), bench.verdict()), (Step::Continue, Some(Failure)));
        });
    }

    #[test]
    fn w10_a_terminated_container_that_stays_so_is_a_failure_and_ends_the_worker() {
        each_type(|mut bench| {
            bench.state = InstanceState::Terminated;
            bench.restartable = false;
            assert_eq!((bench.step(), bench.verdict()), (Step::Exit, Some(Failure)));
        });
    }

    #[test]
    fn w11_a_terminated_container_that_may_be_restarted_is_a_failure_and_the_worker_goes_on() {
        each_type(|mut bench| {
            bench.state = InstanceState::Terminated;
            assert_eq!((bench.step(), bench.verdict()), (Step::Continue, Some(Failure)));
        });
    }

    #[test]
    fn w15_an_ordinary_success_is_stored() {
        each_type(|mut bench| {
            assert!(bench.probe(true));
            assert_eq!(bench.verdict(), Some(Success));
        });
    }

    #[test]
    fn w16_a_negative_initial_delay_is_none() {
        each_type(|mut bench| {
            bench.spec.initial_delay_seconds = -100;
            assert!(bench.probe(true));
            assert_eq!(bench.verdict(), Some(Success));
        });
    }

    #[track_caller]
    fn assert_waits_for_initial_delay(probe_type: ProbeType, initial: Verdict) {
        let mut bench = Bench::new(probe_type, spec());
        bench.spec.initial_delay_seconds = 10;
        assert!(!bench.probe(true));
        assert_eq!(bench.verdict(), Some(initial));
    }

    #[test]
    fn w17_readiness_within_the_initial_delay_stays_failure() {
        assert_waits_for_initial_delay(Readiness, Failure);
    }

    #[test]
    fn w18_liveness_within_the_initial_delay_stays_success() {
        assert_waits_for_initial_delay(Liveness, Success);
    }

    #[test]
    fn w19_startup_within_the_initial_delay_stays_unknown() {
        assert_waits_for_initial_delay(Startup, Unknown);
    }

    #[test]
    fn w20_after_the_initial_delay_it_probes() {
        each_type(|mut bench| {
            bench.spec.initial_delay_seconds = 10;
            bench.state = InstanceState::Running { started_at: Instant::from_secs(900) };
            assert!(bench.probe(true));
            assert_eq!(bench.verdict(), Some(Success));
        });
    }

    #[test]
    fn the_initial_delay_ends_on_the_second() {
        let mut bench = Bench::new(Readiness, spec());
        bench.spec.initial_delay_seconds = 10;
        bench.state =
            InstanceState::Running { started_at: NOW.saturating_sub(core::time::Duration::from_millis(9_999)) };
        assert_eq!(bench.step(), Step::Continue);
        bench.state = InstanceState::Running { started_at: Instant::from_secs(990) };
        assert_eq!(bench.step(), Step::Probe);
    }

    #[test]
    fn w21_readiness_of_a_container_that_is_not_started_is_not_probed() {
        let mut bench = Bench::new(Readiness, spec());
        bench.started = Some(false);
        assert!(!bench.probe(true));
        assert_eq!(bench.verdict(), Some(Failure));
    }

    #[test]
    fn w22_liveness_is_probed_once_the_container_is_started() {
        let mut bench = Bench::new(Liveness, spec());
        bench.started = Some(false);
        assert!(!bench.probe(false));
        assert_eq!(bench.verdict(), Some(Success));
        bench.started = Some(true);
        assert!(bench.probe(false));
        assert_eq!(bench.verdict(), Some(Failure));
    }

    #[test]
    fn w23_startup_is_probed_until_the_container_is_started() {
        let mut bench = Bench::new(Startup, spec());
        bench.started = Some(true);
        assert!(!bench.probe(false));
        assert_eq!(bench.verdict(), Some(Unknown));
        bench.started = Some(false);
        assert!(bench.probe(false));
        assert_eq!(bench.verdict(), Some(Failure));
    }

    #[test]
    fn w25_startup_is_probed_while_started_is_not_known() {
        let mut bench = Bench::new(Startup, spec());
        bench.started = None;
        assert!(bench.probe(true));
        let mut others = Bench::new(Liveness, spec());
        others.started = None;
        assert!(!others.probe(true));
    }

    #[test]
    fn w30_successes_keep_success() {
        let mut bench = Bench::new(Readiness, thresholds(1, 3));
        for _ in 0..3 {
            bench.probe_all(&[true]);
            assert_eq!(bench.verdict(), Some(Success));
        }
    }

    #[test]
    fn w31_two_failures_below_threshold_keep_success() {
        let mut bench = Bench::new(Readiness, thresholds(1, 3));
        bench.probe_all(&[true, false, false]);
        assert_eq!((bench.verdict(), bench.worker.run()), (Some(Success), 2));
    }

    #[test]
    fn w32_the_third_failure_in_a_row_is_the_verdict() {
        let mut bench = Bench::new(Readiness, thresholds(1, 3));
        bench.probe_all(&[true, false, false, false]);
        assert_eq!(bench.verdict(), Some(Failure));
    }

    #[test]
    fn w34_one_success_recovers_and_failures_count_anew() {
        let mut bench = Bench::new(Readiness, thresholds(1, 3));
        for _ in 0..2 {
            bench.probe_all(&[true, false]);
            assert_eq!(bench.worker.run(), 1);
            bench.probe_all(&[false]);
            assert_eq!(bench.verdict(), Some(Success));
            bench.probe_all(&[false]);
            assert_eq!(bench.verdict(), Some(Failure));
        }
        bench.probe_all(&[true]);
        assert_eq!(bench.verdict(), Some(Success));
    }

    #[test]
    fn w35_two_successes_below_threshold_keep_failure() {
        let mut bench = Bench::new(Readiness, thresholds(3, 1));
        bench.probe_all(&[false, true, true]);
        assert_eq!(bench.verdict(), Some(Failure));
    }

    #[test]
    fn w36_the_third_success_in_a_row_is_the_verdict() {
        let mut bench = Bench::new(Readiness, thresholds(3, 1));
        bench.probe_all(&[false, true, true, true]);
        assert_eq!(bench.verdict(), Some(Success));
        bench.probe(true);
        assert_eq!(bench.verdict(), Some(Success));
    }

    #[test]
    fn w40_a_startup_success_puts_on_hold() {
        let mut bench = Bench::new(Startup, spec());
        bench.probe(true);
        assert_eq!((bench.verdict(), bench.worker.is_on_hold(), bench.worker.run()), (Some(Success), true, 0));
        assert!(!bench.probe(false));
    }

    #[track_caller]
    fn assert_after_startup_failures(failures: usize, verdict: Verdict, run: u32, on_hold: bool) {
        let mut bench = Bench::new(Startup, thresholds(1, 3));
        bench.probe_all(&[false; 3][..failures]);
        assert_eq!((bench.verdict(), bench.worker.run(), bench.worker.is_on_hold()), (Some(verdict), run, on_hold));
    }

    #[test]
    fn w41_one_startup_failure_of_three_stays_unknown() {
        assert_after_startup_failures(1, Unknown, 1, false);
    }

    #[test]
    fn w42_two_startup_failures_of_three_stay_unknown() {
        assert_after_startup_failures(2, Unknown, 2, false);
    }

    #[test]
    fn w43_three_startup_failures_of_three_are_failure_on_hold() {
        assert_after_startup_failures(3, Failure, 0, true);
    }

    #[test]
    fn w44_a_liveness_failure_puts_on_hold() {
        let mut bench = Bench::new(Liveness, spec());
        bench.probe(false);
        assert_eq!((bench.verdict(), bench.worker.run(), bench.worker.is_on_hold()), (Some(Failure), 0, true));
    }

    #[test]
    fn w45_on_hold_nothing_is_asked() {
        let mut bench = Bench::new(Liveness, spec());
        bench.probe(false);
        assert!(!bench.probe(true));
        bench.state = InstanceState::Terminated;
        bench.restartable = false;
        assert_eq!(bench.step(), Step::Continue);
        assert_eq!(bench.verdict(), Some(Failure));
    }

    #[test]
    fn w46_a_new_instance_ends_the_hold_and_replaces_the_entry() {
        let mut bench = Bench::new(Liveness, spec());
        bench.probe(false);
        bench.changes.clear();
        let old = core::mem::replace(&mut bench.id, ContainerId::from("test://2"));
        assert!(bench.probe(true));
        assert!(!bench.worker.is_on_hold());
        let removed = Change { container_id: old, verdict: None, cause: PublishCause::Removed };
        let initial = Change { container_id: bench.id.clone(), verdict: Some(Success), cause: PublishCause::Initial };
        assert_eq!(bench.changes, [removed, initial]);
        assert_eq!(bench.verdict(), Some(Success));
    }

    #[test]
    fn w48_a_readiness_failure_does_not_put_on_hold() {
        let mut bench = Bench::new(Readiness, spec());
        bench.probe(false);
        assert!(!bench.worker.is_on_hold());
        assert!(bench.probe(true));
    }

    #[test]
    fn w54_an_instance_older_than_the_manager_gets_no_initial_value() {
        each_type(|mut bench| {
            bench.before_manager = true;
            bench.spec.initial_delay_seconds = 100;
            assert_eq!((bench.step(), bench.verdict()), (Step::Continue, None));
            assert!(bench.changes.is_empty());
        });
    }

    #[test]
    fn the_first_result_of_either_kind_is_a_run_of_one() {
        for passed in [true, false] {
            let mut bench = Bench::new(Readiness, thresholds(3, 3));
            bench.step();
            assert_eq!(bench.count(passed).run, 1);
        }
    }

    #[test]
    fn counts_leak_across_restarts() {
        let mut bench = Bench::new(Liveness, thresholds(1, 3));
        bench.probe_all(&[false, false]);
        bench.id = ContainerId::from("test://2");
        bench.probe(false);
        assert_eq!(bench.verdict(), Some(Failure));
        assert!(bench.worker.is_on_hold());
    }

    #[test]
    fn r02_the_same_verdict_again_is_no_change() {
        let mut bench = Bench::new(Readiness, spec());
        bench.probe(true);
        bench.changes.clear();
        bench.probe(true);
        assert!(bench.changes.is_empty());
    }

    #[test]
    fn an_instance_first_seen_ended_gets_its_initial_value_and_then_failure() {
        let mut bench = Bench::new(Liveness, spec());
        bench.state = InstanceState::Terminated;
        bench.step();
        let causes: Vec<_> = bench.changes.iter().map(|c| (c.verdict, c.cause)).collect();
        assert_eq!(causes, [(Some(Success), PublishCause::Initial), (Some(Failure), PublishCause::NotRunning)]);
    }
}
