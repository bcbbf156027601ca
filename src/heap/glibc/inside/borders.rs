//! Borders between chunks of which one side is written and the other is not.
//!
//! The size of a free chunk is repeated in the `prev_size` of the next chunk. To split a chunk,
//! malloc writes the size of the first part, the size of the rest, then the `prev_size` after the
//! rest. Until then the old `prev_size` points back to the first part. When chunks are merged, the
//! whole is put on a list before its size is written on either side.

use std::collections::BTreeSet;

use crate::error::Error;
use crate::heap::block::{State, Unit};
use crate::memory::Buffer;
use crate::range::AddressRange;

use super::super::boundary::Seek;
use super::super::chunk::{Chunk, Rules};
use super::super::known::Known;
use super::super::layout::{FLAGS, NON_MAIN_ARENA, PAGE, PREV_INUSE};
use super::{Rank, Scene};

/// How many broken places are looked at.
const PLACES: usize = 8;

/// How many chunks before such a place may be the one that was cut.
const BEFORE: usize = 8;

/// How many places are tried as the one behind a chunk that was cut.
const ALIKE: u32 = 4;

/// How far behind a cut the next chunk is looked for, in bytes.
const FAR: u64 = 32 << 20;

/// How many bytes are looked at in all for the chunks behind cuts.
const LOOKED_AT: u64 = 128 << 20;

/// How many bytes are looked at in all for the chunks behind those that registers show.
const IN_HAND: u64 = 8 << 20;

/// How many bytes may still be looked at.
struct Left {
    /// For a size that says how far back a chunk was cut.
    sizes: u64,
    /// For chunks that follow each other.
    chains: u64,
}

/// How many bytes are looked at between two questions whether to stop.
const PIECE: u64 = 1 << 20;

impl Scene<'_> {
    pub(super) fn borders(&mut self) -> Result<(), Error> {
        let broken: Vec<u64> =
            self.attempt.harm.named.iter().take(PLACES).map(|damage| damage.address).collect();
        let (mut seen, mut left) = (BTreeSet::new(), Left { sizes: LOOKED_AT, chains: u64::MAX });
        for place in broken {
            self.merged(place);
            self.cut_before(place, &mut seen, &mut left)?;
        }
        Ok(())
    }

    pub(super) fn arena(&self, unit: &Unit) -> Option<(u64, bool, bool)> {
        let number = usize::try_from(unit.arena?).ok()?;
        let (_, state) = self.attempt.reading.states.get(number)?;
        Some((state.address, state.main, state.locked))
    }

    /// The chunk at `place` says that the one before it is free, and not how large that is.
    fn merged(&mut self, place: u64) {
        let machine = self.machine();
        let blocks = &self.attempt.reading.blocks;
        let Some(unit) = blocks.unit_at(place.saturating_sub(1)).filter(|unit| unit.range.end() == place)
        else {
            return;
        };
        let Some((arena, _, locked)) = self.arena(&unit).filter(|_| unit.state == State::Used) else {
            return;
        };
        let Some(chunk) = Chunk::read(&mut self.peek, place).filter(|chunk| !chunk.previous_in_use()) else {
            return;
        };
        let size = unit.range.len();
        if chunk.previous == size {
            return;
        }
        let start = unit.range.start();
        let evidence = self.linked(start)
            || (self.beside_unlisted(&unit) && !self.hints.idle())
            || self.hints.busy(locked, start, machine.header(), &[place]);
        if evidence {
            let what = format!("the chunk at {start:#x} is being freed");
            self.guess(arena, what, [(place, size)]);
        }
    }

    /// Whether a neighbour on a list leads to the chunk.
    fn linked(&mut self, chunk: u64) -> bool {
        let (header, word) = (self.machine().header(), self.machine().word);
        let Some((next, back)) = self.peek.two(chunk.saturating_add(header)) else { return false };
        let onward = self.peek.word(back.wrapping_add(header)) == Some(chunk);
        onward || self.peek.word(next.wrapping_add(header).wrapping_add(word)) == Some(chunk)
    }

    /// A chunk before `place` was cut, and what is left of it has no size yet.
    fn cut_before(
        &mut self,
        place: u64,
        seen: &mut BTreeSet<(u64, u64)>,
        left: &mut Left,
    ) -> Result<(), Error> {
        let blocks = &self.attempt.reading.blocks;
        let at = blocks.unit_at(place).or_else(|| blocks.unit_at(place.saturating_sub(1)));
        let Some(at) = at else { return Ok(()) };
        self.marks(&at);
        let first = at.index.saturating_sub(BEFORE);
        let units: Vec<Unit> = blocks.units_in(first..at.index.saturating_add(1)).collect();
        for unit in units.iter().rev().filter(|unit| unit.state.block()) {
            // Where the walk went on inside of it, the unit is shorter than the chunk says.
            let said = Chunk::read(&mut self.peek, unit.range.start()).map_or(0, Chunk::size);
            let ends = [unit.range.end(), unit.range.start().saturating_add(said)];
            let both = if ends.first() == ends.last() { 1 } else { 2 };
            for end in ends.into_iter().take(both) {
                // Broken places lie close to each other.
                if !seen.insert((unit.range.start(), end)) {
                    continue;
                }
                // What a block held before may look like a cut.
                self.cut(unit, end, left, None)?;
                self.shrunk(unit, end, left)?;
            }
        }
        Ok(())
    }

    /// The top chunk before `lost` was given up, and the marks behind it are not written yet.
    fn marks(&mut self, lost: &Unit) {
        let machine = self.machine();
        let Some((arena, main, locked)) = self.arena(lost).filter(|_| lost.state == State::Damaged) else {
            return;
        };
        let (start, end) = (lost.range.start(), lost.range.end());
        let header = machine.header();
        let ends = self.attempt.reading.blocks.span_at(start).is_some_and(|span| span.range.end() == end);
        if !main || !ends || end % PAGE != 0 || lost.range.len() != header.saturating_mul(2) {
            return;
        }
        let blocks = &self.attempt.reading.blocks;
        let before = lost.index.checked_sub(1).and_then(|index| blocks.unit(index));
        let before = before.map_or(start, |before| before.range.start());
        if self.hints.busy(locked, before, header, &[start]) {
            let what = format!("the marks at {start:#x} are written behind its old top chunk");
            let place = start.saturating_add(machine.word);
            let mark = header | PREV_INUSE;
            self.guess(arena, what, [(place, mark), (place.saturating_add(header), mark)]);
        }
    }

    /// How far the memory around `place` goes, in which `unit` is.
    fn limit(&self, unit: &Unit, place: u64) -> u64 {
        let states = &self.attempt.reading.states;
        let top = usize::try_from(unit.arena.unwrap_or(u32::MAX)).ok().and_then(|number| states.get(number));
        // Memory that is taken for that of others ends where chunks agree, in the middle of its own.
        let top = top.map(|(_, state)| state.top).filter(|top| unit.state == State::Foreign && *top > place);
        let span = || self.attempt.reading.blocks.span_at(place).map_or(place, |span| span.range.end());
        top.unwrap_or_else(span)
    }

    /// Chunks in registers that are cut or made smaller.
    ///
    /// What was before where the rest starts may lead right to another chunk, so that no walk breaks. And
    /// between two parts of memory that others took a walk finds its start by chunks that agree: where few
    /// follow the memory of others, one that is being cut has none before it agree.
    pub(super) fn cut_in_hand(&mut self, foreign: bool) -> Result<(), Error> {
        let mut left = Left { sizes: IN_HAND, chains: LOOKED_AT };
        for start in self.hints.chunks(self.machine()) {
            let Some(around) = self.attempt.reading.blocks.unit_at(start) else { continue };
            if around.range.start() == start {
                // A list may have the rest already.
                let used = around.state == State::Used;
                if used && (foreign || self.linked(around.range.end())) {
                    self.cut(&around, around.range.end(), &mut left, Some(Rank::Sure))?;
                }
            } else if foreign && self.arena(&around).is_some_and(|(_, main, _)| main) {
                let first = self.found.len();
                self.cut_unseen(&around, start, &mut left)?;
                self.about_foreign(first);
            }
        }
        Ok(())
    }

    /// The chunk at `start`, to which no walk came, is cut or made smaller.
    fn cut_unseen(&mut self, around: &Unit, start: u64, left: &mut Left) -> Result<(), Error> {
        let Some(chunk) = Chunk::read(&mut self.peek, start) else { return Ok(()) };
        let rest = start.saturating_add(chunk.size());
        let range = AddressRange::saturating(start, chunk.size());
        let unit = Unit { range, state: State::Foreign, ..*around };
        let room = self.limit(&unit, start).saturating_sub(start);
        let rules = Rules { machine: self.machine(), main: true };
        if rules.check(chunk, room).is_ok() {
            self.cut(&unit, rest, left, Some(Rank::Sure))?;
            self.shrunk(&unit, rest, left)?;
        }
        Ok(())
    }

    /// Whether `unit` is the first part of a free chunk; the next chunk still has the size of the whole.
    ///
    /// `rank` is that of every guess; without one it depends on whether registers hold the end.
    fn cut(&mut self, unit: &Unit, rest: u64, left: &mut Left, rank: Option<Rank>) -> Result<(), Error> {
        let machine = self.machine();
        let Some((arena, main, locked)) = self.arena(unit) else { return Ok(()) };
        let start = unit.range.start();
        // A chunk is off its list before it is cut; one that is on a list has a damaged size.
        if self.linked(start) && !self.hints.busy(locked, start, machine.header(), &[]) {
            return Ok(());
        }
        let rules = Rules { machine, main };
        let limit = self.limit(unit, start);
        let end = limit.min(rest.saturating_add(FAR.min(left.sizes)));
        let mut found = 0_u32;
        let mut next = rest.saturating_add(machine.smallest());
        let mut buffer = Buffer::default();
        let step = usize::try_from(machine.align).unwrap_or(16);
        while next < end && found < ALIKE {
            self.job.check()?;
            let piece = AddressRange::saturating(next, end.saturating_sub(next).min(PIECE));
            left.sizes = left.sizes.saturating_sub(piece.len());
            let memory = self.memory;
            let view = memory.view(piece, &mut buffer);
            let format = memory.word_format();
            let before = next.saturating_sub(start);
            let wholes = (before..).step_by(step).zip(view.bytes.chunks_exact(step));
            let wholes = wholes.filter(|(whole, words)| format.read(words) == Some(*whole));
            let places: Vec<u64> = wholes.map(|(whole, _)| start.saturating_add(whole)).collect();
            let steps = view.bytes.len().checked_div(step).unwrap_or(0) as u64;
            for place in places {
                if found == ALIKE {
                    break;
                }
                let Some(chunk) = Chunk::read(&mut self.peek, place) else { continue };
                let whole = place.saturating_sub(start);
                if chunk.previous == whole
                    && !chunk.previous_in_use()
                    && (rules.check(chunk, limit.saturating_sub(place)).is_ok() || chunk.fencepost(machine))
                {
                    let size = place.saturating_sub(rest);
                    let other = if main { 0 } else { NON_MAIN_ARENA };
                    let what = format!("the chunk at {start:#x} is cut off a larger one");
                    let head = (rest.saturating_add(machine.word), size | PREV_INUSE | other);
                    let by_registers = || {
                        let in_hand = self.ends_in_hand(rest, limit, rules).contains(&place);
                        if in_hand { Rank::InHand } else { Rank::InMemory }
                    };
                    let rank = rank.unwrap_or_else(by_registers);
                    // A list may have the rest before the first part has its size.
                    let own = Chunk::read(&mut self.peek, start).map_or(0, |own| own.head & FLAGS);
                    let own = (start.saturating_add(machine.word), rest.saturating_sub(start) | own);
                    self.ranked(rank, arena, what, [own, head, (place, size)]);
                    // What a block held before may look so too.
                    found = found.saturating_add(1);
                }
            }
            if steps == 0 {
                break;
            }
            next = next.saturating_add(steps.saturating_mul(machine.align));
        }
        Ok(())
    }

    /// A block was made smaller, and what is left behind it, at `rest`, has no size yet.
    fn shrunk(&mut self, unit: &Unit, rest: u64, left: &mut Left) -> Result<(), Error> {
        let machine = self.machine();
        let Some((arena, main, locked)) = self.arena(unit) else { return Ok(()) };
        let own = [unit.range.start(), unit.block().start()];
        if !self.hints.busy(locked, rest, machine.header(), &own) {
            return Ok(());
        }
        let limit = self.limit(unit, rest);
        let states = &self.attempt.reading.states;
        let top = states.iter().map(|(_, state)| state.top).find(|top| *top > rest && *top < limit);
        let (memory, rules) = (self.memory, Rules { machine, main });
        let stop = top.unwrap_or(limit);
        let seek = Seek {
            memory,
            rules,
            top,
            limit: stop,
            avoid: rest,
            known: Known::NONE,
            lenient: false,
            job: self.job,
        };
        let found = if left.chains > 0 { seek.next(rest.saturating_add(machine.smallest()))? } else { None };
        left.chains = left.chains.saturating_sub(found.unwrap_or(stop).saturating_sub(rest));
        // What a block held before may lead to the same chunks from within: where the walk went on counts too.
        let blocks = &self.attempt.reading.blocks;
        let behind = blocks.unit_from(rest).filter(|unit| unit.state == State::Damaged);
        let behind = behind.map(|unit| unit.range.end());
        let in_hand = self.ends_in_hand(rest, stop, rules);
        let mut places: Vec<u64> = Vec::new();
        for next in in_hand.iter().copied().chain(behind).chain(found) {
            if !places.contains(&next) {
                places.push(next);
            }
        }
        for next in places {
            let Some(chunk) = Chunk::read(&mut self.peek, next) else { continue };
            let size = next.saturating_sub(rest);
            let other = if main { 0 } else { NON_MAIN_ARENA };
            let what = format!("the block before {rest:#x} is made smaller");
            let head = (rest.saturating_add(machine.word), size | PREV_INUSE | other);
            // A free chunk behind it may have been taken in first.
            let foot = if chunk.previous_in_use() { chunk.previous } else { size };
            let known = in_hand.contains(&next) && self.hints.held(rest, machine.header());
            let rank = if known { Rank::InHand } else { Rank::OldBytes };
            self.ranked(rank, arena, what, [head, (next, foot)]);
        }
        Ok(())
    }

    /// Where a thread's registers say that a rest ends that starts at `rest`, the nearest first.
    ///
    /// glibc 2.17 to 2.43, malloc/malloc.c, `_int_realloc`: of a block that becomes smaller, the size is
    /// written, then that of the rest, then a flag behind it, so that until then registers hold the
    /// rest's size or where it ends. What the block held before may be the size of a chunk that
    /// ends where one does, and hide those before that.
    fn ends_in_hand(&mut self, rest: u64, limit: u64, rules: Rules) -> Vec<u64> {
        let Rules { machine, main } = rules;
        let flags = PREV_INUSE | if main { 0 } else { NON_MAIN_ARENA };
        let places = self.hints.places().flat_map(|held| [Some(held), rest.checked_add(held & !flags)]);
        let least = rest.saturating_add(machine.smallest());
        let mut ends: Vec<u64> = places
            .flatten()
            .filter(|place| (least..=limit).contains(place) && machine.first_chunk(*place) == *place)
            .collect();
        ends.sort_unstable();
        ends.dedup();
        let states = &self.attempt.reading.states;
        let tops: Vec<u64> = states.iter().map(|(_, state)| state.top).collect();
        let peek = &mut self.peek;
        ends.retain(|end| {
            let chunk = Chunk::read(peek, *end);
            let good = |chunk: Chunk| {
                rules.check(chunk, limit.saturating_sub(*end)).is_ok() || chunk.fencepost(machine)
            };
            tops.contains(end) || chunk.is_some_and(good)
        });
        ends
    }
}
