//! One pod, from its addition to the end of its last container.
//!
//! Whose turn it is says `probe_core::order`. Starts are made one after the other in the manifest's order
//! (`kuberuntime_manager.go`, `SyncPod`); kills go on beside them. Invariant: a container has at most one instance, and the
//! next one is started only after `Exited` of the one before it.

mod end;
mod hooks;
mod slot;
mod start;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use probe_core::container::Flags;
use probe_core::id::{ContainerId, ContainerName, ProbeType};
use probe_core::order;
use probe_core::restart::Facts;
use probe_core::spec::{Container, Pod};
use probe_core::status::{ContainerStatus, PodStatus, Termination};
use probe_core::time::Instant;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::slot::Slot;
use super::Context;
use super::hook::{Done, HookError, When};
use crate::consumer::events::{EventType, NewEvent};
use crate::runtime::{RuntimeError, Started};
use crate::state::PodState;

/// Wait before something that the system refused is tried again (the kubelet's sync back-off).
const RETRY: Duration = Duration::from_secs(10);

/// What a pod hears.
#[derive(Debug)]
pub(super) enum Message {
    /// End gracefully, within so many seconds (`None`: the pod's own); `now`: kill.
    End { grace_seconds: Option<u64>, now: bool },
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
    /// Those that are to be started after them.
    next_starts: VecDeque<usize>,
    /// Of the pod's end, once that has been asked for.
    deletion_grace_seconds: Option<u64>,
    /// Nothing remains to be kept or started: whatever still runs is stopped, and nothing is started any more.
    over: bool,
    /// Failures of probes that wait for the end of a sync; at most one per container.
    failed: Vec<(usize, ContainerId, ProbeType)>,
    /// Without grace.
    end_now: bool,
    calls: JoinSet<Called>,
    /// What the manager knows; only a change is told.
    reported: Option<Arc<PodStatus>>,
}

/// A call of the runtime, or a hook, has returned.
enum Called {
    Start(usize, Result<Started, RuntimeError>),
    Stop(Stop, Result<(), RuntimeError>),
    StopAgain(Stop),
    Hook { index: usize, id: ContainerId, when: When, result: Result<Done, HookError> },
}

/// What the runtime is asked when an instance is to end.
struct Stop {
    index: usize,
    id: ContainerId,
    grace: Duration,
}

impl PodWorker {
    pub(super) fn new(pod: Arc<Pod>, past: Option<&PodState>, context: Context) -> Self {
        let reason = if pod.init_containers.is_empty() { "ContainerCreating" } else { "PodInitializing" };
        let slot = |container: &Container, is_over: bool| {
            let past = past.and_then(|past| past.container(&pod, container.name.as_str()));
            let mut slot = Slot::new(container.name.clone(), reason);
            let wait_max = context.config.backoff.max;
            past.into_iter().for_each(|past| slot.remember(past, container.kind, is_over, wait_max));
            slot
        };
        let slots = |is_over| -> Vec<Slot> { pod.all_containers().map(|container| slot(container, is_over)).collect() };
        let mut restored = slots(past.is_some_and(|past| past.is_over));
        let statuses: Vec<ContainerStatus> = restored.iter().map(|slot| slot.status.clone()).collect();
        if !order::is_over(&pod, &statuses) {
            // It never was, or another policy says now that it is not.
            restored = slots(false);
        }
        Self {
            pod,
            context,
            slots: restored,
            start_queue: VecDeque::new(),
            starting: false,
            next_starts: VecDeque::new(),
            deletion_grace_seconds: None,
            over: false,
            failed: Vec::new(),
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
                    Ok(Called::Stop(stop, result)) => self.stopped(stop, result),
                    Ok(Called::StopAgain(stop)) => self.stop_again(stop),
                    Ok(Called::Hook { index, id, when, result }) => self.hook_ended(index, &id, when, result),
                    // A hook that was cut off.
                    Err(e) if e.is_cancelled() => {}
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
            Message::End { grace_seconds, now } => self.end(grace_seconds, now),
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
        loop {
            let statuses = self.statuses();
            if order::is_over(&self.pod, &statuses) {
                tracing::info!(pod = %self.pod.name, "all containers of the pod have ended for good");
                self.over = true;
                self.stop_all();
                return;
            }
            let turns = order::turns_len(&self.pod, &statuses, &|name| self.flags(name));
            let new: Vec<usize> = (0..turns).filter(|index| self.slots[*index].is_new()).collect();
            if new.is_empty() {
                return;
            }
            // All of them in one sync. One that had ended before this daemon may let others come.
            new.into_iter().for_each(|index| self.begin(index));
            self.start_next();
        }
    }

    /// Tells the pod's state; `terminal`: its last one.
    fn report(&mut self, terminal: bool) {
        if self.is_in_post_start() {
            return;
        }
        let containers = self.statuses();
        let status = PodStatus {
            phase: probe_core::pod::phase(&self.pod, &containers, &|name| self.flags(name), terminal),
            deleting: self.is_ending(),
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

    /// Hooks are a part of the sync that starts their containers, and no status is made before that has ended: none of its
    /// containers is shown, or probed, before all that are started together have been (rule 6.4).
    fn is_in_post_start(&self) -> bool {
        !self.is_closing() && self.start_queue.iter().any(|index| self.container(*index).post_start().is_some())
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
            deleting: self.is_ending(),
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
        self.slots.iter().filter_map(Slot::due).min()
    }

    /// Nothing is started any more, and what runs is being stopped.
    fn is_closing(&self) -> bool {
        self.is_ending() || self.over
    }

    /// Its end has been asked for.
    fn is_ending(&self) -> bool {
        self.deletion_grace_seconds.is_some()
    }

    fn has_ended(&self) -> bool {
        self.is_ending() && self.calls.is_empty() && !self.slots.iter().any(Slot::is_running)
    }
}
