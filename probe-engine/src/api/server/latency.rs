//! WatchLatency: histograms, as what came since the message before.
//!
//! The watcher's own pace makes the messages: the next one is made when the one before is taken and its interval is over, from
//! what is recorded by then. So one that stops reading holds nothing up, and misses nothing.
//!
//! Bounds: [`limits::API_LATENCY_WATCHERS_MAX`] watches; of each a copy of what it was sent, as many histograms as the node has
//! and [`limits::DETAILED_PROBES_MAX`] probes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use probe_core::id::{ContainerName, PodUid, ProbeType};
use probe_core::spec::Pod;
use probe_core::time::Instant;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tonic::Status;

use super::watching::Watching;
use super::{Filter, Parts, Service, unavailable};
use crate::api::{convert, v1};
use crate::results::latency::{Recorded, Series, TooMany, Window};
use crate::results::{Node, ResultsHandle};
use crate::shard::metrics::{HandlerKind, OutcomeKind};
use crate::{clock, limits};

/// Milliseconds between two messages: at least, at most, where none are said.
const INTERVAL_MS: (u32, u32, u32) = (100, 60_000, 1_000);

/// How often it is looked which pods a filter selects, and said that their probes are watched still.
const PODS_PERIOD: Duration = Duration::from_secs(5);

/// So much longer than its interval a watch's probes keep their histograms once it says no more that they are watched.
const GRACE: Duration = Duration::from_secs(30);

/// See the proto.
pub(super) async fn watch(
    service: &Service,
    request: v1::WatchLatencyRequest,
) -> Result<Parts<v1::WatchLatencyResponse>, Status> {
    let period = period(request.interval_ms)?;
    let watching = Watching::begin(&service.latency_watchers, limits::API_LATENCY_WATCHERS_MAX)?;
    let filter = request.pods.map(|filter| Filter::read(Some(filter))).transpose()?;
    let mut watcher = Watcher {
        results: service.backend.results.clone(),
        filter: filter.map(Arc::new),
        keep: period + GRACE,
        pods: Arc::default(),
        pods_at: None,
        sent: HashMap::new(),
    };
    let first = watcher.next().await?;
    Ok(watching.stream(1, service.ended.clone(), move |to| async move { watcher.tell(first, period, &to).await }))
}

fn period(interval_ms: u32) -> Result<Duration, Status> {
    let (least, most, default) = INTERVAL_MS;
    match interval_ms {
        0 => Ok(Duration::from_millis(default.into())),
        ms if (least..=most).contains(&ms) => Ok(Duration::from_millis(ms.into())),
        ms => Err(Status::invalid_argument(format!("interval_ms: {ms} is not within {least} to {most}, nor 0"))),
    }
}

/// What one histogram is of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Of {
    Node(Series),
    /// Since when it is recorded: one that was let go of in between begins anew.
    Probe(PodUid, ContainerName, ProbeType, Option<OutcomeKind>, Instant),
}

/// A histogram with what is said of it.
struct Look {
    of: Of,
    recorded: Recorded,
    head: v1::HistogramDelta,
}

struct Watcher {
    results: ResultsHandle,
    filter: Option<Arc<Filter>>,
    keep: Duration,
    pods: Arc<[PodUid]>,
    pods_at: Option<Instant>,
    sent: HashMap<Of, Recorded>,
}

impl Watcher {
    /// Sends one message after the other, until nobody takes them or one cannot be made.
    async fn tell(
        &mut self,
        first: v1::WatchLatencyResponse,
        period: Duration,
        to: &mpsc::Sender<Result<v1::WatchLatencyResponse, Status>>,
    ) {
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first message is there already.
        ticks.reset();
        let mut next = Ok(v1::WatchLatencyResponse { whole: true, ..first });
        loop {
            let is_last = next.is_err();
            if to.send(next).await.is_err() || is_last {
                return;
            }
            let place = async {
                ticks.tick().await;
                to.reserve().await.is_ok()
            };
            let waited = tokio::select! {
                is_there = place => if is_there { Ok(()) } else { return },
                error = self.renew() => Err(error),
            };
            next = match waited {
                Ok(()) => self.next().await,
                Err(error) => Err(error),
            };
        }
    }

    /// Keeps the probes' histograms, however long the next message takes: what comes meanwhile is to be in it. Ends with why they
    /// cannot be kept.
    async fn renew(&mut self) -> Status {
        loop {
            sleep(PODS_PERIOD).await;
            if let Err(error) = self.keep_probes().await {
                return error;
            }
        }
    }

    /// What came since the last call.
    async fn next(&mut self) -> Result<v1::WatchLatencyResponse, Status> {
        self.keep_probes().await?;
        let pods = Arc::clone(&self.pods);
        let looks = self.results.read(move |node| look(node, &pods)).await.map_err(unavailable)?;
        let mut sent = HashMap::with_capacity(looks.len());
        let mut histograms = Vec::new();
        for Look { of, recorded, head } in looks {
            let before = self.sent.remove(&of);
            let delta = before.map_or_else(|| recorded.clone(), |before| recorded.since(&before));
            if !delta.is_empty() {
                let (values_us, counts) = delta.pairs().unzip();
                histograms.push(v1::HistogramDelta { values_us, counts, ..head });
            }
            sent.insert(of, recorded);
        }
        // Those that are gone go here, too.
        self.sent = sent;
        Ok(v1::WatchLatencyResponse { at: Some(convert::timestamp(clock::wall())), whole: false, histograms })
    }

    /// Sees to it that the probes that are asked for have histograms until after the next message.
    async fn keep_probes(&mut self) -> Result<(), Status> {
        let Some(filter) = self.filter.clone() else { return Ok(()) };
        let now = clock::now();
        if self.pods_at.is_none_or(|at| now - at >= PODS_PERIOD) {
            self.pods = selected(&self.results, &filter).await?;
            self.pods_at = Some(now);
        }
        let kept = self.results.watch_latency(Arc::clone(&self.pods), now + self.keep).await.map_err(unavailable)?;
        kept.map_err(too_many)
    }
}

/// The pods that a filter selects. More probes than there can be histograms for are refused before all are found.
async fn selected(results: &ResultsHandle, filter: &Arc<Filter>) -> Result<Arc<[PodUid]>, Status> {
    let (mut uids, mut probes_count) = (Vec::new(), 0);
    for first in (0..).step_by(limits::RESULTS_PODS_PER_PART) {
        let filter = Arc::clone(filter);
        let select = move |node: &Node| {
            let part = node.pods.part(first..first + limits::RESULTS_PODS_PER_PART)?;
            let selected = part.filter(|record| filter.selects(&record.pod));
            let of = selected.map(|record| {
                (
                    record.pod.uid.clone(),
                    record.containers().map(|(_, container)| container.probes.len()).sum::<usize>(),
                )
            });
            Some(of.collect::<Vec<_>>())
        };
        let Some(part) = results.read(select).await.map_err(unavailable)? else { break };
        for (uid, probes) in part {
            uids.push(uid);
            probes_count += probes;
        }
        if probes_count > limits::DETAILED_PROBES_MAX {
            let free_count = limits::DETAILED_PROBES_MAX;
            return Err(too_many(TooMany { wanted_count: probes_count, free_count }));
        }
    }
    Ok(uids.into())
}

fn too_many(error: TooMany) -> Status {
    Status::resource_exhausted(format!("pods: {error}"))
}

fn look(node: &Node, pods: &[PodUid]) -> Vec<Look> {
    let now = clock::now();
    let all = node.latency.all(Window::Start, now);
    let mut looks: Vec<Look> =
        all.map(|(series, recorded)| Look { of: Of::Node(series), recorded, head: head(series) }).collect();
    for record in pods.iter().filter_map(|uid| node.pods.get(uid)) {
        for (spec, container) in record.containers() {
            for probe in container.probes {
                let key = probe_core::id::ProbeKey {
                    pod: record.pod.uid.clone(),
                    container: spec.name.clone(),
                    probe_type: probe.probe_type,
                };
                let Some(detail) = node.latency.details.get(&key) else { continue };
                let handler = spec.probes.by_type(probe.probe_type).map(|spec| HandlerKind::of(&spec.handler));
                let head = |kind: v1::HistogramKind, outcome| v1::HistogramDelta {
                    kind: kind.into(),
                    handler: handler.map_or(String::new(), |handler| handler.as_str().to_owned()),
                    outcome,
                    probe: Some(name(&record.pod, &spec.name, probe.probe_type)),
                    ..v1::HistogramDelta::default()
                };
                let of = |outcome| {
                    Of::Probe(key.pod.clone(), key.container.clone(), key.probe_type, outcome, detail.since())
                };
                for outcome in OutcomeKind::ALL {
                    looks.push(Look {
                        of: of(Some(outcome)),
                        recorded: detail.latency(outcome, Window::Start, now),
                        head: head(v1::HistogramKind::Latency, convert::outcome_kind(outcome).into()),
                    });
                }
                let recorded = detail.lateness(Window::Start, now);
                looks.push(Look { of: of(None), recorded, head: head(v1::HistogramKind::Lateness, 0) });
            }
        }
    }
    looks
}

fn name(pod: &Pod, container: &ContainerName, probe_type: ProbeType) -> v1::ProbeName {
    v1::ProbeName {
        namespace: pod.namespace.to_string(),
        pod: pod.name.to_string(),
        pod_uid: pod.uid.to_string(),
        container: container.to_string(),
        r#type: convert::probe_type(probe_type).into(),
    }
}

fn head(series: Series) -> v1::HistogramDelta {
    let of = |kind: v1::HistogramKind, handler: &'static str| v1::HistogramDelta {
        kind: kind.into(),
        handler: handler.to_owned(),
        ..v1::HistogramDelta::default()
    };
    match series {
        Series::Latency(handler, outcome) => v1::HistogramDelta {
            outcome: convert::outcome_kind(outcome).into(),
            ..of(v1::HistogramKind::Latency, handler.as_str())
        },
        Series::Phase(handler, phase) => {
            let phase = phase.as_str().to_owned();
            v1::HistogramDelta { phase, ..of(v1::HistogramKind::Phase, handler.as_str()) }
        }
        Series::Lateness(handler) => of(v1::HistogramKind::Lateness, handler.as_str()),
        Series::Handshake(handler) => of(v1::HistogramKind::Handshake, handler.as_str()),
        Series::Turn => of(v1::HistogramKind::Turn, ""),
    }
}
