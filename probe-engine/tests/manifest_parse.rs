//! Manifests as `run` reads them: text in, pods out.

use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;

use probe_engine::core::id::ProbeType;
use probe_engine::core::spec::{ContainerKind, Handler, Pod, Port, RestartPolicy, Scheme};
use probe_engine::limits::{DOCUMENT_PROBLEMS_LEN_MAX, PROBLEM_MESSAGE_BYTES_MAX, PROBLEM_PATH_BYTES_MAX};
use probe_engine::source::parse::{
    self, Interner, Options, Parsed, Problem, RuntimeKind, Severity, Strictness, UnsupportedKind,
};
use proptest::prelude::*;

const NONE: Options = Options { strictness: Strictness::Run, runtime: Some(RuntimeKind::None) };
const NONE_WITH_HOST_EXEC: Options =
    Options { strictness: Strictness::Run, runtime: Some(RuntimeKind::NoneWithHostExec) };
const PROCESS: Options = Options { strictness: Strictness::Run, runtime: Some(RuntimeKind::Process) };

fn read(text: &str, options: &Options) -> Result<Parsed, Vec<String>> {
    let mut documents = parse::parse_documents("pod.yaml", text.as_bytes());
    assert_eq!(documents.len(), 1);
    parse::pod(documents.remove(0), options).map_err(|problems| problems.iter().map(Problem::to_string).collect())
}

fn pod(text: &str) -> Pod {
    read(text, &NONE).unwrap().pod
}

/// A pod with one container `app` that has these fields (each line indented by four).
fn with(container: &str) -> String {
    let mut text =
        String::from("apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n  - name: app\n");
    for line in container.lines() {
        writeln!(text, "    {line}").unwrap();
    }
    text
}

fn unsupported(text: &str) -> Vec<(String, bool)> {
    let parsed = read(text, &PROCESS).unwrap();
    let pair = |u: parse::Unsupported| (u.path, u.unsafe_to_ignore);
    parsed.unsupported.into_iter().map(pair).collect()
}

#[test]
fn a_pod_becomes_what_its_manifest_says_with_defaults() {
    let text = r#"
apiVersion: v1
kind: Pod
metadata:
  name: web
  uid: 0f1e
  labels: {b: "2", a: "1"}
spec:
  restartPolicy: OnFailure
  hostNetwork: true
  securityContext: {runAsUser: 1000, fsGroup: 7, supplementalGroups: [5]}
  readinessGates: [{conditionType: example.com/ready}]
  containers:
  - name: app
    command: [/bin/app, --port=$(PORT), $$(PORT), $(NONE)]
    args: ["$(URL)"]
    workingDir: /srv
    env:
    - {name: PORT, value: "8080"}
    - {name: URL, value: "http://localhost:$(PORT)/$(LATER)"}
    - {name: LATER, value: x}
    ports: [{name: http, containerPort: 8080}]
    resources: {limits: {memory: 64Mi}}
    securityContext: {runAsUser: 1001}
    startupProbe: {httpGet: {port: http, scheme: HTTPS}, terminationGracePeriodSeconds: 5}
    readinessProbe: {tcpSocket: {port: nope, host: example.com}, periodSeconds: 3}
    livenessProbe: {exec: {command: [test, "$(URL)"]}}
    lifecycle: {stopSignal: SIGUSR1}
  initContainers:
  - {name: proxy, restartPolicy: Always, readinessProbe: {grpc: {port: 1}}}
  - {name: setup}
status: {podIP: "::1"}
"#;
    let options = Options { runtime: None, ..NONE };
    let pod = read(text, &options).unwrap().pod;
    assert_eq!(pod.uid.as_str(), "0f1e");
    assert_eq!((&*pod.namespace, &*pod.name), ("default", "web"));
    let labels: Vec<_> = pod.labels.iter().map(|(k, v)| (&**k, &**v)).collect();
    assert_eq!(labels, [("a", "1"), ("b", "2")]);
    assert_eq!(pod.pod_ip.get(), Some(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1u16])));
    assert_eq!(pod.restart_policy, RestartPolicy::OnFailure);
    assert_eq!(pod.termination_grace_period_seconds, 30);
    assert!(pod.host_network);
    assert_eq!(&*pod.readiness_gates[0], "example.com/ready");
    let kinds: Vec<_> = pod.init_containers.iter().map(|c| c.kind).collect();
    assert_eq!(kinds, [ContainerKind::Sidecar, ContainerKind::Init]);
    assert_eq!(pod.init_containers[0].probes.count(), 1);

    let app = &pod.containers[0];
    let strings = |list: &[Box<str>]| list.iter().map(|s| s.to_string()).collect::<Vec<_>>();
    assert_eq!(strings(&app.process.command), ["/bin/app", "--port=8080", "$(PORT)", "$(NONE)"]);
    // LATER comes later, so it is not known to URL.
    assert_eq!(strings(&app.process.args), ["http://localhost:8080/$(LATER)"]);
    assert_eq!(app.process.env.len(), 3);
    assert_eq!(app.process.working_dir.as_deref(), Some("/srv"));
    assert_eq!(app.process.run_as_user, Some(1001));
    assert_eq!(*app.process.supplemental_groups, [5, 7]);
    assert_eq!(app.process.memory_limit_bytes, Some(64 << 20));
    assert_eq!(app.process.stop_signal.as_deref(), Some("SIGUSR1"));

    let startup = app.probes.by_type(ProbeType::Startup).unwrap();
    assert_eq!((startup.timeout_seconds, startup.period_seconds, startup.failure_threshold), (1, 10, 3));
    assert_eq!(startup.termination_grace_period_seconds, Some(5));
    let Handler::HttpGet(http) = &startup.handler else {
        panic!("{startup:?}");
    };
    assert_eq!((&http.port, http.scheme), (&Port::Number(8080), Scheme::Https));
    assert_eq!((&*http.path, &http.host), ("/", &None));
    let Handler::TcpSocket(tcp) = &app.probes.readiness.as_ref().unwrap().handler else {
        panic!("{:?}", app.probes.readiness);
    };
    let text = r#"strconv.Atoi: parsing "nope": invalid syntax"#;
    assert_eq!(tcp.port, Port::Unusable(text.into()));
    let Handler::Exec(exec) = &app.probes.liveness.as_ref().unwrap().handler else {
        panic!("{:?}", app.probes.liveness);
    };
    // An exec probe sees the values of env as written.
    assert_eq!(strings(&exec.command), ["test", "http://localhost:$(PORT)/$(LATER)"]);
}

#[test]
fn a_derived_uid_is_stable_and_depends_on_name_and_spec() {
    let text = with("image: a");
    let uid = pod(&text).uid;
    assert_eq!(pod(&text).uid, uid);
    let shape: Vec<usize> = uid.as_str().split('-').map(str::len).collect();
    assert_eq!(shape, [8, 4, 4, 4, 12]);
    // Written out, a default changes nothing.
    assert_eq!(pod(&text.replace("spec:", "spec:\n  restartPolicy: Always")).uid, uid);
    assert_ne!(pod(&text.replace("web", "web-2")).uid, uid);
    assert_ne!(pod(&text.replace("image: a", "image: b")).uid, uid);
}

#[test]
fn a_containers_hash_changes_with_its_definition_only() {
    let hash = |text: &str| pod(text).containers[0].spec_hash;
    let text = with("image: a");
    assert_eq!(hash(&text), hash(&text.replace("web", "other")));
    assert_ne!(hash(&text), hash(&with("image: b")));
}

#[test]
fn unknown_fields_are_warnings_in_run() {
    let parsed = read(&with("imgae: a"), &NONE).unwrap();
    let [warning] = &parsed.warnings[..] else {
        panic!("{:?}", parsed.warnings);
    };
    assert_eq!(warning.severity, Severity::Warning);
    assert_eq!(
        warning.to_string(),
        "pod.yaml:7: warning: spec.containers[0].imgae: unknown field; did you mean image?"
    );
}

#[test]
fn the_process_runtime_needs_a_command_but_no_image() {
    let errors = read(&with("image: a"), &PROCESS).unwrap_err();
    assert_eq!(
        errors,
        [
            "pod.yaml:6: spec.containers[0].command: Required value: the process runtime has no image to take a command from"
        ]
    );
    assert!(read(&with("command: [app]"), &PROCESS).is_ok());
    let init = with("command: [app]").replace("spec:", "spec:\n  initContainers: [{name: i, image: a}]");
    let errors = read(&init, &PROCESS).unwrap_err();
    assert!(errors[0].contains("spec.initContainers[0].command: Required value"), "{errors:?}");
}

#[test]
fn exec_probes_are_refused_under_runtime_none() {
    let text = with("command: [app]\nreadinessProbe: {exec: {command: [x]}}");
    let errors = read(&text, &NONE).unwrap_err();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].starts_with("pod.yaml:8: spec.containers[0].readinessProbe.exec: Forbidden: runtime none"));
    assert!(errors[0].ends_with("--host-exec to run it on this host"), "{errors:?}");
    assert!(read(&text, &NONE_WITH_HOST_EXEC).is_ok());
    assert!(read(&text, &PROCESS).is_ok());
}

#[test]
fn what_a_process_cannot_do_is_told_harmful_or_harmless() {
    let text = with(
        "command: [app]
imagePullPolicy: Always
securityContext: {privileged: true, runAsNonRoot: true, capabilities: {add: [NET_ADMIN]}}
volumeMounts: [{name: v, mountPath: /v}]
envFrom: [{configMapRef: {name: c}}]
env: [{name: A, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]
lifecycle: {preStop: {exec: {command: [x]}}}
resources: {limits: {memory: 1Gi, cpu: 1}, requests: {cpu: 100m}}",
    )
    .replace("spec:", "spec:\n  hostPID: true\n  tolerations: []\n  initContainers: [{name: i, command: [app]}]");
    let expected = [
        ("spec.hostPID", true),
        ("spec.tolerations", false),
        ("spec.containers[0].securityContext.runAsNonRoot", true),
        ("spec.containers[0].securityContext.privileged", true),
        ("spec.containers[0].securityContext.capabilities.add", true),
        ("spec.containers[0].volumeMounts", true),
        ("spec.containers[0].envFrom", true),
        ("spec.containers[0].env[0].valueFrom", true),
        ("spec.containers[0].resources.limits[memory]", true),
        ("spec.containers[0].resources.limits", false),
        ("spec.containers[0].resources.requests", false),
        ("spec.containers[0].imagePullPolicy", false),
    ];
    let expected = expected.map(|(path, harmful)| (path.to_owned(), harmful));
    assert_eq!(unsupported(&text), expected);
    let parsed = read(&text, &PROCESS).unwrap();
    let of_kind = |u: &&parse::Unsupported| u.kind == UnsupportedKind::MemoryLimit;
    assert_eq!(parsed.unsupported.iter().filter(of_kind).count(), 1);
}

#[test]
fn under_runtime_none_nothing_is_unsupported() {
    let parsed = read(&with("securityContext: {privileged: true}"), &NONE).unwrap();
    assert_eq!(parsed.unsupported, []);
}

#[test]
fn our_own_annotations_are_checked_at_their_place() {
    let annotated = |key: &str, value: &str| {
        let text = with("command: [app]");
        text.replace("{name: web}", &format!("\n  name: web\n  annotations:\n    probe-engine.io/{key}: {value}"))
    };
    for (key, value) in [("passive", "'on'"), ("passive", "'off'"), ("netns", "/run/netns/web")] {
        let pod = pod(&annotated(key, value));
        assert_eq!(&*pod.annotations[0].1, value.trim_matches('\''));
    }
    let errors = read(&annotated("passive", "maybe"), &NONE).unwrap_err();
    assert_eq!(
        errors,
        [
            r#"pod.yaml:6: metadata.annotations[probe-engine.io/passive]: Unsupported value: "maybe": supported values: "on", "off""#
        ]
    );
    let errors = read(&annotated("netns", "run/netns/web"), &NONE).unwrap_err();
    assert!(
        errors[0].starts_with("pod.yaml:6: metadata.annotations[probe-engine.io/netns]: Invalid value"),
        "{errors:?}"
    );
    assert!(
        errors[0].ends_with("must be below /run, /var/run or /proc, e.g. /run/netns/web or /proc/1234/ns/net"),
        "{errors:?}"
    );
    let errors = read(&annotated("pasive", "'off'"), &NONE).unwrap_err();
    assert_eq!(
        errors,
        [
            r#"pod.yaml:6: metadata.annotations[probe-engine.io/pasive]: Unsupported value: "probe-engine.io/pasive": supported values: "probe-engine.io/netns", "probe-engine.io/passive""#
        ]
    );
}

#[test]
fn the_process_runtime_has_no_network_namespace_to_choose() {
    let text = with("command: [app]")
        .replace("{name: web}", "{name: web, annotations: {probe-engine.io/netns: /run/netns/x}}");
    assert_eq!(unsupported(&text), [("metadata.annotations[probe-engine.io/netns]".to_owned(), true)]);
    assert_eq!(read(&text, &NONE).unwrap().unsupported, []);
}

#[test]
fn run_takes_pods_only_and_says_so() {
    let of_v1 = ["Service", "List", "Lists", "PodList"].map(|kind| format!("{kind}\napiVersion: v1\nitems: []"));
    for kind in of_v1.into_iter().chain(["Deployment\napiVersion: apps/v1".to_owned()]) {
        let errors = read(&format!("kind: {kind}"), &NONE).unwrap_err();
        assert_eq!(errors.len(), 1);
        assert!(errors[0].contains("run takes Pods only"), "{errors:?}");
    }
}

#[test]
fn a_name_that_would_have_to_be_generated_is_refused_in_run() {
    let text = with("command: [app]").replace("name: web", "generateName: web-");
    let errors = read(&text, &PROCESS).unwrap_err();
    assert_eq!(errors, ["pod.yaml:3: metadata.name: Required value: names are not generated here"]);
}

#[test]
fn a_pod_ip_that_is_no_address_is_an_error() {
    let text = with("command: [app]") + "status: {podIP: 10.0.0.256}\n";
    let errors = read(&text, &PROCESS).unwrap_err();
    assert_eq!(
        errors,
        [
            "pod.yaml:8: status.podIP: Invalid value: \"10.0.0.256\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
        ]
    );
}

#[test]
fn null_reads_as_absent() {
    let text = with(
        "command: [app, null]
ports: null
readinessProbe: {tcpSocket: {port: 1}, periodSeconds: null, terminationGracePeriodSeconds: null}
resources: {limits: {memory: null}}
livenessProbe:
env: [{name: A, value: }]",
    );
    let pod = read(&text, &PROCESS).unwrap().pod;
    let app = &pod.containers[0];
    assert_eq!(&*app.process.command[1], "");
    assert_eq!(&*app.process.env[0].1, "");
    assert_eq!(app.probes.count(), 1);
    assert_eq!(app.probes.readiness.as_ref().unwrap().period_seconds, 10);
}

#[test]
fn a_broken_document_does_not_hide_the_others() {
    let text = format!("a: [1, 2\n---\n{}---\n\tx: y\n---\n{0}", with("command: [app]"));
    let documents = parse::parse_documents("x", text.as_bytes());
    let kinds: Vec<_> = documents.iter().map(|d| d.kind().unwrap_or("?")).collect();
    assert_eq!(kinds, ["?", "Pod", "?", "Pod"]);
    let lines: Vec<u32> = documents.iter().map(|d| d.position().line).collect();
    assert_eq!(lines[1], 3);
    for document in documents {
        let is_pod = document.kind().is_some();
        assert_eq!(parse::pod(document, &PROCESS).is_ok(), is_pod);
    }
}

#[test]
fn bytes_that_are_no_text_are_an_error_with_their_line() {
    let mut documents = parse::parse_documents("x", b"a: 1\nb: \xff\n");
    let problems = parse::check(documents.remove(0));
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].to_string(), "x:2: not UTF-8 text");
}

#[test]
fn deep_and_exploding_documents_are_refused() {
    let deep = "[".repeat(100_000);
    let nested = format!("a: {}1{}", "{b: ".repeat(70), "}".repeat(70));
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..9 {
        let list = vec![format!("*a{}", i - 1); 10].join(", ");
        writeln!(bomb, "a{i}: &a{i} [{list}]").unwrap();
    }
    let itself = "a: &a [*a]";
    let long = format!("- &a \"{}\"\n{}", "x".repeat(8_192), "- *a\n".repeat(1_024));
    for text in [&*deep, &*nested, &*bomb, itself, &*long] {
        let documents = parse::parse_documents("x", text.as_bytes());
        let problems: Vec<_> = documents.into_iter().flat_map(parse::check).collect();
        assert!(!problems.is_empty(), "{}", &text[..10]);
        assert!(problems[0].severity == Severity::Error, "{problems:?}");
    }
}

#[test]
fn references_that_stand_for_too_much_are_refused() {
    let doubling = |count: usize| -> String {
        let entry = |i: usize| format!("- {{name: A{}, value: $(A{i})$(A{i})}}\n", i + 1);
        (0..count).map(entry).fold("command: [x]\nenv:\n- {name: A0, value: x}\n".to_owned(), |all, one| all + &one)
    };
    let app = |text: &str| read(&with(text), &PROCESS).map(|parsed| parsed.pod.containers[0].process.clone());
    assert_eq!(app(&doubling(19)).unwrap().env[19].1.len(), 1 << 19);
    let refused = |text: &str| {
        let errors = app(text).unwrap_err();
        assert_eq!(errors.len(), 1, "{errors:?}");
        errors[0].clone()
    };
    let why = "Forbidden: $(VAR) references stand for more than 1048576 bytes in this pod";
    for count in [20, 64, 3_000] {
        assert!(refused(&doubling(count)).ends_with(&format!(" spec.containers[0].env[20].value: {why}")));
    }
    let long = |field: &str| format!("env: [{{name: A, value: {}}}]\n{field}", "x".repeat(64 * 1024));
    let many = ["$(A)"; 17].join(",");
    for (field, path) in [
        (format!("command: [{many}]"), "command[16]"),
        (format!("command: [x]\nargs: [{many}]"), "args[16]"),
        (format!("command: [x]\nlivenessProbe: {{exec: {{command: [{many}]}}}}"), "livenessProbe.exec.command[16]"),
    ] {
        assert!(refused(&long(&field)).ends_with(&format!(" spec.containers[0].{path}: {why}")), "{path}");
    }
    // Without references there is no such bound.
    let plain = format!("command: [x, {}]", "x".repeat(2 << 20));
    assert!(app(&plain).is_ok());
}

#[test]
fn what_is_said_about_a_document_is_bounded() {
    let key = "k".repeat(100_000);
    let duplicates = format!("? {key}\n:\n{}", "  a: 1\n".repeat(3_000));
    let unknown = with(&(0..3_000).map(|i| format!("f{i}: 1\n")).collect::<String>());
    let mistyped = with(&format!("args: [{}]", "1,".repeat(3_000)));
    let invalid = with(&format!("env: [{}]", "{name: =, value: a},".repeat(3_000)));
    for text in [&duplicates, &unknown, &mistyped, &invalid] {
        let problems = parse::check(parse::parse_documents("x", text.as_bytes()).remove(0));
        assert_eq!(problems.len(), DOCUMENT_PROBLEMS_LEN_MAX + 1);
        let last = &problems.last().unwrap().message;
        assert!(last.starts_with("more errors than are listed: "), "{last}");
    }
    // Warnings neither refuse a pod nor hide why it is refused.
    let refused = read(&unknown, &PROCESS).unwrap_err();
    assert!(refused.iter().any(|problem| problem.contains("containers[0].command: Required")));
    let taken = read(&(unknown + "    command: [x]\n"), &PROCESS).unwrap();
    assert_eq!(taken.warnings.last().unwrap().to_string(), "pod.yaml:1: warning: more warnings than are listed: 2000");
    let name = with("").replace("web", &key);
    let label = with("").replace("web", &format!("web, labels: {{? {key} : '-'}}"));
    let unknown = with("").replace("web", &format!("web, ? {key} : 1"));
    let tag = format!("a: !!int {key}");
    for text in [duplicates, name, label, unknown, tag] {
        let problems = parse::check(parse::parse_documents("x", text.as_bytes()).remove(0));
        for problem in problems {
            assert!(problem.path.len() <= PROBLEM_PATH_BYTES_MAX && problem.message.len() <= PROBLEM_MESSAGE_BYTES_MAX);
        }
    }
}

#[test]
fn merge_keys_add_what_is_not_there_and_the_first_of_several_wins() {
    let text = r#"
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers:
  - name: a
    command: [a]
    livenessProbe: &slow {tcpSocket: {port: 1}, periodSeconds: 60}
    readinessProbe: &fast {periodSeconds: 1, timeoutSeconds: 2, tcpSocket: {port: 2}}
    startupProbe: {<<: [*slow, *fast], failureThreshold: 9, periodSeconds: 7}
"#;
    let pod = pod(text);
    let startup = pod.containers[0].probes.startup.clone().unwrap();
    assert_eq!((startup.period_seconds, startup.timeout_seconds, startup.failure_threshold), (7, 2, 9));
    let Handler::TcpSocket(tcp) = &startup.handler else {
        panic!("{startup:?}");
    };
    assert_eq!(tcp.port, Port::Number(1));
}

#[test]
fn json_is_read_as_json() {
    let text = "{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\n\t\"metadata\":{\"name\":\"web\"},\n\t\"spec\":{\"containers\":[{\"name\":\"a\",\"command\":[\"x\\u0041\\/\"],\"ports\":[],\n\t\"livenessProbe\":{\"tcpSocket\":{\"port\":0}}}]}}";
    let errors = read(text, &PROCESS).unwrap_err();
    assert_eq!(
        errors,
        [
            "pod.yaml:4: spec.containers[0].livenessProbe.tcpSocket.port: Invalid value: 0: must be between 1 and 65535, inclusive"
        ]
    );
    let pod = read(&text.replace("port\":0", "port\":1"), &PROCESS).unwrap().pod;
    assert_eq!(&*pod.containers[0].process.command[0], "xA/");
}

#[test]
fn a_file_of_thousands_of_pods_is_read_in_linear_time() {
    let mut text = String::new();
    for i in 0..3_000 {
        let pod = with("livenessProbe: {tcpSocket: {port: 80}}");
        writeln!(text, "---\n{}", pod.replace("web", &format!("web-{i}"))).unwrap();
    }
    let read = parse::documents("x", text.as_bytes()).map(|d| parse::pod(d, &NONE).unwrap().pod);
    let uids: std::collections::HashSet<_> = read.map(|pod| pod.uid).collect();
    assert_eq!(uids.len(), 3_000);
    // Maps that are merged into one of as many fields.
    let fields: String = (0..30_000).map(|i| format!("f{i}: 1\n<<: {{g{i}: 1}}\n")).collect();
    let problems = parse::check(parse::parse_documents("x", (fields + "g0: 1\ng0: 1").as_bytes()).remove(0));
    assert!(problems[0].message.contains("already set at line 60001"));
    // An object of as many fields, which is hashed.
    let fields: String = (0..100_000).map(|i| format!("f{i}: 1\n")).collect();
    let problems = parse::check(parse::parse_documents("x", (fields + "f0: 1").as_bytes()).remove(0));
    assert!(problems[0].message.contains("already set at line 1"));
}

/// A pod of a Deployment: JSON, two containers, a UID of its own.
fn deployed(number: u32, path: &str) -> String {
    let probe =
        format!(r#"{{"httpGet": {{"port": 80, "path": "{path}", "httpHeaders": [{{"name": "A", "value": "b"}}]}}}}"#);
    format!(
        r#"{{"apiVersion": "v1", "kind": "Pod",
            "metadata": {{"name": "web-{number}", "uid": "uid-{number}", "labels": {{"app": "web", "hash": "1f"}}}},
            "spec": {{"containers": [
                {{"name": "app", "image": "app:1", "livenessProbe": {probe}, "readinessProbe": {probe}}},
                {{"name": "side", "image": "side:1"}}
            ]}},
            "status": {{"podIP": "10.0.0.{number}"}}}}"#
    )
}

fn all(bytes: &[u8], options: &Options, interner: &Interner) -> Vec<Result<Parsed, Vec<Problem>>> {
    parse::pods("x", bytes, options, interner).collect()
}

fn one(text: &str, interner: &Interner) -> Pod {
    all(text.as_bytes(), &NONE, interner).remove(0).unwrap().pod
}

#[test]
fn pods_of_a_deployment_share_all_but_what_is_their_own() {
    let interner = Interner::default();
    let (a, b) = (one(&deployed(1, "/"), &interner), one(&deployed(2, "/"), &interner));
    assert!(Arc::ptr_eq(&a.containers, &b.containers) && Arc::ptr_eq(&a.labels, &b.labels));
    assert!(Arc::ptr_eq(&a.namespace, &b.namespace));
    assert_eq!((&*b.name, b.uid.as_str(), b.pod_ip.get()), ("web-2", "uid-2", "10.0.0.2".parse().ok()));
    // Another path makes another probe; what it holds besides is shared.
    let c = one(&deployed(3, "/c"), &interner);
    assert!(!Arc::ptr_eq(&a.containers, &c.containers) && Arc::ptr_eq(&a.labels, &c.labels));
    let of = |pod: &Pod| (pod.containers[0].clone(), pod.containers[1].clone());
    let ((a_app, a_side), (c_app, c_side)) = (of(&a), of(&c));
    assert!(Arc::ptr_eq(&a_app.process, &c_app.process) && Arc::ptr_eq(&a_app.process, &c_side.process));
    assert!(Arc::ptr_eq(&a_side.image, &c_side.image));
    let (liveness, readiness) = (c_app.probes.liveness.unwrap(), c_app.probes.readiness.unwrap());
    assert!(Arc::ptr_eq(&liveness, &readiness), "equal specs are one");
}

#[test]
fn what_pods_shared_goes_with_them() {
    let interner = Interner::default();
    let pods: Vec<Pod> = (1..9).map(|i| one(&deployed(i, "/"), &interner)).collect();
    let (containers, labels) = (Arc::downgrade(&pods[0].containers), Arc::downgrade(&pods[0].labels));
    interner.sweep();
    assert!(
        Arc::ptr_eq(&one(&deployed(9, "/"), &interner).containers, &pods[0].containers),
        "it is kept while it is used"
    );
    drop(pods);
    interner.sweep();
    assert!(containers.upgrade().is_none() && labels.upgrade().is_none());
}

#[test]
fn a_known_spec_hides_no_error_beside_it() {
    let interner = Interner::default();
    let good = deployed(1, "/");
    one(&good, &interner);
    let bad = good.replace("\"name\": \"web-1\"", "\"name\": \"Web_1\"").replace("10.0.0.1", "10.0.0.256");
    for text in [&bad, &good.replace("uid-1", "uid\", \"colour\": \"red")] {
        assert_eq!(shown(all(text.as_bytes(), &NONE, &interner)), shown(plainly(text.as_bytes(), &NONE)));
    }
    // Another runtime, another reading.
    let command = "spec.containers[0].command: Required value";
    let problems = all(good.as_bytes(), &PROCESS, &interner).remove(0).unwrap_err();
    assert!(problems[0].to_string().contains(command), "{problems:?}");
}

/// As [`all`], without anything shared and by the parser that knows places.
fn plainly(bytes: &[u8], options: &Options) -> Vec<Result<Parsed, Vec<Problem>>> {
    parse::documents("x", bytes).map(|document| parse::pod(document, options)).collect()
}

fn shown(read: Vec<Result<Parsed, Vec<Problem>>>) -> Vec<String> {
    read.iter().map(|read| format!("{read:#?}")).collect()
}

/// Sharing changes nothing, nor does having read a spec before, nor the parser of JSON.
fn assert_shared_is_plain(bytes: &[u8]) {
    for options in [NONE, PROCESS] {
        let interner = Interner::default();
        let plain = shown(plainly(bytes, &options));
        for _ in 0..2 {
            let shared = all(bytes, &options, &interner);
            // JSON that the YAML parser does not take: tabs and escapes that only JSON has.
            let is_only_json =
                matches!(&*shared, [Ok(_)]) && serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok();
            let shared = shown(shared);
            assert!(shared == plain || is_only_json, "{}\n{shared:#?}\n{plain:#?}", String::from_utf8_lossy(bytes));
        }
    }
}

#[test]
fn every_manifest_is_read_the_same_with_and_without_sharing() {
    let data = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/manifests");
    for directory in ["good", "seed", "broken"] {
        for entry in std::fs::read_dir(data.join(directory)).unwrap() {
            assert_shared_is_plain(&std::fs::read(entry.unwrap().path()).unwrap());
        }
    }
    let many: String = (1..5).map(|i| deployed(i, "/") + "\n---\n").collect();
    assert_shared_is_plain(many.as_bytes());
}

/// A valid manifest with some bytes changed, taken out or repeated.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let seeds = prop::sample::select(vec![
        include_str!("../../tests/data/manifests/good/every-handler.yaml"),
        include_str!("../../tests/data/manifests/good/anchors.yaml"),
        include_str!("../../tests/data/manifests/good/pod.json"),
        include_str!("../../tests/data/manifests/good/workloads.yaml"),
        include_str!("../../tests/data/manifests/broken/09-wrong-types.yaml"),
    ]);
    let edits = prop::collection::vec((any::<prop::sample::Index>(), 0..4u8, any::<u8>()), 0..12);
    (seeds, edits).prop_map(|(seed, edits)| {
        let mut bytes = seed.as_bytes().to_vec();
        for (at, what, byte) in edits {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match what {
                0 => bytes[at] = byte,
                1 => bytes[at] = b"{}[]:-#&*!|>'\"%@`\n\t ,0~<"[usize::from(byte) % 24],
                2 => {
                    let end = (at + usize::from(byte)).min(bytes.len());
                    bytes.drain(at..end);
                }
                _ => {
                    let end = (at + usize::from(byte)).min(bytes.len());
                    let again = bytes[at..end].to_vec();
                    bytes.splice(at..at, again);
                }
            }
        }
        bytes
    })
}

fn read_every_way(bytes: &[u8]) {
    for options in [NONE, PROCESS] {
        for document in parse::documents("x", bytes) {
            if let Err(problems) = parse::pod(document, &options) {
                assert!(problems.iter().any(|p| p.severity == Severity::Error));
            }
        }
    }
    for document in parse::documents("x", bytes) {
        let _ = parse::check(document);
    }
    assert_shared_is_plain(bytes);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        read_every_way(&bytes);
    }

    #[test]
    fn random_yaml_never_panics(text in "[-a-c0-9:{}\\[\\],&*!|>'\"#%@?~< \n\t.]{0,200}") {
        read_every_way(text.as_bytes());
    }

    #[test]
    fn mutated_manifests_never_panic(bytes in mutated()) {
        read_every_way(&bytes);
    }
}
