//! Threads that ended and that no other thread joined: glibc keeps their stacks for ever.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Error;
use crate::memory::{Memory, RegionKind};
use crate::pages;
use crate::pass::Job;
use crate::peek::Peek;
use crate::range::AddressRange;
use crate::source::nptl::{self, Stack};
use crate::source::{Target, Thread};

/// A thread that ended and was neither joined nor detached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unjoined {
    /// The stack that it holds.
    pub stack: Stack,
    /// The function that it began with.
    pub start: Option<u64>,
}

/// The link between the control blocks of threads, within each.
///
/// glibc 2.31 to 2.43 on x86-64, nptl/descr.h, `struct pthread`, `list`. It is the member before `tid`.
const LIST: u64 = 0x2c0;
/// `cancelhandling`, likewise.
const CANCELHANDLING: u64 = 0x308;
/// The thread is ending (nptl/descr.h, `EXITING_BITMASK`).
const EXITING: u64 = 0x10;
/// Its stack was given back to glibc by `pthread_join`, or by its own end where it is detached
/// (nptl/descr.h, `TERMINATED_BITMASK`; set by `__nptl_free_tcb`).
const TERMINATED: u64 = 0x20;
/// Where `start_routine` may be: up to 2.41 at the first place, where 2.42 and later have integers.
const STARTS: [u64; 2] = [0x638, 0x640];
/// How far apart the heads of the lists are, which are neighbours from 2.34 on
/// (sysdeps/generic/ldsodefs.h, `_dl_stack_used`, `_dl_stack_user`, `_dl_stack_cache`).
const HEADS: u64 = 16;
/// How many links are followed: memory that loops, or holds more threads than any system, ends.
const MOST: usize = 1 << 20;

/// Threads that ended, were not joined, and began with the same function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Group {
    /// The function; `None` where it is not known.
    pub start: Option<u64>,
    /// How many threads.
    pub threads: u64,
    /// The bytes that their stacks may use.
    pub size: u64,
    /// How many of these bytes hold anything; `None` where that is not known.
    pub held: Option<u64>,
}

/// The threads that ended and were not joined, by the functions that they began with.
///
/// Those whose stacks hold most come first.
///
/// # Errors
///
/// [`Error::Interrupted`] when the job was stopped.
pub fn groups(target: &Target, threads: &[Thread], job: &Job) -> Result<Vec<Group>, Error> {
    let memory = target.memory.as_ref();
    let mut ranges: BTreeMap<Option<u64>, Vec<AddressRange>> = BTreeMap::new();
    for thread in unjoined(target, threads, job)? {
        ranges.entry(thread.start).or_default().push(thread.stack.usable());
    }
    let mut groups = Vec::with_capacity(ranges.len());
    for (start, stacks) in ranges {
        let held = match pages::resident(memory, &stacks, job)? {
            None if memory.lends() => Some(pages::not_zero(memory, &stacks, job)?),
            resident => resident,
        };
        let size = stacks.iter().fold(0_u64, |sum, range| sum.saturating_add(range.len()));
        groups.push(Group { start, threads: stacks.len() as u64, size, held });
    }
    groups.sort_by_key(|group| std::cmp::Reverse((group.held, group.threads)));
    Ok(groups)
}

/// The threads that ended and were not joined, by where their stacks start.
///
/// Empty where the structure is not known: on all machines but x86-64.
///
/// # Errors
///
/// [`Error::Interrupted`] when the job was stopped.
pub fn unjoined(target: &Target, threads: &[Thread], job: &Job) -> Result<Vec<Unjoined>, Error> {
    let memory = target.memory.as_ref();
    let mut peek = Peek::new(memory);
    if peek.size() != 8 || target.origin.architecture.as_deref() != Some("x86_64") {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for address in control_blocks(memory, &mut peek, threads, job)? {
        job.check()?;
        found.extend(unjoined_at(memory, &mut peek, address));
    }
    found.sort_unstable_by_key(|thread| thread.stack.range.start());
    found.dedup_by_key(|thread| thread.stack.range.start());
    Ok(found)
}

/// What the control block at `address` says, if its thread ended and holds its stack.
///
/// The kernel clears the number of a thread when nothing runs on its stack any more. A stack that
/// the program gave to a thread is the program's; glibc notes no guard for it.
fn unjoined_at(memory: &dyn Memory, peek: &mut Peek<'_>, address: u64) -> Option<Unjoined> {
    if nptl::id_at(peek, address)? != 0 {
        return None;
    }
    let flags = integer(peek, address.checked_add(CANCELHANDLING)?)?;
    if flags & (EXITING | TERMINATED) != EXITING {
        return None;
    }
    let stack = nptl::stack_of(memory, address).filter(|stack| stack.guard > 0)?;
    let start = STARTS.iter().find_map(|offset| {
        let place = peek.word(address.checked_add(*offset)?)?;
        memory.region_at(place).filter(|region| region.permissions.executable()).map(|_| place)
    });
    Some(Unjoined { stack, start })
}

/// The control blocks of all threads that glibc lists.
///
/// Each is a link of a list that leads from one to the next, and through a head that the loader has.
fn control_blocks(
    memory: &dyn Memory,
    peek: &mut Peek<'_>,
    threads: &[Thread],
    job: &Job,
) -> Result<BTreeSet<u64>, Error> {
    let mut waiting: Vec<u64> = threads.iter().filter_map(|thread| thread.thread_pointer).collect();
    for region in memory.regions().iter().filter(|region| region.kind == RegionKind::ThreadStack) {
        job.check()?;
        waiting.extend(nptl::own_addresses(memory, region.range));
    }
    let mut blocks = BTreeSet::new();
    let mut heads = BTreeSet::new();
    for _ in 0..MOST {
        job.check()?;
        let Some(address) = waiting.pop() else { break };
        if nptl::address_is_own(peek, address) {
            if blocks.insert(address) {
                waiting.extend(linked(peek, address.saturating_add(LIST)));
            }
            continue;
        }
        // The head of a list, which is not part of a control block.
        let head = address.saturating_add(LIST);
        for place in [head.saturating_sub(HEADS), head, head.saturating_add(HEADS)] {
            if heads.insert(place) {
                waiting.extend(linked(peek, place));
            }
        }
    }
    Ok(blocks)
}

/// The control blocks, or heads less [`LIST`], that the links at `place` lead to, where these lead back.
fn linked(peek: &mut Peek<'_>, place: u64) -> Vec<u64> {
    let mut led = Vec::new();
    for (out, back) in [(0, 1), (1, 0)] {
        let Some(other) = peek.word_at(place, out) else { continue };
        if other != place && other % 8 == 0 && peek.word_at(other, back) == Some(place) {
            led.extend(other.checked_sub(LIST));
        }
    }
    led
}

/// The 4 bytes at `address` as a number.
fn integer(peek: &mut Peek<'_>, address: u64) -> Option<u64> {
    let order = peek.format().order;
    peek.bytes(address, 4).map(|bytes| order.value(bytes))
}
