//! The kernel program on the real kernel: how it loads, what it tells of real sockets, and that nothing of it stays.
#![cfg(feature = "engine")]

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use aya::programs::loaded_programs;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::geteuid;
use probe_ebpf::{Connect, FAMILY_V4, FAMILY_V6, ListenerEvent, counter_slot};
use probe_engine::clock;
use probe_engine::ebpf::feature::Unavailable;
use probe_engine::ebpf::load::{Hook, LoadOptions, Loaded, load, load_with};
use probe_engine::ebpf::netns::own_cookie;
use probe_tests::netns::{TestNetns, usable};
use probe_tests::skip::skip;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Nothing here takes longer on a machine that works.
const PATIENCE: Duration = Duration::from_secs(20);

/// The program, or a loud skip where this process may not load one.
fn loaded(test: &str, options: LoadOptions<'_>) -> Option<Loaded> {
    match load_with(options) {
        Ok(loaded) => Some(loaded),
        // As root on a kernel that can, a refusal is a bug.
        Err(error) if geteuid().is_root() && !matches!(error, Unavailable::Capabilities(_)) => panic!("{error}"),
        Err(error) => {
            skip(test, &error.to_string());
            None
        }
    }
}

fn tcp(domain: Domain) -> Socket {
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP)).expect("a socket");
    // The raw tracepoint tells only cookies that something asked for.
    assert_ne!(socket.cookie().expect("SO_COOKIE"), 0);
    socket
}

fn bound(address: SocketAddr) -> Socket {
    let socket = tcp(Domain::for_address(address));
    socket.bind(&SockAddr::from(address)).expect("bind");
    socket
}

/// Bound to a port by number: shutdown(2) of a listener takes away a port that the kernel chose (`tcp_disconnect`). The
/// first holds the port meanwhile.
fn bound_by_number() -> (Socket, Socket) {
    let reusing = |to: SocketAddr| {
        let socket = tcp(Domain::for_address(to));
        socket.set_reuse_address(true).expect("SO_REUSEADDR");
        socket.bind(&SockAddr::from(to)).expect("bind");
        socket
    };
    let holder = reusing(localhost());
    let socket = reusing(address(&holder));
    (holder, socket)
}

fn address(socket: &Socket) -> SocketAddr {
    socket.local_addr().ok().and_then(|address| address.as_socket()).expect("an address")
}

fn localhost() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// The events of one socket, in order, until there are `count` of them.
fn events_of(loaded: &mut Loaded, cookie: u64, count: usize) -> Vec<ListenerEvent> {
    let mut events = Vec::new();
    let deadline = clock::now() + PATIENCE;
    loop {
        while loaded.events.drain(64, |event| events.extend((event.socket_cookie == cookie).then_some(event))) > 0 {}
        if events.len() >= count {
            return events;
        }
        assert!(clock::now() < deadline, "{events:?}");
        let mut ready = [PollFd::new(loaded.events.fd(), PollFlags::POLLIN)];
        poll(&mut ready, PollTimeout::from(100_u8)).expect("poll");
    }
}

/// All events of one socket that the system calls made so far have caused: they are in the ring when those return.
fn events_so_far(loaded: &mut Loaded, cookie: u64) -> Vec<ListenerEvent> {
    let mut events = events_of(loaded, cookie, 0);
    let deadline = clock::now() + PATIENCE;
    while !loaded.events.is_empty() {
        events.extend(events_of(loaded, cookie, 0));
        assert!(clock::now() < deadline, "the ring does not become empty");
    }
    events
}

fn opened(events: &[ListenerEvent]) -> Vec<u8> {
    events.iter().map(|event| event.opened).collect()
}

/// The counter of a port of our own namespace.
fn counter(loaded: &Loaded, port: u16) -> u64 {
    loaded.counters.load(counter_slot(own_cookie().expect("SO_NETNS_COOKIE"), port))
}

fn bytes_of(address: SocketAddr) -> [u8; 16] {
    match address {
        SocketAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.ip().octets());
            bytes
        }
        SocketAddr::V6(v6) => v6.ip().octets(),
    }
}

fn monotonic_ns() -> u64 {
    clock::now().as_nanos()
}

/// Opens and closes a listener there, and compares all that is told of it.
fn tells_of_a_listener(loaded: &mut Loaded, to_bind: SocketAddr, only_v6: bool) {
    let before_ns = monotonic_ns();
    let socket = tcp(Domain::for_address(to_bind));
    if to_bind.is_ipv6() {
        socket.set_only_v6(only_v6).expect("IPV6_V6ONLY");
    }
    socket.bind(&SockAddr::from(to_bind)).expect("bind");
    let (cookie, address) = (socket.cookie().expect("SO_COOKIE"), address(&socket));
    let value = counter(loaded, address.port());
    socket.listen(5).expect("listen");
    assert_eq!(counter(loaded, address.port()), value + 1, "when listen() returns");
    drop(socket);
    assert_eq!(counter(loaded, address.port()), value + 2, "when close() returns");
    let events = events_of(loaded, cookie, 2);
    assert_eq!(opened(&events), [1, 0]);
    for event in &events {
        let expected = ListenerEvent {
            time_ns: event.time_ns,
            socket_cookie: cookie,
            netns_cookie: own_cookie().expect("SO_NETNS_COOKIE"),
            address: bytes_of(address),
            netns_inode: std::fs::metadata("/proc/self/ns/net")
                .map(|m| std::os::unix::fs::MetadataExt::ino(&m))
                .expect("an inode") as u32,
            port: address.port(),
            family: if address.is_ipv4() { FAMILY_V4 } else { FAMILY_V6 },
            opened: event.opened,
            ipv6_only: u8::from(only_v6),
            padding: [0; 6],
        };
        assert_eq!(*event, expected);
        assert!((before_ns..=monotonic_ns()).contains(&event.time_ns));
    }
}

fn tells_of_listeners(test: &str, options: LoadOptions<'_>, hook: Hook) {
    let Some(mut loaded) = loaded(test, options) else { return };
    assert_eq!(loaded.hook, hook);
    assert_eq!(loaded.sha256, probe_engine::ebpf::load::OBJECT_SHA256);
    tells_of_a_listener(&mut loaded, localhost(), false);
    tells_of_a_listener(&mut loaded, (Ipv4Addr::UNSPECIFIED, 0).into(), false);
    tells_of_a_listener(&mut loaded, (Ipv6Addr::LOCALHOST, 0).into(), true);
    tells_of_a_listener(&mut loaded, (Ipv6Addr::UNSPECIFIED, 0).into(), false);
    assert_eq!((loaded.events.strange(), loaded.drops.load()), (0, 0));
}

#[test]
fn tp_btf_tells_of_listeners_of_both_families_with_their_counters() {
    let test = "tp_btf_tells_of_listeners_of_both_families_with_their_counters";
    tells_of_listeners(test, LoadOptions::default(), Hook::TpBtf);
}

#[test]
fn the_raw_tracepoint_tells_the_same_where_cookies_were_asked_for() {
    let test = "the_raw_tracepoint_tells_the_same_where_cookies_were_asked_for";
    let options = LoadOptions { force_raw: true, ..LoadOptions::default() };
    tells_of_listeners(test, options, Hook::RawTracepoint);
}

#[test]
fn a_listener_of_another_namespace_is_told_with_that_namespace() {
    let test = "a_listener_of_another_namespace_is_told_with_that_namespace";
    if !usable(test, &["ip"]) {
        return;
    }
    let Some(mut loaded) = loaded(test, LoadOptions::default()) else { return };
    let netns = TestNetns::new();
    let (cookie, port, values) = netns.run(|| {
        let socket = bound((Ipv4Addr::UNSPECIFIED, 0).into());
        let port = address(&socket).port();
        let slot = counter_slot(netns.cookie(), port);
        let value = loaded.counters.load(slot);
        socket.listen(1).expect("listen");
        (socket.cookie().expect("SO_COOKIE"), port, [value, loaded.counters.load(slot)])
    });
    assert_eq!(values[1], values[0] + 1);
    for event in events_of(&mut loaded, cookie, 2) {
        assert_eq!((event.netns_cookie, event.port), (netns.cookie(), port));
        assert_eq!(u64::from(event.netns_inode), netns.inode());
    }
}

/// Connects, and waits until the child's event is there too.
fn connect_to(loaded: &Loaded, to: SocketAddr) -> (Socket, Connect) {
    let socket = tcp(Domain::for_address(to));
    let cookie = socket.cookie().expect("SO_COOKIE");
    socket.connect(&SockAddr::from(to)).expect("connect");
    let deadline = clock::now() + PATIENCE;
    loop {
        if let Some(connect) = loaded.connects.read(cookie).filter(|connect| connect.child_ns != 0) {
            return (socket, connect);
        }
        assert!(clock::now() < deadline, "{:?}", loaded.connects.read(cookie));
        std::thread::yield_now();
    }
}

fn tells_of_connects(test: &str, options: LoadOptions<'_>) {
    let Some(loaded) = loaded(test, options) else { return };
    for any in [localhost(), (Ipv6Addr::LOCALHOST, 0).into()] {
        let listener = bound(any);
        listener.listen(5).expect("listen");
        let to = address(&listener);
        let before_ns = monotonic_ns();
        let (socket, connect) = connect_to(&loaded, to);
        let ours = address(&socket);
        let expected = Connect {
            socket_cookie: socket.cookie().expect("SO_COOKIE"),
            started_ns: connect.started_ns,
            established_ns: connect.established_ns,
            child_ns: connect.child_ns,
            child_netns_cookie: own_cookie().expect("SO_NETNS_COOKIE"),
            child_remote: bytes_of(ours),
            child_port: to.port(),
            child_family: if to.is_ipv4() { FAMILY_V4 } else { FAMILY_V6 },
            local_port: ours.port(),
            padding: 0,
        };
        assert_eq!(connect, expected);
        assert!(before_ns <= connect.started_ns && connect.started_ns <= connect.established_ns);
        assert!(connect.established_ns <= monotonic_ns() && connect.child_ns <= monotonic_ns());
    }
    // Refused: it began, and never was established.
    let nobody = address(&bound(localhost()));
    let socket = tcp(Domain::IPV4);
    assert!(socket.connect(&SockAddr::from(nobody)).is_err());
    let refused = loaded.connects.read(socket.cookie().expect("SO_COOKIE")).expect("it began");
    assert!(refused.started_ns > 0 && refused.established_ns == 0 && refused.child_ns == 0, "{refused:?}");
}

#[test]
fn our_own_connect_is_told_with_the_kernels_times_and_the_child_it_made() {
    tells_of_connects("our_own_connect_is_told_with_the_kernels_times_and_the_child_it_made", LoadOptions::default());
}

#[test]
fn the_raw_tracepoint_tells_our_own_connects_too() {
    let options = LoadOptions { force_raw: true, ..LoadOptions::default() };
    tells_of_connects("the_raw_tracepoint_tells_our_own_connects_too", options);
}

#[test]
fn a_full_ring_counts_drops_and_the_counters_move_on() {
    let test = "a_full_ring_counts_drops_and_the_counters_move_on";
    let options = LoadOptions { ring_bytes: 4_096, ..LoadOptions::default() };
    let Some(mut loaded) = loaded(test, options) else { return };
    let (_holder, socket) = bound_by_number();
    let port = address(&socket).port();
    let value = counter(&loaded, port);
    // A record takes 64 bytes of the 4,096, and nobody reads.
    for _ in 0..100 {
        socket.listen(1).expect("listen");
        socket.shutdown(std::net::Shutdown::Read).expect("shutdown");
    }
    assert_eq!(counter(&loaded, port), value + 200);
    let dropped = loaded.drops.load();
    assert!(dropped >= 200 - 64, "{dropped} dropped");
    let mut kept = 0;
    loaded.events.drain(65, |_| kept += 1);
    assert!((1..=64).contains(&kept), "{kept} kept");
    // With room again, events come again: this machine's other listeners may fill it once more, so not always at once.
    let deadline = clock::now() + PATIENCE;
    loop {
        while !loaded.events.is_empty() {
            loaded.events.drain(64, drop);
        }
        socket.listen(1).expect("listen");
        socket.shutdown(std::net::Shutdown::Read).expect("shutdown");
        if opened(&events_of(&mut loaded, socket.cookie().expect("SO_COOKIE"), 0)) == [1, 0] {
            return;
        }
        assert!(clock::now() < deadline, "{} dropped", loaded.drops.load());
    }
}

#[test]
fn drain_takes_no_more_than_it_may() {
    let Some(mut loaded) = loaded("drain_takes_no_more_than_it_may", LoadOptions::default()) else { return };
    let socket = bound(localhost());
    for _ in 0..5 {
        socket.listen(1).expect("listen");
        socket.shutdown(std::net::Shutdown::Read).expect("shutdown");
    }
    assert!(!loaded.events.is_empty());
    let mut seen = 0;
    assert_eq!(loaded.events.drain(3, |_| seen += 1), 3);
    assert_eq!(seen, 3);
}

#[test]
fn the_kernel_counts_runs_and_their_time_where_it_is_asked_to() {
    let test = "the_kernel_counts_runs_and_their_time_where_it_is_asked_to";
    let options = LoadOptions { stats: true, ..LoadOptions::default() };
    let Some(loaded) = loaded(test, options) else { return };
    let before = loaded.program.read().expect("fdinfo");
    drop((0..50).map(|_| bound(localhost()).listen(1)).collect::<Vec<_>>());
    let after = loaded.program.read().expect("fdinfo");
    assert!(after.run_cnt >= before.run_cnt + 100, "{before:?} {after:?}");
    assert!(after.run_time_ns > before.run_time_ns, "{before:?} {after:?}");
}

#[test]
fn with_its_log_the_program_loads_and_says_what_it_does() {
    let test = "with_its_log_the_program_loads_and_says_what_it_does";
    let options = LoadOptions { log: true, ..LoadOptions::default() };
    let Some(mut loaded) = loaded(test, options) else { return };
    let mut log = loaded.log.take().expect("a log");
    bound(localhost()).listen(1).expect("listen");
    let mut ready = [PollFd::new(log.fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut ready, PollTimeout::from(10_000_u16)).expect("poll"), 1, "it says something");
    log.flush();
    tells_of_a_listener(&mut loaded, localhost(), false);
}

// Refusals.

#[test]
fn without_btf_there_is_a_sentence() {
    if !geteuid().is_root() {
        return skip("without_btf_there_is_a_sentence", "run as root");
    }
    let options = LoadOptions { btf_path: Path::new("/nonexistent/vmlinux"), ..LoadOptions::default() };
    let text = load_with(options).expect_err("no BTF").to_string();
    assert!(text.starts_with("there is no /nonexistent/vmlinux: the kernel needs CONFIG_DEBUG_INFO_BTF=y"), "{text}");
    let options = LoadOptions { btf_path: Path::new("/proc/self/exe"), ..LoadOptions::default() };
    let text = load_with(options).expect_err("no BTF").to_string();
    assert!(text.starts_with("the layout of the kernel's structs is not known: "), "{text}");
}

#[test]
fn a_broken_object_and_a_refused_program_are_sentences() {
    let test = "a_broken_object_and_a_refused_program_are_sentences";
    if loaded(test, LoadOptions::default()).is_none() {
        return;
    }
    let text =
        load_with(LoadOptions { object: b"\x7fELF", ..LoadOptions::default() }).expect_err("no object").to_string();
    assert!(text.starts_with("the kernel program's object cannot be used ("), "{text}");
    let refused = load_with(LoadOptions { object: &without_licence(), ..LoadOptions::default() });
    let text = refused.expect_err("a program of no licence").to_string();
    assert!(text.starts_with("the kernel's verifier refuses the program; "), "{text}");
    assert!(text.contains("GPL"), "{text}");
}

/// The object under a licence to which the kernel offers few helpers.
fn without_licence() -> Vec<u8> {
    let mut object = probe_ebpf::OBJECT.to_vec();
    let licence = b"Dual MIT/GPL\0";
    let at = object.windows(licence.len()).position(|bytes| bytes == licence).expect("the licence's section");
    object[at..][..licence.len()].copy_from_slice(b"Proprietary \0");
    object
}

/// Runs one of the tests below in a process of its own, where it does its part; elsewhere it does nothing.
fn child(test: &str) -> Command {
    // By this name the program is found whatever the rights on the folders above it.
    let mut command = Command::new("/proc/self/exe");
    command.args(["--exact", test, "--nocapture"]).env(CHILD_ENV, "1").stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

const CHILD_ENV: &str = "PROBE_ENGINE_TEST_EBPF_CHILD";

fn is_child() -> bool {
    std::env::var_os(CHILD_ENV).is_some()
}

#[test]
fn without_capabilities_there_is_a_sentence() {
    if is_child() {
        println!("says: {}", load(false).expect_err("nobody may load programs"));
        return;
    }
    if !geteuid().is_root() {
        return skip("without_capabilities_there_is_a_sentence", "run as root, to become nobody");
    }
    let output = child("without_capabilities_there_is_a_sentence").uid(65_534).gid(65_534).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("says: this process lacks CAP_BPF and CAP_PERFMON, which "), "{text}");
}

/// Whether the kernel still has the program of this number.
fn is_loaded(id: u32) -> bool {
    loaded_programs().filter_map(Result::ok).any(|program| program.id() == id)
}

/// The kernel frees a program a little after its last descriptor.
fn wait_until_gone(id: u32) {
    let deadline = clock::now() + PATIENCE;
    while is_loaded(id) {
        assert!(clock::now() < deadline, "program {id} is still there");
        std::thread::yield_now();
    }
}

#[test]
fn dropped_it_is_gone_and_what_was_mapped_stands_still() {
    let test = "dropped_it_is_gone_and_what_was_mapped_stands_still";
    for force_raw in [false, true] {
        let Some(loaded) = loaded(test, LoadOptions { force_raw, ..LoadOptions::default() }) else { return };
        let id = loaded.program.id();
        assert!(is_loaded(id));
        let counters = loaded.counters.clone();
        drop(loaded);
        wait_until_gone(id);
        let socket = bound(localhost());
        let slot = counter_slot(own_cookie().expect("SO_NETNS_COOKIE"), address(&socket).port());
        let value = counters.load(slot);
        socket.listen(1).expect("listen");
        assert_eq!(counters.load(slot), value);
    }
}

#[test]
fn after_sigkill_nothing_is_left() {
    let test = "after_sigkill_nothing_is_left";
    if is_child() {
        let loaded = load(false).expect("the parent could");
        println!("program {}", loaded.program.id());
        // Until killed.
        let _ = std::io::stdin().read(&mut [0]);
        return;
    }
    if loaded(test, LoadOptions::default()).is_none() {
        return;
    }
    let mut child = child(test).spawn().expect("it runs");
    let stdout = BufReader::new(child.stdout.take().expect("piped"));
    let id = stdout.lines().map_while(Result::ok).find_map(|line| line.split("program ").nth(1)?.trim().parse().ok());
    let id: u32 = id.expect("the program's number");
    assert!(is_loaded(id));
    child.kill().expect("SIGKILL");
    child.wait().expect("it ends");
    wait_until_gone(id);
}

// The traps: what the tracepoint says where one would not think so.

#[test]
fn a_failing_second_listen_is_told_as_another_socket_and_the_good_one_stays() {
    let test = "a_failing_second_listen_is_told_as_another_socket_and_the_good_one_stays";
    let Some(mut loaded) = loaded(test, LoadOptions::default()) else { return };
    // SO_REUSEADDR lets both bind; the first listen() takes the port.
    let (good, second) = bound_by_number();
    let port = address(&good).port();
    good.listen(5).expect("listen");
    let value = counter(&loaded, port);
    second.listen(5).expect_err("the port is taken");
    assert_eq!(counter(&loaded, port), value + 2, "a change that was none costs a real connect");
    let (good_cookie, cookie) = (good.cookie().expect("SO_COOKIE"), second.cookie().expect("SO_COOKIE"));
    let events = events_of(&mut loaded, cookie, 2);
    assert_eq!(opened(&events), [1, 0]);
    assert!(events.iter().all(|event| event.port == port && event.address == bytes_of(address(&good))));
    connect_to(&loaded, address(&good));
    assert_eq!(opened(&events_so_far(&mut loaded, good_cookie)), [] as [u8; 0], "the good one's were drained above");
}

#[test]
fn a_listener_without_bind_opens_without_a_port_and_closes_with_it() {
    let test = "a_listener_without_bind_opens_without_a_port_and_closes_with_it";
    let Some(mut loaded) = loaded(test, LoadOptions::default()) else { return };
    let socket = tcp(Domain::IPV4);
    let cookie = socket.cookie().expect("SO_COOKIE");
    socket.listen(1).expect("listen");
    let port = address(&socket).port();
    let value = counter(&loaded, port);
    drop(socket);
    assert_eq!(counter(&loaded, port), value + 1);
    let ports: Vec<u16> = events_of(&mut loaded, cookie, 2).iter().map(|event| event.port).collect();
    assert_eq!(ports, [0, port]);
}

#[test]
fn a_child_that_is_born_is_no_listener_leaving() {
    let test = "a_child_that_is_born_is_no_listener_leaving";
    let Some(mut loaded) = loaded(test, LoadOptions::default()) else { return };
    let listener = bound(localhost());
    listener.listen(5).expect("listen");
    let (cookie, to) = (listener.cookie().expect("SO_COOKIE"), address(&listener));
    let value = counter(&loaded, to.port());
    for _ in 0..5 {
        let (socket, _) = connect_to(&loaded, to);
        let (child, _) = listener.accept().expect("accept");
        drop((socket, child));
    }
    assert_eq!(counter(&loaded, to.port()), value);
    assert_eq!(opened(&events_so_far(&mut loaded, cookie)), [1]);
}

#[test]
fn a_new_backlog_is_no_event() {
    let Some(mut loaded) = loaded("a_new_backlog_is_no_event", LoadOptions::default()) else { return };
    let listener = bound(localhost());
    let cookie = listener.cookie().expect("SO_COOKIE");
    listener.listen(5).expect("listen");
    let value = counter(&loaded, address(&listener).port());
    listener.listen(50).expect("listen");
    assert_eq!(counter(&loaded, address(&listener).port()), value);
    assert_eq!(opened(&events_so_far(&mut loaded, cookie)), [1]);
}

#[test]
fn a_listener_that_was_shut_down_listens_again_under_the_same_cookie() {
    let test = "a_listener_that_was_shut_down_listens_again_under_the_same_cookie";
    let Some(mut loaded) = loaded(test, LoadOptions::default()) else { return };
    let (_holder, listener) = bound_by_number();
    let (cookie, port) = (listener.cookie().expect("SO_COOKIE"), address(&listener).port());
    let value = counter(&loaded, port);
    for round in 1..=3 {
        listener.listen(5).expect("listen");
        listener.shutdown(std::net::Shutdown::Read).expect("shutdown");
        assert_eq!(counter(&loaded, port), value + 2 * round);
    }
    let events = events_of(&mut loaded, cookie, 6);
    assert_eq!(opened(&events), [1, 0, 1, 0, 1, 0]);
    assert!(events.iter().all(|event| event.port == port) && events.is_sorted_by_key(|event| event.time_ns));
}

#[test]
fn an_mptcp_listener_is_told_once_by_its_tcp_socket() {
    let test = "an_mptcp_listener_is_told_once_by_its_tcp_socket";
    let Ok(listener) = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP)) else {
        return skip(test, "this kernel has no MPTCP, or net.mptcp.enabled is 0");
    };
    let Some(mut loaded) = loaded(test, LoadOptions::default()) else { return };
    listener.bind(&SockAddr::from(localhost())).expect("bind");
    let (netns_cookie, to) = (own_cookie().expect("SO_NETNS_COOKIE"), address(&listener));
    let value = counter(&loaded, to.port());
    listener.listen(5).expect("listen");
    assert_eq!(counter(&loaded, to.port()), value + 1, "of three events one is TCP's change");
    connect_to(&loaded, to);
    drop(listener);
    assert_eq!(counter(&loaded, to.port()), value + 2);
    let mut events = Vec::new();
    let is_its = |event: &ListenerEvent| event.netns_cookie == netns_cookie && event.port == to.port();
    while !loaded.events.is_empty() {
        loaded.events.drain(64, |event| events.extend(is_its(&event).then_some(event)));
    }
    assert_eq!(opened(&events), [1, 0]);
    assert_eq!(events[0].socket_cookie, events[1].socket_cookie);
}

#[test]
fn a_listener_passed_to_another_process_outlives_its_maker() {
    let test = "a_listener_passed_to_another_process_outlives_its_maker";
    let Some(mut loaded) = loaded(test, LoadOptions::default()) else { return };
    let listener = bound(localhost());
    listener.listen(5).expect("listen");
    let (cookie, to) = (listener.cookie().expect("SO_COOKIE"), address(&listener));
    let value = counter(&loaded, to.port());
    // The other process has it as its standard input.
    let inherited: OwnedFd = listener.as_fd().try_clone_to_owned().expect("dup");
    let mut heir = Command::new("sleep").arg("60").stdin(inherited).spawn().expect("sleep runs");
    drop(listener);
    assert_eq!(counter(&loaded, to.port()), value, "its maker's close() closes nothing");
    connect_to(&loaded, to);
    assert_eq!(opened(&events_so_far(&mut loaded, cookie)), [1]);
    heir.kill().expect("SIGKILL");
    heir.wait().expect("it ends");
    assert_eq!(counter(&loaded, to.port()), value + 1, "the heir's end does");
    assert_eq!(opened(&events_so_far(&mut loaded, cookie)), [0]);
}
