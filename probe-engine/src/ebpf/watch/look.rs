//! Looks: when they are made, and what is concluded from them.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use probe_core::time::Instant;
use tracing::{info, warn};

use super::members::{Culprit, Members, Port};
use super::{Audit, Feed, Look, Namespace, Notice, Scope, Watch};
use crate::ebpf::answer::Why;
use crate::ebpf::listen_drops::ListenDrops;
use crate::ebpf::listeners::{Class, Dump, Listener, Listening, Shown};
use crate::ebpf::sock_diag::DiagListener;
use crate::ebpf::sweep::Question;
use crate::ebpf::target::Target;
use crate::limits;

/// What a look says of one group.
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
    scope: Scope,
    trouble: Option<Why>,
    /// Every listener was shown, and is well: then they are not visited one by one.
    are_well: bool,
}

impl Watch {
    /// A look at every namespace with targets; of those that nobody holds any more, some are let go.
    pub fn begin_sweep(&mut self, now: Instant) {
        self.let_go();
        self.stats.sweeps.fetch_add(1, Relaxed);
        self.stats.listeners.store(self.listeners.len() as u64, Relaxed);
        self.next_sweep = now + limits::SWEEP_PERIOD;
        let mut idle = Vec::new();
        for (netns_cookie, namespace) in &mut self.namespaces {
            match &namespace.look {
                None => idle.push(*netns_cookie),
                Some(Look { scope: Scope::All, .. }) => {}
                // As soon as that one has ended.
                Some(_) => namespace.due = Some((now, Scope::All)),
            }
        }
        for netns_cookie in idle {
            self.begin_look(netns_cookie, Scope::All, now);
        }
    }

    /// Begins what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now >= self.next_sweep {
            self.begin_sweep(now);
        }
        let mut due = Vec::new();
        for (netns_cookie, namespace) in self.namespaces.iter_mut().filter(|(_, namespace)| namespace.look.is_none()) {
            let scope = namespace.due.take_if(|(at, _)| *at <= now).map(|(_, scope)| scope);
            due.extend(scope.map(|scope| (*netns_cookie, scope)));
        }
        for (netns_cookie, scope) in due {
            self.begin_look(netns_cookie, scope, now);
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

    /// A look at this port is wanted before the next sweep.
    pub(super) fn look_soon(&mut self, netns_cookie: u64, port: u16, now: Instant) {
        let Some(namespace) = self.namespaces.get_mut(&netns_cookie) else { return };
        namespace.wait = limits::CONFIRM_WAIT_MIN;
        namespace.want_look(Scope::Ports(vec![port]), now);
    }

    /// The counters are read here, before the dump is asked for.
    fn begin_look(&mut self, netns_cookie: u64, scope: Scope, now: Instant) {
        let Some(namespace) = self.namespaces.get_mut(&netns_cookie) else { return };
        let dump = Dump { id: self.next_dump_id, began: now, listen_drops: ListenDrops::default() };
        self.next_dump_id += 1;
        if scope == Scope::All {
            namespace.due = None;
        }
        namespace.each_port(&scope, |_, port| port.look = Some((dump.id, self.counters.load(port.place.slot))));
        let ports = scope.ports().map(Box::from);
        namespace.look = Some(Look {
            dump,
            scope,
            listed: Vec::new(),
            closed: HashSet::new(),
            has_transparent: false,
            has_sk_lookup: false,
            is_spoiled: false,
        });
        self.questions.push_back(Question::Dump { netns_cookie, ports });
    }

    /// Some listeners of a dump, to be taken in once the ring buffer was drained after its end: those that an event told of,
    /// and those at ports of targets.
    pub(super) fn take_part(&mut self, netns_cookie: u64, mut listeners: Vec<DiagListener>) {
        let Some(Namespace { ports, look: Some(look), .. }) = self.namespaces.get_mut(&netns_cookie) else { return };
        look.has_transparent |= listeners.iter().any(|diag| diag.transparent);
        listeners.retain(|diag| self.listeners.is_known(diag.socket_cookie) || ports.contains_key(&diag.port));
        if look.listed.len() + listeners.len() > limits::LISTENERS_MAX {
            look.is_spoiled = true;
            return;
        }
        look.listed.append(&mut listeners);
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
        let unannounced = self.take_in(netns_cookie, &look);
        let gone = self.listeners.end_dump(netns_cookie, look.scope.ports(), look.dump);
        // Nothing changes the table from here on.
        self.regroup_changed(netns_cookie, &look.scope, unannounced.iter().map(|diag| diag.port).chain(gone));
        self.void_unannounced(netns_cookie, look.dump, &unannounced);
        let mut has_transparent = look.has_transparent;
        if let Some(namespace) = self.namespaces.get_mut(&netns_cookie) {
            match look.scope {
                Scope::All => namespace.has_transparent = has_transparent,
                // It has not seen the others.
                Scope::Ports(_) => has_transparent |= namespace.has_transparent,
            }
        }
        let trouble = match (self.feed, look.has_sk_lookup, has_transparent) {
            (None | Some(false), ..) => Some(Why::SelfTest),
            (_, true, _) => Some(Why::SkLookup),
            (_, _, true) => Some(Why::Transparent),
            _ => None,
        };
        let are_well = self.listeners.are_well(netns_cookie, look.dump);
        self.publish(&Scene { netns_cookie, dump: look.dump, scope: look.scope, trouble, are_well }, now);
        self.stats.looks.fetch_add(1, Relaxed);
        self.stats.stray_drops.store(self.listeners.stray_drops(), Relaxed);
    }

    /// What the dump listed: what is known is brought up to date, what no event told of is put into the table. Which that was.
    fn take_in<'a>(&mut self, netns_cookie: u64, look: &'a Look) -> Vec<&'a DiagListener> {
        let mut unannounced = Vec::new();
        for diag in &look.listed {
            let Some(Namespace { ports, .. }) = self.namespaces.get_mut(&netns_cookie) else { continue };
            match self.listeners.show(netns_cookie, diag, look.dump) {
                Shown::Known => continue,
                Shown::Moved { from } => {
                    for port in [from, diag.port] {
                        ports.entry(port).and_modify(|port| port.is_changed = true);
                    }
                    continue;
                }
                // Nobody depends on it; or it was listed, and closed after that.
                Shown::Unknown if !ports.contains_key(&diag.port) || look.closed.contains(&diag.socket_cookie) => {
                    continue;
                }
                Shown::Unknown => {}
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

    /// The ports of a look where something may be other than at the last one: these, and those of which an event told.
    fn regroup_changed(&mut self, netns_cookie: u64, scope: &Scope, ports: impl Iterator<Item = u16>) {
        let Some(namespace) = self.namespaces.get_mut(&netns_cookie) else { return };
        for port in ports {
            namespace.ports.entry(port).and_modify(|port| port.is_changed = true);
        }
        let mut changed = Vec::new();
        namespace.each_port(scope, |number, port| changed.extend(Some(number).filter(|_| port.is_changed)));
        for port in changed {
            self.regroup(netns_cookie, port);
        }
    }

    /// A listener that no event announced, and whose counter did not move since the look that did not show it: the program
    /// missed it, so leases were granted without knowing of it.
    fn void_unannounced(&mut self, netns_cookie: u64, dump: Dump, unannounced: &[&DiagListener]) {
        let Some(namespace) = self.namespaces.get(&netns_cookie) else { return };
        for diag in unannounced {
            let Some(port) = namespace.ports.get(&diag.port) else { continue };
            let (Some((id, value)), Some((_, looked))) = (port.look, port.looked) else { continue };
            if id != dump.id || value != looked {
                continue;
            }
            let listening = self.listeners.inside(netns_cookie).at(diag.port);
            let could_answer = port.groups().filter(|(class, _)| {
                listening.candidates(*class).any(|listener| listener.socket_cookie == diag.socket_cookie)
            });
            let targets = could_answer.flat_map(|(_, group)| self.groups[group].targets());
            for target in targets.filter_map(|index| self.targets[index].target.upgrade()) {
                let is_void = target.void(Why::Changed);
                self.stats.voids.fetch_add(u64::from(is_void), Relaxed);
                self.stats.unannounced.fetch_add(1, Relaxed);
            }
            info!(addr = %SocketAddr::new(diag.addr, diag.port), "a listener that no event announced");
        }
    }

    /// Tells every group of this look what was found.
    fn publish(&mut self, scene: &Scene, now: Instant) {
        let Some(namespace) = self.namespaces.get_mut(&scene.netns_cookie) else { return };
        let is_whole = scene.dump.began >= self.lost_at + limits::TENTATIVE_MAX;
        if is_whole && scene.scope == Scope::All && std::mem::take(&mut namespace.is_lossy) {
            self.stats.reconciles.fetch_add(1, Relaxed);
        }
        let can_settle = is_whole && self.feed == Some(true);
        // Ports that wait for something to come to rest.
        let mut unsettled: Option<Scope> = None;
        let mut queues = Vec::new();
        let (inside, groups) = (self.listeners.inside(scene.netns_cookie), &mut self.groups);
        namespace.each_port(&scene.scope, |number, port| {
            let Some((_, value)) = port.look.take_if(|(id, _)| *id == scene.dump.id) else { return };
            port.looked = Some((scene.dump.id, value));
            let listening = inside.at(number);
            let is_tentative = !scene.are_well && (inside.is_unclear(number, scene.dump) || listening.has_tentative());
            let settles = !is_tentative && can_settle && scene.dump.began >= port.settle_from;
            let mut is_unsettled = is_tentative;
            for (class, key) in port.groups() {
                let judgement = judge(scene, listening, class);
                is_unsettled |= judgement.is_doubtful;
                let members = &mut groups[key];
                queues.extend(publish_look(members, scene, &judgement).map(|queue| (key, queue)));
                if settles {
                    members.group.settle(value);
                }
            }
            if is_unsettled {
                unsettled.get_or_insert_with(|| Scope::Ports(Vec::new())).add(Scope::Ports(vec![number]));
            }
        });
        match unsettled {
            Some(scope) => {
                namespace.wait = (namespace.wait * 2).min(limits::SWEEP_PERIOD);
                namespace.want_look(scope, now);
            }
            None => namespace.wait = limits::CONFIRM_WAIT_MIN,
        }
        for (key, queue) in queues {
            self.tell_queue(key, queue);
        }
        let contradicted = self.contradicted(scene);
        for target in contradicted {
            self.contradict(scene.netns_cookie, target, now);
        }
    }

    /// Failed audits are judged by a look that began after them: the counter has not moved since before the connect, and no
    /// accept queue explains the failure.
    fn contradicted(&mut self, scene: &Scene) -> Vec<Arc<Target>> {
        let Some(namespace) = self.namespaces.get(&scene.netns_cookie) else { return Vec::new() };
        let due = namespace.audits.iter().filter(|(_, audit)| audit.at <= scene.dump.began);
        let due: Vec<(usize, Audit)> = due.map(|(index, audit)| (*index, *audit)).collect();
        let mut contradicted = Vec::new();
        for (index, audit) in due {
            let Some(members) = self.group_of(index) else { continue };
            let ports = self.namespaces.get(&scene.netns_cookie).map(|namespace| &namespace.ports);
            let Some(port) = ports.and_then(|ports| ports.get(&members.port)) else { continue };
            // Not of this look: the next one tells.
            let Some((_, value)) = port.looked.filter(|(id, _)| *id == scene.dump.id) else { continue };
            let target = self.targets[index].target.upgrade();
            // A change on the way, say.
            let target = target.filter(|target| target.epoch() == audit.epoch);
            let is_explained = members.trouble.is_some_and(|why| !matches!(why, Why::NoListener | Why::Tentative));
            let is_unmoved = value == audit.value && self.counters.load(port.place.slot) == audit.value;
            contradicted.extend(target.filter(|_| is_unmoved && !is_explained));
            if let Some(namespace) = self.namespaces.get_mut(&scene.netns_cookie) {
                namespace.audits.remove(&index);
            }
        }
        contradicted
    }

    fn contradict(&mut self, netns_cookie: u64, target: Arc<Target>, now: Instant) {
        self.stats.contradictions.fetch_add(1, Relaxed);
        let everywhere = self
            .contradiction
            .is_some_and(|(other, at)| other != netns_cookie && now - at <= limits::CONTRADICTIONS_WITHIN);
        self.contradiction = Some((netns_cookie, now));
        warn!(
            pod = %target.pod.name, addr = %target.addr(), everywhere,
            "a connect failed where the kernel reported no change: the passive answers of its network namespace end",
        );
        if everywhere {
            self.void_all(Why::Contradicted);
        } else {
            let here = self.groups.iter().filter(|(_, members)| members.netns_cookie == netns_cookie);
            let here = here.flat_map(|(_, members)| members.targets());
            let here = here.filter_map(|index| self.targets[index].target.upgrade());
            let voided = here.filter(|target| target.void(Why::Contradicted)).count();
            self.stats.voids.fetch_add(voided as u64, Relaxed);
        }
        self.notify(Notice::Contradicted { target, everywhere });
    }
}

impl Namespace {
    /// Not so soon that dumps of this namespace take more than their share of the time.
    fn want_look(&mut self, scope: Scope, now: Instant) {
        let (began, took) = self.last;
        let at = (now + self.wait).max(began + took * limits::CONFIRM_SHARE);
        match &mut self.due {
            None => self.due = Some((at, scope)),
            Some((due, wanted)) => {
                *due = at.min(*due);
                wanted.add(scope);
            }
        }
    }

    /// With targets.
    fn each_port(&mut self, scope: &Scope, mut each: impl FnMut(u16, &mut Port)) {
        match scope {
            Scope::All => self.ports.iter_mut().for_each(|(number, port)| each(*number, port)),
            Scope::Ports(ports) => {
                for number in ports {
                    if let Some(port) = self.ports.get_mut(number) {
                        each(*number, port);
                    }
                }
            }
        }
    }
}

/// Tells a group what was found. What is to be told of its accept queues, where that is another state than before.
fn publish_look(members: &mut Members, scene: &Scene, judgement: &Judgement) -> Option<Option<Culprit>> {
    members.trouble = judgement.trouble;
    match judgement.trouble {
        Some(why) => members.group.look_troubled(why),
        // The one before holds until it is too old.
        None if judgement.is_doubtful => return None,
        None => members.group.look_healthy(scene.dump.began + limits::LOOK_AGE_MAX),
    }
    let why = judgement.trouble.filter(|why| matches!(why, Why::AcceptQueueFull | Why::AcceptStalled));
    if members.is_queue(why) {
        return None;
    }
    let culprit = why.zip(judgement.culprit);
    Some(culprit.map(|(why, (listener, len, max))| Culprit { why, listener, len, max }))
}

fn judge(scene: &Scene, listening: Listening<'_>, class: Class) -> Judgement {
    let mut judgement = Judgement { trouble: scene.trouble, culprit: None, is_doubtful: false };
    if scene.trouble.is_some() {
        return judgement;
    }
    if scene.are_well {
        judgement.trouble = (!listening.has_candidate(class)).then_some(Why::NoListener);
        return judgement;
    }
    let candidates = || listening.candidates(class);
    let is_well =
        |listener: &Listener| listener.is_confirmed() && listener.was_shown(scene.dump) && listener.trouble().is_none();
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
