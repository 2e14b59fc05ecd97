//! One pod, from its addition to the end of its last container.
//!
//! Whose turn it is says `probe_core::order`. Starts are made one after the other in the manifest's order
//! (`kuberuntime_manager.go`, `SyncPod`); kills go on beside them. Invariant: a container has at most one instance, and the
//! next one is started only after `Exited` of the one before it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use probe_core::backoff::{self, Backoff};
use probe_core::container::Flags;
use probe_core::id::{ContainerId, ContainerName, ProbeType};
use probe_core::order;
use probe_core::outcome::Verdict;
use probe_core::restart::{self, Decision, Facts, KillReason};
use probe_core::spec::{Container, Pod};
use probe_core::status::{ContainerState, ContainerStatus, PodStatus, Termination};
use probe_core::time::Instant;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Context;
use crate::consumer::events::{EventType, NewEvent};
use crate::runtime::{RuntimeError, Started};

/// Wait before something that the system refused is tried again (the kubelet's sync back-off).
const RETRY: Duration = Duration::from_secs(10);
/// Exit code of a container whose program could not be started (containerd's).
const START_ERROR_EXIT_CODE: i32 = 128;

/// What a pod hears.
#[derive(Debug)]
pub(super) enum Message {
    /// End gracefully; `now`: kill.
    End { now: bool },
    /// A liveness or startup probe failed.
    Failed { container: ContainerName, container_id: ContainerId, probe_type: ProbeType },
    /// A startup probe succeeded.
    Started { container: ContainerName, container_id: ContainerId },
    /// An instance has ended.
    Exited { container: ContainerName, id: ContainerId, termination: Termination },
}

/// See the module.
pub(super) struct PodWorker {
    pod: Arc<Pod>,
    context: Context,
    slots: Vec<Slot>,
    /// Containers to start, in order; the front one is being started when `starting`.
    start_queue: VecDeque<usize>,
    starting: bool,
    ending: bool,
    /// Nothing remains to be kept or started: whatever still runs is stopped, and nothing is started any more.
    over: bool,
    /// Without grace.
    end_now: bool,
    calls: JoinSet<Called>,
    /// What the manager knows; only a change is told.
    reported: Option<Arc<PodStatus>>,
}

/// One container.
struct Slot {
    name: ContainerName,
    status: ContainerStatus,
    backoff: Backoff,
    /// Instances that were started, or tried to: the number of the next one.
    instances: u32,
    /// The newest instance has no startup probe, or that has succeeded.
    is_started: bool,
    phase: SlotPhase,
}

/// What is under way with a container, beside what its status says.
enum SlotPhase {
    /// Nothing.
    Idle,
    /// In the start queue; its instance may already have ended before its start is known.
    Starting { early_exit: Option<(ContainerId, Termination)> },
    /// Its next start is due then.
    WaitingUntil(Instant),
    /// It is being killed for a probe; `before` is the status that this was decided from.
    Killing { restart: bool, before: ContainerStatus },
    /// It is being killed with its pod, since then; its stop signal may have to wait for its turn.
    Ending { since: Instant, grace_seconds: u64, is_stopped: bool },
}

/// A call of the runtime has returned.
enum Called {
    Start(usize, Result<Started, RuntimeError>),
    Stop,
}

impl PodWorker {
    pub(super) fn new(pod: Arc<Pod>, context: Context) -> Self {
        let reason = if pod.init_containers.is_empty() { "ContainerCreating" } else { "PodInitializing" };
        let slots = pod.all_containers().map(|container| Slot::new(container.name.clone(), reason)).collect();
        Self {
            pod,
            context,
            slots,
            start_queue: VecDeque::new(),
            starting: false,
            ending: false,
            over: false,
            end_now: false,
            calls: JoinSet::new(),
            reported: None,
        }
    }

    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Message>) {
        self.settle();
        self.report(false);
        while !self.has_ended() {
            let due = self.next_due();
            let clock = self.context.clock;
            tokio::select! {
                Some(message) = inbox.recv() => self.hear(message),
                Some(called) = self.calls.join_next() => match called {
                    Ok(Called::Start(index, started)) => self.started(index, started),
                    Ok(Called::Stop) => {}
                    Err(e) => tracing::error!(uid = %self.pod.uid, error = %e, "a call of the runtime panicked"),
                },
                () = clock.sleep_until(due.unwrap_or_default()), if due.is_some() => self.handle_due(),
            }
            self.settle();
            self.report(false);
        }
        inbox.close();
        if let Err(e) = self.context.runtime.remove_pod(&self.pod.uid).await {
            tracing::warn!(uid = %self.pod.uid, error = %e, "cannot clean up after a pod");
        }
        self.report(true);
        self.context.reports.terminated(&self.pod.uid);
    }

    fn hear(&mut self, message: Message) {
        match message {
            Message::End { now } => self.end(now),
            Message::Failed { container, container_id, probe_type } => {
                if let Some(index) = self.index_of(&container) {
                    self.probe_failed(index, &container_id, probe_type);
                }
            }
            Message::Started { container, container_id } => {
                if let Some(index) = self.index_of(&container)
                    && self.slots[index].status.id.as_ref() == Some(&container_id)
                {
                    self.slots[index].is_started = true;
                }
            }
            Message::Exited { container, id, termination } => {
                if let Some(index) = self.index_of(&container) {
                    self.exited(index, id, termination);
                }
            }
        }
    }

    /// After whatever has happened: starts those whose turn has come, or ends what is left where nothing remains to be kept.
    fn settle(&mut self) {
        if self.is_closing() {
            return;
        }
        let statuses = self.statuses();
        if order::is_over(&self.pod, &statuses) {
            tracing::info!(pod = %self.pod.name, "all containers of the pod have ended for good");
            self.over = true;
            self.stop_all();
            return;
        }
        let turns = order::turns_len(&self.pod, &statuses, &|name| self.flags(name));
        for index in 0..turns {
            if self.slots[index].is_new() {
                self.queue_start(index);
            }
        }
    }

    /// Rule 6.3: all containers in parallel, each with the pod's grace period, and sidecars after the others.
    fn end(&mut self, now: bool) {
        self.end_now |= now;
        if !self.ending {
            self.ending = true;
            self.context.reports.stop_liveness_and_startup(&self.pod.uid);
            self.stop_all();
        }
        if now {
            for index in 0..self.slots.len() {
                self.stop(index, Duration::ZERO);
            }
        }
    }

    fn stop_all(&mut self) {
        // What has been asked to start is stopped once it has.
        self.start_queue.truncate(usize::from(self.starting));
        let asked = self.start_queue.front().copied();
        for index in 0..self.slots.len() {
            match self.slots[index].phase {
                // As it has been asked to, without a second event.
                SlotPhase::Ending { .. } => {}
                _ if self.slots[index].is_running() => self.stop_for_end(index),
                _ if asked == Some(index) => {}
                _ => self.slots[index].phase = SlotPhase::Idle,
            }
        }
        self.stop_next();
    }

    /// Of a running container: the event comes first, the stop signal when its turn has come ([`Self::stop_next`]).
    fn stop_for_end(&mut self, index: usize) {
        let deletion = self.ending.then(|| restart::deletion_grace_seconds(&self.pod, None, None));
        let grace_seconds = restart::grace_seconds(&self.pod, self.container(index), KillReason::Other, deletion, None);
        let text = format!("Stopping container {}", self.slots[index].name);
        self.event(index, EventType::Normal, "Killing", text, None);
        let since = self.context.clock.now();
        self.slots[index].phase = SlotPhase::Ending { since, grace_seconds, is_stopped: false };
    }

    /// Stops those whose turn has come, or who have waited for it as long as their grace period: what they have waited is taken
    /// off it (rule 6.2, steps 5 and 6).
    fn stop_next(&mut self) {
        let now = self.context.clock.now();
        for index in 0..self.slots.len() {
            let SlotPhase::Ending { since, grace_seconds, is_stopped: false } = self.slots[index].phase else {
                continue;
            };
            let is_due = now >= since + Duration::from_secs(grace_seconds);
            // What is being started is stopped once it has.
            let is_there = |other: usize| {
                let slot = &self.slots[other];
                slot.is_running() || matches!(slot.phase, SlotPhase::Starting { .. })
            };
            if self.end_now || is_due || order::may_stop(&self.pod, index, is_there) {
                self.slots[index].phase = SlotPhase::Ending { since, grace_seconds, is_stopped: true };
                let forced = self.end_now.then_some(0);
                let used_seconds = now.saturating_since(since).as_secs();
                let grace = restart::remaining_grace_seconds(grace_seconds, used_seconds, forced);
                self.stop(index, Duration::from_secs(grace));
            }
        }
    }

    fn probe_failed(&mut self, index: usize, id: &ContainerId, probe_type: ProbeType) {
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
        let grace = restart::grace_seconds(&self.pod, self.container(index), reason, None, None);
        let grace = Duration::from_secs(restart::remaining_grace_seconds(grace, 0, None));
        self.event(index, EventType::Normal, "Killing", message.into(), Some(probe_type));
        let before = self.slots[index].status.clone();
        self.slots[index].phase = SlotPhase::Killing { restart, before };
        self.stop(index, grace);
    }

    fn exited(&mut self, index: usize, id: ContainerId, termination: Termination) {
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
        let phase = std::mem::replace(&mut slot.phase, SlotPhase::Idle);
        if self.is_closing() {
            self.stop_next();
            return;
        }
        match phase {
            SlotPhase::Killing { restart: true, before } => self.restart_after_kill(index, &before),
            _ => self.decide(index),
        }
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
            _ => self.decide(index),
        }
    }

    /// What becomes of a container that does not run.
    fn decide(&mut self, index: usize) {
        let now = self.context.clock.now();
        let slot = &self.slots[index];
        match restart::decide(&self.facts(index, &slot.status), now) {
            Decision::StartNow => {
                let last_exit = restart::last_exit(&slot.status);
                let limits = self.context.config.backoff;
                self.slots[index].backoff.advance(last_exit, &limits, now);
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

    fn handle_due(&mut self) {
        self.stop_next();
        let now = self.context.clock.now();
        for index in 0..self.slots.len() {
            if matches!(self.slots[index].phase, SlotPhase::WaitingUntil(until) if until <= now) {
                self.slots[index].phase = SlotPhase::Idle;
                // One that has never run waits for its turn again: the sidecar before it may have ended meanwhile.
                if !self.slots[index].is_new() {
                    self.decide(index);
                }
            }
        }
    }

    fn queue_start(&mut self, index: usize) {
        self.slots[index].phase = SlotPhase::Starting { early_exit: None };
        self.start_queue.push_back(index);
        self.start_next();
    }

    fn start_next(&mut self) {
        let Some(index) = self.start_queue.front().copied().filter(|_| !self.starting) else {
            return;
        };
        self.starting = true;
        let (pod, runtime) = (Arc::clone(&self.pod), Arc::clone(&self.context.runtime));
        let (name, number) = (self.slots[index].name.clone(), self.slots[index].instances);
        self.calls.spawn(async move { Called::Start(index, runtime.start(&pod, &name, number).await) });
    }

    fn started(&mut self, index: usize, started: Result<Started, RuntimeError>) {
        self.starting = false;
        self.start_queue.pop_front();
        match started {
            Ok(started) => self.runs(index, started),
            Err(error) => self.not_started(index, &error),
        }
        self.start_next();
    }

    fn runs(&mut self, index: usize, started: Started) {
        let is_started = self.container(index).probes.startup.is_none();
        let slot = &mut self.slots[index];
        let phase = std::mem::replace(&mut slot.phase, SlotPhase::Idle);
        let name = slot.name.clone();
        slot.new_instance();
        slot.is_started = is_started;
        slot.status.id = Some(started.id.clone());
        slot.status.state = ContainerState::Running { started_at: started.started_at };
        tracing::info!(pod = %self.pod.name, container = %name, id = %started.id, pid = started.pid, "container started");
        self.event(index, EventType::Normal, "Created", format!("Created container: {name}"), None);
        self.event(index, EventType::Normal, "Started", format!("Started container {name}"), None);
        if let SlotPhase::Starting { early_exit: Some((id, termination)) } = phase
            && id == started.id
        {
            self.report(false);
            self.exited(index, id, termination);
        } else if self.is_closing() {
            self.stop_for_end(index);
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
                reason: "StartError".into(),
                message: error.to_string().into(),
                started_at: now,
                finished_at: now,
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
            self.decide(index);
        }
    }

    /// Asks for an end of the running instance; what comes of it is told by `Exited`.
    fn stop(&mut self, index: usize, grace: Duration) {
        let slot = &self.slots[index];
        let (true, Some(id)) = (slot.is_running(), slot.status.id.clone()) else {
            return;
        };
        let (runtime, clock) = (Arc::clone(&self.context.runtime), self.context.clock);
        self.calls.spawn(async move {
            while let Err(error) = runtime.stop(&id, grace).await {
                tracing::warn!(container = %id, %error, "cannot kill a container; trying again");
                clock.sleep_until(clock.now() + RETRY).await;
            }
            Called::Stop
        });
    }

    /// Tells the pod's state; `terminal`: its last one.
    fn report(&mut self, terminal: bool) {
        let containers = self.statuses();
        let status = PodStatus {
            phase: probe_core::pod::phase(&self.pod, &containers, &|name| self.flags(name), terminal),
            deleting: self.ending,
            pod_ip: self.context.runtime.pod_ip(&self.pod),
            // Processes of this host live in the daemon's own.
            netns: None,
            containers: containers.into(),
        };
        if self.reported.as_deref() != Some(&status) {
            let status = Arc::new(status);
            self.context.reports.status(&self.pod.uid, Arc::clone(&status));
            self.reported = Some(status);
        }
    }

    fn statuses(&self) -> Vec<ContainerStatus> {
        self.slots.iter().map(|slot| slot.status.clone()).collect()
    }

    /// `ready` is for the stages behind this one to know.
    fn flags(&self, name: &ContainerName) -> Flags {
        let started = self.slots.iter().any(|slot| slot.name == *name && slot.is_running() && slot.is_started);
        Flags { started, ready: false }
    }

    fn event(
        &self,
        index: usize,
        event_type: EventType,
        reason: &'static str,
        message: String,
        probe_type: Option<ProbeType>,
    ) {
        let event = NewEvent {
            pod: Arc::clone(&self.pod),
            container: Some(self.slots[index].name.clone()),
            event_type,
            reason,
            message,
            probe_type,
            run: 0,
            threshold: 0,
            cause: None,
            at: self.context.clock.now(),
        };
        if let Err(mpsc::error::TrySendError::Full(event)) = self.context.events.try_send(event) {
            tracing::warn!(reason, message = event.message, "the events stage is behind: event dropped");
        }
    }

    fn facts<'a>(&'a self, index: usize, status: &'a ContainerStatus) -> Facts<'a> {
        Facts {
            pod: &self.pod,
            container: self.container(index),
            status: Some(status),
            definition_changed: false,
            liveness: None,
            startup: None,
            deleting: self.ending,
            backoff: &self.slots[index].backoff,
            limits: &self.context.config.backoff,
        }
    }

    fn container(&self, index: usize) -> &Container {
        let name = self.slots[index].name.as_str();
        self.pod.container(name).expect("slots are made from the pod's containers")
    }

    fn index_of(&self, name: &ContainerName) -> Option<usize> {
        self.slots.iter().position(|slot| slot.name == *name)
    }

    fn next_due(&self) -> Option<Instant> {
        self.slots
            .iter()
            .filter_map(|slot| match slot.phase {
                SlotPhase::WaitingUntil(until) => Some(until),
                SlotPhase::Ending { since, grace_seconds, is_stopped: false } => {
                    Some(since + Duration::from_secs(grace_seconds))
                }
                _ => None,
            })
            .min()
    }

    /// Nothing is started any more, and what runs is being stopped.
    fn is_closing(&self) -> bool {
        self.ending || self.over
    }

    fn has_ended(&self) -> bool {
        self.ending && self.calls.is_empty() && !self.slots.iter().any(Slot::is_running)
    }
}

impl Slot {
    fn new(name: ContainerName, reason: &str) -> Self {
        let state = ContainerState::waiting(reason, "");
        let status = ContainerStatus { name: name.clone(), id: None, state, last_termination: None, restart_count: 0 };
        Self { name, status, backoff: Backoff::new(), instances: 0, is_started: false, phase: SlotPhase::Idle }
    }

    /// It has never run, and nothing is under way with it.
    fn is_new(&self) -> bool {
        !self.status.has_run() && matches!(self.phase, SlotPhase::Idle)
    }

    fn is_running(&self) -> bool {
        matches!(self.status.state, ContainerState::Running { .. })
    }

    /// Counts one more instance; the end of the one before it is its `last_termination` from now on.
    fn new_instance(&mut self) {
        self.status.restart_count = self.instances;
        self.instances += 1;
        self.keep_termination();
    }

    fn set_waiting(&mut self, reason: &str, message: String) {
        self.keep_termination();
        self.status.state = ContainerState::waiting(reason, message);
    }

    fn keep_termination(&mut self) {
        if let ContainerState::Terminated(end) = &self.status.state {
            self.status.last_termination = Some(end.clone());
        }
    }
}
