//! What the scenarios do. Each runs in a process of its own that is in a network namespace of its own already, and gives the
//! JSON of its report; those that measure a steady window share [`crate::report::Report`].

use anyhow::bail;
use serde_json::Value;

use crate::options::Options;
use crate::scenario::Scenario;

pub mod churn;
pub mod cold_start;
pub mod life;
mod loops;
pub mod memory;
pub mod starved;
pub mod steady;
pub mod storm;

/// Runs one; `short`: with the numbers of a run of all. An error is what kept it from running; what it found to be wrong is
/// in the report's `failed`.
pub fn run(scenario: Scenario, options: &Options, short: bool) -> anyhow::Result<Value> {
    match scenario {
        Scenario::TcpPassive
        | Scenario::TcpActive
        | Scenario::Http
        | Scenario::Https
        | Scenario::Grpc
        | Scenario::Exec
        | Scenario::Mixed
        | Scenario::Million => Ok(steady::run(scenario, options, short)?.json()),
        Scenario::Memory => Ok(memory::run(options, short)?),
        Scenario::Churn => churn::run(options, short),
        Scenario::ColdStart => cold_start::run(options, short),
        Scenario::Storm | Scenario::StormWatched => storm::run(scenario, options, short),
        Scenario::Starved => starved::run(options, short),
        Scenario::Passive | Scenario::Ebpf => bail!("{}: a command of its own", scenario.name()),
    }
}
