//! The header of a recording, and where it is.

use std::collections::BTreeSet;

use crate::error::Error;
use crate::memory::{Buffer, Memory, Region, RegionKind};
use crate::pass::{self, CHUNK, Chunk, Job};
use crate::range::AddressRange;
use crate::word::WordFormat;

use super::layout::{self, header, u32_at, u64_at};

/// The name that the kernel is asked to give the reservation, as it shows it.
const NAME: &str = "[anon:gdb-leak record]";

/// What the file of the recorder is called.
const LIBRARY: &str = "libgdb_leak_recorder.so";

/// Entries of one size that lie in a row.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Area {
    /// Where the first entry is.
    pub start: u64,
    /// Bytes of an entry, not zero.
    pub entry: u64,
    /// How many entries may hold something.
    pub used: u64,
}

impl Area {
    /// Where the used entries lie.
    pub(super) fn range(&self) -> AddressRange {
        AddressRange::saturating(self.start, self.used.saturating_mul(self.entry))
    }

    /// Where the entry with that number lies; `None` where it is not used.
    pub(super) fn at(&self, number: u64) -> Option<u64> {
        (number < self.used).then(|| self.start.saturating_add(number.saturating_mul(self.entry)))
    }
}

/// What the header says, held to its rules.
#[derive(Clone, Debug)]
pub(super) struct Header {
    /// Where it is.
    pub address: u64,
    /// The header's page and what is mapped of each part, merged.
    pub ranges: Vec<AddressRange>,
    pub pid: u32,
    pub sample: u64,
    pub started: u64,
    pub shift: u32,
    pub generation: u32,
    pub dropped: u64,
    pub missed: u64,
    pub stale: u64,
    pub cut: u64,
    pub stopped: bool,
    /// Blocks, nodes, modules, names, threads.
    pub areas: [Area; 5],
    /// Whether an area says that it uses more than it has.
    pub damaged: bool,
    /// The addresses of [`layout::FUNCTIONS`]; 0: not known.
    pub functions: [u64; layout::FUNCTIONS.len()],
}

/// A place that says that it is the header of a recording.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// It is one.
    Good(Box<Header>),
    /// It is one of another version.
    Version(u32),
    /// It breaks a rule.
    Broken(String),
}

impl Header {
    /// What stands at `address`; `None` where it is no header, or a copy of one.
    fn at(memory: &dyn Memory, address: u64) -> Option<Place> {
        let range = AddressRange::with_length(address, layout::HEADER as u64).ok()?;
        let mut bytes = Vec::new();
        let _ = memory.append(range, &mut bytes);
        if !bytes.starts_with(layout::MAGIC) || u64_at(&bytes, header::SELF)? != address {
            return None;
        }
        let version = u32_at(&bytes, header::VERSION)?;
        if version != layout::VERSION {
            return Some(Place::Version(version));
        }
        Some(match Self::read(memory, address, &bytes) {
            Ok(header) => Place::Good(Box::new(header)),
            Err(rule) => Place::Broken(rule),
        })
    }

    fn read(memory: &dyn Memory, address: u64, bytes: &[u8]) -> Result<Self, String> {
        let cut = || "its header was not saved".to_owned();
        let word = |offset| u64_at(bytes, offset).ok_or_else(cut);
        let half = |offset| u32_at(bytes, offset).ok_or_else(cut);
        let reserved = word(header::RESERVED)?;
        let range = AddressRange::with_length(address, reserved).map_err(|error| error.to_string())?;
        let mut ranges = Vec::new();
        for number in 0..layout::PARTS {
            let at = header::PARTS.saturating_add(number.saturating_mul(layout::PART));
            let (offset, open) = (word(at)?, word(at.saturating_add(layout::PART_OPEN))?);
            if offset.checked_add(open).is_none_or(|end| end > reserved) {
                return Err(format!("part {number} has {open} bytes at {offset:#x}, of {reserved:#x}"));
            }
            ranges.push(AddressRange::saturating(address.saturating_add(offset), open));
        }
        ranges.retain(|part| !part.is_empty());
        // One without parts says nothing of what is mapped: all of it is the recorder's.
        let first = if ranges.is_empty() { range } else { AddressRange::saturating(address, layout::PAGE) };
        ranges.push(first);
        let ranges = AddressRange::merge(ranges);
        // What else lies in there would count no more as a root: a program's data, a stack, the heap.
        let others = |region: &&Region| {
            !region.anonymous() || matches!(region.kind, RegionKind::Heap | RegionKind::Stack)
        };
        let regions = memory.regions();
        let inside = |range: &AddressRange| {
            let first = regions.partition_point(|region| region.range.end() <= range.start());
            let end = range.end();
            let after = regions.get(first..).unwrap_or_default().iter();
            after.take_while(move |region| region.range.start() < end)
        };
        if let Some(other) = ranges.iter().flat_map(inside).find(others) {
            return Err(format!("what it says it mapped ({range}) holds {}", other.range));
        }
        let shift = half(header::TIME_SHIFT)?;
        if shift >= u64::BITS {
            return Err(format!("time_shift is {shift}"));
        }
        let mut areas = [Area::default(); 5];
        let mut damaged = false;
        let entries = [layout::BLOCK, layout::NODE, layout::MODULE, 1, layout::THREAD];
        for ((number, area), least) in areas.iter_mut().enumerate().zip(entries) {
            let at = header::AREAS.saturating_add(number.saturating_mul(layout::AREA));
            let word = |offset: usize| word(at.saturating_add(offset));
            let (offset, entry) = (word(layout::AREA_OFFSET)?, word(layout::AREA_ENTRY)?);
            let (capacity, used) = (word(layout::AREA_CAPACITY)?, word(layout::AREA_USED)?);
            let length = capacity.checked_mul(entry).and_then(|length| length.checked_add(offset));
            if length.is_none_or(|end| end > reserved) {
                return Err(format!(
                    "area {number} has {capacity} entries of {entry} bytes at {offset:#x}, of {reserved:#x}"
                ));
            }
            if entry < least || entry > layout::PAGE.saturating_mul(16) {
                return Err(format!("an entry of area {number} has {entry} bytes"));
            }
            damaged |= used > capacity;
            *area = Area { start: address.saturating_add(offset), entry, used: used.min(capacity) };
        }
        let mut functions = [0; layout::FUNCTIONS.len()];
        for (number, function) in functions.iter_mut().enumerate() {
            *function = word(header::FUNCTIONS.saturating_add(number.saturating_mul(8)))?;
        }
        Ok(Self {
            address,
            ranges,
            pid: half(header::PID)?,
            sample: word(header::SAMPLE)?,
            started: word(header::STARTED)?,
            shift,
            generation: half(header::GENERATION)?,
            dropped: word(header::DROPPED)?,
            missed: word(header::MISSED)?,
            stale: word(header::STALE)?,
            cut: word(header::CUT)?,
            stopped: word(header::STATE)? == layout::STOPPED,
            areas,
            damaged,
            functions,
        })
    }
}

/// Whether a file of the recorder's name is mapped.
pub(super) fn loaded(memory: &dyn Memory) -> bool {
    memory.regions().iter().any(|region| region.name.last_part().starts_with(LIBRARY.as_bytes()))
}

/// The headers in a memory, in address order, the best kind of them only.
///
/// Looked for where regions start; at the start of every page only where the recorder is
/// mapped, or where no file is known to be.
///
/// # Errors
///
/// [`Error::Interrupted`] when the job was stopped.
pub(super) fn find(memory: &dyn Memory, job: &Job) -> Result<Vec<(u64, Place)>, Error> {
    if memory.word_format() != WordFormat::LITTLE_64 {
        return Ok(Vec::new());
    }
    let regions = memory.regions();
    let may = |region: &&Region| region.anonymous() && region.permissions.writable();
    let mut found = Vec::new();
    let mut buffer = Buffer::default();
    for region in regions.iter().filter(may) {
        job.check()?;
        let start = region.range.start();
        let view = |buffer: &mut Buffer| {
            let range = AddressRange::saturating(start, layout::MAGIC.len() as u64);
            memory.view(range, buffer).bytes == layout::MAGIC
        };
        if start % layout::PAGE == 0 && view(&mut buffer) {
            found.extend(Header::at(memory, start).map(|place| (start, place)));
        }
    }
    let good = |found: &[(u64, Place)]| found.iter().any(|(_, place)| matches!(place, Place::Good(_)));
    if good(&found) {
        return Ok(found);
    }
    let everywhere = loaded(memory) || regions.iter().all(Region::anonymous);
    let wanted = |region: &&Region| may(region) && (everywhere || region.name == NAME);
    let ranges: Vec<AddressRange> = regions.iter().filter(wanted).map(|region| region.range).collect();
    let mut pages = Vec::new();
    pass::in_order(
        memory,
        &ranges,
        CHUNK,
        job,
        |chunk, buffer| in_chunk(memory, chunk, buffer),
        |_, (mut starts, beyond)| {
            pages.append(&mut starts);
            Ok(beyond)
        },
    )?;
    let known: BTreeSet<u64> = found.iter().map(|(address, _)| *address).collect();
    for page in pages {
        job.check()?;
        if !known.contains(&page) {
            found.extend(Header::at(memory, page).map(|place| (page, place)));
        }
    }
    found.sort_by_key(|(address, _)| *address);
    Ok(found)
}

/// The pages of a chunk that start as a header does, and where a gap ends that goes on behind it.
fn in_chunk(memory: &dyn Memory, chunk: &Chunk, buffer: &mut Buffer) -> (Vec<u64>, Option<u64>) {
    let mut found = Vec::new();
    let mut beyond = None;
    let mut at = chunk.own.start();
    while at < chunk.own.end() {
        let rest = AddressRange::saturating(at, chunk.own.end().saturating_sub(at));
        let zeros = memory.zeros(rest);
        if zeros > 0 {
            at = at.saturating_add(zeros);
            continue;
        }
        let view = memory.view(rest, buffer);
        let first = at.checked_next_multiple_of(layout::PAGE).unwrap_or(u64::MAX);
        let skip = usize::try_from(first.saturating_sub(at)).unwrap_or(usize::MAX);
        let bytes = view.bytes.get(skip..).unwrap_or_default();
        let page = usize::try_from(layout::PAGE).unwrap_or(usize::MAX);
        for (page, bytes) in (first..).step_by(page).zip(bytes.chunks(page)) {
            if bytes.starts_with(layout::MAGIC) {
                found.push(page);
            }
        }
        let seen = at.saturating_add(view.bytes.len() as u64);
        let behind = view.gap.map(|gap| gap.range.end());
        beyond = behind.filter(|behind| *behind > chunk.own.end());
        at = match behind {
            Some(behind) => behind.max(seen),
            None if seen == at => break,
            None => seen,
        };
    }
    (found, beyond)
}
