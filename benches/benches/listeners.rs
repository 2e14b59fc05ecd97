//! The table of listeners at 12,500 of them: whose connect a target's would be, one that closes and opens, a sweep's look.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use probe_core::time::Instant;
use probe_ebpf::{FAMILY_V4, ListenerEvent};
use probe_engine::ebpf::listen_drops::ListenDrops;
use probe_engine::ebpf::listeners::{Dump, Listeners};
use probe_engine::ebpf::sock_diag::DiagListener;

const NETNS: u64 = 7;
const LISTENERS_LEN: u32 = 12_500;
const STRIDE: u32 = 7_919;

/// 100 ports of each address.
fn addr(index: u32) -> SocketAddr {
    let ip = Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 1).to_bits() + index / 100);
    SocketAddr::from((ip, 20_000 + (index % 100) as u16))
}

fn event(index: u32, opened: bool) -> ListenerEvent {
    let addr = addr(index);
    let mut address = [0; 16];
    if let IpAddr::V4(ip) = addr.ip() {
        address[..4].copy_from_slice(&ip.octets());
    }
    ListenerEvent {
        time_ns: 1,
        socket_cookie: u64::from(index) + 1,
        netns_cookie: NETNS,
        address,
        port: addr.port(),
        family: FAMILY_V4,
        opened: u8::from(opened),
        ..ListenerEvent::default()
    }
}

fn diag(index: u32) -> DiagListener {
    let addr = addr(index);
    DiagListener {
        socket_cookie: u64::from(index) + 1,
        addr: addr.ip(),
        port: addr.port(),
        ipv6_only: false,
        device: 0,
        transparent: false,
        queue_len: 0,
        queue_max: 4_096,
        drops: 0,
    }
}

fn dump(id: u64) -> Dump {
    Dump { id, began: Instant::from_secs(id), listen_drops: ListenDrops::default() }
}

fn listeners(c: &mut Criterion) {
    let mut listeners = Listeners::default();
    for index in 0..LISTENERS_LEN {
        listeners.learn(NETNS, &diag(index), dump(1)).expect("room");
    }
    let mut group = c.benchmark_group("listeners_12500");
    group.sample_size(20).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    let mut index = 0;
    let mut next = move || {
        index = (index + STRIDE) % LISTENERS_LEN;
        index
    };
    group.throughput(Throughput::Elements(1));
    group.bench_function("candidates", |b| {
        b.iter(|| {
            let addr = black_box(addr(next()));
            let listening = listeners.inside(NETNS).at(addr.port());
            let healthy = listening.candidates(listening.class_of(addr.ip())).filter(|l| l.trouble().is_none());
            assert_eq!(healthy.count(), 1);
        });
    });
    group.bench_function("close_and_open", |b| {
        b.iter(|| {
            let index = next();
            black_box(listeners.close(&event(index, false)).expect("it has a cookie"));
            listeners.open(&event(index, true)).expect("room");
        });
    });
    group.throughput(Throughput::Elements(u64::from(LISTENERS_LEN)));
    let mut sweep = 10;
    group.bench_function("a_sweep_of_all", |b| {
        b.iter(|| {
            sweep += 1;
            for index in 0..LISTENERS_LEN {
                black_box(listeners.show(NETNS, &diag(index), dump(sweep)));
            }
            assert!(listeners.end_dump(NETNS, None, dump(sweep)).is_empty());
        });
    });
    group.finish();
}

criterion_group!(benches, listeners);
criterion_main!(benches);
