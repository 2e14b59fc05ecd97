//! What a valid pod asks for and the runtime in use does not do. The API server knows nothing of this.

use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::field::{Errors, Path};
use crate::ebpf::settings::ANNOTATION_NETNS;

/// A field that the runtime cannot honour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// `spec.containers[0].securityContext.privileged`
    pub path: String,
    /// Where the field is in its file, from 1.
    pub line: u32,
    /// What is not done, for people.
    pub what: &'static str,
    /// The container would do harm, or other than its work, without it: refused unless the operator insists.
    pub unsafe_to_ignore: bool,
    /// Whether the runtime may be able to do it after all.
    pub kind: UnsupportedKind,
}

/// See [`Unsupported::kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnsupportedKind {
    /// Can be honoured where a cgroup can be made for the container.
    MemoryLimit,
    /// Never honoured.
    Other,
}

impl std::fmt::Display for Unsupported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, self.what)
    }
}

/// The containers that are run, with the fields that they stand in.
fn lists(spec: &PodSpec) -> [(&'static str, &[Container]); 2] {
    [("initContainers", spec.init_containers.as_deref().unwrap_or_default()), ("containers", &spec.containers)]
}

/// What the `process` runtime cannot do without: there is no image to take a command from.
pub(super) fn require_commands(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    for (field, containers) in lists(spec) {
        let list = path.child(field);
        for (i, container) in containers.iter().enumerate() {
            if container.command.as_deref().unwrap_or_default().is_empty() {
                let (path, why) = (list.index(i), "the process runtime has no image to take a command from");
                errors.required(&path.child("command"), why);
            }
        }
    }
}

/// What the `none` runtime cannot do: run a command inside a container. (`--host-exec`: then it is run on this host.)
pub(super) fn refuse_exec_probes(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    for (field, containers) in lists(spec).into_iter().rev() {
        let list = path.child(field);
        for (i, container) in containers.iter().enumerate() {
            let path = list.index(i);
            for (field, probe) in [
                ("livenessProbe", &container.liveness_probe),
                ("readinessProbe", &container.readiness_probe),
                ("startupProbe", &container.startup_probe),
            ] {
                if probe.as_ref().is_some_and(|probe| probe.exec.is_some()) {
                    errors.forbidden(
                        &path.child(field).child("exec"),
                        "runtime none has no container to run a command in; use httpGet, tcpSocket or grpc, --runtime process, or \
                         --host-exec to run it on this host",
                    );
                }
            }
        }
    }
}

/// What the `process` runtime does not do of this pod, whose place is `root`.
pub(super) fn by_process(meta: &ObjectMeta, spec: &PodSpec, root: &Path<'_>) -> Vec<Unsupported> {
    let mut found = Found::default();
    let annotated = meta.annotations.as_ref().is_some_and(|a| a.contains_key(ANNOTATION_NETNS));
    let (meta_path, path) = (root.child("metadata"), &root.child("spec"));
    found.harmful(
        annotated,
        &meta_path.child("annotations").key(ANNOTATION_NETNS),
        "processes of this runtime are in the daemon's own network namespace",
    );
    of_pod(spec, path, &mut found);
    for (field, containers) in lists(spec) {
        let list = path.child(field);
        for (i, container) in containers.iter().enumerate() {
            of_container(container, spec, &list.index(i), &mut found);
        }
    }
    found.list
}

#[derive(Default)]
struct Found {
    list: Vec<Unsupported>,
}

impl Found {
    fn harmful(&mut self, is_set: bool, path: &Path<'_>, what: &'static str) {
        self.add(is_set, path, what, true, UnsupportedKind::Other);
    }

    fn harmless(&mut self, is_set: bool, path: &Path<'_>, what: &'static str) {
        self.add(is_set, path, what, false, UnsupportedKind::Other);
    }

    fn add(
        &mut self,
        is_set: bool,
        path: &Path<'_>,
        what: &'static str,
        unsafe_to_ignore: bool,
        kind: UnsupportedKind,
    ) {
        if is_set {
            self.list.push(Unsupported { path: path.to_string(), line: 0, what, unsafe_to_ignore, kind });
        }
    }
}

fn of_pod(spec: &PodSpec, path: &Path<'_>, found: &mut Found) {
    const HOST: &str = "processes of this runtime share the host's namespaces only as the daemon does";
    found.harmful(spec.host_pid == Some(true), &path.child("hostPID"), HOST);
    found.harmful(spec.host_ipc == Some(true), &path.child("hostIPC"), HOST);
    if let Some(context) = &spec.security_context {
        let path = path.child("securityContext");
        let sysctls = context.sysctls.as_deref().unwrap_or_default();
        found.harmful(!sysctls.is_empty(), &path.child("sysctls"), "sysctls are not set");
        let confined = context.seccomp_profile.is_some()
            || context.app_armor_profile.is_some()
            || context.se_linux_options.is_some();
        found.harmless(confined, &path, "profiles that confine a process are not applied");
    }
    const NOT_SCHEDULED: &str = "nothing is scheduled here";
    const NO_API_SERVER: &str = "there is no API server to talk to";
    const HOST_NAMES: &str = "names are resolved as on the host";
    for (field, is_set, what) in [
        ("affinity", spec.affinity.is_some(), NOT_SCHEDULED),
        ("tolerations", spec.tolerations.is_some(), NOT_SCHEDULED),
        ("nodeSelector", spec.node_selector.is_some(), NOT_SCHEDULED),
        ("nodeName", spec.node_name.is_some(), NOT_SCHEDULED),
        ("schedulerName", spec.scheduler_name.is_some(), NOT_SCHEDULED),
        ("schedulingGates", spec.scheduling_gates.is_some(), NOT_SCHEDULED),
        ("priorityClassName", spec.priority_class_name.is_some(), NOT_SCHEDULED),
        ("topologySpreadConstraints", spec.topology_spread_constraints.is_some(), NOT_SCHEDULED),
        ("serviceAccountName", spec.service_account_name.is_some(), NO_API_SERVER),
        ("serviceAccount", spec.service_account.is_some(), NO_API_SERVER),
        ("imagePullSecrets", spec.image_pull_secrets.is_some(), "images are not pulled"),
        ("runtimeClassName", spec.runtime_class_name.is_some(), "there is one runtime"),
        ("dnsConfig", spec.dns_config.is_some(), HOST_NAMES),
        ("dnsPolicy", spec.dns_policy.is_some(), HOST_NAMES),
        ("hostAliases", spec.host_aliases.is_some(), HOST_NAMES),
        ("hostname", spec.hostname.is_some(), HOST_NAMES),
        ("subdomain", spec.subdomain.is_some(), HOST_NAMES),
        ("ephemeralContainers", spec.ephemeral_containers.is_some(), "ephemeral containers are not run"),
        ("activeDeadlineSeconds", spec.active_deadline_seconds.is_some(), "pods are not ended after a time"),
    ] {
        found.harmless(is_set, &path.child(field), what);
    }
}

fn of_container(container: &Container, pod: &PodSpec, path: &Path<'_>, found: &mut Found) {
    security(container, pod, path, found);
    let any = |list: Option<usize>| list.unwrap_or_default() > 0;
    let mounts = container.volume_mounts.as_ref().map(Vec::len);
    found.harmful(any(mounts), &path.child("volumeMounts"), "volumes are not mounted");
    let devices = container.volume_devices.as_ref().map(Vec::len);
    found.harmful(any(devices), &path.child("volumeDevices"), "volumes are not mounted");
    let env_from = container.env_from.as_ref().map(Vec::len);
    const NO_OBJECTS: &str = "there are no ConfigMaps, Secrets or fields to take values from";
    found.harmful(any(env_from), &path.child("envFrom"), NO_OBJECTS);
    let env_path = path.child("env");
    for (i, variable) in container.env.iter().flatten().enumerate() {
        let is_set = variable.value_from.is_some();
        found.harmful(is_set, &env_path.index(i).child("valueFrom"), NO_OBJECTS);
    }
    resources(container, path, found);
    for (field, is_set, what) in [
        ("imagePullPolicy", container.image_pull_policy.is_some(), "images are not pulled"),
        ("stdin", container.stdin == Some(true), "there is no standard input"),
        ("tty", container.tty == Some(true), "there is no terminal"),
        ("terminationMessagePath", container.termination_message_path.is_some(), "termination messages are not read"),
    ] {
        found.harmless(is_set, &path.child(field), what);
    }
}

fn security(container: &Container, pod: &PodSpec, path: &Path<'_>, found: &mut Found) {
    let context = container.security_context.as_ref();
    let of_pod = pod.security_context.as_ref();
    let path = path.child("securityContext");
    let user = context.and_then(|c| c.run_as_user).or(of_pod.and_then(|c| c.run_as_user));
    let non_root = context.and_then(|c| c.run_as_non_root).or(of_pod.and_then(|c| c.run_as_non_root));
    if non_root == Some(true) {
        let path = path.child("runAsNonRoot");
        found.harmful(user.is_none(), &path, "there is no image to take a user from; set runAsUser");
        found.harmful(user == Some(0), &path, "runAsUser is 0, which is root");
    }
    let Some(context) = context else {
        return;
    };
    found.harmful(
        context.privileged == Some(true),
        &path.child("privileged"),
        "processes get no privileges that the daemon does not have",
    );
    let capabilities = context.capabilities.as_ref();
    let added = capabilities.and_then(|c| c.add.as_ref()).map(Vec::len);
    found.harmful(
        added.unwrap_or_default() > 0,
        &path.child("capabilities").child("add"),
        "capabilities are not added",
    );
    let confined = context.read_only_root_filesystem == Some(true)
        || context.allow_privilege_escalation == Some(false)
        || context.seccomp_profile.is_some()
        || context.app_armor_profile.is_some()
        || context.se_linux_options.is_some()
        || capabilities.is_some_and(|c| c.drop.is_some());
    found.harmless(confined, &path, "what confines a process is not applied");
}

fn resources(container: &Container, path: &Path<'_>, found: &mut Found) {
    let Some(resources) = &container.resources else {
        return;
    };
    let path = path.child("resources");
    let limits = resources.limits.as_ref();
    found.add(
        limits.is_some_and(|l| l.contains_key("memory")),
        &path.child("limits").key("memory"),
        "memory cannot be limited without a cgroup",
        true,
        UnsupportedKind::MemoryLimit,
    );
    let others = limits.is_some_and(|l| l.keys().any(|key| key != "memory"));
    found.harmless(others, &path.child("limits"), "only memory is limited");
    let requests = resources.requests.is_some();
    found.harmless(requests, &path.child("requests"), "nothing is reserved");
}
