use std::net::SocketAddr;

use probe_ebpf::FAMILY_V6;

use super::*;

const NETNS: u64 = 7;

fn at(seconds: u64) -> Instant {
    Instant::from_secs(seconds)
}

fn dump(id: u64) -> Dump {
    Dump { id, began: at(id) }
}

fn event(opened: bool, cookie: u64, addr: &str, time: Instant) -> ListenerEvent {
    let addr: SocketAddr = addr.parse().expect("an address");
    let mut address = [0; 16];
    let family = match addr.ip() {
        IpAddr::V4(ip) => {
            address[..4].copy_from_slice(&ip.octets());
            FAMILY_V4
        }
        IpAddr::V6(ip) => {
            address = ip.octets();
            FAMILY_V6
        }
    };
    ListenerEvent {
        time_ns: time.as_nanos(),
        socket_cookie: cookie,
        netns_cookie: NETNS,
        address,
        port: addr.port(),
        family,
        opened: u8::from(opened),
        ..ListenerEvent::default()
    }
}

fn diag(cookie: u64, addr: &str) -> DiagListener {
    let addr: SocketAddr = addr.parse().expect("an address");
    DiagListener {
        socket_cookie: cookie,
        addr: addr.ip(),
        port: addr.port(),
        ipv6_only: false,
        device: 0,
        transparent: false,
        queue_len: 0,
        queue_max: 5,
        drops: 0,
    }
}

fn candidates<'a>(listeners: &'a Listeners, netns_cookie: u64, addr: &str) -> impl Iterator<Item = &'a Listener> {
    let addr: SocketAddr = addr.parse().expect("an address");
    let listening = listeners.inside(netns_cookie).at(addr.port());
    let class = listening.class_of(addr.ip());
    listening.candidates(class)
}

fn is_unsettled(listeners: &Listeners, port: u16, dump: Dump) -> bool {
    listeners.inside(NETNS).is_unsettled(port, dump)
}

fn cookies(listeners: &Listeners, addr: &str) -> Vec<u64> {
    let mut cookies: Vec<u64> = candidates(listeners, NETNS, addr).map(|listener| listener.socket_cookie).collect();
    cookies.sort_unstable();
    cookies
}

#[test]
fn every_listener_that_could_answer_is_a_candidate() {
    let mut listeners = Listeners::default();
    let open =
        ["10.0.0.1:80", "0.0.0.0:80", "[::]:80", "[::1]:80", "[::ffff:10.0.0.1]:80", "10.0.0.2:80", "10.0.0.1:81"];
    for (cookie, addr) in (1..).zip(open) {
        listeners.open(&event(true, cookie, addr, at(1))).expect("room");
    }
    // A SO_REUSEPORT member, and a wildcard for IPv6 alone.
    listeners.open(&event(true, 8, "10.0.0.1:80", at(1))).expect("room");
    listeners.open(&ListenerEvent { ipv6_only: 1, ..event(true, 9, "[::]:80", at(1)) }).expect("room");
    assert_eq!(cookies(&listeners, "10.0.0.1:80"), [1, 2, 3, 5, 8]);
    assert_eq!(cookies(&listeners, "[::ffff:10.0.0.1]:80"), [1, 2, 3, 5, 8]);
    assert_eq!(cookies(&listeners, "[::1]:80"), [3, 4, 9]);
    assert_eq!(cookies(&listeners, "10.0.0.3:80"), [2, 3]);
    assert_eq!(cookies(&listeners, "10.0.0.1:82"), [] as [u64; 0]);
    assert_eq!(candidates(&listeners, NETNS + 1, "10.0.0.1:80").count(), 0);
}

#[test]
fn a_failed_second_listen_leaves_the_good_listener() {
    let mut listeners = Listeners::default();
    listeners.open(&event(true, 1, "10.0.0.1:80", at(1))).expect("room");
    assert_ne!(listeners.show(NETNS, &diag(1, "10.0.0.1:80"), dump(2)), Shown::Unknown);
    listeners.open(&event(true, 2, "10.0.0.1:80", at(3))).expect("room");
    assert!(is_unsettled(&listeners, 80, dump(4)));
    let closed = listeners.close(&event(false, 2, "10.0.0.1:80", at(3))).expect("a cookie").expect("it was there");
    assert!(!closed.confirmed);
    assert!(!is_unsettled(&listeners, 80, dump(4)));
    assert_eq!(cookies(&listeners, "10.0.0.1:80"), [1]);
}

#[test]
fn an_auto_bound_listener_gets_its_port_from_a_dump() {
    let mut listeners = Listeners::default();
    listeners.open(&event(true, 1, "0.0.0.0:0", at(1))).expect("room");
    assert_eq!(listeners.show(NETNS, &diag(1, "0.0.0.0:34567"), dump(2)), Shown::Moved { from: 0 });
    assert_eq!(cookies(&listeners, "10.0.0.1:34567"), [1]);
    assert!(!is_unsettled(&listeners, 34_567, dump(2)));
    listeners.close(&event(false, 1, "0.0.0.0:34567", at(3))).expect("a cookie").expect("it was there");
    assert!(listeners.is_empty());
}

#[test]
fn a_dump_from_before_the_second_listen_of_a_socket_does_not_confirm_it() {
    let mut listeners = Listeners::default();
    listeners.open(&event(true, 1, "10.0.0.1:80", at(1))).expect("room");
    assert_ne!(listeners.show(NETNS, &diag(1, "10.0.0.1:80"), dump(2)), Shown::Unknown);
    listeners.close(&event(false, 1, "10.0.0.1:80", at(3))).expect("a cookie").expect("it was there");
    listeners.open(&event(true, 1, "10.0.0.1:80", at(4))).expect("room");
    assert_ne!(listeners.show(NETNS, &diag(1, "10.0.0.1:80"), dump(4)), Shown::Unknown);
    assert!(is_unsettled(&listeners, 80, dump(4)));
    assert_ne!(listeners.show(NETNS, &diag(1, "10.0.0.1:80"), dump(5)), Shown::Unknown);
    assert!(!is_unsettled(&listeners, 80, dump(5)));
}

#[test]
fn generations_count_listen_events_of_one_socket() {
    let mut listeners = Listeners::default();
    for time in 1..4 {
        // The LISTEN -> CLOSE in between was lost.
        listeners.open(&event(true, 1, "10.0.0.1:80", at(time))).expect("room");
    }
    let listener = candidates(&listeners, NETNS, "10.0.0.1:80").next().expect("one");
    assert_eq!((listener.generation, listeners.len()), (3, 1));
}

#[test]
fn a_tentative_listener_that_no_dump_shows_never_came_to_be() {
    let mut listeners = Listeners::default();
    listeners.open(&event(true, 1, "10.0.0.1:80", at(10))).expect("room");
    let early = Dump { id: 1, began: at(10) + limits::TENTATIVE_MAX / 2 };
    assert_eq!(listeners.end_dump(NETNS, early).len(), 0);
    assert!(is_unsettled(&listeners, 80, early));
    let late = Dump { id: 2, began: at(10) + limits::TENTATIVE_MAX };
    assert_eq!(listeners.end_dump(NETNS, late).len(), 1);
    assert!(!is_unsettled(&listeners, 80, late));
}

#[test]
fn a_listener_that_two_complete_dumps_do_not_show_is_gone() {
    let mut listeners = Listeners::default();
    listeners.learn(NETNS, &diag(1, "10.0.0.1:80"), dump(1)).expect("room");
    assert_eq!(listeners.end_dump(NETNS, dump(1)).len(), 0);
    assert_eq!(listeners.end_dump(NETNS, dump(2)).len(), 0);
    assert_ne!(listeners.show(NETNS, &diag(1, "10.0.0.1:80"), dump(3)), Shown::Unknown);
    assert_eq!(listeners.end_dump(NETNS, dump(3)).len(), 0);
    assert_eq!(listeners.end_dump(NETNS, dump(4)).len(), 0);
    assert_eq!(listeners.end_dump(NETNS, dump(5)).len(), 1);
    assert!(listeners.is_empty());
}

#[test]
fn an_event_without_a_cookie_leaves_its_port_unsettled_for_a_while() {
    let mut listeners = Listeners::default();
    listeners.open(&event(true, 0, "10.0.0.1:80", at(10))).expect("room");
    assert!(is_unsettled(&listeners, 80, dump(10)));
    assert!(!is_unsettled(&listeners, 81, dump(10)));
    let late = Dump { id: 11, began: at(10) + limits::TENTATIVE_MAX };
    assert!(!is_unsettled(&listeners, 80, late));
    listeners.end_dump(NETNS, late);
    assert_eq!(listeners.unclear_len, 0);
}

#[test]
fn a_full_table_says_so_and_forgets_what_nobody_depends_on() {
    let mut listeners = Listeners::default();
    for cookie in 1..=limits::LISTENERS_MAX as u64 {
        let port = (cookie % 60_000) as u16 + 1;
        listeners.open(&ListenerEvent { port, ..event(true, cookie, "0.0.0.0:1", at(1)) }).expect("room");
    }
    assert_eq!(listeners.open(&event(true, u64::MAX, "0.0.0.0:1", at(1))), Err(Full));
    assert_eq!(listeners.open(&event(true, 0, "0.0.0.0:1", at(1))), Err(Full));
    assert_eq!(listeners.learn(NETNS, &diag(u64::MAX, "0.0.0.0:1"), dump(2)), Err(Full));
    listeners.keep_only(|_, port| port == 2);
    assert_eq!(listeners.len(), 3);
    assert!(listeners.open(&event(true, u64::MAX, "0.0.0.0:1", at(1))).is_ok());
}

/// What a listener's accept queue is said to be, over dumps at these milliseconds with these lengths (limit 5) and drops.
fn queue(looks: &[(u64, u32, u32)]) -> Vec<Option<Why>> {
    let mut listeners = Listeners::default();
    listeners.learn(NETNS, &diag(1, "10.0.0.1:80"), Dump { id: 0, began: Instant::ZERO }).expect("room");
    let see = |(id, &(at_ms, queue_len, drops)): (u64, &(u64, u32, u32))| {
        let diag = DiagListener { queue_len, drops, ..diag(1, "10.0.0.1:80") };
        listeners.show(NETNS, &diag, Dump { id, began: Instant::from_millis(at_ms) });
        candidates(&listeners, NETNS, "10.0.0.1:80").next().expect("it").trouble()
    };
    (1..).zip(looks).map(see).collect()
}

#[cfg(not(feature = "bite-queue"))]
#[test]
fn a_queue_is_full_at_once_and_stuck_at_the_second_look() {
    let (full, stuck) = (Some(Why::AcceptQueueFull), Some(Why::AcceptStalled));
    assert_eq!(queue(&[(1_000, 5, 0), (2_000, 6, 0), (3_000, 5, 0)]), [None, full, None]);
    assert_eq!(queue(&[(1_000, 1, 0), (2_000, 1, 0), (3_000, 2, 0)]), [None, stuck, stuck]);
    // Emptied, or at least shrinking.
    assert_eq!(queue(&[(1_000, 3, 0), (2_000, 2, 0), (3_000, 2, 0), (4_000, 0, 0)]), [None, None, stuck, None]);
}

#[cfg(not(feature = "bite-queue"))]
#[test]
fn looks_close_together_do_not_make_a_busy_queue_stuck_nor_a_stuck_one_well() {
    let stuck = Some(Why::AcceptStalled);
    assert_eq!(queue(&[(1_000, 3, 0), (1_001, 3, 0), (1_002, 4, 0)]), [None, None, None]);
    assert_eq!(queue(&[(1_000, 3, 0), (2_000, 3, 0), (2_001, 3, 0), (2_002, 0, 0)]), [None, stuck, stuck, None]);
}

#[cfg(not(feature = "bite-queue"))]
#[test]
fn new_drops_are_trouble_until_a_sweep_sees_none() {
    let drops = Some(Why::ListenerDrops);
    assert_eq!(queue(&[(1_000, 0, 2), (1_001, 0, 2), (2_000, 0, 2)]), [drops, drops, None]);
}

#[cfg(not(feature = "bite-queue"))]
#[test]
fn all_are_well_if_this_dump_has_shown_each_and_none_is_in_trouble() {
    let mut listeners = Listeners::default();
    for (cookie, addr) in [(1, "10.0.0.1:80"), (2, "10.0.0.2:81")] {
        listeners.open(&event(true, cookie, addr, at(1))).expect("room");
    }
    let (one, other) = (diag(1, "10.0.0.1:80"), diag(2, "10.0.0.2:81"));
    for twice in [&one, &one] {
        listeners.show(NETNS, twice, dump(2));
        assert!(!listeners.are_well(NETNS, dump(2)));
    }
    listeners.show(NETNS, &other, dump(2));
    assert!(listeners.are_well(NETNS, dump(2)) && !listeners.are_well(NETNS, dump(3)));
    let full = DiagListener { queue_len: 6, ..one.clone() };
    for diag in [&full, &other] {
        listeners.show(NETNS, diag, dump(3));
    }
    assert!(!listeners.are_well(NETNS, dump(3)));
    for diag in [&one, &other] {
        listeners.show(NETNS, diag, dump(4));
    }
    assert!(listeners.are_well(NETNS, dump(4)));
    // As many as were shown, and one of them another.
    listeners.open(&event(true, 2, "10.0.0.2:81", at(5))).expect("room");
    assert!(!listeners.are_well(NETNS, dump(4)));
}
