//! `probe-engine run`: the daemon.

use std::path::PathBuf;

use super::{CliError, Exit, Globals, logging};
use crate::api::socket;
use crate::config::{Config, RuntimeChoice, Settings};
use crate::engine;

/// What is said when nobody chose a runtime: nothing is started on a host by accident.
const RUNTIMES: &str = "--runtime is missing: say who starts and stops containers
  --runtime process  containers are processes of this host: started, probed, killed and restarted by the daemon.
                     Do not give it manifests that you would not run on this machine.
  --runtime none     nothing is started or killed: targets that others run are watched, verdicts and events are made.";

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
    /// The effective configuration. Flags that every subcommand takes may stand before `run` too.
    pub fn load(&self, globals: &Globals) -> Result<Config, CliError> {
        let mut flags = self.settings.clone();
        let unless_variable = |name: &str| std::env::var_os(name).is_none();
        if flags.socket.is_none() && unless_variable(socket::SOCKET_ENV) {
            flags.socket.clone_from(&globals.socket);
        }
        if flags.log_level.is_none() && unless_variable("PROBE_ENGINE_LOG_LEVEL") {
            flags.log_level.clone_from(&globals.log_level);
        }
        if flags.log_format.is_none() && unless_variable("PROBE_ENGINE_LOG_FORMAT") {
            flags.log_format = globals.log_format;
        }
        Config::load(&flags, self.config.as_deref()).map_err(|error| CliError::Usage(error.to_string()))
    }
}

/// Runs the daemon until a signal ends it.
pub fn run(args: &RunArgs, globals: &Globals) -> Result<Exit, CliError> {
    let config = args.load(globals)?;
    let runtime: RuntimeChoice = config.runtime.ok_or_else(|| CliError::usage(RUNTIMES))?;
    if config.manifests.is_empty() {
        return Err(CliError::usage("--manifests is missing: name a manifest file, or a directory to watch"));
    }
    if config.socket.is_none() {
        // Says what is missing.
        socket::default_path().map_err(|error| CliError::usage(error.to_string()))?;
    }
    logging::init(&config.log_level, config.log_format)?;
    engine::run(config, runtime).map_err(|error| CliError::Failed(error.to_string()))?;
    Ok(Exit::Success)
}
