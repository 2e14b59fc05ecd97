//! What a passive answer can be wrong for, and for how long: each line of KERNEL.md's list on the real kernel. And what gives no
//! passive answers at all.
#![cfg(feature = "engine")]

use std::fs;
use std::io;
use std::net::{Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use nix::libc;
use probe_engine::ebpf::{Answer, PassiveSettings, Why};
use probe_engine::shard::ring::Ring;
use probe_tests::netns::TestNetns;
use probe_tests::passive::listener::{Form, Listener, connects};
use probe_tests::passive::pod::Times;
use probe_tests::passive::rig::Rig;
use probe_tests::passive::socket::set_option;
use probe_tests::passive::{bpf, feed, oracle, stray};
use probe_tests::skip::skip;
use socket2::SockFilter;

const TIMES: Times = Times { period_seconds: 2, timeout_seconds: 1 };
const HOST: &str = "10.91.1.1";
const TARGET: &str = "10.91.1.2:8000";
/// `passive_max_age` of these tests.
const MAX_AGE: Duration = Duration::from_secs(10);
/// A lease ends within it; then comes the next due time, and the deadline with its second look.
const NOTICED_MAX: Duration = Duration::from_millis(10_000 + 2_000 + 1_110);
/// A larger conntrack table is not filled: at some 20,000 connections a second it would take more than half a minute.
const CONNTRACK_FILLED_MAX: usize = 600_000;
/// How long a connect is waited for that nobody answers.
const PATIENCE: Duration = Duration::from_millis(300);

struct Scene {
    host: Arc<TestNetns>,
    pod: TestNetns,
    /// The pod's end of the link.
    link: String,
    listener: Listener,
}

impl Scene {
    fn new(test: &str, programs: &[&str]) -> Option<Self> {
        if !feed::usable(test, programs) {
            return None;
        }
        let (host, pod) = (Arc::new(TestNetns::new()), TestNetns::new());
        let veth = pod.connect(&host, &format!("{HOST}/24"), "10.91.1.2/24");
        let listener = Listener::open(&pod, Form::tcp(target())).expect("listen");
        Some(Self { host, pod, link: veth.pod, listener })
    }

    fn rig(&self) -> Rig<Ring> {
        let settings =
            PassiveSettings { passive_max_age: MAX_AGE, passive_audit_per_second: 0, ..PassiveSettings::default() };
        let mut rig = Rig::new(settings, TIMES, 7, |waker| Ring::new(waker).expect("io_uring")).expect("loads");
        rig.add(target(), Some(self.pod.path().into()));
        rig
    }
}

fn target() -> SocketAddr {
    TARGET.parse().expect("an address")
}

/// `break_it` makes connects fail in a way that the kernel does not announce; what it returns is kept while it is to last.
/// Passive answers may be wrong from then on, for no longer than `passive_max_age`. An error is why it cannot be shown here.
fn ends_within_max_age<T>(test: &str, programs: &[&str], break_it: impl FnOnce(&Scene) -> Result<T, String> + Send) {
    let Some(mut scene) = Scene::new(test, programs) else { return };
    let host = Arc::clone(&scene.host);
    host.run(|| {
        let mut rig = scene.rig();
        rig.lease_all(|| scene.listener.drain());
        rig.take(0);
        let kept = match break_it(&scene) {
            Ok(kept) => kept,
            Err(reason) => return skip(test, &reason),
        };
        let answer = connects(&scene.host, target(), PATIENCE);
        assert_ne!(answer, oracle::Answer::Connected, "a connect fails now");
        let start = rig.now();
        let mut wrong = 0;
        let noticed = loop {
            rig.period(|| scene.listener.drain());
            let counts = rig.take(0);
            if counts.failures > 0 {
                break rig.now() - start;
            }
            wrong += counts.passive;
            assert!(rig.now() - start <= NOTICED_MAX + Duration::from_secs(4), "not noticed in time");
        };
        println!("{test}: a connect is {answer:?}; {wrong} passive answers were wrong, noticed after {noticed:?}");
        // The period's end, by which the failure was seen, is up to one second after it.
        assert!(noticed <= NOTICED_MAX + Duration::from_secs(1), "{noticed:?}");
        // No lease as long as it lasts.
        for _ in 0..3 {
            rig.period(|| scene.listener.drain());
            assert_eq!(rig.take(0).passive, 0, "no passive answer after a failure");
        }
        drop(kept);
    });
}

fn said(error: io::Error) -> String {
    error.to_string()
}

#[test]
fn a_rule_of_iptables_legacy_is_noticed_within_passive_max_age() {
    let test = "a_rule_of_iptables_legacy_is_noticed_within_passive_max_age";
    ends_within_max_age(test, &["iptables-legacy"], |scene| {
        let rule = "-w -A INPUT -p tcp --dport 8000 -j DROP";
        scene.pod.try_command("iptables-legacy", &rule.split_whitespace().collect::<Vec<_>>(), "")
    });
}

#[test]
fn a_listener_bound_to_another_device_is_noticed_within_passive_max_age() {
    let test = "a_listener_bound_to_another_device_is_noticed_within_passive_max_age";
    ends_within_max_age(test, &[], |scene| scene.listener.socket.bind_device(Some(b"lo")).map_err(said));
}

#[test]
fn a_socket_filter_that_drops_all_is_noticed_within_passive_max_age() {
    let test = "a_socket_filter_that_drops_all_is_noticed_within_passive_max_age";
    // BPF_RET | BPF_K: 0 bytes of every packet.
    ends_within_max_age(test, &[], |scene| {
        scene.listener.socket.attach_filter(&[SockFilter::new(0x06, 0, 0, 0)]).map_err(said)
    });
}

#[test]
fn a_key_of_tcp_md5_is_noticed_within_passive_max_age() {
    let test = "a_key_of_tcp_md5_is_noticed_within_passive_max_age";
    ends_within_max_age(test, &[], |scene| {
        // struct tcp_md5sig: an address of 128 bytes, flags, prefix, the key's length and device, and the key.
        let mut key = [0_u8; 128 + 8 + 80];
        key[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        key[4..8].copy_from_slice(&HOST.parse::<std::net::Ipv4Addr>().expect("an address").octets());
        key[130..132].copy_from_slice(&3_u16.to_ne_bytes());
        key[136..139].copy_from_slice(b"key");
        set_option(&scene.listener.socket, libc::IPPROTO_TCP, libc::TCP_MD5SIG, &key).map_err(said)
    });
}

#[test]
fn a_wrong_neighbour_entry_is_noticed_within_passive_max_age() {
    let test = "a_wrong_neighbour_entry_is_noticed_within_passive_max_age";
    ends_within_max_age(test, &["ip"], |scene| {
        // Its answers go to nobody.
        let entry = format!("neigh replace {HOST} lladdr 02:00:00:00:00:99 nud permanent dev {}", scene.link);
        scene.pod.ip(&entry);
        Ok(())
    });
}

#[test]
fn a_higher_ip_minttl_is_noticed_within_passive_max_age() {
    let test = "a_higher_ip_minttl_is_noticed_within_passive_max_age";
    ends_within_max_age(test, &[], |scene| {
        let minttl = 255_i32.to_ne_bytes();
        set_option(&scene.listener.socket, libc::IPPROTO_IP, libc::IP_MINTTL, &minttl).map_err(said)
    });
}

#[test]
fn a_tc_program_that_drops_is_noticed_within_passive_max_age() {
    let test = "a_tc_program_that_drops_is_noticed_within_passive_max_age";
    ends_within_max_age(test, &[], |scene| {
        let index = scene.pod.ifindex(&scene.link);
        scene.pod.run(|| bpf::attach(bpf::TCX_DROP, index)).map_err(|e| format!("TCX (Linux 6.6): {e}"))
    });
}

#[test]
fn an_xdp_program_that_drops_is_noticed_within_passive_max_age() {
    let test = "an_xdp_program_that_drops_is_noticed_within_passive_max_age";
    ends_within_max_age(test, &[], |scene| {
        let index = scene.pod.ifindex(&scene.link);
        scene.pod.run(|| bpf::attach(bpf::XDP_DROP, index)).map_err(|e| format!("XDP on a veth: {e}"))
    });
}

/// A cgroup that this process is in while it lives.
struct OwnCgroup {
    folder: std::path::PathBuf,
    before: std::path::PathBuf,
}

impl OwnCgroup {
    fn enter() -> Result<Self, String> {
        let root = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(std::path::PathBuf::from);
        let root = root.into_iter().find(|root| root.join("cgroup.procs").exists());
        let root = root.ok_or("no cgroup v2 hierarchy is mounted")?;
        let own = fs::read_to_string("/proc/self/cgroup").map_err(said)?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
        let before = root.join(own.trim_start_matches('/'));
        let folder = root.join(format!("probe-engine-test-{}", std::process::id()));
        fs::create_dir(&folder).map_err(said)?;
        let cgroup = Self { folder, before };
        cgroup.move_to(&cgroup.folder).map_err(said)?;
        Ok(cgroup)
    }

    fn move_to(&self, folder: &std::path::Path) -> io::Result<()> {
        fs::write(folder.join("cgroup.procs"), std::process::id().to_string())
    }
}

impl Drop for OwnCgroup {
    fn drop(&mut self) {
        let _ = self.move_to(&self.before);
        let _ = fs::remove_dir(&self.folder);
    }
}

#[test]
fn a_cgroup_program_that_drops_is_noticed_within_passive_max_age() {
    let test = "a_cgroup_program_that_drops_is_noticed_within_passive_max_age";
    // Sockets belong to the cgroup that their process was in when they were made: before the listener is.
    let cgroup = match OwnCgroup::enter() {
        Ok(cgroup) => cgroup,
        Err(reason) => return skip(test, &reason),
    };
    let folder = cgroup.folder.clone();
    ends_within_max_age(test, &[], move |_| {
        let folder = fs::File::open(folder).map_err(said)?;
        bpf::attach(bpf::CGROUP_DROP, bpf::target_of(&folder)).map_err(|e| format!("a cgroup program: {e}"))
    });
    drop(cgroup);
}

#[test]
fn a_full_conntrack_table_is_noticed_within_passive_max_age() {
    let test = "a_full_conntrack_table_is_noticed_within_passive_max_age";
    ends_within_max_age(test, &["iptables-nft"], |scene| {
        // A rule that needs conntrack, so that it is there; announced, but not long before what is shown.
        let rule = "-w -A INPUT -m conntrack --ctstate INVALID -j ACCEPT";
        scene.pod.try_command("iptables-nft", &rule.split_whitespace().collect::<Vec<_>>(), "")?;
        scene.pod.run(fill_conntrack)
    });
}

/// Connections of this namespace with itself until its table takes no more. The bound is one number for all namespaces,
/// which a test leaves alone; what it bounds is counted for each.
fn fill_conntrack() -> Result<(), String> {
    let folder = "/proc/sys/net/netfilter";
    // Beyond tcp_max_tw_buckets an end is gone at once, and what is left of its connection is reset.
    for state in ["close", "last_ack", "time_wait"] {
        let path = format!("{folder}/nf_conntrack_tcp_timeout_{state}");
        fs::write(&path, "3600").map_err(|error| format!("{path}: {error}"))?;
    }
    let read = |name: &str| -> Result<usize, String> {
        let path = format!("{folder}/{name}");
        let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        text.trim().parse().map_err(|error| format!("{path}: {error}"))
    };
    let max = read("nf_conntrack_max")?;
    if max > CONNTRACK_FILLED_MAX {
        return Err(format!("nf_conntrack_max is {max}: filling it would take too long"));
    }
    let server = TcpListener::bind("0.0.0.0:0").expect("a listener");
    let port = server.local_addr().expect("its address").port();
    // Both ends close at once: connection and entry stay in TIME_WAIT, and an entry that saw both sides is not dropped early
    // for a newer one.
    let listening = server.try_clone().expect("the listener twice");
    let accepting = thread::spawn(move || listening.incoming().map_while(Result::ok).for_each(drop));
    let connect = move |made: usize| {
        let address = SocketAddr::from(([127, 1, (made / 20_000 % 250) as u8, 1], port));
        TcpStream::connect_timeout(&address, PATIENCE)
    };
    // One that fails may have met a full accept queue.
    let is_full = || read("nf_conntrack_count").is_ok_and(|count| count >= max);
    let filled = (0..2 * max).any(|made| connect(made).is_err() && is_full());
    let count = read("nf_conntrack_count")?;
    socket2::SockRef::from(&server).shutdown(Shutdown::Both).expect("it listens");
    accepting.join().expect("it accepts until then");
    if filled { Ok(()) } else { Err(format!("{count} entries of {max}, and connections go on")) }
}

#[test]
fn stray_segments_leave_passive_answers_alone_and_a_lost_request_ends_them() {
    let test = "stray_segments_leave_passive_answers_alone_and_a_lost_request_ends_them";
    let Some(mut scene) = Scene::new(test, &[]) else { return };
    let host = Arc::clone(&scene.host);
    let to: SocketAddrV4 = TARGET.parse().expect("an address");
    host.run(|| {
        let mut rig = scene.rig();
        rig.lease_all(|| scene.listener.drain());
        rig.take(0);
        let mut periods = 0;
        // The listener had other drops at each of several looks, after which an attempt was due.
        while rig.feed.stats.stray_drops.load(Relaxed) < 4 {
            stray::reset(to).expect("CAP_NET_RAW");
            rig.tend(true);
            rig.period(|| scene.listener.drain());
            assert!(matches!(rig.answer(0), Answer::Passive | Answer::Real(Why::Renewed)), "{}", rig.answer(0));
            periods += 1;
            assert!(periods < 20, "{:?}", rig.feed.stats);
        }
        let counts = rig.take(0);
        assert!(counts.passive >= counts.real && counts.failures == 0, "{counts:?}");

        scene.listener.fill(&scene.host, target(), 1).expect("it is filled");
        assert_eq!(connects(&scene.host, target(), PATIENCE), oracle::Answer::Silent);
        // It accepts again before anybody looks: only the count of lost requests tells.
        scene.listener.resume().expect("it goes on");
        stray::reset(to).expect("CAP_NET_RAW");
        rig.tend(true);
        rig.attempt_due();
        assert_eq!(rig.answer(0), Answer::Real(Why::ListenerDrops));
        assert_eq!(rig.take(0).failures, 0);
        rig.lease_all(|| scene.listener.drain());
    });
}

#[test]
fn a_namespace_with_a_transparent_listener_gives_no_passive_answers() {
    let test = "a_namespace_with_a_transparent_listener_gives_no_passive_answers";
    gives_none(test, Why::Transparent, |scene| {
        let elsewhere = SocketAddr::new(target().ip(), 9_000);
        let socket = scene.pod.run(|| {
            let socket = Form::tcp(elsewhere).bound(true)?;
            socket.set_ip_transparent_v4(true)?;
            socket.listen(1)?;
            io::Result::Ok(socket)
        });
        socket.map_err(said)
    });
}

#[test]
fn a_namespace_with_an_sk_lookup_program_gives_no_passive_answers() {
    let test = "a_namespace_with_an_sk_lookup_program_gives_no_passive_answers";
    gives_none(test, Why::SkLookup, |scene| {
        let netns = fs::File::open(scene.pod.path()).map_err(said)?;
        bpf::attach(bpf::SK_LOOKUP_PASS, bpf::target_of(&netns)).map_err(said)
    });
}

/// With it there are no passive answers, from the next look on, and without it there are again.
fn gives_none<T>(test: &str, why: Why, put: impl FnOnce(&Scene) -> Result<T, String> + Send) {
    let Some(mut scene) = Scene::new(test, &[]) else { return };
    let host = Arc::clone(&scene.host);
    host.run(|| {
        let mut rig = scene.rig();
        rig.lease_all(|| scene.listener.drain());
        let kept = match put(&scene) {
            Ok(kept) => kept,
            Err(reason) => return skip(test, &reason),
        };
        // The sweep that sees it.
        rig.period(|| scene.listener.drain());
        rig.take(0);
        for _ in 0..3 {
            rig.period(|| scene.listener.drain());
            let counts = rig.take(0);
            assert_eq!((counts.passive, counts.successes), (0, 1));
            assert_eq!(rig.answer(0), Answer::Real(why));
        }
        drop(kept);
        rig.lease_all(|| scene.listener.drain());
    });
}
