//! Which part of each thread's stack is alive.
//!
//! A stack is alive from the stack pointer to its end, but for words that no code touches
//! ([`crate::unwind`]). What lies below was used by calls that returned. The stacks of threads
//! that ended are kept by glibc for the next ones, with all that stood in them: they are
//! dead where the thread's control block shows that it ended. Whatever cannot be told counts
//! as alive, and is said.

use crate::error::Error;
use crate::memory::{Memory, RegionKind};
use crate::pass::{self, Chunk, Job};
use crate::peek::Peek;
use crate::range::AddressRange;
use crate::source::Thread;
use crate::source::nptl::{self, STRUCT_PTHREAD, Stack};
use crate::unwind;
use crate::word::ByteOrder;

use super::words;

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
    /// Parts that nobody will read again; in address order.
    pub dead: Vec<AddressRange>,
    /// How many stacks of ended threads are among these, and their bytes.
    pub ended: (u64, u64),
    /// How many bytes of these are in frames that are alive.
    pub untouched: u64,
    pub notes: Vec<String>,
}

/// A control block with what it says.
struct Owner {
    address: u64,
    stack: Option<Stack>,
    /// What stands where the thread's number does.
    id: Option<i32>,
    /// The thread, where its registers name this control block.
    thread: Option<i32>,
    /// Whether its static variables lie below it.
    below: bool,
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
    let owners = owners(memory, threads, anonymous, job)?;
    let statics = nptl::static_bytes(memory);
    let mut stacks = Stacks::default();
    let mut strangers = 0_u64;
    for thread in threads {
        let Some(pointer) = thread.stack_pointer else { continue };
        let from = pointer.saturating_sub(red);
        if alternate(memory, pointer) {
            // What lies below belongs to frames that a signal interrupted.
            strangers = strangers.saturating_add(1);
            continue;
        }
        let own = owners.iter().find(|owner| owner.stack.is_some_and(|stack| stack.range.contains(pointer)));
        if let Some((owner, stack)) = own.and_then(|owner| Some((owner, owner.stack?))) {
            let start = stack.range.start().saturating_add(stack.guard);
            let end = owner.statics(statics).start().clamp(from.max(start), stack.range.end());
            stacks.own(AddressRange::saturating(from, end.saturating_sub(from)), Part::Stack, thread.id);
            stacks.die(start, lowest(threads, stack.range).unwrap_or(pointer).saturating_sub(red));
            continue;
        }
        match memory.region_at(pointer) {
            Some(region) if region.kind == RegionKind::Stack => {
                let live = AddressRange::saturating(from, region.range.end().saturating_sub(from));
                stacks.own(live, Part::Stack, thread.id);
                let lowest = lowest(threads, region.range).unwrap_or(pointer);
                stacks.die(region.range.start(), lowest.saturating_sub(red));
            }
            _ => strangers = strangers.saturating_add(1),
        }
    }
    for owner in &owners {
        let listed = || owner.id.filter(|id| threads.iter().any(|thread| thread.id == *id));
        let name = owner.thread.or_else(listed);
        if let Some(id) = name {
            stacks.own(owner.statics(statics), Part::Statics, id);
        }
    }
    stacks.end(&owners, threads, statics);
    stacks.lost(&owners);
    let untouched = unwind::dead_slots(memory, threads, job)?;
    stacks.untouched = untouched.iter().map(|range| range.len()).sum();
    stacks.dead.extend(untouched);
    if strangers > 0 {
        stacks.notes.push(format!(
            "{strangers} of {} threads run on stacks that are not those they were given (a signal's, a coroutine's): \
             these count as a whole",
            threads.len()
        ));
    }
    stacks.owned.sort_unstable_by_key(|(range, ..)| *range);
    stacks.dead = AddressRange::merge(std::mem::take(&mut stacks.dead));
    Ok(stacks)
}

/// Whether a signal's handler runs at `pointer` on a stack of its own (`sigaltstack`).
///
/// Folklore: that stack may be an array in a frame of the very thread, so that what lies
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

/// The lowest stack pointer within a range.
///
/// Several threads may stand on one stack: nothing that one of them uses is dead.
fn lowest(threads: &[Thread], range: AddressRange) -> Option<u64> {
    threads.iter().filter_map(|thread| thread.stack_pointer).filter(|at| range.contains(*at)).min()
}

impl Owner {
    /// The control block with the static variables beside it.
    fn statics(&self, bytes: u64) -> AddressRange {
        let before = if self.below { bytes } else { STRUCT_PTHREAD };
        let start = self.address.saturating_sub(before);
        let end = if self.below { STRUCT_PTHREAD } else { bytes.saturating_add(16) };
        AddressRange::saturating(start, self.address.saturating_add(end).saturating_sub(start))
    }
}

impl Stacks {
    fn own(&mut self, range: AddressRange, part: Part, thread: i32) {
        if !range.is_empty() {
            self.owned.push((range, part, thread));
        }
    }

    fn die(&mut self, start: u64, end: u64) {
        self.dead.push(AddressRange::saturating(start, end.saturating_sub(start)));
    }

    /// Finds the stacks of threads that ended, where that can be told.
    ///
    /// A thread that ended has zero or -1 where its number stood. That place is believed where
    /// a thread that lives has its own number there. A stack that the program gave to a
    /// thread is the program's again, and glibc notes no guard for it (nptl/allocatestack.c).
    /// Static variables and the control block stay alive, as for valgrind: the next thread
    /// takes them over, and with them the loader's blocks for its static variables.
    fn end(&mut self, owners: &[Owner], threads: &[Thread], statics: u64) {
        let told = owners.iter().any(|owner| owner.thread.is_some() && owner.thread == owner.id);
        let lives = |stack: &Stack| {
            threads
                .iter()
                .filter_map(|thread| thread.stack_pointer)
                .any(|pointer| stack.range.contains(pointer))
        };
        let mut unsure = 0_u64;
        for owner in owners.iter().filter(|owner| owner.thread.is_none()) {
            let Some(stack) = owner.stack.filter(|stack| !lives(stack)) else { continue };
            let start = stack.range.start();
            let from = start.saturating_add(stack.guard);
            if told && owner.id.is_some_and(|id| id <= 0) && stack.guard > 0 {
                let end = owner.statics(statics).start().clamp(from, stack.range.end());
                self.die(from, end);
                self.ended.0 = self.ended.0.saturating_add(1);
                self.ended.1 = self.ended.1.saturating_add(end.saturating_sub(from));
            } else if owner.id.is_none_or(|id| !threads.iter().any(|thread| thread.id == id)) {
                unsure = unsure.saturating_add(stack.range.end().saturating_sub(from));
            }
        }
        if unsure > 0 {
            self.notes.push(format!(
                "{unsure} bytes of stacks that belong to no thread, and of which nothing shows that their threads \
                 ended, count as alive: blocks that are lost may be held by what is left in them"
            ));
        }
    }
}

impl Stacks {
    /// Says how many threads' memory is not what it was, where their control blocks show it.
    ///
    /// Folklore: gcore stops saving a mapping at the first page that it cannot read, and
    /// the rest of it reads as zeros. Seen: gdb 13.1 on Linux 6.18 with glibc 2.42 and
    /// later, which make the guard of a thread's stack a page within its mapping
    /// (`MADV_GUARD_INSTALL`): all stacks but the main one are lost, static variables too.
    fn lost(&mut self, owners: &[Owner]) {
        // Where some show their own address, all have to.
        let shown = owners.iter().any(|owner| owner.below);
        let lost = owners.iter().filter(|owner| owner.thread.is_some() && !owner.below).count();
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

/// The control blocks of threads, and those that show their own address.
fn owners(
    memory: &dyn Memory,
    threads: &[Thread],
    anonymous: &[AddressRange],
    job: &Job,
) -> Result<Vec<Owner>, Error> {
    let mut known: Vec<(u64, Option<i32>)> = threads
        .iter()
        .filter_map(|thread| Some((thread.thread_pointer.filter(|at| *at != 0)?, Some(thread.id))))
        .collect();
    let shown = own_addresses(memory, anonymous, job)?;
    known.extend(shown.into_iter().map(|address| (address, None)));
    known.sort_unstable_by_key(|(address, id)| (*address, id.is_none()));
    known.dedup_by_key(|(address, _)| *address);
    let mut peek = Peek::new(memory);
    let mut owner = |(address, thread): (u64, Option<i32>)| Owner {
        address,
        stack: nptl::stack_of(memory, address),
        below: nptl::address_is_own(&mut peek, address),
        id: nptl::id_at(&mut peek, address),
        thread,
    };
    Ok(known.into_iter().map(&mut owner).collect())
}

/// Where memory looks like a control block that shows its own address (x86, s390x).
///
/// Neighbouring mappings merge, so that such a block may lie anywhere in a region.
fn own_addresses(memory: &dyn Memory, anonymous: &[AddressRange], job: &Job) -> Result<Vec<u64>, Error> {
    const ALIGN: u64 = 16;
    let format = memory.word_format();
    let work = |chunk: &Chunk, buffer: &mut crate::memory::Buffer| {
        let mut own = Vec::new();
        let (_, behind) = words::pieces(memory, chunk.own, buffer, |at, bytes| {
            let near = |value: u64| value % ALIGN == 0 && at.contains(value);
            words::each(format, at.start(), bytes, near, |address, value| {
                if address == value {
                    own.push(value);
                }
            });
        });
        (own, behind)
    };
    let mut found = Vec::new();
    pass::in_order(anonymous, pass::CHUNK, job, work, |_, (own, behind)| {
        found.extend(own);
        Ok(behind)
    })?;
    let mut peek = Peek::new(memory);
    found.retain(|address| nptl::address_is_own(&mut peek, *address));
    Ok(found)
}
