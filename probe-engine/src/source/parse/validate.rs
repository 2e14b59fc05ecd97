//! The API server's validation of what makes a pod run and be probed (`pkg/apis/core/validation/validation.go`):
//! its checks, in its order, with its texts; every error at once. Fields that neither the probes nor the
//! runtimes look at (volumes, affinity, ...) are checked for names and types only.
//!
//! Invariant: an object that passes in full converts without a further error (`convert.rs`).

mod container;
mod expansion;
mod probe;

pub(super) use container::probes_and_lifecycle;

use std::collections::{BTreeMap, HashSet};

use k8s_openapi::api::core::v1::{Container, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::field::{Errors, Path};
use super::names;
use crate::ebpf::settings::{ANNOTATION_NETNS, ANNOTATION_PASSIVE};

/// What depends on who asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// An image is needed: to the API server, not to our runtimes.
    pub(super) image_required: bool,
    /// The kind that the pod spec belongs to.
    pub(super) owner: Owner,
}

/// Whose pod spec it is; decides which restart policies make sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Pod,
    PodTemplate,
    /// Deployment, ReplicaSet, ...: its pods always restart.
    Controller,
    /// Job and CronJob: its pods never always restart.
    Job,
}

const ALWAYS: &str = "Always";
const ON_FAILURE: &str = "OnFailure";
const NEVER: &str = "Never";

/// `metadata` of an object that needs a name (`ValidateObjectMeta`).
pub(super) fn metadata(meta: &ObjectMeta, path: &Path<'_>, errors: &mut Errors) {
    let generate_name = meta.generate_name.as_deref().unwrap_or_default();
    let name = meta.name.as_deref().unwrap_or_default();
    if !generate_name.is_empty() {
        // What is generated ends in letters, so a hyphen at the end of the prefix is no fault.
        let prefix = generate_name.strip_suffix('-').unwrap_or(generate_name);
        for complaint in names::dns_subdomain(prefix) {
            errors.invalid(&path.child("generateName"), generate_name, &complaint);
        }
    }
    if name.is_empty() {
        if generate_name.is_empty() {
            errors.required(&path.child("name"), "name or generateName is required");
        }
    } else {
        for complaint in names::dns_subdomain(name) {
            errors.invalid(&path.child("name"), name, &complaint);
        }
    }
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    if !namespace.is_empty() {
        for complaint in names::dns_label(namespace) {
            errors.invalid(&path.child("namespace"), namespace, &complaint);
        }
    }
    labels_and_annotations(meta, path, errors);
}

/// `metadata` of a pod template, which needs no name.
pub(super) fn labels_and_annotations(meta: &ObjectMeta, path: &Path<'_>, errors: &mut Errors) {
    let labels_path = path.child("labels");
    for (key, value) in meta.labels.iter().flatten() {
        for complaint in names::qualified_name(key) {
            errors.invalid(&labels_path, key, &complaint);
        }
        for complaint in names::label_value(value) {
            errors.invalid(&labels_path, value, &complaint);
        }
    }
    annotations(meta.annotations.as_ref(), &path.child("annotations"), errors);
}

fn annotations(map: Option<&BTreeMap<String, String>>, path: &Path<'_>, errors: &mut Errors) {
    const BYTES_MAX: usize = 256 * 1024;
    let mut bytes = 0;
    for (key, value) in map.into_iter().flatten() {
        for complaint in names::qualified_name(&key.to_lowercase()) {
            errors.invalid(path, key, &complaint);
        }
        bytes += key.len() + value.len();
        own_annotation(key, value, path, errors);
    }
    if bytes > BYTES_MAX {
        errors.too_long(path, BYTES_MAX);
    }
}

/// A pod's `spec`, already defaulted (`ValidatePodSpec`).
pub(super) fn pod_spec(spec: &PodSpec, rules: Rules, path: &Path<'_>, errors: &mut Errors) {
    let grace = spec.termination_grace_period_seconds.unwrap_or_default();
    containers(&spec.containers, rules, grace, &path.child("containers"), errors);
    init_containers(spec, rules, grace, &path.child("initContainers"), errors);
    ephemeral_containers(spec, rules, path, errors);
    expansion::bounded(spec, path, errors);
    restart_policy(spec, rules, &path.child("restartPolicy"), errors);
    security_context(spec, &path.child("securityContext"), errors);
    for (i, gate) in spec.readiness_gates.iter().flatten().enumerate() {
        for complaint in names::qualified_name(&gate.condition_type) {
            let gates = path.child("readinessGates");
            let gate_path = gates.index(i);
            errors.invalid(&gate_path.child("conditionType"), &gate.condition_type, &complaint);
        }
    }
    if grace < 0 {
        errors.invalid_number(
            &path.child("terminationGracePeriodSeconds"),
            grace,
            "must be greater than or equal to 0",
        );
    }
    if let Some(seconds) = spec.active_deadline_seconds
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        errors.invalid_number(
            &path.child("activeDeadlineSeconds"),
            seconds,
            "must be between 1 and 2147483647, inclusive",
        );
    }
}

/// Annotations that this engine reads: of our own prefix, any other is one of them mistyped.
fn own_annotation(key: &str, value: &str, path: &Path<'_>, errors: &mut Errors) {
    const PREFIX: &str = "probe-engine.io/";
    let path = path.key(key);
    match key {
        ANNOTATION_PASSIVE if !["on", "off"].contains(&value) => errors.not_supported(&path, value, &["on", "off"]),
        // Nothing that a network or a user's file system is asked for: that may never answer.
        ANNOTATION_NETNS if !["/proc/", "/run/", "/var/run/"].iter().any(|folder| value.starts_with(folder)) => {
            errors.invalid(
                &path,
                value,
                "must be below /run, /var/run or /proc, e.g. /run/netns/web or /proc/1234/ns/net",
            );
        }
        ANNOTATION_NETNS if value.contains('\0') => errors.invalid(&path, value, "must not contain a null character"),
        ANNOTATION_PASSIVE | ANNOTATION_NETNS => {}
        // Keys differ from each other by case too, names of domains do not.
        other if other.to_ascii_lowercase().starts_with(PREFIX) => {
            errors.not_supported(&path, other, &[ANNOTATION_NETNS, ANNOTATION_PASSIVE]);
        }
        _ => {}
    }
}

/// A pod's `status`: only what is taken from it.
pub(super) fn pod_status(status: &PodStatus, path: &Path<'_>, errors: &mut Errors) {
    if let Some(ip) = status.pod_ip.as_deref().filter(|ip| !ip.is_empty())
        && ip.parse::<std::net::IpAddr>().is_err()
    {
        errors.invalid(&path.child("podIP"), ip, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
    }
}

fn containers(containers: &[Container], rules: Rules, grace: i64, path: &Path<'_>, errors: &mut Errors) {
    if containers.is_empty() {
        errors.required(path, "");
        return;
    }
    let mut seen = HashSet::new();
    for (i, container) in containers.iter().enumerate() {
        let path = path.index(i);
        self::container::common(container, rules, &path, errors);
        if !seen.insert(&*container.name) {
            errors.duplicate(&path.child("name"), &container.name);
        }
        self::container::probes_and_lifecycle(container, grace, &path, errors);
    }
}

fn init_containers(spec: &PodSpec, rules: Rules, grace: i64, path: &Path<'_>, errors: &mut Errors) {
    let mut seen: HashSet<&str> = spec.containers.iter().map(|c| &*c.name).collect();
    for (i, container) in spec.init_containers.iter().flatten().enumerate() {
        let path = path.index(i);
        self::container::common(container, rules, &path, errors);
        if !seen.insert(&container.name) {
            errors.duplicate(&path.child("name"), &container.name);
        }
        if container.restart_policy.as_deref() == Some(ALWAYS) {
            self::container::probes_and_lifecycle(container, grace, &path, errors);
        } else {
            self::container::no_probes_nor_lifecycle(container, &path, errors);
        }
    }
}

fn ephemeral_containers(spec: &PodSpec, rules: Rules, path: &Path<'_>, errors: &mut Errors) {
    let path = path.child("ephemeralContainers");
    let ephemeral = spec.ephemeral_containers.as_deref().unwrap_or_default();
    for (i, container) in ephemeral.iter().enumerate() {
        self::container::ephemeral(container, &path.index(i), errors);
    }
    if !ephemeral.is_empty() {
        errors.forbidden(
            &path,
            match rules.owner {
                Owner::Pod => "cannot be set on create",
                _ => "ephemeral containers not allowed in pod template",
            },
        );
    }
}

fn restart_policy(spec: &PodSpec, rules: Rules, path: &Path<'_>, errors: &mut Errors) {
    let policy = spec.restart_policy.as_deref().unwrap_or_default();
    match policy {
        ALWAYS | ON_FAILURE | NEVER => {}
        "" => errors.required(path, ""),
        other => errors.not_supported(path, other, &[ALWAYS, ON_FAILURE, NEVER]),
    }
    match rules.owner {
        Owner::Controller if matches!(policy, ON_FAILURE | NEVER) => {
            errors.not_supported(path, policy, &[ALWAYS]);
        }
        Owner::Job if policy == ALWAYS => {
            errors.required(path, r#"valid values: "OnFailure", "Never""#);
        }
        _ => {}
    }
}

fn security_context(spec: &PodSpec, path: &Path<'_>, errors: &mut Errors) {
    let Some(context) = &spec.security_context else {
        return;
    };
    let groups = context.supplemental_groups.iter().flatten();
    for (field, id) in [("fsGroup", context.fs_group)]
        .into_iter()
        .chain(groups.map(|id| ("supplementalGroups", Some(*id))))
        .chain([("runAsUser", context.run_as_user), ("runAsGroup", context.run_as_group)])
    {
        user_or_group(id, &path.child(field), errors);
    }
}

/// A uid or gid (`IsValidUserID`).
fn user_or_group(id: Option<i64>, path: &Path<'_>, errors: &mut Errors) {
    if let Some(id) = id
        && u32::try_from(id).is_err()
    {
        errors.invalid_number(path, id, "must be between 0 and 4294967295, inclusive");
    }
}

#[cfg(test)]
mod tests;
