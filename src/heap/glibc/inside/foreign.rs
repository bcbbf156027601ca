//! The memory of the main arena beside what others took from `brk`.
//!
//! glibc 2.17 to 2.43, malloc/malloc.c, `sysmalloc`: where `brk` gives memory that does not touch
//! the old top chunk, all of it counts first (`av->system_mem += brk - old_end`), then `brk` is
//! called again, up to a page's end. Then `top`, its size and the rest of the sum are written,
//! then the old top chunk becomes smaller and gets its two marks. The first chunk after such
//! memory has nothing before it by which a walk would find it: once it is being freed, its own
//! size is the only one that leads to the next.

use crate::heap::block::State;

use super::super::arenas::ArenaState;
use super::super::chunk::{Chunk, Rules};
use super::super::extent::run_of;
use super::super::layout::{FLAGS, PAGE, PREV_INUSE, StateLayout};
use super::Scene;

/// Whether chunks may be hidden in memory with this state.
const fn unknown(state: State) -> bool {
    matches!(state, State::Foreign | State::Damaged)
}

impl Scene<'_> {
    /// The start of the memory that `brk` gave to the main arena at `arena`.
    fn base(&self, arena: u64) -> Option<u64> {
        let own = self.attempt.libcs.iter().find(|libc| libc.states.iter().any(|own| own.address == arena));
        own.and_then(|libc| libc.params).map(|params| params.base)
    }

    /// An old top chunk that is taken for memory of others, though no rule is broken.
    ///
    /// Between two parts of such memory a few chunks count only where they lead to the marks behind them.
    pub(super) fn hidden_top_chunks(&mut self) {
        let states = self.attempt.reading.states.clone();
        for (layout, state) in states.into_iter().filter(|(_, state)| state.main && !state.scattered) {
            let run = run_of(self.memory, state.top);
            if let (Some(base), Some(run)) = (self.base(state.address), run) {
                self.given_up(layout, state, base, run.end());
            }
        }
    }

    pub(super) fn beside_foreign(&mut self, layout: StateLayout, state: ArenaState, all: u64) {
        let Some(base) = self.base(state.address).filter(|_| !state.scattered) else { return };
        let Some(run) = run_of(self.memory, state.top).filter(|run| run.contains(base)) else { return };
        self.counted_first(layout, state, all, base, run.end());
        self.given_up(layout, state, base, run.end());
    }

    /// Memory after that of others is counted, and `top` does not lead there yet.
    ///
    /// The thread may wait in the second call of `brk`, where registers show nothing. What the sum
    /// says is where the first call ended, and the mapping ends there or as far behind as the
    /// second call asks for.
    fn counted_first(&mut self, layout: StateLayout, state: ArenaState, all: u64, base: u64, limit: u64) {
        let (now, counted) = (base.saturating_add(all), base.saturating_add(state.system));
        let top = now.saturating_sub(state.top);
        let rest = limit.checked_sub(counted);
        let most = top.saturating_add(PAGE.saturating_mul(2));
        if counted > now && now > state.top && now % PAGE == 0 && rest.is_some_and(|rest| rest <= most) {
            let what =
                format!("it has memory up to {limit:#x} after that of others, and no top chunk there yet");
            self.guess(state.address, what, [(Self::system_at(layout, state), all)]);
        }
    }

    /// The top chunk is after the memory of others, and the old one has no marks yet.
    fn given_up(&mut self, layout: StateLayout, state: ArenaState, base: u64, limit: u64) {
        let machine = layout.machine;
        let (header, word, top) = (machine.header(), machine.word, state.top);
        let marks = header.saturating_mul(2);
        let broken: Vec<u64> =
            self.attempt.harm.named.iter().map(|damage| damage.address.saturating_sub(1)).take(8).collect();
        let blocks = &self.attempt.reading.blocks;
        let before = broken.into_iter().filter_map(|place| Some(blocks.unit_at(place)?.range.start()));
        let mut places: Vec<u64> = self.hints.places().chain(before).collect();
        places.retain(|place| *place >= base && *place < top && machine.first_chunk(*place) == *place);
        for old in places {
            let blocks = &self.attempt.reading.blocks;
            let walked = blocks.unit_from(old).is_some_and(|unit| unit.state.block());
            let hidden = blocks.unit_at(old).is_some_and(|unit| unknown(unit.state));
            if !(walked || hidden) || !self.hints.busy(state.locked, old, header, &[]) {
                continue;
            }
            let Some(chunk) = Chunk::read(&mut self.peek, old) else { continue };
            let said = old.saturating_add(chunk.size());
            for end in [said, said.saturating_add(marks)] {
                let Some(first) = end.checked_sub(marks).filter(|first| *first >= old) else { continue };
                // Where a size that was there before leads is no border.
                let behind = self.attempt.reading.blocks.unit_at(end);
                let border = behind.is_some_and(|unit| unit.range.start() == end || unknown(unit.state));
                if end % PAGE != 0 || end > top || !border {
                    continue;
                }
                let second = first.saturating_add(header);
                // Of marks that are there one flag may change: once the old top chunk is freed.
                let peek = &mut self.peek;
                let mut marked =
                    |place: u64| Chunk::read(peek, place).is_some_and(|mark| mark.fencepost(machine));
                if marked(first) && marked(second) {
                    continue;
                }
                let mark = |place: u64| (place.saturating_add(word), header | PREV_INUSE);
                let own = (old.saturating_add(word), first.saturating_sub(old) | (chunk.head & FLAGS));
                let size = (top.saturating_add(word), limit.saturating_sub(top) | PREV_INUSE);
                let sum = (Self::system_at(layout, state), limit.saturating_sub(base));
                let own = (first > old).then_some(own);
                let words = own.into_iter().chain([mark(first), mark(second), size, sum]);
                let what = format!("its top chunk is at {top:#x}, after memory of others");
                self.guess(state.address, what, words);
            }
        }
    }

    /// Chunks in memory that is taken for that of others: registers hold them, and they are being freed.
    ///
    /// Each ends where that memory does, or with the free chunk behind it, which it is merged with.
    pub(super) fn freed_in_hand(&mut self) {
        let machine = self.machine();
        for start in self.hints.chunks(machine) {
            let blocks = &self.attempt.reading.blocks;
            let around = blocks.unit_at(start).filter(|unit| unit.state == State::Foreign);
            let Some((arena, main, _)) = around.and_then(|unit| self.arena(&unit)) else { continue };
            let near = around.map_or(start, |unit| unit.range.end());
            let behind = blocks.unit_from(near).filter(|unit| unit.state.block());
            let rules = Rules { machine, main };
            for end in [Some(near), behind.map(|unit| unit.range.end())].into_iter().flatten() {
                self.freed(arena, rules, start, end);
            }
        }
    }

    /// The chunk from `start` to `end` is being freed.
    ///
    /// The one behind it says that it is free; or registers hold that one, too, which is taken off its list.
    fn freed(&mut self, arena: u64, rules: Rules, start: u64, end: u64) {
        let machine = rules.machine;
        let size = end.saturating_sub(start);
        let whole = Chunk { previous: 0, head: size | PREV_INUSE };
        let Some(own) = Chunk::read(&mut self.peek, start) else { return };
        let Some(behind) = Chunk::read(&mut self.peek, end) else { return };
        // Its own size may be that of the first of the chunks that it is merged from, or whatever was there
        // before it was cut off: glibc 2.41 to 2.43, `_int_free_create_chunk`.
        let head = (own.size() != size).then_some((start.saturating_add(machine.word), whole.head));
        let size_behind = (behind.previous != size).then_some((end, size));
        let unit = self.attempt.reading.blocks.unit_from(end);
        let taken_in = unit.is_some_and(|unit| unit.state.free());
        let words = if !behind.previous_in_use() {
            head.into_iter().chain(size_behind)
        } else if taken_in && self.hints.held(end, machine.header()) {
            head.into_iter().chain(None)
        } else {
            return;
        };
        if rules.check(whole, size).is_ok() {
            let first = self.found.len();
            self.guess(arena, format!("the chunk at {start:#x} is being freed"), words);
            self.about_foreign(first);
        }
    }
}
