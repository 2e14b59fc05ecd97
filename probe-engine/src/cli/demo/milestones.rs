//! What the demo must show, in which order.

use crate::api::v1;

/// What was seen of a pod, as far as milestones care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// A container was started.
    Started,
    /// The condition Ready became True.
    Ready,
    /// It became False again.
    NotReady,
    /// A probe failed: its type, and the run.
    Unhealthy(v1::ProbeType, u32),
    /// A container is being killed.
    Killing,
    /// A tcpSocket probe was answered many times without a connection.
    Answered,
    /// Its listener's close was seen at once.
    Detected,
    /// Anything else.
    Other,
}

impl Seen {
    pub(super) fn of_event(event: &v1::Event) -> Seen {
        match event.reason.as_str() {
            "Started" => Seen::Started,
            "Killing" => Seen::Killing,
            "Unhealthy" => Seen::Unhealthy(event.probe_type(), event.run),
            _ => Seen::Other,
        }
    }
}

/// Per pod, what has to be seen next.
pub(super) struct Milestones {
    pods: Vec<(&'static str, Vec<Seen>)>,
}

impl Milestones {
    /// `passive`: tcpSocket probes can be answered from kernel state.
    pub(super) fn new(passive: bool) -> Self {
        use Seen::{Answered, Detected, Killing, NotReady, Ready, Started, Unhealthy};
        use v1::ProbeType::{Liveness, Readiness, Startup};
        let with_connections_only: &[Seen] = &[Started, Ready];
        let answered: &[Seen] = &[Started, Ready, Answered, Unhealthy(Readiness, 1), Detected, NotReady];
        let expected: [(&str, &[Seen]); 8] = [
            ("slow-start", &[Started, Unhealthy(Startup, 1), Ready]),
            (
                "liveness-fails",
                &[
                    Started,
                    Ready,
                    Unhealthy(Liveness, 1),
                    Unhealthy(Liveness, 2),
                    Unhealthy(Liveness, 3),
                    Killing,
                    Started,
                    Ready,
                ],
            ),
            ("readiness-flaps", &[Started, Ready, Unhealthy(Readiness, 1), Unhealthy(Readiness, 3), NotReady, Ready]),
            ("tcp", &[Started, Ready]),
            ("grpc", &[Started, Ready]),
            ("exec", &[Started, Ready, Unhealthy(Readiness, 1), NotReady, Ready]),
            ("two-containers", &[Started, Started, Ready]),
            ("passive", if passive { answered } else { with_connections_only }),
        ];
        Self { pods: expected.into_iter().map(|(pod, seen)| (pod, seen.to_vec())).collect() }
    }

    pub(super) fn see(&mut self, pod: &str, seen: Seen) {
        let left = self.pods.iter_mut().find(|(name, _)| *name == pod).map(|(_, left)| left);
        if let Some(left) = left
            && left.first() == Some(&seen)
        {
            left.remove(0);
        }
    }

    pub(super) fn all_reached(&self) -> bool {
        self.pods.iter().all(|(_, left)| left.is_empty())
    }

    /// The next one of every pod that has one left.
    pub(super) fn missing(&self) -> impl Iterator<Item = String> {
        self.pods.iter().filter_map(|(pod, left)| left.first().map(|seen| format!("{pod}: {seen:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_kernel_program_passive_answers_are_not_waited_for() {
        let mut milestones = Milestones::new(false);
        milestones.see("passive", Seen::Started);
        milestones.see("passive", Seen::Ready);
        assert!(!milestones.missing().any(|missing| missing.starts_with("passive")));
    }

    #[test]
    fn a_milestone_out_of_order_is_not_reached() {
        let mut milestones = Milestones::new(true);
        milestones.see("tcp", Seen::Ready);
        milestones.see("tcp", Seen::Started);
        assert!(milestones.missing().any(|missing| missing == "tcp: Ready"));
        milestones.see("tcp", Seen::Ready);
        assert!(!milestones.missing().any(|missing| missing.starts_with("tcp")));
        assert!(!milestones.all_reached());
    }
}
