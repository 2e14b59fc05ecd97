//! Probes that are paused, and probes that are held: how many there are on the node, and since when.
//!
//! Bound: one entry per probe of either kind. What is held ends with the next word on its probe, what is paused by itself: a
//! pause that is over is not counted, and is let go with the next one.

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;
use probe_core::id::{PodUid, ProbeKey, ProbeType};
use probe_core::outcome::Verdict;
use probe_core::restart;
use probe_core::spec::Container;
use probe_core::status::ContainerState;
use probe_core::time::Instant;

use super::{ContainerView, Node, PodRecord, ProbeRecord, WallNs};
use crate::source::Pause;

/// A probe makes no attempts for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paused {
    /// When that began.
    pub since: WallNs,
    /// When it ends, as it was said.
    pub until: WallNs,
    /// The same on the engine's clock, by the offset of the two clocks when it was said.
    pub until_at: Instant,
}

/// How many probes are in a state, and since when the one is that came into it first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// How many.
    pub count: u64,
    /// `None` where there is none.
    pub oldest: Option<Timestamp>,
}

/// How many probes are paused, by the end and the beginning of their pauses.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    counts: BTreeMap<(Instant, WallNs), u64>,
}

impl Pauses {
    /// Pauses probes of a pod, or ends their pauses. Returns those that were concerned, by their place in the pod's.
    pub(super) fn set(&mut self, record: &mut PodRecord, pause: &Pause, now: Instant) -> Vec<usize> {
        self.let_go(now);
        let chosen: Vec<usize> = chosen(record, pause, now).collect();
        for place in &chosen {
            // One that is made longer began when it began.
            let since = record.probes[*place].paused(now).map(|before| before.since);
            let paused = pause.paused.map(|paused| Paused { since: since.unwrap_or(paused.since), ..paused });
            let before = record.probes[*place].set_paused(paused);
            before.into_iter().for_each(|before| self.take_away(before));
            paused.into_iter().for_each(|paused| self.add(paused));
        }
        chosen
    }

    /// The pod's state is another: the pauses of probes that will make no attempt any more end with them.
    pub(super) fn look(&mut self, record: &mut PodRecord) {
        if self.counts.is_empty() {
            return;
        }
        let ended: Vec<usize> = places(record).filter(|at| !at.may_attempt(record)).map(|at| at.place).collect();
        for place in ended {
            let before = record.probes[place].set_paused(None);
            before.into_iter().for_each(|before| self.take_away(before));
        }
    }

    fn add(&mut self, paused: Paused) {
        *self.counts.entry((paused.until_at, paused.since)).or_default() += 1;
    }

    /// One that is over may be gone already.
    fn take_away(&mut self, paused: Paused) {
        let key = (paused.until_at, paused.since);
        if let Some(count) = self.counts.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&key);
            }
        }
    }

    fn let_go(&mut self, now: Instant) {
        while let Some(first) = self.counts.first_entry().filter(|first| first.key().0 <= now) {
            first.remove();
        }
    }

    fn standing(&self, now: Instant) -> Standing {
        let in_force = self.counts.iter().filter(|((until_at, _), _)| *until_at > now);
        let add = |(count, oldest): (u64, Option<WallNs>), ((_, since), more): (&(_, WallNs), &u64)| {
            (count + more, oldest.into_iter().chain([*since]).min())
        };
        let (count, oldest) = in_force.fold((0, None), add);
        Standing { count, oldest: oldest.map(Timestamp::from) }
    }
}

/// Liveness and startup probes whose Failure asked for a restart; most of them may have got it.
#[derive(Debug, Default)]
pub(super) struct Held {
    keys: HashSet<ProbeKey>,
}

impl Held {
    /// The newest verdict of a probe: of whose attempts it is that of `is_shown`, or the container's state alone made it.
    pub(super) fn look(&mut self, key: ProbeKey, verdict: Option<Verdict>, is_shown: bool) {
        if is_shown && verdict == Some(Verdict::Failure) && key.probe_type != ProbeType::Readiness {
            self.keys.insert(key);
        } else {
            self.keys.remove(&key);
        }
    }
}

impl Node {
    /// Probes that are paused at `now`.
    #[must_use]
    pub fn paused(&self, now: Instant) -> Standing {
        self.pauses.standing(now)
    }

    /// Probes that are held: liveness and startup probes that are on hold with a Failure, which asks for a restart of their
    /// container, while that still runs as the same instance. In the kubelet that lasts as long as the kill; where it lasts
    /// longer nobody acts (no runtime, an embedder that does not), or the container cannot be killed. It is not probed
    /// meanwhile.
    #[must_use]
    pub fn held(&self) -> Standing {
        let since = self.held.keys.iter().filter_map(|key| {
            let record = self.pods.get(&key.pod)?;
            let container = record.container(&key.container)?;
            let probe = container.probe(key.probe_type)?;
            probe.verdict_since().filter(|_| is_held(record, container, probe))
        });
        since.fold(Standing::default(), |all, since| Standing {
            count: all.count + 1,
            oldest: all.oldest.into_iter().chain([since]).min(),
        })
    }

    /// A new pod's probes that were paused, or held, under another daemon.
    pub(super) fn count_in(&mut self, record: &PodRecord, now: Instant) {
        let paused = record.probes.iter().filter_map(|probe| probe.paused(now));
        paused.for_each(|paused| self.pauses.add(paused));
        self.held.keys.extend(held_of(record));
    }

    /// A pod's probes that were held under another daemon, once a state has named their instances: no worker tells of them.
    pub(super) fn count_held(&mut self, uid: &PodUid) {
        let held = self.pods.get(uid).into_iter().flat_map(held_of);
        self.held.keys.extend(held);
    }

    /// The pod has gone.
    pub(super) fn count_out_probes(&mut self, record: &PodRecord) {
        if !self.held.keys.is_empty() {
            record.keys().for_each(|key| _ = self.held.keys.remove(&key));
        }
        record.probes.iter().filter_map(ProbeRecord::paused_ever).for_each(|paused| self.pauses.take_away(paused));
    }
}

impl PodRecord {
    /// How many probes of the pod a pause is about: those that may make an attempt again; to end it, those that are paused.
    #[must_use]
    pub fn count_chosen(&self, pause: &Pause, now: Instant) -> u64 {
        chosen(self, pause, now).count() as u64
    }
}

/// A probe among those of its pod.
#[derive(Clone, Copy)]
struct At<'a> {
    spec: &'a Container,
    container: ContainerView<'a>,
    probe: &'a ProbeRecord,
    place: usize,
}

fn places(record: &PodRecord) -> impl Iterator<Item = At<'_>> {
    record.containers().flat_map(|(spec, container)| {
        let of_container = container.probes.iter().zip(container.probes());
        of_container.map(move |(probe, place)| At { spec, container, probe, place })
    })
}

fn chosen<'a>(record: &'a PodRecord, pause: &'a Pause, now: Instant) -> impl Iterator<Item = usize> + 'a {
    let is_chosen = move |at: &At<'_>| {
        pause.chooses(&at.spec.name, at.probe.probe_type)
            && at.may_attempt(record)
            && (pause.paused.is_some() || at.probe.paused(now).is_some())
    };
    places(record).filter(is_chosen).map(|at| at.place)
}

impl At<'_> {
    /// Its worker lives on, as far as the pod's state tells (rule 2.4, steps 2, 6 and 7).
    fn may_attempt(&self, record: &PodRecord) -> bool {
        let is_stopped = record.deleting && self.probe.probe_type != ProbeType::Readiness;
        let status = record.container_status(&self.container);
        let has_ended = status.is_some_and(|status| match &status.state {
            ContainerState::Terminated(end) => !restart::may_restart_after(&record.pod, self.spec, end),
            ContainerState::Waiting(_) | ContainerState::Running { .. } => false,
        });
        self.probe.stats.is_live() && !record.phase.is_terminal() && !is_stopped && !has_ended
    }
}

fn held_of(record: &PodRecord) -> impl Iterator<Item = ProbeKey> {
    record.containers().flat_map(move |(spec, container)| {
        let held = container.probes.iter().filter(move |probe| is_held(record, container, probe));
        held.map(move |probe| ProbeKey {
            pod: record.pod.uid.clone(),
            container: spec.name.clone(),
            probe_type: probe.probe_type,
        })
    })
}

fn is_held(record: &PodRecord, container: ContainerView<'_>, probe: &ProbeRecord) -> bool {
    probe.verdict == Some(Verdict::Failure) && probe.is_on_hold(record.container_status(&container))
}

#[cfg(test)]
mod tests;
