//! `cargo xtask ebpf`: the kernel programs, from their source to the object that `cargo build` embeds.
//!
//! The object is a function of the sources, Cargo.lock and the versions in `prebuilt/TOOLCHAIN`: no path and no time is
//! in it, so that whoever has the same tools gets the same bytes.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

use crate::shell;

mod object;
mod toolchain;

use toolchain::Toolchain;

/// What `probe_ebpf::OBJECT` embeds, and what made it.
const OBJECT: &str = "probe-ebpf/prebuilt/probe-ebpf.o";
const TOOLCHAIN: &str = "probe-ebpf/prebuilt/TOOLCHAIN";

/// Names of crates that are compiled into the object start with one of these.
const CRATES: [&str; 2] = ["aya-ebpf", "aya-log-"];

#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Build beside the committed object and compare; without a toolchain, skip
    #[arg(long)]
    pub(crate) check: bool,
    /// Install what is missing: Debian packages or a rustup toolchain, and bpf-linker
    #[arg(long)]
    pub(crate) install: bool,
}

/// Builds and writes the object, or compares with `--check`.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let mut found = Toolchain::find();
    if found.is_err() && args.install {
        match toolchain::install() {
            // CI on a machine without a network must still be able to run.
            Err(error) if args.check => eprintln!("cannot install: {error:#}"),
            installed => installed?,
        }
        found = Toolchain::find();
    }
    let toolchain = match found {
        Ok(toolchain) => toolchain,
        Err(missing) if args.check => {
            shell::skipped(&format!("the kernel programs are not rebuilt: {missing}; {}", toolchain::how_to_install()));
            return Ok(());
        }
        Err(missing) => bail!("{missing}; {}", toolchain::how_to_install()),
    };
    let object = build(&toolchain)?;
    let record = record(&toolchain, &object)?;
    if args.check {
        return check(&object, &record);
    }
    fs::write(shell::root().join(OBJECT), &object).with_context(|| format!("cannot write {OBJECT}"))?;
    fs::write(shell::root().join(TOOLCHAIN), &record).with_context(|| format!("cannot write {TOOLCHAIN}"))?;
    eprintln!("{OBJECT}: {} bytes, sha256 {}", object.len(), sha256(&object));
    Ok(())
}

fn build(toolchain: &Toolchain) -> anyhow::Result<Vec<u8>> {
    let folder = shell::target().join("ebpf");
    let home = toolchain::cargo_home().context("neither CARGO_HOME nor a home directory")?;
    let remap = |from: PathBuf, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    let flags = [remap(home, "cargo"), remap(shell::root(), ".")];
    let mut cargo = toolchain.cargo_build(&flags);
    cargo.args(["--locked", "--package", "probe-ebpf", "--bin", "probe-ebpf", "--features", "programs"]);
    cargo.args(["--profile", "ebpf", "--target", toolchain::TARGET, "--target-dir"]).arg(&folder);
    shell::run(&mut cargo)?;
    let linked = folder.join(toolchain::TARGET).join("ebpf/probe-ebpf");
    fs::read(&linked).with_context(|| format!("cannot read {}", linked.display()))
}

/// The text of `TOOLCHAIN`: a name and a value in every line.
fn record(toolchain: &Toolchain, object: &[u8]) -> anyhow::Result<String> {
    let mut lines = vec![("sha256".to_owned(), sha256(object))];
    lines.extend(toolchain.versions()?);
    lines.extend(crates()?);
    let text: String = lines.iter().map(|(name, value)| format!("{name} {value}\n")).collect();
    Ok(format!("# What made probe-ebpf.o. Written by `cargo xtask ebpf`.\n{text}"))
}

/// Compares bytes where the versions are the committed object's, programs and maps otherwise.
fn check(object: &[u8], record: &str) -> anyhow::Result<()> {
    let committed = fs::read(shell::root().join(OBJECT)).with_context(|| format!("cannot read {OBJECT}"))?;
    let committed_record = fs::read_to_string(shell::root().join(TOOLCHAIN))?;
    let different = different(&committed_record, record);
    if different.is_empty() {
        if committed != object {
            bail!(
                "{OBJECT} is not what its source gives (sha256 {}, built now {}): run `cargo xtask ebpf`, commit",
                sha256(&committed),
                sha256(object)
            );
        }
        eprintln!("{OBJECT} is what its source gives, byte for byte: sha256 {}", sha256(object));
        return Ok(());
    }
    for line in &different {
        eprintln!("DIFFERENT TOOLCHAIN: {line}");
    }
    if different.iter().any(|line| CRATES.iter().any(|name| line.starts_with(name))) {
        bail!("{OBJECT} was made with other crates than Cargo.lock names: run `cargo xtask ebpf`, commit");
    }
    let (theirs, ours) = (object::contents(&committed)?, object::contents(object)?);
    if theirs != ours {
        bail!("{OBJECT} does not hold what its source gives: committed {theirs:#?}, built now {ours:#?}");
    }
    shell::skipped("bytes of the kernel programs: the toolchain is not the one that made them (see above)");
    eprintln!("programs, maps and globals are the same:\n  {}", ours.join("\n  "));
    Ok(())
}

/// One line for each name whose value differs, the object's own sum apart.
fn different(committed: &str, now: &str) -> Vec<String> {
    let values = |text: &str| -> std::collections::BTreeMap<String, String> {
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_once(' '))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .filter(|(name, _)| name != "sha256")
            .collect()
    };
    let (committed, now) = (values(committed), values(now));
    let names: std::collections::BTreeSet<&String> = committed.keys().chain(now.keys()).collect();
    let shown = |value: Option<&String>| value.map_or_else(|| "none".to_owned(), Clone::clone);
    names
        .into_iter()
        .filter(|name| committed.get(*name) != now.get(*name))
        .map(|name| format!("{name}: committed {}, here {}", shown(committed.get(name)), shown(now.get(name))))
        .collect()
}

/// Names and versions, from Cargo.lock, of the crates that are compiled into the object.
fn crates() -> anyhow::Result<Vec<(String, String)>> {
    let lock = fs::read_to_string(shell::root().join("Cargo.lock")).context("cannot read Cargo.lock")?;
    let mut found = Vec::new();
    let mut lines = lock.lines();
    while let Some(line) = lines.next() {
        let Some(name) = quoted(line, "name = ") else {
            continue;
        };
        let version = lines.next().and_then(|line| quoted(line, "version = ")).context("Cargo.lock: no version")?;
        if CRATES.iter().any(|start| name.starts_with(start)) {
            found.push((name.to_owned(), version.to_owned()));
        }
    }
    Ok(found)
}

fn quoted<'a>(line: &'a str, start: &str) -> Option<&'a str> {
    line.strip_prefix(start)?.strip_prefix('"')?.strip_suffix('"')
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_object_is_the_one_that_its_toolchain_file_describes() {
        let record = fs::read_to_string(shell::root().join(TOOLCHAIN)).expect("TOOLCHAIN");
        let object = fs::read(shell::root().join(OBJECT)).expect("the object");
        assert!(record.contains(&format!("sha256 {}\n", sha256(&object))), "{record}");
    }

    #[test]
    fn the_crates_of_the_committed_object_are_those_of_the_lock_file() {
        let record = fs::read_to_string(shell::root().join(TOOLCHAIN)).expect("TOOLCHAIN");
        let crates = crates().expect("a lock file");
        assert!(crates.len() >= 4, "{crates:?}");
        for (name, version) in crates {
            assert!(record.contains(&format!("\n{name} {version}\n")), "{name} {version} is not in\n{record}");
        }
    }

    #[test]
    fn every_difference_of_two_toolchains_is_named_but_not_the_sum() {
        let committed = "# made by\nsha256 aa\nrustc 1.96.0 (x)\nLLVM 22\n";
        assert!(different(committed, "sha256 bb\nrustc 1.96.0 (x)\nLLVM 22\n").is_empty());
        let lines = different(committed, "sha256 aa\nrustc 1.97.0\nbpf-linker 1\nLLVM 22\n");
        assert_eq!(lines, ["bpf-linker: committed none, here 1", "rustc: committed 1.96.0 (x), here 1.97.0"]);
    }
}
