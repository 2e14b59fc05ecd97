//! Which pods come and go when, and the thread that writes and removes their files.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::listeners::wall_ns;
use crate::load::{Load, PROBES_PER_POD};
use crate::scenario::Scenario;
use crate::scenarios::life::sleep_until;
use crate::window::now;

/// Pods of one file.
pub(super) const FILE_PODS: usize = 10;

/// A listener is given to another pod this much later than its last one went.
const LISTENER_REST: Duration = Duration::from_secs(2);

/// How fast pods come and go, and which.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) files_per_s: usize,
    /// Files that are there at once.
    pub(super) alive: usize,
    /// Files that come in all.
    pub(super) files: usize,
    /// Pods that stay: the first ones of the load.
    steady_pods: usize,
    /// Pods that have listeners of their own at once.
    listeners: usize,
    pub(super) life: Duration,
    /// Of each probe in that life: at once, and after every period.
    pub(super) life_attempts: usize,
}

impl Pace {
    /// As long as it takes until the first pods go, and then for `duration`.
    pub(super) fn new(
        pods_per_s: usize,
        life_half_periods: usize,
        steady_pods: usize,
        period: Duration,
        duration: Duration,
    ) -> Pace {
        let files_per_s = pods_per_s / FILE_PODS;
        let life = period * life_half_periods as u32 / 2;
        let files_in = |time: Duration| (files_per_s as f64 * time.as_secs_f64()).ceil() as usize;
        let alive = files_in(life);
        let listeners = files_in(life + LISTENER_REST) * FILE_PODS;
        let life_attempts = life_half_periods / 2 + 1;
        Pace { files_per_s, alive, files: alive + files_in(duration), steady_pods, listeners, life, life_attempts }
    }

    /// Those that listen: pods that stay, and as many others as are there at once; and all pods, each with the listener of
    /// one that has gone.
    pub(super) fn loads(self, probes: usize, period_s: u64, folder: &Path) -> (Load, Load) {
        let plan = || {
            let all = probes.next_multiple_of(PROBES_PER_POD) + self.listeners * PROBES_PER_POD;
            Load::plan(Scenario::Churn.mix(), all, period_s, folder)
        };
        let mut load = plan();
        for pod in self.listeners..self.files * FILE_PODS {
            let place = self.steady_pods + pod % self.listeners;
            load.pods.push(load.pods[place].clone());
        }
        (plan(), load)
    }

    fn at(self, file: usize) -> Duration {
        Duration::from_secs_f64(file as f64 / self.files_per_s as f64)
    }

    fn pods(self, file: usize) -> std::ops::Range<usize> {
        let first = self.steady_pods + file * FILE_PODS;
        first..first + FILE_PODS
    }

    pub(super) fn file_of(self, pod: usize) -> Option<usize> {
        Some(pod.checked_sub(self.steady_pods)? / FILE_PODS)
    }

    /// Half of the files keep their name when they get other pods; the others are removed, and new ones made.
    fn name(self, file: usize) -> String {
        let (place, round) = (file % self.alive, file / self.alive);
        if place.is_multiple_of(2) {
            format!("churn-{place:04}.json")
        } else {
            format!("churn-{place:04}-{round}.json")
        }
    }
}

/// A thread that writes and removes the files.
pub(super) struct Churner(JoinHandle<anyhow::Result<Churned>>);

/// What it did.
pub(super) struct Churned {
    /// When each file came, just before its rename; CLOCK_REALTIME, nanoseconds.
    pub(super) came_ns: Vec<u128>,
    /// The most that it was behind its own schedule.
    pub(super) behind_max: Duration,
}

impl Churner {
    pub(super) fn start(pace: Pace, load: Load, manifests: &Path) -> Churner {
        let manifests = manifests.to_owned();
        Churner(std::thread::spawn(move || churn(pace, &load, &manifests)))
    }

    pub(super) fn join(self) -> anyhow::Result<Churned> {
        self.0.join().map_err(|_| anyhow::anyhow!("the churn's thread panicked"))?
    }
}

fn churn(pace: Pace, load: &Load, manifests: &Path) -> anyhow::Result<Churned> {
    let start = now();
    let mut churned = Churned { came_ns: Vec::with_capacity(pace.files), behind_max: Duration::ZERO };
    for step in 0..pace.files + pace.alive {
        let due = start + pace.at(step);
        sleep_until(due);
        churned.behind_max = churned.behind_max.max(now().saturating_duration_since(due));
        let goes = step.checked_sub(pace.alive).map(|gone| pace.name(gone));
        let comes = (step < pace.files).then(|| pace.name(step));
        if let Some(goes) = goes.filter(|goes| comes.as_ref() != Some(goes)) {
            fs::remove_file(manifests.join(goes))?;
        }
        if let Some(comes) = comes {
            let path = manifests.join(comes);
            let part = write_part(load, pace.pods(step), &path)?;
            churned.came_ns.push(wall_ns());
            fs::rename(part, path)?;
        }
    }
    Ok(churned)
}

fn write_part(load: &Load, pods: std::ops::Range<usize>, path: &Path) -> anyhow::Result<PathBuf> {
    let part = path.with_extension("part");
    let mut text = Vec::new();
    for pod in pods {
        writeln!(text, "---\n{}", load.manifest(pod))?;
    }
    fs::write(&part, text)?;
    Ok(part)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_file_goes_a_life_after_it_came() {
        let pace = Pace::new(1_000, 11, 6_250, Duration::from_secs(1), Duration::from_secs(20));
        assert_eq!((pace.alive, pace.files), (550, 2_550));
        let mut there = BTreeSet::new();
        for step in 0..pace.files + pace.alive {
            let goes = step.checked_sub(pace.alive).map(|gone| pace.name(gone));
            goes.iter().for_each(|goes| assert!(there.remove(goes), "{goes}"));
            if step < pace.files {
                assert!(there.insert(pace.name(step)));
            }
        }
        assert!(there.is_empty());
        assert_eq!(pace.file_of(pace.pods(2_549).end - 1), Some(2_549));
    }
}
