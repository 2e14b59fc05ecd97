//! Own lateness is not the target's failure, and not an excuse either.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use probe_core::outcome::{LocalCause, Outcome};
use probe_core::spec::Handler;
use probe_core::time::Instant;
use probe_ebpf::Connect;

use super::fake::{Fake, Target, World, ms};
use super::{failure_text, http_get, launch, tcp_socket};
use crate::ebpf::counters::Connects;
use crate::shard::flight::{End, Flights, Landed, Look, Rules};
use crate::shard::kernel::{CloseMode, Kernel};

const PORT: u16 = 8_080;
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// One attempt with a timeout of 1 s, looked at at these points (in milliseconds after its start), and as soon as
/// it wants after the last of them.
fn attempt(world: &Rc<World>, handler: &Handler, target: Target, looks_ms: &[u64]) -> (Landed, u64) {
    attempt_seen(world, handler, target, looks_ms, None)
}

/// The same, with what the kernel program noted of it.
fn attempt_seen(
    world: &Rc<World>,
    handler: &Handler,
    target: Target,
    looks_ms: &[u64],
    connects: Option<Arc<Connects>>,
) -> (Landed, u64) {
    world.target(PORT, target);
    let mut kernel = Fake::new(world);
    let mut flights = Flights::new(Rules { close: CloseMode::Fin, local_ports: PORT..=PORT, connects });
    let start = world.now();
    let mut before = start;
    let mut looks = looks_ms.iter().map(|at| start + ms(*at));
    flights.start(&mut kernel, launch(handler, [127, 0, 0, 1].into(), ms(1_000)), start);
    let mut completions = Vec::new();
    for _ in 0..1_000 {
        if let Some(landed) = flights.poll_landed() {
            let at = world.now() - start;
            for _ in 0..3 {
                kernel.flush(None, &mut completions).expect("flush");
                let look = Look { now: world.now(), before };
                completions.drain(..).for_each(|completion| flights.complete(&mut kernel, completion, look));
            }
            assert_eq!((world.open.get(), kernel.pending()), (0, 0), "its socket is closed in the same turn");
            return (landed, at.as_millis() as u64);
        }
        let look_at = looks.next().or_else(|| flights.poll_timeout()).unwrap_or(before);
        match look_at > world.now() {
            true if looks_ms.is_empty() => kernel.flush(Some(look_at - world.now()), &mut completions).expect("flush"),
            _ => world.pass(look_at - world.now()),
        }
        let look = Look { now: world.now(), before };
        before = look.now;
        loop {
            kernel.flush(None, &mut completions).expect("flush");
            if completions.is_empty() {
                break;
            }
            completions.drain(..).for_each(|completion| flights.complete(&mut kernel, completion, look));
        }
        flights.judge(&mut kernel, look);
    }
    panic!("it does not land");
}

fn outcome(landed: &Landed) -> &Outcome {
    match &landed.end {
        End::Outcome(outcome) => outcome,
        End::Redirect(_) => panic!("a redirect"),
    }
}

fn connect(target: Target, looks_ms: &[u64]) -> (Outcome, u64) {
    let (landed, at) = attempt(&World::new(), &tcp_socket(PORT), target, looks_ms);
    (outcome(&landed).clone(), at)
}

fn get(target: Target, looks_ms: &[u64]) -> (Outcome, u64) {
    let (landed, at) = attempt(&World::new(), &http_get(PORT, "/"), target, looks_ms);
    (outcome(&landed).clone(), at)
}

/// What a connect becomes that is looked at two seconds too late, and took so long by TCP_INFO and by the program.
fn by_two_clocks(tcp_info_ms: u64, program_ms: u64) -> (Outcome, Option<Duration>) {
    let world = World::new();
    let connects = Arc::new(Connects::fake());
    let started = world.now() + ms(1);
    connects.put(Connect {
        // The fake kernel's first socket.
        socket_cookie: 1,
        started_ns: started.as_nanos(),
        established_ns: (started + ms(program_ms)).as_nanos(),
        ..Connect::default()
    });
    let seen = Some(connects);
    let (landed, _) = attempt_seen(&world, &tcp_socket(PORT), connects_after(tcp_info_ms), &[3_000], seen);
    (outcome(&landed).clone(), landed.phases.connect)
}

#[test]
fn the_kernel_programs_clock_comes_before_any_other() {
    assert_eq!(by_two_clocks(1_100, 900), (success(), Some(ms(900))));
    assert!(matches!(by_two_clocks(900, 1_100), (Outcome::Failure(_), _)));
}

fn success() -> Outcome {
    Outcome::Success("".into())
}

fn connects_after(millis: u64) -> Target {
    Target { connect: Some(ms(millis)), ..Target::default() }
}

fn drops() -> Target {
    Target { connect: None, ..Target::default() }
}

fn answers_after(millis: u64) -> Target {
    Target { pieces: vec![(ms(millis), OK.to_vec())], ..Target::default() }
}

#[test]
fn a_connect_within_the_deadline_that_is_seen_late_is_a_success() {
    assert_eq!(connect(connects_after(900), &[1_500]), (success(), 1_500));
}

#[test]
fn a_connect_after_the_deadline_that_is_seen_late_is_a_failure() {
    let (outcome, at) = connect(connects_after(1_100), &[1_500]);
    assert_eq!((failure_text(&outcome), at), ("dial tcp 127.0.0.1:8080: i/o timeout", 1_500));
}

#[test]
fn with_a_retransmitted_syn_the_newest_acknowledgement_is_the_time() {
    let retransmitted = |millis| Target { retransmits: 1, ..connects_after(millis) };
    assert_eq!(connect(retransmitted(900), &[1_500]), (success(), 1_500));
    assert!(matches!(connect(retransmitted(1_100), &[1_500]).0, Outcome::Failure(_)));
}

#[test]
fn t04_a_dead_target_fails_at_its_deadline() {
    let (outcome, at) = connect(drops(), &[]);
    assert_eq!((failure_text(&outcome), at), ("dial tcp 127.0.0.1:8080: i/o timeout", 1_000));
}

#[test]
fn a_dead_target_that_is_looked_at_a_little_late_fails_at_once() {
    let (outcome, at) = connect(drops(), &[1_050]);
    assert!(matches!(outcome, Outcome::Failure(_)));
    assert_eq!(at, 1_050);
}

#[test]
fn a_dead_target_that_is_looked_at_very_late_fails_at_the_second_look() {
    let (outcome, at) = connect(drops(), &[5_000]);
    assert!(matches!(outcome, Outcome::Failure(_)));
    assert_eq!(at, 5_050);
}

#[test]
fn a_connect_between_a_late_look_and_the_second_one_is_a_success() {
    assert_eq!(connect(connects_after(5_020), &[5_000, 5_030]), (success(), 5_030));
}

#[test]
fn a_second_look_is_the_last_one() {
    let (outcome, at) = connect(connects_after(9_900), &[5_000, 9_000]);
    assert!(matches!(outcome, Outcome::Failure(_)));
    assert_eq!(at, 9_000);
}

#[test]
fn the_time_that_a_connected_request_waited_for_us_is_given_back() {
    // Connected at 1 ms, sent at 900 ms, answered 500 ms later: the target took half a second.
    assert_eq!(get(answers_after(500), &[900, 1_400]), (Outcome::Success("ok".into()), 1_400));
}

#[test]
fn the_time_that_an_answer_waited_for_us_is_given_back() {
    assert_eq!(get(answers_after(500), &[1, 3_000]), (Outcome::Success("ok".into()), 3_000));
}

#[test]
fn an_answer_after_the_deadline_fails_however_late_it_is_read() {
    let (outcome, _) = get(answers_after(1_100), &[1, 3_000]);
    assert!(failure_text(&outcome).contains("awaiting headers"));
}

#[test]
fn h20_a_silent_server_fails_at_its_deadline() {
    let (outcome, at) = get(Target::default(), &[]);
    assert!(failure_text(&outcome).contains("awaiting headers"));
    assert_eq!(at, 1_000);
}

#[test]
fn a_server_that_drips_gets_no_more_than_its_time() {
    let pieces = OK.iter().map(|byte| (ms(300), vec![*byte])).collect();
    let (outcome, at) = get(Target { pieces, ..Target::default() }, &[]);
    assert!(failure_text(&outcome).contains("awaiting headers"));
    assert_eq!(at, 1_000);
}

#[test]
fn a_deadline_within_the_body_is_an_error() {
    let pieces = vec![(ms(10), b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no".to_vec())];
    let (outcome, at) = get(Target { pieces, ..Target::default() }, &[]);
    assert!(matches!(&outcome, Outcome::Error(text) if text.contains("while reading body")), "{outcome:?}");
    assert_eq!(at, 1_000);
}

#[test]
fn a_connect_that_reached_itself_is_refused() {
    let (outcome, _) = connect(Target { is_itself: true, ..Target::default() }, &[]);
    assert_eq!(failure_text(&outcome), "dial tcp 127.0.0.1:8080: connect: connection refused");
}

#[test]
fn an_address_not_available_is_local_only_without_ports() {
    let target = Target { errno: Some(libc::EADDRNOTAVAIL), ..Target::default() };
    let world = World::new();
    let (landed, _) = attempt(&world, &tcp_socket(PORT), target.clone(), &[]);
    let text = "dial tcp 127.0.0.1:8080: connect: cannot assign requested address";
    assert_eq!(failure_text(outcome(&landed)), text);
    world.ports_used_up.set(true);
    let (landed, _) = attempt(&world, &tcp_socket(PORT), target, &[]);
    assert_eq!(outcome(&landed), &Outcome::Local(LocalCause::Ports));
}

#[test]
fn time_between_the_start_and_its_submission_is_ours() {
    let world = World::new();
    world.target(PORT, drops());
    let mut kernel = Fake::new(&world);
    let mut flights = Flights::new(Rules { close: CloseMode::Fin, local_ports: PORT..=PORT, connects: None });
    let start: Instant = world.now();
    flights.start(&mut kernel, launch(&tcp_socket(PORT), [127, 0, 0, 1].into(), ms(1_000)), start);
    flights.submitted(ms(400));
    assert_eq!(flights.poll_timeout(), Some(start + ms(1_400)));
}

#[test]
fn a_handshake_is_measured_by_the_kernel_however_late_it_was_submitted() {
    let world = World::new();
    world.target(PORT, connects_after(1_100));
    let mut kernel = Fake::new(&world);
    let mut flights = Flights::new(Rules { close: CloseMode::Fin, local_ports: PORT..=PORT, connects: None });
    let start: Instant = world.now();
    flights.start(&mut kernel, launch(&tcp_socket(PORT), [127, 0, 0, 1].into(), ms(1_000)), start);
    flights.submitted(ms(400));
    world.pass(ms(1_200));
    let mut completions = Vec::new();
    kernel.flush(None, &mut completions).expect("flush");
    let look = Look { now: world.now(), before: start };
    completions.drain(..).for_each(|completion| flights.complete(&mut kernel, completion, look));
    let landed = flights.poll_landed().expect("it landed");
    assert_eq!(failure_text(outcome(&landed)), "dial tcp 127.0.0.1:8080: i/o timeout");
}

#[test]
fn a_step_between_the_two_looks_gets_back_what_made_the_first_one_late() {
    let target = Target { connect: Some(ms(5_020)), ..answers_after(300) };
    assert_eq!(get(target, &[5_000, 5_030]), (Outcome::Success("ok".into()), 6_010));
}

#[test]
fn a_request_that_left_late_gets_that_time_back() {
    let world = World::new();
    world.target(PORT, answers_after(500));
    let mut kernel = Fake::new(&world);
    let mut flights = Flights::new(Rules { close: CloseMode::Fin, local_ports: PORT..=PORT, connects: None });
    let start: Instant = world.now();
    flights.start(&mut kernel, launch(&http_get(PORT, "/"), [127, 0, 0, 1].into(), ms(1_000)), start);
    let mut completions = Vec::new();
    world.pass(ms(1));
    kernel.flush(None, &mut completions).expect("flush");
    // Connected, and we see it at 1 ms; then we are held up before the request leaves, at 900 ms.
    world.pass(ms(899));
    for (seen_ms, before_ms) in [(1, 0), (900, 0), (1_400, 900)] {
        world.pass(start + ms(seen_ms) - world.now());
        kernel.flush(None, &mut completions).expect("flush");
        let look = Look { now: start + ms(seen_ms), before: start + ms(before_ms) };
        completions.drain(..).for_each(|completion| flights.complete(&mut kernel, completion, look));
        flights.judge(&mut kernel, look);
    }
    let landed = flights.poll_landed().expect("it landed");
    assert_eq!(outcome(&landed), &Outcome::Success("ok".into()));
}

#[test]
fn a_redirect_is_handed_on_with_what_was_given_back() {
    let answer = b"HTTP/1.1 302 Found\r\nLocation: /next\r\n\r\n".to_vec();
    let target = Target { pieces: vec![(ms(500), answer)], ..Target::default() };
    let world = World::new();
    let start: Instant = world.now();
    let (landed, _) = attempt(&world, &http_get(PORT, "/"), target, &[900, 1_400]);
    assert!(matches!(landed.end, End::Redirect(_)));
    assert_eq!(landed.started - start, ms(899), "the request waited for us from 1 ms to 900 ms");
}
