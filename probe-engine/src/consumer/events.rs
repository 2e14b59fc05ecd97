//! events

use std::sync::Arc;

use probe_core::id::{ContainerName, ProbeType};
use probe_core::spec::Pod;
use probe_core::time::Instant;

/// `type` of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventType {
    /// `Normal`
    Normal,
    /// `Warning`
    Warning,
}

impl EventType {
    /// As in an Event object.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        }
    }
}

/// Something that happened to a pod, as the stages tell it.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// The pod.
    pub pod: Arc<Pod>,
    /// The container, where it concerns one.
    pub container: Option<ContainerName>,
    /// `type`
    pub event_type: EventType,
    /// The kubelet's: `Unhealthy`, `Killing` ...
    pub reason: &'static str,
    /// The kubelet's text.
    pub message: String,
    /// The probe, where one is the cause.
    pub probe_type: Option<ProbeType>,
    /// Results of one kind in a row, this one included; 0 = does not apply.
    pub run: u32,
    /// How many in a row make the verdict; 0 = does not apply.
    pub threshold: u32,
    /// The cause beside the text.
    pub cause: Option<Box<str>>,
    /// When it happened.
    pub at: Instant,
}

/// The entrance of the events stage. Bound: [`crate::limits::NEW_EVENTS_LEN_MAX`].
pub type EventSender = tokio::sync::mpsc::Sender<NewEvent>;
