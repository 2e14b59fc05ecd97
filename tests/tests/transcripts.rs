//! Transcripts: what whole pods do under `--runtime process`, event by event, against files that are written from the
//! specification (`tests/data/transcripts/README.md`).
#![cfg(feature = "engine")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use jiff::Timestamp;
use probe_tests::daemon::{Daemon, PATIENCE, binary, condition};
use serde_json::Value;

const POD: &str = "web";

/// One line of a transcript, without its rule.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Start,
    Remove,
    /// A readiness gate, as `set gate` takes it.
    Set(String),
    /// `TYPE REASON CONTAINER: MESSAGE`, in any order among themselves.
    Events(Vec<String>),
    PauseS(f64),
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
    Wrote(Vec<String>),
    Gone,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/transcripts")
}

/// The steps of a transcript; where a line is none, its number and text.
fn parse(text: &str) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with('#') && !line.is_empty()) {
        let wrong = || format!("line {}: {line}", number + 1);
        let step = match line.rsplit_once('[') {
            Some((step, rule)) if rule.ends_with(']') => step.trim_end(),
            // What is done needs no rule, and a pause is of the event after it.
            _ if matches!(line, "start" | "remove") || line.starts_with("set ") || line.starts_with("pause ") => line,
            _ => return Err(wrong()),
        };
        let (word, rest) = step.split_once(' ').unwrap_or((step, ""));
        let rest = rest.trim_start();
        let pair = || rest.split_once(' ').ok_or_else(wrong);
        steps.push(match word {
            "start" => Step::Start,
            "remove" => Step::Remove,
            "set" => Step::Set(rest.to_owned()),
            "event" => Step::Events(vec![rest.to_owned()]),
            "also" => {
                let Some(Step::Events(events)) = steps.last_mut() else { return Err(wrong()) };
                events.push(rest.to_owned());
                continue;
            }
            "pause" => Step::PauseS(rest.parse().map_err(|_| wrong())?),
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
    Ok(steps)
}

/// What `events --watch` shows.
struct Events {
    child: Child,
    lines: Receiver<Value>,
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
            .spawn()
            .expect("the command line runs");
        let output = child.stdout.take().expect("a pipe");
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).expect("an event a line");
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        Self { child, lines, last_at: None }
    }

    /// The next event as a transcript has it, and how long after the one before it came, in seconds.
    fn next(&mut self) -> Option<(String, f64)> {
        let event = self.lines.recv_timeout(PATIENCE).ok()?;
        let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        let message = text("message").replace(&text("podUID"), "UID");
        let at: Timestamp = text("lastTimestamp").parse().expect("a time");
        let since_s = self.last_at.map_or(0.0, |last| (at.as_nanosecond() - last.as_nanosecond()) as f64 / 1e9);
        self.last_at = Some(at);
        Some((format!("{} {} {}: {message}", text("type"), text("reason"), text("container")), since_s))
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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
    let steps = parse(&read("txt")).expect("a transcript");
    let mut daemon = Daemon::start("process", &[]);
    let directory = daemon.folder.path().join("scenario");
    fs::create_dir(&directory).expect("a directory");
    let manifest = read("yaml").replace("DIR", directory.to_str().expect("UTF-8"));
    let mut events = Events::watch(&daemon);
    let mut pause_s = 0.0;
    for step in &steps {
        match step {
            Step::Start => daemon.manifest("web.yaml", &manifest),
            Step::Remove => daemon.remove_manifest("web.yaml"),
            Step::Set(gate) => drop(daemon.says(&["set", "gate", POD, gate])),
            Step::PauseS(seconds) => pause_s = *seconds,
            Step::Events(wanted) => {
                let mut wanted = wanted.clone();
                while !wanted.is_empty() {
                    let (event, since_s) = events.next().unwrap_or_else(|| panic!("no event, want {wanted:#?}"));
                    let place = wanted.iter().position(|wanted| *wanted == event);
                    let place = place.unwrap_or_else(|| panic!("{event}\nwant {wanted:#?}\n{}", daemon.log()));
                    assert!(since_s >= pause_s, "{event}: {since_s} s after the one before it, want {pause_s}");
                    wanted.remove(place);
                    pause_s = 0.0;
                }
            }
            Step::Wrote(wanted) => daemon.wait_for(&format!("{wanted:?} in order"), |daemon| {
                let text = fs::read_to_string(daemon.folder.path().join("scenario/order")).unwrap_or_default();
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
    assert_eq!(events.next(), None, "one event too many");
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
    assert!(parse("event Normal Created a: b").is_err() && parse("hum [6.1]").is_err());
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
