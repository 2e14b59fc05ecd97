//! What the kernel says of a process and of the machine's TCP.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use anyhow::{Context, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// `PassiveOpens` in /proc/PID/net/snmp: connections that listeners of the process's network namespace have taken.
pub fn passive_opens(pid: &str) -> anyhow::Result<u64> {
    counter(&format!("/proc/{pid}/net/snmp"), "Tcp: ", "PassiveOpens")
}

/// `ActiveOpens` of our network namespace: connects made in it.
pub fn active_opens() -> anyhow::Result<u64> {
    counter("/proc/self/net/snmp", "Tcp: ", "ActiveOpens")
}

/// One counter of a file of pairs of lines, names and values (/proc/net/snmp and netstat).
fn counter(path: &str, prefix: &str, name: &str) -> anyhow::Result<u64> {
    let text = fs::read_to_string(path).with_context(|| path.to_owned())?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(prefix));
    let (names, values) = lines.next().zip(lines.next()).with_context(|| format!("no {prefix}in {path}"))?;
    let place = names.split(' ').position(|found| found == name).with_context(|| format!("no {name} in {path}"))?;
    Ok(values.split(' ').nth(place).context("a short line")?.parse()?)
}

/// What TCP of our network namespace has counted.
#[derive(Clone, Copy, Debug)]
pub struct Tcp {
    /// Connects made.
    pub active_opens: u64,
    /// Connections that listeners have taken.
    pub passive_opens: u64,
    /// Connections closed without TIME_WAIT because `tcp_max_tw_buckets` were there.
    pub time_wait_overflow: u64,
    /// Connections that a listener had no place for.
    pub listen_overflows: u64,
    /// SYNs sent again.
    pub syn_retrans: u64,
}

impl Tcp {
    /// As it stands.
    pub fn read() -> anyhow::Result<Tcp> {
        let netstat = "/proc/self/net/netstat";
        Ok(Tcp {
            active_opens: active_opens()?,
            passive_opens: passive_opens("self")?,
            time_wait_overflow: counter(netstat, "TcpExt: ", "TCPTimeWaitOverflow")?,
            listen_overflows: counter(netstat, "TcpExt: ", "ListenOverflows")?,
            syn_retrans: counter(netstat, "TcpExt: ", "TCPSynRetrans")?,
        })
    }
}

/// Sockets in SYN_SENT in this network namespace.
///
/// ss(8) lets the kernel select them (inet_diag): /proc/net/tcp with a full TIME_WAIT table costs the machine half a
/// second of CPU.
pub fn syn_sent() -> anyhow::Result<usize> {
    let output = Command::new("ss").args(["-Htn", "state", "syn-sent"]).output().context("ss (iproute2)")?;
    if !output.status.success() {
        bail!("ss: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(output.stdout.iter().filter(|byte| **byte == b'\n').count())
}

/// Sockets in TIME_WAIT in this network namespace.
pub fn time_wait() -> anyhow::Result<u64> {
    Ok(Sockets::read()?.time_wait)
}

/// TCP sockets by state: of this network namespace, but for `allocated`, which are the machine's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sockets {
    /// With a port: listeners and connections, those in TIME_WAIT apart.
    pub in_use: u64,
    /// Of no process any more, and not closed yet.
    pub orphan: u64,
    /// In TIME_WAIT.
    pub time_wait: u64,
    /// That there is memory for.
    pub allocated: u64,
}

impl Sockets {
    /// From /proc/net/sockstat.
    pub fn read() -> anyhow::Result<Sockets> {
        let text = fs::read_to_string("/proc/net/sockstat").context("/proc/net/sockstat")?;
        let words: Vec<&str> =
            text.lines().find(|line| line.starts_with("TCP:")).context("no TCP")?.split(' ').collect();
        let of = |name: &str| -> anyhow::Result<u64> {
            let place = words.iter().position(|word| *word == name).with_context(|| format!("no {name}"))?;
            Ok(words.get(place + 1).context("a short line")?.parse()?)
        };
        Ok(Sockets { in_use: of("inuse")?, orphan: of("orphan")?, time_wait: of("tw")?, allocated: of("alloc")? })
    }
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
    let [user, system, ..] = ticks(pid)?;
    Ok(Process {
        cpu_s: ((user + system) * TICK_NS) as f64 / 1e9,
        rss_bytes: rss_bytes(&pid.to_string())?,
        fds: fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
    })
}

/// Resident memory of a process (`self` or its id).
pub fn rss_bytes(process: &str) -> anyhow::Result<u64> {
    let path = format!("/proc/{process}/status");
    let status = fs::read_to_string(&path).with_context(|| path.clone())?;
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(rss.trim().trim_end_matches("kB").trim().parse::<u64>()? * 1024)
}

/// Of a process, in ticks of USER_HZ: user and system time of all threads that ever were, then those of children that were
/// waited for (proc_pid_stat(5), fields 14 to 17).
fn ticks(pid: u32) -> anyhow::Result<[u64; 4]> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid}"))?;
    // The name may hold spaces and parentheses; the fields after the last `)` start with the state.
    let (_, fields) = stat.rsplit_once(')').context("no `)` in stat")?;
    let times: Vec<u64> = fields.split_whitespace().skip(11).map_while(|field| field.parse().ok()).take(4).collect();
    times.try_into().map_err(|_| anyhow::anyhow!("process {pid}: a short stat"))
}

/// CPU time of a process, children apart, and of its threads.
#[derive(Clone, Debug)]
pub struct Cpu {
    /// All threads that ever were, in the kernel's ticks.
    ticks_ns: u64,
    /// Children that have ended and were waited for.
    pub children_ns: u64,
    /// The threads that are: name, and time to the nanosecond.
    threads: BTreeMap<u32, (String, u64)>,
}

/// USER_HZ is 100 on every Linux that Rust runs on.
const TICK_NS: u64 = 10_000_000;

impl Cpu {
    /// Reads /proc/PID and its tasks.
    pub fn read(pid: u32) -> anyhow::Result<Cpu> {
        let [user, system, children_user, children_system] = ticks(pid)?;
        let mut threads = BTreeMap::new();
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?;
            // A thread may end between the two reads.
            let Ok(times) = fs::read_to_string(task.path().join("schedstat")) else { continue };
            let Ok(name) = fs::read_to_string(task.path().join("comm")) else { continue };
            let on_cpu: u64 = times.split(' ').next().context("an empty schedstat")?.parse()?;
            threads.insert(task.file_name().to_string_lossy().parse()?, (name.trim().to_owned(), on_cpu));
        }
        Ok(Cpu {
            ticks_ns: (user + system) * TICK_NS,
            children_ns: (children_user + children_system) * TICK_NS,
            threads,
        })
    }

    /// Of all threads that ever were, children apart.
    #[must_use]
    pub const fn total_ns(&self) -> u64 {
        self.ticks_ns
    }

    /// Nanoseconds since an earlier reading. To the nanosecond where no thread ended in between, else in ticks.
    #[must_use]
    pub fn since(&self, before: &Cpu) -> u64 {
        if before.threads.keys().any(|thread| !self.threads.contains_key(thread)) {
            return self.ticks_ns.saturating_sub(before.ticks_ns);
        }
        self.by_name(before).values().sum()
    }

    /// The same by the name of the thread.
    #[must_use]
    pub fn by_name(&self, before: &Cpu) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for (thread, (name, now)) in &self.threads {
            let earlier = before.threads.get(thread).map_or(0, |(_, earlier)| *earlier);
            *sums.entry(name.clone()).or_default() += now.saturating_sub(earlier);
        }
        sums
    }
}

/// Time that the machine's cores were idle since the boot, in seconds, summed over them; waiting for I/O, and time that the
/// hypervisor gave to others, are idle too.
pub fn idle_s() -> anyhow::Result<f64> {
    let stat = fs::read_to_string("/proc/stat").context("/proc/stat")?;
    let cpu = stat.lines().find_map(|line| line.strip_prefix("cpu ")).context("no cpu in /proc/stat")?;
    let fields = cpu.split_whitespace().map(str::parse).collect::<Result<Vec<u64>, _>>()?;
    let [_, _, _, idle, waiting, _, _, stolen, ..] = fields[..] else { bail!("/proc/stat: a short line") };
    Ok((idle + waiting + stolen) as f64 / 100.0)
}

/// `RLIMIT_NOFILE` of a process, the soft one.
pub fn descriptors_max(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/limits");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files")).context("no Max open files")?;
    Ok(line.split_whitespace().next().context("a short line")?.parse()?)
}

/// Lets this process, and those that it starts, open as many descriptors as they may.
pub fn raise_descriptor_limit() -> anyhow::Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("setrlimit(RLIMIT_NOFILE)")?;
    Ok(hard)
}
