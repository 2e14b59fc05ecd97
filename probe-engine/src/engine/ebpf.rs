//! The kernel program and its threads, as the engine starts them before the shards and ends them after.

use std::sync::Arc;

use tracing::{Level, info};

use super::EngineError;
use crate::clock;
use crate::config::Config;
use crate::consumer::events::EventSender;
use crate::consumer::metrics::EbpfFacts;
use crate::ebpf::feature::Unavailable;
use crate::ebpf::load::{self, Loaded};
use crate::ebpf::passive::Passive;
use crate::ebpf::stats::EbpfStats;
use crate::ebpf::{EbpfChoice, PassiveSettings, Why};
use crate::shard::inbox::ShardSender;

/// What there is without the program.
const WITHOUT: &str = "every tcpSocket attempt makes a connection";

/// See the module.
pub(super) struct Ebpf {
    /// What eBPF does here, or why it does nothing: a sentence.
    pub(super) told: String,
    /// For the shards.
    pub(super) passive: Result<Passive, Why>,
    /// Of the loaded program.
    pub(super) facts: Option<EbpfFacts>,
    threads: Option<Threads>,
}

impl Ebpf {
    /// Loads the program and starts its threads, as far as the operator wants and the machine allows.
    ///
    /// # Errors
    /// With `--ebpf require`: why it cannot be.
    pub(super) fn start(
        config: &Config,
        seed: u64,
        events: &EventSender,
        shards: &[ShardSender],
    ) -> Result<Self, EngineError> {
        if config.ebpf == EbpfChoice::Off {
            return Ok(Self::without(&Unavailable::Off, Why::Off));
        }
        let started = Self::load(&config.passive, seed, events, shards);
        match started {
            Err(why) if config.ebpf == EbpfChoice::Auto => {
                info!(%why, "the kernel program is not loaded: {WITHOUT}");
                Ok(Self::without(&why, Why::Unavailable))
            }
            other => other.map_err(EngineError::Ebpf),
        }
    }

    /// The shards have ended.
    pub(super) fn end(self) {
        todo!()
    }

    fn without(why: &Unavailable, answer: Why) -> Self {
        Self { told: format!("not loaded: {why}; {WITHOUT}"), passive: Err(answer), facts: None, threads: None }
    }
}
