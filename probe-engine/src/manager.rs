//! Which pods there are, and on which shard each lives.
//!
//! Source: `pkg/kubelet/prober/prober_manager.go` (`AddPod`, `RemovePod`, `CleanupPods`,
//! `StopLivenessAndStartup`); a name that is still terminating is waited for as `pod_workers.go` does.
//!
//! **Invariant:** all workers of a pod live on one shard, and of a pod every stage hears in the same order:
//! results first, then the shard, then lifecycle; so no update names a pod that results does not know.
//!
//! **Invariant:** the manager waits for results and, once a shard's backlog is full, for that shard; it never
//! waits for lifecycle, which sends to the manager: what lifecycle has no place for is kept, at most one `Add`
//! and one `Remove` per pod.

mod api;
mod awaited;
mod pods;

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::Arc;

use probe_core::backoff::Backoff;
use probe_core::id::{ContainerId, ContainerName, PodUid, ProbeType};
use probe_core::spec::{ContainerKind, Pod};
use probe_core::status::{ContainerState, ContainerStatus, PodPhase, PodStatus, Termination};
use probe_core::time::Instant;
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, info, warn};

use self::awaited::Awaited;
use self::pods::{Managed, Pods};
use crate::clock;
use crate::consumer::lifecycle::LifecycleInput;
use crate::ebpf::settings;
use crate::limits;
use crate::results::{Input, ProbeStats, ResultsSender};
use crate::shard::inbox::{Command, Past, ProbeSlot, ShardSender};
use crate::source::api::ApiUpdate;
use crate::source::{Pause, PodUpdate, SourceKind};
use crate::state::{PodState, State};

/// A shard's entrance.
pub trait CommandSink: Send + Sync {
    /// Gives the command back when the shard's inbox is full.
    fn send(&self, command: Command) -> Result<(), Command>;

    /// The shard has ended: what is kept for it is let go.
    fn is_closed(&self) -> bool {
        false
    }
}

impl CommandSink for ShardSender {
    fn send(&self, command: Command) -> Result<(), Command> {
        ShardSender::send(self, command)
    }

    fn is_closed(&self) -> bool {
        ShardSender::is_closed(self)
    }
}

/// Tells of one pod: at INFO where few come or go at once, else at DEBUG.
macro_rules! tell {
    ($manager:ident, $($field:tt)*) => {
        if $manager.is_each_told { info!($($field)*) } else { debug!($($field)*) }
    };
}

/// What the manager must know of the runtime in use.
#[derive(Clone, Copy, Debug)]
pub struct RuntimeFacts {
    /// `ContainerRuntime::manages_containers`: pods end gracefully through lifecycle, and their states come
    /// from it. Otherwise containers count as running since the pod was added, unless somebody else runs them, and pods go at
    /// once.
    pub manages_containers: bool,
    /// A client of the API runs the containers: nothing is known of one before it says so, and pods go at once.
    pub is_external: bool,
    /// The address of pods whose manifest names none, where the runtime does not say.
    pub pod_ip: Option<IpAddr>,
}

impl RuntimeFacts {
    /// Nobody says how containers are: they count as running.
    fn is_assuming(self) -> bool {
        !self.manages_containers && !self.is_external
    }
}

/// What the manager is made with.
pub struct Config {
    /// The shards' entrances; at least one.
    pub shards: Vec<Arc<dyn CommandSink>>,
    /// The results stage.
    pub results: ResultsSender,
    /// Lifecycle; `None` where the runtime manages no containers.
    pub lifecycle: Option<mpsc::Sender<LifecycleInput>>,
    /// The runtime.
    pub runtime: RuntimeFacts,
    /// What the daemon before this one knew.
    pub state: State,
    /// The names of the sources that must be read once: until then what it knew of pods that are not there is kept.
    pub sources: Vec<&'static str>,
}

/// Runs until every sender of updates has gone, or results has.
///
/// Once `end` is over it takes what was sent before and ends, whoever still holds a sender: a connection of the API that its
/// client does not close holds one.
pub async fn run(config: Config, updates: mpsc::Receiver<PodUpdate>, end: impl Future<Output = ()>) {
    Manager::new(config).run(updates, end).await;
}

/// The pod's probes in the order in which the kubelet makes their workers (rule 2.1), with fresh counts.
#[must_use]
pub fn slots_of(pod: &Pod) -> Box<[ProbeSlot]> {
    let slot = |container: &ContainerName, probe_type: ProbeType| ProbeSlot {
        container: container.clone(),
        probe_type,
        stats: Arc::new(ProbeStats::default()),
        past: None,
        paused: None,
    };
    pod.probed_containers()
        .flat_map(|container| {
            let has = |t: &ProbeType| container.probes.by_type(*t).is_some();
            ProbeType::ALL.into_iter().filter(has).map(|t| slot(&container.name, t))
        })
        .collect()
}

/// A grace period as [`pods::Managed`] keeps it: rule 6.3, at least 1.
fn within(grace_seconds: u64) -> NonZeroU32 {
    NonZeroU32::new(u32::try_from(grace_seconds).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN)
}

/// What is known of probes of containers that have the same definition still.
fn remember(slots: &mut [ProbeSlot], pod: &Pod, past: &PodState) {
    for slot in slots {
        let known = past.container(pod, slot.container.as_str()).and_then(|container| container.probe(slot.probe_type));
        slot.past = known.and_then(|known| Some(Past { memory: known.memory(slot.probe_type)?, since: known.since() }));
        if let Some(past) = &slot.past {
            let (passed, run) = past.memory.run();
            slot.stats.remember(passed, run);
        }
    }
}

/// A pause is the probe's, and not an instance's: it goes on over a restart of the daemon, whatever became of the container.
fn stay_paused(slots: &mut [ProbeSlot], past: &PodState) {
    for slot in slots {
        slot.paused = past.paused(slot.container.as_str(), slot.probe_type);
    }
}

/// The results stage has ended: there is nothing left to manage for.
struct ResultsGone;

/// How many workers a pod has.
fn workers_len(pod: &Pod) -> usize {
    pod.probed_containers().map(|container| container.probes.count()).sum()
}

struct Shard {
    sink: Arc<dyn CommandSink>,
    /// Commands that its inbox had no room for, oldest first.
    backlog: VecDeque<Command>,
    workers_len: usize,
}

struct Manager {
    shards: Vec<Shard>,
    results: ResultsSender,
    lifecycle: Option<mpsc::Sender<LifecycleInput>>,
    /// What lifecycle has no place for yet, oldest first.
    lifecycle_backlog: VecDeque<LifecycleInput>,
    runtime: RuntimeFacts,
    pods: Pods,
    /// Pods that wait for the end of another: who waits, for whom.
    successors: HashMap<PodUid, PodUid>,
    /// Who waits for this pod: added under the same name or UID while it terminates, they come in afterwards. No two
    /// of one name.
    waiting: HashMap<PodUid, Vec<Arc<Pod>>>,
    /// Pods of the present batch are logged at INFO one by one.
    is_each_told: bool,
    /// Pods whose containers were named because no runtime does.
    stays_len: u64,
    state: State,
    /// Sources that have not been read once yet.
    unsynced: Vec<&'static str>,
    /// What those that have been read gave was whole.
    is_whole: bool,
    /// Pods whose instances may have outlived the daemon before this one, until they are told.
    awaited: HashMap<PodUid, Awaited>,
}

impl Manager {
    fn new(config: Config) -> Self {
        let shard = |sink| Shard { sink, backlog: VecDeque::new(), workers_len: 0 };
        Self {
            shards: config.shards.into_iter().map(shard).collect(),
            results: config.results,
            lifecycle: config.lifecycle.filter(|_| config.runtime.manages_containers),
            lifecycle_backlog: VecDeque::new(),
            runtime: config.runtime,
            pods: Pods::default(),
            successors: HashMap::new(),
            waiting: HashMap::new(),
            is_each_told: true,
            stays_len: 0,
            state: config.state,
            unsynced: config.sources,
            is_whole: true,
            awaited: HashMap::new(),
        }
    }

    async fn run(mut self, mut updates: mpsc::Receiver<PodUpdate>, end: impl Future<Output = ()>) {
        let mut end = pin!(end);
        let mut is_ending = false;
        let mut batch = Vec::new();
        loop {
            let lifecycle = self.lifecycle.clone();
            let len_max = limits::MANAGER_UPDATES_PER_ROUND_MAX;
            tokio::select! {
                taken = updates.recv_many(&mut batch, len_max), if self.has_room() => {
                    if taken == 0 {
                        break;
                    }
                    if self.handle_batch(&mut batch).await.is_err() {
                        return;
                    }
                }
                () = &mut end, if !is_ending => {
                    is_ending = true;
                    updates.close();
                }
                () = tokio::time::sleep(limits::MANAGER_RETRY), if self.has_backlog() => {}
                () = room(lifecycle.as_ref()), if !self.lifecycle_backlog.is_empty() => {}
            }
            self.flush();
        }
        self.finish().await;
    }

    /// The sources have gone: what was taken is still delivered.
    async fn finish(&mut self) {
        while self.has_backlog() {
            tokio::time::sleep(limits::MANAGER_RETRY).await;
            self.flush();
        }
        while let (Some(lifecycle), Some(input)) = (&self.lifecycle, self.lifecycle_backlog.pop_front()) {
            if lifecycle.send(input).await.is_err() {
                return;
            }
        }
    }

    /// What waited at once. Of many pods one line is logged, and each at DEBUG.
    async fn handle_batch(&mut self, batch: &mut Vec<PodUpdate>) -> Result<(), ResultsGone> {
        let count = |of: fn(&PodUpdate) -> usize| batch.iter().map(of).sum::<usize>();
        let added = count(|update| match update {
            PodUpdate::Add(_) => 1,
            PodUpdate::Api(ApiUpdate::Add(pods, _)) => pods.len(),
            _ => 0,
        });
        let removed = count(|update| match update {
            PodUpdate::Remove(..) | PodUpdate::Terminated(_) | PodUpdate::Api(ApiUpdate::End(..)) => 1,
            _ => 0,
        });
        self.is_each_told = added + removed <= limits::LOG_PODS_EACH_MAX;
        if !self.is_each_told {
            info!(added, removed, known = self.pods.len(), "pods are being added and removed");
        }
        for update in batch.drain(..) {
            self.handle(update).await?;
        }
        self.is_each_told = true;
        Ok(())
    }

    async fn handle(&mut self, update: PodUpdate) -> Result<(), ResultsGone> {
        match update {
            PodUpdate::Add(pod) => self.add_pod(pod).await,
            PodUpdate::Remove(uid, grace_seconds) => self.remove_pod(&uid, grace_seconds).await,
            PodUpdate::Shorten(uid, grace_seconds) => {
                self.shorten(&uid, grace_seconds);
                Ok(())
            }
            PodUpdate::Api(update) => self.handle_api(update).await,
            PodUpdate::Status(uid, status) => self.handle_status(uid, status).await,
            PodUpdate::StopLivenessAndStartup(uid) => {
                self.command(&uid.clone(), Command::StopLivenessAndStartup { uid });
                Ok(())
            }
            PodUpdate::Terminated(uid) => self.forget(&uid).await,
            PodUpdate::Trigger(uid, container, probe_type) => {
                self.command(&uid.clone(), Command::Trigger { uid, container, probe_type });
                Ok(())
            }
            PodUpdate::Pause(uid, pause, shown) => self.pause(uid, pause, shown).await,
            PodUpdate::Gate(uid, gate, status) => self.tell_results(Input::Gate(uid, gate, status)).await,
            PodUpdate::Synced { source, is_whole } => self.handle_synced(source, is_whole).await,
        }
    }

    /// What is left of what the daemon before this one knew is of pods that nobody wants, once every source has been read.
    async fn handle_synced(&mut self, source: &'static str, is_whole: bool) -> Result<(), ResultsGone> {
        info!(source, "source has been read");
        self.unsynced.retain(|unsynced| *unsynced != source);
        self.is_whole &= is_whole;
        if self.unsynced.is_empty() {
            if self.is_whole {
                self.state.clear();
            } else {
                // Of pods whose manifest may be right the next time.
                self.state.compact();
                self.tell_results(Input::Untaken(self.state.left())).await?;
            }
        }
        self.tell_results(Input::Synced(source)).await
    }

    /// Rule 2.1. A known UID changes nothing; a name that another pod holds is refused, unless that one is
    /// terminating: then the new one waits for its end.
    async fn add_pod(&mut self, pod: Arc<Pod>) -> Result<(), ResultsGone> {
        let holder = self.pods.namesake(&pod).or_else(|| self.pods.find(&pod.uid));
        if let Some(holder) = holder.map(|holder| holder.pod.uid.clone()) {
            self.add_successor(&holder, pod);
            return Ok(());
        }
        if self.pods.len() >= limits::PODS_MAX {
            warn!(pod = %label(&pod), limit = limits::PODS_MAX, "pod refused: too many pods");
            return Ok(());
        }
        self.take_in(pod, SourceKind::Manifests).await
    }

    /// A pod whose UID and name no other has.
    async fn take_in(&mut self, pod: Arc<Pod>, source: SourceKind) -> Result<(), ResultsGone> {
        let past = self.state.take(&pod.uid);
        let mut slots = slots_of(&pod);
        past.iter().for_each(|past| stay_paused(&mut slots, past));
        let past = past.and_then(|past| self.as_it_holds(past, &pod)).map(Arc::new);
        let mut status = None;
        if self.runtime.is_assuming() {
            // Its containers have gone on meanwhile.
            if let Some(past) = &past {
                remember(&mut slots, &pod, past);
            }
            status = Some(Arc::new(self.status_without_runtime(&pod, past.as_deref())));
        }
        tell!(self, pod = %label(&pod), uid = %pod.uid, probes = slots.len(), "pod added");
        let shard = (!slots.is_empty()).then(|| self.least_loaded());
        let added = Input::Added {
            pod: Arc::clone(&pod),
            slots: slots.clone(),
            shard: shard.map(usize::from),
            status: status.clone(),
            past: past.clone(),
            source,
        };
        self.tell_results(added).await?;
        if let Some(past) = past.as_ref().filter(|past| past.awaits_instances()) {
            self.awaited.insert(pod.uid.clone(), Awaited::new(Arc::clone(past)));
        }
        self.pods.insert(Managed { pod: Arc::clone(&pod), terminating: None, shard, source });
        if let Some(shard) = shard {
            let shard = &mut self.shards[usize::from(shard)];
            shard.workers_len += slots.len();
            shard.send(Command::AddPod { pod: Arc::clone(&pod), slots, status });
        }
        if self.lifecycle.is_some() {
            self.tell_lifecycle(LifecycleInput::Add(pod, past));
        }
        Ok(())
    }

    /// What the daemon before this one knew of a pod, as far as it says something in this one.
    fn as_it_holds(&self, mut past: PodState, pod: &Pod) -> Option<PodState> {
        if !self.runtime.is_external {
            past.forget_instances();
        }
        (!self.runtime.is_assuming() || past.is_of_same_instances(pod)).then_some(past)
    }

    fn add_successor(&mut self, holder: &PodUid, pod: Arc<Pod>) {
        let Some(managed) = self.pods.find(holder) else { return };
        // Whoever took the place through the API may give it back at any time.
        if managed.terminating.is_none() && managed.source == SourceKind::Manifests {
            if managed.pod.uid == pod.uid {
                warn!(pod = %label(&pod), uid = %pod.uid, "pod is known already; nothing changed");
            } else {
                warn!(
                    pod = %label(&pod), uid = %pod.uid, held_by = %managed.pod.uid,
                    "pod refused: another pod has its namespace and name; remove that one first, or rename this one"
                );
            }
            return;
        }
        let is_other = |first: &&Arc<Pod>| first.uid != pod.uid && name_of(first) == name_of(&pod);
        let waiting = self.waiting.entry(holder.clone()).or_default();
        match waiting.iter().find(is_other) {
            Some(first) => warn!(
                pod = %label(&pod), uid = %pod.uid, held_by = %first.uid,
                "pod refused: another pod waits for its namespace and name already"
            ),
            None => {
                info!(pod = %label(&pod), uid = %pod.uid, waits_for = %holder, "pod waits for the end of the one before it");
                self.successors.insert(pod.uid.clone(), holder.clone());
                waiting.retain(|known| known.uid != pod.uid);
                waiting.push(pod);
            }
        }
    }

    /// A pod of the manifests is not wanted any more.
    async fn remove_pod(&mut self, uid: &PodUid, grace_seconds: Option<u64>) -> Result<(), ResultsGone> {
        if let Some(holder) = self.successors.remove(uid) {
            if let Some(waiting) = self.waiting.get_mut(&holder) {
                waiting.retain(|known| known.uid != *uid);
            }
            if holder != *uid {
                return Ok(());
            }
        }
        match self.pods.find(uid) {
            Some(managed) if managed.source == SourceKind::Manifests => self.end_pod(uid, grace_seconds).await,
            Some(_) => Ok(()),
            None => {
                debug!(%uid, "unknown pod is not removed");
                Ok(())
            }
        }
    }

    /// Ends a pod, whoever wanted it: through lifecycle where there is one (`Terminated` follows), else at once.
    async fn end_pod(&mut self, uid: &PodUid, grace_seconds: Option<u64>) -> Result<(), ResultsGone> {
        let Some(managed) = self.pods.find_mut(uid) else { return Ok(()) };
        if self.lifecycle.is_none() {
            return self.forget(uid).await;
        }
        if managed.terminating.is_some() {
            grace_seconds.into_iter().for_each(|seconds| self.shorten(uid, seconds));
            return Ok(());
        }
        managed.terminating = Some(grace_seconds.map_or(NonZeroU32::MAX, within));
        tell!(self, pod = %label(&managed.pod), %uid, "pod is being ended");
        self.tell_results(Input::Deleting(uid.clone())).await?;
        self.tell_lifecycle(LifecycleInput::Remove(uid.clone(), grace_seconds));
        Ok(())
    }

    /// Of a pod that is being ended; only a shorter grace period is news. Who waits for its place goes on waiting.
    fn shorten(&mut self, uid: &PodUid, grace_seconds: u64) {
        let Some(managed) = self.pods.find_mut(uid) else { return };
        if let Some(before) = managed.terminating
            && within(grace_seconds) < before
        {
            managed.terminating = Some(within(grace_seconds));
            // One that has not been heard yet says nothing new.
            self.lifecycle_backlog.retain(|input| !matches!(input, LifecycleInput::Shorten(known, _) if known == uid));
            self.tell_lifecycle(LifecycleInput::Shorten(uid.clone(), grace_seconds));
        }
    }

    async fn handle_status(&mut self, uid: PodUid, status: Arc<PodStatus>) -> Result<(), ResultsGone> {
        if self.pods.find(&uid).is_none() {
            debug!(%uid, "status of an unknown pod");
            return Ok(());
        }
        let remembered = self.remembered(&uid, &status);
        self.tell_results(Input::Status(uid.clone(), Arc::clone(&status))).await?;
        self.command(&uid.clone(), Command::Status { uid, status, remembered });
        Ok(())
    }

    async fn pause(
        &mut self,
        uid: PodUid,
        pause: Arc<Pause>,
        shown: Option<oneshot::Sender<()>>,
    ) -> Result<(), ResultsGone> {
        self.tell_results(Input::Pause(uid.clone(), Arc::clone(&pause), shown)).await?;
        self.command(&uid.clone(), Command::Pause { uid, pause });
        Ok(())
    }

    /// Nothing of the pod is left: its workers end, and whoever waited for its name comes in.
    async fn forget(&mut self, uid: &PodUid) -> Result<(), ResultsGone> {
        self.command(uid, Command::RemovePod { uid: uid.clone() });
        self.awaited.remove(uid);
        let Some(managed) = self.pods.take(uid) else {
            return Ok(());
        };
        if let Some(shard) = managed.shard {
            self.shards[usize::from(shard)].workers_len -= workers_len(&managed.pod);
        }
        tell!(self, pod = %label(&managed.pod), %uid, "pod removed");
        self.tell_results(Input::Removed(uid.clone())).await?;
        for successor in self.waiting.remove(uid).unwrap_or_default() {
            self.successors.remove(&successor.uid);
            Box::pin(self.add_pod(successor)).await?;
        }
        Ok(())
    }

    async fn tell_results(&self, input: Input) -> Result<(), ResultsGone> {
        // Mostly there is room, and no wait to be prepared for.
        match self.results.try_send(input) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Full(input)) => self.results.send(input).await.map_err(|_| ResultsGone),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(ResultsGone),
        }
    }

    /// Sends to the pod's shard, behind what waits for it; a pod without probes has none.
    fn command(&mut self, uid: &PodUid, command: Command) {
        let Some(managed) = self.pods.find(uid) else {
            debug!(%uid, "command for an unknown pod");
            return;
        };
        if let Some(shard) = managed.shard {
            self.shards[usize::from(shard)].send(command);
        }
    }

    fn tell_lifecycle(&mut self, input: LifecycleInput) {
        if self.lifecycle.is_some() {
            self.lifecycle_backlog.push_back(input);
        }
    }

    fn flush(&mut self) {
        self.shards.iter_mut().for_each(Shard::flush);
        let Some(lifecycle) = &self.lifecycle else { return };
        while let Some(input) = self.lifecycle_backlog.pop_front() {
            match lifecycle.try_send(input) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(input)) => {
                    self.lifecycle_backlog.push_front(input);
                    return;
                }
                Err(mpsc::error::TrySendError::Closed(_)) => {
                    warn!("lifecycle has ended: pods go at once from now on");
                    self.lifecycle = None;
                    self.lifecycle_backlog.clear();
                    return;
                }
            }
        }
    }

    fn has_room(&self) -> bool {
        self.shards.iter().all(|shard| shard.backlog.len() < limits::MANAGER_BACKLOG_LEN_MAX)
    }

    fn has_backlog(&self) -> bool {
        self.shards.iter().any(|shard| !shard.backlog.is_empty())
    }

    fn least_loaded(&self) -> u8 {
        // There are few: `limits::SHARDS_MAX`.
        let shards = (0_u8..).zip(&self.shards);
        shards.min_by_key(|(_, shard)| shard.workers_len).map_or(0, |(index, _)| index)
    }

    /// The state of a pod whose containers are run by others: started when it was added.
    fn status_without_runtime(&mut self, pod: &Pod, past: Option<&PodState>) -> PodStatus {
        let started_at = past.map_or_else(clock::now, PodState::added_at_instant);
        // All that an ID must do is to differ from those of other instances of the same container: a number does, it is
        // short, and one for each pod's stay is enough, of which there may be hundreds of thousands.
        let id = ContainerId::new(format!("none://{}", self.stays_len));
        self.stays_len += 1;
        let containers = pod
            .all_containers()
            .map(|container| container_without_runtime(&container.name, container.kind, id.clone(), started_at));
        PodStatus {
            phase: PodPhase::Running,
            deleting: false,
            pod_ip: pod.pod_ip.get().or(self.runtime.pod_ip),
            netns: settings::annotation(pod, settings::ANNOTATION_NETNS).map(Into::into),
            containers: containers.collect(),
        }
    }
}

impl Shard {
    fn send(&mut self, command: Command) {
        self.backlog.push_back(command);
        self.flush();
    }

    fn flush(&mut self) {
        while let Some(command) = self.backlog.pop_front() {
            if let Err(command) = self.sink.send(command) {
                if self.sink.is_closed() {
                    self.backlog.clear();
                } else {
                    self.backlog.push_front(command);
                }
                return;
            }
        }
    }
}

/// An ordinary init container counts as completed, any other as running.
fn container_without_runtime(
    name: &ContainerName,
    kind: ContainerKind,
    id: ContainerId,
    started_at: Instant,
) -> ContainerStatus {
    let completed = || Termination {
        exit_code: 0,
        signal: 0,
        backoff: Backoff::new(),
        reason: "Completed".into(),
        message: "".into(),
        started_at,
        finished_at: started_at,
        restart_allowed: None,
    };
    let state = match kind {
        ContainerKind::Init => ContainerState::Terminated(Box::new(completed())),
        ContainerKind::Regular | ContainerKind::Sidecar => ContainerState::Running { started_at },
    };
    ContainerStatus { name: name.clone(), id: Some(id), state, last_termination: None, restart_count: 0 }
}

/// Waits until lifecycle can take something, or has ended.
async fn room(lifecycle: Option<&mpsc::Sender<LifecycleInput>>) {
    if let Some(lifecycle) = lifecycle {
        // Closed is room too: the flush that follows finds out.
        let _ = lifecycle.reserve().await;
    }
}

fn name_of(pod: &Pod) -> (&str, &str) {
    (&pod.namespace, &pod.name)
}

fn label(pod: &Pod) -> impl std::fmt::Display + use<'_> {
    std::fmt::from_fn(|f| write!(f, "{}/{}", pod.namespace, pod.name))
}

#[cfg(test)]
mod tests;
