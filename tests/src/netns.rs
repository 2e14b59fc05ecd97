//! Network namespaces that a test makes: nothing here changes the one the test was started in. What plays the host is one
//! of them too: the engine under test runs on threads inside it ([`TestNetns::run`], [`TestNetns::spawn`]).
//!
//! **Invariant:** a namespace made here ends with its [`TestNetns`], the threads, sockets and processes in it.

use std::fs::{self, File};
use std::io::Write;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use probe_engine::clock;

use crate::skip::skip;

/// The calling thread's network namespace.
const THREAD_NETNS: &str = "/proc/thread-self/ns/net";

/// Longer than a link takes to come up on a slow machine.
const LINK_UP_MAX: Duration = Duration::from_secs(20);

/// Of the next link; unique in this process, so that no two links of a test are taken for each other.
static NEXT_LINK: AtomicU32 = AtomicU32::new(0);

/// A network namespace of the test's own, with its loopback up.
#[derive(Debug)]
pub struct TestNetns {
    file: File,
    cookie: u64,
}

/// A veth pair between two namespaces; it goes with either of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Veth {
    /// Name of the end in the namespace that plays the host: `veth<N>`.
    pub host: String,
    /// Name of the end in the pod's: `eth<N>`.
    pub pod: String,
}

/// Whether namespaces can be made here, and these programs be run in them; else `test` is skipped, loudly.
#[must_use]
pub fn usable(test: &str, programs: &[&str]) -> bool {
    let made = thread::scope(|scope| scope.spawn(|| unshare(CloneFlags::CLONE_NEWNET)).join().expect("no panic"));
    if let Err(error) = made {
        skip(test, &format!("unshare(CLONE_NEWNET): {error}; run it as root"));
        return false;
    }
    for program in ["ip"].iter().chain(programs) {
        let found = Command::new(program).arg("-V").stdin(Stdio::null()).output();
        if let Err(error) = found {
            skip(test, &format!("{program}: {error}; install it (iproute2, iptables)"));
            return false;
        }
    }
    true
}

impl TestNetns {
    /// A fresh one; loopback is up, there is no other link.
    ///
    /// # Panics
    /// Where it cannot be made: ask [`usable`] first.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it makes a kernel object")]
    pub fn new() -> Self {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("unshare(CLONE_NEWNET)");
            let file = File::open(THREAD_NETNS).expect("the new namespace");
            let cookie = probe_engine::ebpf::netns::own_cookie().expect("SO_NETNS_COOKIE");
            Self { file, cookie }
        });
        let netns = made.join().expect("the thread that made it");
        netns.command("ip", &["link", "set", "lo", "up"]);
        netns
    }

    /// Opens it, also from other processes, while this value lives: `/proc/<pid>/fd/<number>`.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// `SO_NETNS_COOKIE`
    #[must_use]
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    /// As in `net.ns.inum`. Another namespace may get it when this one has ended.
    #[must_use]
    pub fn inode(&self) -> u64 {
        self.file.metadata().expect("fstat").ino()
    }

    /// Runs it on a thread inside and waits. Sockets it opens, threads and processes it starts belong to this namespace for
    /// good.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET).expect("setns");
                work()
            });
            match inside.join() {
                Ok(done) => done,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// The same without waiting.
    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
        let file = self.file.try_clone().expect("dup");
        thread::spawn(move || {
            setns(&file, CloneFlags::CLONE_NEWNET).expect("setns");
            drop(file);
            work()
        })
    }

    /// Runs a program inside, to its end; what it printed.
    ///
    /// # Panics
    /// Where it fails; see [`TestNetns::try_command`].
    pub fn command(&self, program: &str, arguments: &[&str]) -> String {
        match self.try_command(program, arguments, "") {
            Ok(output) => output,
            Err(error) => panic!("{error}"),
        }
    }

    /// The same with this on its standard input (`ip -batch -`, `iptables-restore`).
    ///
    /// # Errors
    /// What it printed to its standard error.
    pub fn try_command(&self, program: &str, arguments: &[&str], input: &str) -> Result<String, String> {
        let fail = |error: &dyn std::fmt::Display| format!("{program} {}: {error}", arguments.join(" "));
        let output = self.run(|| {
            let mut child = Command::new(program)
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?;
            let mut stdin = child.stdin.take().expect("piped");
            thread::scope(|scope| {
                scope.spawn(move || {
                    // A program that does not read it says why in its exit status.
                    let _ = stdin.write_all(input.as_bytes());
                });
                child.wait_with_output()
            })
        });
        let output = output.map_err(|error| fail(&error))?;
        if !output.status.success() {
            return Err(fail(&String::from_utf8_lossy(&output.stderr).trim()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// `ip`, with these words.
    pub fn ip(&self, words: &str) -> String {
        self.command("ip", &words.split_whitespace().collect::<Vec<_>>())
    }

    /// Adds `address/bits` to a link; usable at once (no duplicate address detection).
    pub fn add_address(&self, link: &str, cidr: &str) {
        let nodad = if cidr.contains(':') { " nodad" } else { "" };
        self.ip(&format!("address add {cidr} dev {link}{nodad}"));
    }

    /// Adds addresses `first`, `first` + 1 .. to a link with one call of `ip`.
    pub fn add_addresses(&self, link: &str, first: IpAddr, len: u32) {
        let lines: String = (0..len)
            .map(|index| match first {
                IpAddr::V4(first) => {
                    let address = std::net::Ipv4Addr::from_bits(first.to_bits() + index);
                    format!("address add {address}/32 dev {link}\n")
                }
                IpAddr::V6(first) => {
                    let address = std::net::Ipv6Addr::from_bits(first.to_bits() + u128::from(index));
                    format!("address add {address}/128 dev {link} nodad\n")
                }
            })
            .collect();
        self.try_command("ip", &["-batch", "-"], &lines).expect("the addresses are added");
    }

    /// A veth pair between this namespace (the pod's) and `host`, both ends up, each with its `address/bits`: in one subnet,
    /// so that each end has a route to the other. The pod's default route leads to the host.
    pub fn connect(&self, host: &TestNetns, host_cidr: &str, pod_cidr: &str) -> Veth {
        let number = NEXT_LINK.fetch_add(1, Ordering::Relaxed);
        let veth = Veth { host: format!("veth{number}"), pod: format!("eth{number}") };
        host.ip(&format!("link add {} type veth peer name {} netns {}", veth.host, veth.pod, self.path()));
        host.add_address(&veth.host, host_cidr);
        self.add_address(&veth.pod, pod_cidr);
        host.ip(&format!("link set {} up", veth.host));
        self.ip(&format!("link set {} up", veth.pod));
        let gateway = host_cidr.split('/').next().unwrap_or(host_cidr);
        self.ip(&format!("route replace default via {gateway} dev {}", veth.pod));
        // The kernel announces the carrier a little later; with that a test's own changes would not be the only ones.
        host.wait_up(&veth.host);
        self.wait_up(&veth.pod);
        // An IPv6 address is usable a moment after that.
        host.wait_local(host_cidr);
        self.wait_local(pod_cidr);
        veth
    }

    /// Waits until a link has its carrier, and the kernel has said so.
    pub fn wait_up(&self, link: &str) {
        let deadline = clock::now() + LINK_UP_MAX;
        while !self.ip(&format!("-o link show dev {link}")).contains("state UP") {
            assert!(clock::now() < deadline, "{link} is not up within {LINK_UP_MAX:?}");
        }
    }

    fn wait_local(&self, cidr: &str) {
        let address = cidr.split('/').next().unwrap_or(cidr);
        let deadline = clock::now() + LINK_UP_MAX;
        while !self.ip(&format!("route get {address}")).contains("local") {
            assert!(clock::now() < deadline, "{cidr} is not usable within {LINK_UP_MAX:?}");
        }
    }

    /// `ifindex` of a link.
    #[must_use]
    pub fn ifindex(&self, link: &str) -> u32 {
        self.run(|| nix::net::if_::if_nametoindex(link)).expect("the link is there")
    }

    /// A number of `/proc/net/snmp`: `("Tcp", "PassiveOpens")`.
    #[must_use]
    pub fn snmp(&self, protocol: &str, field: &str) -> u64 {
        let text = self.run(|| fs::read_to_string("/proc/thread-self/net/snmp")).expect("snmp");
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(protocol)?.strip_prefix(": "));
        let names = lines.next().expect("the protocol's names").split_whitespace();
        let values = lines.next().expect("the protocol's values").split_whitespace();
        let value = names.zip(values).find(|(name, _)| *name == field).expect("the field").1;
        value.parse().expect("a number")
    }

    /// Connections that listeners of this namespace have taken: `PassiveOpens`.
    #[must_use]
    pub fn passive_opens(&self) -> u64 {
        self.snmp("Tcp", "PassiveOpens")
    }

    /// TCP sockets of this namespace in TIME_WAIT (`tw` of `/proc/net/sockstat`), both families.
    #[must_use]
    pub fn time_waits(&self) -> u64 {
        let text = self.run(|| fs::read_to_string("/proc/thread-self/net/sockstat")).expect("sockstat");
        let tcp = text.lines().find_map(|line| line.strip_prefix("TCP:")).expect("a line of TCP");
        let mut words = tcp.split_whitespace().skip_while(|word| *word != "tw");
        words.nth(1).and_then(|value| value.parse().ok()).expect("tw")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_namespace_connected_to_another_is_reached_through_its_veth_alone() {
        if !usable("a_namespace_connected_to_another_is_reached_through_its_veth_alone", &[]) {
            return;
        }
        let (host, pod) = (TestNetns::new(), TestNetns::new());
        assert_ne!(host.cookie(), pod.cookie());
        let veth = pod.connect(&host, "10.77.1.1/30", "10.77.1.2/30");
        let listener = pod.run(|| TcpListener::bind("10.77.1.2:8080")).expect("bind");
        let stream = host.run(|| TcpStream::connect("10.77.1.2:8080")).expect("connect");
        let (accepted, from) = listener.accept().expect("accept");
        assert_eq!(from.ip().to_string(), "10.77.1.1");
        assert_eq!((pod.passive_opens(), host.passive_opens()), (1, 0));
        drop((stream, accepted));
        assert!(pod.ifindex(&veth.pod) > 0 && host.ifindex(&veth.host) > 0);
        let reopened = File::open(pod.path()).expect("its path");
        assert_eq!(reopened.metadata().expect("fstat").ino(), pod.inode());
        assert!(pod.try_command("ip", &["link", "set", "nowhere", "up"], "").is_err());
        pod.add_addresses("lo", "127.1.0.1".parse().expect("an address"), 3);
        assert!(pod.ip("address show dev lo").contains("127.1.0.3/32"));
    }
}
