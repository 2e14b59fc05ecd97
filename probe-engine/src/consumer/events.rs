//! Events: what happened to pods, with the kubelet's reasons and texts, in a bounded history.
//!
//! One task owns the [`History`]. Repeats of one (pod, container, reason, message) are one entry whose `count`
//! grows and whose place moves to the end, as the API's correlator does (`client-go/tools/record`); a watcher sees
//! each occurrence. So history holds the newest occurrence of each series, and 10,000 entries last long.
//!
//! **Invariant:** sequence numbers count up by one with every occurrence, from 1, and start again with the daemon.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use jiff::Timestamp;
use probe_core::id::{ContainerName, PodUid, ProbeType};
use probe_core::spec::{ContainerKind, Pod};
use probe_core::time::Instant;
use tokio::sync::{broadcast, mpsc, oneshot};
use tracing::debug;

use crate::clock;
use crate::limits;
use crate::results::cut;

/// `source.component` of every event.
///
/// Not the kubelet's name: beside a kubelet the two must be told apart.
pub const SOURCE_COMPONENT: &str = "probe-engine";

/// `type` of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventType {
    /// `Normal`
    Normal,
    /// `Warning`
    Warning,
}

impl EventType {
    /// As in an Event object.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        }
    }
}

/// Something that happened to a pod, as the stages tell it.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// The pod.
    pub pod: Arc<Pod>,
    /// The container, where it concerns one.
    pub container: Option<ContainerName>,
    /// `type`
    pub event_type: EventType,
    /// The kubelet's: `Unhealthy`, `Killing` ...
    pub reason: &'static str,
    /// The kubelet's text; cut at [`limits::MESSAGE_BYTES_MAX`].
    pub message: String,
    /// The probe, where one is the cause.
    pub probe_type: Option<ProbeType>,
    /// Results of one kind in a row, this one included; 0 = does not apply.
    pub run: u32,
    /// How many in a row make the verdict; 0 = does not apply.
    pub threshold: u32,
    /// The cause beside the text.
    pub cause: Option<Box<str>>,
    /// When it happened.
    pub at: Instant,
}

/// The entrance of the events stage. Bound: [`limits::NEW_EVENTS_LEN_MAX`].
pub type EventSender = mpsc::Sender<NewEvent>;

/// One occurrence, and the series it belongs to. The pod object is not kept, only what names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Of this occurrence; counts up by one with each, from 1.
    pub sequence: u64,
    /// `metadata.name` of the series: `<pod>.<hex>`, unique.
    pub name: Arc<str>,
    /// The pod's namespace.
    pub namespace: Arc<str>,
    /// The pod's name.
    pub pod: Arc<str>,
    /// The pod's UID.
    pub pod_uid: PodUid,
    /// The container, where it concerns one, and where it stands.
    pub container: Option<(ContainerName, ContainerKind)>,
    /// `type`
    pub event_type: EventType,
    /// `Unhealthy`, `Killing` ...
    pub reason: &'static str,
    /// The kubelet's text.
    pub message: Arc<str>,
    /// The probe, where one is the cause.
    pub probe_type: Option<ProbeType>,
    /// Results of one kind in a row at this occurrence; 0 = does not apply.
    pub run: u32,
    /// How many in a row make the verdict; 0 = does not apply.
    pub threshold: u32,
    /// The cause beside the text.
    pub cause: Option<Box<str>>,
    /// Occurrences of the series, this one included.
    pub count: u32,
    /// Of the series' first occurrence.
    pub first_at: Timestamp,
    /// Of this occurrence.
    pub last_at: Timestamp,
}

impl Event {
    /// `involvedObject.fieldPath`: `spec.containers{name}` or `spec.initContainers{name}`.
    #[must_use]
    pub fn field_path(&self) -> Option<String> {
        let (name, kind) = self.container.as_ref()?;
        let list = match kind {
            ContainerKind::Regular => "containers",
            ContainerKind::Sidecar | ContainerKind::Init => "initContainers",
        };
        Some(format!("spec.{list}{{{name}}}"))
    }
}

/// What makes two occurrences one series.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct SeriesKey {
    pod: PodUid,
    container: Option<ContainerName>,
    reason: &'static str,
    message: Arc<str>,
}

impl SeriesKey {
    fn of(event: &Event) -> Self {
        Self {
            pod: event.pod_uid.clone(),
            container: event.container.as_ref().map(|(name, _)| name.clone()),
            reason: event.reason,
            message: Arc::clone(&event.message),
        }
    }
}

/// The newest occurrence of each series, at most [`limits::EVENTS_LEN_MAX`], the oldest go.
#[derive(Debug, Default)]
pub struct History {
    sequence: u64,
    /// The newest sequence number that made room.
    evicted: u64,
    events: BTreeMap<u64, Arc<Event>>,
    series: HashMap<SeriesKey, u64>,
}

impl History {
    /// Takes in an occurrence and gives back how it stands in its series.
    pub fn push(&mut self, new: NewEvent) -> Arc<Event> {
        self.sequence += 1;
        let mut event = event_of(new, self.sequence);
        let key = SeriesKey::of(&event);
        if let Some(earlier) = self.series.remove(&key).and_then(|sequence| self.events.remove(&sequence)) {
            event.name = Arc::clone(&earlier.name);
            event.count = earlier.count.saturating_add(1);
            event.first_at = earlier.first_at;
        }
        let event = Arc::new(event);
        self.series.insert(key, event.sequence);
        self.events.insert(event.sequence, Arc::clone(&event));
        if self.events.len() > limits::EVENTS_LEN_MAX {
            self.evict_oldest();
        }
        event
    }

    /// Occurrences after `sequence`, oldest first.
    pub fn since(&self, sequence: u64) -> impl Iterator<Item = &Arc<Event>> {
        self.events.range(sequence.saturating_add(1)..).map(|(_, event)| event)
    }

    /// The newest sequence number; 0 = nothing has happened yet.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Something after `sequence` is gone, or the number is of an earlier daemon.
    #[must_use]
    pub fn has_lost(&self, sequence: u64) -> bool {
        sequence < self.evicted || sequence > self.sequence
    }

    fn evict_oldest(&mut self) {
        if let Some((sequence, event)) = self.events.pop_first() {
            self.evicted = sequence;
            self.series.remove(&SeriesKey::of(&event));
        }
    }
}

/// The events stage has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the events stage has ended: the daemon is shutting down")]
pub struct EventsEnded;

type Ask = (u64, oneshot::Sender<EventWatch>);

/// The readers' entrance; cheap to clone. Bound: [`limits::EVENT_ASKS_LEN_MAX`].
#[derive(Clone, Debug)]
pub struct EventsHandle {
    asks: mpsc::Sender<Ask>,
}

/// The task's ends of its channels.
pub struct Inbox {
    events: mpsc::Receiver<NewEvent>,
    asks: mpsc::Receiver<Ask>,
}

/// The channels of the events stage.
#[must_use]
pub fn channel() -> (EventSender, EventsHandle, Inbox) {
    let (events_in, events) = mpsc::channel(limits::NEW_EVENTS_LEN_MAX);
    let (asks_in, asks) = mpsc::channel(limits::EVENT_ASKS_LEN_MAX);
    (events_in, EventsHandle { asks: asks_in }, Inbox { events, asks })
}

/// Runs until every sender of events has gone. Watchers then get what they have not read yet, and the end.
pub async fn run(mut inbox: Inbox) {
    let mut history = History::default();
    let (live, _) = broadcast::channel(limits::EVENT_WATCH_LAG_MAX);
    loop {
        tokio::select! {
            event = inbox.events.recv() => {
                let Some(event) = event else { return };
                let event = history.push(event);
                debug!(
                    sequence = event.sequence,
                    pod = %format_args!("{}/{}", event.namespace, event.pod),
                    reason = event.reason,
                    "{}", event.message
                );
                // Nobody watches: fine.
                let _ = live.send(event);
            }
            Some((since, reply)) = inbox.asks.recv() => {
                let _ = reply.send(watch_of(&history, since, live.subscribe()));
            }
        }
    }
}

impl EventsHandle {
    /// Everything kept after `since` (0 = all), then what happens: no gap, no repeat.
    pub async fn watch(&self, since: u64) -> Result<EventWatch, EventsEnded> {
        let (reply, answer) = oneshot::channel();
        self.asks.send((since, reply)).await.map_err(|_| EventsEnded)?;
        answer.await.map_err(|_| EventsEnded)
    }

    /// Everything kept, oldest first.
    pub async fn history(&self) -> Result<Vec<Arc<Event>>, EventsEnded> {
        Ok(self.watch(0).await?.backlog.into())
    }
}

/// What a watcher gets next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watched {
    /// The next occurrence.
    Event(Arc<Event>),
    /// Occurrences before the next one were dropped, this many; 0 = not known. What is still kept of them can be
    /// had by watching again from [`EventWatch::sequence`].
    Lost(u64),
    /// All that was kept has been given; what follows happens from now on. Once per watch.
    CaughtUp,
}

/// One watcher's place. Bound: [`limits::EVENT_WATCH_LAG_MAX`] occurrences behind.
#[derive(Debug)]
pub struct EventWatch {
    lost: bool,
    backlog: VecDeque<Arc<Event>>,
    caught_up: bool,
    sequence: u64,
    live: broadcast::Receiver<Arc<Event>>,
}

impl EventWatch {
    /// The next item; `None` once the stage has ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<Watched> {
        if std::mem::take(&mut self.lost) {
            return Some(Watched::Lost(0));
        }
        if let Some(event) = self.backlog.pop_front() {
            self.sequence = event.sequence;
            return Some(Watched::Event(event));
        }
        if !std::mem::replace(&mut self.caught_up, true) {
            return Some(Watched::CaughtUp);
        }
        match self.live.recv().await {
            Ok(event) => {
                self.sequence = event.sequence;
                Some(Watched::Event(event))
            }
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(Watched::Lost(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }

    /// The sequence number of the newest occurrence given.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }
}

fn watch_of(history: &History, since: u64, live: broadcast::Receiver<Arc<Event>>) -> EventWatch {
    let lost = since > 0 && history.has_lost(since);
    let from = if since > history.sequence() { 0 } else { since };
    EventWatch { lost, backlog: history.since(from).cloned().collect(), caught_up: false, sequence: from, live }
}

fn event_of(new: NewEvent, sequence: u64) -> Event {
    let at = clock::wall_of(new.at);
    let kind_of = |name: &ContainerName| new.pod.container(name.as_str()).map_or(ContainerKind::Regular, |c| c.kind);
    // The time alone may repeat; with the sequence number added it does not within one daemon.
    let suffix = at.as_nanosecond().wrapping_add(i128::from(sequence));
    Event {
        sequence,
        name: format!("{}.{suffix:x}", new.pod.name).into(),
        namespace: Arc::clone(&new.pod.namespace),
        pod: Arc::clone(&new.pod.name),
        pod_uid: new.pod.uid.clone(),
        container: new.container.map(|name| (name.clone(), kind_of(&name))),
        event_type: new.event_type,
        reason: new.reason,
        message: cut(&new.message, limits::MESSAGE_BYTES_MAX).into(),
        probe_type: new.probe_type,
        run: new.run,
        threshold: new.threshold,
        cause: new.cause,
        count: 1,
        first_at: at,
        last_at: at,
    }
}

#[cfg(test)]
mod tests;
