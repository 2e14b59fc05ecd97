//! The targets that are closed and opened again while a scenario measures: which, when, and how.

use std::time::Duration;

use anyhow::{Context, bail};
use probe_core::schedule::mix;

use crate::handler::Handler;
use crate::load::{Load, TIMEOUT};
use crate::targets::{Done, Order, Targets};

/// One of so many targets of each handler is flipped, at least one.
const FLIPPED_ONE_OF: usize = 100;

/// Where it is asked for, one of so many flipped targets drops SYNs instead of refusing connects.
const DROPPED_ONE_OF: usize = 10;

/// A target is closed for at least this many periods, and the timeout, so that every probe can notice.
const CLOSED_PERIODS_MIN: u32 = 2;

/// splitmix64
pub struct Random(pub u64);

impl Random {
    /// Evenly from 0 to below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0) % end
    }

    /// Evenly from 0 to below `end`.
    pub fn within(&mut self, end: Duration) -> Duration {
        Duration::from_nanos(self.below(u64::try_from(end.as_nanos()).unwrap_or(u64::MAX).max(1)))
    }
}

/// One target's closing and opening, planned and done.
#[derive(Clone, Debug)]
pub struct Flip {
    /// Its pod.
    pub pod: usize,
    /// [`Order::Close`] or [`Order::Drop`].
    pub manner: Order,
    /// Attempts fail at their deadline, not at once: SYNs are dropped, or the prober tries again (gRPC).
    pub fails_late: bool,
    /// When it was closed.
    pub closed: Option<Done>,
    /// When it was open again.
    pub opened: Option<Done>,
}

/// All flips of a window, and what is to be done next.
pub struct Flips {
    flips: Vec<Flip>,
    /// What is to be done, the last first: so long after the window's start, to which flip, whether it closes.
    steps: Vec<(Duration, usize, bool)>,
}

impl Flips {
    /// One of `FLIPPED_ONE_OF` targets of each handler, at random times such that everything about them can be noticed
    /// before the window ends.
    ///
    /// An error where the window is too short for that.
    pub fn plan(
        load: &Load,
        targets: &Targets,
        window: Duration,
        period: Duration,
        with_dropping: bool,
        seed: u64,
    ) -> anyhow::Result<Flips> {
        let closed_min = period * CLOSED_PERIODS_MIN + TIMEOUT;
        let closed_more = period / 2;
        let noticed = period + TIMEOUT;
        let Some(latest) = window.checked_sub(closed_min + closed_more + noticed) else {
            let least = closed_min + closed_more + noticed;
            bail!("duration {window:?}: at least {least:?}, so that closed and opened targets can be noticed");
        };
        let mut random = Random(seed);
        let mut plan = Flips { flips: Vec::new(), steps: Vec::new() };
        for handler in load.probes_by_handler().into_keys() {
            let all = load.pods.iter().filter(|target| target.handler == handler).count();
            let mut own: Vec<usize> = (0..load.pods.len())
                .filter(|pod| load.pods[*pod].handler == handler && targets.has_own(*pod))
                .collect();
            for place in 0..all.div_ceil(FLIPPED_ONE_OF).min(own.len()) {
                let pod = own.swap_remove(random.below(own.len() as u64) as usize);
                let drops = with_dropping && handler == Handler::Tcp && place % DROPPED_ONE_OF == 0;
                let manner = if drops { Order::Drop } else { Order::Close };
                let closes = random.within(latest);
                let opens = closes + closed_min + random.within(closed_more);
                plan.steps.push((closes, plan.flips.len(), true));
                plan.steps.push((opens, plan.flips.len(), false));
                plan.flips.push(Flip {
                    pod,
                    manner,
                    fails_late: drops || handler == Handler::Grpc,
                    closed: None,
                    opened: None,
                });
            }
        }
        plan.steps.sort_unstable_by(|a, b| b.cmp(a));
        Ok(plan)
    }

    /// When the next step is due, from the window's start.
    #[must_use]
    pub fn next_at(&self) -> Option<Duration> {
        self.steps.last().map(|(at, _, _)| *at)
    }

    /// Makes the next step.
    pub fn step(&mut self, targets: &mut Targets) -> anyhow::Result<()> {
        let Some((_, index, closes)) = self.steps.pop() else { return Ok(()) };
        let flip = self.flips.get_mut(index).context("a step of no flip")?;
        if closes {
            flip.closed = Some(targets.order(flip.manner, flip.pod)?);
        } else {
            flip.opened = Some(targets.order(Order::Open, flip.pod)?);
        }
        Ok(())
    }

    /// Flips whose targets drop SYNs: each makes one connection of its own.
    #[must_use]
    pub fn dropping(&self) -> usize {
        self.flips.iter().filter(|flip| flip.manner == Order::Drop).count()
    }

    /// What was done.
    #[must_use]
    pub fn done(&self) -> &[Flip] {
        &self.flips
    }
}
