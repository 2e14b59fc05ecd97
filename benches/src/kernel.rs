//! What the kernel says of a process and of the machine's TCP.

use std::fs;
use std::path::Path;

use anyhow::Context;

/// TIME_WAIT in /proc/net/tcp.
const TIME_WAIT: &str = "06";
/// SYN_SENT in /proc/net/tcp.
const SYN_SENT: &str = "02";

/// Sockets by state.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sockets {
    /// In SYN_SENT.
    pub syn_sent: usize,
    /// In TIME_WAIT.
    pub time_wait: usize,
}

/// Counts the lines of /proc/net/tcp whose remote port is one of `ports`, by state.
pub fn sockets(ports: &[u16]) -> anyhow::Result<Sockets> {
    let table = fs::read_to_string("/proc/net/tcp").context("/proc/net/tcp")?;
    let ports: Vec<String> = ports.iter().map(|port| format!(":{port:04X}")).collect();
    let mut sockets = Sockets::default();
    for line in table.lines().skip(1) {
        let mut fields = line.split_whitespace().skip(2);
        let (Some(remote), Some(state)) = (fields.next(), fields.next()) else {
            continue;
        };
        if !ports.iter().any(|port| remote.ends_with(port.as_str())) {
            continue;
        }
        match state {
            SYN_SENT => sockets.syn_sent += 1,
            TIME_WAIT => sockets.time_wait += 1,
            _ => {}
        }
    }
    Ok(sockets)
}

/// `PassiveOpens` in /proc/PID/net/snmp: connections that listeners of the process's network namespace have taken.
pub fn passive_opens(pid: &str) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/net/snmp");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = lines.next().zip(lines.next()).with_context(|| format!("no Tcp in {path}"))?;
    let place = names.split(' ').position(|name| name == "PassiveOpens").context("no PassiveOpens")?;
    Ok(values.split(' ').nth(place).context("a short line")?.parse()?)
}

/// Sockets in TIME_WAIT in this network namespace (/proc/net/sockstat).
pub fn time_wait() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/net/sockstat").context("/proc/net/sockstat")?;
    let words: Vec<&str> = text.lines().find(|line| line.starts_with("TCP:")).context("no TCP")?.split(' ').collect();
    let place = words.iter().position(|word| *word == "tw").context("no tw")?;
    Ok(words.get(place + 1).context("a short line")?.parse()?)
}

/// A process at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    /// User and system time of all threads, in seconds.
    pub cpu_s: f64,
    /// Resident memory.
    pub rss_bytes: u64,
    /// Open descriptors.
    pub fds: usize,
}

/// Reads /proc/PID.
pub fn process(pid: u32) -> anyhow::Result<Process> {
    let folder = Path::new("/proc").join(pid.to_string());
    let stat = fs::read_to_string(folder.join("stat")).with_context(|| format!("process {pid}"))?;
    // The name may hold spaces and parentheses; the fields after the last `)` start with the state.
    let (_, fields) = stat.rsplit_once(')').context("no `)` in stat")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |index: usize| -> anyhow::Result<f64> { Ok(fields.get(index).context("a short stat")?.parse()?) };
    let status = fs::read_to_string(folder.join("status"))?;
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let rss_kb: u64 = rss.trim().trim_end_matches("kB").trim().parse()?;
    Ok(Process {
        // USER_HZ is 100 on every Linux that Rust runs on.
        cpu_s: (ticks(11)? + ticks(12)?) / 100.0,
        rss_bytes: rss_kb * 1024,
        fds: fs::read_dir(folder.join("fd"))?.count(),
    })
}
