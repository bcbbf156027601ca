//! Which part of each thread's stack is alive.
//!
//! A stack is alive from the stack pointer to its end, but for words that are dead by data flow
//! ([`crate::unwind`]). What lies below was used by calls that returned. The stacks of threads
//! that ended are kept by glibc for the next ones, with all that stood in them: they are
//! dead where the thread's control block shows that it ended. Whatever cannot be told counts
//! as alive, and is said.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Error;
use crate::memory::{Memory, RegionKind};
use crate::pass::Job;
use crate::range::AddressRange;
use crate::source::Thread;
use crate::source::nptl::{self, Stack};
use crate::unwind::{self, Classes, End};
use crate::word::ByteOrder;

use super::owners::Owners;

/// What a part of memory is to a thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part {
    /// What its stack holds that is alive.
    Stack,
    /// Its control block and static variables.
    Statics,
}

/// The stacks of all threads.
#[derive(Clone, Default, Debug)]
pub(super) struct Stacks {
    /// Parts that belong to a thread, with its number; in address order.
    pub owned: Vec<(AddressRange, Part, i32)>,
    /// Parts that will not be read again; in address order.
    pub dead: Vec<AddressRange>,
    /// How many stacks of ended threads are among these, and their bytes.
    pub ended: (u64, u64),
    /// Words of these that are in frames that are alive, with the number of their thread.
    pub words: Vec<(AddressRange, Option<i32>)>,
    /// General registers that are dead, each with the number of its thread.
    pub registers: Vec<(i32, &'static str)>,
    /// How well the words of frames that are alive are known.
    pub classes: Classes,
    pub notes: Vec<String>,
    /// The stacks that threads run on, by the numbers of these.
    used: BTreeMap<i32, Used>,
}

/// A stack that a thread runs on.
#[derive(Clone, Copy, Debug)]
struct Used {
    pointer: u64,
    /// From where it starts to where frames end in it.
    range: AddressRange,
}

/// The stacks of `threads`; control blocks of others are looked for in `anonymous`.
///
/// `red` is how many bytes below a stack pointer count as alive.
///
/// # Errors
///
/// [`Error::Interrupted`] when the job was stopped.
pub(super) fn stacks(
    memory: &dyn Memory,
    threads: &[Thread],
    anonymous: &[AddressRange],
    red: u64,
    job: &Job,
) -> Result<Stacks, Error> {
    let owners = Owners::find(memory, threads, anonymous, job)?;
    let known = Known::new(threads);
    let statics = nptl::static_bytes(memory);
    let mut stacks = Stacks::default();
    let mut strangers = 0_u64;
    for thread in threads {
        job.check()?;
        let Some(pointer) = thread.stack_pointer else { continue };
        let Some((range, end)) = stack_at(memory, &owners, pointer, statics) else {
            strangers = strangers.saturating_add(1);
            continue;
        };
        let from = pointer.saturating_sub(red).clamp(range.start(), end);
        stacks.own(AddressRange::saturating(from, end.saturating_sub(from)), Part::Stack, thread.id);
        // Several threads may stand on one stack: nothing that one of them uses is dead.
        let lowest = known.lowest(range).unwrap_or(pointer).saturating_sub(red);
        stacks.die(range.start(), lowest);
        let range = AddressRange::saturating(range.start(), end.saturating_sub(range.start()));
        stacks.used.insert(thread.id, Used { pointer, range });
    }
    for owner in owners.all() {
        if let Some(id) = owner.thread.or(owner.id.filter(|id| known.lives(*id))) {
            stacks.own(owner.statics(statics), Part::Statics, id);
        }
    }
    stacks.end(&owners, &known, statics);
    stacks.lost(&owners);
    if strangers > 0 {
        stacks.notes.push(format!(
            "{strangers} of {} threads run on stacks that are not those they were given (a signal's, a coroutine's), \
             or of which nothing tells where they lie: these count as a whole",
            threads.len()
        ));
    }
    stacks.owned.sort_unstable_by_key(|(range, ..)| *range);
    stacks.dead = AddressRange::merge(std::mem::take(&mut stacks.dead));
    Ok(stacks)
}

/// The stack that a thread with its stack pointer at `pointer` runs on, without its guard, and
/// where frames end in it; `None` where what lies below the pointer may be alive.
fn stack_at(memory: &dyn Memory, owners: &Owners, pointer: u64, statics: u64) -> Option<(AddressRange, u64)> {
    if alternate(memory, pointer) {
        return None;
    }
    if let Some((owner, stack)) = owners.of_stack(pointer) {
        let usable = stack.usable();
        let end = owner.statics(statics).start().clamp(usable.start(), usable.end());
        return Some((usable, end));
    }
    let region = memory.region_at(pointer).filter(|region| region.kind == RegionKind::Stack)?;
    Some((region.range, region.range.end()))
}

/// Stack pointers and numbers of the threads that live.
struct Known {
    pointers: Vec<u64>,
    ids: BTreeSet<i32>,
}

impl Known {
    fn new(threads: &[Thread]) -> Self {
        let mut pointers: Vec<u64> = threads.iter().filter_map(|thread| thread.stack_pointer).collect();
        pointers.sort_unstable();
        Self { pointers, ids: threads.iter().map(|thread| thread.id).collect() }
    }

    fn lives(&self, id: i32) -> bool {
        self.ids.contains(&id)
    }

    /// The lowest stack pointer within a range.
    fn lowest(&self, range: AddressRange) -> Option<u64> {
        let first = self.pointers.partition_point(|pointer| *pointer < range.start());
        self.pointers.get(first).copied().filter(|pointer| range.contains(*pointer))
    }
}

/// Whether a signal's handler runs at `pointer` on a stack of its own (`sigaltstack`).
///
/// Observed: that stack may be an array in a frame of the very thread, so that what lies
/// below the handler is alive. Seen: programs that give `sigaltstack` a local array. The
/// kernel leaves a description of it in the signal's frame, above the handler (Linux,
/// include/uapi/asm-generic/ucontext.h, `uc_stack`: where it starts, flags of four
/// bytes, how long it is). Whatever else looks like one only keeps the stack whole.
fn alternate(memory: &dyn Memory, pointer: u64) -> bool {
    const REACH: u64 = 256 << 10;
    /// No smaller one is taken (`MINSIGSTKSZ`).
    const SMALLEST: u64 = 2048;
    /// `SS_ONSTACK` and `SS_DISABLE`, and the sign bit of `SS_AUTODISARM`.
    const FLAGS: u64 = 0x8000_0003;
    let format = memory.word_format();
    let Some(region) = memory.region_at(pointer) else { return false };
    let start = pointer.checked_next_multiple_of(format.size as u64).unwrap_or(pointer);
    let length = region.range.end().saturating_sub(start).min(REACH);
    let mut bytes = Vec::new();
    let _ = memory.append(AddressRange::saturating(start, length), &mut bytes);
    let words: Vec<u64> = bytes.chunks_exact(format.size).filter_map(|word| format.read(word)).collect();
    // On a big-endian machine the flags are the upper half of their word.
    let flags = |word: u64| match format.order {
        ByteOrder::Big if format.size == 8 => word >> 32,
        _ => word & 0xffff_ffff,
    };
    let described = |triple: &[u64]| match triple {
        [start, options, size] => {
            let stack = AddressRange::saturating(*start, *size);
            *size >= SMALLEST
                && flags(*options) & !FLAGS == 0
                && stack.contains(pointer)
                && region.range.covers(stack)
                && stack != region.range
        }
        _ => false,
    };
    words.windows(3).any(described)
}

impl Used {
    /// Whether a chain of frames on it ends below other frames, and not where those of the thread start.
    fn within(&self, memory: &dyn Memory, end: End) -> bool {
        match end {
            End::Unknown => false,
            End::Below => true,
            End::Outermost(pointer) => {
                let above = AddressRange::new(pointer, self.range.end()).ok();
                above.is_some_and(|above| {
                    self.range.contains(pointer) && unwind::has_return_address(memory, above)
                })
            }
        }
    }
}

impl Stacks {
    /// Adds the words of live frames, and the registers, that are dead by data flow.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when the job was stopped.
    pub(super) fn cut_frames(
        &mut self,
        memory: &dyn Memory,
        threads: &[Thread],
        job: &Job,
    ) -> Result<(), Error> {
        let dead = unwind::dead(memory, threads, job)?;
        self.words = dead.slots.iter().map(|range| (*range, self.thread_at(range.start()))).collect();
        self.classes = dead.classes;
        self.dead.extend(dead.slots);
        self.registers = dead.registers;
        self.dead = AddressRange::merge(std::mem::take(&mut self.dead));
        self.revive(memory, threads.len(), &dead.ends);
        Ok(())
    }

    /// Keeps what is below the stack pointers of threads that run on a stack within their own.
    ///
    /// A coroutine's stack may be an array in a frame of the very thread: below it are the frames of the code
    /// that resumed it. Its own frames do not lead to where those of the thread start.
    fn revive(&mut self, memory: &dyn Memory, threads: usize, ends: &[(i32, End)]) {
        let mut below = Vec::new();
        for (id, end) in ends {
            let Some(used) = self.used.get(id).filter(|used| used.within(memory, *end)) else { continue };
            let start = used.range.start();
            below.push(AddressRange::saturating(start, used.pointer.saturating_sub(start)));
        }
        let within = below.len();
        let below = AddressRange::merge(below);
        let dead = std::mem::take(&mut self.dead);
        self.dead = dead.into_iter().flat_map(|range| range.without(range.among(&below))).collect();
        if within > 0 {
            self.notes.push(format!(
                "{within} of {threads} threads run on stacks that the program made within theirs (a coroutine's): these \
                 count as a whole"
            ));
        }
    }

    /// The number of the thread that owns an address.
    fn thread_at(&self, address: u64) -> Option<i32> {
        let after = self.owned.partition_point(|(range, ..)| range.end() <= address);
        self.owned.get(after).filter(|(range, ..)| range.contains(address)).map(|(.., thread)| *thread)
    }

    fn own(&mut self, range: AddressRange, part: Part, thread: i32) {
        if !range.is_empty() {
            self.owned.push((range, part, thread));
        }
    }

    fn die(&mut self, start: u64, end: u64) {
        if start < end {
            self.dead.push(AddressRange::saturating(start, end.saturating_sub(start)));
        }
    }

    /// Finds the stacks of threads that ended, where that can be told.
    ///
    /// A thread that ended has zero or -1 where its number stood. That place is believed where
    /// a thread that lives has its own number there. A stack that the program gave to a
    /// thread is the program's again, and glibc notes no guard for it (nptl/allocatestack.c).
    /// Static variables and the control block stay alive, as for valgrind: the next thread
    /// takes them over, and with them the loader's blocks for its static variables.
    fn end(&mut self, owners: &Owners, known: &Known, statics: u64) {
        let told = owners.all().iter().any(|owner| owner.thread.is_some() && owner.thread == owner.id);
        let mut unsure = 0_u64;
        for owner in owners.all().iter().filter(|owner| owner.thread.is_none()) {
            let unused = |stack: &Stack| known.lowest(stack.range).is_none();
            let Some(stack) = owner.stack.filter(unused) else { continue };
            let usable = stack.usable();
            if told && owner.id.is_some_and(|id| id <= 0) && stack.guard > 0 {
                let end = owner.statics(statics).start().clamp(usable.start(), usable.end());
                self.die(usable.start(), end);
                self.ended.0 = self.ended.0.saturating_add(1);
                self.ended.1 = self.ended.1.saturating_add(end.saturating_sub(usable.start()));
            } else if owner.id.is_none_or(|id| !known.lives(id)) {
                unsure = unsure.saturating_add(usable.len());
            }
        }
        if unsure > 0 {
            self.notes.push(format!(
                "{unsure} bytes of stacks that belong to no thread, and of which nothing shows that their threads \
                 ended, count as alive: blocks that are lost may be held by what is left in them"
            ));
        }
    }

    /// Says how many threads' memory is not what it was, where their control blocks show it.
    ///
    /// Observed: gcore stops saving a mapping at the first page that it cannot read, and
    /// the rest of it reads as zeros. Seen: gdb 13.1 on Linux 6.18 with glibc 2.42 and
    /// later, which make the guard of a thread's stack a page within its mapping
    /// (`MADV_GUARD_INSTALL`): all stacks but the main one are lost, static variables too.
    fn lost(&mut self, owners: &Owners) {
        // Where some show their own address, all have to.
        let shown = owners.all().iter().any(|owner| owner.below);
        let lost = owners.all().iter().filter(|owner| owner.thread.is_some() && !owner.below).count();
        if shown && lost > 0 {
            self.notes.insert(
                0,
                format!(
                    "the stacks and static variables of {lost} threads read as zeros (gcore could not save them; \
                     a core by the kernel has them): blocks that only they hold seem lost"
                ),
            );
        }
    }
}
