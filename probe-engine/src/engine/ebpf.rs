//! The kernel program and its threads, as the engine starts them before the shards and ends them after.

use std::sync::Arc;

use tracing::{Level, info};

use crate::config::Config;
use crate::consumer::metrics::EbpfFacts;
use crate::ebpf::feature::Unavailable;
use crate::ebpf::passive::Passive;
use crate::ebpf::stats::EbpfStats;
use crate::ebpf::thread::{self, EbpfThreads, Outputs, ThreadError};
use crate::ebpf::{EbpfChoice, Why, load};

/// What there is without the program.
const WITHOUT: &str = "every tcpSocket attempt makes a connection";

/// Why there are no passive answers.
#[derive(Debug, thiserror::Error)]
pub enum EbpfError {
    /// The program is not loaded.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// It was, and nobody could watch it.
    #[error(transparent)]
    Threads(#[from] ThreadError),
}

/// See the module. Dropped, the threads end and the program is detached: after the shards, which read what it writes.
pub(super) struct Ebpf {
    /// What eBPF does here, or why it does nothing: a sentence.
    pub(super) told: String,
    /// For the shards.
    pub(super) passive: Result<Passive, Why>,
    /// Of the loaded program.
    pub(super) facts: Option<EbpfFacts>,
    _threads: Option<EbpfThreads>,
}

impl Ebpf {
    /// Loads the program and starts its threads, as far as the operator wants it and the machine allows it. `seed` spreads
    /// the ends of passive answers that are cut short.
    ///
    /// # Errors
    /// With `--ebpf require`: why there are no passive answers.
    pub(super) fn start(config: &Config, seed: u64, outputs: Outputs) -> Result<Self, EbpfError> {
        if config.ebpf == EbpfChoice::Off {
            return Ok(Self::without(&Unavailable::Off.into(), Why::Off));
        }
        match Self::load(config, seed, outputs) {
            Err(why) if config.ebpf == EbpfChoice::Auto => {
                info!(%why, "no passive answers: {WITHOUT}");
                Ok(Self::without(&why, Why::Unavailable))
            }
            started => started,
        }
    }

    fn load(config: &Config, seed: u64, outputs: Outputs) -> Result<Self, EbpfError> {
        // The program's diagnostics cost a map reserve per event: they are compiled out of it at load otherwise.
        let log = tracing::enabled!(target: "probe_engine::ebpf", Level::TRACE);
        let loaded = load::load(log)?;
        let (hook, sha256) = (loaded.hook.as_str(), loaded.sha256.clone());
        let stats = Arc::new(EbpfStats::default());
        let threads = thread::spawn(loaded, config.passive.clone(), seed, outputs, Arc::clone(&stats))?;
        info!(hook, sha256, passive = config.passive.passive, "kernel program loaded");
        Ok(Self {
            told: format!("loaded: {hook}, sha256 {sha256}"),
            passive: Ok(threads.passive().clone()),
            facts: Some(EbpfFacts { hook, sha256: sha256.into(), stats }),
            _threads: Some(threads),
        })
    }

    fn without(why: &EbpfError, answer: Why) -> Self {
        Self { told: format!("not loaded: {why}; {WITHOUT}"), passive: Err(answer), facts: None, _threads: None }
    }
}
