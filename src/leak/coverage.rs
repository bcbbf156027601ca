//! How much of the writable memory a verdict rests on, and what belongs to no known heap.

use crate::error::Error;
use crate::graph::{RootKind, Roots};
use crate::heap::Allocator;
use crate::heap::block::State;
use crate::memory::{Memory, Region, RegionKind};
use crate::pages::{self, PAGE};
use crate::pass::Job;
use crate::range::AddressRange;
use crate::source::kinds;

/// Anonymous memory of up to this many bytes in all is the loader's own, and is scanned as roots.
///
/// glibc 2.31 to 2.43, elf/dl-minimal.c: before there is a malloc the loader maps single pages
/// for what it knows of libraries and for the static variables of the first thread.
const LOADERS: u64 = 64 << 10;

/// Unknown memory must have more bytes than this, and more than a tenth of what could be heaps,
/// before a verdict on the rest must not pass for one on the program. Of what is in a heap, or may be
/// in one and is not in the core, a tenth is enough: there was nothing else to find there.
const MUCH: u64 = 1 << 20;

/// A tenth of the whole is a ninth of the rest.
const REST: u64 = 9;

/// How much of the writable memory was judged.
///
/// Bytes are those that are resident, where that is known, else those of mappings. The
/// recorder's own memory is left out everywhere.
#[derive(Clone, Default, Debug)]
pub struct Coverage {
    /// What was judged: heaps whose blocks got a verdict, and what is by its nature only roots:
    /// data of modules, static variables and stacks of threads, dead parts of stacks as well.
    pub judged: u64,
    /// All mappings that the process may write to, or wrote to before it made them inaccessible.
    pub writable: u64,
    /// Their resident part, where that is known.
    pub resident: Option<u64>,
    /// What belongs to no known heap, by the kind of its regions.
    pub unknown: Vec<(RegionKind, u64)>,
    /// What belongs to a heap and is damaged or cannot be read, so that its blocks are not known.
    pub broken: u64,
    /// What else cannot be read.
    pub missing: u64,
    /// Whether memory of no known heap and of broken ones is too much for a verdict on the rest to pass
    /// for one on the program.
    pub lacking: bool,
    /// Where what belongs to no known heap is.
    pub places: Vec<AddressRange>,
}

/// The parts of one region that are not judged by their nature.
#[derive(Default)]
struct Parts {
    /// The heap's that was found.
    heap: Vec<AddressRange>,
    /// Of no known heap.
    unknown: Vec<AddressRange>,
    /// The recorder's.
    recorder: Vec<AddressRange>,
    /// Of the heap, and nothing can tell its blocks any more.
    damaged: Vec<AddressRange>,
}

impl Coverage {
    /// The coverage of a verdict on the blocks of `heap` with these roots.
    ///
    /// Where no verdict is possible nothing was judged, whatever the heap.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when the job was stopped.
    pub fn new(
        memory: &dyn Memory,
        heap: Option<&dyn Allocator>,
        roots: &Roots,
        possible: bool,
        job: &Job,
    ) -> Result<Self, Error> {
        let resident = memory.resident_regions();
        let of_kind = |wanted: &[RootKind]| {
            let stretches = roots.stretches.iter().filter(|stretch| wanted.contains(&stretch.kind));
            AddressRange::merge(stretches.map(|stretch| stretch.range).collect())
        };
        let damaged = of_kind(&[RootKind::Damaged]);
        let hidden = unreadable(heap);
        let foreign = of_kind(&[RootKind::Foreign]);
        let mut unknown = of_kind(&[RootKind::Anon, RootKind::File, RootKind::Foreign]);
        let not_heap = AddressRange::merge([&damaged[..], &foreign[..]].concat());
        let spans = heap.map_or(&[][..], |heap| heap.blocks().spans());
        let structures = heap.map_or(&[][..], |heap| heap.structures());
        let owned: Vec<AddressRange> =
            spans.iter().map(|span| span.range).chain(structures.iter().copied()).collect();
        let owned = AddressRange::merge(owned);
        let taken = AddressRange::merge([&owned[..], &roots.recorder].concat());
        for range in beyond_modules(memory) {
            unknown.extend(range.without(range.among(&taken)));
        }
        let loaders = loaders(memory, roots);
        let unknown = AddressRange::merge(unknown).into_iter();
        let unknown: Vec<AddressRange> =
            unknown.flat_map(|range| range.without(range.among(&loaders))).collect();

        let mut coverage = Self::default();
        let (mut all, mut by_kind) = (0_u64, [0_u64; RegionKind::ALL.len()]);
        let (mut lacked, mut heaps) = (Vec::new(), Vec::new());
        let (mut heap_bytes, mut judged, mut absent) = (0_u64, 0_u64, 0_u64);
        for (index, region) in memory.regions().iter().enumerate() {
            if !region.mutable() {
                continue;
            }
            job.check()?;
            let within = |ranges: &[AddressRange]| inside(region, ranges);
            let heap = within(&owned).into_iter().flat_map(|range| range.without(range.among(&not_heap)));
            // Structures in a module's data are counted with that.
            let heap = heap.filter(|_| region.kind != RegionKind::Data || region.anonymous());
            let parts = Parts {
                heap: heap.collect(),
                unknown: within(&unknown),
                recorder: within(&roots.recorder),
                damaged: within(&damaged),
            };
            let own = resident.as_ref().map(|all| all.get(index).copied().unwrap_or(0));
            let count = |ranges: &[AddressRange]| present(memory, region, own, ranges, job);
            let whole = own.unwrap_or(region.range.len());
            let recorder = count(&parts.recorder)?;
            let lacks = count(&parts.unknown)?.min(whole.saturating_sub(recorder));
            let broken = count(&parts.damaged)?;
            let left = whole.saturating_sub(recorder);
            coverage.writable =
                coverage.writable.saturating_add(region.range.len()).saturating_sub(bytes(&parts.recorder));
            all = all.saturating_add(left);
            let unsaved = region.range.len().saturating_sub(region.saved);
            let missing = unsaved.min(left).saturating_sub(lacks.saturating_add(broken));
            // Pages that a process has but cannot show are not resident.
            coverage.broken = coverage.broken.saturating_add(broken.max(bytes(&within(&hidden))));
            if matches!(region.kind, RegionKind::Heap | RegionKind::Arena | RegionKind::Anon) {
                absent = absent.saturating_add(unsaved.min(lacks));
            }
            coverage.missing = coverage.missing.saturating_add(missing);
            let others = lacks.saturating_add(broken).saturating_add(missing);
            judged = judged.saturating_add(left.saturating_sub(others));
            heap_bytes = heap_bytes.saturating_add(count(&parts.heap)?);
            if let Some(sum) = by_kind.get_mut(region.kind as usize) {
                *sum = sum.saturating_add(lacks);
            }
            lacked.extend(parts.unknown);
            heaps.extend(parts.heap);
        }
        coverage.resident = resident.is_some().then_some(all);
        let mut sum = by_kind.iter().copied().fold(0, u64::saturating_add);
        coverage.judged = if possible { judged } else { 0 };
        coverage.unknown = RegionKind::ALL.into_iter().zip(by_kind).filter(|(_, bytes)| *bytes > 0).collect();
        // What was mapped and never touched is no reason to distrust a verdict.
        if sum > MUCH && resident.is_none() {
            sum = pages::not_zero_until(memory, &lacked, MUCH.max(heap_bytes / REST), job)?;
            if sum > MUCH && sum <= heap_bytes / REST {
                heap_bytes = pages::not_zero_until(memory, &heaps, sum.saturating_mul(REST), job)?;
            }
        }
        sum = sum.saturating_add(coverage.broken);
        // If unknown memory is more than a tenth of the whole, it is more than a ninth of the rest.
        coverage.lacking = sum > MUCH && sum > heap_bytes / REST;
        let gone = coverage.broken.saturating_add(absent);
        coverage.lacking |= gone > 0 && gone > used(heap) / REST;
        coverage.places = if coverage.unknown.is_empty() { Vec::new() } else { AddressRange::merge(lacked) };
        Ok(coverage)
    }
}

/// Where the blocks of a heap are not known because their headers cannot be read.
fn unreadable(heap: Option<&dyn Allocator>) -> Vec<AddressRange> {
    let found =
        heap.into_iter().flat_map(|heap| heap.blocks().units_that(|state| state == State::Unreadable));
    AddressRange::merge(found.map(|unit| unit.range).collect())
}

/// The bytes of blocks in use, with their headers.
fn used(heap: Option<&dyn Allocator>) -> u64 {
    let found = heap.into_iter().flat_map(|heap| heap.blocks().units_that(State::used));
    found.map(|unit| unit.range.len()).fold(0, u64::saturating_add)
}

fn bytes(ranges: &[AddressRange]) -> u64 {
    ranges.iter().map(|range| range.len()).fold(0, u64::saturating_add)
}

/// The parts of `ranges`, which are in order, that lie in the region.
fn inside(region: &Region, ranges: &[AddressRange]) -> Vec<AddressRange> {
    let among = region.range.among(ranges).iter();
    among.filter_map(|range| range.intersection(region.range)).collect()
}

/// What looks like the loader's own memory, in address order; [`LOADERS`] bytes at the most.
///
/// The mapping from the page with the first thread's static variables on (the kernel may merge
/// later mappings below it into the same one), and other small mappings.
fn loaders(memory: &dyn Memory, roots: &Roots) -> Vec<AddressRange> {
    const SMALL: u64 = 32 << 10;
    let statics = roots.stretches.iter().filter(|stretch| stretch.kind == RootKind::Tls);
    let behind = statics.filter_map(|stretch| {
        let region = memory.region_at(stretch.range.start())?;
        let from = (stretch.range.start() / PAGE).saturating_mul(PAGE).max(region.range.start());
        Some(AddressRange::saturating(from, region.range.end().saturating_sub(from)))
    });
    let anonymous = memory.regions().iter().filter(|region| region.kind == RegionKind::Anon);
    let small = anonymous.filter(|region| region.mutable() && region.range.len() <= SMALL);
    let mut left = LOADERS;
    let found = behind.chain(small.map(|region| region.range)).filter(|range| {
        let fits = range.len() <= left;
        left = left.saturating_sub(if fits { range.len() } else { 0 });
        fits
    });
    AddressRange::merge(found.collect())
}

/// Anonymous memory that merged with the data of a module before it.
///
/// Observed: the kernel makes one mapping of neighbours with the same rights. Seen: programs
/// that map memory at an address of their choice; the heap of `brk` without randomisation.
fn beyond_modules(memory: &dyn Memory) -> Vec<AddressRange> {
    const LARGE: u64 = 1 << 20;
    let mut found = Vec::new();
    let mut module = None;
    for region in memory.regions() {
        if !region.anonymous() {
            module = Some(&region.name);
        } else if region.kind == RegionKind::Data && region.range.len() > LARGE {
            let end = module.and_then(|name| kinds::module_end(memory, name));
            let end = end.and_then(|end| end.checked_next_multiple_of(PAGE));
            let Some(end) = end.filter(|end| region.range.contains(*end)) else { continue };
            found.push(AddressRange::saturating(end, region.range.end().saturating_sub(end)));
        }
    }
    found
}

/// The bytes of `ranges`, parts of a region, that count: those that are resident where that is known.
///
/// `own` is what of the whole region is resident.
fn present(
    memory: &dyn Memory,
    region: &Region,
    own: Option<u64>,
    ranges: &[AddressRange],
    job: &Job,
) -> Result<u64, Error> {
    /// More than this is not asked about page by page: 64 MiB of entries take 0.1 s.
    const MOST: u64 = 32 << 30;
    let length = bytes(ranges);
    let Some(own) = own.filter(|_| length > 0) else { return Ok(length) };
    let rest = region.range.len().saturating_sub(length);
    if rest == 0 || own == 0 {
        return Ok(own);
    }
    // Of the two parts the smaller one is asked about.
    if length <= rest && length <= MOST {
        return Ok(pages::resident(memory, ranges, job)?.unwrap_or(own).min(own));
    }
    if rest <= MOST {
        let others = region.range.without(ranges);
        let others = pages::resident(memory, &others, job)?.unwrap_or(0);
        return Ok(own.saturating_sub(others));
    }
    Ok(own.min(length))
}
