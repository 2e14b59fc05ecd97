//! The task that owns [`Node`]: takes updates in, keeps the node's picture, tells the consumers.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use probe_core::action::{LocalTooLong, Publish, PublishCause, Report};
use probe_core::id::{PodUid, ProbeKey, ProbeType};
use probe_core::outcome::{Outcome, Verdict};
use probe_core::pod::ConditionStatus;
use probe_core::spec::{Container, Pod};
use probe_core::status::PodStatus;
use probe_core::time::Instant;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tracing::{debug, info, warn};

use super::handle::Ask;
use super::node::{PodCount, cut, text_of};
use super::{
    Change, Changed, Inbox, Input, LocalTrouble, Node, PodRecord, ResultsError, ShardTotals, Update, UpdateQueue,
};
use crate::clock;
use crate::consumer::events::{EventSender, EventType, NewEvent};
use crate::consumer::lifecycle::LifecycleInput;
use crate::consumer::status;
use crate::limits;

mod pausing;

/// Bytes of an event's `cause` at most: a column, not a text.
const CAUSE_BYTES_MAX: usize = 128;

/// How often it is looked, once the manager has gone, whether the shards have ended without a word.
const ENDED_LOOK: Duration = Duration::from_millis(50);

/// What the stage is made with.
pub struct Config {
    /// When the daemon started: containers running since before keep their readiness (rule 5.2).
    pub manager_start: Instant,
    /// The names of the sources that must be read once (`PodUpdate::Synced`).
    pub sources: Vec<&'static str>,
    /// One queue per shard, in their order.
    pub queues: Vec<Arc<UpdateQueue>>,
    /// What the queues ring.
    pub wake: Arc<Notify>,
    /// Where events go.
    pub events: EventSender,
    /// Where the verdicts of liveness and startup probes go; `None` where nothing is restarted by us.
    pub lifecycle: Option<mpsc::Sender<LifecycleInput>>,
}

/// See the module.
pub struct Stage {
    node: Node,
    config: Config,
    inbox: Inbox,
    /// Verdicts that lifecycle has no place for yet, the latest per container and probe.
    untold: HashMap<ProbeKey, LifecycleInput>,
    /// In which order they go; a key without one is passed over.
    untold_order: VecDeque<ProbeKey>,
    /// Who waits for a probe's next report.
    waiters: Vec<(ProbeKey, oneshot::Sender<Result<Report, ResultsError>>)>,
    shards_ended: usize,
}

impl Stage {
    /// A stage that knows of no pod.
    #[must_use]
    pub fn new(config: Config, inbox: Inbox) -> Self {
        let shards = config.queues.iter().map(|_| ShardTotals::default()).collect();
        let node = Node { shards, sources: config.sources.clone(), ..Node::default() };
        Self {
            node,
            config,
            inbox,
            untold: HashMap::new(),
            untold_order: VecDeque::new(),
            waiters: Vec::new(),
            shards_ended: 0,
        }
    }

    /// Runs until the manager has gone and every shard has ended.
    pub async fn run(mut self) {
        let wake = Arc::clone(&self.config.wake);
        let mut manager_gone = false;
        loop {
            let lifecycle = self.config.lifecycle.clone();
            tokio::select! {
                input = self.inbox.inputs.recv(), if !manager_gone => match input {
                    Some(input) => self.handle_input(input),
                    None => manager_gone = true,
                },
                Some(ask) = self.inbox.asks.recv() => self.handle_ask(ask),
                () = wake.notified() => self.drain(),
                () = room(lifecycle.as_ref()), if !self.untold.is_empty() => self.tell_untold(),
                () = tokio::time::sleep(ENDED_LOOK), if manager_gone => {}
            }
            self.publish_revision();
            if manager_gone && self.shards_have_ended() {
                return;
            }
        }
    }

    /// All have said so, or (a thread that panicked says nothing) have let go of their queues.
    fn shards_have_ended(&self) -> bool {
        let let_go = |queue: &Arc<UpdateQueue>| Arc::strong_count(queue) == 1;
        self.shards_ended == self.config.queues.len() || self.config.queues.iter().all(let_go)
    }

    /// Takes a bounded number of updates from every shard.
    fn drain(&mut self) {
        self.drain_inputs();
        for shard in 0..self.config.queues.len() {
            let queue = Arc::clone(&self.config.queues[shard]);
            let mut taken = 0;
            while let Some(update) = queue.pop() {
                self.handle_update(shard, update);
                taken += 1;
                if taken == limits::RESULTS_UPDATES_PER_ROUND_MAX {
                    self.config.wake.notify_one();
                    break;
                }
            }
        }
    }

    fn drain_inputs(&mut self) {
        while let Ok(input) = self.inbox.inputs.try_recv() {
            self.handle_input(input);
        }
    }

    /// What was sent before the question is taken in before it is answered.
    fn handle_ask(&mut self, ask: Ask) {
        self.drain();
        match ask {
            Ask::Read(reader) => reader(&self.node),
            Ask::WatchLatency(pods, until, reply) => {
                // The asker may have gone; that is no one's loss.
                let _ = reply.send(self.node.watch_latency(&pods, until, clock::now()));
            }
            Ask::Expect(key, reply, listening) => {
                self.waiters.retain(|(_, waiter)| !waiter.is_closed());
                if self.waiters.len() >= limits::REPORT_WAITERS_MAX {
                    let _ = reply.send(Err(ResultsError::TooManyWaiters));
                } else {
                    self.waiters.push((key, reply));
                }
                let _ = listening.send(());
            }
        }
    }

    fn handle_input(&mut self, input: Input) {
        match input {
            Input::Added { pod, slots, shard, status, past, source } => {
                let uid = pod.uid.clone();
                let mut record = PodRecord::new(pod, &slots, shard, clock::wall());
                record.source = source;
                if let Some(past) = &past {
                    record.added_at = past.added_at().into();
                    record.gates = past.gates(&record.pod).collect();
                }
                let waits_for_turns = status.is_none();
                if let Some(status) = status {
                    status::accept(&mut record, status);
                    status::remember(&mut record, &slots, past.as_deref());
                }
                if let Some(past) = past.as_deref().filter(|past| waits_for_turns && past.awaits_instances()) {
                    status::await_instances(&mut record, past);
                }
                self.node.insert(record);
                match past.filter(|_| waits_for_turns) {
                    Some(past) => drop(self.node.pasts.insert(uid.clone(), past)),
                    None => drop(self.node.pasts.remove(&uid)),
                }
                self.refresh(&uid);
            }
            Input::Status(uid, status) => self.handle_status(&uid, status),
            Input::Deleting(uid) => {
                if let Some(record) = self.node.touch(&uid) {
                    record.deleting = true;
                }
                let record = self.node.pods.find_mut(&uid);
                record.into_iter().for_each(|record| self.node.pauses.look(record));
            }
            Input::Removed(uid) => self.remove(&uid),
            Input::Untaken(left) => {
                let known = left.into_iter().map(|past| (PodUid::from(past.uid.as_str()), Arc::new(past)));
                self.node.pasts.extend(known);
            }
            Input::Synced(source) => {
                if !self.node.synced.contains(&source) {
                    self.node.synced.push(source);
                }
            }
            Input::Gate(uid, gate, status) => self.handle_gate(&uid, gate, status),
            Input::Pause(uid, pause, shown) => {
                self.handle_pause(&uid, &pause);
                // Who waited may have gone; the pause stands.
                shown.into_iter().for_each(|shown| _ = shown.send(()));
            }
        }
    }

    fn handle_status(&mut self, uid: &PodUid, status: Arc<PodStatus>) {
        let Some(record) = self.node.pods.find_mut(uid) else { return };
        let before = PodCount::of(record);
        let past = self.node.pasts.get(uid).map(|past| &**past);
        let has_begun = |container: &Container| status.container(&container.name).is_some_and(crate::state::has_begun);
        let is_begun = past.is_some() && record.pod.all_containers().all(has_begun);
        self.node.restarts += status::accept_remembering(record, status, past);
        self.node.pauses.look(record);
        if past.is_some() {
            self.node.count_held(uid);
        }
        if is_begun {
            self.node.pasts.remove(uid);
        }
        self.node.recount(Some(before), uid);
        self.refresh(uid);
    }

    fn handle_gate(&mut self, uid: &PodUid, gate: Arc<str>, status: Option<ConditionStatus>) {
        let Some(record) = self.node.pods.find_mut(uid) else { return };
        if status::set_gate(record, &gate, status, clock::wall()) {
            self.refresh(uid);
        }
    }

    fn remove(&mut self, uid: &PodUid) {
        let Some(record) = self.node.remove(uid) else { return };
        if !self.untold.is_empty() {
            for key in record.keys() {
                self.untold.remove(&key);
            }
        }
        for (_, waiter) in self.waiters.extract_if(.., |(key, _)| key.pod == *uid) {
            let _ = waiter.send(Err(ResultsError::Removed));
        }
    }

    /// What a shard says of a pod that lives elsewhere by now (removed, and added again to another shard) is late. The manager
    /// tells this stage of a pod before it tells the shard: where the pod is not known to live there, that word is still in
    /// the inbox, or it is really gone.
    fn handle_update(&mut self, shard: usize, update: Update) {
        let pod = match &update {
            Update::Publish(Publish { pod, .. })
            | Update::Report(Report { pod, .. })
            | Update::LocalTooLong(LocalTooLong { pod, .. }) => Some(pod),
            Update::Attempt { .. } | Update::Metrics(_) | Update::ShardEnded { .. } => None,
        };
        if let Some(pod) = pod
            && !self.lives_on(pod, shard)
        {
            self.drain_inputs();
            if !self.lives_on(pod, shard) {
                return;
            }
        }
        match update {
            Update::Publish(publish) => self.handle_publish(&publish),
            Update::Report(report) => self.handle_report(report),
            Update::LocalTooLong(trouble) => self.handle_local_too_long(&trouble),
            Update::Attempt { token, outcome, latency_us, lateness_us } => {
                self.node.latency.details.record(token, outcome, latency_us, lateness_us, clock::now());
            }
            Update::Metrics(delta) => {
                self.node.latency.add(&delta, clock::now());
                let done_with = self.node.shards[shard].add(delta);
                done_with.into_iter().for_each(|delta| self.config.queues[shard].give_back(delta));
            }
            Update::ShardEnded { .. } => self.shards_ended += 1,
        }
    }

    fn lives_on(&self, pod: &PodUid, shard: usize) -> bool {
        self.node.pods.get(pod).is_some_and(|record| record.shard.map(usize::from) == Some(shard))
    }

    fn handle_publish(&mut self, publish: &Publish) {
        let Some(record) = self.node.pods.find_mut(&publish.pod) else { return };
        let before = PodCount::of(record);
        let Some((probe, newest)) = record.probe_mut(&publish.container, publish.probe_type) else { return };
        // The pod's status is shared, so this is no copy of the text.
        let newest = newest.cloned();
        if !probe.publish(publish, newest.as_ref()) {
            return;
        }
        log_verdict(&record.pod, publish);
        self.node.timeline.push(Change::of(publish, clock::wall_of(publish.at).into()));
        if publish.probe_type != ProbeType::Readiness {
            let (pod, container) = (publish.pod.clone(), publish.container.clone());
            let key = ProbeKey { pod, container, probe_type: publish.probe_type };
            self.node.held.look(key, publish.verdict, publish.cause == PublishCause::Threshold);
        }
        self.node.recount(Some(before), &publish.pod);
        self.refresh(&publish.pod);
        self.tell_lifecycle(publish);
    }

    /// What attempts have shown can kill (a container that does not run needs no killing: section 4), or lets those come that
    /// wait for a sidecar.
    fn tell_lifecycle(&mut self, publish: &Publish) {
        let shown = publish.verdict.filter(|_| publish.cause == PublishCause::Threshold);
        let kills = publish.probe_type != ProbeType::Readiness && shown == Some(Verdict::Failure);
        let starts = publish.probe_type == ProbeType::Startup && shown == Some(Verdict::Success);
        self.node.restarts_asked[publish.probe_type.index()] += u64::from(kills);
        if self.config.lifecycle.is_none() || (!kills && !starts && self.untold.is_empty()) {
            return;
        }
        let (pod, container) = (publish.pod.clone(), publish.container.clone());
        let key = ProbeKey { pod: pod.clone(), container: container.clone(), probe_type: publish.probe_type };
        let container_id = publish.container_id.clone();
        let input = match (kills, starts) {
            (true, _) => LifecycleInput::Failed { pod, container, container_id, probe_type: publish.probe_type },
            (false, true) => LifecycleInput::Started { pod, container, container_id },
            (false, false) => {
                self.untold.remove(&key);
                return;
            }
        };
        if self.untold.insert(key.clone(), input).is_none() {
            if self.untold_order.len() > 2 * self.untold.len() + limits::LIFECYCLE_INPUTS_LEN_MAX {
                self.untold_order.retain(|key| self.untold.contains_key(key));
            }
            self.untold_order.push_back(key);
        }
        self.tell_untold();
    }

    fn tell_untold(&mut self) {
        let Some(lifecycle) = &self.config.lifecycle else { return };
        while let Some(key) = self.untold_order.pop_front() {
            let Some(input) = self.untold.remove(&key) else { continue };
            match lifecycle.try_send(input) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(input)) => {
                    self.untold.insert(key.clone(), input);
                    self.untold_order.push_front(key);
                    return;
                }
                Err(mpsc::error::TrySendError::Closed(_)) => {
                    warn!("lifecycle has ended: failed containers are not restarted any more");
                    self.config.lifecycle = None;
                    self.untold.clear();
                    self.untold_order.clear();
                    return;
                }
            }
        }
    }

    fn handle_report(&mut self, report: Report) {
        let Some(record) = self.node.pods.find_mut(&report.pod) else { return };
        let pod = Arc::clone(&record.pod);
        let Some((probe, _)) = record.probe_mut(&report.container, report.probe_type) else { return };
        let changed = probe.report(&report);
        let failed = matches!(report.outcome, Outcome::Failure(_)).then(|| Arc::clone(&probe.stats));
        if changed {
            self.node.touch(&report.pod);
        }
        if let Some(stats) = failed {
            let latency_us = u32::try_from(report.duration_ns / 1_000).unwrap_or(u32::MAX);
            self.node.latency.details.failed(key_of(&report), &stats, latency_us, clock::now());
        }
        if let Some((reason, message)) = event_of(report.probe_type, &report.outcome) {
            self.emit(NewEvent {
                pod,
                container: Some(report.container.clone()),
                event_type: EventType::Warning,
                reason,
                message,
                probe_type: Some(report.probe_type),
                run: report.run,
                threshold: report.threshold,
                cause: cause_of(text_of(&report.outcome)),
                at: report.at,
            });
        }
        if self.waiters.is_empty() {
            return;
        }
        let is_ours = |key: &ProbeKey| {
            key.pod == report.pod && key.container == report.container && key.probe_type == report.probe_type
        };
        for (_, waiter) in self.waiters.extract_if(.., |(key, _)| is_ours(key)) {
            let _ = waiter.send(Ok(report.clone()));
        }
    }

    fn handle_local_too_long(&mut self, trouble: &LocalTooLong) {
        let Some(record) = self.node.pods.find_mut(&trouble.pod) else { return };
        let pod = Arc::clone(&record.pod);
        let Some((probe, _)) = record.probe_mut(&trouble.container, trouble.probe_type) else { return };
        let LocalTooLong { cause, for_ns, at, .. } = *trouble;
        probe.trouble(LocalTrouble { cause, for_ns, at });
        self.node.troubled.insert(ProbeKey {
            pod: trouble.pod.clone(),
            container: trouble.container.clone(),
            probe_type: trouble.probe_type,
        });
        let message = format!(
            "{} probe has had no outcome for {} s: {}",
            trouble.probe_type,
            for_ns / 1_000_000_000,
            cause.sentence()
        );
        warn!(
            pod = %format_args!("{}/{}", pod.namespace, pod.name),
            container = %trouble.container,
            "{message}"
        );
        self.emit(NewEvent {
            pod,
            container: Some(trouble.container.clone()),
            event_type: EventType::Warning,
            reason: "ProbeUnknown",
            message,
            probe_type: Some(trouble.probe_type),
            run: 0,
            threshold: 0,
            cause: Some(cause.as_str().into()),
            at,
        });
    }

    fn emit(&mut self, event: NewEvent) {
        if self.config.events.try_send(event).is_err() {
            self.node.events_dropped += 1;
            debug!(dropped = self.node.events_dropped, "the events stage has no place");
        }
    }

    /// After a change of the pod: what follows from it.
    fn refresh(&mut self, uid: &PodUid) {
        let awaits_instances = self.node.pasts.get(uid).is_some_and(|past| past.awaits_instances());
        let Some(record) = self.node.touch(uid) else { return };
        if awaits_instances && record.status.is_none() {
            // Until its instances are told it stands as it was, or it would flap.
            return;
        }
        let before = PodCount::of(record);
        let was_ready = record.is_ready();
        if !status::refresh(record, self.config.manager_start, clock::wall()) {
            return;
        }
        if record.is_ready() != was_ready {
            let pod = &record.pod;
            info!(pod = %format_args!("{}/{}", pod.namespace, pod.name), ready = !was_ready, "pod readiness changed");
            let what = Changed::Ready(!was_ready);
            self.node.timeline.push(Change { pod: uid.clone(), at: clock::wall().into(), what });
            self.node.recount(Some(before), uid);
        }
    }

    fn publish_revision(&self) {
        publish_if_newer(&self.inbox.revision, self.node.revision);
    }
}

fn publish_if_newer(sender: &watch::Sender<u64>, revision: u64) {
    sender.send_if_modified(|seen| {
        let is_newer = *seen != revision;
        *seen = revision;
        is_newer
    });
}

/// What attempts and the world did is news; what merely begins or ends with a worker is not.
fn log_verdict(pod: &Pod, publish: &Publish) {
    let pod = format_args!("{}/{}", pod.namespace, pod.name);
    let Publish { container, probe_type, container_id, cause, .. } = publish;
    let verdict = publish.verdict.map_or("none", Verdict::as_str);
    match cause {
        PublishCause::Threshold | PublishCause::NotRunning => {
            info!(%pod, %container, %probe_type, %container_id, ?cause, verdict, "verdict changed");
        }
        PublishCause::Initial | PublishCause::Deleting | PublishCause::Removed => {
            debug!(%pod, %container, %probe_type, %container_id, ?cause, verdict, "verdict changed");
        }
    }
}

fn key_of(report: &Report) -> ProbeKey {
    let Report { pod, container, probe_type, .. } = report;
    ProbeKey { pod: pod.clone(), container: container.clone(), probe_type: *probe_type }
}

/// Waits until lifecycle can take something, or has ended.
async fn room(lifecycle: Option<&mpsc::Sender<LifecycleInput>>) {
    if let Some(lifecycle) = lifecycle {
        // Closed is room too: the flush that follows finds out.
        let _ = lifecycle.reserve().await;
    }
}

/// The event that an outcome makes, as reason and text (rules 2.7 and 7.2). Every failure makes one, below the
/// threshold too.
fn event_of(probe_type: ProbeType, outcome: &Outcome) -> Option<(&'static str, String)> {
    match outcome {
        Outcome::Success(_) | Outcome::Local(_) => None,
        Outcome::Warning(output) => Some(("ProbeWarning", format!("{probe_type} probe warning: {output}"))),
        Outcome::Failure(output) => Some(("Unhealthy", format!("{probe_type} probe failed: {output}"))),
        Outcome::Error(error) => {
            Some(("Unhealthy", format!("{probe_type} probe errored and resulted in unknown state: {error}")))
        }
    }
}

/// The first line of an output, as a column shows it.
fn cause_of(text: &str) -> Option<Box<str>> {
    let line = text.lines().next().unwrap_or_default().trim();
    (!line.is_empty()).then(|| cut(line, CAUSE_BYTES_MAX).into())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{publish, publish_because, running, simple_pod};
    use super::super::{ResultsSender, channel};
    use super::*;
    use crate::consumer::events;
    use crate::manager::slots_of;
    use crate::source::SourceKind;

    /// One that does not run, beside a runtime that restarts nothing.
    fn stage() -> (Stage, ResultsSender) {
        let (sender, _results, inbox) = channel();
        let (events, _handle, _events_inbox) = events::channel();
        let wake = Arc::new(Notify::new());
        let config = Config {
            manager_start: clock::now(),
            sources: Vec::new(),
            queues: vec![Arc::new(UpdateQueue::new(Arc::clone(&wake)))],
            wake,
            events,
            lifecycle: None,
        };
        (Stage::new(config, inbox), sender)
    }

    #[tokio::test]
    async fn each_restart_is_asked_for_once_and_counted_whoever_runs_the_pods() {
        let (mut stage, _sender) = stage();
        let pod = simple_pod("a", &ProbeType::ALL);
        let (slots, status) = (slots_of(&pod), Some(Arc::new(running(&pod, "id"))));
        stage.handle_input(Input::Added {
            pod,
            slots,
            shard: Some(0),
            status,
            past: None,
            source: SourceKind::Manifests,
        });
        let failed = |probe_type| publish("a", probe_type, "id", Some(Verdict::Failure));
        for probe_type in [ProbeType::Readiness, ProbeType::Liveness, ProbeType::Liveness] {
            stage.handle_update(0, failed(probe_type));
        }
        let not_running = PublishCause::NotRunning;
        stage.handle_update(0, publish_because("a", ProbeType::Startup, "id", Some(Verdict::Failure), not_running));
        assert_eq!(stage.node.restarts_asked, [0, 0, 1]);
    }

    #[tokio::test]
    async fn a_verdict_that_overtakes_the_word_of_its_pod_is_kept() {
        let (mut stage, sender) = stage();
        let pod = simple_pod("a", &[ProbeType::Readiness]);
        let (slots, status) = (slots_of(&pod), Some(Arc::new(running(&pod, "id"))));
        // It comes while this stage is taking updates, and has its inputs behind it.
        sender
            .send(Input::Added { pod, slots, shard: Some(0), status, past: None, source: SourceKind::Manifests })
            .await
            .expect("the stage lives");
        stage.handle_update(0, publish("a", ProbeType::Readiness, "id", Some(Verdict::Success)));
        let record = &stage.node.pods[&PodUid::from("a")];
        assert!(record.is_ready());
    }
}
