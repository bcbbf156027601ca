//! Why a chunk is taken for what it is, in words.

use crate::heap::block::{State, Unit};
use crate::memory::Memory;
use crate::peek::Peek;

use super::Glibc;
use super::chunk::Chunk;
use super::free_lists;

/// The reason for the state of unit `index`.
pub(super) fn reason(heap: &Glibc, memory: &dyn Memory, index: usize) -> String {
    let Some(unit) = heap.blocks.unit(index) else { return String::new() };
    let machine = heap.layout.machine;
    match unit.state {
        State::Used if unit.arena.is_none() && header_missing(memory, unit) => {
            "mapped on its own: its header cannot be read, and malloc counts one more block that is as large as \
             what is mapped here"
                .to_owned()
        }
        State::Used if unit.arena.is_none() => {
            "mapped on its own: IS_MMAPPED is set, and its sizes are whole pages".to_owned()
        }
        State::Used => used(heap, memory, unit),
        State::Allocator => match thread_of(heap, unit.index) {
            Some(thread) => {
                format!("the cache (tcache) of thread {thread}: its counts and lists agree")
            }
            None => "the cache (tcache) of a thread: its counts and lists agree".to_owned(),
        },
        State::Tcache => in_cache(heap, unit),
        State::Fast => format!("in fastbin {}", machine.fast_bin(unit.range.len())),
        State::Unsorted => "on the unsorted list, and the next chunk's PREV_INUSE is clear".to_owned(),
        State::Small | State::Large => {
            let list = free_lists::name(machine.bin(unit.range.len()));
            format!("in {list}, and the next chunk's PREV_INUSE is clear")
        }
        State::Unlisted => "the next chunk's PREV_INUSE is clear, and no list leads here".to_owned(),
        State::Top => "the arena's top chunk: new blocks are cut from it".to_owned(),
        State::Overhead => {
            "no block: a header of malloc's, marks at the end of a heap, or what alignment left".to_owned()
        }
        State::Foreign => "between two parts of the main arena: somebody else called sbrk".to_owned(),
        State::Damaged => damaged(heap, unit),
        State::Unreadable => unreadable(heap, unit),
    }
}

fn damaged(heap: &Glibc, unit: Unit) -> String {
    let met = heap.harm.named.iter().find(|damage| unit.range.contains(damage.address));
    match met {
        Some(damage) => format!("no chunk can be told here: at {:#x} {}", damage.address, damage.rule),
        None => "no chunk can be told here".to_owned(),
    }
}

/// Whether not even the first bytes of a mapping of its own can be read.
fn header_missing(memory: &dyn Memory, unit: Unit) -> bool {
    let mut peek = Peek::new(memory);
    Chunk::read(&mut peek, unit.range.start()).is_none()
}

fn unreadable(heap: &Glibc, unit: Unit) -> String {
    let named = heap.unread.named.iter().find(|(range, _)| range.start() == unit.range.start());
    let cause = named.map_or_else(String::new, |(_, cause)| format!(": {cause}"));
    format!("headers of chunks cannot be read here{cause}")
}

fn used(heap: &Glibc, memory: &dyn Memory, unit: Unit) -> String {
    let mut peek = Peek::new(memory);
    let next = Chunk::read(&mut peek, unit.range.end());
    let free = "it is in no thread's cache and in no fastbin";
    let free = if heap.layout.fast { free } else { "it is in no thread's cache" };
    match next {
        Some(next) if !next.previous_in_use() && next.previous != unit.range.len() => format!(
            "the next chunk's PREV_INUSE is clear, but its prev_size {:#x} is not this chunk's size, and no list leads here",
            next.previous
        ),
        Some(next) if next.previous_in_use() => format!("the next chunk's PREV_INUSE is set, and {free}"),
        _ => format!("nothing says that it is free: {free}"),
    }
}

/// The thread whose cache unit `index` is, where it could be told.
fn thread_of(heap: &Glibc, index: usize) -> Option<i32> {
    let caches = heap.caches.as_ref()?;
    caches.found.iter().find(|cache| cache.unit == index)?.thread
}

fn in_cache(heap: &Glibc, unit: Unit) -> String {
    let machine = heap.layout.machine;
    let Some(caches) = &heap.caches else { return "in a thread's cache (tcache)".to_owned() };
    // What was mapped on its own is larger than its size says.
    let size = Some(unit.range.len()).filter(|_| unit.arena.is_some());
    let bin = size
        .and_then(|size| caches.layout.bin(machine, size))
        .map_or_else(String::new, |bin| format!(" bin {bin}"));
    let held = &heap.followed.held;
    let cache = u32::try_from(unit.index).ok().and_then(|index| {
        let at = held.binary_search_by_key(&index, |(unit, _)| *unit).ok()?;
        held.get(at)
    });
    let cache = cache.and_then(|(_, cache)| caches.found.get(usize::try_from(*cache).ok()?));
    match cache {
        Some(cache) => match cache.thread {
            Some(thread) => format!("in tcache{bin} of thread {thread}"),
            None => format!("in tcache{bin} of the thread whose cache is at {:#x}", cache.address),
        },
        None => format!("in tcache{bin}"),
    }
}
