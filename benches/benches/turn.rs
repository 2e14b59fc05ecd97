//! Whole turns of a shard with 50,000 probes over a kernel that does everything at once and costs nearly nothing: what is
//! left is the engine's own. Time is virtual; a turn waits by moving it.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use probe_core::spec::{Handler, HttpGet, Port, ProbeSpec, Scheme};
use probe_core::time::Instant;
use probe_engine::manager::slots_of;
use probe_engine::results::{Update, UpdateQueue};
use probe_engine::shard::inbox::{Command, inbox};
use probe_engine::shard::kernel::{CloseMode, Completion, ConnectInfo, Full, Kernel, SocketId, Waker};
use probe_engine::shard::token::Token;
use probe_engine::shard::{Shard, ShardConfig};
use tokio::sync::Notify;

mod pods;

const PROBES_LEN: u32 = 50_000;
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

/// Every operation has succeeded by the next flush.
struct Instantly {
    now: Rc<Cell<Instant>>,
    done: Vec<Completion>,
    /// Attempts: one socket each.
    sockets: Rc<Cell<u32>>,
    peer: SocketAddr,
}

impl Kernel for Instantly {
    fn name(&self) -> &'static str {
        "instantly"
    }

    fn socket(&mut self, peer: &SocketAddr, _: CloseMode) -> io::Result<SocketId> {
        self.peer = *peer;
        self.sockets.set(self.sockets.get().wrapping_add(1));
        Ok(SocketId(self.sockets.get()))
    }

    fn connect(&mut self, token: Token, _: SocketId, _: SocketAddr) -> Result<(), Full> {
        self.done.push(Completion { token, result: Ok(0), buffer: None });
        Ok(())
    }

    fn send(&mut self, token: Token, _: SocketId, buffer: Box<[u8]>, from: usize) -> Result<(), (Full, Box<[u8]>)> {
        self.done.push(Completion { token, result: Ok(buffer.len() - from), buffer: Some(buffer) });
        Ok(())
    }

    fn recv(&mut self, token: Token, _: SocketId, mut buffer: Box<[u8]>) -> Result<(), (Full, Box<[u8]>)> {
        buffer[..ANSWER.len()].copy_from_slice(ANSWER);
        self.done.push(Completion { token, result: Ok(ANSWER.len()), buffer: Some(buffer) });
        Ok(())
    }

    fn cancel(&mut self, _: Token, _: SocketId) {}

    fn close(&mut self, _: SocketId) {}

    fn flush(&mut self, wait: Option<Duration>, completions: &mut Vec<Completion>) -> io::Result<()> {
        if let Some(wait) = wait.filter(|_| self.done.is_empty()) {
            self.now.set(self.now.get() + wait);
        }
        completions.append(&mut self.done);
        Ok(())
    }

    fn connect_info(&self, _: SocketId) -> io::Result<ConnectInfo> {
        let age = Duration::ZERO;
        Ok(ConnectInfo {
            rtt: Duration::from_micros(20),
            retransmits: 0,
            last_ack_age: age,
            last_sent_age: age,
            last_data_age: age,
            local: SocketAddr::from(([127, 0, 0, 1], 40_000)),
            peer: self.peer,
        })
    }

    fn cookie(&self, socket: SocketId) -> io::Result<u64> {
        Ok(socket.0.into())
    }

    fn ports_used_up(&self, _: &SocketAddr) -> bool {
        false
    }

    fn pending(&self) -> usize {
        self.done.len()
    }

    fn release_reserve(&mut self) {}

    fn restore_reserve(&mut self) {}
}

/// A shard and the world around it.
struct World {
    shard: Shard<Instantly>,
    now: Rc<Cell<Instant>>,
    sockets: Rc<Cell<u32>>,
    updates: Arc<UpdateQueue>,
}

impl World {
    fn new(spec: impl Fn(u32) -> ProbeSpec) -> World {
        let now = Rc::new(Cell::new(Instant::from_secs(1_000)));
        let sockets = Rc::new(Cell::new(0));
        let waker = Waker::new().expect("an eventfd");
        let (sender, inbox) = inbox(waker);
        let updates = Arc::new(UpdateQueue::new(Arc::new(Notify::new())));
        let mut config = ShardConfig::new(0, 1, now.get());
        config.local_ports = 1..=1;
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let kernel = Instantly { now: Rc::clone(&now), done: Vec::new(), sockets: Rc::clone(&sockets), peer };
        let shard = Shard::new(config, kernel, inbox, Arc::clone(&updates), None, now.get());
        let mut world = World { shard, now, sockets, updates };
        for index in 0..PROBES_LEN {
            let pod = pods::pod(index, spec(index));
            let mut command =
                Command::AddPod { slots: slots_of(&pod), status: Some(pods::running(world.now.get())), pod };
            while let Err(refused) = sender.send(command) {
                command = refused;
                world.turn();
            }
        }
        // The first attempts, and then all on their grid.
        world.period();
        world.period();
        world
    }

    fn turn(&mut self) {
        let now = Rc::clone(&self.now);
        self.shard.turn(&mut || now.get());
        while let Some(update) = self.updates.pop() {
            drop::<Update>(update);
        }
    }

    /// As many attempts as there are probes.
    fn period(&mut self) -> u32 {
        let (end, before) = (self.now.get() + Duration::from_secs(pods::PERIOD_S), self.sockets.get());
        while self.now.get() < end {
            self.turn();
        }
        self.sockets.get().wrapping_sub(before)
    }
}

fn http_get(index: u32) -> ProbeSpec {
    let path = format!("/healthz/{index}").into();
    let get = HttpGet { host: None, port: Port::Number(80), path, scheme: Scheme::Http, headers: Box::default() };
    ProbeSpec { handler: Handler::HttpGet(get), ..pods::spec(80) }
}

fn turns(c: &mut Criterion) {
    let mut group = c.benchmark_group("turn_50k");
    group.sample_size(10).measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_millis(500));
    group.throughput(Throughput::Elements(u64::from(PROBES_LEN)));
    let mut tcp = World::new(|_| pods::spec(80));
    assert_eq!(tcp.period(), PROBES_LEN);
    group.bench_function("a_period_of_tcp_socket", |b| b.iter(|| tcp.period()));
    drop(tcp);
    let mut http = World::new(http_get);
    assert_eq!(http.period(), PROBES_LEN);
    group.bench_function("a_period_of_http_get", |b| b.iter(|| http.period()));
    group.finish();
}

criterion_group!(benches, turns);
criterion_main!(benches);
