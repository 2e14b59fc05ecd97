//! Virtual time, what happens in it, and the weather: everything outside the shard but the network and the pods.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use probe_core::time::Instant;

use super::net::{Net, NetEvent, SocketKey};
use super::passive::Watch;
use super::pods::{Act, Pods};
use super::random::Random;

/// Lines of a transcript that are kept.
const LINES_MAX: usize = 60;

/// What reading the clock and entering the kernel cost.
const STEP: Duration = Duration::from_nanos(400);

/// How long after a stall the kernel's own work, held up with us, is done at the latest. Below the shard's second look.
const STARVED_MAX: Duration = Duration::from_millis(45);

/// What goes wrong, and how often in ten thousand chances. All zero is calm.
#[derive(Clone, Debug, Default)]
pub struct Weather {
    /// The shard's thread is not scheduled for a while.
    pub stalls: u64,
    /// Longest of these.
    pub stall_max: Duration,
    /// A stall holds up the kernel's softirqs with it.
    pub starves: u64,
    /// Less is read or sent than could be.
    pub short: u64,
    /// A connection is reset that should not be.
    pub resets: u64,
    /// socket(2) fails for want of something of our own.
    pub socket_errors: u64,
    /// connect, send or recv do.
    pub local_errors: u64,
    /// A submission is not taken.
    pub full: u64,
    /// A wait ends without a reason.
    pub spurious: u64,
    /// A cancel takes effect some flushes later.
    pub late_cancels: u64,
    /// The pool has no place.
    pub pool_full: u64,
    /// Completions that one flush gives at most, 0 = all.
    pub batch_max: u64,
}

impl Weather {
    /// A random one: some faults at a time, so that they meet in every combination but seldom all at once.
    pub fn stormy(random: &mut Random) -> Self {
        let mut rate = |of: u64, most: u64| if random.below(of) == 0 { random.range(1, most) } else { 0 };
        let mut weather = Self {
            stalls: rate(2, 300),
            stall_max: Duration::ZERO,
            starves: rate(2, 10_000),
            short: rate(2, 6_000),
            resets: rate(3, 500),
            socket_errors: rate(3, 2_000),
            local_errors: rate(4, 1_000),
            full: rate(4, 2_000),
            spurious: rate(3, 1_000),
            late_cancels: rate(2, 10_000),
            pool_full: rate(3, 5_000),
            batch_max: rate(2, 4),
        };
        weather.stall_max = random.pick(&[30, 400, 1_500, 3_000, 6_000].map(Duration::from_millis));
        weather
    }

    /// No trouble of our own is made up.
    pub fn without_local_trouble(self) -> Self {
        Self { socket_errors: 0, local_errors: 0, full: 0, ..self }
    }
}

/// What happened, as a number that any difference changes; on demand as text.
#[derive(Debug, Default)]
pub struct Transcript {
    hash: u64,
    lines: Option<VecDeque<String>>,
}

impl Transcript {
    /// Keeps the last lines as well.
    pub fn verbose() -> Self {
        Self { hash: 0, lines: Some(VecDeque::new()) }
    }

    /// Of all that was noted.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The last lines.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().flatten().map(String::as_str)
    }

    fn note(&mut self, now: Instant, what: u64, text: impl FnOnce() -> String) {
        for word in [now.as_nanos(), what] {
            self.hash = (self.hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
        if let Some(lines) = &mut self.lines {
            if lines.len() == LINES_MAX {
                lines.pop_front();
            }
            lines.push_back(format!("{now:?} {}", text()));
        }
    }
}

/// Something that will happen.
#[derive(Debug)]
pub enum Event {
    /// In the kernel.
    Net(SocketKey, NetEvent),
    /// Outside.
    Act(Act),
}

#[derive(Debug)]
struct Entry {
    at: Instant,
    order: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// What one turn of the shard saw of the clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reads {
    /// How often it was read.
    pub len: usize,
    /// The second time: when everything in the turn was decided.
    pub now: Instant,
    /// The last time.
    pub end: Instant,
}

/// See the module.
pub struct World {
    /// Virtual CLOCK_MONOTONIC.
    pub now: Instant,
    /// Every choice.
    pub random: Random,
    /// What goes wrong at present.
    pub weather: Weather,
    /// The kernel's sockets and what is at the other end of them.
    pub net: Net,
    /// Pods, and who speaks to the shard about them.
    pub pods: Pods,
    /// Who looks at the listeners, in runs with passive answers.
    pub watch: Option<Watch>,
    /// What happened.
    pub transcript: Transcript,
    /// When the shard's thread was scheduled again after its newest stall.
    pub stall_end: Instant,
    /// It has not seen the clock since.
    pub is_unaware: bool,
    /// Of the turn that is being made.
    pub reads: Reads,
    /// Somebody rang the shard's waker since it last waited.
    pub rung: bool,
    /// The node is about to sleep for so long.
    pub suspend: Option<Duration>,
    agenda: BinaryHeap<Reverse<Entry>>,
    order: u64,
}

impl World {
    /// Nothing in it yet.
    pub fn new(start: Instant, random: Random, pods: Pods, transcript: Transcript) -> Self {
        Self {
            now: start,
            random,
            weather: Weather::default(),
            net: Net::default(),
            pods,
            watch: None,
            transcript,
            stall_end: Instant::ZERO,
            is_unaware: false,
            reads: Reads::default(),
            rung: false,
            suspend: None,
            agenda: BinaryHeap::new(),
            order: 0,
        }
    }

    /// `what` goes into the hash, the text only into a transcript that somebody reads.
    pub fn note(&mut self, what: u64, text: impl FnOnce() -> String) {
        self.transcript.note(self.now, what, text);
    }

    /// Puts something on the agenda.
    pub fn schedule(&mut self, at: Instant, event: Event) {
        self.order += 1;
        self.agenda.push(Reverse(Entry { at: at.max(self.now), order: self.order, event }));
    }

    /// When something happens next.
    pub fn next_event(&self) -> Option<Instant> {
        self.agenda.peek().map(|Reverse(entry)| entry.at)
    }

    /// Time passes, and what is on the agenda happens.
    pub fn advance(&mut self, to: Instant) {
        while let Some(Reverse(entry)) = self.agenda.peek()
            && entry.at <= to
        {
            let Some(Reverse(entry)) = self.agenda.pop() else { break };
            self.now = self.now.max(entry.at);
            match entry.event {
                Event::Net(key, event) => self.net_event(key, event),
                Event::Act(act) => self.act(act),
            }
        }
        self.now = self.now.max(to);
    }

    /// The shard reads the clock: it may be made to wait before it does, and after it did.
    pub fn read_clock(&mut self) -> Instant {
        self.now = self.now + STEP;
        self.may_stall();
        let read = self.now;
        self.is_unaware = false;
        self.reads.len += 1;
        self.reads.end = read;
        if self.reads.len == 2 {
            self.reads.now = read;
        }
        self.may_stall();
        if self.reads.len == 2 {
            self.take_notice_of_commands(read);
        }
        read
    }

    /// The shard's thread may lose its processor here.
    pub fn may_stall(&mut self) {
        self.now = self.now + STEP;
        if let Some(length) = self.suspend.take() {
            let starves = length > self.weather.stall_max || self.random.chance(self.weather.starves);
            return self.stall(length, starves);
        }
        if !self.random.chance(self.weather.stalls) {
            return;
        }
        let most = self.weather.stall_max;
        let most = if self.random.below(3) == 0 { most } else { most / 20 };
        let length = self.random.duration(Duration::from_micros(100), most);
        let starves = self.random.chance(self.weather.starves);
        self.stall(length, starves);
    }

    /// The shard's thread is not scheduled for so long; `starves`: nor are the softirqs, which catch up a little later.
    pub fn stall(&mut self, length: Duration, starves: bool) {
        let until = self.now + length;
        self.note(1, || format!("the shard is held up for {length:?}{}", if starves { ", softirqs too" } else { "" }));
        if starves {
            let late = self.random.duration(Duration::from_micros(10), STARVED_MAX);
            self.hold_up(until, until + late);
        }
        self.is_unaware = false;
        self.advance(until);
        self.net.stalled(until);
        self.stall_end = until;
        self.is_unaware = true;
    }

    /// What the kernel would have done before `late` it does then, in the same order.
    fn hold_up(&mut self, until: Instant, late: Instant) {
        let mut held: Vec<Entry> = Vec::new();
        let mut rest: Vec<Reverse<Entry>> = Vec::new();
        for Reverse(entry) in self.agenda.drain() {
            match entry.event {
                Event::Net(..) if entry.at <= late => held.push(entry),
                _ => rest.push(Reverse(entry)),
            }
        }
        self.agenda.extend(rest);
        held.sort_unstable();
        for Entry { event, .. } in held {
            if let Event::Net(key, _) = &event {
                self.net.starved(*key, until);
            }
            self.schedule(late, event);
        }
    }
}
