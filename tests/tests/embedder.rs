//! The daemon as the prober of somebody else's containers: a client of its API plays the kubelet.
#![cfg(feature = "engine")]

use std::net::TcpListener;
use std::process::Output;

use probe_engine::api::v1::container_state::State;
use probe_engine::api::v1::exec_result::End;
use probe_engine::api::v1::serve_exec_response::Item;
use probe_engine::api::v1::{self, ProbeType, Verdict};
use probe_engine::state;
use probe_tests::daemon::Daemon;
use probe_tests::kubelet::{Kubelet, container, running, says};
use tonic::Code;

fn external(flags: &[&str]) -> (Daemon, Kubelet) {
    let folder = tempfile::Builder::new().prefix("probe-engine-test-").tempdir().expect("a temporary directory");
    external_in(folder, flags)
}

fn external_in(folder: tempfile::TempDir, flags: &[&str]) -> (Daemon, Kubelet) {
    let daemon = Daemon::start_external_in(folder, flags);
    let kubelet = Kubelet::connect(daemon.folder.path());
    (daemon, kubelet)
}

/// Pod `default/NAME` of UID `uid-NAME` with a container `app`.
fn manifest(name: &str, probes: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, uid: uid-{name}}}\nspec:\n  containers:\n  - name: app\n{probes}"
    )
}

fn tcp(probe: &str, port: u16) -> String {
    format!("    {probe}: {{tcpSocket: {{port: {port}}}, periodSeconds: 1, failureThreshold: 2}}\n")
}

fn exec(probe: &str, failure_threshold: u32) -> String {
    format!(
        "    {probe}: {{exec: {{command: [check, it]}}, periodSeconds: 1, failureThreshold: {failure_threshold}}}\n"
    )
}

fn listener(port: u16) -> TcpListener {
    TcpListener::bind(("127.0.0.1", port)).expect("the port is free")
}

fn text(output: &Output) -> (String, String, Option<i32>) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr), output.status.code())
}

fn probe_of(pod: &v1::Pod, probe_type: ProbeType) -> &v1::Probe {
    pod.containers[0].probes.iter().find(|probe| probe.r#type() == probe_type).expect("it has one")
}

#[test]
fn an_embedder_says_which_pods_there_are_and_how_and_hears_of_the_right_instance() {
    let (mut daemon, kubelet) = external(&[]);
    assert!(daemon.page("/readyz").is_none(), "it does not know yet which pods are wanted");
    daemon.manifest("beside.yaml", &manifest("beside", ""));
    daemon.wait_for("the pod of the manifest", |daemon| daemon.pod("beside"));
    let open = listener(0);
    let port = open.local_addr().expect("it is bound").port();
    let web = manifest("web", &format!("{}{}", tcp("livenessProbe", port), tcp("readinessProbe", port)));
    let answer = kubelet.sync([web.clone()]).expect("it is taken in");
    assert_eq!((answer.added_count, answer.kept_count, answer.removed_count), (1, 0, 0));
    assert!(daemon.page("/readyz").is_some());

    let pod = kubelet.pod("web").expect("it is there");
    assert_eq!((pod.phase(), pod.source.as_str()), (v1::PodPhase::Pending, "api"));
    assert!(pod.containers[0].state.is_none() && pod.pod_ip.is_empty(), "nothing is made up");
    let mut results = kubelet.results();
    kubelet.status("uid-web", vec![running("app", "cri://1", 0)]).expect("it is taken");
    let begun = |result: &v1::ProbeResult| says(result, ProbeType::Liveness, "cri://1", Verdict::Success);
    kubelet.next_result(&mut results, "the initial value of the first", begun);
    daemon.wait_ready("web", "True");
    let pod = kubelet.pod("web").expect("it is there");
    assert_eq!((pod.phase(), pod.pod_ip.as_str()), (v1::PodPhase::Running, "127.0.0.1"));
    assert!(pod.containers[0].ready && pod.containers[0].id == "cri://1");

    drop(open);
    let dead = |result: &v1::ProbeResult| says(result, ProbeType::Liveness, "cri://1", Verdict::Failure);
    let (failure, _) = kubelet.next_result(&mut results, "the failure", dead);
    let of = failure.probe.expect("it says whose");
    assert_eq!((of.pod_uid.as_str(), of.container.as_str()), ("uid-web", "app"));

    // The embedder kills it, and starts another.
    let how = v1::Termination { exit_code: 137, ..v1::Termination::default() };
    let ended = v1::EmbeddedContainer { restart_allowed: true, ..container("app", "cri://1", State::Terminated(how)) };
    kubelet.status("uid-web", vec![ended]).expect("it is taken");
    let _open = listener(port);
    kubelet.status("uid-web", vec![running("app", "cri://2", 0)]).expect("it is taken");
    let anew = |result: &v1::ProbeResult| says(result, ProbeType::Liveness, "cri://2", Verdict::Success);
    kubelet.next_result(&mut results, "the initial value of the second", anew);
    daemon.wait_ready("web", "True");
    let pod = kubelet.pod("web").expect("it is there");
    let last = pod.containers[0].last_termination.as_ref().map(|end| end.exit_code);
    assert_eq!(last, Some(137), "as it was seen to end");

    let mut embedder = kubelet.embedder.clone();
    let stop = v1::StopLivenessAndStartupRequest { pod_uid: "uid-web".to_owned() };
    kubelet.wait("the stop", embedder.stop_liveness_and_startup(stop)).expect("it is there");
    let none = |result: &v1::ProbeResult| says(result, ProbeType::Liveness, "", Verdict::Unspecified);
    kubelet.next_result(&mut results, "liveness to end", none);
    assert_eq!(kubelet.sync([web]).expect("it is taken in").kept_count, 1);
    assert_eq!(kubelet.sync([]).expect("it is taken in").removed_count, 1);
    assert_eq!(kubelet.pod("web").expect_err("it went at once").code(), Code::NotFound);
    assert!(kubelet.pod("beside").is_ok(), "a pod of a manifest is nobody else's to end");
}

#[test]
fn what_cannot_be_taken_is_refused_with_its_field_and_changes_nothing() {
    let (_daemon, kubelet) = external(&[]);
    kubelet.sync([manifest("web", "")]).expect("it is taken in");
    let refused = kubelet.status("uid-web", vec![running("app", "cri://1", -3_600)]).expect_err("it is yet to come");
    assert_eq!(refused.code(), Code::InvalidArgument);
    let field = "containers[0].state.running.started_at: ";
    assert!(refused.message().starts_with(field) && refused.message().contains("lies in the future"), "{refused}");
    let refused = kubelet.status("uid-wbe", Vec::new()).expect_err("there is none");
    assert_eq!((refused.code(), refused.message()), (Code::NotFound, "pod_uid: no pod has the UID \"uid-wbe\""));
    assert!(kubelet.pod("web").expect("it is there").containers[0].state.is_none());

    let broken = manifest("bad", "").replace("name: app", "name: A");
    let answer = kubelet.sync([manifest("web", ""), broken]).expect("it is taken in, but for one");
    assert_eq!((answer.kept_count, answer.removed_count, answer.problems_count), (1, 0, 1));
    let problem = &answer.problems[0];
    assert_eq!((problem.index, problem.pod.as_str()), (1, "default/bad"));
    assert!(problem.problems[0].starts_with("spec.containers[0].name: Invalid value: \"A\""), "{problem:?}");

    // A stream that breaks has said nothing.
    let mut embedder = kubelet.embedder.clone();
    let (parts, from) = tokio::sync::mpsc::channel(1);
    let part = v1::SyncPodsRequest { pods: vec![v1::DesiredPod { manifest: manifest("half", "") }] };
    // Its sender lives on: the end of what it sends would be a good one.
    let parts = kubelet.wait("a call that is given up", async move {
        let call =
            tokio::spawn(async move { embedder.sync_pods(tokio_stream::wrappers::ReceiverStream::new(from)).await });
        parts.send(part).await.expect("it is taken");
        // Taken by the client's connection once there is room for another.
        drop(parts.reserve().await.expect("the call lives"));
        call.abort();
        assert!(call.await.expect_err("it was given up").is_cancelled());
        parts
    });
    assert!(kubelet.pod("web").is_ok() && kubelet.pod("half").is_err());
    assert_eq!(kubelet.sync([manifest("half", "")]).expect("it is taken in").added_count, 1);
    drop(parts);
}

#[test]
fn commands_are_run_by_the_embedder_within_the_deadline_that_the_engine_keeps() {
    let (mut daemon, kubelet) = external(&[]);
    kubelet.sync([manifest("web", &exec("readinessProbe", 1))]).expect("it is taken in");
    kubelet.status("uid-web", vec![running("app", "cri://1", 0)]).expect("it is taken");
    daemon.wait_event(&["errored", "no embedder runs commands"]);
    assert_eq!(probe_of(&kubelet.pod("web").expect("there"), ProbeType::Readiness).failed_count, 0, "discarded");

    let mut results = kubelet.results();
    let mut stream = kubelet.serve_exec();
    let call = kubelet.next_call(&mut stream);
    assert_eq!((call.pod_uid.as_str(), call.container.as_str()), ("uid-web", "app"));
    assert_eq!((call.container_id.as_str(), call.timeout_ms), ("cri://1", 1_000));
    assert_eq!(call.command, ["check", "it"]);
    kubelet.answer(&stream, call.id, End::ExitCode(0), "well\n");
    let is = |verdict| move |result: &v1::ProbeResult| says(result, ProbeType::Readiness, "cri://1", verdict);
    kubelet.next_result(&mut results, "success", is(Verdict::Success));

    let call = kubelet.next_call(&mut stream);
    kubelet.answer(&stream, call.id, End::ExitCode(3), &"ill ".repeat(4_000));
    let (failure, _) = kubelet.next_result(&mut results, "failure", is(Verdict::Failure));
    assert!(failure.reason.starts_with("ill ill"), "{failure:?}");
    daemon.wait_event(&["Unhealthy", "Readiness probe failed: ill ill"]);

    // Refused, it is tried three times, and nothing counts. Answered again, or for no call: passed over.
    for _ in 0..3 {
        let call = kubelet.next_call(&mut stream);
        kubelet.answer(&stream, call.id, End::Error("no such container".to_owned()), "");
        kubelet.answer(&stream, call.id, End::ExitCode(0), "");
        kubelet.answer(&stream, 4_711, End::ExitCode(0), "");
    }
    daemon.wait_event(&["errored", "no such container"]);
    let probe = probe_of(&kubelet.pod("web").expect("there"), ProbeType::Readiness).clone();
    assert_eq!((probe.verdict(), probe.successful_count, probe.failed_count), (Verdict::Failure, 1, 1));

    let late = kubelet.next_call(&mut stream);
    match kubelet.next_exec(&mut stream).expect("it goes on") {
        Item::Cancel(cancel) => assert_eq!(cancel.id, late.id, "one attempt at a time"),
        other => panic!("not cancelled: {other:?}"),
    }
    daemon.wait_event(&["Unhealthy", "command timed out"]);
    kubelet.answer(&stream, late.id, End::ExitCode(0), "too late");
    let call = kubelet.next_call(&mut stream);
    assert_eq!(probe_of(&kubelet.pod("web").expect("there"), ProbeType::Readiness).successful_count, 1);

    // Another stream takes over; the call of the old one is tried anew there.
    let mut second = kubelet.serve_exec();
    kubelet.answer(&stream, call.id, End::ExitCode(0), "of a stream that is over, or about to be");
    let over = loop {
        if let Err(over) = kubelet.next_exec(&mut stream) {
            break over;
        }
    };
    assert_eq!(over.code(), Code::Aborted, "{over}");
    let call = kubelet.next_call(&mut second);
    kubelet.answer(&second, call.id, End::ExitCode(0), "well again");
    kubelet.next_result(&mut results, "success of the second stream", is(Verdict::Success));
    assert_eq!(probe_of(&kubelet.pod("web").expect("there"), ProbeType::Readiness).successful_count, 2);

    // More than a message may hold: it hears why its stream ended.
    let call = kubelet.next_call(&mut second);
    kubelet.answer(&second, call.id, End::ExitCode(0), &"x".repeat(3 << 20));
    let why = kubelet.next_exec(&mut second).expect_err("too large");
    assert_eq!(why.code(), Code::OutOfRange, "{why}");
}

#[test]
fn a_daemon_that_was_killed_goes_on_with_one_set_of_pods_and_their_states() {
    let interval = ["--state-interval-seconds", "1"];
    let (mut daemon, kubelet) = external(&interval);
    let open = listener(0);
    let port = open.local_addr().expect("it is bound").port();
    let web = manifest("web", &format!("{}{}", tcp("readinessProbe", port), exec("livenessProbe", 3)));
    kubelet.sync([web.clone()]).expect("it is taken in");
    let mut results = kubelet.results();
    kubelet.status("uid-web", vec![running("app", "cri://1", 0)]).expect("it is taken");
    let ready = |result: &v1::ProbeResult| says(result, ProbeType::Readiness, "cri://1", Verdict::Success);
    kubelet.next_result(&mut results, "readiness", ready);
    // Two failures of three; then nobody runs commands, which counts as nothing.
    let mut stream = kubelet.serve_exec();
    for _ in 0..2 {
        let call = kubelet.next_call(&mut stream);
        kubelet.answer(&stream, call.id, End::ExitCode(1), "");
    }
    daemon.wait_for("two failures", |_| {
        let pod = kubelet.pod("web").expect("there");
        (probe_of(&pod, ProbeType::Liveness).failed_count == 2).then_some(())
    });
    drop(stream);
    let before = kubelet.pod("web").expect("there");
    daemon.wait_for("the state file", |daemon| {
        let known = state::State::read(&daemon.folder.path().join("state")).take(&"uid-web".into())?;
        let container = known.containers.first()?;
        (container.id == "cri://1" && container.probes.iter().any(|p| p.has_failed && p.run == 2)).then_some(())
    });
    drop((results, kubelet));
    let folder = daemon.kill();

    let (mut daemon, kubelet) = external_in(folder, &interval);
    let mut results = kubelet.results();
    kubelet.sync([web]).expect("it is taken in");
    let ready_of =
        |pod: &v1::Pod| pod.conditions.iter().find(|c| c.r#type == "Ready").expect("every pod has it").clone();
    let told = kubelet.pod("web").expect("there");
    assert_eq!((ready_of(&told), told.phase()), (ready_of(&before), before.phase()), "before its state is told");
    kubelet.status("uid-web", vec![running("app", "cri://1", 5)]).expect("it is taken");
    let told = kubelet.pod("web").expect("there");
    assert_eq!(ready_of(&told), ready_of(&before));
    assert_eq!(told.created_at, before.created_at);
    assert!(told.containers[0].ready);
    // The third in a row.
    let mut stream = kubelet.serve_exec();
    let call = kubelet.next_call(&mut stream);
    kubelet.answer(&stream, call.id, End::ExitCode(1), "");
    let dead = |result: &v1::ProbeResult| says(result, ProbeType::Liveness, "cri://1", Verdict::Failure);
    let (_, before_it) = kubelet.next_result(&mut results, "the failure", dead);
    let flaps: Vec<_> = before_it.iter().filter(|result| result.result() != Verdict::Success).collect();
    assert!(flaps.is_empty(), "{flaps:?}");
    assert_eq!(probe_of(&kubelet.pod("web").expect("there"), ProbeType::Liveness).failed_count, 1);
    daemon.wait_event(&["Unhealthy", "3 of 3"]);
    drop(open);
}

#[test]
fn ten_thousand_pods_come_in_one_call() {
    const PODS: usize = 10_000;
    let (_daemon, kubelet) = external(&["--passive", "off"]);
    // Nothing listens there; no state is told, so nothing connects.
    let all = || (0..PODS).map(|n| manifest(&format!("p{n}"), &tcp("livenessProbe", 9)));
    let timed = |what: &str| {
        let begun = probe_engine::clock::now();
        let answer = kubelet.sync(all()).expect("it is taken in");
        eprintln!("{what}: {} ms", (probe_engine::clock::now() - begun).as_millis());
        answer
    };
    assert_eq!(timed("10,000 new pods").added_count, PODS as u64);
    assert_eq!(timed("10,000 known pods").kept_count, PODS as u64);
    let info = kubelet.wait("GetInfo", kubelet.control.clone().get_info(v1::GetInfoRequest {})).expect("it answers");
    let info = info.into_inner();
    let sources: Vec<_> = info.sources.iter().map(|s| (s.kind.as_str(), s.synced, s.pods_count)).collect();
    assert_eq!(
        (info.runtime.as_str(), sources),
        ("external", vec![("manifests", true, 0), ("api", true, PODS as u64)])
    );
}

#[test]
fn a_daemon_with_a_runtime_of_its_own_has_no_embedder() {
    let daemon = Daemon::start("none", &[]);
    let kubelet = Kubelet::connect(daemon.folder.path());
    let refused = kubelet.sync([]).expect_err("it has no embedder");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(
        refused.message().contains("--runtime none") && refused.message().contains("--runtime external"),
        "{refused}"
    );
    assert_eq!(kubelet.status("uid", Vec::new()).expect_err("nor states").code(), Code::FailedPrecondition);
}

#[test]
fn pods_are_added_and_deleted_on_the_command_line() {
    let mut daemon = Daemon::start("none", &[]);
    daemon.manifest("own.yaml", &manifest("own", ""));
    daemon.wait_for("the pod of the manifest", |daemon| daemon.pod("own"));
    let two = format!("# two\n{}---\n{}", manifest("a", ""), manifest("b", ""));
    let (out, err, code) = text(&daemon.cli_reading(&["add", "-f", "-"], &two));
    assert_eq!((out.as_str(), err.as_str(), code), ("pod/a added\npod/b added\n", "", Some(0)));
    assert!(daemon.says(&["describe", "pod", "a"]).lines().any(|line| line == "Source:           api"));
    assert!(daemon.says(&["describe", "pod", "own"]).lines().any(|line| line == "Source:           manifests"));

    let wrong = format!(
        "{}---\n{}---\n{}---\n{}",
        manifest("a", ""),
        manifest("c", "").replace("name: app", "name: A\n    nmae: x\n    image: 3"),
        manifest("own", "").replace("uid: uid-own", "uid: other"),
        manifest("d", "    nmae: x\n"),
    );
    let file = daemon.folder.path().join("wrong.yaml");
    std::fs::write(&file, wrong).expect("a file");
    let (out, err, code) = text(&daemon.cli(&["add", "-f", &file.display().to_string()]));
    assert_eq!((out.as_str(), code), ("pod/d added\n", Some(1)), "{err}");
    let lines: Vec<String> = err.lines().map(|line| line.replace(&file.display().to_string(), "FILE")).collect();
    assert_eq!(lines[0], "error: FILE:1: pod default/a is there already (UID uid-a, from api)");
    assert!(
        lines.iter().any(|line| line.starts_with("error: FILE:13: spec.containers[0].name: Invalid value")),
        "{err}"
    );
    assert!(
        lines.contains(&"error: FILE:16: pod default/own is there already (UID uid-own, from manifests)".to_owned()),
        "{err}"
    );
    assert!(lines.iter().any(|line| line.starts_with("warning: FILE: spec.containers[0].nmae: ")), "{err}");

    let json = daemon.cli_reading(&["add", "-f", "-", "-o", "json"], &manifest("e", ""));
    let added: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!((&added["kind"], &added["metadata"]["uid"]), (&"Pod".into(), &"uid-e".into()));
    assert_eq!(daemon.says(&["delete", "pod", "a"]), "pod/a: ends\n");
    assert!(daemon.pod("a").is_none());
    let (_, err, code) = text(&daemon.cli(&["delete", "pod", "own"]));
    assert!(code == Some(1) && err.contains("its manifest wants it"), "{err}");
}

#[test]
fn an_added_pod_is_ended_within_its_grace_period() {
    let mut daemon = Daemon::start("process", &[]);
    let stubborn = manifest("web", "    command: [/bin/sh, -c, 'trap \"\" TERM; while :; do sleep 1; done']\n");
    let added = daemon.cli_reading(&["add", "-f", "-"], &stubborn);
    assert!(added.status.success(), "{}", text(&added).1);
    daemon.wait_event(&["Started", "web"]);
    assert_eq!(daemon.says(&["delete", "pod", "web", "--grace-period", "2"]), "pod/web: ends within 2 s\n");
    let (_, err, code) = text(&daemon.cli_reading(&["add", "-f", "-"], &stubborn));
    assert!(code == Some(1) && err.contains("is being ended; try again when it has gone"), "{err}");
    daemon.wait_for("the pod's end", |daemon| daemon.pod("web").is_none().then_some(()));
}
