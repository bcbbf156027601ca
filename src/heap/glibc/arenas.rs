//! The arenas' own structures, and the stretches of memory that belong to each.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Error;
use crate::heap::block::{MOST_SPAN, Part, STEP, Shape, State};
use crate::memory::{Memory, RegionKind};
use crate::pass::Job;
use crate::peek::Peek;
use crate::range::AddressRange;

use super::boundary::Seek;
use super::chunk::{Chunk, Rules};
use super::extent::{self, run_of};
use super::harm::Harm;
use super::heaps::{Heaps, align_down, own_heap};
use super::known::Known;
use super::layout::{Machine, PAGE, StateLayout, up};
use super::mapped;
use super::params::Params;
use super::unread::Unread;
use super::walk::{End, Stretch, Walk};

/// Fewer bytes than this no arena ever has, and few arenas have more threads.
const THREADS: u64 = 512;

/// How often the same memory may be walked in vain while stretches are looked for.
const IN_VAIN: u64 = 4;

/// The most heaps that one arena is followed through.
const MOST_HEAPS: usize = 1 << 20;

/// An arena's `struct malloc_state`, as far as it is read at once.
// Each a fact of its own that is read at one place.
#[allow(clippy::struct_excessive_bools)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ArenaState {
    pub address: u64,
    pub main: bool,
    pub top: u64,
    pub system: u64,
    /// Whether its lock is taken: somebody was at work in it.
    pub locked: bool,
    /// Whether `attached_threads` is there: since 2.23.
    pub attached: bool,
    /// Whether its memory is not in one piece (`NONCONTIGUOUS_BIT`).
    pub scattered: bool,
}

impl ArenaState {
    /// The arena at `address`; `None` where it cannot be read.
    pub(super) fn read(peek: &mut Peek<'_>, layout: StateLayout, address: u64, main: bool) -> Option<Self> {
        let top = peek.word(address.checked_add(layout.top())?)?;
        let order = peek.format().order;
        let lock = order.value(peek.bytes(address, 4)?);
        let (first, second) = peek.two(address.checked_add(layout.system(false))?)?;
        // Up to 2.22 the two sizes stand where since 2.23 the number of threads
        // and the first size do. A number of threads is small, and a size is no more
        // than the largest it had. From 2.27 on there is nothing to decide.
        let newer = layout.fast_flag || !layout.fast;
        let attached = newer || first < THREADS || second < first;
        let flags = order.value(peek.bytes(address.checked_add(4)?, 4)?);
        let system = if attached { second } else { first };
        Some(Self { address, main, top, system, locked: lock != 0, attached, scattered: flags & 2 != 0 })
    }
}

impl ArenaState {
    /// Whether it was set up: `malloc_init_state` writes the heads of its lists first, then `top`.
    pub(super) const fn begun(&self) -> bool {
        self.top != 0 || self.system != 0
    }
}

/// What is known so far while the main arena's mappings are looked for.
struct Search {
    state: ArenaState,
    arena: u32,
    top_seen: bool,
    /// Of the tries that would have led to top, the one that led farthest, with its memory.
    best: Option<(u64, u64, AddressRange)>,
}

/// The units of all arenas as they are found.
pub(super) struct Ground<'g> {
    pub memory: &'g dyn Memory,
    pub job: &'g Job,
    pub layout: StateLayout,
    pub heaps: &'g Heaps,
    pub known: &'g Known,
    pub parts: Vec<Part>,
    pub harm: Harm,
    pub unread: Unread,
    pub caught: u64,
}

impl Ground<'_> {
    fn machine(&self) -> Machine {
        self.layout.machine
    }

    /// How blocks lie in the chunks of an arena (`chunk2mem`, `memsize`).
    fn shape(&self) -> Shape {
        let machine = self.machine();
        Shape { lead: byte(machine.header()), cost: byte(machine.word) }
    }

    /// Walks one stretch, in as many spans as it needs.
    fn walk(&mut self, start: u64, overhead: u64, stretch: Stretch, arena: u32) -> Result<(End, u64), Error> {
        let mut walk = Walk::new(self.memory, self.machine(), stretch, self.known, self.job);
        let mut part = Part::new(start, self.shape(), Some(arena));
        let first = start.saturating_add(overhead);
        part.push(first, State::Overhead);
        // Folklore: the heap may start at any byte, where a program called sbrk before
        // its first malloc; units are counted from a place where a chunk may start.
        if overhead % STEP != 0 {
            self.parts.push(std::mem::replace(&mut part, Part::new(first, self.shape(), Some(arena))));
        }
        let end = loop {
            let end = walk.units(&mut part)?;
            let at = part.end();
            if end != End::Full {
                break end;
            }
            self.parts.push(std::mem::replace(&mut part, Part::new(at, self.shape(), Some(arena))));
        };
        let at = part.end();
        self.parts.push(part);
        self.harm.merge(walk.harm);
        self.unread.merge(walk.unread);
        self.caught = self.caught.saturating_add(walk.caught);
        Ok((end, at))
    }

    /// The main arena: from where `brk` started, and wherever else it got memory.
    pub(super) fn main(
        &mut self,
        state: ArenaState,
        params: Option<Params>,
        arena: u32,
    ) -> Result<(), Error> {
        let top_run = run_of(self.memory, state.top);
        // malloc_init_state: before the first request `top` leads into the arena itself.
        if state.top == self.layout.bin_at(state.address, 1) || !state.begun() {
            return Ok(());
        }
        let base = params.map(|params| params.base).or_else(|| self.likely_base(state.top));
        let mut top_seen = false;
        if let Some(base) = base {
            top_seen = self.brk(base, state, arena)?;
        }
        if !top_seen || self.claimed(arena, state.scattered) < state.system {
            self.elsewhere(state, arena, top_seen)?;
        }
        self.let_go_of_foreign(state, arena);
        let found = self.parts.iter().any(|part| part.range().contains(state.top));
        if !found {
            let lost = top_run.map_or(0, AddressRange::len);
            self.harm.note(
                state.top,
                0,
                lost,
                "the top chunk of the main arena was not reached from its memory's start",
            );
        }
        Ok(())
    }

    /// Goes over the memory that `brk` gave, over what somebody else took between.
    fn brk(&mut self, base: u64, state: ArenaState, arena: u32) -> Result<bool, Error> {
        let told = (!state.scattered).then_some(state.system);
        let Some(run) = extent::of_main(self.memory, base, state.top, told) else {
            self.harm.note(base, 0, 0, "the main arena's memory starts where no region is");
            return Ok(false);
        };
        let machine = self.machine();
        let kind = self.memory.region_at(base).map(|region| region.kind);
        let brk = matches!(kind, Some(RegionKind::Heap | RegionKind::Data));
        let mut start = base;
        let mut first = machine.first_chunk(base);
        loop {
            let top = (first..run.end()).contains(&state.top).then_some(state.top);
            let stretch = Stretch { limit: run.end(), top, main: true, open: true };
            let (end, at) = self.walk(start, first.saturating_sub(start), stretch, arena)?;
            // Only brk gives what touches to others: behind a mapping lies another's.
            if end != End::Fence || !brk {
                return Ok(end == End::Top);
            }
            // Folklore: a program that calls sbrk itself takes what lies behind the
            // marks; malloc goes on behind that, at the next aligned place, and counts
            // all of it as its own (malloc/malloc.c, sysmalloc: "Count foreign sbrk as
            // system_mem"). Seen: tests/fixtures/heap_foreign.c.
            let seek = Seek {
                memory: self.memory,
                rules: Rules { machine, main: true },
                top,
                limit: run.end(),
                avoid: u64::MAX,
                known: self.known,
                lenient: true,
                job: self.job,
            };
            let Some(next) = seek.next(at)? else { return Ok(false) };
            // On i386 the first chunk of a page does not start at its first byte.
            let page = at.max(next.saturating_sub(next % PAGE));
            let own = if machine.first_chunk(page) == next { page } else { next };
            let mut part = Part::new(at, self.shape(), Some(arena));
            let mut gap = at;
            while gap < own {
                gap = own.min(gap.saturating_add(MOST_SPAN));
                part.push(gap, State::Foreign);
                self.parts.push(std::mem::replace(&mut part, Part::new(gap, self.shape(), Some(arena))));
            }
            (start, first) = (own, next);
        }
    }

    /// Stretches of the main arena that `mmap` gave when `brk` could not, in any mapping.
    ///
    /// glibc, malloc/malloc.c, `sysmalloc`: whole pages; the last one holds the top chunk, each
    /// other one ends with marks. Neighbouring mappings are one region.
    ///
    /// Folklore: they are not at least 1 MiB (`MMAP_AS_MORECORE_SIZE`): from 2.35 on that is the
    /// alignment of the first one only. Seen: `tests/fixtures/heap_nobrk.c`, glibc 2.36.
    fn elsewhere(&mut self, state: ArenaState, arena: u32, top_seen: bool) -> Result<(), Error> {
        // Folklore: the last page of a chunk with its own mapping may hold bytes that lead right
        // into the stretch behind it; and one that `realloc` shrank may still say its old length
        // at its start. Neither way is always right, and what the arena counts tells which was.
        // Seen: `tests/fixtures/heap_traffic.c` with hugetlb=2, glibc 2.36.
        let known = self.parts.len();
        let mut search = Search { state, arena, top_seen, best: None };
        self.runs(true, &mut search)?;
        self.runs(false, &mut search)?;
        let missed = self.missed(&search);
        if missed == 0 {
            // What others took may count, or memory that is not whole has as many bytes.
            return self.broken(state, arena).map(drop);
        }
        let first = self.parts.split_off(known);
        let mut plain = Search { state, arena, top_seen, best: None };
        self.runs(false, &mut plain)?;
        if self.missed(&plain) < missed {
            return Ok(());
        }
        self.parts.truncate(known);
        self.parts.extend(first);
        if search.top_seen && self.broken(state, arena)? {
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
        runs.into_iter().flat_map(|run| run.without(&taken)).collect()
    }

    /// Takes a stretch through which chunks do not lead: a call is at work in it, or it is damaged.
    ///
    /// Its size is what the arena counts more than was found, with or without what others took.
    fn broken(&mut self, state: ArenaState, arena: u32) -> Result<bool, Error> {
        for own_only in [false, true] {
            let missing = state.system.saturating_sub(self.claimed(arena, own_only));
            if missing > 0 && missing % PAGE == 0 && self.broken_with(missing, state, arena)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes such a stretch of which `missing` bytes were not found, and returns whether there is one.
    ///
    /// Its first chunk shows it, and so many bytes behind that the marks at its end. Or there is a chunk
    /// by chance, at the start of a page, from which the others follow each other: a part that is not
    /// whole without what is before it.
    fn broken_with(&mut self, missing: u64, state: ArenaState, arena: u32) -> Result<bool, Error> {
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
            while let Some(end) = at.checked_add(missing).filter(|end| *end <= free.end()) {
                self.job.check()?;
                let start = at;
                at = at.saturating_add(PAGE);
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
                let led = self.led(start, stretch)?;
                if led > best.as_ref().map_or(0, |(most, ..)| *most) {
                    best = Some((led, start, joined, stretch));
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
        // Folklore: bytes may look like chunks from every page on, up to one and
        // the same break. What was walked in vain is bounded by the memory's size.
        let mut left = free.len().saturating_mul(IN_VAIN);
        while at < free.end() && left > 0 && !self.complete(search) {
            self.job.check()?;
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
    /// Comes back with how far chunks led, and whether the stretch was taken.
    fn try_stretch(&mut self, start: u64, stretch: Stretch, arena: u32) -> Result<(u64, bool), Error> {
        let Some((part, whole)) = self.strictly(start, stretch, arena)? else { return Ok((start, false)) };
        let at = part.end();
        if whole {
            self.parts.push(part);
        }
        Ok((at, whole))
    }

    /// How many bytes chunks lead through from `start` on.
    fn led(&self, start: u64, stretch: Stretch) -> Result<u64, Error> {
        let tried = self.strictly(start, stretch, 0)?;
        Ok(tried.map_or(0, |(part, _)| part.end().saturating_sub(start)))
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

    /// Where the memory of `brk` starts, where malloc's own account of it was not found.
    fn likely_base(&self, top: u64) -> Option<u64> {
        let run = run_of(self.memory, top)?;
        let heap = self.memory.regions().iter().find(|region| region.kind == RegionKind::Heap);
        let inside = heap.filter(|heap| run.covers(heap.range));
        Some(inside.map_or(run.start(), |heap| heap.range.start()))
    }

    /// The bytes that were found to belong to an arena, with or without what others took between.
    fn claimed(&self, arena: u32, own_only: bool) -> u64 {
        let counts = |part: &&Part| {
            part.arena() == Some(arena) && !(own_only && part.last_state() == Some(State::Foreign))
        };
        self.parts.iter().filter(counts).map(|part| part.range().len()).fold(0, u64::saturating_add)
    }

    /// Leaves out what others took that malloc does not count as its own, from the end on.
    ///
    /// glibc, malloc/malloc.c, `sysmalloc`: only while its memory is in one piece
    /// (`contiguous (av)`) "Count foreign sbrk as `system_mem`".
    fn let_go_of_foreign(&mut self, state: ArenaState, arena: u32) {
        let mut extra = self.claimed(arena, false).saturating_sub(state.system);
        let foreign = |part: &Part| part.arena() == Some(arena) && part.last_state() == Some(State::Foreign);
        while extra > 0 {
            let last = self.parts.iter().enumerate().filter(|(_, part)| foreign(part));
            let last = last.max_by_key(|(_, part)| part.range().start());
            let Some((index, size)) = last.map(|(index, part)| (index, part.range().len())) else { return };
            if size > extra {
                return;
            }
            self.parts.remove(index);
            extra = extra.saturating_sub(size);
        }
    }

    /// An arena of a further thread: all of its heaps, each a `heap_info` and chunks behind it.
    ///
    /// Comes back with the heaps and the size of the header, which tells versions apart.
    pub(super) fn thread(&mut self, state: ArenaState, arena: u32) -> Result<Option<u64>, Error> {
        let mut peek = Peek::new(self.memory);
        let Some((reach, first)) = own_heap(&mut peek, state.address, state.top) else {
            self.harm.note(state.address, 0, 0, "the arena lies in no heap of its own");
            return Ok(None);
        };
        let header = state.address.saturating_sub(first);
        let mut heaps = BTreeSet::from([first]);
        let mut at = align_down(state.top, reach);
        while at != first && heaps.len() < MOST_HEAPS {
            if peek.word(at) != Some(state.address) || !heaps.insert(at) {
                self.harm.note(
                    at,
                    peek.word(at).unwrap_or(0),
                    0,
                    "the chain of the arena's heaps leads here, where none of them is",
                );
                break;
            }
            let Some(before) = peek.word_at(at, 1) else { break };
            at = before;
        }
        // Heaps that name the arena, and that its chain does not lead to.
        heaps.extend(self.heaps.of(state.address, reach));
        for heap in heaps {
            self.heap(&mut peek, heap, state, first, reach, arena)?;
        }
        Ok(Some(header))
    }

    fn heap(
        &mut self,
        peek: &mut Peek<'_>,
        heap: u64,
        state: ArenaState,
        first: u64,
        reach: u64,
        arena: u32,
    ) -> Result<(), Error> {
        let machine = self.machine();
        let header = state.address.saturating_sub(first);
        let behind = if heap == first {
            state.address.saturating_add(self.layout.size(state.attached))
        } else {
            heap.saturating_add(header)
        };
        let mapped = run_of(self.memory, heap).map_or(heap, AddressRange::end);
        let size = peek.word_at(heap, 2).unwrap_or(0);
        let end = heap.saturating_add(size);
        let goes_on = || extent::of_thread(self.memory, heap, mapped, end, reach);
        let fits = size % PAGE == 0 && size > 0 && (end <= mapped || goes_on());
        if !fits {
            self.harm.note(heap, size, 0, format!("heap's size {size:#x} does not fit its mapping"));
        }
        let limit = if fits { end } else { mapped.min(heap.saturating_add(reach)) };
        let top = (heap..limit).contains(&state.top).then_some(state.top);
        let stretch = Stretch { limit, top, main: false, open: false };
        let overhead = machine.first_chunk(behind).saturating_sub(heap);
        let (end, at) = self.walk(heap, overhead, stretch, arena)?;
        if end == End::Fence && at < limit {
            self.harm.note(at, 0, limit.saturating_sub(at), "the heap goes on behind its end marks");
        }
        Ok(())
    }
}

/// A number of the layout, all of which are small.
fn byte(number: u64) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}
