//! Where an arena's memory ends: its top chunk's size, its own sum, and the mapping.
//!
//! Three things say it: the size of the top chunk, `system_mem`, and the end of the mapping or
//! what the header of a thread's heap says. A call that takes memory from the system or gives
//! some back changes one after the other. Before that, `top` itself may have moved, to where no
//! size was written yet: often into a page that was never touched, in whose fault a growing
//! program spends most of its time.

use std::collections::BTreeSet;

use crate::heap::block::State;
use crate::range::AddressRange;

use super::super::arenas::ArenaState;
use super::super::chunk::{Chunk, Rules};
use super::super::extent::run_of;
use super::super::heaps::{align_down, own_heap};
use super::super::layout::{PAGE, PREV_INUSE, StateLayout};
use super::Scene;

impl Scene<'_> {
    pub(super) fn ends(&mut self) {
        let states = self.attempt.reading.states.clone();
        for (index, (layout, state)) in states.into_iter().enumerate() {
            if !state.main && self.new_arena(layout, state) {
                continue;
            }
            if state.top == layout.bin_at(state.address, 1) {
                self.not_begun(layout, state);
            } else {
                self.end(layout, state, index);
            }
            if !state.main {
                self.new_heaps(layout, state, index);
                self.last_heap(layout, state, index);
            }
        }
    }

    pub(super) fn system_at(layout: StateLayout, state: ArenaState) -> u64 {
        state.address.saturating_add(layout.system(state.attached))
    }

    /// An arena of a further thread that has no top chunk yet: what starts its heap is taken back.
    fn new_arena(&mut self, layout: StateLayout, state: ArenaState) -> bool {
        let initial = layout.bin_at(state.address, 1);
        let end = state.address.saturating_add(layout.size(state.attached));
        let first = layout.machine.first_chunk(end);
        if ![0, initial, first].contains(&state.top) || !self.zeros(first, u64::MAX) {
            return false;
        }
        let Some((_, heap)) = own_heap(&mut self.peek, state.address, state.address) else { return false };
        self.guess(state.address, "the arena is being made".to_owned(), [(heap, 0)]);
        true
    }

    /// The first call has memory, and no top chunk yet.
    fn not_begun(&mut self, layout: StateLayout, state: ArenaState) {
        if state.system % PAGE == 0 {
            let what = "its first memory is not cut into chunks yet".to_owned();
            self.guess(state.address, what, [(Self::system_at(layout, state), 0)]);
        }
    }

    fn end(&mut self, layout: StateLayout, state: ArenaState, index: usize) {
        let machine = layout.machine;
        let top = state.top;
        let unit = self.attempt.reading.blocks.unit_from(top).filter(|unit| unit.state == State::Top);
        let all = self.attempt.tally.bytes.get(index).copied().unwrap_or(0);
        let Some(unit) = unit else { return };
        self.grown(layout, state, unit.range);
        let below = all.saturating_sub(unit.range.len());
        let limit = if state.main {
            run_of(self.memory, top).map(AddressRange::end)
        } else {
            own_heap(&mut self.peek, state.address, top).and_then(|(reach, _)| {
                let heap = align_down(top, reach);
                heap.checked_add(self.peek.word_at(heap, 2)?)
            })
        };
        let Some(limit) = limit else { return };
        if state.main && state.scattered {
            self.elsewhere(layout, state, all);
        } else if state.main {
            self.beside_foreign(layout, state, all);
        }
        let chunk = Chunk::read(&mut self.peek, top).unwrap_or(Chunk { previous: 0, head: 0 });
        let said = top.saturating_add(chunk.size());
        let by_sum = top.saturating_add(state.system.saturating_sub(below));
        let least = top.saturating_add(machine.header());
        let fits =
            |end: &u64| *end >= least && *end <= limit && end % PAGE == 0 && (state.main || *end == limit);
        let candidates = [by_sum, said, limit];
        let mut ends: Vec<u64> = candidates.into_iter().filter(fits).collect();
        ends.dedup();
        // An old size: that of a top chunk which ended with a page.
        let old = chunk.head & PREV_INUSE != 0 && chunk.size() >= machine.header() && said % PAGE == 0;
        let fresh = chunk.head == 0
            && self.hints.may_be_at(top, machine.header())
            && self.zeros(top.saturating_add(machine.word), limit);
        let known = (self.attempt.reading.caught > 0 && !self.hints.idle())
            || self.hints.busy(state.locked, top, machine.header(), &[]);
        for end in ends {
            let size = end.saturating_sub(top);
            let sum = below.saturating_add(size);
            let head = size | PREV_INUSE;
            let same = chunk.head == head;
            let by_pages = sum.abs_diff(state.system) % PAGE == 0;
            // The sum is never the last that a call writes.
            if !same && (old || fresh || known) && by_pages {
                let what = format!("its top chunk at {top:#x} gets its size");
                let place = Self::system_at(layout, state);
                self.guess(state.address, what, [(top.saturating_add(machine.word), head), (place, sum)]);
            }
        }
    }

    /// A block has taken some of the top chunk, which still is where it was.
    ///
    /// glibc 2.17 to 2.43, malloc/malloc.c, `_int_realloc`: where the next chunk is `top`, the block's new size
    /// is written, then `top`, then the size of what is left. An overflow that changes the last block's size
    /// leaves the same bytes.
    fn grown(&mut self, layout: StateLayout, state: ArenaState, top: AddressRange) {
        let machine = layout.machine;
        let rules = Rules { machine, main: state.main };
        for start in self.hints.chunks(machine).into_iter().filter(|start| *start < top.start()) {
            let unit = self.attempt.reading.blocks.unit_at(start);
            if unit.is_none_or(|unit| unit.range.start() != start || unit.range.end() != top.start()) {
                continue;
            }
            let Some(chunk) = Chunk::read(&mut self.peek, start) else { continue };
            let next = start.saturating_add(chunk.size());
            let left = top.end().saturating_sub(next);
            let whole = rules.check(chunk, top.end().saturating_sub(start)).is_ok();
            if whole && next > top.start() && left >= machine.smallest() {
                let what = format!("the block at {start:#x} takes some of its top chunk");
                let place = state.address.saturating_add(layout.top());
                let head = (next.saturating_add(machine.word), left | PREV_INUSE);
                self.guess(state.address, what, [(place, next), head]);
            }
        }
    }

    /// Memory that `mmap` gave instead of `brk` is counted, and `top` does not lead there yet.
    fn elsewhere(&mut self, layout: StateLayout, state: ArenaState, all: u64) {
        let more = state.system.saturating_sub(all);
        if more == 0 || more % PAGE != 0 {
            return;
        }
        let spans = self.attempt.reading.blocks.spans().iter();
        let taken = AddressRange::merge(spans.map(|span| span.range).collect());
        let regions = self.memory.regions().iter();
        let writable = regions.filter(|region| region.anonymous() && region.permissions.writable());
        let runs = AddressRange::merge(writable.map(|region| region.range).collect());
        let free = runs.into_iter().flat_map(|run| run.without(run.among(&taken)));
        let fresh = free.filter(|free| free.len() >= more).map(AddressRange::start).collect::<Vec<u64>>();
        if fresh.into_iter().any(|start| self.zeros(start, u64::MAX)) {
            let what = "it has new memory, which is not cut into chunks yet".to_owned();
            self.guess(state.address, what, [(Self::system_at(layout, state), all)]);
        }
    }

    /// Whether nothing was written from `start` on, up to the end of its page or to `end`.
    fn zeros(&mut self, start: u64, end: u64) -> bool {
        let end = (start | PAGE.wrapping_sub(1)).saturating_add(1).min(end);
        let length = usize::try_from(end.saturating_sub(start)).unwrap_or(0);
        let bytes = self.peek.bytes(start, length);
        // What cannot be read of a page was never touched.
        bytes.is_none_or(|bytes| bytes.iter().all(|byte| *byte == 0))
    }

    /// Heaps that name the arena already, and have no top chunk yet.
    fn new_heaps(&mut self, layout: StateLayout, state: ArenaState, index: usize) {
        let all = self.attempt.tally.bytes.get(index).copied().unwrap_or(0);
        let Some((reach, first)) = own_heap(&mut self.peek, state.address, state.top) else { return };
        let header = state.address.saturating_sub(first);
        let blocks = &self.attempt.reading.blocks;
        let spans = blocks.spans().iter().map(|span| span.range.start());
        let heaps: Vec<u64> =
            spans.filter(|start| align_down(*start, reach) == *start && *start != first).collect();
        for heap in heaps {
            let begun = heap.saturating_add(header);
            if self.peek.word(heap) == Some(state.address) && self.zeros(begun, u64::MAX) {
                let what = format!("a new heap at {heap:#x} is added");
                // glibc 2.17 to 2.43, malloc/malloc.c, `sysmalloc`: `system_mem` counts it before `top` leads there.
                let size = self.peek.word_at(heap, 2).unwrap_or(0);
                let counted = state.system == all && size < all;
                let sum = counted.then_some((Self::system_at(layout, state), all.saturating_sub(size)));
                self.guess(state.address, what, sum.into_iter().chain([(heap, 0)]));
            }
        }
    }

    /// The last heap of the arena, which has nothing but its top chunk, is given back.
    ///
    /// glibc 2.17 to 2.43, malloc/arena.c, `heap_trim`: `system_mem` becomes less by its size, then it is unmapped,
    /// then `top` leads to the marks at the end of the heap before it, or to the free chunk before these.
    fn last_heap(&mut self, layout: StateLayout, state: ArenaState, index: usize) {
        let machine = layout.machine;
        let Some((reach, first)) = own_heap(&mut self.peek, state.address, state.top) else { return };
        let last = align_down(state.top, reach);
        let header = state.address.saturating_sub(first);
        if last == first || state.top != machine.first_chunk(last.saturating_add(header)) {
            return;
        }
        let all = self.attempt.tally.bytes.get(index).copied().unwrap_or(0);
        let what = format!("its last heap at {last:#x} is given back");
        let sum = Self::system_at(layout, state);
        if self.peek.word(last) == Some(state.address) {
            let size = self.peek.word_at(last, 2).unwrap_or(0);
            if size > 0 && all.saturating_sub(state.system) == size {
                self.guess(state.address, what, [(sum, all)]);
            }
            return;
        }
        let Some(before) = self.last_of(state.address, reach) else { return };
        let end = before.saturating_add(self.peek.word_at(before, 2).unwrap_or(0));
        if all != state.system {
            return;
        }
        // glibc 2.17 to 2.43, malloc/malloc.c, `sysmalloc`: the second mark has the size of the first, or
        // of what little was left of the old top chunk.
        let header = machine.header();
        let second = align_down(end.saturating_sub(header), machine.align);
        let Some(mark) = Chunk::read(&mut self.peek, second).filter(|mark| mark.head == PREV_INUSE) else {
            return;
        };
        if mark.previous != header && mark.previous != header.saturating_mul(2) {
            return;
        }
        let mut top = second.saturating_sub(mark.previous);
        let mut words = Vec::new();
        if let Some(chunk) = Chunk::read(&mut self.peek, top).filter(|chunk| !chunk.previous_in_use()) {
            top = top.saturating_sub(chunk.previous);
            let Some((next, back)) = self.peek.two(top.saturating_add(header)) else { return };
            let off = [
                (next.saturating_add(header.saturating_add(machine.word)), back),
                (back.saturating_add(header), next),
            ];
            words.extend(off);
        }
        words.push((state.address.saturating_add(layout.top()), top));
        words.push((top.saturating_add(machine.word), end.saturating_sub(top) | PREV_INUSE));
        self.guess(state.address, what, words);
    }

    /// The heap of the arena to which no other one leads back.
    fn last_of(&mut self, arena: u64, reach: u64) -> Option<u64> {
        let spans = self.attempt.reading.blocks.spans().iter().map(|span| span.range.start());
        let starts: BTreeSet<u64> = spans.filter(|start| align_down(*start, reach) == *start).collect();
        let own: Vec<u64> =
            starts.into_iter().filter(|start| self.peek.word(*start) == Some(arena)).collect();
        let before: BTreeSet<u64> = own.iter().filter_map(|heap| self.peek.word_at(*heap, 1)).collect();
        own.into_iter().find(|heap| !before.contains(heap))
    }
}
