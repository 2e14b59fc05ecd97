//! Golden screens. `BLESS=1` writes them anew; the diff is what is to be judged.

use std::path::Path;

use jiff::Timestamp;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::feed::{Message, PodKey};
use super::fit::Charset;
use super::state::{Link, State};
use super::view::{self, Look};
use super::{fit, keys};
use crate::api::v1::{self, probe_spec::Handler};
use crate::cli::pods::tests::{NOW, at, pod, running, termination};

const LOOK: Look = Look { colour: true, charset: Charset::Utf8 };

fn now() -> Timestamp {
    Timestamp::from_second(NOW).expect("in range")
}

/// The screen as text, a line each, without blanks at the ends.
fn screen(state: &mut State, width: u16, height: u16, look: Look) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| view::draw(frame, state, look, now())).expect("drawn");
    let rows = super::buffer_rows(terminal.backend().buffer());
    rows.iter().map(|row| format!("{}\n", row.trim_end())).collect()
}

fn golden(name: &str, state: &mut State, width: u16, height: u16) {
    let shown = screen(state, width, height, LOOK);
    assert_eq!(shown.lines().count(), usize::from(height));
    for line in shown.lines() {
        assert!(fit::width(line) <= usize::from(width), "{line}");
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/top/golden").join(format!("{name}.txt"));
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &shown).expect("a golden file");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(shown, expected, "{name}:\n{shown}");
}

fn press(state: &mut State, typed: &str) {
    for c in typed.chars() {
        let code = match c {
            '\n' => KeyCode::Enter,
            '\x1b' => KeyCode::Esc,
            '\t' => KeyCode::Tab,
            c => KeyCode::Char(c),
        };
        let key = KeyEvent::new(code, KeyModifiers::NONE);
        state.obey(keys::command(key, state.is_searching).expect("a key that means something"));
    }
}

fn info() -> v1::GetInfoResponse {
    v1::GetInfoResponse {
        node_name: "node-1".to_owned(),
        runtime: "process".to_owned(),
        version: "0.1.0".to_owned(),
        instance: "i-1".to_owned(),
        pid: 1,
        ..v1::GetInfoResponse::default()
    }
}

fn node(seconds: u64) -> v1::WatchNodeResponse {
    let quantiles = |p50_ns| v1::Quantiles {
        count: 9_000,
        p50_ns,
        p90_ns: p50_ns * 2,
        p99_ns: p50_ns * 4,
        p999_ns: p50_ns * 8,
        max_ns: p50_ns * 11,
    };
    let handler = |name: &str, successful_count, passive_count, failed_count, p50_ns| v1::HandlerCounts {
        handler: name.to_owned(),
        successful_count,
        failed_count,
        discarded_count: 0,
        passive_count,
        latency: Some(quantiles(p50_ns)),
    };
    v1::WatchNodeResponse {
        node_name: "node-1".to_owned(),
        uptime_ns: seconds * 1_000_000_000,
        pods_by_phase: vec![1, 5, 0, 1],
        pods_ready_count: 4,
        probes_count: 12,
        probes_failing_count: 2,
        handlers: vec![
            handler("tcp", 100 * seconds, 900 * seconds, seconds, 210_000),
            handler("http", 20 * seconds, 0, 0, 1_400_000),
            handler("exec", seconds, 0, 0, 3_100_000),
        ],
        restarts_count: 3,
        in_flight_count: 2,
        in_flight_max: 8_192,
        pool: ["https", "grpc", "exec"]
            .map(|name| v1::PoolLane {
                handler: name.to_owned(),
                in_flight_max: 32,
                queued_count: u64::from(name == "exec") * 4,
                ..v1::PoolLane::default()
            })
            .into(),
        lateness: Some(quantiles(120_000)),
        memory_bytes: 50_700_000,
        attempts_per_second: 1_000.0 - (seconds / 5 % 8) as f64 * 110.0,
        cpu_cores: 0.142,
        ..v1::WatchNodeResponse::default()
    }
}

fn probe(probe_type: v1::ProbeType, failing: bool) -> v1::Probe {
    v1::Probe {
        r#type: probe_type.into(),
        spec: Some(v1::ProbeSpec {
            handler: Some(Handler::HttpGet(v1::HttpGet {
                port: Some(v1::Port { port: Some(v1::port::Port::Number(8080)) }),
                path: "/healthz".to_owned(),
                scheme: "http".to_owned(),
                ..v1::HttpGet::default()
            })),
            timeout_s: 1,
            period_s: 10,
            success_threshold: 1,
            failure_threshold: 3,
            ..v1::ProbeSpec::default()
        }),
        verdict: if failing { v1::Verdict::Failure } else { v1::Verdict::Success }.into(),
        verdict_since: at(90),
        run: 3,
        threshold: if failing { 3 } else { 1 },
        last: if failing { v1::OutcomeKind::Failure } else { v1::OutcomeKind::Success }.into(),
        last_message: if failing { "HTTP probe failed with statuscode: 503".to_owned() } else { String::new() },
        last_at: at(4),
        last_duration_ns: 1_400_000,
        successful_count: 100,
        failed_count: if failing { 3 } else { 0 },
        due_at: at(-6),
        durations: Some(v1::Durations {
            count: 100,
            sum_ns: 140_000_000,
            max_ns: 9_000_000,
            p50_ns: 1_400_000,
            p99_ns: 6_000_000,
        }),
        ..v1::Probe::default()
    }
}

fn named(namespace: &str, name: &str, failing: bool) -> v1::Pod {
    let mut app = running("app", !failing);
    app.probes = vec![probe(v1::ProbeType::Readiness, failing), probe(v1::ProbeType::Liveness, false)];
    let mut of = pod(v1::PodPhase::Running, vec![app]);
    (of.namespace, of.name, of.uid) = (namespace.to_owned(), name.to_owned(), format!("{namespace}-{name}"));
    of
}

fn some_pods() -> Vec<v1::Pod> {
    let mut crashing = named("kube-system", "coredns-5d78c9869d-x7k2p", true);
    crashing.containers[0].restart_count = 12;
    crashing.containers[0].last_termination = Some(termination(1, 0, "Error", 30));
    crashing.containers[0].state = Some(v1::ContainerState {
        state: Some(v1::container_state::State::Waiting(v1::Waiting {
            reason: "CrashLoopBackOff".to_owned(),
            message: String::new(),
        })),
    });
    vec![
        named("default", "web-0", false),
        named("default", "web-1", true),
        named("default", "a-deployment-with-a-long-name-7c9f6d5b8-q2w3e", false),
        crashing,
        named("monitoring", "prometheus-0", false),
    ]
}

fn state(pods: Vec<v1::Pod>) -> State {
    let mut state = State::new(info());
    for seconds in 3_600..3_900 {
        state.hear(Message::Node(Box::new(node(seconds))), now());
    }
    for message in [Message::Snapshot, Message::Pods(pods), Message::Synced] {
        state.hear(message, now());
    }
    state
}

fn event(sequence: u64, ago: i64, count: u32) -> v1::Event {
    v1::Event {
        sequence,
        at: at(ago),
        first_at: at(ago + 60),
        count,
        r#type: v1::EventType::Warning.into(),
        reason: "Unhealthy".to_owned(),
        message: "Readiness probe failed: HTTP probe failed with statuscode: 503".to_owned(),
        pod_uid: "default-web-1".to_owned(),
        container: "app".to_owned(),
        run: 3,
        threshold: 3,
        name: format!("web-1.{sequence}"),
        ..v1::Event::default()
    }
}

#[test]
fn failing_pods_stand_first_in_every_size() {
    for (width, height) in [(80, 24), (60, 20), (120, 40), (40, 10)] {
        golden(&format!("overview-{width}x{height}"), &mut state(some_pods()), width, height);
    }
}

#[test]
fn a_node_without_pods_says_so() {
    golden("empty-80x24", &mut state(Vec::new()), 80, 24);
    golden("waiting-80x24", &mut State::new(info()), 80, 24);
}

#[test]
fn other_columns_show_the_probes_where_not_all_fit() {
    let mut state = state(some_pods());
    press(&mut state, "\t");
    golden("columns-80x24", &mut state, 80, 24);
}

#[test]
fn what_is_wrong_stands_above_everything() {
    let mut state = state(some_pods());
    let mut unwell = node(3_901);
    unwell.problems = vec![
        v1::Problem {
            kind: "PassiveFeedLost".to_owned(),
            text: "the self-test failed 12 s ago; every tcpSocket attempt connects until it passes again".to_owned(),
            severe: true,
        },
        v1::Problem { kind: "FallbackEpoll".to_owned(), text: "io_uring is refused".to_owned(), severe: false },
    ];
    state.hear(Message::Node(Box::new(unwell)), now());
    golden("problems-80x24", &mut state, 80, 24);
    state.link = Link::Lost { since: Timestamp::from_second(NOW - 5).expect("in range"), why: "no daemon".to_owned() };
    golden("disconnected-60x20", &mut state, 60, 20);
}

#[test]
fn a_page_shows_probes_and_the_newest_events_first() {
    let mut state = state(some_pods());
    press(&mut state, "j\n");
    let key = state.page.as_ref().expect("a page").key.clone();
    assert_eq!(key, PodKey { namespace: "kube-system".to_owned(), name: "coredns-5d78c9869d-x7k2p".to_owned() });
    press(&mut state, "\x1bg\n");
    let key = state.page.as_ref().expect("a page").key.clone();
    golden("page-waiting-80x24", &mut state, 80, 24);
    state.hear(Message::Page(key.clone(), Some(Box::new(named("default", "web-1", true)))), now());
    for of in [event(7, 30, 1), event(9, 4, 2)] {
        state.hear(Message::Event(key.clone(), Box::new(of)), now());
    }
    golden("page-80x24", &mut state, 80, 24);
    golden("page-60x20", &mut state, 60, 20);
    press(&mut state, "G");
    golden("page-end-60x20", &mut state, 60, 20);
    press(&mut state, "g");
    state.hear(Message::Page(key, None), now());
    assert!(screen(&mut state, 80, 24, LOOK).contains("It is gone"));
}

#[test]
fn help_lists_the_keys() {
    let mut state = state(some_pods());
    press(&mut state, "?");
    golden("help-80x24", &mut state, 80, 24);
    press(&mut state, "f");
    assert!(!state.is_help && !state.failing_only, "the first key only takes the help away");
}

#[test]
fn a_terminal_that_is_too_small_says_what_it_needs() {
    let shown = screen(&mut state(some_pods()), 39, 9, LOOK);
    assert!(shown.starts_with("terminal too small: 39x9, needs 40x10\n"), "{shown}");
    for (width, height) in [(1, 1), (2, 30), (500, 1), (7, 3)] {
        screen(&mut state(some_pods()), width, height, LOOK);
    }
}

#[test]
fn search_and_filter_narrow_the_table_and_escape_widens_it_again() {
    let mut state = state(some_pods());
    press(&mut state, "/WEB");
    let shown = screen(&mut state, 80, 24, LOOK);
    assert!(shown.ends_with("/WEB_\n") && shown.contains("1-2 of 2 (5 in all)"), "{shown}");
    press(&mut state, "\nf");
    let shown = screen(&mut state, 80, 24, LOOK);
    assert!(shown.contains("1-1 of 1 (5 in all)  by FAILING  failing only  search \"WEB\""), "{shown}");
    press(&mut state, "\x1b\x1b");
    let shown = screen(&mut state, 80, 24, LOOK);
    assert!(shown.contains("1-5 of 5  by FAILING "), "{shown}");
    press(&mut state, "/nobody\n");
    assert!(screen(&mut state, 80, 24, LOOK).contains("no pod is found (Esc: all)"));
}

#[test]
fn ten_thousand_pods_are_walked_through_and_the_selected_one_stays_in_sight() {
    let pods: Vec<v1::Pod> = (0..10_000).map(|i| named("default", &format!("web-{i:05}"), i == 7_777)).collect();
    let mut state = state(pods);
    golden("many-80x24", &mut state, 80, 24);
    press(&mut state, "G");
    golden("many-end-80x24", &mut state, 80, 24);
    // The pod that the operator is at keeps being it, whatever its place is.
    press(&mut state, "k");
    let selected = |state: &mut State| {
        screen(state, 80, 24, LOOK);
        state.shown().find(|(is_selected, _)| *is_selected).map(|(_, row)| row.name.clone())
    };
    assert_eq!(selected(&mut state).as_deref(), Some("web-09998"));
    state.hear(Message::Pods(vec![named("default", "web-09998", true)]), now());
    assert_eq!(selected(&mut state).as_deref(), Some("web-09998"));
    assert_eq!(state.shown().next().map(|(_, row)| row.name.as_str()), Some("web-09998"), "it fails: to the top");
    state.hear(Message::Gone("default-web-09998".to_owned()), now());
    assert!(selected(&mut state).is_some());
    assert_eq!(state.pods_count(), 9_999);
}

#[test]
fn where_the_operator_has_not_moved_the_first_row_stays_selected() {
    let mut state = state(some_pods());
    screen(&mut state, 80, 24, LOOK);
    let mut worse = named("default", "aaa", true);
    worse.containers[0].probes[1].verdict = v1::Verdict::Failure.into();
    state.hear(Message::Pods(vec![worse]), now());
    screen(&mut state, 80, 24, LOOK);
    let (is_selected, row) = state.shown().next().expect("a row");
    assert!(is_selected && row.name == "aaa");
}

#[test]
fn a_new_snapshot_takes_away_what_is_not_in_it() {
    let mut state = state(some_pods());
    state.hear(Message::Snapshot, now());
    state.hear(Message::Pods(vec![named("default", "web-0", false)]), now());
    assert_eq!(state.pods_count(), 5, "nothing goes before all is known");
    state.hear(Message::Synced, now());
    assert_eq!(state.pods_count(), 1);
    // A look that was asked for before comes too late to bring it back.
    state.hear(Message::Looked(vec![named("default", "web-1", true)]), now());
    assert_eq!(state.pods_count(), 1);
}

#[test]
fn hostile_names_and_messages_reach_the_terminal_as_text() {
    let mut hostile = named("default", "\x1b[2J\x1b]0;x\x07", true);
    hostile.containers[0].name = "日本語コンテナ\u{202e}".to_owned();
    hostile.containers[0].probes[0].last_message = "<script>\x1b[31m\u{9b}2J 日本語のメッセージ\r\n".repeat(3);
    let mut wide = named("名前空間名前空間", "とても長い名前のポッドとても長い名前のポッド", true);
    wide.containers[0].probes[1].verdict = v1::Verdict::Failure.into();
    let mut state = state(vec![hostile.clone(), wide]);
    let mut bad = node(3_901);
    bad.problems = vec![v1::Problem { kind: "X\x1b[2J".to_owned(), text: "\x1b]0;y\x07".to_owned(), severe: true }];
    state.hear(Message::Node(Box::new(bad)), now());
    golden("hostile-80x24", &mut state, 80, 24);
    press(&mut state, "j\n");
    let key = state.page.as_ref().expect("a page").key.clone();
    state.hear(Message::Page(key.clone(), Some(Box::new(hostile))), now());
    let mut of = event(1, 1, 1);
    of.pod_uid = "default-\x1b[2J\x1b]0;x\x07".to_owned();
    of.message = "\x1b[2J\u{202e}".to_owned();
    state.hear(Message::Event(key, Box::new(of)), now());
    golden("hostile-page-80x24", &mut state, 80, 24);
    for (width, height) in [(40, 10), (41, 13), (79, 24), (133, 50)] {
        let shown = screen(&mut state, width, height, LOOK);
        assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
        assert!(shown.lines().all(|line| fit::width(line) <= usize::from(width)), "{shown}");
    }
}

#[test]
fn without_colours_nothing_is_coloured() {
    let mut state = state(some_pods());
    let look = Look { colour: false, charset: Charset::Utf8 };
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).expect("a terminal");
    terminal.draw(|frame| view::draw(frame, &mut state, look, now())).expect("drawn");
    let cells = terminal.backend().buffer().content();
    assert!(
        cells.iter().all(|cell| cell.fg == ratatui::style::Color::Reset && cell.bg == ratatui::style::Color::Reset)
    );
}

#[test]
fn a_terminal_without_utf_8_is_given_ascii() {
    let mut state = state(some_pods());
    let shown = screen(&mut state, 80, 24, Look { colour: false, charset: Charset::Ascii });
    assert!(shown.is_ascii(), "{shown}");
}

#[test]
fn a_printed_page_has_no_keys() {
    let text = super::text(&mut state(some_pods()), Charset::Utf8, 80, 24, now());
    assert!(text.contains("web-1") && !text.contains("q quit") && text.ends_with('\n'), "{text}");
}

#[test]
fn events_of_an_earlier_pod_of_the_name_go_and_a_series_is_shown_once() {
    let mut state = state(some_pods());
    press(&mut state, "\n");
    let key = state.page.as_ref().expect("a page").key.clone();
    state.hear(Message::Event(key.clone(), Box::new(event(1, 40, 1))), now());
    let mut again = event(2, 30, 2);
    again.name = "web-1.1".to_owned();
    for of in [again.clone(), again] {
        state.hear(Message::Event(key.clone(), Box::new(of)), now());
    }
    let kept = |state: &State| state.page.as_ref().map(|page| page.events.len());
    assert_eq!(kept(&state), Some(1));
    let mut new = named("default", "web-1", false);
    new.uid = "another".to_owned();
    state.hear(Message::Page(key, Some(Box::new(new))), now());
    assert_eq!(kept(&state), Some(0));
}

#[test]
fn rates_are_of_the_last_messages_and_begin_anew_with_the_daemon() {
    let mut state = State::new(info());
    state.hear(Message::Node(Box::new(node(100))), now());
    let first = state.rates();
    assert!((first.failures_per_second - 1.0).abs() < 0.01, "since the start: {first:?}");
    for seconds in 101..200 {
        state.hear(Message::Node(Box::new(node(seconds))), now());
    }
    let rates = state.rates();
    assert!((rates.passive_share - 900.0 / 1_022.0).abs() < 0.01, "{rates:?}");
    state.hear(Message::Node(Box::new(node(2))), now());
    assert_eq!(state.rate_history().count(), 1);
}
