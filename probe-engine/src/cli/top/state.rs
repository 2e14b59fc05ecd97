//! What `top` knows and where the operator is in it. Pure: messages, commands and the time come in, the view reads.

use std::collections::{HashMap, HashSet, VecDeque};

use jiff::{SignedDuration, Timestamp};

use super::feed::{Message, PodKey, Wants};
use super::keys::Command;
use super::row::{Row, Sort};
use crate::api::v1;
use crate::limits;

/// Messages of the node over which what is told a second is averaged.
const RATE_SAMPLES: usize = 10;

/// What a bar of the curves covers, in nanoseconds: 60 of them are five minutes.
const BAR_NS: u64 = 5_000_000_000;

/// A node that says nothing for so long is not well: it speaks each second.
const SILENCE: SignedDuration = SignedDuration::from_secs(5);

/// Characters of a search at most; more are not taken.
const SEARCH_CHARS_MAX: usize = 64;

/// How it stands with the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// It answers.
    Up,
    /// It does not, since then, and why.
    Lost { since: Timestamp, why: String },
}

/// What one message of the node is remembered by.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    uptime_ns: u64,
    attempts: u64,
    passive: u64,
    failed: u64,
}

/// What a bar of the curves shows.
#[derive(Clone, Copy, Debug)]
struct Bar {
    /// Which [`BAR_NS`] of the daemon's life it covers.
    at: u64,
    /// The highest in it.
    per_second: f64,
    /// The highest in it.
    lateness_p99_ns: u64,
}

/// What is told a second, of the last [`RATE_SAMPLES`] messages; of the first one, since the daemon started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rates {
    /// 0 to 1
    pub(super) passive_share: f64,
    pub(super) failures_per_second: f64,
}

/// A pod looked at on its own.
#[derive(Clone, Debug)]
pub(super) struct Page {
    pub(super) key: PodKey,
    /// The newest that was heard of it.
    pub(super) pod: Option<v1::Pod>,
    /// It is there no more.
    pub(super) is_gone: bool,
    /// The newest first; at most [`limits::TOP_EVENTS_LEN_MAX`], the oldest go.
    pub(super) events: VecDeque<v1::Event>,
    /// Lines that are above the first one shown.
    pub(super) scroll: usize,
}

/// What an operator's command asks of the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing but to be drawn.
    Draw,
    /// Everything drawn anew.
    Redraw,
    /// Stop, as a shell's job.
    Suspend,
    /// The end.
    Quit,
}

/// See the module.
#[derive(Debug)]
pub(super) struct State {
    pub(super) link: Link,
    pub(super) info: v1::GetInfoResponse,
    pub(super) node: Option<v1::WatchNodeResponse>,
    /// When the node was heard of last.
    heard_at: Option<Timestamp>,
    /// The last [`RATE_SAMPLES`].
    samples: VecDeque<Sample>,
    /// The newest last; at most [`limits::TOP_BARS_LEN_MAX`], the oldest go.
    bars: VecDeque<Bar>,
    rows: Vec<Row>,
    by_uid: HashMap<String, usize>,
    /// While a snapshot comes in: the UIDs that were in it.
    arriving: Option<HashSet<String>>,
    /// A snapshot was had in whole.
    pub(super) is_synced: bool,
    /// Indices of the rows that are shown, in order; old where `is_stale`.
    order: Vec<usize>,
    is_stale: bool,
    pub(super) sort: Sort,
    pub(super) is_reversed: bool,
    pub(super) failing_only: bool,
    pub(super) search: String,
    /// The search is being typed.
    pub(super) is_searching: bool,
    pub(super) other_columns: bool,
    pub(super) is_help: bool,
    /// UID of the row that the operator has gone to; none = the first one, whichever that is.
    selected: Option<String>,
    /// Rows above the first one shown.
    offset: usize,
    /// Rows that are shown.
    height: usize,
    pub(super) page: Option<Page>,
    /// It is printed, not drawn: nobody has keys.
    pub(super) is_printed: bool,
}

impl State {
    /// Of a daemon that has just answered.
    pub(super) fn new(info: v1::GetInfoResponse) -> Self {
        Self {
            link: Link::Up,
            info,
            node: None,
            heard_at: None,
            samples: VecDeque::new(),
            bars: VecDeque::new(),
            rows: Vec::new(),
            by_uid: HashMap::new(),
            arriving: None,
            is_synced: false,
            order: Vec::new(),
            is_stale: true,
            sort: Sort::default(),
            is_reversed: false,
            failing_only: false,
            search: String::new(),
            is_searching: false,
            other_columns: false,
            is_help: false,
            selected: None,
            offset: 0,
            height: 0,
            page: None,
            is_printed: false,
        }
    }

    /// Takes in what the feed tells.
    pub(super) fn hear(&mut self, message: Message, now: Timestamp) {
        match message {
            Message::Connected(info) => {
                if (&info.instance, info.pid) != (&self.info.instance, self.info.pid) {
                    self.forget_counts();
                    // Their sequence numbers begin anew.
                    if let Some(page) = &mut self.page {
                        page.events.clear();
                    }
                }
                self.info = *info;
                self.link = Link::Up;
            }
            Message::Lost(why) => {
                let since = match &self.link {
                    Link::Lost { since, .. } => *since,
                    Link::Up => now,
                };
                self.link = Link::Lost { since, why };
            }
            Message::Node(node) => {
                self.heard_at = Some(now);
                self.hear_node(*node);
            }
            Message::Snapshot => self.arriving = Some(HashSet::new()),
            Message::Pods(pods) => pods.iter().for_each(|pod| self.put(pod)),
            Message::Looked(pods) => {
                for pod in &pods {
                    // One that has gone since was told to be gone.
                    if self.by_uid.contains_key(&pod.uid) {
                        self.put(pod);
                    }
                }
            }
            Message::Gone(uid) => self.take(&uid),
            Message::Synced => self.synced(),
            Message::Page(key, pod) => self.hear_page(&key, pod.map(|pod| *pod)),
            Message::Event(key, event) => self.hear_event(&key, *event),
        }
    }

    fn hear_node(&mut self, node: v1::WatchNodeResponse) {
        let sum = |count: fn(&v1::HandlerCounts) -> u64| node.handlers.iter().map(count).sum::<u64>();
        let passive = sum(|of| of.passive_count);
        let failed = sum(|of| of.failed_count);
        let sample = Sample {
            uptime_ns: node.uptime_ns,
            attempts: sum(|of| of.successful_count) + failed + passive,
            passive,
            failed,
        };
        // Another daemon's counts say nothing beside these.
        if self.samples.back().is_some_and(|newest| newest.uptime_ns > sample.uptime_ns) {
            self.forget_counts();
        }
        if self.samples.len() == RATE_SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
        let bar = Bar {
            at: node.uptime_ns / BAR_NS,
            per_second: node.attempts_per_second,
            lateness_p99_ns: node.lateness.as_ref().map_or(0, |lateness| lateness.p99_ns),
        };
        self.draw_bar(bar);
        self.node = Some(node);
    }

    fn draw_bar(&mut self, bar: Bar) {
        match self.bars.back_mut() {
            Some(newest) if newest.at == bar.at => {
                newest.per_second = newest.per_second.max(bar.per_second);
                newest.lateness_p99_ns = newest.lateness_p99_ns.max(bar.lateness_p99_ns);
            }
            _ => {
                if self.bars.len() == limits::TOP_BARS_LEN_MAX {
                    self.bars.pop_front();
                }
                self.bars.push_back(bar);
            }
        }
    }

    fn forget_counts(&mut self) {
        self.samples.clear();
        self.bars.clear();
    }

    fn put(&mut self, pod: &v1::Pod) {
        if let Some(arriving) = &mut self.arriving {
            arriving.insert(pod.uid.clone());
        }
        let row = Row::of(pod);
        match self.by_uid.get(&pod.uid) {
            Some(at) => self.rows[*at] = row,
            None => {
                self.by_uid.insert(pod.uid.clone(), self.rows.len());
                self.rows.push(row);
            }
        }
        self.is_stale = true;
    }

    fn take(&mut self, uid: &str) {
        let Some(at) = self.by_uid.remove(uid) else { return };
        self.rows.swap_remove(at);
        if let Some(moved) = self.rows.get(at) {
            self.by_uid.insert(moved.uid.clone(), at);
        }
        // The indices in the old order mean nothing any more.
        self.order.clear();
        self.is_stale = true;
    }

    fn synced(&mut self) {
        self.is_synced = true;
        let Some(arrived) = self.arriving.take() else { return };
        let gone: Vec<String> = self.by_uid.keys().filter(|uid| !arrived.contains(*uid)).cloned().collect();
        gone.iter().for_each(|uid| self.take(uid));
    }

    fn hear_page(&mut self, key: &PodKey, pod: Option<v1::Pod>) {
        let Some(page) = self.page.as_mut().filter(|page| page.key == *key) else { return };
        page.is_gone = pod.is_none();
        if let Some(pod) = pod {
            // Of the pod of that name before it.
            page.events.retain(|event| event.pod_uid == pod.uid);
            page.pod = Some(pod);
        }
    }

    fn hear_event(&mut self, key: &PodKey, event: v1::Event) {
        let Some(page) = self.page.as_mut().filter(|page| page.key == *key) else { return };
        if page.pod.as_ref().is_some_and(|pod| pod.uid != event.pod_uid) {
            return;
        }
        // One that is heard again, after a connection that was lost, and the one of its series that is older.
        page.events.retain(|known| known.sequence != event.sequence && known.name != event.name);
        page.events.push_front(event);
        page.events.truncate(limits::TOP_EVENTS_LEN_MAX);
    }

    /// Does what the operator asks.
    pub(super) fn obey(&mut self, command: Command) -> Effect {
        match command {
            Command::Quit => return Effect::Quit,
            Command::Suspend => return Effect::Suspend,
            Command::Redraw => return Effect::Redraw,
            Command::Help => self.is_help = !self.is_help,
            Command::Back => self.back(),
            _ if self.is_help => self.is_help = false,
            Command::Type(c) => {
                if self.search.chars().count() < SEARCH_CHARS_MAX {
                    self.search.push(c);
                }
                self.reorder();
            }
            Command::Erase => {
                self.search.pop();
                self.reorder();
            }
            Command::EraseAll => {
                self.search.clear();
                self.reorder();
            }
            Command::Accept => self.is_searching = false,
            Command::Move(by) => self.go(by),
            Command::MovePages(by) => self.go(by * isize::try_from(self.height.max(2) - 1).unwrap_or(1)),
            Command::First => self.go(isize::MIN),
            Command::Last => self.go(isize::MAX),
            _ if self.page.is_some() => {}
            Command::Search => self.is_searching = true,
            Command::Open => self.open(),
            Command::FailingOnly => {
                self.failing_only = !self.failing_only;
                self.reorder();
            }
            Command::Sort { forward } => {
                self.sort = self.sort.step(forward);
                self.is_reversed = false;
                self.reorder();
            }
            Command::Reverse => {
                self.is_reversed = !self.is_reversed;
                self.reorder();
            }
            Command::Columns => self.other_columns = !self.other_columns,
        }
        Effect::Draw
    }

    /// One step out: help, the search that is typed, the page, the search, the filter.
    fn back(&mut self) {
        if self.is_help {
            self.is_help = false;
        } else if self.is_searching {
            self.is_searching = false;
            self.search.clear();
            self.reorder();
        } else if self.page.take().is_some() {
        } else if !self.search.is_empty() {
            self.search.clear();
            self.reorder();
        } else if self.failing_only {
            self.failing_only = false;
            self.reorder();
        } else {
            self.selected = None;
            self.offset = 0;
        }
    }

    fn open(&mut self) {
        let Some(row) = self.selected_row() else { return };
        let key = PodKey { namespace: row.raw.0.clone(), name: row.raw.1.clone() };
        self.selected = Some(row.uid.clone());
        self.page = Some(Page { key, pod: None, is_gone: false, events: VecDeque::new(), scroll: 0 });
    }

    fn go(&mut self, by: isize) {
        if let Some(page) = &mut self.page {
            // The view knows where it ends.
            page.scroll = page.scroll.saturating_add_signed(by);
            return;
        }
        self.settle_order();
        let Some(last) = self.order.len().checked_sub(1) else { return };
        let to = self.selected_at().saturating_add_signed(by).min(last);
        self.selected = Some(self.rows[self.order[to]].uid.clone());
    }

    /// Other rows, or in another order: where the operator has not gone to one, the first stays the first.
    fn reorder(&mut self) {
        self.is_stale = true;
        self.offset = 0;
    }

    /// Puts the rows in order and keeps the selected one among the `height` that are shown.
    pub(super) fn settle(&mut self, height: usize) {
        self.height = height;
        self.settle_order();
        let at = self.selected_at();
        if at < self.offset {
            self.offset = at;
        }
        if at >= self.offset + height.max(1) {
            self.offset = at + 1 - height.max(1);
        }
        self.offset = self.offset.min(self.order.len().saturating_sub(height));
    }

    fn settle_order(&mut self) {
        if !std::mem::take(&mut self.is_stale) {
            return;
        }
        let search = self.search.to_lowercase();
        let rows = &self.rows;
        let is_shown = |row: &Row| (!self.failing_only || row.is_failing()) && row.holds(&search);
        self.order = (0..rows.len()).filter(|at| is_shown(&rows[*at])).collect();
        self.order.sort_unstable_by(|a, b| self.sort.compare(&rows[*a], &rows[*b]));
        if self.is_reversed {
            self.order.reverse();
        }
    }

    /// The rows that are shown, the selected one marked.
    pub(super) fn shown(&self) -> impl Iterator<Item = (bool, &Row)> {
        let selected = self.selected_at();
        let shown = self.order.iter().enumerate().skip(self.offset).take(self.height);
        shown.map(move |(at, row)| (at == selected, &self.rows[*row]))
    }

    /// Rows in the order, wherever the operator is.
    pub(super) fn matching_count(&self) -> usize {
        self.order.len()
    }

    /// Place of the first row shown, from 0.
    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    pub(super) fn pods_count(&self) -> usize {
        self.rows.len()
    }

    fn selected_row(&mut self) -> Option<&Row> {
        self.settle_order();
        self.order.get(self.selected_at()).map(|at| &self.rows[*at])
    }

    /// The place of the selected row; of one that is not shown any more, that of the first that is on the screen.
    fn selected_at(&self) -> usize {
        let Some(uid) = &self.selected else { return 0 };
        let row = self.by_uid.get(uid);
        let at = row.and_then(|row| self.order.iter().position(|at| at == row));
        at.unwrap_or_else(|| self.offset.min(self.order.len().saturating_sub(1)))
    }

    /// What the feed should ask for besides what it always tells.
    pub(super) fn wants(&self) -> Wants {
        let key = |row: &Row| PodKey { namespace: row.raw.0.clone(), name: row.raw.1.clone() };
        match &self.page {
            Some(page) => Wants { page: Some(page.key.clone()), looked_at: Vec::new() },
            None => Wants { page: None, looked_at: self.shown().map(|(_, row)| key(row)).collect() },
        }
    }

    /// Since when a daemon whose connection stands has said nothing: it is stopped, or starved.
    pub(super) fn silent_since(&self, now: Timestamp) -> Option<Timestamp> {
        self.heard_at.filter(|at| now.duration_since(*at) > SILENCE && self.link == Link::Up)
    }

    pub(super) fn rates(&self) -> Rates {
        let Some(newest) = self.samples.back() else { return Rates::default() };
        let oldest = match self.samples.len() {
            1 => Sample::default(),
            _ => self.samples[0],
        };
        let attempts = newest.attempts.saturating_sub(oldest.attempts);
        let seconds = newest.uptime_ns.saturating_sub(oldest.uptime_ns) as f64 / 1e9;
        let share = |count: u64, of: f64| if of > 0.0 { count as f64 / of } else { 0.0 };
        Rates {
            passive_share: share(newest.passive.saturating_sub(oldest.passive), attempts as f64),
            failures_per_second: share(newest.failed.saturating_sub(oldest.failed), seconds),
        }
    }

    /// Attempts a second, the newest last.
    pub(super) fn rate_history(&self) -> impl DoubleEndedIterator<Item = f64> + Clone {
        self.bars.iter().map(|bar| bar.per_second)
    }

    /// p99 of lateness in nanoseconds, the newest last.
    pub(super) fn lateness_history(&self) -> impl DoubleEndedIterator<Item = f64> + Clone {
        self.bars.iter().map(|bar| bar.lateness_p99_ns as f64)
    }
}
