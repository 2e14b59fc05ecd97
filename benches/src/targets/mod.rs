//! The targets of a load, in processes of their own, so that their CPU is not the daemon's: the parent's side.
//!
//! A process serves up to `LISTENERS_PER_PROCESS_MAX` listeners of one handler, closes and opens them on orders, and
//! tells when the system calls began and returned. Targets of exec probes are files, which the scenario's own process
//! removes and makes again.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, bail};

use crate::handler::Handler;
use crate::kernel;
use crate::listeners::wall_ns;
use crate::load::{Load, Place};

mod grpc;
mod server;
mod tls;

/// Listeners of one process; with its connections it stays below 16,000 descriptors.
const LISTENERS_PER_PROCESS_MAX: usize = 4_000;

/// Fewest processes for targets with many listeners, so that no single one is the bottleneck.
const PROCESSES_MIN: usize = 2;

/// What a target process serves; also the arguments of `probe-load targets`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// What they speak
    #[arg(long, value_enum)]
    pub handler: Handler,
    /// File with one `IP:PORT` a line
    #[arg(long)]
    pub list: PathBuf,
    /// Added to the nice value (negative: before the daemon, needs CAP_SYS_NICE)
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub nice: i32,
}

/// The child's side: serves until standard input ends.
pub fn serve(args: &Args) -> anyhow::Result<()> {
    kernel::raise_descriptor_limit()?;
    if args.nice != 0 {
        rustix::process::nice(args.nice).with_context(|| format!("nice {}: CAP_SYS_NICE is needed", args.nice))?;
    }
    let list = fs::read_to_string(&args.list).with_context(|| args.list.display().to_string())?;
    let addresses = list.lines().map(str::parse).collect::<Result<Vec<SocketAddr>, _>>()?;
    match args.handler {
        Handler::Tcp | Handler::Http | Handler::Https => server::serve(args.handler, &addresses),
        Handler::Grpc => grpc::serve(&addresses),
        Handler::Exec => bail!("exec probes have no target process"),
    }
}

/// What becomes of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Its port is closed: connects are refused (exec: its file is removed).
    Close,
    /// Its port drops SYNs: the listener's queue is full. Only tcp.
    Drop,
    /// It serves again.
    Open,
}

impl Order {
    const fn word(self) -> &'static str {
        match self {
            Order::Close => "close",
            Order::Drop => "drop",
            Order::Open => "open",
        }
    }

    fn parse(word: &str) -> Option<Order> {
        [Order::Close, Order::Drop, Order::Open].into_iter().find(|order| order.word() == word)
    }
}

/// When an order was carried out, in nanoseconds of CLOCK_REALTIME.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// The system call had not begun.
    pub before_ns: u128,
    /// It had returned.
    pub after_ns: u128,
}

impl Done {
    /// Runs what changes a target.
    fn of(change: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Done> {
        let before_ns = wall_ns();
        change()?;
        Ok(Done { before_ns, after_ns: wall_ns() })
    }

    fn line(self) -> String {
        format!("done {} {}", self.before_ns, self.after_ns)
    }
}

/// A child, and where to write to it and read from it.
struct Process {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Process {
    fn start(args: &Args) -> anyhow::Result<Process> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["targets", "--handler", args.handler.as_str(), "--nice", &args.nice.to_string(), "--list"]);
        command.arg(&args.list).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start the targets")?;
        let stdin = child.stdin.take().context("no input")?;
        let stdout = BufReader::new(child.stdout.take().context("no output")?);
        Ok(Process { child, stdin, stdout })
    }

    fn expect(&mut self, word: &str) -> anyhow::Result<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        let rest = line.trim().strip_prefix(word).with_context(|| format!("targets: want `{word}`, got {line:?}"))?;
        Ok(rest.trim().to_owned())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All targets of a load.
pub struct Targets {
    processes: Vec<Process>,
    /// Process and place in it, by pod; those behind a wildcard listener have none.
    places: BTreeMap<usize, (usize, usize)>,
    /// Of exec probes, by pod.
    files: BTreeMap<usize, PathBuf>,
    /// Listeners of all processes.
    pub listeners: usize,
}

impl Targets {
    /// Starts one process per few thousand listeners, in our network namespace; returns when all of them listen.
    ///
    /// `nice` is theirs, relative to ours (and so to the daemon's).
    pub fn start(load: &Load, folder: &Path, nice: i32) -> anyhow::Result<Targets> {
        let mut targets =
            Targets { processes: Vec::new(), places: BTreeMap::new(), files: BTreeMap::new(), listeners: 0 };
        for handler in [Handler::Tcp, Handler::Http, Handler::Https, Handler::Grpc] {
            let mut own = Vec::new();
            let mut shared = Vec::new();
            for (pod, target) in load.pods.iter().enumerate().filter(|(_, target)| target.handler == handler) {
                match target.place {
                    Place::Own(address) => own.push((Some(pod), address)),
                    Place::Shared(_) => shared.push(target.place.listener()),
                    Place::File(_) => {}
                }
            }
            shared.sort_unstable();
            shared.dedup();
            own.extend(shared.into_iter().map(|address| (None, address)));
            let each = own.len().div_ceil(PROCESSES_MIN).clamp(1, LISTENERS_PER_PROCESS_MAX);
            for part in own.chunks(each) {
                targets.start_process(handler, part, folder, nice)?;
            }
        }
        for (pod, target) in load.pods.iter().enumerate() {
            if let Place::File(path) = &target.place {
                fs::write(path, "")?;
                targets.files.insert(pod, path.clone());
            }
        }
        for process in &mut targets.processes {
            process.expect("ready")?;
        }
        Ok(targets)
    }

    fn start_process(
        &mut self,
        handler: Handler,
        part: &[(Option<usize>, SocketAddr)],
        folder: &Path,
        nice: i32,
    ) -> anyhow::Result<()> {
        let index = self.processes.len();
        let list = folder.join(format!("targets-{index}"));
        fs::write(&list, part.iter().map(|(_, address)| format!("{address}\n")).collect::<String>())?;
        for (place, (pod, _)) in part.iter().enumerate() {
            if let Some(pod) = pod {
                self.places.insert(*pod, (index, place));
            }
        }
        self.listeners += part.len();
        self.processes.push(Process::start(&Args { handler, list, nice })?);
        Ok(())
    }

    /// Whether a pod's target can be closed without closing another's.
    #[must_use]
    pub fn has_own(&self, pod: usize) -> bool {
        self.places.contains_key(&pod) || self.files.contains_key(&pod)
    }

    /// Closes or opens a pod's target; returns when that is done.
    pub fn order(&mut self, order: Order, pod: usize) -> anyhow::Result<Done> {
        if let Some(path) = self.files.get(&pod) {
            return Done::of(|| match order {
                Order::Open => Ok(fs::write(path, "")?),
                Order::Close | Order::Drop => Ok(fs::remove_file(path)?),
            });
        }
        let (process, place) = *self.places.get(&pod).with_context(|| format!("pod {pod} shares its target"))?;
        let process = &mut self.processes[process];
        writeln!(process.stdin, "{} {place}", order.word())?;
        let line = process.expect("done")?;
        let (before, after) = line.split_once(' ').context("want two times")?;
        Ok(Done { before_ns: before.parse()?, after_ns: after.parse()? })
    }

    /// Closes or opens many at once: every process gets all its orders before the first answer is waited for. In the
    /// order of `pods`.
    pub fn order_all(&mut self, order: Order, pods: &[usize]) -> anyhow::Result<Vec<Done>> {
        let mut places = Vec::with_capacity(pods.len());
        for pod in pods {
            places.push(*self.places.get(pod).with_context(|| format!("pod {pod} has no listener of its own"))?);
        }
        for (index, process) in self.processes.iter_mut().enumerate() {
            let of_process = places.iter().filter(|(process, _)| *process == index).map(|(_, place)| place);
            let list: Vec<String> = of_process.map(ToString::to_string).collect();
            if !list.is_empty() {
                writeln!(process.stdin, "{}-all {}", order.word(), list.join(" "))?;
            }
        }
        let mut done = Vec::with_capacity(pods.len());
        let mut answers: BTreeMap<usize, Done> = BTreeMap::new();
        for (index, _) in places {
            let answer = match answers.get(&index) {
                Some(answer) => *answer,
                None => {
                    let line = self.processes[index].expect("done")?;
                    let (before, after) = line.split_once(' ').context("want two times")?;
                    let answer = Done { before_ns: before.parse()?, after_ns: after.parse()? };
                    answers.insert(index, answer);
                    answer
                }
            };
            done.push(answer);
        }
        Ok(done)
    }

    /// Processes of the targets.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.processes.iter().map(|process| process.child.id()).collect()
    }
}

/// An order as a line of standard input: `close 3`, or `close-all 3 4 5`.
struct Orders {
    order: Order,
    places: Vec<usize>,
}

impl Orders {
    fn parse(line: &str) -> anyhow::Result<Orders> {
        let mut words = line.split_whitespace();
        let word = words.next().unwrap_or_default();
        let order = Order::parse(word.trim_end_matches("-all")).with_context(|| format!("order {line:?}"))?;
        let places = words.map(str::parse).collect::<Result<Vec<usize>, _>>()?;
        Ok(Orders { order, places })
    }
}
