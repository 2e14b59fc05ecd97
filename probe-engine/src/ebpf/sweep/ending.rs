//! How path changes end leases: at once, or cut and spread.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use probe_core::schedule::mix;
use probe_core::time::Instant;

use crate::ebpf::answer::Why;
use crate::ebpf::stats::EbpfStats;
use crate::ebpf::target::Target;

/// See the module.
#[derive(Debug)]
pub(super) struct Ending {
    path_recheck_max: Duration,
    seed: u64,
    stats: Arc<EbpfStats>,
}

impl Ending {
    pub(super) fn new(path_recheck_max: Duration, seed: u64, stats: Arc<EbpfStats>) -> Self {
        Self { path_recheck_max, seed, stats }
    }

    /// Ends them now.
    pub(super) fn void(&self, targets: impl Iterator<Item = Arc<Target>>) {
        let ended = targets.filter(|target| target.void(Why::PathChanged)).count();
        self.stats.path_voids.fetch_add(ended as u64, Relaxed);
    }

    /// Ends each within `path_recheck_max`. One that ends within it anyway stays as it is, so that a change every second
    /// does not end passive answers; still the target hears of the cut, since a grant may be on its way whose connect was
    /// before the change.
    pub(super) fn cut(&self, targets: impl Iterator<Item = Arc<Target>>, now: Instant) {
        let latest = now + self.path_recheck_max;
        let cut = targets.filter(|target| {
            let soon = target.lease_until().is_some_and(|until| until <= latest);
            target.cut(Why::PathRechecked, if soon { latest } else { now + self.part(target.id) })
        });
        self.stats.path_cuts.fetch_add(cut.count() as u64, Relaxed);
    }

    /// A part of `path_recheck_max` that depends on seed and target alone.
    fn part(&self, id: u64) -> Duration {
        let hash = mix(self.seed ^ mix(id));
        self.path_recheck_max.mul_f64((hash >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_cut_leases_are_spread_over_the_whole_time() {
        let ending = Ending::new(Duration::from_secs(5), 7, Arc::new(EbpfStats::default()));
        let mut per_second = [0; 5];
        for id in 0..10_000 {
            let part = ending.part(id);
            assert!(part < Duration::from_secs(5));
            per_second[part.as_secs() as usize] += 1;
        }
        assert!(per_second.iter().all(|count| (1_800..2_200).contains(count)), "{per_second:?}");
        assert_ne!(
            ending.part(1),
            Ending::new(Duration::from_secs(5), 8, Arc::new(EbpfStats::default())).part(1),
            "it depends on the seed",
        );
    }
}
