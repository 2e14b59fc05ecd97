//! `probe-engine demo`: the real daemon on the embedded examples, with what happens printed as it happens.
//!
//! The daemon is a child process with its own socket, free ports and a temporary directory; everything printed here
//! was asked of it over its socket. With `--check`, a milestone that is missing or out of order is a failure.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use super::client::{self, Client};
use super::{CliError, Exit, escape, output, probes};
use crate::api::v1;
use crate::clock;
use crate::ebpf::EbpfChoice;
use crate::shard::kernel::IoChoice;

mod milestones;
mod passive;

use milestones::{Milestones, Seen};
use passive::Passive;

/// Ports in the examples; each is replaced by a free one.
const EXAMPLE_PORTS: std::ops::RangeInclusive<u16> = 18181..=18189;

/// Of these, the probed one and the control one of the passive example.
const PASSIVE_PORTS: (u16, u16) = (18188, 18189);

/// How often conditions are asked for: they are states, not events.
const POLL: Duration = Duration::from_millis(200);

/// All milestones are reached within this time, or `--check` fails.
const CHECK: Duration = Duration::from_secs(60);

const EXAMPLES: [(&str, &str); 8] = [
    ("1-slow-start.yaml", include_str!("../../../examples/1-slow-start.yaml")),
    ("2-liveness-fails.yaml", include_str!("../../../examples/2-liveness-fails.yaml")),
    ("3-readiness-flaps.yaml", include_str!("../../../examples/3-readiness-flaps.yaml")),
    ("4-tcp.yaml", include_str!("../../../examples/4-tcp.yaml")),
    ("5-grpc.yaml", include_str!("../../../examples/5-grpc.yaml")),
    ("6-exec.yaml", include_str!("../../../examples/6-exec.yaml")),
    ("7-two-containers.yaml", include_str!("../../../examples/7-two-containers.yaml")),
    ("8-passive.yaml", include_str!("../../../examples/8-passive.yaml")),
];

/// Arguments of `demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoArgs {
    /// End when every milestone was reached; exit 1 when one is missing or out of order after 60 s
    #[arg(long)]
    pub check: bool,
    /// How shards do their I/O
    #[arg(long, value_enum, default_value = "auto")]
    pub io: IoChoice,
    /// Whether the kernel program is used
    #[arg(long, value_enum, default_value = "auto")]
    pub ebpf: EbpfChoice,
}

/// Runs the demo until Ctrl-C, or until its milestones are reached with `--check`.
pub fn run(args: &DemoArgs) -> Result<Exit, CliError> {
    client::block_on(async { demonstrate(args).await.map_err(|error| CliError::Failed(format!("{error:#}"))) })
}

async fn demonstrate(args: &DemoArgs) -> anyhow::Result<Exit> {
    let folder = tempfile::Builder::new().prefix("probe-engine-demo-").tempdir().context("no temporary directory")?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut daemon = Daemon::start(folder.path(), args)?;
    introduce(&daemon);
    let told = tokio::select! {
        told = tell(&mut daemon, args.check) => told,
        _ = interrupt.recv() => { say("\nCtrl-C: ending the pods within their grace periods ..."); Ok(Exit::Success) }
        _ = terminate.recv() => Ok(Exit::Success),
    };
    let ended = daemon.end().await;
    if told.is_err() || ended.is_err() {
        let kept = folder.keep();
        eprintln!("the daemon's log is kept: {}", kept.join("daemon.log").display());
    }
    ended?;
    told
}

/// The daemon under demonstration.
struct Daemon {
    child: Child,
    socket: PathBuf,
    metrics: String,
    /// In place of [`PASSIVE_PORTS`].
    passive: (u16, u16),
}

impl Daemon {
    fn start(folder: &Path, args: &DemoArgs) -> anyhow::Result<Daemon> {
        let manifests = folder.join("manifests");
        std::fs::create_dir(&manifests)?;
        let ports = free_ports(EXAMPLE_PORTS.count() + 1)?;
        for (name, text) in EXAMPLES {
            let replaced = EXAMPLE_PORTS
                .zip(&ports)
                .fold(text.to_owned(), |text, (port, free)| text.replace(&port.to_string(), &free.to_string()));
            std::fs::write(manifests.join(name), replaced)?;
        }
        let socket = folder.join("api.sock");
        let metrics = format!("127.0.0.1:{}", ports[ports.len() - 1]);
        let log = std::fs::File::create(folder.join("daemon.log"))?;
        let program = std::env::current_exe().context("the path of this program")?;
        let child = Command::new(program)
            .args(["run", "--runtime", "process", "--io", args.io.as_str(), "--ebpf", args.ebpf.as_str()])
            // An audit or a renewal in between would be right, but is not what is shown.
            .args(["--early-detection", "--passive-audit-per-second=0", "--passive-max-age-seconds=3600"])
            .args(["--metrics-listen", &metrics, "--manifests"])
            .arg(&manifests)
            .arg("--socket")
            .arg(&socket)
            .arg("--state-dir")
            .arg(folder.join("state"))
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| !name.to_string_lossy().starts_with("PROBE_ENGINE_")))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Its own group: Ctrl-C reaches the demo alone, which ends the daemon in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the daemon")?;
        let free = |port: u16| ports[usize::from(port - EXAMPLE_PORTS.start())];
        Ok(Daemon { child, socket, metrics, passive: (free(PASSIVE_PORTS.0), free(PASSIVE_PORTS.1)) })
    }

    async fn connect(&mut self) -> anyhow::Result<Client> {
        let deadline = clock::now() + Duration::from_secs(15);
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("the daemon ended at once: {status}");
            }
            match client::connect(&self.socket).await {
                Ok(client) => return Ok(client),
                Err(error) if clock::now() > deadline => return Err(error.into()),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// SIGTERM, and the daemon's own order of things.
    async fn end(&mut self) -> anyhow::Result<()> {
        let Some(pid) = self.child.id() else { return Ok(()) };
        let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).context("a pid")?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).context("cannot end the daemon")?;
        let status = self.child.wait().await?;
        if !status.success() {
            bail!("the daemon did not end well: {status}");
        }
        Ok(())
    }
}

fn free_ports(count: usize) -> anyhow::Result<Vec<u16>> {
    // All held at once, so that no two are the same.
    let held: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

fn introduce(daemon: &Daemon) {
    say(&format!(
        "probe-engine demo: eight pods, as processes of this machine, under the real daemon.

What to expect in the next 40 s:
  slow-start       its startupProbe fails for 5 s and holds the others back; then it is Ready
  liveness-fails   breaks after 20 s; three liveness failures in a row kill and restart it
  readiness-flaps  leaves Ready after 10 s, comes back 8 s later, and is never restarted
  tcp, grpc        tcpSocket and grpc probes of servers that stay well
  exec             ready while a file is there; the file goes after 12 s and comes back
  two-containers   Ready only when both containers are
  passive          its tcpSocket probe is answered 30 times without a connection (eBPF); then its listener dies

Where to look meanwhile:
  probe-engine --socket {socket} get pods
  probe-engine --socket {socket} describe pod liveness-fails
  curl http://{metrics}/metrics
",
        socket = daemon.socket.display(),
        metrics = daemon.metrics
    ));
}

/// Prints what happens; returns when the milestones are reached and `check` is set, or when they cannot be any more.
async fn tell(daemon: &mut Daemon, check: bool) -> anyhow::Result<Exit> {
    let mut client = daemon.connect().await?;
    let start = clock::now();
    let request = v1::WatchEventsRequest { follow: true, ..Default::default() };
    let mut events = client.clone().watch_events(request).await?.into_inner();
    let mut conditions = Conditions::default();
    let info = client.get_info(v1::GetInfoRequest {}).await?.into_inner();
    if !info.ebpf_loaded {
        say(&format!("!!! SKIPPED, passive answers: {}\n", escape::line(&info.ebpf)));
    }
    let mut passive = Passive::new(daemon.passive, info.ebpf_loaded);
    let mut milestones = Milestones::new(info.ebpf_loaded);
    let mut poll = tokio::time::interval(POLL);
    poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut told = false;
    loop {
        tokio::select! {
            item = events.message() => match item? {
                Some(item) => if let Some(v1::watch_events_response::Item::Event(event)) = item.item {
                    let seen = Seen::of_event(&event);
                    print(start, &event.pod, &describe(&event));
                    milestones.see(&event.pod, seen);
                    if event.pod == passive::POD
                        && matches!(seen, Seen::Unhealthy(..))
                        && let Some((said, seen)) = passive.failed(clock::now())
                    {
                        print(start, passive::POD, &said);
                        milestones.see(passive::POD, seen);
                    }
                },
                None => bail!("the daemon ended its stream of events"),
            },
            _ = poll.tick() => {
                for (pod, ready) in conditions.flips(&mut client).await? {
                    print(start, &pod, if ready { "Ready" } else { "not Ready" });
                    milestones.see(&pod, if ready { Seen::Ready } else { Seen::NotReady });
                }
                if let Some((said, seen)) = passive.look(&mut client).await? {
                    print(start, passive::POD, &said);
                    milestones.see(passive::POD, seen);
                }
            },
            status = daemon.child.wait() => bail!("the daemon ended: {}", status?),
        }
        if milestones.all_reached() && !told {
            told = true;
            say(&format!("\nEvery milestone was reached after {:.1} s.", (clock::now() - start).as_secs_f64()));
            if check {
                return Ok(Exit::Success);
            }
            say("The daemon goes on; Ctrl-C ends it.\n");
        }
        if check && clock::now() - start > CHECK {
            for missing in milestones.missing() {
                eprintln!("missing or out of order after {} s: {missing}", CHECK.as_secs());
            }
            return Ok(Exit::Failure);
        }
    }
}

/// The Ready condition of every pod, to see it flip.
#[derive(Default)]
struct Conditions {
    pods: BTreeMap<String, PodState>,
}

#[derive(Clone, Copy, Default, PartialEq)]
struct PodState {
    ready: bool,
    restarts: u32,
}

impl Conditions {
    async fn flips(&mut self, client: &mut Client) -> anyhow::Result<Vec<(String, bool)>> {
        let mut pages = client.list_pods(v1::ListPodsRequest::default()).await?.into_inner();
        let mut flips = Vec::new();
        while let Some(page) = pages.message().await? {
            for pod in page.pods {
                let is_true = |c: &v1::Condition| c.r#type == "Ready" && c.status() == v1::ConditionStatus::True;
                let ready = pod.conditions.iter().any(is_true);
                let restarts = pod.containers.iter().map(|container| container.restart_count).sum();
                if self.is_flip(&pod.name, PodState { ready, restarts }) {
                    flips.push((pod.name, ready));
                }
            }
        }
        Ok(flips)
    }

    /// A pod that is Ready after a restart was not Ready in between, even if that was too short to be seen.
    fn is_flip(&mut self, pod: &str, now: PodState) -> bool {
        let before = self.pods.insert(pod.to_owned(), now).unwrap_or_default();
        now.ready != before.ready || (now.ready && now.restarts > before.restarts)
    }
}

fn describe(event: &v1::Event) -> String {
    let message = escape::line(event.message.lines().next().unwrap_or_default()).into_owned();
    match event.threshold {
        0 => format!("{}: {message}", event.reason),
        threshold => format!("{} {}: {message}", event.reason, probes::run(event.run, threshold)),
    }
}

fn print(start: probe_core::time::Instant, pod: &str, text: &str) {
    say(&format!("{:6.1}s  {pod:<16} {text}", (clock::now() - start).as_secs_f64()));
}

fn say(text: &str) {
    // Where the reader has gone (`| head`) there is nobody to tell; the demo goes on and ends its pods in order.
    let _ = output::print(&format!("{text}\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_is_ready_again_after_a_restart_is_told_even_if_the_gap_was_not_seen() {
        let mut conditions = Conditions::default();
        let mut flips = |ready, restarts| conditions.is_flip("web", PodState { ready, restarts });
        assert!(!flips(false, 0));
        assert!(flips(true, 0));
        assert!(!flips(true, 0));
        assert!(flips(true, 1));
        assert!(!flips(true, 1));
        assert!(flips(false, 2));
        assert!(flips(true, 2));
        assert!(!flips(true, 2));
    }
}
