//! Pauses as the results stage takes them in: it keeps them for whoever asks, and tells of them.

use std::fmt::Write;

use super::*;
use crate::source::Pause;

impl Stage {
    /// The shard hears the same of the manager right after this stage.
    pub(super) fn handle_pause(&mut self, uid: &PodUid, pause: &Pause) {
        let now = clock::now();
        let Some(record) = self.node.pods.find_mut(uid) else { return };
        let concerned = self.node.pauses.set(record, pause, now);
        if concerned.is_empty() {
            return;
        }
        let pod = Arc::clone(&record.pod);
        let names = pause.is_each_told.then(|| names_of(record, &concerned));
        self.node.touch(uid);
        let Some(names) = names else { return };
        let (reason, message) = match pause.paused {
            Some(paused) => {
                ("ProbesPaused", format!("Paused until {} by {}: {names}", seconds(paused.until.into()), pause.by))
            }
            None => ("ProbesResumed", format!("Resumed by {}: {names}", pause.by)),
        };
        self.emit(NewEvent {
            pod,
            container: pause.container.clone(),
            event_type: EventType::Normal,
            reason,
            message,
            probe_type: None,
            run: 0,
            threshold: 0,
            cause: None,
            at: now,
        });
    }
}

/// `app Startup, Liveness; db Readiness`
fn names_of(record: &PodRecord, concerned: &[usize]) -> String {
    let mut names = String::new();
    for (spec, container) in record.containers() {
        let of_container = container.probes.iter().zip(container.probes());
        let mut types = of_container.filter(|(_, place)| concerned.contains(place)).map(|(probe, _)| probe.probe_type);
        let Some(first) = types.next() else { continue };
        let between = if names.is_empty() { "" } else { "; " };
        let _ = write!(names, "{between}{} {first}", spec.name);
        types.for_each(|probe_type| _ = write!(names, ", {probe_type}"));
    }
    names
}

fn seconds(at: Timestamp) -> impl std::fmt::Display {
    at.strftime("%Y-%m-%dT%H:%M:%SZ")
}
