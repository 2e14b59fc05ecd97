//! `cargo xtask fuzz`: the fuzz targets of `tests/fuzz`, and how much of each parser its kept corpus runs through.
//!
//! Fuzzing needs nightly and cargo-fuzz. The kept corpora and their coverage need neither: they run as a test.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

use crate::shell;

/// A target: its name, and the sources of its parser, files and folders.
struct Target {
    name: &'static str,
    sources: &'static [&'static str],
    /// Functions in them that read nothing: they are not counted.
    without: &'static [&'static str],
    /// Bytes of an input. More would only be slower: every bound of the parser is reached by fewer.
    bytes_max: u32,
}

const TARGETS: [Target; 3] = [
    Target {
        name: "manifest",
        sources: &["probe-engine/src/source/parse.rs", "probe-engine/src/source/parse/"],
        without: &[],
        bytes_max: 2_048,
    },
    Target {
        name: "http_response",
        sources: &[
            "probe-engine/src/prober/http1.rs",
            "probe-engine/src/prober/http.rs",
            "probe-engine/src/prober/url.rs",
            "probe-engine/src/prober/quote.rs",
        ],
        without: &[],
        bytes_max: 1_024,
    },
    Target {
        name: "state",
        sources: &["probe-engine/src/state.rs", "probe-engine/src/state/record.rs"],
        // What writes.
        without: &["of", "now", "nanos", "index_of", "has_begun", "is_in_back_off"],
        bytes_max: 2_048,
    },
];

/// Lines of a parser that its corpus must run through, in per cent.
const COVERAGE_MIN: f64 = 90.0;

/// Inputs of a kept corpus. More edges than these reach: left to the next fuzzing.
const KEPT_LEN_MAX: usize = 450;

/// Seconds for one input. Longer is a finding.
const INPUT_SECONDS_MAX: u32 = 10;

/// Megabytes of one allocation, and of all. More is a finding. The checks bound what they take more closely themselves.
const ALLOCATION_MB_MAX: u32 = 128;
const MEMORY_MB_MAX: u32 = 1_024;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this target
    target: Option<String>,
    /// Executions of each target
    #[arg(long, default_value_t = 1_000_000)]
    runs: u64,
    /// Make the kept corpora anew: few inputs that reach the edges that all found ones reach
    #[arg(long, conflicts_with = "coverage")]
    minimise: bool,
    /// Instead of fuzzing: which lines of each parser its kept corpus runs through; fails below 90 %
    #[arg(long)]
    coverage: bool,
    /// With --coverage: the lines that no input runs through
    #[arg(long, requires = "coverage")]
    show_missing: bool,
    /// A sanitizer: address, or none, which is twice as fast
    #[arg(long, default_value = "none")]
    sanitizer: String,
}

/// Fuzzes, minimises or measures; an error at the first finding.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let chosen: Vec<&Target> =
        TARGETS.iter().filter(|target| args.target.as_deref().is_none_or(|name| name == target.name)).collect();
    let names = TARGETS.map(|target| target.name).join(", ");
    ensure!(!chosen.is_empty(), "no such target; there are {names}");
    if args.coverage {
        return coverage(&chosen, args.show_missing);
    }
    ensure_tools()?;
    // The versions that the daemon is built with.
    fs::copy(shell::root().join("Cargo.lock"), shell::root().join("tests/fuzz/Cargo.lock"))?;
    for target in chosen {
        if args.minimise {
            minimise(target, &args.sanitizer)?;
        } else {
            fuzz(target, args)?;
        }
    }
    Ok(())
}

fn ensure_tools() -> anyhow::Result<()> {
    let nightly = shell::output(Command::new("cargo").args(["+nightly", "--version"]));
    ensure!(nightly.is_some(), "fuzzing needs nightly Rust; to install it: rustup toolchain install nightly");
    let fuzz = shell::output(Command::new("cargo").args(["fuzz", "--version"]));
    ensure!(fuzz.is_some(), "cargo-fuzz is not installed; to install it: cargo install cargo-fuzz --locked");
    ensure!(
        shell::has("c++", "--version"),
        "libFuzzer is built with a C++ compiler; to install one: apt-get install g++"
    );
    Ok(())
}

/// Where found inputs are kept between runs.
fn found(target: &Target) -> PathBuf {
    shell::target().join("fuzz").join(target.name)
}

fn kept(target: &Target) -> PathBuf {
    shell::root().join("tests/data/fuzz").join(target.name)
}

fn cargo_fuzz(subcommand: &str, target: &Target, sanitizer: &str) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(shell::root()).args(["+nightly", "fuzz", subcommand]);
    // Tracing comparisons would halve the executions; dictionary and line mutations find the words.
    command.args(["--fuzz-dir", "tests/fuzz", "--sanitizer", sanitizer, "--no-trace-compares"]);
    command.arg("--target-dir").arg(shell::target().join("fuzz-build"));
    command.arg(target.name);
    command
}

fn fuzz(target: &Target, args: &Args) -> anyhow::Result<()> {
    fs::create_dir_all(found(target))?;
    let mut command = cargo_fuzz("run", target, &args.sanitizer);
    // The first folder takes what is found.
    command.arg(found(target)).arg(kept(target)).arg("--");
    command.arg(format!("-dict={}", kept(target).with_extension("dict").display()));
    command.args([
        format!("-runs={}", args.runs),
        format!("-max_len={}", target.bytes_max),
        format!("-timeout={INPUT_SECONDS_MAX}"),
        format!("-malloc_limit_mb={ALLOCATION_MB_MAX}"),
        format!("-rss_limit_mb={MEMORY_MB_MAX}"),
        "-print_final_stats=1".to_owned(),
    ]);
    shell::run(&mut command)
}

/// By edges alone: how often an edge is taken would keep ten times as many inputs.
fn minimise(target: &Target, sanitizer: &str) -> anyhow::Result<()> {
    let folder = shell::target().join("fuzz");
    fs::create_dir_all(found(target))?;
    let merge = |how: &str, from: &[&Path], to: &Path, control: &Path| {
        let _ = fs::remove_dir_all(to);
        let _ = fs::remove_file(control);
        fs::create_dir_all(to)?;
        let mut command = cargo_fuzz("run", target, sanitizer);
        command.arg(to).args(from).args(["--", how, "-use_counters=0"]);
        command.arg(format!("-max_len={}", target.bytes_max));
        shell::run(command.arg(format!("-merge_control_file={}", control.display())))
    };
    let [first, second] = ["first", "second"].map(|step| folder.join(format!("{}-{step}-merge", target.name)));
    let control = folder.join(format!("{}-merge", target.name));
    merge("-merge=1", &[&kept(target), &found(target)], &first, &control)?;
    // For what it writes down: the edges of each input.
    merge("-set_cover_merge=1", &[&first], &second, &control)?;
    let (chosen, left) = choose(&fs::read_to_string(&control)?)?;
    let kept = kept(target);
    for file in files(&kept)? {
        fs::remove_file(file)?;
    }
    for file in &chosen {
        fs::copy(file, kept.join(file.file_name().unwrap_or_default()))?;
    }
    eprintln!("{}: {} inputs kept; {left} edges would need more of them", target.name, chosen.len());
    Ok(())
}

/// Of libFuzzer's merge control file: inputs, each time the one with the most edges that are not reached yet, at most
/// [`KEPT_LEN_MAX`], and how many edges then are not.
fn choose(control: &str) -> anyhow::Result<(Vec<PathBuf>, usize)> {
    let mut lines = control.lines();
    let count: usize = lines.next().and_then(|line| line.parse().ok()).context("no number of files")?;
    let files: Vec<PathBuf> = lines.by_ref().skip(1).take(count).map(PathBuf::from).collect();
    let mut inputs = Vec::new();
    for line in lines {
        let Some(line) = line.strip_prefix("FT ") else { continue };
        let mut numbers = line.split(' ').filter_map(|number| number.parse::<usize>().ok());
        let file = numbers.next().and_then(|index| files.get(index)).context("a file that is not listed")?;
        let edges: HashSet<usize> = numbers.collect();
        inputs.push((edges, fs::metadata(file)?.len(), file));
    }
    let mut left: HashSet<usize> = inputs.iter().flat_map(|(edges, ..)| edges.iter().copied()).collect();
    let mut chosen = Vec::new();
    while chosen.len() < KEPT_LEN_MAX {
        let gain = |edges: &HashSet<usize>| edges.iter().filter(|edge| left.contains(edge)).count();
        let best =
            inputs.iter().enumerate().max_by_key(|(_, (edges, size, _))| (gain(edges), std::cmp::Reverse(*size)));
        let Some((index, _)) = best.filter(|(_, (edges, ..))| gain(edges) > 0) else { break };
        let (edges, _, file) = inputs.swap_remove(index);
        left.retain(|edge| !edges.contains(edge));
        chosen.push(file.clone());
    }
    Ok((chosen, left.len()))
}

fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

/// Line coverage of each parser by its kept corpus, file by file.
fn coverage(targets: &[&Target], show_missing: bool) -> anyhow::Result<()> {
    let [profdata, cov] = llvm_tools()?;
    let folder = shell::target().join("fuzz-coverage");
    let binary = instrumented_test(&folder)?;
    let mut short = Vec::new();
    for target in targets {
        let raw = folder.join(format!("{}.profraw", target.name));
        let data = raw.with_extension("profdata");
        shell::run(
            Command::new(&binary)
                .current_dir(shell::root().join("tests"))
                .args(["--exact", target.name, "--quiet"])
                .env("LLVM_PROFILE_FILE", &raw),
        )?;
        shell::run(Command::new(&profdata).args(["merge", "--sparse", "-o"]).arg(&data).arg(&raw))?;
        let mut export = Command::new(&cov);
        export.current_dir(shell::root()).args(["export", "--format=lcov", "--instr-profile"]).arg(&data).arg(&binary);
        export.args(target.sources);
        let lcov = shell::output(&mut export).with_context(|| format!("{} export failed", cov.display()))?;
        let covered = report(target, &lcov, show_missing)?;
        if covered < COVERAGE_MIN {
            short.push(format!("{} {covered:.1} %", target.name));
        }
    }
    if !short.is_empty() {
        bail!("below {COVERAGE_MIN} %: {}", short.join(", "));
    }
    Ok(())
}

/// Prints one line a file, and one for all; returns the latter's share in per cent.
fn report(target: &Target, lcov: &str, show_missing: bool) -> anyhow::Result<f64> {
    println!("{}: lines that its corpus runs through", target.name);
    let (mut hit, mut all) = (0, 0);
    for record in lcov.split("end_of_record") {
        let Some(file) = record.lines().find_map(|line| line.strip_prefix("SF:")) else { continue };
        let file = file.strip_prefix(&format!("{}/", shell::root().display())).unwrap_or(file);
        let not_counted = lines_of(&fs::read_to_string(shell::root().join(file))?, target.without);
        let lines: Vec<(usize, bool)> = record
            .lines()
            .filter_map(|line| line.strip_prefix("DA:")?.split_once(','))
            .filter_map(|(line, count)| Some((line.parse().ok()?, count != "0")))
            .filter(|(line, _)| !not_counted.contains(line))
            .collect();
        let of_file = lines.iter().filter(|(_, is_hit)| *is_hit).count();
        println!("  {:6.1} % of {:4}  {file}", percent(of_file, lines.len()), lines.len());
        if show_missing {
            let missing: Vec<String> =
                lines.iter().filter(|(_, is_hit)| !is_hit).map(|(line, _)| line.to_string()).collect();
            println!("           not: {}", missing.join(" "));
        }
        hit += of_file;
        all += lines.len();
    }
    println!("  {:6.1} % of {all:4}  in all", percent(hit, all));
    Ok(percent(hit, all))
}

/// The numbers of the lines of these functions, in a source as rustfmt leaves it.
fn lines_of(source: &str, functions: &[&str]) -> HashSet<usize> {
    let mut lines = HashSet::new();
    let mut end = None;
    for (index, line) in source.lines().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let name = line.split_once("fn ").map_or("", |(_, rest)| rest.split(['(', '<']).next().unwrap_or_default());
        if end.is_none() && functions.contains(&name) {
            end = Some(format!("{}}}", " ".repeat(indent)));
        }
        if end.is_some() {
            lines.insert(index + 1);
        }
        end = end.filter(|end| line != end);
    }
    lines
}

fn percent(part: usize, all: usize) -> f64 {
    100.0 * part as f64 / all.max(1) as f64
}

/// The corpus test, built to count; its path.
fn instrumented_test(folder: &Path) -> anyhow::Result<PathBuf> {
    let mut command = shell::cargo();
    command.args(["test", "--package", "probe-tests", "--test", "fuzz_corpus", "--no-run", "--message-format=json"]);
    command.env("RUSTFLAGS", "-C instrument-coverage").env("CARGO_TARGET_DIR", folder);
    // Build scripts are built to count too.
    command.env("LLVM_PROFILE_FILE", folder.join("build-%m.profraw"));
    eprintln!("building the corpus test with -C instrument-coverage");
    let output = command.stderr(std::process::Stdio::inherit()).output().context("cannot start cargo")?;
    ensure!(output.status.success(), "the corpus test does not build");
    let messages = String::from_utf8_lossy(&output.stdout);
    let line =
        messages.lines().rfind(|line| line.contains(r#""name":"fuzz_corpus""#) && line.contains(r#""executable":"#));
    let path = line.and_then(|line| line.split_once(r#""executable":""#)?.1.split('"').next());
    Ok(path.context("cargo names no executable")?.into())
}

/// llvm-profdata and llvm-cov that read what this rustc writes: rustup's, or the system's of the same version.
fn llvm_tools() -> anyhow::Result<[PathBuf; 2]> {
    let version = shell::output(Command::new("rustc").arg("-vV")).context("rustc -vV failed")?;
    let of = |key: &str| version.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
    let major = of("LLVM version: ").split('.').next().unwrap_or_default();
    let host = of("host: ");
    let sysroot = shell::output(Command::new("rustc").args(["--print", "sysroot"])).unwrap_or_default();
    let rustup = Path::new(sysroot.trim()).join("lib/rustlib").join(host).join("bin");
    let tools = ["llvm-profdata", "llvm-cov"];
    let by_rustup = tools.map(|tool| rustup.join(tool));
    if by_rustup.iter().all(|tool| tool.is_file()) {
        return Ok(by_rustup);
    }
    let by_system = tools.map(|tool| PathBuf::from(format!("{tool}-{major}")));
    if by_system.iter().all(|tool| shell::has(&tool.to_string_lossy(), "--version")) {
        return Ok(by_system);
    }
    bail!(
        "llvm-profdata and llvm-cov {major} are not installed; to install them: rustup component add llvm-tools (or apt-get install llvm-{major})"
    )
}
