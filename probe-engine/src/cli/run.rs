//! `probe-engine run`: the daemon.

use std::ffi::OsStr;
use std::path::PathBuf;

use super::{CliError, Exit, logging};
use crate::api::socket;
use crate::config::{Config, RuntimeChoice, Settings};
use crate::engine::{self, Engine};
use crate::malloc;

/// What is said when nobody chose a runtime: nothing is started on a host by accident.
const RUNTIMES: &str = "--runtime is missing: say who starts and stops containers
  --runtime process  containers are processes of this host: started, probed, killed and restarted by the daemon.
                     Do not give it manifests that you would not run on this machine.
  --runtime none     nothing is started or killed: targets that others run are watched, verdicts and events are made.
  --runtime external a client of the control API (a kubelet) runs the containers: it says which pods are wanted and how they
                     are, and hears of verdicts.";

/// Arguments of `run` and of `config show`.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// A YAML file with any of these flags as keys (`metricsListen: 127.0.0.1:9750`)
    #[arg(long, env = "PROBE_ENGINE_CONFIG", hide_env_values = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// One flag per setting.
    #[command(flatten)]
    pub settings: Settings,
}

impl RunArgs {
    /// The effective configuration.
    pub fn load(&self) -> Result<Config, CliError> {
        let mut flags = self.settings.clone();
        // Flags of every subcommand take their variables in too, which have a layer and a name of their own here.
        let is_variable = |name: &str, value: &OsStr| std::env::var_os(name).is_some_and(|variable| variable == value);
        flags.socket.take_if(|socket| is_variable(socket::SOCKET_ENV, socket.as_os_str()));
        flags.log_level.take_if(|level| is_variable("PROBE_ENGINE_LOG_LEVEL", level.as_ref()));
        flags.log_format.take_if(|format| is_variable("PROBE_ENGINE_LOG_FORMAT", format.as_str().as_ref()));
        Config::load(&flags, self.config.as_deref()).map_err(|error| CliError::Usage(error.to_string()))
    }
}

/// Runs the daemon until a signal ends it; `started` is shown it once it runs.
pub fn run(args: &RunArgs, started: impl FnOnce(&Engine)) -> Result<Exit, CliError> {
    let config = args.load()?;
    let runtime: RuntimeChoice = config.runtime.ok_or_else(|| CliError::usage(RUNTIMES))?;
    // An embedder says which pods are wanted.
    if config.manifests.is_empty() && runtime != RuntimeChoice::External {
        return Err(CliError::usage("--manifests is missing: name a manifest file, or a directory to watch"));
    }
    if config.socket.is_none() {
        // Says what is missing.
        socket::default_path().map_err(|error| CliError::usage(error.to_string()))?;
    }
    logging::init(&config.log_level, config.log_format)?;
    if !malloc::map_large_tables() {
        tracing::warn!("malloc took no threshold: large tables may leave holes, and resident memory be larger");
    }
    engine::run(config, runtime, started).map_err(|error| CliError::Failed(error.to_string()))?;
    Ok(Exit::Success)
}
