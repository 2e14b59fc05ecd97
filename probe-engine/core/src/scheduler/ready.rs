//! Workers that have something due, earliest first.
//!
//! What fires together is handed over in that order and appended. Only what comes out of turn (a trigger, what waited for
//! an attempt to end) is put into a heap.

use alloc::collections::{BinaryHeap, VecDeque};
use core::cmp::Reverse;

use super::occupant::Due;

/// See the module. Of one due time, the lower place goes first. Bound: one entry per worker, and stale ones of workers that ended.
#[derive(Clone, Default)]
pub(super) struct Ready {
    in_order: VecDeque<Due>,
    others: BinaryHeap<Reverse<Due>>,
}

impl Ready {
    pub(super) fn push(&mut self, due: Due) {
        match self.in_order.back() {
            Some(last) if due < *last => self.others.push(Reverse(due)),
            _ => self.in_order.push_back(due),
        }
    }

    pub(super) fn peek(&self) -> Option<&Due> {
        if self.is_other_first() { self.others.peek().map(|Reverse(due)| due) } else { self.in_order.front() }
    }

    pub(super) fn pop(&mut self) -> Option<Due> {
        if self.is_other_first() { self.others.pop().map(|Reverse(due)| due) } else { self.in_order.pop_front() }
    }

    fn is_other_first(&self) -> bool {
        match (self.in_order.front(), self.others.peek()) {
            (Some(first), Some(Reverse(other))) => other < first,
            (None, Some(_)) => true,
            (_, None) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::action::WorkerIndex;
    use crate::time::Instant;

    #[test]
    fn only_what_comes_out_of_turn_is_put_into_the_heap() {
        let due = |second, worker| Due { at: Instant::from_secs(second), worker: WorkerIndex(worker), generation: 0 };
        let mut ready = Ready::default();
        [due(1, 0), due(1, 1), due(2, 0), due(2, 0), due(9, 5)].into_iter().for_each(|due| ready.push(due));
        assert_eq!((ready.in_order.len(), ready.others.len()), (5, 0));
        [due(9, 4), due(3, 7), due(9, 6)].into_iter().for_each(|due| ready.push(due));
        assert_eq!((ready.in_order.len(), ready.others.len()), (6, 2));
    }

    #[test]
    fn whatever_the_order_they_came_in_the_earliest_goes_first() {
        let mut ready = Ready::default();
        for (worker, second) in [5, 7, 7, 3, 9, 4, 9, 1].into_iter().enumerate() {
            let worker = WorkerIndex(worker as u32);
            ready.push(Due { at: Instant::from_secs(second), worker, generation: 0 });
        }
        let mut popped = Vec::new();
        while let Some(first) = ready.peek().copied() {
            assert!(ready.pop() == Some(first));
            popped.push((first.at.as_nanos() / 1_000_000_000, first.worker.0));
        }
        assert_eq!(popped, [(1, 7), (3, 3), (4, 5), (5, 0), (7, 1), (7, 2), (9, 4), (9, 6)]);
    }
}
