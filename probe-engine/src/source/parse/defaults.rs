//! Defaults as the API server sets them before it validates (`pkg/apis/core/v1/defaults.go`): only 0 and the empty
//! text are replaced; a negative number stays and fails validation.

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Lifecycle, LifecycleHandler, PodSpec, Probe};

/// `terminationGracePeriodSeconds` of a pod that says nothing.
pub(super) const GRACE_SECONDS: i64 = 30;

/// Sets the defaults of a pod and all its containers.
pub(super) fn pod_spec(spec: &mut PodSpec) {
    text(&mut spec.restart_policy, "Always");
    spec.termination_grace_period_seconds.get_or_insert(GRACE_SECONDS);
    let init = spec.init_containers.iter_mut().flatten();
    for container in spec.containers.iter_mut().chain(init) {
        self::container(container);
    }
}

/// Sets the defaults of one container.
pub(super) fn container(container: &mut Container) {
    for port in container.ports.iter_mut().flatten() {
        text(&mut port.protocol, "TCP");
    }
    let probes = [&mut container.liveness_probe, &mut container.readiness_probe, &mut container.startup_probe];
    for probe in probes.into_iter().flatten() {
        self::probe(probe);
    }
    if let Some(lifecycle) = &mut container.lifecycle {
        self::lifecycle(lifecycle);
    }
}

/// Sets the defaults of one probe.
pub(super) fn probe(probe: &mut Probe) {
    number(&mut probe.timeout_seconds, 1);
    number(&mut probe.period_seconds, 10);
    number(&mut probe.success_threshold, 1);
    number(&mut probe.failure_threshold, 3);
    if let Some(http) = &mut probe.http_get {
        self::http_get(http);
    }
    if let Some(grpc) = &mut probe.grpc {
        grpc.service.get_or_insert_default();
    }
}

/// Sets the defaults of postStart and preStop.
pub(super) fn lifecycle(lifecycle: &mut Lifecycle) {
    for handler in [&mut lifecycle.post_start, &mut lifecycle.pre_stop] {
        if let Some(LifecycleHandler { http_get: Some(http), .. }) = handler {
            http_get(http);
        }
    }
}

fn http_get(http: &mut HTTPGetAction) {
    text(&mut http.path, "/");
    text(&mut http.scheme, "HTTP");
}

fn text(field: &mut Option<String>, default: &str) {
    if field.as_deref().unwrap_or_default().is_empty() {
        *field = Some(default.to_owned());
    }
}

fn number(field: &mut Option<i32>, default: i32) {
    if field.unwrap_or_default() == 0 {
        *field = Some(default);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::GRPCAction;

    #[test]
    fn d01_a_probe_with_only_a_handler_gets_every_default() {
        let mut p = Probe::default();
        probe(&mut p);
        assert_eq!(p.timeout_seconds, Some(1));
        assert_eq!(p.period_seconds, Some(10));
        assert_eq!(p.success_threshold, Some(1));
        assert_eq!(p.failure_threshold, Some(3));
        assert_eq!(p.initial_delay_seconds.unwrap_or_default(), 0);
        assert_eq!(p.termination_grace_period_seconds, None);
    }

    #[test]
    fn only_zero_is_defaulted_and_negative_numbers_stay() {
        let mut p = Probe {
            timeout_seconds: Some(0),
            period_seconds: Some(-1),
            success_threshold: Some(2),
            ..Probe::default()
        };
        probe(&mut p);
        assert_eq!(p.timeout_seconds, Some(1));
        assert_eq!(p.period_seconds, Some(-1));
        assert_eq!(p.success_threshold, Some(2));
    }

    fn http(path: Option<&str>, scheme: Option<&str>) -> HTTPGetAction {
        HTTPGetAction { path: path.map(str::to_owned), scheme: scheme.map(str::to_owned), ..HTTPGetAction::default() }
    }

    fn path_and_scheme(http: &HTTPGetAction) -> (Option<&str>, Option<&str>) {
        (http.path.as_deref(), http.scheme.as_deref())
    }

    #[test]
    fn d04_http_without_path_and_scheme_gets_slash_and_http() {
        let mut p = Probe { http_get: Some(http(None, Some(""))), ..Probe::default() };
        probe(&mut p);
        let action = p.http_get.as_ref().unwrap();
        assert_eq!(path_and_scheme(action), (Some("/"), Some("HTTP")));
    }

    #[test]
    fn d05_http_scheme_https_stays() {
        let mut action = http(Some("/x"), Some("HTTPS"));
        http_get(&mut action);
        assert_eq!(path_and_scheme(&action), (Some("/x"), Some("HTTPS")));
    }

    #[test]
    fn d06_lifecycle_http_without_path_and_scheme_gets_slash_and_http() {
        let handler = || Some(LifecycleHandler { http_get: Some(http(None, None)), ..LifecycleHandler::default() });
        let mut l = Lifecycle { post_start: handler(), pre_stop: handler(), ..Lifecycle::default() };
        lifecycle(&mut l);
        for handler in [l.post_start, l.pre_stop] {
            let action = handler.unwrap().http_get.unwrap();
            assert_eq!(path_and_scheme(&action), (Some("/"), Some("HTTP")));
        }
    }

    #[test]
    fn d07_grpc_service_nil_becomes_the_empty_string() {
        let mut p = Probe { grpc: Some(GRPCAction { port: 1, service: None }), ..Probe::default() };
        probe(&mut p);
        assert_eq!(p.grpc.unwrap().service.as_deref(), Some(""));
    }
}
