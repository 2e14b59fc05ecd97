//! The scenario `cold-start`: how long it takes until 50,000 probes are scheduled, how their first attempts are spread, and
//! how soon those of pods are made that come later.
//!
//! Without passive answers: every first attempt is a connection, which the kernel counts.

mod form;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use probe_engine::config::{Config, RuntimeChoice, Settings};
use probe_engine::core::spec::Pod;
use probe_engine::engine::Engine;
use probe_engine::source::PodUpdate;
use probe_engine::source::parse::{self, Interner, RuntimeKind, Strictness};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use self::form::Form;
use super::life::{self, WholeLife, say, sleep_until};
use crate::daemon::Daemon;
use crate::kernel::{self, Tcp};
use crate::listeners::wall_ns;
use crate::load::{Load, PROBES_PER_POD, Place, address_of};
use crate::netns::SOMAXCONN;
use crate::options::{Options, value_name};
use crate::quantile::{median, quantile};
use crate::report::failed;
use crate::scenario::Scenario;
use crate::table::{figure, number};
use crate::targets::Targets;
use crate::truth::{Log, Probe, Truth};
use crate::window::now;

/// How often parsed pods are handed over, each time to an engine of its own.
const ROUNDS: usize = 3;

/// Parsed pods are scheduled in this time (with the scenario's own numbers).
const SCHEDULED_MAX: Duration = Duration::from_secs(1);

/// Longest time that anything here is waited for.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// First attempts are counted over so long, ten to the second.
const SPREAD_STEP: Duration = Duration::from_millis(100);

/// No step has more first attempts than this many times the mean ...
const SPREAD_MAX: f64 = 1.5;

/// ... where the mean is at least this: of few, chance makes more (50 and 4 standard deviations are 1.57 times 50).
const SPREAD_MEAN_MIN: f64 = 100.0;

/// Pods that come later, at once: one, some, and as many as fit ten times into the load.
const LATER_PODS: [usize; 3] = [1, 100, 2_500];

/// A single pod that comes later is tried within this (with the scenario's own numbers): the source waits for 100 ms until a
/// file's writer is done, and reads all files again.
const LATER_ONE_MAX_MS: f64 = 500.0;

/// Port of those; see `load`: below those of all other targets.
const LATER_PORT: u16 = 1_401;

/// Runs it; the process is in its network namespace already.
pub fn run(options: &Options, short: bool) -> anyhow::Result<Value> {
    let scenario = Scenario::ColdStart;
    let numbers = options.numbers(scenario, short)?;
    let is_short = short || options.smoke;
    let period = Duration::from_secs(numbers.period_s);
    let folder = tempfile::tempdir()?;
    let load = Load::plan(scenario.mix(), numbers.probes, numbers.period_s, folder.path());
    let targets = Targets::start(&load, folder.path(), 0)?;
    let parsed_ms = parsed(&load, options, folder.path())?;
    say(&format!("cold-start: {} parsed pods are scheduled after {parsed_ms:.0?} ms", load.pods.len()));
    let mut files = BTreeMap::new();
    for form in [Form::OneYaml, Form::EachYaml, Form::EachJson] {
        let manifests = form.write(&load, folder.path())?;
        let (_, loaded) = start(options, folder.path(), &manifests, load.probes())?;
        files.insert(form.name(), loaded.json(form, &manifests)?);
    }
    let manifests = Form::OneJson.write(&load, folder.path())?;
    let taken_before = Tcp::read()?.passive_opens;
    let spread = Spread::start();
    let (daemon, loaded) = start(options, folder.path(), &manifests, load.probes())?;
    files.insert(Form::OneJson.name(), loaded.json(Form::OneJson, &manifests)?);
    sleep_until(now() + period);
    let spread = spread.found(&load, period)?;
    // The daemon is older than a period: what is added from now on is tried at once.
    let later = later(&load, numbers.period_s, &manifests, is_short)?;
    std::thread::sleep(life::SETTLE);
    let log = Log::read(daemon.log())?;
    let whole_life = WholeLife::of(&daemon, &manifests, taken_before, 0)?;
    let mut complaints = complaints(&log, &whole_life, &load, period);
    complaints.extend(spread.complaint());
    if !is_short {
        complaints.extend(median(&parsed_ms).filter(|ms| *ms > SCHEDULED_MAX.as_secs_f64() * 1e3).map(|ms| {
            format!("parsed pods are scheduled after {ms:.0} ms (median of {parsed_ms:.0?}), want {SCHEDULED_MAX:?}")
        }));
        complaints.extend(later.iter().filter(|later| later.pods == 1 && later.last_ms() > LATER_ONE_MAX_MS).map(
            |later| {
                format!("one pod that came later was tried after {:.0} ms, want {LATER_ONE_MAX_MS} ms", later.last_ms())
            },
        ));
    }
    if !complaints.is_empty() {
        return Ok(failed("cold-start", &complaints, load.probes(), &log.warnings));
    }
    Ok(json!({
        "scenario": "cold-start",
        "valid": spread.is_judged(),
        "invalid_because": (!spread.is_judged()).then_some("too few probes for their spread to be judged"),
        "probes": load.probes(),
        "pods": load.pods.len(),
        "listeners": targets.listeners,
        "period_ms": period.as_millis() as u64,
        "parsed": {"scheduled_ms": parsed_ms, "median_ms": median(&parsed_ms)},
        "files": files,
        "first_attempts": spread.json(),
        "later": later.iter().map(Later::json).collect::<Vec<_>>(),
        "truth": {"target_accepts": whole_life.taken as u64, "wrong_verdicts": 0},
        "warnings": log.warnings.len(),
    }))
}

/// What the daemon said that is not true.
fn complaints(log: &Log, whole_life: &WholeLife, load: &Load, period: Duration) -> Vec<String> {
    let mut complaints: Vec<String> = whole_life.complaint(period.as_secs_f64()).into_iter().collect();
    complaints.extend(Truth::of(&[], log, period).complaints());
    let succeeded = log.changes.iter().filter(|change| change.pod < load.pods.len() && !change.is_failure);
    let ready = succeeded.filter(|change| change.probe.1 == Probe::Readiness).count();
    if ready != load.probes() / 2 {
        complaints.push(format!("{ready} of {} readiness probes succeeded", load.probes() / 2));
    }
    complaints
}

/// Milliseconds from the first parsed pod that is handed over until the probes of all are scheduled, in each round.
fn parsed(load: &Load, options: &Options, folder: &Path) -> anyhow::Result<Vec<f64>> {
    let pods = parse_all(load)?;
    // As the daemon's own: sources, manager and results are its tasks.
    let control = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        let config = config(options, &folder.join(format!("embedded-{round}")))?;
        let took = control.block_on(hand_over(config, &pods, load.probes()))?;
        rounds.push(took.as_secs_f64() * 1e3);
    }
    Ok(rounds)
}

async fn hand_over(config: Config, pods: &[Arc<Pod>], probes: usize) -> anyhow::Result<Duration> {
    let engine = Engine::start(config, RuntimeChoice::None).await?;
    let (updates, pods) = (engine.updates(), pods.to_vec());
    let began = now();
    let source = tokio::spawn(async move {
        for pod in pods {
            if updates.send(PodUpdate::Add(pod)).await.is_err() {
                return;
            }
        }
    });
    let mut took = None;
    while took.is_none() && began.elapsed() < WAIT_MAX {
        tokio::time::sleep(Duration::from_millis(1)).await;
        took = (engine.workers_len() == probes).then(|| began.elapsed());
    }
    source.await?;
    let workers = engine.workers_len();
    engine.end(std::future::ready(())).await;
    took.with_context(|| format!("{workers} of {probes} probes are scheduled after {WAIT_MAX:?}"))
}

fn config(options: &Options, folder: &Path) -> anyhow::Result<Config> {
    fs::create_dir(folder)?;
    let mut settings = json!({
        "socket": folder.join("api.sock"), "stateDir": folder.join("state"), "metricsListen": "127.0.0.1:0",
        "ebpf": "off", "close": value_name(options.close),
    });
    if let Some(shards) = options.shards {
        settings["shards"] = json!(shards);
    }
    if let Some(io) = options.io {
        settings["io"] = json!(value_name(io));
    }
    Ok(Config::load(&serde_json::from_value::<Settings>(settings)?, None)?)
}

fn parse_all(load: &Load) -> anyhow::Result<Vec<Arc<Pod>>> {
    let options = parse::Options { strictness: Strictness::Run, runtime: Some(RuntimeKind::None) };
    let interner = Interner::default();
    let mut pods = Vec::with_capacity(load.pods.len());
    for pod in 0..load.pods.len() {
        let text = load.manifest(pod).to_string();
        for parsed in parse::pods("load", text.as_bytes(), &options, &interner) {
            match parsed {
                Ok(parsed) => pods.push(Arc::new(parsed.pod)),
                Err(problems) => bail!("pod {pod}: {:?}", problems.first()),
            }
        }
    }
    Ok(pods)
}

/// What a daemon took to read its files.
struct Loaded {
    /// From its start until all pods were handed to the manager, which hands each on at once.
    read_s: f64,
}

impl Loaded {
    fn json(&self, form: Form, manifests: &Path) -> anyhow::Result<Value> {
        let mut bytes = 0;
        let mut files = 0;
        for file in fs::read_dir(manifests)? {
            bytes += file?.metadata()?.len();
            files += 1;
        }
        say(&format!("cold-start: {} read in {:.2} s", form.name(), self.read_s));
        Ok(json!({"files": files, "bytes": bytes, "scheduled_s": self.read_s}))
    }
}

/// Starts a daemon, and waits until all its probes are scheduled.
fn start(options: &Options, folder: &Path, manifests: &Path, probes: usize) -> anyhow::Result<(Daemon, Loaded)> {
    let mut args = life::daemon_args(Scenario::ColdStart, options);
    let level = args.iter_mut().find(|arg| arg.starts_with("--log-level=")).context("no log level")?;
    level.push_str(",probe_engine::manager=info");
    let began_ns = wall_ns();
    let daemon = Daemon::start(&options.daemon, folder, manifests, &args)?;
    let read_ns = read_at(daemon.log())?;
    life::wait_until_scheduled(&daemon, probes)?;
    Ok((daemon, Loaded { read_s: read_ns.saturating_sub(began_ns) as f64 / 1e9 }))
}

/// When the manager had taken what the manifests gave: the log's word, which is there when the daemon is ready.
fn read_at(log: &Path) -> anyhow::Result<u128> {
    let text = fs::read_to_string(log)?;
    let line = text.lines().find(|line| line.contains("source has been read")).context("the source was not read")?;
    let line: Value = serde_json::from_str(line)?;
    let at: jiff::Timestamp = line["timestamp"].as_str().unwrap_or_default().parse()?;
    Ok(u128::try_from(at.as_nanosecond())?)
}

/// A thread that looks ten times a second how many connections there were.
struct Spread {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<anyhow::Result<Vec<(Instant, u64)>>>,
}

/// First attempts over time.
struct Found {
    /// By step, from before the daemon's start on.
    steps: Vec<f64>,
    mean: f64,
}

impl Spread {
    fn start() -> Spread {
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut looks = Vec::new();
            let mut at = now();
            loop {
                looks.push((now(), kernel::passive_opens("self")?));
                at += SPREAD_STEP;
                if stopped.recv_timeout(at.saturating_duration_since(now())) != Err(RecvTimeoutError::Timeout) {
                    return Ok(looks);
                }
            }
        });
        Spread { stop, thread }
    }

    /// To be called when every probe has had its first attempt; second ones, a period later, are spread as they are.
    fn found(self, load: &Load, period: Duration) -> anyhow::Result<Found> {
        let _ = self.stop.send(());
        let looks = self.thread.join().map_err(|_| anyhow::anyhow!("the thread that looks panicked"))??;
        let mean = load.probes() as f64 / period.as_secs_f64() * SPREAD_STEP.as_secs_f64();
        let steps = looks.windows(2).map(|pair| {
            let [(from, before), (to, after)] = [pair[0], pair[1]];
            (after - before) as f64 * SPREAD_STEP.as_secs_f64() / to.duration_since(from).as_secs_f64()
        });
        Ok(Found { steps: steps.collect(), mean })
    }
}

impl Found {
    fn max(&self) -> f64 {
        self.steps.iter().copied().fold(0.0, f64::max)
    }

    fn is_judged(&self) -> bool {
        self.mean >= SPREAD_MEAN_MIN
    }

    fn complaint(&self) -> Option<String> {
        let is_over = self.is_judged() && self.max() > SPREAD_MAX * self.mean;
        is_over.then(|| {
            let (max, mean) = (self.max(), self.mean);
            format!(
                "{max:.0} first attempts in {SPREAD_STEP:?}, where the mean is {mean:.0}: more than {SPREAD_MAX} times"
            )
        })
    }

    fn json(&self) -> Value {
        json!({
            "step_ms": SPREAD_STEP.as_millis() as u64, "mean": self.mean, "max": self.max(),
            "max_of_mean": self.max() / self.mean, "by_step": self.steps,
        })
    }
}

/// First attempts of pods that came at once.
struct Later {
    pods: usize,
    /// From just before the rename of their file, ascending; one per probe.
    ms: Vec<f64>,
}

impl Later {
    fn last_ms(&self) -> f64 {
        self.ms.last().copied().unwrap_or(f64::INFINITY)
    }

    fn json(&self) -> Value {
        json!({
            "pods": self.pods, "probes": self.pods * PROBES_PER_POD,
            "ms": {
                "first": quantile(&self.ms, 0.0), "p50": quantile(&self.ms, 0.5), "p99": quantile(&self.ms, 0.99),
                "max": quantile(&self.ms, 1.0),
            },
        })
    }
}

/// Adds pods to those that are there; their targets are this process's, which sees each connection.
fn later(load: &Load, period_s: u64, manifests: &Path, is_short: bool) -> anyhow::Result<Vec<Later>> {
    let (sender, accepted) = mpsc::channel();
    let listener = listen()?;
    std::thread::spawn(move || accept(&listener, &sender));
    let mut all = Load::plan(Scenario::ColdStart.mix(), load.probes(), period_s, manifests);
    let mut later = Vec::new();
    for pods in LATER_PODS {
        let pods = if is_short { pods.min(100) } else { pods };
        let first = all.pods.len();
        let template = all.pods[0].clone();
        for pod in first..first + pods {
            let address = SocketAddr::from((address_of(pod), LATER_PORT));
            all.pods.push(crate::load::Target { place: Place::Shared(address), ..template.clone() });
        }
        later.push(add(&all, first..first + pods, manifests, &accepted)?);
    }
    Ok(later)
}

fn add(
    load: &Load,
    pods: std::ops::Range<usize>,
    manifests: &Path,
    accepted: &mpsc::Receiver<(IpAddr, Instant)>,
) -> anyhow::Result<Later> {
    let path = manifests.join(format!("later-{}.json", pods.start));
    let part = path.with_extension("part");
    let text: Vec<String> = pods.clone().map(|pod| load.manifest(pod).to_string()).collect();
    fs::write(&part, text.join("\n---\n"))?;
    let mut left: HashMap<IpAddr, usize> =
        pods.clone().map(|pod| (IpAddr::from(address_of(pod)), PROBES_PER_POD)).collect();
    let mut later = Later { pods: pods.len(), ms: Vec::new() };
    let came = now();
    fs::rename(part, path)?;
    while !left.is_empty() {
        let wait = WAIT_MAX.saturating_sub(came.elapsed());
        let Ok((address, at)) = accepted.recv_timeout(wait) else {
            bail!("{} of {} pods that came later were not tried within {WAIT_MAX:?}", left.len(), pods.len());
        };
        // Further ones are second attempts, and those of pods that came before.
        if let Some(probes) = left.get_mut(&address) {
            *probes -= 1;
            if *probes == 0 {
                left.remove(&address);
            }
            later.ms.push(at.saturating_duration_since(came).as_secs_f64() * 1e3);
        }
    }
    later.ms.sort_by(f64::total_cmp);
    Ok(later)
}

fn listen() -> anyhow::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, LATER_PORT)).into())?;
    socket.listen(SOMAXCONN)?;
    Ok(socket.into())
}

/// Until the process ends: the daemon goes on probing when nobody counts any more.
fn accept(listener: &TcpListener, accepted: &mpsc::Sender<(IpAddr, Instant)>) {
    while let Ok((connection, _)) = listener.accept() {
        let at = now();
        let Ok(address) = connection.local_addr() else { continue };
        let _ = accepted.send((address.ip(), at));
    }
}

/// Its lines.
pub fn print(report: &Value) {
    let invalid = report["invalid_because"].as_str().map_or_else(String::new, |why| format!(", valid: false ({why})"));
    println!(
        "cold-start: {} probes of {} pods, period {} s{invalid}",
        report["probes"],
        report["pods"],
        number(&report["period_ms"]) / 1e3
    );
    println!(
        "    parsed pods: all scheduled after {} ms (median of {})",
        figure(&report["parsed"]["median_ms"]),
        report["parsed"]["scheduled_ms"].as_array().map_or(0, Vec::len)
    );
    for (form, files) in report["files"].as_object().into_iter().flatten() {
        println!(
            "    {form}: {} files, {:.1} MB: all scheduled {} s after the daemon's start",
            files["files"],
            number(&files["bytes"]) / 1e6,
            figure(&files["scheduled_s"])
        );
    }
    let spread = &report["first_attempts"];
    println!(
        "    first attempts in {} ms: mean {}, at most {} ({} times the mean)",
        spread["step_ms"],
        figure(&spread["mean"]),
        figure(&spread["max"]),
        figure(&spread["max_of_mean"])
    );
    for later in report["later"].as_array().into_iter().flatten() {
        let ms = &later["ms"];
        println!(
            "    {} pod(s) that come later: from the file's rename to the first attempts {} ms, p50 {}, p99 {}, max {} ms",
            later["pods"],
            figure(&ms["first"]),
            figure(&ms["p50"]),
            figure(&ms["p99"]),
            figure(&ms["max"])
        );
    }
}
