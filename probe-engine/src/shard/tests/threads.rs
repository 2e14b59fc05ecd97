//! The shard as a thread of its own, on real sockets, with each kernel.

use std::net::TcpListener;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use probe_core::outcome::{Outcome, Verdict};
use tokio::sync::Notify;

use super::{http_get, pod, running, spec, tcp_socket};
use crate::clock;
use crate::prober::Request;
use crate::results::{Update, UpdateQueue};
use crate::shard::inbox::{Command, inbox};
use crate::shard::kernel::{IoChoice, Waker};
use crate::shard::once::{Once, attempt_once};
use crate::shard::{ShardConfig, ShardThread, SpawnError, spawn};

const PATIENCE: Duration = Duration::from_secs(10);

fn start(io: IoChoice) -> Option<(ShardThread, crate::shard::inbox::ShardSender, Arc<UpdateQueue>)> {
    let waker = Waker::new().expect("an eventfd");
    let (sender, inbox) = inbox(waker.clone());
    let updates = Arc::new(UpdateQueue::new(Arc::new(Notify::new())));
    let mut config = ShardConfig::new(0, 1, probe_core::time::Instant::ZERO);
    config.io = io;
    match spawn(config, waker, inbox, Arc::clone(&updates), None) {
        Ok(thread) => Some((thread, sender, updates)),
        Err(SpawnError::Kernel { .. }) if io == IoChoice::Uring => None,
        Err(error) => panic!("{error}"),
    }
}

fn await_update(updates: &UpdateQueue, mut wanted: impl FnMut(&Update) -> bool) -> Update {
    let deadline = clock::now() + PATIENCE;
    loop {
        match updates.pop() {
            Some(update) if wanted(&update) => return update,
            Some(_) => {}
            None => thread::yield_now(),
        }
        assert!(clock::now() < deadline, "no such update");
    }
}

fn probes_a_listener_then_shuts_down(io: IoChoice) {
    let Some((shard, sender, updates)) = start(io) else {
        return crate::skip::skip(
            "t01_a_shard_on_io_uring_probes_a_listener_then_shuts_down",
            "io_uring is refused here",
        );
    };
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = listener.local_addr().expect("addr").port();
    let status = Some(running(clock::now()));
    sender
        .send(Command::AddPod { pod: pod("pod", spec(tcp_socket(port))), slots: Box::default(), status })
        .expect("room");
    let is =
        |verdict| move |update: &Update| matches!(update, Update::Publish(publish) if publish.verdict == Some(verdict));
    await_update(&updates, is(Verdict::Failure));
    await_update(&updates, is(Verdict::Success));
    listener.accept().expect("the attempt");
    let beat = shard.heartbeat();
    await_update(&updates, |update| matches!(update, Update::Metrics(metrics) if metrics.workers == 1));
    // The turn that told its counts ends after it told them.
    let deadline = clock::now() + PATIENCE;
    while shard.heartbeat() <= beat {
        assert!(clock::now() < deadline, "no heartbeat");
        thread::yield_now();
    }
    sender.send(Command::Shutdown).expect("room");
    await_update(&updates, |update| matches!(update, Update::ShardEnded { shard: 0 }));
    assert!(shard.join());
    assert!(sender.is_closed());
}

#[test]
fn t01_a_shard_on_io_uring_probes_a_listener_then_shuts_down() {
    probes_a_listener_then_shuts_down(IoChoice::Uring);
}

#[test]
fn t01_a_shard_on_epoll_probes_a_listener_then_shuts_down() {
    probes_a_listener_then_shuts_down(IoChoice::Epoll);
}

#[test]
fn one_attempt_is_made_without_a_shard() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = listener.local_addr().expect("addr").port();
    let request = |handler| Request {
        spec: Arc::new(spec(handler)),
        pod_ip: Some([127, 0, 0, 1].into()),
        instance: None,
        label: "default/pod".into(),
    };
    for io in [IoChoice::Auto, IoChoice::Epoll] {
        let Ok(Once::Attempted(attempted)) = attempt_once(&request(tcp_socket(port)), io) else { panic!("not made") };
        assert_eq!(attempted.outcome, Outcome::Success("".into()));
        assert!(attempted.phases.connect.is_some_and(|connect| connect <= attempted.phases.total));
    }
    drop(listener);
    let Ok(Once::Attempted(attempted)) = attempt_once(&request(http_get(port, "/")), IoChoice::Auto) else {
        panic!("not made")
    };
    assert!(matches!(attempted.outcome, Outcome::Failure(_)));
}
