//! Where all writable memory went: to blocks, to free ones, to whatever is not malloc's.

use rayon::iter::{IndexedParallelIterator, IntoParallelRefIterator, ParallelIterator};

use crate::error::Error;
use crate::heap::allocator::{Allocator, States};
use crate::heap::block::{Blocks, Span};
use crate::memory::{Memory, RegionKind};
use crate::pass::Job;
use crate::range::AddressRange;

/// Units by state, for each arena, and of blocks with mappings of their own.
#[derive(Clone, Default, Debug)]
pub struct Tally {
    /// Of each arena, in their order.
    pub arenas: Vec<States>,
    /// The bytes of everything that each arena has.
    pub bytes: Vec<u64>,
    /// Of blocks that were mapped on their own.
    pub mapped: States,
}

impl Tally {
    /// Counts all units, of as many arenas.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when the job was stopped.
    pub fn of(blocks: &Blocks, arenas: usize, job: &Job) -> Result<Self, Error> {
        let spans: Vec<&Span> = blocks.spans().iter().collect();
        let count = |span: &&Span| {
            let mut states = States::default();
            if !job.stopped() {
                blocks.units_of(span).for_each(|unit| states.add(unit.state, unit.range.len()));
            }
            states
        };
        let counted: Vec<States> = spans.par_iter().with_max_len(1).map(count).collect();
        job.check()?;
        let empty = States::default();
        let mut tally = Self { arenas: vec![empty; arenas], bytes: vec![0; arenas], mapped: empty };
        for (span, states) in spans.iter().zip(&counted) {
            let number = span.arena.and_then(|number| usize::try_from(number).ok());
            let Some(number) = number else {
                tally.mapped.merge(states);
                continue;
            };
            if let Some((arena, bytes)) = tally.arenas.get_mut(number).zip(tally.bytes.get_mut(number)) {
                arena.merge(states);
                *bytes = bytes.saturating_add(span.range.len());
            }
        }
        Ok(tally)
    }
}

/// Where all writable bytes of a target are.
///
/// The units of arenas and of mapped blocks, and `other`, have as many bytes as
/// the writable regions, less `unwritable`.
#[derive(Clone, Default, Debug)]
pub struct Summary {
    /// What the heaps have.
    pub tally: Tally,
    /// The bytes of all writable regions.
    pub writable: u64,
    /// Writable bytes outside of heaps, by the kind of their regions, those that are there.
    pub other: Vec<(RegionKind, u64)>,
    /// Bytes of heaps that lie in regions which are not writable.
    pub unwritable: u64,
}

/// Where all writable bytes are; without a heap all of them are other.
///
/// # Errors
///
/// [`Error::Interrupted`] when the job was stopped.
pub fn summary(memory: &dyn Memory, heap: Option<&dyn Allocator>, job: &Job) -> Result<Summary, Error> {
    let mut summary = Summary::default();
    let spans = heap.map_or(&[][..], |heap| heap.blocks().spans());
    if let Some(heap) = heap {
        summary.tally = Tally::of(heap.blocks(), heap.arenas().len(), job)?;
    }
    let mut by_kind = [0_u64; RegionKind::ALL.len()];
    let mut covered = 0_u64;
    for region in memory.regions().iter().filter(|region| region.mutable()) {
        let first = spans.partition_point(|span| span.range.end() <= region.range.start());
        let behind = spans.get(first..).unwrap_or_default().iter();
        let inside = behind
            .take_while(|span| span.range.start() < region.range.end())
            .filter_map(|span| span.range.intersection(region.range))
            .map(AddressRange::len)
            .fold(0, u64::saturating_add);
        covered = covered.saturating_add(inside);
        summary.writable = summary.writable.saturating_add(region.range.len());
        if let Some(bytes) = by_kind.get_mut(region.kind as usize) {
            *bytes = bytes.saturating_add(region.range.len().saturating_sub(inside));
        }
    }
    let all = spans.iter().map(|span| span.range.len()).fold(0, u64::saturating_add);
    summary.unwritable = all.saturating_sub(covered);
    let kinds = RegionKind::ALL.into_iter().zip(by_kind);
    summary.other = kinds.filter(|(_, bytes)| *bytes > 0).collect();
    Ok(summary)
}
