//! What the runtime knows of pods, as a source: their newest states, told to the manager at once.
//!
//! The lifecycle never waits for the manager (which may be waiting for the lifecycle): it leaves a state here,
//! where a newer state of the same pod takes its place. Updates of one pod keep their order.
//! Bound: per pod one state between any two of the other updates, of which there are at most two.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use probe_core::id::PodUid;
use probe_core::status::PodStatus;
use tokio::sync::mpsc;

use super::{PodUpdate, PodUpdateSender};

/// The lifecycle's end. Cheap to clone; when the last one is gone the source ends.
#[derive(Clone, Debug)]
pub struct RuntimeReports {
    waiting: Arc<Mutex<Waiting>>,
    wake: mpsc::Sender<()>,
}

/// The end that sends to the manager.
#[derive(Debug)]
pub struct RuntimeSource {
    waiting: Arc<Mutex<Waiting>>,
    woken: mpsc::Receiver<()>,
    updates: PodUpdateSender,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Pods with something to tell, the longest waiting first.
    order: VecDeque<PodUid>,
    updates: HashMap<PodUid, VecDeque<PodUpdate>>,
}

/// Both ends.
#[must_use]
pub fn channel(updates: PodUpdateSender) -> (RuntimeReports, RuntimeSource) {
    let waiting = Arc::new(Mutex::new(Waiting::default()));
    let (wake, woken) = mpsc::channel(1);
    let reports = RuntimeReports { waiting: Arc::clone(&waiting), wake };
    (reports, RuntimeSource { waiting, woken, updates })
}

impl RuntimeReports {
    /// The pod's newest state.
    pub fn status(&self, uid: &PodUid, status: Arc<PodStatus>) {
        self.push(uid, PodUpdate::Status(uid.clone(), status));
    }

    /// The pod's termination begins.
    pub fn stop_liveness_and_startup(&self, uid: &PodUid) {
        self.push(uid, PodUpdate::StopLivenessAndStartup(uid.clone()));
    }

    /// The pod's termination is complete.
    pub fn terminated(&self, uid: &PodUid) {
        self.push(uid, PodUpdate::Terminated(uid.clone()));
    }

    fn push(&self, uid: &PodUid, update: PodUpdate) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(uid, update);
        // Full: it has been woken already.
        let _ = self.wake.try_send(());
    }
}

impl RuntimeSource {
    /// Sends until all reporters are gone and everything is told, or the manager has ended.
    pub async fn run(mut self) {
        loop {
            let woken = self.woken.recv().await;
            while let Some(update) = self.next() {
                if self.updates.send(update).await.is_err() {
                    return;
                }
            }
            if woken.is_none() {
                return;
            }
        }
    }

    fn next(&self) -> Option<PodUpdate> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}

impl Waiting {
    fn push(&mut self, uid: &PodUid, update: PodUpdate) {
        let updates = self.updates.entry(uid.clone()).or_default();
        if updates.is_empty() {
            self.order.push_back(uid.clone());
        }
        match (updates.back_mut(), &update) {
            (Some(last @ PodUpdate::Status(..)), PodUpdate::Status(..)) => *last = update,
            _ => updates.push_back(update),
        }
    }

    fn pop(&mut self) -> Option<PodUpdate> {
        let uid = self.order.pop_front()?;
        let updates = self.updates.get_mut(&uid)?;
        let update = updates.pop_front();
        if updates.is_empty() {
            self.updates.remove(&uid);
        } else {
            self.order.push_back(uid);
        }
        update
    }
}

#[cfg(test)]
mod tests {
    use probe_core::status::PodPhase;

    use super::*;

    fn status(phase: PodPhase) -> Arc<PodStatus> {
        Arc::new(PodStatus { phase, deleting: false, pod_ip: None, netns: None, containers: Box::default() })
    }

    async fn told(fill: impl FnOnce(&RuntimeReports)) -> Vec<String> {
        let (updates, mut manager) = mpsc::channel(1);
        let (reports, source) = channel(updates);
        fill(&reports);
        drop(reports);
        let source = tokio::spawn(source.run());
        let mut told = Vec::new();
        while let Some(update) = manager.recv().await {
            told.push(match update {
                PodUpdate::Status(uid, status) => format!("{uid} {}", status.phase.as_str()),
                PodUpdate::StopLivenessAndStartup(uid) => format!("{uid} stop"),
                PodUpdate::Terminated(uid) => format!("{uid} terminated"),
                other => format!("{other:?}"),
            });
        }
        source.await.unwrap();
        told
    }

    #[tokio::test]
    async fn a_newer_state_takes_the_place_of_one_that_waits() {
        let told = told(|reports| {
            reports.status(&"a".into(), status(PodPhase::Pending));
            reports.status(&"b".into(), status(PodPhase::Pending));
            reports.status(&"a".into(), status(PodPhase::Running));
        });
        assert_eq!(told.await, ["a Running", "b Pending"]);
    }

    #[tokio::test]
    async fn the_updates_of_one_pod_keep_their_order() {
        let told = told(|reports| {
            let uid = PodUid::from("a");
            reports.status(&uid, status(PodPhase::Running));
            reports.stop_liveness_and_startup(&uid);
            reports.status(&uid, status(PodPhase::Running));
            reports.status(&uid, status(PodPhase::Succeeded));
            reports.terminated(&uid);
            reports.status(&uid, status(PodPhase::Pending));
        });
        assert_eq!(told.await, ["a Running", "a stop", "a Succeeded", "a terminated", "a Pending"]);
    }
}
