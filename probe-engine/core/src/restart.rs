//! What becomes of a container: keep, kill, start, start later, or leave.
//!
//! Source: `pkg/kubelet/kuberuntime/kuberuntime_manager.go` (`computePodActions`), `kuberuntime_container.go`
//! (`killContainer`, `setTerminationGracePeriod`), `pkg/kubelet/prober/worker.go` (may a container be restarted).

use crate::spec::{Container, ContainerKind, Pod, RestartPolicy};

/// May a terminated container be started again, so that its workers go on (rule 2.6)? Sidecars always; others
/// by their own `restartPolicy` and exit code where they have one, else unless the pod's is Never (with
/// OnFailure even after exit code 0, until the pod's phase is Succeeded).
#[must_use]
pub fn may_restart(pod: &Pod, container: &Container, exit_code: i32) -> bool {
    match (container.kind, container.restart_policy) {
        (ContainerKind::Sidecar, _) | (_, Some(RestartPolicy::Always)) => true,
        (_, Some(RestartPolicy::OnFailure)) => exit_code != 0,
        (_, Some(RestartPolicy::Never)) => false,
        (_, None) => pod.restart_policy != RestartPolicy::Never,
    }
}
