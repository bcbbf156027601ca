//! The places outside of the heap from which a pointer counts.
//!
//! Whatever a program can write to counts, unless it is known not to: the allocator's own
//! structures, its free memory, and the dead part of stacks. So a root that nobody thought
//! of holds too much rather than too little.

use std::collections::BTreeMap;

use crate::error::Error;
use crate::heap::Allocator;
use crate::heap::block::State;
use crate::memory::{Buffer, Memory, Permissions, Region, RegionKind};
use crate::pass::{self, Chunk, Job};
use crate::range::AddressRange;
use crate::source::Thread;
use crate::source::elf::Image;
use crate::source::registers::Register;

use super::heuristics::Heuristics;
use super::index::{Cursor, Hit, Index};
use super::link::{Edge, Link};
use super::stacks::{self, Part, Stacks};
use super::words;

/// What a root is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RootKind {
    /// A general register of a thread.
    Register,
    /// A word of a register of another sort.
    VectorRegister,
    /// The part of a thread's stack that is alive.
    Stack,
    /// A thread's static variables and its control block.
    Tls,
    /// Writable data of a module, its bss included.
    Data,
    /// Data of a module that was relocated and is read-only since.
    Relro,
    /// Any other writable memory without a file.
    Anon,
    /// A writable mapping of a file.
    File,
    /// What somebody else took from between the allocator's own.
    Foreign,
    /// Memory of the heap of which nobody can tell the blocks any more.
    Damaged,
}

impl RootKind {
    /// Every kind, in the order in which people list them.
    pub const ALL: [Self; 10] = [
        Self::Register,
        Self::VectorRegister,
        Self::Stack,
        Self::Tls,
        Self::Data,
        Self::Relro,
        Self::Anon,
        Self::File,
        Self::Foreign,
        Self::Damaged,
    ];

    /// The word for it in answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::VectorRegister => "vector-register",
            Self::Stack => "stack",
            Self::Tls => "tls",
            Self::Data => "data",
            Self::Relro => "relro",
            Self::Anon => "anon",
            Self::File => "file",
            Self::Foreign => "foreign",
            Self::Damaged => "damaged",
        }
    }

    /// Whether malloc's own pointers to chunks may be left there.
    const fn leftovers(self) -> bool {
        matches!(self, Self::Register | Self::VectorRegister | Self::Stack)
    }
}

/// What is to count.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Choice {
    /// Bytes below each stack pointer that count as alive.
    pub red_zone: u64,
    /// Whether registers count that are not general ones.
    pub vector: bool,
}

/// A stretch of memory from which pointers count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stretch {
    /// Where it lies.
    pub range: AddressRange,
    /// What it is.
    pub kind: RootKind,
    /// The number of its thread, if it is one's.
    pub thread: Option<i32>,
}

/// A register from which a pointer counts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RegisterRoot {
    /// The number of its thread.
    pub thread: i32,
    /// Its name.
    pub name: String,
    /// What it holds.
    pub value: u64,
    /// A general register, or one of another sort.
    pub kind: RootKind,
}

/// All roots of a target.
#[derive(Clone, Default, Debug)]
pub struct Roots {
    /// Stretches of memory, in address order; none overlaps another.
    pub stretches: Vec<Stretch>,
    /// Registers of all threads.
    pub registers: Vec<RegisterRoot>,
    /// How many stacks of ended threads were left out, and their bytes.
    pub ended: (u64, u64),
    /// How many bytes of frames that are alive were left out, because no code touches them.
    pub untouched: u64,
    /// What could not be told, in sentences.
    pub notes: Vec<String>,
}

/// What was found in the roots of one kind.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Found {
    /// How many stretches or registers there are.
    pub places: u64,
    /// How many words in them point at a block in use.
    pub pointers: u64,
}

/// A word of a root that points at a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pointer {
    /// Where it stands: in a register, by its place in the list, or in memory.
    pub place: Place,
    /// What it points at.
    pub hit: Hit,
    /// How it holds that.
    pub link: Link,
}

/// Where a word of a root stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// In the register with that number in [`Roots::registers`].
    Register(usize),
    /// At an address, in the stretch with that number in [`Roots::stretches`].
    Memory(u64, usize),
}

impl Roots {
    /// The roots of `memory` beside the blocks of `heap`.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when the job was stopped.
    pub fn find(
        memory: &dyn Memory,
        heap: &dyn Allocator,
        threads: &[Thread],
        choice: Choice,
        job: &Job,
    ) -> Result<Self, Error> {
        let plain = plain(memory, heap);
        let anonymous =
            plain.iter().filter(|stretch| matches!(stretch.kind, RootKind::Anon | RootKind::Stack));
        let anonymous = AddressRange::merge(anonymous.map(|stretch| stretch.range).collect());
        let stacks = stacks::stacks(memory, threads, &anonymous, choice.red_zone, job)?;
        let registers = threads.iter().flat_map(|thread| registers(thread, choice.vector));
        Ok(Self {
            stretches: owned(plain, &stacks),
            registers: registers.collect(),
            ended: stacks.ended,
            untouched: stacks.untouched,
            notes: stacks.notes,
        })
    }

    /// Hands every word that points at a block in use to `take`: the kind of its root, and how.
    ///
    /// First those in registers, then those in memory in address order. Comes back with
    /// what was found by kind, and how many bytes could not be read.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when the job was stopped.
    pub fn scan(
        &self,
        memory: &dyn Memory,
        index: &Index<'_>,
        heuristics: &Heuristics,
        job: &Job,
        mut take: impl FnMut(RootKind, Edge),
    ) -> Result<(BTreeMap<RootKind, Found>, u64), Error> {
        let mut found: BTreeMap<RootKind, Found> = BTreeMap::new();
        for kind in
            self.stretches.iter().map(|stretch| stretch.kind).chain(self.registers.iter().map(|own| own.kind))
        {
            let own = found.entry(kind).or_default();
            own.places = own.places.saturating_add(1);
        }
        let mut count = |kind: RootKind| {
            let own = found.entry(kind).or_default();
            own.pointers = own.pointers.saturating_add(1);
        };
        let near = |value: u64| index.near(value);
        let edge = |pointer: &Pointer| Edge::new(pointer.hit.unit.index, pointer.link);
        let scan = Scan { memory, index, heuristics, near: &near };
        self.in_registers(&scan, |pointer, kind| {
            count(kind);
            if let Some(edge) = edge(&pointer) {
                take(kind, edge);
            }
        });
        let work = |chunk: &Chunk, buffer: &mut Buffer| {
            let mut edges: Vec<(RootKind, Edge)> = Vec::new();
            let missed = self.in_chunk(&scan, chunk, buffer, |pointer, kind| {
                edges.extend(edge(&pointer).map(|edge| (kind, edge)));
            });
            (edges, missed)
        };
        // Of a gap behind a chunk some chunks may be cut already and count themselves.
        let (mut lost, mut reached, mut gap_end) = (0_u64, 0_u64, 0_u64);
        pass::in_order(&self.ranges(), pass::CHUNK, job, work, |chunk, (edges, (missing, behind))| {
            let skipped = gap_end.min(chunk.own.start()).saturating_sub(reached);
            lost = lost.saturating_add(skipped).saturating_add(missing);
            reached = chunk.own.end();
            gap_end = behind.map_or(0, |behind| behind.min(chunk.run.end()));
            for (kind, edge) in edges {
                count(kind);
                take(kind, edge);
            }
            Ok(behind)
        })?;
        Ok((found, lost.saturating_add(gap_end.saturating_sub(reached))))
    }

    /// The words that point at blocks of `index` and that `near` lets pass, registers first.
    ///
    /// Hands over those of one chunk at a time, in address order.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when the job was stopped, and whatever `take` finds.
    pub fn pointers(
        &self,
        memory: &dyn Memory,
        index: &Index<'_>,
        heuristics: &Heuristics,
        near: &(impl Fn(u64) -> bool + Sync),
        job: &Job,
        mut take: impl FnMut(Pointer),
    ) -> Result<(), Error> {
        let scan = Scan { memory, index, heuristics, near };
        self.in_registers(&scan, |pointer, _| take(pointer));
        let work = |chunk: &Chunk, buffer: &mut Buffer| {
            let mut pointers = Vec::new();
            let (_, behind) = self.in_chunk(&scan, chunk, buffer, |pointer, _| pointers.push(pointer));
            (pointers, behind)
        };
        pass::in_order(&self.ranges(), pass::CHUNK, job, work, |_, (pointers, behind)| {
            pointers.into_iter().for_each(&mut take);
            Ok(behind)
        })
    }

    fn ranges(&self) -> Vec<AddressRange> {
        self.stretches.iter().map(|stretch| stretch.range).collect()
    }

    /// The words in registers that hold blocks.
    fn in_registers<N: Fn(u64) -> bool>(&self, scan: &Scan<'_, N>, mut take: impl FnMut(Pointer, RootKind)) {
        let mut cursor = Cursor::default();
        let mut look = scan.heuristics.look(scan.memory);
        for (number, register) in self.registers.iter().enumerate() {
            let hit = (scan.near)(register.value).then(|| scan.index.find(&mut cursor, register.value));
            let Some(hit) = hit.flatten() else { continue };
            if let Some(link) = look.holds(&hit, register.kind.leftovers()) {
                take(Pointer { place: Place::Register(number), hit, link }, register.kind);
            }
        }
    }

    /// The words in the stretches of a chunk that hold blocks.
    ///
    /// Comes back with the missing bytes, and where a gap ends that goes on behind the chunk.
    fn in_chunk<N: Fn(u64) -> bool>(
        &self,
        scan: &Scan<'_, N>,
        chunk: &Chunk,
        buffer: &mut Buffer,
        mut take: impl FnMut(Pointer, RootKind),
    ) -> (u64, Option<u64>) {
        let format = scan.memory.word_format();
        let first = self.stretches.partition_point(|stretch| stretch.range.end() <= chunk.own.start());
        let stretches = self.stretches.iter().enumerate().skip(first);
        let mut cursor = Cursor::default();
        let mut look = scan.heuristics.look(scan.memory);
        let (mut missing, mut behind) = (0_u64, None);
        for (number, stretch) in stretches.take_while(|(_, stretch)| stretch.range.start() < chunk.own.end())
        {
            let Some(range) = stretch.range.intersection(chunk.own) else { continue };
            let (lost, gap_end) = words::pieces(scan.memory, range, buffer, |at, bytes| {
                words::each(format, at.start(), bytes, scan.near, |address, value| {
                    let Some(hit) = scan.index.find(&mut cursor, value) else { return };
                    if let Some(link) = look.holds(&hit, stretch.kind.leftovers()) {
                        take(Pointer { place: Place::Memory(address, number), hit, link }, stretch.kind);
                    }
                });
            });
            missing = missing.saturating_add(lost);
            behind = gap_end.filter(|end| *end > chunk.own.end());
        }
        (missing, behind)
    }
}

/// What the words of roots are scanned with.
struct Scan<'s, N> {
    memory: &'s dyn Memory,
    index: &'s Index<'s>,
    heuristics: &'s Heuristics,
    /// Lets pass the words that may matter.
    near: &'s N,
}

fn registers(thread: &Thread, vector: bool) -> Vec<RegisterRoot> {
    let of = |kind: RootKind| {
        move |register: &Register| RegisterRoot {
            thread: thread.id,
            name: register.name.to_string(),
            value: register.value,
            kind,
        }
    };
    let general = thread.registers.general.iter().map(of(RootKind::Register));
    let others = thread.registers.vector.iter().filter(|_| vector).map(of(RootKind::VectorRegister));
    general.chain(others).collect()
}

/// Writable memory that no allocator owns, and what was relocated, before threads are known.
fn plain(memory: &dyn Memory, heap: &dyn Allocator) -> Vec<Stretch> {
    let spans: Vec<AddressRange> = heap.blocks().spans().iter().map(|span| span.range).collect();
    let owned = AddressRange::merge([&spans[..], heap.structures()].concat());
    let relocated = relocated(memory);
    let mut stretches = Vec::new();
    for region in memory.regions() {
        let Some(kind) = kind(region, &relocated) else { continue };
        let left = region.range.without(overlapping(&owned, region.range));
        stretches.extend(left.into_iter().map(|range| Stretch { range, kind, thread: None }));
    }
    let units = heap.blocks().spans().iter().flat_map(|span| heap.blocks().units_of(span));
    stretches.extend(units.filter_map(|unit| {
        let kind = match unit.state {
            State::Foreign => RootKind::Foreign,
            State::Damaged => RootKind::Damaged,
            _ => return None,
        };
        Some(Stretch { range: unit.range, kind, thread: None })
    }));
    stretches.sort_unstable_by_key(|stretch| stretch.range);
    stretches
}

/// What kind of root a region is, if it is one.
fn kind(region: &Region, relocated: &[AddressRange]) -> Option<RootKind> {
    let Permissions::Known { read: true, write, .. } = region.permissions else { return None };
    if !write {
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
    const HEADERS: u64 = 4096;
    const MOST_LOADED: usize = 64;
    // Folklore: a file may be mapped more than once, also at a lower address than the module
    // that was loaded from it. Seen: programs that read their own symbols, dlmopen.
    let mut images: BTreeMap<&str, Vec<(u64, Image)>> = BTreeMap::new();
    let files = || memory.regions().iter().filter(|region| !region.anonymous());
    for region in files().filter(|region| region.file_offset == 0) {
        let start = region.range.start();
        let mut headers = Vec::new();
        let _ = memory.append(AddressRange::saturating(start, HEADERS), &mut headers);
        let image = Image::parse(headers.as_slice()).ok();
        images.entry(&region.name).or_default().extend(image.map(|image| (start, image)));
    }
    let read_only = Permissions::new(true, false, false);
    let candidates = files().filter(|region| region.permissions == read_only);
    let relocated = |region: &&Region| {
        let start = region.range.start();
        let loaded = images.get(region.name.as_str()).map_or(&[][..], Vec::as_slice);
        // Of a file that is mapped a hundred thousand times none is a module.
        loaded.iter().take(MOST_LOADED).any(|(base, image)| image.relocated(*base, start))
    };
    candidates.filter(relocated).map(|region| region.range).collect()
}

/// The stretches with the dead part of stacks cut out, and what belongs to a thread named.
fn owned(plain: Vec<Stretch>, stacks: &Stacks) -> Vec<Stretch> {
    let mut stretches: Vec<Stretch> = Vec::with_capacity(plain.len());
    for stretch in plain {
        let of_thread = matches!(stretch.kind, RootKind::Stack | RootKind::Anon);
        if !of_thread {
            stretches.push(stretch);
            continue;
        }
        for range in stretch.range.without(overlapping(&stacks.dead, stretch.range)) {
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

/// Those of some ranges in order that share a byte with `range`.
fn overlapping(ranges: &[AddressRange], range: AddressRange) -> &[AddressRange] {
    let first = ranges.partition_point(|other| other.end() <= range.start());
    let behind = ranges.get(first..).unwrap_or_default();
    behind.get(..behind.partition_point(|other| other.start() < range.end())).unwrap_or_default()
}
