//! Transcripts: what whole pods do under `--runtime process`, event by event, against files that are written from the
//! specification (`tests/data/transcripts/README.md`).
#![cfg(feature = "engine")]

use std::fs;
use std::io::{BufRead, BufReader, Lines};
use std::net::TcpListener;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use jiff::Timestamp;
use probe_tests::daemon::{Daemon, PATIENCE, binary, condition};
use serde_json::Value;

const POD: &str = "web";

/// Whatever lies between two events, seconds: their order is that of their numbers, not of their times.
const ANY_PAUSE: RangeInclusive<f64> = f64::NEG_INFINITY..=f64::INFINITY;

/// What a transcript says.
#[derive(Debug)]
struct Transcript {
    /// On a clock that it steps.
    stepped: bool,
    steps: Vec<Step>,
}

/// One line of it, without its rule.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Start,
    Remove,
    /// Moves the clock.
    StepS(f64),
    /// Makes a file in the scenario's directory.
    Touch(String),
    Unlink(String),
    /// A readiness gate, as `set gate` takes it.
    Set(String),
    /// `TYPE REASON CONTAINER: MESSAGE`, in any order among themselves.
    Events(Vec<String>),
    PauseS(RangeInclusive<f64>),
    Phase(String),
    /// `TYPE STATUS REASON MESSAGE`
    Condition(String),
    Restarts {
        container: String,
        count: u64,
    },
    Ended {
        container: String,
        exit_code: i64,
    },
    /// `waiting REASON`, `running` or `terminated REASON`.
    Status {
        container: String,
        state: String,
    },
    Wrote(Vec<String>),
    Gone,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/transcripts")
}

/// Words of lines that need no rule: they do something. A pause is of the event after it.
const DONE: [&str; 8] = ["start", "remove", "set", "step", "touch", "unlink", "pause", "stepped"];

/// A transcript; where a line is no step, its number and text.
fn parse(text: &str) -> Result<Transcript, String> {
    let (mut steps, mut stepped) = (Vec::new(), false);
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with('#') && !line.is_empty()) {
        let wrong = || format!("line {}: {line}", number + 1);
        let step = match line.rsplit_once('[') {
            Some((step, rule)) if rule.ends_with(']') => step.trim_end(),
            _ if DONE.contains(&line.split(' ').next().unwrap_or(line)) => line,
            _ => return Err(wrong()),
        };
        let (word, rest) = step.split_once(' ').unwrap_or((step, ""));
        let rest = rest.trim_start();
        let pair = || rest.split_once(' ').ok_or_else(wrong);
        steps.push(match word {
            "stepped" if steps.is_empty() && !stepped && rest.is_empty() => {
                stepped = true;
                continue;
            }
            "start" => Step::Start,
            "remove" => Step::Remove,
            "set" => Step::Set(rest.to_owned()),
            "step" if stepped => Step::StepS(seconds(rest).ok_or_else(wrong)?),
            "touch" if is_file_name(rest) => Step::Touch(rest.to_owned()),
            "unlink" if is_file_name(rest) => Step::Unlink(rest.to_owned()),
            "event" => Step::Events(repeated(rest)),
            "also" => {
                let Some(Step::Events(events)) = steps.last_mut() else { return Err(wrong()) };
                events.extend(repeated(rest));
                continue;
            }
            "pause" => {
                let (min, max) = rest.split_once("..").unwrap_or((rest, "inf"));
                Step::PauseS(seconds(min).zip(seconds(max)).map(|(min, max)| min..=max).ok_or_else(wrong)?)
            }
            "status" => {
                let (container, state) = pair()?;
                let is_state = match state.split_once(' ') {
                    None => state == "running",
                    Some((state, reason)) => matches!(state, "waiting" | "terminated") && !reason.contains(' '),
                };
                if !is_state {
                    return Err(wrong());
                }
                Step::Status { container: container.to_owned(), state: state.to_owned() }
            }
            "phase" => Step::Phase(rest.to_owned()),
            "condition" => Step::Condition(rest.to_owned()),
            "restarts" => {
                let (container, count) = pair()?;
                Step::Restarts { container: container.to_owned(), count: count.parse().map_err(|_| wrong())? }
            }
            "ended" => {
                let (container, code) = pair()?;
                Step::Ended { container: container.to_owned(), exit_code: code.parse().map_err(|_| wrong())? }
            }
            "wrote" => Step::Wrote(rest.split(", ").map(str::to_owned).collect()),
            "gone" => Step::Gone,
            _ => return Err(wrong()),
        });
    }
    Ok(Transcript { stepped, steps })
}

fn seconds(text: &str) -> Option<f64> {
    text.parse().ok().filter(|seconds: &f64| *seconds >= 0.0)
}

fn is_file_name(text: &str) -> bool {
    !text.is_empty() && !text.contains(['/', ' ']) && !text.starts_with('.')
}

/// `3x EVENT` is three of it in a row: a watcher is told of each, though the list of events counts them as one.
fn repeated(text: &str) -> Vec<String> {
    let times = text.split_once("x ").and_then(|(times, event)| Some((times.parse().ok()?, event)));
    let (times, event): (usize, _) = times.unwrap_or((1, text));
    vec![event.to_owned(); times]
}

/// `text` with a free port of loopback for each of `PORT1`, `PORT2` ... in it.
struct Ports(Vec<(String, String)>);

impl Ports {
    const MAX: usize = 9;

    fn of(texts: &[&str]) -> Self {
        let names = (1..=Self::MAX).map(|number| format!("PORT{number}"));
        let named: Vec<String> = names.filter(|name| texts.iter().any(|text| text.contains(name))).collect();
        // All held at once, so that no two are one.
        let bind = |_: &String| TcpListener::bind("127.0.0.1:0").expect("a free port");
        let held: Vec<TcpListener> = named.iter().map(bind).collect();
        let port = |listener: &TcpListener| listener.local_addr().expect("its address").port().to_string();
        Self(named.into_iter().zip(held.iter().map(port)).collect())
    }

    fn fill(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (name, port)| text.replace(name, port))
    }
}

/// What `events --watch` shows.
struct Events {
    child: Child,
    lines: Receiver<Value>,
    errors: Lines<BufReader<ChildStderr>>,
    /// The scenario's.
    directory: String,
    /// Of the one before.
    last_at: Option<Timestamp>,
}

impl Events {
    fn watch(daemon: &Daemon) -> Self {
        let mut child = Command::new(binary())
            .arg("--socket")
            .arg(daemon.folder.path().join("api.sock"))
            .args(["events", "--watch", "--output", "json"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command line runs");
        let output = child.stdout.take().expect("a pipe");
        let errors = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).expect("an event a line");
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        let directory = directory_of(daemon).to_str().expect("UTF-8").to_owned();
        Self { child, lines, errors, directory, last_at: None }
    }

    /// Once the daemon has ended: the next event if there is one.
    fn rest(&mut self) -> Option<(String, f64)> {
        // All that there was has been shown before it says so; then it would wait for the daemon to come back.
        let lost = self.errors.by_ref().map_while(Result::ok).find(|line| line.contains("lost the daemon"));
        assert!(lost.is_some(), "the command line has ended before the daemon");
        let _ = self.child.kill();
        self.next()
    }

    /// The next event as a transcript has it, and how long after the one before it came, in seconds.
    fn next(&mut self) -> Option<(String, f64)> {
        let event = self.lines.recv_timeout(PATIENCE).ok()?;
        let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        let message = text("message").replace(&text("podUID"), "UID").replace(&self.directory, "DIR");
        let at: Timestamp = text("lastTimestamp").parse().expect("a time");
        let since_s = self.last_at.map_or(0.0, |last| (at.as_nanosecond() - last.as_nanosecond()) as f64 / 1e9);
        self.last_at = Some(at);
        let event = format!("{} {} {}: {message}", text("type"), text("reason"), text("container"));
        // As a transcript has it, where a line is one: a probe that failed without a word leaves a space.
        Some((event.trim_end_matches(' ').replace('\n', "\\n"), since_s))
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `DIR` in a manifest, and in what events say.
fn directory_of(daemon: &Daemon) -> PathBuf {
    daemon.folder.path().join("scenario")
}

/// The pod is being ended, or is no more.
fn is_ending(daemon: &Daemon) -> bool {
    let described = daemon.cli(&["describe", "pod", POD]);
    let text = String::from_utf8_lossy(&described.stdout);
    !described.status.success() || text.lines().any(|line| line.starts_with("Status:") && line.ends_with("Terminating"))
}

fn status_of<'a>(pod: &'a Value, container: &str) -> Option<&'a Value> {
    let lists = ["initContainerStatuses", "containerStatuses"];
    let statuses = lists.into_iter().filter_map(|list| pod["status"][list].as_array()).flatten();
    statuses.into_iter().find(|status| status["name"] == container)
}

/// What the pod shows of a step that is about its status.
fn shown(pod: &Value, step: &Step) -> Option<Step> {
    Some(match step {
        Step::Phase(_) => Step::Phase(pod["status"]["phase"].as_str()?.to_owned()),
        Step::Condition(wanted) => {
            let condition = condition(pod, wanted.split(' ').next()?)?;
            let text = |key: &str| condition[key].as_str().filter(|text| !text.is_empty()).unwrap_or("-").to_owned();
            let words = ["type", "status", "reason", "message"].map(text);
            Step::Condition(words.join(" "))
        }
        Step::Restarts { container, .. } => {
            let count = status_of(pod, container)?["restartCount"].as_u64().unwrap_or_default();
            Step::Restarts { container: container.clone(), count }
        }
        Step::Status { container, .. } => {
            let state = status_of(pod, container)?["state"].as_object()?;
            let (name, of) = state.iter().find(|(_, of)| of.is_object())?;
            let state = match of["reason"].as_str() {
                Some(reason) if name != "running" => format!("{name} {reason}"),
                _ => name.clone(),
            };
            Step::Status { container: container.clone(), state }
        }
        Step::Ended { container, .. } => {
            let status = status_of(pod, container)?;
            let over = [&status["state"]["terminated"], &status["lastState"]["terminated"]];
            let over = over.into_iter().find(|over| over.is_object())?;
            Step::Ended { container: container.clone(), exit_code: over["exitCode"].as_i64().unwrap_or_default() }
        }
        _ => return None,
    })
}

fn play(name: &str) {
    let read = |ending: &str| fs::read_to_string(folder().join(format!("{name}.{ending}"))).expect("a scenario");
    let (text, manifest) = (read("txt"), read("yaml"));
    let ports = Ports::of(&[&text, &manifest]);
    let Transcript { stepped, steps } = parse(&ports.fill(&text)).expect("a transcript");
    let mut daemon = match stepped {
        true => Daemon::start_stepped(Path::new(env!("CARGO_BIN_EXE_stepped-daemon")), "process"),
        false => Daemon::start("process", &[]),
    };
    let directory = directory_of(&daemon);
    fs::create_dir(&directory).expect("a directory");
    let manifest = ports.fill(&manifest).replace("DIR", directory.to_str().expect("UTF-8"));
    let mut events = Events::watch(&daemon);
    let mut pause_s = ANY_PAUSE;
    for step in &steps {
        match step {
            Step::Start => {
                daemon.manifest("web.yaml", &manifest);
                // On its way until the daemon says so: a clock is not stepped meanwhile.
                daemon.wait_for("the pod", |daemon| daemon.pod(POD).map(drop));
            }
            Step::Remove => {
                daemon.remove_manifest("web.yaml");
                daemon.wait_for("the pod's end", |daemon| is_ending(daemon).then_some(()));
            }
            Step::StepS(seconds) => daemon.step(*seconds),
            Step::Touch(name) => fs::write(directory.join(name), "").expect("a file"),
            Step::Unlink(name) => fs::remove_file(directory.join(name)).expect("the file was there"),
            Step::Set(gate) => drop(daemon.says(&["set", "gate", POD, gate])),
            Step::PauseS(seconds) => pause_s = seconds.clone(),
            Step::Events(wanted) => {
                let mut wanted = wanted.clone();
                while !wanted.is_empty() {
                    let (event, since_s) = events.next().unwrap_or_else(|| panic!("no event, want {wanted:#?}"));
                    let place = wanted.iter().position(|wanted| *wanted == event);
                    let place = place.unwrap_or_else(|| panic!("{event}\nwant {wanted:#?}\n{}", daemon.log()));
                    assert!(
                        pause_s.contains(&since_s),
                        "{event}: {since_s} s after the one before it, want {pause_s:?}\n{}",
                        daemon.log()
                    );
                    wanted.remove(place);
                    pause_s = ANY_PAUSE;
                }
            }
            Step::Wrote(wanted) => daemon.wait_for(&format!("{wanted:?} in order"), |daemon| {
                let text = fs::read_to_string(directory_of(daemon).join("order")).unwrap_or_default();
                text.lines().eq(wanted.iter()).then_some(())
            }),
            Step::Gone => daemon.wait_for("the pod is gone", |daemon| daemon.pod(POD).is_none().then_some(())),
            status => {
                let mut last = None;
                daemon.wait_for(&format!("{status:?}"), |daemon| {
                    let now = daemon.pod(POD).and_then(|pod| shown(&pod, status));
                    if now != last {
                        eprintln!("{now:?}");
                        last.clone_from(&now);
                    }
                    (now.as_ref() == Some(status)).then_some(())
                });
            }
        }
    }
    // The complete list: nothing more comes until the stream ends with the daemon.
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(daemon.wait_end().success());
    assert_eq!(events.rest(), None, "one event too many");
}

#[test]
fn every_transcript_has_a_manifest_and_a_test_and_every_line_a_rule() {
    let here = include_str!("transcripts.rs");
    let mut seen = 0;
    for entry in fs::read_dir(folder()).expect("the transcripts").flatten() {
        let path = entry.path();
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a name");
        if path.extension().is_some_and(|ending| ending == "txt") {
            parse(&fs::read_to_string(&path).expect("a transcript")).unwrap_or_else(|line| panic!("{name}: {line}"));
            assert!(path.with_extension("yaml").exists(), "{name} has no manifest");
            assert!(here.contains(&format!("play(\"{name}\")")), "nobody plays {name}");
            seen += 1;
        }
    }
    assert!(seen > 0, "no transcript found");
}

#[test]
fn a_line_that_is_no_step_is_refused() {
    for line in [
        "event Normal Created a: b",
        "hum [6.1]",
        "step 10",
        "start\nstepped",
        "stepped\nstep -1",
        "stepped\nstep",
        "pause 2..x",
        "touch a/b",
        "touch",
        "status app resting [5.1]",
        "status app waiting [5.1]",
        "also Normal Created a: b [6.4]",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
}

#[test]
fn lines_are_read_as_they_are_meant() {
    let text = "# A comment\nstepped\nstep 0.5\ntouch a\npause 1..2.5\nevent 2x Normal A a: b [6.4]\nalso Normal C a: d [6.4]\n\
                status app waiting CrashLoopBackOff [6.5]\nstatus app running   [6.4]\nunlink a\npause 3";
    let Transcript { stepped, steps } = parse(text).expect("a transcript");
    assert!(stepped);
    let state = |state: &str| Step::Status { container: "app".to_owned(), state: state.to_owned() };
    let steps_wanted = [
        Step::StepS(0.5),
        Step::Touch("a".to_owned()),
        Step::PauseS(1.0..=2.5),
        Step::Events(["Normal A a: b", "Normal A a: b", "Normal C a: d"].map(str::to_owned).to_vec()),
        state("waiting CrashLoopBackOff"),
        state("running"),
        Step::Unlink("a".to_owned()),
        Step::PauseS(3.0..=f64::INFINITY),
    ];
    assert_eq!(steps, steps_wanted);
    let ports = Ports::of(&["PORT1 PORT2", "PORT2"]);
    let filled = ports.fill("PORT1 PORT2 PORT2");
    let words: Vec<&str> = filled.split(' ').collect();
    assert!(words[0] != words[1] && words[1] == words[2] && words.iter().all(|port| port.parse::<u16>().is_ok()));
}

#[test]
fn a_probe_waits_for_its_initial_delay() {
    play("clock-initial-delay");
}

#[test]
fn a_crashing_container_waits_longer_each_time() {
    play("clock-back-off");
}

#[test]
fn init_containers_run_one_after_the_other() {
    play("init-order");
}

#[test]
fn a_failed_init_container_ends_a_pod_that_is_not_restarted() {
    play("init-failure");
}

#[test]
fn a_failed_init_container_is_started_again_with_back_off() {
    play("init-retry");
}

#[test]
fn sidecars_come_in_order_and_go_in_reverse() {
    play("sidecar-order");
}

#[test]
fn sidecars_end_when_the_regular_containers_have() {
    play("sidecar-completion");
}

#[test]
fn a_sidecar_is_started_again_whatever_the_policy() {
    play("sidecar-restart");
}

#[test]
fn an_exit_code_that_a_rule_names_starts_a_container_again() {
    play("restart-rules");
}

#[test]
fn a_readiness_gate_keeps_a_pod_from_being_ready() {
    play("readiness-gate");
}

#[test]
fn a_crash_loop_waits_up_to_five_minutes_and_starts_over_after_ten() {
    play("backoff-growth");
}

#[test]
fn failures_are_counted_across_a_restart_that_no_probe_asked_for() {
    play("counts-leak");
}

#[test]
fn readiness_is_probed_while_a_pod_ends() {
    play("deletion-not-ready");
}

#[test]
fn a_background_child_and_a_command_without_end_do_not_hold_a_verdict_up() {
    play("exec-background");
}

#[test]
fn a_grpc_service_that_does_not_serve_fails() {
    play("grpc-not-serving");
}

#[test]
fn a_pre_stop_hook_is_waited_for_as_long_as_the_grace_period() {
    play("hung-prestop");
}

#[test]
fn a_liveness_kill_runs_the_pre_stop_hook_within_the_grace_period() {
    play("liveness-prestop");
}

#[test]
fn under_never_a_liveness_kill_fails_the_pod() {
    play("never-liveness");
}

#[test]
fn under_on_failure_a_pod_completes_with_its_first_good_end() {
    play("on-failure-completion");
}

#[test]
fn a_post_start_hook_that_fails_kills_its_container() {
    play("poststart-failure");
}

#[test]
fn a_post_start_hook_holds_back_what_comes_after_it() {
    play("poststart-order");
}

#[test]
fn an_https_hook_falls_back_to_http() {
    play("prestop-http-fallback");
}

#[test]
fn readiness_comes_and_goes_by_its_thresholds() {
    play("readiness-flapping");
}

#[test]
fn a_local_redirect_is_followed() {
    play("redirect-local");
}

#[test]
fn a_redirect_to_another_host_is_a_warning() {
    play("redirect-nonlocal");
}

#[test]
fn a_slow_start_is_waited_for_by_initial_delays() {
    play("slow-start");
}

#[test]
fn a_startup_probe_that_fails_kills_with_its_own_grace_period() {
    play("startup-failure");
}

#[test]
fn a_startup_probe_gates_the_others() {
    play("startup-gates");
}

#[test]
fn what_ignores_the_stop_signal_is_killed_after_the_grace_period() {
    play("term-ignored");
}

#[test]
fn a_port_name_that_nobody_declares_is_an_error_and_no_verdict() {
    play("wrong-port-name");
}
