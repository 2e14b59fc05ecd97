//! `probe-engine man [--dir DIR]`

use std::io::{self, Write};
use std::path::PathBuf;

use clap::CommandFactory;

use super::{Cli, CliError, Exit};

/// Arguments of `man`.
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// Write a page for the program and for each subcommand into this directory
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Prints the page of the program, or writes all pages.
pub fn run(args: &ManArgs) -> Result<Exit, CliError> {
    let command = Cli::command();
    let Some(dir) = &args.dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        io::stdout().write_all(&page)?;
        return Ok(Exit::Success);
    };
    std::fs::create_dir_all(dir)
        .and_then(|()| clap_mangen::generate_to(command, dir))
        .map_err(|error| CliError::Failed(format!("cannot write manual pages to {}: {error}", dir.display())))?;
    Ok(Exit::Success)
}
