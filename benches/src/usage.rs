//! What the operating system says this process has cost. Floors and baselines hold no engine code, so they ask themselves.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};

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

/// Resident memory of a process (`self` or its id).
pub fn rss_bytes(process: &str) -> anyhow::Result<u64> {
    let path = format!("/proc/{process}/status");
    let status = fs::read_to_string(&path).with_context(|| path.clone())?;
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(rss.trim().trim_end_matches("kB").trim().parse::<u64>()? * 1024)
}

/// Raises the limit on descriptors as far as the system allows; returns it.
pub fn raise_descriptors() -> anyhow::Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("getrlimit(RLIMIT_NOFILE)")?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("setrlimit(RLIMIT_NOFILE)")?;
    Ok(hard)
}

/// A value of `Tcp:` in /proc/net/snmp, which is of this process's network namespace: `ActiveOpens` ...
pub fn tcp_counter(name: &str) -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/self/net/snmp").context("/proc/self/net/snmp")?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = lines.next().zip(lines.next()).context("no Tcp in /proc/self/net/snmp")?;
    let place = names.split(' ').position(|other| other == name).with_context(|| format!("no {name}"))?;
    Ok(values.split(' ').nth(place).context("a short line")?.parse()?)
}

/// CPU of all threads of another process, in the scheduler's nanoseconds.
pub fn cpu_of(pid: u32) -> anyhow::Result<Duration> {
    let mut ns = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid}"))? {
        let path = thread?.path().join("schedstat");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        ns += text.split(' ').next().context("an empty schedstat")?.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(ns))
}
