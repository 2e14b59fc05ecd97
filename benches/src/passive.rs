//! The scenario `passive`: tcpSocket probes that hold leases. How many attempts still connect, counted by the targets'
//! kernel; are they spread; do verdicts stay those of an engine without eBPF while listeners come and go?
//!
//! Everything lives in network namespaces that the scenario makes: one for the daemon (with a third of the targets on its
//! loopback), two for the other targets, and one for targets that refuse, drop or never accept.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sched::{CloneFlags, unshare};
use probe_core::schedule::mix;
use serde_json::{Value, json};

use crate::daemon::{Daemon, samples, sum};
use crate::kernel::{self, Process};
use crate::listeners::{Args, Listeners, Manner, wall_ns};

/// Listener processes in each of the three namespaces that are counted.
const PROCESSES_PER_NETNS: u16 = 2;
/// Containers per listener, each with a liveness and a readiness probe.
const CONTAINERS_PER_LISTENER: usize = 2;
/// Probes per listener.
const PROBES_PER_LISTENER: usize = 2 * CONTAINERS_PER_LISTENER;
/// One of so many listeners is closed and opened again, at random.
const CHURNED: usize = 100;
/// Targets of each manner that does not answer.
const FAILING_EACH: u16 = 334;
/// A TIME_WAIT lasts 60 s, and up to 4.1 s more: so coarse is the timer wheel of a kernel with HZ=1000 that far ahead
/// (`kernel/time/timer.c`, `LVL_GRAN`). And the second that a look takes.
const TIME_WAIT_S: usize = 65;
/// Noticed within period + timeout and this.
const NOTICE_MARGIN: Duration = Duration::from_millis(100);

/// What to run.
#[derive(clap::Args, Clone, Debug)]
pub struct Scenario {
    /// Probes of targets that answer, in all
    #[arg(long, default_value_t = 10_000)]
    pub probes: usize,
    /// Seconds with passive answers; the first `--passive-max-age` of them are not measured
    #[arg(long, default_value_t = 180)]
    pub duration: u64,
    /// The daemon's passive_max_age, seconds
    #[arg(long, default_value_t = 60)]
    pub passive_max_age: u64,
    /// Seconds of the run with `--ebpf off` that verdicts are compared with
    #[arg(long, default_value_t = 40)]
    pub off_duration: u64,
    /// Seed of what is closed and opened when
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Runs the scenario; fails when a claim does not hold.
pub fn run(scenario: &Scenario, daemon: &Path, json_path: Option<&Path>) -> anyhow::Result<()> {
    // Before any thread is started: from here on we, and all that we start, are in a namespace of our own.
    unshare(CloneFlags::CLONE_NEWNET).context("unshare(CLONE_NEWNET): root is needed")?;
    ip(&["link", "set", "lo", "up"])?;
    let mut world = World::open(scenario)?;
    let folder = tempfile::tempdir()?;
    let manifests = folder.path().join("pods.yaml");
    fs::write(&manifests, world.pods().join("\n---\n"))?;
    let age = format!("--passive-max-age-seconds={}", scenario.passive_max_age);
    let flags = ["--ebpf=require".to_owned(), age, "--passive-audit-per-second=0".to_owned()];
    let on = world.measure(scenario, daemon, folder.path(), &manifests, &flags, scenario.duration)?;
    let flags = ["--ebpf=off".to_owned()];
    let off = world.measure(scenario, daemon, folder.path(), &manifests, &flags, scenario.off_duration)?;
    let report = Report { scenario: scenario.clone(), on, off };
    if let Some(path) = json_path {
        fs::write(path, format!("{:#}\n", report.json()))?;
    }
    report.judge()
}

/// The targets.
struct World {
    /// Those that are counted: with the address of their pods and, where it is not ours, the process that holds their
    /// namespace.
    answering: Vec<(Listeners, String, Option<u32>)>,
    failing: Vec<(Listeners, &'static str)>,
    /// Of all of `failing` and of what refuses.
    failing_address: String,
    failing_pid: u32,
    /// Of `answering`, by process and place: those that are closed and opened.
    churned: BTreeSet<(usize, u16)>,
}

impl World {
    fn open(scenario: &Scenario) -> anyhow::Result<World> {
        let listeners = scenario.probes.div_ceil(PROBES_PER_LISTENER);
        let each = u16::try_from(listeners.div_ceil(3 * usize::from(PROCESSES_PER_NETNS)))?;
        let mut answering = Vec::new();
        for netns in 0..3_u8 {
            let address = if netns == 0 { "127.0.0.1".to_owned() } else { format!("10.77.{netns}.2") };
            let mut holder = None;
            for process in 0..PROCESSES_PER_NETNS {
                let args = Args {
                    address: address.parse()?,
                    first_port: 10_000 + process * each,
                    count: each,
                    manner: Manner::Accept,
                    unshare: netns > 0 && process == 0,
                };
                let mut child = Listeners::start(&args, holder)?;
                if args.unshare {
                    holder = Some(child.pid());
                    connect(netns, child.pid())?;
                }
                child.open_all()?;
                answering.push((child, address.clone(), holder));
            }
        }
        let failing_address = "10.77.3.2".to_owned();
        let mut failing = Vec::new();
        let mut holder = None;
        for (place, (manner, name)) in
            [(Manner::Full, "dropping"), (Manner::NeverAccept, "stalled")].into_iter().enumerate()
        {
            let first_port = 10_000 + place as u16 * 1_000;
            let args = Args {
                address: failing_address.parse()?,
                first_port,
                count: FAILING_EACH,
                manner,
                unshare: place == 0,
            };
            let mut child = Listeners::start(&args, holder)?;
            if args.unshare {
                holder = Some(child.pid());
                connect(3, child.pid())?;
            }
            child.open_all()?;
            failing.push((child, name));
        }
        let failing_pid = holder.context("no failing targets")?;
        let mut random = Random(scenario.seed);
        let mut churned = BTreeSet::new();
        for group in 0..answering.len() {
            let some = (0..usize::from(each).div_ceil(CHURNED)).map(|_| (group, random.below(u64::from(each)) as u16));
            churned.extend(some);
        }
        Ok(World { answering, failing, failing_address, failing_pid, churned })
    }

    /// One document per pod (JSON is YAML).
    fn pods(&self) -> Vec<String> {
        let mut pods = Vec::new();
        for (group, (listeners, address, holder)) in self.answering.iter().enumerate() {
            for place in 0..listeners.count {
                let port = listeners.first_port + place;
                let kinds: &[&str] = &["livenessProbe", "readinessProbe"];
                let kind = if self.churned.contains(&(group, place)) { "churned" } else { "answering" };
                pods.push(pod(
                    &format!("{kind}-{group}-{place}"),
                    address,
                    *holder,
                    port,
                    CONTAINERS_PER_LISTENER,
                    kinds,
                ));
            }
        }
        let holder = Some(self.failing_pid);
        for (listeners, name) in &self.failing {
            for place in 0..listeners.count {
                let port = listeners.first_port + place;
                pods.push(pod(&format!("{name}-{place}"), &self.failing_address, holder, port, 1, &["readinessProbe"]));
            }
        }
        for place in 0..FAILING_EACH {
            let name = format!("refusing-{place}");
            pods.push(pod(&name, &self.failing_address, holder, 20_000 + place, 1, &["readinessProbe"]));
        }
        pods
    }

    /// `PassiveOpens` of the counted namespaces, and of the failing targets' one.
    fn passive_opens(&self) -> anyhow::Result<(u64, u64)> {
        let mut counted = kernel::passive_opens("self")?;
        for (_, _, holder) in self.answering.iter().step_by(usize::from(PROCESSES_PER_NETNS)) {
            if let Some(pid) = holder {
                counted += kernel::passive_opens(&pid.to_string())?;
            }
        }
        Ok((counted, kernel::passive_opens(&self.failing_pid.to_string())?))
    }

    fn measure(
        &mut self,
        scenario: &Scenario,
        program: &Path,
        folder: &Path,
        manifests: &Path,
        flags: &[String],
        seconds: u64,
    ) -> anyhow::Result<Phase> {
        // Its first connects are made before it is ready.
        let mut opens = self.passive_opens()?;
        let daemon = Daemon::start(program, folder, manifests, flags)?;
        let mut churn = Churn::new(self, scenario.seed);
        let mut phase = Phase::default();
        let start = now();
        let settled = scenario.passive_max_age.min(seconds / 2);
        for second in 1..=seconds {
            // Between the seconds: listeners close and open, and what was noticed of it is looked at.
            while now() < start + Duration::from_secs(second) {
                churn.step(self)?;
                std::thread::sleep(Duration::from_millis(5));
            }
            churn.look(program, folder)?;
            let next = self.passive_opens()?;
            phase.opens.push((next.0 - opens.0, next.1 - opens.1));
            opens = next;
            phase.time_wait.push(kernel::time_wait()?);
            if second == settled {
                phase.before = Some(Reading::take(&daemon)?);
                opens.0 += Reading::OPENS;
            }
        }
        phase.after = Some(Reading::take(&daemon)?);
        phase.settled = settled as usize;
        // Nothing is changed again before it was noticed.
        std::thread::sleep(NOTICE_MARGIN + Duration::from_secs(2));
        churn.look(program, folder)?;
        churn.settle(self)?;
        std::thread::sleep(NOTICE_MARGIN + Duration::from_secs(2));
        churn.look(program, folder)?;
        phase.churn = churn.changes;
        phase.verdicts = verdicts(program, folder)?;
        Ok(phase)
    }
}

/// A veth pair between our namespace and the child's: `10.77.N.1/30` here, `10.77.N.2/30` there.
fn connect(netns: u8, pid: u32) -> anyhow::Result<()> {
    let (ours, pid) = (format!("v{netns}"), pid.to_string());
    ip(&["link", "add", &ours, "type", "veth", "peer", "name", "eth0", "netns", &pid])?;
    ip(&["addr", "add", &format!("10.77.{netns}.1/30"), "dev", &ours])?;
    ip(&["link", "set", &ours, "up"])?;
    for words in [
        &["link", "set", "lo", "up"][..],
        &["addr", "add", &format!("10.77.{netns}.2/30"), "dev", "eth0"],
        &["link", "set", "eth0", "up"],
    ] {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{pid}/ns/net")).arg("ip").args(words);
        succeed(&mut command)?;
    }
    Ok(())
}

fn ip(words: &[&str]) -> anyhow::Result<()> {
    succeed(Command::new("ip").args(words))
}

fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("{command:?}: is it installed (iproute2, util-linux)?"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

fn pod(name: &str, address: &str, holder: Option<u32>, port: u16, containers: usize, kinds: &[&str]) -> String {
    let probe = json!({"tcpSocket": {"port": port}, "periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 1});
    let container = |index: usize| {
        let mut container = json!({"name": format!("c{index}")});
        for kind in kinds {
            container[*kind] = probe.clone();
        }
        container
    };
    let annotations = holder.map(|pid| json!({"probe-engine.io/netns": format!("/proc/{pid}/ns/net")}));
    let (group, _) = name.split_once('-').unwrap_or((name, ""));
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "load", "labels": {"group": group},
            "annotations": annotations.unwrap_or_else(|| json!({})),
        },
        "spec": {"containers": (0..containers).map(container).collect::<Vec<_>>()},
        "status": {"podIP": address},
    })
    .to_string()
}

/// Listeners that are closed and opened again at random times of a seed.
struct Churn {
    random: Random,
    listeners: Vec<Churned>,
    changes: Changes,
}

struct Churned {
    group: usize,
    place: u16,
    pod: String,
    open: bool,
    next: Instant,
    /// When its last system call returned, until that was noticed.
    changed_ns: Option<u128>,
}

/// What became of the changes.
#[derive(Default)]
struct Changes {
    made: usize,
    /// How long each took to be noticed by each of its probes.
    noticed_ms: Vec<f64>,
    /// Those that were not in time.
    late: Vec<String>,
}

impl Churn {
    fn new(world: &World, seed: u64) -> Churn {
        let mut random = Random(!seed);
        let mut churned = |&(group, place): &(usize, u16)| Churned {
            group,
            place,
            pod: format!("churned-{group}-{place}"),
            open: true,
            next: now() + Duration::from_millis(8_000 + random.below(20_000)),
            changed_ns: None,
        };
        let listeners = world.churned.iter().map(&mut churned).collect();
        Churn { random, listeners, changes: Changes::default() }
    }

    fn step(&mut self, world: &mut World) -> anyhow::Result<()> {
        for index in 0..self.listeners.len() {
            if now() >= self.listeners[index].next {
                let pause = Duration::from_millis(5_000 + self.random.below(15_000));
                self.change(index, world, pause)?;
            }
        }
        Ok(())
    }

    fn change(&mut self, index: usize, world: &mut World, pause: Duration) -> anyhow::Result<()> {
        let churned = &mut self.listeners[index];
        let word = if churned.open { "close" } else { "open" };
        let at = world.answering[churned.group].0.order(word, churned.place)?;
        if churned.changed_ns.replace(at).is_some() {
            self.changes.late.push(format!("{}: changed again before it was noticed", churned.pod));
        }
        churned.open = !churned.open;
        churned.next = now() + pause;
        self.changes.made += 1;
        Ok(())
    }

    /// All open again.
    fn settle(&mut self, world: &mut World) -> anyhow::Result<()> {
        for index in 0..self.listeners.len() {
            if !self.listeners[index].open {
                self.change(index, world, Duration::ZERO)?;
            }
        }
        Ok(())
    }

    /// Since when the probes of the changed listeners have the verdict they should have.
    fn look(&mut self, program: &Path, folder: &Path) -> anyhow::Result<()> {
        if self.listeners.iter().all(|churned| churned.changed_ns.is_none()) {
            return Ok(());
        }
        let rows = probes(program, folder, "group=churned")?;
        for churned in &mut self.listeners {
            let Some(changed) = churned.changed_ns else { continue };
            let want = if churned.open { "Success" } else { "Failure" };
            // A liveness probe that failed waits for a restart, which nobody makes here.
            let rows = rows.iter().filter(|row| row.pod == churned.pod && row.name.ends_with("Readiness"));
            let rows: Vec<&Row> = rows.collect();
            if rows.iter().all(|row| row.verdict == want && row.since_ns > changed) {
                churned.changed_ns = None;
                for row in rows {
                    let took = Duration::from_nanos((row.since_ns - changed) as u64);
                    self.changes.noticed_ms.push(took.as_secs_f64() * 1e3);
                    if took > Duration::from_secs(2) + NOTICE_MARGIN {
                        self.changes.late.push(format!("{} {want}: after {took:?}", row.pod));
                    }
                }
            } else if wall_ns() > changed + 5_000_000_000 {
                churned.changed_ns = None;
                self.changes.late.push(format!("{} {want}: not noticed", churned.pod));
            }
        }
        Ok(())
    }
}

/// splitmix64
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0) % end
    }
}

/// One probe, as `get probes` tells it.
struct Row {
    pod: String,
    /// Pod, container and type.
    name: String,
    verdict: String,
    since_ns: u128,
    failed: u64,
}

fn probes(program: &Path, folder: &Path, selector: &str) -> anyhow::Result<Vec<Row>> {
    let output = Command::new(program)
        .args(["get", "probes", "--all-namespaces", "-o", "json", "-l", selector, "--socket"])
        .arg(folder.join("api.sock"))
        .output()?;
    if !output.status.success() {
        bail!("get probes: {}", String::from_utf8_lossy(&output.stderr));
    }
    let list: Value = serde_json::from_slice(&output.stdout)?;
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let row = |row: &Value| {
        Ok(Row {
            pod: text(row, "pod"),
            name: format!("{}/{}/{}", text(row, "pod"), text(row, "container"), text(row, "type")),
            verdict: text(row, "verdict"),
            since_ns: nanos(&text(row, "verdictSince"))?,
            failed: row["failedCount"].as_u64().unwrap_or_default(),
        })
    };
    list["items"].as_array().context("no items")?.iter().map(row).collect()
}

/// An RFC 3339 time in UTC as nanoseconds since 1970; 0 where there is none.
fn nanos(time: &str) -> anyhow::Result<u128> {
    if time.is_empty() {
        return Ok(0);
    }
    let time: jiff::Timestamp = time.parse().with_context(|| format!("time {time:?}"))?;
    Ok(u128::try_from(time.as_nanosecond())?)
}

/// By group: how many probes have which verdict; and the failures of those that were never touched.
fn verdicts(program: &Path, folder: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let rows = probes(program, folder, "group")?;
    Ok(rows
        .into_iter()
        .map(|row| (format!("{} {}", row.name, if row.failed == 0 { "never failed" } else { "failed" }), row.verdict))
        .collect())
}

/// The daemon at one moment.
struct Reading {
    at: Instant,
    attempts: f64,
    process: Process,
}

impl Reading {
    /// Connections that taking one makes in our own namespace.
    const OPENS: u64 = 1;

    fn take(daemon: &Daemon) -> anyhow::Result<Reading> {
        let page = daemon.page("/metrics")?;
        let attempts = sum(&samples(&page), "prober_probe_total", &[]);
        Ok(Reading { at: now(), attempts, process: kernel::process(daemon.pid())? })
    }
}

/// What one run of the daemon gave.
#[derive(Default)]
struct Phase {
    /// Connections taken each second: of the counted namespaces, and of the failing targets.
    opens: Vec<(u64, u64)>,
    time_wait: Vec<u64>,
    /// The first second that is measured.
    settled: usize,
    before: Option<Reading>,
    after: Option<Reading>,
    churn: Changes,
    verdicts: BTreeMap<String, String>,
}

impl Phase {
    fn cpu_us_per_attempt(&self) -> f64 {
        let (Some(before), Some(after)) = (&self.before, &self.after) else { return f64::NAN };
        (after.process.cpu_s - before.process.cpu_s) * 1e6 / (after.attempts - before.attempts)
    }

    fn cores(&self) -> f64 {
        let (Some(before), Some(after)) = (&self.before, &self.after) else { return f64::NAN };
        (after.process.cpu_s - before.process.cpu_s) / after.at.duration_since(before.at).as_secs_f64()
    }

    /// The most that TIME_WAIT was above the connections of the seconds in which they can have begun.
    fn time_wait_excess(&self) -> i64 {
        let mut window: VecDeque<u64> = VecDeque::new();
        let mut most = i64::MIN;
        for ((counted, failing), time_wait) in self.opens.iter().zip(&self.time_wait) {
            window.push_back(counted + failing);
            if window.len() > TIME_WAIT_S {
                window.pop_front();
            }
            most = most.max(*time_wait as i64 - window.iter().sum::<u64>() as i64);
        }
        most
    }
}

struct Report {
    scenario: Scenario,
    on: Phase,
    off: Phase,
}

impl Report {
    /// Prints each claim with whether it holds; fails when one does not.
    fn judge(&self) -> anyhow::Result<()> {
        println!(
            "{} probes, period 1 s, {} s; then {} s with --ebpf off",
            self.scenario.probes, self.scenario.duration, self.scenario.off_duration
        );
        let mut wrong = 0;
        for (holds, text) in self.claims() {
            println!("{} {text}", if holds { "ok  " } else { "FAIL" });
            wrong += usize::from(!holds);
        }
        for late in self.on.churn.late.iter().chain(&self.off.churn.late).take(20) {
            println!("     {late}");
        }
        for (name, phase) in [("on ", &self.on), ("off", &self.off)] {
            let rss = phase.after.as_ref().map_or(0, |reading| reading.process.rss_bytes);
            println!(
                "     eBPF {name}: {:.2} us of CPU per attempt, {:.4} of a core, {:.1} MB",
                phase.cpu_us_per_attempt(),
                phase.cores(),
                rss as f64 / 1e6
            );
        }
        if wrong > 0 {
            bail!("{wrong} claim(s) do not hold");
        }
        Ok(())
    }

    fn real(&self) -> (f64, f64, u64) {
        let measured = &self.on.opens[self.on.settled.min(self.on.opens.len())..];
        let total: u64 = measured.iter().map(|(counted, _)| counted).sum();
        let mean = total as f64 / measured.len().max(1) as f64;
        let most = measured.iter().map(|(counted, _)| *counted).max().unwrap_or(0);
        (mean, self.scenario.probes as f64 / mean.max(f64::MIN_POSITIVE), most)
    }

    fn claims(&self) -> Vec<(bool, String)> {
        let (mean, one_of, most) = self.real();
        let excess = self.on.time_wait_excess();
        let differing: Vec<(&String, &String)> =
            self.on.verdicts.iter().filter(|(key, verdict)| self.off.verdicts.get(*key) != Some(verdict)).collect();
        let slowest = |phase: &Phase| phase.churn.noticed_ms.iter().copied().fold(0.0, f64::max);
        let changes = |name: &str, phase: &Phase| {
            let Changes { made, late, .. } = &phase.churn;
            (
                late.is_empty(),
                format!(
                    "eBPF {name}: {made} changes, each noticed by every probe within 2.1 s (slowest {:.0} ms)",
                    slowest(phase)
                ),
            )
        };
        vec![
            (one_of > 50.0, format!("real connects: {mean:.0} a second, one of {one_of:.1} attempts")),
            (
                most as f64 <= 3.0 * mean,
                format!("most real connects in a second: {most} ({:.2} times the mean)", most as f64 / mean),
            ),
            (
                excess <= 0,
                format!(
                    "TIME_WAIT at most {} above the connects of the last 65 s (at most {} in all)",
                    excess,
                    self.on.time_wait.iter().max().unwrap_or(&0)
                ),
            ),
            (
                differing.is_empty() && self.on.verdicts.len() == self.off.verdicts.len(),
                format!(
                    "verdicts of {} probes, {} of them not as with --ebpf off {:?}",
                    self.on.verdicts.len(),
                    differing.len(),
                    differing.iter().take(5).collect::<Vec<_>>()
                ),
            ),
            changes("on", &self.on),
            changes("off", &self.off),
        ]
    }

    fn json(&self) -> Value {
        let (mean, one_of, most) = self.real();
        json!({
            "scenario": "passive",
            "valid": self.claims().iter().all(|(holds, _)| *holds),
            "probes": self.scenario.probes,
            "passive_max_age_s": self.scenario.passive_max_age,
            "duration_s": self.scenario.duration,
            "real_connects_per_s": mean,
            "attempts_per_real_connect": one_of,
            "real_connects_per_s_max": most,
            "time_wait_max": self.on.time_wait.iter().max(),
            "time_wait_max_off": self.off.time_wait.iter().max(),
            "changes": self.on.churn.made,
            "cpu_us_per_attempt": self.on.cpu_us_per_attempt(),
            "cpu_us_per_attempt_off": self.off.cpu_us_per_attempt(),
        })
    }
}

fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "not engine code: the scenario's own clock")]
    let now = Instant::now();
    now
}
