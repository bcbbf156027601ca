//! Where the arenas are, told from their structure: no symbol is needed.
//!
//! An arena has 127 heads of lists in a row. The head of an empty list points at
//! itself, less two words (malloc/malloc.c, `malloc_init_state`), and nothing
//! else in a process looks like many of these side by side. The main arena lies
//! in the writable data of libc, or of a program that was linked statically. Its
//! `next` leads around the ring of all arenas and back to it, at a distance from
//! the lists that tells which parts the structure has.

use std::collections::BTreeSet;

use crate::error::Error;
use crate::memory::{Buffer, Memory, Region, RegionKind};
use crate::name::Name;
use crate::pass::{self, CHUNK, Job};
use crate::peek::Peek;
use crate::range::AddressRange;

use super::heaps::own_heap;
use super::layout::{BINS, PAGE, StateLayout};

/// How many of the 127 lists have to be consistent.
const CONSISTENT: u64 = 100;

/// The most arenas that a ring is followed around.
const MOST_ARENAS: usize = 1 << 16;

/// A main arena, and the ring that it is in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Ring {
    pub layout: StateLayout,
    /// Another layout with its parts at the same places, and chunks aligned to less.
    pub looser: Option<StateLayout>,
    /// The arenas' addresses, the main one first, then in the ring's order.
    pub states: Vec<u64>,
    /// Whether the ring leads back to where it started.
    pub closed: bool,
    /// How many lists of the main arena were consistent.
    pub consistent: u64,
    /// Where the main arena lies.
    pub module: Name,
    /// The data of that module.
    pub data: Vec<AddressRange>,
}

/// All main arenas: one for each libc in the process, as a rule one.
///
/// # Errors
///
/// [`Error::Interrupted`] when the job was stopped.
pub(super) fn rings(memory: &dyn Memory, job: &Job) -> Result<Vec<Ring>, Error> {
    let mut peek = Peek::new(memory);
    let mut found: Vec<Ring> = Vec::new();
    let mut places = module_data(memory.regions());
    if !memory.regions().iter().any(|region| !region.anonymous()) {
        places.push(unnamed(memory.regions()));
    }
    for data in places {
        for cluster in empty_lists(memory, &data.ranges, job)? {
            job.check()?;
            let inside = |ring: &Ring| {
                let size = ring.layout.size(true);
                let place = cluster.first().copied().unwrap_or(0);
                ring.states.iter().any(|state| place.wrapping_sub(*state) < size)
            };
            if found.iter().any(inside) {
                continue;
            }
            let Some(ring) = ring_at(&mut peek, &cluster, &data) else { continue };
            let ring = main_first(&mut peek, ring);
            let state = ring.states.first();
            if found.iter().all(|other| !other.states.iter().any(|known| Some(known) == state)) {
                found.push(ring);
            }
        }
    }
    Ok(found)
}

/// The same ring from its main arena on: the one that lies in no heap of its own.
fn main_first(peek: &mut Peek<'_>, mut ring: Ring) -> Ring {
    let main = ring.states.iter().position(|state| own_heap(peek, *state, *state).is_none());
    ring.states.rotate_left(main.unwrap_or(0));
    ring
}

/// All writable memory of a target that names no file at all.
///
/// Observed: such a core cannot tell data from the rest. Seen: qemu-user 10.0,
/// which writes no `NT_FILE`.
fn unnamed(regions: &[Region]) -> Data {
    let writable = regions.iter().filter(|region| region.mutable());
    Data { module: Name::default(), ranges: writable.map(|region| region.range).collect() }
}

/// The writable data of one module.
struct Data {
    module: Name,
    ranges: Vec<AddressRange>,
}

/// The writable data of all modules, each with its bss behind it.
fn module_data(regions: &[Region]) -> Vec<Data> {
    let mut found: Vec<Data> = Vec::new();
    for region in regions.iter().filter(|region| holds_data(region)) {
        match found.last_mut() {
            Some(last)
                if (region.anonymous()
                    && last.ranges.last().is_some_and(|range| range.end() == region.range.start()))
                    || last.module == region.name =>
            {
                last.ranges.push(region.range);
            }
            _ => found.push(Data { module: region.name.clone(), ranges: vec![region.range] }),
        }
    }
    found
}

// Observed: without address randomisation the bss and the heap may be one region,
// which is then called the heap. Seen: setarch -R, and every process that gdb starts.
// The data of a program that was linked statically may end in it.
fn holds_data(region: &Region) -> bool {
    let data = region.kind == RegionKind::Data || (region.kind == RegionKind::File && !region.anonymous());
    data && region.mutable()
}

/// Groups of places where an empty list's head lies, in address order.
///
/// One is enough for a closer look: the last of the 127 lists is always empty,
/// since `bin_index` gives 126 at the most, and after heavy traffic few others are.
fn empty_lists(memory: &dyn Memory, ranges: &[AddressRange], job: &Job) -> Result<Vec<Vec<u64>>, Error> {
    let size = memory.word_format().size as u64;
    let reach = BINS.saturating_mul(2).saturating_mul(size);
    let mut groups: Vec<Vec<u64>> = Vec::new();
    let work = |chunk: &pass::Chunk, buffer: &mut Buffer| {
        // The second word of a head may lie in the next chunk.
        let end = chunk.own.end().saturating_add(size).min(chunk.run.end());
        heads(
            memory,
            AddressRange::saturating(chunk.own.start(), end.saturating_sub(chunk.own.start())),
            buffer,
        )
    };
    pass::in_order(memory, ranges, CHUNK, job, work, |chunk, (places, behind)| {
        for place in places {
            match groups.last_mut() {
                Some(group) if group.first().is_some_and(|first| place.saturating_sub(*first) < reach) => {
                    group.push(place);
                }
                _ => groups.push(vec![place]),
            }
        }
        Ok(behind.filter(|behind| *behind > chunk.own.end()))
    })?;
    Ok(groups)
}

/// Where in `range` the heads of empty lists are: two equal words that name their own place.
///
/// Comes back with the end of the last gap too.
fn heads(memory: &dyn Memory, range: AddressRange, buffer: &mut Buffer) -> (Vec<u64>, Option<u64>) {
    let format = memory.word_format();
    let size = format.size as u64;
    let mut places = Vec::new();
    let (mut at, mut last, mut behind) = (range.start(), 0, None);
    while at < range.end() {
        let rest = AddressRange::saturating(at, range.end().saturating_sub(at));
        let zeros = memory.zeros(rest);
        if zeros > 0 {
            (at, last) = (at.saturating_add(zeros), 0);
            continue;
        }
        let view = memory.view(rest, buffer);
        let mut here = at;
        for bytes in view.bytes.chunks_exact(format.size) {
            let word = format.read(bytes).unwrap_or(0);
            if word == last && word != 0 && word == here.wrapping_sub(size.saturating_mul(3)) {
                places.push(here.saturating_sub(size));
            }
            last = word;
            here = here.saturating_add(size);
        }
        at = match (here > at, view.gap) {
            (_, Some(gap)) => {
                behind = Some(gap.range.end());
                gap.range.end().max(here)
            }
            (true, None) => here,
            (false, None) => break,
        };
    }
    (places, behind)
}

/// The arena that has these empty lists, with the layout that its ring confirms.
fn ring_at(peek: &mut Peek<'_>, empty: &[u64], data: &Data) -> Option<Ring> {
    let first = *empty.first()?;
    let size = peek.size();
    let layouts = StateLayout::all(size);
    let step = size.saturating_mul(2);
    let starts: Vec<u64> =
        (0..BINS.saturating_sub(1)).map(|bin| first.wrapping_sub(bin.saturating_mul(step))).collect();
    let mut open: Option<Ring> = None;
    for bins in starts {
        let Some(consistent) = consistent_lists(peek, bins) else { continue };
        for layout in &layouts {
            let state = bins.wrapping_sub(layout.bins());
            let (states, closed) = follow(peek, *layout, state);
            let ring = Ring {
                layout: *layout,
                looser: looser(&layouts, *layout),
                states,
                closed,
                consistent,
                module: data.module.clone(),
                data: data.ranges.clone(),
            };
            if closed {
                return Some(ring);
            }
            // Observed: damage to `next` must not cost the whole heap. Of the layouts
            // that are left, one whose arena has sizes that can be, and of these the one
            // that finds most lists in the arenas that it leads to.
            let plausible = plausible_sizes(peek, *layout, state);
            let lists = ring
                .states
                .iter()
                .map(|state| consistent_lists(peek, state.wrapping_add(layout.bins())).unwrap_or(0));
            let ring = Ring { consistent: lists.fold(0, u64::saturating_add), ..ring };
            let better = open.as_ref().is_none_or(|open| open.consistent < ring.consistent);
            if plausible && better {
                open = Some(ring);
            }
        }
    }
    open
}

/// The layout that only chunks tell from this one.
///
/// Observed: on 32-bit machines an arena of i386 in 2.26 and one of arm since 2.27 have their
/// parts at the same places, and so have both in 2.43.
fn looser(layouts: &[StateLayout], layout: StateLayout) -> Option<StateLayout> {
    let alike = |other: &&StateLayout| {
        other.machine.align < layout.machine.align
            && (other.top(), other.bins(), other.fast) == (layout.top(), layout.bins(), layout.fast)
    };
    layouts.iter().find(alike).copied()
}

/// How many of the lists whose heads start at `bins` are consistent; `None` where they are too few.
fn consistent_lists(peek: &mut Peek<'_>, bins: u64) -> Option<u64> {
    let size = peek.size();
    let header = size.saturating_mul(2);
    let lists = BINS.saturating_sub(1);
    let (mut good, mut bad) = (0_u64, 0_u64);
    for index in 0..lists {
        let place = bins.checked_add(index.saturating_mul(header))?;
        let head = place.wrapping_sub(header);
        let (forward, back) = peek.two(place)?;
        let empty = forward == head && back == head;
        // The first block of a list points back at the head, and the last one forward.
        let fine = empty
            || (forward != head
                && back != head
                && peek.word(forward.wrapping_add(size.saturating_mul(3))) == Some(head)
                && peek.word(back.wrapping_add(header)) == Some(head));
        if fine {
            good = good.saturating_add(1);
        } else {
            bad = bad.saturating_add(1);
            if bad > lists.saturating_sub(CONSISTENT) {
                return None;
            }
        }
    }
    Some(good)
}

/// The ring from `state` on, and whether it leads back.
fn follow(peek: &mut Peek<'_>, layout: StateLayout, state: u64) -> (Vec<u64>, bool) {
    let mut states = vec![state];
    let mut seen = BTreeSet::from([state]);
    loop {
        let at = states.last().copied().unwrap_or(state);
        let Some(next) = peek.word(at.wrapping_add(layout.next())) else { return (states, false) };
        if next == state {
            return (states, true);
        }
        let arena = next & peek.size().wrapping_sub(1) == 0 && looks_like_state(peek, layout, next);
        if !arena || !seen.insert(next) || states.len() >= MOST_ARENAS {
            return (states, false);
        }
        states.push(next);
    }
}

/// Whether most lists of the arena at `state` are consistent.
pub(super) fn looks_like_state(peek: &mut Peek<'_>, layout: StateLayout, state: u64) -> bool {
    consistent_lists(peek, state.wrapping_add(layout.bins())).is_some()
}

/// Whether the arena's sizes are what sizes of memory from the system are.
fn plausible_sizes(peek: &mut Peek<'_>, layout: StateLayout, state: u64) -> bool {
    let whole = |attached| {
        let sizes = peek.two(state.wrapping_add(layout.system(attached)));
        sizes.is_some_and(|(system, most)| (PAGE..=most).contains(&system))
    };
    let [newer, older] = [true, false].map(whole);
    // Before the sizes is a number of threads, since 2.23.
    let threads = peek.word(state.wrapping_add(layout.system(false)));
    let newer = newer && threads.is_some_and(|threads| threads < PAGE);
    newer || (older && layout.fast && !layout.fast_flag)
}
