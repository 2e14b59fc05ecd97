//! What a pod asks for, already valid and defaulted: plain data that the sources make and every stage reads.
//!
//! Invariant: a value of these types passed validation (`source/parse`), so nothing behind them checks ranges again.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::net::IpAddr;
use core::ops::{Deref, DerefMut};
use core::time::Duration;

use crate::id::{ContainerName, PodUid, ProbeType};

/// One probe. Numbers are those of the manifest after defaulting (`pkg/apis/core/v1/defaults.go`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProbeSpec {
    /// What one attempt does.
    pub handler: Handler,
    /// Seconds after the container's start before the first attempt. Validation refuses negative
    /// numbers; one that got here all the same is as good as 0.
    pub initial_delay_seconds: i32,
    /// Deadline of one attempt, 1 or more.
    pub timeout_seconds: u32,
    /// Seconds between two due times, 1 or more.
    pub period_seconds: u32,
    /// Successes in a row that make the verdict Success; 1 for liveness and startup.
    pub success_threshold: u32,
    /// Failures in a row that make the verdict Failure, 1 or more.
    pub failure_threshold: u32,
    /// Grace period of a kill that this probe causes; `None` = the pod's.
    pub termination_grace_period_seconds: Option<u64>,
}

impl ProbeSpec {
    /// The deadline of one attempt.
    #[must_use]
    pub const fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds as u64)
    }

    /// The distance of two due times.
    #[must_use]
    pub const fn period(&self) -> Duration {
        Duration::from_secs(self.period_seconds as u64)
    }
}

/// The four ways to ask a container.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Handler {
    /// `httpGet`
    HttpGet(HttpGet),
    /// `tcpSocket`
    TcpSocket(TcpSocket),
    /// `grpc`
    Grpc(Grpc),
    /// `exec`
    Exec(Exec),
}

impl Handler {
    /// The field name: `httpGet`, `tcpSocket`, `grpc` or `exec`.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Handler::HttpGet(_) => "httpGet",
            Handler::TcpSocket(_) => "tcpSocket",
            Handler::Grpc(_) => "grpc",
            Handler::Exec(_) => "exec",
        }
    }
}

/// `httpGet`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HttpGet {
    /// Where to connect to; `None` = the pod's IP at run time.
    pub host: Option<Arc<str>>,
    /// Resolved against the container's ports.
    pub port: Port,
    /// As in the manifest, `/` by default; may hold a query and a fragment.
    pub path: Arc<str>,
    /// `HTTP` by default.
    pub scheme: Scheme,
    /// In the manifest's order, names as written, repetitions kept.
    pub headers: Box<[HttpHeader]>,
}

/// One entry of `httpGet.httpHeaders`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HttpHeader {
    /// As written.
    pub name: Arc<str>,
    /// As written; may be empty.
    pub value: Arc<str>,
}

/// `httpGet.scheme`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// `HTTP`
    Http,
    /// `HTTPS`: certificates are not verified.
    Https,
}

impl Scheme {
    /// As it stands in a URL: `http` or `https`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// `tcpSocket`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TcpSocket {
    /// Where to connect to; `None` = the pod's IP at run time.
    pub host: Option<Arc<str>>,
    /// Resolved against the container's ports.
    pub port: Port,
}

/// `grpc`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Grpc {
    /// 1..=65535.
    pub port: u16,
    /// Sent as the health request's `service`; empty by default.
    pub service: Arc<str>,
}

/// `exec`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Exec {
    /// Program and arguments, no shell; `$(VAR)` already expanded from the container's literal env. Not empty.
    pub command: Box<[Box<str>]>,
}

/// `lifecycle.postStart` or `lifecycle.preStop`: what is done once when a container has been started, or before it is stopped.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// `exec`: unlike a probe's, its command is run as written.
    Exec(Exec),
    /// `httpGet`
    HttpGet(HttpGet),
    /// `sleep`: so many seconds; 0 is over at once.
    Sleep(u64),
    /// `tcpSocket`: valid, and cannot be run (`pkg/kubelet/lifecycle/handlers.go`, `Run`).
    TcpSocket,
}

/// A container's `lifecycle`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Hooks {
    /// `postStart`
    pub post_start: Option<Hook>,
    /// `preStop`
    pub pre_stop: Option<Hook>,
}

/// A port after resolution (`pkg/probe/util.go`, `ResolveContainerPort`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Port {
    /// 1..=65535.
    Number(u16),
    /// A name that no container port has and that is no number, or a number out of range. The text is the
    /// kubelet's error: an attempt with it is discarded, never a verdict.
    Unusable(Box<str>),
}

/// A container's probes, one place per type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Probes {
    /// `startupProbe`
    pub startup: Option<Arc<ProbeSpec>>,
    /// `readinessProbe`
    pub readiness: Option<Arc<ProbeSpec>>,
    /// `livenessProbe`
    pub liveness: Option<Arc<ProbeSpec>>,
}

impl Probes {
    /// The probe of this type, if the container has one.
    #[must_use]
    pub fn by_type(&self, probe_type: ProbeType) -> Option<&Arc<ProbeSpec>> {
        match probe_type {
            ProbeType::Startup => self.startup.as_ref(),
            ProbeType::Readiness => self.readiness.as_ref(),
            ProbeType::Liveness => self.liveness.as_ref(),
        }
    }

    /// How many of the three there are.
    #[must_use]
    pub fn count(&self) -> usize {
        ProbeType::ALL.iter().filter(|t| self.by_type(**t).is_some()).count()
    }
}

/// `restartPolicy` of a pod or a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RestartPolicy {
    /// Restart whatever the exit code.
    #[default]
    Always,
    /// Restart unless the exit code is 0.
    OnFailure,
    /// Never restart.
    Never,
}

impl RestartPolicy {
    /// As in a manifest.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            RestartPolicy::Always => "Always",
            RestartPolicy::OnFailure => "OnFailure",
            RestartPolicy::Never => "Never",
        }
    }
}

/// One of `restartPolicyRules`, with the action `Restart`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RestartRule {
    /// `exitCodes.operator: In`: after one of these.
    In(Box<[i32]>),
    /// `exitCodes.operator: NotIn`: after any other.
    NotIn(Box<[i32]>),
}

impl RestartRule {
    /// Whether it applies to this exit code.
    #[must_use]
    pub fn matches(&self, exit_code: i32) -> bool {
        match self {
            RestartRule::In(exit_codes) => exit_codes.contains(&exit_code),
            RestartRule::NotIn(exit_codes) => !exit_codes.contains(&exit_code),
        }
    }
}

/// Where in the pod a container stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ContainerKind {
    /// `spec.containers`
    Regular,
    /// `spec.initContainers` with `restartPolicy: Always`
    Sidecar,
    /// any other of `spec.initContainers`; has no probes
    Init,
}

/// A pod: what is left of the Kubernetes object after parsing (which would cost 7.7 KB each).
///
/// Pods of one Deployment differ in name, UID and address: their labels and their spec are one and the same allocation each
/// (`source/parse`, `Interner`), which is why those are `Arc`s. The fields of the spec can be used as if they were the pod's;
/// to change one gives the pod a spec of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// `metadata.uid`, or one derived from namespace, name and spec.
    pub uid: PodUid,
    /// `metadata.namespace`, `default` by default.
    pub namespace: Arc<str>,
    /// `metadata.name`
    pub name: Arc<str>,
    /// `metadata.labels`, sorted by key.
    pub labels: Arc<[(Arc<str>, Arc<str>)]>,
    /// `metadata.annotations`, sorted by key.
    pub annotations: Arc<[(Arc<str>, Arc<str>)]>,
    /// `status.podIP` of the manifest; none = the runtime says.
    pub pod_ip: PodIp,
    /// `spec`
    pub spec: Arc<PodSpec>,
}

/// An address, or none, in 16 bytes: an `Option<IpAddr>` takes 17, and with that byte every pod would take a larger block of
/// memory. A v4-mapped address is the IPv4 address that it stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PodIp([u8; 16]);

impl PodIp {
    /// No host has it (`ff00::/8` is multicast, with this scope reserved: RFC 4291, 2.7).
    const NONE: Self = Self([0xFF; 16]);

    /// The address.
    #[must_use]
    pub fn get(self) -> Option<IpAddr> {
        (self != Self::NONE).then(|| IpAddr::from(self.0).to_canonical())
    }
}

impl Default for PodIp {
    fn default() -> Self {
        Self::NONE
    }
}

impl From<IpAddr> for PodIp {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self(ip.to_ipv6_mapped().octets()),
            IpAddr::V6(ip) => Self(ip.octets()),
        }
    }
}

impl From<Option<IpAddr>> for PodIp {
    fn from(ip: Option<IpAddr>) -> Self {
        ip.map_or(Self::NONE, Self::from)
    }
}

impl fmt::Debug for PodIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

const _: () =
    assert!(size_of::<Pod>() + 16 + 8 <= 128, "with the counts of its `Arc` and malloc's header: a block of 128 bytes");

/// `spec` of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSpec {
    /// `spec.hostNetwork`
    pub host_network: bool,
    /// `spec.restartPolicy`
    pub restart_policy: RestartPolicy,
    /// `spec.terminationGracePeriodSeconds`, 30 by default.
    pub termination_grace_period_seconds: u64,
    /// `spec.readinessGates[].conditionType`
    pub readiness_gates: Box<[Arc<str>]>,
    /// `spec.initContainers`: ordinary ones and sidecars, in the manifest's order.
    pub init_containers: Arc<[Container]>,
    /// `spec.containers`, in the manifest's order; never empty.
    pub containers: Arc<[Container]>,
    /// Fields that the runtime in use cannot honour, as `path: reason`; `describe` shows them.
    pub ignored_fields: Box<[Box<str>]>,
}

impl Pod {
    /// A pod of these regular containers that asks for nothing else: what the API server gives it by default.
    #[must_use]
    pub fn new(uid: PodUid, namespace: &str, name: &str, containers: impl Into<Arc<[Container]>>) -> Self {
        Self {
            uid,
            namespace: namespace.into(),
            name: name.into(),
            labels: Arc::default(),
            annotations: Arc::default(),
            pod_ip: PodIp::default(),
            spec: Arc::new(PodSpec::new(containers)),
        }
    }
}

impl Deref for Pod {
    type Target = PodSpec;

    fn deref(&self) -> &PodSpec {
        &self.spec
    }
}

impl DerefMut for Pod {
    fn deref_mut(&mut self) -> &mut PodSpec {
        Arc::make_mut(&mut self.spec)
    }
}

impl PodSpec {
    /// A spec of these regular containers that asks for nothing else: what the API server gives it by default.
    #[must_use]
    pub fn new(containers: impl Into<Arc<[Container]>>) -> Self {
        Self {
            host_network: false,
            restart_policy: RestartPolicy::Always,
            termination_grace_period_seconds: 30,
            readiness_gates: Box::default(),
            init_containers: Arc::default(),
            containers: containers.into(),
            ignored_fields: Box::default(),
        }
    }

    /// The containers that may have probes, in the order in which the kubelet creates workers:
    /// regular ones first, then sidecars (`prober_manager.go`, `AddPod`).
    pub fn probed_containers(&self) -> impl Iterator<Item = &Container> {
        let sidecars = self.init_containers.iter().filter(|c| c.kind == ContainerKind::Sidecar);
        self.containers.iter().chain(sidecars)
    }

    /// All containers: init containers and sidecars, then regular ones.
    pub fn all_containers(&self) -> impl Iterator<Item = &Container> {
        self.init_containers.iter().chain(self.containers.iter())
    }

    /// The container of this name.
    #[must_use]
    pub fn container(&self, name: &str) -> Option<&Container> {
        self.all_containers().find(|c| c.name.as_str() == name)
    }
}

/// One container of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Container {
    /// Unique in its pod.
    pub name: ContainerName,
    /// Where it stands.
    pub kind: ContainerKind,
    /// Shown to people only: the `process` runtime needs none.
    pub image: Arc<str>,
    /// The container's own `restartPolicy`, which overrides the pod's.
    pub restart_policy: Option<RestartPolicy>,
    /// `restartPolicyRules`: exit codes after which it is started again whatever the policies say. The first that matches decides;
    /// as all of them have the action `Restart`, any does.
    pub restart_rules: Box<[RestartRule]>,
    /// Its probes.
    pub probes: Probes,
    /// What is done after its start and before its end; most containers have none.
    pub hooks: Option<Arc<Hooks>>,
    /// How to start it.
    pub process: Arc<Process>,
    /// FNV-1a of the container's manifest: changes when its definition does (back-off key, section 6.5).
    pub spec_hash: u64,
}

impl Container {
    /// What is done once it has been started.
    #[must_use]
    pub fn post_start(&self) -> Option<&Hook> {
        self.hooks.as_ref()?.post_start.as_ref()
    }

    /// What is done before it is stopped.
    #[must_use]
    pub fn pre_stop(&self) -> Option<&Hook> {
        self.hooks.as_ref()?.pre_stop.as_ref()
    }

    /// A container with these probes that asks for nothing else. A sidecar is one by its own `restartPolicy`.
    #[must_use]
    pub fn new(name: ContainerName, kind: ContainerKind, probes: Probes) -> Self {
        Self {
            name,
            kind,
            image: "".into(),
            restart_policy: (kind == ContainerKind::Sidecar).then_some(RestartPolicy::Always),
            restart_rules: Box::default(),
            probes,
            hooks: None,
            process: Arc::default(),
            spec_hash: 0,
        }
    }
}

/// What the `process` runtime starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Process {
    /// `command` (entrypoint), `$(VAR)` expanded.
    pub command: Box<[Box<str>]>,
    /// `args`, `$(VAR)` expanded.
    pub args: Box<[Box<str>]>,
    /// Literal `env`, in order.
    pub env: Box<[(Box<str>, Box<str>)]>,
    /// `workingDir`
    pub working_dir: Option<Box<str>>,
    /// `securityContext.runAsUser`, the container's or the pod's.
    pub run_as_user: Option<u32>,
    /// `securityContext.runAsGroup`, the container's or the pod's.
    pub run_as_group: Option<u32>,
    /// The pod's `securityContext.supplementalGroups`.
    pub supplemental_groups: Box<[u32]>,
    /// `resources.limits.memory` in bytes.
    pub memory_limit_bytes: Option<u64>,
    /// `lifecycle.stopSignal`, e.g. `SIGUSR1`; `None` = SIGTERM.
    pub stop_signal: Option<Box<str>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{container, pod, spec, with_all_probes, with_probe};

    #[test]
    fn what_a_manifest_names_has_the_manifests_names() {
        let port = || Port::Number(80);
        let http = HttpGet { host: None, port: port(), path: "/".into(), scheme: Scheme::Http, headers: [].into() };
        let handlers = [
            Handler::HttpGet(http),
            Handler::TcpSocket(TcpSocket { host: None, port: port() }),
            Handler::Grpc(Grpc { port: 80, service: "".into() }),
            Handler::Exec(Exec { command: ["true".into()].into() }),
        ];
        assert_eq!(handlers.each_ref().map(Handler::as_str), ["httpGet", "tcpSocket", "grpc", "exec"]);
        assert_eq!([Scheme::Http, Scheme::Https].map(Scheme::as_str), ["http", "https"]);
        let policies = [RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::Never];
        assert_eq!(policies.map(RestartPolicy::as_str), ["Always", "OnFailure", "Never"]);
    }

    #[test]
    fn a_probes_numbers_are_seconds() {
        let probe = ProbeSpec { timeout_seconds: 3, period_seconds: 7, ..spec() };
        assert_eq!((probe.timeout(), probe.period()), (Duration::from_secs(3), Duration::from_secs(7)));
    }

    #[test]
    fn probes_are_counted_and_found_by_their_type() {
        let none = container("c", ContainerKind::Regular);
        assert_eq!([none.probes.count(), with_all_probes(none.clone()).probes.count()], [0, 3]);
        for probe_type in ProbeType::ALL {
            let probes = with_probe(none.clone(), probe_type, spec()).probes;
            assert_eq!(probes.count(), 1);
            assert!(ProbeType::ALL.into_iter().all(|other| probes.by_type(other).is_some() == (other == probe_type)));
        }
    }

    #[test]
    fn regular_containers_are_probed_before_sidecars_and_ordinary_init_containers_never() {
        let kinds = [
            ("i", ContainerKind::Init),
            ("s", ContainerKind::Sidecar),
            ("a", ContainerKind::Regular),
            ("b", ContainerKind::Regular),
        ];
        let pod = pod("p", kinds.map(|(name, kind)| container(name, kind)));
        assert!(pod.probed_containers().map(|c| c.name.as_str()).eq(["a", "b", "s"]));
        assert!(pod.all_containers().map(|c| c.name.as_str()).eq(["i", "s", "a", "b"]));
        assert_eq!(pod.container("s").map(|c| c.kind), Some(ContainerKind::Sidecar));
        assert_eq!(pod.container("nobody"), None);
    }

    #[test]
    fn a_container_of_a_pod_is_restarted_by_its_own_policy_only_where_it_is_a_sidecar() {
        let kinds = [ContainerKind::Regular, ContainerKind::Sidecar, ContainerKind::Init];
        let own = kinds.map(|kind| container("c", kind).restart_policy);
        assert_eq!(own, [None, Some(RestartPolicy::Always), None]);
    }

    #[test]
    fn an_address_is_debugged_as_one() {
        let ip = PodIp::from("10.1.2.3".parse::<IpAddr>().expect("an address"));
        assert_eq!(std::format!("{ip:?} {:?}", PodIp::default()), "Some(10.1.2.3) None");
    }

    #[test]
    fn a_container_has_the_hooks_that_it_was_given() {
        let plain = Container::new("c".into(), ContainerKind::Regular, Probes::default());
        assert_eq!((plain.post_start(), plain.pre_stop()), (None, None));
        let hooks = Hooks { post_start: Some(Hook::Sleep(1)), pre_stop: Some(Hook::TcpSocket) };
        let hooked = Container { hooks: Some(Arc::new(hooks)), ..plain };
        assert_eq!((hooked.post_start(), hooked.pre_stop()), (Some(&Hook::Sleep(1)), Some(&Hook::TcpSocket)));
    }

    #[test]
    fn an_address_in_16_bytes_is_the_one_that_went_in() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        for text in ["10.1.2.3", "0.0.0.0", "255.255.255.255", "::", "::1", "fd00::7", "ff02::1"] {
            assert_eq!(PodIp::from(ip(text)).get(), Some(ip(text)));
            assert_eq!(PodIp::from(Some(ip(text))), PodIp::from(ip(text)));
        }
        assert_eq!(PodIp::from(ip("::ffff:10.1.2.3")).get(), Some(ip("10.1.2.3")));
        assert_eq!((PodIp::default().get(), PodIp::from(None).get()), (None, None));
    }
}
