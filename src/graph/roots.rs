//! The places outside of the heap from which a pointer counts.
//!
//! Whatever a program can write to counts, unless it is known not to: the allocator's own
//! structures, its free memory, the dead part of stacks, and dead registers. Memory of a kind
//! that is not known here counts, which holds too much rather than too little.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Error;
use crate::heap::Allocator;
use crate::memory::{Buffer, Memory};
use crate::pass::{self, Chunk, Job};
use crate::range::AddressRange;
use crate::source::Thread;
use crate::source::registers::Register;
use crate::unwind::Classes;

use super::heuristics::{Heuristics, Look};
use super::index::{Cursor, Hit, Index};
use super::link::{Edge, Link};
use super::places::{self, Plain};
use super::stacks;
use super::words::{self, Content};

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
    /// What another allocator took from between the allocator's own.
    Foreign,
    /// Heap memory whose blocks are unknown: damaged, or headers missing.
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
    /// Whether its thread may be within a call of the allocator.
    pub in_call: bool,
}

/// Words of live frames, and registers, that nothing reads again; they hold nothing.
#[derive(Clone, Default, Debug)]
pub struct Dead {
    /// In address order.
    pub words: Vec<Stretch>,
    /// General registers.
    pub registers: Vec<RegisterRoot>,
}

/// All roots of a target.
#[derive(Clone, Default, Debug)]
pub struct Roots {
    /// Stretches of memory, in address order; none overlaps another.
    pub stretches: Vec<Stretch>,
    /// The recorder's own memory, which holds nothing; in address order.
    pub recorder: Vec<AddressRange>,
    /// Registers of all threads.
    pub registers: Vec<RegisterRoot>,
    /// The innermost frames of threads that may be within a call of the allocator, in address order.
    pub innermost: Vec<AddressRange>,
    /// How many stacks of ended threads were left out, and their bytes.
    pub ended: (u64, u64),
    /// Words of live frames, and registers, that were left out because they are dead.
    pub dead: Dead,
    /// How well the words of frames that are alive are known.
    pub classes: Classes,
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
        Self::made(memory, Some(heap), threads, Some(choice), job)
    }

    /// What the dead words and registers would be as roots.
    ///
    /// For naming what points at a block without holding it.
    #[must_use]
    pub fn left_over(&self) -> Self {
        Self { stretches: self.dead.words.clone(), registers: self.dead.registers.clone(), ..Self::default() }
    }

    /// Where roots lie in memory, beside the blocks of a heap if there is one.
    ///
    /// Without registers, and with the dead words of frames that are alive.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when the job was stopped.
    pub fn in_memory(
        memory: &dyn Memory,
        heap: Option<&dyn Allocator>,
        threads: &[Thread],
        job: &Job,
    ) -> Result<Self, Error> {
        Self::made(memory, heap, threads, None, job)
    }

    /// The roots in memory; with a choice also registers, and without what data flow shows dead.
    fn made(
        memory: &dyn Memory,
        heap: Option<&dyn Allocator>,
        threads: &[Thread],
        choice: Option<Choice>,
        job: &Job,
    ) -> Result<Self, Error> {
        let threads: Vec<Thread> = threads.iter().filter(|thread| !thread.kernel_worker()).cloned().collect();
        let threads = threads.as_slice();
        let Plain { stretches: plain, recorder } = places::plain(memory, heap, job)?;
        let anonymous =
            plain.iter().filter(|stretch| matches!(stretch.kind, RootKind::Anon | RootKind::Stack));
        let anonymous = AddressRange::merge(anonymous.map(|stretch| stretch.range).collect());
        let red_zone = choice.map_or(0, |choice| choice.red_zone);
        let mut stacks = stacks::stacks(memory, threads, &anonymous, red_zone, job)?;
        if choice.is_some() {
            stacks.cut_frames(memory, threads, job)?;
        }
        let in_calls = heap.map_or(&[][..], Allocator::threads_in_calls);
        let all = choice.into_iter().flat_map(|choice| {
            threads.iter().flat_map(move |thread| registers(thread, choice.vector, in_calls))
        });
        let dead: BTreeSet<(i32, &str)> = stacks.registers.iter().copied().collect();
        let (dead, alive) =
            all.partition(|register| dead.contains(&(register.thread, register.name.as_str())));
        // Words of a stack that is a block of the heap count with the block.
        let cut = |range: AddressRange| {
            let after = plain.partition_point(|stretch| stretch.range.end() <= range.start());
            plain.get(after).is_some_and(|stretch| {
                matches!(stretch.kind, RootKind::Stack | RootKind::Anon) && stretch.range.covers(range)
            })
        };
        let words = stacks.words.iter().filter(|(range, _)| cut(*range));
        let words = words
            .map(|(range, thread)| Stretch { range: *range, kind: RootKind::Stack, thread: *thread })
            .collect();
        Ok(Self {
            stretches: places::owned(plain, &stacks),
            registers: alive,
            innermost: innermost(threads, in_calls),
            recorder,
            ended: stacks.ended,
            classes: stacks.classes,
            dead: Dead { words, registers: dead },
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
        let (mut lost, mut reached) = (0_u64, 0_u64);
        let mut gap = Behind::default();
        pass::in_order(
            memory,
            &self.ranges(),
            pass::CHUNK,
            job,
            work,
            |chunk, (edges, (missing, behind))| {
                let skipped = gap.end.min(chunk.own.start()).saturating_sub(reached);
                lost = lost.saturating_add(if gap.roots { skipped } else { 0 }).saturating_add(missing);
                reached = chunk.own.end();
                gap = behind.unwrap_or_default();
                gap.end = gap.end.min(chunk.run.end());
                for (kind, edge) in edges {
                    count(kind);
                    take(kind, edge);
                }
                Ok(behind.map(|behind| behind.end))
            },
        )?;
        let rest = if gap.roots { gap.end.saturating_sub(reached) } else { 0 };
        Ok((found, lost.saturating_add(rest)))
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
            (pointers, behind.map(|behind| behind.end))
        };
        pass::in_order(memory, &self.ranges(), pass::CHUNK, job, work, |_, (pointers, behind)| {
            pointers.into_iter().for_each(&mut take);
            Ok(behind)
        })
    }

    fn ranges(&self) -> Vec<AddressRange> {
        self.stretches.iter().map(|stretch| stretch.range).collect()
    }

    /// Whether a word at `address` is in a frame of a call of the allocator.
    fn in_call(&self, address: u64) -> bool {
        let after = self.innermost.partition_point(|range| range.end() <= address);
        self.innermost.get(after).is_some_and(|range| range.contains(address))
    }

    /// The words in registers that hold blocks.
    fn in_registers<N: Fn(u64) -> bool>(&self, scan: &Scan<'_, N>, mut take: impl FnMut(Pointer, RootKind)) {
        let mut cursor = Cursor::default();
        let mut look = scan.heuristics.look(scan.memory);
        for (number, register) in self.registers.iter().enumerate() {
            let (place, kind) = (Place::Register(number), register.kind);
            let looking = (&mut cursor, &mut look);
            scan.each(looking, register.value, kind.leftovers(), register.in_call, |hit, link| {
                take(Pointer { place, hit, link }, kind);
            });
        }
    }

    /// The words in the stretches of a chunk that hold blocks.
    ///
    /// Returns the missing bytes, without those of a heap whose blocks are not known, and the gap that
    /// goes on after the chunk.
    fn in_chunk<N: Fn(u64) -> bool>(
        &self,
        scan: &Scan<'_, N>,
        chunk: &Chunk,
        buffer: &mut Buffer,
        mut take: impl FnMut(Pointer, RootKind),
    ) -> (u64, Option<Behind>) {
        let format = scan.memory.word_format();
        let first = self.stretches.partition_point(|stretch| stretch.range.end() <= chunk.own.start());
        let stretches = self.stretches.iter().enumerate().skip(first);
        let mut cursor = Cursor::default();
        let mut look = scan.heuristics.look(scan.memory);
        let (mut missing, mut behind) = (0_u64, None);
        for (number, stretch) in stretches.take_while(|(_, stretch)| stretch.range.start() < chunk.own.end())
        {
            let Some(range) = stretch.range.intersection(chunk.own) else { continue };
            let gap_end = words::pieces(scan.memory, range, buffer, |at, content| {
                if matches!(content, Content::Missing) && stretch.kind != RootKind::Damaged {
                    missing = missing.saturating_add(at.len());
                }
                words::each(format, at.start(), content.bytes(), scan.near, |address, value| {
                    let (place, kind) = (Place::Memory(address, number), stretch.kind);
                    let looking = (&mut cursor, &mut look);
                    scan.each(looking, value, kind.leftovers(), self.in_call(address), |hit, link| {
                        take(Pointer { place, hit, link }, kind);
                    });
                });
            });
            let gap_end = gap_end.filter(|end| *end > chunk.own.end());
            behind = gap_end.map(|end| Behind { end, roots: stretch.kind != RootKind::Damaged });
        }
        (missing, behind)
    }
}

/// A gap that goes on after a chunk.
#[derive(Clone, Copy, Default)]
struct Behind {
    /// Where it ends.
    end: u64,
    /// Whether it is of roots, and not of a heap whose blocks are not known.
    roots: bool,
}

/// What the words of roots are scanned with.
struct Scan<'s, N> {
    memory: &'s dyn Memory,
    index: &'s Index<'s>,
    heuristics: &'s Heuristics,
    /// Lets pass the words that may matter.
    near: &'s N,
}

impl<N: Fn(u64) -> bool> Scan<'_, N> {
    /// Hands over the block that a word with this value holds and, within a call of the allocator, the one
    /// whose header it points at.
    fn each(
        &self,
        (cursor, look): (&mut Cursor, &mut Look<'_, '_>),
        value: u64,
        leftovers: bool,
        in_call: bool,
        mut take: impl FnMut(Hit, Link),
    ) {
        let hit = (self.near)(value).then(|| self.index.find(cursor, value)).flatten();
        if let Some((hit, link)) = hit.and_then(|hit| Some((hit, look.holds(&hit, leftovers)?))) {
            take(hit, link);
        }
        let hit = in_call.then(|| self.index.with_header(value)).flatten();
        if let Some(hit) = hit.filter(|hit| (self.near)(hit.unit.block().start())) {
            take(hit, Link::Start);
        }
    }
}

/// How much of a stack the frames of an allocator's own calls take at most.
///
/// Seen: glibc 2.31 to 2.43 on x86-64, from the caller of `realloc` down to `brk`: 504 bytes.
const INNERMOST: u64 = 1024;

/// The innermost frames of these threads.
fn innermost(threads: &[Thread], in_calls: &[i32]) -> Vec<AddressRange> {
    let own = threads.iter().filter(|thread| in_calls.binary_search(&thread.id).is_ok());
    let frames = own.filter_map(|thread| Some(AddressRange::saturating(thread.stack_pointer?, INNERMOST)));
    AddressRange::merge(frames.collect())
}

fn registers(thread: &Thread, vector: bool, in_calls: &[i32]) -> Vec<RegisterRoot> {
    let in_call = in_calls.binary_search(&thread.id).is_ok();
    let of = |kind: RootKind| {
        move |register: &Register| RegisterRoot {
            thread: thread.id,
            name: register.name.to_string(),
            value: register.value,
            kind,
            in_call,
        }
    };
    let general = thread.registers.general.iter().map(of(RootKind::Register));
    let others = thread.registers.vector.iter().filter(|_| vector).map(of(RootKind::VectorRegister));
    general.chain(others).collect()
}
