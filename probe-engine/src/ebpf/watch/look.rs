//! Looks: when they are made, and what is concluded from them.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use probe_core::time::Instant;
use tracing::{info, warn};

use super::{Feed, Look, Namespace, Notice, Queued, Watch};
use crate::ebpf::answer::Why;
use crate::ebpf::listeners::{Dump, Listener};
use crate::ebpf::sock_diag::DiagListener;
use crate::ebpf::sweep::Question;
use crate::ebpf::target::Target;
use crate::limits;

/// What a look says of one target.
struct Judgement {
    /// `None` = all listeners that could answer are well.
    trouble: Option<Why>,
    /// Whose accept queue it is.
    culprit: Option<(SocketAddr, u32, u32)>,
    /// A listener that should have been in the dump is not: another one must tell.
    is_doubtful: bool,
}

/// What the look says of the namespace as a whole.
struct Scene {
    netns_cookie: u64,
    dump: Dump,
    trouble: Option<Why>,
}

impl Watch {
    /// A look at every namespace with targets; targets that nobody holds are let go.
    pub fn begin_sweep(&mut self, now: Instant) {
        self.let_go();
        self.stats.sweeps.fetch_add(1, Relaxed);
        self.stats.listeners.store(self.listeners.len() as u64, Relaxed);
        self.next_sweep = now + limits::SWEEP_PERIOD;
        let idle = self.namespaces.iter().filter(|(_, namespace)| namespace.look.is_none());
        let idle: Vec<u64> = idle.map(|(netns_cookie, _)| *netns_cookie).collect();
        for netns_cookie in idle {
            self.begin_look(netns_cookie, now);
        }
    }

    /// Begins what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now >= self.next_sweep {
            self.begin_sweep(now);
        }
        let is_due = |namespace: &Namespace| namespace.look.is_none() && namespace.due.is_some_and(|due| due <= now);
        let due = self.namespaces.iter().filter(|(_, namespace)| is_due(namespace));
        let due: Vec<u64> = due.map(|(netns_cookie, _)| *netns_cookie).collect();
        for netns_cookie in due {
            self.begin_look(netns_cookie, now);
        }
    }

    /// Drains the ring buffer, then judges by the dumps that have ended. True = something was judged.
    pub fn finish_looks(&mut self, feed: &mut impl Feed, now: Instant) -> bool {
        if self.ended.is_empty() {
            return false;
        }
        let drained = feed.drain(&mut |event| self.handle_event(event, now));
        self.handle_drops(drained.drops, now);
        for netns_cookie in std::mem::take(&mut self.ended) {
            self.finish_look(netns_cookie, drained.is_empty, now);
        }
        true
    }

    /// Another look is wanted before the next sweep.
    pub(super) fn look_soon(&mut self, netns_cookie: u64, now: Instant) {
        let Some(namespace) = self.namespaces.get_mut(&netns_cookie) else { return };
        namespace.wait = limits::CONFIRM_WAIT_MIN;
        namespace.want_look(now);
    }

    /// The counters are read here, before the dump is asked for.
    fn begin_look(&mut self, netns_cookie: u64, now: Instant) {
        let Some(namespace) = self.namespaces.get_mut(&netns_cookie) else { return };
        let dump = Dump { id: self.next_dump_id, began: now };
        self.next_dump_id += 1;
        namespace.due = None;
        namespace.look = Some(Look {
            dump,
            unknown: Vec::new(),
            closed: HashSet::new(),
            has_transparent: false,
            has_sk_lookup: false,
            is_spoiled: false,
        });
        for &index in namespace.ports.values().flatten() {
            let watched = &mut self.targets[index];
            watched.look = watched.place.map(|(_, slot)| (dump, self.counters.load(slot)));
        }
        self.questions.push_back(Question::Dump { netns_cookie });
    }

    /// Some listeners of a dump: those known are brought up to date; of the others, those at ports of targets wait for the
    /// ring buffer to be drained.
    pub(super) fn take_part(&mut self, netns_cookie: u64, listeners: Vec<DiagListener>) {
        let Some(Namespace { ports, look: Some(look), .. }) = self.namespaces.get_mut(&netns_cookie) else { return };
        for diag in listeners {
            look.has_transparent |= diag.transparent;
            if self.listeners.show(netns_cookie, &diag, look.dump) || !ports.contains_key(&diag.port) {
                continue;
            }
            if look.unknown.len() >= limits::LISTENERS_MAX {
                look.is_spoiled = true;
                return;
            }
            look.unknown.push(diag);
        }
    }

    fn finish_look(&mut self, netns_cookie: u64, is_drained: bool, now: Instant) {
        let Some(namespace) = self.namespaces.get_mut(&netns_cookie) else { return };
        let Some(look) = namespace.look.take() else { return };
        namespace.last = (look.dump.began, now - look.dump.began);
        if namespace.ports.is_empty() {
            self.namespaces.remove(&netns_cookie);
            return;
        }
        // One that took so long would be too old to answer from, and older than what the table remembers.
        if look.is_spoiled || !is_drained || now >= look.dump.began + limits::LOOK_AGE_MAX {
            self.stats.looks_spoiled.fetch_add(1, Relaxed);
            return;
        }
        let unannounced = self.learn_unknown(netns_cookie, &look);
        self.listeners.end_dump(netns_cookie, look.dump);
        self.void_unannounced(netns_cookie, &unannounced);
        let trouble = match (self.feed, look.has_sk_lookup, look.has_transparent) {
            (None | Some(false), ..) => Some(Why::SelfTest),
            (_, true, _) => Some(Why::SkLookup),
            (_, _, true) => Some(Why::Transparent),
            _ => None,
        };
        self.publish(&Scene { netns_cookie, dump: look.dump, trouble }, now);
        self.stats.looks.fetch_add(1, Relaxed);
    }

    /// Puts what the dump listed and no event told of into the table; which.
    fn learn_unknown<'a>(&mut self, netns_cookie: u64, look: &'a Look) -> Vec<&'a DiagListener> {
        let mut unannounced = Vec::new();
        for diag in &look.unknown {
            // Its event may have been drained by now; or it was listed, and closed after that.
            if self.listeners.show(netns_cookie, diag, look.dump) || look.closed.contains(&diag.socket_cookie) {
                continue;
            }
            unannounced.push(diag);
            if self.listeners.learn(netns_cookie, diag, look.dump).is_err() {
                self.stats.table_full.fetch_add(1, Relaxed);
                // Room is made by giving up what nobody depends on; the next look learns it.
                self.lose(look.dump.began);
            }
        }
        unannounced
    }

    /// A listener that no event announced, and whose target's counter did not move since the look that did not show it:
    /// the program missed it, so the lease was granted without knowing of it.
    fn void_unannounced(&mut self, netns_cookie: u64, unannounced: &[&DiagListener]) {
        let Some(namespace) = self.namespaces.get(&netns_cookie) else { return };
        for diag in unannounced {
            for &index in namespace.ports.get(&diag.port).into_iter().flatten() {
                let watched = &self.targets[index];
                let (Some((_, value)), Some(target)) = (watched.look, watched.target.upgrade()) else { continue };
                let could_answer = self
                    .listeners
                    .candidates(netns_cookie, watched.addr)
                    .any(|listener| listener.socket_cookie == diag.socket_cookie);
                if could_answer && watched.looked_at == Some(value) {
                    let is_void = target.void(Why::Changed);
                    self.stats.voids.fetch_add(u64::from(is_void), Relaxed);
                    self.stats.unannounced.fetch_add(1, Relaxed);
                    info!(addr = %watched.addr, "a listener that no event announced");
                }
            }
        }
    }

    /// Tells every target of this look what was found.
    fn publish(&mut self, scene: &Scene, now: Instant) {
        let Some(namespace) = self.namespaces.get_mut(&scene.netns_cookie) else { return };
        let is_whole = scene.dump.began >= self.lost_at + limits::TENTATIVE_MAX;
        if is_whole && std::mem::take(&mut namespace.is_lossy) {
            self.stats.reconciles.fetch_add(1, Relaxed);
        }
        let indices: Vec<usize> = namespace.ports.values().flatten().copied().collect();
        let (mut is_unsettled, mut contradicted) = (false, Vec::new());
        for index in indices {
            let Some((_, value)) = self.targets[index].look.take_if(|(dump, _)| *dump == scene.dump) else { continue };
            let Some(target) = self.targets[index].target.upgrade() else { continue };
            let judgement = self.judge(scene, target.addr);
            is_unsettled |= judgement.is_doubtful;
            self.publish_look(index, &target, scene, &judgement);
            let watched = &mut self.targets[index];
            watched.looked_at = Some(value);
            if self.listeners.is_unsettled(scene.netns_cookie, target.addr.port(), scene.dump) {
                is_unsettled = true;
            } else if is_whole && self.feed == Some(true) && scene.dump.began >= watched.settle_from {
                target.settle(value);
            }
            if self.is_contradicted(index, scene, value, judgement.trouble) {
                contradicted.push(target);
            }
        }
        if let Some(namespace) = self.namespaces.get_mut(&scene.netns_cookie) {
            if is_unsettled {
                namespace.wait = (namespace.wait * 2).min(limits::SWEEP_PERIOD);
                namespace.want_look(now);
            } else {
                namespace.wait = limits::CONFIRM_WAIT_MIN;
            }
        }
        for target in contradicted {
            self.contradict(scene.netns_cookie, target, now);
        }
    }

    fn publish_look(&mut self, index: usize, target: &Arc<Target>, scene: &Scene, judgement: &Judgement) {
        match judgement.trouble {
            Some(why) => target.look_troubled(why),
            // The one before holds until it is too old.
            None if judgement.is_doubtful => return,
            None => target.look_healthy(scene.dump.began + limits::LOOK_AGE_MAX),
        }
        let state = judgement.trouble.filter(|why| matches!(why, Why::AcceptQueueFull | Why::AcceptStalled));
        if !self.tell_queue(index, state) {
            return;
        }
        let Some((listener, len, max)) = judgement.culprit else { return };
        let queued = Queued { target: Arc::clone(target), listener, len, max };
        match state {
            Some(Why::AcceptQueueFull) => self.notify(Notice::AcceptQueueFull(queued)),
            Some(_) => self.notify(Notice::AcceptStalled(queued)),
            None => {}
        }
    }

    /// Keeps the gauges. True = it is another state than before.
    pub(super) fn tell_queue(&mut self, index: usize, state: Option<Why>) -> bool {
        let before = std::mem::replace(&mut self.targets[index].queue, state);
        if before == state {
            return false;
        }
        for (why, is_entered) in before.map(|why| (why, false)).into_iter().chain(state.map(|why| (why, true))) {
            let gauge = if why == Why::AcceptQueueFull { &mut self.queues_full } else { &mut self.queues_stalled };
            *gauge = if is_entered { *gauge + 1 } else { gauge.saturating_sub(1) };
        }
        self.stats.accept_queues_full.store(self.queues_full, Relaxed);
        self.stats.accept_queues_stalled.store(self.queues_stalled, Relaxed);
        true
    }

    fn judge(&self, scene: &Scene, addr: SocketAddr) -> Judgement {
        let mut judgement = Judgement { trouble: scene.trouble, culprit: None, is_doubtful: false };
        if scene.trouble.is_some() {
            return judgement;
        }
        let is_well = |listener: &Listener| {
            listener.is_confirmed() && listener.was_shown(scene.dump) && listener.trouble().is_none()
        };
        let candidates = || self.listeners.candidates(scene.netns_cookie, addr);
        if cfg!(feature = "bite-candidates") && candidates().any(is_well) {
            return judgement;
        }
        let mut is_any = false;
        for listener in candidates() {
            is_any = true;
            let trouble = match listener {
                listener if !listener.is_confirmed() => Some(Why::Tentative),
                listener if !listener.was_shown(scene.dump) => {
                    judgement.is_doubtful = true;
                    None
                }
                listener => listener.trouble(),
            };
            if rank(trouble) > rank(judgement.trouble) {
                let (len, max) = listener.queue();
                judgement.trouble = trouble;
                judgement.culprit = Some((SocketAddr::new(listener.addr, listener.port), len, max));
            }
        }
        if !is_any {
            judgement.trouble = Some(Why::NoListener);
        }
        judgement
    }

    /// A failed audit is judged by a look that began after it: the counter has not moved since before its connect, and no
    /// accept queue explains the failure.
    fn is_contradicted(&mut self, index: usize, scene: &Scene, value: u64, trouble: Option<Why>) -> bool {
        let watched = &mut self.targets[index];
        let Some((before, epoch, _)) = watched.audit.take_if(|(.., at)| *at <= scene.dump.began) else { return false };
        // A change on the way, say.
        let is_moved = watched.target.upgrade().is_none_or(|target| target.epoch() != epoch);
        let is_explained = is_moved || trouble.is_some_and(|why| !matches!(why, Why::NoListener | Why::Tentative));
        let slot = watched.place.map(|(_, slot)| slot);
        value == before && slot.is_some_and(|slot| self.counters.load(slot) == before) && !is_explained
    }

    fn contradict(&mut self, netns_cookie: u64, target: Arc<Target>, now: Instant) {
        self.stats.contradictions.fetch_add(1, Relaxed);
        let everywhere = self
            .contradiction
            .is_some_and(|(other, at)| other != netns_cookie && now - at <= limits::CONTRADICTIONS_WITHIN);
        self.contradiction = Some((netns_cookie, now));
        warn!(
            pod = %target.pod.name, addr = %target.addr, everywhere,
            "a connect failed where the kernel reported no change: the passive answers of its network namespace end",
        );
        if everywhere {
            self.void_all(Why::Contradicted);
        } else {
            let here = self.targets.iter().filter(|(_, watched)| watched.place.is_some_and(|at| at.0 == netns_cookie));
            let here = here.filter_map(|(_, watched)| watched.target.upgrade());
            let voided = here.filter(|target| target.void(Why::Contradicted)).count();
            self.stats.voids.fetch_add(voided as u64, Relaxed);
        }
        self.notify(Notice::Contradicted { target, everywhere });
    }
}

impl Namespace {
    /// Not so soon that dumps of this namespace take more than their share of the time.
    fn want_look(&mut self, now: Instant) {
        let (began, took) = self.last;
        let at = (now + self.wait).max(began + took * limits::CONFIRM_SHARE);
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }
}

/// Which trouble is told where there are several.
fn rank(trouble: Option<Why>) -> u8 {
    match trouble {
        None => 0,
        Some(Why::Tentative) => 1,
        Some(Why::ListenerDrops) => 2,
        Some(Why::AcceptStalled) => 3,
        Some(_) => 4,
    }
}
