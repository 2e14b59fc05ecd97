//! What an operator sees: `top` and every other command in a real terminal of 80x24, with the real daemon.
#![cfg(feature = "engine")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use clap::CommandFactory;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use probe_engine::cli::Cli;
use probe_tests::daemon::{Daemon, binary, free_port, processes};
use probe_tests::skip::skip;
use probe_tests::terminal::{Terminal, compare, keep};

/// No answer depends on what the kernel allows.
const FLAGS: [&str; 4] = ["--io", "epoll", "--ebpf", "off"];

/// A pod that is well, one that never is and says so with escape sequences, one that waits for a gate, and one of another namespace.
fn pods() -> String {
    let port = || free_port().port();
    let server = |name: &str, rest: &str| {
        let port = port();
        format!(
            "apiVersion: v1
kind: Pod
metadata: {{{name}, labels: {{app: shop}}}}
spec:
  terminationGracePeriodSeconds: 1
{rest}
  containers:
  - name: app
    image: none
    command: [probe-engine, serve, tcp, '--listen=127.0.0.1:{port}']
    readinessProbe: {{tcpSocket: {{port: {port}}}, periodSeconds: 1}}
    livenessProbe: {{tcpSocket: {{port: {port}}}, periodSeconds: 1}}
---
"
        )
    };
    let broken = "apiVersion: v1
kind: Pod
metadata: {name: broken, labels: {app: shop}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: app
    image: none
    command: [/bin/sh, -c, 'echo started; exec sleep 600']
    readinessProbe:
      exec: {command: [/bin/sh, -c, 'printf \"\\033[2Jnot yet\"; exit 1']}
      periodSeconds: 1
      failureThreshold: 2
";
    [
        server("name: web", ""),
        server("name: gated", "  readinessGates: [{conditionType: example.com/lb}]"),
        server("name: dns, namespace: kube-system", ""),
        broken.to_owned(),
    ]
    .concat()
}

/// The daemon with its pods, when they stand as they will stay.
fn daemon() -> Daemon {
    let mut daemon = Daemon::start("process", &FLAGS);
    daemon.manifest("pods.yaml", &pods());
    settled(&mut daemon);
    daemon
}

fn settled(daemon: &mut Daemon) {
    daemon.wait_ready("web", "True");
    daemon.wait_ready("gated", "False");
    daemon.wait_for("broken has failed, and dns is ready", |daemon| {
        let probes = daemon.says(&["get", "probes", "-A"]);
        let has = |words: &[&str]| probes.lines().any(|line| words.iter().all(|word| line.contains(word)));
        // The second failure is the second event, too: of one series.
        (has(&["broken", "Failure", "2 of 2 ("]) && probes.matches("Success").count() == 6).then_some(())
    });
}

/// A shell's line that runs a subcommand against the daemon.
fn line(daemon: &Daemon, words: &str) -> String {
    format!("{} --socket {} {words}", binary().display(), daemon.folder.path().join("api.sock").display())
}

/// `false` where there is no tmux, which is said.
fn can_run(test: &str) -> bool {
    let can = Terminal::is_there();
    if !can {
        skip(test, "tmux is not installed; to install it: apt-get install tmux");
    }
    can
}

#[test]
fn commands_read_well_at_80x24() {
    if !can_run("commands_read_well_at_80x24") {
        return;
    }
    let daemon = daemon();
    let bad = daemon.folder.path().join("bad.yaml");
    std::fs::write(&bad, "apiVersion: v1\nkind: Pod\nmetadata: {name: Bad}\nspec: {containers: []}\n").expect("a file");
    std::fs::write(daemon.folder.path().join("added.yaml"), added()).expect("a file");
    let in_folder = format!("cd {} && ", daemon.folder.path().display());
    let mut shown = BTreeSet::from(["demo", "top"].map(str::to_owned)); // of its own tests, and of `cargo xtask demo`
    let mut show = |words: &str| shown.extend(words.split(' ').next().map(str::to_owned));
    for (name, words, code) in [
        ("get-pods", "get pods", 0),
        ("get-pods-all", "get pods -A", 0),
        ("get-pods-wide", "get pods -o wide", 0),
        ("get-pods-name", "get pods -o name", 0),
        ("get-pods-none", "get pods nobody", 1),
        ("get-probes", "get probes -A", 0),
        ("get-probes-failing", "get probes --failing", 0),
        ("describe", "describe pod broken", 0),
        ("logs", "logs broken", 0),
        ("events", "events --for pod/broken", 0),
        ("probe-pod", "probe pod web --type readiness", 0),
        ("probe-refused", "probe tcp 127.0.0.1:1", 1),
        ("set-gate", "set gate gated example.com/lb=False", 0),
        ("pause", "pause pod gated --for 1h", 0),
        ("resume", "resume pod gated", 0),
        ("delete-refused", "delete pod web --grace-period 1", 1),
        ("add", "add -f added.yaml", 0),
        ("add-again", "add -f added.yaml", 1),
        ("add-refused", "add -f bad.yaml", 1),
        ("delete", "delete pod extra -n batch", 0),
        ("run-without-a-runtime", "run --manifests nowhere", 2),
        ("validate", "validate bad.yaml", 1),
        ("usage", "get deployments", 2),
    ] {
        show(words);
        let terminal = Terminal::start(80, 24, &format!("{in_folder}{}", line(&daemon, words)));
        assert_eq!(terminal.wait_end(), code, "{words}\n{}", terminal.everything());
        keep(&format!("{name}-80x24"), &terminal.everything_as_shown());
        compare(name, &terminal.everything());
    }
    for (name, words, last) in [
        ("get-pods-watch", "get pods -w", "web "),
        ("get-probes-watch", "get probes -w --failing", "not yet"),
        ("events-follow", "events -f --for pod/web --type Normal", "Started container app"),
    ] {
        let terminal = Terminal::start(80, 24, &line(&daemon, words));
        terminal.wait_text(&[last]);
        keep(&format!("{name}-80x24"), &terminal.everything_as_shown());
        compare(name, &terminal.everything());
    }
    // What depends on the machine, or is long, is kept, and not compared.
    for (name, words) in [
        ("doctor", "doctor"),
        ("config-show", "config show"),
        ("version", "version"),
        ("completions", "completions bash"),
        ("man", "man"),
    ] {
        show(words);
        let terminal = Terminal::start(80, 24, &line(&daemon, words));
        assert_eq!(terminal.wait_end(), 0, "{words}");
        keep(&format!("{name}-80x24"), &terminal.everything_as_shown());
    }
    show("serve");
    let terminal = Terminal::start(80, 24, &line(&daemon, "serve tcp --listen 127.0.0.1:0"));
    terminal.wait_text(&["listening on 127.0.0.1:"]);
    keep("serve-80x24", &terminal.everything_as_shown());

    let command = Cli::command();
    let all = command.get_subcommands().filter(|sub| !sub.is_hide_set()).map(|sub| sub.get_name());
    let missing: Vec<&str> = all.filter(|name| !shown.contains(*name)).collect();
    assert!(missing.is_empty(), "commands that no capture shows: {missing:?}");
}

/// A file for `add`: two pods without probes, in a namespace that nothing else looks at.
fn added() -> String {
    let pod = |name: &str| {
        format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: batch}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{{name: app, image: none, command: [sleep, '600']}}]
"
        )
    };
    [pod("extra"), pod("more")].join("---\n")
}

#[test]
fn help_of_every_command_fits_into_80_columns() {
    if !can_run("help_of_every_command_fits_into_80_columns") {
        return;
    }
    let mut command = Cli::command();
    command.build();
    let mut lines = vec![String::new()];
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        lines.push(sub.get_name().to_owned());
        let subs = sub.get_subcommands().filter(|of| of.get_name() != "help");
        lines.extend(subs.map(|of| format!("{} {}", sub.get_name(), of.get_name())));
    }
    for words in lines {
        let terminal = Terminal::start(80, 24, &format!("{} {words} --help", binary().display()));
        assert_eq!(terminal.wait_end(), 0, "{words}");
        let shown = terminal.everything_as_shown();
        keep(&format!("help-{}-80x24", words.replace(' ', "-")), &shown);
        let count = |text: &str| text.trim_end().lines().count();
        assert_eq!(count(&shown), count(&terminal.everything()), "{words}: a line is longer than 80 columns\n{shown}");
    }
}

#[test]
fn colour_is_for_terminals_and_not_where_it_is_not_wanted() {
    if !can_run("colour_is_for_terminals_and_not_where_it_is_not_wanted") {
        return;
    }
    let daemon = daemon();
    let coloured = |before: &str, words: &str| {
        let terminal = Terminal::start(120, 30, &format!("{before} {}", line(&daemon, words)));
        terminal.wait_end();
        has_colour(&terminal.coloured_screen())
    };
    for words in ["events -A", "get probes -A"] {
        assert!(coloured("", words), "{words}");
        assert!(!coloured("NO_COLOR=1", words), "{words}");
        assert!(!coloured("TERM=dumb", words), "{words}");
        let words: Vec<&str> = words.split(' ').collect();
        assert!(!daemon.says(&words).contains('\x1b'), "a pipe is no terminal");
    }
    for (before, is_coloured) in [("", true), ("NO_COLOR=1", false)] {
        let terminal = Terminal::start(80, 24, &format!("{before} {}", line(&daemon, "top")));
        terminal.wait_text(&["broken", "web"]);
        assert_eq!(has_colour(&terminal.coloured_screen()), is_coloured, "{before}");
    }
    let terminal = Terminal::start(80, 24, &format!("TERM=dumb {}", line(&daemon, "top")));
    assert_eq!(terminal.wait_end(), 2);
    compare("top-dumb", &terminal.everything());
}

/// A red, yellow or grey foreground.
fn has_colour(screen: &str) -> bool {
    ["31m", "33m", "90m", "38;5;"].iter().any(|code| screen.contains(code))
}

#[test]
fn top_shows_what_fails_first_and_obeys_its_keys() {
    if !can_run("top_shows_what_fails_first_and_obeys_its_keys") {
        return;
    }
    let daemon = daemon();
    let terminal = Terminal::start(80, 24, &line(&daemon, "top"));
    let names = |screen: &str| -> Vec<String> {
        let rows = screen.lines().filter(|line| line.starts_with("default ") || line.starts_with("kube-system "));
        rows.filter_map(|line| line.split_whitespace().nth(1).map(str::to_owned)).collect()
    };
    let is_first = |screen: &str| names(screen) == ["broken", "gated", "web", "dns"];
    let screen =
        terminal.wait_for("the pods, failing first", |s| is_first(s) && s.contains("exec ") && s.contains("tcp "));
    assert!(terminal.is_taken());
    compare("top", &screen);

    terminal.press(&["s"]);
    let by_name = ["broken", "gated", "web", "dns"];
    terminal.wait_for("the order of names", |s| s.contains("by NAME") && names(s) == by_name);
    terminal.press(&["r"]);
    terminal.wait_for("the order reversed", |s| names(s) == ["dns", "web", "gated", "broken"]);
    terminal.press(&["S"]);
    terminal.press(&["Tab"]);
    let screen = terminal.wait_text(&["by FAILING ", "LAST ", "failure "]);
    compare("top-columns", &screen);
    terminal.press(&["Tab", "f"]);
    terminal.wait_for("what fails alone", |s| names(s) == ["broken"] && s.contains("failing only"));
    terminal.press(&["Escape"]);
    terminal.wait_for("everything", is_first);

    terminal.press(&["/", "w", "e", "b"]);
    terminal.wait_for("what is found", |s| names(s) == ["web"] && s.contains("/web_"));
    terminal.press(&["Enter"]);
    terminal.wait_text(&["search \"web\"", "q quit"]);
    terminal.press(&["Escape"]);
    terminal.wait_for("everything", is_first);

    terminal.press(&["Enter"]);
    let screen = terminal.wait_text(&["pod default/broken", "not yet", "Warning Unhealthy"]);
    assert!(screen.contains("\\x1b[2Jnot yet"), "what a target says is text\n{screen}");
    compare("top-pod", &screen);
    terminal.press(&["?"]);
    let screen = terminal.wait_text(&["Keys", "this help"]);
    compare("top-help", &screen);
    terminal.press(&["Escape"]);
    terminal.wait_text(&["pod default/broken"]);
    terminal.press(&["Escape"]);
    terminal.wait_for("the table", is_first);
    terminal.press(&["Down", "Down", "Enter"]);
    terminal.wait_text(&["pod default/web", "Readiness tcp-socket"]);
    terminal.press(&["q"]);
    assert_eq!(terminal.wait_end(), 0);
    assert!(!terminal.is_taken(), "the terminal is given back");
}

#[test]
fn top_follows_the_size_of_the_terminal() {
    if !can_run("top_follows_the_size_of_the_terminal") {
        return;
    }
    let daemon = daemon();
    let terminal = Terminal::start(80, 24, &line(&daemon, "top"));
    terminal.wait_text(&["broken", "AGE", "q quit"]);
    terminal.resize(60, 20);
    let screen = terminal.wait_for("fewer columns", |s| {
        s.contains("broken") && s.lines().any(|line| line.starts_with("NAMESPACE") && line.ends_with("FAILING"))
    });
    compare("top-60x20", &screen);
    terminal.resize(120, 40);
    let screen = terminal.wait_text(&["broken", "LATENCY", "Tab columns"]);
    compare("top-120x40", &screen);
    terminal.resize(39, 9);
    terminal.wait_text(&["terminal too small", "needs 40x10"]);
    terminal.resize(40, 10);
    let screen = terminal.wait_text(&["broken", "q quit"]);
    assert!(screen.lines().all(|line| line.chars().count() <= 40), "{screen}");
    terminal.press(&["C-c"]);
    assert_eq!(terminal.wait_end(), 0);
}

#[test]
fn top_waits_for_a_daemon_that_goes_and_gives_the_terminal_back_when_it_is_told_to_end() {
    if !can_run("top_waits_for_a_daemon_that_goes_and_gives_the_terminal_back_when_it_is_told_to_end") {
        return;
    }
    let daemon = daemon();
    let socket = daemon.folder.path().join("api.sock").display().to_string();
    let terminal = Terminal::start(80, 24, &line(&daemon, "top"));
    terminal.wait_text(&["broken", "web", "q quit"]);
    let folder = daemon.kill();
    let screen = terminal.wait_text(&["disconnected since", "trying again", "broken"]);
    keep("top-disconnected-80x24", &screen);
    let mut daemon = Daemon::start_in(folder, "process", &FLAGS);
    settled(&mut daemon);
    terminal.wait_for("the new daemon's pods", |s| !s.contains("disconnected") && s.contains("web"));

    daemon.signal(Signal::SIGSTOP);
    terminal.wait_text(&["no word from the daemon since"]);
    daemon.signal(Signal::SIGCONT);
    terminal.wait_for("the daemon's word", |s| !s.contains("no word"));

    let top = processes(&format!("{socket} top"));
    let (pid, _) = top.iter().find(|(_, line)| !line.contains("exit")).expect("top's process");
    kill(Pid::from_raw(i32::try_from(*pid).expect("a pid")), Signal::SIGTERM).expect("it is there");
    assert_eq!(terminal.wait_end(), 0);
    assert!(!terminal.is_taken());
    // Raw mode would show no echo.
    terminal.press(&["h", "e", "l", "l", "o"]);
    terminal.wait_text(&["hello"]);
}

#[test]
fn top_prints_one_page_or_data_without_a_terminal() {
    let daemon = daemon();
    let page = daemon.says(&["top", "--once"]);
    assert!(page.is_ascii() || std::env::var("LANG").is_ok() || std::env::var("LC_ALL").is_ok(), "{page}");
    assert!(page.lines().all(|line| line.chars().count() <= 80), "{page}");
    for text in ["Pods 4  ready 2", "FAILING", "broken", "web"] {
        assert!(page.contains(text), "{text} in\n{page}");
    }
    let data: serde_json::Value = serde_json::from_str(&daemon.says(&["top", "-o", "json"])).expect("JSON");
    assert_eq!((data["kind"].as_str(), data["probes"].as_u64()), (Some("Node"), Some(7)));
    assert_eq!(data["podsByPhase"], serde_json::json!([0, 4, 0, 0]));
    let output = daemon.cli(&["top"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("top --once"), "{output:?}");
}

#[test]
fn events_go_on_over_a_daemon_that_is_started_again() {
    let mut daemon = daemon();
    let log = daemon.folder.path().join("followed");
    let mut child = Command::new(binary())
        .arg("--socket")
        .arg(daemon.folder.path().join("api.sock"))
        .args(["events", "-A", "-f", "-o", "json", "--reason", "Started"])
        .stdout(std::fs::File::create(&log).expect("a file"))
        .stderr(std::fs::File::create(daemon.folder.path().join("warned")).expect("a file"))
        .spawn()
        .expect("it runs");
    let started = |daemon: &Daemon| {
        let text = std::fs::read_to_string(daemon.folder.path().join("followed")).unwrap_or_default();
        let whole = text.lines().filter(|line| line.ends_with('}'));
        let events: Vec<serde_json::Value> =
            whole.map(|line| serde_json::from_str(line).expect("JSON a line")).collect();
        assert!(events.iter().all(|event| event["reason"] == "Started"), "{text}");
        events.len()
    };
    daemon.wait_for("the events that are kept", |daemon| (started(daemon) == 4).then_some(()));
    let folder = daemon.kill();
    let mut daemon = Daemon::start_in(folder, "process", &FLAGS);
    daemon.wait_for("the new daemon's events", |daemon| (started(daemon) == 8).then_some(()));
    let warned = std::fs::read_to_string(daemon.folder.path().join("warned")).expect("a file");
    assert!(warned.contains("lost the daemon") && warned.contains("it was started again"), "{warned}");
    child.kill().expect("it is there");
    child.wait().expect("it ends");
}

#[test]
fn long_work_shows_how_far_it_is_on_a_terminal_alone() {
    if !can_run("long_work_shows_how_far_it_is_on_a_terminal_alone") {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(folder.path().join("pods.yaml"), pods()).expect("a file");
    // Standard input is work that takes as long as the test wants, twice.
    let validate = format!("{} validate - {} -", binary().display(), folder.path().display());
    let terminal = Terminal::start(80, 24, &validate);
    terminal.press(&["x"]);
    terminal.wait_text(&["x"]);
    std::thread::sleep(Duration::from_millis(700)); // tidy: only work that takes long has a bar, and this makes it long
    terminal.press(&["C-u", "C-d"]);
    terminal.wait_text(&["checking [", "] 1 of 3"]);
    terminal.press(&["C-d"]);
    assert_eq!(terminal.wait_end(), 0, "{}", terminal.everything());
    assert!(!terminal.everything().contains("checking ["), "{}", terminal.everything());
    let output = Command::new(binary()).arg("validate").arg(folder.path()).output().expect("it runs");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "4 documents in 1 file: 0 errors\n");
}

/// Paths of all that is in a value: `items[].spec.containers[].name`.
fn names(value: &serde_json::Value, path: &str, into: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                into.insert(path.clone());
                names(value, &path, into);
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| names(item, &format!("{path}[]"), into)),
        _ => {}
    }
}

#[test]
fn data_of_every_command_keeps_its_names_and_each_is_on_the_page() {
    let daemon = daemon();
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../probe-engine/docs/CLI.md");
    let page = std::fs::read_to_string(page).expect("docs/CLI.md");
    let bad = daemon.folder.path().join("bad.yaml");
    std::fs::write(&bad, "apiVersion: v1\nkind: Pod\nmetadata: {name: Bad}\nspec: {containers: []}\n").expect("a file");
    let bad = bad.display().to_string();
    let file = daemon.folder.path().join("added.yaml");
    std::fs::write(&file, added()).expect("a file");
    let file = file.display().to_string();
    let mut all = String::new();
    for words in [
        "get pods -A",
        "get pod web",
        "get probes -A",
        "events -A",
        "probe pod broken --type readiness",
        "probe tcp 127.0.0.1:1",
        "set gate gated example.com/lb=False",
        "pause pod gated --for 1h",
        "resume pod gated",
        "add -f ADDED",
        "delete pod extra -n batch",
        "top",
        "doctor",
        "config show",
        "version",
        "validate BAD",
    ] {
        let command = words.trim_end_matches(" BAD").trim_end_matches(" -f ADDED").to_owned();
        let place = |word| match word {
            "BAD" => &*bad,
            "ADDED" => &*file,
            word => word,
        };
        let words: Vec<&str> = words.split(' ').map(place).collect();
        let output = daemon.cli(&[words.as_slice(), &["-o", "json"]].concat());
        let value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{words:?}: {error} {output:?}"));
        let mut found = BTreeSet::new();
        names(&value, "", &mut found);
        all.push_str(&format!("{command}\n"));
        // Objects of Kubernetes have names of its own.
        let is_kubernetes = command.starts_with("get pod") || command == "add";
        for path in &found {
            // Keys that are data: labels, and causes that may be there or not.
            // So is how far a pod is that was just added.
            if path.contains("labels.")
                || command == "add" && path.contains("status.")
                || path.contains(".reason") && command == "doctor"
                || path.ends_with(".remedy")
            {
                continue;
            }
            let name = path.rsplit(['.', ']']).next().unwrap_or_default();
            assert!(is_kubernetes || page.contains(&format!("`{name}`")), "{command}: `{name}` is not in docs/CLI.md");
            all.push_str(&format!("  {path}\n"));
        }
    }
    compare("json", &all);
}
