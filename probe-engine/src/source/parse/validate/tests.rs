//! Section 8.8 of the specification, one test per row. Probes are taken as they are, without defaults, unless a
//! row says otherwise: that is how the API server's validation sees them.

use k8s_openapi::api::core::v1::{Lifecycle, PodSpec, Probe};
use probe_core::id::ProbeType;
use serde_json::{Value, json};

use super::super::defaults;
use super::super::field::{Errors, Path};
use super::{Owner, Rules, pod_spec, probe};

const PORT_RANGE: &str = "must be between 1 and 65535, inclusive";

fn errors_of(probe_type: ProbeType, value: Value) -> Vec<String> {
    let probe: Probe = serde_json::from_value(value).unwrap();
    let (mut errors, path) = (Errors::default(), Path::ROOT.child("p"));
    match probe_type {
        ProbeType::Startup => probe::startup(Some(&probe), &path, &mut errors),
        ProbeType::Readiness => probe::readiness(Some(&probe), &path, &mut errors),
        ProbeType::Liveness => probe::liveness(Some(&probe), &path, &mut errors),
    }
    errors.texts()
}

/// Of a readiness probe, for which `successThreshold` may be anything.
fn errors_of_handler(value: Value) -> Vec<String> {
    errors_of(ProbeType::Readiness, value)
}

fn errors_of_hook(pre_stop: Value) -> Vec<String> {
    let lifecycle: Lifecycle = serde_json::from_value(json!({ "preStop": pre_stop })).unwrap();
    let (mut errors, path) = (Errors::default(), Path::ROOT.child("lifecycle"));
    probe::lifecycle(&lifecycle, 30, &path, &mut errors);
    errors.texts()
}

/// Of a whole pod spec with one good container, after defaults.
fn errors_of_spec(more: Value) -> Vec<String> {
    let mut spec = json!({ "containers": [{ "name": "app", "image": "app" }] });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let mut spec: PodSpec = serde_json::from_value(spec).unwrap();
    defaults::pod_spec(&mut spec);
    let rules = Rules { image_required: true, owner: Owner::Pod };
    let mut errors = Errors::default();
    pod_spec(&spec, rules, &Path::ROOT.child("spec"), &mut errors);
    errors.texts()
}

fn exec() -> Value {
    json!({ "command": ["echo"] })
}

fn all_probes() -> Value {
    json!({
        "name": "extra", "image": "extra",
        "lifecycle": { "preStop": { "exec": exec() } },
        "livenessProbe": { "tcpSocket": { "port": 80 } },
        "readinessProbe": { "tcpSocket": { "port": 80 } },
        "startupProbe": { "tcpSocket": { "port": 80 } },
    })
}

#[test]
fn v01_no_probe_is_valid() {
    let (mut errors, path) = (Errors::default(), Path::ROOT.child("p"));
    probe::liveness(None, &path, &mut errors);
    probe::readiness(None, &path, &mut errors);
    probe::startup(None, &path, &mut errors);
    assert!(errors.is_empty());
}

#[test]
fn v02_an_empty_probe_needs_a_handler() {
    assert_eq!(errors_of_handler(json!({})), ["p: Required value: must specify a handler type"]);
}

#[test]
fn v03_all_numbers_zero_before_defaulting_are_valid_for_readiness() {
    let probe = json!({
        "exec": exec(), "initialDelaySeconds": 0, "timeoutSeconds": 0, "periodSeconds": 0,
        "successThreshold": 0, "failureThreshold": 0,
    });
    assert_eq!(errors_of_handler(probe), [""; 0]);
}

#[test]
fn v04_negative_numbers_are_invalid_one_at_a_time() {
    for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        let probe = json!({ "exec": exec(), field: -1 });
        let text = format!("p.{field}: Invalid value: -1: must be greater than or equal to 0");
        assert_eq!(errors_of_handler(probe), [text]);
    }
}

#[test]
fn v06_a_grace_period_of_a_liveness_probe_is_valid() {
    let probe = json!({
        "exec": exec(), "successThreshold": 1, "terminationGracePeriodSeconds": 1,
    });
    assert_eq!(errors_of(ProbeType::Liveness, probe), [""; 0]);
}

#[test]
fn v07_a_grace_period_of_a_readiness_probe_is_invalid() {
    let of = |seconds| errors_of_handler(json!({ "exec": exec(), "terminationGracePeriodSeconds": seconds }));
    let path = "p.terminationGracePeriodSeconds: Invalid value";
    let not_set = "must not be set for readinessProbes";
    assert_eq!(of(10), [format!("{path}: 10: {not_set}")]);
    assert_eq!(of(-1), [format!("{path}: -1: must be greater than 0"), format!("{path}: -1: {not_set}"),]);
}

#[test]
fn v09_valid_handlers_give_no_error() {
    for handler in [
        json!({ "exec": exec() }),
        json!({ "httpGet": { "path": "/", "port": 1, "scheme": "HTTP" } }),
        json!({ "httpGet": { "path": "/foo", "port": 65535, "host": "host", "scheme": "HTTP" } }),
        json!({ "httpGet": { "path": "/", "port": "port", "scheme": "HTTP" } }),
        json!({ "httpGet": { "path": "/", "port": "port", "scheme": "HTTP",
            "httpHeaders": [{ "name": "Host", "value": "foo.example.com" }] } }),
        json!({ "httpGet": { "path": "/", "port": "port", "scheme": "HTTPS",
            "httpHeaders": [{ "name": "X-Forwarded-For", "value": "1.2.3.4" },
                            { "name": "X-Forwarded-For", "value": "5.6.7.8" }] } }),
        json!({ "tcpSocket": { "port": 1 } }),
        json!({ "grpc": { "port": 1 } }),
    ] {
        assert_eq!(errors_of_handler(handler.clone()), [""; 0], "{handler}");
    }
}

#[test]
fn v10_an_exec_without_a_command_is_incomplete() {
    for handler in [json!({ "exec": {} }), json!({ "exec": { "command": [] } })] {
        assert_eq!(errors_of_handler(handler), ["p.exec.command: Required value"]);
    }
}

const BAD_SCHEME: &str = r#"p.httpGet.scheme: Unsupported value: "": supported values: "HTTP", "HTTPS""#;

#[test]
fn v11_an_http_handler_of_nothing_has_three_errors() {
    let handler = json!({ "httpGet": { "path": "", "port": 0, "host": "" } });
    assert_eq!(
        errors_of_handler(handler),
        ["p.httpGet.path: Required value", &format!("p.httpGet.port: Invalid value: 0: {PORT_RANGE}"), BAD_SCHEME,]
    );
}

#[test]
fn v12_an_http_port_out_of_range_and_an_empty_scheme_are_two_errors() {
    let handler = json!({ "httpGet": { "path": "/foo", "port": 65536, "host": "host" } });
    assert_eq!(
        errors_of_handler(handler),
        [&*format!("p.httpGet.port: Invalid value: 65536: {PORT_RANGE}"), BAD_SCHEME,]
    );
}

#[test]
fn v14_a_header_name_with_a_colon_is_invalid() {
    let handler = json!({ "httpGet": { "path": "/", "port": "port", "scheme": "HTTP",
        "httpHeaders": [{ "name": "Host:", "value": "foo.example.com" }] } });
    let text = r#"p.httpGet.httpHeaders: Invalid value: "Host:": a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')"#;
    assert_eq!(errors_of_handler(handler), [text]);
}

#[test]
fn v16_a_second_handler_is_forbidden_and_not_validated() {
    let handler = json!({
        "httpGet": { "path": "/", "port": 80, "scheme": "HTTP" },
        "tcpSocket": { "port": 0 },
    });
    assert_eq!(errors_of_handler(handler), ["p.tcpSocket: Forbidden: may not specify more than 1 handler type"]);
}

#[test]
fn v18_a_tcp_port_of_zero_or_none_is_invalid() {
    let text = format!("p.tcpSocket.port: Invalid value: 0: {PORT_RANGE}");
    for socket in [json!({ "port": 0 }), json!({})] {
        let probe = json!({ "tcpSocket": socket, "successThreshold": 1 });
        assert_eq!(errors_of(ProbeType::Liveness, probe), [&*text]);
    }
}

#[test]
fn v19_a_liveness_probe_without_action_needs_a_handler() {
    let probe = json!({ "initialDelaySeconds": 10, "periodSeconds": 60, "successThreshold": 1 });
    assert_eq!(errors_of(ProbeType::Liveness, probe), ["p: Required value: must specify a handler type"]);
}

#[test]
fn v20_a_liveness_success_threshold_of_two_is_invalid() {
    let probe = json!({ "tcpSocket": { "port": 80 }, "successThreshold": 2 });
    let text = "p.successThreshold: Invalid value: 2: must be 1";
    assert_eq!(errors_of(ProbeType::Liveness, probe), [text]);
}

#[test]
fn v21_a_startup_success_threshold_of_two_is_invalid() {
    let probe = json!({ "tcpSocket": { "port": 80 }, "successThreshold": 2 });
    let text = "p.successThreshold: Invalid value: 2: must be 1";
    assert_eq!(errors_of(ProbeType::Startup, probe), [text]);
}

#[test]
fn v23_a_startup_probe_with_every_number_negative_has_seven_errors() {
    let probe = json!({
        "tcpSocket": { "port": 80 }, "initialDelaySeconds": -1, "timeoutSeconds": -1,
        "periodSeconds": -1, "successThreshold": -1, "failureThreshold": -1,
        "terminationGracePeriodSeconds": -1,
    });
    let fields: Vec<String> =
        errors_of(ProbeType::Startup, probe).iter().map(|text| text.split(':').next().unwrap().to_owned()).collect();
    assert_eq!(
        fields,
        [
            "p.initialDelaySeconds",
            "p.timeoutSeconds",
            "p.periodSeconds",
            "p.successThreshold",
            "p.failureThreshold",
            "p.terminationGracePeriodSeconds",
            "p.successThreshold",
        ]
    );
}

#[test]
fn v25_a_readiness_success_threshold_of_five_is_valid() {
    let probe = json!({ "tcpSocket": { "port": 80 }, "successThreshold": 5 });
    assert_eq!(errors_of_handler(probe), [""; 0]);
}

#[test]
fn v27_a_pre_stop_exec_needs_a_command() {
    assert_eq!(errors_of_hook(json!({ "exec": {} })), ["lifecycle.preStop.exec.command: Required value"]);
}

#[test]
fn v28_a_pre_stop_http_of_nothing_has_three_errors() {
    assert_eq!(
        errors_of_hook(json!({ "httpGet": {} })),
        [
            "lifecycle.preStop.httpGet.path: Required value",
            &format!("lifecycle.preStop.httpGet.port: Invalid value: 0: {PORT_RANGE}"),
            r#"lifecycle.preStop.httpGet.scheme: Unsupported value: "": supported values: "HTTP", "HTTPS""#,
        ]
    );
}

#[test]
fn v29_a_pre_stop_tcp_needs_a_port() {
    let text = format!("lifecycle.preStop.tcpSocket.port: Invalid value: 0: {PORT_RANGE}");
    assert_eq!(errors_of_hook(json!({ "tcpSocket": {} })), [text]);
}

#[test]
fn v30_an_empty_pre_stop_needs_a_handler() {
    let text = "lifecycle.preStop: Required value: must specify a handler type";
    assert_eq!(errors_of_hook(json!({})), [text]);
}

#[test]
fn v31_ephemeral_containers_have_neither_probes_nor_lifecycle() {
    let errors = errors_of_spec(json!({ "ephemeralContainers": [all_probes()] }));
    let forbidden = |field: &str| {
        format!("spec.ephemeralContainers[0].{field}: Forbidden: cannot be set for an Ephemeral Container")
    };
    assert_eq!(
        errors,
        [
            forbidden("livenessProbe"),
            forbidden("readinessProbe"),
            forbidden("startupProbe"),
            forbidden("lifecycle"),
            "spec.ephemeralContainers: Forbidden: cannot be set on create".to_owned(),
        ]
    );
}

#[test]
fn v32_ordinary_init_containers_have_neither_probes_nor_lifecycle() {
    let forbidden = |field: &str| {
        format!(
            "spec.initContainers[0].{field}: Forbidden: may not be set for init containers without restartPolicy=Always"
        )
    };
    assert_eq!(
        errors_of_spec(json!({ "initContainers": [all_probes()] })),
        ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"].map(forbidden)
    );
}

#[test]
fn v33_sidecars_are_validated_as_regular_containers() {
    let mut sidecar = all_probes();
    sidecar["restartPolicy"] = json!("Always");
    let errors_of = |sidecar: &Value| errors_of_spec(json!({ "initContainers": [sidecar] }));
    assert_eq!(errors_of(&sidecar), [""; 0]);
    sidecar["livenessProbe"]["successThreshold"] = json!(2);
    sidecar["readinessProbe"]["periodSeconds"] = json!(-1);
    assert_eq!(
        errors_of(&sidecar),
        [
            "spec.initContainers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
            "spec.initContainers[0].readinessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
        ]
    );
}

#[test]
fn v37_a_grpc_port_out_of_range_is_invalid() {
    for port in [0, 65536] {
        let text = format!("p.grpc.port: Invalid value: {port}: {PORT_RANGE}");
        assert_eq!(errors_of_handler(json!({ "grpc": { "port": port } })), [text]);
    }
}

#[test]
fn v39_a_sleep_may_be_zero_and_as_long_as_the_grace_period() {
    let of = |seconds: i64| errors_of_hook(json!({ "sleep": { "seconds": seconds } }));
    assert_eq!(of(0), [""; 0]);
    assert_eq!(of(30), [""; 0]);
    for seconds in [-1, 31] {
        let text = format!(
            "lifecycle.preStop.sleep.seconds: Invalid value: {seconds}: must be non-negative and less than terminationGracePeriodSeconds (30)"
        );
        assert_eq!(of(seconds), [text]);
    }
}

#[test]
fn restart_rules_need_a_policy_an_action_and_exit_codes() {
    let errors_of = |policy: Value, rules: Value| {
        let container = json!({ "name": "app", "image": "app", "restartPolicy": policy, "restartPolicyRules": rules });
        errors_of_spec(json!({ "containers": [container] }))
    };
    let rule = |action: &str, operator: &str, values: &[i32]| json!({ "action": action, "exitCodes": { "operator": operator, "values": values } });
    assert_eq!(
        errors_of(json!("Never"), json!([rule("Restart", "In", &[42]), rule("Restart", "NotIn", &[0, 1])])),
        [""; 0]
    );
    assert_eq!(
        errors_of(Value::Null, json!([rule("Restart", "In", &[42])])),
        ["spec.containers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used"]
    );
    let path = "spec.containers[0].restartPolicyRules";
    assert_eq!(
        errors_of(
            json!("Never"),
            json!([rule("RestartAllContainers", "Is", &[]), { "action": "Restart" }, rule("Restart", "In", &[1, 1])])
        ),
        [
            format!(r#"{path}[0].action: Unsupported value: "RestartAllContainers": supported values: "Restart""#),
            format!(r#"{path}[0].exitCodes.operator: Unsupported value: "Is": supported values: "In", "NotIn""#),
            format!("{path}[0].exitCodes.values: Required value: must specify at least one exit code"),
            format!("{path}[1].exitCodes: Required value: must be specified"),
            format!(r#"{path}[2].exitCodes.values[1]: Duplicate value: "1""#),
        ]
    );
    let many: Vec<i32> = (0..256).collect();
    let too_many = errors_of(json!("Never"), vec![rule("Restart", "In", &many); 21].into());
    assert_eq!(too_many[0], format!("{path}: Too many: 21: must have at most 20 items"));
    assert_eq!(too_many[1], format!("{path}[0].exitCodes.values: Too many: 256: must have at most 255 items"));
}

#[test]
fn names_of_containers_are_required_labels_and_unique() {
    let container = |name: &str| json!({ "name": name, "image": "i" });
    let errors = errors_of_spec(json!({
        "containers": [container("a"), container("a"), container(""), container("a.b")],
        "initContainers": [container("a")],
    }));
    assert_eq!(
        errors,
        [
            r#"spec.containers[1].name: Duplicate value: "a""#,
            "spec.containers[2].name: Required value",
            r#"spec.containers[3].name: Invalid value: "a.b": must not contain dots"#,
            r#"spec.initContainers[0].name: Duplicate value: "a""#,
        ]
    );
}

#[test]
fn the_rest_of_a_pod_spec_is_checked_in_the_api_servers_order() {
    let errors = errors_of_spec(json!({
        "containers": [{ "name": "a",
            "ports": [{ "containerPort": 0 }, { "name": "UP", "containerPort": 70000, "protocol": "tcp" }],
            "env": [{ "name": "" }, { "name": "A=B" }] }],
        "restartPolicy": "Sometimes",
        "readinessGates": [{ "conditionType": "a/b/c" }],
        "terminationGracePeriodSeconds": -1,
    }));
    let starts = [
        "spec.containers[0].image: Required value",
        "spec.containers[0].ports[0].containerPort: Required value",
        r#"spec.containers[0].ports[1].name: Invalid value: "UP": must contain only alpha-numeric"#,
        r#"spec.containers[0].ports[1].name: Invalid value: "UP": must contain at least one letter"#,
        "spec.containers[0].ports[1].containerPort: Invalid value: 70000: must be between",
        r#"spec.containers[0].ports[1].protocol: Unsupported value: "tcp": supported values: "SCTP", "TCP", "UDP""#,
        "spec.containers[0].env[0].name: Required value",
        r#"spec.containers[0].env[1].name: Invalid value: "A=B": a valid environment variable name"#,
        r#"spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "OnFailure", "Never""#,
        r#"spec.readinessGates[0].conditionType: Invalid value: "a/b/c": a qualified name must consist"#,
        "spec.terminationGracePeriodSeconds: Invalid value: -1: must be greater than or equal to 0",
    ];
    assert_eq!(errors.len(), starts.len(), "{errors:#?}");
    for (error, start) in errors.iter().zip(starts) {
        assert!(error.starts_with(start), "{error} does not begin with {start}");
    }
    assert_eq!(errors_of_spec(json!({ "containers": [] })), ["spec.containers: Required value"]);
}
