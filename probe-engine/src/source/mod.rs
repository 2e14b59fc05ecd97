//! Where pods and their states come from. Every source sends [`PodUpdate`]s to the manager, and nothing else.

pub mod api;
pub mod control;
pub mod manifest;
pub mod parse;
pub mod runtime;

use std::sync::Arc;

use probe_core::id::{ContainerName, PodUid, ProbeType, ProbeTypes};
use probe_core::pod::ConditionStatus;
use probe_core::spec::Pod;
use probe_core::status::PodStatus;
use tokio::sync::oneshot;

use self::api::ApiUpdate;
use crate::results::Paused;

/// Where a pod comes from: nobody else ends it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum SourceKind {
    /// Manifest files.
    #[default]
    Manifests,
    /// The control API.
    Api,
}

impl SourceKind {
    /// Its name in [`PodUpdate::Synced`], and for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            SourceKind::Manifests => manifest::NAME,
            SourceKind::Api => api::NAME,
        }
    }
}

/// From a source to the manager.
#[derive(Debug)]
pub enum PodUpdate {
    /// A new pod of the manifests. One of the same UID replaces nothing (rule 2.1); the manager warns.
    Add(Arc<Pod>),
    /// A pod of the manifests is no longer wanted: end it gracefully, within so many seconds (`None`: as its spec says), then
    /// forget it. Said again it can only make that shorter.
    Remove(PodUid, Option<u64>),
    /// What the API's source asks for.
    Api(ApiUpdate),
    /// The grace period of a pod that is being ended becomes so many seconds, if that is shorter (control API).
    Shorten(PodUid, u64),
    /// The runtime's newest word on a pod.
    Status(PodUid, Arc<PodStatus>),
    /// The pod's termination begins (rule 2.9): its liveness and startup workers end, readiness goes on.
    StopLivenessAndStartup(PodUid),
    /// All its containers have ended after a `Remove`: forget it.
    Terminated(PodUid),
    /// Probe now (control API).
    Trigger(PodUid, ContainerName, ProbeType),
    /// Make no attempts for a while, or make them again (control API).
    /// The sender hears when the pod shows it, or has gone; so do all that were told before it.
    Pause(PodUid, Arc<Pause>, Option<oneshot::Sender<()>>),
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

/// Which probes of a pod make no attempts for a while. One for all pods that were chosen with it.
#[derive(Clone, Debug)]
pub struct Pause {
    /// Of which container; `None` = of all.
    pub container: Option<ContainerName>,
    /// Which probes.
    pub types: ProbeTypes,
    /// From when until when; `None`: their pauses end.
    pub paused: Option<Paused>,
    /// Who asked for it: `uid 0`, `192.0.2.7`.
    pub by: Arc<str>,
    /// So few pods were chosen that an event tells of each.
    pub is_each_told: bool,
}

impl Pause {
    /// Whether this probe is among those that it is about.
    #[must_use]
    pub fn chooses(&self, container: &ContainerName, probe_type: ProbeType) -> bool {
        self.types.contains(probe_type) && self.container.as_ref().is_none_or(|only| only == container)
    }
}

/// The manager's entrance.
pub type PodUpdateSender = tokio::sync::mpsc::Sender<PodUpdate>;
