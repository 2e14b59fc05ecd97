//! Where pods and their states come from. Every source sends [`PodUpdate`]s to the manager, and nothing else.

pub mod control;
pub mod manifest;
pub mod parse;
pub mod runtime;

use std::sync::Arc;

use probe_core::id::{ContainerName, PodUid, ProbeType};
use probe_core::pod::ConditionStatus;
use probe_core::spec::Pod;
use probe_core::status::PodStatus;

/// From a source to the manager.
#[derive(Clone, Debug)]
pub enum PodUpdate {
    /// A new pod. One of the same UID replaces nothing (rule 2.1); the manager warns.
    Add(Arc<Pod>),
    /// The pod is no longer wanted: end it gracefully, within so many seconds (`None`: as its spec says), then forget it. Said
    /// again it can only make that shorter.
    Remove(PodUid, Option<u64>),
    /// The grace period of a pod that is being ended becomes so many seconds, if that is shorter (control API).
    Shorten(PodUid, u64),
    /// The runtime's newest word on a pod.
    Status(PodUid, Arc<PodStatus>),
    /// These pods are wanted and no others: every other one is ended as by `Remove`.
    Desired(Box<[PodUid]>),
    /// The pod's termination begins (rule 2.9): its liveness and startup workers end, readiness goes on.
    StopLivenessAndStartup(PodUid),
    /// All its containers have ended after a `Remove`: forget it.
    Terminated(PodUid),
    /// Probe now (control API).
    Trigger(PodUid, ContainerName, ProbeType),
    /// A readiness gate's condition was set (control API); `None` = taken away.
    Gate(PodUid, Arc<str>, Option<ConditionStatus>),
    /// This source has been read once.
    Synced {
        /// Its name.
        source: &'static str,
        /// Nothing of it was unreadable or wrong: what it did not name is not wanted.
        is_whole: bool,
    },
}

/// The manager's entrance.
pub type PodUpdateSender = tokio::sync::mpsc::Sender<PodUpdate>;
