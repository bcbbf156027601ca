//! Heaps: which allocator made them, and which blocks they have.

pub mod allocator;
pub mod block;
pub mod content;
pub mod glibc;
mod group;
pub mod groups;
mod growing;
mod linked;
pub mod listed;
mod others;
pub mod recorded;
pub mod summary;
mod tables;
pub mod wanted;

use std::sync::Arc;

use crate::error::Error;
use crate::heap::block::{Blocks, State};
use crate::memory::{Memory, Place, Region, RegionKind};
use crate::pass::Job;
use crate::range::AddressRange;
use crate::source::Thread;

pub use allocator::Allocator;
pub use glibc::Outside;
pub use linked::linked;
pub use others::others;

/// The heap of a target; `None` where no allocator that is known has one.
///
/// # Errors
///
/// [`Error::Interrupted`] when the job was stopped.
pub fn open(memory: &dyn Memory, threads: &[Thread], job: &Job) -> Result<Option<Arc<dyn Allocator>>, Error> {
    let found = glibc::Glibc::open(memory, threads, job)?;
    Ok(found.map(|heap| Arc::new(heap) as Arc<dyn Allocator>))
}

/// Why the heap that is there is not read, in words; `None` where none is there, or it is read.
///
/// # Errors
///
/// [`Error::Interrupted`] when the job was stopped.
pub fn refused(memory: &dyn Memory, job: &Job) -> Result<Option<String>, Error> {
    glibc::refused(memory, job)
}

/// Where blocks may lie outside of regions that are heaps, without a walk over these.
///
/// # Errors
///
/// [`Error::Interrupted`] when the job was stopped.
pub fn outside(memory: &dyn Memory, job: &Job) -> Result<Outside, Error> {
    glibc::outside(memory, job)
}

/// The ranges of `place` in `memory`: of what allocators own those that `heap` has, where it is known.
///
/// The one place that decides what `-in heap` is: what the account of the heap sums.
#[must_use]
pub fn ranges(memory: &dyn Memory, heap: Option<&dyn Allocator>, place: Place) -> Vec<AddressRange> {
    match heap {
        Some(heap) if place == Place::Heap => {
            AddressRange::merge(heap.blocks().spans().iter().map(|span| span.range).collect())
        }
        _ => place.ranges(memory),
    }
}

/// Returns the regions of `place`; for `Heap` with a known heap, those that contain some of it.
pub fn regions<'m>(
    memory: &'m dyn Memory,
    heap: Option<&dyn Allocator>,
    place: Place,
) -> impl Iterator<Item = &'m Region> {
    let owned = heap.filter(|_| place == Place::Heap).map(|heap| ranges(memory, Some(heap), place));
    memory.regions().iter().filter(move |region| match &owned {
        Some(owned) => !region.range.among(owned).is_empty(),
        None => place.selects(region),
    })
}

/// Whether a block may lie at `address`, of a memory with these places outside of heaps.
#[must_use]
pub fn possible(memory: &dyn Memory, outside: &Outside, address: u64) -> bool {
    let kind = memory.region_at(address).map(|region| region.kind);
    let heap = matches!(kind, Some(RegionKind::Heap | RegionKind::Arena));
    let mut places = outside.mapped.iter().chain(&outside.main);
    heap || places.any(|range| range.contains(address))
}

/// Whether a place is left when only used memory counts, or only free memory.
///
/// Used is what is not free: places outside of all heaps are.
#[must_use]
pub fn counts(blocks: &Blocks, address: u64, free: bool) -> bool {
    let in_block = || blocks.block_at(address);
    let unit = in_block().or_else(|| blocks.unit_at(address));
    let is_free = unit.is_some_and(|unit| unit.state.free() || unit.state == State::Top);
    is_free == free
}

/// The part of a `text` that counts when only used memory does, or only free memory.
///
/// A text belongs to the block in which it starts, and ends with that block; one that
/// starts in the header before a block belongs to that block.
#[must_use]
pub fn part(blocks: &Blocks, text: AddressRange, free: bool) -> Option<AddressRange> {
    let start = text.start();
    let unit = blocks.block_at(start).or_else(|| blocks.unit_at(start));
    let block = unit.filter(|unit| unit.state.block()).map(|unit| unit.block());
    let part = block.map_or(Some(text), |block| block.intersection(text))?;
    counts(blocks, part.start(), free).then_some(part)
}
