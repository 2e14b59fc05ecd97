//! Logs go to standard error, as lines for people or as JSON.

use tracing_subscriber::EnvFilter;

use super::CliError;

/// `--log-format`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line per message.
    #[default]
    Text,
    /// One JSON object per message.
    Json,
}

impl LogFormat {
    /// As `--log-format` takes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        }
    }
}

/// The level of every command but the daemon where none is asked for: only what matters.
pub const LEVEL: &str = "warn";

/// Starts logging. To be called once; `level` is a level or tracing's directives.
pub fn init(level: &str, format: LogFormat) -> Result<(), CliError> {
    let filter = EnvFilter::try_new(level).map_err(|error| {
        CliError::usage(format!(
            "--log-level {level:?}: {error}; allowed are error, warn, info, debug, trace, or directives such as probe_engine::shard=debug"
        ))
    })?;
    // What cannot be written is lost: tracing's own word on it goes to standard error too, and panics when that is gone.
    let subscriber =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    let started = match format {
        LogFormat::Text => subscriber.with_ansi(false).with_target(false).try_init(),
        LogFormat::Json => subscriber.json().try_init(),
    };
    started.map_err(|error| CliError::Failed(format!("cannot start logging: {error}")))
}
