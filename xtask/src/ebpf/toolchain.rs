//! What compiles the kernel programs: Debian's rustc with its prebuilt `core` for BPF, or rustup's nightly with rust-src.
//!
//! The BPF targets have no `core` in rustup's channels.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::shell;

/// The BPF target of little-endian machines.
pub(super) const TARGET: &str = "bpfel-unknown-none";

/// LLVM of Debian's rustc: the linker reads that rustc's bitcode, and so must be of the same.
const LLVM: &str = "llvm-22";
const LINKER_VERSION: &str = "0.13.0";

/// Debian packages, by the recipe in `probe-engine/docs/HACKING.md`.
const PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf", "llvm-22-dev"];

/// A compiler and a linker that can build the programs.
pub(super) struct Toolchain {
    kind: Kind,
    linker: PathBuf,
}

enum Kind {
    /// rustc and cargo, with `core` for BPF beside them
    Prebuilt { rustc: PathBuf, cargo: PathBuf },
    /// rustup's nightly, which compiles `core` too
    Nightly,
}

impl Toolchain {
    /// Finds one, or says in a sentence what is missing.
    pub(super) fn find() -> Result<Self, String> {
        let kind = prebuilt()
            .or_else(nightly)
            .ok_or("no Rust compiler with `core` for BPF (Debian's rustc-web, or rustup's nightly with rust-src)")?;
        let linker = linker().ok_or("no bpf-linker")?;
        Ok(Self { kind, linker })
    }

    /// A cargo command that uses it, `build` included. Nothing that the caller's environment says of Rust reaches it.
    pub(super) fn cargo_build(&self, flags: &[String]) -> Command {
        let mut command = match &self.kind {
            Kind::Prebuilt { rustc, cargo } => {
                let mut command = Command::new(cargo);
                // Unstable features of a stable compiler: the atomics of the BPF target have no stable form.
                command.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1").arg("build");
                command
            }
            Kind::Nightly => {
                let mut command = Command::new("rustup");
                command.args(["run", "nightly", "cargo", "build", "-Z", "build-std=core"]);
                command.env_remove("RUSTC");
                command
            }
        };
        for name in ["RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTUP_TOOLCHAIN", "LD_LIBRARY_PATH"] {
            command.env_remove(name);
        }
        let linker = format!("-Clinker={}", self.linker.display());
        let flags: Vec<&str> = std::iter::once(linker.as_str()).chain(flags.iter().map(String::as_str)).collect();
        // aya-ebpf takes the machine's architecture for the layout of its registers, which no program here reads.
        command.env("AYA_BPF_TARGET_ARCH", "x86_64");
        command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}")).current_dir(shell::root());
        command
    }

    /// Name and version of each tool whose version may change the object.
    pub(super) fn versions(&self) -> anyhow::Result<Vec<(String, String)>> {
        let mut rustc = match &self.kind {
            Kind::Prebuilt { rustc, .. } => Command::new(rustc),
            Kind::Nightly => {
                let mut command = Command::new("rustup");
                command.args(["run", "nightly", "rustc"]);
                command
            }
        };
        let text = shell::output(rustc.arg("-vV").env_remove("LD_LIBRARY_PATH")).context("rustc -vV failed")?;
        let line = |start: &str| text.lines().find_map(|line| line.strip_prefix(start)).map(str::trim);
        let (Some(rustc), Some(llvm)) = (line("rustc "), line("LLVM version:")) else {
            bail!("rustc -vV does not name its version and its LLVM's");
        };
        let linker =
            shell::output(Command::new(&self.linker).arg("--version")).context("bpf-linker --version failed")?;
        let linker = linker.split_whitespace().last().context("bpf-linker --version says nothing")?;
        Ok(vec![
            ("rustc".to_owned(), rustc.to_owned()),
            ("LLVM".to_owned(), llvm.to_owned()),
            ("bpf-linker".to_owned(), linker.to_owned()),
        ])
    }
}

/// The commands that install one, for a person to read.
pub(super) fn how_to_install() -> String {
    format!(
        "to install what is missing: cargo xtask ebpf --install\n\
         (on Debian: apt-get install {}, then LLVM_PREFIX=/usr/lib/{LLVM} cargo install bpf-linker --version \
         {LINKER_VERSION} --locked --no-default-features --features {LLVM}; elsewhere: rustup toolchain install nightly \
         --component rust-src, then cargo install bpf-linker)",
        PACKAGES.join(" ")
    )
}

/// Installs what is missing: Debian's packages where there is apt-get and it has them, rustup's nightly otherwise.
pub(super) fn install() -> anyhow::Result<()> {
    let debian = prebuilt().is_some() || (shell::has("apt-get", "--version") && install_packages()?);
    if !debian && nightly().is_none() {
        let mut rustup = Command::new("rustup");
        shell::run(rustup.args([
            "toolchain",
            "install",
            "nightly",
            "--profile",
            "minimal",
            "--component",
            "rust-src",
        ]))?;
    }
    if linker().is_some() {
        return Ok(());
    }
    let mut cargo = shell::cargo();
    cargo.args(["install", "bpf-linker", "--locked"]);
    if debian {
        cargo.args(["--version", LINKER_VERSION, "--no-default-features", "--features", LLVM]);
        cargo.env("LLVM_PREFIX", format!("/usr/lib/{LLVM}"));
    }
    shell::run(&mut cargo)
}

/// False where this Debian has no such packages.
fn install_packages() -> anyhow::Result<bool> {
    shell::run(Command::new("apt-get").args(["update", "-qq"]))?;
    let mut apt = Command::new("apt-get");
    apt.args(["install", "-y", "-qq", "--no-install-recommends"]).args(PACKAGES);
    Ok(shell::status(apt.env("DEBIAN_FRONTEND", "noninteractive"))?.success())
}

/// The system's own compiler, if `core` for BPF is installed with it.
fn prebuilt() -> Option<Kind> {
    let (rustc, cargo) = (PathBuf::from("/usr/bin/rustc"), PathBuf::from("/usr/bin/cargo"));
    let mut asked = Command::new(&rustc);
    asked.args(["--print", "target-libdir", "--target", TARGET]).env_remove("LD_LIBRARY_PATH");
    let libraries = shell::output(&mut asked)?;
    let has_core = Path::new(libraries.trim())
        .read_dir()
        .ok()?
        .flatten()
        .any(|file| file.file_name().to_string_lossy().starts_with("libcore-"));
    (has_core && cargo.is_file()).then_some(Kind::Prebuilt { rustc, cargo })
}

fn nightly() -> Option<Kind> {
    let mut asked = Command::new("rustup");
    let sysroot = shell::output(asked.args(["run", "nightly", "rustc", "--print", "sysroot"]))?;
    let source = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs");
    source.is_file().then_some(Kind::Nightly)
}

fn linker() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(cargo_home().map(|home| home.join("bin")))
        .map(|folder| folder.join("bpf-linker"))
        .find(|linker| linker.is_file())
}

/// Where cargo keeps the sources of crates and what it installed.
pub(super) fn cargo_home() -> Option<PathBuf> {
    env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cargo")))
}
