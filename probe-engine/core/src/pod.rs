//! Conditions of a pod.

use alloc::boxed::Box;
use alloc::sync::Arc;

/// `status` of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConditionStatus {
    /// `True`
    True,
    /// `False`
    False,
    /// `Unknown`
    Unknown,
}

/// One of a pod's conditions, without times (the shell adds lastTransitionTime when the status flips).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// `Initialized`, `ContainersReady`, `Ready`, or a readiness gate's.
    pub condition_type: Arc<str>,
    /// Its status.
    pub status: ConditionStatus,
    /// `ContainersNotReady` ...; empty where it is True without a reason.
    pub reason: &'static str,
    /// For people.
    pub message: Box<str>,
}
