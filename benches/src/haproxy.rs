//! The peer: HAProxy's health checks of the same targets at the same period.
//!
//! Its attempts are counted by the kernel (`ActiveOpens` of this network namespace), not by HAProxy, so nobody else may
//! connect from here meanwhile.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::json;

use crate::aim::{Aim, Aims};
use crate::handler::Handler;
use crate::kernel::{self, Cpu};
use crate::usage;

/// Servers of one backend: a dynamic `roundrobin` takes 4,095.
const BACKEND_SERVERS_MAX: usize = 4_000;
/// Descriptors beside the checks': sockets of its own, pollers, threads.
const DESCRIPTORS_SPARE: u64 = 200;
/// HAProxy must have checked every server once within this many periods.
const FIRST_CHECKS_PERIODS_MAX: u32 = 10;
/// Exit status where there is no HAProxy.
const MISSING: i32 = 3;

/// How HAProxy ends the connection of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Close {
    /// Its default for TCP: RST.
    Rst,
    /// `connect linger`: FIN.
    Linger,
}

/// The command line.
#[derive(clap::Args)]
pub struct Args {
    /// Of the checks: tcp or http
    #[command(flatten)]
    aims: Aims,
    /// `inter`
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    period_ms: u64,
    /// Measured so long, after every server was checked once
    #[arg(long)]
    seconds: u64,
    /// How connections end
    #[arg(long, default_value = "rst")]
    close: Close,
}

/// Runs it and prints its line.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let Some(version) = version() else {
        eprintln!("haproxy is not on the PATH; install it with: apt-get install --no-install-recommends haproxy");
        std::process::exit(MISSING);
    };
    let descriptors = kernel::raise_descriptor_limit()?;
    let aims = args.aims.read()?;
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let configuration = folder.path().join("haproxy.cfg");
    let stats = folder.path().join("stats.sock");
    fs::write(&configuration, configure(args, &aims, descriptors, &stats)?)?;
    let opens_before = kernel::active_opens()?;
    let mut haproxy = Haproxy::start(&configuration)?;
    let first_checks = Duration::from_millis(args.period_ms) * FIRST_CHECKS_PERIODS_MAX + Duration::from_secs(30);
    haproxy.wait_until_checked(&stats, opens_before, aims.len(), first_checks)?;
    let before = Servers::read(&stats)?;
    let (since, opens, cpu) = (usage::now(), kernel::active_opens()?, Cpu::read(haproxy.pid())?);
    thread::sleep(Duration::from_secs(args.seconds));
    let attempts = kernel::active_opens()? - opens;
    let (seconds, cpu) = (since.elapsed().as_secs_f64(), Cpu::read(haproxy.pid())?.since(&cpu));
    let rss = kernel::rss_bytes(&haproxy.pid().to_string())?;
    let after = Servers::read(&stats)?;
    let line = json!({
        "handler": args.aims.handler.as_str(),
        "close": if args.close == Close::Rst { "rst" } else { "linger" },
        "servers": aims.len(),
        "attempts": attempts,
        "attempts_expected": (aims.len() as f64 * seconds * 1e3 / args.period_ms as f64).round() as u64,
        // HAProxy counts no failed check of a server that it holds for down: `servers_down` tells how many those are.
        "failures": after.failures.saturating_sub(before.failures),
        "servers_down": after.down,
        "seconds": seconds,
        "cpu_us_per_attempt": usage::per_attempt_us(Duration::from_nanos(cpu), attempts),
        "rss_bytes": rss,
        "rss_bytes_per_probe": rss.saturating_sub(rss_without_servers(args, descriptors)?) / aims.len() as u64,
        "version": version,
    });
    println!("{line}");
    Ok(())
}

/// `2.6.12-1`, from `HAProxy version 2.6.12-1 2026/...`.
fn version() -> Option<String> {
    let output = Command::new("haproxy").arg("-v").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().skip_while(|word| *word != "version").nth(1).map(str::to_owned)
}

fn configure(args: &Args, aims: &[Aim], descriptors: u64, stats: &Path) -> anyhow::Result<String> {
    let threads = thread::available_parallelism().context("how many cores?")?;
    let (most, stats) = (descriptors.saturating_sub(DESCRIPTORS_SPARE), stats.display());
    let mut text = format!(
        "global\n nbthread {threads}\n stats socket {stats} mode 600 level admin\n stats timeout 1m\n spread-checks 50\n \
         no strict-limits\n fd-hard-limit {most}\n ulimit-n {most}\n maxconn 100\n\
         defaults\n mode tcp\n timeout connect 1s\n timeout check 1s\n timeout client 1s\n timeout server 1s\n"
    );
    // A check's path is its backend's.
    let mut by_path = BTreeMap::<&str, Vec<String>>::new();
    for aim in aims {
        let (peer, path) = aim.net()?;
        by_path.entry(if args.aims.handler == Handler::Http { path } else { "" }).or_default().push(peer.to_string());
    }
    let mut backend = 0;
    for (path, peers) in by_path {
        for peers in peers.chunks(BACKEND_SERVERS_MAX) {
            writeln!(text, "backend b{backend}")?;
            match (args.aims.handler, args.close) {
                (Handler::Tcp, Close::Rst) => writeln!(text, " option tcp-check\n tcp-check connect")?,
                (Handler::Tcp, Close::Linger) => writeln!(text, " option tcp-check\n tcp-check connect linger")?,
                (Handler::Http, Close::Rst) => writeln!(text, " option httpchk GET {path}")?,
                (Handler::Http, Close::Linger) => {
                    writeln!(text, " option httpchk GET {path}\n http-check connect linger")?;
                }
                (other, _) => bail!("--handler {}: HAProxy is measured with tcp and http", other.as_str()),
            }
            for (index, peer) in peers.iter().enumerate() {
                writeln!(text, " server s{index} {peer} check inter {}ms rise 1 fall 1", args.period_ms)?;
            }
            backend += 1;
        }
    }
    Ok(text)
}

/// What a HAProxy with one server holds resident: what the others are counted beyond.
fn rss_without_servers(args: &Args, descriptors: u64) -> anyhow::Result<u64> {
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let (configuration, stats) = (folder.path().join("haproxy.cfg"), folder.path().join("stats.sock"));
    // Port 1 refuses; whether it does makes no difference here.
    let aim = Aim::Net(([127, 0, 0, 1], 1).into(), "/".into());
    fs::write(&configuration, configure(args, &[aim], descriptors, &stats)?)?;
    let mut haproxy = Haproxy::start(&configuration)?;
    haproxy.wait_for_stats(&stats)?;
    kernel::rss_bytes(&haproxy.pid().to_string())
}

/// What HAProxy says of its servers.
struct Servers {
    failures: u64,
    down: usize,
    unchecked: usize,
}

impl Servers {
    fn read(stats: &Path) -> anyhow::Result<Servers> {
        let mut stream = UnixStream::connect(stats).with_context(|| format!("HAProxy at {}", stats.display()))?;
        // Type 4: servers alone.
        stream.write_all(b"show stat -1 4 -1\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let mut lines = text.lines().filter(|line| !line.is_empty());
        let head: Vec<&str> =
            lines.next().context("an empty answer of HAProxy")?.trim_start_matches("# ").split(',').collect();
        let place =
            |name| head.iter().position(|other| *other == name).with_context(|| format!("HAProxy has no {name}"));
        let (status, check, failed) = (place("status")?, place("check_status")?, place("chkfail")?);
        let mut servers = Servers { failures: 0, down: 0, unchecked: 0 };
        for line in lines {
            let fields: Vec<&str> = line.split(',').collect();
            let field = |place: usize| fields.get(place).copied().unwrap_or_default();
            servers.failures += field(failed).parse::<u64>().unwrap_or(0);
            servers.down += usize::from(field(status).starts_with("DOWN"));
            servers.unchecked += usize::from(matches!(field(check).trim_start_matches("* "), "" | "INI" | "UNK"));
        }
        Ok(servers)
    }
}

/// Ends with this.
struct Haproxy(Child);

impl Haproxy {
    fn start(configuration: &Path) -> anyhow::Result<Haproxy> {
        let mut command = Command::new("haproxy");
        // In the foreground, one process; warnings and "server is down" are nobody's business.
        command.arg("-db").arg("-q").arg("-f").arg(configuration);
        let log = fs::File::create(configuration.with_extension("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Haproxy(command.spawn().context("cannot start haproxy")?))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    /// It still runs; else what it said.
    fn check(&mut self, stats: &Path) -> anyhow::Result<()> {
        if let Some(status) = self.0.try_wait()? {
            let log = fs::read_to_string(stats.with_file_name("haproxy.log")).unwrap_or_default();
            bail!("haproxy ended ({status}): {}", log.trim());
        }
        Ok(())
    }

    fn wait_for_stats(&mut self, stats: &Path) -> anyhow::Result<()> {
        // A configuration of 50,000 servers takes its time.
        let latest = usage::now() + Duration::from_secs(120);
        while UnixStream::connect(stats).is_err() {
            self.check(stats)?;
            if usage::now() > latest {
                bail!("haproxy does not listen on its stats socket after 120 s");
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Until every server has had one check, by the kernel's count and then by its own.
    fn wait_until_checked(&mut self, stats: &Path, opens: u64, len: usize, within: Duration) -> anyhow::Result<()> {
        self.wait_for_stats(stats)?;
        let latest = usage::now() + within;
        loop {
            self.check(stats)?;
            if kernel::active_opens()? >= opens + len as u64 {
                let unchecked = Servers::read(stats)?.unchecked;
                if unchecked == 0 {
                    return Ok(());
                }
                if usage::now() > latest {
                    bail!("{unchecked} of {len} servers have not been checked within {} s", within.as_secs());
                }
            } else if usage::now() > latest {
                let opens = kernel::active_opens()? - opens;
                bail!("{opens} connections for {len} servers within {} s", within.as_secs());
            }
            thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        // Only fails where it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
