//! Containers: `validateContainerCommon` and what differs between regular, init and ephemeral ones.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{Container, ContainerPort, EnvVar, EphemeralContainer};

use super::super::field::{Errors, Path};
use super::super::names::{self, PORT_RANGE};
use super::{ALWAYS, NEVER, ON_FAILURE, Rules, probe, user_or_group};

/// `restartPolicyRules` of a container.
const RESTART_RULES_LEN_MAX: usize = 20;

/// `exitCodes.values` of a rule.
const EXIT_CODES_LEN_MAX: usize = 255;

/// What holds for containers of every kind.
pub(super) fn common(container: &Container, rules: Rules, path: &Path<'_>, errors: &mut Errors) {
    name(&container.name, path, errors);
    let image = container.image.as_deref().unwrap_or_default();
    if rules.image_required && image.is_empty() {
        errors.required(&path.child("image"), "");
    }
    ports(container.ports.as_deref(), &path.child("ports"), errors);
    env(container.env.as_deref(), &path.child("env"), errors);
    if let Some(policy) = container.image_pull_policy.as_deref()
        && !matches!(policy, "" | "Always" | "IfNotPresent" | "Never")
    {
        let supported = ["Always", "IfNotPresent", "Never"];
        errors.not_supported(&path.child("imagePullPolicy"), policy, &supported);
    }
    if let Some(context) = &container.security_context {
        let path = path.child("securityContext");
        user_or_group(context.run_as_user, &path.child("runAsUser"), errors);
        user_or_group(context.run_as_group, &path.child("runAsGroup"), errors);
    }
    if let Some(policy) = container.restart_policy.as_deref()
        && !matches!(policy, ALWAYS | NEVER | ON_FAILURE)
    {
        let supported = [ALWAYS, NEVER, ON_FAILURE];
        errors.not_supported(&path.child("restartPolicy"), policy, &supported);
    }
    restart_rules(container, path, errors);
}

/// `validateContainerRestartPolicy`
fn restart_rules(container: &Container, path: &Path<'_>, errors: &mut Errors) {
    let rules = container.restart_policy_rules.as_deref().unwrap_or_default();
    if container.restart_policy.is_none() {
        if !rules.is_empty() {
            errors.required(&path.child("restartPolicy"), "must specify restartPolicy when restart rules are used");
        }
        return;
    }
    let path = path.child("restartPolicyRules");
    if rules.len() > RESTART_RULES_LEN_MAX {
        errors.too_many(&path, rules.len(), RESTART_RULES_LEN_MAX);
    }
    for (i, rule) in rules.iter().enumerate() {
        let path = path.index(i);
        if rule.action != "Restart" {
            errors.not_supported(&path.child("action"), &rule.action, &["Restart"]);
        }
        let path = path.child("exitCodes");
        let Some(on) = &rule.exit_codes else {
            errors.required(&path, "must be specified");
            continue;
        };
        if !matches!(&*on.operator, "In" | "NotIn") {
            errors.not_supported(&path.child("operator"), &on.operator, &["In", "NotIn"]);
        }
        let (values, path) = (on.values.as_deref().unwrap_or_default(), path.child("values"));
        if values.is_empty() {
            errors.required(&path, "must specify at least one exit code");
        }
        if values.len() > EXIT_CODES_LEN_MAX {
            errors.too_many(&path, values.len(), EXIT_CODES_LEN_MAX);
        }
        let mut seen = HashSet::new();
        for (i, value) in values.iter().enumerate() {
            if !seen.insert(value) {
                errors.duplicate(&path.index(i), &value.to_string());
            }
        }
    }
}

/// Regular containers and sidecars.
pub(in super::super) fn probes_and_lifecycle(container: &Container, grace: i64, path: &Path<'_>, errors: &mut Errors) {
    if let Some(lifecycle) = &container.lifecycle {
        probe::lifecycle(lifecycle, grace, &path.child("lifecycle"), errors);
    }
    probe::liveness(container.liveness_probe.as_ref(), &path.child("livenessProbe"), errors);
    probe::readiness(container.readiness_probe.as_ref(), &path.child("readinessProbe"), errors);
    probe::startup(container.startup_probe.as_ref(), &path.child("startupProbe"), errors);
}

/// Ordinary init containers.
pub(super) fn no_probes_nor_lifecycle(container: &Container, path: &Path<'_>, errors: &mut Errors) {
    for (field, is_set) in [
        ("lifecycle", container.lifecycle.is_some()),
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
    ] {
        if is_set {
            errors.forbidden(&path.child(field), "may not be set for init containers without restartPolicy=Always");
        }
    }
}

/// Ephemeral containers: what they may not have is not looked into.
pub(super) fn ephemeral(container: &EphemeralContainer, path: &Path<'_>, errors: &mut Errors) {
    name(&container.name, path, errors);
    for (field, is_set) in [
        ("ports", container.ports.is_some()),
        ("resources", container.resources.is_some()),
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
        ("lifecycle", container.lifecycle.is_some()),
    ] {
        if is_set {
            errors.forbidden(&path.child(field), "cannot be set for an Ephemeral Container");
        }
    }
}

fn name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        errors.required(&path.child("name"), "");
        return;
    }
    for complaint in names::dns_label(name) {
        errors.invalid(&path.child("name"), name, &complaint);
    }
}

fn ports(ports: Option<&[ContainerPort]>, path: &Path<'_>, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for (i, port) in ports.unwrap_or_default().iter().enumerate() {
        let path = path.index(i);
        let name = port.name.as_deref().unwrap_or_default();
        if !name.is_empty() {
            let complaints = names::port_name(name);
            for complaint in &complaints {
                errors.invalid(&path.child("name"), name, complaint);
            }
            if complaints.is_empty() && !seen.insert(name) {
                errors.duplicate(&path.child("name"), name);
            }
        }
        if port.container_port == 0 {
            errors.required(&path.child("containerPort"), "");
        } else {
            port_number(port.container_port, &path.child("containerPort"), errors);
        }
        if let Some(port @ (..=-1 | 1..)) = port.host_port {
            port_number(port, &path.child("hostPort"), errors);
        }
        match port.protocol.as_deref().unwrap_or_default() {
            "TCP" | "UDP" | "SCTP" => {}
            "" => errors.required(&path.child("protocol"), ""),
            other => errors.not_supported(&path.child("protocol"), other, &["SCTP", "TCP", "UDP"]),
        }
    }
}

/// `IsValidPortNum`
pub(super) fn port_number(port: i32, path: &Path<'_>, errors: &mut Errors) {
    if !(1..=65535).contains(&port) {
        errors.invalid_number(path, i64::from(port), PORT_RANGE);
    }
}

fn env(env: Option<&[EnvVar]>, path: &Path<'_>, errors: &mut Errors) {
    for (i, variable) in env.unwrap_or_default().iter().enumerate() {
        let path = path.index(i);
        if variable.name.is_empty() {
            errors.required(&path.child("name"), "");
        }
        for complaint in names::env_name(&variable.name) {
            errors.invalid(&path.child("name"), &variable.name, &complaint);
        }
        let value = variable.value.as_deref().unwrap_or_default();
        if variable.value_from.is_some() && !value.is_empty() {
            errors.invalid(&path.child("valueFrom"), "", "may not be specified when `value` is not empty");
        }
    }
}
