//! What reaches a shard from outside: commands of the manager, answers of the pool.

use std::sync::Arc;

use probe_core::action::AttemptId;
use probe_core::id::{ContainerName, PodUid, ProbeType};
use probe_core::outcome::Outcome;
use probe_core::spec::Pod;
use probe_core::status::PodStatus;
use probe_core::time::Instant;

use crate::results::ProbeStats;

/// One probe of a pod that is being added, and where its counts go.
#[derive(Clone, Debug)]
pub struct ProbeSlot {
    /// The container.
    pub container: ContainerName,
    /// Which of its probes.
    pub probe_type: ProbeType,
    /// Written by the shard alone, read by anyone.
    pub stats: Arc<ProbeStats>,
}

/// From the manager to a shard.
#[derive(Clone, Debug)]
pub enum Command {
    /// A new pod; all its workers live on this shard.
    AddPod {
        /// The pod.
        pod: Arc<Pod>,
        /// One entry per probe.
        slots: Box<[ProbeSlot]>,
        /// Its state, where it is known already.
        status: Option<PodStatus>,
    },
    /// The pod is gone: its workers end.
    RemovePod {
        /// Which.
        uid: PodUid,
    },
    /// A pod's newest state.
    Status {
        /// Which.
        uid: PodUid,
        /// Whole.
        status: PodStatus,
    },
    /// The pod's termination begins.
    StopLivenessAndStartup {
        /// Which.
        uid: PodUid,
    },
    /// Probe now.
    Trigger {
        /// Which pod.
        uid: PodUid,
        /// Which container.
        container: ContainerName,
        /// Which probe.
        probe_type: ProbeType,
    },
    /// End: cancel what is in flight, close sockets, leave the thread.
    Shutdown,
}

/// From the pool to a shard.
#[derive(Debug)]
pub enum PoolReply {
    /// The attempt left the queue: it is being made.
    Started {
        /// Which.
        attempt: AttemptId,
        /// When.
        at: Instant,
    },
    /// The attempt ended.
    Done {
        /// Which.
        attempt: AttemptId,
        /// What it saw.
        outcome: Outcome,
        /// From its start to its end, in nanoseconds.
        latency_ns: u64,
    },
}
