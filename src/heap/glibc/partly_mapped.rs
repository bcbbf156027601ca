//! Chunks with mappings of their own of which pages have other permissions, or are missing.
//!
//! They are looked for only where malloc counts more chunks than were found in writable memory,
//! and taken only where all that is found then is what malloc counts.

use crate::error::Error;
use crate::memory::{Buffer, Memory, Region, RegionKind};
use crate::pass::Job;
use crate::range::AddressRange;

use super::layout::{Machine, PAGE};
use super::mapped::{self, Mapped};

/// Returns all mapped chunks outside of `taken`, in address order, those of which pages are changed too.
///
/// `count` is how many malloc says that there are, and their bytes.
///
/// # Errors
///
/// [`Error::Interrupted`] when the job was stopped.
pub(super) fn find(
    memory: &dyn Memory,
    machine: Machine,
    taken: &[AddressRange],
    count: Option<(u64, u64)>,
    job: &Job,
) -> Result<Vec<Mapped>, Error> {
    let found = mapped::find(memory, machine, taken, count, job)?;
    let Some(count) = count.filter(|(chunks, _)| *chunks > found.len() as u64) else { return Ok(found) };
    let partly = Sought { memory, machine, taken, count, job }.find(&found)?;
    Ok(partly.unwrap_or(found))
}

/// Returns the parts of `range` that are not in `taken`, which is in address order.
fn free(range: AddressRange, taken: &[AddressRange]) -> Vec<AddressRange> {
    range.without(range.among(taken))
}

/// What is looked for: chunks outside of `taken`, as many as malloc counts, with their bytes.
struct Sought<'s> {
    memory: &'s dyn Memory,
    machine: Machine,
    taken: &'s [AddressRange],
    count: (u64, u64),
    job: &'s Job,
}

/// Beyond the bytes of all mapped chunks, what a region may have and be looked through.
const MORE: u64 = 64 << 20;

impl Sought<'_> {
    /// Returns all mapped chunks, if `found` and those that reach over other pages are what malloc counts.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when the job was stopped.
    fn find(&self, found: &[Mapped]) -> Result<Option<Vec<Mapped>>, Error> {
        let places = self.places();
        for over_holes in [false, true] {
            let rooms = if over_holes { self.around_files() } else { places.clone() };
            let all = mapped::in_ranges(self.memory, self.machine, &places, &rooms, self.job)?;
            if self.counted(&all) {
                return Ok(Some(all));
            }
            if let Some(all) = self.rebuilt(&all, over_holes).filter(|all| self.counted(all)) {
                return Ok(Some(all));
            }
        }
        Ok(self.rebuilt(found, true).filter(|all| self.counted(all)))
    }

    /// Whether chunks are as many as malloc counts, with as many bytes.
    ///
    /// Since 2.43 malloc counts two words more for each that realloc moved (see params.rs).
    fn counted(&self, all: &[Mapped]) -> bool {
        let bytes = all.iter().map(|mapped| mapped.range.len()).fold(0, u64::saturating_add);
        let drift = self.count.1.checked_sub(bytes);
        let drifts = all.iter().any(|mapped| mapped.new);
        let agrees = drift.is_some_and(|drift| drift == 0 || (drifts && drift < PAGE));
        all.len() as u64 == self.count.0 && agrees
    }

    /// Whether a chunk may lie in a region, whatever may be done there.
    fn possible(&self, region: &Region) -> bool {
        let kind = !matches!(region.kind, RegionKind::Stack | RegionKind::Special);
        let reserve =
            !region.permissions.writable() && region.range.len() > self.count.1.saturating_add(MORE);
        kind && region.anonymous() && !reserve
    }

    /// All memory without a file, in order.
    fn places(&self) -> Vec<AddressRange> {
        let regions = self.memory.regions().iter().filter(|region| self.possible(region));
        let free = regions.flat_map(|region| free(region.range, self.taken));
        AddressRange::merge(free.collect())
    }

    /// All between files, the stack and what is taken, mapped or not.
    fn around_files(&self) -> Vec<AddressRange> {
        let others = self.memory.regions().iter().filter(|region| !self.possible(region));
        let mut others: Vec<AddressRange> = others.map(|region| region.range).collect();
        others.extend(self.taken);
        AddressRange::saturating(0, u64::MAX).without(&AddressRange::merge(others))
    }

    /// `found` and the one chunk that is lacking, if its header is missing and only one place fits.
    ///
    /// Its length is what malloc counts beyond the chunks found. It ends where the memory after
    /// the missing pages ends, and starts in or before the missing pages.
    fn rebuilt(&self, found: &[Mapped], over_holes: bool) -> Option<Vec<Mapped>> {
        let bytes = found.iter().map(|mapped| mapped.range.len()).fold(0, u64::saturating_add);
        let length = self.count.1.checked_sub(bytes).filter(|length| *length > 0 && length % PAGE == 0)?;
        if (found.len() as u64).checked_add(1) != Some(self.count.0) {
            return None;
        }
        let own: Vec<AddressRange> = found.iter().map(|mapped| mapped.range).collect();
        let taken = AddressRange::merge([self.taken, own.as_slice()].concat());
        let rooms = if over_holes { self.around_files() } else { self.places() };
        let regions = self.memory.regions().iter().filter(|region| self.possible(region));
        let written = AddressRange::merge(
            regions.filter(|region| region.saved > 0).map(|region| region.range).collect(),
        );
        // A chunk whose header was overwritten leaves memory that nothing else explains: which of
        // the two it is cannot be known then.
        let plain = |region: &&Region| {
            region.kind == RegionKind::Anon && region.saved > 0 && region.permissions.writable()
        };
        let plain = self.memory.regions().iter().filter(|region| self.possible(region)).filter(plain);
        let plain = AddressRange::merge(plain.map(|region| region.range).collect());
        if plain.iter().flat_map(|range| free(*range, &taken)).any(|part| part.len() >= length) {
            return None;
        }
        let mut starts = Vec::new();
        for part in written.iter().flat_map(|range| free(*range, &taken)) {
            let start = part.end().checked_sub(length).filter(|start| *start < part.start());
            let Some(start) = start else { continue };
            let lacking = AddressRange::saturating(start, part.start().saturating_sub(start));
            let whole = AddressRange::saturating(start, length);
            let room = matches!(whole.among(&rooms), [room] if room.covers(whole));
            // Any small mapping has room before it: what is there has to be the most of the chunk.
            let most = lacking.len() < part.len();
            if room && most && lacking.among(&taken).is_empty() && self.missing(lacking) {
                starts.push(start);
            }
        }
        let [start] = starts.as_slice() else { return None };
        let new = found.iter().any(|mapped| mapped.new);
        let chunk = mapped::plain_chunk(self.machine, *start);
        let range = AddressRange::saturating(*start, length);
        let mut all = found.to_vec();
        all.push(Mapped { range, chunk, new });
        all.sort_by_key(|mapped| mapped.range);
        Some(all)
    }

    /// Whether no byte of `range` can be read.
    fn missing(&self, range: AddressRange) -> bool {
        let mut buffer = Buffer::default();
        let mut at = range.start();
        while at < range.end() {
            let rest = AddressRange::saturating(at, range.end().saturating_sub(at));
            let view = self.memory.view(rest, &mut buffer);
            match view.gap {
                Some(gap) if view.bytes.is_empty() && gap.range.end() > at => at = gap.range.end(),
                _ => return false,
            }
        }
        true
    }
}
