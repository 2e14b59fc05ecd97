//! Probes and lifecycle hooks: sections 1.3 and 1.4 of the specification.

use k8s_openapi::api::core::v1::{
    ExecAction, HTTPGetAction, Lifecycle, LifecycleHandler, Probe, SleepAction, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::super::field::{Errors, Path};
use super::super::names;
use super::container::port_number;

pub(super) fn liveness(probe: Option<&Probe>, path: &Path<'_>, errors: &mut Errors) {
    let Some(probe) = probe else { return };
    common(probe, path, errors);
    success_threshold_is_one(probe, path, errors);
}

pub(super) fn startup(probe: Option<&Probe>, path: &Path<'_>, errors: &mut Errors) {
    liveness(probe, path, errors);
}

pub(super) fn readiness(probe: Option<&Probe>, path: &Path<'_>, errors: &mut Errors) {
    let Some(probe) = probe else { return };
    common(probe, path, errors);
    if let Some(seconds) = probe.termination_grace_period_seconds {
        errors.invalid_number(
            &path.child("terminationGracePeriodSeconds"),
            seconds,
            "must not be set for readinessProbes",
        );
    }
}

/// postStart and preStop; `grace` is the pod's grace period, which bounds a sleep.
pub(super) fn lifecycle(lifecycle: &Lifecycle, grace: i64, path: &Path<'_>, errors: &mut Errors) {
    for (field, handler) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
        if let Some(handler) = handler {
            self::handler(&Handlers::of_hook(handler), grace, &path.child(field), errors);
        }
    }
    if let Some(signal) = lifecycle.stop_signal.as_deref()
        && !is_signal(signal)
    {
        errors.invalid(&path.child("stopSignal"), signal, "must be a signal's name, e.g. SIGTERM");
    }
}

fn is_signal(name: &str) -> bool {
    name.parse::<nix::sys::signal::Signal>().is_ok() || name.starts_with("SIGRTMIN") || name.starts_with("SIGRTMAX")
}

fn common(probe: &Probe, path: &Path<'_>, errors: &mut Errors) {
    handler(&Handlers::of_probe(probe), 0, path, errors);
    for (field, value) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        if let Some(value @ ..=-1) = value {
            errors.invalid_number(&path.child(field), i64::from(value), "must be greater than or equal to 0");
        }
    }
    if let Some(seconds @ ..=0) = probe.termination_grace_period_seconds {
        errors.invalid_number(&path.child("terminationGracePeriodSeconds"), seconds, "must be greater than 0");
    }
}

fn success_threshold_is_one(probe: &Probe, path: &Path<'_>, errors: &mut Errors) {
    let threshold = probe.success_threshold.unwrap_or_default();
    if threshold != 1 {
        let path = path.child("successThreshold");
        errors.invalid_number(&path, i64::from(threshold), "must be 1");
    }
}

/// The handlers of a probe or a hook, in the order in which they are looked at.
struct Handlers<'a> {
    exec: Option<&'a ExecAction>,
    http_get: Option<&'a HTTPGetAction>,
    tcp_socket: Option<&'a TCPSocketAction>,
    grpc_port: Option<i32>,
    sleep: Option<&'a SleepAction>,
}

impl<'a> Handlers<'a> {
    fn of_probe(probe: &'a Probe) -> Self {
        Self {
            exec: probe.exec.as_ref(),
            http_get: probe.http_get.as_ref(),
            tcp_socket: probe.tcp_socket.as_ref(),
            grpc_port: probe.grpc.as_ref().map(|grpc| grpc.port),
            sleep: None,
        }
    }

    fn of_hook(hook: &'a LifecycleHandler) -> Self {
        Self {
            exec: hook.exec.as_ref(),
            http_get: hook.http_get.as_ref(),
            tcp_socket: hook.tcp_socket.as_ref(),
            grpc_port: None,
            sleep: hook.sleep.as_ref(),
        }
    }
}

/// The first handler is validated, every further one refused.
fn handler(handlers: &Handlers<'_>, grace: i64, path: &Path<'_>, errors: &mut Errors) {
    let mut found = 0;
    let mut is_first = |field: &str, errors: &mut Errors| {
        found += 1;
        if found > 1 {
            errors.forbidden(&path.child(field), "may not specify more than 1 handler type");
        }
        found == 1
    };
    if let Some(exec) = handlers.exec
        && is_first("exec", errors)
        && exec.command.as_deref().unwrap_or_default().is_empty()
    {
        errors.required(&path.child("exec").child("command"), "");
    }
    if let Some(action) = handlers.http_get
        && is_first("httpGet", errors)
    {
        http_get(action, &path.child("httpGet"), errors);
    }
    if let Some(action) = handlers.tcp_socket
        && is_first("tcpSocket", errors)
    {
        port(&action.port, &path.child("tcpSocket").child("port"), errors);
    }
    if let Some(number) = handlers.grpc_port
        && is_first("grpc", errors)
    {
        port_number(number, &path.child("grpc").child("port"), errors);
    }
    if let Some(action) = handlers.sleep
        && is_first("sleep", errors)
    {
        sleep(action, grace, &path.child("sleep"), errors);
    }
    if found == 0 {
        errors.required(path, "must specify a handler type");
    }
}

fn http_get(action: &HTTPGetAction, path: &Path<'_>, errors: &mut Errors) {
    if action.path.as_deref().unwrap_or_default().is_empty() {
        errors.required(&path.child("path"), "");
    }
    port(&action.port, &path.child("port"), errors);
    let scheme = action.scheme.as_deref().unwrap_or_default();
    if !matches!(scheme, "HTTP" | "HTTPS") {
        errors.not_supported(&path.child("scheme"), scheme, &["HTTP", "HTTPS"]);
    }
    for header in action.http_headers.iter().flatten() {
        for complaint in names::header_name(&header.name) {
            errors.invalid(&path.child("httpHeaders"), &header.name, &complaint);
        }
    }
}

fn port(port: &IntOrString, path: &Path<'_>, errors: &mut Errors) {
    match port {
        IntOrString::Int(number) => port_number(*number, path, errors),
        IntOrString::String(name) => {
            for complaint in names::port_name(name) {
                errors.invalid(path, name, &complaint);
            }
        }
    }
}

fn sleep(action: &SleepAction, grace: i64, path: &Path<'_>, errors: &mut Errors) {
    if !(0..=grace).contains(&action.seconds) {
        let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        errors.invalid_number(&path.child("seconds"), action.seconds, &detail);
    }
}
