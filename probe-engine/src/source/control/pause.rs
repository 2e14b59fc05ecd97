//! Pausing probes: which pods are meant, and the word of it to each of them.
//!
//! The pods are looked at in parts, so that results never stands still for long. Those that come later are not meant.

use std::sync::Arc;
use std::time::Duration;

use probe_core::id::{PodUid, ProbeType, ProbeTypes};
use probe_core::spec::Pod;
use tokio::sync::oneshot;

use super::{Control, ControlError, label, named_container, unknown_pod, unknown_probe};
use crate::results::{Node, PodRecord, ResultsError};
use crate::source::{Pause, PodUpdate};
use crate::{clock, limits};

/// Which pods a pause is about.
#[derive(Clone)]
pub struct Choice {
    /// Whether a pod is among them.
    pub selects: Arc<dyn Fn(&Pod) -> bool + Send + Sync>,
    /// Namespace and name, where one was named: there must be such a pod.
    pub named: Option<(String, String)>,
}

/// What a pause was about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    /// How many probes.
    pub probes_len: u64,
    /// How many pods have them.
    pub pods_len: u64,
}

/// A pod that is selected.
struct Selected {
    uid: PodUid,
    probes_len: u64,
    has_container: bool,
    has_probe: bool,
}

impl Control {
    /// Pauses probes of the pods chosen, or ends their pauses, and waits until the last of them shows it, at most `timeout`. A
    /// shard hears of it right after that; an attempt that it has begun by then counts.
    pub async fn pause(&self, choice: &Choice, pause: Pause, timeout: Duration) -> Result<Chosen, ControlError> {
        let pause = Arc::new(pause);
        let selected = self.selected(choice, &pause).await?;
        self.check(choice, &pause, &selected).await?;
        let mut concerned: Vec<Selected> = selected.into_iter().filter(|pod| pod.probes_len > 0).collect();
        let probes_len = concerned.iter().map(|pod| pod.probes_len).sum();
        let chosen = Chosen { probes_len, pods_len: concerned.len() as u64 };
        let mut told = (*pause).clone();
        told.is_each_told = concerned.len() <= limits::PAUSE_EVENTS_MAX;
        let told = Arc::new(told);
        let Some(last) = concerned.pop() else { return Ok(chosen) };
        for pod in concerned {
            self.send(PodUpdate::Pause(pod.uid, Arc::clone(&told), None)).await?;
        }
        // The manager takes pauses on one after the other: when the last is shown, all are.
        let (shown, is_shown) = oneshot::channel();
        self.send(PodUpdate::Pause(last.uid, Arc::clone(&told), Some(shown))).await?;
        match told.paused {
            Some(paused) => {
                let until = jiff::Timestamp::from(paused.until);
                tracing::info!(pods = chosen.pods_len, probes = probes_len, %until, by = %told.by, "probes are paused");
            }
            None => tracing::info!(pods = chosen.pods_len, probes = probes_len, by = %told.by, "probes go on"),
        }
        match tokio::time::timeout(timeout, is_shown).await {
            Ok(Ok(())) => Ok(chosen),
            Ok(Err(_)) => Err(ControlError::Ended),
            Err(_) => Err(ControlError::PauseNotShown),
        }
    }

    async fn selected(&self, choice: &Choice, pause: &Arc<Pause>) -> Result<Vec<Selected>, ControlError> {
        let now = clock::now();
        let mut selected = Vec::new();
        for first in (0..).step_by(limits::RESULTS_PODS_PER_PART) {
            let (selects, pause) = (Arc::clone(&choice.selects), Arc::clone(pause));
            let look = move |node: &Node| {
                let part = node.pods.part(first..first + limits::RESULTS_PODS_PER_PART)?;
                let of = part.filter(|record| selects(&record.pod)).map(|record| {
                    let named = pause.container.as_ref().map(|name| record.pod.container(name.as_str()));
                    Selected {
                        uid: record.pod.uid.clone(),
                        probes_len: record.count_chosen(&pause, now),
                        has_container: named.is_none_or(|container| container.is_some()),
                        has_probe: has_probe(record, &pause),
                    }
                });
                Some(of.collect::<Vec<_>>())
            };
            match self.results.read(look).await? {
                Some(part) => selected.extend(part),
                None => break,
            }
        }
        Ok(selected)
    }

    /// What was named is there: the pod, the container in one of the pods, the type of probe in one of these.
    async fn check(&self, choice: &Choice, pause: &Arc<Pause>, selected: &[Selected]) -> Result<(), ControlError> {
        if selected.is_empty() {
            let Some((namespace, name)) = choice.named.clone() else { return Ok(()) };
            return Err(self.results.read(move |node| unknown_pod(node, &namespace, &name)).await?);
        }
        let has_container = selected.iter().any(|pod| pod.has_container);
        let has_probe = pause.types == ProbeTypes::ALL || selected.iter().any(|pod| pod.has_probe);
        if has_container && has_probe {
            return Ok(());
        }
        if let [only] = selected {
            let (uid, pause) = (only.uid.clone(), Arc::clone(pause));
            let why = self.results.read(move |node| Some(missing(node.pods.get(&uid)?, &pause))).await?;
            return Err(why.unwrap_or(ControlError::Results(ResultsError::Removed)));
        }
        let what = match &pause.container {
            Some(container) if !has_container => format!("a container {:?}", container.as_str()),
            _ => fields(pause),
        };
        Err(ControlError::NoneHas { whose: format!("{} pods chosen", selected.len()), what })
    }
}

fn has_probe(record: &PodRecord, pause: &Pause) -> bool {
    record
        .containers()
        .any(|(spec, container)| container.probes.iter().any(|probe| pause.chooses(&spec.name, probe.probe_type)))
}

/// What the only pod that was chosen lacks.
fn missing(record: &PodRecord, pause: &Pause) -> ControlError {
    let first = ProbeType::ALL.into_iter().find(|probe_type| pause.types.contains(*probe_type));
    let named = pause.container.as_ref().map(|name| named_container(record, name.as_str()));
    match (named, first) {
        (Some(Err(unknown)), _) => unknown,
        (Some(Ok(found)), Some(first)) => unknown_probe(record, found, first),
        _ => ControlError::NoneHas { whose: format!("containers of pod {}", label(record)), what: fields(pause) },
    }
}

/// `a startupProbe or livenessProbe`
fn fields(pause: &Pause) -> String {
    let types = ProbeType::ALL.into_iter().filter(|probe_type| pause.types.contains(*probe_type));
    format!("a {}", types.map(ProbeType::field).collect::<Vec<_>>().join(" or "))
}

#[cfg(test)]
mod tests;
