//! The pods, the manager that tells the shard of them, the pool, and who reads the shard's updates.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use probe_core::action::{Publish, PublishCause, Report};
use probe_core::id::{ContainerId, ContainerName, PodUid, ProbeType, ProbeTypes};
use probe_core::outcome::{LocalCause, Outcome, Verdict};
use probe_core::spec::{Container, ContainerKind, Handler, HttpGet, Pod, Port, ProbeSpec, Probes, Scheme, TcpSocket};
use probe_core::status::{ContainerState, ContainerStatus, PodPhase, PodStatus};
use probe_core::time::Instant;
use probe_engine::prober::pool::Job;
use probe_engine::results::{Paused, ProbeStats, Update, UpdateQueue, WallNs};
use probe_engine::shard::JobSink;
use probe_engine::shard::inbox::{Command, PoolReply, ProbeSlot, ShardSender};
use probe_engine::shard::metrics::PhasesUs;
use probe_engine::source::Pause;

use super::random::Random;
use super::target::{Behaviour, Health, Target};
use super::world::{Event, World};

/// The shard that fills the queue says so in its updates.
const FILLER: usize = usize::MAX;

/// One probe: its worker, its target, and what is known of both from outside.
pub struct SimProbe {
    /// In [`Pods::pods`].
    pub pod: usize,
    /// In the pod's containers.
    pub container: usize,
    /// Which.
    pub probe_type: ProbeType,
    /// As the shard knows it.
    pub spec: Arc<ProbeSpec>,
    /// In [`super::net::Net::targets`]. No two probes share one, so that a connection says whose it is.
    pub target: usize,
    /// Made by the pool: its host is a name.
    pub is_pooled: bool,
    /// Written by the shard.
    pub stats: Arc<ProbeStats>,
    /// Successes and failures that were looked at.
    pub seen: (u64, u64),
    /// Of these, passive answers.
    pub seen_passive: u64,
    /// What the updates say.
    pub latest: Option<Publish>,
    /// When the shard made the present worker.
    pub made: Option<Instant>,
    /// The shard told that it has nothing but local trouble.
    pub told_unknown: u64,
    /// No attempts before, as the shard has heard; [`Instant::ZERO`] = it is not paused.
    pub paused_until: Instant,
    /// It has heard so in the present turn.
    pub is_newly_paused: bool,
    /// Tries on the ring and jobs of the pool, those that follow a redirect apart.
    pub begun: u64,
}

/// One container.
pub struct SimContainer {
    /// Unique in its pod.
    pub name: ContainerName,
    /// Counts up with every start.
    pub instance: u32,
    /// `None` = it waits.
    pub started_at: Option<Instant>,
    /// A restart is on the agenda.
    pub restarting: bool,
}

/// One pod.
pub struct SimPod {
    /// As the shard gets it.
    pub pod: Arc<Pod>,
    /// Its containers.
    pub containers: Vec<SimContainer>,
    /// The shard was told of it, and not of its end.
    pub is_present: bool,
}

/// What happens outside.
#[derive(Debug)]
pub enum Act {
    /// A target behaves otherwise.
    Change(usize, Behaviour),
    /// A pod is added, with its status or without.
    Add(usize, bool),
    /// A pod goes.
    Remove(usize),
    /// A pod's termination begins.
    Stop(usize),
    /// A container waits.
    Wait(usize, usize),
    /// A container runs, as a new instance.
    Start(usize, usize),
    /// The runtime says the same again.
    Resync(usize),
    /// Somebody wants an attempt now.
    Trigger(usize),
    /// Somebody wants none of a pod's probes, or of one type of them, for a while; zero: again.
    Pause(usize, Option<ProbeType>, Duration),
    /// Nobody reads the updates any more, and they are many.
    Fill,
    /// Somebody does again.
    Drain,
    /// This many descriptors are left.
    Files(Option<usize>),
    /// The pool answers.
    Reply(PoolReply, usize),
    /// The node sleeps, or nobody is scheduled.
    Suspend(Duration),
    /// The sweep looks at the listeners.
    Look,
    /// The shard shall end.
    Shutdown,
}

/// See the module.
pub struct Pods {
    /// All there will be.
    pub pods: Vec<SimPod>,
    /// All their probes.
    pub probes: Vec<SimProbe>,
    /// To the shard.
    pub sender: ShardSender,
    /// From the shard.
    pub queue: Arc<UpdateQueue>,
    /// Nobody reads the queue.
    pub is_paused: bool,
    /// Targets stay as they are: what failed for good is not restarted.
    pub is_calm: bool,
    /// The shard was told to end.
    pub is_ending: bool,
    /// Attempts of the pool that have no reply yet, by worker.
    pub jobs: Vec<Job>,
    /// Sums of what the shard counted.
    pub totals: Totals,
    /// Reports that were read since the last check.
    pub reports: Vec<Report>,
    /// Shards that said they ended.
    pub ended: usize,
    /// Jobs that the pool took.
    pub jobs_len: u64,
    /// Commands sent.
    pub commands: u64,
    /// What the shard was told since it looked at its inbox.
    untaken: Vec<Untaken>,
}

/// Of what the shard was told, that which it is held to from when it has heard it.
#[derive(Clone, Copy, Debug)]
enum Untaken {
    /// A pod was added.
    Added(usize),
    /// Probes of a pod are paused.
    Paused(usize, Option<ProbeType>, Instant),
}

/// Sums over a shard's metrics.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// First tries of calls.
    pub started: u64,
    /// Due times without an attempt.
    pub missed: u64,
    /// Tries that ended, whatever their outcome.
    pub outcomes: u64,
    /// Of these, with trouble of our own.
    pub local: u64,
    /// Reports that found no place.
    pub dropped: u64,
    /// Passive answers.
    pub passive: u64,
    /// Real ones of tcpSocket probes.
    pub real: u64,
}

impl Pods {
    /// None yet.
    pub fn new(sender: ShardSender, queue: Arc<UpdateQueue>) -> Self {
        Self {
            pods: Vec::new(),
            probes: Vec::new(),
            sender,
            queue,
            is_paused: false,
            is_calm: false,
            is_ending: false,
            jobs: Vec::new(),
            totals: Totals::default(),
            reports: Vec::new(),
            ended: 0,
            jobs_len: 0,
            commands: 0,
            untaken: Vec::new(),
        }
    }

    /// The probe of this target.
    pub fn probe_at(&self, pod: &PodUid, container: &ContainerName, probe_type: ProbeType) -> Option<usize> {
        self.probes.iter().position(|probe| {
            let of = &self.pods[probe.pod];
            of.pod.uid == *pod && of.containers[probe.container].name == *container && probe.probe_type == probe_type
        })
    }

    /// What the runtime says of a pod.
    pub fn status(&self, pod: usize) -> Arc<PodStatus> {
        let SimPod { pod, containers, .. } = &self.pods[pod];
        let containers = containers.iter().map(|container| ContainerStatus {
            name: container.name.clone(),
            id: (container.instance > 0).then(|| container_id(container)),
            state: match container.started_at {
                Some(started_at) => ContainerState::Running { started_at },
                None => ContainerState::waiting("CrashLoopBackOff", ""),
            },
            last_termination: None,
            restart_count: container.instance.saturating_sub(1),
        });
        Arc::new(PodStatus {
            phase: PodPhase::Running,
            deleting: false,
            pod_ip: pod.pod_ip.get(),
            netns: None,
            containers: containers.collect(),
        })
    }
}

/// The instance's name.
pub fn container_id(container: &SimContainer) -> ContainerId {
    ContainerId::from(format!("sim://{}-{}", container.name, container.instance).as_str())
}

impl World {
    /// A pod with the given probes, not added to the shard yet. Returns its index.
    pub fn make_pod(&mut self, containers: Vec<Vec<(ProbeType, ProbeSpec, Behaviour)>>) -> usize {
        let index = self.pods.pods.len();
        let ip = Ipv4Addr::from(0x0a00_0000 + index as u32 + 1);
        let uid = PodUid::from(format!("pod-{index}").as_str());
        let (mut specs, mut sims) = (Vec::new(), Vec::new());
        let mut port = 40_000;
        for (position, probes) in containers.into_iter().enumerate() {
            let name = ContainerName::from(format!("c{position}").as_str());
            let mut of_type = Probes::default();
            for (probe_type, mut spec, behaviour) in probes {
                port += 1;
                let is_http = matches!(spec.handler, Handler::HttpGet(_));
                let is_pooled = aim(&mut spec.handler, port);
                if self.watch.is_some() {
                    // While a lease stands there is something to answer.
                    spec.period_seconds = spec.period_seconds.div_ceil(3);
                }
                let target = Target { behaviour, since: self.now, is_http, timeout: spec.timeout() };
                let target = self.net.add_target(SocketAddr::new(IpAddr::V4(ip), port), target);
                let spec = Arc::new(spec);
                *place(&mut of_type, probe_type) = Some(Arc::clone(&spec));
                self.pods.probes.push(SimProbe {
                    pod: index,
                    container: position,
                    probe_type,
                    spec,
                    target,
                    is_pooled,
                    stats: Arc::default(),
                    seen: (0, 0),
                    seen_passive: 0,
                    latest: None,
                    made: None,
                    told_unknown: 0,
                    paused_until: Instant::ZERO,
                    is_newly_paused: false,
                    begun: 0,
                });
            }
            specs.push(container_of(name.clone(), of_type));
            sims.push(SimContainer { name, instance: 0, started_at: None, restarting: false });
        }
        let pod = Arc::new(pod_of(uid, &format!("pod-{index}"), ip, specs));
        self.pods.pods.push(SimPod { pod, containers: sims, is_present: false });
        index
    }

    /// Carries out what was on the agenda.
    pub fn act(&mut self, act: Act) {
        if !matches!(act, Act::Reply(..) | Act::Look) {
            self.note(20, || format!("-- {act:?}"));
        }
        match act {
            Act::Change(target, behaviour) => {
                self.door_changes(target, behaviour.door);
                let target = &mut self.net.targets[target];
                target.behaviour = behaviour;
                target.since = self.now;
            }
            Act::Add(pod, with_status) => self.add(pod, with_status),
            Act::Remove(pod) => {
                if std::mem::take(&mut self.pods.pods[pod].is_present) {
                    self.send(Command::RemovePod { uid: self.uid(pod) });
                }
            }
            Act::Stop(pod) if self.pods.pods[pod].is_present => {
                self.send(Command::StopLivenessAndStartup { uid: self.uid(pod) });
            }
            Act::Wait(pod, container) => {
                self.pods.pods[pod].containers[container].started_at = None;
                self.send_status(pod);
            }
            Act::Start(pod, container) => {
                let now = self.now;
                let container = &mut self.pods.pods[pod].containers[container];
                container.instance += 1;
                container.started_at = Some(now);
                container.restarting = false;
                self.send_status(pod);
            }
            Act::Resync(pod) => self.send_status(pod),
            Act::Trigger(probe) => {
                let SimProbe { pod, container, probe_type, .. } = self.pods.probes[probe];
                if self.pods.pods[pod].is_present {
                    let container = self.pods.pods[pod].containers[container].name.clone();
                    self.send(Command::Trigger { uid: self.uid(pod), container, probe_type });
                }
            }
            Act::Pause(pod, probe_type, length) => self.pause(pod, probe_type, length),
            Act::Stop(_) => {}
            Act::Fill => {
                self.pods.is_paused = true;
                while self.pods.queue.push(Update::ShardEnded { shard: FILLER }).is_ok() {}
            }
            Act::Drain => self.pods.is_paused = false,
            Act::Files(max) => self.net.files_max = max,
            Act::Reply(reply, pod) => self.reply(reply, pod),
            // When the shard's thread runs next: the agenda is being worked through now.
            Act::Suspend(length) => self.suspend = Some(length),
            Act::Look => self.look(),
            Act::Shutdown => {
                self.pods.is_ending = true;
                self.send(Command::Shutdown);
            }
        }
    }

    /// The pods that were added before the shard looked at its inbox are made now, and pauses begin.
    pub fn take_notice_of_commands(&mut self, now: Instant) {
        for untaken in std::mem::take(&mut self.pods.untaken) {
            let (Untaken::Added(pod) | Untaken::Paused(pod, ..)) = untaken;
            for probe in self.pods.probes.iter_mut().filter(|probe| probe.pod == pod) {
                match untaken {
                    Untaken::Added(_) => {
                        probe.made = Some(now);
                        probe.paused_until = Instant::ZERO;
                        self.net.epochs[probe.target] += 1;
                    }
                    Untaken::Paused(_, only, until) if only.is_none_or(|only| only == probe.probe_type) => {
                        probe.paused_until = until;
                        probe.is_newly_paused = true;
                    }
                    Untaken::Paused(..) => {}
                }
            }
        }
    }

    /// Reads the updates, unless nobody does at present.
    pub fn read_updates(&mut self) {
        if self.pods.is_paused {
            return;
        }
        let queue = Arc::clone(&self.pods.queue);
        while let Some(update) = queue.pop() {
            match update {
                Update::Publish(publish) => self.published(publish),
                Update::Report(report) => self.pods.reports.push(report),
                Update::LocalTooLong(told) => {
                    let probe = self.pods.probe_at(&told.pod, &told.container, told.probe_type);
                    if let Some(probe) = probe {
                        self.pods.probes[probe].told_unknown += 1;
                    }
                    self.note(21, || format!("nothing but local trouble: {told:?}"));
                }
                Update::Attempt { .. } => {}
                Update::Metrics(metrics) => {
                    let totals = &mut self.pods.totals;
                    // A due time that was missed counts there too.
                    let counted = metrics.lateness().map(|histogram| histogram.len()).sum::<u64>();
                    totals.started += counted - metrics.missed;
                    totals.missed += metrics.missed;
                    let latencies = metrics.latency_us.iter().flatten().flatten();
                    totals.outcomes += latencies.map(|histogram| histogram.len()).sum::<u64>();
                    totals.local += metrics.local.iter().sum::<u64>();
                    totals.dropped += metrics.reports_dropped;
                    totals.passive += metrics.passive.passive;
                    totals.real += metrics.passive.real.iter().sum::<u64>();
                    let local = metrics.local;
                    self.note(28, || format!("local outcomes of the last second: {local:?}"));
                }
                Update::ShardEnded { shard: FILLER } => {}
                Update::ShardEnded { .. } => self.pods.ended += 1,
            }
        }
    }

    /// Sends a pod's status, if the shard knows the pod.
    pub fn send_status(&mut self, pod: usize) {
        if self.pods.pods[pod].is_present {
            let status = self.pods.status(pod);
            self.send(Command::Status { uid: self.uid(pod), status, remembered: Box::default() });
        }
    }

    fn uid(&self, pod: usize) -> PodUid {
        self.pods.pods[pod].pod.uid.clone()
    }

    /// To the shard.
    pub fn send(&mut self, command: Command) {
        self.pods.commands += 1;
        assert!(self.pods.sender.send(command).is_ok() || self.pods.sender.is_closed(), "the inbox is full");
        self.rung = true;
    }

    fn add(&mut self, pod: usize, with_status: bool) {
        if self.pods.pods[pod].is_present {
            return;
        }
        self.pods.pods[pod].is_present = true;
        let status = with_status.then(|| self.pods.status(pod));
        let slots = self.pods.probes.iter().filter(|probe| probe.pod == pod).map(|probe| ProbeSlot {
            container: self.pods.pods[pod].containers[probe.container].name.clone(),
            probe_type: probe.probe_type,
            stats: Arc::clone(&probe.stats),
            past: None,
            paused: None,
        });
        let slots = slots.collect();
        self.send(Command::AddPod { pod: Arc::clone(&self.pods.pods[pod].pod), slots, status });
        self.pods.untaken.push(Untaken::Added(pod));
    }

    fn pause(&mut self, pod: usize, probe_type: Option<ProbeType>, length: Duration) {
        if !self.pods.pods[pod].is_present {
            return;
        }
        let until = self.now + length;
        let paused = Paused { since: WallNs::default(), until: WallNs::default(), until_at: until };
        let pause = Pause {
            container: None,
            types: probe_type.map_or(ProbeTypes::ALL, |only| ProbeTypes::from_iter([only])),
            paused: (!length.is_zero()).then_some(paused),
            by: "somebody".into(),
            is_each_told: false,
        };
        self.send(Command::Pause { uid: self.uid(pod), pause: Arc::new(pause) });
        self.pods.untaken.push(Untaken::Paused(pod, probe_type, until));
    }

    /// What the lifecycle consumer would do: a container whose liveness or startup probe failed is started anew.
    fn published(&mut self, publish: Publish) {
        self.note(22 + publish.verdict.map_or(0, |verdict| verdict as u64), || {
            let Publish { pod, container, probe_type, verdict, cause, container_id, .. } = &publish;
            format!("verdict of {pod}/{container} {probe_type}: {verdict:?} ({cause:?}, {container_id})")
        });
        let Some(index) = self.pods.probe_at(&publish.pod, &publish.container, publish.probe_type) else { return };
        let Pods { pods, probes, is_calm, .. } = &mut self.pods;
        let probe = &mut probes[index];
        let container = &mut pods[probe.pod].containers[probe.container];
        let is_current = publish.container_id == container_id(container);
        let failed = publish.verdict == Some(Verdict::Failure) && publish.cause == PublishCause::Threshold;
        let (pod, position) = (probe.pod, probe.container);
        probe.latest = Some(publish);
        let stays_bad = *is_calm && self.net.targets[probe.target].health() != Health::Well;
        if failed && is_current && probe.probe_type != ProbeType::Readiness && !stays_bad && !container.restarting {
            container.restarting = true;
            let wait = self.random.millis(1, 200);
            let start = wait + self.random.millis(0, 2_000);
            self.schedule(self.now + wait, Event::Act(Act::Wait(pod, position)));
            self.schedule(self.now + start, Event::Act(Act::Start(pod, position)));
        }
    }

    fn reply(&mut self, reply: PoolReply, pod: usize) {
        let attempt = match &reply {
            PoolReply::Started { attempt, .. } => *attempt,
            PoolReply::Done { attempt, .. } => {
                self.pods.jobs.retain(|job| job.attempt != *attempt);
                *attempt
            }
        };
        self.note(26, || format!("the pool on pod {pod}, {attempt:?}: {reply:?}"));
        self.rung |= self.pods.sender.reply(reply, self.now);
    }
}

/// The pool: takes a job, and answers some time later.
pub struct FakePool(pub Rc<RefCell<World>>);

impl JobSink for FakePool {
    fn try_submit(&self, job: Job) -> Result<(), Job> {
        let mut world = self.0.borrow_mut();
        let world = &mut *world;
        if world.random.chance(world.weather.pool_full) {
            world.net.local_faults += 1;
            return Err(job);
        }
        world.take_job(job);
        Ok(())
    }
}

impl World {
    fn take_job(&mut self, job: Job) {
        let twice = self.pods.jobs.iter().any(|other| other.attempt == job.attempt);
        assert!(!twice, "{:?} goes to the pool twice", job.attempt);
        let probe = self.pods.probes.iter().position(|probe| Arc::ptr_eq(&probe.spec, &job.request.spec));
        let Some(probe) = probe else { panic!("the pool got a job of no probe: {job:?}") };
        let SimProbe { pod, target, .. } = self.pods.probes[probe];
        self.pods.probes[probe].begun += u64::from(job.resume.is_none());
        self.pods.jobs_len += 1;
        let is_well = matches!(self.net.targets[target].health(), Health::Well | Health::Unclear);
        let queued = self.random.duration(Duration::from_micros(50), Duration::from_millis(30));
        let took = self.random.duration(Duration::from_micros(100), job.request.spec.timeout() / 2);
        let outcome = match is_well {
            _ if self.random.chance(self.weather.local_errors) => {
                self.net.local_faults += 1;
                Outcome::Local(LocalCause::Processes)
            }
            true => Outcome::Success("from the pool".into()),
            false => Outcome::Failure("from the pool".into()),
        };
        let attempt = job.attempt;
        self.note(27, || format!("the pool takes {attempt:?} of pod {pod}"));
        let at = self.now + queued;
        self.schedule(at, Event::Act(Act::Reply(PoolReply::Started { attempt, at }, pod)));
        let latency_ns = took.as_nanos() as u64;
        let done = PoolReply::Done { attempt, outcome, latency_ns, phases: PhasesUs::default() };
        self.schedule(at + took, Event::Act(Act::Reply(done, pod)));
        self.pods.jobs.push(job);
    }
}

impl SimProbe {
    /// Successes and failures so far.
    pub fn counts(&self) -> (u64, u64) {
        (self.stats.successful(), self.stats.failed())
    }

    /// Passive and real answers so far.
    pub fn answers(&self) -> (u64, u64) {
        (self.stats.passive(), self.stats.real())
    }
}

/// A random probe. `host` is a name in one of eight: the pool's.
pub fn random_probe(random: &mut Random, probe_type: ProbeType) -> ProbeSpec {
    let is_http = random.below(2) == 0;
    let host: Option<Arc<str>> = (random.below(8) == 0).then(|| "name.test".into());
    let port = Port::Number(1);
    let handler = if is_http {
        Handler::HttpGet(HttpGet { host, port, path: "/healthz".into(), scheme: Scheme::Http, headers: Box::default() })
    } else {
        Handler::TcpSocket(TcpSocket { host, port })
    };
    ProbeSpec {
        handler,
        initial_delay_seconds: random.pick(&[0, 0, 0, 1, 3]),
        timeout_seconds: random.pick(&[1, 1, 1, 2, 3]),
        period_seconds: random.range(1, 5) as u32,
        success_threshold: if probe_type == ProbeType::Readiness { random.range(1, 2) as u32 } else { 1 },
        failure_threshold: random.range(1, 3) as u32,
        termination_grace_period_seconds: None,
    }
}

/// Gives the handler its port. Returns whether its host is a name.
fn aim(handler: &mut Handler, to: u16) -> bool {
    match handler {
        Handler::HttpGet(HttpGet { host, port, .. }) | Handler::TcpSocket(TcpSocket { host, port }) => {
            *port = Port::Number(to);
            host.is_some()
        }
        Handler::Grpc(_) | Handler::Exec(_) => true,
    }
}

fn place(probes: &mut Probes, probe_type: ProbeType) -> &mut Option<Arc<ProbeSpec>> {
    match probe_type {
        ProbeType::Startup => &mut probes.startup,
        ProbeType::Readiness => &mut probes.readiness,
        ProbeType::Liveness => &mut probes.liveness,
    }
}

fn container_of(name: ContainerName, probes: Probes) -> Container {
    Container::new(name, ContainerKind::Regular, probes)
}

fn pod_of(uid: PodUid, name: &str, ip: Ipv4Addr, containers: Vec<Container>) -> Pod {
    Pod { pod_ip: IpAddr::V4(ip).into(), ..Pod::new(uid, "default", name, containers) }
}
