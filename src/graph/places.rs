//! Where roots lie in memory: what a program can write to, and what is not its own to write.

use std::collections::BTreeMap;

use crate::error::Error;
use crate::heap::Allocator;
use crate::heap::block::State;
use crate::memory::{Memory, Permissions, Region, RegionKind};
use crate::name::Name;
use crate::pass::Job;
use crate::range::AddressRange;
use crate::recording;
use crate::source::elf::{self, Image};

use super::roots::{RootKind, Stretch};
use super::stacks::{Part, Stacks};

/// Where roots lie before threads are known.
pub(super) struct Plain {
    pub stretches: Vec<Stretch>,
    /// The recorder's own memory.
    pub recorder: Vec<AddressRange>,
}

/// Writable memory that neither an allocator nor the recorder owns, and what was relocated,
/// before threads are known.
///
/// # Errors
///
/// [`Error::Interrupted`] when the job was stopped.
pub(super) fn plain(memory: &dyn Memory, heap: Option<&dyn Allocator>, job: &Job) -> Result<Plain, Error> {
    const ASK: usize = 1 << 20;
    let spans = heap.map_or(&[][..], |heap| heap.blocks().spans()).iter();
    let spans: Vec<AddressRange> = spans.map(|span| span.range).collect();
    let structures = heap.map_or(&[][..], |heap| heap.structures());
    // The recorder's tables name every block, and nobody uses a block through them.
    let recorder = recording::reserved(memory, job)?;
    let owned = AddressRange::merge([&spans[..], structures, &recorder].concat());
    let relocated = relocated(memory);
    let mut stretches = Vec::new();
    for region in memory.regions() {
        let Some(kind) = kind(region, &relocated) else { continue };
        let left = region.range.without(region.range.among(&owned));
        stretches.extend(left.into_iter().map(|range| Stretch { range, kind, thread: None }));
    }
    let others = |state| matches!(state, State::Foreign | State::Damaged | State::Unreadable);
    for (number, unit) in heap.into_iter().flat_map(|heap| heap.blocks().units_that(others)).enumerate() {
        if number % ASK == 0 {
            job.check()?;
        }
        // Blocks where the heap is damaged may be reachable, so everything they point at is.
        let foreign = unit.state == State::Foreign;
        let kind = if foreign { RootKind::Foreign } else { RootKind::Damaged };
        stretches.push(Stretch { range: unit.range, kind, thread: None });
    }
    stretches.sort_unstable_by_key(|stretch| stretch.range);
    Ok(Plain { stretches, recorder })
}

/// What kind of root a region is, if it is one.
fn kind(region: &Region, relocated: &[AddressRange]) -> Option<RootKind> {
    // What the flags call unreadable was written all the same, if it was saved. Seen: dumps
    // of crash's gcore, whose flags are the kernel's own in another order.
    if !region.mutable() {
        return relocated.binary_search(&region.range).is_ok().then_some(RootKind::Relro);
    }
    // Reading a device may do anything. valgrind leaves them out too (3.19,
    // `memcheck/mc_leakcheck.c`, `scan_memory_root_set`).
    let device = region.name.starts_with("/dev/");
    let plain = ["/dev/zero", "/dev/shm/", "/dev/hugepages/"];
    let memory = plain.iter().any(|name| region.name.starts_with(name));
    match region.kind {
        _ if device && !memory => None,
        RegionKind::Special | RegionKind::Vdso => None,
        RegionKind::Stack | RegionKind::ThreadStack => Some(RootKind::Stack),
        RegionKind::Data => Some(RootKind::Data),
        RegionKind::File => Some(RootKind::File),
        RegionKind::Heap | RegionKind::Arena | RegionKind::Anon => Some(RootKind::Anon),
    }
}

/// The regions of modules that were written while they were loaded and are read-only since.
#[must_use]
pub fn relocated(memory: &dyn Memory) -> Vec<AddressRange> {
    const MOST_LOADED: usize = 64;
    // Folklore: a file may be mapped more than once, also at a lower address than the module
    // that was loaded from it. Seen: programs that read their own symbols, dlmopen.
    let mut images: BTreeMap<&Name, Vec<(u64, Image)>> = BTreeMap::new();
    let files = || memory.regions().iter().filter(|region| !region.anonymous());
    for region in files().filter(|region| region.file_offset == 0) {
        let start = region.range.start();
        let image = elf::image_at(memory, start);
        images.entry(&region.name).or_default().extend(image.map(|image| (start, image)));
    }
    if files().next().is_none() {
        return unnamed(memory);
    }
    let known = |region: &&Region| region.permissions != Permissions::Unknown;
    let candidates = files().filter(|region| known(region) && !region.permissions.writable());
    let relocated = |region: &&Region| {
        let start = region.range.start();
        let loaded = images.get(&region.name).map_or(&[][..], Vec::as_slice);
        // Of a file that is mapped a hundred thousand times none is a module.
        loaded.iter().take(MOST_LOADED).any(|(base, image)| image.relocated(*base, start))
    };
    candidates.filter(relocated).map(|region| region.range).collect()
}

/// The read-only regions of a core that names no file and holds no module's headers.
///
/// The kernel saves such memory only where it was written to (Linux, fs/coredump.c,
/// `vma_dump_size`). What is constant holds no pointer to a block.
fn unnamed(memory: &dyn Memory) -> Vec<AddressRange> {
    let read_only = Permissions::new(true, false, false);
    let wanted = |region: &&Region| {
        region.permissions == read_only && region.saved > 0 && region.kind == RegionKind::Anon
    };
    memory.regions().iter().filter(wanted).map(|region| region.range).collect()
}

/// The stretches with the dead part of stacks cut out, and what belongs to a thread named.
pub(super) fn owned(plain: Vec<Stretch>, stacks: &Stacks) -> Vec<Stretch> {
    let mut stretches: Vec<Stretch> = Vec::with_capacity(plain.len());
    for stretch in plain {
        let of_thread = matches!(stretch.kind, RootKind::Stack | RootKind::Anon);
        if !of_thread {
            stretches.push(stretch);
            continue;
        }
        for range in stretch.range.without(stretch.range.among(&stacks.dead)) {
            let first = stacks.owned.partition_point(|(own, ..)| own.end() <= range.start());
            let behind = stacks.owned.get(first..).unwrap_or_default().iter();
            let mut at = range.start();
            for (own, part, thread) in behind.take_while(|(own, ..)| own.start() < range.end()) {
                let start = own.start().clamp(at, range.end());
                let end = own.end().clamp(start, range.end());
                let between = AddressRange::saturating(at, start.saturating_sub(at));
                let kind = if *part == Part::Stack { RootKind::Stack } else { RootKind::Tls };
                let own = AddressRange::saturating(start, end.saturating_sub(start));
                let both = [
                    Stretch { range: between, ..stretch },
                    Stretch { range: own, kind, thread: Some(*thread) },
                ];
                stretches.extend(both.into_iter().filter(|stretch| !stretch.range.is_empty()));
                at = end;
            }
            let rest = AddressRange::saturating(at, range.end().saturating_sub(at));
            stretches.extend((!rest.is_empty()).then_some(Stretch { range: rest, ..stretch }));
        }
    }
    stretches
}
