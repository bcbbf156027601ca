//! The control blocks of threads, those that live and those that ended.

use crate::error::Error;
use crate::memory::{Buffer, Memory};
use crate::pass::{self, Chunk, Job};
use crate::peek::Peek;
use crate::range::AddressRange;
use crate::source::Thread;
use crate::source::nptl::{self, STRUCT_PTHREAD, Stack};

use super::words;

/// A control block with what it says.
pub(super) struct Owner {
    address: u64,
    pub stack: Option<Stack>,
    /// What stands where the thread's number does.
    pub id: Option<i32>,
    /// The thread, where its registers name this control block.
    pub thread: Option<i32>,
    /// Whether it shows its own address, and static variables lie below it.
    pub below: bool,
}

impl Owner {
    /// The control block with the static variables beside it.
    pub(super) fn statics(&self, bytes: u64) -> AddressRange {
        let before = if self.below { bytes } else { STRUCT_PTHREAD };
        let start = self.address.saturating_sub(before);
        let end = if self.below { STRUCT_PTHREAD } else { bytes.saturating_add(16) };
        AddressRange::saturating(start, self.address.saturating_add(end).saturating_sub(start))
    }
}

/// All control blocks, by where their stacks start.
pub(super) struct Owners(Vec<Owner>);

impl Owners {
    /// Those that registers of `threads` name, and those in `anonymous` that show their own address.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when the job was stopped.
    pub(super) fn find(
        memory: &dyn Memory,
        threads: &[Thread],
        anonymous: &[AddressRange],
        job: &Job,
    ) -> Result<Self, Error> {
        let named = threads.iter().filter_map(|thread| Some((thread.thread_pointer?, Some(thread.id))));
        let mut known: Vec<(u64, Option<i32>)> = named.filter(|(address, _)| *address != 0).collect();
        known.extend(own_addresses(memory, anonymous, job)?.into_iter().map(|address| (address, None)));
        known.sort_unstable_by_key(|(address, id)| (*address, id.is_none()));
        known.dedup_by_key(|(address, _)| *address);
        let mut peek = Peek::new(memory);
        let mut owners = Vec::with_capacity(known.len());
        for (address, thread) in known {
            job.check()?;
            owners.push(Owner {
                address,
                stack: nptl::stack_of(memory, address),
                below: nptl::address_is_own(&mut peek, address),
                id: nptl::id_at(&mut peek, address),
                thread,
            });
        }
        owners.sort_by_key(Self::start);
        Ok(Self(owners))
    }

    fn start(owner: &Owner) -> u64 {
        owner.stack.map_or(0, |stack| stack.range.start())
    }

    pub(super) fn all(&self) -> &[Owner] {
        &self.0
    }

    /// Whose stack holds `pointer`, and that stack.
    ///
    /// Of stacks that overlap, as only damage makes them, the one that starts last is asked.
    pub(super) fn of_stack(&self, pointer: u64) -> Option<(&Owner, Stack)> {
        let behind = self.0.partition_point(|owner| Self::start(owner) <= pointer);
        let owner = self.0.get(behind.checked_sub(1)?)?;
        let stack = owner.stack.filter(|stack| stack.range.contains(pointer))?;
        Some((owner, stack))
    }
}

/// Where memory looks like a control block that shows its own address (x86, s390x).
///
/// Neighbouring mappings merge, so that such a block may lie anywhere in a region.
fn own_addresses(memory: &dyn Memory, anonymous: &[AddressRange], job: &Job) -> Result<Vec<u64>, Error> {
    const ALIGN: u64 = 16;
    let format = memory.word_format();
    let work = |chunk: &Chunk, buffer: &mut Buffer| {
        let mut own = Vec::new();
        let behind = words::pieces(memory, chunk.own, buffer, |at, content| {
            let near = |value: u64| value % ALIGN == 0 && at.contains(value);
            words::each(format, at.start(), content.bytes(), near, |address, value| {
                if address == value {
                    own.push(value);
                }
            });
        });
        (own, behind)
    };
    let mut found = Vec::new();
    pass::in_order(memory, anonymous, pass::CHUNK, job, work, |_, (own, behind)| {
        found.extend(own);
        Ok(behind)
    })?;
    let mut peek = Peek::new(memory);
    found.retain(|address| nptl::address_is_own(&mut peek, *address));
    Ok(found)
}
