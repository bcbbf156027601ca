//! The blocks of a heap beside what was recorded of them.
//!
//! Both are in address order, so that they are laid beside each other in one pass; from then
//! on a unit leads to its record in one step. A record counts only for a block that starts
//! where it says and that malloc may have given for a request of its size: else the
//! block was released without notice and its place given to another.

use std::ops::Range;
use std::sync::Arc;

use rayon::iter::{IntoParallelIterator, ParallelIterator};

use crate::error::Error;
use crate::heap::block::{Blocks, State, Unit};
use crate::heap::wanted::Label;
use crate::memory::Memory;
use crate::pass::Job;
use crate::recording::{Allocation, Recording};

/// Units that one worker takes at a time.
const SLICE: usize = 1 << 16;

/// What malloc may give more than was asked for, of an arena's memory.
///
/// glibc, malloc/malloc.c: a request is rounded up to the alignment, 15 bytes at most, and the
/// smallest chunk has 24; a rest of up to 32 bytes is not split off (`_int_malloc`, `_int_memalign`).
const MOST_SPARE: u64 = 64;

/// What `pvalloc` adds at most: it rounds up to whole pages.
const PAGE: u64 = 4096;

/// What a mapping of its own may have more than was asked for.
///
/// glibc, malloc/malloc.c, `sysmalloc_mmap`: whole pages, which may be huge ones, and as much
/// again for alignment.
const MOST_MAPPED: u64 = 4 << 20;

/// What a mapping has more than was asked for where its pages are small ones.
const MOST_SPARE_MAPPED: u64 = PAGE + MOST_SPARE;

/// The records of a heap's blocks.
///
/// Memory: four bytes for each unit, beside the recording.
#[derive(Clone, Debug)]
pub struct Recorded {
    recording: Arc<Recording>,
    /// The number of each unit's record, and one; zero where it has none.
    numbers: Vec<u32>,
    /// Records of blocks that are not there any more, or not as recorded.
    pub stale: u64,
}

/// What the slices of a heap have.
struct Part {
    numbers: Vec<u32>,
    matched: u64,
}

impl Recorded {
    /// Finds the record of each block in use.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when the job was stopped.
    pub fn new(recording: Arc<Recording>, blocks: &Blocks, job: &Job) -> Result<Self, Error> {
        let entries = &recording.live().entries;
        let slices = blocks.len().div_ceil(SLICE);
        let work = |slice: usize| {
            let from = slice.saturating_mul(SLICE);
            let units = from..from.saturating_add(SLICE).min(blocks.len());
            if job.stopped() {
                return Part { numbers: Vec::new(), matched: 0 };
            }
            beside(entries, blocks, units)
        };
        let parts: Vec<Part> = (0..slices).into_par_iter().map(work).collect();
        job.check()?;
        let matched = parts.iter().map(|part| part.matched).fold(0, u64::saturating_add);
        let stale = (entries.len() as u64).saturating_sub(matched);
        let mut numbers = Vec::with_capacity(blocks.len());
        for part in parts {
            numbers.extend(part.numbers);
        }
        Ok(Self { recording, numbers, stale })
    }

    /// The recording that the records are of.
    #[must_use]
    pub fn recording(&self) -> &Recording {
        &self.recording
    }

    /// What was recorded of the unit with that number.
    #[must_use]
    #[inline]
    pub fn of(&self, unit: usize) -> Option<&Allocation> {
        let number = self.numbers.get(unit)?.checked_sub(1)?;
        self.recording.live().entries.get(usize::try_from(number).ok()?)
    }

    /// The bytes that a unit counts for: those asked for, where they are known of every block that
    /// was recorded, else those that the program may use.
    #[must_use]
    #[inline]
    pub fn bytes(&self, unit: &Unit) -> u64 {
        let asked = if self.recording.sample().is_none() { self.of(unit.index) } else { None };
        asked.map_or_else(|| unit.block().len(), |record| record.size)
    }

    /// The bytes that were asked for, where the record is certain to be that of the block.
    ///
    /// What malloc gave beyond them is not the program's: old pointers are left there.
    #[must_use]
    #[inline]
    pub fn asked(&self, unit: &Unit) -> Option<u64> {
        let record = self.of(unit.index)?;
        let counted = record.stack != 0 || self.recording.sample().is_none();
        (counted && close(unit, record)).then_some(record.size)
    }

    /// The numbers of the units that were recorded, in address order, with what was recorded of each.
    pub fn units(&self) -> impl Iterator<Item = (usize, &Allocation)> {
        (0..self.numbers.len()).filter_map(|unit| Some((unit, self.of(unit)?)))
    }

    /// The stack and the bytes asked for of a unit; `None` where it is not as old as is wanted.
    ///
    /// `newest` is the latest time that counts, in the recording's own units. What was not
    /// recorded has no age.
    #[must_use]
    #[inline]
    pub fn label(&self, unit: &Unit, newest: Option<i64>) -> Option<Label> {
        let record = self.of(unit.index);
        if newest.is_some_and(|newest| record.is_none_or(|record| i64::from(record.time) > newest)) {
            return None;
        }
        // Of samples only the records of their stacks count what was asked for.
        let counted = record.filter(|record| record.stack != 0 || self.recording.sample().is_none());
        let stack = record.map_or(0, |record| record.stack);
        Some(Label { stack, bytes: counted.map(|record| record.size), ..Label::default() })
    }

    /// Sentences on what the records lack, and what follows.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let mut notes = self.recording.notes();
        if let Some(sample) = self.recording.sample() {
            notes.push(format!(
                "sampled: one allocation for {sample} bytes on average was recorded, so that numbers of stacks are \
                 estimates"
            ));
        }
        if self.stale > 0 {
            notes.push(format!(
                "{} records fit no block in use: these blocks came from another allocator, or their release was \
                 not noted",
                self.stale
            ));
        }
        notes
    }
}

/// The numbers of the records of some units.
fn beside(entries: &[Allocation], blocks: &Blocks, units: Range<usize>) -> Part {
    let mut part = Part { numbers: vec![0; units.len()], matched: 0 };
    let first = blocks.unit(units.start).map_or(0, |unit| unit.range.start());
    let mut at = entries.partition_point(|entry| entry.address < first);
    let own = blocks.units_in(units);
    for (slot, unit) in part.numbers.iter_mut().zip(own) {
        if unit.state != State::Used {
            continue;
        }
        let start = unit.block().start();
        let behind = entries.get(at..).unwrap_or_default();
        at = at.saturating_add(behind.iter().take_while(|entry| entry.address < start).count());
        let Some(entry) = entries.get(at).filter(|entry| entry.address == start) else { continue };
        if fits(&unit, entry) {
            *slot = u32::try_from(at.saturating_add(1)).unwrap_or(0);
            part.matched = part.matched.saturating_add(1);
        }
    }
    part
}

/// Whether malloc may have given a block for a request of the recorded size.
fn fits(unit: &Unit, entry: &Allocation) -> bool {
    let Some(spare) = unit.block().len().checked_sub(entry.size) else { return false };
    match unit.arena {
        None => spare <= MOST_MAPPED,
        Some(_) if entry.address % PAGE == 0 => spare <= PAGE.saturating_add(MOST_SPARE),
        Some(_) => spare <= MOST_SPARE,
    }
}

/// Whether a block is as large as malloc makes one for a request of the recorded size.
///
/// `pvalloc` gives all of its pages to the program, and what is asked of it is not rounded in
/// the record: a block that starts a page and has much more is left whole.
fn close(unit: &Unit, entry: &Allocation) -> bool {
    let most = if unit.arena.is_none() && entry.address % PAGE != 0 { MOST_SPARE_MAPPED } else { MOST_SPARE };
    unit.block().len().checked_sub(entry.size).is_some_and(|spare| spare <= most)
}

/// Looks for a recording, and lays it beside the blocks of a heap; comes back with what cannot be read.
///
/// # Errors
///
/// [`Error::Interrupted`] when the job was stopped.
pub fn recorded(
    memory: &dyn Memory,
    blocks: &Blocks,
    job: &Job,
) -> Result<(Option<Recorded>, Vec<String>), Error> {
    let found = Recording::find(memory, job)?;
    let recording = found.recording.map(Arc::new);
    let recorded = recording.map(|recording| Recorded::new(recording, blocks, job)).transpose()?;
    Ok((recorded, found.notes))
}
