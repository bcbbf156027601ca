//! The arenas' own structures, and the stretches of memory that belong to each.

use std::collections::BTreeSet;

use crate::error::Error;
use crate::heap::block::{MOST_SPAN, Part, STEP, Shape, State};
use crate::memory::{Memory, RegionKind};
use crate::pass::Job;
use crate::peek::Peek;
use crate::range::AddressRange;

use super::boundary::Seek;
use super::chunk::Rules;
use super::extent::{self, run_of};
use super::harm::Harm;
use super::heaps::{Heaps, align_down, own_heap};
use super::known::Known;
use super::layout::{Machine, PAGE, StateLayout};
use super::params::Params;
use super::unread::Unread;
use super::walk::{End, Stretch, Walk};

/// Fewer bytes than this no arena ever has, and few arenas have more threads.
const THREADS: u64 = 512;

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
    /// Whether its lock is taken: a thread was at work in it.
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
    pub(super) fn machine(&self) -> Machine {
        self.layout.machine
    }

    /// How blocks lie in the chunks of an arena (`chunk2mem`, `memsize`).
    pub(super) fn shape(&self) -> Shape {
        let machine = self.machine();
        Shape { lead: byte(machine.header()), cost: byte(machine.word) }
    }

    /// Walks one stretch, in as many spans as it needs.
    pub(super) fn walk(
        &mut self,
        start: u64,
        overhead: u64,
        stretch: Stretch,
        arena: u32,
    ) -> Result<(End, u64), Error> {
        let mut walk = Walk::new(self.memory, self.machine(), stretch, self.known, self.job);
        let mut part = Part::new(start, self.shape(), Some(arena));
        let first = start.saturating_add(overhead);
        part.push(first, State::Overhead);
        // Observed: the heap may start at any byte, where a program called sbrk before
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
            self.scattered(state, arena, top_seen)?;
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

    /// Goes over the memory that `brk` gave, over what others took between.
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
            // Observed: a program that calls sbrk itself takes what lies behind the
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

    /// Where the memory of `brk` starts, where malloc's own account of it was not found.
    fn likely_base(&self, top: u64) -> Option<u64> {
        let run = run_of(self.memory, top)?;
        let heap = self.memory.regions().iter().find(|region| region.kind == RegionKind::Heap);
        let inside = heap.filter(|heap| run.covers(heap.range));
        Some(inside.map_or(run.start(), |heap| heap.range.start()))
    }

    /// The bytes that were found to belong to an arena, with or without what others took between.
    pub(super) fn claimed(&self, arena: u32, own_only: bool) -> u64 {
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
        let mut last: Vec<AddressRange> =
            self.parts.iter().filter(|part| foreign(part)).map(Part::range).collect();
        last.sort_unstable_by(|one, other| other.cmp(one));
        let mut gone = BTreeSet::new();
        for range in last {
            let Some(rest) = extra.checked_sub(range.len()).filter(|_| extra > 0) else { break };
            gone.insert(range);
            extra = rest;
        }
        self.parts.retain(|part| !(foreign(part) && gone.contains(&part.range())));
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
