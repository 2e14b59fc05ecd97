//! Clients of the control API that stop reading: one that watches pods, one results, one events.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use probe_engine::api::v1::embedder_client::EmbedderClient;
use probe_engine::api::v1::{self, Place, watch_events_response, watch_pods_response, watch_results_response};
use probe_engine::cli::client;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};
use tonic::Streaming;

use crate::window::now;

/// No message takes longer.
const MESSAGE_MAX: Duration = Duration::from_secs(30);

/// What changes between the two looks makes another comparison worth it.
const COMPARISONS_MAX: usize = 5;

/// They have read all that there was, and read nothing any more.
pub(super) struct Watchers {
    /// Keeps their connections alive; the streams are read by nobody.
    runtime: Runtime,
    pods: Fold<v1::WatchPodsResponse>,
    results: Fold<v1::WatchResultsResponse>,
    events: Events,
    since: Instant,
}

/// What they knew once they had read on.
pub(super) struct CaughtUp {
    /// Why that was wrong.
    pub complaints: Vec<String>,
    /// For the report.
    pub figures: Value,
}

impl Watchers {
    pub(super) fn start(socket: &Path) -> anyhow::Result<Watchers> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (pods, results, events) = runtime.block_on(async {
            let events = Events::start(socket, 0).await?;
            anyhow::Ok((pods(socket).await?, results(socket).await?, events))
        })?;
        Ok(Watchers { runtime, pods, results, events, since: now() })
    }

    /// Each reads on until it knows what a fresh one is told.
    pub(super) fn catch_up(mut self, socket: &Path) -> anyhow::Result<CaughtUp> {
        let stalled_s = self.since.elapsed().as_secs_f64();
        let (pods_before, results_before) = (self.pods.messages, self.results.messages);
        let mut complaints = Vec::new();
        let (are_pods, are_results) = self.runtime.block_on(async {
            let mut same = (false, false);
            for _ in 0..COMPARISONS_MAX {
                same = (
                    self.pods.equals(pods(socket).await?).await.context("pods")?,
                    self.results.equals(results(socket).await?).await.context("results")?,
                );
                if same == (true, true) {
                    break;
                }
            }
            self.events.read_to(Events::start(socket, 0).await?.newest).await.context("events")?;
            anyhow::Ok(same)
        })?;
        for (what, is_same) in [("pods", are_pods), ("results", are_results)] {
            if !is_same {
                complaints.push(format!("a watcher of {what} that stopped reading differs from a fresh one"));
            }
        }
        if self.events.untold > 0 {
            complaints.push(format!("{} events missing without a word", self.events.untold));
        }
        let figures = json!({
            "stalled_s": stalled_s,
            "pods": self.pods.known.len(),
            "pods_messages": self.pods.messages - pods_before,
            "pods_restarts": self.pods.restarts,
            "results": self.results.known.len(),
            "results_messages": self.results.messages - results_before,
            "results_restarts": self.results.restarts,
            "events": self.events.count,
            "events_missed": self.events.missed,
        });
        Ok(CaughtUp { complaints, figures })
    }
}

/// What a message of a snapshot and its changes says.
enum Told {
    Restart,
    /// This is so now.
    Is(String, String),
    /// Nothing that begins like this is any more.
    Gone(String),
    Synced,
}

trait Message {
    fn told(self) -> Option<(Told, Option<Place>)>;
}

impl Message for v1::WatchPodsResponse {
    fn told(self) -> Option<(Told, Option<Place>)> {
        use watch_pods_response::Item;
        let told = match self.item? {
            Item::Restart(_) => Told::Restart,
            Item::Synced(_) => Told::Synced,
            Item::Gone(gone) => Told::Gone(gone.uid),
            Item::Pod(pod) => Told::Is(pod.uid.clone(), state(&pod)),
        };
        Some((told, self.place))
    }
}

impl Message for v1::WatchResultsResponse {
    fn told(self) -> Option<(Told, Option<Place>)> {
        use watch_results_response::Item;
        let told = match self.item? {
            Item::Restart(_) => Told::Restart,
            Item::Synced(_) => Told::Synced,
            Item::Result(result) => {
                let probe = result.probe.clone()?;
                let key = format!("{}/{}/{}", probe.pod_uid, probe.container, probe.r#type().as_str_name());
                match result.result() {
                    v1::Verdict::Unspecified if probe.container.is_empty() => Told::Gone(format!("{}/", probe.pod_uid)),
                    v1::Verdict::Unspecified => Told::Gone(key),
                    verdict => Told::Is(key, format!("{} {}", verdict.as_str_name(), result.container_id)),
                }
            }
        };
        Some((told, self.place))
    }
}

/// What of a pod a watcher is told of: counts and times are no change.
fn state(pod: &v1::Pod) -> String {
    let conditions: Vec<_> = pod.conditions.iter().map(|c| (&c.r#type, c.status)).collect();
    let container = |c: &v1::Container| {
        let verdicts: Vec<_> = c.probes.iter().map(|probe| (probe.r#type, probe.verdict)).collect();
        format!("{} {} {} {} {} {verdicts:?}", c.name, c.id, c.started, c.ready, c.restart_count)
    };
    let containers: Vec<_> = pod.containers.iter().map(container).collect();
    format!("{}/{} {} {} {conditions:?} {containers:?}", pod.namespace, pod.name, pod.phase, pod.deleting)
}

/// A stream, and what was made of it.
struct Fold<M> {
    stream: Streaming<M>,
    known: BTreeMap<String, String>,
    fresh: Option<BTreeMap<String, String>>,
    revision: u64,
    messages: usize,
    restarts: usize,
}

async fn pods(socket: &Path) -> anyhow::Result<Fold<v1::WatchPodsResponse>> {
    let mut client = client::connect(socket).await?;
    Fold::start(client.watch_pods(v1::WatchPodsRequest::default()).await?.into_inner()).await
}

async fn results(socket: &Path) -> anyhow::Result<Fold<v1::WatchResultsResponse>> {
    let mut client = EmbedderClient::new(client::channel(socket).await?);
    Fold::start(client.watch_results(v1::WatchResultsRequest::default()).await?.into_inner()).await
}

impl<M: Message> Fold<M> {
    /// Reads up to SYNCED.
    async fn start(stream: Streaming<M>) -> anyhow::Result<Fold<M>> {
        let (known, fresh) = (BTreeMap::new(), Some(BTreeMap::new()));
        let mut fold = Fold { stream, known, fresh, revision: 0, messages: 0, restarts: 0 };
        fold.read_to(1).await?;
        Ok(fold)
    }

    /// Until all up to this revision is known.
    async fn read_to(&mut self, revision: u64) -> anyhow::Result<()> {
        while self.fresh.is_some() || self.revision < revision {
            let message =
                tokio::time::timeout(MESSAGE_MAX, self.stream.message()).await??.context("the stream ended")?;
            let (told, place) = message.told().context("a message of an unknown kind")?;
            self.messages += 1;
            let at = self.fresh.as_mut().unwrap_or(&mut self.known);
            match told {
                Told::Restart => {
                    self.restarts += 1;
                    self.fresh = Some(BTreeMap::new());
                }
                Told::Is(key, state) => drop(at.insert(key, state)),
                Told::Gone(prefix) => at.retain(|key, _| !key.starts_with(&prefix)),
                Told::Synced => self.known = self.fresh.take().unwrap_or_else(|| std::mem::take(&mut self.known)),
            }
            self.revision = place.map_or(self.revision, |place| place.revision);
        }
        Ok(())
    }

    async fn equals(&mut self, fresh: Fold<M>) -> anyhow::Result<bool> {
        self.read_to(fresh.revision).await?;
        Ok(self.known == fresh.known)
    }
}

/// A stream of events, and whether each number was there or told to be missing.
struct Events {
    stream: Streaming<v1::WatchEventsResponse>,
    newest: u64,
    count: u64,
    missed: u64,
    untold: u64,
}

impl Events {
    /// Reads up to the newest.
    async fn start(socket: &Path, since: u64) -> anyhow::Result<Events> {
        let mut client = client::connect(socket).await?;
        let request = v1::WatchEventsRequest { since, follow: true, ..v1::WatchEventsRequest::default() };
        let stream = client.watch_events(request).await?.into_inner();
        let mut events = Events { stream, newest: 0, count: 0, missed: 0, untold: 0 };
        while !events.take().await? {}
        // Of those kept, series that repeat have only their newest: numbers are missing for a reason.
        (events.count, events.untold) = (0, 0);
        Ok(events)
    }

    async fn read_to(&mut self, sequence: u64) -> anyhow::Result<()> {
        while self.newest < sequence {
            self.take().await?;
        }
        Ok(())
    }

    /// `true` = it has caught up.
    async fn take(&mut self) -> anyhow::Result<bool> {
        use watch_events_response::Item;
        let message = tokio::time::timeout(MESSAGE_MAX, self.stream.message()).await??.context("the stream ended")?;
        match message.item.ok_or_else(|| anyhow!("a message of an unknown kind"))? {
            Item::Event(event) => {
                if event.sequence <= self.newest {
                    bail!("event {} after {}", event.sequence, self.newest);
                }
                self.untold += event.sequence - self.newest - 1;
                (self.newest, self.count) = (event.sequence, self.count + 1);
            }
            Item::PlaceLost(lost) => {
                self.missed += lost.missed_count;
                self.newest += lost.missed_count;
            }
            Item::CaughtUp(caught_up) => {
                self.newest = self.newest.max(caught_up.sequence);
                return Ok(true);
            }
        }
        Ok(false)
    }
}
