//! `probe-engine config show`: the effective configuration of `run`, and where each value comes from.

use clap::Subcommand;
use serde_json::{Value, json};

use super::output::{self, DataFormat};
use super::run::RunArgs;
use super::{CliError, Exit};

/// Arguments of `config`.
#[derive(Debug, clap::Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print what `run` with the same flags would use, as a config file, with the origin of each value
    Show(ShowArgs),
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    #[command(flatten)]
    run: RunArgs,
    /// How it is written, instead of a config file with comments
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<DataFormat>,
}

/// Prints the configuration.
pub fn run(args: &ConfigArgs) -> Result<Exit, CliError> {
    let ConfigCommand::Show(args) = &args.command;
    let config = args.run.load()?;
    if let Some(format) = args.output {
        let origins = config.origins.iter();
        let settings = origins.map(|(key, value, origin)| json!({ "key": key, "value": value, "origin": origin }));
        let settings: Vec<Value> = settings.collect();
        output::print_data(&json!({ "settings": settings }), format)?;
        return Ok(Exit::Success);
    }
    let mut text = String::new();
    for (key, value, origin) in &config.origins {
        // One line per key: JSON's flow style is YAML too.
        let value = match value {
            Value::String(plain) if is_plain(plain) => plain.clone(),
            other => other.to_string(),
        };
        text.push_str(&format!("{:<44} # {origin}\n", format!("{key}: {value}")));
    }
    if config.runtime.is_none() {
        text.push_str("# runtime: not chosen; `run` wants --runtime process or --runtime none\n");
    }
    output::print(&text)?;
    Ok(Exit::Success)
}

/// Text that YAML reads as the same string without quotes.
fn is_plain(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c))
        && !["true", "false", "yes", "no", "on", "off", "null"].contains(&text)
}
