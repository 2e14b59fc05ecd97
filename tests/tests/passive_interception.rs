//! Somebody else takes the connections: a proxy behind REDIRECT, a link that is set down. On the real kernel, in namespaces of
//! the test's own.
#![cfg(feature = "engine")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use probe_engine::ebpf::{Answer, PassiveSettings, Why};
use probe_engine::shard::ring::Ring;
use probe_tests::netns::TestNetns;
use probe_tests::passive::feed;
use probe_tests::passive::listener::{Form, Listener};
use probe_tests::passive::pod::Times;
use probe_tests::passive::rig::Rig;
use probe_tests::skip::skip;

const TIMES: Times = Times { period_seconds: 2, timeout_seconds: 1 };
const PERIOD: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_secs(1);
/// What a rig's own steps add to a time: the wheel's step, and the second look at a deadline.
const SLACK: Duration = Duration::from_millis(110);

const POD: &str = "10.89.1.2";
const APPLICATION: u16 = 8080;
const PROXY: u16 = 15_006;

/// A pod behind a link, its application, and a proxy that may take what is meant for it.
struct Scene {
    host: Arc<TestNetns>,
    pod: Arc<TestNetns>,
}

impl Scene {
    /// `None` = it cannot be made here, which was said.
    fn new(test: &str, programs: &[&str]) -> Option<Self> {
        if !feed::usable(test, programs) {
            return None;
        }
        let (host, pod) = (Arc::new(TestNetns::new()), Arc::new(TestNetns::new()));
        pod.connect(&host, "10.89.1.1/24", &format!("{POD}/24"));
        Some(Self { host, pod })
    }

    fn listen(&self, port: u16) -> Listener {
        let form = Form::tcp(SocketAddr::new(POD.parse().expect("an address"), port));
        let mut listener = Listener::open(&self.pod, form).expect("listen");
        // Room for an attempt of every probe at once.
        listener.listen(4_096).expect("a longer backlog");
        listener
    }

    /// iptables, nft's or legacy, in the pod's namespace. Error: why not.
    fn iptables(&self, program: &str, act: &str) -> Result<(), String> {
        let rule = format!("-w -t nat {act} PREROUTING -p tcp --dport {APPLICATION} -j REDIRECT --to-ports {PROXY}");
        self.pod.try_command(program, &rule.split_whitespace().collect::<Vec<_>>(), "").map(drop)
    }

    /// A rig in the host's namespace with `probes` probes of the application.
    fn rig(&self, settings: PassiveSettings, probes: usize) -> Rig<Ring> {
        let mut rig = Rig::new(settings, TIMES, 7, |waker| Ring::new(waker).expect("io_uring")).expect("loads");
        for _ in 0..probes {
            rig.add(target(), Some(self.pod.path().into()));
        }
        rig
    }
}

fn target() -> SocketAddr {
    SocketAddr::new(POD.parse().expect("an address"), APPLICATION)
}

/// Periods until every probe had this outcome in one; how long on the test's clock since `rig.now()`.
fn until_all(rig: &mut Rig<Ring>, failure: bool, limit: Duration, mut accept: impl FnMut()) -> Option<Duration> {
    let start = rig.now();
    while rig.now() - start <= limit {
        rig.period(&mut accept);
        let all = rig
            .take_all()
            .iter()
            .all(|counts| if failure { counts.failures > 0 && counts.real > 0 } else { counts.successes > 0 });
        if all {
            return Some(rig.now() - start);
        }
    }
    None
}

#[test]
fn behind_a_proxy_it_is_the_proxy_that_answers_within_one_period() {
    let test = "behind_a_proxy_it_is_the_proxy_that_answers_within_one_period";
    let Some(scene) = Scene::new(test, &["iptables-nft"]) else { return };
    if let Err(error) = scene.iptables("iptables-nft", "-A") {
        return skip(test, &error);
    }
    let host = Arc::clone(&scene.host);
    host.run(|| {
        let (mut application, mut proxy) = (scene.listen(APPLICATION), scene.listen(PROXY));
        let mut rig = scene.rig(PassiveSettings::default(), 1);
        for _ in 0..4 {
            rig.period(|| {
                application.drain();
                proxy.drain();
            });
        }
        assert_eq!(rig.answer(0), Answer::Real(Why::TakenBy(PROXY)), "no lease, and who took it");
        assert_eq!(rig.take(0).failures, 0);
        drop(proxy);
        rig.period(|| application.drain());
        let counts = rig.take(0);
        assert_eq!((counts.failures, counts.passive), (1, 0), "application open, proxy closed");
        drop(application);
        let mut proxy = scene.listen(PROXY);
        rig.period(|| proxy.drain());
        let counts = rig.take(0);
        assert_eq!((counts.successes, counts.passive), (1, 0), "application closed, proxy open");
    });
}

/// A rule that comes under leases and goes again. Returns how long each took to be noticed.
fn rule_comes_and_goes(scene: &Scene, program: &str, settings: PassiveSettings, limit: Duration) -> [Duration; 2] {
    let mut application = scene.listen(APPLICATION);
    let mut rig = scene.rig(settings, 200);
    rig.lease_all(|| application.drain());
    // Nobody listens at the proxy's port: whoever connects now is refused.
    scene.iptables(program, "-A").expect("the rule is added");
    rig.take_all();
    let added = until_all(&mut rig, true, limit, || application.drain()).expect("noticed");
    scene.iptables(program, "-D").expect("the rule is removed");
    let removed = until_all(&mut rig, false, limit, || application.drain()).expect("noticed");
    rig.lease_all(|| application.drain());
    [added, removed]
}

#[test]
fn a_redirect_of_iptables_nft_is_noticed_within_path_recheck_max() {
    let test = "a_redirect_of_iptables_nft_is_noticed_within_path_recheck_max";
    let Some(scene) = Scene::new(test, &["iptables-nft"]) else { return };
    let host = Arc::clone(&scene.host);
    host.run(|| {
        let recheck = Duration::from_secs(1);
        let settings =
            PassiveSettings { path_recheck_max: recheck, passive_audit_per_second: 0, ..PassiveSettings::default() };
        if let Err(error) = scene.iptables("iptables-nft", "-A").and_then(|()| scene.iptables("iptables-nft", "-D")) {
            return skip(test, &error);
        }
        let limit = PERIOD + TIMEOUT + recheck + SLACK;
        let [added, removed] = rule_comes_and_goes(&scene, "iptables-nft", settings, limit);
        println!("{test}: added: {added:?}, removed: {removed:?}, of {limit:?}");
        assert!(added <= limit && removed <= limit, "{added:?} {removed:?} {limit:?}");
    });
}

#[test]
fn a_redirect_of_iptables_legacy_is_noticed_within_passive_max_age() {
    let test = "a_redirect_of_iptables_legacy_is_noticed_within_passive_max_age";
    let Some(scene) = Scene::new(test, &["iptables-legacy"]) else { return };
    let host = Arc::clone(&scene.host);
    host.run(|| {
        let max_age = Duration::from_secs(10);
        let settings =
            PassiveSettings { passive_max_age: max_age, passive_audit_per_second: 0, ..PassiveSettings::default() };
        if let Err(error) = scene.iptables("iptables-legacy", "-A") {
            return skip(test, &error);
        }
        scene.iptables("iptables-legacy", "-D").expect("the rule is removed");
        let limit = PERIOD + TIMEOUT + max_age + SLACK;
        let [added, removed] = rule_comes_and_goes(&scene, "iptables-legacy", settings, limit);
        println!("{test}: added: {added:?}, removed: {removed:?}, of {limit:?}");
        assert!(added <= limit && removed <= limit, "{added:?} {removed:?} {limit:?}");
    });
}

/// Of [`a_link_set_down_concerns_its_own_probes_at_once_and_no_others`].
const NAMESPACES: u8 = 20;
const PORTS: u16 = 50;
const PROBES_PER_NAMESPACE: usize = 500;

#[test]
fn a_link_set_down_concerns_its_own_probes_at_once_and_no_others() {
    let test = "a_link_set_down_concerns_its_own_probes_at_once_and_no_others";
    if !feed::usable(test, &[]) {
        return;
    }
    let host = TestNetns::new();
    let pods: Vec<(TestNetns, String)> = (0..NAMESPACES)
        .map(|index| {
            let pod = TestNetns::new();
            let veth = pod.connect(&host, &format!("10.90.{index}.1/24"), &format!("10.90.{index}.2/24"));
            (pod, veth.host)
        })
        .collect();
    host.run(|| {
        let addr = |index: usize, port: u16| SocketAddr::from(([10, 90, index as u8, 2], 9_000 + port));
        let mut listeners: Vec<Listener> = pods
            .iter()
            .enumerate()
            .flat_map(|(index, (pod, _))| (0..PORTS).map(move |port| (pod, Form::tcp(addr(index, port)))))
            .map(|(pod, form)| {
                let mut listener = Listener::open(pod, form).expect("listen");
                listener.listen(4_096).expect("a longer backlog");
                listener
            })
            .collect();
        let mut accept_all = || listeners.iter_mut().for_each(Listener::drain);
        let settings = PassiveSettings { passive_audit_per_second: 0, ..PassiveSettings::default() };
        let mut rig = Rig::new(settings, TIMES, 7, |waker| Ring::new(waker).expect("io_uring")).expect("loads");
        for (index, (pod, _)) in pods.iter().enumerate() {
            let path: Arc<str> = pod.path().into();
            for probe in 0..PROBES_PER_NAMESPACE {
                rig.add(addr(index, probe as u16 % PORTS), Some(Arc::clone(&path)));
            }
        }
        rig.lease_all(&mut accept_all);
        rig.take_all();
        // The link of the first one goes down.
        let changed = rig.now();
        host.ip(&format!("link set {} down", pods[0].1));
        rig.tend(false);
        let mut attempted = vec![false; PROBES_PER_NAMESPACE];
        let mut others = 0;
        while rig.now() - changed < PERIOD + Duration::from_secs(1) {
            rig.period(&mut accept_all);
            let all = rig.take_all();
            let (affected, rest) = all.split_at(PROBES_PER_NAMESPACE);
            attempted.iter_mut().zip(affected).for_each(|(attempted, counts)| *attempted |= counts.real > 0);
            for (index, counts) in rest.iter().enumerate() {
                let of_path = matches!(
                    rig.answer(PROBES_PER_NAMESPACE + index),
                    Answer::Real(Why::PathChanged | Why::PathRechecked)
                );
                others += usize::from(counts.real > 0 && of_path);
            }
        }
        let left = attempted.iter().filter(|attempted| !**attempted).count();
        println!(
            "{test}: of {PROBES_PER_NAMESPACE} affected all but {left} attempted, of the others {others} for that"
        );
        assert_eq!((left, others), (0, 0));
    });
}
