//! Pods' lives: containers started, killed and restarted through the runtime. What happens is decided by
//! `probe_core::restart`; here is one state machine per pod (`pod`) and the way of messages to it.
//!
//! **Invariant:** neither a pod nor this stage ever waits for a stage that may wait for it: states go through
//! [`source::runtime`](crate::source::runtime), events are dropped (and told) when their stage is behind.
//!
//! Only for a runtime that manages containers; without one the manager does the little that is left.

mod hook;
mod pod;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use probe_core::backoff::Limits;
use probe_core::id::{ContainerId, ContainerName, PodUid, ProbeType};
use probe_core::spec::{Hook, Pod};
use probe_core::time::Instant;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::pod::{Message, PodWorker};
use crate::consumer::events::NewEvent;
use crate::runtime::{ContainerRuntime, RuntimeEvent};
use crate::source::PodUpdateSender;
use crate::source::runtime::{self as reports, RuntimeReports};
use crate::state::PodState;
use crate::{clock, limits};

/// What lifecycle hears.
#[derive(Clone, Debug)]
pub enum LifecycleInput {
    /// A new pod, and what the daemon before this one knew of it. One whose UID is still being ended is started afterwards.
    Add(Arc<Pod>, Option<Arc<PodState>>),
    /// End it gracefully, within so many seconds; `None`: as its spec says. Said again it can only become shorter.
    Remove(PodUid, Option<u64>),
    /// The grace period of one that is being ended becomes so many seconds, if that is shorter.
    Shorten(PodUid, u64),
    /// A liveness or startup probe's verdict became Failure.
    Failed {
        /// The pod.
        pod: PodUid,
        /// The container.
        container: ContainerName,
        /// The instance that failed.
        container_id: ContainerId,
        /// Liveness or startup.
        probe_type: ProbeType,
    },
    /// A startup probe's verdict became Success: what waits for a sidecar may come.
    Started {
        /// The pod.
        pod: PodUid,
        /// The container.
        container: ContainerName,
        /// The instance that is started.
        container_id: ContainerId,
    },
    /// The daemon ends: so do all pods, and then the stage.
    Shutdown {
        /// Kill at once instead of waiting for the grace periods.
        now: bool,
    },
}

/// Where events go. Full: dropped and told.
pub type EventSink = mpsc::Sender<NewEvent>;

/// What can be set.
#[derive(Clone, Copy, Debug, Default)]
pub struct LifecycleConfig {
    /// CrashLoopBackOff's numbers.
    pub backoff: Limits,
}

/// See the module.
pub struct Lifecycle {
    context: Context,
    source: reports::RuntimeSource,
}

/// What every pod's state machine needs.
#[derive(Clone)]
struct Context {
    runtime: Arc<dyn ContainerRuntime>,
    reports: RuntimeReports,
    events: EventSink,
    config: LifecycleConfig,
    stats: Arc<LifecycleStats>,
    clock: TimerClock,
}

/// What lifecycle counts.
#[derive(Debug, Default)]
pub struct LifecycleStats {
    http_fallbacks: AtomicU64,
    sleeps_cut_off: AtomicU64,
}

impl LifecycleStats {
    /// https hooks that a server answered over plain HTTP (`kubelet_lifecycle_handler_http_fallbacks_total`).
    #[must_use]
    pub fn http_fallbacks(&self) -> u64 {
        self.http_fallbacks.load(Ordering::Relaxed)
    }

    /// sleep hooks that their container did not outlive (`kubelet_sleep_action_terminated_early_total`).
    #[must_use]
    pub fn sleeps_cut_off(&self) -> u64 {
        self.sleeps_cut_off.load(Ordering::Relaxed)
    }

    fn http_fallback(&self) {
        self.http_fallbacks.fetch_add(1, Ordering::Relaxed);
    }

    fn hook_cut_off(&self, hook: Option<&Hook>) {
        if matches!(hook, Some(Hook::Sleep(_))) {
            self.sleeps_cut_off.fetch_add(1, Ordering::Relaxed);
        }
    }
}

struct Entry {
    inbox: mpsc::Sender<Message>,
    /// Its end has been asked for.
    ending: bool,
    /// Added again meanwhile.
    successor: Option<Arc<Pod>>,
}

/// The engine's clock, read through tokio's timers, so that both move together where a test moves them.
#[derive(Clone, Copy)]
struct TimerClock {
    base: Instant,
    timers: tokio::time::Instant,
    /// How far the clock had been moved then.
    moved: Duration,
}

impl TimerClock {
    fn new() -> Self {
        Self { base: clock::now(), timers: tokio::time::Instant::now(), moved: clock::moved() }
    }

    fn now(&self) -> Instant {
        self.base + self.timers.elapsed() + (clock::moved() - self.moved)
    }

    async fn sleep_until(&self, at: Instant) {
        clock::sleep_until_by(at, || self.now()).await;
    }
}

impl Lifecycle {
    /// Must be called within a tokio runtime.
    #[must_use]
    pub fn new(
        runtime: Arc<dyn ContainerRuntime>,
        updates: PodUpdateSender,
        events: EventSink,
        config: LifecycleConfig,
        stats: Arc<LifecycleStats>,
    ) -> Self {
        let (reports, source) = reports::channel(updates);
        let clock = TimerClock::new();
        Self { context: Context { runtime, reports, events, config, stats, clock }, source }
    }

    /// Runs until a shutdown (or the end of `input`, which is one) has ended every pod, and all is told.
    pub async fn run(self, input: mpsc::Receiver<LifecycleInput>) {
        let source = tokio::spawn(self.source.run());
        Router::new(self.context).run(input).await;
        let _ = source.await;
    }
}

/// Knows where each pod's messages go.
struct Router {
    context: Context,
    pods: HashMap<PodUid, Entry>,
    tasks: JoinSet<()>,
    /// Whose each task is: a task that panicked cannot say it.
    task_pods: HashMap<tokio::task::Id, PodUid>,
    shutting_down: bool,
}

impl Router {
    fn new(context: Context) -> Self {
        Self { context, pods: HashMap::new(), tasks: JoinSet::new(), task_pods: HashMap::new(), shutting_down: false }
    }

    async fn run(mut self, mut input: mpsc::Receiver<LifecycleInput>) {
        let mut exits = self.context.runtime.take_events();
        let mut input_open = true;
        while !(self.shutting_down && self.tasks.is_empty()) {
            tokio::select! {
                heard = input.recv(), if input_open => match heard {
                    Some(heard) => self.hear(heard).await,
                    None => {
                        input_open = false;
                        self.shut_down(false).await;
                    }
                },
                Some(event) = next(&mut exits) => self.exited(event).await,
                Some(ended) = self.tasks.join_next_with_id() => self.pod_ended(ended),
            }
        }
    }

    async fn hear(&mut self, input: LifecycleInput) {
        match input {
            LifecycleInput::Add(pod, past) => self.add(pod, past),
            LifecycleInput::Remove(uid, grace_seconds) => {
                self.remove(&uid, Message::End { grace_seconds, now: false }).await;
            }
            LifecycleInput::Shorten(uid, seconds) => {
                if self.pods.get(&uid).is_some_and(|entry| entry.ending) {
                    self.tell(&uid, Message::End { grace_seconds: Some(seconds), now: false }).await;
                }
            }
            LifecycleInput::Failed { pod, container, container_id, probe_type } => {
                self.tell(&pod, Message::Failed { container, container_id, probe_type }).await;
            }
            LifecycleInput::Started { pod, container, container_id } => {
                self.tell(&pod, Message::Started { container, container_id }).await;
            }
            LifecycleInput::Shutdown { now } => self.shut_down(now).await,
        }
    }

    fn add(&mut self, pod: Arc<Pod>, past: Option<Arc<PodState>>) {
        if self.shutting_down {
            return;
        }
        match self.pods.get_mut(&pod.uid) {
            None => self.start(pod, past.as_deref()),
            Some(entry) if entry.ending => entry.successor = Some(pod),
            Some(_) => {
                tracing::warn!(pod = %pod.name, uid = %pod.uid, "pod is known already; nothing changed")
            }
        }
    }

    fn start(&mut self, pod: Arc<Pod>, past: Option<&PodState>) {
        let (inbox, messages) = mpsc::channel(limits::POD_INBOX_LEN_MAX);
        let uid = pod.uid.clone();
        let task = self.tasks.spawn(PodWorker::new(pod, past, self.context.clone()).run(messages));
        self.task_pods.insert(task.id(), uid.clone());
        self.pods.insert(uid, Entry { inbox, ending: false, successor: None });
    }

    async fn remove(&mut self, uid: &PodUid, message: Message) {
        if let Some(entry) = self.pods.get_mut(uid) {
            entry.ending = true;
            entry.successor = None;
            self.tell(uid, message).await;
        }
    }

    async fn shut_down(&mut self, now: bool) {
        self.shutting_down = true;
        tracing::info!(pods = self.pods.len(), now, "ending all pods");
        let uids: Vec<PodUid> = self.pods.keys().cloned().collect();
        for uid in uids {
            self.remove(&uid, Message::End { grace_seconds: None, now }).await;
        }
    }

    async fn exited(&mut self, event: RuntimeEvent) {
        let RuntimeEvent::Exited { pod, container, id, termination } = event;
        self.tell(&pod, Message::Exited { container, id, termination }).await;
    }

    /// A pod empties its inbox without waiting for anything; one that has just ended needs to hear nothing.
    async fn tell(&self, uid: &PodUid, message: Message) {
        if let Some(entry) = self.pods.get(uid) {
            let _ = entry.inbox.send(message).await;
        }
    }

    fn pod_ended(&mut self, ended: Result<(tokio::task::Id, ()), tokio::task::JoinError>) {
        let (id, panicked) = match &ended {
            Ok((id, ())) => (*id, false),
            Err(e) => (e.id(), true),
        };
        let Some(uid) = self.task_pods.remove(&id) else {
            return;
        };
        if panicked {
            tracing::error!(%uid, "a pod's lifecycle panicked; its containers are left as they are");
            self.context.reports.terminated(&uid);
        }
        let successor = self.pods.remove(&uid).and_then(|entry| entry.successor);
        if let Some(pod) = successor {
            self.add(pod, None);
        }
    }
}

/// Pends where there is nothing to receive from any more.
async fn next(exits: &mut Option<mpsc::Receiver<RuntimeEvent>>) -> Option<RuntimeEvent> {
    match exits {
        Some(exits) => exits.recv().await,
        None => std::future::pending().await,
    }
}
