//! `cargo xtask planted`: does the reference model catch bugs, and with `--shard`, does the simulation?
//!
//! Each file of `tests/data/planted-bugs` changes one place of the core, each of `tests/data/planted-shard-bugs` one of
//! the shard. In a copy of the checkout, each is planted alone; the copy must still compile, and `tests/tests/model.rs`
//! or `tests/tests/simulation.rs` must fail on it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail, ensure};

use crate::shell;

#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Only bugs whose file name contains this
    filter: Option<String>,
    /// Bugs of the shard, for the simulation (the copy builds the whole engine: minutes at first)
    #[arg(long)]
    shard: bool,
}

/// Bugs, and the test that has to catch them.
struct Suite {
    folder: &'static str,
    test: &'static [&'static str],
    /// Built so: what runs longer than it takes to build is optimised a little.
    opt_level: &'static str,
}

const MODEL: Suite =
    Suite { folder: "tests/data/planted-bugs", test: &["--no-default-features", "--test", "model"], opt_level: "1" };
const SIMULATION: Suite =
    Suite { folder: "tests/data/planted-shard-bugs", test: &["--test", "simulation"], opt_level: "0" };

/// One bug: in `file`, the one place that reads `find` becomes `replace`.
struct Bug {
    name: String,
    file: String,
    find: String,
    replace: String,
}

/// Fails when a bug survives, when one does not compile, or when the copy without bugs fails.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let suite = if args.shard { SIMULATION } else { MODEL };
    let bugs: Vec<Bug> = bugs(&suite)?
        .into_iter()
        .filter(|bug| args.filter.as_ref().is_none_or(|filter| bug.name.contains(filter)))
        .collect();
    ensure!(!bugs.is_empty(), "no planted bug of that name");
    let copy = copy_checkout()?;
    ensure!(passes(&copy, &suite)?, "the tests fail without any planted bug");
    let mut survived = Vec::new();
    for bug in &bugs {
        let path = copy.join(&bug.file);
        let original = fs::read_to_string(&path).with_context(|| format!("bug {}: {}", bug.name, bug.file))?;
        let places = original.matches(&bug.find).count();
        ensure!(places == 1, "bug {}: its text stands {places} times in {}, not once", bug.name, bug.file);
        fs::write(&path, original.replacen(&bug.find, &bug.replace, 1))?;
        let survives = passes(&copy, &suite).with_context(|| format!("bug {}", bug.name))?;
        fs::write(&path, original)?;
        eprintln!("planted {}: {}", bug.name, if survives { "SURVIVED" } else { "caught" });
        if survives {
            survived.push(bug.name.as_str());
        }
    }
    eprintln!("{} planted, {} caught", bugs.len(), bugs.len() - survived.len());
    if !survived.is_empty() {
        bail!("not caught: {}", survived.join(", "));
    }
    Ok(())
}

/// Builds the suite's tests (an error where that fails) and runs them.
fn passes(copy: &Path, suite: &Suite) -> anyhow::Result<bool> {
    let test = |extra: &[&str]| {
        let mut command = shell::cargo();
        command
            .current_dir(copy)
            .env("CARGO_TARGET_DIR", copy.join("target"))
            // Nobody reads a trace of theirs.
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .env("CARGO_PROFILE_DEV_OPT_LEVEL", suite.opt_level)
            .args(["test", "--quiet", "--package", "probe-tests"])
            .args(suite.test)
            .args(extra)
            .stdin(Stdio::null())
            .output()
    };
    let built = test(&["--no-run"])?;
    if !built.status.success() {
        bail!("does not compile:\n{}", String::from_utf8_lossy(&built.stderr));
    }
    Ok(test(&[])?.status.success())
}

/// The tracked files, in a folder of their own that keeps its build between runs.
fn copy_checkout() -> anyhow::Result<PathBuf> {
    let copy = shell::target().join("planted");
    for file in shell::tracked_files("planting")? {
        let (from, to) = (shell::root().join(&file), copy.join(&file));
        let text = fs::read(&from)?;
        // Unchanged files keep their time, so that cargo rebuilds only what differs.
        if fs::read(&to).is_ok_and(|old| old == text) {
            continue;
        }
        fs::create_dir_all(to.parent().expect("a file has a folder"))?;
        fs::write(&to, text)?;
    }
    Ok(copy)
}

fn bugs(suite: &Suite) -> anyhow::Result<Vec<Bug>> {
    let folder = shell::root().join(suite.folder);
    let mut paths: Vec<PathBuf> = fs::read_dir(&folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    paths.sort();
    paths.iter().map(|path| parse(path)).collect()
}

/// `file: PATH`, then comment lines, `--- find`, the text, `--- replace`, the text.
fn parse(path: &Path) -> anyhow::Result<Bug> {
    let text = fs::read_to_string(path)?;
    let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let malformed = || format!("{name}: want `file: PATH`, `--- find` and `--- replace`");
    let (head, rest) = text.split_once("--- find\n").with_context(malformed)?;
    let (find, replace) = rest.split_once("--- replace\n").with_context(malformed)?;
    let file = head.lines().find_map(|line| line.strip_prefix("file: ")).with_context(malformed)?;
    Ok(Bug {
        name: name.clone(),
        file: file.trim().to_owned(),
        find: find.trim_end_matches('\n').to_owned(),
        replace: replace.trim_end_matches('\n').to_owned(),
    })
}
