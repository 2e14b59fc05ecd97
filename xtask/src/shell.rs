//! Running programs.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, bail};

/// Steps that a missing tool kept from running.
static SKIPPED: AtomicUsize = AtomicUsize::new(0);

/// Says that something did not run, and why; counted.
pub(crate) fn skipped(what: &str) {
    SKIPPED.fetch_add(1, Ordering::Relaxed);
    eprintln!("SKIPPED: {what}");
}

/// How often [`skipped`] was said.
pub(crate) fn skipped_count() -> usize {
    SKIPPED.load(Ordering::Relaxed)
}

/// The checkout's root.
pub(crate) fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().expect("xtask is a folder of the checkout").to_path_buf()
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// How the daemon and its load are built, as Cargo.toml has it.
#[derive(Clone, Copy)]
pub(crate) enum Profile {
    Release,
    /// Built faster, for who only wants to see that it works.
    Smoke,
}

/// Builds packages optimised, and gives the folder of their programs.
pub(crate) fn build(profile: Profile, packages: &[&str]) -> anyhow::Result<PathBuf> {
    let name = match profile {
        Profile::Release => "release",
        Profile::Smoke => "smoke",
    };
    run(cargo().args(["build", "--profile", name]).args(packages.iter().flat_map(|package| ["--package", package])))?;
    Ok(target().join(name))
}

/// Runs to the end; an error names the command.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = status(command)?;
    if !status.success() {
        bail!("{} failed: {status}", shown(command));
    }
    Ok(())
}

/// Runs to the end and gives its exit status.
pub(crate) fn status(command: &mut Command) -> anyhow::Result<ExitStatus> {
    eprintln!("+ {}", shown(command));
    command.status().with_context(|| format!("cannot start {}", shown(command)))
}

/// Standard output of a command, or `None` where it cannot be started or fails.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Files of the checkout that git tracks or would track, sorted, each once. `who` is named when git does not answer.
pub(crate) fn tracked_files(who: &str) -> anyhow::Result<Vec<String>> {
    let mut git = Command::new("git");
    git.current_dir(root()).args(["ls-files", "--cached", "--others", "--exclude-standard"]);
    let listed = output(&mut git).with_context(|| format!("git ls-files failed: {who} wants a git checkout"))?;
    let mut files: Vec<String> = listed.lines().filter(|file| root().join(file).is_file()).map(String::from).collect();
    files.sort();
    files.dedup();
    Ok(files)
}

/// Whether a program can be started at all.
pub(crate) fn has(program: &str, argument: &str) -> bool {
    output(Command::new(program).arg(argument)).is_some()
}

fn shown(command: &Command) -> String {
    let mut text = Path::new(command.get_program())
        .file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}
