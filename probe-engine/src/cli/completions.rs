//! `probe-engine completions SHELL`

use std::io::{self, Write};

use clap::CommandFactory;

use super::{Cli, CliError, Exit};

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// Whose script
    #[arg(value_name = "SHELL")]
    shell: clap_complete::Shell,
}

/// Prints the script.
pub fn run(args: &CompletionsArgs) -> Result<Exit, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "probe-engine", &mut script);
    io::stdout().write_all(&script)?;
    Ok(Exit::Success)
}
