//! The main arena's memory where `mmap` gave it: stretches in any mapping, found by their chunks.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Error;
use crate::heap::block::{Part, State};
use crate::memory::{Buffer, RegionKind};
use crate::peek::Peek;
use crate::range::AddressRange;

use super::arenas::{ArenaState, Ground};
use super::chunk::{Chunk, Rules};
use super::layout::{PAGE, up};
use super::mapped;
use super::walk::{End, Stretch, Walk};

/// How often the same memory may be walked in vain while stretches are looked for.
const IN_VAIN: u64 = 4;

/// How many bytes at once may be passed over where nothing was ever written.
const EMPTY: u64 = 1 << 20;

/// What is known so far while the main arena's mappings are looked for.
struct Search {
    state: ArenaState,
    arena: u32,
    top_seen: bool,
    /// Of the tries that would have led to top, the one that led farthest, with its memory.
    best: Option<(u64, u64, AddressRange)>,
}

impl Ground<'_> {
    /// Stretches of the main arena that `mmap` gave when `brk` could not, in any mapping.
    ///
    /// glibc, malloc/malloc.c, `sysmalloc`: whole pages; the last one holds the top chunk, each
    /// other one ends with marks. Neighbouring mappings are one region.
    ///
    /// Observed: they are not at least 1 MiB (`MMAP_AS_MORECORE_SIZE`): from 2.35 on that is the
    /// alignment of the first one only. Seen: `tests/fixtures/heap_nobrk.c`, glibc 2.36.
    pub(super) fn scattered(&mut self, state: ArenaState, arena: u32, top_seen: bool) -> Result<(), Error> {
        // Observed: the last page of a chunk with its own mapping may hold bytes that lead right
        // into the stretch behind it; and one that `realloc` shrank may still say its old length
        // at its start. Neither way is always right, and what the arena counts tells which was.
        // Seen: `tests/fixtures/heap_traffic.c` with hugetlb=2, glibc 2.36.
        let known = self.parts.len();
        let mut search = Search { state, arena, top_seen, best: None };
        self.runs(true, &mut search)?;
        self.runs(false, &mut search)?;
        let missed = self.missed(&search);
        if missed == 0 {
            // `system_mem` may count some of what others took, so that the sums agree though a stretch is
            // missing; not where it counts all of that, or nothing.
            let exact = [true, false].map(|own_only| self.claimed(arena, own_only)).contains(&state.system);
            return if exact { Ok(()) } else { self.take_unfinished(state, arena, false).map(drop) };
        }
        let first = self.parts.split_off(known);
        let mut plain = Search { state, arena, top_seen, best: None };
        self.runs(false, &mut plain)?;
        let left = self.missed(&plain);
        if left < missed {
            if left > 0 && plain.top_seen {
                self.take_unfinished(state, arena, true)?;
            }
            return Ok(());
        }
        self.parts.truncate(known);
        self.parts.extend(first);
        if search.top_seen && self.take_unfinished(state, arena, true)? {
            return Ok(());
        }
        if let Some((_, start, free)) = search.best.filter(|_| !search.top_seen) {
            // Damage: what leads to top is walked all the same, over what is broken.
            let first = self.machine().first_chunk(start);
            let stretch = Stretch { limit: free.end(), top: Some(state.top), main: true, open: true };
            self.walk(start, first.saturating_sub(start), stretch, arena)?;
        }
        Ok(())
    }

    /// Looks for stretches in all mappings without a file, where nothing was found yet.
    fn runs(&mut self, over_mapped: bool, search: &mut Search) -> Result<(), Error> {
        for free in self.unclaimed() {
            if self.complete(search) {
                return Ok(());
            }
            self.pages(free, over_mapped, search)?;
        }
        Ok(())
    }

    /// What no part has of the mappings without a file.
    fn unclaimed(&self) -> Vec<AddressRange> {
        let regions = self.memory.regions();
        let anonymous = regions.iter().filter(|region| {
            let kind = !matches!(region.kind, RegionKind::Stack | RegionKind::Special);
            kind && region.anonymous()
        });
        // A page within a block may have been made read-only, or is shown so by gcore where
        // nothing may read it: memory goes on over it.
        let (open, closed): (Vec<_>, Vec<_>) = anonymous.partition(|region| region.mutable());
        let written = closed.iter().filter(|region| region.saved > 0).map(|region| region.range);
        let starts: BTreeSet<u64> = open.iter().map(|region| region.range.start()).collect();
        let ends: BTreeSet<u64> = open.iter().map(|region| region.range.end()).collect();
        let between = AddressRange::merge(written.collect()).into_iter();
        let between = between.filter(|range| ends.contains(&range.start()) && starts.contains(&range.end()));
        let open = open.iter().map(|region| region.range);
        let runs = AddressRange::merge(open.chain(between).collect());
        let taken = AddressRange::merge(self.parts.iter().map(Part::range).collect());
        runs.into_iter().flat_map(|run| run.without(run.among(&taken))).collect()
    }

    /// Takes the stretch that a strict walk cannot finish, because a call changes it or it is damaged.
    ///
    /// Its size is the part of `system_mem` that was not found, with or without what others took. Where it
    /// is not `evident` that any is missing, one plausible chunk is not enough.
    fn take_unfinished(&mut self, state: ArenaState, arena: u32, evident: bool) -> Result<bool, Error> {
        for own_only in [false, true] {
            let missing = state.system.saturating_sub(self.claimed(arena, own_only));
            if missing > 0 && missing % PAGE == 0 && self.take_missing(missing, state, arena, evident)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Looks for `missing` bytes that start with plausible chunks, and returns whether there are any.
    ///
    /// They end with marks, or where a known part starts. That part is the rest of the same stretch, found
    /// at a chunk that starts a page by chance, and is replaced.
    fn take_missing(
        &mut self,
        missing: u64,
        state: ArenaState,
        arena: u32,
        evident: bool,
    ) -> Result<bool, Error> {
        let machine = self.machine();
        let header = machine.header();
        let rest: BTreeMap<u64, (usize, u64)> = (0..)
            .zip(&self.parts)
            .filter(|(_, part)| part.arena() == Some(arena))
            .map(|(index, part)| (part.range().start(), (index, part.range().end())))
            .collect();
        let mut peek = Peek::new(self.memory);
        let mut best: Option<(u64, u64, Option<usize>, Stretch)> = None;
        for free in self.unclaimed() {
            let mut at = up(free.start(), PAGE);
            // Chunks may lead far from every page on.
            let mut left = free.len().saturating_mul(IN_VAIN);
            while let Some(end) = at.checked_add(missing).filter(|end| *end <= free.end() && left > 0) {
                self.job.check()?;
                let start = at;
                at = at.saturating_add(PAGE);
                if let Some(to) = self.empty(start, state) {
                    at = to;
                    continue;
                }
                let mut marked = |before: u64| {
                    let mark = end.checked_sub(before).and_then(|mark| Chunk::read(&mut peek, mark));
                    mark.is_some_and(|mark| mark.fencepost(machine))
                };
                let (joined, limit) = match rest.get(&end) {
                    Some((index, limit)) => (Some(*index), *limit),
                    None if marked(header) && marked(header.saturating_mul(2)) => (None, end),
                    None => continue,
                };
                let top = (start..limit).contains(&state.top).then_some(state.top);
                let stretch = Stretch { limit, top, main: true, open: true };
                let Some((part, _)) = self.strictly(start, stretch, arena)? else { continue };
                let reach = part.end().saturating_sub(start);
                left = left.saturating_sub(reach);
                let follow = part.last_start() > Some(machine.first_chunk(start));
                if (follow || evident) && reach > best.as_ref().map_or(0, |(most, ..)| *most) {
                    best = Some((reach, start, joined, stretch));
                }
            }
        }
        let Some((_, start, joined, stretch)) = best else { return Ok(false) };
        if let Some(index) = joined {
            self.parts.remove(index);
        }
        let overhead = machine.first_chunk(start).saturating_sub(start);
        self.walk(start, overhead, stretch, arena)?;
        Ok(true)
    }

    /// Where to look next, if there is nothing at `at`: no bytes, or none that were ever written.
    ///
    /// One page in some is asked about, which is enough for mappings of any size.
    fn empty(&self, at: u64, state: ArenaState) -> Option<u64> {
        if at % EMPTY != 0 {
            return None;
        }
        let mut buffer = Buffer::default();
        let piece = AddressRange::saturating(at, EMPTY);
        let to = if self.memory.zeros(piece) >= EMPTY {
            piece.end()
        } else {
            let view = self.memory.view(AddressRange::saturating(at, 1), &mut buffer);
            let gap = view.gap.filter(|_| view.bytes.is_empty())?;
            up(gap.range.end(), PAGE)
        };
        // The header of a new top chunk may not be written yet.
        (to > at && !(at..to).contains(&state.top)).then_some(to)
    }

    /// Whether all that the arena took from the system was found.
    fn complete(&self, search: &Search) -> bool {
        search.top_seen && self.claimed(search.arena, search.state.scattered) >= search.state.system
    }

    /// How many bytes less or more were found than the arena took from the system.
    ///
    /// What others took counts or not: it does while the arena's memory is in one piece.
    fn missed(&self, search: &Search) -> u64 {
        let [own, all] = [true, false].map(|own_only| self.claimed(search.arena, own_only));
        let system = search.state.system;
        if search.top_seen { own.saturating_sub(system).max(system.saturating_sub(all)) } else { u64::MAX }
    }

    /// Tries a stretch at each page of `free`, or at each behind what looks like a mapped chunk.
    fn pages(&mut self, free: AddressRange, over_mapped: bool, search: &mut Search) -> Result<(), Error> {
        let machine = self.machine();
        let memory = self.memory;
        let mut peek = Peek::new(memory);
        let mut at = up(free.start(), PAGE);
        // Bytes may look like chunks from every page on, up to one and
        // the same break. What was walked in vain is bounded by the memory's size.
        let mut left = free.len().saturating_mul(IN_VAIN);
        while at < free.end() && left > 0 && !self.complete(search) {
            self.job.check()?;
            if let Some(to) = self.empty(at, search.state) {
                at = to;
                continue;
            }
            let mapped = if over_mapped { mapped::length_at(&mut peek, machine, at) } else { None };
            let behind = mapped.and_then(|length| at.checked_add(length));
            if let Some(behind) = behind.filter(|behind| *behind <= free.end()) {
                at = behind;
                continue;
            }
            let first = machine.first_chunk(at);
            let top = (first..free.end()).contains(&search.state.top).then_some(search.state.top);
            let stretch = Stretch { limit: free.end(), top, main: true, open: true };
            let (end, whole) = self.try_stretch(at, stretch, search.arena)?;
            if whole {
                search.top_seen |= top.is_some_and(|top| (at..end).contains(&top));
                at = up(end.max(at.saturating_add(1)), PAGE);
            } else {
                let length = end.saturating_sub(first);
                let most = search.best.map_or(0, |(most, ..)| most);
                if top.is_some() && length > most {
                    search.best = Some((length, at, free));
                }
                left = left.saturating_sub(end.saturating_sub(at));
                at = at.saturating_add(PAGE);
            }
        }
        Ok(())
    }

    /// Takes the stretch from `start` on, if chunks tile it up to top or marks at a page's end.
    ///
    /// Returns how far chunks led, and whether the stretch was taken.
    fn try_stretch(&mut self, start: u64, stretch: Stretch, arena: u32) -> Result<(u64, bool), Error> {
        let Some((part, whole)) = self.strictly(start, stretch, arena)? else { return Ok((start, false)) };
        let at = part.end();
        if whole {
            self.parts.push(part);
        }
        Ok((at, whole))
    }

    /// The units from `start` up to where a rule is broken, and whether they are all of a stretch.
    fn strictly(&self, start: u64, stretch: Stretch, arena: u32) -> Result<Option<(Part, bool)>, Error> {
        let machine = self.machine();
        let first = machine.first_chunk(start);
        let Some(chunk) = Chunk::read(&mut Peek::new(self.memory), first) else { return Ok(None) };
        let rules = Rules { machine, main: true };
        let room = stretch.limit.saturating_sub(first);
        let starts = chunk.previous_in_use() && rules.check(chunk, room).is_ok();
        if !starts && stretch.top != Some(first) {
            return Ok(None);
        }
        let mut walk = Walk::new(self.memory, machine, stretch, self.known, self.job);
        walk.strict = true;
        let mut part = Part::new(start, self.shape(), Some(arena));
        part.push(first, State::Overhead);
        let end = walk.units(&mut part)?;
        let whole = match end {
            End::Top => true,
            End::Fence => part.end() % PAGE == 0,
            End::Limit | End::Full => false,
        };
        Ok(Some((part, whole && walk.harm.count == 0)))
    }
}
