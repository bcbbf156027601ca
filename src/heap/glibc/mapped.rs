//! Chunks that were mapped on their own: blocks of 128 KiB and more, as a rule.
//!
//! They are on no list, and neighbouring mappings are one region. Each starts a
//! page with two words that no other page is likely to start with, and malloc's
//! own account says how many there are and how large they are together.

use std::collections::BTreeMap;

use crate::error::Error;
use crate::heap::block::{Part, Shape, State};
use crate::memory::{Buffer, Memory, RegionKind};
use crate::pass::{self, CHUNK, Job};
use crate::peek::Peek;
use crate::range::AddressRange;

use super::chunk::Chunk;
use super::layout::{FLAGS, IS_MMAPPED, Machine, PAGE, up};

/// A chunk with its own mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mapped {
    /// All that was mapped for it.
    pub range: AddressRange,
    /// Where the chunk starts, which is not where its mapping does where it had to be aligned.
    pub chunk: u64,
    /// Whether it is laid out as since 2.43.
    pub new: bool,
}

/// What may be the start of a mapped chunk's mapping, or an aligned chunk in one.
#[derive(Default)]
struct Candidates {
    /// Pages that start as such a mapping does.
    bases: Vec<u64>,
    /// Chunks right before the end of a page, by the start of the mapping that they name.
    aligned: BTreeMap<u64, u64>,
    /// Where a gap ends that goes on behind the chunk that was looked at.
    beyond: Option<u64>,
}

/// The places in `ranges` where a page starts or ends as a mapped chunk does.
///
/// # Errors
///
/// [`Error::Interrupted`] when the job was stopped.
fn candidates(
    memory: &dyn Memory,
    machine: Machine,
    ranges: &[AddressRange],
    job: &Job,
) -> Result<Candidates, Error> {
    const PAGE_BYTES: usize = 4096;
    let format = memory.word_format();
    let start = usize::try_from(padding(machine)).unwrap_or(0);
    let end = PAGE_BYTES.saturating_sub(format.size.saturating_mul(2));
    let chunk_in = |page: &[u8], offset: usize| {
        let words = page.get(offset..)?;
        Some(Chunk { previous: format.read(words)?, head: format.read(words.get(format.size..)?)? })
    };
    let work = |chunk: &pass::Chunk, buffer: &mut Buffer| {
        let mut found = Candidates::default();
        let mut at = chunk.own.start();
        while at < chunk.own.end() {
            let rest = AddressRange::saturating(at, chunk.own.end().saturating_sub(at));
            let zeros = memory.zeros(rest);
            if zeros > 0 {
                at = at.saturating_add(zeros);
                continue;
            }
            let view = memory.view(rest, buffer);
            let first = up(at, PAGE);
            let skip = usize::try_from(first.saturating_sub(at)).unwrap_or(usize::MAX);
            let bytes = view.bytes.get(skip..).unwrap_or_default();
            for (page, bytes) in (first..).step_by(PAGE_BYTES).zip(bytes.chunks(PAGE_BYTES)) {
                let base = chunk_in(bytes, start);
                if base.and_then(|chunk| total(machine, chunk, padding(machine))).is_some() {
                    found.bases.push(page);
                }
                let last = chunk_in(bytes, end).filter(|chunk| chunk.previous > 1);
                let offset = last.map_or(0, |chunk| chunk.previous & !1);
                if last.and_then(|chunk| total(machine, chunk, offset)).is_some() {
                    let place = page.saturating_add(end as u64);
                    found.aligned.extend(place.checked_sub(offset).map(|base| (base, place)));
                }
            }
            let seen = view.bytes.len() as u64;
            let behind = view.gap.map(|gap| gap.range.end());
            found.beyond = behind.filter(|behind| *behind > chunk.own.end());
            at = match (seen, behind) {
                (_, Some(behind)) => behind.max(at.saturating_add(seen)),
                (0, None) => break,
                _ => at.saturating_add(seen),
            };
        }
        found
    };
    let mut all = Candidates::default();
    pass::in_order(memory, ranges, CHUNK, job, work, |_, found| {
        all.bases.extend(found.bases);
        all.aligned.extend(found.aligned);
        Ok(found.beyond)
    })?;
    Ok(all)
}

/// How long the mapping at `base` is, if it starts as that of a chunk does.
pub(super) fn length_at(peek: &mut Peek<'_>, machine: Machine, base: u64) -> Option<u64> {
    let chunk = Chunk::read(peek, base.checked_add(padding(machine))?)?;
    total(machine, chunk, padding(machine)).map(|(length, _)| length)
}

/// How far behind its mapping's start a chunk starts that needed no alignment.
///
/// glibc, malloc/malloc.c, `sysmalloc_mmap`: where blocks are aligned to more than two words.
const fn padding(machine: Machine) -> u64 {
    machine.align.saturating_sub(machine.header())
}

/// Where the chunk of the mapping at `base` starts, if it needed no alignment.
pub(super) const fn plain_chunk(machine: Machine, base: u64) -> u64 {
    base.saturating_add(padding(machine))
}

/// How many bytes were mapped for a chunk that starts `offset` behind its mapping; `None` if this is none.
///
/// Up to 2.42 (malloc/malloc.c, `munmap_chunk`): `prev_size` is the offset, and with the size whole
/// pages. Since 2.43 (`mmap_size`) two words less, and the lowest bit of `prev_size` says huge pages.
fn total(machine: Machine, chunk: Chunk, offset: u64) -> Option<(u64, bool)> {
    if chunk.head & FLAGS != IS_MMAPPED || chunk.previous & !1 != offset {
        return None;
    }
    let length = offset.checked_add(chunk.size())?;
    if length % PAGE == 0 && length > 0 && chunk.previous == offset {
        return Some((length, false));
    }
    let length = length.checked_add(machine.header())?;
    (length % PAGE == 0).then_some((length, true))
}

/// Where a chunk can start in its mapping's first pages, which starts at `base`, the nearest first.
///
/// glibc, malloc/malloc.c, `_int_memalign`: the block is at the first multiple of the alignment
/// behind the chunk's own, up to 2.42 at the second where less than the smallest chunk
/// would lie before it. A mapping starts a page: alignments of more than that are
/// at the end of a page, whichever, since realloc may have moved the mapping.
fn near_places(machine: Machine, base: u64) -> impl Iterator<Item = u64> {
    let block = base.saturating_add(padding(machine)).saturating_add(machine.header());
    let place = move |shift: u32| {
        let to = 1_u64 << shift;
        let first = block.checked_next_multiple_of(to)?;
        Some([first, first.checked_add(to)?])
    };
    (4..12).filter_map(place).flatten().map(move |block| block.saturating_sub(machine.header()))
}

/// The chunk whose mapping starts at `base`, where `room` bytes are left.
fn chunk_at(
    peek: &mut Peek<'_>,
    machine: Machine,
    base: u64,
    aligned: Option<u64>,
    room: u64,
) -> Option<Mapped> {
    let mut read = |place: u64| {
        let chunk = Chunk::read(peek, place)?;
        let offset = place.checked_sub(base)?;
        let (length, new) = total(machine, chunk, offset)?;
        Some(Mapped { range: AddressRange::saturating(base, length), chunk: place, new })
    };
    let fits = |mapped: &Mapped| {
        let end = mapped.chunk.saturating_add(machine.smallest());
        mapped.range.len() <= room && end <= mapped.range.end()
    };
    let plain = read(base.saturating_add(padding(machine)))?;
    // Observed: an aligned block leaves the header that its mapping had before at
    // the start, a ghost whose size is of long ago: realloc moves the true one, and
    // the mapping may be a page by now. Seen: tests/fixtures/heap_traffic.c, glibc 2.36.
    let near = near_places(machine, base).filter(|place| *place != plain.chunk);
    let inner = aligned.into_iter().chain(near).filter_map(read).find(fits);
    inner.or(Some(plain).filter(fits))
}

/// All mapped chunks outside of `taken`, in address order.
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
    let likely = |kind| !matches!(kind, RegionKind::Data | RegionKind::Stack | RegionKind::Special);
    let found = find_in(memory, machine, taken, likely, job)?;
    if count.is_none_or(|(chunks, _)| found.len() as u64 >= chunks) {
        return Ok(found);
    }
    // Observed: a mapping may touch the bss of a library and be one region with it.
    let more = find_in(memory, machine, taken, |kind| kind != RegionKind::Stack, job)?;
    let bytes = more.iter().map(|mapped| mapped.range.len()).fold(0, u64::saturating_add);
    Ok(if count == Some((more.len() as u64, bytes)) { more } else { found })
}

// Observed: any anonymous mapping beside a chunk's is one region with it: the heap of an
// arena, a thread's stack. Seen: tests/fixtures/heap_traffic.c, glibc 2.41.
fn find_in(
    memory: &dyn Memory,
    machine: Machine,
    taken: &[AddressRange],
    kinds: impl Fn(RegionKind) -> bool,
    job: &Job,
) -> Result<Vec<Mapped>, Error> {
    let anonymous =
        memory.regions().iter().filter(|region| kinds(region.kind) && region.mutable() && region.anonymous());
    let mut ranges = Vec::new();
    for region in anonymous {
        ranges.extend(region.range.without(region.range.among(taken)));
    }
    // Observed: a mapping of one chunk is several regions where the program changed a part
    // of it. Seen: numpy, which asks for huge pages inside of large arrays (madvise).
    let ranges = AddressRange::merge(ranges);
    in_ranges(memory, machine, &ranges, &ranges, job)
}

/// The mapped chunks whose mappings start in `ranges`, each within one of `rooms`; both are in order.
///
/// # Errors
///
/// [`Error::Interrupted`] when the job was stopped.
pub(super) fn in_ranges(
    memory: &dyn Memory,
    machine: Machine,
    ranges: &[AddressRange],
    rooms: &[AddressRange],
    job: &Job,
) -> Result<Vec<Mapped>, Error> {
    let mut peek = Peek::new(memory);
    let mut found: Vec<Mapped> = Vec::new();
    let Candidates { bases, aligned, .. } = candidates(memory, machine, ranges, job)?;
    for base in bases {
        let end = found.last().map_or(0, |last| last.range.end());
        let range = rooms.partition_point(|range| range.end() <= base);
        let room = rooms.get(range).map_or(0, |range| range.end().saturating_sub(base));
        if base >= end {
            let aligned = aligned.get(&base).copied();
            found.extend(chunk_at(&mut peek, machine, base, aligned, room));
        }
    }
    Ok(found)
}

/// The unit of a mapped chunk, with what was mapped before it for its alignment.
pub(super) fn part(machine: Machine, mapped: &Mapped) -> Part {
    // Usable up to 2.42: all but two words (`musable`); since 2.43 a word less
    // than the size, which leaves out two words at the end.
    let cost = machine.header().saturating_add(if mapped.new { machine.word } else { 0 });
    let byte = |number: u64| u8::try_from(number).unwrap_or(u8::MAX);
    let shape = Shape { lead: byte(machine.header()), cost: byte(cost) };
    let mut part = Part::new(mapped.range.start(), shape, None);
    part.push(mapped.chunk, State::Overhead);
    part.push(mapped.range.end(), State::Used);
    part
}
