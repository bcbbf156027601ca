//! Heaps of further threads' arenas: where they start, and which arena each names as its own.

use std::collections::{BTreeMap, BTreeSet};

use crate::memory::{Memory, RegionKind};
use crate::peek::Peek;
use crate::range::AddressRange;

use super::locate::{Ring, looks_like_state};

/// No heap of a thread is larger (`HEAP_MAX_SIZE`; four huge pages of 512 MiB at the most).
pub(super) const LARGEST: u64 = 2 << 30;

/// Where heaps start that name an arena as theirs, by that arena.
#[derive(Default)]
pub(super) struct Heaps(BTreeMap<u64, Vec<u64>>);

impl Heaps {
    /// The places in arenas' regions where a heap may start: multiples of 1 MiB.
    pub(super) fn in_regions(memory: &dyn Memory) -> Self {
        const LEAST: u64 = 1 << 20;
        let mut peek = Peek::new(memory);
        let mut heaps = Self::default();
        for region in memory.regions().iter().filter(|region| region.kind == RegionKind::Arena) {
            let mut at = region.range.start().checked_next_multiple_of(LEAST);
            while let Some(heap) = at.filter(|heap| region.range.contains(*heap)) {
                let rest = AddressRange::saturating(heap, region.range.end().saturating_sub(heap));
                let blank = memory.zeros(rest).max(memory.blank(rest)) & !(LEAST - 1);
                if blank > 0 {
                    at = heap.checked_add(blank);
                    continue;
                }
                // A word that is zero names no arena.
                if let Some(state) = peek.word(heap).filter(|state| *state != 0) {
                    heaps.0.entry(state).or_default().push(heap);
                }
                at = heap.checked_add(LEAST);
            }
        }
        heaps
    }

    /// The heaps of the arena at `state`, at multiples of `reach`.
    pub(super) fn of(&self, state: u64, reach: u64) -> impl Iterator<Item = u64> + '_ {
        let own = self.0.get(&state).into_iter().flatten().copied();
        own.filter(move |heap| align_down(*heap, reach) == *heap)
    }

    /// The arenas that have a heap of their own and that the ring does not lead to.
    pub(super) fn outside(&self, memory: &dyn Memory, ring: &Ring) -> Vec<u64> {
        let mut peek = Peek::new(memory);
        let known: BTreeSet<u64> = ring.states.iter().copied().collect();
        let own = |(state, heaps): (&u64, &Vec<u64>)| {
            let first = heaps.iter().any(|heap| state.wrapping_sub(*heap) <= FIRST);
            (first && !known.contains(state)).then_some(*state)
        };
        let mut found: Vec<u64> = self.0.iter().filter_map(own).collect();
        found.retain(|state| looks_like_state(&mut peek, ring.layout, *state));
        found
    }
}

/// How far behind the start of its first heap an arena's own structure lies at the most:
/// behind the `heap_info`, which has up to 0x30 bytes.
const FIRST: u64 = 0x80;

/// What heaps are aligned to, and where the first heap of the arena at `state` lies.
///
/// glibc, malloc/arena.c, `HEAP_MAX_SIZE`: 64 MiB, 1 MiB on 32-bit machines; since 2.35 four huge
/// pages where `glibc.malloc.hugetlb` asks for them: 8 MiB on x86-64, up to 4 GiB. The least
/// that leads from `top` to a heap of the arena as well: a heap may happen to be
/// aligned to more than it has to be.
pub(super) fn own_heap(peek: &mut Peek<'_>, state: u64, top: u64) -> Option<(u64, u64)> {
    let shifts = if peek.size() == 8 { 23..=32 } else { 20..=23 };
    let own = |peek: &mut Peek<'_>, address: u64| peek.word(address) == Some(state);
    let mut first = None;
    for shift in shifts {
        let reach = 1_u64 << shift;
        let heap = align_down(state, reach);
        if state.saturating_sub(heap) > FIRST || !own(peek, heap) {
            continue;
        }
        if own(peek, align_down(top, reach)) {
            return Some((reach, heap));
        }
        // Where `top` is damaged, heaps as they usually are.
        first = Some((if peek.size() == 8 { 1 << 26 } else { 1 << 20 }, heap));
    }
    first
}

pub(super) const fn align_down(address: u64, to: u64) -> u64 {
    address & !to.wrapping_sub(1)
}
