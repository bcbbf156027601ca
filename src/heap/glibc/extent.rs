//! How far the memory of a heap goes: over pages of other permissions, and over missing ones.
//!
//! A program may take rights from a page of its own block: a guard below a coroutine's stack, a
//! key that nothing may read. The mapping is then three. A core may leave such a page out
//! altogether. Where one heap ends and the memory of others begins is then not for the
//! mappings to say, but for malloc's own count of what it took from the system.

use crate::memory::{Memory, Region, RegionKind};
use crate::peek::Peek;
use crate::range::AddressRange;

use super::chunk::Chunk;
use super::layout::PAGE;

/// Returns the memory that `brk` gave from `base` on; `system` is how much that is, if it is in one piece.
///
/// glibc 2.17 to 2.43, malloc/malloc.c, `sysmalloc`: while the main arena is in one piece
/// (`contiguous (av)`) `system_mem` is the whole of it, what others took from between included.
pub(super) fn of_main(memory: &dyn Memory, base: u64, top: u64, system: Option<u64>) -> Option<AddressRange> {
    let run = run_of(memory, base);
    let start = run.map_or(base, AddressRange::start);
    let end = run.map_or(base, AddressRange::end);
    let told = match system {
        Some(system) => base.checked_add(system),
        None => last_of_heap(memory, base),
    };
    let farther = told.filter(|told| *told > end && told % PAGE == 0 && one_heap(memory, end, *told));
    let Some(farther) = farther else { return run };
    let rest = farther.checked_sub(1).and_then(|last| run_of(memory, last));
    let whole = rest.map(AddressRange::end).or_else(|| ends_there(memory, top, farther));
    match whole {
        Some(end) => AddressRange::new(start, end).ok(),
        None => run,
    }
}

/// Returns whether a heap of a thread may go on from `from`, where its writable memory ends, to `end`.
///
/// glibc 2.17 to 2.43, malloc/arena.c, `heap_info`: what may be used ends before `mprotect_size`, the
/// fourth word.
pub(super) fn of_thread(memory: &dyn Memory, heap: u64, from: u64, end: u64, reach: u64) -> bool {
    let mut peek = Peek::new(memory);
    let allowed = peek.word_at(heap, 3).filter(|allowed| *allowed <= reach && allowed % PAGE == 0);
    let inside = allowed.and_then(|allowed| heap.checked_add(allowed)).is_some_and(|limit| end <= limit);
    // The heap that was made last, of a core that leaves out its end, ends with missing pages.
    inside && from > heap && one_heap(memory, from, end)
}

/// Where the last part of the heap that `brk` grows ends, if `base` lies in it.
fn last_of_heap(memory: &dyn Memory, base: u64) -> Option<u64> {
    let heap = |region: &&Region| region.kind == RegionKind::Heap;
    memory.region_at(base).filter(heap)?;
    memory.regions().iter().rev().find(heap).map(|region| region.range.end())
}

/// Whether nothing but memory without a file lies between two addresses, as far as regions say.
fn one_heap(memory: &dyn Memory, from: u64, to: u64) -> bool {
    let regions = memory.regions();
    let first = regions.partition_point(|region| region.range.end() <= from);
    let between = regions.get(first..).unwrap_or_default().iter();
    let mut between = between.take_while(|region| region.range.start() < to);
    let own = |region: &Region| {
        let kind = matches!(region.kind, RegionKind::Heap | RegionKind::Arena | RegionKind::Anon);
        kind && region.anonymous()
    };
    between.all(own)
}

/// Returns `end`, if the top chunk ends there or its header is missing.
fn ends_there(memory: &dyn Memory, top: u64, end: u64) -> Option<u64> {
    let mut peek = Peek::new(memory);
    let size = Chunk::read(&mut peek, top).map(Chunk::size);
    let ends = size.is_none_or(|size| top.checked_add(size) == Some(end));
    (ends && top < end).then_some(end)
}

/// The writable memory around `address` that has no hole.
///
/// It goes on over anonymous memory that was written and may only be read, where there is
/// writable memory behind that: a page within a block, which gcore shows so where nothing may read it.
pub(super) fn run_of(memory: &dyn Memory, address: u64) -> Option<AddressRange> {
    let regions = memory.regions();
    let at = regions.partition_point(|region| region.range.end() <= address);
    let region = regions.get(at).filter(|region| region.range.contains(address) && region.mutable())?;
    let (mut start, mut end) = (region.range.start(), region.range.end());
    let goes_on = |region: &Region| region.anonymous() && (region.mutable() || region.saved > 0);
    let mut reached = end;
    for region in regions.get(at.saturating_add(1)..).unwrap_or_default() {
        if region.range.start() != reached || !goes_on(region) {
            break;
        }
        reached = region.range.end();
        end = if region.mutable() { reached } else { end };
    }
    reached = start;
    for region in regions.get(..at).unwrap_or_default().iter().rev() {
        if region.range.end() != reached || !goes_on(region) {
            break;
        }
        reached = region.range.start();
        start = if region.mutable() { reached } else { start };
    }
    AddressRange::new(start, end).ok()
}
