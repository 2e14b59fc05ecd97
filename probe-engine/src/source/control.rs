//! What the control API asks for, as updates for the manager.
//!
//! **Invariant:** the API never touches a shard: it reads results, and writes here.

mod pause;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use probe_core::action::Report;
use probe_core::id::{ContainerName, PodUid, ProbeKey, ProbeType};
use probe_core::outcome::Verdict;
use probe_core::pod::ConditionStatus;
use probe_core::spec::Container;
use tokio::sync::oneshot;

pub use self::pause::{Choice, Chosen};

use super::api::ApiUpdate;
use super::{PodUpdate, PodUpdateSender, SourceKind};
use crate::clock;
use crate::results::{ContainerView, Node, PodRecord, ResultsError, ResultsHandle};

/// Names shown in an error at most.
const NAMES_SHOWN_MAX: usize = 10;

/// Why a write was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// No pod of that name.
    #[error("pod {namespace}/{name} not found{}", hint(" (pods there: {})", .there))]
    UnknownPod {
        /// As asked.
        namespace: String,
        /// As asked.
        name: String,
        /// Pods of that namespace, some.
        there: Vec<String>,
    },
    /// No container of that name in the pod.
    #[error("pod {pod} has no container {container:?}{}", hint(" (it has: {})", .there))]
    UnknownContainer {
        /// `namespace/name`
        pod: String,
        /// As asked.
        container: String,
        /// Its containers.
        there: Vec<String>,
    },
    /// The pod has several containers with this probe and none was named.
    #[error("pod {pod} has several containers with a {}: name one of {}", .probe_type.field(), .there.join(", "))]
    AmbiguousContainer {
        /// `namespace/name`
        pod: String,
        /// Which probe.
        probe_type: ProbeType,
        /// Containers that have it.
        there: Vec<String>,
    },
    /// The container has no such probe.
    #[error("container {container} of pod {pod} has no {}{}", .probe_type.field(), hint(" (it has: {})", .there))]
    UnknownProbe {
        /// `namespace/name`
        pod: String,
        /// The container.
        container: String,
        /// Which probe.
        probe_type: ProbeType,
        /// Probes that it has.
        there: Vec<String>,
    },
    /// The pod has no such readiness gate.
    #[error("pod {pod} has no readiness gate {gate:?}{}", hint(" (it has: {})", .there))]
    UnknownGate {
        /// `namespace/name`
        pod: String,
        /// As asked.
        gate: String,
        /// Its gates.
        there: Vec<String>,
    },
    /// A container or a probe was named that none of those has that were chosen.
    #[error("none of the {whose} has {what}")]
    NoneHas {
        /// As a noun: `2 pods chosen`.
        whose: String,
        /// As a noun: `a container "x"`.
        what: String,
    },
    /// An attempt was asked for of a probe that makes none.
    #[error("the {} of container {container} of pod {pod} is paused until {until}: resume it first", .probe_type.field())]
    Paused {
        /// `namespace/name`
        pod: String,
        /// The container.
        container: String,
        /// Which probe.
        probe_type: ProbeType,
        /// Until when.
        until: Timestamp,
    },
    /// A pause was told, and the last pod does not show it.
    #[error("the pause was told, but the pods do not all show it yet: the daemon is very busy")]
    PauseNotShown,
    /// The pod is to run.
    #[error(
        "pod {pod} is not being ended: its manifest wants it; take that away, and a grace period can be made shorter while the \
         pod ends"
    )]
    Wanted {
        /// `namespace/name`
        pod: String,
    },
    /// The gate was set, and the pod does not show it.
    #[error("readiness gate {gate} was set, but the pod does not show it yet: the daemon is very busy")]
    NotShown {
        /// As asked.
        gate: String,
    },
    /// Results did not answer, or no attempt ended in time.
    #[error(transparent)]
    Results(#[from] ResultsError),
    /// The manager has gone.
    #[error("the manager has ended: the daemon is shutting down")]
    Ended,
}

/// What came of a triggered probe.
#[derive(Clone, Debug)]
pub struct Triggered {
    /// Which container it was.
    pub container: ContainerName,
    /// The stored verdict before.
    pub before: Option<Verdict>,
    /// The attempt.
    pub report: Report,
    /// The stored verdict after.
    pub after: Option<Verdict>,
}

/// The control API's way into the flow; cheap to clone.
#[derive(Clone)]
pub struct Control {
    updates: PodUpdateSender,
    results: ResultsHandle,
}

impl Control {
    /// Writes to `updates`, asks `results` what exists.
    #[must_use]
    pub fn new(updates: PodUpdateSender, results: ResultsHandle) -> Self {
        Self { updates, results }
    }

    /// Makes a configured probe's next attempt now and waits for it, at most `timeout`. An empty container name
    /// stands for the only container that has such a probe.
    ///
    /// The attempt counts like any other. One that was being made already when this was called may be the one
    /// that is told.
    pub async fn trigger(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        probe_type: ProbeType,
        timeout: Duration,
    ) -> Result<Triggered, ControlError> {
        let asked = (namespace.to_owned(), pod.to_owned(), container.to_owned());
        let found = self.results.read(move |node| find(node, &asked.0, &asked.1, &asked.2, probe_type)).await??;
        let (key, before) = found;
        let pending = self.results.expect_report(key.clone()).await?;
        let update = PodUpdate::Trigger(key.pod.clone(), key.container.clone(), probe_type);
        self.updates.send(update).await.map_err(|_| ControlError::Ended)?;
        let report = pending.wait(timeout).await?;
        let container = key.container.clone();
        let after = self.results.read(move |node| node.probe(&key).and_then(|probe| probe.verdict)).await?;
        Ok(Triggered { container, before, report, after })
    }

    /// Sets the condition of a pod's readiness gate (`None`: takes it away) and waits until the pod shows it, at most
    /// `timeout`; gives back how it is then. Whoever sets it again meanwhile may have the last word.
    pub async fn set_gate(
        &self,
        namespace: &str,
        pod: &str,
        gate: &str,
        status: Option<ConditionStatus>,
        timeout: Duration,
    ) -> Result<PodRecord, ControlError> {
        let asked = (namespace.to_owned(), pod.to_owned(), gate.to_owned());
        let (uid, gate) = self.results.read(move |node| find_gate(node, &asked.0, &asked.1, &asked.2)).await??;
        let mut changes = self.results.changes();
        let update = PodUpdate::Gate(uid.clone(), Arc::clone(&gate), status);
        let is_shown = |record: &PodRecord| {
            let set = record.gates.iter().find(|set| set.condition_type == gate);
            set.map(|set| set.status) == status
        };
        let waiting = async {
            self.updates.send(update).await.map_err(|_| ControlError::Ended)?;
            loop {
                changes.borrow_and_update();
                let asked = uid.clone();
                let record = self.results.read(move |node| node.pods.get(&asked).cloned()).await?;
                let record = record.ok_or(ResultsError::Removed)?;
                if is_shown(&record) {
                    return Ok(record);
                }
                changes.changed().await.map_err(|_| ResultsError::Ended)?;
            }
        };
        match tokio::time::timeout(timeout, waiting).await {
            Ok(shown) => shown,
            Err(_) => Err(ControlError::NotShown { gate: gate.to_string() }),
        }
    }

    /// Ends a pod that came through the API, within so many seconds (`None`: as its spec says). Of any other, and of one that is
    /// being ended, it makes the grace period shorter.
    pub async fn end_pod(&self, namespace: &str, pod: &str, grace_seconds: Option<u32>) -> Result<(), ControlError> {
        let asked = (namespace.to_owned(), pod.to_owned());
        let find = move |node: &Node| {
            let record = node.pod_by_name(&asked.0, &asked.1).ok_or_else(|| unknown_pod(node, &asked.0, &asked.1))?;
            match (record.deleting, record.source) {
                (_, SourceKind::Api) => Ok((record.pod.uid.clone(), record.source)),
                // Where containers are run by others, it is they who say that it is being ended: here it is still wanted.
                (true, SourceKind::Manifests) if !node.has_external_containers() => {
                    Ok((record.pod.uid.clone(), record.source))
                }
                (_, SourceKind::Manifests) => Err(ControlError::Wanted { pod: label(record) }),
            }
        };
        let (uid, source) = self.results.read(find).await??;
        let grace_seconds = grace_seconds.map(u64::from);
        match (source, grace_seconds) {
            (SourceKind::Api, _) => {
                let (answer, answered) = oneshot::channel();
                self.send(PodUpdate::Api(ApiUpdate::End(uid, grace_seconds, answer))).await?;
                answered.await.map_err(|_| ControlError::Ended)
            }
            (SourceKind::Manifests, Some(seconds)) => self.send(PodUpdate::Shorten(uid, seconds)).await,
            (SourceKind::Manifests, None) => Ok(()),
        }
    }

    async fn send(&self, update: PodUpdate) -> Result<(), ControlError> {
        self.updates.send(update).await.map_err(|_| ControlError::Ended)
    }
}

fn find_gate(node: &Node, namespace: &str, name: &str, gate: &str) -> Result<(PodUid, Arc<str>), ControlError> {
    let record = node.pod_by_name(namespace, name).ok_or_else(|| unknown_pod(node, namespace, name))?;
    let gates = &record.pod.readiness_gates;
    let found = gates.iter().find(|known| &***known == gate).ok_or_else(|| ControlError::UnknownGate {
        pod: label(record),
        gate: gate.to_owned(),
        there: shown(gates.iter().map(|gate| &**gate)),
    })?;
    Ok((record.pod.uid.clone(), Arc::clone(found)))
}

fn find(
    node: &Node,
    namespace: &str,
    name: &str,
    container: &str,
    probe_type: ProbeType,
) -> Result<(ProbeKey, Option<Verdict>), ControlError> {
    let record = node.pod_by_name(namespace, name).ok_or_else(|| unknown_pod(node, namespace, name))?;
    let (spec, container) = match container {
        "" => only_container(record, probe_type)?,
        _ => named_container(record, container)?,
    };
    let probe = container.probe(probe_type).ok_or_else(|| unknown_probe(record, (spec, container), probe_type))?;
    if let Some(paused) = probe.paused(clock::now()) {
        let (pod, container) = (label(record), spec.name.to_string());
        return Err(ControlError::Paused { pod, container, probe_type, until: paused.until.into() });
    }
    let key = ProbeKey { pod: record.pod.uid.clone(), container: spec.name.clone(), probe_type };
    Ok((key, probe.verdict))
}

/// A container with what it was asked to be.
type Found<'a> = (&'a Container, ContainerView<'a>);

fn named_container<'a>(record: &'a PodRecord, name: &str) -> Result<Found<'a>, ControlError> {
    record.containers().find(|(spec, _)| spec.name.as_str() == name).ok_or_else(|| ControlError::UnknownContainer {
        pod: label(record),
        container: name.to_owned(),
        there: shown(record.containers().map(|(spec, _)| spec.name.as_str())),
    })
}

fn only_container(record: &PodRecord, probe_type: ProbeType) -> Result<Found<'_>, ControlError> {
    let having: Vec<Found<'_>> = record.containers().filter(|(_, c)| c.probe(probe_type).is_some()).collect();
    match (having.as_slice(), record.containers().next()) {
        ([one], _) => Ok(*one),
        ([], Some(first)) => Ok(first),
        _ => Err(ControlError::AmbiguousContainer {
            pod: label(record),
            probe_type,
            there: shown(having.iter().map(|(spec, _)| spec.name.as_str())),
        }),
    }
}

fn unknown_pod(node: &Node, namespace: &str, name: &str) -> ControlError {
    let mut there: Vec<&str> =
        node.pods.values().filter(|r| &*r.pod.namespace == namespace).map(|r| &*r.pod.name).collect();
    there.sort_unstable();
    ControlError::UnknownPod { namespace: namespace.to_owned(), name: name.to_owned(), there: shown(there.into_iter()) }
}

fn unknown_probe(record: &PodRecord, (spec, container): Found<'_>, probe_type: ProbeType) -> ControlError {
    ControlError::UnknownProbe {
        pod: label(record),
        container: spec.name.to_string(),
        probe_type,
        there: shown(container.probes.iter().map(|probe| probe.probe_type.field())),
    }
}

fn label(record: &PodRecord) -> String {
    format!("{}/{}", record.pod.namespace, record.pod.name)
}

fn shown<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    names.take(NAMES_SHOWN_MAX).map(str::to_owned).collect()
}

/// `text` with the names in place of `{}`; nothing where there are none.
fn hint(text: &str, names: &[String]) -> String {
    if names.is_empty() { String::new() } else { text.replace("{}", &names.join(", ")) }
}

#[cfg(test)]
mod tests {
    use probe_core::outcome::Outcome;
    use probe_core::spec::ContainerKind;
    use tokio::sync::mpsc;

    use super::*;
    use crate::results::Input;
    use crate::results::fixture::{Bench, SOON, container, pod, publish, report};

    async fn control(probes_of_second: &[ProbeType]) -> (Bench, Control, mpsc::Receiver<PodUpdate>) {
        let bench = Bench::start(16, 16);
        let first = container("c", ContainerKind::Regular, &[ProbeType::Liveness]);
        let second = container("d", ContainerKind::Regular, probes_of_second);
        bench.add(&pod("uid", "web", [first, second]), None).await;
        let (updates, taken) = mpsc::channel(1);
        let control = Control::new(updates, bench.results.clone());
        (bench, control, taken)
    }

    async fn refused(probes_of_second: &[ProbeType], pod: &str, container: &str, probe_type: ProbeType) -> String {
        let (_bench, control, _taken) = control(probes_of_second).await;
        control.trigger("default", pod, container, probe_type, SOON).await.expect_err("it is not there").to_string()
    }

    #[tokio::test]
    async fn a_trigger_goes_to_the_manager_and_waits_for_the_report() {
        let (bench, control, mut taken) = control(&[]).await;
        let queue = Arc::clone(&bench.queue);
        let shard = tokio::spawn(async move {
            let update = taken.recv().await;
            assert!(matches!(update, Some(PodUpdate::Trigger(uid, ..)) if uid.as_str() == "uid"));
            let push = |update| queue.push(update).expect("there is room");
            push(report("uid", ProbeType::Liveness, Outcome::Failure("no".into())));
            push(publish("uid", ProbeType::Liveness, "fake://1", Some(Verdict::Failure)));
        });
        let triggered = control.trigger("default", "web", "", ProbeType::Liveness, SOON).await.expect("it is there");
        assert_eq!((triggered.container.as_str(), triggered.before), ("c", None));
        assert_eq!(triggered.report.outcome, Outcome::Failure("no".into()));
        assert_eq!(triggered.after, Some(Verdict::Failure));
        shard.await.expect("no panic");
    }

    #[tokio::test]
    async fn a_gate_is_set_through_the_manager_and_told_once_the_pod_shows_it() {
        let bench = Bench::start(16, 16);
        let mut gated = pod("uid", "web", [container("c", ContainerKind::Regular, &[])]);
        Arc::make_mut(&mut gated).readiness_gates = ["example.com/a".into(), "example.com/b".into()].into();
        bench.add(&gated, None).await;
        let (updates, mut taken) = mpsc::channel(1);
        let control = Control::new(updates, bench.results.clone());
        let inputs = bench.inputs.clone();
        let manager = tokio::spawn(async move {
            while let Some(PodUpdate::Gate(uid, gate, status)) = taken.recv().await {
                inputs.send(Input::Gate(uid, gate, status)).await.expect("the stage runs");
            }
        });
        for status in [Some(ConditionStatus::False), Some(ConditionStatus::True), None] {
            let record = control.set_gate("default", "web", "example.com/b", status, SOON).await.expect("it is shown");
            assert_eq!(record.gates.iter().map(|gate| gate.status).next(), status);
        }
        let unknown = control.set_gate("default", "web", "x", None, SOON).await.expect_err("there is none").to_string();
        assert_eq!(unknown, "pod default/web has no readiness gate \"x\" (it has: example.com/a, example.com/b)");
        drop(control);
        manager.await.expect("no panic");
    }

    #[tokio::test]
    async fn only_the_end_of_a_pod_that_is_being_ended_is_made_shorter() {
        let (bench, control, mut taken) = control(&[]).await;
        let wanted = control.end_pod("default", "web", Some(5)).await.expect_err("it is to run").to_string();
        assert!(wanted.starts_with("pod default/web is not being ended: its manifest wants it"), "{wanted}");
        let unknown = control.end_pod("default", "wbe", Some(5)).await.expect_err("there is none").to_string();
        assert_eq!(unknown, "pod default/wbe not found (pods there: web)");
        bench.input(Input::Deleting("uid".into())).await;
        control.end_pod("default", "web", None).await.expect("it is being ended, which is all that was asked for");
        control.end_pod("default", "web", Some(5)).await.expect("it is being ended");
        assert!(matches!(taken.recv().await, Some(PodUpdate::Shorten(uid, 5)) if uid.as_str() == "uid"));
    }

    #[tokio::test]
    async fn a_pod_of_the_api_is_ended_at_any_time() {
        let (bench, control, mut taken) = control(&[]).await;
        let pod = pod("of-api", "job", [container("c", ContainerKind::Regular, &[])]);
        let slots = crate::manager::slots_of(&pod);
        let source = SourceKind::Api;
        bench.input(Input::Added { pod, slots, shard: None, status: None, past: None, source }).await;
        let manager = tokio::spawn(async move {
            let Some(PodUpdate::Api(ApiUpdate::End(uid, grace_seconds, answer))) = taken.recv().await else {
                return None;
            };
            answer.send(()).expect("it is waited for");
            Some((uid.to_string(), grace_seconds))
        });
        control.end_pod("default", "job", Some(7)).await.expect("it came from here");
        assert_eq!(manager.await.expect("no panic"), Some(("of-api".to_owned(), Some(7))));
    }

    #[tokio::test]
    async fn what_does_not_exist_is_an_error_that_names_what_does() {
        let unknown_pod = refused(&[], "wbe", "c", ProbeType::Liveness).await;
        assert_eq!(unknown_pod, "pod default/wbe not found (pods there: web)");
        let unknown_container = refused(&[], "web", "x", ProbeType::Liveness).await;
        assert_eq!(unknown_container, "pod default/web has no container \"x\" (it has: c, d)");
        let unknown_probe = refused(&[], "web", "c", ProbeType::Startup).await;
        assert_eq!(unknown_probe, "container c of pod default/web has no startupProbe (it has: livenessProbe)");
        let ambiguous = refused(&[ProbeType::Liveness], "web", "", ProbeType::Liveness).await;
        assert_eq!(ambiguous, "pod default/web has several containers with a livenessProbe: name one of c, d");
    }
}
