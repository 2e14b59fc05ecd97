//! What the daemon asks and hears of the kernel through netlink, on the real one, in namespaces that the tests make.
#![cfg(feature = "engine")]

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use probe_engine::clock;
use probe_engine::ebpf::counters::Counters;
use probe_engine::ebpf::listen_drops::ListenDrops;
use probe_engine::ebpf::netns::{Namespace, NetnsError, NetnsRef};
use probe_engine::ebpf::sock_diag::{ChildLookups, DiagListener, SockDiag};
use probe_engine::ebpf::stats::EbpfStats;
use probe_engine::ebpf::sweep::{Question, Sweep, Told, spawn};
use probe_engine::ebpf::target::{ChildLookup, Found, Group, Place};
use probe_engine::ebpf::{PassiveSettings, Target, Why};
use probe_engine::limits;
use probe_engine::shard::kernel::Waker;
use probe_tests::netns::{TestNetns, Veth, usable};
use probe_tests::passive::pod::{CONTAINER, Times, pod};
use probe_tests::passive::stray;
use probe_tests::skip::skip;
use socket2::{Domain, Socket, Type};

/// Longer than anything here takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(20);
const RECHECK_MAX: Duration = Duration::from_secs(5);

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Looks until it is so.
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = clock::now() + PATIENCE;
    while !is_so() {
        assert!(clock::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::yield_now();
    }
}

fn dump(netns: &TestNetns) -> (bool, Vec<Vec<DiagListener>>) {
    netns.run(|| {
        let mut parts = Vec::new();
        let mut buffer = vec![0; limits::NETLINK_MESSAGE_BYTES_MAX];
        let complete = SockDiag::open().expect("sock_diag").dump(None, &mut buffer, &mut |part| parts.push(part));
        (complete, parts)
    })
}

fn listeners(netns: &TestNetns) -> BTreeMap<u16, DiagListener> {
    let (complete, parts) = dump(netns);
    assert!(complete);
    parts.into_iter().flatten().map(|listener| (listener.port, listener)).collect()
}

/// A listener made option by option.
fn listen(at: &str, backlog: i32, set: impl FnOnce(&Socket) -> std::io::Result<()>) -> Socket {
    let at = addr(at);
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, None).expect("socket");
    set(&socket).expect("its options");
    socket.bind(&at.into()).expect("bind");
    socket.listen(backlog).expect("listen");
    socket
}

#[test]
fn a_dump_shows_listeners_with_their_options_queues_and_drops() {
    if !usable("a_dump_shows_listeners_with_their_options_queues_and_drops", &[]) {
        return;
    }
    let netns = TestNetns::new();
    let made = netns.run(|| {
        let queued = listen("127.0.0.1:1001", 5, |_| Ok(()));
        let clients: Vec<_> = (0..3).map(|_| TcpStream::connect("127.0.0.1:1001").expect("connect")).collect();
        let sockets = [
            listen("[::]:1002", 128, |socket| socket.set_only_v6(true)),
            listen("[::]:1003", 128, |socket| socket.set_only_v6(false)),
            listen("0.0.0.0:1004", 128, |socket| socket.set_ip_transparent_v4(true)),
            listen("127.0.0.1:1005", 128, |socket| socket.bind_device(Some(b"lo"))),
            listen("[::ffff:127.0.0.1]:1006", 128, |socket| socket.set_only_v6(false)),
        ];
        (queued, clients, sockets)
    });
    let found = listeners(&netns);
    assert_eq!(found.len(), 6);
    assert_eq!((found[&1001].queue_len, found[&1001].queue_max, found[&1001].drops), (3, 5, 0));
    assert_eq!(found[&1001].socket_cookie, made.0.cookie().expect("SO_COOKIE"));
    assert_eq!((found[&1002].ipv6_only, found[&1003].ipv6_only), (true, false));
    assert_eq!((found[&1002].addr, found[&1004].addr), (ip("::"), ip("0.0.0.0")));
    assert!(found[&1004].transparent && !found[&1003].transparent);
    assert_eq!((found[&1005].device, found[&1001].device), (netns.ifindex("lo"), 0));
    assert_eq!(found[&1006].addr, ip("::ffff:127.0.0.1"));
}

#[test]
fn a_full_accept_queue_shows_as_more_than_its_backlog_and_as_drops() {
    if !usable("a_full_accept_queue_shows_as_more_than_its_backlog_and_as_drops", &[]) {
        return;
    }
    let netns = TestNetns::new();
    let (_listener, _clients) = netns.run(|| {
        let listener = listen("127.0.0.1:1001", 1, |_| Ok(()));
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let client = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).expect("socket");
                let error = client.connect(&addr("127.0.0.1:1001").into()).expect_err("it is non-blocking");
                assert_eq!(error.raw_os_error(), Some(nix::libc::EINPROGRESS));
                client
            })
            .collect();
        (listener, clients)
    });
    eventually("the queue is full", || listeners(&netns)[&1001].queue_len == 2);
    eventually("a request is dropped", || listeners(&netns)[&1001].drops > 0);
    let full = &listeners(&netns)[&1001];
    assert!(full.queue_len > full.queue_max, "{full:?}");
}

#[test]
fn thousands_of_listeners_come_in_parts_and_all_of_them_once() {
    if !usable("thousands_of_listeners_come_in_parts_and_all_of_them_once", &[]) {
        return;
    }
    let netns = TestNetns::new();
    let sockets: Vec<_> = netns.run(|| {
        let ports = 10_001..=12_500;
        ports.map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("bind")).collect()
    });
    let before = clock::now();
    let (complete, parts) = dump(&netns);
    println!("a dump of {} listeners took {:?}", sockets.len(), clock::now() - before);
    assert!(complete);
    assert!(parts.len() >= 3 && parts.iter().all(|part| part.len() <= limits::DUMP_PART_LEN));
    let mut ports: Vec<_> = parts.into_iter().flatten().map(|listener| listener.port).collect();
    ports.sort_unstable();
    assert_eq!(ports, (10_001..=12_500).collect::<Vec<_>>());
}

#[test]
fn an_exact_query_names_the_child_and_otherwise_who_would_take_the_connect() {
    if !usable("an_exact_query_names_the_child_and_otherwise_who_would_take_the_connect", &[]) {
        return;
    }
    TestNetns::new().run(|| {
        let mut diag = SockDiag::open().expect("sock_diag");
        let lookups = ChildLookups::open().expect("sock_diag");
        // SO_REUSEPORT lets the two stand beside each other.
        let wildcard = listen("[::]:1001", 128, |socket| {
            socket.set_reuse_port(true)?;
            socket.set_only_v6(false)
        });
        let specific = listen("127.0.0.2:1001", 128, |socket| socket.set_reuse_port(true));
        let nobody = addr("127.0.0.1:9");
        for (target, listener) in [
            (addr("127.0.0.1:1001"), &wildcard),
            (addr("127.0.0.2:1001"), &specific),
            (addr("[::1]:1001"), &wildcard),
            (addr("[::ffff:127.0.0.2]:1001"), &specific),
        ] {
            let nobody = if target.is_ipv4() { nobody } else { addr("[::1]:9") };
            let found = diag.exact(target, nobody).expect("an answer").expect("a listener");
            assert!(found.is_listener());
            assert_eq!(found.socket_cookie, listener.cookie().expect("SO_COOKIE"), "{target}");
            assert_eq!(lookups.child(target, nobody), Found::Other);

            let stream = TcpStream::connect(target).expect("connect");
            let ours = stream.local_addr().expect("our end");
            let (child, _) = listener.accept().expect("accept");
            let found = diag.exact(target, ours).expect("an answer").expect("a child");
            assert_eq!(found.socket_cookie, child.cookie().expect("SO_COOKIE"), "{target}");
            assert!(!found.is_listener());
            assert_eq!(lookups.child(target, ours), Found::Child);
            drop(child);
            assert_eq!(lookups.child(target, ours), Found::Child, "closed by the server, our end still open");
        }
        // Closed by the server first: it is in TIME_WAIT, until a new connection with the same ends replaces it.
        let target = addr("127.0.0.1:1001");
        let stream = TcpStream::connect(target).expect("connect");
        let ours = stream.local_addr().expect("our end");
        drop(wildcard.accept().expect("accept"));
        drop(stream);
        eventually("it is in TIME_WAIT", || {
            diag.exact(target, ours).expect("an answer").is_none_or(|it| it.state == 6)
        });
        assert_eq!(lookups.child(target, ours), Found::Other);
        assert_eq!(diag.exact(addr("127.0.0.1:1"), nobody), Ok(None));
        assert_eq!(lookups.child(addr("127.0.0.1:1"), nobody), Found::Other);
    });
}

#[test]
fn an_exact_query_names_the_member_of_a_reuseport_group_that_a_connect_reaches() {
    if !usable("an_exact_query_names_the_member_of_a_reuseport_group_that_a_connect_reaches", &[]) {
        return;
    }
    TestNetns::new().run(|| {
        let mut diag = SockDiag::open().expect("sock_diag");
        let member = || listen("127.0.0.1:1001", 128, |socket| socket.set_reuse_port(true));
        let members = [member(), member(), member(), member()];
        // Kept open: a connection in TIME_WAIT would be found instead where its port is chosen again.
        let mut connections = Vec::new();
        for _ in 0..32 {
            let client = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
            client.bind(&addr("127.0.0.1:0").into()).expect("bind");
            let ours = client.local_addr().expect("our end").as_socket().expect("an IP address");
            let named = diag.exact(addr("127.0.0.1:1001"), ours).expect("an answer").expect("a member").socket_cookie;
            client.connect(&addr("127.0.0.1:1001").into()).expect("connect");
            let reached = members.iter().find(|member| {
                member.set_nonblocking(true).expect("O_NONBLOCK");
                match member.accept() {
                    Ok((accepted, _)) => {
                        connections.push(accepted);
                        true
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => false,
                    Err(error) => panic!("accept: {error}"),
                }
            });
            assert_eq!(named, reached.expect("one has it").cookie().expect("SO_COOKIE"));
            connections.push(client);
        }
    });
}

#[test]
fn only_a_network_namespace_can_be_opened_and_a_reused_inode_has_another_cookie() {
    if !usable("only_a_network_namespace_can_be_opened_and_a_reused_inode_has_another_cookie", &[]) {
        return;
    }
    let open = |path: &str| Namespace::open(&NetnsRef::at(path));
    assert!(matches!(open("/proc/self/ns/none"), Err(NetnsError::Open { .. })));
    assert!(matches!(open("/proc/self/ns/uts"), Err(NetnsError::NotNetns { .. })));
    assert!(matches!(open("/dev/null"), Err(NetnsError::NotNetns { .. })));

    let mut seen: BTreeMap<u64, u64> = BTreeMap::new();
    let deadline = clock::now() + PATIENCE;
    // The kernel frees a namespace, and with it its inode, some time after the last descriptor is closed.
    loop {
        let made = TestNetns::new();
        let namespace = open(&made.path()).expect("it opens");
        assert_eq!((namespace.cookie, namespace.inode), (made.cookie(), made.inode()));
        assert_eq!(namespace.has_sk_lookup(), Ok(false));
        assert!(!seen.values().any(|cookie| *cookie == namespace.cookie));
        if let Some(first) = seen.insert(namespace.inode, namespace.cookie) {
            assert_ne!(first, namespace.cookie);
            return;
        }
        if clock::now() > deadline {
            skip("only_a_network_namespace_can_be_opened_and_a_reused_inode_has_another_cookie", "no inode came again");
            return;
        }
    }
}

/// A host with one pod, whose address is `10.77.0.2`, and a sweep in the host's namespace.
struct Node {
    host: TestNetns,
    pod: TestNetns,
    veth: Veth,
    stats: Arc<EbpfStats>,
    sweep: Sweep,
    counters: Counters,
    told: Vec<(u64, Result<Place, Why>)>,
    next_id: u64,
}

impl Node {
    fn new() -> Self {
        let (host, pod) = (TestNetns::new(), TestNetns::new());
        let veth = pod.connect(&host, "10.77.0.1/24", "10.77.0.2/24");
        let stats = Arc::new(EbpfStats::default());
        let settings = PassiveSettings { path_recheck_max: RECHECK_MAX, ..PassiveSettings::default() };
        let sweep = host.run(|| Sweep::new(&settings, 1, Arc::clone(&stats))).expect("a sweep");
        Self { host, pod, veth, stats, sweep, counters: Counters::fake(), told: Vec::new(), next_id: 1 }
    }

    fn target(&mut self, netns: NetnsRef, addr: SocketAddr) -> Arc<Target> {
        self.next_id += 1;
        let pod = pod("pod", addr, Times { period_seconds: 1, timeout_seconds: 1 });
        Arc::new(Target::new(self.next_id, 0, pod, &CONTAINER.into(), "id".into(), netns, addr))
    }

    fn pod_ref(&self) -> NetnsRef {
        NetnsRef::at(self.pod.path())
    }

    /// Asks where a target is.
    fn place(&mut self, target: &Arc<Target>) -> Result<Place, Why> {
        let mut answer = None;
        self.sweep.ask(Question::Place(Arc::clone(target)), clock::now(), &mut |told| match told {
            Told::Placed { target: of, place } if of.id == target.id => answer = Some(place),
            other => panic!("{other:?}"),
        });
        answer.expect("an answer")
    }

    /// Of each port's listener in this namespace, and what was known of lost requests.
    fn dump(&mut self, netns_cookie: u64) -> (BTreeMap<u16, DiagListener>, ListenDrops) {
        let (mut listed, mut end) = (BTreeMap::new(), None);
        self.sweep.ask(Question::Dump { netns_cookie, ports: None }, clock::now(), &mut |told| match told {
            Told::Part { listeners, .. } => listed.extend(listeners.into_iter().map(|diag| (diag.port, diag))),
            Told::Dumped { complete: true, listen_drops, .. } => end = Some(listen_drops),
            other => panic!("{other:?}"),
        });
        (listed, end.expect("its end"))
    }

    /// A target with a lease of a minute.
    fn leased(&mut self, netns: NetnsRef, addr: SocketAddr) -> Arc<Target> {
        let target = self.target(netns, addr);
        let place = self.place(&target).expect("it is placed");
        target.join(&Arc::new(Group::new(place)), Why::First);
        self.lease(&target);
        target
    }

    fn lease(&self, target: &Target) {
        let now = clock::now();
        let group = target.group().expect("placed");
        group.settle(self.counters.load(group.place().expect("its place is known").slot));
        group.look_healthy(now + Duration::from_secs(600));
        target.forget_end();
        let before = target.before(&self.counters).expect("placed");
        target.grant(&self.counters, before, now + Duration::from_secs(60), now).expect("a lease");
    }

    fn hear(&mut self) {
        let told = &mut self.told;
        self.sweep.handle_readable(clock::now(), &mut |answer| match answer {
            Told::Placed { target, place } => told.push((target.id, place)),
            other => panic!("{other:?}"),
        });
    }

    /// Hears all that was announced until now, then makes the change, then waits until it did that to the lease.
    fn expect(&mut self, target: &Target, expected: Lease, change: impl FnOnce(&Self)) {
        self.hear();
        self.lease(target);
        change(self);
        let what = format!("{expected:?} of the lease of {}", target.addr());
        let mut seen = Lease::Whole;
        let deadline = clock::now() + PATIENCE;
        while seen != expected {
            assert!(clock::now() < deadline, "{what}: it is {seen:?}");
            self.hear();
            seen = Lease::of(target);
        }
    }

    /// The same change leaves this lease alone, as far as a change to `witness` shows that it was heard.
    fn expect_untouched(&mut self, target: &Target, witness: &Target, by: Lease, change: impl FnOnce(&Self)) {
        self.hear();
        self.lease(target);
        self.expect(witness, by, change);
        assert_eq!(Lease::of(target), Lease::Whole, "of {}", target.addr());
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lease {
    Whole,
    Cut,
    Void,
}

impl Lease {
    fn of(target: &Target) -> Self {
        match target.lease_until() {
            None => Lease::Void,
            Some(until) if until <= clock::now() + RECHECK_MAX => Lease::Cut,
            Some(_) => Lease::Whole,
        }
    }
}

#[test]
fn a_target_is_placed_where_its_address_is_local_and_nowhere_else() {
    if !usable("a_target_is_placed_where_its_address_is_local_and_nowhere_else", &[]) {
        return;
    }
    let mut node = Node::new();
    let host_path = NetnsRef::at(node.host.path());
    let (own, pod) = (node.host.cookie(), node.pod.cookie());
    let nowhere = NetnsRef::at("/proc/self/ns/nowhere");
    for (netns, at, expected) in [
        (NetnsRef::Own, "127.0.0.1:80", Ok(own)),
        (NetnsRef::Own, "127.8.0.9:80", Ok(own)),
        (NetnsRef::Own, "[::1]:80", Ok(own)),
        (NetnsRef::Own, "10.77.0.1:80", Ok(own)),
        (NetnsRef::Own, "10.77.0.2:80", Err(Why::NotLocal)),
        (host_path, "10.77.0.1:80", Ok(own)),
        (node.pod_ref(), "10.77.0.2:80", Ok(pod)),
        (node.pod_ref(), "[::ffff:10.77.0.2]:80", Ok(pod)),
        (node.pod_ref(), "10.77.0.1:80", Err(Why::NotLocal)),
        (node.pod_ref(), "192.0.2.1:80", Err(Why::NotLocal)),
        (nowhere, "10.77.0.2:80", Err(Why::NetnsUnknown)),
    ] {
        let target = node.target(netns, addr(at));
        let place = node.place(&target);
        assert_eq!(place.as_ref().map(|place| place.netns_cookie).map_err(|why| *why), expected, "{at}");
        assert_eq!(node.place(&target).is_ok(), place.is_ok(), "asked again");
    }
    assert_eq!(node.stats.namespaces.load(Relaxed), 2, "the host's by its path is the host's");
    node.sweep.prune(clock::now(), &mut |told| panic!("{told:?}"));
    assert_eq!(node.stats.namespaces.load(Relaxed), 1, "nobody holds a target in the pod's namespace any more");
}

#[test]
fn a_namespace_that_comes_later_is_found_then() {
    if !usable("a_namespace_that_comes_later_is_found_then", &[]) {
        return;
    }
    let mut node = Node::new();
    let folder = tempfile::tempdir().expect("a directory");
    let link = folder.path().join("netns");
    let later = NetnsRef::at(link.to_str().expect("UTF-8"));
    let target = node.target(later, addr("10.77.0.2:80"));
    assert_eq!(node.place(&target).expect_err("not there yet"), Why::NetnsUnknown);
    node.sweep.prune(clock::now(), &mut |told| panic!("{told:?}"));
    std::os::unix::fs::symlink(node.pod.path(), &link).expect("symlink");
    let mut placed = Vec::new();
    node.sweep.prune(clock::now(), &mut |told| placed.push(told));
    let [Told::Placed { place: Ok(place), .. }] = &placed[..] else { panic!("{placed:?}") };
    assert_eq!(place.netns_cookie, node.pod.cookie());
}

#[test]
fn an_address_that_goes_voids_and_one_that_comes_back_is_placed_again() {
    if !usable("an_address_that_goes_voids_and_one_that_comes_back_is_placed_again", &[]) {
        return;
    }
    let mut node = Node::new();
    node.pod.add_address("lo", "10.77.0.50/32");
    node.host.ip("route add 10.77.0.50/32 via 10.77.0.2");
    let target = node.leased(node.pod_ref(), addr("10.77.0.50:80"));
    let other = node.leased(node.pod_ref(), addr("10.77.0.2:80"));
    node.expect(&target, Lease::Void, |node| {
        node.pod.ip("address del 10.77.0.50/32 dev lo");
    });
    let last = node.told.pop().expect("told");
    assert_eq!((last.0, last.1.expect_err("gone")), (target.id, Why::NotLocal));
    node.pod.add_address("lo", "10.77.0.50/32");
    node.hear();
    let last = node.told.pop().expect("told");
    assert_eq!((last.0, last.1.is_ok()), (target.id, true));
    node.expect_untouched(&other, &target, Lease::Void, |node| {
        node.pod.ip("address del 10.77.0.50/32 dev lo");
    });

    let own = node.leased(NetnsRef::Own, addr("10.77.0.1:80"));
    node.expect(&own, Lease::Void, |node| {
        node.host.ip(&format!("address del 10.77.0.1/24 dev {}", node.veth.host));
    });
}

#[test]
fn links_that_a_path_rests_on_void_it_whichever_end_goes_down() {
    if !usable("links_that_a_path_rests_on_void_it_whichever_end_goes_down", &[]) {
        return;
    }
    let mut node = Node::new();
    let second = TestNetns::new();
    let second_veth = second.connect(&node.host, "10.78.0.1/24", "10.78.0.2/24");
    let target = node.leased(node.pod_ref(), addr("10.77.0.2:80"));
    let elsewhere = node.leased(NetnsRef::at(second.path()), addr("10.78.0.2:80"));
    let own = node.leased(NetnsRef::Own, addr("127.0.0.1:80"));
    let Veth { host: host_end, pod: pod_end } = node.veth.clone();

    node.expect_untouched(&elsewhere, &target, Lease::Void, |node| {
        node.host.ip(&format!("link set {host_end} down"));
    });
    assert_eq!(Lease::of(&elsewhere), Lease::Whole);
    assert_eq!(Lease::of(&own), Lease::Whole);
    node.host.ip(&format!("link set {host_end} up"));
    node.expect_untouched(&elsewhere, &target, Lease::Void, |node| {
        node.pod.ip(&format!("link set {pod_end} down"));
    });
    node.pod.ip(&format!("link set {pod_end} up"));
    node.pod.ip(&format!("route replace default via 10.77.0.1 dev {pod_end}"));
    node.expect(&target, Lease::Cut, |node| {
        node.pod.ip(&format!("link set {pod_end} mtu 1400"));
    });
    node.expect(&own, Lease::Void, |node| {
        node.host.ip("link set lo down");
    });
    node.expect_untouched(&target, &elsewhere, Lease::Void, |node| {
        node.host.ip(&format!("link del {}", second_veth.host));
    });
}

#[test]
fn an_ipv6_path_is_followed_like_one_of_ipv4() {
    if !usable("an_ipv6_path_is_followed_like_one_of_ipv4", &[]) {
        return;
    }
    let mut node = Node::new();
    let six = TestNetns::new();
    let veth = six.connect(&node.host, "fd00:77::1/64", "fd00:77::2/64");
    let netns = NetnsRef::at(six.path());
    let target = node.leased(netns.clone(), addr("[fd00:77::2]:80"));
    let four = node.leased(node.pod_ref(), addr("10.77.0.2:80"));
    node.expect_untouched(&four, &target, Lease::Cut, |node| {
        node.host.ip("route add blackhole fd00::/16");
    });
    node.expect(&target, Lease::Void, |_| {
        six.ip(&format!("address del fd00:77::2/64 dev {}", veth.pod));
    });
    six.add_address(&veth.pod, "fd00:77::2/64");
    eventually("it is placed again", || {
        node.hear();
        node.told.last().is_some_and(|(id, place)| *id == target.id && place.is_ok())
    });
    node.expect_untouched(&four, &target, Lease::Void, |node| {
        node.host.ip(&format!("link set {} down", veth.host));
    });
}

#[test]
fn behind_a_bridge_the_port_of_the_pod_counts_and_the_others_do_not() {
    if !usable("behind_a_bridge_the_port_of_the_pod_counts_and_the_others_do_not", &[]) {
        return;
    }
    let mut node = Node::new();
    node.host.ip("link add bridge0 type bridge");
    node.host.add_address("bridge0", "10.79.0.1/24");
    node.host.ip("link set bridge0 up");
    let pods = [TestNetns::new(), TestNetns::new()];
    let veths: Vec<_> = pods
        .iter()
        .enumerate()
        .map(|(index, pod)| {
            let first = format!("10.80.{index}.1/24");
            let veth = pod.connect(&node.host, &first, &format!("10.80.{index}.2/24"));
            node.host.ip(&format!("address del {first} dev {}", veth.host));
            node.host.ip(&format!("link set {} master bridge0", veth.host));
            pod.add_address(&veth.pod, &format!("10.79.0.{}/24", index + 2));
            veth
        })
        .collect();
    let [first, second] = [0, 1].map(|index| {
        let netns = NetnsRef::at(pods[index].path());
        node.leased(netns, addr(&format!("10.79.0.{}:80", index + 2)))
    });
    node.expect_untouched(&second, &first, Lease::Void, |node| {
        node.host.ip(&format!("link set {} down", veths[0].host));
    });
    node.host.ip(&format!("link set {} up", veths[0].host));
    // That the bridge gets another hardware address by it is an event of the bridge, and cuts the other.
    node.expect(&first, Lease::Void, |node| {
        node.host.ip(&format!("link set {} nomaster", veths[0].host));
    });
    assert_ne!(Lease::of(&second), Lease::Void);
}

#[test]
fn routes_are_looked_up_again_a_changed_one_voids_and_a_useless_one_cuts() {
    if !usable("routes_are_looked_up_again_a_changed_one_voids_and_a_useless_one_cuts", &[]) {
        return;
    }
    let mut node = Node::new();
    node.host.ip("link add side0 type veth peer name side1");
    node.host.ip("link set side1 up");
    node.host.ip("link set side0 up");
    node.host.wait_up("side0");
    let target = node.leased(node.pod_ref(), addr("10.77.0.2:80"));
    let own = node.leased(NetnsRef::Own, addr("127.0.0.1:80"));
    // Less specific than the one in use: nothing changes for it.
    node.expect_untouched(&own, &target, Lease::Cut, |node| {
        node.host.ip("route add 10.77.0.0/16 dev side0");
    });
    node.expect(&target, Lease::Void, |node| {
        node.host.ip("route add 10.77.0.2/32 dev side0");
    });
    node.expect(&target, Lease::Void, |node| {
        node.host.ip("route del 10.77.0.2/32 dev side0");
    });
    node.expect_untouched(&target, &own, Lease::Cut, |node| {
        node.host.ip("route add 10.99.0.0/16 dev side0");
        node.host.ip("route add local 127.9.0.0/16 dev lo table 200");
        node.host.ip("route add local 127.0.0.0/16 dev lo table 200");
    });
    // The way back.
    node.expect(&target, Lease::Void, |node| {
        node.pod.ip("route add blackhole 10.77.0.1/32");
    });
    node.expect(&target, Lease::Void, |node| {
        node.pod.ip("route del blackhole 10.77.0.1/32");
    });
}

#[test]
fn a_rule_cuts_the_paths_of_its_family_and_voids_those_that_it_changes() {
    if !usable("a_rule_cuts_the_paths_of_its_family_and_voids_those_that_it_changes", &[]) {
        return;
    }
    let mut node = Node::new();
    let target = node.leased(node.pod_ref(), addr("10.77.0.2:80"));
    let v6 = node.leased(NetnsRef::Own, addr("[::1]:80"));
    node.expect_untouched(&v6, &target, Lease::Cut, |node| {
        node.host.ip("rule add from 192.0.2.0/24 lookup 100 priority 100");
    });
    node.expect(&target, Lease::Void, |node| {
        node.host.ip("rule add to 10.77.0.2 blackhole priority 90");
    });
    node.expect(&target, Lease::Void, |node| {
        node.host.ip("rule del to 10.77.0.2 blackhole priority 90");
    });
    node.expect(&v6, Lease::Cut, |node| {
        node.host.ip("-6 rule add from 2001:db8::/32 lookup 100 priority 100");
    });
}

#[test]
fn a_new_nftables_generation_cuts_the_paths_through_its_namespace() {
    let test = "a_new_nftables_generation_cuts_the_paths_through_its_namespace";
    if !usable(test, &["iptables-nft"]) {
        return;
    }
    let mut node = Node::new();
    let second = TestNetns::new();
    second.connect(&node.host, "10.78.0.1/24", "10.78.0.2/24");
    let rule = ["-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--dport", "80", "-j", "REDIRECT", "--to-ports", "81"];
    if let Err(error) = TestNetns::new().try_command("iptables-nft", &rule, "") {
        return skip(test, &format!("{error}; the kernel needs nf_tables and its nat"));
    }
    let target = node.leased(node.pod_ref(), addr("10.77.0.2:80"));
    let elsewhere = node.leased(NetnsRef::at(second.path()), addr("10.78.0.2:80"));
    node.expect_untouched(&elsewhere, &target, Lease::Cut, |node| {
        node.pod.command("iptables-nft", &rule);
    });
    node.expect(&elsewhere, Lease::Cut, |node| {
        node.host.command("iptables-nft", &rule);
    });
    // Already cut: a change a second does not make it shorter.
    let until = elsewhere.lease_until();
    let heard = node.stats.path_events.load(Relaxed);
    node.host.command("iptables-nft", &rule);
    eventually("it is heard of", || {
        node.hear();
        node.stats.path_events.load(Relaxed) > heard
    });
    assert_eq!(elsewhere.lease_until(), until);
}

#[test]
fn a_stray_reset_is_a_drop_of_the_listener_alone_and_a_lost_request_one_of_its_namespace_too() {
    if !usable("a_stray_reset_is_a_drop_of_the_listener_alone_and_a_lost_request_one_of_its_namespace_too", &[]) {
        return;
    }
    let mut node = Node::new();
    let (pod, host, at) = (node.pod.cookie(), node.host.cookie(), "10.77.0.2:1001");
    let target = node.target(node.pod_ref(), addr(at));
    node.place(&target).expect("the sweep holds the namespace");
    let _listeners = node.pod.run(|| (listen(at, 1, |_| Ok(())), listen("10.77.0.2:1002", 1, |_| Ok(()))));
    let known = |before, after| ListenDrops { before, after };
    let (_, none) = (node.dump(pod), node.dump(host));
    assert_eq!((node.dump(pod).1, none.1), (known(Some(0), Some(0)), known(None, Some(0))));

    let to: SocketAddrV4 = at.parse().expect("an address");
    for _ in 0..3 {
        node.host.run(|| stray::reset(to)).expect("CAP_NET_RAW");
    }
    eventually("the listener drops them", || {
        let (listed, listen_drops) = node.dump(pod);
        assert_eq!(listen_drops, known(Some(0), Some(0)));
        listed[&1001].drops == 3
    });

    let _clients: Vec<_> = node.host.run(|| {
        let client = |_| {
            let client = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).expect("socket");
            let _in_progress = client.connect(&addr(at).into());
            client
        };
        (0..4).map(client).collect()
    });
    eventually("a request is lost", || {
        let (listed, listen_drops) = node.dump(pod);
        let is_lost = listen_drops.after > Some(0);
        assert!(!is_lost || (listed[&1001].drops > 3 && listed[&1002].drops == 0), "{listed:?}");
        is_lost
    });
    assert_eq!(node.dump(host).1, known(Some(0), Some(0)), "the host lost none");
}

#[test]
fn lost_announcements_count_as_a_change_of_everything_there() {
    if !usable("lost_announcements_count_as_a_change_of_everything_there", &[]) {
        return;
    }
    let mut node = Node::new();
    let target = node.leased(node.pod_ref(), addr("10.77.0.2:80"));
    let own = node.leased(NetnsRef::Own, addr("127.0.0.1:80"));
    node.expect_untouched(&own, &target, Lease::Void, |node| {
        // More announcements than the socket's queue holds, of a link that no path rests on.
        let toggle = "link set lo mtu 60000\nlink set lo mtu 65536\n";
        node.pod.try_command("ip", &["-batch", "-"], &toggle.repeat(4_000)).expect("the changes are made");
    });
    assert!(node.stats.path_losses.load(Relaxed) > 0, "{:?}", node.stats);
}

#[test]
fn a_link_event_over_ten_thousand_targets_takes_milliseconds() {
    if !usable("a_link_event_over_ten_thousand_targets_takes_milliseconds", &[]) {
        return;
    }
    let mut node = Node::new();
    let pods: Vec<_> = (0..20).map(|_| TestNetns::new()).collect();
    let mut targets = Vec::new();
    let mut first_veth = None;
    for (index, pod) in pods.iter().enumerate() {
        let veth = pod.connect(&node.host, &format!("10.90.{index}.1/24"), &format!("10.90.{index}.2/24"));
        first_veth.get_or_insert(veth);
        let netns = NetnsRef::at(pod.path());
        for port in 1..=500 {
            targets.push(node.leased(netns.clone(), SocketAddr::new(ip(&format!("10.90.{index}.2")), port)));
        }
    }
    node.hear();
    for target in &targets {
        node.lease(target);
    }
    node.host.ip(&format!("link set {} down", first_veth.expect("there are pods").host));
    let before = clock::now();
    eventually("the leases behind it are void", || {
        node.hear();
        targets[..500].iter().all(|target| Lease::of(target) == Lease::Void)
    });
    println!("10,000 targets, a link down: heard and 500 leases void after {:?}", clock::now() - before);
    let others: Vec<_> =
        targets[500..].iter().map(|target| Lease::of(target)).filter(|lease| *lease != Lease::Whole).collect();
    assert_eq!(others, [], "{:?}", node.stats);
}

#[test]
fn a_dump_of_some_ports_lists_all_their_listeners_and_no_others() {
    if !usable("a_dump_of_some_ports_lists_all_their_listeners_and_no_others", &[]) {
        return;
    }
    let mut node = Node::new();
    let at = ["127.0.0.1:4001", "127.0.0.2:4001", "[::1]:4001", "127.0.0.1:4002", "127.0.0.1:4003", "[::1]:4004"];
    let listeners = node.pod.run(|| at.map(|addr| TcpListener::bind(addr).expect("bind")));
    let target = node.target(node.pod_ref(), addr("10.77.0.2:80"));
    node.place(&target).expect("it is placed");
    for (ports, expected) in
        [(Some(&[4001][..]), &at[..3]), (Some(&[4003, 4004]), &at[4..]), (Some(&[4005]), &[]), (None, &at)]
    {
        let (mut listed, mut is_complete) = (Vec::new(), false);
        let question = Question::Dump { netns_cookie: node.pod.cookie(), ports: ports.map(Box::from) };
        node.sweep.ask(question, clock::now(), &mut |told| match told {
            Told::Part { listeners, .. } => listed.extend(listeners),
            Told::Dumped { complete, .. } => is_complete = complete,
            other => panic!("{other:?}"),
        });
        let mut listed: Vec<_> = listed.iter().map(|diag| SocketAddr::new(diag.addr, diag.port)).collect();
        listed.sort_unstable();
        let mut expected: Vec<SocketAddr> = expected.iter().map(|at| addr(at)).collect();
        expected.sort_unstable();
        assert_eq!((listed, is_complete), (expected, true), "{ports:?}");
    }
    drop(listeners);
}

#[test]
fn the_thread_answers_in_order_and_ends_with_its_handle() {
    if !usable("the_thread_answers_in_order_and_ends_with_its_handle", &[]) {
        return;
    }
    let mut node = Node::new();
    let listeners: Vec<_> =
        node.pod.run(|| (0..1_500).map(|_| TcpListener::bind("127.0.0.1:0").expect("bind")).collect());
    let target = node.target(node.pod_ref(), addr("10.77.0.2:80"));
    let watch = Waker::new().expect("eventfd");
    let stats = Arc::new(EbpfStats::default());
    let handle = node.host.run(|| spawn(&PassiveSettings::default(), 1, stats, watch)).expect("a thread");
    assert_eq!(handle.own_cookie(), node.host.cookie());
    handle.ask(Question::Place(Arc::clone(&target))).expect("room");
    handle.ask(Question::Dump { netns_cookie: node.pod.cookie(), ports: None }).expect("room");
    handle.ask(Question::Dump { netns_cookie: 0, ports: None }).expect("room");
    let mut told = Vec::new();
    eventually("it answers", || {
        told.extend(handle.told());
        matches!(told.last(), Some(Told::Dumped { netns_cookie: 0, .. }))
    });
    let [Told::Placed { place: Ok(_), .. }, Told::Part { .. }, Told::Part { .. }, done, unknown] = &told[..] else {
        panic!("{told:?}");
    };
    assert!(matches!(done, Told::Dumped { complete: true, sk_lookup: false, .. }), "{done:?}");
    assert!(matches!(unknown, Told::Dumped { complete: false, .. }), "{unknown:?}");
    let dumped: usize =
        told.iter().map(|told| if let Told::Part { listeners, .. } = told { listeners.len() } else { 0 }).sum();
    assert_eq!(dumped, listeners.len());

    let place =
        told.iter().find_map(|told| if let Told::Placed { place, .. } = told { place.clone().ok() } else { None });
    target.join(&Arc::new(Group::new(place.expect("placed"))), Why::First);
    node.lease(&target);
    node.pod.ip(&format!("address del 10.77.0.2/24 dev {}", node.veth.pod));
    eventually("it hears by itself", || Lease::of(&target) == Lease::Void);
    // More questions than answers fit, and nobody who takes them.
    for _ in 0..2 * limits::SWEEP_ANSWERS_LEN_MAX {
        handle.ask(Question::Dump { netns_cookie: node.pod.cookie(), ports: None }).expect("room");
    }
    drop(handle);
}
