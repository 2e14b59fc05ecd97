//! lifecycle

use std::sync::Arc;

use probe_core::id::{ContainerId, ContainerName, PodUid, ProbeType};
use probe_core::spec::Pod;

/// What lifecycle hears.
#[derive(Clone, Debug)]
pub enum LifecycleInput {
    /// A new pod.
    Add(Arc<Pod>),
    /// End it gracefully.
    Remove(PodUid),
    /// A liveness or startup probe's verdict became Failure.
    Failed {
        /// The pod.
        pod: PodUid,
        /// The container.
        container: ContainerName,
        /// The instance that failed.
        container_id: ContainerId,
        /// Liveness or startup.
        probe_type: ProbeType,
    },
}
