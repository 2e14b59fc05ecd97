//! What the probes are aimed at: listeners at ports of namespaces of the test's own, and the ways in which they change.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use probe_core::time::Instant;

use super::listener::{BACKLOG, Form, Listener};
use super::oracle::{Answer, Call};
use crate::netns::{TestNetns, Veth};

/// Lines of the log that are kept.
const LINES_MAX: usize = 80;

/// A namespace of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Where the engine is.
    Host,
    /// A pod with two IPv4 addresses and one of IPv6.
    A,
    /// A pod with one of each.
    B,
    /// One whose link, with its address, moves to `D` and back.
    C,
    /// Where it moves to.
    D,
}

/// Namespaces, and the links between them.
pub struct Net {
    netns: [Arc<TestNetns>; 5],
    moving: Veth,
    /// Where the moving link is.
    pub moved_to: Place,
}

/// The engine's address, as listeners at it have it.
pub const HOST_4: &str = "127.0.0.1";
/// Another of the host's.
pub const HOST_4B: &str = "127.0.0.2";
/// Of [`Place::A`].
pub const A_4: &str = "10.88.1.2";
/// Of [`Place::A`]; taken away and added again.
pub const A_4B: &str = "10.88.1.3";
/// Of [`Place::A`].
pub const A_6: &str = "fd00:88:1::2";
/// Of [`Place::B`].
pub const B_4: &str = "10.88.2.2";
/// Of [`Place::B`].
pub const B_6: &str = "fd00:88:2::2";
/// Of [`Place::C`], and of [`Place::D`] while the link is there.
pub const C_4: &str = "10.88.3.2";

impl Net {
    /// Makes them.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it makes kernel objects")]
    pub fn new() -> Self {
        let netns: [Arc<TestNetns>; 5] = std::array::from_fn(|_| Arc::new(TestNetns::new()));
        let [host, a, b, c, _] = &netns;
        let of_a = a.connect(host, "10.88.1.1/24", &format!("{A_4}/24"));
        a.add_address(&of_a.pod, &format!("{A_4B}/24"));
        a.add_address(&of_a.pod, &format!("{A_6}/64"));
        host.add_address(&of_a.host, "fd00:88:1::1/64");
        let of_b = b.connect(host, "10.88.2.1/24", &format!("{B_4}/24"));
        b.add_address(&of_b.pod, &format!("{B_6}/64"));
        host.add_address(&of_b.host, "fd00:88:2::1/64");
        let moving = c.connect(host, "10.88.3.1/24", &format!("{C_4}/24"));
        Self { netns, moving, moved_to: Place::C }
    }

    /// This one.
    #[must_use]
    pub fn at(&self, place: Place) -> &Arc<TestNetns> {
        &self.netns[place as usize]
    }

    /// As a pod's status names it.
    #[must_use]
    pub fn path(&self, place: Place) -> Option<Arc<str>> {
        (place != Place::Host).then(|| self.at(place).path().into())
    }

    /// The link and its address go to the other of `C` and `D`.
    fn move_link(&mut self) {
        let to = if self.moved_to == Place::C { Place::D } else { Place::C };
        let link = &self.moving.pod;
        self.at(self.moved_to).ip(&format!("link set {link} netns {}", self.at(to).path()));
        self.at(to)
            .try_command("ip", &["-batch", "-"], &format!("address add {C_4}/24 dev {link}\nlink set {link} up\n"))
            .expect("the address in its new namespace");
        self.moved_to = to;
    }

    /// The second address of `A`, away or there again.
    fn set_second_address(&self, there: bool) {
        let a = self.at(Place::A);
        let link = a.ip("-o -4 address show to 10.88.1.2");
        let link = link.split_whitespace().nth(1).expect("`1: eth0 inet ..`");
        let act = if there { "add" } else { "del" };
        a.ip(&format!("address {act} {A_4B}/24 dev {link}"));
    }
}

/// Where a listener of a site may be.
pub struct Slot {
    /// Its namespace.
    pub place: Place,
    /// What it is made with.
    pub form: Form,
    /// While it is open.
    pub listener: Option<Listener>,
    /// Its queue has been full since then.
    pub full_since: Option<Instant>,
}

/// What a probe connects to.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The namespace that the runtime names for its pod.
    pub place: Place,
    /// Where to.
    pub addr: SocketAddr,
    /// In [`World::sites`].
    pub site: usize,
    /// A change of the path that the kernel announces came last at this time.
    pub path_changed: Option<Instant>,
}

/// One port, whoever listens at it.
pub struct Site {
    /// What may answer at it.
    pub slots: Vec<Slot>,
}

/// A change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// socket, bind, listen.
    Open,
    /// The same, with a second listen(2) at the same place that fails.
    OpenBesideAFailingOne,
    /// close(2).
    Close,
    /// close(2) and at once a new one.
    Reopen,
    /// shutdown(SHUT_RD): the port stays taken.
    ShutDown,
    /// listen(2) after that, on the same socket.
    ListenAgain,
    /// Both.
    ShutDownAndListen,
    /// The socket under another descriptor; its first one is closed.
    HandOver,
    /// The application does not accept any more.
    StopAccepting,
    /// It does again, and empties its queue.
    Resume,
    /// Its queue is filled to more than this backlog.
    Fill(u32),
    /// Another backlog.
    Backlog(u32),
    /// The link with its address goes to another namespace, or back.
    MoveLink,
    /// An address goes, or comes.
    MoveAddress,
}

/// See the module.
pub struct World {
    /// Namespaces.
    pub net: Net,
    /// Ports.
    pub sites: Vec<Site>,
    /// What probes connect to.
    pub targets: Vec<Target>,
    second_address: bool,
    log: VecDeque<String>,
}

impl World {
    /// Its listeners are all open, but those of `D`.
    #[must_use]
    pub fn new(net: Net) -> Self {
        let mut world =
            Self { net, sites: Vec::new(), targets: Vec::new(), second_address: true, log: VecDeque::new() };
        // One listener.
        world.site(8000, &[(Place::A, A_4, "")], &[(Place::A, A_4)]);
        // Specific ones beside a wildcard.
        world.site(
            8001,
            &[(Place::A, "0.0.0.0", ""), (Place::A, A_4, ""), (Place::A, A_4B, "")],
            &[(Place::A, A_4), (Place::A, A_4B)],
        );
        // Dual stack, V6ONLY, both families.
        world.site(
            8002,
            &[(Place::A, "::", ""), (Place::A, "::", "v6only"), (Place::A, "0.0.0.0", ""), (Place::A, A_6, "")],
            &[(Place::A, A_4), (Place::A, A_6)],
        );
        // Members of a SO_REUSEPORT group, and what answers when it is empty.
        world.site(
            8003,
            &[(Place::B, B_4, ""), (Place::B, B_4, ""), (Place::B, B_4, ""), (Place::B, "0.0.0.0", "")],
            &[(Place::B, B_4)],
        );
        // MPTCP beside TCP.
        world.site(8004, &[(Place::B, "0.0.0.0", "mptcp"), (Place::B, B_4, "")], &[(Place::B, B_4)]);
        // A group of dual stack members.
        world.site(8005, &[(Place::B, "::", ""), (Place::B, "::", "")], &[(Place::B, B_4), (Place::B, B_6)]);
        // In the engine's own namespace.
        world.site(
            8006,
            &[(Place::Host, HOST_4, ""), (Place::Host, "0.0.0.0", ""), (Place::Host, HOST_4B, "mptcp")],
            &[(Place::Host, HOST_4), (Place::Host, HOST_4B)],
        );
        // An address that moves: closed here, opened there.
        world.site(8007, &[(Place::C, C_4, ""), (Place::D, "0.0.0.0", "")], &[(Place::C, C_4)]);
        // The same port number as another namespace's.
        world.site(8000, &[(Place::B, B_4, "")], &[(Place::B, B_4)]);
        for site in 0..world.sites.len() {
            for slot in 0..world.sites[site].slots.len() {
                if world.sites[site].slots[slot].place != Place::D {
                    world.act(Act::Open, site, slot, Instant::ZERO);
                }
            }
        }
        world
    }

    fn site(&mut self, port: u16, slots: &[(Place, &str, &str)], targets: &[(Place, &str)]) {
        let addr = |ip: &str| SocketAddr::new(ip.parse::<IpAddr>().expect("an address of this file"), port);
        let slots = slots.iter().map(|&(place, ip, kind)| {
            let form = Form { bind: addr(ip), only_v6: kind == "v6only", mptcp: kind == "mptcp" };
            Slot { place, form, listener: None, full_since: None }
        });
        let site = self.sites.len();
        self.sites.push(Site { slots: slots.collect() });
        let targets = targets.iter().map(|&(place, ip)| Target { place, addr: addr(ip), site, path_changed: None });
        self.targets.extend(targets);
    }

    /// What happened last, for whoever must find out why.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.iter().map(|line| format!("  {line}\n")).collect()
    }

    /// A line of the log.
    pub fn note(&mut self, line: String) {
        if self.log.len() == LINES_MAX {
            self.log.pop_front();
        }
        self.log.push_back(line);
    }

    /// Makes a change. One that makes no sense in this state, or that the kernel refuses (a port taken by a listener that
    /// shares it with nobody), is none.
    pub fn act(&mut self, act: Act, site: usize, slot: usize, now: Instant) {
        let before = &self.sites[site].slots[slot];
        let kind = if before.form.mptcp {
            " mptcp"
        } else if before.form.only_v6 {
            " v6only"
        } else {
            ""
        };
        let text = format!("{act:?} {}{kind} of {:?} (slot {slot})", before.form.bind, before.place);
        let done = match act {
            Act::MoveLink => {
                self.net.move_link();
                self.path_changed(&[C_4], now);
                Ok(true)
            }
            Act::MoveAddress => {
                self.second_address = !self.second_address;
                self.net.set_second_address(self.second_address);
                self.path_changed(&[A_4B], now);
                Ok(true)
            }
            _ => self.act_on_listener(act, site, slot),
        };
        match done {
            Ok(true) if now == Instant::ZERO => {}
            Ok(true) => self.note(format!("{now:?} {text}")),
            Ok(false) => {}
            Err(error) => self.note(format!("{now:?} {text}: {error}")),
        }
        self.note_queues(now);
    }

    fn act_on_listener(&mut self, act: Act, site: usize, slot: usize) -> std::io::Result<bool> {
        let bind = self.sites[site].slots[slot].form.bind;
        let reaches = |target: &&Target| target.site == site && (target.addr == bind || bind.ip().is_unspecified());
        let to = self.targets.iter().find(reaches).map(|target| target.addr);
        let Slot { place, form, listener, .. } = &mut self.sites[site].slots[slot];
        let netns = self.net.at(*place);
        match (act, listener.as_mut()) {
            (Act::Open, None) => *listener = Some(Listener::open(netns, *form)?),
            (Act::OpenBesideAFailingOne, None) => {
                *listener = Some(Listener::open_beside_a_failing_one(netns, *form)?);
            }
            (Act::Close, Some(_)) => *listener = None,
            (Act::Reopen, Some(_)) => {
                *listener = None;
                *listener = Some(Listener::open(netns, *form)?);
            }
            (Act::ShutDown, Some(open)) if open.listening && !form.mptcp => open.shut_down()?,
            (Act::ListenAgain, Some(open)) if !open.listening => open.listen(BACKLOG)?,
            (Act::ShutDownAndListen, Some(open)) if open.listening && !form.mptcp => {
                open.shut_down()?;
                open.listen(BACKLOG)?;
            }
            (Act::HandOver, Some(open)) => open.hand_over()?,
            (Act::StopAccepting, Some(open)) if open.accepting => open.accepting = false,
            (Act::Resume, Some(open)) if open.listening && !open.accepting => open.resume()?,
            (Act::Fill(backlog), Some(open)) if open.listening => {
                let Some(to) = to else { return Ok(false) };
                open.fill(self.net.at(Place::Host), to, backlog)?;
            }
            (Act::Backlog(backlog), Some(open)) if open.listening => {
                open.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
            }
            _ => return Ok(false),
        }
        self.accept();
        Ok(true)
    }

    fn path_changed(&mut self, of: &[&str], now: Instant) {
        for target in &mut self.targets {
            if of.iter().any(|ip| target.addr.ip().to_string() == *ip) {
                target.path_changed = Some(now);
            }
        }
    }

    /// The applications that accept do.
    pub fn accept(&mut self) {
        for slot in self.sites.iter_mut().flat_map(|site| &mut site.slots) {
            if let Some(open) = slot.listener.as_mut().filter(|open| open.accepting && open.queue_len() > 0) {
                open.drain();
            }
        }
    }

    /// Looks at which queues are full.
    pub fn note_queues(&mut self, now: Instant) {
        for slot in self.sites.iter_mut().flat_map(|site| &mut site.slots) {
            let full = slot.listener.as_ref().is_some_and(Listener::is_full);
            slot.full_since = if full { slot.full_since.or(Some(now)) } else { None };
        }
    }

    /// The oracle: one plain connect from the calling thread, which is in [`Place::Host`]. What it left in an accept queue
    /// is taken out again.
    pub fn oracle(&mut self, target: usize) -> std::io::Result<(Call, Answer)> {
        let Target { addr, site, .. } = self.targets[target];
        let lens = |world: &Self| -> Vec<u32> {
            let slots = &world.sites[site].slots;
            slots.iter().map(|slot| slot.listener.as_ref().map_or(0, Listener::queue_len)).collect()
        };
        let before = lens(self);
        let mut call = Call::new(addr)?;
        let answer = call.wait(std::time::Duration::ZERO)?;
        self.take_back(site, &before, &lens(self));
        Ok((call, answer))
    }

    fn take_back(&mut self, site: usize, before: &[u32], after: &[u32]) {
        for (index, slot) in self.sites[site].slots.iter_mut().enumerate() {
            if after[index] > before[index]
                && let Some(open) = &slot.listener
            {
                open.accept_one();
            }
        }
    }
}
