//! The blocks that were recorded, sorted by their addresses.
//!
//! The recorder keeps them in no order, in a table that is as large as the most that ever
//! lived at once. Here those that live are taken out, 32 bytes each, and sorted, so that
//! they can be laid beside the blocks of a heap in one pass.

use rayon::slice::ParallelSliceMut;

use crate::error::Error;
use crate::memory::{Buffer, Memory};
use crate::pass::{self, CHUNK, Chunk, Job};
use crate::range::AddressRange;

use super::header::Area;
use super::layout::{self, u32_at, u64_at};

/// What was recorded of a block when it was allocated.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Allocation {
    /// Where the block starts.
    pub address: u64,
    /// The bytes that were asked for.
    pub size: u64,
    /// The number of its stack; zero where none is known.
    pub stack: u32,
    /// The system's number of the thread.
    pub thread: u32,
    /// When, in the recording's own units.
    pub time: u32,
}

/// All blocks that were recorded and not released, in address order.
///
/// Memory: 32 bytes for each.
#[derive(Clone, Default, Debug)]
pub struct Live {
    /// The blocks; no two have one address.
    pub entries: Vec<Allocation>,
    /// How many entries were left out because a later one has the same address.
    pub twice: u64,
    /// Bytes of the table that could not be read.
    pub missing: u64,
}

impl Live {
    /// Reads the table in `area`.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when the job was stopped.
    pub(super) fn read(memory: &dyn Memory, area: &Area, job: &Job) -> Result<Self, Error> {
        let mut live = Self::default();
        let mut reached = area.start;
        let work = |chunk: &Chunk, _: &mut Buffer| in_chunk(memory, area, chunk);
        pass::in_order(memory, &[area.range()], CHUNK, job, work, |chunk, part| {
            // What a gap made the pass leave out between this chunk and the one before.
            let skipped = chunk.own.start().saturating_sub(reached);
            live.missing = live.missing.saturating_add(skipped).saturating_add(part.missing);
            reached = chunk.own.end();
            live.entries.extend(part.entries);
            Ok(part.beyond)
        })?;
        live.missing = live.missing.saturating_add(area.range().end().saturating_sub(reached));
        let latest = |one: &Allocation, other: &Allocation| {
            one.address.cmp(&other.address).then(other.time.cmp(&one.time)).then(one.cmp(other))
        };
        live.entries.par_sort_unstable_by(latest);
        let before = live.entries.len();
        live.entries.dedup_by_key(|entry| entry.address);
        live.twice = before.saturating_sub(live.entries.len()) as u64;
        job.check()?;
        Ok(live)
    }

    /// What was recorded of the block that starts at `address`.
    #[must_use]
    pub fn at(&self, address: u64) -> Option<&Allocation> {
        let place = self.entries.binary_search_by_key(&address, |entry| entry.address).ok()?;
        self.entries.get(place)
    }
}

/// What one chunk of the table has.
#[derive(Default)]
struct Part {
    entries: Vec<Allocation>,
    missing: u64,
    /// Where a gap ends that goes on behind the chunk.
    beyond: Option<u64>,
}

/// The entries that start in a chunk.
fn in_chunk(memory: &dyn Memory, area: &Area, chunk: &Chunk) -> Part {
    let mut part = Part::default();
    let number = |address: u64| address.saturating_sub(area.start).div_ceil(area.entry);
    let place = |number: u64| area.start.saturating_add(number.saturating_mul(area.entry));
    let (mut first, last) = (number(chunk.own.start()), number(chunk.own.end()).min(area.used));
    let mut bytes = Vec::new();
    let size = usize::try_from(area.entry).unwrap_or(usize::MAX);
    while first < last {
        let (start, end) = (place(first), place(last));
        let zeros = memory.zeros(AddressRange::saturating(start, end.saturating_sub(start)));
        // Entries that are all zeros hold no block.
        if zeros >= area.entry {
            first = first.saturating_add(zeros.checked_div(area.entry).unwrap_or(1));
            continue;
        }
        // A chunk that begins with zeros may be as long as they go on: it is copied by pieces.
        let piece = CHUNK.checked_div(area.entry).unwrap_or(1).max(1);
        let next = last.min(first.saturating_add(piece));
        bytes.clear();
        let gap =
            memory.append(AddressRange::saturating(start, place(next).saturating_sub(start)), &mut bytes);
        part.entries.extend(bytes.chunks_exact(size).filter_map(entry));
        let Some(gap) = gap else {
            first = next;
            continue;
        };
        let behind = gap.range.end();
        part.missing = part.missing.saturating_add(behind.min(end).saturating_sub(gap.range.start()));
        part.beyond = Some(behind).filter(|behind| *behind > chunk.own.end());
        first = number(behind).max(first.saturating_add(1));
    }
    part
}

/// The block of an entry, if it has one.
fn entry(bytes: &[u8]) -> Option<Allocation> {
    let key = u64_at(bytes, layout::BLOCK_KEY).filter(|key| *key != 0)?;
    Some(Allocation {
        address: !key,
        size: u64_at(bytes, layout::BLOCK_SIZE)?,
        stack: u32_at(bytes, layout::BLOCK_STACK)?,
        thread: u32_at(bytes, layout::BLOCK_THREAD)?,
        time: u32_at(bytes, layout::BLOCK_TIME)?,
    })
}
