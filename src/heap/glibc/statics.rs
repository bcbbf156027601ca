//! Static variables of threads that lead to blocks, and where these variables lie.

use std::collections::BTreeMap;

use crate::peek::Peek;
use crate::source::nptl::ControlBlock;

/// Where a thread's static variable lies: how far from its control block, and whose it is.
pub(super) type TlsSlot = (u64, Option<i32>);

/// The words among threads' static variables, and where each stands.
pub(super) fn statics(peek: &Peek<'_>, threads: &[ControlBlock]) -> BTreeMap<u64, Vec<TlsSlot>> {
    let format = peek.format();
    let mut words: BTreeMap<u64, Vec<TlsSlot>> = BTreeMap::new();
    for thread in threads {
        let mut bytes = Vec::new();
        let _ = peek.memory().append(thread.statics, &mut bytes);
        for (at, word) in (thread.statics.start()..).step_by(format.size).zip(bytes.chunks_exact(format.size))
        {
            if let Some(word) = format.read(word).filter(|word| *word != 0) {
                words.entry(word).or_default().push((thread.address.wrapping_sub(at), thread.id));
            }
        }
    }
    words
}

/// Returns which blocks the static variables of threads point at.
///
/// `looks` yields each candidate's address and whether it looks like a cache in use. The variable
/// has one place in every thread: the place is that from which most threads lead to a candidate,
/// one in use first.
pub(super) fn led_to(
    statics: &BTreeMap<u64, Vec<TlsSlot>>,
    looks: impl Iterator<Item = (u64, bool)>,
) -> (BTreeMap<u64, Option<i32>>, Option<u64>) {
    // By the distance from the control block: how many full ones, and all.
    let mut places: BTreeMap<u64, (usize, BTreeMap<u64, Option<i32>>)> = BTreeMap::new();
    for (at, like) in looks {
        for (distance, thread) in statics.get(&at).into_iter().flatten() {
            let (full, led) = places.entry(*distance).or_default();
            *full = full.saturating_add(usize::from(like));
            led.insert(at, *thread);
        }
    }
    let best = places.into_iter().max_by_key(|(place, (full, led))| {
        // A stack may lie right below the variables, with copies of what they hold.
        (*full, led.len(), std::cmp::Reverse((*place).min(place.wrapping_neg())))
    });
    best.map(|(place, (_, led))| (led, Some(place))).unwrap_or_default()
}

/// Whether the variable at that distance from the control block leads to no cache in some thread.
///
/// glibc 2.43, malloc/malloc.c, `tcache_set_disabled`: instead of 0 it is the address of a constant
/// in the program's file or that of libc, `__tcache_dummy`.
pub(super) fn without(peek: &mut Peek<'_>, threads: &[ControlBlock], place: u64) -> bool {
    threads.iter().any(|thread| {
        peek.word(thread.address.wrapping_sub(place)).is_some_and(|leads| {
            let region = peek.memory().region_at(leads);
            leads == 0 || region.is_some_and(|region| !region.anonymous() && !region.permissions.writable())
        })
    })
}
