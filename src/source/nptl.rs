//! Threads of glibc as their own structures show them: control blocks, stacks, static variables.
//!
//! `struct pthread` stands where a thread's pointer register points (x86, s390x) or ends
//! there; its parts have no symbols, so each is told by what it has to look like.

use crate::memory::{Memory, RegionKind};
use crate::peek::Peek;
use crate::range::AddressRange;
use crate::source::Thread;
use crate::source::elf;

/// The control block of a thread, and where its static variables are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ControlBlock {
    /// The address that the thread's pointer register holds.
    pub address: u64,
    /// The thread's number in the system, where it could be told.
    pub id: Option<i32>,
    /// Where its static variables may lie.
    pub statics: AddressRange,
}

/// The memory that a thread was given to run on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stack {
    /// All of it, guard, static variables and control block included.
    pub range: AddressRange,
    /// How many bytes at its start may not be used.
    pub guard: u64,
}

impl Stack {
    /// What of it frames, static variables and the control block may use.
    #[must_use]
    pub fn usable(&self) -> AddressRange {
        let start = self.range.start().saturating_add(self.guard);
        AddressRange::saturating(start, self.range.end().saturating_sub(start))
    }
}

/// Regions larger than this are looked at near their end only.
const WHOLE: u64 = 256 << 10;
const TAIL: u64 = 64 << 10;

/// Static variables may lie this far from the control block.
const REACH: u64 = 64 << 10;

/// No version's `struct pthread` is longer (0x900 bytes in 2.36 on x86-64).
pub const STRUCT_PTHREAD: u64 = 0xa00;

/// All control blocks, from registers where they are known and from memory where they are not.
#[must_use]
pub fn control_blocks(memory: &dyn Memory, threads: &[Thread]) -> Vec<ControlBlock> {
    let mut peek = Peek::new(memory);
    let known = threads.iter().filter_map(|thread| Some((thread.thread_pointer?, Some(thread.id))));
    let mut found: Vec<(u64, Option<i32>)> = known.filter(|(address, _)| *address != 0).collect();
    if found.len() < threads.len().max(1) {
        let ids: Vec<i32> = threads.iter().map(|thread| thread.id).collect();
        let id = |peek: &mut Peek<'_>, address| id_at(peek, address).filter(|id| ids.contains(id));
        found.extend(in_memory(memory).into_iter().map(|address| (address, id(&mut peek, address))));
    }
    found.sort_unstable_by_key(|(address, id)| (*address, id.is_none()));
    found.dedup_by_key(|(address, _)| *address);
    let block = |(address, id): (u64, Option<i32>)| {
        let region = memory.region_at(address)?;
        let own = address_is_own(&mut peek, address);
        // x86 and s390x have the variables below the control block, others above it.
        let statics = if own {
            let start = address.saturating_sub(REACH).max(region.range.start());
            AddressRange::new(start, address).ok()?
        } else {
            let end = address.saturating_add(REACH).min(region.range.end());
            AddressRange::new(address, end).ok()?
        };
        Some(ControlBlock { address, id, statics })
    };
    found.into_iter().filter_map(block).collect()
}

/// Whether the first word of the control block is its own address.
///
/// glibc, `sysdeps/x86_64/nptl/tls.h` and `sysdeps/i386/nptl/tls.h`, `tcbhead_t`: `tcb` and, two words on, `self`.
pub fn address_is_own(peek: &mut Peek<'_>, address: u64) -> bool {
    peek.word(address) == Some(address) && peek.word_at(address, 2) == Some(address)
}

/// Control blocks that show their own address, in regions where they may lie.
fn in_memory(memory: &dyn Memory) -> Vec<u64> {
    let kinds = [RegionKind::ThreadStack, RegionKind::Anon];
    let regions = memory
        .regions()
        .iter()
        .filter(|region| kinds.contains(&region.kind) && region.permissions.writable());
    regions.flat_map(|region| own_addresses(memory, region.range)).collect()
}

/// Control blocks in a region that show their own address; of a large region those near its end.
pub(super) fn own_addresses(memory: &dyn Memory, region: AddressRange) -> Vec<u64> {
    let format = memory.word_format();
    let length = if region.len() <= WHOLE { region.len() } else { TAIL };
    let start = region.end().saturating_sub(length);
    let mut bytes = Vec::new();
    // Regions in the holes of a core cost nothing: there may be many.
    let start = start.saturating_add(memory.zeros(AddressRange::saturating(start, length)) & !15);
    let length = region.end().saturating_sub(start);
    let _ = memory.append(AddressRange::saturating(start, length), &mut bytes);
    let places = (start..).step_by(16).zip(bytes.chunks_exact(16));
    let own = places.filter(|(address, block)| format.read(block) == Some(*address));
    own.map(|(address, _)| address)
        .filter(|address| address_is_own(&mut Peek::new(memory), *address))
        .collect()
}

/// The number of the thread whose control block lies at `address`; zero or less once it ended.
///
/// glibc 2.17 to 2.43, nptl/descr.h, `struct pthread`: `tid` lies behind the header and a list;
/// at 0x2d0 on x86-64, at 0x68 on i386. The kernel writes zero there when the thread
/// ends (`CLONE_CHILD_CLEARTID`), `pthread_join` -1; a stack may be given to another
/// thread where it is not above zero (nptl/nptl-stack.h, `FREE_P`).
pub fn id_at(peek: &mut Peek<'_>, address: u64) -> Option<i32> {
    let offset = if peek.size() == 8 { 0x2d0 } else { 0x68 };
    let order = peek.format().order;
    let bytes = peek.bytes(address.checked_add(offset)?, 4)?;
    let bits = u32::try_from(order.value(bytes)).ok()?;
    Some(i32::from_ne_bytes(bits.to_ne_bytes()))
}

/// The stack that the thread with its control block at `at` was given.
///
/// glibc 2.17 to 2.43, nptl/descr.h, `struct pthread`: `stackblock`,
/// `stackblock_size`, `guardsize` are neighbours whose place depends on the
/// version; the block holds the control block itself.
pub fn stack_of(memory: &dyn Memory, at: u64) -> Option<Stack> {
    let format = memory.word_format();
    let mut bytes = Vec::new();
    // Where the pointer leads to the end of the structure it lies below (aarch64, arm, powerpc, riscv).
    let own = address_is_own(&mut Peek::new(memory), at);
    let start = if own { at } else { at.saturating_sub(STRUCT_PTHREAD) };
    let _ = memory.append(AddressRange::saturating(start, STRUCT_PTHREAD), &mut bytes);
    let words: Vec<u64> = bytes.chunks_exact(format.size).filter_map(|word| format.read(word)).collect();
    let fits = |triple: &[u64]| match triple {
        [start, size, guard] => {
            let aligned = *start != 0 && (start | size | guard) % 0x1000 == 0;
            let range = AddressRange::saturating(*start, *size);
            (aligned && guard < size && range.contains(at)).then_some(Stack { range, guard: *guard })
        }
        _ => None,
    };
    words.windows(3).find_map(fits)
}

/// How many bytes the static variables of one thread take at least, over all modules.
///
/// The loader adds some for libraries that are loaded later.
#[must_use]
pub fn static_bytes(memory: &dyn Memory) -> u64 {
    let modules = memory.regions().iter().filter(|region| !region.anonymous() && region.file_offset == 0);
    let mut sum = 0_u64;
    for region in modules {
        let Some(image) = elf::image_at(memory, region.range.start()) else { continue };
        let Some(tls) = image.thread_local() else { continue };
        let align = tls.align.clamp(1, 4096);
        sum = sum.saturating_add(tls.memory_size.min(1 << 30));
        sum = sum.checked_next_multiple_of(align).unwrap_or(sum);
    }
    sum
}
