//! A hierarchical timing wheel over slab indices: one timer per index, O(1) insert and cancel, 1 ms ticks.
//!
//! The first level has 4,096 slots of one tick, so that the timer of a probe with the usual period is filed once or twice. Four
//! more have 64 slots each, of 4,096 * 64^(l-1) ticks: together they span 2.1 years; a deadline beyond that waits in the
//! farthest slot and is filed again when the wheel gets there.
//!
//! The indices of a slot's timers lie in **chunks** of a cache line each, chained, so that a slot of hundreds is read as fast as
//! memory gives them: in a list through the timers themselves each would have to arrive before the next is known. What is
//! known of a timer lies in one array indexed like the caller's slab, with its place among the chunks. Nothing is allocated
//! once both have grown to the slab's size, which is also the bound of the wheel.
//!
//! **Invariant:** every linked timer of the first level lies less than 4,096 ticks ahead of `elapsed`, every one of a level
//! `l > 0` in another slot of that level than `elapsed` and less than 64 slots ahead. So the earliest occupied slot is found by
//! a look at each level's bits, and a jump of hours costs one visit per occupied slot, not one per tick.
//! **Invariant:** of a slot's chunks only the first may have room.
//!
//! (Varghese and Lauck, "Hashed and Hierarchical Timing Wheels", scheme 7.)

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::time::Instant;

/// The wheel's resolution in nanoseconds: a timer fires up to this much after its deadline, never before.
pub const TICK_NS: u64 = 1_000_000;

/// Of the first level.
const FINE_BITS: u32 = 12;
const FINE_LEN: usize = 1 << FINE_BITS;
/// Of each other level.
const COARSE_BITS: u32 = 6;
const COARSE_LEN: usize = 1 << COARSE_BITS;
/// Levels but the first.
const COARSE_LEVELS: usize = 4;
const SLOTS_LEN: usize = FINE_LEN + COARSE_LEVELS * COARSE_LEN;
/// The last of them.
const LAST_LEVEL: usize = COARSE_LEVELS - 1;
/// Farthest place ahead: 63 slots of the last level, so that a timer never lies in the slot of `elapsed` there.
const SPAN_TICKS: u64 = (COARSE_LEN as u64 - 1) << shift(LAST_LEVEL);

/// Of a coarse level: bits of a tick below its slots.
const fn shift(level: usize) -> u32 {
    FINE_BITS + COARSE_BITS * level as u32
}

const NIL: u32 = u32::MAX;
const UNLINKED: u16 = u16::MAX;

/// Timers in a chunk.
const CHUNK_LEN: usize = 15;

/// See the module.
#[derive(Clone)]
pub struct Wheel {
    /// All earlier ticks have been handed out.
    elapsed: u64,
    /// One bit per slot of the first level that holds a timer, and one per word of those that is not 0.
    fine: Box<[u64; FINE_LEN / 64]>,
    fine_words: u64,
    /// One bit per slot of each coarse level.
    coarse: [u64; COARSE_LEVELS],
    /// Those of the first level, then those of each other.
    slots: Box<[List]>,
    chunks: Chunks,
    /// Indexed by the caller's indices.
    timers: Vec<Timer>,
    len: usize,
}

/// The chunks of a slot: the first one, and how many timers that one has. All others are full.
#[derive(Clone, Copy)]
struct List {
    first: u32,
    len: u32,
}

/// Indices of timers of one slot.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Chunk {
    indices: [u32; CHUNK_LEN],
    /// The next one of the slot, or of those that are free.
    next: u32,
}

const _: () = assert!(size_of::<Chunk>() == 64, "one cache line");

/// A slab of chunks.
#[derive(Clone)]
struct Chunks {
    all: Vec<Chunk>,
    free: u32,
}

/// There is one for every worker of a node, so its tick is kept in 48 bits: those of `u64::MAX` nanoseconds are below 2^45.
#[derive(Clone, Copy)]
struct Timer {
    tick_low: u32,
    tick_high: u16,
    /// Position in `slots`, or [`UNLINKED`].
    slot: u16,
    chunk: Place,
}

/// Where an index stands: 28 bits of chunk, 4 of position in it.
#[derive(Clone, Copy)]
struct Place(u32);

const _: () = assert!(SLOTS_LEN < UNLINKED as usize);
const _: () = assert!(size_of::<Timer>() == 12 && u64::MAX / TICK_NS < 1 << 48 && CHUNK_LEN < 16);

impl Timer {
    fn tick(&self) -> u64 {
        u64::from(self.tick_high) << 32 | u64::from(self.tick_low)
    }

    fn set_tick(&mut self, tick: u64) {
        self.tick_low = tick as u32;
        self.tick_high = (tick >> 32) as u16;
    }
}

impl Place {
    fn new(chunk: u32, at: u32) -> Self {
        Self(chunk << 4 | at)
    }
}

const EMPTY: List = List { first: NIL, len: 0 };
const UNUSED: Timer = Timer { tick_low: 0, tick_high: 0, slot: UNLINKED, chunk: Place(NIL) };

impl Wheel {
    /// An empty wheel that starts at `now`.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            elapsed: now.as_nanos() / TICK_NS,
            fine: Box::new([0; FINE_LEN / 64]),
            fine_words: 0,
            coarse: [0; COARSE_LEVELS],
            slots: alloc::vec![EMPTY; SLOTS_LEN].into_boxed_slice(),
            chunks: Chunks { all: Vec::new(), free: NIL },
            timers: Vec::new(),
            len: 0,
        }
    }

    /// Makes room for the indices `0..len`, so that inserting them allocates nothing.
    pub fn reserve(&mut self, len: usize) {
        self.grow(len);
        // A slot wastes less than one.
        let chunks = len / CHUNK_LEN + len.min(self.slots.len());
        self.chunks.all.reserve(chunks.saturating_sub(self.chunks.all.len()));
    }

    /// Timers that have not fired.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// No timer is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sets the timer of `index` (below 2^32 - 1; at most 2^31 of them), in place of an earlier one. A deadline that has passed
    /// fires at the next [`Wheel::advance`].
    pub fn insert(&mut self, index: u32, deadline: Instant) {
        self.grow(index as usize + 1);
        self.cancel(index);
        self.timers[index as usize].set_tick(deadline.as_nanos().div_ceil(TICK_NS));
        self.link(index);
        self.len += 1;
    }

    /// Takes the timer of `index` back; false where none was set.
    pub fn cancel(&mut self, index: u32) -> bool {
        let linked = self.timers.get(index as usize).is_some_and(|timer| timer.slot != UNLINKED);
        if linked {
            self.unlink(index);
            self.len -= 1;
        }
        linked
    }

    /// Moves the wheel to `now` and hands every timer that fired to `fired`, in the order of their ticks; those of one tick in
    /// no order. A slot is emptied as a whole.
    pub fn advance(&mut self, now: Instant, mut fired: impl FnMut(u32)) {
        let now_tick = now.as_nanos() / TICK_NS;
        while let Some((start, slot)) = self.first_slot().filter(|(start, _)| *start <= now_tick) {
            self.elapsed = start;
            let mut list = core::mem::replace(&mut self.slots[slot], EMPTY);
            debug_assert!(list.first != NIL, "a slot without timers is marked");
            self.mark(slot, false);
            let is_coarse = slot >= FINE_LEN;
            while let Some((indices, len)) = self.chunks.pop(&mut list) {
                for &index in &indices[..len] {
                    if is_coarse {
                        // `elapsed` stands at the slot's start: it goes to a lower level, or ahead where it had been clamped to
                        // the span.
                        self.link(index);
                        debug_assert!(usize::from(self.timers[index as usize].slot) != slot, "it stays where it was");
                        continue;
                    }
                    self.timers[index as usize].slot = UNLINKED;
                    fired(index);
                }
                self.len -= if is_coarse { 0 } else { len };
            }
        }
        self.elapsed = self.elapsed.max(now_tick);
    }

    /// When the wheel wants to be moved next: never after the earliest timer's tick. It may be before it, where
    /// that timer still lies in a wide slot; moving the wheel there makes the next answer finer, at most four times.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Instant> {
        self.first_slot().map(|(start, _)| Instant::from_nanos(start.saturating_mul(TICK_NS)))
    }

    fn grow(&mut self, len: usize) {
        if self.timers.len() < len {
            self.timers.resize(len, UNUSED);
        }
    }

    /// First tick and position of the earliest occupied slot; of two that begin at the same tick the wider one, whose timers
    /// may belong into the other.
    fn first_slot(&self) -> Option<(u64, usize)> {
        let coarse = (0..COARSE_LEVELS).rev().filter_map(|level| self.first_coarse(level));
        coarse.chain(self.first_fine()).min_by_key(|(start, _)| *start)
    }

    fn first_fine(&self) -> Option<(u64, usize)> {
        if self.fine_words == 0 {
            return None;
        }
        let at = self.elapsed as usize % FINE_LEN;
        let (word, bit) = (at / 64, at % 64);
        let ahead_here = self.fine[word] & (u64::MAX << bit);
        let (word, bits) = if ahead_here != 0 {
            (word, ahead_here)
        } else {
            // The others in turn; the bits of this one that lie behind are the farthest.
            let next = word + 1;
            let other = (next + self.fine_words.rotate_right(next as u32).trailing_zeros() as usize) % 64;
            (other, self.fine[other])
        };
        let slot = word * 64 + bits.trailing_zeros() as usize;
        let ahead = (slot + FINE_LEN - at) % FINE_LEN;
        Some((self.elapsed + ahead as u64, slot))
    }

    fn first_coarse(&self, level: usize) -> Option<(u64, usize)> {
        let bits = self.coarse[level];
        if bits == 0 {
            return None;
        }
        let current = self.elapsed >> shift(level);
        // As many as there are bits are a whole turn: `current` needs no modulo.
        let wanted = current + u64::from(bits.rotate_right(current as u32).trailing_zeros());
        Some((wanted << shift(level), Self::coarse_slot(level, wanted)))
    }

    /// Position of the slot with this number, in ticks of its level.
    fn coarse_slot(level: usize, number: u64) -> usize {
        FINE_LEN + level * COARSE_LEN + (number % COARSE_LEN as u64) as usize
    }

    /// Notes whether a slot holds a timer.
    fn mark(&mut self, slot: usize, is_occupied: bool) {
        let set = |bits: &mut u64, bit: usize| {
            *bits = *bits & !(1 << bit) | u64::from(is_occupied) << bit;
        };
        match slot.checked_sub(FINE_LEN) {
            Some(coarse) => set(&mut self.coarse[coarse / COARSE_LEN], coarse % COARSE_LEN),
            None => {
                let (word, bit) = (slot / 64, slot % 64);
                set(&mut self.fine[word], bit);
                if is_occupied || self.fine[word] == 0 {
                    set(&mut self.fine_words, word);
                }
            }
        }
    }

    fn link(&mut self, index: u32) {
        let timer = &mut self.timers[index as usize];
        let tick = timer.tick().clamp(self.elapsed, self.elapsed + SPAN_TICKS);
        let slots_ahead = |level: &usize| (tick >> shift(*level)) - (self.elapsed >> shift(*level));
        let slot = if tick - self.elapsed < FINE_LEN as u64 {
            tick as usize % FINE_LEN
        } else {
            let level = (0..LAST_LEVEL).find(|level| slots_ahead(level) < COARSE_LEN as u64);
            let level = level.unwrap_or(LAST_LEVEL);
            Self::coarse_slot(level, tick >> shift(level))
        };
        timer.slot = slot as u16;
        let is_first = self.slots[slot].first == NIL;
        timer.chunk = self.chunks.push(&mut self.slots[slot], index);
        if is_first {
            self.mark(slot, true);
        }
    }

    /// The newest of its slot takes its place.
    fn unlink(&mut self, index: u32) {
        let Timer { slot, chunk, .. } = self.timers[index as usize];
        let slot = usize::from(slot);
        if let Some(newest) = self.chunks.take_newest(&mut self.slots[slot]) {
            self.chunks.set(chunk, newest);
            self.timers[newest as usize].chunk = chunk;
        }
        self.timers[index as usize].slot = UNLINKED;
        if self.slots[slot].first == NIL {
            self.mark(slot, false);
        }
    }
}

impl Chunks {
    fn push(&mut self, list: &mut List, index: u32) -> Place {
        if list.first == NIL || list.len as usize == CHUNK_LEN {
            *list = List { first: self.take_free(list.first), len: 0 };
        }
        self.all[list.first as usize].indices[list.len as usize] = index;
        list.len += 1;
        Place::new(list.first, list.len - 1)
    }

    /// The indices of the first chunk, which is free then; `None` = there is none.
    fn pop(&mut self, list: &mut List) -> Option<([u32; CHUNK_LEN], usize)> {
        if list.first == NIL {
            return None;
        }
        let Chunk { indices, next } = self.all[list.first as usize];
        let len = list.len as usize;
        self.give_back(list.first);
        *list = List { first: next, len: CHUNK_LEN as u32 };
        Some((indices, len))
    }

    /// The index that was put in last.
    fn take_newest(&mut self, list: &mut List) -> Option<u32> {
        let Chunk { indices, next } = self.all.get(list.first as usize)?;
        list.len -= 1;
        let (newest, next) = (indices[list.len as usize], *next);
        if list.len == 0 {
            self.give_back(list.first);
            *list = if next == NIL { EMPTY } else { List { first: next, len: CHUNK_LEN as u32 } };
        }
        Some(newest)
    }

    fn set(&mut self, place: Place, index: u32) {
        self.all[(place.0 >> 4) as usize].indices[(place.0 & 15) as usize] = index;
    }

    /// An empty chunk before `next`.
    fn take_free(&mut self, next: u32) -> u32 {
        let chunk = Chunk { indices: [NIL; CHUNK_LEN], next };
        let Some(free) = self.all.get_mut(self.free as usize) else {
            self.all.push(chunk);
            return self.all.len() as u32 - 1;
        };
        let place = core::mem::replace(&mut self.free, free.next);
        *free = chunk;
        place
    }

    fn give_back(&mut self, chunk: u32) {
        self.all[chunk as usize].next = core::mem::replace(&mut self.free, chunk);
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn ms(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    fn fired(wheel: &mut Wheel, now: Instant) -> Vec<u32> {
        let mut all = Vec::new();
        wheel.advance(now, |index| all.push(index));
        all
    }

    #[test]
    fn a_timer_fires_at_its_tick_and_not_before() {
        let mut wheel = Wheel::new(ms(5));
        wheel.insert(0, ms(7) + Duration::from_nanos(1));
        assert_eq!(wheel.next_expiry(), Some(ms(8)));
        assert!(fired(&mut wheel, ms(8).saturating_sub(Duration::from_nanos(1))).is_empty());
        assert_eq!(fired(&mut wheel, ms(8)), [0]);
        assert!(wheel.is_empty());
        assert_eq!(wheel.next_expiry(), None);
    }

    #[test]
    fn a_deadline_that_has_passed_fires_at_once() {
        let mut wheel = Wheel::new(ms(100));
        wheel.insert(3, ms(1));
        assert_eq!(wheel.next_expiry(), Some(ms(100)));
        assert_eq!(fired(&mut wheel, ms(100)), [3]);
    }

    #[test]
    fn a_second_insert_replaces_the_first() {
        let mut wheel = Wheel::new(ms(0));
        wheel.insert(1, ms(10));
        wheel.insert(1, ms(20));
        assert_eq!(wheel.len(), 1);
        assert!(fired(&mut wheel, ms(19)).is_empty());
        assert_eq!(fired(&mut wheel, ms(20)), [1]);
    }

    #[test]
    fn a_cancelled_timer_does_not_fire() {
        let mut wheel = Wheel::new(ms(0));
        (0..3).for_each(|index| wheel.insert(index, ms(10)));
        assert!(wheel.cancel(1));
        assert!(!wheel.cancel(1));
        assert!(!wheel.cancel(99));
        let mut left = fired(&mut wheel, ms(10));
        left.sort_unstable();
        assert_eq!(left, [0, 2]);
    }

    #[test]
    fn of_many_timers_of_one_slot_those_that_were_not_cancelled_fire() {
        // Three chunks and a part of one.
        let all = 3 * CHUNK_LEN as u32 + 5;
        for kept in 0..=all {
            for keeps_first in [true, false] {
                let stays = |index: &u32| if keeps_first { *index < kept } else { *index >= all - kept };
                let mut wheel = Wheel::new(ms(0));
                (0..all).for_each(|index| wheel.insert(index, ms(10)));
                assert!((0..all).filter(|index| !stays(index)).all(|index| wheel.cancel(index)));
                assert_eq!((wheel.len(), wheel.next_expiry().is_some()), (kept as usize, kept > 0));
                let mut left = fired(&mut wheel, ms(10));
                left.sort_unstable();
                assert!(left.iter().copied().eq((0..all).filter(stays)), "{kept} of {all}: {left:?}");
            }
        }
    }

    #[test]
    fn a_jump_of_hours_fires_everything_in_order() {
        let mut wheel = Wheel::new(ms(1));
        for index in 0..1000_u32 {
            // 7919 is prime: all deadlines differ, within ten hours, in a scrambled order.
            wheel.insert(index, ms(2 + u64::from(index) * 7919 % 1000 * 36_000));
        }
        let all = fired(&mut wheel, Instant::from_secs(36_001));
        let deadline = |index: &u32| u64::from(*index) * 7919 % 1000;
        assert_eq!(all.len(), 1000);
        assert!(all.is_sorted_by_key(deadline));
    }

    #[test]
    fn deadlines_beyond_the_span_wait_for_their_time() {
        let mut wheel = Wheel::new(ms(0));
        let years_10 = Instant::from_secs(10 * 365 * 86_400);
        wheel.insert(0, years_10);
        wheel.insert(1, Instant::from_nanos(u64::MAX));
        let mut visits = 0;
        while let Some(at) = wheel.next_expiry().filter(|at| *at <= years_10) {
            visits += 1;
            assert!(visits < 20, "{visits}");
            let now_fired = fired(&mut wheel, at);
            assert_eq!(now_fired.is_empty(), at < years_10);
        }
        assert_eq!(wheel.len(), 1);
    }

    /// Distances in ticks at which a timer just falls into another level, or slot, or beyond the span.
    fn edges() -> impl Iterator<Item = u64> {
        let levels = (0..COARSE_LEVELS).map(|level| 1 << shift(level));
        let slots = levels.flat_map(|width: u64| [width, 2 * width, 63 * width, 64 * width, 65 * width]);
        slots.chain([64, 128]).flat_map(|edge| [edge - 1, edge, edge + 1])
    }

    #[test]
    fn a_timer_at_the_edge_of_a_level_fires_at_its_tick() {
        for elapsed in [0, 1, 63, 64, 4_095, 4_096, 262_143, 262_144, 1_000_000_007] {
            for distance in edges() {
                let mut wheel = Wheel::new(ms(elapsed));
                wheel.insert(0, ms(elapsed + distance));
                let case = std::format!("{elapsed} + {distance}");
                assert!(fired(&mut wheel, ms(elapsed + distance - 1)).is_empty(), "early: {case}");
                assert_eq!(wheel.next_expiry(), Some(ms(elapsed + distance)), "{case}");
                assert_eq!(fired(&mut wheel, ms(elapsed + distance)), [0], "late: {case}");
            }
        }
    }

    #[test]
    fn of_two_timers_at_the_edges_of_levels_the_earlier_one_is_first() {
        for elapsed in [0, 5, 4_095, 262_143] {
            for (first, second) in edges().flat_map(|a| edges().map(move |b| (a, b))).filter(|(a, b)| a < b) {
                let mut wheel = Wheel::new(ms(elapsed));
                wheel.insert(0, ms(elapsed + second));
                wheel.insert(1, ms(elapsed + first));
                let (mut order, mut visits) = (Vec::new(), 0);
                while let Some(at) = wheel.next_expiry() {
                    visits += 1;
                    assert!(visits <= 20, "{first} and {second} from {elapsed}");
                    wheel.advance(at, |index| order.push((index, (at - ms(elapsed)).as_millis() as u64)));
                }
                assert_eq!(order, [(1, first), (0, second)], "from {elapsed}");
            }
        }
    }

    #[test]
    fn the_reserve_is_enough_whatever_the_slots_and_not_much_more() {
        const LEN: usize = 100_000;
        let mut wheel = Wheel::new(ms(0));
        wheel.reserve(LEN);
        let reserved = wheel.chunks.all.capacity();
        assert!(reserved * CHUNK_LEN <= LEN + SLOTS_LEN * CHUNK_LEN, "{reserved} chunks");
        // 24 or 25 in each slot of the first level: each wastes most of a chunk.
        (0..LEN as u32).for_each(|index| wheel.insert(index, ms(u64::from(index) % FINE_LEN as u64)));
        assert_eq!(wheel.chunks.all.capacity(), reserved);
        wheel.reserve(LEN);
        assert_eq!(wheel.chunks.all.capacity(), reserved, "a second time it is there");
    }

    #[test]
    fn nothing_is_allocated_within_the_reserve() {
        let mut wheel = Wheel::new(ms(0));
        wheel.reserve(1000);
        let memory = |wheel: &Wheel| {
            let Wheel { timers, chunks, .. } = wheel;
            (timers.as_ptr(), timers.capacity(), chunks.all.as_ptr(), chunks.all.capacity())
        };
        let reserved = memory(&wheel);
        for round in 0..100 {
            (0..1000).for_each(|index| wheel.insert(index, ms(round * 50 + u64::from(index) % 97)));
            wheel.advance(ms(round * 50 + 40), |_| ());
        }
        assert_eq!(memory(&wheel), reserved);
    }

    #[derive(Clone, Debug)]
    enum Op {
        Insert(u32, u64),
        Cancel(u32),
        Advance(u64),
        AdvanceToExpiry,
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        // Distances from nanoseconds to years, so that every level is used.
        let distance_ns = (0_u32..58, any::<u64>()).prop_map(|(bits, noise)| noise & ((1 << bits) - 1));
        let jump_ns = (0_u32..54, any::<u64>()).prop_map(|(bits, noise)| noise & ((1 << bits) - 1));
        let op = prop_oneof![
            4 => (0_u32..40, distance_ns).prop_map(|(index, ns)| Op::Insert(index, ns)),
            1 => (0_u32..40).prop_map(Op::Cancel),
            2 => jump_ns.prop_map(Op::Advance),
            2 => Just(Op::AdvanceToExpiry),
        ];
        prop::collection::vec(op, 1..200)
    }

    proptest! {
        #[test]
        fn it_behaves_like_a_sorted_map(start in 0_u64..1 << 50, ops in ops()) {
            let mut now = Instant::from_nanos(start);
            let mut wheel = Wheel::new(now);
            let mut model: BTreeMap<u32, u64> = BTreeMap::new();
            for op in ops {
                match op {
                    Op::Insert(index, ns) => {
                        let deadline = now + Duration::from_nanos(ns);
                        wheel.insert(index, deadline);
                        // A tick that has been handed out cannot come again.
                        model.insert(index, deadline.as_nanos().div_ceil(TICK_NS).max(now.as_nanos() / TICK_NS));
                    }
                    Op::Cancel(index) => prop_assert_eq!(wheel.cancel(index), model.remove(&index).is_some()),
                    Op::Advance(ns) => now = now + Duration::from_nanos(ns),
                    Op::AdvanceToExpiry => now = wheel.next_expiry().map_or(now, |at| at.max(now)),
                }
                let now_tick = now.as_nanos() / TICK_NS;
                if matches!(op, Op::Advance(_) | Op::AdvanceToExpiry) {
                    let ticks: Vec<u64> = fired(&mut wheel, now).iter().filter_map(|index| model.remove(index)).collect();
                    prop_assert!(ticks.is_sorted(), "{:?}", ticks);
                    prop_assert!(ticks.iter().all(|tick| *tick <= now_tick));
                    prop_assert!(model.values().all(|tick| *tick > now_tick));
                }
                prop_assert_eq!(wheel.len(), model.len());
                let next = wheel.next_expiry().map(|at| at.as_nanos() / TICK_NS);
                prop_assert_eq!(next.is_some(), !model.is_empty());
                prop_assert!(next <= model.values().min().copied() || next.is_none());
            }
        }

        #[test]
        fn following_next_expiry_finds_the_exact_tick(start in 0_u64..1 << 50, ns in 0_u64..1 << 57) {
            let mut now = Instant::from_nanos(start);
            let mut wheel = Wheel::new(now);
            let deadline = now + Duration::from_nanos(ns);
            wheel.insert(0, deadline);
            let mut visits = 0;
            while !wheel.is_empty() {
                now = now.max(wheel.next_expiry().expect("a timer is set"));
                wheel.advance(now, |_| ());
                visits += 1;
                prop_assert!(visits <= 10, "{} visits", visits);
            }
            prop_assert_eq!(now.as_nanos() / TICK_NS, deadline.as_nanos().div_ceil(TICK_NS).max(start / TICK_NS));
        }
    }
}
