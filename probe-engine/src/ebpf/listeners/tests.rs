use std::net::SocketAddr;

use probe_ebpf::FAMILY_V6;

use super::*;

const NETNS: u64 = 7;

fn at(seconds: u64) -> Instant {
    Instant::from_secs(seconds)
}

fn dump(id: u64) -> Dump {
    Dump { id, began: at(id), listen_drops: ListenDrops::default() }
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
    let early = Dump { began: at(10) + limits::TENTATIVE_MAX / 2, ..dump(1) };
    assert_eq!(listeners.end_dump(NETNS, None, early).len(), 0);
    assert!(is_unsettled(&listeners, 80, early));
    let late = Dump { began: at(10) + limits::TENTATIVE_MAX, ..dump(2) };
    assert_eq!(listeners.end_dump(NETNS, None, late).len(), 1);
    assert!(!is_unsettled(&listeners, 80, late));
}

#[test]
fn a_listener_that_two_complete_dumps_do_not_show_is_gone() {
    let mut listeners = Listeners::default();
    listeners.learn(NETNS, &diag(1, "10.0.0.1:80"), dump(1)).expect("room");
    assert_eq!(listeners.end_dump(NETNS, None, dump(1)).len(), 0);
    assert_eq!(listeners.end_dump(NETNS, None, dump(2)).len(), 0);
    assert_ne!(listeners.show(NETNS, &diag(1, "10.0.0.1:80"), dump(3)), Shown::Unknown);
    assert_eq!(listeners.end_dump(NETNS, None, dump(3)).len(), 0);
    assert_eq!(listeners.end_dump(NETNS, None, dump(4)).len(), 0);
    assert_eq!(listeners.end_dump(NETNS, None, dump(5)).len(), 1);
    assert!(listeners.is_empty());
}

#[test]
fn an_event_without_a_cookie_leaves_its_port_unsettled_for_a_while() {
    let mut listeners = Listeners::default();
    listeners.open(&event(true, 0, "10.0.0.1:80", at(10))).expect("room");
    assert!(is_unsettled(&listeners, 80, dump(10)));
    assert!(!is_unsettled(&listeners, 81, dump(10)));
    let late = Dump { began: at(10) + limits::TENTATIVE_MAX, ..dump(11) };
    assert!(!is_unsettled(&listeners, 80, late));
    listeners.end_dump(NETNS, None, late);
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

/// What a listener's accept queue is said to be, over dumps at these milliseconds with these lengths (limit 5) and drops,
/// where ListenDrops cannot be read.
fn queue(looks: &[(u64, u32, u32)]) -> Vec<Option<Why>> {
    let looks = looks.iter().map(|&(at_ms, len, drops)| (at_ms, len, drops, ListenDrops::default()));
    let (found, stray_drops) = queue_with(ListenDrops::default(), looks);
    assert_eq!(stray_drops, 0);
    found
}

/// The same with what was known of ListenDrops at the first dump, which learns the listener, and at these. And how often
/// drops were stray.
fn queue_with(
    first: ListenDrops,
    looks: impl Iterator<Item = (u64, u32, u32, ListenDrops)>,
) -> (Vec<Option<Why>>, u64) {
    let mut listeners = Listeners::default();
    let at = |id, at_ms, listen_drops| Dump { id, began: Instant::from_millis(at_ms), listen_drops };
    listeners.learn(NETNS, &diag(1, "10.0.0.1:80"), at(0, 0, first)).expect("room");
    let see = |(id, (at_ms, queue_len, drops, listen_drops))| {
        let diag = DiagListener { queue_len, drops, ..diag(1, "10.0.0.1:80") };
        listeners.show(NETNS, &diag, at(id, at_ms, listen_drops));
        candidates(&listeners, NETNS, "10.0.0.1:80").next().expect("it").trouble()
    };
    let found = (1..).zip(looks).map(see).collect();
    (found, listeners.stray_drops())
}

/// The same of an empty queue, over (milliseconds, drops, ListenDrops before the dump, after it); at the first dump it is 7.
fn drops(looks: &[(u64, u32, u64, u64)]) -> (Vec<Option<Why>>, u64) {
    let known = |before, after| ListenDrops { before: Some(before), after: Some(after) };
    let looks = looks.iter().map(|&(at_ms, drops, before, after)| (at_ms, 0, drops, known(before, after)));
    queue_with(known(7, 7), looks)
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
fn stray_drops_are_no_trouble() {
    let looks = [(1_000, 2, 7, 7), (1_001, 3, 7, 7), (2_000, 40, 7, 7), (3_000, 40, 7, 7)];
    assert_eq!(drops(&looks), (vec![None; 4], 2));
}

#[cfg(not(feature = "bite-queue"))]
#[test]
fn a_lost_request_is_trouble_until_a_sweep_sees_none_whatever_stray_drops_come_with_it() {
    let lost = Some(Why::ListenerDrops);
    assert_eq!(drops(&[(1_000, 1, 7, 8), (1_001, 1, 8, 8), (2_000, 1, 8, 8)]).0, [lost, lost, None]);
    let among_strays = [(1_000, 9, 7, 7), (2_000, 20, 7, 8), (3_000, 30, 8, 8), (4_000, 40, 8, 8)];
    // Of the two counts around the dump at 2 s, nobody knows on which side of it the request was lost.
    assert_eq!(drops(&among_strays), (vec![None, lost, lost, None], 2));
    // It was lost after the dump had listed the socket, and before ListenDrops was read.
    assert_eq!(drops(&[(1_000, 0, 7, 8), (2_000, 1, 8, 8), (3_000, 1, 8, 8)]).0, [None, lost, None]);
}

#[cfg(not(feature = "bite-queue"))]
#[test]
fn a_lost_request_whose_second_count_comes_late_is_told_up_to_the_next_sample() {
    let lost = Some(Why::ListenerDrops);
    assert_eq!(drops(&[(1_000, 1, 7, 7), (1_001, 1, 7, 8), (2_000, 1, 8, 8)]).0, [None, lost, lost]);
    assert_eq!(drops(&[(1_000, 1, 7, 7), (2_000, 1, 7, 8), (3_000, 1, 8, 8)]).0, [None, lost, None]);
    // Its drop was seen first by a look between two samples.
    assert_eq!(drops(&[(300, 1, 7, 7), (1_000, 1, 7, 7), (1_300, 1, 7, 8)]).0, [None, None, lost]);
    // Somebody else's, long after.
    assert_eq!(drops(&[(1_000, 1, 7, 7), (2_000, 1, 7, 7), (3_000, 1, 7, 8)]).0, [None, None, None]);
}

#[cfg(not(feature = "bite-queue"))]
#[test]
fn a_lost_request_is_told_where_dumps_in_between_could_not_be_used() {
    // ListenDrops moved around one of those: 8 before the next dump already.
    assert_eq!(
        drops(&[(1_000, 0, 7, 7), (5_000, 1, 8, 8), (6_000, 1, 8, 8)]).0,
        [None, Some(Why::ListenerDrops), None]
    );
}

#[cfg(not(feature = "bite-queue"))]
#[test]
fn drops_count_as_lost_requests_where_listen_drops_is_not_known() {
    let lost = Some(Why::ListenerDrops);
    let known = |before, after| ListenDrops { before, after };
    let looks = [
        // It is read at the first dump, after it.
        (1_000, 0, 1, known(Some(7), Some(7))),
        (2_000, 0, 2, known(Some(7), Some(7))),
        // Not readable, then again: none was lost in between.
        (3_000, 0, 2, known(Some(7), None)),
        (4_000, 0, 3, known(None, Some(7))),
        // What was known before the last dump is missing.
        (5_000, 0, 4, known(Some(7), Some(7))),
        (6_000, 0, 5, known(Some(7), Some(7))),
    ];
    let (found, stray_drops) = queue_with(known(None, Some(7)), looks.into_iter());
    // At 3 s no more drops came, but of those before it cannot be told any more that they were none.
    assert_eq!((found, stray_drops), (vec![lost, None, lost, None, lost, None], 3));
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
