//! Full histograms of the probes that somebody watches, or that are failing: each attempt of theirs is told by its shard.
//!
//! A shard knows that it is to tell by a token in the probe's counts, which only this stage writes: its place here, and a generation
//! that tells an attempt of the place's last probe from one of its present one. Full: a watcher is refused, a probe that fails
//! waits for its next failure; both are counted. Failing probes leave the last quarter of the places to watchers.
//!
//! Bound: [`limits::DETAILED_PROBES_MAX`] probes, of each at most five outcomes and lateness.

use std::collections::HashMap;
use std::num::NonZeroU16;
use std::sync::Arc;

use probe_core::id::ProbeKey;
use probe_core::time::Instant;

use super::{Window, Windows};
use crate::limits;
use crate::results::ProbeStats;
use crate::results::latency::Recorded;
use crate::shard::metrics::OutcomeKind;

/// Slots of each window of a probe: what it tells is a sixth short at most.
const SLOTS_LEN: u8 = 6;

/// Bits of a token that are a place.
const PLACE_BITS: u32 = 10;
const _: () = assert!(limits::DETAILED_PROBES_MAX <= 1 << PLACE_BITS, "a token holds its place");

/// Generations: the bits that are left. None is 0, so no token is.
const GENERATION_MAX: u16 = (1 << (u16::BITS - PLACE_BITS)) - 1;

/// Somebody wants to watch more probes than there are places for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{wanted_count} more probes are to be watched, and histograms of {free_count} more can be kept (of {} at most, watched and \
     failing ones); choose fewer pods",
    limits::DETAILED_PROBES_MAX
)]
pub struct TooMany {
    /// That are not watched or failing already.
    pub wanted_count: usize,
    /// Places that there are.
    pub free_count: usize,
}

/// For metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DetailCounts {
    /// Probes that have histograms of their own now.
    pub probes: u64,
    /// Watches that were refused.
    pub refused: u64,
    /// Failures of probes for which there was no place.
    pub waited: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Details {
    places: Vec<Place>,
    free: Vec<u16>,
    by_probe: HashMap<ProbeKey, u16>,
    refused: u64,
    waited: u64,
}

#[derive(Debug)]
struct Place {
    generation: u16,
    detail: Option<Detail>,
}

/// One probe that is looked at closely.
#[derive(Debug)]
pub struct Detail {
    stats: Arc<ProbeStats>,
    since: Instant,
    until: Instant,
    latency: [Option<Box<Windows>>; OutcomeKind::ALL.len()],
    lateness: Option<Box<Windows>>,
}

impl Detail {
    /// When it was begun to record.
    #[must_use]
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Duration of real attempts that ended so.
    #[must_use]
    pub fn latency(&self, outcome: OutcomeKind, window: Window, now: Instant) -> Recorded {
        self.latency[outcome.index()].as_ref().map(|windows| windows.of(window, now)).unwrap_or_default()
    }

    /// Actual start of real attempts minus their due time.
    #[must_use]
    pub fn lateness(&self, window: Window, now: Instant) -> Recorded {
        self.lateness.as_ref().map(|windows| windows.of(window, now)).unwrap_or_default()
    }

    fn record(&mut self, outcome: OutcomeKind, latency_us: u32, lateness_us: Option<u32>, now: Instant) {
        let windows = |place: &mut Option<Box<Windows>>, value_us: u32| {
            place.get_or_insert_with(|| Box::new(Windows::new(SLOTS_LEN))).record(value_us.into(), now);
        };
        windows(&mut self.latency[outcome.index()], latency_us);
        lateness_us.into_iter().for_each(|lateness_us| windows(&mut self.lateness, lateness_us));
    }

    fn size(&self) -> usize {
        let windows = self.latency.iter().chain([&self.lateness]).flatten();
        windows.map(|windows| size_of::<Windows>() + windows.size()).sum()
    }
}

impl Details {
    /// Of this probe, where it is looked at closely.
    #[must_use]
    pub fn get(&self, key: &ProbeKey) -> Option<&Detail> {
        self.places[usize::from(*self.by_probe.get(key)?)].detail.as_ref()
    }

    /// For metrics.
    #[must_use]
    pub fn counts(&self) -> DetailCounts {
        DetailCounts { probes: self.by_probe.len() as u64, refused: self.refused, waited: self.waited }
    }

    /// Looks at all of these closely until then, or longer where somebody else wants it; or, if there is no place for all, at none
    /// that was not looked at already.
    pub(in crate::results) fn watch(
        &mut self,
        probes: Vec<(ProbeKey, Arc<ProbeStats>)>,
        until: Instant,
        now: Instant,
    ) -> Result<(), TooMany> {
        let wanted_count = probes.iter().filter(|(key, _)| !self.by_probe.contains_key(key)).count();
        let free_count = limits::DETAILED_PROBES_MAX - self.by_probe.len();
        if wanted_count > free_count {
            self.refused += 1;
            return Err(TooMany { wanted_count, free_count });
        }
        for (key, stats) in probes {
            self.look(key, &stats, until, now);
        }
        Ok(())
    }

    /// A probe's attempt failed and took so long: it is looked at closely from now on, for a while.
    pub(in crate::results) fn failed(&mut self, key: ProbeKey, stats: &Arc<ProbeStats>, latency_us: u32, now: Instant) {
        let is_new = !self.by_probe.contains_key(&key);
        if is_new && self.by_probe.len() >= limits::DETAILED_FAILING_MAX {
            self.waited += 1;
            return;
        }
        if let Some(detail) = self.look(key, stats, now + limits::DETAILED_AFTER_FAILURE, now)
            && is_new
        {
            // Its shard was not asked to tell of this one.
            detail.record(OutcomeKind::Failure, latency_us, None, now);
        }
    }

    fn look(&mut self, key: ProbeKey, stats: &Arc<ProbeStats>, until: Instant, now: Instant) -> Option<&mut Detail> {
        if let Some(place) = self.by_probe.get(&key) {
            let detail = self.places[usize::from(*place)].detail.as_mut()?;
            detail.until = detail.until.max(until);
            return Some(detail);
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place { generation: 0, detail: None });
            (self.places.len() - 1) as u16
        });
        let place = &mut self.places[usize::from(index)];
        place.generation = place.generation % GENERATION_MAX + 1;
        stats.set_detail(place.generation << PLACE_BITS | index);
        self.by_probe.insert(key, index);
        let stats = Arc::clone(stats);
        Some(place.detail.insert(Detail { stats, since: now, until, latency: Default::default(), lateness: None }))
    }

    /// A shard's word on one attempt; nothing where it is about a probe that is not looked at any more.
    pub(in crate::results) fn record(
        &mut self,
        token: NonZeroU16,
        outcome: OutcomeKind,
        latency_us: u32,
        lateness_us: Option<u32>,
        now: Instant,
    ) {
        let (index, generation) = (token.get() & ((1 << PLACE_BITS) - 1), token.get() >> PLACE_BITS);
        let place = self.places.get_mut(usize::from(index)).filter(|place| place.generation == generation);
        if let Some(detail) = place.and_then(|place| place.detail.as_mut()) {
            detail.record(outcome, latency_us, lateness_us, now);
        }
    }

    /// Lets go of those that nobody watches any more and that have not failed for long enough.
    pub(super) fn expire(&mut self, now: Instant) {
        let Self { places, free, by_probe, .. } = self;
        by_probe.retain(|_, index| {
            let place = &mut places[usize::from(*index)];
            let stays = place.detail.as_ref().is_some_and(|detail| detail.until > now);
            if !stays {
                let_go(place, *index, free);
            }
            stays
        });
    }

    /// These probes are gone.
    pub(in crate::results) fn forget(&mut self, keys: impl Iterator<Item = ProbeKey>) {
        if self.by_probe.is_empty() {
            return;
        }
        for key in keys {
            if let Some(index) = self.by_probe.remove(&key) {
                let_go(&mut self.places[usize::from(index)], index, &mut self.free);
            }
        }
    }

    pub(super) fn size(&self) -> usize {
        self.places.iter().filter_map(|place| place.detail.as_ref()).map(Detail::size).sum()
    }
}

fn let_go(place: &mut Place, index: u16, free: &mut Vec<u16>) {
    if let Some(detail) = place.detail.take() {
        detail.stats.set_detail(0);
    }
    free.push(index);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use probe_core::id::ProbeType;

    use super::*;

    fn key(pod: usize) -> ProbeKey {
        let pod = format!("pod-{pod}");
        ProbeKey { pod: pod.as_str().into(), container: "c".into(), probe_type: ProbeType::Liveness }
    }

    fn probes(pods: std::ops::Range<usize>) -> Vec<(ProbeKey, Arc<ProbeStats>)> {
        pods.map(|pod| (key(pod), Arc::default())).collect()
    }

    const NOW: Instant = Instant::from_secs(1_000);

    fn soon() -> Instant {
        NOW + Duration::from_secs(60)
    }

    #[test]
    fn a_watched_probe_is_told_of_until_nobody_watches() {
        let mut details = Details::default();
        let probes = probes(0..1);
        let stats = Arc::clone(&probes[0].1);
        assert_eq!(stats.detail(), None);
        details.watch(probes, soon(), NOW).expect("there is room");
        let token = stats.detail().expect("it is watched");
        details.record(token, OutcomeKind::Success, 100, Some(7), NOW);
        let detail = details.get(&key(0)).expect("it is watched");
        assert_eq!(detail.latency(OutcomeKind::Success, Window::Minute, NOW).pairs().collect::<Vec<_>>(), [(100, 1)]);
        assert_eq!(detail.lateness(Window::Start, NOW).max_us(), 7);
        details.expire(soon());
        assert!(details.get(&key(0)).is_none() && stats.detail().is_none());
        assert_eq!(details.counts().probes, 0);
    }

    #[test]
    fn a_failing_probe_is_looked_at_from_its_first_failure_for_a_while_after_its_last() {
        let mut details = Details::default();
        let stats = Arc::default();
        details.failed(key(1), &stats, 1_000_000, NOW);
        let later = NOW + Duration::from_secs(10);
        details.failed(key(1), &stats, 1_000_000, later);
        let count = |details: &Details| {
            details.get(&key(1)).map(|detail| detail.latency(OutcomeKind::Failure, Window::Start, later).count())
        };
        assert_eq!(count(&details), Some(1), "the second is told by the shard");
        details.expire(NOW + limits::DETAILED_AFTER_FAILURE);
        assert_eq!(count(&details), Some(1));
        details.expire(later + limits::DETAILED_AFTER_FAILURE);
        assert_eq!(count(&details), None);
    }

    #[test]
    fn more_than_there_is_room_for_is_refused_whole_or_waits_and_is_counted() {
        let mut details = Details::default();
        let (all, failing) = (limits::DETAILED_PROBES_MAX, limits::DETAILED_FAILING_MAX);
        for pod in 0..=failing {
            details.failed(key(pod), &Arc::default(), 1, NOW);
        }
        assert_eq!(details.counts(), DetailCounts { probes: failing as u64, refused: 0, waited: 1 });
        details.watch(probes(failing..all - 1), soon(), NOW).expect("failing ones leave room");
        let refused = details.watch(probes(all - 2..all + 1), soon(), NOW);
        assert_eq!(refused, Err(TooMany { wanted_count: 2, free_count: 1 }));
        assert_eq!(details.counts(), DetailCounts { probes: all as u64 - 1, refused: 1, waited: 1 });
        details.forget((0..all - failing).map(key));
        details.failed(key(all), &Arc::default(), 1, NOW);
        assert!(details.get(&key(all)).is_some());
    }

    #[test]
    fn a_late_word_on_a_places_last_probe_is_not_its_present_ones() {
        let mut details = Details::default();
        let (first, second): (Arc<ProbeStats>, Arc<ProbeStats>) = Default::default();
        details.watch(vec![(key(1), Arc::clone(&first))], soon(), NOW).expect("there is room");
        let token = first.detail().expect("it is watched");
        details.forget([key(1)].into_iter());
        details.watch(vec![(key(2), Arc::clone(&second))], soon(), NOW).expect("there is room");
        assert_ne!(second.detail(), Some(token));
        details.record(token, OutcomeKind::Success, 100, None, NOW);
        assert!(
            details.get(&key(2)).expect("it is watched").latency(OutcomeKind::Success, Window::Start, NOW).is_empty()
        );
    }

    #[test]
    fn all_of_them_for_a_day_take_what_limits_say() {
        let mut details = Details::default();
        let probes = probes(0..1);
        let stats = Arc::clone(&probes[0].1);
        details.watch(probes, Instant::from_secs(1_000_000), NOW).expect("there is room");
        let token = stats.detail().expect("it is watched");
        // One attempt a second for a day, anywhere in three octaves.
        for second in 0..86_400_u32 {
            let latency_us = 400 + second.wrapping_mul(2_654_435_761) % 2_800;
            details.record(
                token,
                OutcomeKind::Success,
                latency_us,
                Some(latency_us / 4),
                NOW + Duration::from_secs(second.into()),
            );
        }
        let size = details.size();
        assert!(size <= limits::DETAILED_PROBE_BYTES, "{size}");
        assert!(size >= limits::DETAILED_PROBE_BYTES / 2, "{size}: limits.rs says too much");
    }
}
