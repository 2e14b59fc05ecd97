//! What a floor or a baseline has cost: its own process, by getrusage(2). None holds engine code, its clock included.

use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::resource::{UsageWho, getrusage};

/// The time, where the engine's clock is not to be used.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "a floor or a baseline holds no engine code, its clock included")]
pub fn now() -> Instant {
    Instant::now()
}

/// CPU at one moment, user and system, since the process began.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    /// All threads of this process, those of io_uring's included.
    pub own: Duration,
    /// Children that have been waited for.
    pub children: Duration,
}

impl Cpu {
    /// Now.
    pub fn read() -> anyhow::Result<Cpu> {
        let of = |who| -> anyhow::Result<Duration> {
            let usage = getrusage(who).context("getrusage")?;
            let micros =
                [usage.user_time(), usage.system_time()].map(|time| time.tv_sec() * 1_000_000 + time.tv_usec());
            Ok(Duration::from_micros(u64::try_from(micros[0] + micros[1])?))
        };
        Ok(Cpu { own: of(UsageWho::RUSAGE_SELF)?, children: of(UsageWho::RUSAGE_CHILDREN)? })
    }
}

/// Microseconds of `cpu` per attempt; 0 where none was made.
#[must_use]
pub fn per_attempt_us(cpu: Duration, attempts: u64) -> f64 {
    if attempts == 0 { 0.0 } else { cpu.as_secs_f64() * 1e6 / attempts as f64 }
}
