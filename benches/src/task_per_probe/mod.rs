//! The baseline that everybody writes first: a tokio task and an interval per probe, a new connection per attempt.

mod attempt;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use serde_json::json;
use tokio::runtime;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use crate::aim::Aims;
use crate::kernel;
use crate::usage::{self, Cpu, now};
use attempt::Prober;

/// As the kubelet's default.
const TIMEOUT: Duration = Duration::from_secs(1);

/// The command line.
#[derive(clap::Args)]
pub struct Args {
    /// One probe each
    #[command(flatten)]
    aims: Aims,
    /// Period of every probe
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    period_ms: u64,
    /// Measured so long, after a warm-up of one period
    #[arg(long)]
    seconds: u64,
}

#[derive(Default)]
struct Counts {
    ended: AtomicU64,
    failed: AtomicU64,
}

/// Runs it and prints its line.
pub fn run(args: &Args) -> anyhow::Result<()> {
    kernel::raise_descriptor_limit()?;
    let aims = args.aims.read()?;
    let (probes, rss_before) = (aims.len(), kernel::rss_bytes("self")?);
    let probers = aims.iter().map(|aim| Prober::new(args.aims.handler, aim)).collect::<Result<Vec<_>, _>>()?;
    let runtime = runtime::Builder::new_multi_thread().enable_all().build().context("no tokio runtime")?;
    let counts = Arc::new(Counts::default());
    let period = Duration::from_millis(args.period_ms);
    runtime.block_on(async {
        let begun = Instant::from_std(now());
        for (index, prober) in probers.into_iter().enumerate() {
            let first = begun + period.mul_f64(index as f64 / probes as f64);
            tokio::spawn(probe(prober, first, period, Arc::clone(&counts)));
        }
        tokio::time::sleep_until(begun + period).await;
        let (since, cpu) = (now(), Cpu::read()?);
        let (ended, failed) = (counts.ended.load(Ordering::Relaxed), counts.failed.load(Ordering::Relaxed));
        tokio::time::sleep(Duration::from_secs(args.seconds)).await;
        let (seconds, after) = (since.elapsed().as_secs_f64(), Cpu::read()?);
        let attempts = counts.ended.load(Ordering::Relaxed) - ended;
        let rss = kernel::rss_bytes("self")?;
        let line = json!({
            "handler": args.aims.handler.as_str(),
            "probes": probes,
            "attempts": attempts,
            "failures": counts.failed.load(Ordering::Relaxed) - failed,
            "seconds": seconds,
            "cpu_us_per_attempt": usage::per_attempt_us(after.own - cpu.own, attempts),
            "children_cpu_us_per_attempt": usage::per_attempt_us(after.children - cpu.children, attempts),
            "rss_bytes": rss,
            "rss_bytes_per_probe": rss.saturating_sub(rss_before) / probes as u64,
        });
        println!("{line}");
        anyhow::Ok(())
    })?;
    runtime.shutdown_background();
    // Until here, so that no task was given its memory.
    drop(aims);
    Ok(())
}

/// One probe, for as long as the process runs.
async fn probe(prober: Prober, first: Instant, period: Duration, counts: Arc<Counts>) {
    let mut ticks = interval_at(first, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let succeeded = matches!(timeout(TIMEOUT, prober.attempt()).await, Ok(Ok(true)));
        counts.ended.fetch_add(1, Ordering::Relaxed);
        counts.failed.fetch_add(u64::from(!succeeded), Ordering::Relaxed);
    }
}
