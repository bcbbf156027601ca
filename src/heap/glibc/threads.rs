//! The control blocks of threads, which their static variables lie beside.

use crate::memory::{Memory, RegionKind};
use crate::peek::Peek;
use crate::range::AddressRange;
use crate::source::Thread;

/// Where a thread's control block and its static variables are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ControlBlock {
    /// The address that the thread's pointer register holds.
    pub address: u64,
    /// The thread's number in the system, where it could be told.
    pub id: Option<i32>,
    /// Where its static variables may lie.
    pub statics: AddressRange,
}

/// Regions larger than this are looked at near their end only.
const WHOLE: u64 = 256 << 10;
const TAIL: u64 = 64 << 10;

/// Static variables may lie this far from the control block.
const REACH: u64 = 64 << 10;

/// All control blocks, from registers where they are known and from memory where they are not.
pub(super) fn control_blocks(memory: &dyn Memory, threads: &[Thread]) -> Vec<ControlBlock> {
    let mut peek = Peek::new(memory);
    let known = threads.iter().filter_map(|thread| Some((thread.thread_pointer?, Some(thread.id))));
    let mut found: Vec<(u64, Option<i32>)> = known.filter(|(address, _)| *address != 0).collect();
    if found.len() < threads.len().max(1) {
        let ids: Vec<i32> = threads.iter().map(|thread| thread.id).collect();
        found.extend(in_memory(memory).into_iter().map(|address| (address, id_at(&mut peek, address, &ids))));
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
fn address_is_own(peek: &mut Peek<'_>, address: u64) -> bool {
    peek.word(address) == Some(address) && peek.word_at(address, 2) == Some(address)
}

/// Control blocks that show their own address, in regions where they may lie.
fn in_memory(memory: &dyn Memory) -> Vec<u64> {
    let format = memory.word_format();
    let kinds = [RegionKind::ThreadStack, RegionKind::Anon];
    let regions = memory
        .regions()
        .iter()
        .filter(|region| kinds.contains(&region.kind) && region.permissions.writable());
    let mut found = Vec::new();
    for region in regions {
        let whole = region.range.len() <= WHOLE;
        let length = if whole { region.range.len() } else { TAIL };
        let start = region.range.end().saturating_sub(length);
        let mut bytes = Vec::new();
        let _ = memory.append(AddressRange::saturating(start, length), &mut bytes);
        for (address, block) in (start..).step_by(16).zip(bytes.chunks_exact(16)) {
            if format.read(block) != Some(address) {
                continue;
            }
            if address_is_own(&mut Peek::new(memory), address) {
                found.push(address);
            }
        }
    }
    found
}

/// Which of the threads the control block at `address` is of.
///
/// glibc 2.17 to 2.43, nptl/descr.h, `struct pthread`: `tid` lies behind the header and a list;
/// at 0x2d0 on x86-64, at 0x68 on i386. Believed only where it is the number of a thread.
fn id_at(peek: &mut Peek<'_>, address: u64, ids: &[i32]) -> Option<i32> {
    let offset = if peek.size() == 8 { 0x2d0 } else { 0x68 };
    let order = peek.format().order;
    let bytes = peek.bytes(address.checked_add(offset)?, 4)?;
    let id = i32::try_from(order.value(bytes)).ok()?;
    ids.contains(&id).then_some(id)
}
