//! Arguments, logging, dispatch, exit code.

use std::process::ExitCode;

use clap::Parser;
use probe_engine::cli::{self, Cli, Command, guardian, logging};

fn main() -> ExitCode {
    // The guardian must work whatever the state of the rest: before arguments, logging and threads.
    if std::env::args_os().nth(1).is_some_and(|first| first == guardian::NAME) {
        return guardian::run();
    }
    let cli = Cli::parse();
    // The daemon's logging is a setting, which its config file may hold.
    if !matches!(cli.command, Command::Run(_)) {
        let level = cli.globals.log_level.as_deref().unwrap_or(logging::LEVEL);
        if let Err(error) = logging::init(level, cli.globals.log_format.unwrap_or_default()) {
            eprintln!("error: {error}");
            return error.exit().into();
        }
    }
    cli::dispatch(&cli)
}
