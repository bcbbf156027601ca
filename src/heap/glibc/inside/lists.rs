//! Lists of free chunks with one that is being put on or taken off.
//!
//! Two stores change a list: one neighbour's link forward, the other's link back. Between
//! them one way around leads over the chunk and the other one past it. The links of the chunk
//! itself are written before it is put on, and may be those of its next list already.

use crate::error::Error;
use crate::heap::block::{State, Unit};

use super::super::chunk::Chunk;
use super::super::free_lists::name;
use super::super::layout::{BINS, FLAGS, StateLayout};
use super::Scene;

/// The most chunks that are followed of one list.
const LONGEST: u32 = 1 << 20;

/// How many chunks are followed between two questions whether to stop.
const ASK: u32 = 1 << 16;

/// The most chunks that are merged with one before them.
const MERGED: u32 = 2;

/// Where following a list ends: the last chunk that is right, and where it leads.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Break {
    from: u64,
    to: u64,
}

impl Scene<'_> {
    pub(super) fn lists(&mut self) -> Result<(), Error> {
        if self.attempt.reading.links.count == 0 {
            return Ok(());
        }
        let states = self.attempt.reading.states.clone();
        for (layout, state) in states {
            for index in 1..BINS {
                let head = layout.bin_at(state.address, index);
                self.joined(layout, state.address, index);
                if let (Some(forward), Some(back)) = (self.follow(head, true)?, self.follow(head, false)?) {
                    self.list((state.address, state.locked), (index, head), forward, back);
                }
            }
        }
        Ok(())
    }

    /// A list that is broken at one place both ways.
    fn list(&mut self, (arena, locked): (u64, bool), (index, head): (u64, u64), forward: Break, back: Break) {
        let header = self.machine().header();
        let word = self.machine().word;
        let (before, behind) = (forward.from, back.from);
        let links = [before, behind].map(|chunk| self.links(chunk, true, header));
        // Each side leads to the other, or to the chunk that comes or goes.
        let sides = (forward.to == behind, back.to == before);
        let chunk = match sides {
            (true, false) => back.to,
            (false, true) => forward.to,
            (false, false) if forward.to == back.to => forward.to,
            (true, true) | (false, false) => return,
        };
        // It is on the list one way around, and the other way leads past it.
        let past = match (sides, links) {
            ((true, false), [Some((_, own)), _]) => (back.to == own).then_some((before, behind)),
            ((false, true), [_, Some((own, _))]) => (forward.to == own).then_some((behind, before)),
            _ => None,
        };
        // glibc 2.17 to 2.42, `malloc_consolidate`: both neighbours lead to it, and its link back is not
        // written yet. A block that was written to after its free looks the same.
        if forward.from == head && forward.to == behind && self.hints.busy(locked, behind, header, &[]) {
            let what = format!("the chunk at {behind:#x} is half on {}", name(index));
            self.guess(arena, what, [(behind.wrapping_add(header).wrapping_add(word), head)]);
        }
        if let Some((chunk, neighbour)) = past {
            let place = neighbour.wrapping_add(header).wrapping_add(if chunk == before { word } else { 0 });
            let what = format!("the chunk at {chunk:#x} is half on {}", name(index));
            self.guess(arena, what, [(place, chunk)]);
        }
        // glibc 2.17 to 2.42, `malloc_consolidate`: the links of the chunk itself come last.
        let block = self.attempt.reading.blocks.unit_from(chunk).is_some_and(|unit| unit.state.block());
        let both = !sides.0 && !sides.1;
        let comes = before == head && block && (both || self.hints.busy(locked, chunk, header, &[]));
        if !comes && !self.moves(chunk, before, behind) {
            return;
        }
        let unit = self.attempt.reading.blocks.unit_from(chunk);
        let used = unit.as_ref().is_some_and(|unit| unit.state == State::Used);
        let off =
            [(before.wrapping_add(header), behind), (behind.wrapping_add(header).wrapping_add(word), before)];
        if let Some(unit) = unit.filter(|_| both && used) {
            // A list that leads to a block in use may be damage to one flag.
            let merged = self.beside_unlisted(&unit) && !self.hints.idle();
            if merged || self.hints.busy(locked, chunk, header, &[]) {
                let what = format!("the chunk at {chunk:#x} is on {} and in use", name(index));
                self.guess(arena, what, off);
            }
            return;
        }
        let what = format!("the chunk at {chunk:#x} is half on {}", name(index));
        self.guess(arena, what, off);
    }

    /// The first chunk of a list of another size: it is being merged with those behind it.
    ///
    /// glibc 2.41 to 2.43, malloc/malloc.c, `_int_free_create_chunk`: a small chunk goes to its list at
    /// once, and has its size after that.
    fn joined(&mut self, layout: StateLayout, arena: u64, index: u64) {
        let machine = layout.machine;
        let (header, word) = (machine.header(), machine.word);
        let head = layout.bin_at(arena, index);
        let Some((first, _)) = self.links(head, true, header).filter(|_| index > 1) else { return };
        let before = self.links(first, true, header).map_or(first, |(_, back)| back);
        for chunk in [first, before] {
            let unit = self.attempt.reading.blocks.unit_from(chunk).filter(|unit| unit.state.block());
            let Some(unit) = unit.filter(|unit| machine.bin(unit.range.len()) != index) else { continue };
            let mut end = unit.range.end();
            for _ in 0..MERGED {
                let next = self.attempt.reading.blocks.unit_from(end).filter(|next| next.state.block());
                let Some(next) = next else { break };
                end = next.range.end();
                let size = end.saturating_sub(chunk);
                let said = Chunk::read(&mut self.peek, end).filter(|said| !said.previous_in_use());
                let own = Chunk::read(&mut self.peek, chunk).map_or(0, |own| own.head & FLAGS);
                if machine.bin(size) == index && said.is_some() {
                    let what = format!("the chunk at {chunk:#x} is being freed");
                    self.guess(arena, what, [(chunk.saturating_add(word), size | own), (end, size)]);
                }
            }
        }
    }

    /// Follows a list one way up to where it breaks; `None` where it does not.
    fn follow(&mut self, head: u64, forward: bool) -> Result<Option<Break>, Error> {
        let (header, word) = (self.machine().header(), self.machine().word);
        let mut from = head;
        for step in 0..LONGEST {
            if step % ASK == 0 {
                self.job.check()?;
            }
            let Some((next, _)) = self.links(from, forward, header) else { return Ok(None) };
            if next == head {
                // The last chunk has to be the one that the head leads back to.
                let place = head.wrapping_add(header).wrapping_add(if forward { word } else { 0 });
                let last = self.peek.word(place);
                let broken = last.is_some_and(|last| last != from);
                return Ok(broken.then_some(Break { from, to: head }));
            }
            let free = |unit: &Unit| unit.state.free();
            let unit = self.attempt.reading.blocks.unit_from(next).filter(free);
            let back = self.links(next, forward, header).map(|(_, back)| back);
            if unit.is_none() || back != Some(from) {
                return Ok(Some(Break { from, to: next }));
            }
            from = next;
        }
        Ok(None)
    }

    /// Where a chunk leads that way, and back.
    fn links(&mut self, chunk: u64, forward: bool, header: u64) -> Option<(u64, u64)> {
        let (next, back) = self.peek.two(chunk.wrapping_add(header))?;
        Some(if forward { (next, back) } else { (back, next) })
    }

    /// Whether `chunk` may be one that comes to lie between two others of a list, or did.
    fn moves(&mut self, chunk: u64, before: u64, behind: u64) -> bool {
        let machine = self.machine();
        let header = machine.header();
        let inside = self.attempt.reading.blocks.span_at(chunk).is_some();
        if !inside || machine.first_chunk(chunk) != chunk {
            return false;
        }
        let Some((next, back)) = self.links(chunk, true, header) else { return false };
        if next == behind || back == before {
            return true;
        }
        // The rest of a chunk that is being cut takes its place before it has links of its own.
        let around = self.attempt.reading.blocks.unit_at(chunk);
        if around.is_some_and(|unit| unit.range.start() < chunk && unit.state.free()) {
            return true;
        }
        // It has the links of its next list, whose two ends lead to each other or to it.
        let free = self.attempt.reading.blocks.unit_from(chunk).is_some_and(|unit| unit.state.free());
        let onward = self.links(back, true, header).map(|(next, _)| next);
        let backward = self.links(next, true, header).map(|(_, back)| back);
        free && (onward == Some(next) || onward == Some(chunk))
            && (backward == Some(back) || backward == Some(chunk))
    }

    /// Whether a chunk right before or behind is free and on no list: it is being merged with it.
    pub(super) fn beside_unlisted(&self, unit: &Unit) -> bool {
        let blocks = &self.attempt.reading.blocks;
        let near = [unit.index.checked_sub(1), unit.index.checked_add(1)];
        let mut units = near.into_iter().flatten().filter_map(|index| blocks.unit(index));
        units.any(|near| {
            let touches = near.range.end() == unit.range.start() || near.range.start() == unit.range.end();
            touches && near.state == State::Unlisted
        })
    }
}
