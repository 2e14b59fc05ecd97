//! From Kubernetes' objects, validated and defaulted, to ours (`probe_core::spec`). The Kubernetes object ends here.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use probe_core::id::{ContainerName, PodUid};
use probe_core::spec::{
    Container, ContainerKind, Exec, Grpc, Handler, Hook, Hooks, HttpGet, HttpHeader, Pod, PodSpec, Port, ProbeSpec,
    Probes, Process, RestartPolicy, RestartRule, Scheme, TcpSocket,
};

use super::defaults::GRACE_SECONDS;
use super::expand::expand;
use super::intern::{Pairs, Table, Tables};
use super::{identity, quantity};

/// Our pod. The arguments have passed validation; what they cannot hold any more (a number out of range) would
/// become the nearest value that is valid.
pub(super) fn pod(
    meta: &ObjectMeta,
    spec: &k8s::PodSpec,
    ours: Arc<PodSpec>,
    pod_ip: Option<IpAddr>,
    tables: &mut Tables,
) -> Pod {
    let name = meta.name.as_deref().unwrap_or_default();
    let uid = match non_empty(&meta.uid) {
        Some(uid) => PodUid::from(uid),
        None => PodUid::new(identity::derived_uid(namespace(meta), name, spec)),
    };
    Pod {
        uid,
        namespace: tables.texts.share(namespace(meta)),
        name: name.into(),
        labels: pairs(meta.labels.as_ref(), tables),
        annotations: pairs(meta.annotations.as_ref(), tables),
        pod_ip: pod_ip.into(),
        spec: ours,
    }
}

/// `status.podIP`
pub(super) fn pod_ip(status: Option<&k8s::PodStatus>) -> Option<IpAddr> {
    status?.pod_ip.as_deref()?.parse().ok()
}

/// All of a pod that its `spec` says; the same for all pods of one spec.
pub(super) fn spec(spec: &k8s::PodSpec, tables: &mut Tables) -> PodSpec {
    let defaults = Process {
        run_as_user: context(spec).and_then(|c| c.run_as_user).and_then(narrow),
        run_as_group: context(spec).and_then(|c| c.run_as_group).and_then(narrow),
        supplemental_groups: supplemental_groups(spec),
        ..Process::default()
    };
    let init = spec.init_containers.iter().flatten();
    let init: Vec<Container> = init
        .map(|c| {
            let kind = match c.restart_policy.as_deref() {
                Some("Always") => ContainerKind::Sidecar,
                _ => ContainerKind::Init,
            };
            container(c, kind, &defaults, tables)
        })
        .collect();
    let regular = spec.containers.iter();
    let regular: Vec<Container> = regular.map(|c| container(c, ContainerKind::Regular, &defaults, tables)).collect();
    let gates = spec.readiness_gates.iter().flatten();
    let grace = spec.termination_grace_period_seconds.unwrap_or(GRACE_SECONDS);
    PodSpec {
        host_network: spec.host_network.unwrap_or_default(),
        restart_policy: spec.restart_policy.as_deref().and_then(restart_policy).unwrap_or_default(),
        termination_grace_period_seconds: u64::try_from(grace).unwrap_or_default(),
        readiness_gates: gates.map(|g| tables.texts.share(&*g.condition_type)).collect(),
        init_containers: if init.is_empty() { Arc::default() } else { tables.containers.share(init) },
        containers: tables.containers.share(regular),
        ignored_fields: Box::default(),
    }
}

fn namespace(meta: &ObjectMeta) -> &str {
    non_empty(&meta.namespace).unwrap_or("default")
}

fn container(from: &k8s::Container, kind: ContainerKind, defaults: &Process, tables: &mut Tables) -> Container {
    let literal = LiteralEnv::of(from.env.as_deref().unwrap_or_default());
    let ports = from.ports.as_deref().unwrap_or_default();
    let mut of = |probe: &Option<k8s::Probe>| {
        let spec = self::probe(probe.as_ref()?, ports, &literal, &mut tables.texts)?;
        Some(tables.probes.share(spec))
    };
    let probes = match kind {
        ContainerKind::Init => Probes::default(),
        _ => Probes {
            startup: of(&from.startup_probe),
            readiness: of(&from.readiness_probe),
            liveness: of(&from.liveness_probe),
        },
    };
    Container {
        name: ContainerName::new(tables.texts.share(&*from.name)),
        kind,
        image: tables.texts.share(from.image.as_deref().unwrap_or_default()),
        restart_policy: from.restart_policy.as_deref().and_then(restart_policy),
        restart_rules: from.restart_policy_rules.iter().flatten().filter_map(restart_rule).collect(),
        probes,
        hooks: from.lifecycle.as_ref().and_then(|lifecycle| hooks(lifecycle, ports, &mut tables.texts)),
        process: tables.processes.share(process(from, &literal, defaults)),
        spec_hash: identity::container_hash(from),
    }
}

fn restart_rule(from: &k8s::ContainerRestartRule) -> Option<RestartRule> {
    let on = from.exit_codes.as_ref()?;
    let exit_codes = on.values.iter().flatten().copied().collect();
    match &*on.operator {
        "In" => Some(RestartRule::In(exit_codes)),
        "NotIn" => Some(RestartRule::NotIn(exit_codes)),
        _ => None,
    }
}

fn process(from: &k8s::Container, literal: &LiteralEnv<'_>, defaults: &Process) -> Process {
    let expanded = |list: &Option<Vec<String>>| {
        let list = list.iter().flatten();
        list.map(|text| expand(text, |name| literal.expanded(name)).into()).collect()
    };
    let context = from.security_context.as_ref();
    let memory = from.resources.as_ref().and_then(|resources| {
        let limit = resources.limits.as_ref()?.get("memory")?;
        quantity::whole(&limit.0)
    });
    let lifecycle = from.lifecycle.as_ref();
    Process {
        command: expanded(&from.command),
        args: expanded(&from.args),
        env: literal.in_order(),
        working_dir: non_empty(&from.working_dir).map(Box::from),
        run_as_user: context.and_then(|c| c.run_as_user).and_then(narrow).or(defaults.run_as_user),
        run_as_group: context.and_then(|c| c.run_as_group).and_then(narrow).or(defaults.run_as_group),
        supplemental_groups: defaults.supplemental_groups.clone(),
        memory_limit_bytes: memory,
        stop_signal: lifecycle.and_then(|l| non_empty(&l.stop_signal)).map(Box::from),
    }
}

/// A container's env entries that have a value of their own.
struct LiteralEnv<'a> {
    raw: HashMap<&'a str, &'a str>,
    expanded: HashMap<&'a str, String>,
    order: Vec<&'a str>,
}

impl<'a> LiteralEnv<'a> {
    fn of(env: &'a [k8s::EnvVar]) -> Self {
        let mut this = Self { raw: HashMap::new(), expanded: HashMap::new(), order: Vec::new() };
        for variable in env.iter().filter(|v| v.value_from.is_none()) {
            let value = variable.value.as_deref().unwrap_or_default();
            // Only what stands before an entry is known to it (`makeEnvironmentVariables`).
            let text = expand(value, |name| this.expanded.get(name).map(String::as_str));
            if this.raw.insert(&variable.name, value).is_none() {
                this.order.push(&variable.name);
            }
            this.expanded.insert(&variable.name, text);
        }
        this
    }

    /// For commands and arguments of the container itself.
    fn expanded(&self, name: &str) -> Option<&str> {
        self.expanded.get(name).map(String::as_str)
    }

    /// For exec probes, which see the values as written (`ExpandContainerCommandOnlyStatic`).
    fn raw(&self, name: &str) -> Option<&str> {
        self.raw.get(name).copied()
    }

    fn in_order(&self) -> Box<[(Box<str>, Box<str>)]> {
        let value = |name: &&str| self.expanded.get(*name).map_or("", String::as_str).into();
        self.order.iter().map(|name| (Box::from(*name), value(name))).collect()
    }
}

fn probe(
    from: &k8s::Probe,
    ports: &[k8s::ContainerPort],
    env: &LiteralEnv<'_>,
    texts: &mut Table<str>,
) -> Option<ProbeSpec> {
    let at_least_1 = |n: Option<i32>, default: u32| {
        let n = n.and_then(|n| u32::try_from(n).ok());
        n.filter(|n| *n > 0).unwrap_or(default)
    };
    Some(ProbeSpec {
        handler: handler(from, ports, env, texts)?,
        initial_delay_seconds: from.initial_delay_seconds.unwrap_or_default(),
        timeout_seconds: at_least_1(from.timeout_seconds, 1),
        period_seconds: at_least_1(from.period_seconds, 10),
        success_threshold: at_least_1(from.success_threshold, 1),
        failure_threshold: at_least_1(from.failure_threshold, 3),
        termination_grace_period_seconds: from.termination_grace_period_seconds.and_then(|n| u64::try_from(n).ok()),
    })
}

fn handler(
    from: &k8s::Probe,
    ports: &[k8s::ContainerPort],
    env: &LiteralEnv<'_>,
    texts: &mut Table<str>,
) -> Option<Handler> {
    if let Some(exec) = &from.exec {
        let command = exec.command.iter().flatten();
        let expanded = |text: &String| expand(text, |name| env.raw(name)).into();
        return Some(Handler::Exec(Exec { command: command.map(expanded).collect() }));
    }
    if let Some(http) = &from.http_get {
        return Some(Handler::HttpGet(http_get(http, ports, texts)));
    }
    if let Some(tcp) = &from.tcp_socket {
        return Some(Handler::TcpSocket(TcpSocket {
            host: non_empty(&tcp.host).map(|host| texts.share(host)),
            port: port(&tcp.port, ports),
        }));
    }
    let grpc = from.grpc.as_ref()?;
    Some(Handler::Grpc(Grpc {
        port: u16::try_from(grpc.port).ok()?,
        service: texts.share(grpc.service.as_deref().unwrap_or_default()),
    }))
}

fn http_get(from: &k8s::HTTPGetAction, ports: &[k8s::ContainerPort], texts: &mut Table<str>) -> HttpGet {
    let header = |h: &k8s::HTTPHeader| HttpHeader { name: texts.share(&*h.name), value: texts.share(&*h.value) };
    let headers = from.http_headers.iter().flatten().map(header).collect();
    HttpGet {
        host: non_empty(&from.host).map(|host| texts.share(host)),
        port: port(&from.port, ports),
        path: texts.share(from.path.as_deref().unwrap_or("/")),
        scheme: match from.scheme.as_deref() {
            Some("HTTPS") => Scheme::Https,
            _ => Scheme::Http,
        },
        headers,
    }
}

/// None where the container has neither hook. Hooks' commands are not expanded (`pkg/kubelet/lifecycle/handlers.go`).
fn hooks(from: &k8s::Lifecycle, ports: &[k8s::ContainerPort], texts: &mut Table<str>) -> Option<Arc<Hooks>> {
    let mut hook = |from: &Option<k8s::LifecycleHandler>| {
        let from = from.as_ref()?;
        if let Some(exec) = &from.exec {
            let command = exec.command.iter().flatten();
            return Some(Hook::Exec(Exec { command: command.map(|text| text.as_str().into()).collect() }));
        }
        if let Some(http) = &from.http_get {
            return Some(Hook::HttpGet(http_get(http, ports, texts)));
        }
        match &from.sleep {
            Some(sleep) => Some(Hook::Sleep(u64::try_from(sleep.seconds).unwrap_or_default())),
            None => from.tcp_socket.as_ref().map(|_| Hook::TcpSocket),
        }
    };
    let hooks = Hooks { post_start: hook(&from.post_start), pre_stop: hook(&from.pre_stop) };
    (hooks != Hooks::default()).then(|| Arc::new(hooks))
}

/// `ResolveContainerPort`: a name is looked up among the ports of the probe's own container, else read as a number.
fn port(from: &IntOrString, ports: &[k8s::ContainerPort]) -> Port {
    let number = match from {
        IntOrString::Int(number) => i64::from(*number),
        IntOrString::String(name) => {
            let named = ports.iter().find(|p| p.name.as_ref() == Some(name));
            match named.map(|p| i64::from(p.container_port)) {
                Some(number) => number,
                None => match atoi(name) {
                    Ok(number) => number,
                    Err(text) => return Port::Unusable(text.into()),
                },
            }
        }
    };
    match u16::try_from(number) {
        Ok(number @ 1..) => Port::Number(number),
        _ => Port::Unusable(format!("invalid port number: {number}").into()),
    }
}

/// Go's `strconv.Atoi`, with its errors.
fn atoi(text: &str) -> Result<i64, String> {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    text.parse().map_err(|error: std::num::ParseIntError| {
        let why = match error.kind() {
            PosOverflow | NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        format!("strconv.Atoi: parsing {}: {why}", super::field::Quoted(text))
    })
}

fn context(spec: &k8s::PodSpec) -> Option<&k8s::PodSecurityContext> {
    spec.security_context.as_ref()
}

/// `supplementalGroups`, and `fsGroup`, which the kubelet hands to the runtime as one of them.
fn supplemental_groups(spec: &k8s::PodSpec) -> Box<[u32]> {
    let Some(context) = context(spec) else {
        return Box::default();
    };
    let groups = context.supplemental_groups.iter().flatten().copied();
    groups.chain(context.fs_group).filter_map(narrow).collect()
}

fn narrow(id: i64) -> Option<u32> {
    u32::try_from(id).ok()
}

fn non_empty(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

fn restart_policy(text: &str) -> Option<RestartPolicy> {
    match text {
        "Always" => Some(RestartPolicy::Always),
        "OnFailure" => Some(RestartPolicy::OnFailure),
        "Never" => Some(RestartPolicy::Never),
        _ => None,
    }
}

/// Sorted by key, as a BTreeMap is.
fn pairs(map: Option<&BTreeMap<String, String>>, tables: &mut Tables) -> Arc<Pairs> {
    let Some(map) = map.filter(|map| !map.is_empty()) else {
        return Arc::default();
    };
    let texts = &mut tables.texts;
    let pairs: Vec<_> = map.iter().map(|(k, v)| (texts.share(&**k), texts.share(&**v))).collect();
    tables.pairs.share(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports() -> Vec<k8s::ContainerPort> {
        let port = |name: &str, container_port| k8s::ContainerPort {
            name: Some(name.to_owned()),
            container_port,
            ..k8s::ContainerPort::default()
        };
        vec![port("foo", 8080), port("bad", 66666)]
    }

    fn named(name: &str) -> Port {
        port(&IntOrString::String(name.to_owned()), &ports())
    }

    fn unusable(text: &str) -> Port {
        Port::Unusable(text.into())
    }

    #[test]
    fn u07_a_number_is_the_port() {
        assert_eq!(port(&IntOrString::Int(443), &ports()), Port::Number(443));
    }

    #[test]
    fn u08_a_number_out_of_range_is_unusable() {
        for number in [66666, 0, -1] {
            let text = format!("invalid port number: {number}");
            assert_eq!(port(&IntOrString::Int(number), &[]), unusable(&text));
        }
        assert_eq!(named("bad"), unusable("invalid port number: 66666"));
    }

    #[test]
    fn u09_a_name_is_looked_up_among_the_containers_own_ports() {
        assert_eq!(named("foo"), Port::Number(8080));
        assert_eq!(named("93"), Port::Number(93));
    }

    #[test]
    fn l09_a_hooks_port_name_is_looked_up_too() {
        let hook = k8s::LifecycleHandler {
            http_get: Some(k8s::HTTPGetAction {
                port: IntOrString::String("foo".to_owned()),
                ..k8s::HTTPGetAction::default()
            }),
            ..k8s::LifecycleHandler::default()
        };
        let lifecycle = k8s::Lifecycle { post_start: Some(hook), ..k8s::Lifecycle::default() };
        let hooks = hooks(&lifecycle, &ports(), &mut Tables::default().texts).expect("a hook");
        let Some(Hook::HttpGet(get)) = &hooks.post_start else { panic!("an httpGet: {hooks:?}") };
        assert_eq!((&get.port, &hooks.pre_stop), (&Port::Number(8080), &None));
    }

    #[test]
    fn p13_a_name_that_is_neither_declared_nor_a_number_is_unusable() {
        let text = r#"strconv.Atoi: parsing "abc": invalid syntax"#;
        assert_eq!(named("abc"), unusable(text));
        let text = r#"strconv.Atoi: parsing "99999999999999999999": value out of range"#;
        assert_eq!(named("99999999999999999999"), unusable(text));
    }
}
